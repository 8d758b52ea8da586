/* shard.c - which stored replies may be served: fills, kills, epochs and the lease. */
#include "shard.h"

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
    struct budget *budget;
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

struct shard {
    struct l1 *l1;
    const struct coherence_options *options;
    struct coherence_counts counts;
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

struct shard *shard_new(struct l1 *l1, const struct coherence_options *options)
{
    struct shard *s = calloc(1, sizeof *s);
    if (!s || !table_init(&s->fills) || !table_init(&s->writes)) {
        if (s)
            free(s->fills.heads);
        free(s);
        return NULL;
    }
    struct l1_stats stats;
    l1_get_stats(l1, &stats);
    s->l1 = l1;
    s->options = options;
    s->enabled = stats.limit > 0;
    return s;
}

void shard_free(struct shard *s)
{
    if (!s)
        return;
    assert(s->open_fills == 0 && s->writes.n == 0);
    free(s->fills.heads);
    free(s->writes.heads);
    free(s);
}

struct l1 *shard_l1(const struct shard *s)
{
    return s->l1;
}

const struct coherence_counts *shard_counts(const struct shard *s)
{
    return &s->counts;
}

/* --- kills and epochs ---------------------------------------------------------------------------
 */

/* By the fill's owner only: the budget is its own. */
static void free_value(struct fill *f)
{
    budget_give(f->budget, f->value_cap);
    free(f->value);
    f->value = NULL;
    f->value_len = f->value_cap = 0;
}

static void unlink_fill(struct shard *s, struct fill *f)
{
    assert(f->attached);
    (void)take_out(&s->fills, place_of(&s->fills, &f->node));
    f->attached = false;
}

static void discard(struct shard *s, struct fill *f)
{
    unlink_fill(s, f);
    s->counts.fills_discarded++;
}

static void detach(struct shard *s, uint64_t hash)
{
    struct node *n = *head(&s->fills, hash), *next;
    for (; n; n = next) {
        next = n->next;
        if (n->hash == hash)
            discard(s, (struct fill *)n);
    }
}

void shard_kill(struct shard *s, uint64_t hash)
{
    detach(s, hash);
    (void)l1_kill(s->l1, hash);
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
static void discard_some(struct shard *s, const struct doomed *d)
{
    for (size_t i = 0; i < s->fills.size && s->fills.n; i++) {
        struct node *n = s->fills.heads[i], *next;
        for (; n; n = next) {
            struct fill *f = (struct fill *)n;
            next = n->next;
            if (!d || begins_with(d, f->names, f->key_len))
                discard(s, f);
        }
    }
}

size_t shard_kill_prefix(struct shard *s, const char *prefix, size_t len)
{
    struct doomed d = {.prefix = prefix, .len = len};
    struct l1_stats stats;
    l1_get_stats(s->l1, &stats);
    if (len > 0)
        l1_each(s->l1, note_doomed, &d);
    if (len == 0 || d.failed) { /* more than was asked for is still right */
        shard_new_epoch(s);
        d.n = stats.entries;
    } else {
        discard_some(s, &d);
        for (size_t i = 0; i < d.n; i++)
            (void)l1_kill(s->l1, d.hashes[i]);
    }
    free(d.hashes);
    return d.n;
}

void shard_kill_key(struct shard *s, uint64_t hash)
{
    if (RULE_IN_FORCE(RULE_MESSAGE_DETACHES))
        detach(s, hash);
    if (RULE_IN_FORCE(RULE_MESSAGE_KILLS))
        (void)l1_kill(s->l1, hash);
}

void shard_new_epoch(struct shard *s)
{
    discard_some(s, NULL);
    if (s->stored) {
        l1_clear(s->l1);
        s->stored = false;
    }
    s->counts.epochs++;
}

/* Nobody tells what changes meanwhile: nothing that was learned before counts. */
void shard_suspect(struct shard *s)
{
    if (s->n_doubts == 0 || s->doubts[(s->n_doubts - 1) % DOUBTS] != s->proven)
        s->doubts[s->n_doubts++ % DOUBTS] = s->proven;
    discard_some(s, NULL);
    l1_suspect_all(s->l1);
    s->counts.epochs++;
}

void shard_link_up(struct shard *s, uint64_t proven)
{
    if (RULE_IN_FORCE(RULE_SUSPECT_AT_LIVE))
        shard_suspect(s);
    s->up = true;
    s->proven = proven;
}

void shard_link_down(struct shard *s)
{
    if (!s->up)
        return;
    s->up = false;
    if (RULE_IN_FORCE(RULE_SUSPECT_AT_LOSS))
        shard_suspect(s);
}

void shard_renew(struct shard *s, uint64_t proven)
{
    if (s->up && proven > s->proven)
        s->proven = proven;
}

static uint64_t since_proof(const struct shard *s, uint64_t now)
{
    return now > s->proven ? now - s->proven : 0;
}

uint64_t shard_lease_age(const struct shard *s, uint64_t now)
{
    return s->proven ? since_proof(s, now) : UINT64_MAX;
}

bool shard_serving(const struct shard *s, uint64_t now)
{
    return s->up && (!RULE_IN_FORCE(RULE_LEASE) || since_proof(s, now) <= s->options->lease);
}

/* --- reads --------------------------------------------------------------------------------------
 */

bool shard_lookup(struct shard *s, const struct l1_view *view, uint64_t now, struct l1_hit *hit)
{
    return shard_serving(s, now) && l1_lookup(s->l1, view, now, hit);
}

/* A suspect was right from when it was stored until the first doubt after that. */
static uint64_t right_until(const struct shard *s, uint64_t stored)
{
    uint64_t first = s->n_doubts > DOUBTS ? s->n_doubts - DOUBTS : 0;
    if (first > 0 && s->doubts[first % DOUBTS] >= stored) /* what was before that is forgotten */
        return stored;
    for (uint64_t i = first; i < s->n_doubts; i++)
        if (s->doubts[i % DOUBTS] >= stored)
            return s->doubts[i % DOUBTS];
    return stored;
}

bool shard_lookup_stale(struct shard *s, const struct l1_view *view, uint64_t now,
                        struct l1_hit *hit)
{
    struct l1_stale stale;
    if (!s->options->stale_keys ||
        !policy_matches(s->options->stale_keys, view->key, view->key_len) ||
        !l1_lookup_stale(s->l1, view, now, hit, &stale))
        return false;
    uint64_t right = stale.fresh < now ? stale.fresh : now;
    uint64_t stored = stale.fresh > s->options->ttl ? stale.fresh - s->options->ttl : 0;
    uint64_t told = stale.suspect           ? right_until(s, stored)
                    : shard_serving(s, now) ? now
                                            : s->proven;
    return now <= (told < right ? told : right) + s->options->max_stale;
}

static bool same_view(const struct fill *f, const struct l1_view *v)
{
    return f->node.hash == v->hash && f->key_len == v->key_len && f->view_len == v->view_len &&
           memcmp(f->names, v->key, v->key_len) == 0 &&
           memcmp(f->names + f->key_len, v->view, v->view_len) == 0;
}

static struct fill *find_fill(const struct shard *s, const struct l1_view *view)
{
    struct node *n = *head(&s->fills, view->hash);
    while (n && !same_view((struct fill *)n, view))
        n = n->next;
    return (struct fill *)n;
}

static struct pending *find_pending(const struct shard *s, uint64_t hash)
{
    struct node *n = *head(&s->writes, hash);
    while (n && n->hash != hash)
        n = n->next;
    return (struct pending *)n;
}

struct fill *shard_join(const struct shard *s, const struct l1_view *view,
                        const struct fill_terms *terms)
{
    struct fill *f = find_fill(s, view);
    return f && f->path == terms->path && !f->begun && f->resp == terms->resp ? f : NULL;
}

const char *shard_obstacle(const struct shard *s, uint64_t hash, uint64_t now)
{
    if (!s->enabled)
        return "the L1 is off (l1.max_memory is 0)";
    if (!s->up)
        return "the invalidation link is down";
    if (!shard_serving(s, now))
        return "the invalidation link has not answered within the lease";
    if (s->all_pending)
        return "a write of unknown keys is under way";
    return find_pending(s, hash) ? "a write of the key is under way" : NULL;
}

/* On one path the newer fill is answered later, and takes care of the key. */
void shard_detach_fill(struct shard *s, const struct l1_view *view, const void *path)
{
    struct fill *f = find_fill(s, view);
    if (!f || !RULE_IN_FORCE(RULE_SUPERSEDE))
        return;
    f->superseded = f->path == path;
    discard(s, f);
}

bool shard_read_kills(const struct shard *s)
{
    return s->enabled && s->up;
}

static bool may_fill(const struct shard *s, uint64_t hash)
{
    if (!s->up && RULE_IN_FORCE(RULE_FILL_WHILE_LIVE))
        return false;
    if ((s->all_pending || find_pending(s, hash)) && RULE_IN_FORCE(RULE_PENDING))
        return false;
    return s->enabled;
}

struct fill *shard_begin_fill(struct shard *s, const struct l1_view *view,
                              const struct fill_terms *terms)
{
    if (!may_fill(s, view->hash))
        return NULL;
    shard_detach_fill(s, view, terms->path);
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
                       .budget = terms->budget,
                       .key_len = view->key_len,
                       .view_len = view->view_len};
    memcpy(f->names, view->key, view->key_len);
    if (view->view_len)
        memcpy(f->names + view->key_len, view->view, view->view_len);
    insert(&s->fills, &f->node);
    s->open_fills++;
    return f;
}

uint64_t shard_fill_hash(const struct fill *f)
{
    return f->node.hash;
}

void **shard_fill_waiters(struct fill *f)
{
    assert(f->magic == FILL_MAGIC);
    return &f->waiters;
}

/* False: it is not worth the memory, which is short, or there is none. */
static bool value_room(struct fill *f, size_t n)
{
    if (f->value_cap - f->value_len >= n)
        return true;
    size_t cap = f->value_len + n <= 2 * f->value_cap ? 2 * f->value_cap : f->value_len + n;
    char *value = budget_is_tight(f->budget) ? NULL : realloc(f->value, cap);
    if (!value)
        return false;
    budget_take(f->budget, cap - f->value_cap);
    f->value = value;
    f->value_cap = cap;
    return true;
}

void shard_fill_value(struct shard *s, struct fill *f, const char *p, size_t n)
{
    assert(f->magic == FILL_MAGIC);
    f->begun = true;
    if (f->attached && n > 0 && (n > s->options->max_value - f->value_len || !value_room(f, n)))
        discard(s, f);
    if (!f->attached) {
        free_value(f);
        return;
    }
    if (n == 0)
        return;
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
static uint64_t life_of(const struct shard *s, const struct fill *f)
{
    uint64_t life = s->options->ttl;
    if (!f->keep || f->value_len <= 2 || f->pttl < -2)
        return 0;
    if (f->pttl == -2 && !says_absent(f))
        return 0;
    if (f->pttl == -2)
        return s->options->negative_ttl < life ? s->options->negative_ttl : life;
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
static uint64_t afterlife_of(const struct shard *s, const struct fill *f, uint64_t life)
{
    if (!s->options->stale_keys || !policy_matches(s->options->stale_keys, f->names, f->key_len))
        return 0;
    uint64_t most = s->options->max_stale;
    if (f->pttl < 0)
        return most;
    uint64_t left = (uint64_t)f->pttl > life ? (uint64_t)f->pttl - life : 0;
    return left < most ? left : most;
}

/* The deadline counts from before the value was asked for: an expired key is never served. */
static void store(struct shard *s, struct fill *f, uint64_t now)
{
    struct l1_view view = view_of(f);
    /* Without a life it only takes away an older one, which was not served at the time. */
    uint64_t from = RULE_IN_FORCE(RULE_DEADLINE_FROM_SEND) ? f->sent : now, life = life_of(s, f);
    uint64_t fresh = from + life, gone = fresh + afterlife_of(s, f, life);
    if (l1_insert_lasting(s->l1, &view, f->value, f->value_len, fresh, gone, now))
        s->counts.fills++;
    s->stored = true;
}

/* What its readers have been shown must not be taken back. On its own path nothing newer has come
 * yet, and the newer fill there takes care of itself; what another path brings may be older. */
static void forget_others(struct shard *s, const struct fill *f)
{
    struct l1_view view = view_of(f);
    struct fill *other = find_fill(s, &view);
    (void)l1_insert(s->l1, &view, "", 0, 0, 0);
    if (other && other->path != f->path)
        discard(s, other);
}

static void end_detached(struct shard *s, const struct fill *f)
{
    if (f->superseded)
        forget_others(s, f);
    else
        shard_kill(s, f->node.hash);
}

/* Both parts are in: store it if nothing came between, and forget it. */
static void part_done(struct shard *s, struct fill *f, uint64_t now)
{
    assert(f->parts_owed > 0);
    if (--f->parts_owed > 0)
        return;
    if (!f->attached) {
        end_detached(s, f);
    } else {
        store(s, f, now);
        unlink_fill(s, f);
    }
    s->open_fills--;
    f->magic = 0;
    free_value(f);
    free(f);
}

void shard_fill_value_end(struct shard *s, struct fill *f, bool keep, uint64_t now)
{
    assert(f->magic == FILL_MAGIC);
    f->begun = true;
    f->keep = keep;
    if (!f->attached) /* its value has been shown by now, its PTTL may come late */
        end_detached(s, f);
    part_done(s, f, now);
}

void shard_fill_ttl(struct fill *f, const char *p, size_t n)
{
    assert(f->magic == FILL_MAGIC);
    size_t room = sizeof f->ttl - f->ttl_len;
    memcpy(f->ttl + f->ttl_len, p, n < room ? n : room);
    f->ttl_len = (uint8_t)(f->ttl_len + (n < room ? n : room));
}

void shard_fill_ttl_end(struct shard *s, struct fill *f, bool whole, uint64_t now)
{
    assert(f->magic == FILL_MAGIC);
    struct resp_reader reader = {f->ttl, f->ttl + f->ttl_len};
    if (!whole || !resp_read_integer(&reader, &f->pttl))
        f->pttl = TTL_UNKNOWN;
    part_done(s, f, now);
}

/* --- writes -------------------------------------------------------------------------------------
 */

bool shard_write_begin(struct shard *s, uint64_t hash)
{
    struct pending *p = find_pending(s, hash);
    if (!p) {
        p = malloc(sizeof *p);
        if (!p)
            return false;
        *p = (struct pending){.node.hash = hash};
        insert(&s->writes, &p->node);
    }
    p->count++;
    if (RULE_IN_FORCE(RULE_KILL_AT_SEND))
        shard_kill(s, hash);
    return true;
}

void shard_write_end(struct shard *s, uint64_t hash)
{
    struct pending *p = find_pending(s, hash);
    assert(p && p->count > 0);
    if (--p->count == 0) {
        (void)take_out(&s->writes, place_of(&s->writes, &p->node));
        free(p);
    }
    if (RULE_IN_FORCE(RULE_KILL_AT_REPLY))
        shard_kill(s, hash);
}

void shard_write_all_begin(struct shard *s)
{
    s->all_pending++;
    if (RULE_IN_FORCE(RULE_EPOCH_AT_SEND))
        shard_new_epoch(s);
}

void shard_write_all_end(struct shard *s)
{
    assert(s->all_pending > 0);
    s->all_pending--;
    if (RULE_IN_FORCE(RULE_EPOCH_AT_REPLY))
        shard_new_epoch(s);
}

void shard_hold_fills(struct shard *s)
{
    s->all_pending++;
}

void shard_release_fills(struct shard *s)
{
    assert(s->all_pending > 0);
    s->all_pending--;
}
