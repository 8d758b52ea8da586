/* value.c - bytes that tell whose they are. */
#include "value.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD = 8, PIECE = 4096 };

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x7fb5d329728ea185;
    x = (x ^ x >> 27) * 0x81dadef4bc2dd44d;
    return x ^ x >> 33;
}

static uint64_t seed_of(const struct value *v)
{
    uint64_t h = v->nonce + ((uint64_t)v->version << 32 | v->field << 8 | v->db);
    for (const char *p = v->name; *p; p++)
        h = h * 31 + (unsigned char)*p;
    return mix(h);
}

static size_t write_head(const struct value *v, char head[VALUE_HEAD_MAX])
{
    int n = snprintf(head, VALUE_HEAD_MAX, "%s|%u|%u|%" PRIu32 "|%016" PRIx64 "|%" PRIu32 "|",
                     v->name, v->db, v->field, v->version, v->nonce, v->len);
    return (size_t)n;
}

/* Whole words from the one that holds byte `from` on; returns the offset of that byte in `out`. */
static size_t write_words(uint64_t seed, size_t from, size_t n, char *out)
{
    size_t first = from / WORD, last = (from + n + WORD - 1) / WORD;
    for (size_t i = first; i < last; i++) {
        uint64_t word = mix(seed + i * 0x9e3779b97f4a7c15);
        memcpy(out + (i - first) * WORD, &word, WORD);
    }
    return from % WORD;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

void value_write(const struct value *v, char *out)
{
    char head[VALUE_HEAD_MAX], words[PIECE + 2 * WORD];
    size_t at = min_size(write_head(v, head), v->len);
    uint64_t seed = seed_of(v);
    memcpy(out, head, at);
    while (at < v->len) {
        size_t n = min_size(v->len - at, PIECE);
        memcpy(out + at, words + write_words(seed, at, n, words), n);
        at += n;
    }
}

bool value_matches(const struct value *v, size_t from, const char *p, size_t n)
{
    char head[VALUE_HEAD_MAX], words[PIECE + 2 * WORD];
    size_t head_len = min_size(write_head(v, head), v->len);
    uint64_t seed = seed_of(v);
    if (from + n > v->len)
        return false;
    if (from < head_len) {
        size_t part = min_size(head_len - from, n);
        if (memcmp(head + from, p, part) != 0)
            return false;
        from += part;
        p += part;
        n -= part;
    }
    while (n > 0) {
        size_t part = min_size(n, PIECE);
        if (memcmp(words + write_words(seed, from, part, words), p, part) != 0)
            return false;
        from += part;
        p += part;
        n -= part;
    }
    return true;
}

uint32_t value_version(const char *name, const char *p, size_t n)
{
    char head[VALUE_HEAD_MAX];
    size_t len = strlen(name), part = min_size(n, sizeof head - 1);
    memcpy(head, p, part);
    head[part] = '\0';
    unsigned db, field, version;
    if (part <= len || memcmp(head, name, len) != 0 ||
        sscanf(head + len, "|%u|%u|%u|", &db, &field, &version) != 3)
        return 0;
    return version;
}
