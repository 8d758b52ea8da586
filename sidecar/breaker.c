/* breaker.c - the circuit breaker of one upstream node. */
#include "breaker.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backoff.h"

/* The window is two halves: the one under way and the one before it. */
struct half {
    uint64_t succeeded, failed;
};

struct breaker {
    struct breaker_options options;
    uint8_t state;
    struct backoff backoff;
    uint64_t opened, probe_at;
    unsigned late; /* requests in a row */
    struct half now, before;
    uint64_t half_began;
    char why[BREAKER_WHY_MAX];
};

struct breaker *breaker_new(const struct breaker_options *options, uint64_t random)
{
    struct breaker *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->options = *options;
    b->backoff.random = random;
    return b;
}

void breaker_free(struct breaker *b)
{
    free(b);
}

void breaker_set_options(struct breaker *b, const struct breaker_options *options)
{
    b->options = *options;
}

static void set_state(struct breaker *b, enum breaker_state to)
{
    static const uint8_t from[] = {
        [BREAKER_CLOSED] = 1 << BREAKER_HALF_OPEN | 1 << BREAKER_OPEN,
        [BREAKER_OPEN] = 1 << BREAKER_CLOSED | 1 << BREAKER_HALF_OPEN | 1 << BREAKER_OPEN,
        [BREAKER_HALF_OPEN] = 1 << BREAKER_OPEN,
    };
    assert(from[to] & 1 << b->state);
    b->state = (uint8_t)to;
}

/* --- the window ---------------------------------------------------------------------------------
 */

static void forget_window(struct breaker *b, uint64_t now)
{
    b->late = 0;
    b->now = b->before = (struct half){0};
    b->half_began = now;
}

static inline void turn_window(struct breaker *b, uint64_t now)
{
    uint64_t half = b->options.window / 2, passed = now - b->half_began;
    if (passed < half)
        return;
    b->before = passed < 2 * half ? b->now : (struct half){0};
    b->now = (struct half){0};
    b->half_began = now;
}

static bool fails_too_often(const struct breaker *b)
{
    uint64_t failed = b->now.failed + b->before.failed;
    uint64_t all = failed + b->now.succeeded + b->before.succeeded;
    return b->options.error_rate && all >= b->options.min_requests &&
           failed * 100 >= all * b->options.error_rate;
}

/* --- what happens -------------------------------------------------------------------------------
 */

void breaker_trip(struct breaker *b, uint64_t now, const char *why, uint64_t at_least)
{
    if (b->state == BREAKER_CLOSED)
        b->opened = now;
    set_state(b, BREAKER_OPEN);
    uint64_t wait = backoff_next(&b->backoff, b->options.open_min, b->options.open_max);
    b->probe_at = now + (wait > at_least ? wait : at_least);
    snprintf(b->why, sizeof b->why, "%.*s", (int)strcspn(why, "\r\n"), why);
    forget_window(b, now);
}

void breaker_succeeded(struct breaker *b, uint64_t now)
{
    turn_window(b, now);
    b->now.succeeded++;
    b->late = 0;
    if (b->state == BREAKER_CLOSED)
        b->backoff.failures = 0;
}

void breaker_failed(struct breaker *b, uint64_t now, bool late, const char *why)
{
    turn_window(b, now);
    b->now.failed++;
    b->late = late ? b->late + 1 : 0;
    if (b->state != BREAKER_CLOSED)
        return;
    if ((b->options.timeouts && b->late >= b->options.timeouts) || fails_too_often(b))
        breaker_trip(b, now, why, 0);
}

bool breaker_begin_probe(struct breaker *b, uint64_t now)
{
    if (b->state != BREAKER_OPEN || now < b->probe_at)
        return false;
    set_state(b, BREAKER_HALF_OPEN);
    return true;
}

void breaker_close(struct breaker *b, uint64_t now)
{
    if (b->state == BREAKER_CLOSED)
        return;
    set_state(b, BREAKER_CLOSED);
    forget_window(b, now);
}

/* --- what is known ------------------------------------------------------------------------------
 */

enum breaker_state breaker_state(const struct breaker *b)
{
    return b->state;
}

const char *breaker_state_name(const struct breaker *b)
{
    static const char *const names[] = {"closed", "open", "half-open"};
    return names[b->state];
}

const char *breaker_why(const struct breaker *b)
{
    return b->why;
}

uint64_t breaker_probe_in(const struct breaker *b, uint64_t now)
{
    return b->state == BREAKER_OPEN && b->probe_at > now ? b->probe_at - now : 0;
}

uint64_t breaker_opened_at(const struct breaker *b)
{
    return b->state == BREAKER_CLOSED ? 0 : b->opened;
}
