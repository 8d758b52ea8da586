/* resp_request.c - turns the bytes of a client into argv: RESP arrays and inline commands, taken
 * and refused exactly as Redis 7.0 does. */
#include "resp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ARGS_MIN = 64,    /* slots of the first allocation */
    ARGS_KEEP = 1024, /* a reset gives an array with more slots than this back */
};

static const char OUT_OF_MEMORY[] = "out of memory";

/* --- where arguments go ---------------------------------------------------------------------- */

/* The unescaped arguments of one inline command; `data` never moves, since slices point at it. */
struct resp_text {
    struct resp_text *next;
    char data[];
};

static void free_texts(struct resp_args *args)
{
    while (args->text) {
        struct resp_text *text = args->text;
        args->text = text->next;
        free(text);
    }
}

void resp_args_reset(struct resp_args *args)
{
    free_texts(args);
    args->n = 0;
    if (args->cap > ARGS_KEEP)
        resp_args_free(args);
}

void resp_args_free(struct resp_args *args)
{
    free_texts(args);
    free(args->v);
    *args = (struct resp_args){0};
}

static bool grow(struct resp_args *args)
{
    if (args->cap > SIZE_MAX / 2 / sizeof *args->v)
        return false;
    size_t cap = args->cap ? args->cap * 2 : ARGS_MIN;
    struct resp_slice *v = realloc(args->v, cap * sizeof *v);
    if (!v)
        return false;
    args->v = v;
    args->cap = cap;
    return true;
}

static inline bool append(struct resp_args *args, const char *data, size_t len)
{
    if (args->n == args->cap && !grow(args))
        return false;
    args->v[args->n++] = (struct resp_slice){data, len};
    return true;
}

static char *add_text(struct resp_args *args, size_t size)
{
    struct resp_text *text = malloc(sizeof *text + size);
    if (!text)
        return NULL;
    text->next = args->text;
    args->text = text;
    return text->data;
}

/* --- lines ----------------------------------------------------------------------------------- */

static enum resp_status bad(char *error, const char *text)
{
    snprintf(error, RESP_ERROR_MAX, "%s", text);
    return RESP_BAD;
}

/* Looks for `stop` in line[0..len), going on where the last call gave up; RESP_BAD: the line is too
 * long. Redis looks with strchr(), so a NUL hides whatever follows it: such a line never ends, but
 * does get too long. Redis may take a longer line if its end comes in the same read() as the
 * excess; here the answer must not depend on how the bytes were cut. */
static enum resp_status find_end(struct resp_request *req, const char *line, size_t len, char stop,
                                 size_t *end)
{
    size_t most = len <= RESP_INLINE_MAX ? len : RESP_INLINE_MAX + 1;
    size_t i = req->scanned;
    while (i < most && line[i] != stop && line[i] != '\0')
        i++;
    req->scanned = i;
    *end = i;
    if (i < most && line[i] == stop)
        return RESP_DONE;
    return len > RESP_INLINE_MAX ? RESP_BAD : RESP_MORE;
}

/* As find_end() for the length lines of an array. Redis wants one byte behind the CR, and does not
 * look which. */
static enum resp_status find_cr(struct resp_request *req, const char *line, size_t len, size_t *end)
{
    enum resp_status status = find_end(req, line, len, '\r', end);
    if (status == RESP_DONE && len - *end < 2)
        return RESP_MORE;
    return status;
}

/* --- arrays ---------------------------------------------------------------------------------- */

/* Most lengths have few digits: reads up to three of them at p and returns the CR behind, or NULL.
 */
static inline const char *scan_short(const char *p, const char *end, uint64_t *n)
{
    if (end - p < 5)
        return NULL;
    unsigned a = (unsigned)p[0] - '0', b = (unsigned)p[1] - '0', c = (unsigned)p[2] - '0';
    *n = a;
    if (p[1] == '\r')
        return a <= 9 ? p + 1 : NULL;
    *n = a * 10 + b;
    if (p[2] == '\r')
        return a - 1 <= 8 && b <= 9 ? p + 2 : NULL;
    *n = a * 100 + b * 10 + c;
    return p[3] == '\r' && a - 1 <= 8 && b <= 9 && c <= 9 ? p + 3 : NULL;
}

/* The CR behind the digits at p, or NULL where it takes a closer look. */
static inline const char *scan_length(const char *p, const char *end, uint64_t *n)
{
    const char *cr = scan_short(p, end, n);
    if (cr)
        return cr;
    cr = resp_scan_digits(p, end, n);
    return cr && end - cr >= 2 && *cr == '\r' ? cr : NULL;
}

/* The header line that scan_length() had no answer for: unfinished, negative or wrong. */
static enum resp_status odd_header(struct resp_request *req, const struct resp_limits *limits,
                                   const char *line, size_t len, char *error)
{
    size_t cr;
    enum resp_status status = find_cr(req, line, len, &cr);
    if (status == RESP_BAD)
        return bad(error, "Protocol error: too big mbulk count string");
    if (status == RESP_MORE)
        return RESP_MORE;

    int64_t n;
    if (!resp_parse_int((struct resp_slice){line + 1, cr - 1}, &n) || n > RESP_ARGS_MAX)
        return bad(error, "Protocol error: invalid multibulk length");
    if (n > RESP_UNAUTH_ARGS_MAX && !limits->authenticated)
        return bad(error, "Protocol error: unauthenticated multibulk length");
    req->args_left = n > 0 ? n : 0;
    req->pos = cr + 2;
    req->scanned = 0;
    return RESP_DONE;
}

/* Reads "*<n>\r\n" at buf. */
static inline enum resp_status read_header(struct resp_request *req,
                                           const struct resp_limits *limits, const char *buf,
                                           size_t len, char *error)
{
    int64_t most = limits->authenticated ? RESP_ARGS_MAX : RESP_UNAUTH_ARGS_MAX;
    const char *end = buf + len;
    uint64_t n;
    const char *cr = scan_length(buf + 1, end, &n);
    if (!cr || n > (uint64_t)most)
        return odd_header(req, limits, buf, len, error);
    req->args_left = (int64_t)n;
    req->pos = (size_t)(cr - buf) + 2;
    req->scanned = 0;
    return RESP_DONE;
}

static enum resp_status wrong_type(char *error, char got)
{
    if (got == '\r' || got == '\n')
        got = ' '; /* as Redis does to keep its error on one line */
    snprintf(error, RESP_ERROR_MAX, "Protocol error: expected '$', got '%c'", got);
    return RESP_BAD;
}

/* The length line that scan_length() had no answer for; on RESP_DONE *size is the line's. */
static enum resp_status odd_length(struct resp_request *req, const struct resp_limits *limits,
                                   const char *line, size_t len, uint64_t *n, size_t *size,
                                   char *error)
{
    size_t cr;
    enum resp_status status = find_cr(req, line, len, &cr);
    if (status == RESP_BAD)
        return bad(error, "Protocol error: too big bulk count string");
    if (status == RESP_MORE)
        return RESP_MORE;
    if (line[0] != '$')
        return wrong_type(error, line[0]);

    int64_t value;
    if (!resp_parse_int((struct resp_slice){line + 1, cr - 1}, &value) || value < 0 ||
        value > limits->max_bulk)
        return bad(error, "Protocol error: invalid bulk length");
    if (value > RESP_UNAUTH_BULK_MAX && !limits->authenticated)
        return bad(error, "Protocol error: unauthenticated bulk length");
    *n = (uint64_t)value;
    *size = cr + 2;
    return RESP_DONE;
}

static size_t add_saturating(size_t a, uint64_t b)
{
    return b > SIZE_MAX - a ? SIZE_MAX : a + (size_t)b;
}

/* Remembers that the argument at `pos`, whose length is known, needs `missing` bytes behind `len`;
 * its length line is short and is read again then. */
static enum resp_status await_payload(struct resp_request *req, size_t pos, int64_t left,
                                      size_t len, uint64_t missing)
{
    req->pos = pos;
    req->args_left = left;
    req->scanned = 0;
    req->wanted = add_saturating(len, missing);
    return RESP_MORE;
}

/* Reads the arguments from req->pos on and appends them to `args`, unless that is NULL. */
static inline enum resp_status read_args(struct resp_request *req, const struct resp_limits *limits,
                                         const char *buf, size_t len, struct resp_args *args,
                                         char *error)
{
    int64_t most = limits->max_bulk;
    if (!limits->authenticated && most > RESP_UNAUTH_BULK_MAX)
        most = RESP_UNAUTH_BULK_MAX;
    const char *p = buf + req->pos;
    const char *end = buf + len;

    for (int64_t left = req->args_left; left > 0; left--) {
        uint64_t n = 0;
        const char *line = p;
        const char *cr = p < end && *p == '$' ? scan_length(p + 1, end, &n) : NULL;
        if (cr && n <= (uint64_t)most) {
            p = cr + 2;
        } else {
            size_t size = 0;
            req->pos = (size_t)(line - buf);
            req->args_left = left;
            enum resp_status status =
                odd_length(req, limits, line, (size_t)(end - line), &n, &size, error);
            if (status != RESP_DONE)
                return status;
            p = line + size;
        }
        /* Like Redis, take the two bytes behind an argument for CRLF whatever they are. */
        uint64_t there = (uint64_t)(end - p);
        if (there < n + 2)
            return await_payload(req, (size_t)(line - buf), left, len, n + 2 - there);
        if (args && !append(args, p, (size_t)n))
            return bad(error, OUT_OF_MEMORY);
        req->scanned = 0;
        p += n + 2;
    }
    req->pos = (size_t)(p - buf);
    return RESP_DONE;
}

static inline enum resp_status read_array(struct resp_request *req,
                                          const struct resp_limits *limits, const char *buf,
                                          size_t len, struct resp_args *args, char *error)
{
    if (req->args_left == 0) {
        enum resp_status status = read_header(req, limits, buf, len, error);
        if (status != RESP_DONE)
            return status;
    }
    return read_args(req, limits, buf, len, args, error);
}

enum {
    QUICK_ARGS = RESP_UNAUTH_ARGS_MAX, /* so that there is no limit to look at */
    QUICK_LENGTH = 999,                /* of three digits */
};

/* Most requests are whole, of few arguments with short lengths: those are taken in one go. Returns
 * the request's length; 0: it takes a closer look. */
static inline size_t read_quick(const struct resp_limits *limits, const char *buf, size_t len,
                                struct resp_args *args)
{
    const char *end = buf + len;
    uint64_t argc, n;
    const char *cr = scan_short(buf + 1, end, &argc);
    if (!cr || argc == 0 || argc > QUICK_ARGS || limits->max_bulk < QUICK_LENGTH)
        return 0;
    if (args->cap - args->n < argc && !grow(args))
        return 0;
    struct resp_slice *v = args->v + args->n;
    const char *p = cr + 2;
    for (uint64_t i = 0; i < argc; i++) {
        if (p >= end || *p != '$' || !(cr = scan_short(p + 1, end, &n)) ||
            n + 4 > (uint64_t)(end - cr))
            return 0;
        v[i] = (struct resp_slice){cr + 2, (size_t)n};
        p = cr + 2 + n + 2;
    }
    args->n += argc;
    return (size_t)(p - buf);
}

/* Goes on with a request that was cut. Its arguments could not be kept, as the buffer may have
 * moved; once it is complete, one more pass picks them all up. */
static enum resp_status resume_array(struct resp_request *req, const struct resp_limits *limits,
                                     const char *buf, size_t len, struct resp_args *args,
                                     char *error)
{
    if (len < req->wanted)
        return RESP_MORE;
    enum resp_status status = read_array(req, limits, buf, len, NULL, error);
    if (status != RESP_DONE)
        return status;
    *req = (struct resp_request){0};
    return read_array(req, limits, buf, len, args, error);
}

static inline enum resp_status parse_array(struct resp_request *req,
                                           const struct resp_limits *limits, const char *buf,
                                           size_t len, struct resp_args *args, size_t *used,
                                           char *error)
{
    if (req->args_left == 0 && (*used = read_quick(limits, buf, len, args)) > 0)
        return RESP_DONE;
    enum resp_status status = req->args_left == 0
                                  ? read_array(req, limits, buf, len, args, error)
                                  : resume_array(req, limits, buf, len, args, error);
    if (status == RESP_DONE)
        *used = req->pos;
    return status;
}

/* --- inline commands ------------------------------------------------------------------------- */

/* What C's isspace() knows, and so what Redis skips between words ... */
static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* ... though \v and \f don't end a word. */
static bool ends_word(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && is_blank(*p))
        p++;
    return p;
}

/* The value of a hex digit, or -1. */
static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static char escaped(char c)
{
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'b':
        return '\b';
    case 'a':
        return '\a';
    default:
        return c;
    }
}

/* A word as it is unescaped: `p` runs along the line, `out` behind what was written. */
struct word {
    const char *p, *end;
    char *out;
};

static bool is_hex_escape(const struct word *w)
{
    return w->end - w->p >= 4 && w->p[1] == 'x' && hex_value(w->p[2]) >= 0 &&
           hex_value(w->p[3]) >= 0;
}

/* Takes the escape at w->p, a backslash with at least one byte behind it. */
static void unescape(struct word *w)
{
    if (is_hex_escape(w)) {
        *w->out++ = (char)(hex_value(w->p[2]) * 16 + hex_value(w->p[3]));
        w->p += 4;
    } else {
        *w->out++ = escaped(w->p[1]);
        w->p += 2;
    }
}

/* Takes the quoted text that w->p opens, and its closing quote; false: the quotes are unbalanced.
 */
static bool unquote(struct word *w)
{
    char quote = *w->p++;
    while (w->p < w->end && *w->p != quote) {
        bool escape = *w->p == '\\' && w->end - w->p >= 2;
        if (escape && quote == '"') {
            unescape(w);
        } else if (escape && w->p[1] == '\'') {
            *w->out++ = '\''; /* the only escape between single quotes */
            w->p += 2;
        } else {
            *w->out++ = *w->p++;
        }
    }
    if (w->p == w->end)
        return false;
    w->p++;
    return w->p == w->end || is_blank(*w->p); /* nothing may be glued to a closing quote */
}

/* Takes one word; a quote may open in the midst of it, and ends it. False: unbalanced. */
static bool unescape_word(struct word *w)
{
    while (w->p < w->end && !ends_word(*w->p)) {
        if (*w->p == '"' || *w->p == '\'')
            return unquote(w);
        *w->out++ = *w->p++;
    }
    return true;
}

/* Appends the words of a line that has quotes; returns NULL or an error text. */
static const char *split_quoted(struct resp_args *args, const char *line, size_t len)
{
    char *text = add_text(args, len); /* unescaping never makes anything longer */
    if (!text)
        return OUT_OF_MEMORY;
    struct word w = {.end = line + len, .out = text};
    for (w.p = skip_blanks(line, w.end); w.p < w.end; w.p = skip_blanks(w.p, w.end)) {
        char *first = w.out;
        if (!unescape_word(&w))
            return "Protocol error: unbalanced quotes in request";
        if (!append(args, first, (size_t)(w.out - first)))
            return OUT_OF_MEMORY;
    }
    return NULL;
}

/* Appends the words of a line that has none; returns NULL or an error text. */
static const char *split_plain(struct resp_args *args, const char *line, size_t len)
{
    const char *end = line + len;
    for (const char *p = skip_blanks(line, end); p < end; p = skip_blanks(p, end)) {
        const char *first = p;
        while (p < end && !ends_word(*p))
            p++;
        if (!append(args, first, (size_t)(p - first)))
            return OUT_OF_MEMORY;
    }
    return NULL;
}

static enum resp_status parse_inline(struct resp_request *req, const char *buf, size_t len,
                                     struct resp_args *args, size_t *used, char *error)
{
    size_t lf;
    enum resp_status status = find_end(req, buf, len, '\n', &lf);
    if (status == RESP_BAD)
        return bad(error, "Protocol error: too big inline request");
    if (status == RESP_MORE)
        return RESP_MORE;

    size_t n = lf > 0 && buf[lf - 1] == '\r' ? lf - 1 : lf;
    bool quotes = memchr(buf, '"', n) || memchr(buf, '\'', n);
    const char *text = quotes ? split_quoted(args, buf, n) : split_plain(args, buf, n);
    if (text)
        return bad(error, text);
    *used = lf + 1;
    return RESP_DONE;
}

/* --- both ------------------------------------------------------------------------------------ */

enum resp_status resp_request_parse(struct resp_request *req, const struct resp_limits *limits,
                                    const char *buf, size_t len, struct resp_args *args,
                                    size_t *used, char error[RESP_ERROR_MAX])
{
    *used = 0;
    if (len == 0)
        return RESP_MORE;
    size_t before = args->n;
    enum resp_status status = buf[0] == '*' ? parse_array(req, limits, buf, len, args, used, error)
                                            : parse_inline(req, buf, len, args, used, error);
    if (status == RESP_DONE)
        *req = (struct resp_request){0};
    else
        args->n = before;
    return status;
}

size_t resp_request_wanted(const struct resp_request *req, size_t len)
{
    return req->wanted > len ? req->wanted : add_saturating(len, 1);
}
