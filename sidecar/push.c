/* push.c - a message that the server sends unasked. */
#include "push.h"

#include <string.h>

#include "resp_read.h"
#include "wire.h"

static const struct {
    const char *word;
    enum push_kind kind;
} CONFIRMATIONS[] = {
    {"subscribe", PUSH_SUBSCRIBE},   {"unsubscribe", PUSH_UNSUBSCRIBE},
    {"psubscribe", PUSH_PSUBSCRIBE}, {"punsubscribe", PUSH_PUNSUBSCRIBE},
    {"ssubscribe", PUSH_SSUBSCRIBE}, {"sunsubscribe", PUSH_SUNSUBSCRIBE},
};

/* A message under way from one form to the other. */
struct message {
    const struct namespace *ns;
    bool namespaced;
    struct resp_slice frame; /* all of it */
    struct resp_reader rest; /* not read yet */
    size_t n;                /* elements */
    struct resp_slice word;  /* the first one */
    struct chain *out;
};

static bool read_head(struct message *m, const char *p, size_t n)
{
    m->frame = (struct resp_slice){p, n};
    m->rest = (struct resp_reader){p, p + n};
    return resp_read_array(&m->rest, &m->n) && m->n > 0 && resp_read_bulk(&m->rest, &m->word);
}

struct push push_read(const char *p, size_t n)
{
    struct message m = {0};
    struct resp_slice name;
    struct push push = {PUSH_OTHER, 0};
    if (!read_head(&m, p, n))
        return push;
    for (size_t i = 0; i < sizeof CONFIRMATIONS / sizeof *CONFIRMATIONS; i++)
        if (resp_slice_is(m.word, CONFIRMATIONS[i].word))
            push.kind = CONFIRMATIONS[i].kind;
    if (push.kind == PUSH_OTHER)
        return push;
    if (!resp_read_bulk(&m.rest, &name)) { /* nil: there was nothing to unsubscribe from */
        const char *lf = memchr(m.rest.p, '\n', (size_t)(m.rest.end - m.rest.p));
        m.rest.p = lf ? lf + 1 : m.rest.end;
    }
    if (!resp_read_integer(&m.rest, &push.count))
        push.kind = PUSH_OTHER;
    return push;
}

/* --- writing ------------------------------------------------------------------------------------
 */

static void put_raw(struct message *m, const char *from, const char *to)
{
    chain_append(m->out, from, (size_t)(to - from));
}

static void put_as_it_is(struct message *m)
{
    chain_append(m->out, m->frame.data, m->frame.len);
}

static void put_head(struct message *m)
{
    wire_header(m->out, m->frame.data[0], m->n);
    wire_bulk(m->out, m->word);
}

static void put_rest(struct message *m)
{
    put_raw(m, m->rest.p, m->rest.end);
}

static void put_name(struct message *m, const struct channel_name *name)
{
    wire_bulk3(m->out, name->head, name->prefix, name->tail);
}

/* The keys of an invalidation: ours only. False: none is. */
static bool put_keys(struct message *m, const char *head_end)
{
    struct resp_reader keys = m->rest, again;
    struct resp_slice key, name;
    size_t n, ours = 0;
    if (!resp_read_array(&keys, &n)) { /* nil: all keys */
        put_raw(m, m->frame.data, m->frame.data + m->frame.len);
        return true;
    }
    again = keys;
    for (size_t i = 0; i < n && resp_read_bulk(&keys, &key); i++)
        ours += namespace_strip(m->ns, key, &name);
    if (ours == 0)
        return false;
    put_raw(m, m->frame.data, head_end);
    wire_header(m->out, '*', ours);
    for (size_t i = 0; i < n && resp_read_bulk(&again, &key); i++)
        if (namespace_strip(m->ns, key, &name))
            wire_bulk(m->out, name);
    return true;
}

static void put_invalidation(struct message *m)
{
    (void)put_keys(m, m->rest.p);
}

/* message channel payload; the payload of a keyspace event is a key. */
static void put_message(struct message *m, const struct channel_name *pattern,
                        struct resp_slice channel)
{
    struct channel_name name;
    struct resp_slice payload, key;
    if (resp_slice_is(channel, "__redis__:invalidate") && m->rest.p < m->rest.end &&
        *m->rest.p != '$') {
        put_invalidation(m);
        return;
    }
    if (!channel_in(m->ns, m->namespaced, channel, false, &name))
        return;
    bool event = channel_is_keyevent(channel) && resp_read_bulk(&m->rest, &payload);
    if (event && !namespace_strip(m->ns, payload, &key))
        return;
    put_head(m);
    if (pattern)
        put_name(m, pattern);
    put_name(m, &name);
    if (event)
        wire_bulk(m->out, key);
    else
        put_rest(m);
}

static void put_any_message(struct message *m, bool by_pattern)
{
    struct resp_slice pattern, channel;
    struct channel_name pattern_name;
    bool ok =
        (!by_pattern || resp_read_bulk(&m->rest, &pattern)) && resp_read_bulk(&m->rest, &channel);
    if (!ok) {
        put_as_it_is(m);
        return;
    }
    if (by_pattern && !channel_in(m->ns, m->namespaced, pattern, true, &pattern_name))
        return;
    put_message(m, by_pattern ? &pattern_name : NULL, channel);
}

static void put_confirmation(struct message *m, bool pattern)
{
    struct resp_slice full;
    struct channel_name name;
    if (!resp_read_bulk(&m->rest, &full) ||
        !channel_in(m->ns, m->namespaced, full, pattern, &name)) {
        put_as_it_is(m);
        return;
    }
    put_head(m);
    put_name(m, &name);
    put_rest(m);
}

/* As many elements as Redis 7 sends. */
static bool is_of_known_shape(const struct message *m, enum push_kind kind)
{
    if (kind != PUSH_OTHER || resp_slice_is(m->word, "message") ||
        resp_slice_is(m->word, "smessage"))
        return m->n == 3;
    if (resp_slice_is(m->word, "pmessage"))
        return m->n == 4;
    return m->n == 2;
}

void push_write(const struct namespace *ns, bool namespaced, int64_t redirect, const char *p,
                size_t n, struct chain *out)
{
    struct message m = {.ns = ns, .namespaced = namespaced, .out = out};
    if (!read_head(&m, p, n)) {
        put_as_it_is(&m);
        return;
    }
    enum push_kind kind = push_read(p, n).kind;
    bool by_pattern = resp_slice_is(m.word, "pmessage");
    if (!is_of_known_shape(&m, kind)) {
        put_as_it_is(&m);
    } else if (kind != PUSH_OTHER) {
        put_confirmation(&m, kind == PUSH_PSUBSCRIBE || kind == PUSH_PUNSUBSCRIBE);
    } else if (resp_slice_is(m.word, "tracking-redir-broken")) {
        put_head(&m);
        wire_integer(out, redirect);
    } else if (resp_slice_is(m.word, "invalidate")) {
        put_invalidation(&m);
    } else if (by_pattern || resp_slice_is(m.word, "message") ||
               resp_slice_is(m.word, "smessage")) {
        put_any_message(&m, by_pattern);
    } else {
        put_as_it_is(&m);
    }
}
