/* world.h - the whole proxy, its clients and its server, as one script has them. */
#ifndef FUZZ_WORLD_H
#define FUZZ_WORLD_H

#include "commands.h"
#include "model.h"
#include "proxy.h"
#include "script.h"

enum { CLIENTS = 4 };

/* What the server does by itself, in the setting and in STEP_MODE. */
enum { AUTO_HANDSHAKES = 1, AUTO_ANSWERS = 2 };

struct world {
    struct net net;       /* first */
    struct config config; /* its strings are others' */
    struct upstream_address address;
    struct namespace ns;
    struct metrics metrics;
    struct crew crew;
    struct proxy proxy, *one;
    struct redis redis;
    struct model model;
    struct person *clients[CLIENTS];
    uint8_t mode;
    bool turns_wait; /* several steps make one turn of the loop */
    bool drained;
};

/* The parts of the proxy, put together as main does. `setting`: the input's first two bytes. */
void world_build(struct world *w, const uint8_t setting[SCRIPT_HEADER]);
void world_step(struct world *w, const struct step *step);
/* All that is owed comes, everybody leaves, and nothing is left. */
void world_end(struct world *w);

#endif
