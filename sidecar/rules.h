/* rules.h - what a setting's value must be, beyond its type. */
#ifndef NEARCACHE_RULES_H
#define NEARCACHE_RULES_H

#include "setting.h"

/* Whether the value that s has in `base` is one that it may have; it is set, not NULL. On false
 * `error` says what is wrong, in words that may follow a colon. */
__attribute__((warn_unused_result)) bool rules_check(const struct setting *s, const void *base,
                                                     char error[SETTING_ERROR_MAX]);

#endif
