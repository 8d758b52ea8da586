/* request.c - the walk of one request. */
#include "request.h"

#include <stdio.h>
#include <string.h>

#include "filtered.h"
#include "identity.h"
#include "lend.h"
#include "link.h"
#include "local.h"
#include "monitor.h"
#include "multi.h"
#include "query.h"
#include "reads.h"
#include "scoped.h"
#include "session.h"
#include "subscription.h"
#include "wire.h"

/* --- plan and prefetch --------------------------------------------------------------------------
 */

/* `name` is lower case. A zero byte is like any other that no name has. */
static inline bool is_named(struct resp_slice word, const char *name)
{
    for (size_t i = 0; i < word.len; i++) {
        char c = word.data[i];
        bool same = c == name[i] || (c >= 'A' && c <= 'Z' && (c | 0x20) == name[i]);
        if (!same || !c)
            return false;
    }
    return name[word.len] == 0;
}

/* Clients tend to ask for the same again and again. */
static inline const struct command *find(const struct proxy *p, const struct request_plan *plan,
                                         const struct command *guess)
{
    if (plan->argc == 0)
        return NULL;
    /* One key stands first: it is no sub-command. What was learned may have been forgotten. */
    if (guess && guess->one_key_at_1 && !guess->learned && is_named(plan->argv[0], guess->name))
        return guess;
    return command_find(p->commands, plan->argv, plan->argc);
}

void request_plan(struct proxy *p, struct request_plan *plan, const struct command *guess)
{
    plan->command = find(p, plan, guess);
    plan->cached = plan->command && reads_takes(p, plan);
    if (!plan->cached)
        return;
    plan->hash = coherence_hash(p->coherence, plan->argv[1].data, plan->argv[1].len);
    coherence_prefetch_bucket(p->coherence, plan->hash);
}

void request_prefetch(const struct proxy *p, const struct request_plan *plan)
{
    if (plan->cached)
        coherence_prefetch_entry(p->coherence, plan->hash);
}

void request_prefetch_rest(const struct proxy *p, const struct request_plan *plan)
{
    if (plan->cached)
        coherence_prefetch_rest(p->coherence, plan->hash);
}

/* --- replies ------------------------------------------------------------------------------------
 */

static void end_forward(struct proxy *p, struct request *r, char type)
{
    if (r->effect)
        session_effect(r, type);
    forward_done(p, r, type);
}

/* Its answer has gone out already. */
static void end_ignored(struct proxy *p, struct request *r, const char *error)
{
    forward_finish(p, r, '+', error);
}

/* Without a server the proxy answers for itself. */
static void end_ping(struct proxy *p, struct request *r, const char *error)
{
    if (!error || r->begun)
        chain_clear(&r->after);
    end_ignored(p, r, r->begun ? error : NULL);
}

static void on_bytes(void *ctx, void *owner, unsigned tag, const char *bytes, size_t n)
{
    switch ((enum reply_tag)tag) {
    case REPLY_FORWARD:
    case REPLY_PING:
    case REPLY_SUBSCRIBE:
        forward_bytes(ctx, owner, bytes, n);
        break;
    case REPLY_FILL_VALUE:
        reads_fill_bytes(ctx, owner, bytes, n);
        break;
    case REPLY_FILL_TTL:
        coherence_fill_ttl(owner, bytes, n);
        break;
    case REPLY_MERGE:
        reads_merge_bytes(ctx, owner, bytes, n);
        break;
    case REPLY_QUERY:
        query_bytes(owner, bytes, n);
        break;
    case REPLY_EXEC:
        multi_exec_bytes(ctx, owner, bytes, n);
        break;
    case REPLY_CACHING:
    case REPLY_IGNORED:
        break;
    }
}

static size_t on_missing(void *ctx, void *owner, unsigned tag)
{
    (void)ctx;
    return tag == REPLY_EXEC ? multi_exec_missing(owner) : 0;
}

/* The reply is complete, or `error`: it will never be. */
static void on_end(struct proxy *p, void *owner, unsigned tag, char type, const char *error)
{
    switch ((enum reply_tag)tag) {
    case REPLY_FORWARD:
        if (error)
            forward_lost(p, owner, error);
        else
            end_forward(p, owner, type);
        break;
    case REPLY_FILL_VALUE:
        reads_fill_end(p, owner, type, error);
        break;
    case REPLY_FILL_TTL:
        coherence_fill_ttl_end(p->coherence, owner, !error, loop_now(p->loop));
        break;
    case REPLY_MERGE:
        reads_merge_end(p, owner, type, error);
        break;
    case REPLY_QUERY:
        if (error)
            query_lost(owner, error);
        else
            query_done(owner);
        break;
    case REPLY_PING:
        end_ping(p, owner, error);
        break;
    case REPLY_SUBSCRIBE:
        subscription_end(p, owner, type, error);
        break;
    case REPLY_EXEC:
        multi_exec_end(p, owner, type, error);
        break;
    case REPLY_CACHING:
        if (!error && type == '-')
            link_untracked(p->link, "CLIENT CACHING was refused");
        break;
    case REPLY_IGNORED:
        if (owner)
            end_ignored(p, owner, error);
        break;
    }
}

static void on_done(void *ctx, void *owner, unsigned tag, char type)
{
    on_end(ctx, owner, tag, type, NULL);
}

static void on_lost(void *ctx, void *owner, unsigned tag, const char *error)
{
    on_end(ctx, owner, tag, '-', error);
}

/* Who waits is told; the reply, should it come, is dropped, and what hangs on its end is kept. */
static void on_late(void *ctx, struct reply_owner *to, const char *error)
{
    struct proxy *p = ctx;
    switch ((enum reply_tag)to->tag) {
    case REPLY_PING:
        request_abandon(to->owner, "");
        break;
    case REPLY_FORWARD:
    case REPLY_MERGE:
    case REPLY_SUBSCRIBE:
    case REPLY_EXEC:
        request_abandon(to->owner, error);
        break;
    case REPLY_FILL_VALUE:
        reads_fill_late(p, to->owner, error);
        break;
    case REPLY_QUERY:
        query_lost(to->owner, error);
        *to = (struct reply_owner){.tag = REPLY_IGNORED};
        break;
    case REPLY_FILL_TTL:
    case REPLY_CACHING:
    case REPLY_IGNORED:
        break;
    }
}

static void on_demoted(void *ctx)
{
    const struct proxy *p = ctx;
    link_restart(p->link, "the server has become a replica");
}

static void on_untracked(void *ctx, const char *refused)
{
    struct proxy *p = ctx;
    if (p->link)
        link_untracked(p->link, refused);
}

const struct upstream_callbacks request_upstream_callbacks = {
    .replies = {.bytes = on_bytes,
                .missing = on_missing,
                .done = on_done,
                .lost = on_lost,
                .late = on_late,
                .is_push = subscription_is_push,
                .push = subscription_push},
    .untracked = on_untracked,
    .demoted = on_demoted,
    .severed = lend_severed};

/* --- the dispatcher -----------------------------------------------------------------------------
 */

static bool must_wait(const struct caller *c)
{
    return c->head != NULL;
}

/* The database's own connection is asked: it alone knows how many there are. */
static void run_select(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    int64_t db;
    if (!resp_parse_int(plan->argv[1], &db)) {
        caller_answer_error(c, "ERR value is not an integer or out of range");
    } else if (db < INT32_MIN || db > INT32_MAX) {
        caller_answer_error(
            c, "ERR value is out of range, value must between -2147483648 and 2147483647");
    } else if (db < 0) {
        caller_answer_error(c, "ERR DB index is out of range");
    } else if (db == c->db && !c->lane) {
        caller_answer_text(c, "+OK\r\n");
    } else {
        struct request *r = forward_alone(p, c, plan, proxy_lane(p, c, (uint32_t)db));
        if (r) {
            r->select_db = true;
            r->db = (uint32_t)db;
        }
    }
}

static void append_pong(struct chain *out, const struct request_plan *plan)
{
    if (plan->argc > 1)
        wire_bulk(out, plan->argv[1]);
    else
        chain_append(out, "+PONG\r\n", 7);
}

/* PING and ECHO ask how Redis is (BUSY, LOADING ...); where there is none, whether we are. */
static void run_ping(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = proxy_lane(p, c, c->db);
    if (!uc || upstream_refusal(uc)) {
        append_pong(caller_reply(c), plan);
        caller_replied(c);
        return;
    }
    struct request *r = forward_expect(c, uc);
    if (!r)
        return;
    if (!upstream_expect(uc, r, REPLY_PING)) {
        forward_give_up(p, r);
        return;
    }
    if (!r->muted)
        append_pong(&r->after, plan); /* no more than its arguments, which are counted */
    forward_sent(r, outgoing_append(p, upstream_out(uc), plan, &(struct command_keys){0}));
}

static bool is_pubsub_list(const struct command *command)
{
    return command->channels == COMMAND_CHANNELS_PATTERNS ||
           command->channels == COMMAND_CHANNELS_ALL;
}

/* While it has a session a client reads where it watches or is tracked, past the L1. */
static enum request_outcome run_read(struct proxy *p, struct caller *c,
                                     const struct request_plan *plan)
{
    uint16_t id = plan->command->id;
    if (plan->cached && !c->lane)
        reads_one(p, c, plan);
    else if (id == COMMAND_ID_MGET && proxy_has_l1(p) && !c->lane)
        reads_mget(p, c, plan);
    else if ((id == COMMAND_ID_PING || id == COMMAND_ID_ECHO) && plan->argc <= 2 && !c->lane)
        run_ping(p, c, plan);
    else if (is_pubsub_list(plan->command) && filtered_applies(p, plan->command))
        filtered_pubsub(p, c, plan);
    else
        (void)forward_run(p, c, plan);
    return REQUEST_TAKEN;
}

/* Without a namespace these are ordinary commands; only KEYS keeps out of the others' way. */
static enum request_outcome run_scoped(struct proxy *p, struct caller *c,
                                       const struct request_plan *plan)
{
    uint16_t id = plan->command->id;
    if (p->ns->prefix.len == 0 && id != COMMAND_ID_KEYS) {
        (void)forward_run(p, c, plan);
        return REQUEST_TAKEN;
    }
    if (id == COMMAND_ID_SCAN) {
        scoped_scan(p, c, plan->argv, plan->argc);
        return REQUEST_TAKEN;
    }
    if (must_wait(c))
        return REQUEST_LATER;
    if (id == COMMAND_ID_KEYS && p->ns->prefix.len == 0)
        (void)forward_alone(p, c, plan, proxy_scan_lane(p, c->db, c->resp));
    else
        scoped_run(p, c, id, plan->argv, plan->argc);
    return REQUEST_TAKEN;
}

static void run_reset(struct proxy *p, struct caller *c)
{
    lend_end(p, c);
    monitor_stop(p, c);
    identity_reset(p, c);
    caller_answer_text(c, "+RESET\r\n");
}

/* In their turn: they show or change what commands before them change, or other clients. What is
 * asked of the server keeps its order without. */
static enum request_outcome run_local(struct proxy *p, struct caller *c,
                                      const struct request_plan *plan)
{
    uint16_t id = plan->command->id;
    if (must_wait(c) && id != COMMAND_ID_QUIT && !filtered_is_asked(p, plan->command))
        return REQUEST_LATER;
    if (id == COMMAND_ID_SELECT)
        run_select(p, c, plan);
    else if (id == COMMAND_ID_RESET)
        run_reset(p, c);
    else
        local_run(p, c, plan->command, plan->argv, plan->argc);
    return REQUEST_TAKEN;
}

static enum request_outcome run_class(struct proxy *p, struct caller *c,
                                      const struct request_plan *plan)
{
    switch ((enum command_class)plan->command->class_) {
    case COMMAND_READ:
        return run_read(p, c, plan);
    case COMMAND_LOCAL:
        return run_local(p, c, plan);
    case COMMAND_SCOPED:
        return run_scoped(p, c, plan);
    case COMMAND_WRITE:
    case COMMAND_ADMIN:
    case COMMAND_SESSION:
        break;
    }
    (void)forward_run(p, c, plan);
    return REQUEST_TAKEN;
}

/* A debugged script stops the server, or the connection that others share. redis-cli goes on to
 * EVAL whatever SCRIPT DEBUG answered: the script must not run then as if nothing were. */
static const char *refuse_debugger(struct caller *c, const struct request_plan *plan)
{
    static const char text[] =
        "NOPERM 'script|debug' would stop the server or a connection that others share; debug "
        "scripts (redis-cli --ldb) at Redis itself";
    uint16_t id = plan->command->id;
    if (id == COMMAND_ID_SCRIPT_DEBUG) {
        c->debugs = !resp_word_is(plan->argv[2], "no");
        return text;
    }
    if (!c->debugs || (id != COMMAND_ID_EVAL && id != COMMAND_ID_EVALSHA))
        return NULL;
    c->debugs = false;
    return text;
}

/* They make a replica's connection of one that others share: what comes then answers nobody. */
static bool is_replicas(uint16_t id)
{
    return id == COMMAND_ID_REPLCONF || id == COMMAND_ID_SYNC || id == COMMAND_ID_PSYNC;
}

/* FUNCTION FLUSH by another name. */
static bool flushes_functions(const struct request_plan *plan)
{
    return plan->command->id == COMMAND_ID_FUNCTION_RESTORE && plan->argc > 3 &&
           resp_word_is(plan->argv[3], "flush");
}

/* What is refused whatever its arguments are; NULL: nothing. */
static const char *refusal(struct proxy *p, struct caller *c, const struct request_plan *plan,
                           char text[COMMAND_ERROR_MAX])
{
    const struct command *command = plan->command;
    if (!command) {
        text[command_unknown_error(p->commands, plan->argv, plan->argc, text) - 2] = '\0';
        return text + 1;
    }
    if (!command_arity_ok(command, plan->argc) && command->id == COMMAND_ID_EXEC)
        return c->session ? NULL /* the server ends the transaction with these words */
                          : "EXECABORT Transaction discarded because of: wrong number of "
                            "arguments for 'exec' command";
    if (!command_arity_ok(command, plan->argc)) {
        text[command_arity_error(command, text) - 2] = '\0';
        return text + 1;
    }
    if (!c->authenticated && !(command->flags & COMMAND_FLAG_NO_AUTH))
        return command->id == COMMAND_ID_EXEC
                   ? "EXECABORT Transaction discarded because of: NOAUTH Authentication required."
                   : "NOAUTH Authentication required.";
    const char *error = refuse_debugger(c, plan);
    if (error)
        return error;
    if (command->class_ != COMMAND_ADMIN && !flushes_functions(plan))
        return NULL;
    if (p->config->admin_commands == ADMIN_COMMANDS_ALLOW)
        return is_replicas(command->id)
                   ? "NOPERM what a replica says has no place on a connection that others share"
                   : NULL;
    snprintf(text, COMMAND_ERROR_MAX,
             "NOPERM '%s' administers the shared server; nearcache forwards it only with "
             "admin_commands=allow",
             command->name);
    return text;
}

/* A page in somebody's browser has sent a form here, whose body is commands. As in Redis, nothing
 * is answered, and nothing that stands behind is run. */
static bool is_http(const struct request_plan *plan)
{
    return !plan->command &&
           (resp_word_is(plan->argv[0], "post") || resp_word_is(plan->argv[0], "host:"));
}

static void drop_http(struct proxy *p, struct caller *c)
{
    enum { LOG_EVERY = 60000 /* ms */ };
    char peer[CONN_ADDRESS_MAX];
    c->kill = true;
    p->metrics->protocol_errors++;
    if (!log_limit_pass(&p->attack_log, loop_now(p->loop), LOG_EVERY))
        return;
    conn_peer_address(c->conn, peer);
    log_write(p->log, LOG_WARN, "possible_attack", "client", peer, "why",
              "it sent POST or Host: as HTTP does: perhaps a web page that uses its visitor's "
              "browser to reach this service; the connection was closed",
              NULL);
}

static void set_pause(struct proxy *p, uint64_t until)
{
    workers_still(p->crew->workers);
    for (size_t i = 0; i < p->crew->n; i++)
        p->crew->v[i]->paused_until = until;
    workers_go(p->crew->workers);
}

static void note_pause(struct proxy *p, const struct request_plan *plan)
{
    int64_t ms;
    if (resp_parse_int(plan->argv[2], &ms) && ms > 0)
        set_pause(p, loop_now(p->loop) + (uint64_t)ms);
}

/* Nothing about this client asks for more than a look into the L1. */
static bool is_plain(const struct proxy *p, const struct caller *c)
{
    return c->authenticated && !c->lane && !c->wait_since && !c->reply_off && !c->reply_skip &&
           !c->reply_skip_next && !monitor_watches(p) && !p->paused_until;
}

/* What it is owed comes as it was asked for. */
static bool waits_for_its_way(const struct proxy *p, const struct caller *c,
                              const struct command *command)
{
    return must_wait(c) && filtered_goes_elsewhere(c) && !c->in_multi &&
           filtered_is_asked(p, command);
}

static enum request_outcome dispatch(struct proxy *p, struct caller *c,
                                     const struct request_plan *plan)
{
    if (waits_for_its_way(p, c, plan->command))
        return REQUEST_LATER;
    enum request_outcome outcome =
        session_takes(p, c, plan) ? session_run(p, c, plan) : run_class(p, c, plan);
    if (plan->command->id == COMMAND_ID_CLIENT_PAUSE)
        note_pause(p, plan);
    else if (plan->command->id == COMMAND_ID_CLIENT_UNPAUSE)
        set_pause(p, 0);
    return outcome;
}

enum request_outcome request_run(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    char text[COMMAND_ERROR_MAX];
    if (plan->argc == 0)
        return REQUEST_TAKEN;
    if (plan->cached && is_plain(p, c)) { /* most of all requests, by far */
        c->last_command = plan->command;
        reads_one(p, c, plan);
        return REQUEST_TAKEN;
    }
    if (is_http(plan)) {
        drop_http(p, c);
        return REQUEST_TAKEN;
    }
    const char *error = refusal(p, c, plan, text);
    if (plan->command)
        c->last_command = plan->command;
    bool skip_next = c->reply_skip_next;
    caller_next_command(c);
    p->running = c;
    enum request_outcome outcome = error ? REQUEST_TAKEN : dispatch(p, c, plan);
    if (error)
        forward_refuse(p, c, error);
    p->running = NULL;
    if (outcome == REQUEST_LATER) {
        c->reply_skip_next = skip_next;
        return REQUEST_LATER;
    }
    lend_stop_waiting(p, c);
    lend_settle(p, c); /* it may have been refused */
    if (monitor_watches(p) && !error && c->conn)
        monitor_feed(p, c, plan->command, plan->argv, plan->argc);
    return REQUEST_TAKEN;
}
