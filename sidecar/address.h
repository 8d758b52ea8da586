/* address.h - addresses as people write them: where to listen, where the shared Redis is. */
#ifndef NEARCACHE_ADDRESS_H
#define NEARCACHE_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

/* Where the shared Redis is. Strings are owned. */
struct upstream_address {
    bool tls;
    char *host; /* NULL for a unix socket; an IPv6 literal has no brackets */
    uint16_t port;
    char *path; /* of the unix socket, or NULL */
    uint32_t db;
    char *user;     /* NULL: the default user */
    char *password; /* NULL: no AUTH */
    char *label;    /* "127.0.0.1:6379" or "unix:/path": how errors and logs call it */
};

/* One listening address. Strings are owned. */
struct listen_address {
    bool tls;
    char *host;    /* NULL for a unix socket; "0.0.0.0" where none was written (":6380") */
    uint16_t port; /* 0: any free one */
    char *path;
    char *label;
};

/* These two return NULL, or what is wrong in words that may follow a colon; then *out is empty. */

/* redis://[user[:password]@]host[:port][/db], rediss:// for TLS, or unix:/path[?db=n] and what else
 * goes by as such: valkey://, valkeys://, redis+unix://, unix://user:password@/path; user, password
 * and path may be percent-encoded. */
__attribute__((warn_unused_result)) const char *
upstream_address_parse(const char *url, struct upstream_address *out);
/* host:port, [ipv6]:port, :port, *:port, tls: before any of these, unix:/path or unix:///path. */
__attribute__((warn_unused_result)) const char *listen_address_parse(const char *text,
                                                                     struct listen_address *out);

/* Whether only this machine can reach it: a unix socket or a loopback address. Names are not
 * resolved; of those only localhost counts. */
bool listen_address_is_local(const struct listen_address *address);

/* The same place: host, port or path, whoever we are there and whichever database. */
bool upstream_address_same_place(const struct upstream_address *a,
                                 const struct upstream_address *b);

void upstream_address_free(struct upstream_address *address);
void listen_address_free(struct listen_address *address);

/* The URL with *** for its password, if it has one. Owned by the caller; NULL: out of memory. */
char *upstream_url_redacted(const char *url);

#endif
