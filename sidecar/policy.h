/* policy.h - which keys a list of patterns means. */
#ifndef NEARCACHE_POLICY_H
#define NEARCACHE_POLICY_H

#include <stdbool.h>
#include <stddef.h>

#include "setting.h"

/* True if one of the patterns fits the key: '*', '?', [a-z] and a backslash before any of them, as
 * in KEYS. A key with a NUL in it fits none. */
bool policy_matches(const struct config_list *patterns, const char *key, size_t len);

#endif
