/* test_tls.c - TLS streams over a socket pair: both ends, small buffers, key updates, resumption,
 * what is refused and why. The certificates are made here. */
#include "tls.h"

#include <check.h>
#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char directory[32], cert_file[64], key_file[64];
static int fds[2];
static struct tls_context *server_context, *client_context;
static struct tls *server, *client;
static char sent[1 << 20], received[1 << 20];

/* --- certificates ------------------------------------------------------------------------------
 */

static void add_names(X509 *certificate)
{
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name,
                                                "DNS:one.example,DNS:*.two.example,IP:10.0.0.1");
    ck_assert_ptr_nonnull(names);
    ck_assert_int_eq(X509_add_ext(certificate, names, -1), 1);
    X509_EXTENSION_free(names);
}

static void write_certificate(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    X509_NAME *name = X509_get_subject_name(certificate);
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509_set_pubkey(certificate, key);
    add_names(certificate);
    ck_assert_int_gt(X509_sign(certificate, key, EVP_sha256()), 0);
    FILE *f = fopen(cert_file, "we");
    ck_assert(f && PEM_write_X509(f, certificate) == 1);
    fclose(f);
    f = fopen(key_file, "we");
    ck_assert(f && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1);
    fclose(f);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static void make_files(void)
{
    signal(SIGPIPE, SIG_IGN); /* as main does */
    snprintf(directory, sizeof directory, "/tmp/nc-tls.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(cert_file, sizeof cert_file, "%s/cert", directory);
    snprintf(key_file, sizeof key_file, "%s/key", directory);
    write_certificate();
}

static void remove_files(void)
{
    unlink(cert_file);
    unlink(key_file);
    rmdir(directory);
}

/* --- two ends ----------------------------------------------------------------------------------
 */

static struct tls_context *context(const struct tls_options *options)
{
    char error[TLS_ERROR_MAX] = "";
    struct tls_context *made = tls_context_new(options, error);
    ck_assert_msg(made, "%s", error);
    return made;
}

static struct tls_options server_options(void)
{
    return (struct tls_options){.role = TLS_SERVER,
                                .cert_file = cert_file,
                                .key_file = key_file,
                                .peer = TLS_PEER_OFF,
                                .handshake_timeout = 1234};
}

static struct tls_options client_options(const char *name)
{
    return (struct tls_options){
        .role = TLS_CLIENT, .ca_file = cert_file, .verify = true, .server_name = name};
}

static void pair(void)
{
    int small = 4096;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    for (int i = 0; i < 2; i++)
        setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
}

static void connect_both(void)
{
    pair();
    server = tls_new(server_context, fds[0]);
    client = tls_new(client_context, fds[1]);
    ck_assert(server && client);
}

static void setup_named(const char *name)
{
    struct tls_options s = server_options(), c = client_options(name);
    server_context = context(&s);
    client_context = context(&c);
    connect_both();
}

static void setup(void)
{
    setup_named("one.example");
}

static void disconnect(void)
{
    tls_free(server);
    tls_free(client);
    server = client = NULL;
    close(fds[0]);
    close(fds[1]);
}

static void teardown(void)
{
    disconnect();
    tls_context_free(server_context);
    tls_context_free(client_context);
}

static enum tls_status shake(struct tls *t, enum tls_status before)
{
    return before == TLS_OK || before == TLS_FAILED ? before : tls_handshake(t);
}

/* Until both know how it went; *c and *s are how. */
static void shake_hands(enum tls_status *c, enum tls_status *s)
{
    *c = *s = TLS_WANT_READ;
    for (int i = 0; i < 100; i++) {
        *c = shake(client, *c);
        *s = shake(server, *s);
        if (*c == TLS_FAILED && *s != TLS_OK)
            *s = shake(server, *s);
    }
}

static void open_both(void)
{
    enum tls_status c, s;
    shake_hands(&c, &s);
    ck_assert_msg(c == TLS_OK && s == TLS_OK, "client: %s; server: %s", tls_error(client),
                  tls_error(server));
}

static size_t read_some(struct tls *t, size_t at)
{
    size_t n = 0;
    enum tls_status status = tls_read(t, received + at, sizeof received - at, &n);
    ck_assert_msg(status == TLS_OK || status == TLS_WANT_READ, "%s", tls_error(t));
    return n;
}

/* Sends `total` bytes of `sent` in pieces of the given lengths, over and over. */
static void send_in_pieces(size_t total, const size_t *lens, int n_lens)
{
    size_t out = 0, in = 0, turns = 0;
    while (in < total && turns++ < 100000) {
        struct iovec pieces[64];
        size_t at = out, n = 0;
        int n_pieces = 0;
        for (; n_pieces < 64 && at < total; n_pieces++) {
            size_t len = lens[(size_t)n_pieces % (size_t)n_lens];
            len = len < total - at ? len : total - at;
            pieces[n_pieces] = (struct iovec){sent + at, len};
            at += len;
        }
        if (n_pieces)
            ck_assert_int_ne(tls_write(client, pieces, n_pieces, &n), TLS_FAILED);
        out += n;
        in += read_some(server, in);
    }
    ck_assert_uint_eq(in, total);
    ck_assert_mem_eq(received, sent, total);
}

/* --- the tests ---------------------------------------------------------------------------------
 */

START_TEST(test_handshake)
{
    ck_assert_uint_eq(tls_handshake_timeout(server_context), 1234);
    ck_assert_int_eq(tls_handshake(server), TLS_WANT_READ); /* nobody has said anything */
    open_both();
}
END_TEST

/* The pieces of a write that is tried again differ from those of the first try. */
START_TEST(test_pieces)
{
    static const size_t lens[][3] = {{1, 1, 1},         {100, 20000, 3},  {16384, 16384, 16384},
                                     {8191, 8192, 1},   {16385, 1, 8193}, {262144, 7, 262144},
                                     {5000, 9000, 3000}};
    open_both();
    for (size_t i = 0; i < sizeof sent; i++)
        sent[i] = (char)(i * 2654435761u >> 13);
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
        send_in_pieces(lens[i][0] == 1 ? 5000 : sizeof sent, lens[i], 3);
}
END_TEST

/* A record that the socket has not taken is offered again out of one piece instead of several, and
 * out of several instead of one. */
START_TEST(test_a_record_is_offered_again)
{
    static const size_t heads[] = {3000, 8191, 8192, 16000, 20000};
    const size_t whole = 23000;
    size_t n, start = 0, in = 0;
    open_both();
    for (size_t i = 0; i < sizeof sent; i++)
        sent[i] = (char)(i % 251);
    while (tls_write(client, (struct iovec[]){{sent + start, 100}}, 1, &n) == TLS_OK)
        start += n; /* until the socket is full, .. */
    while (tls_write(client, (struct iovec[]){{sent + start, 100}}, 1, &n) != TLS_OK)
        in += read_some(server, in); /* .. but for nothing */
    start += n;
    size_t head = heads[_i], out = start;
    for (int turn = 0; out < start + whole || in < out; turn++) {
        size_t rest = start + whole - out;
        size_t split = out == start && turn % 2 == 0 && head < rest ? head : rest;
        struct iovec pieces[] = {{sent + out, split}, {sent + out + split, rest - split}};
        if (rest)
            ck_assert_int_ne(tls_write(client, pieces, split < rest ? 2 : 1, &n), TLS_FAILED);
        out += rest ? n : 0;
        if (turn > 2)
            in += read_some(server, in);
        ck_assert_int_lt(turn, 1000);
    }
    ck_assert_mem_eq(received, sent, in);
}
END_TEST

START_TEST(test_names)
{
    static const struct {
        const char *name, *said; /* "": it is good */
    } cases[] = {
        {"one.example", ""},
        {"10.0.0.1", ""},
        {"x.two.example", ""},
        {"two.example", "not for two.example; give a name"},
        {"10.0.0.2", "not for 10.0.0.2; give a name"},
        {"test", "not for test; give a name"}, /* the common name does not count */
    };
    enum tls_status c, s;
    setup_named(cases[_i].name);
    shake_hands(&c, &s);
    ck_assert_int_eq(c, *cases[_i].said ? TLS_FAILED : TLS_OK);
    ck_assert_msg(strstr(tls_error(client), cases[_i].said), "%s", tls_error(client));
    teardown();
}
END_TEST

START_TEST(test_unknown_authority)
{
    struct tls_options s = server_options(), c = client_options("one.example");
    enum tls_status status, other;
    server_context = context(&s);
    c.ca_file = NULL;
    client_context = context(&c);
    connect_both();
    shake_hands(&status, &other);
    ck_assert_int_eq(status, TLS_FAILED);
    ck_assert_msg(strstr(tls_error(client), "unknown authority (/CN=test)"), "%s",
                  tls_error(client));
    disconnect();

    c.verify = false;
    struct tls_context *unverified = context(&c);
    tls_context_swap(client_context, unverified);
    tls_context_free(unverified);
    connect_both();
    open_both();
    teardown();
}
END_TEST

/* The server's SSL, which is not to be seen from outside, is stood in for by one of OpenSSL's. */
static SSL_CTX *bare_server(void)
{
    SSL_CTX *made = SSL_CTX_new(TLS_server_method());
    ck_assert_int_eq(SSL_CTX_use_certificate_file(made, cert_file, SSL_FILETYPE_PEM), 1);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey_file(made, key_file, SSL_FILETYPE_PEM), 1);
    return made;
}

static SSL *accept_bare(SSL_CTX *made)
{
    SSL *ssl = SSL_new(made);
    enum tls_status status = TLS_WANT_READ;
    pair();
    client = tls_new(client_context, fds[1]);
    SSL_set_fd(ssl, fds[0]);
    for (int i = 0; i < 100 && status != TLS_OK; i++) {
        status = tls_handshake(client);
        (void)SSL_accept(ssl);
    }
    ck_assert_int_eq(status, TLS_OK);
    (void)SSL_accept(ssl);
    return ssl;
}

static void close_bare(SSL *ssl)
{
    SSL_free(ssl);
    disconnect();
}

START_TEST(test_sessions_are_resumed)
{
    struct tls_options c = client_options("one.example");
    client_context = context(&c);
    SSL_CTX *made = bare_server();
    SSL_CTX_set_max_proto_version(made, _i ? TLS1_3_VERSION : TLS1_2_VERSION);
    for (int i = 0; i < 3; i++) {
        SSL *ssl = accept_bare(made);
        ck_assert_int_eq(SSL_session_reused(ssl), i > 0);
        ck_assert_int_eq(SSL_write(ssl, "x", 1), 1); /* the ticket lies before it */
        ck_assert_uint_eq(read_some(client, 0), 1);
        close_bare(ssl);
    }
    struct tls_context *fresh = context(&c);
    tls_context_swap(client_context, fresh);
    SSL *ssl = accept_bare(made);
    ck_assert_int_eq(SSL_session_reused(ssl), 0); /* what was trusted before is looked at again */
    close_bare(ssl);
    tls_context_free(fresh);
    tls_context_free(client_context);
    SSL_CTX_free(made);
}
END_TEST

/* The peer asks for new keys: reading answers that, and both directions go on. */
START_TEST(test_key_update)
{
    struct tls_options c = client_options("one.example");
    size_t n;
    client_context = context(&c);
    SSL_CTX *made = bare_server();
    SSL *ssl = accept_bare(made);
    memset(sent, 'a', sizeof sent);
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        ck_assert_int_eq(SSL_write(ssl, "xy", 2), 2);
        size_t got = read_some(client, 0);
        ck_assert_uint_eq(got ? got : read_some(client, 0), 2);
        ck_assert_int_eq(tls_write(client, &(struct iovec){sent, 1000}, 1, &n), TLS_OK);
        ck_assert_int_eq(SSL_read(ssl, received, sizeof received), 1000);
    }
    close_bare(ssl);
    tls_context_free(client_context);
    SSL_CTX_free(made);
}
END_TEST

START_TEST(test_end)
{
    size_t n;
    open_both();
    ck_assert_int_ne(tls_write(client, &(struct iovec){sent, 5}, 1, &n), TLS_FAILED);
    tls_close(client);
    ck_assert_int_eq(tls_read(server, received, sizeof received, &n), TLS_EOF);
    ck_assert_uint_eq(n, 5); /* and the end behind it */
    ck_assert_int_eq(tls_read(server, received, sizeof received, &n), TLS_EOF);
    /* The other direction is open. */
    ck_assert_int_eq(tls_write(server, &(struct iovec){sent, 7}, 1, &n), TLS_OK);
    ck_assert_uint_eq(read_some(client, 0), 7);
    close(fds[1]);
    fds[1] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(tls_write(server, &(struct iovec){sent, 7}, 1, &n), TLS_FAILED);
    ck_assert_str_ne(tls_error(server), "");
    ck_assert_int_eq(tls_read(server, received, sizeof received, &n), TLS_FAILED);
}
END_TEST

START_TEST(test_plain_text_to_a_server)
{
    char reply[200] = "";
    ck_assert_int_eq(write(fds[1], "PING\r\n", 6), 6);
    ck_assert_int_eq(tls_handshake(server), TLS_FAILED);
    ck_assert_str_eq(tls_error(server), "TLS: the client does not speak TLS");
    ck_assert_int_gt(read(fds[1], reply, sizeof reply - 1), 0);
    ck_assert(strncmp(reply, "-ERR this port speaks TLS", 25) == 0);
}
END_TEST

START_TEST(test_plain_text_to_a_client)
{
    ck_assert_int_eq(tls_handshake(client), TLS_WANT_READ);
    ck_assert_int_eq(write(fds[0], "-ERR unknown command\r\n", 22), 22);
    ck_assert_int_eq(tls_handshake(client), TLS_FAILED);
    ck_assert_msg(strstr(tls_error(client), "the server does not speak TLS at this port"), "%s",
                  tls_error(client));
}
END_TEST

START_TEST(test_gone_during_the_handshake)
{
    ck_assert_int_eq(tls_handshake(client), TLS_WANT_READ);
    shutdown(fds[0], SHUT_WR);
    ck_assert_int_eq(tls_handshake(client), TLS_FAILED);
    ck_assert_str_ne(tls_error(client), "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tls");
    TCase *streams = tcase_create("streams"), *contexts = tcase_create("contexts");
    suite_add_tcase(suite, streams);
    suite_add_tcase(suite, contexts);
    tcase_add_unchecked_fixture(streams, make_files, remove_files);
    tcase_add_unchecked_fixture(contexts, make_files, remove_files);
    tcase_add_checked_fixture(streams, setup, teardown);
    tcase_add_test(streams, test_handshake);
    tcase_add_test(streams, test_pieces);
    tcase_add_loop_test(streams, test_a_record_is_offered_again, 0, 5);
    tcase_add_test(streams, test_end);
    tcase_add_test(streams, test_plain_text_to_a_server);
    tcase_add_test(streams, test_plain_text_to_a_client);
    tcase_add_test(streams, test_gone_during_the_handshake);
    tcase_add_loop_test(contexts, test_names, 0, 6);
    tcase_add_test(contexts, test_unknown_authority);
    tcase_add_loop_test(contexts, test_sessions_are_resumed, 0, 2);
    tcase_add_test(contexts, test_key_update);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
