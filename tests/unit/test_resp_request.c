/* test_resp_request.c - requests as Redis 7.0 takes and refuses them, cut in every possible way. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp.h"

static const struct resp_limits ANY = {.max_bulk = 512 << 20, .authenticated = true};
static const struct resp_limits STRANGER = {.max_bulk = 512 << 20, .authenticated = false};

/* --- a client that sends a stream in pieces -------------------------------------------------- */

struct client {
    const struct resp_limits *limits;
    struct resp_request request;
    struct resp_args args;
    const char *bytes;
    size_t done; /* bytes of requests that are complete */
    bool bad;
    FILE *log; /* what came out: "[GET][key] " for a request, "-text" for an error */
};

static void log_request(struct client *c)
{
    for (size_t i = 0; i < c->args.n; i++) {
        fputc('[', c->log);
        fwrite(c->args.v[i].data, 1, c->args.v[i].len, c->log);
        fputc(']', c->log);
    }
    fputc(' ', c->log);
}

/* Parses what has arrived so far: bytes[0..arrived). It lies in a block of its own each time, so
 * that a read beyond its end or into the last block is seen. */
static enum resp_status parse_arrived(struct client *c, size_t arrived)
{
    size_t n = arrived - c->done, used;
    char error[RESP_ERROR_MAX] = "?";
    char *block = malloc(n ? n : 1);
    memcpy(block, c->bytes + c->done, n);
    resp_args_reset(&c->args);
    enum resp_status status =
        resp_request_parse(&c->request, c->limits, block, n, &c->args, &used, error);
    if (status == RESP_DONE) {
        log_request(c);
    } else {
        ck_assert_uint_eq(used, 0);
        ck_assert_uint_eq(c->args.n, 0);
    }
    if (status == RESP_BAD)
        fprintf(c->log, "-%s", error);
    if (status == RESP_MORE)
        ck_assert_uint_gt(resp_request_wanted(&c->request, n), n);
    c->done += used;
    c->bad = status == RESP_BAD;
    free(block);
    return status;
}

static void receive(struct client *c, size_t arrived)
{
    while (!c->bad && parse_arrived(c, arrived) == RESP_DONE)
        continue;
}

/* What comes out of bytes[0..n) that arrives in pieces: up to `cut`, then `piece` bytes each. */
static char *outcome(const struct resp_limits *limits, const char *bytes, size_t n, size_t cut,
                     size_t piece)
{
    char *text;
    size_t size;
    struct client c = {.limits = limits, .bytes = bytes, .log = open_memstream(&text, &size)};
    for (size_t at = cut; at < n; at += piece)
        receive(&c, at);
    receive(&c, n);
    fclose(c.log);
    resp_args_free(&c.args);
    return text;
}

static void check_cut(const struct resp_limits *limits, const char *bytes, size_t n, size_t cut,
                      size_t piece, const char *expected)
{
    char *text = outcome(limits, bytes, n, cut, piece);
    ck_assert_msg(strcmp(text, expected) == 0, "%s: cut at %zu, then every %zu: got %s, not %s",
                  bytes, cut, piece, text, expected);
    free(text);
}

static void check_bytes(const struct resp_limits *limits, const char *bytes, size_t n,
                        const char *expected)
{
    for (size_t cut = 0; cut <= n; cut++)
        check_cut(limits, bytes, n, cut, n, expected);
    check_cut(limits, bytes, n, 1, 1, expected);
    check_cut(limits, bytes, n, 2, 3, expected);
}

static void check(const char *bytes, const char *expected)
{
    check_bytes(&ANY, bytes, strlen(bytes), expected);
}

/* --- arrays ---------------------------------------------------------------------------------- */

START_TEST(parses_arrays)
{
    check("*1\r\n$4\r\nPING\r\n", "[PING] ");
    check("*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", "[GET][key] ");
    check("*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n", "[SET][][\r\n\r\n] ");
    check("*2\r\n$4\r\nECHO\r\n$11\r\nhello world\r\n*1\r\n$4\r\nPING\r\n",
          "[ECHO][hello world] [PING] ");
}
END_TEST

START_TEST(keeps_every_byte)
{
    struct resp_request request = {0};
    struct resp_args args = {0};
    size_t used;
    char error[RESP_ERROR_MAX];
    static const char BYTES[] = "*2\r\n$3\r\n\0\xff\n\r\n$1\r\n*\r\nrest";
    ck_assert_int_eq(
        resp_request_parse(&request, &ANY, BYTES, sizeof BYTES - 1, &args, &used, error),
        RESP_DONE);
    ck_assert_uint_eq(used, sizeof BYTES - 1 - 4);
    ck_assert_uint_eq(args.n, 2);
    ck_assert_uint_eq(args.v[0].len, 3);
    ck_assert_mem_eq(args.v[0].data, "\0\xff\n", 3);
    ck_assert_ptr_eq(args.v[1].data, BYTES + 17); /* borrowed */
    resp_args_free(&args);
}
END_TEST

START_TEST(does_not_look_at_terminators)
{
    check("*1\rX$4\rXPINGXX*1\r\n$1\r\naYY", "[PING] [a] ");
}
END_TEST

START_TEST(ignores_empty_requests)
{
    check("*0\r\n", " ");
    check("*-1\r\n", " ");
    check("*-99\r\n*0\r\n*1\r\n$1\r\na\r\n", "  [a] ");
    check("\r\n", " ");
    check("\n\n", "  ");
    check("  \t \r\n", " ");
}
END_TEST

START_TEST(refuses_bad_counts)
{
    static const char *const BAD[] = {
        "*\r\n",   "*x\r\n", "*1x\r\n", "*01\r\n",   "*+1\r\n",         "* 1\r\n",
        "*-0\r\n", "*-\r\n", "*1 \r\n", "*1\n2\r\n", "*2147483648\r\n", "*99999999999999999999\r\n",
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        check(BAD[i], "-Protocol error: invalid multibulk length");
    check("*2147483647\r\n", "");
}
END_TEST

START_TEST(refuses_bad_lengths)
{
    static const char *const BAD[] = {
        "*1\r\n$\r\n",   "*1\r\n$-1\r\n",        "*1\r\n$x\r\n",
        "*1\r\n$01\r\n", "*1\r\n$536870913\r\n", "*1\r\n$9223372036854775807\r\n",
        "*1\r\n$1 \r\n", "*1\r\n$-\r\n",         "*1\r\n$99999999999999999999\r\n",
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        check(BAD[i], "-Protocol error: invalid bulk length");
    check("*1\r\n$536870912\r\n", "");
    /* Cut in $12: how far that line was searched is of no meaning for the shorter one behind. */
    check("*2\r\n$12\r\nabcdefghijkl\r\n$\r\n", "-Protocol error: invalid bulk length");
    const struct resp_limits small = {.max_bulk = 3, .authenticated = true};
    check_bytes(&small, "*1\r\n$3\r\nabc\r\n", 13, "[abc] ");
    check_bytes(&small, "*1\r\n$4\r\n", 8, "-Protocol error: invalid bulk length");
}
END_TEST

START_TEST(survives_the_largest_length)
{
    const struct resp_limits huge = {.max_bulk = INT64_MAX, .authenticated = true};
    check_bytes(&huge, "*1\r\n$9223372036854775807\r\nabc", 29, "");
}
END_TEST

START_TEST(refuses_other_types_in_arrays)
{
    check("*2\r\n$3\r\nGET\r\n:1\r\n", "-Protocol error: expected '$', got ':'");
    check("*1\r\n*1\r\n", "-Protocol error: expected '$', got '*'");
    check("*1\r\nfoo\r\n", "-Protocol error: expected '$', got 'f'");
    check("*1\r\n\r\n", "-Protocol error: expected '$', got ' '");
    check("*1\r\n\n\r\n", "-Protocol error: expected '$', got ' '");
    check("*1\r\n:1", ""); /* Redis looks once the line is there, and not before */
}
END_TEST

START_TEST(refuses_large_requests_of_strangers)
{
    char ten[256] = "*10\r\n", expected[64] = "";
    for (int i = 0; i < 10; i++) {
        strcat(ten, "$1\r\na\r\n");
        strcat(expected, "[a]");
    }
    strcat(expected, " ");
    check_bytes(&STRANGER, ten, strlen(ten), expected);
    check_bytes(&STRANGER, "*11\r\n", 5, "-Protocol error: unauthenticated multibulk length");
    check_bytes(&STRANGER, "*2147483648\r\n", 13, "-Protocol error: invalid multibulk length");
    check_bytes(&STRANGER, "*1\r\n$16384\r\n", 12, "");
    check_bytes(&STRANGER, "*1\r\n$16385\r\n", 12, "-Protocol error: unauthenticated bulk length");
    check_bytes(&STRANGER, "*1\r\n$536870913\r\n", 16, "-Protocol error: invalid bulk length");
}
END_TEST

/* --- inline commands ------------------------------------------------------------------------- */

START_TEST(parses_inline_commands)
{
    check("PING\r\n", "[PING] ");
    check("PING\n", "[PING] ");
    check("  GET \t key\v\fx  \r\nPING\r\n", "[GET][key\v\fx] [PING] ");
    check("\v\fGET\r key\n", "[GET][key] ");
    check("GET *1\r\n*1\r\n$1\r\na\r\n", "[GET][*1] [a] ");
    check("$5\r\nhello\r\n", "[$5] [hello] ");
}
END_TEST

START_TEST(unescapes_quoted_words)
{
    check("SET \"a b\" 'c d'\r\n", "[SET][a b][c d] ");
    check("SET \"\" ''\r\n", "[SET][][] ");
    check("\"\\n\\r\\t\\b\\a\\\\\\\"\\z\"\n", "[\n\r\t\b\a\\\"z] ");
    check("\"\\x41\\x7a\\xFf\"\n", "[Az\xff] ");
    check("\"\\x4\\xg1\"\n", "[x4xg1] ");
    check("'\\n\\'\\x41\\'\n", "-Protocol error: unbalanced quotes in request");
    check("'\\n\\'\\x41'\n", "[\\n'\\x41] ");
    check("foo\"bar baz\" x\n", "[foobar baz][x] ");
    check("\"a\"\v'b'\n", "[a][b] ");
    check("\"it's\" 'say \"hi\"'\n", "[it's][say \"hi\"] ");
    check("ECHO \"a\"\r\nECHO 'b'\r\n", "[ECHO][a] [ECHO][b] ");
}
END_TEST

START_TEST(refuses_unbalanced_quotes)
{
    static const char *const BAD[] = {
        "\"\n",   "'\n",          "\"abc\r\n", "'abc\r\n",   "\"a\"b\n",
        "'a'b\n", "\"a\"\"b\"\n", "\"\\\n",    "x \"\\x4\n",
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        check(BAD[i], "-Protocol error: unbalanced quotes in request");
}
END_TEST

START_TEST(forgets_the_words_before_unbalanced_quotes)
{
    struct resp_request request = {0};
    struct resp_args args = {0};
    size_t used;
    char error[RESP_ERROR_MAX];
    ck_assert_int_eq(resp_request_parse(&request, &ANY, "PING\n", 5, &args, &used, error),
                     RESP_DONE);
    ck_assert_int_eq(resp_request_parse(&request, &ANY, "a 'b' 'c\n", 9, &args, &used, error),
                     RESP_BAD);
    ck_assert_uint_eq(args.n, 1);
    resp_args_free(&args);
}
END_TEST

/* --- long lines ------------------------------------------------------------------------------ */

/* `head`, then n bytes of `fill`, then `tail`. */
static void check_long(const char *head, char fill, size_t n, const char *tail,
                       const char *expected)
{
    size_t len = strlen(head) + n + strlen(tail);
    char *bytes = malloc(len + 1);
    memcpy(bytes, head, strlen(head));
    memset(bytes + strlen(head), fill, n);
    memcpy(bytes + strlen(head) + n, tail, strlen(tail) + 1);
    check_cut(&ANY, bytes, len, 0, len, expected);
    check_cut(&ANY, bytes, len, 1, 4096, expected);
    check_cut(&ANY, bytes, len, len - strlen(tail), 1, expected);
    free(bytes);
}

START_TEST(takes_lines_up_to_a_limit)
{
    char *long_word = malloc(RESP_INLINE_MAX + 8);
    memset(long_word, 'x', RESP_INLINE_MAX + 8);
    long_word[0] = '[';
    memcpy(long_word + RESP_INLINE_MAX + 1, "] ", 3);
    check_long("", 'x', RESP_INLINE_MAX, "\n", long_word);
    free(long_word);
    check_long("", 'x', RESP_INLINE_MAX, "", "");
    check_long("", 'x', RESP_INLINE_MAX + 1, "", "-Protocol error: too big inline request");
    check_long("", 'x', RESP_INLINE_MAX + 1, "\n", "-Protocol error: too big inline request");
    check_long("*", '1', RESP_INLINE_MAX - 1, "", "");
    check_long("*", '1', RESP_INLINE_MAX, "", "-Protocol error: too big mbulk count string");
    check_long("*1\r\n$", '1', RESP_INLINE_MAX - 1, "", "");
    check_long("*1\r\n$", '1', RESP_INLINE_MAX, "", "-Protocol error: too big bulk count string");
    check_long("*2\r\n$1\r\na\r\nx", '1', RESP_INLINE_MAX, "",
               "-Protocol error: too big bulk count string");
}
END_TEST

START_TEST(a_nul_hides_the_end_of_its_line)
{
    check_bytes(&ANY, "PING\0\r\nPING\r\n", 13, "");
    check_bytes(&ANY, "*1\0\r\n", 5, "");
    check_bytes(&ANY, "*1\r\n\0$1\r\na\r\n", 12, "");
    check_long("", '\0', RESP_INLINE_MAX, "\n", "-Protocol error: too big inline request");
}
END_TEST

/* --- cost, hints, storage -------------------------------------------------------------------- */

START_TEST(tells_how_much_is_missing)
{
    struct resp_request request = {0};
    struct resp_args args = {0};
    size_t used;
    char error[RESP_ERROR_MAX];
    static const char BYTES[] = "*2\r\n$3\r\nSET\r\n$100000\r\nabc";
    size_t line = sizeof BYTES - 1 - 3;
    ck_assert_int_eq(resp_request_parse(&request, &ANY, BYTES, line + 3, &args, &used, error),
                     RESP_MORE);
    ck_assert_uint_eq(resp_request_wanted(&request, line + 3), line + 100000 + 2);

    request = (struct resp_request){0};
    ck_assert_int_eq(resp_request_parse(&request, &ANY, BYTES, 5, &args, &used, error), RESP_MORE);
    ck_assert_uint_eq(resp_request_wanted(&request, 5), 6);
    resp_args_free(&args);
}
END_TEST

/* Byte by byte; were anything scanned again each time, this would take hours. */
START_TEST(costs_linear_time)
{
    enum { ARGS = 200000 };
    char *bytes = malloc(16 + 7 * ARGS);
    size_t n = (size_t)sprintf(bytes, "*%d\r\n", ARGS), used = 0;
    for (int i = 0; i < ARGS; i++, n += 7)
        memcpy(bytes + n, "$1\r\na\r\n", 7);
    struct resp_request request = {0};
    struct resp_args args = {0};
    char error[RESP_ERROR_MAX];
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(resp_request_parse(&request, &ANY, bytes, i, &args, &used, error),
                         RESP_MORE);
    ck_assert_int_eq(resp_request_parse(&request, &ANY, bytes, n, &args, &used, error), RESP_DONE);
    ck_assert_uint_eq(used, n);
    ck_assert_uint_eq(args.n, ARGS);
    resp_args_free(&args);
    free(bytes);
}
END_TEST

START_TEST(a_long_line_costs_linear_time)
{
    char *line = malloc(RESP_INLINE_MAX);
    memset(line, 'x', RESP_INLINE_MAX);
    struct resp_request request = {0};
    struct resp_args args = {0};
    size_t used;
    char error[RESP_ERROR_MAX];
    for (size_t i = 0; i <= RESP_INLINE_MAX; i++) {
        ck_assert_int_eq(resp_request_parse(&request, &ANY, line, i, &args, &used, error),
                         RESP_MORE);
        ck_assert_uint_eq(request.scanned, i);
    }
    free(line);
}
END_TEST

START_TEST(arguments_pile_up_and_are_given_back)
{
    struct resp_request request = {0};
    struct resp_args args = {0};
    size_t used;
    char error[RESP_ERROR_MAX];
    for (size_t i = 0; i < 1000; i++) {
        ck_assert_int_eq(resp_request_parse(&request, &ANY, "GET 'a b'\n", 10, &args, &used, error),
                         RESP_DONE);
        ck_assert_uint_eq(args.n, 2 * (i + 1));
    }
    ck_assert_mem_eq(args.v[1].data, "a b", 3);
    ck_assert_mem_eq(args.v[1999].data, "a b", 3);
    resp_args_reset(&args);
    ck_assert_uint_eq(args.n, 0);
    ck_assert_ptr_null(args.text);
    ck_assert_ptr_null(args.v); /* it was large */

    ck_assert_int_eq(resp_request_parse(&request, &ANY, "GET a\n", 6, &args, &used, error),
                     RESP_DONE);
    resp_args_reset(&args);
    ck_assert_ptr_nonnull(args.v);
    resp_args_free(&args);
    ck_assert_ptr_null(args.v);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        parses_arrays,
        keeps_every_byte,
        does_not_look_at_terminators,
        ignores_empty_requests,
        refuses_bad_counts,
        refuses_bad_lengths,
        survives_the_largest_length,
        refuses_other_types_in_arrays,
        refuses_large_requests_of_strangers,
        parses_inline_commands,
        unescapes_quoted_words,
        refuses_unbalanced_quotes,
        forgets_the_words_before_unbalanced_quotes,
        takes_lines_up_to_a_limit,
        a_nul_hides_the_end_of_its_line,
        tells_how_much_is_missing,
        costs_linear_time,
        a_long_line_costs_linear_time,
        arguments_pile_up_and_are_given_back,
    };
    Suite *suite = suite_create("resp_request");
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
