/* replay.c - replays request traces through the near cache and prints its hit ratios.
 *
 *     replay [--kills PERCENT] TRACE_DIR    the table; 77 if a trace is missing
 *     replay --speed                        nanoseconds per call
 *
 * Each trace runs from an empty cache at four budgets (1, 3, 10 and 30 % of its footprint), in
 * which the cache counts every byte. `goal` and `LRU+64` (LRU that pays 64 bytes an entry) hold
 * without kills. With --kills, before a request, with that probability, a key of one of the last
 * 20,000 requests is killed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "l1.h"

enum {
    KEY_LEN = 24, /* of "obj:%020u" */
    BUDGETS = 4,
    RECENT = 20000,
    VALUE_MAX = 8 * 1024 * 1024,
    SKIP_TEST = 77,
};

static const uint64_t FOREVER = UINT64_MAX;

struct trace_ref {
    const char *name;
    struct {
        size_t budget;
        double lru64, goal; /* hit ratio, percent */
    } at[BUDGETS];
};

static const struct trace_ref refs[] = {
    {"orm-busy",
     {{230890, 63.3, 70.3}, {692670, 80.1, 81.9}, {2308900, 85.0, 87.5}, {6926701, 91.2, 92.1}}},
    {"orm-night",
     {{216669, 57.9, 60.4}, {650007, 68.8, 73.0}, {2166690, 79.0, 87.2}, {6500071, 93.3, 93.7}}},
    {"web12",
     {{72235, 38.6, 44.5}, {216706, 52.0, 60.5}, {722353, 67.3, 72.8}, {2167060, 78.3, 80.5}}},
    {"recs",
     {{981454, 31.2, 40.9}, {2944362, 41.5, 49.9}, {9814540, 54.8, 60.5}, {29443621, 68.6, 70.0}}},
    {"cdn",
     {{3051793, 20.9, 27.0},
      {9155380, 25.0, 30.8},
      {30517934, 29.8, 34.7},
      {91553801, 35.9, 37.1}}},
    {"multi3",
     {{39303, 5.1, 21.8}, {117910, 15.3, 33.4}, {393035, 34.7, 48.1}, {1179104, 44.7, 62.6}}},
    {"scanmix",
     {{314138, 19.3, 30.2}, {942415, 26.4, 37.3}, {3141382, 35.1, 44.8}, {9424146, 42.9, 59.0}}},
};

struct request {
    uint32_t key, size;
};

struct trace {
    struct request *req;
    size_t n;
};

static uint64_t noise(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *must(void *p)
{
    if (!p) {
        perror("replay");
        exit(EXIT_FAILURE);
    }
    return p;
}

static void add_request(struct trace *t, struct request r)
{
    if ((t->n & (t->n + 1)) == 0) /* n + 1 is a power of two: full */
        t->req = must(realloc(t->req, 2 * (t->n + 1) * sizeof *t->req));
    t->req[t->n++] = r;
}

/* False: no such trace, or not one. */
static bool load(struct trace *t, const char *dir, const char *name)
{
    char command[4096];
    snprintf(command, sizeof command, "xz -dc '%s/%s.trace.xz'", dir, name);
    FILE *f = must(popen(command, "r"));
    char line[64];
    bool good = true;
    *t = (struct trace){NULL, 0};
    while (good && fgets(line, sizeof line, f)) {
        char *end;
        unsigned long key = strtoul(line, &end, 10), size = strtoul(end, &end, 10);
        good = *end == '\n' && key <= UINT32_MAX && size <= VALUE_MAX;
        add_request(t, (struct request){(uint32_t)key, (uint32_t)size});
    }
    return pclose(f) == 0 && good && t->n > 0;
}

struct run {
    struct l1 *l1;
    char *value;  /* VALUE_MAX bytes to store from */
    double kills; /* probability */
    uint64_t random;
    uint64_t hits, bytes, hit_bytes, holes_max;
};

static struct l1_view view_of(const struct l1 *l1, char *key, uint32_t number)
{
    snprintf(key, KEY_LEN + 1, "obj:%020u", number);
    return (struct l1_view){key, KEY_LEN, l1_hash(l1, key, KEY_LEN), "", 0};
}

static void maybe_kill(struct run *run, const struct trace *t, size_t i)
{
    if ((double)(noise(&run->random) >> 11) * 0x1p-53 >= run->kills || i == 0)
        return;
    char key[KEY_LEN + 1];
    size_t back = 1 + noise(&run->random) % (i < RECENT ? i : RECENT);
    l1_kill(run->l1, view_of(run->l1, key, t->req[i - back].key).hash);
}

static void one_request(struct run *run, struct request r)
{
    char key[KEY_LEN + 1];
    struct l1_view v = view_of(run->l1, key, r.key);
    struct l1_hit hit;
    uint64_t payload = KEY_LEN + r.size;
    run->bytes += payload;
    if (l1_lookup(run->l1, &v, 0, &hit)) {
        run->hits++;
        run->hit_bytes += payload;
    } else {
        l1_insert(run->l1, &v, run->value, r.size, FOREVER, 0);
    }
}

static bool add_payload(void *ctx, const struct l1_view *v, uint64_t deadline)
{
    struct run *run = ctx;
    struct l1_info info;
    (void)deadline;
    if (l1_inspect(run->l1, v, 0, &info))
        run->bytes += v->key_len + info.reply_len;
    return true;
}

/* Bytes of the budget that an entry takes beyond its payload, index and all included. */
static double overhead(struct run *run, size_t budget)
{
    struct l1_stats stats;
    l1_get_stats(run->l1, &stats);
    run->bytes = 0;
    l1_each(run->l1, add_payload, run);
    return ((double)budget - (double)run->bytes) / (double)stats.entries;
}

static double percent(uint64_t part, uint64_t whole)
{
    return 100.0 * (double)part / (double)whole;
}

static void replay(const struct trace *t, const struct trace_ref *ref, int b, double kills)
{
    size_t budget = ref->at[b].budget;
    struct run run = {.kills = kills, .random = 88172645463325252};
    run.l1 = must(l1_new(&(struct l1_config){.max_memory = budget, .seed = 1}));
    run.value = must(calloc(1, VALUE_MAX));
    for (size_t i = 0; i < t->n; i++) {
        struct l1_stats stats;
        if (kills > 0)
            maybe_kill(&run, t, i);
        one_request(&run, t->req[i]);
        l1_get_stats(run.l1, &stats);
        if (stats.holes > run.holes_max)
            run.holes_max = stats.holes;
    }
    double ratio = percent(run.hits, t->n), byte_ratio = percent(run.hit_bytes, run.bytes);
    const char *verdict = kills > 0 ? "-" : ratio >= ref->at[b].goal ? "ok" : "BELOW";
    printf("%-10s %9zu %6.2f %6.2f %6.1f %-5s %6.1f %6.2f %8.1f\n", ref->name, budget, ratio,
           byte_ratio, ref->at[b].goal, verdict, ref->at[b].lru64, percent(run.holes_max, budget),
           overhead(&run, budget));
    free(run.value);
    l1_free(run.l1);
}

static int replay_all(const char *dir, double kills)
{
    printf("%-10s %9s %6s %6s %6s %-5s %6s %6s %8s\n", "trace", "budget", "hit %", "byte %", "goal",
           "", "LRU+64", "hole %", "overhead");
    for (size_t i = 0; i < sizeof refs / sizeof *refs; i++) {
        struct trace t;
        if (!load(&t, dir, refs[i].name)) {
            fprintf(stderr, "replay: no trace %s in %s\n", refs[i].name, dir);
            free(t.req);
            return SKIP_TEST;
        }
        for (int b = 0; b < BUDGETS; b++)
            replay(&t, &refs[i], b, kills);
        free(t.req);
    }
    return EXIT_SUCCESS;
}

/* ---- speed ---- */

enum { VALUE_LEN = 100, BATCH = 64, CALLS = 64 * 100 * 1000 };

static double nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Keys are made before the clock runs: as in the proxy, they are there already. */
struct keys {
    char (*text)[KEY_LEN + 1];
    uint32_t n;
};

/* n keys from `first` on; in order for step 1, else shuffled (n and step have no common divisor).
 */
static struct keys make_keys(uint32_t first, uint32_t n, uint64_t step)
{
    struct keys k = {must(calloc(n, sizeof *k.text)), n};
    for (uint32_t i = 0; i < n; i++)
        snprintf(k.text[i], sizeof *k.text, "obj:%020u", first + (uint32_t)(i * step % n));
    return k;
}

static struct l1_view view_at(const struct l1 *l1, const struct keys *k, uint32_t i)
{
    return (struct l1_view){k->text[i], KEY_LEN, l1_hash(l1, k->text[i], KEY_LEN), "", 0};
}

static void report(const char *what, double start, uint64_t calls, uint64_t hits)
{
    printf("%-36s %7.1f ns  (%5.1f %% hits)\n", what, (nanoseconds() - start) / (double)calls,
           percent(hits, calls));
}

static void time_inserts(struct l1 *l1, const struct keys *k, const char *what)
{
    char value[VALUE_LEN] = {0};
    double start = nanoseconds();
    for (uint32_t i = 0; i < k->n; i++) {
        struct l1_view v = view_at(l1, k, i);
        l1_insert(l1, &v, value, sizeof value, FOREVER, 0);
    }
    report(what, start, k->n, 0);
}

static void time_hits(struct l1 *l1, const struct keys *k, const char *what)
{
    uint64_t hits = 0;
    struct l1_hit hit;
    double start = nanoseconds();
    for (uint32_t i = 0; i < CALLS; i++) {
        struct l1_view v = view_at(l1, k, i % k->n);
        hits += l1_lookup(l1, &v, 0, &hit);
    }
    report(what, start, CALLS, hits);
}

static void time_batches(struct l1 *l1, const struct keys *k, const char *what)
{
    uint64_t hits = 0;
    struct l1_view v[BATCH];
    struct l1_hit hit;
    double start = nanoseconds();
    for (uint32_t i = 0; i < CALLS; i += BATCH) {
        for (uint32_t j = 0; j < BATCH; j++) {
            v[j] = view_at(l1, k, (i + j) % k->n);
            l1_prefetch_bucket(l1, v[j].hash);
        }
        for (uint32_t j = 0; j < BATCH; j++)
            l1_prefetch_entry(l1, v[j].hash);
        for (uint32_t j = 0; j < BATCH; j++)
            hits += l1_lookup(l1, &v[j], 0, &hit);
    }
    report(what, start, CALLS, hits);
}

static void time_hash(const struct l1 *l1, const struct keys *k)
{
    uint64_t sum = 0;
    double start = nanoseconds();
    for (int round = 0; round < 10000; round++) {
        for (uint32_t i = 0; i < 1000; i++)
            sum += l1_hash(l1, k->text[i], KEY_LEN);
    }
    report("l1_hash, 24 bytes", start, 10000 * 1000, sum & 0);
}

static int speed(void)
{
    struct l1 *l1 = must(l1_new(&(struct l1_config){.max_memory = 64 << 20, .seed = 1}));
    struct keys few = make_keys(0, 1000, 7), many = make_keys(0, 300000, 7919),
                next = make_keys(0, 300000, 1), flood = make_keys(300000, 2000000, 7919);
    time_hash(l1, &few);
    time_inserts(l1, &next, "insert, fresh memory");
    time_hits(l1, &few, "lookup, 1,000 hot keys");
    time_hits(l1, &many, "lookup, 300,000 keys");
    time_batches(l1, &few, "lookup, 1,000 hot keys, batches");
    time_batches(l1, &many, "lookup, 300,000 keys, batches");
    time_inserts(l1, &flood, "insert, evicting what has credit");
    struct run run = {.l1 = l1};
    printf("%-36s %7.1f bytes\n", "overhead per 124-byte payload", overhead(&run, 64 << 20));
    time_inserts(l1, &flood, "insert, evicting");
    free(few.text);
    free(many.text);
    free(next.text);
    free(flood.text);
    l1_free(l1);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--speed") == 0)
        return speed();
    if (argc == 4 && strcmp(argv[1], "--kills") == 0)
        return replay_all(argv[3], strtod(argv[2], NULL) / 100);
    if (argc == 2)
        return replay_all(argv[1], 0);
    fprintf(stderr, "usage: replay [--kills PERCENT] TRACE_DIR | replay --speed\n");
    return EXIT_FAILURE;
}
