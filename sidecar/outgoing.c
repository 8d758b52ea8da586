/* outgoing.c - a client's command as it goes to the upstream. */
#include "outgoing.h"

#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "wire.h"

enum {
    KEEP_RATHER_THAN_COPY = 64 * 1024, /* bytes of an argument */
    LONG = 4096,        /* arguments from which on a command is written bit by bit .. */
    ARGS_A_TURN = 2048, /* .. of so many */
};

/* --- one argument -------------------------------------------------------------------------------
 */

/* Argument i, if the command is about channels and it is one. */
static bool is_channel(const struct command *command, size_t i)
{
    if (command->channels == COMMAND_CHANNELS_FIRST)
        return i == 1;
    return command->channels && i >= (strchr(command->name, '|') ? 2 : 1);
}

static void append_channel(struct proxy *p, struct chain *out, const struct command *command,
                           struct resp_slice name)
{
    bool pattern = command->channels == COMMAND_CHANNELS_PATTERNS;
    struct channel_name full = channel_out(p->ns, p->config->channels_namespace, name, pattern);
    wire_bulk3(out, full.head, full.prefix, full.tail);
}

/* A large one stays where it was read. */
static void append_plain(struct chain *out, const struct request_plan *plan, struct resp_slice arg)
{
    bool keep = arg.len >= KEEP_RATHER_THAN_COPY && block_holds(plan->block, arg.data) &&
                memcmp(arg.data + arg.len, "\r\n", 2) == 0;
    if (!keep) {
        wire_bulk(out, arg);
        return;
    }
    wire_header(out, '$', arg.len);
    chain_append_block(out, plan->block, arg.data, arg.len + 2);
}

/* Writes arguments [from, to); `k` counts the keys that have been written. */
static void append_part(struct proxy *p, struct chain *out, const struct request_plan *plan,
                        const struct command_keys *keys, size_t *k, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        if (*k < keys->n && keys->v[*k].arg == i) {
            wire_bulk2(out, p->ns->prefix, plan->argv[i]);
            ++*k;
        } else if (is_channel(plan->command, i)) {
            append_channel(p, out, plan->command, plan->argv[i]);
        } else {
            append_plain(out, plan, plan->argv[i]);
        }
    }
}

/* --- as it came ---------------------------------------------------------------------------------
 *
 *     *3\r\n$3\r\nSET\r\n  $3\r\n         key\r\n$5\r\nvalue\r\n
 *     |_____ a run _____| |_ anew _| prefix |_______ a run ______|
 *
 * Between the lengths of keys the bytes are those that the client sent.
 */

static const char *end_of(struct resp_slice arg)
{
    return arg.data + arg.len + 2; /* with the CRLF */
}

/* A long run stays where it was read. */
static void append_run(struct chain *out, const struct request_plan *plan, const char *from,
                       const char *to)
{
    size_t n = (size_t)(to - from);
    if (n >= KEEP_RATHER_THAN_COPY && block_holds(plan->block, from))
        chain_append_block(out, plan->block, from, n);
    else
        chain_append(out, from, n);
}

static void append_runs(struct chain *out, struct resp_slice prefix,
                        const struct request_plan *plan, const struct command_keys *keys)
{
    const char *from = plan->text;
    for (size_t k = 0; k < keys->n; k++) {
        struct resp_slice key = plan->argv[keys->v[k].arg];
        append_run(out, plan, from, end_of(plan->argv[keys->v[k].arg - 1]));
        wire_header(out, '$', prefix.len + key.len);
        chain_append(out, prefix.data, prefix.len);
        from = key.data;
    }
    append_run(out, plan, from, end_of(plan->argv[plan->argc - 1]));
}

static char *put_run(char *at, const char *from, const char *to)
{
    memcpy(at, from, (size_t)(to - from));
    return at + (to - from);
}

/* The same, where all of it fits into one piece. */
static char *put_runs(char *at, struct resp_slice prefix, const struct request_plan *plan,
                      const struct command_keys *keys)
{
    const char *from = plan->text;
    for (size_t k = 0; k < keys->n; k++) {
        struct resp_slice key = plan->argv[keys->v[k].arg];
        at = put_run(at, from, end_of(plan->argv[keys->v[k].arg - 1]));
        at = resp_put_header(at, '$', prefix.len + key.len);
        at = put_run(at, prefix.data, prefix.data + prefix.len);
        from = key.data;
    }
    return put_run(at, from, end_of(plan->argv[plan->argc - 1]));
}

static size_t append_as_it_came(struct proxy *p, struct chain *out, const struct request_plan *plan,
                                const struct command_keys *keys)
{
    struct resp_slice prefix = p->ns->prefix;
    size_t n = (size_t)(end_of(plan->argv[plan->argc - 1]) - plan->text);
    size_t most = n + keys->n * (prefix.len + RESP_HEADER_MAX), before = out->len;
    if (keys->n > CHAIN_RESERVE_MAX / RESP_HEADER_MAX || most > CHAIN_RESERVE_MAX) {
        append_runs(out, prefix, plan, keys);
        return out->len - before;
    }
    char *at = chain_reserve(out, most);
    n = (size_t)(put_runs(at, prefix, plan, keys) - at);
    chain_commit(out, n);
    return n;
}

size_t outgoing_append(struct proxy *p, struct chain *out, const struct request_plan *plan,
                       const struct command_keys *keys)
{
    if (plan->text && !plan->command->channels)
        return append_as_it_came(p, out, plan, keys);
    size_t before = out->len, k = 0;
    wire_header(out, '*', plan->argc);
    append_part(p, out, plan, keys, &k, 0, plan->argc);
    return out->len - before;
}

/* --- bit by bit ---------------------------------------------------------------------------------
 */

struct outgoing {
    struct loop_job job; /* first */
    LIST_ENTRY(outgoing) entry;
    struct proxy *proxy;
    struct request_plan plan; /* with an argv and a block of our own */
    struct command_keys keys;
    size_t at, k; /* arguments and keys that have been written */
    struct chain out;
    struct outgoing_hooks hooks;
    void *ctx;
    struct resp_slice argv[];
};

static size_t size_of(size_t argc)
{
    return sizeof(struct outgoing) + argc * sizeof(struct resp_slice);
}

bool outgoing_is_long(const struct request_plan *plan)
{
    return plan->argc >= LONG && plan->block;
}

static void end(struct outgoing *o, bool whole)
{
    LIST_REMOVE(o, entry);
    o->hooks.done(o->ctx, whole && !o->out.failed ? &o->out : NULL);
    chain_clear(&o->out);
    command_keys_free(&o->keys);
    block_drop(o->plan.block);
    budget_give(&o->proxy->loop->budget, size_of(o->plan.argc));
    free(o);
}

static void tell_keys(const struct outgoing *o, size_t from)
{
    for (size_t i = from; i < o->k; i++)
        o->hooks.key(o->ctx, &o->keys.v[i], o->argv[o->keys.v[i].arg]);
}

static void write_some(struct loop_job *job)
{
    struct outgoing *o = (struct outgoing *)job;
    size_t left = o->plan.argc - o->at, before = o->k;
    size_t to = o->at + (left < ARGS_A_TURN ? left : ARGS_A_TURN);
    append_part(o->proxy, &o->out, &o->plan, &o->keys, &o->k, o->at, to);
    o->at = to;
    tell_keys(o, before);
    if (to == o->plan.argc || o->out.failed)
        end(o, true);
    else
        loop_next_turn(o->proxy->loop, &o->job, write_some);
}

/* The arguments outlive their batch only if all of them lie in the block. */
static bool keep_arguments(struct outgoing *o, const struct request_plan *plan)
{
    for (size_t i = 0; i < plan->argc; i++) {
        o->argv[i] = plan->argv[i];
        if (!block_holds(plan->block, plan->argv[i].data))
            return false;
    }
    return true;
}

bool outgoing_begin(struct proxy *p, const struct request_plan *plan, struct command_keys *keys,
                    const struct outgoing_hooks *hooks, void *ctx)
{
    struct outgoing *o = malloc(size_of(plan->argc));
    if (!o || !keep_arguments(o, plan)) {
        free(o);
        return false;
    }
    o->job = (struct loop_job){0};
    o->proxy = p;
    o->plan = *plan;
    o->plan.argv = o->argv;
    o->plan.block = block_keep(plan->block);
    o->keys = *keys;
    *keys = (struct command_keys){0};
    o->at = o->k = 0;
    o->hooks = *hooks;
    o->ctx = ctx;
    chain_init(&o->out, &p->loop->pool);
    wire_header(&o->out, '*', plan->argc);
    LIST_INSERT_HEAD(&p->outgoing, o, entry);
    budget_take(&p->loop->budget, size_of(plan->argc));
    loop_next_turn(p->loop, &o->job, write_some);
    return true;
}

void outgoing_cancel_all(struct proxy *p)
{
    struct outgoing *o, *next;
    for (o = LIST_FIRST(&p->outgoing); o; o = next) {
        next = LIST_NEXT(o, entry);
        loop_cancel(p->loop, &o->job);
        end(o, false);
    }
}
