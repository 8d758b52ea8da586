/* transaction.h - the commands that a client has queued with MULTI, and the reply to its EXEC.
 *
 * Each element of EXEC's array is treated as the reply that its command would have had: key names
 * are un-prefixed, what the proxy answers itself takes the place of a stand-in.
 */
#ifndef NEARCACHE_TRANSACTION_H
#define NEARCACHE_TRANSACTION_H

#include "forward.h"

/* What it copies is counted in the budget. NULL: out of memory. */
struct transaction *transaction_new(struct budget *budget);
void transaction_free(struct transaction *t);
/* So many bytes. */
size_t transaction_bytes(const struct transaction *t);
/* All keys that its commands may change, as far as they are queued. */
struct writes *transaction_writes(struct transaction *t);

/* Each adds the next element. False: out of memory. This one takes over what un-prefixes the key
 * names in it, or NULL. */
__attribute__((warn_unused_result)) bool transaction_add(struct transaction *t,
                                                         struct resp_rewriter *rewriter);
/* A SELECT: its +OK makes `db` the client's database. */
__attribute__((warn_unused_result)) bool transaction_add_select(struct transaction *t, uint32_t db);
/* A command that is to be run here when its turn has come; its arguments are copied. */
__attribute__((warn_unused_result)) bool transaction_add_local(struct transaction *t,
                                                               const struct request_plan *plan);

/* A command whose reply has to be seen whole before the client is handed something; `pushes`: in
 * RESP3 that is a push. */
__attribute__((warn_unused_result)) bool
transaction_add_gathered(struct transaction *t, const struct command *command, bool pushes);

/* A command whose +OK means something for the session; its arguments are copied. */
__attribute__((warn_unused_result)) bool transaction_add_setting(struct transaction *t,
                                                                 const struct request_plan *plan);

struct transaction_hooks {
    /* Runs a local command; it answers at once. `refused`: the server's answer to its stand-in was
     * an error. */
    void (*run)(struct proxy *p, struct caller *c, const struct request_plan *plan, bool refused);
    /* A setting was answered with +OK. */
    void (*set)(struct proxy *p, struct caller *c, const struct request_plan *plan);
    /* A gathered reply: appends what the client is to see of it. */
    void (*gathered)(struct proxy *p, struct caller *c, const struct command *command,
                     struct resp_slice reply, struct chain *out);
    /* A push that is nobody's reply: appends what the client is to see of it. */
    void (*message)(struct caller *c, struct resp_slice message, struct chain *out);
};

/* Part of EXEC's reply, for r->transaction. */
void transaction_reply(struct proxy *p, struct request *r, const struct transaction_hooks *hooks,
                       const char *bytes, size_t n);
/* When the array that EXEC's reply was said to be is complete: so many of its elements were pushes,
 * and as many are still to come. */
size_t transaction_missing(const struct transaction *t);

#endif
