/* collections.c - hashes and lists. */
#include "collections.h"

#include <string.h>

#include "seen.h"
/* --- hashes ---
 */

static const char *const fields[HASH_FIELDS] = {"f0", "f1", "f2"};

static enum verdict check_hset(const struct answer *a)
{
    int64_t n;
    return verdict(reader_integer(a->reader, &n) && (n == 0 || n == HASH_FIELDS) &&
                   seen_showed(&a->owed->refs[0], n ? fits_absent : fits_there, NULL));
}

bool collections_send_hset(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "HSET", .check = check_hset};
    struct key *k = model_own(l->model, c->db, KEY_HASH, c->id);
    if (!k)
        return false;
    struct value v = load_overwrite(l, c, k, SMALL_MAX);
    client_command(c, 2 + 2 * HASH_FIELDS);
    client_word(c, "HSET");
    client_key(c, k);
    for (v.field = 0; v.field < HASH_FIELDS; v.field++) {
        client_word(c, fields[v.field]);
        client_value(c, &v);
    }
    owed_add(client_owe(c, &op), ref_write(k));
    return true;
}

/* Fields in any order, each once. */
static enum verdict check_hgetall(const struct answer *a)
{
    struct span parts[HASH_FIELDS] = {{0}};
    struct seen seen = {.parts = parts};
    if (!reader_map(a->reader, &seen.n) || (seen.n != 0 && seen.n != HASH_FIELDS))
        return WRONG;
    for (int64_t i = 0; i < seen.n; i++) {
        unsigned field = 0;
        while (field < HASH_FIELDS && !reader_is_bulk(a->reader, fields[field]))
            field++;
        if (field == HASH_FIELDS || parts[field].p || !reader_bulk(a->reader, &parts[field]))
            return WRONG;
    }
    return verdict(seen_shows(&a->owed->refs[0], fits_hash, &seen));
}

static enum verdict check_hget(const struct answer *a)
{
    struct seen seen;
    if (!seen_take(a->reader, &seen))
        return WRONG;
    seen.n = a->owed->from;
    return verdict(seen_shows(&a->owed->refs[0], fits_field, &seen));
}

static enum verdict check_hlen(const struct answer *a)
{
    int64_t n;
    return verdict(reader_integer(a->reader, &n) && (n == 0 || n == HASH_FIELDS) &&
                   seen_shows(&a->owed->refs[0], n ? fits_there : fits_absent, NULL));
}

static const struct operation op_hgetall = {.name = "HGETALL", .check = check_hgetall};

bool collections_send_hash_read(struct load *l, struct client *c)
{
    static const struct operation op_hget = {.name = "HGET", .check = check_hget};
    static const struct operation op_hlen = {.name = "HLEN", .check = check_hlen};
    struct key *k = model_any(l->model, c->db, KEY_HASH);
    uint64_t how = dice_below(&l->dice, 4);
    client_command(c, how == 2 ? 3 : 2);
    client_word(c, how < 2 ? "HGETALL" : how == 2 ? "HGET" : "HLEN");
    client_key(c, k);
    struct owed *o = client_owe(c, how < 2 ? &op_hgetall : how == 2 ? &op_hget : &op_hlen);
    if (how == 2) {
        o->from = (uint32_t)dice_below(&l->dice, HASH_FIELDS);
        client_word(c, fields[o->from]);
    }
    owed_add(o, ref_read(k, client_owns(c, k)));
    return true;
}

/* --- lists ---
 */

static enum verdict check_parts(const struct answer *a)
{
    struct seen seen;
    return verdict(reader_integer(a->reader, &seen.n) && seen.n >= 0 &&
                   seen_shows(&a->owed->refs[0], fits_parts, &seen));
}

static enum verdict check_lpop(const struct answer *a)
{
    struct seen seen;
    return verdict(seen_take(a->reader, &seen) &&
                   seen_showed(&a->owed->refs[0], fits_first, &seen));
}

static void pop_first(struct state *s)
{
    if (s->n == 0)
        return;
    s->n--;
    memmove(s->part, s->part + 1, s->n * sizeof *s->part);
}

static bool send_lpop(struct client *c, struct key *k)
{
    static const struct operation op = {.name = "LPOP", .check = check_lpop};
    pop_first(key_write(k, true));
    client_command(c, 2);
    client_word(c, "LPOP");
    client_key(c, k);
    owed_add(client_owe(c, &op), ref_write(k));
    return true;
}

bool collections_send_list_write(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "PUSH", .check = check_parts};
    struct key *k = model_own(l->model, c->db, KEY_LIST, c->id);
    if (!k || !key_may_build(k))
        return false;
    if (key_newest(k)->n == PARTS_MAX || dice_chance(&l->dice, 350))
        return send_lpop(c, k);
    bool left = dice_chance(&l->dice, 500);
    uint32_t version = key_add_piece(k, c->nonce, load_length(l, c, SMALL_MAX));
    struct state *s = key_write(k, true);
    if (left)
        memmove(s->part + 1, s->part, s->n * sizeof *s->part);
    s->part[left ? 0 : s->n] = version;
    s->n++;
    struct value v = key_value(k, version, 0);
    client_command(c, 3);
    client_word(c, left ? "LPUSH" : "RPUSH");
    client_key(c, k);
    client_value(c, &v);
    owed_add(client_owe(c, &op), ref_write(k));
    return true;
}

static enum verdict check_lrange(const struct answer *a)
{
    struct span parts[PARTS_MAX];
    struct seen seen = {.parts = parts};
    const struct key *k = a->owed->refs[0].key;
    if (!reader_array(a->reader, &seen.n) || (seen.n > PARTS_MAX && !k->lost))
        return WRONG;
    for (int64_t i = 0; i < seen.n; i++) {
        struct span *part = &parts[i % PARTS_MAX];
        if (!reader_bulk(a->reader, part) || !seen_is_element(k, *part))
            return WRONG;
    }
    return verdict(seen_shows(&a->owed->refs[0], fits_list, &seen));
}

static const struct operation op_lrange = {.name = "LRANGE", .check = check_lrange};

void collections_read(struct client *c, struct key *k, bool by_owner)
{
    bool is_list = k->type == KEY_LIST;
    const struct operation *op = is_list ? &op_lrange : &op_hgetall;
    client_command(c, is_list ? 4 : 2);
    client_word(c, op->name);
    client_key(c, k);
    if (is_list) {
        client_word(c, "0");
        client_word(c, "-1");
    }
    owed_add(client_owe(c, op), ref_read(k, by_owner));
}

bool collections_send_list_read(struct load *l, struct client *c)
{
    static const struct operation op_llen = {.name = "LLEN", .check = check_parts};
    struct key *k = model_any(l->model, c->db, KEY_LIST);
    if (dice_chance(&l->dice, 200)) {
        client_command(c, 2);
        client_word(c, "LLEN");
        client_key(c, k);
        owed_add(client_owe(c, &op_llen), ref_read(k, client_owns(c, k)));
    } else {
        collections_read(c, k, client_owns(c, k));
    }
    return true;
}
