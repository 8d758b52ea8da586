/* owed.c - the replies that a connection owes. */
#include "owed.h"

#include <stdlib.h>

enum {
    CAP_MIN = 64,
    CAP_KEEP = 4096, /* one that is larger is freed when it is empty */
};

static bool grow(struct owed_ring *r)
{
    size_t cap = r->cap ? 2 * r->cap : CAP_MIN;
    struct owed *v = malloc(cap * sizeof *v);
    if (!v)
        return false;
    for (size_t i = 0; i < r->n; i++)
        v[i] = *owed_at(r, i);
    budget_take(r->budget, (cap - r->cap) * sizeof *v);
    free(r->v);
    r->v = v;
    r->first = 0;
    r->cap = cap;
    return true;
}

bool owed_push(struct owed_ring *r, struct owed o)
{
    if (r->n == r->cap && !grow(r))
        return false;
    r->n++;
    *owed_at(r, r->n - 1) = o;
    return true;
}

bool owed_push_front(struct owed_ring *r, struct owed o)
{
    if (r->n == r->cap && !grow(r))
        return false;
    r->first = (r->first + r->cap - 1) & (r->cap - 1);
    r->n++;
    *owed_at(r, 0) = o;
    return true;
}

void owed_free(struct owed_ring *r)
{
    budget_give(r->budget, r->cap * sizeof *r->v);
    free(r->v);
    *r = (struct owed_ring){.budget = r->budget};
}

struct owed owed_pop(struct owed_ring *r)
{
    struct owed o = *owed_at(r, 0);
    r->first = (r->first + 1) & (r->cap - 1);
    if (--r->n == 0 && r->cap > CAP_KEEP)
        owed_free(r);
    return o;
}
