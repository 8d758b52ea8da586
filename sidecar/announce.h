/* announce.h - tells the other instances of the service which keys its clients have written.
 *
 *     PUBLISH cache:invalidate
 * {"service":"user-service","key":"user:1","timestamp":<ms>,"origin":..}
 *
 * The events of one turn leave together, behind the writes of that turn on the same connection. All
 * keys: "prefix":"" in place of "key". A name that JSON can't carry (no UTF-8, or a NUL in it) goes
 * to cache:invalidate:l1 as it is in Redis.
 */
#ifndef NEARCACHE_ANNOUNCE_H
#define NEARCACHE_ANNOUNCE_H

#include "namespace.h"
#include "upstream.h"

struct announce;

/* Everything is borrowed; `origin`: that of another one of this process, NULL: a new one. NULL: out
 * of memory. */
struct announce *announce_new(struct loop *loop, struct upstream *upstream,
                              const struct namespace *ns, const char *service, const char *origin,
                              struct metrics *metrics);
void announce_free(struct announce *a);

/* A name for this process, 16 hexadecimal digits: the "origin" of its events. */
const char *announce_origin(const struct announce *a);

/* A shared connection: what upstream_get() is asked for. */
struct announce_lane {
    uint32_t db, slot;
    unsigned resp;
    uint32_t serial; /* of the connection that carries the write; 0: any will do */
};
/* At the end of this turn, behind what is sent down this lane until then. Best effort: without
 * memory or connection an event is lost, as any message may be. */
void announce_key(struct announce *a, struct announce_lane lane, struct resp_slice key);
void announce_all(struct announce *a, struct announce_lane lane);

/* The payload of one event, malloc'ed; key NULL: all keys. NULL: JSON can't carry it, or out of
 * memory. `timestamp`: ms since 1970. */
char *announce_event(const char *service, const struct resp_slice *key, uint64_t timestamp,
                     const char *origin);

#endif
