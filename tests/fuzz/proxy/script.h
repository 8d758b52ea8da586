/* script.h - an input as a row of steps, and how inputs are made of one another.
 *
 *     setting(2) steps: what(1) who(1) a(1) b(1) [b bytes, of RAW steps]
 *
 * Any bytes are a script; what is cut off at the end counts as zeros.
 */
#ifndef FUZZ_SCRIPT_H
#define FUZZ_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SCRIPT_HEADER = 2,
    SCRIPT_STEP = 4,
    SCRIPT_STEPS_MAX = 400,
};

/* who: a client's slot, or the so-manieth connection of the server. Numbers are part of the corpus:
 * new ones go behind. */
enum what {
    /* clients */
    STEP_COMMAND, /* a: which (commands.h), b: its arguments; sent, with a connect if need be */
    STEP_QUEUE,   /* the same, and nothing is delivered yet */
    STEP_ANY,     /* a, b: any command of the table */
    STEP_RAW,     /* b bytes follow */
    STEP_DELIVER, /* a: how much of what it has sent */
    STEP_CONNECT,
    STEP_SHUT,
    STEP_CLOSE, /* a: with a reset */
    STEP_DEAF,  /* a: what the kernel takes from now on */
    STEP_READ,  /* a: as much as this is read */
    /* the server */
    STEP_ANSWER,     /* a: so many commands; b: and so many bytes of it all arrive */
    STEP_HELD,       /* the same, and nothing is delivered yet */
    STEP_FLOW,       /* a: so many bytes of what it has said */
    STEP_REFUSE,     /* a: which error */
    STEP_LIE,        /* a: which reply in place of the right one */
    STEP_GARBAGE,    /* a: what is no RESP */
    STEP_SERVER_RAW, /* b bytes follow */
    STEP_PUSH,       /* a: which message, b: about what */
    STEP_BREAK,      /* a: with a reset */
    STEP_SERVER_DEAF,
    STEP_SERVER_READ,
    STEP_WRITE,    /* somebody else writes; a: which key, b: how */
    STEP_CONNECTS, /* a: enum net_connects */
    STEP_MODE,     /* a: what the server answers by itself */
    /* all of it */
    STEP_TIME,   /* a: how long */
    STEP_SETTLE, /* everything that waits is answered, delivered and read */
    STEP_TURN,   /* a: whether turns end by themselves */
    STEP_DRAIN,
    STEP_OPTIONS, /* a: as a reload would set them */
    STEP_MEMORY,  /* a: so many allocations of the proxy succeed, b: then so many fail */
    STEP_WHATS
};

/* Some of the usual commands (commands.c), by which they begin stories. */
enum {
    COMMAND_GET = 0,
    COMMAND_SET = 1,
    COMMAND_MULTI = 12,
    COMMAND_EXEC = 13,
    COMMAND_SUBSCRIBE = 28,
    COMMAND_PUBLISH = 36,
};

struct step {
    uint8_t what, who, a, b;
    const uint8_t *raw;
    size_t n_raw;
};

struct script {
    const uint8_t *at, *end;
};

/* False: there are none left. */
bool script_next(struct script *s, struct step *step);
const char *script_name(uint8_t what);

#endif
