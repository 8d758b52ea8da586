/* request.h - the walk of one request: what is it, whose keys, from the L1 or from the upstream.
 *
 *     plan -> prefetch -> run:  find -> arity -> auth -> class -> { hit | join | fill | forward |
 * ... }
 *
 * A read batch is planned as a whole before any of it runs, so that the memory of its keys is on
 * its way to the cache meanwhile.
 */
#ifndef NEARCACHE_REQUEST_H
#define NEARCACHE_REQUEST_H

#include "forward.h"

/* `guess`: the client's command before it, or NULL. */
void request_plan(struct proxy *p, struct request_plan *plan, const struct command *guess);
/* For a batch, when all is planned; and of the command L1_AHEAD behind the one that is run. */
void request_prefetch(const struct proxy *p, const struct request_plan *plan);
void request_prefetch_rest(const struct proxy *p, const struct request_plan *plan);

__attribute__((warn_unused_result)) enum request_outcome
request_run(struct proxy *p, struct caller *c, const struct request_plan *plan);

/* For upstream_new; ctx is the struct proxy. */
extern const struct upstream_callbacks request_upstream_callbacks;

#endif
