/* nearest.h - the valid name that was probably meant. */
#ifndef NEARCACHE_NEAREST_H
#define NEARCACHE_NEAREST_H

#include <stddef.h>

/* Of names[0..n) the one closest to `typed`, or NULL if none is close enough to be worth a mention.
 * Capitals and the difference between '.', '-' and '_' don't count; the last part of a dotted name
 * ("ttl" of "l1.ttl") is close. */
const char *nearest_name(const char *typed, const char *const *names, size_t n);

#endif
