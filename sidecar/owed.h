/* owed.h - the replies that a connection owes, oldest first: whose each is, and since when.
 *
 * A ring that grows, and shrinks after a burst. What is owed outlives the client that asked.
 */
#ifndef NEARCACHE_OWED_H
#define NEARCACHE_OWED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "budget.h"

struct owed {
    void *owner;
    uint32_t tag;
    uint32_t since; /* monotonic ms, the low half: owed_age */
};

/* Zero-initialise but for the budget; owed_free gives everything back. */
struct owed_ring {
    struct budget *budget; /* borrowed */
    struct owed *v;
    size_t first, n, cap; /* cap: 0 or a power of two */
};

/* False: out of memory. */
__attribute__((warn_unused_result)) bool owed_push(struct owed_ring *r, struct owed o);
/* Before all others. */
__attribute__((warn_unused_result)) bool owed_push_front(struct owed_ring *r, struct owed o);
struct owed owed_pop(struct owed_ring *r);
void owed_free(struct owed_ring *r);

/* The i-th, from 0. */
static inline struct owed *owed_at(const struct owed_ring *r, size_t i)
{
    assert(i < r->n);
    return &r->v[(r->first + i) & (r->cap - 1)];
}

static inline uint64_t owed_age(const struct owed *o, uint64_t now)
{
    return (uint32_t)now - o->since;
}

#endif
