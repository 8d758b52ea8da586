/* pipeline.c - one connection to the upstream. */
#include "pipeline.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "owed.h"
#include "wire.h"

enum {
    PIPELINE_MAGIC = 0x70697065,
    HOLD_MAX = 100,          /* ms that slow readers may hold the others up, .. */
    HOLD_RATE = 64 * 1024,   /* .. earned back by so many bytes a ms: 64 MB/s never buffers */
    CLOG_REPLY = 256 * 1024, /* bytes of the reply at hand, or .. */
    CLOG_OUT = 1024 * 1024,  /* .. of unsent requests, that are a lot to wait for */
};

struct pipeline {
    uint32_t magic;
    uint8_t state;
    uint8_t resp;
    bool is_private;
    bool in_push; /* the frame at hand is out of band */
    bool held;
    struct loop *loop;
    const struct pipeline_options *options;
    const struct pipeline_receiver *receiver;
    void *ctx;
    const struct pipeline_hooks *hooks;
    void *keeper;
    void *holder; /* of a private one that is lent */
    void *hearer; /* the push at hand is for whom it was lent to when it began; NULL: nobody */
    uint32_t db;
    unsigned patience; /* replies owed that may take any time */
    struct conn *conn;
    struct resp_framer framer;
    uint64_t reply_bytes; /* of the reply at hand that have come */
    struct owed_ring owed;
    size_t n_late;        /* of them, from the first on: their owners have been told */
    struct chain waiting; /* commands taken before the connection is ready */
    struct handshake handshake;
    uint64_t deadline; /* of the handshake */
    uint64_t progress; /* when bytes last came, or when the FIFO began to wait */
    uint64_t held_since;
    uint64_t hold_spent; /* of HOLD_MAX, in bytes of HOLD_RATE */
};

static const struct conn_callbacks conn_callbacks;

static void set_state(struct pipeline *pl, enum pipeline_state to)
{
    assert(to == PIPELINE_IDLE ? pl->state != PIPELINE_IDLE : to == pl->state + 1U);
    pl->state = (uint8_t)to;
}

static struct pipeline *pipeline_of(void *arg)
{
    struct pipeline *pl = arg;
    assert(pl->magic == PIPELINE_MAGIC);
    return pl;
}

void pipeline_error(char line[PIPELINE_ERROR_MAX], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, PIPELINE_ERROR_MAX - 2, format, args);
    va_end(args);
    for (char *p = line; *p; p++)
        if (*p == '\r' || *p == '\n')
            *p = ' ';
    memcpy(line + strlen(line), "\r\n", 3);
}

static bool is_own(unsigned tag)
{
    return tag >= PIPELINE_OWN;
}

/* --- the end ------------------------------------------------------------------------------------
 */

static void drop_connection(struct pipeline *pl)
{
    if (pl->conn)
        conn_close(pl->conn);
    pl->conn = NULL;
    pl->held = pl->in_push = false;
    pl->framer = (struct resp_framer){0};
    pl->reply_bytes = 0;
    chain_clear(&pl->waiting);
}

static void tell_all_lost(struct pipeline *pl, const char *error)
{
    struct owed_ring lost = pl->owed;
    pl->owed = (struct owed_ring){.budget = lost.budget};
    pl->n_late = 0;
    while (lost.n) {
        struct owed o = owed_pop(&lost);
        if (!is_own(o.tag))
            pl->receiver->lost(pl->ctx, o.owner, o.tag, error);
    }
    owed_free(&lost);
}

static void fail(struct pipeline *pl, enum pipeline_end how, const char *why)
{
    char error[PIPELINE_ERROR_MAX];
    pl->hooks->ends(pl->keeper, how, why, error);
    set_state(pl, PIPELINE_IDLE);
    if (pl->conn) { /* a write that was refused must not be carried out behind a later one */
        conn_abandon(pl->conn);
        pl->conn = NULL;
    }
    drop_connection(pl);
    tell_all_lost(pl, error);
    pl->hooks->ended(pl->keeper);
}

__attribute__((format(printf, 3, 4))) static void
fail_with(struct pipeline *pl, enum pipeline_end how, const char *format, ...)
{
    char why[PIPELINE_ERROR_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    fail(pl, how, why);
}

void pipeline_stop(struct pipeline *pl, const char *error)
{
    if (pl->state == PIPELINE_READY)
        conn_flush(pl->conn); /* what was asked before the end counts */
    if (pl->state != PIPELINE_IDLE)
        set_state(pl, PIPELINE_IDLE);
    drop_connection(pl);
    tell_all_lost(pl, error);
}

/* --- opening ------------------------------------------------------------------------------------
 */

static struct handshake_terms terms_of(const struct pipeline *pl)
{
    const struct pipeline_options *o = pl->options;
    return (struct handshake_terms){.user = o->address->user,
                                    .password = o->address->password,
                                    .client_name = o->client_name,
                                    .db = pl->db,
                                    .resp = pl->resp};
}

void pipeline_start(struct pipeline *pl, uint32_t db, unsigned resp)
{
    const struct pipeline_options *o = pl->options;
    set_state(pl, PIPELINE_CONNECTING);
    pl->db = db;
    pl->resp = (uint8_t)resp;
    pl->handshake = (struct handshake){0};
    pl->conn = conn_connect(pl->loop,
                            &(struct conn_target){.host = o->address->host,
                                                  .port = o->address->port,
                                                  .path = o->address->path,
                                                  .tls = o->tls,
                                                  .timeout = o->connect_timeout},
                            &conn_callbacks, pl);
    if (!pl->conn)
        fail(pl, PIPELINE_UNMADE, "out of memory");
}

static void on_connected(void *ctx)
{
    struct pipeline *pl = pipeline_of(ctx);
    struct handshake_terms terms = terms_of(pl);
    set_state(pl, PIPELINE_HANDSHAKE);
    pl->deadline = loop_now(pl->loop) + pl->options->handshake_timeout;
    handshake_begin(&pl->handshake, &terms, conn_out(pl->conn));
    conn_send(pl->conn);
}

static void become_ready(struct pipeline *pl)
{
    uint64_t now = loop_now(pl->loop);
    set_state(pl, PIPELINE_READY);
    pl->handshake.line_len = 0;
    pl->progress = now;
    for (size_t i = pl->n_late; i < pl->owed.n; i++)
        owed_at(&pl->owed, i)->since = (uint32_t)now;
    pl->hooks->ready(pl->keeper);
    chain_move(conn_out(pl->conn), &pl->waiting);
    conn_send(pl->conn);
}

/* False: the connection was given up. */
static bool handshake_end(struct pipeline *pl, char type)
{
    struct handshake_terms terms = terms_of(pl);
    const struct handshake *h = &pl->handshake;
    switch (handshake_reply(&pl->handshake, &terms, type, conn_out(pl->conn))) {
    case HANDSHAKE_MORE:
        conn_send(pl->conn);
        break;
    case HANDSHAKE_READY:
        become_ready(pl);
        break;
    case HANDSHAKE_REFUSED:
        fail(pl, PIPELINE_UNMADE, h->no_such_db ? h->refusal : h->refusal + 1);
        return false;
    }
    return true;
}

/* --- replies ------------------------------------------------------------------------------------
 */

static bool says_readonly(const char *p, size_t n)
{
    static const char words[] = "-READONLY ";
    return *p == '-' && n >= sizeof words - 1 && memcmp(p, words, sizeof words - 1) == 0;
}

static void pass_bytes(struct pipeline *pl, const char *p, size_t n, bool end)
{
    if (pl->state == PIPELINE_HANDSHAKE) {
        handshake_bytes(&pl->handshake, p, n);
        return;
    }
    if (pl->in_push) {
        if (pl->hearer)
            pl->receiver->push(pl->ctx, pl->hearer, p, n, end);
        return;
    }
    struct owed *o = owed_at(&pl->owed, 0);
    if (is_own(o->tag)) {
        handshake_bytes(&pl->handshake, p, n);
        return;
    }
    if (pl->reply_bytes == 0 && says_readonly(p, n))
        pl->hooks->readonly(pl->keeper);
    pl->reply_bytes += n;
    pl->hold_spent -= n < pl->hold_spent ? n : pl->hold_spent;
    pl->receiver->bytes(pl->ctx, o->owner, o->tag, p, n);
}

static void pop_done(struct pipeline *pl, char type)
{
    struct owed o = owed_pop(&pl->owed);
    bool late = pl->n_late > 0;
    pl->reply_bytes = 0;
    pl->n_late -= late;
    if (is_own(o.tag)) {
        pl->hooks->told(pl->keeper, o.tag, type, pl->handshake.line);
        pl->handshake.line_len = 0;
        return;
    }
    if (!late)
        pl->hooks->answered(pl->keeper);
    pl->receiver->done(pl->ctx, o.owner, o.tag, type);
}

static size_t missing(const struct pipeline *pl)
{
    const struct owed *o = owed_at(&pl->owed, 0);
    return pl->is_private && !is_own(o->tag) ? pl->receiver->missing(pl->ctx, o->owner, o->tag) : 0;
}

/* False: the connection is gone. */
static bool pass_done(struct pipeline *pl, char type)
{
    size_t more;
    if (pl->state == PIPELINE_HANDSHAKE)
        return handshake_end(pl, type);
    if (pl->in_push)
        pl->in_push = false;
    else if ((more = missing(pl)) > 0)
        resp_frame_on(&pl->framer, more);
    else
        pop_done(pl, type);
    return pl->conn != NULL;
}

/* RESP3 marks what is out of band; in RESP2 the holder knows whether it has subscribed. */
static bool is_push(const struct pipeline *pl, const char *two)
{
    const struct owed *o = pl->owed.n ? owed_at(&pl->owed, 0) : &(struct owed){0};
    if (*two == '>')
        return true;
    return pl->is_private && *two == '*' && pl->resp == 2 && pl->holder &&
           pl->receiver->is_push(pl->ctx, pl->holder, o->owner, o->tag, two);
}

/* Sorts the frame that begins at p. False: more bytes are needed to tell. */
static bool begin_frame(struct pipeline *pl, const char *p, size_t n)
{
    if (pl->state != PIPELINE_READY || pl->framer.busy || pl->in_push)
        return true;
    if (pl->is_private && pl->resp == 2 && *p == '*' && n < 2)
        return false;
    pl->in_push = is_push(pl, p);
    pl->hearer = pl->holder;
    return true;
}

static size_t on_bytes(void *ctx, const char *p, size_t n)
{
    struct pipeline *pl = pipeline_of(ctx);
    size_t at = 0;
    pl->progress = loop_now(pl->loop);
    while (at < n) {
        if (!begin_frame(pl, p + at, n - at))
            return at;
        if (pl->state == PIPELINE_READY && pl->owed.n == 0 && !pl->in_push) {
            fail(pl, PIPELINE_LOST, "it sent a reply that nobody asked for");
            return n;
        }
        size_t used = 0;
        enum resp_status status = resp_frame(&pl->framer, p + at, n - at, &used);
        if (status == RESP_BAD) {
            fail(pl, pl->state == PIPELINE_READY ? PIPELINE_LOST : PIPELINE_UNMADE,
                 tls_is_record(p + at, n - at) ? "it speaks TLS: use rediss:// instead of redis://"
                                               : "it sent something that is not RESP");
            return n;
        }
        pass_bytes(pl, p + at, used, status == RESP_DONE);
        at += used;
        if (!pl->conn || status == RESP_MORE || !pass_done(pl, pl->framer.type))
            return n;
    }
    return n;
}

static void on_ended(void *ctx, bool eof, const char *why)
{
    struct pipeline *pl = pipeline_of(ctx);
    bool mute = pl->state == PIPELINE_HANDSHAKE && handshake_is_mute(&pl->handshake);
    (void)eof;
    fail_with(pl, pl->state == PIPELINE_READY ? PIPELINE_LOST : PIPELINE_UNMADE, "%s%s", why,
              mute && !pl->options->tls ? ", before it said anything; if it speaks TLS use "
                                          "rediss:// instead of redis://"
                                        : "");
}

static const struct conn_callbacks conn_callbacks = {
    .bytes = on_bytes, .connected = on_connected, .ended = on_ended};

/* --- sending ------------------------------------------------------------------------------------
 */

bool pipeline_expect(struct pipeline *pl, void *owner, unsigned tag)
{
    uint64_t now = loop_now(pl->loop);
    if (pl->owed.n == 0)
        pl->progress = now;
    return owed_push(&pl->owed, (struct owed){.owner = owner, .tag = tag, .since = (uint32_t)now});
}

struct chain *pipeline_out(struct pipeline *pl)
{
    return pl->state == PIPELINE_READY ? conn_out(pl->conn) : &pl->waiting;
}

void pipeline_sent(struct pipeline *pl)
{
    if (pl->state == PIPELINE_READY)
        conn_send(pl->conn);
}

/* While something waits to be sent, what is owed is for that. */
bool pipeline_ask(struct pipeline *pl, unsigned tag, const struct resp_slice *argv, size_t argc)
{
    assert(pl->state == PIPELINE_READY && is_own(tag));
    if (pl->waiting.len == 0) {
        if (!pipeline_expect(pl, NULL, tag))
            return false;
    } else {
        struct owed o = {.tag = tag, .since = (uint32_t)loop_now(pl->loop)};
        if (!owed_push_front(&pl->owed, o))
            return false;
        pl->n_late += pl->n_late > 0;
    }
    wire_command(conn_out(pl->conn), argv, argc);
    conn_send(pl->conn);
    return true;
}

size_t pipeline_owed(const struct pipeline *pl)
{
    return pl->owed.n;
}

size_t pipeline_awaited(const struct pipeline *pl)
{
    size_t n = 0;
    for (size_t i = pl->n_late; i < pl->owed.n; i++)
        n += !is_own(owed_at(&pl->owed, i)->tag);
    return n;
}

bool pipeline_is_clogged(const struct pipeline *pl)
{
    return pl->state == PIPELINE_READY &&
           (pl->held || pl->reply_bytes > CLOG_REPLY || pl->framer.bytes > CLOG_REPLY ||
            conn_out(pl->conn)->len > CLOG_OUT);
}

/* --- private ones -------------------------------------------------------------------------------
 */

void pipeline_set_holder(struct pipeline *pl, void *holder)
{
    pl->holder = holder;
    pl->hearer = NULL;
}

void pipeline_set_resp(struct pipeline *pl, unsigned resp)
{
    pl->resp = (uint8_t)resp;
}

void pipeline_settle(struct pipeline *pl)
{
    assert(pl->owed.n > 0);
    pop_done(pl, '*');
}

void pipeline_patience(struct pipeline *pl, int change)
{
    pl->patience += (unsigned)change;
    pl->progress = loop_now(pl->loop);
}

/* --- slow readers -------------------------------------------------------------------------------
 */

bool pipeline_has_others(const struct pipeline *pl)
{
    return !pl->is_private && pl->owed.n > 2; /* a read and its PTTL are one client's */
}

/* One budget for the whole connection: it fills with what is delivered, whoever it is for. */
static uint64_t hold_spent(const struct pipeline *pl, uint64_t now)
{
    return pl->hold_spent + (pl->held ? (now - pl->held_since) * HOLD_RATE : 0);
}

static bool has_held_enough(const struct pipeline *pl, uint64_t now)
{
    return !pl->is_private && hold_spent(pl, now) >= (uint64_t)HOLD_MAX * HOLD_RATE;
}

bool pipeline_hold(struct pipeline *pl)
{
    uint64_t now = loop_now(pl->loop);
    if (pl->held || pl->state != PIPELINE_READY)
        return pl->held;
    if (has_held_enough(pl, now))
        return false;
    pl->held = true;
    pl->held_since = now;
    conn_pause(pl->conn);
    return true;
}

void pipeline_release(struct pipeline *pl)
{
    if (!pl->held)
        return;
    pl->progress = loop_now(pl->loop);
    pl->hold_spent = hold_spent(pl, pl->progress);
    pl->held = false;
    conn_resume(pl->conn);
}

/* --- time ---------------------------------------------------------------------------------------
 */

/* The i-th owner waits no longer. */
static void tell_late(struct pipeline *pl, size_t i, const char *what, uint64_t ms)
{
    const struct owed *o = owed_at(&pl->owed, i);
    struct reply_owner to = {.owner = o->owner, .tag = o->tag};
    char why[96], error[PIPELINE_ERROR_MAX];
    snprintf(why, sizeof why, "%s within %llu ms", what, (unsigned long long)ms);
    pl->hooks->late(pl->keeper, to.tag, why, error);
    if (is_own(to.tag))
        return;
    pl->receiver->late(pl->ctx, &to, error);
    struct owed *now_of = owed_at(&pl->owed, i);
    now_of->owner = to.owner;
    now_of->tag = to.tag;
}

/* Those owed from the front on whose time is over. One whose reply has begun is the business of
 * `progress`. */
static void tell_all_late(struct pipeline *pl, const char *what, uint64_t ms, uint64_t now)
{
    bool begun = pl->framer.busy && !pl->in_push && pl->state == PIPELINE_READY;
    while (pl->conn && pl->n_late < pl->owed.n) {
        size_t i = pl->n_late;
        bool exempt = i == 0 && begun;
        if (!exempt && owed_age(owed_at(&pl->owed, i), now) <= ms)
            return;
        pl->n_late++;
        if (!exempt)
            tell_late(pl, i, what, ms);
    }
}

static void tick_ready(struct pipeline *pl, uint64_t timeout, uint64_t heard, uint64_t now)
{
    uint64_t frozen = pl->options->frozen_timeout;
    if (pl->held && has_held_enough(pl, now))
        pipeline_release(pl);
    if (!pl->is_private)
        tell_all_late(pl, "no reply", timeout, now);
    if (pl->owed.n == 0 || pl->held)
        return;
    if (!pl->patience && now > pl->progress + timeout)
        fail_with(pl, PIPELINE_SILENT, "no reply within %llu ms", (unsigned long long)timeout);
    else if (pl->patience && now > (heard > pl->progress ? heard : pl->progress) + frozen)
        fail_with(pl, PIPELINE_SILENT, "no sign of life within %llu ms",
                  (unsigned long long)frozen);
}

void pipeline_tick(struct pipeline *pl, uint64_t timeout, uint64_t heard, uint64_t now)
{
    switch ((enum pipeline_state)pl->state) {
    case PIPELINE_IDLE:
        break;
    case PIPELINE_CONNECTING:
    case PIPELINE_HANDSHAKE:
        if (!pl->is_private)
            tell_all_late(pl, "not connected", pl->options->queue_timeout, now);
        if (pl->state == PIPELINE_HANDSHAKE && now > pl->deadline)
            fail_with(pl, PIPELINE_UNMADE, "no answer to the handshake within %llu ms",
                      (unsigned long long)pl->options->handshake_timeout);
        break;
    case PIPELINE_READY:
        tick_ready(pl, timeout, heard, now);
        break;
    }
}

uint64_t pipeline_progress(const struct pipeline *pl)
{
    return pl->progress;
}

/* --- life ---------------------------------------------------------------------------------------
 */

struct pipeline *pipeline_new(struct loop *loop, const struct pipeline_options *options,
                              const struct pipeline_receiver *receiver, void *ctx,
                              const struct pipeline_hooks *hooks, void *keeper, bool is_private)
{
    struct pipeline *pl = calloc(1, sizeof *pl);
    if (!pl)
        return NULL;
    *pl = (struct pipeline){.magic = PIPELINE_MAGIC,
                            .loop = loop,
                            .options = options,
                            .receiver = receiver,
                            .ctx = ctx,
                            .hooks = hooks,
                            .keeper = keeper,
                            .is_private = is_private,
                            .owed.budget = &loop->budget};
    chain_init(&pl->waiting, &loop->pool);
    return pl;
}

void pipeline_free(struct pipeline *pl)
{
    pipeline_stop(pl, "-NEARCACHE the connection was closed\r\n");
    owed_free(&pl->owed);
    pl->magic = 0;
    free(pl);
}

enum pipeline_state pipeline_state(const struct pipeline *pl)
{
    return pl->state;
}

const struct handshake *pipeline_handshake(const struct pipeline *pl)
{
    return &pl->handshake;
}
