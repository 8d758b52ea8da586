/* commands.c - what the clients of a script say. */
#include "commands.h"

#include <stdio.h>
#include <string.h>

/* A blank stands between arguments; %k and %K are keys, %v is a word that nobody else says, %c a
 * channel, %p a database, %i a client's number, %t some milliseconds, %h a hexadecimal digit. */
static const char *const usual[] = {
    "GET %k",
    "SET %k %v",
    "MGET %k %K k2",
    "ECHO %v",
    "PING",
    "DEL %k",
    "GET %K",
    "SET %k %v PX %t",
    "MSET %k %v %K %v",
    "HGET %k f",
    "STRLEN %k",
    "EXISTS %k",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH %k",
    "UNWATCH",
    "SELECT %p",
    "HELLO 3",
    "HELLO 2",
    "INCR %k",
    "APPEND %k %v",
    "BLPOP %k 0",
    "BLMOVE %k %K LEFT LEFT 0",
    "XREAD STREAMS %k 0",
    "XREAD BLOCK 0 STREAMS %k $",
    "EVAL return 1 %k",
    "EVAL return 0",
    "SUBSCRIBE %c",
    "SUBSCRIBE %c other",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE %c",
    "PSUBSCRIBE n*",
    "PUNSUBSCRIBE",
    "SSUBSCRIBE %c",
    "SUNSUBSCRIBE",
    "PUBLISH %c %v",
    "SPUBLISH %c %v",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON BCAST",
    "CLIENT TRACKING ON BCAST PREFIX k PREFIX x",
    "CLIENT TRACKING ON REDIRECT %i",
    "CLIENT TRACKING ON OPTIN",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKINGINFO",
    "CLIENT GETREDIR",
    "CLIENT CACHING YES",
    "CLIENT REPLY OFF",
    "CLIENT REPLY ON",
    "CLIENT REPLY SKIP",
    "CLIENT ID",
    "CLIENT LIST",
    "CLIENT LIST ID %i %i",
    "CLIENT LIST TYPE pubsub",
    "CLIENT INFO",
    "CLIENT KILL ID %i",
    "CLIENT KILL TYPE normal SKIPME no",
    "CLIENT UNBLOCK %i",
    "CLIENT UNBLOCK %i ERROR",
    "CLIENT PAUSE %t",
    "CLIENT UNPAUSE",
    "CLIENT SETNAME %v",
    "CLIENT GETNAME",
    "CLIENT SETINFO lib-name %v",
    "CLIENT NO-EVICT ON",
    "CLIENT NO-TOUCH ON",
    "MONITOR",
    "RESET",
    "QUIT",
    "AUTH hush",
    "AUTH default hush",
    "HELLO 3 AUTH default hush SETNAME %v",
    "HELLO 4",
    "KEYS *",
    "SCAN 0",
    "SCAN 0 MATCH k* COUNT 5",
    "DBSIZE",
    "RANDOMKEY",
    "FLUSHDB",
    "FLUSHALL ASYNC",
    "INFO",
    "INFO nearcache",
    "INFO server nearcache",
    "NEARCACHE STATS",
    "NEARCACHE KEY %k",
    "NEARCACHE FLUSH",
    "NEARCACHE FLUSH k",
    "NEARCACHE HELP",
    "CONFIG GET *",
    "CONFIG SET maxmemory 1",
    "SLOWLOG GET",
    "SLOWLOG GET 1",
    "PUBSUB CHANNELS",
    "PUBSUB NUMSUB %c",
    "PUBSUB NUMPAT",
    "COMMAND GETKEYS GET %k",
    "COMMAND GETKEYSANDFLAGS SET %k %v",
    "COMMAND",
    "SORT %k BY w_* GET g_*->f STORE %K",
    "SWAPDB 0 1",
    "COPY %k %K",
    "RENAME %k %K",
    "GETDEL %k",
    "GETEX %k",
    "EXPIRE %k 1",
    "LMPOP 1 %k LEFT",
    "BLMPOP 0 2 %k %K LEFT",
    "BZPOPMIN %k 0",
    "XREADGROUP GROUP g c STREAMS %k >",
    "XREADGROUP GROUP g c BLOCK 0 STREAMS %k >",
    "XADD %k * f v",
    "WAIT 0 0",
    "WAITAOF 0 0 0",
    "FCALL f 1 %k",
    "FCALL_RO f 1 %k",
    "SCRIPT LOAD return",
    "SCRIPT DEBUG YES",
    "FUNCTION LIST",
    "HGETALL %k",
    "HMGET %k f g",
    "SMISMEMBER %k a b",
    "LPOS %k a COUNT 2",
    "GETRANGE %k 0 5",
    "LRANGE %k 0 -1",
    "TYPE %k",
    "TTL %k",
    "PTTL %k",
    "OBJECT ENCODING %k",
    "OBJECT HELP",
    "PUBLISH cache:invalidate:l1 %k",
    "PUBLISH cache:invalidate {\"service\":\"svc\",\"key\":\"k0\",\"timestamp\":1}",
    "PUBLISH cache:invalidate {\"service\":\"svc\",\"prefix\":\"k\",\"timestamp\":1}",
    "SUBSCRIBE cache:invalidate __redis__:invalidate",
    "PSUBSCRIBE __key*",
    "ext.get %k",
    "ext.set %k %v",
    "ext.box get %k",
    "ext.many 2 %k %K",
    "ext.word x KEYS %k",
    "ext.some %k",
    "ext.any %k",
    "ext.wait %k",
    "unheard of",
    "GET",
    "EXEC now",
    "MIGRATE h 1 %k 0 1 AUTH p",
    "SHUTDOWN",
    "DEBUG SLEEP 0",
    "ACL WHOAMI",
    "PING %v",
    "MGET %k %k %k %k",
    "MGET %k %K k0 k1 k2 k3 xB yB",
    "SETRANGE %k 0 v",
    "UNLINK %k %K",
    "LPUSH %k %v",
    "CLIENT TRACKING ON REDIRECT %i BCAST",
    "CLIENT KILL 192.0.2.1:%i",
    "CLIENT LIST TYPE",
    "MSET 0M %v 1M %v 2M %v 3M %v 4M %v 5M %v 6M %v 7M %v",
    "MSET 8M %v 9M %v aM %v bM %v cM %v dM %v eM %v fM %v",
    "MGET 0M 1M 2M 3M 4M 5M 6M 7M",
    "MGET 8M 9M aM bM cM dM eM fM",
    "GET %hM",
    "SET %hM %v",
};

static const char *const keys[] = {"k0", "k1", "k2", "k3", "xB", "yB", "zH", "\xff *\r\n"};
static const char *const channels[] = {"news", "n2", "cache:invalidate", "__keyspace@0__:k0"};
static const unsigned waits[] = {1, 100, 300, 1000, 5000, 0, 60000, 1000000};

struct resp_slice commands_key(uint8_t choice)
{
    return slice_of(keys[choice % 8]);
}

struct resp_slice commands_channel(uint8_t choice)
{
    return slice_of(channels[choice % 4]);
}

static size_t put(char *at, size_t room, char letter, uint8_t choice, struct speaker who)
{
    int n = 0;
    switch (letter) {
    case 'k':
        n = snprintf(at, room, "%s", keys[choice % 8]);
        break;
    case 'K':
        n = snprintf(at, room, "%s", keys[choice / 8 % 8]);
        break;
    case 'v':
        n = snprintf(at, room, "n.%u.%u", who.slot, who.seq);
        break;
    case 'c':
        n = snprintf(at, room, "%s", channels[choice % 4]);
        break;
    case 'p':
        n = snprintf(at, room, "%u", choice % 32 == 31 ? 99U : choice % 4U);
        break;
    case 'i':
        n = snprintf(at, room, "%u", choice % 8 + 1U);
        break;
    case 'h':
        n = snprintf(at, room, "%x", choice % 16U);
        break;
    case 't':
        n = snprintf(at, room, "%u", waits[choice / 8 % 8]);
        break;
    default:
        break;
    }
    return n > 0 ? (size_t)n : 0;
}

/* A long value, and commands of very many arguments: they take other ways. */
static void put_long(struct buffer *out, uint8_t choice)
{
    enum { LONG = 70 * 1000, MANY = 4100 };
    static const char *const forms[] = {"SET", "DEL", "MGET", "MSET", "PFCOUNT", "UNLINK"};
    const char *form = forms[choice % 6];
    size_t argc = choice % 6 == 0 ? 3 : MANY + 1;
    buffer_print(out, "*%zu\r\n", argc);
    buffer_bulk_text(out, form);
    for (size_t i = 1; i < argc; i++)
        if (argc > 3)
            buffer_bulk_text(out, keys[(choice / 6U + i) % 4]);
        else if (i == 1)
            buffer_bulk_text(out, keys[choice / 6U % 8]);
    if (argc > 3)
        return;
    buffer_print(out, "$%d\r\n", LONG);
    for (int i = 0; i < LONG; i++)
        buffer_add(out, &"abcdefg\r\n"[i % 9], 1);
    buffer_text(out, "\r\n");
}

/* One argument, its variables filled in. */
static struct resp_slice word(char text[128], const char *form, size_t len, uint8_t choice,
                              struct speaker who)
{
    size_t n = 0;
    for (size_t i = 0; i < len && n < 100; i++)
        if (form[i] == '%' && i + 1 < len)
            n += put(text + n, 128 - n, form[++i], choice, who);
        else
            text[n++] = form[i];
    return (struct resp_slice){text, n};
}

static void put_form(struct buffer *out, const char *form, uint8_t choice, struct speaker who)
{
    size_t argc = 1;
    for (const char *p = form; *p; p++)
        argc += *p == ' ';
    buffer_print(out, "*%zu\r\n", argc);
    for (const char *p = form; argc-- > 0;) {
        char text[128];
        size_t len = strcspn(p, " ");
        buffer_bulk(out, word(text, p, len, choice, who));
        p += len + 1;
    }
}

void commands_usual(struct buffer *out, unsigned which, uint8_t choice, struct speaker who)
{
    size_t n = sizeof usual / sizeof *usual;
    if (which % (n + 1) == n)
        put_long(out, choice);
    else
        put_form(out, usual[which % (n + 1)], choice, who);
}

/* --- any command --------------------------------------------------------------------------------
 */

struct search {
    size_t left;
    const struct command *found;
};

static void find(void *ctx, const struct command *command)
{
    struct search *s = ctx;
    if (s->left-- == 0)
        s->found = command;
}

/* As many arguments as it needs, and one or two more. */
void commands_any(struct buffer *out, const struct command_table *table, unsigned which,
                  struct speaker who)
{
    static const char *const words[] = {"%k", "1", "%K", "%v"};
    size_t n = command_table_count(table);
    struct search s = {.left = which % n};
    char form[256];
    command_table_each(table, find, &s);
    if (!s.found)
        return;
    size_t argc = (size_t)(s.found->arity < 0 ? -s.found->arity : s.found->arity);
    const char *bar = strchr(s.found->name, '|');
    size_t at = (size_t)snprintf(form, sizeof form, "%s", s.found->name), named = bar ? 2 : 1;
    if (bar)
        form[bar - s.found->name] = ' ';
    if (s.found->arity < 0)
        argc += which / n % 3;
    for (size_t i = named; i < argc && at < sizeof form - 8; i++)
        at += (size_t)snprintf(form + at, sizeof form - at, " %s",
                               words[(i - named + which / n / 3) % 4]);
    put_form(out, form, (uint8_t)(which >> 8), who);
}
