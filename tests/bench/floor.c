/* floor.c - a server that does nothing: what a reply costs in system calls and the kernel's copy.
 *
 *     floor PORT PATH REQUEST VALUE COUNT
 *
 * Listens on 127.0.0.1:PORT and the unix socket PATH. Each REQUEST bytes, whatever they are, are
 * answered with a value of VALUE bytes, or an array of COUNT of them if that isn't 1: those that
 * loadgen expects with constant=1. Replies are made beforehand, and lie one behind the other in as
 * much memory as they would take in a cache, so that the copy finds them as cold. No server can be
 * cheaper that waits with epoll, reads and writes.
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

#include "pattern.h"
#include "sockets.h"

enum {
    MEMORY = 64 << 20, /* of all replies, */
    COPIES = 1 << 16,  /* or so many */
    READ_SIZE = 64 << 10,
    EVENTS = 512,
};

struct conn {
    int fd;
    bool listener, watching; /* watching for room to write */
    size_t pending;          /* bytes of an incomplete request */
    size_t owed, at;         /* bytes to be sent; from where in the replies */
};

struct server {
    int epoll;
    size_t request, reply;
    char *replies;
    size_t replies_len, next; /* where the next connection begins in them */
    char buffer[READ_SIZE];
};

static void watch(const struct server *s, struct conn *c, int operation, bool room)
{
    struct epoll_event event = {.events = EPOLLIN | (room ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(s->epoll, operation, c->fd, &event) < 0)
        die("epoll_ctl");
    c->watching = room;
}

static struct conn *add(const struct server *s, int fd, bool listener)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        die("calloc");
    c->fd = fd;
    c->listener = listener;
    watch(s, c, EPOLL_CTL_ADD, false);
    return c;
}

static void welcome(struct server *s, const struct conn *listener)
{
    int fd;
    while ((fd = accept_on(listener->fd)) >= 0) {
        add(s, fd, false)->at = s->next;
        s->next = (s->next + 97 * s->reply) % s->replies_len;
    }
}

static void leave(struct conn *c)
{
    close(c->fd);
    free(c);
}

/* False: the connection is gone. */
static bool flush(const struct server *s, struct conn *c)
{
    while (c->owed > 0) {
        size_t len = s->replies_len - c->at;
        ssize_t n = write(c->fd, s->replies + c->at, len < c->owed ? len : c->owed);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            leave(c);
            return false;
        }
        c->owed -= (size_t)n;
        c->at = (c->at + (size_t)n) % s->replies_len;
    }
    if (c->watching != (c->owed > 0))
        watch(s, c, EPOLL_CTL_MOD, c->owed > 0);
    return true;
}

static void readable(struct server *s, struct conn *c)
{
    ssize_t n = read(c->fd, s->buffer, sizeof s->buffer);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        leave(c);
        return;
    }
    c->pending += (size_t)n;
    c->owed += c->pending / s->request * s->reply;
    c->pending %= s->request;
    flush(s, c);
}

static void serve(struct server *s)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(s->epoll, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (c->listener)
            welcome(s, c);
        else if (!(events[i].events & EPOLLOUT) || flush(s, c))
            readable(s, c);
    }
}

static void make_replies(struct server *s, size_t value, size_t count)
{
    char array[32] = "", head[32];
    if (count != 1)
        snprintf(array, sizeof array, "*%zu\r\n", count);
    snprintf(head, sizeof head, "$%zu\r\n", value);
    s->reply = strlen(array) + count * (strlen(head) + value + 2);
    size_t copies = MEMORY / s->reply + 1;
    s->replies_len = (copies < COPIES ? copies : COPIES) * s->reply;
    s->replies = malloc(s->replies_len);
    if (!s->replies)
        die("malloc");
    char *to = stpcpy(s->replies, array);
    for (size_t i = 0; i < count; i++) {
        to = stpcpy(to, head);
        fill_pattern(to, value);
        to = mempcpy(to + value, "\r\n", 2);
    }
    for (size_t at = s->reply; at < s->replies_len; at += s->reply)
        memcpy(s->replies + at, s->replies, s->reply);
}

int main(int argc, char **argv)
{
    static struct server s; /* too large for some stacks */
    if (argc != 6) {
        fprintf(stderr, "usage: floor PORT PATH REQUEST VALUE COUNT\n");
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN);
    const struct sockaddr_in in = loopback(argv[1]);
    const struct sockaddr_un un = unix_socket(argv[2]);
    s.request = strtoul(argv[3], NULL, 10);
    make_replies(&s, strtoul(argv[4], NULL, 10), strtoul(argv[5], NULL, 10));
    s.epoll = epoll_create1(0);
    add(&s, listen_on(&in, sizeof in, AF_INET), true);
    add(&s, listen_on(&un, sizeof un, AF_UNIX), true);
    for (;;)
        serve(&s);
}
