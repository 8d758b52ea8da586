/* proxy.h - the parts that a walking request meets, put together by main. */
#ifndef NEARCACHE_PROXY_H
#define NEARCACHE_PROXY_H

#include "caller.h"
#include "coherence.h"
#include "config.h"
#include "log.h"
#include "namespace.h"
#include "upstream.h"

struct link;

/* Everything is borrowed from main. */
struct proxy {
    struct loop *loop;
    const struct config *config;
    struct log *log;
    struct metrics *metrics;
    struct namespace *ns;
    struct command_table *commands;
    struct l1 *l1;
    struct coherence *coherence;
    const struct upstream_address *address;
    struct upstream *upstream;
    struct link *link;
    struct caller_list callers;
    size_t n_callers;
    uint64_t next_caller_id;
    uint64_t started; /* monotonic ms */

    struct command_keys keys; /* scratch of one request's key list */
};

#endif
