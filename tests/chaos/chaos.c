/* chaos.c - hundreds of clients that check every byte they get: the load of tests/chaos/run.
 *
 *     chaos NEARCACHE SERVER PREFIX [name=value]...
 *
 * NEARCACHE and SERVER are 127.0.0.1:PORT or the path of a unix socket; NEARCACHE may be several,
 * with commas. The server is asked directly at the end, with PREFIX before the names of keys. Names
 * of values are seed, clients, strict (1: there are no faults, so nothing excuses an error) and
 * generation (of the first names of keys: more than any of an earlier run).
 *
 * One thread. Tells its progress once a second; "end" on stdin has it come to an end: all that is
 * owed has to come, then all keys are read back. The exit status is 1 if there was a violation.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "judge.h"
#include "operations.h"
#include "sessions.h"
#include "strings.h"

enum {
    MS = 1000, /* us */
    TICK = 5 * MS,
    SECOND = 1000 * MS,
    HANG = 60 * SECOND, /* without any reply: never a fault's doing, nor a busy machine's */
    EVENTS = 256,
    READ_MAX = 256 * 1024,
    OUT_MAX = 1024 * 1024, /* unsent before nothing more is sent */
    ROOM = 24,             /* replies that one operation may be owed, more than any is */
    BIG_MAX = 4,           /* clients with values of megabytes */
    ADDRESSES = 4,
    READ_BACK = 100, /* keys at a time */
};

struct address {
    struct sockaddr_storage a;
    socklen_t len;
};

struct chaos {
    struct load load;
    struct address near[ADDRESSES], server;
    unsigned n_near, n_big;
    const char *prefix;
    int epoll;
    bool ending;
    uint64_t next_tick, next_progress;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec / 1000;
}

/* --- connections --------------------------------------------------------------------------------
 */

static bool parse_address(const char *text, struct address *out)
{
    *out = (struct address){0};
    const char *colon = strrchr(text, ':');
    if (*text == '/') {
        struct sockaddr_un *un = (struct sockaddr_un *)&out->a;
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof un->sun_path, "%s", text);
        out->len = sizeof *un;
        return true;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)&out->a;
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in->sin_port = htons((uint16_t)(colon ? strtoul(colon + 1, NULL, 10) : 0));
    out->len = sizeof *in;
    return in->sin_port != 0;
}

static void watch(struct chaos *ch, struct client *c)
{
    unsigned wanted = 0;
    if (c->state == CLIENT_CONNECTING || (c->out.at < c->out.len && !c->character.write_max))
        wanted |= EPOLLOUT;
    if (c->state >= CLIENT_OPEN && !c->stalled && !c->character.read_max)
        wanted |= EPOLLIN;
    if (wanted == c->interest)
        return;
    c->interest = wanted;
    struct epoll_event e = {.events = wanted, .data.ptr = c};
    epoll_ctl(ch->epoll, EPOLL_CTL_MOD, c->fd, &e);
}

static void open_client(struct chaos *ch, struct client *c, const struct address *a)
{
    struct load *l = &ch->load;
    int on = 1;
    c->fd = socket(a->a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        perror("chaos: socket");
        exit(2);
    }
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (const struct sockaddr *)&a->a, a->len) != 0 && errno != EINPROGRESS) {
        c->retry_at = l->now + 10 * MS; /* a full backlog, where it is a unix socket */
        close(c->fd);
        return;
    }
    c->state = CLIENT_CONNECTING;
    c->nonce = dice_next(&l->dice);
    c->resp = 2;
    c->db = 0;
    c->client_id = 0;
    c->name = 0;
    c->troubled = c->stalled = c->shut = false;
    c->cursor[0] = '\0';
    c->frame = (struct reply_frame){0};
    c->n_memories = 0;
    c->character_until = 0;
    c->progress = l->now;
    c->interest = EPOLLOUT;
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(ch->epoll, EPOLL_CTL_ADD, c->fd, &e);
}

static void close_client(struct chaos *ch, struct client *c, enum ending ending)
{
    struct load *l = &ch->load;
    struct linger abort_it = {.l_onoff = 1};
    if (ending == ENDED_RESET || ending == ENDED_BY_VIOLATION)
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof abort_it);
    close(c->fd);
    judge_lost(l, c);
    l->tally.endings[ending]++;
    ch->n_big -= c->character.big;
    c->character = (struct character){0};
    buffer_free(&c->in);
    buffer_free(&c->out);
    c->state = CLIENT_CLOSED;
    c->retry_at = l->now + dice_below(&l->dice, 50 * MS);
}

static void violate(struct chaos *ch, struct client *c, const char *what)
{
    struct span rest = {c->in.p + c->in.at, c->in.len - c->in.at};
    load_violation(&ch->load, c, client_head(c), what, rest);
    close_client(ch, c, ENDED_BY_VIOLATION);
}

/* The other side has closed. In an ending that we began all must have come. Otherwise there is an
 * excuse if something was owed that may have broken, or a session was lost. */
static void ended(struct chaos *ch, struct client *c)
{
    bool has_part = c->in.at < c->in.len;
    bool in_session = c->subscribed > 0 || c->watch != WATCH_NONE || c->multi == MULTI_OPEN;
    if (c->state == CLIENT_ENDING && c->n_owed == 0 && !has_part)
        close_client(ch, c, c->shut ? ENDED_HALF_CLOSED : ENDED_QUIT);
    else if (ch->load.strict)
        violate(ch, c,
                c->state == CLIENT_ENDING ? "the end came before all replies" : "disconnected");
    else if (c->state == CLIENT_ENDING)
        close_client(ch, c, ENDED_EARLY);
    else if (has_part)
        close_client(ch, c, ENDED_IN_REPLY);
    else if (in_session)
        close_client(ch, c, ENDED_IN_SESSION);
    else if (c->n_owed > 0)
        close_client(ch, c, ENDED_OWED);
    else if (c->troubled)
        close_client(ch, c, ENDED_AFTER_ERROR);
    else
        violate(ch, c, "disconnected, though nothing was owed");
}

/* --- bytes --------------------------------------------------------------------------------------
 */

static bool judge_input(struct chaos *ch, struct client *c)
{
    while (c->in.at < c->in.len) {
        const char *p = c->in.p + c->in.at;
        size_t len;
        enum reply_status status = reply_frame(&c->frame, p, c->in.len - c->in.at, &len);
        if (status == REPLY_MORE)
            return true;
        if (status == REPLY_BAD) {
            violate(ch, c, "not RESP");
            return false;
        }
        if (!judge_frame(&ch->load, c, p, len)) {
            close_client(ch, c, ENDED_BY_VIOLATION);
            return false;
        }
        buffer_consume(&c->in, len);
    }
    return true;
}

/* False: the client is closed. */
static bool receive(struct chaos *ch, struct client *c, size_t max)
{
    ssize_t n = recv(c->fd, buffer_room(&c->in, max), max, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0) {
        ended(ch, c);
        return false;
    }
    c->in.len += (size_t)n;
    c->progress = ch->load.now;
    ch->load.tally.bytes += (uint64_t)n;
    return judge_input(ch, c);
}

/* Nothing else is said once all is sent and the client wants to go. A broken pipe is noticed when
 * reading. */
static void flush(struct client *c, uint64_t now)
{
    size_t n = c->out.len - c->out.at;
    if (n > 0 && c->character.write_max && n > c->character.write_max + n / 256)
        n = c->character.write_max + n / 256;
    ssize_t sent = n ? send(c->fd, c->out.p + c->out.at, n, MSG_NOSIGNAL) : 0;
    if (sent > 0) {
        buffer_consume(&c->out, (size_t)sent);
        c->progress = now;
    }
    if (c->out.at == c->out.len && c->state == CLIENT_ENDING && c->shut)
        (void)shutdown(c->fd, SHUT_WR);
}

/* --- character ----------------------------------------------------------------------------------
 */

static unsigned any_depth(struct dice *d)
{
    uint64_t how = dice_below(d, 100);
    return how < 20   ? 1
           : how < 60 ? 2 + (unsigned)dice_below(d, 10)
           : how < 90 ? 10 + (unsigned)dice_below(d, 50)
                      : 50 + (unsigned)dice_below(d, 151);
}

static enum style any_style(struct dice *d)
{
    uint64_t how = dice_below(d, 100);
    return how < 30   ? READS
           : how < 53 ? WRITES
           : how < 78 ? MIXED
           : how < 89 ? SESSIONS
           : how < 94 ? SUBSCRIBER
                      : ODD;
}

static void change_character(struct chaos *ch, struct client *c)
{
    struct dice *d = &ch->load.dice;
    uint64_t how = dice_below(d, 100);
    ch->n_big -= c->character.big;
    c->character = (struct character){.style = any_style(d), .depth = any_depth(d)};
    if (how < 3)
        c->character.write_max = 1;
    else if (how < 8)
        c->character.write_max = 2 + dice_below(d, 61);
    else if (how < 13)
        c->character.read_max = 100 + dice_below(d, 5000);
    c->character.big = ch->n_big < BIG_MAX && dice_chance(d, 20);
    ch->n_big += c->character.big;
    c->character_until = ch->load.now + 100 * MS + dice_below(d, 2000 * MS);
}

static enum verdict check_quit(const struct answer *a)
{
    return reader_text(a->reader, "+OK\r\n") ? AS_ASKED : WRONG;
}

static void quit(struct client *c)
{
    static const struct operation op = {.name = "QUIT", .check = check_quit};
    client_say(c, "QUIT", NULL);
    client_owe(c, &op);
    c->state = CLIENT_ENDING;
}

/* All that is owed must come, and then the end; of a command that is not whole nothing. */
static void half_close(struct chaos *ch, struct client *c)
{
    if (dice_chance(&ch->load.dice, 300) && !c->barrier)
        strings_half(&ch->load, c);
    c->state = CLIENT_ENDING;
    c->shut = true;
}

/* A new mind: another character, a pause, or the end. False: the client is closed. */
static bool change_mind(struct chaos *ch, struct client *c)
{
    struct dice *d = &ch->load.dice;
    uint64_t how = dice_below(d, 100);
    bool may_end = c->blocking == 0 && !c->subscribing;
    if (c->character_until && how < 8) {
        close_client(ch, c, ENDED_RESET);
        return false;
    }
    if (c->character_until && how < 14 && may_end) {
        half_close(ch, c);
    } else if (c->character_until && how < 18 && may_end) {
        quit(c);
    } else if (how < 24) {
        c->stalled = true;
        c->stalled_until = ch->load.now + dice_below(d, 2500 * MS);
    }
    change_character(ch, c);
    return true;
}

static void fill(struct chaos *ch, struct client *c)
{
    unsigned failures = 0, depth = c->character.depth;
    if (c->state != CLIENT_OPEN || ch->ending || c->paused_until > ch->load.now ||
        c->n_owed > depth / 2)
        return;
    while (c->n_owed < depth && c->n_owed + ROOM < OWED_MAX && !c->barrier && failures < 8 &&
           c->out.len - c->out.at < OUT_MAX)
        failures += !operations_send(&ch->load, c);
}

/* --- the loop -----------------------------------------------------------------------------------
 */

static bool tick_open(struct chaos *ch, struct client *c)
{
    uint64_t now = ch->load.now;
    if (c->stalled && now >= c->stalled_until)
        c->stalled = false;
    if (c->stalled || c->n_owed == 0)
        c->progress = now;
    if (now - c->progress > HANG) {
        violate(ch, c, "no reply for a minute");
        return false;
    }
    if (c->character.read_max && !c->stalled && !receive(ch, c, c->character.read_max))
        return false;
    bool done = c->n_owed == 0 && c->out.at == c->out.len && c->state == CLIENT_OPEN;
    if (ch->ending && done) {
        close_client(ch, c, ENDED_LAST);
        return false;
    }
    return ch->ending || c->state != CLIENT_OPEN || now < c->character_until || change_mind(ch, c);
}

static void tick_client(struct chaos *ch, struct client *c)
{
    struct load *l = &ch->load;
    switch (c->state) {
    case CLIENT_CLOSED:
        if (!ch->ending && l->now >= c->retry_at)
            open_client(ch, c, &ch->near[dice_below(&l->dice, ch->n_near)]);
        break;
    case CLIENT_CONNECTING:
        if (l->now - c->progress > HANG)
            violate(ch, c, "not connected for a minute");
        break;
    case CLIENT_OPEN:
    case CLIENT_ENDING:
        if (!tick_open(ch, c))
            break;
        fill(ch, c);
        flush(c, l->now);
        watch(ch, c);
        break;
    }
}

static void connected(struct chaos *ch, struct client *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    (void)getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error) {
        load_violation(&ch->load, c, NULL, "cannot connect",
                       (struct span){strerror(error), strlen(strerror(error))});
        close_client(ch, c, ENDED_BY_VIOLATION);
        return;
    }
    c->state = CLIENT_OPEN;
    ch->load.tally.connections++;
    watch(ch, c);
}

static void on_event(struct chaos *ch, struct client *c, uint32_t events)
{
    if (c->state == CLIENT_CONNECTING) {
        connected(ch, c);
        return;
    }
    bool may_read = !c->stalled && !c->character.read_max;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && may_read && !receive(ch, c, READ_MAX))
        return;
    /* Whoever is stalled takes no notice of the end, either. */
    if (!may_read && events & (EPOLLHUP | EPOLLERR)) {
        c->stalled = false;
        c->character.read_max = 0;
    }
    fill(ch, c);
    if (!c->character.write_max)
        flush(c, ch->load.now);
    watch(ch, c);
}

static void progress(struct chaos *ch)
{
    const struct tally *t = &ch->load.tally;
    printf("progress %" PRIu64 " %" PRIu64 "\n", t->replies + t->messages, t->violations);
    fflush(stdout);
    ch->next_progress = ch->load.now + SECOND;
}

/* Come to an end: no more is asked, and all is read. */
static void end(struct chaos *ch)
{
    ch->ending = true;
    for (unsigned i = 0; i < ch->load.n_clients; i++) {
        struct client *c = &ch->load.clients[i];
        c->stalled = false;
        c->character.read_max = c->character.write_max = 0;
        c->progress = ch->load.now;
    }
}

static bool told_to_end(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char text[64];
    return poll(&p, 1, 0) > 0 && read(STDIN_FILENO, text, sizeof text) >= 0;
}

static bool anybody_left(const struct chaos *ch)
{
    for (unsigned i = 0; i < ch->load.n_clients; i++)
        if (ch->load.clients[i].state != CLIENT_CLOSED)
            return true;
    return false;
}

static void tick(struct chaos *ch)
{
    struct load *l = &ch->load;
    for (unsigned i = 0; i < l->n_clients; i++)
        tick_client(ch, &l->clients[i]);
    ch->next_tick = l->now + TICK;
    if (l->now < ch->next_progress)
        return;
    progress(ch);
    if (!ch->ending && told_to_end())
        end(ch);
}

static void run(struct chaos *ch)
{
    struct epoll_event events[EVENTS];
    while (!ch->ending || anybody_left(ch)) {
        int n = epoll_wait(ch->epoll, events, EVENTS, TICK / MS);
        ch->load.now = now_us();
        for (int i = 0; i < n; i++)
            on_event(ch, events[i].data.ptr, events[i].events);
        if (ch->load.now >= ch->next_tick)
            tick(ch);
    }
}

/* --- reading back -------------------------------------------------------------------------------
 */

/* Until nothing is owed. False: the client is closed. */
static bool settle_all(struct chaos *ch, struct client *c)
{
    while (c->n_owed > 0) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        ch->load.now = now_us();
        flush(c, ch->load.now);
        if (c->out.at < c->out.len)
            p.events |= POLLOUT;
        if (poll(&p, 1, HANG / MS) == 0) {
            violate(ch, c, "no reply for a minute");
            return false;
        }
        if (p.revents & ~POLLOUT && !receive(ch, c, READ_MAX))
            return false;
    }
    return true;
}

static void ask_again(struct chaos *ch, struct client *c, struct key *k)
{
    if (k->type == KEY_QUEUE)
        sessions_read_queue(c, k);
    else
        operations_read(c, k, false);
    ch->load.tally.read_back++;
}

static bool read_back_db(struct chaos *ch, struct client *c)
{
    struct key *k;
    size_t at = 0;
    while ((k = model_each(ch->load.model, &at))) {
        if (k->db != c->db || k->type == KEY_CHANNEL || (k->type == KEY_QUEUE && k->pops))
            continue;
        ask_again(ch, c, k);
        if (c->n_owed == READ_BACK && !settle_all(ch, c))
            return false;
    }
    return settle_all(ch, c);
}

/* Until the upstream is back: false: it does not come, or the client is closed. */
static bool await_server(struct chaos *ch, struct client *c, unsigned db)
{
    static const struct operation op = {.name = "SELECT", .check = check_quit};
    struct load *l = &ch->load;
    bool strict = l->strict;
    uint64_t errors, until = now_us() + HANG;
    l->strict = false;
    do {
        errors = l->tally.errors;
        client_command(c, 2);
        client_word(c, "SELECT");
        client_number(c, db);
        client_owe(c, &op);
        struct key *k = model_any(l->model, db, KEY_STRING);
        operations_read(c, k, false);
        if (!settle_all(ch, c))
            return false;
        if (l->tally.errors > errors)
            usleep(50 * MS);
    } while (l->tally.errors > errors && l->now < until);
    l->strict = strict;
    c->db = db;
    return true;
}

/* By a client of its own. */
static void read_back(struct chaos *ch, const struct address *a, const char *prefix)
{
    struct client *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->id = ch->load.n_clients; /* owns nothing */
    c->prefix = prefix;
    open_client(ch, c, a);
    struct pollfd p = {.fd = c->fd, .events = POLLOUT};
    (void)poll(&p, 1, HANG / MS);
    connected(ch, c);
    for (unsigned db = 0; db < MODEL_DBS && c->state == CLIENT_OPEN; db++)
        if (!await_server(ch, c, db) || !read_back_db(ch, c))
            break;
    if (c->state == CLIENT_OPEN)
        close_client(ch, c, ENDED_LAST);
    free(c);
}

/* --- main ---------------------------------------------------------------------------------------
 */

static void parse_setting(struct chaos *ch, const char *text)
{
    unsigned long long n;
    if (sscanf(text, "seed=%llu", &n) == 1)
        ch->load.seed = n;
    else if (sscanf(text, "clients=%llu", &n) == 1)
        ch->load.n_clients = (unsigned)n;
    else if (sscanf(text, "generation=%llu", &n) == 1)
        ch->load.generation = (unsigned)n;
    else if (sscanf(text, "strict=%llu", &n) == 1)
        ch->load.strict = n != 0;
    else
        fprintf(stderr, "chaos: what is %s?\n", text), exit(2);
}

static void parse_arguments(struct chaos *ch, int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: chaos NEARCACHE[,NEARCACHE]... SERVER PREFIX [name=value]...\n");
        exit(2);
    }
    for (char *at = strtok(argv[1], ","); at && ch->n_near < ADDRESSES; at = strtok(NULL, ","))
        if (parse_address(at, &ch->near[ch->n_near]))
            ch->n_near++;
    if (ch->n_near == 0 || !parse_address(argv[2], &ch->server))
        fprintf(stderr, "chaos: no address\n"), exit(2);
    ch->prefix = argv[3];
    for (int i = 4; i < argc; i++)
        parse_setting(ch, argv[i]);
}

static void make_clients(struct load *l)
{
    l->dice.state = l->seed * 0x9e3779b97f4a7c15 + 1;
    l->model = model_new(&l->dice, l->n_clients, l->generation);
    l->clients = calloc(l->n_clients, sizeof *l->clients);
    if (!l->clients)
        abort();
    for (unsigned i = 0; i < l->n_clients; i++) {
        l->clients[i].id = i;
        l->clients[i].prefix = "";
    }
}

static void print_model(const struct load *l)
{
    struct model_counts counts = model_counts(l->model);
    printf("names given up: %" PRIu64 " full, %" PRIu64 " in doubt, of which %" PRIu64 " lost\n",
           counts.full, counts.doubtful, counts.lost);
}

int main(int argc, char **argv)
{
    static struct chaos chaos = {.load = {.seed = 1, .n_clients = 400}};
    struct load *l = &chaos.load;
    parse_arguments(&chaos, argc, argv);
    make_clients(l);
    chaos.epoll = epoll_create1(EPOLL_CLOEXEC);
    run(&chaos);
    l->strict = true;
    read_back(&chaos, &chaos.near[0], "");
    read_back(&chaos, &chaos.server, chaos.prefix);
    print_model(l);
    tally_print(&l->tally);
    close(chaos.epoll);
    model_free(l->model);
    free(l->clients);
    return l->tally.violations != 0;
}
