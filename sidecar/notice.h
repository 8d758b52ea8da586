/* notice.h - what an invalidation message says: which of our keys are stale (DESIGN section 6).
 *
 *   cache:invalidate      {"service":"user-service","key":"user:123","timestamp":1760000000000}
 *   cache:invalidate:l1   the raw key
 */
#ifndef NEARCACHE_NOTICE_H
#define NEARCACHE_NOTICE_H

#include "namespace.h"

#define NOTICE_CHANNEL    "cache:invalidate"
#define NOTICE_CHANNEL_L1 "cache:invalidate:l1"

enum notice_result {
    NOTICE_OTHER_CHANNEL, /* not an invalidation channel */
    NOTICE_FOREIGN,       /* well-formed, but about another service */
    NOTICE_MALFORMED,
    NOTICE_KEYS, /* each stale key was told */
};

/* Tells `stale` each key, by the name that our clients use for it. A raw key is told twice where it
 * lies in our namespace: as given and with the prefix taken off, because nobody knows which was
 * meant. `key` is borrowed for the call. */
enum notice_result notice_read(const struct namespace *ns, const char *service,
                               struct resp_slice channel, struct resp_slice payload,
                               void (*stale)(void *ctx, struct resp_slice key), void *ctx);

#endif
