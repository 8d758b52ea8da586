/* test_resp_reply.c - where replies end, of which type they are, and what is none; cut in every
 * possible way. */
#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "resp.h"

/* A string literal and its length, NULs included. */
#define BYTES(literal) (literal), sizeof(literal) - 1

/* Feeds bytes[0..n): up to `cut`, then `piece` bytes each; each piece is a block of its own, so
 * that a read beyond it is seen. Returns the last status and in *taken how many bytes were used. */
static enum resp_status feed(struct resp_framer *f, const char *bytes, size_t n, size_t cut,
                             size_t piece, size_t *taken)
{
    enum resp_status status = RESP_MORE;
    *taken = 0;
    for (size_t at = 0, end = cut; status == RESP_MORE && at < n; at = end, end += piece) {
        if (end > n)
            end = n;
        size_t used, len = end - at;
        char *block = malloc(len ? len : 1);
        memcpy(block, bytes + at, len);
        status = resp_frame(f, block, len, &used);
        free(block);
        *taken += used;
        if (status == RESP_MORE)
            ck_assert_uint_eq(used, len);
    }
    return status;
}

static void check_cut(const char *bytes, size_t n, size_t cut, size_t piece,
                      enum resp_status expected, char type)
{
    struct resp_framer f = {0};
    size_t taken;
    enum resp_status status = feed(&f, bytes, n, cut, piece, &taken);
    ck_assert_msg(status == expected, "%s: cut at %zu, then every %zu: status %d", bytes, cut,
                  piece, status);
    if (expected == RESP_DONE) {
        ck_assert_msg(taken == n, "%s: took %zu of %zu", bytes, taken, n);
        ck_assert_int_eq(f.type, type);
        ck_assert(!f.busy);
    }
}

static void check_all_cuts(const char *bytes, size_t n, enum resp_status expected, char type)
{
    for (size_t cut = 0; cut <= n; cut++)
        check_cut(bytes, n, cut, n + 1, expected, type);
    check_cut(bytes, n, 1, 1, expected, type);
    check_cut(bytes, n, 2, 3, expected, type);
}

/* It is one reply: it needs all of its bytes and none that follows. */
static void is_reply(const char *bytes, size_t n, char type)
{
    check_all_cuts(bytes, n, RESP_DONE, type);
    for (size_t less = 0; less < n; less++)
        check_cut(bytes, less, 0, n, RESP_MORE, type);

    char *more = malloc(n + 5);
    memcpy(more, bytes, n);
    memcpy(more + n, "\r\n$x!", 5);
    struct resp_framer f = {0};
    size_t used;
    ck_assert_int_eq(resp_frame(&f, more, n + 5, &used), RESP_DONE);
    ck_assert_uint_eq(used, n);
    free(more);
}

/* What is wrong is found at the last byte, and not before. */
static void is_bad(const char *bytes, size_t n)
{
    check_all_cuts(bytes, n, RESP_BAD, 0);
    if (n > 1)
        check_all_cuts(bytes, n - 1, RESP_MORE, 0);
}

START_TEST(frames_resp2)
{
    is_reply(BYTES("+OK\r\n"), '+');
    is_reply(BYTES("+\r\n"), '+');
    is_reply(BYTES("-ERR no\r\n"), '-');
    is_reply(BYTES(":0\r\n"), ':');
    is_reply(BYTES(":-9223372036854775808\r\n"), ':');
    is_reply(BYTES(":9223372036854775807\r\n"), ':');
    is_reply(BYTES("$5\r\nhello\r\n"), '$');
    is_reply(BYTES("$0\r\n\r\n"), '$');
    is_reply(BYTES("$4\r\n\0\r\n+\r\n"), '$');
    is_reply(BYTES("$-1\r\n"), '$');
    is_reply(BYTES("*0\r\n"), '*');
    is_reply(BYTES("*-1\r\n"), '*');
    is_reply(BYTES("*3\r\n$1\r\na\r\n:7\r\n+OK\r\n"), '*');
    is_reply(BYTES("*2\r\n*0\r\n*2\r\n$-1\r\n*1\r\n-ERR\r\n"), '*');
}
END_TEST

START_TEST(frames_resp3)
{
    is_reply(BYTES("_\r\n"), '_');
    is_reply(BYTES("#t\r\n"), '#');
    is_reply(BYTES("#f\r\n"), '#');
    is_reply(BYTES(",1.25\r\n"), ',');
    is_reply(BYTES(",-inf\r\n"), ',');
    is_reply(BYTES("(3492890328409238509324850943850943825024385\r\n"), '(');
    is_reply(BYTES("!5\r\nERR x\r\n"), '!');
    is_reply(BYTES("=7\r\ntxt:abc\r\n"), '=');
    is_reply(BYTES("%0\r\n"), '%');
    is_reply(BYTES("%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n_\r\n#t\r\n"), '%');
    is_reply(BYTES("~2\r\n+a\r\n+b\r\n"), '~');
    is_reply(BYTES(">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n"), '>');
}
END_TEST

START_TEST(attributes_belong_to_what_follows)
{
    is_reply(BYTES("|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n"), '$');
    is_reply(BYTES("|0\r\n:1\r\n"), ':');
    is_reply(BYTES("|1\r\n+a\r\n*2\r\n:1\r\n:2\r\n|1\r\n+b\r\n+c\r\n#f\r\n"), '#');
    is_reply(BYTES("*2\r\n:1\r\n|1\r\n+ttl\r\n:5\r\n:2\r\n"), '*');
    is_reply(BYTES("|1\r\n|1\r\n+x\r\n+y\r\n+a\r\n+b\r\n_\r\n"), '_');
}
END_TEST

START_TEST(lone_carriage_returns_and_newlines_are_text)
{
    is_reply(BYTES("+a\rb\nc\r\r\n"), '+');
    is_reply(BYTES("-\r\r\r\n"), '-');
    is_reply(BYTES("+\n\r\n"), '+');
    is_reply(BYTES("+\0\r\n"), '+');
}
END_TEST

START_TEST(refuses_unknown_types)
{
    static const char GOOD[] = "+-:$*_#,(!=%~>|";
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;
        if (c == 0 || !strchr(GOOD, byte))
            is_bad(&byte, 1);
    }
    is_bad(BYTES("*2\r\n:1\r\nx"));
    is_bad(BYTES("*1\r\n\r"));
}
END_TEST

START_TEST(refuses_streamed_types)
{
    is_bad(BYTES("$?"));
    is_bad(BYTES("*?"));
    is_bad(BYTES("%?"));
    is_bad(BYTES("*1\r\n;"));
    is_bad(BYTES("*1\r\n."));
}
END_TEST

START_TEST(refuses_bad_numbers)
{
    is_bad(BYTES(":\r"));
    is_bad(BYTES(":-\r"));
    is_bad(BYTES(":+"));
    is_bad(BYTES(":--"));
    is_bad(BYTES(":01"));
    is_bad(BYTES(":-0"));
    is_bad(BYTES(":1 "));
    is_bad(BYTES(":1."));
    is_bad(BYTES(":9223372036854775808\r\n"));
    is_bad(BYTES(":-9223372036854775809\r\n"));
    is_bad(BYTES(":12345678901234567890"));
}
END_TEST

START_TEST(refuses_bad_lengths)
{
    is_bad(BYTES("$\r"));
    is_bad(BYTES("$-2\r\n"));
    is_bad(BYTES("*-2\r\n"));
    is_bad(BYTES("$00"));
    is_bad(BYTES("!-1\r\n"));
    is_bad(BYTES("=-1\r\n"));
    is_bad(BYTES("%-1\r\n"));
    is_bad(BYTES("~-1\r\n"));
    is_bad(BYTES(">-1\r\n"));
    is_bad(BYTES("|-1\r\n"));
    is_bad(BYTES("$9223372036854775808\r\n"));
    is_bad(BYTES("*9223372036854775808\r\n"));
    is_bad(BYTES("*99999999999999999999"));
}
END_TEST

START_TEST(refuses_missing_line_ends)
{
    is_bad(BYTES("$1\r\nab"));
    is_bad(BYTES("$1\r\na\rb"));
    is_bad(BYTES("$0\r\n+"));
    is_bad(BYTES("$1\rx"));
    is_bad(BYTES("$1\n"));
    is_bad(BYTES(":1\rx"));
    is_bad(BYTES("_x"));
    is_bad(BYTES("_\rx"));
    is_bad(BYTES("#x"));
    is_bad(BYTES("#tx"));
    is_bad(BYTES("#t\rx"));
}
END_TEST

START_TEST(counts_up_to_the_limit)
{
    check_all_cuts(BYTES("$9223372036854775807\r\nabc"), RESP_MORE, 0);
    check_all_cuts(BYTES("%9223372036854775807\r\n:1\r\n"), RESP_MORE, 0);
    /* 2^64 - 2, one of them taken, and two instead of another: full. One more is too many. */
    check_all_cuts(BYTES("%9223372036854775807\r\n:1\r\n*3\r\n"), RESP_MORE, 0);
    is_bad(BYTES("%9223372036854775807\r\n:1\r\n*3\r\n*2\r\n"));
}
END_TEST

START_TEST(nests_as_deep_as_you_like)
{
    enum { DEPTH = 1000000 };
    char *bytes = malloc(4 * DEPTH + 4);
    for (size_t i = 0; i < DEPTH; i++)
        memcpy(bytes + 4 * i, "*1\r\n", 4);
    memcpy(bytes + 4 * DEPTH, ":1\r\n", 4);
    check_cut(bytes, 4 * DEPTH + 4, 0, 4 * DEPTH + 4, RESP_DONE, '*');
    check_cut(bytes, 4 * DEPTH + 4, 1, 1000, RESP_DONE, '*');
    free(bytes);
}
END_TEST

START_TEST(is_ready_for_the_next_reply)
{
    static const char PIPELINE[] =
        "$5\r\nhello\r\n+OK\r\n*1\r\n|1\r\n+a\r\n+b\r\n:1\r\n_\r\n:-1\r\n";
    static const char TYPES[] = "$+*_:";
    for (size_t piece = 1; piece < sizeof PIPELINE; piece++) {
        struct resp_framer f = {0};
        size_t at = 0, used;
        for (size_t i = 0; i < sizeof TYPES - 1; at += used) {
            size_t left = sizeof PIPELINE - 1 - at;
            enum resp_status status =
                resp_frame(&f, PIPELINE + at, left < piece ? left : piece, &used);
            ck_assert_int_ne(status, RESP_BAD);
            if (status == RESP_DONE)
                ck_assert_int_eq(f.type, TYPES[i++]);
        }
        ck_assert_uint_eq(at, sizeof PIPELINE - 1);
    }
}
END_TEST

START_TEST(nothing_is_not_the_beginning)
{
    struct resp_framer f = {0};
    size_t used = 1;
    ck_assert_int_eq(resp_frame(&f, NULL, 0, &used), RESP_MORE);
    ck_assert_uint_eq(used, 0);
    ck_assert(!f.busy);
    ck_assert_int_eq(resp_frame(&f, "+", 1, &used), RESP_MORE);
    ck_assert(f.busy);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        frames_resp2,
        frames_resp3,
        attributes_belong_to_what_follows,
        lone_carriage_returns_and_newlines_are_text,
        refuses_unknown_types,
        refuses_streamed_types,
        refuses_bad_numbers,
        refuses_bad_lengths,
        refuses_missing_line_ends,
        counts_up_to_the_limit,
        nests_as_deep_as_you_like,
        is_ready_for_the_next_reply,
        nothing_is_not_the_beginning,
    };
    Suite *suite = suite_create("resp_reply");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 60); /* the sanitizers and valgrind are slow */
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        tcase_add_test(cases, tests[i]);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
