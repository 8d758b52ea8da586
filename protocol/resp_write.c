/* resp_write.c - encoders for headers, integers and bulk strings; numbers and words in slices. */
#include "resp.h"

#include <string.h>

enum {
    DIGITS_MAX = 20, /* of a uint64_t */
};

static char *put_digits(char *dst, uint64_t n)
{
    char digits[DIGITS_MAX];
    size_t at = DIGITS_MAX;
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    memcpy(dst, digits + at, DIGITS_MAX - at);
    return dst + (DIGITS_MAX - at);
}

static char *put_crlf(char *dst)
{
    *dst++ = '\r';
    *dst++ = '\n';
    return dst;
}

char *resp_put_header(char *dst, char type, uint64_t n)
{
    *dst++ = type;
    return put_crlf(put_digits(dst, n));
}

char *resp_put_integer(char *dst, int64_t n)
{
    *dst++ = ':';
    uint64_t magnitude = (uint64_t)n;
    if (n < 0) {
        *dst++ = '-';
        magnitude = 0 - magnitude; /* also right for INT64_MIN, which has no positive twin */
    }
    return put_crlf(put_digits(dst, magnitude));
}

char *resp_put_bulk(char *dst, struct resp_slice s)
{
    dst = resp_put_header(dst, '$', s.len);
    if (s.len > 0) /* an empty slice may have no address at all */
        memcpy(dst, s.data, s.len);
    return put_crlf(dst + s.len);
}

size_t resp_bulk_size(size_t len)
{
    size_t digits = 1;
    for (size_t rest = len; rest >= 10; rest /= 10)
        digits++;
    return 1 + digits + 2 + len + 2;
}

bool resp_parse_int(struct resp_slice s, int64_t *out)
{
    bool negative = s.len > 0 && s.data[0] == '-';
    size_t first = negative ? 1 : 0;
    size_t digits = s.len - first;
    /* 19 digits fit a uint64_t without a check at each of them, and no int64_t has more. */
    if (digits == 0 || digits > 19)
        return false;
    if (s.data[first] == '0' && s.len > 1)
        return false;

    uint64_t n = 0;
    for (size_t i = first; i < s.len; i++) {
        unsigned digit = (unsigned)s.data[i] - '0';
        if (digit > 9)
            return false;
        n = n * 10 + digit;
    }
    if (n > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        return false;
    *out = (int64_t)(negative ? 0 - n : n);
    return true;
}

bool resp_slice_is(struct resp_slice s, const char *lower)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if (lower[i] == '\0' || c != lower[i])
            return false;
    }
    return lower[s.len] == '\0';
}

bool resp_word_is(struct resp_slice s, const char *lower)
{
    const char *nul = s.len ? memchr(s.data, '\0', s.len) : NULL;
    return resp_slice_is(nul ? (struct resp_slice){s.data, (size_t)(nul - s.data)} : s, lower);
}
