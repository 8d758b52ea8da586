/* budget.h - how many bytes buffers hold, and how many they may.
 *
 * Whoever keeps bytes on behalf of a client or the upstream counts them here. Nothing is refused:
 * whoever made them be kept is to wait, and then to go (pressure.h).
 *
 * A budget is one thread's; others may look at `used`.
 */
#ifndef NEARCACHE_BUDGET_H
#define NEARCACHE_BUDGET_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct budget {
    size_t limit; /* bytes; 0: none */
    _Atomic size_t used;
    size_t peak;        /* most that was ever used, .. */
    size_t recent_peak; /* .. and since the owner last looked */
};

static inline size_t budget_used(const struct budget *b)
{
    return atomic_load_explicit(&b->used, memory_order_relaxed);
}

static inline void budget_note_peak(struct budget *b, size_t used)
{
    b->recent_peak = used;
    if (used > b->peak)
        b->peak = used;
}

static inline void budget_take(struct budget *b, size_t n)
{
    size_t used = budget_used(b) + n;
    atomic_store_explicit(&b->used, used, memory_order_relaxed);
    if (used > b->recent_peak)
        budget_note_peak(b, used);
}

static inline void budget_give(struct budget *b, size_t n)
{
    size_t used = budget_used(b);
    assert(n <= used);
    atomic_store_explicit(&b->used, used - n, memory_order_relaxed);
}

/* The most that was used since this was last asked. */
static inline size_t budget_take_peak(struct budget *b)
{
    size_t peak = b->recent_peak;
    b->recent_peak = budget_used(b);
    return peak;
}

/* Three quarters are used: who holds much is to wait. */
static inline bool budget_is_tight(const struct budget *b)
{
    return b->limit && budget_used(b) > b->limit / 4 * 3;
}

/* More is used than there is: somebody has to go. */
static inline bool budget_is_spent(const struct budget *b)
{
    return b->limit && budget_used(b) > b->limit;
}

#endif
