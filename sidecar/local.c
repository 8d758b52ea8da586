/* local.c - the commands that the proxy answers itself. */
#include "local.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "link.h"
#include "query.h"
#include "resp_read.h"
#include "wire.h"

enum { CREDIT_PER_HIT = 8 }; /* of the L1's use counter, which forgets: l1.h */

/* --- growing text -------------------------------------------------------------------------------
 */

struct text {
    char *p;
    size_t len, cap;
    bool failed;
};

__attribute__((format(printf, 2, 3))) static void say(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->p ? t->p + t->len : NULL, t->cap - t->len, format, args);
    va_end(args);
    if (n < 0 || t->failed)
        return;
    if ((size_t)n >= t->cap - t->len) {
        size_t cap = 2 * t->cap + (size_t)n + 256;
        char *p = realloc(t->p, cap);
        if (!p) {
            t->failed = true;
            return;
        }
        t->p = p;
        t->cap = cap;
        va_start(args, format);
        (void)vsnprintf(t->p + t->len, t->cap - t->len, format, args);
        va_end(args);
    }
    t->len += (size_t)n;
}

static void answer_text(struct caller *c, struct text *t)
{
    if (t->failed)
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    else
        caller_answer_bulk(c, t->p ? t->p : "", t->len);
    free(t->p);
}

/* --- PING, ECHO, QUIT ---------------------------------------------------------------------------
 */

static void wrong_arity(struct caller *c, const struct command *command)
{
    char error[COMMAND_ERROR_MAX];
    caller_answer(c, error, command_arity_error(command, error));
}

static void run_ping(struct caller *c, const struct command *command, const struct resp_slice *argv,
                     size_t argc)
{
    if (argc > 2)
        wrong_arity(c, command);
    else if (argc == 2)
        caller_answer_bulk(c, argv[1].data, argv[1].len);
    else
        caller_answer_text(c, "+PONG\r\n");
}

static void run_quit(struct caller *c)
{
    caller_answer_text(c, "+OK\r\n");
    c->quitting = true;
}

/* --- AUTH and HELLO -----------------------------------------------------------------------------
 */

/* Looks at every byte whatever differs, so that the time taken tells nothing. */
static bool same_secret(struct resp_slice given, const char *secret)
{
    size_t len = strlen(secret);
    unsigned char diff = given.len != len;
    for (size_t i = 0; i < given.len; i++)
        diff |= (unsigned char)(given.data[i] ^ secret[len ? i % len : 0]);
    return diff == 0;
}

bool local_auth_required(const struct proxy *p)
{
    return p->config->auth_password != NULL;
}

enum auth_result { AUTH_OK, AUTH_WRONG, AUTH_NO_PASSWORD };

static enum auth_result check_auth(const struct proxy *p, struct resp_slice user, bool user_given,
                                   struct resp_slice password)
{
    const char *want_user = p->config->auth_password ? p->config->auth_user : p->address->user;
    const char *want = p->config->auth_password ? p->config->auth_password : p->address->password;
    if (!want) /* as Redis' default user without a password */
        return !user_given                      ? AUTH_NO_PASSWORD
               : resp_slice_is(user, "default") ? AUTH_OK
                                                : AUTH_WRONG;
    bool user_ok = !user_given || same_secret(user, want_user ? want_user : "default");
    return same_secret(password, want) && user_ok ? AUTH_OK : AUTH_WRONG;
}

static const char *auth_error(enum auth_result result)
{
    return result == AUTH_WRONG
               ? "WRONGPASS invalid username-password pair or user is disabled."
               : "ERR AUTH <password> called without any password configured for the default user. "
                 "Are you sure your configuration is correct?";
}

static void run_auth(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    if (argc > 3) {
        caller_answer_error(c, "ERR syntax error");
        return;
    }
    enum auth_result result =
        argc == 3 ? check_auth(p, argv[1], true, argv[2]) : check_auth(p, argv[0], false, argv[1]);
    if (result != AUTH_OK) {
        caller_answer_error(c, auth_error(result));
        return;
    }
    c->authenticated = true;
    caller_answer_text(c, "+OK\r\n");
}

/* As Redis' validateClientName: no spaces, no control characters. */
static bool valid_name(struct resp_slice name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] < '!' || name.data[i] > '~')
            return false;
    return true;
}

static void answer_hello(struct proxy *p, struct caller *c)
{
    struct chain *out = caller_reply(c);
    wire_header(out, '*', 14);
    wire_bulk(out, wire_text("server"));
    wire_bulk(out, wire_text("redis"));
    wire_bulk(out, wire_text("version"));
    wire_bulk(out, wire_text(link_server_version(p->link)));
    wire_bulk(out, wire_text("proto"));
    wire_integer(out, c->resp);
    wire_bulk(out, wire_text("id"));
    wire_integer(out, (int64_t)c->id);
    wire_bulk(out, wire_text("mode"));
    wire_bulk(out, wire_text("standalone"));
    wire_bulk(out, wire_text("role"));
    wire_bulk(out, wire_text("master"));
    wire_bulk(out, wire_text("modules"));
    wire_header(out, '*', 0);
    caller_replied(c);
}

/* HELLO [protover [AUTH user password] [SETNAME name]]; NULL: all is well, else the error. */
static const char *hello_options(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                                 size_t argc, char error[COMMAND_ERROR_MAX])
{
    struct resp_slice name = {0};
    bool named = false, authenticated = c->authenticated;
    for (size_t i = 2; i < argc;) {
        size_t more = argc - i - 1;
        if (resp_slice_is(argv[i], "auth") && more >= 2) {
            enum auth_result result = check_auth(p, argv[i + 1], true, argv[i + 2]);
            if (result != AUTH_OK)
                return auth_error(result);
            authenticated = true;
            i += 3;
        } else if (resp_slice_is(argv[i], "setname") && more >= 1) {
            name = argv[i + 1];
            named = true;
            if (!valid_name(name))
                return "ERR Client names cannot contain spaces, newlines or special characters.";
            i += 2;
        } else {
            snprintf(error, COMMAND_ERROR_MAX, "ERR Syntax error in HELLO option '%.*s'",
                     (int)(argv[i].len < 128 ? argv[i].len : 128), argv[i].data);
            return error;
        }
    }
    if (!authenticated)
        return "NOAUTH HELLO must be called with the client already authenticated, otherwise the "
               "HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and "
               "select the RESP protocol version at the same time";
    c->authenticated = true;
    if (named && !caller_set_text(&c->name, name))
        return "NEARCACHE out of memory";
    return NULL;
}

static void run_hello(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    int64_t version = 2;
    char buf[COMMAND_ERROR_MAX];
    const char *error = NULL;
    if (argc > 1 && !resp_parse_int(argv[1], &version))
        error = "ERR Protocol version is not an integer or out of range";
    else if (version != 2)
        error = "NOPROTO unsupported protocol version";
    else
        error = hello_options(p, c, argv, argc, buf);
    if (error)
        caller_answer_error(c, error);
    else
        answer_hello(p, c);
}

/* --- CLIENT -------------------------------------------------------------------------------------
 */

static void describe(struct proxy *p, const struct caller *c, struct text *t)
{
    char peer[CONN_ADDRESS_MAX], local[CONN_ADDRESS_MAX];
    uint64_t now = loop_now(p->loop);
    conn_peer_address(c->conn, peer);
    conn_local_address(c->conn, local);
    say(t,
        "id=%llu addr=%s laddr=%s fd=%d name=%s age=%llu idle=%llu flags=N db=%u sub=0 psub=0 "
        "ssub=0 multi=-1 qbuf=%zu qbuf-free=%zu argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=%zu "
        "omem=%zu tot-mem=%zu events=r cmd=%s user=%s redir=-1 resp=%d",
        (unsigned long long)c->id, peer, local, (int)conn_fd(c->conn), c->name ? c->name : "",
        (unsigned long long)((now - c->created) / 1000),
        (unsigned long long)((now - c->active) / 1000), (unsigned)c->db, conn_unread(c->conn),
        conn_input_capacity(c->conn) - conn_unread(c->conn), c->owed, conn_out(c->conn)->len,
        sizeof *c + conn_input_capacity(c->conn) + conn_out(c->conn)->len,
        c->last_command ? c->last_command->name : "NULL",
        p->config->auth_user ? p->config->auth_user : "default", (int)c->resp);
    if (c->lib_name)
        say(t, " lib-name=%s", c->lib_name);
    if (c->lib_version)
        say(t, " lib-ver=%s", c->lib_version);
    say(t, "\n");
}

static const struct caller *find_client(struct proxy *p, struct resp_slice id)
{
    int64_t n;
    struct caller *c;
    if (!resp_parse_int(id, &n))
        return NULL;
    TAILQ_FOREACH(c, &p->callers, entry)
    if (c->id == (uint64_t)n)
        return c;
    return NULL;
}

static void list_ids(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    struct text t = {0};
    for (size_t i = 3; i < argc; i++) {
        int64_t id;
        if (!resp_parse_int(argv[i], &id) || id <= 0) {
            free(t.p);
            caller_answer_error(c, "ERR Invalid client ID");
            return;
        }
        const struct caller *other = find_client(p, argv[i]);
        if (other)
            describe(p, other, &t);
    }
    answer_text(c, &t);
}

static bool client_type(struct resp_slice name, bool *normal)
{
    *normal = resp_slice_is(name, "normal");
    return *normal || resp_slice_is(name, "master") || resp_slice_is(name, "replica") ||
           resp_slice_is(name, "slave") || resp_slice_is(name, "pubsub");
}

static void run_client_list(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                            size_t argc)
{
    bool normal = true;
    if (argc > 3 && resp_slice_is(argv[2], "id")) {
        list_ids(p, c, argv, argc);
        return;
    }
    if (argc == 4 && resp_slice_is(argv[2], "type")) {
        if (!client_type(argv[3], &normal)) {
            char error[COMMAND_ERROR_MAX];
            snprintf(error, sizeof error, "ERR Unknown client type '%.*s'",
                     (int)(argv[3].len < 128 ? argv[3].len : 128), argv[3].data);
            caller_answer_error(c, error);
            return;
        }
    } else if (argc != 2) {
        caller_answer_error(c, "ERR syntax error");
        return;
    }
    struct text t = {0};
    struct caller *other;
    TAILQ_FOREACH(other, &p->callers, entry)
    if (normal)
        describe(p, other, &t);
    answer_text(c, &t);
}

struct kill_filter {
    const struct resp_slice *id, *addr, *laddr, *user, *type;
    bool skip_me;
};

static bool address_is(struct resp_slice wanted, const char *address)
{
    return wanted.len == strlen(address) && memcmp(wanted.data, address, wanted.len) == 0;
}

static bool matches(struct proxy *p, const struct caller *c, const struct kill_filter *f)
{
    char address[CONN_ADDRESS_MAX];
    bool normal = true;
    const char *user = p->config->auth_user ? p->config->auth_user : "default";
    if (f->id && find_client(p, *f->id) != c)
        return false;
    conn_peer_address(c->conn, address);
    if (f->addr && !address_is(*f->addr, address))
        return false;
    conn_local_address(c->conn, address);
    if (f->laddr && !address_is(*f->laddr, address))
        return false;
    return (!f->user || address_is(*f->user, user)) &&
           (!f->type || (client_type(*f->type, &normal) && normal));
}

static int64_t kill_matching(struct proxy *p, struct caller *self, const struct kill_filter *f)
{
    int64_t killed = 0;
    struct caller *c;
    TAILQ_FOREACH(c, &p->callers, entry)
    {
        if (!matches(p, c, f) || (c == self && f->skip_me))
            continue;
        killed++;
        if (c == self)
            c->quitting = true; /* after its reply, as Redis does */
        else
            c->kill = true;
    }
    return killed;
}

/* A client's progress callback takes it off the list: start over after each. */
static void bury_killed(struct proxy *p)
{
    struct caller *c, *next;
    for (c = TAILQ_FIRST(&p->callers); c; c = next) {
        next = TAILQ_NEXT(c, entry);
        if (c->kill)
            c->progress(c);
    }
}

static const char *parse_filter(struct kill_filter *f, const struct resp_slice *argv, size_t argc)
{
    int64_t id;
    bool normal;
    for (size_t i = 2; i < argc; i += 2) {
        if (i + 1 == argc)
            return "ERR syntax error";
        const struct resp_slice *value = &argv[i + 1];
        if (resp_slice_is(argv[i], "id")) {
            if (!resp_parse_int(*value, &id) || id <= 0)
                return "ERR client-id should be greater than 0";
            f->id = value;
        } else if (resp_slice_is(argv[i], "addr")) {
            f->addr = value;
        } else if (resp_slice_is(argv[i], "laddr")) {
            f->laddr = value;
        } else if (resp_slice_is(argv[i], "user")) {
            f->user = value;
        } else if (resp_slice_is(argv[i], "type")) {
            if (!client_type(*value, &normal))
                return "ERR Unknown client type";
            f->type = value;
        } else if (resp_slice_is(argv[i], "skipme")) {
            f->skip_me = resp_slice_is(*value, "yes");
            if (!f->skip_me && !resp_slice_is(*value, "no"))
                return "ERR syntax error";
        } else {
            return "ERR syntax error";
        }
    }
    return NULL;
}

static void run_client_kill(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                            size_t argc)
{
    struct kill_filter f = {.skip_me = true};
    const char *error = NULL;
    bool old_form = argc == 3;
    if (old_form)
        f = (struct kill_filter){.addr = &argv[2]};
    else
        error = parse_filter(&f, argv, argc);
    if (error) {
        caller_answer_error(c, error);
        return;
    }
    int64_t killed = kill_matching(p, c, &f);
    if (!old_form)
        caller_answer_integer(c, killed);
    else if (killed)
        caller_answer_text(c, "+OK\r\n");
    else
        caller_answer_error(c, "ERR No such client");
    bury_killed(p);
}

static void run_client_setname(struct caller *c, struct resp_slice name)
{
    if (!valid_name(name))
        caller_answer_error(
            c, "ERR Client names cannot contain spaces, newlines or special characters.");
    else if (!caller_set_text(&c->name, name))
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    else
        caller_answer_text(c, "+OK\r\n");
}

static void run_client_setinfo(struct caller *c, const struct resp_slice *argv)
{
    char error[COMMAND_ERROR_MAX];
    bool is_name = resp_slice_is(argv[2], "lib-name");
    if (!is_name && !resp_slice_is(argv[2], "lib-ver")) {
        snprintf(error, sizeof error, "ERR Unrecognized option '%.*s'",
                 (int)(argv[2].len < 128 ? argv[2].len : 128), argv[2].data);
        caller_answer_error(c, error);
    } else if (!valid_name(argv[3])) {
        snprintf(error, sizeof error,
                 "ERR %s cannot contain spaces, newlines or special characters.",
                 is_name ? "lib-name" : "lib-ver");
        caller_answer_error(c, error);
    } else if (!caller_set_text(is_name ? &c->lib_name : &c->lib_version, argv[3])) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    } else {
        caller_answer_text(c, "+OK\r\n");
    }
}

static void answer_lines(struct caller *c, const char *const *lines, size_t n)
{
    struct chain *out = caller_reply(c);
    wire_header(out, '*', n);
    for (size_t i = 0; i < n; i++) {
        chain_append(out, "+", 1);
        chain_append(out, lines[i], strlen(lines[i]));
        chain_append(out, "\r\n", 2);
    }
    caller_replied(c);
}

static void run_client_help(struct caller *c)
{
    static const char *const lines[] = {
        "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "GETNAME",
        "    Return the name of the current connection.",
        "ID",
        "    Return the ID of the current connection.",
        "INFO",
        "    Return information about the current client connection.",
        "KILL <ip:port>",
        "    Kill connection made from <ip:port>.",
        "KILL <option> <value> [<option> <value> [...]]",
        "    Kill connections. Options are: ADDR, LADDR, TYPE, USER, SKIPME, ID.",
        "LIST [options ...]",
        "    Return information about the clients of this proxy. Options: TYPE, ID.",
        "SETNAME <name>",
        "    Assign the name <name> to the current connection.",
        "SETINFO <option> <value>",
        "    Set client meta attr. Options are: LIB-NAME, LIB-VER.",
        "HELP",
        "    Print this help."};
    answer_lines(c, lines, sizeof lines / sizeof *lines);
}

static void run_client_info(struct proxy *p, struct caller *c)
{
    struct text t = {0};
    describe(p, c, &t);
    answer_text(c, &t);
}

/* --- INFO ---------------------------------------------------------------------------------------
 */

static void say_metric(void *ctx, const char *name, const char *unit, const char *help,
                       uint64_t value)
{
    (void)unit;
    (void)help;
    say(ctx, "%s:%llu\r\n", name, (unsigned long long)value);
}

static void say_section(const struct proxy *p, struct text *t)
{
    struct l1_stats s;
    uint64_t now = loop_now(p->loop);
    l1_get_stats(p->l1, &s);
    say(t, "# Nearcache\r\nnearcache_version:%s\r\nservice:%s\r\nnamespace:%.*s\r\n",
        NEARCACHE_VERSION, p->config->service, (int)p->ns->prefix.len, p->ns->prefix.data);
    say(t, "uptime_in_seconds:%llu\r\nprocess_id:%ld\r\n",
        (unsigned long long)((now - p->started) / 1000), (long)getpid());
    metrics_each(p->metrics, say_metric, t);
    say(t, "hit_ratio:%.4f\r\n", metrics_hit_ratio(p->metrics));
    say(t, "entries:%llu\r\nbytes:%llu\r\nlimit:%llu\r\nmapped:%llu\r\nholes:%llu\r\n",
        (unsigned long long)s.entries, (unsigned long long)s.bytes, (unsigned long long)s.limit,
        (unsigned long long)s.mapped, (unsigned long long)s.holes);
    say(t, "evictions:%llu\r\nexpired:%llu\r\nkilled:%llu\r\nrejected:%llu\r\n",
        (unsigned long long)s.evictions, (unsigned long long)s.expired,
        (unsigned long long)s.killed, (unsigned long long)s.rejected);
    say(t, "link_mode:%s\r\nlink_lease_age_ms:%llu\r\nlink_last_error:%s\r\nserving:%d\r\n",
        link_mode(p->link), (unsigned long long)coherence_lease_age(p->coherence, now),
        link_last_error(p->link), coherence_serving(p->coherence, now));
    say(t, "upstream:%s\r\nupstream_version:%s\r\nupstream_state:%s\r\nupstream_last_error:%s\r\n",
        p->address->label, link_server_version(p->link), upstream_state(p->upstream),
        upstream_last_error(p->upstream));
    say(t,
        "upstream_connections:%u\r\nupstream_pending:%llu\r\nclients:%zu\r\nbuffer_bytes:%zu\r\n",
        upstream_connected(p->upstream), (unsigned long long)upstream_pending(p->upstream),
        p->n_callers, p->loop->pool.bytes);
}

/* The upstream's INFO, to which our section is added. */
struct info {
    struct query query; /* first */
    struct proxy *proxy;
    struct request *request;
    bool ours;
};

static void info_done(struct query *q, const char *reply, size_t n, const char *error)
{
    struct info *info = (struct info *)q;
    struct resp_reader reader = {reply, reply + n};
    struct resp_slice upstream = {0};
    struct text t = {0};
    struct request *r = info->request;
    bool readable = !error && resp_read_bulk(&reader, &upstream);
    if (readable && upstream.len)
        say(&t, "%.*s", (int)upstream.len, upstream.data);
    if (info->ours) {
        say(&t, "%s", t.len ? "\r\n" : "");
        say_section(info->proxy, &t);
    }
    free(info);
    if (t.failed || (t.len == 0 && !readable)) {
        request_fail(r, error ? error : "-NEARCACHE the upstream's INFO could not be read\r\n");
    } else {
        char header[RESP_HEADER_MAX];
        request_bytes(r, header, (size_t)(resp_put_header(header, '$', t.len) - header));
        request_bytes(r, t.p ? t.p : "", t.len);
        request_bytes(r, "\r\n", 2);
        request_done(r);
    }
    free(t.p);
}

/* Does the reply carry our section; which arguments are the upstream's? */
static bool wants_ours(const struct resp_slice *argv, size_t argc, struct resp_slice *theirs,
                       size_t *n)
{
    bool ours = argc == 1;
    *n = 0;
    theirs[(*n)++] = argv[0];
    for (size_t i = 1; i < argc; i++) {
        bool named = resp_slice_is(argv[i], "nearcache");
        ours |= named || resp_slice_is(argv[i], "default") || resp_slice_is(argv[i], "all") ||
                resp_slice_is(argv[i], "everything");
        if (!named)
            theirs[(*n)++] = argv[i];
    }
    return ours;
}

static void run_info(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    size_t n;
    struct resp_slice *theirs = calloc(argc, sizeof *theirs);
    struct info *info = calloc(1, sizeof *info);
    if (!theirs || !info) {
        free(theirs);
        free(info);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    info->proxy = p;
    info->ours = wants_ours(argv, argc, theirs, &n);
    info->query.done = info_done;
    if (n == 1 && argc > 1) { /* INFO nearcache: nothing to ask */
        struct text t = {0};
        say_section(p, &t);
        answer_text(c, &t);
        free(info);
    } else if (!(info->request = request_new(c))) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        free(info);
    } else {
        query_send(&info->query, proxy_lane(p, c, c->db), theirs, n);
    }
    free(theirs);
}

/* --- NEARCACHE ----------------------------------------------------------------------------------
 */

static void run_nearcache_help(struct caller *c)
{
    static const char *const lines[] = {
        "NEARCACHE <subcommand> [<arg> ...]. Subcommands are:",
        "STATS",
        "    Counters and gauges of this proxy as name, value pairs.",
        "KEY <key>",
        "    Where a key stands: its full name, cached or why not, size, age, time left, uses.",
        "FLUSH [<prefix>]",
        "    Evict everything, or the keys with a prefix, from the L1 only. Redis keeps its data.",
        "HELP",
        "    Print this help."};
    answer_lines(c, lines, sizeof lines / sizeof *lines);
}

/* "a:1\r\nb:2\r\n" -> name, value pairs; no value holds a CR or LF. */
static void answer_pairs(struct caller *c, struct text *t)
{
    struct chain *out = caller_reply(c);
    size_t lines = 0;
    for (const char *p = t->p; (p = strstr(p, "\r\n")); p += 2)
        lines++;
    wire_header(out, '*', 2 * lines);
    for (const char *line = t->p, *stop; (stop = strstr(line, "\r\n")); line = stop + 2) {
        size_t name = strcspn(line, ":\r"), value = name + (line[name] == ':');
        wire_bulk(out, (struct resp_slice){line, name});
        wire_bulk(out, (struct resp_slice){line + value, (size_t)(stop - line) - value});
    }
    caller_replied(c);
    free(t->p);
}

static void run_nearcache_stats(struct proxy *p, struct caller *c)
{
    struct text t = {0};
    say_section(p, &t);
    if (t.failed) {
        free(t.p);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    size_t title = strlen("# Nearcache\r\n");
    memmove(t.p, t.p + title, t.len - title + 1);
    t.len -= title;
    answer_pairs(c, &t);
}

static void pair_text(struct chain *out, const char *name, const char *value)
{
    wire_bulk(out, wire_text(name));
    wire_bulk(out, wire_text(value));
}

static void pair_number(struct chain *out, const char *name, uint64_t value)
{
    wire_bulk(out, wire_text(name));
    wire_integer(out, value > INT64_MAX ? -1 : (int64_t)value);
}

/* An entry lives for l1.ttl, or less where its key expires sooner: then it is younger than this. */
static uint64_t age_at_most(const struct proxy *p, const struct l1_info *info)
{
    uint64_t ttl = p->config->l1_ttl;
    return ttl > info->time_left_ms ? ttl - info->time_left_ms : 0;
}

static void run_nearcache_key(struct proxy *p, struct caller *c, struct resp_slice key)
{
    uint64_t now = loop_now(p->loop);
    struct l1_info info = {0};
    struct l1_view view = proxy_get_view(c, key, l1_hash(p->l1, key.data, key.len));
    const char *obstacle = coherence_obstacle(p->coherence, view.hash, now);
    bool there = l1_inspect(p->l1, &view, now, &info);
    bool cached = there && !obstacle;
    struct chain *out = caller_reply(c);
    wire_header(out, '*', there ? 18 : 6);
    wire_bulk(out, wire_text("key"));
    wire_bulk2(out, p->ns->prefix, key);
    pair_text(out, "cached", cached ? "yes" : "no");
    pair_text(out, "why",
              cached     ? "a GET of it is answered from the L1"
              : obstacle ? obstacle
                         : "not asked for lately, or evicted, expired or changed");
    if (there) {
        pair_number(out, "reply_bytes", info.reply_len);
        pair_number(out, "footprint_bytes", info.footprint);
        pair_number(out, "age_ms_at_most", age_at_most(p, &info));
        pair_number(out, "time_left_ms", info.time_left_ms);
        pair_number(out, "recent_hits", (info.credit + CREDIT_PER_HIT - 1) / CREDIT_PER_HIT);
        pair_text(out, "ring", info.in_main ? "main" : "small");
    }
    caller_replied(c);
}

struct flush {
    struct resp_slice prefix;
    uint64_t *hashes;
    size_t n, cap;
    bool failed;
};

static bool note_key(void *ctx, const struct l1_view *v, uint64_t deadline)
{
    struct flush *f = ctx;
    (void)deadline;
    if (v->key_len < f->prefix.len || memcmp(v->key, f->prefix.data, f->prefix.len) != 0)
        return true;
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 256;
        uint64_t *more = realloc(f->hashes, cap * sizeof *more);
        f->failed = !more;
        if (!more)
            return false;
        f->hashes = more;
        f->cap = cap;
    }
    f->hashes[f->n++] = v->hash;
    return true;
}

static void run_nearcache_flush(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                                size_t argc)
{
    struct l1_stats s;
    l1_get_stats(p->l1, &s);
    struct flush f = {.prefix = argc > 2 ? argv[2] : (struct resp_slice){"", 0}};
    if (argc > 3) {
        caller_answer_error(c, "ERR syntax error");
        return;
    }
    if (argc == 3)
        l1_each(p->l1, note_key, &f);
    if (argc == 2 || f.failed) {
        coherence_new_epoch(p->coherence); /* more than was asked for is still right */
        f.n = s.entries;
    } else {
        for (size_t i = 0; i < f.n; i++)
            coherence_kill(p->coherence, f.hashes[i]);
    }
    free(f.hashes);
    caller_answer_integer(c, (int64_t)f.n);
}

/* --- dispatch -----------------------------------------------------------------------------------
 */

void local_run(struct proxy *p, struct caller *c, const struct command *command,
               const struct resp_slice *argv, size_t argc)
{
    char error[COMMAND_ERROR_MAX];
    switch (command->id) {
    case COMMAND_ID_PING:
        run_ping(c, command, argv, argc);
        break;
    case COMMAND_ID_ECHO:
        caller_answer_bulk(c, argv[1].data, argv[1].len);
        break;
    case COMMAND_ID_QUIT:
        run_quit(c);
        break;
    case COMMAND_ID_AUTH:
        run_auth(p, c, argv, argc);
        break;
    case COMMAND_ID_HELLO:
        run_hello(p, c, argv, argc);
        break;
    case COMMAND_ID_INFO:
        run_info(p, c, argv, argc);
        break;
    case COMMAND_ID_READONLY:
    case COMMAND_ID_READWRITE: /* redis-cli 8 asks before --bigkeys, and goes on */
        caller_answer_error(c, "ERR This instance has cluster support disabled");
        break;
    case COMMAND_ID_CLIENT_ID:
        caller_answer_integer(c, (int64_t)c->id);
        break;
    case COMMAND_ID_CLIENT_GETNAME:
        if (c->name)
            caller_answer_bulk(c, c->name, strlen(c->name));
        else
            caller_answer_text(c, "$-1\r\n");
        break;
    case COMMAND_ID_CLIENT_SETNAME:
        run_client_setname(c, argv[2]);
        break;
    case COMMAND_ID_CLIENT_SETINFO:
        run_client_setinfo(c, argv);
        break;
    case COMMAND_ID_CLIENT_LIST:
        run_client_list(p, c, argv, argc);
        break;
    case COMMAND_ID_CLIENT_INFO:
        run_client_info(p, c);
        break;
    case COMMAND_ID_CLIENT_KILL:
        run_client_kill(p, c, argv, argc);
        break;
    case COMMAND_ID_CLIENT_NO_EVICT:
        if (resp_slice_is(argv[2], "on") || resp_slice_is(argv[2], "off"))
            caller_answer_text(c, "+OK\r\n");
        else
            caller_answer_error(c, "ERR syntax error");
        break;
    case COMMAND_ID_CLIENT_HELP:
        run_client_help(c);
        break;
    case COMMAND_ID_NEARCACHE_HELP:
        run_nearcache_help(c);
        break;
    case COMMAND_ID_NEARCACHE_STATS:
        run_nearcache_stats(p, c);
        break;
    case COMMAND_ID_NEARCACHE_KEY:
        run_nearcache_key(p, c, argv[2]);
        break;
    case COMMAND_ID_NEARCACHE_FLUSH:
        run_nearcache_flush(p, c, argv, argc);
        break;
    default: /* a container without a sub-command that we know */
        caller_answer(c, error, command_unknown_error(p->commands, argv, argc, error));
        break;
    }
}
