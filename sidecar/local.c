/* local.c - the commands that the proxy answers itself. */
#include "local.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients.h"
#include "filtered.h"
#include "identity.h"
#include "link.h"
#include "monitor.h"
#include "resp_read.h"
#include "wire.h"

enum { CREDIT_PER_HIT = 8 }; /* of the L1's use counter, which forgets: l1.h */

/* --- INFO ---------------------------------------------------------------------------------------
 */

static void say_metric(void *ctx, const char *name, const char *unit, const char *help,
                       uint64_t value)
{
    (void)unit;
    (void)help;
    text_say(ctx, "%s:%llu\r\n", name, (unsigned long long)value);
}

static void say_breaker(const struct proxy *p, struct text *t)
{
    const struct breaker *b = upstream_breaker(p->upstream);
    text_say(t, "breaker_state:%s\r\nbreaker_last_reason:%s\r\nbreaker_next_probe_ms:%llu\r\n",
             breaker_state_name(b), breaker_why(b),
             (unsigned long long)breaker_probe_in(b, loop_now(p->loop)));
}

/* What the workers have and have done, together. */
struct sums {
    struct metrics metrics;
    unsigned connected, lent;
    uint64_t pending;
    size_t buffers, buffers_peak;
};

static struct sums sum_up(const struct proxy *p)
{
    struct sums sum = {.connected = 0};
    for (size_t i = 0; i < p->crew->n; i++) {
        const struct proxy *one = p->crew->v[i];
        const struct budget *b = &one->loop->budget;
        metrics_add(&sum.metrics, one->metrics);
        sum.connected += upstream_connected(one->upstream);
        sum.lent += upstream_lent(one->upstream);
        sum.pending += upstream_pending(one->upstream);
        sum.buffers += budget_used(b);
        sum.buffers_peak += b->peak;
    }
    return sum;
}

/* While the other workers stand still. The circuit breaker and the last error are this worker's. */
static void say_all(const struct proxy *p, struct text *t)
{
    struct l1_stats s;
    uint64_t now = loop_now(p->loop);
    struct sums sum = sum_up(p);
    coherence_count(p->coherence, &s, &sum.metrics);
    text_say(t, "# Nearcache\r\nnearcache_version:%s\r\nservice:%s\r\nnamespace:%.*s\r\n",
             NEARCACHE_VERSION, p->config->service, (int)p->ns->prefix.len, p->ns->prefix.data);
    text_say(t, "uptime_in_seconds:%llu\r\nprocess_id:%ld\r\n",
             (unsigned long long)((now - p->started) / 1000), (long)getpid());
    text_say(t, "workers:%zu\r\n", p->crew->n);
    metrics_each(&sum.metrics, say_metric, t);
    text_say(t, "hit_ratio:%.4f\r\n", metrics_hit_ratio(&sum.metrics));
    text_say(t, "entries:%llu\r\nbytes:%llu\r\nlimit:%llu\r\nmapped:%llu\r\nholes:%llu\r\n",
             (unsigned long long)s.entries, (unsigned long long)s.bytes,
             (unsigned long long)s.limit, (unsigned long long)s.mapped,
             (unsigned long long)s.holes);
    text_say(t, "evictions:%llu\r\nexpired:%llu\r\nkilled:%llu\r\nrejected:%llu\r\n",
             (unsigned long long)s.evictions, (unsigned long long)s.expired,
             (unsigned long long)s.killed, (unsigned long long)s.rejected);
    text_say(t, "link_mode:%s\r\nlink_lease_age_ms:%lld\r\nlink_last_error:%s\r\nserving:%d\r\n",
             link_mode(p->link), (long long)coherence_lease_age(p->coherence, now),
             link_last_error(p->link), coherence_serving(p->coherence, now));
    text_say(
        t, "upstream:%s\r\nupstream_version:%s\r\nupstream_state:%s\r\nupstream_last_error:%s\r\n",
        p->address->label, link_server_version(p->link), upstream_state(p->upstream),
        upstream_last_error(p->upstream));
    text_say(t, "upstream_connections:%u\r\nupstream_pending:%llu\r\nclients:%zu\r\n",
             sum.connected, (unsigned long long)sum.pending, (size_t)p->crew->n_callers);
    say_breaker(p, t);
    text_say(t, "buffer_bytes:%zu\r\nbuffer_bytes_peak:%zu\r\nbuffer_bytes_limit:%zu\r\n",
             sum.buffers, sum.buffers_peak, p->crew->max_buffers);
    text_say(t, "sessions:%u\r\nsessions_limit:%llu\r\nmonitors:%zu\r\n", sum.lent,
             (unsigned long long)p->config->upstream_sessions, (size_t)p->crew->n_monitors);
}

static void say_section(const struct proxy *p, struct text *t)
{
    workers_still(p->crew->workers);
    say_all(p, t);
    workers_go(p->crew->workers);
}

static void put_info(struct text *out, const struct text *info, unsigned resp)
{
    static const char kind[] = "txt:";
    if (resp != 3) {
        text_bulk(out, (struct resp_slice){info->p, info->len});
    } else {
        text_header(out, '=', strlen(kind) + info->len);
        text_append(out, kind, strlen(kind));
        text_append(out, info->p, info->len);
        text_append(out, "\r\n", 2);
    }
    out->failed |= info->failed;
}

/* The upstream's sections, if they can be had, and ours. */
static bool is_line(struct resp_slice line, const char *name)
{
    return line.len > strlen(name) && memcmp(line.data, name, strlen(name)) == 0;
}

/* Who is connected is seen from here; the invalidation link is not one of the clients that track.
 */
static void append_line(const struct proxy *p, struct text *t, struct resp_slice line)
{
    bool tracks = link_is_tracking(p->link);
    const char *colon = memchr(line.data, ':', line.len);
    unsigned long long n = colon ? strtoull(colon + 1, NULL, 10) : 0;
    if (is_line(line, "connected_clients:"))
        text_say(t, "connected_clients:%zu\r\n", (size_t)p->crew->n_callers);
    else if (is_line(line, "tracking_clients:"))
        text_say(t, "tracking_clients:%llu\r\n", n - (tracks && n > 0));
    else if (is_line(line, "tracking_total_prefixes:"))
        text_say(t, "tracking_total_prefixes:%llu\r\n", n - (tracks && n > 0));
    else
        text_append(t, line.data, line.len);
}

static void append_theirs(const struct proxy *p, struct text *t, struct resp_slice info)
{
    const char *at = info.data, *end = info.data + info.len;
    while (at < end) {
        const char *lf = memchr(at, '\n', (size_t)(end - at));
        const char *stop = lf ? lf + 1 : end;
        append_line(p, t, (struct resp_slice){at, (size_t)(stop - at)});
        at = stop;
    }
}

static bool alter_info(const struct filter *f, struct resp_slice reply, struct text *out)
{
    struct resp_reader r = {reply.data, reply.data + reply.len};
    struct resp_slice theirs = {"", 0};
    struct text t = {0};
    bool ours = f->option;
    if ((reply.len == 0 || !resp_read_bulk(&r, &theirs)) && !ours)
        return false;
    append_theirs(f->proxy, &t, theirs);
    if (ours && theirs.len > 0)
        text_append(&t, "\r\n", 2);
    if (ours)
        say_section(f->proxy, &t);
    put_info(out, &t, f->resp);
    free(t.p);
    return true;
}

/* Does the reply carry our section; which arguments are the upstream's? */
static bool wants_ours(const struct resp_slice *argv, size_t argc, struct resp_slice *theirs,
                       size_t *n)
{
    bool ours = argc == 1;
    *n = 0;
    theirs[(*n)++] = argv[0];
    for (size_t i = 1; i < argc; i++) {
        bool named = resp_slice_is(argv[i], "nearcache");
        ours |= named || resp_slice_is(argv[i], "default") || resp_slice_is(argv[i], "all") ||
                resp_slice_is(argv[i], "everything");
        if (!named)
            theirs[(*n)++] = argv[i];
    }
    return ours;
}

static void answer_section(struct proxy *p, struct caller *c)
{
    struct text t = {0};
    say_section(p, &t);
    if (t.failed)
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    else
        caller_answer_verbatim(c, t.p, t.len);
    free(t.p);
}

static void run_info(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    size_t n;
    struct resp_slice *theirs = calloc(argc, sizeof *theirs);
    if (!theirs) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    bool ours = wants_ours(argv, argc, theirs, &n);
    if (n == 1 && argc > 1) /* INFO nearcache: nothing to ask */
        answer_section(p, c);
    else
        filtered_ask(p, c, alter_info, ours, theirs, n);
    free(theirs);
}

static void answer_lines(struct caller *c, const char *const *lines, size_t n)
{
    struct chain *out = caller_reply(c);
    wire_header(out, '*', n);
    for (size_t i = 0; i < n; i++) {
        chain_append(out, "+", 1);
        chain_append(out, lines[i], strlen(lines[i]));
        chain_append(out, "\r\n", 2);
    }
    caller_replied(c);
}

/* --- NEARCACHE ----------------------------------------------------------------------------------
 */

static void run_nearcache_help(struct caller *c)
{
    static const char *const lines[] = {
        "NEARCACHE <subcommand> [<arg> ...]. Subcommands are:",
        "STATS",
        "    Counters and gauges of this proxy as name, value pairs.",
        "KEY <key>",
        "    Where a key stands: its full name, cached or why not, size, age, time left, uses.",
        "FLUSH [<prefix>]",
        "    Evict everything, or the keys with a prefix, from the L1 only. Redis keeps its data.",
        "HELP",
        "    Prints this help."};
    answer_lines(c, lines, sizeof lines / sizeof *lines);
}

/* "a:1\r\nb:2\r\n" -> name, value pairs; no value holds a CR or LF. */
static void answer_pairs(struct caller *c, struct text *t)
{
    struct chain *out = caller_reply(c);
    size_t lines = 0;
    for (const char *p = t->p; (p = strstr(p, "\r\n")); p += 2)
        lines++;
    caller_map_header(c, out, lines);
    for (const char *line = t->p, *stop; (stop = strstr(line, "\r\n")); line = stop + 2) {
        size_t name = strcspn(line, ":\r"), value = name + (line[name] == ':');
        wire_bulk(out, (struct resp_slice){line, name});
        wire_bulk(out, (struct resp_slice){line + value, (size_t)(stop - line) - value});
    }
    caller_replied(c);
    free(t->p);
}

static void run_nearcache_stats(struct proxy *p, struct caller *c)
{
    struct text t = {0};
    say_section(p, &t);
    if (t.failed) {
        free(t.p);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    size_t title = strlen("# Nearcache\r\n");
    memmove(t.p, t.p + title, t.len - title + 1);
    t.len -= title;
    answer_pairs(c, &t);
}

static void pair_text(struct chain *out, const char *name, const char *value)
{
    wire_bulk(out, wire_text(name));
    wire_bulk(out, wire_text(value));
}

static void pair_number(struct chain *out, const char *name, uint64_t value)
{
    wire_bulk(out, wire_text(name));
    wire_integer(out, value > INT64_MAX ? -1 : (int64_t)value);
}

/* An entry lives for l1.ttl, or less where its key expires sooner: then it is younger than this. */
static uint64_t age_at_most(const struct proxy *p, const struct l1_info *info)
{
    uint64_t ttl = p->config->l1_ttl;
    return ttl > info->time_left_ms ? ttl - info->time_left_ms : 0;
}

static void run_nearcache_key(struct proxy *p, struct caller *c, struct resp_slice key)
{
    uint64_t now = loop_now(p->loop);
    struct l1_info info = {0};
    struct l1_view view = proxy_get_view(c, key, coherence_hash(p->coherence, key.data, key.len));
    const char *obstacle = coherence_obstacle(p->coherence, view.hash, now);
    bool there = coherence_inspect(p->coherence, &view, now, &info);
    if (there && info.suspect && !obstacle)
        obstacle = "suspect: the invalidation link was lost since; the next GET asks for it again";
    else if (there && info.time_left_ms == 0 && !obstacle)
        obstacle = "older than l1.ttl; kept in case the upstream is down (l1.stale_if_error)";
    bool cached = there && !obstacle;
    struct chain *out = caller_reply(c);
    caller_map_header(c, out, there ? 9 : 3);
    wire_bulk(out, wire_text("key"));
    wire_bulk2(out, p->ns->prefix, key);
    pair_text(out, "cached", cached ? "yes" : "no");
    pair_text(out, "why",
              cached     ? "a GET of it is answered from the L1"
              : obstacle ? obstacle
                         : "not asked for lately, or evicted, expired or changed");
    if (there) {
        pair_number(out, "reply_bytes", info.reply_len);
        pair_number(out, "footprint_bytes", info.footprint);
        pair_number(out, "age_ms_at_most", age_at_most(p, &info));
        pair_number(out, "time_left_ms", info.time_left_ms);
        pair_number(out, "recent_hits", (info.credit + CREDIT_PER_HIT - 1) / CREDIT_PER_HIT);
        pair_text(out, "ring", info.in_main ? "main" : "small");
    }
    caller_replied(c);
}

static void run_nearcache_flush(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                                size_t argc)
{
    struct resp_slice prefix = argc > 2 ? argv[2] : (struct resp_slice){"", 0};
    if (argc > 3)
        caller_answer_error(c, "ERR syntax error");
    else
        caller_answer_integer(
            c, (int64_t)coherence_kill_prefix(p->coherence, prefix.data, prefix.len));
}

/* --- dispatch -----------------------------------------------------------------------------------
 */

static void run_quit(struct caller *c)
{
    caller_answer_text(c, "+OK\r\n");
    c->quitting = true;
}

/* A container without a sub-command that we know. */
static void answer_unknown(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                           size_t argc)
{
    char error[COMMAND_ERROR_MAX];
    caller_answer(c, error, command_unknown_error(p->commands, argv, argc, error));
}

void local_run(struct proxy *p, struct caller *c, const struct command *command,
               const struct resp_slice *argv, size_t argc)
{
    switch (command->id) {
    case COMMAND_ID_QUIT:
        run_quit(c);
        break;
    case COMMAND_ID_AUTH:
        identity_auth(p, c, argv, argc);
        break;
    case COMMAND_ID_HELLO:
        identity_hello(p, c, argv, argc);
        break;
    case COMMAND_ID_ACL_WHOAMI:
        identity_whoami(p, c);
        break;
    case COMMAND_ID_MONITOR:
        monitor_start(p, c);
        break;
    case COMMAND_ID_INFO:
        run_info(p, c, argv, argc);
        break;
    case COMMAND_ID_CONFIG_GET:
        filtered_config_get(p, c, command, argv, argc);
        break;
    case COMMAND_ID_SLOWLOG_GET:
        filtered_slowlog_get(p, c, command, argv, argc);
        break;
    case COMMAND_ID_NEARCACHE_HELP:
        run_nearcache_help(c);
        break;
    case COMMAND_ID_NEARCACHE_STATS:
        run_nearcache_stats(p, c);
        break;
    case COMMAND_ID_NEARCACHE_KEY:
        run_nearcache_key(p, c, argv[2]);
        break;
    case COMMAND_ID_NEARCACHE_FLUSH:
        run_nearcache_flush(p, c, argv, argc);
        break;
    default:
        if (!clients_run(p, c, command, argv, argc))
            answer_unknown(p, c, argv, argc);
        break;
    }
}
