/* sessions.c - what is asked of a connection with state: transactions, queues, messages. */
#include "sessions.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "connection.h"
#include "judge.h"
#include "operations.h"
#include "strings.h"

enum {
    NAMED_MIN = 80,           /* bytes of an element or message: enough to name it */
    ELEMENT_MAX = 100 * 1000, /* .. and at most */
    BACKLOG = 40,             /* elements in a queue */
    SUBSCRIBED_MAX = 3,       /* channels by name */
};

static const char pattern[] = "c[0-9]*"; /* all of the test's channels */

/* --- WATCH --------------------------------------------------------------------------------------
 */

void sessions_forget_watch(struct client *c)
{
    if (c->watched)
        key_unref(c->watched);
    c->watched = NULL;
    c->watch = WATCH_NONE;
}

static enum verdict check_watch(const struct answer *a)
{
    if (!reader_text(a->reader, "+OK\r\n"))
        return WRONG;
    bool another = a->client->watch != WATCH_NONE; /* left by an EXEC that found no transaction */
    sessions_forget_watch(a->client);
    a->client->watch = another || a->owed->refs[0].key->doubtful ? WATCH_UNKNOWN : WATCH_CLEAN;
    a->client->watched = a->owed->refs[0].key;
    a->client->watched->refs++;
    return AS_ASKED;
}

/* Perhaps followed by a write that spoils it. */
static void send_watch(struct load *l, struct client *c)
{
    static const struct operation op = {.name = "WATCH", .check = check_watch};
    struct key *k = model_own(l->model, c->db, KEY_STRING, c->id);
    if (!k)
        return;
    client_command(c, 2);
    client_word(c, "WATCH");
    client_key(c, k);
    owed_add(client_owe(c, &op), ref_only(k));
    if (dice_chance(&l->dice, 500))
        (void)strings_set(l, c);
}

/* --- MULTI .. EXEC ------------------------------------------------------------------------------
 */

static void settle_queued(struct load *l, struct client *c, enum outcome outcome)
{
    for (unsigned i = 0; i < c->n_queued; i++) {
        struct owed *o = &c->queued[i];
        judge_settle(&(struct answer){l, c, o, NULL}, outcome);
    }
    c->n_queued = 0;
}

static enum verdict check_multi(const struct answer *a)
{
    if (!reader_text(a->reader, "+OK\r\n"))
        return WRONG;
    a->client->multi = MULTI_OPEN;
    a->client->spoiled = false;
    return AS_ASKED;
}

/* Without it the commands behind it are carried out one by one. */
static void settle_multi(const struct answer *a, enum outcome outcome)
{
    if (outcome != DONE)
        a->client->multi = MULTI_FAILED;
}

static void end_multi(const struct answer *a, enum outcome outcome)
{
    settle_queued(a->load, a->client, outcome);
    if (a->client->multi == MULTI_OPEN)
        sessions_forget_watch(a->client);
    else if (a->client->watch != WATCH_NONE &&
             outcome == DOUBT) /* gone with its connection, perhaps */
        a->client->watch = WATCH_UNKNOWN;
    a->client->multi = MULTI_NONE;
}

static enum verdict check_elements(struct load *l, struct client *c, struct reader *r)
{
    int64_t n;
    if (!reader_array(r, &n) || n != c->n_queued || c->spoiled || c->watch == WATCH_DIRTY)
        return WRONG;
    unsigned i = 0;
    while (i < c->n_queued && judge_reply(&(struct answer){l, c, &c->queued[i], r}) != WRONG)
        i++;
    c->n_queued -= i; /* those that are not settled yet */
    memmove(c->queued, c->queued + i, c->n_queued * sizeof *c->queued);
    return verdict(c->n_queued == 0);
}

static enum verdict check_exec(const struct answer *a)
{
    static const char previous[] =
        "-EXECABORT Transaction discarded because of previous errors.\r\n";
    static const char because[] = "EXECABORT Transaction discarded because of: ";
    struct reader before = *a->reader;
    struct span error;
    if (a->client->multi == MULTI_NONE)
        return WRONG;
    if (a->client->multi == MULTI_FAILED && reader_text(a->reader, "-ERR EXEC without MULTI\r\n"))
        return AS_ASKED;
    bool undone = (a->client->spoiled && reader_text(a->reader, previous)) ||
                  (a->client->multi == MULTI_OPEN &&
                   (a->client->watch == WATCH_DIRTY || a->client->watch == WATCH_UNKNOWN) &&
                   reader_null_array(a->reader));
    if (!undone && !a->load->strict && reader_error(a->reader, &error))
        undone = error.n > sizeof because && memcmp(error.p, because, sizeof because - 1) == 0;
    if (undone) {
        settle_queued(a->load, a->client, UNDONE);
        sessions_forget_watch(a->client);
        return AS_ASKED;
    }
    if (a->client->multi == MULTI_FAILED)
        return WRONG;
    *a->reader = before;
    return check_elements(a->load, a->client, a->reader);
}

static enum verdict check_discard(const struct answer *a)
{
    if (a->client->multi == MULTI_FAILED)
        return verdict(reader_text(a->reader, "-ERR DISCARD without MULTI\r\n"));
    settle_queued(a->load, a->client, UNDONE);
    return verdict(a->client->multi == MULTI_OPEN && reader_text(a->reader, "+OK\r\n"));
}

static const struct operation op_exec = {.name = "EXEC", .check = check_exec, .settle = end_multi};

bool sessions_send_transaction(struct load *l, struct client *c)
{
    static const struct operation op_multi = {
        .name = "MULTI", .check = check_multi, .settle = settle_multi};
    static const struct operation op_discard = {
        .name = "DISCARD", .check = check_discard, .settle = end_multi};
    unsigned n = (unsigned)dice_below(&l->dice, 6);
    if (dice_chance(&l->dice, 300))
        send_watch(l, c);
    client_say(c, "MULTI", NULL);
    client_owe(c, &op_multi);
    c->queueing = true;
    while (n--)
        (void)operations_send_plain(l, c);
    if (dice_chance(&l->dice, 60))
        (void)connection_unknown(l, c);
    c->queueing = false;
    bool exec = dice_chance(&l->dice, 900);
    client_say(c, exec ? "EXEC" : "DISCARD", NULL);
    client_owe(c, exec ? &op_exec : &op_discard);
    return true;
}

/* --- queues: RPUSH and BLPOP, LPUSH and BRPOP ---------------------------------------------------
 */

static struct value add_named(struct load *l, struct client *c, struct key *k)
{
    uint32_t len = NAMED_MIN + load_length(l, c, ELEMENT_MAX);
    return key_value(k, key_add_piece(k, c->nonce, len), 0);
}

/* What has been sent is in there, or nobody knows. */
static void settle_sent(const struct answer *a, enum outcome outcome)
{
    struct key *k = a->owed->refs[0].key;
    k->pending--;
    if (outcome == DONE)
        k->confirmed = (uint32_t)a->owed->number;
    else
        model_doubt(a->load->model, k);
    if (k->suspect && k->confirmed >= k->suspect && !k->doubtful)
        load_violation(a->load, a->client, a->owed,
                       "some of what it sent was missing or out of order",
                       (struct span){k->name, strlen(k->name)});
    model_settle(a->load->model, &a->owed->refs[0], outcome);
}

static enum verdict check_push(const struct answer *a)
{
    int64_t n;
    return verdict(reader_integer(a->reader, &n) && n >= 1 && n <= (int64_t)a->owed->from);
}

bool sessions_send_push(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "PUSH to a queue", .check = check_push, .settle = settle_sent};
    struct key *k = c->db == 0 ? model_own(l->model, 0, KEY_QUEUE, c->id) : NULL;
    if (!k || k->n_pieces - k->taken >= BACKLOG)
        return false;
    struct value v = add_named(l, c, k);
    k->pending++;
    client_command(c, 3);
    client_word(c, k->slot % 2 ? "RPUSH" : "LPUSH");
    client_key(c, k);
    client_value(c, &v);
    struct owed *o = client_owe(c, &op);
    o->number = v.version;
    o->from = v.version - k->taken;
    owed_add(o, ref_only(k));
    return true;
}

static bool is_element(const struct key *k, uint32_t version, struct span s)
{
    if (version == 0 || version > k->n_pieces)
        return false;
    struct value v = key_value(k, version, 0);
    return v.len == s.n && value_matches(&v, 0, s.p, s.n);
}

/* The oldest element; nothing only if all that was surely there has been taken before. */
static enum verdict check_pop(const struct answer *a)
{
    struct key *k = a->owed->refs[0].key;
    struct span s;
    int64_t n;
    if (reader_null_array(a->reader))
        return k->doubtful || k->taken >= a->owed->number ? WITHOUT_EFFECT : WRONG;
    if (!reader_array(a->reader, &n) || n != 2 || !reader_is_bulk(a->reader, k->name) ||
        !reader_bulk(a->reader, &s))
        return WRONG;
    uint32_t version = value_version(k->name, s.p, s.n);
    if (!is_element(k, version, s))
        return WRONG;
    bool is_next = version == k->taken + 1;
    if (version > k->taken)
        k->taken = version;
    return verdict(is_next || !model_suspect(k, k->taken));
}

static void settle_pop(const struct answer *a, enum outcome outcome)
{
    struct key *k = a->owed->refs[0].key;
    a->client->blocking--;
    k->pops--;
    if (outcome == DOUBT)
        model_doubt(a->load->model, k);
    model_settle(a->load->model, &a->owed->refs[0], outcome);
}

bool sessions_send_pop(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "BLPOP, BRPOP", .check = check_pop, .settle = settle_pop};
    static const char *const timeouts[] = {"0.01", "0.05", "0.2", "0.5"};
    struct key *k = c->db == 0 ? model_queue_of(l->model, c->id) : NULL;
    if (!k)
        return false;
    client_command(c, 3);
    client_word(c, k->slot % 2 ? "BLPOP" : "BRPOP");
    client_key(c, k);
    client_word(c, timeouts[dice_below(&l->dice, 4)]);
    struct owed *o = client_owe(c, &op);
    o->number = k->confirmed;
    owed_add(o, ref_only(k));
    k->pops++;
    c->blocking++;
    return true;
}

/* What is left of it when all has come to an end. */
static enum verdict check_queue(const struct answer *a)
{
    const struct key *k = a->owed->refs[0].key;
    uint32_t left = k->confirmed - k->taken;
    struct span s;
    int64_t n;
    if (!reader_array(a->reader, &n) || (n != left && !k->doubtful))
        return WRONG;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t version = k->slot % 2 ? k->taken + 1 + i : k->confirmed - i;
        if (!reader_bulk(a->reader, &s))
            return WRONG;
        if (k->doubtful)
            version = value_version(k->name, s.p, s.n);
        if (!is_element(k, version, s))
            return WRONG;
    }
    return AS_ASKED;
}

void sessions_read_queue(struct client *c, struct key *k)
{
    static const struct operation op = {.name = "LRANGE of a queue", .check = check_queue};
    client_command(c, 4);
    client_word(c, "LRANGE");
    client_key(c, k);
    client_word(c, "0");
    client_word(c, "-1");
    owed_add(client_owe(c, &op), ref_only(k));
}

/* --- PUBLISH ------------------------------------------------------------------------------------
 */

static enum verdict check_publish(const struct answer *a)
{
    int64_t n;
    return verdict(reader_integer(a->reader, &n) && n >= 0 && n <= (int64_t)a->load->n_clients);
}

bool sessions_send_publish(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "PUBLISH", .check = check_publish, .settle = settle_sent};
    struct key *k = model_own(l->model, 0, KEY_CHANNEL, c->id);
    if (!k)
        return false;
    struct value v = add_named(l, c, k);
    k->pending++;
    client_command(c, 3);
    client_word(c, "PUBLISH");
    client_word(c, k->name);
    client_value(c, &v);
    struct owed *o = client_owe(c, &op);
    o->number = v.version;
    owed_add(o, ref_only(k));
    return true;
}

/* --- SUBSCRIBE ----------------------------------------------------------------------------------
 */

static void follow(struct subscription *s, struct key *channel)
{
    if (s->channel)
        key_unref(s->channel);
    *s = (struct subscription){.channel = channel, .floor = channel->confirmed};
    channel->refs++;
}

static void forget_subscriptions(struct client *c)
{
    for (unsigned i = 0; i < CHANNELS; i++) {
        if (c->subscriptions[i].channel)
            key_unref(c->subscriptions[i].channel);
        c->subscriptions[i] = (struct subscription){0};
    }
    c->subscribed = 0;
    c->subscribing = false;
}

static struct subscription *find_subscription(struct client *c, struct span name)
{
    for (unsigned i = 0; i < CHANNELS; i++) {
        struct subscription *s = &c->subscriptions[i];
        if (s->channel && strlen(s->channel->name) == name.n &&
            memcmp(s->channel->name, name.p, name.n) == 0)
            return s;
    }
    return NULL;
}

/* [kind, name or null, how many are left], as a message in RESP3. */
static bool take_confirmation(struct reader *r, const char *kind, struct span *name, int64_t *n)
{
    *name = (struct span){0};
    return reader_text(r, r->resp == 3 ? ">3\r\n" : "*3\r\n") && reader_is_bulk(r, kind) &&
           (reader_null(r) || reader_bulk(r, name)) && reader_integer(r, n);
}

static void open_subscription(struct load *l, struct subscription *s)
{
    s->open = true;
    s->newest = s->channel->n_pieces;
    struct key *current = model_channel_at(l->model, s->channel->slot);
    s->renewed = current->n_pieces;
    s->renewed_generation = current->generation;
}

static enum verdict check_psubscribe(const struct answer *a)
{
    struct span name;
    int64_t n;
    if (!take_confirmation(a->reader, "psubscribe", &name, &n) || n != 1 ||
        name.n != strlen(pattern) || memcmp(name.p, pattern, name.n) != 0)
        return WRONG;
    a->client->subscribed = 1;
    for (unsigned i = 0; i < CHANNELS; i++)
        if (a->client->subscriptions[i].channel)
            open_subscription(a->load, &a->client->subscriptions[i]);
    return AS_ASKED;
}

static enum verdict check_subscribe(const struct answer *a)
{
    struct span name;
    int64_t n;
    if (!take_confirmation(a->reader, "subscribe", &name, &n) || n != ++a->client->subscribed)
        return WRONG;
    struct subscription *s = find_subscription(a->client, name);
    if (!s || s->open)
        return WRONG;
    open_subscription(a->load, s);
    return --a->owed->number ? MORE : AS_ASKED;
}

static void settle_subscribe(const struct answer *a, enum outcome outcome)
{
    if (outcome == DONE)
        return;
    forget_subscriptions(a->client);
    a->client->subscribing = true; /* until the UNSUBSCRIBE, which finds nothing */
}

static void subscribe_by_name(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "SUBSCRIBE", .check = check_subscribe, .settle = settle_subscribe};
    unsigned n = 1 + (unsigned)dice_below(&l->dice, SUBSCRIBED_MAX);
    unsigned at = (unsigned)dice_below(&l->dice, CHANNELS);
    struct key *channels[SUBSCRIBED_MAX];
    for (unsigned i = 0; i < n; i++)
        channels[i] = model_channel_at(l->model, at + i);
    n = l->n_clients < SUBSCRIBED_MAX ? 1 : n; /* different ones */
    client_command(c, 1 + n);
    client_word(c, "SUBSCRIBE");
    for (unsigned i = 0; i < n; i++) {
        client_word(c, channels[i]->name);
        follow(&c->subscriptions[channels[i]->slot], channels[i]);
    }
    client_owe(c, &op)->number = n;
}

static void subscribe_by_pattern(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "PSUBSCRIBE", .check = check_psubscribe, .settle = settle_subscribe};
    client_say(c, "PSUBSCRIBE", pattern, NULL);
    for (unsigned i = 0; i < CHANNELS; i++) {
        struct key *k = model_channel_at(l->model, i);
        follow(&c->subscriptions[k->slot], k);
    }
    client_owe(c, &op);
}

bool sessions_send_subscribe(struct load *l, struct client *c)
{
    c->subscribing = true;
    c->by_pattern = dice_chance(&l->dice, 300);
    if (c->by_pattern)
        subscribe_by_pattern(l, c);
    else
        subscribe_by_name(l, c);
    return true;
}

/* Of names that were given, each; else of all that there are, or one that says that there is none.
 */
static enum verdict check_unsubscribe(const struct answer *a)
{
    struct span name;
    int64_t n;
    if (a->owed->number == 0)
        a->owed->number = a->client->subscribed ? (uint64_t)a->client->subscribed : 1;
    if (!take_confirmation(a->reader, a->client->by_pattern ? "punsubscribe" : "unsubscribe", &name,
                           &n))
        return WRONG;
    struct subscription *s =
        a->client->by_pattern ? &a->client->subscriptions[0] : find_subscription(a->client, name);
    bool was_open = s && s->open;
    if (was_open)
        s->open = false;
    a->client->subscribed -= was_open;
    if (n != a->client->subscribed || (!name.p && was_open))
        return WRONG;
    return --a->owed->number ? MORE : AS_ASKED;
}

static void settle_unsubscribe(const struct answer *a, enum outcome outcome)
{
    a->client->barrier = false;
    if (outcome == DONE)
        forget_subscriptions(a->client);
}

/* Nothing is sent behind it: if it is refused the client is still subscribed. */
static void send_unsubscribe(struct load *l, struct client *c)
{
    static const struct operation op = {
        .name = "UNSUBSCRIBE", .check = check_unsubscribe, .settle = settle_unsubscribe};
    const char *names[1 + CHANNELS] = {c->by_pattern ? "PUNSUBSCRIBE" : "UNSUBSCRIBE"};
    unsigned n = 1;
    if (dice_chance(&l->dice, 500) && c->by_pattern)
        names[n++] = pattern;
    else if (dice_chance(&l->dice, 500) && !c->by_pattern)
        for (unsigned i = 0; i < CHANNELS; i++)
            if (c->subscriptions[i].channel)
                names[n++] = c->subscriptions[i].channel->name;
    client_command(c, n);
    for (unsigned i = 0; i < n; i++)
        client_word(c, names[i]);
    client_owe(c, &op)->number = n - 1;
    c->barrier = true;
}

bool sessions_send_subscribed(struct load *l, struct client *c)
{
    uint64_t how = dice_below(&l->dice, 100);
    if (how < 4)
        send_unsubscribe(l, c);
    else if (how < 60 && c->subscribed > 0 && c->resp == 3)
        return operations_send_plain(l, c);
    else
        return connection_ping(l, c);
    return true;
}

/* --- messages -----------------------------------------------------------------------------------
 */

bool sessions_is_message(const struct client *c, const struct reader *frame)
{
    struct reader r = *frame;
    if (c->subscribed == 0)
        return false;
    bool is_long = reader_text(&r, c->resp == 3 ? ">4\r\n" : "*4\r\n");
    return is_long ? reader_is_bulk(&r, "pmessage")
                   : reader_text(&r, c->resp == 3 ? ">3\r\n" : "*3\r\n") &&
                         reader_is_bulk(&r, "message");
}

/* A channel goes on with a new name: nothing of the old one may be missing. */
static bool switch_channel(struct subscription *s, struct key *k)
{
    struct key *old = s->channel;
    uint32_t newest = k->generation == s->renewed_generation  ? s->renewed
                      : k->generation < s->renewed_generation ? k->n_pieces
                                                              : 0;
    if (!old->doubtful && s->last && s->last != old->n_pieces)
        return false;
    k->refs++;
    key_unref(old);
    *s = (struct subscription){.channel = k, .newest = newest, .open = true};
    return true;
}

/* Each once, none left out. */
static bool check_next(struct subscription *s, uint32_t version)
{
    uint32_t last = s->last;
    bool is_next = last ? version == last + 1 : version > s->floor && version <= s->newest + 1;
    s->last = version > last ? version : last;
    return is_next || !model_suspect(s->channel, s->last);
}

static bool check_sequence(struct client *c, struct key *k, uint32_t version)
{
    struct subscription *s = &c->subscriptions[k->slot];
    if (!s->channel || !s->open)
        return false;
    if (s->channel == k)
        return check_next(s, version);
    if (!c->by_pattern)
        return false;
    if (k->generation < s->channel->generation) /* one in doubt, of long ago */
        return k->doubtful;
    return switch_channel(s, k) && check_next(s, version);
}

bool sessions_check_message(struct load *l, struct client *c, struct reader *frame)
{
    int64_t n;
    struct span name, s;
    bool right = frame->resp == 3 ? reader_text(frame, c->by_pattern ? ">4\r\n" : ">3\r\n")
                                  : reader_array(frame, &n) && n == (c->by_pattern ? 4 : 3);
    right = right && reader_is_bulk(frame, c->by_pattern ? "pmessage" : "message") &&
            (!c->by_pattern || reader_is_bulk(frame, pattern)) && reader_bulk(frame, &name) &&
            reader_bulk(frame, &s);
    if (!right)
        return false;
    l->tally.messages++;
    const struct subscription *named = find_subscription(c, name);
    struct key *k = named ? named->channel : model_channel(l->model, name.p, name.n);
    if (!k) /* too old to be known; not to be missed */
        return c->by_pattern && model_is_name(name.p, name.n);
    uint32_t version = value_version(k->name, s.p, s.n);
    struct subscription before = c->subscriptions[k->slot];
    if (is_element(k, version, s) && check_sequence(c, k, version))
        return true;
    printf("%s: %" PRIu32 " after %" PRIu32 " of %s; when subscribed %" PRIu32 " .. %" PRIu32
           "; %" PRIu32 " sent, %" PRIu32 " confirmed%s\n",
           k->name, version, before.last, before.channel ? before.channel->name : "none",
           before.floor, before.newest, k->n_pieces, k->confirmed, k->doubtful ? ", in doubt" : "");
    return false;
}

/* --- the end ------------------------------------------------------------------------------------
 */

void sessions_lost(struct load *l, struct client *c)
{
    settle_queued(l, c, DOUBT);
    sessions_forget_watch(c);
    forget_subscriptions(c);
    c->multi = MULTI_NONE;
    c->queueing = c->barrier = false;
}
