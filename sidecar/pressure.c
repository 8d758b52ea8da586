/* pressure.c - what becomes of clients that hold too much memory. */
#include "pressure.h"

#include "log.h"

enum {
    SHARE_MIN = 64 * 1024,   /* bytes that a client may always hold */
    EVICT_EVERY = 1000,      /* ms, while waiting does not help */
    IDLE_CHECK_EVERY = 1000, /* ms */
};

void pressure_kick(struct proxy *p, struct caller *c, const char *why)
{
    char id[24];
    p->metrics->clients_dropped++;
    log_write(p->log, LOG_WARN, "client_dropped", "id", log_number(id, c->id), "why", why, NULL);
    c->kill = true;
    c->progress(c);
}

/* --- one client ---------------------------------------------------------------------------------
 */

static void press(struct proxy *p, struct caller *c)
{
    if (c->pressed)
        return;
    c->pressed = true;
    c->pressed_since = loop_now(p->loop);
    TAILQ_INSERT_TAIL(&p->pressed, c, pressed_entry);
    p->metrics->clients_paused++;
}

void pressure_forget(struct proxy *p, struct caller *c)
{
    if (c->pressed)
        TAILQ_REMOVE(&p->pressed, c, pressed_entry);
    c->pressed = false;
}

static bool is_over_soft_limit(const struct proxy *p, const struct caller *c)
{
    return caller_unread(c) > p->config->client_soft_output;
}

/* Half of the budget is everybody's, in equal shares. */
static size_t share(const struct proxy *p)
{
    size_t each = p->loop->budget.limit / 2 / (p->n_callers + 1);
    return each > SHARE_MIN ? each : SHARE_MIN;
}

static bool is_over_share(const struct proxy *p, const struct caller *c, size_t rest)
{
    return budget_is_tight(&p->loop->budget) && caller_footprint(c) + rest > share(p);
}

/* --- all of them --------------------------------------------------------------------------------
 */

static size_t largest_footprint(const struct proxy *p)
{
    const struct caller *c;
    size_t most = 0;
    TAILQ_FOREACH(c, &p->callers, entry)
    {
        size_t n = c->kill ? 0 : caller_footprint(c);
        most = n > most ? n : most;
    }
    return most;
}

/* Those who hold at least half of what the largest does, and more than their share, until so much
 * is given back. Memory of one that has just gone comes back at the end of the turn, or when what
 * it has asked for has been sent. */
static size_t evict_largest(struct proxy *p, size_t wanted)
{
    size_t most = largest_footprint(p), least = most / 2, given = 0;
    struct caller *c, *next;
    least = least > share(p) ? least : share(p);
    for (c = TAILQ_FIRST(&p->callers); c && given < wanted; c = next) {
        next = TAILQ_NEXT(c, entry);
        size_t n = caller_footprint(c);
        if (c->kill || n <= least)
            continue;
        given += n;
        p->metrics->clients_evicted++;
        pressure_kick(p, c, "buffers exceed memory.max_buffers, and it holds among the most");
    }
    return given;
}

static void make_room(struct proxy *p)
{
    const struct budget *b = &p->loop->budget;
    size_t wanted = b->used - b->limit / 8 * 7, given = 0, more = 1;
    if (loop_now(p->loop) == p->evicted_at) /* what went just now is not given back yet */
        return;
    p->evicted_at = loop_now(p->loop);
    while (given < wanted && more > 0) {
        more = evict_largest(p, wanted - given);
        given += more;
    }
}

bool pressure_check(struct proxy *p, struct caller *c, size_t rest)
{
    if (caller_unread(c) > p->config->client_max_output && !c->kill)
        pressure_kick(p, c, "its unread replies exceed client.max_output");
    if (budget_is_spent(&p->loop->budget))
        make_room(p);
    if (c->kill)
        return false;
    if (is_over_soft_limit(p, c) || is_over_share(p, c, rest))
        press(p, c);
    return true;
}

/* --- time ---------------------------------------------------------------------------------------
 */

static void relieve(struct proxy *p, struct caller *c, uint64_t now)
{
    bool soft = is_over_soft_limit(p, c);
    if (!soft && !is_over_share(p, c, 0)) {
        pressure_forget(p, c);
        c->progress(c);
    } else if (soft && now - c->pressed_since > p->config->client_soft_time) {
        pressure_kick(p, c, "its unread replies exceeded client.soft_output for client.soft_time");
    }
}

/* Several requests that are too large together would wait for each other for ever. */
static void end_deadlock(struct proxy *p, uint64_t now)
{
    bool stuck = budget_is_tight(&p->loop->budget) && !TAILQ_EMPTY(&p->pressed);
    if (!stuck || !p->stuck_since)
        p->stuck_since = stuck ? now : 0;
    if (!stuck || now - p->stuck_since < EVICT_EVERY)
        return;
    p->stuck_since = now;
    (void)evict_largest(p, 1);
}

static void drop_idle(struct proxy *p, uint64_t now)
{
    struct caller *c, *next;
    if (!p->config->client_idle_timeout || now < p->next_idle_check)
        return;
    p->next_idle_check = now + IDLE_CHECK_EVERY;
    for (c = TAILQ_FIRST(&p->callers); c; c = next) {
        next = TAILQ_NEXT(c, entry);
        bool waits =
            c->head || c->monitors || c->state.channels || c->state.patterns || c->state.shards;
        if (waits || c->kill || now - c->active < p->config->client_idle_timeout)
            continue;
        p->metrics->clients_idle++;
        c->kill = true; /* an everyday event: Redis says nothing above its verbose level, either */
        c->progress(c);
    }
}

void pressure_tick(struct proxy *p, uint64_t now)
{
    struct caller *c, *next;
    for (c = TAILQ_FIRST(&p->pressed); c; c = next) {
        next = TAILQ_NEXT(c, pressed_entry);
        if (c->pressed) /* one that goes may take another along */
            relieve(p, c, now);
    }
    end_deadlock(p, now);
    drop_idle(p, now);
}
