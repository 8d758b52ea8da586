/* lend.h - a private upstream connection lent to a client: opened, waited for, given back.
 *
 * What is kept of it, struct session, is shared by the modules that give its states their meaning:
 * subscription, tracker, multi and session.
 */
#ifndef NEARCACHE_LEND_H
#define NEARCACHE_LEND_H

#include "forward.h"

enum { SESSION_MAGIC = 0x73657373 };

/* CLIENT TRACKING as asked for. */
struct tracking_request {
    bool on, bcast, add_namespace;
    size_t prefixes;
    uint64_t redirect; /* caller id */
};

struct session {
    uint32_t magic;
    struct proxy *proxy;
    struct caller *caller;
    struct upstream_conn *uc;
    bool pinned; /* for as long as the client is there: others redirect to it, or its state is more
                    than is known here */
    struct transaction *transaction;                /* being queued */
    struct request *subscribing, *last_subscribing; /* not yet confirmed, in order */
    bool whole_namespace;                           /* tracks by the namespace's own prefix */
    struct tracking_request next;                   /* the CLIENT TRACKING under way */
    char *message;                                  /* a message as far as it has come */
    size_t message_len, message_cap;
};

/* What the end of a request does to its session (request.effect). */
enum session_effect {
    SESSION_EFFECT_NONE,
    SESSION_EFFECT_MULTI,
    SESSION_EFFECT_NESTED, /* a MULTI within */
    SESSION_EFFECT_END,    /* of MULTI, WATCH */
    SESSION_EFFECT_TRACKING
};

/* The session whose connection calls back. */
struct session *lend_session_of(void *holder);
bool lend_is_subscribed(const struct caller *c);

/* Opens one, when nothing is owed to the caller on a shared connection; in the turn of `waiter`:
 * its own, or that of a client who needs it to have one. False: there is none (yet). */
bool lend_open(struct proxy *p, struct caller *c, const struct caller *waiter);
/* If nothing is owed to the client, and it neither runs a command nor waits to: gives back a
 * connection that has no state. */
void lend_settle(struct proxy *p, struct caller *c);
/* RESET, or the client has gone (after caller_leave): all state ends. */
void lend_end(struct proxy *p, struct caller *c);
/* The connection broke; for upstream_callbacks, ctx is the struct proxy. */
void lend_severed(void *ctx, void *holder);

/* Frees what was kept of a message. */
void lend_forget_message(struct session *s);

/* --- waiting ------------------------------------------------------------------------------------
 */

/* Has the client woken when a connection is free, or at the latest with the next tick. */
enum request_outcome lend_wait(struct proxy *p, struct caller *c);
bool lend_has_waited_enough(const struct proxy *p, const struct caller *c);
/* Its command has been run. */
void lend_stop_waiting(struct proxy *p, struct caller *c);
void lend_tick(struct proxy *p, uint64_t now);

/* --- sending ------------------------------------------------------------------------------------
 */

/* The reply has no deadline. */
void lend_be_patient(struct request *r);

/* The client with this number and its worker, while all others stand still; or NULL. */
struct caller *lend_find_caller(struct proxy *p, struct resp_slice id, struct proxy **owner);
/* Appends the number that the server has for that client's own connection, or `other` if it has
 * none; what is no number stays. */
void lend_append_id(struct proxy *p, struct chain *out, struct resp_slice id, uint64_t other);

#endif
