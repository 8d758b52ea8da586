/* namespace.h - the service's key prefix: put before the names that clients use, taken off again.
 *
 *     user:123  <->  user-service:user:123
 */
#ifndef NEARCACHE_NAMESPACE_H
#define NEARCACHE_NAMESPACE_H

#include "resp.h"

struct namespace
{
    struct resp_slice prefix; /* may be empty: names pass through untouched */
    struct resp_slice glob;   /* the prefix with glob characters escaped, for MATCH and KEYS */
};

/* Copies the prefix. False: out of memory. */
RESP_WARN_UNUSED bool namespace_init(struct namespace *ns, const char *prefix);
void namespace_free(struct namespace *ns);

/* True if `full` lies in the namespace; *name is then the client's name for it (borrowed). */
bool namespace_strip(const struct namespace *ns, struct resp_slice full, struct resp_slice *name);

/* True if names with this prefix can stand in a pattern of SORT BY or GET, whose first '*' the
 * server replaces: no '*' in the prefix itself. */
bool namespace_sortable(const struct namespace *ns);

#endif
