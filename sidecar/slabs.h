/* slabs.h - objects of one size in slabs of their own, which are given back when they are empty.
 *
 * What many clients took is then the machine's again when they have left: among other allocations,
 * some of which stay (libevent's, for each descriptor), hardly a page of it would be. With a
 * sanitizer each object is an allocation of its own, so that its uses are seen.
 */
#ifndef NEARCACHE_SLABS_H
#define NEARCACHE_SLABS_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum { SLAB_BYTES = 64 * 1024 };

struct slab {
    LIST_ENTRY(slab) entry; /* while it has room */
    void *free; /* objects that were given back; each begins with a pointer to the next */
    unsigned used, made;
    _Alignas(max_align_t) char objects[];
};

/* Zero-initialise. */
struct slabs {
    LIST_HEAD(, slab) roomy;
    size_t size; /* of an object; always the same */
};

static inline unsigned slabs_each(const struct slabs *s)
{
    return (unsigned)((SLAB_BYTES - sizeof(struct slab)) / s->size);
}

/* Zeroed. NULL: out of memory. */
static inline void *slabs_take(struct slabs *s, size_t size)
{
#ifdef __SANITIZE_ADDRESS__
    (void)s;
    return calloc(1, size);
#else
    size_t unit = _Alignof(max_align_t);
    s->size = (size + unit - 1) / unit * unit;
    struct slab *slab = LIST_FIRST(&s->roomy);
    if (!slab) {
        slab = aligned_alloc(SLAB_BYTES, SLAB_BYTES);
        if (!slab)
            return NULL;
        *slab = (struct slab){.used = 0};
        LIST_INSERT_HEAD(&s->roomy, slab, entry);
    }
    void *object = slab->free;
    if (object)
        slab->free = *(void **)object;
    else
        object = slab->objects + s->size * slab->made++;
    if (++slab->used == slabs_each(s))
        LIST_REMOVE(slab, entry);
    return memset(object, 0, s->size);
#endif
}

static inline void slabs_give(struct slabs *s, void *object)
{
#ifdef __SANITIZE_ADDRESS__
    (void)s;
    free(object);
#else
    struct slab *slab = (struct slab *)((uintptr_t)object & ~((uintptr_t)SLAB_BYTES - 1));
    if (slab->used-- == slabs_each(s))
        LIST_INSERT_HEAD(&s->roomy, slab, entry);
    *(void **)object = slab->free;
    slab->free = object;
    if (slab->used > 0)
        return;
    LIST_REMOVE(slab, entry);
    free(slab);
#endif
}

#endif
