/* config.c - reads every setting from the command line, the environment and the file.
 *
 *   default  <  file  <  environment  <  command line
 *
 * Each source is read in that order and assigns over what stood before; every value is checked
 * where it is assigned, so that an error can name the place. All errors are told, not only the
 * first.
 */
#include "config.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "nearest.h"

#ifndef NEARCACHE_VERSION
#define NEARCACHE_VERSION "0.1.0"
#endif

#define ENVIRONMENT_PREFIX "NEARCACHE_"

/* The table's TYPE column as setting.h knows it. */
#define KIND_STRING              SETTING_STRING
#define KIND_SECRET              SETTING_SECRET
#define KIND_LIST                SETTING_LIST
#define KIND_BYTES               SETTING_BYTES
#define KIND_DURATION            SETTING_DURATION
#define KIND_COUNT               SETTING_COUNT
#define KIND_BOOL                SETTING_BOOL
#define KIND_ENUM_tracking       SETTING_ENUM
#define KIND_ENUM_admin_commands SETTING_ENUM
#define KIND_ENUM_log_level      SETTING_ENUM

static const struct setting settings[] = {
#define SETTING(field, path, type, ...)                                                            \
    {path, KIND_##type, offsetof(struct config, field), __VA_ARGS__},
#include "config.def"
#undef SETTING
};

enum {
    N_SETTINGS = sizeof settings / sizeof *settings,
    NAME_BYTES = 128,
    MESSAGE_BYTES = 1024,
    VALUE_SHOWN = 100, /* bytes of a value that an error shows */
    FILE_BYTES_MAX = 1024 * 1024,
    PASSWORD_LINE_MAX = 4096,
    HELP_COLUMN = 38,
    HELP_WIDTH = 100,
};

enum source { FROM_DEFAULT, FROM_FILE, FROM_ENVIRONMENT, FROM_COMMAND_LINE };

struct origin {
    enum source source;
    unsigned line; /* in the file */
};

struct loader {
    struct config *config;
    FILE *err;
    const char *file; /* NULL: none */
    unsigned errors, usage_errors;
    struct origin origins[N_SETTINGS];
};

__attribute__((format(printf, 3, 4))) static void complain(struct loader *l, enum source source,
                                                           const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *p = text; *p; p++) /* what a value brought along must not make lines of its own */
        if (iscntrl((unsigned char)*p))
            *p = '?';
    fprintf(l->err, "nearcache: %s\n", text);
    if (source == FROM_COMMAND_LINE)
        l->usage_errors++;
    else
        l->errors++;
}

static const struct setting *find_setting(const char *path)
{
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (strcmp(settings[i].path, path) == 0)
            return &settings[i];
    return NULL;
}

static const char *nearest_setting(const char *typed)
{
    const char *names[N_SETTINGS];
    for (size_t i = 0; i < N_SETTINGS; i++)
        names[i] = settings[i].path;
    return nearest_name(typed, names, N_SETTINGS);
}

/* "l1.max_memory" -> "NEARCACHE_L1_MAX_MEMORY" */
static void environment_name(const char *path, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, ENVIRONMENT_PREFIX "%s", path);
    for (char *p = name; *p; p++)
        *p = *p == '.' || *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

/* --- what a value must be, beyond its type --------------------------------------------------- */

static bool has_control(const char *text)
{
    for (; *text; text++)
        if (iscntrl((unsigned char)*text))
            return true;
    return false;
}

static const char *check_text(const char *text)
{
    if (!*text)
        return "empty (leave it out instead)";
    return has_control(text) ? "contains a line break or control character" : NULL;
}

static const char *check_service(const char *text)
{
    size_t n = strlen(text);
    if (n < 1 || n > 128)
        return "not a name of 1 to 128 bytes";
    for (; *text; text++)
        if (*text <= ' ' || *text > '~' || *text == '"' || *text == '\'')
            return "not a name of printable ASCII without spaces and quotes";
    return NULL;
}

static const char *check_namespace(const char *text)
{
    if (strlen(text) > 256)
        return "longer than 256 bytes";
    return has_control(text) ? "contains a line break or control character" : NULL;
}

static const char *check_listen(const char *text)
{
    struct listen_address address;
    const char *wrong = listen_address_parse(text, &address);
    listen_address_free(&address);
    return wrong;
}

static const char *check_upstream(const char *text)
{
    struct upstream_address address;
    const char *wrong = has_control(text) ? "contains a line break or control character"
                                          : upstream_address_parse(text, &address);
    if (!wrong && address.password && strcmp(address.password, "***") == 0)
        wrong = "*** stands for a password that --print-config did not show";
    if (!has_control(text))
        upstream_address_free(&address);
    return wrong;
}

static const char *check_secret(const char *text)
{
    if (strcmp(text, "***") == 0)
        return "*** stands for a secret that --print-config did not show";
    return check_text(text);
}

static const char *check_string(const struct setting *s, const char *text)
{
    static const struct {
        const char *path;
        const char *(*check)(const char *text);
    } rules[] = {
        {"service", check_service},
        {"namespace", check_namespace},
        {"upstream.url", check_upstream},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(s->path, rules[i].path) == 0)
            return rules[i].check(text);
    return s->type == SETTING_SECRET ? check_secret(text) : check_text(text);
}

static const char *check_list(const struct config_list *list)
{
    const char *wrong = NULL;
    for (size_t i = 0; !wrong && i < list->n; i++)
        wrong = check_listen(list->v[i]);
    return wrong;
}

/* A COUNT has its limits in config.def. */
static const struct limit {
    const char *path;
    uint64_t least, most; /* bytes or milliseconds */
    bool or_zero;
} limits[] = {
    {"upstream.connect_timeout", 10, 3600000, false},
    {"upstream.timeout", 10, 3600000, false},
    {"upstream.scan_timeout", 10, 3600000, false},
    {"l1.max_memory", 64 * 1024, UINT64_C(16) << 30, true},
    {"l1.max_value", 0, 512 << 20, false},
    {"l1.ttl", 1, UINT64_C(365) * 24 * 3600000, false},
    {"invalidation.lease", 100, 60000, false},
    {"client.max_query", 1024, UINT64_C(16) << 30, false},
    {"client.max_output", 1024, UINT64_C(64) << 30, false},
    {"drain_timeout", 0, 3600000, false},
};

static bool check_number(const struct setting *s, uint64_t n, char error[SETTING_ERROR_MAX])
{
    const struct limit *limit = limits, *end = limits + sizeof limits / sizeof *limits;
    char least[SETTING_NUMBER_MAX], most[SETTING_NUMBER_MAX];
    while (limit < end && strcmp(limit->path, s->path) != 0)
        limit++;
    if (limit == end || (n >= limit->least && n <= limit->most) || (n == 0 && limit->or_zero))
        return true;
    setting_format_number(s->type, limit->least, least);
    setting_format_number(s->type, limit->most, most);
    snprintf(error, SETTING_ERROR_MAX, "not from %s to %s%s", least, most,
             limit->or_zero ? ", nor 0" : "");
    return false;
}

/* Of the value that `text` has just given to s. */
static bool check_value(const struct config *config, const struct setting *s, const char *text,
                        char error[SETTING_ERROR_MAX])
{
    const char *wrong = NULL;
    if (s->type == SETTING_STRING || s->type == SETTING_SECRET)
        wrong = check_string(s, text);
    else if (s->type == SETTING_LIST)
        wrong = check_list(&config->listen); /* the only one there is */
    else if (s->type == SETTING_BYTES || s->type == SETTING_DURATION)
        return check_number(s, setting_number(s, config), error);
    if (wrong)
        snprintf(error, SETTING_ERROR_MAX, "%s", wrong);
    return !wrong;
}

/* --- assigning ------------------------------------------------------------------------------- */

struct assignment {
    const struct setting *setting;
    const char *text;
    struct origin origin;
    bool add;          /* to a list, what the same source gave before */
    const char *where; /* "--set l1.ttl": how an error calls it */
};

static bool may_show(const struct setting *s, const char *text)
{
    return s->type != SETTING_SECRET && !(strcmp(s->unit, "url") == 0 && strchr(text, '@'));
}

static void assign(struct loader *l, const struct assignment *a)
{
    char error[SETTING_ERROR_MAX];
    const struct setting *s = a->setting;
    l->origins[s - settings] = a->origin;
    if (setting_set(s, l->config, a->text, a->add, error) &&
        check_value(l->config, s, a->text, error))
        return;
    if (may_show(s, a->text))
        complain(l, a->origin.source, "%s=%.*s%s: %s", a->where, VALUE_SHOWN, a->text,
                 strlen(a->text) > VALUE_SHOWN ? "..." : "", error);
    else
        complain(l, a->origin.source, "%s: %s", a->where, error);
}

static void assign_defaults(struct loader *l)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        if (s->initial)
            assign(l, &(struct assignment){.setting = s, .text = s->initial, .where = s->path});
    }
}

/* --- the file -------------------------------------------------------------------------------- */

static const char *json_type_name(enum json_type type)
{
    static const char *const names[] = {
        [JSON_STRING] = "a string", [JSON_NUMBER] = "a number", [JSON_BOOL] = "true or false",
        [JSON_NULL] = "null",       [JSON_ARRAY] = "an array",  [JSON_OBJECT] = "an object"};
    return names[type];
}

/* The JSON types that a setting takes, in words; NULL: it takes this one. */
static const char *wrong_type(const struct setting *s, const struct json_value *v)
{
    enum json_type type = v->index < 0 ? v->type : JSON_ARRAY;
    switch (s->type) {
    case SETTING_STRING:
    case SETTING_SECRET:
    case SETTING_ENUM:
        return type == JSON_STRING ? NULL : "a string";
    case SETTING_LIST:
        return v->type == JSON_STRING ? NULL : "a string or an array of strings";
    case SETTING_BYTES:
    case SETTING_DURATION:
        return type == JSON_STRING || type == JSON_NUMBER ? NULL : "a string or a number";
    case SETTING_COUNT:
        return type == JSON_STRING || type == JSON_NUMBER ? NULL : "a number";
    case SETTING_BOOL:
        return type == JSON_STRING || type == JSON_BOOL ? NULL : "true or false";
    }
    return NULL;
}

static void unknown_member(struct loader *l, const struct json_value *v)
{
    const char *nearest = nearest_setting(v->path);
    complain(l, FROM_FILE, "%s:%u: unknown setting \"%s\"%s%s%s", l->file, v->line, v->path,
             nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

/* A name with a leading underscore is a comment: JSON has no others. */
static bool assign_member(void *ctx, const struct json_value *v)
{
    struct loader *l = ctx;
    const struct setting *s = find_setting(v->path);
    char where[MESSAGE_BYTES];
    if (*v->path == '_' || (s && v->type == JSON_NULL && v->index < 0)) /* null: not given here */
        return true;
    if (!s) {
        unknown_member(l, v);
        return true;
    }
    const struct origin *before = &l->origins[s - settings];
    const char *expected = wrong_type(s, v);
    snprintf(where, sizeof where, "%s:%u: %s", l->file, v->line, s->path);
    if (before->source == FROM_FILE && v->index <= 0)
        complain(l, FROM_FILE, "%s: given twice, first in line %u", where, before->line);
    else if (expected)
        complain(l, FROM_FILE, "%s: expected %s, not %s%s", where, expected,
                 v->index < 0 || s->type != SETTING_LIST ? "" : "an array with ",
                 json_type_name(v->index < 0 || s->type == SETTING_LIST ? v->type : JSON_ARRAY));
    else
        assign(l, &(struct assignment){.setting = s,
                                       .text = v->text,
                                       .origin = {FROM_FILE, v->line},
                                       .add = v->index > 0,
                                       .where = where});
    l->origins[s - settings] = (struct origin){FROM_FILE, v->line};
    return true;
}

/* The whole file, malloc'ed, or NULL after a complaint. */
static char *read_file(struct loader *l, size_t *len)
{
    FILE *f = fopen(l->file, "re");
    char *text = f ? malloc(FILE_BYTES_MAX + 1) : NULL;
    bool ok = text;
    if (ok) {
        *len = fread(text, 1, FILE_BYTES_MAX + 1, f);
        ok = !ferror(f);
    }
    if (!ok)
        complain(l, FROM_FILE, "%s: %s", l->file, strerror(errno));
    else if (*len > FILE_BYTES_MAX)
        complain(l, FROM_FILE, "%s: longer than 1 MB", l->file);
    if (f)
        fclose(f);
    if (ok && *len <= FILE_BYTES_MAX)
        return text;
    free(text);
    return NULL;
}

static void assign_file(struct loader *l)
{
    char error[JSON_ERROR_MAX];
    unsigned line;
    size_t len;
    char *text = read_file(l, &len);
    if (text && !json_walk(text, len, assign_member, l, error, &line))
        complain(l, FROM_FILE, "%s:%u: not valid JSON: %s", l->file, line, error);
    free(text);
}

/* --- the environment ------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Kubernetes tells every container of each service: for one called nearcache or nearcache-something
 * NEARCACHE_SERVICE_HOST, NEARCACHE_SERVICE_PORT[_NAME], NEARCACHE_PORT=tcp://10.0.0.1:6380 and
 * NEARCACHE_PORT_6380_TCP[_ADDR, _PORT, _PROTO]. */
static bool kubernetes_sets(const char *name, const char *value)
{
    if (ends_with(name, "_SERVICE_HOST") || strstr(name, "_SERVICE_PORT"))
        return true;
    if (ends_with(name, "_PORT") && strstr(value, "://"))
        return true;
    const char *port = strstr(name, "_PORT_");
    return port && isdigit((unsigned char)port[strlen("_PORT_")]);
}

static void unknown_variable(struct loader *l, const char *name)
{
    char right[NAME_BYTES] = "";
    const char *nearest = nearest_setting(name + strlen(ENVIRONMENT_PREFIX));
    if (nearest)
        environment_name(nearest, right);
    complain(l, FROM_ENVIRONMENT, "environment %s: no such setting%s%s%s", name,
             nearest ? "; did you mean " : "", right, nearest ? "?" : "");
}

static void assign_variable(struct loader *l, const char *name, const char *value)
{
    char known[NAME_BYTES], where[2 * NAME_BYTES];
    if (strcmp(name, ENVIRONMENT_PREFIX "CONFIG") == 0)
        return;
    for (size_t i = 0; i < N_SETTINGS; i++) {
        environment_name(settings[i].path, known);
        if (strcmp(known, name) != 0)
            continue;
        snprintf(where, sizeof where, "environment %s", name);
        assign(l, &(struct assignment){.setting = &settings[i],
                                       .text = value,
                                       .origin = {.source = FROM_ENVIRONMENT},
                                       .where = where});
        return;
    }
    if (!kubernetes_sets(name, value))
        unknown_variable(l, name);
}

static void assign_environment(struct loader *l, char **envp)
{
    for (; *envp; envp++) {
        const char *equals = strchr(*envp, '=');
        if (!equals || strncmp(*envp, ENVIRONMENT_PREFIX, strlen(ENVIRONMENT_PREFIX)) != 0)
            continue;
        char *name = strndup(*envp, (size_t)(equals - *envp));
        if (name)
            assign_variable(l, name, equals + 1);
        else
            complain(l, FROM_ENVIRONMENT, "out of memory");
        free(name);
    }
}

static const char *environment_value(char **envp, const char *name)
{
    size_t n = strlen(name);
    for (; *envp; envp++)
        if (strncmp(*envp, name, n) == 0 && (*envp)[n] == '=')
            return *envp + n + 1;
    return NULL;
}

/* --- the command line ------------------------------------------------------------------------ */

enum option_kind {
    OPTION_WRONG, /* `where` says why */
    OPTION_SETTING,
    OPTION_SET,
    OPTION_CONFIG,
    OPTION_CHECK,
    OPTION_PRINT_CONFIG,
    OPTION_HELP,
    OPTION_VERSION,
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

struct option {
    enum option_kind kind;
    const struct setting *setting;
    const char *value;
    char where[MESSAGE_BYTES];
};

struct arguments {
    char **v; /* the next one */
    char **end;
};

__attribute__((format(printf, 2, 3))) static void wrong_option(struct option *o, const char *format,
                                                               ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(o->where, sizeof o->where, format, args);
    va_end(args);
    o->kind = OPTION_WRONG;
}

static void unknown_option(struct option *o, const char *name)
{
    const char *names[N_SETTINGS + N_OPTIONS];
    for (size_t i = 0; i < N_SETTINGS; i++)
        names[i] = settings[i].path;
    for (size_t i = 0; i < N_OPTIONS; i++)
        names[N_SETTINGS + i] = options[i].name;
    const char *nearest = nearest_name(name, names, N_SETTINGS + N_OPTIONS);
    wrong_option(o, "--%.*s: no such option%s%s%s", VALUE_SHOWN, name,
                 nearest ? "; did you mean --" : "", nearest ? nearest : "", nearest ? "?" : "");
}

/* Fills in what `name` stands for. False: no such option. */
static bool name_option(struct option *o, const char *name, bool *has_value)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (strcmp(options[i].name, name) != 0)
            continue;
        o->kind = options[i].kind;
        o->setting = options[i].path ? find_setting(options[i].path) : NULL;
        *has_value = options[i].has_value;
        return true;
    }
    o->kind = OPTION_SETTING;
    o->setting = find_setting(name);
    *has_value = o->setting && o->setting->type != SETTING_BOOL;
    return o->setting;
}

/* --set path=value */
static void split_set(struct option *o)
{
    char path[NAME_BYTES];
    const char *equals = strchr(o->value, '=');
    if (!equals) {
        wrong_option(o, "--set %.*s: expected path=value", VALUE_SHOWN, o->value);
        return;
    }
    snprintf(path, sizeof path, "%.*s", (int)(equals - o->value), o->value);
    o->setting = find_setting(path);
    if (!o->setting) {
        const char *nearest = nearest_setting(path);
        wrong_option(o, "--set %s: unknown setting%s%s%s", path, nearest ? "; did you mean " : "",
                     nearest ? nearest : "", nearest ? "?" : "");
        return;
    }
    o->kind = OPTION_SETTING;
    o->value = equals + 1;
    snprintf(o->where, sizeof o->where, "--set %s", path);
}

/* The value behind the '=' or in the next argument; a flag of a BOOL alone means true. */
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

/* False: no more. */
static bool next_option(struct arguments *args, struct option *o)
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
    size_t n = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
    snprintf(name, sizeof name, "%.*s", (int)(n < NAME_BYTES ? n : NAME_BYTES), arg + 2);
    if (!name_option(o, name, &has_value)) {
        unknown_option(o, name);
        return true;
    }
    snprintf(o->where, sizeof o->where, "--%s", name);
    take_value(o, args, name, equals, has_value);
    if (o->kind == OPTION_SET)
        split_set(o);
    return true;
}

/* What the command line asks for besides settings. */
struct wishes {
    const char *file;
    bool check, print_config, help, version;
};

static void read_wishes(struct loader *l, struct arguments args, struct wishes *wishes)
{
    struct option o;
    while (next_option(&args, &o)) {
        if (o.kind == OPTION_WRONG)
            complain(l, FROM_COMMAND_LINE, "%s", o.where);
        else if (o.kind == OPTION_CONFIG)
            wishes->file = o.value;
        wishes->check |= o.kind == OPTION_CHECK;
        wishes->print_config |= o.kind == OPTION_PRINT_CONFIG;
        wishes->help |= o.kind == OPTION_HELP;
        wishes->version |= o.kind == OPTION_VERSION;
    }
}

static void assign_command_line(struct loader *l, struct arguments args)
{
    struct option o;
    while (next_option(&args, &o)) {
        if (o.kind != OPTION_SETTING)
            continue;
        bool again = l->origins[o.setting - settings].source == FROM_COMMAND_LINE;
        assign(l, &(struct assignment){.setting = o.setting,
                                       .text = o.value,
                                       .origin = {.source = FROM_COMMAND_LINE},
                                       .add = again,
                                       .where = o.where});
    }
}

/* --- settings that depend on each other ------------------------------------------------------ */

/* The first line of the file, malloc'ed. */
static bool read_first_line(const char *path, char **out, char error[SETTING_ERROR_MAX])
{
    char line[PASSWORD_LINE_MAX] = "";
    FILE *f = fopen(path, "re");
    bool ok = f && (fgets(line, sizeof line, f) || !ferror(f));
    if (!ok)
        snprintf(error, SETTING_ERROR_MAX, "%s", strerror(errno));
    if (f)
        fclose(f);
    if (!ok)
        return false;
    size_t whole = strlen(line), n = strcspn(line, "\r\n");
    line[n] = '\0';
    if (n == 0 || whole == sizeof line - 1) {
        snprintf(error, SETTING_ERROR_MAX,
                 n ? "its first line is too long" : "its first line is empty");
        return false;
    }
    *out = strdup(line);
    if (!*out)
        snprintf(error, SETTING_ERROR_MAX, "out of memory");
    explicit_bzero(line, sizeof line);
    return *out;
}

/* Replaces *out by a copy of `text`, unless that is NULL. */
static bool override(char **out, const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    if (!text)
        return true;
    free(*out);
    *out = copy;
    return copy;
}

static bool find_upstream(const struct config *config, struct upstream_address *out,
                          char error[SETTING_ERROR_MAX])
{
    char *from_file = NULL;
    const char *file = config->upstream_password_file;
    const char *wrong = upstream_address_parse(config->upstream_url, out);
    snprintf(error, SETTING_ERROR_MAX, "%s", wrong ? wrong : "out of memory");
    bool ok = !wrong && override(&out->user, config->upstream_user) &&
              override(&out->password, config->upstream_password) &&
              (!file || read_first_line(file, &from_file, error)) &&
              override(&out->password, from_file);
    free(from_file);
    if (!ok)
        upstream_address_free(out);
    return ok;
}

static void check_upstream_settings(struct loader *l)
{
    char error[SETTING_ERROR_MAX];
    struct upstream_address address;
    const struct config *config = l->config;
    const char *file = config->upstream_password_file;
    if (file && config->upstream_password)
        complain(l, FROM_DEFAULT,
                 "upstream.password, upstream.password_file: only one of them can be used");
    else if (!find_upstream(config, &address, error))
        complain(l, FROM_DEFAULT, "upstream.password_file=%s: %s", file ? file : "", error);
    else {
        if (address.user && !address.password)
            complain(l, FROM_DEFAULT,
                     "upstream: a user without a password; give it in the URL "
                     "(user:password@host) or as upstream.password");
        upstream_address_free(&address);
    }
}

static void check_together(struct loader *l)
{
    if (!l->config->service)
        complain(l, FROM_DEFAULT,
                 "the service's name is missing: give --service NAME, "
                 "NEARCACHE_SERVICE or \"service\" in the file");
    check_upstream_settings(l);
}

/* --- --help, --print-config ------------------------------------------------------------------ */

/* Prints `text` in the right column, which the cursor has reached. */
static void print_wrapped(FILE *out, const char *text)
{
    const size_t width = HELP_WIDTH - HELP_COLUMN;
    while (strlen(text) > width) {
        size_t n = width;
        while (n > 0 && text[n] != ' ')
            n--;
        if (n == 0)
            n = width;
        fprintf(out, "%.*s\n%*s", (int)n, text, HELP_COLUMN, "");
        text += n;
        text += strspn(text, " ");
    }
    fprintf(out, "%s\n", text);
}

static void print_setting_help(FILE *out, const struct setting *s)
{
    char text[MESSAGE_BYTES];
    int n = fprintf(out, "  %s=%s", s->path, s->type == SETTING_BOOL ? "true|false" : s->unit);
    if (n < HELP_COLUMN - 1)
        fprintf(out, "%*s", HELP_COLUMN - n, "");
    else
        fprintf(out, "\n%*s", HELP_COLUMN, "");
    snprintf(text, sizeof text, "%s%s%s%s", s->help, s->initial ? " [" : "",
             s->initial ? s->initial : "", s->initial ? "]" : "");
    print_wrapped(out, text);
}

static void print_help(FILE *out)
{
    fputs("nearcache " NEARCACHE_VERSION
          ": a near cache beside your service, in front of a shared Redis\n"
          "\n"
          "usage: nearcache --service NAME [--namespace PREFIX] [--listen ADDRESS]... [--upstream "
          "URL]\n"
          "                 [--config FILE] [--set path=value]... [--dev]\n"
          "                 [--check | --print-config | --help | --version]\n"
          "\n"
          "  --upstream URL                      short for --set upstream.url=URL\n"
          "  --config FILE                       a JSON file: {\"service\": \"x\", \"l1\": "
          "{\"ttl\": \"5s\"}}\n"
          "  --set path=value                    any of the settings below; --path=value does the "
          "same\n"
          "  --check                             say whether the configuration is right, and exit\n"
          "  --print-config                      print all settings as such a file, and exit\n"
          "  --help, --version                   print this or the version, and exit\n"
          "\n"
          "A setting is taken from the command line, else from the environment (l1.max_memory is\n"
          "NEARCACHE_L1_MAX_MEMORY, --config is NEARCACHE_CONFIG), else from the file, else it has "
          "its\n"
          "default. Sizes are like 64mb, times like 500ms, 60s, 5m or 1h. In lists commas part the "
          "items.\n"
          "\n"
          "settings [default]:\n",
          out);
    for (size_t i = 0; i < N_SETTINGS; i++)
        print_setting_help(out, &settings[i]);
}

static bool print_value(const struct config *config, const struct setting *s, FILE *out)
{
    if (strcmp(s->path, "upstream.url") != 0)
        return setting_print(s, config, out);
    char *shown = upstream_url_redacted(config->upstream_url);
    char *text = shown ? json_print_string(shown) : NULL;
    if (text)
        fputs(text, out);
    free(shown);
    free(text);
    return text;
}

static bool print_origin(const struct loader *l, size_t i, FILE *out)
{
    char variable[NAME_BYTES], text[MESSAGE_BYTES] = "command line";
    const struct origin *origin = &l->origins[i];
    environment_name(settings[i].path, variable);
    if (origin->source == FROM_FILE)
        snprintf(text, sizeof text, "%s:%u", l->file, origin->line);
    else if (origin->source == FROM_ENVIRONMENT)
        snprintf(text, sizeof text, "environment %s", variable);
    char *quoted = json_print_string(text);
    if (quoted)
        fprintf(out, "    \"%s\": %s", settings[i].path, quoted);
    free(quoted);
    return quoted;
}

/* The "_from" member tells where each value comes from that is not the default. */
static bool print_config(const struct loader *l, FILE *out)
{
    bool ok = true, first = true;
    fputs("{\n", out);
    for (size_t i = 0; ok && i < N_SETTINGS; i++) {
        fprintf(out, "  \"%s\": ", settings[i].path);
        ok = print_value(l->config, &settings[i], out);
        fputs(",\n", out);
    }
    fputs("  \"_from\": {", out);
    for (size_t i = 0; ok && i < N_SETTINGS; i++) {
        if (l->origins[i].source == FROM_DEFAULT)
            continue;
        fputs(first ? "\n" : ",\n", out);
        ok = print_origin(l, i, out);
        first = false;
    }
    fputs("\n  }\n}\n", out);
    return ok;
}

/* --- the whole ------------------------------------------------------------------------------- */

static void load(struct loader *l, struct arguments args, char **envp)
{
    assign_defaults(l);
    if (l->file)
        assign_file(l);
    assign_environment(l, envp);
    assign_command_line(l, args);
    if (l->errors + l->usage_errors == 0)
        check_together(l);
}

/* The exit code of what was asked for instead of running. */
static int grant(struct loader *l, const struct wishes *wishes, FILE *out)
{
    if (l->usage_errors || l->errors)
        return l->usage_errors ? 2 : 1;
    if (wishes->check)
        fputs("configuration ok\n", out);
    else if (!print_config(l, out))
        complain(l, FROM_DEFAULT, "out of memory");
    if (fflush(out) != 0)
        complain(l, FROM_DEFAULT, "cannot write: %s", strerror(errno));
    return l->errors ? 1 : 0;
}

enum config_action config_load(struct config *config, int argc, char **argv, char **envp, FILE *out,
                               FILE *err, int *exit_code)
{
    struct loader l = {.config = config, .err = err};
    struct wishes wishes = {.file = environment_value(envp, ENVIRONMENT_PREFIX "CONFIG")};
    struct arguments args = {argc > 0 ? argv + 1 : argv, argv + argc};
    *config = (struct config){0};
    read_wishes(&l, args, &wishes);
    l.file = wishes.file;
    *exit_code = 0;
    if (l.usage_errors) {
        fputs("nearcache: see nearcache --help\n", err);
        *exit_code = 2;
        return CONFIG_EXIT;
    }
    if (wishes.help || wishes.version) {
        if (wishes.help)
            print_help(out);
        else
            fputs("nearcache " NEARCACHE_VERSION "\n", out);
        return CONFIG_EXIT;
    }
    load(&l, args, envp);
    if (l.errors + l.usage_errors == 0 && !wishes.check && !wishes.print_config)
        return CONFIG_RUN;
    *exit_code = grant(&l, &wishes, out);
    config_free(config);
    return CONFIG_EXIT;
}

bool config_reload(struct config *config, int argc, char **argv, char **envp, FILE *err,
                   void (*changed)(void *ctx, const char *path),
                   void (*refused)(void *ctx, const char *path), void *ctx)
{
    struct config fresh;
    int exit_code;
    if (config_load(&fresh, argc, argv, envp, err, err, &exit_code) != CONFIG_RUN)
        return false;
    for (size_t i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        if (setting_equal(s, config, &fresh))
            continue;
        if (s->reload)
            setting_swap(s, config, &fresh);
        (s->reload ? changed : refused)(ctx, s->path);
    }
    config_free(&fresh);
    return true;
}

void config_free(struct config *config)
{
    for (size_t i = 0; i < N_SETTINGS; i++)
        setting_clear(&settings[i], config);
}

bool config_upstream(const struct config *config, struct upstream_address *out)
{
    char error[SETTING_ERROR_MAX];
    return find_upstream(config, out, error);
}

bool config_listen(const char *text, struct listen_address *out)
{
    return !listen_address_parse(text, out);
}

char *config_namespace(const struct config *config)
{
    char *prefix = NULL;
    if (config->namespace_)
        return strdup(config->namespace_);
    return asprintf(&prefix, "%s:", config->service) < 0 ? NULL : prefix;
}
