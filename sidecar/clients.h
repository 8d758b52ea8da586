/* clients.h - the CLIENT command, about the clients of this proxy. */
#ifndef NEARCACHE_CLIENTS_H
#define NEARCACHE_CLIENTS_H

#include "proxy.h"

/* CLIENT ID GETNAME SETNAME SETINFO LIST INFO KILL NO-EVICT NO-TOUCH REPLY UNBLOCK; arity has been
 * checked. False: it is none of these. (What is about tracking is the session's.) */
bool clients_run(struct proxy *p, struct caller *c, const struct command *command,
                 const struct resp_slice *argv, size_t argc);

/* The client with this id and the worker whose it is, while all others stand still (workers.h).
 * NULL: there is none. */
struct caller *clients_find(const struct proxy *p, uint64_t id, struct proxy **owner);

#endif
