/* tally.h - what is counted, and how it is told at the end. */
#ifndef CHAOS_TALLY_H
#define CHAOS_TALLY_H

#include "reply.h"

enum {
    TALLY_NAMES = 64, /* of commands; of errors */
    TALLY_TEXT = 96,
    TALLY_SHOWN = 20, /* violations told in full */
};

/* How connections ended. */
enum ending {
    ENDED_RESET,       /* by us, in the middle of whatever it was */
    ENDED_HALF_CLOSED, /* by us; all that was owed came, and then the end */
    ENDED_QUIT,
    ENDED_EARLY,        /* one of these two, before all had come: a fault */
    ENDED_IN_REPLY,     /* by nearcache, in the middle of a reply */
    ENDED_IN_SESSION,   /* that lost its upstream */
    ENDED_OWED,         /* while replies were owed: the broken one was not the first of them */
    ENDED_AFTER_ERROR,  /* that told of a lost session */
    ENDED_BY_VIOLATION, /* nothing more can be made of the stream */
    ENDED_LAST,         /* at the end of the run */
    ENDINGS
};

struct tally_name {
    char text[TALLY_TEXT];
    uint64_t n;
};

struct tally {
    uint64_t replies, messages, bytes, violations, errors;
    uint64_t endings[ENDINGS];
    uint64_t connections, skipped, read_back;
    struct tally_name commands[TALLY_NAMES], accepted[TALLY_NAMES];
};

/* A reply to `command` has been found right. */
void tally_reply(struct tally *t, const char *command);
/* An error was accepted; numbers in it don't make it another. */
void tally_error(struct tally *t, struct span text);
void tally_print(const struct tally *t);

/* Bytes in a form for people; cut where there is no more room. */
void tally_escape(char *out, size_t room, const char *p, size_t n);

#endif
