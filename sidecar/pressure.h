/* pressure.h - what becomes of clients that hold too much memory: they are not read from, then they
 * have to go.
 *
 *     unread output of one client   > client.soft_output   it is not read from; after
 *                                                          client.soft_time it is disconnected
 *                                   > client.max_output    it is disconnected
 *     all buffers (budget.h)        > 3/4                  who holds more than a share is not read
 *                                                          from; while that does not help, the
 *                                                          largest is disconnected every second
 *                                   > memory.max_buffers   the largest are disconnected, at once
 *
 * The terms are those of Redis' client-output-buffer-limit and maxmemory-clients.
 */
#ifndef NEARCACHE_PRESSURE_H
#define NEARCACHE_PRESSURE_H

#include "proxy.h"

/* To be called when something of the client's has grown; `rest`: bytes of its input about to be
 * kept. Sets c->pressed. False: it was disconnected. */
bool pressure_check(struct proxy *p, struct caller *c, size_t rest);
/* Lets clients go on that may, disconnects those whose time is over; also idle ones
 * (client.idle_timeout). To be called every few dozen milliseconds. */
void pressure_tick(struct proxy *p, uint64_t now);
/* The client leaves. */
void pressure_forget(struct proxy *p, struct caller *c);

/* Disconnects a client, and says why. */
void pressure_kick(struct proxy *p, struct caller *c, const char *why);

#endif
