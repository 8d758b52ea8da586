/* memory.h - memory that the proxy may run out of, and the harness does not. */
#ifndef FUZZ_MEMORY_H
#define FUZZ_MEMORY_H

#include <stddef.h>

/* The harness's own. Zeroed; what is added by a resize is not. Freed with free. */
void *memory_new(size_t n);
void *memory_resize(void *p, size_t n);

/* What is allocated between these is the proxy's. They nest. */
void memory_enter(void);
void memory_leave(void);
/* Of the proxy's next allocations `after` succeed, then so many fail. */
void memory_fail(unsigned after, unsigned times);

#endif
