/* model.c - the keys of the test, and what may be read of each. */
#include "model.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETIRED = 1500, STRINGS_PER_CLIENT = 4, CLIENTS_PER_QUEUE = 4 };

static const char letters[] = "snhlqc"; /* of key_type */

struct model {
    struct dice *dice;
    unsigned clients;
    unsigned n[KEY_TYPES];
    struct key **slots[MODEL_DBS][KEY_TYPES];
    unsigned generation;
    struct key *retired[RETIRED]; /* names given up, the oldest replaced first */
    size_t n_retired;
    struct key *garbage[MODEL_DBS];
    struct model_counts counts;
};

static void *allocate(void *old, size_t n)
{
    void *p = realloc(old, n);
    if (!p)
        abort();
    return p;
}

/* --- keys ---------------------------------------------------------------------------------------
 */

static struct key *key_new(struct model *m, enum key_type type, unsigned db, unsigned slot)
{
    struct key *k = allocate(NULL, sizeof *k);
    *k = (struct key){.type = type, .db = db, .slot = slot, .refs = 1, .n_states = 1};
    k->owner = slot % m->clients;
    k->generation = m->generation;
    k->is_private = type < KEY_QUEUE && slot > 0 && dice_chance(m->dice, 200);
    k->states_cap = k->pieces_cap = 8;
    k->states = allocate(NULL, k->states_cap * sizeof *k->states);
    k->states[0] = (struct state){0};
    k->pieces = allocate(NULL, k->pieces_cap * sizeof *k->pieces);
    snprintf(k->name, sizeof k->name, "%c%u.%u", letters[type], slot, m->generation);
    return k;
}

void key_unref(struct key *k)
{
    assert(k->refs > 0);
    if (--k->refs > 0)
        return;
    free(k->states);
    free(k->pieces);
    free(k);
}

uint32_t key_add_piece(struct key *k, uint64_t nonce, uint32_t len)
{
    if (k->n_pieces + 1 >= k->pieces_cap) {
        k->pieces_cap *= 2;
        k->pieces = allocate(k->pieces, k->pieces_cap * sizeof *k->pieces);
    }
    k->pieces[++k->n_pieces] = (struct piece){nonce, len};
    return k->n_pieces;
}

struct value key_value(const struct key *k, uint32_t version, unsigned field)
{
    assert(version > 0 && version <= k->n_pieces);
    const struct piece *p = &k->pieces[version];
    return (struct value){k->name, k->db, field, version, p->len, p->nonce};
}

const struct state *key_newest(const struct key *k)
{
    uint32_t i = k->n_states - 1;
    while (k->states[i].undone)
        i--;
    return &k->states[i];
}

bool key_may_build(const struct key *k)
{
    return k->is_private || k->pending == 0;
}

struct state *key_write(struct key *k, bool relative)
{
    assert(k->n_states < STATES_MAX && !k->doubtful && (!relative || key_may_build(k)));
    if (k->n_states == k->states_cap) {
        k->states_cap *= 2;
        k->states = allocate(k->states, k->states_cap * sizeof *k->states);
    }
    struct state *s = &k->states[k->n_states];
    *s = *key_newest(k);
    s->relative = relative;
    k->n_states++;
    k->pending++;
    return s;
}

uint64_t key_length(const struct key *k, const struct state *s)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < s->n; i++)
        n += k->pieces[s->part[i]].len;
    return n;
}

/* --- slots --------------------------------------------------------------------------------------
 */

struct model *model_new(struct dice *dice, unsigned clients, unsigned generation)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        abort();
    m->dice = dice;
    m->clients = clients;
    m->generation = generation;
    for (unsigned type = 0; type < KEY_TYPES; type++)
        m->n[type] = clients;
    m->n[KEY_STRING] = clients * STRINGS_PER_CLIENT;
    m->n[KEY_QUEUE] = (clients + CLIENTS_PER_QUEUE - 1) / CLIENTS_PER_QUEUE;
    m->n[KEY_CHANNEL] = clients < CHANNELS ? clients : CHANNELS;
    for (unsigned db = 0; db < MODEL_DBS; db++) {
        for (unsigned type = 0; type < KEY_TYPES; type++) {
            m->slots[db][type] = allocate(NULL, m->n[type] * sizeof(struct key *));
            for (unsigned i = 0; i < m->n[type]; i++)
                m->slots[db][type][i] = key_new(m, (enum key_type)type, db, i);
        }
    }
    return m;
}

void model_free(struct model *m)
{
    struct key *k;
    size_t at = 0;
    while ((k = model_each(m, &at)))
        key_unref(k);
    for (unsigned db = 0; db < MODEL_DBS; db++) {
        while ((k = model_garbage(m, db)))
            key_unref(k);
        for (unsigned type = 0; type < KEY_TYPES; type++)
            free(m->slots[db][type]);
    }
    free(m);
}

static void throw_away(struct model *m, struct key *k)
{
    if (!k) {
        return;
    } else if (k->type == KEY_CHANNEL) {
        key_unref(k);
    } else {
        k->next_garbage = m->garbage[k->db];
        m->garbage[k->db] = k;
    }
}

/* The slot goes on with a new name. */
static struct key *renew(struct model *m, struct key *k)
{
    struct key **at = &m->slots[k->db][k->type][k->slot];
    struct key **place = &m->retired[m->n_retired++ % RETIRED];
    assert(*at == k);
    m->generation++;
    *at = key_new(m, k->type, k->db, k->slot);
    throw_away(m, *place);
    *place = k;
    return *at;
}

static bool is_current(const struct model *m, const struct key *k)
{
    return m->slots[k->db][k->type][k->slot] == k;
}

struct key *model_own(struct model *m, unsigned db, enum key_type type, unsigned client)
{
    unsigned rounds = (m->n[type] + m->clients - 1) / m->clients;
    unsigned slot = client + m->clients * (unsigned)dice_below(m->dice, rounds);
    if (slot >= m->n[type])
        return NULL;
    struct key *k = m->slots[db][type][slot];
    if (!k->is_private && k->pending && k->states[k->n_states - 1].relative)
        return NULL; /* late, it could be built on the next instead */
    bool is_full = k->n_states > STATES_MAX / 2 || k->n_pieces > STATES_MAX;
    bool is_empty = type != KEY_QUEUE || (k->pops == 0 && k->taken == k->confirmed);
    if (is_full && is_empty && k->pending == 0) {
        m->counts.full++;
        k = renew(m, k);
    }
    return k->n_states < STATES_MAX ? k : NULL;
}

/* Some are asked for all the time, so that they are found in the L1. */
struct key *model_any(struct model *m, unsigned db, enum key_type type)
{
    unsigned n = m->n[type];
    if (m->n_retired > 0 && dice_chance(m->dice, 100)) {
        size_t limit = m->n_retired < RETIRED ? m->n_retired : RETIRED;
        struct key *k = m->retired[dice_below(m->dice, limit)];
        if (k->db == db && k->type == type && !(k->is_private && k->pending))
            return k;
    }
    uint64_t slot =
        dice_below(m->dice, n) * dice_below(m->dice, n) / n * dice_below(m->dice, n) / n;
    while (m->slots[db][type][slot]->is_private) /* the first is not */
        slot--;
    return m->slots[db][type][slot];
}

struct key *model_queue_of(struct model *m, unsigned client)
{
    unsigned slot = (client + m->clients - 1) % m->clients;
    return slot < m->n[KEY_QUEUE] ? m->slots[0][KEY_QUEUE][slot] : NULL;
}

struct key *model_channel_at(struct model *m, unsigned slot)
{
    return m->slots[0][KEY_CHANNEL][slot % m->n[KEY_CHANNEL]];
}

static bool is_called(const struct key *k, const char *name, size_t n)
{
    return k && k->type == KEY_CHANNEL && strlen(k->name) == n && memcmp(k->name, name, n) == 0;
}

struct key *model_channel(struct model *m, const char *name, size_t n)
{
    for (unsigned i = 0; i < m->n[KEY_CHANNEL]; i++)
        if (is_called(m->slots[0][KEY_CHANNEL][i], name, n))
            return m->slots[0][KEY_CHANNEL][i];
    for (size_t i = 0; i < RETIRED; i++)
        if (is_called(m->retired[i], name, n))
            return m->retired[i];
    return NULL;
}

struct key *model_garbage(struct model *m, unsigned db)
{
    struct key **at = &m->garbage[db], *k;
    while ((k = *at) && k->refs > 1) /* somebody waits for what it shows */
        at = &k->next_garbage;
    if (k)
        *at = k->next_garbage;
    return k;
}

struct key *model_each(struct model *m, size_t *at)
{
    size_t i = (*at)++;
    for (unsigned db = 0; db < MODEL_DBS; db++) {
        for (unsigned type = 0; type < KEY_TYPES; type++) {
            if (i < m->n[type])
                return m->slots[db][type][i];
            i -= m->n[type];
        }
    }
    return i < RETIRED ? m->retired[i] : NULL;
}

bool model_is_name(const char *p, size_t n)
{
    size_t i = 1, dots = 0;
    if (n < 4 || !memchr(letters, p[0], sizeof letters - 1))
        return false;
    for (; i < n; i++) {
        if (p[i] != '.' && (p[i] < '0' || p[i] > '9'))
            return false;
        dots += p[i] == '.';
    }
    return dots == 1;
}

struct model_counts model_counts(const struct model *m)
{
    return m->counts;
}

/* --- references ---------------------------------------------------------------------------------
 */

struct ref ref_read(struct key *k, bool by_owner)
{
    k->refs++;
    uint32_t last = k->n_states - 1;
    if (k->doubtful)
        return (struct ref){.key = k, .lo = k->floor, .hi = last};
    return (struct ref){.key = k, .lo = by_owner ? last : k->acked, .hi = last, .exact = by_owner};
}

struct ref ref_write(struct key *k)
{
    k->refs++;
    uint32_t last = k->n_states - 1;
    return (struct ref){.key = k, .lo = last, .hi = last, .exact = true, .writes = true};
}

struct ref ref_only(struct key *k)
{
    k->refs++;
    return (struct ref){.key = k};
}

static bool any_fits(const struct key *k, uint32_t lo, uint32_t hi, state_fits fits,
                     const void *seen)
{
    if (k->doubtful && k->floor < lo)
        lo = k->floor;
    while (k->states[lo].undone)
        lo--;
    for (uint32_t i = lo; i <= hi; i++)
        if (!k->states[i].undone && fits(k, &k->states[i], seen))
            return true;
    return false;
}

bool ref_shows(const struct ref *r, state_fits fits, const void *seen)
{
    return any_fits(r->key, r->lo, r->exact ? r->hi : r->key->n_states - 1, fits, seen);
}

bool ref_showed(const struct ref *r, state_fits fits, const void *seen)
{
    assert(r->writes && r->hi > 0);
    return any_fits(r->key, r->hi - 1, r->hi - 1, fits, seen);
}

static bool is_built_upon(const struct key *k, uint32_t state)
{
    for (uint32_t i = state + 1; i < k->n_states; i++)
        if (k->states[i].relative)
            return true;
    return false;
}

bool model_suspect(struct key *k, uint32_t version)
{
    if (k->doubtful)
        return false;
    if (version > k->suspect)
        k->suspect = version;
    return k->confirmed >= k->suspect;
}

void model_doubt(struct model *m, struct key *k)
{
    if (k->doubtful)
        return;
    k->doubtful = true;
    k->floor = k->acked;
    m->counts.doubtful++;
    if (is_current(m, k))
        renew(m, k);
}

static void lose(struct model *m, struct key *k)
{
    model_doubt(m, k);
    m->counts.lost += !k->lost;
    k->lost = true;
}

static void settle_write(struct model *m, const struct ref *r, enum outcome outcome)
{
    struct key *k = r->key;
    k->pending--;
    if (outcome == DONE && !k->doubtful)
        k->acked = r->hi;
    if (outcome == UNDONE)
        k->states[r->hi].undone = true;
    if (outcome == DOUBT)
        model_doubt(m, k);
    bool may_be_last = outcome == DOUBT && k->states[r->hi].relative && r->hi + 1 < k->n_states;
    if (outcome != DONE && (may_be_last || is_built_upon(k, r->hi)))
        lose(m, k);
}

void model_settle(struct model *m, struct ref *r, enum outcome outcome)
{
    if (!r->key)
        return;
    if (r->writes)
        settle_write(m, r, outcome);
    key_unref(r->key);
    r->key = NULL;
}
