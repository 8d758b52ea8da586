/* test_config.c - settings: every source and their order, every error, printing, reloading. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config.h"
#include "nearest.h"

enum { ARGS_MAX = 16 };

/* One call of config_load: what went in and what came out. */
struct run {
    char *args[ARGS_MAX], *env[ARGS_MAX];
    int argc, n_env;
    int file; /* a memory file, or -1 */
    char file_name[32];
    char *out, *err;
    size_t out_len, err_len;
    struct config config;
    enum config_action action;
    int exit_code;
};

static void arg(struct run *r, const char *text)
{
    ck_assert_int_lt(r->argc, ARGS_MAX - 1);
    r->args[r->argc++] = strdup(text);
    r->args[r->argc] = NULL;
}

static void env(struct run *r, const char *text)
{
    ck_assert_int_lt(r->n_env, ARGS_MAX - 1);
    r->env[r->n_env++] = strdup(text);
    r->env[r->n_env] = NULL;
}

static void write_file(struct run *r, const char *text)
{
    ck_assert_int_eq(ftruncate(r->file, 0), 0);
    ck_assert_int_eq((int)pwrite(r->file, text, strlen(text), 0), (int)strlen(text));
}

static void file(struct run *r, const char *text)
{
    r->file = memfd_create("config", 0);
    ck_assert_int_ge(r->file, 0);
    snprintf(r->file_name, sizeof r->file_name, "/proc/self/fd/%d", r->file);
    write_file(r, text);
    arg(r, "--config");
    arg(r, r->file_name);
}

/* With arguments, each one word of `args`; `environment` may be NULL. */
static void run_init(struct run *r, const char *args, const char *environment)
{
    *r = (struct run){.file = -1};
    char *words = strdup(args), *rest = words;
    arg(r, "nearcache");
    for (char *word; (word = strsep(&rest, " "));)
        if (*word)
            arg(r, word);
    free(words);
    if (environment)
        env(r, environment);
}

static void load(struct run *r)
{
    FILE *out = open_memstream(&r->out, &r->out_len), *err = open_memstream(&r->err, &r->err_len);
    r->action = config_load(&r->config, r->argc, r->args, r->env, out, err, &r->exit_code);
    fclose(out);
    fclose(err);
}

static void run_free(struct run *r)
{
    if (r->action == CONFIG_RUN)
        config_free(&r->config);
    for (int i = 0; i < r->argc; i++)
        free(r->args[i]);
    for (int i = 0; i < r->n_env; i++)
        free(r->env[i]);
    if (r->file >= 0)
        close(r->file);
    free(r->out);
    free(r->err);
}

/* The name of the file in an expected text is written FILE. Freed by the caller. */
static char *without_name(const struct run *r, const char *text)
{
    char *result = NULL;
    size_t len = 0, n = strlen(r->file_name);
    FILE *f = open_memstream(&result, &len);
    for (const char *p; n && (p = strstr(text, r->file_name)); text = p + n)
        fprintf(f, "%.*sFILE", (int)(p - text), text);
    fputs(text, f);
    fclose(f);
    return result;
}

/* --- values and sources ---------------------------------------------------------------------- */

START_TEST(test_defaults)
{
    struct run r;
    run_init(&r, "--service shop", NULL);
    load(&r);
    ck_assert_int_eq(r.action, CONFIG_RUN);
    ck_assert_str_eq(r.err, "");
    ck_assert_str_eq(r.config.service, "shop");
    ck_assert_ptr_null(r.config.namespace_);
    ck_assert_uint_eq(r.config.listen.n, 1);
    ck_assert_str_eq(r.config.listen.v[0], "127.0.0.1:6380");
    ck_assert_uint_eq(r.config.l1_max_memory, 64 << 20);
    ck_assert_uint_eq(r.config.l1_ttl, 60000);
    ck_assert_uint_eq(r.config.max_clients, 10000);
    ck_assert_int_eq(r.config.tracking, TRACKING_AUTO);
    ck_assert_int_eq(r.config.log_level, LOG_INFO);
    ck_assert(!r.config.dev);
    char *prefix = config_namespace(&r.config);
    ck_assert_str_eq(prefix, "shop:");
    free(prefix);
    run_free(&r);
}
END_TEST

/* Bit 0 of `which`: the file gives them all; 1: the environment; 2: the command line. */
static void add_layers(struct run *r, int which)
{
    static const char *const variables[] = {
        "NEARCACHE_L1_TTL=2s",
        "NEARCACHE_L1_MAX_MEMORY=2mb",
        "NEARCACHE_MAXCLIENTS=2",
        "NEARCACHE_LOG_LEVEL=warn",
        "NEARCACHE_DEV=off",
        "NEARCACHE_LISTEN=:3, :4 ,:5",
        "NEARCACHE_NAMESPACE=variable",
    };
    static const char *const options[] = {
        "--l1.ttl=3s", "--set=l1.max_memory=3mb", "--maxclients=3", "--log.level=error", "--dev",
        "--listen=:6", "--namespace=option",
    };
    if (which & 1)
        file(r, "{\"l1\":{\"ttl\":\"1s\",\"max_memory\":1048576},\"maxclients\":1,"
                "\"log.level\":\"debug\",\"dev\":true,\"listen\":[\":1\",\":2\"],"
                "\"namespace\":\"file\"}");
    for (size_t i = 0; which & 2 && i < sizeof variables / sizeof *variables; i++)
        env(r, variables[i]);
    for (size_t i = 0; which & 4 && i < sizeof options / sizeof *options; i++)
        arg(r, options[i]);
}

START_TEST(test_precedence)
{
    static const struct {
        uint64_t ttl, memory, clients;
        enum log_level level;
        bool dev;
        size_t n_listen;
        const char *listen, *namespace_;
    } expected[] = {
        {60000, 64 << 20, 10000, LOG_INFO, false, 1, "127.0.0.1:6380", NULL},
        {1000, 1 << 20, 1, LOG_DEBUG, true, 2, ":1", "file"},
        {2000, 2 << 20, 2, LOG_WARN, false, 3, ":3", "variable"},
        {3000, 3 << 20, 3, LOG_ERROR, true, 1, ":6", "option"},
    };
    struct run r;
    int highest = _i & 4 ? 3 : _i & 2 ? 2 : _i & 1;
    run_init(&r, "--service s --protected_mode=no", NULL);
    add_layers(&r, _i);
    load(&r);
    ck_assert_msg(r.action == CONFIG_RUN, "%s", r.err);
    ck_assert_uint_eq(r.config.l1_ttl, expected[highest].ttl);
    ck_assert_uint_eq(r.config.l1_max_memory, expected[highest].memory);
    ck_assert_uint_eq(r.config.max_clients, expected[highest].clients);
    ck_assert_int_eq(r.config.log_level, expected[highest].level);
    ck_assert_int_eq(r.config.dev, expected[highest].dev);
    ck_assert_uint_eq(r.config.listen.n, expected[highest].n_listen);
    ck_assert_str_eq(r.config.listen.v[0], expected[highest].listen);
    ck_assert_pstr_eq(r.config.namespace_, expected[highest].namespace_);
    run_free(&r);
}
END_TEST

START_TEST(test_forms_of_options)
{
    struct run r;
    run_init(&r,
             "--service=a --service b --listen :1 --listen=:2,:3 --set listen=:4 --upstream "
             "redis://h/3 --namespace= --dev=no --set l1.max_memory=0",
             "NEARCACHE_PROTECTED_MODE=no");
    load(&r);
    ck_assert_msg(r.action == CONFIG_RUN, "%s", r.err);
    ck_assert_str_eq(r.config.service, "b"); /* the last one counts; lists add up */
    ck_assert_uint_eq(r.config.listen.n, 4);
    ck_assert_str_eq(r.config.listen.v[3], ":4");
    ck_assert_str_eq(r.config.upstream_url, "redis://h/3");
    ck_assert_uint_eq(r.config.l1_max_memory, 0);
    ck_assert(!r.config.dev);
    char *prefix = config_namespace(&r.config);
    ck_assert_str_eq(prefix, "");
    free(prefix);
    run_free(&r);
}
END_TEST

START_TEST(test_file_from_environment)
{
    struct run r;
    char variable[64];
    run_init(&r, "", NULL);
    file(&r, "{\"service\":\"s\",\"_comment\":\"_ is one\",\"l1\":{},\"upstream.user\":null}");
    r.argc -= 2; /* --config FILE */
    snprintf(variable, sizeof variable, "NEARCACHE_CONFIG=%s", r.args[r.argc + 1]);
    free(r.args[r.argc]);
    free(r.args[r.argc + 1]);
    env(&r, variable);
    load(&r);
    ck_assert_msg(r.action == CONFIG_RUN, "%s", r.err);
    ck_assert_str_eq(r.config.service, "s");
    run_free(&r);
}
END_TEST

START_TEST(test_kubernetes_variables)
{
    static const char *const injected[] = {
        "NEARCACHE_SERVICE_HOST=10.0.0.1",
        "NEARCACHE_SERVICE_PORT=6380",
        "NEARCACHE_SERVICE_PORT_REDIS=6380",
        "NEARCACHE_PORT=tcp://10.0.0.1:6380",
        "NEARCACHE_PORT_6380_TCP=tcp://10.0.0.1:6380",
        "NEARCACHE_PORT_6380_TCP_ADDR=10.0.0.1",
        "NEARCACHE_ADMIN_SERVICE_HOST=10.0.0.2",
        "NEARCACHE_ADMIN_PORT_80_TCP_PROTO=tcp",
        "OTHER=1",
        "NEARCACHE",
    };
    struct run r;
    run_init(&r, "", "NEARCACHE_SERVICE=s");
    for (size_t i = 0; i < sizeof injected / sizeof *injected; i++)
        env(&r, injected[i]);
    load(&r);
    ck_assert_msg(r.action == CONFIG_RUN, "%s", r.err);
    ck_assert_str_eq(r.config.service, "s");
    run_free(&r);
}
END_TEST

/* --- errors ---------------------------------------------------------------------------------- */

#define SEE_HELP "nearcache: see nearcache --help\n"
#define EXPOSED                                                                                    \
    "whoever reaches this address could read and change the service's keys without a "             \
    "password. Listen on 127.0.0.1 (the containers of a pod share it), or give auth.password"
#define TIMES "(like 500ms, 60s, 5m, 1h)\n"

static const struct {
    const char *args, *env, *file;
    int exit_code;
    const char *err;
} errors[] = {
    /* the command line */
    {"--servce s", NULL, NULL, 2,
     "nearcache: --servce: no such option; did you mean --service?\n" SEE_HELP},
    {"--chekc", NULL, NULL, 2,
     "nearcache: --chekc: no such option; did you mean --check?\n" SEE_HELP},
    {"--ttl=5s", NULL, NULL, 2,
     "nearcache: --ttl: no such option; did you mean --l1.ttl?\n" SEE_HELP},
    {"--zzzzzz", NULL, NULL, 2, "nearcache: --zzzzzz: no such option\n" SEE_HELP},
    {"stray", NULL, NULL, 2, "nearcache: stray: unexpected argument\n" SEE_HELP},
    {"--", NULL, NULL, 2, "nearcache: --: unexpected argument\n" SEE_HELP},
    {"-x", NULL, NULL, 2, "nearcache: -x: unexpected argument\n" SEE_HELP},
    {"--service", NULL, NULL, 2, "nearcache: --service: its value is missing\n" SEE_HELP},
    {"--service --dev", NULL, NULL, 2, "nearcache: --service: its value is missing\n" SEE_HELP},
    {"--check=1", NULL, NULL, 2, "nearcache: --check: takes no value\n" SEE_HELP},
    {"--set l1.ttl", NULL, NULL, 2, "nearcache: --set l1.ttl: expected path=value\n" SEE_HELP},
    {"--set l1.max_memry=1mb", NULL, NULL, 2,
     "nearcache: --set l1.max_memry: unknown setting; did you mean l1.max_memory?\n" SEE_HELP},
    {"--service s --set l1.ttl=60x", NULL, NULL, 2,
     "nearcache: --set l1.ttl=60x: not a time " TIMES},
    {"--service s --l1.ttl 60", NULL, NULL, 2,
     "nearcache: --l1.ttl=60: a time needs its unit " TIMES},
    {"--service s --dev=maybe", NULL, NULL, 2,
     "nearcache: --dev=maybe: not one of true, false, on, off, yes, no, 1, 0\n"},
    {"--service s --unix.mode 770 --unix.mode=rw", NULL, NULL, 2,
     "nearcache: --unix.mode=rw: not permissions in octal (like 0770)\n"},
    {"--service s --auth.password=", NULL, NULL, 2,
     "nearcache: --auth.password: empty (leave it out instead)\n"},
    {"--service s --listen :1,,:2", NULL, NULL, 2, "nearcache: --listen=:1,,:2: an empty item\n"},
    {"--service s'", NULL, NULL, 2,
     "nearcache: --service=s': not a name of printable ASCII without spaces and quotes\n"},
    /* the environment */
    {"--service s", "NEARCACHE_L1_TLL=5s", NULL, 1,
     "nearcache: environment NEARCACHE_L1_TLL: no such setting; did you mean "
     "NEARCACHE_L1_TTL?\n"},
    {"--service s", "NEARCACHE_PORT=6380", NULL, 1,
     "nearcache: environment NEARCACHE_PORT: no such setting\n"},
    {"--service s", "NEARCACHE_LOG_LEVEL=loud", NULL, 1,
     "nearcache: environment NEARCACHE_LOG_LEVEL=loud: not one of debug|info|warn|error\n"},
    {"--service s", "NEARCACHE_UPSTREAM_PASSWORD=a\nb", NULL, 1,
     "nearcache: environment NEARCACHE_UPSTREAM_PASSWORD: contains a line break or control "
     "character\n"},
    {"--service s", "NEARCACHE_NAMESPACE=a\nb", NULL, 1,
     "nearcache: environment NEARCACHE_NAMESPACE=a?b: contains a line break or control "
     "character\n"},
    {"--service s", "NEARCACHE_CONFIG=", NULL, 1,
     "nearcache: --config or NEARCACHE_CONFIG: the file's name is empty\n"},
    {"--service s", "NEARCACHE_CONFIG=/nowhere/n.json", NULL, 1,
     "nearcache: /nowhere/n.json: No such file or directory\n"},
    {"--service s --config /", NULL, NULL, 1, "nearcache: /: Is a directory\n"},
    /* the file */
    {"--service s", NULL, "{\n\n\"l1\":{\"max_memry\":1}}", 1,
     "nearcache: FILE:3: unknown setting \"l1.max_memry\"; did you mean \"l1.max_memory\"?\n"},
    {"--service s", NULL, "{\"l1_ttl\":\"5s\",\n\"zzzzzz\":[1,2]}", 1,
     "nearcache: FILE:1: unknown setting \"l1_ttl\"; did you mean \"l1.ttl\"?\n"
     "nearcache: FILE:2: unknown setting \"zzzzzz\"\n"},
    {"--service s", NULL, "{\"l1\":\"64mb\",\n\"tls\":[{}]}", 1,
     "nearcache: FILE:1: l1: expected an object of settings, not a string\n"
     "nearcache: FILE:2: tls: expected an object of settings, not an array\n"},
    {"--service s", NULL, "{\"l1\":{\"ttl\":\"5s\"},\n\"l1.ttl\":\"6s\"}", 1,
     "nearcache: FILE:2: l1.ttl: given twice, first in line 1\n"},
    {"--service s", NULL, "{\"listen\":[\":1\"],\n\"listen\":[\":2\",\":3\"]}", 1,
     "nearcache: FILE:2: listen: given twice, first in line 1\n"},
    {"--service s", NULL, "{\"l1.ttl\":5,\n\"dev\":1,\"maxclients\":\"x\"}", 1,
     "nearcache: FILE:1: l1.ttl=5: a time needs its unit " TIMES
     "nearcache: FILE:2: dev: expected true or false, not a number\n"
     "nearcache: FILE:2: maxclients=x: not a number from 1 to 1000000\n"},
    {"", NULL, "{\"service\":5}", 1,
     "nearcache: FILE:1: service: expected a string, not a number\n"},
    {"", NULL, "{\"service\":[\"a\",\"b\"]}", 1,
     "nearcache: FILE:1: service: expected a string, not an array\n"},
    {"--service s", NULL, "{\n\"listen\":[\"[::1]:1\",\n\"10.0.0.1:2\"]}", 1,
     "nearcache: FILE:3: listen=10.0.0.1:2: " EXPOSED
     ", or listen at tls:host:port and ask clients "
     "for certificates (tls.ca_file); protected_mode=no allows it as it is\n"},
    {"--service s --listen tls::1 --tls.cert_file /dev/null --tls.ca_file /dev/null",
     "NEARCACHE_TLS_AUTH_CLIENTS=optional", NULL, 1,
     "nearcache: command line: listen=tls::1: " EXPOSED
     ", or tls.ca_file to ask clients for certificates; protected_mode=no allows it as it is\n"},
    {"--service s --listen tls:localhost:1", NULL, NULL, 1,
     "nearcache: command line: listen=tls:localhost:1: needs tls.cert_file and tls.key_file\n"},
    {"--service s --tls.key_file /dev/null", "NEARCACHE_TLS_CERT_FILE=/nowhere/c", NULL, 1,
     "nearcache: environment NEARCACHE_TLS_CERT_FILE: tls.cert_file=/nowhere/c: No such file or "
     "directory\n"},
    {"--service s --tls.key_file /dev/null --upstream.tls.key_file /dev/null", NULL, NULL, 1,
     "nearcache: command line: tls.key_file: a key without tls.cert_file\n"
     "nearcache: command line: upstream.tls.key_file: a key without upstream.tls.cert_file\n"},
    {"--service s --tls.key_password_file /dev/null", NULL, NULL, 1,
     "nearcache: command line: tls.key_password_file=/dev/null: its first line is empty\n"},
    {"--service s --auth.password_file /dev/null", NULL, NULL, 1,
     "nearcache: command line: auth.password_file=/dev/null: its first line is empty\n"},
    {"--service s --auth.password_file /nowhere/p --listen :1", NULL, NULL, 1,
     "nearcache: command line: auth.password_file=/nowhere/p: No such file or directory\n"},
    {"--service s --auth.password_file /etc/passwd", "NEARCACHE_AUTH_PASSWORD=x", NULL, 1,
     "nearcache: command line: auth.password_file: there is an auth.password already\n"},
    {"--service s", "NEARCACHE_AUTH_USER=x", NULL, 1,
     "nearcache: environment NEARCACHE_AUTH_USER: auth.user: a user without auth.password or "
     "auth.password_file\n"},
    {"--set auth.password:x y --set l1.ttl", NULL, NULL, 2,
     "nearcache: --set auth.password: expected path=value\n"
     "nearcache: --set l1.ttl: expected path=value\n" SEE_HELP},
    {"--auth.pasword:x", NULL, NULL, 2,
     "nearcache: --auth.pasword: no such option; did you mean --auth.password?\n" SEE_HELP},
    {"--service s", "NEARCACHE_TLS_AUTH_CLIENTS=required", NULL, 1,
     "nearcache: environment NEARCACHE_TLS_AUTH_CLIENTS: tls.auth_clients: needs tls.ca_file, the "
     "authorities of the clients\n"},
    {"--service s", NULL, "{\"upstream\":{\"tls\":{\n\"ca_file\":\"/dev/null\"}}}", 1,
     "nearcache: FILE:2: upstream.tls.ca_file: upstream.url does not begin with rediss://\n"},
    {"--service s", NULL, "{\"listen\":[]}", 1,
     "nearcache: FILE:1: listen: expected a string or an array of strings, not an empty array\n"},
    {"--service s", NULL, "{\"listen\":[\":1\",null]}", 1,
     "nearcache: FILE:1: listen: expected a string or an array of strings, not null\n"},
    {"--service s", NULL, "{\"maxclients\":true}", 1,
     "nearcache: FILE:1: maxclients: expected a number, not true or false\n"},
    {"--service s", NULL, "{\"l1.max_memory\":{}}", 1,
     "nearcache: FILE:1: l1.max_memory: expected a string or a number, not an empty object\n"},
    {"--service s", NULL, "{\"l1.max_memory\":1.5}", 1,
     "nearcache: FILE:1: l1.max_memory=1.5: not a size (like 65536, 512kb, 64mb, 1gb)\n"},
    {"--service s", NULL, "{\n\"dev\":fasle}", 1,
     "nearcache: FILE:2: not valid JSON: expected a value, not a word without double quotes\n"},
    {"--service s", NULL, "{\"auth.password\":\"***\"}", 1,
     "nearcache: FILE:1: auth.password: *** stands for what --print-config does not show\n"},
    {"--service s", NULL, "{\"upstream.url\":\"redis://u:***@h\"}", 1,
     "nearcache: FILE:1: upstream.url: *** stands for what --print-config does not show\n"},
    /* all of them are told */
    {"--service s --l1.ttl=1", "NEARCACHE_DEV=2", "{\"x_y_z\":1}", 2,
     "nearcache: FILE:1: unknown setting \"x_y_z\"\n"
     "nearcache: environment NEARCACHE_DEV=2: not one of true, false, on, off, yes, no, 1, 0\n"
     "nearcache: --l1.ttl=1: a time needs its unit " TIMES},
    /* the whole */
    {"--dev", NULL, NULL, 1,
     "nearcache: the service's name is missing: give --service NAME, NEARCACHE_SERVICE or "
     "\"service\" in the file\n"},
    {"--service s --upstream.user u", NULL, NULL, 1,
     "nearcache: upstream: a user without a password; give it in the URL (user:password@host) or "
     "as upstream.password\n"},
    {"--service s --upstream.password_file /nowhere/p", NULL, NULL, 1,
     "nearcache: command line: upstream.password_file=/nowhere/p: No such file or directory\n"},
    {"--service s --upstream.password_file /dev/null", NULL, NULL, 1,
     "nearcache: command line: upstream.password_file=/dev/null: its first line is empty\n"},
    {"--service s --upstream.password p", "NEARCACHE_UPSTREAM_PASSWORD_FILE=/dev/null", NULL, 1,
     "nearcache: environment NEARCACHE_UPSTREAM_PASSWORD_FILE: upstream.password_file: there is an "
     "upstream.password already\n"},
};

START_TEST(test_error)
{
    struct run r;
    run_init(&r, errors[_i].args, errors[_i].env);
    if (errors[_i].file)
        file(&r, errors[_i].file);
    load(&r);
    char *err = without_name(&r, r.err);
    ck_assert_str_eq(err, errors[_i].err);
    ck_assert_int_eq(r.action, CONFIG_EXIT);
    ck_assert_int_eq(r.exit_code, errors[_i].exit_code);
    ck_assert_str_eq(r.out, "");
    free(err);
    run_free(&r);
}
END_TEST

/* error: NULL if the value is right */
static const struct {
    const char *option, *error;
} limits[] = {
    {"l1.max_memory=0", NULL},
    {"l1.max_memory=64kb", NULL},
    {"l1.max_memory=65535", "not from 64kb to 16gb, nor 0"},
    {"l1.max_memory=16GB", NULL},
    {"l1.max_memory=17gb", "not from 64kb to 16gb, nor 0"},
    {"l1.max_memory=99999999999999999999gb", "not a size (like 65536, 512kb, 64mb, 1gb)"},
    {"l1.max_memory=18014398509481985kb", "not a size (like 65536, 512kb, 64mb, 1gb)"},
    {"l1.max_memory=-1", "not a size (like 65536, 512kb, 64mb, 1gb)"},
    {"l1.max_memory=1tb", "not a size (like 65536, 512kb, 64mb, 1gb)"},
    {"l1.max_value=512mb", NULL},
    {"l1.max_value=513mb", "not from 0 to 512mb"},
    {"l1.ttl=0", "not from 1ms to 8760h"},
    {"l1.ttl=1.5s", "not a time (like 500ms, 60s, 5m, 1h)"},
    {"l1.ttl=", "not a time (like 500ms, 60s, 5m, 1h)"},
    {"l1.ttl=999999999999999999h", "not a time (like 500ms, 60s, 5m, 1h)"},
    {"invalidation.lease=100ms", NULL},
    {"invalidation.lease=99ms", "not from 100ms to 1m"},
    {"invalidation.lease=61s", "not from 100ms to 1m"},
    {"upstream.timeout=10ms", NULL},
    {"upstream.timeout=9ms", "not from 10ms to 1h"},
    {"upstream.connect_timeout=0", "not from 10ms to 1h"},
    {"drain_timeout=0", NULL},
    {"upstream.connections=64", NULL},
    {"upstream.connections=0", "not a number from 1 to 64"},
    {"upstream.connections=65", "not a number from 1 to 64"},
    {"maxclients=1x", "not a number from 1 to 1000000"},
    {"invalidation.tracking=ON", NULL},
    {"invalidation.tracking=true", "not one of auto|on|off"},
    {"dev=YES", NULL},
};

START_TEST(test_limit)
{
    struct run r;
    char option[128], expected[256] = "";
    run_init(&r, "--service s", NULL);
    snprintf(option, sizeof option, "--%s", limits[_i].option);
    arg(&r, option);
    load(&r);
    if (limits[_i].error)
        snprintf(expected, sizeof expected, "nearcache: %s: %s\n", option, limits[_i].error);
    ck_assert_str_eq(r.err, expected);
    ck_assert_int_eq(r.action, limits[_i].error ? CONFIG_EXIT : CONFIG_RUN);
    run_free(&r);
}
END_TEST

START_TEST(test_name_lengths)
{
    for (int n = 120; n < 300; n++) {
        struct run r;
        char option[400];
        bool is_namespace = n > 200;
        run_init(&r, "--service s", NULL);
        snprintf(option, sizeof option, "--%s=%0*d", is_namespace ? "namespace" : "service", n, 0);
        arg(&r, option);
        load(&r);
        ck_assert_int_eq(r.action == CONFIG_RUN, n <= (is_namespace ? 256 : 128));
        run_free(&r);
    }
}
END_TEST

START_TEST(test_large_file)
{
    const size_t limit = 1024 * 1024;
    const char *start = "{\"service\":\"s\"";
    for (size_t len = limit; len <= limit + 1; len++) {
        struct run r;
        char *text = malloc(len + 1);
        memset(text, ' ', len);
        memcpy(text, start, strlen(start));
        text[len - 1] = '}';
        text[len] = '\0';
        run_init(&r, "", NULL);
        file(&r, text);
        load(&r);
        char *err = without_name(&r, r.err);
        ck_assert_str_eq(err, len > limit ? "nearcache: FILE: longer than 1 MB\n" : "");
        free(err);
        free(text);
        run_free(&r);
    }
}
END_TEST

START_TEST(test_nearest_name)
{
    static const char *const names[] = {"l1.ttl", "l1.max_memory", "service", "dev", "check"};
    static const struct {
        const char *typed, *nearest;
    } cases[] = {
        {"l1.tll", "l1.ttl"},
        {"L1-TTL", "l1.ttl"},
        {"max_memory", "l1.max_memory"},
        {"serivce", "service"},
        {"sevrice", "service"},
        {"ttl", "l1.ttl"},
        {"dve", "dev"},
        {"chek", "check"},
        {"", NULL},
        {"x", NULL},
        {"abc", NULL},
        {"something_else", NULL},
    };
    char longest[200];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_pstr_eq(nearest_name(cases[i].typed, names, 5), cases[i].nearest);
    memset(longest, 's', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    ck_assert_ptr_null(nearest_name(longest, names, 5));
    const char *const one[] = {longest};
    ck_assert_ptr_null(nearest_name("sssssss", one, 1));
}
END_TEST

/* --- the upstream ---------------------------------------------------------------------------- */

/* Which password and user count: %s in args is the name of the file. */
static const struct {
    const char *args, *file, *user, *password;
} credentials[] = {
    {"--upstream redis://h", "x\n", NULL, NULL},
    {"--upstream redis://u:p@h", "x\n", "u", "p"},
    {"--upstream redis://u:p@h --upstream.user v --upstream.password q", "x\n", "v", "q"},
    {"--upstream redis://u:p@h --upstream.password_file %s", "from file\r\nnot this\n", "u",
     "from file"},
    {"--upstream redis://h --upstream.password_file %s", "no newline", NULL, "no newline"},
};

START_TEST(test_credentials)
{
    struct run r;
    struct upstream_address address;
    char args[256];
    int fd = memfd_create("password", 0);
    char name[32];
    ck_assert_int_gt((int)write(fd, credentials[_i].file, strlen(credentials[_i].file)), 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    const char *s = strstr(credentials[_i].args, "%s");
    snprintf(args, sizeof args, "--service s %.*s%s", s ? (int)(s - credentials[_i].args) : 200,
             credentials[_i].args, s ? name : "");
    run_init(&r, args, NULL);
    load(&r);
    ck_assert_msg(r.action == CONFIG_RUN, "%s", r.err);
    ck_assert(config_upstream(&r.config, &address));
    ck_assert_pstr_eq(address.user, credentials[_i].user);
    ck_assert_pstr_eq(address.password, credentials[_i].password);
    ck_assert_str_eq(address.label, "h:6379");
    upstream_address_free(&address);
    close(fd);
    if (s) /* the file is gone now */
        ck_assert(!config_upstream(&r.config, &address));
    run_free(&r);
}
END_TEST

/* --- printing -------------------------------------------------------------------------------- */

START_TEST(test_help_and_version)
{
    struct run r;
    run_init(&r, _i ? "--version" : "-h --l1.ttl=wrong", "NEARCACHE_L1_TLL=1");
    load(&r);
    ck_assert_int_eq(r.action, CONFIG_EXIT);
    ck_assert_int_eq(r.exit_code, 0);
    ck_assert_str_eq(r.err, "");
    if (_i)
        ck_assert_str_eq(r.out, "nearcache 0.1.0\n");
    size_t column = 0;
    for (const char *p = r.out; *p; p++) {
        column = *p == '\n' ? 0 : column + 1;
        ck_assert_uint_le(column, 100);
    }
#define SETTING(field, path, type, initial, reload, ...)                                           \
    ck_assert(_i || strstr(r.out, reload ? "\n  " path "=" : "\n* " path "="));
#include "config.def"
#undef SETTING
    run_free(&r);
}
END_TEST

START_TEST(test_check)
{
    struct run r;
    run_init(&r, "--check --service s", NULL);
    load(&r);
    ck_assert_int_eq(r.action, CONFIG_EXIT);
    ck_assert_int_eq(r.exit_code, 0);
    ck_assert_str_eq(r.out, "configuration ok\n");
    run_free(&r);
}
END_TEST

static const char unusual[] =
    "{\"service\":\"a\\\\b\",\"namespace\":\"n \\\"\\u00e9\\\":\",\"listen\":[\":1\",\"unix:/a "
    "b\"],"
    "\"upstream.url\":\"unix:/r?db=2\",\"upstream.connections\":3,\"l1.max_memory\":100000,"
    "\"l1.ttl\":\"90s\",\"invalidation.lease\":\"1500ms\",\"l1.max_value\":0,\"dev\":true,"
    "\"protected_mode\":false,"
    "\"admin_commands\":\"allow\",\"log.level\":\"error\",\"client.max_query\":\"3gb\"}";

/* What is printed is read again as the same, and prints the same but for its sources. */
START_TEST(test_print_config_round_trip)
{
    struct run first, second;
    run_init(&first, "--print-config", NULL);
    file(&first, unusual);
    load(&first);
    ck_assert_msg(first.exit_code == 0, "%s", first.err);
    run_init(&second, "--print-config", NULL);
    file(&second, first.out);
    load(&second);
    ck_assert_msg(second.exit_code == 0, "%s", second.err);
    char *from = strstr(first.out, "  \"_from\""), *again = strstr(second.out, "  \"_from\"");
    ck_assert_ptr_nonnull(from);
    ck_assert_ptr_nonnull(again);
    ck_assert_uint_eq((size_t)(from - first.out), (size_t)(again - second.out));
    ck_assert_mem_eq(first.out, second.out, (size_t)(from - first.out));
    ck_assert(strstr(first.out, "\"l1.max_memory\": \"100000b\""));
    ck_assert(strstr(first.out, "\"invalidation.lease\": \"1500ms\""));
    ck_assert(strstr(first.out, "\"listen\": [\":1\", \"unix:/a b\"]"));
    ck_assert(strstr(first.out, "\"upstream.user\": null"));
    run_free(&first);
    run_free(&second);
}
END_TEST

START_TEST(test_print_config_hides_and_tells)
{
    struct run r;
    run_init(&r,
             "--print-config --service s --upstream redis://u:geheim1@h/1 --auth.password geheim3",
             "NEARCACHE_UPSTREAM_PASSWORD=geheim2");
    file(&r, "{\n\"l1.ttl\":\"5s\"}");
    load(&r);
    ck_assert_msg(r.exit_code == 0, "%s", r.err);
    ck_assert_ptr_null(strstr(r.out, "geheim"));
    ck_assert(strstr(r.out, "\"upstream.url\": \"redis://u:***@h/1\""));
    ck_assert(strstr(r.out, "\"auth.password\": \"***\""));
    char *out = without_name(&r, r.out);
    ck_assert_str_eq(strstr(out, "  \"_from\""),
                     "  \"_from\": {\n"
                     "    \"service\": \"command line\",\n"
                     "    \"upstream.url\": \"command line\",\n"
                     "    \"upstream.password\": \"environment NEARCACHE_UPSTREAM_PASSWORD\",\n"
                     "    \"l1.ttl\": \"FILE:2\",\n"
                     "    \"auth.password\": \"command line\"\n"
                     "  }\n}\n");
    free(out);
    run_free(&r);
}
END_TEST

/* --- reloading ------------------------------------------------------------------------------- */

struct told {
    char changed[256], refused[256];
};

static void add_path(char text[256], const char *path)
{
    size_t n = strlen(text);
    snprintf(text + n, 256 - n, "%s ", path);
}

static void changed(void *ctx, const char *path)
{
    add_path(((struct told *)ctx)->changed, path);
}
static void refused(void *ctx, const char *path)
{
    add_path(((struct told *)ctx)->refused, path);
}

/* False and the error in r->err if the reload is refused as a whole. */
static bool reload(struct run *r, struct told *told)
{
    *told = (struct told){0};
    free(r->err);
    FILE *err = open_memstream(&r->err, &r->err_len);
    bool ok = config_reload(
        &r->config, r->argc, r->args, r->env, err,
        &(struct config_reload_hooks){.changed = changed, .refused = refused, .ctx = told});
    fclose(err);
    return ok;
}

START_TEST(test_reload)
{
    struct run r;
    struct told told;
    run_init(&r, "--service s --protected_mode=no --set drain_timeout=1s", NULL);
    file(&r, "{\"l1.ttl\":\"5s\",\"listen\":\":1\",\"maxclients\":7}");
    load(&r);
    ck_assert_msg(r.action == CONFIG_RUN, "%s", r.err);
    ck_assert(reload(&r, &told)); /* nothing new */
    ck_assert_str_eq(told.changed, "");
    ck_assert_str_eq(told.refused, "");

    write_file(&r, "{\"l1.ttl\":\"6s\",\"listen\":[\":1\",\":2\"],\"namespace\":\"n\","
                   "\"drain_timeout\":\"9s\",\"log.level\":\"debug\"}");
    ck_assert(reload(&r, &told));
    ck_assert_str_eq(told.changed, "l1.ttl maxclients log.level ");
    ck_assert_str_eq(told.refused, "namespace listen ");
    ck_assert_uint_eq(r.config.l1_ttl, 6000);
    ck_assert_uint_eq(r.config.max_clients, 10000); /* gone from the file: the default again */
    ck_assert_int_eq(r.config.log_level, LOG_DEBUG);
    ck_assert_uint_eq(r.config.drain_timeout, 1000); /* the command line still goes first */
    ck_assert_ptr_null(r.config.namespace_);
    ck_assert_uint_eq(r.config.listen.n, 1);

    write_file(&r, "{\"l1.ttl\":\"7s\",\n\"log.level\":\"loud\"}");
    ck_assert(!reload(&r, &told)); /* all or nothing */
    char *err = without_name(&r, r.err);
    ck_assert_str_eq(err, "nearcache: FILE:2: log.level=loud: not one of debug|info|warn|error\n");
    free(err);
    ck_assert_str_eq(told.changed, "");
    ck_assert_uint_eq(r.config.l1_ttl, 6000);
    run_free(&r);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tc = tcase_create("config");
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, test_defaults);
    tcase_add_loop_test(tc, test_precedence, 0, 8);
    tcase_add_test(tc, test_forms_of_options);
    tcase_add_test(tc, test_file_from_environment);
    tcase_add_test(tc, test_kubernetes_variables);
    tcase_add_loop_test(tc, test_error, 0, sizeof errors / sizeof *errors);
    tcase_add_loop_test(tc, test_limit, 0, sizeof limits / sizeof *limits);
    tcase_add_test(tc, test_name_lengths);
    tcase_add_test(tc, test_large_file);
    tcase_add_test(tc, test_nearest_name);
    tcase_add_loop_test(tc, test_credentials, 0, sizeof credentials / sizeof *credentials);
    tcase_add_loop_test(tc, test_help_and_version, 0, 2);
    tcase_add_test(tc, test_check);
    tcase_add_test(tc, test_print_config_round_trip);
    tcase_add_test(tc, test_print_config_hides_and_tells);
    tcase_add_test(tc, test_reload);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
