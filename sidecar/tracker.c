/* tracker.c - CLIENT TRACKING by a client of ours. */
#include "tracker.h"

#include <stdlib.h>
#include <string.h>

#include "query.h"
#include "resp_read.h"
#include "wire.h"

/* The connection of a client that others redirect to is its own for good. False: not ready yet. */
static bool pin(struct proxy *p, struct caller *c, const struct caller *waiter)
{
    if (!c->session && (c->head || !lend_open(p, c, waiter)))
        return false;
    if (upstream_refusal(c->lane)) { /* it is not even being made */
        lend_settle(p, c);
        return false;
    }
    c->session->pinned = true;
    return upstream_client_id(c->lane) != 0;
}

static bool is_option(const struct request_plan *plan, size_t i, const char *word)
{
    return i + 1 < plan->argc && resp_word_is(plan->argv[i], word);
}

/* Finds the client to redirect to, and sees to it that it has a connection of its own. False: not
 * ready yet. */
static bool read_redirect(struct proxy *p, const struct caller *c, struct resp_slice id,
                          struct tracking_request *t)
{
    struct proxy *owner;
    workers_still(p->crew->workers);
    struct caller *other = lend_find_caller(p, id, &owner);
    bool ready = !other || !t->on || pin(owner, other, c);
    t->redirect = other ? other->id : 0;
    workers_go(p->crew->workers);
    return ready;
}

/* False: the connection redirected to is not ready yet. */
bool tracker_read(struct proxy *p, const struct caller *c, const struct request_plan *plan,
                  struct tracking_request *t)
{
    *t = (struct tracking_request){.on = resp_word_is(plan->argv[2], "on")};
    for (size_t i = 3; i < plan->argc; i++) {
        if (is_option(plan, i, "redirect")) {
            if (!read_redirect(p, c, plan->argv[++i], t))
                return false;
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

size_t tracker_append(struct proxy *p, struct chain *out, const struct request_plan *plan,
                      const struct tracking_request *t)
{
    size_t before = out->len;
    wire_header(out, '*', plan->argc + (t->add_namespace ? 2 : 0));
    for (size_t i = 0; i < plan->argc; i++) {
        wire_bulk(out, plan->argv[i]);
        if (i < 3)
            continue;
        if (is_option(plan, i, "redirect"))
            lend_append_id(p, out, plan->argv[++i], INT64_MAX);
        else if (is_option(plan, i, "prefix"))
            wire_bulk2(out, p->ns->prefix, plan->argv[++i]);
    }
    if (t->add_namespace) {
        wire_bulk(out, wire_text("PREFIX"));
        wire_bulk(out, p->ns->prefix);
    }
    return out->len - before;
}

void tracker_apply(struct caller *c, const struct tracking_request *t)
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
    r->effect = SESSION_EFFECT_TRACKING;
    r->exclusive = c->exclusive = true;
    forward_sent(r, tracker_append(p, upstream_out(uc), plan, t));
}

static enum request_outcome run_tracking(struct proxy *p, struct caller *c,
                                         const struct request_plan *plan)
{
    struct tracking_request t;
    bool ready = tracker_read(p, c, plan, &t);
    if (!ready && !lend_has_waited_enough(p, c))
        return lend_wait(p, c);
    /* The server would refuse our prefix as overlapping with itself. */
    if (!ready)
        caller_answer_error(c, TRACKER_NOT_READY);
    else if (t.add_namespace && c->state.tracking && c->session->whole_namespace)
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
void tracker_write_info(const struct proxy *p, const struct caller *c, const char *reply, size_t n,
                        struct chain *out)
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
    if (r->caller && !r->muted)
        tracker_write_info(p, r->caller, reply, n, &r->after);
    forward_done(p, r, '*');
}

static void run_tracking_info(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct request *r = forward_expect(c, c->lane);
    if (!r)
        return;
    struct tracking_info *info = calloc(1, sizeof *info);
    if (!info) {
        forward_give_up(p, r);
        return;
    }
    *info = (struct tracking_info){.query.done = tracking_info_done, .proxy = p, .request = r};
    query_send(&info->query, c->lane, plan->argv, plan->argc);
}

void tracker_answer_redirect(struct caller *c)
{
    caller_answer_integer(c, c->state.tracking ? (int64_t)c->state.redirect : -1);
}

enum request_outcome tracker_run(struct proxy *p, struct caller *c, const struct request_plan *plan)
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
        tracker_answer_redirect(c);
        break;
    }
    return REQUEST_TAKEN;
}
