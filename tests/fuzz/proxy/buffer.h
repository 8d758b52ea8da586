/* buffer.h - bytes in order: appended behind, taken from the front. */
#ifndef FUZZ_BUFFER_H
#define FUZZ_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "resp.h"

/* Zero-initialise; buffer_free gives the memory back. */
struct buffer {
    char *memory, *data; /* data[0..len) */
    size_t len, cap;     /* cap: of the memory */
};

void buffer_free(struct buffer *b);
void buffer_add(struct buffer *b, const void *p, size_t n);
void buffer_text(struct buffer *b, const char *text);
__attribute__((format(printf, 2, 3))) void buffer_print(struct buffer *b, const char *format, ...);
void buffer_bulk(struct buffer *b, struct resp_slice s);
void buffer_bulk_text(struct buffer *b, const char *text);
/* Drops n <= len bytes from the front. */
void buffer_drop(struct buffer *b, size_t n);

static inline struct resp_slice slice_of(const char *text)
{
    return (struct resp_slice){text, __builtin_strlen(text)};
}

static inline bool slice_equal(struct resp_slice a, struct resp_slice b)
{
    return a.len == b.len && (a.len == 0 || __builtin_memcmp(a.data, b.data, a.len) == 0);
}

static inline bool slice_begins(struct resp_slice s, struct resp_slice with)
{
    return s.len >= with.len &&
           (with.len == 0 || __builtin_memcmp(s.data, with.data, with.len) == 0);
}

/* FNV-1a: small inputs, no secrets. */
static inline uint64_t slice_hash(struct resp_slice s, uint64_t hash)
{
    for (size_t i = 0; i < s.len; i++)
        hash = (hash ^ (unsigned char)s.data[i]) * 0x100000001b3u;
    return hash;
}
#define HASH_START 0xcbf29ce484222325u

#endif
