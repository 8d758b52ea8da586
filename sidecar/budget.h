/* budget.h - how many bytes buffers hold, and how many they may.
 *
 * Whoever keeps bytes on behalf of a client or the upstream counts them here. Nothing is refused:
 * whoever made them be kept is to wait, and then to go (pressure.h).
 */
#ifndef NEARCACHE_BUDGET_H
#define NEARCACHE_BUDGET_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

struct budget {
    size_t limit; /* bytes; 0: none */
    size_t used;
    size_t peak;            /* most that was ever used, .. */
    size_t peak_since_trim; /* .. and since the owner last reset this */
};

static inline void budget_note_peak(struct budget *b)
{
    b->peak_since_trim = b->used;
    if (b->used > b->peak)
        b->peak = b->used;
}

static inline void budget_take(struct budget *b, size_t n)
{
    b->used += n;
    if (b->used > b->peak_since_trim)
        budget_note_peak(b);
}

static inline void budget_give(struct budget *b, size_t n)
{
    assert(n <= b->used);
    b->used -= n;
}

/* Three quarters are used: who holds much is to wait. */
static inline bool budget_is_tight(const struct budget *b)
{
    return b->limit && b->used > b->limit / 4 * 3;
}

/* More is used than there is: somebody has to go. */
static inline bool budget_is_spent(const struct budget *b)
{
    return b->limit && b->used > b->limit;
}

#endif
