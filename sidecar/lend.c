/* lend.c - a private upstream connection lent to a client: opened, waited for, given back. */
#include "lend.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "clients.h"
#include "transaction.h"
#include "wire.h"

struct session *lend_session_of(void *holder)
{
    struct session *s = holder;
    assert(s->magic == SESSION_MAGIC);
    return s;
}

bool lend_is_subscribed(const struct caller *c)
{
    return c->state.channels || c->state.patterns || c->state.shards;
}

static bool has_state(const struct caller *c)
{
    return c->in_multi || c->state.watching || c->state.tracking || lend_is_subscribed(c) ||
           c->session->subscribing || c->session->pinned || c->unsent;
}

/* --- waiting for a connection -------------------------------------------------------------------
 */

void lend_stop_waiting(struct proxy *p, struct caller *c)
{
    if (!c->wait_since)
        return;
    TAILQ_REMOVE(&p->waiting, c, wait_entry);
    c->wait_since = 0;
}

enum request_outcome lend_wait(struct proxy *p, struct caller *c)
{
    if (!c->wait_since) {
        c->wait_since = c->arrived ? c->arrived : loop_now(p->loop);
        TAILQ_INSERT_TAIL(&p->waiting, c, wait_entry);
    }
    return REQUEST_LATER;
}

bool lend_has_waited_enough(const struct proxy *p, const struct caller *c)
{
    uint64_t since = c->wait_since ? c->wait_since : c->arrived;
    return since && loop_now(p->loop) - since >= p->config->upstream_session_wait;
}

static void wake_first(struct proxy *p)
{
    struct caller *c = TAILQ_FIRST(&p->waiting);
    if (c)
        c->progress(c);
}

void lend_tick(struct proxy *p, uint64_t now)
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

bool lend_open(struct proxy *p, struct caller *c, const struct caller *waiter)
{
    bool turn = TAILQ_EMPTY(&p->waiting) || c->wait_since || waiter->wait_since;
    struct session *s = turn ? calloc(1, sizeof *s) : NULL;
    if (s && attach(p, c, s))
        return true;
    free(s);
    return false;
}

void lend_forget_message(struct session *s)
{
    budget_give(&s->proxy->loop->budget, s->message_cap);
    free(s->message);
    s->message = NULL;
    s->message_len = s->message_cap = 0;
}

/* Its connection is somebody else's, or nobody's, by now. */
static void forget(struct session *s)
{
    struct caller *c = s->caller;
    c->session = NULL;
    c->lane = NULL;
    c->in_multi = false;
    c->queued_bytes = 0;
    c->state = (struct caller_state){.blocking = c->state.blocking};
    transaction_free(s->transaction);
    lend_forget_message(s);
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

void lend_settle(struct proxy *p, struct caller *c)
{
    if (c->session && p->running != c && !c->head && !c->wait_since && !has_state(c))
        give_back(c->session);
}

void lend_end(struct proxy *p, struct caller *c)
{
    if (c->wait_since) {
        lend_stop_waiting(p, c);
        wake_first(p);
    }
    if (!c->session)
        return;
    /* What it has asked for and not got may yet change the state: an EXEC with a SELECT in it. */
    if (has_state(c) || upstream_owes(c->lane))
        discard(c->session);
    else
        give_back(c->session);
}

/* A client whose connection had state is disconnected, as it would be if Redis had gone. Those
 * who wait for one try with the next tick: now they might be refused at once, again and again. */
void lend_severed(void *ctx, void *holder)
{
    struct session *s = lend_session_of(holder);
    struct caller *c = s->caller;
    (void)ctx;
    bool leave = has_state(c);
    forget(s);
    c->quitting |= leave;
    if (leave || !c->wait_since)
        c->progress(c);
}

/* --- sending ------------------------------------------------------------------------------------
 */

void lend_be_patient(struct request *r)
{
    r->patient = true;
    upstream_patience(r->source, 1);
}

/* --- ids ----------------------------------------------------------------------------------------
 */

/* NULL, too, where it is no number. */
struct caller *lend_find_caller(struct proxy *p, struct resp_slice id, struct proxy **owner)
{
    int64_t n;
    return resp_parse_int(id, &n) ? clients_find(p, (uint64_t)n, owner) : NULL;
}

/* The number at the server of the connection that the client `id` has there; `other`: none. */
void lend_append_id(struct proxy *p, struct chain *out, struct resp_slice id, uint64_t other)
{
    struct proxy *owner;
    workers_still(p->crew->workers);
    const struct caller *c = lend_find_caller(p, id, &owner);
    uint64_t theirs = c && c->lane ? upstream_client_id(c->lane) : other;
    workers_go(p->crew->workers);
    char number[24];
    int64_t n;
    snprintf(number, sizeof number, "%llu", (unsigned long long)theirs);
    wire_bulk(out, resp_parse_int(id, &n) ? wire_text(number) : id);
}
