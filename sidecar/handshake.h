/* handshake.h - what is said on a new connection to the upstream before it is ready.
 *
 *     HELLO <resp> [AUTH <user> <password>] SETNAME <name>     all in one, allowed while it is BUSY
 *     [SELECT <db>]
 *
 * A server that knows no HELLO, or whose ACL forbids it, gets AUTH, CLIENT SETNAME and SELECT
 * instead, if RESP2 will do. Bytes only: no sockets, no clock.
 */
#ifndef NEARCACHE_HANDSHAKE_H
#define NEARCACHE_HANDSHAKE_H

#include "chain.h"

enum { HANDSHAKE_LINE_MAX = 256 };

/* Strings are borrowed. */
struct handshake_terms {
    const char *user, *password; /* NULL: none */
    const char *client_name;
    uint32_t db;
    unsigned resp;
};

enum handshake_status { HANDSHAKE_MORE, HANDSHAKE_READY, HANDSHAKE_REFUSED };

/* The fields behind `line` are for the owner to read. */
struct handshake {
    uint8_t steps[4]; /* replies awaited, in order */
    uint8_t step, n_steps;
    uint16_t line_len;
    char line[HANDSHAKE_LINE_MAX];    /* start of the reply at hand */
    uint64_t id;                      /* CLIENT ID; 0: the server did not tell */
    bool no_such_db;                  /* REFUSED by SELECT alone */
    bool wrong_password;              /* REFUSED for who we are */
    char refusal[HANDSHAKE_LINE_MAX]; /* the server's words, one line without CRLF */
};

void handshake_begin(struct handshake *h, const struct handshake_terms *terms, struct chain *out);
/* Bytes of the reply at hand. */
void handshake_bytes(struct handshake *h, const char *p, size_t n);
/* Its end; `type` is its first byte. */
enum handshake_status handshake_reply(struct handshake *h, const struct handshake_terms *terms,
                                      char type, struct chain *out);
/* Nothing has been answered yet. */
bool handshake_is_mute(const struct handshake *h);

#endif
