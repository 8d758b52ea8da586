/* test_resp_rewrite.c - the prefix goes from where keys are, and from nowhere else; cut in every
 * possible way. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp.h"

static void collect(void *ctx, const char *p, size_t n)
{
    ck_assert_uint_gt(n, 0);
    fwrite(p, 1, n, ctx);
}

/* Rewrites `in`, which comes in pieces: up to `cut`, then `piece` bytes each. */
static char *rewritten(struct resp_rewriter *rw, const char *in, size_t cut, size_t piece)
{
    char *text;
    size_t size, n = strlen(in);
    FILE *out = open_memstream(&text, &size);
    enum resp_status status = RESP_MORE;
    for (size_t at = 0, end = cut; at < n; at = end, end += piece) {
        if (end > n)
            end = n;
        size_t used, len = end - at;
        char *block = malloc(len ? len : 1); /* so that a read beyond the piece is seen */
        memcpy(block, in + at, len);
        ck_assert_int_eq(status, RESP_MORE);
        status = resp_rewrite(rw, block, len, &used, collect, out);
        ck_assert_uint_eq(used, len);
        free(block);
    }
    ck_assert_int_eq(status, RESP_DONE);
    fclose(out);
    return text;
}

static void check_cut(struct resp_rewriter *rw, const char *in, size_t cut, size_t piece,
                      const char *expected)
{
    char *text = rewritten(rw, in, cut, piece);
    ck_assert_msg(strcmp(text, expected) == 0, "%s: cut at %zu, then every %zu: %s", in, cut, piece,
                  text);
    free(text);
}

static void check_prefix(const char *prefix, enum resp_keys kind, const char *in,
                         const char *expected)
{
    /* A copy of just the prefix, which the rewriter is not to need any more afterwards. */
    size_t len = strlen(prefix);
    char *copy = malloc(len ? len : 1);
    memcpy(copy, prefix, len);
    struct resp_rewriter *rw = resp_rewriter_new(kind, (struct resp_slice){copy, len});
    free(copy);
    ck_assert_ptr_nonnull(rw);

    size_t n = strlen(in);
    for (size_t cut = 0; cut <= n; cut++)
        check_cut(rw, in, cut, n, expected);
    check_cut(rw, in, 1, 1, expected);
    check_cut(rw, in, 2, 3, expected);
    resp_rewriter_free(rw);
}

static void check(enum resp_keys kind, const char *in, const char *expected)
{
    check_prefix("svc:", kind, in, expected);
}

static void unchanged(enum resp_keys kind, const char *in)
{
    check(kind, in, in);
}

START_TEST(strips_all)
{
    check(RESP_KEYS_ALL, "*3\r\n$5\r\nsvc:a\r\n$4\r\nsvc:\r\n$16\r\nsvc:a long key\r\n\r\n",
          "*3\r\n$1\r\na\r\n$0\r\n\r\n$12\r\na long key\r\n\r\n");
    check(RESP_KEYS_ALL, "$5\r\nsvc:a\r\n", "$1\r\na\r\n");
    check(RESP_KEYS_ALL, "~1\r\n$5\r\nsvc:a\r\n", "~1\r\n$1\r\na\r\n");
    unchanged(RESP_KEYS_ALL, "$-1\r\n");
    unchanged(RESP_KEYS_ALL, "_\r\n");
    unchanged(RESP_KEYS_ALL, "*0\r\n");
    unchanged(RESP_KEYS_ALL, "*-1\r\n");
    unchanged(RESP_KEYS_ALL, "+svc:a\r\n");
}
END_TEST

START_TEST(other_names_pass_unchanged)
{
    unchanged(RESP_KEYS_ALL, "*6\r\n$3\r\nsvc\r\n$0\r\n\r\n$5\r\nsvd:a\r\n$6\r\nxsvc:a\r\n$-1\r\n"
                             "$8\r\nsvcsvc:a\r\n");
    unchanged(RESP_KEYS_ALL, "*3\r\n:1\r\n+svc:a\r\n*1\r\n$5\r\nsvc:a\r\n");
    check(RESP_KEYS_ALL, "$9\r\nsvc:svc:a\r\n", "$5\r\nsvc:a\r\n");
}
END_TEST

START_TEST(strips_the_first)
{
    check(RESP_KEYS_FIRST, "*2\r\n$5\r\nsvc:a\r\n*1\r\n$5\r\nsvc:v\r\n",
          "*2\r\n$1\r\na\r\n*1\r\n$5\r\nsvc:v\r\n");
    check(RESP_KEYS_FIRST, "*3\r\n$5\r\nsvc:a\r\n$5\r\nsvc:m\r\n,1.5\r\n",
          "*3\r\n$1\r\na\r\n$5\r\nsvc:m\r\n,1.5\r\n");
    unchanged(RESP_KEYS_FIRST, "*-1\r\n");
    unchanged(RESP_KEYS_FIRST, "$5\r\nsvc:a\r\n");
}
END_TEST

START_TEST(strips_a_scan)
{
    check(RESP_KEYS_SCAN, "*2\r\n$5\r\nsvc:0\r\n*2\r\n$5\r\nsvc:a\r\n$5\r\nsvc:b\r\n",
          "*2\r\n$5\r\nsvc:0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    unchanged(RESP_KEYS_SCAN, "*2\r\n$1\r\n0\r\n*0\r\n");
    unchanged(RESP_KEYS_SCAN, "*2\r\n*1\r\n$5\r\nsvc:a\r\n$5\r\nsvc:b\r\n");
    unchanged(RESP_KEYS_SCAN, "*3\r\n:0\r\n:0\r\n*1\r\n$5\r\nsvc:a\r\n");
}
END_TEST

START_TEST(strips_streams)
{
    static const char ENTRIES[] = "*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$5\r\nsvc:f\r\n$5\r\nsvc:v\r\n";
    char in[512], out[512];
    snprintf(in, sizeof in, "*2\r\n*2\r\n$5\r\nsvc:a\r\n%s*2\r\n$5\r\nsvc:b\r\n*0\r\n", ENTRIES);
    snprintf(out, sizeof out, "*2\r\n*2\r\n$1\r\na\r\n%s*2\r\n$1\r\nb\r\n*0\r\n", ENTRIES);
    check(RESP_KEYS_STREAMS, in, out);
    snprintf(in, sizeof in, "%%2\r\n$5\r\nsvc:a\r\n%s$5\r\nsvc:b\r\n*1\r\n$5\r\nsvc:c\r\n",
             ENTRIES);
    snprintf(out, sizeof out, "%%2\r\n$1\r\na\r\n%s$1\r\nb\r\n*1\r\n$5\r\nsvc:c\r\n", ENTRIES);
    check(RESP_KEYS_STREAMS, in, out);
    unchanged(RESP_KEYS_STREAMS, "*-1\r\n");
    unchanged(RESP_KEYS_STREAMS, "_\r\n");
    unchanged(RESP_KEYS_STREAMS, "*1\r\n$5\r\nsvc:a\r\n");
    unchanged(RESP_KEYS_STREAMS, "%1\r\n:1\r\n$5\r\nsvc:a\r\n");
}
END_TEST

START_TEST(strips_keys_and_flags)
{
    check(RESP_KEYS_GETKEYSANDFLAGS,
          "*2\r\n*2\r\n$5\r\nsvc:a\r\n~1\r\n+RW\r\n*2\r\n$5\r\nsvc:b\r\n*1\r\n$5\r\nsvc:x\r\n",
          "*2\r\n*2\r\n$1\r\na\r\n~1\r\n+RW\r\n*2\r\n$1\r\nb\r\n*1\r\n$5\r\nsvc:x\r\n");
}
END_TEST

START_TEST(sees_through_attributes)
{
    check(RESP_KEYS_ALL, "|1\r\n$5\r\nsvc:x\r\n$5\r\nsvc:y\r\n*1\r\n$5\r\nsvc:a\r\n",
          "|1\r\n$5\r\nsvc:x\r\n$5\r\nsvc:y\r\n*1\r\n$1\r\na\r\n");
    check(RESP_KEYS_SCAN,
          "*2\r\n:0\r\n|0\r\n*2\r\n|1\r\n+x\r\n*1\r\n:1\r\n$5\r\nsvc:a\r\n|0\r\n$5\r\nsvc:b\r\n",
          "*2\r\n:0\r\n|0\r\n*2\r\n|1\r\n+x\r\n*1\r\n:1\r\n$1\r\na\r\n|0\r\n$1\r\nb\r\n");
    check(RESP_KEYS_FIRST, "*2\r\n|1\r\n+x\r\n+y\r\n$5\r\nsvc:a\r\n$5\r\nsvc:b\r\n",
          "*2\r\n|1\r\n+x\r\n+y\r\n$1\r\na\r\n$5\r\nsvc:b\r\n");
    check(RESP_KEYS_FIRST, "|1\r\n-\r\n-:1\r\n+b\r\n", "|1\r\n-\r\n-:1\r\n+b\r\n");
    check(RESP_KEYS_ERROR, "|1\r\n+x\r\n-svc 'svc:'\r\n-ERR 'svc:a'\r\n",
          "|1\r\n+x\r\n-svc 'svc:'\r\n-ERR 'a'\r\n");
}
END_TEST

/* Only these names, wherever they are: what a script returns may be a key or may look like one. */
static void check_named(const char *in, const char *expected)
{
    const struct resp_slice prefix = {"svc:", 4};
    const struct resp_slice names[] = {{"a", 1}, {"user:1", 6}, {"", 0}, {"a\r\n", 3}, {"a", 1}};
    struct resp_rewriter *rw = resp_rewriter_new_named(prefix, names, sizeof names / sizeof *names);
    ck_assert_ptr_nonnull(rw);
    size_t n = strlen(in);
    for (size_t cut = 0; cut <= n; cut++)
        check_cut(rw, in, cut, n, expected);
    check_cut(rw, in, 1, 1, expected);
    check_cut(rw, in, 2, 3, expected);
    resp_rewriter_free(rw);
}

START_TEST(strips_the_names_given)
{
    check_named("$5\r\nsvc:a\r\n", "$1\r\na\r\n");
    check_named("$10\r\nsvc:user:1\r\n", "$6\r\nuser:1\r\n");
    check_named("$4\r\nsvc:\r\n", "$0\r\n\r\n");
    check_named("$7\r\nsvc:a\r\n\r\n", "$3\r\na\r\n\r\n");
    check_named("*3\r\n:1\r\n*2\r\n$5\r\nsvc:a\r\n*0\r\n$5\r\nsvc:a\r\n",
                "*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n$1\r\na\r\n");
    check_named("%1\r\n$5\r\nsvc:a\r\n~1\r\n$5\r\nsvc:a\r\n", "%1\r\n$1\r\na\r\n~1\r\n$1\r\na\r\n");
    check_named("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n$5\r\nsvc:a\r\n",
                "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n$1\r\na\r\n");
    check_named("-ERR no such key 'svc:k'\r\n", "-ERR no such key 'k'\r\n");
}
END_TEST

START_TEST(strips_no_other_names)
{
    static const char *const table[] = {
        "$5\r\nsvc:b\r\n",
        "$10\r\nsvc:user:2\r\n",
        "$10\r\nsvd:user:1\r\n",
        "$6\r\nsvc:aa\r\n",
        "$1\r\na\r\n",
        "$0\r\n\r\n",
        "$-1\r\n",
        "_\r\n",
        "*2\r\n+svc:a\r\n-ERR 'svc:a'\r\n",
        "=9\r\ntxt:svc:a\r\n",
        "*2\r\n$9\r\nsvc:svc:a\r\n:1\r\n",
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        check_named(table[i], table[i]);
}
END_TEST

START_TEST(shortens_errors)
{
    static const enum resp_keys KINDS[] = {
        RESP_KEYS_ALL,     RESP_KEYS_FIRST, RESP_KEYS_SCAN,
        RESP_KEYS_STREAMS, RESP_KEYS_ERROR, RESP_KEYS_GETKEYSANDFLAGS,
    };
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        check(KINDS[i], "-NOGROUP No such key 'svc:a' or consumer group 'svc:g' in svc:x\r\n",
              "-NOGROUP No such key 'a' or consumer group 'g' in svc:x\r\n");
    check(RESP_KEYS_ERROR, "-''svc:'svc:\r\n", "-'''\r\n");
    unchanged(RESP_KEYS_ERROR, "-ERR 'svc'\r\n");
    check(RESP_KEYS_ERROR, "-ERR 'svc:\r\n", "-ERR '\r\n");
    unchanged(RESP_KEYS_ERROR, "-ERR 's\r\n");
    unchanged(RESP_KEYS_ERROR, "-ERR '\r\n");
    unchanged(RESP_KEYS_ERROR, "$6\r\n'svc:a\r\n");
    unchanged(RESP_KEYS_ERROR, "*1\r\n-ERR 'svc:a'\r\n");
    unchanged(RESP_KEYS_ERROR, "!6\r\n'svc:a\r\n");
}
END_TEST

START_TEST(a_prefix_may_look_like_its_beginning)
{
    check_prefix("'a'b", RESP_KEYS_ERROR, "-''a''a'b''a'b\r\n", "-''a''\r\n");
    check_prefix("aab", RESP_KEYS_ALL, "*2\r\n$4\r\naaab\r\n$4\r\naabb\r\n",
                 "*2\r\n$4\r\naaab\r\n$1\r\nb\r\n");
    check_prefix("$5\r\n", RESP_KEYS_ALL, "*2\r\n$5\r\n$5\r\nx\r\n$4\r\n$5\r\n\r\n",
                 "*2\r\n$1\r\nx\r\n$0\r\n\r\n");
}
END_TEST

START_TEST(line_ends_are_safe_from_the_prefix)
{
    check_prefix("\r", RESP_KEYS_ERROR, "-ERR '\r\n", "-ERR '\r\n");
    check_prefix("\r\n", RESP_KEYS_ERROR, "-ERR '\r\n", "-ERR '\r\n");
    check_prefix("\r\n", RESP_KEYS_ALL, "$4\r\n\r\nab\r\n", "$2\r\nab\r\n");
    check_prefix("\n", RESP_KEYS_ALL, "$0\r\n\r\n", "$0\r\n\r\n");
}
END_TEST

START_TEST(nothing_to_do)
{
    static const char IN[] = "*2\r\n$5\r\nsvc:a\r\n-ERR 'svc:a'\r\n";
    unchanged(RESP_KEYS_NONE, IN);
    unchanged(RESP_KEYS_NONE, "-ERR 'svc:a'\r\n");
    check_prefix("", RESP_KEYS_ALL, IN, IN);
    check_prefix("", RESP_KEYS_ERROR, "-ERR 'a'\r\n", "-ERR 'a'\r\n");
}
END_TEST

START_TEST(jumps_over_deep_nesting)
{
    unchanged(RESP_KEYS_ALL, "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n$5\r\nsvc:a\r\n");
    unchanged(RESP_KEYS_SCAN, "*2\r\n:0\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n$5\r\nsvc:a\r\n");
}
END_TEST

START_TEST(length_lines_get_shorter)
{
    char in[256], out[256], value[128];
    memset(value, 'x', sizeof value);
    snprintf(in, sizeof in, "*2\r\n$10\r\nsvc:123456\r\n$102\r\nsvc:%.98s\r\n", value);
    snprintf(out, sizeof out, "*2\r\n$6\r\n123456\r\n$98\r\n%.98s\r\n", value);
    check(RESP_KEYS_ALL, in, out);
}
END_TEST

START_TEST(stops_where_the_reply_ends)
{
    struct resp_rewriter *rw = resp_rewriter_new(RESP_KEYS_ALL, (struct resp_slice){"p", 1});
    char *text;
    size_t size, used;
    FILE *out = open_memstream(&text, &size);
    ck_assert_int_eq(resp_rewrite(rw, "$2\r\npa\r\n$2\r\npb\r\n", 16, &used, collect, out),
                     RESP_DONE);
    ck_assert_uint_eq(used, 8);
    ck_assert_int_eq(resp_rewrite(rw, NULL, 0, &used, collect, out), RESP_MORE);
    ck_assert_int_eq(resp_rewrite(rw, "$x", 2, &used, collect, out), RESP_BAD);
    fclose(out);
    ck_assert_str_eq(text, "$1\r\na\r\n");
    free(text);
    resp_rewriter_free(rw);
    resp_rewriter_free(NULL);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        strips_all,
        other_names_pass_unchanged,
        strips_the_first,
        strips_a_scan,
        strips_streams,
        strips_keys_and_flags,
        sees_through_attributes,
        strips_the_names_given,
        strips_no_other_names,
        shortens_errors,
        a_prefix_may_look_like_its_beginning,
        line_ends_are_safe_from_the_prefix,
        nothing_to_do,
        jumps_over_deep_nesting,
        length_lines_get_shorter,
        stops_where_the_reply_ends,
    };
    Suite *suite = suite_create("resp_rewrite");
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
