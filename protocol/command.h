/* command.h - what a command is: its arity, flags, class, where its keys stand.
 *
 * The table starts from commands.def (generated from a real server's COMMAND output and joined with
 * our own columns by tests/commands/generate) and is extended at run time with what the upstream's
 * own COMMAND reports (modules, newer versions). libc only.
 */
#ifndef NEARCACHE_COMMAND_H
#define NEARCACHE_COMMAND_H

#include "resp.h"

/* What the proxy does with a command (DESIGN section 8). */
enum command_class {
    COMMAND_READ,    /* forwarded on the shared pipeline; changes nothing */
    COMMAND_WRITE,   /* forwarded on the shared pipeline; kills its keys in the L1 */
    COMMAND_SESSION, /* needs a private connection: MULTI, blocking, pub/sub ... */
    COMMAND_LOCAL,   /* answered by the proxy */
    COMMAND_SCOPED,  /* acts on this service's namespace only: KEYS SCAN DBSIZE FLUSHDB ... */
    COMMAND_ADMIN,   /* -NOPERM unless admin_commands allows it, then forwarded */
};

/* The server's own flags, those that matter here. */
enum {
    COMMAND_FLAG_WRITE = 1 << 0,
    COMMAND_FLAG_READONLY = 1 << 1,
    COMMAND_FLAG_BLOCKING = 1 << 2,
    COMMAND_FLAG_PUBSUB = 1 << 3,
    COMMAND_FLAG_NOSCRIPT = 1 << 4,
    COMMAND_FLAG_ADMIN = 1 << 5,
    COMMAND_FLAG_NO_AUTH = 1 << 6,
    COMMAND_FLAG_NO_MULTI = 1 << 7,
    COMMAND_FLAG_MAY_REPLICATE = 1 << 8,
    COMMAND_FLAG_MOVABLEKEYS = 1 << 9,
    COMMAND_FLAG_ALLOW_BUSY = 1 << 10,
};

/* One rule of "where the keys stand", as in
 * https://redis.io/docs/latest/develop/reference/key-specs/ . */
enum command_begin { COMMAND_BEGIN_INDEX, COMMAND_BEGIN_KEYWORD, COMMAND_BEGIN_UNKNOWN };
enum command_find { COMMAND_FIND_RANGE, COMMAND_FIND_KEYNUM, COMMAND_FIND_UNKNOWN };
enum { COMMAND_KEY_READ = 1 << 0, COMMAND_KEY_WRITE = 1 << 1, COMMAND_KEY_NOT_KEY = 1 << 2 };
struct command_key_spec {
    uint8_t begin; /* enum command_begin */
    uint8_t find;  /* enum command_find */
    uint8_t flags; /* COMMAND_KEY_... */
    int index; /* BEGIN_INDEX: position; BEGIN_KEYWORD: start_from, negative counts from the end */
    const char *keyword;   /* BEGIN_KEYWORD, upper case; owned by the table */
    int last, step, limit; /* FIND_RANGE: last key relative to the first, or from the end */
    int keynum_index, first, keystep; /* FIND_KEYNUM: relative to the begin */
};

/* Commands whose options must be walked as the server walks them: key specs alone can be fooled
 * (GEORADIUS .. STORE a STORE b; XREADGROUP GROUP STREAMS c STREAMS k >). */
enum command_walk {
    COMMAND_WALK_SPECS, /* key specs are exact */
    COMMAND_WALK_SORT,
    COMMAND_WALK_GEORADIUS,
    COMMAND_WALK_XREAD,
    COMMAND_WALK_MIGRATE,
};

/* Does the reply depend on the value of the one key, argv[1], alone (DESIGN section 8)? */
enum command_cacheable {
    COMMAND_CACHEABLE_NO,
    COMMAND_CACHEABLE_YES,
    COMMAND_CACHEABLE_FIELDS, /* unless single fields of a hash can expire, which nobody announces
                               */
};

/* What a cacheable read answers of a key that is not there. */
enum command_absent {
    COMMAND_ABSENT_NEVER, /* what could be told from other keys' replies: nothing */
    COMMAND_ABSENT_VALUE, /* nil, and never nil of a key that GET can read */
    COMMAND_ABSENT_NIL,
    COMMAND_ABSENT_ZERO,   /* :0 */
    COMMAND_ABSENT_EMPTY,  /* an empty string */
    COMMAND_ABSENT_NONE,   /* +none */
    COMMAND_ABSENT_LIST,   /* an empty array, map or set */
    COMMAND_ABSENT_SOUGHT, /* nil, or an empty array where several were asked for: LPOS */
    COMMAND_ABSENT_NILS,   /* an array of them */
    COMMAND_ABSENT_ZEROS,
};

/* Which arguments are names of pub/sub channels. Those of a sub-command begin one later. */
enum command_channels {
    COMMAND_CHANNELS_NONE,
    COMMAND_CHANNELS_FIRST,    /* PUBLISH: argv[1] */
    COMMAND_CHANNELS_ALL,      /* SUBSCRIBE: all */
    COMMAND_CHANNELS_PATTERNS, /* PSUBSCRIBE: all, and they are patterns */
};

#define COMMAND_SPECS_MAX 8
struct command {
    const char *name;      /* lower case, with its container: "get", "object|encoding" */
    int arity;             /* as Redis: with the name(s); negative: at least */
    uint32_t flags;        /* COMMAND_FLAG_... */
    uint8_t class_;        /* enum command_class */
    uint8_t walk;          /* enum command_walk */
    uint8_t keys_in_reply; /* enum resp_keys */
    uint8_t channels;      /* enum command_channels */
    uint8_t cacheable;     /* enum command_cacheable */
    uint8_t absent;        /* enum command_absent */
    bool keys_unknown;     /* a write whose keys can't be listed: EVAL without keys, FCALL ... */
    bool one_key_at_1;     /* fast path: exactly one key, argv[1] */
    bool learned;          /* came from the upstream, not from commands.def */
    uint16_t id;           /* dense; COMMAND_ID_... for rows of commands.def */
    uint8_t n_specs;
    struct command_key_spec specs[COMMAND_SPECS_MAX];
    struct command *subcommands; /* of a container: first child */
    struct command *sibling;     /* next child of the same container */
};

/* Dense ids of the built-in rows: COMMAND_ID_GET, COMMAND_ID_OBJECT_ENCODING, ... generated from
 * commands.def by X-macro. */
enum command_id {
#define COMMAND(id, ...) COMMAND_ID_##id,
#include "commands.def"
#undef COMMAND
    COMMAND_ID_COUNT
};

struct command_table;
/* The built-in table. NULL: out of memory. */
struct command_table *command_table_new(void);
void command_table_free(struct command_table *t);

/* Adds or, where `name` is known and was learned, replaces a command that the upstream reported. A
 * row of commands.def keeps our columns (class, cacheable, walk, reply rewrite) and its arity,
 * flags and specs are taken over from the server. The class of an unheard-of command follows from
 * its flags: blocking, pubsub without keys -> SESSION; admin -> ADMIN; write -> WRITE; else READ
 * (never cacheable). A learned command whose keys the specs can't tell (unknown begin or find; no
 * keys although its flags say movablekeys, write or readonly: it works on all of the data; or
 * pubsub, whose channels they don't tell) is kept with keys_unknown and refused by
 * command_list_keys(). An unheard-of sub-command of a built-in
 * container has the container's class, unless that is READ. Specs are added to a built-in row's,
 * never taken away (older servers report fewer), and a LOCAL or SCOPED row stays as it is. A
 * container comes before its sub-commands, which may also hang at `c` and are learned with it. `c`
 * is copied. False: out of memory or the entry is malformed. */
RESP_WARN_UNUSED bool command_table_learn(struct command_table *t, const struct command *c);
/* Forgets everything learned: the upstream may have been replaced. A struct command stays readable
 * until the table is freed, so that requests under way may keep theirs. */
void command_table_forget(struct command_table *t);
/* The upstream has hashes whose fields expire one by one (Redis 7.4, Valkey 9). */
bool command_table_fields_expire(const struct command_table *t);
/* What the upstream has can't be learned: they may. */
void command_table_suppose_fields_expire(struct command_table *t);
/* Every id is below it. */
size_t command_table_count(const struct command_table *t);
/* Calls `each` for every command and sub-command. */
void command_table_each(const struct command_table *t,
                        void (*each)(void *ctx, const struct command *c), void *ctx);

/* Looks argv[0] (and argv[1] of a container) up, case-insensitively. NULL when unknown. */
const struct command *command_find(const struct command_table *t, const struct resp_slice *argv,
                                   size_t argc);

/* Redis' own texts, with the leading "-ERR " and the CRLF, into buf (truncated as Redis truncates):
 *   unknown command 'foo', with args beginning with: 'a' 'b'
 *   unknown subcommand 'foo'. Try OBJECT HELP.
 *   wrong number of arguments for 'get' command
 * CR and LF become spaces and an argument ends at a NUL, as in Redis. argc is at least 1. */
#define COMMAND_ERROR_MAX 512
size_t command_unknown_error(const struct command_table *t, const struct resp_slice *argv,
                             size_t argc, char buf[COMMAND_ERROR_MAX]);
size_t command_arity_error(const struct command *c, char buf[COMMAND_ERROR_MAX]);
static inline bool command_arity_ok(const struct command *c, size_t argc)
{
    return c->arity >= 0 ? argc == (size_t)c->arity : argc >= (size_t)-c->arity;
}

/* One argument that has to be rewritten. */
enum command_arg {
    COMMAND_ARG_KEY,
    COMMAND_ARG_PATTERN, /* SORT's BY and GET: a name with one '*', maybe "->field"; not "#" and not
                            a BY without '*' */
};
struct command_key {
    uint32_t arg;  /* index into argv */
    uint8_t kind;  /* enum command_arg */
    uint8_t flags; /* COMMAND_KEY_READ / _WRITE */
};
struct command_keys {
    struct command_key *v; /* ascending by arg, no argument twice */
    size_t n, cap;
};
void command_keys_free(struct command_keys *keys);

enum command_keys_status {
    COMMAND_KEYS_OK,
    COMMAND_KEYS_REFUSE, /* a learned command whose keys can't be told: forwarding it could reach
                            another service's keys */
    COMMAND_KEYS_NO_MEMORY,
};
/* Lists every argument that the server could take for a key. Where the arguments are malformed (a
 * key count that is no number or too large), the server will refuse the command before it looks at
 * a key; then every argument from the place in doubt on is listed, so that nothing escapes the
 * namespace. keys->n is overwritten. */
RESP_WARN_UNUSED enum command_keys_status command_list_keys(const struct command *c,
                                                            const struct resp_slice *argv,
                                                            size_t argc, struct command_keys *keys);

#endif
