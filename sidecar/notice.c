/* notice.c - what an invalidation message says. */
#include "notice.h"

#include <string.h>

#include "json.h"

static bool slice_equals(struct resp_slice s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

static enum notice_result read_raw(const struct namespace *ns, struct resp_slice payload,
                                   const struct notice_sink *sink)
{
    struct resp_slice name;
    if (payload.len == 0)
        return NOTICE_MALFORMED;
    sink->key(sink->ctx, payload);
    if (ns->prefix.len && namespace_strip(ns, payload, &name))
        sink->key(sink->ctx, name);
    return NOTICE_KEYS;
}

static enum notice_result read_event(const char *service, const char *own,
                                     const struct json_object *event,
                                     const struct notice_sink *sink)
{
    const char *whose = json_object_string(event, "service");
    const char *key = json_object_string(event, "key");
    const char *prefix = json_object_string(event, "prefix");
    const char *origin = json_object_string(event, "origin");
    if (!whose || (!key && !prefix))
        return NOTICE_MALFORMED;
    if (strcmp(whose, service) != 0)
        return NOTICE_FOREIGN;
    if (own && origin && strcmp(origin, own) == 0)
        return NOTICE_OWN;
    if (key)
        sink->key(sink->ctx, (struct resp_slice){key, strlen(key)});
    if (prefix)
        sink->prefix(sink->ctx, (struct resp_slice){prefix, strlen(prefix)});
    return NOTICE_KEYS;
}

enum notice_result notice_read(const struct namespace *ns, const char *service, const char *origin,
                               struct resp_slice channel, struct resp_slice payload,
                               const struct notice_sink *sink)
{
    if (slice_equals(channel, NOTICE_CHANNEL_L1))
        return read_raw(ns, payload, sink);
    if (!slice_equals(channel, NOTICE_CHANNEL))
        return NOTICE_OTHER_CHANNEL;
    struct json_object *event = json_object_parse(payload.data, payload.len);
    if (!event)
        return NOTICE_MALFORMED;
    enum notice_result result = read_event(service, origin, event, sink);
    json_object_free(event);
    return result;
}
