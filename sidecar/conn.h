/* conn.h - one byte stream, TCP, unix socket or TLS: buffers, limits, one write per turn.
 *
 * Reading goes through the loop's shared buffer; a connection owns a buffer only for the bytes of
 * an unfinished message. Writing is a chain flushed once at the end of the turn (or earlier, by
 * conn_flush), so that replies that are due together travel together.
 *
 * No callback is made from inside another call of this module, save `bytes` from the event loop:
 * errors met while writing are reported at the end of the turn. After conn_close nothing is called
 * any more and the memory stays until the end of the turn.
 */
#ifndef NEARCACHE_CONN_H
#define NEARCACHE_CONN_H

#include <event2/util.h>

#include "loop.h"
#include "tls.h"

struct conn;

struct conn_callbacks {
    /* p[0..n) are all bytes received and not yet taken; returns how many are taken now. The rest is
     * given again with what arrives next, or after conn_resume. */
    size_t (*bytes)(void *ctx, const char *p, size_t n);
    /* The connect succeeded. May be NULL for accepted connections. */
    void (*connected)(void *ctx);
    /* All output has reached the kernel, after some of it had not at first. May be NULL. */
    void (*drained)(void *ctx);
    /* The peer closed its side (eof) or the stream is broken. The owner calls conn_close, at once
     * or, after eof, when it has said all it wants to. `why` is readable text. */
    void (*ended)(void *ctx, bool eof, const char *why);
};

/* Takes over an accepted, non-blocking socket. The callbacks are borrowed. NULL: out of memory; the
 * socket is closed. `tls`, a server's context, or NULL for plain text, must outlive the loop's turn
 * in which the connection is closed; a handshake that fails or takes too long is told by `ended`.
 */
struct conn *conn_accept(struct loop *loop, evutil_socket_t fd, struct tls_context *tls,
                         const struct conn_callbacks *callbacks, void *ctx);

/* Where to connect; strings are borrowed for the call. */
struct conn_target {
    const char
        *host; /* resolved without blocking, each time anew; its addresses are tried in turn */
    uint16_t port;
    const char *path;        /* of a unix socket, where host is NULL */
    struct tls_context *tls; /* a client's context as above, or NULL */
    uint64_t timeout;        /* ms for all of it, the TLS handshake included */
};

/* Starts connecting. Failure is told by `ended`, success (after the TLS handshake) by `connected`.
 * NULL: out of memory. */
struct conn *conn_connect(struct loop *loop, const struct conn_target *target,
                          const struct conn_callbacks *callbacks, void *ctx);
/* Connected, and where there is TLS its handshake is done. */
bool conn_is_open(const struct conn *c);

/* Closes at once; unsent output is lost. Safe from within callbacks. */
void conn_close(struct conn *c);
/* The same, and what the kernel has taken and not yet delivered is lost too: the peer is told by a
 * reset. After an ordinary close it would go on being sent, for as long as the peer is away. */
void conn_abandon(struct conn *c);

/* Where output is appended; call conn_send afterwards. */
struct chain *conn_out(struct conn *c);
/* Has the output flushed at the end of this turn; of an accepted connection, before that when many
 * are to be flushed or the turn grows long. */
void conn_send(struct conn *c);
/* Writes now what can be written; what is left goes when the socket takes it. Output queued by
 * reference has been written or copied when this returns. */
void conn_flush(struct conn *c);

/* Stops reading; bytes received and not taken are kept. */
void conn_pause(struct conn *c);
/* Reads again, if paused; untaken bytes are offered at the end of this turn. */
void conn_resume(struct conn *c);

/* Breaks the stream when more than this many bytes are left untaken. 0: no limit. */
void conn_limit_input(struct conn *c, size_t bytes);
/* The message at hand needs about this many bytes in all: sizes the buffer. */
void conn_want(struct conn *c, size_t bytes);

/* Before a wait that only the peer's leaving may end: a reset that came together with the last
 * bytes has not been told of, and is so in the next turn. */
void conn_look_again(struct conn *c);
/* With each tick of the loop's owner: the same for some of those that have been read from, the
 * oldest first. */
void conn_tick(struct loop *loop);

/* The connection's own block that these received bytes lie in, to be kept beyond the callback;
 * NULL: they lie elsewhere, and have to be copied. */
struct block *conn_block(const struct conn *c, const char *p);

size_t conn_unread(const struct conn *c); /* bytes received and not taken */
size_t conn_input_capacity(const struct conn *c);
evutil_socket_t conn_fd(const struct conn *c);
/* "127.0.0.1:54321", "[::1]:6380" or "/path:0", as Redis' CLIENT LIST writes them. */
#define CONN_ADDRESS_MAX 128
void conn_peer_address(const struct conn *c, char buf[CONN_ADDRESS_MAX]);
void conn_local_address(const struct conn *c, char buf[CONN_ADDRESS_MAX]);

#endif
