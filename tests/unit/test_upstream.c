/* test_upstream.c - private connections against a scripted server: handshake, lending, messages,
 * deadlines, the end. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "upstream.h"
#include "wire.h"

enum {
    TIMEOUT = 1000,
    CONNECT_TIMEOUT = 500,
    OPEN_MIN = 50,
    PRIVATE_MAX = 2,
    /* As in upstream.c. */
    IDLE_MAX = 60 * 1000,
    REFUSED_WAIT = 5000,
    RETIRE_MAX = 1000,
};

#define HELLO_REPLY    "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:4711\r\n"
#define HELLO_3_REPLY  "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:4711\r\n"
#define HELLO(version) "*4\r\n$5\r\nHELLO\r\n$1\r\n" version "\r\n$7\r\nSETNAME\r\n$4\r\nname\r\n"
#define PING           "*1\r\n$4\r\nPING\r\n"

static struct loop loop;
static struct metrics metrics;
static struct upstream_address address;
static struct upstream_options options;
static struct log *log_;
static struct upstream *up;
static char directory[64], path[100], label[] = "here";
static int listener;

/* --- what the callbacks tell, as text -----------------------------------------------------------
 */

static char told[1 << 16];
static size_t n_told;
static const void *last_owner; /* bytes for the same one are told as one */
static bool subscribed;
static size_t missing;            /* elements of the reply that seems complete */
static int owners[8], holders[4]; /* an owner is called by its index */

__attribute__((format(printf, 1, 2))) static void tell(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    n_told += (size_t)vsnprintf(told + n_told, sizeof told - n_told, format, args);
    va_end(args);
    ck_assert_uint_lt(n_told, sizeof told);
}

static int number(const void *owner)
{
    return (int)((const int *)owner - owners);
}

static int holder_number(const void *holder)
{
    return (int)((const int *)holder - holders);
}

static void on_bytes(void *ctx, void *owner, unsigned tag, const char *p, size_t n)
{
    (void)ctx;
    ck_assert_uint_eq(tag, 9);
    if (last_owner != owner)
        tell("[%d ", number(owner));
    last_owner = owner;
    tell("%.*s", (int)n, p);
}

static size_t on_missing(void *ctx, void *owner, unsigned tag)
{
    size_t n = missing;
    (void)ctx;
    (void)owner;
    ck_assert_uint_eq(tag, 9);
    missing = 0;
    return n;
}

static void on_done(void *ctx, void *owner, unsigned tag, char type)
{
    (void)ctx;
    (void)tag;
    last_owner = NULL;
    tell("] done %d %c\n", number(owner), type);
}

static void on_lost(void *ctx, void *owner, unsigned tag, const char *error)
{
    (void)ctx;
    (void)tag;
    last_owner = NULL;
    tell("lost %d %s", number(owner), error);
}

static void on_late(void *ctx, struct reply_owner *to, const char *error)
{
    (void)ctx;
    tell("late %d %s", number(to->owner), error);
    to->owner = &owners[7]; /* whose it is from now on */
}

static void on_demoted(void *ctx)
{
    (void)ctx;
    tell("demoted\n");
}

static bool is_push(void *ctx, void *holder, void *owner, unsigned tag, const char *two)
{
    (void)ctx;
    (void)owner;
    (void)tag;
    ck_assert_int_eq(holder_number(holder), 0);
    return subscribed && two[1] != '2';
}

static void on_push(void *ctx, void *holder, const char *p, size_t n, bool end)
{
    (void)ctx;
    if (last_owner != holder)
        tell("{%d ", holder_number(holder));
    last_owner = end ? NULL : holder;
    tell("%.*s%s", (int)n, p, end ? "}\n" : "");
}

static void on_severed(void *ctx, void *holder)
{
    (void)ctx;
    last_owner = NULL;
    tell("severed %d\n", holder_number(holder));
}

static const struct upstream_callbacks callbacks = {.replies = {.bytes = on_bytes,
                                                                .missing = on_missing,
                                                                .done = on_done,
                                                                .lost = on_lost,
                                                                .late = on_late,
                                                                .is_push = is_push,
                                                                .push = on_push},
                                                    .demoted = on_demoted,
                                                    .severed = on_severed};

static void ck_told(const char *text)
{
    ck_assert_str_eq(told, text);
    n_told = 0;
    told[0] = '\0';
}

/* Two strings that begin and end so: what is in between varies. */
static void ck_told_like(const char *first, const char *last)
{
    size_t n = strlen(last);
    ck_assert_msg(strncmp(told, first, strlen(first)) == 0 && n_told >= n &&
                      strcmp(told + n_told - n, last) == 0,
                  "%s", told);
    n_told = 0;
    told[0] = '\0';
}

/* --- the loop and the server --------------------------------------------------------------------
 */

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

static void start(void)
{
    up = upstream_new(&loop, &options, &callbacks, NULL, log_, &metrics);
    ck_assert_ptr_nonnull(up);
}

static void setup(void)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(directory, sizeof directory, "/tmp/upstream.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/s", directory);
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&un, sizeof un), 0);
    ck_assert_int_eq(listen(listener, 16), 0);
    ck_assert(loop_init(&loop));
    memset(&metrics, 0, sizeof metrics);
    log_ = log_new(stderr, LOG_ERROR);
    address = (struct upstream_address){.path = path, .label = label};
    options = (struct upstream_options){.address = &address,
                                        .client_name = "name",
                                        .connections = 1,
                                        .private_max = PRIVATE_MAX,
                                        .connect_timeout = CONNECT_TIMEOUT,
                                        .handshake_timeout = CONNECT_TIMEOUT,
                                        .timeout = TIMEOUT,
                                        .scan_timeout = TIMEOUT,
                                        .queue_timeout = TIMEOUT,
                                        .breaker = {.timeouts = 5,
                                                    .error_rate = 50,
                                                    .min_requests = 20,
                                                    .window = 10000,
                                                    .open_min = 50,
                                                    .open_max = 2000}};
    n_told = 0;
    told[0] = '\0';
    last_owner = NULL;
    subscribed = false;
    start();
}

static void teardown(void)
{
    upstream_free(up);
    loop_free(&loop);
    log_free(log_);
    close(listener);
    unlink(path);
    rmdir(directory);
}

/* The server's end of the connection that was opened last; -1: none was. */
static int accepted(void)
{
    turn();
    return accept4(listener, NULL, NULL, SOCK_NONBLOCK);
}

static void ck_received(int fd, const char *text)
{
    char got[4096] = {0};
    turn();
    ssize_t n = read(fd, got, sizeof got - 1);
    ck_assert_int_eq(n, *text ? (ssize_t)strlen(text) : -1);
    ck_assert_str_eq(got, text);
}

static void ck_closed(int fd)
{
    char byte;
    turn();
    ck_assert_int_eq(read(fd, &byte, 1), 0);
    close(fd);
}

static void say_bytes(int fd, const char *p, size_t n)
{
    ck_assert_int_eq(write(fd, p, n), (ssize_t)n);
    turn();
}

static void say(int fd, const char *text)
{
    say_bytes(fd, text, strlen(text));
}

/* --- the client ---------------------------------------------------------------------------------
 */

static void ask(struct upstream_conn *uc, int owner)
{
    ck_assert(upstream_expect(uc, &owners[owner], 9));
    wire_command(upstream_out(uc), (struct resp_slice[]){wire_text("PING")}, 1);
    upstream_sent(uc);
}

static void tick_after(uint64_t ms)
{
    turn();
    upstream_tick(up, loop_now(&loop) + ms);
    turn();
}

static struct upstream_conn *shared(uint32_t keep)
{
    return upstream_get(up, 0, 2, 0, keep);
}

/* The one that everybody uses, ready. */
static struct upstream_conn *open_shared(int *fd)
{
    struct upstream_conn *uc = shared(0);
    *fd = accepted();
    ck_received(*fd, HELLO("2"));
    say(*fd, HELLO_REPLY);
    return uc;
}

/* One that is ready; *fd is the server's end. */
static struct upstream_conn *lend(uint32_t db, unsigned resp, int holder, int *fd)
{
    struct upstream_conn *uc = upstream_lend(up, db, resp, &holders[holder]);
    ck_assert_ptr_nonnull(uc);
    *fd = accepted();
    ck_assert_int_ge(*fd, 0);
    ck_received(*fd, resp == 3 ? HELLO("3") : HELLO("2"));
    say(*fd, resp == 3 ? HELLO_3_REPLY : HELLO_REPLY);
    if (db) {
        ck_received(*fd, "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n");
        say(*fd, "+OK\r\n");
    }
    ck_assert_uint_eq(upstream_client_id(uc), 4711);
    return uc;
}

/* --- the handshake ------------------------------------------------------------------------------
 */

START_TEST(commands_wait_for_the_handshake)
{
    struct upstream_conn *uc = upstream_lend(up, 0, 2, &holders[0]);
    ask(uc, 1);
    int fd = accepted();
    ck_assert_uint_eq(upstream_client_id(uc), 0);
    ck_received(fd, HELLO("2"));
    ask(uc, 2);
    ck_received(fd, "");
    say(fd, HELLO_REPLY);
    ck_received(fd, PING PING);
    say(fd, "+PO");
    say(fd, "NG\r\n:1\r\n");
    ck_told("[1 +PONG\r\n] done 1 +\n[2 :1\r\n] done 2 :\n");
    close(fd);
}
END_TEST

START_TEST(hello_carries_user_password_and_version)
{
    address.user = (char[]){"me"};
    address.password = (char[]){"secret"};
    struct upstream_conn *uc = upstream_lend(up, 1, 3, &holders[0]);
    int fd = accepted();
    ck_received(fd, "*7\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$6\r\nsecret\r\n"
                    "$7\r\nSETNAME\r\n$4\r\nname\r\n");
    say(fd, HELLO_3_REPLY);
    ck_received(fd, "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n");
    ck_assert_uint_eq(upstream_client_id(uc), 0);
    say(fd, "+OK\r\n");
    ck_assert_uint_eq(upstream_client_id(uc), 4711);
    close(fd);
}
END_TEST

START_TEST(a_server_without_hello)
{
    static const char *const refusals[] = {
        "-ERR unknown command `HELLO`, with args beginning with: \r\n",
        "-NOPERM this user has no permissions to run the 'hello' command\r\n"};
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        address.user = NULL;
        address.password = (char[]){"secret"};
        struct upstream_conn *uc = upstream_lend(up, 1, 2, &holders[0]);
        ask(uc, 1);
        int fd = accepted();
        ck_received(fd, "*7\r\n$5\r\nHELLO\r\n$1\r\n2\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n"
                        "$6\r\nsecret\r\n$7\r\nSETNAME\r\n$4\r\nname\r\n");
        say(fd, refusals[i]);
        ck_received(fd, "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"
                        "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$4\r\nname\r\n"
                        "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n");
        say(fd, "+OK\r\n-NOPERM no SETNAME either\r\n+OK\r\n");
        ck_received(fd, PING);
        say(fd, "+PONG\r\n");
        ck_told("[1 +PONG\r\n] done 1 +\n");
        upstream_discard(uc);
        close(fd);
    }
}
END_TEST

START_TEST(a_server_that_does_not_speak_resp3)
{
    struct upstream_conn *uc = upstream_lend(up, 0, 3, &holders[0]);
    ask(uc, 1);
    int fd = accepted();
    ck_received(fd, HELLO("3"));
    say(fd, "-ERR unknown command 'HELLO'\r\n");
    ck_told("lost 1 -NEARCACHE upstream here unavailable: ERR unknown command 'HELLO'\r\n"
            "severed 0\n");
    ck_assert_uint_eq(upstream_lent(up), 0);
    ck_closed(fd);
}
END_TEST

START_TEST(refused_in_the_handshake)
{
    static const struct {
        const char *reply, *error;
    } table[] = {
        {"-WRONGPASS invalid\r\n", "-NEARCACHE upstream here unavailable: WRONGPASS invalid\r\n"},
        {"-NOAUTH HELLO must\r\n", "-NEARCACHE upstream here unavailable: NOAUTH HELLO must\r\n"},
        {"-LOADING Redis is\r\n", "-NEARCACHE upstream here unavailable: LOADING Redis is\r\n"},
        {HELLO_REPLY "-ERR DB index is out of range\r\n", "-ERR DB index is out of range\r\n"},
        {"what?\r\n",
         "-NEARCACHE upstream here unavailable: it sent something that is not RESP\r\n"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char expected[256];
        struct upstream_conn *uc = upstream_lend(up, 1, 2, &holders[0]);
        ask(uc, 1);
        ask(uc, 2);
        int fd = accepted();
        say(fd, table[i].reply);
        snprintf(expected, sizeof expected, "lost 1 %slost 2 %ssevered 0\n", table[i].error,
                 table[i].error);
        ck_told(expected);
        close(fd);
        tick_after(0); /* not opened again */
        ck_assert_int_eq(accepted(), -1);
    }
}
END_TEST

START_TEST(no_answer_to_the_handshake)
{
    struct upstream_conn *uc = upstream_lend(up, 0, 2, &holders[0]);
    ask(uc, 1);
    int fd = accepted();
    tick_after(CONNECT_TIMEOUT - 100);
    ck_told("");
    tick_after(CONNECT_TIMEOUT + 100);
    ck_told("lost 1 -NEARCACHE upstream here unavailable: no answer to the handshake within 500 ms"
            "\r\nsevered 0\n");
    close(fd);
}
END_TEST

START_TEST(nobody_listens)
{
    address.path = (char[]){"/nonexistent/socket"};
    struct upstream_conn *uc = upstream_lend(up, 0, 2, &holders[0]);
    ck_assert_ptr_nonnull(uc);
    ask(uc, 1);
    turn();
    ck_told_like("lost 1 -NEARCACHE upstream here unavailable: ", "\r\nsevered 0\n");
    ck_assert_ptr_nonnull(upstream_refusal(uc));
    tick_after(0); /* which frees it */
}
END_TEST

/* --- lending ------------------------------------------------------------------------------------
 */

START_TEST(what_is_returned_is_lent_again)
{
    int fd;
    struct upstream_conn *uc = lend(0, 2, 0, &fd);
    ck_assert_uint_eq(upstream_lent(up), 1);
    for (int i = 0; i < 20; i++) {
        upstream_return(uc);
        ck_assert_uint_eq(upstream_lent(up), 0);
        ck_assert_ptr_eq(upstream_lend(up, 0, 2, &holders[1]), uc);
        ask(uc, i % 8);
        ck_received(fd, PING);
        say(fd, "+PONG\r\n");
    }
    ck_assert_int_eq(accepted(), -1);
    ck_assert_uint_eq(metrics.upstream_connects, 1);
    close(fd);
}
END_TEST

START_TEST(there_is_a_limit)
{
    int fd[2], more;
    struct upstream_conn *one = lend(0, 2, 0, &fd[0]), *two = lend(0, 2, 0, &fd[1]);
    ck_assert_ptr_ne(one, two);
    ck_assert_uint_eq(upstream_lent(up), PRIVATE_MAX);
    ck_assert_ptr_null(upstream_lend(up, 0, 2, &holders[0]));
    ck_assert_ptr_null(upstream_lend(up, 1, 3, &holders[0]));
    upstream_return(two);
    ck_assert_ptr_eq(upstream_lend(up, 0, 2, &holders[0]), two);
    upstream_discard(one);
    ck_closed(fd[0]);
    (void)lend(0, 3, 0, &more);
    ck_assert_ptr_null(upstream_lend(up, 0, 2, &holders[0]));
    close(fd[1]);
    close(more);
}
END_TEST

START_TEST(an_idle_one_of_another_kind_makes_room)
{
    int fd[2], more;
    struct upstream_conn *one = lend(0, 2, 0, &fd[0]), *two = lend(0, 3, 0, &fd[1]);
    upstream_return(one); /* idle for longer than .. */
    upstream_return(two); /* .. this one */
    (void)lend(1, 2, 0, &more);
    ck_closed(fd[0]);
    ck_assert_ptr_eq(upstream_lend(up, 0, 3, &holders[0]), two);
    ck_assert_ptr_null(upstream_lend(up, 0, 2, &holders[0]));
    close(fd[1]);
    close(more);
}
END_TEST

START_TEST(state_that_the_server_agreed_to)
{
    int fd, more;
    struct upstream_conn *uc = lend(0, 2, 0, &fd);
    upstream_set_db(uc, 1);
    upstream_set_resp(uc, 3);
    upstream_return(uc);
    struct upstream_conn *other = lend(0, 2, 0, &more);
    ck_assert_ptr_ne(other, uc);
    ck_assert_ptr_eq(upstream_lend(up, 1, 3, &holders[0]), uc);
    ck_told("");
    close(fd);
    close(more);
}
END_TEST

START_TEST(what_is_still_owed_comes_to_its_owners)
{
    int fd, more;
    struct upstream_conn *uc = lend(0, 2, 0, &fd);
    ask(uc, 1);
    ask(uc, 2);
    upstream_return(uc);
    struct upstream_conn *other = lend(0, 2, 1, &more); /* the first is not free yet */
    ck_assert_ptr_ne(other, uc);
    say(fd, "+ONE\r\n");
    ck_assert_ptr_null(upstream_lend(up, 0, 2, &holders[2]));
    say(fd, "+TWO\r\n");
    ck_told("[1 +ONE\r\n] done 1 +\n[2 +TWO\r\n] done 2 +\n");
    ck_assert_ptr_eq(upstream_lend(up, 0, 2, &holders[2]), uc);
    close(fd);
    close(more);
}
END_TEST

START_TEST(discarding_tells_the_owners)
{
    int fd;
    struct upstream_conn *uc = lend(0, 2, 0, &fd);
    ask(uc, 1);
    say(fd, "$10\r\nhalf");
    ask(uc, 2);
    upstream_discard(uc);
    ck_told("[1 $10\r\nhalflost 1 -NEARCACHE the connection was closed\r\n"
            "lost 2 -NEARCACHE the connection was closed\r\n");
    ck_received(fd, PING PING); /* what was asked before the end counts */
    ck_closed(fd);
    ck_assert_uint_eq(upstream_lent(up), 0);
    uc = upstream_lend(up, 0, 2, &holders[0]); /* while it is still connecting */
    ask(uc, 3);
    upstream_discard(uc);
    ck_told("lost 3 -NEARCACHE the connection was closed\r\n");
    fd = accepted();
    if (fd >= 0)
        close(fd);
    tick_after(0);
    (void)lend(0, 2, 0, &fd);
    (void)lend(0, 2, 1, &fd);
}
END_TEST

START_TEST(idle_ones_are_closed_in_time)
{
    int fd[2];
    struct upstream_conn *one = lend(0, 2, 0, &fd[0]), *two = lend(0, 2, 0, &fd[1]);
    upstream_return(one);
    tick_after(IDLE_MAX - 1000);
    ck_received(fd[0], "");
    tick_after(IDLE_MAX + 1000);
    ck_closed(fd[0]);
    ck_received(fd[1], ""); /* lent */
    ck_assert_uint_eq(upstream_lent(up), 1);
    upstream_return(two);
    ck_assert_ptr_eq(upstream_lend(up, 0, 2, &holders[0]), two);
    close(fd[1]);
}
END_TEST

/* --- messages -----------------------------------------------------------------------------------
 */

#define MESSAGE    "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
#define MESSAGE_3  ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
#define PONG_ARRAY "*2\r\n$4\r\npong\r\n$0\r\n\r\n"

static void check_stream(unsigned resp, const char *stream, int asked, const char *expected)
{
    int fd;
    struct upstream_conn *uc = lend(0, resp, 0, &fd);
    size_t n = strlen(stream);
    for (size_t cut = 0; cut < n; cut++) {
        for (int i = 1; i <= asked; i++)
            ask(uc, i);
        if (cut)
            say_bytes(fd, stream, cut);
        say_bytes(fd, stream + cut, n - cut);
        ck_told(expected);
    }
    close(fd);
}

START_TEST(messages_among_replies_in_resp2)
{
    subscribed = true;
    check_stream(2, MESSAGE PONG_ARRAY MESSAGE "+OK\r\n", 2,
                 "{0 " MESSAGE "}\n[1 " PONG_ARRAY "] done 1 *\n{0 " MESSAGE "}\n"
                 "[2 +OK\r\n] done 2 +\n");
}
END_TEST

START_TEST(arrays_are_replies_to_who_has_not_subscribed)
{
    check_stream(2, MESSAGE "*0\r\n", 2, "[1 " MESSAGE "] done 1 *\n[2 *0\r\n] done 2 *\n");
}
END_TEST

START_TEST(messages_among_replies_in_resp3)
{
    check_stream(3, MESSAGE_3 "*2\r\n*0\r\n_\r\n" MESSAGE_3 MESSAGE_3 "%1\r\n+a\r\n#t\r\n", 2,
                 "{0 " MESSAGE_3 "}\n[1 *2\r\n*0\r\n_\r\n] done 1 *\n{0 " MESSAGE_3 "}\n"
                 "{0 " MESSAGE_3 "}\n[2 %1\r\n+a\r\n#t\r\n] done 2 %\n");
}
END_TEST

START_TEST(a_reply_may_be_longer_than_it_says)
{
    static const char stream[] = "*2\r\n" MESSAGE_3 ":1\r\n$1\r\nx\r\n*0\r\n+OK\r\n";
    int fd;
    struct upstream_conn *uc = lend(0, 3, 0, &fd);
    for (size_t cut = 1; cut < sizeof stream - 1; cut++) {
        ask(uc, 1);
        ask(uc, 2);
        missing = 2;
        say_bytes(fd, stream, cut);
        say_bytes(fd, stream + cut, sizeof stream - 1 - cut);
        ck_told("[1 *2\r\n" MESSAGE_3 ":1\r\n$1\r\nx\r\n*0\r\n] done 1 *\n[2 +OK\r\n] done 2 +\n");
    }
    close(fd);
}
END_TEST

START_TEST(a_message_for_nobody_is_dropped)
{
    int fd;
    struct upstream_conn *uc = lend(0, 3, 0, &fd);
    ask(uc, 1);
    upstream_return(uc);
    say(fd, MESSAGE_3 "+OK\r\n" MESSAGE_3);
    ck_told("[1 +OK\r\n] done 1 +\n");
    ck_assert_ptr_eq(upstream_lend(up, 0, 3, &holders[0]), uc);
    close(fd);
}
END_TEST

START_TEST(a_message_is_for_whom_it_began)
{
    static const char message[] = MESSAGE_3;
    int fd;
    struct upstream_conn *uc = lend(0, 3, 0, &fd);
    for (size_t cut = 1; cut < sizeof message - 1; cut++) {
        upstream_return(uc);
        say_bytes(fd, message, cut);
        ck_assert_ptr_eq(upstream_lend(up, 0, 3, &holders[1]), uc);
        say_bytes(fd, message + cut, sizeof message - 1 - cut);
        ask(uc, 1);
        say(fd, MESSAGE_3 "+OK\r\n");
        ck_told("{1 " MESSAGE_3 "}\n[1 +OK\r\n] done 1 +\n");
    }
    close(fd);
}
END_TEST

START_TEST(messages_may_settle_what_was_asked)
{
    int fd;
    struct upstream_conn *uc = lend(0, 3, 0, &fd);
    ask(uc, 1);
    ask(uc, 2);
    say(fd, MESSAGE_3);
    upstream_settle(uc);
    ck_told("{0 " MESSAGE_3 "}\n] done 1 *\n");
    say(fd, "+OK\r\n");
    ck_told("[2 +OK\r\n] done 2 +\n");
    close(fd);
}
END_TEST

START_TEST(a_reply_that_nobody_asked_for)
{
    int fd;
    (void)lend(0, 2, 0, &fd);
    say(fd, "+OK\r\n");
    ck_told("severed 0\n");
    ck_closed(fd);
}
END_TEST

/* --- shared connections: lanes ------------------------------------------------------------------
 */

START_TEST(all_share_one)
{
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    ask(uc, 1);
    ck_assert_ptr_eq(shared(0), uc);
    ask(uc, 2);
    ck_received(fd, PING PING);
    ck_assert_int_eq(accepted(), -1);
    close(fd);
}
END_TEST

/* The reply at hand is huge: who comes now goes elsewhere, who is owed something stays. */
static void check_spare(int fd, struct upstream_conn *uc)
{
    int other;
    struct upstream_conn *spare = shared(0);
    ck_assert_ptr_ne(spare, uc);
    ck_assert_ptr_eq(shared(upstream_serial(uc)), uc);
    ask(spare, 2);
    other = accepted();
    ck_received(other, HELLO("2"));
    say(other, HELLO_REPLY);
    ck_received(other, PING);
    say(other, "+PONG\r\n");
    ck_assert_ptr_nonnull(strstr(told, "[2 +PONG\r\n] done 2 +\n"));
    ck_assert_ptr_eq(shared(0), spare);
    tick_after(IDLE_MAX + 1000);
    ck_closed(other); /* and forgotten */
    (void)fd;
}

START_TEST(a_huge_bulk_string_is_passed_by)
{
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    ask(uc, 1);
    upstream_patience(uc, 1);
    say(fd, "$1000000\r\n");
    check_spare(fd, uc);
    close(fd);
}
END_TEST

START_TEST(what_is_not_huge_is_waited_for)
{
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    ask(uc, 1);
    say(fd, "$100000\r\n");
    ck_assert_ptr_eq(shared(0), uc);
    close(fd);
}
END_TEST

START_TEST(a_huge_array_is_passed_by)
{
    static char element[2000 * 6 + 1];
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    ask(uc, 1);
    upstream_patience(uc, 1);
    say(fd, "*1000000\r\n");
    ck_assert_ptr_eq(shared(0), uc); /* that alone says nothing */
    for (size_t i = 0; i < 2000; i++)
        memcpy(element + 6 * i, "$0\r\n\r\n", 6);
    n_told = 0;
    for (int i = 0; i < 30; i++) {
        ck_assert_int_gt(write(fd, element, sizeof element - 1), 0);
        turn();
        n_told = 0; /* not to be looked at */
        last_owner = NULL;
    }
    told[0] = '\0';
    ck_assert_ptr_ne(shared(0), uc);
    close(fd);
}
END_TEST

START_TEST(a_huge_request_is_passed_by)
{
    static char value[8 << 20];
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    ck_assert(upstream_expect(uc, &owners[1], 9));
    chain_append(upstream_out(uc), value, sizeof value);
    upstream_sent(uc);
    turn(); /* the server does not read it */
    upstream_patience(uc, 1);
    check_spare(fd, uc);
    close(fd);
}
END_TEST

/* --- shared connections: deadlines --------------------------------------------------------------
 */

START_TEST(each_is_told_when_it_is_late)
{
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    uint64_t start = loop_now(&loop);
    ask(uc, 1);
    turn();
    upstream_tick(up, start + TIMEOUT - 1);
    ck_told("");
    say(fd, "+ONE"); /* it has begun: there are signs of life */
    ask(uc, 2);
    upstream_tick(up, loop_now(&loop) + TIMEOUT);
    ck_told("[1 +ONE");
    say(fd, "\r\n");
    ck_told("\r\n] done 1 +\n");
    upstream_tick(up, loop_now(&loop) + TIMEOUT + 100);
    ck_told_like("late 2 -NEARCACHE timeout: upstream here: no reply within 1000 ms\r\n", "");
    close(fd);
}
END_TEST

/* The second of two requests is late, on a connection that shows signs of life. */
static struct upstream_conn *one_late(int *fd)
{
    struct upstream_conn *uc = open_shared(fd);
    ask(uc, 1);
    (void)loop_now(&loop);
    loop.now -= 500; /* a while ago */
    ask(uc, 2);
    turn();
    say(*fd, "+ONE\r\n");
    upstream_tick(up, loop_now(&loop) + TIMEOUT - 400);
    ck_told("[1 +ONE\r\n] done 1 +\n"
            "late 2 -NEARCACHE timeout: upstream here: no reply within 1000 ms\r\n");
    return uc;
}

START_TEST(what_comes_late_is_somebody_elses)
{
    int fd;
    struct upstream_conn *uc = one_late(&fd);
    ask(uc, 3);
    say(fd, "+TWO\r\n+THREE\r\n");
    ck_told("[7 +TWO\r\n] done 7 +\n[3 +THREE\r\n] done 3 +\n");
    ck_assert_uint_eq(metrics.upstream_timeouts, 1);
    close(fd);
}
END_TEST

START_TEST(queued_for_too_long)
{
    options.handshake_timeout = 100 * TIMEOUT;
    upstream_set_options(up, &options);
    struct upstream_conn *uc = shared(0);
    int fd = accepted();
    ask(uc, 1);
    uint64_t now = loop_now(&loop);
    upstream_tick(up, now + TIMEOUT);
    ck_told("");
    upstream_tick(up, now + TIMEOUT + 1);
    ck_told("late 1 -NEARCACHE timeout: upstream here: not connected within 1000 ms\r\n");
    say(fd, HELLO_REPLY "+LATE\r\n");
    ck_told("[7 +LATE\r\n] done 7 +\n"); /* whoever that is, not 1 */
    close(fd);
}
END_TEST

START_TEST(one_that_says_nothing_is_replaced)
{
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    ask(uc, 1);
    ask(uc, 2);
    turn();
    (void)loop_now(&loop);
    loop.now += 2 * TIMEOUT;
    upstream_tick(up, loop.now);
    ck_told("late 1 -NEARCACHE timeout: upstream here: no reply within 1000 ms\r\n"
            "late 2 -NEARCACHE timeout: upstream here: no reply within 1000 ms\r\n"
            "lost 7 -NEARCACHE timeout: upstream here: no reply within 1000 ms\r\n"
            "lost 7 -NEARCACHE timeout: upstream here: no reply within 1000 ms\r\n");
    ck_received(fd, PING PING);
    ck_closed(fd);
    ask(shared(0), 3);
    fd = accepted();
    say(fd, HELLO_REPLY "+PONG\r\n");
    ck_told("[3 +PONG\r\n] done 3 +\n");
    close(fd);
}
END_TEST

/* --- the breaker --------------------------------------------------------------------------------
 */

static void open_breaker(struct upstream_conn *uc)
{
    for (int i = 0; i < 5; i++)
        ask(uc, 1);
    turn();
    upstream_tick(up, loop_now(&loop) + TIMEOUT + 1);
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_OPEN);
}

START_TEST(an_open_breaker_refuses)
{
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    open_breaker(uc);
    n_told = 0;
    told[0] = '\0';
    uc = shared(0);
    const char *refusal = upstream_refusal(uc);
    ck_assert_ptr_nonnull(refusal);
    ck_assert_ptr_nonnull(strstr(refusal, "-NEARCACHE upstream here unavailable: no reply within "
                                          "1000 ms (circuit open, next probe in "));
    ck_assert_str_eq(upstream_state(up), "down");
    struct upstream_conn *lent = upstream_lend(up, 0, 2, &holders[0]);
    ck_assert_ptr_nonnull(upstream_refusal(lent));
    upstream_return(lent);
    ck_assert_int_eq(accepted(), -1); /* nor is anything connected */
    ck_told("");
    close(fd);
}
END_TEST

START_TEST(nobody_there_opens_it_and_one_probe_closes_it)
{
    char nowhere[] = "/nonexistent/socket";
    int fd;
    address.path = nowhere;
    ask(shared(0), 1);
    turn();
    ck_told_like("lost 1 -NEARCACHE upstream here unavailable: ", "\r\n");
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_OPEN);
    tick_after(OPEN_MIN + 1);
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_OPEN); /* the probe has failed */
    address.path = path;
    uint64_t now = loop_now(&loop);
    upstream_tick(up, now + 2 * OPEN_MIN + 1);
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_HALF_OPEN);
    ck_assert_ptr_nonnull(strstr(upstream_refusal(shared(0)), "(circuit half-open, "));
    upstream_tick(up, now + 100 * OPEN_MIN);
    fd = accepted();
    ck_assert_int_eq(accepted(), -1); /* one only */
    say(fd, HELLO_REPLY);
    ck_assert(breaker_is_closed(upstream_breaker(up)));
    ck_assert_ptr_null(upstream_refusal(shared(0)));
    ck_assert_uint_eq(metrics.breaker_opened, 1);
    close(fd);
}
END_TEST

START_TEST(a_connection_that_is_there_is_probed)
{
    int fd;
    options.breaker.timeouts = 1;
    upstream_set_options(up, &options);
    (void)one_late(&fd);
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_OPEN);
    ck_received(fd, PING PING);
    upstream_tick(up, loop_now(&loop) + OPEN_MIN + 1);
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_HALF_OPEN);
    ck_received(fd, PING);
    ck_assert_int_eq(accepted(), -1);
    say(fd, "+TWO\r\n-BUSY but alive\r\n");
    ck_told("[7 +TWO\r\n] done 7 +\n");
    ck_assert(breaker_is_closed(upstream_breaker(up)));
    close(fd);
}
END_TEST

START_TEST(a_probe_may_be_late)
{
    int fd;
    options.breaker.timeouts = 1;
    upstream_set_options(up, &options);
    (void)one_late(&fd);
    uint64_t now = loop_now(&loop);
    upstream_tick(up, now + OPEN_MIN + 1);
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_HALF_OPEN);
    upstream_tick(up, now + TIMEOUT + 10);
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_OPEN);
    close(fd);
}
END_TEST

START_TEST(the_wrong_password_is_not_tried_often)
{
    address.password = (char[]){"wrong"};
    ask(shared(0), 1);
    int fd = accepted();
    say(fd, "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    ck_told("lost 1 -NEARCACHE upstream here unavailable: WRONGPASS invalid username-password pair "
            "or user is disabled.\r\n");
    close(fd);
    tick_after(REFUSED_WAIT - 100);
    ck_assert_int_eq(accepted(), -1);
    tick_after(REFUSED_WAIT + 100);
    fd = accepted();
    ck_assert_int_ge(fd, 0);
    close(fd);
}
END_TEST

START_TEST(a_private_one_refused_alone_says_nothing_of_the_node)
{
    int fd, other;
    (void)open_shared(&fd);
    struct upstream_conn *uc = upstream_lend(up, 0, 2, &holders[0]);
    ask(uc, 1);
    other = accepted();
    say(other, "-ERR max number of clients reached\r\n");
    ck_told("lost 1 -NEARCACHE upstream here unavailable: ERR max number of clients reached\r\n"
            "severed 0\n");
    ck_assert(breaker_is_closed(upstream_breaker(up)));
    close(fd);
    close(other);
}
END_TEST

START_TEST(one_that_is_lost_at_once_is_not_opened_at_once)
{
    int fd;
    (void)open_shared(&fd);
    close(fd);
    turn();
    ck_assert_int_eq(breaker_state(upstream_breaker(up)), BREAKER_OPEN);
    (void)shared(0);
    ck_assert_int_eq(accepted(), -1);
    tick_after(OPEN_MIN + 1);
    fd = accepted();
    ck_assert_int_ge(fd, 0);
    close(fd);
}
END_TEST

/* --- a replica ----------------------------------------------------------------------------------
 */

START_TEST(readonly_has_connections_replaced)
{
    int fd, idle, lent, fresh;
    struct upstream_conn *uc = open_shared(&fd);
    struct upstream_conn *returned = lend(0, 2, 0, &idle);
    (void)lend(0, 2, 1, &lent);
    upstream_return(returned);
    ask(uc, 1);
    ask(uc, 2);
    say(fd, "-READONLY You can't write against a read only replica.\r\n");
    ck_told("demoted\n"
            "[1 -READONLY You can't write against a read only replica.\r\n] done 1 -\n");
    ck_assert_ptr_eq(shared(upstream_serial(uc)), uc); /* what is owed is owed there */
    struct upstream_conn *next = shared(0);
    ck_assert_ptr_ne(next, uc);
    fresh = accepted();
    say(fresh, HELLO_REPLY);
    say(fd, "-READONLY again, so soon\r\n");
    ck_told("[2 -READONLY again, so soon\r\n] done 2 -\n");
    tick_after(0);
    ck_received(fd, PING PING);
    ck_closed(fd);
    ck_closed(idle);
    ck_received(lent, "");
    ck_assert_ptr_eq(shared(0), next);
    close(fresh);
    close(lent);
}
END_TEST

START_TEST(one_in_use_is_not_replaced_for_ever)
{
    int fd;
    struct upstream_conn *uc = open_shared(&fd);
    ask(uc, 1);
    upstream_renew(up);
    tick_after(TIMEOUT - 100);
    ck_told("");
    upstream_tick(up, loop_now(&loop) + RETIRE_MAX + 1);
    ck_assert_ptr_nonnull(strstr(told, "1 -NEARCACHE "));
    close(fd);
}
END_TEST

/* --- time and the end ---------------------------------------------------------------------------
 */

START_TEST(patience)
{
    int fd;
    options.scan_timeout = 200 * TIMEOUT;
    upstream_set_options(up, &options);
    struct upstream_conn *uc = lend(0, 2, 0, &fd);
    ask(uc, 1);
    upstream_patience(uc, 1);
    tick_after(100 * TIMEOUT);
    ck_told("");
    say(fd, "*-1\r\n");
    upstream_patience(uc, -1);
    ck_told("[1 *-1\r\n] done 1 *\n");
    tick_after(IDLE_MAX + 1000); /* nothing is owed, and it is lent */
    ck_told("");
    ask(uc, 2);
    tick_after(TIMEOUT - 100);
    ck_told("");
    tick_after(TIMEOUT + 100);
    ck_told("lost 2 -NEARCACHE timeout: upstream here: no reply within 1000 ms\r\nsevered 0\n");
    close(fd);
}
END_TEST

START_TEST(patience_with_a_frozen_server_has_an_end)
{
    int fd;
    struct upstream_conn *uc = lend(0, 2, 0, &fd);
    ask(uc, 1);
    upstream_patience(uc, 1);
    turn();
    (void)loop_now(&loop);
    loop.now += 500;
    upstream_note_alive(up, loop_now(&loop)); /* on another connection */
    upstream_tick(up, loop.now + TIMEOUT - 100);
    ck_told("");
    upstream_tick(up, loop.now + TIMEOUT + 1);
    ck_told("lost 1 -NEARCACHE timeout: upstream here: no sign of life within 1000 ms\r\n"
            "severed 0\n");
    close(fd);
}
END_TEST

START_TEST(messages_are_a_sign_of_life_of_the_connection)
{
    int fd;
    struct upstream_conn *uc = lend(0, 3, 0, &fd);
    ask(uc, 1);
    say(fd, MESSAGE_3);
    tick_after(TIMEOUT - 100);
    ck_told("{0 " MESSAGE_3 "}\n");
    close(fd);
}
END_TEST

START_TEST(the_server_leaves)
{
    int fd[2], more;
    struct upstream_conn *lent = lend(0, 2, 0, &fd[0]), *idle = lend(0, 2, 1, &fd[1]);
    upstream_return(idle);
    ask(lent, 1);
    ask(lent, 2);
    say(fd[0], "+OK\r\n$5\r\nab");
    close(fd[0]);
    close(fd[1]);
    turn();
    turn();
    ck_told_like("[1 +OK\r\n] done 1 +\n[2 $5\r\nablost 2 -NEARCACHE upstream here unavailable: ",
                 "\r\nsevered 0\n");
    ck_assert_uint_eq(upstream_lent(up), 0);
    ck_assert_uint_eq(upstream_connected(up), 0);
    lent = lend(0, 2, 0, &more);
    tick_after(BUFSIZ);
    ck_assert_int_eq(accepted(), -1); /* the others don't come back by themselves */
    ask(lent, 3);
    say(more, "+OK\r\n");
    ck_told("[3 +OK\r\n] done 3 +\n");
    close(more);
}
END_TEST

START_TEST(the_proxy_leaves)
{
    int fd;
    struct upstream_conn *uc = lend(0, 2, 0, &fd);
    ask(uc, 1);
    ask(uc, 2);
    turn();
    upstream_free(up);
    ck_told("lost 1 -NEARCACHE shutting down\r\nlost 2 -NEARCACHE shutting down\r\n");
    start();
    close(fd);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        commands_wait_for_the_handshake,
        hello_carries_user_password_and_version,
        a_server_without_hello,
        a_server_that_does_not_speak_resp3,
        refused_in_the_handshake,
        no_answer_to_the_handshake,
        nobody_listens,
        what_is_returned_is_lent_again,
        there_is_a_limit,
        an_idle_one_of_another_kind_makes_room,
        state_that_the_server_agreed_to,
        what_is_still_owed_comes_to_its_owners,
        discarding_tells_the_owners,
        idle_ones_are_closed_in_time,
        messages_among_replies_in_resp2,
        arrays_are_replies_to_who_has_not_subscribed,
        messages_among_replies_in_resp3,
        a_reply_may_be_longer_than_it_says,
        a_message_for_nobody_is_dropped,
        a_message_is_for_whom_it_began,
        messages_may_settle_what_was_asked,
        a_reply_that_nobody_asked_for,
        all_share_one,
        a_huge_bulk_string_is_passed_by,
        what_is_not_huge_is_waited_for,
        a_huge_array_is_passed_by,
        a_huge_request_is_passed_by,
        each_is_told_when_it_is_late,
        what_comes_late_is_somebody_elses,
        queued_for_too_long,
        one_that_says_nothing_is_replaced,
        an_open_breaker_refuses,
        nobody_there_opens_it_and_one_probe_closes_it,
        a_connection_that_is_there_is_probed,
        a_probe_may_be_late,
        the_wrong_password_is_not_tried_often,
        a_private_one_refused_alone_says_nothing_of_the_node,
        one_that_is_lost_at_once_is_not_opened_at_once,
        readonly_has_connections_replaced,
        one_in_use_is_not_replaced_for_ever,
        patience,
        patience_with_a_frozen_server_has_an_end,
        messages_are_a_sign_of_life_of_the_connection,
        the_server_leaves,
        the_proxy_leaves,
    };
    Suite *s = suite_create("upstream");
    TCase *t = tcase_create("upstream");
    tcase_add_checked_fixture(t, setup, teardown);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
