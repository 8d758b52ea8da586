/* resp_reply.c - finds where a RESP2 or RESP3 reply ends, however it is cut and nested. */
#include "resp.h"

#include <assert.h>
#include <string.h>

/* A reply is a row of elements; one counter of those still to come says where it ends:
 *
 *     *2\r\n    $3\r\nfoo\r\n    *1\r\n    :7\r\n
 *    1-1+2=2        2-1=1       1-1+1=1     1-1=0: done
 *
 * An attribute ("|1\r\n" key value) comes in front of an element and is none itself. */

enum state {
    AT_TYPE, /* zero: where a reply begins */
    IN_TEXT,
    AFTER_TEXT_CR,
    IN_NUMBER,
    AFTER_NUMBER_CR,
    IN_PAYLOAD, /* `bytes` of it to come, with CRLF */
    AT_BOOLEAN,
    AT_CR,
    AT_LF,
};

enum {
    NUMBER_DIGITS_MAX = 19, /* of an int64_t */
    SHORT_LINE_MAX = 32,
};

static void begin_reply(struct resp_framer *f)
{
    *f = (struct resp_framer){.elements = 1, .busy = true};
}

static void end_element(struct resp_framer *f)
{
    assert(f->elements > 0);
    f->elements--;
    f->state = AT_TYPE;
}

/* --- numbers and what they announce ---------------------------------------------------------- */

/* The aggregate's children take its place; false: more than can be counted. */
static bool begin_aggregate(struct resp_framer *f)
{
    bool pairs = f->kind == '%' || f->kind == '|';
    uint64_t children = pairs ? f->number * 2 : f->number; /* number <= INT64_MAX: no overflow */
    if (f->kind != '|')
        f->elements--;
    if (children > UINT64_MAX - f->elements)
        return false;
    f->elements += children;
    f->state = AT_TYPE;
    return true;
}

static void begin_payload(struct resp_framer *f)
{
    f->bytes = f->number + 2;
    f->state = IN_PAYLOAD;
}

/* "$-1" and "*-1", RESP2's nulls, are the only lengths below zero. */
static bool end_negative_length(struct resp_framer *f)
{
    if (f->number != 1 || (f->kind != '$' && f->kind != '*'))
        return false;
    end_element(f);
    return true;
}

/* Acts on a number line that has been read; false: it makes no sense. */
static bool end_number(struct resp_framer *f)
{
    if (f->number > (uint64_t)INT64_MAX + (f->negative ? 1 : 0))
        return false;
    if (f->kind == ':') {
        end_element(f);
        return true;
    }
    if (f->negative)
        return end_negative_length(f);
    if (f->kind != '$' && f->kind != '!' && f->kind != '=')
        return begin_aggregate(f);
    begin_payload(f);
    return true;
}

/* Takes one byte of the number; the same numbers are good as for resp_parse_int(). */
static bool take_digit(struct resp_framer *f, char c)
{
    if (c == '-' && f->digits == 0 && !f->negative) {
        f->negative = true;
        return true;
    }
    unsigned digit = (unsigned)c - '0';
    bool leading_zero = f->digits == 1 && f->number == 0;
    bool negative_zero = f->digits == 0 && f->negative && digit == 0;
    if (digit > 9 || f->digits == NUMBER_DIGITS_MAX || leading_zero || negative_zero)
        return false;
    f->number = f->number * 10 + digit;
    f->digits++;
    return true;
}

/* --- steps: each takes what it can of p..end and returns where it stopped, or NULL: not RESP ---
 */

static const char *take_number(struct resp_framer *f, const char *p, const char *end)
{
    for (; p < end && *p != '\r'; p++)
        if (!take_digit(f, *p))
            return NULL;
    if (p == end)
        return p;
    if (f->digits == 0)
        return NULL;
    f->state = AFTER_NUMBER_CR;
    return p + 1;
}

static const char *begin_number(struct resp_framer *f, const char *p, const char *end)
{
    f->negative = false;
    const char *cr = resp_scan_digits(p, end, &f->number);
    if (cr && end - cr >= 2 && cr[0] == '\r' && cr[1] == '\n')
        return end_number(f) ? cr + 2 : NULL;
    f->number = 0;
    f->digits = 0;
    f->state = IN_NUMBER;
    return p;
}

static const char *take_text(struct resp_framer *f, const char *p, const char *end)
{
    const char *cr = memchr(p, '\r', (size_t)(end - p));
    if (!cr)
        return end;
    f->state = AFTER_TEXT_CR;
    return cr + 1;
}

/* A CR without LF is part of the text, as for most clients: what to make of it is theirs. */
static const char *take_text_lf(struct resp_framer *f, const char *p)
{
    if (*p == '\n')
        end_element(f);
    else if (*p != '\r')
        f->state = IN_TEXT;
    return p + 1;
}

static const char *take_payload(struct resp_framer *f, const char *p, const char *end)
{
    if (f->bytes > 2) {
        uint64_t there = (uint64_t)(end - p);
        uint64_t skip = there < f->bytes - 2 ? there : f->bytes - 2;
        p += skip;
        f->bytes -= skip;
    }
    for (; p < end && f->bytes > 0 && f->bytes <= 2; f->bytes--)
        if (*p++ != (f->bytes == 2 ? '\r' : '\n'))
            return NULL;
    if (f->bytes == 0)
        end_element(f);
    return p;
}

static const char *take_type(struct resp_framer *f, const char *p, const char *end)
{
    f->kind = *p++;
    /* While an attribute is read, its own elements and the reply's are both to come. */
    if (f->type == '\0' && f->elements == 1 && f->kind != '|')
        f->type = f->kind;
    switch (f->kind) {
    case '$':
    case '*':
    case ':':
    case '%':
    case '~':
    case '>':
    case '|':
    case '=':
    case '!':
        return begin_number(f, p, end);
    case '+':
    case '-':
    case ',': /* what double or big number it is, the client may judge */
    case '(':
        f->state = IN_TEXT;
        return p;
    case '_':
        f->state = AT_CR;
        return p;
    case '#':
        f->state = AT_BOOLEAN;
        return p;
    default:
        return NULL;
    }
}

static const char *expect(struct resp_framer *f, const char *p, bool as_expected, enum state next)
{
    f->state = (uint8_t)next;
    return as_expected ? p + 1 : NULL;
}

static const char *step(struct resp_framer *f, const char *p, const char *end)
{
    switch ((enum state)f->state) {
    case AT_TYPE:
        return take_type(f, p, end);
    case IN_TEXT:
        return take_text(f, p, end);
    case AFTER_TEXT_CR:
        return take_text_lf(f, p);
    case IN_NUMBER:
        return take_number(f, p, end);
    case AFTER_NUMBER_CR:
        return *p == '\n' && end_number(f) ? p + 1 : NULL;
    case IN_PAYLOAD:
        return take_payload(f, p, end);
    case AT_BOOLEAN:
        return expect(f, p, *p == 't' || *p == 'f', AT_CR);
    case AT_CR:
        return expect(f, p, *p == '\r', AT_LF);
    case AT_LF:
        if (*p != '\n')
            return NULL;
        end_element(f);
        return p + 1;
    }
    assert(false); /* a framer is zero-initialised */
    return NULL;
}

/* The length of the line at p, CRLF included, up to a limit; 0: it is longer, or not all there, or
 * holds another CR. */
static inline size_t short_line(const char *p, size_t n)
{
    size_t most = n < SHORT_LINE_MAX ? n : SHORT_LINE_MAX;
    size_t i = 1;
    while (i < most && p[i] != '\r')
        i++;
    return i + 1 < n && p[i] == '\r' && p[i + 1] == '\n' ? i + 2 : 0;
}

/* Most replies are a bulk string or a short status that is there as a whole: the length of such a
 * one at p, 0: it takes a closer look. */
static inline size_t quick_reply(const char *p, size_t n)
{
    uint64_t len;
    if (*p == '+')
        return short_line(p, n);
    if (*p != '$')
        return 0;
    const char *cr = resp_scan_digits(p + 1, p + n, &len), *end = p + n;
    if (!cr || end - cr < 4 || len > (uint64_t)(end - cr) - 4)
        return 0;
    const char *tail = cr + 2 + len;
    if (cr[0] != '\r' || cr[1] != '\n' || tail[0] != '\r' || tail[1] != '\n')
        return 0;
    return (size_t)(tail + 2 - p);
}

enum resp_status resp_frame(struct resp_framer *f, const char *p, size_t n, size_t *used)
{
    *used = 0;
    if (n == 0)
        return RESP_MORE;
    if (!f->busy && (*used = quick_reply(p, n)) > 0) {
        f->type = f->kind = *p;
        return RESP_DONE;
    }
    if (!f->busy)
        begin_reply(f);
    const char *start = p;
    const char *end = p + n;
    while (p < end && f->elements > 0) {
        p = step(f, p, end);
        if (!p)
            return RESP_BAD;
    }
    *used = (size_t)(p - start);
    if (f->elements > 0)
        return RESP_MORE;
    f->busy = false;
    return RESP_DONE;
}

void resp_frame_on(struct resp_framer *f, uint64_t elements)
{
    assert(!f->busy && f->elements == 0 && elements > 0);
    f->busy = true;
    f->elements = elements;
}
