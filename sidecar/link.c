/* link.c - the invalidation link. */
#include "link.h"

#include <assert.h>
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backoff.h"
#include "notice.h"
#include "resp_read.h"

#define TRACKING_CHANNEL "__redis__:invalidate"
enum {
    PING_EVERY = 250, /* ms */
    RETRY_MIN = 50,   /* ms between attempts to connect, doubling */
    RETRY_MAX = 2000,
    SILENCE_MAX = 3000, /* ms without an answered PING before the connection is replaced */
    STEPS_MAX = 16,
    TEXT_MAX = TLS_ERROR_MAX,
};

/* IDLE -> CONNECTING -> ASKING -> SUBSCRIBING -> LIVE, and back to IDLE from all of them. */
enum link_state { LINK_IDLE, LINK_CONNECTING, LINK_ASKING, LINK_SUBSCRIBING, LINK_LIVE };

/* What others ask for. */
enum link_wish { WISH_NOTHING, WISH_RESTART, WISH_NO_TRACKING };

/* Replies awaited before the connection is in subscriber mode, in order. */
enum link_step { STEP_AUTH, STEP_SETNAME, STEP_INFO, STEP_COMMAND, STEP_ID, STEP_TRACKING };

struct link {
    struct loop *loop;
    struct link_options options;
    struct coherence *coherence;
    struct command_table *commands;
    struct log *log;
    struct metrics *metrics;
    _Atomic uint8_t state; /* others may look at this one .. */
    struct conn *conn;
    redisReader *reader;       /* until it subscribes; then .. */
    struct resp_framer framer; /* .. of the reply at hand .. */
    size_t framed;             /* .. so many bytes have been framed */
    uint8_t steps[STEPS_MAX];
    unsigned first_step, n_steps;
    unsigned acks_owed;    /* of SUBSCRIBE */
    _Atomic bool tracking; /* .. and this one */
    bool settled;
    bool tracking_refusal_told;
    uint64_t deadline, ping_sent, next_ping, answered, nonce, random;
    uint64_t id; /* CLIENT ID */
    uint64_t retry_at;
    struct backoff backoff;
    struct log_limit malformed;
    char version[32];
    char error[TEXT_MAX];
    pthread_t thread; /* the one that turns the loop */
    pthread_mutex_t wishes;
    enum link_wish wish; /* of another thread, for the next tick; with these under the lock */
    char wish_why[TEXT_MAX];
};

static void set_state(struct link *l, enum link_state to)
{
    assert(to == LINK_IDLE || (unsigned)to == l->state + 1U);
    l->state = (uint8_t)to;
}

/* --- the end of a connection --------------------------------------------------------------------
 */

static void free_reader(struct link *l)
{
    if (l->reader)
        redisReaderFree(l->reader);
    l->reader = NULL;
}

static void close_connection(struct link *l)
{
    if (l->conn)
        conn_close(l->conn);
    l->conn = NULL;
    free_reader(l);
}

/* 0: from now on they do not. */
static void have_upstreams_track(struct link *l, uint64_t redirect)
{
    workers_still_between(l->options.workers);
    for (size_t i = 0; i < l->options.n_upstreams; i++)
        upstream_track(l->options.upstreams[i], redirect);
    workers_go(l->options.workers);
}

static void fail(struct link *l, const char *why)
{
    bool was_live = l->state == LINK_LIVE;
    set_state(l, LINK_IDLE);
    coherence_link_down(l->coherence);
    have_upstreams_track(l, 0);
    assert(why);
    snprintf(l->error, sizeof l->error, "%.*s", (int)strcspn(why, "\r\n"), why);
    if (was_live)
        l->backoff.failures = 0;
    if (was_live || l->backoff.failures == 0)
        log_write(l->log, LOG_WARN, "link_lost", "upstream", l->options.address->label, "why",
                  l->error, NULL);
    l->retry_at = loop_now(l->loop) + backoff_next(&l->backoff, RETRY_MIN, RETRY_MAX);
    l->settled = true;
    close_connection(l);
}

/* --- sending ------------------------------------------------------------------------------------
 */

/* False: out of memory; the link has failed. */
static bool send_words(struct link *l, int argc, const char **argv, const size_t *lens)
{
    char *text = NULL;
    int n = (int)redisFormatCommandArgv(&text, argc, argv, lens);
    if (n < 0) {
        fail(l, "out of memory");
        return false;
    }
    chain_append(conn_out(l->conn), text, (size_t)n);
    redisFreeCommand(text);
    conn_send(l->conn);
    return true;
}

static bool ask(struct link *l, enum link_step step, int argc, const char **argv)
{
    assert(l->n_steps < STEPS_MAX);
    l->steps[l->n_steps++] = (uint8_t)step;
    return send_words(l, argc, argv, NULL);
}

static void send_ping(struct link *l)
{
    char nonce[32];
    l->random = l->random * 6364136223846793005u + 1442695040888963407u;
    l->nonce = l->random >> 1;
    l->ping_sent = monotonic_ms(); /* before it is sent, however long this turn has taken */
    l->next_ping = l->ping_sent + PING_EVERY;
    snprintf(nonce, sizeof nonce, "%llu", (unsigned long long)l->nonce);
    (void)send_words(l, 2, (const char *[]){"PING", nonce}, NULL);
}

static void subscribe(struct link *l)
{
    set_state(l, LINK_SUBSCRIBING);
    l->acks_owed = l->tracking ? 3 : 2;
    const char *words[] = {"SUBSCRIBE", NOTICE_CHANNEL, NOTICE_CHANNEL_L1, TRACKING_CHANNEL};
    if (send_words(l, 1 + (int)l->acks_owed, words, NULL))
        send_ping(l);
}

static void ask_for_tracking(struct link *l, long long id)
{
    char client[32];
    const struct resp_slice *prefix = &l->options.ns->prefix;
    bool all = l->options.has_l1;
    snprintf(client, sizeof client, "%lld", id);
    const char *argv[] = {"CLIENT", "TRACKING",  "ON", "REDIRECT", client, all ? "BCAST" : "OPTIN",
                          "PREFIX", prefix->data};
    const size_t lens[] = {6, 8, 2, 8, strlen(client), 5, 6, prefix->len};
    assert(l->n_steps < STEPS_MAX);
    l->steps[l->n_steps++] = STEP_TRACKING;
    (void)send_words(l, all && prefix->len ? 8 : 6, argv, lens);
}

/* --- what the upstream is -----------------------------------------------------------------------
 */

static void read_version(struct link *l, const redisReply *r)
{
    const char *at = r->type == REDIS_REPLY_STRING ? strstr(r->str, "redis_version:") : NULL;
    const char *valkey = at ? strstr(r->str, "valkey_version:") : NULL;
    const char *from = valkey ? valkey + strlen("valkey_version:") : at ? at + 14 : "unknown";
    snprintf(l->version, sizeof l->version, "%.*s", (int)strcspn(from, "\r\n"), from);
}

static bool is_text(const redisReply *r)
{
    return r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS;
}

/* The value after `name` in a flattened map. */
static const redisReply *member(const redisReply *map, const char *name)
{
    for (size_t i = 0; map && map->type == REDIS_REPLY_ARRAY && i + 1 < map->elements; i += 2)
        if (is_text(map->element[i]) && strcmp(map->element[i]->str, name) == 0)
            return map->element[i + 1];
    return NULL;
}

static int number_member(const redisReply *map, const char *name)
{
    const redisReply *r = member(map, name);
    return r && r->type == REDIS_REPLY_INTEGER ? (int)r->integer : 0;
}

static bool text_is(const redisReply *r, const char *text)
{
    return r && is_text(r) && strcmp(r->str, text) == 0;
}

static uint32_t read_flags(const redisReply *flags)
{
    static const struct {
        const char *name;
        uint32_t flag;
    } names[] = {{"write", COMMAND_FLAG_WRITE},
                 {"readonly", COMMAND_FLAG_READONLY},
                 {"blocking", COMMAND_FLAG_BLOCKING},
                 {"pubsub", COMMAND_FLAG_PUBSUB},
                 {"noscript", COMMAND_FLAG_NOSCRIPT},
                 {"admin", COMMAND_FLAG_ADMIN},
                 {"no_auth", COMMAND_FLAG_NO_AUTH},
                 {"no_multi", COMMAND_FLAG_NO_MULTI},
                 {"may_replicate", COMMAND_FLAG_MAY_REPLICATE},
                 {"movablekeys", COMMAND_FLAG_MOVABLEKEYS},
                 {"allow_busy", COMMAND_FLAG_ALLOW_BUSY}};
    uint32_t found = 0;
    for (size_t i = 0; i < flags->elements; i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            if (text_is(flags->element[i], names[k].name))
                found |= names[k].flag;
    return found;
}

static void read_begin(struct command_key_spec *s, const redisReply *begin)
{
    const redisReply *spec = member(begin, "spec");
    s->begin = COMMAND_BEGIN_UNKNOWN;
    if (text_is(member(begin, "type"), "index")) {
        s->begin = COMMAND_BEGIN_INDEX;
        s->index = number_member(spec, "index");
    } else if (text_is(member(begin, "type"), "keyword")) {
        const redisReply *word = member(spec, "keyword");
        s->begin = COMMAND_BEGIN_KEYWORD;
        s->keyword = word && is_text(word) ? word->str : "";
        s->index = number_member(spec, "startfrom");
    }
}

static void read_find(struct command_key_spec *s, const redisReply *find)
{
    const redisReply *spec = member(find, "spec");
    s->find = COMMAND_FIND_UNKNOWN;
    if (text_is(member(find, "type"), "range")) {
        s->find = COMMAND_FIND_RANGE;
        s->last = number_member(spec, "lastkey");
        s->step = number_member(spec, "keystep");
        s->limit = number_member(spec, "limit");
    } else if (text_is(member(find, "type"), "keynum")) {
        s->find = COMMAND_FIND_KEYNUM;
        s->keynum_index = number_member(spec, "keynumidx");
        s->first = number_member(spec, "firstkey");
        s->keystep = number_member(spec, "keystep");
    }
}

static uint8_t read_key_flags(const redisReply *flags)
{
    uint8_t found = 0;
    for (size_t i = 0; flags && flags->type == REDIS_REPLY_ARRAY && i < flags->elements; i++) {
        const redisReply *f = flags->element[i];
        if (text_is(f, "RO") || text_is(f, "RW"))
            found |= COMMAND_KEY_READ;
        if (text_is(f, "OW") || text_is(f, "RW") || text_is(f, "RM"))
            found |= COMMAND_KEY_WRITE;
        if (text_is(f, "not_key"))
            found |= COMMAND_KEY_NOT_KEY;
    }
    return found;
}

static bool is_incomplete(const redisReply *flags)
{
    for (size_t i = 0; flags && flags->type == REDIS_REPLY_ARRAY && i < flags->elements; i++)
        if (text_is(flags->element[i], "incomplete"))
            return true;
    return false;
}

static void read_specs(struct command *c, const redisReply *specs)
{
    for (size_t i = 0; i < specs->elements && c->n_specs < COMMAND_SPECS_MAX; i++) {
        const redisReply *r = specs->element[i];
        struct command_key_spec *s = &c->specs[c->n_specs++];
        s->flags = read_key_flags(member(r, "flags"));
        read_begin(s, member(r, "begin_search"));
        read_find(s, member(r, "find_keys"));
        bool more = c->n_specs == COMMAND_SPECS_MAX && i + 1 < specs->elements;
        if (more || is_incomplete(member(r, "flags"))) /* there are keys beside those it tells */
            s->find = COMMAND_FIND_UNKNOWN;
    }
}

/* Servers before 7.0 tell first key, last key and step only. */
static void read_legacy_keys(struct command *c, redisReply *const *e)
{
    if (e[3]->integer <= 0)
        return;
    c->n_specs = 1;
    c->specs[0] = (struct command_key_spec){
        .begin = COMMAND_BEGIN_INDEX,
        .find = COMMAND_FIND_RANGE,
        .flags = c->flags & COMMAND_FLAG_WRITE ? COMMAND_KEY_WRITE : COMMAND_KEY_READ,
        .index = (int)e[3]->integer,
        .last = (int)(e[4]->integer > 0 ? e[4]->integer - e[3]->integer : e[4]->integer),
        .step = (int)e[5]->integer};
}

static void learn(struct link *l, const redisReply *r)
{
    if (r->type != REDIS_REPLY_ARRAY || r->elements < 6 || !is_text(r->element[0]) ||
        r->element[2]->type != REDIS_REPLY_ARRAY)
        return;
    struct command c = {.name = r->element[0]->str,
                        .arity = (int)r->element[1]->integer,
                        .flags = read_flags(r->element[2])};
    if (r->elements > 8 && r->element[8]->type == REDIS_REPLY_ARRAY)
        read_specs(&c, r->element[8]);
    else
        read_legacy_keys(&c, r->element);
    if (!command_table_learn(l->commands, &c))
        log_write(l->log, LOG_DEBUG, "command_not_learned", "command", c.name, NULL);
    if (r->elements > 9 && r->element[9]->type == REDIS_REPLY_ARRAY)
        for (size_t i = 0; i < r->element[9]->elements; i++)
            learn(l, r->element[9]->element[i]);
}

static void learn_commands(struct link *l, const redisReply *r)
{
    if (r->type != REDIS_REPLY_ARRAY) {
        command_table_suppose_fields_expire(l->commands);
        log_write(l->log, LOG_INFO, "commands_not_learned", "why",
                  is_text(r) || r->type == REDIS_REPLY_ERROR ? r->str : "unexpected reply", NULL);
        return;
    }
    command_table_forget(l->commands);
    for (size_t i = 0; i < r->elements; i++)
        learn(l, r->element[i]);
}

/* --- replies before the subscription ------------------------------------------------------------
 */

/* True: it can't be lived with. */
static bool refuse_tracking(struct link *l, const char *why)
{
    l->tracking = false;
    if (l->options.tracking == TRACKING_ON)
        return true;
    if (!l->tracking_refusal_told)
        log_write(l->log, LOG_WARN, "tracking_refused", "why", why, "hint",
                  "running on cache:invalidate events and l1.ttl", NULL);
    l->tracking_refusal_told = true;
    return false;
}

static void tracking_reply(struct link *l, const redisReply *r)
{
    l->tracking = r->type != REDIS_REPLY_ERROR;
    if (!l->tracking && refuse_tracking(l, r->str))
        fail(l, r->str);
    else
        subscribe(l);
}

static void id_reply(struct link *l, const redisReply *r)
{
    bool known = r->type == REDIS_REPLY_INTEGER;
    l->id = known ? (uint64_t)r->integer : 0;
    if (l->options.tracking == TRACKING_ON && !known) {
        fail(l, "the server does not tell CLIENT ID, which tracking needs");
    } else if (l->options.tracking == TRACKING_OFF || !known) {
        subscribe(l);
    } else if (l->options.tracking_mode == TRACKING_MODE_OPTIN) {
        l->tracking = true; /* by the data connections */
        subscribe(l);
    } else {
        ask_for_tracking(l, r->integer);
    }
}

static void step_reply(struct link *l, const redisReply *r)
{
    if (l->first_step == l->n_steps) {
        fail(l, r->type == REDIS_REPLY_ERROR ? r->str : "unexpected reply");
        return;
    }
    enum link_step step = l->steps[l->first_step++];
    bool refused = r->type == REDIS_REPLY_ERROR;
    if (refused && (step == STEP_AUTH || strncmp(r->str, "NOAUTH", 6) == 0 ||
                    strncmp(r->str, "LOADING", 7) == 0)) {
        upstream_error_trim(r->str);
        fail(l, r->str);
        return;
    }
    switch (step) {
    case STEP_INFO:
        workers_still_between(l->options.workers);
        read_version(l, r);
        workers_go(l->options.workers);
        break;
    case STEP_COMMAND:
        workers_still_between(l->options.workers);
        learn_commands(l, r);
        workers_go(l->options.workers);
        break;
    case STEP_ID:
        id_reply(l, r);
        break;
    case STEP_TRACKING:
        tracking_reply(l, r);
        break;
    case STEP_AUTH:
    case STEP_SETNAME:
        break;
    }
}

/* --- messages -----------------------------------------------------------------------------------
 */

static void kill_key(void *ctx, struct resp_slice key)
{
    struct link *l = ctx;
    l->metrics->invalidations++;
    coherence_kill_key(l->coherence, key.data, key.len);
}

static void kill_prefix(void *ctx, struct resp_slice prefix)
{
    struct link *l = ctx;
    l->metrics->invalidations += coherence_kill_prefix(l->coherence, prefix.data, prefix.len);
}

static void malformed(struct link *l, struct resp_slice channel, const char *why)
{
    char count[24], name[64];
    l->metrics->events_malformed++;
    if (!log_limit_pass(&l->malformed, loop_now(l->loop), 1000))
        return;
    snprintf(name, sizeof name, "%.*s", (int)channel.len, channel.data);
    log_write(l->log, LOG_WARN, "event_malformed", "channel", name, "why", why, "total",
              log_number(count, l->metrics->events_malformed), NULL);
}

static bool is_nil(const struct resp_reader *r)
{
    size_t n = (size_t)(r->end - r->p);
    return n >= 5 && (memcmp(r->p, "*-1\r\n", 5) == 0 || memcmp(r->p, "$-1\r\n", 5) == 0);
}

/* What can't be read may have been about any key. */
static void kill_keys(struct link *l, struct resp_reader *r, size_t n)
{
    struct resp_slice full, name;
    for (; n > 0 && resp_read_bulk(r, &full); n--)
        if (namespace_strip(l->options.ns, full, &name))
            kill_key(l, name);
    if (n > 0)
        coherence_new_epoch(l->coherence);
}

/* Only an array of keys or nil comes from the server; a bulk string is somebody's PUBLISH. */
static void tracking_message(struct link *l, struct resp_slice channel, struct resp_reader r)
{
    size_t n;
    struct resp_slice forged;
    if (is_nil(&r) || (!RULE_IN_FORCE(RULE_FORGED_MESSAGE) && resp_read_bulk(&r, &forged))) {
        if (RULE_IN_FORCE(RULE_NIL_MESSAGE))
            coherence_new_epoch(l->coherence);
    } else if (resp_read_array(&r, &n)) {
        kill_keys(l, &r, n);
    } else {
        malformed(l, channel, "published by a client");
    }
}

static void message(struct link *l, struct resp_slice channel, struct resp_reader r)
{
    struct resp_slice payload;
    if (resp_slice_is(channel, TRACKING_CHANNEL)) {
        tracking_message(l, channel, r);
        return;
    }
    if (!resp_read_bulk(&r, &payload))
        return;
    const struct notice_sink sink = {.key = kill_key, .prefix = kill_prefix, .ctx = l};
    switch (notice_read(l->options.ns, l->options.service, l->options.origin, channel, payload,
                        &sink)) {
    case NOTICE_MALFORMED:
        malformed(l, channel, "not a JSON object with the strings service and key (or prefix)");
        break;
    case NOTICE_FOREIGN:
        l->metrics->events_foreign++;
        break;
    case NOTICE_OTHER_CHANNEL:
    case NOTICE_OWN:
    case NOTICE_KEYS:
        break;
    }
}

static void become_live(struct link *l)
{
    set_state(l, LINK_LIVE);
    l->backoff.failures = 0;
    l->settled = true;
    l->error[0] = '\0';
    /* Nobody fills by what was true before: that fills are tracked, for one. */
    workers_still_between(l->options.workers);
    coherence_link_up(l->coherence, l->ping_sent);
    if (link_tracks_fills(l))
        have_upstreams_track(l, l->id);
    workers_go(l->options.workers);
    log_write(l->log, LOG_INFO, "link_live", "upstream", l->options.address->label, "mode",
              link_mode(l), NULL);
}

/* All that tell of changes were alive then: this link, and what tracks for it. */
static uint64_t proven(const struct link *l)
{
    uint64_t least = l->ping_sent;
    if (!link_tracks_fills(l))
        return least;
    workers_still_between(l->options.workers);
    for (size_t i = 0; i < l->options.n_upstreams; i++) {
        uint64_t theirs = upstream_tracking_proof(l->options.upstreams[i]);
        least = theirs < least ? theirs : least;
    }
    workers_go(l->options.workers);
    return least;
}

/* Another nonce, -BUSY or anything else renews nothing. */
static void pong(struct link *l, struct resp_slice nonce)
{
    char expected[32];
    snprintf(expected, sizeof expected, "%llu", (unsigned long long)l->nonce);
    if (!resp_slice_is(nonce, expected))
        return;
    l->nonce = 0;
    l->answered = loop_now(l->loop);
    if (l->state == LINK_LIVE)
        coherence_renew(l->coherence,
                        RULE_IN_FORCE(RULE_PROOF_FROM_SEND) ? proven(l) : l->answered);
    else if (l->acks_owed == 0)
        become_live(l);
    else
        fail(l, "the server did not acknowledge the subscriptions");
}

/* The subscription is refused, or the PING met -BUSY. */
static void no_message(struct link *l, const char *p, size_t n)
{
    char why[TEXT_MAX];
    snprintf(why, sizeof why, "%.*s", (int)(n > 0 ? n - 1 : 0), p + 1);
    if (l->state == LINK_SUBSCRIBING)
        fail(l, *p == '-' ? why : "unexpected reply");
    else
        l->nonce = 0;
    if (!RULE_IN_FORCE(RULE_BUSY_IS_NO_PROOF))
        coherence_renew(l->coherence, l->ping_sent);
}

/* One whole reply. */
static void subscriber_reply(struct link *l, const char *p, size_t n)
{
    struct resp_reader r = {p, p + n};
    struct resp_slice kind, subject;
    size_t elements;
    if (!resp_read_array(&r, &elements) || elements < 2) {
        no_message(l, p, n);
        return;
    }
    if (!resp_read_bulk(&r, &kind) || !resp_read_bulk(&r, &subject))
        return;
    if (resp_slice_is(kind, "message") && elements == 3)
        message(l, subject, r);
    else if (resp_slice_is(kind, "pong"))
        pong(l, subject);
    else if (resp_slice_is(kind, "subscribe") && l->acks_owed > 0)
        l->acks_owed--;
}

/* --- the connection -----------------------------------------------------------------------------
 */

/* Messages come all the time, and are read where they lie; a long one is framed as it comes. */
static size_t take_messages(struct link *l, const char *p, size_t n)
{
    struct conn *conn = l->conn;
    size_t at = 0, used;
    for (;;) {
        enum resp_status status =
            resp_frame(&l->framer, p + at + l->framed, n - at - l->framed, &used);
        if (status == RESP_BAD) {
            fail(l, "what the server sends is no RESP");
            return n;
        }
        l->framed += used;
        if (status == RESP_MORE)
            return at;
        size_t len = l->framed;
        l->framed = 0;
        subscriber_reply(l, p + at, len);
        if (l->conn != conn)
            return n;
        at += len;
    }
}

/* What comes once, with hiredis. */
static void take_answers(struct link *l, const char *p, size_t n)
{
    const struct conn *conn = l->conn;
    if (redisReaderFeed(l->reader, p, n) != REDIS_OK) {
        fail(l, "out of memory");
        return;
    }
    while (l->conn == conn) {
        void *reply = NULL;
        if (redisReaderGetReply(l->reader, &reply) != REDIS_OK) {
            fail(l, l->reader->errstr);
            break;
        }
        if (!reply)
            break;
        if (l->state < LINK_SUBSCRIBING)
            step_reply(l, reply);
        else
            fail(l, "unexpected reply"); /* it has not been asked yet */
        freeReplyObject(reply);
    }
    if (l->conn == conn && l->state >= LINK_SUBSCRIBING)
        free_reader(l); /* its buffer still has room for COMMAND's reply */
}

static size_t on_bytes(void *ctx, const char *p, size_t n)
{
    struct link *l = ctx;
    for (size_t i = 0; i < l->options.n_upstreams; i++)
        upstream_note_alive(l->options.upstreams[i], loop_now(l->loop));
    if (l->state == LINK_ASKING && tls_is_record(p, n)) {
        fail(l, "it speaks TLS: use rediss:// instead of redis://");
        return n;
    }
    if (l->state >= LINK_SUBSCRIBING)
        return take_messages(l, p, n);
    take_answers(l, p, n);
    return n;
}

static void on_connected(void *ctx)
{
    struct link *l = ctx;
    const struct upstream_address *a = l->options.address;
    char name[192];
    snprintf(name, sizeof name, "nearcache:%s:link", l->options.service);
    set_state(l, LINK_ASKING);
    bool ok = true;
    if (a->password && a->user)
        ok = ask(l, STEP_AUTH, 3, (const char *[]){"AUTH", a->user, a->password});
    else if (a->password)
        ok = ask(l, STEP_AUTH, 2, (const char *[]){"AUTH", a->password});
    (void)(ok && ask(l, STEP_SETNAME, 3, (const char *[]){"CLIENT", "SETNAME", name}) &&
           ask(l, STEP_INFO, 2, (const char *[]){"INFO", "server"}) &&
           ask(l, STEP_COMMAND, 1, (const char *[]){"COMMAND"}) &&
           ask(l, STEP_ID, 2, (const char *[]){"CLIENT", "ID"}));
}

static void on_ended(void *ctx, bool eof, const char *why)
{
    (void)eof;
    fail(ctx, why);
}

static const struct conn_callbacks conn_callbacks = {
    .bytes = on_bytes, .connected = on_connected, .ended = on_ended};

static void start(struct link *l, uint64_t now)
{
    const struct upstream_address *a = l->options.address;
    set_state(l, LINK_CONNECTING);
    l->first_step = l->n_steps = 0;
    l->framer = (struct resp_framer){0};
    l->framed = 0;
    l->tracking = false;
    l->deadline = now + l->options.connect_timeout;
    l->answered = now;
    l->reader = redisReaderCreate();
    if (l->reader)
        l->reader->maxbuf =
            0; /* it would free its buffer for a new one, and abort without memory */
    l->conn = conn_connect(l->loop,
                           &(struct conn_target){.host = a->host,
                                                 .port = a->port,
                                                 .path = a->path,
                                                 .tls = l->options.tls,
                                                 .timeout = l->options.connect_timeout},
                           &conn_callbacks, l);
    if (!l->conn || !l->reader)
        fail(l, "out of memory");
}

static void take_wish(struct link *l)
{
    char why[TEXT_MAX];
    (void)pthread_mutex_lock(&l->wishes);
    enum link_wish wish = l->wish;
    l->wish = WISH_NOTHING;
    memcpy(why, l->wish_why, sizeof why);
    (void)pthread_mutex_unlock(&l->wishes);
    if (wish == WISH_RESTART && l->state != LINK_IDLE)
        fail(l, why);
    else if (wish == WISH_NO_TRACKING && link_tracks_fills(l) && refuse_tracking(l, why))
        fail(l, why);
}

static void make_wish(struct link *l, enum link_wish wish, const char *why)
{
    (void)pthread_mutex_lock(&l->wishes);
    l->wish = wish;
    snprintf(l->wish_why, sizeof l->wish_why, "%s", why);
    (void)pthread_mutex_unlock(&l->wishes);
    if (pthread_equal(l->thread, pthread_self()))
        take_wish(l);
}

void link_tick(struct link *l, uint64_t now)
{
    take_wish(l);
    if (l->state == LINK_IDLE && now >= l->retry_at)
        start(l, now);
    else if (l->state == LINK_LIVE && now > l->answered + SILENCE_MAX)
        fail(l, "PING was not answered for 3 s");
    else if (l->state == LINK_LIVE && now >= l->next_ping && l->nonce == 0)
        send_ping(l); /* one at a time: on a slow network every answer still counts */
    else if (l->state > LINK_IDLE && l->state < LINK_LIVE && now > l->deadline)
        fail(l, "no answer within upstream.connect_timeout");
}

/* --- life ---------------------------------------------------------------------------------------
 */

struct link *link_new(struct loop *loop, const struct link_options *options,
                      struct coherence *coherence, struct command_table *commands, struct log *log,
                      struct metrics *metrics)
{
    struct link *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->loop = loop;
    l->thread = pthread_self();
    (void)pthread_mutex_init(&l->wishes, NULL);
    l->options = *options;
    l->coherence = coherence;
    l->commands = commands;
    l->log = log;
    l->metrics = metrics;
    evutil_secure_rng_get_bytes(&l->random, sizeof l->random);
    l->backoff.random = l->random;
    memcpy(l->version, "unknown", sizeof "unknown");
    return l;
}

void link_free(struct link *l)
{
    if (!l)
        return;
    coherence_link_down(l->coherence);
    close_connection(l);
    (void)pthread_mutex_destroy(&l->wishes);
    free(l);
}

const char *link_mode(const struct link *l)
{
    if (l->state == LINK_LIVE)
        return l->tracking ? "tracking" : "events";
    return l->state == LINK_IDLE ? "down" : "connecting";
}

bool link_is_tracking(const struct link *l)
{
    return l->state == LINK_LIVE && l->tracking;
}

bool link_tracks_fills(const struct link *l)
{
    return l->tracking && l->options.tracking_mode == TRACKING_MODE_OPTIN;
}

void link_untracked(struct link *l, const char *refused)
{
    if (RULE_IN_FORCE(RULE_UNTRACKED))
        coherence_suspect(l->coherence);
    if (refused)
        make_wish(l, WISH_NO_TRACKING, refused);
}

void link_restart(struct link *l, const char *why)
{
    make_wish(l, WISH_RESTART, why);
}

const char *link_server_version(const struct link *l)
{
    return l->version;
}
const char *link_last_error(const struct link *l)
{
    return l->error;
}
bool link_settled(const struct link *l)
{
    return l->settled;
}
