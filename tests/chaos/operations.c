/* operations.c - what is asked, and what the replies may be: commands that need no session. */
#include "operations.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sessions.h"

enum {
    SMALL_MAX = 4096, /* of elements and fields */
    STRING_MAX = 6 * 1024 * 1024,
    MANY = 3,      /* keys of one command */
    LIFE = 100000, /* seconds: longer than any run */
};

/* --- what a reply shows -------------------------------------------------------------------------
 */

struct seen {
    bool is_null;
    struct span s;
    uint64_t from, to; /* of the whole value, `to` excluded */
    int64_t n;
    const struct span *parts;
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool fits_number(const struct state *s, const struct seen *seen)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRIu32, s->part[0]);
    return seen->s.n == (size_t)n && memcmp(seen->s.p, text, (size_t)n) == 0;
}

/* Bytes from..to of the parts in a row. */
static bool fits_bytes(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    uint64_t length = key_length(k, s), start = 0, to = min_u64(seen->to, length);
    const char *p = seen->s.p;
    if (seen->s.n != (to > seen->from ? to - seen->from : 0))
        return false;
    for (unsigned i = 0; i < s->n; i++) {
        struct value v = key_value(k, s->part[i], 0);
        uint64_t from = start > seen->from ? start : seen->from;
        uint64_t end = min_u64(start + v.len, to);
        if (from < end && !value_matches(&v, from - start, p, end - from))
            return false;
        p += from < end ? end - from : 0;
        start += v.len;
    }
    return true;
}

static bool fits_string(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n == 0 || seen->is_null)
        return s->n == 0 && seen->is_null;
    return k->type == KEY_COUNTER ? fits_number(s, seen) : fits_bytes(k, s, seen);
}

static bool fits_length(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    return key_length(k, s) == (uint64_t)seen->n;
}

static bool fits_parts(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    (void)k;
    return s->n == seen->n;
}

static bool fits_there(const struct key *k, const struct state *s, const void *arg)
{
    (void)k;
    (void)arg;
    return s->n > 0;
}

static bool fits_absent(const struct key *k, const struct state *s, const void *arg)
{
    return !fits_there(k, s, arg);
}

static bool fits_count(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    (void)k;
    return s->part[0] == seen->n;
}

static bool fits_element(const struct key *k, const struct state *s, unsigned i, struct span seen)
{
    struct value v = key_value(k, s->part[i], 0);
    return v.len == seen.n && value_matches(&v, 0, seen.p, seen.n);
}

static bool fits_list(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n != seen->n)
        return false;
    for (unsigned i = 0; i < s->n; i++)
        if (!fits_element(k, s, i, seen->parts[i]))
            return false;
    return true;
}

/* What LPOP takes from it. */
static bool fits_first(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    return seen->is_null ? s->n == 0 : s->n > 0 && fits_element(k, s, 0, seen->s);
}

static bool fits_field(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n == 0 || seen->is_null)
        return s->n == 0 && seen->is_null;
    struct value v = key_value(k, s->part[0], (unsigned)seen->n);
    return v.len == seen->s.n && value_matches(&v, 0, seen->s.p, seen->s.n);
}

/* All fields of the same version. */
static bool fits_hash(const struct key *k, const struct state *s, const void *arg)
{
    const struct seen *seen = arg;
    if (s->n == 0 || seen->n == 0)
        return s->n == 0 && seen->n == 0;
    for (unsigned i = 0; i < HASH_FIELDS; i++)
        if (!fits_field(k, s, &(struct seen){.s = seen->parts[i], .n = i}))
            return false;
    return true;
}

/* Of a key that is lost nothing is known but what an element of a list names. */
static bool is_element(const struct key *k, struct span s)
{
    size_t n = strlen(k->name);
    return s.n <= n || (memcmp(s.p, k->name, n) == 0 && s.p[n] == '|');
}

static bool shows(const struct ref *r, state_fits fits, const struct seen *seen)
{
    return r->key->lost || ref_shows(r, fits, seen);
}

static bool showed(const struct ref *r, state_fits fits, const struct seen *seen)
{
    return r->key->lost || ref_showed(r, fits, seen);
}

static enum verdict verdict(bool right)
{
    return right ? AS_ASKED : WRONG;
}

/* A bulk or null that shows a string. */
static bool take_seen(struct reader *r, struct seen *seen)
{
    *seen = (struct seen){.to = UINT64_MAX};
    seen->is_null = reader_null(r);
    return seen->is_null || reader_bulk(r, &seen->s);
}

/* --- settling -----------------------------------------------------------------------------------
 */

static void note_watched(struct client *c, const struct ref *r, enum outcome outcome)
{
    if (c->watch == WATCH_NONE || c->watched != r->key || c->multi == MULTI_OPEN)
        return;
    if (outcome == DOUBT)
        c->watch = WATCH_UNKNOWN;
    else if (outcome == DONE)
        c->watch = WATCH_DIRTY;
}

void operations_settle(struct load *l, struct client *c, struct owed *o, enum outcome outcome)
{
    for (unsigned i = 0; i < o->n; i++) {
        if (o->refs[i].writes)
            note_watched(c, &o->refs[i], outcome);
        model_settle(l->model, &o->refs[i], outcome);
    }
}

/* --- values -------------------------------------------------------------------------------------
 */

uint32_t operations_length(struct load *l, const struct client *c, uint32_t limit)
{
    static const uint32_t sizes[] = {100, 200, 2000, 4000, 40000, 300000, 4000000};
    uint64_t how = dice_below(&l->dice, 10000);
    unsigned i = how < 5000   ? 0
                 : how < 8000 ? 1
                 : how < 9200 ? 2
                 : how < 9700 ? 3
                 : how < 9985 ? 4
                              : 5;
    if (c->character.big && dice_chance(&l->dice, 30))
        i = 6;
    uint32_t n = (uint32_t)dice_below(&l->dice, sizes[i]);
    return n < limit ? n : limit;
}

struct value operations_nonce(struct load *l, struct client *c, const char *name)
{
    return (struct value){.name = name,
                          .version = ++c->number,
                          .len = 48 + operations_length(l, c, SMALL_MAX),
                          .nonce = c->nonce};
}

/* --- PING, ECHO ---------------------------------------------------------------------------------
 */

static bool is_nonce(const struct client *c, const struct owed *o, struct span s)
{
    struct value v = {
        .name = "nonce", .version = (uint32_t)o->number, .len = o->to, .nonce = c->nonce};
    return s.n == v.len && value_matches(&v, 0, s.p, s.n);
}

static enum verdict check_nonce(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct span s;
    int64_t n;
    (void)l;
    if (o->from && c->subscribed && c->resp == 2) /* PING */
        return verdict(reader_array(r, &n) && n == 2 && reader_is_bulk(r, "pong") &&
                       reader_bulk(r, &s) && is_nonce(c, o, s));
    return verdict(reader_bulk(r, &s) && is_nonce(c, o, s));
}

static bool send_nonce(struct load *l, struct client *c, bool ping)
{
    static const struct operation ops[] = {{.name = "ECHO", .check = check_nonce},
                                           {.name = "PING", .check = check_nonce}};
    struct value v = operations_nonce(l, c, "nonce");
    client_command(c, 2);
    client_word(c, ping ? "PING" : "ECHO");
    client_value(c, &v);
    struct owed *o = client_owe(c, &ops[ping]);
    o->number = v.version;
    o->to = v.len;
    o->from = ping;
    return true;
}

bool operations_ping(struct load *l, struct client *c)
{
    return send_nonce(l, c, true);
}

static bool send_echo(struct load *l, struct client *c)
{
    return send_nonce(l, c, false);
}

/* Neither of the two is answered. */
static bool send_skipped(struct load *l, struct client *c)
{
    struct value v = operations_nonce(l, c, "nonce");
    client_say(c, "CLIENT", "REPLY", "SKIP", NULL);
    client_command(c, 2);
    client_word(c, "ECHO");
    client_value(c, &v);
    l->tally.skipped++;
    return true;
}

/* --- reading strings ----------------------------------------------------------------------------
 */

static bool is_own(const struct client *c, const struct key *k)
{
    return k->owner == c->id;
}

static struct key *any_string(struct load *l, const struct client *c)
{
    struct key *k = NULL;
    enum key_type type = dice_chance(&l->dice, 150) ? KEY_COUNTER : KEY_STRING;
    if (dice_chance(&l->dice, 300))
        k = model_own(l->model, c->db, type, c->id);
    return k ? k : model_any(l->model, c->db, type);
}

static enum verdict check_get(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct seen seen;
    (void)l;
    (void)c;
    return verdict(take_seen(r, &seen) && shows(&o->refs[0], fits_string, &seen));
}

static const struct operation op_get = {.name = "GET", .check = check_get};

static bool send_get(struct load *l, struct client *c)
{
    struct key *k = any_string(l, c);
    client_command(c, 2);
    client_word(c, "GET");
    client_key(c, k);
    owed_add(client_owe(c, &op_get), ref_read(k, is_own(c, k)));
    return true;
}

static enum verdict check_getrange(struct load *l, struct client *c, struct owed *o,
                                   struct reader *r)
{
    struct seen seen = {.from = o->from, .to = (uint64_t)o->to + 1};
    (void)l;
    (void)c;
    if (!reader_bulk(r, &seen.s))
        return WRONG;
    return verdict(shows(&o->refs[0], fits_bytes, &seen));
}

static bool send_getrange(struct load *l, struct client *c)
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
    owed_add(o, ref_read(k, is_own(c, k)));
    return true;
}

static enum verdict check_length(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct seen seen;
    (void)l;
    (void)c;
    return verdict(reader_integer(r, &seen.n) && seen.n >= 0 &&
                   shows(&o->refs[0], fits_length, &seen));
}

static const struct operation op_strlen = {.name = "STRLEN", .check = check_length};

static bool send_strlen(struct load *l, struct client *c)
{
    struct key *k = model_any(l->model, c->db, KEY_STRING);
    client_command(c, 2);
    client_word(c, "STRLEN");
    client_key(c, k);
    owed_add(client_owe(c, &op_strlen), ref_read(k, is_own(c, k)));
    return true;
}

static enum verdict check_exists(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)c;
    return verdict(reader_integer(r, &n) && (n == 0 || n == 1) &&
                   shows(&o->refs[0], n ? fits_there : fits_absent, NULL));
}

static bool send_exists(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "EXISTS", .check = check_exists};
    struct key *k = model_any(l->model, c->db, (enum key_type)dice_below(&l->dice, KEY_QUEUE));
    client_command(c, 2);
    client_word(c, "EXISTS");
    client_key(c, k);
    owed_add(client_owe(c, &op), ref_read(k, is_own(c, k)));
    return true;
}

static enum verdict check_mget(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)c;
    if (!reader_array(r, &n) || n != o->n)
        return WRONG;
    for (unsigned i = 0; i < o->n; i++) {
        struct seen seen;
        if (!take_seen(r, &seen))
            return WRONG;
        bool is_string = o->refs[i].key->type <= KEY_COUNTER;
        if (is_string ? !shows(&o->refs[i], fits_string, &seen) : !seen.is_null)
            return WRONG;
    }
    return AS_ASKED;
}

static bool send_mget(struct load *l, struct client *c)
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
        owed_add(o, ref_read(k, is_own(c, k)));
    }
    return true;
}

/* --- writing strings ----------------------------------------------------------------------------
 */

/* The next version of its value, and the state in which it is all there is. */
static struct value overwrite(struct load *l, struct client *c, struct key *k, uint32_t limit)
{
    uint32_t version = key_add_piece(k, c->nonce, operations_length(l, c, limit));
    struct state *s = key_write(k, false);
    s->n = 1;
    s->part[0] = version;
    return key_value(k, version, 0);
}

static enum verdict check_ok(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_text(r, "+OK\r\n"));
}

struct key *operations_set(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SET", .check = check_ok};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k)
        return NULL;
    struct value v = overwrite(l, c, k, STRING_MAX);
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

static bool send_set(struct load *l, struct client *c)
{
    return operations_set(l, c) != NULL;
}

static enum verdict check_before(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct seen seen;
    (void)l;
    (void)c;
    return verdict(take_seen(r, &seen) && showed(&o->refs[0], fits_string, &seen));
}

/* The old value comes back. */
static bool send_getset(struct load *l, struct client *c)
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
        struct value v = overwrite(l, c, k, STRING_MAX);
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

static bool send_mset(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "MSET", .check = check_ok};
    struct key *keys[MANY];
    unsigned n = some_own(l, c, true, keys);
    if (n == 0)
        return false;
    client_command(c, 1 + 2 * n);
    client_word(c, "MSET");
    struct owed *o = client_owe(c, &op);
    for (unsigned i = 0; i < n; i++) {
        struct value v = overwrite(l, c, keys[i], STRING_MAX);
        client_key(c, keys[i]);
        client_value(c, &v);
        owed_add(o, ref_write(keys[i]));
    }
    return true;
}

static enum verdict check_del(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n, least = 0, most = 0;
    (void)l;
    (void)c;
    for (unsigned i = 0; i < o->n; i++) {
        least += !o->refs[i].key->lost && !ref_showed(&o->refs[i], fits_absent, NULL);
        most += showed(&o->refs[i], fits_there, NULL);
    }
    return verdict(reader_integer(r, &n) && n >= least && n <= most);
}

static bool send_del(struct load *l, struct client *c)
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

static enum verdict check_incr(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct seen seen;
    (void)l;
    (void)c;
    return verdict(reader_integer(r, &seen.n) && seen.n > 0 &&
                   shows(&o->refs[0], fits_count, &seen));
}

static bool send_incr(struct load *l, struct client *c)
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

static bool send_append(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "APPEND", .check = check_length};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k || !key_may_build(k) || key_newest(k)->n >= PARTS_MAX ||
        key_length(k, key_newest(k)) > STRING_MAX)
        return false;
    uint32_t version = key_add_piece(k, c->nonce, operations_length(l, c, SMALL_MAX));
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
static bool send_setrange(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SETRANGE", .check = check_length};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    const struct state *before = k ? key_newest(k) : NULL;
    uint64_t length = k ? key_length(k, before) : 0;
    if (!k || !key_may_build(k) || before->n == 0 || length > STRING_MAX)
        return false;
    uint32_t last = k->pieces[before->part[before->n - 1]].len;
    uint32_t version = key_add_piece(k, c->nonce, last + operations_length(l, c, SMALL_MAX));
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

/* --- expiry, far in the future ------------------------------------------------------------------
 */

static bool send_expire(struct load *l, struct client *c)
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

static enum verdict check_ttl(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)c;
    if (!reader_integer(r, &n) || n < -2 || n == 0 || n > LIFE)
        return WRONG;
    return verdict(shows(&o->refs[0], n == -2 ? fits_absent : fits_there, NULL));
}

static bool send_ttl(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "TTL", .check = check_ttl};
    struct key *k = model_any(l->model, c->db, KEY_STRING);
    client_command(c, 2);
    client_word(c, "TTL");
    client_key(c, k);
    owed_add(client_owe(c, &op), ref_read(k, is_own(c, k)));
    return true;
}

/* --- hashes -------------------------------------------------------------------------------------
 */

static const char *const fields[HASH_FIELDS] = {"f0", "f1", "f2"};

static enum verdict check_hset(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)c;
    return verdict(reader_integer(r, &n) && (n == 0 || n == HASH_FIELDS) &&
                   showed(&o->refs[0], n ? fits_absent : fits_there, NULL));
}

static bool send_hset(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "HSET", .check = check_hset};
    struct key *k = model_own(l->model, c->db, KEY_HASH, c->id);
    if (!k)
        return false;
    struct value v = overwrite(l, c, k, SMALL_MAX);
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
static enum verdict check_hgetall(struct load *l, struct client *c, struct owed *o,
                                  struct reader *r)
{
    struct span parts[HASH_FIELDS] = {{0}};
    struct seen seen = {.parts = parts};
    (void)l;
    (void)c;
    if (!reader_map(r, &seen.n) || (seen.n != 0 && seen.n != HASH_FIELDS))
        return WRONG;
    for (int64_t i = 0; i < seen.n; i++) {
        unsigned field = 0;
        while (field < HASH_FIELDS && !reader_is_bulk(r, fields[field]))
            field++;
        if (field == HASH_FIELDS || parts[field].p || !reader_bulk(r, &parts[field]))
            return WRONG;
    }
    return verdict(shows(&o->refs[0], fits_hash, &seen));
}

static enum verdict check_hget(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct seen seen;
    (void)l;
    (void)c;
    if (!take_seen(r, &seen))
        return WRONG;
    seen.n = o->from;
    return verdict(shows(&o->refs[0], fits_field, &seen));
}

static enum verdict check_hlen(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)c;
    return verdict(reader_integer(r, &n) && (n == 0 || n == HASH_FIELDS) &&
                   shows(&o->refs[0], n ? fits_there : fits_absent, NULL));
}

static const struct operation op_hgetall = {.name = "HGETALL", .check = check_hgetall};

static bool send_hash_read(struct load *l, struct client *c)
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
    owed_add(o, ref_read(k, is_own(c, k)));
    return true;
}

/* --- lists --------------------------------------------------------------------------------------
 */

static enum verdict check_parts(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct seen seen;
    (void)l;
    (void)c;
    return verdict(reader_integer(r, &seen.n) && seen.n >= 0 &&
                   shows(&o->refs[0], fits_parts, &seen));
}

static enum verdict check_lpop(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct seen seen;
    (void)l;
    (void)c;
    return verdict(take_seen(r, &seen) && showed(&o->refs[0], fits_first, &seen));
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

static bool send_list_write(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "PUSH", .check = check_parts};
    struct key *k = model_own(l->model, c->db, KEY_LIST, c->id);
    if (!k || !key_may_build(k))
        return false;
    if (key_newest(k)->n == PARTS_MAX || dice_chance(&l->dice, 350))
        return send_lpop(c, k);
    bool left = dice_chance(&l->dice, 500);
    uint32_t version = key_add_piece(k, c->nonce, operations_length(l, c, SMALL_MAX));
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

static enum verdict check_lrange(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct span parts[PARTS_MAX];
    struct seen seen = {.parts = parts};
    const struct key *k = o->refs[0].key;
    (void)l;
    (void)c;
    if (!reader_array(r, &seen.n) || (seen.n > PARTS_MAX && !k->lost))
        return WRONG;
    for (int64_t i = 0; i < seen.n; i++) {
        struct span *part = &parts[i % PARTS_MAX];
        if (!reader_bulk(r, part) || !is_element(k, *part))
            return WRONG;
    }
    return verdict(shows(&o->refs[0], fits_list, &seen));
}

static const struct operation op_lrange = {.name = "LRANGE", .check = check_lrange};

static bool send_list_read(struct load *l, struct client *c)
{
    static const struct operation op_llen = {.name = "LLEN", .check = check_parts};
    struct key *k = model_any(l->model, c->db, KEY_LIST);
    if (dice_chance(&l->dice, 200)) {
        client_command(c, 2);
        client_word(c, "LLEN");
        client_key(c, k);
        owed_add(client_owe(c, &op_llen), ref_read(k, is_own(c, k)));
    } else {
        operations_read(c, k, is_own(c, k));
    }
    return true;
}

/* --- whole keys ---------------------------------------------------------------------------------
 */

void operations_read(struct client *c, struct key *k, bool by_owner)
{
    const struct operation *op = k->type == KEY_HASH   ? &op_hgetall
                                 : k->type == KEY_LIST ? &op_lrange
                                                       : &op_get;
    client_command(c, op == &op_lrange ? 4 : 2);
    client_word(c, op->name);
    client_key(c, k);
    if (op == &op_lrange) {
        client_word(c, "0");
        client_word(c, "-1");
    }
    owed_add(client_owe(c, op), ref_read(k, by_owner));
}

static enum verdict check_bit(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_integer(r, &n) && (n == 0 || n == 1));
}

/* A key that slots and test have forgotten; or it never was. */
static bool send_garbage(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "UNLINK", .check = check_bit};
    struct key *k = model_garbage(l->model, c->db);
    if (!k)
        return false;
    client_command(c, 2);
    client_word(c, "UNLINK");
    client_key(c, k);
    owed_add(client_owe(c, &op), (struct ref){.key = k});
    return true;
}

void operations_half(struct load *l, struct client *c)
{
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k)
        return;
    client_command(c, 3);
    client_word(c, "SET");
    client_key(c, k);
    buffer_append(&c->out, "$100\r\nhalf", 10);
}

/* --- errors -------------------------------------------------------------------------------------
 */

static enum verdict check_unknown(struct load *l, struct client *c, struct owed *o,
                                  struct reader *r)
{
    char text[128];
    (void)l;
    snprintf(text, sizeof text,
             "-ERR unknown command 'nosuch.%016" PRIx64 ".%" PRIu64
             "', with args beginning with: 'a' 'b c' \r\n",
             c->nonce, o->number);
    return verdict(reader_text(r, text));
}

bool operations_unknown(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "unknown command", .check = check_unknown, .is_refused = true};
    char name[64];
    (void)l;
    snprintf(name, sizeof name, "nosuch.%016" PRIx64 ".%" PRIu32, c->nonce, ++c->number);
    client_say(c, name, "a", "b c", NULL);
    client_owe(c, &op)->number = c->number;
    return true;
}

static enum verdict check_arity(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_text(r, "-ERR wrong number of arguments for 'hget' command\r\n"));
}

static bool send_arity(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "wrong arity", .check = check_arity, .is_refused = true};
    (void)l;
    client_say(c, "HGET", "h0.0", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_wrongtype(struct load *l, struct client *c, struct owed *o,
                                    struct reader *r)
{
    static const char text[] =
        "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    (void)l;
    (void)c;
    bool is_wrong = reader_text(r, text);
    bool is_absent = !is_wrong && (o->from ? reader_null(r) : reader_text(r, "*0\r\n"));
    return verdict((is_wrong || is_absent) &&
                   shows(&o->refs[0], is_wrong ? fits_there : fits_absent, NULL));
}

static bool send_wrongtype(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "WRONGTYPE", .check = check_wrongtype};
    bool get = dice_chance(&l->dice, 500);
    struct key *k = model_any(l->model, c->db, get ? KEY_HASH : KEY_COUNTER);
    client_command(c, get ? 2 : 4);
    client_word(c, get ? "GET" : "LRANGE");
    client_key(c, k);
    if (!get) {
        client_word(c, "0");
        client_word(c, "-1");
    }
    struct owed *o = client_owe(c, &op);
    o->from = get;
    owed_add(o, ref_read(k, is_own(c, k)));
    return true;
}

/* --- scripts ------------------------------------------------------------------------------------
 */

static const char *const scripts[SCRIPTS] = {"return redis.call('SET', KEYS[1], ARGV[1])",
                                             "return {KEYS[1], ARGV[1]}",
                                             "return redis.call('GET', KEYS[1])"};

static enum verdict check_load(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct span s;
    char *sha = l->sha[o->number];
    (void)c;
    if (!reader_bulk(r, &s) || s.n != SHA_MAX - 1)
        return WRONG;
    if (!sha[0])
        memcpy(sha, s.p, s.n);
    return verdict(memcmp(sha, s.p, s.n) == 0);
}

static bool send_script_load(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SCRIPT LOAD", .check = check_load};
    uint64_t which = dice_below(&l->dice, SCRIPTS);
    client_say(c, "SCRIPT", "LOAD", scripts[which], NULL);
    client_owe(c, &op)->number = which;
    return true;
}

/* The server may have been started again. */
static enum verdict check_script(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct span s;
    int64_t n;
    if (o->to && reader_text(r, "-NOSCRIPT No matching script. Please use EVAL.\r\n"))
        return l->strict ? WRONG : WITHOUT_EFFECT;
    switch ((enum script)o->from) {
    case SCRIPT_SET:
        return verdict(reader_text(r, "+OK\r\n"));
    case SCRIPT_GET:
        return check_get(l, c, o, r);
    case SCRIPT_ECHO:
    case SCRIPTS:
        break;
    }
    struct value v = {
        .name = "nonce", .version = (uint32_t)o->number, .len = (uint32_t)(o->number >> 32)};
    v.nonce = c->nonce;
    return verdict(reader_array(r, &n) && n == 2 && reader_is_bulk(r, o->refs[0].key->name) &&
                   reader_bulk(r, &s) && s.n == v.len && value_matches(&v, 0, s.p, s.n));
}

static bool send_script(struct load *l, struct client *c)
{
    static const struct operation ops[] = {{.name = "EVAL", .check = check_script},
                                           {.name = "EVALSHA", .check = check_script}};
    enum script which = (enum script)dice_below(&l->dice, SCRIPTS);
    bool by_sha = l->sha[which][0] && dice_chance(&l->dice, 700);
    struct key *k = which == SCRIPT_SET ? model_own(l->model, c->db, KEY_STRING, c->id)
                                        : model_any(l->model, c->db, KEY_STRING);
    if (!k)
        return false;
    client_command(c, which == SCRIPT_GET ? 4 : 5);
    client_word(c, by_sha ? "EVALSHA" : "EVAL");
    client_word(c, by_sha ? l->sha[which] : scripts[which]);
    client_word(c, "1");
    client_key(c, k);
    struct owed *o = client_owe(c, &ops[by_sha]);
    o->from = which;
    o->to = by_sha;
    if (which == SCRIPT_GET) {
        owed_add(o, ref_read(k, is_own(c, k)));
        return true;
    }
    struct value v =
        which == SCRIPT_SET ? overwrite(l, c, k, SMALL_MAX) : operations_nonce(l, c, "nonce");
    o->number = (uint64_t)v.len << 32 | v.version;
    client_value(c, &v);
    owed_add(o, which == SCRIPT_SET ? ref_write(k) : ref_only(k));
    return true;
}

static enum verdict check_noscript(struct load *l, struct client *c, struct owed *o,
                                   struct reader *r)
{
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_text(r, "-NOSCRIPT No matching script. Please use EVAL.\r\n"));
}

static bool send_noscript(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "NOSCRIPT", .check = check_noscript};
    (void)l;
    client_say(c, "EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "1", "h0.0", NULL);
    client_owe(c, &op);
    return true;
}

/* --- the whole key space ------------------------------------------------------------------------
 */

static enum verdict check_scan(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    struct span cursor, name;
    int64_t n;
    (void)l;
    (void)o;
    if (!reader_array(r, &n) || n != 2 || !reader_bulk(r, &cursor) || cursor.n == 0 ||
        cursor.n >= sizeof c->cursor || !reader_array(r, &n))
        return WRONG;
    for (; n > 0; n--)
        if (!reader_bulk(r, &name) || !model_is_name(name.p, name.n))
            return WRONG;
    memcpy(c->cursor, cursor.p, cursor.n);
    c->cursor[cursor.n] = '\0';
    return verdict(strspn(c->cursor, "0123456789") == cursor.n);
}

static bool send_scan(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SCAN", .check = check_scan};
    (void)l;
    client_say(c, "SCAN", c->cursor[0] ? c->cursor : "0", "COUNT", "20", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_dbsize(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_integer(r, &n) && n >= 0);
}

static bool send_dbsize(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "DBSIZE", .check = check_dbsize};
    (void)l;
    client_say(c, "DBSIZE", NULL);
    client_owe(c, &op);
    return true;
}

/* --- the connection -----------------------------------------------------------------------------
 */

static enum verdict check_hello(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t pairs, n;
    bool proto = false;
    (void)l;
    r->resp = (unsigned)o->number;
    if (!reader_map(r, &pairs) || pairs < 6)
        return WRONG;
    while (pairs--) {
        struct span name;
        if (reader_is_bulk(r, "proto")) {
            proto = reader_integer(r, &n) && n == (int64_t)o->number;
        } else if (reader_is_bulk(r, "id")) {
            if (!reader_integer(r, &n) || (c->client_id && n != c->client_id))
                return WRONG;
            c->client_id = n;
        } else if (!reader_bulk(r, &name) || !reader_skip(r)) {
            return WRONG;
        }
    }
    c->resp = (unsigned)o->number;
    return verdict(proto);
}

static bool send_hello(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "HELLO", .check = check_hello};
    unsigned resp = 2 + (unsigned)dice_below(&l->dice, 2);
    client_say(c, "HELLO", resp == 2 ? "2" : "3", NULL);
    client_owe(c, &op)->number = resp;
    return true;
}

static void settle_select(struct load *l, struct client *c, struct owed *o, enum outcome outcome)
{
    (void)l;
    c->barrier = false;
    if (outcome == DONE)
        c->db = (unsigned)o->number;
}

/* If it failed the commands behind it would change keys of others: they wait for its reply. */
static bool send_select(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "SELECT", .check = check_ok, .settle = settle_select};
    unsigned db = (unsigned)dice_below(&l->dice, MODEL_DBS + 1) % MODEL_DBS;
    client_command(c, 2);
    client_word(c, "SELECT");
    client_number(c, db);
    client_owe(c, &op)->number = db;
    c->barrier = true;
    return true;
}

static enum verdict check_no_db(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_text(r, "-ERR DB index is out of range\r\n"));
}

static bool send_no_db(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SELECT of none", .check = check_no_db};
    (void)l;
    client_say(c, "SELECT", "99", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_reset(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_text(r, "+RESET\r\n"));
}

static void settle_reset(struct load *l, struct client *c, struct owed *o, enum outcome outcome)
{
    (void)o;
    c->barrier = false;
    if (outcome != DONE)
        return;
    c->resp = 2;
    c->db = 0;
    c->name = 0;
    sessions_forget_watch(c);
    (void)l;
}

static bool send_reset(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "RESET", .check = check_reset, .settle = settle_reset};
    (void)l;
    client_say(c, "RESET", NULL);
    client_owe(c, &op);
    c->barrier = true;
    return true;
}

static void write_name(char out[32], uint64_t name)
{
    snprintf(out, 32, "name-%016" PRIx64, name);
}

static void settle_setname(struct load *l, struct client *c, struct owed *o, enum outcome outcome)
{
    (void)l;
    if (outcome == DONE)
        c->name = o->number;
}

static bool send_setname(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "CLIENT SETNAME", .check = check_ok, .settle = settle_setname};
    char name[32];
    uint64_t number = dice_next(&l->dice) | 1;
    write_name(name, number);
    client_say(c, "CLIENT", "SETNAME", name, NULL);
    client_owe(c, &op)->number = number;
    return true;
}

static enum verdict check_getname(struct load *l, struct client *c, struct owed *o,
                                  struct reader *r)
{
    char name[32];
    (void)l;
    (void)o;
    write_name(name, c->name);
    return verdict(c->name ? reader_is_bulk(r, name) : reader_null(r));
}

static bool send_getname(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "CLIENT GETNAME", .check = check_getname};
    (void)l;
    client_say(c, "CLIENT", "GETNAME", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_id(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    int64_t n;
    (void)l;
    (void)o;
    if (!reader_integer(r, &n) || n <= 0 || (c->client_id && n != c->client_id))
        return WRONG;
    c->client_id = n;
    return AS_ASKED;
}

static bool send_id(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "CLIENT ID", .check = check_id};
    (void)l;
    client_say(c, "CLIENT", "ID", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_info(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    static const char title[] = "# Nearcache\r\n";
    struct span s;
    (void)l;
    (void)c;
    (void)o;
    return verdict(reader_verbatim(r, &s) && s.n > sizeof title &&
                   memcmp(s.p, title, sizeof title - 1) == 0);
}

static bool send_info(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "INFO", .check = check_info};
    (void)l;
    client_say(c, "INFO", "nearcache", NULL);
    client_owe(c, &op);
    return true;
}

/* --- which, and how often -----------------------------------------------------------------------
 */

struct choice {
    bool (*send)(struct load *l, struct client *c);
    uint16_t weights[STYLES];
    bool queued; /* may stand in a transaction */
};

/*                       READS WRITES MIXED SESSIONS SUBSCRIBER ODD */
static const struct choice choices[] = {
    {send_get, {400, 100, 200, 60, 60, 60}, true},
    {send_getrange, {60, 30, 40, 10, 10, 20}, true},
    {send_strlen, {20, 5, 10, 5, 5, 10}, true},
    {send_exists, {20, 5, 10, 5, 5, 10}, true},
    {send_mget, {80, 20, 60, 20, 20, 20}, true},
    {send_hash_read, {60, 20, 40, 20, 20, 20}, true},
    {send_list_read, {60, 20, 40, 20, 20, 20}, true},
    {send_ttl, {10, 5, 5, 5, 5, 5}, true},
    {operations_ping, {40, 20, 40, 20, 20, 30}, true},
    {send_echo, {40, 20, 40, 20, 20, 30}, true},
    {send_set, {20, 150, 80, 30, 30, 20}, true},
    {send_getset, {5, 40, 20, 10, 10, 5}, true},
    {send_mset, {5, 40, 20, 10, 10, 5}, true},
    {send_del, {3, 30, 15, 5, 5, 5}, true},
    {send_incr, {10, 60, 40, 20, 20, 10}, true},
    {send_append, {3, 30, 20, 5, 5, 5}, true},
    {send_setrange, {3, 30, 20, 5, 5, 5}, true},
    {send_expire, {3, 10, 5, 5, 5, 5}, true},
    {send_hset, {5, 40, 20, 10, 10, 10}, true},
    {send_list_write, {5, 60, 30, 10, 10, 10}, true},
    {send_garbage, {1, 5, 2, 1, 1, 1}, false},
    {send_script, {5, 10, 10, 40, 5, 20}, true},
    {send_script_load, {0, 0, 1, 2, 0, 2}, false},
    {send_noscript, {0, 0, 2, 3, 0, 10}, false},
    {send_scan, {2, 1, 2, 1, 1, 5}, false},
    {send_dbsize, {0, 0, 0, 0, 0, 1}, false},
    {send_hello, {1, 1, 2, 2, 4, 30}, false},
    {send_select, {1, 1, 2, 1, 1, 20}, false},
    {send_no_db, {0, 0, 0, 0, 0, 5}, false},
    {send_reset, {0, 0, 0, 0, 0, 4}, false},
    {send_setname, {1, 1, 1, 1, 1, 20}, false},
    {send_getname, {1, 1, 1, 1, 1, 20}, false},
    {send_id, {1, 1, 1, 1, 1, 20}, false},
    {send_info, {0, 0, 0, 0, 0, 2}, false},
    {operations_unknown, {1, 1, 2, 2, 1, 20}, false},
    {send_arity, {1, 1, 2, 2, 1, 20}, false},
    {send_wrongtype, {2, 2, 4, 2, 2, 20}, true},
    {send_skipped, {1, 1, 2, 0, 0, 10}, false},
    {sessions_send_transaction, {1, 4, 8, 80, 0, 10}, false},
    {sessions_send_push, {2, 20, 10, 20, 2, 5}, false},
    {sessions_send_pop, {0, 1, 2, 30, 0, 2}, false},
    {sessions_send_publish, {20, 40, 40, 40, 40, 40}, true},
    {sessions_send_subscribe, {0, 0, 0, 0, 6, 0}, false},
};
enum { CHOICES = sizeof choices / sizeof *choices };

static const struct choice *choose(struct load *l, enum style style)
{
    unsigned total = 0;
    for (unsigned i = 0; i < CHOICES; i++)
        total += choices[i].weights[style];
    uint64_t left = dice_below(&l->dice, total);
    const struct choice *c = choices;
    while (left >= c->weights[style])
        left -= (c++)->weights[style];
    return c;
}

bool operations_send_queued(struct load *l, struct client *c)
{
    const struct choice *choice = choose(l, MIXED);
    return choice->queued && choice->send(l, c);
}

bool operations_send_simple(struct load *l, struct client *c)
{
    return operations_send_queued(l, c);
}

bool operations_send(struct load *l, struct client *c)
{
    if (c->barrier)
        return false;
    if (c->subscribing)
        return sessions_send_subscribed(l, c);
    return choose(l, c->character.style)->send(l, c);
}
