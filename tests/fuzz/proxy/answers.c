/* answers.c - what the scripted Redis says to a command. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "redis.h"

enum { DATABASES = 16 };

typedef void handler(struct redis_conn *c, const struct ask *a, struct buffer *out);

static bool is(const struct ask *a, size_t i, const char *lower)
{
    return i < a->argc && resp_word_is(a->argv[i], lower);
}

static void ok(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    (void)c;
    (void)a;
    buffer_text(out, "+OK\r\n");
}

static void zero(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    (void)c;
    (void)a;
    buffer_text(out, ":0\r\n");
}

static void nil(const struct redis_conn *c, struct buffer *out)
{
    buffer_text(out, c->resp == 3 ? "_\r\n" : "$-1\r\n");
}

static void pairs(const struct redis_conn *c, struct buffer *out, size_t n)
{
    buffer_print(out, c->resp == 3 ? "%%%zu\r\n" : "*%zu\r\n", c->resp == 3 ? n : 2 * n);
}

/* --- the connection -----------------------------------------------------------------------------
 */

static void hello(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    int64_t version = c->resp;
    if (c->redis->knows_no_hello) {
        buffer_text(out, "-ERR unknown command 'HELLO', with args beginning with: '2' \r\n");
        return;
    }
    if (a->argc > 1 && (!resp_parse_int(a->argv[1], &version) || version < 2 || version > 3)) {
        buffer_text(out, "-NOPROTO unsupported protocol version\r\n");
        return;
    }
    c->resp = (uint8_t)version;
    pairs(c, out, 7);
    buffer_text(out, "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n");
    buffer_print(out, "$5\r\nproto\r\n:%d\r\n$2\r\nid\r\n:%llu\r\n", c->resp,
                 (unsigned long long)c->id);
    buffer_text(out, "$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n");
    buffer_text(out, "$7\r\nmodules\r\n*0\r\n");
}

static void reset(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    (void)a;
    c->resp = 2;
    c->db = 0;
    c->tracking = false;
    buffer_text(out, "+RESET\r\n");
}

static void select_db(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    int64_t db;
    if (a->argc != 2 || !resp_parse_int(a->argv[1], &db)) {
        buffer_text(out, "-ERR value is not an integer or out of range\r\n");
    } else if (db < 0 || db >= DATABASES) {
        buffer_text(out, "-ERR DB index is out of range\r\n");
    } else {
        c->db = (uint32_t)db;
        buffer_text(out, "+OK\r\n");
    }
}

static void ping(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    if (redis_is_subscribed(c) && c->resp == 2) {
        buffer_text(out, "*2\r\n$4\r\npong\r\n");
        buffer_bulk(out, a->argc > 1 ? a->argv[1] : (struct resp_slice){"", 0});
    } else if (a->argc > 1) {
        buffer_bulk(out, a->argv[1]);
    } else {
        buffer_text(out, "+PONG\r\n");
    }
}

static void echo(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    (void)c;
    buffer_bulk(out, a->argv[1]);
}

/* --- CLIENT -------------------------------------------------------------------------------------
 */

static void add_prefix(struct redis_conn *c, struct resp_slice prefix)
{
    char *copy = memory_new(prefix.len + 1);
    if (c->n_prefixes == sizeof c->prefixes / sizeof *c->prefixes) {
        free(copy);
        return;
    }
    if (prefix.len)
        memcpy(copy, prefix.data, prefix.len);
    c->prefixes[c->n_prefixes++] = (struct resp_slice){copy, prefix.len};
}

static void take_tracking_options(struct redis_conn *c, const struct ask *a)
{
    for (size_t i = 3; i < a->argc; i++) {
        int64_t id;
        if (is(a, i, "redirect") && i + 1 < a->argc) {
            if (resp_parse_int(a->argv[++i], &id))
                c->redirect = (uint64_t)id;
        } else if (is(a, i, "prefix") && i + 1 < a->argc) {
            add_prefix(c, a->argv[++i]);
        }
        c->bcast |= is(a, i, "bcast");
        c->optin |= is(a, i, "optin");
    }
}

static void tracking(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    if (c->redis->refuses_tracking) {
        buffer_text(out, "-NOPERM this user has no permissions to run CLIENT TRACKING\r\n");
        return;
    }
    redis_forget_prefixes(c);
    c->redirect = 0;
    c->bcast = c->optin = false;
    c->tracking = is(a, 2, "on");
    if (c->tracking)
        take_tracking_options(c, a);
    if (c->redirect && !redis_find(c->redis, c->redirect)) {
        c->tracking = false;
        buffer_text(out, "-ERR The client ID you want redirect to does not exist\r\n");
    } else {
        buffer_text(out, "+OK\r\n");
    }
}

static void tracking_info(struct redis_conn *c, struct buffer *out)
{
    pairs(c, out, 3);
    buffer_print(out, "$5\r\nflags\r\n*1\r\n$%d\r\n%s\r\n", c->tracking ? 2 : 3,
                 c->tracking ? "on" : "off");
    buffer_print(out, "$8\r\nredirect\r\n:%lld\r\n", c->tracking ? (long long)c->redirect : -1);
    buffer_print(out, "$8\r\nprefixes\r\n*%zu\r\n", c->n_prefixes);
    for (size_t i = 0; i < c->n_prefixes; i++)
        buffer_bulk(out, c->prefixes[i]);
}

static void caching(const struct redis_conn *c, struct buffer *out)
{
    buffer_text(out, c->tracking && c->optin
                         ? "+OK\r\n"
                         : "-ERR CLIENT CACHING can be called only when the client is in tracking "
                           "mode with OPTIN or OPTOUT mode enabled\r\n");
}

static void client(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    if (is(a, 1, "id"))
        buffer_print(out, ":%llu\r\n", (unsigned long long)c->id);
    else if (is(a, 1, "tracking"))
        tracking(c, a, out);
    else if (is(a, 1, "trackinginfo"))
        tracking_info(c, out);
    else if (is(a, 1, "caching"))
        caching(c, out);
    else if (is(a, 1, "unblock"))
        buffer_text(out, ":1\r\n");
    else
        buffer_text(out, "+OK\r\n");
    if (is(a, 1, "setname") && a->argc > 2 && a->argv[2].len > 5)
        c->is_link = memcmp(a->argv[2].data + a->argv[2].len - 5, ":link", 5) == 0;
}

/* --- what the server is -------------------------------------------------------------------------
 */

static void info(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    static const char text[] =
        "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Clients\r\n"
        "connected_clients:3\r\ntracking_clients:1\r\ntracking_total_prefixes:1\r\n"
        "# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\ndb1:keys=1,expires=0,avg_ttl=0\r\n";
    (void)a;
    if (c->resp == 3)
        buffer_print(out, "=%zu\r\ntxt:", sizeof text - 1 + 4);
    else
        buffer_print(out, "$%zu\r\n", sizeof text - 1);
    buffer_text(out, text);
    buffer_text(out, "\r\n");
}

/* name, arity, flag, first and last key, step: all that old servers tell. */
static void old_row(struct buffer *out, const char *name, int arity, const char *flag, int key)
{
    buffer_text(out, "*6\r\n");
    buffer_bulk_text(out, name);
    buffer_print(out, ":%d\r\n*1\r\n+%s\r\n:%d\r\n:%d\r\n:%d\r\n", arity, flag, key, key, key > 0);
}

/* .. and what new ones add: no tips, a key spec or none, so many sub-commands to follow. */
static void new_row(struct buffer *out, const char *name, int arity, const char *flags,
                    const char *begin, const char *find, int subcommands)
{
    buffer_text(out, "*10\r\n");
    buffer_bulk_text(out, name);
    buffer_print(out, ":%d\r\n*1\r\n+write\r\n:0\r\n:0\r\n:0\r\n*0\r\n*0\r\n", arity);
    if (begin) {
        buffer_text(out, "*1\r\n*6\r\n+flags\r\n");
        buffer_text(out, flags);
        buffer_text(out, "+begin_search\r\n*4\r\n+type\r\n");
        buffer_text(out, begin);
        buffer_text(out, "+find_keys\r\n*4\r\n+type\r\n");
        buffer_text(out, find);
    } else {
        buffer_text(out, "*0\r\n");
    }
    buffer_print(out, "*%d\r\n", subcommands);
}

static const char index_1[] = "+index\r\n+spec\r\n*2\r\n+index\r\n:1\r\n",
                  keyword[] =
                      "+keyword\r\n+spec\r\n*4\r\n+keyword\r\n+KEYS\r\n+startfrom\r\n:1\r\n",
                  range[] = "+range\r\n+spec\r\n*6\r\n+lastkey\r\n:0\r\n+keystep\r\n:1\r\n"
                            "+limit\r\n:0\r\n",
                  keynum[] = "+keynum\r\n+spec\r\n*6\r\n+keynumidx\r\n:0\r\n+firstkey\r\n:1\r\n"
                             "+keystep\r\n:1\r\n",
                  written[] = "*2\r\n+OW\r\n+UPDATE\r\n",
                  incomplete[] = "*2\r\n+RW\r\n+incomplete\r\n";

/* As redis_commands has them. */
static void tell_commands(const struct redis_conn *c, struct buffer *out)
{
    buffer_print(out, "*%d\r\n", c->redis->fields_expire ? 10 : 9);
    old_row(out, "get", 2, "readonly", 1);
    old_row(out, "ext.get", 2, "readonly", 1);
    old_row(out, "ext.any", -1, "movablekeys", 0);
    old_row(out, "ext.wait", -1, "blocking", 0);
    new_row(out, "ext.set", -3, written, index_1, range, 0);
    new_row(out, "ext.many", -2, written, index_1, keynum, 0);
    new_row(out, "ext.word", -2, written, keyword, range, 0);
    new_row(out, "ext.some", -2, incomplete, index_1, range, 0);
    new_row(out, "ext.box", -2, NULL, NULL, NULL, 1);
    old_row(out, "ext.box|get", 3, "readonly", 2);
    if (c->redis->fields_expire)
        old_row(out, "hexpire", -6, "write", 1);
}

static void command_keys(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    struct redis *r = c->redis;
    bool flags = is(a, 1, "getkeysandflags");
    const struct command *command =
        a->argc > 2 ? command_find(r->commands, a->argv + 2, a->argc - 2) : NULL;
    if (!command ||
        command_list_keys(command, a->argv + 2, a->argc - 2, &r->keys) != COMMAND_KEYS_OK ||
        r->keys.n == 0) {
        buffer_text(out, "-ERR The command has no key arguments\r\n");
        return;
    }
    buffer_print(out, "*%zu\r\n", r->keys.n);
    for (size_t i = 0; i < r->keys.n; i++) {
        if (flags)
            buffer_text(out, "*2\r\n");
        buffer_bulk(out, a->argv[2 + r->keys.v[i].arg]);
        if (flags)
            buffer_text(out, "*1\r\n+RW\r\n");
    }
}

static void command(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    if (is(a, 1, "getkeys") || is(a, 1, "getkeysandflags"))
        command_keys(c, a, out);
    else if (a->argc > 1)
        buffer_text(out, "*0\r\n");
    else
        tell_commands(c, out);
}

static void config(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    if (!is(a, 1, "get")) {
        buffer_text(out, "+OK\r\n");
        return;
    }
    pairs(c, out, 2);
    buffer_text(out, "$11\r\nrequirepass\r\n$4\r\nhush\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n");
}

static void slowlog(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    if (!is(a, 1, "get")) {
        buffer_text(out, ":0\r\n");
        return;
    }
    buffer_text(out, "*2\r\n*6\r\n:1\r\n:1\r\n:9\r\n*2\r\n$3\r\nGET\r\n$5\r\nother\r\n");
    buffer_text(out, "$4\r\naddr\r\n$0\r\n\r\n*4\r\n:2\r\n:1\r\n:9\r\n*2\r\n$3\r\nGET\r\n");
    buffer_print(out, "$%zu\r\n", c->redis->prefix.len + 2);
    buffer_add(out, c->redis->prefix.data, c->redis->prefix.len);
    buffer_text(out, "k0\r\n");
}

/* --- keys ---------------------------------------------------------------------------------------
 */

static struct record *record_of(struct redis_conn *c, struct resp_slice key)
{
    return store_record(&c->redis->store, c->db, key);
}

static struct state look(struct redis_conn *c, struct resp_slice key)
{
    return store_look(&c->redis->store, record_of(c, key), net_now());
}

static void say_value(struct redis_conn *c, struct resp_slice key, struct buffer *out)
{
    struct state state = look(c, key);
    if (state.absent)
        nil(c, out);
    else
        store_value(out, 'v', slice_hash(key, HASH_START), c->db, state, store_padding(key));
}

static void get(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    say_value(c, a->argv[1], out);
}

static void mget(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    buffer_print(out, "*%zu\r\n", a->argc - 1);
    for (size_t i = 1; i < a->argc; i++)
        say_value(c, a->argv[i], out);
}

static void change(struct redis_conn *c, struct resp_slice key, struct state state)
{
    struct record *r = record_of(c, key);
    (void)store_look(&c->redis->store, r, net_now());
    state.time = net_now();
    store_change(&c->redis->store, r, state);
    redis_announce(c->redis, r);
}

/* PX and EX are known, and nothing else. */
static void set(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    int64_t ms = 0;
    if (a->argc == 5 && is(a, 3, "px") && (!resp_parse_int(a->argv[4], &ms) || ms <= 0)) {
        buffer_text(out, "-ERR invalid expire time in 'set' command\r\n");
        return;
    }
    change(c, a->argv[1],
           (struct state){.nonce = slice_hash(a->argv[2], HASH_START),
                          .expires = ms > 0 && ms < INT32_MAX ? net_now() + (uint64_t)ms : 0});
    buffer_text(out, "+OK\r\n");
}

static void mset(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    for (size_t i = 1; i + 1 < a->argc; i += 2)
        change(c, a->argv[i], (struct state){.nonce = slice_hash(a->argv[i + 1], HASH_START)});
    buffer_text(out, "+OK\r\n");
}

static void del(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    size_t gone = 0;
    for (size_t i = 1; i < a->argc; i++) {
        gone += !look(c, a->argv[i]).absent;
        change(c, a->argv[i], (struct state){.absent = true});
    }
    buffer_print(out, ":%zu\r\n", gone);
}

static void getdel(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    say_value(c, a->argv[1], out);
    change(c, a->argv[1], (struct state){.absent = true});
}

static void pttl(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    struct state state = look(c, a->argv[1]);
    long long left = state.absent    ? -2
                     : state.expires ? (long long)(state.expires - net_now())
                                     : -1;
    buffer_print(out, ":%lld\r\n", left);
}

static bool is_ours(const struct redis_conn *c, const struct record *r)
{
    return r->db == c->db &&
           slice_begins((struct resp_slice){r->name, r->name_len}, c->redis->prefix);
}

/* The i-th of the keys of this database, of those that are there; NULL: there are no more. */
static const struct record *present(struct redis_conn *c, size_t i)
{
    struct store *s = &c->redis->store;
    for (size_t at = 0; at < s->n; at++)
        if (is_ours(c, &s->records[at]) && !store_look(s, &s->records[at], net_now()).absent &&
            i-- == 0)
            return &s->records[at];
    return NULL;
}

static void list_keys(struct redis_conn *c, size_t first, size_t end, struct buffer *out)
{
    const struct record *r;
    buffer_print(out, "*%zu\r\n", end - first);
    for (; first < end && (r = present(c, first)); first++)
        buffer_bulk(out, (struct resp_slice){r->name, r->name_len});
}

static size_t count_keys(struct redis_conn *c)
{
    size_t n = 0;
    while (present(c, n))
        n++;
    return n;
}

static void keys(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    (void)a;
    list_keys(c, 0, count_keys(c), out);
}

/* In two steps. */
static void scan(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    size_t n = count_keys(c), half = n / 2;
    if (a->argc % 2) {
        buffer_text(out, "-ERR syntax error\r\n");
        return;
    }
    bool first = is(a, 1, "0");
    buffer_text(out, first ? "*2\r\n$1\r\n7\r\n" : "*2\r\n$1\r\n0\r\n");
    list_keys(c, first ? 0 : half, first ? half : n, out);
}

static void flush(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    (void)a;
    redis_flush(c->redis);
    buffer_text(out, "+OK\r\n");
}

/* --- pub/sub ------------------------------------------------------------------------------------
 */

static const struct {
    const char *word;
    enum topic topic;
    bool on;
} subscriptions[] = {
    {"subscribe", TOPIC_CHANNELS, true},  {"unsubscribe", TOPIC_CHANNELS, false},
    {"psubscribe", TOPIC_PATTERNS, true}, {"punsubscribe", TOPIC_PATTERNS, false},
    {"ssubscribe", TOPIC_SHARDS, true},   {"sunsubscribe", TOPIC_SHARDS, false},
};

static size_t find_name(const struct names *names, struct resp_slice name)
{
    size_t i = 0;
    while (i < names->n && !slice_equal((struct resp_slice){names->v[i], names->len[i]}, name))
        i++;
    return i;
}

static void add_name(struct names *names, struct resp_slice name)
{
    if (find_name(names, name) < names->n || names->n == NAMES_MAX)
        return;
    names->v[names->n] = memory_new(name.len + 1);
    if (name.len)
        memcpy(names->v[names->n], name.data, name.len);
    names->len[names->n++] = name.len;
}

static void remove_name(struct names *names, struct resp_slice name)
{
    size_t i = find_name(names, name);
    if (i == names->n)
        return;
    free(names->v[i]);
    names->v[i] = names->v[--names->n];
    names->len[i] = names->len[names->n];
}

static size_t subscribed(const struct redis_conn *c, enum topic topic)
{
    return topic == TOPIC_SHARDS ? c->topics[topic].n
                                 : c->topics[TOPIC_CHANNELS].n + c->topics[TOPIC_PATTERNS].n;
}

static void confirm(struct redis_conn *c, const char *word, enum topic topic,
                    struct resp_slice name, struct buffer *out)
{
    buffer_print(out, "%c3\r\n", c->resp == 3 ? '>' : '*');
    buffer_bulk_text(out, word);
    if (name.data)
        buffer_bulk(out, name);
    else
        nil(c, out);
    buffer_print(out, ":%zu\r\n", subscribed(c, topic));
}

static void unsubscribe_all(struct redis_conn *c, const char *word, enum topic topic,
                            struct buffer *out)
{
    struct names *names = &c->topics[topic];
    if (names->n == 0)
        confirm(c, word, topic, (struct resp_slice){0}, out);
    while (names->n) {
        size_t last = --names->n;
        confirm(c, word, topic, (struct resp_slice){names->v[last], names->len[last]}, out);
        free(names->v[last]);
    }
}

static void subscribe(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    size_t row = 0;
    while (!is(a, 0, subscriptions[row].word))
        row++;
    enum topic topic = subscriptions[row].topic;
    for (size_t i = 1; i < a->argc; i++) {
        if (subscriptions[row].on)
            add_name(&c->topics[topic], a->argv[i]);
        else
            remove_name(&c->topics[topic], a->argv[i]);
        confirm(c, subscriptions[row].word, topic, a->argv[i], out);
    }
    if (a->argc == 1)
        unsubscribe_all(c, subscriptions[row].word, topic, out);
}

static void publish(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    enum topic topic = is(a, 0, "spublish") ? TOPIC_SHARDS : TOPIC_CHANNELS;
    buffer_print(out, ":%zu\r\n", redis_publish(c->redis, topic, a->argv[1], a->argv[2]));
}

static void pubsub(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    const struct names *names = &c->topics[TOPIC_CHANNELS];
    if (is(a, 1, "numsub") || is(a, 1, "shardnumsub")) {
        buffer_print(out, "*%zu\r\n", 2 * (a->argc - 2));
        for (size_t i = 2; i < a->argc; i++) {
            buffer_bulk(out, a->argv[i]);
            buffer_text(out, ":1\r\n");
        }
    } else if (is(a, 1, "channels") || is(a, 1, "shardchannels")) {
        buffer_print(out, "*%zu\r\n$4\r\nnews\r\n", names->n + 1);
        for (size_t i = 0; i < names->n; i++)
            buffer_bulk(out, (struct resp_slice){names->v[i], names->len[i]});
    } else {
        buffer_text(out, ":0\r\n");
    }
}

/* --- replies made of the command ----------------------------------------------------------------
 */

uint64_t answer_hash(const struct resp_slice *argv, size_t argc, struct resp_slice prefix,
                     const struct command_keys *keys)
{
    uint64_t hash = HASH_START;
    size_t k = 0;
    for (size_t i = 0; i < argc; i++) {
        hash = slice_hash((struct resp_slice){"\0", 1}, hash);
        if (keys && k < keys->n && keys->v[k].arg == i) {
            hash = slice_hash(prefix, hash);
            k++;
        }
        for (size_t at = 0; i == 0 && at < argv[0].len; at++) { /* in any case */
            char letter = argv[0].data[at];
            letter = (char)(letter >= 'A' && letter <= 'Z' ? letter + 32 : letter);
            hash = slice_hash((struct resp_slice){&letter, 1}, hash);
        }
        if (i > 0)
            hash = slice_hash(argv[i], hash);
    }
    return hash;
}

bool answer_is_write(const struct command *command)
{
    return command->flags & COMMAND_FLAG_WRITE || command->class_ == COMMAND_WRITE ||
           command->class_ == COMMAND_ADMIN ||
           (command->class_ == COMMAND_SESSION && command->keys_unknown);
}

/* It leaves everything that it may reach changed. */
static void work(struct redis_conn *c, const struct command *command, const struct ask *a)
{
    struct redis *r = c->redis;
    bool some = false;
    if (!answer_is_write(command) ||
        command_list_keys(command, a->argv, a->argc, &r->keys) == COMMAND_KEYS_NO_MEMORY)
        return;
    if (r->keys.n == 0 || command->id == COMMAND_ID_FCALL || command->class_ == COMMAND_ADMIN) {
        store_change_all(&r->store, net_now());
        return;
    }
    for (size_t i = 0; i < r->keys.n; i++)
        some |= (r->keys.v[i].flags & COMMAND_KEY_WRITE) != 0;
    for (size_t i = 0; i < r->keys.n; i++)
        if (!some || r->keys.v[i].flags & COMMAND_KEY_WRITE)
            change(c, a->argv[r->keys.v[i].arg], (struct state){0});
}

static void repeat(struct buffer *out, size_t n, const char *element)
{
    buffer_print(out, "*%zu\r\n", n);
    while (n--)
        buffer_text(out, element);
}

/* As a read answers that the L1 may keep, of a key that is not there. False: it says the usual. */
static bool say_absent(struct redis_conn *c, const struct command *command, const struct ask *a,
                       struct buffer *out)
{
    if (command->cacheable == COMMAND_CACHEABLE_NO || a->argc < 2 || !look(c, a->argv[1]).absent)
        return false;
    switch ((enum command_absent)command->absent) {
    case COMMAND_ABSENT_NEVER:
        return false;
    case COMMAND_ABSENT_VALUE:
    case COMMAND_ABSENT_NIL:
    case COMMAND_ABSENT_SOUGHT:
        nil(c, out);
        break;
    case COMMAND_ABSENT_ZERO:
        buffer_text(out, ":0\r\n");
        break;
    case COMMAND_ABSENT_EMPTY:
        buffer_text(out, "$0\r\n\r\n");
        break;
    case COMMAND_ABSENT_NONE:
        buffer_text(out, "+none\r\n");
        break;
    case COMMAND_ABSENT_LIST:
        buffer_text(out, "*0\r\n");
        break;
    case COMMAND_ABSENT_NILS:
        repeat(out, a->argc - 2, c->resp == 3 ? "_\r\n" : "$-1\r\n");
        break;
    case COMMAND_ABSENT_ZEROS:
        repeat(out, a->argc - 2, ":0\r\n");
        break;
    }
    return true;
}

/* Key names in all the places where a reply of this command may have them. */
static void say_names(struct redis_conn *c, const struct command *command, const struct ask *a,
                      struct buffer *out)
{
    struct redis *r = c->redis;
    if (command_list_keys(command, a->argv, a->argc, &r->keys) != COMMAND_KEYS_OK ||
        r->keys.n == 0) {
        nil(c, out);
        return;
    }
    struct resp_slice name = a->argv[r->keys.v[0].arg];
    switch ((enum resp_keys)command->keys_in_reply) {
    case RESP_KEYS_STREAMS:
        buffer_text(out, c->resp == 3 ? "%1\r\n" : "*1\r\n*2\r\n");
        buffer_bulk(out, name);
        buffer_text(out, "*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
        break;
    case RESP_KEYS_SCAN:
        buffer_text(out, "*2\r\n$1\r\n0\r\n*1\r\n");
        buffer_bulk(out, name);
        break;
    default:
        buffer_text(out, "*2\r\n");
        buffer_bulk(out, name);
        buffer_text(out, "*1\r\n$3\r\nval\r\n");
        break;
    }
}

static void say_generic(struct redis_conn *c, const struct command *command, const struct ask *a,
                        struct buffer *out)
{
    struct state state = {0};
    if (say_absent(c, command, a, out))
        return;
    if (a->argc > 1)
        state = look(c, a->argv[1]);
    if (answer_is_write(command)) /* acknowledges what has been done */
        state = (struct state){.version = c->redis->store.version};
    store_value(out, 'r', answer_hash(a->argv, a->argc, (struct resp_slice){"", 0}, NULL), c->db,
                state, 0);
}

/* --- dispatch -----------------------------------------------------------------------------------
 */

static const struct {
    const char *name; /* of the command, or of its container */
    size_t args;      /* that it must have */
    handler *run;
} handlers[] = {
    {"hello", 1, hello},
    {"reset", 1, reset},
    {"auth", 1, ok},
    {"select", 2, select_db},
    {"ping", 1, ping},
    {"echo", 2, echo},
    {"client", 2, client},
    {"info", 1, info},
    {"command", 1, command},
    {"config", 2, config},
    {"slowlog", 2, slowlog},
    {"get", 2, get},
    {"mget", 2, mget},
    {"set", 3, set},
    {"mset", 3, mset},
    {"del", 2, del},
    {"unlink", 2, del},
    {"getdel", 2, getdel},
    {"pttl", 2, pttl},
    {"keys", 2, keys},
    {"scan", 2, scan},
    {"flushall", 1, flush},
    {"flushdb", 1, flush},
    {"subscribe", 2, subscribe},
    {"unsubscribe", 1, subscribe},
    {"psubscribe", 2, subscribe},
    {"punsubscribe", 1, subscribe},
    {"ssubscribe", 2, subscribe},
    {"sunsubscribe", 1, subscribe},
    {"publish", 3, publish},
    {"spublish", 3, publish},
    {"pubsub", 2, pubsub},
    {"watch", 2, ok},
    {"unwatch", 1, ok},
    {"wait", 3, zero},
    {"quit", 1, ok},
};

static handler *find_handler(const char *name, size_t argc)
{
    size_t len = strcspn(name, "|");
    for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++)
        if (strlen(handlers[i].name) == len && memcmp(handlers[i].name, name, len) == 0)
            return argc >= handlers[i].args ? handlers[i].run : NULL;
    return NULL;
}

bool answer_is_generic(const struct command *command)
{
    return command->id != COMMAND_ID_MULTI && command->id != COMMAND_ID_EXEC &&
           command->id != COMMAND_ID_DISCARD && !find_handler(command->name, SIZE_MAX) &&
           (command->keys_in_reply == RESP_KEYS_NONE || command->keys_in_reply == RESP_KEYS_ERROR);
}

static void run(struct redis_conn *c, const struct command *command, const struct ask *a,
                struct buffer *out)
{
    handler *special = find_handler(command->name, a->argc);
    if (special) {
        special(c, a, out);
        return;
    }
    work(c, command, a);
    if (answer_is_generic(command))
        say_generic(c, command, a, out);
    else
        say_names(c, command, a, out);
}

/* --- transactions -------------------------------------------------------------------------------
 */

static void end_transaction(struct redis_conn *c)
{
    struct ask *a;
    while ((a = STAILQ_FIRST(&c->queued))) {
        STAILQ_REMOVE_HEAD(&c->queued, entry);
        free(a);
    }
    c->in_multi = c->spoilt = false;
}

static void exec(struct redis_conn *c, struct buffer *out)
{
    const struct ask *a;
    size_t n = 0;
    if (c->spoilt) {
        buffer_text(out, "-EXECABORT Transaction discarded because of previous errors.\r\n");
        return;
    }
    STAILQ_FOREACH(a, &c->queued, entry) n++;
    buffer_print(out, "*%zu\r\n", n);
    STAILQ_FOREACH(a, &c->queued, entry)
    run(c, command_find(c->redis->commands, a->argv, a->argc), a, out);
}

static struct ask *copy(const struct ask *a)
{
    size_t bytes = 0;
    for (size_t i = 0; i < a->argc; i++)
        bytes += a->argv[i].len;
    struct ask *to = memory_new(sizeof *to + a->argc * sizeof *to->argv + bytes);
    to->argc = a->argc;
    to->argv = (struct resp_slice *)(to + 1);
    char *text = (char *)(to->argv + a->argc);
    for (size_t i = 0; i < a->argc; i++) {
        to->argv[i] = (struct resp_slice){text, a->argv[i].len};
        if (a->argv[i].len)
            memcpy(text, a->argv[i].data, a->argv[i].len);
        text += a->argv[i].len;
    }
    return to;
}

static void queue(struct redis_conn *c, const struct command *command, const struct ask *a,
                  struct buffer *out)
{
    if (command->id == COMMAND_ID_MULTI || command->id == COMMAND_ID_WATCH) {
        buffer_text(out, command->id == COMMAND_ID_MULTI
                             ? "-ERR MULTI calls can not be nested\r\n"
                             : "-ERR WATCH inside MULTI is not allowed\r\n");
        return;
    }
    struct ask *mine = copy(a);
    STAILQ_INSERT_TAIL(&c->queued, mine, entry);
    buffer_text(out, "+QUEUED\r\n");
}

/* False: it is to be run, or queued. */
static bool in_transaction(struct redis_conn *c, const struct command *command, struct buffer *out)
{
    bool ends = command->id == COMMAND_ID_EXEC || command->id == COMMAND_ID_DISCARD;
    if (command->id == COMMAND_ID_MULTI && !c->in_multi) {
        c->in_multi = true;
        buffer_text(out, "+OK\r\n");
        return true;
    }
    if (!ends)
        return false;
    if (!c->in_multi)
        buffer_print(out, "-ERR %s without MULTI\r\n",
                     command->id == COMMAND_ID_EXEC ? "EXEC" : "DISCARD");
    else if (command->id == COMMAND_ID_EXEC)
        exec(c, out);
    else
        buffer_text(out, "+OK\r\n");
    end_transaction(c);
    return true;
}

static bool is_allowed_to_subscribers(const struct command *command)
{
    return find_handler(command->name, SIZE_MAX) == subscribe || command->id == COMMAND_ID_PING ||
           command->id == COMMAND_ID_QUIT || command->id == COMMAND_ID_RESET;
}

/* False: refused. */
static bool may_run(const struct redis_conn *c, const struct command *command, const struct ask *a,
                    struct buffer *out)
{
    char error[COMMAND_ERROR_MAX];
    if (!command)
        buffer_add(out, error, command_unknown_error(c->redis->commands, a->argv, a->argc, error));
    else if (!command_arity_ok(command, a->argc))
        buffer_add(out, error, command_arity_error(command, error));
    else if (redis_is_subscribed(c) && c->resp == 2 && !is_allowed_to_subscribers(command))
        buffer_print(out, "-ERR Can't execute '%s': only (P|S)SUBSCRIBE ... are allowed\r\n",
                     command->name);
    else
        return true;
    return false;
}

void answer(struct redis_conn *c, const struct ask *a, struct buffer *out)
{
    const struct command *command = command_find(c->redis->commands, a->argv, a->argc);
    if (!may_run(c, command, a, out)) {
        c->spoilt |= c->in_multi;
        if (command && command->id == COMMAND_ID_EXEC)
            end_transaction(c);
        return;
    }
    if (in_transaction(c, command, out))
        return;
    if (c->in_multi)
        queue(c, command, a, out);
    else
        run(c, command, a, out);
}
