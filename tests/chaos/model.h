/* model.h - the keys of the test, and what may be read of each.
 *
 * A key is written by one client, its owner. Every write adds a state when it is sent; its reply
 * says whether it has come true:
 *
 *     states of s17.3     absent    SET    APPEND    DEL    SET
 *                                          ^ acknowledged   ^ sent
 *
 * What the owner reads is the state at the read's place in its pipeline. What others read is one
 * from the newest that was acknowledged when the read was sent to the newest sent when its reply
 * came.
 *
 * A write whose fate is not known (an error, a lost connection) may be done at any time from then
 * on, also after later ones. Such a key is in doubt: its slot goes on with a new name, nobody
 * writes to it again, and it shows any of the states that it may have, to the end.
 *
 * What is built on the state before (APPEND, INCR ..) waits until that is certain: otherwise others
 * could see what comes of it without it before its owner has learned that it failed. Some keys are
 * private: nobody else reads them, and everything is pipelined. If a write fails that others are
 * built on, nothing is known of such a key but whose bytes they are: it is lost to the test.
 */
#ifndef CHAOS_MODEL_H
#define CHAOS_MODEL_H

#include "dice.h"
#include "value.h"

enum key_type { KEY_STRING, KEY_COUNTER, KEY_HASH, KEY_LIST, KEY_QUEUE, KEY_CHANNEL, KEY_TYPES };

enum {
    MODEL_DBS = 3,
    PARTS_MAX = 6,    /* of a string that was appended to; elements of a list */
    HASH_FIELDS = 3,  /* "f0" .. */
    STATES_MAX = 256, /* of a key before it gets a new name */
    CHANNELS = 16,
    KEY_NAME_MAX = 24,
};

/* What one write wrote. */
struct piece {
    uint64_t nonce;
    uint32_t len;
};

struct state {
    uint32_t part[PARTS_MAX]; /* versions; of a counter: the number */
    uint8_t n;                /* 0: absent */
    bool relative;            /* to the state before */
    bool undone;              /* refused: has never been */
};

struct key {
    enum key_type type;
    unsigned db, slot, owner, refs, generation;
    char name[KEY_NAME_MAX];
    bool is_private, doubtful, lost;
    uint32_t acked, pending; /* state; writes without a reply */
    uint32_t floor;          /* of a doubtful one: the oldest that it may show */
    uint32_t n_states, states_cap, n_pieces, pieces_cap;
    struct state *states;
    struct piece *pieces; /* by version, from 1 */
    /* Queues and channels: elements sent by the owner and acknowledged, and taken by the consumer.
     */
    uint32_t confirmed, taken, pops;
    uint32_t suspect; /* one up to this is missing or out of order, if all of them were sent */
    struct key *next_garbage;
};

struct model;

/* Names begin with this generation: none is of an earlier run with fewer. */
struct model *model_new(struct dice *dice, unsigned clients, unsigned generation);
void model_free(struct model *m);

/* A key of this client that can be written to now, or NULL. */
struct key *model_own(struct model *m, unsigned db, enum key_type type, unsigned client);
/* One of anybody's, also such as nobody writes to any more. */
struct key *model_any(struct model *m, unsigned db, enum key_type type);
/* The queue that this client takes from, or NULL. */
struct key *model_queue_of(struct model *m, unsigned client);
/* NULL: there is none of that name, or not any more. */
struct key *model_channel(struct model *m, const char *name, size_t n);
struct key *model_channel_at(struct model *m, unsigned slot);
/* A key that is to be deleted for good, with its reference; NULL: none. */
struct key *model_garbage(struct model *m, unsigned db);
/* Every key that can be read, one after the other; begin with *at = 0. */
struct key *model_each(struct model *m, size_t *at);
/* Is this how a key of the test is called? */
bool model_is_name(const char *p, size_t n);
/* Names that slots have given up: because they were full, in doubt, lost. */
struct model_counts {
    uint64_t full, doubtful, lost;
};
struct model_counts model_counts(const struct model *m);

void key_unref(struct key *k);
uint32_t key_add_piece(struct key *k, uint64_t nonce, uint32_t len);
struct value key_value(const struct key *k, uint32_t version, unsigned field);
/* Adds a state, a copy of the one before: to be changed. */
struct state *key_write(struct key *k, bool relative);
/* May a state be built on the newest? */
bool key_may_build(const struct key *k);
/* What the owner's next command will find. */
const struct state *key_newest(const struct key *k);
uint64_t key_length(const struct key *k, const struct state *s);

/* A command's interest in a key: holds a reference. */
struct ref {
    struct key *key;
    uint32_t lo, hi;    /* states that its reply may show */
    bool exact, writes; /* `hi` is the last that it may show; `hi` is the state that it makes */
};

struct ref ref_read(struct key *k, bool by_owner);
struct ref ref_write(struct key *k);
struct ref ref_only(struct key *k); /* neither */
/* Does a state that may be shown fit? */
typedef bool (*state_fits)(const struct key *k, const struct state *s, const void *seen);
bool ref_shows(const struct ref *r, state_fits fits, const void *seen);
/* The same for what was there before the write. */
bool ref_showed(const struct ref *r, state_fits fits, const void *seen);

enum outcome { DONE, UNDONE, DOUBT };
/* The reply has come, or never will; drops the reference. */
void model_settle(struct model *m, struct ref *r, enum outcome outcome);
/* An element up to this is missing or out of order. True: for certain; else it is if none fails. */
bool model_suspect(struct key *k, uint32_t version);
/* What has been sent to a queue or channel, or taken from it, is not known any more. */
void model_doubt(struct model *m, struct key *k);

#endif
