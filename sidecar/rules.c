/* rules.c - what a setting's value must be, beyond its type: names, addresses, limits. */
#include "rules.h"

#include <ctype.h>
#include <string.h>

#include "address.h"

#define HAS_CONTROL "contains a line break or control character"
#define HIDDEN      "*** stands for what --print-config does not show"

static bool has_control(const char *text)
{
    for (; *text; text++)
        if (iscntrl((unsigned char)*text))
            return true;
    return false;
}

/* These return NULL or what is wrong. */

static const char *check_text(const char *text)
{
    if (!*text)
        return "empty (leave it out instead)";
    return has_control(text) ? HAS_CONTROL : NULL;
}

static const char *check_secret(const char *text)
{
    return strcmp(text, "***") == 0 ? HIDDEN : check_text(text);
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

/* May be empty. */
static const char *check_namespace(const char *text)
{
    if (strlen(text) > 256)
        return "longer than 256 bytes";
    return has_control(text) ? HAS_CONTROL : NULL;
}

static const char *check_listen(const char *text)
{
    struct listen_address address;
    const char *wrong = listen_address_parse(text, &address);
    listen_address_free(&address);
    return wrong;
}

static const char *check_mode(const char *text)
{
    size_t n = strlen(text);
    return n >= 3 && n <= 4 && strspn(text, "01234567") == n && (n == 3 || *text == '0')
               ? NULL
               : "not permissions in octal (like 0770)";
}

static const char *check_upstream(const char *text)
{
    struct upstream_address address;
    if (has_control(text))
        return HAS_CONTROL;
    const char *wrong = upstream_address_parse(text, &address);
    if (!wrong && address.password && strcmp(address.password, "***") == 0)
        wrong = HIDDEN;
    upstream_address_free(&address);
    return wrong;
}

static const char *check_string(const struct setting *s, const char *text)
{
    static const struct {
        const char *path;
        const char *(*check)(const char *text);
    } rules[] = {
        {"service", check_service}, {"namespace", check_namespace},   {"listen", check_listen},
        {"unix.mode", check_mode},  {"upstream.url", check_upstream},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(s->path, rules[i].path) == 0)
            return rules[i].check(text);
    return s->type == SETTING_SECRET ? check_secret(text) : check_text(text);
}

static const char *check_list(const struct setting *s, const struct config_list *list)
{
    const char *wrong = NULL;
    for (size_t i = 0; !wrong && i < list->n; i++)
        wrong = check_string(s, list->v[i]);
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
    {"upstream.handshake_timeout", 10, 3600000, false},
    {"upstream.queue_timeout", 10, 3600000, false},
    {"breaker.window", 10, 3600000, false},
    {"breaker.open_min", 1, 3600000, false},
    {"breaker.open_max", 1, 3600000, false},
    {"memory.max_buffers", 1 << 20, UINT64_C(1) << 40, true},
    {"l1.max_stale", 1, UINT64_C(365) * 24 * 3600000, false},
    {"l1.max_memory", 64 * 1024, UINT64_C(16) << 30, true},
    {"l1.max_value", 0, UINT64_C(512) << 20, false},
    {"l1.ttl", 1, UINT64_C(365) * 24 * 3600000, false},
    {"invalidation.lease", 100, 60000, false},
    {"client.max_query", 1024, UINT64_C(16) << 30, false},
    {"client.max_output", 1024, UINT64_C(64) << 30, false},
    {"client.soft_output", 1024, UINT64_C(64) << 30, false},
    {"client.soft_time", 0, 3600000, false},
    {"client.idle_timeout", 10, UINT64_C(365) * 24 * 3600000, true},
    {"drain_timeout", 0, 3600000, false},
    {"tls.handshake_timeout", 10, 3600000, false},
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

bool rules_check(const struct setting *s, const void *base, char error[SETTING_ERROR_MAX])
{
    const char *wrong = NULL;
    switch (s->type) {
    case SETTING_STRING:
    case SETTING_SECRET:
        wrong = check_string(s, setting_string(s, base));
        break;
    case SETTING_LIST:
        wrong = check_list(s, setting_list(s, base));
        break;
    case SETTING_BYTES:
    case SETTING_DURATION:
        return check_number(s, setting_number(s, base), error);
    case SETTING_COUNT:
    case SETTING_BOOL:
    case SETTING_ENUM:
        break;
    }
    if (wrong)
        snprintf(error, SETTING_ERROR_MAX, "%s", wrong);
    return !wrong;
}
