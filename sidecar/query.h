/* query.h - a command of the proxy's own whose whole reply comes back to it (answer-myself). */
#ifndef NEARCACHE_QUERY_H
#define NEARCACHE_QUERY_H

#include "upstream.h"

/* What a reply on an upstream connection is for: the tag that goes with its owner. */
enum reply_tag {
    REPLY_FORWARD,    /* struct request: hand it on */
    REPLY_FILL_VALUE, /* struct fill: hand it on to all that wait, and keep it */
    REPLY_FILL_TTL,   /* struct fill: how long it may be kept */
    REPLY_MERGE,      /* struct request: the missing part of an MGET */
    REPLY_QUERY,      /* struct query */
    REPLY_PING,       /* struct request: hand it on, or what is kept in `after` if it never comes */
    REPLY_SUBSCRIBE,  /* struct request: nothing but an error; messages tell the rest */
    REPLY_EXEC,       /* struct request: each element as its command asks for */
    REPLY_CACHING,    /* NULL: CLIENT CACHING, which must not be refused */
    REPLY_IGNORED,    /* struct request, or NULL: only its end counts */
};

struct query {
    /* The whole reply, or no bytes and `error`, a RESP error line to hand on. Called once; the
     * query may be sent again or freed from inside. */
    void (*done)(struct query *q, const char *reply, size_t len, const char *error);
    struct budget *budget; /* counts buf; of the connection that it was sent down */
    char *buf;
    size_t len, cap;
    bool failed;
};

/* Longest reply gathered, bytes. */
#define QUERY_REPLY_MAX ((size_t)64 * 1024 * 1024)

/* Sends argv and takes the reply. `done` is always called, perhaps before this returns. */
void query_send(struct query *q, struct upstream_conn *uc, const struct resp_slice *argv,
                size_t argc);

/* From the upstream's callbacks, for owners tagged REPLY_QUERY. */
void query_bytes(struct query *q, const char *p, size_t n);
void query_done(struct query *q);
void query_lost(struct query *q, const char *error);

#endif
