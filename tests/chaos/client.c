/* client.c - one client: its commands and the replies it is owed. */
#include "client.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_KEPT = 64 * 1024 };

/* --- buffers ------------------------------------------------------------------------------------
 */

char *buffer_room(struct buffer *b, size_t n)
{
    if (b->at > 0 && b->cap - b->len < n) {
        memmove(b->p, b->p + b->at, b->len - b->at);
        b->len -= b->at;
        b->at = 0;
    }
    if (b->cap - b->len < n) {
        b->cap = 2 * b->cap + n;
        b->p = realloc(b->p, b->cap);
        if (!b->p)
            abort();
    }
    return b->p + b->len;
}

void buffer_append(struct buffer *b, const char *p, size_t n)
{
    memcpy(buffer_room(b, n), p, n);
    b->len += n;
}

void buffer_free(struct buffer *b)
{
    free(b->p);
    *b = (struct buffer){0};
}

void buffer_consume(struct buffer *b, size_t n)
{
    b->at += n;
    assert(b->at <= b->len);
    if (b->at < b->len)
        return;
    b->at = b->len = 0;
    if (b->cap > BUFFER_KEPT)
        buffer_free(b);
}

/* --- commands -----------------------------------------------------------------------------------
 */

static void append_header(struct client *c, char type, size_t n)
{
    char *p = buffer_room(&c->out, 32);
    c->out.len += (size_t)snprintf(p, 32, "%c%zu\r\n", type, n);
}

void client_command(struct client *c, unsigned words)
{
    append_header(c, '*', words);
}

void client_bytes(struct client *c, const char *p, size_t n)
{
    append_header(c, '$', n);
    buffer_append(&c->out, p, n);
    buffer_append(&c->out, "\r\n", 2);
}

void client_word(struct client *c, const char *text)
{
    client_bytes(c, text, strlen(text));
}

void client_number(struct client *c, uint64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, n);
    client_word(c, text);
}

void client_key(struct client *c, const struct key *k)
{
    char name[KEY_NAME_MAX + 32];
    snprintf(name, sizeof name, "%s%s", c->prefix, k->name);
    client_word(c, name);
}

void client_value(struct client *c, const struct value *v)
{
    append_header(c, '$', v->len);
    value_write(v, buffer_room(&c->out, v->len));
    c->out.len += v->len;
    buffer_append(&c->out, "\r\n", 2);
}

void client_say(struct client *c, ...)
{
    va_list words;
    unsigned n = 0;
    va_start(words, c);
    while (va_arg(words, const char *))
        n++;
    va_end(words);
    client_command(c, n);
    va_start(words, c);
    while (n--)
        client_word(c, va_arg(words, const char *));
    va_end(words);
}

/* --- replies owed -------------------------------------------------------------------------------
 */

struct owed *client_owe(struct client *c, const struct operation *op)
{
    assert(c->n_owed < OWED_MAX);
    struct owed *o = &c->ring[(c->first + c->n_owed++) % OWED_MAX];
    *o = (struct owed){.op = op, .queued = c->queueing};
    return o;
}

struct ref *owed_add(struct owed *o, struct ref r)
{
    assert(o->n < OWED_KEYS);
    o->refs[o->n] = r;
    return &o->refs[o->n++];
}

struct owed *client_head(struct client *c)
{
    return c->n_owed ? &c->ring[c->first] : NULL;
}

void client_pop(struct client *c)
{
    assert(c->n_owed > 0);
    c->first = (c->first + 1) % OWED_MAX;
    c->n_owed--;
}
