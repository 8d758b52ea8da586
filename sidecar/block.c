/* block.c - bytes with several owners, freed with the last. */
#include "block.h"

#include <stdlib.h>

struct block *block_new(struct budget *budget, size_t cap)
{
    struct block *b = malloc(sizeof *b + cap);
    if (!b)
        return NULL;
    b->budget = budget;
    b->owners = 1;
    b->cap = cap;
    budget_take(budget, sizeof *b + cap);
    return b;
}

struct block *block_resize(struct block *block, size_t cap)
{
    assert(block->owners == 1);
    size_t before = block->cap;
    struct block *b = realloc(block, sizeof *b + cap);
    if (!b)
        return NULL;
    b->cap = cap;
    budget_give(b->budget, before);
    budget_take(b->budget, cap);
    return b;
}

struct block *block_keep(struct block *block)
{
    block->owners++;
    return block;
}

void block_drop(struct block *block)
{
    if (!block || --block->owners > 0)
        return;
    budget_give(block->budget, sizeof *block + block->cap);
    free(block);
}
