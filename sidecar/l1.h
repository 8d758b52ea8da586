/* l1.h - the near cache: an opaque, byte-budgeted map from (key, view) to raw reply bytes.
 *
 * Size-aware S3-FIFO over two byte rings in one mapped region (DESIGN section 7; S3-FIFO: Yang et
 * al., "FIFO queues are all you need for cache eviction", SOSP 2023). No allocation after creation,
 * no sockets, no clock: time comes in as `now`. Not thread-safe.
 *
 * Keys are the names that the service's clients use (un-prefixed). Every view of a key (another
 * database, later another command or RESP version) is an entry of its own; all hang on the key's
 * 64-bit hash, so that l1_kill is one lookup.
 */
#ifndef NEARCACHE_L1_H
#define NEARCACHE_L1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct l1;

/* Counters since creation, and gauges. */
struct l1_stats {
    uint64_t entries;   /* live now (expired ones count until they are met) */
    uint64_t bytes;     /* of the budget that hold live entries, headers included */
    uint64_t limit;     /* max_memory as given */
    uint64_t mapped;    /* bytes mapped: <= limit */
    uint64_t holes;     /* bytes of killed entries not yet reclaimed */
    uint64_t evictions; /* entries pushed out by the policy */
    uint64_t expired;   /* entries met after their deadline */
    uint64_t killed;    /* entries removed by l1_kill */
    uint64_t rejected;  /* inserts refused: too large, or first sight of a large value */
    uint64_t inserted;
};

struct l1_config {
    size_t max_memory; /* bytes, everything counted; 0: no cache, every call is a cheap miss */
    size_t max_value;  /* longest reply stored, bytes; 0: limited by the ring only */
    uint64_t seed;     /* of the key hash: random per process, against collision attacks */
};

/* Smallest usable max_memory other than 0. */
#define L1_MIN_MEMORY ((size_t)16 * 1024)

/* NULL with errno set: the region can't be mapped (ENOMEM), or max_memory is in 1..L1_MIN_MEMORY-1
 * (EINVAL). */
struct l1 *l1_new(const struct l1_config *config);
void l1_free(struct l1 *l1);

/* A seeded 64-bit hash of a key; equal keys of different views have equal hashes. */
uint64_t l1_hash(const struct l1 *l1, const void *key, size_t len);

/* One view of one key. The bytes are borrowed for the call. `view` tells views of a key apart and
 * may be empty (view_len 0..255, key_len 0..65535; longer: never stored). */
struct l1_view {
    const char *key;
    size_t key_len;
    uint64_t hash; /* l1_hash(key) */
    const char *view;
    size_t view_len;
};

/* For a batch: touch the memory that l1_lookup will need, first the bucket of every key, then its
 * entry; and, L1_AHEAD keys before its turn, the rest of the entry. Optional, no effect but speed.
 */
enum { L1_AHEAD = 3 };
void l1_prefetch_bucket(const struct l1 *l1, uint64_t hash);
void l1_prefetch_entry(const struct l1 *l1, uint64_t hash);
void l1_prefetch_rest(const struct l1 *l1, uint64_t hash);

/* A stored reply; borrowed, valid until the next l1_insert, l1_kill, l1_clear or l1_free. */
struct l1_hit {
    const char *reply;
    size_t len;
};
/* `now`: monotonic milliseconds. True on a hit (which counts as a use). An entry with
 * now >= deadline is removed and is a miss. */
bool l1_lookup(struct l1 *l1, const struct l1_view *v, uint64_t now, struct l1_hit *hit);

/* Every entry that is there now is suspect from now on: l1_lookup misses it, until l1_insert brings
 * it anew. O(1). */
void l1_suspect_all(struct l1 *l1);
/* What is kept of the view, whether l1_lookup serves it or not. */
struct l1_stale {
    bool suspect;
    uint64_t fresh; /* l1_lookup served it until then, but for being suspect */
};
bool l1_lookup_stale(struct l1 *l1, const struct l1_view *v, uint64_t now, struct l1_hit *hit,
                     struct l1_stale *stale);

/* Stores or replaces a view's reply until `deadline` (monotonic ms, exclusive). May evict. False:
 * not stored (too large, expired already, or a large value seen for the first time); an older
 * reply of the same view is gone in either case. Neither `reply` nor the view may point into the
 * cache (an l1_hit, a view met by l1_each). */
bool l1_insert(struct l1 *l1, const struct l1_view *v, const char *reply, size_t len,
               uint64_t deadline, uint64_t now);

/* The same, but l1_lookup serves it until `fresh` only, and until `gone` (not earlier) it is kept
 * for l1_lookup_stale; 4 bytes more where they differ. */
bool l1_insert_lasting(struct l1 *l1, const struct l1_view *v, const char *reply, size_t len,
                       uint64_t fresh, uint64_t gone, uint64_t now);

/* Removes every view of the key with this hash (and of keys that collide in all the hash bits
 * stored: harmless). Remembers it in the ghost. Returns how many entries went. */
size_t l1_kill(struct l1 *l1, uint64_t hash);

/* Forgets everything. O(index), no entry is visited. */
void l1_clear(struct l1 *l1);

/* For NEARCACHE KEY: looks without counting as a use. */
struct l1_info {
    size_t reply_len;
    size_t footprint;      /* bytes of the budget */
    uint64_t time_left_ms; /* 0: l1_lookup does not serve it any more, only l1_lookup_stale */
    unsigned credit;       /* S3-FIFO's use counter, 0..31 */
    bool in_main;          /* main ring rather than small */
    bool suspect;          /* l1_suspect_all() */
};
bool l1_inspect(const struct l1 *l1, const struct l1_view *v, uint64_t now, struct l1_info *info);

/* Calls `each` for every live entry until it returns false; nothing may be changed meanwhile. For
 * NEARCACHE FLUSH prefix and tests; walks the whole ring. */
void l1_each(const struct l1 *l1,
             bool (*each)(void *ctx, const struct l1_view *v, uint64_t deadline), void *ctx);

void l1_get_stats(const struct l1 *l1, struct l1_stats *out);

#endif
