/* session.h - commands that need a connection of their own, while their state lasts or until they
 * are answered.
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

#include "lend.h"

/* Does this command, or the state that its client is in, need a session? */
bool session_takes(struct proxy *p, const struct caller *c, const struct request_plan *plan);
/* Runs such a command. LATER: also when all connections are lent; the client is woken in time. */
__attribute__((warn_unused_result)) enum request_outcome
session_run(struct proxy *p, struct caller *c, const struct request_plan *plan);

/* It has closed its side while a command of its own blocks. A server would end it, unless the reply
 * is on its way: that is still delivered, because an element may have been taken for it. The server
 * is asked to unblock it, until it did or the reply has come. */
void session_hang_up(struct proxy *p, struct caller *c);
/* The client leaves. */
void session_forget(struct proxy *p, struct caller *c);
/* To be called every few dozen milliseconds. */
void session_tick(struct proxy *p);

/* A command that changes the session is answered; `type` as in resp_framer. */
void session_effect(struct request *r, char type);

#endif
