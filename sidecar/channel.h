/* channel.h - names of pub/sub channels, between what clients call them and what Redis does.
 *
 *     chat                      ->  chat                            (svc:chat with
 * channels.namespace)
 *     __keyspace@0__:user:1    <->  __keyspace@0__:svc:user:1       always
 *     __keyevent@0__:expired   <->  the same; its payload is a key
 *     cache:invalidate ...          the invalidation channels are everybody's
 *
 * Keyspace notifications: https://redis.io/docs/latest/develop/pubsub/keyspace-notifications/ .
 */
#ifndef NEARCACHE_CHANNEL_H
#define NEARCACHE_CHANNEL_H

#include "namespace.h"

/* A name in three pieces, to be written one behind the other; any may be empty. All borrowed. */
struct channel_name {
    struct resp_slice head, prefix, tail;
};

/* The name at the server of a channel, or of a pattern of channels, that a client names.
 * `namespaced`: the setting channels.namespace. A pattern that may match keyspace notifications
 * among others ("__key*") stays as it is. */
struct channel_name channel_out(const struct namespace *ns, bool namespaced, struct resp_slice name,
                                bool pattern);

/* What a client calls the channel, or pattern, `full` (as head and tail). False: it is another
 * service's, or about its keys, and not for this client. */
bool channel_in(const struct namespace *ns, bool namespaced, struct resp_slice full, bool pattern,
                struct channel_name *name);

/* A channel whose messages are key names. */
bool channel_is_keyevent(struct resp_slice full);

#endif
