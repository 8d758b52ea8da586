/* options.c - the command line, cut into options. */
#include "options.h"

#include <stdarg.h>
#include <string.h>

#include "nearest.h"

enum {
    NAME_BYTES = 128,
    VALUE_SHOWN = 100, /* bytes of a value that an error shows */
    NAMES_MAX = 128,   /* settings and options together */
};

static const struct {
    const char *name;
    enum option_kind kind;
    bool has_value;
    const char *path; /* of the setting that it is short for */
} options[] = {
    {"set", OPTION_SET, true, NULL},
    {"config", OPTION_CONFIG, true, NULL},
    {"check", OPTION_CHECK, false, NULL},
    {"print-config", OPTION_PRINT_CONFIG, false, NULL},
    {"help", OPTION_HELP, false, NULL},
    {"version", OPTION_VERSION, false, NULL},
    {"upstream", OPTION_SETTING, true, "upstream.url"},
};
enum { N_OPTIONS = sizeof options / sizeof *options };

__attribute__((format(printf, 2, 3))) static void wrong_option(struct option *o, const char *format,
                                                               ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(o->where, sizeof o->where, format, args);
    va_end(args);
    o->kind = OPTION_WRONG;
}

static void unknown_option(struct option *o, const struct setting_table *table, const char *name)
{
    const char *names[NAMES_MAX];
    size_t n = 0;
    for (size_t i = 0; i < N_OPTIONS; i++)
        names[n++] = options[i].name;
    for (size_t i = 0; i < table->n && n < NAMES_MAX; i++)
        names[n++] = table->v[i].path;
    const char *nearest = nearest_name(name, names, n);
    wrong_option(o, "--%s: no such option%s%s%s", name, nearest ? "; did you mean --" : "",
                 nearest ? nearest : "", nearest ? "?" : "");
}

/* Fills in what `name` stands for. False: no such option. */
static bool name_option(struct option *o, const struct setting_table *table, const char *name,
                        bool *has_value)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (strcmp(options[i].name, name) != 0)
            continue;
        o->kind = options[i].kind;
        o->setting = options[i].path ? setting_find(table, options[i].path) : NULL;
        *has_value = options[i].has_value;
        return true;
    }
    o->kind = OPTION_SETTING;
    o->setting = setting_find(table, name);
    *has_value = o->setting && o->setting->type != SETTING_BOOL;
    return o->setting;
}

/* Letters of a setting's name. What stands behind them may be its value, and a password. */
static int name_length(const char *text)
{
    return (int)strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
}

/* The value behind the '=' or in the next argument; the flag of a BOOL alone means true. */
static void take_value(struct option *o, struct arguments *args, const char *name,
                       const char *equals, bool has_value)
{
    o->value = equals ? equals + 1 : "true";
    if (equals && !has_value && o->kind != OPTION_SETTING)
        wrong_option(o, "--%s: takes no value", name);
    if (equals || !has_value)
        return;
    if (args->v == args->end || strncmp(*args->v, "--", 2) == 0)
        wrong_option(o, "--%s: its value is missing", name);
    else
        o->value = *args->v++;
}

/* Most likely the value of an option that is wrong: no error of its own. */
static void skip_value(struct arguments *args)
{
    if (args->v < args->end && **args->v != '-')
        args->v++;
}

/* --set path=value */
static void split_set(struct option *o, struct arguments *args)
{
    const struct setting_table *table = args->table;
    char path[NAME_BYTES];
    const char *equals = strchr(o->value, '=');
    if (!equals) {
        wrong_option(o, "--set %.*s: expected path=value", name_length(o->value), o->value);
        skip_value(args);
        return;
    }
    snprintf(path, sizeof path, "%.*s", (int)(equals - o->value), o->value);
    o->setting = setting_find(table, path);
    o->kind = OPTION_SETTING;
    o->value = equals + 1;
    snprintf(o->where, sizeof o->where, "--set %s", path);
    if (o->setting)
        return;
    const char *nearest = setting_nearest(table, path);
    wrong_option(o, "--set %s: unknown setting%s%s%s", path, nearest ? "; did you mean " : "",
                 nearest ? nearest : "", nearest ? "?" : "");
}

bool options_next(struct arguments *args, struct option *o)
{
    char name[NAME_BYTES];
    bool has_value;
    if (args->v == args->end)
        return false;
    const char *arg = *args->v++;
    if (strcmp(arg, "-h") == 0)
        arg = "--help";
    if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0') {
        wrong_option(o, "%.*s: unexpected argument", VALUE_SHOWN, arg);
        return true;
    }
    const char *equals = strchr(arg, '=');
    int len = equals ? (int)(equals - arg) - 2 : NAME_BYTES;
    snprintf(name, sizeof name, "%.*s", len, arg + 2);
    if (!name_option(o, args->table, name, &has_value)) {
        name[name_length(name)] = '\0';
        unknown_option(o, args->table, name);
        if (!equals)
            skip_value(args);
        return true;
    }
    snprintf(o->where, sizeof o->where, "--%s", name);
    take_value(o, args, name, equals, has_value);
    if (o->kind == OPTION_SET)
        split_set(o, args);
    return true;
}
