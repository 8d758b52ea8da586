/* forward.c - one request to the upstream, and its reply back to the client. */
#include "forward.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "announce.h"
#include "link.h"
#include "notice.h"
#include "pressure.h"
#include "query.h"
#include "wire.h"

enum {
    BACKLOG_SLOW = 56 * 1024, /* bytes unread by a client, beside the read at hand, before its
                               * reply is held back: 128 KiB in all, .. */
    BACKLOG_OTHERS = 8 * 1024 * 1024, /* .. where others wait for theirs behind it */
    HOLD_READER_MAX = 100,            /* ms */
    ANNOUNCED_MAX = 64 * 1024,        /* keys of one command, before all of them are announced */
};

/* --- writes in the L1 ---------------------------------------------------------------------------
 */

static const uint64_t *hashes_of(const struct writes *w)
{
    return w->many ? w->many : &w->one;
}

/* Other instances are told of writes. */
static bool is_announcing(const struct proxy *p)
{
    return p->config->publish == PUBLISH_ON ||
           (p->config->publish == PUBLISH_AUTO && !link_is_tracking(p->link));
}

static bool keep_name(struct writes *w, struct resp_slice key)
{
    size_t more = sizeof key.len + key.len;
    if (w->names_cap - w->names_len < more) {
        size_t cap = 2 * w->names_cap + more;
        char *names = realloc(w->names, cap);
        if (!names)
            return false;
        w->names = names;
        w->names_cap = cap;
    }
    assert(w->names);
    memcpy(w->names + w->names_len, &key.len, sizeof key.len);
    if (key.len)
        memcpy(w->names + w->names_len + sizeof key.len, key.data, key.len);
    w->names_len += more;
    return true;
}

/* What has been written is announced, once. */
static void announce(struct proxy *p, struct writes *w, struct announce_lane lane)
{
    for (size_t at = 0; at < w->names_len;) {
        struct resp_slice key;
        memcpy(&key.len, w->names + at, sizeof key.len);
        key.data = w->names + at + sizeof key.len;
        announce_key(p->announce, lane, key);
        at += sizeof key.len + key.len;
    }
    free(w->names);
    w->names = NULL;
    w->names_len = w->names_cap = 0;
    w->announced = true;
    if (w->all && is_announcing(p))
        announce_all(p->announce, lane);
}

bool writes_add_hash(struct writes *w, uint64_t hash)
{
    if (w->n == 0) {
        w->one = hash;
        w->n = 1;
        return true;
    }
    if ((w->n & (w->n - 1)) == 0) {
        uint64_t *more = realloc(w->many, 2 * w->n * sizeof *more);
        if (!more)
            return false;
        more[0] = w->many ? more[0] : w->one;
        w->many = more;
    }
    w->many[w->n++] = hash;
    return true;
}

/* Counts a key among those that may change, if it can be in an L1. */
static bool touch(struct proxy *p, struct writes *w, struct resp_slice key)
{
    return !proxy_has_l1(p) || writes_add_hash(w, coherence_hash(p->coherence, key.data, key.len));
}

void writes_free(struct writes *w)
{
    free(w->many);
    free(w->names);
    *w = (struct writes){0};
}

/* The class of blocking pops, scripts and FLUSHALL tells nothing of it. */
static bool may_write(const struct command *command)
{
    return command->class_ == COMMAND_WRITE || command->class_ == COMMAND_ADMIN ||
           command->flags & COMMAND_FLAG_WRITE ||
           (command->class_ == COMMAND_SESSION && command->keys_unknown);
}

/* A function's keys are those that it was given, and whatever else it likes. */
static bool may_write_anything(const struct command *command, const struct command_keys *keys)
{
    return keys->n == 0 || command->id == COMMAND_ID_FCALL || command->class_ == COMMAND_ADMIN;
}

static bool add_keys(struct proxy *p, struct writes *w, const struct request_plan *plan)
{
    const struct command_keys *keys = &p->keys;
    bool some_written = false;
    for (size_t i = 0; i < keys->n; i++)
        some_written |= keys->v[i].flags & COMMAND_KEY_WRITE;
    for (size_t i = 0; i < keys->n; i++) {
        const struct command_key *k = &keys->v[i];
        if (k->kind != COMMAND_ARG_KEY || (some_written && !(k->flags & COMMAND_KEY_WRITE)))
            continue;
        if (!touch(p, w, plan->argv[k->arg]) ||
            (is_announcing(p) && !keep_name(w, plan->argv[k->arg])))
            return false;
    }
    return true;
}

struct published {
    struct proxy *proxy;
    struct writes *writes;
    bool ok;
};

static void touch_published(void *ctx, struct resp_slice key)
{
    struct published *pub = ctx;
    pub->ok = pub->ok && touch(pub->proxy, pub->writes, key);
    pub->proxy->metrics->invalidations++;
}

static void touch_prefix(void *ctx, struct resp_slice prefix)
{
    struct published *pub = ctx;
    (void)prefix;
    pub->writes->all = true; /* more than was asked for is still right */
}

/* An invalidation that our own client publishes counts before it is acknowledged. */
static bool add_published(struct proxy *p, struct writes *w, const struct request_plan *plan)
{
    struct published pub = {p, w, true};
    const struct notice_sink sink = {touch_published, touch_prefix, &pub};
    enum notice_result result =
        notice_read(p->ns, p->config->service, NULL, plan->argv[1], plan->argv[2], &sink);
    if (result == NOTICE_MALFORMED)
        p->metrics->events_malformed++;
    return pub.ok;
}

static bool add_read_keys(struct proxy *p, struct writes *w, const struct request_plan *plan)
{
    for (size_t i = 0; i < p->keys.n; i++)
        if (p->keys.v[i].kind == COMMAND_ARG_KEY && !touch(p, w, plan->argv[p->keys.v[i].arg]))
            return false;
    return true;
}

bool writes_add(struct proxy *p, const struct caller *c, struct writes *w,
                const struct request_plan *plan)
{
    const struct command *command = plan->command;
    if (!may_write(command) && command->id != COMMAND_ID_PUBLISH)
        return !c->lane || !RULE_IN_FORCE(RULE_SESSION_READ) || add_read_keys(p, w, plan);
    w->written = true;
    if (command->id == COMMAND_ID_PUBLISH)
        return !RULE_IN_FORCE(RULE_OWN_PUBLISH) || add_published(p, w, plan);
    if (command->flags & COMMAND_FLAG_BLOCKING && !RULE_IN_FORCE(RULE_BLOCKING_POP))
        return true;
    if (!may_write_anything(command, &p->keys))
        return add_keys(p, w, plan);
    w->all = true;
    return true;
}

bool writes_begin(struct proxy *p, struct request *r, struct writes *w)
{
    uint32_t begun = w->written ? 0 : w->n;
    while (begun < w->n && coherence_write_begin(p->coherence, hashes_of(w)[begun]))
        begun++;
    bool ok = begun == w->n;
    if (ok && w->all)
        coherence_write_all_begin(p->coherence);
    r->writes = *w;
    r->writes.n = begun;
    r->writes.all = ok && w->all;
    *w = (struct writes){0};
    return ok;
}

static void end_writes(struct proxy *p, struct writes *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        if (w->written)
            coherence_write_end(p->coherence, hashes_of(w)[i]);
        else if (coherence_read_kills(p->coherence))
            coherence_kill(p->coherence, hashes_of(w)[i]);
    if (w->all)
        coherence_write_all_end(p->coherence);
    if (w->fills_held)
        coherence_release_fills(p->coherence);
    writes_free(w);
}

/* --- refusing -----------------------------------------------------------------------------------
 */

/* A transaction fails with the server's own refusal of a command that does not exist. */
static void spoil_transaction(struct proxy *p, struct caller *c, const char *line)
{
    struct request *r = proxy_refused(p, c, c->lane) ? NULL : forward_expect(c, c->lane);
    if (!r)
        return;
    if (!upstream_expect(c->lane, r, REPLY_IGNORED)) {
        forward_give_up(p, r);
        return;
    }
    wire_command(upstream_out(c->lane), &(struct resp_slice){"nearcache.refused", 17}, 1);
    upstream_sent(c->lane);
    request_bytes(r, line, strlen(line));
}

void forward_refuse(struct proxy *p, struct caller *c, const char *line)
{
    char error[COMMAND_ERROR_MAX + 8];
    if (!c->in_multi) {
        caller_answer_error(c, line);
        return;
    }
    snprintf(error, sizeof error - 2, "-%s", line);
    for (char *at = error; *at; at++)
        if (*at == '\r' || *at == '\n')
            *at = ' ';
    memcpy(error + strlen(error), "\r\n", 3);
    spoil_transaction(p, c, error);
}

/* --- sending ------------------------------------------------------------------------------------
 */

struct request *forward_expect(struct caller *c, struct upstream_conn *uc)
{
    struct request *r = request_new(c);
    if (!r) {
        caller_not_sent(c);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return NULL;
    }
    r->source = uc;
    return r;
}

void forward_give_up(struct proxy *p, struct request *r)
{
    if (r->caller)
        caller_not_sent(r->caller);
    forward_lost(p, r, UPSTREAM_NO_MEMORY);
}

/* A script knows the full names of its keys, and may well answer one. */
static struct resp_rewriter *script_rewriter(struct proxy *p, const struct request_plan *plan)
{
    struct resp_slice *names = calloc(p->keys.n + 1, sizeof *names);
    for (size_t i = 0; names && i < p->keys.n; i++)
        names[i] = plan->argv[p->keys.v[i].arg];
    struct resp_rewriter *rewriter =
        names ? resp_rewriter_new_named(p->ns->prefix, names, p->keys.n) : NULL;
    free(names);
    return rewriter;
}

bool forward_rewriter(struct proxy *p, const struct request_plan *plan,
                      struct resp_rewriter **rewriter)
{
    enum resp_keys kind = plan->command->keys_in_reply;
    *rewriter = NULL;
    if (kind == RESP_KEYS_NONE || p->ns->prefix.len == 0)
        return true;
    *rewriter =
        kind == RESP_KEYS_NAMED ? script_rewriter(p, plan) : resp_rewriter_new(kind, p->ns->prefix);
    return *rewriter != NULL;
}

void forward_sent(struct request *r, size_t bytes)
{
    r->cost = bytes;
    r->caller->owed_bytes += bytes;
    upstream_sent(r->source);
}

static struct announce_lane lane_of(const struct caller *c, const struct upstream_conn *uc)
{
    return (struct announce_lane){
        .db = c->db, .resp = c->resp, .slot = proxy_slot(c), .serial = upstream_serial(uc)};
}

/* --- commands of very many arguments ------------------------------------------------------------
 *
 * They are written bit by bit, down a shared connection. Instead of each key that it writes, such a
 * command holds up all fills until it is answered; its keys are killed as they are written.
 */

struct long_command {
    struct proxy *proxy;
    struct request *request;
    bool writes, flagged; /* the keys that are flagged as written, or all, as none is */
    struct writes told;   /* what other instances are told of */
    size_t n_told;
};

static void kill_written(void *ctx, const struct command_key *key, struct resp_slice name)
{
    struct long_command *l = ctx;
    const struct proxy *p = l->proxy;
    if (!l->writes || key->kind != COMMAND_ARG_KEY ||
        (l->flagged && !(key->flags & COMMAND_KEY_WRITE)))
        return;
    coherence_kill(p->coherence, coherence_hash(p->coherence, name.data, name.len));
    bool told = !is_announcing(p) || (++l->n_told <= ANNOUNCED_MAX && keep_name(&l->told, name));
    l->told.all |= !told; /* more than was written is still right */
}

static void send_long(struct long_command *l, struct chain *out)
{
    struct proxy *p = l->proxy;
    struct request *r = l->request;
    struct caller *c = r->caller;
    struct upstream_conn *uc = c && out ? proxy_lane(p, c, c->db) : NULL;
    const char *refusal = uc ? upstream_refusal(uc) : UPSTREAM_NO_MEMORY;
    if (!refusal && !upstream_expect(uc, r, REPLY_FORWARD))
        refusal = UPSTREAM_NO_MEMORY;
    if (refusal) {
        forward_lost(p, r, refusal);
        return;
    }
    size_t bytes = out->len;
    r->source = uc;
    announce(p, &l->told, lane_of(c, uc));
    chain_move(upstream_out(uc), out);
    forward_sent(r, bytes);
}

static void long_done(void *ctx, struct chain *out)
{
    struct long_command *l = ctx;
    send_long(l, out);
    writes_free(&l->told);
    free(l);
}

static struct request *begin_long(struct proxy *p, struct caller *c,
                                  const struct request_plan *plan)
{
    static const struct outgoing_hooks hooks = {.key = kill_written, .done = long_done};
    struct request *r = forward_expect(c, NULL);
    struct long_command *l = r ? calloc(1, sizeof *l) : NULL;
    if (!r)
        return NULL;
    bool ok = l && forward_rewriter(p, plan, &r->rewriter);
    if (ok) {
        *l = (struct long_command){.proxy = p, .request = r, .writes = may_write(plan->command)};
        for (size_t i = 0; i < p->keys.n; i++)
            l->flagged |= p->keys.v[i].flags & COMMAND_KEY_WRITE;
        ok = outgoing_begin(p, plan, &p->keys, &hooks, l);
    }
    if (!ok) {
        free(l);
        forward_give_up(p, r);
        return NULL;
    }
    r->exclusive = c->exclusive = true;
    r->writes.fills_held = l->writes;
    if (l->writes)
        coherence_hold_fills(p->coherence);
    return r;
}

/* Down a private connection it is sent at once: nobody else waits there. */
static bool is_long(const struct proxy *p, const struct caller *c, const struct request_plan *plan)
{
    const struct command *command = plan->command;
    return !c->lane && outgoing_is_long(plan) &&
           (!may_write(command) || !may_write_anything(command, &p->keys));
}

struct request *forward_send(struct proxy *p, struct caller *c, const struct request_plan *plan,
                             struct upstream_conn *uc)
{
    if (is_long(p, c, plan))
        return begin_long(p, c, plan);
    struct writes writes = {0};
    struct request *r = forward_expect(c, uc);
    if (!r)
        return NULL;
    bool ok = forward_rewriter(p, plan, &r->rewriter) && writes_add(p, c, &writes, plan) &&
              writes_begin(p, r, &writes) && upstream_expect(uc, r, REPLY_FORWARD);
    if (!ok) {
        writes_free(&writes);
        forward_give_up(p, r);
        return NULL;
    }
    if (plan->command->id == COMMAND_ID_PUBLISH)
        r->writes.announced = true; /* the client does it itself */
    else if (uc != c->lane)
        announce(p, &r->writes, lane_of(c, uc));
    forward_sent(r, outgoing_append(p, upstream_out(uc), plan, &p->keys));
    return r;
}

bool forward_list_keys(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    enum command_keys_status status =
        command_list_keys(plan->command, plan->argv, plan->argc, &p->keys);
    if (status == COMMAND_KEYS_NO_MEMORY) {
        caller_not_sent(c);
        forward_refuse(p, c, "NEARCACHE out of memory");
        return false;
    }
    if (status == COMMAND_KEYS_REFUSE && p->ns->prefix.len) {
        forward_refuse(p, c,
                       "NOPERM this command's keys can't be told from its arguments, so that it "
                       "can't be kept within the namespace");
        return false;
    }
    bool patterns = false;
    for (size_t i = 0; i < p->keys.n; i++)
        patterns |= p->keys.v[i].kind == COMMAND_ARG_PATTERN;
    if (patterns && !namespace_sortable(p->ns)) {
        forward_refuse(p, c, "ERR BY and GET patterns don't work in a namespace with a '*'");
        return false;
    }
    return true;
}

struct request *forward_down(struct proxy *p, struct caller *c, const struct request_plan *plan,
                             struct upstream_conn *uc)
{
    if (!forward_list_keys(p, c, plan) || proxy_refused(p, c, uc))
        return NULL;
    return forward_send(p, c, plan, uc);
}

struct request *forward_run(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    return forward_down(p, c, plan, proxy_lane(p, c, c->db));
}

struct request *forward_alone(struct proxy *p, struct caller *c, const struct request_plan *plan,
                              struct upstream_conn *uc)
{
    struct request *r = forward_down(p, c, plan, uc);
    if (r)
        r->exclusive = c->exclusive = true;
    return r;
}

/* --- replies ------------------------------------------------------------------------------------
 */

/* Once for a while: who has not read what he was sent by then reads nothing, and is buffered. */
static bool may_hold(const struct proxy *p, struct caller *c)
{
    uint64_t now = loop_now(p->loop);
    if (c->held_since == 0)
        c->held_since = now;
    return now - c->held_since < HOLD_READER_MAX;
}

/* A reader that does not keep up: first its reply is held back, then buffered, then it has to go.
 */
void forward_watch_backlog(struct proxy *p, struct request *r)
{
    struct caller *c = r->caller;
    if (!c || caller_unread(c) <= BACKLOG_SLOW)
        return;
    if (!pressure_check(p, c, 0) || !r->source || c->head != r)
        return;
    size_t most = upstream_has_others(r->source) ? BACKLOG_OTHERS : BACKLOG_SLOW;
    if (conn_out(c->conn)->len > most) /* who takes all of it at once is not told to go on later */
        conn_flush(c->conn);
    if (conn_out(c->conn)->len > most && may_hold(p, c))
        (void)upstream_hold(r->source);
}

static void emit(void *ctx, const char *p, size_t n)
{
    request_bytes(ctx, p, n);
}

void forward_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n)
{
    if (!r->rewriter) {
        request_bytes(r, bytes, n);
    } else {
        size_t used = 0;
        if (resp_rewrite(r->rewriter, bytes, n, &used, emit, r) == RESP_BAD && r->caller)
            pressure_kick(p, r->caller, "the upstream's reply could not be rewritten");
    }
    forward_watch_backlog(p, r);
}

static void end_patience(struct request *r)
{
    r->patient = false;
    upstream_patience(r->source, -1);
    if (r->caller && r->blocks)
        r->caller->state.blocking--;
}

void forward_announce_all(struct proxy *p)
{
    announce(p, &(struct writes){.all = true},
             (struct announce_lane){.db = p->address->db, .resp = 2});
}

void forward_end(struct proxy *p, struct request *r)
{
    if (!r->writes.announced) /* on a private connection, whose writes nobody follows there */
        announce(p, &r->writes, (struct announce_lane){.db = p->address->db, .resp = 2});
    end_writes(p, &r->writes);
    resp_rewriter_free(r->rewriter);
    r->rewriter = NULL;
    if (r->source)
        upstream_release(r->source);
    if (r->patient)
        end_patience(r);
    if (!r->caller)
        p->metrics->replies_dropped++;
}

/* A shared connection is one database's; a private one changes with its client. */
void forward_select_db(struct upstream_conn *uc, struct caller *c, uint32_t db)
{
    if (!c)
        return;
    c->db = db;
    if (c->lane == uc)
        upstream_set_db(uc, db);
}

void forward_done(struct proxy *p, struct request *r, char type)
{
    forward_end(p, r);
    if (r->select_db && type == '+')
        forward_select_db(r->source, r->caller, r->db);
    request_done(r);
}

void forward_lost(struct proxy *p, struct request *r, const char *error)
{
    forward_end(p, r);
    p->metrics->upstream_errors++;
    request_fail(r, error);
}

void forward_finish(struct proxy *p, struct request *r, char type, const char *error)
{
    if (error)
        forward_lost(p, r, error);
    else
        forward_done(p, r, type);
}

void forward_client_drained(struct caller *c)
{
    c->held_since = 0;
    if (c->lane)
        upstream_release(c->lane);
    else if (c->head && c->head->source)
        upstream_release(c->head->source);
}
