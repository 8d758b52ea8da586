/* breaker.h - the circuit breaker of one upstream node: while it is known to be down, requests fail
 * at once instead of waiting for it.
 *
 *                too many failures                  its time is over
 *     CLOSED --------------------------> OPEN ---------------------------> HALF-OPEN
 *        ^                                ^                                    |  one probe
 *        |                                +------------ failed ----------------+
 *        +------------------------------------------- answered ----------------+
 *
 * The pattern is M. Nygard's ("Release It!", 2007). Each time that it opens again it stays open for
 * longer, with jitter, so that many instances don't come back at the same moment. Leaf: time comes
 * in as `now`, monotonic milliseconds.
 */
#ifndef NEARCACHE_BREAKER_H
#define NEARCACHE_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };

struct breaker_options {
    unsigned timeouts;   /* so many requests in a row without an answer in time open it; 0: never */
    unsigned error_rate; /* so many percent of the window's requests that failed; 0: never .. */
    unsigned min_requests;       /* .. nor when there are fewer of them */
    uint64_t window;             /* ms that the rate is taken over */
    uint64_t open_min, open_max; /* ms that it stays open at first, and at most */
};

enum { BREAKER_WHY_MAX = 256 };

struct breaker;

/* Closed. `random` seeds the jitter. NULL: out of memory. */
struct breaker *breaker_new(const struct breaker_options *options, uint64_t random);
void breaker_free(struct breaker *b);
void breaker_set_options(struct breaker *b, const struct breaker_options *options);

/* A request was answered. */
void breaker_succeeded(struct breaker *b, uint64_t now);
/* A request was not: not in time, or (`late` false) its connection was lost. May open it. `why`:
 * one line for people, copied. */
void breaker_failed(struct breaker *b, uint64_t now, bool late, const char *why);
/* The node can't be reached: opens it, or opens it again, for at least so long. */
void breaker_trip(struct breaker *b, uint64_t now, const char *why, uint64_t at_least);
/* OPEN, and its time is over: it is HALF-OPEN now, and the caller probes. */
bool breaker_begin_probe(struct breaker *b, uint64_t now);
/* The probe was answered. */
void breaker_close(struct breaker *b, uint64_t now);

enum breaker_state breaker_state(const struct breaker *b);
static inline bool breaker_is_closed(const struct breaker *b)
{
    return breaker_state(b) == BREAKER_CLOSED;
}
const char *breaker_state_name(const struct breaker *b); /* "closed", "open", "half-open" */
/* Why it opened last; "" if it never did. */
const char *breaker_why(const struct breaker *b);
/* OPEN: ms until the next probe; else 0. */
uint64_t breaker_probe_in(const struct breaker *b, uint64_t now);
/* When it opened, not counting failed probes since; CLOSED: 0. */
uint64_t breaker_opened_at(const struct breaker *b);

#endif
