/* reads.c - reads that the L1 may answer. */
#include "reads.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"
#include "query.h"
#include "wire.h"

/* --- views --------------------------------------------------------------------------------------
 */

enum {
    VIEW_MAX = 255, /* as in l1.h */
    VIEW_HEAD = 1 + sizeof(uint32_t) + sizeof(uint16_t),
};

static bool is_get(const struct request_plan *plan)
{
    return plan->command->id == COMMAND_ID_GET;
}

bool reads_takes(const struct proxy *p, const struct request_plan *plan)
{
    const struct command *command = plan->command;
    if (!proxy_has_l1(p))
        return false;
    switch ((enum command_cacheable)command->cacheable) {
    case COMMAND_CACHEABLE_NO:
        return false;
    case COMMAND_CACHEABLE_FIELDS:
        if (command_table_fields_expire(p->commands))
            return false;
        break;
    case COMMAND_CACHEABLE_YES:
        break;
    }
    if (command->id == COMMAND_ID_MGET || (command->id == COMMAND_ID_EXISTS && plan->argc != 2))
        return false;
    return command_arity_ok(command, plan->argc) && plan->argc >= 2;
}

/* Where a reply is to be found: what was asked, of which database, in which protocol. */
struct place {
    struct l1_view view;
    char bytes[VIEW_MAX];
};

/* protocol, database, command, then the arguments behind the key with their lengths. False: too
 * long to be kept. */
static bool describe(struct place *at, const struct caller *c, const struct request_plan *plan)
{
    uint32_t db = c->db;
    uint16_t id = plan->command->id;
    size_t n = VIEW_HEAD;
    at->bytes[0] = (char)c->resp;
    memcpy(at->bytes + 1, &db, sizeof db);
    memcpy(at->bytes + 1 + sizeof db, &id, sizeof id);
    for (size_t i = 2; i < plan->argc; i++) {
        struct resp_slice arg = plan->argv[i];
        if (arg.len > VIEW_MAX || n + 1 + arg.len > VIEW_MAX)
            return false;
        at->bytes[n++] = (char)arg.len;
        if (arg.len)
            memcpy(at->bytes + n, arg.data, arg.len);
        n += arg.len;
    }
    at->view.view = at->bytes;
    at->view.view_len = n;
    return true;
}

static bool find_place(struct place *at, const struct caller *c, const struct request_plan *plan)
{
    at->view = proxy_get_view(c, plan->argv[1], plan->hash);
    return is_get(plan) || describe(at, c, plan);
}

/* --- one key ------------------------------------------------------------------------------------
 */

static bool is_nil(const struct l1_hit *hit)
{
    return hit->reply[0] == '_' || (hit->reply[0] == '$' && hit->reply[1] == '-');
}

static void append_hit(const struct proxy *p, struct chain *out, const struct l1_hit *hit)
{
    /* A copy is cheaper than an iovec below this; measured, see DESIGN section 3. */
    if (hit->len < 16 * 1024 || !coherence_hits_may_be_borrowed(p->coherence))
        chain_append(out, hit->reply, hit->len);
    else
        chain_append_borrowed(out, hit->reply, hit->len);
}

/* And releases it. */
static void answer_hit(struct proxy *p, struct caller *c, const struct l1_view *view,
                       const struct l1_hit *hit)
{
    bool nil = is_nil(hit); /* whoever asked for it first may have spoken the other protocol */
    if (!nil)
        append_hit(p, caller_reply(c), hit);
    coherence_release(p->coherence, view);
    if (nil) {
        caller_answer_null(c);
        return;
    }
    if (c->head)
        chain_own(&c->tail->body); /* it may wait for longer than the entry lives */
    caller_replied(c);
}

static bool wait_for(struct caller *c, struct fill *f)
{
    struct request *r = request_new(c);
    if (!r)
        return false;
    struct request **waiters = (struct request **)coherence_fill_waiters(f);
    r->next_waiter = *waiters;
    *waiters = r;
    return true;
}

/* With optin the server tells of a key only if it was asked to with the very read that fills. */
static bool may_fill(const struct proxy *p, const struct upstream_conn *uc)
{
    return !link_tracks_fills(p->link) || upstream_tracks(uc);
}

/* False: out of memory. */
static bool opt_in(const struct proxy *p, struct upstream_conn *uc)
{
    if (!link_tracks_fills(p->link))
        return true;
    if (!upstream_expect(uc, NULL, REPLY_CACHING))
        return false;
    wire_command(upstream_out(uc),
                 (struct resp_slice[]){wire_text("CLIENT"), wire_text("CACHING"), wire_text("YES")},
                 3);
    return true;
}

static void append_pttl(struct chain *out, const struct namespace *ns, struct resp_slice key)
{
    wire_header(out, '*', 2);
    wire_bulk(out, wire_text("PTTL"));
    wire_bulk2(out, ns->prefix, key);
}

/* The read and PTTL leave together, so that the entry can't outlive its key. */
static void send_fill(struct proxy *p, struct caller *c, const struct request_plan *plan,
                      struct fill *f, struct upstream_conn *uc)
{
    uint64_t now = loop_now(p->loop);
    if (!wait_for(c, f)) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        coherence_fill_value_end(p->coherence, f, false, now);
        coherence_fill_ttl_end(p->coherence, f, false, now);
        return;
    }
    struct request *r = *coherence_fill_waiters(f);
    r->source = uc;
    if (!opt_in(p, uc) || !upstream_expect(uc, f, REPLY_FILL_VALUE)) {
        reads_fill_end(p, f, '-', UPSTREAM_NO_MEMORY);
        coherence_fill_ttl_end(p->coherence, f, false, now);
        return;
    }
    struct chain *out = upstream_out(uc);
    r->cost = outgoing_append(p, out, plan,
                              &(struct command_keys){&(struct command_key){.arg = 1}, 1, 1});
    c->owed_bytes += r->cost;
    if (upstream_expect(uc, f, REPLY_FILL_TTL))
        append_pttl(out, p->ns, plan->argv[1]);
    else
        coherence_fill_ttl_end(p->coherence, f, false, now);
    upstream_sent(uc);
}

static struct fill_terms terms_of(struct proxy *p, const struct caller *c,
                                  enum command_absent absent, const struct upstream_conn *uc)
{
    return (struct fill_terms){.absent = absent,
                               .resp = c->resp,
                               .path = uc,
                               .now = loop_now(p->loop),
                               .budget = &p->loop->budget};
}

static struct fill *begin_fill(struct proxy *p, const struct l1_view *view,
                               const struct fill_terms *terms, const struct upstream_conn *uc)
{
    if (may_fill(p, uc))
        return coherence_begin_fill(p->coherence, view, terms);
    coherence_detach_fill(p->coherence, view, uc);
    return NULL;
}

/* Without a fill, because of a write under way. */
static void read_past(struct proxy *p, struct caller *c, const struct request_plan *plan,
                      struct upstream_conn *uc)
{
    struct request *r = forward_down(p, c, plan, uc);
    if (r && !writes_add_hash(&r->writes, plan->hash))
        coherence_kill(p->coherence, plan->hash);
}

/* A reply about the key is on its way to this client: what comes from elsewhere could be older, and
 * would be shown behind it. */
static bool is_asked(const struct caller *c, uint64_t hash)
{
    return c->head && c->asked >> (hash & 63) & 1;
}

static void note_asked(struct caller *c, uint64_t hash)
{
    c->asked |= (uint64_t)1 << (hash & 63);
}

/* Only what goes the caller's own way: a flight on another connection may be slower, and what the
 * client writes behind its read would overtake that. */
static bool join(struct proxy *p, struct caller *c, const struct l1_view *view,
                 const struct fill_terms *terms)
{
    struct fill *f = coherence_join(p->coherence, view, terms);
    if (!f || !wait_for(c, f))
        return false;
    p->metrics->coalesced++;
    return true;
}

/* Nobody can be asked: what was right a while ago will do for some keys. */
static bool lookup_stale(struct proxy *p, const struct caller *c, const struct l1_view *view,
                         struct l1_hit *hit)
{
    if (is_asked(c, view->hash) ||
        !coherence_lookup_stale(p->coherence, view, loop_now(p->loop), hit))
        return false;
    p->metrics->stale_hits++;
    return true;
}

static bool is_down(struct upstream_conn *uc)
{
    return !uc || upstream_refusal(uc);
}

static void ask(struct proxy *p, struct caller *c, const struct request_plan *plan,
                const struct l1_view *view)
{
    struct upstream_conn *uc = proxy_lane(p, c, c->db);
    const struct fill_terms terms = terms_of(p, c, plan->command->absent, uc);
    if (join(p, c, view, &terms)) {
        note_asked(c, view->hash);
        return;
    }
    struct l1_hit hit;
    if (is_down(uc) && lookup_stale(p, c, view, &hit)) {
        answer_hit(p, c, view, &hit);
        return;
    }
    if (proxy_refused(p, c, uc))
        return;
    struct fill *f = begin_fill(p, view, &terms, uc);
    if (f)
        send_fill(p, c, plan, f, uc);
    else
        read_past(p, c, plan, uc);
    note_asked(c, view->hash);
}

void reads_one(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct place at;
    struct l1_hit hit;
    if (!find_place(&at, c, plan)) {
        (void)forward_run(p, c, plan);
        return;
    }
    if (!is_asked(c, plan->hash) &&
        coherence_lookup(p->coherence, &at.view, loop_now(p->loop), &hit)) {
        p->metrics->hits++;
        answer_hit(p, c, &at.view, &hit);
        return;
    }
    p->metrics->misses++;
    ask(p, c, plan, &at.view);
}

/* --- MGET: hits from the L1, one MGET for the rest, put together in order -----------------------
 */

enum {
    MGET_MAX = 4096,                  /* arguments: one with more passes by the L1 */
    MGET_HITS_MAX = 16 * 1024 * 1024, /* bytes; what comes from the upstream can be held back */
};

struct slot {
    bool missing;
    uint64_t hash;     /* of its key */
    struct fill *fill; /* of a missing one, or NULL */
    size_t len;        /* of a hit's reply in `hits` */
};

struct mget {
    size_t n, at; /* slots; the one whose reply comes next */
    size_t n_missing;
    struct slot *slots;
    struct chain hits; /* their replies, in order */
    bool in_elements, is_error;
    size_t header_len;
    char header[RESP_HEADER_MAX];
    struct resp_framer element;
};

static void mget_free(struct mget *m)
{
    if (!m)
        return;
    budget_give(m->hits.pool->budget, m->n * sizeof *m->slots);
    chain_clear(&m->hits);
    free(m->slots);
    free(m);
}

static struct mget *mget_new(struct proxy *p, size_t n)
{
    struct mget *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->n = n;
    m->slots = calloc(n, sizeof *m->slots);
    chain_init(&m->hits, &p->loop->pool);
    if (!m->slots) {
        free(m);
        return NULL;
    }
    budget_take(m->hits.pool->budget, n * sizeof *m->slots);
    return m;
}

static void append_element(const struct caller *c, struct chain *out, const struct l1_hit *hit)
{
    if (!is_nil(hit))
        chain_append(out, hit->reply, hit->len);
    else if (c->resp == 3)
        chain_append(out, "_\r\n", 3);
    else
        chain_append(out, "$-1\r\n", 5);
}

/* The reply to one key, if it may be served. */
static bool mget_find(struct proxy *p, const struct caller *c, const struct l1_view *view,
                      bool stale, struct l1_hit *hit)
{
    if (!is_asked(c, view->hash) && coherence_lookup(p->coherence, view, loop_now(p->loop), hit))
        return true;
    return stale && lookup_stale(p, c, view, hit);
}

/* `stale`: what was right a while ago will do. */
static void mget_look_up(struct proxy *p, struct caller *c, const struct request_plan *plan,
                         struct mget *m, bool stale)
{
    enum { AHEAD = 32 };
    for (size_t first = 0; first < m->n; first += AHEAD) {
        size_t end = m->n - first < AHEAD ? m->n : first + AHEAD;
        for (size_t i = first; i < end; i++) {
            struct resp_slice key = plan->argv[1 + i];
            m->slots[i].hash = coherence_hash(p->coherence, key.data, key.len);
            coherence_prefetch_bucket(p->coherence, m->slots[i].hash);
        }
        for (size_t i = first; i < end; i++)
            coherence_prefetch_entry(p->coherence, m->slots[i].hash);
        for (size_t i = first; i < end; i++) {
            struct slot *s = &m->slots[i];
            struct l1_view view = proxy_get_view(c, plan->argv[1 + i], s->hash);
            struct l1_hit hit;
            size_t before = m->hits.len;
            if (i + L1_AHEAD < end)
                coherence_prefetch_rest(p->coherence, m->slots[i + L1_AHEAD].hash);
            if (before <= MGET_HITS_MAX && mget_find(p, c, &view, stale, &hit)) {
                append_element(c, &m->hits, &hit);
                coherence_release(p->coherence, &view);
                s->len = m->hits.len - before;
                continue;
            }
            s->missing = true;
            m->n_missing++;
        }
    }
}

/* Hits up to the next missing slot go out. */
static void mget_emit_hits(struct request *r, struct mget *m)
{
    size_t bytes = 0;
    for (; m->at < m->n && !m->slots[m->at].missing; m->at++)
        bytes += m->slots[m->at].len;
    while (bytes) {
        struct iovec iov;
        int some = chain_iov(&m->hits, &iov, 1);
        assert(some == 1);
        size_t n = iov.iov_len < bytes ? iov.iov_len : bytes;
        request_bytes(r, iov.iov_base, n);
        chain_consume(&m->hits, n);
        bytes -= n;
    }
}

static void mget_begin_fills(struct proxy *p, struct caller *c, const struct request_plan *plan,
                             struct request *r, struct upstream_conn *uc)
{
    const struct fill_terms terms = terms_of(p, c, COMMAND_ABSENT_VALUE, uc);
    struct mget *m = r->mget;
    for (size_t i = 0; i < m->n; i++) {
        struct slot *s = &m->slots[i];
        if (!s->missing)
            continue;
        struct l1_view view = proxy_get_view(c, plan->argv[1 + i], s->hash);
        s->fill = begin_fill(p, &view, &terms, uc);
        if (s->fill) /* its waiters would get GET's reply: a wrong type reads as nil here */
            coherence_fill_value(p->coherence, s->fill, "", 0);
        else if (!writes_add_hash(&r->writes, s->hash))
            coherence_kill(p->coherence, s->hash);
        note_asked(c, s->hash);
    }
}

static void mget_send(struct proxy *p, const struct request_plan *plan, struct request *r,
                      struct upstream_conn *uc)
{
    struct mget *m = r->mget;
    struct chain *out = upstream_out(uc);
    size_t before = out->len;
    wire_header(out, '*', 1 + m->n_missing);
    wire_bulk(out, plan->argv[0]);
    for (size_t i = 0; i < m->n; i++)
        if (m->slots[i].missing)
            wire_bulk2(out, p->ns->prefix, plan->argv[1 + i]);
    r->cost = out->len - before;
    r->caller->owed_bytes += r->cost;
    for (size_t i = 0; i < m->n; i++) {
        if (!m->slots[i].fill)
            continue;
        if (upstream_expect(uc, m->slots[i].fill, REPLY_FILL_TTL))
            append_pttl(out, p->ns, plan->argv[1 + i]);
        else
            coherence_fill_ttl_end(p->coherence, m->slots[i].fill, false, loop_now(p->loop));
    }
    upstream_sent(uc);
}

static void mget_answer(struct caller *c, struct mget *m)
{
    struct chain *out = caller_reply(c);
    wire_header(out, '*', m->n);
    chain_move(out, &m->hits);
    caller_replied(c);
    mget_free(m);
}

/* Nobody can be asked: all of it from what was right a while ago? False: the client has been told.
 */
static bool mget_make_do(struct proxy *p, struct caller *c, const struct request_plan *plan,
                         struct upstream_conn *uc, struct mget **m)
{
    mget_free(*m);
    *m = p->config->l1_stale_if_error.n ? mget_new(p, plan->argc - 1) : NULL;
    if (*m)
        mget_look_up(p, c, plan, *m, true);
    if (*m && (*m)->n_missing == 0)
        return true;
    mget_free(*m);
    (void)proxy_refused(p, c, uc);
    return false;
}

void reads_mget(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    struct mget *m = plan->argc <= MGET_MAX ? mget_new(p, plan->argc - 1) : NULL;
    if (!m) {
        p->metrics->misses += plan->argc - 1;
        (void)forward_run(p, c, plan);
        return;
    }
    mget_look_up(p, c, plan, m, false);
    if (m->hits.failed) {
        mget_free(m);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    p->metrics->hits += m->n - m->n_missing;
    p->metrics->misses += m->n_missing;
    struct upstream_conn *uc = m->n_missing ? proxy_lane(p, c, c->db) : NULL;
    if (m->n_missing && is_down(uc) && !mget_make_do(p, c, plan, uc, &m))
        return;
    if (m->n_missing == 0) {
        mget_answer(c, m);
        return;
    }
    struct request *r = proxy_refused(p, c, uc) ? NULL : forward_expect(c, uc);
    if (!r || (may_fill(p, uc) && !opt_in(p, uc)) || !upstream_expect(uc, r, REPLY_MERGE)) {
        mget_free(m);
        if (r)
            forward_give_up(p, r);
        return;
    }
    r->mget = m;
    mget_begin_fills(p, c, plan, r, uc);
    mget_send(p, plan, r, uc);
}

static void mget_element_end(struct proxy *p, struct mget *m, bool keep)
{
    struct fill *f = m->slots[m->at].fill;
    if (f)
        coherence_fill_value_end(p->coherence, f, keep, loop_now(p->loop));
    m->at++;
}

static void mget_elements(struct proxy *p, struct request *r, const char *p0, size_t n)
{
    struct mget *m = r->mget;
    while (n > 0 && m->at < m->n) {
        size_t used = 0;
        enum resp_status status = resp_frame(&m->element, p0, n, &used);
        struct fill *f = m->slots[m->at].fill;
        request_bytes(r, p0, used);
        if (f)
            coherence_fill_value(p->coherence, f, p0, used);
        if (status == RESP_DONE) {
            mget_element_end(p, m, m->element.type == '$' || m->element.type == '_');
            mget_emit_hits(r, m);
        }
        p0 += used;
        n -= used;
    }
}

/* The header line "*<missing>\r\n" is replaced by our own; an error passes as it is. */
void reads_merge_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n)
{
    struct mget *m = r->mget;
    while (n > 0 && !m->in_elements && !m->is_error) {
        m->is_error = m->header_len == 0 && *bytes != '*';
        if (m->is_error)
            break;
        m->header[m->header_len++ % sizeof m->header] = *bytes;
        m->in_elements = *bytes == '\n';
        bytes++;
        n--;
        if (m->in_elements) {
            char ours[RESP_HEADER_MAX];
            request_bytes(r, ours, (size_t)(resp_put_header(ours, '*', m->n) - ours));
            mget_emit_hits(r, m);
        }
    }
    if (m->is_error)
        request_bytes(r, bytes, n);
    else if (n > 0)
        mget_elements(p, r, bytes, n);
    forward_watch_backlog(p, r);
}

/* Ends the fills whose value has not come. True if the reply was whole (or a whole error). */
static bool mget_close(struct proxy *p, struct request *r)
{
    struct mget *m = r->mget;
    bool whole = m->is_error || m->at == m->n;
    for (; m->at < m->n; m->at++)
        if (m->slots[m->at].fill)
            coherence_fill_value_end(p->coherence, m->slots[m->at].fill, false, loop_now(p->loop));
    mget_free(m);
    r->mget = NULL;
    return whole;
}

/* --- replies ------------------------------------------------------------------------------------
 */

void reads_fill_bytes(struct proxy *p, struct fill *f, const char *bytes, size_t n)
{
    coherence_fill_value(p->coherence, f, bytes, n);
    struct request *next;
    for (struct request *r = *coherence_fill_waiters(f); r; r = next) {
        next = r->next_waiter; /* a kicked client may take r with it */
        request_bytes(r, bytes, n);
        forward_watch_backlog(p, r);
    }
}

static struct request *take_waiters(struct fill *f)
{
    struct request *waiters = *coherence_fill_waiters(f);
    *coherence_fill_waiters(f) = NULL;
    return waiters;
}

static void end_waiters(struct proxy *p, struct request *waiters, char type, const char *error)
{
    while (waiters) {
        struct request *r = waiters;
        waiters = r->next_waiter;
        forward_finish(p, r, type, error);
    }
}

void reads_fill_end(struct proxy *p, struct fill *f, char type, const char *error)
{
    struct request *waiters = take_waiters(f);
    coherence_fill_value_end(p->coherence, f, !error && type != '-', loop_now(p->loop));
    end_waiters(p, waiters, type, error);
}

void reads_fill_late(struct proxy *p, struct fill *f, const char *error)
{
    coherence_fill_value(p->coherence, f, "", 0); /* nobody joins it any more */
    end_waiters(p, take_waiters(f), '-', error);
}

void reads_merge_end(struct proxy *p, struct request *r, char type, const char *error)
{
    bool whole = mget_close(p, r);
    if (!error && !whole)
        error = "-NEARCACHE the upstream's MGET reply was short\r\n";
    forward_finish(p, r, type, error);
}
