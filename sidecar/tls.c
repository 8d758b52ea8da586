/* tls.c - TLS for a non-blocking socket, with OpenSSL. */
#include "tls.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORD_BYTES = 16 * 1024, /* the most that one record carries */
    PIECE_ALONE = 8 * 1024,   /* a piece this long is a record of its own rather than copied */
    WRITE_MAX = 16 * RECORD_BYTES,
    HANDSHAKE_RECORD = 0x16,
};

struct tls_context {
    enum tls_role role;
    SSL_CTX *ssl;
    SSL_SESSION *session; /* client: the last one, to be resumed */
    char *server_name;
    bool verify;
    uint64_t handshake_timeout;
    unsigned streams;
    char gather[RECORD_BYTES]; /* small pieces on their way into one record */
};

struct tls {
    struct tls_context *context;
    SSL *ssl;
    int fd;
    bool begun, open; /* the handshake */
    bool heard;       /* something to read has come */
    bool failed;
    size_t pending; /* bytes of the record that tls_write must offer again */
    char error[TLS_ERROR_MAX];
};

__attribute__((format(printf, 2, 3))) static void say(char error[TLS_ERROR_MAX], const char *format,
                                                      ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error, TLS_ERROR_MAX, format, args);
    va_end(args);
}

/* --- loading ---------------------------------------------------------------------------------- */

static const char *prefix(enum tls_role role)
{
    return role == TLS_CLIENT ? "upstream.tls" : "tls";
}

/* The last error is the most general one; the first says what happened. */
static const char *first_reason(void)
{
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);
    if (ERR_GET_LIB(code) == ERR_LIB_SYS)
        return strerror(ERR_GET_REASON(code));
    return reason ? reason : "unknown error";
}

static bool wrong_file(const struct tls_options *o, const char *setting, const char *file,
                       const char *hint, char error[TLS_ERROR_MAX])
{
    say(error, "%s.%s=%s: %s%s", prefix(o->role), setting, file, first_reason(), hint);
    ERR_clear_error();
    return false;
}

/* Without this OpenSSL would ask at the terminal. */
static int give_password(char *buf, int size, int writing, void *password)
{
    (void)writing;
    size_t n = password ? strlen(password) : 0;
    if (size < 0 || n > (size_t)size)
        return -1;
    if (n)
        memcpy(buf, password, n);
    return (int)n;
}

static bool load_key(SSL_CTX *ssl, const struct tls_options *o, char error[TLS_ERROR_MAX])
{
    const char *file = o->key_file ? o->key_file : o->cert_file;
    const char *setting = o->key_file ? "key_file" : "cert_file";
    SSL_CTX_set_default_passwd_cb(ssl, give_password);
    SSL_CTX_set_default_passwd_cb_userdata(ssl, (void *)(uintptr_t)o->key_password);
    bool ok = SSL_CTX_use_PrivateKey_file(ssl, file, SSL_FILETYPE_PEM) == 1 &&
              SSL_CTX_check_private_key(ssl) == 1;
    SSL_CTX_set_default_passwd_cb_userdata(ssl, NULL);
    if (ok)
        return true;
    bool foreign = ERR_GET_REASON(ERR_peek_error()) == X509_R_KEY_VALUES_MISMATCH;
    return wrong_file(o, setting, file,
                      foreign ? " (not the key of that certificate)"
                              : " (no private key in PEM that can be read here)",
                      error);
}

static bool load_certificate(SSL_CTX *ssl, const struct tls_options *o, char error[TLS_ERROR_MAX])
{
    if (!o->cert_file)
        return true;
    if (SSL_CTX_use_certificate_chain_file(ssl, o->cert_file) != 1)
        return wrong_file(o, "cert_file", o->cert_file, " (no certificate in PEM)", error);
    return load_key(ssl, o, error);
}

static bool load_trust(SSL_CTX *ssl, const struct tls_options *o, char error[TLS_ERROR_MAX])
{
    if (o->ca_file && SSL_CTX_load_verify_file(ssl, o->ca_file) != 1)
        return wrong_file(o, "ca_file", o->ca_file, " (no certificates in PEM)", error);
    if (o->ca_dir && SSL_CTX_load_verify_dir(ssl, o->ca_dir) != 1)
        return wrong_file(o, "ca_dir", o->ca_dir, "", error);
    if (o->role == TLS_CLIENT && !o->ca_file && !o->ca_dir)
        return SSL_CTX_set_default_verify_paths(ssl) == 1 ||
               wrong_file(o, "ca_file", "(the system's)", "", error);
    if (o->role == TLS_SERVER && o->ca_file && o->peer != TLS_PEER_OFF) /* named to clients */
        SSL_CTX_set_client_CA_list(ssl, SSL_load_client_CA_file(o->ca_file));
    return true;
}

static void explain_server_certificate(struct tls *t, int verdict, const char *issuer)
{
    switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        say(t->error, "TLS: the server's certificate has expired; renew it there, or is the clock "
                      "here wrong?");
        return;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        say(t->error, "TLS: the server's certificate is not valid yet; are the clocks right?");
        return;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        say(t->error,
            "TLS: the server's certificate is not for %.80s; give a name that it is for as "
            "upstream.tls.server_name",
            t->context->server_name);
        return;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        say(t->error,
            "TLS: the server's certificate is by an unknown authority (%s); give that one's as "
            "upstream.tls.ca_file",
            issuer);
        return;
    default:
        say(t->error, "TLS: the server's certificate: %s", X509_verify_cert_error_string(verdict));
    }
}

/* The certificate that is found wanting is at hand only here. */
static int on_verified(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *t = SSL_get_app_data(ssl);
    X509 *certificate = X509_STORE_CTX_get_current_cert(store);
    int verdict = X509_STORE_CTX_get_error(store);
    char issuer[80] = "?", owner[80] = "?";
    if (ok)
        return ok;
    if (certificate) {
        X509_NAME_oneline(X509_get_issuer_name(certificate), issuer, sizeof issuer);
        X509_NAME_oneline(X509_get_subject_name(certificate), owner, sizeof owner);
    }
    if (t->context->role == TLS_CLIENT)
        explain_server_certificate(t, verdict, issuer);
    else
        say(t->error, "TLS: the client's certificate (%s by %s): %s", owner, issuer,
            X509_verify_cert_error_string(verdict));
    return ok;
}

static int verify_mode(const struct tls_options *o)
{
    if (o->role == TLS_CLIENT)
        return o->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE;
    return o->peer == TLS_PEER_REQUIRED   ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
           : o->peer == TLS_PEER_OPTIONAL ? SSL_VERIFY_PEER
                                          : SSL_VERIFY_NONE;
}

/* One for the next connection. What belongs to certificates since replaced is not kept. */
static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls_context *context = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    if (!context || context->ssl != SSL_get_SSL_CTX(ssl))
        return 0;
    SSL_SESSION_free(context->session);
    context->session = session;
    return 1; /* it is ours now */
}

static void set_protocol(SSL_CTX *ssl, const struct tls_options *o)
{
    static const unsigned char id[] = "nearcache";
    SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION);
    /* RESP says where a message ends, so a stream that is cut off without a word is only over. */
    SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ssl, 1); /* header and body of a record with one system call */
    SSL_CTX_set_verify(ssl, verify_mode(o), on_verified);
    SSL_CTX_set_session_id_context(ssl, id, sizeof id - 1);
    SSL_CTX_set_num_tickets(ssl, 1);
    if (o->role == TLS_SERVER) {
        SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF); /* tickets, which need no memory */
        return;
    }
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ssl, on_new_session);
}

static SSL_CTX *load(const struct tls_options *o, char error[TLS_ERROR_MAX])
{
    ERR_clear_error();
    SSL_CTX *ssl = SSL_CTX_new(o->role == TLS_CLIENT ? TLS_client_method() : TLS_server_method());
    if (!ssl) {
        say(error, "TLS can't be set up: %s", first_reason());
        return NULL;
    }
    set_protocol(ssl, o);
    if (load_certificate(ssl, o, error) && load_trust(ssl, o, error))
        return ssl;
    SSL_CTX_free(ssl);
    return NULL;
}

struct tls_context *tls_context_new(const struct tls_options *options, char error[TLS_ERROR_MAX])
{
    struct tls_context *context = calloc(1, sizeof *context);
    const char *name = options->server_name;
    say(error, "out of memory");
    if (!context)
        return NULL;
    context->role = options->role;
    context->verify = options->verify;
    context->handshake_timeout = options->handshake_timeout;
    context->server_name = name ? strdup(name) : NULL;
    if (!name || context->server_name)
        context->ssl = load(options, error);
    if (!context->ssl) {
        tls_context_free(context);
        return NULL;
    }
    SSL_CTX_set_app_data(context->ssl, context);
    return context;
}

void tls_context_free(struct tls_context *context)
{
    if (!context)
        return;
    assert(context->streams == 0);
    SSL_SESSION_free(context->session);
    SSL_CTX_free(context->ssl);
    free(context->server_name);
    free(context);
}

void tls_context_swap(struct tls_context *context, struct tls_context *fresh)
{
    assert(context->role == fresh->role && fresh->streams == 0);
    SSL_CTX *ssl = context->ssl;
    SSL_SESSION *session = context->session;
    char *server_name = context->server_name;
    context->ssl = fresh->ssl;
    context->session = fresh->session;
    context->server_name = fresh->server_name;
    context->verify = fresh->verify;
    context->handshake_timeout = fresh->handshake_timeout;
    fresh->ssl = ssl;
    fresh->session = session;
    fresh->server_name = server_name;
    SSL_CTX_set_app_data(context->ssl, context);
    SSL_CTX_set_app_data(fresh->ssl, NULL); /* it may outlive `fresh`, in old streams */
}

uint64_t tls_handshake_timeout(const struct tls_context *context)
{
    return context->handshake_timeout;
}

/* --- what went wrong -------------------------------------------------------------------------- */

/* By what OpenSSL calls it: what it means, for whom it happened to. NULL: no better words. */
static const char *meaning(enum tls_role role, int reason)
{
    bool client = role == TLS_CLIENT;
    switch (reason) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_RECORD_LENGTH_MISMATCH:
        return client ? "the server does not speak TLS at this port; give its tls-port, or "
                        "redis:// instead of rediss://"
                      : "the client does not speak TLS";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return "the client has shown no certificate (tls.auth_clients)";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return "the server wants a certificate of ours; give upstream.tls.cert_file and .key_file";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return client ? "the server does not know the authority of our upstream.tls.cert_file"
                      : "the client does not know the authority of tls.cert_file";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return client ? "the server says that our certificate has expired; renew "
                        "upstream.tls.cert_file"
                      : "the client says that our certificate has expired; renew tls.cert_file";
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        return client ? "the server broke the handshake off; it may want a certificate "
                        "(upstream.tls.cert_file)"
                      : "the client broke the handshake off";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
        return "the other side has no TLS 1.2 or later";
    default:
        return NULL;
    }
}

/* A protocol error: the reason is in OpenSSL's queue, or was told by on_verified. */
static void explain(struct tls *t)
{
    int reason = ERR_GET_REASON(ERR_peek_error());
    const char *text = meaning(t->context->role, reason);
    if (reason != SSL_R_CERTIFICATE_VERIFY_FAILED || !*t->error)
        say(t->error, "TLS: %s", text ? text : first_reason());
}

static bool is_unheard(const struct tls *t)
{
    return t->context->role == TLS_CLIENT && t->open && !t->heard;
}

/* With TLS 1.3 a server that does not like our certificate, or that there is none, says so after
 * the handshake; what it says is often lost because it closes with something of ours unread. */
static void explain_end(struct tls *t, const char *what)
{
    say(t->error, "%s%s", what,
        is_unheard(t) ? " right after the TLS handshake; it may want a certificate of ours "
                        "(upstream.tls.cert_file)"
                      : "");
}

static enum tls_status fail(struct tls *t)
{
    t->failed = true;
    /* A session that the server does not like must not stand in the way for ever. */
    if (!t->open && t->context->session) {
        SSL_SESSION_free(t->context->session);
        t->context->session = NULL;
    }
    return TLS_FAILED;
}

/* What the call that returned `result` has come to. */
static enum tls_status status_of(struct tls *t, int result)
{
    int error = errno;
    switch (SSL_get_error(t->ssl, result)) {
    case SSL_ERROR_NONE:
        return TLS_OK;
    case SSL_ERROR_WANT_READ:
        return TLS_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return TLS_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        if (!is_unheard(t))
            return TLS_EOF;
        explain_end(t, "connection closed by the peer");
        return fail(t);
    case SSL_ERROR_SYSCALL:
        explain_end(t, error ? strerror(error) : "connection closed by the peer");
        return fail(t);
    default:
        explain(t);
        return fail(t);
    }
}

/* Before each call: SSL_get_error looks at the queue and at errno. */
static void forget_errors(void)
{
    ERR_clear_error();
    errno = 0;
}

/* --- a stream --------------------------------------------------------------------------------- */

static bool is_ip(const char *name)
{
    struct in6_addr address;
    return inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1;
}

static bool name_server(struct tls *t)
{
    const char *name = t->context->server_name;
    if (!name)
        return true;
    if (is_ip(name))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), name) == 1;
    SSL_set_hostflags(t->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set_tlsext_host_name(t->ssl, name) == 1 && SSL_set1_host(t->ssl, name) == 1;
}

static bool prepare(struct tls *t)
{
    if (!t->ssl || SSL_set_fd(t->ssl, t->fd) != 1 || SSL_set_app_data(t->ssl, t) != 1)
        return false;
    if (t->context->role == TLS_SERVER) {
        SSL_set_accept_state(t->ssl);
        return true;
    }
    SSL_set_connect_state(t->ssl);
    if (t->context->session)
        (void)SSL_set_session(t->ssl, t->context->session);
    return name_server(t);
}

struct tls *tls_new(struct tls_context *context, int fd)
{
    struct tls *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->context = context;
    t->fd = fd;
    context->streams++;
    t->ssl = SSL_new(context->ssl);
    if (prepare(t))
        return t;
    tls_free(t);
    ERR_clear_error();
    return NULL;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    t->context->streams--;
    /* However it ended: OpenSSL would not resume the session of a stream that was cut off. */
    if (t->open)
        SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(t->ssl);
    free(t);
}

/* To a client that speaks RESP the reason is told in RESP; OpenSSL would send it an alert. What it
 * has sent is read first: a socket that is closed with bytes unread takes the reply along. */
static enum tls_status refuse_plain_text(struct tls *t)
{
    static const char reply[] =
        "-ERR this port speaks TLS: connect with TLS (redis-cli --tls, rediss://)\r\n";
    (void)recv(t->fd, t->context->gather, sizeof t->context->gather, MSG_DONTWAIT);
    (void)send(t->fd, reply, sizeof reply - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    say(t->error, "TLS: the client does not speak TLS");
    return fail(t);
}

/* Looks at a client's first byte. */
static enum tls_status begin(struct tls *t)
{
    char first;
    ssize_t n = recv(t->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return TLS_WANT_READ;
    t->begun = true;
    return n == 1 && first != HANDSHAKE_RECORD ? refuse_plain_text(t) : TLS_OK;
}

enum tls_status tls_handshake(struct tls *t)
{
    assert(!t->open && !t->failed);
    if (t->context->role == TLS_SERVER && !t->begun) {
        enum tls_status status = begin(t);
        if (status != TLS_OK)
            return status;
    }
    forget_errors();
    enum tls_status status = status_of(t, SSL_do_handshake(t->ssl));
    t->open = status == TLS_OK;
    if (status != TLS_EOF)
        return status;
    say(t->error, "TLS: the other side closed the connection during the handshake");
    return fail(t);
}

enum tls_status tls_read(struct tls *t, char *p, size_t size, size_t *n)
{
    *n = 0;
    assert(t->open && size > 0);
    if (t->failed)
        return TLS_FAILED;
    do {
        size_t part = 0;
        forget_errors();
        int result = SSL_read_ex(t->ssl, p + *n, size - *n, &part);
        *n += part;
        t->heard |= part > 0;
        if (result != 1)
            return status_of(t, result);
    } while (*n < size && SSL_has_pending(t->ssl));
    /* With nothing left here the socket tells when there is more. */
    return SSL_has_pending(t->ssl) ? TLS_OK : TLS_WANT_READ;
}

/* The bytes of the next record: a long piece as it is, else what there is of several, copied into
 * one; no fewer than the record has that is to be offered again. */
static const char *next_record(struct tls *t, const struct iovec *pieces, int n_pieces,
                               size_t offset, size_t *len)
{
    const char *first = (const char *)pieces->iov_base + offset;
    size_t alone = pieces->iov_len - offset, n = 0;
    if (n_pieces == 1 || (alone >= PIECE_ALONE && alone >= t->pending)) {
        *len = alone < RECORD_BYTES ? alone : RECORD_BYTES;
        return first;
    }
    char *gather = t->context->gather;
    for (int i = 0; i < n_pieces && n < RECORD_BYTES; i++) {
        size_t part = pieces[i].iov_len - offset;
        if (part > RECORD_BYTES - n)
            part = RECORD_BYTES - n;
        memcpy(gather + n, (const char *)pieces[i].iov_base + offset, part);
        n += part;
        offset = 0;
    }
    *len = n;
    return gather;
}

/* Of a peer that has closed its side OpenSSL says so again where the socket has failed. */
static enum tls_status write_failed(struct tls *t, int result, size_t len)
{
    int error = errno;
    enum tls_status status = status_of(t, result);
    t->pending = len;
    if (status != TLS_EOF)
        return status;
    explain_end(t, error ? strerror(error) : "connection closed by the peer");
    return fail(t);
}

enum tls_status tls_write(struct tls *t, const struct iovec *pieces, int n_pieces, size_t *n)
{
    size_t offset = 0; /* in the first piece */
    *n = 0;
    assert(t->open);
    if (t->failed)
        return TLS_FAILED;
    while (n_pieces > 0 && *n < WRITE_MAX) {
        size_t len, written = 0;
        const char *record = next_record(t, pieces, n_pieces, offset, &len);
        assert(len >= t->pending);
        forget_errors();
        int result = SSL_write_ex(t->ssl, record, len, &written);
        if (result != 1)
            return write_failed(t, result, len);
        t->pending = 0;
        *n += written;
        offset += written;
        while (n_pieces > 0 && offset >= pieces->iov_len) {
            offset -= pieces->iov_len;
            pieces++;
            n_pieces--;
        }
    }
    return TLS_OK;
}

void tls_close(struct tls *t)
{
    if (!t->open || t->failed)
        return;
    forget_errors();
    (void)SSL_shutdown(t->ssl);
    ERR_clear_error();
}

const char *tls_error(const struct tls *t)
{
    return t->error;
}
