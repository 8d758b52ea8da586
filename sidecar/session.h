/* session.h - a private upstream connection lent to a client while its own connection has state.
 *
 *     WATCH, MULTI .. EXEC      until nothing is watched or queued
 *     BLPOP .., scripts, WAIT   until the reply: they may take long, and hold nobody else up
 *     SUBSCRIBE ..              until the last UNSUBSCRIBE
 *     CLIENT TRACKING ON        until OFF
 *     anything, during a CLIENT PAUSE (which admin_commands must allow)
 *
 * While it lasts, everything that the client asks of Redis goes down this connection, in order,
 * past the L1: what is watched or tracked must be read where it is watched. It begins when nothing
 * is owed to the client on the shared connection, and ends when nothing is owed on its own; a
 * client that leaves in the middle takes the connection's state with it.
 */
#ifndef NEARCACHE_SESSION_H
#define NEARCACHE_SESSION_H

#include "forward.h"

/* Does this command, or the state that its client is in, need a session? */
bool session_takes(struct proxy *p, const struct caller *c, const struct request_plan *plan);
/* Runs such a command. LATER: also when all connections are lent; the client is woken in time. */
__attribute__((warn_unused_result)) enum request_outcome
session_run(struct proxy *p, struct caller *c, const struct request_plan *plan);

/* Nothing is owed to the client: gives back a connection that has no state. */
void session_settle(struct proxy *p, struct caller *c);
/* RESET, or the client has gone (after caller_leave): all state ends. */
void session_end(struct proxy *p, struct caller *c);
/* Clients that wait for a connection. */
void session_tick(struct proxy *p, uint64_t now);

/* --- what comes up from the upstream ------------------------------------------------------------
 */

/* A command that changes the session is answered; `type` as in resp_framer. */
void session_effect(struct request *r, char type);
/* REPLY_SUBSCRIBE: an error, or all confirmations have come as messages. */
void session_subscribe_end(struct proxy *p, struct request *r, char type, const char *error);
/* REPLY_EXEC. */
void session_exec_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n);
void session_exec_end(struct proxy *p, struct request *r, char type, const char *error);

/* For upstream_callbacks; ctx is the struct proxy. */
bool session_is_push(void *ctx, void *holder, void *owner, unsigned tag, const char *two);
void session_push(void *ctx, void *holder, const char *bytes, size_t n, bool end);
void session_severed(void *ctx, void *holder);

#endif
