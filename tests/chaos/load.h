/* load.h - all of a run: the clients, the keys they share, the counts. */
#ifndef CHAOS_LOAD_H
#define CHAOS_LOAD_H

#include "client.h"

enum script { SCRIPT_SET, SCRIPT_ECHO, SCRIPT_GET, SCRIPTS };
enum {
    SHA_MAX = 41,
    SMALL_MAX = 4096, /* bytes of most values: all but those of strings */
};

struct load {
    struct dice dice;
    struct model *model;
    struct tally tally;
    struct client *clients;
    unsigned n_clients, generation;
    uint64_t seed, now; /* us */
    bool strict;        /* there are no faults that could explain an error or a disconnect */
    char sha[SCRIPTS][SHA_MAX]; /* of scripts that have been loaded */
};

/* Random length of a value, at most `limit`. */
uint32_t load_length(struct load *l, const struct client *c, uint32_t limit);
/* A value that nobody else has, and that names `name`. */
struct value load_nonce(struct load *l, struct client *c, const char *name);
/* The next version of a key's value, and a state in which it is all that there is. */
struct value load_overwrite(struct load *l, struct client *c, struct key *k, uint32_t limit);
/* "+OK" is right. */
enum verdict load_check_ok(const struct answer *a);
/* What becomes of the keys of a command without a settle of its own. */
void load_settle(const struct answer *a, enum outcome outcome);

/* A reply (or its absence) that must not be. The client is to be given up. */
void load_violation(struct load *l, const struct client *c, const struct owed *o, const char *what,
                    struct span seen);

#endif
