/* main.c - builds each part, hands out pointers, one periodic tick, reload, drain. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "announce.h"
#include "cgroup.h"
#include "client.h"
#include "dev.h"
#include "lend.h"
#include "link.h"
#include "listener.h"
#include "local.h"
#include "pressure.h"
#include "request.h"

enum {
    TICK_MS = 50,
    SIGNALS = 4,
    DESCRIPTORS_OF_OUR_OWN = 64,
    DIVERT_FOR = 200,       /* ms that connections on their way to us are still accepted */
    BUFFERS_MIN = 16 << 20, /* bytes */
    BUFFERS_MAX = 1 << 30,  /* unless the configuration says so */
    OF_OUR_OWN = 8 << 20,   /* what the process takes besides buffers and the L1 */
    TRIM_FROM = 8 << 20,    /* bytes given back before the allocator is asked for them */
    TRIM_EVERY = 1000,      /* ms */
};

struct app {
    int argc;
    char **argv, **envp;
    struct config config;
    struct upstream_address address, next_address; /* the latter while reloading */
    struct namespace ns;
    struct metrics metrics;
    struct loop loop;
    struct proxy proxy;
    struct dev *dev;
    struct tls_context *upstream_tls, *client_tls; /* NULL: not spoken there */
    struct listener **listeners;
    size_t n_listeners;
    struct event *tick, *signals[SIGNALS];
    char client_name[192];
    bool greeted;
    uint64_t drain_deadline; /* 0: not draining */
    uint64_t listen_until;   /* while draining: 0: not any more */
    uint64_t next_trim;
};

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
    const struct proxy *p = &a->proxy;
    bool live =
        strcmp(link_mode(p->link), "tracking") == 0 || strcmp(link_mode(p->link), "events") == 0;
    const char *port = strrchr(listener_label(a->listeners[0]), ':');
    bool is_unix = strncmp(listener_label(a->listeners[0]), "unix:", 5) == 0;
    a->greeted = true;
    (void)malloc_trim(0); /* what it took to learn the server's commands */
    printf("upstream   %s (Redis %s)%s%s\n", a->address.label, link_server_version(p->link),
           live ? "" : " - not reachable: ", live ? "" : link_last_error(p->link));
    if (!live)
        printf("           start a Redis there, or point --upstream at one; nearcache keeps "
               "trying\n");
    printf("namespace  '%s' (SET user:1 is %suser:1 in Redis)\n", a->ns.prefix.data,
           a->ns.prefix.data);
    printf("L1         %llu MB, entries live up to %llu s\n",
           (unsigned long long)(a->config.l1_max_memory >> 20),
           (unsigned long long)(a->config.l1_ttl / 1000));
    printf("link       %s\n", link_mode(p->link));
    bool is_tls = strncmp(listener_label(a->listeners[0]), "tls:", 4) == 0;
    printf("try        redis-cli %s%s %s set user:1 Ada\n", is_tls ? "--tls --cacert FILE " : "",
           is_unix ? "-s" : "-p", is_unix ? listener_label(a->listeners[0]) + 5 : port + 1);
    fflush(stdout);
}

static void announce_listeners(const struct app *a)
{
    for (size_t i = 0; i < a->n_listeners; i++)
        printf("listening on %s\n", listener_label(a->listeners[i]));
    printf("ready\n");
    fflush(stdout);
}

/* --- time ---------------------------------------------------------------------------------------
 */

static void stop_listening(struct app *a)
{
    for (size_t i = 0; i < a->n_listeners; i++)
        listener_free(a->listeners[i]);
    a->n_listeners = 0;
    a->listen_until = 0;
}

static void drain(struct app *a, uint64_t now)
{
    if (a->listen_until && now >= a->listen_until)
        stop_listening(a);
    clients_drain(&a->proxy, now);
    if ((a->proxy.n_callers == 0 && a->n_listeners == 0) || now >= a->drain_deadline)
        loop_stop(&a->loop);
}

/* After a burst: what the allocator keeps for the next one is the machine's again. */
static void trim(struct app *a, uint64_t now)
{
    struct budget *b = &a->loop.budget;
    if (now < a->next_trim)
        return;
    a->next_trim = now + TRIM_EVERY;
    if (b->peak_since_trim < b->used + TRIM_FROM)
        return;
    b->peak_since_trim = b->used;
    (void)malloc_trim(0);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct app *a = arg;
    uint64_t now = loop_now(&a->loop);
    upstream_tick(a->proxy.upstream, now);
    link_tick(a->proxy.link, now);
    lend_tick(&a->proxy, now);
    pressure_tick(&a->proxy, now);
    for (size_t i = 0; i < a->n_listeners; i++)
        listener_tick(a->listeners[i], now);
    trim(a, now);
    if (!a->greeted && !a->drain_deadline && link_settled(a->proxy.link))
        greet(a);
    if (a->drain_deadline)
        drain(a, now);
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
    if (password)
        explicit_bzero(password, strlen(password));
    free(password);
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

static bool build_tls(struct app *a)
{
    const struct config *c = &a->config;
    if (a->address.tls && !load_upstream_tls(c, &a->address, &a->upstream_tls))
        return false;
    if (a->address.tls && !c->upstream_tls_verify)
        log_write(a->proxy.log, LOG_WARN, "upstream_tls_unverified", "upstream", a->address.label,
                  "hint", "whoever is in between can read and change everything", NULL);
    if (listens_with_tls(c) && !load_client_tls(c, &a->client_tls))
        return false;
    a->proxy.tls = a->client_tls;
    return true;
}

/* All files are read before the old ones are given up: with a wrong one nothing changes. */
static bool reload_tls(struct app *a, const struct config *fresh)
{
    struct tls_context *upstream = NULL, *client = NULL;
    bool ok = (!a->upstream_tls || load_upstream_tls(fresh, &a->next_address, &upstream)) &&
              (!a->client_tls || load_client_tls(fresh, &client));
    if (ok && upstream)
        tls_context_swap(a->upstream_tls, upstream);
    if (ok && client)
        tls_context_swap(a->client_tls, client);
    tls_context_free(upstream);
    tls_context_free(client);
    return ok;
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
    if (a->dev && !set_url(fresh, dev_url(a->dev)))
        return false;
    if (!find_new_address(a, fresh))
        return false;
    if (reload_tls(a, fresh))
        return true;
    upstream_address_free(&a->next_address);
    return false;
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
    coherence_new_epoch(a->proxy.coherence);
    upstream_renew(a->proxy.upstream);
    link_restart(a->proxy.link, "the upstream's address has changed");
}

/* --- signals ------------------------------------------------------------------------------------
 */

static void on_stop(evutil_socket_t signal, short what, void *arg)
{
    (void)signal;
    (void)what;
    struct app *a = arg;
    uint64_t now = loop_now(&a->loop);
    if (a->drain_deadline) { /* asked twice: now */
        loop_stop(&a->loop);
        return;
    }
    log_write(a->proxy.log, LOG_INFO, "draining", NULL);
    a->drain_deadline = now + a->config.drain_timeout + 1;
    a->listen_until = a->config.reuse_port ? now + DIVERT_FOR : now;
    for (size_t i = 0; a->config.reuse_port && i < a->n_listeners; i++)
        listener_divert(a->listeners[i], 1);
    drain(a, now);
}

/* As Redis does: as many descriptors as maxclients needs, or fewer clients. */
static void fit_descriptors(struct app *a)
{
    struct rlimit limit;
    uint64_t own = a->config.upstream_sessions + DESCRIPTORS_OF_OUR_OWN;
    uint64_t wanted = a->config.max_clients + own;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted) {
        char number[24];
        a->config.max_clients =
            limit.rlim_cur > 2 * own ? limit.rlim_cur - own : limit.rlim_cur / 2;
        log_write(a->proxy.log, LOG_WARN, "maxclients_reduced", "to",
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

static struct upstream_options upstream_options(const struct app *a)
{
    const struct config *c = &a->config;
    return (struct upstream_options){.address = &a->address,
                                     .tls = a->upstream_tls,
                                     .client_name = a->client_name,
                                     .connections = (unsigned)c->upstream_connections,
                                     .private_max = (unsigned)c->upstream_sessions,
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

static struct coherence_options coherence_options(struct app *a)
{
    const struct config *c = &a->config;
    return (struct coherence_options){.max_stale = c->l1_max_stale,
                                      .stale_keys = &c->l1_stale_if_error,
                                      .budget = &a->loop.budget,
                                      .ttl = c->l1_ttl,
                                      .negative_ttl = c->l1_negative_ttl,
                                      .lease = c->lease,
                                      .max_value = (size_t)c->l1_max_value};
}

static void apply_settings(struct app *a)
{
    const struct config *c = &a->config;
    struct upstream_options up = upstream_options(a);
    struct coherence_options coherence = coherence_options(a);
    log_set_level(a->proxy.log, c->log_level);
    upstream_set_options(a->proxy.upstream, &up);
    coherence_set_options(a->proxy.coherence, &coherence);
    a->loop.budget.limit = buffer_limit(c);
    fit_descriptors(a);
}

static void log_changed(void *ctx, const char *path)
{
    struct app *a = ctx;
    log_write(a->proxy.log, LOG_INFO, "setting_changed", "setting", path, NULL);
}

static void log_refused(void *ctx, const char *path)
{
    struct app *a = ctx;
    log_write(a->proxy.log, LOG_WARN, "setting_needs_restart", "setting", path, NULL);
}

static void on_reload(evutil_socket_t signal, short what, void *arg)
{
    (void)signal;
    (void)what;
    struct app *a = arg;
    const struct config_reload_hooks hooks = {
        .accept = accept_config, .changed = log_changed, .refused = log_refused, .ctx = a};
    if (config_reload(&a->config, a->argc, a->argv, a->envp, stderr, &hooks)) {
        take_new_address(a);
        apply_settings(a);
    } else
        log_write(a->proxy.log, LOG_ERROR, "reload_refused", "hint",
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
        a->signals[i] = evsignal_new(a->loop.base, table[i].signal, table[i].callback, a);
        if (!a->signals[i] || event_add(a->signals[i], NULL) != 0)
            return complain("out of memory");
    }
    return true;
}

static bool start_ticking(struct app *a)
{
    struct timeval period = {.tv_usec = TICK_MS * 1000};
    a->tick = event_new(a->loop.base, -1, EV_PERSIST, on_tick, a);
    if (!a->tick || event_add(a->tick, &period) != 0)
        return complain("out of memory");
    event_active(a->tick, EV_TIMEOUT, 1); /* the link connects at once */
    upstream_open(a->proxy.upstream);
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
    struct proxy *p = &a->proxy;
    char *prefix = config_namespace(&a->config);
    bool ok = prefix && namespace_init(&a->ns, prefix);
    free(prefix);
    p->commands = command_table_new();
    struct l1_config l1 = {.max_memory = (size_t)a->config.l1_max_memory,
                           .max_value = (size_t)a->config.l1_max_value};
    evutil_secure_rng_get_bytes(&l1.seed, sizeof l1.seed);
    if (!ok || !p->commands)
        return complain("out of memory");
    p->l1 = l1_new(&l1);
    if (!p->l1)
        return complain("l1.max_memory=%zu: %s", l1.max_memory, strerror(errno));
    struct coherence_options coherence = coherence_options(a);
    p->coherence = coherence_new(p->l1, &a->metrics, &coherence);
    return p->coherence || complain("out of memory");
}

static bool build_upstream(struct app *a)
{
    struct proxy *p = &a->proxy;
    const struct config *c = &a->config;
    snprintf(a->client_name, sizeof a->client_name, "nearcache:%s", c->service);
    if (!config_upstream(c, &a->address))
        return complain("out of memory");
    if (!build_tls(a))
        return false;
    struct upstream_options up = upstream_options(a);
    struct link_options link = {.address = &a->address,
                                .tls = a->upstream_tls,
                                .service = c->service,
                                .ns = &a->ns,
                                .tracking = c->tracking,
                                .tracking_mode = c->tracking_mode,
                                .connect_timeout = c->upstream_connect_timeout};
    p->upstream = upstream_new(&a->loop, &up, &request_upstream_callbacks, p, p->log, &a->metrics);
    p->announce =
        p->upstream ? announce_new(&a->loop, p->upstream, &a->ns, c->service, &a->metrics) : NULL;
    if (!p->announce)
        return complain("out of memory");
    link.origin = announce_origin(p->announce);
    link.upstream = p->upstream;
    p->link = link_new(&a->loop, &link, p->coherence, p->commands, p->log, &a->metrics);
    return (p->upstream && p->link) || complain("out of memory");
}

static bool start_listening(struct app *a)
{
    const struct listener_options options = {.unix_mode = a->config.unix_mode,
                                             .backlog = (int)a->config.tcp_backlog,
                                             .reuse_port = a->config.reuse_port};
    a->listeners = calloc(a->config.listen.n, sizeof *a->listeners);
    if (!a->listeners)
        return complain("out of memory");
    for (size_t i = 0; i < a->config.listen.n; i++) {
        struct listen_address address;
        char error[LISTENER_ERROR_MAX];
        if (!config_listen(a->config.listen.v[i], &address))
            return complain("out of memory");
        struct listener *l = listener_new(&a->loop, &address, &options, a->proxy.log, client_accept,
                                          &a->proxy, error);
        listen_address_free(&address);
        if (!l)
            return complain("can't listen on %s", error);
        a->listeners[a->n_listeners++] = l;
    }
    return true;
}

static bool build(struct app *a)
{
    struct proxy *p = &a->proxy;
    if (!loop_init(&a->loop))
        return complain("can't make an event loop: %s", strerror(errno));
    *p = (struct proxy){.loop = &a->loop,
                        .config = &a->config,
                        .metrics = &a->metrics,
                        .ns = &a->ns,
                        .address = &a->address,
                        .started = monotonic_ms()};
    TAILQ_INIT(&p->callers);
    TAILQ_INIT(&p->waiting);
    TAILQ_INIT(&p->pressed);
    LIST_INIT(&p->outgoing);
    a->loop.budget.limit = buffer_limit(&a->config);
    p->log = log_new(stderr, a->config.log_level);
    if (!p->log)
        return complain("out of memory");
    fit_descriptors(a);
    return start_dev(a) && build_leaves(a) && build_upstream(a) && start_listening(a) &&
           watch_signals(a) && start_ticking(a);
}

static void tear_down(struct app *a)
{
    struct proxy *p = &a->proxy;
    stop_listening(a);
    free(a->listeners);
    if (p->upstream)
        clients_close(p);
    outgoing_cancel_all(p);
    upstream_free(p->upstream);
    link_free(p->link);
    announce_free(p->announce);
    coherence_free(p->coherence);
    l1_free(p->l1);
    command_table_free(p->commands);
    command_keys_free(&p->keys);
    for (size_t i = 0; i < SIGNALS; i++)
        if (a->signals[i])
            event_free(a->signals[i]);
    if (a->tick)
        event_free(a->tick);
    loop_free(&a->loop);
    tls_context_free(a->upstream_tls); /* the last connections are gone with the loop */
    tls_context_free(a->client_tls);
    namespace_free(&a->ns);
    upstream_address_free(&a->address);
    dev_stop(a->dev);
    log_free(p->log);
    config_free(&a->config);
}

int main(int argc, char **argv, char **envp)
{
    struct app a = {.argc = argc, .argv = argv, .envp = envp};
    int exit_code = 1;
    if (config_load(&a.config, argc, argv, envp, stdout, stderr, &exit_code) == CONFIG_EXIT)
        return exit_code;
    bool ok = build(&a);
    if (ok) {
        announce_listeners(&a);
        loop_run(&a.loop);
    }
    tear_down(&a);
    return ok ? 0 : 1;
}
