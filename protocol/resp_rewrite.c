/* resp_rewrite.c - takes the namespace's prefix off the key names in a reply while it streams by.
 */
#include "resp.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Two passes go over each piece of a reply. The first, resp_frame() with `whole`, judges it and
 * finds its end. The second may thus take for granted what is well-formed; it walks as deep as keys
 * are, and jumps over each element that can't hold any with a second framer:
 *
 *     SCAN:   *2  $1 0                  depth 1, element 0: jump
 *                 *2  $9 svc:user:1     depth 1, element 1: go in; depth 2: a key
 *                     $9 svc:user:2                                         a key
 *
 * What passes unchanged is handed on in runs as long as possible. */

enum {
    DEPTH_MAX = 3, /* two aggregates, and an attribute in front of an element of the inner one */
};

/* An aggregate, or an attribute, that the walk is inside of. */
struct level {
    uint64_t index, count; /* of its elements; each pair of a map is two */
    char type;
};

enum state {
    AT_ELEMENT,
    IN_HEADER,     /* of an aggregate to go into */
    IN_KEY_HEADER, /* held back, for the length may change */
    IN_KEY_PREFIX, /* as far as it matches; `left` bytes of payload from its start */
    IN_KEY_REST,   /* `left` bytes and CRLF */
    IN_NAME,       /* held back as a whole; `left` bytes still to come */
    IN_OTHER,      /* an element that the framer `other` jumps over */
    IN_ERROR,
};

struct resp_rewriter {
    enum resp_keys kind;
    enum state state;
    struct resp_framer whole, other;
    struct level levels[DEPTH_MAX];
    size_t depth;
    char line[RESP_HEADER_MAX]; /* the header at hand */
    size_t line_len;
    uint64_t left;
    size_t matched; /* bytes of the prefix, or of the pattern, seen and held back */
    bool in_errors; /* the pattern can be in an error's text */
    bool inside;    /* past the first type byte of the reply itself, attributes before it aside */
    struct names *names; /* RESP_KEYS_NAMED */
    size_t prefix_len;
    const char *prefix; /* pattern + 1 */
    char pattern[];     /* a quote and the prefix, as errors have it */
};

/* What a script's reply may name: all of it in one piece of memory. */
struct names {
    size_t n, longest;
    char *held; /* of the bulk string at hand; as long as prefix and longest name */
    size_t held_len;
    struct resp_slice v[];
};

struct resp_rewriter *resp_rewriter_new(enum resp_keys kind, struct resp_slice prefix)
{
    struct resp_rewriter *rw = malloc(sizeof *rw + 1 + prefix.len);
    if (!rw)
        return NULL;
    *rw = (struct resp_rewriter){.kind = kind, .prefix_len = prefix.len, .prefix = rw->pattern + 1};
    rw->pattern[0] = '\'';
    if (prefix.len > 0)
        memcpy(rw->pattern + 1, prefix.data, prefix.len);
    /* Redis writes blanks for CR and LF in an error. Without this, the CR of such a prefix could
     * match the one that ends the line. */
    rw->in_errors =
        !memchr(rw->pattern, '\r', 1 + prefix.len) && !memchr(rw->pattern, '\n', 1 + prefix.len);
    return rw;
}

static struct names *copy_names(size_t prefix_len, const struct resp_slice *v, size_t n)
{
    size_t bytes = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += v[i].len;
        longest = v[i].len > longest ? v[i].len : longest;
    }
    struct names *names = malloc(sizeof *names + n * sizeof *v + bytes + prefix_len + longest);
    if (!names)
        return NULL;
    *names = (struct names){.n = n, .longest = longest};
    char *at = (char *)(names->v + n);
    for (size_t i = 0; i < n; i++) {
        names->v[i] = (struct resp_slice){at, v[i].len};
        if (v[i].len > 0)
            memcpy(at, v[i].data, v[i].len);
        at += v[i].len;
    }
    names->held = at;
    return names;
}

struct resp_rewriter *resp_rewriter_new_named(struct resp_slice prefix,
                                              const struct resp_slice *names, size_t n)
{
    struct resp_rewriter *rw = resp_rewriter_new(RESP_KEYS_NAMED, prefix);
    if (rw && !(rw->names = copy_names(prefix.len, names, n))) {
        free(rw);
        return NULL;
    }
    return rw;
}

void resp_rewriter_free(struct resp_rewriter *rw)
{
    if (!rw)
        return;
    free(rw->names);
    free(rw);
}

/* --- output ---------------------------------------------------------------------------------- */

/* The second pass over one piece: run..p is to go out as it is, p..end is to be looked at. */
struct walk {
    struct resp_rewriter *rw;
    const char *run, *p, *end;
    resp_sink *sink;
    void *ctx;
};

static void put(const struct walk *w, const char *p, size_t n)
{
    if (n > 0)
        w->sink(w->ctx, p, n);
}

static void flush(struct walk *w)
{
    put(w, w->run, (size_t)(w->p - w->run));
    w->run = w->p;
}

/* Takes n bytes that don't go out, or not yet. */
static void hold(struct walk *w, size_t n)
{
    assert(w->run == w->p);
    w->p += n;
    w->run = w->p;
}

static size_t at_hand(const struct walk *w)
{
    return (size_t)(w->end - w->p);
}

/* --- where are we? --------------------------------------------------------------------------- */

/* What an element is wanted for; several may be or'ed. */
enum {
    NOTHING = 0,
    A_KEY = 1,    /* if it is a bulk string */
    CHILDREN = 2, /* if it is an aggregate */
};

static unsigned wanted_in_top(enum resp_keys kind, const struct level *top)
{
    switch (kind) {
    case RESP_KEYS_ALL:
        return A_KEY;
    case RESP_KEYS_FIRST:
        return top->index == 0 ? A_KEY : NOTHING;
    case RESP_KEYS_SCAN:
        return top->index == 1 ? CHILDREN : NOTHING;
    case RESP_KEYS_STREAMS:
        if (top->type == '%')
            return top->index % 2 == 0 ? A_KEY : NOTHING;
        return CHILDREN;
    case RESP_KEYS_GETKEYSANDFLAGS:
        return CHILDREN;
    case RESP_KEYS_NONE:
    case RESP_KEYS_NAMED:
    case RESP_KEYS_ERROR:
        break;
    }
    return NOTHING;
}

/* What an element at this place is good for, whatever it turns out to be. */
static unsigned wanted_here(const struct resp_rewriter *rw)
{
    if (rw->kind == RESP_KEYS_NAMED)
        return A_KEY | CHILDREN;
    if (rw->depth > 0 && rw->levels[rw->depth - 1].type == '|')
        return NOTHING;
    switch (rw->depth) {
    case 0:
        if (rw->kind == RESP_KEYS_ERROR)
            return NOTHING;
        return rw->kind == RESP_KEYS_ALL ? A_KEY | CHILDREN : CHILDREN;
    case 1:
        return wanted_in_top(rw->kind, &rw->levels[0]);
    default:
        return rw->kind == RESP_KEYS_SCAN || rw->levels[1].index == 0 ? A_KEY : NOTHING;
    }
}

static bool is_aggregate(char type)
{
    return type == '*' || type == '%' || type == '~' || type == '>';
}

static enum state state_for(const struct resp_rewriter *rw, char type)
{
    unsigned wanted = wanted_here(rw);
    if (type == '-' && !rw->inside && rw->depth == 0 && rw->in_errors)
        return IN_ERROR;
    if (type == '|' && (wanted != NOTHING || rw->depth == 0))
        return IN_HEADER;
    if (type == '$' && (wanted & A_KEY))
        return IN_KEY_HEADER;
    if (is_aggregate(type) && (wanted & CHILDREN))
        return IN_HEADER;
    return IN_OTHER;
}

/* Goes on to the element behind the one that just ended. */
static void end_element(struct resp_rewriter *rw)
{
    rw->state = AT_ELEMENT;
    while (rw->depth > 0) {
        struct level *level = &rw->levels[rw->depth - 1];
        if (++level->index < level->count)
            return;
        rw->depth--;
        if (level->type == '|') /* its element is still to come */
            return;
    }
}

/* --- headers --------------------------------------------------------------------------------- */

/* Copies the header line up to its end or the end of the piece; true: all of it is there. */
static bool read_line(struct resp_rewriter *rw, const char *p, size_t n, size_t *taken)
{
    const char *lf = memchr(p, '\n', n);
    *taken = lf ? (size_t)(lf - p) + 1 : n;
    assert(rw->line_len + *taken <= sizeof rw->line);
    memcpy(rw->line + rw->line_len, p, *taken);
    rw->line_len += *taken;
    return lf;
}

/* The number in the header line; makes room for the next one. */
static int64_t end_line(struct resp_rewriter *rw)
{
    int64_t n = 0;
    bool ok = resp_parse_int((struct resp_slice){rw->line + 1, rw->line_len - 3}, &n);
    assert(ok); /* resp_frame() has seen it */
    (void)ok;
    rw->line_len = 0;
    return n;
}

static void begin_level(struct resp_rewriter *rw, char type, int64_t n)
{
    bool pairs = type == '%' || type == '|';
    if (rw->kind == RESP_KEYS_NAMED) { /* as deep as it goes: no place counts, only names */
        rw->state = AT_ELEMENT;
    } else if (n > 0) {
        assert(rw->depth < DEPTH_MAX);
        uint64_t count = pairs ? (uint64_t)n * 2 : (uint64_t)n;
        rw->levels[rw->depth++] = (struct level){.count = count, .type = type};
        rw->state = AT_ELEMENT;
    } else if (type == '|') {
        rw->state = AT_ELEMENT;
    } else {
        end_element(rw);
    }
}

static void take_header(struct walk *w)
{
    size_t taken;
    bool complete = read_line(w->rw, w->p, at_hand(w), &taken);
    w->p += taken;
    if (complete)
        begin_level(w->rw, w->rw->line[0], end_line(w->rw));
}

/* --- keys ------------------------------------------------------------------------------------ */

static bool may_be_name(const struct resp_rewriter *rw, int64_t n)
{
    for (size_t i = 0; n > 0 && i < rw->names->n; i++)
        if ((uint64_t)n == rw->prefix_len + rw->names->v[i].len)
            return true;
    return false;
}

/* The held bytes are one of the names with its prefix. */
static bool is_name(const struct resp_rewriter *rw)
{
    const struct names *names = rw->names;
    struct resp_slice rest = {names->held + rw->prefix_len, names->held_len - rw->prefix_len};
    if (memcmp(names->held, rw->prefix, rw->prefix_len) != 0)
        return false;
    for (size_t i = 0; i < names->n; i++)
        if (names->v[i].len == rest.len && memcmp(names->v[i].data, rest.data, rest.len) == 0)
            return true;
    return false;
}

static void take_name(struct walk *w)
{
    struct resp_rewriter *rw = w->rw;
    struct names *names = rw->names;
    size_t taken = at_hand(w) < rw->left ? at_hand(w) : (size_t)rw->left;
    memcpy(names->held + names->held_len, w->p, taken);
    names->held_len += taken;
    rw->left -= taken;
    hold(w, taken);
    if (rw->left > 0)
        return;
    size_t skipped = is_name(rw) ? rw->prefix_len : 0;
    char header[RESP_HEADER_MAX];
    put(w, header, (size_t)(resp_put_header(header, '$', names->held_len - skipped) - header));
    put(w, names->held + skipped, names->held_len - skipped);
    rw->left = 2;
    rw->state = IN_KEY_REST;
}

static void take_key_header(struct walk *w)
{
    struct resp_rewriter *rw = w->rw;
    size_t taken;
    flush(w);
    bool complete = read_line(rw, w->p, at_hand(w), &taken);
    hold(w, taken);
    if (!complete)
        return;

    size_t line_len = rw->line_len;
    int64_t n = end_line(rw);
    if (rw->names && may_be_name(rw, n)) {
        rw->left = (uint64_t)n;
        rw->names->held_len = 0;
        rw->state = IN_NAME;
        return;
    }
    if (!rw->names && n >= 0 && (uint64_t)n >= rw->prefix_len) {
        rw->left = (uint64_t)n;
        rw->matched = 0;
        rw->state = IN_KEY_PREFIX;
        return;
    }
    put(w, rw->line, line_len);
    if (n < 0) {
        end_element(rw);
        return;
    }
    rw->left = (uint64_t)n + 2;
    rw->state = IN_KEY_REST;
}

/* Emits a key's header and those bytes of the prefix that are not to be dropped after all. */
static void end_prefix(struct walk *w)
{
    struct resp_rewriter *rw = w->rw;
    bool match = rw->matched == rw->prefix_len;
    char header[RESP_HEADER_MAX];
    uint64_t len = match ? rw->left - rw->prefix_len : rw->left;
    put(w, header, (size_t)(resp_put_header(header, '$', len) - header));
    if (!match)
        put(w, rw->prefix, rw->matched);
    rw->left = rw->left - rw->matched + 2;
    rw->state = IN_KEY_REST;
}

static void take_key_prefix(struct walk *w)
{
    struct resp_rewriter *rw = w->rw;
    size_t most = rw->prefix_len - rw->matched;
    if (most > at_hand(w))
        most = at_hand(w);
    size_t same = 0;
    while (same < most && w->p[same] == rw->prefix[rw->matched + same])
        same++;
    rw->matched += same;
    hold(w, same);
    if (same < most || rw->matched == rw->prefix_len)
        end_prefix(w);
}

static void take_key_rest(struct walk *w)
{
    struct resp_rewriter *rw = w->rw;
    uint64_t taken = at_hand(w) < rw->left ? at_hand(w) : rw->left;
    w->p += taken;
    rw->left -= taken;
    if (rw->left == 0)
        end_element(rw);
}

/* --- everything else ------------------------------------------------------------------------- */

static void take_other(struct walk *w)
{
    size_t taken;
    enum resp_status status = resp_frame(&w->rw->other, w->p, at_hand(w), &taken);
    assert(status != RESP_BAD); /* it is part of what was framed before */
    w->p += taken;
    if (status == RESP_DONE)
        end_element(w->rw);
}

/* Of the first `matched` bytes of the pattern, how many at their end could begin another match. */
static size_t restart(const struct resp_rewriter *rw)
{
    size_t n = rw->matched - 1;
    while (memcmp(rw->pattern, rw->pattern + rw->matched - n, n) != 0)
        n--;
    return n;
}

/* The line's end needs no search: resp_frame() has found it, and it is the end of the reply. */
static void take_error(struct walk *w)
{
    struct resp_rewriter *rw = w->rw;
    if (rw->matched == 0) {
        const char *quote = memchr(w->p, '\'', at_hand(w));
        w->p = quote ? quote : w->end;
        flush(w);
        if (!quote)
            return;
    }
    if (*w->p == rw->pattern[rw->matched]) {
        hold(w, 1);
        if (++rw->matched == 1 + rw->prefix_len) {
            put(w, rw->pattern, 1);
            rw->matched = 0;
        }
    } else {
        size_t kept = restart(rw);
        put(w, rw->pattern, rw->matched - kept);
        rw->matched = kept;
    }
}

/* Nothing is held back by now, since the pattern has neither CR nor LF. */
static void end_error(struct resp_rewriter *rw)
{
    assert(rw->matched == 0);
    rw->state = AT_ELEMENT;
}

static void take(struct walk *w)
{
    switch (w->rw->state) {
    case AT_ELEMENT:
        w->rw->state = state_for(w->rw, *w->p);
        w->rw->inside |= (*w->p != '|' && w->rw->depth == 0) || w->rw->kind == RESP_KEYS_NAMED;
        return;
    case IN_HEADER:
        take_header(w);
        return;
    case IN_KEY_HEADER:
        take_key_header(w);
        return;
    case IN_KEY_PREFIX:
        take_key_prefix(w);
        return;
    case IN_KEY_REST:
        take_key_rest(w);
        return;
    case IN_NAME:
        take_name(w);
        return;
    case IN_OTHER:
        take_other(w);
        return;
    case IN_ERROR:
        take_error(w);
        return;
    }
}

enum resp_status resp_rewrite(struct resp_rewriter *rw, const char *p, size_t n, size_t *used,
                              resp_sink *sink, void *ctx)
{
    enum resp_status status = resp_frame(&rw->whole, p, n, used);
    if (status == RESP_BAD || *used == 0)
        return status;
    struct walk w = {.rw = rw, .run = p, .p = p, .end = p + *used, .sink = sink, .ctx = ctx};
    if (rw->kind == RESP_KEYS_NONE || rw->prefix_len == 0)
        w.p = w.end;
    while (w.p < w.end)
        take(&w);
    flush(&w);
    if (status == RESP_DONE)
        rw->inside = false;
    if (status == RESP_DONE && rw->state == IN_ERROR)
        end_error(rw);
    assert(status != RESP_DONE || (rw->state == AT_ELEMENT && rw->depth == 0));
    return status;
}
