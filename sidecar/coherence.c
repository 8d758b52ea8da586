/* coherence.c - which stored replies may be served: fills, kills, epochs and the lease. */
#include "coherence.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "resp_read.h"

enum { BUCKETS = 1024, FILL_MAGIC = 0x66696c6c, TTL_UNKNOWN = -3 };

/* Open -> (joinable until the reply begins) -> both parts in -> stored or dropped, freed. */
struct fill {
    uint32_t magic;
    uint8_t parts_owed; /* the value and the TTL */
    uint8_t resp;       /* version of RESP of the reply */
    bool attached;      /* still the fill of its view: nothing has changed the key */
    bool superseded;    /* by a newer one: the key need not be killed */
    bool begun;         /* reply bytes have come: too late to join */
    uint8_t absent;     /* enum command_absent */
    bool keep;
    struct fill *next; /* in its bucket */
    void *waiters;
    const void *path; /* compared only */
    uint64_t hash, sent;
    uint8_t ttl_len;
    char ttl[28]; /* the reply to PTTL: ":<ms>\r\n" */
    int64_t pttl;
    char *value;
    size_t value_len, value_cap;
    size_t key_len, view_len;
    char names[]; /* key, then view */
};

/* Writes of one key that are under way. */
struct pending {
    struct pending *next;
    uint64_t hash;
    uint64_t count;
};

struct coherence {
    struct l1 *l1;
    struct metrics *metrics;
    struct coherence_options options;
    bool enabled; /* there is an L1 at all */
    bool up;
    bool stored; /* since the last epoch: something to clear */
    uint64_t proven;
    uint64_t all_pending; /* writes whose keys can't be told */
    uint64_t open_fills;
    struct fill *fills[BUCKETS];
    struct pending *writes[BUCKETS];
};

static size_t bucket(uint64_t hash)
{
    return (size_t)(hash >> 17) % BUCKETS;
}

struct coherence *coherence_new(struct l1 *l1, struct metrics *metrics,
                                const struct coherence_options *options)
{
    struct coherence *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    struct l1_stats stats;
    l1_get_stats(l1, &stats);
    c->l1 = l1;
    c->metrics = metrics;
    c->options = *options;
    c->enabled = stats.limit > 0;
    return c;
}

void coherence_free(struct coherence *c)
{
    if (!c)
        return;
    assert(c->open_fills == 0);
    for (size_t i = 0; i < BUCKETS; i++)
        assert(!c->writes[i]);
    free(c);
}

void coherence_set_options(struct coherence *c, const struct coherence_options *options)
{
    c->options = *options;
}

/* --- kills and epochs ---------------------------------------------------------------------------
 */

static void unlink_fill(struct fill **at)
{
    struct fill *f = *at;
    assert(f->attached);
    *at = f->next;
    f->next = NULL;
    f->attached = false;
    free(f->value);
    f->value = NULL;
    f->value_len = f->value_cap = 0;
}

static void discard(struct coherence *c, struct fill **at)
{
    unlink_fill(at);
    c->metrics->fills_discarded++;
}

static void detach(struct coherence *c, uint64_t hash)
{
    struct fill **at = &c->fills[bucket(hash)];
    while (*at) {
        if ((*at)->hash == hash)
            discard(c, at);
        else
            at = &(*at)->next;
    }
}

void coherence_kill(struct coherence *c, uint64_t hash)
{
    detach(c, hash);
    (void)l1_kill(c->l1, hash);
}

struct doomed {
    const char *prefix;
    size_t len;
    uint64_t *hashes;
    size_t n, cap;
    bool failed;
};

static bool begins_with(const struct doomed *d, const char *key, size_t len)
{
    return len >= d->len && memcmp(key, d->prefix, d->len) == 0;
}

static bool note_doomed(void *ctx, const struct l1_view *v, uint64_t deadline)
{
    struct doomed *d = ctx;
    (void)deadline;
    if (!begins_with(d, v->key, v->key_len))
        return true;
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 256;
        uint64_t *more = realloc(d->hashes, cap * sizeof *more);
        d->failed = !more;
        if (!more)
            return false;
        d->hashes = more;
        d->cap = cap;
    }
    d->hashes[d->n++] = v->hash;
    return true;
}

static void discard_prefix(struct coherence *c, const struct doomed *d)
{
    for (size_t i = 0; i < BUCKETS && c->open_fills; i++) {
        struct fill **at = &c->fills[i];
        while (*at) {
            if (begins_with(d, (*at)->names, (*at)->key_len))
                discard(c, at);
            else
                at = &(*at)->next;
        }
    }
}

size_t coherence_kill_prefix(struct coherence *c, const char *prefix, size_t len)
{
    struct doomed d = {.prefix = prefix, .len = len};
    struct l1_stats stats;
    l1_get_stats(c->l1, &stats);
    if (len > 0)
        l1_each(c->l1, note_doomed, &d);
    if (len == 0 || d.failed) { /* more than was asked for is still right */
        coherence_new_epoch(c);
        d.n = stats.entries;
    } else {
        discard_prefix(c, &d);
        for (size_t i = 0; i < d.n; i++)
            (void)l1_kill(c->l1, d.hashes[i]);
    }
    free(d.hashes);
    return d.n;
}

void coherence_kill_key(struct coherence *c, const char *key, size_t len)
{
    uint64_t hash = l1_hash(c->l1, key, len);
    if (RULE_IN_FORCE(RULE_MESSAGE_DETACHES))
        detach(c, hash);
    if (RULE_IN_FORCE(RULE_MESSAGE_KILLS))
        (void)l1_kill(c->l1, hash);
}

static void discard_all(struct coherence *c)
{
    for (size_t i = 0; i < BUCKETS && c->open_fills; i++)
        while (c->fills[i])
            discard(c, &c->fills[i]);
}

void coherence_new_epoch(struct coherence *c)
{
    discard_all(c);
    if (c->stored) {
        l1_clear(c->l1);
        c->stored = false;
    }
    c->metrics->epochs++;
}

/* Nobody tells what changes meanwhile: nothing that was learned before counts. */
void coherence_suspect(struct coherence *c)
{
    discard_all(c);
    l1_suspect_all(c->l1);
    c->metrics->epochs++;
}

void coherence_link_up(struct coherence *c, uint64_t proven)
{
    if (RULE_IN_FORCE(RULE_SUSPECT_AT_LIVE))
        coherence_suspect(c);
    c->up = true;
    c->proven = proven;
}

void coherence_link_down(struct coherence *c)
{
    if (!c->up)
        return;
    c->up = false;
    if (RULE_IN_FORCE(RULE_SUSPECT_AT_LOSS))
        coherence_suspect(c);
}

void coherence_renew(struct coherence *c, uint64_t proven)
{
    if (c->up && proven > c->proven)
        c->proven = proven;
}

uint64_t coherence_lease_age(const struct coherence *c, uint64_t now)
{
    return now > c->proven ? now - c->proven : 0;
}

bool coherence_serving(const struct coherence *c, uint64_t now)
{
    return c->up && (!RULE_IN_FORCE(RULE_LEASE) || coherence_lease_age(c, now) <= c->options.lease);
}

/* --- reads --------------------------------------------------------------------------------------
 */

bool coherence_lookup(struct coherence *c, const struct l1_view *view, uint64_t now,
                      struct l1_hit *hit)
{
    return coherence_serving(c, now) && l1_lookup(c->l1, view, now, hit);
}

static bool same_view(const struct fill *f, const struct l1_view *v)
{
    return f->hash == v->hash && f->key_len == v->key_len && f->view_len == v->view_len &&
           memcmp(f->names, v->key, v->key_len) == 0 &&
           memcmp(f->names + f->key_len, v->view, v->view_len) == 0;
}

static struct fill *find_fill(const struct coherence *c, const struct l1_view *view)
{
    struct fill *f = c->fills[bucket(view->hash)];
    while (f && !same_view(f, view))
        f = f->next;
    return f;
}

static const struct pending *find_pending(const struct coherence *c, uint64_t hash)
{
    const struct pending *p = c->writes[bucket(hash)];
    while (p && p->hash != hash)
        p = p->next;
    return p;
}

struct fill *coherence_join(const struct coherence *c, const struct l1_view *view, unsigned resp)
{
    struct fill *f = find_fill(c, view);
    return f && !f->begun && f->resp == resp ? f : NULL;
}

const char *coherence_obstacle(const struct coherence *c, uint64_t hash, uint64_t now)
{
    if (!c->enabled)
        return "the L1 is off (l1.max_memory is 0)";
    if (!c->up)
        return "the invalidation link is down";
    if (!coherence_serving(c, now))
        return "the invalidation link has not answered within the lease";
    if (c->all_pending)
        return "a write of unknown keys is under way";
    return find_pending(c, hash) ? "a write of the key is under way" : NULL;
}

static struct fill **place_of(struct coherence *c, struct fill *f)
{
    struct fill **at = &c->fills[bucket(f->hash)];
    while (*at != f)
        at = &(*at)->next;
    return at;
}

/* On one path the newer fill is answered later, and takes care of the key. */
void coherence_detach_fill(struct coherence *c, const struct l1_view *view, const void *path)
{
    struct fill *f = find_fill(c, view);
    if (!f || !RULE_IN_FORCE(RULE_SUPERSEDE))
        return;
    f->superseded = f->path == path;
    discard(c, place_of(c, f));
}

const void *coherence_fill_path(const struct fill *f)
{
    return f->path;
}

bool coherence_read_kills(const struct coherence *c)
{
    return c->enabled && c->up;
}

static bool may_fill(const struct coherence *c, uint64_t hash)
{
    if (!c->up && RULE_IN_FORCE(RULE_FILL_WHILE_LIVE))
        return false;
    if ((c->all_pending || find_pending(c, hash)) && RULE_IN_FORCE(RULE_PENDING))
        return false;
    return c->enabled;
}

struct fill *coherence_begin_fill(struct coherence *c, const struct l1_view *view,
                                  const struct fill_terms *terms)
{
    if (!may_fill(c, view->hash))
        return NULL;
    coherence_detach_fill(c, view, terms->path);
    struct fill *f = malloc(sizeof *f + view->key_len + view->view_len);
    if (!f)
        return NULL;
    *f = (struct fill){.magic = FILL_MAGIC,
                       .parts_owed = 2,
                       .absent = (uint8_t)terms->absent,
                       .resp = (uint8_t)terms->resp,
                       .attached = true,
                       .hash = view->hash,
                       .sent = terms->now,
                       .path = terms->path,
                       .key_len = view->key_len,
                       .view_len = view->view_len};
    memcpy(f->names, view->key, view->key_len);
    if (view->view_len)
        memcpy(f->names + view->key_len, view->view, view->view_len);
    f->next = c->fills[bucket(view->hash)];
    c->fills[bucket(view->hash)] = f;
    c->open_fills++;
    return f;
}

void **coherence_fill_waiters(struct fill *f)
{
    assert(f->magic == FILL_MAGIC);
    return &f->waiters;
}

void coherence_fill_value(struct coherence *c, struct fill *f, const char *p, size_t n)
{
    assert(f->magic == FILL_MAGIC);
    f->begun = true;
    if (!f->attached || n == 0)
        return;
    if (n > c->options.max_value - f->value_len) {
        discard(c, place_of(c, f));
        return;
    }
    if (f->value_cap - f->value_len < n) {
        size_t cap = f->value_len + n <= 2 * f->value_cap ? 2 * f->value_cap : f->value_len + n;
        char *value = realloc(f->value, cap);
        if (!value) {
            discard(c, place_of(c, f));
            return;
        }
        f->value = value;
        f->value_cap = cap;
    }
    memcpy(f->value + f->value_len, p, n);
    f->value_len += n;
}

static bool is_one_of(const char *p, size_t n, const char *const *forms)
{
    for (size_t i = 0; forms[i]; i++)
        if (n == strlen(forms[i]) && memcmp(p, forms[i], n) == 0)
            return true;
    return false;
}

/* An array of nothing but such elements. */
static bool is_list_of(const char *p, size_t n, const char *const *forms)
{
    const char *end = p + n, *lf = *p == '*' ? memchr(p, '\n', n) : NULL;
    bool some = false;
    while (lf && (p = lf + 1) < end) {
        lf = memchr(p, '\n', (size_t)(end - p));
        some = lf && is_one_of(p, (size_t)(lf + 1 - p), forms);
        if (!some)
            return false;
    }
    return some;
}

/* Exactly what the read answers of a key that is not there; a value that expired just after it was
 * read differs. */
static bool says_absent(const struct fill *f)
{
    static const char *const nil[] = {"$-1\r\n", "_\r\n", "*-1\r\n", NULL};
    static const char *const zero[] = {":0\r\n", NULL}, *const none[] = {"+none\r\n", NULL};
    static const char *const empty[] = {"$0\r\n\r\n", NULL};
    const char *p = f->value;
    size_t n = f->value_len;
    switch ((enum command_absent)f->absent) {
    case COMMAND_ABSENT_NEVER:
        return false;
    case COMMAND_ABSENT_VALUE:
    case COMMAND_ABSENT_NIL:
        return is_one_of(p, n, nil);
    case COMMAND_ABSENT_ZERO:
        return is_one_of(p, n, zero);
    case COMMAND_ABSENT_EMPTY:
        return is_one_of(p, n, empty);
    case COMMAND_ABSENT_NONE:
        return is_one_of(p, n, none);
    case COMMAND_ABSENT_SOUGHT:
        return is_one_of(p, n, nil) || (n == 4 && memcmp(p, "*0\r\n", 4) == 0);
    case COMMAND_ABSENT_LIST:
        return n == 4 && strchr("*%~", *p) && memcmp(p + 1, "0\r\n", 3) == 0;
    case COMMAND_ABSENT_NILS:
        return is_list_of(p, n, nil);
    case COMMAND_ABSENT_ZEROS:
        return is_list_of(p, n, zero);
    }
    return false;
}

/* How long the reply may be kept, ms; 0: not at all. */
static uint64_t life_of(const struct coherence *c, const struct fill *f)
{
    uint64_t life = c->options.ttl;
    if (!f->keep || f->value_len <= 2 || f->pttl < -2)
        return 0;
    if (f->pttl == -2 && !says_absent(f))
        return 0;
    if (f->pttl == -2)
        return c->options.negative_ttl < life ? c->options.negative_ttl : life;
    if (f->absent == COMMAND_ABSENT_VALUE && says_absent(f)) /* there by now, or of another type */
        return 0;
    bool expires = f->pttl >= 0 && RULE_IN_FORCE(RULE_PTTL);
    return expires && (uint64_t)f->pttl < life ? (uint64_t)f->pttl : life;
}

static struct l1_view view_of(const struct fill *f)
{
    return (struct l1_view){.key = f->names,
                            .key_len = f->key_len,
                            .hash = f->hash,
                            .view = f->names + f->key_len,
                            .view_len = f->view_len};
}

/* The deadline counts from before the value was asked for: an expired key is never served. */
static void store(struct coherence *c, struct fill *f, uint64_t now)
{
    struct l1_view view = view_of(f);
    /* Without a life it only takes away an older one, which was not served at the time. */
    uint64_t from = RULE_IN_FORCE(RULE_DEADLINE_FROM_SEND) ? f->sent : now;
    if (l1_insert(c->l1, &view, f->value, f->value_len, from + life_of(c, f), now))
        c->metrics->fills++;
    c->stored = true;
}

/* What its readers have been shown must not be taken back. On its own path nothing newer has come
 * yet, and the newer fill there takes care of itself; what another path brings may be older. */
static void forget_others(struct coherence *c, const struct fill *f)
{
    struct l1_view view = view_of(f);
    struct fill *other = find_fill(c, &view);
    (void)l1_insert(c->l1, &view, "", 0, 0, 0);
    if (other && other->path != f->path)
        discard(c, place_of(c, other));
}

static void end_detached(struct coherence *c, const struct fill *f)
{
    if (f->superseded)
        forget_others(c, f);
    else
        coherence_kill(c, f->hash);
}

/* Both parts are in: store it if nothing came between, and forget it. */
static void part_done(struct coherence *c, struct fill *f, uint64_t now)
{
    assert(f->parts_owed > 0);
    if (--f->parts_owed > 0)
        return;
    if (!f->attached) {
        end_detached(c, f);
    } else {
        store(c, f, now);
        unlink_fill(place_of(c, f));
    }
    c->open_fills--;
    f->magic = 0;
    free(f->value);
    free(f);
}

void coherence_fill_value_end(struct coherence *c, struct fill *f, bool keep, uint64_t now)
{
    assert(f->magic == FILL_MAGIC);
    f->begun = true;
    f->keep = keep;
    if (!f->attached) /* its value has been shown by now, its PTTL may come late */
        end_detached(c, f);
    part_done(c, f, now);
}

void coherence_fill_ttl(struct fill *f, const char *p, size_t n)
{
    assert(f->magic == FILL_MAGIC);
    size_t room = sizeof f->ttl - f->ttl_len;
    memcpy(f->ttl + f->ttl_len, p, n < room ? n : room);
    f->ttl_len = (uint8_t)(f->ttl_len + (n < room ? n : room));
}

void coherence_fill_ttl_end(struct coherence *c, struct fill *f, bool whole, uint64_t now)
{
    assert(f->magic == FILL_MAGIC);
    struct resp_reader reader = {f->ttl, f->ttl + f->ttl_len};
    if (!whole || !resp_read_integer(&reader, &f->pttl))
        f->pttl = TTL_UNKNOWN;
    part_done(c, f, now);
}

/* --- writes -------------------------------------------------------------------------------------
 */

bool coherence_write_begin(struct coherence *c, uint64_t hash)
{
    struct pending *p = (struct pending *)find_pending(c, hash);
    if (!p) {
        p = malloc(sizeof *p);
        if (!p)
            return false;
        *p = (struct pending){.hash = hash, .next = c->writes[bucket(hash)]};
        c->writes[bucket(hash)] = p;
    }
    p->count++;
    if (RULE_IN_FORCE(RULE_KILL_AT_SEND))
        coherence_kill(c, hash);
    return true;
}

void coherence_write_end(struct coherence *c, uint64_t hash)
{
    struct pending **at = &c->writes[bucket(hash)];
    while (*at && (*at)->hash != hash)
        at = &(*at)->next;
    struct pending *p = *at;
    assert(p && p->count > 0);
    if (--p->count == 0) {
        *at = p->next;
        free(p);
    }
    if (RULE_IN_FORCE(RULE_KILL_AT_REPLY))
        coherence_kill(c, hash);
}

void coherence_write_all_begin(struct coherence *c)
{
    c->all_pending++;
    if (RULE_IN_FORCE(RULE_EPOCH_AT_SEND))
        coherence_new_epoch(c);
}

void coherence_write_all_end(struct coherence *c)
{
    assert(c->all_pending > 0);
    c->all_pending--;
    if (RULE_IN_FORCE(RULE_EPOCH_AT_REPLY))
        coherence_new_epoch(c);
}
