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
#include <unistd.h>

#include "json.h"
#include "options.h"
#include "rules.h"

#ifndef NEARCACHE_VERSION
#define NEARCACHE_VERSION "0.1.0"
#endif

#define ENVIRONMENT_PREFIX "NEARCACHE_"

/* The table's TYPE column as setting.h knows it. */
#define KIND_STRING                SETTING_STRING
#define KIND_SECRET                SETTING_SECRET
#define KIND_LIST                  SETTING_LIST
#define KIND_BYTES                 SETTING_BYTES
#define KIND_DURATION              SETTING_DURATION
#define KIND_COUNT                 SETTING_COUNT
#define KIND_BOOL                  SETTING_BOOL
#define KIND_ENUM_tracking         SETTING_ENUM
#define KIND_ENUM_tracking_mode    SETTING_ENUM
#define KIND_ENUM_publish          SETTING_ENUM
#define KIND_ENUM_admin_commands   SETTING_ENUM
#define KIND_ENUM_log_level        SETTING_ENUM
#define KIND_ENUM_tls_auth_clients SETTING_ENUM

static const struct setting settings[] = {
#define SETTING(field, path, type, ...)                                                            \
    {path, KIND_##type, offsetof(struct config, field), __VA_ARGS__},
#include "config.def"
#undef SETTING
};

static const struct setting_table table = {settings, sizeof settings / sizeof *settings};

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

/* "l1.max_memory" -> "NEARCACHE_L1_MAX_MEMORY" */
static void environment_name(const char *path, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, ENVIRONMENT_PREFIX "%s", path);
    for (char *p = name; *p; p++)
        *p = *p == '.' || *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

/* Where the value of s comes from. */
static void describe_origin(const struct loader *l, const struct setting *s,
                            char text[MESSAGE_BYTES])
{
    char variable[NAME_BYTES];
    const struct origin *origin = &l->origins[s - settings];
    environment_name(s->path, variable);
    if (origin->source == FROM_FILE)
        snprintf(text, MESSAGE_BYTES, "%s:%u", l->file, origin->line);
    else if (origin->source == FROM_ENVIRONMENT)
        snprintf(text, MESSAGE_BYTES, "environment %s", variable);
    else
        snprintf(text, MESSAGE_BYTES, "%s",
                 origin->source == FROM_DEFAULT ? "default" : "command line");
}

/* --- assigning ------------------------------------------------------------------------------- */

struct assignment {
    const struct setting *setting;
    const char *text;
    struct origin origin;
    unsigned how;      /* SETTING_ADD: to what the same source gave before; SETTING_ITEM */
    const char *where; /* "--set l1.ttl": how an error calls it */
};

/* What a URL has before an '@' may be a password, and what behind a '?' was meant to be one. */
static bool may_show(const struct setting *s, const char *text)
{
    return s->type != SETTING_SECRET && !(strcmp(s->unit, "url") == 0 && strpbrk(text, "@?"));
}

static void assign(struct loader *l, const struct assignment *a)
{
    char error[SETTING_ERROR_MAX];
    const struct setting *s = a->setting;
    l->origins[s - settings] = a->origin;
    if (setting_set(s, l->config, a->text, a->how, error) && rules_check(s, l->config, error))
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

/* What the file has for s (NULL: a group), in words. */
static const char *found_type(const struct setting *s, const struct json_value *v)
{
    static const char *const names[] = {
        [JSON_STRING] = "a string",      [JSON_NUMBER] = "a number",
        [JSON_BOOL] = "true or false",   [JSON_NULL] = "null",
        [JSON_ARRAY] = "an empty array", [JSON_OBJECT] = "an empty object"};
    bool list = s && s->type == SETTING_LIST;
    return v->index >= 0 && !list ? "an array" : names[v->type];
}

/* The JSON types that s takes, in words. NULL: this is one of them. */
static const char *expected_type(const struct setting *s, const struct json_value *v)
{
    bool scalar = v->index < 0, string = v->type == JSON_STRING, number = v->type == JSON_NUMBER;
    switch (s->type) {
    case SETTING_STRING:
    case SETTING_SECRET:
    case SETTING_ENUM:
        return scalar && string ? NULL : "a string";
    case SETTING_LIST:
        return string ? NULL : "a string or an array of strings";
    case SETTING_BYTES:
    case SETTING_DURATION:
        return scalar && (string || number) ? NULL : "a string or a number";
    case SETTING_COUNT:
        return scalar && (string || number) ? NULL : "a number";
    case SETTING_BOOL:
        return scalar && (string || v->type == JSON_BOOL) ? NULL : "true or false";
    }
    return NULL;
}

/* Whether settings have paths that start with "path.". */
static bool is_group(const char *path)
{
    size_t n = strlen(path);
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (strncmp(settings[i].path, path, n) == 0 && settings[i].path[n] == '.')
            return true;
    return false;
}

static void unknown_member(struct loader *l, const struct json_value *v)
{
    if (is_group(v->path)) {
        bool empty = v->index < 0 && (v->type == JSON_OBJECT || v->type == JSON_NULL);
        if (!empty)
            complain(l, FROM_FILE, "%s:%u: %s: expected an object of settings, not %s", l->file,
                     v->line, v->path, found_type(NULL, v));
        return;
    }
    const char *nearest = setting_nearest(&table, v->path);
    complain(l, FROM_FILE, "%s:%u: unknown setting \"%s\"%s%s%s", l->file, v->line, v->path,
             nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

static void assign_known(struct loader *l, const struct setting *s, const struct json_value *v)
{
    char where[MESSAGE_BYTES];
    struct origin before = l->origins[s - settings];
    const char *expected = expected_type(s, v);
    snprintf(where, sizeof where, "%s:%u: %s", l->file, v->line, s->path);
    l->origins[s - settings] = (struct origin){FROM_FILE, v->line};
    if (before.source == FROM_FILE && v->index <= 0)
        complain(l, FROM_FILE, "%s: given twice, first in line %u", where, before.line);
    else if (expected)
        complain(l, FROM_FILE, "%s: expected %s, not %s", where, expected, found_type(s, v));
    else
        assign(l, &(struct assignment){.setting = s,
                                       .text = v->text,
                                       .origin = {FROM_FILE, v->line},
                                       .how = (v->index > 0 ? SETTING_ADD : 0U) |
                                              (v->index >= 0 ? SETTING_ITEM : 0U),
                                       .where = where});
}

/* A name with a leading underscore is a comment, as JSON has no others; null: not given here. */
static bool assign_member(void *ctx, const struct json_value *v)
{
    struct loader *l = ctx;
    const struct setting *s = setting_find(&table, v->path);
    bool one_of_many = v->index > 0 && (!s || s->type != SETTING_LIST); /* was told already */
    if (*v->path == '_' || one_of_many)
        return true;
    if (!s)
        unknown_member(l, v);
    else if (v->type != JSON_NULL || v->index >= 0)
        assign_known(l, s, v);
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
    if (!*l->file) {
        complain(l, FROM_FILE, "--config or NEARCACHE_CONFIG: the file's name is empty");
        return;
    }
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
    const char *nearest = setting_nearest(&table, name + strlen(ENVIRONMENT_PREFIX));
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

/* What the command line asks for besides settings. */
struct wishes {
    const char *file;
    bool check, print_config, help, version;
};

static void read_wishes(struct loader *l, struct arguments args, struct wishes *wishes)
{
    struct option o;
    while (options_next(&args, &o)) {
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
    while (options_next(&args, &o)) {
        if (o.kind != OPTION_SETTING)
            continue;
        bool again = l->origins[o.setting - settings].source == FROM_COMMAND_LINE;
        assign(l, &(struct assignment){.setting = o.setting,
                                       .text = o.value,
                                       .origin = {.source = FROM_COMMAND_LINE},
                                       .how = again ? SETTING_ADD : 0,
                                       .where = o.where});
    }
}

/* --- settings that depend on each other ------------------------------------------------------ */

char *config_first_line(const char *path, char error[SETTING_ERROR_MAX])
{
    char *copy;
    char line[PASSWORD_LINE_MAX] = "";
    FILE *f = fopen(path, "re");
    bool ok = f && (fgets(line, sizeof line, f) || !ferror(f));
    if (!ok)
        snprintf(error, SETTING_ERROR_MAX, "%s", strerror(errno));
    if (f)
        fclose(f);
    if (!ok)
        return NULL;
    size_t whole = strlen(line), n = strcspn(line, "\r\n");
    line[n] = '\0';
    if (n == 0 || whole == sizeof line - 1) {
        snprintf(error, SETTING_ERROR_MAX,
                 n ? "its first line is too long" : "its first line is empty");
        return NULL;
    }
    copy = strdup(line);
    if (!copy)
        snprintf(error, SETTING_ERROR_MAX, "out of memory");
    explicit_bzero(line, sizeof line);
    return copy;
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
              (!file || (from_file = config_first_line(file, error))) &&
              override(&out->password, from_file);
    free(from_file);
    if (!ok)
        upstream_address_free(out);
    return ok;
}

static void check_upstream(struct loader *l)
{
    char error[SETTING_ERROR_MAX], where[MESSAGE_BYTES];
    struct upstream_address address;
    const char *file = l->config->upstream_password_file;
    describe_origin(l, setting_find(&table, "upstream.password_file"), where);
    if (file && l->config->upstream_password)
        complain(l, FROM_DEFAULT,
                 "%s: upstream.password_file: there is an upstream.password already", where);
    else if (!find_upstream(l->config, &address, error))
        complain(l, FROM_DEFAULT, "%s: upstream.password_file=%s: %s", where, file ? file : "",
                 error);
    else {
        if (address.user && !address.password)
            complain(l, FROM_DEFAULT,
                     "upstream: a user without a password; give it in the URL "
                     "(user:password@host) or as upstream.password");
        upstream_address_free(&address);
    }
}

/* --- TLS and who may connect ----------------------------------------------------------------- */

/* The file of a STRING setting, if it has one, can be read; a password's has a first line. */
static void check_file(struct loader *l, const char *path)
{
    char where[MESSAGE_BYTES], error[SETTING_ERROR_MAX] = "";
    const struct setting *s = setting_find(&table, path);
    const char *file = setting_string(s, l->config);
    bool ok = !file || access(file, R_OK) == 0;
    if (!ok) {
        snprintf(error, sizeof error, "%s", strerror(errno));
    } else if (file && ends_with(path, "password_file")) {
        char *password = config_first_line(file, error);
        ok = password;
        free(password);
    }
    if (ok)
        return;
    describe_origin(l, s, where);
    complain(l, FROM_DEFAULT, "%s: %s=%s: %s", where, path, file, error);
}

static enum source source_of(const struct loader *l, const char *path)
{
    return l->origins[setting_find(&table, path) - settings].source;
}

static bool is_given(const struct loader *l, const char *path)
{
    return source_of(l, path) != FROM_DEFAULT;
}

/* `path` was given, and makes no sense because of what `why` says. */
static void complain_of(struct loader *l, const char *path, const char *why)
{
    char where[MESSAGE_BYTES];
    describe_origin(l, setting_find(&table, path), where);
    complain(l, FROM_DEFAULT, "%s: %s: %s", where, path, why);
}

static void check_tls_files(struct loader *l)
{
    static const char *const files[] = {"tls.cert_file",
                                        "tls.key_file",
                                        "tls.key_password_file",
                                        "tls.ca_file",
                                        "upstream.tls.ca_file",
                                        "upstream.tls.ca_dir",
                                        "upstream.tls.cert_file",
                                        "upstream.tls.key_file",
                                        "upstream.tls.key_password_file"};
    static const char *const needs_upstream[] = {"upstream.tls.ca_file", "upstream.tls.ca_dir",
                                                 "upstream.tls.cert_file",
                                                 "upstream.tls.server_name"};
    const struct config *c = l->config;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        check_file(l, files[i]);
    if (c->tls_key_file && !c->tls_cert_file)
        complain_of(l, "tls.key_file", "a key without tls.cert_file");
    if (c->upstream_tls_key_file && !c->upstream_tls_cert_file)
        complain_of(l, "upstream.tls.key_file", "a key without upstream.tls.cert_file");
    if (config_tls_auth_clients(c) != TLS_AUTH_OFF && !c->tls_ca_file)
        complain_of(l, "tls.auth_clients", "needs tls.ca_file, the authorities of the clients");
    struct upstream_address address;
    if (c->dev || upstream_address_parse(c->upstream_url, &address))
        return;
    for (size_t i = 0; !address.tls && i < sizeof needs_upstream / sizeof *needs_upstream; i++)
        if (is_given(l, needs_upstream[i])) /* what was meant to be secret would not be */
            complain_of(l, needs_upstream[i], "upstream.url does not begin with rediss://");
    upstream_address_free(&address);
}

static void check_auth(struct loader *l)
{
    const struct config *c = l->config;
    check_file(l, "auth.password_file");
    if (c->auth_password && c->auth_password_file)
        complain_of(l, "auth.password_file", "there is an auth.password already");
    if (c->auth_user && !c->auth_password && !c->auth_password_file)
        complain_of(l, "auth.user", "a user without auth.password or auth.password_file");
}

/* An open port gives everything away: the service's keys, and with them often its users. */
static void check_exposure(struct loader *l, const char *text, const struct listen_address *address)
{
    const struct config *c = l->config;
    char where[MESSAGE_BYTES];
    bool certified = address->tls && config_tls_auth_clients(c) == TLS_AUTH_REQUIRED;
    if (!c->protected_mode || certified || c->auth_password || c->auth_password_file ||
        listen_address_is_local(address))
        return;
    describe_origin(l, setting_find(&table, "listen"), where);
    complain(l, FROM_DEFAULT,
             "%s: listen=%s: whoever reaches this address could read and change the service's "
             "keys without a password. Listen on 127.0.0.1 (the containers of a pod share it), "
             "or give auth.password%s; protected_mode=no allows it as it is",
             where, text,
             address->tls ? ", or tls.ca_file to ask clients for certificates"
                          : ", or listen at tls:host:port and ask clients for certificates "
                            "(tls.ca_file)");
}

static void check_listeners(struct loader *l)
{
    const struct config_list *list = &l->config->listen;
    char where[MESSAGE_BYTES];
    describe_origin(l, setting_find(&table, "listen"), where);
    for (size_t i = 0; i < list->n; i++) {
        struct listen_address address;
        if (listen_address_parse(list->v[i], &address))
            continue; /* it was told where it was assigned */
        if (address.tls && !l->config->tls_cert_file)
            complain(l, FROM_DEFAULT, "%s: listen=%s: needs tls.cert_file and tls.key_file", where,
                     list->v[i]);
        check_exposure(l, list->v[i], &address);
        listen_address_free(&address);
    }
}

static void check_breaker(struct loader *l)
{
    if (l->config->breaker_open_min <= l->config->breaker_open_max)
        return;
    if (is_given(l, "breaker.open_min"))
        complain_of(l, "breaker.open_min", "longer than breaker.open_max");
    else
        complain_of(l, "breaker.open_max", "shorter than breaker.open_min");
}

static void check_output(struct loader *l)
{
    const struct config *c = l->config;
    if (c->client_soft_output > c->client_max_output && is_given(l, "client.soft_output"))
        complain_of(l, "client.soft_output", "more than client.max_output, which comes first");
}

/* An upstream that is given elsewhere, as in a container's environment, --dev overrules. */
static void check_dev(struct loader *l)
{
    if (l->config->dev && source_of(l, "upstream.url") == FROM_COMMAND_LINE)
        complain_of(l, "upstream.url",
                    "--dev brings an upstream of its own; leave out one of them");
}

static void check_together(struct loader *l)
{
    if (!l->config->service)
        complain(l, FROM_DEFAULT,
                 "the service's name is missing: give --service NAME, "
                 "NEARCACHE_SERVICE or \"service\" in the file");
    check_upstream(l);
    check_dev(l);
    check_breaker(l);
    check_output(l);
    check_tls_files(l);
    check_auth(l);
    check_listeners(l);
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
    int n = fprintf(out, "%s%s=%s", s->reload ? "  " : "* ", s->path,
                    s->type == SETTING_BOOL ? "true|false" : s->unit);
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
    static const char *const lines[] = {
        "usage: nearcache --service NAME [--namespace PREFIX] [--listen ADDRESS]...",
        "                 [--upstream URL] [--config FILE] [--set path=value]... [--dev]",
        "                 [--check | --print-config | --help | --version]",
        "",
        "  --upstream URL     short for --set upstream.url=URL",
        "  --config FILE      a JSON file, like {\"service\": \"x\", \"l1\": {\"ttl\": \"5s\"}}",
        "  --set path=value   any of the settings below; --path=value does the same",
        "  --check            say whether the configuration is right, and exit",
        "  --print-config     print all settings as such a file (secrets as ***), and exit",
        "  --help, --version  print this or the version, and exit",
        "",
        "A setting is taken from the command line, else from the environment (l1.max_memory is",
        "NEARCACHE_L1_MAX_MEMORY, --config is NEARCACHE_CONFIG), else from the file, else it has",
        "its default. Sizes are like 64mb, times like 500ms, 60s, 5m or 1h; commas part a list.",
        "SIGHUP has the file read again; what is marked * needs a restart.",
        "",
        "settings [default]:",
    };
    fprintf(out, "nearcache %s: a near cache beside your service, before a shared Redis\n\n",
            NEARCACHE_VERSION);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        fprintf(out, "%s\n", lines[i]);
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

static bool print_origin(const struct loader *l, const struct setting *s, FILE *out)
{
    char text[MESSAGE_BYTES];
    describe_origin(l, s, text);
    char *quoted = json_print_string(text);
    if (quoted)
        fprintf(out, "    \"%s\": %s", s->path, quoted);
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
        ok = print_origin(l, &settings[i], out);
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
    struct arguments args = {argc > 0 ? argv + 1 : argv, argv + argc, &table};
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
                   const struct config_reload_hooks *hooks)
{
    struct config fresh;
    int exit_code;
    if (config_load(&fresh, argc, argv, envp, err, err, &exit_code) != CONFIG_RUN)
        return false;
    if (hooks->accept && !hooks->accept(hooks->ctx, &fresh)) {
        config_free(&fresh);
        return false;
    }
    for (size_t i = 0; i < N_SETTINGS; i++) {
        const struct setting *s = &settings[i];
        if (setting_equal(s, config, &fresh))
            continue;
        if (s->reload)
            setting_swap(s, config, &fresh);
        (s->reload ? hooks->changed : hooks->refused)(hooks->ctx, s->path);
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

bool config_auth_password(const struct config *config, char **out, char error[SETTING_ERROR_MAX])
{
    const char *file = config->auth_password_file;
    *out = NULL;
    if (!file && !config->auth_password)
        return true;
    snprintf(error, SETTING_ERROR_MAX, "out of memory");
    *out = file ? config_first_line(file, error) : strdup(config->auth_password);
    return *out;
}

bool config_listen(const char *text, struct listen_address *out)
{
    return !listen_address_parse(text, out);
}

enum tls_auth_clients config_tls_auth_clients(const struct config *config)
{
    if (config->tls_auth_clients != TLS_AUTH_AUTO)
        return config->tls_auth_clients;
    return config->tls_ca_file ? TLS_AUTH_REQUIRED : TLS_AUTH_OFF;
}

char *config_namespace(const struct config *config)
{
    char *prefix = NULL;
    if (config->namespace_)
        return strdup(config->namespace_);
    return asprintf(&prefix, "%s:", config->service) < 0 ? NULL : prefix;
}
