/* resp.h - the contract of the RESP codec: slices, limits, request parsing, reply framing,
 * reply rewriting and encoding.
 *
 * libc only: no sockets, no clock, no allocation beyond what a `struct resp_args` or a rewriter
 * owns. Everything here is fed bytes from the network and is fuzzed (tests/fuzz).
 *
 * Wire format: https://redis.io/docs/latest/develop/reference/protocol-spec/ ; limits and error
 * texts are those of Redis 7.0's networking.c, because clients parse them.
 */
#ifndef NEARCACHE_RESP_H
#define NEARCACHE_RESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESP_WARN_UNUSED __attribute__((warn_unused_result))

/* Bytes that somebody else owns. Not NUL-terminated; may hold any byte. */
struct resp_slice {
    const char *data;
    size_t len;
};

enum resp_status {
    RESP_MORE, /* everything given was looked at; the rest has not arrived yet */
    RESP_DONE, /* one request or reply is complete */
    RESP_BAD,  /* not RESP; the connection can't be used any further */
};

/* --- requests: bytes -> argv ----------------------------------------------------------------- */

/* Redis' PROTO_INLINE_MAX_SIZE: the longest inline command, and the longest length line. */
#define RESP_INLINE_MAX ((size_t)64 * 1024)
/* Redis reads a multibulk length up to INT_MAX. */
#define RESP_ARGS_MAX 2147483647LL
/* Redis' limits for a connection that has yet to authenticate. */
#define RESP_UNAUTH_ARGS_MAX 10LL
#define RESP_UNAUTH_BULK_MAX 16384LL

struct resp_limits {
    int64_t max_bulk;   /* bytes of one argument; Redis' proto-max-bulk-len, 512 MiB by default */
    bool authenticated; /* false: the RESP_UNAUTH_ limits hold as well */
};

/* Where parsed arguments are appended. One may serve many requests in a row (a read batch); the
 * slices stay valid until the parsed buffer moves or resp_args_reset() is called. Zero-initialise;
 * resp_args_free() gives everything back. */
struct resp_text;
struct resp_args {
    struct resp_slice *v;
    size_t n, cap;
    struct resp_text *text; /* unescaped inline arguments; owned */
};
/* Forgets all arguments and frees the inline texts; keeps the array unless it is large. */
void resp_args_reset(struct resp_args *args);
void resp_args_free(struct resp_args *args);

/* How far the request at the front of a buffer has been looked at; O(1) memory, and a request of a
 * million arguments that arrives byte by byte costs linear time. Zero-initialise; the fields are
 * resp_request.c's own. */
struct resp_request {
    size_t pos;     /* where what is being awaited begins: a line, or an argument's length line */
    size_t scanned; /* bytes of that line searched for its end in vain */
    size_t wanted;  /* bytes the buffer must hold before the awaited argument can be complete */
    int64_t args_left; /* arguments from `pos` on; 0: the header line has not been read */
};

/* Parses the request at the start of buf[0..len). The first byte is always the request's first
 * byte: on RESP_MORE call again with the same bytes and more behind them (they may have moved).
 *   RESP_DONE  *used is its length; its arguments were appended to `args` (none were appended for
 *              an empty line, `*0` or `*-1`, which Redis ignores); `req` is ready for the next one.
 *   RESP_MORE  nothing was appended; *used is 0. resp_request_wanted() says how much is missing.
 *   RESP_BAD   `error` holds Redis' text without the leading "-ERR ", NUL-terminated.
 * Out of memory is RESP_BAD with the text "out of memory". */
#define RESP_ERROR_MAX 128
RESP_WARN_UNUSED enum resp_status
resp_request_parse(struct resp_request *req, const struct resp_limits *limits, const char *buf,
                   size_t len, struct resp_args *args, size_t *used, char error[RESP_ERROR_MAX]);

/* After RESP_MORE: at least how many bytes the buffer must hold in all before it is worth calling
 * again (a hint to size a buffer for a large argument). */
size_t resp_request_wanted(const struct resp_request *req, size_t len);

/* --- replies: where does it end, what is it --------------------------------------------------- */

/* Frames one RESP2 or RESP3 reply at a time, in pieces of any size, without building a tree.
 * Zero-initialise before the first reply; after RESP_DONE it is ready for the next one. */
struct resp_framer {
    uint64_t elements; /* still to come, in all nested aggregates together */
    uint64_t bytes;    /* of a bulk payload (with its CRLF) still to come */
    uint64_t number;   /* length line read so far */
    uint8_t state;
    uint8_t digits;
    bool negative;
    bool busy; /* a reply has begun and not ended */
    char kind; /* type byte of the element at hand */
    char type; /* type byte of the reply: '+' '-' ':' '$' '*' '_' '#' ',' '(' '!' '=' '%' '~' '>' ;
                  a leading attribute ('|') belongs to the reply and is not its type */
};

/* Takes bytes up to the end of the current reply. RESP_DONE: the reply ended after *used bytes;
 * RESP_MORE: all n were taken (*used == n); RESP_BAD: not a reply. */
RESP_WARN_UNUSED enum resp_status resp_frame(struct resp_framer *f, const char *p, size_t n,
                                             size_t *used);

/* The reply that was done goes on after all, with so many elements (at least 1) more: messages that
 * a server put between them were counted in their place. */
void resp_frame_on(struct resp_framer *f, uint64_t elements);

/* --- replies that carry keys ------------------------------------------------------------------ */

/* Which bulk strings of a reply are key names (the "reply rewrite" column of commands.def). */
enum resp_keys {
    RESP_KEYS_NONE,
    RESP_KEYS_ALL,     /* every element of the top array: KEYS, COMMAND GETKEYS; or a lone bulk:
                          RANDOMKEY */
    RESP_KEYS_FIRST,   /* element 0 of the top array: LMPOP, ZMPOP, BLPOP, BZPOPMIN ... */
    RESP_KEYS_SCAN,    /* all elements of element 1 of the top array: SCAN */
    RESP_KEYS_STREAMS, /* RESP2: element 0 of each element; RESP3: the map's keys: XREAD */
    RESP_KEYS_ERROR,   /* none, but an error reply quotes the key: -NOGROUP No such key 'k' ... */
    RESP_KEYS_NAMED,   /* bulk strings at any depth that are one of the names given: scripts */
    RESP_KEYS_GETKEYSANDFLAGS, /* element 0 of each element: COMMAND GETKEYSANDFLAGS */
};

/* Receives rewritten bytes; p is only valid during the call. */
typedef void resp_sink(void *ctx, const char *p, size_t n);

/* Strips `prefix` from the key names of one reply as it streams by; holds at most one length line
 * and prefix_len bytes. A name that does not start with the prefix passes unchanged. For every kind
 * but NONE an error reply has  'prefix  (a quote, then the prefix) shortened to the quote; only of
 * type '-', as Redis sends no other. */
struct resp_rewriter;
/* `prefix` is copied. NULL: out of memory. */
struct resp_rewriter *resp_rewriter_new(enum resp_keys kind, struct resp_slice prefix);
/* RESP_KEYS_NAMED: strips only what is the prefix and one of these names, and nothing more; holds
 * as many bytes as the longest of them. The names are copied. NULL: out of memory. */
struct resp_rewriter *resp_rewriter_new_named(struct resp_slice prefix,
                                              const struct resp_slice *names, size_t n);
void resp_rewriter_free(struct resp_rewriter *rw);
/* Same results as resp_frame; what it takes comes out of `sink`, rewritten; at RESP_DONE all of it
 * has. */
RESP_WARN_UNUSED enum resp_status resp_rewrite(struct resp_rewriter *rw, const char *p, size_t n,
                                               size_t *used, resp_sink *sink, void *ctx);

/* --- encoding -------------------------------------------------------------------------------- */

/* Bytes that a header ("$123\r\n", "*3\r\n", ":-5\r\n") needs at most. */
#define RESP_HEADER_MAX 32
/* Each writes at dst and returns the end of what it wrote; the caller has reserved the room. */
char *resp_put_header(char *dst, char type, uint64_t n); /* "<type><n>\r\n" */
char *resp_put_integer(char *dst, int64_t n);            /* ":<n>\r\n" */
char *resp_put_bulk(char *dst, struct resp_slice s);     /* needs RESP_HEADER_MAX + len + 2 */
/* Bytes of "$<len>\r\n<data>\r\n". */
size_t resp_bulk_size(size_t len);

/* --- numbers --------------------------------------------------------------------------------- */

/* Redis' string2ll: the whole slice is one canonical signed 64-bit decimal (no '+', no spaces, no
 * leading zeros, no "-0"). What this refuses, Redis refuses too. */
RESP_WARN_UNUSED bool resp_parse_int(struct resp_slice s, int64_t *out);
/* Reads the run of digits at p, which ends before `end`. Returns what is behind it and the value in
 * *n, or NULL unless it is 1 to 10 digits without a leading zero: those are for resp_parse_int(),
 * which tells good from bad. Inline because every length line goes through it. */
static inline const char *resp_scan_digits(const char *p, const char *end, uint64_t *n)
{
    const char *first = p;
    const char *stop = end - p < 10 ? end : p + 10;
    uint64_t value = 0;
    for (unsigned digit; p < stop && (digit = (unsigned)*p - '0') <= 9; p++)
        value = value * 10 + digit;
    if (p == first || (*first == '0' && p - first > 1))
        return NULL;
    *n = value;
    return p;
}
/* ASCII case-insensitive equality with a lower-case literal. */
bool resp_slice_is(struct resp_slice s, const char *lower);

/* The same for an option word as the server's strcasecmp sees it: what follows a NUL does not
 * count, "MATCH\0x" is MATCH. For options that decide what may be reached. */
bool resp_word_is(struct resp_slice s, const char *lower);

#endif
