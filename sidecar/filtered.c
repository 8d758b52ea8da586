/* filtered.c - replies of the server that a client may see only in part. */
#include "filtered.h"

#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "resp_read.h"
#include "wire.h"

#define UNREADABLE "-NEARCACHE the upstream's reply could not be read\r\n"

/* --- the way of such a reply --------------------------------------------------------------------
 */

static void hand_on(struct request *r, const char *reply, size_t n, const char *error)
{
    if (error) {
        request_fail(r, error);
        return;
    }
    request_bytes(r, reply, n);
    request_done(r);
}

static void on_reply(struct query *q, const char *reply, size_t n, const char *error)
{
    struct filter *f = (struct filter *)q;
    struct text out = {0};
    bool altered = f->alter(f, (struct resp_slice){reply, error ? 0 : n}, &out);
    if (out.failed)
        request_fail(f->request, UPSTREAM_NO_MEMORY);
    else if (altered)
        hand_on(f->request, out.p, out.len, NULL);
    else if (error || (n > 0 && *reply == '-'))
        hand_on(f->request, reply, n, error);
    else /* as it is, it might show too much */
        request_fail(f->request, UNREADABLE);
    free(out.p);
    free(f);
}

void filtered_ask(struct proxy *p, struct caller *c, filter_alter *alter, int64_t option,
                  const struct resp_slice *argv, size_t argc)
{
    struct filter *f = calloc(1, sizeof *f);
    struct request *r = f ? request_new(c) : NULL;
    if (!r) {
        free(f);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    if (filtered_goes_elsewhere(c)) /* what follows on its own connection would overtake it */
        r->exclusive = c->exclusive = true;
    for (size_t i = 0; i < argc; i++)
        r->cost += argv[i].len;
    c->owed_bytes += r->cost;
    *f = (struct filter){.query.done = on_reply,
                         .proxy = p,
                         .request = r,
                         .alter = alter,
                         .resp = c->resp,
                         .option = option};
    query_send(&f->query, proxy_query_lane(p, c), argv, argc);
}

static void forward_as_it_is(struct proxy *p, struct caller *c, const struct command *command,
                             const struct resp_slice *argv, size_t argc)
{
    (void)forward_run(p, c, &(struct request_plan){.argv = argv, .argc = argc, .command = command});
}

/* --- CONFIG GET ---------------------------------------------------------------------------------
 */

static bool is_secret(struct resp_slice name)
{
    /* Those of Redis, and what Valkey calls them. */
    static const char *const secrets[] = {"requirepass",
                                          "masterauth",
                                          "masteruser",
                                          "primaryauth",
                                          "primaryuser",
                                          "tls-key-file-pass",
                                          "tls-client-key-file-pass"};
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        if (resp_word_is(name, secrets[i]))
            return true;
    return false;
}

/* The header of a map, or of the array that stands for it in RESP2. */
static bool read_pairs(struct resp_reader *r, uint64_t *pairs)
{
    size_t n;
    if (resp_read_array(r, &n)) {
        *pairs = n / 2;
        return n % 2 == 0;
    }
    const char *digits = r->p + 1;
    const char *stop =
        r->end - r->p > 1 && *r->p == '%' ? resp_scan_digits(digits, r->end, pairs) : NULL;
    if (!stop || r->end - stop < 2 || memcmp(stop, "\r\n", 2) != 0)
        return false;
    r->p = stop + 2;
    return true;
}

bool filtered_config(struct resp_slice reply, unsigned resp, struct text *out)
{
    struct resp_reader r = {reply.data, reply.data + reply.len};
    uint64_t pairs;
    if (!read_pairs(&r, &pairs))
        return false;
    text_header(out, resp == 3 ? '%' : '*', resp == 3 ? pairs : 2 * pairs);
    for (; pairs > 0; pairs--) {
        struct resp_slice name, value;
        if (!resp_read_bulk(&r, &name) || !resp_read_bulk(&r, &value))
            return false;
        text_bulk(out, name);
        text_bulk(out, is_secret(name) ? (struct resp_slice){"", 0} : value);
    }
    return r.p == r.end;
}

static bool alter_config(const struct filter *f, struct resp_slice reply, struct text *out)
{
    return reply.len > 0 && filtered_config(reply, f->resp, out);
}

void filtered_config_get(struct proxy *p, struct caller *c, const struct command *command,
                         const struct resp_slice *argv, size_t argc)
{
    if (p->config->admin_commands == ADMIN_COMMANDS_ALLOW)
        forward_as_it_is(p, c, command, argv, argc);
    else
        filtered_ask(p, c, alter_config, 0, argv, argc);
}

/* --- SLOWLOG GET --------------------------------------------------------------------------------
 */

/* Longest logged command: Redis' SLOWLOG_ENTRY_MAX_ARGC. */
enum { LOGGED_MAX = 32 };

struct logged {
    struct resp_slice argv[LOGGED_MAX];
    size_t argc;
};

static bool read_logged(struct resp_reader *r, struct logged *command)
{
    if (!resp_read_array(r, &command->argc) || command->argc > LOGGED_MAX)
        return false;
    for (size_t i = 0; i < command->argc; i++)
        if (!resp_read_bulk(r, &command->argv[i]))
            return false;
    return command->argc > 0;
}

/* "... (8 more arguments)" stands for the rest of a long command. */
static bool is_rest(const struct logged *command, size_t i)
{
    static const char dots[] = "... (";
    struct resp_slice s = command->argv[i];
    return i == LOGGED_MAX - 1 && s.len > strlen(dots) && memcmp(s.data, dots, strlen(dots)) == 0;
}

/* Where the pattern of KEYS or SCAN stands; 0: there is none. */
static size_t pattern_of(const struct command *command, const struct logged *logged)
{
    if (command->id == COMMAND_ID_KEYS)
        return logged->argc > 1 ? 1 : 0;
    if (command->id == COMMAND_ID_SCAN)
        for (size_t i = 2; i + 1 < logged->argc; i += 2)
            if (resp_word_is(logged->argv[i], "match"))
                return i + 1;
    return 0;
}

static bool take_off(struct resp_slice prefix, struct resp_slice *s)
{
    if (s->len < prefix.len || memcmp(s->data, prefix.data, prefix.len) != 0)
        return false;
    *s = (struct resp_slice){s->data + prefix.len, s->len - prefix.len};
    return true;
}

/* Takes the namespace off the names in a logged command. False: it has others' names, or it can't
 * be told, as of a script without keys, or of what another service publishes. */
static bool strip_logged(const struct namespace *ns, const struct command_table *commands,
                         struct command_keys *keys, bool own, struct logged *logged)
{
    const struct command *command = command_find(commands, logged->argv, logged->argc);
    if (!command || !command_arity_ok(command, logged->argc) ||
        command_list_keys(command, logged->argv, logged->argc, keys) != COMMAND_KEYS_OK)
        return false;
    size_t pattern = pattern_of(command, logged);
    if (pattern)
        return take_off(ns->glob, &logged->argv[pattern]);
    if (keys->n == 0 && (command->keys_unknown || !own))
        return false;
    for (size_t k = 0; k < keys->n; k++) {
        size_t i = keys->v[k].arg;
        if (!is_rest(logged, i) && !take_off(ns->prefix, &logged->argv[i]))
            return false;
    }
    return true;
}

static bool skip_element(struct resp_reader *r)
{
    struct resp_framer framer = {0};
    size_t used;
    if (resp_frame(&framer, r->p, (size_t)(r->end - r->p), &used) != RESP_DONE)
        return false;
    r->p += used;
    return true;
}

/* id, time, duration, command, and since Redis 4 the client's address and name. */
struct entry {
    size_t n;
    struct resp_slice head, tail; /* what stands before and behind the command, as it is */
    struct resp_slice client;     /* its name */
    struct logged logged;
};

static bool read_entry(struct resp_reader *r, struct entry *e)
{
    if (!resp_read_array(r, &e->n) || e->n < 4)
        return false;
    const char *begin = r->p;
    for (int i = 0; i < 3; i++)
        if (!skip_element(r))
            return false;
    e->head = (struct resp_slice){begin, (size_t)(r->p - begin)};
    if (!read_logged(r, &e->logged))
        return false;
    begin = r->p;
    e->client = (struct resp_slice){"", 0};
    for (size_t i = 4; i < e->n; i++)
        if (!(i == 5 ? resp_read_bulk(r, &e->client) : skip_element(r)))
            return false;
    e->tail = (struct resp_slice){begin, (size_t)(r->p - begin)};
    return true;
}

/* Every nearcache of the service calls its connections so: main.c. */
static bool is_own(const struct entry *e, const char *service)
{
    static const char by[] = "nearcache:";
    size_t n = strlen(by), len = strlen(service);
    return e->client.len == n + len && memcmp(e->client.data, by, n) == 0 &&
           memcmp(e->client.data + n, service, len) == 0;
}

static void append_entry(struct text *out, const struct entry *e)
{
    text_header(out, '*', e->n);
    text_append(out, e->head.data, e->head.len);
    text_header(out, '*', e->logged.argc);
    for (size_t i = 0; i < e->logged.argc; i++)
        text_bulk(out, e->logged.argv[i]);
    text_append(out, e->tail.data, e->tail.len);
}

bool filtered_slowlog(const struct slowlog_terms *terms, struct resp_slice reply, int64_t count,
                      struct text *out)
{
    struct resp_reader r = {reply.data, reply.data + reply.len};
    struct text entries = {0};
    struct entry e;
    size_t n, shown = 0;
    bool ok = resp_read_array(&r, &n);
    for (; ok && n > 0 && (count < 0 || shown < (uint64_t)count); n--) {
        ok = read_entry(&r, &e);
        if (!ok || !strip_logged(terms->ns, terms->commands, terms->keys,
                                 is_own(&e, terms->service), &e.logged))
            continue;
        append_entry(&entries, &e);
        shown++;
    }
    text_header(out, '*', shown);
    text_append(out, entries.p, entries.len);
    out->failed |= entries.failed;
    free(entries.p);
    return ok;
}

static struct slowlog_terms slowlog_terms(struct proxy *p)
{
    return (struct slowlog_terms){
        .service = p->config->service, .ns = p->ns, .commands = p->commands, .keys = &p->keys};
}

static bool alter_slowlog(const struct filter *f, struct resp_slice reply, struct text *out)
{
    struct slowlog_terms terms = slowlog_terms(f->proxy);
    return reply.len > 0 && filtered_slowlog(&terms, reply, f->option, out);
}

/* All entries are asked for: which of them are ours is not known before. */
static void ask_slowlog(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                        size_t argc)
{
    int64_t count = 10;
    if (argc > 2 && (!resp_parse_int(argv[2], &count) || count < -1)) {
        caller_answer_error(c, "ERR count should be greater than or equal to -1");
        return;
    }
    struct resp_slice all[] = {argv[0], argv[1], wire_text("-1")};
    filtered_ask(p, c, alter_slowlog, count, all, 3);
}

void filtered_slowlog_get(struct proxy *p, struct caller *c, const struct command *command,
                          const struct resp_slice *argv, size_t argc)
{
    if (p->ns->prefix.len == 0 || argc > 3) /* too many: the server has the words for it */
        forward_as_it_is(p, c, command, argv, argc);
    else
        ask_slowlog(p, c, argv, argc);
}

/* --- PUBSUB -------------------------------------------------------------------------------------
 */

static void text_channel(struct text *out, const struct channel_name *name)
{
    text_header(out, '$', name->head.len + name->tail.len);
    text_append(out, name->head.data, name->head.len);
    text_append(out, name->tail.data, name->tail.len);
    text_append(out, "\r\n", 2);
}

bool filtered_channels(const struct namespace *ns, bool namespaced, bool numbers,
                       struct resp_slice reply, struct text *out)
{
    struct resp_reader r = {reply.data, reply.data + reply.len};
    struct text channels = {0};
    size_t n, shown = 0;
    bool ok = resp_read_array(&r, &n);
    for (size_t i = 0; ok && i < n; i += numbers ? 2 : 1) {
        struct resp_slice full;
        struct channel_name name;
        int64_t count = 0;
        ok = resp_read_bulk(&r, &full) && (!numbers || resp_read_integer(&r, &count));
        if (!ok || !channel_in(ns, namespaced, full, false, &name))
            continue;
        text_channel(&channels, &name);
        if (numbers)
            text_say(&channels, ":%lld\r\n", (long long)count);
        shown += numbers ? 2 : 1;
    }
    if (ok) {
        text_header(out, '*', shown);
        text_append(out, channels.p, channels.len);
    }
    out->failed |= channels.failed;
    free(channels.p);
    return ok;
}

static bool alter_channels(const struct filter *f, struct resp_slice reply, struct text *out)
{
    const struct proxy *p = f->proxy;
    return reply.len > 0 &&
           filtered_channels(p->ns, p->config->channels_namespace, f->option, reply, out);
}

static bool tells_numbers(const struct command *command)
{
    return command->id == COMMAND_ID_PUBSUB_NUMSUB || command->id == COMMAND_ID_PUBSUB_SHARDNUMSUB;
}

/* Appends the name that the server has for a channel; returns its length. */
static size_t append_name(const struct proxy *p, struct text *names, struct resp_slice name,
                          bool pattern)
{
    struct channel_name full = channel_out(p->ns, p->config->channels_namespace, name, pattern);
    size_t before = names->len;
    text_append(names, full.head.data, full.head.len);
    text_append(names, full.prefix.data, full.prefix.len);
    text_append(names, full.tail.data, full.tail.len);
    return names->len - before;
}

void filtered_pubsub(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    bool numbers = tells_numbers(plan->command);
    size_t argc = plan->argc == 2 && !numbers ? 3 : plan->argc; /* no pattern: all that are ours */
    struct resp_slice *argv = calloc(argc, sizeof *argv);
    struct text names = {0};
    for (size_t i = 2; argv && i < argc; i++)
        argv[i].len =
            append_name(p, &names, i < plan->argc ? plan->argv[i] : wire_text("*"), !numbers);
    if (!argv || names.failed) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    } else {
        const char *at = names.p;
        argv[0] = plan->argv[0];
        argv[1] = plan->argv[1];
        for (size_t i = 2; i < argc; at += argv[i++].len)
            argv[i].data = at;
        filtered_ask(p, c, alter_channels, numbers, argv, argc);
    }
    free(argv);
    free(names.p);
}

/* --- which ones ---------------------------------------------------------------------------------
 */

bool filtered_is_asked(const struct proxy *p, const struct command *command)
{
    return command->id == COMMAND_ID_INFO || filtered_applies(p, command);
}

bool filtered_goes_elsewhere(const struct caller *c)
{
    return c->session || c->resp != 2;
}

/* --- within EXEC --------------------------------------------------------------------------------
 */

bool filtered_applies(const struct proxy *p, const struct command *command)
{
    switch (command->id) {
    case COMMAND_ID_CONFIG_GET:
        return p->config->admin_commands != ADMIN_COMMANDS_ALLOW;
    case COMMAND_ID_SLOWLOG_GET:
    case COMMAND_ID_PUBSUB_CHANNELS:
    case COMMAND_ID_PUBSUB_NUMSUB:
    case COMMAND_ID_PUBSUB_SHARDCHANNELS:
    case COMMAND_ID_PUBSUB_SHARDNUMSUB:
        return p->ns->prefix.len > 0;
    default:
        return false;
    }
}

static bool alter(struct proxy *p, const struct command *command, unsigned resp,
                  struct resp_slice reply, struct text *out)
{
    struct slowlog_terms terms = slowlog_terms(p);
    switch (command->id) {
    case COMMAND_ID_CONFIG_GET:
        return filtered_config(reply, resp, out);
    case COMMAND_ID_SLOWLOG_GET:
        return filtered_slowlog(&terms, reply, -1, out);
    default:
        return filtered_channels(p->ns, p->config->channels_namespace, tells_numbers(command),
                                 reply, out);
    }
}

void filtered_reply(struct proxy *p, const struct request_plan *plan, unsigned resp,
                    struct resp_slice reply, struct text *out)
{
    struct text altered = {0};
    bool ok = alter(p, plan->command, resp, reply, &altered);
    if (ok)
        text_append(out, altered.p, altered.len);
    else if (reply.len > 0 && *reply.data == '-')
        text_append(out, reply.data, reply.len);
    else
        text_append(out, UNREADABLE, strlen(UNREADABLE));
    out->failed |= altered.failed;
    free(altered.p);
}
