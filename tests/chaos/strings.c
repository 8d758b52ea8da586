/* strings.c - commands on strings, and on keys of any type. */
#include "strings.h"

#include <string.h>

#include "seen.h"

enum {
    STRING_MAX = 6 * 1024 * 1024,
    MANY = 3,      /* keys of one command */
    LIFE = 100000, /* seconds: longer than any run */
};

/* --- reading strings ---
 */

static struct key *any_string(struct load *l, const struct client *c)
{
    struct key *k = NULL;
    enum key_type type = dice_chance(&l->dice, 150) ? KEY_COUNTER : KEY_STRING;
    if (dice_chance(&l->dice, 300))
        k = model_own(l->model, c->db, type, c->id);
    return k ? k : model_any(l->model, c->db, type);
}

static enum verdict check_get(const struct answer *a)
{
    struct seen seen;
    return verdict(seen_take(a->reader, &seen) &&
                   seen_shows(&a->owed->refs[0], fits_string, &seen));
}

static const struct operation op_get = {.name = "GET", .check = check_get};

bool strings_send_get(struct load *l, struct client *c)
{
    struct key *k = any_string(l, c);
    client_command(c, 2);
    client_word(c, "GET");
    client_key(c, k);
    owed_add(client_owe(c, &op_get), ref_read(k, client_owns(c, k)));
    return true;
}

static enum verdict check_getrange(const struct answer *a)
{
    struct seen seen = {.from = a->owed->from, .to = (uint64_t)a->owed->to + 1};
    if (!reader_bulk(a->reader, &seen.s))
        return WRONG;
    return verdict(seen_shows(&a->owed->refs[0], fits_bytes, &seen));
}

bool strings_send_getrange(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "GETRANGE", .check = check_getrange};
    struct key *k = model_any(l->model, c->db, KEY_STRING);
    uint64_t length = key_length(k, key_newest(k)) + 10;
    uint64_t from = dice_below(&l->dice, length), to = from + dice_below(&l->dice, length);
    client_command(c, 4);
    client_word(c, "GETRANGE");
    client_key(c, k);
    client_number(c, from);
    client_number(c, to);
    struct owed *o = client_owe(c, &op);
    o->from = (uint32_t)from;
    o->to = (uint32_t)to;
    owed_add(o, ref_read(k, client_owns(c, k)));
    return true;
}

static enum verdict check_length(const struct answer *a)
{
    struct seen seen;
    return verdict(reader_integer(a->reader, &seen.n) && seen.n >= 0 &&
                   seen_shows(&a->owed->refs[0], fits_length, &seen));
}

static const struct operation op_strlen = {.name = "STRLEN", .check = check_length};

bool strings_send_strlen(struct load *l, struct client *c)
{
    struct key *k = model_any(l->model, c->db, KEY_STRING);
    client_command(c, 2);
    client_word(c, "STRLEN");
    client_key(c, k);
    owed_add(client_owe(c, &op_strlen), ref_read(k, client_owns(c, k)));
    return true;
}

static enum verdict check_exists(const struct answer *a)
{
    int64_t n;
    return verdict(reader_integer(a->reader, &n) && (n == 0 || n == 1) &&
                   seen_shows(&a->owed->refs[0], n ? fits_there : fits_absent, NULL));
}

bool strings_send_exists(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "EXISTS", .check = check_exists};
    struct key *k = model_any(l->model, c->db, (enum key_type)dice_below(&l->dice, KEY_QUEUE));
    client_command(c, 2);
    client_word(c, "EXISTS");
    client_key(c, k);
    owed_add(client_owe(c, &op), ref_read(k, client_owns(c, k)));
    return true;
}

static enum verdict check_mget(const struct answer *a)
{
    int64_t n;
    if (!reader_array(a->reader, &n) || n != a->owed->n)
        return WRONG;
    for (unsigned i = 0; i < a->owed->n; i++) {
        struct seen seen;
        if (!seen_take(a->reader, &seen))
            return WRONG;
        bool is_string = a->owed->refs[i].key->type <= KEY_COUNTER;
        if (is_string ? !seen_shows(&a->owed->refs[i], fits_string, &seen) : !seen.is_null)
            return WRONG;
    }
    return AS_ASKED;
}

bool strings_send_mget(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "MGET", .check = check_mget};
    unsigned n = 1 + (unsigned)dice_below(&l->dice, OWED_KEYS);
    client_command(c, 1 + n);
    client_word(c, "MGET");
    struct owed *o = client_owe(c, &op);
    for (unsigned i = 0; i < n; i++) {
        struct key *k =
            dice_chance(&l->dice, 950) ? any_string(l, c) : model_any(l->model, c->db, KEY_HASH);
        client_key(c, k);
        owed_add(o, ref_read(k, client_owns(c, k)));
    }
    return true;
}

/* --- writing strings ---
 */

struct key *strings_set(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SET", .check = load_check_ok};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k)
        return NULL;
    struct value v = load_overwrite(l, c, k, STRING_MAX);
    bool expires = dice_chance(&l->dice, 100);
    client_command(c, expires ? 5 : 3);
    client_word(c, "SET");
    client_key(c, k);
    client_value(c, &v);
    if (expires) {
        client_word(c, "EX");
        client_number(c, LIFE);
    }
    owed_add(client_owe(c, &op), ref_write(k));
    return k;
}

bool strings_send_set(struct load *l, struct client *c)
{
    return strings_set(l, c) != NULL;
}

static enum verdict check_before(const struct answer *a)
{
    struct seen seen;
    return verdict(seen_take(a->reader, &seen) &&
                   seen_showed(&a->owed->refs[0], fits_string, &seen));
}

/* The old value comes back. */
bool strings_send_getset(struct load *l, struct client *c)
{
    static const struct operation ops[] = {{.name = "GETSET", .check = check_before},
                                           {.name = "GETDEL", .check = check_before}};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k)
        return false;
    bool deletes = dice_chance(&l->dice, 500);
    client_command(c, deletes ? 2 : 3);
    client_word(c, deletes ? "GETDEL" : "GETSET");
    client_key(c, k);
    if (deletes) {
        key_write(k, false)->n = 0;
    } else {
        struct value v = load_overwrite(l, c, k, STRING_MAX);
        client_value(c, &v);
    }
    owed_add(client_owe(c, &ops[deletes]), ref_write(k));
    return true;
}

/* Different ones. */
static unsigned some_own(struct load *l, const struct client *c, bool only_strings,
                         struct key *keys[MANY])
{
    unsigned n = 0, wanted = 1 + (unsigned)dice_below(&l->dice, MANY);
    for (unsigned tries = 0; tries < 2 * MANY && n < wanted; tries++) {
        enum key_type type =
            only_strings ? KEY_STRING : (enum key_type)dice_below(&l->dice, KEY_QUEUE);
        struct key *k = model_own(l->model, c->db, type, c->id);
        bool known = !k;
        for (unsigned i = 0; i < n; i++)
            known |= keys[i] == k;
        if (!known)
            keys[n++] = k;
    }
    return n;
}

bool strings_send_mset(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "MSET", .check = load_check_ok};
    struct key *keys[MANY];
    unsigned n = some_own(l, c, true, keys);
    if (n == 0)
        return false;
    client_command(c, 1 + 2 * n);
    client_word(c, "MSET");
    struct owed *o = client_owe(c, &op);
    for (unsigned i = 0; i < n; i++) {
        struct value v = load_overwrite(l, c, keys[i], STRING_MAX);
        client_key(c, keys[i]);
        client_value(c, &v);
        owed_add(o, ref_write(keys[i]));
    }
    return true;
}

static enum verdict check_del(const struct answer *a)
{
    int64_t n, least = 0, most = 0;
    for (unsigned i = 0; i < a->owed->n; i++) {
        least += !a->owed->refs[i].key->lost && !ref_showed(&a->owed->refs[i], fits_absent, NULL);
        most += seen_showed(&a->owed->refs[i], fits_there, NULL);
    }
    return verdict(reader_integer(a->reader, &n) && n >= least && n <= most);
}

bool strings_send_del(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "DEL", .check = check_del};
    struct key *keys[MANY];
    unsigned n = some_own(l, c, false, keys);
    if (n == 0)
        return false;
    client_command(c, 1 + n);
    client_word(c, dice_chance(&l->dice, 500) ? "DEL" : "UNLINK");
    struct owed *o = client_owe(c, &op);
    for (unsigned i = 0; i < n; i++) {
        key_write(keys[i], false)->n = 0;
        client_key(c, keys[i]);
        owed_add(o, ref_write(keys[i]));
    }
    return true;
}

static enum verdict check_incr(const struct answer *a)
{
    struct seen seen;
    return verdict(reader_integer(a->reader, &seen.n) && seen.n > 0 &&
                   seen_shows(&a->owed->refs[0], fits_count, &seen));
}

bool strings_send_incr(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "INCR", .check = check_incr};
    struct key *k = model_own(l->model, c->db, KEY_COUNTER, c->id);
    if (!k || !key_may_build(k))
        return false;
    unsigned more = 1 + (unsigned)dice_below(&l->dice, 3);
    struct state *s = key_write(k, true);
    s->part[0] = (s->n ? s->part[0] : 0) + more;
    s->n = 1;
    client_command(c, more > 1 ? 3 : 2);
    client_word(c, more > 1 ? "INCRBY" : "INCR");
    client_key(c, k);
    if (more > 1)
        client_number(c, more);
    owed_add(client_owe(c, &op), ref_write(k));
    return true;
}

bool strings_send_append(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "APPEND", .check = check_length};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k || !key_may_build(k) || key_newest(k)->n >= PARTS_MAX ||
        key_length(k, key_newest(k)) > STRING_MAX)
        return false;
    uint32_t version = key_add_piece(k, c->nonce, load_length(l, c, SMALL_MAX));
    struct state *s = key_write(k, true);
    s->part[s->n++] = version;
    struct value v = key_value(k, version, 0);
    client_command(c, 3);
    client_word(c, "APPEND");
    client_key(c, k);
    client_value(c, &v);
    owed_add(client_owe(c, &op), ref_write(k));
    return true;
}

/* The last part becomes another, and longer. */
bool strings_send_setrange(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SETRANGE", .check = check_length};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    const struct state *before = k ? key_newest(k) : NULL;
    uint64_t length = k ? key_length(k, before) : 0;
    if (!k || !key_may_build(k) || before->n == 0 || length > STRING_MAX)
        return false;
    uint32_t last = k->pieces[before->part[before->n - 1]].len;
    uint32_t version = key_add_piece(k, c->nonce, last + load_length(l, c, SMALL_MAX));
    struct state *s = key_write(k, true);
    s->part[s->n - 1] = version;
    struct value v = key_value(k, version, 0);
    client_command(c, 4);
    client_word(c, "SETRANGE");
    client_key(c, k);
    client_number(c, length - last);
    client_value(c, &v);
    owed_add(client_owe(c, &op), ref_write(k));
    return true;
}

void strings_half(struct load *l, struct client *c)
{
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k)
        return;
    client_command(c, 3);
    client_word(c, "SET");
    client_key(c, k);
    buffer_append(&c->out, "$100\r\nhalf", 10);
}

void strings_read(struct client *c, struct key *k, bool by_owner)
{
    client_command(c, 2);
    client_word(c, "GET");
    client_key(c, k);
    owed_add(client_owe(c, &op_get), ref_read(k, by_owner));
}

/* --- expiry, far in the future ---
 */

bool strings_send_expire(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "EXPIRE", .check = check_exists};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k)
        return false;
    client_command(c, 3);
    client_word(c, "EXPIRE");
    client_key(c, k);
    client_number(c, LIFE);
    owed_add(client_owe(c, &op), ref_read(k, true));
    return true;
}

static enum verdict check_ttl(const struct answer *a)
{
    int64_t n;
    if (!reader_integer(a->reader, &n) || n < -2 || n == 0 || n > LIFE)
        return WRONG;
    return verdict(seen_shows(&a->owed->refs[0], n == -2 ? fits_absent : fits_there, NULL));
}

bool strings_send_ttl(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "TTL", .check = check_ttl};
    struct key *k = model_any(l->model, c->db, KEY_STRING);
    client_command(c, 2);
    client_word(c, "TTL");
    client_key(c, k);
    owed_add(client_owe(c, &op), ref_read(k, client_owns(c, k)));
    return true;
}
