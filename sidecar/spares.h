/* spares.h - objects of one size that come and go often: some that are free are kept for the next.
 *
 * What is kept is bounded, so that memory comes back after a burst.
 */
#ifndef NEARCACHE_SPARES_H
#define NEARCACHE_SPARES_H

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>

/* Zero-initialise. */
struct spares {
    void *first; /* each begins with a pointer to the next */
    unsigned n;
    size_t size;
};

enum { SPARES_MAX = 512 };

/* Not initialised; `size` (at least a pointer's) is always the same. NULL: out of memory. */
static inline void *spares_take(struct spares *s, size_t size)
{
    void *object = s->first;
    assert(s->size == 0 || s->size == size);
    s->size = size;
    if (!object)
        return malloc(size);
    s->first = *(void **)object;
    s->n--;
    return object;
}

static inline void spares_give(struct spares *s, void *object)
{
    if (s->n >= SPARES_MAX) {
        free(object);
        return;
    }
    *(void **)object = s->first;
    s->first = object;
    s->n++;
}

static inline void spares_drain(struct spares *s)
{
    while (s->first) {
        void *object = s->first;
        s->first = *(void **)object;
        free(object);
    }
    s->n = 0;
}

#endif
