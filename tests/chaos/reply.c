/* reply.c - replies in RESP2 and RESP3. */
#include "reply.h"

#include <string.h>

enum { LINE_MAX_LEN = 64 * 1024 };

/* Digits only, no leading zeros; -1 where a null is allowed. */
static bool parse_count(const char *p, size_t n, int64_t *out)
{
    *out = 0;
    if (n == 2 && p[0] == '-' && p[1] == '1') {
        *out = -1;
        return true;
    }
    if (n == 0 || n > 12 || (n > 1 && p[0] == '0'))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        *out = *out * 10 + (p[i] - '0');
    }
    return true;
}

static bool parse_integer(const char *p, size_t n, int64_t *out)
{
    bool minus = n > 1 && p[0] == '-';
    if (!parse_count(p + minus, n - minus, out) || *out < 0)
        return false;
    *out = minus ? -*out : *out;
    return true;
}

/* The length of the line at p without its end; -1: not here yet; -2: not a line. */
static int64_t line_length(const char *p, size_t n)
{
    const char *lf = memchr(p, '\n', n < LINE_MAX_LEN ? n : LINE_MAX_LEN);
    const char *cr = memchr(p, '\r', lf ? (size_t)(lf - p) : n < LINE_MAX_LEN ? n : LINE_MAX_LEN);
    if (!lf)
        return n >= LINE_MAX_LEN || (cr && cr + 1 < p + n) ? -2 : -1;
    return cr && cr + 1 == lf ? cr - p : -2;
}

/* One element: a line, or a bulk, or the header of an aggregate. */
static enum reply_status frame_element(struct reply_frame *f, const char *p, size_t n)
{
    int64_t len = line_length(p + f->at, n - f->at), count = 0;
    if (len < 0)
        return len == -1 ? REPLY_MORE : REPLY_BAD;
    char type = p[f->at];
    const char *rest = p + f->at + 1;
    size_t next = f->at + (size_t)len + 2, rest_len = len > 0 ? (size_t)len - 1 : 0;
    if (len == 0 || !strchr("+-:$*_%~=>!,#(", type))
        return REPLY_BAD;
    bool counted = strchr("$*%~=>!", type);
    if (counted ? !parse_count(rest, rest_len, &count)
                : type == ':' && !parse_integer(rest, rest_len, &count))
        return REPLY_BAD;
    if (counted && count >= 0 && strchr("$=!", type)) {
        next += (size_t)count + 2;
        if (next > n)
            return REPLY_MORE;
        if (memcmp(p + next - 2, "\r\n", 2) != 0)
            return REPLY_BAD;
    } else if (counted && count > 0) {
        f->owed += (uint64_t)(type == '%' ? 2 * count : count);
    }
    f->at = next;
    f->owed--;
    return REPLY_WHOLE;
}

enum reply_status reply_frame(struct reply_frame *f, const char *p, size_t n, size_t *len)
{
    if (f->owed == 0)
        *f = (struct reply_frame){.owed = 1};
    while (f->owed > 0) {
        if (f->at == n)
            return REPLY_MORE;
        enum reply_status status = frame_element(f, p, n);
        if (status != REPLY_WHOLE)
            return status;
    }
    *len = f->at;
    *f = (struct reply_frame){0};
    return REPLY_WHOLE;
}

/* --- parts --------------------------------------------------------------------------------------
 */

bool reader_text(struct reader *r, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, text, n) != 0)
        return false;
    r->at += n;
    return true;
}

/* A line of that type, without type and end. */
static bool take_line(struct reader *r, char type, struct span *s)
{
    if (r->at >= r->end || *r->at != type)
        return false;
    int64_t len = line_length(r->at, (size_t)(r->end - r->at));
    if (len < 1)
        return false;
    *s = (struct span){r->at + 1, (size_t)len - 1};
    r->at += len + 2;
    return true;
}

static bool take_count(struct reader *r, char type, int64_t *n)
{
    struct reader before = *r;
    struct span line;
    if (take_line(r, type, &line) && parse_count(line.p, line.n, n) && *n >= 0)
        return true;
    *r = before;
    return false;
}

static bool take_bulk(struct reader *r, char type, struct span *s)
{
    struct reader before = *r;
    int64_t n;
    if (!take_count(r, type, &n))
        return false;
    if (r->end - r->at < n + 2 || memcmp(r->at + n, "\r\n", 2) != 0) {
        *r = before;
        return false;
    }
    *s = (struct span){r->at, (size_t)n};
    r->at += n + 2;
    return true;
}

bool reader_bulk(struct reader *r, struct span *s)
{
    return take_bulk(r, '$', s);
}

bool reader_is_bulk(struct reader *r, const char *text)
{
    struct reader before = *r;
    struct span s;
    if (reader_bulk(r, &s) && s.n == strlen(text) && memcmp(s.p, text, s.n) == 0)
        return true;
    *r = before;
    return false;
}

bool reader_integer(struct reader *r, int64_t *n)
{
    struct reader before = *r;
    struct span line;
    if (take_line(r, ':', &line) && parse_integer(line.p, line.n, n))
        return true;
    *r = before;
    return false;
}

bool reader_array(struct reader *r, int64_t *n)
{
    return take_count(r, '*', n);
}

bool reader_map(struct reader *r, int64_t *pairs)
{
    struct reader before = *r;
    if (r->resp == 3)
        return take_count(r, '%', pairs);
    if (take_count(r, '*', pairs) && *pairs % 2 == 0) {
        *pairs /= 2;
        return true;
    }
    *r = before;
    return false;
}

bool reader_null(struct reader *r)
{
    return reader_text(r, r->resp == 3 ? "_\r\n" : "$-1\r\n");
}

bool reader_null_array(struct reader *r)
{
    return reader_text(r, r->resp == 3 ? "_\r\n" : "*-1\r\n");
}

bool reader_verbatim(struct reader *r, struct span *s)
{
    if (!take_bulk(r, r->resp == 3 ? '=' : '$', s))
        return false;
    if (r->resp != 3)
        return true;
    bool named = s->n >= 4 && memcmp(s->p, "txt:", 4) == 0;
    s->p += named ? 4 : 0;
    s->n -= named ? 4 : 0;
    return named;
}

bool reader_skip(struct reader *r)
{
    struct reply_frame frame = {0};
    size_t len;
    if (reply_frame(&frame, r->at, (size_t)(r->end - r->at), &len) != REPLY_WHOLE)
        return false;
    r->at += len;
    return true;
}

bool reader_error(struct reader *r, struct span *s)
{
    return take_line(r, '-', s);
}
