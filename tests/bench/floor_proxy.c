/* floor_proxy.c - a proxy that does nothing: what passing requests on costs in system calls.
 *
 *     floor_proxy PORT UPSTREAM REQUEST REPLY
 *
 * Listens on 127.0.0.1:PORT and passes requests of REQUEST bytes each, whatever they are, to the
 * server at the unix socket UPSTREAM, over one connection; its replies, of REPLY bytes each, go to
 * those who asked, in order. What comes in one turn goes upstream with one write, and what comes
 * back to one client as well. It looks at no byte, has no deadlines, and gives up where a socket
 * takes less than it is given. No proxy can be cheaper that waits with epoll, reads and writes.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sockets.h"

enum {
    READ_SIZE = 256 << 10,
    CARRY = 64 << 10, /* of an incomplete request or reply, and of what a client is to get */
    WRITE_SIZE = 8 << 20,
    OWED = 1 << 20, /* a power of two */
    EVENTS = 512,
};

struct conn {
    int fd;
    bool dirty;
    unsigned owed; /* replies; it lives until it has got them */
    size_t pending, out_len;
    char carry[CARRY], out[CARRY];
};

static struct {
    int epoll, listener, upstream;
    size_t request, reply;
    char buffer[CARRY + READ_SIZE], requests[WRITE_SIZE], carry[CARRY];
    size_t requests_len, pending;
    struct conn *owed[OWED];
    unsigned first_owed, end_owed;
    struct conn *dirty[OWED];
    size_t n_dirty;
} s;

static void watch(int fd, void *who)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = who};
    if (epoll_ctl(s.epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static void welcome(void)
{
    int fd;
    while ((fd = accept_on(s.listener)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c)
            die("calloc");
        c->fd = fd;
        watch(fd, c);
    }
}

static void leave(struct conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (c->owed == 0 && !c->dirty)
        free(c);
}

/* Behind what was carried over: bytes in all that lie in the buffer then; 0: the end, -1: nothing.
 */
static ssize_t receive(int fd, const char *carry, size_t pending)
{
    memcpy(s.buffer, carry, pending);
    ssize_t n = recv(fd, s.buffer + pending, READ_SIZE, MSG_DONTWAIT);
    if (n == READ_SIZE) {
        fputs("floor_proxy: more at a time than it is made for\n", stderr);
        exit(EXIT_FAILURE);
    }
    if (n < 0 && errno == EAGAIN)
        return -1;
    return n > 0 ? n + (ssize_t)pending : 0;
}

static void keep(char *carry, size_t *pending, size_t from, size_t n)
{
    *pending = n - from;
    memcpy(carry, s.buffer + from, *pending);
}

static void take_requests(struct conn *c)
{
    ssize_t n = receive(c->fd, c->carry, c->pending);
    if (n == 0)
        leave(c);
    if (n <= 0)
        return;
    size_t count = (size_t)n / s.request, whole = count * s.request;
    if (whole > WRITE_SIZE - s.requests_len || s.end_owed - s.first_owed + count > OWED)
        die("too much");
    memcpy(s.requests + s.requests_len, s.buffer, whole);
    s.requests_len += whole;
    c->owed += (unsigned)count;
    while (count-- > 0)
        s.owed[s.end_owed++ % OWED] = c;
    keep(c->carry, &c->pending, whole, (size_t)n);
}

static void deliver(struct conn *c, const char *reply)
{
    if (s.reply > CARRY - c->out_len)
        die("too much");
    if (!c->dirty)
        s.dirty[s.n_dirty++] = c;
    c->dirty = true;
    memcpy(c->out + c->out_len, reply, s.reply);
    c->out_len += s.reply;
    c->owed--;
}

static void take_replies(void)
{
    ssize_t n = receive(s.upstream, s.carry, s.pending);
    size_t at = 0;
    if (n < 0)
        return;
    for (; (size_t)n - at >= s.reply && s.first_owed != s.end_owed; at += s.reply)
        deliver(s.owed[s.first_owed++ % OWED], s.buffer + at);
    if (n == 0 || (size_t)n - at >= s.reply)
        die("the server has left, or said more than it was asked");
    keep(s.carry, &s.pending, at, (size_t)n);
}

static void put(int fd, const char *p, size_t n)
{
    ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
    if (sent != (ssize_t)n && (sent >= 0 || errno == EAGAIN))
        die("a socket takes less than it is given");
}

static void serve(void)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(s.epoll, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == &s.listener)
            welcome();
        else if (events[i].data.ptr == &s.upstream)
            take_replies();
        else
            take_requests(events[i].data.ptr);
    }
    if (s.requests_len)
        put(s.upstream, s.requests, s.requests_len);
    s.requests_len = 0;
    for (size_t i = 0; i < s.n_dirty; i++) {
        struct conn *c = s.dirty[i];
        c->dirty = false;
        if (c->fd >= 0)
            put(c->fd, c->out, c->out_len);
        c->out_len = 0;
        if (c->fd < 0)
            leave(c);
    }
    s.n_dirty = 0;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: floor_proxy PORT UPSTREAM REQUEST REPLY\n");
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN);
    const struct sockaddr_in in = loopback(argv[1]);
    const struct sockaddr_un un = unix_socket(argv[2]);
    s.request = strtoul(argv[3], NULL, 10);
    s.reply = strtoul(argv[4], NULL, 10);
    s.epoll = epoll_create1(0);
    s.upstream = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(s.upstream, (const struct sockaddr *)&un, sizeof un) < 0)
        die(argv[2]);
    s.listener = listen_on(&in, sizeof in, AF_INET);
    watch(s.upstream, &s.upstream);
    watch(s.listener, &s.listener);
    for (;;)
        serve();
}
