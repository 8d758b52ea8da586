/* model.c - what each client may be shown. */
#include "model.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "resp_read.h"
#include "tls.h"
#include "wrong.h"

/* --- what is known to be so new -----------------------------------------------------------------
 */

static uint64_t known_version(const struct known_list *list, uint64_t what, uint32_t db)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i].what == what && list->v[i].db == db)
            return list->v[i].version;
    return 0;
}

static void know(struct known_list *list, uint64_t what, uint32_t db, uint64_t version)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i].what == what && list->v[i].db == db) {
            if (list->v[i].version < version)
                list->v[i].version = version;
            return;
        }
    if (list->n == list->cap) {
        list->cap = list->cap ? 2 * list->cap : 16;
        list->v = memory_resize(list->v, list->cap * sizeof *list->v);
    }
    list->v[list->n++] = (struct known){what, version, db};
}

/* --- life ---------------------------------------------------------------------------------------
 */

void model_init(struct model *m, struct redis *redis, const struct command_table *commands)
{
    *m = (struct model){.redis = redis, .commands = commands};
}

void model_free(struct model *m)
{
    command_keys_free(&m->keys);
    resp_args_free(&m->args);
    free(m->shown.v);
}

struct person *person_new(struct model *m, struct peer *peer, unsigned slot)
{
    struct person *c = memory_new(sizeof *c);
    c->model = m;
    c->peer = peer;
    c->slot = slot;
    c->resp = 2;
    STAILQ_INIT(&c->wants);
    STAILQ_INIT(&c->queued);
    peer->owner = c;
    return c;
}

static void want_free(struct want *w)
{
    free(w->floors);
    free(w);
}

static void free_wants(struct want_list *list)
{
    struct want *w;
    while ((w = STAILQ_FIRST(list))) {
        STAILQ_REMOVE_HEAD(list, entry);
        want_free(w);
    }
}

void person_free(struct person *c)
{
    free_wants(&c->wants);
    free_wants(&c->queued);
    buffer_free(&c->said);
    buffer_free(&c->shown);
    free(c->known.v);
    c->peer->owner = NULL;
    free(c);
}

/* --- what is asked for --------------------------------------------------------------------------
 */

/* The name of a key at the server; malloc'ed. */
static struct resp_slice full_name(const struct model *m, struct resp_slice key)
{
    struct resp_slice prefix = m->redis->prefix;
    char *text = memory_new(prefix.len + key.len + 1);
    if (prefix.len)
        memcpy(text, prefix.data, prefix.len);
    if (key.len)
        memcpy(text + prefix.len, key.data, key.len);
    return (struct resp_slice){text, prefix.len + key.len};
}

static const struct record *find_record(const struct model *m, uint32_t db, struct resp_slice full)
{
    const struct store *s = &m->redis->store;
    for (size_t i = 0; i < s->n; i++)
        if (s->records[i].db == db &&
            slice_equal((struct resp_slice){s->records[i].name, s->records[i].name_len}, full))
            return &s->records[i];
    return NULL;
}

/* A write of the key has another name than a read of it. */
static uint64_t written(uint64_t what)
{
    return ~what;
}

/* Nothing older than this may be shown of the key to whom asks now. */
static void note_floors(const struct model *m, struct resp_slice key, uint64_t what,
                        uint64_t floors[DBS])
{
    struct resp_slice full = full_name(m, key);
    uint64_t now = net_now(), time = now > m->bound ? now - m->bound : 0;
    for (uint32_t db = 0; db < DBS; db++) {
        const struct record *r = find_record(m, db, full);
        uint64_t seen = known_version(&m->shown, what, db);
        floors[db] = r ? store_floor(r, time) : 0;
        if (floors[db] < seen)
            floors[db] = seen;
    }
    free((char *)full.data);
}

static uint64_t key_hash(const struct model *m, struct resp_slice key)
{
    return slice_hash(key, slice_hash(m->redis->prefix, HASH_START));
}

static uint64_t want_hash(struct model *m, const struct want *w)
{
    enum command_keys_status status = command_list_keys(w->command, w->argv, w->argc, &m->keys);
    assert(status == COMMAND_KEYS_OK);
    return answer_hash(w->argv, w->argc, m->redis->prefix, &m->keys);
}

/* Replies of one version of RESP are kept apart from those of the other, but for GET's. */
static uint64_t view_hash(const struct person *c, uint64_t what)
{
    return what + c->resp;
}

static void note_values(const struct person *c, struct want *w)
{
    w->floors = memory_new((w->argc - 1) * sizeof *w->floors);
    for (size_t i = 1; i < w->argc; i++)
        note_floors(c->model, w->argv[i], key_hash(c->model, w->argv[i]), w->floors[i - 1]);
}

static void note_generic(const struct person *c, struct want *w)
{
    w->floors = memory_new(sizeof *w->floors);
    if (w->command->cacheable)
        note_floors(c->model, w->argv[1], view_hash(c, want_hash(c->model, w)), w->floors[0]);
}

static enum want_kind confirmations(const struct command *command)
{
    switch (command->id) {
    case COMMAND_ID_SUBSCRIBE:
    case COMMAND_ID_PSUBSCRIBE:
    case COMMAND_ID_SSUBSCRIBE:
    case COMMAND_ID_UNSUBSCRIBE:
    case COMMAND_ID_PUNSUBSCRIBE:
    case COMMAND_ID_SUNSUBSCRIBE:
        return WANT_CONFIRM;
    default:
        return WANT_ANY;
    }
}

static bool is_plain(struct model *m, const struct want *w)
{
    enum command_class class = w->command->class_;
    return class != COMMAND_LOCAL && class != COMMAND_SCOPED && answer_is_generic(w->command) &&
           command_list_keys(w->command, w->argv, w->argc, &m->keys) == COMMAND_KEYS_OK;
}

static enum want_kind kind_of(struct model *m, const struct want *w)
{
    if (!w->command || !command_arity_ok(w->command, w->argc))
        return WANT_ANY;
    switch (w->command->id) {
    case COMMAND_ID_GET:
    case COMMAND_ID_MGET:
        return WANT_VALUES;
    case COMMAND_ID_ECHO:
        return WANT_BULK;
    case COMMAND_ID_SET:
        return w->argc == 3 ? WANT_OK : WANT_ANY;
    case COMMAND_ID_MSET:
        return w->argc % 2 ? WANT_OK : WANT_ANY;
    case COMMAND_ID_EXEC:
        return WANT_EXEC;
    default:
        return is_plain(m, w) ? WANT_GENERIC : confirmations(w->command);
    }
}

static bool is_sure(const struct person *c, const struct want *w)
{
    bool safe = w->kind == WANT_VALUES || w->kind == WANT_BULK || w->kind == WANT_OK;
    return safe && !c->session && !c->pubsub && !c->in_multi && !c->model->pauses;
}

/* A read may join one whose reply was under way when it was asked: the value was right then. */
static uint64_t oldest_reply(const struct redis *r)
{
    const struct redis_conn *conn;
    uint64_t oldest = net_now();
    TAILQ_FOREACH(conn, &r->conns, entry)
    {
        if (conn->peer->in.len && conn->peer->since < oldest)
            oldest = conn->peer->since;
    }
    return oldest;
}

static struct want *want_new(const struct person *c, const struct resp_slice *argv, size_t argc)
{
    size_t bytes = 0;
    for (size_t i = 0; i < argc; i++)
        bytes += argv[i].len;
    struct want *w = memory_new(sizeof *w + argc * sizeof *w->argv + bytes);
    w->argc = argc;
    w->argv = (struct resp_slice *)(w + 1);
    char *text = (char *)(w->argv + argc);
    for (size_t i = 0; i < argc; i++) {
        w->argv[i] = (struct resp_slice){text, argv[i].len};
        if (argv[i].len)
            memcpy(text, argv[i].data, argv[i].len);
        text += argv[i].len;
    }
    w->command = command_find(c->model->commands, argv, argc);
    w->asked = oldest_reply(c->model->redis);
    w->kind = kind_of(c->model, w);
    w->left = argc - 1;
    return w;
}

/* --- what it does to the client -----------------------------------------------------------------
 */

static bool is(const struct want *w, size_t i, const char *lower)
{
    return i < w->argc && resp_word_is(w->argv[i], lower);
}

/* CLIENT REPLY. True: it is not answered. */
static bool take_reply_mode(struct person *c, const struct want *w)
{
    c->loose |= c->in_multi || c->pubsub; /* the server may refuse it */
    if (w->argc != 3)
        return c->reply_off;
    if (is(w, 2, "on"))
        c->reply_off = c->skip = false;
    else if (is(w, 2, "off"))
        c->reply_off = true;
    else if (is(w, 2, "skip"))
        c->skip_next = !c->reply_off;
    return c->reply_off || c->skip || is(w, 2, "skip");
}

static void take_client(struct person *c, const struct want *w)
{
    struct model *m = c->model;
    m->kills |= is(w, 1, "kill");
    m->pauses |= is(w, 1, "pause");
    c->session |= is(w, 1, "tracking") || is(w, 1, "caching") || is(w, 1, "trackinginfo");
    c->pubsub |= c->session;
}

static void take_multi(struct person *c, struct want *w)
{
    bool arity = command_arity_ok(w->command, w->argc);
    if (w->command->id == COMMAND_ID_MULTI && arity) {
        w->in_multi = false;
        c->in_multi = true;
    } else if (w->command->id == COMMAND_ID_EXEC || arity) {
        w->in_multi = false;
        w->kind = w->command->id == COMMAND_ID_EXEC ? WANT_EXEC : WANT_ANY;
        c->in_multi = false;
    }
}

/* What changes how later replies are to be read. */
static void take_effect(struct person *c, struct want *w)
{
    switch (w->command->id) {
    case COMMAND_ID_MULTI:
    case COMMAND_ID_EXEC:
    case COMMAND_ID_DISCARD:
        take_multi(c, w);
        break;
    case COMMAND_ID_MONITOR:
        c->loose = c->unsure = true;
        break;
    case COMMAND_ID_HELLO:
        c->loose |= c->in_multi;
        break;
    case COMMAND_ID_RESET:
        c->loose |= c->skip || c->skip_next || c->reply_off || c->in_multi;
        w->in_multi = c->in_multi = false;
        break;
    case COMMAND_ID_QUIT:
        w->in_multi = false;
        c->quits = true;
        break;
    default:
        break;
    }
    if (w->kind == WANT_CONFIRM) {
        c->pubsub = true;
        c->loose |= c->in_multi || c->reply_off || c->skip;
        if (w->argc == 1)
            w->left = 0;
    }
    c->session |= w->command->class_ == COMMAND_SESSION || is(w, 0, "xread") || /* may block */
                  is(w, 0, "xreadgroup");
    if (is(w, 0, "client"))
        take_client(c, w);
}

static void add_want(struct person *c, const struct resp_slice *argv, size_t argc)
{
    struct want *w = want_new(c, argv, argc);
    c->skip = c->skip_next;
    c->skip_next = false;
    w->in_multi = c->in_multi;
    bool muted = c->reply_off || c->skip;
    if (w->command)
        take_effect(c, w);
    if (w->command && w->command->id == COMMAND_ID_CLIENT_REPLY)
        muted = take_reply_mode(c, w);
    /* was it refused? */
    c->loose |= muted && w->command && w->command->id == COMMAND_ID_MULTI;
    c->unsure |= muted && w->command && w->command->id == COMMAND_ID_WATCH;
    if (muted || c->loose) {
        want_free(w);
        return;
    }
    w->sure = is_sure(c, w);
    if (w->kind == WANT_VALUES)
        note_values(c, w);
    else if (w->kind == WANT_GENERIC)
        note_generic(c, w);
    STAILQ_INSERT_TAIL(&c->wants, w, entry);
    c->n_wants++;
}

void person_said(struct person *c, const char *p, size_t n)
{
    const struct resp_limits limits = {.max_bulk = 512LL * 1024 * 1024, .authenticated = true};
    struct model *m = c->model;
    char error[RESP_ERROR_MAX];
    buffer_add(&c->said, p, n);
    c->unsure |= tls_is_record(c->said.data, c->said.len); /* if it is the first that it says */
    while (c->said.len && !c->quits) {
        size_t used;
        resp_args_reset(&m->args);
        enum resp_status status = resp_request_parse(&c->parser, &limits, c->said.data, c->said.len,
                                                     &m->args, &used, error);
        if (status == RESP_MORE)
            break;
        if (status == RESP_BAD) { /* one error more, then it is over */
            c->quits = c->unsure = true;
            c->loose = true;
            break;
        }
        trace_command("  says", c->slot, m->args.v, m->args.n);
        if (m->args.n)
            add_want(c, m->args.v, m->args.n);
        buffer_drop(&c->said, used);
    }
    c->unsure |= c->said.len > QUERY_MAX;
    resp_args_reset(&m->args);
}

/* --- replies ------------------------------------------------------------------------------------
 */

static bool is_text(struct resp_slice frame, const char *text)
{
    return frame.len == strlen(text) && memcmp(frame.data, text, frame.len) == 0;
}

static bool is_error(struct resp_slice frame)
{
    return frame.data[0] == '-' || frame.data[0] == '!';
}

static bool is_nil(struct resp_slice frame)
{
    return is_text(frame, "$-1\r\n") || is_text(frame, "_\r\n") || is_text(frame, "*-1\r\n");
}

static bool lies(const struct person *c)
{
    return c->model->redis->lied;
}

/* Takes the next element. */
static struct resp_slice next_frame(struct resp_reader *r)
{
    struct resp_framer framer = {0};
    size_t used = 0;
    enum resp_status status = resp_frame(&framer, r->p, (size_t)(r->end - r->p), &used);
    if (status != RESP_DONE)
        wrong("an element is no RESP");
    r->p += used;
    return (struct resp_slice){r->p - used, used};
}

static __attribute__((noreturn)) void complain(const struct person *c, const struct want *w,
                                               struct resp_slice frame, const char *what)
{
    wrong("client %u: %s: %.*s (%zu arguments) is answered %.*s", c->slot, what,
          (int)w->argv[0].len, w->argv[0].data, w->argc, (int)(frame.len < 200 ? frame.len : 200),
          frame.data);
}

static uint64_t floor_of(const struct person *c, const struct want *w, size_t i, uint64_t key,
                         uint64_t what)
{
    uint64_t floor = c->db < DBS ? w->floors[i][c->db] : 0;
    uint64_t own = known_version(&c->known, written(key), c->db);
    uint64_t seen = known_version(&c->known, what, c->db);
    floor = floor > own ? floor : own;
    return floor > seen ? floor : seen;
}

static void note_shown(struct person *c, uint64_t what, uint64_t version)
{
    know(&c->known, what, c->db, version);
    know(&c->model->shown, what, c->db, version);
}

/* A value of the key, or of a read of it. */
static void check_seen(struct person *c, const struct want *w, struct resp_slice frame,
                       const struct seen *seen, uint64_t floor)
{
    if (seen->db != c->db)
        complain(c, w, frame, "another database's value");
    if (c->model->stale && c->model->trouble)
        return;
    if (seen->version < floor)
        complain(c, w, frame, "a stale value");
    if (seen->expires && seen->expires < w->asked)
        complain(c, w, frame, "an expired value");
}

static void check_absent(const struct person *c, const struct want *w, struct resp_slice frame,
                         struct resp_slice key, uint64_t floor)
{
    struct resp_slice full = full_name(c->model, key);
    const struct record *r = find_record(c->model, c->db, full);
    bool stale = c->model->stale && c->model->trouble;
    if (r && !stale && c->db < DBS && !store_was_absent(r, floor, net_now()))
        complain(c, w, frame, "a key is there, and was not said to be");
    free((char *)full.data);
}

static void check_value(struct person *c, const struct want *w, size_t i, struct resp_slice frame)
{
    struct resp_slice key = w->argv[i + 1], text;
    struct resp_reader r = {frame.data, frame.data + frame.len};
    struct seen seen;
    uint64_t hash = key_hash(c->model, key), floor = floor_of(c, w, i, hash, hash);
    if (is_nil(frame)) {
        check_absent(c, w, frame, key, floor);
        return;
    }
    if (!resp_read_bulk(&r, &text) || !store_read_value(text, 'v', &seen) || seen.what != hash)
        complain(c, w, frame, "not its value");
    check_seen(c, w, frame, &seen, floor);
    note_shown(c, hash, seen.version);
}

static void check_values(struct person *c, const struct want *w, struct resp_slice frame)
{
    struct resp_reader r = {frame.data, frame.data + frame.len};
    size_t n;
    if (w->command->id == COMMAND_ID_GET) {
        check_value(c, w, 0, frame);
        return;
    }
    if (!resp_read_array(&r, &n) || n != w->argc - 1)
        complain(c, w, frame, "not as many values");
    for (size_t i = 0; i < n; i++)
        check_value(c, w, i, next_frame(&r));
}

/* The forms of "it is not there". */
static bool may_say_absent(struct resp_slice frame)
{
    return is_nil(frame) || is_text(frame, ":0\r\n") || is_text(frame, "+none\r\n") ||
           is_text(frame, "$0\r\n\r\n") || frame.data[0] == '*';
}

/* What the write has changed is known to have been. */
static void acknowledge(struct person *c, const struct want *w, uint64_t version)
{
    struct model *m = c->model;
    struct store *s = &m->redis->store;
    if (command_list_keys(w->command, w->argv, w->argc, &m->keys) != COMMAND_KEYS_OK)
        return;
    for (size_t i = 0; i < s->n && m->keys.n == 0; i++)
        (void)store_acknowledge(&s->records[i], version);
    for (size_t i = 0; i < m->keys.n; i++) {
        struct resp_slice full = full_name(m, w->argv[m->keys.v[i].arg]);
        struct record *r = (struct record *)find_record(m, c->db, full);
        if (r && m->keys.v[i].flags & COMMAND_KEY_WRITE)
            know(&c->known, written(slice_hash(full, HASH_START)), c->db,
                 store_acknowledge(r, version));
        free((char *)full.data);
    }
}

static void check_generic(struct person *c, const struct want *w, struct resp_slice frame)
{
    struct resp_reader r = {frame.data, frame.data + frame.len};
    struct resp_slice text;
    struct seen seen;
    uint64_t hash = want_hash(c->model, w), what = view_hash(c, hash), floor = 0;
    bool kept = w->command->cacheable && w->argc > 1;
    if (kept)
        floor = floor_of(c, w, 0, key_hash(c->model, w->argv[1]), what);
    if (kept && may_say_absent(frame)) {
        check_absent(c, w, frame, w->argv[1], floor);
        return;
    }
    if (!resp_read_bulk(&r, &text) || !store_read_value(text, 'r', &seen) || seen.what != hash)
        complain(c, w, frame, "not its reply");
    check_seen(c, w, frame, &seen, floor);
    if (kept)
        note_shown(c, what, seen.version);
    if (answer_is_write(w->command))
        acknowledge(c, w, seen.version);
}

/* SET or MSET has been done. */
static void check_ok(struct person *c, const struct want *w, struct resp_slice frame)
{
    if (!is_text(frame, "+OK\r\n"))
        complain(c, w, frame, "not its reply");
    for (size_t i = 1; i + 1 < w->argc; i += 2) {
        struct resp_slice full = full_name(c->model, w->argv[i]);
        struct record *r = (struct record *)find_record(c->model, c->db, full);
        if (r)
            know(&c->known, written(slice_hash(full, HASH_START)), c->db,
                 store_acknowledge(r, store_find_nonce(r, slice_hash(w->argv[i + 1], HASH_START))));
        free((char *)full.data);
    }
}

static void check_bulk(const struct person *c, const struct want *w, struct resp_slice frame)
{
    struct resp_reader r = {frame.data, frame.data + frame.len};
    struct resp_slice text;
    if (!resp_read_bulk(&r, &text) || !slice_equal(text, w->argv[1]))
        complain(c, w, frame, "not its echo");
}

static void follow(struct person *c, const struct want *w, struct resp_slice frame)
{
    int64_t n;
    if (!w->command)
        return;
    if (w->command->id == COMMAND_ID_SELECT && is_text(frame, "+OK\r\n") &&
        resp_parse_int(w->argv[1], &n))
        c->db = (uint32_t)n;
    if (w->command->id == COMMAND_ID_HELLO && w->argc > 1 && resp_parse_int(w->argv[1], &n))
        c->resp = (uint8_t)n;
    if (c->resp == 3 && c->model->redis->knows_no_hello)
        c->model->trouble = true; /* it can't serve such a client */
    if (w->command->id == COMMAND_ID_RESET && is_text(frame, "+RESET\r\n")) {
        c->resp = 2;
        c->db = 0;
        memset(c->n_subscribed, 0, sizeof c->n_subscribed);
    }
    if (w->command->id == COMMAND_ID_MULTI)
        c->multi_refused = false;
}

static void check_exec(struct person *c, const struct want *w, struct resp_slice frame);

static void check_reply(struct person *c, const struct want *w, struct resp_slice frame)
{
    if (is_error(frame)) {
        if (w->sure && !c->model->trouble && !lies(c))
            complain(c, w, frame, "refused");
        c->multi_refused |= w->command && w->command->id == COMMAND_ID_MULTI;
        return;
    }
    follow(c, w, frame);
    if (lies(c))
        return;
    if (c->resp == 2 && !strchr("+-:$*", frame.data[0]))
        complain(c, w, frame, "not RESP2");
    switch (w->kind) {
    case WANT_ANY:
    case WANT_CONFIRM:
        break;
    case WANT_OK:
        check_ok(c, w, frame);
        break;
    case WANT_BULK:
        check_bulk(c, w, frame);
        break;
    case WANT_VALUES:
        check_values(c, w, frame);
        break;
    case WANT_GENERIC:
        check_generic(c, w, frame);
        break;
    case WANT_EXEC:
        check_exec(c, w, frame);
        break;
    }
}

static void check_exec(struct person *c, const struct want *w, struct resp_slice frame)
{
    struct resp_reader r = {frame.data, frame.data + frame.len};
    struct want_list queued = c->queued;
    struct want *element;
    size_t n, wanted = 0;
    if (is_nil(frame))
        return;
    STAILQ_FOREACH(element, &queued, entry) wanted++;
    if (!resp_read_array(&r, &n) || n != wanted)
        complain(c, w, frame, "not as many replies as were queued");
    STAILQ_FOREACH(element, &queued, entry)
    check_reply(c, element, next_frame(&r));
}

/* --- messages -----------------------------------------------------------------------------------
 */

static const struct {
    const char *word;
    int topic; /* -1: no confirmation */
    uint16_t id;
} words[] = {{"subscribe", TOPIC_CHANNELS, COMMAND_ID_SUBSCRIBE},
             {"unsubscribe", TOPIC_CHANNELS, COMMAND_ID_UNSUBSCRIBE},
             {"psubscribe", TOPIC_PATTERNS, COMMAND_ID_PSUBSCRIBE},
             {"punsubscribe", TOPIC_PATTERNS, COMMAND_ID_PUNSUBSCRIBE},
             {"ssubscribe", TOPIC_SHARDS, COMMAND_ID_SSUBSCRIBE},
             {"sunsubscribe", TOPIC_SHARDS, COMMAND_ID_SUNSUBSCRIBE},
             {"message", -1, 0},
             {"pmessage", -1, 0},
             {"smessage", -1, 0},
             {"invalidate", -1, 0},
             {"tracking-redir-broken", -1, 0}};
enum { WORDS = sizeof words / sizeof *words };

/* Which row; WORDS: it is a reply. */
static size_t message_of(const struct person *c, struct resp_slice frame)
{
    struct resp_reader r = {frame.data, frame.data + frame.len};
    struct resp_slice word;
    size_t n, i = 0;
    if (!c->pubsub || !strchr("*>", frame.data[0]) || !resp_read_array(&r, &n) || n == 0 ||
        !resp_read_bulk(&r, &word))
        return WORDS;
    while (i < WORDS && !resp_slice_is(word, words[i].word))
        i++;
    return i;
}

static struct want *pop(struct person *c)
{
    struct want *w = STAILQ_FIRST(&c->wants);
    STAILQ_REMOVE_HEAD(&c->wants, entry);
    c->n_wants--;
    return w;
}

static void note_subscription(struct person *c, size_t row, struct resp_slice frame)
{
    struct resp_reader r = {frame.data, frame.data + frame.len};
    uint64_t *names = c->subscribed[words[row].topic];
    size_t *n = &c->n_subscribed[words[row].topic], elements, i = 0;
    struct resp_slice word, name;
    if (!resp_read_array(&r, &elements) || !resp_read_bulk(&r, &word) || !resp_read_bulk(&r, &name))
        return;
    uint64_t hash = slice_hash(name, HASH_START);
    while (i < *n && names[i] != hash)
        i++;
    if (strstr(words[row].word, "unsubscribe")) {
        if (i < *n)
            names[i] = names[--*n];
    } else if (i == *n && i < NAMES_MAX) {
        names[(*n)++] = hash;
    }
}

static void check_confirmation(struct person *c, size_t row, struct resp_slice frame)
{
    struct want *w = STAILQ_FIRST(&c->wants);
    if (lies(c) || c->loose)
        return;
    if (!w || w->kind != WANT_CONFIRM || w->command->id != words[row].id)
        wrong("client %u: a confirmation that nobody waits for: %.*s", c->slot, (int)frame.len,
              frame.data);
    if (w->left == 0)
        w->left = c->n_subscribed[words[row].topic] ? c->n_subscribed[words[row].topic] : 1;
    note_subscription(c, row, frame);
    if (--w->left == 0)
        want_free(pop(c));
}

/* What follows a MULTI or WATCH must not go on without it. */
static bool is_end(const struct want *w, struct resp_slice frame)
{
    static const char refused[] = "-NEARCACHE no private connection within ";
    return (is(w, 0, "multi") || is(w, 0, "watch")) && frame.len > sizeof refused - 1 &&
           memcmp(frame.data, refused, sizeof refused - 1) == 0;
}

static void take_reply(struct person *c, struct resp_slice frame)
{
    struct want *w = STAILQ_FIRST(&c->wants);
    if (c->ended)
        wrong("client %u is answered after a MULTI or WATCH was refused: %.*s", c->slot,
              (int)(frame.len < 200 ? frame.len : 200), frame.data);
    if (!w && c->model->forgets && is_text(frame, "-ERR out of memory\r\n"))
        return; /* a command that was not even read */
    if (!w)
        wrong("client %u is answered what it did not ask: %.*s", c->slot,
              (int)(frame.len < 200 ? frame.len : 200), frame.data);
    w = pop(c);
    if (w->kind == WANT_CONFIRM && !is_error(frame) && !lies(c) && !w->in_multi)
        complain(c, w, frame, "not confirmed");
    if (w->in_multi && is_text(frame, "+QUEUED\r\n")) {
        STAILQ_INSERT_TAIL(&c->queued, w, entry);
        return;
    }
    if (w->in_multi && !c->multi_refused && !is_error(frame) && !lies(c))
        complain(c, w, frame, "not queued");
    check_reply(c, w, frame);
    c->ended = is_end(w, frame) && !lies(c);
    bool over =
        w->command && (w->command->id == COMMAND_ID_EXEC || w->command->id == COMMAND_ID_DISCARD);
    if (over)
        free_wants(&c->queued);
    want_free(w);
}

/* What is no confirmation may have been taken for one. */
static void doubt(struct person *c)
{
    if (!lies(c) || !c->pubsub || c->loose)
        return;
    c->loose = true;
    free_wants(&c->wants);
    c->n_wants = 0;
}

static void take_frame(struct person *c, struct resp_slice frame)
{
    doubt(c);
    size_t row = message_of(c, frame);
    trace_bytes("  gets", c->slot, frame.data, frame.len);
    if (frame.data[0] == '>' && c->resp == 2 && !c->loose && !lies(c))
        wrong("client %u: a push in RESP2", c->slot);
    if (row < WORDS && words[row].topic >= 0)
        check_confirmation(c, row, frame);
    else if (row == WORDS && frame.data[0] != '>' && !c->loose)
        take_reply(c, frame);
}

void person_read(struct person *c)
{
    struct peer *peer = c->peer;
    buffer_add(&c->shown, peer->out.data, peer->out.len);
    buffer_drop(&peer->out, peer->out.len);
    while (c->shown.len > c->framed) {
        size_t used = 0;
        enum resp_status status =
            resp_frame(&c->framer, c->shown.data + c->framed, c->shown.len - c->framed, &used);
        if (status == RESP_BAD)
            wrong("client %u is shown what is no RESP", c->slot);
        c->framed += used;
        if (status == RESP_MORE)
            break;
        take_frame(c, (struct resp_slice){c->shown.data, c->framed});
        buffer_drop(&c->shown, c->framed);
        c->framed = 0;
    }
}

/* If the first is refused, the second ends its client. */
static bool asks_for_multi_twice(const struct person *c)
{
    const struct want *w;
    unsigned n = 0;
    STAILQ_FOREACH(w, &c->wants, entry)
    n += w->command && w->command->id == COMMAND_ID_MULTI;
    return n > 1;
}

void person_left(struct person *c)
{
    const struct model *m = c->model;
    if (c->peer->gone || m->trouble || m->squeezed || c->unsure || c->loose || m->kills || lies(c))
        return;
    if (!c->quits && !c->ended && !c->peer->eof && !asks_for_multi_twice(c))
        wrong("client %u is disconnected", c->slot);
    if (c->shown.len)
        wrong("client %u is left with half a reply", c->slot);
    if (c->n_wants && !c->session)
        wrong("client %u leaves with %zu replies owed", c->slot, c->n_wants);
}
