/* filtered.h - replies of the server that a client may see only in part.
 *
 *     CONFIG GET     without the server's passwords
 *     SLOWLOG GET    without other services' commands, keys as the client named them
 *
 * The whole reply is gathered, altered and handed on. (INFO, to which the proxy adds, takes the
 * same way: local.c.)
 */
#ifndef NEARCACHE_FILTERED_H
#define NEARCACHE_FILTERED_H

#include "forward.h"
#include "query.h"
#include "text.h"

/* CONFIG GET pattern ..: all is shown where admin_commands allows it. */
void filtered_config_get(struct proxy *p, struct caller *c, const struct command *command,
                         const struct resp_slice *argv, size_t argc);
/* SLOWLOG GET [count] */
void filtered_slowlog_get(struct proxy *p, struct caller *c, const struct command *command,
                          const struct resp_slice *argv, size_t argc);

/* Does the server's reply to this command have to be altered here? For one that comes another way
 * than the above: within EXEC's. */
bool filtered_applies(const struct proxy *p, const struct command *command);
/* Then: appends what a client that speaks `resp` is to see of it, an error if it can't be read. */
void filtered_reply(struct proxy *p, const struct request_plan *plan, unsigned resp,
                    struct resp_slice reply, struct text *out);

/* PUBSUB CHANNELS [pattern], NUMSUB .. and their SHARD forms: channels as the client calls them,
 * without those of other services' keys. */
void filtered_pubsub(struct proxy *p, struct caller *c, const struct request_plan *plan);

/* --- the way of such a reply --------------------------------------------------------------------
 */

/* Does a command take it? */
bool filtered_is_asked(const struct proxy *p, const struct command *command);
/* The way is a shared connection in RESP2. Not the one that this client's other requests take: it
 * is sent when nothing is owed to the client, and nothing is sent before it is answered. */
bool filtered_goes_elsewhere(const struct caller *c);

struct filter;
/* Appends to `out` what the client is to see of the server's reply (whole, in RESP2; no bytes: it
 * could not be had). False: it is to see that reply, or error, itself. */
typedef bool filter_alter(const struct filter *f, struct resp_slice reply, struct text *out);

struct filter {
    struct query query; /* first */
    struct proxy *proxy;
    struct request *request;
    filter_alter *alter;
    unsigned resp;  /* the client's version of the protocol when it asked */
    int64_t option; /* alter's own */
};

/* Sends argv; the client is answered in time, or at once with an error. */
void filtered_ask(struct proxy *p, struct caller *c, filter_alter *alter, int64_t option,
                  const struct resp_slice *argv, size_t argc);

/* --- what is altered: bytes in, bytes out ------------------------------------------------------
 */

/* PUBSUB's: a list of channels, or of channels and their numbers. False: as below. */
bool filtered_channels(const struct namespace *ns, bool namespaced, bool numbers,
                       struct resp_slice reply, struct text *out);

/* CONFIG GET's reply, in either protocol, in the protocol `resp`, passwords blanked. False: it is
 * not of that shape; what has been appended is of no use. */
bool filtered_config(struct resp_slice reply, unsigned resp, struct text *out);

/* Whose entries of SLOWLOG GET are shown. All borrowed. */
struct slowlog_terms {
    const char *service;
    const struct namespace *ns;
    const struct command_table *commands;
    struct command_keys *keys; /* scratch */
};

/* SLOWLOG GET's: at most `count` entries (-1: all) of commands with keys of the namespace, or
 * without any from the service's own proxies. False: as above. */
bool filtered_slowlog(const struct slowlog_terms *terms, struct resp_slice reply, int64_t count,
                      struct text *out);

#endif
