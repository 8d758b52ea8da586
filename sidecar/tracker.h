/* tracker.h - CLIENT TRACKING by a client of ours: its own near cache on top of the L1.
 *
 * It is tracked on its private connection, by the names in Redis; ids that it redirects to are
 * those of this proxy's clients.
 * https://redis.io/docs/latest/develop/reference/client-side-caching/
 */
#ifndef NEARCACHE_TRACKER_H
#define NEARCACHE_TRACKER_H

#include "lend.h"

/* CLIENT TRACKING, TRACKINGINFO, GETREDIR; the caller has a session. */
enum request_outcome tracker_run(struct proxy *p, struct caller *c,
                                 const struct request_plan *plan);

/* What a CLIENT TRACKING asks for. False: the connection redirected to is not ready yet; when that
 * takes too long, the client is told. */
__attribute__((warn_unused_result)) bool tracker_read(struct proxy *p, const struct caller *c,
                                                      const struct request_plan *plan,
                                                      struct tracking_request *t);
#define TRACKER_NOT_READY "NEARCACHE the connection to redirect to is not ready"
/* Writes it as the server is to see it; returns the bytes written. */
size_t tracker_append(struct proxy *p, struct chain *out, const struct request_plan *plan,
                      const struct tracking_request *t);
/* The server has agreed. */
void tracker_apply(struct caller *c, const struct tracking_request *t);

/* CLIENT GETREDIR. */
void tracker_answer_redirect(struct caller *c);
/* CLIENT TRACKINGINFO's reply as the client is to see it. */
void tracker_write_info(const struct proxy *p, const struct caller *c, const char *reply, size_t n,
                        struct chain *out);

#endif
