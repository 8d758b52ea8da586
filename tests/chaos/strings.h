/* strings.h - commands on strings, and on keys of any type. */
#ifndef CHAOS_STRINGS_H
#define CHAOS_STRINGS_H

#include "load.h"

bool strings_send_get(struct load *l, struct client *c);
bool strings_send_getrange(struct load *l, struct client *c);
bool strings_send_strlen(struct load *l, struct client *c);
bool strings_send_exists(struct load *l, struct client *c);
bool strings_send_mget(struct load *l, struct client *c);
bool strings_send_set(struct load *l, struct client *c);
bool strings_send_getset(struct load *l, struct client *c);
bool strings_send_mset(struct load *l, struct client *c);
bool strings_send_del(struct load *l, struct client *c);
bool strings_send_incr(struct load *l, struct client *c);
bool strings_send_append(struct load *l, struct client *c);
bool strings_send_setrange(struct load *l, struct client *c);
bool strings_send_expire(struct load *l, struct client *c);
bool strings_send_ttl(struct load *l, struct client *c);

/* SET of one of the client's own keys; NULL: it has none. */
struct key *strings_set(struct load *l, struct client *c);
/* The first half of a SET, which is never to be carried out. */
void strings_half(struct load *l, struct client *c);
/* All of it. */
void strings_read(struct client *c, struct key *k, bool by_owner);

#endif
