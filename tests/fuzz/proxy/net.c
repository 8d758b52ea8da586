/* net.c - the network in memory: takes the place of conn.c, and of the clock. */
#include "net.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "memory.h"

enum { CONN_MAGIC = 0x636f6e6e, IOV_PIECES = 64 };

/* --- time ---------------------------------------------------------------------------------------
 */

static uint64_t clock_ms; /* clock_gettime has no context */

/* The linker gives us what the proxy asks the C library for (tests/meson.build). */
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    (void)clock;
    t->tv_sec = (time_t)(clock_ms / 1000);
    t->tv_nsec = (long)(clock_ms % 1000 * 1000000);
    return 0;
}

/* Instead of libevent's: every run of an input is the same. */
void evutil_secure_rng_get_bytes(void *buf, size_t n)
{
    static const unsigned char some[] = {0x9e, 0x37, 0x79, 0xb9, 0x7f, 0x4a, 0x7c, 0x15};
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)buf)[i] = some[i % sizeof some];
}

uint64_t net_now(void)
{
    return clock_ms;
}

void net_pass_time(struct net *net, uint64_t ms)
{
    clock_ms += ms;
    net->loop.now_known = false;
}

/* --- conn.h -------------------------------------------------------------------------------------
 */

enum conn_state { CONN_CONNECTING, CONN_OPEN, CONN_CLOSED };

struct conn {
    uint32_t magic;
    uint8_t state;
    bool paused, want_write, eof, offer;
    struct loop *loop;
    struct peer *peer;
    struct buffer in;    /* received and not taken */
    struct block *block; /* in which it is being offered, if it is long */
    size_t in_limit;
    uint64_t deadline; /* of connecting; 0: none */
    struct chain out;
    struct conn_callbacks callbacks;
    void *ctx;
    struct loop_job flush_job, end_job, grave;
    const char *end_why;
};

#define CONTAINER(job, member) ((struct conn *)((char *)(job)-offsetof(struct conn, member)))

static void tell_ended(struct loop_job *job)
{
    struct conn *c = CONTAINER(job, end_job);
    if (c->state != CONN_CLOSED)
        c->callbacks.ended(c->ctx, false, c->end_why);
}

static void broken(struct conn *c, const char *why)
{
    if (c->end_why || c->state == CONN_CLOSED)
        return;
    c->end_why = why;
    loop_soon(c->loop, &c->end_job, tell_ended);
}

static void destroy(struct loop_job *job)
{
    struct conn *c = CONTAINER(job, grave);
    buffer_free(&c->in);
    c->magic = 0;
    free(c);
}

void conn_close(struct conn *c)
{
    assert(c->magic == CONN_MAGIC);
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    c->peer->conn = NULL;
    chain_clear(&c->out);
    loop_cancel(c->loop, &c->flush_job);
    loop_cancel(c->loop, &c->end_job);
    loop_bury(c->loop, &c->grave, destroy);
}

void conn_abandon(struct conn *c)
{
    conn_close(c);
}

/* The owner sees the bytes in a place that is gone when it has returned; much in a block, which it
 * may keep. */
static size_t show(struct conn *c)
{
    size_t n = c->in.len, taken;
    char *copy = memory_new(n);
    memcpy(copy, c->in.data, n);
    c->block = n > LOOP_CARRY_BYTES ? block_new(&c->loop->budget, n) : NULL;
    if (c->block)
        memcpy(c->block->data, copy, n);
    memory_enter();
    taken = c->callbacks.bytes(c->ctx, c->block ? c->block->data : copy, n);
    memory_leave();
    block_drop(c->block);
    c->block = NULL;
    free(copy);
    assert(taken <= n);
    return taken;
}

static void offer(struct conn *c)
{
    size_t taken = show(c);
    if (c->state == CONN_CLOSED)
        return;
    buffer_drop(&c->in, taken);
    if (c->in_limit && c->in.len > c->in_limit)
        broken(c, "request larger than the limit (client.max_query)");
}

struct block *conn_block(const struct conn *c, const char *p)
{
    return block_holds(c->block, p) ? c->block : NULL;
}

void conn_pause(struct conn *c)
{
    assert(c->magic == CONN_MAGIC);
    if (c->state != CONN_CLOSED)
        c->paused = true;
}

static void flush_or_offer(struct loop_job *job)
{
    struct conn *c = CONTAINER(job, flush_job);
    if (c->offer && !c->paused) {
        c->offer = false;
        if (c->in.len)
            offer(c);
    }
    conn_flush(c);
}

void conn_resume(struct conn *c)
{
    assert(c->magic == CONN_MAGIC);
    if (c->state == CONN_CLOSED)
        return;
    c->paused = false;
    if (c->in.len) {
        c->offer = true;
        loop_soon(c->loop, &c->flush_job, flush_or_offer);
    }
}

/* All ends are told here. */
void conn_look_again(struct conn *c)
{
    (void)c;
}

void conn_limit_input(struct conn *c, size_t bytes)
{
    c->in_limit = bytes;
}

void conn_want(struct conn *c, size_t bytes)
{
    assert(c->magic == CONN_MAGIC);
    (void)bytes;
}

size_t conn_unread(const struct conn *c)
{
    return c->in.len;
}

size_t conn_input_capacity(const struct conn *c)
{
    return c->in.len;
}

evutil_socket_t conn_fd(const struct conn *c)
{
    return (evutil_socket_t)c->peer->id;
}

/* As the kernel: all of it, or as much as fits. True when nothing is left. */
static bool write_some(struct conn *c)
{
    struct iovec iov[IOV_PIECES];
    struct peer *peer = c->peer;
    int pieces = chain_iov(&c->out, iov, IOV_PIECES);
    size_t written = 0;
    if (pieces && peer->gone)
        broken(c, "Broken pipe");
    for (int i = 0; i < pieces && !peer->gone; i++) {
        size_t n = iov[i].iov_len < peer->room ? iov[i].iov_len : peer->room;
        buffer_add(&peer->out, iov[i].iov_base, n);
        peer->room -= peer->room == SIZE_MAX ? 0 : n;
        written += n;
    }
    chain_consume(&c->out, written);
    return c->out.len == 0;
}

void conn_flush(struct conn *c)
{
    assert(c->magic == CONN_MAGIC);
    if (c->state == CONN_CLOSED)
        return;
    if (c->out.failed)
        broken(c, "out of memory");
    else if (c->state == CONN_OPEN && !c->want_write)
        c->want_write = !write_some(c) && !c->end_why;
    chain_own(&c->out);
}

/* Output had to wait, and need not any more. */
static void write_on(struct conn *c)
{
    if (!write_some(c) && !c->end_why)
        return;
    c->want_write = false;
    if (c->out.len > 0 || !c->callbacks.drained)
        return;
    memory_enter();
    c->callbacks.drained(c->ctx);
    memory_leave();
}

struct chain *conn_out(struct conn *c)
{
    assert(c->magic == CONN_MAGIC);
    return &c->out;
}

void conn_send(struct conn *c)
{
    assert(c->magic == CONN_MAGIC);
    if (c->state != CONN_CLOSED)
        loop_soon(c->loop, &c->flush_job, flush_or_offer);
}

bool conn_is_open(const struct conn *c)
{
    return c->state == CONN_OPEN;
}

void conn_peer_address(const struct conn *c, char buf[CONN_ADDRESS_MAX])
{
    snprintf(buf, CONN_ADDRESS_MAX, "192.0.2.1:%u", c->peer->id);
}

void conn_local_address(const struct conn *c, char buf[CONN_ADDRESS_MAX])
{
    (void)c;
    snprintf(buf, CONN_ADDRESS_MAX, "127.0.0.1:6380");
}

/* --- opening ------------------------------------------------------------------------------------
 */

static struct conn *conn_new(struct loop *loop, enum conn_state state,
                             const struct conn_callbacks *callbacks, void *ctx)
{
    struct net *net = (struct net *)loop;
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    struct peer *peer = memory_new(sizeof *peer);
    *c = (struct conn){.magic = CONN_MAGIC,
                       .state = (uint8_t)state,
                       .loop = loop,
                       .peer = peer,
                       .callbacks = *callbacks,
                       .ctx = ctx};
    chain_init(&c->out, &loop->pool);
    *peer = (struct peer){.id = ++net->n_peers,
                          .is_client = state == CONN_OPEN,
                          .conn = c,
                          .room = SIZE_MAX,
                          .net = net};
    TAILQ_INSERT_TAIL(&net->peers, peer, entry);
    return c;
}

struct conn *conn_accept(struct loop *loop, evutil_socket_t fd, struct tls_context *tls,
                         const struct conn_callbacks *callbacks, void *ctx)
{
    assert(fd < 0 && !tls);
    return conn_new(loop, CONN_OPEN, callbacks, ctx);
}

struct conn *conn_connect(struct loop *loop, const struct conn_target *target,
                          const struct conn_callbacks *callbacks, void *ctx)
{
    assert((target->host || target->path) && !target->tls);
    struct conn *c = conn_new(loop, CONN_CONNECTING, callbacks, ctx);
    if (!c)
        return NULL;
    c->deadline = target->timeout ? clock_ms + target->timeout : 0;
    if (c->peer->net->connects == NET_REFUSE_AT_ONCE)
        broken(c, "No such file or directory");
    return c;
}

static void settle_connect(struct net *net, struct conn *c)
{
    if (net->connects != NET_ACCEPT) {
        broken(c, "Connection refused");
        return;
    }
    c->state = CONN_OPEN;
    net->connected(net, c->peer);
    conn_send(c);
    memory_enter();
    c->callbacks.connected(c->ctx);
    memory_leave();
}

bool net_settle_connects(struct net *net)
{
    bool any = false;
    struct peer *peer;
    TAILQ_FOREACH(peer, &net->peers, entry)
    {
        struct conn *c = peer->conn;
        if (!c || c->state != CONN_CONNECTING || c->end_why)
            continue;
        bool late = c->deadline && clock_ms >= c->deadline;
        any |= late || net->connects != NET_SILENT;
        if (late)
            broken(c, "no connection in time");
        else if (net->connects != NET_SILENT)
            settle_connect(net, c);
    }
    return any;
}

/* --- the other ends -----------------------------------------------------------------------------
 */

bool net_init(struct net *net)
{
    *net = (struct net){0};
    TAILQ_INIT(&net->peers);
    clock_ms = 1000000;
    return loop_init(&net->loop);
}

void net_free(struct net *net)
{
    loop_free(&net->loop);
    struct peer *peer;
    while ((peer = TAILQ_FIRST(&net->peers))) {
        assert(!peer->conn);
        TAILQ_REMOVE(&net->peers, peer, entry);
        buffer_free(&peer->in);
        buffer_free(&peer->out);
        free(peer);
    }
}

static void stop(struct loop_job *job)
{
    struct net *net = (struct net *)((char *)job - offsetof(struct net, stop_job));
    loop_stop(&net->loop);
}

/* There are no events but the loop's own, so that it has nothing to wait for. */
bool net_end_turn(struct net *net)
{
    net->turn++;
    loop_soon(&net->loop, &net->stop_job, stop);
    memory_enter();
    loop_run(&net->loop);
    memory_leave();
    net->loop.stopped = false;
    return !TAILQ_EMPTY(&net->loop.later);
}

struct peer *net_last_client(struct net *net, unsigned since)
{
    struct peer *peer = TAILQ_LAST(&net->peers, peer_list);
    return peer && peer->id > since && peer->is_client ? peer : NULL;
}

void peer_send(struct peer *peer, const void *p, size_t n)
{
    if (peer->eof || !peer->conn)
        return;
    if (peer->in.len == 0)
        peer->since = net_now();
    buffer_add(&peer->in, p, n);
}

static bool reads(const struct peer *peer)
{
    const struct conn *c = peer->conn;
    return c && c->state == CONN_OPEN && !c->paused && !c->eof && !c->end_why;
}

bool peer_can_deliver(const struct peer *peer)
{
    return reads(peer) && peer->turn != peer->net->turn && (peer->in.len || peer->eof);
}

static void deliver_end(struct conn *c)
{
    conn_pause(c);
    c->eof = true;
    memory_enter();
    c->callbacks.ended(c->ctx, true, "connection closed by the peer");
    memory_leave();
}

bool peer_deliver(struct peer *peer, size_t n)
{
    struct conn *c = peer->conn;
    if (!peer_can_deliver(peer))
        return false;
    if (n > peer->in.len)
        n = peer->in.len;
    if (n > LOOP_READ_BYTES)
        n = LOOP_READ_BYTES;
    if (n == 0 && peer->in.len == 0) {
        deliver_end(c);
        return true;
    }
    if (n == 0)
        return false;
    peer->turn = peer->net->turn;
    buffer_add(&c->in, peer->in.data, n);
    peer->delivered += n;
    if (peer->net->delivered)
        peer->net->delivered(peer, peer->in.data, n);
    buffer_drop(&peer->in, n);
    offer(c);
    return true;
}

void peer_shut(struct peer *peer)
{
    peer->eof = true;
}

void peer_close(struct peer *peer, bool reset)
{
    struct conn *c = peer->conn;
    peer->eof = peer->gone = true;
    if (!reset || !c)
        return;
    buffer_drop(&peer->in, peer->in.len);
    if (c->state == CONN_OPEN)
        broken(c, "Connection reset by peer");
}

void peer_make_room(struct peer *peer, size_t n)
{
    peer->room = n > SIZE_MAX - peer->room ? SIZE_MAX : peer->room + n;
    if (peer->conn && peer->conn->want_write && !peer->conn->end_why)
        write_on(peer->conn);
}
