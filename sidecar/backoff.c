/* backoff.c - how long to wait before connecting again. */
#include "backoff.h"

static uint64_t next_random(uint64_t *x)
{
    *x |= 1;
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

uint64_t backoff_next(struct backoff *b, uint64_t least, uint64_t most)
{
    uint64_t span = least;
    for (unsigned i = 0; i < b->failures && span < most; i++)
        span *= 2;
    if (span > most)
        span = most;
    b->failures++;
    return span / 2 + next_random(&b->random) % (span / 2 + 1);
}
