/* test_coherence.c - each rule of DESIGN section 5, with time as an argument. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "coherence.h"

enum { TTL = 1000, LEASE = 300 };

static struct metrics metrics;
static struct l1 *l1;
static struct coherence *c;

static void setup(void)
{
    memset(&metrics, 0, sizeof metrics);
    l1 = l1_new(&(struct l1_config){.max_memory = 1 << 20, .seed = 7});
    ck_assert_ptr_nonnull(l1);
    c = coherence_new(l1, &metrics,
                      &(struct coherence_options){.ttl = TTL, .lease = LEASE, .max_value = 1000});
    ck_assert_ptr_nonnull(c);
    coherence_link_up(c, 0);
}

static void teardown(void)
{
    coherence_free(c);
    l1_free(l1);
}

static struct l1_view view(const char *key)
{
    return (struct l1_view){.key = key,
                            .key_len = strlen(key),
                            .hash = l1_hash(l1, key, strlen(key)),
                            .view = "",
                            .view_len = 0};
}

static uint64_t hash(const char *key)
{
    return view(key).hash;
}

static struct fill *begin(const char *key, uint64_t now)
{
    struct l1_view v = view(key);
    return coherence_begin_fill(c, &v, FILL_VALUE, 2, now);
}

static void end(struct fill *f, const char *reply, const char *pttl, uint64_t now)
{
    coherence_fill_value(c, f, reply, strlen(reply));
    coherence_fill_value_end(c, f, true, now);
    coherence_fill_ttl(f, pttl, strlen(pttl));
    coherence_fill_ttl_end(c, f, true, now);
}

static bool hit(const char *key, uint64_t now)
{
    struct l1_view v = view(key);
    struct l1_hit h;
    return coherence_lookup(c, &v, now, &h);
}

static void fill(const char *key, uint64_t now)
{
    struct fill *f = begin(key, now);
    ck_assert_ptr_nonnull(f);
    end(f, "$1\r\nx\r\n", ":-1\r\n", now);
}

START_TEST(test_fill_and_hit)
{
    ck_assert(!hit("k", 0));
    fill("k", 0);
    ck_assert(hit("k", 0));
    ck_assert(!hit("other", 0));
    ck_assert_uint_eq(metrics.fills, 1);
    ck_assert_uint_eq(metrics.fills_discarded, 0);
}
END_TEST

START_TEST(test_the_deadline_counts_from_the_sending)
{
    struct fill *f = begin("k", 100);
    end(f, "$1\r\nx\r\n", ":50\r\n", 140);
    coherence_renew(c, 140);
    ck_assert(hit("k", 149));
    ck_assert(!hit("k", 150));
    f = begin("late", 100);
    end(f, "$1\r\nx\r\n", ":50\r\n", 150); /* the replies took longer than the key lived */
    ck_assert(!hit("late", 150));
}
END_TEST

START_TEST(test_the_l1_ttl_bounds_every_entry)
{
    fill("k", 0);
    coherence_renew(c, TTL);
    ck_assert(hit("k", TTL - 1));
    ck_assert(!hit("k", TTL));
}
END_TEST

START_TEST(test_what_is_not_stored)
{
    static const struct {
        const char *reply, *pttl;
    } table[] = {{"$-1\r\n", ":-2\r\n"},      {"$-1\r\n", ":-1\r\n"},    {"$1\r\nx\r\n", ":-2\r\n"},
                 {"$1\r\nx\r\n", "-ERR\r\n"}, {"$1\r\nx\r\n", ":0\r\n"}, {"$1\r\nx\r\n", ""}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        end(begin("k", 0), table[i].reply, table[i].pttl, 0);
        ck_assert_msg(!hit("k", 0), "%zu", i);
    }
    struct fill *f = begin("k", 0); /* an error, or a lost connection */
    coherence_fill_value_end(c, f, false, 0);
    coherence_fill_ttl_end(c, f, false, 0);
    ck_assert(!hit("k", 0));
    char big[2000] = "$1990\r\n";
    memset(big + 7, 'x', sizeof big - 8);
    big[sizeof big - 1] = 0;
    end(begin("k", 0), big, ":-1\r\n", 0);
    ck_assert(!hit("k", 0));
    fill("k", 0); /* and none of it is in the way of the next */
    ck_assert(hit("k", 0));
}
END_TEST

START_TEST(test_an_invalidation_overtakes_a_fill)
{
    struct fill *f = begin("k", 0);
    coherence_kill(c, hash("k"));
    end(f, "$3\r\nold\r\n", ":-1\r\n", 0);
    ck_assert(!hit("k", 0));
    ck_assert_uint_eq(metrics.fills, 0);
}
END_TEST

START_TEST(test_an_invalidation_between_value_and_ttl)
{
    struct fill *f = begin("k", 0);
    coherence_fill_value(c, f, "$1\r\nx\r\n", 7);
    coherence_fill_value_end(c, f, true, 0);
    coherence_kill(c, hash("k"));
    coherence_fill_ttl(f, ":-1\r\n", 5);
    coherence_fill_ttl_end(c, f, true, 0);
    ck_assert(!hit("k", 0));
}
END_TEST

START_TEST(test_a_late_fill_does_not_hide_behind_a_new_one)
{
    /* Two flights of one name, replies reversed (ABA): the older one stores nothing. */
    struct fill *old = begin("k", 0);
    coherence_kill(c, hash("k"));
    struct fill *new = begin("k", 0);
    ck_assert_ptr_nonnull(new);
    end(new, "$3\r\nnew\r\n", ":-1\r\n", 0);
    ck_assert(hit("k", 0));
    end(old, "$3\r\nold\r\n", ":-1\r\n", 0);
    struct l1_view v = view("k");
    struct l1_hit h;
    if (coherence_lookup(c, &v, 0, &h))
        ck_assert(memcmp(h.reply, "$3\r\nnew", 7) == 0);
}
END_TEST

START_TEST(test_a_write_kills_at_both_ends_and_stops_fills)
{
    fill("k", 0);
    struct fill *f = begin("other", 0);
    ck_assert(coherence_write_begin(c, hash("k")));
    ck_assert(!hit("k", 0));
    ck_assert_ptr_null(begin("k", 0));
    ck_assert(coherence_write_begin(c, hash("k")));
    coherence_write_end(c, hash("k"));
    ck_assert_ptr_null(begin("k", 0));
    ck_assert_ptr_nonnull(coherence_obstacle(c, hash("k"), 0));
    coherence_write_end(c, hash("k"));
    ck_assert_ptr_null(coherence_obstacle(c, hash("k"), 0));
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(hit("other", 0));
    fill("k", 0);
    ck_assert(hit("k", 0));
}
END_TEST

START_TEST(test_a_write_detaches_the_flight_before_it)
{
    struct fill *f = begin("k", 0);
    struct l1_view v = view("k");
    ck_assert_ptr_eq(coherence_join(c, &v, 2), f);
    ck_assert(coherence_write_begin(c, hash("k")));
    ck_assert_ptr_null(coherence_join(c, &v, 2)); /* nobody joins it after his own write */
    end(f, "$3\r\nold\r\n", ":-1\r\n", 0);
    coherence_write_end(c, hash("k"));
    ck_assert(!hit("k", 0));
}
END_TEST

START_TEST(test_unknown_keys_are_a_new_epoch_at_both_ends)
{
    fill("k", 0);
    struct fill *f = begin("flying", 0);
    coherence_write_all_begin(c);
    ck_assert(!hit("k", 0));
    ck_assert_ptr_null(begin("k", 0));
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    coherence_write_all_end(c);
    ck_assert(!hit("flying", 0));
    fill("k", 0);
    ck_assert(hit("k", 0));
}
END_TEST

START_TEST(test_joining_ends_when_the_reply_begins)
{
    struct fill *f = begin("k", 0);
    struct l1_view v = view("k");
    ck_assert_ptr_null(begin("k", 0)); /* one at a time */
    coherence_fill_value(c, f, "$", 1);
    ck_assert_ptr_null(coherence_join(c, &v, 2));
    end(f, "1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(hit("k", 0));
}
END_TEST

START_TEST(test_readers_of_another_protocol_do_not_join)
{
    struct l1_view v = view("k");
    struct fill *f = begin("k", 0);
    ck_assert_ptr_eq(coherence_join(c, &v, 2), f);
    ck_assert_ptr_null(coherence_join(c, &v, 3)); /* a nil would be the wrong one for it */
    ck_assert_ptr_null(coherence_begin_fill(c, &v, FILL_VALUE, 3, 0));
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(hit("k", 0)); /* what is stored is the same for both */
    coherence_kill(c, v.hash);
    f = coherence_begin_fill(c, &v, FILL_VALUE, 3, 0);
    ck_assert_ptr_nonnull(f);
    ck_assert_ptr_null(coherence_join(c, &v, 2));
    ck_assert_ptr_eq(coherence_join(c, &v, 3), f);
    end(f, "_\r\n", ":-2\r\n", 0);
    ck_assert(!hit("k", 0));
}
END_TEST

START_TEST(test_the_lease)
{
    fill("k", 0);
    ck_assert(hit("k", LEASE));
    ck_assert(!hit("k", LEASE + 1));
    coherence_renew(c, 200);
    ck_assert(hit("k", 200 + LEASE));
    coherence_renew(c, 100); /* an older proof takes nothing back */
    ck_assert(hit("k", 200 + LEASE));
    ck_assert(!hit("k", 201 + LEASE));
}
END_TEST

START_TEST(test_the_link_lost_and_back)
{
    fill("k", 0);
    struct fill *f = begin("flying", 0);
    coherence_link_down(c);
    ck_assert(!hit("k", 0));
    ck_assert_ptr_null(begin("k", 0));
    coherence_renew(c, 50);
    ck_assert(!coherence_serving(c, 50));
    coherence_link_up(c, 100);
    end(f, "$1\r\nx\r\n", ":-1\r\n", 100); /* begun before the link was live */
    ck_assert(!hit("k", 100));
    ck_assert(!hit("flying", 100));
    fill("k", 100);
    ck_assert(hit("k", 100));
}
END_TEST

START_TEST(test_views_are_killed_together)
{
    struct l1_view a = view("k"), b = view("k");
    b.view = "db1";
    b.view_len = 3;
    struct fill *f = coherence_begin_fill(c, &b, FILL_VALUE, 2, 0);
    ck_assert_ptr_nonnull(f);
    fill("k", 0);
    struct l1_hit h;
    end(f, "$1\r\ny\r\n", ":-1\r\n", 0);
    ck_assert(coherence_lookup(c, &a, 0, &h) && coherence_lookup(c, &b, 0, &h));
    coherence_kill_key(c, "k", 1);
    ck_assert(!coherence_lookup(c, &a, 0, &h) && !coherence_lookup(c, &b, 0, &h));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("coherence");
    TCase *t = tcase_create("coherence");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_fill_and_hit);
    tcase_add_test(t, test_the_deadline_counts_from_the_sending);
    tcase_add_test(t, test_the_l1_ttl_bounds_every_entry);
    tcase_add_test(t, test_what_is_not_stored);
    tcase_add_test(t, test_an_invalidation_overtakes_a_fill);
    tcase_add_test(t, test_an_invalidation_between_value_and_ttl);
    tcase_add_test(t, test_a_late_fill_does_not_hide_behind_a_new_one);
    tcase_add_test(t, test_a_write_kills_at_both_ends_and_stops_fills);
    tcase_add_test(t, test_a_write_detaches_the_flight_before_it);
    tcase_add_test(t, test_unknown_keys_are_a_new_epoch_at_both_ends);
    tcase_add_test(t, test_joining_ends_when_the_reply_begins);
    tcase_add_test(t, test_readers_of_another_protocol_do_not_join);
    tcase_add_test(t, test_the_lease);
    tcase_add_test(t, test_the_link_lost_and_back);
    tcase_add_test(t, test_views_are_killed_together);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
