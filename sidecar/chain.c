/* chain.c - a byte queue in pooled chunks. */
#include "chain.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_BYTES = 16 * 1024,      /* of a pooled chunk, header included */
    CHUNK_BYTES_MAX = 256 * 1024, /* large contents: fewer chunks, still released bit by bit */
    POOL_SPARE = 40,
    COPY_RATHER_THAN_LINK = 1024, /* chain_move: below this a copy beats a mostly empty chunk */
};

struct chunk {
    struct chunk *next;
    char *data; /* behind this header, in a block, or borrowed */
    size_t start, end, cap;
    bool elsewhere;      /* not behind this header: never written to .. */
    struct block *block; /* .. and here, or NULL: borrowed */
};

static size_t room(const struct chunk *k)
{
    return k->elsewhere ? 0 : k->cap - k->end;
}
static size_t footprint(const struct chunk *k)
{
    return sizeof *k + (k->elsewhere ? 0 : k->cap);
}
static bool is_borrowed(const struct chunk *k)
{
    return k->elsewhere && !k->block;
}

static struct chunk *chunk_new(struct chunk_pool *pool, size_t payload)
{
    struct chunk *k = pool->spare;
    size_t cap = CHUNK_BYTES - sizeof *k;
    if (payload <= cap && k) {
        pool->spare = k->next;
        pool->n_spare--;
    } else {
        if (payload > cap)
            cap = payload < CHUNK_BYTES_MAX ? payload : CHUNK_BYTES_MAX;
        k = malloc(sizeof *k + cap);
        if (!k)
            return NULL;
        k->cap = cap;
        k->data = (char *)(k + 1);
        k->elsewhere = false;
        k->block = NULL;
    }
    k->next = NULL;
    k->start = k->end = 0;
    budget_take(pool->budget, footprint(k));
    return k;
}

static void chunk_release(struct chunk_pool *pool, struct chunk *k)
{
    budget_give(pool->budget, footprint(k));
    block_drop(k->block);
    if (k->elsewhere || k->cap != CHUNK_BYTES - sizeof *k || pool->n_spare >= POOL_SPARE) {
        free(k);
        return;
    }
    k->next = pool->spare;
    pool->spare = k;
    pool->n_spare++;
}

void chunk_pool_drain(struct chunk_pool *pool)
{
    while (pool->spare) {
        struct chunk *k = pool->spare;
        pool->spare = k->next;
        free(k);
    }
    pool->n_spare = 0;
}

void chain_init(struct chain *c, struct chunk_pool *pool)
{
    *c = (struct chain){.pool = pool};
}

void chain_clear(struct chain *c)
{
    while (c->head) {
        struct chunk *k = c->head;
        c->head = k->next;
        chunk_release(c->pool, k);
    }
    c->tail = NULL;
    c->len = c->footprint = c->n_borrowed = 0;
    c->failed = false;
}

static void link_tail(struct chain *c, struct chunk *k)
{
    c->footprint += footprint(k);
    if (c->tail)
        c->tail->next = k;
    else
        c->head = k;
    c->tail = k;
}

/* A chunk with room at the tail, sized for `payload` more bytes where it has to be new. */
static struct chunk *tail_with_room(struct chain *c, size_t least, size_t payload)
{
    if (c->failed) /* nothing behind a hole */
        return NULL;
    if (c->tail && room(c->tail) >= least)
        return c->tail;
    struct chunk *k = chunk_new(c->pool, payload);
    if (k)
        link_tail(c, k);
    else
        c->failed = true;
    return k;
}

char *chain_reserve(struct chain *c, size_t n)
{
    static _Thread_local char lost[CHAIN_RESERVE_MAX]; /* written, never read */
    assert(n <= CHAIN_RESERVE_MAX);
    struct chunk *k = tail_with_room(c, n, n);
    return k ? k->data + k->end : lost;
}

void chain_commit(struct chain *c, size_t n)
{
    if (c->failed)
        return;
    assert(n == 0 || (c->tail && room(c->tail) >= n));
    if (n) {
        c->tail->end += n;
        c->len += n;
    }
}

void chain_append(struct chain *c, const char *p, size_t n)
{
    while (n > 0) {
        struct chunk *k = tail_with_room(c, 1, n);
        if (!k)
            return;
        size_t part = room(k) < n ? room(k) : n;
        memcpy(k->data + k->end, p, part);
        k->end += part;
        c->len += part;
        p += part;
        n -= part;
    }
}

static void append_elsewhere(struct chain *c, const char *p, size_t n, struct block *block)
{
    struct chunk *k = c->failed ? NULL : malloc(sizeof *k);
    if (!k) {
        c->failed = true;
        return;
    }
    /* Never written through: room() is 0 and only chain_iov hands the pointer out. */
    *k = (struct chunk){.data = (char *)(uintptr_t)p,
                        .end = n,
                        .cap = n,
                        .elsewhere = true,
                        .block = block ? block_keep(block) : NULL};
    budget_take(c->pool->budget, footprint(k));
    c->n_borrowed += !block;
    link_tail(c, k);
    c->len += n;
}

void chain_append_borrowed(struct chain *c, const char *p, size_t n)
{
    append_elsewhere(c, p, n, NULL);
}

void chain_append_block(struct chain *c, struct block *block, const char *p, size_t n)
{
    assert(block_holds(block, p) && n <= (size_t)(block->data + block->cap - p));
    append_elsewhere(c, p, n, block);
}

void chain_own(struct chain *c)
{
    if (c->n_borrowed == 0)
        return;
    struct chain owned;
    chain_init(&owned, c->pool);
    owned.failed = c->failed;
    while (c->head) {
        struct chunk *k = c->head;
        c->head = k->next;
        k->next = NULL;
        if (is_borrowed(k)) {
            chain_append(&owned, k->data + k->start, k->end - k->start);
            chunk_release(c->pool, k);
        } else {
            owned.len += k->end - k->start;
            link_tail(&owned, k);
        }
    }
    *c = owned;
}

void chain_move(struct chain *dst, struct chain *src)
{
    assert(dst->pool == src->pool);
    if (src->failed)
        dst->failed = true;
    if (src->head && src->len <= COPY_RATHER_THAN_LINK && !src->head->next) {
        chain_append(dst, src->head->data + src->head->start, src->len);
        chain_clear(src);
        return;
    }
    if (src->head) {
        if (dst->tail)
            dst->tail->next = src->head;
        else
            dst->head = src->head;
        dst->tail = src->tail;
        dst->len += src->len;
        dst->footprint += src->footprint;
        dst->n_borrowed += src->n_borrowed;
    }
    chain_init(src, src->pool);
}

int chain_iov(const struct chain *c, struct iovec *iov, int max)
{
    int n = 0;
    for (struct chunk *k = c->head; k && n < max; k = k->next)
        if (k->end > k->start)
            iov[n++] = (struct iovec){.iov_base = k->data + k->start, .iov_len = k->end - k->start};
    return n;
}

void chain_consume(struct chain *c, size_t n)
{
    assert(n <= c->len);
    c->len -= n;
    while (c->head) {
        struct chunk *k = c->head;
        size_t part = k->end - k->start < n ? k->end - k->start : n;
        k->start += part;
        n -= part;
        if (k->start < k->end)
            return;
        c->head = k->next;
        if (!c->head)
            c->tail = NULL;
        c->n_borrowed -= is_borrowed(k);
        c->footprint -= footprint(k);
        chunk_release(c->pool, k);
    }
}
