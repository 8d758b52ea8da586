/* connection.c - what concerns the connection, and errors. */
#include "connection.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "seen.h"
#include "sessions.h"
/* --- PING, ECHO ---
 */

static bool is_nonce(const struct client *c, const struct owed *o, struct span s)
{
    struct value v = {
        .name = "nonce", .version = (uint32_t)o->number, .len = o->to, .nonce = c->nonce};
    return s.n == v.len && value_matches(&v, 0, s.p, s.n);
}

static enum verdict check_nonce(const struct answer *a)
{
    struct span s;
    int64_t n;
    if (a->owed->from && a->client->subscribed && a->client->resp == 2) /* PING */
        return verdict(reader_array(a->reader, &n) && n == 2 && reader_is_bulk(a->reader, "pong") &&
                       reader_bulk(a->reader, &s) && is_nonce(a->client, a->owed, s));
    return verdict(reader_bulk(a->reader, &s) && is_nonce(a->client, a->owed, s));
}

static bool send_nonce(struct load *l, struct client *c, bool ping)
{
    static const struct operation ops[] = {{.name = "ECHO", .check = check_nonce},
                                           {.name = "PING", .check = check_nonce}};
    struct value v = load_nonce(l, c, "nonce");
    client_command(c, 2);
    client_word(c, ping ? "PING" : "ECHO");
    client_value(c, &v);
    struct owed *o = client_owe(c, &ops[ping]);
    o->number = v.version;
    o->to = v.len;
    o->from = ping;
    return true;
}

bool connection_ping(struct load *l, struct client *c)
{
    return send_nonce(l, c, true);
}

bool connection_send_echo(struct load *l, struct client *c)
{
    return send_nonce(l, c, false);
}

/* Neither of the two is answered. */
bool connection_send_skipped(struct load *l, struct client *c)
{
    struct value v = load_nonce(l, c, "nonce");
    client_say(c, "CLIENT", "REPLY", "SKIP", NULL);
    client_command(c, 2);
    client_word(c, "ECHO");
    client_value(c, &v);
    l->tally.skipped++;
    return true;
}

/* --- errors ---
 */

static enum verdict check_unknown(const struct answer *a)
{
    char text[128];
    snprintf(text, sizeof text,
             "-ERR unknown command 'nosuch.%016" PRIx64 ".%" PRIu64
             "', with args beginning with: 'a' 'b c' \r\n",
             a->client->nonce, a->owed->number);
    return verdict(reader_text(a->reader, text));
}

bool connection_unknown(struct load *l, struct client *c)
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

static enum verdict check_arity(const struct answer *a)
{
    return verdict(reader_text(a->reader, "-ERR wrong number of arguments for 'hget' command\r\n"));
}

bool connection_send_arity(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "wrong arity", .check = check_arity, .is_refused = true};
    (void)l;
    client_say(c, "HGET", "h0.0", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_wrongtype(const struct answer *a)
{
    static const char text[] =
        "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    bool is_wrong = reader_text(a->reader, text);
    bool is_absent =
        !is_wrong && (a->owed->from ? reader_null(a->reader) : reader_text(a->reader, "*0\r\n"));
    return verdict((is_wrong || is_absent) &&
                   seen_shows(&a->owed->refs[0], is_wrong ? fits_there : fits_absent, NULL));
}

bool connection_send_wrongtype(struct load *l, struct client *c)
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
    owed_add(o, ref_read(k, client_owns(c, k)));
    return true;
}

/* --- the connection ---
 */

static enum verdict check_hello(const struct answer *a)
{
    int64_t pairs, n;
    bool proto = false;
    a->reader->resp = (unsigned)a->owed->number;
    if (!reader_map(a->reader, &pairs) || pairs < 6)
        return WRONG;
    while (pairs--) {
        struct span name;
        if (reader_is_bulk(a->reader, "proto")) {
            proto = reader_integer(a->reader, &n) && n == (int64_t)a->owed->number;
        } else if (reader_is_bulk(a->reader, "id")) {
            if (!reader_integer(a->reader, &n) ||
                (a->client->client_id && n != a->client->client_id))
                return WRONG;
            a->client->client_id = n;
        } else if (!reader_bulk(a->reader, &name) || !reader_skip(a->reader)) {
            return WRONG;
        }
    }
    a->client->resp = (unsigned)a->owed->number;
    return verdict(proto);
}

bool connection_send_hello(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "HELLO", .check = check_hello};
    unsigned resp = 2 + (unsigned)dice_below(&l->dice, 2);
    client_say(c, "HELLO", resp == 2 ? "2" : "3", NULL);
    client_owe(c, &op)->number = resp;
    return true;
}

static void settle_select(const struct answer *a, enum outcome outcome)
{
    a->client->barrier = false;
    if (outcome == DONE)
        a->client->db = (unsigned)a->owed->number;
}

/* If it failed the commands behind it would change keys of others: they wait for its reply. */
bool connection_send_select(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "SELECT", .check = load_check_ok, .settle = settle_select};
    unsigned db = (unsigned)dice_below(&l->dice, MODEL_DBS + 1) % MODEL_DBS;
    client_command(c, 2);
    client_word(c, "SELECT");
    client_number(c, db);
    client_owe(c, &op)->number = db;
    c->barrier = true;
    return true;
}

static enum verdict check_no_db(const struct answer *a)
{
    return verdict(reader_text(a->reader, "-ERR DB index is out of range\r\n"));
}

bool connection_send_no_db(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "SELECT of none", .check = check_no_db};
    (void)l;
    client_say(c, "SELECT", "99", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_reset(const struct answer *a)
{
    return verdict(reader_text(a->reader, "+RESET\r\n"));
}

static void settle_reset(const struct answer *a, enum outcome outcome)
{
    a->client->barrier = false;
    if (outcome != DONE)
        return;
    a->client->resp = 2;
    a->client->db = 0;
    a->client->name = 0;
    sessions_forget_watch(a->client);
}

bool connection_send_reset(struct load *l, struct client *c)
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

static void settle_setname(const struct answer *a, enum outcome outcome)
{
    if (outcome == DONE)
        a->client->name = a->owed->number;
}

bool connection_send_setname(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "CLIENT SETNAME", .check = load_check_ok, .settle = settle_setname};
    char name[32];
    uint64_t number = dice_next(&l->dice) | 1;
    write_name(name, number);
    client_say(c, "CLIENT", "SETNAME", name, NULL);
    client_owe(c, &op)->number = number;
    return true;
}

static enum verdict check_getname(const struct answer *a)
{
    char name[32];
    write_name(name, a->client->name);
    return verdict(a->client->name ? reader_is_bulk(a->reader, name) : reader_null(a->reader));
}

bool connection_send_getname(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "CLIENT GETNAME", .check = check_getname};
    (void)l;
    client_say(c, "CLIENT", "GETNAME", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_id(const struct answer *a)
{
    int64_t n;
    if (!reader_integer(a->reader, &n) || n <= 0 ||
        (a->client->client_id && n != a->client->client_id))
        return WRONG;
    a->client->client_id = n;
    return AS_ASKED;
}

bool connection_send_id(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "CLIENT ID", .check = check_id};
    (void)l;
    client_say(c, "CLIENT", "ID", NULL);
    client_owe(c, &op);
    return true;
}

static enum verdict check_info(const struct answer *a)
{
    static const char title[] = "# Nearcache\r\n";
    struct span s;
    return verdict(reader_verbatim(a->reader, &s) && s.n > sizeof title &&
                   memcmp(s.p, title, sizeof title - 1) == 0);
}

bool connection_send_info(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "INFO", .check = check_info};
    (void)l;
    client_say(c, "INFO", "nearcache", NULL);
    client_owe(c, &op);
    return true;
}
