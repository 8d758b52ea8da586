/* test_announce.c - events of what was written: their text, and what of a turn goes out and where,
 * against a scripted server. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "announce.h"
#include "notice.h"
#include "query.h"
#include "resp_read.h"
#include "wire.h"

#define BYTES(text)                                                                                \
    {                                                                                              \
        text, sizeof text - 1                                                                      \
    }
#define SLICE(text) ((struct resp_slice)BYTES(text))

/* --- the text of one event ----------------------------------------------------------------------
 */

static void ck_event(struct resp_slice key, const char *quoted)
{
    char want[256];
    char *event = announce_event("svc", &key, 1760000000000, "00112233445566ff");
    snprintf(want, sizeof want,
             "{\"service\":\"svc\",\"key\":%s,\"timestamp\":1760000000000,"
             "\"origin\":\"00112233445566ff\"}",
             quoted);
    ck_assert_ptr_nonnull(event);
    ck_assert_str_eq(event, want);
    free(event);
}

START_TEST(text_of_a_key)
{
    ck_event(SLICE("user:123"), "\"user:123\"");
    ck_event(SLICE(""), "\"\"");
    ck_event((struct resp_slice){NULL, 0}, "\"\"");
    ck_event(SLICE("a\"b\\c/d"), "\"a\\\"b\\\\c/d\"");
    ck_event(SLICE("\b\f\n\r\t\x01\x1f"), "\"\\b\\f\\n\\r\\t\\u0001\\u001f\"");
    ck_event(SLICE("\x7f\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"),
             "\"\x7f\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
    ck_event((struct resp_slice){"user:123", 4}, "\"user\""); /* nothing behind it */
}
END_TEST

START_TEST(text_of_all_keys)
{
    char *event = announce_event("s\"v\xc3\xa9", NULL, 0, "o");
    ck_assert_str_eq(event, "{\"service\":\"s\\\"v\xc3\xa9\",\"prefix\":\"\",\"timestamp\":0,"
                            "\"origin\":\"o\"}");
    free(event);
}
END_TEST

/* UTF-8 as RFC 3629 has it, at the edges of each row of its table; a NUL would end the text. */
START_TEST(what_json_can_carry)
{
    static const struct resp_slice yes[] = {BYTES("\x01"),
                                            BYTES("\x7f"),
                                            BYTES("\xc2\x80"),
                                            BYTES("\xdf\xbf"),
                                            BYTES("\xe0\xa0\x80"),
                                            BYTES("\xed\x9f\xbf"),
                                            BYTES("\xee\x80\x80"),
                                            BYTES("\xef\xbf\xbf"),
                                            BYTES("\xf0\x90\x80\x80"),
                                            BYTES("\xf1\x80\x80\x80"),
                                            BYTES("\xf4\x8f\xbf\xbf")};
    static const struct resp_slice no[] = {BYTES("\0"),
                                           BYTES("a\0b"),
                                           BYTES("\x80"),
                                           BYTES("\xbf"),
                                           BYTES("\xff"),
                                           BYTES("\xfe"),
                                           BYTES("\xc0\x80"),
                                           BYTES("\xc1\xbf"), /* overlong */
                                           BYTES("\xe0\x80\x80"),
                                           BYTES("\xe0\x9f\xbf"),
                                           BYTES("\xf0\x80\x80\x80"),
                                           BYTES("\xf0\x8f\xbf\xbf"),
                                           BYTES("\xed\xa0\x80"),
                                           BYTES("\xed\xbf\xbf"), /* surrogates */
                                           BYTES("\xf4\x90\x80\x80"),
                                           BYTES("\xf5\x80\x80\x80"), /* beyond Unicode */
                                           BYTES("\xc2"),
                                           BYTES("\xe2\x82"),
                                           BYTES("\xf0\x9f\x98"), /* cut */
                                           BYTES("\xc2"
                                                 "a"),
                                           BYTES("\xe2\x82"
                                                 "a"),
                                           BYTES("\xf0\x9f\x98"
                                                 "a"),
                                           BYTES("\xc2\xc2\x80"),
                                           BYTES("\xe2\x28\xa1"),
                                           BYTES("ok\xffok")};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        char *event = announce_event("s", &yes[i], 1, "o");
        ck_assert_msg(event != NULL, "%zu", i);
        free(event);
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        ck_assert_msg(announce_event("s", &no[i], 1, "o") == NULL, "%zu", i);
}
END_TEST

/* A slice ends where it ends, be the next byte what it may. */
START_TEST(a_character_cut_by_the_end_of_the_key)
{
    const struct resp_slice cut = {"\xe2\x82\xac", 2};
    ck_assert_ptr_null(announce_event("s", &cut, 1, "o"));
}
END_TEST

/* --- what a server gets -------------------------------------------------------------------------
 */

#define PREFIX "svc:"

static struct loop loop;
static struct metrics metrics;
static struct upstream_address address;
static struct log *log_;
static struct upstream *up;
static struct namespace ns;
static struct announce *announce;
static char directory[64], path[100], label[] = "here";
static int listener;

static const struct announce_lane LANE = {.db = 0, .resp = 2, .slot = 0};

static void on_bytes(void *ctx, void *owner, unsigned tag, const char *p, size_t n)
{
    (void)ctx, (void)owner, (void)tag, (void)p, (void)n;
}

static void on_done(void *ctx, void *owner, unsigned tag, char type)
{
    (void)ctx, (void)owner, (void)tag, (void)type;
}

static void on_lost(void *ctx, void *owner, unsigned tag, const char *error)
{
    (void)ctx, (void)owner, (void)tag, (void)error;
}

static const struct upstream_callbacks callbacks = {
    .replies = {.bytes = on_bytes, .done = on_done, .lost = on_lost}};

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

static void setup(void)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(directory, sizeof directory, "/tmp/announce.XXXXXX");
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
    up = upstream_new(&loop,
                      &(struct upstream_options){.address = &address,
                                                 .client_name = "name",
                                                 .connections = 1,
                                                 .private_max = 1,
                                                 .connect_timeout = 1000,
                                                 .timeout = 1000,
                                                 .scan_timeout = 1000},
                      &callbacks, NULL, log_, &metrics);
    ck_assert(up && namespace_init(&ns, PREFIX));
    announce = announce_new(&loop, up, &ns, "svc", NULL, &metrics);
    ck_assert_ptr_nonnull(announce);
}

static void teardown(void)
{
    announce_free(announce);
    upstream_free(up);
    namespace_free(&ns);
    loop_free(&loop);
    log_free(log_);
    close(listener);
    unlink(path);
    rmdir(directory);
}

/* The server's end of a connection of this lane that is ready. */
static int connect_lane(struct announce_lane lane)
{
    static const char hello_reply[] = "*2\r\n$2\r\nid\r\n:1\r\n+OK\r\n";
    char hello[256];
    ck_assert_ptr_nonnull(upstream_get(up, lane.db, lane.resp, lane.slot, 0));
    upstream_tick(up, loop_now(&loop));
    turn();
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    ck_assert_int_ge(fd, 0);
    turn();
    ck_assert_int_gt(read(fd, hello, sizeof hello), 0);
    ssize_t n = (ssize_t)sizeof hello_reply - 1 - (lane.db ? 0 : 5);
    ck_assert_int_eq(write(fd, hello_reply, (size_t)n), n);
    turn();
    (void)!read(fd, hello, sizeof hello); /* SELECT */
    return fd;
}

/* A command of a client, as if it were a write. */
static void send_write(struct announce_lane lane, const char *name)
{
    struct upstream_conn *uc = upstream_get(up, lane.db, lane.resp, lane.slot, 0);
    ck_assert(uc && upstream_expect(uc, NULL, REPLY_IGNORED));
    wire_command(upstream_out(uc), (struct resp_slice[]){wire_text(name)}, 1);
    upstream_sent(uc);
}

static void key(struct announce_lane lane, const char *name)
{
    announce_key(announce, lane, (struct resp_slice){name, strlen(name)});
}

/* The same text with 'T' for the timestamp and 'O' for our origin. */
static size_t mask(struct resp_slice s, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len;) {
        size_t digits = 0;
        while (i + digits < s.len && s.data[i + digits] >= '0' && s.data[i + digits] <= '9')
            digits++;
        if (s.len - i >= 16 && memcmp(s.data + i, announce_origin(announce), 16) == 0) {
            out[n++] = 'O';
            i += 16;
        } else if (digits > 9) {
            uint64_t ms = strtoull(s.data + i, NULL, 10), now = (uint64_t)time(NULL) * 1000;
            ck_assert_uint_le(now - 60000, ms);
            ck_assert_uint_le(ms, now + 60000);
            out[n++] = 'T';
            i += digits;
        } else {
            out[n++] = s.data[i++];
        }
    }
    return n;
}

#define EVENT(what)                                                                                \
    "PUBLISH cache:invalidate {\"service\":\"svc\"," what ",\"timestamp\":T,\"origin\":\"O\"}\n"
#define RAW(name) "PUBLISH cache:invalidate:l1 " name "\n"

/* Everything that came, a line per command. */
static size_t received(int fd, char *text)
{
    static char bytes[1 << 20];
    size_t n = 0, len = 0, argc;
    ssize_t got;
    turn();
    while ((got = read(fd, bytes + len, sizeof bytes - len)) > 0) {
        len += (size_t)got;
        turn();
    }
    struct resp_reader r = {bytes, bytes + len};
    struct resp_slice word;
    while (resp_read_array(&r, &argc)) {
        for (size_t i = 0; i < argc; i++) {
            ck_assert(resp_read_bulk(&r, &word));
            n += mask(word, text + n);
            text[n++] = i + 1 < argc ? ' ' : '\n';
        }
    }
    ck_assert_ptr_eq(r.p, bytes + len);
    text[n] = '\0';
    return n;
}

static void ck_received(int fd, const char *want, size_t len)
{
    static char text[1 << 20];
    size_t n = received(fd, text);
    ck_assert_str_eq(text, want); /* for a message that can be read */
    ck_assert_uint_eq(n, len);
    ck_assert_mem_eq(text, want, n);
}
#define CK_RECEIVED(fd, want) ck_received(fd, want, sizeof want - 1)

START_TEST(origins_differ)
{
    struct announce *other = announce_new(&loop, up, &ns, "svc", NULL, &metrics);
    const char *a = announce_origin(announce), *b = announce_origin(other);
    ck_assert_uint_eq(strlen(a), 16);
    ck_assert_uint_eq(strspn(a, "0123456789abcdef"), 16);
    ck_assert_str_ne(a, b);
    announce_free(other);
    announce_free(NULL);
}
END_TEST

START_TEST(events_follow_the_writes_of_their_turn)
{
    int fd = connect_lane(LANE);
    send_write(LANE, "SET1");
    key(LANE, "one");
    send_write(LANE, "SET2");
    key(LANE, "two");
    send_write(LANE, "GET");
    CK_RECEIVED(fd, "SET1\nSET2\nGET\n" EVENT("\"key\":\"one\"") EVENT("\"key\":\"two\""));
    ck_assert_uint_eq(metrics.events_published, 2);
    CK_RECEIVED(fd, "");
    close(fd);
}
END_TEST

START_TEST(once_a_turn)
{
    int fd = connect_lane(LANE);
    for (int i = 0; i < 3; i++) {
        key(LANE, "one");
        key(LANE, "");
        announce_all(announce, LANE);
    }
    CK_RECEIVED(fd, EVENT("\"key\":\"one\"") EVENT("\"key\":\"\"") EVENT("\"prefix\":\"\""));
    key(LANE, "one"); /* in the next one again */
    CK_RECEIVED(fd, EVENT("\"key\":\"one\""));
    ck_assert_uint_eq(metrics.events_published, 4);
    close(fd);
}
END_TEST

START_TEST(names_of_equal_length_and_prefixes_differ)
{
    int fd = connect_lane(LANE);
    key(LANE, "aa"), key(LANE, "ab"), key(LANE, "a"), key(LANE, "aa");
    CK_RECEIVED(fd, EVENT("\"key\":\"aa\"") EVENT("\"key\":\"ab\"") EVENT("\"key\":\"a\""));
    close(fd);
}
END_TEST

START_TEST(the_name_is_copied)
{
    int fd = connect_lane(LANE);
    char name[] = "one";
    key(LANE, name);
    memcpy(name, "two", 3);
    CK_RECEIVED(fd, EVENT("\"key\":\"one\""));
    close(fd);
}
END_TEST

START_TEST(each_lane_has_its_own)
{
    static const struct announce_lane other = {.db = 1, .resp = 2}, third = {.resp = 3};
    int fd = connect_lane(LANE), fd1 = connect_lane(other), fd3 = connect_lane(third);
    key(LANE, "k"), key(other, "k"), key(third, "k");
    key(other, "l");
    CK_RECEIVED(fd, EVENT("\"key\":\"k\""));
    CK_RECEIVED(fd1, EVENT("\"key\":\"k\"") EVENT("\"key\":\"l\""));
    CK_RECEIVED(fd3, EVENT("\"key\":\"k\""));
    close(fd), close(fd1), close(fd3);
}
END_TEST

START_TEST(binary_names_go_to_the_raw_channel)
{
    int fd = connect_lane(LANE);
    announce_key(announce, LANE, SLICE("\xff\xfe"));
    announce_key(announce, LANE, SLICE("a\0b"));
    announce_key(announce, LANE, SLICE("a\0c"));
    CK_RECEIVED(fd, RAW(PREFIX "\xff\xfe") RAW(PREFIX "a\0b") RAW(PREFIX "a\0c"));
    ck_assert_uint_eq(metrics.events_published, 3);
    close(fd);
}
END_TEST

START_TEST(thousands_in_a_turn)
{
    enum { N = 3000 };
    static char text[1 << 20], seen[N];
    int fd = connect_lane(LANE);
    char name[32], *line = text;
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "k%d", i);
        key(LANE, name);
        key(LANE, name);
    }
    received(fd, text);
    for (char *save = NULL, *s = strtok_r(line, "\n", &save); s; s = strtok_r(NULL, "\n", &save)) {
        int i;
        ck_assert_int_eq(
            sscanf(s, "PUBLISH cache:invalidate {\"service\":\"svc\",\"key\":\"k%d\"", &i), 1);
        seen[i]++;
    }
    for (int i = 0; i < N; i++)
        if (seen[i] != 1)
            ck_abort_msg("%d: %d", i, seen[i]);
    close(fd);
}
END_TEST

START_TEST(nobody_to_tell)
{
    address.path = (char[]){"/nonexistent/socket"};
    (void)upstream_get(up, 0, 2, 0, 0);
    turn();
    key(LANE, "k");
    turn();
    ck_assert_uint_eq(metrics.events_published, 0); /* best effort, and nothing is left over */
}
END_TEST

START_TEST(freed_with_events_to_go)
{
    int fd = connect_lane(LANE);
    key(LANE, "k");
    announce_all(announce, LANE);
    announce_free(announce);
    announce = NULL;
    char byte;
    turn();
    ck_assert_int_eq(read(fd, &byte, 1), -1);
    close(fd);
}
END_TEST

/* --- and back -----------------------------------------------------------------------------------
 */

struct heard {
    int keys, prefixes;
    struct resp_slice want;
};

static void hear_key(void *ctx, struct resp_slice name)
{
    struct heard *h = ctx;
    h->keys++;
    ck_assert_uint_eq(name.len, h->want.len);
    if (name.len)
        ck_assert_mem_eq(name.data, h->want.data, name.len);
}

static void hear_prefix(void *ctx, struct resp_slice prefix)
{
    struct heard *h = ctx;
    h->prefixes++;
    ck_assert_uint_eq(prefix.len, 0);
}

static enum notice_result hear(struct heard *h, const char *service, const char *event,
                               const char *origin)
{
    const struct notice_sink sink = {hear_key, hear_prefix, h};
    return notice_read(&ns, service, origin, wire_text(NOTICE_CHANNEL), wire_text(event), &sink);
}

START_TEST(others_read_what_we_say)
{
    static const struct resp_slice names[] = {BYTES("user:1"), BYTES(""), BYTES("a\"\\\n\x01\x7f"),
                                              BYTES("\xc3\xa9\xf0\x9f\x98\x80")};
    struct heard h = {0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *event = announce_event("s\"v", &names[i], 7, "me");
        h.want = names[i];
        ck_assert_int_eq(hear(&h, "s\"v", event, "you"), NOTICE_KEYS);
        ck_assert_int_eq(hear(&h, "s\"v", event, "me"), NOTICE_OWN);
        ck_assert_int_eq(hear(&h, "svc", event, "you"), NOTICE_FOREIGN);
        ck_assert_int_eq(h.keys, (int)i + 1);
        free(event);
    }
    char *event = announce_event("svc", NULL, 7, "me");
    ck_assert_int_eq(hear(&h, "svc", event, "you"), NOTICE_KEYS);
    ck_assert_int_eq(h.prefixes, 1);
    free(event);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("announce");
    TCase *t = tcase_create("announce");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, text_of_a_key);
    tcase_add_test(t, text_of_all_keys);
    tcase_add_test(t, what_json_can_carry);
    tcase_add_test(t, a_character_cut_by_the_end_of_the_key);
    tcase_add_test(t, origins_differ);
    tcase_add_test(t, events_follow_the_writes_of_their_turn);
    tcase_add_test(t, once_a_turn);
    tcase_add_test(t, names_of_equal_length_and_prefixes_differ);
    tcase_add_test(t, the_name_is_copied);
    tcase_add_test(t, each_lane_has_its_own);
    tcase_add_test(t, binary_names_go_to_the_raw_channel);
    tcase_add_test(t, thousands_in_a_turn);
    tcase_add_test(t, nobody_to_tell);
    tcase_add_test(t, freed_with_events_to_go);
    tcase_add_test(t, others_read_what_we_say);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
