/* identity.c - who a client is. */
#include "identity.h"

#include <stdlib.h>
#include <string.h>

#include "link.h"
#include "monitor.h"
#include "query.h"
#include "resp_read.h"
#include "wire.h"

#define WRONG_PASSWORD "WRONGPASS invalid username-password pair or user is disabled."

/* --- the one user -------------------------------------------------------------------------------
 */

bool identity_auth_required(const struct proxy *p)
{
    return p->crew->auth_password != NULL;
}

bool identity_set_password(struct crew *crew, char *password)
{
    char *old = crew->auth_password;
    bool other = !old || !password ? old != password : strcmp(old, password) != 0;
    crew->auth_password = password;
    identity_forget(old);
    for (size_t i = 0; i < crew->n && !password; i++) {
        struct caller *c;
        TAILQ_FOREACH(c, &crew->v[i]->callers, entry)
        c->authenticated = true;
    }
    return other;
}

void identity_forget(char *password)
{
    if (password)
        explicit_bzero(password, strlen(password));
    free(password);
}

static const char *password_of(const struct proxy *p)
{
    const char *own = p->crew->auth_password;
    return own ? own : p->address->password;
}

const char *identity_user(const struct proxy *p)
{
    const char *user = p->crew->auth_password ? p->config->auth_user : p->address->user;
    return user ? user : "default";
}

/* Looks at every byte given, whatever differs, and never behind the secret's end: the time it takes
 * tells neither what the secret is nor how long. */
static bool same_secret(struct resp_slice given, const char *secret)
{
    size_t len = strlen(secret);
    unsigned char diff = given.len != len;
    for (size_t i = 0; i < given.len; i++)
        diff |= (unsigned char)(given.data[i] ^ secret[len ? i % len : 0]);
    return diff == 0;
}

static bool authenticate(const struct proxy *p, struct caller *c, struct resp_slice user,
                         struct resp_slice password)
{
    const char *wanted = password_of(p);
    bool user_ok = same_secret(user, identity_user(p));
    bool password_ok =
        !wanted || same_secret(password, wanted); /* none: any will do, as in Redis */
    c->authenticated |= user_ok && password_ok;
    return user_ok && password_ok;
}

/* --- AUTH and ACL WHOAMI ------------------------------------------------------------------------
 */

void identity_auth(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    struct resp_slice user = argc == 3 ? argv[1] : wire_text("default");
    if (argc > 3)
        caller_answer_error(c, "ERR syntax error");
    else if (argc == 2 && !password_of(p))
        caller_answer_error(c, "ERR AUTH <password> called without any password configured for the "
                               "default user. Are you sure your configuration is correct?");
    else if (authenticate(p, c, user, argv[argc - 1]))
        caller_answer_text(c, "+OK\r\n");
    else
        caller_answer_error(c, WRONG_PASSWORD);
}

void identity_whoami(struct proxy *p, struct caller *c)
{
    const char *user = identity_user(p);
    caller_answer_bulk(c, user, strlen(user));
}

/* --- names --------------------------------------------------------------------------------------
 */

bool identity_is_name(struct resp_slice name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] < '!' || name.data[i] > '~')
            return false;
    return true;
}

bool identity_set_name(struct caller *c, struct resp_slice name)
{
    if (!identity_is_name(name)) {
        caller_answer_error(
            c, "ERR Client names cannot contain spaces, newlines or special characters.");
        return false;
    }
    if (!caller_set_text(&c->name, name)) {
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return false;
    }
    return true;
}

/* --- HELLO --------------------------------------------------------------------------------------
 */

static void pair(struct chain *out, const char *name, const char *value)
{
    wire_bulk(out, wire_text(name));
    wire_bulk(out, wire_text(value));
}

/* What is known without asking. */
static void write_hello(const struct proxy *p, const struct caller *c, struct chain *out)
{
    caller_map_header(c, out, 7);
    pair(out, "server", "redis");
    pair(out, "version", link_server_version(p->link));
    wire_bulk(out, wire_text("proto"));
    wire_integer(out, c->resp);
    wire_bulk(out, wire_text("id"));
    wire_integer(out, (int64_t)c->id);
    pair(out, "mode", "standalone");
    pair(out, "role", "master");
    wire_bulk(out, wire_text("modules"));
    wire_header(out, '*', 0);
}

struct hello {
    struct query query; /* first */
    struct proxy *proxy;
    struct request *request;
    struct upstream_conn *uc;
};

/* The server's own words with our number for the client. False: they are not understood. */
static bool write_theirs(const struct caller *c, const char *reply, size_t n, struct chain *out)
{
    static const char mark[] = "$2\r\nid\r\n";
    const char *at = n ? memmem(reply, n, mark, sizeof mark - 1) : NULL;
    struct resp_reader rest = {at ? at + sizeof mark - 1 : NULL, reply + n};
    int64_t id;
    if (!at || *reply == '-' || !resp_read_integer(&rest, &id))
        return false;
    chain_append(out, reply, (size_t)(at - reply) + sizeof mark - 1);
    wire_integer(out, (int64_t)c->id);
    chain_append(out, rest.p, (size_t)(rest.end - rest.p));
    return true;
}

static void hello_done(struct query *q, const char *reply, size_t n, const char *error)
{
    struct hello *hello = (struct hello *)q;
    struct request *r = hello->request;
    bool private = r->caller && r->caller->lane == hello->uc && !error;
    bool refused = private && n > 0 && *reply == '-';
    bool wanted = r->caller && !r->muted;
    if (refused) /* it goes on as it did, whatever the server's version promised */
        r->caller->resp = (uint8_t)upstream_resp(hello->uc);
    else if (private)
        upstream_set_resp(hello->uc, r->caller->resp);
    if (wanted && refused)
        chain_append(&r->after, reply, n);
    else if (wanted && (error || !write_theirs(r->caller, reply, n, &r->after)))
        write_hello(hello->proxy, r->caller, &r->after);
    free(hello);
    request_done(r);
}

/* For want of memory. The server's side of the client's own connection has not changed. */
static void answer_unasked(struct proxy *p, struct caller *c, const struct upstream_conn *uc)
{
    if (uc && uc == c->lane) {
        c->resp = (uint8_t)upstream_resp(uc);
        caller_not_sent(c);
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
        return;
    }
    write_hello(p, c, caller_reply(c));
    caller_replied(c);
}

void identity_say_hello(struct proxy *p, struct caller *c, struct upstream_conn *uc)
{
    struct hello *hello = calloc(1, sizeof *hello);
    struct request *r = hello ? request_new(c) : NULL;
    if (!r) {
        free(hello);
        answer_unasked(p, c, uc);
        return;
    }
    r->exclusive = c->exclusive = true;
    *hello = (struct hello){.query.done = hello_done, .proxy = p, .request = r, .uc = uc};
    query_send(&hello->query, uc,
               (struct resp_slice[]){wire_text("HELLO"), wire_text(c->resp == 3 ? "3" : "2")}, 2);
}

/* The server tells what it is (its name, role, modules); without one the proxy does. */
static void answer_hello(struct proxy *p, struct caller *c)
{
    if (!c->capture) {
        identity_say_hello(p, c, proxy_shared_lane(p, c, c->db, c->resp));
        return;
    }
    write_hello(p, c, caller_reply(c));
    caller_replied(c);
}

static void refuse_option(struct caller *c, struct resp_slice option)
{
    struct text t = {0};
    text_say(&t, "ERR Syntax error in HELLO option '%.*s'", (int)option.len, option.data);
    caller_answer_error(c, t.failed ? "NEARCACHE out of memory" : t.p);
    free(t.p);
}

/* Each option counts as soon as it is read, as in Redis. False: answered with an error. */
static bool take_options(struct proxy *p, struct caller *c, const struct resp_slice *argv,
                         size_t argc)
{
    for (size_t i = 2; i < argc; i++) {
        size_t more = argc - i - 1;
        if (resp_word_is(argv[i], "auth") && more >= 2) {
            if (!authenticate(p, c, argv[i + 1], argv[i + 2])) {
                caller_answer_error(c, WRONG_PASSWORD);
                return false;
            }
            i += 2;
        } else if (resp_word_is(argv[i], "setname") && more >= 1) {
            if (!identity_set_name(c, argv[++i]))
                return false;
        } else {
            refuse_option(c, argv[i]);
            return false;
        }
    }
    return true;
}

/* Upstream connections speak the client's version of the protocol; Redis 6 was the first with 3. */
static bool speaks(const struct proxy *p, int64_t version)
{
    long major = strtol(link_server_version(p->link), NULL, 10); /* 0: not known yet */
    return version == 2 || (version == 3 && (major == 0 || major >= 6));
}

void identity_hello(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    int64_t version = c->resp;
    if (argc > 1 && !resp_parse_int(argv[1], &version)) {
        caller_answer_error(c, "ERR Protocol version is not an integer or out of range");
    } else if (argc > 1 && !speaks(p, version)) {
        caller_answer_error(c, "NOPROTO unsupported protocol version");
    } else if (!take_options(p, c, argv, argc)) {
        return;
    } else if (!c->authenticated) {
        caller_answer_error(c,
                            "NOAUTH HELLO must be called with the client already authenticated, "
                            "otherwise the HELLO AUTH <user> <pass> option can be used to "
                            "authenticate the client and select the RESP protocol version at the "
                            "same time");
    } else {
        c->resp = (uint8_t)version;
        answer_hello(p, c);
    }
}

/* --- RESET --------------------------------------------------------------------------------------
 */

void identity_reset(struct proxy *p, struct caller *c)
{
    monitor_stop(p, c);
    c->resp = 2;
    c->db = p->address->db;
    c->authenticated = !identity_auth_required(p);
    c->reply_off = c->reply_skip_next = false;
    free(c->name);
    c->name = NULL;
}
