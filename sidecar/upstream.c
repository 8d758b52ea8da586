/* upstream.c - pipelined connections to the shared Redis. */
#include "upstream.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "handshake.h"
#include "owed.h"
#include "wire.h"

enum {
    HOLD_MAX = 100,           /* ms that slow readers may hold the others up, .. */
    HOLD_RATE = 64 * 1024,    /* .. earned back by so many bytes a ms: 64 MB/s never buffers */
    IDLE_MAX = 60 * 1000,     /* ms until an unused extra connection is closed */
    CLOG_REPLY = 256 * 1024,  /* bytes of the reply at hand, or .. */
    CLOG_OUT = 1024 * 1024,   /* .. of unsent requests, from which on others go elsewhere */
    LANES_MAX = 8,            /* connections that serve the same callers, spare ones included */
    OPENING_MAX = 64,         /* private connections that are opened at a time: no storm */
    RECONNECT_JITTER = 20,    /* ms at most until a lost connection is opened again unasked */
    RETIRE_MAX = 1000,        /* ms that a connection which is to be replaced may still be used */
    DEMOTED_EVERY = 5 * 1000, /* ms at least between two replacements because of READONLY */
    REFUSED_WAIT = 5 * 1000,  /* ms at least between two attempts with the wrong password */
    SETTLED = 1000,           /* ms that a connection must have held to count as a good one */
    ERROR_MAX = 384,
    PROOF_EVERY = 250, /* ms, of connections that track */
};

/* Tags of replies that are for this module. */
static const unsigned OUR_TRACKING = UINT32_MAX, OUR_PING = UINT32_MAX - 1,
                      OUR_PROBE = UINT32_MAX - 2;

static bool is_our_own(unsigned tag)
{
    return tag >= OUR_PROBE;
}

/* REFUSED: the server has no such database; asked again when somebody else asks for it. */
enum upstream_conn_state { UC_IDLE, UC_CONNECTING, UC_HANDSHAKE, UC_READY, UC_REFUSED };

struct upstream_conn {
    struct upstream *upstream;
    struct upstream_conn *next;
    uint32_t serial;
    uint32_t db, slot;
    uint8_t resp;
    uint8_t state;
    bool is_private;
    bool spare;        /* there was another for the same callers when it was made */
    bool retiring;     /* to be replaced when nothing is owed any more, or soon */
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
    bool held;
    struct upstream_conn *next_idle;
    struct conn *conn;
    struct resp_framer framer;
    uint64_t reply_bytes; /* of the reply at hand that have come */
    struct owed_ring owed;
    size_t n_late;        /* of them, from the first on: their owners have been told */
    struct chain waiting; /* commands taken before the connection is ready */
    struct handshake handshake;
    uint64_t handshake_deadline;
    uint64_t progress; /* when bytes last came, or when the FIFO began to wait */
    uint64_t ready_since, retiring_since;
    uint64_t reopen_at; /* unasked, of one that was lost */
    uint64_t last_used;
    uint64_t held_since;
    uint64_t hold_spent;   /* of HOLD_MAX, in bytes of HOLD_RATE */
    char error[ERROR_MAX]; /* "-NEARCACHE ...\r\n": why it ended, for those it owed */
};

struct upstream {
    struct loop *loop;
    struct upstream_options options;
    struct upstream_callbacks callbacks;
    void *ctx;
    struct log *log;
    struct metrics *metrics;
    struct breaker *breaker;
    struct upstream_conn *conns;    /* shared */
    struct upstream_conn *privates; /* all private ones */
    struct upstream_conn *idle;     /* those that can be lent at once */
    unsigned n_private;             /* open or opening */
    uint32_t last_serial;
    uint64_t redirect;   /* CLIENT ID that shared connections' tracking tells; 0: none */
    uint64_t heard;      /* when anything last came from the server */
    uint64_t demoted_at; /* when READONLY last had them replaced */
    uint64_t random;     /* of the jitter */
    char refusal[ERROR_MAX], last_error[ERROR_MAX];
};

/* --- states -------------------------------------------------------------------------------------
 */

static const struct conn_callbacks conn_callbacks;

static void set_state(struct upstream_conn *uc, enum upstream_conn_state to)
{
    static const uint8_t from[] = {
        [UC_IDLE] = 1 << UC_READY | 1 << UC_CONNECTING | 1 << UC_HANDSHAKE,
        [UC_CONNECTING] = 1 << UC_IDLE | 1 << UC_REFUSED,
        [UC_HANDSHAKE] = 1 << UC_CONNECTING,
        [UC_READY] = 1 << UC_HANDSHAKE,
        [UC_REFUSED] = 1 << UC_HANDSHAKE,
    };
    assert(from[to] & (1 << uc->state));
    uc->state = (uint8_t)to;
}

static uint64_t now_of(const struct upstream *u)
{
    return loop_now(u->loop);
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

/* --- the breaker --------------------------------------------------------------------------------
 */

/* To be called after whatever may have opened it; `before`: its state then. */
static void log_opened(struct upstream *u, enum breaker_state before)
{
    char ms[24];
    if (before != BREAKER_CLOSED || breaker_is_closed(u->breaker))
        return;
    u->metrics->breaker_opened++;
    log_write(u->log, LOG_WARN, "breaker_opened", "upstream", u->options.address->label, "why",
              breaker_why(u->breaker), "next_probe_ms",
              log_number(ms, breaker_probe_in(u->breaker, now_of(u))), NULL);
}

/* The request that somebody waits for gets no answer. */
static void note_failure(struct upstream *u, bool late, const char *why)
{
    enum breaker_state before = breaker_state(u->breaker);
    breaker_failed(u->breaker, now_of(u), late, why);
    log_opened(u, before);
}

static void trip(struct upstream *u, const char *why, uint64_t at_least)
{
    enum breaker_state before = breaker_state(u->breaker);
    breaker_trip(u->breaker, now_of(u), why, at_least);
    log_opened(u, before);
}

/* It has been seen to answer. */
static void close_breaker(struct upstream *u)
{
    char ms[24];
    uint64_t opened = breaker_opened_at(u->breaker), now = now_of(u);
    if (breaker_is_closed(u->breaker))
        return;
    breaker_close(u->breaker, now);
    log_write(u->log, LOG_INFO, "breaker_closed", "upstream", u->options.address->label, "after_ms",
              log_number(ms, now - opened), NULL);
}

static const char *node_refusal(struct upstream *u)
{
    const char *label = u->options.address->label, *why = breaker_why(u->breaker);
    switch (breaker_state(u->breaker)) {
    case BREAKER_CLOSED:
        return NULL;
    case BREAKER_OPEN:
        error_line(u->refusal,
                   "-NEARCACHE upstream %s unavailable: %s (circuit open, next probe in %llu ms)",
                   label, why, (unsigned long long)breaker_probe_in(u->breaker, now_of(u)));
        break;
    case BREAKER_HALF_OPEN:
        error_line(u->refusal,
                   "-NEARCACHE upstream %s unavailable: %s (circuit half-open, it is being probed)",
                   label, why);
        break;
    }
    return u->refusal;
}

/* --- the end of a connection --------------------------------------------------------------------
 */

static void forget_owed(struct upstream_conn *uc, struct owed_ring *lost)
{
    *lost = uc->owed;
    uc->owed = (struct owed_ring){.budget = lost->budget};
    uc->n_late = 0;
}

static void tell_all_lost(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    struct owed_ring lost;
    forget_owed(uc, &lost);
    while (lost.n) {
        struct owed o = owed_pop(&lost);
        if (!is_our_own(o.tag))
            u->callbacks.lost(u->ctx, o.owner, o.tag, uc->error);
    }
    owed_free(&lost);
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
    uc->held = uc->in_push = uc->retiring = false;
    uc->id = 0;
    if (uc->is_private)
        retire(uc);
    stop_tracking(uc);
    uc->framer = (struct resp_framer){0};
    uc->reply_bytes = 0;
    chain_clear(&uc->waiting);
}

/* Not in use: closed in order, or never opened. */
static void lay_down(struct upstream_conn *uc)
{
    if (uc->state != UC_IDLE && uc->state != UC_REFUSED)
        set_state(uc, UC_IDLE);
    drop_connection(uc);
}

/* How a connection ends against our will. */
enum end {
    END_LOST,   /* closed, broken, not RESP */
    END_SILENT, /* no reply in time */
    END_UNMADE, /* not connected, or refused by the server */
};

static bool is_home(const struct upstream_conn *uc)
{
    return !uc->is_private && !uc->spare && uc->slot == 0 && uc->resp == 2 &&
           uc->db == uc->upstream->options.address->db;
}

static bool some_other_is_ready(const struct upstream_conn *uc)
{
    for (const struct upstream_conn *other = uc->upstream->conns; other; other = other->next)
        if (other != uc && other->state == UC_READY)
            return true;
    return false;
}

/* What the end of a connection says about the node. A private or spare one may be refused alone
 * (maxclients), and one that was not ready for long is not to be opened again at once. */
static void judge_node(struct upstream_conn *uc, enum end how, const char *why)
{
    struct upstream *u = uc->upstream;
    uint64_t now = now_of(u);
    bool brief = how == END_LOST && now < uc->ready_since + SETTLED;
    bool probing = breaker_state(u->breaker) == BREAKER_HALF_OPEN && is_home(uc);
    uint64_t at_least = uc->handshake.wrong_password && how == END_UNMADE ? REFUSED_WAIT : 0;
    if (uc->state == UC_REFUSED)
        return;
    if (probing || (!uc->is_private && (how == END_UNMADE || brief) && !some_other_is_ready(uc))) {
        trip(u, why, at_least);
        return;
    }
    for (size_t i = uc->n_late; i < uc->owed.n; i++)
        if (!is_our_own(owed_at(&uc->owed, i)->tag))
            note_failure(u, how == END_SILENT, why);
}

static const char *log_hint(const struct upstream_conn *uc, enum end how)
{
    if (uc->handshake.wrong_password && how == END_UNMADE)
        return "check upstream.user and upstream.password (or upstream.password_file); nearcache "
               "tries again every few seconds";
    return how == END_UNMADE && uc->upstream->options.address->path == NULL
               ? "is a Redis listening there? start one or give another --upstream; nearcache "
                 "keeps trying"
               : NULL;
}

static void log_end(const struct upstream_conn *uc, enum end how, const char *why)
{
    const struct upstream *u = uc->upstream;
    const char *event = how == END_UNMADE ? "upstream_unavailable" : "upstream_lost";
    bool news = how != END_UNMADE || breaker_is_closed(u->breaker);
    if (uc->state == UC_REFUSED || (uc->is_private && (!uc->holder || uc->state != UC_READY)))
        return;
    if (news)
        log_write(u->log, LOG_WARN, uc->is_private ? "session_lost" : event, "upstream",
                  u->options.address->label, "why", why, "hint", log_hint(uc, how), NULL);
}

static void describe_end(struct upstream_conn *uc, enum end how, const char *why)
{
    struct upstream *u = uc->upstream;
    const char *label = u->options.address->label;
    if (uc->state == UC_REFUSED) /* the client gets the server's own words */
        error_line(uc->error, "%s", why);
    else if (how == END_SILENT)
        error_line(uc->error, "-NEARCACHE timeout: upstream %s: %s", label, why);
    else
        error_line(uc->error, "-NEARCACHE upstream %s unavailable: %s", label, why);
    snprintf(u->last_error, sizeof u->last_error, "%.*s", (int)strcspn(why, "\r\n"), why);
}

static void sever(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    void *holder = uc->holder;
    uc->holder = NULL;
    if (holder)
        u->callbacks.severed(u->ctx, holder);
}

static uint64_t jitter(struct upstream *u)
{
    u->random = u->random * 6364136223846793005u + 1442695040888963407u;
    return (u->random >> 33) % (RECONNECT_JITTER + 1);
}

static void fail(struct upstream_conn *uc, enum end how, const char *why)
{
    struct upstream *u = uc->upstream;
    u->metrics->upstream_failures++;
    log_end(uc, how, why);
    describe_end(uc, how, why);
    judge_node(uc, how, why);
    if (uc->state != UC_REFUSED)
        set_state(uc, UC_IDLE);
    drop_connection(uc);
    uc->reopen_at = now_of(u) + jitter(u);
    tell_all_lost(uc);
    sever(uc);
}

/* --- opening ------------------------------------------------------------------------------------
 */

static struct handshake_terms terms_of(const struct upstream_conn *uc)
{
    const struct upstream_options *o = &uc->upstream->options;
    return (struct handshake_terms){.user = o->address->user,
                                    .password = o->address->password,
                                    .client_name = o->client_name,
                                    .db = uc->db,
                                    .resp = uc->resp};
}

static void start(struct upstream_conn *uc)
{
    struct upstream *u = uc->upstream;
    const struct upstream_address *a = u->options.address;
    set_state(uc, UC_CONNECTING);
    uc->handshake = (struct handshake){0};
    uc->conn = conn_connect(u->loop,
                            &(struct conn_target){.host = a->host,
                                                  .port = a->port,
                                                  .path = a->path,
                                                  .tls = u->options.tls,
                                                  .timeout = u->options.connect_timeout},
                            &conn_callbacks, uc);
    if (!uc->conn)
        fail(uc, END_UNMADE, "out of memory");
}

static void on_connected(void *ctx)
{
    struct upstream_conn *uc = ctx;
    struct handshake_terms terms = terms_of(uc);
    set_state(uc, UC_HANDSHAKE);
    uc->upstream->metrics->upstream_connects++;
    uc->handshake_deadline = now_of(uc->upstream) + uc->upstream->options.handshake_timeout;
    handshake_begin(&uc->handshake, &terms, conn_out(uc->conn));
    conn_send(uc->conn);
}

/* --- tracking by key ----------------------------------------------------------------------------
 */

static struct owed our_own(const struct upstream_conn *uc, unsigned tag)
{
    return (struct owed){.tag = tag, .since = (uint32_t)now_of(uc->upstream)};
}

/* Goes out before anything that waits: its reply is the first one owed. */
static void ask_to_track(struct upstream_conn *uc)
{
    char id[24];
    uint64_t redirect = uc->upstream->redirect;
    snprintf(id, sizeof id, "%llu", (unsigned long long)redirect);
    if (uc->owed.n > 0 && uc->waiting.len > 0) {
        if (!owed_push_front(&uc->owed, our_own(uc, OUR_TRACKING)))
            return;
        uc->n_late += uc->n_late > 0;
    } else if (!owed_push(&uc->owed, our_own(uc, OUR_TRACKING))) {
        return;
    }
    uc->tracking = redirect;
    uc->asking = true;
    uc->asked = now_of(uc->upstream);
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
    uc->handshake.line[strcspn(uc->handshake.line, "\r\n")] = '\0';
    u->callbacks.untracked(u->ctx, uc->handshake.line);
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
        !owed_push(&uc->owed, our_own(uc, OUR_PING)))
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

/* --- ready --------------------------------------------------------------------------------------
 */

/* Is the node alive? Asked of the connection that everybody uses, if it is there. */
static bool send_probe(struct upstream_conn *uc)
{
    if (!owed_push(&uc->owed, our_own(uc, OUR_PROBE)))
        return false;
    if (uc->owed.n == 1)
        uc->progress = now_of(uc->upstream);
    wire_command(conn_out(uc->conn), (struct resp_slice[]){wire_text("PING")}, 1);
    conn_send(uc->conn);
    return true;
}

/* What has waited is sent now. */
static void send_waiting(struct upstream_conn *uc)
{
    uint64_t now = now_of(uc->upstream);
    for (size_t i = uc->n_late; i < uc->owed.n; i++)
        owed_at(&uc->owed, i)->since = (uint32_t)now;
    uc->progress = uc->last_used = uc->ready_since = now;
    if (uc->upstream->redirect && !uc->is_private)
        ask_to_track(uc);
    chain_move(conn_out(uc->conn), &uc->waiting);
    conn_send(uc->conn);
}

static void become_ready(struct upstream_conn *uc)
{
    set_state(uc, UC_READY);
    uc->id = uc->handshake.id;
    uc->handshake.line_len = 0;
    if (!uc->is_private)
        close_breaker(uc->upstream);
    send_waiting(uc);
}

/* False: the connection was given up. */
static bool handshake_end(struct upstream_conn *uc, char type)
{
    struct handshake_terms terms = terms_of(uc);
    struct handshake *h = &uc->handshake;
    switch (handshake_reply(h, &terms, type, conn_out(uc->conn))) {
    case HANDSHAKE_MORE:
        conn_send(uc->conn);
        break;
    case HANDSHAKE_READY:
        become_ready(uc);
        break;
    case HANDSHAKE_REFUSED:
        if (h->no_such_db)
            set_state(uc, UC_REFUSED);
        fail(uc, END_UNMADE, h->no_such_db ? h->refusal : h->refusal + 1);
        return false;
    }
    return true;
}

/* --- a server that has become a replica ---------------------------------------------------------
 */

static void retire_when_free(struct upstream_conn *uc, uint64_t now)
{
    if (uc->state == UC_IDLE || uc->state == UC_REFUSED || uc->retiring)
        return;
    uc->retiring = true;
    uc->retiring_since = now;
}

void upstream_renew(struct upstream *u)
{
    for (struct upstream_conn *uc = u->conns; uc; uc = uc->next)
        retire_when_free(uc, now_of(u));
    for (struct upstream_conn *uc = u->privates; uc; uc = uc->next)
        retire_when_free(uc, now_of(u));
}

/* Its name may lead to the new master by now. It may also be a replica that somebody chose: then
 * this is done only once in a while. */
static void note_readonly(struct upstream *u)
{
    uint64_t now = now_of(u);
    if (u->demoted_at && now < u->demoted_at + DEMOTED_EVERY)
        return;
    u->demoted_at = now;
    log_write(u->log, LOG_WARN, "upstream_readonly", "upstream", u->options.address->label, "hint",
              "it is a replica; connecting anew, in case its name leads to the master by now",
              NULL);
    upstream_renew(u);
    if (u->callbacks.demoted)
        u->callbacks.demoted(u->ctx);
}

static bool says_readonly(const char *p, size_t n)
{
    static const char words[] = "-READONLY ";
    return *p == '-' && n >= sizeof words - 1 && memcmp(p, words, sizeof words - 1) == 0;
}

/* --- replies ------------------------------------------------------------------------------------
 */

static void pass_bytes(struct upstream_conn *uc, const char *p, size_t n, bool end)
{
    struct upstream *u = uc->upstream;
    if (uc->state == UC_HANDSHAKE) {
        handshake_bytes(&uc->handshake, p, n);
        return;
    }
    if (uc->in_push) {
        if (uc->holder)
            u->callbacks.push(u->ctx, uc->holder, p, n, end);
        return;
    }
    struct owed *o = owed_at(&uc->owed, 0);
    if (is_our_own(o->tag)) {
        handshake_bytes(&uc->handshake, p, n);
        return;
    }
    if (uc->reply_bytes == 0 && says_readonly(p, n))
        note_readonly(u);
    uc->reply_bytes += n;
    uc->hold_spent -= n < uc->hold_spent ? n : uc->hold_spent;
    u->callbacks.bytes(u->ctx, o->owner, o->tag, p, n);
}

static void pop_our_own(struct upstream_conn *uc, unsigned tag, char type)
{
    if (tag == OUR_TRACKING)
        tracking_answered(uc, type);
    else if (tag == OUR_PROBE)
        close_breaker(uc->upstream); /* whatever it says */
    else if (type == '+')
        uc->proof = uc->asked;
    if (tag != OUR_PROBE)
        uc->asking = false;
    uc->handshake.line_len = 0;
}

static void pop_done(struct upstream_conn *uc, char type)
{
    struct upstream *u = uc->upstream;
    struct owed o = owed_pop(&uc->owed);
    bool late = uc->n_late > 0;
    uc->reply_bytes = 0;
    uc->n_late -= late;
    if (is_our_own(o.tag)) {
        pop_our_own(uc, o.tag, type);
        return;
    }
    if (!late)
        breaker_succeeded(u->breaker, now_of(u));
    u->callbacks.done(u->ctx, o.owner, o.tag, type);
    if (uc->is_private && !uc->holder && !uc->is_idle && uc->owed.n == 0 && uc->state == UC_READY)
        become_idle(uc);
}

/* False: the connection is gone. */
static bool pass_done(struct upstream_conn *uc, char type)
{
    if (uc->state == UC_HANDSHAKE)
        return handshake_end(uc, type);
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
    const struct owed *o = uc->owed.n ? owed_at(&uc->owed, 0) : &(struct owed){0};
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
    uc->progress = uc->upstream->heard = now_of(uc->upstream);
    while (at < n) {
        if (!begin_frame(uc, p + at, n - at))
            return at;
        if (uc->state == UC_READY && uc->owed.n == 0 && !uc->in_push) {
            fail(uc, END_LOST, "it sent a reply that nobody asked for");
            return n;
        }
        size_t used = 0;
        enum resp_status status = resp_frame(&uc->framer, p + at, n - at, &used);
        if (status == RESP_BAD) {
            fail(uc, uc->state == UC_READY ? END_LOST : END_UNMADE,
                 tls_is_record(p + at, n - at) ? "it speaks TLS: use rediss:// instead of redis://"
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
    bool mute = uc->state == UC_HANDSHAKE && handshake_is_mute(&uc->handshake);
    (void)eof;
    snprintf(text, sizeof text, "%s%s", why,
             mute && !uc->upstream->options.tls ? ", before it said anything; if it speaks TLS use "
                                                  "rediss:// instead of redis://"
                                                : "");
    fail(uc, uc->state == UC_READY ? END_LOST : END_UNMADE, text);
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
    if (++u->last_serial == 0)
        u->last_serial = 1;
    uc->upstream = u;
    uc->serial = u->last_serial;
    uc->db = db;
    uc->resp = (uint8_t)resp;
    uc->slot = slot;
    uc->owed.budget = &u->loop->budget;
    chain_init(&uc->waiting, &u->loop->pool);
    uc->next = *list;
    *list = uc;
    return uc;
}

uint32_t upstream_serial(const struct upstream_conn *uc)
{
    return uc->serial;
}

/* Something large is on its way, in either direction, or waits for a slow reader: what is sent now
 * would come after it. */
static bool is_clogged(const struct upstream_conn *uc)
{
    return uc->held || uc->reply_bytes > CLOG_REPLY || uc->framer.bytes > CLOG_REPLY ||
           conn_out(uc->conn)->len > CLOG_OUT;
}

/* The lower the better; those who are in use share one for as long as it goes well. */
static unsigned reluctance(const struct upstream_conn *uc)
{
    switch ((enum upstream_conn_state)uc->state) {
    case UC_READY:
        return is_clogged(uc) ? 3 : 0;
    case UC_CONNECTING:
    case UC_HANDSHAKE:
        return 1;
    case UC_IDLE:
    case UC_REFUSED:
        break;
    }
    return 2;
}

/* The best of those that serve these callers, of equals the oldest; how many there are. */
static struct upstream_conn *choose(struct upstream *u, uint32_t db, unsigned resp, uint32_t slot,
                                    uint32_t keep, unsigned *n)
{
    struct upstream_conn *best = NULL;
    *n = 0;
    for (struct upstream_conn *uc = u->conns; uc; uc = uc->next) {
        if (uc->db != db || uc->resp != resp || uc->slot != slot)
            continue;
        if (uc->serial == keep && uc->owed.n > 0) {
            *n = 0;
            return uc;
        }
        if (uc->retiring)
            continue;
        if (!best || reluctance(uc) <= reluctance(best)) /* the newest comes first */
            best = uc;
        ++*n;
    }
    return best;
}

struct upstream_conn *upstream_get(struct upstream *u, uint32_t db, unsigned resp, uint32_t slot,
                                   uint32_t keep)
{
    unsigned n;
    if (slot != UPSTREAM_SCAN_LANE)
        slot %= u->options.connections;
    struct upstream_conn *uc = choose(u, db, resp, slot, keep, &n);
    if (!uc || (n > 0 && n < LANES_MAX && reluctance(uc) == 3)) {
        struct upstream_conn *more = new_conn(u, &u->conns, db, resp, slot);
        if (more)
            more->spare = uc != NULL;
        uc = more ? more : uc;
    }
    /* A database that was not there may be there after a restart: ask again. */
    if (uc && (uc->state == UC_IDLE || uc->state == UC_REFUSED) && breaker_is_closed(u->breaker))
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

static unsigned n_opening(const struct upstream *u)
{
    unsigned n = 0;
    for (const struct upstream_conn *uc = u->privates; uc; uc = uc->next)
        n += uc->state == UC_CONNECTING || uc->state == UC_HANDSHAKE;
    return n;
}

static struct upstream_conn *open_private(struct upstream *u, uint32_t db, unsigned resp)
{
    struct upstream_conn *uc = NULL;
    if (u->n_private < u->options.private_max && n_opening(u) < OPENING_MAX)
        uc = new_conn(u, &u->privates, db, resp, 0);
    if (!uc)
        return NULL;
    uc->is_private = uc->counted = true;
    u->n_private++;
    error_line(uc->error, "-NEARCACHE the connection was closed");
    if (breaker_is_closed(u->breaker)) /* else it refuses whatever is asked of it */
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
    uc->last_used = now_of(u);
    return uc;
}

void upstream_return(struct upstream_conn *uc)
{
    assert(uc->is_private && uc->holder);
    uc->holder = NULL;
    uc->last_used = now_of(uc->upstream);
    upstream_release(uc);
    if (uc->state == UC_IDLE || (uc->retiring && uc->owed.n == 0))
        lay_down(uc);
    else if (uc->state == UC_READY && uc->owed.n == 0)
        become_idle(uc);
}

void upstream_discard(struct upstream_conn *uc)
{
    assert(uc->is_private);
    uc->holder = NULL;
    error_line(uc->error, "-NEARCACHE the connection was closed");
    if (uc->state == UC_READY)
        conn_flush(uc->conn); /* what was asked before the end counts */
    lay_down(uc);
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
    uc->progress = now_of(uc->upstream);
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
    bool is_closed = uc->state == UC_IDLE || uc->state == UC_REFUSED;
    if (uc->is_private && !is_closed) /* it finds out for itself */
        return NULL;
    const char *refusal = node_refusal(uc->upstream);
    if (refusal)
        return refusal;
    return uc->state == UC_REFUSED || uc->is_private ? uc->error : NULL;
}

bool upstream_expect(struct upstream_conn *uc, void *owner, unsigned tag)
{
    uint64_t now = now_of(uc->upstream);
    if (uc->owed.n == 0)
        uc->progress = now;
    uc->last_used = now;
    uc->upstream->metrics->upstream_requests++;
    return owed_push(&uc->owed, (struct owed){.owner = owner, .tag = tag, .since = (uint32_t)now});
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

bool upstream_has_others(const struct upstream_conn *uc)
{
    return !uc->is_private && uc->owed.n > 2; /* a read and its PTTL are one client's */
}

/* One budget for the whole connection: it fills with what is delivered, whoever it is for. */
static uint64_t hold_spent(const struct upstream_conn *uc, uint64_t now)
{
    return uc->hold_spent + (uc->held ? (now - uc->held_since) * HOLD_RATE : 0);
}

bool upstream_hold(struct upstream_conn *uc)
{
    uint64_t now = now_of(uc->upstream);
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
    uc->progress = now_of(uc->upstream);
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
    return !is_home(uc);
}

__attribute__((format(printf, 3, 4))) static void fail_late(struct upstream_conn *uc, enum end how,
                                                            const char *format, ...)
{
    char why[96];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    fail(uc, how, why);
}

/* The i-th owner waits no longer. */
static void tell_late(struct upstream_conn *uc, size_t i, const char *what, uint64_t ms)
{
    struct upstream *u = uc->upstream;
    struct owed *o = owed_at(&uc->owed, i);
    struct upstream_owner to = {.owner = o->owner, .tag = o->tag};
    char why[96], error[ERROR_MAX];
    snprintf(why, sizeof why, "%s within %llu ms", what, (unsigned long long)ms);
    error_line(error, "-NEARCACHE timeout: upstream %s: %s", u->options.address->label, why);
    if (o->tag == OUR_PROBE)
        trip(u, breaker_why(u->breaker), 0);
    if (is_our_own(o->tag))
        return;
    u->metrics->upstream_timeouts++;
    note_failure(u, true, why);
    u->callbacks.late(u->ctx, &to, error);
    o = owed_at(&uc->owed, i);
    o->owner = to.owner;
    o->tag = to.tag;
}

/* Those owed from the front on whose time is over. One whose reply has begun is the business of
 * `progress`. */
static void tell_all_late(struct upstream_conn *uc, const char *what, uint64_t ms, uint64_t now)
{
    bool begun = uc->framer.busy && !uc->in_push;
    while (uc->conn && uc->n_late < uc->owed.n) {
        size_t i = uc->n_late;
        if ((i > 0 || !begun) && owed_age(owed_at(&uc->owed, i), now) <= ms)
            return;
        uc->n_late++;
        if (i > 0 || !begun)
            tell_late(uc, i, what, ms);
    }
}

static void close_unused(struct upstream_conn *uc, uint64_t now)
{
    bool unused = is_extra(uc) && !uc->holder && now > uc->last_used + IDLE_MAX;
    if (uc->owed.n == 0 && (unused || (uc->retiring && !uc->holder)))
        lay_down(uc);
    else if (uc->retiring && !uc->is_private && now > uc->retiring_since + RETIRE_MAX)
        fail(uc, END_LOST, "it is being replaced");
}

/* What may take any time does not wait for a server that is frozen. */
static bool is_silent(const struct upstream_conn *uc, uint64_t timeout, uint64_t now)
{
    const struct upstream *u = uc->upstream;
    uint64_t heard = u->heard > uc->progress ? u->heard : uc->progress;
    if (uc->owed.n == 0 || uc->held)
        return false;
    return uc->patience ? now > heard + u->options.scan_timeout : now > uc->progress + timeout;
}

static void tick_ready(struct upstream_conn *uc, uint64_t now)
{
    uint64_t timeout = reply_timeout(uc);
    ask_for_proof(uc, now);
    if (uc->held && !uc->is_private && hold_spent(uc, now) >= (uint64_t)HOLD_MAX * HOLD_RATE)
        upstream_release(uc);
    if (!uc->is_private)
        tell_all_late(uc, "no reply", timeout, now);
    if (is_silent(uc, timeout, now))
        fail_late(
            uc, END_SILENT, "no %s within %llu ms", uc->patience ? "sign of life" : "reply",
            (unsigned long long)(uc->patience ? uc->upstream->options.scan_timeout : timeout));
    else
        close_unused(uc, now);
}

static void tick_unready(struct upstream_conn *uc, uint64_t now)
{
    const struct upstream_options *o = &uc->upstream->options;
    if (!uc->is_private)
        tell_all_late(uc, "not connected", o->queue_timeout, now);
    if (uc->state == UC_HANDSHAKE && now > uc->handshake_deadline)
        fail_late(uc, END_UNMADE, "no answer to the handshake within %llu ms",
                  (unsigned long long)o->handshake_timeout);
}

static void tick_conn(struct upstream_conn *uc, uint64_t now)
{
    switch ((enum upstream_conn_state)uc->state) {
    case UC_CONNECTING:
    case UC_HANDSHAKE:
        tick_unready(uc, now);
        break;
    case UC_READY:
        tick_ready(uc, now);
        break;
    case UC_IDLE:
        if (is_home(uc) && now >= uc->reopen_at && breaker_is_closed(uc->upstream->breaker))
            start(uc);
        break;
    case UC_REFUSED:
        break;
    }
}

static void free_conn(struct upstream_conn *uc)
{
    drop_connection(uc);
    owed_free(&uc->owed);
    free(uc);
}

/* A database that nobody uses any more, or that never was. */
static bool is_forgotten(const struct upstream_conn *uc)
{
    return is_extra(uc) && !uc->holder && uc->owed.n == 0 &&
           (uc->state == UC_IDLE || uc->state == UC_REFUSED);
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

/* One connection, or one question on one that is there, finds out for all. */
static void probe(struct upstream *u)
{
    struct upstream_conn *uc = u->conns;
    while (uc && !is_home(uc))
        uc = uc->next;
    if (!uc)
        uc = new_conn(u, &u->conns, u->options.address->db, 2, 0);
    if (!uc || (uc->state == UC_READY && !send_probe(uc)))
        trip(u, "out of memory", 0);
    else if (uc->state == UC_IDLE || uc->state == UC_REFUSED)
        start(uc);
}

void upstream_tick(struct upstream *u, uint64_t now)
{
    if (breaker_begin_probe(u->breaker, now))
        probe(u);
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
    evutil_secure_rng_get_bytes(&u->random, sizeof u->random);
    u->breaker = breaker_new(&options->breaker, u->random);
    if (u->breaker)
        return u;
    free(u);
    return NULL;
}

void upstream_open(struct upstream *u)
{
    (void)upstream_get(u, u->options.address->db, 2, 0, 0);
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
    breaker_free(u->breaker);
    free(u);
}

void upstream_set_options(struct upstream *u, const struct upstream_options *options)
{
    struct upstream_options *o = &u->options;
    o->connect_timeout = options->connect_timeout;
    o->handshake_timeout = options->handshake_timeout;
    o->timeout = options->timeout;
    o->scan_timeout = options->scan_timeout;
    o->queue_timeout = options->queue_timeout;
    o->breaker = options->breaker;
    breaker_set_options(u->breaker, &options->breaker);
}

const char *upstream_state(const struct upstream *u)
{
    static const char *const names[] = {"idle", "connecting", "handshake", "up", "refused"};
    const struct upstream_conn *uc = u->conns;
    if (!breaker_is_closed(u->breaker))
        return "down";
    while (uc && !is_home(uc))
        uc = uc->next;
    return names[uc ? uc->state : UC_IDLE];
}

void upstream_note_alive(struct upstream *u)
{
    u->heard = now_of(u);
}

struct budget *upstream_budget(const struct upstream_conn *uc)
{
    return &uc->upstream->loop->budget;
}

const struct breaker *upstream_breaker(const struct upstream *u)
{
    return u->breaker;
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
