/* local.h - the commands that the proxy answers itself. */
#ifndef NEARCACHE_LOCAL_H
#define NEARCACHE_LOCAL_H

#include "proxy.h"

/* QUIT AUTH HELLO ACL WHOAMI MONITOR INFO CONFIG GET SLOWLOG GET READONLY READWRITE CLIENT ..
 * NEARCACHE
 * ..; arity has been checked. */
void local_run(struct proxy *p, struct caller *c, const struct command *command,
               const struct resp_slice *argv, size_t argc);

#endif
