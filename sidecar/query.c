/* query.c - a command of the proxy's own whose whole reply comes back to it. */
#include "query.h"

#include <stdlib.h>
#include <string.h>

#include "wire.h"

static void finish(struct query *q, const char *error)
{
    char *buf = q->buf;
    size_t len = q->len;
    if (buf)
        budget_give(q->budget, q->cap);
    if (q->failed)
        error = UPSTREAM_NO_MEMORY;
    q->buf = NULL;
    q->len = q->cap = 0;
    q->failed = false;
    q->done(q, error ? "" : buf, error ? 0 : len, error);
    free(buf);
}

void query_send(struct query *q, struct upstream_conn *uc, const struct resp_slice *argv,
                size_t argc)
{
    const char *refusal = uc ? upstream_refusal(uc) : UPSTREAM_NO_MEMORY;
    if (!refusal && !upstream_expect(uc, q, REPLY_QUERY))
        refusal = UPSTREAM_NO_MEMORY;
    if (refusal) {
        finish(q, refusal);
        return;
    }
    q->budget = upstream_budget(uc);
    wire_command(upstream_out(uc), argv, argc);
    upstream_sent(uc);
}

void query_bytes(struct query *q, const char *p, size_t n)
{
    if (q->failed)
        return;
    if (q->cap - q->len < n) {
        size_t cap = q->len + n > 2 * q->cap ? q->len + n : 2 * q->cap;
        char *buf = cap <= QUERY_REPLY_MAX ? realloc(q->buf, cap) : NULL;
        if (!buf) {
            q->failed = true;
            return;
        }
        budget_take(q->budget, cap - q->cap);
        q->buf = buf;
        q->cap = cap;
    }
    memcpy(q->buf + q->len, p, n);
    q->len += n;
}

void query_done(struct query *q)
{
    finish(q, NULL);
}
void query_lost(struct query *q, const char *error)
{
    finish(q, error);
}
