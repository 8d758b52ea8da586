/* setting.c - one typed setting: from text, to JSON, compared, freed. */
#include "setting.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "json.h"
#include "nearest.h"

enum {
    ENUM_WORD_MAX = 16,
    TABLE_MAX = 128, /* more settings are not looked at for a nearest name */
};

struct scale {
    const char *suffix;
    uint64_t factor;
};

/* Largest first, so that the first one that divides a number is how it is written. */
static const struct scale byte_scales[] = {{"gb", UINT64_C(1) << 30},
                                           {"mb", UINT64_C(1) << 20},
                                           {"kb", UINT64_C(1) << 10},
                                           {"b", 1},
                                           {"", 1},
                                           {NULL, 0}};
static const struct scale time_scales[] = {
    {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0}};

static const uint64_t longest_time = UINT64_C(1000) * 24 * 3600000; /* no timer overflows */
static const uint64_t most_bytes = UINT64_C(1) << 46;

static void *field(const struct setting *s, void *base)
{
    return (char *)base + s->offset;
}

static const void *const_field(const struct setting *s, const void *base)
{
    return (const char *)base + s->offset;
}

static bool say(char error[SETTING_ERROR_MAX], const char *text)
{
    snprintf(error, SETTING_ERROR_MAX, "%s", text);
    return false;
}

const struct setting *setting_find(const struct setting_table *table, const char *path)
{
    for (size_t i = 0; i < table->n; i++)
        if (strcmp(table->v[i].path, path) == 0)
            return &table->v[i];
    return NULL;
}

const char *setting_nearest(const struct setting_table *table, const char *typed)
{
    const char *names[TABLE_MAX];
    size_t n = table->n < TABLE_MAX ? table->n : TABLE_MAX;
    for (size_t i = 0; i < n; i++)
        names[i] = table->v[i].path;
    return nearest_name(typed, names, n);
}

/* --- from text ------------------------------------------------------------------------------- */

/* Digits, to *rest. False: none, or more than 18 of them. */
static bool parse_digits(const char *text, uint64_t *n, const char **rest)
{
    const char *p = text;
    for (*n = 0; isdigit((unsigned char)*p) && p - text < 18; p++)
        *n = *n * 10 + (uint64_t)(*p - '0');
    *rest = p;
    return p > text && !isdigit((unsigned char)*p);
}

static bool parse_scaled(const struct scale *scales, const char *text, uint64_t most, uint64_t *out)
{
    uint64_t n;
    const char *suffix;
    if (!parse_digits(text, &n, &suffix))
        return false;
    while (scales->suffix && strcasecmp(scales->suffix, suffix) != 0)
        scales++;
    if (!scales->suffix || n > most / scales->factor)
        return false;
    *out = n * scales->factor;
    return true;
}

static bool parse_bytes(const char *text, uint64_t *out, char error[SETTING_ERROR_MAX])
{
    return parse_scaled(byte_scales, text, most_bytes, out) ||
           say(error, "not a size (like 65536, 512kb, 64mb, 1gb)");
}

/* A bare number is refused: redis.conf has both settings in seconds and in milliseconds. */
static bool parse_duration(const char *text, uint64_t *out, char error[SETTING_ERROR_MAX])
{
    uint64_t n;
    const char *rest;
    if (parse_digits(text, &n, &rest) && *rest == '\0') {
        *out = 0;
        return n == 0 || say(error, "a time needs its unit (like 500ms, 60s, 5m, 1h)");
    }
    return parse_scaled(time_scales, text, longest_time, out) ||
           say(error, "not a time (like 500ms, 60s, 5m, 1h)");
}

static bool parse_count(const char *unit, const char *text, uint64_t *out,
                        char error[SETTING_ERROR_MAX])
{
    uint64_t least, most;
    const char *rest;
    bool limits = parse_digits(unit, &least, &rest) && *rest == '-' &&
                  parse_digits(rest + 1, &most, &rest) && *rest == '\0';
    assert(limits); /* config.def */
    (void)limits;
    bool ok = parse_digits(text, out, &rest) && *rest == '\0' && *out >= least && *out <= most;
    if (!ok)
        snprintf(error, SETTING_ERROR_MAX, "not a number from %" PRIu64 " to %" PRIu64, least,
                 most);
    return ok;
}

static bool parse_bool(const char *text, bool *out, char error[SETTING_ERROR_MAX])
{
    static const char *const words[] = {"false", "true", "off", "on", "no", "yes", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return say(error, "not one of true, false, on, off, yes, no, 1, 0");
}

/* The words of an ENUM stand in `unit` in the order of its values. False: there is no n-th. */
static bool enum_word(const char *unit, unsigned n, char word[ENUM_WORD_MAX])
{
    for (; n > 0; n--) {
        const char *bar = strchr(unit, '|');
        if (!bar)
            return false;
        unit = bar + 1;
    }
    size_t len = strcspn(unit, "|");
    assert(len < ENUM_WORD_MAX);
    memcpy(word, unit, len);
    word[len] = '\0';
    return true;
}

static bool parse_enum(const char *unit, const char *text, unsigned *out,
                       char error[SETTING_ERROR_MAX])
{
    char word[ENUM_WORD_MAX];
    for (unsigned i = 0; enum_word(unit, i, word); i++) {
        if (strcasecmp(text, word) == 0) {
            *out = i;
            return true;
        }
    }
    snprintf(error, SETTING_ERROR_MAX, "not one of %s", unit);
    return false;
}

static bool set_string(char **out, const char *text, char error[SETTING_ERROR_MAX])
{
    char *copy = strdup(text);
    if (!copy)
        return say(error, "out of memory");
    free(*out);
    *out = copy;
    return true;
}

static void list_free(struct config_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->v[i]);
    free(list->v);
    *list = (struct config_list){NULL, 0};
}

static bool list_add(struct config_list *list, const char *text, size_t len)
{
    char *item = strndup(text, len);
    char **v = realloc(list->v, (list->n + 1) * sizeof *v);
    if (v)
        list->v = v;
    if (!v || !item) {
        free(item);
        return false;
    }
    v[list->n++] = item;
    return true;
}

/* Appends the items of "a, b,c"; on false some may have been. */
static bool list_add_text(struct config_list *list, const char *text, char error[SETTING_ERROR_MAX])
{
    for (;;) {
        text += strspn(text, " ");
        size_t len = strcspn(text, ","), trimmed = len;
        while (trimmed > 0 && text[trimmed - 1] == ' ')
            trimmed--;
        if (trimmed == 0)
            return say(error, "an empty item");
        if (!list_add(list, text, trimmed))
            return say(error, "out of memory");
        if (text[len] == '\0')
            return true;
        text += len + 1;
    }
}

static bool list_add_item(struct config_list *list, const char *text, char error[SETTING_ERROR_MAX])
{
    if (!*text)
        return say(error, "an empty item");
    return list_add(list, text, strlen(text)) || say(error, "out of memory");
}

static bool set_list(struct config_list *list, const char *text, unsigned how,
                     char error[SETTING_ERROR_MAX])
{
    struct config_list more = {NULL, 0};
    bool ok = true;
    for (size_t i = 0; how & SETTING_ADD && ok && i < list->n; i++)
        ok = list_add(&more, list->v[i], strlen(list->v[i])) || say(error, "out of memory");
    ok = ok && (how & SETTING_ITEM ? list_add_item : list_add_text)(&more, text, error);
    if (ok) {
        struct config_list old = *list;
        *list = more;
        more = old;
    }
    list_free(&more);
    return ok;
}

bool setting_set(const struct setting *s, void *base, const char *text, unsigned how,
                 char error[SETTING_ERROR_MAX])
{
    void *value = field(s, base);
    uint64_t n = 0;
    bool ok = false;
    switch (s->type) {
    case SETTING_STRING:
    case SETTING_SECRET:
        return set_string(value, text, error);
    case SETTING_LIST:
        return set_list(value, text, how, error);
    case SETTING_BOOL:
        return parse_bool(text, value, error);
    case SETTING_ENUM:
        return parse_enum(s->unit, text, value, error);
    case SETTING_BYTES:
        ok = parse_bytes(text, &n, error);
        break;
    case SETTING_DURATION:
        ok = parse_duration(text, &n, error);
        break;
    case SETTING_COUNT:
        ok = parse_count(s->unit, text, &n, error);
        break;
    }
    if (ok)
        *(uint64_t *)value = n;
    return ok;
}

/* --- values ---------------------------------------------------------------------------------- */

const char *setting_string(const struct setting *s, const void *base)
{
    assert(s->type == SETTING_STRING || s->type == SETTING_SECRET);
    return *(char *const *)const_field(s, base);
}

const struct config_list *setting_list(const struct setting *s, const void *base)
{
    assert(s->type == SETTING_LIST);
    return const_field(s, base);
}

uint64_t setting_number(const struct setting *s, const void *base)
{
    assert(s->type == SETTING_BYTES || s->type == SETTING_DURATION || s->type == SETTING_COUNT);
    return *(const uint64_t *)const_field(s, base);
}

static size_t value_size(const struct setting *s)
{
    switch (s->type) {
    case SETTING_STRING:
    case SETTING_SECRET:
        return sizeof(char *);
    case SETTING_LIST:
        return sizeof(struct config_list);
    case SETTING_BYTES:
    case SETTING_DURATION:
    case SETTING_COUNT:
        return sizeof(uint64_t);
    case SETTING_BOOL:
        return sizeof(bool);
    case SETTING_ENUM:
        return sizeof(unsigned);
    }
    assert(false);
    return 0;
}

static bool strings_equal(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool lists_equal(const struct config_list *a, const struct config_list *b)
{
    bool equal = a->n == b->n;
    for (size_t i = 0; equal && i < a->n; i++)
        equal = strcmp(a->v[i], b->v[i]) == 0;
    return equal;
}

bool setting_equal(const struct setting *s, const void *base, const void *other_base)
{
    const void *a = const_field(s, base), *b = const_field(s, other_base);
    if (s->type == SETTING_STRING || s->type == SETTING_SECRET)
        return strings_equal(setting_string(s, base), setting_string(s, other_base));
    if (s->type == SETTING_LIST)
        return lists_equal(a, b);
    return memcmp(a, b, value_size(s)) == 0;
}

void setting_swap(const struct setting *s, void *base, void *other_base)
{
    char kept[sizeof(struct config_list)]; /* the largest */
    void *a = field(s, base), *b = field(s, other_base);
    size_t n = value_size(s);
    memcpy(kept, a, n);
    memcpy(a, b, n);
    memcpy(b, kept, n);
}

void setting_clear(const struct setting *s, void *base)
{
    void *value = field(s, base);
    if (s->type == SETTING_STRING || s->type == SETTING_SECRET)
        free(*(char **)value);
    else if (s->type == SETTING_LIST)
        list_free(value);
    memset(value, 0, value_size(s));
}

/* --- to text --------------------------------------------------------------------------------- */

void setting_format_number(enum setting_type type, uint64_t n, char text[SETTING_NUMBER_MAX])
{
    const struct scale *scale = type == SETTING_BYTES ? byte_scales : time_scales;
    while (n % scale->factor != 0)
        scale++;
    bool bare = type == SETTING_COUNT || n == 0;
    snprintf(text, SETTING_NUMBER_MAX, "%" PRIu64 "%s", bare ? n : n / scale->factor,
             bare ? "" : scale->suffix);
}

static bool print_string(const char *value, FILE *out)
{
    char *text = value ? json_print_string(value) : strdup("null");
    if (text)
        fputs(text, out);
    free(text);
    return text != NULL;
}

static bool print_list(const struct config_list *list, FILE *out)
{
    bool ok = true;
    if (list->n == 0) /* null: not given */
        return print_string(NULL, out);
    fputc('[', out);
    for (size_t i = 0; ok && i < list->n; i++) {
        fputs(i ? ", " : "", out);
        ok = print_string(list->v[i], out);
    }
    fputc(']', out);
    return ok;
}

bool setting_print(const struct setting *s, const void *base, FILE *out)
{
    const void *value = const_field(s, base);
    char text[SETTING_NUMBER_MAX] = "";
    switch (s->type) {
    case SETTING_STRING:
        return print_string(setting_string(s, base), out);
    case SETTING_SECRET:
        return print_string(setting_string(s, base) ? "***" : NULL, out);
    case SETTING_LIST:
        return print_list(value, out);
    case SETTING_BOOL:
        fputs(*(const bool *)value ? "true" : "false", out);
        return true;
    case SETTING_ENUM:
        enum_word(s->unit, *(const unsigned *)value, text);
        return print_string(text, out);
    case SETTING_COUNT:
        fprintf(out, "%" PRIu64, setting_number(s, base));
        return true;
    case SETTING_BYTES:
    case SETTING_DURATION:
        setting_format_number(s->type, setting_number(s, base), text);
        return print_string(text, out);
    }
    return true;
}
