/* backoff.h - how long to wait before connecting again: doubling, with jitter. */
#ifndef NEARCACHE_BACKOFF_H
#define NEARCACHE_BACKOFF_H

#include <stdint.h>

struct backoff {
    uint64_t random;   /* state of a xorshift generator; seed with anything */
    unsigned failures; /* in a row; the owner resets it to 0 on success */
};

/* Counts a failure and returns the milliseconds to wait: a random half to all of a span that
 * doubles with every failure, from `least` to `most`, so that many instances do not come back at
 * the same moment. */
uint64_t backoff_next(struct backoff *b, uint64_t least, uint64_t most);

#endif
