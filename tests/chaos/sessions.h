/* sessions.h - what is asked of a connection with state: transactions, queues, messages. */
#ifndef CHAOS_SESSIONS_H
#define CHAOS_SESSIONS_H

#include "load.h"

bool sessions_send_transaction(struct load *l, struct client *c);
bool sessions_send_push(struct load *l, struct client *c);
bool sessions_send_pop(struct load *l, struct client *c);
bool sessions_send_publish(struct load *l, struct client *c);
bool sessions_send_subscribe(struct load *l, struct client *c);
/* Something for a client that has subscribed, or will have by then. */
bool sessions_send_subscribed(struct load *l, struct client *c);

/* All of a queue; only when nothing is under way. */
void sessions_read_queue(struct client *c, struct key *k);

/* Is this frame a message rather than the next reply? */
bool sessions_is_message(const struct client *c, const struct reader *frame);
bool sessions_check_message(struct load *l, struct client *c, struct reader *frame);

void sessions_forget_watch(struct client *c);
/* The connection is gone: transaction, watch and subscriptions with it. */
void sessions_lost(struct load *l, struct client *c);

#endif
