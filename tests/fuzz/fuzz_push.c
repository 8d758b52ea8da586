/* fuzz_push.c - messages of the server as the client sees them: nothing or one whole frame of the
 * same type, no other service's key or channel of a notification, the same whatever is behind them;
 * and names of channels there and back.
 *
 * The input: a byte whose bits are channels.namespace and whether there is a namespace, the frame.
 * A "name" is what its first bulk strings are. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "push.h"
#include "resp_read.h"

enum { REDIRECT = 77 };

static char *contents(struct chain *c, size_t *n)
{
    struct iovec piece;
    char *text = malloc(c->len + 1);
    assert(text);
    *n = 0;
    while (chain_iov(c, &piece, 1) == 1) {
        memcpy(text + *n, piece.iov_base, piece.iov_len);
        *n += piece.iov_len;
        chain_consume(c, piece.iov_len);
    }
    return text;
}

/* A frame of the type of the one before, whole, with nothing behind it. */
static void check_framed(char type, const char *text, size_t n)
{
    struct resp_framer framer = {0};
    size_t used;
    enum resp_status status = resp_frame(&framer, text, n, &used);
    assert(status == RESP_DONE && used == n && framer.type == type);
}

/* --- what must not get through -------------------------------------------------------------------
 */

static bool starts_with(struct resp_slice s, const char *text)
{
    return s.len >= strlen(text) && memcmp(s.data, text, strlen(text)) == 0;
}

static bool is_ours(const struct namespace *ns, struct resp_slice key)
{
    struct resp_slice name;
    return namespace_strip(ns, key, &name);
}

/* The keys of an invalidation: exactly ours, in order, without the prefix. */
static void check_keys(const struct namespace *ns, struct resp_reader in, struct resp_reader out)
{
    struct resp_slice key, name, seen;
    size_t n, shown;
    if (!resp_read_array(&in, &n))
        return;
    bool some = resp_read_array(&out, &shown);
    for (size_t i = 0; i < n && resp_read_bulk(&in, &key); i++) {
        if (!namespace_strip(ns, key, &name))
            continue;
        assert(some && shown-- > 0 && resp_read_bulk(&out, &seen));
        assert(seen.len == name.len && memcmp(seen.data, name.data, name.len) == 0);
    }
    assert(!some || shown == 0);
}

/* "__keyspace@0__:" and the key behind it. */
static bool keyspace_key(struct resp_slice channel, struct resp_slice *key)
{
    const char *mark = starts_with(channel, "__keyspace@")
                           ? memmem(channel.data + 11, channel.len - 11, "__:", 3)
                           : NULL;
    if (!mark)
        return false;
    *key = (struct resp_slice){mark + 3, (size_t)(channel.data + channel.len - mark) - 3};
    return true;
}

/* A message of exactly the shape that Redis gives it; `written`: something came out. */
static void check_message(const struct namespace *ns, struct resp_reader in, bool by_pattern,
                          size_t n, bool written)
{
    struct resp_slice pattern, channel, payload, key;
    if (n != (by_pattern ? 4 : 3) || (by_pattern && !resp_read_bulk(&in, &pattern)) ||
        !resp_read_bulk(&in, &channel) || !resp_read_bulk(&in, &payload))
        return;
    if (keyspace_key(channel, &key) && !is_ours(ns, key))
        assert(!written);
    if (starts_with(channel, "__keyevent@") && !is_ours(ns, payload))
        assert(!written);
}

static void check_foreign(const struct namespace *ns, const char *p, size_t n, const char *text,
                          size_t size)
{
    struct resp_reader in = {p, p + n}, out = {text, text + size};
    struct resp_slice word, same;
    size_t count, shown;
    if (!resp_read_array(&in, &count) || !resp_read_bulk(&in, &word))
        return;
    bool written = size && resp_read_array(&out, &shown) && resp_read_bulk(&out, &same);
    if (resp_slice_is(word, "invalidate") && count == 2 && written)
        check_keys(ns, in, out);
    else if (resp_slice_is(word, "message") || resp_slice_is(word, "smessage"))
        check_message(ns, in, false, count, size > 0);
    else if (resp_slice_is(word, "pmessage"))
        check_message(ns, in, true, count, size > 0);
}

/* --- names ---------------------------------------------------------------------------------------
 */

static size_t join(const struct channel_name *name, char *buf)
{
    const struct resp_slice *parts[] = {&name->head, &name->prefix, &name->tail};
    size_t n = 0;
    for (int i = 0; i < 3; i++) {
        memcpy(buf + n, parts[i]->data, parts[i]->len);
        n += parts[i]->len;
    }
    return n;
}

/* What a client calls a channel is what it is shown. */
static void check_name(const struct namespace *ns, bool namespaced, struct resp_slice name)
{
    char *full = malloc(name.len + 64), *back = malloc(name.len + 64);
    assert(full && back);
    for (int pattern = 0; pattern < 2; pattern++) {
        struct channel_name out = channel_out(ns, namespaced, name, pattern), in;
        size_t n = join(&out, full);
        bool ours = channel_in(ns, namespaced, (struct resp_slice){full, n}, pattern, &in);
        assert(ours);
        assert(join(&in, back) == name.len && memcmp(back, name.data, name.len) == 0);
    }
    free(full);
    free(back);
}

static void check_names(const struct namespace *ns, bool namespaced, const char *p, size_t n)
{
    struct resp_reader r = {p, p + n};
    struct resp_slice name;
    size_t count;
    if (!resp_read_array(&r, &count))
        return;
    while (resp_read_bulk(&r, &name))
        check_name(ns, namespaced, name);
}

/* --- one input -----------------------------------------------------------------------------------
 */

static void check_frame(const struct namespace *ns, bool namespaced, const char *p, size_t n,
                        char type)
{
    struct budget budget = {0};
    struct chunk_pool pool = {.budget = &budget};
    struct chain out;
    size_t size;
    chain_init(&out, &pool);
    push_write(ns, namespaced, REDIRECT, p, n, &out);
    char *text = contents(&out, &size);
    if (size)
        check_framed(type, text, size);
    check_foreign(ns, p, n, text, size);
    struct push before = push_read(p, n);
    struct push after = push_read(text, size);
    if (before.kind != PUSH_OTHER && size)
        assert(before.kind == after.kind && before.count == after.count);
    free(text);
    chain_clear(&out);
    chunk_pool_drain(&pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct resp_framer framer = {0};
    struct namespace ns;
    size_t used;
    if (n < 2 || resp_frame(&framer, (const char *)data + 1, n - 1, &used) != RESP_DONE)
        return 0;
    if (!namespace_init(&ns, data[0] & 2 ? "" : "s*c:"))
        return 0;
    char *frame = malloc(used); /* so that a read behind it is seen */
    assert(frame);
    memcpy(frame, data + 1, used);
    check_frame(&ns, data[0] & 1, frame, used, framer.type);
    check_names(&ns, data[0] & 1, frame, used);
    free(frame);
    namespace_free(&ns);
    return 0;
}
