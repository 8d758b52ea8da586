/* client.h - one client: its connection, how it behaves, and the replies it is owed, in order. */
#ifndef CHAOS_CLIENT_H
#define CHAOS_CLIENT_H

#include "model.h"
#include "reply.h"
#include "tally.h"

struct load;
struct client;
struct owed;

enum {
    OWED_MAX = 256, /* replies */
    OWED_KEYS = 4,
    QUEUED_MAX = 12, /* commands of a transaction */
    MEMORIES = 16,   /* replies that are remembered */
};

/* A reply, or what has become of it. */
struct answer {
    struct load *load;
    struct client *client;
    struct owed *owed;
    struct reader *reader; /* where it begins; a check reads it to its end */
};

/* What a check says of a reply. MORE: the next reply is this command's, too. */
enum verdict { WRONG, AS_ASKED, WITHOUT_EFFECT, MORE };

static inline enum verdict verdict(bool right)
{
    return right ? AS_ASKED : WRONG;
}

struct operation {
    const char *name;
    enum verdict (*check)(const struct answer *a);
    /* When the reply has come, or never will; NULL: of the keys only. */
    void (*settle)(const struct answer *a, enum outcome outcome);
    bool is_refused; /* already when a transaction queues it */
};

/* A reply that is owed. */
struct owed {
    const struct operation *op;
    bool queued; /* sent between MULTI and EXEC */
    uint8_t n;   /* keys */
    uint32_t from, to;
    uint64_t number;
    struct ref refs[OWED_KEYS];
};

enum client_state { CLIENT_CLOSED, CLIENT_CONNECTING, CLIENT_OPEN, CLIENT_ENDING };
enum multi_state { MULTI_NONE, MULTI_OPEN, MULTI_FAILED };
enum watch_state { WATCH_NONE, WATCH_CLEAN, WATCH_DIRTY, WATCH_UNKNOWN };
enum style { READS, WRITES, MIXED, SESSIONS, SUBSCRIBER, ODD, STYLES };

/* A reply that was right: told when a later one is not. */
struct memory {
    const char *command;
    char key[KEY_NAME_MAX], reply[32];
};

/* How it behaves until it changes its mind. Bytes are per tick; 0: as many as there are. */
struct character {
    enum style style;
    unsigned depth; /* of its pipeline */
    size_t write_max, read_max;
    bool big; /* values of megabytes */
};

struct subscription {
    struct key *channel; /* NULL: none; with a reference */
    uint32_t floor;      /* confirmed before it was asked for */
    uint32_t newest;     /* sent when it was confirmed */
    /* The same of the name that its channel had got meanwhile, and its generation. */
    uint32_t renewed, renewed_generation;
    uint32_t last; /* seen */
    bool open;
};

struct buffer {
    char *p;
    size_t at, len, cap; /* done with up to `at` */
};

struct client {
    unsigned id;
    int fd;
    enum client_state state;
    uint64_t nonce;     /* of this connection */
    uint32_t number;    /* of its last command that has one */
    const char *prefix; /* of its keys: for a client without nearcache */
    unsigned interest;  /* epoll events */
    struct buffer in, out;
    struct reply_frame frame;
    struct owed ring[OWED_MAX];
    unsigned first, n_owed;

    struct character character;
    uint64_t character_until, stalled_until, paused_until, retry_at; /* us */
    uint64_t progress;  /* when bytes last moved, or when there was nothing to wait for */
    bool stalled, shut; /* not read from; all has been said */
    bool troubled;      /* has been told that its upstream is gone */

    /* As of the last command sent. */
    bool barrier;  /* nothing more is sent before the reply to the last */
    bool queueing; /* between MULTI and EXEC */
    bool subscribing;
    unsigned blocking; /* commands owed that wait for others */

    /* As of the last reply. */
    unsigned resp, db;
    int64_t client_id;
    uint64_t name; /* CLIENT SETNAME; 0: none */
    enum multi_state multi;
    bool spoiled; /* the transaction */
    struct owed queued[QUEUED_MAX];
    unsigned n_queued;
    enum watch_state watch;
    struct key *watched; /* with a reference */
    bool by_pattern;
    int64_t subscribed; /* channels and patterns */
    struct subscription subscriptions[CHANNELS];
    char cursor[24]; /* of SCAN */
    struct memory memories[MEMORIES];
    uint64_t n_memories;
};

static inline bool client_owns(const struct client *c, const struct key *k)
{
    return k->owner == c->id;
}

/* Commands, appended to the output. */
void client_command(struct client *c, unsigned words);
void client_word(struct client *c, const char *text);
void client_bytes(struct client *c, const char *p, size_t n);
void client_number(struct client *c, uint64_t n);
void client_key(struct client *c, const struct key *k);
void client_value(struct client *c, const struct value *v);
/* A whole command of words, the last NULL. */
void client_say(struct client *c, ...) __attribute__((sentinel));

/* The reply to what was just appended; there is room for OWED_MAX. */
struct owed *client_owe(struct client *c, const struct operation *op);
struct ref *owed_add(struct owed *o, struct ref r);
struct owed *client_head(struct client *c);
void client_pop(struct client *c);

void buffer_append(struct buffer *b, const char *p, size_t n);
char *buffer_room(struct buffer *b, size_t n);
void buffer_consume(struct buffer *b, size_t n);
void buffer_free(struct buffer *b);

#endif
