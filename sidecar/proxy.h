/* proxy.h - the parts that a walking request meets, put together by main. */
#ifndef NEARCACHE_PROXY_H
#define NEARCACHE_PROXY_H

#include "caller.h"
#include "coherence.h"
#include "config.h"
#include "log.h"
#include "namespace.h"
#include "upstream.h"
#include "workers.h"

struct announce;
struct link;
struct outgoing;

struct proxy;

/* What the workers of a process have in common. */
struct crew {
    struct workers *workers;
    struct proxy **v; /* each worker's */
    size_t n;
    size_t max_buffers;  /* bytes, of all together */
    char *auth_password; /* that clients must give; NULL: none. identity.c's */
    _Atomic uint64_t last_caller_id;
    _Atomic size_t n_callers, n_monitors; /* of all together */
};

/* A worker's. Everything is borrowed from main. */
struct proxy {
    struct crew *crew;
    size_t number; /* crew->v[number] is this one */
    struct loop *loop;
    const struct config *config;
    struct log *log;
    struct metrics *metrics;
    struct namespace *ns;
    struct command_table *commands;
    struct coherence *coherence;
    const struct upstream_address *address;
    struct upstream *upstream;
    struct tls_context *tls; /* of the listeners that speak TLS; NULL: there are none */
    struct link *link;
    struct announce *announce;
    struct caller_list callers;
    size_t n_callers;
    uint64_t started; /* monotonic ms */

    struct log_limit handshake_log, attack_log;
    uint64_t paused_until;        /* monotonic ms; a CLIENT PAUSE that was forwarded is in force */
    size_t n_monitors;            /* clients that MONITOR .. */
    bool monitors_miss_some;      /* .. elsewhere, and were not told all of what was done here */
    TAILQ_HEAD(, caller) waiting; /* for a private connection, oldest first; session.c's */
    TAILQ_HEAD(, caller) hung_up; /* half-closed while they block; session.c's, too */
    const struct caller *running; /* whose command is being run */

    TAILQ_HEAD(, caller) pressed; /* not read from: these four are pressure.c's */
    uint64_t evicted_at, stuck_since, next_idle_check;

    LIST_HEAD(, outgoing) outgoing; /* commands that are being written bit by bit; outgoing.c's */

    struct command_keys keys; /* scratch of one request's key list */
    struct resp_args args;    /* scratch of the batch at hand; client.c's */
};

/* Which of several shared connections is a client's. */
static inline uint32_t proxy_slot(const struct caller *c)
{
    return (uint32_t)(c->id % (UPSTREAM_SCAN_LANE - 1));
}

/* A shared connection. For as long as the caller is owed something it stays on the one that it used
 * last, so that its order is kept. */
static inline struct upstream_conn *proxy_shared_lane(struct proxy *p, struct caller *c,
                                                      uint32_t db, unsigned resp)
{
    struct upstream_conn *uc =
        upstream_get(p->upstream, db, resp, proxy_slot(c), c->head ? c->shared : 0);
    if (uc)
        c->shared = upstream_serial(uc);
    return uc;
}

/* The connection that carries all of a client's requests in this database, in order: a shared one,
 * or its own while it has a session. NULL: out of memory. */
static inline struct upstream_conn *proxy_lane(struct proxy *p, struct caller *c, uint32_t db)
{
    return c->lane ? c->lane : proxy_shared_lane(p, c, db, c->resp);
}

/* A shared connection for a query of our own, whose reply is read as RESP2. */
static inline struct upstream_conn *proxy_query_lane(struct proxy *p, struct caller *c)
{
    return proxy_shared_lane(p, c, c->db, 2);
}

/* The one for walks over the whole key space. */
static inline struct upstream_conn *proxy_scan_lane(struct proxy *p, uint32_t db, unsigned resp)
{
    return upstream_get(p->upstream, db, resp, UPSTREAM_SCAN_LANE, 0);
}

/* True if nothing can be sent there now (uc may be NULL): the caller has been told why. */
static inline bool proxy_refused(struct proxy *p, struct caller *c, struct upstream_conn *uc)
{
    const char *refusal = uc ? upstream_refusal(uc) : UPSTREAM_NO_MEMORY;
    if (!refusal)
        return false;
    p->metrics->upstream_errors++;
    caller_answer_text(c, refusal);
    return true;
}

/* Reads may be answered here. Without one there is nothing that could be wrong, either. */
static inline bool proxy_has_l1(const struct proxy *p)
{
    return p->config->l1_max_memory > 0;
}

/* The view that GET has of a key in the caller's database, for as long as both stay put. Database 0
 * is the empty view: the common case costs nothing. A nil is kept as it came: whoever hands it on
 * says it in the client's own protocol. */
static inline struct l1_view proxy_get_view(const struct caller *c, struct resp_slice key,
                                            uint64_t hash)
{
    return (struct l1_view){.key = key.data,
                            .key_len = key.len,
                            .hash = hash,
                            .view = (const char *)&c->db,
                            .view_len = c->db ? sizeof c->db : 0};
}

#endif
