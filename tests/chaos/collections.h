/* collections.h - commands on hashes and lists. */
#ifndef CHAOS_COLLECTIONS_H
#define CHAOS_COLLECTIONS_H

#include "load.h"

bool collections_send_hset(struct load *l, struct client *c);
bool collections_send_hash_read(struct load *l, struct client *c);
bool collections_send_list_write(struct load *l, struct client *c);
bool collections_send_list_read(struct load *l, struct client *c);

/* All of it. */
void collections_read(struct client *c, struct key *k, bool by_owner);

#endif
