/* fuzz_reply.c - replies, whole and in pieces: they end at the same places and are of the same
 * types, and hiredis' redisReader agrees.
 *
 * The first byte of the input chooses how the rest is cut. Where hiredis (0.14 to 1.x) may differ:
 *  - it does not know all types of RESP3: 0.14 none, 1.x neither '!' nor '|';
 *  - 0.14 gives up at a nesting deeper than 7, and each version at some number of elements;
 *  - it takes whatever two bytes follow a payload for CRLF;
 *  - 1.x takes "%-1", "~-1", ">-1" and "=-1" for nulls, and "#T", "#F", "#\0" for booleans;
 *  - 1.x judges the text of doubles, big numbers and verbatim strings, and later versions refuse a
 *    lone CR or LF in a simple string or an error;
 *  - it reads a line once all of it is there, and so sees later that a line is bad. */
#include <assert.h>
#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <stdlib.h>
#include <string.h>

#include "resp.h"

/* --- the stream, whole or cut ---------------------------------------------------------------- */

enum { ENDS_MAX = 4096 };

struct outcome {
    enum resp_status status; /* MORE or BAD: what follows the last complete reply */
    struct resp_framer framer;
    size_t n;
    struct {
        size_t end;
        char type;
    } replies[ENDS_MAX];
};

struct pieces {
    uint32_t random;
    size_t most; /* bytes of a piece */
};

static size_t next_piece(struct pieces *pieces)
{
    pieces->random ^= pieces->random << 13;
    pieces->random ^= pieces->random >> 17;
    pieces->random ^= pieces->random << 5;
    return 1 + pieces->random % pieces->most;
}

/* Frames what one piece holds; `at` is where it begins in the stream. */
static void frame_piece(struct outcome *o, const uint8_t *bytes, size_t at, size_t len)
{
    char *block = malloc(len);
    assert(block);
    memcpy(block, bytes + at, len);
    for (size_t done = 0; done < len && o->n < ENDS_MAX;) {
        size_t used;
        o->status = resp_frame(&o->framer, block + done, len - done, &used);
        if (o->status == RESP_BAD)
            break;
        assert(used > 0 && used <= len - done);
        assert(o->status == RESP_DONE || used == len - done);
        done += used;
        if (o->status == RESP_DONE) {
            o->replies[o->n].end = at + done;
            o->replies[o->n++].type = o->framer.type;
        }
    }
    free(block);
}

static void frame_all(struct outcome *o, const uint8_t *bytes, size_t n, struct pieces *pieces)
{
    *o = (struct outcome){.status = RESP_MORE};
    for (size_t at = 0, len; at < n && o->status != RESP_BAD && o->n < ENDS_MAX; at += len) {
        len = pieces ? next_piece(pieces) : n;
        if (len > n - at)
            len = n - at;
        frame_piece(o, bytes, at, len);
    }
}

static void check_same(const struct outcome *a, const struct outcome *b)
{
    assert(a->n == b->n && a->status == b->status);
    for (size_t i = 0; i < a->n; i++)
        assert(a->replies[i].end == b->replies[i].end && a->replies[i].type == b->replies[i].type);
}

/* --- hiredis --------------------------------------------------------------------------------- */

/* Instead of a tree, which a few bytes could make gigabytes large, only the type is kept. */
static void *keep_type(const redisReadTask *task)
{
    static char object;
    if (!task->parent)
        *(int *)task->privdata = task->type;
    return &object;
}

static void *on_string(const redisReadTask *task, char *p, size_t n)
{
    (void)p;
    (void)n;
    return keep_type(task);
}

#if HIREDIS_MAJOR >= 1
static void *on_array(const redisReadTask *task, size_t n)
#else
static void *on_array(const redisReadTask *task, int n)
#endif
{
    (void)n;
    return keep_type(task);
}

static void *on_integer(const redisReadTask *task, long long n)
{
    (void)n;
    return keep_type(task);
}

static void *on_nil(const redisReadTask *task)
{
    return keep_type(task);
}

#if HIREDIS_MAJOR >= 1
static void *on_double(const redisReadTask *task, double d, char *p, size_t n)
{
    (void)d;
    return on_string(task, p, n);
}

static void *on_bool(const redisReadTask *task, int b)
{
    (void)b;
    return keep_type(task);
}
#endif

static void on_free(void *object)
{
    (void)object;
}

static redisReader *new_reader(int *type)
{
    static redisReplyObjectFunctions functions = {
        .createString = on_string,
        .createArray = on_array,
        .createInteger = on_integer,
        .createNil = on_nil,
#if HIREDIS_MAJOR >= 1
        .createDouble = on_double,
        .createBool = on_bool,
#endif
        .freeObject = on_free,
    };
    redisReader *reader = redisReaderCreateWithFunctions(&functions);
    assert(reader);
    reader->privdata = type;
    return reader;
}

static char type_byte(int type)
{
    switch (type) {
    case REDIS_REPLY_STRING:
        return '$';
    case REDIS_REPLY_ARRAY:
        return '*';
    case REDIS_REPLY_INTEGER:
        return ':';
    case REDIS_REPLY_STATUS:
        return '+';
    case REDIS_REPLY_ERROR:
        return '-';
#if HIREDIS_MAJOR >= 1
    case REDIS_REPLY_NIL:
        return '_';
    case REDIS_REPLY_DOUBLE:
        return ',';
    case REDIS_REPLY_BOOL:
        return '#';
    case REDIS_REPLY_MAP:
        return '%';
    case REDIS_REPLY_SET:
        return '~';
    case REDIS_REPLY_PUSH:
        return '>';
    case REDIS_REPLY_BIGNUM:
        return '(';
    case REDIS_REPLY_VERB:
        return '=';
#endif
    default:
        return '?';
    }
}

/* hiredis refuses what we take: is it for one of the reasons above? */
static bool refuses_for_a_known_reason(const char *error)
{
    static const char *const REASONS[] = {
        "nested",           "Multi-bulk length out of range",
        "Bad double value", "Double value is too large",
        "Bad bignum value", "Bad simple string value",
        "Verbatim string",
    };
    for (size_t i = 0; i < sizeof REASONS / sizeof *REASONS; i++)
        if (strstr(error, REASONS[i]))
            return true;
    const char *got = strstr(error, "got \"");
    return got && got[5] && strchr("_#,(!=%~>|", got[5]) && strstr(error, "as reply type byte");
}

/* We refuse what hiredis takes: is it for one of the reasons above? */
static bool refused_for_a_known_reason(const struct resp_framer *f)
{
    bool in_payload = f->bytes > 0 && f->bytes <= 2;
    bool minus_one = f->negative && f->number == 1 && strchr("%~>=", f->kind);
    return in_payload || minus_one || f->kind == '#';
}

/* The i-th complete reply according to hiredis; false: it has stopped, for a good reason. */
static bool check_reply(redisReader *reader, const struct outcome *o, size_t i, size_t n,
                        const int *type)
{
    void *reply = NULL;
    if (redisReaderGetReply(reader, &reply) != REDIS_OK) {
        assert(refuses_for_a_known_reason(reader->errstr));
        return false;
    }
    assert(reply);
    assert(n - (reader->len - reader->pos) == o->replies[i].end);
    assert(type_byte(*type) == o->replies[i].type);
    return true;
}

/* What follows the complete replies. */
static void check_rest(redisReader *reader, const struct outcome *o)
{
    void *reply = NULL;
    if (o->status == RESP_BAD)
        redisReaderFeed(reader, "\r\n", 2); /* so that the bad line ends at last */
    int result = redisReaderGetReply(reader, &reply);
    if (o->status == RESP_BAD)
        assert(result != REDIS_OK || refused_for_a_known_reason(&o->framer));
    else if (result == REDIS_OK)
        assert(!reply);
    else
        assert(refuses_for_a_known_reason(reader->errstr));
}

static void compare_with_hiredis(const struct outcome *o, const uint8_t *bytes, size_t n)
{
    int type = 0;
    redisReader *reader = new_reader(&type);
    redisReaderFeed(reader, (const char *)bytes, n);
    size_t i = 0;
    while (i < o->n && check_reply(reader, o, i, n, &type))
        i++;
    if (i == o->n && o->n < ENDS_MAX)
        check_rest(reader, o);
    redisReaderFree(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct outcome whole, cut;
    if (n < 2)
        return 0;
    struct pieces pieces = {.random = data[0] * 2654435761u + 1,
                            .most = data[0] % 4 == 0 ? 1 : data[0]};
    frame_all(&whole, data + 1, n - 1, NULL);
    frame_all(&cut, data + 1, n - 1, &pieces);
    check_same(&whole, &cut);
    compare_with_hiredis(&whole, data + 1, n - 1);
    return 0;
}
