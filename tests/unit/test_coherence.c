/* test_coherence.c - each rule of DESIGN section 5, with time as an argument. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence.h"

enum { TTL = 1000, NEGATIVE_TTL = 100, LEASE = 300, MAX_VALUE = 1000 };

static struct budget budget;
static struct coherence *c;

static void set_ttls(uint64_t ttl, uint64_t negative_ttl)
{
    coherence_set_options(
        c, &(struct coherence_options){
               .ttl = ttl, .negative_ttl = negative_ttl, .lease = LEASE, .max_value = MAX_VALUE});
}

static void setup_with(size_t max_memory, bool shared)
{
    const struct l1_config l1 = {.max_memory = max_memory, .seed = 7};
    c = coherence_new(&l1, shared, &(struct coherence_options){.ttl = TTL});
    ck_assert_ptr_nonnull(c);
    set_ttls(TTL, NEGATIVE_TTL);
    coherence_link_up(c, 0);
}

static void setup(void)
{
    setup_with(1 << 20, false);
}

/* Sixteen shards, each with a lock. */
static void setup_shared(void)
{
    setup_with(16 << 20, true);
}

static void teardown(void)
{
    coherence_free(c);
    ck_assert_uint_eq(budget.used, 0);
}

static struct l1_stats stats(void)
{
    struct metrics metrics = {0};
    struct l1_stats stats;
    coherence_count(c, &stats, &metrics);
    return stats;
}

static struct metrics counts(void)
{
    struct metrics metrics = {0};
    struct l1_stats stats;
    coherence_count(c, &stats, &metrics);
    return metrics;
}

static struct l1_view view(const char *key)
{
    return (struct l1_view){.key = key,
                            .key_len = strlen(key),
                            .hash = coherence_hash(c, key, strlen(key)),
                            .view = "",
                            .view_len = 0};
}

/* What is found stays where it is: nobody else is here. */
static bool found(const struct l1_view *v, uint64_t now, struct l1_hit *h)
{
    bool there = coherence_lookup(c, v, now, h);
    if (there)
        coherence_release(c, v);
    return there;
}

static uint64_t hash(const char *key)
{
    return view(key).hash;
}

/* All on one connection. */
static struct fill *begin_view(const struct l1_view *v, enum command_absent absent, unsigned resp,
                               uint64_t now)
{
    return coherence_begin_fill(
        c, v,
        &(struct fill_terms){
            .absent = absent, .resp = resp, .path = "a", .now = now, .budget = &budget});
}

static struct fill *join(const struct l1_view *v, unsigned resp)
{
    return coherence_join(c, v, &(struct fill_terms){.resp = resp, .path = "a"});
}

static struct fill *begin(const char *key, uint64_t now)
{
    struct l1_view v = view(key);
    return begin_view(&v, COMMAND_ABSENT_VALUE, 2, now);
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
    return found(&v, now, &h);
}

static void fill(const char *key, uint64_t now)
{
    struct fill *f = begin(key, now);
    ck_assert_ptr_nonnull(f);
    end(f, "$1\r\nx\r\n", ":-1\r\n", now);
}

static void fill_as(const char *key, enum command_absent kind, const char *reply, const char *pttl,
                    uint64_t now)
{
    struct l1_view v = view(key);
    struct fill *f = begin_view(&v, kind, 2, now);
    ck_assert_ptr_nonnull(f);
    end(f, reply, pttl, now);
}

/* Is a reply of this kind kept, with that PTTL behind it? Leaves nothing behind. */
static bool kept_as(enum command_absent kind, const char *reply, const char *pttl)
{
    fill_as("kept", kind, reply, pttl, 0);
    bool kept = hit("kept", 0);
    coherence_kill(c, hash("kept"));
    return kept;
}

/* Kept up to this time and no longer. */
static void ck_lives(const char *key, uint64_t until)
{
    coherence_renew(c, until);
    ck_assert_msg(hit(key, until - 1), "%s", key);
    ck_assert_msg(!hit(key, until), "%s", key);
}

START_TEST(test_fill_and_hit)
{
    ck_assert(!hit("k", 0));
    fill("k", 0);
    ck_assert(hit("k", 0));
    ck_assert(!hit("other", 0));
    ck_assert_uint_eq(counts().fills, 1);
    ck_assert_uint_eq(counts().fills_discarded, 0);
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
    } table[] = {{"$-1\r\n", ":-1\r\n"},
                 {"_\r\n", ":5\r\n"},
                 {"$1\r\nx\r\n", ":-2\r\n"},
                 {"$1\r\nx\r\n", "-ERR\r\n"},
                 {"$1\r\nx\r\n", ":0\r\n"},
                 {"$1\r\nx\r\n", ""},
                 {"$1\r\nx\r\n", ":-3\r\n"},
                 {"$-1\r\n", "-ERR\r\n"},
                 {"$1\r\nx\r\n", ":-9223372036854775808\r\n"}};
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
    ck_assert_uint_eq(counts().fills, 0);
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
    if (found(&v, 0, &h))
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
    ck_assert_ptr_eq(join(&v, 2), f);
    ck_assert(coherence_write_begin(c, hash("k")));
    ck_assert_ptr_null(join(&v, 2)); /* nobody joins it after his own write */
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
    ck_assert_ptr_eq(join(&v, 2), f);
    coherence_fill_value(c, f, "$", 1);
    ck_assert_ptr_null(join(&v, 2));
    end(f, "1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(hit("k", 0));
}
END_TEST

START_TEST(test_readers_of_another_protocol_do_not_join)
{
    struct l1_view v = view("k");
    struct fill *f = begin("k", 0);
    ck_assert_ptr_eq(join(&v, 2), f);
    ck_assert_ptr_null(join(&v, 3)); /* a nil would be the wrong one for it */
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(hit("k", 0)); /* what is stored is the same for both */
    coherence_kill(c, v.hash);
    f = begin_view(&v, COMMAND_ABSENT_VALUE, 3, 0);
    ck_assert_ptr_nonnull(f);
    ck_assert_ptr_null(join(&v, 2));
    ck_assert_ptr_eq(join(&v, 3), f);
    end(f, "_\r\n", ":-2\r\n", 0);
    ck_assert(hit("k", 0));
}
END_TEST

static void ck_stored(const char *key, const char *reply)
{
    struct l1_view v = view(key);
    struct l1_hit h;
    ck_assert(found(&v, 0, &h));
    ck_assert_uint_eq(h.len, strlen(reply));
    ck_assert_mem_eq(h.reply, reply, h.len);
}

/* The second reader may have seen more than the first: what the first brings counts for nothing. */
START_TEST(test_a_newer_fill_supersedes_an_older_one)
{
    struct l1_view v = view("k");
    struct fill *old = begin("k", 0), *new = begin("k", 0);
    ck_assert_ptr_nonnull(new);
    ck_assert_ptr_eq(join(&v, 2), new);
    ck_assert_uint_eq(counts().fills_discarded, 1);
    end(old, "$3\r\nold\r\n", ":-1\r\n", 0);
    ck_assert(!hit("k", 0));
    ck_assert_ptr_eq(join(&v, 2), new); /* it did not kill the newer one */
    end(new, "$3\r\nnew\r\n", ":-1\r\n", 0);
    ck_stored("k", "$3\r\nnew\r\n");
    coherence_kill(c, v.hash);
    /* On another path the older one may be answered later, and show more than what is stored. */
    old = begin("k", 0);
    new = coherence_begin_fill(
        c, &v,
        &(struct fill_terms){
            .absent = COMMAND_ABSENT_VALUE, .resp = 2, .path = "b", .budget = &budget});
    end(new, "$3\r\nnew\r\n", ":-1\r\n", 0);
    ck_assert(hit("k", 0));
    end(old, "$3\r\nold\r\n", ":-1\r\n", 0);
    ck_assert(!hit("k", 0));
}
END_TEST

START_TEST(test_only_the_same_view_is_superseded)
{
    struct l1_view plain = view("k"), other = view("k");
    struct l1_hit h;
    other.view = "strlen";
    other.view_len = 6;
    struct fill *f = begin_view(&plain, COMMAND_ABSENT_VALUE, 2, 0);
    struct fill *g = begin_view(&other, COMMAND_ABSENT_NIL, 2, 0);
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    end(g, ":1\r\n", ":-1\r\n", 0);
    ck_assert(found(&plain, 0, &h) && found(&other, 0, &h));
    ck_assert_uint_eq(counts().fills_discarded, 0);
}
END_TEST

/* A kill takes the newer fill along; then nothing is left that could be stored. */
START_TEST(test_a_kill_of_a_superseding_fill)
{
    struct fill *old = begin("k", 0), *new = begin("k", 0);
    coherence_kill(c, hash("k"));
    end(old, "$3\r\nold\r\n", ":-1\r\n", 0);
    end(new, "$3\r\nnew\r\n", ":-1\r\n", 0);
    ck_assert(!hit("k", 0));
    ck_assert_uint_eq(counts().fills, 0);
}
END_TEST

/* --- absent keys --------------------------------------------------------------------------------
 */

static const struct {
    enum command_absent absent;
    const char *reply;
} ABSENT[] = {{COMMAND_ABSENT_NIL, "$-1\r\n"},
              {COMMAND_ABSENT_NIL, "_\r\n"},
              {COMMAND_ABSENT_ZERO, ":0\r\n"},
              {COMMAND_ABSENT_EMPTY, "$0\r\n\r\n"},
              {COMMAND_ABSENT_NONE, "+none\r\n"},
              {COMMAND_ABSENT_NIL, "*-1\r\n"},
              {COMMAND_ABSENT_SOUGHT, "*0\r\n"},
              {COMMAND_ABSENT_LIST, "*0\r\n"},
              {COMMAND_ABSENT_LIST, "%0\r\n"},
              {COMMAND_ABSENT_LIST, "~0\r\n"},
              {COMMAND_ABSENT_NILS, "*2\r\n$-1\r\n$-1\r\n"},
              {COMMAND_ABSENT_ZEROS, "*2\r\n:0\r\n:0\r\n"},
              {COMMAND_ABSENT_NILS, "*1\r\n_\r\n"},
              {COMMAND_ABSENT_NILS, "*2\r\n*-1\r\n*-1\r\n"}};
enum { ABSENT_FORMS = sizeof ABSENT / sizeof *ABSENT };

START_TEST(test_absent_keys_are_kept)
{
    for (size_t i = 0; i < ABSENT_FORMS; i++) {
        const char *reply = ABSENT[i].reply;
        set_ttls(TTL, NEGATIVE_TTL);
        ck_assert_msg(kept_as(ABSENT[i].absent, reply, ":-2\r\n"), "%s", reply);
        ck_assert_msg(!kept_as(COMMAND_ABSENT_NEVER, reply, ":-2\r\n"), "%s", reply);
        set_ttls(TTL, 0);
        ck_assert_msg(!kept_as(ABSENT[i].absent, reply, ":-2\r\n"), "%s", reply);
        ck_assert_msg(kept_as(ABSENT[i].absent, reply, ":-1\r\n"), "%s", reply);
    }
    ck_assert(!kept_as(COMMAND_ABSENT_VALUE, "$-1\r\n", ":-2\r\n"));
    set_ttls(TTL, NEGATIVE_TTL);
    ck_assert(kept_as(COMMAND_ABSENT_VALUE, "$-1\r\n", ":-2\r\n"));
    ck_assert(kept_as(COMMAND_ABSENT_VALUE, "_\r\n", ":-2\r\n"));
}
END_TEST

/* What one read answers of an absent key is another's answer about a key that expired meanwhile. */
START_TEST(test_the_form_of_absence_is_the_reads_own)
{
    for (size_t i = 0; i < ABSENT_FORMS; i++)
        for (int absent = COMMAND_ABSENT_NIL; absent <= COMMAND_ABSENT_ZEROS; absent++)
            if (absent != (int)ABSENT[i].absent && absent != COMMAND_ABSENT_SOUGHT &&
                ABSENT[i].absent != COMMAND_ABSENT_SOUGHT)
                ck_assert_msg(!kept_as((enum command_absent)absent, ABSENT[i].reply, ":-2\r\n"),
                              "%d %s", absent, ABSENT[i].reply);
}
END_TEST

START_TEST(test_the_ttl_of_absent_keys)
{
    fill_as("k", COMMAND_ABSENT_VALUE, "$-1\r\n", ":-2\r\n", 10);
    ck_lives("k", 10 + NEGATIVE_TTL);
    fill_as("list", COMMAND_ABSENT_LIST, "*0\r\n", ":-2\r\n", 10);
    ck_lives("list", 10 + NEGATIVE_TTL);
    set_ttls(TTL, 5 * TTL); /* the L1's own TTL is the bound of all */
    fill_as("k", COMMAND_ABSENT_VALUE, "$-1\r\n", ":-2\r\n", 200);
    ck_lives("k", 200 + TTL);
}
END_TEST

/* The same words about a key that is there: they live as long as it does. */
START_TEST(test_empty_replies_of_a_key_that_is_there)
{
    fill_as("no field", COMMAND_ABSENT_NIL, "$-1\r\n", ":-1\r\n", 0);
    ck_lives("no field", TTL);
    fill_as("empty range", COMMAND_ABSENT_NEVER, "*0\r\n", ":50\r\n", TTL);
    ck_lives("empty range", TTL + 50);
    fill_as("empty string", COMMAND_ABSENT_VALUE, "$0\r\n\r\n", ":-1\r\n", 2000);
    ck_lives("empty string", 2000 + TTL);
}
END_TEST

/* It was there when its value was read, and no more when its PTTL was: that value is over. */
START_TEST(test_expired_between_value_and_pttl)
{
    static const char *const present[] = {"$1\r\nx\r\n",       ":1\r\n",
                                          ":-1\r\n",           ",1.5\r\n",
                                          "+string\r\n",       "#f\r\n",
                                          "*1\r\n$1\r\nx\r\n", "*2\r\n$-1\r\n$1\r\nx\r\n",
                                          "*1\r\n:1\r\n",      "%1\r\n$0\r\n\r\n$1\r\nx\r\n",
                                          "$-1\r\nx",          "=4\r\ntxt:\r\n"};
    for (size_t i = 0; i < sizeof present / sizeof *present; i++)
        for (int absent = COMMAND_ABSENT_NEVER; absent <= COMMAND_ABSENT_ZEROS; absent++)
            ck_assert_msg(!kept_as((enum command_absent)absent, present[i], ":-2\r\n"), "%d %s",
                          absent, present[i]);
    ck_assert(!kept_as(COMMAND_ABSENT_VALUE, "$1\r\nx\r\n", ":-2\r\n"));
}
END_TEST

START_TEST(test_an_empty_string_expired_before_its_pttl)
{
    ck_assert(
        !kept_as(COMMAND_ABSENT_VALUE, "$0\r\n\r\n", ":-2\r\n")); /* an absent one reads as nil */
}
END_TEST

/* MGET reads a list as nil: no GET may be answered so. And a key may have come between the two. */
START_TEST(test_nil_of_a_key_that_is_there)
{
    ck_assert(!kept_as(COMMAND_ABSENT_VALUE, "$-1\r\n", ":-1\r\n"));
    ck_assert(!kept_as(COMMAND_ABSENT_VALUE, "_\r\n", ":5000\r\n"));
    ck_assert(kept_as(COMMAND_ABSENT_NIL, "$-1\r\n", ":-1\r\n"));
    ck_assert(kept_as(COMMAND_ABSENT_NEVER, ":-1\r\n", ":5000\r\n"));
}
END_TEST

START_TEST(test_absent_keys_are_killed_as_others_are)
{
    fill_as("k", COMMAND_ABSENT_VALUE, "$-1\r\n", ":-2\r\n", 0);
    ck_assert(hit("k", 0));
    coherence_kill(c, hash("k"));
    ck_assert(!hit("k", 0));
    fill_as("k", COMMAND_ABSENT_VALUE, "$-1\r\n", ":-2\r\n", 0);
    ck_assert(coherence_write_begin(c, hash("k")));
    ck_assert(!hit("k", 0));
    coherence_write_end(c, hash("k"));
    struct fill *f = begin("k", 0);
    coherence_kill(c, hash("k")); /* created meanwhile */
    end(f, "$-1\r\n", ":-2\r\n", 0);
    ck_assert(!hit("k", 0));
}
END_TEST

/* --- suspects -----------------------------------------------------------------------------------
 */

static uint64_t entries(void)
{
    return stats().entries;
}

START_TEST(test_suspects_are_kept_and_not_served)
{
    fill("k", 0);
    struct fill *f = begin("flying", 0);
    coherence_suspect(c);
    ck_assert_uint_eq(counts().epochs, 2);
    ck_assert_uint_eq(counts().fills_discarded, 1);
    ck_assert(coherence_serving(c, 0));
    ck_assert(!hit("k", 0));
    ck_assert_uint_eq(entries(), 1);
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0); /* begun before */
    ck_assert(!hit("flying", 0));
    fill("new", 0);
    ck_assert(hit("new", 0));
    fill("k", 0); /* asked for again */
    ck_assert(hit("k", 0));
    ck_assert_uint_eq(entries(), 2);
}
END_TEST

START_TEST(test_a_new_epoch_forgets)
{
    fill("k", 0);
    coherence_suspect(c);
    struct fill *f = begin("flying", 0);
    coherence_new_epoch(c);
    ck_assert_uint_eq(entries(), 0);
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(!hit("flying", 0) && !hit("k", 0));
    fill("k", 0);
    ck_assert(hit("k", 0));
}
END_TEST

START_TEST(test_a_lost_link_makes_suspect)
{
    fill("k", 0);
    uint64_t epochs = counts().epochs;
    coherence_link_down(c);
    coherence_link_down(c); /* which is down already */
    ck_assert_uint_eq(counts().epochs, epochs + 1);
    ck_assert_uint_eq(entries(), 1);
    coherence_link_up(c, 50);
    ck_assert_uint_eq(entries(), 1);
    ck_assert(!hit("k", 50));
    fill("k", 50);
    ck_assert(hit("k", 50));
}
END_TEST

/* --- by prefix ----------------------------------------------------------------------------------
 */

START_TEST(test_kill_prefix)
{
    fill("user:1", 0), fill("user:2", 0), fill("users", 0), fill("user:", 0), fill("", 0);
    struct fill *f = begin("user:3", 0), *g = begin("other", 0);
    ck_assert_uint_eq(coherence_kill_prefix(c, "user:", 5), 3);
    ck_assert(!hit("user:1", 0) && !hit("user:2", 0) && !hit("user:", 0));
    ck_assert(hit("users", 0) && hit("", 0));
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    end(g, "$1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(!hit("user:3", 0)); /* it was on its way */
    ck_assert(hit("other", 0));
    ck_assert_uint_eq(coherence_kill_prefix(c, "nobody", 6), 0);
    ck_assert_uint_eq(coherence_kill_prefix(c, "others", 6), 0); /* longer than the key */
    ck_assert(hit("other", 0));
}
END_TEST

START_TEST(test_kill_an_empty_prefix)
{
    fill("a", 0), fill("b", 0);
    struct fill *f = begin("c", 0);
    uint64_t epochs = counts().epochs;
    ck_assert_uint_eq(coherence_kill_prefix(c, "", 0), 2);
    ck_assert_uint_eq(counts().epochs, epochs + 1);
    end(f, "$1\r\nx\r\n", ":-1\r\n", 0);
    ck_assert(!hit("a", 0) && !hit("b", 0) && !hit("c", 0));
    ck_assert_uint_eq(entries(), 0);
}
END_TEST

/* More than one view of a key, absent keys, suspects, many keys. */
START_TEST(test_kill_prefix_takes_all_of_it)
{
    struct l1_view v = view("p:0");
    v.view = "db1";
    v.view_len = 3;
    char key[32];
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "p:%d", i);
        fill_as(key, COMMAND_ABSENT_VALUE, i % 2 ? "$-1\r\n" : "$1\r\nx\r\n",
                i % 2 ? ":-2\r\n" : ":-1\r\n", 0);
        if (i == 500)
            coherence_suspect(c);
    }
    end(begin_view(&v, COMMAND_ABSENT_VALUE, 2, 0), "$1\r\nx\r\n", ":-1\r\n", 0);
    fill("q", 0);
    ck_assert_uint_eq(entries(), 1002);
    ck_assert_uint_eq(coherence_kill_prefix(c, "p:", 2), 1001);
    ck_assert_uint_eq(entries(), 1);
    ck_assert(hit("q", 0));
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
    struct fill *f = begin_view(&b, COMMAND_ABSENT_VALUE, 2, 0);
    ck_assert_ptr_nonnull(f);
    fill("k", 0);
    struct l1_hit h;
    end(f, "$1\r\ny\r\n", ":-1\r\n", 0);
    ck_assert(found(&a, 0, &h) && found(&b, 0, &h));
    coherence_kill_key(c, "k", 1);
    ck_assert(!found(&a, 0, &h) && !found(&b, 0, &h));
}
END_TEST

/* --- threads ------------------------------------------------------------------------------------
 */

enum { THREADS = 4, ROUNDS = 20000, KEYS = 64 };

/* Reads, fills on a path of its own, and writes; what is found is whole and of the right key. */
static void *run_thread(void *arg)
{
    unsigned *seed = arg, found_some = 0;
    struct budget own = {.limit = SIZE_MAX};
    for (unsigned i = 0; i < ROUNDS; i++) {
        char key[16], reply[32];
        int n = (int)(rand_r(seed) % KEYS);
        snprintf(key, sizeof key, "key:%d", n);
        snprintf(reply, sizeof reply, "$%d\r\n%0*d\r\n", 2 + n % 3, 2 + n % 3, n);
        struct l1_view v = view(key);
        struct l1_hit h;
        if (coherence_lookup(c, &v, 0, &h)) {
            if (h.len != strlen(reply) || memcmp(h.reply, reply, h.len) != 0)
                abort();
            coherence_release(c, &v);
            found_some++;
        } else {
            struct fill *f = coherence_begin_fill(
                c, &v,
                &(struct fill_terms){
                    .absent = COMMAND_ABSENT_VALUE, .resp = 2, .path = seed, .budget = &own});
            if (f)
                end(f, reply, ":-1\r\n", 0);
        }
        switch (rand_r(seed) % 64) {
        case 0:
            coherence_suspect(c);
            break;
        case 1:
            coherence_kill_prefix(c, "key:1", 5);
            break;
        case 2:
            coherence_write_all_begin(c);
            coherence_write_all_end(c);
            break;
        default:
            if (rand_r(seed) % 4 == 0 && coherence_write_begin(c, v.hash))
                coherence_write_end(c, v.hash);
        }
    }
    if (own.used)
        abort();
    return found_some ? arg : NULL;
}

START_TEST(test_threads_fill_kill_and_read)
{
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i + 1;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_thread, &seeds[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *found_some;
        ck_assert_int_eq(pthread_join(threads[i], &found_some), 0);
        ck_assert_ptr_nonnull(found_some);
    }
    struct metrics m = counts();
    ck_assert_uint_gt(m.fills, 0);
}
END_TEST

static void add(Suite *s, const char *name, SFun with)
{
    TCase *t = tcase_create(name);
    tcase_add_checked_fixture(t, with, teardown);
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
    tcase_add_test(t, test_a_newer_fill_supersedes_an_older_one);
    tcase_add_test(t, test_only_the_same_view_is_superseded);
    tcase_add_test(t, test_a_kill_of_a_superseding_fill);
    tcase_add_test(t, test_absent_keys_are_kept);
    tcase_add_test(t, test_the_form_of_absence_is_the_reads_own);
    tcase_add_test(t, test_the_ttl_of_absent_keys);
    tcase_add_test(t, test_empty_replies_of_a_key_that_is_there);
    tcase_add_test(t, test_expired_between_value_and_pttl);
    tcase_add_test(t, test_an_empty_string_expired_before_its_pttl);
    tcase_add_test(t, test_nil_of_a_key_that_is_there);
    tcase_add_test(t, test_absent_keys_are_killed_as_others_are);
    tcase_add_test(t, test_suspects_are_kept_and_not_served);
    tcase_add_test(t, test_a_new_epoch_forgets);
    tcase_add_test(t, test_a_lost_link_makes_suspect);
    tcase_add_test(t, test_kill_prefix);
    tcase_add_test(t, test_kill_an_empty_prefix);
    tcase_add_test(t, test_kill_prefix_takes_all_of_it);
    suite_add_tcase(s, t);
}

int main(void)
{
    Suite *s = suite_create("coherence");
    add(s, "one thread", setup);
    add(s, "shared", setup_shared);
    TCase *t = tcase_create("threads");
    tcase_add_checked_fixture(t, setup_shared, teardown);
    tcase_add_test(t, test_threads_fill_kill_and_read);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
