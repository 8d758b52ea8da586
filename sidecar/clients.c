/* clients.c - the CLIENT command, about the clients of this proxy. */
#include "clients.h"

#include <stdlib.h>
#include <string.h>

#include "forward.h"
#include "identity.h"
#include "text.h"

struct caller *clients_find(const struct proxy *p, uint64_t id, struct proxy **owner)
{
    for (size_t i = 0; i < p->crew->n; i++) {
        struct caller *c;
        TAILQ_FOREACH(c, &p->crew->v[i]->callers, entry)
        if (c->id == id) {
            *owner = p->crew->v[i];
            return c;
        }
    }
    return NULL;
}

/* --- answers ------------------------------------------------------------------------------------
 */

/* An error that quotes what it is about. */
static void refuse(struct caller *c, const char *before, struct resp_slice what, const char *after)
{
    struct text t = {0};
    text_say(&t, "ERR %s'%.*s'%s", before, (int)what.len, what.data, after);
    caller_answer_error(c, t.failed ? "NEARCACHE out of memory" : t.p);
    free(t.p);
}

static void answer_text(struct caller *c, struct text *t)
{
    if (t->failed)
        caller_answer_text(c, UPSTREAM_NO_MEMORY);
    else
        caller_answer_verbatim(c, t->p ? t->p : "", t->len);
    free(t->p);
}

static void answer_ok(struct caller *c, bool ok)
{
    caller_answer_text(c, ok ? "+OK\r\n" : UPSTREAM_NO_MEMORY);
}

static bool is_on_or_off(struct resp_slice word)
{
    return resp_word_is(word, "on") || resp_word_is(word, "off");
}

/* --- types --------------------------------------------------------------------------------------
 */

enum client_type { TYPE_ANY, TYPE_NORMAL, TYPE_PUBSUB, TYPE_REPLICATION, TYPE_UNKNOWN };

static enum client_type type_named(struct resp_slice name)
{
    if (resp_word_is(name, "normal"))
        return TYPE_NORMAL;
    if (resp_word_is(name, "pubsub"))
        return TYPE_PUBSUB;
    bool replication = resp_word_is(name, "master") || resp_word_is(name, "slave") ||
                       resp_word_is(name, "replica");
    return replication ? TYPE_REPLICATION : TYPE_UNKNOWN;
}

static bool is_subscribed(const struct caller *c)
{
    return c->state.channels || c->state.patterns || c->state.shards;
}

static bool is_of_type(const struct caller *c, enum client_type type)
{
    return type == TYPE_ANY || type == (is_subscribed(c) ? TYPE_PUBSUB : TYPE_NORMAL);
}

/* --- LIST and INFO ------------------------------------------------------------------------------
 */

/* "/path:0": no port is 0. */
static bool is_unix(const char *address)
{
    size_t len = strlen(address);
    return len > 2 && strcmp(address + len - 2, ":0") == 0;
}

/* The letters that Redis uses, in its order. */
static void say_flags(struct text *t, const struct caller *c, bool by_unix_socket)
{
    const struct {
        bool set;
        char letter;
    } flags[] = {
        {c->monitors, 'O'},       {is_subscribed(c), 'P'},
        {c->in_multi, 'x'},       {c->state.blocking > 0, 'b'},
        {c->state.tracking, 't'}, {c->state.tracking && c->state.tracking_bcast, 'B'},
        {c->quitting, 'c'},       {c->kill, 'A'},
        {by_unix_socket, 'U'},
    };
    text_say(t, " flags=");
    size_t none = t->len;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].set)
            text_append(t, &flags[i].letter, 1);
    if (t->len == none)
        text_append(t, "N", 1);
}

static void say_state(struct text *t, const struct caller *c)
{
    const struct caller_state *s = &c->state;
    text_say(t, " db=%u sub=%u psub=%u ssub=%u multi=%lld", (unsigned)c->db, (unsigned)s->channels,
             (unsigned)s->patterns, (unsigned)s->shards, c->in_multi ? (long long)s->queued : -1LL);
}

/* The CLIENT command at hand: it is still in its client's buffer, as Redis sees it. */
struct asking {
    const struct proxy *proxy;
    const struct caller *client;
    size_t bytes, arg_bytes; /* of the command, and of its arguments alone */
};

static struct asking asking(const struct proxy *p, const struct caller *c,
                            const struct resp_slice *argv, size_t argc)
{
    char header[RESP_HEADER_MAX];
    struct asking a = {
        .proxy = p, .client = c, .bytes = (size_t)(resp_put_header(header, '*', argc) - header)};
    for (size_t i = 0; i < argc; i++) {
        a.bytes += resp_bulk_size(argv[i].len);
        a.arg_bytes += argv[i].len;
    }
    return a;
}

/* Replies that wait are what Redis calls the output list. */
static void say_buffers(struct text *t, const struct asking *a, const struct caller *c)
{
    bool itself = c == a->client;
    size_t unread = conn_unread(c->conn), capacity = conn_input_capacity(c->conn);
    size_t out = caller_unread(c);
    text_say(t,
             " qbuf=%zu qbuf-free=%zu argv-mem=%zu multi-mem=0 rbs=0 rbp=0 obl=0 oll=%zu omem=%zu "
             "tot-mem=%zu events=r",
             unread + (itself ? a->bytes : 0), capacity - unread, itself ? a->arg_bytes : 0,
             c->owed, out, sizeof *c + capacity + out);
}

static void describe(const struct asking *a, const struct caller *c, struct text *t)
{
    char peer[CONN_ADDRESS_MAX], local[CONN_ADDRESS_MAX];
    uint64_t now = loop_now(a->proxy->loop);
    conn_peer_address(c->conn, peer);
    conn_local_address(c->conn, local);
    text_say(t, "id=%llu addr=%s laddr=%s fd=%d name=%s age=%llu idle=%llu",
             (unsigned long long)c->id, peer, local, (int)conn_fd(c->conn), c->name ? c->name : "",
             (unsigned long long)((now - c->created) / 1000),
             (unsigned long long)((now - c->active) / 1000));
    say_flags(t, c, is_unix(peer));
    say_state(t, c);
    say_buffers(t, a, c);
    text_say(t, " cmd=%s user=%s redir=%lld resp=%d",
             c->last_command ? c->last_command->name : "NULL", identity_user(a->proxy),
             c->state.tracking ? (long long)c->state.redirect : -1LL, (int)c->resp);
    if (c->lib_name)
        text_say(t, " lib-name=%s", c->lib_name);
    if (c->lib_version)
        text_say(t, " lib-ver=%s", c->lib_version);
    text_append(t, "\n", 1);
}

static void run_info(const struct asking *a, struct caller *c)
{
    struct text t = {0};
    describe(a, c, &t);
    answer_text(c, &t);
}

static void list_ids(const struct asking *a, struct caller *c, const struct resp_slice *ids,
                     size_t n)
{
    struct text t = {0};
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (!resp_parse_int(ids[i], &id)) {
            free(t.p);
            caller_answer_error(c, "ERR Invalid client ID");
            return;
        }
        struct proxy *owner;
        const struct caller *other = clients_find(a->proxy, (uint64_t)id, &owner);
        if (other)
            describe(a, other, &t);
    }
    answer_text(c, &t);
}

static void list_type(const struct asking *a, struct caller *c, enum client_type type)
{
    struct text t = {0};
    for (size_t i = 0; i < a->proxy->crew->n; i++) {
        const struct caller *other;
        TAILQ_FOREACH(other, &a->proxy->crew->v[i]->callers, entry)
        if (is_of_type(other, type))
            describe(a, other, &t);
    }
    answer_text(c, &t);
}

static void run_list(const struct asking *a, struct caller *c, const struct resp_slice *argv,
                     size_t argc)
{
    if (argc == 4 && resp_word_is(argv[2], "type")) {
        enum client_type type = type_named(argv[3]);
        if (type == TYPE_UNKNOWN)
            refuse(c, "Unknown client type ", argv[3], "");
        else
            list_type(a, c, type);
    } else if (argc > 3 && resp_word_is(argv[2], "id")) {
        list_ids(a, c, argv + 3, argc - 3);
    } else if (argc != 2) {
        caller_answer_error(c, "ERR syntax error");
    } else {
        list_type(a, c, TYPE_ANY);
    }
}

/* --- KILL ---------------------------------------------------------------------------------------
 */

struct filter {
    uint64_t id;                           /* 0: any */
    int64_t max_age;                       /* seconds; 0: any */
    const struct resp_slice *addr, *laddr; /* NULL: any */
    const struct resp_slice *user;
    enum client_type type;
    bool skip_me;
};

static bool is_text(struct resp_slice s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

static bool matches(const struct proxy *p, const struct caller *c, const struct filter *f)
{
    char peer[CONN_ADDRESS_MAX], local[CONN_ADDRESS_MAX];
    conn_peer_address(c->conn, peer);
    conn_local_address(c->conn, local);
    return (!f->id || f->id == c->id) && (!f->addr || is_text(*f->addr, peer)) &&
           (!f->laddr || is_text(*f->laddr, local)) && is_of_type(c, f->type) &&
           (!f->user || is_text(*f->user, identity_user(p))) &&
           (!f->max_age || (loop_now(p->loop) - c->created) / 1000 >= (uint64_t)f->max_age);
}

static int64_t mark_killed(struct proxy *p, struct proxy *owner, struct caller *self,
                           const struct filter *f)
{
    int64_t killed = 0;
    struct caller *c;
    TAILQ_FOREACH(c, &owner->callers, entry)
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

/* Each takes itself off the list when told; one in the middle of a command does when that has run.
 */
static void bury_killed(struct proxy *owner)
{
    struct caller *c, *next;
    for (c = TAILQ_FIRST(&owner->callers); c; c = next) {
        next = TAILQ_NEXT(c, entry);
        if (c->kill && c != owner->running)
            c->progress(c);
    }
}

/* These take a filter's value. False: the client has been answered with an error. */

static bool take_id(struct caller *c, struct filter *f, struct resp_slice value)
{
    int64_t id;
    bool ok = resp_parse_int(value, &id) && id > 0;
    if (ok)
        f->id = (uint64_t)id;
    else
        caller_answer_error(c, "ERR client-id should be greater than 0");
    return ok;
}

static bool take_max_age(struct caller *c, struct filter *f, struct resp_slice value)
{
    if (!resp_parse_int(value, &f->max_age)) {
        caller_answer_error(c, "ERR maxage is not an integer or out of range");
        return false;
    }
    if (f->max_age <= 0)
        caller_answer_error(c, "ERR maxage should be greater than 0");
    return f->max_age > 0;
}

static bool take_type(struct caller *c, struct filter *f, struct resp_slice value)
{
    f->type = type_named(value);
    if (f->type == TYPE_UNKNOWN)
        refuse(c, "Unknown client type ", value, "");
    return f->type != TYPE_UNKNOWN;
}

static bool take_user(const struct proxy *p, struct caller *c, struct filter *f,
                      const struct resp_slice *value)
{
    f->user = value;
    bool known = is_text(*value, identity_user(p)) || is_text(*value, "default");
    if (!known)
        refuse(c, "No such user ", *value, "");
    return known;
}

static bool take_skip_me(struct caller *c, struct filter *f, struct resp_slice value)
{
    f->skip_me = resp_word_is(value, "yes");
    if (f->skip_me || resp_word_is(value, "no"))
        return true;
    caller_answer_error(c, "ERR syntax error");
    return false;
}

static bool take_filter(const struct proxy *p, struct caller *c, struct filter *f,
                        struct resp_slice name, const struct resp_slice *value)
{
    if (resp_word_is(name, "id"))
        return take_id(c, f, *value);
    if (resp_word_is(name, "type"))
        return take_type(c, f, *value);
    if (resp_word_is(name, "user"))
        return take_user(p, c, f, value);
    if (resp_word_is(name, "skipme"))
        return take_skip_me(c, f, *value);
    if (resp_word_is(name, "maxage"))
        return take_max_age(c, f, *value);
    if (resp_word_is(name, "addr"))
        f->addr = value;
    else if (resp_word_is(name, "laddr"))
        f->laddr = value;
    else
        caller_answer_error(c, "ERR syntax error");
    return f->addr == value || f->laddr == value;
}

static bool take_filters(const struct proxy *p, struct caller *c, struct filter *f,
                         const struct resp_slice *argv, size_t argc)
{
    for (size_t i = 2; i < argc; i += 2) {
        if (i + 1 == argc) {
            caller_answer_error(c, "ERR syntax error");
            return false;
        }
        if (!take_filter(p, c, f, argv[i], &argv[i + 1]))
            return false;
    }
    return true;
}

/* KILL address, or KILL filter value [filter value ...]. */
static void run_kill(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc)
{
    bool old_form = argc == 3;
    struct filter f = {.skip_me = !old_form};
    if (old_form)
        f.addr = &argv[2];
    else if (!take_filters(p, c, &f, argv, argc))
        return;
    int64_t killed = 0;
    for (size_t i = 0; i < p->crew->n; i++)
        killed += mark_killed(p, p->crew->v[i], c, &f);
    if (!old_form)
        caller_answer_integer(c, killed);
    else if (killed)
        answer_ok(c, true);
    else
        caller_answer_error(c, "ERR No such client");
    for (size_t i = 0; i < p->crew->n; i++)
        bury_killed(p->crew->v[i]);
}

/* --- the client's own settings ------------------------------------------------------------------
 */

static void run_getname(struct caller *c)
{
    if (c->name)
        caller_answer_bulk(c, c->name, strlen(c->name));
    else
        caller_answer_null(c);
}

static void run_setinfo(struct caller *c, struct resp_slice attribute, struct resp_slice value)
{
    bool is_name = resp_word_is(attribute, "lib-name");
    if (!is_name && !resp_word_is(attribute, "lib-ver"))
        refuse(c, "Unrecognized option ", attribute, "");
    else if (!identity_is_name(value))
        caller_answer_error(
            c, is_name ? "ERR lib-name cannot contain spaces, newlines or special characters."
                       : "ERR lib-ver cannot contain spaces, newlines or special characters.");
    else
        answer_ok(c, caller_set_text(is_name ? &c->lib_name : &c->lib_version, value));
}

/* OFF and SKIP answer nothing. */
static void run_reply(struct caller *c, struct resp_slice mode)
{
    if (resp_word_is(mode, "on")) {
        c->reply_off = c->reply_skip = false;
        answer_ok(c, true);
    } else if (resp_word_is(mode, "off")) {
        c->reply_off = true;
    } else if (resp_word_is(mode, "skip")) {
        c->reply_skip_next = !c->reply_off;
    } else {
        caller_answer_error(c, "ERR syntax error");
    }
}

/* NO-EVICT and NO-TOUCH are about connections of the server that clients share here. */
static void run_switch(struct caller *c, struct resp_slice mode)
{
    if (is_on_or_off(mode))
        answer_ok(c, true);
    else
        caller_answer_error(c, "ERR syntax error");
}

/* --- UNBLOCK ------------------------------------------------------------------------------------
 */

/* What the server calls the connection on which a client blocks; 0: it does not. */
static uint64_t blocked_id(const struct proxy *p, int64_t id)
{
    struct proxy *owner;
    workers_still(p->crew->workers);
    const struct caller *c = clients_find(p, (uint64_t)id, &owner);
    uint64_t theirs = c && c->state.blocking && c->lane ? upstream_client_id(c->lane) : 0;
    workers_go(p->crew->workers);
    return theirs;
}

/* Not down the client's own lane: it may be the one that is blocked. Alone, because what it had
 * sent there meanwhile might be confirmed (SUBSCRIBE) before this is answered. */
static void send_unblock(struct proxy *p, struct caller *c, const struct command *command,
                         const struct resp_slice *argv, size_t argc, uint64_t id)
{
    char digits[RESP_HEADER_MAX];
    size_t len = (size_t)(resp_put_header(digits, ':', id) - digits) - 3; /* ':' and CRLF off */
    struct resp_slice args[4] = {argv[0], argv[1], {digits + 1, len}};
    if (argc == 4)
        args[3] = argv[3];
    struct request_plan plan = {.argv = args, .argc = argc, .command = command};
    (void)forward_alone(p, c, &plan, proxy_query_lane(p, c));
}

static void run_unblock(struct proxy *p, struct caller *c, const struct command *command,
                        const struct resp_slice *argv, size_t argc)
{
    int64_t id;
    if (argc > 4) {
        refuse(c, "unknown subcommand or wrong number of arguments for ", argv[1],
               ". Try CLIENT HELP.");
    } else if (argc == 4 && !resp_word_is(argv[3], "timeout") && !resp_word_is(argv[3], "error")) {
        caller_answer_error(c, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    } else if (!resp_parse_int(argv[2], &id)) {
        caller_answer_error(c, "ERR value is not an integer or out of range");
    } else {
        uint64_t theirs = blocked_id(p, id);
        if (theirs)
            send_unblock(p, c, command, argv, argc, theirs);
        else
            caller_answer_integer(c, 0);
    }
}

/* --- dispatch -----------------------------------------------------------------------------------
 */

bool clients_run(struct proxy *p, struct caller *c, const struct command *command,
                 const struct resp_slice *argv, size_t argc)
{
    struct asking a = asking(p, c, argv, argc);
    switch (command->id) {
    case COMMAND_ID_CLIENT_ID:
        caller_answer_integer(c, (int64_t)c->id);
        break;
    case COMMAND_ID_CLIENT_GETNAME:
        run_getname(c);
        break;
    case COMMAND_ID_CLIENT_SETNAME:
        if (identity_set_name(c, argv[2]))
            answer_ok(c, true);
        break;
    case COMMAND_ID_CLIENT_SETINFO:
        run_setinfo(c, argv[2], argv[3]);
        break;
    case COMMAND_ID_CLIENT_LIST:
        workers_still(p->crew->workers);
        run_list(&a, c, argv, argc);
        workers_go(p->crew->workers);
        break;
    case COMMAND_ID_CLIENT_INFO:
        run_info(&a, c);
        break;
    case COMMAND_ID_CLIENT_KILL:
        workers_still(p->crew->workers);
        run_kill(p, c, argv, argc);
        workers_go(p->crew->workers);
        break;
    case COMMAND_ID_CLIENT_NO_EVICT:
    case COMMAND_ID_CLIENT_NO_TOUCH:
        run_switch(c, argv[2]);
        break;
    case COMMAND_ID_CLIENT_REPLY:
        run_reply(c, argv[2]);
        break;
    case COMMAND_ID_CLIENT_UNBLOCK:
        run_unblock(p, c, command, argv, argc);
        break;
    default:
        return false;
    }
    return true;
}
