/* reads.h - GET and MGET: from the L1, or from the upstream and into the L1. */
#ifndef NEARCACHE_READS_H
#define NEARCACHE_READS_H

#include "forward.h"

/* GET of one key: a hit, a share of a fill under way, or a fill. plan->hash is its key's. */
void reads_get(struct proxy *p, struct caller *c, const struct request_plan *plan);
/* Hits from the L1, one MGET for the rest, put together in order. */
void reads_mget(struct proxy *p, struct caller *c, const struct request_plan *plan);

/* --- replies ------------------------------------------------------------------------------------
 */

/* REPLY_FILL_VALUE: to all that wait for the fill, and kept. `error`: it never came whole. */
void reads_fill_bytes(struct proxy *p, struct fill *f, const char *bytes, size_t n);
void reads_fill_end(struct proxy *p, struct fill *f, bool keep, const char *error);

/* REPLY_MERGE: the missing part of an MGET. */
void reads_merge_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n);
void reads_merge_end(struct proxy *p, struct request *r, char type, const char *error);

#endif
