/* test_owed.c - the ring of owed replies: order from both ends, growth, memory, age; and patterns.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "owed.h"
#include "policy.h"

static struct budget budget;
static struct owed_ring ring;

static void setup(void)
{
    budget = (struct budget){0};
    ring = (struct owed_ring){.budget = &budget};
}

static void teardown(void)
{
    owed_free(&ring);
    ck_assert_uint_eq(budget.used, 0);
}

START_TEST(first_in_first_out)
{
    uint32_t in = 0, out = 0;
    unsigned seed = 1;
    while (out < 100000) {
        for (int n = rand_r(&seed) % 500; n > 0; n--)
            ck_assert(owed_push(&ring, (struct owed){.tag = in++}));
        ck_assert_uint_eq(ring.n, in - out);
        for (int n = rand_r(&seed) % 500; n > 0 && ring.n; n--)
            ck_assert_uint_eq(owed_pop(&ring).tag, out++);
        if (ring.n)
            ck_assert_uint_eq(owed_at(&ring, ring.n - 1)->tag, in - 1);
    }
}
END_TEST

START_TEST(one_may_go_before_all)
{
    for (uint32_t i = 0; i < 1000; i++) {
        ck_assert(owed_push(&ring, (struct owed){.tag = i}));
        ck_assert(owed_push_front(&ring, (struct owed){.tag = 1000 + i}));
    }
    for (uint32_t i = 0; i < 1000; i++)
        ck_assert_uint_eq(owed_pop(&ring).tag, 1999 - i);
    for (uint32_t i = 0; i < 1000; i++)
        ck_assert_uint_eq(owed_pop(&ring).tag, i);
}
END_TEST

START_TEST(memory_comes_back_after_a_burst)
{
    for (uint32_t i = 0; i < 100000; i++)
        ck_assert(owed_push(&ring, (struct owed){.tag = i}));
    ck_assert_uint_ge(budget.used, 100000 * sizeof(struct owed));
    while (ring.n)
        (void)owed_pop(&ring);
    ck_assert_uint_eq(budget.used, 0);
}
END_TEST

START_TEST(ages_wrap)
{
    struct owed o = {.since = UINT32_MAX - 10};
    ck_assert_uint_eq(owed_age(&o, (UINT64_C(7) << 32) + 20), 31);
    ck_assert_uint_eq(owed_age(&o, (UINT64_C(7) << 32) - 11), 0);
}
END_TEST

static bool fits(const char *pattern, const char *key, size_t len)
{
    char copy[64];
    char *patterns[] = {"nothing:like:it", copy};
    snprintf(copy, sizeof copy, "%s", pattern);
    return policy_matches(&(struct config_list){patterns, 2}, key, len);
}

START_TEST(patterns)
{
    ck_assert(fits("user:*", "user:1", 6) && fits("user:*", "user:", 5));
    ck_assert(!fits("user:*", "users:1", 7) && !fits("user:*", "a:user:1", 8));
    ck_assert(fits("*", "", 0) && fits("*", "anything/at all", 15));
    ck_assert(fits("h?llo", "hello", 5) && fits("h[ae]llo", "hallo", 5));
    ck_assert(!fits("h[ae]llo", "hillo", 5));
    ck_assert(fits("a\\*b", "a*b", 3) && !fits("a\\*b", "axb", 3));
    ck_assert(!fits("*", "a\0b", 3)); /* no text */
    char *longest = calloc(1, 70000);
    memset(longest, 'x', 70000);
    ck_assert(fits("x*", longest, 65535) && !fits("x*", longest, 70000));
    free(longest);
    ck_assert(!policy_matches(&(struct config_list){0}, "k", 1));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {first_in_first_out, one_may_go_before_all,
                            memory_comes_back_after_a_burst, ages_wrap, patterns};
    Suite *s = suite_create("owed");
    TCase *t = tcase_create("owed");
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
