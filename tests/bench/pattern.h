/* pattern.h - the bytes that values consist of in benchmarks. */
#ifndef NEARCACHE_PATTERN_H
#define NEARCACHE_PATTERN_H

#include <stddef.h>
#include <stdint.h>

/* Scatters the bits of a number. */
static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

/* Noise, so that it holds line ends and zeros too. */
static inline void fill_pattern(char *to, size_t len)
{
    for (size_t i = 0; i < len; i++)
        to[i] = (char)(mix(i) >> 56);
}

#endif
