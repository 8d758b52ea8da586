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
struct session;
struct transaction;
struct upstream_conn;

enum { CALLER_MAGIC = 0x63616c6c, REQUEST_MAGIC = 0x72657175 };

/* WAITING -> DONE. The FIFO's head is the one whose bytes go out. */
enum request_state { REQUEST_WAITING, REQUEST_DONE };

/* Keys that a request may change, as hashes; all: any key. */
struct writes {
    uint64_t one, *many; /* `many` where there are several; owned */
    uint32_t n;
    bool all, announced;
    bool fills_held; /* of very many keys: nothing is filled meanwhile */
    bool written;    /* not only read, past the L1 */
    char
        *names; /* where they are to be announced: each with its length (size_t) before it; owned */
    size_t names_len, names_cap;
};

/* One reply that is owed. What it is waiting for is known to those who made it. */
struct request {
    uint32_t magic;
    uint8_t state;
    bool exclusive; /* nothing of this client runs beside it */
    bool begun;     /* some of its reply has been handed on */
    bool muted;     /* the client wants no reply: CLIENT REPLY */
    bool patient;   /* it may take any time: it blocks, or runs a script .. */
    bool blocks;    /* .. and it is the former */
    bool sealed;    /* only +QUEUED or an error may be shown: multi.c alters the rest with EXEC */
    uint8_t effect; /* on the session, once it is answered: session.c's */
    bool select_db; /* +OK makes `db` the client's database */
    uint32_t db;
    uint32_t confirmations;          /* of a SUBSCRIBE, still to come */
    struct loop *loop;               /* counts it, and gets it back */
    struct caller *caller;           /* NULL: the client has left */
    struct request *next;            /* in the FIFO */
    struct request *next_waiter;     /* of the same fill; the next SUBSCRIBE of a session */
    struct upstream_conn *source;    /* sends its bytes now; for holding it back */
    struct chain body;               /* came before its turn */
    struct chain after;              /* messages that came in the middle of it */
    size_t parked;                   /* bytes of the body that its caller counts */
    size_t cost;                     /* bytes of the request as sent on */
    struct writes writes;            /* begun in the L1, to be ended with the reply */
    struct resp_rewriter *rewriter;  /* takes the namespace off the reply; owned */
    struct mget *mget;               /* a merge under way; owned by reads.c */
    struct transaction *transaction; /* of an EXEC; owned by session.c */
};

/* State of its connection that a client has beyond database and protocol; kept by session.c. */
struct caller_state {
    bool watching;
    uint32_t queued;                     /* commands of the transaction (caller.in_multi) */
    uint32_t blocking;                   /* requests that wait for others: BLPOP .. */
    uint32_t channels, patterns, shards; /* subscriptions */
    bool tracking, tracking_bcast;
    uint64_t redirect; /* caller id that its invalidations go to; 0: itself */
};

struct caller {
    uint32_t magic;
    uint8_t resp; /* protocol version, 2 or 3 */
    bool authenticated;
    bool exclusive;                              /* an exclusive request is under way */
    bool quitting;                               /* take no more requests, leave when all is said */
    bool kill;                                   /* leave now */
    bool in_multi;                               /* its commands are being queued by the server */
    bool pressed;                                /* holds too much: not read from; pressure.c's */
    bool unsent;                                 /* a request for its own connection was not sent */
    bool debugs;                                 /* was refused SCRIPT DEBUG, and may go on */
    bool monitors;                               /* is sent what all clients do */
    bool reply_off, reply_skip, reply_skip_next; /* CLIENT REPLY: all, this one's, the next one's */
    uint64_t id;
    uint32_t db;
    struct loop *loop;
    struct conn *conn;
    struct caller_state state;
    struct session *session; /* private connection and its state, or NULL; session.c's */
    struct upstream_conn
        *lane;             /* that private connection, which all its commands go down; or NULL */
    uint32_t shared;       /* serial of the shared one that it used last; 0: none yet */
    struct chain *capture; /* takes immediate answers, if not NULL */
    struct chain discard;  /* takes those that the client doesn't want */
    struct request *head, *tail;
    uint64_t asked; /* one bit of 64 for each key that it waits for the upstream's reply about */
    size_t owed, owed_bytes;
    size_t parked;       /* bytes of replies that wait for an earlier one, with their chunks */
    size_t queued_bytes; /* copied of what it has queued with MULTI */
    uint64_t
        held_since; /* when its upstream was held back for it; 0: it has read everything since */
    /* Called when a request has left the FIFO. Set by the client module. */
    void (*progress)(struct caller *c);
    TAILQ_ENTRY(caller) entry;

    uint64_t pressed_since;
    TAILQ_ENTRY(caller) pressed_entry;

    /* Waiting for a private connection: lend.c's, .. */
    uint64_t wait_since;            /* 0: it does not */
    uint64_t arrived;               /* .. the client module's: the command at hand; 0: just now */
    TAILQ_ENTRY(caller) wait_entry; /* or, when it has half-closed while it blocks: */
    bool hung_up, unblocking;       /* session.c's, too */

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
/* "$-1" or "_", as the client's protocol has it. */
void caller_answer_null(struct caller *c);
/* A text for people: a verbatim string in RESP3, else a bulk string. */
void caller_answer_verbatim(struct caller *c, const char *p, size_t n);
/* Header of n pairs in an answer: a map, or an array of 2n in RESP2. */
void caller_map_header(const struct caller *c, struct chain *out, uint64_t n);

/* A command begins: its replies are wanted, or not (CLIENT REPLY). */
void caller_next_command(struct caller *c);

/* A message out of band: append it to the chain and call caller_pushed. Wanted by every client,
 * whatever it said to CLIENT REPLY. */
struct chain *caller_push(struct caller *c);
void caller_pushed(struct caller *c);

/* A request was refused, mostly for want of memory, and not sent; or the state that it began is not
 * known here. What follows on a connection of the client's own would be taken as if it had been
 * sent, and a transaction would go without it: the client leaves when it has its replies, and its
 * connection is nobody's after it. */
void caller_not_sent(struct caller *c);

/* A reply that will come later. NULL: out of memory. */
struct request *request_new(struct caller *c);
void request_bytes(struct request *r, const char *p, size_t n);
/* All of a chain of the same pool, which is empty then. If it has failed the client is
 * disconnected, because its later replies would be shifted. */
void request_chain(struct request *r, struct chain *bytes);
/* Its reply is complete: frees it, now or when its turn has come. What request.c hung on it is
 * gone. */
void request_done(struct request *r);
/* Ends it with an error line. If part of the reply is out already the client is disconnected. */
void request_fail(struct request *r, const char *line);
/* It is late: the client gets `line` in its place (may be empty) and what is in `after`, while the
 * request goes on without its client, and drops the reply when that comes. Nothing of it has been
 * handed on. */
void request_abandon(struct request *r, const char *line);
/* Bytes of replies that the client has not taken yet, or can not because an earlier one is missing.
 */
size_t caller_unread(const struct caller *c);
/* About how many bytes are kept on its behalf. */
size_t caller_footprint(const struct caller *c);

/* A copy of a name or NULL; replaces *at. False: out of memory. */
bool caller_set_text(char **at, struct resp_slice text);

#endif
