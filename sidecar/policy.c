/* policy.c - which keys a list of patterns means. */
#include "policy.h"

#include <fnmatch.h>
#include <string.h>

enum { KEY_MAX = 65535 }; /* as in l1.h: longer ones are never kept */

bool policy_matches(const struct config_list *patterns, const char *key, size_t len)
{
    char text[KEY_MAX + 1];
    if (patterns->n == 0 || len > KEY_MAX || memchr(key, '\0', len))
        return false;
    memcpy(text, key, len);
    text[len] = '\0';
    for (size_t i = 0; i < patterns->n; i++)
        if (fnmatch(patterns->v[i], text, 0) == 0)
            return true;
    return false;
}
