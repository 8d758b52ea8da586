/* test_text.c - a text that grows as it is written. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

START_TEST(test_say)
{
    struct text t = {0};
    text_say(&t, "%s:%d\r\n", "hits", 5);
    text_say(&t, "%s", "");
    text_append(&t, "a\0b", 3);
    ck_assert_uint_eq(t.len, 11);
    ck_assert(memcmp(t.p, "hits:5\r\na\0b", 12) == 0); /* with the NUL behind it */
    ck_assert(!t.failed);
    free(t.p);
}
END_TEST

START_TEST(test_empty)
{
    struct text t = {0};
    text_append(&t, NULL, 0);
    ck_assert_uint_eq(t.len, 0);
    ck_assert_str_eq(t.p, "");
    free(t.p);
}
END_TEST

START_TEST(test_growth)
{
    struct text t = {0};
    for (int i = 0; i < 100000; i++)
        text_say(&t, "%05d", i);
    ck_assert_uint_eq(t.len, 500000);
    ck_assert(memcmp(t.p, "0000000001", 10) == 0);
    ck_assert_str_eq(t.p + t.len - 10, "9999899999");
    ck_assert_uint_ge(t.cap, t.len + 1);
    free(t.p);
}
END_TEST

START_TEST(test_exact_fit)
{
    for (size_t n = 200; n < 600; n++) {
        struct text t = {0};
        text_append(&t, "x", 1); /* takes its first memory */
        for (size_t i = 1; i < n; i++)
            text_append(&t, "x", 1);
        text_say(&t, "%s", "end");
        ck_assert_uint_eq(t.len, n + 3);
        ck_assert_uint_eq(strlen(t.p), n + 3);
        free(t.p);
    }
}
END_TEST

START_TEST(test_resp)
{
    struct text t = {0};
    text_header(&t, '%', 2);
    text_bulk(&t, (struct resp_slice){"a\r\n", 3});
    text_bulk(&t, (struct resp_slice){NULL, 0});
    ck_assert_str_eq(t.p, "%2\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
    free(t.p);
}
END_TEST

START_TEST(test_failed_stays_as_it_is)
{
    struct text t = {0};
    text_say(&t, "good");
    t.failed = true;
    text_say(&t, "lost");
    text_append(&t, "lost", 4);
    ck_assert_str_eq(t.p, "good");
    free(t.p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("text");
    TCase *t = tcase_create("text");
    tcase_add_test(t, test_say);
    tcase_add_test(t, test_empty);
    tcase_add_test(t, test_growth);
    tcase_add_test(t, test_exact_fit);
    tcase_add_test(t, test_resp);
    tcase_add_test(t, test_failed_stays_as_it_is);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
