/* coherence.h - which stored replies may be served: fills, kills, epochs and the lease.
 *
 * The rules of DESIGN section 5 over the L1's storage. Every read that is to be stored takes a fill
 * first; whatever might change the key in the meantime detaches the fill, and a detached fill
 * stores nothing. Time comes in as `now`, monotonic milliseconds.
 *
 *     kill(k)        every view of k is gone, its fill is detached
 *     new epoch      everything is gone, every fill is detached
 *     link lost      everything is suspect: not served until it has been asked for again
 *     write(k)       kill(k) at send and at reply; no fill of k begins in between
 */
#ifndef NEARCACHE_COHERENCE_H
#define NEARCACHE_COHERENCE_H

#include "budget.h"
#include "command.h"
#include "l1.h"
#include "metrics.h"
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

struct coherence;
struct fill; /* a fill token: one reply on its way into the L1 */

struct coherence_options {
    uint64_t ttl;          /* longest life of an entry, ms */
    uint64_t negative_ttl; /* the same of what says that a key is not there; 0: not kept */
    uint64_t lease;        /* how long a proof that the link is alive counts, ms */
    size_t max_value;      /* longest reply kept, bytes */
    uint64_t
        max_stale; /* how long replies of these keys (borrowed; NULL: none) may be served after */
    const struct config_list *stale_keys; /* they were known to be right, ms */
    struct budget *budget;                /* counts replies on their way into the L1; borrowed */
};

/* The L1 and the metrics are borrowed. NULL: out of memory. */
struct coherence *coherence_new(struct l1 *l1, struct metrics *metrics,
                                const struct coherence_options *options);
/* No fill may be left. */
void coherence_free(struct coherence *c);
void coherence_set_options(struct coherence *c, const struct coherence_options *options);

/* --- the link's side ---------------------------------------------------------------------------
 */

/* The link is live from now on: what was there is suspect. `proven`: when the PING that showed it
 * was sent. */
void coherence_link_up(struct coherence *c, uint64_t proven);
void coherence_link_down(struct coherence *c);
/* A PING sent at `proven` was answered. */
void coherence_renew(struct coherence *c, uint64_t proven);
/* The link is up and its last proof is not older than the lease. */
bool coherence_serving(const struct coherence *c, uint64_t now);
/* ms since the last proof; UINT64_MAX: there never was one. */
uint64_t coherence_lease_age(const struct coherence *c, uint64_t now);

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

/* A stored reply that may be served. */
bool coherence_lookup(struct coherence *c, const struct l1_view *view, uint64_t now,
                      struct l1_hit *hit);

/* A stored reply that was known to be right options.max_stale ago, or later: for when nobody can be
 * asked. */
bool coherence_lookup_stale(struct coherence *c, const struct l1_view *view, uint64_t now,
                            struct l1_hit *hit);

/* A fill of this view that is under way and whose reply has not begun: its owner may answer more
 * than one client with it, if they speak the same version of RESP (a nil differs). NULL: there is
 * none. */
struct fill *coherence_join(const struct coherence *c, const struct l1_view *view, unsigned resp);

/* How a fill's reply comes. */
struct fill_terms {
    enum command_absent absent; /* how it says that the key is not there */
    unsigned resp;              /* version of RESP */
    const void *path;           /* replies on one path keep the order of their requests */
    uint64_t now;               /* when the request is sent */
};

/* Begins a fill. The caller owes it one coherence_fill_value_end and one coherence_fill_ttl_end.
 * NULL: nothing could be stored (no L1, no link, a write of the key under way) - just forward the
 * read. A fill of the same view that is under way is detached. */
struct fill *coherence_begin_fill(struct coherence *c, const struct l1_view *view,
                                  const struct fill_terms *terms);
/* The view is about to be read without a fill: one that is under way is detached, or what it brings
 * could be older than what this reader sees. */
void coherence_detach_fill(struct coherence *c, const struct l1_view *view, const void *path);
const void *coherence_fill_path(const struct fill *f);
/* At the reply to a read without a fill: it may be newer than what was kept meanwhile, and the key
 * is to be killed. (While the link is down nothing that is kept is served.) */
bool coherence_read_kills(const struct coherence *c);
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
const char *coherence_obstacle(const struct coherence *c, uint64_t hash, uint64_t now);

#endif
