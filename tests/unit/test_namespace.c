/* test_namespace.c - prefixes put on, taken off and escaped. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "namespace.h"

static struct resp_slice text(const char *s)
{
    return (struct resp_slice){s, strlen(s)};
}

START_TEST(test_strip)
{
    struct namespace ns;
    struct resp_slice name;
    ck_assert(namespace_init(&ns, "svc:"));
    ck_assert(namespace_strip(&ns, text("svc:user:1"), &name));
    ck_assert_uint_eq(name.len, 6);
    ck_assert(memcmp(name.data, "user:1", 6) == 0);
    ck_assert(namespace_strip(&ns, text("svc:"), &name));
    ck_assert_uint_eq(name.len, 0);
    ck_assert(!namespace_strip(&ns, text("svc"), &name));
    ck_assert(!namespace_strip(&ns, text("other:user:1"), &name));
    ck_assert(!namespace_strip(&ns, text(""), &name));
    namespace_free(&ns);
}
END_TEST

START_TEST(test_empty)
{
    struct namespace ns;
    struct resp_slice name;
    ck_assert(namespace_init(&ns, ""));
    ck_assert(namespace_strip(&ns, text("k"), &name));
    ck_assert_uint_eq(name.len, 1);
    ck_assert_uint_eq(ns.glob.len, 0);
    namespace_free(&ns);
}
END_TEST

START_TEST(test_glob)
{
    struct namespace ns;
    ck_assert(namespace_init(&ns, "a*b?[c]\\:"));
    ck_assert_str_eq(ns.glob.data, "a\\*b\\?\\[c]\\\\:");
    ck_assert(!namespace_sortable(&ns));
    namespace_free(&ns);
    ck_assert(namespace_init(&ns, "plain:"));
    ck_assert(namespace_sortable(&ns));
    namespace_free(&ns);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("namespace");
    TCase *t = tcase_create("namespace");
    tcase_add_test(t, test_strip);
    tcase_add_test(t, test_empty);
    tcase_add_test(t, test_glob);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
