/* notice.c - what an invalidation message says. */
#include "notice.h"

#include <string.h>

#include "json.h"

static bool slice_equals(struct resp_slice s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

static enum notice_result read_raw(const struct namespace *ns, struct resp_slice payload,
                                   void (*stale)(void *ctx, struct resp_slice key), void *ctx)
{
    struct resp_slice name;
    if (payload.len == 0)
        return NOTICE_MALFORMED;
    stale(ctx, payload);
    if (ns->prefix.len && namespace_strip(ns, payload, &name))
        stale(ctx, name);
    return NOTICE_KEYS;
}

static enum notice_result read_event(const char *service, const struct json_object *event,
                                     void (*stale)(void *ctx, struct resp_slice key), void *ctx)
{
    const char *whose = json_object_string(event, "service");
    const char *key = json_object_string(event, "key");
    if (!whose || !key)
        return NOTICE_MALFORMED;
    if (strcmp(whose, service) != 0)
        return NOTICE_FOREIGN;
    stale(ctx, (struct resp_slice){key, strlen(key)});
    return NOTICE_KEYS;
}

enum notice_result notice_read(const struct namespace *ns, const char *service,
                               struct resp_slice channel, struct resp_slice payload,
                               void (*stale)(void *ctx, struct resp_slice key), void *ctx)
{
    if (slice_equals(channel, NOTICE_CHANNEL_L1))
        return read_raw(ns, payload, stale, ctx);
    if (!slice_equals(channel, NOTICE_CHANNEL))
        return NOTICE_OTHER_CHANNEL;
    struct json_object *event = json_object_parse(payload.data, payload.len);
    if (!event)
        return NOTICE_MALFORMED;
    enum notice_result result = read_event(service, event, stale, ctx);
    json_object_free(event);
    return result;
}
