/* multi.c - commands queued with MULTI, and EXEC. */
#include "multi.h"

#include <stdlib.h>
#include <string.h>

#include "filtered.h"
#include "local.h"
#include "query.h"
#include "scoped.h"
#include "subscription.h"
#include "tracker.h"
#include "transaction.h"
#include "wire.h"

void multi_begin(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct transaction *t = transaction_new(&c->loop->budget);
    struct request *r = t ? forward_run(p, c, plan) : NULL;
    if (r) {
        r->effect = SESSION_EFFECT_MULTI;
        c->in_multi = true;
        c->session->transaction = t;
        return;
    }
    if (!t) {
        caller_not_sent(c);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    }
    c->quitting = true; /* what follows must not go on without it */
    transaction_free(t);
}

static void run_nested(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct request *r = forward_run(p, c, plan);
    if (r)
        r->effect = SESSION_EFFECT_NESTED;
}

static void end_queueing(struct caller *c)
{
    c->in_multi = false;
    c->state.watching = false;
    c->state.queued = 0;
    c->queued_bytes = 0;
    c->session->transaction = NULL;
}

static void run_discard(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    transaction_free(c->session->transaction);
    end_queueing(c);
    struct request *r = forward_run(p, c, plan);
    if (r)
        r->effect = SESSION_EFFECT_END;
    else
        caller_not_sent(c);
}

static void run_exec(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = c->lane;
    struct request *r = proxy_refused(p, c, uc) ? NULL : forward_expect(c, uc);
    struct transaction *t = c->session->transaction;
    end_queueing(c);
    if (!r) {
        transaction_free(t);
        caller_not_sent(c);
        return;
    }
    r->transaction = t;
    if (!writes_begin(p, r, transaction_writes(t)) || !upstream_expect(uc, r, REPLY_EXEC)) {
        caller_not_sent(c);
        multi_exec_end(p, r, '-', UPSTREAM_NO_MEMORY);
        return;
    }
    lend_be_patient(r); /* there may be scripts in it */
    forward_sent(r, outgoing_append(p, upstream_out(uc), plan, &(struct command_keys){0}));
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

/* Replies that have to be seen whole. */
static bool is_gathered(const struct proxy *p, const struct command *command)
{
    return subscription_takes(command) || filtered_applies(p, command) ||
           command->id == COMMAND_ID_CLIENT_TRACKINGINFO;
}

static bool is_scoped(const struct proxy *p, const struct command *command)
{
    return command->class_ == COMMAND_SCOPED && p->ns->prefix.len;
}

/* Notes what its element of EXEC's reply will need. */
/* `sealed`: what it would answer by itself is not for the client as it is. False: out of memory. */
static bool note_element(struct proxy *p, const struct caller *c, const struct request_plan *plan,
                         bool *sealed)
{
    const struct command *command = plan->command;
    struct transaction *t = c->session->transaction;
    struct writes *w = transaction_writes(t);
    int64_t db;
    *sealed = true;
    if (is_run_here(command))
        return transaction_add_local(t, plan);
    if (command->id == COMMAND_ID_SELECT && resp_parse_int(plan->argv[1], &db)) {
        *sealed = false;
        return transaction_add_select(t, (uint32_t)db);
    }
    if (command->id == COMMAND_ID_CLIENT_TRACKING)
        return transaction_add_setting(t, plan);
    if (is_gathered(p, command))
        return transaction_add_gathered(t, command, subscription_takes(command));
    if (command->id == COMMAND_ID_FLUSHDB || command->id == COMMAND_ID_FLUSHALL)
        w->all = w->written = true;
    struct resp_rewriter *rewriter;
    if ((RULE_IN_FORCE(RULE_EXEC) && !writes_add(p, c, w, plan)) ||
        !forward_rewriter(p, plan, &rewriter))
        return false;
    *sealed = rewriter || is_scoped(p, command);
    return transaction_add(t, rewriter);
}

static void append_unblock(struct proxy *p, struct chain *out, const struct request_plan *plan)
{
    wire_header(out, '*', plan->argc);
    for (size_t i = 0; i < plan->argc; i++)
        if (i == 2)
            lend_append_id(p, out, plan->argv[i], 0);
        else
            wire_bulk(out, plan->argv[i]);
}

static void append_tracking_again(struct proxy *p, const struct caller *c, struct chain *out,
                                  const struct request_plan *plan)
{
    struct tracking_request t;
    if (tracker_read(p, c, plan, &t))
        (void)tracker_append(p, out, plan, &t);
    else /* it was ready when queue_tracking looked: the transaction fails, but its replies don't
            shift */
        wire_command(out, plan->argv, 2);
}

static void append_queued(struct proxy *p, const struct caller *c, struct chain *out,
                          const struct request_plan *plan)
{
    if (is_run_here(plan->command))
        append_stand_in(out, plan);
    else if (plan->command->id == COMMAND_ID_CLIENT_UNBLOCK)
        append_unblock(p, out, plan);
    else if (plan->command->id == COMMAND_ID_CLIENT_TRACKING)
        append_tracking_again(p, c, out, plan);
    else if (is_scoped(p, plan->command))
        scoped_append(p, out, plan->command->id, plan->argv, plan->argc);
    else
        (void)outgoing_append(p, out, plan, &p->keys);
}

/* A server before 7.2 writes what a transaction publishes to its own client into the middle of
 * EXEC's reply, and counts it nowhere. In RESP2 a message can't be told from an element, so that
 * the connection may be a reply behind from then on: no other client is given it. */
static void expect_own_messages(struct caller *c, const struct command *command)
{
    c->session->pinned |=
        subscription_takes(command) || lend_is_subscribed(c) || c->session->subscribing;
}

static void queue(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = c->lane;
    if (!forward_list_keys(p, c, plan) || proxy_refused(p, c, uc))
        return;
    expect_own_messages(c, plan->command);
    struct request *r = forward_expect(c, uc);
    if (!r || !note_element(p, c, plan, &r->sealed) || !upstream_expect(uc, r, REPLY_FORWARD)) {
        if (r)
            forward_give_up(p, r);
        return; /* the client leaves, or EXEC would run the rest */
    }
    c->state.queued++;
    c->queued_bytes = transaction_bytes(c->session->transaction);
    struct chain *out = upstream_out(uc);
    size_t before = out->len;
    append_queued(p, c, out, plan);
    forward_sent(r, out->len - before);
}

static enum request_outcome queue_tracking(struct proxy *p, struct caller *c,
                                           const struct request_plan *plan)
{
    struct tracking_request t;
    if (!tracker_read(p, c, plan, &t)) {
        if (!lend_has_waited_enough(p, c))
            return lend_wait(p, c);
        forward_refuse(p, c, TRACKER_NOT_READY);
    } else {
        queue(p, c, plan);
    }
    return REQUEST_TAKEN;
}

enum request_outcome multi_run(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    switch (plan->command->id) {
    case COMMAND_ID_EXEC:
        run_exec(p, c, plan);
        return REQUEST_TAKEN;
    case COMMAND_ID_DISCARD:
        run_discard(p, c, plan);
        return REQUEST_TAKEN;
    case COMMAND_ID_MULTI: /* the server has its own words for these */
        run_nested(p, c, plan);
        return REQUEST_TAKEN;
    case COMMAND_ID_WATCH:
        (void)forward_run(p, c, plan);
        return REQUEST_TAKEN;
    case COMMAND_ID_CLIENT_TRACKING:
        return queue_tracking(p, c, plan);
    default:
        queue(p, c, plan);
        return REQUEST_TAKEN;
    }
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

static void run_local(struct proxy *p, struct caller *c, const struct request_plan *plan,
                      bool refused)
{
    if (plan->command->id == COMMAND_ID_HELLO && refused) {
        caller_answer_error(c, "NOPROTO unsupported protocol version");
        return;
    }
    if (plan->command->id == COMMAND_ID_CLIENT_GETREDIR)
        tracker_answer_redirect(c);
    else
        local_run(p, c, plan->command, plan->argv, plan->argc);
    if (plan->command->id == COMMAND_ID_HELLO)
        follow_hello(c, plan);
}

/* CLIENT TRACKING within EXEC. */
static void set_tracking(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct tracking_request t;
    if (c->session && tracker_read(p, c, plan, &t))
        tracker_apply(c, &t);
}

/* A message in RESP3 that came between the elements of EXEC's reply. */
static void hand_on_message(struct caller *c, struct resp_slice message, struct chain *out)
{
    subscription_translate(c, message.data, message.len, out);
}

/* A gathered element of EXEC's reply. */
static void hand_on_element(struct proxy *p, struct caller *c, const struct command *command,
                            struct resp_slice reply, struct chain *out)
{
    struct text t = {0};
    if (subscription_takes(command)) {
        subscription_translate(c, reply.data, reply.len, out);
        return;
    }
    if (command->id == COMMAND_ID_CLIENT_TRACKINGINFO) {
        tracker_write_info(p, c, reply.data, reply.len, out);
        return;
    }
    filtered_reply(p, &(struct request_plan){.command = command}, c->resp, reply, &t);
    if (t.failed)
        chain_append(out, UPSTREAM_NO_MEMORY, sizeof UPSTREAM_NO_MEMORY - 1);
    else
        chain_append(out, t.p, t.len);
    free(t.p);
}

void multi_exec_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n)
{
    static const struct transaction_hooks hooks = {.run = run_local,
                                                   .set = set_tracking,
                                                   .gathered = hand_on_element,
                                                   .message = hand_on_message};
    transaction_reply(p, r, &hooks, bytes, n);
    forward_watch_backlog(p, r);
}

size_t multi_exec_missing(const struct request *r)
{
    return transaction_missing(r->transaction);
}

void multi_exec_end(struct proxy *p, struct request *r, char type, const char *error)
{
    transaction_free(r->transaction);
    r->transaction = NULL;
    forward_finish(p, r, type, error);
}

/* The MULTI of the client's next transaction, behind the EXEC or DISCARD of this one's, or NULL. */
static const struct request *next_transaction(const struct request *r)
{
    const struct request *next = r->next;
    while (next && next->effect != SESSION_EFFECT_MULTI)
        next = next->next;
    return next;
}

/* A second MULTI behind the one that was refused begins a transaction after all, of which nothing
 * is known here: what would be shown then can't be told. */
static bool is_followed_by_another(const struct request *r, const struct request *end)
{
    for (const struct request *next = r->next; next && next != end; next = next->next)
        if (next->effect == SESSION_EFFECT_NESTED)
            return true;
    return false;
}

/* What was sent to be queued will be run at once: SELECT, WATCH, SUBSCRIBE ... Passwords in the
 * reply to CONFIG GET would be seen. */
void multi_refused(const struct request *r)
{
    struct caller *c = r->caller;
    const struct request *end = next_transaction(r);
    c->session->pinned |= r->next != NULL;
    if (is_followed_by_another(r, end)) {
        c->kill = true;
        c->progress(c);
        return;
    }
    for (struct request *next = r->next, *after; next && next != end; next = after) {
        after = next->next;
        if (c->kill) /* for want of memory: nothing of it is left */
            return;
        if (next->sealed && !next->begun) /* else it has been refused here */
            request_abandon(next, "-NEARCACHE not queued, because MULTI was refused\r\n");
    }
    if (!c->in_multi || end) /* it is in that one */
        return;
    transaction_free(c->session->transaction);
    end_queueing(c);
}
