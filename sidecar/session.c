/* session.c - a private upstream connection lent to a client while its own connection has state. */
#include "session.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filtered.h"
#include "local.h"
#include "push.h"
#include "query.h"
#include "resp_read.h"
#include "scoped.h"
#include "transaction.h"
#include "wire.h"

enum { SESSION_MAGIC = 0x73657373 };

/* CLIENT TRACKING as asked for. */
struct tracking_request {
    bool on, bcast, add_namespace;
    size_t prefixes;
    uint64_t redirect; /* caller id */
};

struct session {
    uint32_t magic;
    struct proxy *proxy;
    struct caller *caller;
    struct upstream_conn *uc;
    bool pinned; /* for as long as the client is there: others redirect to it, or its state is more
                    than is known here */
    struct transaction *transaction;                /* being queued */
    struct request *subscribing, *last_subscribing; /* not yet confirmed, in order */
    bool whole_namespace;                           /* tracks by the namespace's own prefix */
    struct tracking_request next;                   /* the CLIENT TRACKING under way */
    char *message;                                  /* a message as far as it has come */
    size_t message_len, message_cap;
};

/* What the end of a request does to its session (request.effect). */
enum effect { EFFECT_NONE, EFFECT_MULTI, EFFECT_TRACKING };

static struct session *session_of(void *holder)
{
    struct session *s = holder;
    assert(s->magic == SESSION_MAGIC);
    return s;
}

static bool is_subscribed(const struct caller *c)
{
    return c->state.channels || c->state.patterns || c->state.shards;
}

static bool has_state(const struct caller *c)
{
    return c->in_multi || c->state.watching || c->state.tracking || is_subscribed(c) ||
           c->session->subscribing || c->session->pinned;
}

/* --- waiting for a connection -------------------------------------------------------------------
 */

static void stop_waiting(struct proxy *p, struct caller *c)
{
    if (!c->wait_since)
        return;
    TAILQ_REMOVE(&p->waiting, c, wait_entry);
    c->wait_since = 0;
}

static enum request_outcome wait_a_while(struct proxy *p, struct caller *c)
{
    if (!c->wait_since) {
        c->wait_since = loop_now(p->loop);
        TAILQ_INSERT_TAIL(&p->waiting, c, wait_entry);
    }
    return REQUEST_LATER;
}

static bool has_waited_enough(const struct proxy *p, const struct caller *c)
{
    return c->wait_since && loop_now(p->loop) - c->wait_since >= p->config->upstream_session_wait;
}

static void wake_first(struct proxy *p)
{
    struct caller *c = TAILQ_FIRST(&p->waiting);
    if (c)
        c->progress(c);
}

void session_tick(struct proxy *p, uint64_t now)
{
    struct caller *c, *next;
    (void)now;
    for (c = TAILQ_FIRST(&p->waiting); c; c = next) {
        next = TAILQ_NEXT(c, wait_entry);
        c->progress(c);
    }
}

/* --- lending and giving back --------------------------------------------------------------------
 */

static bool attach(struct proxy *p, struct caller *c, struct session *s)
{
    struct upstream_conn *uc = upstream_lend(p->upstream, c->db, c->resp, s);
    if (!uc)
        return false;
    *s = (struct session){.magic = SESSION_MAGIC, .proxy = p, .caller = c, .uc = uc};
    c->session = s;
    c->lane = uc;
    return true;
}

/* False: there is none (yet). */
static bool open_session(struct proxy *p, struct caller *c)
{
    struct caller *first = TAILQ_FIRST(&p->waiting);
    struct session *s = !first || first == c || c->wait_since ? calloc(1, sizeof *s) : NULL;
    if (s && attach(p, c, s)) {
        stop_waiting(p, c);
        return true;
    }
    free(s);
    return false;
}

/* Its connection is somebody else's, or nobody's, by now. */
static void forget(struct session *s)
{
    struct caller *c = s->caller;
    c->session = NULL;
    c->lane = NULL;
    c->in_multi = false;
    c->state = (struct caller_state){.blocking = c->state.blocking};
    transaction_free(s->transaction);
    free(s->message);
    s->magic = 0;
    free(s);
}

static void give_back(struct session *s)
{
    struct proxy *p = s->proxy;
    struct upstream_conn *uc = s->uc;
    forget(s);
    upstream_return(uc);
    wake_first(p);
}

static void discard(struct session *s)
{
    struct proxy *p = s->proxy;
    struct upstream_conn *uc = s->uc;
    forget(s);
    upstream_discard(uc);
    wake_first(p);
}

void session_settle(struct proxy *p, struct caller *c)
{
    (void)p;
    if (c->session && !c->head && !has_state(c))
        give_back(c->session);
}

void session_end(struct proxy *p, struct caller *c)
{
    if (c->wait_since) {
        stop_waiting(p, c);
        wake_first(p);
    }
    if (!c->session)
        return;
    if (has_state(c) || c->state.blocking)
        discard(c->session);
    else
        give_back(c->session);
}

/* A client whose connection had state is disconnected, as it would be if Redis had gone. */
void session_severed(void *ctx, void *holder)
{
    struct proxy *p = ctx;
    struct session *s = session_of(holder);
    struct caller *c = s->caller;
    bool leave = has_state(c);
    forget(s);
    c->quitting |= leave;
    c->progress(c);
    wake_first(p);
}

/* --- plain commands -----------------------------------------------------------------------------
 */

static struct request *send_plain(struct proxy *p, struct caller *c,
                                  const struct request_plan *plan)
{
    if (!forward_list_keys(p, c, plan) || proxy_refused(p, c, c->lane))
        return NULL;
    return forward_send(p, c, plan, c->lane);
}

static void be_patient(struct request *r)
{
    r->patient = true;
    upstream_patience(r->source, 1);
}

/* A reply without a deadline: a script runs, .. */
static struct request *send_patient(struct proxy *p, struct caller *c,
                                    const struct request_plan *plan)
{
    struct request *r = send_plain(p, c, plan);
    if (r)
        be_patient(r);
    return r;
}

/* .. or it waits for what others do. */
static void send_blocking(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct request *r = send_patient(p, c, plan);
    if (!r)
        return;
    r->blocks = true;
    c->state.blocking++;
}

/* The server counts writes of the connection that asks; PING makes all that went before its own. */
static void send_wait(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = c->lane;
    if (proxy_refused(p, c, uc))
        return;
    if (!upstream_expect(uc, NULL, REPLY_IGNORED)) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    wire_command(upstream_out(uc), (struct resp_slice[]){wire_text("PING")}, 1);
    send_blocking(p, c, plan);
}

/* --- ids ----------------------------------------------------------------------------------------
 */

static struct caller *find_caller(struct proxy *p, struct resp_slice id)
{
    int64_t n;
    struct caller *c;
    if (!resp_parse_int(id, &n) || n <= 0)
        return NULL;
    TAILQ_FOREACH(c, &p->callers, entry)
    if (c->id == (uint64_t)n)
        return c;
    return NULL;
}

/* The number at the server of the connection that the client `id` has there; `other`: none. */
static void append_id(struct proxy *p, struct chain *out, struct resp_slice id, uint64_t other)
{
    struct caller *c = find_caller(p, id);
    uint64_t theirs = c && c->lane ? upstream_client_id(c->lane) : other;
    char number[24];
    int64_t n;
    snprintf(number, sizeof number, "%llu", (unsigned long long)theirs);
    wire_bulk(out, resp_parse_int(id, &n) ? wire_text(number) : id);
}

/* --- CLIENT TRACKING ----------------------------------------------------------------------------
 */

/* The connection of a client that others redirect to is its own for good. False: not ready yet. */
static bool pin(struct proxy *p, struct caller *c)
{
    if (!c->session && (c->head || !open_session(p, c)))
        return false;
    c->session->pinned = true;
    return upstream_client_id(c->lane) != 0;
}

static bool is_option(const struct request_plan *plan, size_t i, const char *word)
{
    return i + 1 < plan->argc && resp_word_is(plan->argv[i], word);
}

/* False: the connection redirected to is not ready yet. */
static bool read_tracking(struct proxy *p, const struct request_plan *plan,
                          struct tracking_request *t)
{
    *t = (struct tracking_request){.on = resp_word_is(plan->argv[2], "on")};
    for (size_t i = 3; i < plan->argc; i++) {
        if (is_option(plan, i, "redirect")) {
            struct caller *other = find_caller(p, plan->argv[++i]);
            if (other && t->on && !pin(p, other))
                return false;
            t->redirect = other ? other->id : 0;
        } else if (is_option(plan, i, "prefix")) {
            t->prefixes++;
            i++;
        } else if (resp_word_is(plan->argv[i], "bcast")) {
            t->bcast = true;
        }
    }
    t->add_namespace = t->on && t->bcast && t->prefixes == 0 && p->ns->prefix.len;
    return true;
}

static size_t append_tracking(struct proxy *p, struct chain *out, const struct request_plan *plan,
                              const struct tracking_request *t)
{
    size_t before = out->len;
    wire_header(out, '*', plan->argc + (t->add_namespace ? 2 : 0));
    for (size_t i = 0; i < plan->argc; i++) {
        wire_bulk(out, plan->argv[i]);
        if (i < 3)
            continue;
        if (is_option(plan, i, "redirect"))
            append_id(p, out, plan->argv[++i], INT64_MAX);
        else if (is_option(plan, i, "prefix"))
            wire_bulk2(out, p->ns->prefix, plan->argv[++i]);
    }
    if (t->add_namespace) {
        wire_bulk(out, wire_text("PREFIX"));
        wire_bulk(out, p->ns->prefix);
    }
    return out->len - before;
}

static void apply_tracking(struct caller *c, const struct tracking_request *t)
{
    struct caller_state *st = &c->state;
    st->tracking = t->on;
    st->tracking_bcast = t->on && t->bcast;
    st->redirect = t->on ? t->redirect : 0;
    c->session->whole_namespace = t->on && (t->add_namespace || c->session->whole_namespace);
}

static void send_tracking(struct proxy *p, struct caller *c, const struct request_plan *plan,
                          const struct tracking_request *t)
{
    struct upstream_conn *uc = c->lane;
    struct session *s = c->session;
    struct request *r = proxy_refused(p, c, uc) ? NULL : forward_expect(c, uc);
    if (!r)
        return;
    if (!forward_rewriter(p, plan, &r->rewriter) || !upstream_expect(uc, r, REPLY_FORWARD)) {
        forward_give_up(p, r);
        return;
    }
    s->next = *t;
    r->effect = EFFECT_TRACKING;
    r->exclusive = c->exclusive = true;
    forward_sent(r, append_tracking(p, upstream_out(uc), plan, t));
}

static enum request_outcome run_tracking(struct proxy *p, struct caller *c,
                                         const struct request_plan *plan)
{
    struct tracking_request t;
    if (!read_tracking(p, plan, &t) && !has_waited_enough(p, c))
        return wait_a_while(p, c);
    stop_waiting(p, c);
    /* The server would refuse our prefix as overlapping with itself. */
    if (t.add_namespace && c->state.tracking && c->session->whole_namespace)
        caller_answer_text(c, "+OK\r\n");
    else
        send_tracking(p, c, plan, &t);
    return REQUEST_TAKEN;
}

/* CLIENT TRACKINGINFO: flags, the id redirected to, prefixes. */
struct tracking_info {
    struct query query; /* first */
    struct proxy *proxy;
    struct request *request;
};

/* Past an element's line; true if there was one. */
static bool skip_line(struct resp_reader *r)
{
    const char *lf = memchr(r->p, '\n', (size_t)(r->end - r->p));
    r->p = lf ? lf + 1 : r->end;
    return lf;
}

/* What stands before and behind the id, as it is; prefixes without ours. */
static void write_tracking_info(const struct proxy *p, const struct caller *c, const char *reply,
                                size_t n, struct chain *out)
{
    static const char mark[] = "$8\r\nredirect\r\n";
    const char *at = memmem(reply, n, mark, sizeof mark - 1);
    struct resp_reader rest = {at ? at + sizeof mark - 1 : reply + n, reply + n};
    struct resp_slice text;
    int64_t id;
    chain_append(out, reply, (size_t)(rest.p - reply));
    if (!resp_read_integer(&rest, &id))
        return;
    wire_integer(out, id > 0 ? (int64_t)c->state.redirect : id);
    while (rest.p < rest.end) {
        const char *before = rest.p;
        if (resp_read_bulk(&rest, &text)) {
            (void)namespace_strip(p->ns, text, &text);
            wire_bulk(out, text);
        } else if (skip_line(&rest)) {
            chain_append(out, before, (size_t)(rest.p - before));
        }
    }
}

static void tracking_info_done(struct query *q, const char *reply, size_t n, const char *error)
{
    struct tracking_info *info = (struct tracking_info *)q;
    struct request *r = info->request;
    struct proxy *p = info->proxy;
    free(info);
    if (error) {
        forward_lost(p, r, error);
        return;
    }
    if (r->caller)
        write_tracking_info(p, r->caller, reply, n, &r->after);
    forward_done(p, r, '*');
}

static void run_tracking_info(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct tracking_info *info = calloc(1, sizeof *info);
    struct request *r = info ? forward_expect(c, c->lane) : NULL;
    if (!r) {
        free(info);
        return;
    }
    *info = (struct tracking_info){.query.done = tracking_info_done, .proxy = p, .request = r};
    query_send(&info->query, c->lane, plan->argv, plan->argc);
}

/* --- transactions -------------------------------------------------------------------------------
 */

static void run_multi(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct session *s = c->session;
    s->transaction = transaction_new();
    struct request *r = s->transaction ? send_plain(p, c, plan) : NULL;
    if (r) {
        r->effect = EFFECT_MULTI;
        c->in_multi = true;
        return;
    }
    if (!s->transaction)
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    transaction_free(s->transaction);
    s->transaction = NULL;
}

static void end_queueing(struct caller *c)
{
    c->in_multi = false;
    c->state.watching = false;
    c->state.queued = 0;
    c->session->transaction = NULL;
}

static void run_discard(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    transaction_free(c->session->transaction);
    end_queueing(c);
    (void)send_plain(p, c, plan);
}

static void run_exec(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = c->lane;
    struct request *r = proxy_refused(p, c, uc) ? NULL : forward_expect(c, uc);
    struct transaction *t = c->session->transaction;
    end_queueing(c);
    if (!r) {
        transaction_free(t);
        return;
    }
    r->transaction = t;
    if (!writes_begin(p, r, transaction_writes(t)) || !upstream_expect(uc, r, REPLY_EXEC)) {
        session_exec_end(p, r, '-', UPSTREAM_NO_MEMORY);
        return;
    }
    be_patient(r); /* there may be scripts in it */
    forward_sent(r, forward_append(p, upstream_out(uc), plan, &(struct command_keys){0}));
}

/* What the server is sent in place of a command that is to be run here. */
static void append_stand_in(struct chain *out, const struct request_plan *plan)
{
    int64_t version;
    if (plan->command->id == COMMAND_ID_HELLO && plan->argc > 1 &&
        resp_parse_int(plan->argv[1], &version))
        wire_command(out, plan->argv, 2);
    else
        wire_command(out, (struct resp_slice[]){wire_text("PING")}, 1);
}

/* Answered here, though not in a transaction: the server's answer is good, or made good. */
static bool is_run_here(const struct command *command)
{
    switch (command->id) {
    case COMMAND_ID_INFO:
    case COMMAND_ID_SELECT:
    case COMMAND_ID_CLIENT_UNBLOCK:
    case COMMAND_ID_CONFIG_GET:
    case COMMAND_ID_SLOWLOG_GET:
        return false;
    case COMMAND_ID_CLIENT_GETREDIR:
        return true;
    default:
        return command->class_ == COMMAND_LOCAL;
    }
}

static bool is_subscription(const struct command *command)
{
    switch (command->id) {
    case COMMAND_ID_SUBSCRIBE:
    case COMMAND_ID_PSUBSCRIBE:
    case COMMAND_ID_SSUBSCRIBE:
    case COMMAND_ID_UNSUBSCRIBE:
    case COMMAND_ID_PUNSUBSCRIBE:
    case COMMAND_ID_SUNSUBSCRIBE:
        return true;
    default:
        return false;
    }
}

/* Replies that have to be seen whole. */
static bool is_gathered(const struct proxy *p, const struct command *command)
{
    return is_subscription(command) || filtered_applies(p, command) ||
           command->id == COMMAND_ID_CLIENT_TRACKINGINFO;
}

static bool is_scoped(const struct proxy *p, const struct command *command)
{
    return command->class_ == COMMAND_SCOPED && p->ns->prefix.len;
}

/* Notes what its element of EXEC's reply will need. */
static bool note_element(struct proxy *p, const struct caller *c, const struct request_plan *plan)
{
    const struct command *command = plan->command;
    struct transaction *t = c->session->transaction;
    struct writes *w = transaction_writes(t);
    int64_t db;
    if (is_run_here(command))
        return transaction_add_local(t, plan);
    if (command->id == COMMAND_ID_SELECT && resp_parse_int(plan->argv[1], &db))
        return transaction_add_select(t, (uint32_t)db);
    if (command->id == COMMAND_ID_CLIENT_TRACKING)
        return transaction_add_setting(t, plan);
    if (is_gathered(p, command))
        return transaction_add_gathered(t, command);
    if (command->id == COMMAND_ID_FLUSHDB || command->id == COMMAND_ID_FLUSHALL)
        w->all = w->written = true;
    struct resp_rewriter *rewriter;
    return (!RULE_IN_FORCE(RULE_EXEC) || writes_add(p, c, w, plan)) &&
           forward_rewriter(p, plan, &rewriter) && transaction_add(t, rewriter);
}

static void append_unblock(struct proxy *p, struct chain *out, const struct request_plan *plan)
{
    wire_header(out, '*', plan->argc);
    for (size_t i = 0; i < plan->argc; i++)
        if (i == 2)
            append_id(p, out, plan->argv[i], 0);
        else
            wire_bulk(out, plan->argv[i]);
}

static void append_tracking_again(struct proxy *p, struct chain *out,
                                  const struct request_plan *plan)
{
    struct tracking_request t;
    if (read_tracking(p, plan, &t)) /* queue_tracking has seen to it */
        (void)append_tracking(p, out, plan, &t);
}

static void append_queued(struct proxy *p, struct chain *out, const struct request_plan *plan)
{
    if (is_run_here(plan->command))
        append_stand_in(out, plan);
    else if (plan->command->id == COMMAND_ID_CLIENT_UNBLOCK)
        append_unblock(p, out, plan);
    else if (plan->command->id == COMMAND_ID_CLIENT_TRACKING)
        append_tracking_again(p, out, plan);
    else if (is_scoped(p, plan->command))
        scoped_append(p, out, plan->command->id, plan->argv, plan->argc);
    else
        (void)forward_append(p, out, plan, &p->keys);
}

static void queue(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = c->lane;
    if (!forward_list_keys(p, c, plan) || proxy_refused(p, c, uc))
        return;
    struct request *r = forward_expect(c, uc);
    if (!r)
        return;
    if (!note_element(p, c, plan) || !upstream_expect(uc, r, REPLY_FORWARD)) {
        forward_give_up(p, r);
        return;
    }
    c->state.queued++;
    struct chain *out = upstream_out(uc);
    size_t before = out->len;
    append_queued(p, out, plan);
    forward_sent(r, out->len - before);
}

static enum request_outcome queue_tracking(struct proxy *p, struct caller *c,
                                           const struct request_plan *plan)
{
    struct tracking_request t;
    if (!read_tracking(p, plan, &t)) {
        if (!has_waited_enough(p, c))
            return wait_a_while(p, c);
        forward_refuse(p, c, "NEARCACHE the connection to redirect to is not ready");
    } else {
        queue(p, c, plan);
    }
    stop_waiting(p, c);
    return REQUEST_TAKEN;
}

static enum request_outcome run_in_multi(struct proxy *p, struct caller *c,
                                         const struct request_plan *plan)
{
    switch (plan->command->id) {
    case COMMAND_ID_EXEC:
        run_exec(p, c, plan);
        return REQUEST_TAKEN;
    case COMMAND_ID_DISCARD:
        run_discard(p, c, plan);
        return REQUEST_TAKEN;
    case COMMAND_ID_MULTI: /* the server has its own words for these */
    case COMMAND_ID_WATCH:
        (void)send_plain(p, c, plan);
        return REQUEST_TAKEN;
    case COMMAND_ID_CLIENT_TRACKING:
        return queue_tracking(p, c, plan);
    default:
        queue(p, c, plan);
        return REQUEST_TAKEN;
    }
}

static void answer_redirect(struct caller *c)
{
    caller_answer_integer(c, c->state.tracking ? (int64_t)c->state.redirect : -1);
}

/* The stand-in has switched the server's side, if it could. */
static void follow_hello(struct caller *c, const struct request_plan *plan)
{
    int64_t version;
    if (plan->argc < 2 || !resp_parse_int(plan->argv[1], &version) || version < 2 || version > 3)
        return;
    if (c->lane)
        upstream_set_resp(c->lane, (unsigned)version);
    c->quitting |=
        c->resp != version; /* AUTH in it failed here: the two can't be told apart again */
}

static void run_local(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    if (plan->command->id == COMMAND_ID_CLIENT_GETREDIR)
        answer_redirect(c);
    else
        local_run(p, c, plan->command, plan->argv, plan->argc);
    if (plan->command->id == COMMAND_ID_HELLO)
        follow_hello(c, plan);
}

static void translate(struct caller *c, const char *frame, size_t n, struct chain *out);

/* CLIENT TRACKING within EXEC. */
static void set_tracking(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct tracking_request t;
    if (c->session && read_tracking(p, plan, &t))
        apply_tracking(c, &t);
}

/* A gathered element of EXEC's reply. */
static void hand_on_element(struct proxy *p, struct caller *c, const struct command *command,
                            struct resp_slice reply, struct chain *out)
{
    struct text t = {0};
    if (is_subscription(command)) {
        translate(c, reply.data, reply.len, out);
        return;
    }
    if (command->id == COMMAND_ID_CLIENT_TRACKINGINFO) {
        write_tracking_info(p, c, reply.data, reply.len, out);
        return;
    }
    filtered_reply(p, &(struct request_plan){.command = command}, c->resp, reply, &t);
    if (t.failed)
        chain_append(out, UPSTREAM_NO_MEMORY, sizeof UPSTREAM_NO_MEMORY - 1);
    else
        chain_append(out, t.p, t.len);
    free(t.p);
}

void session_exec_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n)
{
    static const struct transaction_hooks hooks = {
        .run = run_local, .set = set_tracking, .gathered = hand_on_element};
    transaction_reply(p, r, &hooks, bytes, n);
    forward_watch_backlog(p, r);
}

void session_exec_end(struct proxy *p, struct request *r, char type, const char *error)
{
    transaction_free(r->transaction);
    r->transaction = NULL;
    if (error)
        forward_lost(p, r, error);
    else
        forward_done(p, r, type);
}

/* --- pub/sub ------------------------------------------------------------------------------------
 */

static void run_subscription(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = c->lane;
    struct session *s = c->session;
    struct request *r = proxy_refused(p, c, uc) ? NULL : forward_expect(c, uc);
    if (!r)
        return;
    if (!upstream_expect(uc, r, REPLY_SUBSCRIBE)) {
        forward_give_up(p, r);
        return;
    }
    r->confirmations = (uint32_t)(plan->argc - 1); /* 0: as many as there are subscriptions */
    if (s->subscribing)
        s->last_subscribing->next_waiter = r;
    else
        s->subscribing = r;
    s->last_subscribing = r;
    forward_sent(r, forward_append(p, upstream_out(uc), plan, &(struct command_keys){0}));
}

void session_subscribe_end(struct proxy *p, struct request *r, char type, const char *error)
{
    struct session *s = r->caller ? r->caller->session : NULL;
    if (s && s->subscribing == r)
        s->subscribing = r->next_waiter;
    if (error)
        forward_lost(p, r, error);
    else
        forward_done(p, r, type);
}

/* How many confirmations an UNSUBSCRIBE without names will get. */
static uint32_t all_subscriptions(const struct caller *c, enum push_kind kind)
{
    uint32_t n = kind == PUSH_UNSUBSCRIBE    ? c->state.channels
                 : kind == PUSH_PUNSUBSCRIBE ? c->state.patterns
                                             : c->state.shards;
    return n ? n : 1;
}

/* The server counts channels and patterns together; what has changed is of the sort at hand. */
static void count_subscriptions(struct caller_state *st, const struct push *push)
{
    uint32_t before = st->channels + st->patterns, now = (uint32_t)push->count;
    switch (push->kind) {
    case PUSH_SUBSCRIBE:
    case PUSH_UNSUBSCRIBE:
        st->channels += now - before;
        break;
    case PUSH_PSUBSCRIBE:
    case PUSH_PUNSUBSCRIBE:
        st->patterns += now - before;
        break;
    case PUSH_SSUBSCRIBE:
    case PUSH_SUNSUBSCRIBE:
        st->shards = now;
        break;
    case PUSH_OTHER:
        break;
    }
}

bool session_is_push(void *ctx, void *holder, void *owner, unsigned tag, const char *two)
{
    struct session *s = session_of(holder);
    (void)ctx;
    bool subscribing = owner && tag == REPLY_SUBSCRIBE;
    return (subscribing || is_subscribed(s->caller)) && two[1] != '2'; /* "*2": the reply to PING */
}

static bool keep_message(struct session *s, const char *bytes, size_t n)
{
    if (s->message_cap - s->message_len < n) {
        size_t cap = 2 * s->message_cap + n;
        char *more = cap <= s->proxy->config->client_max_output ? realloc(s->message, cap) : NULL;
        if (!more)
            return false;
        s->message = more;
        s->message_cap = cap;
    }
    memcpy(s->message + s->message_len, bytes, n);
    s->message_len += n;
    return true;
}

static void forget_message(struct session *s)
{
    s->message_len = 0;
    if (s->message_cap > 16 * 1024) { /* memory comes back after a burst */
        free(s->message);
        s->message = NULL;
        s->message_cap = 0;
    }
}

/* A message as the client is to see it; a confirmation is counted. */
static void translate(struct caller *c, const char *frame, size_t n, struct chain *out)
{
    struct session *s = c->session;
    struct push push = push_read(frame, n);
    if (!s)
        return;
    push_write(s->proxy->ns, s->proxy->config->channels_namespace, (int64_t)c->state.redirect,
               frame, n, out);
    if (push.kind != PUSH_OTHER)
        count_subscriptions(&c->state, &push);
}

static void hand_on(struct session *s, const char *frame, size_t n)
{
    struct proxy *p = s->proxy;
    struct caller *c = s->caller;
    struct push push = push_read(frame, n);
    struct request *r = push.kind != PUSH_OTHER ? s->subscribing : NULL;
    if (r && r->confirmations == 0)
        r->confirmations = all_subscriptions(c, push.kind);
    translate(c, frame, n, caller_push(c));
    caller_pushed(c);
    forget_message(s);
    if (caller_unread(c) > p->config->client_max_output)
        forward_kick(p, c, "its unread messages exceed client.max_output");
    else if (r && --r->confirmations == 0)
        upstream_settle(s->uc);
}

void session_push(void *ctx, void *holder, const char *bytes, size_t n, bool end)
{
    struct session *s = session_of(holder);
    (void)ctx;
    if (end && s->message_len == 0)
        hand_on(s, bytes, n);
    else if (!keep_message(s, bytes, n))
        forward_kick(s->proxy, s->caller, "a message exceeds client.max_output");
    else if (end)
        hand_on(s, s->message, s->message_len);
}

/* --- HELLO --------------------------------------------------------------------------------------
 */

/* The answer is ours; where the version changes it waits until the server has changed, too. */
static void run_hello(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    unsigned before = c->resp;
    struct chain answer;
    chain_init(&answer, &c->loop->pool);
    c->capture = &answer;
    local_run(p, c, plan->command, plan->argv, plan->argc);
    c->capture = NULL;
    struct request *r = forward_expect(c, c->lane);
    if (!r) {
        chain_clear(&answer);
        return;
    }
    chain_move(&r->after, &answer);
    if (c->resp == before) {
        request_done(r);
    } else if (upstream_expect(c->lane, r, REPLY_SWITCH)) {
        wire_command(upstream_out(c->lane),
                     (struct resp_slice[]){wire_text("HELLO"), {c->resp == 3 ? "3" : "2", 1}}, 2);
        r->exclusive = c->exclusive = true;
        upstream_sent(c->lane);
    } else {
        forward_give_up(p, r);
    }
}

/* --- effects ------------------------------------------------------------------------------------
 */

void session_effect(struct request *r, char type)
{
    struct caller *c = r->caller;
    struct session *s = c ? c->session : NULL;
    if (!s)
        return;
    switch ((enum effect)r->effect) {
    case EFFECT_NONE:
        break;
    case EFFECT_MULTI:
        if (type == '-' && c->in_multi) {
            transaction_free(s->transaction);
            end_queueing(c);
        }
        break;
    case EFFECT_TRACKING:
        if (type == '+')
            apply_tracking(c, &s->next);
        break;
    }
}

/* --- dispatch -----------------------------------------------------------------------------------
 */

/* XREAD and XREADGROUP: options stand before STREAMS, and may have operands that look like others.
 */
static bool has_block(const struct request_plan *plan)
{
    size_t i = 1;
    while (i < plan->argc && !resp_word_is(plan->argv[i], "streams")) {
        if (resp_word_is(plan->argv[i], "block"))
            return true;
        i += resp_word_is(plan->argv[i], "group")   ? 3
             : resp_word_is(plan->argv[i], "count") ? 2
                                                    : 1;
    }
    return false;
}

static bool may_block(const struct request_plan *plan)
{
    return (plan->command->id == COMMAND_ID_XREAD || plan->command->id == COMMAND_ID_XREADGROUP) &&
           has_block(plan);
}

/* Only a few commands are allowed now; the server refuses the others in its own words. */
static bool is_in_pubsub_mode(const struct caller *c)
{
    return c->resp == 2 && c->session && (is_subscribed(c) || c->session->subscribing);
}

/* What waits until a CLIENT PAUSE is over may hold up nobody else. */
static bool is_paused(struct proxy *p, const struct request_plan *plan)
{
    if (p->paused_until && loop_now(p->loop) >= p->paused_until)
        p->paused_until = 0;
    return p->paused_until && plan->command->class_ != COMMAND_LOCAL &&
           plan->command->class_ != COMMAND_SCOPED;
}

bool session_takes(struct proxy *p, const struct caller *c, const struct request_plan *plan)
{
    uint16_t id = plan->command->id;
    if (id == COMMAND_ID_QUIT || id == COMMAND_ID_RESET)
        return false;
    if (c->in_multi || is_in_pubsub_mode(c))
        return true;
    return plan->command->class_ == COMMAND_SESSION || may_block(plan) ||
           (c->session && id == COMMAND_ID_HELLO) || is_paused(p, plan);
}

static enum request_outcome run_tracking_family(struct proxy *p, struct caller *c,
                                                const struct request_plan *plan)
{
    if (c->head)
        return REQUEST_LATER;
    switch (plan->command->id) {
    case COMMAND_ID_CLIENT_TRACKING:
        return run_tracking(p, c, plan);
    case COMMAND_ID_CLIENT_TRACKINGINFO:
        run_tracking_info(p, c, plan);
        break;
    default:
        answer_redirect(c);
        break;
    }
    session_settle(p, c);
    return REQUEST_TAKEN;
}

static void run_watch(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    c->state.watching = send_plain(p, c, plan) || c->state.watching;
}

static enum request_outcome run_with_session(struct proxy *p, struct caller *c,
                                             const struct request_plan *plan)
{
    const struct command *command = plan->command;
    switch (command->id) {
    case COMMAND_ID_MULTI:
        run_multi(p, c, plan);
        break;
    case COMMAND_ID_WATCH:
        run_watch(p, c, plan);
        break;
    case COMMAND_ID_UNWATCH:
        c->state.watching = false;
        (void)send_plain(p, c, plan);
        break;
    case COMMAND_ID_WAIT:
        send_wait(p, c, plan);
        break;
    case COMMAND_ID_CLIENT_TRACKING:
    case COMMAND_ID_CLIENT_TRACKINGINFO:
    case COMMAND_ID_CLIENT_GETREDIR:
        return run_tracking_family(p, c, plan);
    default:
        if (is_subscription(command))
            run_subscription(p, c, plan);
        else if (strcmp(command->name, "waitaof") == 0)
            send_wait(p, c, plan);
        else if (command->flags & COMMAND_FLAG_BLOCKING)
            send_blocking(p, c, plan);
        else
            (void)send_patient(p, c, plan);
        /* CLIENT sub-commands of newer servers: what they change is not known here. */
        c->session->pinned |= command->learned && strchr(command->name, '|');
        break;
    }
    session_settle(p, c); /* it may have been refused */
    return REQUEST_TAKEN;
}

static enum request_outcome refuse_waiter(struct proxy *p, struct caller *c)
{
    stop_waiting(p, c);
    p->metrics->upstream_errors++;
    char text[160];
    snprintf(text, sizeof text,
             "NEARCACHE no private connection within %llu ms: all %llu are lent; see "
             "upstream.sessions",
             (unsigned long long)p->config->upstream_session_wait,
             (unsigned long long)p->config->upstream_sessions);
    caller_answer_error(c, text);
    return REQUEST_TAKEN;
}

enum request_outcome session_run(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    if (!c->session && c->head)
        return REQUEST_LATER;
    if (!c->session && !open_session(p, c))
        return has_waited_enough(p, c) ? refuse_waiter(p, c) : wait_a_while(p, c);
    if (c->in_multi)
        return run_in_multi(p, c, plan);
    if (plan->command->id == COMMAND_ID_HELLO && !is_in_pubsub_mode(c)) {
        if (c->head)
            return REQUEST_LATER;
        run_hello(p, c, plan);
        return REQUEST_TAKEN;
    }
    if (is_in_pubsub_mode(c) && !is_subscription(plan->command)) {
        if (!is_subscribed(c) ||
            c->session->subscribing) /* which mode it will be is not known yet */
            return REQUEST_LATER;
        forward_run(p, c, plan);
        return REQUEST_TAKEN;
    }
    return run_with_session(p, c, plan);
}
