/* resp_read.h - reading a reply of known shape that is whole in memory. */
#ifndef NEARCACHE_RESP_READ_H
#define NEARCACHE_RESP_READ_H

#include "resp.h"

struct resp_reader {
    const char *p, *end;
};

/* Each takes one element and returns false (and leaves the reader where it is) if it is something
 * else. An array may be a set or a push; a nil array or bulk string is something else. */
RESP_WARN_UNUSED bool resp_read_array(struct resp_reader *r, size_t *n);
RESP_WARN_UNUSED bool resp_read_bulk(struct resp_reader *r, struct resp_slice *s);
RESP_WARN_UNUSED bool resp_read_integer(struct resp_reader *r, int64_t *n);

#endif
