/* subscription.h - SUBSCRIBE and its kin, and the messages that come of it.
 *
 * Confirmations and messages go to the client as they come, in the order of the stream; the request
 * of a SUBSCRIBE ends when the last of its confirmations has come, or with an error.
 */
#ifndef NEARCACHE_SUBSCRIPTION_H
#define NEARCACHE_SUBSCRIPTION_H

#include "lend.h"

bool subscription_takes(const struct command *command);
/* The caller has a session. */
void subscription_run(struct proxy *p, struct caller *c, const struct request_plan *plan);
/* REPLY_SUBSCRIBE: an error, or all confirmations have come. */
void subscription_end(struct proxy *p, struct request *r, char type, const char *error);

/* Appends a message as the client is to see it; a confirmation is counted. */
void subscription_translate(struct caller *c, const char *frame, size_t n, struct chain *out);

/* For upstream_callbacks; ctx is the struct proxy. */
bool subscription_is_push(void *ctx, void *holder, void *owner, unsigned tag, const char *two);
void subscription_push(void *ctx, void *holder, const char *bytes, size_t n, bool end);

#endif
