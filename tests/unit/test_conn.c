/* test_conn.c - one byte stream over a socket pair: rests, pauses, limits, partial writes, the end;
 * and the FIFO of owed replies on top of it. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "caller.h"

static struct loop loop;
static struct conn *conn;
static int peer;
static char seen[1 << 20];
static size_t n_seen, take_at_most, n_drained;
static bool ended, ended_by_eof;

static size_t on_bytes(void *ctx, const char *p, size_t n)
{
    (void)ctx;
    if (n > take_at_most)
        n = take_at_most;
    memcpy(seen + n_seen, p, n);
    n_seen += n;
    return n;
}

static void on_drained(void *ctx)
{
    (void)ctx;
    n_drained++;
}

static void on_ended(void *ctx, bool eof, const char *why)
{
    (void)ctx;
    ck_assert(*why);
    ended = true;
    ended_by_eof = eof;
}

static const struct conn_callbacks callbacks = {
    .bytes = on_bytes, .drained = on_drained, .ended = on_ended};

static void setup(void)
{
    int fds[2];
    ck_assert(loop_init(&loop));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    peer = fds[1];
    conn = conn_accept(&loop, fds[0], NULL, &callbacks, NULL);
    ck_assert_ptr_nonnull(conn);
    n_seen = n_drained = 0;
    take_at_most = SIZE_MAX;
    ended = ended_by_eof = false;
}

static void teardown(void)
{
    conn_close(conn);
    close(peer);
    loop_free(&loop);
}

static void stop(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    loop_stop(arg);
}

/* A turn or two: everything that is ready is dealt with. */
static void turn(void)
{
    for (int i = 0; i < 2; i++) {
        loop.stopped = false;
        event_base_once(loop.base, -1, EV_TIMEOUT, stop, &loop, &(struct timeval){0});
        loop_run(&loop);
    }
}

START_TEST(test_bytes_come_with_the_rest_before_them)
{
    take_at_most = 3;
    ck_assert_int_eq(write(peer, "abcdefgh", 8), 8);
    turn();
    ck_assert_uint_eq(n_seen, 3);
    ck_assert_uint_eq(conn_unread(conn), 5);
    ck_assert_int_eq(write(peer, "i", 1), 1);
    take_at_most = SIZE_MAX;
    turn();
    ck_assert_uint_eq(n_seen, 9);
    ck_assert(memcmp(seen, "abcdefghi", 9) == 0);
    ck_assert_uint_eq(conn_input_capacity(conn), 0); /* nothing is kept for an idle one */
}
END_TEST

START_TEST(test_pause_and_resume)
{
    conn_pause(conn);
    ck_assert_int_eq(write(peer, "x", 1), 1);
    turn();
    ck_assert_uint_eq(n_seen, 0);
    conn_resume(conn);
    turn();
    ck_assert_uint_eq(n_seen, 1);
    take_at_most = 0;
    ck_assert_int_eq(write(peer, "yz", 2), 2);
    turn();
    conn_pause(conn);
    take_at_most = SIZE_MAX;
    turn();
    ck_assert_uint_eq(n_seen, 1);
    conn_resume(conn); /* what was left is offered without a new byte */
    turn();
    ck_assert_uint_eq(n_seen, 3);
}
END_TEST

START_TEST(test_a_large_message_grows_its_own_buffer)
{
    static char big[400000];
    size_t sent = 0;
    memset(big, 'b', sizeof big);
    take_at_most = 0;
    conn_want(conn, sizeof big);
    while (sent < sizeof big) {
        ssize_t n = write(peer, big + sent, sizeof big - sent);
        if (n > 0)
            sent += (size_t)n;
        turn();
    }
    for (int i = 0; i < 20 && conn_unread(conn) < sizeof big; i++)
        turn();
    ck_assert_uint_eq(conn_unread(conn), sizeof big);
    take_at_most = SIZE_MAX;
    ck_assert_int_eq(write(peer, "!", 1), 1);
    turn();
    ck_assert_uint_eq(n_seen, sizeof big + 1);
    ck_assert_uint_eq(conn_input_capacity(conn), 0);
}
END_TEST

START_TEST(test_the_input_limit)
{
    static char big[100];
    take_at_most = 0;
    conn_limit_input(conn, sizeof big - 1);
    ck_assert_int_eq(write(peer, big, sizeof big), (ssize_t)sizeof big);
    turn();
    ck_assert(ended && !ended_by_eof);
}
END_TEST

START_TEST(test_output_larger_than_the_socket_takes)
{
    static char big[3 << 20], got[1 << 16];
    size_t n_got = 0;
    memset(big, 'o', sizeof big);
    chain_append(conn_out(conn), big, sizeof big / 2);
    chain_append_borrowed(conn_out(conn), big, sizeof big / 2);
    conn_flush(conn);
    memset(big, '!', sizeof big); /* what was lent has been copied */
    for (int i = 0; i < 10000 && n_got < sizeof big; i++) {
        ssize_t n = read(peer, got, sizeof got);
        if (n > 0) {
            ck_assert(got[0] == 'o' && memcmp(got, got + 1, (size_t)n - 1) == 0);
            n_got += (size_t)n;
        }
        turn();
    }
    ck_assert_uint_eq(n_got, sizeof big);
    ck_assert_uint_eq(n_drained, 1);
    ck_assert_uint_eq(loop.budget.used, 0);
}
END_TEST

START_TEST(test_eof)
{
    ck_assert_int_eq(write(peer, "last", 4), 4);
    shutdown(peer, SHUT_WR);
    turn();
    turn();
    ck_assert_uint_eq(n_seen, 4);
    ck_assert(ended && ended_by_eof);
    chain_append(conn_out(conn), "bye", 3); /* a half-closed peer still reads */
    conn_send(conn);
    turn();
    char got[4];
    ck_assert_int_eq(read(peer, got, 4), 3);
}
END_TEST

/* The socket tells of it once, for all that has come by then. */
START_TEST(test_an_end_behind_more_bytes_than_one_read_takes)
{
    static char big[100000];
    ck_assert_int_eq(write(peer, big, sizeof big), (ssize_t)sizeof big);
    shutdown(peer, SHUT_WR);
    turn();
    turn();
    ck_assert_uint_eq(n_seen, sizeof big);
    ck_assert(ended && ended_by_eof);
}
END_TEST

/* Both ends of a TCP connection, whose buffers take more than a unix socket's. */
static void tcp_pair(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(fds[1], (struct sockaddr *)&address, len), 0);
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    ck_assert_int_ge(fds[0], 0);
    ck_assert_int_eq(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
    close(listener);
}

static void reset_behind(const char *text)
{
    chain_append(conn_out(conn), "unread", 6);
    conn_flush(conn);
    ck_assert_int_eq(write(peer, text, strlen(text)), (ssize_t)strlen(text));
    close(peer); /* which has not read all: ECONNRESET on our side */
    peer = -1;
    turn();
    ck_assert_uint_eq(n_seen, strlen(text));
    ck_assert(!ended);
}

START_TEST(test_a_reset_behind_bytes_is_found_by_the_next_write)
{
    reset_behind("abc");
    chain_append(conn_out(conn), "reply", 5);
    conn_send(conn);
    turn();
    ck_assert(ended && !ended_by_eof);
}
END_TEST

START_TEST(test_a_reset_behind_bytes_is_found_with_the_tick)
{
    reset_behind("abc");
    conn_tick(&loop);
    turn();
    ck_assert(ended && !ended_by_eof);
}
END_TEST

START_TEST(test_a_reset_behind_bytes_is_looked_for)
{
    reset_behind("abc");
    conn_look_again(conn);
    turn();
    ck_assert(ended && !ended_by_eof);
}
END_TEST

START_TEST(test_bytes_behind_an_urgent_one_are_found_with_the_tick)
{
    int fds[2];
    tcp_pair(fds);
    struct conn *c = conn_accept(&loop, fds[0], NULL, &callbacks, NULL);
    ck_assert_int_eq(send(fds[1], "abc!", 4, MSG_OOB), 4);
    ck_assert_int_eq(write(fds[1], "def", 3), 3);
    turn();
    chain_append(conn_out(c), "reply", 5);
    conn_send(c);
    conn_tick(&loop);
    turn();
    ck_assert_uint_eq(n_seen, 6);
    ck_assert_mem_eq(seen, "abcdef", 6);
    conn_close(c);
    close(fds[1]);
}
END_TEST

START_TEST(test_ticks_look_at_a_connection_once)
{
    ck_assert_int_eq(write(peer, "a", 1), 1);
    turn();
    ck_assert(!TAILQ_EMPTY(&loop.read_from));
    conn_tick(&loop);
    ck_assert(TAILQ_EMPTY(&loop.read_from));
    ck_assert_int_eq(write(peer, "b", 1), 1);
    turn();
    ck_assert_uint_eq(n_seen, 2);
    ck_assert(!ended);
}
END_TEST

START_TEST(test_more_pieces_than_some_writes_take)
{
    enum { PIECE = 20000, PIECES = 400 };
    static char piece[PIECE], got[PIECE * 4];
    size_t n_got = 0;
    int fds[2];
    tcp_pair(fds);
    struct conn *c = conn_accept(&loop, fds[0], NULL, &callbacks, NULL);
    for (int i = 0; i < PIECES; i++) {
        memset(piece, 'a' + i % 26, sizeof piece);
        chain_append(conn_out(c), piece, sizeof piece);
    }
    conn_flush(c);
    for (ssize_t n; n_got < PIECE * PIECES; n_got += (size_t)n) {
        while ((n = read(fds[1], got, sizeof got)) < 0)
            turn();
        for (size_t i = 0; i < (size_t)n; i += 1000)
            ck_assert_int_eq(got[i], 'a' + (int)((n_got + i) / PIECE % 26));
    }
    turn();
    ck_assert_uint_eq(n_drained, 1);
    conn_close(c);
    close(fds[1]);
}
END_TEST

START_TEST(test_a_broken_pipe_is_told_once_from_the_loop)
{
    close(peer);
    peer = -1;
    chain_append(conn_out(conn), "x", 1);
    conn_flush(conn);
    ck_assert(!ended);
    turn();
    ck_assert(ended);
}
END_TEST

START_TEST(test_a_chain_that_lost_bytes_is_never_sent)
{
    chain_append(conn_out(conn), "half", 4);
    conn_out(conn)->failed = true;
    conn_send(conn);
    turn();
    char got[8];
    ck_assert_int_eq(read(peer, got, sizeof got), -1);
    ck_assert(ended);
}
END_TEST

START_TEST(test_connecting_to_nobody)
{
    struct conn *c =
        conn_connect(&loop, &(struct conn_target){.path = "/nonexistent/socket"}, &callbacks, NULL);
    ck_assert_ptr_nonnull(c);
    ck_assert(!ended);
    turn();
    ck_assert(ended);
    conn_close(c);
}
END_TEST

/* --- the FIFO -----------------------------------------------------------------------------------
 */

static struct caller caller;
static int n_progress;

static void on_progress(struct caller *c)
{
    (void)c;
    n_progress++;
}

static void become_caller(void)
{
    caller_init(&caller, &loop);
    caller.conn = conn;
    caller.progress = on_progress;
    n_progress = 0;
}

static void ck_peer_reads(const char *text)
{
    char got[256] = {0};
    turn();
    ssize_t n = read(peer, got, sizeof got - 1);
    ck_assert_int_eq(n, *text ? (ssize_t)strlen(text) : -1);
    ck_assert_str_eq(got, text);
}

START_TEST(test_replies_leave_in_the_order_of_requests)
{
    become_caller();
    struct request *first = request_new(&caller), *second = request_new(&caller);
    caller_answer_text(&caller, "+three\r\n");
    request_bytes(second, "+two\r\n", 6);
    request_done(second);
    ck_peer_reads("");
    request_bytes(first, "+o", 2);
    ck_peer_reads("+o");
    request_bytes(first, "ne\r\n", 4);
    request_done(first);
    ck_peer_reads("ne\r\n+two\r\n+three\r\n");
    ck_assert_uint_eq(caller.owed, 0);
    caller_answer_integer(&caller, 7);
    ck_peer_reads(":7\r\n");
    caller_answer_error(&caller, "ERR a\r\nb");
    ck_peer_reads("-ERR a  b\r\n");
    caller_leave(&caller);
}
END_TEST

START_TEST(test_owed_replies_outlive_their_client)
{
    become_caller();
    struct request *first = request_new(&caller), *second = request_new(&caller);
    caller_answer_text(&caller, "+three\r\n");
    caller_leave(&caller);
    request_bytes(first, "+one\r\n", 6);
    request_done(first);
    request_fail(second, "-ERR x\r\n");
    ck_peer_reads("");
    ck_assert_uint_eq(loop.budget.used, 0);
}
END_TEST

START_TEST(test_half_a_reply_can_not_become_an_error)
{
    become_caller();
    struct request *r = request_new(&caller);
    request_bytes(r, "$10\r\nabc", 8);
    request_fail(r, "-ERR lost\r\n");
    ck_assert(caller.kill);
    ck_assert_int_ge(n_progress, 1);
    caller_leave(&caller);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("conn");
    TCase *t = tcase_create("conn");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_bytes_come_with_the_rest_before_them);
    tcase_add_test(t, test_pause_and_resume);
    tcase_add_test(t, test_a_large_message_grows_its_own_buffer);
    tcase_add_test(t, test_the_input_limit);
    tcase_add_test(t, test_output_larger_than_the_socket_takes);
    tcase_add_test(t, test_eof);
    tcase_add_test(t, test_an_end_behind_more_bytes_than_one_read_takes);
    tcase_add_test(t, test_a_reset_behind_bytes_is_found_by_the_next_write);
    tcase_add_test(t, test_a_reset_behind_bytes_is_found_with_the_tick);
    tcase_add_test(t, test_a_reset_behind_bytes_is_looked_for);
    tcase_add_test(t, test_bytes_behind_an_urgent_one_are_found_with_the_tick);
    tcase_add_test(t, test_ticks_look_at_a_connection_once);
    tcase_add_test(t, test_more_pieces_than_some_writes_take);
    tcase_add_test(t, test_a_broken_pipe_is_told_once_from_the_loop);
    tcase_add_test(t, test_a_chain_that_lost_bytes_is_never_sent);
    tcase_add_test(t, test_connecting_to_nobody);
    tcase_add_test(t, test_replies_leave_in_the_order_of_requests);
    tcase_add_test(t, test_owed_replies_outlive_their_client);
    tcase_add_test(t, test_half_a_reply_can_not_become_an_error);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
