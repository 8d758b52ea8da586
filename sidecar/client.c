/* client.c - client connections.
 *
 *        on_bytes                                request_run
 *   conn --------> take_batch: parse up to 64 -> plan -> prefetch -> run --> hit: bytes into the
 * output ^                                                               \--> miss: a request in
 * the FIFO |  written at the end of the batch, or of the turn                           |
 *    +------------------------- caller: replies in order <-----------------------+
 */
#include "client.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "identity.h"
#include "lend.h"
#include "monitor.h"
#include "pressure.h"
#include "request.h"
#include "session.h"

enum {
    CLIENT_MAGIC = 0x636c6e74,
    BATCH = 64,
    OWED_MAX = 2 * 1024, /* replies owed before the client is not read from: so many may be in the
                          * way of other clients on its connection; .. */
    OWED_BYTES_MAX = 8 * 1024 * 1024, /* .. and bytes of their requests, .. */
    PARKED_MAX = 8 * 1024 * 1024,     /* .. and bytes of replies that wait for an earlier one */
    FLUSH_AT = 1024 * 1024,           /* bytes of output within one batch */
    SHORT_REPLY = 8 * 1024,           /* bytes */
    HANDSHAKE_LOG_EVERY = 1000,       /* ms */
    DRAIN_REST = 100,                 /* ms of silence after which a client is told good-bye */
};

struct client {
    struct caller caller; /* first: a caller is its client */
    uint32_t magic;
    bool closed;
    bool held;          /* not read from until enough of what it is owed has been sent, .. */
    bool waits_for_all; /* .. which is all of it */
    size_t late;        /* bytes of what is offered that had arrived, .. */
    uint64_t late_at;   /* .. by then, when a command before them began to wait for a connection */
    struct proxy *proxy;
    struct resp_request parser;
    struct loop_job grave;
};

static struct client *client_of(void *arg)
{
    struct client *cl = arg;
    assert(cl->magic == CLIENT_MAGIC && cl->caller.magic == CALLER_MAGIC);
    return cl;
}

/* --- the end ------------------------------------------------------------------------------------
 */

static void destroy(struct loop_job *job)
{
    struct client *cl = (struct client *)((char *)job - offsetof(struct client, grave));
    cl->magic = cl->caller.magic = 0;
    slabs_give(&cl->proxy->loop->clients, cl);
}

static void client_close(struct client *cl)
{
    if (cl->closed)
        return;
    cl->closed = true;
    forward_client_drained(&cl->caller); /* nobody waits for its sake any more */
    conn_close(cl->caller.conn);
    pressure_forget(cl->proxy, &cl->caller);
    caller_leave(&cl->caller);
    monitor_stop(cl->proxy, &cl->caller);
    session_forget(cl->proxy, &cl->caller);
    lend_end(cl->proxy, &cl->caller);
    TAILQ_REMOVE(&cl->proxy->callers, &cl->caller, entry);
    cl->proxy->n_callers--;
    cl->proxy->crew->n_callers--;
    loop_bury(cl->proxy->loop, &cl->grave, destroy);
}

/* All is said: what the kernel has not taken yet keeps the client a little longer. */
static bool leave_if_done(struct client *cl)
{
    struct caller *c = &cl->caller;
    if (c->kill) {
        client_close(cl);
        return true;
    }
    if (!c->quitting || c->head)
        return false;
    conn_flush(c->conn);
    if (conn_out(c->conn)->len == 0)
        client_close(cl);
    return true;
}

/* --- taking requests ----------------------------------------------------------------------------
 */

static bool may_take(const struct client *cl)
{
    const struct caller *c = &cl->caller;
    return !cl->closed && !c->quitting && !c->kill && !c->exclusive && !c->pressed &&
           c->owed < OWED_MAX && c->owed_bytes < OWED_BYTES_MAX && c->parked < PARKED_MAX;
}

struct batch {
    size_t n, most;
    size_t at;               /* where it begins in what is offered */
    size_t first_arg[BATCH]; /* index into args */
    size_t argc[BATCH];
    size_t end[BATCH]; /* offset behind the command */
};

/* Finds up to BATCH whole commands in p[0..n). False: a protocol error stands behind them. */
static bool find_commands(struct client *cl, struct batch *b, const char *p, size_t n,
                          char error[RESP_ERROR_MAX])
{
    const struct resp_limits limits = {.max_bulk = 512LL * 1024 * 1024,
                                       .authenticated = cl->caller.authenticated};
    size_t at = 0;
    b->n = 0;
    b->most = limits.authenticated ? BATCH : 1; /* AUTH changes the limits of what follows */
    resp_args_reset(&cl->proxy->args);
    while (b->n < b->most && at < n) {
        size_t used = 0, before = cl->proxy->args.n;
        enum resp_status status = resp_request_parse(&cl->parser, &limits, p + at, n - at,
                                                     &cl->proxy->args, &used, error);
        if (status == RESP_BAD)
            return false;
        if (status == RESP_MORE) {
            conn_want(cl->caller.conn, resp_request_wanted(&cl->parser, n - at));
            break;
        }
        at += used;
        b->first_arg[b->n] = before;
        b->argc[b->n] = cl->proxy->args.n - before;
        b->end[b->n++] = at;
    }
    return true;
}

/* What one batch puts out does not wait for its end to be written, nor to be noticed. */
static void bound_output(struct client *cl)
{
    if (cl->closed || conn_out(cl->caller.conn)->len < FLUSH_AT)
        return;
    conn_flush(cl->caller.conn);
    (void)pressure_check(cl->proxy, &cl->caller, 0);
}

/* Runs them in order; returns how many bytes were dealt with, less than all of them when the client
 * has to wait. */
static size_t run_commands(struct client *cl, const struct batch *b, const char *text)
{
    struct block *block = conn_block(cl->caller.conn, text);
    struct request_plan plans[BATCH];
    struct proxy *p = cl->proxy;
    for (size_t i = 0; i < b->n; i++) {
        plans[i].argv = b->argc[i] ? cl->proxy->args.v + b->first_arg[i] : NULL;
        plans[i].argc = b->argc[i];
        plans[i].text = text + (i ? b->end[i - 1] : 0);
        if (*plans[i].text != '*')
            plans[i].text = NULL;
        plans[i].block = block;
        request_plan(p, &plans[i], i ? plans[i - 1].command : cl->caller.last_command);
    }
    for (size_t i = 0; i < b->n; i++)
        request_prefetch(p, &plans[i]);
    for (size_t i = 0; i < b->n; i++) {
        if (!may_take(cl))
            return i ? b->end[i - 1] : 0;
        if (i + L1_AHEAD < b->n)
            request_prefetch_rest(p, &plans[i + L1_AHEAD]);
        if (cl->late)
            cl->caller.arrived = b->at + (i ? b->end[i - 1] : 0) < cl->late ? cl->late_at : 0;
        cl->waits_for_all = request_run(p, &cl->caller, &plans[i]) == REQUEST_LATER;
        if (cl->waits_for_all)
            return i ? b->end[i - 1] : 0;
        if (cl->late && cl->caller.lane) /* it has not waited in vain: the others wait anew */
            cl->late = cl->caller.arrived = 0;
        bound_output(cl);
        p->metrics->commands += plans[i].argc > 0;
    }
    return b->n ? b->end[b->n - 1] : 0;
}

static void protocol_error(struct client *cl, const char *error)
{
    char text[RESP_ERROR_MAX + 8];
    snprintf(text, sizeof text, "ERR %s", error);
    cl->proxy->metrics->protocol_errors++;
    caller_answer_error(&cl->caller, text);
    cl->caller.quitting = true;
}

static void wait_a_while(struct client *cl)
{
    if (cl->closed)
        return;
    cl->held = true;
    if (!cl->caller.state.blocking) /* else nothing would tell that nobody waits any more */
        conn_pause(cl->caller.conn);
}

/* The command at `at` of n bytes waits for a connection. Those behind it wait as well, each from
 * now on, not from when it is its turn: else they would be refused one by one. */
static void note_wait(struct client *cl, size_t at, size_t n)
{
    if (!cl->caller.wait_since || at < cl->late)
        return;
    cl->late = n;
    cl->late_at = cl->caller.wait_since;
}

/* So many bytes are gone. */
static void forget_late(struct client *cl, size_t taken)
{
    cl->late -= taken < cl->late ? taken : cl->late;
    if (!cl->late)
        cl->caller.arrived = 0;
}

/* Takes what it can of p[0..n); returns the bytes taken. */
static size_t take(struct client *cl, const char *p, size_t n)
{
    size_t at = 0;
    while (at < n && may_take(cl)) {
        struct batch b;
        b.at = at;
        char error[RESP_ERROR_MAX];
        bool sound = find_commands(cl, &b, p + at, n - at, error);
        size_t whole = b.n ? b.end[b.n - 1] : 0;
        size_t taken = run_commands(cl, &b, p + at);
        at += taken;
        if (taken < whole) {
            cl->parser = (struct resp_request){0}; /* the rest is parsed again from its start */
            note_wait(cl, at, n);
            wait_a_while(cl);
            return at;
        }
        if (!sound) { /* unless the client has left, or said that it will */
            if (!cl->closed && !cl->caller.quitting && !cl->caller.kill)
                protocol_error(cl, error);
            return n;
        }
        if (b.n < b.most)
            break;
    }
    if (at < n && !may_take(cl))
        wait_a_while(cl);
    return at;
}

/* The two sides disagree about TLS, or about who may be trusted. */
static void handshake_failed(struct client *cl, const char *why)
{
    struct proxy *p = cl->proxy;
    char peer[CONN_ADDRESS_MAX], suppressed[24];
    p->metrics->tls_handshakes_failed++;
    if (!log_limit_pass(&p->handshake_log, loop_now(p->loop), HANDSHAKE_LOG_EVERY))
        return;
    conn_peer_address(cl->caller.conn, peer);
    log_write(p->log, LOG_WARN, "client_handshake_failed", "client", peer, "why", why, "suppressed",
              p->handshake_log.suppressed ? log_number(suppressed, p->handshake_log.suppressed)
                                          : NULL,
              NULL);
}

/* What is due now leaves with one write. If it is short, others' turn comes before: to read from
 * many clients and then to write to many keeps the processor's caches warmer than to take turns.
 * Borrowed bytes could have moved by then. */
static void send_replies(struct conn *conn)
{
    const struct chain *out = conn_out(conn);
    if (out->len == 0 && !out->failed)
        return;
    if (out->len <= SHORT_REPLY && out->n_borrowed == 0)
        conn_send(conn);
    else
        conn_flush(conn);
}

static size_t on_bytes(void *ctx, const char *p, size_t n)
{
    struct client *cl = client_of(ctx);
    assert(cl->proxy->args.n == 0); /* one batch at a time */
    if (!cl->caller.last_command && tls_is_record(p, n)) {
        handshake_failed(cl, "the client speaks TLS at a port that does not; give the address to "
                             "listen at as tls:host:port");
        client_close(cl);
        return n;
    }
    cl->caller.active = loop_now(cl->proxy->loop);
    size_t taken = cl->held ? 0 : take(cl, p, n);
    resp_args_reset(&cl->proxy->args);
    if (cl->closed)
        return n;
    if (cl->late)
        forget_late(cl, taken);
    if (!cl->caller.kill)
        send_replies(cl->caller.conn);
    if (leave_if_done(cl) || cl->caller.quitting ||
        !pressure_check(cl->proxy, &cl->caller, n - taken))
        return n;
    if (cl->caller.pressed)
        wait_a_while(cl);
    return taken;
}

/* A request has left the FIFO. */
static void on_progress(struct caller *c)
{
    struct client *cl = client_of(c);
    if (cl->closed || leave_if_done(cl))
        return;
    lend_settle(cl->proxy, c);
    if (!cl->held)
        return;
    /* Half empty, not just below the limit: no stop and go. A command that waits for all before it
     * finds its turn when the FIFO is empty. */
    bool room =
        c->head == NULL || (!cl->waits_for_all && c->owed <= OWED_MAX / 2 &&
                            c->owed_bytes <= OWED_BYTES_MAX / 2 && c->parked <= PARKED_MAX / 2);
    if (!may_take(cl) || !room)
        return;
    cl->held = cl->waits_for_all = false;
    conn_resume(c->conn);
}

static void on_drained(void *ctx)
{
    struct client *cl = client_of(ctx);
    forward_client_drained(&cl->caller);
    (void)leave_if_done(cl);
}

/* Half-closed or gone: what it is owed is still delivered, as long as it can be. */
static void on_ended(void *ctx, bool eof, const char *why)
{
    struct client *cl = client_of(ctx);
    if (!conn_is_open(cl->caller.conn))
        handshake_failed(cl, why);
    if (conn_unread(cl->caller.conn) > cl->proxy->config->client_max_query) {
        pressure_kick(cl->proxy, &cl->caller, why);
        return;
    }
    if (!eof) {
        client_close(cl);
        return;
    }
    cl->caller.quitting = true;
    if (cl->caller.state.blocking) /* what it waits for may never come */
        session_hang_up(cl->proxy, &cl->caller);
    (void)leave_if_done(cl);
}

static const struct conn_callbacks conn_callbacks = {
    .bytes = on_bytes, .drained = on_drained, .ended = on_ended};

/* --- accepting ----------------------------------------------------------------------------------
 */

static void refuse(struct proxy *p, evutil_socket_t fd, const char *error)
{
    p->metrics->connections_rejected++;
    (void)send(fd, error, strlen(error), MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static void client_new(struct proxy *p, evutil_socket_t fd, struct tls_context *tls)
{
    struct client *cl = slabs_take(&p->loop->clients, sizeof *cl);
    if (!cl) {
        close(fd);
        return;
    }
    struct caller *c = &cl->caller;
    caller_init(c, p->loop);
    cl->magic = CLIENT_MAGIC;
    cl->proxy = p;
    c->progress = on_progress;
    c->id = ++p->crew->last_caller_id;
    c->db = p->address->db;
    c->authenticated = !identity_auth_required(p);
    c->created = c->active = loop_now(p->loop);
    c->conn = conn_accept(p->loop, fd, tls, &conn_callbacks, cl);
    if (!c->conn) {
        slabs_give(&p->loop->clients, cl);
        return;
    }
    conn_limit_input(c->conn, p->config->client_max_query);
    TAILQ_INSERT_TAIL(&p->callers, c, entry);
    p->n_callers++;
    p->crew->n_callers++;
    p->metrics->connections_received++;
}

void client_accept(void *ctx, evutil_socket_t fd, bool tls)
{
    struct proxy *p = ctx;
    if (p->crew->n_callers >= p->config->max_clients)
        refuse(p, fd, tls ? "" : "-ERR max number of clients reached\r\n");
    else
        client_new(p, fd, tls ? p->tls : NULL);
}

/* --- shutting down ------------------------------------------------------------------------------
 */

/* What it waits for may never come. */
static bool waits_for_others(const struct caller *c)
{
    return c->state.blocking || c->state.channels || c->state.patterns || c->state.shards ||
           c->monitors;
}

/* Nothing is owed to it, and nothing has come from it for a moment. */
static bool is_at_rest(const struct caller *c, uint64_t now)
{
    return !c->head && conn_unread(c->conn) == 0 && now - c->active >= DRAIN_REST;
}

void clients_drain(struct proxy *p, uint64_t now)
{
    struct caller *c, *next;
    for (c = TAILQ_FIRST(&p->callers); c; c = next) {
        next = TAILQ_NEXT(c, entry);
        if (!waits_for_others(c) && !is_at_rest(c, now))
            continue;
        c->quitting = true;
        c->kill = c->state.blocking > 0;
        c->progress(c);
    }
}

void clients_close(struct proxy *p)
{
    while (!TAILQ_EMPTY(&p->callers))
        client_close(client_of(TAILQ_FIRST(&p->callers)));
}
