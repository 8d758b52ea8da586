/* coherence.h - the near cache and the rules of DESIGN section 5, for one thread or several.
 *
 * Keys are divided among shards by their hash: each has an L1 and the rules over it (shard.h), and
 * lets one thread in at a time. What concerns all keys comes to one shard after the other: the
 * rules are about one key each, so that no reader can tell. A cache of one thread is one shard, and
 * its lock is left alone.
 */
#ifndef NEARCACHE_COHERENCE_H
#define NEARCACHE_COHERENCE_H

#include "metrics.h"
#include "shard.h"

struct coherence;
/* How each begins, for what is inline at the end of this file. */
struct coherence_head {
    bool shared; /* by threads; where there is one the locks are left alone */
};

/* `l1`: of all shards together; `shared`: by threads. NULL with errno set, as l1_new does. */
struct coherence *coherence_new(const struct l1_config *l1, bool shared,
                                const struct coherence_options *options);
/* No fill may be left. */
void coherence_free(struct coherence *c);
/* While the other threads stand still. */
void coherence_set_options(struct coherence *c, const struct coherence_options *options);

/* l1_hash; for a batch, l1_prefetch_bucket, l1_prefetch_entry and l1_prefetch_rest. */
uint64_t coherence_hash(const struct coherence *c, const void *key, size_t len);
void coherence_prefetch_bucket(struct coherence *c, uint64_t hash);
void coherence_prefetch_entry(struct coherence *c, uint64_t hash);
void coherence_prefetch_rest(const struct coherence *c, uint64_t hash);

/* --- the link's side ---------------------------------------------------------------------------
 */

/* The link is live from now on: what was there is suspect. `proven`: when the PING that showed it
 * was sent. */
void coherence_link_up(struct coherence *c, uint64_t proven);
void coherence_link_down(struct coherence *c);
/* A PING sent at `proven` was answered. */
void coherence_renew(struct coherence *c, uint64_t proven);
/* The link is up and its last proof is not older than the lease. */
bool coherence_serving(struct coherence *c, uint64_t now);
/* ms since the last proof; UINT64_MAX: there never was one. */
uint64_t coherence_lease_age(struct coherence *c, uint64_t now);

void coherence_kill(struct coherence *c, uint64_t hash);
/* All keys that begin so; returns how many entries went. */
size_t coherence_kill_prefix(struct coherence *c, const char *prefix, size_t len);
void coherence_kill_key(struct coherence *c, const char *key, size_t len);
void coherence_new_epoch(struct coherence *c);
/* What was learned until now may have changed without notice: it is not served until it has been
 * asked for again. */
void coherence_suspect(struct coherence *c);

/* --- reads --------------------------------------------------------------------------------------
 */

/* A stored reply that may be served. After a hit, and at once: coherence_release. Until then the
 * reply stays as it is, and other threads wait. */
bool coherence_lookup(struct coherence *c, const struct l1_view *view, uint64_t now,
                      struct l1_hit *hit);

/* A stored reply that was known to be right options.max_stale ago, or later: for when nobody can be
 * asked. */
bool coherence_lookup_stale(struct coherence *c, const struct l1_view *view, uint64_t now,
                            struct l1_hit *hit);
static inline void coherence_release(struct coherence *c, const struct l1_view *view);
/* After that a hit stays where it is until this thread inserts or clears (l1.h); false: it may go
 * at any moment. */
static inline bool coherence_hits_may_be_borrowed(const struct coherence *c);

/* A fill of this view that is under way on the same path and whose reply has not begun: its owner
 * may answer more than one client with it, if they speak the same version of RESP (a nil differs).
 * NULL: there is none. */
struct fill *coherence_join(struct coherence *c, const struct l1_view *view,
                            const struct fill_terms *terms);

/* Begins a fill. The caller owes it one coherence_fill_value_end and one coherence_fill_ttl_end.
 * NULL: nothing could be stored (no L1, no link, a write of the key under way) - just forward the
 * read. A fill of the same view that is under way is detached. */
struct fill *coherence_begin_fill(struct coherence *c, const struct l1_view *view,
                                  const struct fill_terms *terms);
/* The view is about to be read without a fill: one that is under way is detached, or what it brings
 * could be older than what this reader sees. */
void coherence_detach_fill(struct coherence *c, const struct l1_view *view, const void *path);
/* At the reply to a read without a fill: it may be newer than what was kept meanwhile, and the key
 * is to be killed. (While the link is down nothing that is kept is served.) */
bool coherence_read_kills(struct coherence *c);
/* A place for the owner's list of waiting requests; NULL at first. */
void **coherence_fill_waiters(struct fill *f);
/* Bytes of the reply as they arrive. */
void coherence_fill_value(struct coherence *c, struct fill *f, const char *p, size_t n);
/* The reply is complete and may be kept, or it was an error or never came. */
void coherence_fill_value_end(struct coherence *c, struct fill *f, bool keep, uint64_t now);
/* Bytes of the reply to the key's PTTL, then its end: the key lives so long, or for ever (-1), or
 * is not there (-2: only what says so is stored), or the reply never came (not `whole`). */
void coherence_fill_ttl(struct fill *f, const char *p, size_t n);
void coherence_fill_ttl_end(struct coherence *c, struct fill *f, bool whole, uint64_t now);

/* --- writes -------------------------------------------------------------------------------------
 */

/* Around every command that may change the key, from before it is sent until its reply, error or
 * connection loss. False: out of memory, it must not be sent. */
__attribute__((warn_unused_result)) bool coherence_write_begin(struct coherence *c, uint64_t hash);
void coherence_write_end(struct coherence *c, uint64_t hash);
/* The same where the keys can't be told. */
void coherence_write_all_begin(struct coherence *c);
void coherence_write_all_end(struct coherence *c);

/* Around a command that writes very many keys, each of which its owner kills in between: no fill
 * begins meanwhile. */
void coherence_hold_fills(struct coherence *c);
void coherence_release_fills(struct coherence *c);

/* Why a reply of this key would not be stored or served now, for NEARCACHE KEY; NULL: it would. */
const char *coherence_obstacle(struct coherence *c, uint64_t hash, uint64_t now);
/* l1_inspect. */
bool coherence_inspect(struct coherence *c, const struct l1_view *view, uint64_t now,
                       struct l1_info *info);
/* Of all shards together; fills and epochs are added to the metrics. */
void coherence_count(struct coherence *c, struct l1_stats *stats, struct metrics *metrics);

void coherence_unlock(struct coherence *c, uint64_t hash);

static inline void coherence_release(struct coherence *c, const struct l1_view *view)
{
    if (((struct coherence_head *)c)->shared)
        coherence_unlock(c, view->hash);
}

static inline bool coherence_hits_may_be_borrowed(const struct coherence *c)
{
    return !((const struct coherence_head *)c)->shared;
}

#endif
