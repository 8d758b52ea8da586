/* caller.h - a client as the walk sees it: who it is, and the FIFO of replies owed to it.
 *
 *     head -> [done: body] -> [waiting] -> [done: body] -> [waiting]
 *              goes out        ^ its bytes go straight out once it is the head
 *
 * Replies leave in the order of the requests, whatever order they become ready in. A request
 * outlives its client: when the client leaves, its bytes are dropped as they come (never skipped).
 */
#ifndef NEARCACHE_CALLER_H
#define NEARCACHE_CALLER_H

#include "command.h"
#include "conn.h"

struct caller;
struct upstream_conn;

enum { CALLER_MAGIC = 0x63616c6c, REQUEST_MAGIC = 0x72657175 };

/* WAITING -> DONE. The FIFO's head is the one whose bytes go out. */
enum request_state { REQUEST_WAITING, REQUEST_DONE };

/* One reply that is owed. What it is waiting for is known to request.c. */
struct request {
    uint32_t magic;
    uint8_t state;
    bool exclusive; /* nothing of this client runs beside it */
    bool begun;     /* some of its reply has been handed on */
    bool select_db; /* +OK makes `db` the client's database */
    bool all_keys;  /* a write of unknown keys is under way */
    uint32_t db;
    struct caller *caller;        /* NULL: the client has left */
    struct request *next;         /* in the FIFO */
    struct request *next_waiter;  /* of the same fill */
    struct upstream_conn *source; /* sends its bytes now; for holding it back */
    struct chain body;            /* came before its turn */
    size_t parked;                /* bytes of it that its caller counts */
    size_t cost;                  /* bytes of the request as sent on */
    uint64_t hash;                /* of the written key, or .. */
    uint64_t *hashes;             /* .. of several; owned */
    uint32_t n_hashes;
    struct resp_rewriter *rewriter; /* takes the namespace off the reply; owned */
    struct mget *mget;              /* a merge under way; owned by request.c */
};

struct caller {
    uint32_t magic;
    uint8_t resp; /* protocol version, 2 */
    bool authenticated;
    bool exclusive; /* an exclusive request is under way */
    bool quitting;  /* take no more requests, leave when all is said */
    bool kill;      /* leave now */
    uint64_t id;
    uint32_t db;
    struct loop *loop;
    struct conn *conn;
    struct request *head, *tail;
    size_t owed, owed_bytes;
    size_t parked; /* bytes of replies that wait for an earlier one */
    uint64_t
        held_since; /* when its upstream was held back for it; 0: it has read everything since */
    /* Called when a request has left the FIFO. Set by the client module. */
    void (*progress)(struct caller *c);
    TAILQ_ENTRY(caller) entry;

    /* For CLIENT LIST. */
    uint64_t created, active; /* monotonic ms */
    const struct command *last_command;
    char *name, *lib_name, *lib_version; /* owned; NULL when not given */
};
TAILQ_HEAD(caller_list, caller);

void caller_init(struct caller *c, struct loop *loop);
/* The client is gone: what is still owed to it will be dropped as it comes. */
void caller_leave(struct caller *c);

/* Where to put an immediate answer: straight to the output when nothing is owed before it. Append a
 * whole reply and call caller_replied. */
struct chain *caller_reply(struct caller *c);
void caller_replied(struct caller *c);
/* The same for ready bytes. */
void caller_answer(struct caller *c, const char *reply, size_t len);
void caller_answer_text(struct caller *c, const char *reply);
/* "-<text>\r\n", CR and LF in it becoming spaces as Redis does. */
void caller_answer_error(struct caller *c, const char *text);
void caller_answer_bulk(struct caller *c, const char *p, size_t n);
void caller_answer_integer(struct caller *c, int64_t n);

/* A reply that will come later. NULL: out of memory. */
struct request *request_new(struct caller *c);
void request_bytes(struct request *r, const char *p, size_t n);
/* Its reply is complete: frees it, now or when its turn has come. What request.c hung on it is
 * gone. */
void request_done(struct request *r);
/* Ends it with an error line. If part of the reply is out already the client is disconnected. */
void request_fail(struct request *r, const char *line);
/* Bytes of replies that the client has not taken yet, or can not because an earlier one is missing.
 */
size_t caller_unread(const struct caller *c);

/* A copy of a name or NULL; replaces *at. False: out of memory. */
bool caller_set_text(char **at, struct resp_slice text);

#endif
