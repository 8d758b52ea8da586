/* l1.c - the near cache: size-aware S3-FIFO over two byte rings in one mapped region.
 *
 *     mem: | index: chain heads | ghost: 4-way buckets | small ring | main ring |
 *            1/64                 1/100                  1/10         the rest
 *
 * A ring is a queue of entries of any length, in the order of insertion:
 *
 *     start      tail           head   start + size        start   head     tail    end
 *       |  free   |#####|##|####|  free  |         or        |###|##| free  |###|####|pad|
 *
 * New entries go into small, at its head. What leaves small at its tail goes to main if it was
 * used there (or main has room), else only its hash goes to the ghost; who asks for it again while
 * the ghost remembers gets it into main at once. At main's tail an entry that was used enough for
 * its size is copied to main's head, the others are dropped. A hit only adds credit to its entry.
 *
 * An entry that is killed, replaced or expired becomes a hole: it leaves the index at once and its
 * ring when the tail reaches it. Inserts turn a ring with too many holes round, to be rid of them;
 * kills don't, so that many at once stay cheap.
 *
 * Positions and lengths in rings are in units of 4 bytes, so that 32 bits span 16 GiB; of a larger
 * max_memory only that much is used. A position counts from the start of mem, where the index is:
 * no entry has position 0, which ends a chain.
 *
 * Deadlines are 32-bit milliseconds from a base, which moves up whenever the cache is empty. A
 * cache that has not been empty for 49 days is cleared to move it; no entry outlives that day
 * anyway, as deadlines are cut to the range.
 */
#include "l1.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    UNIT = 4,
    INDEX_SHARE = 64,
    GHOST_SHARE = 100,
    SMALL_SHARE = 10,
    HOLE_SHARE = 10, /* of a ring; more holes are squeezed out */

    CREDIT_HIT = 8,
    CREDIT_MAX = 31,
    CREDIT_COMEBACK = 8, /* of an entry that the ghost remembered */
    CACHE_LINE = 64,     /* bytes */
    PREFETCH_MAX = 2048, /* bytes; what is longer is foreseen by the processor itself */
    MEAN_WINDOW = 1024,  /* insertions that the mean length looks back on */

    GHOST_WAYS = 4,
    GHOST_TICKS = 1 << 16, /* a slot's time is 16 bits */
    /* A sweep that has copied this much, and this many times what it makes room for, stops being
     * merciful: bounds the time of one insert. */
    COPY_BYTES = 64 * 1024,
    COPY_TIMES = 16,
};

static const size_t MEMORY_MAX = (size_t)UNIT << 32;
static const uint32_t HOLE = 1U << 31, SUSPECT = 1U << 30, LASTING = 1U << 29; /* in entry.len */
static const size_t ENTRY_MAX = (1U << 29) - UNIT;

/* Key, view and reply follow the header, in this order; and where the entry is LASTING, the time
 * since base until which it is fresh. */
struct entry {
    uint32_t len; /* bytes, header included, alignment not; HOLE, SUSPECT, LASTING */
    uint32_t tag; /* low half of the key's hash */
    uint32_t next;
    uint32_t deadline;
    uint16_t key_len;
    uint8_t view_len;
    uint8_t credit;
    char data[];
};
_Static_assert(sizeof(struct entry) == 20, "each entry pays for its header");

/* All in units. The older part of a wrapped ring lies between tail and end, the newer one between
 * start and head. */
struct ring {
    uint32_t start, size;
    uint32_t head, tail, end;
    uint32_t used; /* by entries and holes, pad not counted; 0: empty */
    uint32_t holes;
    uint32_t
        suspect; /* of used, from the tail on: entries that were there when all were suspected */
};

struct l1 {
    uint32_t *mem;
    uint32_t n_heads;
    uint32_t nothing; /* stands for the index of a cache without memory */
    uint64_t base;    /* monotonic ms that deadlines count from */
    uint64_t secret[4];
    struct ring small, main;
    uint32_t *ghost;
    uint32_t n_ghost;    /* buckets */
    uint32_t ghost_tick; /* log2 of the ghost insertions per tick of its time */
    uint64_t ghost_puts;
    uint64_t len_sum; /* mean length of what was inserted, x MEAN_WINDOW */
    uint64_t random;
    size_t max_value;
    uint64_t live_units;
    struct l1_stats stats; /* entries and the counters; the rest is filled in when asked for */
};

/* ---- hash: 64 x 64 -> 128 bit multiplications, folded; secrets keep collisions unguessable ----
 */

__extension__ typedef unsigned __int128 u128;

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    u128 p = (u128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static inline uint64_t load64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load32(const unsigned char *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

uint64_t l1_hash(const struct l1 *l1, const void *key, size_t len)
{
    const uint64_t *secret = l1->secret;
    const unsigned char *p = key;
    uint64_t h = secret[0], a = 0, b = 0;
    for (size_t left = len; left > 16; left -= 16, p += 16)
        h = fold(load64(p) ^ secret[1], load64(p + 8) ^ h);

    /* The last 16 bytes at most; reads that overlap spare a byte-wise tail. */
    size_t left = len - (size_t)(p - (const unsigned char *)key);
    if (left >= 8) {
        a = load64(p);
        b = load64(p + left - 8);
    } else if (left >= 4) {
        a = load32(p);
        b = load32(p + left - 4);
    } else if (left > 0) {
        a = (uint64_t)p[0] << 16 | (uint64_t)p[left / 2] << 8 | p[left - 1];
    }
    return fold(fold(a ^ secret[2], b ^ h) ^ len, secret[3]);
}

/* splitmix64 (Steele, Lea, Flood 2014): spreads one seed over many. */
static uint64_t next_secret(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

/* xorshift64 (Marsaglia 2003): cheap noise for rounding. */
static uint32_t noise(struct l1 *l1)
{
    uint64_t x = l1->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    l1->random = x;
    return (uint32_t)(x >> 32);
}

/* ---- entries and chains ---- */

static inline struct entry *at(const struct l1 *l1, uint32_t pos)
{
    return (struct entry *)(void *)(l1->mem + pos);
}

static inline uint32_t units(size_t bytes)
{
    return (uint32_t)((bytes + UNIT - 1) / UNIT);
}

static inline size_t entry_len(const struct entry *e)
{
    return e->len & ~(HOLE | SUSPECT | LASTING);
}

static inline uint32_t span(const struct entry *e)
{
    return units(entry_len(e));
}

static inline size_t data_len(const struct l1_view *v, size_t len)
{
    return v->key_len + v->view_len + len;
}

/* Bytes behind the reply. */
static inline size_t tail_len(const struct entry *e)
{
    return e->len & LASTING ? sizeof(uint32_t) : 0;
}

static inline size_t reply_len(const struct entry *e)
{
    return entry_len(e) - sizeof *e - e->key_len - e->view_len - tail_len(e);
}

/* Since base. */
static inline uint32_t fresh_until(const struct entry *e)
{
    uint32_t fresh = e->deadline;
    if (e->len & LASTING)
        memcpy(&fresh, (const char *)e + entry_len(e) - sizeof fresh, sizeof fresh);
    return fresh;
}

/* Scales 32 random bits to 0..n-1 without a division. */
static inline uint32_t pick(uint32_t tag, uint32_t n)
{
    return (uint32_t)((uint64_t)tag * n >> 32);
}

static inline uint32_t *bucket(const struct l1 *l1, uint64_t hash)
{
    return &l1->mem[pick((uint32_t)hash, l1->n_heads)];
}

static inline bool is_view(const struct entry *e, const struct l1_view *v)
{
    return e->tag == (uint32_t)v->hash && e->key_len == v->key_len && e->view_len == v->view_len &&
           memcmp(e->data, v->key, v->key_len) == 0 &&
           (v->view_len == 0 || memcmp(e->data + v->key_len, v->view, v->view_len) == 0);
}

/* The link (a chain's head or some entry's `next`) that holds the view's position, or the 0 at the
 * chain's end. */
static inline uint32_t *find(const struct l1 *l1, const struct l1_view *v)
{
    uint32_t *link = bucket(l1, v->hash);
    while (*link && !is_view(at(l1, *link), v))
        link = &at(l1, *link)->next;
    return link;
}

static uint32_t *link_to(const struct l1 *l1, uint32_t pos)
{
    uint32_t *link = bucket(l1, at(l1, pos)->tag);
    while (*link != pos) {
        assert(*link);
        link = &at(l1, *link)->next;
    }
    return link;
}

/* 64 bits wide: what lies outside the 32-bit range is past every deadline. */
static inline uint64_t since_base(const struct l1 *l1, uint64_t now)
{
    return now - l1->base;
}

/* ---- rings ---- */

static void ring_reset(struct ring *r)
{
    r->head = r->tail = r->end = r->start;
    r->used = r->holes = r->suspect = 0;
}

static uint32_t ring_limit(const struct ring *r)
{
    return r->start + r->size;
}

static bool ring_wrapped(const struct ring *r)
{
    return r->used && r->head <= r->tail;
}

static bool ring_fits(const struct ring *r, uint32_t n)
{
    if (ring_wrapped(r))
        return n <= r->tail - r->head;
    return n <= ring_limit(r) - r->head || n <= r->tail - r->start;
}

static uint32_t ring_append(struct ring *r, uint32_t n)
{
    assert(n > 0 && ring_fits(r, n));
    if (!ring_wrapped(r) && n > ring_limit(r) - r->head) {
        r->end = r->head;
        r->head = r->start;
    }
    uint32_t pos = r->head;
    r->head += n;
    r->used += n;
    return pos;
}

/* Takes n units, one entry, off the tail. */
static void ring_pop(struct ring *r, uint32_t n)
{
    assert(n <= r->used);
    bool wrapped = ring_wrapped(r);
    r->used -= n;
    r->suspect -= n < r->suspect ? n : r->suspect;
    r->tail += n;
    if (r->used == 0)
        ring_reset(r);
    else if (wrapped && r->tail == r->end)
        r->tail = r->start;
}

static struct ring *ring_of(struct l1 *l1, uint32_t pos)
{
    return pos < l1->main.start ? &l1->small : &l1->main;
}

/* The oldest come first in a ring; those that moved since have it written on them. */
static bool is_suspect(const struct l1 *l1, uint32_t pos)
{
    const struct ring *r = pos < l1->main.start ? &l1->small : &l1->main;
    if (at(l1, pos)->len & SUSPECT)
        return true;
    if (r->suspect == 0)
        return false;
    uint32_t behind = pos >= r->tail ? pos - r->tail : r->end - r->tail + pos - r->start;
    return behind < r->suspect;
}

/* Takes the entry that `link` leads to out of the index; its bytes stay as a hole. */
static void forget(struct l1 *l1, uint32_t *link)
{
    uint32_t pos = *link;
    struct entry *e = at(l1, pos);
    uint32_t n = span(e);
    assert(!(e->len & HOLE));
    *link = e->next;
    e->len |= HOLE;
    ring_of(l1, pos)->holes += n;
    l1->live_units -= n;
    l1->stats.entries--;
}

static void pop_holes(struct l1 *l1, struct ring *r)
{
    while (r->used && at(l1, r->tail)->len & HOLE) {
        uint32_t n = span(at(l1, r->tail));
        r->holes -= n;
        ring_pop(r, n);
    }
}

/* Moves the entry at the tail of `from` to the head of `to`, which has room. In one and the same
 * ring the tail always makes room enough for itself, but old and new place may overlap. */
static void carry(struct l1 *l1, struct ring *from, struct ring *to)
{
    uint32_t pos = from->tail, n = span(at(l1, pos));
    uint32_t *link = link_to(l1, pos);
    if (is_suspect(l1, pos))
        at(l1, pos)->len |= SUSPECT;
    ring_pop(from, n);
    *link = ring_append(to, n);
    memmove(at(l1, *link), at(l1, pos), (size_t)n * UNIT);
}

/* ---- ghost: which keys left lately. A slot is a fingerprint and the time it came ---- */

static uint32_t *ghost_bucket(const struct l1 *l1, uint32_t tag)
{
    return l1->ghost + (size_t)pick(tag, l1->n_ghost) * GHOST_WAYS;
}

static uint32_t ghost_slot(const struct l1 *l1, uint32_t tag)
{
    uint32_t time = (uint32_t)(l1->ghost_puts >> l1->ghost_tick) % GHOST_TICKS;
    uint32_t print = tag % 0xffff + 1; /* 0 is an empty slot */
    return print << 16 | time;
}

/* True if the ghost remembers the key, and then no longer. */
static bool ghost_take(struct l1 *l1, uint32_t tag)
{
    /* By entries alone, an empty cache would never let a large value in. */
    uint64_t window = l1->stats.entries + l1->stats.entries / 2;
    if (window < l1->n_ghost)
        window = l1->n_ghost;
    uint32_t *slot = ghost_bucket(l1, tag);
    uint32_t now = ghost_slot(l1, tag);
    for (int i = 0; i < GHOST_WAYS; i++) {
        uint32_t age = (now - slot[i]) % GHOST_TICKS;
        if (now >> 16 == slot[i] >> 16) {
            slot[i] = 0;
            return age <= window >> l1->ghost_tick;
        }
    }
    return false;
}

/* The newest comes first in a bucket. It takes a free place, or the oldest one's. */
static void ghost_put(struct l1 *l1, uint32_t tag)
{
    uint32_t *slot = ghost_bucket(l1, tag);
    uint32_t fresh = ghost_slot(l1, tag);
    size_t i = 0;
    while (i < GHOST_WAYS - 1 && slot[i] && slot[i] >> 16 != fresh >> 16)
        i++;
    memmove(slot + 1, slot, i * sizeof *slot);
    slot[0] = fresh;
    l1->ghost_puts++;
}

/* ---- policy ---- */

/* One insert's work at the tails. */
struct sweep {
    uint64_t time;    /* since base */
    size_t copy_left; /* bytes that may still go round, from a tail to the head */
};

/* What it costs an entry to stay: 8 * length / (1.5 * mean length), rounded up or down at random
 * in proportion, so that small entries pay too. */
static uint32_t stay_cost(struct l1 *l1, const struct entry *e)
{
    uint64_t in_256ths = (uint64_t)span(e) * UNIT * MEAN_WINDOW * 256 * 16 / (3 * l1->len_sum);
    uint64_t cost = (in_256ths + (noise(l1) & 255)) >> 8;
    return cost > CREDIT_MAX ? CREDIT_MAX + 1 : (uint32_t)cost;
}

static bool earned_stay(const struct entry *e, uint32_t cost)
{
    return e->credit > 0 && e->credit >= cost;
}

static bool may_copy(struct sweep *s, uint32_t n)
{
    size_t bytes = (size_t)n * UNIT;
    if (bytes > s->copy_left)
        return false;
    s->copy_left -= bytes;
    return true;
}

/* Main's tail stays if it can pay. */
static bool main_keeps(struct l1 *l1, struct sweep *s, struct entry *e)
{
    uint32_t cost = stay_cost(l1, e);
    if (!earned_stay(e, cost) || !may_copy(s, span(e)))
        return false;
    e->credit = (uint8_t)(e->credit - cost);
    return true;
}

static bool drop_if_expired(struct l1 *l1, const struct sweep *s, uint32_t pos)
{
    if (s->time < at(l1, pos)->deadline)
        return false;
    forget(l1, link_to(l1, pos));
    l1->stats.expired++;
    return true;
}

static void evict(struct l1 *l1, uint32_t pos)
{
    forget(l1, link_to(l1, pos));
    l1->stats.evictions++;
}

/* Brings holes back below their share: as the tail goes round, entries are copied to the head,
 * at no cost to their credit, and holes are not. */
static void squeeze(struct l1 *l1, struct ring *r, struct sweep s)
{
    while (pop_holes(l1, r), r->holes > r->size / HOLE_SHARE) {
        if (drop_if_expired(l1, &s, r->tail))
            continue;
        if (!may_copy(&s, span(at(l1, r->tail))))
            return;
        carry(l1, r, r);
    }
}

/* Ends: every round without room takes an entry out of main or uses up copy_left, and an empty
 * ring fits anything that it may be asked for. */
static void make_room_in_main(struct l1 *l1, struct sweep *s, uint32_t n)
{
    assert(n <= l1->main.size);
    while (pop_holes(l1, &l1->main), !ring_fits(&l1->main, n)) {
        uint32_t pos = l1->main.tail;
        if (drop_if_expired(l1, s, pos))
            continue;
        if (main_keeps(l1, s, at(l1, pos)))
            carry(l1, &l1->main, &l1->main);
        else
            evict(l1, pos);
    }
}

static void leave_small(struct l1 *l1, struct sweep *s, uint32_t pos)
{
    struct entry *e = at(l1, pos);
    uint32_t n = span(e);
    pop_holes(l1, &l1->main);
    if (ring_fits(&l1->main, n) || earned_stay(e, stay_cost(l1, e))) {
        make_room_in_main(l1, s, n);
        e->credit = 0;
        carry(l1, &l1->small, &l1->main);
    } else {
        ghost_put(l1, e->tag);
        evict(l1, pos);
    }
}

/* Ends: every round without room takes an entry out of small. */
static void make_room_in_small(struct l1 *l1, struct sweep *s, uint32_t n)
{
    assert(n <= l1->small.size);
    while (pop_holes(l1, &l1->small), !ring_fits(&l1->small, n)) {
        if (!drop_if_expired(l1, s, l1->small.tail))
            leave_small(l1, s, l1->small.tail);
    }
}

/* ---- the calls ---- */

static void lay_out(struct l1 *l1)
{
    uint32_t total = (uint32_t)((l1->stats.mapped - 1) / UNIT); /* 16 GiB: one unit is lost */
    l1->n_heads = total / INDEX_SHARE;
    l1->n_ghost = total / GHOST_SHARE / GHOST_WAYS;
    l1->ghost = l1->mem + l1->n_heads;
    /* Time must not come round before a slot is pushed out: leave it room for 8 turnovers. */
    while (l1->n_ghost * GHOST_WAYS >> l1->ghost_tick > GHOST_TICKS / 8)
        l1->ghost_tick++;

    l1->small.start = l1->n_heads + l1->n_ghost * GHOST_WAYS;
    l1->small.size = total / SMALL_SHARE;
    l1->main.start = ring_limit(&l1->small);
    l1->main.size = total - l1->main.start;
    ring_reset(&l1->small);
    ring_reset(&l1->main);
}

static bool map_region(struct l1 *l1, size_t max_memory)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = (max_memory < MEMORY_MAX ? max_memory : MEMORY_MAX) / page * page;
    void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED)
        return false;
    l1->mem = mem;
    l1->stats.mapped = bytes;
    lay_out(l1);
    return true;
}

struct l1 *l1_new(const struct l1_config *config)
{
    if (config->max_memory > 0 && config->max_memory < L1_MIN_MEMORY) {
        errno = EINVAL;
        return NULL;
    }
    struct l1 *l1 = calloc(1, sizeof *l1);
    if (!l1)
        return NULL;
    uint64_t state = config->seed;
    for (size_t i = 0; i < sizeof l1->secret / sizeof *l1->secret; i++)
        l1->secret[i] = next_secret(&state) | 1;
    l1->random = next_secret(&state) | 1;
    l1->max_value = config->max_value ? config->max_value : ENTRY_MAX;
    l1->stats.limit = config->max_memory;
    l1->mem = &l1->nothing;
    l1->n_heads = 1;
    if (config->max_memory > 0 && !map_region(l1, config->max_memory)) {
        free(l1);
        return NULL; /* errno from mmap: ENOMEM */
    }
    return l1;
}

void l1_free(struct l1 *l1)
{
    if (l1 && l1->stats.mapped)
        munmap(l1->mem, l1->stats.mapped);
    free(l1);
}

void l1_prefetch_bucket(const struct l1 *l1, uint64_t hash)
{
    __builtin_prefetch(bucket(l1, hash));
}

void l1_prefetch_entry(const struct l1 *l1, uint64_t hash)
{
    const char *e = (const char *)at(l1, *bucket(l1, hash));
    __builtin_prefetch(e, 1); /* a hit writes its credit */
    __builtin_prefetch(e + CACHE_LINE);
}

void l1_prefetch_rest(const struct l1 *l1, uint64_t hash)
{
    const struct entry *e = at(l1, *bucket(l1, hash)); /* in an empty one anything */
    size_t len = entry_len(e) < PREFETCH_MAX ? entry_len(e) : PREFETCH_MAX;
    for (size_t i = CACHE_LINE * 2; i < len; i += CACHE_LINE)
        __builtin_prefetch((const char *)e + i);
}

static void drop_expired(struct l1 *l1, uint32_t *link)
{
    ghost_put(l1, at(l1, *link)->tag); /* like a killed one: it may come back at once */
    forget(l1, link);
    l1->stats.expired++;
}

/* The view's entry, which is used now; NULL: there is none, or no longer. */
static struct entry *use(struct l1 *l1, const struct l1_view *v, uint64_t now, uint32_t *pos)
{
    uint32_t *link = find(l1, v);
    if (!*link)
        return NULL;
    struct entry *e = at(l1, *link);
    if (since_base(l1, now) >= e->deadline) {
        drop_expired(l1, link);
        return NULL;
    }
    *pos = *link;
    unsigned credit = e->credit + CREDIT_HIT;
    e->credit = (uint8_t)(credit < CREDIT_MAX ? credit : CREDIT_MAX);
    return e;
}

static inline void show(const struct entry *e, struct l1_hit *hit)
{
    hit->reply = e->data + e->key_len + e->view_len;
    hit->len = reply_len(e);
}

bool l1_lookup(struct l1 *l1, const struct l1_view *v, uint64_t now, struct l1_hit *hit)
{
    uint32_t pos;
    const struct entry *e = use(l1, v, now, &pos);
    if (!e || is_suspect(l1, pos) || (e->len & LASTING && since_base(l1, now) >= fresh_until(e)))
        return false;
    show(e, hit);
    return true;
}

bool l1_lookup_stale(struct l1 *l1, const struct l1_view *v, uint64_t now, struct l1_hit *hit,
                     struct l1_stale *stale)
{
    uint32_t pos;
    const struct entry *e = use(l1, v, now, &pos);
    if (!e)
        return false;
    *stale = (struct l1_stale){.suspect = is_suspect(l1, pos), .fresh = l1->base + fresh_until(e)};
    show(e, hit);
    return true;
}

void l1_suspect_all(struct l1 *l1)
{
    l1->small.suspect = l1->small.used;
    l1->main.suspect = l1->main.used;
}

static void move_base(struct l1 *l1, uint64_t now)
{
    if (since_base(l1, now) > UINT32_MAX)
        l1_clear(l1);
    if (l1->stats.entries == 0)
        l1->base = now;
}

static bool storable(const struct l1 *l1, const struct l1_view *v, size_t len)
{
    return v->key_len <= UINT16_MAX && v->view_len <= UINT8_MAX && len <= l1->max_value &&
           len <= ENTRY_MAX - sizeof(struct entry) - UINT16_MAX - UINT8_MAX - sizeof(uint32_t) &&
           units(sizeof(struct entry) + data_len(v, len) + sizeof(uint32_t)) <= l1->main.size;
}

static uint32_t cut_to_range(const struct l1 *l1, uint64_t time)
{
    uint64_t rel = time - l1->base;
    return rel < UINT32_MAX ? (uint32_t)rel : UINT32_MAX;
}

static void set_life(const struct l1 *l1, struct entry *e, uint64_t fresh, uint64_t gone)
{
    e->deadline = cut_to_range(l1, gone);
    if (fresh == gone)
        return;
    uint32_t rel = cut_to_range(l1, fresh);
    memcpy((char *)e + entry_len(e), &rel, sizeof rel);
    e->len = (uint32_t)(e->len + sizeof rel) | LASTING;
}

static void fill(struct entry *e, const struct l1_view *v, const char *reply, size_t len)
{
    e->len = (uint32_t)(sizeof *e + data_len(v, len));
    e->tag = (uint32_t)v->hash;
    e->key_len = (uint16_t)v->key_len;
    e->view_len = (uint8_t)v->view_len;
    memcpy(e->data, v->key, v->key_len);
    if (v->view_len)
        memcpy(e->data + v->key_len, v->view, v->view_len);
    if (len)
        memcpy(e->data + v->key_len + v->view_len, reply, len);
}

static void update_mean(struct l1 *l1, uint64_t bytes)
{
    if (l1->len_sum == 0)
        l1->len_sum = bytes * MEAN_WINDOW;
    else
        l1->len_sum = l1->len_sum - l1->len_sum / MEAN_WINDOW + bytes;
}

static bool in_region(const struct l1 *l1, const void *p)
{
    return (uintptr_t)p - (uintptr_t)l1->mem < l1->stats.mapped;
}

/* Makes an entry of n units at the head of main, if known to come back, or of small. */
static struct entry *make_entry(struct l1 *l1, uint32_t *head, uint32_t n, uint64_t time,
                                bool known)
{
    struct sweep s = {time, COPY_BYTES + (size_t)n * UNIT * COPY_TIMES};
    squeeze(l1, &l1->small, s);
    squeeze(l1, &l1->main, s);
    if (known)
        make_room_in_main(l1, &s, n);
    else
        make_room_in_small(l1, &s, n);
    uint32_t pos = ring_append(known ? &l1->main : &l1->small, n);
    struct entry *e = at(l1, pos);
    e->next = *head;
    e->credit = known ? CREDIT_COMEBACK : 0;
    *head = pos;
    l1->live_units += n;
    l1->stats.entries++;
    l1->stats.inserted++;
    return e;
}

bool l1_insert(struct l1 *l1, const struct l1_view *v, const char *reply, size_t len,
               uint64_t deadline, uint64_t now)
{
    return l1_insert_lasting(l1, v, reply, len, deadline, deadline, now);
}

bool l1_insert_lasting(struct l1 *l1, const struct l1_view *v, const char *reply, size_t len,
                       uint64_t fresh, uint64_t gone, uint64_t now)
{
    assert(!in_region(l1, reply) && !in_region(l1, v->key) && !in_region(l1, v->view));
    assert(fresh <= gone);
    uint32_t *older = find(l1, v);
    bool known = *older;
    if (known)
        forget(l1, older);
    if (fresh <= now)
        return false;
    if (!storable(l1, v, len)) {
        l1->stats.rejected++;
        return false;
    }
    move_base(l1, now);
    uint32_t tag = (uint32_t)v->hash;
    uint32_t n =
        units(sizeof(struct entry) + data_len(v, len) + (fresh < gone ? sizeof(uint32_t) : 0));
    known = ghost_take(l1, tag) || known;
    if (!known && n > l1->small.size / 2) {
        ghost_put(l1, tag);
        l1->stats.rejected++;
        return false;
    }
    update_mean(l1, (uint64_t)n * UNIT);
    struct entry *e = make_entry(l1, bucket(l1, tag), n, since_base(l1, now), known);
    fill(e, v, reply, len);
    set_life(l1, e, fresh, gone);
    return true;
}

size_t l1_kill(struct l1 *l1, uint64_t hash)
{
    size_t n = 0;
    uint32_t *link = bucket(l1, hash);
    while (*link) {
        struct entry *e = at(l1, *link);
        if (e->tag == (uint32_t)hash) {
            forget(l1, link);
            n++;
        } else {
            link = &e->next;
        }
    }
    if (n > 0)
        ghost_put(l1, (uint32_t)hash);
    l1->stats.killed += n;
    return n;
}

void l1_clear(struct l1 *l1)
{
    if (l1->stats.entries > 0)
        memset(l1->mem, 0, (size_t)l1->n_heads * sizeof *l1->mem);
    if (l1->ghost_puts > 0)
        memset(l1->ghost, 0, (size_t)l1->n_ghost * GHOST_WAYS * sizeof *l1->ghost);
    ring_reset(&l1->small);
    ring_reset(&l1->main);
    l1->ghost_puts = 0;
    l1->live_units = 0;
    l1->stats.entries = 0;
}

bool l1_inspect(const struct l1 *l1, const struct l1_view *v, uint64_t now, struct l1_info *info)
{
    uint32_t pos = *find(l1, v);
    uint64_t time = since_base(l1, now);
    if (!pos || time >= at(l1, pos)->deadline)
        return false;
    const struct entry *e = at(l1, pos);
    info->reply_len = reply_len(e);
    info->footprint = (size_t)span(e) * UNIT;
    info->time_left_ms = time < fresh_until(e) ? fresh_until(e) - time : 0;
    info->credit = e->credit;
    info->in_main = pos >= l1->main.start;
    info->suspect = is_suspect(l1, pos);
    return true;
}

typedef bool each_fn(void *ctx, const struct l1_view *v, uint64_t deadline);

static bool each_part(const struct l1 *l1, uint32_t from, uint32_t to, each_fn *each, void *ctx)
{
    for (uint32_t pos = from; pos < to; pos += span(at(l1, pos))) {
        const struct entry *e = at(l1, pos);
        if (e->len & HOLE)
            continue;
        struct l1_view v = {e->data, e->key_len, l1_hash(l1, e->data, e->key_len),
                            e->data + e->key_len, e->view_len};
        if (!each(ctx, &v, l1->base + e->deadline))
            return false;
    }
    return true;
}

static bool each_ring(const struct l1 *l1, const struct ring *r, each_fn *each, void *ctx)
{
    if (!ring_wrapped(r))
        return each_part(l1, r->tail, r->head, each, ctx);
    return each_part(l1, r->tail, r->end, each, ctx) && each_part(l1, r->start, r->head, each, ctx);
}

void l1_each(const struct l1 *l1, each_fn *each, void *ctx)
{
    if (each_ring(l1, &l1->small, each, ctx))
        each_ring(l1, &l1->main, each, ctx);
}

void l1_get_stats(const struct l1 *l1, struct l1_stats *out)
{
    *out = l1->stats;
    out->bytes = l1->live_units * UNIT;
    out->holes = ((uint64_t)l1->small.holes + l1->main.holes) * UNIT;
}
