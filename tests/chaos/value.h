/* value.h - bytes that tell whose they are: key, database, version, writer, and their own position.
 *
 *     "s17.3|0|0|5|9f1c...|1000|" and then words that differ at every position of every value
 */
#ifndef CHAOS_VALUE_H
#define CHAOS_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VALUE_HEAD_MAX = 128 };

struct value {
    const char *name; /* of the key, queue or channel */
    unsigned db, field;
    uint32_t version, len;
    uint64_t nonce; /* of the connection that wrote it */
};

/* Writes v->len bytes. */
void value_write(const struct value *v, char *out);
/* Are p[0..n) the bytes from `from` on? */
bool value_matches(const struct value *v, size_t from, const char *p, size_t n);
/* The version that a value tells, if it is long enough to name its key, which must be `name`; 0:
 * it is not. */
uint32_t value_version(const char *name, const char *p, size_t n);

#endif
