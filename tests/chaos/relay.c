/* relay.c - a relay of faults between nearcache and a server, for tests/chaos/run.
 *
 *     relay UPSTREAM-PORT SEED            says "listening PORT", and takes commands on stdin:
 *
 *     cut KIND PERCENT fin|reset                    end so many of the connections, in order or not
 *     truncate KIND PERCENT BYTES                   the same when so many more bytes of replies
 * passed hole KIND PERCENT requests|replies|both       deliver nothing of these any more stall KIND
 * requests|replies|both 0|1          nothing passes now; nothing is lost delay KIND
 * requests|replies|both MS           everything takes so long rate KIND requests|replies|both BYTES
 * so many pass in a ms; 0: all refuse 0|1                                    new connections are
 * reset calm                                          no stalls, delays, rates, refusals count says
 * how many connections there are
 *
 * A hole swallows without a word, but not for ever: where packets are lost the system gives up, by
 * nearcache's settings after ten seconds. Here they are acknowledged, so the relay has to do it.
 *
 * KIND is data, link (the invalidation link, known by the name that it gives itself first) or any.
 * Bytes are not looked at otherwise. What nearcache had sent when it left is still delivered.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "dice.h"

enum { REQUESTS, REPLIES, DIRECTIONS };
enum kind { DATA, LINK, KINDS };

enum {
    CHUNK = 64 * 1024,
    HELD_MAX = 1024 * 1024, /* bytes of one direction, before its source is not read from */
    PARTS = 256,            /* pieces of them that are due at different times */
    EVENTS = 128,
    LINE = 256,
    HOLE = 12000, /* ms */
};

struct gate {
    bool stalled;
    unsigned delay, rate; /* ms; bytes in a ms */
};

/* Bytes from one socket to the other; parts become due one after the other. */
struct pipe {
    struct connection *connection;
    int from, to;
    char *held;
    size_t n, cap;
    struct part {
        size_t n;
        uint64_t due; /* ms */
    } parts[PARTS];
    unsigned first, n_parts;
    bool ended, swallows;
    uint64_t refilled, allowed; /* of a rate */
    unsigned interest;          /* of epoll in `from` */
};

struct connection {
    struct connection *next;
    enum kind kind;
    bool known, dead;
    bool connecting; /* to the server */
    struct pipe pipes[DIRECTIONS];
    bool truncates;
    uint64_t left; /* bytes of replies until it ends */
    uint64_t hole; /* ms: since when it has been one */
};

struct relay {
    int epoll, listener;
    struct sockaddr_in server;
    struct dice dice;
    struct connection *connections;
    struct gate gates[KINDS][DIRECTIONS];
    bool refuses, over;
    uint64_t now; /* ms */
    char line[LINE];
    size_t line_len;
    char buffer[CHUNK];
};

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- connections --------------------------------------------------------------------------------
 */

/* Freed at the end of the turn. */
static void end(struct connection *c, bool reset)
{
    struct linger abort_it = {.l_onoff = 1};
    if (c->dead)
        return;
    c->dead = true;
    for (unsigned i = 0; i < DIRECTIONS; i++) {
        if (reset)
            (void)setsockopt(c->pipes[i].from, SOL_SOCKET, SO_LINGER, &abort_it, sizeof abort_it);
        close(c->pipes[i].from);
    }
}

static void watch(struct relay *r, struct pipe *p, unsigned more)
{
    unsigned wanted = more;
    if (!p->ended && p->n < HELD_MAX && p->n_parts < PARTS)
        wanted |= EPOLLIN;
    if (wanted == p->interest)
        return;
    p->interest = wanted;
    struct epoll_event e = {.events = wanted, .data.ptr = p};
    epoll_ctl(r->epoll, EPOLL_CTL_MOD, p->from, &e);
}

static int connect_server(struct relay *r)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&r->server, sizeof r->server) == 0 || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

static void add_pipe(struct relay *r, struct connection *c, unsigned i, int from, int to)
{
    unsigned interest = EPOLLIN | (i == REPLIES ? EPOLLOUT : 0);
    c->pipes[i] = (struct pipe){.connection = c, .from = from, .to = to, .interest = interest};
    struct epoll_event e = {.events = interest, .data.ptr = &c->pipes[i]};
    epoll_ctl(r->epoll, EPOLL_CTL_ADD, from, &e);
}

static void on_accept(struct relay *r)
{
    int on = 1, near = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (near < 0)
        return;
    (void)setsockopt(near, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int far = r->refuses ? -1 : connect_server(r);
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->next = r->connections;
    c->connecting = far >= 0;
    r->connections = c;
    add_pipe(r, c, REQUESTS, near, far);
    c->pipes[REPLIES].from = far;
    if (far >= 0)
        add_pipe(r, c, REPLIES, far, near);
    else
        end(c, true);
}

/* --- bytes --------------------------------------------------------------------------------------
 */

static struct gate *gate_of(struct relay *r, const struct pipe *p)
{
    const struct connection *c = p->connection;
    return &r->gates[c->kind][p == &c->pipes[REPLIES]];
}

static void hold(struct pipe *p, const char *bytes, size_t n, uint64_t due)
{
    if (p->cap - p->n < n) {
        p->cap = 2 * p->cap + n;
        p->held = realloc(p->held, p->cap);
        if (!p->held)
            abort();
    }
    memcpy(p->held + p->n, bytes, n);
    p->n += n;
    struct part *last = &p->parts[(p->first + p->n_parts - 1) % PARTS];
    if (p->n_parts && (last->due == due || p->n_parts == PARTS))
        last->n += n;
    else
        p->parts[(p->first + p->n_parts++) % PARTS] = (struct part){n, due};
}

/* How many of the bytes held may go now. */
static size_t due_bytes(struct relay *r, struct pipe *p)
{
    const struct gate *g = gate_of(r, p);
    size_t n = 0;
    if (g->stalled || p->connection->connecting)
        return 0;
    for (unsigned i = 0; i < p->n_parts; i++) {
        const struct part *part = &p->parts[(p->first + i) % PARTS];
        if (part->due > r->now)
            break;
        n += part->n;
    }
    if (g->rate == 0)
        return n;
    if (p->refilled < r->now) {
        p->allowed = g->rate * (r->now - p->refilled < 20 ? r->now - p->refilled : 20);
        p->refilled = r->now;
    }
    return n < p->allowed ? n : p->allowed;
}

static void forget(struct pipe *p, size_t n)
{
    if (n == 0)
        return;
    memmove(p->held, p->held + n, p->n - n);
    p->n -= n;
    p->allowed -= n < p->allowed ? n : p->allowed;
    while (n > 0) {
        struct part *part = &p->parts[p->first];
        size_t some = part->n < n ? part->n : n;
        part->n -= some;
        n -= some;
        if (part->n == 0) {
            p->first = (p->first + 1) % PARTS;
            p->n_parts--;
        }
    }
}

/* Has its end come? What was sent before is delivered first. */
static bool is_over(const struct pipe *p, bool truncated)
{
    return (truncated && p->connection->left == 0) || (p->ended && p->n == 0 && !p->swallows);
}

/* Passes on what may go. */
static void pump(struct relay *r, struct pipe *p)
{
    struct connection *c = p->connection;
    bool truncated = c->truncates && p == &c->pipes[REPLIES];
    size_t n = due_bytes(r, p);
    if (truncated && n > c->left)
        n = c->left;
    ssize_t sent = n ? send(p->to, p->held, n, MSG_NOSIGNAL) : 0;
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        end(c, true);
        return;
    }
    bool blocked = c->connecting || sent < (ssize_t)n;
    if (sent > 0)
        forget(p, (size_t)sent);
    if (truncated && sent > 0)
        c->left -= (size_t)sent;
    if (is_over(p, truncated)) {
        end(c, false);
        return;
    }
    /* `to` is where the other direction comes from: it is watched there. */
    struct pipe *back = &c->pipes[p == &c->pipes[REQUESTS] ? REPLIES : REQUESTS];
    watch(r, back, blocked ? EPOLLOUT : 0);
    watch(r, p, p->interest & EPOLLOUT);
}

static void recognise(struct connection *c, const char *bytes, size_t n)
{
    static const char mark[] = ":link\r\n";
    c->known = true;
    c->kind = memmem(bytes, n, mark, sizeof mark - 1) ? LINK : DATA;
}

/* The server's end gets through, unless it falls into a hole. When nearcache has gone nobody wants
 * replies any more, but what it had asked for is still asked. */
static void source_ended(struct relay *r, struct pipe *p, bool reset)
{
    struct connection *c = p->connection;
    bool from_near = p == &c->pipes[REQUESTS];
    if (from_near ? p->swallows || p->n == 0 : reset && !p->swallows) {
        end(c, reset);
        return;
    }
    p->ended = true;
    (void)epoll_ctl(r->epoll, EPOLL_CTL_DEL, p->from, NULL);
    if (from_near) {
        c->pipes[REPLIES].swallows = true;
        forget(&c->pipes[REPLIES], c->pipes[REPLIES].n);
    }
    pump(r, p);
}

static void on_readable(struct relay *r, struct pipe *p)
{
    struct connection *c = p->connection;
    ssize_t n = recv(p->from, r->buffer, sizeof r->buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        source_ended(r, p, n < 0);
        return;
    }
    if (!c->known && p == &c->pipes[REQUESTS])
        recognise(c, r->buffer, (size_t)n);
    if (p->swallows)
        return;
    unsigned delay = gate_of(r, p)->delay;
    hold(p, r->buffer, (size_t)n, delay ? r->now + delay : 0);
    pump(r, p);
}

/* False: it is not. */
static bool is_connected(struct connection *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    (void)getsockopt(c->pipes[REPLIES].from, SOL_SOCKET, SO_ERROR, &error, &len);
    c->connecting = false;
    if (error)
        end(c, true);
    return error == 0;
}

static void on_event(struct relay *r, struct pipe *p, uint32_t events)
{
    struct connection *c = p->connection;
    if (c->dead || (c->connecting && p == &c->pipes[REPLIES] && !is_connected(c)))
        return;
    if (events & EPOLLOUT)
        pump(r, &c->pipes[p == &c->pipes[REQUESTS] ? REPLIES : REQUESTS]);
    if (!c->dead && !p->ended && events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        on_readable(r, p);
}

/* --- commands -----------------------------------------------------------------------------------
 */

struct order {
    char what[16], kind[16], how[16];
    unsigned a, b;
};

static bool is_meant(const struct order *o, enum kind kind)
{
    static const char *const names[KINDS] = {"data", "link"};
    return strcmp(o->kind, "any") == 0 || strcmp(o->kind, names[kind]) == 0;
}

static bool is_way(const struct order *o, unsigned direction)
{
    static const char *const names[DIRECTIONS] = {"requests", "replies"};
    return strcmp(o->how, "both") == 0 || strcmp(o->how, names[direction]) == 0;
}

static void harm(const struct relay *r, const struct order *o, struct connection *c)
{
    if (strcmp(o->what, "cut") == 0) {
        end(c, strcmp(o->how, "reset") == 0);
    } else if (strcmp(o->what, "truncate") == 0) {
        c->truncates = true;
        c->left = o->b;
    } else {
        c->hole = r->now;
        for (unsigned i = 0; i < DIRECTIONS; i++)
            c->pipes[i].swallows |= is_way(o, i);
    }
}

static void harm_some(struct relay *r, const struct order *o)
{
    for (struct connection *c = r->connections; c; c = c->next)
        if (!c->dead && is_meant(o, c->kind) && dice_below(&r->dice, 100) < o->a)
            harm(r, o, c);
}

static void set_gates(struct relay *r, const struct order *o)
{
    for (unsigned kind = 0; kind < KINDS; kind++) {
        for (unsigned i = 0; i < DIRECTIONS; i++) {
            struct gate *g = &r->gates[kind][i];
            if (!is_meant(o, (enum kind)kind) || !is_way(o, i))
                continue;
            if (strcmp(o->what, "stall") == 0)
                g->stalled = o->a;
            else if (strcmp(o->what, "delay") == 0)
                g->delay = o->a;
            else
                g->rate = o->a;
        }
    }
}

static void pump_all(struct relay *r)
{
    for (struct connection *c = r->connections; c; c = c->next)
        for (unsigned i = 0; i < DIRECTIONS && !c->dead; i++)
            if (c->pipes[i].n || c->pipes[i].ended)
                pump(r, &c->pipes[i]);
}

static void count(const struct relay *r)
{
    unsigned n[KINDS] = {0};
    for (const struct connection *c = r->connections; c; c = c->next)
        n[c->kind] += !c->dead;
    printf("%u data, %u link\n", n[DATA], n[LINK]);
    fflush(stdout);
}

static void obey(struct relay *r, const char *line)
{
    struct order o = {0};
    if (sscanf(line, "refuse %u", &o.a) == 1)
        r->refuses = o.a;
    else if (strcmp(line, "calm") == 0)
        memset(r->gates, 0, sizeof r->gates), r->refuses = false;
    else if (strcmp(line, "count") == 0)
        count(r);
    else if (sscanf(line, "%15s %15s %u %15s", o.what, o.kind, &o.a, o.how) == 4)
        o.b = (unsigned)strtoul(o.how, NULL, 10), harm_some(r, &o);
    else if (sscanf(line, "%15s %15s %15s %u", o.what, o.kind, o.how, &o.a) == 4)
        set_gates(r, &o);
    else
        fprintf(stderr, "relay: what is '%s'?\n", line), exit(2);
}

static void on_stdin(struct relay *r)
{
    ssize_t n = read(STDIN_FILENO, r->line + r->line_len, sizeof r->line - 1 - r->line_len);
    if (n <= 0) {
        r->over = true;
        return;
    }
    r->line_len += (size_t)n;
    r->line[r->line_len] = '\0';
    for (char *lf; (lf = strchr(r->line, '\n'));) {
        *lf = '\0';
        obey(r, r->line);
        r->line_len -= (size_t)(lf + 1 - r->line);
        memmove(r->line, lf + 1, r->line_len + 1);
    }
}

/* --- the loop -----------------------------------------------------------------------------------
 */

static void bury(struct relay *r)
{
    for (struct connection **at = &r->connections; *at;) {
        struct connection *c = *at;
        if (!c->dead) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        free(c->pipes[REQUESTS].held);
        free(c->pipes[REPLIES].held);
        free(c);
    }
}

static void give_up_holes(struct relay *r)
{
    for (struct connection *c = r->connections; c; c = c->next)
        if (c->hole && r->now - c->hole > HOLE)
            end(c, true);
}

/* How long until there may be something to do: ms. */
static int patience(const struct relay *r)
{
    int ms = -1;
    for (const struct connection *c = r->connections; c; c = c->next)
        if (c->pipes[REQUESTS].n || c->pipes[REPLIES].n)
            return 1;
        else if (c->hole)
            ms = 100;
    return ms;
}

static void run(struct relay *r)
{
    struct epoll_event events[EVENTS];
    while (!r->over) {
        int n = epoll_wait(r->epoll, events, EVENTS, patience(r));
        r->now = now_ms();
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == r)
                on_accept(r);
            else if (events[i].data.ptr)
                on_event(r, events[i].data.ptr, events[i].events);
            else
                on_stdin(r);
        }
        pump_all(r);
        give_up_holes(r);
        bury(r);
    }
    for (struct connection *c = r->connections; c; c = c->next)
        end(c, false);
    bury(r);
}

static void listen_somewhere(struct relay *r)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    r->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(r->listener, (struct sockaddr *)&a, sizeof a) || listen(r->listener, 1024) ||
        getsockname(r->listener, (struct sockaddr *)&a, &len)) {
        perror("relay: listen");
        exit(2);
    }
    printf("listening %u\n", (unsigned)ntohs(a.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static struct relay relay;
    struct relay *r = &relay;
    if (argc != 3) {
        fprintf(stderr, "usage: relay UPSTREAM-PORT SEED\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    r->server = (struct sockaddr_in){.sin_family = AF_INET,
                                     .sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10)),
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    r->dice.state = strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15 + 1;
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    listen_somewhere(r);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = r};
    epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->listener, &e);
    e.data.ptr = NULL;
    epoll_ctl(r->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e);
    run(r);
    close(r->listener);
    close(r->epoll);
    return 0;
}
