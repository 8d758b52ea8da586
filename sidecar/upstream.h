/* upstream.h - which connection to the shared Redis a request goes down: shared ones, spare ones,
 * private ones; and whether at all: the circuit breaker.
 *
 * Many clients share one connection (pipeline.h) per database and protocol version; a second one,
 * the scan lane, carries KEYS and other walks over the whole key space, so that they hold nobody
 * up. While a huge reply or request is on its way, those who come later take a spare connection.
 *
 * Besides, private connections are lent to one holder at a time, who may change their state (MULTI,
 * SUBSCRIBE ...), wait on them for long and receive what the server sends unasked.
 *
 * While the breaker (breaker.h) is not closed nothing is connected but its probe, and requests are
 * refused.
 */
#ifndef NEARCACHE_UPSTREAM_H
#define NEARCACHE_UPSTREAM_H

#include "breaker.h"
#include "log.h"
#include "metrics.h"
#include "pipeline.h"

struct upstream;
struct upstream_conn;

/* The error line for a request that could not even be sent. */
#define UPSTREAM_NO_MEMORY "-NEARCACHE out of memory\r\n"

struct upstream_callbacks {
    struct pipeline_receiver replies;
    /* A shared connection does not track any more: it is gone, or (`refused`: the server's words)
     * it never will. What was read through it may change without notice. */
    void (*untracked)(void *ctx, const char *refused);
    /* The server has become a replica: its shared connections are being replaced, by name. */
    void (*demoted)(void *ctx);
    /* A private connection is gone, and is the holder's no more; all that was owed has been told
     * `lost`. */
    void (*severed)(void *ctx, void *holder);
};

struct upstream_options {
    const struct upstream_address *address; /* borrowed */
    struct tls_context *tls;                /* borrowed; NULL: plain text */
    const char *client_name;                /* for CLIENT SETNAME; borrowed */
    unsigned connections;                   /* shared ones per database */
    unsigned private_max;                   /* private ones, idle ones included */
    /* All in ms. For a TCP or TLS connection; for the handshake; for the first byte of a reply, and
     * for the next; the same on the scan lane; for a request to be sent at all. */
    uint64_t connect_timeout, handshake_timeout, timeout, scan_timeout, queue_timeout;
    struct breaker_options breaker;
};

/* Connects nothing yet: upstream_open. NULL: out of memory. */
struct upstream *upstream_new(struct loop *loop, const struct upstream_options *options,
                              const struct upstream_callbacks *callbacks, void *ctx,
                              struct log *log, struct metrics *metrics);
/* Opens the connection that most requests will need, before the first of them comes. */
void upstream_open(struct upstream *u);
/* Everything owed is told `lost` first. */
void upstream_free(struct upstream *u);
/* Takes over the times and the breaker's options, nothing else. */
void upstream_set_options(struct upstream *u, const struct upstream_options *options);
/* The address or the credentials have changed: connections are made anew, those in use when they
 * are free. */
void upstream_renew(struct upstream *u);
/* The server has been heard on another connection: it is alive, whatever takes it so long here. Any
 * thread may say so. */
void upstream_note_alive(struct upstream *u, uint64_t now);
/* Deadlines and reconnects; to be called every few dozen milliseconds. */
void upstream_tick(struct upstream *u, uint64_t now);

/* The connection for a database and a RESP version (2 or 3); made when first asked for. Callers
 * with the same `slot` share one. A caller who is owed something on a connection gives its serial
 * as `keep`, and gets the same one, so that its order is kept; 0: it is owed nothing. NULL: out of
 * memory. */
#define UPSTREAM_SCAN_LANE UINT32_MAX
struct upstream_conn *upstream_get(struct upstream *u, uint32_t db, unsigned resp, uint32_t slot,
                                   uint32_t keep);
uint32_t upstream_serial(const struct upstream_conn *uc);

/* --- private connections ------------------------------------------------------------------------
 */

/* Lends one that nobody else uses until it is given back. NULL: all of private_max are lent, or
 * very many are being opened, or out of memory. */
struct upstream_conn *upstream_lend(struct upstream *u, uint32_t db, unsigned resp, void *holder);
/* Given back in the state in which it was lent; what is still owed on it will come to its owners.
 */
void upstream_return(struct upstream_conn *uc);
/* Given back in any other state: closed at once, and what is owed is told `lost`, never `severed`.
 */
void upstream_discard(struct upstream_conn *uc);
/* Ends the wait of the head's owner: messages have told it what it waited for. */
void upstream_settle(struct upstream_conn *uc);
/* Replies that may take any time are owed now (+1), or no more (-1): they have no deadline, for as
 * long as the server is heard at all within scan_timeout. */
void upstream_patience(struct upstream_conn *uc, int change);
/* The server has agreed to these. */
void upstream_set_db(struct upstream_conn *uc, uint32_t db);
void upstream_set_resp(struct upstream_conn *uc, unsigned resp);
/* The version of the protocol that it speaks. */
unsigned upstream_resp(const struct upstream_conn *uc);
/* It is connected, and its handshake is over. */
bool upstream_is_ready(const struct upstream_conn *uc);
/* The server's CLIENT ID of a private connection; 0: not known (yet, if it is not ready). */
uint64_t upstream_client_id(const struct upstream_conn *uc);
/* A private connection owes replies. */
bool upstream_owes(const struct upstream_conn *uc);
/* Private connections lent now. */
unsigned upstream_lent(const struct upstream *u);

/* --- tracking by key ----------------------------------------------------------------------------
 */

/* Has all shared connections track what they are asked to (CLIENT TRACKING OPTIN), and tell the
 * connection with this CLIENT ID; 0: nobody any more. */
void upstream_track(struct upstream *u, uint64_t redirect);
/* All connections that track were alive at this time (monotonic ms): each is asked every 250 ms.
 * UINT64_MAX: none tracks. */
uint64_t upstream_tracking_proof(const struct upstream *u);
/* The server has agreed. */
bool upstream_tracks(const struct upstream_conn *uc);

/* --- sending ------------------------------------------------------------------------------------
 */

/* NULL: requests are taken (perhaps while still connecting). Otherwise the error line to answer,
 * valid until the next call. */
const char *upstream_refusal(struct upstream_conn *uc);

/* As pipeline_expect, pipeline_out and pipeline_sent. */
__attribute__((warn_unused_result)) bool upstream_expect(struct upstream_conn *uc, void *owner,
                                                         unsigned tag);
struct chain *upstream_out(struct upstream_conn *uc);
void upstream_sent(struct upstream_conn *uc);

/* As pipeline_has_others, pipeline_hold and pipeline_release. */
bool upstream_has_others(const struct upstream_conn *uc);
bool upstream_hold(struct upstream_conn *uc);
void upstream_release(struct upstream_conn *uc);

/* What the buffers of its loop are counted in. */
struct budget *upstream_budget(const struct upstream_conn *uc);

/* For INFO: state of the first shared connection of the default database, and the last error. */
const char *upstream_state(const struct upstream *u);
const struct breaker *upstream_breaker(const struct upstream *u);
const char *upstream_last_error(const struct upstream *u);
uint64_t upstream_pending(const struct upstream *u); /* replies owed on all connections */
unsigned upstream_connected(const struct upstream *u);

#endif
