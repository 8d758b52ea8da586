/* redis.h - the shared Redis as a script plays it: it reads what the proxy sends, and answers when,
 * and as, it is told to.
 *
 * The honest answers are those of a Redis in what the proxy looks at; all other replies are made of
 * the command that asked, so that one in the wrong place is recognised.
 */
#ifndef FUZZ_REDIS_H
#define FUZZ_REDIS_H

#include "command.h"
#include "net.h"
#include "store.h"

enum { NAMES_MAX = 32 };

/* A command that waits for its reply. */
struct ask {
    STAILQ_ENTRY(ask) entry;
    size_t argc;
    struct resp_slice *argv; /* in the same piece of memory */
};
STAILQ_HEAD(ask_list, ask);

/* A message of a change: when the proxy has got so many bytes, it knows. */
struct mark {
    uint64_t offset, version;
    size_t record;
};

enum topic { TOPIC_CHANNELS, TOPIC_PATTERNS, TOPIC_SHARDS, TOPICS };

struct names {
    char *v[NAMES_MAX]; /* owned */
    size_t len[NAMES_MAX];
    size_t n;
};

/* One connection of the proxy to the server. */
struct redis_conn {
    TAILQ_ENTRY(redis_conn) entry;
    struct redis *redis;
    struct peer *peer;
    uint64_t id;
    struct buffer in;
    struct resp_request parser;
    struct ask_list asks, queued;
    size_t n_asks;
    uint32_t db;
    uint8_t resp;
    bool is_link;
    bool in_multi, spoilt;
    bool answering;       /* messages to itself meanwhile, which only .. */
    struct buffer behind; /* .. servers before 7.2 write into the middle of EXEC's reply */
    bool tracking, bcast, optin;
    uint64_t redirect;
    struct names topics[TOPICS];
    struct resp_slice prefixes[4]; /* of tracking; owned */
    size_t n_prefixes;
    struct mark *marks;
    size_t n_marks, cap_marks;
};
TAILQ_HEAD(redis_conns, redis_conn);

struct redis {
    struct net *net;
    struct resp_slice prefix; /* that all keys must have; borrowed */
    const struct command_table *commands;
    struct command_keys keys;
    struct resp_args args;
    struct store store;
    struct redis_conns conns;
    uint64_t last_id;
    bool knows_no_hello, refuses_tracking, fields_expire;
    bool lied; /* it has said what is not so: what is seen from now on proves nothing */
};

/* Commands that a server may have beside those of commands.def. NULL: out of memory. */
struct command_table *redis_commands(void);

void redis_init(struct redis *r, struct net *net, struct resp_slice prefix,
                const struct command_table *commands);
void redis_free(struct redis *r);

void redis_connected(struct redis *r, struct peer *peer);
/* Takes what the proxy has sent. */
void redis_read(struct redis *r);
/* Bytes have reached the proxy. */
void redis_delivered(struct redis_conn *c);

/* Carries the oldest command out and says its reply. */
void redis_answer(struct redis_conn *c);
/* The oldest command gets this in its place. */
void redis_answer_with(struct redis_conn *c, const void *p, size_t n);
/* Somebody else changes a key, or all of them. */
void redis_write(struct redis *r, uint32_t db, struct resp_slice key, struct state state);
void redis_flush(struct redis *r);

/* --- for the answers ----------------------------------------------------------------------------
 */

/* What the server says to a command. */
void answer(struct redis_conn *c, const struct ask *a, struct buffer *out);
/* The reply to this command is made of it: see answer_hash. */
bool answer_is_generic(const struct command *command);
bool answer_is_write(const struct command *command);
/* Of a command with full key names; `keys`: those to be put `prefix` before. */
uint64_t answer_hash(const struct resp_slice *argv, size_t argc, struct resp_slice prefix,
                     const struct command_keys *keys);

void redis_announce(struct redis *r, const struct record *record);
void redis_announce_all(struct redis *r);
size_t redis_publish(struct redis *r, enum topic topic, struct resp_slice channel,
                     struct resp_slice payload);
void redis_forget_prefixes(struct redis_conn *c);
struct redis_conn *redis_find(struct redis *r, uint64_t id);
bool redis_is_subscribed(const struct redis_conn *c);

#endif
