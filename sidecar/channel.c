/* channel.c - names of pub/sub channels, between what clients call them and what Redis does. */
#include "channel.h"

#include <string.h>

static bool starts_with(struct resp_slice s, const char *text)
{
    size_t n = strlen(text);
    return s.len >= n && memcmp(s.data, text, n) == 0;
}

static struct resp_slice from(struct resp_slice s, size_t at)
{
    return (struct resp_slice){s.data + at, s.len - at};
}

/* Bytes of "__keyspace@<db>__:" at the start of a channel or pattern, 0 if it does not begin so. */
static size_t keyspace_head(struct resp_slice s)
{
    size_t at = strlen("__keyspace@");
    if (!starts_with(s, "__keyspace@"))
        return 0;
    for (; at + 3 <= s.len; at++)
        if (memcmp(s.data + at, "__:", 3) == 0)
            return at + 3;
    return 0;
}

bool channel_is_keyevent(struct resp_slice full)
{
    return starts_with(full, "__keyevent@");
}

/* Bytes before the first one of a pattern that may stand for others. */
static size_t literal_length(struct resp_slice pattern)
{
    static const char special[] = "*?[\\";
    size_t n = 0;
    while (n < pattern.len && !memchr(special, pattern.data[n], strlen(special)))
        n++;
    return n;
}

/* May a channel that begins with `head` be meant by these bytes, which others follow? Not by so few
 * that they could as well be a service's own. */
static bool may_mean(struct resp_slice begin, const char *head)
{
    size_t n = strlen(head), common = begin.len < n ? begin.len : n;
    return common >= strlen("__key") && memcmp(begin.data, head, common) == 0;
}

/* "__keyevent@0__:set", "cache:invalidate", "__key*": the same for all services. */
static bool is_everybodys(struct resp_slice name, bool pattern)
{
    static const char *const channels[] = {"cache:invalidate", "cache:invalidate:l1",
                                           "cache:change", "__redis__:invalidate"};
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++)
        if (name.len == strlen(channels[i]) && starts_with(name, channels[i]))
            return true;
    struct resp_slice begin = {name.data, pattern ? literal_length(name) : name.len};
    if (begin.len == name.len)
        return channel_is_keyevent(name);
    return may_mean(begin, "__keyspace@") || may_mean(begin, "__keyevent@") ||
           may_mean(begin, "__redis__:invalidate");
}

struct channel_name channel_out(const struct namespace *ns, bool namespaced, struct resp_slice name,
                                bool pattern)
{
    struct resp_slice prefix = pattern ? ns->glob : ns->prefix, none = {"", 0};
    size_t head = keyspace_head(name);
    if (head)
        return (struct channel_name){{name.data, head}, prefix, from(name, head)};
    if (namespaced && !is_everybodys(name, pattern))
        return (struct channel_name){none, prefix, name};
    return (struct channel_name){none, none, name};
}

bool channel_in(const struct namespace *ns, bool namespaced, struct resp_slice full, bool pattern,
                struct channel_name *name)
{
    struct resp_slice prefix = pattern ? ns->glob : ns->prefix, none = {"", 0};
    size_t head = keyspace_head(full);
    struct resp_slice rest = from(full, head);
    *name = (struct channel_name){{full.data, head}, none, rest};
    if (!head && (!namespaced || is_everybodys(full, pattern)))
        return true;
    if (rest.len < prefix.len || (prefix.len && memcmp(rest.data, prefix.data, prefix.len) != 0))
        return false;
    name->tail = from(rest, prefix.len);
    return true;
}
