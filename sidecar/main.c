/* main.c - builds each part, hands out pointers, one periodic tick a worker, reload, drain. */
#include <errno.h>
#include <event2/thread.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "announce.h"
#include "cgroup.h"
#include "client.h"
#include "dev.h"
#include "identity.h"
#include "lend.h"
#include "link.h"
#include "listener.h"
#include "local.h"
#include "pressure.h"
#include "request.h"
#include "session.h"
#include "setting.h"

enum {
    TICK_MS = 50,
    SIGNALS = 4,
    DESCRIPTORS_OF_OUR_OWN = 64,
    DIVERT_FOR = 200,       /* ms that connections on their way to us are still accepted */
    BUFFERS_MIN = 16 << 20, /* bytes */
    BUFFERS_MAX = 1 << 30,  /* unless the configuration says so */
    OF_OUR_OWN = 8 << 20,   /* what the process takes besides buffers and the L1 */
    TRIM_FROM = 1 << 20,    /* bytes given back before the allocator is asked for them */
    TRIM_EVERY = 100,       /* ms, or .. */
    TRIM_PART = 100,        /* .. one part in so many of the time, if that is longer */
    RESTS_AFTER = 1000,     /* ms without a command */
};

struct app {
    int argc;
    char **argv, **envp;
    struct config config;
    struct upstream_address address, next_address; /* the latter while reloading */
    struct namespace ns;
    struct log *log;
    struct command_table *commands;
    struct coherence *coherence;
    struct link *link;
    struct dev *dev;
    struct crew crew;
    struct worker *workers;      /* crew.n of them; the first is the main thread's */
    struct upstream **upstreams; /* each worker's */
    struct event *signals[SIGNALS];
    char client_name[192];
    bool greeted;
    uint64_t drain_deadline; /* 0: not draining */
};

/* What a thread has for itself. */
struct worker {
    struct app *app;
    pthread_t thread;
    bool runs; /* a thread of its own */
    struct metrics metrics;
    struct loop loop;
    struct tls_context *upstream_tls, *client_tls;           /* NULL: not spoken there */
    struct tls_context *next_upstream_tls, *next_client_tls; /* while reloading */
    struct proxy proxy;
    struct listener **listeners;
    size_t n_listeners;
    struct event *tick;              /* of .. */
    int timer;                       /* -1: none */
    uint64_t listen_until;           /* while draining: 0: not any more */
    uint64_t next_trim, done_before; /* that, when it was last looked at, .. */
    uint64_t done_at;                /* .. and when it had changed */
    size_t held;                     /* bytes of buffers that the allocator may have kept */
    bool untrimmed;                  /* something has been done since the last one at rest */
};

static const char *first_label(const struct app *a)
{
    return listener_label(a->workers[0].listeners[0]);
}

__attribute__((format(printf, 1, 2))) static bool complain(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("nearcache: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return false;
}

/* --- the first lines ----------------------------------------------------------------------------
 */

static void greet(struct app *a)
{
    const struct link *l = a->link;
    bool live = strcmp(link_mode(l), "tracking") == 0 || strcmp(link_mode(l), "events") == 0;
    const char *port = strrchr(first_label(a), ':');
    bool is_unix = strncmp(first_label(a), "unix:", 5) == 0;
    char memory[SETTING_NUMBER_MAX], ttl[SETTING_NUMBER_MAX];
    a->greeted = true;
    (void)malloc_trim(0); /* what it took to learn the server's commands */
    printf("upstream   %s (Redis %s)%s%s\n", a->address.label, link_server_version(l),
           live ? "" : " - not reachable: ", live ? "" : link_last_error(l));
    if (!live)
        printf("           start a Redis there, or point --upstream at one; nearcache keeps "
               "trying\n");
    printf("namespace  '%s' (SET user:1 is %suser:1 in Redis)\n", a->ns.prefix.data,
           a->ns.prefix.data);
    setting_format_number(SETTING_BYTES, a->config.l1_max_memory, memory);
    setting_format_number(SETTING_DURATION, a->config.l1_ttl, ttl);
    if (a->config.l1_max_memory)
        printf("L1         %s, entries live up to %s\n", memory, ttl);
    else
        printf("L1         off (l1.max_memory=0)\n");
    printf("link       %s\n", link_mode(l));
    bool is_tls = strncmp(first_label(a), "tls:", 4) == 0;
    printf("try        redis-cli %s%s %s set user:1 Ada\n", is_tls ? "--tls --cacert FILE " : "",
           is_unix ? "-s" : "-p", is_unix ? first_label(a) + 5 : port + 1);
    fflush(stdout);
}

static void announce_listeners(const struct app *a)
{
    const struct worker *w = &a->workers[0];
    for (size_t i = 0; i < w->n_listeners; i++)
        printf("listening on %s\n", listener_label(w->listeners[i]));
    printf("ready\n");
    fflush(stdout);
}

/* --- time ---------------------------------------------------------------------------------------
 */

static void stop_listening(struct worker *w)
{
    for (size_t i = 0; i < w->n_listeners; i++)
        listener_free(w->listeners[i]);
    w->n_listeners = 0;
    w->listen_until = 0;
}

/* The first one ends when nobody is left anywhere, and has the others end. */
static void drain(struct worker *w, uint64_t now)
{
    const struct app *a = w->app;
    if (w->listen_until && now >= w->listen_until)
        stop_listening(w);
    clients_drain(&w->proxy, now);
    if (w == a->workers &&
        ((a->crew.n_callers == 0 && w->n_listeners == 0) || now >= a->drain_deadline))
        loop_stop(&w->loop);
}

/* Commands that were run, and clients that have left. */
static uint64_t done_by(const struct worker *w)
{
    return w->metrics.commands + w->metrics.connections_received - w->proxy.n_callers;
}

/* No commands have come for a while, for the first time since some came. */
static bool has_come_to_rest(struct worker *w, uint64_t now)
{
    uint64_t done = done_by(w);
    if (done != w->done_before)
        w->done_at = now;
    w->untrimmed |= done != w->done_before;
    w->done_before = done;
    return w->untrimmed && now - w->done_at >= RESTS_AFTER;
}

/* After a burst, and at rest: what we and the allocator keep for more of it is the machine's again.
 * A load that goes on needs as much again with the next turn: it has its peak. */
static void trim(struct worker *w, uint64_t now)
{
    if (now < w->next_trim)
        return;
    size_t peak = budget_take_peak(&w->loop.budget);
    bool rests = has_come_to_rest(w, now);
    w->next_trim = now + TRIM_EVERY;
    w->held = peak > w->held ? peak : w->held;
    if (w->held < peak + TRIM_FROM && !rests)
        return;
    w->held = peak;
    if (rests) {
        w->untrimmed = false;
        loop_drop_spares(&w->loop);
    }
    (void)malloc_trim(0); /* looks at all that is free, gap by gap */
    loop_forget_time(&w->loop);
    w->next_trim += (loop_now(&w->loop) - now) * TRIM_PART;
}

/* What the others do not use, or half an equal share if they use more than theirs. */
static void share_buffers(struct worker *w)
{
    const struct crew *crew = &w->app->crew;
    size_t others = 0, least = crew->max_buffers / crew->n / 2, all = crew->max_buffers;
    for (size_t i = 0; i < crew->n; i++)
        if (i != w->proxy.number)
            others += budget_used(&crew->v[i]->loop->budget);
    size_t left = all > others ? all - others : 0;
    w->loop.budget.limit = left > least ? left : least;
}

static void tick_worker(struct worker *w, uint64_t now)
{
    share_buffers(w);
    conn_tick(&w->loop);
    upstream_tick(w->proxy.upstream, now);
    lend_tick(&w->proxy, now);
    session_tick(&w->proxy);
    pressure_tick(&w->proxy, now);
    for (size_t i = 0; i < w->n_listeners; i++)
        listener_tick(w->listeners[i], now);
    trim(w, now);
    if (w->app->drain_deadline)
        drain(w, now);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    uint64_t expirations;
    (void)what;
    (void)!read(fd, &expirations, sizeof expirations); /* or it would be told of again */
    struct worker *w = arg;
    struct app *a = w->app;
    uint64_t now = loop_now(&w->loop);
    if (w == a->workers)
        link_tick(a->link, now);
    tick_worker(w, now);
    if (w == a->workers && !a->greeted && !a->drain_deadline && link_settled(a->link))
        greet(a);
}

/* --- TLS ----------------------------------------------------------------------------------------
 */

/* Loads the files. False: why was said. */
static bool load_tls(struct tls_options *options, const char *key_password_file,
                     struct tls_context **out)
{
    char error[TLS_ERROR_MAX], *password = NULL;
    if (key_password_file && !(password = config_first_line(key_password_file, error)))
        return complain("%s: %s", key_password_file, error);
    options->key_password = password;
    *out = tls_context_new(options, error);
    identity_forget(password);
    return *out || complain("%s", error);
}

static bool load_upstream_tls(const struct config *c, const struct upstream_address *address,
                              struct tls_context **out)
{
    const char *name = c->upstream_tls_server_name;
    struct tls_options options = {.role = TLS_CLIENT,
                                  .cert_file = c->upstream_tls_cert_file,
                                  .key_file = c->upstream_tls_key_file,
                                  .ca_file = c->upstream_tls_ca_file,
                                  .ca_dir = c->upstream_tls_ca_dir,
                                  .verify = c->upstream_tls_verify,
                                  .server_name = name ? name : address->host};
    return load_tls(&options, c->upstream_tls_key_password_file, out);
}

static bool load_client_tls(const struct config *c, struct tls_context **out)
{
    static const enum tls_peer peers[] = {[TLS_AUTH_REQUIRED] = TLS_PEER_REQUIRED,
                                          [TLS_AUTH_OPTIONAL] = TLS_PEER_OPTIONAL,
                                          [TLS_AUTH_OFF] = TLS_PEER_OFF};
    struct tls_options options = {.role = TLS_SERVER,
                                  .cert_file = c->tls_cert_file,
                                  .key_file = c->tls_key_file,
                                  .ca_file = c->tls_ca_file,
                                  .peer = peers[config_tls_auth_clients(c)],
                                  .handshake_timeout = c->tls_handshake_timeout};
    return load_tls(&options, c->tls_key_password_file, out);
}

static bool listens_with_tls(const struct config *c)
{
    bool found = false;
    for (size_t i = 0; i < c->listen.n; i++) {
        struct listen_address address;
        found |= config_listen(c->listen.v[i], &address) && address.tls;
        listen_address_free(&address);
    }
    return found;
}

static bool build_tls(struct worker *w)
{
    const struct app *a = w->app;
    const struct config *c = &a->config;
    if (a->address.tls && !load_upstream_tls(c, &a->address, &w->upstream_tls))
        return false;
    return !listens_with_tls(c) || load_client_tls(c, &w->client_tls);
}

static void warn_of_unverified(const struct app *a)
{
    if (a->address.tls && !a->config.upstream_tls_verify)
        log_write(a->log, LOG_WARN, "upstream_tls_unverified", "upstream", a->address.label, "hint",
                  "whoever is in between can read and change everything", NULL);
}

static bool load_next_tls(const struct app *a, const struct config *fresh, struct worker *w)
{
    return (!w->upstream_tls ||
            load_upstream_tls(fresh, &a->next_address, &w->next_upstream_tls)) &&
           (!w->client_tls || load_client_tls(fresh, &w->next_client_tls));
}

static void take_next_tls(struct tls_context *context, struct tls_context **next, bool ok)
{
    if (ok && *next)
        tls_context_swap(context, *next);
    tls_context_free(*next);
    *next = NULL;
}

/* All files are read before the old ones are given up: with a wrong one nothing changes. */
static bool reload_tls(struct app *a, const struct config *fresh)
{
    bool ok = true;
    for (size_t i = 0; ok && i < a->crew.n; i++)
        ok = load_next_tls(a, fresh, &a->workers[i]);
    for (size_t i = 0; i < a->crew.n; i++) {
        struct worker *w = &a->workers[i];
        take_next_tls(w->upstream_tls, &w->next_upstream_tls, ok);
        take_next_tls(w->client_tls, &w->next_client_tls, ok);
    }
    return ok;
}

/* --- the password of clients --------------------------------------------------------------------
 */

/* False: why was said. */
static bool load_password(const struct config *c, char **out)
{
    char error[SETTING_ERROR_MAX];
    return config_auth_password(c, out, error) ||
           complain("%s: %s", c->auth_password_file ? c->auth_password_file : "auth.password",
                    error);
}

/* --- reloading ----------------------------------------------------------------------------------
 */

static bool set_url(struct config *c, const char *url)
{
    char *copy = strdup(url);
    if (!copy)
        return complain("out of memory");
    free(c->upstream_url);
    c->upstream_url = copy;
    return true;
}

/* Where the upstream will be. False: not while running; why was said. */
static bool find_new_address(struct app *a, const struct config *fresh)
{
    struct upstream_address next;
    if (!config_upstream(fresh, &next))
        return complain(
            "upstream: out of memory, or upstream.password_file can't be read any more");
    bool ok = next.tls == a->address.tls && next.db == a->address.db;
    if (!ok)
        upstream_address_free(&next);
    else
        a->next_address = next;
    return ok ||
           complain("upstream.url: another database, or TLS turned on or off, needs a restart");
}

static bool accept_config(void *ctx, struct config *fresh)
{
    struct app *a = ctx;
    char *password = NULL;
    if (a->dev && !set_url(fresh, dev_url(a->dev)))
        return false;
    if (!load_password(fresh, &password) || !find_new_address(a, fresh)) {
        identity_forget(password);
        return false;
    }
    if (!reload_tls(a, fresh)) {
        upstream_address_free(&a->next_address);
        identity_forget(password);
        return false;
    }
    if (identity_set_password(&a->crew, password))
        log_write(a->log, LOG_INFO, "client_password_changed", NULL);
    return true;
}

/* New credentials are for new connections. Another place has other data. */
static void take_new_address(struct app *a)
{
    bool moved = !upstream_address_same_place(&a->address, &a->next_address);
    upstream_address_free(&a->address);
    a->address = a->next_address;
    a->next_address = (struct upstream_address){0};
    if (!moved)
        return;
    coherence_new_epoch(a->coherence);
    for (size_t i = 0; i < a->crew.n; i++)
        upstream_renew(a->upstreams[i]);
    link_restart(a->link, "the upstream's address has changed");
}

/* --- signals ------------------------------------------------------------------------------------
 */

static void start_draining(struct app *a, uint64_t now)
{
    log_write(a->log, LOG_INFO, "draining", NULL);
    a->drain_deadline = now + a->config.drain_timeout + 1;
    const struct worker *first = &a->workers[0];
    for (size_t i = 0; a->config.reuse_port && i < first->n_listeners; i++)
        listener_divert(first->listeners[i], (unsigned)a->crew.n);
    for (size_t i = 0; i < a->crew.n; i++)
        a->workers[i].listen_until = a->config.reuse_port ? now + DIVERT_FOR : now;
}

static void on_stop(evutil_socket_t signal, short what, void *arg)
{
    (void)signal;
    (void)what;
    struct app *a = arg;
    struct worker *w = &a->workers[0];
    if (a->drain_deadline) { /* asked twice: now */
        loop_stop(&w->loop);
        return;
    }
    workers_still_between(a->crew.workers);
    start_draining(a, loop_now(&w->loop));
    workers_go(a->crew.workers);
    drain(w, loop_now(&w->loop));
}

/* As Redis does: as many descriptors as maxclients needs, or fewer clients. */
static void fit_descriptors(struct app *a)
{
    struct rlimit limit;
    uint64_t own = a->config.upstream_sessions + DESCRIPTORS_OF_OUR_OWN * a->config.workers;
    uint64_t wanted = a->config.max_clients + own;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted) {
        char number[24];
        a->config.max_clients =
            limit.rlim_cur > 2 * own ? limit.rlim_cur - own : limit.rlim_cur / 2;
        log_write(a->log, LOG_WARN, "maxclients_reduced", "to",
                  log_number(number, a->config.max_clients), "hint",
                  "raise the limit on open files", NULL);
    }
}

/* What buffers may take. */
static size_t buffer_limit(const struct config *c)
{
    uint64_t limit = cgroup_memory_limit("/proc/self/cgroup", "/sys/fs/cgroup");
    uint64_t others = c->l1_max_memory + OF_OUR_OWN;
    if (c->max_buffers)
        return (size_t)c->max_buffers;
    if (!limit)
        limit = cgroup_physical_memory() / 4;
    else
        limit = limit > others ? (limit - others) / 4 * 3 : 0;
    limit = limit < BUFFERS_MAX ? limit : BUFFERS_MAX;
    return (size_t)(limit > BUFFERS_MIN ? limit : BUFFERS_MIN);
}

static struct upstream_options upstream_options(const struct app *a, const struct worker *w)
{
    const struct config *c = &a->config;
    return (struct upstream_options){.address = &a->address,
                                     .tls = w->upstream_tls,
                                     .client_name = a->client_name,
                                     .connections = (unsigned)c->upstream_connections,
                                     .private_max =
                                         (unsigned)((c->upstream_sessions - 1) / a->crew.n + 1),
                                     .connect_timeout = c->upstream_connect_timeout,
                                     .handshake_timeout = c->upstream_handshake_timeout,
                                     .timeout = c->upstream_timeout,
                                     .scan_timeout = c->upstream_scan_timeout,
                                     .queue_timeout = c->upstream_queue_timeout,
                                     .breaker = {.timeouts = (unsigned)c->breaker_timeouts,
                                                 .error_rate = (unsigned)c->breaker_error_rate,
                                                 .min_requests = (unsigned)c->breaker_min_requests,
                                                 .window = c->breaker_window,
                                                 .open_min = c->breaker_open_min,
                                                 .open_max = c->breaker_open_max}};
}

static struct coherence_options coherence_options(const struct app *a)
{
    const struct config *c = &a->config;
    return (struct coherence_options){.max_stale = c->l1_max_stale,
                                      .stale_keys = &c->l1_stale_if_error,
                                      .ttl = c->l1_ttl,
                                      .negative_ttl = c->l1_negative_ttl,
                                      .lease = c->lease,
                                      .max_value = (size_t)c->l1_max_value};
}

static void apply_settings(struct app *a)
{
    const struct config *c = &a->config;
    struct coherence_options coherence = coherence_options(a);
    log_set_level(a->log, c->log_level);
    coherence_set_options(a->coherence, &coherence);
    a->crew.max_buffers = buffer_limit(c);
    for (size_t i = 0; i < a->crew.n; i++) {
        struct upstream_options up = upstream_options(a, &a->workers[i]);
        upstream_set_options(a->upstreams[i], &up);
    }
    fit_descriptors(a);
}

static void log_changed(void *ctx, const char *path)
{
    struct app *a = ctx;
    log_write(a->log, LOG_INFO, "setting_changed", "setting", path, NULL);
}

static void log_refused(void *ctx, const char *path)
{
    struct app *a = ctx;
    log_write(a->log, LOG_WARN, "setting_needs_restart", "setting", path, NULL);
}

static void on_reload(evutil_socket_t signal, short what, void *arg)
{
    (void)signal;
    (void)what;
    struct app *a = arg;
    const struct config_reload_hooks hooks = {
        .accept = accept_config, .changed = log_changed, .refused = log_refused, .ctx = a};
    workers_still_between(a->crew.workers);
    bool ok = config_reload(&a->config, a->argc, a->argv, a->envp, stderr, &hooks);
    if (ok) {
        take_new_address(a);
        apply_settings(a);
    }
    workers_go(a->crew.workers);
    if (!ok)
        log_write(a->log, LOG_ERROR, "reload_refused", "hint",
                  "the errors stand above; nothing was changed", NULL);
}

static bool watch_signals(struct app *a)
{
    static const struct {
        int signal;
        event_callback_fn callback;
    } table[] = {{SIGTERM, on_stop}, {SIGINT, on_stop}, {SIGHUP, on_reload}};
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        a->signals[i] =
            evsignal_new(a->workers[0].loop.base, table[i].signal, table[i].callback, a);
        if (!a->signals[i] || event_add(a->signals[i], NULL) != 0)
            return complain("out of memory");
    }
    return true;
}

/* By a descriptor rather than a timeout of the loop's, which the kernel would set and cancel with
 * each wait: 7 % of a request where there is one connection. */
static bool start_ticking(struct worker *w)
{
    const struct timespec period = {.tv_nsec = TICK_MS * 1000000L};
    w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (w->timer < 0 || timerfd_settime(w->timer, 0, &(struct itimerspec){period, period}, NULL))
        return complain("timerfd: %s", strerror(errno));
    w->tick = event_new(w->loop.base, w->timer, EV_READ | EV_PERSIST, on_tick, w);
    if (!w->tick || event_add(w->tick, NULL) != 0)
        return complain("out of memory");
    event_active(w->tick, EV_TIMEOUT, 1); /* the link connects at once */
    w->done_at = loop_now(&w->loop);
    w->untrimmed = true; /* the start */
    share_buffers(w);
    upstream_open(w->proxy.upstream);
    return true;
}

/* --- building -----------------------------------------------------------------------------------
 */

static bool start_dev(struct app *a)
{
    char error[DEV_ERROR_MAX];
    if (!a->config.dev)
        return true;
    a->dev = dev_start(a->config.dev_redis_server, error);
    if (!a->dev)
        return complain("%s", error);
    return set_url(&a->config, dev_url(a->dev));
}

static bool build_leaves(struct app *a)
{
    char *prefix = config_namespace(&a->config);
    bool ok = prefix && namespace_init(&a->ns, prefix);
    free(prefix);
    a->commands = command_table_new();
    struct l1_config l1 = {.max_memory = (size_t)a->config.l1_max_memory,
                           .max_value = (size_t)a->config.l1_max_value};
    evutil_secure_rng_get_bytes(&l1.seed, sizeof l1.seed);
    if (!ok || !a->commands)
        return complain("out of memory");
    struct coherence_options coherence = coherence_options(a);
    a->coherence = coherence_new(&l1, a->crew.n > 1, &coherence);
    return a->coherence || complain("l1.max_memory=%zu: %s", l1.max_memory, strerror(errno));
}

static bool build_address(struct app *a)
{
    snprintf(a->client_name, sizeof a->client_name, "nearcache:%s", a->config.service);
    return config_upstream(&a->config, &a->address) || complain("out of memory");
}

static bool init_worker(struct app *a, size_t i)
{
    struct worker *w = &a->workers[i];
    struct proxy *p = &w->proxy;
    *w = (struct worker){.app = a, .timer = -1};
    a->crew.v[i] = p;
    if (!build_tls(w))
        return false;
    *p = (struct proxy){.crew = &a->crew,
                        .number = i,
                        .loop = &w->loop,
                        .config = &a->config,
                        .log = a->log,
                        .metrics = &w->metrics,
                        .ns = &a->ns,
                        .commands = a->commands,
                        .coherence = a->coherence,
                        .address = &a->address,
                        .tls = w->client_tls,
                        .started = monotonic_ms()};
    TAILQ_INIT(&p->callers);
    TAILQ_INIT(&p->waiting);
    TAILQ_INIT(&p->hung_up);
    TAILQ_INIT(&p->pressed);
    LIST_INIT(&p->outgoing);
    if (!loop_init(&w->loop))
        return complain("can't make an event loop: %s", strerror(errno));
    return workers_join(a->crew.workers, i, &w->loop, p) || complain("out of memory");
}

/* All of them have a loop before any has more. */
static bool init_workers(struct app *a)
{
    for (size_t i = 0; i < a->crew.n; i++)
        if (!init_worker(a, i))
            return false;
    return true;
}

static bool build_upstream(struct app *a, struct worker *w)
{
    struct proxy *p = &w->proxy;
    struct upstream_options up = upstream_options(a, w);
    const struct announce *first = a->workers[0].proxy.announce;
    p->upstream = upstream_new(&w->loop, &up, &request_upstream_callbacks, p, a->log, &w->metrics);
    a->upstreams[p->number] = p->upstream;
    p->announce = p->upstream ? announce_new(&w->loop, p->upstream, &a->ns, a->config.service,
                                             first ? announce_origin(first) : NULL, &w->metrics)
                              : NULL;
    return p->announce || complain("out of memory");
}

static bool build_link(struct app *a)
{
    struct worker *first = &a->workers[0];
    const struct config *c = &a->config;
    struct link_options link = {.address = &a->address,
                                .tls = first->upstream_tls,
                                .service = c->service,
                                .ns = &a->ns,
                                .origin = announce_origin(first->proxy.announce),
                                .tracking = c->tracking,
                                .tracking_mode = c->tracking_mode,
                                .has_l1 = c->l1_max_memory > 0,
                                .upstreams = a->upstreams,
                                .n_upstreams = a->crew.n,
                                .workers = a->crew.workers,
                                .connect_timeout = c->upstream_connect_timeout};
    a->link = link_new(&first->loop, &link, a->coherence, a->commands, a->log, &first->metrics);
    for (size_t i = 0; i < a->crew.n; i++)
        a->workers[i].proxy.link = a->link;
    return a->link || complain("out of memory");
}

static struct listener *listen_at(struct worker *w, size_t i, char error[LISTENER_ERROR_MAX])
{
    struct app *a = w->app;
    const struct config *c = &a->config;
    const struct listener_options options = {.unix_mode = c->unix_mode,
                                             .backlog = (int)c->tcp_backlog,
                                             .reuse_port = c->reuse_port,
                                             .group = a->crew.n > 1};
    if (w != a->workers)
        return listener_beside(&w->loop, a->workers[0].listeners[i], &options, &w->proxy, error);
    struct listen_address address;
    snprintf(error, LISTENER_ERROR_MAX, "out of memory");
    if (!config_listen(c->listen.v[i], &address))
        return NULL;
    struct listener *l =
        listener_new(&w->loop, &address, &options, a->log, client_accept, &w->proxy, error);
    listen_address_free(&address);
    return l;
}

static bool start_listening(struct worker *w)
{
    size_t n = w->app->config.listen.n;
    w->listeners = calloc(n, sizeof(struct listener *));
    if (!w->listeners)
        return complain("out of memory");
    for (; w->n_listeners < n; w->n_listeners++) {
        char error[LISTENER_ERROR_MAX];
        w->listeners[w->n_listeners] = listen_at(w, w->n_listeners, error);
        if (!w->listeners[w->n_listeners])
            return complain("can't listen on %s", error);
    }
    return true;
}

static bool build_workers(struct app *a)
{
    if (!init_workers(a))
        return false;
    for (size_t i = 0; i < a->crew.n; i++)
        if (!build_upstream(a, &a->workers[i]))
            return false;
    if (!build_link(a))
        return false;
    for (size_t i = 0; i < a->crew.n; i++)
        if (!start_listening(&a->workers[i]))
            return false;
    return true;
}

static bool build(struct app *a)
{
    size_t n = a->config.workers;
    if (n > 1 && evthread_use_pthreads() != 0) /* libevent's random numbers are everybody's */
        return complain("libevent can't be used by several threads here");
    a->crew.workers = workers_new(n);
    a->crew.v = calloc(n, sizeof *a->crew.v);
    a->workers = calloc(n, sizeof *a->workers);
    a->upstreams = calloc(n, sizeof(struct upstream *));
    a->log = log_new(stderr, a->config.log_level);
    if (!a->crew.workers || !a->crew.v || !a->workers || !a->upstreams || !a->log)
        return complain("out of memory");
    a->crew.n = n;
    a->crew.max_buffers = buffer_limit(&a->config);
    fit_descriptors(a);
    if (!load_password(&a->config, &a->crew.auth_password) || !start_dev(a) || !build_leaves(a) ||
        !build_address(a) || !build_workers(a) || !watch_signals(a))
        return false;
    warn_of_unverified(a);
    for (size_t i = 0; i < n; i++)
        if (!start_ticking(&a->workers[i]))
            return false;
    return true;
}

/* --- running ------------------------------------------------------------------------------------
 */

static void *run_worker(void *arg)
{
    struct worker *w = arg;
    loop_run(&w->loop);
    workers_leave(w->app->crew.workers, w->proxy.number);
    return NULL;
}

/* Signals are the main thread's. */
static bool start_threads(struct app *a)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = true;
    for (size_t i = 1; ok && i < a->crew.n; i++) {
        struct worker *w = &a->workers[i];
        ok = w->runs = pthread_create(&w->thread, NULL, run_worker, w) == 0;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok || complain("workers=%zu: can't start so many threads", a->crew.n);
}

static void end_threads(struct app *a)
{
    workers_leave(a->crew.workers, 0);
    workers_stop(a->crew.workers);
    for (size_t i = 1; i < a->crew.n; i++)
        if (a->workers[i].runs)
            (void)pthread_join(a->workers[i].thread, NULL);
}

static void tear_down_worker(struct worker *w)
{
    struct proxy *p = &w->proxy;
    stop_listening(w);
    free(w->listeners);
    if (p->upstream)
        clients_close(p);
    outgoing_cancel_all(p);
    upstream_free(p->upstream);
    announce_free(p->announce);
    command_keys_free(&p->keys);
    resp_args_free(&p->args);
    if (w->tick)
        event_free(w->tick);
    if (w->timer >= 0)
        close(w->timer);
}

static void tear_down(struct app *a)
{
    if (a->crew.workers)
        end_threads(a);
    for (size_t i = 0; i < a->crew.n && a->crew.v[i]; i++)
        tear_down_worker(&a->workers[i]);
    link_free(a->link);
    coherence_free(a->coherence);
    command_table_free(a->commands);
    for (size_t i = 0; i < SIGNALS; i++)
        if (a->signals[i])
            event_free(a->signals[i]);
    for (size_t i = 0; i < a->crew.n && a->crew.v[i]; i++) {
        workers_leave(a->crew.workers, i);
        loop_free(&a->workers[i].loop);
        tls_context_free(a->workers[i].upstream_tls); /* the last connections are gone */
        tls_context_free(a->workers[i].client_tls);
    }
    workers_free(a->crew.workers);
    namespace_free(&a->ns);
    upstream_address_free(&a->address);
    dev_stop(a->dev);
    log_free(a->log);
    identity_forget(a->crew.auth_password);
    free(a->crew.v);
    free(a->workers);
    free(a->upstreams);
    config_free(&a->config);
}

int main(int argc, char **argv, char **envp)
{
    struct app a = {.argc = argc, .argv = argv, .envp = envp};
    int exit_code = 1;
    if (config_load(&a.config, argc, argv, envp, stdout, stderr, &exit_code) == CONFIG_EXIT)
        return exit_code;
    bool ok = build(&a) && start_threads(&a);
    if (ok) {
        announce_listeners(&a);
        loop_run(&a.workers[0].loop);
    }
    tear_down(&a);
    return ok ? 0 : 1;
}
