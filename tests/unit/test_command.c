/* test_command.c - the command table: lookup, columns, key walks, error texts, learning. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

enum { ARGS_MAX = 32 };

static struct command_table *table;
static struct command_keys keys;

static void set_up(void)
{
    table = command_table_new();
    ck_assert_ptr_nonnull(table);
}

static void tear_down(void)
{
    command_keys_free(&keys);
    command_table_free(table);
}

/* Splits at blanks; '' is the empty argument, a '~' stands for a NUL byte. */
struct line {
    char text[512];
    struct resp_slice argv[ARGS_MAX];
    size_t argc;
};

static struct line *split(struct line *l, const char *text)
{
    l->argc = 0;
    snprintf(l->text, sizeof l->text, "%s", text);
    for (char *save, *word = strtok_r(l->text, " ", &save); word;
         word = strtok_r(NULL, " ", &save)) {
        size_t len = strcmp(word, "''") == 0 ? 0 : strlen(word);
        for (char *p = word; *p; p++)
            if (*p == '~')
                *p = '\0';
        ck_assert_uint_lt(l->argc, ARGS_MAX);
        l->argv[l->argc++] = (struct resp_slice){word, len};
    }
    return l;
}

static const struct command *find(const char *text)
{
    struct line l;
    split(&l, text);
    return command_find(table, l.argv, l.argc);
}

/* "1r 3p 5w": argument 1 is read, 3 is a pattern, 5 is written ('u': both). */
static const char *listed(const char *text, char out[256])
{
    struct line l;
    split(&l, text);
    const struct command *c = command_find(table, l.argv, l.argc);
    ck_assert_msg(c != NULL, "%s", text);
    switch (command_list_keys(c, l.argv, l.argc, &keys)) {
    case COMMAND_KEYS_REFUSE:
        return "refused";
    case COMMAND_KEYS_NO_MEMORY:
        return "no memory";
    case COMMAND_KEYS_OK:
        break;
    }
    out[0] = '\0';
    for (size_t i = 0, n = 0; i < keys.n; i++) {
        char access = " rwu"[keys.v[i].flags & 3];
        n += (size_t)snprintf(out + n, 256 - n, "%s%u%c", i ? " " : "", keys.v[i].arg,
                              keys.v[i].kind == COMMAND_ARG_PATTERN ? 'p' : access);
    }
    return out;
}

#define LISTS(text, expected)                                                                      \
    do {                                                                                           \
        char out_[256];                                                                            \
        ck_assert_msg(strcmp(listed(text, out_), expected) == 0, "%s: %s, expected %s", text,      \
                      listed(text, out_), expected);                                               \
    } while (0)

/* --- lookup and columns ---------------------------------------------------------------------- */

START_TEST(finds_in_any_case)
{
    ck_assert_uint_eq(find("get k")->id, COMMAND_ID_GET);
    ck_assert_uint_eq(find("GeT k")->id, COMMAND_ID_GET);
    ck_assert_uint_eq(find("OBJECT Encoding k")->id, COMMAND_ID_OBJECT_ENCODING);
    ck_assert_uint_eq(find("client NO-evict on")->id, COMMAND_ID_CLIENT_NO_EVICT);
    ck_assert_uint_eq(find("Nearcache stats")->id, COMMAND_ID_NEARCACHE_STATS);
    ck_assert_uint_eq(find("CLIENT")->id, COMMAND_ID_CLIENT);
    ck_assert_uint_eq(find("restore-asking k 0 v")->id, COMMAND_ID_RESTORE_ASKING);
}
END_TEST

START_TEST(finds_nothing_else)
{
    static const char *const unknown[] = {
        "ge", "gett", "''", "get~", "g\x85t k", "client|id", "client nope", "client ''", "'"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        ck_assert_msg(find(unknown[i]) == NULL, "%s", unknown[i]);
    ck_assert_ptr_null(command_find(table, NULL, 0));
    /* Bytes that differ from a letter in the bit that makes it lower case. */
    ck_assert_ptr_null(find("restore\rasking"));
}
END_TEST

static void check_row(void *ctx, const struct command *c)
{
    size_t *n = ctx;
    ck_assert_uint_eq(c->id, *n);
    ++*n;
    char name[300];
    snprintf(name, sizeof name, "%s", c->name);
    char *bar = strchr(name, '|');
    if (bar)
        *bar = ' ';
    ck_assert_ptr_eq(find(name), c);
    ck_assert_int_ne(c->arity, 0);
    ck_assert_msg(!(c->cacheable && c->class_ != COMMAND_READ), "%s", c->name);
    ck_assert_msg(!(c->cacheable && c->n_specs != 1), "%s", c->name);
    bool writes_keys = c->flags & COMMAND_FLAG_WRITE && c->n_specs;
    ck_assert_msg(!writes_keys || c->class_ == COMMAND_WRITE || c->class_ == COMMAND_SESSION ||
                      c->class_ == COMMAND_ADMIN,
                  "%s", c->name);
    ck_assert_msg(!(c->flags & COMMAND_FLAG_ADMIN) || c->class_ != COMMAND_WRITE, "%s", c->name);
}

START_TEST(every_row_is_found_and_makes_sense)
{
    size_t n = 0;
    command_table_each(table, check_row, &n);
    ck_assert_uint_eq(n, COMMAND_ID_COUNT);
    ck_assert_uint_eq(command_table_count(table), COMMAND_ID_COUNT);
}
END_TEST

START_TEST(columns)
{
    static const struct {
        const char *name;
        enum command_class class_;
        enum command_cacheable cacheable;
        bool one_key, keys_unknown;
        enum resp_keys reply;
    } rows[] = {
        {"get", COMMAND_READ, COMMAND_CACHEABLE_YES, true, false, RESP_KEYS_NONE},
        {"ttl", COMMAND_READ, COMMAND_CACHEABLE_NO, true, false, RESP_KEYS_NONE},
        {"mget", COMMAND_READ, COMMAND_CACHEABLE_YES, false, false, RESP_KEYS_NONE},
        {"hget", COMMAND_READ, COMMAND_CACHEABLE_FIELDS, true, false, RESP_KEYS_NONE},
        {"lrange", COMMAND_READ, COMMAND_CACHEABLE_YES, true, false, RESP_KEYS_NONE},
        {"srandmember", COMMAND_READ, COMMAND_CACHEABLE_NO, true, false, RESP_KEYS_NONE},
        {"sort_ro", COMMAND_READ, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"ping", COMMAND_READ, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"echo", COMMAND_READ, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"set", COMMAND_WRITE, COMMAND_CACHEABLE_NO, true, false, RESP_KEYS_NONE},
        {"pfcount", COMMAND_WRITE, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"scan", COMMAND_SCOPED, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_SCAN},
        {"keys", COMMAND_SCOPED, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_ALL},
        {"xread", COMMAND_READ, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_STREAMS},
        {"xpending", COMMAND_READ, COMMAND_CACHEABLE_NO, true, false, RESP_KEYS_ERROR},
        {"xgroup create", COMMAND_WRITE, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_ERROR},
        {"eval", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, true, RESP_KEYS_NAMED},
        {"eval_ro", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NAMED},
        {"fcall", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, true, RESP_KEYS_NAMED},
        {"blpop", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_FIRST},
        {"bzmpop", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_FIRST},
        {"multi", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"watch", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"wait", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"subscribe", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"client tracking", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_ERROR},
        {"client caching", COMMAND_SESSION, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"publish", COMMAND_READ, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"pubsub channels", COMMAND_READ, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"pubsub numsub", COMMAND_READ, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"monitor", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"reset", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"quit", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"client reply", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"client unblock", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"client setinfo", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"config get", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"slowlog get", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"acl whoami", COMMAND_LOCAL, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"config set", COMMAND_ADMIN, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"client pause", COMMAND_ADMIN, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"script kill", COMMAND_ADMIN, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
        {"acl list", COMMAND_ADMIN, COMMAND_CACHEABLE_NO, false, false, RESP_KEYS_NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct command *c = find(rows[i].name);
        ck_assert_msg(c && c->class_ == rows[i].class_ && c->cacheable == rows[i].cacheable &&
                          c->one_key_at_1 == rows[i].one_key &&
                          c->keys_unknown == rows[i].keys_unknown &&
                          c->keys_in_reply == rows[i].reply,
                      "%s", rows[i].name);
    }
}
END_TEST

struct names {
    char text[2048];
    size_t n;
};

static void name_cacheable(void *ctx, const struct command *c)
{
    struct names *names = ctx;
    if (c->cacheable)
        names->n += (size_t)snprintf(names->text + names->n, sizeof names->text - names->n, "%s%s ",
                                     c->name, c->cacheable == COMMAND_CACHEABLE_FIELDS ? "*" : "");
    ck_assert_uint_lt(names->n, sizeof names->text);
}

/* An allow-list: who adds to it says why the reply depends on nothing but the key's value (not on
 * time, chance, another key or the server's memory), and is announced whenever it changes. */
START_TEST(what_is_cacheable)
{
    struct names names = {.n = 0};
    command_table_each(table, name_cacheable, &names);
    ck_assert_str_eq(names.text,
                     "bitcount bitfield_ro bitpos exists geodist geohash geopos georadius_ro "
                     "georadiusbymember_ro geosearch get getbit getrange hexists* hget* "
                     "hgetall* hkeys* hlen* hmget* hstrlen* hvals* lindex llen lpos lrange "
                     "mget scard sismember smembers smismember strlen substr type xlen "
                     "xrange xrevrange zcard zcount zlexcount zmscore zrange zrangebylex "
                     "zrangebyscore zrank zrevrange zrevrangebylex zrevrangebyscore zrevrank "
                     "zscore ");
}
END_TEST

START_TEST(commands_that_name_channels)
{
    static const struct {
        const char *name;
        enum command_channels channels;
    } rows[] = {
        {"publish", COMMAND_CHANNELS_FIRST},
        {"spublish", COMMAND_CHANNELS_FIRST},
        {"subscribe", COMMAND_CHANNELS_ALL},
        {"unsubscribe", COMMAND_CHANNELS_ALL},
        {"ssubscribe", COMMAND_CHANNELS_ALL},
        {"sunsubscribe", COMMAND_CHANNELS_ALL},
        {"psubscribe", COMMAND_CHANNELS_PATTERNS},
        {"punsubscribe", COMMAND_CHANNELS_PATTERNS},
        {"pubsub channels", COMMAND_CHANNELS_PATTERNS},
        {"pubsub shardchannels", COMMAND_CHANNELS_PATTERNS},
        {"pubsub numsub", COMMAND_CHANNELS_ALL},
        {"pubsub shardnumsub", COMMAND_CHANNELS_ALL},
        {"pubsub numpat", COMMAND_CHANNELS_NONE},
        {"get", COMMAND_CHANNELS_NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        ck_assert_msg(find(rows[i].name)->channels == rows[i].channels, "%s", rows[i].name);
}
END_TEST

/* --- key listing ----------------------------------------------------------------------------- */

START_TEST(keys_by_specs)
{
    LISTS("get k", "1r");
    LISTS("set k v get", "1u");
    LISTS("mget a b c", "1r 2r 3r");
    LISTS("mset a 1 b 2", "1w 3w");
    LISTS("blpop a b 0", "1u 2u");
    LISTS("rename a b", "1u 2w");
    LISTS("bitop and d a b", "2w 3r 4r");
    LISTS("pfmerge d", "1u");
    LISTS("object encoding k", "2r");
    LISTS("xgroup create k g $", "2u");
    LISTS("ping k", "");
    LISTS("command getkeys get k", "");
    LISTS("spublish channel m", "");
    LISTS("ssubscribe channel", "");
    LISTS("memory usage k samples 5", "2r");
    LISTS("geosearchstore d s fromlonlat 1 2 byradius 1 km storedist", "1w 2r");
}
END_TEST

START_TEST(keys_by_count)
{
    LISTS("eval s 2 a b c", "3u 4u");
    LISTS("eval s 0 a", "");
    LISTS("zunionstore d 2 a b weights 1 2", "1w 3r 4r");
    LISTS("blmpop 0 2 a b left", "3u 4u");
    LISTS("sintercard 1 a limit 5", "2r");
}
END_TEST

START_TEST(malformed_counts_list_all_the_rest)
{
    LISTS("eval s 3 a b", "3u 4u");
    LISTS("eval s -1 a b", "3u 4u");
    LISTS("eval s +1 a b", "3u 4u");
    LISTS("eval s 01 a b", "3u 4u");
    LISTS("eval s 1~ a b", "3u 4u");
    LISTS("eval s '' a b", "3u 4u");
    LISTS("eval s 18446744073709551617 a b", "3u 4u");
    LISTS("eval s 4294967297 a b", "3u 4u");
    LISTS("zunionstore d x a b", "1w 3u 4u");
    LISTS("lmpop 9 a left", "2u 3u");
    LISTS("eval s 1", "");
}
END_TEST

START_TEST(too_few_arguments_are_no_harm)
{
    static const char *const lines[] = {"get",
                                        "mset",
                                        "sort",
                                        "georadius",
                                        "xread",
                                        "eval",
                                        "zunionstore d",
                                        "migrate",
                                        "rename a",
                                        "xreadgroup",
                                        "georadiusbymember",
                                        "migrate h p",
                                        "migrate h p ''"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char out[256];
        ck_assert_str_ne(listed(lines[i], out), "refused");
    }
}
END_TEST

START_TEST(walks_sort)
{
    LISTS("sort k", "1r");
    LISTS("sort k by w_* get # get o_*->f store d", "1r 3p 7p 9w");
    LISTS("SORT k BY nosort GET #", "1r");
    LISTS("sort k limit 0 5 desc alpha asc store d", "1r 9w");
    LISTS("sort k store a store b", "1r 3w 5w");
    LISTS("sort k by store store d", "1r 5w");
    LISTS("sort k get store store d", "1r 3p 5w");
    LISTS("sort k limit store store store d", "1r 6w");
    LISTS("sort k store store store d", "1r 3w 5w");
    LISTS("sort k by get get by*", "1r 5p");
    LISTS("sort k store~x d", "1r 3w"); /* the server compares up to the NUL */
    LISTS("sort k get #~x by w_*~", "1r 5p");
    LISTS("sort_ro k by w_* get v_*", "1r 3p 5p");
    LISTS("sort_ro k store d", "1r 3w");
    LISTS("sort k nonsense d store e", "1r 2u 3u 4u 5u");
    LISTS("sort k store", "1r 2u");
    LISTS("sort k limit 1", "1r 2u 3u");
}
END_TEST

START_TEST(walks_georadius)
{
    LISTS("georadius k 1 2 3 km", "1r");
    LISTS("georadius k 1 2 3 km store a storedist b store c", "1r 7w 9w 11w");
    LISTS("georadius k store store store km", "1r");
    LISTS("georadius k 1 2 3 store store a", "1r 7w");
    LISTS("georadius k 1 2 3 km count 5 any asc desc withdist withhash withcoord", "1r");
    LISTS("georadius k 1 2 3 km count store store d", "1r 9w");
    LISTS("georadius k 1 2 3 km store count 5", "1r 7w 8u");
    LISTS("georadius k 1 2 3 km store", "1r 6u");
    LISTS("georadius k 1 2 3 km other x store y", "1r 6u 7u 8u 9u");
    LISTS("georadiusbymember k store 3 km store d", "1r 6w");
    LISTS("georadiusbymember k m 3 store storedist d", "1r 6w");
    LISTS("georadiusbymember k m 3 km STOREDIST~ d", "1r 6w");
    LISTS("georadius_ro k 1 2 3 km store d", "1r");
}
END_TEST

START_TEST(walks_xread)
{
    LISTS("xread streams a b 0 0", "2r 3r");
    LISTS("xread count 2 block 0 streams a $", "6r");
    LISTS("xread count streams block streams streams a 0", "6r");
    LISTS("xreadgroup group g c streams a b > >", "5r 6r");
    LISTS("xreadgroup group streams c streams k >", "5r");
    LISTS("xreadgroup group streams streams noack streams streams >", "6r");
    LISTS("xreadgroup group g c claim 5 streams k >", "7r");
    LISTS("xreadgroup group g c streams~ k >", "5r");
    LISTS("xread streams a b 0", "2u 3u 4u");
    LISTS("xread nonsense streams a 0", "1u 2u 3u 4u");
    LISTS("xread count 5 streams", "");
    LISTS("xreadgroup group g", "1u 2u");
}
END_TEST

START_TEST(walks_migrate)
{
    LISTS("migrate h 1 k 0 9", "3u");
    LISTS("migrate h 1 '' 0 9 keys a b", "7u 8u");
    LISTS("migrate h 1 '' 0 9", "3u");
    LISTS("migrate h 1 '' 0 9 copy", "3u");
    LISTS("migrate h 1 '' 0 9 auth keys keys keys", "9u");
    LISTS("migrate h 1 '' 0 9 copy replace auth2 keys p keys a", "12u");
    LISTS("migrate h 1 k 0 9 keys a", "3u 7u");
    LISTS("migrate h 1 '' 0 9 keys~x a", "7u");
    LISTS("migrate h 1 '' 0 9 nonsense keys a", "3u 6u 7u 8u");
    LISTS("migrate h 1 ~ 0 9 keys a", "3u 7u");
}
END_TEST

/* --- error texts ----------------------------------------------------------------------------- */

static void unknown_error_is(const char *text, const char *expected)
{
    struct line l;
    char buf[COMMAND_ERROR_MAX];
    split(&l, text);
    size_t n = command_unknown_error(table, l.argv, l.argc, buf);
    ck_assert_uint_eq(n, strlen(expected));
    ck_assert_mem_eq(buf, expected, n);
}

/* Each was seen on Redis 7.0.15. */
START_TEST(unknown_command_texts)
{
    unknown_error_is("foo", "-ERR unknown command 'foo', with args beginning with: \r\n");
    unknown_error_is("Foo a ''",
                     "-ERR unknown command 'Foo', with args beginning with: 'a' '' \r\n");
    unknown_error_is("f\r\no b\nc",
                     "-ERR unknown command 'f  o', with args beginning with: 'b c' \r\n");
    unknown_error_is("f~o a~b c",
                     "-ERR unknown command 'f', with args beginning with: 'a' 'c' \r\n");
    unknown_error_is("Object Foo x", "-ERR unknown subcommand 'Foo'. Try OBJECT HELP.\r\n");
    unknown_error_is("client a\nb", "-ERR unknown subcommand 'a b'. Try CLIENT HELP.\r\n");
}
END_TEST

START_TEST(unknown_command_texts_are_cut)
{
    char x[200], want[COMMAND_ERROR_MAX], line[512];
    memset(x, 'x', sizeof x);
    snprintf(line, sizeof line, "%.199s", x);
    snprintf(want, sizeof want, "-ERR unknown command '%.128s', with args beginning with: \r\n", x);
    unknown_error_is(line, want);
    snprintf(line, sizeof line, "foo %.199s b", x);
    snprintf(want, sizeof want,
             "-ERR unknown command 'foo', with args beginning with: '%.128s' \r\n", x);
    unknown_error_is(line, want);
    snprintf(line, sizeof line, "foo %.124s b c", x); /* 'x...' is 127 bytes, one is left */
    snprintf(want, sizeof want,
             "-ERR unknown command 'foo', with args beginning with: '%.124s' 'b' \r\n", x);
    unknown_error_is(line, want);
    snprintf(line, sizeof line, "foo %.100s %.100s c", x, x);
    snprintf(want, sizeof want,
             "-ERR unknown command 'foo', with args beginning with: '%.100s' '%.25s' \r\n", x, x);
    unknown_error_is(line, want);
    snprintf(line, sizeof line, "config %.199s", x);
    snprintf(want, sizeof want, "-ERR unknown subcommand '%.128s'. Try CONFIG HELP.\r\n", x);
    unknown_error_is(line, want);
}
END_TEST

START_TEST(arity_texts)
{
    char buf[COMMAND_ERROR_MAX];
    size_t n = command_arity_error(find("GET"), buf);
    ck_assert_uint_eq(n, strlen(buf));
    ck_assert_str_eq(buf, "-ERR wrong number of arguments for 'get' command\r\n");
    n = command_arity_error(find("client setname"), buf);
    ck_assert_uint_eq(n, strlen(buf));
    ck_assert_str_eq(buf, "-ERR wrong number of arguments for 'client|setname' command\r\n");
    ck_assert(command_arity_ok(find("get"), 2) && !command_arity_ok(find("get"), 3));
    ck_assert(command_arity_ok(find("mget"), 9) && !command_arity_ok(find("mget"), 1));
}
END_TEST

/* --- learning -------------------------------------------------------------------------------- */

static struct command_key_spec at(int index, int last)
{
    return (struct command_key_spec){.begin = COMMAND_BEGIN_INDEX,
                                     .find = COMMAND_FIND_RANGE,
                                     .flags = COMMAND_KEY_READ,
                                     .index = index,
                                     .last = last,
                                     .step = 1};
}

static struct command_key_spec after(const char *word, int from)
{
    struct command_key_spec s = at(from, 0);
    s.begin = COMMAND_BEGIN_KEYWORD;
    s.keyword = word;
    return s;
}

static struct command newcomer(const char *name, int arity, uint32_t flags)
{
    return (struct command){.name = name, .arity = arity, .flags = flags};
}

static void learn(struct command c)
{
    ck_assert(command_table_learn(table, &c));
}

static void learn_key(const char *name, int arity, uint32_t flags)
{
    struct command c = newcomer(name, arity, flags);
    c.n_specs = 1;
    c.specs[0] = at(1, 0);
    learn(c);
}

/* Of modules too, but only where the server agrees that they read one key. */
START_TEST(known_reads_of_modules)
{
    learn_key("JSON.STRLEN", -2, COMMAND_FLAG_READONLY);
    ck_assert_int_eq(find("json.strlen k")->cacheable, COMMAND_CACHEABLE_YES);
    learn_key("bf.exists", 3, COMMAND_FLAG_READONLY);
    ck_assert_int_eq(find("bf.exists k i")->cacheable, COMMAND_CACHEABLE_YES);
    learn_key("json.mget", -3, COMMAND_FLAG_READONLY);
    ck_assert_int_eq(find("json.mget k .")->cacheable, COMMAND_CACHEABLE_NO);
    learn_key("json.get", -2, COMMAND_FLAG_WRITE);
    ck_assert_int_eq(find("json.get k")->cacheable, COMMAND_CACHEABLE_NO);
    struct command two_keys = newcomer("json.get", -2, COMMAND_FLAG_READONLY);
    two_keys.n_specs = 1;
    two_keys.specs[0] = at(1, -1);
    learn(two_keys);
    ck_assert_int_eq(find("json.get a b")->cacheable, COMMAND_CACHEABLE_NO);
    learn(newcomer("json.get", -2, COMMAND_FLAG_READONLY)); /* no keys told */
    ck_assert_int_eq(find("json.get k")->cacheable, COMMAND_CACHEABLE_NO);
}
END_TEST

START_TEST(knows_that_fields_expire)
{
    ck_assert(!command_table_fields_expire(table));
    learn_key("hpexpir", -6, COMMAND_FLAG_WRITE);
    ck_assert(!command_table_fields_expire(table));
    learn_key("HPEXPIRE", -6, COMMAND_FLAG_WRITE);
    ck_assert(command_table_fields_expire(table));
    ck_assert_int_eq(find("hget k f")->cacheable, COMMAND_CACHEABLE_FIELDS);
    learn_key("hget", 3, COMMAND_FLAG_READONLY); /* as the server reports it: our column stays */
    ck_assert_int_eq(find("hget k f")->cacheable, COMMAND_CACHEABLE_FIELDS);
    command_table_forget(table);
    ck_assert(!command_table_fields_expire(table)); /* the upstream may be an older one now */
}
END_TEST

START_TEST(learns_a_module_command)
{
    learn_key("JSON.Set", -4, COMMAND_FLAG_WRITE);
    const struct command *c = find("json.SET k . 1");
    ck_assert_ptr_nonnull(c);
    ck_assert_str_eq(c->name, "json.set");
    ck_assert(c->learned && c->class_ == COMMAND_WRITE && !c->cacheable && c->one_key_at_1);
    ck_assert_uint_eq(c->id, COMMAND_ID_COUNT);
    ck_assert_uint_eq(command_table_count(table), COMMAND_ID_COUNT + 1);
    LISTS("json.set k . 1", "1r");
    learn_key("json.mystery", -2, COMMAND_FLAG_READONLY);
    c = find("json.mystery k");
    ck_assert(c->class_ == COMMAND_READ && c->cacheable == COMMAND_CACHEABLE_NO);
    learn_key("json.get", -2, COMMAND_FLAG_READONLY); /* known to depend on its one key alone */
    c = find("json.get k");
    ck_assert(c->class_ == COMMAND_READ && c->cacheable == COMMAND_CACHEABLE_YES);
}
END_TEST

START_TEST(learns_again_in_place)
{
    learn_key("m.x", 2, COMMAND_FLAG_READONLY);
    const struct command *before = find("m.x k");
    learn_key("M.X", 3, COMMAND_FLAG_WRITE);
    ck_assert_ptr_eq(find("m.x k v"), before);
    ck_assert_int_eq(before->arity, 3);
    ck_assert_int_eq(before->class_, COMMAND_WRITE);
    ck_assert_uint_eq(command_table_count(table), COMMAND_ID_COUNT + 1);
}
END_TEST

START_TEST(class_follows_from_flags)
{
    static const struct {
        uint32_t flags;
        enum command_class class_;
    } rows[] = {
        {0, COMMAND_READ},
        {COMMAND_FLAG_READONLY, COMMAND_READ},
        {COMMAND_FLAG_WRITE, COMMAND_WRITE},
        {COMMAND_FLAG_WRITE | COMMAND_FLAG_BLOCKING, COMMAND_SESSION},
        {COMMAND_FLAG_PUBSUB, COMMAND_SESSION},
        {COMMAND_FLAG_ADMIN, COMMAND_ADMIN},
        {COMMAND_FLAG_ADMIN | COMMAND_FLAG_BLOCKING | COMMAND_FLAG_WRITE, COMMAND_ADMIN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        learn_key("m.x", -2, rows[i].flags);
        ck_assert_int_eq(find("m.x k")->class_, rows[i].class_);
    }
}
END_TEST

START_TEST(learns_a_container)
{
    struct command set = newcomer("tdigest|set", -3, COMMAND_FLAG_WRITE);
    struct command get = newcomer("tdigest|get", 3, COMMAND_FLAG_READONLY);
    set.n_specs = get.n_specs = 1;
    set.specs[0] = get.specs[0] = at(2, 0);
    struct command container = newcomer("tdigest", -2, 0);
    container.subcommands = &set;
    set.sibling = &get;
    learn(container);
    ck_assert_str_eq(find("TDIGEST Set k v")->name, "tdigest|set");
    ck_assert_ptr_null(find("tdigest del k"));
    unknown_error_is("tdigest del", "-ERR unknown subcommand 'del'. Try TDIGEST HELP.\r\n");
    LISTS("tdigest get k", "2r");
    learn(newcomer("tdigest|help", 2, 0)); /* one at a time is as good */
    ck_assert_str_eq(find("tdigest help")->name, "tdigest|help");
    ck_assert_str_eq(find("tdigest get k")->name, "tdigest|get");
    learn(container); /* the upstream is asked again */
    ck_assert_str_eq(find("tdigest help")->name, "tdigest|help");
    ck_assert_uint_eq(command_table_count(table), COMMAND_ID_COUNT + 4);
}
END_TEST

START_TEST(new_subcommands_go_by_their_container)
{
    learn(newcomer("client|frob", 3, COMMAND_FLAG_NOSCRIPT));
    ck_assert_int_eq(find("client frob on")->class_, COMMAND_SESSION);
    learn(newcomer("config|frob", -2, 0));
    ck_assert_int_eq(find("config frob")->class_, COMMAND_ADMIN);
    learn(newcomer("memory|frob", 2, 0));
    ck_assert_int_eq(find("memory frob")->class_, COMMAND_READ);
    learn(newcomer("memory|admin", 2, COMMAND_FLAG_ADMIN));
    ck_assert_int_eq(find("memory admin")->class_, COMMAND_ADMIN);
}
END_TEST

START_TEST(refuses_what_it_cannot_place)
{
    struct command many = newcomer("m.x", -2, 0);
    many.n_specs = COMMAND_SPECS_MAX + 1;
    struct command zero_step = newcomer("m.x", -2, 0);
    zero_step.n_specs = 1;
    zero_step.specs[0] = at(1, 0);
    zero_step.specs[0].step = 0;
    struct command name_as_key = newcomer("m.x", -2, 0);
    name_as_key.n_specs = 1;
    name_as_key.specs[0] = at(0, 0);
    struct command no_word = newcomer("m.x", -2, 0);
    no_word.n_specs = 1;
    no_word.specs[0] = after(NULL, 1);
    char longest[400];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    struct command bad[] = {
        many,
        zero_step,
        name_as_key,
        no_word,
        newcomer(NULL, 1, 0),
        newcomer("", 1, 0),
        newcomer("m\nx", 1, 0),
        newcomer(longest, 1, 0),
        newcomer("m.x", 0, 0),
        newcomer("nobody|x", 2, 0),
        newcomer("get|x", 2, 0), /* GET must not become a container */
        newcomer("|", 2, 0),
        newcomer("client|", 2, 0),
        newcomer("nearcache|x", 2, 0),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!command_table_learn(table, &bad[i]), "case %zu", i);
    ck_assert_ptr_null(find("m.x k"));
    ck_assert_uint_eq(find("get k")->id, COMMAND_ID_GET);
}
END_TEST

START_TEST(unknown_keys_are_refused)
{
    struct command c = newcomer("m.x", -2, 0);
    c.n_specs = 2;
    c.specs[0] = at(1, 0);
    c.specs[1] = (struct command_key_spec){.begin = COMMAND_BEGIN_UNKNOWN};
    learn(c);
    ck_assert(find("m.x k")->keys_unknown);
    LISTS("m.x k", "refused");
    c.specs[1] = at(2, 0);
    c.specs[1].find = COMMAND_FIND_UNKNOWN;
    learn(c);
    LISTS("m.x k", "refused");
    /* No key named: nothing, or all of the data. */
    learn(newcomer("m.movable", -2, COMMAND_FLAG_MOVABLEKEYS));
    LISTS("m.movable k", "refused");
    learn(newcomer("m.queryall", -1, COMMAND_FLAG_READONLY));
    LISTS("m.queryall", "refused");
    learn(newcomer("m.flushall", -1, COMMAND_FLAG_WRITE));
    LISTS("m.flushall", "refused");
    learn(newcomer("m.ping", -1, 0));
    LISTS("m.ping k", "");
}
END_TEST

START_TEST(lists_learned_specs)
{
    struct command c = newcomer("m.x", -2, 0);
    c.n_specs = 3;
    c.specs[0] = at(2, -1); /* overlapping and in any order */
    c.specs[1] = at(1, 2);
    c.specs[1].flags = COMMAND_KEY_WRITE;
    c.specs[2] = at(1, 0);
    learn(c);
    LISTS("m.x a b c d", "1u 2u 3u 4r");
    c.n_specs = 1;
    c.specs[0] = (struct command_key_spec){.begin = COMMAND_BEGIN_INDEX,
                                           .find = COMMAND_FIND_KEYNUM,
                                           .flags = COMMAND_KEY_READ,
                                           .index = 1,
                                           .keynum_index = 0,
                                           .first = 1,
                                           .keystep = 2};
    learn(c);
    LISTS("m.x 2 a x b y", "2r 4r");
    LISTS("m.x 2 a x b", "2r 4r");
    LISTS("m.x 3 a x b y", "2u 3u 4u 5u");
    c.specs[0] = at(1, -1);
    c.specs[0].limit = 2;
    learn(c);
    LISTS("m.x a b 1 2", "1r 2r");
    c.specs[0] = at(2, 0);
    c.specs[0].flags = COMMAND_KEY_NOT_KEY;
    learn(c);
    LISTS("m.x a b", "");
}
END_TEST

START_TEST(lists_keywords)
{
    struct command c = newcomer("m.x", -2, 0);
    c.n_specs = 2;
    c.specs[0] = at(1, 0);
    char word[] = "store";
    c.specs[1] = after(word, 2);
    learn(c);
    word[0] = '?'; /* copied */
    LISTS("m.x k", "1r");
    LISTS("m.x k STORE d", "1r 3r");
    LISTS("m.x k Store~ d", "1r 3r");
    LISTS("m.x store d", "1r");
    LISTS("m.x k x store", "1r"); /* nothing follows */
    LISTS("m.x k store a store b", "refused");
    c.specs[1] = after("keys", -2);
    c.specs[1].last = -1;
    learn(c);
    LISTS("m.x k keys a b", "1r 3r 4r");
    LISTS("m.x k a keys b", "1r 4r");
    LISTS("m.x k keys keys b", "refused");
}
END_TEST

START_TEST(our_columns_cannot_be_shadowed)
{
    struct command get = newcomer("GET", -2, COMMAND_FLAG_READONLY);
    learn(get); /* no specs, as from a server of old */
    const struct command *c = find("get k");
    ck_assert(c->cacheable && !c->learned && c->one_key_at_1 && c->id == COMMAND_ID_GET);
    ck_assert_int_eq(c->arity, -2);
    LISTS("get k", "1r");
    learn(newcomer("get", 1, 0)); /* nonsense must not lead to argv[1] of one argument */
    ck_assert(!find("get")->one_key_at_1);
    LISTS("get", "");

    struct command zunionstore = newcomer("zunionstore", -4, COMMAND_FLAG_WRITE);
    zunionstore.n_specs = 1;
    zunionstore.specs[0] = at(1, 0);
    learn(zunionstore);
    LISTS("zunionstore d 1 a", "1u 3r");

    learn(newcomer("config|set", -2, 0));
    ck_assert_int_eq(find("config set")->class_, COMMAND_ADMIN);
    learn(newcomer("sort", -2, 0));
    LISTS("sort k store d", "1r 3w");
    learn(newcomer("quit", 7, COMMAND_FLAG_ADMIN)); /* answered here, as our code expects it */
    ck_assert_int_eq(find("quit")->arity, -1);
}
END_TEST

START_TEST(built_in_rows_learn_new_keys)
{
    struct command get = newcomer("get", -2, COMMAND_FLAG_READONLY);
    get.n_specs = 2;
    get.specs[0] = at(1, 0);
    get.specs[1] = after("also", 2);
    learn(get);
    ck_assert(!find("get k")->one_key_at_1);
    LISTS("get k also l", "1r 3r");
    get.specs[1] = (struct command_key_spec){.begin = COMMAND_BEGIN_UNKNOWN};
    learn(get);
    LISTS("get k", "refused");
    command_table_forget(table);
    ck_assert(find("get k")->one_key_at_1);
    ck_assert_int_eq(find("get k")->arity, 2);
    LISTS("get k also l", "1r");
}
END_TEST

static void count_one(void *ctx, const struct command *c)
{
    (void)c;
    ++*(size_t *)ctx;
}

START_TEST(forgets)
{
    learn(newcomer("m", -2, 0));
    learn(newcomer("m|a", 2, 0));
    learn(newcomer("client|new", 2, 0));
    const struct command *held = find("m a");
    command_table_forget(table);
    ck_assert_ptr_null(find("m"));
    ck_assert_ptr_null(find("client new"));
    ck_assert_str_eq(held->name, "m|a"); /* a request may still hold it */
    size_t n = 0;
    command_table_each(table, count_one, &n);
    ck_assert_uint_eq(n, COMMAND_ID_COUNT);
    struct command orphan = newcomer("m|a", 2, 0);
    ck_assert(!command_table_learn(table, &orphan));
    learn(newcomer("m", -2, 0));
    ck_assert_str_eq(find("m a")->name, "m"); /* no container any more */
    learn(newcomer("m|a", 3, 0));
    ck_assert_ptr_eq(find("m a"), held);
    ck_assert_uint_eq(command_table_count(table), COMMAND_ID_COUNT + 3);
}
END_TEST

START_TEST(learns_thousands)
{
    char name[32];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "mod.command%d", i);
        learn_key(name, -2, COMMAND_FLAG_READONLY);
    }
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "MOD.command%d", i);
        ck_assert_ptr_nonnull(find(name));
    }
    ck_assert_uint_eq(find("get k")->id, COMMAND_ID_GET);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        finds_in_any_case,
        finds_nothing_else,
        every_row_is_found_and_makes_sense,
        columns,
        what_is_cacheable,
        commands_that_name_channels,
        keys_by_specs,
        keys_by_count,
        malformed_counts_list_all_the_rest,
        too_few_arguments_are_no_harm,
        walks_sort,
        walks_georadius,
        walks_xread,
        walks_migrate,
        unknown_command_texts,
        unknown_command_texts_are_cut,
        arity_texts,
        known_reads_of_modules,
        knows_that_fields_expire,
        learns_a_module_command,
        learns_again_in_place,
        class_follows_from_flags,
        learns_a_container,
        new_subcommands_go_by_their_container,
        refuses_what_it_cannot_place,
        unknown_keys_are_refused,
        lists_learned_specs,
        lists_keywords,
        our_columns_cannot_be_shadowed,
        built_in_rows_learn_new_keys,
        forgets,
        learns_thousands,
    };
    Suite *suite = suite_create("command");
    TCase *cases = tcase_create("all");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        tcase_add_test(cases, tests[i]);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
