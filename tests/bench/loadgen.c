/* loadgen.c - load on a RESP server: verified replies, latencies, and the CPU that the server took.
 *
 *     loadgen ADDRESS [name=value]...       ADDRESS: host:port (IPv4) or unix:/path
 *
 * Each connection sends a batch of requests with one write, waits for all of their replies, and
 * sends the next (closed loop); with a rate, batches are due at fixed times instead, and latencies
 * count from then (open loop). Every reply is compared byte for byte with what it must be: a key's
 * value depends on the key alone, also when it is written. What the settings below do not say:
 *
 *     op     get set mixed mget ping; load writes every key once, warm reads every key once
 *     pid    processes of the server, parted by commas; us_op is their CPU for a request
 *     churn  visitors beside the connections: each connects, sends a PING, reads the reply, closes
 *     hold   each connection sends one batch; says so, and keeps them open until stdin ends
 *
 * A request's latency goes from the write of its batch to the read that completed its reply. Prints
 * a line of name=value: times in microseconds, of the seconds measured only. Exit status: 2 if a
 * reply was wrong, 1 for other failures.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "pattern.h"

enum {
    KEY_LEN = 24,
    SPREAD = 4096,             /* distinct values; a power of two */
    SCRIPT_BYTES = 64 << 20,   /* aimed at, */
    SCRIPT_REQUESTS = 1 << 18, /* the smaller of both */
    READ_SIZE = 256 << 10,
    EVENTS = 512,
    PIDS = 32,
    SOURCES = 250, /* loopback addresses to connect from: ports in TIME_WAIT run out */
    SUB = 64,      /* buckets for each power of two: exact to 1.6 % */
    BUCKETS = SUB * 58,
    STALLED = 10, /* seconds without a reply */
    EXIT_WRONG = 2,
};

static const uint64_t SECOND = 1000 * 1000 * 1000;
static const char PING[] = "*1\r\n$4\r\nPING\r\n", PONG[] = "+PONG\r\n", OK[] = "+OK\r\n";
static const char line_end[] = "\r\n";

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...)
{
    int error = errno;
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, error ? " (%s)\n" : "\n", strerror(error));
    exit(EXIT_FAILURE);
}

static void *must(void *p)
{
    if (!p)
        die("out of memory");
    return p;
}

static uint64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t nanoseconds(double seconds)
{
    return (uint64_t)(seconds * (double)SECOND);
}

static uint32_t smaller(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* ---- settings ---- */

enum op { GET, SET, MIXED, MGET, OP_PING, LOAD, WARM, OPS };

static const char *const op_names[OPS] = {"get", "set", "mixed", "mget", "ping", "load", "warm"};

struct options {
    const char *address, *prefix;
    enum op op;
    uint64_t connections, pipeline, keys, value, count, writes, resp, seed, churn, hold, constant;
    double zipf, seconds, warmup, rate;
    int pids[PIDS];
    size_t n_pids;
};

#define WHOLE(name, min, max, help)                                                                \
    {                                                                                              \
#name, offsetof(struct options, name), false, min, max, help                               \
    }
#define REAL(name, min, max, help)                                                                 \
    {                                                                                              \
#name, offsetof(struct options, name), true, min, max, help                                \
    }

static const struct setting {
    const char *name;
    size_t offset;
    bool real;
    double min, max;
    const char *help;
} settings[] = {
    WHOLE(connections, 0, 1e6, "[50]"),
    WHOLE(pipeline, 1, 1e6, "requests of a batch [1]"),
    WHOLE(keys, 1, 4e9, "[100000]"),
    WHOLE(value, 0, 1 << 29, "bytes of a value [32]"),
    WHOLE(count, 1, 1e4, "keys of one MGET [10]"),
    WHOLE(writes, 0, 100, "percent of op=mixed that are SET [10]"),
    WHOLE(resp, 2, 3, "protocol; 3 is asked for with HELLO [2]"),
    WHOLE(seed, 0, 1e15, "of the order of keys [1]"),
    WHOLE(churn, 0, 1e5, "connections that come and go at a time [0]"),
    WHOLE(hold, 0, 1, "see above [0]"),
    WHOLE(constant, 0, 1, "all keys have the same value [0]"),
    REAL(zipf, 0, 5, "exponent, not 1; 0: all keys alike [0.99]"),
    REAL(seconds, 0, 1e6, "measured [1]"),
    REAL(warmup, 0, 1e6, "seconds before [0.2]"),
    REAL(rate, 0, 1e9, "requests a second of all connections together; 0: closed loop [0]"),
};

static void usage(void)
{
    fputs("usage: loadgen host:port|unix:/path [name=value]...\n"
          "  op           get|set|mixed|mget|ping|load|warm [get]\n"
          "  prefix       of the keys, up to 12 characters [bench:]\n"
          "  pid          N[,N]...\n",
          stderr);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        fprintf(stderr, "  %-12s %s\n", settings[i].name, settings[i].help);
    exit(EXIT_FAILURE);
}

static bool set_number(struct options *o, const char *name, size_t len, const char *text)
{
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const struct setting *s = &settings[i];
        if (strncmp(s->name, name, len) != 0 || s->name[len])
            continue;
        char *end;
        double number = strtod(text, &end);
        if (end == text || *end || !(number >= s->min && number <= s->max))
            return false;
        if (s->real)
            memcpy((char *)o + s->offset, &number, sizeof number);
        else
            memcpy((char *)o + s->offset, &(uint64_t){(uint64_t)number}, sizeof(uint64_t));
        return true;
    }
    return false;
}

static bool set_op(struct options *o, const char *text)
{
    for (enum op op = 0; op < OPS; op++) {
        if (strcmp(text, op_names[op]) == 0) {
            o->op = op;
            return true;
        }
    }
    return false;
}

static bool set_pids(struct options *o, const char *text)
{
    while (*text && o->n_pids < PIDS) {
        char *end;
        long pid = strtol(text, &end, 10);
        if (pid <= 0 || pid > INT32_MAX || (*end && *end != ','))
            return false;
        o->pids[o->n_pids++] = (int)pid;
        text = end + (*end == ',');
    }
    return !*text;
}

static bool set_one(struct options *o, const char *text)
{
    const char *value = strchr(text, '=');
    if (!value)
        return false;
    size_t len = (size_t)(value++ - text);
    if (len == 2 && strncmp(text, "op", len) == 0)
        return set_op(o, value);
    if (len == 3 && strncmp(text, "pid", len) == 0)
        return set_pids(o, value);
    if (len == 6 && strncmp(text, "prefix", len) == 0) {
        o->prefix = value;
        return strlen(value) <= 12;
    }
    return set_number(o, text, len, value);
}

static struct options parse(int argc, char **argv)
{
    struct options o = {
        .prefix = "bench:",
        .connections = 50,
        .pipeline = 1,
        .keys = 100000,
        .value = 32,
        .count = 10,
        .writes = 10,
        .resp = 2,
        .seed = 1,
        .zipf = 0.99,
        .seconds = 1,
        .warmup = 0.2,
    };
    if (argc < 2)
        usage();
    o.address = argv[1];
    for (int i = 2; i < argc; i++) {
        if (!set_one(&o, argv[i])) {
            fprintf(stderr, "loadgen: %s: not a setting\n", argv[i]);
            usage();
        }
    }
    return o;
}

/* True for a run that ends by itself. */
static bool ends_itself(const struct options *o)
{
    return o->op == LOAD || o->op == WARM || o->hold;
}

/* ---- which key comes next ---- */

/* Zipf's law after Gray et al., "Quickly generating billion-record synthetic databases". */
struct popularity {
    uint64_t random, keys, in_order;
    bool ordered;
    double zipf, zeta, alpha, eta;
};

static struct popularity popularity_new(const struct options *o)
{
    struct popularity p = {.random = o->seed, .keys = o->keys, .zipf = o->zipf};
    p.ordered = o->op == LOAD || o->op == WARM;
    if (p.zipf <= 0 || p.ordered)
        return p;
    if (fabs(p.zipf - 1) < 1e-6)
        p.zipf = 1 - 1e-6;
    for (uint64_t i = 1; i <= p.keys; i++)
        p.zeta += pow((double)i, -p.zipf);
    p.alpha = 1 / (1 - p.zipf);
    p.eta = (1 - pow(2.0 / (double)p.keys, 1 - p.zipf)) / (1 - (1 + pow(2, -p.zipf)) / p.zeta);
    return p;
}

/* The rank of a key, 0 for the most popular. */
static uint64_t next_rank(struct popularity *p)
{
    p->random += UINT64_C(0x9e3779b97f4a7c15);
    double u = (double)(mix(p->random) >> 11) * 0x1p-53;
    if (p->zipf <= 0)
        return (uint64_t)(u * (double)p->keys);
    if (u * p->zeta < 1)
        return 0;
    if (u * p->zeta < 1 + pow(0.5, p->zipf))
        return smaller(1, p->keys - 1);
    double rank = (double)p->keys * pow(p->eta * u - p->eta + 1, p->alpha);
    return smaller((uint64_t)rank, p->keys - 1);
}

/* Popular keys are no neighbours: the multiplier, a prime, scatters them. */
static uint32_t next_key(struct popularity *p)
{
    if (p->ordered)
        return (uint32_t)(p->in_order++ % p->keys);
    return (uint32_t)(next_rank(p) * UINT64_C(2654435761) % p->keys);
}

/* ---- the script: requests ready to be sent, and what their replies must be ---- */

/* A connection's batch is any row of `pipeline` requests in it: the first ones come again at the
 * end. */
struct script {
    char *bytes;
    size_t *at;      /* where each request begins, and where the last one ends */
    uint32_t *keys;  /* `per` for each request */
    bool *is_write;  /* of each request: it is answered by `status` */
    uint32_t n, per; /* requests without those that come again; keys of each */
    const char *prefix, *status;
    char *pattern;    /* noise that values are cut from */
    size_t value_len; /* of each */
    uint32_t spread;  /* distinct values */
    char value_head[24], array_head[24];
    size_t value_head_len, array_head_len;
    const char *nil;
};

static const char *value_of(const struct script *s, uint32_t key)
{
    return s->pattern + (mix(key) & (s->spread - 1));
}

static char *put(char *to, const char *bytes, size_t len)
{
    memcpy(to, bytes, len);
    return to + len;
}

static char *put_text(char *to, const char *text)
{
    return put(to, text, strlen(text));
}

static char *put_head(char *to, char kind, size_t n)
{
    return to + sprintf(to, "%c%zu\r\n", kind, n);
}

/* As a bulk string: the prefix, and the number with zeros before it. */
static char *put_key(const struct script *s, char *to, uint32_t key)
{
    size_t prefix = strlen(s->prefix);
    to = put(put_text(to, "$24\r\n"), s->prefix, prefix);
    for (size_t i = KEY_LEN - prefix; i-- > 0; key /= 10)
        to[i] = (char)('0' + key % 10);
    return put_text(to + KEY_LEN - prefix, "\r\n");
}

static char *put_set(const struct script *s, char *to, uint32_t key)
{
    to = put_key(s, put_text(to, "*3\r\n$3\r\nSET\r\n"), key);
    to = put(to, s->value_head, s->value_head_len);
    return put_text(put(to, value_of(s, key), s->value_len), "\r\n");
}

static char *put_mget(const struct script *s, char *to, const uint32_t *keys)
{
    to = put_text(put_head(to, '*', 1 + s->per), "$4\r\nMGET\r\n");
    for (uint32_t i = 0; i < s->per; i++)
        to = put_key(s, to, keys[i]);
    return to;
}

static char *put_request(const struct script *s, char *to, enum op op, const uint32_t *keys)
{
    if (op == OP_PING)
        return put_text(to, PING);
    if (op == SET)
        return put_set(s, to, *keys);
    if (op == MGET)
        return put_mget(s, to, keys);
    return put_key(s, put_text(to, "*2\r\n$3\r\nGET\r\n"), *keys);
}

/* The command of a request, one of those of put_request(). */
static enum op choose(const struct options *o, uint32_t request)
{
    if (o->op == MIXED)
        return mix(o->seed ^ ((uint64_t)request << 20)) % 100 < o->writes ? SET : GET;
    return o->op == LOAD ? SET : o->op == WARM ? GET : o->op;
}

static uint32_t requests_of(const struct options *o, size_t longest)
{
    if (o->op == LOAD || o->op == WARM)
        return (uint32_t)o->keys;
    uint32_t n = smaller(SCRIPT_BYTES / longest, SCRIPT_REQUESTS);
    return n < 2 * o->pipeline ? (uint32_t)(2 * o->pipeline) : n;
}

static void describe_replies(struct script *s, const struct options *o)
{
    s->status = o->op == OP_PING ? PONG : OK;
    s->nil = o->resp == 3 ? "_\r\n" : "$-1\r\n";
    s->value_head_len = (size_t)(put_head(s->value_head, '$', s->value_len) - s->value_head);
    s->array_head_len = (size_t)(put_head(s->array_head, '*', s->per) - s->array_head);
}

static void make_pattern(struct script *s)
{
    s->pattern = must(malloc(s->value_len + SPREAD));
    fill_pattern(s->pattern, s->value_len + SPREAD);
}

static void write_script(struct script *s, const struct options *o, size_t all)
{
    struct popularity p = popularity_new(o);
    char *to = s->bytes;
    for (uint32_t i = 0; i < all; i++) {
        uint32_t *keys = s->keys + (size_t)i * s->per;
        enum op op = choose(o, i % s->n);
        for (uint32_t j = 0; j < s->per; j++)
            keys[j] = i < s->n ? next_key(&p) : keys[j - (size_t)s->n * s->per];
        s->at[i] = (size_t)(to - s->bytes);
        s->is_write[i] = op == SET || op == OP_PING;
        to = put_request(s, to, op, keys);
    }
    s->at[all] = (size_t)(to - s->bytes);
}

static struct script script_new(const struct options *o)
{
    struct script s = {.prefix = o->prefix, .value_len = o->value, .per = 1};
    bool writes = o->op == SET || o->op == MIXED || o->op == LOAD;
    s.per = o->op == MGET ? (uint32_t)o->count : 1;
    s.spread = o->constant ? 1 : SPREAD;
    size_t longest = 64 + (size_t)s.per * (KEY_LEN + 8) + (writes ? s.value_len : 0);
    s.n = requests_of(o, longest);
    size_t all = s.n + (size_t)o->pipeline;
    describe_replies(&s, o);
    make_pattern(&s);
    s.bytes = must(malloc(all * longest));
    s.at = must(calloc(all + 1, sizeof *s.at));
    s.keys = must(calloc(all * s.per, sizeof *s.keys));
    s.is_write = must(calloc(all, sizeof *s.is_write));
    write_script(&s, o, all);
    return s;
}

static void script_free(struct script *s)
{
    free(s->bytes);
    free(s->at);
    free(s->keys);
    free(s->is_write);
    free(s->pattern);
}

/* ---- how long it took ---- */

struct histogram {
    uint64_t n, max, buckets[BUCKETS];
};

static size_t bucket_of(uint64_t v)
{
    if (v < SUB)
        return (size_t)v;
    unsigned shift = 57 - (unsigned)__builtin_clzll(v); /* v >> shift is 64..127 */
    return SUB * shift + (size_t)(v >> shift);
}

/* The middle of a bucket. */
static double value_at(size_t bucket)
{
    if (bucket < SUB)
        return (double)bucket;
    size_t shift = bucket / SUB - 1;
    return ldexp((double)(SUB + bucket % SUB) + 0.5, (int)shift);
}

static void add(struct histogram *h, uint64_t v, uint64_t times)
{
    h->buckets[bucket_of(v)] += times;
    h->n += times;
    if (v > h->max)
        h->max = v;
}

/* In microseconds. */
static double percentile(const struct histogram *h, double part)
{
    uint64_t rank = (uint64_t)(part * (double)h->n), seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > rank)
            return fmin(value_at(i), (double)h->max) / 1000;
    }
    return 0;
}

/* ---- the CPU of other processes ---- */

/* Nanoseconds on a CPU, to the last; what the kernel did for it in system calls included. */
static uint64_t thread_cpu(const char *directory, const char *thread)
{
    char path[512];
    unsigned long long ns = 0;
    snprintf(path, sizeof path, "%s/%s/schedstat", directory, thread);
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;                    /* it has just ended */
    if (fscanf(f, "%llu", &ns) != 1) /* NOLINT(cert-err34-c): the kernel writes numbers */
        ns = 0;
    fclose(f);
    return ns;
}

static uint64_t process_cpu(int pid)
{
    char directory[64];
    uint64_t sum = 0;
    struct dirent *entry;
    snprintf(directory, sizeof directory, "/proc/%d/task", pid);
    DIR *d = opendir(directory);
    if (!d)
        die("%s", directory);
    while ((entry = readdir(d))) {
        if (entry->d_name[0] != '.')
            sum += thread_cpu(directory, entry->d_name);
    }
    closedir(d);
    return sum;
}

static uint64_t server_cpu(const struct options *o)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < o->n_pids; i++)
        sum += process_cpu(o->pids[i]);
    return sum;
}

static uint64_t own_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ---- connections ---- */

struct conn {
    int fd;
    bool visitor, watching; /* one of the churn; watching for room to write */
    const char *out, *end;  /* still to be sent */
    uint32_t first, batch;  /* the script's requests that were sent last; batch 0: idle */
    uint32_t answered;      /* of them */
    uint32_t item;          /* of the reply that is coming in: items complete, */
    size_t done;            /* and bytes of the next one */
    bool nil;               /* which is no value after all */
    uint64_t begun, due;
};

struct load {
    struct options o;
    struct script script;
    struct conn *conns; /* visitors behind the others */
    uint64_t n_conns, dialled;
    int epoll;
    struct sockaddr_storage address;
    socklen_t address_len;
    char *buffer;    /* READ_SIZE; one for all: replies are checked as they come */
    uint32_t cursor; /* the request that the next batch begins with */
    uint64_t left;   /* requests to be sent of a finite run */
    uint64_t under_way;
    uint64_t now;
    uint64_t step, interval; /* open loop: between two batches; between two of a connection */
    uint64_t turn, turn_due; /* which connection's turn is next, and when */
    bool measuring;
    uint64_t began, last, cpu, own; /* when the measured part began */
    struct histogram latency;
    uint64_t misses, bytes, visits;
};

static void resolve(struct load *l)
{
    const char *text = l->o.address, *colon = strrchr(text, ':');
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&l->address;
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof un->sun_path, "%s", text + 5);
        l->address_len = sizeof *un;
        return;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)&l->address;
    char host[64];
    if (!colon || (size_t)(colon - text) >= sizeof host)
        die("%s: not host:port or unix:/path", text);
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, host, &in->sin_addr) != 1)
        die("%s: not an IPv4 address", host);
    l->address_len = sizeof *in;
}

/* A visitor comes from another address of the loopback interface each time. */
static void choose_source(const struct load *l, int fd)
{
    const struct sockaddr_in *to = (const struct sockaddr_in *)&l->address;
    struct sockaddr_in from = {.sin_family = AF_INET};
    int on = 1;
    if (ntohl(to->sin_addr.s_addr) != INADDR_LOOPBACK)
        return;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(l->dialled % SOURCES));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
        die("bind");
}

static void unblock(int fd)
{
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        die("fcntl");
}

/* A visitor doesn't wait for TCP's handshake. A unix socket's is short. */
static int dial(struct load *l, bool visitor)
{
    int on = 1, fd = socket(l->address.ss_family, SOCK_STREAM, 0);
    if (fd < 0)
        die("socket");
    l->dialled++;
    if (l->address.ss_family == AF_INET) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (visitor) {
            choose_source(l, fd);
            unblock(fd);
        }
    }
    if (connect(fd, (struct sockaddr *)&l->address, l->address_len) < 0 && errno != EINPROGRESS)
        die("connect to %s, connection %" PRIu64, l->o.address, l->dialled);
    return fd;
}

/* The length of HELLO's reply is not known, that of a PONG behind it is. */
static void ask_for_resp3(int fd)
{
    static const char ask[] = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n";
    char reply[8192];
    size_t len = 0, pong = sizeof PONG - 1;
    if (write(fd, ask, sizeof ask - 1) != sizeof ask - 1)
        die("write");
    while (len < pong || memcmp(reply + len - pong, PONG, pong) != 0) {
        ssize_t n = len < sizeof reply ? read(fd, reply + len, sizeof reply - len) : 0;
        if (n <= 0)
            die("no reply to HELLO 3");
        len += (size_t)n;
    }
    if (reply[0] != '%')
        die("HELLO 3 was refused: %.*s", (int)strcspn(reply, "\r"), reply);
}

static void watch(struct load *l, struct conn *c, int operation, bool room)
{
    struct epoll_event event = {.events = EPOLLIN | (room ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(l->epoll, operation, c->fd, &event) < 0)
        die("epoll_ctl");
    c->watching = room;
}

static void open_conn(struct load *l, struct conn *c)
{
    c->fd = dial(l, false);
    if (l->o.resp == 3)
        ask_for_resp3(c->fd);
    unblock(c->fd);
    watch(l, c, EPOLL_CTL_ADD, false);
}

static void open_visitor(struct load *l, struct conn *c)
{
    *c = (struct conn){.fd = dial(l, true), .visitor = true, .batch = 1};
    c->out = PING;
    c->end = PING + sizeof PING - 1;
    unblock(c->fd);
    watch(l, c, EPOLL_CTL_ADD, true);
}

static void flush(struct load *l, struct conn *c)
{
    while (c->out < c->end) {
        ssize_t n = write(c->fd, c->out, (size_t)(c->end - c->out));
        if (n < 0 && errno != EAGAIN)
            die("write");
        if (n < 0)
            break;
        c->out += n;
    }
    if (c->watching != (c->out < c->end))
        watch(l, c, EPOLL_CTL_MOD, c->out < c->end);
}

/* ---- batches ---- */

static void begin(struct load *l, struct conn *c, uint64_t at)
{
    const struct script *s = &l->script;
    assert(c->batch == 0 && c->out == c->end);
    c->first = l->cursor;
    c->batch = smaller(l->o.pipeline, l->left);
    c->answered = 0;
    c->begun = at;
    c->out = s->bytes + s->at[c->first];
    c->end = s->bytes + s->at[c->first + c->batch];
    l->cursor = (l->cursor + c->batch) % s->n;
    if (ends_itself(&l->o))
        l->left -= c->batch;
    l->under_way++;
    flush(l, c);
}

/* An idle connection's next batch, if it is time. */
static void begin_if_due(struct load *l, struct conn *c)
{
    if (l->left == 0 || (l->interval && c->due > l->now))
        return;
    begin(l, c, l->interval ? c->due : l->now);
    c->due += l->interval;
}

static void finish(struct load *l, struct conn *c)
{
    if (c->visitor) {
        l->visits += l->measuring;
        close(c->fd);
        open_visitor(l, c);
        return;
    }
    c->batch = 0;
    l->under_way--;
    begin_if_due(l, c);
}

/* Open loop: the connections take turns. One that is still busy then begins when it is not. */
static void take_turns(struct load *l)
{
    if (!l->interval)
        return;
    for (; l->turn_due <= l->now; l->turn = (l->turn + 1) % l->o.connections) {
        if (l->conns[l->turn].batch == 0)
            begin_if_due(l, &l->conns[l->turn]);
        l->turn_due += l->step;
    }
}

/* ---- replies ---- */

/* A part of a reply: a line, or a value between its head and a line's end. */
struct item {
    const char *head, *value; /* value NULL: a line */
    size_t head_len, value_len;
};

static struct item line(const char *text, size_t len)
{
    return (struct item){text, NULL, len, 0};
}

static uint32_t items_of(const struct script *s)
{
    return s->per > 1 ? 1 + s->per : 1;
}

static struct item next_item(const struct load *l, const struct conn *c)
{
    const struct script *s = &l->script;
    size_t request = (size_t)c->first + c->answered;
    if (c->visitor)
        return line(PONG, sizeof PONG - 1);
    if (s->is_write[request])
        return line(s->status, strlen(s->status));
    if (s->per > 1 && c->item == 0)
        return line(s->array_head, s->array_head_len);
    uint32_t key = s->keys[request * s->per + c->item - (s->per > 1)];
    return (struct item){s->value_head, value_of(s, key), s->value_head_len, s->value_len};
}

static void item_done(const struct load *l, struct conn *c)
{
    c->done = 0;
    c->nil = false;
    if (++c->item == items_of(&l->script) || c->visitor) {
        c->item = 0;
        c->answered++;
    }
}

static void wrong(const struct conn *c, const char *p, const char *end)
{
    fprintf(stderr, "loadgen: wrong reply to request %u of %u, part %u, after %zu bytes: '",
            c->answered + 1, c->batch, c->item, c->done);
    for (const char *shown = p + 80; p < end && p < shown; p++)
        fprintf(stderr, *p >= ' ' && *p <= '~' ? "%c" : "\\x%02x", (unsigned char)*p);
    fputs("'\n", stderr);
    exit(EXIT_WRONG);
}

/* A line that begins so, where a value ought to, says that there is none. */
static bool turns_nil(const struct script *s, const struct conn *c, char byte)
{
    size_t differs = s->nil[0] == '_' ? 0 : 1;
    return c->done == differs && byte == s->nil[differs];
}

/* The bytes of an item from c->done on, as many as lie together. */
static const char *expected(const struct item *i, const struct conn *c, size_t *len)
{
    size_t at = c->done;
    if (at < i->head_len) {
        *len = i->head_len - at;
        return i->head + at;
    }
    at -= i->head_len;
    if (at < i->value_len) {
        *len = i->value_len - at;
        return i->value + at;
    }
    *len = 2 - (at - i->value_len);
    return &line_end[at - i->value_len];
}

static size_t length_of(const struct item *i)
{
    return i->head_len + i->value_len + (i->value ? 2 : 0);
}

/* Compares what has come of an item; returns what comes behind that. */
static const char *check_slowly(struct load *l, struct conn *c, struct item i, const char *p,
                                const char *end)
{
    while (p < end) {
        size_t len;
        if (i.value && turns_nil(&l->script, c, *p))
            c->nil = true;
        if (c->nil)
            i = line(l->script.nil, strlen(l->script.nil));
        const char *want = expected(&i, c, &len);
        len = smaller(len, (uint64_t)(end - p));
        if (c->done == 0)
            len = 1; /* the first byte alone may not tell whether it is a value */
        if (memcmp(p, want, len) != 0)
            wrong(c, p, end);
        c->done += len;
        p += len;
        if (c->done == length_of(&i)) {
            l->misses += c->nil && l->measuring;
            item_done(l, c);
            break;
        }
    }
    return p;
}

static const char *check(struct load *l, struct conn *c, const char *p, const char *end)
{
    struct item i = next_item(l, c);
    size_t len = length_of(&i);
    const char *value = p + i.head_len;
    if (c->done > 0 || (size_t)(end - p) < len || memcmp(p, i.head, i.head_len) != 0)
        return check_slowly(l, c, i, p, end);
    if (i.value &&
        (memcmp(value, i.value, i.value_len) != 0 || memcmp(value + i.value_len, "\r\n", 2) != 0))
        wrong(c, p, end);
    item_done(l, c);
    return p + len;
}

static void received(struct load *l, struct conn *c, const char *p, size_t n)
{
    const char *end = p + n;
    uint32_t before = c->answered;
    l->now = l->last = clock_now();
    while (p < end && c->answered < c->batch)
        p = check(l, c, p, end);
    if (p < end) {
        fputs("loadgen: more than was asked for\n", stderr);
        wrong(c, p, end);
    }
    if (!l->measuring)
        return;
    l->bytes += n;
    if (!c->visitor && c->answered > before)
        add(&l->latency, l->now - c->begun, c->answered - before);
}

static void readable(struct load *l, struct conn *c)
{
    ssize_t n;
    do {
        n = read(c->fd, l->buffer, READ_SIZE);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            die("the server has closed connection %td", c - l->conns);
        received(l, c, l->buffer, (size_t)n);
        if (c->answered == c->batch) {
            finish(l, c);
            return;
        }
    } while (n == READ_SIZE);
}

/* ---- the run ---- */

static void start(struct load *l)
{
    l->epoll = epoll_create1(0);
    l->n_conns = l->o.connections + l->o.churn;
    l->conns = must(calloc(l->n_conns + 1, sizeof *l->conns));
    l->buffer = must(malloc(READ_SIZE));
    resolve(l);
    l->left = l->o.hold ? l->o.connections * l->o.pipeline : l->o.keys;
    l->measuring = ends_itself(&l->o);
    if (l->o.rate > 0 && !ends_itself(&l->o))
        l->step = nanoseconds((double)l->o.pipeline / l->o.rate);
    l->interval = l->step * l->o.connections;
    for (uint64_t i = 0; i < l->o.connections; i++)
        open_conn(l, &l->conns[i]);
    l->began = l->last = l->now = l->turn_due = clock_now();
    l->cursor = ends_itself(&l->o) ? 0 : (uint32_t)(mix(l->o.seed) % l->script.n);
    for (uint64_t i = 0; i < l->o.connections; i++) {
        l->conns[i].due = l->now + i * l->step;
        begin_if_due(l, &l->conns[i]);
    }
    for (uint64_t i = l->o.connections; i < l->n_conns; i++)
        open_visitor(l, &l->conns[i]);
}

static void start_measuring(struct load *l)
{
    l->measuring = true;
    l->cpu = server_cpu(&l->o);
    l->own = own_cpu();
    l->began = l->now = clock_now();
}

/* Also tells the time: false when it is over. */
static bool goes_on(struct load *l)
{
    l->now = clock_now();
    if (ends_itself(&l->o))
        return l->under_way > 0;
    if (!l->measuring && l->now - l->began >= nanoseconds(l->o.warmup))
        start_measuring(l);
    return !l->measuring || l->now - l->began < nanoseconds(l->o.seconds);
}

static struct timespec patience(const struct load *l)
{
    uint64_t ns = SECOND / 10;
    if (l->interval)
        ns = l->turn_due > l->now ? smaller(l->turn_due - l->now, ns) : 0;
    return (struct timespec){0, (long)ns};
}

static void turn(struct load *l)
{
    struct epoll_event events[EVENTS];
    struct timespec timeout = patience(l);
    int n = epoll_pwait2(l->epoll, events, EVENTS, &timeout, NULL);
    if (n < 0 && errno != EINTR)
        die("epoll_pwait2");
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            flush(l, c);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            readable(l, c);
    }
    errno = 0;
    if (l->under_way > 0 && l->now > l->last + STALLED * SECOND)
        die("no reply for %d seconds", STALLED);
}

static double part(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void report(const struct load *l)
{
    const struct histogram *h = &l->latency;
    double wall = (double)(l->now - l->began) / 1000,
           cpu = (double)(server_cpu(&l->o) - l->cpu) / 1000;
    double own = (double)(own_cpu() - l->own) / 1000, n = (double)h->n;
    printf("ops=%" PRIu64 " ops_s=%.0f us_op=%.4f busy=%.1f own_us_op=%.4f own_busy=%.1f ", h->n,
           n / wall * 1e6, part(cpu, n), cpu / wall * 100, part(own, n), own / wall * 100);
    printf("p50=%.1f p99=%.1f p999=%.1f max=%.1f ", percentile(h, 0.5), percentile(h, 0.99),
           percentile(h, 0.999), (double)h->max / 1000);
    printf("mb_s=%.1f misses=%" PRIu64 " visits=%" PRIu64 " visits_s=%.0f us_visit=%.3f\n",
           (double)l->bytes / wall, l->misses, l->visits, (double)l->visits / wall * 1e6,
           part(cpu, (double)l->visits));
}

static void report_finite(const struct load *l)
{
    printf("%s=%" PRIu64 " seconds=%.3f\n", l->o.hold ? "held" : "keys",
           l->o.hold ? l->o.connections : l->o.keys, (double)(l->now - l->began) / (double)SECOND);
    fflush(stdout);
    if (l->o.hold) {
        while (getchar() != EOF)
            ;
    }
}

int main(int argc, char **argv)
{
    struct load l = {.o = parse(argc, argv)};
    signal(SIGPIPE, SIG_IGN);
    errno = 0;
    l.script = script_new(&l.o);
    start(&l);
    while (goes_on(&l)) {
        take_turns(&l);
        turn(&l);
    }
    if (ends_itself(&l.o))
        report_finite(&l);
    else
        report(&l);
    script_free(&l.script);
    free(l.conns);
    free(l.buffer);
    return EXIT_SUCCESS;
}
