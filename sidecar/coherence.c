/* coherence.c - the shards of the L1, and who is let into one. */
#include "coherence.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum {
    SHARD_BITS = 4,
    SHARDS_MAX = 1 << SHARD_BITS,
    SHARD_MIN = 1 << 20, /* bytes; with less there are fewer shards .. */
    SHARD_VALUES = 4,    /* .. also if so many of the largest values would not fit */
};

/* Each on cache lines of its own. */
struct place {
    _Alignas(64) pthread_mutex_t lock;
    struct l1 *l1;
    struct shard *shard;
};

struct coherence {
    struct coherence_head head; /* first */
    struct coherence_options options;
    unsigned bits;
    size_t n;
    struct place v[];
};

/* --- who is let in ------------------------------------------------------------------------------
 */

/* The L1's index looks at some of the hash's bits: the product's upper ones hang on all of them. */
static inline struct place *place_of(struct coherence *c, uint64_t hash)
{
    if (!c->head.shared || !c->bits)
        return &c->v[0];
    return &c->v[(hash * 0x9e3779b97f4a7c15u) >> (64 - c->bits)];
}

static inline void enter_place(const struct coherence *c, struct place *at)
{
    if (c->head.shared)
        (void)pthread_mutex_lock(&at->lock);
}

static inline void leave_place(const struct coherence *c, struct place *at)
{
    if (c->head.shared)
        (void)pthread_mutex_unlock(&at->lock);
}

static inline struct place *enter(struct coherence *c, uint64_t hash)
{
    struct place *at = place_of(c, hash);
    enter_place(c, at);
    return at;
}

/* Enters every shard in turn: for (at = first(c); at; at = next(c, at)). */
static struct place *first(struct coherence *c)
{
    enter_place(c, c->v);
    return c->v;
}

static struct place *next(struct coherence *c, struct place *at)
{
    leave_place(c, at);
    if (++at == c->v + c->n)
        return NULL;
    enter_place(c, at);
    return at;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static unsigned bits_for(const struct l1_config *l1, bool shared)
{
    size_t least =
        l1->max_value > SHARD_MIN / SHARD_VALUES ? SHARD_VALUES * l1->max_value : SHARD_MIN;
    unsigned bits = shared ? SHARD_BITS : 0;
    while (bits > 0 && l1->max_memory >> bits < least)
        bits--;
    return bits;
}

static bool make_place(const struct coherence *c, struct place *at, const struct l1_config *l1)
{
    struct l1_config each = *l1;
    each.max_memory >>= c->bits;
    (void)pthread_mutex_init(&at->lock, NULL);
    at->l1 = l1_new(&each);
    at->shard = at->l1 ? shard_new(at->l1, &c->options) : NULL;
    return at->shard;
}

struct coherence *coherence_new(const struct l1_config *l1, bool shared,
                                const struct coherence_options *options)
{
    unsigned bits = bits_for(l1, shared);
    size_t size = sizeof(struct coherence) + ((size_t)1 << bits) * sizeof(struct place);
    struct coherence *c = aligned_alloc(_Alignof(struct coherence), size);
    if (!c)
        return NULL;
    *c = (struct coherence){.head.shared = shared, .options = *options, .bits = bits};
    for (; c->n < (size_t)1 << bits; c->n++) {
        c->v[c->n] = (struct place){0};
        if (!make_place(c, &c->v[c->n], l1)) {
            int error = errno;
            c->n++;
            coherence_free(c);
            errno = error;
            return NULL;
        }
    }
    return c;
}

void coherence_free(struct coherence *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++) {
        shard_free(c->v[i].shard);
        l1_free(c->v[i].l1);
        (void)pthread_mutex_destroy(&c->v[i].lock);
    }
    free(c);
}

void coherence_set_options(struct coherence *c, const struct coherence_options *options)
{
    c->options = *options;
}

/* --- keys ---------------------------------------------------------------------------------------
 */

uint64_t coherence_hash(const struct coherence *c, const void *key, size_t len)
{
    return l1_hash(c->v[0].l1, key, len);
}

/* Where a bucket lies is the same all the time. */
void coherence_prefetch_bucket(struct coherence *c, uint64_t hash)
{
    l1_prefetch_bucket(place_of(c, hash)->l1, hash);
}

void coherence_prefetch_entry(struct coherence *c, uint64_t hash)
{
    if (!c->head.shared) {
        l1_prefetch_entry(c->v[0].l1, hash);
        return;
    }
    struct place *at = enter(c, hash);
    l1_prefetch_entry(at->l1, hash);
    leave_place(c, at);
}

/* Of what is shared it would take a lock, which costs what it saves. */
void coherence_prefetch_rest(const struct coherence *c, uint64_t hash)
{
    if (!c->head.shared)
        l1_prefetch_rest(c->v[0].l1, hash);
}

/* --- the link's side ---------------------------------------------------------------------------
 */

void coherence_link_up(struct coherence *c, uint64_t proven)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_link_up(at->shard, proven);
}

void coherence_link_down(struct coherence *c)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_link_down(at->shard);
}

void coherence_renew(struct coherence *c, uint64_t proven)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_renew(at->shard, proven);
}

bool coherence_serving(struct coherence *c, uint64_t now)
{
    struct place *at = c->v;
    enter_place(c, at);
    bool serving = shard_serving(at->shard, now);
    leave_place(c, at);
    return serving;
}

uint64_t coherence_lease_age(struct coherence *c, uint64_t now)
{
    struct place *at = c->v;
    enter_place(c, at);
    uint64_t age = shard_lease_age(at->shard, now);
    leave_place(c, at);
    return age;
}

void coherence_kill(struct coherence *c, uint64_t hash)
{
    struct place *at = enter(c, hash);
    shard_kill(at->shard, hash);
    leave_place(c, at);
}

void coherence_kill_key(struct coherence *c, const char *key, size_t len)
{
    uint64_t hash = coherence_hash(c, key, len);
    struct place *at = enter(c, hash);
    shard_kill_key(at->shard, hash);
    leave_place(c, at);
}

size_t coherence_kill_prefix(struct coherence *c, const char *prefix, size_t len)
{
    size_t n = 0;
    for (struct place *at = first(c); at; at = next(c, at))
        n += shard_kill_prefix(at->shard, prefix, len);
    return n;
}

void coherence_new_epoch(struct coherence *c)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_new_epoch(at->shard);
}

void coherence_suspect(struct coherence *c)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_suspect(at->shard);
}

/* --- reads --------------------------------------------------------------------------------------
 */

bool coherence_lookup(struct coherence *c, const struct l1_view *view, uint64_t now,
                      struct l1_hit *hit)
{
    if (!c->head.shared)
        return shard_lookup(c->v[0].shard, view, now, hit);
    struct place *at = enter(c, view->hash);
    if (shard_lookup(at->shard, view, now, hit))
        return true;
    leave_place(c, at);
    return false;
}

bool coherence_lookup_stale(struct coherence *c, const struct l1_view *view, uint64_t now,
                            struct l1_hit *hit)
{
    struct place *at = enter(c, view->hash);
    if (shard_lookup_stale(at->shard, view, now, hit))
        return true;
    leave_place(c, at);
    return false;
}

void coherence_unlock(struct coherence *c, uint64_t hash)
{
    leave_place(c, place_of(c, hash));
}

struct fill *coherence_join(struct coherence *c, const struct l1_view *view,
                            const struct fill_terms *terms)
{
    struct place *at = enter(c, view->hash);
    struct fill *f = shard_join(at->shard, view, terms);
    leave_place(c, at);
    return f;
}

struct fill *coherence_begin_fill(struct coherence *c, const struct l1_view *view,
                                  const struct fill_terms *terms)
{
    struct place *at = enter(c, view->hash);
    struct fill *f = shard_begin_fill(at->shard, view, terms);
    leave_place(c, at);
    return f;
}

void coherence_detach_fill(struct coherence *c, const struct l1_view *view, const void *path)
{
    struct place *at = enter(c, view->hash);
    shard_detach_fill(at->shard, view, path);
    leave_place(c, at);
}

bool coherence_read_kills(struct coherence *c)
{
    struct place *at = c->v;
    enter_place(c, at);
    bool kills = shard_read_kills(at->shard);
    leave_place(c, at);
    return kills;
}

void **coherence_fill_waiters(struct fill *f)
{
    return shard_fill_waiters(f);
}

void coherence_fill_value(struct coherence *c, struct fill *f, const char *p, size_t n)
{
    struct place *at = enter(c, shard_fill_hash(f));
    shard_fill_value(at->shard, f, p, n);
    leave_place(c, at);
}

void coherence_fill_value_end(struct coherence *c, struct fill *f, bool keep, uint64_t now)
{
    struct place *at = enter(c, shard_fill_hash(f));
    shard_fill_value_end(at->shard, f, keep, now);
    leave_place(c, at);
}

void coherence_fill_ttl(struct fill *f, const char *p, size_t n)
{
    shard_fill_ttl(f, p, n);
}

void coherence_fill_ttl_end(struct coherence *c, struct fill *f, bool whole, uint64_t now)
{
    struct place *at = enter(c, shard_fill_hash(f));
    shard_fill_ttl_end(at->shard, f, whole, now);
    leave_place(c, at);
}

/* --- writes -------------------------------------------------------------------------------------
 */

bool coherence_write_begin(struct coherence *c, uint64_t hash)
{
    struct place *at = enter(c, hash);
    bool ok = shard_write_begin(at->shard, hash);
    leave_place(c, at);
    return ok;
}

void coherence_write_end(struct coherence *c, uint64_t hash)
{
    struct place *at = enter(c, hash);
    shard_write_end(at->shard, hash);
    leave_place(c, at);
}

void coherence_write_all_begin(struct coherence *c)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_write_all_begin(at->shard);
}

void coherence_write_all_end(struct coherence *c)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_write_all_end(at->shard);
}

void coherence_hold_fills(struct coherence *c)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_hold_fills(at->shard);
}

void coherence_release_fills(struct coherence *c)
{
    for (struct place *at = first(c); at; at = next(c, at))
        shard_release_fills(at->shard);
}

/* --- what there is ------------------------------------------------------------------------------
 */

const char *coherence_obstacle(struct coherence *c, uint64_t hash, uint64_t now)
{
    struct place *at = enter(c, hash);
    const char *obstacle = shard_obstacle(at->shard, hash, now);
    leave_place(c, at);
    return obstacle;
}

bool coherence_inspect(struct coherence *c, const struct l1_view *view, uint64_t now,
                       struct l1_info *info)
{
    struct place *at = enter(c, view->hash);
    bool there = l1_inspect(at->l1, view, now, info);
    leave_place(c, at);
    return there;
}

static void add_stats(struct l1_stats *sum, const struct l1_stats *s)
{
    sum->entries += s->entries;
    sum->bytes += s->bytes;
    sum->limit += s->limit;
    sum->mapped += s->mapped;
    sum->holes += s->holes;
    sum->evictions += s->evictions;
    sum->expired += s->expired;
    sum->killed += s->killed;
    sum->rejected += s->rejected;
    sum->inserted += s->inserted;
}

/* Epochs come to all shards alike: the first one has counted them. */
static void add_counts(struct metrics *m, const struct coherence_counts *n, bool first)
{
    m->fills += n->fills;
    m->fills_discarded += n->fills_discarded;
    m->epochs += first ? n->epochs : 0;
}

void coherence_count(struct coherence *c, struct l1_stats *stats, struct metrics *metrics)
{
    *stats = (struct l1_stats){0};
    for (struct place *at = first(c); at; at = next(c, at)) {
        struct l1_stats some;
        l1_get_stats(at->l1, &some);
        add_stats(stats, &some);
        add_counts(metrics, shard_counts(at->shard), at == c->v);
    }
}
