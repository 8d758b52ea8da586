/* conn.c - one byte stream: buffers, limits, one write per turn. */
#include "conn.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <event2/dns.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CONN_MAGIC = 0x636f6e6e,
    IOV_PIECES = 64,
    READ_OWN_MAX = 256 * 1024, /* per event, into a buffer of our own */
    LONG_READ = 4 * 1024,      /* bytes that keep their owner busy for a while */
    LOOK_AT_ONCE = 20,         /* connections, by conn_tick: it takes some 5 us for each */
};

/* CONNECTING -> OPEN -> CLOSED, or CONNECTING -> CLOSED. */
enum conn_state { CONN_CONNECTING, CONN_OPEN, CONN_CLOSED };

/* What a connection has besides when it speaks TLS. While it is CONNECTING the handshake goes on.
 *
 * Reading may have to wait until the socket takes something, and writing until the peer has sent
 * something; and there may be bytes, decrypted or not, that the socket tells nothing about. */
struct secure {
    struct tls *tls;
    struct tls_context *context;
    struct event *timer;   /* CONNECTING: the deadline; then: there is more to read */
    short awaited;         /* EV_READ, EV_WRITE: these events are pending */
    short hands;           /* the one that the handshake waits for */
    bool read_needs_room;  /* to be read from when the socket can be written to, .. */
    bool write_needs_data; /* .. and written to when it can be read from */
};

/* What a connection has while it is being opened: the addresses still to be tried, and until when.
 */
struct attempt {
    struct evdns_getaddrinfo_request *resolving;
    struct evutil_addrinfo *list, *next;
    struct event *timer;
    uint64_t begun, timeout; /* ms */
    const char *failure;     /* of the address tried last */
    char why[96];
};

/* Bytes of a message that is not complete; empty most of the time. */
struct input {
    struct block *block; /* NULL: none */
    size_t len;
};

struct conn {
    uint32_t magic;
    uint8_t state;
    bool paused;
    bool want_write; /* the write event is pending */
    bool eof;        /* the peer has said all it had to say */
    bool offer;      /* untaken bytes are to be offered again */
    bool read_from;  /* is among the loop's of that name */
    struct loop *loop;
    struct event *reading, *writing;
    struct attempt *attempt; /* of an accepted one NULL */
    evutil_socket_t fd;
    struct secure *secure; /* NULL: plain text */
    struct input in;
    size_t in_limit, in_wanted;
    struct chain out;
    const struct conn_callbacks *callbacks;
    void *ctx;
    struct loop_job flush_job, end_job, grave;
    const char *end_why; /* the stream is broken, and this is why */
    TAILQ_ENTRY(conn) entry;
};

/* What is asked of epoll for a socket without TLS: to tell of a change once, instead of looking
 * again, with each wait, at whatever it has just told of; that is 1 to 4 % of a small request. In
 * return
 *   - we read until a read comes back short, which says that there is no more (epoll(7));
 *   - the end of the stream, which may hide behind the bytes, is told apart (EV_CLOSED);
 *   - a reset that hides behind them is not: libevent has no word for it. The next write finds it;
 *   - urgent bytes, and descriptors sent along, end a read before its time. Hardly anybody sends
 *     any.
 * Connections that have been read from are looked at anew some time later (conn_tick), for the sake
 * of the last two. */
enum { EDGES = EV_ET | EV_CLOSED };

static void set_state(struct conn *c, enum conn_state from, enum conn_state to)
{
    assert(c->state == from);
    c->state = (uint8_t)to;
}

static struct conn *conn_of(void *arg)
{
    struct conn *c = arg;
    assert(c->magic == CONN_MAGIC);
    return c;
}

#define CONTAINER(job, member) ((struct conn *)((char *)(job)-offsetof(struct conn, member)))

/* --- the end ---------------------------------------------------------------------------------- */

static void tell_ended(struct loop_job *job)
{
    struct conn *c = CONTAINER(job, end_job);
    if (c->state != CONN_CLOSED)
        c->callbacks->ended(c->ctx, false, c->end_why);
}

/* Reports a broken stream once, from the loop rather than from inside the owner's call. */
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
    if (c->secure)
        tls_free(c->secure->tls); /* whose words may have been c->end_why */
    free(c->secure);
    free(c->attempt); /* the same holds for this */
    block_drop(c->in.block);
    c->magic = 0;
    slabs_give(&c->loop->conns, c);
}

static void close_secure(struct secure *s)
{
    if (s->tls)
        tls_close(s->tls);
    if (s->timer)
        event_free(s->timer);
}

static void drop_socket(struct conn *c)
{
    if (c->reading)
        event_free(c->reading);
    if (c->writing)
        event_free(c->writing);
    c->reading = c->writing = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void end_attempt(struct attempt *a)
{
    if (a->resolving)
        evdns_getaddrinfo_cancel(a->resolving);
    if (a->list)
        evutil_freeaddrinfo(a->list);
    if (a->timer)
        event_free(a->timer);
    a->resolving = NULL;
    a->list = a->next = NULL;
    a->timer = NULL;
}

static void note_read(struct conn *c, bool read)
{
    if (c->read_from == read)
        return;
    c->read_from = read;
    if (read)
        TAILQ_INSERT_TAIL(&c->loop->read_from, c, entry);
    else
        TAILQ_REMOVE(&c->loop->read_from, c, entry);
}

void conn_close(struct conn *c)
{
    assert(c->magic == CONN_MAGIC);
    if (c->state == CONN_CLOSED)
        return;
    set_state(c, c->state, CONN_CLOSED);
    note_read(c, false);
    if (c->attempt)
        end_attempt(c->attempt);
    if (c->secure)
        close_secure(c->secure);
    drop_socket(c);
    chain_clear(&c->out);
    loop_cancel(c->loop, &c->flush_job);
    loop_cancel(c->loop, &c->end_job);
    loop_bury(c->loop, &c->grave, destroy);
}

void conn_abandon(struct conn *c)
{
    if (c->fd >= 0)
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1},
                         sizeof(struct linger));
    conn_close(c);
}

/* --- reading ---------------------------------------------------------------------------------- */

static size_t input_cap(const struct conn *c)
{
    return c->in.block ? c->in.block->cap : 0;
}

/* Gives the input a capacity of at least `cap`; what others keep is left to them. */
static bool input_room(struct conn *c, size_t cap)
{
    struct block *old = c->in.block;
    bool alone = old && old->owners == 1;
    if (input_cap(c) >= cap)
        return true;
    struct block *b = alone ? block_resize(old, cap) : block_new(&c->loop->budget, cap);
    if (!b)
        return false;
    c->in.block = b;
    if (alone || !old)
        return true;
    memcpy(b->data, old->data, c->in.len);
    block_drop(old);
    return true;
}

static void input_release(struct conn *c)
{
    block_drop(c->in.block);
    c->in = (struct input){0};
    c->in_wanted = 0;
}

/* Parts of it are kept by others, or it is far too large for what is left: not to be moved into. */
static bool is_spoilt(const struct block *b, size_t rest)
{
    return b->owners > 1 || (b->cap > LOOP_READ_BYTES && b->cap / 4 > rest);
}

/* Keeps what the owner left of p[0..n) (p may be in our own block). */
static void keep_rest(struct conn *c, const char *p, size_t n, size_t taken)
{
    assert(taken <= n);
    size_t rest = n - taken;
    struct block *old = c->in.block;
    if (rest == 0) {
        input_release(c);
        return;
    }
    bool replace = old && taken && is_spoilt(old, rest);
    if (replace)
        c->in.block = NULL;
    if (!input_room(c, rest)) {
        broken(c, "out of memory");
    } else {
        memmove(c->in.block->data, p + taken, rest);
        c->in.len = rest;
    }
    if (replace)
        block_drop(old);
    if (c->in_limit && rest > c->in_limit)
        broken(c, "request larger than the limit (client.max_query)");
}

static void offer(struct conn *c, const char *p, size_t n)
{
    size_t taken = c->callbacks->bytes(c->ctx, p, n);
    if (c->state != CONN_CLOSED)
        keep_rest(c, p, n, taken);
}

/* A short rest is put in front of the shared buffer; a long one grows where it is. */
static char *read_target(struct conn *c, size_t *room)
{
    struct loop *loop = c->loop;
    if (c->in.len <= LOOP_CARRY_BYTES && c->in_wanted <= LOOP_READ_BYTES) {
        if (c->in.len)
            memcpy(loop->read_buffer, c->in.block->data, c->in.len);
        *room = LOOP_READ_BYTES;
        return loop->read_buffer;
    }
    /* By an eighth, though no further than what is said to be needed: a declared length alone costs
     * nothing, and a large message little more than it is long. */
    size_t cap = input_cap(c), more = c->in.len / 8;
    if (cap - c->in.len < LOOP_CARRY_BYTES)
        cap = c->in.len + (more > LOOP_READ_BYTES ? more : LOOP_READ_BYTES);
    if (c->in_wanted > c->in.len + LOOP_CARRY_BYTES && cap > c->in_wanted)
        cap = c->in_wanted;
    if (!input_room(c, cap))
        return NULL;
    size_t left = input_cap(c) - c->in.len;
    *room = left < READ_OWN_MAX ? left : READ_OWN_MAX;
    return c->in.block->data;
}

/* At the next turn, however much is there: others have their turn between. */
static void read_secure_again(struct conn *c)
{
    event_add(c->secure->timer, &(struct timeval){0});
}

static ssize_t receive_secure(struct conn *c, char *p, size_t room)
{
    struct secure *s = c->secure;
    size_t n = 0;
    enum tls_status status = tls_read(s->tls, p, room, &n);
    s->read_needs_room = status == TLS_WANT_WRITE;
    if (n > 0) {
        if (status == TLS_OK || status == TLS_EOF || status == TLS_FAILED)
            read_secure_again(c);
        return (ssize_t)n;
    }
    if (status == TLS_FAILED)
        broken(c, tls_error(s->tls));
    return status == TLS_EOF ? 0 : -1;
}

/* 0: the end. -1: nothing for now, or broken. */
static ssize_t receive(struct conn *c, char *p, size_t room)
{
    ssize_t n;
    if (c->secure)
        return receive_secure(c, p, room);
    do
        n = recv(c->fd, p, room, 0); /* a little cheaper than read() */
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN)
        broken(c, strerror(errno));
    if (n > 0)
        note_read(c, true);
    return n;
}

static void await(struct conn *c, struct event *event)
{
    if (event_add(event, NULL) != 0)
        broken(c, "out of memory");
}

/* Of what is there already; in the next turn, so that others have theirs between. */
static void tell_again(struct conn *c, struct event *event)
{
    event_del(event);
    await(c, event);
}

void conn_look_again(struct conn *c)
{
    if (c->state == CONN_OPEN && !c->paused && !c->eof && !c->secure)
        tell_again(c, c->reading);
}

void conn_tick(struct loop *loop)
{
    struct conn *c;
    for (int n = 0; n < LOOK_AT_ONCE && (c = TAILQ_FIRST(&loop->read_from)); n++) {
        note_read(c, false);
        conn_look_again(c);
    }
}

static void read_ended(struct conn *c)
{
    conn_pause(c);
    c->eof = true;
    c->callbacks->ended(c->ctx, true, "connection closed by the peer");
}

/* Returns how many bytes came. `closing`: and then the stream ends. */
static size_t take_in(struct conn *c, bool closing)
{
    size_t room = 0;
    char *at = read_target(c, &room);
    if (!at) {
        broken(c, "out of memory");
        return 0;
    }
    ssize_t n = receive(c, at + c->in.len, room);
    if (n < 0)
        return 0;
    if (n == 0)
        read_ended(c);
    else if (c->in.block && at == c->in.block->data) {
        c->in.len += (size_t)n;
        offer(c, at, c->in.len);
    } else {
        offer(c, at, c->in.len + (size_t)n);
    }
    if (closing || (size_t)n == room)
        conn_look_again(c);
    return (size_t)n;
}

static void on_secure_event(struct conn *c, bool readable);

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    struct conn *c = conn_of(arg);
    size_t received = 0;
    if (c->secure)
        on_secure_event(c, true);
    else if (!c->paused)
        received = take_in(c, what & EV_CLOSED);
    loop_round(c->loop, received >= LONG_READ);
}

/* Has the events pending that TLS needs now. */
static void on_writable(evutil_socket_t fd, short what, void *arg);

/* The event is made when it is wanted for the first time: most connections never do. */
static void watch_writable(struct conn *c, bool wanted)
{
    if (!wanted) {
        if (c->writing)
            event_del(c->writing);
        return;
    }
    short edge = c->secure ? 0 : EV_ET; /* as the other event has it */
    if (!c->writing)
        c->writing = event_new(c->loop->base, c->fd, EV_WRITE | EV_PERSIST | edge, on_writable, c);
    if (!c->writing || event_add(c->writing, NULL) != 0)
        broken(c, "out of memory");
}

static void await_secure(struct conn *c)
{
    struct secure *s = c->secure;
    short wanted = s->hands;
    if (c->state == CONN_OPEN) {
        bool reads = (!c->paused && !c->eof) || s->write_needs_data;
        bool writes = (c->want_write && !s->write_needs_data) || s->read_needs_room;
        wanted = (short)((reads ? EV_READ : 0) | (writes ? EV_WRITE : 0));
    }
    short changed = (short)(wanted ^ s->awaited);
    s->awaited = wanted;
    if (changed & EV_READ)
        (void)(wanted & EV_READ ? event_add(c->reading, NULL) : event_del(c->reading));
    if (changed & EV_WRITE)
        watch_writable(c, wanted & EV_WRITE);
}

void conn_pause(struct conn *c)
{
    if (c->paused || c->state == CONN_CLOSED)
        return;
    c->paused = true;
    if (c->secure)
        await_secure(c);
    else if (c->reading)
        event_del(c->reading);
}

static void flush_or_offer(struct loop_job *job);

static void resume_secure(struct conn *c)
{
    if (c->state == CONN_OPEN && !c->eof)
        read_secure_again(c);
    await_secure(c);
}

void conn_resume(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    bool was_paused = c->paused;
    c->paused = false;
    if (was_paused && c->secure)
        resume_secure(c);
    else if (was_paused && c->state == CONN_OPEN && !c->eof)
        await(c, c->reading);
    if (c->in.len) {
        c->offer = true;
        loop_soon(c->loop, &c->flush_job, flush_or_offer);
    }
}

void conn_limit_input(struct conn *c, size_t bytes)
{
    c->in_limit = bytes;
}
void conn_want(struct conn *c, size_t bytes)
{
    c->in_wanted = bytes;
}
struct block *conn_block(const struct conn *c, const char *p)
{
    return block_holds(c->in.block, p) ? c->in.block : NULL;
}
size_t conn_unread(const struct conn *c)
{
    return c->in.len;
}
size_t conn_input_capacity(const struct conn *c)
{
    return input_cap(c);
}
evutil_socket_t conn_fd(const struct conn *c)
{
    return c->fd;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void await_writable(struct conn *c, bool wanted)
{
    if (c->want_write == wanted && !c->secure)
        return;
    c->want_write = wanted;
    if (c->secure)
        await_secure(c);
    else
        watch_writable(c, wanted);
}

static void send_secure(struct conn *c, const struct iovec *iov, int pieces)
{
    struct secure *s = c->secure;
    size_t n = 0;
    enum tls_status status = tls_write(s->tls, iov, pieces, &n);
    chain_consume(&c->out, n);
    s->write_needs_data = status == TLS_WANT_READ;
    if (status == TLS_FAILED)
        broken(c, tls_error(s->tls));
}

static void send_plain(struct conn *c, struct iovec *iov, int pieces)
{
    ssize_t n = pieces == 1
                    ? send(c->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                    : sendmsg(c->fd, &(struct msghdr){.msg_iov = iov, .msg_iovlen = (size_t)pieces},
                              MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        broken(c, strerror(errno));
    else if (n > 0)
        chain_consume(&c->out, (size_t)n);
}

/* True when nothing is left to write. What has a hole in it is not written: the peer would take
 * what follows for what is missing. */
static bool write_some(struct conn *c)
{
    struct iovec iov[IOV_PIECES];
    if (c->out.failed) {
        broken(c, "out of memory");
        return false;
    }
    int pieces = chain_iov(&c->out, iov, IOV_PIECES);
    if (pieces == 0)
        return true;
    if (c->secure)
        send_secure(c, iov, pieces);
    else
        send_plain(c, iov, pieces);
    return c->out.len == 0;
}

void conn_flush(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    if (!c->out.failed && c->state == CONN_OPEN && !c->want_write)
        await_writable(c, !write_some(c) && !c->end_why);
    chain_own(&c->out);
    if (c->out.failed)
        broken(c, "out of memory");
}

/* Output had to wait, and need not any more. */
static void write_on(struct conn *c)
{
    if (!write_some(c) && !c->end_why) {
        if (!c->secure)
            tell_again(c, c->writing); /* the socket may have room left */
        return;
    }
    await_writable(c, false);
    if (c->out.len == 0 && c->callbacks->drained)
        c->callbacks->drained(c->ctx);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = conn_of(arg);
    if (c->secure)
        on_secure_event(c, false);
    else
        write_on(c);
}

static void flush_or_offer(struct loop_job *job)
{
    struct conn *c = CONTAINER(job, flush_job);
    if (c->offer && !c->paused) {
        c->offer = false;
        if (c->in.len)
            offer(c, c->in.block->data, c->in.len);
    }
    conn_flush(c);
}

struct chain *conn_out(struct conn *c)
{
    return &c->out;
}

void conn_send(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    if (c->attempt) /* ours: what comes in one turn leaves with one write */
        loop_soon(c->loop, &c->flush_job, flush_or_offer);
    else
        loop_soon_together(c->loop, &c->flush_job, flush_or_offer);
}

/* --- TLS -------------------------------------------------------------------------------------- */

static void opened(struct conn *c);

static void shake_hands(struct conn *c)
{
    struct secure *s = c->secure;
    if (c->end_why)
        return;
    switch (tls_handshake(s->tls)) {
    case TLS_OK:
        event_del(s->timer);
        opened(c);
        if (c->state == CONN_OPEN) /* the peer's first words may have come along */
            read_secure_again(c);
        return;
    case TLS_WANT_READ:
        s->hands = EV_READ;
        break;
    case TLS_WANT_WRITE:
        s->hands = EV_WRITE;
        break;
    case TLS_EOF:
    case TLS_FAILED:
        s->hands = 0;
        broken(c, tls_error(s->tls));
        break;
    }
    await_secure(c);
}

static void on_secure_event(struct conn *c, bool readable)
{
    struct secure *s = c->secure;
    if (c->state == CONN_CONNECTING) {
        shake_hands(c);
        return;
    }
    if (c->want_write && readable == s->write_needs_data) {
        s->write_needs_data = false;
        write_on(c);
    }
    if (c->state == CONN_OPEN && !c->paused && (readable || s->read_needs_room))
        (void)take_in(c, false);
    if (c->state == CONN_OPEN)
        await_secure(c);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = conn_of(arg);
    if (c->state == CONN_CONNECTING)
        broken(c, "TLS: the handshake took longer than tls.handshake_timeout");
    else
        on_secure_event(c, true);
}

/* False: out of memory. */
static bool make_secure(struct conn *c, struct tls_context *context)
{
    c->secure = calloc(1, sizeof *c->secure);
    if (!c->secure)
        return false;
    c->secure->context = context;
    c->secure->timer = event_new(c->loop->base, -1, 0, on_timer, c);
    return c->secure->timer;
}

/* The socket is connected, and its events are made. */
static void begin_secure(struct conn *c)
{
    struct secure *s = c->secure;
    uint64_t timeout = tls_handshake_timeout(s->context);
    struct timeval deadline = {.tv_sec = (time_t)(timeout / 1000),
                               .tv_usec = (suseconds_t)(timeout % 1000 * 1000)};
    s->tls = tls_new(s->context, c->fd);
    if (!s->tls) {
        broken(c, "out of memory");
        return;
    }
    if (timeout)
        event_add(s->timer, &deadline);
    shake_hands(c);
}

/* --- opening ---------------------------------------------------------------------------------- */

static struct event *reading_event(struct conn *c, bool secure)
{
    short edges = secure ? 0 : EDGES;
    return event_new(c->loop->base, c->fd, EV_READ | EV_PERSIST | edges, on_readable, c);
}

static struct conn *conn_new(struct loop *loop, evutil_socket_t fd, enum conn_state state,
                             const struct conn_callbacks *callbacks, void *ctx)
{
    struct conn *c = slabs_take(&loop->conns, sizeof *c);
    if (!c)
        return NULL;
    c->magic = CONN_MAGIC;
    c->state = (uint8_t)state;
    c->loop = loop;
    c->fd = fd;
    c->callbacks = callbacks;
    c->ctx = ctx;
    chain_init(&c->out, &loop->pool);
    return c;
}

/* Small writes leave at once; a vanished peer is noticed. Fails on unix sockets: no matter. */
static void tune_socket(evutil_socket_t fd)
{
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

/* A server that vanished without a word is given up after some ten seconds, also by those who wait
 * for a reply without a deadline. */
static void notice_absence(evutil_socket_t fd)
{
    int idle = 5, interval = 2, count = 3, unacknowledged = 10 * 1000;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged, sizeof unacknowledged);
}

struct conn *conn_accept(struct loop *loop, evutil_socket_t fd, struct tls_context *tls,
                         const struct conn_callbacks *callbacks, void *ctx)
{
    struct conn *c = conn_new(loop, fd, tls ? CONN_CONNECTING : CONN_OPEN, callbacks, ctx);
    if (!c) {
        close(fd);
        return NULL;
    }
    tune_socket(fd);
    c->reading = reading_event(c, tls);
    bool ok = c->reading && (tls ? make_secure(c, tls) : event_add(c->reading, NULL) == 0);
    if (!ok) {
        conn_close(c);
        return NULL;
    }
    if (tls)
        begin_secure(c);
    return c;
}

static void opened(struct conn *c)
{
    set_state(c, CONN_CONNECTING, CONN_OPEN);
    if (c->attempt)
        end_attempt(c->attempt);
    if (c->secure)
        await_secure(c);
    else if (!c->paused)
        await(c, c->reading);
    conn_send(c);
    if (c->callbacks->connected)
        c->callbacks->connected(c->ctx);
}

static void try_next(struct conn *c);

/* This address is none: the next one, if there is one. */
static void attempt_failed(struct conn *c, const char *why)
{
    drop_socket(c);
    c->attempt->failure = why;
    try_next(c);
}

static void on_connected(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct conn *c = conn_of(arg);
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error) {
        attempt_failed(c, strerror(error));
        return;
    }
    event_free(c->writing); /* another one when there is need of it */
    c->writing = NULL;
    c->attempt->next = NULL; /* this is the one */
    if (c->secure)
        begin_secure(c);
    else
        opened(c);
}

/* NULL, or why it can't be. */
static const char *start_connect(struct conn *c, const struct sockaddr *address, socklen_t len)
{
    c->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return strerror(errno);
    tune_socket(c->fd);
    notice_absence(c->fd);
    c->reading = reading_event(c, c->secure);
    c->writing = event_new(c->loop->base, c->fd, EV_WRITE, on_connected, c);
    if (!c->reading || !c->writing || event_add(c->writing, NULL) != 0)
        return "out of memory";
    if (connect(c->fd, address, len) != 0 && errno != EINPROGRESS) /* EAGAIN: its backlog is full */
        return strerror(errno);
    return NULL;
}

/* What is left of the time, shared by the addresses that are left. */
static void set_timer(struct conn *c)
{
    struct attempt *a = c->attempt;
    uint64_t n = 1, spent = loop_now(c->loop) - a->begun;
    if (a->timeout == 0)
        return;
    for (const struct evutil_addrinfo *next = a->next; next; next = next->ai_next)
        n++;
    uint64_t ms = spent < a->timeout ? (a->timeout - spent) / n : 0;
    event_add(a->timer, &(struct timeval){.tv_sec = (time_t)(ms / 1000),
                                          .tv_usec = (suseconds_t)(ms % 1000 * 1000)});
}

static void try_next(struct conn *c)
{
    struct attempt *a = c->attempt;
    while (a->next) {
        const struct evutil_addrinfo *at = a->next;
        a->next = at->ai_next;
        a->failure = start_connect(c, at->ai_addr, (socklen_t)at->ai_addrlen);
        if (!a->failure) {
            set_timer(c);
            return;
        }
        drop_socket(c);
    }
    broken(c, a->failure);
}

static void on_attempt_late(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = conn_of(arg);
    struct attempt *a = c->attempt;
    if (c->end_why)
        return;
    bool shaking = c->secure && c->secure->tls;
    snprintf(a->why, sizeof a->why, "%s within %llu ms",
             a->resolving ? "its name was not resolved"
             : shaking    ? "no TLS connection (is that a TLS port?)"
                          : "no connection",
             (unsigned long long)a->timeout);
    if (a->next)
        attempt_failed(c, a->why);
    else
        broken(c, a->why);
}

static void on_resolved(int error, struct evutil_addrinfo *list, void *arg)
{
    if (error == EVUTIL_EAI_CANCEL)
        return; /* conn_close: the connection is already on its way out */
    struct conn *c = conn_of(arg);
    struct attempt *a = c->attempt;
    a->resolving = NULL;
    a->list = a->next = list;
    a->failure = error ? evutil_gai_strerror(error) : "host name has no address";
    try_next(c);
}

static void resolve(struct conn *c, const char *host, uint16_t port)
{
    char service[8];
    snprintf(service, sizeof service, "%u", (unsigned)port);
    struct evdns_base *dns = loop_dns(c->loop);
    if (!dns) {
        broken(c, "out of memory");
        return;
    }
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    /* Answers at once, through the callback, for numeric addresses and /etc/hosts. */
    struct evdns_getaddrinfo_request *req =
        evdns_getaddrinfo(dns, host, service, &hints, on_resolved, c);
    if (req)
        c->attempt->resolving = req;
}

static void connect_unix(struct conn *c, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len >= sizeof address.sun_path) {
        broken(c, "unix socket path too long");
        return;
    }
    memcpy(address.sun_path, path, len);
    const char *failure = start_connect(c, (const struct sockaddr *)&address, sizeof address);
    if (failure)
        broken(c, failure);
}

static bool make_attempt(struct conn *c, uint64_t timeout)
{
    struct attempt *a = calloc(1, sizeof *a);
    if (!a)
        return false;
    c->attempt = a;
    a->begun = loop_now(c->loop);
    a->timeout = timeout;
    a->timer = event_new(c->loop->base, -1, 0, on_attempt_late, c);
    return a->timer;
}

struct conn *conn_connect(struct loop *loop, const struct conn_target *target,
                          const struct conn_callbacks *callbacks, void *ctx)
{
    struct conn *c = conn_new(loop, -1, CONN_CONNECTING, callbacks, ctx);
    if (!c)
        return NULL;
    if (!make_attempt(c, target->timeout) || (target->tls && !make_secure(c, target->tls))) {
        conn_close(c);
        return NULL;
    }
    set_timer(c);
    if (target->host)
        resolve(c, target->host, target->port);
    else
        connect_unix(c, target->path);
    return c;
}

bool conn_is_open(const struct conn *c)
{
    return c->state == CONN_OPEN;
}

/* --- addresses -------------------------------------------------------------------------------- */

static void format_address(const struct sockaddr_storage *a, char *buf)
{
    char ip[INET6_ADDRSTRLEN] = "?";
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
        snprintf(buf, CONN_ADDRESS_MAX, "%s:%u", ip, (unsigned)ntohs(in->sin_port));
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
        snprintf(buf, CONN_ADDRESS_MAX, "[%s]:%u", ip, (unsigned)ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_un *un = (const struct sockaddr_un *)a;
        snprintf(buf, CONN_ADDRESS_MAX, "%.100s:0", un->sun_path);
    }
}

void conn_local_address(const struct conn *c, char buf[CONN_ADDRESS_MAX])
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    (void)getsockname(c->fd, (struct sockaddr *)&a, &len);
    format_address(&a, buf);
}

void conn_peer_address(const struct conn *c, char buf[CONN_ADDRESS_MAX])
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    /* A client of a unix socket has no name of its own: Redis shows the server's path. */
    if (getpeername(c->fd, (struct sockaddr *)&a, &len) != 0 || a.ss_family == AF_UNIX)
        conn_local_address(c, buf);
    else
        format_address(&a, buf);
}
