/* memory.c - memory that the proxy may run out of. */
#include "memory.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

/* The linker has malloc mean __wrap_malloc, and __real_malloc the C library's (tests/meson.build).
 */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static unsigned depth, left, failures;

void memory_enter(void)
{
    depth++;
}

void memory_leave(void)
{
    assert(depth > 0);
    depth--;
}

void memory_fail(unsigned after, unsigned times)
{
    left = after;
    failures = times;
}

static bool fails(void)
{
    if (depth == 0 || failures == 0)
        return false;
    if (left > 0) {
        left--;
        return false;
    }
    failures--;
    return true;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

void *memory_new(size_t n)
{
    void *p = __real_calloc(1, n ? n : 1);
    assert(p);
    return p;
}

void *memory_resize(void *p, size_t n)
{
    p = __real_realloc(p, n);
    assert(p);
    return p;
}
