/* load.h - all of a run: the clients, the keys they share, the counts. */
#ifndef CHAOS_LOAD_H
#define CHAOS_LOAD_H

#include "client.h"

enum script { SCRIPT_SET, SCRIPT_ECHO, SCRIPT_GET, SCRIPTS };
enum { SHA_MAX = 41 };

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

/* A reply (or its absence) that must not be. The client is to be given up. */
void load_violation(struct load *l, const struct client *c, const struct owed *o, const char *what,
                    struct span seen);

#endif
