/* dev.c - the private throw-away redis-server of --dev. */
#include "dev.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct dev {
    pid_t pid;
    char dir[96], socket[108], url[128];
};

enum {
    START_TRIES = 500, /* of 10 ms */
    TMPDIR_MAX = 72,   /* a unix socket's path has at most 107 bytes */
};

/* In the child; never returns. */
static void become_server(const struct dev *d, const char *program)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setpgid(0, 0); /* a Ctrl-C is for us: the server is stopped after the clients are served */
    if (chdir(d->dir) == 0)
        execlp(program, program, "--port", "0", "--unixsocket", d->socket, "--unixsocketperm",
               "700", "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile",
               "redis.log", (char *)NULL);
    _exit(errno == ENOENT ? 127 : 126);
}

static bool answers(const struct dev *d)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(address.sun_path, d->socket, strlen(d->socket));
    bool ok = fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool has_exited(struct dev *d, int *status)
{
    if (waitpid(d->pid, status, WNOHANG) != d->pid)
        return false;
    d->pid = 0;
    return true;
}

static bool await_server(struct dev *d, const char *program, char error[DEV_ERROR_MAX])
{
    for (int i = 0; i < START_TRIES; i++) {
        int status = 0;
        if (answers(d))
            return true;
        if (has_exited(d, &status)) {
            bool missing = WIFEXITED(status) && WEXITSTATUS(status) == 127;
            snprintf(error, DEV_ERROR_MAX,
                     missing ? "--dev needs '%s', which is not installed (Debian: apt install "
                               "redis-server), or give --set dev.redis_server=PATH"
                             : "--dev: '%s' stopped at once; run it by hand to see why",
                     program);
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
    snprintf(error, DEV_ERROR_MAX, "--dev: '%s' did not answer within 5 s", program);
    return false;
}

struct dev *dev_start(const char *program, char error[DEV_ERROR_MAX])
{
    const char *tmp = getenv("TMPDIR");
    bool usable = tmp && *tmp == '/' && strlen(tmp) <= TMPDIR_MAX;
    struct dev *d = calloc(1, sizeof *d);
    snprintf(error, DEV_ERROR_MAX, "out of memory");
    if (!d)
        return NULL;
    snprintf(d->dir, sizeof d->dir, "%.72s/nearcache-dev.XXXXXX", usable ? tmp : "/tmp");
    if (!mkdtemp(d->dir)) {
        snprintf(error, DEV_ERROR_MAX, "--dev: %s: %s", d->dir, strerror(errno));
        free(d);
        return NULL;
    }
    snprintf(d->socket, sizeof d->socket, "%.95s/redis.sock", d->dir);
    snprintf(d->url, sizeof d->url, "unix:%s", d->socket);
    d->pid = fork();
    if (d->pid == 0)
        become_server(d, program);
    if (d->pid > 0 && await_server(d, program, error))
        return d;
    if (d->pid < 0)
        snprintf(error, DEV_ERROR_MAX, "--dev: fork: %s", strerror(errno));
    dev_stop(d);
    return NULL;
}

const char *dev_url(const struct dev *d)
{
    return d->url;
}

void dev_stop(struct dev *d)
{
    static const char *const files[] = {"redis.sock", "redis.log", "dump.rdb"};
    if (!d)
        return;
    if (d->pid > 0) {
        kill(d->pid, SIGKILL); /* throw-away: nothing is to be saved */
        (void)waitpid(d->pid, NULL, 0);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", d->dir, files[i]);
        (void)unlink(path);
    }
    (void)rmdir(d->dir);
    free(d);
}
