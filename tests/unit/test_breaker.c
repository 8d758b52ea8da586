/* test_breaker.c - when the circuit breaker opens, how long it stays open, and how it closes. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "breaker.h"

enum { WINDOW = 10000, OPEN_MIN = 50, OPEN_MAX = 2000 };

static const struct breaker_options usual = {.timeouts = 5,
                                             .error_rate = 50,
                                             .min_requests = 20,
                                             .window = WINDOW,
                                             .open_min = OPEN_MIN,
                                             .open_max = OPEN_MAX};
static struct breaker *b;

static void start(const struct breaker_options *options)
{
    breaker_free(b);
    b = breaker_new(options, 42);
    ck_assert_ptr_nonnull(b);
}

static void setup(void)
{
    b = NULL;
    start(&usual);
}

static void teardown(void)
{
    breaker_free(b);
}

static void late(uint64_t now, int n)
{
    while (n--)
        breaker_failed(b, now, true, "no reply");
}

static void lost(uint64_t now, int n)
{
    while (n--)
        breaker_failed(b, now, false, "gone");
}

static void good(uint64_t now, int n)
{
    while (n--)
        breaker_succeeded(b, now);
}

START_TEST(opens_on_timeouts_in_a_row)
{
    late(1000, 4);
    good(1000, 1);
    late(1000, 4);
    ck_assert(breaker_is_closed(b));
    late(1000, 1);
    ck_assert_int_eq(breaker_state(b), BREAKER_OPEN);
    ck_assert_str_eq(breaker_why(b), "no reply");
    ck_assert_str_eq(breaker_state_name(b), "open");
    ck_assert_uint_eq(breaker_opened_at(b), 1000);
}
END_TEST

START_TEST(a_lost_one_is_no_timeout)
{
    late(1000, 4);
    lost(1000, 1);
    late(1000, 4);
    ck_assert(breaker_is_closed(b));
}
END_TEST

START_TEST(opens_on_the_rate_of_errors)
{
    good(1000, 10);
    lost(1000, 9);
    ck_assert(breaker_is_closed(b)); /* 19 requests */
    lost(1000, 1);
    ck_assert(!breaker_is_closed(b)); /* 10 of 20 */
}
END_TEST

START_TEST(the_rate_is_of_the_window)
{
    lost(1000, 15);
    good(1000 + 2 * WINDOW, 11); /* what was before is forgotten */
    lost(1000 + 2 * WINDOW, 9);
    ck_assert(breaker_is_closed(b));
    lost(1000 + 2 * WINDOW, 2);
    ck_assert(!breaker_is_closed(b));
    start(&usual);
    lost(1000, 10);
    good(1000 + WINDOW / 2, 9); /* what was in the half before counts still */
    ck_assert(breaker_is_closed(b));
    lost(1000 + WINDOW / 2, 1);
    ck_assert(!breaker_is_closed(b));
}
END_TEST

START_TEST(either_can_be_turned_off)
{
    struct breaker_options options = usual;
    options.timeouts = 0;
    options.error_rate = 0;
    start(&options);
    late(1000, 10000);
    lost(1000, 10000);
    ck_assert(breaker_is_closed(b));
    breaker_set_options(b, &usual);
    late(1000, 1);
    ck_assert(!breaker_is_closed(b));
}
END_TEST

/* Returns when it may be probed. */
static uint64_t trip(uint64_t now, uint64_t at_least)
{
    breaker_trip(b, now, "refused", at_least);
    ck_assert_int_eq(breaker_state(b), BREAKER_OPEN);
    ck_assert(!breaker_begin_probe(b, now));
    return now + breaker_probe_in(b, now);
}

START_TEST(one_probe_then_closed)
{
    uint64_t at = trip(1000, 0);
    ck_assert_uint_ge(at, 1000 + OPEN_MIN / 2);
    ck_assert_uint_le(at, 1000 + OPEN_MIN);
    ck_assert(!breaker_begin_probe(b, at - 1));
    ck_assert(breaker_begin_probe(b, at));
    ck_assert_int_eq(breaker_state(b), BREAKER_HALF_OPEN);
    ck_assert(!breaker_begin_probe(b, at + 100000)); /* it is under way */
    ck_assert_uint_eq(breaker_probe_in(b, at), 0);
    breaker_close(b, at + 1);
    ck_assert(breaker_is_closed(b));
    ck_assert_uint_eq(breaker_opened_at(b), 0);
    late(at + 1, 4); /* counted anew */
    ck_assert(breaker_is_closed(b));
}
END_TEST

START_TEST(open_for_longer_each_time)
{
    uint64_t now = 1000, span = OPEN_MIN;
    for (int i = 0; i < 12; i++) {
        uint64_t at = trip(now, 0);
        ck_assert_uint_ge(at - now, span / 2);
        ck_assert_uint_le(at - now, span);
        ck_assert(breaker_begin_probe(b, at));
        ck_assert_uint_eq(breaker_opened_at(b), 1000); /* since then, whatever was tried */
        now = at;
        span = 2 * span < OPEN_MAX ? 2 * span : OPEN_MAX;
    }
    breaker_close(b, now); /* the probe was answered, no request yet */
    ck_assert_uint_ge(trip(now, 0) - now, OPEN_MAX / 2);
    ck_assert(breaker_begin_probe(b, now + OPEN_MAX));
    breaker_close(b, now + OPEN_MAX);
    good(now + OPEN_MAX, 1);
    ck_assert_uint_le(trip(now, 0) - now, OPEN_MIN);
}
END_TEST

START_TEST(for_at_least_so_long)
{
    ck_assert_uint_eq(trip(1000, 5000), 6000);
}
END_TEST

START_TEST(failures_while_it_is_open_change_nothing)
{
    uint64_t at = trip(1000, 0);
    late(1010, 100);
    lost(1010, 100);
    good(1010, 100);
    ck_assert_int_eq(breaker_state(b), BREAKER_OPEN);
    ck_assert_uint_eq(1010 + breaker_probe_in(b, 1010), at);
    ck_assert_str_eq(breaker_why(b), "refused");
}
END_TEST

START_TEST(why_is_one_line)
{
    breaker_trip(b, 1, "one\r\ntwo", 0);
    ck_assert_str_eq(breaker_why(b), "one");
    char longer[2 * BREAKER_WHY_MAX];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    breaker_trip(b, 1, longer, 0);
    ck_assert_uint_eq(strlen(breaker_why(b)), BREAKER_WHY_MAX - 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        opens_on_timeouts_in_a_row,
        a_lost_one_is_no_timeout,
        opens_on_the_rate_of_errors,
        the_rate_is_of_the_window,
        either_can_be_turned_off,
        one_probe_then_closed,
        open_for_longer_each_time,
        for_at_least_so_long,
        failures_while_it_is_open_change_nothing,
        why_is_one_line,
    };
    Suite *s = suite_create("breaker");
    TCase *t = tcase_create("breaker");
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
