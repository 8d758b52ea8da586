/* commands.h - what the clients of a script say. */
#ifndef FUZZ_COMMANDS_H
#define FUZZ_COMMANDS_H

#include "buffer.h"
#include "command.h"

/* Who says it: makes its words its own. */
struct speaker {
    unsigned slot, seq;
};

/* Appends one of the usual commands; `choice` chooses its arguments. */
void commands_usual(struct buffer *out, unsigned which, uint8_t choice, struct speaker who);
/* Appends any command of the table with some arguments. */
void commands_any(struct buffer *out, const struct command_table *table, unsigned which,
                  struct speaker who);
/* One of the names that the usual commands are about. */
struct resp_slice commands_key(uint8_t choice);
struct resp_slice commands_channel(uint8_t choice);

#endif
