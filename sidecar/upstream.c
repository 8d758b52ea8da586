/* upstream.c - which connection to the shared Redis a request goes down. */
#include "upstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

enum {
    IDLE_MAX = 60 * 1000,     /* ms until an unused extra connection is closed */
    LANES_MAX = 8,            /* connections that serve the same callers, spare ones included */
    OPENING_MAX = 64,         /* private connections that are opened at a time: no storm */
    RECONNECT_JITTER = 20,    /* ms at most until a lost connection is opened again unasked */
    RETIRE_MAX = 1000,        /* ms that a connection which is to be replaced may still be used */
    DEMOTED_EVERY = 5 * 1000, /* ms at least between two replacements because of READONLY */
    REFUSED_WAIT = 5 * 1000,  /* ms at least between two attempts with the wrong password */
    SETTLED = 1000,           /* ms that a connection must have held to count as a good one */
    PROOF_EVERY = 250,        /* ms, of connections that track */
};

/* Replies that are for this module. */
static const unsigned OUR_TRACKING = PIPELINE_OWN, OUR_PING = PIPELINE_OWN + 1,
                      OUR_PROBE = PIPELINE_OWN + 2;

struct upstream_conn {
    struct upstream *upstream;
    struct upstream_conn *next;
    struct pipeline *pipeline;
    uint32_t serial;
    uint32_t db, slot;
    uint8_t resp;
    bool is_private;
    bool spare;        /* there was another for the same callers when it was made */
    bool retiring;     /* to be replaced when nothing is owed any more, or soon */
    bool counted;      /* in n_private */
    bool is_idle;      /* in the list of idle ones */
    bool asking;       /* a question of ours about tracking is under way, .. */
    uint64_t asked;    /* .. since then; what it proves if answered: */
    uint64_t proof;    /* the connection was alive */
    uint64_t tracking; /* asked to tell this connection, .. */
    uint64_t tracks;   /* .. and the server has agreed */
    void *holder;      /* of a private one that is lent */
    struct upstream_conn *next_idle;
    uint64_t ready_since, retiring_since;
    uint64_t reopen_at; /* unasked, of one that was lost */
    uint64_t last_used;
    char error[PIPELINE_ERROR_MAX]; /* why it is refused */
};

struct upstream {
    struct loop *loop;
    struct upstream_options options;
    struct pipeline_options pipelines;
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
    uint64_t redirect;      /* CLIENT ID that shared connections' tracking tells; 0: none */
    _Atomic uint64_t heard; /* when anything last came from the server */
    uint64_t demoted_at;    /* when READONLY last had them replaced */
    uint64_t random;        /* of the jitter */
    char refusal[PIPELINE_ERROR_MAX], last_error[PIPELINE_ERROR_MAX];
};

static const struct pipeline_hooks hooks;

static uint64_t now_of(const struct upstream *u)
{
    return loop_now(u->loop);
}

bool upstream_is_ready(const struct upstream_conn *uc)
{
    return pipeline_state(uc->pipeline) == PIPELINE_READY;
}

static bool is_closed(const struct upstream_conn *uc)
{
    return pipeline_state(uc->pipeline) == PIPELINE_IDLE;
}

/* The one that most requests use, and that tells how the node is. */
static bool is_home(const struct upstream_conn *uc)
{
    return !uc->is_private && !uc->spare && uc->slot == 0 && uc->resp == 2 &&
           uc->db == uc->upstream->options.address->db;
}

static struct upstream_conn *find_home(const struct upstream *u)
{
    struct upstream_conn *uc = u->conns;
    while (uc && !is_home(uc))
        uc = uc->next;
    return uc;
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

static const char *describe_refusal(struct upstream *u)
{
    const char *label = u->options.address->label, *why = breaker_why(u->breaker);
    switch (breaker_state(u->breaker)) {
    case BREAKER_CLOSED:
        return NULL;
    case BREAKER_OPEN:
        pipeline_error(
            u->refusal,
            "-NEARCACHE upstream %s unavailable: %s (circuit open, next probe in %llu ms)", label,
            why, (unsigned long long)breaker_probe_in(u->breaker, now_of(u)));
        break;
    case BREAKER_HALF_OPEN:
        pipeline_error(
            u->refusal,
            "-NEARCACHE upstream %s unavailable: %s (circuit half-open, it is being probed)", label,
            why);
        break;
    }
    return u->refusal;
}

/* --- the end of a connection --------------------------------------------------------------------
 */

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

/* What goes with the connection. */
static void put_away(struct upstream_conn *uc)
{
    uc->retiring = false;
    if (uc->is_private)
        retire(uc);
    stop_tracking(uc);
}

/* Closed in order, or never opened. */
static void lay_down(struct upstream_conn *uc)
{
    char error[PIPELINE_ERROR_MAX];
    pipeline_error(error, "-NEARCACHE the connection was closed");
    put_away(uc);
    pipeline_stop(uc->pipeline, error);
}

static bool some_other_is_ready(const struct upstream_conn *uc)
{
    for (const struct upstream_conn *other = uc->upstream->conns; other; other = other->next)
        if (other != uc && upstream_is_ready(other))
            return true;
    return false;
}

/* What the end of a connection says about the node. A private or spare one may be refused alone
 * (maxclients), and one that was not ready for long is not to be opened again at once. */
static void judge_node(struct upstream_conn *uc, enum pipeline_end how, const char *why)
{
    struct upstream *u = uc->upstream;
    bool unmade = how == PIPELINE_UNMADE;
    bool brief = how == PIPELINE_LOST && now_of(u) < uc->ready_since + SETTLED;
    bool probing = breaker_state(u->breaker) == BREAKER_HALF_OPEN && is_home(uc);
    bool password = unmade && pipeline_handshake(uc->pipeline)->wrong_password;
    if (probing || (!uc->is_private && (unmade || brief) && !some_other_is_ready(uc))) {
        trip(u, why, password ? REFUSED_WAIT : 0);
        return;
    }
    for (size_t n = pipeline_awaited(uc->pipeline); n > 0; n--)
        note_failure(u, how == PIPELINE_SILENT, why);
}

static const char *log_hint(const struct upstream_conn *uc, enum pipeline_end how)
{
    if (how != PIPELINE_UNMADE)
        return NULL;
    if (pipeline_handshake(uc->pipeline)->wrong_password)
        return "check upstream.user and upstream.password (or upstream.password_file); nearcache "
               "tries again every few seconds";
    return uc->upstream->options.address->path
               ? NULL
               : "is a Redis listening there? start one or give another --upstream; nearcache "
                 "keeps trying";
}

/* While the breaker is not closed, that nothing can be connected is no news. */
static void log_end(const struct upstream_conn *uc, enum pipeline_end how, const char *why)
{
    const struct upstream *u = uc->upstream;
    const char *event = how == PIPELINE_UNMADE ? "upstream_unavailable" : "upstream_lost";
    if (uc->is_private ? !uc->holder || how == PIPELINE_UNMADE
                       : how == PIPELINE_UNMADE && !breaker_is_closed(u->breaker))
        return;
    log_write(u->log, LOG_WARN, uc->is_private ? "session_lost" : event, "upstream",
              u->options.address->label, "why", why, "hint", log_hint(uc, how), NULL);
}

static void describe(const struct upstream *u, bool late, const char *why,
                     char error[PIPELINE_ERROR_MAX])
{
    pipeline_error(error,
                   late ? "-NEARCACHE timeout: upstream %s: %s"
                        : "-NEARCACHE upstream %s unavailable: %s",
                   u->options.address->label, why);
}

static void on_ends(void *keeper, enum pipeline_end how, const char *why,
                    char error[PIPELINE_ERROR_MAX])
{
    struct upstream_conn *uc = keeper;
    struct upstream *u = uc->upstream;
    u->metrics->upstream_failures++;
    snprintf(u->last_error, sizeof u->last_error, "%.*s", (int)strcspn(why, "\r\n"), why);
    if (how == PIPELINE_UNMADE && pipeline_handshake(uc->pipeline)->no_such_db) {
        pipeline_error(error, "%s", why); /* the client gets the server's own words */
    } else {
        describe(u, how == PIPELINE_SILENT, why, error);
        log_end(uc, how, why);
        judge_node(uc, how, why);
    }
    memcpy(uc->error, error, sizeof uc->error);
    put_away(uc);
}

static uint64_t jitter(struct upstream *u)
{
    u->random = u->random * 6364136223846793005u + 1442695040888963407u;
    return (u->random >> 33) % (RECONNECT_JITTER + 1);
}

static void on_ended(void *keeper)
{
    struct upstream_conn *uc = keeper;
    struct upstream *u = uc->upstream;
    void *holder = uc->holder;
    uc->reopen_at = now_of(u) + jitter(u);
    uc->holder = NULL;
    pipeline_set_holder(uc->pipeline, NULL);
    if (holder)
        u->callbacks.severed(u->ctx, holder);
}

/* --- opening ------------------------------------------------------------------------------------
 */

static void start(struct upstream_conn *uc)
{
    pipeline_start(uc->pipeline, uc->db, uc->resp);
}

/* --- tracking by key ----------------------------------------------------------------------------
 */

static void ask_to_track(struct upstream_conn *uc)
{
    char id[24];
    uint64_t redirect = uc->upstream->redirect;
    snprintf(id, sizeof id, "%llu", (unsigned long long)redirect);
    if (!pipeline_ask(uc->pipeline, OUR_TRACKING,
                      (struct resp_slice[]){wire_text("CLIENT"), wire_text("TRACKING"),
                                            wire_text("ON"), wire_text("REDIRECT"), wire_text(id),
                                            wire_text("OPTIN")},
                      6))
        return;
    uc->tracking = redirect;
    uc->asking = true;
    uc->asked = now_of(uc->upstream);
}

/* Of an earlier question it says nothing about the present one. */
static void tracking_answered(struct upstream_conn *uc, char type, const char *line)
{
    struct upstream *u = uc->upstream;
    char why[HANDSHAKE_LINE_MAX];
    if (type == '-') {
        snprintf(why, sizeof why, "%.*s", (int)strcspn(line, "\r\n"), line);
        u->callbacks.untracked(u->ctx, why);
    } else if (uc->tracking == u->redirect) {
        uc->tracks = uc->tracking;
        uc->proof = uc->asked;
    }
}

void upstream_track(struct upstream *u, uint64_t redirect)
{
    u->redirect = redirect;
    for (struct upstream_conn *uc = u->conns; uc; uc = uc->next) {
        uc->tracks = 0;
        if (redirect && upstream_is_ready(uc))
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
        !pipeline_ask(uc->pipeline, OUR_PING, (struct resp_slice[]){wire_text("PING")}, 1))
        return;
    uc->asking = true;
    uc->asked = now;
}

bool upstream_tracks(const struct upstream_conn *uc)
{
    return uc->tracks != 0;
}

/* --- what a pipeline tells ----------------------------------------------------------------------
 */

static void on_ready(void *keeper)
{
    struct upstream_conn *uc = keeper;
    struct upstream *u = uc->upstream;
    uc->last_used = uc->ready_since = now_of(u);
    u->heard = now_of(u);
    u->metrics->upstream_connects++;
    if (uc->is_private)
        return;
    close_breaker(u);
    if (u->redirect)
        ask_to_track(uc);
}

static bool is_free(const struct upstream_conn *uc)
{
    return upstream_is_ready(uc) && pipeline_owed(uc->pipeline) == 0;
}

static void on_answered(void *keeper)
{
    struct upstream_conn *uc = keeper;
    struct upstream *u = uc->upstream;
    u->heard = now_of(u);
    breaker_succeeded(u->breaker, u->heard);
    if (uc->is_private && !uc->holder && !uc->is_idle && is_free(uc))
        become_idle(uc); /* its holder had left before */
}

static void on_late(void *keeper, unsigned tag, const char *why, char error[PIPELINE_ERROR_MAX])
{
    struct upstream *u = ((struct upstream_conn *)keeper)->upstream;
    describe(u, true, why, error);
    if (tag == OUR_PROBE) {
        trip(u, why, 0);
    } else if (tag < PIPELINE_OWN) {
        u->metrics->upstream_timeouts++;
        note_failure(u, true, why);
    }
}

static void on_told(void *keeper, unsigned tag, char type, const char *line)
{
    struct upstream_conn *uc = keeper;
    if (tag == OUR_PROBE) {
        close_breaker(uc->upstream); /* whatever it says */
        return;
    }
    uc->asking = false;
    if (tag == OUR_TRACKING)
        tracking_answered(uc, type, line);
    else if (type == '+')
        uc->proof = uc->asked;
}

/* --- a server that has become a replica ---------------------------------------------------------
 */

static void retire_when_free(struct upstream_conn *uc, uint64_t now)
{
    if (is_closed(uc) || uc->retiring)
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
static void on_readonly(void *keeper)
{
    struct upstream *u = ((struct upstream_conn *)keeper)->upstream;
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

static const struct pipeline_hooks hooks = {.ready = on_ready,
                                            .ends = on_ends,
                                            .ended = on_ended,
                                            .answered = on_answered,
                                            .late = on_late,
                                            .told = on_told,
                                            .readonly = on_readonly};

/* --- shared connections -------------------------------------------------------------------------
 */

static struct upstream_conn *new_conn(struct upstream *u, struct upstream_conn **list, uint32_t db,
                                      unsigned resp, uint32_t slot)
{
    bool is_private = list == &u->privates;
    struct upstream_conn *uc = calloc(1, sizeof *uc);
    if (!uc)
        return NULL;
    uc->pipeline =
        pipeline_new(u->loop, &u->pipelines, &u->callbacks.replies, u->ctx, &hooks, uc, is_private);
    if (!uc->pipeline) {
        free(uc);
        return NULL;
    }
    if (++u->last_serial == 0)
        u->last_serial = 1;
    uc->upstream = u;
    uc->serial = u->last_serial;
    uc->db = db;
    uc->resp = (uint8_t)resp;
    uc->slot = slot;
    uc->is_private = is_private;
    uc->next = *list;
    *list = uc;
    return uc;
}

uint32_t upstream_serial(const struct upstream_conn *uc)
{
    return uc->serial;
}

/* The lower the better; those who are in use share one for as long as it goes well. */
enum reluctance { FREE, OPENING, CLOSED, CLOGGED };

static enum reluctance reluctance(const struct upstream_conn *uc)
{
    if (upstream_is_ready(uc))
        return pipeline_is_clogged(uc->pipeline) ? CLOGGED : FREE;
    return is_closed(uc) ? CLOSED : OPENING;
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
        if (uc->serial == keep && pipeline_owed(uc->pipeline) > 0) {
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
    if (!uc || (n > 0 && n < LANES_MAX && reluctance(uc) == CLOGGED)) {
        struct upstream_conn *more = new_conn(u, &u->conns, db, resp, slot);
        if (more)
            more->spare = uc != NULL;
        uc = more ? more : uc;
    }
    /* A database that was not there may be there after a restart: ask again. */
    if (uc && is_closed(uc) && breaker_is_closed(u->breaker))
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
        n += !is_closed(uc) && !upstream_is_ready(uc);
    return n;
}

static struct upstream_conn *open_private(struct upstream *u, uint32_t db, unsigned resp)
{
    struct upstream_conn *uc = NULL;
    if (u->n_private < u->options.private_max && n_opening(u) < OPENING_MAX)
        uc = new_conn(u, &u->privates, db, resp, 0);
    if (!uc)
        return NULL;
    uc->counted = true;
    u->n_private++;
    pipeline_error(uc->error, "-NEARCACHE the connection was closed");
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
    pipeline_set_holder(uc->pipeline, holder);
    uc->last_used = now_of(u);
    return uc;
}

void upstream_return(struct upstream_conn *uc)
{
    assert(uc->is_private && uc->holder);
    uc->holder = NULL;
    pipeline_set_holder(uc->pipeline, NULL);
    uc->last_used = now_of(uc->upstream);
    pipeline_release(uc->pipeline);
    if (is_closed(uc) || (uc->retiring && is_free(uc)))
        lay_down(uc);
    else if (is_free(uc))
        become_idle(uc);
}

void upstream_discard(struct upstream_conn *uc)
{
    assert(uc->is_private);
    uc->holder = NULL;
    pipeline_set_holder(uc->pipeline, NULL);
    lay_down(uc);
}

void upstream_settle(struct upstream_conn *uc)
{
    pipeline_settle(uc->pipeline);
}

void upstream_patience(struct upstream_conn *uc, int change)
{
    pipeline_patience(uc->pipeline, change);
}

void upstream_set_db(struct upstream_conn *uc, uint32_t db)
{
    uc->db = db;
}

void upstream_set_resp(struct upstream_conn *uc, unsigned resp)
{
    uc->resp = (uint8_t)resp;
    pipeline_set_resp(uc->pipeline, resp);
}

unsigned upstream_resp(const struct upstream_conn *uc)
{
    return uc->resp;
}

uint64_t upstream_client_id(const struct upstream_conn *uc)
{
    return upstream_is_ready(uc) ? pipeline_handshake(uc->pipeline)->id : 0;
}

bool upstream_owes(const struct upstream_conn *uc)
{
    return pipeline_owed(uc->pipeline) > 0;
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
    if (uc->is_private && !is_closed(uc)) /* it finds out for itself */
        return NULL;
    if (!breaker_is_closed(uc->upstream->breaker))
        return describe_refusal(uc->upstream);
    return is_closed(uc) ? uc->error : NULL; /* it was refused, or could not even be tried */
}

bool upstream_expect(struct upstream_conn *uc, void *owner, unsigned tag)
{
    uc->last_used = now_of(uc->upstream);
    uc->upstream->metrics->upstream_requests++;
    return pipeline_expect(uc->pipeline, owner, tag);
}

struct chain *upstream_out(struct upstream_conn *uc)
{
    return pipeline_out(uc->pipeline);
}

void upstream_sent(struct upstream_conn *uc)
{
    pipeline_sent(uc->pipeline);
}

bool upstream_has_others(const struct upstream_conn *uc)
{
    return pipeline_has_others(uc->pipeline);
}

bool upstream_hold(struct upstream_conn *uc)
{
    return pipeline_hold(uc->pipeline);
}

void upstream_release(struct upstream_conn *uc)
{
    pipeline_release(uc->pipeline);
}

/* --- time ---------------------------------------------------------------------------------------
 */

static void close_unused(struct upstream_conn *uc, uint64_t now)
{
    char error[PIPELINE_ERROR_MAX];
    bool unused = !is_home(uc) && !uc->holder && now > uc->last_used + IDLE_MAX;
    bool overdue = uc->retiring && !uc->is_private && now > uc->retiring_since + RETIRE_MAX;
    if (is_free(uc) && (unused || (uc->retiring && !uc->holder))) {
        lay_down(uc);
    } else if (overdue) {
        describe(uc->upstream, false, "its connection is being replaced", error);
        put_away(uc);
        pipeline_stop(uc->pipeline, error);
    }
}

static void tick_conn(struct upstream_conn *uc, uint64_t now)
{
    struct upstream *u = uc->upstream;
    const struct upstream_options *o = &u->options;
    if (is_closed(uc)) {
        if (is_home(uc) && now >= uc->reopen_at && breaker_is_closed(u->breaker))
            start(uc);
        return;
    }
    if (upstream_is_ready(uc))
        ask_for_proof(uc, now);
    pipeline_tick(uc->pipeline, uc->slot == UPSTREAM_SCAN_LANE ? o->scan_timeout : o->timeout,
                  u->heard, now);
    if (upstream_is_ready(uc))
        close_unused(uc, now);
}

static void free_conn(struct upstream_conn *uc)
{
    pipeline_free(uc->pipeline);
    free(uc);
}

/* A database that nobody uses any more, or that never was. */
static bool is_forgotten(const struct upstream_conn *uc)
{
    return !is_home(uc) && !uc->holder && is_closed(uc) && pipeline_owed(uc->pipeline) == 0;
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
    struct upstream_conn *uc = find_home(u);
    if (!uc)
        uc = new_conn(u, &u->conns, u->options.address->db, 2, 0);
    bool asked =
        uc && (!upstream_is_ready(uc) ||
               pipeline_ask(uc->pipeline, OUR_PROBE, (struct resp_slice[]){wire_text("PING")}, 1));
    if (!asked)
        trip(u, "out of memory", 0);
    else if (is_closed(uc))
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

static void take_options(struct upstream *u, const struct upstream_options *o)
{
    u->options = *o;
    u->pipelines = (struct pipeline_options){.address = o->address,
                                             .tls = o->tls,
                                             .client_name = o->client_name,
                                             .connect_timeout = o->connect_timeout,
                                             .handshake_timeout = o->handshake_timeout,
                                             .queue_timeout = o->queue_timeout,
                                             .frozen_timeout = o->scan_timeout};
}

struct upstream *upstream_new(struct loop *loop, const struct upstream_options *options,
                              const struct upstream_callbacks *callbacks, void *ctx,
                              struct log *log, struct metrics *metrics)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    u->loop = loop;
    u->callbacks = *callbacks;
    u->ctx = ctx;
    u->log = log;
    u->metrics = metrics;
    take_options(u, options);
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
    char error[PIPELINE_ERROR_MAX];
    pipeline_error(error, "-NEARCACHE shutting down");
    while (*list) {
        struct upstream_conn *uc = *list;
        put_away(uc);
        pipeline_stop(uc->pipeline, error);
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
    take_options(u, options);
    breaker_set_options(u->breaker, &options->breaker);
}

const char *upstream_state(const struct upstream *u)
{
    static const char *const names[] = {"idle", "connecting", "handshake", "up"};
    const struct upstream_conn *uc = find_home(u);
    if (!breaker_is_closed(u->breaker))
        return "down";
    return names[uc ? pipeline_state(uc->pipeline) : PIPELINE_IDLE];
}

void upstream_note_alive(struct upstream *u, uint64_t now)
{
    u->heard = now;
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
        n += pipeline_owed(uc->pipeline);
    for (const struct upstream_conn *uc = u->privates; uc; uc = uc->next)
        n += pipeline_owed(uc->pipeline);
    return n;
}

unsigned upstream_connected(const struct upstream *u)
{
    unsigned n = 0;
    for (const struct upstream_conn *uc = u->conns; uc; uc = uc->next)
        n += upstream_is_ready(uc);
    for (const struct upstream_conn *uc = u->privates; uc; uc = uc->next)
        n += upstream_is_ready(uc);
    return n;
}
