/* request.c - the walk of one request. */
#include "request.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "local.h"
#include "notice.h"
#include "query.h"
#include "scoped.h"
#include "wire.h"

enum {
    BACKLOG_SLOW = 128 * 1024, /* bytes unread by a client before its reply is held back */
    HOLD_READER_MAX = 100,     /* ms */
    HASHES_INLINE = 1,
};

/* --- plan and prefetch --------------------------------------------------------------------------
 */

static bool is_get(const struct request_plan *plan)
{
    return plan->command && plan->command->id == COMMAND_ID_GET && plan->argc == 2;
}

void request_plan(struct proxy *p, struct request_plan *plan)
{
    plan->command = plan->argc ? command_find(p->commands, plan->argv, plan->argc) : NULL;
    if (!is_get(plan))
        return;
    plan->hash = l1_hash(p->l1, plan->argv[1].data, plan->argv[1].len);
    l1_prefetch_bucket(p->l1, plan->hash);
}

void request_prefetch(const struct proxy *p, const struct request_plan *plan)
{
    if (is_get(plan))
        l1_prefetch_entry(p->l1, plan->hash);
}

/* --- writes in the L1 ---------------------------------------------------------------------------
 */

static uint64_t *hashes_of(struct request *r)
{
    return r->hashes ? r->hashes : &r->hash;
}

/* Counts a key among those that this request may change. */
static bool touch(struct proxy *p, struct request *r, struct resp_slice key)
{
    uint64_t hash = l1_hash(p->l1, key.data, key.len);
    if (r->n_hashes >= HASHES_INLINE && (r->n_hashes & (r->n_hashes - 1)) == 0) {
        uint64_t *more = realloc(r->hashes, 2 * r->n_hashes * sizeof *more);
        if (!more)
            return false;
        if (!r->hashes)
            more[0] = r->hash;
        r->hashes = more;
    }
    if (!coherence_write_begin(p->coherence, hash))
        return false;
    hashes_of(r)[r->n_hashes++] = hash;
    return true;
}

static void end_writes(struct proxy *p, struct request *r)
{
    for (uint32_t i = 0; i < r->n_hashes; i++)
        coherence_write_end(p->coherence, hashes_of(r)[i]);
    free(r->hashes);
    r->hashes = NULL;
    r->n_hashes = 0;
    if (r->all_keys)
        coherence_write_all_end(p->coherence);
    r->all_keys = false;
}

static void touch_all(struct proxy *p, struct request *r)
{
    r->all_keys = true;
    coherence_write_all_begin(p->coherence);
}

static bool is_function_call(const struct command *command)
{
    return command->id == COMMAND_ID_FCALL;
}

/* Declares to the L1 what the command may change, before it is sent. */
static bool begin_writes(struct proxy *p, struct request *r, const struct request_plan *plan)
{
    const struct command *command = plan->command;
    if (command->class_ != COMMAND_WRITE && command->class_ != COMMAND_ADMIN)
        return true;
    const struct command_keys *keys = &p->keys;
    if (keys->n == 0 || is_function_call(command) || command->class_ == COMMAND_ADMIN) {
        touch_all(p, r);
        return true;
    }
    bool some_written = false;
    for (size_t i = 0; i < keys->n; i++)
        some_written |= keys->v[i].flags & COMMAND_KEY_WRITE;
    for (size_t i = 0; i < keys->n; i++) {
        const struct command_key *k = &keys->v[i];
        if (k->kind == COMMAND_ARG_KEY && (!some_written || k->flags & COMMAND_KEY_WRITE) &&
            !touch(p, r, plan->argv[k->arg]))
            return false;
    }
    return true;
}

struct published {
    struct proxy *proxy;
    struct request *request;
    bool ok;
};

static void touch_published(void *ctx, struct resp_slice key)
{
    struct published *pub = ctx;
    pub->ok = pub->ok && touch(pub->proxy, pub->request, key);
    pub->proxy->metrics->invalidations++;
}

/* An invalidation that our own client publishes counts before it is acknowledged. */
static bool begin_publish(struct proxy *p, struct request *r, const struct request_plan *plan)
{
    struct published pub = {p, r, true};
    enum notice_result result =
        notice_read(p->ns, p->config->service, plan->argv[1], plan->argv[2], touch_published, &pub);
    if (result == NOTICE_MALFORMED)
        p->metrics->events_malformed++;
    return pub.ok;
}

/* --- sending ------------------------------------------------------------------------------------
 */

/* The command with our prefix before every key. */
static size_t append_command(struct chain *out, const struct namespace *ns,
                             const struct request_plan *plan, const struct command_keys *keys)
{
    size_t before = out->len, k = 0;
    wire_header(out, '*', plan->argc);
    for (size_t i = 0; i < plan->argc; i++) {
        if (k < keys->n && keys->v[k].arg == i) {
            wire_bulk2(out, ns->prefix, plan->argv[i]);
            k++;
        } else {
            wire_bulk(out, plan->argv[i]);
        }
    }
    return out->len - before;
}

/* A reply that will come from `uc`; NULL: the client has been answered with an error. */
static struct request *expect(struct caller *c, struct upstream_conn *uc)
{
    struct request *r = request_new(c);
    if (!r) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return NULL;
    }
    r->source = uc;
    return r;
}

static void give_up(struct proxy *p, struct request *r)
{
    end_writes(p, r);
    resp_rewriter_free(r->rewriter);
    r->rewriter = NULL;
    request_fail(r, UPSTREAM_NO_MEMORY);
}

static bool strip_reply(struct proxy *p, struct request *r, enum resp_keys kind)
{
    if (kind == RESP_KEYS_NONE || p->ns->prefix.len == 0)
        return true;
    r->rewriter = resp_rewriter_new(kind, p->ns->prefix);
    return r->rewriter != NULL;
}

static struct request *send_on(struct proxy *p, struct caller *c, const struct request_plan *plan,
                               struct upstream_conn *uc)
{
    struct request *r = expect(c, uc);
    if (!r)
        return NULL;
    bool publish = plan->command->id == COMMAND_ID_PUBLISH;
    if (!strip_reply(p, r, plan->command->keys_in_reply) ||
        !(publish ? begin_publish(p, r, plan) : begin_writes(p, r, plan)) ||
        !upstream_expect(uc, r, REPLY_FORWARD)) {
        give_up(p, r);
        return NULL;
    }
    r->cost = append_command(upstream_out(uc), p->ns, plan, &p->keys);
    c->owed_bytes += r->cost;
    upstream_sent(uc);
    return r;
}

/* Fills p->keys; false: the command has been answered with an error. */
static bool list_keys(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    enum command_keys_status status =
        command_list_keys(plan->command, plan->argv, plan->argc, &p->keys);
    if (status == COMMAND_KEYS_NO_MEMORY) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return false;
    }
    if (status == COMMAND_KEYS_REFUSE && p->ns->prefix.len) {
        caller_answer_error(c,
                            "NOPERM this command's keys can't be told from its arguments, so that "
                            "it can't be kept within the namespace");
        return false;
    }
    bool patterns = false;
    for (size_t i = 0; i < p->keys.n; i++)
        patterns |= p->keys.v[i].kind == COMMAND_ARG_PATTERN;
    if (patterns && !namespace_sortable(p->ns)) {
        caller_answer_error(c, "ERR BY and GET patterns don't work in a namespace with a '*'");
        return false;
    }
    return true;
}

static enum request_outcome forward(struct proxy *p, struct caller *c,
                                    const struct request_plan *plan)
{
    struct upstream_conn *uc = proxy_lane(p, c, c->db);
    if (list_keys(p, c, plan) && !proxy_refused(p, c, uc))
        (void)send_on(p, c, plan, uc);
    return REQUEST_TAKEN;
}

/* --- GET ----------------------------------------------------------------------------------------
 */

static void append_hit(struct chain *out, const struct l1_hit *hit)
{
    /* A copy is cheaper than an iovec below this; measured, see DESIGN section 3. */
    if (hit->len < 16 * 1024)
        chain_append(out, hit->reply, hit->len);
    else
        chain_append_borrowed(out, hit->reply, hit->len);
}

static void answer_hit(struct caller *c, const struct l1_hit *hit)
{
    append_hit(caller_reply(c), hit);
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

static void append_pttl(struct chain *out, const struct namespace *ns, struct resp_slice key)
{
    wire_header(out, '*', 2);
    wire_bulk(out, wire_text("PTTL"));
    wire_bulk2(out, ns->prefix, key);
}

/* GET and PTTL leave together, so that the entry can't outlive its key. */
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
    if (!upstream_expect(uc, f, REPLY_FILL_VALUE)) {
        request_upstream_callbacks.lost(p, f, REPLY_FILL_VALUE, UPSTREAM_NO_MEMORY);
        coherence_fill_ttl_end(p->coherence, f, false, now);
        return;
    }
    struct chain *out = upstream_out(uc);
    r->cost = append_command(out, p->ns, plan,
                             &(struct command_keys){&(struct command_key){.arg = 1}, 1, 1});
    c->owed_bytes += r->cost;
    if (upstream_expect(uc, f, REPLY_FILL_TTL))
        append_pttl(out, p->ns, plan->argv[1]);
    else
        coherence_fill_ttl_end(p->coherence, f, false, now);
    upstream_sent(uc);
}

static enum request_outcome run_get(struct proxy *p, struct caller *c,
                                    const struct request_plan *plan)
{
    uint64_t now = loop_now(p->loop);
    struct l1_view view = proxy_get_view(c, plan->argv[1], plan->hash);
    struct l1_hit hit;
    if (coherence_lookup(p->coherence, &view, now, &hit)) {
        p->metrics->hits++;
        answer_hit(c, &hit);
        return REQUEST_TAKEN;
    }
    p->metrics->misses++;
    struct fill *f = coherence_join(p->coherence, &view);
    if (f && wait_for(c, f)) {
        p->metrics->coalesced++;
        return REQUEST_TAKEN;
    }
    struct upstream_conn *uc = proxy_lane(p, c, c->db);
    if (proxy_refused(p, c, uc))
        return REQUEST_TAKEN;
    f = coherence_begin_fill(p->coherence, &view, now);
    if (!f)
        return forward(p, c, plan);
    send_fill(p, c, plan, f, uc);
    return REQUEST_TAKEN;
}

/* --- MGET: hits from the L1, one MGET for the rest, put together in order -----------------------
 */

struct slot {
    bool missing;
    struct fill *fill; /* of a missing one, or NULL */
    size_t at, len;    /* a hit's reply in `hits` */
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
    if (m->slots)
        return m;
    free(m);
    return NULL;
}

static void mget_look_up(struct proxy *p, struct caller *c, const struct request_plan *plan,
                         struct mget *m)
{
    enum { AHEAD = 32 };
    uint64_t hashes[AHEAD], now = loop_now(p->loop);
    for (size_t first = 0; first < m->n; first += AHEAD) {
        size_t n = m->n - first < AHEAD ? m->n - first : AHEAD;
        for (size_t i = 0; i < n; i++) {
            struct resp_slice key = plan->argv[1 + first + i];
            hashes[i] = l1_hash(p->l1, key.data, key.len);
            l1_prefetch_bucket(p->l1, hashes[i]);
        }
        for (size_t i = 0; i < n; i++)
            l1_prefetch_entry(p->l1, hashes[i]);
        for (size_t i = 0; i < n; i++) {
            struct slot *s = &m->slots[first + i];
            struct l1_view view = proxy_get_view(c, plan->argv[1 + first + i], hashes[i]);
            struct l1_hit hit;
            if (coherence_lookup(p->coherence, &view, now, &hit)) {
                s->at = m->hits.len;
                s->len = hit.len;
                chain_append(&m->hits, hit.reply, hit.len);
                continue;
            }
            s->missing = true;
            m->n_missing++;
        }
    }
    p->metrics->hits += m->n - m->n_missing;
    p->metrics->misses += m->n_missing;
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
                             struct mget *m)
{
    uint64_t now = loop_now(p->loop);
    for (size_t i = 0; i < m->n; i++) {
        struct resp_slice key = plan->argv[1 + i];
        if (!m->slots[i].missing)
            continue;
        struct l1_view view = proxy_get_view(c, key, l1_hash(p->l1, key.data, key.len));
        m->slots[i].fill = coherence_begin_fill(p->coherence, &view, now);
        if (m->slots[i]
                .fill) /* its waiters would get GET's reply: a wrong type reads as nil here */
            coherence_fill_value(p->coherence, m->slots[i].fill, "", 0);
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

static enum request_outcome run_mget(struct proxy *p, struct caller *c,
                                     const struct request_plan *plan)
{
    if (!coherence_serving(p->coherence, loop_now(p->loop)) || p->config->l1_max_memory == 0) {
        p->metrics->misses += plan->argc - 1;
        return forward(p, c, plan);
    }
    struct mget *m = mget_new(p, plan->argc - 1);
    if (!m)
        return forward(p, c, plan);
    mget_look_up(p, c, plan, m);
    if (m->n_missing == 0) {
        mget_answer(c, m);
        return REQUEST_TAKEN;
    }
    struct upstream_conn *uc = proxy_lane(p, c, c->db);
    struct request *r = proxy_refused(p, c, uc) ? NULL : expect(c, uc);
    if (!r) {
        mget_free(m);
        return REQUEST_TAKEN;
    }
    if (!upstream_expect(uc, r, REPLY_MERGE)) {
        mget_free(m);
        give_up(p, r);
        return REQUEST_TAKEN;
    }
    r->mget = m;
    mget_begin_fills(p, c, plan, m);
    mget_send(p, plan, r, uc);
    return REQUEST_TAKEN;
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
            mget_element_end(p, m, m->element.type == '$');
            mget_emit_hits(r, m);
        }
        p0 += used;
        n -= used;
    }
}

/* The header line "*<missing>\r\n" is replaced by our own; an error passes as it is. */
static void mget_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n)
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

static void kick(struct proxy *p, struct caller *c, const char *why)
{
    char id[24];
    p->metrics->clients_dropped++;
    log_write(p->log, LOG_WARN, "client_dropped", "id", log_number(id, c->id), "why", why, NULL);
    c->kill = true;
    c->progress(c);
}

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
static void watch_backlog(struct proxy *p, struct request *r)
{
    struct caller *c = r->caller;
    if (!c || caller_unread(c) <= BACKLOG_SLOW)
        return;
    if (caller_unread(c) > p->config->client_max_output)
        kick(p, c, "its unread replies exceed client.max_output");
    else if (r->source && c->head == r && conn_out(c->conn)->len > BACKLOG_SLOW && may_hold(p, c))
        (void)upstream_hold(r->source);
}

static void emit(void *ctx, const char *p, size_t n)
{
    request_bytes(ctx, p, n);
}

static void forward_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n)
{
    if (!r->rewriter) {
        request_bytes(r, bytes, n);
    } else {
        size_t used = 0;
        if (resp_rewrite(r->rewriter, bytes, n, &used, emit, r) == RESP_BAD && r->caller)
            kick(p, r->caller, "the upstream's reply could not be rewritten");
    }
    watch_backlog(p, r);
}

static void forward_end(struct proxy *p, struct request *r)
{
    end_writes(p, r);
    resp_rewriter_free(r->rewriter);
    r->rewriter = NULL;
    if (r->source)
        upstream_release(r->source);
    if (!r->caller)
        p->metrics->replies_dropped++;
}

static void forward_done(struct proxy *p, struct request *r, char type)
{
    forward_end(p, r);
    if (r->select_db && type == '+' && r->caller)
        r->caller->db = r->db;
    request_done(r);
}

static void forward_lost(struct proxy *p, struct request *r, const char *error)
{
    forward_end(p, r);
    p->metrics->upstream_errors++;
    request_fail(r, error);
}

static void fill_bytes(struct proxy *p, struct fill *f, const char *bytes, size_t n)
{
    coherence_fill_value(p->coherence, f, bytes, n);
    struct request *next;
    for (struct request *r = *coherence_fill_waiters(f); r; r = next) {
        next = r->next_waiter; /* a kicked client may take r with it */
        request_bytes(r, bytes, n);
        watch_backlog(p, r);
    }
}

static void fill_end(struct proxy *p, struct fill *f, bool keep, const char *error)
{
    struct request *waiters = *coherence_fill_waiters(f);
    *coherence_fill_waiters(f) = NULL;
    coherence_fill_value_end(p->coherence, f, keep, loop_now(p->loop));
    while (waiters) {
        struct request *r = waiters;
        waiters = r->next_waiter;
        if (error)
            forward_lost(p, r, error);
        else
            forward_done(p, r, '$');
    }
}

static void on_bytes(void *ctx, void *owner, unsigned tag, const char *bytes, size_t n)
{
    switch ((enum reply_tag)tag) {
    case REPLY_FORWARD:
        forward_bytes(ctx, owner, bytes, n);
        break;
    case REPLY_FILL_VALUE:
        fill_bytes(ctx, owner, bytes, n);
        break;
    case REPLY_FILL_TTL:
        coherence_fill_ttl(owner, bytes, n);
        break;
    case REPLY_MERGE:
        mget_bytes(ctx, owner, bytes, n);
        watch_backlog(ctx, owner);
        break;
    case REPLY_QUERY:
        query_bytes(owner, bytes, n);
        break;
    }
}

static void on_done(void *ctx, void *owner, unsigned tag, char type)
{
    struct proxy *p = ctx;
    switch ((enum reply_tag)tag) {
    case REPLY_FORWARD:
        forward_done(p, owner, type);
        break;
    case REPLY_FILL_VALUE:
        fill_end(p, owner, type == '$', NULL);
        break;
    case REPLY_FILL_TTL:
        coherence_fill_ttl_end(p->coherence, owner, true, loop_now(p->loop));
        break;
    case REPLY_MERGE:
        if (mget_close(p, owner))
            forward_done(p, owner, type);
        else
            forward_lost(p, owner, "-NEARCACHE the upstream's MGET reply was short\r\n");
        break;
    case REPLY_QUERY:
        query_done(owner);
        break;
    }
}

static void on_lost(void *ctx, void *owner, unsigned tag, const char *error)
{
    struct proxy *p = ctx;
    switch ((enum reply_tag)tag) {
    case REPLY_FORWARD:
        forward_lost(p, owner, error);
        break;
    case REPLY_FILL_VALUE:
        fill_end(p, owner, false, error);
        break;
    case REPLY_FILL_TTL:
        coherence_fill_ttl_end(p->coherence, owner, false, loop_now(p->loop));
        break;
    case REPLY_MERGE:
        (void)mget_close(p, owner);
        forward_lost(p, owner, error);
        break;
    case REPLY_QUERY:
        query_lost(owner, error);
        break;
    }
}

const struct upstream_callbacks request_upstream_callbacks = {
    .bytes = on_bytes, .done = on_done, .lost = on_lost};

void request_client_drained(struct caller *c)
{
    c->held_since = 0;
    if (c->head && c->head->source)
        upstream_release(c->head->source);
}

/* --- the dispatcher -----------------------------------------------------------------------------
 */

static bool must_wait(const struct caller *c)
{
    return c->head != NULL;
}

static struct request *run_alone(struct proxy *p, struct caller *c, const struct request_plan *plan,
                                 struct upstream_conn *uc)
{
    struct request *r = NULL;
    if (list_keys(p, c, plan) && !proxy_refused(p, c, uc))
        r = send_on(p, c, plan, uc);
    if (r)
        r->exclusive = c->exclusive = true;
    return r;
}

/* The database's own connection is asked: it alone knows how many there are. */
static enum request_outcome run_select(struct proxy *p, struct caller *c,
                                       const struct request_plan *plan)
{
    int64_t db;
    if (must_wait(c))
        return REQUEST_LATER;
    if (!resp_parse_int(plan->argv[1], &db)) {
        caller_answer_error(c, "ERR value is not an integer or out of range");
    } else if (db < 0 || db > INT32_MAX) {
        caller_answer_error(c, "ERR DB index is out of range");
    } else if (db == c->db) {
        caller_answer_text(c, "+OK\r\n");
    } else {
        struct request *r = run_alone(p, c, plan, proxy_lane(p, c, (uint32_t)db));
        if (r) {
            r->select_db = true;
            r->db = (uint32_t)db;
        }
    }
    return REQUEST_TAKEN;
}

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

static enum request_outcome refuse_session(struct caller *c, const struct command *command)
{
    char text[128];
    snprintf(text, sizeof text,
             "ERR nearcache does not support '%s' yet: it needs a connection of its own",
             command->name);
    caller_answer_error(c, text);
    return REQUEST_TAKEN;
}

static enum request_outcome run_read(struct proxy *p, struct caller *c,
                                     const struct request_plan *plan)
{
    switch (plan->command->id) {
    case COMMAND_ID_GET:
        return run_get(p, c, plan);
    case COMMAND_ID_MGET:
        return run_mget(p, c, plan);
    case COMMAND_ID_XREAD:
        if (has_block(plan))
            return refuse_session(c, plan->command);
        break;
    default:
        break;
    }
    return forward(p, c, plan);
}

static enum request_outcome run_write(struct proxy *p, struct caller *c,
                                      const struct request_plan *plan)
{
    if (plan->command->id == COMMAND_ID_XREADGROUP && has_block(plan))
        return refuse_session(c, plan->command);
    return forward(p, c, plan);
}

/* Without a namespace these are ordinary commands; only KEYS keeps out of the others' way. */
static enum request_outcome run_scoped(struct proxy *p, struct caller *c,
                                       const struct request_plan *plan)
{
    uint16_t id = plan->command->id;
    if (p->ns->prefix.len == 0 && id != COMMAND_ID_KEYS)
        return forward(p, c, plan);
    if (id == COMMAND_ID_SCAN) {
        scoped_scan(p, c, plan->argv, plan->argc);
        return REQUEST_TAKEN;
    }
    if (must_wait(c))
        return REQUEST_LATER;
    if (id == COMMAND_ID_KEYS && p->ns->prefix.len == 0)
        (void)run_alone(p, c, plan, upstream_get(p->upstream, c->db, UPSTREAM_SCAN_LANE));
    else
        scoped_run(p, c, id, plan->argv, plan->argc);
    return REQUEST_TAKEN;
}

static enum request_outcome run_admin(struct proxy *p, struct caller *c,
                                      const struct request_plan *plan)
{
    if (p->config->admin_commands == ADMIN_COMMANDS_ALLOW)
        return forward(p, c, plan);
    char text[160];
    snprintf(text, sizeof text,
             "NOPERM '%s' administers the shared server; nearcache forwards it only with "
             "admin_commands=allow",
             plan->command->name);
    caller_answer_error(c, text);
    return REQUEST_TAKEN;
}

static enum request_outcome run_class(struct proxy *p, struct caller *c,
                                      const struct request_plan *plan)
{
    switch ((enum command_class)plan->command->class_) {
    case COMMAND_READ:
        return run_read(p, c, plan);
    case COMMAND_WRITE:
        return run_write(p, c, plan);
    case COMMAND_SESSION:
        return refuse_session(c, plan->command);
    case COMMAND_LOCAL:
        if (plan->command->id == COMMAND_ID_SELECT)
            return run_select(p, c, plan);
        local_run(p, c, plan->command, plan->argv, plan->argc);
        return REQUEST_TAKEN;
    case COMMAND_SCOPED:
        return run_scoped(p, c, plan);
    case COMMAND_ADMIN:
        return run_admin(p, c, plan);
    }
    return REQUEST_TAKEN;
}

enum request_outcome request_run(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    const struct command *command = plan->command;
    char error[COMMAND_ERROR_MAX];
    if (plan->argc == 0)
        return REQUEST_TAKEN;
    if (!command) {
        caller_answer(c, error, command_unknown_error(p->commands, plan->argv, plan->argc, error));
        return REQUEST_TAKEN;
    }
    c->last_command = command;
    if (!command_arity_ok(command, plan->argc)) {
        caller_answer(c, error, command_arity_error(command, error));
        return REQUEST_TAKEN;
    }
    if (!c->authenticated && !(command->flags & COMMAND_FLAG_NO_AUTH)) {
        caller_answer_error(c, "NOAUTH Authentication required.");
        return REQUEST_TAKEN;
    }
    return run_class(p, c, plan);
}
