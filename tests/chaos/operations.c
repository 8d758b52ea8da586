/* operations.c - which command comes next, and how often each does. */
#include "operations.h"

#include "collections.h"
#include "connection.h"
#include "scripts.h"
#include "sessions.h"
#include "strings.h"

void operations_read(struct client *c, struct key *k, bool by_owner)
{
    if (k->type <= KEY_COUNTER)
        strings_read(c, k, by_owner);
    else
        collections_read(c, k, by_owner);
}

static enum verdict check_bit(const struct answer *a)
{
    int64_t n;
    return verdict(reader_integer(a->reader, &n) && (n == 0 || n == 1));
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

struct choice {
    bool (*send)(struct load *l, struct client *c);
    uint16_t weights[STYLES];
    bool queued; /* may stand in a transaction */
};

/*                       READS WRITES MIXED SESSIONS SUBSCRIBER ODD */
static const struct choice choices[] = {
    {strings_send_get, {400, 100, 200, 60, 60, 60}, true},
    {strings_send_getrange, {60, 30, 40, 10, 10, 20}, true},
    {strings_send_strlen, {20, 5, 10, 5, 5, 10}, true},
    {strings_send_exists, {20, 5, 10, 5, 5, 10}, true},
    {strings_send_mget, {80, 20, 60, 20, 20, 20}, true},
    {collections_send_hash_read, {60, 20, 40, 20, 20, 20}, true},
    {collections_send_list_read, {60, 20, 40, 20, 20, 20}, true},
    {strings_send_ttl, {10, 5, 5, 5, 5, 5}, true},
    {connection_ping, {40, 20, 40, 20, 20, 30}, true},
    {connection_send_echo, {40, 20, 40, 20, 20, 30}, true},
    {strings_send_set, {20, 150, 80, 30, 30, 20}, true},
    {strings_send_getset, {5, 40, 20, 10, 10, 5}, true},
    {strings_send_mset, {5, 40, 20, 10, 10, 5}, true},
    {strings_send_del, {3, 30, 15, 5, 5, 5}, true},
    {strings_send_incr, {10, 60, 40, 20, 20, 10}, true},
    {strings_send_append, {3, 30, 20, 5, 5, 5}, true},
    {strings_send_setrange, {3, 30, 20, 5, 5, 5}, true},
    {strings_send_expire, {3, 10, 5, 5, 5, 5}, true},
    {collections_send_hset, {5, 40, 20, 10, 10, 10}, true},
    {collections_send_list_write, {5, 60, 30, 10, 10, 10}, true},
    {send_garbage, {1, 5, 2, 1, 1, 1}, false},
    {scripts_send_script, {5, 10, 10, 40, 5, 20}, true},
    {scripts_send_script_load, {0, 0, 1, 2, 0, 2}, false},
    {scripts_send_noscript, {0, 0, 2, 3, 0, 10}, false},
    {scripts_send_scan, {2, 1, 2, 1, 1, 5}, false},
    {scripts_send_dbsize, {0, 0, 0, 0, 0, 1}, false},
    {connection_send_hello, {1, 1, 2, 2, 4, 30}, false},
    {connection_send_select, {1, 1, 2, 1, 1, 20}, false},
    {connection_send_no_db, {0, 0, 0, 0, 0, 5}, false},
    {connection_send_reset, {0, 0, 0, 0, 0, 4}, false},
    {connection_send_setname, {1, 1, 1, 1, 1, 20}, false},
    {connection_send_getname, {1, 1, 1, 1, 1, 20}, false},
    {connection_send_id, {1, 1, 1, 1, 1, 20}, false},
    {connection_send_info, {0, 0, 0, 0, 0, 2}, false},
    {connection_unknown, {1, 1, 2, 2, 1, 20}, false},
    {connection_send_arity, {1, 1, 2, 2, 1, 20}, false},
    {connection_send_wrongtype, {2, 2, 4, 2, 2, 20}, true},
    {connection_send_skipped, {1, 1, 2, 0, 0, 10}, false},
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

bool operations_send_plain(struct load *l, struct client *c)
{
    const struct choice *choice = choose(l, MIXED);
    return choice->queued && choice->send(l, c);
}

bool operations_send(struct load *l, struct client *c)
{
    if (c->barrier)
        return false;
    if (c->subscribing)
        return sessions_send_subscribed(l, c);
    return choose(l, c->character.style)->send(l, c);
}
