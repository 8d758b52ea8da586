/* listener.c - addresses where clients connect. */
#include "listener.h"

#include <errno.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    LABEL_MAX = 160,
    PAUSE = 100,            /* ms without accepting, when there is no descriptor for it */
    COMPLAIN_EVERY = 10000, /* ms */
};

struct listener {
    struct loop *loop;
    struct log *log;
    listener_accepted *accepted;
    void *ctx;
    struct evconnlistener *listener;
    bool tls;
    uint64_t resume_at; /* 0: it accepts */
    struct log_limit complaints;
    char *path; /* of a unix socket, and the file that is it */
    dev_t device;
    ino_t inode;
    char label[LABEL_MAX];
};

/* --- sockets ------------------------------------------------------------------------------------
 */

/* The errno is kept for whoever complains. */
static int close_with(int fd, int error)
{
    close(fd);
    errno = error;
    return -1;
}

static int bound_socket(const struct sockaddr *address, socklen_t len,
                        const struct listener_options *o)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0)
        return -1;
    if (address->sa_family != AF_UNIX)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address->sa_family != AF_UNIX && (o->reuse_port || o->group) &&
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        return close_with(fd, errno);
    return bind(fd, address, len) == 0 ? fd : close_with(fd, errno);
}

/* Sharing the address is for ourselves: another process that has it is noticed. */
static bool is_taken(const struct sockaddr *address, socklen_t len,
                     const struct listener_options *o)
{
    if (o->reuse_port || !o->group)
        return false;
    int fd = bound_socket(address, len, &(struct listener_options){.backlog = o->backlog});
    if (fd >= 0)
        close(fd);
    return fd < 0;
}

static int listening(int fd, const struct listener_options *o)
{
    return fd < 0 || listen(fd, o->backlog) == 0 ? fd : close_with(fd, errno);
}

static int listen_tcp(const struct listen_address *a, const struct listener_options *o,
                      char error[LISTENER_ERROR_MAX])
{
    char port[8];
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *list = NULL;
    snprintf(port, sizeof port, "%u", (unsigned)a->port);
    int failed = getaddrinfo(a->host && *a->host ? a->host : NULL, port, &hints, &list);
    if (failed) {
        snprintf(error, LISTENER_ERROR_MAX, "%s: %s", a->label, gai_strerror(failed));
        return -1;
    }
    int fd = is_taken(list->ai_addr, list->ai_addrlen, o)
                 ? -1
                 : listening(bound_socket(list->ai_addr, list->ai_addrlen, o), o);
    if (fd < 0)
        snprintf(error, LISTENER_ERROR_MAX, "%s: %s", a->label, strerror(errno));
    freeaddrinfo(list);
    return fd;
}

/* --- unix sockets -------------------------------------------------------------------------------
 */

static bool set_path(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(address->sun_path, path, strlen(path));
    return true;
}

/* A socket file that nobody answers at is left over from a crash; one that is answered is in use.
 */
static bool remove_stale(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 &&
                 errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return stale && unlink(address->sun_path) == 0;
}

static int listen_alone(const char *path, const struct listener_options *o)
{
    struct sockaddr_un address;
    if (!set_path(&address, path))
        return -1;
    int fd = bound_socket((const struct sockaddr *)&address, sizeof address, o);
    if (fd < 0 && errno == EADDRINUSE && remove_stale(&address))
        fd = bound_socket((const struct sockaddr *)&address, sizeof address, o);
    return listening(fd, o);
}

/* The name leads to the old process until it leads to us: there is no moment without. */
static int take_over(const char *path, const struct listener_options *o)
{
    struct sockaddr_un address;
    char beside[sizeof address.sun_path + 24];
    snprintf(beside, sizeof beside, "%s.%ld", path, (long)getpid());
    if (!set_path(&address, beside))
        return -1;
    (void)unlink(beside); /* of a process that had our number and has crashed */
    int fd = listening(bound_socket((const struct sockaddr *)&address, sizeof address, o), o);
    if (fd >= 0 && rename(beside, path) != 0)
        return close_with(fd, errno);
    return fd;
}

/* The file has its permissions from the start: there is no moment in which others may connect. */
static int listen_unix(const char *path, const struct listener_options *o)
{
    const char *mode = o->unix_mode;
    mode_t mask = umask(0);
    (void)umask(mode ? 0777 & ~(mode_t)strtoul(mode, NULL, 8) : mask);
    int fd = o->reuse_port ? take_over(path, o) : listen_alone(path, o), error = errno;
    (void)umask(mask);
    errno = error;
    return fd;
}

static void remember_file(struct listener *l, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0 || !(l->path = strdup(path)))
        return;
    l->device = st.st_dev;
    l->inode = st.st_ino;
}

static void remove_file(const struct listener *l)
{
    struct stat st;
    if (l->path && stat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
        (void)unlink(l->path);
}

/* --- accepting ----------------------------------------------------------------------------------
 */

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
                      int len, void *ctx)
{
    (void)listener;
    (void)address;
    (void)len;
    const struct listener *l = ctx;
    l->accepted(l->ctx, fd, l->tls);
}

/* Out of descriptors, most likely: the connections wait in the backlog, and trying again at once
 * would only take time from those who are connected. */
static void on_accept_error(struct evconnlistener *listener, void *ctx)
{
    int error = errno;
    char suppressed[24];
    struct listener *l = ctx;
    uint64_t now = loop_now(l->loop);
    (void)evconnlistener_disable(listener);
    l->resume_at = now + PAUSE;
    if (log_limit_pass(&l->complaints, now, COMPLAIN_EVERY))
        log_write(l->log, LOG_WARN, "accept_failed", "why", strerror(error), "suppressed",
                  log_number(suppressed, l->complaints.suppressed), NULL);
}

void listener_tick(struct listener *l, uint64_t now)
{
    if (!l->resume_at || now < l->resume_at)
        return;
    l->resume_at = 0;
    (void)evconnlistener_enable(l->listener);
}

static void accept_all(const struct listener *l)
{
    int fd, listening_fd = evconnlistener_get_fd(l->listener);
    while ((fd = accept4(listening_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        l->accepted(l->ctx, fd, l->tls);
}

/* A classic BPF program that answers a number: the kernel gives new connections to that socket of
 * the group, counted in the order in which they were bound, and chooses itself where there is no
 * such (socket(7), SO_ATTACH_REUSEPORT_CBPF). Ours came before those of a newer process. */
void listener_divert(struct listener *l, unsigned ours)
{
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, ours)};
    struct sock_fprog program;
    memset(&program, 0, sizeof program); /* the gap in it goes to the kernel, too */
    program.len = 1;
    program.filter = code;
    (void)setsockopt(evconnlistener_get_fd(l->listener), SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF,
                     &program, sizeof program);
}

/* --- life ---------------------------------------------------------------------------------------
 */

static void set_label(struct listener *l, const struct listen_address *a)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    char host[64] = "?", port[8] = "0";
    if (a->path) {
        snprintf(l->label, sizeof l->label, "unix:%s", a->path);
        return;
    }
    (void)getsockname(evconnlistener_get_fd(l->listener), (struct sockaddr *)&address, &len);
    (void)getnameinfo((struct sockaddr *)&address, len, host, sizeof host, port, sizeof port,
                      NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(l->label, sizeof l->label, address.ss_family == AF_INET6 ? "%s[%s]:%s" : "%s%s:%s",
             l->tls ? "tls:" : "", host, port);
}

static int open_socket(const struct listen_address *address, const struct listener_options *options,
                       char error[LISTENER_ERROR_MAX])
{
    if (!address->path)
        return listen_tcp(address, options, error);
    int fd = listen_unix(address->path, options);
    if (fd < 0)
        snprintf(error, LISTENER_ERROR_MAX, "%s: %s", address->label, strerror(errno));
    return fd;
}

/* Takes the descriptor, also where it fails; fd < 0: it has failed already. */
static struct listener *listen_at(const struct listener *like, int fd,
                                  char error[LISTENER_ERROR_MAX])
{
    struct listener *l = malloc(sizeof *l);
    if (l)
        *l = *like;
    if (fd >= 0)
        snprintf(error, LISTENER_ERROR_MAX, "out of memory");
    if (fd >= 0 && l)
        l->listener = evconnlistener_new(
            l->loop->base, on_accept, l,
            LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED, 0, fd);
    /* Enabled from the start, it would not say that it could not be. */
    if (l && l->listener && evconnlistener_enable(l->listener) != 0) {
        evconnlistener_free(l->listener);
        l->listener = NULL;
        fd = -1;
    }
    if (!l || !l->listener) {
        if (fd >= 0)
            close(fd);
        free(l);
        return NULL;
    }
    evconnlistener_set_error_cb(l->listener, on_accept_error);
    return l;
}

struct listener *listener_new(struct loop *loop, const struct listen_address *address,
                              const struct listener_options *options, struct log *log,
                              listener_accepted *accepted, void *ctx,
                              char error[LISTENER_ERROR_MAX])
{
    const struct listener like = {
        .loop = loop, .log = log, .accepted = accepted, .ctx = ctx, .tls = address->tls};
    struct listener *l = listen_at(&like, open_socket(address, options, error), error);
    if (!l)
        return NULL;
    if (address->path)
        remember_file(l, address->path);
    set_label(l, address);
    return l;
}

/* A unix socket has one queue of connections, whose descriptors are many. */
static int open_beside(const struct listener *first, const struct listener_options *options)
{
    int fd = evconnlistener_get_fd(first->listener);
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        return -1;
    if (address.ss_family == AF_UNIX)
        return fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return listening(bound_socket((const struct sockaddr *)&address, len, options), options);
}

struct listener *listener_beside(struct loop *loop, const struct listener *first,
                                 const struct listener_options *options, void *ctx,
                                 char error[LISTENER_ERROR_MAX])
{
    struct listener like = *first;
    like.loop = loop;
    like.ctx = ctx;
    like.listener = NULL;
    like.path = NULL; /* the first one's to remove */
    int fd = open_beside(first, options);
    if (fd < 0)
        snprintf(error, LISTENER_ERROR_MAX, "%s: %s", first->label, strerror(errno));
    return listen_at(&like, fd, error);
}

void listener_free(struct listener *l)
{
    if (!l)
        return;
    remove_file(l);
    accept_all(l);
    evconnlistener_free(l->listener);
    free(l->path);
    free(l);
}

const char *listener_label(const struct listener *l)
{
    return l->label;
}
