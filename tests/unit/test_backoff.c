/* test_backoff.c - waits double up to a limit, and differ; and the table of counters. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "backoff.h"
#include "metrics.h"

enum { LEAST = 50, MOST = 2000 };

START_TEST(test_doubles_within_bounds)
{
    struct backoff b = {.random = 42};
    uint64_t span = LEAST, different = 0, last = 0;
    for (int i = 0; i < 100; i++) {
        uint64_t wait = backoff_next(&b, LEAST, MOST);
        ck_assert_uint_ge(wait, span / 2);
        ck_assert_uint_le(wait, span);
        different += wait != last;
        last = wait;
        span = 2 * span < MOST ? 2 * span : MOST;
    }
    ck_assert_uint_gt(different, 80);
    b.failures = 0;
    ck_assert_uint_le(backoff_next(&b, LEAST, MOST), LEAST);
}
END_TEST

static void count(void *ctx, const char *name, const char *unit, const char *help, uint64_t value)
{
    ck_assert(*name && *unit && *help);
    if (strcmp(name, "hits") == 0)
        ck_assert_uint_eq(value, 3);
    ++*(int *)ctx;
}

START_TEST(test_metrics)
{
    struct metrics m = {.hits = 3, .misses = 1};
    int n = 0;
    metrics_each(&m, count, &n);
    ck_assert_uint_eq((size_t)n * sizeof(uint64_t), sizeof m);
    ck_assert_double_eq(metrics_hit_ratio(&m), 0.75);
    ck_assert_double_eq(metrics_hit_ratio(&(struct metrics){0}), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("backoff");
    TCase *t = tcase_create("backoff");
    tcase_add_test(t, test_doubles_within_bounds);
    tcase_add_test(t, test_metrics);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
