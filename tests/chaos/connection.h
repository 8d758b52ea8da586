/* connection.h - commands that concern the connection only, and such as are wrong. */
#ifndef CHAOS_CONNECTION_H
#define CHAOS_CONNECTION_H

#include "load.h"

bool connection_send_echo(struct load *l, struct client *c);
bool connection_send_skipped(struct load *l, struct client *c);
bool connection_send_arity(struct load *l, struct client *c);
bool connection_send_wrongtype(struct load *l, struct client *c);
bool connection_send_hello(struct load *l, struct client *c);
bool connection_send_select(struct load *l, struct client *c);
bool connection_send_no_db(struct load *l, struct client *c);
bool connection_send_reset(struct load *l, struct client *c);
bool connection_send_setname(struct load *l, struct client *c);
bool connection_send_getname(struct load *l, struct client *c);
bool connection_send_id(struct load *l, struct client *c);
bool connection_send_info(struct load *l, struct client *c);

bool connection_ping(struct load *l, struct client *c);
/* A command that nobody knows. */
bool connection_unknown(struct load *l, struct client *c);

#endif
