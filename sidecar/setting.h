/* setting.h - one typed setting: from text, to JSON, compared, freed. Knows no particular setting.
 */
#ifndef NEARCACHE_SETTING_H
#define NEARCACHE_SETTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct config_list {
    char **v;
    size_t n;
};

enum setting_type {
    SETTING_STRING,   /* char *, owned, NULL when unset */
    SETTING_SECRET,   /* the same, never shown */
    SETTING_LIST,     /* struct config_list */
    SETTING_BYTES,    /* uint64_t */
    SETTING_DURATION, /* uint64_t, milliseconds */
    SETTING_COUNT,    /* uint64_t */
    SETTING_BOOL,     /* bool */
    SETTING_ENUM,     /* an enum without negative values */
};

struct setting {
    const char *path;
    enum setting_type type;
    size_t offset;       /* of its field in the struct that `base` points to below */
    const char *initial; /* NULL: unset */
    bool reload;
    const char *unit; /* for people; a COUNT's limits "1-64", an ENUM's words "auto|on|off" */
    const char *help;
};

struct setting_table {
    const struct setting *v;
    size_t n;
};

/* NULL: there is none of that path. */
const struct setting *setting_find(const struct setting_table *table, const char *path);
/* The path that was probably meant, or NULL. */
const char *setting_nearest(const struct setting_table *table, const char *typed);

#define SETTING_ERROR_MAX 160

/* Of a LIST: */
enum {
    SETTING_ADD = 1 << 0,  /* appends to the value, rather than to replace it */
    SETTING_ITEM = 1 << 1, /* the text is one item, whatever is in it; else commas part them */
};

/* On false `error` says what is wrong, in words that may follow a colon, and the value is
 * unchanged. */
__attribute__((warn_unused_result)) bool setting_set(const struct setting *s, void *base,
                                                     const char *text, unsigned how,
                                                     char error[SETTING_ERROR_MAX]);

/* The value of a STRING or SECRET, of a LIST, of a BYTES, DURATION or COUNT. Borrowed. */
const char *setting_string(const struct setting *s, const void *base);
const struct config_list *setting_list(const struct setting *s, const void *base);
uint64_t setting_number(const struct setting *s, const void *base);
/* "64kb", "60s": a number as setting_set takes it. */
#define SETTING_NUMBER_MAX 32
void setting_format_number(enum setting_type type, uint64_t n, char text[SETTING_NUMBER_MAX]);

bool setting_equal(const struct setting *s, const void *base, const void *other_base);
/* Exchanges the values of the two. */
void setting_swap(const struct setting *s, void *base, void *other_base);
/* Frees what it owns; the value becomes NULL, empty or 0. */
void setting_clear(const struct setting *s, void *base);
/* Writes the value as JSON that setting_set understands, a SECRET as "***". False: out of memory.
 */
__attribute__((warn_unused_result)) bool setting_print(const struct setting *s, const void *base,
                                                       FILE *out);

#endif
