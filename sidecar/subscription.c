/* subscription.c - SUBSCRIBE and its kin, and the messages that come of it. */
#include "subscription.h"

#include <stdlib.h>
#include <string.h>

#include "pressure.h"
#include "push.h"
#include "query.h"

bool subscription_takes(const struct command *command)
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

void subscription_run(struct proxy *p, struct caller *c, const struct request_plan *plan)
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
    forward_sent(r, outgoing_append(p, upstream_out(uc), plan, &(struct command_keys){0}));
}

void subscription_end(struct proxy *p, struct request *r, char type, const char *error)
{
    struct session *s = r->caller ? r->caller->session : NULL;
    if (s && s->subscribing == r)
        s->subscribing = r->next_waiter;
    forward_finish(p, r, type, error);
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

bool subscription_is_push(void *ctx, void *holder, void *owner, unsigned tag, const char *two)
{
    struct session *s = lend_session_of(holder);
    (void)ctx;
    bool subscribing = owner && tag == REPLY_SUBSCRIBE;
    return (subscribing || lend_is_subscribed(s->caller)) &&
           two[1] != '2'; /* "*2": the reply to PING */
}

static bool keep_message(struct session *s, const char *bytes, size_t n)
{
    if (s->message_cap - s->message_len < n) {
        size_t cap = 2 * s->message_cap + n;
        char *more = cap <= s->proxy->config->client_max_output ? realloc(s->message, cap) : NULL;
        if (!more)
            return false;
        budget_take(&s->proxy->loop->budget, cap - s->message_cap);
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
    if (s->message_cap > 16 * 1024) /* memory comes back after a burst */
        lend_forget_message(s);
}

/* A message as the client is to see it; a confirmation is counted. */
void subscription_translate(struct caller *c, const char *frame, size_t n, struct chain *out)
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
    subscription_translate(c, frame, n, caller_push(c));
    caller_pushed(c);
    forget_message(s);
    if (pressure_check(p, c, 0) && r && --r->confirmations == 0)
        upstream_settle(s->uc);
}

void subscription_push(void *ctx, void *holder, const char *bytes, size_t n, bool end)
{
    struct session *s = lend_session_of(holder);
    (void)ctx;
    if (end && s->message_len == 0)
        hand_on(s, bytes, n);
    else if (!keep_message(s, bytes, n))
        pressure_kick(s->proxy, s->caller, "a message exceeds client.max_output");
    else if (end)
        hand_on(s, s->message, s->message_len);
}
