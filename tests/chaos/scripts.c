/* scripts.c - scripts, and the whole key space. */
#include "scripts.h"

#include <string.h>

#include "seen.h"
/* --- scripts ---
 */

static const char *const scripts[SCRIPTS] = {"return redis.call('SET', KEYS[1], ARGV[1])",
                                             "return {KEYS[1], ARGV[1]}",
                                             "return redis.call('GET', KEYS[1])"};

static enum verdict check_load(const struct answer *a)
{
    struct span s;
    char *sha = a->load->sha[a->owed->number];
    if (!reader_bulk(a->reader, &s) || s.n != SHA_MAX - 1)
        return WRONG;
    if (!sha[0])
        memcpy(sha, s.p, s.n);
    return verdict(memcmp(sha, s.p, s.n) == 0);
}

bool scripts_send_script_load(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SCRIPT LOAD", .check = check_load};
    uint64_t which = dice_below(&l->dice, SCRIPTS);
    client_say(c, "SCRIPT", "LOAD", scripts[which], NULL);
    client_owe(c, &op)->number = which;
    return true;
}

/* The server may have been started again. */
static enum verdict check_script(const struct answer *a)
{
    struct seen seen;
    struct span s;
    int64_t n;
    if (a->owed->to && reader_text(a->reader, "-NOSCRIPT No matching script. Please use EVAL.\r\n"))
        return a->load->strict ? WRONG : WITHOUT_EFFECT;
    switch ((enum script)a->owed->from) {
    case SCRIPT_SET:
        return verdict(reader_text(a->reader, "+OK\r\n"));
    case SCRIPT_GET:
        return verdict(seen_take(a->reader, &seen) &&
                       seen_shows(&a->owed->refs[0], fits_string, &seen));
    case SCRIPT_ECHO:
    case SCRIPTS:
        break;
    }
    struct value v = {.name = "nonce",
                      .version = (uint32_t)a->owed->number,
                      .len = (uint32_t)(a->owed->number >> 32)};
    v.nonce = a->client->nonce;
    return verdict(reader_array(a->reader, &n) && n == 2 &&
                   reader_is_bulk(a->reader, a->owed->refs[0].key->name) &&
                   reader_bulk(a->reader, &s) && s.n == v.len && value_matches(&v, 0, s.p, s.n));
}

bool scripts_send_script(struct load *l, struct client *c)
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
        owed_add(o, ref_read(k, client_owns(c, k)));
        return true;
    }
    struct value v =
        which == SCRIPT_SET ? load_overwrite(l, c, k, SMALL_MAX) : load_nonce(l, c, "nonce");
    o->number = (uint64_t)v.len << 32 | v.version;
    client_value(c, &v);
    owed_add(o, which == SCRIPT_SET ? ref_write(k) : ref_only(k));
    return true;
}

static enum verdict check_noscript(const struct answer *a)
{
    return verdict(reader_text(a->reader, "-NOSCRIPT No matching script. Please use EVAL.\r\n"));
}

bool scripts_send_noscript(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "NOSCRIPT", .check = check_noscript};
    (void)l;
    client_say(c, "EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "1", "h0.0", NULL);
    client_owe(c, &op);
    return true;
}

/* --- the whole key space ---
 */

static enum verdict check_scan(const struct answer *a)
{
    struct span cursor, name;
    int64_t n;
    if (!reader_array(a->reader, &n) || n != 2 || !reader_bulk(a->reader, &cursor) ||
        cursor.n == 0 || cursor.n >= sizeof a->client->cursor || !reader_array(a->reader, &n))
        return WRONG;
    for (; n > 0; n--)
        if (!reader_bulk(a->reader, &name) || !model_is_name(name.p, name.n))
            return WRONG;
    memcpy(a->client->cursor, cursor.p, cursor.n);
    a->client->cursor[cursor.n] = '\0';
    return verdict(strspn(a->client->cursor, "0123456789") == cursor.n);
}

bool scripts_send_scan(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SCAN", .check = check_scan};
    (void)l;
    client_say(c, "SCAN", c->cursor[0] ? c->cursor : "0", "COUNT", "20", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_dbsize(const struct answer *a)
{
    int64_t n;
    return verdict(reader_integer(a->reader, &n) && n >= 0);
}

bool scripts_send_dbsize(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "DBSIZE", .check = check_dbsize};
    (void)l;
    client_say(c, "DBSIZE", NULL);
    client_owe(c, &op);
    return true;
}
