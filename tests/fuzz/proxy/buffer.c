/* buffer.c - bytes in order. */
#include "buffer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

void buffer_free(struct buffer *b)
{
    free(b->memory);
    *b = (struct buffer){0};
}

static void make_room(struct buffer *b, size_t n)
{
    size_t front = (size_t)(b->data - b->memory);
    if (b->cap - front - b->len >= n)
        return;
    if (front) {
        memmove(b->memory, b->data, b->len);
        b->data = b->memory;
    }
    if (b->cap - b->len >= n)
        return;
    b->cap = 2 * b->cap + n;
    b->memory = memory_resize(b->memory, b->cap);
    b->data = b->memory;
}

void buffer_add(struct buffer *b, const void *p, size_t n)
{
    if (n == 0)
        return;
    make_room(b, n);
    memcpy(b->data + b->len, p, n);
    b->len += n;
}

void buffer_text(struct buffer *b, const char *text)
{
    buffer_add(b, text, strlen(text));
}

void buffer_print(struct buffer *b, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof text);
    buffer_add(b, text, (size_t)n);
}

void buffer_bulk(struct buffer *b, struct resp_slice s)
{
    buffer_print(b, "$%zu\r\n", s.len);
    buffer_add(b, s.data, s.len);
    buffer_text(b, "\r\n");
}

void buffer_bulk_text(struct buffer *b, const char *text)
{
    buffer_bulk(b, slice_of(text));
}

void buffer_drop(struct buffer *b, size_t n)
{
    assert(n <= b->len);
    b->len -= n;
    b->data = b->len ? b->data + n : b->memory;
}
