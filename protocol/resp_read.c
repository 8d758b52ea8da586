/* resp_read.c - reading a reply of known shape. */
#include "resp_read.h"

#include <string.h>

static bool read_line(struct resp_reader *r, char type, int64_t *n)
{
    if (r->p >= r->end || *r->p != type)
        return false;
    const char *line = r->p + 1;
    const char *cr = memchr(line, '\r', (size_t)(r->end - line));
    if (!cr || r->end - cr < 2 || cr[1] != '\n' ||
        !resp_parse_int((struct resp_slice){line, (size_t)(cr - line)}, n))
        return false;
    r->p = cr + 2;
    return true;
}

bool resp_read_array(struct resp_reader *r, size_t *n)
{
    struct resp_reader before = *r;
    int64_t count;
    bool list = r->p < r->end && (*r->p == '*' || *r->p == '~' || *r->p == '>');
    if (!list || !read_line(r, *r->p, &count))
        return false;
    if (count < 0) {
        *r = before;
        return false;
    }
    *n = (size_t)count;
    return true;
}

bool resp_read_bulk(struct resp_reader *r, struct resp_slice *s)
{
    struct resp_reader before = *r;
    int64_t len;
    if (!read_line(r, '$', &len))
        return false;
    if (len < 0 || r->end - r->p < 2 || len > r->end - r->p - 2) {
        *r = before;
        return false;
    }
    *s = (struct resp_slice){r->p, (size_t)len};
    r->p += len + 2;
    return true;
}

bool resp_read_integer(struct resp_reader *r, int64_t *n)
{
    return read_line(r, ':', n);
}
