/* chain.h - a byte queue in pooled chunks: appended at the tail, written out from the head.
 *
 *     chain -> [ chunk |####....| ] -> [ chunk |########| ] -> [ chunk |##......| ]
 *               start ^     ^ end
 *
 * A drained chain holds no memory; chunks go back to a pool that keeps a few and frees the rest, so
 * that memory returns after a burst. Running out of memory is sticky (chain.failed): appends become
 * no-ops and whoever writes the chain out closes the connection instead of sending a torn stream.
 */
#ifndef NEARCACHE_CHAIN_H
#define NEARCACHE_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block.h"

struct chunk;

/* Bytes that chain_reserve can give in one piece. */
#define CHAIN_RESERVE_MAX ((size_t)8 * 1024)

/* Spare chunks, shared by all chains of a loop; what the chains hold counts in the budget, spare
 * chunks do not. Zero-initialise, but for the budget. */
struct chunk_pool {
    struct budget *budget; /* borrowed */
    struct chunk *spare;
    size_t n_spare;
};
void chunk_pool_drain(struct chunk_pool *pool);

struct chain {
    struct chunk_pool *pool;
    struct chunk *head, *tail;
    size_t len;        /* bytes queued */
    size_t footprint;  /* what it takes from the budget, blocks not counted */
    size_t n_borrowed; /* chunks whose bytes are somebody else's */
    bool failed;
};

void chain_init(struct chain *c, struct chunk_pool *pool);
/* Drops everything, `failed` included. */
void chain_clear(struct chain *c);

/* Contiguous room for n <= CHAIN_RESERVE_MAX bytes at the tail, to be filled and then counted with
 * chain_commit(n' <= n). Never NULL: without memory it is a scratch chunk whose bytes get lost
 * (and `failed` is set). */
char *chain_reserve(struct chain *c, size_t n);
void chain_commit(struct chain *c, size_t n);

/* Copies n bytes. */
void chain_append(struct chain *c, const char *p, size_t n);
/* Queues bytes by reference: they must stay put until they are written or chain_own() has copied
 * what is left. For values so large that a copy costs more than an iovec. */
void chain_append_borrowed(struct chain *c, const char *p, size_t n);
void chain_own(struct chain *c);
/* Queues bytes that lie in the block, and keeps that until they have gone. */
void chain_append_block(struct chain *c, struct block *block, const char *p, size_t n);

/* Appends all of src, which ends up empty; chunks move, small contents are copied. */
void chain_move(struct chain *dst, struct chain *src);

/* The first bytes as an iovec of at most max pieces; returns how many. */
int chain_iov(const struct chain *c, struct iovec *iov, int max);
/* Removes n <= len bytes from the head. */
void chain_consume(struct chain *c, size_t n);

#endif
