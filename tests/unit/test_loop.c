/* test_loop.c - the turn: what was put off to its end, in which order, and what was called off. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "loop.h"

enum { JOBS = 40, MANY = 32 };

/* What a job does: says its letter, and then something to another one. */
struct actor {
    struct loop_job job;
    char letter;
    void (*act)(struct actor *other);
    struct actor *other;
};

static struct loop loop;
static struct actor actors[JOBS];
static char said[256];

static void run(struct loop_job *job)
{
    struct actor *a = (struct actor *)job;
    size_t n = strlen(said);
    said[n] = a->letter;
    said[n + 1] = '\0';
    if (a->act)
        a->act(a->other);
}

static void soon(struct actor *a)
{
    loop_soon(&loop, &a->job, run);
}

static void together(struct actor *a)
{
    loop_soon_together(&loop, &a->job, run);
}

static void next_turn(struct actor *a)
{
    loop_next_turn(&loop, &a->job, run);
}

static void cancel(struct actor *a)
{
    loop_cancel(&loop, &a->job);
}

static void stop(struct actor *a)
{
    (void)a;
    loop_stop(&loop);
}

/* Turns the loop until there is nothing left to do. */
static const char *turn(void)
{
    loop_run(&loop);
    return said;
}

static void setup(void)
{
    ck_assert(loop_init(&loop));
    memset(actors, 0, sizeof actors);
    for (size_t i = 0; i < JOBS; i++)
        actors[i].letter = (char)('a' + i % 26);
    said[0] = '\0';
}

static void teardown(void)
{
    loop_free(&loop);
}

START_TEST(test_the_end_of_a_turn)
{
    loop_bury(&loop, &actors[25].job, run);
    soon(&actors[0]);
    together(&actors[1]);
    soon(&actors[0]); /* once is enough */
    actors[0].act = together;
    actors[0].other = &actors[2];
    actors[2].act = soon;
    actors[2].other = &actors[3];
    ck_assert_str_eq(turn(), "abcdz");
}
END_TEST

START_TEST(test_a_round_is_run_when_it_is_full)
{
    for (size_t i = 0; i < MANY; i++) {
        loop_round(&loop, false);
        ck_assert_uint_eq(strlen(said), 0);
        together(&actors[i]);
    }
    loop_round(&loop, false);
    ck_assert_uint_eq(strlen(said), MANY);
    loop_round(&loop, false);
    ck_assert_uint_eq(strlen(said), MANY);
}
END_TEST

START_TEST(test_a_round_does_not_wait_behind_long_work)
{
    soon(&actors[1]);
    together(&actors[0]);
    loop_round(&loop, true);
    ck_assert_str_eq(said, "a"); /* what is not of the round waits for the turn's end */
    ck_assert_str_eq(turn(), "ab");
}
END_TEST

START_TEST(test_called_off)
{
    together(&actors[0]);
    together(&actors[1]);
    soon(&actors[2]);
    next_turn(&actors[3]);
    for (size_t i = 0; i < 4; i++)
        cancel(&actors[i]);
    cancel(&actors[4]);
    together(&actors[1]);
    ck_assert_str_eq(turn(), "b");
}
END_TEST

START_TEST(test_called_off_by_the_one_before)
{
    next_turn(&actors[0]);
    next_turn(&actors[1]);
    actors[0].act = cancel; /* the last of those that are about to be run */
    actors[0].other = &actors[1];
    ck_assert_str_eq(turn(), "a");
    loop.stopped = false;
    next_turn(&actors[2]);
    ck_assert_str_eq(turn(), "ac");
}
END_TEST

START_TEST(test_the_next_turn_is_another)
{
    next_turn(&actors[0]);
    actors[0].act = next_turn;
    actors[0].other = &actors[1];
    soon(&actors[2]);
    actors[1].act = stop;
    ck_assert_str_eq(turn(), "acb");
    ck_assert(loop.stopped);
}
END_TEST

START_TEST(test_the_clock_stands_still_within_a_turn)
{
    uint64_t before = loop_now(&loop);
    while (monotonic_ms() == before)
        ;
    ck_assert_uint_eq(loop_now(&loop), before);
    loop_forget_time(&loop);
    ck_assert_uint_gt(loop_now(&loop), before);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop");
    TCase *t = tcase_create("loop");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_the_end_of_a_turn);
    tcase_add_test(t, test_a_round_is_run_when_it_is_full);
    tcase_add_test(t, test_a_round_does_not_wait_behind_long_work);
    tcase_add_test(t, test_called_off);
    tcase_add_test(t, test_called_off_by_the_one_before);
    tcase_add_test(t, test_the_next_turn_is_another);
    tcase_add_test(t, test_the_clock_stands_still_within_a_turn);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
