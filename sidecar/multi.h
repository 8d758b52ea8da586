/* multi.h - commands queued with MULTI, and EXEC.
 *
 * The server queues them; what is noted here is how each element of EXEC's reply is to be read, and
 * which keys the whole may change.
 */
#ifndef NEARCACHE_MULTI_H
#define NEARCACHE_MULTI_H

#include "lend.h"

/* MULTI; the caller has a session. */
void multi_begin(struct proxy *p, struct caller *c, const struct request_plan *plan);
/* The server refused it. */
void multi_refused(const struct request *r);
/* Any command after it, EXEC and DISCARD among them. */
enum request_outcome multi_run(struct proxy *p, struct caller *c, const struct request_plan *plan);

/* REPLY_EXEC. */
void multi_exec_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n);
/* Elements of it that are still to come when all have come that it said. */
size_t multi_exec_missing(const struct request *r);
void multi_exec_end(struct proxy *p, struct request *r, char type, const char *error);

#endif
