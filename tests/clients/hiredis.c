/* hiredis.c - hiredis, synchronously: RESP2, and RESP3 where the version reads it (1.0 and up). */
#include <hiredis/hiredis.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEYS  500
#define LARGE 5000000

static int failures;

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s, line %d: %s\n", __func__, __LINE__, #what);                       \
            failures++;                                                                            \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* Sends a command and holds its reply until the next call. */
#define CALL(c, ...) call(redisCommand(c, __VA_ARGS__))

static redisReply *call(void *reply)
{
    static redisReply none = {.type = -1};
    static redisReply *last;
    if (last)
        freeReplyObject(last);
    last = reply;
    return last ? last : &none;
}

static int is(const redisReply *reply, int type, const char *text)
{
    if (reply->type == type && strcmp(reply->str, text) == 0)
        return 1;
    fprintf(stderr, "expected %s, got type %d: %s\n", text, reply->type,
            reply->type > 0 && reply->str ? reply->str : "");
    return 0;
}

static int is_status(const redisReply *reply, const char *text)
{
    return is(reply, REDIS_REPLY_STATUS, text);
}

static int is_string(const redisReply *reply, const char *text)
{
    return is(reply, REDIS_REPLY_STRING, text);
}

static int is_error(const redisReply *reply, const char *prefix)
{
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, prefix, strlen(prefix)) == 0;
}

static int is_integer(const redisReply *reply, long long n)
{
    return reply->type == REDIS_REPLY_INTEGER && reply->integer == n;
}

static redisContext *dial(const char *host, int port)
{
    redisContext *c = redisConnectWithTimeout(host, port, (struct timeval){10, 0});
    if (!c)
        abort();
    if (!c->err)
        redisSetTimeout(c, (struct timeval){15, 0});
    return c;
}

static redisContext *connected(void)
{
    redisContext *c = dial(getenv("REDIS_HOST"), atoi(getenv("REDIS_PORT")));
    if (!c->err)
        CALL(c, "AUTH %s", getenv("REDIS_PASSWORD"));
    return c;
}

static void connecting(redisContext *c)
{
    CHECK(is_status(CALL(c, "PING"), "PONG"));
    char host[64];
    int port;
    CHECK(sscanf(getenv("REDIS_OPEN_URL"), "redis://%63[^:]:%d/0", host, &port) == 2);
    redisContext *open = dial(host, port);
    CHECK(is_status(CALL(open, "PING"), "PONG"));
    redisFree(open);
    redisContext *nobody = dial(getenv("REDIS_HOST"), atoi(getenv("REDIS_PORT")));
    CHECK(is_error(CALL(nobody, "GET k"), "NOAUTH "));
    CHECK(is_error(CALL(nobody, "AUTH wrong"), "WRONGPASS "));
    redisFree(nobody);
}

static void pipeline(redisContext *c)
{
    for (int i = 0; i < KEYS; i++) {
        redisAppendCommand(c, "SET key:%d %d", i, i);
        redisAppendCommand(c, "GET key:%d", i);
    }
    for (int i = 0; i < KEYS; i++) {
        char text[16];
        void *reply = NULL;
        snprintf(text, sizeof text, "%d", i);
        CHECK(redisGetReply(c, &reply) == REDIS_OK && is_status(call(reply), "OK"));
        CHECK(redisGetReply(c, &reply) == REDIS_OK && is_string(call(reply), text));
    }
    CHECK(is_error(CALL(c, "LPUSH key:1 x"), "WRONGTYPE "));
}

static void transaction(redisContext *c)
{
    redisContext *other = connected();
    CALL(c, "SET counter 1");
    CHECK(is_status(CALL(c, "WATCH counter"), "OK"));
    CHECK(is_status(CALL(c, "MULTI"), "OK"));
    CHECK(is_status(CALL(c, "INCR counter"), "QUEUED"));
    CHECK(is_status(CALL(c, "LPUSH counter x"), "QUEUED"));
    const redisReply *exec = CALL(c, "EXEC");
    CHECK(exec->type == REDIS_REPLY_ARRAY && exec->elements == 2);
    CHECK(is_integer(exec->element[0], 2) && is_error(exec->element[1], "WRONGTYPE "));
    CALL(c, "WATCH counter");
    CALL(other, "SET counter 10");
    CALL(c, "MULTI");
    CALL(c, "INCR counter");
    CHECK(CALL(c, "EXEC")->type == REDIS_REPLY_NIL);
    CHECK(is_string(CALL(c, "GET counter"), "10"));
    CALL(c, "MULTI");
    CHECK(is_error(CALL(c, "SET"), "ERR wrong number"));
    CHECK(is_error(CALL(c, "EXEC"), "EXECABORT "));
    redisFree(other);
}

/* Does INFO tell of a blocked client within 20 s? */
static int someone_blocks(redisContext *c)
{
    const struct timespec moment = {.tv_nsec = 10000000};
    for (int i = 0; i < 2000; i++) {
        const redisReply *info = CALL(c, "INFO clients");
        if (info->str && strstr(info->str, "blocked_clients:1"))
            return 1;
        nanosleep(&moment, NULL);
    }
    return 0;
}

static void blocking_pop(redisContext *c)
{
    pid_t child = fork();
    if (child == 0) {
        redisContext *own = connected();
        _exit(someone_blocks(own) && is_integer(CALL(own, "RPUSH list:b pushed"), 1) ? 0 : 1);
    }
    const redisReply *popped = CALL(c, "BLPOP list:a list:b 10");
    CHECK(popped->type == REDIS_REPLY_ARRAY && popped->elements == 2);
    CHECK(is_string(popped->element[0], "list:b") && is_string(popped->element[1], "pushed"));
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(CALL(c, "BLPOP list:a 0.1")->type == REDIS_REPLY_NIL);
    CHECK(is_string(CALL(c, "GET key:3"), "3"));
}

/* The next message, of `elements`; its text and type are compared. */
static int hears(redisContext *c, size_t elements, const char *kind, const char *last)
{
    void *reply = NULL;
    if (redisGetReply(c, &reply) != REDIS_OK)
        return 0;
    const redisReply *message = call(reply);
    return message->elements == elements && is_string(message->element[0], kind) &&
           (!last || is_string(message->element[elements - 1], last));
}

static void pubsub(redisContext *c)
{
    redisContext *subscriber = connected();
    redisAppendCommand(subscriber, "SUBSCRIBE news");
    redisAppendCommand(subscriber, "PSUBSCRIBE n*");
    CHECK(hears(subscriber, 3, "subscribe", NULL) && hears(subscriber, 3, "psubscribe", NULL));
    CHECK(is_integer(CALL(c, "PUBLISH news hello"), 2));
    CHECK(hears(subscriber, 3, "message", "hello") && hears(subscriber, 4, "pmessage", "hello"));
    redisAppendCommand(subscriber, "UNSUBSCRIBE");
    redisAppendCommand(subscriber, "PUNSUBSCRIBE");
    CHECK(hears(subscriber, 3, "unsubscribe", NULL) && hears(subscriber, 3, "punsubscribe", NULL));
    CHECK(is_string(CALL(subscriber, "GET key:4"), "4"));
    redisFree(subscriber);
}

static void scan(redisContext *c)
{
    char cursor[32] = "0";
    char seen[KEYS] = {0};
    CALL(c, "FLUSHDB");
    for (int i = 0; i < KEYS; i++)
        CHECK(is_status(CALL(c, "SET key:%d x", i), "OK"));
    do {
        const redisReply *reply = CALL(c, "SCAN %s COUNT 50", cursor);
        CHECK(reply->type == REDIS_REPLY_ARRAY && reply->elements == 2);
        snprintf(cursor, sizeof cursor, "%s", reply->element[0]->str);
        for (size_t i = 0; i < reply->element[1]->elements; i++) {
            int n = -1;
            CHECK(sscanf(reply->element[1]->element[i]->str, "key:%d", &n) == 1);
            CHECK(n >= 0 && n < KEYS);
            seen[n] = 1;
        }
    } while (strcmp(cursor, "0") != 0);
    CHECK(memchr(seen, 0, KEYS) == NULL);
    CHECK(is_integer(CALL(c, "DBSIZE"), KEYS));
}

static void script(redisContext *c)
{
    const char *text = "return redis.call('INCRBY', KEYS[1], ARGV[1]) * 2";
    char sha[41];
    CALL(c, "SET n 20");
    CHECK(is_error(CALL(c, "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0"), "NOSCRIPT "));
    snprintf(sha, sizeof sha, "%s", CALL(c, "SCRIPT LOAD %s", text)->str);
    CHECK(is_integer(CALL(c, "EVALSHA %s 1 n 1", sha), 42));
    CHECK(is_integer(CALL(c, "EVAL %s 1 n 1", text), 44));
}

static void large_and_binary(redisContext *c)
{
    const char key[] = "\0\1\r\n$*\377\376\200";
    char *value = malloc(LARGE);
    if (!value)
        abort();
    for (int i = 0; i < LARGE; i++)
        value[i] = (char)(i % 251);
    CHECK(is_status(CALL(c, "SET %b %b", key, sizeof key, value, (size_t)LARGE), "OK"));
    for (int i = 0; i < 2; i++) { // asked of Redis, and again
        const redisReply *reply = CALL(c, "GET %b", key, sizeof key);
        CHECK(reply->type == REDIS_REPLY_STRING && reply->len == LARGE);
        CHECK(memcmp(reply->str, value, LARGE) == 0);
    }
    free(value);
}

#if HIREDIS_MAJOR >= 1
static void resp3(redisContext *c)
{
    redisContext *three = connected();
    CHECK(CALL(three, "HELLO 3")->type == REDIS_REPLY_MAP);
    CALL(three, "HSET hash a 1");
    const redisReply *map = CALL(three, "HGETALL hash");
    CHECK(map->type == REDIS_REPLY_MAP && map->elements == 2 && is_string(map->element[1], "1"));
    CALL(three, "ZADD scores 1.5 m");
    const redisReply *score = CALL(three, "ZSCORE scores m");
    CHECK(score->type == REDIS_REPLY_DOUBLE && score->dval == 1.5);
    CHECK(CALL(three, "GET missing")->type == REDIS_REPLY_NIL);
    CALL(three, "SADD set x");
    CHECK(CALL(three, "SMEMBERS set")->type == REDIS_REPLY_SET);
    CALL(three, "MULTI");
    CALL(three, "HGETALL hash");
    const redisReply *exec = CALL(three, "EXEC");
    CHECK(exec->elements == 1 && exec->element[0]->type == REDIS_REPLY_MAP);
    redisSetPushCallback(three, NULL); // pushes come as replies
    CHECK(CALL(three, "SUBSCRIBE news")->type == REDIS_REPLY_PUSH);
    CALL(c, "PUBLISH news hello");
    CHECK(hears(three, 3, "message", "hello"));
    CHECK(is_string(CALL(three, "HGET hash a"), "1")); // while subscribed
    redisFree(three);
}
#else
static void resp3(redisContext *c)
{
    (void)c; // hiredis 0.14 reads RESP2 only
}
#endif

static void reconnect(redisContext *c)
{
    char line[16];
    puts("restart");
    fflush(stdout);
    CHECK(fgets(line, sizeof line, stdin) != NULL && strcmp(line, "restarted\n") == 0);
    CHECK(redisCommand(c, "PING") == NULL && c->err != 0);
    CHECK(redisReconnect(c) == REDIS_OK);
    CALL(c, "AUTH %s", getenv("REDIS_PASSWORD"));
    CHECK(is_status(CALL(c, "SET k again"), "OK"));
    CHECK(is_string(CALL(c, "GET k"), "again"));
}

int main(void)
{
    printf("version %d.%d.%d\n", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
    fflush(stdout);
    redisContext *c = connected();
    connecting(c);
    pipeline(c);
    transaction(c);
    blocking_pop(c);
    pubsub(c);
    scan(c);
    script(c);
    large_and_binary(c);
    resp3(c);
    reconnect(c);
    call(NULL);
    redisFree(c);
    return failures != 0;
}
