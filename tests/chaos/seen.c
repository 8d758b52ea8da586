/* seen.c - what a reply shows of a key. */
#include "seen.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool fits_number(const struct state *s, const struct seen *seen)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRIu32, s->part[0]);
    return seen->s.n == (size_t)n && memcmp(seen->s.p, text, (size_t)n) == 0;
}

/* Bytes from..to of the parts in a row. */
bool fits_bytes(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    uint64_t length = key_length(k, s), start = 0, to = min_u64(seen->to, length);
    const char *p = seen->s.p;
    if (seen->s.n != (to > seen->from ? to - seen->from : 0))
        return false;
    for (unsigned i = 0; i < s->n; i++) {
        struct value v = key_value(k, s->part[i], 0);
        uint64_t from = start > seen->from ? start : seen->from;
        uint64_t end = min_u64(start + v.len, to);
        if (from < end && !value_matches(&v, from - start, p, end - from))
            return false;
        p += from < end ? end - from : 0;
        start += v.len;
    }
    return true;
}

bool fits_string(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n == 0 || seen->is_null)
        return s->n == 0 && seen->is_null;
    return k->type == KEY_COUNTER ? fits_number(s, seen) : fits_bytes(k, s, seen);
}

bool fits_length(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    return key_length(k, s) == (uint64_t)seen->n;
}

bool fits_parts(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    (void)k;
    return s->n == seen->n;
}

bool fits_there(const struct key *k, const struct state *s, const void *arg)
{
    (void)k;
    (void)arg;
    return s->n > 0;
}

bool fits_absent(const struct key *k, const struct state *s, const void *arg)
{
    return !fits_there(k, s, arg);
}

bool fits_count(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    (void)k;
    return s->part[0] == seen->n;
}

static bool fits_element(const struct key *k, const struct state *s, unsigned i, struct span seen)
{
    struct value v = key_value(k, s->part[i], 0);
    return v.len == seen.n && value_matches(&v, 0, seen.p, seen.n);
}

bool fits_list(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n != seen->n)
        return false;
    for (unsigned i = 0; i < s->n; i++)
        if (!fits_element(k, s, i, seen->parts[i]))
            return false;
    return true;
}

/* What LPOP takes from it. */
bool fits_first(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    return seen->is_null ? s->n == 0 : s->n > 0 && fits_element(k, s, 0, seen->s);
}

bool fits_field(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n == 0 || seen->is_null)
        return s->n == 0 && seen->is_null;
    struct value v = key_value(k, s->part[0], (unsigned)seen->n);
    return v.len == seen->s.n && value_matches(&v, 0, seen->s.p, seen->s.n);
}

/* All fields of the same version. */
bool fits_hash(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n == 0 || seen->n == 0)
        return s->n == 0 && seen->n == 0;
    for (unsigned i = 0; i < HASH_FIELDS; i++)
        if (!fits_field(k, s, &(struct seen){.s = seen->parts[i], .n = i}))
            return false;
    return true;
}

/* Of a key that is lost nothing is known but what an element of a list names. */
bool seen_is_element(const struct key *k, struct span s)
{
    size_t n = strlen(k->name);
    return s.n <= n || (memcmp(s.p, k->name, n) == 0 && s.p[n] == '|');
}

bool seen_shows(const struct ref *r, state_fits fits, const struct seen *seen)
{
    return r->key->lost || ref_shows(r, fits, seen);
}

bool seen_showed(const struct ref *r, state_fits fits, const struct seen *seen)
{
    return r->key->lost || ref_showed(r, fits, seen);
}

/* A bulk or null that seen_shows a string. */
bool seen_take(struct reader *r, struct seen *seen)
{
    *seen = (struct seen){.to = UINT64_MAX};
    seen->is_null = reader_null(r);
    return seen->is_null || reader_bulk(r, &seen->s);
}
