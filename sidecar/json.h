/* json.h - the one module that touches cJSON: a document flattened to named values with lines.
 *
 * cJSON keeps no positions; the line of a member is found by a scan of the text beside the tree.
 */
#ifndef NEARCACHE_JSON_H
#define NEARCACHE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum json_type { JSON_STRING, JSON_NUMBER, JSON_BOOL, JSON_NULL, JSON_ARRAY, JSON_OBJECT };

/* One member. Borrowed for the call. */
struct json_value {
    const char *path; /* "l1.max_memory"; array elements repeat the array's path */
    enum json_type type;
    const char *text; /* a string's value; a number as it is written; "true" / "false" */
    unsigned line;    /* 1-based */
    int index;        /* of an array's element, from 0; -1 for all others */
};

/* Parses text[0..len) - one JSON object, nothing but white space behind it - and calls `each` for
 * every scalar below it (empty arrays and objects too) in document order, until it returns false.
 * False: not such a document (error says why, *line where), or `each` stopped it (error is "").
 * Refused as well: arrays in arrays, more than 32 levels, NUL characters, line breaks in strings.
 */
#define JSON_ERROR_MAX 160
__attribute__((warn_unused_result)) bool
json_walk(const char *text, size_t len, bool (*each)(void *ctx, const struct json_value *v),
          void *ctx, char error[JSON_ERROR_MAX], unsigned *line);

/* For small flat objects such as events: members looked up by name, no lines. cJSON cuts strings at
 * a NUL, so a text with an escaped NUL (\u0000) is refused rather than cut. */
struct json_object; /* opaque */
/* NULL: not one JSON object, nested too deep, or out of memory. */
struct json_object *json_object_parse(const char *text, size_t len);
void json_object_free(struct json_object *o);
/* The string member `name`, or NULL if it is absent or not a string. Borrowed from o. */
const char *json_object_string(const struct json_object *o, const char *name);
/* The number member `name`; false if absent or not a number. */
bool json_object_number(const struct json_object *o, const char *name, double *out);

/* Building: an object of strings and numbers printed without spaces. Result malloc'ed; NULL: out of
 * memory. Members are name, value pairs ended by NULL name; a value is a string. */
char *json_print_strings(const char *const *names_and_values);
/* One string in quotes, escaped. Likewise. */
char *json_print_string(const char *value);

#endif
