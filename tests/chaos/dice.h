/* dice.h - the pseudo-random numbers of a run, which its seed repeats. */
#ifndef CHAOS_DICE_H
#define CHAOS_DICE_H

#include <stdbool.h>
#include <stdint.h>

struct dice {
    uint64_t state; /* never 0 */
};

static inline uint64_t dice_next(struct dice *d)
{
    d->state ^= d->state >> 12;
    d->state ^= d->state << 25;
    d->state ^= d->state >> 27;
    return d->state * 0x2545f4914f6cdd1d;
}

/* 0 .. n - 1 */
static inline uint64_t dice_below(struct dice *d, uint64_t n)
{
    return (dice_next(d) >> 16) % n;
}

static inline bool dice_chance(struct dice *d, unsigned per_mille)
{
    return dice_below(d, 1000) < per_mille;
}

#endif
