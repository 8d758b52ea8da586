/* operations.h - what is asked, and what the replies may be: commands that need no session. */
#ifndef CHAOS_OPERATIONS_H
#define CHAOS_OPERATIONS_H

#include "load.h"

/* Sends something that fits the client's character and state; false: nothing now. */
bool operations_send(struct load *l, struct client *c);
/* Something that may stand in a transaction. */
bool operations_send_queued(struct load *l, struct client *c);
/* Something for a client that has subscribed in RESP3. */
bool operations_send_simple(struct load *l, struct client *c);

bool operations_ping(struct load *l, struct client *c);
/* A value that nobody else has, and that names `name`. */
struct value operations_nonce(struct load *l, struct client *c, const char *name);
/* SET of one of the client's own keys; NULL: it has none. */
struct key *operations_set(struct load *l, struct client *c);
/* A command that nobody knows. */
bool operations_unknown(struct load *l, struct client *c);
/* Random length of a value, at most `limit`. */
uint32_t operations_length(struct load *l, const struct client *c, uint32_t limit);
/* Reads all of a key, whatever its type. */
void operations_read(struct client *c, struct key *k, bool by_owner);
/* The rest of a command that only its own client's program can break: half of a SET. */
void operations_half(struct load *l, struct client *c);
/* What becomes of the keys of a command without a settle of its own. */
void operations_settle(struct load *l, struct client *c, struct owed *o, enum outcome outcome);

#endif
