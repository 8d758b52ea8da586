/* options.h - the command line, cut into options; every setting is one. */
#ifndef NEARCACHE_OPTIONS_H
#define NEARCACHE_OPTIONS_H

#include "setting.h"

enum option_kind {
    OPTION_WRONG, /* `where` says why */
    OPTION_SETTING,
    OPTION_SET, /* internal: --set becomes OPTION_SETTING */
    OPTION_CONFIG,
    OPTION_CHECK,
    OPTION_PRINT_CONFIG,
    OPTION_HELP,
    OPTION_VERSION,
};

#define OPTION_TEXT_MAX 512

struct option {
    enum option_kind kind;
    const struct setting *setting; /* of an OPTION_SETTING */
    const char *value;             /* of an OPTION_SETTING or OPTION_CONFIG; borrowed */
    char where[OPTION_TEXT_MAX];   /* "--set l1.ttl": how errors call it; or the error */
};

struct arguments {
    char **v; /* the next one */
    char **end;
    const struct setting_table *table;
};

/* Takes the next option: --name=value, --name value or, where there is none, --name. False: no
 * more. */
bool options_next(struct arguments *args, struct option *o);

#endif
