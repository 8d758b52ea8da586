/* scripts.h - scripts, and commands on the whole key space. */
#ifndef CHAOS_SCRIPTS_H
#define CHAOS_SCRIPTS_H

#include "load.h"

bool scripts_send_script(struct load *l, struct client *c);
bool scripts_send_script_load(struct load *l, struct client *c);
bool scripts_send_noscript(struct load *l, struct client *c);
bool scripts_send_scan(struct load *l, struct client *c);
bool scripts_send_dbsize(struct load *l, struct client *c);

#endif
