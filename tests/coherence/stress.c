/* stress.c - writes and reads versioned values through two nearcaches and directly, and checks
 * every reply against what may be seen: the load of tests/coherence/stress, which starts the
 * servers.
 *
 *     stress A-PORT B-PORT DIRECT-PORT [name=value]...       the names are those of `settings`
 * below
 *
 * One thread and one clock see every request leave and every reply come, so "acknowledged before it
 * was sent" is exact. Each key is written by one client at a time (its owner, which changes when
 * nothing is under way), so that the order of its states is known; counters are written by all, and
 * bring their order with them. A reply is compared with the states of its key:
 *
 *     wrong key   the value names another key
 *     phantom     no state of the key reads so
 *     expired     only one that had expired before the read was sent
 *     own write   older than what this client has written, or what its proxy has acknowledged
 *     monotonic   older than what this client has seen
 *     bound       overwritten for longer than the lease
 *     torn        two fields differ that were written together
 *
 * Whatever is not known for certain counts in the reply's favour. Times are microseconds.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SLOTS = 200, /* keys of each type */
    CLIENTS = 12,
    DEPTH = 16,   /* requests under way of a pipelining client */
    STATES = 512, /* of a key before it is given up for a new one */
    QUEUE = 1024, /* replies awaited by a client */
    ARGS_MAX = 12,
    TRANSACTION = 3, /* writes of one MULTI or MSET */
    SHOWN = 20,      /* violations printed */
};

enum kind { VIA_A, VIA_B, DIRECT, KINDS };
enum type { STRING, HASH, LIST, SET, COUNTER, TYPES };
enum view { VIEW_VALUE, VIEW_OTHER, VIEW_LENGTH, VIEW_EXISTS, VIEWS };

/* What a key holds from one write to the next. */
struct state {
    int64_t token; /* version of the value, or number of elements; 0: absent */
    bool maybe;    /* or absent: the write's reply will tell */
    uint64_t expires_from, expires_until; /* 0: never */
    uint64_t sent, acked;                 /* acked 0: not yet */
    enum kind kind;                       /* of the writer */
};

struct key {
    enum type type;
    unsigned generation; /* replies to reads of an older one count nothing */
    char name[32];
    unsigned owner, pending; /* client; writes without a reply */
    int64_t version;
    unsigned n;
    struct state states[STATES];
    unsigned acked[KINDS];         /* newest state acknowledged through each */
    unsigned written[CLIENTS];     /* newest state that each client has sent */
    unsigned seen[CLIENTS][VIEWS]; /* oldest state that each client's next reply may show */
    uint64_t counted[STATES];      /* COUNTER: when each number was acknowledged, */
    enum kind counted_by[STATES];  /* and to whom */
};

enum what { SKIP, READ, WRITE, WRITES, INCR, INCR_IN_EXEC, FLUSHED, READ_MANY, READ_IN_EXEC };

/* A reply that a client waits for. */
struct awaited {
    enum what what;
    enum view view;
    unsigned n; /* keys */
    struct key *keys[TRANSACTION];
    unsigned generations[TRANSACTION], states[TRANSACTION], floors[TRANSACTION];
    uint64_t sent, life;
    bool reply_tells; /* of a WRITE: integer 0 or nil means that the key was absent, */
    bool must;        /* or that what was written before it failed */
};

struct client {
    unsigned id, depth;
    enum kind kind;
    unsigned port;
    redisContext *redis;
    struct awaited queue[QUEUE];
    unsigned head, n;
};

enum violation { WRONG_KEY, PHANTOM, EXPIRED, OWN_WRITE, MONOTONIC, BOUND, TORN, VIOLATIONS };
static const char *const violation_names[] = {"wrong key", "phantom", "expired", "own write",
                                              "monotonic", "bound",   "torn"};

enum { BUCKETS = 400 };
struct histogram {
    uint64_t n, max;
    uint64_t counts[BUCKETS]; /* each 5 % wider */
};

struct stress {
    uint64_t seconds, seed, writes, lease, slack, flush, across, unknown;
    struct key keys[TYPES][SLOTS];
    struct client clients[CLIENTS];
    uint64_t random, end;
    bool flushing; /* no writes until those under way have ended */
    bool flush_sent;
    uint64_t next_flush;
    uint64_t reads[KINDS], written[KINDS], errors, retired, flushes;
    uint64_t violations[VIOLATIONS];
    unsigned shown;
    struct histogram stale[KINDS]; /* by relation: same proxy, other proxy, direct writer */
    uint64_t stale_reads;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t below(struct stress *s, uint64_t n)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random % n;
}

static bool chance(struct stress *s, unsigned per_mille)
{
    return below(s, 1000) < per_mille;
}

/* --- staleness ----------------------------------------------------------------------------------
 */

static double bucket_limit(unsigned i)
{
    double limit = 1;
    while (i--)
        limit = limit * 1.05 + 1;
    return limit;
}

static void record(struct histogram *h, uint64_t value)
{
    unsigned i = 0;
    double limit = 1;
    for (; i < BUCKETS - 1 && limit < (double)value; i++)
        limit = limit * 1.05 + 1;
    h->counts[i]++;
    h->n++;
    if (value > h->max)
        h->max = value;
}

static double percentile(const struct histogram *h, double p)
{
    uint64_t left = (uint64_t)((double)h->n * p / 100);
    for (unsigned i = 0; i < BUCKETS; i++) {
        if (h->counts[i] > left)
            return bucket_limit(i);
        left -= h->counts[i];
    }
    return (double)h->max;
}

/* --- keys and their states ----------------------------------------------------------------------
 */

/* A new name: all that is under way for the old one counts nothing. */
static void renew(struct stress *s, struct key *k)
{
    static const char *const types[] = {"str", "hash", "list", "set", "count"};
    size_t slot = (size_t)(k - s->keys[k->type]);
    unsigned generation = k->generation + 1, owner = k->owner;
    enum type type = k->type;
    memset(k, 0, sizeof *k);
    k->type = type;
    k->generation = generation;
    k->owner = owner;
    k->n = 1; /* absent from the start */
    snprintf(k->name, sizeof k->name, "%s%zu.%u", types[type], slot, generation);
    s->retired++;
}

/* The value of a version: it names its key and its writer, and is of a length of its own. */
static size_t value_of(const struct key *k, int64_t version, char out[160])
{
    static const char pad[] = "........................................................";
    return (size_t)snprintf(out, 160, "%s|%" PRId64 "|%.*s", k->name, version, (int)(version % 41),
                            pad);
}

static unsigned add_state(struct key *k, const struct client *c, int64_t token, uint64_t now)
{
    assert(k->n < STATES);
    k->states[k->n] = (struct state){.token = token, .sent = now, .kind = c->kind};
    k->written[c->id] = k->n;
    k->pending++;
    return k->n++;
}

static const struct state *newest(const struct key *k)
{
    return &k->states[k->n - 1];
}

/* Does this state read so? Whatever expires may be gone from the earliest moment on and must be by
 * the latest. */
static bool may_be_absent(const struct state *st, uint64_t received)
{
    return st->token == 0 || st->maybe || (st->expires_from && st->expires_from <= received);
}

/* The proxy looks at the clock once a turn. */
static bool expired(const struct state *st, uint64_t sent)
{
    enum { TURN = 10000 };
    return st->expires_until && st->expires_until + TURN < sent;
}

/* --- what is wrong ------------------------------------------------------------------------------
 */

__attribute__((format(printf, 5, 6))) static void violate(struct stress *s, enum violation what,
                                                          const struct client *c,
                                                          const struct key *k, const char *format,
                                                          ...)
{
    s->violations[what]++;
    if (s->shown++ >= SHOWN)
        return;
    va_list args;
    va_start(args, format);
    printf("VIOLATION %s: client %u of %s, %s, ", violation_names[what], c->id,
           c->kind == DIRECT  ? "the server"
           : c->kind == VIA_A ? "A"
                              : "B",
           k->name);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

/* What a reply shows: a token, or a length, or only that there is something. */
struct shown {
    enum view view;
    int64_t token; /* 0: absent */
};

static bool reads_as(const struct key *k, const struct state *st, struct shown shown)
{
    char value[160];
    if (st->token == 0)
        return false;
    if (shown.view == VIEW_EXISTS)
        return shown.token == 1;
    if (shown.view == VIEW_LENGTH && k->type == STRING)
        return (int64_t)value_of(k, st->token, value) == shown.token;
    return st->token == shown.token;
}

static bool feasible(const struct key *k, const struct state *st, struct shown shown,
                     const struct awaited *a, uint64_t received)
{
    if (shown.token == 0)
        return may_be_absent(st, received);
    return reads_as(k, st, shown) && !expired(st, a->sent);
}

static void note_staleness(struct stress *s, const struct client *c, const struct key *k,
                           uint64_t sent, uint64_t overwritten, enum kind by)
{
    if (overwritten == 0 || overwritten >= sent)
        return;
    uint64_t age = sent - overwritten;
    s->stale_reads++;
    record(&s->stale[by == DIRECT ? 2 : by == c->kind ? 0 : 1], age);
    if (age > s->lease + s->slack)
        violate(s, BOUND, c, k, "overwritten %" PRIu64 " us before it was asked for", age);
}

static void check(struct stress *s, struct client *c, const struct awaited *a, unsigned i,
                  struct shown shown, uint64_t received)
{
    struct key *k = a->keys[i];
    unsigned view = s->across ? 0 : shown.view, best = k->n;
    while (best > 0 && !feasible(k, &k->states[best - 1], shown, a, received))
        best--;
    if (best == 0) {
        bool was = false;
        for (unsigned j = 0; j < k->n; j++)
            was |= reads_as(k, &k->states[j], shown);
        violate(s, was ? EXPIRED : PHANTOM, c, k,
                "view %d shows %" PRId64 ", states up to %" PRId64, shown.view, shown.token,
                newest(k)->token);
        return;
    }
    best--;
    if (best < a->floors[i])
        violate(s, OWN_WRITE, c, k, "view %d shows state %u of %u, %u was acknowledged or its own",
                shown.view, best, k->n - 1, a->floors[i]);
    else if (best < k->seen[c->id][view])
        violate(s, MONOTONIC, c, k, "view %d shows state %u of %u after %u", shown.view, best,
                k->n - 1, k->seen[c->id][view]);
    if (best + 1 < k->n)
        note_staleness(s, c, k, a->sent, k->states[best + 1].acked, k->states[best + 1].kind);
    unsigned least = k->seen[c->id][view];
    while (least < best && !feasible(k, &k->states[least], shown, a, received))
        least++;
    if (least > k->seen[c->id][view])
        k->seen[c->id][view] = least;
}

/* Counters: the number is the state. */
static void check_counter(struct stress *s, struct client *c, const struct awaited *a, unsigned i,
                          int64_t number)
{
    struct key *k = a->keys[i];
    unsigned seen = (unsigned)number, *last = &k->seen[c->id][0];
    if (number < 0 || number > k->version) {
        violate(s, PHANTOM, c, k, "%" PRId64 " of %" PRId64, number, k->version);
        return;
    }
    if (seen < a->floors[i])
        violate(s, OWN_WRITE, c, k, "%u after %u was acknowledged", seen, a->floors[i]);
    else if (seen < *last)
        violate(s, MONOTONIC, c, k, "%u after %u", seen, *last);
    if (seen + 1 < STATES)
        note_staleness(s, c, k, a->sent, k->counted[seen + 1], k->counted_by[seen + 1]);
    if (seen > *last)
        *last = seen;
}

/* --- sending ------------------------------------------------------------------------------------
 */

static struct awaited *await(struct client *c, enum what what)
{
    assert(c->n < QUEUE);
    struct awaited *a = &c->queue[(c->head + c->n++) % QUEUE];
    *a = (struct awaited){.what = what, .sent = now_us()};
    return a;
}

static void send_words(struct client *c, int n, const char **words)
{
    redisAppendCommandArgv(c->redis, n, words, NULL);
}

#define SEND(c, ...)                                                                               \
    send_words(c, (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)),                     \
               (const char *[]){__VA_ARGS__})

/* The full name where there is no proxy that makes it one. */
static const char *full(const struct client *c, const char *name, char out[64])
{
    snprintf(out, 64, "%s%s", c->kind == DIRECT ? "demo:" : "", name);
    return out;
}

static unsigned max2(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

/* The oldest state that a read may show which is sent now. */
static unsigned floor_of(const struct key *k, const struct client *c)
{
    unsigned acked = k->acked[c->kind];
    if (c->kind == DIRECT)
        acked = max2(max2(k->acked[VIA_A], k->acked[VIA_B]), acked);
    return max2(acked, k->written[c->id]);
}

static void add_key(struct awaited *a, struct key *k, const struct client *c)
{
    a->keys[a->n] = k;
    a->generations[a->n] = k->generation;
    a->floors[a->n++] = floor_of(k, c);
}

/* Some are changed all the time, others hardly ever: these show what is never evicted. */
static struct key *any_key(struct stress *s, enum type type)
{
    return &s->keys[type][below(s, SLOTS) * below(s, SLOTS) / SLOTS];
}

static void read_string(struct stress *s, struct client *c, struct key *k)
{
    char name[64], names[TRANSACTION][64];
    full(c, k->name, name);
    uint64_t how = below(s, 100);
    if (how < 12) {
        struct awaited *a = await(c, READ_MANY);
        const char *words[1 + TRANSACTION] = {"MGET"};
        for (unsigned i = 0; i < TRANSACTION; i++) {
            struct key *other = i ? any_key(s, STRING) : k;
            words[1 + i] = full(c, other->name, names[i]);
            add_key(a, other, c);
        }
        send_words(c, 1 + TRANSACTION, words);
        return;
    }
    if (how < 15) {
        await(c, SKIP), SEND(c, "MULTI");
        await(c, SKIP), SEND(c, "GET", name);
        struct awaited *a = await(c, READ_IN_EXEC);
        add_key(a, k, c);
        SEND(c, "EXEC");
        return;
    }
    struct awaited *a = await(c, READ);
    add_key(a, k, c);
    if (how < 65) {
        SEND(c, "GET", name);
    } else if (how < 80) {
        a->view = VIEW_OTHER;
        SEND(c, "GETRANGE", name, "0", "-1");
    } else if (how < 90) {
        a->view = VIEW_LENGTH;
        SEND(c, "STRLEN", name);
    } else {
        a->view = VIEW_EXISTS;
        SEND(c, "EXISTS", name);
    }
}

static void read_key(struct stress *s, struct client *c, struct key *k)
{
    char name[64];
    full(c, k->name, name);
    if (k->type == STRING) {
        read_string(s, c, k);
        return;
    }
    struct awaited *a = await(c, READ);
    add_key(a, k, c);
    if (k->type != COUNTER)
        a->view = (enum view)below(s, 3);
    else
        a->floors[0] = floor_of(k, c);
    static const char *const length[] = {"", "HLEN", "LLEN", "SCARD", ""};
    if (k->type == COUNTER)
        SEND(c, "GET", name);
    else if (a->view == VIEW_LENGTH && k->type == HASH)
        SEND(c, "HGET", name, "v");
    else if (a->view == VIEW_LENGTH || (a->view == VIEW_VALUE && k->type != HASH))
        SEND(c, length[k->type], name);
    else if (k->type == HASH && a->view == VIEW_VALUE)
        SEND(c, "HMGET", name, "v", "w");
    else if (k->type == HASH)
        SEND(c, "HGETALL", name);
    else if (k->type == LIST)
        SEND(c, "LRANGE", name, "0", "-1");
    else
        SEND(c, "SMEMBERS", name);
}

/* --- writes -------------------------------------------------------------------------------------
 */

static struct awaited *await_write(struct client *c, struct key *k, int64_t token)
{
    struct awaited *a = await(c, WRITE);
    add_key(a, k, c);
    a->states[0] = add_state(k, c, token, a->sent);
    return a;
}

static void expire(struct key *k, struct awaited *a, uint64_t life)
{
    a->life = life;
    k->states[a->states[0]].expires_from = a->sent + life - 2000; /* Redis counts whole ms */
}

/* One that keeps what is there, if it is. */
static void keep_content(struct key *k, struct awaited *a)
{
    struct state *st = &k->states[a->states[0]];
    const struct state *before = st - 1;
    st->maybe = before->token == 0 || before->maybe || before->expires_from;
    a->reply_tells = true;
}

static struct key *own_key(struct stress *s, const struct client *c, enum type type)
{
    for (unsigned tries = 0; tries < 2 * SLOTS; tries++) {
        struct key *k = any_key(s, type);
        if (k->owner != c->id)
            continue;
        if (k->n + 2 * DEPTH >= STATES && k->pending == 0)
            renew(s, k);
        if (k->n + DEPTH < STATES)
            return k;
    }
    return NULL;
}

static const char *millis(char out[24], uint64_t us)
{
    snprintf(out, 24, "%" PRIu64, us / 1000);
    return out;
}

/* Plain ways to store a new version. */
static void store_string(struct stress *s, struct client *c, struct key *k)
{
    char name[64], value[160], life[24], temporary[80];
    uint64_t ms = 30000 + below(s, 370000) / 1000 * 1000;
    ms = ms / 1000 * 1000;
    int64_t version = ++k->version;
    full(c, k->name, name);
    value_of(k, version, value);
    millis(life, ms);
    snprintf(temporary, sizeof temporary, "%s{tmp}", name);
    struct awaited *a;
    switch (below(s, 10)) {
    case 0:
        a = await_write(c, k, version), expire(k, a, ms);
        SEND(c, "SET", name, value, "PX", life);
        break;
    case 1:
        a = await_write(c, k, version), expire(k, a, ms);
        SEND(c, "PSETEX", name, life, value);
        break;
    case 2:
        (void)await_write(c, k, version);
        SEND(c, "GETSET", name, value);
        break;
    case 3:
        await(c, SKIP), SEND(c, "SET", temporary, value);
        (void)await_write(c, k, version);
        SEND(c, "RENAME", temporary, name);
        break;
    case 4:
        await(c, SKIP), SEND(c, "SET", temporary, value);
        await_write(c, k, version)->must = true;
        SEND(c, "COPY", temporary, name, "REPLACE");
        break;
    case 5:
        (void)await_write(c, k, version);
        SEND(c, "EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", name, value);
        break;
    default:
        (void)await_write(c, k, version);
        SEND(c, "SET", name, value);
    }
}

static void change_string(struct stress *s, struct client *c, struct key *k)
{
    char name[64], life[24], temporary[80];
    uint64_t ms = (30 + below(s, 300)) * 1000;
    full(c, k->name, name);
    millis(life, ms);
    snprintf(temporary, sizeof temporary, "%s{gone}", name);
    int64_t token = newest(k)->token;
    struct awaited *a;
    switch (below(s, 8)) {
    case 0:
        (void)await_write(c, k, 0);
        SEND(c, "DEL", name);
        break;
    case 1:
        (void)await_write(c, k, 0);
        SEND(c, "UNLINK", name);
        break;
    case 2:
        (void)await_write(c, k, 0);
        SEND(c, "GETDEL", name);
        break;
    case 3:
        (void)await_write(c, k, 0);
        SEND(c, "RENAME", name, temporary);
        break;
    case 4:
        a = await_write(c, k, token), keep_content(k, a), expire(k, a, ms);
        SEND(c, "PEXPIRE", name, life);
        break;
    case 5:
        a = await_write(c, k, token), keep_content(k, a), expire(k, a, ms);
        SEND(c, "GETEX", name, "PX", life);
        break;
    default:
        a = await_write(c, k, token), keep_content(k, a);
        SEND(c, "GETEX", name, "PERSIST");
        break;
    }
}

/* Several keys with one acknowledgement. */
static void store_many(struct stress *s, struct client *c, bool transaction)
{
    struct key *keys[TRANSACTION];
    char names[TRANSACTION][64], values[TRANSACTION][160];
    const char *words[1 + 2 * TRANSACTION] = {"MSET"};
    unsigned n = 0;
    while (n < TRANSACTION) {
        struct key *k = own_key(s, c, STRING);
        if (!k)
            return;
        keys[n] = k;
        value_of(k, ++k->version, values[n]);
        words[1 + 2 * n] = full(c, k->name, names[n]);
        words[2 + 2 * n] = values[n];
        n++;
    }
    if (transaction) {
        await(c, SKIP), SEND(c, "MULTI");
        for (unsigned i = 0; i < n; i++)
            await(c, SKIP), SEND(c, "SET", names[i], values[i]);
    }
    struct awaited *a = await(c, WRITES);
    for (unsigned i = 0; i < n; i++) {
        char *bar = strchr(values[i], '|');
        add_key(a, keys[i], c);
        a->states[i] = add_state(keys[i], c, strtoll(bar + 1, NULL, 10), a->sent);
    }
    if (transaction)
        SEND(c, "EXEC");
    else
        send_words(c, 1 + 2 * (int)n, words);
}

/* A script tells nothing of what it writes. */
static void store_unseen(struct client *c, struct key *k)
{
    char name[64], value[160];
    snprintf(name, sizeof name, "demo:%s", k->name);
    int64_t version = ++k->version;
    value_of(k, version, value);
    (void)await_write(c, k, version);
    SEND(c, "EVAL", "return redis.call('SET', ARGV[1], ARGV[2])", "0", name, value);
}

static void write_string(struct stress *s, struct client *c)
{
    struct key *k = own_key(s, c, STRING);
    uint64_t how = below(s, 1000);
    if (!k)
        return;
    if (below(s, 1000000) < s->unknown)
        store_unseen(c, k);
    else if (how < 60)
        store_many(s, c, true);
    else if (how < 150)
        store_many(s, c, false);
    else if (how < 350)
        change_string(s, c, k);
    else
        store_string(s, c, k);
}

static void write_hash(struct stress *s, struct client *c, struct key *k)
{
    char name[64], value[160];
    full(c, k->name, name);
    if (chance(s, 100)) {
        (void)await_write(c, k, 0);
        SEND(c, "DEL", name);
        return;
    }
    int64_t version = ++k->version;
    value_of(k, version, value);
    (void)await_write(c, k, version);
    SEND(c, "HSET", name, "v", value, "w", value);
}

static void write_list(struct stress *s, struct client *c, struct key *k)
{
    char name[64], trash[64];
    full(c, k->name, name);
    full(c, "trash", trash);
    int64_t n = newest(k)->token;
    uint64_t how = below(s, 100);
    if (n == 0 || (how < 55 && n < 60)) {
        (void)await_write(c, k, n + 1);
        SEND(c, how % 2 ? "LPUSH" : "RPUSH", name, k->name);
    } else if (how < 65 || n >= 60) {
        (void)await_write(c, k, 0);
        SEND(c, "DEL", name);
    } else {
        await_write(c, k, n - 1)->must = true;
        if (how < 75)
            SEND(c, "BLPOP", name, "1");
        else if (how < 85)
            SEND(c, "LMOVE", name, trash, "LEFT", "RIGHT");
        else
            SEND(c, "LPOP", name);
    }
}

static void write_set(struct stress *s, struct client *c, struct key *k)
{
    char name[64], member[24], trash[64];
    full(c, k->name, name);
    full(c, "trash-set", trash);
    snprintf(member, sizeof member, "%" PRId64, ++k->version);
    int64_t n = newest(k)->token;
    uint64_t how = below(s, 100);
    if (n == 0 || (how < 60 && n < 60)) {
        if (how < 20) { /* its second key */
            await(c, SKIP), SEND(c, "SADD", trash, member);
            await_write(c, k, n + 1)->must = true;
            SEND(c, "SMOVE", trash, name, member);
            return;
        }
        (void)await_write(c, k, n + 1);
        SEND(c, "SADD", name, member);
    } else if (how < 70 || n >= 60) {
        (void)await_write(c, k, 0);
        SEND(c, "DEL", name);
    } else {
        await_write(c, k, n - 1)->must = true;
        SEND(c, "SPOP", name);
    }
}

/* By anybody, in any way. */
static void count_up(struct stress *s, struct client *c, struct key *k)
{
    char name[64];
    full(c, k->name, name);
    if (k->version + DEPTH * CLIENTS >= STATES && k->pending == 0)
        renew(s, k), full(c, k->name, name);
    if (k->version + DEPTH * CLIENTS >= STATES)
        return;
    uint64_t how = below(s, 10);
    if (how == 0) {
        await(c, SKIP), SEND(c, "MULTI");
        await(c, SKIP), SEND(c, "INCR", name);
    }
    k->version++;
    k->pending++;
    struct awaited *a = await(c, how == 0 ? INCR_IN_EXEC : INCR);
    add_key(a, k, c);
    if (how == 0)
        SEND(c, "EXEC");
    else if (how == 1)
        SEND(c, "EVAL", "return redis.call('INCR', KEYS[1])", "1", name);
    else
        SEND(c, "INCR", name);
}

static void write_something(struct stress *s, struct client *c)
{
    static void (*const by_type[])(struct stress *, struct client *, struct key *) = {
        NULL, write_hash, write_list, write_set, count_up};
    uint64_t how = below(s, 10);
    enum type type = how < 6 ? STRING : how < 7 ? HASH : how < 8 ? LIST : how < 9 ? SET : COUNTER;
    if (type == STRING) {
        write_string(s, c);
        return;
    }
    struct key *k = type == COUNTER ? any_key(s, COUNTER) : own_key(s, c, type);
    if (k)
        by_type[type](s, c, k);
}

/* --- FLUSHDB: when no write is under way ---------------------------------------------------------
 */

static bool writes_under_way(struct stress *s)
{
    for (unsigned t = 0; t < TYPES; t++)
        for (unsigned i = 0; i < SLOTS; i++)
            if (s->keys[t][i].pending)
                return true;
    return false;
}

static void flush(struct stress *s, struct client *c)
{
    struct awaited *a = await(c, FLUSHED);
    for (unsigned i = 0; i < SLOTS; i++)
        renew(s, &s->keys[COUNTER][i]);
    for (unsigned t = 0; t < COUNTER; t++) {
        for (unsigned i = 0; i < SLOTS; i++) {
            struct key *k = &s->keys[t][i];
            if (k->n + DEPTH >= STATES)
                renew(s, k);
            k->owner = c->id;
            (void)add_state(k, c, 0, a->sent);
        }
    }
    if (c->kind == DIRECT)
        SEND(c, "FLUSHALL");
    else
        SEND(c, "FLUSHDB");
    s->flush_sent = true;
    s->flushes++;
}

/* --- one operation ------------------------------------------------------------------------------
 */

/* Keys change hands when nothing is under way for them. */
static void hand_over(struct stress *s)
{
    struct key *k = any_key(s, (enum type)below(s, COUNTER));
    if (k->pending == 0)
        k->owner = (unsigned)below(s, CLIENTS);
}

static void operate(struct stress *s, struct client *c)
{
    hand_over(s);
    if (s->flushing && !s->flush_sent && !writes_under_way(s))
        flush(s, c);
    else if (!s->flushing && below(s, 1000) < s->writes)
        write_something(s, c);
    else
        read_key(s, c, any_key(s, below(s, 10) < 6 ? STRING : (enum type)below(s, TYPES)));
}

static void fill_pipeline(struct stress *s, struct client *c, uint64_t now)
{
    if (now >= s->next_flush && !s->flushing)
        s->flushing = true;
    /* The server is faster than what is under test: it does not need all of the machine. */
    if (c->kind == DIRECT && s->reads[DIRECT] > s->reads[VIA_A] + s->reads[VIA_B] + DEPTH)
        return;
    while (c->n < c->depth)
        operate(s, c);
}

/* --- replies ------------------------------------------------------------------------------------
 */

static bool is_error(const redisReply *r)
{
    return r->type == REDIS_REPLY_ERROR;
}

/* The version that a value tells; false: it is not this key's. */
static bool read_value(const struct key *k, const redisReply *r, int64_t *version)
{
    size_t n = strlen(k->name);
    *version = 0;
    if (r->type == REDIS_REPLY_NIL)
        return true;
    if (r->type != REDIS_REPLY_STRING)
        return false;
    if (r->len == 0)
        return true;
    char expected[160];
    if (r->len <= n || memcmp(r->str, k->name, n) != 0 || r->str[n] != '|')
        return false;
    *version = strtoll(r->str + n + 1, NULL, 10);
    return value_of(k, *version, expected) == r->len && memcmp(expected, r->str, r->len) == 0;
}

static bool read_hash(struct stress *s, struct client *c, const struct key *k, const redisReply *r,
                      int64_t *version)
{
    if (r->type != REDIS_REPLY_ARRAY)
        return read_value(k, r, version);
    *version = 0;
    int64_t both[2] = {0, 0};
    unsigned n = 0;
    for (size_t i = r->elements == 4; i < r->elements; i += r->elements == 4 ? 2 : 1)
        if (n < 2 && !read_value(k, r->element[i], &both[n++]))
            return false;
    if (both[0] != both[1])
        violate(s, TORN, c, k, "%" PRId64 " and %" PRId64, both[0], both[1]);
    *version = both[0];
    return true;
}

static bool read_shown(struct stress *s, struct client *c, const struct key *k, const redisReply *r,
                       int64_t *token)
{
    if (r->type == REDIS_REPLY_INTEGER) {
        *token = r->integer;
        return true;
    }
    if (k->type == HASH)
        return read_hash(s, c, k, r, token);
    if (k->type == STRING)
        return read_value(k, r, token);
    *token = (int64_t)r->elements;
    return r->type == REDIS_REPLY_ARRAY;
}

static void read_reply(struct stress *s, struct client *c, const struct awaited *a, unsigned i,
                       const redisReply *r, uint64_t now)
{
    struct key *k = a->keys[i];
    int64_t token;
    s->reads[c->kind]++;
    if (k->generation != a->generations[i] || is_error(r))
        return;
    if (k->type == COUNTER) {
        check_counter(s, c, a, i, r->type == REDIS_REPLY_STRING ? strtoll(r->str, NULL, 10) : 0);
        return;
    }
    if (read_shown(s, c, k, r, &token))
        check(s, c, a, i, (struct shown){a->view, token}, now);
    else
        violate(s, WRONG_KEY, c, k, "it shows %.60s", r->str ? r->str : "something else");
}

/* Not done for certain, nor not done: whatever is read of this key from now on proves nothing. */
static void lose_key(struct stress *s, const struct awaited *a, unsigned i)
{
    if (a->keys[i]->generation == a->generations[i])
        renew(s, a->keys[i]);
}

static void acknowledge(struct stress *s, struct client *c, const struct awaited *a, unsigned i,
                        const redisReply *r, uint64_t now)
{
    struct key *k = a->keys[i];
    if (k->generation != a->generations[i])
        return;
    struct state *st = &k->states[a->states[i]];
    bool absent = r->type == REDIS_REPLY_NIL || (r->type == REDIS_REPLY_INTEGER && r->integer == 0);
    if (a->must && absent) {
        lose_key(s, a, i);
        return;
    }
    k->pending--;
    st->acked = now;
    if (a->reply_tells && absent)
        st->token = 0;
    else if (a->life)
        st->expires_until = now + a->life;
    st->maybe = false;
    if (a->states[i] > k->acked[c->kind])
        k->acked[c->kind] = a->states[i];
}

static void counted(struct stress *s, struct client *c, const struct awaited *a,
                    const redisReply *r, uint64_t now)
{
    struct key *k = a->keys[0];
    if (a->what == INCR_IN_EXEC && r->type == REDIS_REPLY_ARRAY && r->elements == 1)
        r = r->element[0];
    if (k->generation != a->generations[0])
        return;
    if (r->type != REDIS_REPLY_INTEGER || r->integer <= 0 || r->integer >= STATES) {
        renew(s, k);
        return;
    }
    unsigned number = (unsigned)r->integer;
    k->pending--;
    k->counted[number] = now;
    k->counted_by[number] = c->kind;
    k->acked[c->kind] = max2(k->acked[c->kind], number);
    k->written[c->id] = max2(k->written[c->id], number);
    k->seen[c->id][0] = max2(k->seen[c->id][0], number);
}

/* A RENAME that was to remove a key which was not there. */
static bool harmless(const struct awaited *a, const redisReply *r)
{
    const struct key *k = a->keys[0];
    return a->what == WRITE && k->generation == a->generations[0] &&
           k->states[a->states[0]].token == 0 && strcmp(r->str, "ERR no such key") == 0;
}

static void flushed(struct stress *s, struct client *c, const redisReply *r, uint64_t now)
{
    for (unsigned t = 0; t < COUNTER; t++) {
        for (unsigned i = 0; i < SLOTS; i++) {
            struct key *k = &s->keys[t][i];
            k->pending = 0;
            k->states[k->n - 1].acked = now;
            k->acked[c->kind] = k->n - 1;
            if (is_error(r))
                renew(s, k);
        }
    }
    s->flushing = s->flush_sent = false;
    s->next_flush = now + s->flush;
}

static void error_reply(struct stress *s, const struct awaited *a)
{
    s->errors++;
    for (unsigned i = 0; i < a->n; i++)
        if (a->what == WRITE || a->what == WRITES || a->what == INCR || a->what == INCR_IN_EXEC)
            lose_key(s, a, i);
}

static void reply(struct stress *s, struct client *c, const redisReply *r, uint64_t now)
{
    struct awaited a = c->queue[c->head];
    c->head = (c->head + 1) % QUEUE;
    c->n--;
    if (is_error(r) && !harmless(&a, r) && a.what != FLUSHED) {
        if (s->errors < 3)
            printf("note: %s\n", r->str);
        error_reply(s, &a);
        return;
    }
    switch (a.what) {
    case SKIP:
        break;
    case READ:
        read_reply(s, c, &a, 0, r, now);
        break;
    case READ_MANY:
        for (unsigned i = 0; i < a.n && r->elements == a.n; i++)
            read_reply(s, c, &a, i, r->element[i], now);
        break;
    case READ_IN_EXEC:
        if (r->elements == 1)
            read_reply(s, c, &a, 0, r->element[0], now);
        break;
    case WRITE:
    case WRITES:
        s->written[c->kind]++;
        for (unsigned i = 0; i < a.n; i++)
            acknowledge(s, c, &a, i, r, now);
        break;
    case INCR:
    case INCR_IN_EXEC:
        s->written[c->kind]++;
        counted(s, c, &a, r, now);
        break;
    case FLUSHED:
        flushed(s, c, r, now);
        break;
    }
}

/* --- connections --------------------------------------------------------------------------------
 */

static void connect_client(struct client *c)
{
    c->redis = redisConnectWithTimeout("127.0.0.1", (int)c->port, (struct timeval){.tv_sec = 5});
    if (!c->redis || c->redis->err) {
        fprintf(stderr, "stress: port %u: %s\n", c->port,
                c->redis ? c->redis->errstr : "no memory");
        exit(2);
    }
    fcntl(c->redis->fd, F_SETFL, fcntl(c->redis->fd, F_GETFL) | O_NONBLOCK);
    c->redis->flags &= ~REDIS_BLOCK;
}

/* The connection has ended (a reply was torn): what was written is not known. */
static void reconnect(struct stress *s, struct client *c)
{
    for (; c->n; c->n--, c->head = (c->head + 1) % QUEUE) {
        struct awaited *a = &c->queue[c->head];
        error_reply(s, a);
        if (a->what == FLUSHED)
            flushed(s, c, &(redisReply){.type = REDIS_REPLY_ERROR}, now_us());
    }
    redisFree(c->redis);
    connect_client(c);
}

static void serve(struct stress *s, struct client *c)
{
    redisReply *r = NULL;
    if (redisBufferRead(c->redis) != REDIS_OK) {
        reconnect(s, c);
        return;
    }
    uint64_t now = now_us();
    while (redisReaderGetReply(c->redis->reader, (void **)&r) == REDIS_OK && r) {
        reply(s, c, r, now);
        freeReplyObject(r);
    }
}

static bool unsent(const struct client *c)
{
    return c->redis->obuf && sdslen(c->redis->obuf) > 0;
}

static void run(struct stress *s)
{
    struct pollfd fds[CLIENTS];
    for (uint64_t now = now_us(); now < s->end; now = now_us()) {
        for (unsigned i = 0; i < CLIENTS; i++) {
            struct client *c = &s->clients[i];
            int done;
            fill_pipeline(s, c, now);
            if (unsent(c) && redisBufferWrite(c->redis, &done) != REDIS_OK)
                reconnect(s, c);
            fds[i] = (struct pollfd){.fd = c->redis->fd,
                                     .events = (short)(POLLIN | (unsent(c) ? POLLOUT : 0))};
        }
        if (poll(fds, CLIENTS, 100) < 0 && errno != EINTR)
            break;
        for (unsigned i = 0; i < CLIENTS; i++)
            if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
                serve(s, &s->clients[i]);
    }
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static int report(const struct stress *s)
{
    static const char *const relations[] = {"same proxy", "other proxy", "direct"};
    uint64_t reads = s->reads[0] + s->reads[1] + s->reads[2], bad = 0;
    uint64_t writes = s->written[0] + s->written[1] + s->written[2];
    printf("operations: %" PRIu64 " (%" PRIu64 " reads: %" PRIu64 " through A, %" PRIu64
           " through B, %" PRIu64 " direct; %" PRIu64 " writes), %" PRIu64 " flushes, %" PRIu64
           " errors, %" PRIu64 " keys\n",
           reads + writes, reads, s->reads[0], s->reads[1], s->reads[2], writes, s->flushes,
           s->errors, s->retired);
    printf("stale reads: %" PRIu64 "; how long (ms) the value had been overwritten when asked for,"
           " by the writer:\n",
           s->stale_reads);
    for (unsigned i = 0; i < KINDS; i++) {
        const struct histogram *h = &s->stale[i];
        if (h->n)
            printf("  %-12s %9" PRIu64 " reads  p50 %.2f  p99 %.2f  max %.2f\n", relations[i], h->n,
                   percentile(h, 50) / 1000, percentile(h, 99) / 1000, (double)h->max / 1000);
        else
            printf("  %-12s none\n", relations[i]);
    }
    printf("violations:");
    for (unsigned i = 0; i < VIOLATIONS; i++) {
        printf("%s %s %" PRIu64, i ? "," : "", violation_names[i], s->violations[i]);
        bad += s->violations[i];
    }
    printf("\n");
    return bad ? 1 : 0;
}

static void set(struct stress *s, const char *word)
{
    const struct {
        const char *name;
        uint64_t *value;
    } settings[] = {
        {"seconds=", &s->seconds}, {"seed=", &s->seed},
        {"writes=", &s->writes},                          /* per mille of the operations */
        {"lease=", &s->lease},     {"slack=", &s->slack}, /* us */
        {"flush=", &s->flush},                            /* us between two FLUSHDBs */
        {"unknown=", &s->unknown}, /* per million of string writes: scripts without keys */
        {"across=", &s->across}};  /* 1: monotonic over all views of a key together */
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        size_t n = strlen(settings[i].name);
        if (strncmp(word, settings[i].name, n) == 0) {
            *settings[i].value = strtoull(word + n, NULL, 10);
            return;
        }
    }
    fprintf(stderr, "stress: unknown setting %s\n", word);
    exit(2);
}

static void prepare(struct stress *s, char **ports)
{
    static const enum kind kinds[CLIENTS] = {VIA_A, VIA_B, VIA_A, VIA_B, VIA_A,  VIA_B,
                                             VIA_A, VIA_B, VIA_A, VIA_B, DIRECT, DIRECT};
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *c = &s->clients[i];
        c->id = i;
        c->kind = kinds[i];
        c->depth = i % 4 < 2 ? 1 : DEPTH;
        c->port = (unsigned)strtoul(ports[c->kind], NULL, 10);
        connect_client(c);
    }
    for (unsigned t = 0; t < TYPES; t++)
        for (unsigned i = 0; i < SLOTS; i++) {
            s->keys[t][i].type = (enum type)t;
            s->keys[t][i].owner = i % CLIENTS;
            renew(s, &s->keys[t][i]);
        }
}

int main(int argc, char **argv)
{
    struct stress *s = calloc(1, sizeof *s);
    if (!s || argc < 4) {
        fprintf(stderr, "usage: stress A-PORT B-PORT DIRECT-PORT [name=value]...\n");
        return 2;
    }
    s->seconds = 10, s->seed = 1, s->writes = 100, s->lease = 1000000, s->slack = 200000;
    s->flush = 4000000, s->unknown = 100;
    for (int i = 4; i < argc; i++)
        set(s, argv[i]);
    s->random = s->seed * 0x9e3779b97f4a7c15u + 1;
    prepare(s, argv + 1);
    uint64_t now = now_us();
    s->end = now + s->seconds * 1000000;
    s->next_flush = now + s->flush;
    run(s);
    int status = report(s);
    for (unsigned i = 0; i < CLIENTS; i++)
        redisFree(s->clients[i].redis);
    free(s);
    return status;
}
