/* sockets.h - how the floors listen and accept: on loopback and unix sockets, or not at all. */
#ifndef NEARCACHE_SOCKETS_H
#define NEARCACHE_SOCKETS_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

/* With errno's text. */
static inline void die(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static inline struct sockaddr_in loopback(const char *port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)strtoul(port, NULL, 10)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static inline struct sockaddr_un unix_socket(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    return un;
}

/* A non-blocking listener. */
static inline int listen_on(const void *address, socklen_t len, int family)
{
    int on = 1, fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, address, len) < 0 || listen(fd, 4096) < 0)
        die("listen");
    return fd;
}

/* A non-blocking client; negative: none waits. */
static inline int accept_on(int listener)
{
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

#endif
