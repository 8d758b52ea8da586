/* fuzz_notice.c - any bytes as an invalidation message: no crash, nothing told of a message that
 * counts for nothing; and what we announce is read back as what was meant.
 *
 * The input: a byte that chooses the channel (and whether there is a namespace), the payload. The
 * same bytes are then taken for a key that is announced. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "announce.h"
#include "notice.h"

#define OWN "00112233445566ff"

struct told {
    int keys, prefixes;
    struct resp_slice payload, want;
    bool wanted; /* it must be this name */
};

static void hear(const struct told *t, struct resp_slice name)
{
    assert(name.len <= t->payload.len); /* escapes only get shorter */
    assert(name.len == 0 || name.data);
    for (size_t i = 0; i < name.len; i++)
        if (t->wanted)
            assert(name.data[i] == t->want.data[i]);
    assert(!t->wanted || name.len == t->want.len);
}

static void hear_key(void *ctx, struct resp_slice name)
{
    struct told *t = ctx;
    t->keys++;
    hear(t, name);
}

static void hear_prefix(void *ctx, struct resp_slice name)
{
    struct told *t = ctx;
    t->prefixes++;
    hear(t, name);
}

static enum notice_result read_as(const struct namespace *ns, const char *service,
                                  const char *channel, struct told *t)
{
    const struct notice_sink sink = {hear_key, hear_prefix, t};
    return notice_read(ns, service, OWN, (struct resp_slice){channel, strlen(channel)}, t->payload,
                       &sink);
}

/* Whatever it says: told if and only if it counts. */
static void check_message(const struct namespace *ns, const char *channel, struct resp_slice in)
{
    struct told t = {.payload = in};
    enum notice_result result = read_as(ns, "svc", channel, &t);
    assert((result == NOTICE_KEYS) == (t.keys + t.prefixes > 0));
    if (strcmp(channel, NOTICE_CHANNEL) == 0) {
        assert(t.keys <= 1 && t.prefixes <= 1 && result != NOTICE_OTHER_CHANNEL);
    } else if (strcmp(channel, NOTICE_CHANNEL_L1) == 0) {
        assert(t.keys <= 2 && t.prefixes == 0);
        assert(in.len ? result == NOTICE_KEYS : result == NOTICE_MALFORMED);
    } else {
        assert(result == NOTICE_OTHER_CHANNEL);
    }
}

/* Ours, announced: by others it is read as the same key, by ourselves as an echo. */
static void check_announced(const struct namespace *ns, struct resp_slice key)
{
    char *event = announce_event("svc", &key, 1760000000000, "ffeeddccbbaa9988");
    char *echo = announce_event("svc", &key, 1760000000000, OWN);
    assert(!event == !echo);
    assert(event || key.len > 0);
    if (event) {
        struct told t = {.payload = {event, strlen(event)}, .want = key, .wanted = true};
        enum notice_result result = read_as(ns, "svc", NOTICE_CHANNEL, &t);
        assert(result == NOTICE_KEYS && t.keys == 1 && t.prefixes == 0);
        result = read_as(ns, "other", NOTICE_CHANNEL, &t);
        assert(result == NOTICE_FOREIGN && t.keys == 1);
        t.payload = (struct resp_slice){echo, strlen(echo)};
        result = read_as(ns, "svc", NOTICE_CHANNEL, &t);
        assert(result == NOTICE_OWN && t.keys == 1);
    }
    free(event);
    free(echo);
}

/* A service may be called anything that has no NUL in it and is UTF-8, as a key of ours is. */
static void check_service(const struct namespace *ns, struct resp_slice in)
{
    const struct resp_slice key = {"k", 1};
    char *probe = announce_event("svc", &in, 0, OWN);
    char *service = calloc(1, in.len + 1); /* strndup would look for a NUL behind the input */
    assert(service);
    if (in.len)
        memcpy(service, in.data, in.len);
    if (probe) {
        char *event = announce_event(service, NULL, 0, "o");
        assert(event);
        struct told t = {.payload = {event, strlen(event)}, .want = {"", 0}, .wanted = true};
        enum notice_result result = read_as(ns, service, NOTICE_CHANNEL, &t);
        assert(result == NOTICE_KEYS && t.prefixes == 1 && t.keys == 0);
        free(event);
        event = announce_event(service, &key, 0, "o");
        t = (struct told){.payload = {event, strlen(event)}, .want = key, .wanted = true};
        result = read_as(ns, service, NOTICE_CHANNEL, &t);
        assert(result == NOTICE_KEYS && t.keys == 1);
        free(event);
    }
    free(service);
    free(probe);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const channels[] = {NOTICE_CHANNEL, NOTICE_CHANNEL, NOTICE_CHANNEL_L1,
                                           "cache:change"};
    struct namespace ns;
    if (n == 0 || !namespace_init(&ns, data[0] & 4 ? "" : "svc:"))
        return 0;
    char *bytes = malloc(n > 1 ? n - 1 : 1); /* exactly as long: a byte too far is seen */
    assert(bytes);
    memcpy(bytes, data + 1, n - 1);
    const struct resp_slice in = {bytes, n - 1};
    check_message(&ns, channels[data[0] & 3], in);
    check_announced(&ns, in);
    check_service(&ns, in);
    free(bytes);
    namespace_free(&ns);
    return 0;
}
