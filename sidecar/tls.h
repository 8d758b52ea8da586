/* tls.h - TLS for a non-blocking socket: certificates and trust (a context), one stream each.
 *
 * Nothing here waits or calls back: a call does what it can and says what it waits for. Protocols
 * are TLS 1.2 and later, without renegotiation. As a client the last session is resumed. Errors are
 * texts for people that say what happened and what to do.
 */
#ifndef NEARCACHE_TLS_H
#define NEARCACHE_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct tls_context;
struct tls;

enum tls_role { TLS_CLIENT, TLS_SERVER };

/* Of a server: whether its clients show a certificate, which then must be good. */
enum tls_peer { TLS_PEER_REQUIRED, TLS_PEER_OPTIONAL, TLS_PEER_OFF };

/* Files are PEM. NULL: none. Everything is borrowed during the call. */
struct tls_options {
    enum tls_role role;
    const char *cert_file; /* the chain, own certificate first; a server must have one */
    const char *key_file;  /* NULL: in cert_file */
    const char *key_password;
    const char *ca_file, *ca_dir; /* a client without either trusts the system's authorities */
    bool verify;                  /* client: the server's certificate must be good, .. */
    const char *server_name;      /* .. and for this name or IP address; also sent as SNI */
    enum tls_peer peer;           /* server; needs ca_file unless off */
    uint64_t handshake_timeout;   /* ms; 0: whoever connects has a deadline of its own */
};

#define TLS_ERROR_MAX 256

/* Loads the files. NULL: `error` says which one is wrong and how. */
struct tls_context *tls_context_new(const struct tls_options *options, char error[TLS_ERROR_MAX]);
/* All its streams have been freed. */
void tls_context_free(struct tls_context *context);
/* `context` has from now on what `fresh` has loaded, and `fresh` the old; both in the same role.
 * Streams that exist keep what they began with. */
void tls_context_swap(struct tls_context *context, struct tls_context *fresh);
uint64_t tls_handshake_timeout(const struct tls_context *context);

/* One stream on a connected, non-blocking socket, which stays the caller's. NULL: out of memory. */
struct tls *tls_new(struct tls_context *context, int fd);
void tls_free(struct tls *t);

enum tls_status {
    TLS_OK,         /* all done */
    TLS_WANT_READ,  /* to be called again when there is something to read, .. */
    TLS_WANT_WRITE, /* .. or room to write */
    TLS_EOF,        /* the peer has said all it had to say */
    TLS_FAILED,     /* broken for good: tls_error says why */
};

/* To be called, until it is TLS_OK, before anything is read or written. */
__attribute__((warn_unused_result)) enum tls_status tls_handshake(struct tls *t);

/* Reads up to `size` bytes, *n of them. TLS_OK: there may be more, call again without waiting for
 * the socket. Anything may have been read before what another status says happened. */
__attribute__((warn_unused_result)) enum tls_status tls_read(struct tls *t, char *p, size_t size,
                                                             size_t *n);
/* Writes from the pieces, *n bytes of them. TLS_OK: all, or as much as is fair at once. After
 * TLS_WANT_... the next call must begin with the same bytes, at whatever address. */
__attribute__((warn_unused_result)) enum tls_status
tls_write(struct tls *t, const struct iovec *pieces, int n_pieces, size_t *n);

/* Tells the peer that nothing more will come, if that can be told at once. */
void tls_close(struct tls *t);
/* Valid until tls_free. */
const char *tls_error(const struct tls *t);

/* What a TLS peer says first, to someone who expects RESP: a handshake or an alert. */
static inline bool tls_is_record(const char *p, size_t n)
{
    return n >= 2 && (p[0] == 0x15 || p[0] == 0x16) && p[1] == 0x03;
}

#endif
