/* push.h - a message that the server sends unasked: what is it, and how its client knows it.
 *
 * RESP3 pushes and, where a RESP2 client has subscribed, arrays. Channels and keys in it are
 * un-prefixed; what is about other services' keys is not for this client.
 */
#ifndef NEARCACHE_PUSH_H
#define NEARCACHE_PUSH_H

#include "chain.h"
#include "channel.h"

enum push_kind {
    PUSH_OTHER, /* a message, an invalidation, or unheard of */
    PUSH_SUBSCRIBE,
    PUSH_PSUBSCRIBE,
    PUSH_SSUBSCRIBE,
    PUSH_UNSUBSCRIBE,
    PUSH_PUNSUBSCRIBE,
    PUSH_SUNSUBSCRIBE,
};

struct push {
    enum push_kind kind;
    int64_t count; /* of a confirmation: subscriptions of its sort that are left */
};

/* What the whole frame p[0..n) is. */
struct push push_read(const char *p, size_t n);

/* Appends it as the client is to see it, or nothing. `redirect`: what the client calls the one that
 * its invalidations go to. */
void push_write(const struct namespace *ns, bool namespaced, int64_t redirect, const char *p,
                size_t n, struct chain *out);

#endif
