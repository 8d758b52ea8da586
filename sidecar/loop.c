/* loop.c - the event loop's turn. */
#include "loop.h"

#include <assert.h>
#include <event2/dns.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

uint64_t monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Clients that are written to one after the other: their output lies in a chunk each till then. */
enum { ROUND = 32 };

static void run_later(evutil_socket_t fd, short what, void *arg);

bool loop_init(struct loop *loop)
{
    *loop = (struct loop){.pool.budget = &loop->budget};
    TAILQ_INIT(&loop->read_from);
    TAILQ_INIT(&loop->soon);
    TAILQ_INIT(&loop->together);
    TAILQ_INIT(&loop->later);
    TAILQ_INIT(&loop->burial);
    struct event_config *config = event_config_new();
    if (config) {
        /* Our own clock is read once per turn; libevent's may be as coarse as it likes. */
        event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
        loop->base = event_base_new_with_config(config);
        event_config_free(config);
    }
    loop->read_buffer = malloc(LOOP_READ_BYTES + LOOP_CARRY_BYTES);
    loop->turn = loop->base ? event_new(loop->base, -1, 0, run_later, loop) : NULL;
    if (loop->turn && loop->read_buffer)
        return true;
    loop_free(loop);
    return false;
}

static void take_out(struct loop *loop, struct loop_job *job)
{
    TAILQ_REMOVE(job->queue, job, entry);
    loop->n_together -= job->queue == &loop->together;
    job->queue = NULL;
}

/* False: there was none. */
static bool run_first(struct loop *loop, struct loop_jobs *jobs)
{
    struct loop_job *job = TAILQ_FIRST(jobs);
    if (!job)
        return false;
    take_out(loop, job);
    job->run(job);
    return true;
}

/* As many as are there now: what they put off in turn is for the turn after. */
static void run_later(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct loop *loop = arg;
    const struct loop_job *job;
    size_t n = 0;
    TAILQ_FOREACH(job, &loop->later, entry)
    n++;
    while (n-- > 0 && run_first(loop, &loop->later))
        ;
    if (!TAILQ_EMPTY(&loop->later)) /* one of them has cancelled another */
        event_add(loop->turn, &(struct timeval){0});
}

/* What is for others to work on leaves before what clients get: the server has begun by the time
 * that all of them have been written to, and what it answers meets their next requests. */
static void end_turn(struct loop *loop)
{
    while (run_first(loop, &loop->soon) || run_first(loop, &loop->together))
        ;
    while (run_first(loop, &loop->burial))
        ;
    loop->now_known = false;
}

void loop_drop_spares(struct loop *loop)
{
    chunk_pool_drain(&loop->pool);
    spares_drain(&loop->requests);
}

void loop_free(struct loop *loop)
{
    if (loop->base)
        end_turn(loop);
    if (loop->dns)
        evdns_base_free(loop->dns, 0);
    if (loop->turn)
        event_free(loop->turn);
    if (loop->base)
        event_base_free(loop->base);
    loop_drop_spares(loop);
    free(loop->read_buffer);
    *loop = (struct loop){0};
}

uint64_t loop_now(struct loop *loop)
{
    if (!loop->now_known) {
        loop->now = monotonic_ms();
        loop->now_known = true;
    }
    return loop->now;
}

void loop_forget_time(struct loop *loop)
{
    loop->now_known = false;
}

void loop_run(struct loop *loop)
{
    while (!loop->stopped) {
        int none = event_base_loop(loop->base, EVLOOP_ONCE);
        assert(none >= 0);
        end_turn(loop);
        if (none > 0)
            break;
    }
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}

static void queue_job(struct loop_jobs *jobs, struct loop_job *job,
                      void (*run)(struct loop_job *job))
{
    job->run = run;
    job->queue = jobs;
    TAILQ_INSERT_TAIL(jobs, job, entry);
}

void loop_soon(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job))
{
    if (!job->queue)
        queue_job(&loop->soon, job, run);
}

void loop_soon_together(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job))
{
    if (job->queue)
        return;
    queue_job(&loop->together, job, run);
    loop->n_together++;
}

void loop_round(struct loop *loop, bool long_one)
{
    if (long_one || loop->n_together >= ROUND)
        while (run_first(loop, &loop->together))
            ;
}

void loop_next_turn(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job))
{
    if (job->queue)
        return;
    queue_job(&loop->later, job, run);
    event_add(loop->turn, &(struct timeval){0}); /* event_active would be of this turn still */
}

void loop_cancel(struct loop *loop, struct loop_job *job)
{
    if (job->queue)
        take_out(loop, job);
}

void loop_bury(struct loop *loop, struct loop_job *job, void (*run)(struct loop_job *job))
{
    assert(!job->queue);
    queue_job(&loop->burial, job, run);
}

static int64_t changed_at(const char *file)
{
    struct stat st;
    if (stat(file, &st) != 0)
        return 0;
    return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

struct evdns_base *loop_dns(struct loop *loop)
{
    int64_t hosts = changed_at("/etc/hosts"), servers = changed_at("/etc/resolv.conf");
    int64_t newest = hosts > servers ? hosts : servers;
    if (loop->dns && loop->dns_made_of == newest)
        return loop->dns;
    struct evdns_base *old = loop->dns;
    loop->dns_made_of = newest;
    loop->dns = evdns_base_new(loop->base, EVDNS_BASE_INITIALIZE_NAMESERVERS |
                                               EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    /* So long one family's addresses wait for the other's, which some servers never answer for. By
     * itself it would be 3 s, longer than the whole connection may take. */
    if (loop->dns)
        (void)evdns_base_set_option(loop->dns, "getaddrinfo-allow-skew:", "0.3");
    if (old)
        evdns_base_free(old, 1);
    return loop->dns;
}
