/* namespace.c - the service's key prefix. */
#include "namespace.h"

#include <stdlib.h>
#include <string.h>

/* What Redis' stringmatchlen (util.c) gives a meaning outside of brackets. */
static bool is_glob(char c)
{
    return c == '*' || c == '?' || c == '[' || c == '\\';
}

bool namespace_init(struct namespace *ns, const char *prefix)
{
    size_t len = strlen(prefix);
    char *plain = malloc(len + 1);
    char *glob = malloc(2 * len + 1);
    if (!plain || !glob) {
        free(plain);
        free(glob);
        return false;
    }
    memcpy(plain, prefix, len + 1);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (is_glob(prefix[i]))
            glob[n++] = '\\';
        glob[n++] = prefix[i];
    }
    glob[n] = '\0';
    ns->prefix = (struct resp_slice){plain, len};
    ns->glob = (struct resp_slice){glob, n};
    return true;
}

void namespace_free(struct namespace *ns)
{
    free((char *)(uintptr_t)ns->prefix.data);
    free((char *)(uintptr_t)ns->glob.data);
    *ns = (struct namespace){0};
}

bool namespace_strip(const struct namespace *ns, struct resp_slice full, struct resp_slice *name)
{
    size_t n = ns->prefix.len;
    if (full.len < n || memcmp(full.data, ns->prefix.data, n) != 0)
        return false;
    *name = (struct resp_slice){full.data + n, full.len - n};
    return true;
}

bool namespace_sortable(const struct namespace *ns)
{
    return !memchr(ns->prefix.data, '*', ns->prefix.len);
}
