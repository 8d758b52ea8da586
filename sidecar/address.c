/* address.c - addresses as people write them: host:port, unix:/path, redis://... */
#include "address.h"

#include <ctype.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    UPSTREAM_PORT = 6379,
    HOST_BYTES = 253,      /* the longest name that DNS has */
    UNIX_PATH_BYTES = 107, /* of sockaddr_un.sun_path, less the NUL */
};

#define OUT_OF_MEMORY "out of memory"

/* Borrowed part of the text. p is NULL where the part is missing, not where it is empty. */
struct part {
    const char *p;
    size_t len;
};

static struct part part_between(const char *p, const char *end)
{
    return (struct part){p, (size_t)(end - p)};
}

/* Whether *p starts with `prefix`; if so, moves it behind. */
static bool skip(const char **p, const char *prefix)
{
    size_t n = strlen(prefix);
    bool ok = strncmp(*p, prefix, n) == 0;
    if (ok)
        *p += n;
    return ok;
}

/* Decimal digits only. */
static bool parse_number(struct part text, uint32_t max, uint32_t *out)
{
    uint64_t n = 0;
    if (text.len == 0 || text.len > 10)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        if (!isdigit((unsigned char)text.p[i]))
            return false;
        n = n * 10 + (uint64_t)(text.p[i] - '0');
    }
    *out = (uint32_t)n;
    return n <= max;
}

static bool only(struct part text, const char *allowed)
{
    for (size_t i = 0; i < text.len; i++)
        if (!isalnum((unsigned char)text.p[i]) && !memchr(allowed, text.p[i], strlen(allowed)))
            return false;
    return true;
}

/* [ipv6]:port */
static const char *split_bracketed(struct part text, struct part *host, struct part *port)
{
    const char *close = memchr(text.p, ']', text.len);
    const char *end = text.p + text.len;
    if (!close)
        return "the ']' of the IPv6 address is missing";
    *host = part_between(text.p + 1, close);
    if (!memchr(host->p, ':', host->len) || !only(*host, ":.%-_"))
        return "not an IPv6 address between the brackets";
    if (close + 1 == end)
        return NULL;
    if (close[1] != ':')
        return "expected ':' and a port behind the ']'";
    *port = part_between(close + 2, end);
    return NULL;
}

static const char *split_plain(struct part text, struct part *host, struct part *port)
{
    const char *colon = memchr(text.p, ':', text.len);
    const char *end = text.p + text.len;
    *host = part_between(text.p, colon ? colon : end);
    if (colon)
        *port = part_between(colon + 1, end);
    if (port->p && memchr(port->p, ':', port->len))
        return "an IPv6 address needs brackets, as in [::1]:6379";
    return only(*host, ".-_*") ? NULL : "not a host name";
}

static const char *split_host_port(struct part text, struct part *host, struct part *port)
{
    *host = *port = (struct part){NULL, 0};
    const char *wrong = text.len && *text.p == '[' ? split_bracketed(text, host, port)
                                                   : split_plain(text, host, port);
    if (!wrong && host->len > HOST_BYTES)
        return "the host name is too long";
    return wrong;
}

static const char *check_path(const char *path)
{
    if (*path != '/')
        return "the socket's path does not start with '/'";
    if (strlen(path) > UNIX_PATH_BYTES)
        return "the socket's path is longer than 107 bytes";
    for (; *path; path++)
        if ((unsigned char)*path < ' ' || *path == 0x7f)
            return "a control character in the socket's path";
    return NULL;
}

/* NULL: out of memory. */
static char *make_label(const char *scheme, const char *host, uint16_t port, const char *path)
{
    char *label = NULL;
    int n = path                ? asprintf(&label, "unix:%s", path)
            : strchr(host, ':') ? asprintf(&label, "%s[%s]:%u", scheme, host, port)
                                : asprintf(&label, "%s%s:%u", scheme, host, port);
    return n < 0 ? NULL : label;
}

/* --- listening ------------------------------------------------------------------------------- */

static const char *parse_listen_tcp(const char *text, struct listen_address *out)
{
    struct part host, port;
    uint32_t n = 0;
    const char *wrong = split_host_port((struct part){text, strlen(text)}, &host, &port);
    if (wrong)
        return wrong;
    if (!port.p)
        return "not an address (like 127.0.0.1:6380, [::1]:6380, :6380 or unix:/path)";
    if (!parse_number(port, UINT16_MAX, &n))
        return "the port is not a number from 0 to 65535";
    if (memchr(host.p, '*', host.len) && host.len > 1)
        return "not a host name";
    if (host.len == 0 || *host.p == '*')
        host = (struct part){"0.0.0.0", strlen("0.0.0.0")};
    out->port = (uint16_t)n;
    out->host = strndup(host.p, host.len);
    return out->host ? NULL : OUT_OF_MEMORY;
}

static const char *parse_listen_unix(const char *path, struct listen_address *out)
{
    skip(&path, "//");
    const char *wrong = check_path(path);
    if (wrong)
        return wrong;
    out->path = strdup(path);
    return out->path ? NULL : OUT_OF_MEMORY;
}

const char *listen_address_parse(const char *text, struct listen_address *out)
{
    *out = (struct listen_address){.tls = skip(&text, "tls:")};
    const char *wrong = !out->tls && skip(&text, "unix:") ? parse_listen_unix(text, out)
                                                          : parse_listen_tcp(text, out);
    if (!wrong) {
        out->label = make_label(out->tls ? "tls:" : "", out->host, out->port, out->path);
        wrong = out->label ? NULL : OUT_OF_MEMORY;
    }
    if (wrong)
        listen_address_free(out);
    return wrong;
}

bool listen_address_is_local(const struct listen_address *address)
{
    const char *host = address->host;
    return !host || strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host));
}

void listen_address_free(struct listen_address *address)
{
    free(address->host);
    free(address->path);
    free(address->label);
    *address = (struct listen_address){0};
}

/* --- upstream -------------------------------------------------------------------------------- */

/* Cuts a URL into parts; nothing is decoded yet. */
struct url {
    bool is_unix, is_tls;
    struct part user, password, host, path, query;
};

static const char *find_scheme(const char **p, struct url *url)
{
    url->is_tls = skip(p, "rediss://") || skip(p, "valkeys://");
    if (url->is_tls || skip(p, "redis://") || skip(p, "valkey://"))
        return NULL;
    url->is_unix = skip(p, "redis+unix://") || skip(p, "unix://") || skip(p, "unix:");
    return url->is_unix ? NULL : "not a URL like redis://host:6379/0 or unix:/path";
}

static const char *split_url(const char *text, struct url *url)
{
    *url = (struct url){0};
    const char *wrong = find_scheme(&text, url);
    if (wrong)
        return wrong;
    const char *query = strchrnul(text, '?');
    const char *path = memchr(text, '/', (size_t)(query - text));
    const char *authority_end = path ? path : query;
    const char *at = memrchr(text, '@', (size_t)(authority_end - text));
    if (at) {
        const char *colon = memchr(text, ':', (size_t)(at - text));
        url->user = part_between(text, colon ? colon : at);
        if (colon)
            url->password = part_between(colon + 1, at);
    }
    url->host = part_between(at ? at + 1 : text, authority_end);
    url->path = part_between(authority_end, query);
    if (*query)
        url->query = part_between(query + 1, query + strlen(query));
    return NULL;
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef";
    const char *found = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
    return found ? (int)(found - digits) : -1;
}

/* %41 -> A. A missing or empty part makes NULL. */
static const char *decode(struct part text, char **out)
{
    if (text.len == 0)
        return NULL;
    char *q = *out = malloc(text.len + 1);
    if (!q)
        return OUT_OF_MEMORY;
    const char *end = text.p + text.len;
    for (const char *p = text.p; p < end; p++) {
        if (*p != '%') {
            *q++ = *p;
            continue;
        }
        int high = end - p > 2 ? hex_digit(p[1]) : -1;
        int low = end - p > 2 ? hex_digit(p[2]) : -1;
        if (high < 0 || low < 0 || high + low == 0)
            return "a '%' in the URL without two hexadecimal digits (write %25 for '%')";
        *q++ = (char)(high * 16 + low);
        p += 2;
    }
    *q = '\0';
    return NULL;
}

static const char *parse_database(struct part text, uint32_t *db)
{
    if (text.len == 0)
        return NULL;
    return parse_number(text, INT32_MAX, db) ? NULL : "the database is not a number";
}

static const char *parse_query(struct part query, uint32_t *db)
{
    if (!query.p)
        return NULL;
    if (query.len > 3 && memcmp(query.p, "db=", 3) == 0)
        return parse_database((struct part){query.p + 3, query.len - 3}, db);
    return "only ?db=NUMBER may follow the '?' in the URL";
}

static const char *parse_upstream_tcp(const struct url *url, struct upstream_address *out)
{
    struct part host, port;
    uint32_t n = UPSTREAM_PORT;
    const char *wrong = split_host_port(url->host, &host, &port);
    if (wrong)
        return wrong;
    if (host.len == 0 || memchr(host.p, '*', host.len))
        return "the URL names no host";
    if (port.p && (!parse_number(port, UINT16_MAX, &n) || n == 0))
        return "the port is not a number from 1 to 65535";
    out->port = (uint16_t)n;
    out->host = strndup(host.p, host.len);
    if (!out->host)
        return OUT_OF_MEMORY;
    if (url->path.len == 0)
        return NULL;
    return parse_database((struct part){url->path.p + 1, url->path.len - 1}, &out->db);
}

static const char *parse_upstream_unix(const struct url *url, struct upstream_address *out)
{
    if (url->host.len || url->path.len == 0)
        return "the socket's path does not start with '/'";
    const char *wrong = decode(url->path, &out->path);
    return wrong ? wrong : check_path(out->path);
}

static const char *parse_upstream(const char *text, struct upstream_address *out)
{
    struct url url;
    const char *wrong = split_url(text, &url);
    if (!wrong)
        wrong = url.is_unix ? parse_upstream_unix(&url, out) : parse_upstream_tcp(&url, out);
    if (!wrong)
        wrong = parse_query(url.query, &out->db);
    if (!wrong)
        wrong = decode(url.user, &out->user);
    if (!wrong)
        wrong = decode(url.password, &out->password);
    if (wrong)
        return wrong;
    out->tls = url.is_tls;
    out->label = make_label(url.is_tls ? "rediss://" : "", out->host, out->port, out->path);
    return out->label ? NULL : OUT_OF_MEMORY;
}

const char *upstream_address_parse(const char *url, struct upstream_address *out)
{
    *out = (struct upstream_address){0};
    const char *wrong = parse_upstream(url, out);
    if (wrong)
        upstream_address_free(out);
    return wrong;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

bool upstream_address_same_place(const struct upstream_address *a, const struct upstream_address *b)
{
    return same_text(a->host, b->host) && a->port == b->port && same_text(a->path, b->path);
}

void upstream_address_free(struct upstream_address *address)
{
    free(address->host);
    free(address->path);
    free(address->user);
    free(address->password);
    free(address->label);
    *address = (struct upstream_address){0};
}

char *upstream_url_redacted(const char *url)
{
    struct url parts;
    char *redacted = NULL;
    if (split_url(url, &parts) || parts.password.len == 0)
        return strdup(url);
    const char *behind = parts.password.p + parts.password.len;
    int n = asprintf(&redacted, "%.*s***%s", (int)(parts.password.p - url), url, behind);
    return n < 0 ? NULL : redacted;
}
