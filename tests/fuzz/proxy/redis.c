/* redis.c - the scripted Redis: connections, commands that wait, messages. */
#include "redis.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "wrong.h"

/* --- commands of its own ------------------------------------------------------------------------
 */

#define KEY(flags_, begin_, find_, ...)                                                            \
    .n_specs = 1, .specs = {{.begin = COMMAND_BEGIN_##begin_,                                      \
                             .find = COMMAND_FIND_##find_,                                         \
                             .flags = COMMAND_KEY_##flags_,                                        \
                             __VA_ARGS__}}

struct command_table *redis_commands(void)
{
    static struct command get = {.name = "ext.box|get",
                                 .arity = 3,
                                 .flags = COMMAND_FLAG_READONLY,
                                 KEY(READ, INDEX, RANGE, .index = 2, .step = 1)};
    static const struct command more[] = {
        {.name = "ext.get", .arity = 2, KEY(READ, INDEX, RANGE, .index = 1, .step = 1)},
        {.name = "ext.any", .arity = -1, .flags = COMMAND_FLAG_MOVABLEKEYS},
        {.name = "ext.wait", .arity = -1, .flags = COMMAND_FLAG_BLOCKING},
        {.name = "ext.set",
         .arity = -3,
         .flags = COMMAND_FLAG_WRITE,
         KEY(WRITE, INDEX, RANGE, .index = 1, .step = 1)},
        {.name = "ext.many",
         .arity = -2,
         .flags = COMMAND_FLAG_WRITE,
         KEY(WRITE, INDEX, KEYNUM, .index = 1, .first = 1, .keystep = 1)},
        {.name = "ext.word",
         .arity = -2,
         .flags = COMMAND_FLAG_WRITE,
         KEY(WRITE, KEYWORD, RANGE, .keyword = "KEYS", .index = 1, .step = 1)},
        {.name = "ext.some", .arity = -2, .flags = COMMAND_FLAG_WRITE, .keys_unknown = true},
        {.name = "ext.box", .arity = -2, .flags = COMMAND_FLAG_WRITE}};
    struct command_table *t = command_table_new();
    for (size_t i = 0; t && i <= sizeof more / sizeof *more; i++)
        if (!command_table_learn(t, i < sizeof more / sizeof *more ? &more[i] : &get)) {
            command_table_free(t);
            t = NULL;
        }
    return t;
}

/* --- life ---------------------------------------------------------------------------------------
 */

void redis_init(struct redis *r, struct net *net, struct resp_slice prefix,
                const struct command_table *commands)
{
    *r = (struct redis){.net = net, .prefix = prefix, .commands = commands};
    TAILQ_INIT(&r->conns);
}

static void free_asks(struct ask_list *list)
{
    struct ask *a;
    while ((a = STAILQ_FIRST(list))) {
        STAILQ_REMOVE_HEAD(list, entry);
        free(a);
    }
}

void redis_forget_prefixes(struct redis_conn *c)
{
    while (c->n_prefixes)
        free((char *)c->prefixes[--c->n_prefixes].data);
}

static void conn_free(struct redis_conn *c)
{
    for (int t = 0; t < TOPICS; t++)
        while (c->topics[t].n)
            free(c->topics[t].v[--c->topics[t].n]);
    redis_forget_prefixes(c);
    free_asks(&c->asks);
    free_asks(&c->queued);
    buffer_free(&c->in);
    buffer_free(&c->behind);
    free(c->marks);
    free(c);
}

void redis_free(struct redis *r)
{
    struct redis_conn *c;
    while ((c = TAILQ_FIRST(&r->conns))) {
        TAILQ_REMOVE(&r->conns, c, entry);
        conn_free(c);
    }
    command_keys_free(&r->keys);
    resp_args_free(&r->args);
    store_free(&r->store);
}

void redis_connected(struct redis *r, struct peer *peer)
{
    struct redis_conn *c = memory_new(sizeof *c);
    c->redis = r;
    c->peer = peer;
    c->id = ++r->last_id;
    c->resp = 2;
    STAILQ_INIT(&c->asks);
    STAILQ_INIT(&c->queued);
    TAILQ_INSERT_TAIL(&r->conns, c, entry);
    peer->owner = c;
}

struct redis_conn *redis_find(struct redis *r, uint64_t id)
{
    struct redis_conn *c;
    TAILQ_FOREACH(c, &r->conns, entry)
    if (c->id == id && c->peer->conn)
        return c;
    return NULL;
}

bool redis_is_subscribed(const struct redis_conn *c)
{
    return c->topics[TOPIC_CHANNELS].n || c->topics[TOPIC_PATTERNS].n || c->topics[TOPIC_SHARDS].n;
}

/* --- reading ------------------------------------------------------------------------------------
 */

/* Nothing of ours may ask for a key outside of the namespace. */
static void check_keys(struct redis *r, const struct resp_slice *argv, size_t argc)
{
    const struct command *command = command_find(r->commands, argv, argc);
    if (!command || r->prefix.len == 0 || r->lied ||
        command_list_keys(command, argv, argc, &r->keys) != COMMAND_KEYS_OK)
        return;
    for (size_t i = 0; i < r->keys.n; i++)
        if (r->keys.v[i].kind == COMMAND_ARG_KEY &&
            !slice_begins(argv[r->keys.v[i].arg], r->prefix))
            wrong("%s reaches a key outside of the namespace: %.*s", command->name,
                  (int)argv[r->keys.v[i].arg].len, argv[r->keys.v[i].arg].data);
}

static void add_ask(struct redis_conn *c, const struct resp_slice *argv, size_t argc)
{
    size_t bytes = 0;
    for (size_t i = 0; i < argc; i++)
        bytes += argv[i].len;
    struct ask *a = memory_new(sizeof *a + argc * sizeof *a->argv + bytes);
    a->argc = argc;
    a->argv = (struct resp_slice *)(a + 1);
    char *text = (char *)(a->argv + argc);
    for (size_t i = 0; i < argc; i++) {
        a->argv[i] = (struct resp_slice){text, argv[i].len};
        if (argv[i].len)
            memcpy(text, argv[i].data, argv[i].len);
        text += argv[i].len;
    }
    STAILQ_INSERT_TAIL(&c->asks, a, entry);
    c->n_asks++;
}

static void read_conn(struct redis_conn *c)
{
    const struct resp_limits limits = {.max_bulk = 512LL * 1024 * 1024, .authenticated = true};
    struct redis *r = c->redis;
    char error[RESP_ERROR_MAX];
    buffer_add(&c->in, c->peer->out.data, c->peer->out.len);
    buffer_drop(&c->peer->out, c->peer->out.len);
    while (c->in.len) {
        size_t used;
        resp_args_reset(&r->args);
        enum resp_status status =
            resp_request_parse(&c->parser, &limits, c->in.data, c->in.len, &r->args, &used, error);
        if (status == RESP_MORE)
            break;
        if (status == RESP_BAD || r->args.n == 0)
            wrong("the proxy sends what is no command: %s", error);
        check_keys(r, r->args.v, r->args.n);
        trace_command("    server", c->id, r->args.v, r->args.n);
        add_ask(c, r->args.v, r->args.n);
        buffer_drop(&c->in, used);
    }
    resp_args_reset(&r->args);
}

void redis_read(struct redis *r)
{
    struct redis_conn *c;
    TAILQ_FOREACH(c, &r->conns, entry)
    if (c->peer->out.len)
        read_conn(c);
}

void redis_delivered(struct redis_conn *c)
{
    struct store *s = &c->redis->store;
    size_t done = 0;
    while (done < c->n_marks && c->marks[done].offset <= c->peer->delivered) {
        struct mark *m = &c->marks[done++];
        if (s->records[m->record].floor < m->version)
            s->records[m->record].floor = m->version;
    }
    c->n_marks -= done;
    if (done)
        memmove(c->marks, c->marks + done, c->n_marks * sizeof *c->marks);
}

/* --- answering ----------------------------------------------------------------------------------
 */

static struct ask *pop(struct redis_conn *c)
{
    struct ask *a = STAILQ_FIRST(&c->asks);
    if (a) {
        STAILQ_REMOVE_HEAD(&c->asks, entry);
        c->n_asks--;
    }
    return a;
}

void redis_answer(struct redis_conn *c)
{
    struct buffer out = {0};
    struct ask *a = pop(c);
    if (!a)
        return;
    c->answering = true;
    answer(c, a, &out);
    c->answering = false;
    peer_send(c->peer, out.data, out.len);
    peer_send(c->peer, c->behind.data, c->behind.len);
    buffer_drop(&c->behind, c->behind.len);
    buffer_free(&out);
    free(a);
}

void redis_answer_with(struct redis_conn *c, const void *p, size_t n)
{
    struct ask *a = pop(c);
    peer_send(c->peer, p, n);
    free(a);
}

/* --- changes ------------------------------------------------------------------------------------
 */

static bool hears_of(const struct redis_conn *c, struct resp_slice name)
{
    bool found = !c->bcast || c->n_prefixes == 0;
    for (size_t i = 0; i < c->n_prefixes; i++)
        found |= slice_begins(name, c->prefixes[i]);
    return c->tracking && c->peer->conn && found;
}

static bool has_topic(const struct redis_conn *c, enum topic topic, struct resp_slice name)
{
    const struct names *names = &c->topics[topic];
    for (size_t i = 0; i < names->n; i++)
        if (slice_equal((struct resp_slice){names->v[i], names->len[i]}, name))
            return true;
    return false;
}

/* name.data NULL: all keys. False: this connection can't be told. */
static bool say_invalidation(struct redis_conn *to, struct resp_slice name)
{
    static const char channel[] = "__redis__:invalidate";
    struct buffer b = {0};
    if (to->resp == 3) {
        buffer_text(&b, ">2\r\n$10\r\ninvalidate\r\n");
    } else {
        if (!has_topic(to, TOPIC_CHANNELS, slice_of(channel)))
            return false;
        buffer_text(&b, "*3\r\n$7\r\nmessage\r\n");
        buffer_bulk_text(&b, channel);
    }
    if (name.data) {
        buffer_text(&b, "*1\r\n");
        buffer_bulk(&b, name);
    } else {
        buffer_text(&b, to->resp == 3 ? "_\r\n" : "*-1\r\n");
    }
    peer_send(to->peer, b.data, b.len);
    buffer_free(&b);
    return true;
}

static void add_mark(struct redis_conn *c, size_t record, uint64_t version)
{
    if (record == SIZE_MAX || !c->is_link)
        return;
    if (c->n_marks == c->cap_marks) {
        c->cap_marks = c->cap_marks ? 2 * c->cap_marks : 16;
        c->marks = memory_resize(c->marks, c->cap_marks * sizeof *c->marks);
    }
    c->marks[c->n_marks++] = (struct mark){
        .offset = c->peer->delivered + c->peer->in.len, .version = version, .record = record};
}

/* Whom a change that this connection tracks is told to. */
static struct redis_conn *audience(struct redis_conn *c)
{
    return c->redirect ? redis_find(c->redis, c->redirect) : c;
}

static uint64_t last_version(const struct record *r)
{
    return r->states[r->n - 1].version;
}

void redis_announce(struct redis *r, const struct record *record)
{
    struct resp_slice name = {record->name, record->name_len};
    struct redis_conn *c, *to;
    if (record->n == 0)
        return;
    TAILQ_FOREACH(c, &r->conns, entry)
    if (hears_of(c, name) && (to = audience(c)) && say_invalidation(to, name))
        add_mark(to, store_index(&r->store, record), last_version(record));
}

void redis_announce_all(struct redis *r)
{
    struct redis_conn *c, *to;
    TAILQ_FOREACH(c, &r->conns, entry)
    {
        if (!c->tracking || !c->peer->conn || !(to = audience(c)) ||
            !say_invalidation(to, (struct resp_slice){0}))
            continue;
        for (size_t i = 0; i < r->store.n; i++)
            if (r->store.records[i].n)
                add_mark(to, i, last_version(&r->store.records[i]));
    }
}

void redis_write(struct redis *r, uint32_t db, struct resp_slice key, struct state state)
{
    struct record *record = store_record(&r->store, db, key);
    state.time = net_now();
    store_change(&r->store, record, state);
    redis_announce(r, record);
}

void redis_flush(struct redis *r)
{
    store_remove_all(&r->store, net_now());
    redis_announce_all(r);
}

/* --- messages -----------------------------------------------------------------------------------
 */

static void say_message(struct redis_conn *to, const char *word, struct resp_slice pattern,
                        struct resp_slice channel, struct resp_slice payload)
{
    struct buffer b = {0};
    buffer_print(&b, "%c%d\r\n", to->resp == 3 ? '>' : '*', pattern.data ? 4 : 3);
    buffer_bulk_text(&b, word);
    if (pattern.data)
        buffer_bulk(&b, pattern);
    buffer_bulk(&b, channel);
    buffer_bulk(&b, payload);
    if (to->answering)
        buffer_add(&to->behind, b.data, b.len);
    else
        peer_send(to->peer, b.data, b.len);
    buffer_free(&b);
}

/* Patterns are a name and a '*', or nothing but the name. */
static bool matches(struct resp_slice pattern, struct resp_slice name)
{
    if (pattern.len && pattern.data[pattern.len - 1] == '*')
        return slice_begins(name, (struct resp_slice){pattern.data, pattern.len - 1});
    return slice_equal(pattern, name);
}

static size_t say_by_patterns(struct redis_conn *c, struct resp_slice channel,
                              struct resp_slice payload)
{
    const struct names *patterns = &c->topics[TOPIC_PATTERNS];
    size_t told = 0;
    for (size_t i = 0; i < patterns->n; i++) {
        struct resp_slice pattern = {patterns->v[i], patterns->len[i]};
        if (!matches(pattern, channel))
            continue;
        say_message(c, "pmessage", pattern, channel, payload);
        told++;
    }
    return told;
}

size_t redis_publish(struct redis *r, enum topic topic, struct resp_slice channel,
                     struct resp_slice payload)
{
    const struct resp_slice none = {0};
    struct redis_conn *c;
    size_t told = 0;
    TAILQ_FOREACH(c, &r->conns, entry)
    {
        if (!c->peer->conn)
            continue;
        if (has_topic(c, topic, channel)) {
            say_message(c, topic == TOPIC_SHARDS ? "smessage" : "message", none, channel, payload);
            told++;
        }
        if (topic == TOPIC_CHANNELS)
            told += say_by_patterns(c, channel, payload);
    }
    return told;
}
