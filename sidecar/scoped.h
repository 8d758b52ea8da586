/* scoped.h - commands on the whole key space, kept to this service's namespace.
 *
 * KEYS goes to the server with the prefix in its pattern; the rest walk with SCAN in bounded
 * batches, one at a time, on a connection of their own (the scan lane), so that nobody waits behind
 * them.
 */
#ifndef NEARCACHE_SCOPED_H
#define NEARCACHE_SCOPED_H

#include "proxy.h"

/* SCAN cursor [MATCH p] [COUNT n] [TYPE t]: one step, forwarded with the prefix in its pattern. */
void scoped_scan(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc);

/* KEYS, RANDOMKEY, DBSIZE, FLUSHDB, FLUSHALL, by command id; nothing may be owed to the caller. */
void scoped_run(struct proxy *p, struct caller *c, uint16_t id, const struct resp_slice *argv,
                size_t argc);

/* The same commands as a single one that can stand in a transaction: a pattern with our prefix, or
 * a script that walks. */
void scoped_append(struct proxy *p, struct chain *out, uint16_t id, const struct resp_slice *argv,
                   size_t argc);

#endif
