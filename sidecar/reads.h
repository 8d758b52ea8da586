/* reads.h - reads that the L1 may answer: from there, or from the upstream and into it.
 *
 * A reply that depends on one key alone is a view of this key: GET's own, which MGET shares, or
 * that of another command with these arguments in this database and protocol.
 */
#ifndef NEARCACHE_READS_H
#define NEARCACHE_READS_H

#include "forward.h"

/* Is this read answered by reads_one? Its key is then argv[1]. */
bool reads_takes(const struct proxy *p, const struct request_plan *plan);
/* A hit, a share of a fill under way, or a fill. plan->hash is the key's. */
void reads_one(struct proxy *p, struct caller *c, const struct request_plan *plan);
/* Hits from the L1, one MGET for the rest, put together in order. */
void reads_mget(struct proxy *p, struct caller *c, const struct request_plan *plan);

/* --- replies ------------------------------------------------------------------------------------
 */

/* REPLY_FILL_VALUE: to all that wait for the fill, and kept. `error`: it never came whole. */
void reads_fill_bytes(struct proxy *p, struct fill *f, const char *bytes, size_t n);
void reads_fill_end(struct proxy *p, struct fill *f, char type, const char *error);
/* It is late: those who wait are told; it may still be kept when it comes. */
void reads_fill_late(struct proxy *p, struct fill *f, const char *error);

/* REPLY_MERGE: the missing part of an MGET. */
void reads_merge_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n);
void reads_merge_end(struct proxy *p, struct request *r, char type, const char *error);

#endif
