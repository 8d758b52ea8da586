/* forward.h - one request to the upstream, and its reply back to the client.
 *
 *     list keys -> declare writes to the L1 -> register for the reply -> append, keys rewritten
 *     reply: keys un-rewritten -> the client's FIFO; at its end the writes are over
 */
#ifndef NEARCACHE_FORWARD_H
#define NEARCACHE_FORWARD_H

#include "outgoing.h"

enum request_outcome {
    REQUEST_TAKEN, /* answered, or on its way */
    REQUEST_LATER, /* has to wait until everything before it is answered: run it again then */
};

/* Answers with an error of our own. In a transaction the server is made to refuse something too, or
 * EXEC would run the rest. `line`: without '-' and CRLF. */
void forward_refuse(struct proxy *p, struct caller *c, const char *line);

/* Fills p->keys; false: the command has been answered with an error. */
__attribute__((warn_unused_result)) bool forward_list_keys(struct proxy *p, struct caller *c,
                                                           const struct request_plan *plan);
/* Lists the keys and sends the command down the caller's lane, its own while it has one; the reply
 * goes to the caller. NULL: it has been answered with an error. */
struct request *forward_run(struct proxy *p, struct caller *c, const struct request_plan *plan);
/* The same down `uc` (NULL: out of memory). */
struct request *forward_down(struct proxy *p, struct caller *c, const struct request_plan *plan,
                             struct upstream_conn *uc);
/* The same with p->keys listed and nothing against it. */
struct request *forward_send(struct proxy *p, struct caller *c, const struct request_plan *plan,
                             struct upstream_conn *uc);
/* The same, and nothing of this client runs beside it. */
struct request *forward_alone(struct proxy *p, struct caller *c, const struct request_plan *plan,
                              struct upstream_conn *uc);

/* --- the steps ----------------------------------------------------------------------------------
 */

/* A reply that will come from `uc`; NULL: the client has been answered with an error. */
struct request *forward_expect(struct caller *c, struct upstream_conn *uc);
/* Ends it with an error: out of memory. */
void forward_give_up(struct proxy *p, struct request *r);
/* What takes our prefix off the names in the reply of this command, whose keys are listed in
 * p->keys; NULL where nothing does. False: out of memory. */
__attribute__((warn_unused_result)) bool
forward_rewriter(struct proxy *p, const struct request_plan *plan, struct resp_rewriter **rewriter);
/* Counts what was written for the request, and has it sent. */
void forward_sent(struct request *r, size_t bytes);

/* --- writes -------------------------------------------------------------------------------------
 */

/* Adds what the command, whose keys are listed in p->keys, may change; with a session also what it
 * reads past the L1, which must not be taken back by an older reply kept there. False: out of
 * memory.
 */
__attribute__((warn_unused_result)) bool writes_add(struct proxy *p, const struct caller *c,
                                                    struct writes *w,
                                                    const struct request_plan *plan);
/* Adds one key by its hash. False: out of memory. */
__attribute__((warn_unused_result)) bool writes_add_hash(struct writes *w, uint64_t hash);
void writes_free(struct writes *w);
/* Declares them to the L1; they are then the request's until its end. False: out of memory. */
__attribute__((warn_unused_result)) bool writes_begin(struct proxy *p, struct request *r,
                                                      struct writes *w);

/* All keys may have changed: other instances are told, where they are told of writes. */
void forward_announce_all(struct proxy *p);

/* --- replies, for owners tagged REPLY_FORWARD ---------------------------------------------------
 */

void forward_bytes(struct proxy *p, struct request *r, const char *bytes, size_t n);
void forward_done(struct proxy *p, struct request *r, char type);
void forward_lost(struct proxy *p, struct request *r, const char *error);
/* Either: lost, if there is an error. */
void forward_finish(struct proxy *p, struct request *r, char type, const char *error);
/* What every reply's end owes: writes, rewriter, connection. */
void forward_end(struct proxy *p, struct request *r);

/* The client is in this database now, and so is `uc` if it is its own. */
void forward_select_db(struct upstream_conn *uc, struct caller *c, uint32_t db);

/* To be called after bytes were handed on: a reader that does not keep up is held back, buffered,
 * then has to go. */
void forward_watch_backlog(struct proxy *p, struct request *r);
/* The client has read what it was sent: its slow reply may go on. */
void forward_client_drained(struct caller *c);

#endif
