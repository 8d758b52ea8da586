/* scoped.c - commands on the whole key space, kept to this service's namespace. */
#include "scoped.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forward.h"
#include "query.h"
#include "resp_read.h"
#include "wire.h"

#define SCAN_COUNT                                                                                 \
    "1000" /* keys looked at per step: well under a millisecond of the server's time */
enum {
    DBS_MAX = 16384,
    SEEN_MIN = 1024, /* slots of DBSIZE's memory .. */
    SEEN_MAX =
        1 << 21, /* .. which ends at a million keys, 16 MB: from there on it may count twice */
};

static const char FOREIGN[] =
    "-NEARCACHE the upstream's SCAN told a key that was not asked for\r\n";

/* --- forwarded with a pattern: SCAN and KEYS ----------------------------------------------------
 */

static struct request *expect(struct proxy *p, struct caller *c, struct upstream_conn *uc,
                              enum resp_keys kind)
{
    if (proxy_refused(p, c, uc))
        return NULL;
    struct request *r = request_new(c);
    if (!r) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return NULL;
    }
    r->source = uc;
    r->rewriter = resp_rewriter_new(kind, p->ns->prefix);
    if (r->rewriter && upstream_expect(uc, r, REPLY_FORWARD))
        return r;
    resp_rewriter_free(r->rewriter);
    r->rewriter = NULL;
    request_fail(r, UPSTREAM_NO_MEMORY);
    return NULL;
}

/* The server takes the last MATCH; every one gets the prefix. Without one we add our own. */
static void append_scan(const struct namespace *ns, struct chain *out,
                        const struct resp_slice *argv, size_t argc)
{
    bool match = false;
    for (size_t i = 2; i + 1 < argc; i += 2)
        match |= resp_word_is(argv[i], "match");
    bool add = !match && argc % 2 == 0; /* an odd option is a syntax error: let the server say so */
    wire_header(out, '*', argc + (add ? 2 : 0));
    for (size_t i = 0; i < argc; i++) {
        if (i >= 3 && i % 2 == 1 && resp_word_is(argv[i - 1], "match"))
            wire_bulk2(out, ns->glob, argv[i]);
        else
            wire_bulk(out, argv[i]);
    }
    if (add) {
        wire_bulk(out, wire_text("MATCH"));
        wire_bulk2(out, ns->glob, wire_text("*"));
    }
}

static void append_keys(const struct namespace *ns, struct chain *out, struct resp_slice pattern)
{
    wire_header(out, '*', 2);
    wire_bulk(out, wire_text("KEYS"));
    wire_bulk2(out, ns->glob, pattern);
}

void scoped_scan(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    struct upstream_conn *uc = proxy_lane(p, c, c->db);
    struct request *r = expect(p, c, uc, RESP_KEYS_SCAN);
    if (!r)
        return;
    struct chain *out = upstream_out(uc);
    size_t before = out->len;
    append_scan(p->ns, out, argv, argc);
    forward_sent(r, out->len - before);
}

static void run_keys(struct proxy *p, struct caller *c, struct resp_slice pattern)
{
    struct upstream_conn *uc = proxy_scan_lane(p, c->db, 2);
    struct request *r = expect(p, c, uc, RESP_KEYS_ALL);
    if (!r)
        return;
    r->exclusive = c->exclusive = true;
    append_keys(p->ns, upstream_out(uc), pattern);
    upstream_sent(uc);
}

/* --- walks --------------------------------------------------------------------------------------
 */

/* Hashes of the keys that a walk has met: SCAN may tell a key twice while the server's table
 * shrinks. Open addressing; 0 is a free slot. */
struct seen {
    uint64_t *v;
    size_t n, size; /* size: a power of two, at least twice n */
};

/* A walk over the namespace in one database after the other: SCAN, then what is done with the keys
 * found, then SCAN again, until the cursor is back at 0. */
struct walk {
    struct query query; /* first: a query is its walk */
    struct proxy *proxy;
    struct request *request;
    void (*keys)(struct walk *w, struct resp_reader keys, size_t n); /* of one step; must go on */
    void (*end)(struct walk *w);
    char cursor[24];
    uint32_t db;
    uint64_t count;
    struct seen seen;
    bool wrapped; /* RANDOMKEY: started somewhere, has passed 0 */
    bool flushes;
    uint32_t *dbs; /* still to be flushed */
    size_t n_dbs;
};

static void walk_free(struct walk *w)
{
    if (w->flushes) {
        forward_announce_all(w->proxy);
        coherence_write_all_end(w->proxy->coherence);
    }
    budget_give(&w->proxy->loop->budget, w->seen.size * sizeof *w->seen.v);
    free(w->seen.v);
    free(w->dbs);
    free(w);
}

static void walk_answer(struct walk *w, const char *reply, size_t n)
{
    struct request *r = w->request;
    walk_free(w);
    request_bytes(r, reply, n);
    request_done(r);
}

static void walk_fail(struct walk *w, const char *error)
{
    struct request *r = w->request;
    w->proxy->metrics->upstream_errors++;
    walk_free(w);
    request_fail(r, error);
}

/* True if the step went wrong, which ends the walk: lost, or refused in the server's own words. */
static bool step_failed(struct walk *w, const char *reply, size_t n, const char *error)
{
    if (error)
        walk_fail(w, error);
    else if (n && *reply == '-')
        walk_answer(w, reply, n);
    return error || (n && *reply == '-');
}

static void walk_send(struct walk *w, const struct resp_slice *argv, size_t argc,
                      void (*done)(struct query *q, const char *reply, size_t n, const char *error))
{
    w->query.done = done;
    query_send(&w->query, proxy_scan_lane(w->proxy, w->db, 2), argv, argc);
}

static void scan_done(struct query *q, const char *reply, size_t n, const char *error)
{
    struct walk *w = (struct walk *)q;
    struct resp_reader reader = {reply, reply + n};
    struct resp_slice cursor;
    size_t parts, keys;
    if (step_failed(w, reply, n, error))
        return;
    if (!resp_read_array(&reader, &parts) || parts != 2 || !resp_read_bulk(&reader, &cursor) ||
        cursor.len >= sizeof w->cursor || !resp_read_array(&reader, &keys)) {
        walk_fail(w, "-NEARCACHE the upstream's SCAN reply could not be read\r\n");
    } else {
        memcpy(w->cursor, cursor.data, cursor.len);
        w->cursor[cursor.len] = '\0';
        w->keys(w, reader, keys);
    }
}

static void walk_step(struct walk *w)
{
    const struct namespace *ns = w->proxy->ns;
    if (!w->request->caller && !w->flushes) { /* nobody waits for the answer any more */
        walk_fail(w, "");
        return;
    }
    char *pattern = malloc(ns->glob.len + 1);
    if (!pattern) {
        walk_fail(w, UPSTREAM_NO_MEMORY);
        return;
    }
    memcpy(pattern, ns->glob.data, ns->glob.len);
    pattern[ns->glob.len] = '*';
    walk_send(w,
              (struct resp_slice[]){wire_text("SCAN"),
                                    wire_text(w->cursor),
                                    wire_text("MATCH"),
                                    {pattern, ns->glob.len + 1},
                                    wire_text("COUNT"),
                                    wire_text(SCAN_COUNT)},
              6, scan_done);
    free(pattern);
}

static bool at_end(const struct walk *w)
{
    return strcmp(w->cursor, "0") == 0;
}

static void walk_on(struct walk *w)
{
    if (at_end(w))
        w->end(w);
    else
        walk_step(w);
}

static struct walk *walk_new(struct proxy *p, struct caller *c)
{
    struct walk *w = calloc(1, sizeof *w);
    struct request *r = w ? request_new(c) : NULL;
    if (!r) {
        free(w);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return NULL;
    }
    r->exclusive = c->exclusive = true;
    w->proxy = p;
    w->request = r;
    w->db = c->db;
    memcpy(w->cursor, "0", 2);
    return w;
}

/* --- DBSIZE -------------------------------------------------------------------------------------
 */

static uint64_t *slot_of(const struct seen *s, uint64_t hash)
{
    size_t i = hash & (s->size - 1);
    while (s->v[i] && s->v[i] != hash)
        i = (i + 1) & (s->size - 1);
    return &s->v[i];
}

/* False: there are too many, or is no memory for it; what is there stays. */
static bool grow_seen(struct seen *s, struct budget *budget)
{
    struct seen more = {.n = s->n, .size = s->size ? 2 * s->size : SEEN_MIN};
    if (more.size > SEEN_MAX || budget_is_tight(budget))
        return false;
    more.v = calloc(more.size, sizeof *more.v);
    if (!more.v)
        return false;
    budget_take(budget, (more.size - s->size) * sizeof *more.v);
    for (size_t i = 0; i < s->size; i++)
        if (s->v[i])
            *slot_of(&more, s->v[i]) = s->v[i];
    free(s->v);
    *s = more;
    return true;
}

/* True, too, where there is no more room to remember it. */
static bool is_first_sight(struct walk *w, struct resp_slice key)
{
    struct seen *s = &w->seen;
    uint64_t hash = coherence_hash(w->proxy->coherence, key.data, key.len) | 1;
    if (2 * s->n >= s->size && !grow_seen(s, &w->proxy->loop->budget))
        return !s->size || *slot_of(s, hash) != hash;
    uint64_t *slot = slot_of(s, hash);
    bool first = *slot != hash;
    *slot = hash;
    s->n += first;
    return first;
}

static void count_keys(struct walk *w, struct resp_reader keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct resp_slice key;
        if (!resp_read_bulk(&keys, &key)) {
            walk_fail(w, FOREIGN);
            return;
        }
        w->count += is_first_sight(w, key);
    }
    walk_on(w);
}

static void answer_count(struct walk *w)
{
    char reply[RESP_HEADER_MAX];
    walk_answer(w, reply, (size_t)(resp_put_integer(reply, (int64_t)w->count) - reply));
}

/* --- RANDOMKEY: SCAN from a random place, once around -------------------------------------------
 */

static uint64_t some_number(void)
{
    uint64_t x;
    evutil_secure_rng_get_bytes(&x, sizeof x);
    return x;
}

static void answer_key(struct walk *w, struct resp_slice full)
{
    struct resp_slice name;
    char *reply = malloc(RESP_HEADER_MAX + full.len + 2);
    if (!reply || !namespace_strip(w->proxy->ns, full, &name)) {
        walk_fail(w, reply ? FOREIGN : UPSTREAM_NO_MEMORY);
        free(reply);
        return;
    }
    walk_answer(w, reply, (size_t)(resp_put_bulk(reply, name) - reply));
    free(reply);
}

static void answer_none(struct walk *w)
{
    const struct caller *c = w->request->caller;
    const char *none = c && c->resp == 3 ? "_\r\n" : "$-1\r\n";
    walk_answer(w, none, strlen(none));
}

static void pick_key(struct walk *w, struct resp_reader keys, size_t n)
{
    struct resp_slice key = {0};
    size_t pick = n ? some_number() % n : 0;
    for (size_t i = 0; n && i <= pick; i++)
        if (!resp_read_bulk(&keys, &key))
            n = 0;
    if (n)
        answer_key(w, key);
    else if (at_end(w) && w->wrapped)
        answer_none(w);
    else {
        w->wrapped |= at_end(w);
        walk_step(w);
    }
}

/* --- FLUSHDB, FLUSHALL: SCAN and UNLINK ---------------------------------------------------------
 */

static void unlink_done(struct query *q, const char *reply, size_t n, const char *error)
{
    struct walk *w = (struct walk *)q;
    if (!step_failed(w, reply, n, error))
        walk_on(w);
}

static void unlink_keys(struct walk *w, struct resp_reader keys, size_t n)
{
    if (n == 0) {
        walk_on(w);
        return;
    }
    struct resp_slice *argv = calloc(n + 1, sizeof *argv);
    bool ok = argv != NULL;
    if (ok)
        argv[0] = wire_text("UNLINK");
    for (size_t i = 0; ok && i < n; i++) {
        struct resp_slice name;
        ok = resp_read_bulk(&keys, &argv[1 + i]) &&
             namespace_strip(w->proxy->ns, argv[1 + i], &name);
    }
    if (ok)
        walk_send(w, argv, n + 1, unlink_done);
    else
        walk_fail(w, argv ? FOREIGN : UPSTREAM_NO_MEMORY);
    free(argv);
}

static void next_db(struct walk *w)
{
    if (w->n_dbs == 0) {
        walk_answer(w, "+OK\r\n", 5);
        return;
    }
    w->db = w->dbs[--w->n_dbs];
    walk_step(w);
}

/* INFO keyspace: "db0:keys=1,...\r\n" for every database that has keys. */
static void keyspace_done(struct query *q, const char *reply, size_t n, const char *error)
{
    struct walk *w = (struct walk *)q;
    struct resp_reader reader = {reply, reply + n};
    struct resp_slice info;
    if (step_failed(w, reply, n, error))
        return;
    if (!resp_read_bulk(&reader, &info)) {
        walk_fail(w, "-NEARCACHE the upstream's INFO reply could not be read\r\n");
        return;
    }
    w->dbs = calloc(DBS_MAX, sizeof *w->dbs);
    if (!w->dbs) {
        walk_fail(w, UPSTREAM_NO_MEMORY);
        return;
    }
    const char *end = info.data + info.len;
    for (const char *line = info.data; line < end && w->n_dbs < DBS_MAX;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        if (stop - line > 3 && memcmp(line, "db", 2) == 0)
            w->dbs[w->n_dbs++] = (uint32_t)strtoul(line + 2, NULL, 10);
        line = stop + 1;
    }
    next_db(w);
}

static void start_flush(struct walk *w)
{
    w->flushes = true;
    w->keys = unlink_keys;
    w->end = next_db;
    coherence_write_all_begin(w->proxy->coherence);
}

static void flush_all(struct walk *w)
{
    start_flush(w);
    walk_send(w, (struct resp_slice[]){wire_text("INFO"), wire_text("keyspace")}, 2, keyspace_done);
}

static bool flush_syntax(const struct resp_slice *argv, size_t argc)
{
    return argc == 1 ||
           (argc == 2 && (resp_word_is(argv[1], "async") || resp_word_is(argv[1], "sync")));
}

static void run_flush(struct proxy *p, struct caller *c, bool all, const struct resp_slice *argv,
                      size_t argc)
{
    if (!flush_syntax(argv, argc)) {
        caller_answer_error(c, "ERR syntax error");
        return;
    }
    struct walk *w = walk_new(p, c);
    if (!w)
        return;
    if (all) {
        flush_all(w);
        return;
    }
    start_flush(w);
    walk_step(w);
}

/* --- in a transaction ---------------------------------------------------------------------------
 */

/* Walks that are one command: nothing can come in between, and for as long the server does nothing
 * else. ARGV[1]: the pattern; ARGV[2]: a random number. */
#define EACH_KEY(body)                                                                             \
    "local c='0' repeat local r=redis.call('SCAN',c,'MATCH',ARGV[1],'COUNT',1000) c=r[1] "         \
    "for _,k in ipairs(r[2]) do " body " end until c=='0' "

static const char COUNT_SCRIPT[] = "local n=0 " EACH_KEY("n=n+1") "return n";
static const char RANDOM_SCRIPT[] =
    "local t={} " EACH_KEY("t[#t+1]=k") "return #t>0 and t[1+ARGV[2]%#t]";
static const char FLUSHDB_SCRIPT[] =
    EACH_KEY("redis.call('UNLINK',k)") "return redis.status_reply('OK')";
static const char FLUSHALL_SCRIPT[] =
    "for db in redis.call('INFO','keyspace'):gmatch('db(%d+):') do "
    "redis.call('SELECT',db) " EACH_KEY(
        "redis.call('UNLINK',k)") "end return redis.status_reply('OK')";

/* What Redis says; were it sent the words that we don't understand, a newer one might. */
static const char SYNTAX_SCRIPT[] = "return redis.error_reply('ERR syntax error')";

static const char *script_of(uint16_t id)
{
    switch (id) {
    case COMMAND_ID_DBSIZE:
        return COUNT_SCRIPT;
    case COMMAND_ID_RANDOMKEY:
        return RANDOM_SCRIPT;
    case COMMAND_ID_FLUSHDB:
        return FLUSHDB_SCRIPT;
    default:
        assert(id == COMMAND_ID_FLUSHALL);
        return FLUSHALL_SCRIPT;
    }
}

static void append_script(const struct namespace *ns, struct chain *out, const char *script)
{
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)(some_number() >> 16));
    wire_header(out, '*', 5);
    wire_bulk(out, wire_text("EVAL"));
    wire_bulk(out, wire_text(script));
    wire_bulk(out, wire_text("0"));
    wire_bulk2(out, ns->glob, wire_text("*"));
    wire_bulk(out, wire_text(number));
}

void scoped_append(struct proxy *p, struct chain *out, uint16_t id, const struct resp_slice *argv,
                   size_t argc)
{
    bool flush = id == COMMAND_ID_FLUSHDB || id == COMMAND_ID_FLUSHALL;
    if (id == COMMAND_ID_SCAN)
        append_scan(p->ns, out, argv, argc);
    else if (id == COMMAND_ID_KEYS)
        append_keys(p->ns, out, argv[1]);
    else if (flush && !flush_syntax(argv, argc))
        append_script(p->ns, out, SYNTAX_SCRIPT);
    else
        append_script(p->ns, out, script_of(id));
}

/* --- dispatch -----------------------------------------------------------------------------------
 */

static void run_dbsize(struct proxy *p, struct caller *c)
{
    struct walk *w = walk_new(p, c);
    if (!w)
        return;
    w->keys = count_keys;
    w->end = answer_count;
    walk_step(w);
}

static void run_randomkey(struct proxy *p, struct caller *c)
{
    struct walk *w = walk_new(p, c);
    if (!w)
        return;
    w->keys = pick_key;
    snprintf(w->cursor, sizeof w->cursor, "%llu", (unsigned long long)(some_number() >> 1));
    walk_step(w);
}

void scoped_run(struct proxy *p, struct caller *c, uint16_t id, const struct resp_slice *argv,
                size_t argc)
{
    switch (id) {
    case COMMAND_ID_KEYS:
        run_keys(p, c, argv[1]);
        break;
    case COMMAND_ID_DBSIZE:
        run_dbsize(p, c);
        break;
    case COMMAND_ID_RANDOMKEY:
        run_randomkey(p, c);
        break;
    case COMMAND_ID_FLUSHDB:
        run_flush(p, c, false, argv, argc);
        break;
    default:
        assert(id == COMMAND_ID_FLUSHALL);
        run_flush(p, c, true, argv, argc);
        break;
    }
}
