/* test_push.c - messages of the server: what they are, and what the client sees of them. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "push.h"

static struct namespace ns;
static struct budget budget;
static struct chunk_pool pool = {.budget = &budget};

static void setup(void)
{
    ck_assert(namespace_init(&ns, "svc:"));
}

static void teardown(void)
{
    namespace_free(&ns);
    chunk_pool_drain(&pool);
}

static void check_kind(const char *frame, enum push_kind kind, int64_t count)
{
    struct push push = push_read(frame, strlen(frame));
    ck_assert_msg(push.kind == kind && push.count == count, "%s", frame);
}

/* `expected` "": nothing is written. */
static void check_write_as(bool namespaced, const char *frame, const char *expected)
{
    struct chain out;
    struct iovec piece;
    chain_init(&out, &pool);
    size_t n = strlen(frame);
    char *block = malloc(n); /* so that a read behind it is seen */
    memcpy(block, frame, n);
    push_write(&ns, namespaced, 77, block, n, &out);
    free(block);
    ck_assert_msg(out.len == strlen(expected), "%s", frame);
    if (out.len) {
        ck_assert_int_eq(chain_iov(&out, &piece, 1), 1);
        ck_assert_msg(memcmp(piece.iov_base, expected, out.len) == 0, "%.*s", (int)out.len,
                      (char *)piece.iov_base);
    }
    chain_clear(&out);
}

static void check_write(const char *frame, const char *expected)
{
    check_write_as(false, frame, expected);
    check_write_as(true, frame, expected);
}

START_TEST(confirmations_are_counted)
{
    check_kind("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", PUSH_SUBSCRIBE, 1);
    check_kind(">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:12\r\n", PUSH_SUBSCRIBE, 12);
    check_kind("*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", PUSH_UNSUBSCRIBE, 0);
    check_kind(">3\r\n$12\r\npunsubscribe\r\n_\r\n:3\r\n", PUSH_PUNSUBSCRIBE, 3);
    check_kind("*3\r\n$10\r\npsubscribe\r\n$0\r\n\r\n:4\r\n", PUSH_PSUBSCRIBE, 4);
    check_kind("*3\r\n$10\r\nssubscribe\r\n$1\r\nc\r\n:1\r\n", PUSH_SSUBSCRIBE, 1);
    check_kind("*3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n", PUSH_SUNSUBSCRIBE, 0);
}
END_TEST

START_TEST(all_else_is_not_a_confirmation)
{
    check_kind("*3\r\n$7\r\nmessage\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n", PUSH_OTHER, 0);
    check_kind(">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nsvc:k\r\n", PUSH_OTHER, 0);
    check_kind(">0\r\n", PUSH_OTHER, 0);
    check_kind(">1\r\n:1\r\n", PUSH_OTHER, 0);
    check_kind(">1\r\n$9\r\nsubscribe\r\n", PUSH_OTHER, 0);
    check_kind(">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n$1\r\nx\r\n", PUSH_OTHER, 0);
    check_kind("+OK\r\n", PUSH_OTHER, 0);
}
END_TEST

START_TEST(plain_messages_pass)
{
    static const char *const frames[] = {
        "*3\r\n$7\r\nmessage\r\n$4\r\nchat\r\n$2\r\nhi\r\n",
        ">3\r\n$7\r\nmessage\r\n$4\r\nchat\r\n$0\r\n\r\n",
        "*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$4\r\nchat\r\n$5\r\nsvc:x\r\n",
        ">3\r\n$8\r\nsmessage\r\n$1\r\ns\r\n$1\r\nx\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$4\r\nchat\r\n:1\r\n",
        ">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n",
        "*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n",
        ">2\r\n$6\r\nserver\r\n$5\r\nsvc:x\r\n",
        ">0\r\n",
        ">1\r\n:1\r\n",
        ">1\r\n$7\r\nmessage\r\n",
    };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++)
        check_write_as(false, frames[i], frames[i]);
}
END_TEST

START_TEST(channels_in_the_namespace)
{
    check_write_as(true, "*3\r\n$7\r\nmessage\r\n$8\r\nsvc:chat\r\n$5\r\nsvc:x\r\n",
                   "*3\r\n$7\r\nmessage\r\n$4\r\nchat\r\n$5\r\nsvc:x\r\n");
    check_write_as(true, ">4\r\n$8\r\npmessage\r\n$6\r\nsvc:c*\r\n$8\r\nsvc:chat\r\n$1\r\nx\r\n",
                   ">4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$4\r\nchat\r\n$1\r\nx\r\n");
    check_write_as(true, ">3\r\n$8\r\nsmessage\r\n$5\r\nsvc:s\r\n$1\r\nx\r\n",
                   ">3\r\n$8\r\nsmessage\r\n$1\r\ns\r\n$1\r\nx\r\n");
    check_write_as(true, "*3\r\n$9\r\nsubscribe\r\n$8\r\nsvc:chat\r\n:1\r\n",
                   "*3\r\n$9\r\nsubscribe\r\n$4\r\nchat\r\n:1\r\n");
    check_write_as(true, "*3\r\n$12\r\npunsubscribe\r\n$6\r\nsvc:c*\r\n:1\r\n",
                   "*3\r\n$12\r\npunsubscribe\r\n$2\r\nc*\r\n:1\r\n");
    check_write_as(true, "*3\r\n$7\r\nmessage\r\n$16\r\ncache:invalidate\r\n$2\r\n{}\r\n",
                   "*3\r\n$7\r\nmessage\r\n$16\r\ncache:invalidate\r\n$2\r\n{}\r\n");
}
END_TEST

START_TEST(keyspace_notifications)
{
    check_write("*3\r\n$7\r\nmessage\r\n$20\r\n__keyspace@0__:svc:k\r\n$3\r\nset\r\n",
                "*3\r\n$7\r\nmessage\r\n$16\r\n__keyspace@0__:k\r\n$3\r\nset\r\n");
    check_write("*3\r\n$7\r\nmessage\r\n$22\r\n__keyspace@0__:other:k\r\n$3\r\nset\r\n", "");
    check_write(">3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@0__:set\r\n$5\r\nsvc:k\r\n",
                ">3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@0__:set\r\n$1\r\nk\r\n");
    check_write(">3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@0__:set\r\n$7\r\nother:k\r\n", "");
    check_write("*4\r\n$8\r\npmessage\r\n$20\r\n__keyspace@*__:svc:*\r\n"
                "$20\r\n__keyspace@0__:svc:k\r\n$3\r\ndel\r\n",
                "*4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@*__:*\r\n"
                "$16\r\n__keyspace@0__:k\r\n$3\r\ndel\r\n");
    check_write("*4\r\n$8\r\npmessage\r\n$6\r\n__key*\r\n$18\r\n__keyevent@0__:set\r\n"
                "$5\r\nsvc:k\r\n",
                "*4\r\n$8\r\npmessage\r\n$6\r\n__key*\r\n$18\r\n__keyevent@0__:set\r\n"
                "$1\r\nk\r\n");
    check_write("*4\r\n$8\r\npmessage\r\n$6\r\n__key*\r\n$22\r\n__keyspace@0__:other:k\r\n"
                "$3\r\nset\r\n",
                "");
    check_write("*3\r\n$9\r\nsubscribe\r\n$20\r\n__keyspace@0__:svc:k\r\n:1\r\n",
                "*3\r\n$9\r\nsubscribe\r\n$16\r\n__keyspace@0__:k\r\n:1\r\n");
}
END_TEST

START_TEST(invalidations)
{
    check_write(">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nsvc:k\r\n",
                ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
    check_write(">2\r\n$10\r\ninvalidate\r\n*3\r\n$5\r\nsvc:a\r\n$7\r\nother:b\r\n$5\r\nsvc:c\r\n",
                ">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nc\r\n");
    check_write(">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\nother:k\r\n", "");
    check_write(">2\r\n$10\r\ninvalidate\r\n*0\r\n", "");
    check_write(">2\r\n$10\r\ninvalidate\r\n_\r\n", ">2\r\n$10\r\ninvalidate\r\n_\r\n");
    check_write("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$5\r\nsvc:k\r\n",
                "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n");
    check_write("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*-1\r\n",
                "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*-1\r\n");
    check_write("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$3\r\nfoo\r\n", "");
    /* A bulk string is somebody's PUBLISH. */
    check_write("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$5\r\nsvc:k\r\n",
                "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$5\r\nsvc:k\r\n");
}
END_TEST

START_TEST(a_broken_redirect_names_the_clients_own_number)
{
    check_write(">2\r\n$21\r\ntracking-redir-broken\r\n:12345\r\n",
                ">2\r\n$21\r\ntracking-redir-broken\r\n:77\r\n");
}
END_TEST

START_TEST(large_messages)
{
    enum { SIZE = 300000 };
    static const char head[] = "*3\r\n$7\r\nmessage\r\n$8\r\nsvc:chat\r\n$300000\r\n";
    static const char seen[] = "*3\r\n$7\r\nmessage\r\n$4\r\nchat\r\n$300000\r\n";
    char *frame = malloc(sizeof head + SIZE + 2);
    size_t n = sizeof head - 1;
    memcpy(frame, head, n);
    memset(frame + n, 'm', SIZE);
    memcpy(frame + n + SIZE, "\r\n", 2);
    struct chain out;
    chain_init(&out, &pool);
    push_write(&ns, true, 0, frame, n + SIZE + 2, &out);
    ck_assert_uint_eq(out.len, sizeof seen - 1 + SIZE + 2);
    struct iovec piece;
    ck_assert_int_eq(chain_iov(&out, &piece, 1), 1);
    ck_assert(memcmp(piece.iov_base, seen, sizeof seen - 1) == 0);
    chain_clear(&out);
    free(frame);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("push");
    TCase *t = tcase_create("push");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, confirmations_are_counted);
    tcase_add_test(t, all_else_is_not_a_confirmation);
    tcase_add_test(t, plain_messages_pass);
    tcase_add_test(t, channels_in_the_namespace);
    tcase_add_test(t, keyspace_notifications);
    tcase_add_test(t, invalidations);
    tcase_add_test(t, a_broken_redirect_names_the_clients_own_number);
    tcase_add_test(t, large_messages);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
