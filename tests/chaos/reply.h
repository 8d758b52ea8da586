/* reply.h - replies in RESP2 and RESP3: where one ends, byte by byte, and its parts.
 *
 * Written without a look at nearcache's own codec, which it is to judge.
 */
#ifndef CHAOS_REPLY_H
#define CHAOS_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum reply_status { REPLY_MORE, REPLY_WHOLE, REPLY_BAD };

/* How far a reply has been looked through. Begin with zeros. */
struct reply_frame {
    size_t at;
    uint64_t owed; /* elements still to come; 0: not begun */
};

/* Goes on with the reply that begins at p; WHOLE: it is p[0..*len), and the frame is new again. */
enum reply_status reply_frame(struct reply_frame *f, const char *p, size_t n, size_t *len);

struct span {
    const char *p;
    size_t n;
};

/* The parts of a whole reply, one after the other. Each reads what it names, or reads nothing and
 * is false. */
struct reader {
    const char *at, *end;
    unsigned resp; /* version of the protocol: says how a null and a map look */
};

bool reader_text(struct reader *r, const char *text); /* exactly these bytes */
bool reader_bulk(struct reader *r, struct span *s);
bool reader_is_bulk(struct reader *r, const char *text);
bool reader_integer(struct reader *r, int64_t *n);
bool reader_array(struct reader *r, int64_t *n);
bool reader_map(struct reader *r, int64_t *pairs);
bool reader_null(struct reader *r);
bool reader_null_array(struct reader *r);
/* A text for people: verbatim in RESP3. */
bool reader_verbatim(struct reader *r, struct span *s);
/* One reply of any kind. */
bool reader_skip(struct reader *r);
/* An error's line without "-" and the line's end. */
bool reader_error(struct reader *r, struct span *s);

#endif
