/* coherence.c - which stored replies may be served: fills, kills, epochs and the lease. */
#include "coherence.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"
#include "resp_read.h"

enum { HEADS_MIN = 1024, DOUBTS = 16, FILL_MAGIC = 0x66696c6c, TTL_UNKNOWN = -3 };

/* What is kept by a key's hash: chains, of which there are more the more is kept. */
struct node {
    struct node *next;
    uint64_t hash;
};
struct table {
    struct node **heads;
    size_t size, n; /* size: a power of two */
};

/* Open -> (joinable until the reply begins) -> both parts in -> stored or dropped, freed. */
struct fill {
    struct node node; /* first */
    uint32_t magic;
    uint8_t parts_owed; /* the value and the TTL */
    uint8_t resp;       /* version of RESP of the reply */
    bool attached;      /* still the fill of its view: nothing has changed the key */
    bool superseded;    /* by a newer one: the key need not be killed */
    bool begun;         /* reply bytes have come: too late to join */
    uint8_t absent;     /* enum command_absent */
    bool keep;
    void *waiters;
    const void *path; /* compared only */
    uint64_t sent;
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
    struct node node; /* first */
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
    uint64_t doubts[DOUBTS]; /* when all that was stored was last known to be right, each time that
                                it became suspect; a ring */
    uint64_t n_doubts;
    uint64_t all_pending; /* writes whose keys can't be told */
    uint64_t open_fills;
    struct table fills, writes; /* struct fill, those that are attached; struct pending */
};

/* --- tables -------------------------------------------------------------------------------------
 */

static struct node **head(const struct table *t, uint64_t hash)
{
    return &t->heads[(hash >> 17) & (t->size - 1)];
}

static bool table_init(struct table *t)
{
    *t = (struct table){.heads = calloc(HEADS_MIN, sizeof *t->heads), .size = HEADS_MIN};
    return t->heads;
}

/* Without memory for it the chains stay as long as they are. */
static void resize(struct table *t, size_t size)
{
    struct table other = {.heads = calloc(size, sizeof *other.heads), .size = size, .n = t->n};
    if (!other.heads)
        return;
    for (size_t i = 0; i < t->size; i++)
        while (t->heads[i]) {
            struct node *n = t->heads[i];
            t->heads[i] = n->next;
            n->next = *head(&other, n->hash);
            *head(&other, n->hash) = n;
        }
    free(t->heads);
    *t = other;
}

static void insert(struct table *t, struct node *n)
{
    if (t->n >= t->size)
        resize(t, 2 * t->size);
    n->next = *head(t, n->hash);
    *head(t, n->hash) = n;
    t->n++;
}

/* Takes out what *at leads to. */
static struct node *take_out(struct table *t, struct node **at)
{
    struct node *n = *at;
    *at = n->next;
    n->next = NULL;
    if (--t->n == 0 && t->size > HEADS_MIN)
        resize(t, HEADS_MIN);
    return n;
}

static struct node **place_of(const struct table *t, const struct node *n)
{
    struct node **at = head(t, n->hash);
    while (*at != n)
        at = &(*at)->next;
    return at;
}

struct coherence *coherence_new(struct l1 *l1, struct metrics *metrics,
                                const struct coherence_options *options)
{
    struct coherence *c = calloc(1, sizeof *c);
    if (!c || !table_init(&c->fills) || !table_init(&c->writes)) {
        if (c)
            free(c->fills.heads);
        free(c);
        return NULL;
    }
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
    assert(c->open_fills == 0 && c->writes.n == 0);
    free(c->fills.heads);
    free(c->writes.heads);
    free(c);
}

void coherence_set_options(struct coherence *c, const struct coherence_options *options)
{
    c->options = *options;
}

/* --- kills and epochs ---------------------------------------------------------------------------
 */

static void free_value(struct coherence *c, struct fill *f)
{
    budget_give(c->options.budget, f->value_cap);
    free(f->value);
    f->value = NULL;
    f->value_len = f->value_cap = 0;
}

static void unlink_fill(struct coherence *c, struct fill *f)
{
    assert(f->attached);
    (void)take_out(&c->fills, place_of(&c->fills, &f->node));
    f->attached = false;
    free_value(c, f);
}

static void discard(struct coherence *c, struct fill *f)
{
    unlink_fill(c, f);
    c->metrics->fills_discarded++;
}

static void detach(struct coherence *c, uint64_t hash)
{
    struct node *n = *head(&c->fills, hash), *next;
    for (; n; n = next) {
        next = n->next;
        if (n->hash == hash)
            discard(c, (struct fill *)n);
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

/* Discards what is under way and begins so; d NULL: all of it. */
static void discard_some(struct coherence *c, const struct doomed *d)
{
    for (size_t i = 0; i < c->fills.size && c->fills.n; i++) {
        struct node *n = c->fills.heads[i], *next;
        for (; n; n = next) {
            struct fill *f = (struct fill *)n;
            next = n->next;
            if (!d || begins_with(d, f->names, f->key_len))
                discard(c, f);
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
        discard_some(c, &d);
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

void coherence_new_epoch(struct coherence *c)
{
    discard_some(c, NULL);
    if (c->stored) {
        l1_clear(c->l1);
        c->stored = false;
    }
    c->metrics->epochs++;
}

/* Nobody tells what changes meanwhile: nothing that was learned before counts. */
void coherence_suspect(struct coherence *c)
{
    if (c->n_doubts == 0 || c->doubts[(c->n_doubts - 1) % DOUBTS] != c->proven)
        c->doubts[c->n_doubts++ % DOUBTS] = c->proven;
    discard_some(c, NULL);
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

static uint64_t since_proof(const struct coherence *c, uint64_t now)
{
    return now > c->proven ? now - c->proven : 0;
}

uint64_t coherence_lease_age(const struct coherence *c, uint64_t now)
{
    return c->proven ? since_proof(c, now) : UINT64_MAX;
}

bool coherence_serving(const struct coherence *c, uint64_t now)
{
    return c->up && (!RULE_IN_FORCE(RULE_LEASE) || since_proof(c, now) <= c->options.lease);
}

/* --- reads --------------------------------------------------------------------------------------
 */

bool coherence_lookup(struct coherence *c, const struct l1_view *view, uint64_t now,
                      struct l1_hit *hit)
{
    return coherence_serving(c, now) && l1_lookup(c->l1, view, now, hit);
}

/* A suspect was right from when it was stored until the first doubt after that. */
static uint64_t right_until(const struct coherence *c, uint64_t stored)
{
    uint64_t first = c->n_doubts > DOUBTS ? c->n_doubts - DOUBTS : 0;
    if (first > 0 && c->doubts[first % DOUBTS] >= stored) /* what was before that is forgotten */
        return stored;
    for (uint64_t i = first; i < c->n_doubts; i++)
        if (c->doubts[i % DOUBTS] >= stored)
            return c->doubts[i % DOUBTS];
    return stored;
}

bool coherence_lookup_stale(struct coherence *c, const struct l1_view *view, uint64_t now,
                            struct l1_hit *hit)
{
    struct l1_stale stale;
    if (!c->options.stale_keys ||
        !policy_matches(c->options.stale_keys, view->key, view->key_len) ||
        !l1_lookup_stale(c->l1, view, now, hit, &stale))
        return false;
    uint64_t right = stale.fresh < now ? stale.fresh : now;
    uint64_t stored = stale.fresh > c->options.ttl ? stale.fresh - c->options.ttl : 0;
    uint64_t told = stale.suspect               ? right_until(c, stored)
                    : coherence_serving(c, now) ? now
                                                : c->proven;
    return now <= (told < right ? told : right) + c->options.max_stale;
}

static bool same_view(const struct fill *f, const struct l1_view *v)
{
    return f->node.hash == v->hash && f->key_len == v->key_len && f->view_len == v->view_len &&
           memcmp(f->names, v->key, v->key_len) == 0 &&
           memcmp(f->names + f->key_len, v->view, v->view_len) == 0;
}

static struct fill *find_fill(const struct coherence *c, const struct l1_view *view)
{
    struct node *n = *head(&c->fills, view->hash);
    while (n && !same_view((struct fill *)n, view))
        n = n->next;
    return (struct fill *)n;
}

static struct pending *find_pending(const struct coherence *c, uint64_t hash)
{
    struct node *n = *head(&c->writes, hash);
    while (n && n->hash != hash)
        n = n->next;
    return (struct pending *)n;
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

/* On one path the newer fill is answered later, and takes care of the key. */
void coherence_detach_fill(struct coherence *c, const struct l1_view *view, const void *path)
{
    struct fill *f = find_fill(c, view);
    if (!f || !RULE_IN_FORCE(RULE_SUPERSEDE))
        return;
    f->superseded = f->path == path;
    discard(c, f);
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
                       .node.hash = view->hash,
                       .sent = terms->now,
                       .path = terms->path,
                       .key_len = view->key_len,
                       .view_len = view->view_len};
    memcpy(f->names, view->key, view->key_len);
    if (view->view_len)
        memcpy(f->names + view->key_len, view->view, view->view_len);
    insert(&c->fills, &f->node);
    c->open_fills++;
    return f;
}

void **coherence_fill_waiters(struct fill *f)
{
    assert(f->magic == FILL_MAGIC);
    return &f->waiters;
}

/* False: it is not worth the memory, which is short, or there is none. */
static bool value_room(struct coherence *c, struct fill *f, size_t n)
{
    if (f->value_cap - f->value_len >= n)
        return true;
    size_t cap = f->value_len + n <= 2 * f->value_cap ? 2 * f->value_cap : f->value_len + n;
    char *value = budget_is_tight(c->options.budget) ? NULL : realloc(f->value, cap);
    if (!value)
        return false;
    budget_take(c->options.budget, cap - f->value_cap);
    f->value = value;
    f->value_cap = cap;
    return true;
}

void coherence_fill_value(struct coherence *c, struct fill *f, const char *p, size_t n)
{
    assert(f->magic == FILL_MAGIC);
    f->begun = true;
    if (!f->attached || n == 0)
        return;
    if (n > c->options.max_value - f->value_len || !value_room(c, f, n)) {
        discard(c, f);
        return;
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
                            .hash = f->node.hash,
                            .view = f->names + f->key_len,
                            .view_len = f->view_len};
}

/* How much longer it may be kept for when nobody can be asked, never beyond its key's own end. */
static uint64_t afterlife_of(const struct coherence *c, const struct fill *f, uint64_t life)
{
    if (!c->options.stale_keys || !policy_matches(c->options.stale_keys, f->names, f->key_len))
        return 0;
    uint64_t most = c->options.max_stale;
    if (f->pttl < 0)
        return most;
    uint64_t left = (uint64_t)f->pttl > life ? (uint64_t)f->pttl - life : 0;
    return left < most ? left : most;
}

/* The deadline counts from before the value was asked for: an expired key is never served. */
static void store(struct coherence *c, struct fill *f, uint64_t now)
{
    struct l1_view view = view_of(f);
    /* Without a life it only takes away an older one, which was not served at the time. */
    uint64_t from = RULE_IN_FORCE(RULE_DEADLINE_FROM_SEND) ? f->sent : now, life = life_of(c, f);
    uint64_t fresh = from + life, gone = fresh + afterlife_of(c, f, life);
    if (l1_insert_lasting(c->l1, &view, f->value, f->value_len, fresh, gone, now))
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
        discard(c, other);
}

static void end_detached(struct coherence *c, const struct fill *f)
{
    if (f->superseded)
        forget_others(c, f);
    else
        coherence_kill(c, f->node.hash);
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
        unlink_fill(c, f);
    }
    c->open_fills--;
    f->magic = 0;
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
    struct pending *p = find_pending(c, hash);
    if (!p) {
        p = malloc(sizeof *p);
        if (!p)
            return false;
        *p = (struct pending){.node.hash = hash};
        insert(&c->writes, &p->node);
    }
    p->count++;
    if (RULE_IN_FORCE(RULE_KILL_AT_SEND))
        coherence_kill(c, hash);
    return true;
}

void coherence_write_end(struct coherence *c, uint64_t hash)
{
    struct pending *p = find_pending(c, hash);
    assert(p && p->count > 0);
    if (--p->count == 0) {
        (void)take_out(&c->writes, place_of(&c->writes, &p->node));
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

void coherence_hold_fills(struct coherence *c)
{
    c->all_pending++;
}

void coherence_release_fills(struct coherence *c)
{
    assert(c->all_pending > 0);
    c->all_pending--;
}
