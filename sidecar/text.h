/* text.h - a text that grows as it is written. */
#ifndef NEARCACHE_TEXT_H
#define NEARCACHE_TEXT_H

#include "resp.h"

/* Zero-initialise; free(t.p) gives everything back. Once there is some, a NUL follows it. */
struct text {
    char *p; /* NULL: nothing has been written */
    size_t len, cap;
    bool failed; /* out of memory: what came after is missing */
};

__attribute__((format(printf, 2, 3))) void text_say(struct text *t, const char *format, ...);
/* Any bytes. */
void text_append(struct text *t, const char *p, size_t n);
/* RESP: "<type><n>\r\n", and a bulk string. */
void text_header(struct text *t, char type, uint64_t n);
void text_bulk(struct text *t, struct resp_slice s);

#endif
