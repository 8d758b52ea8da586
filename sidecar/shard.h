/* shard.h - the rules of coherence over one L1: fills, kills, epochs and the lease.
 *
 * DESIGN section 5 over the L1's storage. Every read that is to be stored takes a fill first; what
 * might change the key in the meantime detaches the fill, and a detached fill stores nothing. Time
 * comes in as `now`, monotonic milliseconds.
 *
 *     kill(k)        every view of k is gone, its fill is detached
 *     new epoch      everything is gone, every fill is detached
 *     link lost      everything is suspect: not served until it has been asked for again
 *     write(k)       kill(k) at send and at reply; no fill of k begins in between
 *
 * Not thread-safe: coherence.h, where each of these calls is explained, lets one thread in at a
 * time. What a fill has learned belongs to the thread that began it; others can but detach it.
 */
#ifndef NEARCACHE_SHARD_H
#define NEARCACHE_SHARD_H

#include "budget.h"
#include "command.h"
#include "l1.h"
#include "setting.h"

/* The rules, each of which a build for tests leaves out to see the tests fail
 * (tests/coherence/rules): `break_rules` of meson has a bit for each. */
enum coherence_rule {
    RULE_LEASE,            /* no hit without a proof that is young enough */
    RULE_PROOF_FROM_SEND,  /* which is as old as its question */
    RULE_BUSY_IS_NO_PROOF, /* and not just any answer */
    RULE_DEADLINE_FROM_SEND,
    RULE_PTTL,
    RULE_PENDING,      /* no fill while a write of the key is under way */
    RULE_KILL_AT_SEND, /* of a write */
    RULE_KILL_AT_REPLY,
    RULE_EPOCH_AT_SEND, /* of a write of unknown keys */
    RULE_EPOCH_AT_REPLY,
    RULE_MESSAGE_KILLS,    /* what is stored */
    RULE_MESSAGE_DETACHES, /* what is under way */
    RULE_NIL_MESSAGE,
    RULE_FORGED_MESSAGE,
    RULE_SUSPECT_AT_LOSS, /* of the link */
    RULE_SUSPECT_AT_LIVE,
    RULE_FILL_WHILE_LIVE,
    RULE_SUPERSEDE,    /* a read never goes behind what an earlier one has shown */
    RULE_SESSION_READ, /* nor behind what a private connection has */
    RULE_EXEC,         /* writes what its block writes */
    RULE_BLOCKING_POP, /* is a write */
    RULE_OWN_PUBLISH,  /* evicts before its reply */
    RULE_UNTRACKED,    /* a connection that tracked its fills is lost */
};

#ifndef NEARCACHE_BREAK_RULES
#define NEARCACHE_BREAK_RULES 0
#endif
#define RULE_IN_FORCE(rule) ((NEARCACHE_BREAK_RULES & 1 << (rule)) == 0)

struct shard;
struct fill; /* a fill token: one reply on its way into the L1 */

struct coherence_options {
    uint64_t ttl;          /* longest life of an entry, ms */
    uint64_t negative_ttl; /* the same of what says that a key is not there; 0: not kept */
    uint64_t lease;        /* how long a proof that the link is alive counts, ms */
    size_t max_value;      /* longest reply kept, bytes */
    uint64_t
        max_stale; /* how long replies of these keys (borrowed; NULL: none) may be served after */
    const struct config_list *stale_keys; /* they were known to be right, ms */
};

struct coherence_counts {
    uint64_t fills, fills_discarded, epochs;
};

/* How a fill's reply comes. */
struct fill_terms {
    enum command_absent absent; /* how it says that the key is not there */
    unsigned resp;              /* version of RESP */
    const void *path;           /* replies on one path keep the order of their requests */
    uint64_t now;               /* when the request is sent */
    struct budget *budget;      /* counts the reply while it comes; borrowed */
};

/* The L1 and the options are borrowed. NULL: out of memory. */
struct shard *shard_new(struct l1 *l1, const struct coherence_options *options);
/* No fill may be left. */
void shard_free(struct shard *s);
struct l1 *shard_l1(const struct shard *s);
const struct coherence_counts *shard_counts(const struct shard *s);

void shard_link_up(struct shard *s, uint64_t proven);
void shard_link_down(struct shard *s);
void shard_renew(struct shard *s, uint64_t proven);
bool shard_serving(const struct shard *s, uint64_t now);
uint64_t shard_lease_age(const struct shard *s, uint64_t now);
void shard_kill(struct shard *s, uint64_t hash);
size_t shard_kill_prefix(struct shard *s, const char *prefix, size_t len);
void shard_kill_key(struct shard *s, uint64_t hash);
void shard_new_epoch(struct shard *s);
void shard_suspect(struct shard *s);

bool shard_lookup(struct shard *s, const struct l1_view *view, uint64_t now, struct l1_hit *hit);
bool shard_lookup_stale(struct shard *s, const struct l1_view *view, uint64_t now,
                        struct l1_hit *hit);
struct fill *shard_join(const struct shard *s, const struct l1_view *view,
                        const struct fill_terms *terms);
struct fill *shard_begin_fill(struct shard *s, const struct l1_view *view,
                              const struct fill_terms *terms);
void shard_detach_fill(struct shard *s, const struct l1_view *view, const void *path);
bool shard_read_kills(const struct shard *s);
uint64_t shard_fill_hash(const struct fill *f);
void **shard_fill_waiters(struct fill *f);
void shard_fill_value(struct shard *s, struct fill *f, const char *p, size_t n);
void shard_fill_value_end(struct shard *s, struct fill *f, bool keep, uint64_t now);
void shard_fill_ttl(struct fill *f, const char *p, size_t n);
void shard_fill_ttl_end(struct shard *s, struct fill *f, bool whole, uint64_t now);

__attribute__((warn_unused_result)) bool shard_write_begin(struct shard *s, uint64_t hash);
void shard_write_end(struct shard *s, uint64_t hash);
void shard_write_all_begin(struct shard *s);
void shard_write_all_end(struct shard *s);
void shard_hold_fills(struct shard *s);
void shard_release_fills(struct shard *s);
const char *shard_obstacle(const struct shard *s, uint64_t hash, uint64_t now);

#endif
