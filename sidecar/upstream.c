/* upstream.c - pipelined connections to the shared Redis. */
#include "upstream.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backoff.h"
#include "wire.h"

enum {
    HOLD_MAX = 100,        /* ms that slow readers may hold the others up, .. */
    HOLD_RATE = 64 * 1024, /* .. earned back by so many bytes a ms: 64 MB/s never buffers */
    IDLE_MAX = 60 * 1000,  /* ms until an unused extra connection is closed */
    HANDSHAKE_REPLIES = 4, /* HELLO, SELECT; where HELLO is not known AUTH, CLIENT SETNAME */
    ERROR_MAX = 256,
    PROOF_EVERY = 250, /* ms, of connections that track */
};

/* Tags of replies that are for this module. */
static const unsigned OUR_TRACKING = UINT32_MAX, OUR_PING = UINT32_MAX - 1;

static bool is_our_own(unsigned tag)
{
    return tag >= OUR_PING;
}

enum upstream_conn_state { UC_IDLE, UC_CONNECTING, UC_HANDSHAKE, UC_READY, UC_BACKOFF };

struct owed {
    void *owner;
    unsigned tag;
};

/* Replies owed, oldest first: a ring that grows. */
struct owed_ring {
    struct owed *v;
    size_t first, n, cap; /* cap: a power of two */
};

/* Replies that our own handshake waits for, in order. */
enum handshake_step { STEP_HELLO, STEP_SELECT, STEP_AUTH, STEP_SETNAME };

struct upstream_conn {
    struct upstream *upstream;
    struct upstream_conn *next;
    uint32_t db, slot;
    uint8_t resp;
    uint8_t state;
    bool is_private;
    void *holder;      /* of a private one that is lent */
    uint64_t id;       /* CLIENT ID of a private one */
    unsigned patience; /* replies owed that may take any time */
    uint64_t tracking; /* asked to tell this connection, .. */
    uint64_t tracks;   /* .. and the server has agreed */
    bool asking;       /* a question of ours is under way, .. */
    uint64_t asked;    /* .. since then; what it proves if answered: */
    uint64_t proof;    /* the connection was alive */
    bool in_push;      /* the frame at hand is out of band */
    bool counted;      /* in n_private */
    bool is_idle;      /* in the list of idle ones */
    struct upstream_conn *next_idle;
    struct conn *conn;
    struct resp_framer framer;
    struct owed_ring owed;
    struct chain waiting; /* commands taken before the connection is ready */
    uint8_t steps[HANDSHAKE_REPLIES];
    unsigned step, n_steps;
    uint64_t deadline; /* of connect and handshake */
    uint64_t progress; /* when bytes last came, or when the FIFO began to wait */
    uint64_t retry_at;
    uint64_t last_used;
    struct backoff backoff;
    bool held;
    uint64_t held_since;
    uint64_t hold_spent;  /* of HOLD_MAX, in bytes of HOLD_RATE */
    char line[ERROR_MAX]; /* start of an error reply of the handshake */
    size_t line_len;
    char error[ERROR_MAX]; /* "-NEARCACHE ...\r\n" */
    bool no_such_db;
};

struct upstream {
    struct loop *loop;
    struct upstream_options options;
    struct upstream_callbacks callbacks;
    void *ctx;
    struct log *log;
    struct metrics *metrics;
    struct upstream_conn *conns;    /* shared */
    struct upstream_conn *privates; /* all private ones */
    struct upstream_conn *idle;     /* those that can be lent at once */
    unsigned n_private;             /* open or opening */
    uint64_t redirect;              /* CLIENT ID that shared connections' tracking tells; 0: none */
    char last_error[ERROR_MAX];
};

/* --- the ring of owed replies -------------------------------------------------------------------
 */

static bool ring_push(struct owed_ring *r, struct owed o)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 64;
        struct owed *v = malloc(cap * sizeof *v);
        if (!v)
            return false;
        for (size_t i = 0; i < r->n; i++)
            v[i] = r->v[(r->first + i) & (r->cap - 1)];
        free(r->v);
        *r = (struct owed_ring){.v = v, .n = r->n, .cap = cap};
    }
    r->v[(r->first + r->n++) & (r->cap - 1)] = o;
    return true;
}

static bool ring_push_front(struct owed_ring *r, struct owed o)
{
    if (!ring_push(r, o)) /* makes room */
        return false;
    r->first = (r->first + r->cap - 1) & (r->cap - 1);
    r->v[r->first] = o;
    return true;
}

static struct owed ring_pop(struct owed_ring *r)
{
    assert(r->n > 0);
    struct owed o = r->v[r->first];
    r->first = (r->first + 1) & (r->cap - 1);
    if (--r->n == 0 && r->cap > 4096) { /* memory comes back after a burst */
        free(r->v);
        *r = (struct owed_ring){0};
    }
    return o;
}

/* --- states -------------------------------------------------------------------------------------
 */

static const struct conn_callbacks conn_callbacks;

static void set_state(struct upstream_conn *uc, enum upstream_conn_state to)
{
    static const uint8_t from[] = {
        [UC_IDLE] = 1 << UC_READY | 1 << UC_CONNECTING | 1 << UC_HANDSHAKE,
        [UC_CONNECTING] = 1 << UC_IDLE | 1 << UC_BACKOFF,
        [UC_HANDSHAKE] = 1 << UC_CONNECTING,
        [UC_READY] = 1 << UC_HANDSHAKE,
        [UC_BACKOFF] = 1 << UC_CONNECTING | 1 << UC_HANDSHAKE | 1 << UC_READY,
    };
    assert(from[to] & (1 << uc->state));
    uc->state = (uint8_t)to;
}

static void tell_all_lost(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    struct owed_ring lost = uc->owed;
    uc->owed = (struct owed_ring){0};
    while (lost.n) {
        struct owed o = ring_pop(&lost);
        if (!is_our_own(o.tag))
            u->callbacks.lost(u->ctx, o.owner, o.tag, uc->error);
    }
    free(lost.v);
}

static void leave_idle(struct upstream_conn *uc)
{
    struct upstream_conn **at = &uc->upstream->idle;
    if (!uc->is_idle)
        return;
    while (*at != uc)
        at = &(*at)->next_idle;
    *at = uc->next_idle;
    uc->is_idle = false;
}

static void become_idle(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    assert(!uc->is_idle);
    uc->is_idle = true;
    uc->next_idle = u->idle;
    u->idle = uc;
}

/* A private connection that is closed is not opened again. */
static void retire(struct upstream_conn *uc)
{
    leave_idle(uc);
    uc->upstream->n_private -= uc->counted;
    uc->counted = false;
}

static void stop_tracking(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    bool tracked = uc->tracks != 0;
    uc->tracking = uc->tracks = 0;
    uc->asking = false;
    if (tracked)
        u->callbacks.untracked(u->ctx, NULL);
}

static void drop_connection(struct upstream_conn *uc)
{
    if (uc->conn)
        conn_close(uc->conn);
    uc->conn = NULL;
    uc->held = uc->in_push = false;
    uc->id = 0;
    if (uc->is_private)
        retire(uc);
    stop_tracking(uc);
    uc->framer = (struct resp_framer){0};
    chain_clear(&uc->waiting);
}

static const char *log_hint(const struct upstream_conn *uc)
{
    return uc->backoff.failures == 1 && uc->upstream->options.address->path == NULL
               ? "is a Redis listening there? start one or give another --upstream; nearcache "
                 "keeps trying"
               : NULL;
}

/* Always one whole line, however long or odd the server's words are. */
__attribute__((format(printf, 2, 3))) static void error_line(char line[ERROR_MAX],
                                                             const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, ERROR_MAX - 2, format, args);
    va_end(args);
    for (char *p = line; *p; p++)
        if (*p == '\r' || *p == '\n')
            *p = ' ';
    memcpy(line + strlen(line), "\r\n", 3);
}

static void fail(struct upstream_conn *uc, const char *why)
{
    struct upstream *u = uc->upstream;
    bool was_ready = uc->state == UC_READY;
    set_state(uc, UC_BACKOFF);
    if (was_ready)
        uc->backoff.failures = 0;
    uc->retry_at = loop_now(u->loop) + backoff_next(&uc->backoff);
    u->metrics->upstream_failures++;
    if (!uc->no_such_db)
        error_line(uc->error, "-NEARCACHE upstream %s unavailable: %s", u->options.address->label,
                   why);
    snprintf(u->last_error, sizeof u->last_error, "%.*s", (int)strcspn(why, "\r\n"), why);
    if (uc->is_private && uc->holder && was_ready)
        log_write(u->log, LOG_WARN, "session_lost", "upstream", u->options.address->label, "why",
                  why, NULL);
    else if (!uc->no_such_db && !uc->is_private &&
             (uc->backoff.failures == 1 || uc->backoff.failures % 30 == 0))
        log_write(u->log, LOG_WARN, was_ready ? "upstream_lost" : "upstream_unavailable",
                  "upstream", u->options.address->label, "why", why, "hint", log_hint(uc), NULL);
    drop_connection(uc);
    tell_all_lost(uc);
    void *holder = uc->holder;
    uc->holder = NULL;
    if (holder)
        u->callbacks.severed(u->ctx, holder);
}

static void start(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    const struct upstream_address *a = u->options.address;
    set_state(uc, UC_CONNECTING);
    uc->deadline = loop_now(u->loop) + u->options.connect_timeout;
    uc->no_such_db = false;
    uc->conn =
        conn_connect(u->loop, a->host, a->port, a->path, u->options.tls, &conn_callbacks, uc);
    if (!uc->conn)
        fail(uc, "out of memory");
}

/* --- handshake ----------------------------------------------------------------------------------
 */

static void step(struct upstream_conn *uc, enum handshake_step what, const struct resp_slice *argv,
                 size_t argc)
{
    assert(uc->n_steps < HANDSHAKE_REPLIES);
    uc->steps[uc->n_steps++] = (uint8_t)what;
    wire_command(conn_out(uc->conn), argv, argc);
}

/* Goes out before anything that waits: its reply is the first one owed. */
static void ask_to_track(struct upstream_conn *uc)
{
    char id[24];
    uint64_t redirect = uc->upstream->redirect;
    snprintf(id, sizeof id, "%llu", (unsigned long long)redirect);
    if (uc->owed.n > 0 && uc->waiting.len > 0) {
        if (!ring_push_front(&uc->owed, (struct owed){NULL, OUR_TRACKING}))
            return;
    } else if (!ring_push(&uc->owed, (struct owed){NULL, OUR_TRACKING})) {
        return;
    }
    uc->tracking = redirect;
    uc->asking = true;
    uc->asked = loop_now(uc->upstream->loop);
    wire_command(conn_out(uc->conn),
                 (struct resp_slice[]){wire_text("CLIENT"), wire_text("TRACKING"), wire_text("ON"),
                                       wire_text("REDIRECT"), wire_text(id), wire_text("OPTIN")},
                 6);
    conn_send(uc->conn);
}

/* Of an earlier question it says nothing about the present one. */
static void tracking_answered(struct upstream_conn *uc, char type)
{
    struct upstream *u = uc->upstream;
    if (type != '-') {
        if (uc->tracking == u->redirect) {
            uc->tracks = uc->tracking;
            uc->proof = uc->asked;
        }
        return;
    }
    char why[ERROR_MAX];
    memcpy(why, uc->line, uc->line_len);
    why[uc->line_len] = '\0';
    why[strcspn(why, "\r\n")] = '\0';
    u->callbacks.untracked(u->ctx, why);
}

void upstream_track(struct upstream *u, uint64_t redirect)
{
    u->redirect = redirect;
    for (struct upstream_conn *uc = u->conns; uc; uc = uc->next) {
        uc->tracks = 0;
        if (redirect && uc->state == UC_READY)
            ask_to_track(uc);
    }
}

uint64_t upstream_tracking_proof(const struct upstream *u)
{
    uint64_t proof = UINT64_MAX;
    for (const struct upstream_conn *uc = u->conns; uc; uc = uc->next)
        if (uc->tracks && uc->proof < proof)
            proof = uc->proof;
    return proof;
}

/* A server that has forgotten the connection tells nobody what it tracked. */
static void ask_for_proof(struct upstream_conn *uc, uint64_t now)
{
    if (!uc->tracks || uc->asking || now < uc->asked + PROOF_EVERY ||
        !ring_push(&uc->owed, (struct owed){NULL, OUR_PING}))
        return;
    if (uc->owed.n == 1)
        uc->progress = now;
    uc->asking = true;
    uc->asked = now;
    wire_command(conn_out(uc->conn), (struct resp_slice[]){wire_text("PING")}, 1);
    conn_send(uc->conn);
}

bool upstream_tracks(const struct upstream_conn *uc)
{
    return uc->tracks != 0;
}

static void become_ready(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    set_state(uc, UC_READY);
    if (uc->backoff.failures)
        log_write(u->log, LOG_INFO, "upstream_connected", "upstream", u->options.address->label,
                  NULL);
    uc->backoff.failures = 0;
    uc->progress = uc->last_used = loop_now(u->loop);
    if (u->redirect && !uc->is_private)
        ask_to_track(uc);
    chain_move(conn_out(uc->conn), &uc->waiting);
    conn_send(uc->conn);
}

/* All in one, and allowed even while the server is BUSY with a script. */
static void say_hello(struct upstream_conn *uc)
{
    const struct upstream_options *o = &uc->upstream->options;
    const char *user = o->address->user ? o->address->user : "default";
    struct resp_slice argv[7] = {wire_text("HELLO"), wire_text(uc->resp == 3 ? "3" : "2")};
    size_t n = 2;
    if (o->address->password) {
        argv[n++] = wire_text("AUTH");
        argv[n++] = wire_text(user);
        argv[n++] = wire_text(o->address->password);
    }
    argv[n++] = wire_text("SETNAME");
    argv[n++] = wire_text(o->client_name);
    step(uc, STEP_HELLO, argv, n);
}

/* For a server that knows no HELLO, or whose ACL forbids it. */
static void do_without_hello(struct upstream_conn *uc)
{
    const struct upstream_options *o = &uc->upstream->options;
    struct resp_slice user = wire_text(o->address->user ? o->address->user : "");
    struct resp_slice password = wire_text(o->address->password ? o->address->password : "");
    uc->step = uc->n_steps = 0;
    if (o->address->password && o->address->user)
        step(uc, STEP_AUTH, (struct resp_slice[]){wire_text("AUTH"), user, password}, 3);
    else if (o->address->password)
        step(uc, STEP_AUTH, (struct resp_slice[]){wire_text("AUTH"), password}, 2);
    step(
        uc, STEP_SETNAME,
        (struct resp_slice[]){wire_text("CLIENT"), wire_text("SETNAME"), wire_text(o->client_name)},
        3);
}

static void select_database(struct upstream_conn *uc)
{
    char db[16];
    snprintf(db, sizeof db, "%u", (unsigned)uc->db);
    if (uc->db)
        step(uc, STEP_SELECT, (struct resp_slice[]){wire_text("SELECT"), wire_text(db)}, 2);
    conn_send(uc->conn);
}

static void on_connected(void *ctx)
{
    struct upstream_conn *uc = ctx;
    set_state(uc, UC_HANDSHAKE);
    uc->upstream->metrics->upstream_connects++;
    uc->step = uc->n_steps = 0;
    uc->line_len = 0;
    say_hello(uc);
    conn_send(uc->conn);
}

static void handshake_bytes(struct upstream_conn *uc, const char *p, size_t n)
{
    size_t room = sizeof uc->line - 1 - uc->line_len;
    size_t part = n < room ? n : room;
    memcpy(uc->line + uc->line_len, p, part);
    uc->line_len += part;
    uc->line[uc->line_len] = '\0';
}

/* "... $2\r\nid\r\n:123\r\n ..." */
static void read_hello(struct upstream_conn *uc, const char *reply)
{
    static const char mark[] = "$2\r\nid\r\n:";
    const char *at = strstr(reply, mark);
    uc->id = at ? strtoull(at + sizeof mark - 1, NULL, 10) : 0;
}

static bool knows_no_hello(const char *line)
{
    return strncmp(line, "-ERR unknown command", 20) == 0 || strncmp(line, "-NOPERM", 7) == 0;
}

/* False: the connection was given up. */
static bool handshake_reply(struct upstream_conn *uc, char type)
{
    enum handshake_step step = uc->steps[uc->step++];
    char line[ERROR_MAX];
    memcpy(line, uc->line, uc->line_len);
    line[uc->line_len] = '\0';
    uc->line_len = 0;
    /* A server that refuses SETNAME but nothing else (an ACL) can be lived with; NOAUTH and LOADING
     * meet every command. */
    bool hello_refused = type == '-' && step == STEP_HELLO && uc->resp == 2 && knows_no_hello(line);
    bool name_refused = type == '-' && step == STEP_SETNAME && strncmp(line, "-NOPERM", 7) == 0;
    bool fatal = type == '-' && !hello_refused && !name_refused;
    if (fatal && step == STEP_SELECT && strncmp(line, "-ERR", 4) == 0) {
        uc->no_such_db = true; /* the client gets the server's own words */
        error_line(uc->error, "%.*s", (int)strcspn(line, "\r\n"), line);
    }
    if (fatal) {
        line[strcspn(line, "\r\n")] = '\0';
        upstream_error_trim(line);
        fail(uc, line + 1);
        return false;
    }
    if (hello_refused)
        do_without_hello(uc);
    else if (step == STEP_HELLO)
        read_hello(uc, line);
    if (hello_refused || (step == STEP_HELLO && uc->db))
        select_database(uc);
    if (uc->step == uc->n_steps)
        become_ready(uc);
    return true;
}

/* --- replies ------------------------------------------------------------------------------------
 */

static void pass_bytes(struct upstream_conn *uc, const char *p, size_t n, bool end)
{
    struct upstream *u = uc->upstream;
    if (uc->state == UC_HANDSHAKE) {
        handshake_bytes(uc, p, n);
        return;
    }
    if (uc->in_push) {
        if (uc->holder)
            u->callbacks.push(u->ctx, uc->holder, p, n, end);
        return;
    }
    struct owed *o = &uc->owed.v[uc->owed.first];
    if (is_our_own(o->tag)) {
        handshake_bytes(uc, p, n);
        return;
    }
    uc->hold_spent -= n < uc->hold_spent ? n : uc->hold_spent;
    u->callbacks.bytes(u->ctx, o->owner, o->tag, p, n);
}

static void pop_done(struct upstream_conn *uc, char type)
{
    struct upstream *u = uc->upstream;
    struct owed o = ring_pop(&uc->owed);
    if (is_our_own(o.tag)) {
        if (o.tag == OUR_TRACKING)
            tracking_answered(uc, type);
        else if (type == '+')
            uc->proof = uc->asked;
        uc->asking = false;
        uc->line_len = 0;
        return;
    }
    u->callbacks.done(u->ctx, o.owner, o.tag, type);
    if (uc->is_private && !uc->holder && !uc->is_idle && uc->owed.n == 0 && uc->state == UC_READY)
        become_idle(uc);
}

/* False: the connection is gone. */
static bool pass_done(struct upstream_conn *uc, char type)
{
    if (uc->state == UC_HANDSHAKE)
        return handshake_reply(uc, type);
    if (uc->in_push)
        uc->in_push = false;
    else
        pop_done(uc, type);
    return uc->conn != NULL;
}

/* RESP3 marks what is out of band; in RESP2 the holder knows whether it has subscribed. */
static bool is_push(const struct upstream_conn *uc, const char *two)
{
    struct upstream *u = uc->upstream;
    const struct owed *o = uc->owed.n ? &uc->owed.v[uc->owed.first] : &(struct owed){0};
    if (*two == '>')
        return true;
    return uc->is_private && *two == '*' && uc->resp == 2 && uc->holder &&
           u->callbacks.is_push(u->ctx, uc->holder, o->owner, o->tag, two);
}

/* Sorts the frame that begins at p. False: more bytes are needed to tell. */
static bool begin_frame(struct upstream_conn *uc, const char *p, size_t n)
{
    if (uc->state != UC_READY || uc->framer.busy || uc->in_push)
        return true;
    if (uc->is_private && uc->resp == 2 && *p == '*' && n < 2)
        return false;
    uc->in_push = is_push(uc, p);
    return true;
}

static size_t on_bytes(void *ctx, const char *p, size_t n)
{
    struct upstream_conn *uc = ctx;
    size_t at = 0;
    uc->progress = loop_now(uc->upstream->loop);
    while (at < n) {
        if (!begin_frame(uc, p + at, n - at))
            return at;
        if (uc->state == UC_READY && uc->owed.n == 0 && !uc->in_push) {
            fail(uc, "it sent a reply that nobody asked for");
            return n;
        }
        size_t used = 0;
        enum resp_status status = resp_frame(&uc->framer, p + at, n - at, &used);
        if (status == RESP_BAD) {
            fail(uc, tls_is_record(p + at, n - at)
                         ? "it speaks TLS: use rediss:// instead of redis://"
                         : "it sent something that is not RESP");
            return n;
        }
        pass_bytes(uc, p + at, used, status == RESP_DONE);
        at += used;
        if (!uc->conn || status == RESP_MORE || !pass_done(uc, uc->framer.type))
            return n;
    }
    return n;
}

static void on_ended(void *ctx, bool eof, const char *why)
{
    struct upstream_conn *uc = ctx;
    char text[ERROR_MAX];
    bool mute = uc->state == UC_HANDSHAKE && uc->step == 0 && uc->line_len == 0;
    (void)eof;
    snprintf(text, sizeof text, "%s%s", why,
             mute && !uc->upstream->options.tls ? ", before it said anything; if it speaks TLS use "
                                                  "rediss:// instead of redis://"
                                                : "");
    fail(uc, text);
}

static const struct conn_callbacks conn_callbacks = {
    .bytes = on_bytes, .connected = on_connected, .ended = on_ended};

/* --- shared connections -------------------------------------------------------------------------
 */

static struct upstream_conn *new_conn(struct upstream *u, struct upstream_conn **list, uint32_t db,
                                      unsigned resp, uint32_t slot)
{
    struct upstream_conn *uc = calloc(1, sizeof *uc);
    if (!uc)
        return NULL;
    uc->upstream = u;
    uc->db = db;
    uc->resp = (uint8_t)resp;
    uc->slot = slot;
    chain_init(&uc->waiting, &u->loop->pool);
    evutil_secure_rng_get_bytes(&uc->backoff.random, sizeof uc->backoff.random);
    uc->next = *list;
    *list = uc;
    return uc;
}

struct upstream_conn *upstream_get(struct upstream *u, uint32_t db, unsigned resp, uint32_t slot)
{
    if (slot != UPSTREAM_SCAN_LANE)
        slot %= u->options.connections;
    struct upstream_conn *uc = u->conns;
    while (uc && (uc->db != db || uc->resp != resp || uc->slot != slot))
        uc = uc->next;
    if (!uc)
        uc = new_conn(u, &u->conns, db, resp, slot);
    if (uc && uc->state == UC_IDLE)
        start(uc);
    /* A database that was not there may be there after a restart: ask again. */
    else if (uc && uc->state == UC_BACKOFF && uc->no_such_db)
        start(uc);
    return uc;
}

/* --- private connections ------------------------------------------------------------------------
 */

/* An idle one in the wanted state; the one idle for longest makes room for another otherwise. */
static struct upstream_conn *take_idle(struct upstream *u, uint32_t db, unsigned resp)
{
    struct upstream_conn *uc = u->idle, *oldest = NULL;
    for (; uc && (uc->db != db || uc->resp != resp); uc = uc->next_idle)
        oldest = uc;
    if (uc)
        leave_idle(uc);
    else if (oldest && u->n_private >= u->options.private_max)
        upstream_discard(oldest);
    return uc;
}

static struct upstream_conn *open_private(struct upstream *u, uint32_t db, unsigned resp)
{
    struct upstream_conn *uc = NULL;
    if (u->n_private < u->options.private_max)
        uc = new_conn(u, &u->privates, db, resp, 0);
    if (!uc)
        return NULL;
    uc->is_private = uc->counted = true;
    u->n_private++;
    start(uc);
    return uc;
}

struct upstream_conn *upstream_lend(struct upstream *u, uint32_t db, unsigned resp, void *holder)
{
    struct upstream_conn *uc = take_idle(u, db, resp);
    if (!uc)
        uc = open_private(u, db, resp);
    if (!uc)
        return NULL;
    uc->holder = holder;
    uc->last_used = loop_now(u->loop);
    return uc;
}

void upstream_return(struct upstream_conn *uc)
{
    assert(uc->is_private && uc->holder);
    uc->holder = NULL;
    uc->last_used = loop_now(uc->upstream->loop);
    upstream_release(uc);
    if (uc->state == UC_READY && uc->owed.n == 0)
        become_idle(uc);
}

void upstream_discard(struct upstream_conn *uc)
{
    assert(uc->is_private);
    uc->holder = NULL;
    error_line(uc->error, "-NEARCACHE the connection was closed");
    if (uc->state == UC_READY)
        conn_flush(uc->conn); /* what was asked before the end counts */
    if (uc->state != UC_IDLE && uc->state != UC_BACKOFF)
        set_state(uc, UC_IDLE);
    drop_connection(uc);
    tell_all_lost(uc);
}

void upstream_settle(struct upstream_conn *uc)
{
    assert(uc->owed.n > 0);
    pop_done(uc, '*');
}

void upstream_patience(struct upstream_conn *uc, int change)
{
    uc->patience += (unsigned)change;
    uc->progress = loop_now(uc->upstream->loop);
}

void upstream_set_db(struct upstream_conn *uc, uint32_t db)
{
    uc->db = db;
}

void upstream_set_resp(struct upstream_conn *uc, unsigned resp)
{
    uc->resp = (uint8_t)resp;
}

uint64_t upstream_client_id(const struct upstream_conn *uc)
{
    return uc->state == UC_READY ? uc->id : 0;
}

unsigned upstream_lent(const struct upstream *u)
{
    unsigned n = 0;
    for (const struct upstream_conn *uc = u->privates; uc; uc = uc->next)
        n += uc->holder != NULL;
    return n;
}

/* --- sending ------------------------------------------------------------------------------------
 */

const char *upstream_refusal(struct upstream_conn *uc)
{
    return uc->state == UC_BACKOFF ? uc->error : NULL;
}

bool upstream_expect(struct upstream_conn *uc, void *owner, unsigned tag)
{
    uint64_t now = loop_now(uc->upstream->loop);
    if (uc->owed.n == 0)
        uc->progress = now;
    uc->last_used = now;
    uc->upstream->metrics->upstream_requests++;
    return ring_push(&uc->owed, (struct owed){owner, tag});
}

struct chain *upstream_out(struct upstream_conn *uc)
{
    return uc->state == UC_READY ? conn_out(uc->conn) : &uc->waiting;
}

void upstream_sent(struct upstream_conn *uc)
{
    if (uc->state == UC_READY)
        conn_send(uc->conn);
}

/* --- slow readers -------------------------------------------------------------------------------
 */

/* One budget for the whole connection: it fills with what is delivered, whoever it is for. */
static uint64_t hold_spent(const struct upstream_conn *uc, uint64_t now)
{
    return uc->hold_spent + (uc->held ? (now - uc->held_since) * HOLD_RATE : 0);
}

bool upstream_hold(struct upstream_conn *uc)
{
    uint64_t now = loop_now(uc->upstream->loop);
    if (uc->held || uc->state != UC_READY)
        return uc->held;
    if (!uc->is_private && hold_spent(uc, now) >= (uint64_t)HOLD_MAX * HOLD_RATE)
        return false;
    uc->held = true;
    uc->held_since = now;
    conn_pause(uc->conn);
    return true;
}

void upstream_release(struct upstream_conn *uc)
{
    if (!uc->held)
        return;
    uc->progress = loop_now(uc->upstream->loop);
    uc->hold_spent = hold_spent(uc, uc->progress);
    uc->held = false;
    conn_resume(uc->conn);
}

/* --- time ---------------------------------------------------------------------------------------
 */

static uint64_t reply_timeout(const struct upstream_conn *uc)
{
    const struct upstream_options *o = &uc->upstream->options;
    return uc->slot == UPSTREAM_SCAN_LANE ? o->scan_timeout : o->timeout;
}

static bool is_extra(const struct upstream_conn *uc)
{
    return uc->is_private || uc->slot == UPSTREAM_SCAN_LANE || uc->resp != 2 ||
           uc->db != uc->upstream->options.address->db;
}

static void fail_late(struct upstream_conn *uc, const char *what, uint64_t ms)
{
    char why[96];
    snprintf(why, sizeof why, "%s within %llu ms", what, (unsigned long long)ms);
    fail(uc, why);
}

static void tick_ready(struct upstream_conn *uc, uint64_t now)
{
    ask_for_proof(uc, now);
    if (uc->held && !uc->is_private && hold_spent(uc, now) >= (uint64_t)HOLD_MAX * HOLD_RATE)
        upstream_release(uc);
    if (uc->owed.n && !uc->held && !uc->patience && now > uc->progress + reply_timeout(uc))
        fail_late(uc, "no reply", reply_timeout(uc));
    else if (uc->owed.n == 0 && is_extra(uc) && !uc->holder && now > uc->last_used + IDLE_MAX) {
        set_state(uc, UC_IDLE);
        drop_connection(uc);
    }
}

static void tick_conn(struct upstream_conn *uc, uint64_t now)
{
    if ((uc->state == UC_CONNECTING || uc->state == UC_HANDSHAKE) && now > uc->deadline)
        fail_late(uc,
                  uc->state == UC_HANDSHAKE   ? "no answer to the handshake"
                  : uc->upstream->options.tls ? "no TLS connection (is that a TLS port?)"
                                              : "no connection",
                  uc->upstream->options.connect_timeout);
    else if (uc->state == UC_READY)
        tick_ready(uc, now);
    else if (uc->state == UC_BACKOFF && !uc->no_such_db && now >= uc->retry_at)
        start(uc);
}

static void free_conn(struct upstream_conn *uc)
{
    drop_connection(uc);
    free(uc->owed.v);
    free(uc);
}

/* A database that nobody uses any more, or that never was. */
static bool is_forgotten(const struct upstream_conn *uc)
{
    return is_extra(uc) && !uc->holder && uc->owed.n == 0 &&
           (uc->state == UC_IDLE || uc->state == UC_BACKOFF);
}

static void tick_list(struct upstream_conn **at, uint64_t now)
{
    while (*at) {
        struct upstream_conn *uc = *at;
        if (is_forgotten(uc)) {
            *at = uc->next;
            free_conn(uc);
            continue;
        }
        tick_conn(uc, now);
        at = &uc->next;
    }
}

void upstream_tick(struct upstream *u, uint64_t now)
{
    tick_list(&u->conns, now);
    tick_list(&u->privates, now);
}

/* --- life ---------------------------------------------------------------------------------------
 */

struct upstream *upstream_new(struct loop *loop, const struct upstream_options *options,
                              const struct upstream_callbacks *callbacks, void *ctx,
                              struct log *log, struct metrics *metrics)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    u->loop = loop;
    u->options = *options;
    u->callbacks = *callbacks;
    u->ctx = ctx;
    u->log = log;
    u->metrics = metrics;
    return u;
}

static void free_list(struct upstream_conn **list)
{
    while (*list) {
        struct upstream_conn *uc = *list;
        error_line(uc->error, "-NEARCACHE shutting down");
        drop_connection(uc);
        tell_all_lost(uc);
        *list = uc->next;
        free_conn(uc);
    }
}

void upstream_free(struct upstream *u)
{
    if (!u)
        return;
    free_list(&u->conns);
    free_list(&u->privates);
    free(u);
}

void upstream_set_timeouts(struct upstream *u, uint64_t connect, uint64_t reply, uint64_t scan)
{
    u->options.connect_timeout = connect;
    u->options.timeout = reply;
    u->options.scan_timeout = scan;
}

const char *upstream_state(const struct upstream *u)
{
    static const char *const names[] = {"idle", "connecting", "handshake", "up", "down"};
    for (const struct upstream_conn *uc = u->conns; uc; uc = uc->next)
        if (uc->db == u->options.address->db && uc->slot == 0 && uc->resp == 2)
            return names[uc->state];
    return names[UC_IDLE];
}

const char *upstream_last_error(const struct upstream *u)
{
    return u->last_error;
}

uint64_t upstream_pending(const struct upstream *u)
{
    uint64_t n = 0;
    for (const struct upstream_conn *uc = u->conns; uc; uc = uc->next)
        n += uc->owed.n;
    for (const struct upstream_conn *uc = u->privates; uc; uc = uc->next)
        n += uc->owed.n;
    return n;
}

unsigned upstream_connected(const struct upstream *u)
{
    unsigned n = 0;
    for (const struct upstream_conn *uc = u->conns; uc; uc = uc->next)
        n += uc->state == UC_READY;
    for (const struct upstream_conn *uc = u->privates; uc; uc = uc->next)
        n += uc->state == UC_READY;
    return n;
}
