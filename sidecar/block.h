/* block.h - bytes with several owners, freed with the last; counted in a budget.
 *
 * A large argument is not copied on its way from a client to the upstream: the block that it was
 * read into is kept until it has been written.
 */
#ifndef NEARCACHE_BLOCK_H
#define NEARCACHE_BLOCK_H

#include "budget.h"

struct block {
    struct budget *budget;
    size_t owners, cap;
    char data[];
};

/* Its only owner is the caller. NULL: out of memory. */
struct block *block_new(struct budget *budget, size_t cap);
/* Of a block with one owner: its bytes up to the smaller capacity stay, it may move. NULL: out of
 * memory, and nothing has changed. */
struct block *block_resize(struct block *block, size_t cap);
struct block *block_keep(struct block *block);
/* NULL is allowed. */
void block_drop(struct block *block);

/* p points into it. */
static inline bool block_holds(const struct block *block, const char *p)
{
    return block && p >= block->data && p < block->data + block->cap;
}

#endif
