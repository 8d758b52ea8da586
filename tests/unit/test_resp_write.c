/* test_resp_write.c - encoders, and numbers and words in slices. */
#include <check.h>
#include <stdint.h>
#include <string.h>

#include "resp.h"

static struct resp_slice slice(const char *text)
{
    return (struct resp_slice){text, strlen(text)};
}

static void check_bytes(const char *from, const char *end, const char *expected)
{
    ck_assert_uint_eq((size_t)(end - from), strlen(expected));
    ck_assert_mem_eq(from, expected, strlen(expected));
}

START_TEST(writes_headers)
{
    char b[RESP_HEADER_MAX];
    check_bytes(b, resp_put_header(b, '$', 0), "$0\r\n");
    check_bytes(b, resp_put_header(b, '*', 10), "*10\r\n");
    check_bytes(b, resp_put_header(b, '%', UINT64_MAX), "%18446744073709551615\r\n");
}
END_TEST

START_TEST(writes_integers)
{
    char b[RESP_HEADER_MAX];
    check_bytes(b, resp_put_integer(b, 0), ":0\r\n");
    check_bytes(b, resp_put_integer(b, -1), ":-1\r\n");
    check_bytes(b, resp_put_integer(b, INT64_MAX), ":9223372036854775807\r\n");
    check_bytes(b, resp_put_integer(b, INT64_MIN), ":-9223372036854775808\r\n");
}
END_TEST

START_TEST(writes_bulks)
{
    char b[RESP_HEADER_MAX + 16];
    check_bytes(b, resp_put_bulk(b, slice("hello")), "$5\r\nhello\r\n");
    check_bytes(b, resp_put_bulk(b, (struct resp_slice){NULL, 0}), "$0\r\n\r\n");
    char *end = resp_put_bulk(b, (struct resp_slice){"a\0\r\n", 4});
    ck_assert_uint_eq((size_t)(end - b), 10);
    ck_assert_mem_eq(b, "$4\r\na\0\r\n\r\n", 10);
}
END_TEST

START_TEST(tells_the_size_of_a_bulk)
{
    static const size_t LENS[] = {0, 1, 9, 10, 99, 100, 999, 1000, 16384};
    static char data[16384], b[16384 + RESP_HEADER_MAX + 2];
    for (size_t i = 0; i < sizeof LENS / sizeof *LENS; i++) {
        char *end = resp_put_bulk(b, (struct resp_slice){data, LENS[i]});
        ck_assert_uint_eq(resp_bulk_size(LENS[i]), (size_t)(end - b));
    }
}
END_TEST

START_TEST(reads_integers)
{
    static const struct {
        const char *text;
        int64_t n;
    } GOOD[] = {
        {"0", 0},
        {"7", 7},
        {"-7", -7},
        {"10", 10},
        {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN},
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        int64_t n;
        ck_assert_msg(resp_parse_int(slice(GOOD[i].text), &n), "%s", GOOD[i].text);
        ck_assert_int_eq(n, GOOD[i].n);
    }
}
END_TEST

START_TEST(refuses_what_string2ll_refuses)
{
    static const char *const BAD[] = {
        "",
        "-",
        "+1",
        "-0",
        "00",
        "01",
        "-01",
        " 1",
        "1 ",
        "1x",
        "x",
        "--1",
        "1-",
        "0x10",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "99999999999999999999",
        "100000000000000000000",
        "\xb1",
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        int64_t n;
        ck_assert_msg(!resp_parse_int(slice(BAD[i]), &n), "%s", BAD[i]);
    }
    int64_t n;
    ck_assert(!resp_parse_int((struct resp_slice){"1\0", 2}, &n));
    ck_assert(!resp_parse_int((struct resp_slice){NULL, 0}, &n));
}
END_TEST

/* How many digits resp_scan_digits() takes of the text; -1: none of its business. */
static int scanned(const char *text, uint64_t *n)
{
    const char *end = resp_scan_digits(text, text + strlen(text), n);
    return end ? (int)(end - text) : -1;
}

START_TEST(scans_short_numbers)
{
    uint64_t n;
    ck_assert_int_eq(scanned("0\r", &n), 1);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(scanned("123\r\n", &n), 3);
    ck_assert_uint_eq(n, 123);
    ck_assert_int_eq(scanned("9999999999\r", &n), 10);
    ck_assert_uint_eq(n, 9999999999);
    ck_assert_int_eq(scanned("5", &n), 1);
    ck_assert_int_eq(scanned("12345678901\r", &n), 10); /* the 11th is left for the caller to see */
    ck_assert_int_eq(scanned("", &n), -1);
    ck_assert_int_eq(scanned("\r", &n), -1);
    ck_assert_int_eq(scanned("-1\r", &n), -1);
    ck_assert_int_eq(scanned("01\r", &n), -1);
}
END_TEST

START_TEST(compares_words_without_case)
{
    ck_assert(resp_slice_is(slice("get"), "get"));
    ck_assert(resp_slice_is(slice("GeT"), "get"));
    ck_assert(resp_slice_is(slice(""), ""));
    ck_assert(!resp_slice_is(slice("ge"), "get"));
    ck_assert(!resp_slice_is(slice("gets"), "get"));
    ck_assert(!resp_slice_is(slice("g`t"), "g@t"));
    ck_assert(!resp_slice_is((struct resp_slice){"get\0", 4}, "get"));
}
END_TEST

START_TEST(a_word_ends_at_a_nul)
{
    ck_assert(resp_word_is(slice("MATCH"), "match"));
    ck_assert(resp_word_is((struct resp_slice){"MATCH\0x", 7}, "match"));
    ck_assert(resp_word_is((struct resp_slice){NULL, 0}, ""));
    ck_assert(!resp_word_is((struct resp_slice){"MAT\0CH", 6}, "match"));
    ck_assert(!resp_word_is((struct resp_slice){"\0MATCH", 6}, "match"));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        writes_headers,       writes_integers,
        writes_bulks,         tells_the_size_of_a_bulk,
        reads_integers,       refuses_what_string2ll_refuses,
        scans_short_numbers,  compares_words_without_case,
        a_word_ends_at_a_nul,
    };
    Suite *suite = suite_create("resp_write");
    TCase *cases = tcase_create("all");
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        tcase_add_test(cases, tests[i]);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
