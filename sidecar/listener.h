/* listener.h - addresses where clients connect: TCP, TLS and unix sockets. */
#ifndef NEARCACHE_LISTENER_H
#define NEARCACHE_LISTENER_H

#include "address.h"
#include "log.h"
#include "loop.h"

struct listener;

struct listener_options {
    const char *unix_mode; /* permissions of unix sockets, octal; NULL: what the umask leaves */
    int backlog;           /* connections that may wait to be accepted */
    bool reuse_port; /* share the address with those who do so as well; take over the path of a
                        unix socket */
    bool group; /* others of this process are to listen at the same address (listener_beside) */
};

/* Called for each connection; the descriptor, non-blocking, is the receiver's. */
typedef void listener_accepted(void *ctx, evutil_socket_t fd, bool tls);

/* Listens at `address`. NULL: it can't, and `error` says why. Resolving a name may block: for
 * start-up. */
#define LISTENER_ERROR_MAX 256
struct listener *listener_new(struct loop *loop, const struct listen_address *address,
                              const struct listener_options *options, struct log *log,
                              listener_accepted *accepted, void *ctx,
                              char error[LISTENER_ERROR_MAX]);
/* One more at the same place: the kernel gives each connection to one of them. NULL: as above. */
struct listener *listener_beside(struct loop *loop, const struct listener *first,
                                 const struct listener_options *options, void *ctx,
                                 char error[LISTENER_ERROR_MAX]);
/* Stops listening; connections that wait are accepted first. Removes a unix socket's file, if it is
 * still this one's. */
void listener_free(struct listener *l);
/* New connections go to another process that shares the port, if there is one; those that were on
 * their way are still accepted. `first`: the number of sockets at this address that are ours. */
void listener_divert(struct listener *l, unsigned ours);
/* Accepts again after it had no descriptors left. To be called every few dozen milliseconds. */
void listener_tick(struct listener *l, uint64_t now);
/* Where it really listens: "127.0.0.1:40123" when port 0 was asked for. */
const char *listener_label(const struct listener *l);

#endif
