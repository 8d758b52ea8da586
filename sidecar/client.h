/* client.h - client connections: bytes in, commands out to the walk, replies back.
 *
 *     socket -> conn -> parse a batch -> plan, prefetch, run (request.c) -> FIFO (caller.c) ->
 * socket
 */
#ifndef NEARCACHE_CLIENT_H
#define NEARCACHE_CLIENT_H

#include "proxy.h"

/* A connection of a new client; for listener_new, ctx is the struct proxy. */
void client_accept(void *ctx, evutil_socket_t fd, bool tls);

/* Clients that wait for others, or that are at rest, leave; to be called again and again while
 * shutting down. */
void clients_drain(struct proxy *p, uint64_t now);
/* Disconnects them all. */
void clients_close(struct proxy *p);

#endif
