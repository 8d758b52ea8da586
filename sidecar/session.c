/* session.c - commands that need a connection of their own. */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "identity.h"
#include "local.h"
#include "multi.h"
#include "query.h"
#include "subscription.h"
#include "tracker.h"
#include "wire.h"

/* --- plain commands -----------------------------------------------------------------------------
 */

/* A reply without a deadline: a script runs, .. */
static struct request *send_patient(struct proxy *p, struct caller *c,
                                    const struct request_plan *plan)
{
    struct request *r = forward_run(p, c, plan);
    if (r)
        lend_be_patient(r);
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
    conn_look_again(c->conn);
}

/* The server looks at what the connection that asks wrote last; since 7.2 nothing counts for that
 * but what goes to replicas. This does, is heard by nobody, and comes behind all that the client
 * wrote. */
static void send_wait(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct upstream_conn *uc = c->lane;
    if (proxy_refused(p, c, uc))
        return;
    if (!upstream_expect(uc, NULL, REPLY_IGNORED)) {
        caller_not_sent(c);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    wire_command(
        upstream_out(uc),
        (struct resp_slice[]){wire_text("SPUBLISH"), wire_text("nearcache:wait"), wire_text("")},
        3);
    send_blocking(p, c, plan);
}

/* --- HELLO --------------------------------------------------------------------------------------
 */

/* The server's side of the connection changes with the client's, and says what it is. */
static void run_hello(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct chain answer;
    struct iovec first;
    chain_init(&answer, &c->loop->pool);
    c->capture = &answer;
    local_run(p, c, plan->command, plan->argv, plan->argc);
    c->capture = NULL;
    bool refused = chain_iov(&answer, &first, 1) == 1 && *(const char *)first.iov_base == '-';
    if (refused)
        chain_move(caller_reply(c), &answer);
    chain_clear(&answer);
    if (refused)
        caller_replied(c);
    else
        identity_say_hello(p, c, c->lane);
}

/* --- effects ------------------------------------------------------------------------------------
 */

void session_effect(struct request *r, char type)
{
    struct caller *c = r->caller;
    struct session *s = c ? c->session : NULL;
    if (!s)
        return;
    switch ((enum session_effect)r->effect) {
    case SESSION_EFFECT_NONE:
        break;
    case SESSION_EFFECT_MULTI:
        if (type == '-')
            multi_refused(r);
        break;
    case SESSION_EFFECT_NESTED: /* it was the first one that was refused */
        if (type == '+')
            caller_not_sent(c);
        break;
    case SESSION_EFFECT_END: /* unless it is refused: then the connection has a state yet */
        if (type == '-')
            s->pinned = true;
        break;
    case SESSION_EFFECT_TRACKING:
        if (type == '+')
            tracker_apply(c, &s->next);
        break;
    }
}

/* --- half-closed while it blocks ----------------------------------------------------------------
 */

struct unblock {
    struct query query; /* first */
    struct proxy *proxy;
    uint64_t client;
};

static struct caller *find_hung_up(const struct proxy *p, uint64_t id)
{
    struct caller *c;
    TAILQ_FOREACH(c, &p->hung_up, wait_entry)
    {
        if (c->id == id)
            break;
    }
    return c;
}

static void end_hung_up(struct caller *c)
{
    c->kill = true;
    c->progress(c);
}

/* ":1": it was blocked. ":0": not yet, or not any more. */
static void unblock_done(struct query *q, const char *reply, size_t n, const char *error)
{
    struct unblock *u = (struct unblock *)q;
    struct caller *c = find_hung_up(u->proxy, u->client);
    bool goes_on = !error && n > 1 && reply[0] == ':' && reply[1] == '0';
    free(u);
    if (!c)
        return;
    c->unblocking = false;
    if (!goes_on)
        end_hung_up(c);
}

static void unblock(struct proxy *p, struct caller *c)
{
    if (c->lane && !upstream_is_ready(c->lane) && !upstream_refusal(c->lane))
        return; /* the command has not been sent yet */
    uint64_t id = c->lane ? upstream_client_id(c->lane) : 0;
    struct unblock *u = id ? calloc(1, sizeof *u) : NULL;
    char digits[24];
    if (!u) {
        end_hung_up(c);
        return;
    }
    c->unblocking = true;
    *u = (struct unblock){.query.done = unblock_done, .proxy = p, .client = c->id};
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)id);
    query_send(&u->query, upstream_get(p->upstream, c->db, 2, proxy_slot(c), 0),
               (struct resp_slice[]){wire_text("CLIENT"), wire_text("UNBLOCK"), wire_text(digits)},
               3);
}

void session_hang_up(struct proxy *p, struct caller *c)
{
    if (c->hung_up)
        return;
    lend_stop_waiting(p, c);
    c->hung_up = true;
    TAILQ_INSERT_TAIL(&p->hung_up, c, wait_entry);
    if (c->session)
        c->session->pinned = true; /* nobody else is to be unblocked on it */
    unblock(p, c);
}

void session_forget(struct proxy *p, struct caller *c)
{
    if (c->hung_up)
        TAILQ_REMOVE(&p->hung_up, c, wait_entry);
    c->hung_up = false;
}

void session_tick(struct proxy *p)
{
    struct caller *c, *next;
    for (c = TAILQ_FIRST(&p->hung_up); c; c = next) {
        next = TAILQ_NEXT(c, wait_entry);
        if (!c->state.blocking)
            session_forget(p, c);
        else if (!c->unblocking)
            unblock(p, c);
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
    return c->resp == 2 && c->session && (lend_is_subscribed(c) || c->session->subscribing);
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

static void run_watch(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    if (forward_run(p, c, plan))
        c->state.watching = true;
    else
        c->quitting = true; /* as above */
}

static void run_unwatch(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct request *r = forward_run(p, c, plan);
    if (!r)
        return;
    r->effect = SESSION_EFFECT_END;
    c->state.watching = false;
}

static enum request_outcome run_with_session(struct proxy *p, struct caller *c,
                                             const struct request_plan *plan)
{
    const struct command *command = plan->command;
    switch (command->id) {
    case COMMAND_ID_MULTI:
        multi_begin(p, c, plan);
        break;
    case COMMAND_ID_WATCH:
        run_watch(p, c, plan);
        break;
    case COMMAND_ID_UNWATCH:
        run_unwatch(p, c, plan);
        break;
    case COMMAND_ID_WAIT:
        send_wait(p, c, plan);
        break;
    case COMMAND_ID_CLIENT_TRACKING:
    case COMMAND_ID_CLIENT_TRACKINGINFO:
    case COMMAND_ID_CLIENT_GETREDIR:
        return tracker_run(p, c, plan);
    default:
        if (subscription_takes(command))
            subscription_run(p, c, plan);
        else if (strcmp(command->name, "waitaof") == 0)
            send_wait(p, c, plan);
        else if (command->flags & COMMAND_FLAG_BLOCKING)
            send_blocking(p, c, plan);
        else
            (void)send_patient(p, c, plan);
        /* CLIENT sub-commands of newer servers: what they change is not known here. */
        if (c->session) /* still */
            c->session->pinned |= command->learned && strchr(command->name, '|');
        break;
    }
    return REQUEST_TAKEN;
}

static enum request_outcome refuse_waiter(struct proxy *p, struct caller *c,
                                          const struct request_plan *plan)
{
    /* What follows these must not go on without them. */
    c->quitting |= plan->command->id == COMMAND_ID_MULTI || plan->command->id == COMMAND_ID_WATCH;
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
    if (!c->session && !lend_open(p, c, c))
        return lend_has_waited_enough(p, c) ? refuse_waiter(p, c, plan) : lend_wait(p, c);
    if (c->in_multi)
        return multi_run(p, c, plan);
    if (plan->command->id == COMMAND_ID_HELLO && !is_in_pubsub_mode(c)) {
        if (c->head)
            return REQUEST_LATER;
        run_hello(p, c, plan);
        return REQUEST_TAKEN;
    }
    if (is_in_pubsub_mode(c) && !subscription_takes(plan->command)) {
        if (!lend_is_subscribed(c) ||
            c->session->subscribing) /* which mode it will be is not known yet */
            return REQUEST_LATER;
        (void)forward_run(p, c, plan);
        return REQUEST_TAKEN;
    }
    return run_with_session(p, c, plan);
}
