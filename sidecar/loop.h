/* loop.h - the event loop's turn: one wait, the callbacks, then what was put off to the end of it.
 *
 * The clock is read once per turn; connections that got output are flushed once, at its end;
 * objects that died are freed after that, so that no callback of the same turn meets freed memory.
 */
#ifndef NEARCACHE_LOOP_H
#define NEARCACHE_LOOP_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "chain.h"
#include "slabs.h"
#include "spares.h"

struct evdns_base;

/* Something to be done at the end of the turn; embedded in its object. Zero-initialise. */
struct loop_job {
    void (*run)(struct loop_job *job);
    TAILQ_ENTRY(loop_job) entry;
    struct loop_jobs *queue; /* that it is in */
};
TAILQ_HEAD(loop_jobs, loop_job);
TAILQ_HEAD(conn_queue, conn);

/* Bytes of the read buffer that all connections share. */
#define LOOP_READ_BYTES ((size_t)64 * 1024)

struct loop {
    struct event_base *base;
    struct evdns_base *dns; /* made by loop_dns, .. */
    int64_t dns_made_of;    /* .. of these files: when the newest was changed, ns */
    struct budget budget;   /* of all buffers; its limit is the owner's to set */
    struct chunk_pool pool;
    struct spares requests;      /* caller.c's */
    struct slabs conns, clients; /* conn.c's, client.c's */
    char *read_buffer;           /* LOOP_READ_BYTES + LOOP_CARRY_BYTES */
    struct conn_queue read_from; /* conn.c's, to be looked at anew */
    struct loop_jobs soon;       /* flushes and resumed input: run until there are none left */
    struct loop_jobs together;   /* clients' flushes: the same, but that a round of them .. */
    unsigned n_together;         /* .. of so many is run before the turn's end */
    struct loop_jobs later;      /* run in the next turn, by this event */
    struct event *turn;
    struct loop_jobs burial; /* frees: run last */
    uint64_t now;
    bool now_known;
    bool stopped;
};

/* What a connection may carry over in front of the shared buffer's next read. */
#define LOOP_CARRY_BYTES ((size_t)16 * 1024)

/* False: out of memory or no event mechanism. */
__attribute__((warn_unused_result)) bool loop_init(struct loop *loop);
void loop_free(struct loop *loop);

/* Frees what is kept for later. */
void loop_drop_spares(struct loop *loop);

/* Monotonic milliseconds, read once per turn. */
uint64_t loop_now(struct loop *loop);

/* The turn was held up: the clock is read again. */
void loop_forget_time(struct loop *loop);

/* Turns until loop_stop. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* At the end of this turn; a job that is queued already stays where it is. */
void loop_soon(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job));
/* The same, or at the next loop_round if many are together by then. */
void loop_soon_together(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job));
/* Between two events, as an event's callback's last words; `long_one`: that event took its time. */
void loop_round(struct loop *loop, bool long_one);
/* In the next turn, which comes at once, but after others have had theirs: for long work in pieces.
 * A job is in one of these queues at a time. */
void loop_next_turn(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job));
/* Is not to be run, if it was to be. */
void loop_cancel(struct loop *loop, struct loop_job *job);
/* After all of those; for freeing the object that embeds `job`. */
void loop_bury(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job));

/* The asynchronous resolver, made anew when /etc/hosts or /etc/resolv.conf has changed (what it was
 * asked before that then fails). NULL: out of memory. */
struct evdns_base *loop_dns(struct loop *loop);

/* Monotonic milliseconds, read now: for start-up and for measuring. */
uint64_t monotonic_ms(void);

#endif
