/* notice.h - what an invalidation message says: which of our keys are stale (DESIGN section 6).
 *
 *   cache:invalidate      {"service":"user-service","key":"user:123","timestamp":1760000000000}
 *                         or "prefix" in place of "key": all keys that begin so; "origin": who says
 * so cache:invalidate:l1   the raw key
 */
#ifndef NEARCACHE_NOTICE_H
#define NEARCACHE_NOTICE_H

#include "namespace.h"

#define NOTICE_CHANNEL    "cache:invalidate"
#define NOTICE_CHANNEL_L1 "cache:invalidate:l1"

enum notice_result {
    NOTICE_OTHER_CHANNEL, /* not an invalidation channel */
    NOTICE_FOREIGN,       /* well-formed, but about another service */
    NOTICE_OWN,           /* our own echo: what it tells of was evicted with the write itself */
    NOTICE_MALFORMED,
    NOTICE_KEYS, /* each stale key was told */
};

/* Told what is stale, by the names that our clients use; borrowed for the call. */
struct notice_sink {
    void (*key)(void *ctx, struct resp_slice key);
    void (*prefix)(void *ctx, struct resp_slice prefix);
    void *ctx;
};

/* Tells the sink what a message on `channel` says. A raw key is told twice where it lies in our
 * namespace: as given and with the prefix taken off, because nobody knows which was meant. `origin`
 * is our own; NULL: every event counts. */
enum notice_result notice_read(const struct namespace *ns, const char *service, const char *origin,
                               struct resp_slice channel, struct resp_slice payload,
                               const struct notice_sink *sink);

#endif
