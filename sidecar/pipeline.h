/* pipeline.h - one connection to the upstream: handshake, the FIFO of replies that it owes, their
 * deadlines.
 *
 *     idle -> connecting -> handshake -> ready
 *      ^           |            |          |
 *      +-----------+------------+----------+      (everything owed is told `lost`)
 *
 * Whoever sends registers an owner and a tag for each reply, which come back with the reply's
 * bytes, in order; what a tag means is the sender's business. What is owed outlives who asked for
 * it. What is appended during one turn leaves with one write. Which connections there are, when one
 * is opened and what its end means is up to its keeper (upstream.c).
 */
#ifndef NEARCACHE_PIPELINE_H
#define NEARCACHE_PIPELINE_H

#include "address.h"
#include "conn.h"
#include "handshake.h"
#include "resp.h"

struct pipeline;

enum pipeline_state {
    PIPELINE_IDLE,
    PIPELINE_CONNECTING,
    PIPELINE_HANDSHAKE,
    PIPELINE_READY,
};

/* Who a reply is for. Tags from PIPELINE_OWN on are the keeper's. */
struct reply_owner {
    void *owner;
    unsigned tag;
};
#define PIPELINE_OWN (UINT32_MAX - 15)

/* Room for an error line, "-NEARCACHE ...\r\n", and the longest `why`. */
enum { PIPELINE_ERROR_MAX = 384 };

/* Where replies go. */
struct pipeline_receiver {
    /* Part of the reply that `owner` waits for; valid during the call. */
    void (*bytes)(void *ctx, void *owner, unsigned tag, const char *p, size_t n);
    /* Of private connections: elements of it that are still to come, though it looks complete: so
     * many of those counted were messages, which Redis before 7.2 puts between the elements of
     * EXEC's reply. */
    size_t (*missing)(void *ctx, void *owner, unsigned tag);
    /* It is complete; `type` is its first byte as in resp_framer. */
    void (*done)(void *ctx, void *owner, unsigned tag, char type);
    /* It will never come, or not the rest of it. `error`: a RESP error line to hand on. */
    void (*lost)(void *ctx, void *owner, unsigned tag, const char *error);
    /* None of it has come in time: who waits for it is to be told `error`, as above. It may come
     * yet; `to` is whose it is then, and may be changed. Only on shared connections; private ones
     * end. */
    void (*late)(void *ctx, struct reply_owner *to, const char *error);

    /* Of private connections, to their holder. Is the RESP2 array that begins with these two bytes
     * a message rather than the reply that `owner` waits for (NULL: nobody does)? */
    bool (*is_push)(void *ctx, void *holder, void *owner, unsigned tag, const char *two);
    /* Part of a message; `end` with its last bytes. */
    void (*push)(void *ctx, void *holder, const char *p, size_t n, bool end);
};

/* How a connection ends against our will. */
enum pipeline_end {
    PIPELINE_LOST,   /* closed, broken, not RESP */
    PIPELINE_SILENT, /* no reply in time */
    PIPELINE_UNMADE, /* not connected, or refused by the server */
};

/* To the keeper. */
struct pipeline_hooks {
    /* The handshake is over; what has waited is sent when this returns. */
    void (*ready)(void *keeper);
    /* It ends; its state is still what it was. `why`: text for people. To be written to `error`:
     * the line for those that it owes something. */
    void (*ends)(void *keeper, enum pipeline_end how, const char *why,
                 char error[PIPELINE_ERROR_MAX]);
    /* It has ended, and all have been told. */
    void (*ended)(void *keeper);
    /* A reply has come in time. */
    void (*answered)(void *keeper);
    /* None has, as `why` says; to be written to `error`: the line for its owner. */
    void (*late)(void *keeper, unsigned tag, const char *why, char error[PIPELINE_ERROR_MAX]);
    /* The reply to a question of the keeper's own; `line`: how it begins. */
    void (*told)(void *keeper, unsigned tag, char type, const char *line);
    /* An error reply says READONLY: the server is a replica. */
    void (*readonly)(void *keeper);
};

/* Borrowed by all pipelines of a keeper; may be changed at any time. Times in ms. */
struct pipeline_options {
    const struct upstream_address *address;
    struct tls_context *tls;  /* NULL: plain text */
    const char *client_name;  /* for CLIENT SETNAME */
    uint64_t connect_timeout; /* for a TCP or TLS connection */
    uint64_t handshake_timeout;
    uint64_t queue_timeout; /* for a request to be sent at all */
    uint64_t
        frozen_timeout; /* for any sign of life of the server, where a reply may take any time */
};

/* Idle. `is_private`: one holder's at a time. NULL: out of memory. */
struct pipeline *pipeline_new(struct loop *loop, const struct pipeline_options *options,
                              const struct pipeline_receiver *receiver, void *ctx,
                              const struct pipeline_hooks *hooks, void *keeper, bool is_private);
/* Stops it first. */
void pipeline_free(struct pipeline *pl);

/* IDLE: connects. What is sent meanwhile waits. */
void pipeline_start(struct pipeline *pl, uint32_t db, unsigned resp);
/* Closes it, if it is open; what it owes is told `lost` with this line. No hook is called. */
void pipeline_stop(struct pipeline *pl, const char *error);

enum pipeline_state pipeline_state(const struct pipeline *pl);
/* How the handshake went. */
const struct handshake *pipeline_handshake(const struct pipeline *pl);

/* --- sending ------------------------------------------------------------------------------------
 */

/* First pipeline_expect for each reply, in order, then append the command to pipeline_out and call
 * pipeline_sent. False: out of memory, nothing may be appended. */
__attribute__((warn_unused_result)) bool pipeline_expect(struct pipeline *pl, void *owner,
                                                         unsigned tag);
struct chain *pipeline_out(struct pipeline *pl);
void pipeline_sent(struct pipeline *pl);
/* READY: a question of the keeper's own; before all that waits, where something does. False: out of
 * memory. */
__attribute__((warn_unused_result)) bool pipeline_ask(struct pipeline *pl, unsigned tag,
                                                      const struct resp_slice *argv, size_t argc);

/* Replies that it owes; of them, those whose owners wait in vain until now. */
size_t pipeline_owed(const struct pipeline *pl);
size_t pipeline_awaited(const struct pipeline *pl);
/* Something large is on its way, in either direction, or waits for a slow reader: what is sent now
 * would come after it. */
bool pipeline_is_clogged(const struct pipeline *pl);

/* --- private ones -------------------------------------------------------------------------------
 */

/* Who is given messages; NULL: nobody, they are dropped. */
void pipeline_set_holder(struct pipeline *pl, void *holder);
/* The protocol that the server has agreed to speak. */
void pipeline_set_resp(struct pipeline *pl, unsigned resp);
/* Ends the wait of the head's owner: messages have told it what it waited for. */
void pipeline_settle(struct pipeline *pl);
/* Replies that may take any time are owed now (+1), or no more (-1). */
void pipeline_patience(struct pipeline *pl, int change);

/* --- slow readers -------------------------------------------------------------------------------
 */

/* Others are owed something behind the reply at hand. */
bool pipeline_has_others(const struct pipeline *pl);
/* Stops reading replies for a moment because the one at hand goes to a slow reader. False: it has
 * had its share of everybody's time; it has to be buffered. */
bool pipeline_hold(struct pipeline *pl);
void pipeline_release(struct pipeline *pl);

/* --- time ---------------------------------------------------------------------------------------
 */

/* Deadlines: `timeout` (ms) for the first byte of each reply, and for the next byte of the one at
 * hand; `heard`: when the server was last heard anywhere. */
void pipeline_tick(struct pipeline *pl, uint64_t timeout, uint64_t heard, uint64_t now);
/* When something last came from the server, or it was first owed something. */
uint64_t pipeline_progress(const struct pipeline *pl);

/* Writes one whole line, however long or odd the words are. */
__attribute__((format(printf, 2, 3))) void pipeline_error(char line[PIPELINE_ERROR_MAX],
                                                          const char *format, ...);

#endif
