/* model.h - what each client may be shown: made of what it has said, held against what it gets.
 *
 *     said -> command -> want (in order) <- frame <- shown
 *
 * A client's output is valid RESP, one reply a command, in order, and each reply is the one to its
 * command: values and echoes tell what was asked for. No value is older than what coherence
 * promises (store.h). What can't be told of a command is a want of any frame.
 */
#ifndef FUZZ_MODEL_H
#define FUZZ_MODEL_H

#include "redis.h"

enum {
    DBS = 4,                /* databases in which staleness is looked at */
    QUERY_MAX = 512 * 1024, /* client.max_query */
};

/* How a reply has to look like. */
enum want_kind { WANT_ANY, WANT_BULK, WANT_OK, WANT_VALUES, WANT_GENERIC, WANT_CONFIRM, WANT_EXEC };

struct want {
    STAILQ_ENTRY(want) entry;
    enum want_kind kind;
    const struct command *command; /* NULL: unknown */
    size_t argc;
    struct resp_slice *argv; /* in the same piece of memory */
    bool in_multi;           /* is to be queued */
    bool sure;               /* can't be refused */
    size_t left;             /* confirmations; 0: of all subscriptions */
    uint64_t asked;          /* when, or when the oldest reply under way then was said */
    uint64_t (*floors)[DBS]; /* of each key; owned, or NULL */
};
STAILQ_HEAD(want_list, want);

/* The newest version of something that a client has been shown, or has written. */
struct known {
    uint64_t what, version;
    uint32_t db;
};
struct known_list {
    struct known *v;
    size_t n, cap;
};

struct model {
    struct redis *redis;
    const struct command_table *commands;
    struct command_keys keys;
    struct resp_args args;
    uint64_t bound;          /* ms after which a change is seen whatever happens */
    struct known_list shown; /* to anybody */
    bool trouble;            /* errors and disconnections are to be expected */
    bool kills;              /* clients kill each other, or are drained */
    bool pauses;
    bool forgets;  /* memory has run out */
    bool stale;    /* in trouble it may show what is not so any more */
    bool squeezed; /* clients may be sent away for want of memory */
};

/* One client's end. */
struct person {
    struct model *model;
    struct peer *peer;
    unsigned slot, seq;
    struct buffer said, shown;
    struct resp_request parser;
    struct resp_framer framer;
    size_t framed; /* bytes of `shown` that the framer has seen */
    struct want_list wants, queued;
    size_t n_wants;
    struct known_list known;
    uint64_t subscribed[TOPICS][NAMES_MAX]; /* hashes of the names */
    size_t n_subscribed[TOPICS];
    uint32_t db;
    uint8_t resp;
    bool in_multi, multi_refused;
    bool reply_off, skip, skip_next;
    bool loose;   /* nothing is known of its replies but that they are frames */
    bool pubsub;  /* messages may come between the replies */
    bool session; /* has asked for what only a connection of its own can give */
    bool unsure;  /* may be disconnected */
    bool quits;   /* has said its last */
    bool ended;   /* has been told something after which it is told nothing, and disconnected */
};

void model_init(struct model *m, struct redis *redis, const struct command_table *commands);
void model_free(struct model *m);

struct person *person_new(struct model *m, struct peer *peer, unsigned slot);
void person_free(struct person *c);
/* The proxy has got these bytes of it. */
void person_said(struct person *c, const char *p, size_t n);
/* Reads what it was sent. */
void person_read(struct person *c);
/* The proxy has disconnected it. */
void person_left(struct person *c);

#endif
