/* text.c - a text that grows as it is written. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for n more bytes and a NUL. */
static bool reserve(struct text *t, size_t n)
{
    if (t->failed)
        return false;
    if (t->cap - t->len > n)
        return true;
    size_t cap = 2 * t->cap + n + 256;
    char *p = realloc(t->p, cap);
    if (!p) {
        t->failed = true;
        return false;
    }
    t->p = p;
    t->cap = cap;
    return true;
}

void text_say(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !reserve(t, (size_t)n))
        return;
    va_start(args, format);
    (void)vsnprintf(t->p + t->len, t->cap - t->len, format, args);
    va_end(args);
    t->len += (size_t)n;
}

void text_append(struct text *t, const char *p, size_t n)
{
    if (!reserve(t, n))
        return;
    if (n > 0) /* an empty slice may have no address at all */
        memcpy(t->p + t->len, p, n);
    t->len += n;
    t->p[t->len] = '\0';
}

void text_header(struct text *t, char type, uint64_t n)
{
    char header[RESP_HEADER_MAX];
    text_append(t, header, (size_t)(resp_put_header(header, type, n) - header));
}

void text_bulk(struct text *t, struct resp_slice s)
{
    text_header(t, '$', s.len);
    text_append(t, s.data, s.len);
    text_append(t, "\r\n", 2);
}
