/* link.h - the invalidation link: one connection that hears which keys have changed, and proves
 * every 250 ms that it is alive.
 *
 *   connect: AUTH, CLIENT SETNAME, INFO server, COMMAND, CLIENT ID        (what is the upstream?)
 *            [CLIENT TRACKING ON REDIRECT <id> BCAST PREFIX <p>]          (unless tracking is off)
 *            SUBSCRIBE __redis__:invalidate cache:invalidate cache:invalidate:l1
 *            PING <nonce>                                                 (its PONG: the link is
 * live)
 *
 * With invalidation.tracking_mode=optin the data connections track what they fill from, and
 * redirect to this one; it subscribes only.
 *
 * Without an L1 there is nothing to hear of: OPTIN takes the place of BCAST PREFIX <p>, and as this
 * connection reads no key, it is told of none. That the server can track counts all the same: our
 * writes need no announcement then.
 *
 * It belongs to the first worker. What the others rely on in the middle of a command (the table of
 * commands, whether fills are tracked, the server's version) changes while they stand between two.
 *
 * The one module that touches hiredis: its reader and its formatter, over our own connection,
 * because its asynchronous context drops PONG while subscribed (0.14).
 */
#ifndef NEARCACHE_LINK_H
#define NEARCACHE_LINK_H

#include "coherence.h"
#include "command.h"
#include "config.h"
#include "conn.h"
#include "log.h"
#include "metrics.h"
#include "namespace.h"
#include "upstream.h"
#include "workers.h"

struct link;

struct link_options {
    const struct upstream_address *address; /* borrowed, as all of these */
    struct tls_context *tls;                /* NULL: plain text */
    const char *service;
    const struct namespace *ns;
    const char *origin; /* of events that are our own */
    enum tracking tracking;
    enum tracking_mode tracking_mode;
    bool has_l1;
    struct upstream *const *upstreams; /* of all workers, whose connections track, with optin */
    size_t n_upstreams;
    struct workers *workers;
    uint64_t connect_timeout; /* ms, for connect and for becoming live */
};

/* NULL: out of memory. Connects with the first link_tick. */
struct link *link_new(struct loop *loop, const struct link_options *options,
                      struct coherence *coherence, struct command_table *commands, struct log *log,
                      struct metrics *metrics);
void link_free(struct link *link);
/* PINGs, deadlines, reconnects; to be called every few dozen milliseconds. */
void link_tick(struct link *link, uint64_t now);

/* "down", "connecting", "events" or "tracking". */
const char *link_mode(const struct link *link);
bool link_is_tracking(const struct link *link);
/* Fills are to be tracked one by one: only a connection that tracks may carry them. */
bool link_tracks_fills(const struct link *link);
/* For these two any thread will do. Connects anew, soon: the server is not what it was. */
void link_restart(struct link *link, const char *why);
/* A data connection does not track any more; `refused`: the server won't have it. */
void link_untracked(struct link *link, const char *refused);
/* Version of the upstream as its INFO says, "unknown" before it was asked. */
const char *link_server_version(const struct link *link);
const char *link_last_error(const struct link *link);
/* True once it has been live or has failed for the first time: for the lines at start. */
bool link_settled(const struct link *link);

#endif
