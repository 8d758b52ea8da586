/* client.h - listeners and client connections: bytes in, commands out to the walk, replies back.
 *
 *     socket -> conn -> parse a batch -> plan, prefetch, run (request.c) -> FIFO (caller.c) ->
 * socket
 */
#ifndef NEARCACHE_CLIENT_H
#define NEARCACHE_CLIENT_H

#include "proxy.h"

struct listener;

/* Listens at `address`. NULL: it can't, and `error` says why. */
#define CLIENT_ERROR_MAX 256
struct listener *listener_new(struct proxy *p, const struct listen_address *address,
                              char error[CLIENT_ERROR_MAX]);
/* Stops accepting; removes a unix socket's file. */
void listener_free(struct listener *l);
/* Where it really listens: "127.0.0.1:40123" when port 0 was asked for. */
const char *listener_label(const struct listener *l);

/* Every client takes no more requests and leaves when it has got what it is owed. */
void clients_drain(struct proxy *p);
/* Disconnects them all. */
void clients_close(struct proxy *p);

#endif
