/* outgoing.h - a client's command as it goes to the upstream: our prefix before its keys and
 * channels.
 *
 * One of very many arguments is written bit by bit, some in each turn, so that nobody else waits
 * for it; then it is handed on whole, since nothing may come between its parts.
 */
#ifndef NEARCACHE_OUTGOING_H
#define NEARCACHE_OUTGOING_H

#include "proxy.h"

/* One command of a batch; argv is borrowed until it has run. */
struct request_plan {
    const struct resp_slice *argv;
    size_t argc;
    const char *text;              /* the request's first byte, if it came as an array; or NULL */
    struct block *block;           /* that argv lies in, to be kept where copying costs; or NULL */
    const struct command *command; /* NULL: unknown */
    bool cached;                   /* a read that the L1 may answer; then .. */
    uint64_t hash;                 /* .. of its key */
};

/* Writes the command with our prefix before every key of `keys`; returns the bytes written. */
size_t outgoing_append(struct proxy *p, struct chain *out, const struct request_plan *plan,
                       const struct command_keys *keys);

/* --- bit by bit ---------------------------------------------------------------------------------
 */

/* So many arguments, in a block that can be kept. */
bool outgoing_is_long(const struct request_plan *plan);

struct outgoing_hooks {
    /* Each key, as it is written. */
    void (*key)(void *ctx, const struct command_key *key, struct resp_slice name);
    /* All is written; the chain's contents are the receiver's. NULL: out of memory, or shutting
     * down.
     */
    void (*done)(void *ctx, struct chain *out);
};

/* Takes over what is in *keys, and keeps the block. False: out of memory, and `done` is not called.
 */
__attribute__((warn_unused_result)) bool
outgoing_begin(struct proxy *p, const struct request_plan *plan, struct command_keys *keys,
               const struct outgoing_hooks *hooks, void *ctx);
/* Shutting down: all that are under way are done. */
void outgoing_cancel_all(struct proxy *p);

#endif
