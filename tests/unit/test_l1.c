/* test_l1.c - the near cache: what it returns is what was stored last, within its memory. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l1.h"

enum { TINY = L1_MIN_MEMORY, MEDIUM = 256 * 1024, HEADER = 20 };

static const uint64_t FOREVER = UINT64_MAX;
static const uint64_t RANGE = UINT32_MAX; /* of a stored deadline, ms */

/* For loops: ck_assert tells the test's parent process each time that it came by. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

static struct l1 *l1;

static void start(size_t max_memory)
{
    l1_free(l1);
    l1 = l1_new(&(struct l1_config){.max_memory = max_memory, .seed = 7});
    ck_assert_ptr_nonnull(l1);
}

static void setup(void)
{
    l1 = NULL;
    start(MEDIUM);
}

static void teardown(void)
{
    l1_free(l1);
    l1 = NULL;
}

static struct l1_stats stats(void)
{
    struct l1_stats s;
    l1_get_stats(l1, &s);
    return s;
}

static struct l1_view view2(const char *key, const char *view)
{
    size_t len = strlen(key);
    return (struct l1_view){key, len, l1_hash(l1, key, len), view, strlen(view)};
}

static struct l1_view view(const char *key)
{
    return view2(key, "");
}

static bool put(const char *key, const char *value)
{
    struct l1_view v = view(key);
    return l1_insert(l1, &v, value, strlen(value), FOREVER, 0);
}

static bool put_len(const char *key, size_t len)
{
    static const char zeros[MEDIUM + 1];
    struct l1_view v = view(key);
    return l1_insert(l1, &v, zeros, len, FOREVER, 0);
}

static bool has(const char *key)
{
    struct l1_view v = view(key);
    struct l1_info info;
    return l1_inspect(l1, &v, 0, &info);
}

static bool view_is(const struct l1_view *v, uint64_t now, const char *value)
{
    struct l1_hit hit;
    return l1_lookup(l1, v, now, &hit) && hit.len == strlen(value) &&
           memcmp(hit.reply, value, hit.len) == 0;
}

static bool is(const char *key, const char *value)
{
    struct l1_view v = view(key);
    return view_is(&v, 0, value);
}

static struct l1_info inspect(const char *key)
{
    struct l1_view v = view(key);
    struct l1_info info;
    ck_assert(l1_inspect(l1, &v, 0, &info));
    return info;
}

/* `count` keys, never asked for again, with values of 100 bytes. */
static void scan(const char *prefix, int count)
{
    for (int i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s%d", prefix, i);
        put_len(key, 100);
    }
}

/* ---- hash ---- */

START_TEST(hash_reads_exactly_its_key)
{
    for (size_t len = 0; len <= 64; len++) {
        uint64_t want = 0;
        for (size_t offset = 1; offset <= 8; offset++) {
            char *buf = malloc(offset + len); /* exact: a sanitizer sees a byte too far */
            for (size_t i = 0; i < len; i++)
                buf[offset + i] = (char)(i * 37 + 1);
            uint64_t got = l1_hash(l1, buf + offset, len);
            if (offset == 1)
                want = got;
            ck_assert_uint_eq(got, want);
            free(buf);
        }
    }
}
END_TEST

START_TEST(hash_depends_on_length_and_seed)
{
    static const char zeros[65];
    struct l1 *other = l1_new(&(struct l1_config){.seed = 8});
    struct l1 *same = l1_new(&(struct l1_config){.seed = 7});
    uint64_t seen[65];
    for (size_t len = 0; len <= 64; len++) {
        seen[len] = l1_hash(l1, zeros, len);
        for (size_t i = 0; i < len; i++)
            ck_assert_uint_ne(seen[i], seen[len]);
        ck_assert_uint_ne(seen[len], l1_hash(other, zeros, len));
        ck_assert_uint_eq(seen[len], l1_hash(same, zeros, len));
    }
    l1_free(other);
    l1_free(same);
}
END_TEST

/* Each bit of the key turns over half of the hash, and no bit of the hash is lazy. */
START_TEST(hash_avalanche)
{
    for (size_t len = 1; len <= 64; len++) {
        int turned[64] = {0}, trials = 0;
        unsigned char key[64];
        for (unsigned round = 0; round < 32; round++) {
            for (size_t i = 0; i < len; i++)
                key[i] = (unsigned char)(round * 101 + i * 7);
            uint64_t before = l1_hash(l1, key, len);
            for (size_t bit = 0; bit < len * 8; bit++, trials++) {
                key[bit / 8] ^= (unsigned char)(1 << bit % 8);
                uint64_t diff = before ^ l1_hash(l1, key, len);
                key[bit / 8] ^= (unsigned char)(1 << bit % 8);
                CHECK(__builtin_popcountll(diff) >= 8);
                for (int i = 0; i < 64; i++)
                    turned[i] += (int)(diff >> i & 1);
            }
        }
        for (int i = 0; i < 64; i++) {
            ck_assert_int_gt(turned[i] * 10, trials * 3);
            ck_assert_int_lt(turned[i] * 10, trials * 7);
        }
    }
}
END_TEST

/* ---- store and look up ---- */

START_TEST(stores_and_finds)
{
    ck_assert(!is("a", "1"));
    ck_assert(put("a", "1"));
    ck_assert(put("b", ""));
    ck_assert(put("", "the empty key"));
    ck_assert(is("a", "1"));
    ck_assert(is("b", ""));
    ck_assert(is("", "the empty key"));
    ck_assert(!has("c"));
    struct l1_view v = view("bin");
    struct l1_hit hit;
    ck_assert(l1_insert(l1, &v, "\0\r\n\xff", 4, FOREVER, 0));
    ck_assert(l1_lookup(l1, &v, 0, &hit));
    ck_assert_mem_eq(hit.reply, "\0\r\n\xff", 4);
}
END_TEST

START_TEST(prefetch_has_no_effect)
{
    put("a", "1");
    struct l1_stats before = stats(), after;
    const char *keys[] = {"a", "absent"};
    for (int i = 0; i < 2; i++) {
        l1_prefetch_bucket(l1, view(keys[i]).hash);
        l1_prefetch_entry(l1, view(keys[i]).hash);
        l1_prefetch_rest(l1, view(keys[i]).hash);
    }
    after = stats();
    ck_assert_mem_eq(&before, &after, sizeof before);
    ck_assert_uint_eq(inspect("a").credit, 0);
}
END_TEST

START_TEST(replaces)
{
    put("a", "1");
    uint64_t bytes = stats().bytes;
    ck_assert(put("a", "2"));
    ck_assert(is("a", "2"));
    ck_assert_uint_eq(stats().entries, 1);
    ck_assert_uint_eq(stats().bytes, bytes);
    ck_assert_uint_eq(stats().killed, 0);
}
END_TEST

START_TEST(kill_removes_every_view_and_no_other_key)
{
    struct l1_view plain = view("k"), db1 = view2("k", "1"), db2 = view2("k", "2");
    l1_insert(l1, &plain, "p", 1, FOREVER, 0);
    l1_insert(l1, &db1, "one", 3, FOREVER, 0);
    l1_insert(l1, &db2, "two", 3, FOREVER, 0);
    put("k1", "not a view of k");
    ck_assert(view_is(&plain, 0, "p"));
    ck_assert(view_is(&db1, 0, "one"));
    ck_assert(view_is(&db2, 0, "two"));
    ck_assert_uint_eq(l1_kill(l1, plain.hash), 3);
    ck_assert(!view_is(&plain, 0, "p"));
    ck_assert(!view_is(&db1, 0, "one"));
    ck_assert(!view_is(&db2, 0, "two"));
    ck_assert(is("k1", "not a view of k"));
    ck_assert_uint_eq(l1_kill(l1, plain.hash), 0);
    ck_assert_uint_eq(stats().killed, 3);
}
END_TEST

START_TEST(expires_at_its_deadline)
{
    struct l1_view v = view("a");
    struct l1_info info;
    ck_assert(l1_insert(l1, &v, "1", 1, 1000, 900));
    ck_assert(view_is(&v, 999, "1"));
    ck_assert(l1_inspect(l1, &v, 999, &info));
    ck_assert_uint_eq(info.time_left_ms, 1);
    ck_assert(!l1_inspect(l1, &v, 1000, &info));
    ck_assert_uint_eq(stats().entries, 1);
    ck_assert(!view_is(&v, 1000, "1"));
    ck_assert_uint_eq(stats().entries, 0);
    ck_assert_uint_eq(stats().expired, 1);
    ck_assert(!view_is(&v, 999, "1")); /* gone, not hidden */
}
END_TEST

START_TEST(expired_on_arrival_still_removes_the_older)
{
    struct l1_view v = view("a");
    l1_insert(l1, &v, "1", 1, 1000, 900);
    ck_assert(!l1_insert(l1, &v, "2", 1, 950, 950));
    ck_assert(!view_is(&v, 950, "1"));
    ck_assert_uint_eq(stats().entries, 0);
    ck_assert_uint_eq(stats().rejected, 0);
}
END_TEST

/* Expired entries at a tail go, whatever their credit. */
START_TEST(expired_make_room)
{
    for (int i = 0; i < 20000; i++) {
        char key[32];
        snprintf(key, sizeof key, "key%d", i);
        struct l1_view v = view(key);
        uint64_t now = (uint64_t)i;
        l1_insert(l1, &v, key, strlen(key), now + 10, now);
        CHECK(view_is(&v, now, key));
    }
    ck_assert_uint_eq(stats().evictions, 0);
    ck_assert_uint_eq(stats().expired + stats().entries, 20000);
}
END_TEST

/* ---- time range ---- */

START_TEST(deadlines_are_cut_to_the_range)
{
    struct l1_view v = view("a");
    struct l1_info info;
    ck_assert(l1_insert(l1, &v, "1", 1, FOREVER, 5));
    ck_assert(l1_inspect(l1, &v, 5, &info));
    ck_assert_uint_eq(info.time_left_ms, RANGE);
    ck_assert(view_is(&v, 5 + RANGE - 1, "1"));
    ck_assert(!view_is(&v, 5 + RANGE, "1"));
}
END_TEST

START_TEST(never_empty_for_49_days)
{
    struct l1_view a = view("a"), b = view("b"), c = view("c");
    l1_insert(l1, &a, "1", 1, FOREVER, 5);
    ck_assert(l1_insert(l1, &b, "2", 1, 5 + RANGE + 99, 5 + RANGE - 1));
    ck_assert(view_is(&b, 5 + RANGE - 1, "2"));
    uint64_t now = 5 + RANGE + 1;
    ck_assert(l1_insert(l1, &c, "3", 1, now + 10, now));
    ck_assert_uint_eq(stats().entries, 1);
    ck_assert(!view_is(&a, now, "1"));
    ck_assert(!view_is(&b, now, "2"));
    ck_assert(view_is(&c, now + 9, "3"));
    ck_assert(!view_is(&c, now + 10, "3"));
}
END_TEST

START_TEST(stale_after_the_range_is_a_miss)
{
    struct l1_view v = view("a");
    const uint64_t later[] = {RANGE + 5, RANGE + 6, 3 * RANGE, UINT64_MAX};
    for (size_t i = 0; i < sizeof later / sizeof *later; i++) {
        ck_assert(l1_insert(l1, &v, "1", 1, 105, 5));
        ck_assert(!view_is(&v, later[i], "1"));
    }
}
END_TEST

START_TEST(base_follows_an_empty_cache)
{
    struct l1_view v = view("a");
    for (uint64_t now = 1000; now < 20 * RANGE; now += RANGE / 2) {
        ck_assert(l1_insert(l1, &v, "1", 1, now + 100, now));
        ck_assert(view_is(&v, now + 99, "1"));
        ck_assert(!view_is(&v, now + 100, "1"));
    }
}
END_TEST

/* ---- limits ---- */

START_TEST(refuses_unusable_memory)
{
    errno = 0;
    ck_assert_ptr_null(l1_new(&(struct l1_config){.max_memory = 1}));
    ck_assert_int_eq(errno, EINVAL);
    errno = 0;
    ck_assert_ptr_null(l1_new(&(struct l1_config){.max_memory = L1_MIN_MEMORY - 1}));
    ck_assert_int_eq(errno, EINVAL);
    l1_free(NULL);
}
END_TEST

START_TEST(without_memory_all_misses)
{
    start(0);
    ck_assert(!put("a", "1"));
    ck_assert(!is("a", "1"));
    ck_assert_uint_eq(l1_kill(l1, view("a").hash), 0);
    l1_prefetch_bucket(l1, view("a").hash);
    l1_prefetch_entry(l1, view("a").hash);
    l1_prefetch_rest(l1, view("a").hash);
    l1_clear(l1);
    ck_assert_uint_eq(stats().mapped, 0);
    ck_assert_uint_ne(view("a").hash, view("b").hash);
}
END_TEST

START_TEST(memory_is_a_bound)
{
    const size_t limits[] = {L1_MIN_MEMORY, 20000, 39303, 65536, 1000001, (8 << 20) + 1};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        start(limits[i]);
        scan("s", (int)(limits[i] / 50));
        struct l1_stats s = stats();
        ck_assert_uint_eq(s.limit, limits[i]);
        ck_assert_uint_le(s.mapped, s.limit);
        ck_assert_uint_gt(s.mapped + 4096, s.limit);
        ck_assert_uint_le(s.bytes + s.holes, s.mapped);
        ck_assert_uint_gt(s.bytes, s.mapped / 10 * 9);
    }
}
END_TEST

START_TEST(overhead_is_at_most_32_bytes)
{
    char key[32];
    start(4 << 20);
    for (int i = 0; i < 100000; i++) {
        snprintf(key, sizeof key, "obj:%020d", i);
        put_len(key, 100);
    }
    ck_assert_uint_le(stats().limit, stats().entries * (24 + 100 + 32));
}
END_TEST

START_TEST(longest_key_and_view)
{
    start(1 << 20);
    static char text[65537];
    memset(text, 'x', sizeof text - 1);
    struct l1_view v = {text, 65535, l1_hash(l1, text, 65535), text, 255};
    l1_insert(l1, &v, "1", 1, FOREVER, 0); /* large: the first time for the ghost only */
    ck_assert(l1_insert(l1, &v, "1", 1, FOREVER, 0));
    ck_assert(view_is(&v, 0, "1"));
    uint64_t rejected = stats().rejected;
    v.view_len = 256;
    ck_assert(!l1_insert(l1, &v, "1", 1, FOREVER, 0));
    ck_assert(!view_is(&v, 0, "1"));
    v.view_len = 0;
    v.key_len = 65536;
    v.hash = l1_hash(l1, text, 65536);
    ck_assert(!l1_insert(l1, &v, "1", 1, FOREVER, 0));
    ck_assert(!l1_insert(l1, &v, "1", 1, FOREVER, 0));
    ck_assert(!view_is(&v, 0, "1"));
    ck_assert_uint_eq(stats().rejected, rejected + 3);
}
END_TEST

START_TEST(max_value)
{
    l1_free(l1);
    l1 = l1_new(&(struct l1_config){.max_memory = MEDIUM, .max_value = 4, .seed = 7});
    ck_assert(put("a", "1234"));
    ck_assert(!put("a", "12345"));
    ck_assert(!has("a"));
    ck_assert_uint_eq(stats().rejected, 1);
}
END_TEST

/* ---- large values ---- */

START_TEST(large_value_enters_when_asked_for_again)
{
    ck_assert(!put_len("big", MEDIUM / 10));
    ck_assert(!has("big"));
    ck_assert_uint_eq(stats().rejected, 1);
    ck_assert(put_len("big", MEDIUM / 10));
    ck_assert(inspect("big").in_main);
    ck_assert_uint_eq(inspect("big").reply_len, MEDIUM / 10);
    ck_assert(put_len("small", MEDIUM / 10 / 3));
    ck_assert(!inspect("small").in_main);
}
END_TEST

START_TEST(too_large_removes_the_older)
{
    put("a", "1");
    ck_assert(!put_len("a", MEDIUM));
    ck_assert(!has("a"));
    ck_assert_uint_eq(stats().entries, 0);
}
END_TEST

/* Whatever its state, the ring takes an entry of its own size, and goes on afterwards. */
START_TEST(entry_as_large_as_the_ring)
{
    start(TINY);
    size_t largest = TINY;
    while (put_len("big", largest), !put_len("big", largest))
        largest--;
    ck_assert_uint_gt(largest, TINY / 4 * 3);
    for (int i = 0; i < 100; i++) {
        scan("s", i);
        put_len("big", largest);
        ck_assert(put_len("big", largest));
        ck_assert_uint_eq(inspect("big").reply_len, largest);
        ck_assert(!put_len("big", largest + 4));
        ck_assert(put("a", "1"));
        ck_assert(is("a", "1"));
    }
}
END_TEST

/* ---- policy ---- */

START_TEST(hits_earn_credit)
{
    const unsigned want[] = {8, 16, 24, 31, 31};
    put("a", "1");
    ck_assert_uint_eq(inspect("a").credit, 0);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        ck_assert(is("a", "1"));
        ck_assert_uint_eq(inspect("a").credit, want[i]);
    }
    ck_assert_uint_eq(inspect("a").footprint, HEADER + 4);
}
END_TEST

START_TEST(used_entries_outlive_a_scan)
{
    scan("warm", MEDIUM / 130); /* main is full from here on */
    put("hot", "1");
    put_len("cold", 200); /* too long for what room the warm ones leave in main */
    for (int i = 0; i < 40; i++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "scan%d-", i);
        ck_assert(is("hot", "1"));
        scan(prefix, 50);
    }
    ck_assert(is("hot", "1"));
    ck_assert(inspect("hot").in_main);
    ck_assert(!has("cold"));
    ck_assert_uint_gt(stats().evictions, 0);
}
END_TEST

/* Straight into main: the second time a key comes, the ghost remembers it. */
static void scan_main(const char *prefix, int count)
{
    for (int i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s%d", prefix, i);
        put_len(key, 100);
        l1_kill(l1, view(key).hash);
        put_len(key, 100);
    }
}

START_TEST(credit_is_spent_in_main)
{
    unsigned laps = 0, last = 31;
    put_len("a", 90);
    l1_kill(l1, view("a").hash);
    put_len("a", 90);
    ck_assert(inspect("a").in_main);
    for (int i = 0; i < 4; i++)
        is("a", "");
    ck_assert_uint_eq(inspect("a").credit, 31);
    for (int i = 0; has("a"); i++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "b%d-", i);
        scan_main(prefix, 10);
        if (has("a") && inspect("a").credit < last) {
            last = inspect("a").credit;
            laps++;
        }
    }
    ck_assert_uint_ge(laps, 3); /* of about 5 credits each, at a mean length */
    ck_assert_uint_le(laps, 10);
}
END_TEST

START_TEST(killed_key_comes_back_into_main)
{
    put("a", "1");
    put("b", "1");
    ck_assert(!inspect("a").in_main);
    l1_kill(l1, view("a").hash);
    put("a", "2");
    ck_assert(inspect("a").in_main);
    ck_assert_uint_eq(inspect("a").credit, 8);
    l1_kill(l1, view("absent").hash); /* nothing went: nothing to remember */
    put("absent", "1");
    ck_assert(!inspect("absent").in_main);
}
END_TEST

START_TEST(evicted_key_comes_back_into_main)
{
    scan("warm", MEDIUM / 130);
    put_len("a", 200);
    for (int i = 0; has("a"); i++) {
        char key[32];
        snprintf(key, sizeof key, "push%d", i);
        put_len(key, 100);
    }
    put("a", "2");
    ck_assert(inspect("a").in_main);
    ck_assert(is("a", "2"));
}
END_TEST

START_TEST(holes_are_reclaimed)
{
    uint64_t most = 0;
    for (int i = 0; i < 50000; i++) {
        char key[32];
        snprintf(key, sizeof key, "key%d", i * 7919 % 6007);
        put_len(key, 50);
        if (i % 5 == 0)
            l1_kill(l1, view(key).hash);
        if (stats().holes > most)
            most = stats().holes;
    }
    ck_assert_uint_gt(most, 0);
    ck_assert_uint_le(most, MEDIUM / 100 * 12);
    ck_assert_uint_gt(stats().bytes, MEDIUM / 100 * 80);
}
END_TEST

START_TEST(mass_kill_then_refill)
{
    for (int round = 0; round < 3; round++) {
        scan("s", 1500);
        for (int i = 0; i < 1500; i++) {
            char key[32];
            snprintf(key, sizeof key, "s%d", i);
            l1_kill(l1, view(key).hash);
        }
        ck_assert_uint_eq(stats().entries, 0);
        ck_assert_uint_eq(stats().bytes, 0);
        ck_assert_uint_gt(stats().holes, 0);
    }
    scan("t", 1500);
    ck_assert_uint_gt(stats().entries, 1300);
}
END_TEST

START_TEST(clear_forgets_everything)
{
    put_len("big", MEDIUM / 10);
    scan("s", 5000);
    l1_clear(l1);
    struct l1_stats s = stats();
    ck_assert_uint_eq(s.entries, 0);
    ck_assert_uint_eq(s.bytes, 0);
    ck_assert_uint_eq(s.holes, 0);
    ck_assert(!has("s4999"));
    for (int i = 0; i < 2; i++) {
        ck_assert(!put_len("big", MEDIUM / 10)); /* the ghost forgets too */
        l1_clear(l1);
    }
    ck_assert(put("s4999", "1"));
    ck_assert(!inspect("s4999").in_main);
    ck_assert_uint_eq(stats().entries, 1);
}
END_TEST

START_TEST(stats_are_exact)
{
    struct l1_view v = view("bb");
    put("a", "123");                           /* 20 + 1 + 3 = 24 */
    put("bb", "123");                          /* 25 -> 28 */
    l1_insert(l1, &v, "12345678", 8, 1000, 0); /* 30 -> 32, leaves a hole of 28 */
    put("cc", "");                             /* 22 -> 24 */
    l1_kill(l1, view("cc").hash);
    struct l1_stats s = stats();
    ck_assert_uint_eq(s.entries, 2);
    ck_assert_uint_eq(s.bytes, 24 + 32);
    ck_assert_uint_eq(s.holes, 28 + 24);
    ck_assert_uint_eq(s.inserted, 4);
    ck_assert_uint_eq(s.killed, 1);
    ck_assert_uint_eq(s.evictions, 0);
    ck_assert_uint_eq(s.expired, 0);
    ck_assert_uint_eq(s.rejected, 0);
    ck_assert(!view_is(&v, 1000, "12345678"));
    ck_assert_uint_eq(stats().expired, 1);
    ck_assert_uint_eq(stats().bytes, 24);
}
END_TEST

struct visit {
    int count, stop_after;
};

static bool visit_one(void *ctx, const struct l1_view *v, uint64_t deadline)
{
    struct visit *visit = ctx;
    ck_assert_uint_eq(v->hash, l1_hash(l1, v->key, v->key_len));
    ck_assert_uint_eq(v->key_len, 2);
    ck_assert_uint_eq(v->view_len, 1);
    ck_assert_int_eq(v->key[1], v->view[0]);
    ck_assert_uint_eq(deadline, 100U + (unsigned char)v->key[1]);
    return ++visit->count != visit->stop_after;
}

START_TEST(each_visits_the_living)
{
    struct visit all = {0}, some = {.stop_after = 3};
    const char *digits[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
    for (int i = 0; i < 10; i++) {
        char key[3] = {'k', digits[i][0], 0};
        struct l1_view v = view2(key, digits[i]);
        l1_insert(l1, &v, "x", 1, 100U + (unsigned char)key[1], 50);
    }
    l1_kill(l1, view("k4").hash);
    l1_each(l1, visit_one, &all);
    ck_assert_int_eq(all.count, 9);
    l1_each(l1, visit_one, &some);
    ck_assert_int_eq(some.count, 3);
}
END_TEST

/* ---- suspects ---- */

static bool lookup_suspect(struct l1 *cache, const struct l1_view *v, uint64_t now,
                           struct l1_hit *hit)
{
    struct l1_stale stale;
    return l1_lookup_stale(cache, v, now, hit, &stale) && stale.suspect;
}

static bool suspect_is(const char *key, const char *value)
{
    struct l1_view v = view(key);
    struct l1_hit hit;
    return lookup_suspect(l1, &v, 0, &hit) && hit.len == strlen(value) &&
           memcmp(hit.reply, value, hit.len) == 0;
}

START_TEST(suspects_are_found_as_such_only)
{
    put("a", "1");
    put("b", "2");
    ck_assert(!suspect_is("a", "1"));
    struct l1_stats before = stats();
    l1_suspect_all(l1);
    struct l1_stats after = stats();
    ck_assert_mem_eq(&before, &after, sizeof before);
    ck_assert(inspect("a").suspect && inspect("b").suspect);
    ck_assert(!is("a", "1") && !is("b", "2"));
    ck_assert(suspect_is("a", "1") && suspect_is("b", "2"));
    ck_assert(!suspect_is("c", ""));
    ck_assert_uint_eq(stats().entries, 2);
}
END_TEST

START_TEST(what_comes_later_is_not_suspect)
{
    put("a", "1");
    put("b", "2");
    l1_suspect_all(l1);
    put("b", "3"); /* asked for again */
    put("c", "4");
    ck_assert(is("b", "3") && is("c", "4") && !is("a", "1"));
    ck_assert(suspect_is("a", "1") && !suspect_is("b", "3") && !suspect_is("c", "4"));
    ck_assert(!inspect("b").suspect && !inspect("c").suspect && inspect("a").suspect);
    l1_suspect_all(l1);
    ck_assert(suspect_is("a", "1") && suspect_is("b", "3") && suspect_is("c", "4"));
}
END_TEST

START_TEST(what_lasts_is_stale_before_it_is_gone)
{
    struct l1_view v = view("a");
    struct l1_hit hit;
    struct l1_stale stale;
    struct l1_info info;
    put("plain", "1");
    size_t plain = l1_inspect(l1, &(struct l1_view){0}, 0, &info) ? 0 : stats().bytes;
    ck_assert(l1_insert_lasting(l1, &v, "value", 5, 1000, 1500, 0));
    ck_assert_uint_eq(stats().bytes - plain, (20 + 1 + 5 + 4 + 3) / 4 * 4);
    ck_assert(l1_lookup(l1, &v, 999, &hit) && hit.len == 5);
    ck_assert(!l1_lookup(l1, &v, 1000, &hit));
    ck_assert(l1_lookup_stale(l1, &v, 1499, &hit, &stale));
    ck_assert(hit.len == 5 && memcmp(hit.reply, "value", 5) == 0);
    ck_assert(!stale.suspect && stale.fresh == 1000);
    ck_assert_uint_eq(stats().entries, 2);
    ck_assert(!l1_lookup_stale(l1, &v, 1500, &hit, &stale));
    ck_assert_uint_eq(stats().entries, 1);
    ck_assert(!l1_insert_lasting(l1, &v, "value", 5, 1500, 2000, 1500)); /* never fresh */
}
END_TEST

START_TEST(suspects_can_be_killed_and_cleared_and_expire)
{
    struct l1_view v = view("a");
    struct l1_info info;
    put("k", "1");
    put("other", "1");
    l1_insert(l1, &v, "1", 1, 1000, 0);
    l1_suspect_all(l1);
    ck_assert_uint_eq(l1_kill(l1, view("k").hash), 1);
    ck_assert(!suspect_is("k", "1") && suspect_is("other", "1"));
    put("k", "2");
    ck_assert(is("k", "2"));
    struct l1_hit hit;
    ck_assert(lookup_suspect(l1, &v, 999, &hit));
    ck_assert(l1_inspect(l1, &v, 999, &info) && info.suspect && info.time_left_ms == 1);
    ck_assert(!lookup_suspect(l1, &v, 1000, &hit));
    ck_assert_uint_eq(stats().expired, 1);
    ck_assert_uint_eq(stats().entries, 2);
    l1_clear(l1);
    ck_assert(!suspect_is("other", "1"));
    put("other", "2");
    ck_assert(is("other", "2")); /* at the place of a suspect */
}
END_TEST

START_TEST(suspects_of_an_empty_cache)
{
    l1_suspect_all(l1);
    put("a", "1");
    ck_assert(is("a", "1"));
    l1_suspect_all(l1);
    l1_kill(l1, view("a").hash);
    put("a", "2");
    put("b", "2");
    ck_assert(is("a", "2") && is("b", "2"));
    start(0);
    l1_suspect_all(l1);
    ck_assert(!suspect_is("a", "1"));
}
END_TEST

struct census {
    int suspect, sound;
};

static bool count_one(void *ctx, const struct l1_view *v, uint64_t deadline)
{
    struct census *n = ctx;
    struct l1_info info;
    (void)deadline;
    CHECK(l1_inspect(l1, v, 0, &info));
    bool named_so = v->key_len > 4 && memcmp(v->key, "old-", 4) == 0;
    CHECK(info.suspect == named_so);
    n->suspect += info.suspect;
    n->sound += !info.suspect;
    return true;
}

/* Those called "old-..." are suspect and the others are not. */
static struct census count_all(void)
{
    struct census n = {0};
    l1_each(l1, count_one, &n);
    return n;
}

/* From small into main, and main's tail round to its head, for lack of room: wherever they get to,
 * through several turns of the rings, suspects remain suspect. */
START_TEST(suspects_stay_suspect_when_they_move)
{
    int moved_to_main = 0;
    scan("old-", 200); /* some in small, the rest moved to main */
    for (int i = 0; i < 10; i++) {
        char key[32];
        snprintf(key, sizeof key, "old-%d", i * 20);
        for (int hits = 0; hits < 4; hits++)
            (void)is(key, "");
    }
    put("old-promoted", "1");
    ck_assert(!inspect("old-promoted").in_main);
    for (int hits = 0; hits < 4; hits++)
        ck_assert(is("old-promoted", "1"));
    l1_suspect_all(l1);
    for (int i = 0; i < 100; i++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "new%d-", i);
        scan(prefix, 50);
        (void)count_all();
        if (has("old-promoted") && inspect("old-promoted").in_main)
            moved_to_main++;
    }
    ck_assert_int_gt(moved_to_main, 0);
    ck_assert_int_gt(count_all().sound, 1000);
}
END_TEST

/* Holes are squeezed out: what lies between them is copied, be it suspect or not. */
START_TEST(suspects_stay_suspect_when_squeezed)
{
    int met = 0;
    scan("old-", 1000);
    l1_suspect_all(l1);
    for (int i = 0; i < 1000; i++) {
        char key[32], fresh[32];
        snprintf(key, sizeof key, "old-%d", i);
        snprintf(fresh, sizeof fresh, "new-%d", i % 300);
        if (i % 3)
            l1_kill(l1, view(key).hash);
        put_len(fresh, 60);
        met += count_all().suspect > 0;
    }
    ck_assert_int_gt(met, 900);
    ck_assert_uint_gt(stats().killed, 600);
    ck_assert_uint_le(stats().holes, MEDIUM / 100 * 12);
    ck_assert_int_gt(count_all().suspect, 200);
}
END_TEST

/* A hit is a hit for the policy, though the caller has to ask anew. */
START_TEST(suspects_earn_credit)
{
    put("a", "1");
    l1_suspect_all(l1);
    ck_assert(suspect_is("a", "1"));
    ck_assert_uint_eq(inspect("a").credit, 8);
}
END_TEST

/* ---- against a simple map ---- */

enum { KEYS = 400, VIEWS = 2, STEPS = 6000, VALUE_MAX = 4000 };

struct cell {
    bool there; /* may be in the cache */
    bool suspect;
    bool seen;
    uint32_t version;
    size_t len;
    uint64_t fresh, deadline;
};

struct model {
    struct cell cell[KEYS][VIEWS];
    uint64_t now, random;
    uint64_t replaced, cleared; /* entries */
    uint64_t live, bytes;       /* as l1_each sees them */
};

static uint32_t rnd(struct model *m, uint32_t n)
{
    m->random = m->random * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)((m->random >> 32) * n >> 32);
}

/* Keys of several lengths; few are asked for often. */
static struct l1_view model_view(char *key, uint32_t k, uint32_t view_no)
{
    snprintf(key, 64, "%0*u", (int)(4 + k % 40), k);
    return view2(key, view_no ? "db1" : "");
}

static uint32_t model_key(struct model *m)
{
    uint32_t k = rnd(m, KEYS);
    return rnd(m, 2) ? k : k * k / KEYS / 8;
}

static void model_value(char *value, uint32_t k, uint32_t version, size_t len)
{
    for (size_t i = 0; i < len; i++)
        value[i] = (char)(k * 31 + version * 7 + i + i / 251);
}

static void model_insert(struct model *m, uint32_t k, uint32_t view_no)
{
    char key[64], value[VALUE_MAX];
    struct cell *c = &m->cell[k][view_no];
    struct l1_view v = model_view(key, k, view_no);
    struct l1_stats before = stats();
    struct l1_info info;
    bool older = c->there && l1_inspect(l1, &v, c->deadline - 1, &info);
    c->len = rnd(m, 8) ? rnd(m, 200) : rnd(m, VALUE_MAX);
    c->version++;
    c->fresh = m->now + rnd(m, 3000);
    c->deadline = c->fresh + (rnd(m, 3) ? 0 : rnd(m, 1000));
    model_value(value, k, c->version, c->len);
    c->there = l1_insert_lasting(l1, &v, value, c->len, c->fresh, c->deadline, m->now);
    c->suspect = false;
    m->replaced += older;
    CHECK(stats().inserted - before.inserted == c->there);
    CHECK(c->there || c->fresh <= m->now || stats().rejected == before.rejected + 1);
}

static void model_check_hit(const struct cell *c, uint32_t k, const struct l1_hit *hit)
{
    char value[VALUE_MAX];
    CHECK(hit->len == c->len);
    model_value(value, k, c->version, c->len);
    CHECK(memcmp(hit->reply, value, c->len) == 0);
}

/* True if it is to be served. */
static bool model_lookup(struct model *m, uint32_t k, uint32_t view_no)
{
    char key[64];
    struct cell *c = &m->cell[k][view_no];
    struct l1_view v = model_view(key, k, view_no);
    struct l1_hit hit;
    struct l1_info info;
    if (!l1_lookup(l1, &v, m->now, &hit)) {
        bool hidden = c->there && l1_inspect(l1, &v, m->now, &info);
        CHECK(!hidden || c->suspect || m->now >= c->fresh);
        c->there = hidden;
        return false;
    }
    CHECK(c->there && !c->suspect && m->now < c->fresh);
    model_check_hit(c, k, &hit);
    return true;
}

static void model_lookup_stale(struct model *m, uint32_t k, uint32_t view_no)
{
    char key[64];
    struct cell *c = &m->cell[k][view_no];
    struct l1_view v = model_view(key, k, view_no);
    struct l1_hit hit;
    struct l1_stale stale;
    if (!l1_lookup_stale(l1, &v, m->now, &hit, &stale)) {
        c->there = false;
        return;
    }
    CHECK(c->there && m->now < c->deadline);
    CHECK(stale.suspect == c->suspect && stale.fresh == c->fresh);
    model_check_hit(c, k, &hit);
}

static void model_suspect(struct model *m)
{
    l1_suspect_all(l1);
    for (int k = 0; k < KEYS; k++) {
        for (int i = 0; i < VIEWS; i++)
            m->cell[k][i].suspect = true;
    }
}

static void model_kill(struct model *m, uint32_t k)
{
    char key[64];
    size_t most = 0;
    for (int i = 0; i < VIEWS; i++) {
        most += m->cell[k][i].there;
        m->cell[k][i].there = false;
    }
    CHECK(l1_kill(l1, model_view(key, k, 0).hash) <= most);
}

static void model_clear(struct model *m)
{
    m->cleared += stats().entries;
    l1_clear(l1);
    for (int k = 0; k < KEYS; k++) {
        for (int i = 0; i < VIEWS; i++)
            m->cell[k][i].there = false;
    }
}

static bool model_visit(void *ctx, const struct l1_view *v, uint64_t deadline)
{
    struct model *m = ctx;
    struct l1_info info;
    char number[64] = {0};
    memcpy(number, v->key, v->key_len);
    struct cell *c = &m->cell[strtoul(number, NULL, 10)][v->view_len > 0];
    CHECK(c->there && !c->seen); /* nothing stale, nothing twice */
    c->seen = true;
    CHECK(deadline == c->deadline);
    CHECK(l1_inspect(l1, v, deadline - 1, &info)); /* the index leads to it */
    CHECK(info.reply_len == c->len);
    CHECK(info.suspect == c->suspect);
    m->live++;
    m->bytes += info.footprint;
    return true;
}

static void check_consistency(struct model *m)
{
    m->live = m->bytes = 0;
    for (int k = 0; k < KEYS; k++) {
        for (int i = 0; i < VIEWS; i++)
            m->cell[k][i].seen = false;
    }
    l1_each(l1, model_visit, m);
    struct l1_stats s = stats();
    CHECK(s.entries == m->live);
    CHECK(s.bytes == m->bytes);
    CHECK(s.bytes + s.holes <= s.mapped);
    CHECK(s.inserted == s.entries + s.evictions + s.expired + s.killed + m->replaced + m->cleared);
}

static void model_step(struct model *m)
{
    uint32_t k = model_key(m), view_no = rnd(m, 4) == 0, what = rnd(m, 1000);
    if (what == 0)
        model_clear(m);
    else if (what < 4)
        model_suspect(m);
    else if (what < 80)
        model_kill(m, k);
    else if (what < 120)
        model_insert(m, k, view_no);
    else if (what < 220)
        model_lookup_stale(m, k, view_no);
    else if (!model_lookup(m, k, view_no))
        model_insert(m, k, view_no);
    m->now += rnd(m, 3);
}

START_TEST(model)
{
    const size_t budgets[] = {TINY, 20 * 1024, 40 * 1024, 100 * 1024};
    static struct model m;
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        memset(&m, 0, sizeof m);
        m.random = (uint64_t)_i * 1000 + i;
        m.now = 1000;
        start(budgets[i]);
        for (int step = 0; step < STEPS; step++) {
            model_step(&m);
            check_consistency(&m);
        }
    }
}
END_TEST

static Suite *suite(void)
{
    TCase *t = tcase_create("l1");
    tcase_set_timeout(t, 120); /* for valgrind */
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, hash_reads_exactly_its_key);
    tcase_add_test(t, hash_depends_on_length_and_seed);
    tcase_add_test(t, hash_avalanche);
    tcase_add_test(t, stores_and_finds);
    tcase_add_test(t, prefetch_has_no_effect);
    tcase_add_test(t, replaces);
    tcase_add_test(t, kill_removes_every_view_and_no_other_key);
    tcase_add_test(t, expires_at_its_deadline);
    tcase_add_test(t, expired_on_arrival_still_removes_the_older);
    tcase_add_test(t, expired_make_room);
    tcase_add_test(t, deadlines_are_cut_to_the_range);
    tcase_add_test(t, never_empty_for_49_days);
    tcase_add_test(t, stale_after_the_range_is_a_miss);
    tcase_add_test(t, base_follows_an_empty_cache);
    tcase_add_test(t, refuses_unusable_memory);
    tcase_add_test(t, without_memory_all_misses);
    tcase_add_test(t, memory_is_a_bound);
    tcase_add_test(t, overhead_is_at_most_32_bytes);
    tcase_add_test(t, longest_key_and_view);
    tcase_add_test(t, max_value);
    tcase_add_test(t, large_value_enters_when_asked_for_again);
    tcase_add_test(t, too_large_removes_the_older);
    tcase_add_test(t, entry_as_large_as_the_ring);
    tcase_add_test(t, hits_earn_credit);
    tcase_add_test(t, used_entries_outlive_a_scan);
    tcase_add_test(t, credit_is_spent_in_main);
    tcase_add_test(t, killed_key_comes_back_into_main);
    tcase_add_test(t, evicted_key_comes_back_into_main);
    tcase_add_test(t, holes_are_reclaimed);
    tcase_add_test(t, mass_kill_then_refill);
    tcase_add_test(t, clear_forgets_everything);
    tcase_add_test(t, stats_are_exact);
    tcase_add_test(t, each_visits_the_living);
    tcase_add_test(t, suspects_are_found_as_such_only);
    tcase_add_test(t, what_comes_later_is_not_suspect);
    tcase_add_test(t, what_lasts_is_stale_before_it_is_gone);
    tcase_add_test(t, suspects_can_be_killed_and_cleared_and_expire);
    tcase_add_test(t, suspects_of_an_empty_cache);
    tcase_add_test(t, suspects_stay_suspect_when_they_move);
    tcase_add_test(t, suspects_stay_suspect_when_squeezed);
    tcase_add_test(t, suspects_earn_credit);
    tcase_add_loop_test(t, model, 0, 20);
    Suite *s = suite_create("l1");
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
