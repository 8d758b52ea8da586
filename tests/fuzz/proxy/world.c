/* world.c - the whole proxy, its clients and its server. */
#include "world.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "announce.h"
#include "client.h"
#include "lend.h"
#include "link.h"
#include "memory.h"
#include "outgoing.h"
#include "pressure.h"
#include "request.h"
#include "session.h"
#include "wrong.h"

enum { LEASE = 1000, TTL = 2000, SETTLES = 40, ROUNDS = 150, TICK = 50, ROUND = 200 };

/* --- building -----------------------------------------------------------------------------------
 */

/* The defaults; kept from one input to the next. */
static const struct config *default_config(void)
{
    static struct config config;
    char *argv[] = {"nearcache", "--service", "svc", NULL}, *none[] = {NULL};
    int exit_code;
    if (!config.service) {
        enum config_action action = config_load(&config, 3, argv, none, stderr, stderr, &exit_code);
        assert(action == CONFIG_RUN);
    }
    return &config;
}

static void configure(struct config *c, const uint8_t setting[SCRIPT_HEADER])
{
    static char *namespaces[] = {"svc:", "", "a[b]*?\\:", "svc:"};
    static char *stale[] = {"k*"};
    static char *urls[] = {"redis://127.0.0.1:1", "redis://me:hush@127.0.0.1:1"};
    static const enum tracking tracking[] = {TRACKING_AUTO, TRACKING_ON, TRACKING_OFF,
                                             TRACKING_AUTO};
    static const uint64_t memory[] = {512 * 1024, 64 * 1024, 0, 128 * 1024};
    *c = *default_config();
    c->namespace_ = namespaces[setting[0] & 3];
    c->tracking_mode = setting[0] & 4 ? TRACKING_MODE_OPTIN : TRACKING_MODE_BCAST;
    c->tracking = tracking[setting[0] >> 3 & 3];
    c->publish = setting[0] & 32 ? PUBLISH_ON : PUBLISH_AUTO;
    c->upstream_connections = setting[0] & 64 ? 2 : 1;
    c->channels_namespace = setting[0] & 128;
    c->l1_max_memory = memory[setting[1] & 3];
    if ((setting[0] & 3) == 3)
        c->l1_stale_if_error = (struct config_list){.v = stale, .n = 1};
    if (setting[1] & 4) { /* little memory */
        c->client_max_output = 300 * 1000;
        c->client_soft_output = 150 * 1000;
        c->client_idle_timeout = 30 * 1000;
        c->max_buffers = 1500 * 1000;
    }
    c->admin_commands = setting[1] & 8 ? ADMIN_COMMANDS_ALLOW : ADMIN_COMMANDS_DENY;
    c->upstream_url = urls[setting[1] >> 4 & 1];
    c->upstream_sessions = 2;
    c->max_clients = 3;
    c->l1_ttl = TTL;
    c->client_max_query = QUERY_MAX;
}

static FILE *log_stream(void)
{
    static FILE *stream;
    if (!stream)
        stream = tracing() ? stderr : fopen("/dev/null", "w");
    assert(stream);
    return stream;
}

/* `choice`: as a reload would change them. */
static struct coherence_options coherence_options(struct world *w, uint8_t choice)
{
    const struct config *c = &w->config;
    return (struct coherence_options){.max_stale = c->l1_max_stale,
                                      .stale_keys = &c->l1_stale_if_error,
                                      .ttl = TTL,
                                      .negative_ttl = choice & 2 ? 0 : TTL,
                                      .lease = LEASE,
                                      .max_value = choice & 4 ? 100 : (size_t)c->l1_max_value};
}

static void build_leaves(struct world *w)
{
    struct proxy *p = &w->proxy;
    const struct config *c = &w->config;
    char *prefix = config_namespace(c);
    bool ok = prefix && namespace_init(&w->ns, prefix) && config_upstream(c, &w->address);
    assert(ok);
    free(prefix);
    p->log = log_new(log_stream(), LOG_DEBUG);
    p->commands = command_table_new();
    const struct l1_config l1 = {
        .max_memory = (size_t)c->l1_max_memory, .max_value = (size_t)c->l1_max_value, .seed = 1};
    assert(p->log && p->commands);
    struct coherence_options coherence = coherence_options(w, 0);
    p->coherence = coherence_new(&l1, false, &coherence);
    assert(p->coherence);
}

static struct upstream_options upstream_options(const struct world *w, uint8_t choice)
{
    const struct config *c = &w->config;
    return (struct upstream_options){
        .address = &w->address,
        .client_name = "nearcache:svc",
        .connections = (unsigned)c->upstream_connections,
        .private_max = (unsigned)c->upstream_sessions,
        .connect_timeout = c->upstream_connect_timeout,
        .handshake_timeout = c->upstream_handshake_timeout,
        .timeout = choice & 1 ? 200 : c->upstream_timeout,
        .scan_timeout = c->upstream_scan_timeout,
        .queue_timeout = c->upstream_queue_timeout,
        .breaker = {.timeouts = choice & 16 ? 1 : (unsigned)c->breaker_timeouts,
                    .error_rate = (unsigned)c->breaker_error_rate,
                    .min_requests = choice & 32 ? 1 : (unsigned)c->breaker_min_requests,
                    .window = c->breaker_window,
                    .open_min = c->breaker_open_min,
                    .open_max = c->breaker_open_max}};
}

static void build_upstream(struct world *w)
{
    struct proxy *p = &w->proxy;
    const struct config *c = &w->config;
    struct upstream_options up = upstream_options(w, 0);
    struct link_options link = {.address = &w->address,
                                .service = c->service,
                                .ns = &w->ns,
                                .tracking = c->tracking,
                                .tracking_mode = c->tracking_mode,
                                .connect_timeout = c->upstream_connect_timeout};
    p->upstream =
        upstream_new(&w->net.loop, &up, &request_upstream_callbacks, p, p->log, &w->metrics);
    assert(p->upstream);
    p->announce = announce_new(&w->net.loop, p->upstream, &w->ns, c->service, NULL, &w->metrics);
    assert(p->announce);
    link.origin = announce_origin(p->announce);
    link.upstreams = &p->upstream;
    link.n_upstreams = 1;
    link.workers = w->crew.workers;
    p->link = link_new(&w->net.loop, &link, p->coherence, p->commands, p->log, &w->metrics);
    assert(p->link);
}

static void build_proxy(struct world *w)
{
    w->one = &w->proxy;
    w->crew = (struct crew){.workers = workers_new(1), .v = &w->one, .n = 1};
    assert(w->crew.workers);
    w->proxy = (struct proxy){.crew = &w->crew,
                              .loop = &w->net.loop,
                              .config = &w->config,
                              .metrics = &w->metrics,
                              .ns = &w->ns,
                              .address = &w->address,
                              .started = net_now()};
    TAILQ_INIT(&w->proxy.callers);
    TAILQ_INIT(&w->proxy.waiting);
    TAILQ_INIT(&w->proxy.hung_up);
    TAILQ_INIT(&w->proxy.pressed);
    LIST_INIT(&w->proxy.outgoing);
    w->net.loop.budget.limit = (size_t)w->config.max_buffers;
    build_leaves(w);
    build_upstream(w);
}

static void tear_down_proxy(struct world *w)
{
    struct proxy *p = &w->proxy;
    clients_close(p);
    outgoing_cancel_all(p);
    upstream_free(p->upstream);
    link_free(p->link);
    announce_free(p->announce);
    coherence_free(p->coherence);
    workers_free(w->crew.workers);
    command_table_free(p->commands);
    command_keys_free(&p->keys);
    resp_args_free(&p->args);
    log_free(p->log);
    namespace_free(&w->ns);
    upstream_address_free(&w->address);
}

static void on_connected(struct net *net, struct peer *peer)
{
    redis_connected(&((struct world *)net)->redis, peer);
}

static void on_delivered(struct peer *peer, const char *p, size_t n)
{
    if (!peer->is_client)
        redis_delivered(peer->owner);
    else if (peer->owner)
        person_said(peer->owner, p, n);
}

static void build_server(struct world *w, const uint8_t setting[SCRIPT_HEADER])
{
    static struct command_table *commands; /* nobody changes it */
    if (!commands)
        commands = redis_commands();
    assert(commands);
    redis_init(&w->redis, &w->net, w->ns.prefix, commands);
    w->redis.knows_no_hello = setting[1] & 64;
    w->redis.refuses_tracking = (setting[1] & 128) && (setting[0] & 3) != 3;
    w->redis.fields_expire = (setting[1] & 128) && (setting[0] & 3) == 3;
    model_init(&w->model, &w->redis, commands);
    w->model.stale = w->config.l1_stale_if_error.n > 0;
    w->model.squeezed = w->config.max_buffers > 0;
    bool tracks = w->config.tracking != TRACKING_OFF && !w->redis.refuses_tracking;
    w->model.bound = tracks ? LEASE : TTL;
    w->mode = setting[1] & 32 ? 0 : AUTO_HANDSHAKES;
}

static void tick(struct world *w)
{
    uint64_t now = loop_now(&w->net.loop);
    memory_enter();
    upstream_tick(w->proxy.upstream, now);
    link_tick(w->proxy.link, now);
    lend_tick(&w->proxy, now);
    session_tick(&w->proxy);
    pressure_tick(&w->proxy, now);
    if (w->drained)
        clients_drain(&w->proxy, now);
    memory_leave();
}

static void turn(struct world *w);

void world_build(struct world *w, const uint8_t setting[SCRIPT_HEADER])
{
    *w = (struct world){0};
    memory_fail(0, 0);
    bool ok = net_init(&w->net);
    assert(ok);
    w->net.connected = on_connected;
    w->net.delivered = on_delivered;
    configure(&w->config, setting);
    build_proxy(w);
    build_server(w, setting);
    trace("setting %02x %02x\n", setting[0], setting[1]);
    upstream_open(w->proxy.upstream);
    tick(w);
    turn(w);
}

/* --- turns --------------------------------------------------------------------------------------
 */

/* Every counter agrees with what is counted. */
static void check_callers(const struct world *w)
{
    const struct caller *c;
    size_t n = 0;
    TAILQ_FOREACH(c, &w->proxy.callers, entry)
    {
        size_t owed = 0, cost = 0, parked = 0;
        for (const struct request *r = c->head; r; r = r->next) {
            assert(r->magic == REQUEST_MAGIC && r->caller == c);
            assert(r->next || c->tail == r);
            owed++;
            cost += r->cost;
            parked += r->parked;
        }
        assert(owed == c->owed && cost == c->owed_bytes && parked == c->parked);
        n++;
    }
    assert(n == w->proxy.n_callers);
}

static void read_clients(struct world *w)
{
    for (int i = 0; i < CLIENTS; i++) {
        struct person *c = w->clients[i];
        if (!c)
            continue;
        if (!c->peer->gone)
            person_read(c);
        if (c->peer->conn)
            continue;
        trace("  client %d has been disconnected\n", i);
        person_left(c);
        person_free(c);
        w->clients[i] = NULL;
    }
}

static bool is_handshake(const struct redis_conn *c)
{
    static const char *const words[] = {"hello", "auth", "select", "client"};
    const struct ask *a = STAILQ_FIRST(&c->asks);
    for (size_t i = 0; a && i < sizeof words / sizeof *words; i++)
        if (resp_word_is(a->argv[0], words[i]))
            return true;
    return a && c->is_link;
}

/* True if it had anything to say. */
static bool answer_by_itself(const struct world *w, struct redis_conn *c)
{
    bool any = false;
    while (c->n_asks &&
           (w->mode & AUTO_ANSWERS || (w->mode & AUTO_HANDSHAKES && is_handshake(c)))) {
        redis_answer(c);
        any = true;
    }
    if (any || w->mode & AUTO_ANSWERS || (w->mode && c->is_link))
        any |= peer_deliver(c->peer, SIZE_MAX);
    return any;
}

static void turn(struct world *w)
{
    bool more = true;
    for (int i = 0; more && i < SETTLES; i++) {
        struct redis_conn *c;
        more = net_end_turn(&w->net);
        more |= net_settle_connects(&w->net);
        redis_read(&w->redis);
        TAILQ_FOREACH(c, &w->redis.conns, entry)
        if (c->peer->conn)
            more |= answer_by_itself(w, c);
    }
    net_end_turn(&w->net);
    read_clients(w);
    check_callers(w);
}

/* --- clients ------------------------------------------------------------------------------------
 */

static struct person *connect_client(struct world *w, unsigned slot)
{
    unsigned before = w->net.n_peers;
    if (w->clients[slot] || w->drained)
        return w->clients[slot];
    memory_enter();
    client_accept(&w->proxy, -1, false);
    memory_leave();
    struct peer *peer = net_last_client(&w->net, before);
    if (peer)
        w->clients[slot] = person_new(&w->model, peer, slot);
    return w->clients[slot];
}

static bool needs_client(uint8_t what)
{
    return what == STEP_COMMAND || what == STEP_QUEUE || what == STEP_ANY || what == STEP_RAW ||
           what == STEP_CONNECT;
}

/* So many bytes, or all that it has sent, and its end. */
static void deliver(struct world *w, struct peer *peer, size_t n)
{
    bool all = n == SIZE_MAX;
    while (n > 0 && peer_can_deliver(peer)) {
        size_t before = peer->in.len;
        peer_deliver(peer, n);
        n -= all ? 0 : before - peer->in.len;
        if (w->turns_wait || before == 0)
            break;
        net_end_turn(&w->net);
    }
}

static const size_t amounts[] = {0, 1, 7, 100, 5000, 20000, 100000, SIZE_MAX};

static void deafen(struct peer *peer, uint8_t a)
{
    peer->room = amounts[a % 8];
}

static void say(struct world *w, struct person *c, const struct step *step)
{
    struct speaker who = {c->slot, c->seq++};
    struct buffer b = {0};
    if (step->what == STEP_RAW)
        buffer_add(&b, step->raw, step->n_raw);
    else if (step->what == STEP_ANY)
        commands_any(&b, w->redis.commands, step->a | (unsigned)step->b << 8, who);
    else
        commands_usual(&b, step->a, step->b, who);
    peer_send(c->peer, b.data, b.len);
    buffer_free(&b);
    if (step->what != STEP_QUEUE)
        deliver(w, c->peer, SIZE_MAX);
}

static void client_step(struct world *w, const struct step *step)
{
    unsigned slot = step->who % CLIENTS;
    struct person *c = needs_client(step->what) ? connect_client(w, slot) : w->clients[slot];
    if (!c)
        return;
    switch ((enum what)step->what) {
    case STEP_COMMAND:
    case STEP_QUEUE:
    case STEP_ANY:
    case STEP_RAW:
        say(w, c, step);
        break;
    case STEP_DELIVER:
        deliver(w, c->peer, step->a ? step->a : SIZE_MAX);
        break;
    case STEP_SHUT:
        peer_shut(c->peer);
        deliver(w, c->peer, SIZE_MAX);
        break;
    case STEP_CLOSE:
        peer_close(c->peer, step->a & 1);
        deliver(w, c->peer, SIZE_MAX);
        break;
    case STEP_DEAF:
        c->unsure |= w->config.client_max_output < 1024 * 1024;
        deafen(c->peer, step->a);
        break;
    case STEP_READ:
        peer_make_room(c->peer, amounts[step->a % 8]);
        break;
    default:
        break;
    }
}

/* --- the server ---------------------------------------------------------------------------------
 */

static bool is_there(const struct redis_conn *c)
{
    return c->peer->conn || c->n_asks;
}

static struct redis_conn *choose(struct world *w, uint8_t who)
{
    struct redis_conn *c;
    size_t n = 0;
    TAILQ_FOREACH(c, &w->redis.conns, entry) n += is_there(c);
    size_t i = n ? who % n : 0;
    TAILQ_FOREACH(c, &w->redis.conns, entry)
    if (is_there(c) && i-- == 0)
        return c;
    return NULL;
}

static const char *const errors[] = {"-ERR it will not do\r\n",
                                     "-BUSY Redis is busy running a script\r\n",
                                     "-LOADING Redis is loading the dataset in memory\r\n",
                                     "-NOAUTH Authentication required.\r\n",
                                     "-NOPERM this user has no permissions\r\n",
                                     "-ERR unknown command 'what'\r\n",
                                     "-MOVED 1 127.0.0.1:2\r\n",
                                     "-READONLY You can't write against a read only replica.\r\n",
                                     "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
                                     "!9\r\n-ERR blob\r\n"};

/* The error that would end a transaction does end it. */
static void refuse(struct world *w, struct redis_conn *c, const struct step *step)
{
    const struct ask *a = STAILQ_FIRST(&c->asks);
    const char *error = errors[step->a % (sizeof errors / sizeof *errors)];
    if (!a)
        return;
    w->model.trouble = true;
    if (c->is_link || resp_word_is(a->argv[0], "client"))
        w->model.bound = TTL;
    if (error[0] == '!' && c->resp == 2)
        error = errors[0];
    c->spoilt |= c->in_multi;
    if (resp_word_is(a->argv[0], "exec") || resp_word_is(a->argv[0], "discard"))
        c->in_multi = false;
    redis_answer_with(c, error, strlen(error));
}

static const char *const lies[] = {"+LIE\r\n",
                                   ":77\r\n",
                                   "$3\r\nLIE\r\n",
                                   "*0\r\n",
                                   "*1\r\n$3\r\nLIE\r\n",
                                   "$-1\r\n",
                                   "*-1\r\n",
                                   "*2\r\n$1\r\n0\r\n*1\r\n$5\r\nother\r\n",
                                   "*2\r\n$-1\r\n*2\r\n:1\r\n+x\r\n",
                                   "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n",
                                   "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n",
                                   "*2\r\n$4\r\npong\r\n$0\r\n\r\n",
                                   "_\r\n",
                                   "%1\r\n+a\r\n:1\r\n",
                                   "~2\r\n:1\r\n:2\r\n",
                                   "|1\r\n+a\r\n:1\r\n$3\r\nLIE\r\n",
                                   ">2\r\n+x\r\n+y\r\n",
                                   "=7\r\ntxt:LIE\r\n",
                                   "#t\r\n",
                                   "+QUEUED\r\n",
                                   ":-2\r\n",
                                   ":0\r\n",
                                   ":9223372036854775807\r\n"};

/* Never RESP, whatever follows; of the first ones not even the first byte. */
static const char *const garbage[] = {"HTTP/1.1 400 Bad Request\r\n\r\n",
                                      "\x15\x03\x01 \x02",
                                      "?",
                                      "\r\n",
                                      ":12x\r\n",
                                      "*2\r\n:1\r\n?",
                                      "*1\r\n$3\r\nabcXY",
                                      "$3\r\nabcXY",
                                      "*9x\r\n"};
enum { SPOILT_AT_ONCE = 4 };

static void spoil(struct world *w, struct redis_conn *c, const struct step *step)
{
    size_t n = c->is_link ? SPOILT_AT_ONCE : sizeof garbage / sizeof *garbage;
    const char *bytes = garbage[step->a % n];
    w->model.trouble = true;
    peer_send(c->peer, bytes, strlen(bytes));
    peer_shut(c->peer); /* it says nothing more */
}

static const char *const pushes[] = {">2\r\n$10\r\ninvalidate\r\n_\r\n", ">1\r\n+x\r\n",
                                     ">2\r\n$21\r\ntracking-redir-broken\r\n:7\r\n",
                                     ">3\r\n+a\r\n*2\r\n:1\r\n:2\r\n%1\r\n+k\r\n+v\r\n"};

static void put_message(struct buffer *b, const struct step *step)
{
    static const char *const lists[] = {"*-1\r\n", "*0\r\n", "*2\r\n:1\r\n$-1\r\n"};
    static const char *const texts[] = {"k0", "other:key", "{",
                                        "{\"service\":\"svc\",\"key\":\"k0\"}",
                                        "{\"service\":\"svc\",\"prefix\":\"k\"}"};
    static const char *const to[] = {"__redis__:invalidate", "cache:invalidate",
                                     "cache:invalidate:l1", "news"};
    unsigned what = step->a % 8;
    buffer_text(b, "*3\r\n$7\r\nmessage\r\n");
    buffer_bulk_text(b, to[step->b % 4]);
    if (what < 3)
        buffer_text(b, lists[what]);
    else
        buffer_bulk_text(b, texts[what - 3]);
}

/* What the server may say unasked. */
static void push(struct redis_conn *c, const struct step *step)
{
    struct buffer b = {0};
    if (c->resp == 3)
        buffer_text(&b, pushes[step->a % 4]);
    else if (redis_is_subscribed(c))
        put_message(&b, step);
    peer_send(c->peer, b.data, b.len);
    buffer_free(&b);
}

static void break_conn(struct world *w, struct redis_conn *c, uint8_t a)
{
    struct ask *ask;
    w->model.trouble = true;
    while ((ask = STAILQ_FIRST(&c->asks))) { /* it is the server that has gone */
        STAILQ_REMOVE_HEAD(&c->asks, entry);
        free(ask);
    }
    c->n_asks = 0;
    c->tracking = false;
    peer_close(c->peer, a & 1);
    deliver(w, c->peer, SIZE_MAX);
}

static void server_step(struct world *w, const struct step *step)
{
    struct redis_conn *c = choose(w, step->who);
    if (!c)
        return;
    switch ((enum what)step->what) {
    case STEP_ANSWER:
    case STEP_HELD:
        for (int i = step->a % 8; i >= 0; i--)
            redis_answer(c);
        if (step->what == STEP_ANSWER)
            deliver(w, c->peer, step->b ? step->b : SIZE_MAX);
        break;
    case STEP_FLOW:
        deliver(w, c->peer, step->a ? step->a : SIZE_MAX);
        break;
    case STEP_REFUSE:
        refuse(w, c, step);
        deliver(w, c->peer, SIZE_MAX);
        break;
    case STEP_LIE:
        w->redis.lied = w->model.trouble = true;
        redis_answer_with(c, lies[step->a % (sizeof lies / sizeof *lies)],
                          strlen(lies[step->a % (sizeof lies / sizeof *lies)]));
        deliver(w, c->peer, step->b ? step->b : SIZE_MAX);
        break;
    case STEP_GARBAGE:
        spoil(w, c, step);
        deliver(w, c->peer, SIZE_MAX);
        break;
    case STEP_SERVER_RAW:
        w->redis.lied = w->model.trouble = true;
        peer_send(c->peer, step->raw, step->n_raw);
        deliver(w, c->peer, SIZE_MAX);
        break;
    case STEP_PUSH:
        push(c, step);
        deliver(w, c->peer, SIZE_MAX);
        break;
    case STEP_BREAK:
        break_conn(w, c, step->a);
        break;
    case STEP_SERVER_DEAF:
        deafen(c->peer, step->a);
        break;
    case STEP_SERVER_READ:
        peer_make_room(c->peer, amounts[step->a % 8]);
        break;
    default:
        break;
    }
}

/* Another service, or another instance of this one. */
static void write_elsewhere(struct world *w, const struct step *step)
{
    struct buffer name = {0};
    struct resp_slice key = commands_key(step->a), prefix = w->ns.prefix;
    struct state state = {.absent = (step->b >> 2) % 5 == 1};
    if ((step->b >> 2) % 5 == 2)
        state.expires = net_now() + 300;
    if ((step->b >> 2) % 5 == 3) {
        redis_flush(&w->redis);
        return;
    }
    if ((step->b >> 2) % 5 != 4)
        buffer_add(&name, prefix.data, prefix.len);
    buffer_add(&name, key.data, key.len);
    redis_write(&w->redis, step->b & 3, (struct resp_slice){name.data, name.len}, state);
    buffer_free(&name);
}

/* --- everything ---------------------------------------------------------------------------------
 */

static bool something_waits(const struct world *w)
{
    const struct redis_conn *c;
    bool found = w->net.connects != NET_ACCEPT || upstream_pending(w->proxy.upstream) > 0;
    TAILQ_FOREACH(c, &w->redis.conns, entry)
    found |= c->peer->conn && (c->n_asks || c->peer->in.len || c->peer->room != SIZE_MAX);
    return found;
}

static void pass_time(struct world *w, uint64_t ms)
{
    uint64_t slices = ms < 10 * TICK ? ms / TICK + 1 : 10;
    for (uint64_t i = 0; i < slices; i++) {
        w->model.trouble |= something_waits(w);
        net_pass_time(&w->net, ms / slices);
        tick(w);
        turn(w);
    }
}

/* True if anything moved. */
static bool settle_once(struct world *w)
{
    struct redis_conn *c;
    bool any = false;
    for (int i = 0; i < CLIENTS; i++) {
        struct person *person = w->clients[i];
        if (!person || !person->peer->conn)
            continue;
        any |= person->peer->room != SIZE_MAX;
        peer_make_room(person->peer, SIZE_MAX);
        any |= peer_deliver(person->peer, SIZE_MAX);
    }
    TAILQ_FOREACH(c, &w->redis.conns, entry)
    {
        any |= c->n_asks > 0;
        if (c->peer->conn)
            peer_make_room(c->peer, SIZE_MAX);
        while (c->n_asks)
            redis_answer(c);
        any |= peer_deliver(c->peer, SIZE_MAX);
    }
    turn(w);
    return any;
}

static void settle(struct world *w)
{
    turn(w);
    for (int i = 0; i < SETTLES && settle_once(w); i++)
        ;
}

static void drain(struct world *w)
{
    w->drained = w->model.kills = true;
}

/* As a reload does. */
static void set_options(struct world *w, uint8_t choice)
{
    struct upstream_options up = upstream_options(w, choice);
    struct coherence_options coherence = coherence_options(w, choice);
    w->model.trouble |= (choice & 9) != 0;
    upstream_set_options(w->proxy.upstream, &up);
    coherence_set_options(w->proxy.coherence, &coherence);
    if (choice & 8)
        upstream_renew(w->proxy.upstream);
}

static const uint64_t times[] = {1, 10, 50, 100, 250, 300, 500, 1000, 1100, 2000, 5000, 61000};

static void common_step(struct world *w, const struct step *step)
{
    switch ((enum what)step->what) {
    case STEP_WRITE:
        write_elsewhere(w, step);
        break;
    case STEP_CONNECTS:
        w->net.connects = step->a % 4;
        w->model.trouble |= w->net.connects != NET_ACCEPT;
        break;
    case STEP_MODE:
        w->mode = step->a % 4;
        break;
    case STEP_TIME:
        pass_time(w, times[step->a % (sizeof times / sizeof *times)]);
        break;
    case STEP_SETTLE:
        settle(w);
        break;
    case STEP_TURN:
        w->turns_wait = step->a & 1;
        break;
    case STEP_DRAIN:
        drain(w);
        break;
    case STEP_OPTIONS:
        set_options(w, step->a);
        break;
    case STEP_MEMORY:
        w->model.trouble = w->model.forgets = true;
        memory_fail(step->a % 64, step->b % 8 + 1U);
        break;
    default:
        break;
    }
}

void world_step(struct world *w, const struct step *step)
{
    trace("%s %u %u %u\n", script_name(step->what), step->who, step->a, step->b);
    if (step->what < STEP_ANSWER)
        client_step(w, step);
    else if (step->what < STEP_WRITE)
        server_step(w, step);
    else
        common_step(w, step);
    if (!w->turns_wait)
        turn(w);
}

/* --- the end ------------------------------------------------------------------------------------
 */

/* What was said without being asked for might be taken for part of the next reply. */
static void break_all(struct world *w)
{
    struct redis_conn *c;
    TAILQ_FOREACH(c, &w->redis.conns, entry)
    if (c->peer->conn)
        break_conn(w, c, 1);
}

static bool is_owed(const struct world *w)
{
    bool owed = upstream_pending(w->proxy.upstream) > 0 || !TAILQ_EMPTY(&w->proxy.waiting);
    for (int i = 0; i < CLIENTS; i++)
        owed |= w->clients[i] && w->clients[i]->n_wants;
    return owed;
}

static void wait_for_all(struct world *w)
{
    for (int i = 0; i < ROUNDS && is_owed(w); i++) {
        net_pass_time(&w->net, ROUND);
        tick(w);
        settle(w);
    }
}

static void leave_all(struct world *w)
{
    for (int i = 0; i < CLIENTS; i++)
        if (w->clients[i]) {
            peer_close(w->clients[i]->peer, true);
            turn(w);
        }
    wait_for_all(w);
}

static void check_replies(const struct world *w)
{
    if (!TAILQ_EMPTY(&w->proxy.waiting))
        wrong("a client still waits for a connection");
    for (int i = 0; i < CLIENTS; i++) {
        const struct person *c = w->clients[i];
        if (c && c->ended && !c->peer->gone)
            wrong("client %d is not disconnected, though its MULTI or WATCH was refused", i);
        if (c && c->n_wants && !c->loose && !c->peer->gone && !w->redis.lied)
            wrong("client %d is still owed %zu replies, the first one to %.*s", i, c->n_wants,
                  (int)STAILQ_FIRST(&c->wants)->argv[0].len, STAILQ_FIRST(&c->wants)->argv[0].data);
    }
}

static void check_nothing_left(const struct world *w)
{
    const struct proxy *p = &w->proxy;
    if (p->n_callers || p->n_monitors || !TAILQ_EMPTY(&p->waiting))
        wrong("%zu clients, %zu monitors are left", p->n_callers, p->n_monitors);
    if (upstream_pending(p->upstream) || upstream_lent(p->upstream))
        wrong("%llu replies, %u lent connections are left",
              (unsigned long long)upstream_pending(p->upstream), upstream_lent(p->upstream));
}

void world_end(struct world *w)
{
    trace("the end\n");
    memory_fail(0, 0);
    w->mode = AUTO_HANDSHAKES | AUTO_ANSWERS;
    w->net.connects = NET_ACCEPT;
    turn(w);
    if (w->redis.lied)
        break_all(w);
    settle(w);
    wait_for_all(w);
    check_replies(w);
    leave_all(w);
    check_nothing_left(w);
    tear_down_proxy(w);
    (void)net_end_turn(&w->net);
    if (w->net.loop.budget.used)
        wrong("%zu bytes of buffers are left", w->net.loop.budget.used);
    net_free(&w->net);
    model_free(&w->model);
    redis_free(&w->redis);
}
