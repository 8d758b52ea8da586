/* announce.c - tells the other instances of the service which keys its clients have written. */
#include "announce.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "json.h"
#include "notice.h"
#include "query.h"
#include "wire.h"

enum { DEDUPE_MAX = 64 }; /* events of a turn that a new one is compared with */

struct event {
    struct announce_lane lane;
    bool all;
    size_t len;
    char *key; /* owned */
};

struct announce {
    struct loop *loop;
    struct upstream *upstream;
    const struct namespace *ns;
    const char *service;
    struct metrics *metrics;
    char origin[17];
    struct loop_job job;
    struct event *v;
    size_t n, cap;
};

struct announce *announce_new(struct loop *loop, struct upstream *upstream,
                              const struct namespace *ns, const char *service, const char *origin,
                              struct metrics *metrics)
{
    struct announce *a = calloc(1, sizeof *a);
    uint64_t random;
    if (!a)
        return NULL;
    a->loop = loop;
    a->upstream = upstream;
    a->ns = ns;
    a->service = service;
    a->metrics = metrics;
    evutil_secure_rng_get_bytes(&random, sizeof random);
    if (origin)
        snprintf(a->origin, sizeof a->origin, "%s", origin);
    else
        snprintf(a->origin, sizeof a->origin, "%016llx", (unsigned long long)random);
    return a;
}

static void forget_events(struct announce *a)
{
    for (size_t i = 0; i < a->n; i++)
        free(a->v[i].key);
    a->n = 0;
}

void announce_free(struct announce *a)
{
    if (!a)
        return;
    loop_cancel(a->loop, &a->job);
    forget_events(a);
    free(a->v);
    free(a);
}

const char *announce_origin(const struct announce *a)
{
    return a->origin;
}

/* --- what an event says -------------------------------------------------------------------------
 */

/* Bytes of the UTF-8 character at p (RFC 3629: no surrogates, nothing overlong), 0: none. */
static size_t utf8_character(const unsigned char *p, size_t n)
{
    static const struct {
        unsigned char first, last, low, high; /* of the first byte, of the second one */
        size_t len;
    } rows[] = {
        {0x01, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (*p < rows[i].first || *p > rows[i].last)
            continue;
        size_t len = rows[i].len;
        bool ok = len <= n && (len < 2 || (p[1] >= rows[i].low && p[1] <= rows[i].high));
        for (size_t k = 2; ok && k < len; k++)
            ok = (p[k] & 0xc0) == 0x80;
        return ok ? len : 0;
    }
    return 0;
}

static bool is_json_text(struct resp_slice s)
{
    const unsigned char *p = (const unsigned char *)s.data;
    for (size_t at = 0, len; at < s.len; at += len)
        if ((len = utf8_character(p + at, s.len - at)) == 0)
            return false;
    return true;
}

/* The key in quotes; malloc'ed. */
static char *quoted(struct resp_slice s)
{
    char *text = malloc(s.len + 1);
    if (!text)
        return NULL;
    if (s.len)
        memcpy(text, s.data, s.len);
    text[s.len] = '\0';
    char *json = json_print_string(text);
    free(text);
    return json;
}

char *announce_event(const char *service, const struct resp_slice *key, uint64_t timestamp,
                     const char *origin)
{
    if (key && !is_json_text(*key))
        return NULL;
    char *whose = json_print_string(service), *name = quoted(key ? *key : (struct resp_slice){0});
    char *event = NULL;
    if (whose && name &&
        asprintf(&event, "{\"service\":%s,\"%s\":%s,\"timestamp\":%llu,\"origin\":\"%s\"}", whose,
                 key ? "key" : "prefix", name, (unsigned long long)timestamp, origin) < 0)
        event = NULL;
    free(whose);
    free(name);
    return event;
}

static uint64_t wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- sending ------------------------------------------------------------------------------------
 */

static void publish(struct announce *a, const struct event *e, uint64_t now)
{
    struct resp_slice key = {e->key, e->len};
    struct upstream_conn *uc =
        upstream_get(a->upstream, e->lane.db, e->lane.resp, e->lane.slot, e->lane.serial);
    if (!uc || upstream_refusal(uc) || !upstream_expect(uc, NULL, REPLY_IGNORED))
        return;
    char *event = announce_event(a->service, e->all ? NULL : &key, now, a->origin);
    struct chain *out = upstream_out(uc);
    wire_header(out, '*', 3);
    wire_bulk(out, wire_text("PUBLISH"));
    wire_bulk(out, wire_text(event ? NOTICE_CHANNEL : NOTICE_CHANNEL_L1));
    if (event)
        wire_bulk(out, wire_text(event));
    else
        wire_bulk2(out, a->ns->prefix, key);
    free(event);
    upstream_sent(uc);
    a->metrics->events_published++;
}

static void publish_events(struct loop_job *job)
{
    struct announce *a = (struct announce *)((char *)job - offsetof(struct announce, job));
    uint64_t now = wall_ms();
    for (size_t i = 0; i < a->n; i++)
        publish(a, &a->v[i], now);
    forget_events(a);
}

static bool same_lane(const struct announce_lane *a, const struct announce_lane *b)
{
    return a->db == b->db && a->slot == b->slot && a->resp == b->resp && a->serial == b->serial;
}

static bool is_known(const struct announce *a, const struct event *e)
{
    size_t first = a->n > DEDUPE_MAX ? a->n - DEDUPE_MAX : 0;
    for (size_t i = first; i < a->n; i++) {
        const struct event *other = &a->v[i];
        if (other->all == e->all && other->len == e->len && same_lane(&other->lane, &e->lane) &&
            (e->len == 0 || memcmp(other->key, e->key, e->len) == 0))
            return true;
    }
    return false;
}

static void collect(struct announce *a, struct event e)
{
    if (is_known(a, &e))
        return;
    if (a->n == a->cap) {
        size_t cap = a->cap ? 2 * a->cap : 16;
        struct event *more = realloc(a->v, cap * sizeof *more);
        if (!more)
            return;
        a->v = more;
        a->cap = cap;
    }
    char *key = malloc(e.len + 1);
    if (!key)
        return;
    if (e.len)
        memcpy(key, e.key, e.len);
    e.key = key;
    a->v[a->n++] = e;
    loop_soon(a->loop, &a->job, publish_events);
}

void announce_key(struct announce *a, struct announce_lane lane, struct resp_slice key)
{
    collect(a, (struct event){.lane = lane, .len = key.len, .key = (char *)key.data});
}

void announce_all(struct announce *a, struct announce_lane lane)
{
    collect(a, (struct event){.lane = lane, .all = true});
}
