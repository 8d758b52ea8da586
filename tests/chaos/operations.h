/* operations.h - which command comes next. */
#ifndef CHAOS_OPERATIONS_H
#define CHAOS_OPERATIONS_H

#include "load.h"

/* Sends something that fits the client's character and state; false: nothing now. */
bool operations_send(struct load *l, struct client *c);
/* Something plain, such as may stand in a transaction, or come from one who has subscribed. */
bool operations_send_plain(struct load *l, struct client *c);
/* Reads all of a key that is no queue. */
void operations_read(struct client *c, struct key *k, bool by_owner);

#endif
