/* test_resp_read.c - reading replies of known shape. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "resp_read.h"

static struct resp_reader reader(const char *text)
{
    return (struct resp_reader){text, text + strlen(text)};
}

START_TEST(test_scan_reply)
{
    struct resp_reader r = reader("*2\r\n$2\r\n17\r\n*1\r\n$3\r\na\r\n\r\n:-4\r\n");
    struct resp_slice s;
    size_t n;
    int64_t i;
    ck_assert(resp_read_array(&r, &n) && n == 2);
    ck_assert(!resp_read_array(&r, &n));
    ck_assert(resp_read_bulk(&r, &s) && s.len == 2 && memcmp(s.data, "17", 2) == 0);
    ck_assert(resp_read_array(&r, &n) && n == 1);
    ck_assert(resp_read_bulk(&r, &s) && s.len == 3 && memcmp(s.data, "a\r\n", 3) == 0);
    ck_assert(resp_read_integer(&r, &i) && i == -4);
    ck_assert_ptr_eq(r.p, r.end);
    ck_assert(!resp_read_integer(&r, &i));
}
END_TEST

START_TEST(test_lists_of_every_kind)
{
    static const char *const table[] = {"*2\r\n", "~2\r\n", ">2\r\n"};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct resp_reader r = reader(table[i]);
        size_t n;
        ck_assert(resp_read_array(&r, &n) && n == 2);
        ck_assert_ptr_eq(r.p, r.end);
    }
}
END_TEST

START_TEST(test_refused)
{
    static const char *const table[] = {"$-1\r\n",   "*-1\r\n", "$5\r\nabc\r\n",
                                        "$3\r\nabc", "$3",      "",
                                        "$x\r\n",    "*1\n",    "$99999999999999999999\r\n",
                                        "_\r\n",     "%1\r\n",  ">-1\r\n",
                                        "|1\r\n",    "+x\r\n"};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct resp_reader r = reader(table[i]);
        struct resp_slice s;
        size_t n;
        ck_assert(!resp_read_bulk(&r, &s));
        ck_assert(!resp_read_array(&r, &n));
        ck_assert_ptr_eq(r.p, table[i]);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("resp_read");
    TCase *t = tcase_create("resp_read");
    tcase_add_test(t, test_scan_reply);
    tcase_add_test(t, test_lists_of_every_kind);
    tcase_add_test(t, test_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
