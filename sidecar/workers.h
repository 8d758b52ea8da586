/* workers.h - threads that each turn a loop of their own, and how one has the others stand still.
 *
 * What belongs to a worker is touched by its thread alone, without a lock. For what concerns
 * another's (a list of all clients, the sum of all counters, a new configuration) a thread has the
 * others stand still, touches what it likes, and lets them go. They stand between two callbacks of
 * their loops, or where they wait for their own turn to do the same.
 *
 * With one worker all of this is nothing.
 */
#ifndef NEARCACHE_WORKERS_H
#define NEARCACHE_WORKERS_H

#include <pthread.h>

#include "loop.h"

struct workers;

/* A letter to another worker: `run` is called by its thread, and owns the letter from then on. */
struct workers_letter {
    STAILQ_ENTRY(workers_letter) entry;
    void (*run)(struct workers_letter *letter, void *ctx);
};

/* For n >= 1 workers; their loops join with workers_join. NULL: out of memory. */
struct workers *workers_new(size_t n);
/* No thread but the caller's is left. Letters that were not read are given to `run` with ctx NULL.
 */
void workers_free(struct workers *w);
size_t workers_count(const struct workers *w);

/* Before the threads run: the i-th worker's loop, and what its letters are about. False: out of
 * memory or descriptors. */
__attribute__((warn_unused_result)) bool workers_join(struct workers *w, size_t i,
                                                      struct loop *loop, void *ctx);
/* The loop is about to be freed. */
void workers_leave(struct workers *w, size_t i);

/* From anywhere within a callback: returns when all others stand still, those that wait for the
 * same among them; these are in the middle of a command. May be nested. */
void workers_still(struct workers *w);
/* The same for changing what a command in its middle relies on: returns when all others stand
 * between two callbacks. From where that is true of the caller as well. */
void workers_still_between(struct workers *w);
/* After either. */
void workers_go(struct workers *w);

/* Any thread. False: that worker has not read so many of its letters that this one was not taken.
 */
__attribute__((warn_unused_result)) bool workers_post(struct workers *w, size_t to,
                                                      struct workers_letter *letter);

/* Ends the loops of all but the first. */
void workers_stop(struct workers *w);

#endif
