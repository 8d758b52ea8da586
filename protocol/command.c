/* command.c - the command table: looking a command up, listing its keys, Redis' error texts. */
#include "command.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS_MIN = 1024, /* four per built-in name: nearly every lookup ends at its first slot */
    NAME_LEN_MAX = 256,
    KEYS_MIN = 8,
};

/* What a command does to a key, in the words of commands.def. */
enum {
    ACCESS_READ = COMMAND_KEY_READ,
    ACCESS_WRITE = COMMAND_KEY_WRITE,
    ACCESS_UPDATE = COMMAND_KEY_READ | COMMAND_KEY_WRITE,
    ACCESS_NOT_KEY = COMMAND_KEY_NOT_KEY,
};

/* --- the built-in rows ----------------------------------------------------------------------- */

/* clang-format off */
#define F(flag) COMMAND_FLAG_##flag
#define NO_KEYS .n_specs = 0
#define SPECS(n, ...) .n_specs = (n), .specs = (const struct command_key_spec[]){__VA_ARGS__}
#define AT(access, position, found) \
    {.begin = COMMAND_BEGIN_INDEX, .flags = ACCESS_##access, .index = (position), found}
#define AFTER(access, word, from, found) \
    {.begin = COMMAND_BEGIN_KEYWORD, .flags = ACCESS_##access, .keyword = (word), \
     .index = (from), found}
#define UNKNOWN(access) \
    {.begin = COMMAND_BEGIN_UNKNOWN, .find = COMMAND_FIND_UNKNOWN, .flags = ACCESS_##access}
#define RANGE(last_, step_, limit_) \
    .find = COMMAND_FIND_RANGE, .last = (last_), .step = (step_), .limit = (limit_)
#define KEYNUM(index_, first_, step_) \
    .find = COMMAND_FIND_KEYNUM, .keynum_index = (index_), .first = (first_), .keystep = (step_)
#define COMMAND(id_, name_, arity_, flags_, class__, cacheable_, absent_, reply_, channels_, walk_, \
                unknown_, ...) \
    [COMMAND_ID_##id_] = {.name = (name_), .arity = (arity_), .flags = (flags_), \
                          .class_ = COMMAND_##class__, .walk = COMMAND_WALK_##walk_, \
                          .keys_in_reply = RESP_KEYS_##reply_, .cacheable = COMMAND_CACHEABLE_##cacheable_, .absent = COMMAND_ABSENT_##absent_, \
                          .channels = COMMAND_CHANNELS_##channels_, \
                          .keys_unknown = (unknown_), __VA_ARGS__},
/* clang-format on */
/* What a struct command starts as; most have one spec or none, and no room is kept for more. */
static const struct built_in {
    const char *name;
    const struct command_key_spec *specs;
    int arity;
    uint32_t flags;
    uint8_t class_, walk, keys_in_reply, channels, cacheable, absent, n_specs;
    bool keys_unknown;
} BUILT_IN[COMMAND_ID_COUNT] = {
#include "commands.def"
};

/* --- the table ------------------------------------------------------------------------------- */

/* A learned command. It is never freed before the table, because a request may still point at it;
 * what was forgotten is taken up again when the same name is learned once more. */
struct entry {
    struct command command;
    struct entry *next;
    bool live;
    char name[];
};

/* Keywords of learned key specs; few and alike ("STORE", "KEYS"), kept until the end. */
struct keyword {
    struct keyword *next;
    char text[];
};

struct slot {
    uint32_t hash;
    uint32_t len;
    struct command *command; /* NULL: empty */
};

struct command_table {
    struct command *built_in; /* COMMAND_ID_COUNT rows, as the upstream has changed them */
    struct entry *learned;    /* live or not */
    size_t n_learned;
    struct keyword *keywords;
    struct slot *slots; /* top-level names; linear probing */
    size_t mask, used;
    bool fields_expire; /* HPEXPIRE is known */
};

static char fold(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static uint32_t hash_name(struct resp_slice name)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < name.len; i++)
        h = (h ^ (unsigned char)(name.data[i] | 0x20)) * 16777619u; /* 0x20: either case */
    return h ^ h >> 15;
}

/* `lower` has s.len bytes. */
static bool same_name(struct resp_slice s, const char *lower)
{
    for (size_t i = 0; i < s.len; i++)
        if (fold(s.data[i]) != lower[i])
            return false;
    return true;
}

static struct resp_slice slice_of(const char *s)
{
    return (struct resp_slice){s, strlen(s)};
}

/* The slot that holds the name, or the empty one where it belongs. */
static struct slot *slot_for(const struct command_table *t, struct resp_slice name, uint32_t hash)
{
    for (size_t i = hash & t->mask;; i = (i + 1) & t->mask) {
        struct slot *s = &t->slots[i];
        if (!s->command ||
            (s->hash == hash && s->len == name.len && same_name(name, s->command->name)))
            return s;
    }
}

static struct command *find_top(const struct command_table *t, struct resp_slice name)
{
    return name.len <= NAME_LEN_MAX ? slot_for(t, name, hash_name(name))->command : NULL;
}

static struct command *find_child(const struct command *container, struct resp_slice name)
{
    size_t skip = strlen(container->name) + 1;
    for (struct command *c = container->subcommands; c; c = c->sibling)
        if (strlen(c->name + skip) == name.len && same_name(name, c->name + skip))
            return c;
    return NULL;
}

const struct command *command_find(const struct command_table *t, const struct resp_slice *argv,
                                   size_t argc)
{
    if (argc == 0)
        return NULL;
    const struct command *c = find_top(t, argv[0]);
    return c && c->subcommands && argc > 1 ? find_child(c, argv[1]) : c;
}

/* "object|encoding" -> "object", "encoding"; false: no sub-command's name. */
static bool split_name(const char *name, struct resp_slice *top, struct resp_slice *child)
{
    const char *bar = strchr(name, '|');
    *top = bar ? (struct resp_slice){name, (size_t)(bar - name)} : slice_of(name);
    *child = slice_of(bar ? bar + 1 : "");
    return bar != NULL;
}

static void insert_top(struct command_table *t, struct command *c)
{
    struct resp_slice name = slice_of(c->name);
    uint32_t hash = hash_name(name);
    struct slot *s = slot_for(t, name, hash);
    assert(!s->command);
    *s = (struct slot){.hash = hash, .len = (uint32_t)name.len, .command = c};
    t->used++;
}

/* Makes room for one more top-level name. */
static bool grow(struct command_table *t)
{
    if (t->slots && t->used + 1 <= (t->mask + 1) / 2)
        return true;
    size_t n_old = t->slots ? t->mask + 1 : 0;
    size_t n = n_old ? n_old * 2 : SLOTS_MIN;
    struct slot *old = t->slots, *slots = calloc(n, sizeof *slots);
    if (!slots)
        return false;
    t->slots = slots;
    t->mask = n - 1;
    t->used = 0;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].command)
            insert_top(t, old[i].command);
    free(old);
    return true;
}

/* Makes `c` known by its name. Its container is known; there is room for it. */
static void enlist(struct command_table *t, struct command *c)
{
    struct resp_slice top, child;
    if (!split_name(c->name, &top, &child)) {
        insert_top(t, c);
        return;
    }
    struct command *container = find_top(t, top);
    assert(container);
    struct command **tail = &container->subcommands;
    while (*tail)
        tail = &(*tail)->sibling;
    *tail = c;
}

/* Exactly one key, and always argv[1]. */
static bool one_key_at_1(const struct command *c)
{
    const struct command_key_spec *s = &c->specs[0];
    bool always_there = c->arity > 1 || c->arity < -1;
    return always_there && c->walk == COMMAND_WALK_SPECS && c->n_specs == 1 &&
           s->begin == COMMAND_BEGIN_INDEX && s->index == 1 && s->find == COMMAND_FIND_RANGE &&
           s->last == 0 && !(s->flags & COMMAND_KEY_NOT_KEY);
}

static struct command built_in_row(size_t id)
{
    const struct built_in *b = &BUILT_IN[id];
    struct command c = {.name = b->name,
                        .arity = b->arity,
                        .flags = b->flags,
                        .class_ = b->class_,
                        .walk = b->walk,
                        .keys_in_reply = b->keys_in_reply,
                        .channels = b->channels,
                        .cacheable = b->cacheable,
                        .absent = b->absent,
                        .keys_unknown = b->keys_unknown,
                        .id = (uint16_t)id,
                        .n_specs = b->n_specs};
    for (size_t i = 0; i < b->n_specs; i++)
        c.specs[i] = b->specs[i];
    c.one_key_at_1 = one_key_at_1(&c);
    return c;
}

/* The built-in rows and nothing else. A container's row stands before its sub-commands'. */
static void start_over(struct command_table *t)
{
    memset(t->slots, 0, (t->mask + 1) * sizeof *t->slots);
    t->used = 0;
    for (size_t i = 0; i < COMMAND_ID_COUNT; i++) {
        t->built_in[i] = built_in_row(i);
        enlist(t, &t->built_in[i]);
    }
}

struct command_table *command_table_new(void)
{
    _Static_assert(COMMAND_ID_COUNT <= SLOTS_MIN / 2, "the built-in names fit without growing");
    struct command_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->built_in = malloc(COMMAND_ID_COUNT * sizeof *t->built_in);
    if (!t->built_in || !grow(t)) {
        command_table_free(t);
        return NULL;
    }
    start_over(t);
    return t;
}

void command_table_free(struct command_table *t)
{
    if (!t)
        return;
    for (struct entry *e = t->learned, *next; e; e = next) {
        next = e->next;
        free(e);
    }
    for (struct keyword *k = t->keywords, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    free(t->slots);
    free(t->built_in);
    free(t);
}

size_t command_table_count(const struct command_table *t)
{
    return COMMAND_ID_COUNT + t->n_learned;
}

void command_table_each(const struct command_table *t,
                        void (*each)(void *ctx, const struct command *c), void *ctx)
{
    for (size_t i = 0; i < COMMAND_ID_COUNT; i++)
        each(ctx, &t->built_in[i]);
    for (const struct entry *e = t->learned; e; e = e->next)
        if (e->live)
            each(ctx, &e->command);
}

/* --- learning -------------------------------------------------------------------------------- */

static bool spec_is_unknown(const struct command_key_spec *s)
{
    return s->begin == COMMAND_BEGIN_UNKNOWN || s->find == COMMAND_FIND_UNKNOWN;
}

static bool spec_is_sane(const struct command_key_spec *s)
{
    if (spec_is_unknown(s))
        return true;
    bool begin_ok = s->begin == COMMAND_BEGIN_INDEX
                        ? s->index >= 1
                        : s->begin == COMMAND_BEGIN_KEYWORD && s->index != 0 && s->keyword &&
                              *s->keyword && strlen(s->keyword) <= NAME_LEN_MAX;
    bool find_ok = s->find == COMMAND_FIND_RANGE
                       ? s->step >= 1 && s->limit >= 0
                       : s->find == COMMAND_FIND_KEYNUM && s->keynum_index >= 0 && s->first >= 0 &&
                             s->keystep >= 1;
    return begin_ok && find_ok;
}

/* It must fit into one line of an error reply. */
static bool name_is_sane(const char *name)
{
    size_t len = name ? strlen(name) : 0;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f)
            return false;
    return len > 0 && len <= NAME_LEN_MAX;
}

static bool is_sane(const struct command *c)
{
    if (!name_is_sane(c->name) || c->arity == 0 || c->n_specs > COMMAND_SPECS_MAX)
        return false;
    for (size_t i = 0; i < c->n_specs; i++)
        if (!spec_is_sane(&c->specs[i]))
            return false;
    return true;
}

/* The table's own upper-case copy; NULL: out of memory. */
static const char *own_keyword(struct command_table *t, const char *word)
{
    size_t len = strlen(word);
    struct keyword *k = malloc(sizeof *k + len + 1);
    if (!k)
        return NULL;
    for (size_t i = 0; i <= len; i++)
        k->text[i] = word[i] >= 'a' && word[i] <= 'z' ? (char)(word[i] - 0x20) : word[i];
    for (struct keyword *old = t->keywords; old; old = old->next)
        if (strcmp(old->text, k->text) == 0) {
            free(k);
            return old->text;
        }
    k->next = t->keywords;
    t->keywords = k;
    return k->text;
}

/* Do the two specs find the same arguments? Both keywords are the table's own. */
static bool same_place(const struct command_key_spec *a, const struct command_key_spec *b)
{
    bool same_begin = a->begin == b->begin && a->index == b->index &&
                      (a->begin != COMMAND_BEGIN_KEYWORD || strcmp(a->keyword, b->keyword) == 0);
    bool same_find = a->find == b->find && a->last == b->last && a->step == b->step &&
                     a->limit == b->limit && a->keynum_index == b->keynum_index &&
                     a->first == b->first && a->keystep == b->keystep;
    return same_begin && same_find &&
           (a->flags & COMMAND_KEY_NOT_KEY) == (b->flags & COMMAND_KEY_NOT_KEY);
}

static bool add_spec(struct command *c, const struct command_key_spec *s)
{
    for (size_t i = 0; i < c->n_specs; i++)
        if (same_place(&c->specs[i], s)) {
            c->specs[i].flags |= s->flags;
            return true;
        }
    if (c->n_specs == COMMAND_SPECS_MAX)
        return false;
    c->specs[c->n_specs++] = *s;
    return true;
}

/* Adds what the server knows to the specs that `to` has. None is ever dropped: an older server
 * reports no specs at all, or only the first of them. */
static bool merge_specs(struct command_table *t, struct command *to, const struct command *from)
{
    for (size_t i = 0; i < from->n_specs; i++) {
        struct command_key_spec s = from->specs[i];
        if (spec_is_unknown(&s))
            s = (struct command_key_spec){
                .begin = COMMAND_BEGIN_UNKNOWN, .find = COMMAND_FIND_UNKNOWN, .flags = s.flags};
        if (s.begin == COMMAND_BEGIN_KEYWORD)
            s.keyword = own_keyword(t, s.keyword);
        else
            s.keyword = NULL;
        if ((s.begin == COMMAND_BEGIN_KEYWORD && !s.keyword) || !add_spec(to, &s))
            return false;
    }
    return true;
}

/* What the proxy answers itself stays as its code expects it. */
static bool learn_built_in(struct command_table *t, struct command *row, const struct command *c)
{
    if (row->class_ == COMMAND_LOCAL || row->class_ == COMMAND_SCOPED)
        return true;
    struct command learnt = *row;
    if (row->walk == COMMAND_WALK_SPECS && !merge_specs(t, &learnt, c))
        return false;
    learnt.arity = c->arity;
    learnt.flags = c->flags;
    learnt.one_key_at_1 = one_key_at_1(&learnt);
    *row = learnt;
    return true;
}

/* Nobody has looked at this command: its flags tell, and for a sub-command its container, such as
 * CLIENT (connection state) or CONFIG (the server of all). */
static enum command_class class_of(const struct command *c, const struct command *container)
{
    if (c->flags & COMMAND_FLAG_ADMIN)
        return COMMAND_ADMIN;
    if (container && container->class_ != COMMAND_READ)
        return (enum command_class)container->class_;
    if (c->flags & (COMMAND_FLAG_BLOCKING | COMMAND_FLAG_PUBSUB))
        return COMMAND_SESSION;
    return c->flags & COMMAND_FLAG_WRITE ? COMMAND_WRITE : COMMAND_READ;
}

/* A command that reads or writes data and names no key works on all of the data (as KEYS and
 * FLUSHALL do); one of pub/sub names channels, and which arguments these are is not told. */
static bool keys_untold(const struct command *c)
{
    bool any = false;
    for (size_t i = 0; i < c->n_specs; i++) {
        if (c->specs[i].flags & COMMAND_KEY_NOT_KEY)
            continue;
        any = true;
        if (spec_is_unknown(&c->specs[i]))
            return true;
    }
    return !any && c->flags & (COMMAND_FLAG_MOVABLEKEYS | COMMAND_FLAG_WRITE |
                               COMMAND_FLAG_READONLY | COMMAND_FLAG_PUBSUB);
}

static struct entry *entry_named(struct command_table *t, const char *name)
{
    struct resp_slice wanted = slice_of(name);
    for (struct entry *e = t->learned; e; e = e->next)
        if (strlen(e->name) == wanted.len && same_name(wanted, e->name))
            return e;
    return NULL;
}

static struct entry *entry_new(struct command_table *t, const char *name)
{
    size_t len = strlen(name), id = command_table_count(t);
    struct entry *e = id <= UINT16_MAX ? calloc(1, sizeof *e + len + 1) : NULL;
    if (!e)
        return NULL;
    for (size_t i = 0; i < len; i++)
        e->name[i] = fold(name[i]);
    e->command.id = (uint16_t)id;
    e->next = t->learned;
    t->learned = e;
    t->n_learned++;
    return e;
}

/* Reads of modules that depend on their key alone: RedisJSON, RedisBloom. */
static bool is_known_read(const struct command *c)
{
    static const char *const names[] = {
        "json.get",     "json.type",   "json.strlen", "json.arrlen", "json.arrindex",
        "json.objkeys", "json.objlen", "bf.exists",   "bf.mexists",  "bf.card",
        "cf.exists",    "cf.mexists",  "cms.query",   "topk.query"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(c->name, names[i]) == 0)
            return c->class_ == COMMAND_READ && c->one_key_at_1;
    return false;
}

static bool learn_new(struct command_table *t, const struct command *c, struct command *container)
{
    struct entry *e = entry_named(t, c->name);
    if (!e)
        e = entry_new(t, c->name);
    struct command learnt = {.arity = c->arity, .flags = c->flags, .learned = true};
    if (!e || !merge_specs(t, &learnt, c) || !grow(t))
        return false;
    learnt.name = e->name;
    learnt.id = e->command.id;
    learnt.class_ = (uint8_t)class_of(c, container);
    learnt.keys_unknown = keys_untold(&learnt);
    learnt.one_key_at_1 = one_key_at_1(&learnt);
    learnt.cacheable = is_known_read(&learnt) ? COMMAND_CACHEABLE_YES : COMMAND_CACHEABLE_NO;
    t->fields_expire |= strcmp(learnt.name, "hpexpire") == 0;
    if (e->live) {
        learnt.subcommands = e->command.subcommands;
        learnt.sibling = e->command.sibling;
    }
    e->command = learnt;
    if (!e->live)
        enlist(t, &e->command);
    e->live = true;
    return true;
}

/* Only what is no command by itself can be given its first sub-command: otherwise GET's argument
 * would be taken for one. */
static bool may_contain(const struct command *c)
{
    return c && (c->subcommands || c->learned) && c->class_ != COMMAND_LOCAL &&
           c->class_ != COMMAND_SCOPED;
}

static bool learn_one(struct command_table *t, const struct command *c)
{
    struct resp_slice top, child;
    bool is_child = split_name(c->name, &top, &child);
    struct command *container = is_child ? find_top(t, top) : NULL;
    struct command *known = !is_child   ? find_top(t, top)
                            : container ? find_child(container, child)
                                        : NULL;
    if (known && !known->learned)
        return learn_built_in(t, known, c);
    if (is_child && (child.len == 0 || !may_contain(container)))
        return false;
    return learn_new(t, c, container);
}

bool command_table_learn(struct command_table *t, const struct command *c)
{
    if (!is_sane(c) || !learn_one(t, c))
        return false;
    for (const struct command *sub = c->subcommands; sub; sub = sub->sibling)
        if (!is_sane(sub) || !strchr(sub->name, '|') || !learn_one(t, sub))
            return false;
    return true;
}

void command_table_forget(struct command_table *t)
{
    for (struct entry *e = t->learned; e; e = e->next)
        e->live = false;
    t->fields_expire = false;
    start_over(t);
}

void command_table_suppose_fields_expire(struct command_table *t)
{
    t->fields_expire = true;
}

bool command_table_fields_expire(const struct command_table *t)
{
    return t->fields_expire;
}

/* --- listing keys ---------------------------------------------------------------------------- */

void command_keys_free(struct command_keys *keys)
{
    free(keys->v);
    *keys = (struct command_keys){0};
}

/* One command whose keys are being listed. */
struct listing {
    const struct resp_slice *argv;
    size_t argc;
    struct command_keys *keys;
    enum command_keys_status status;
};

static void add(struct listing *l, size_t arg, enum command_arg kind, uint8_t flags)
{
    struct command_keys *keys = l->keys;
    if (keys->n == keys->cap) {
        size_t cap = keys->cap ? keys->cap * 2 : KEYS_MIN;
        struct command_key *v = realloc(keys->v, cap * sizeof *v);
        if (!v) {
            l->status = COMMAND_KEYS_NO_MEMORY;
            return;
        }
        keys->v = v;
        keys->cap = cap;
    }
    keys->v[keys->n++] =
        (struct command_key){.arg = (uint32_t)arg, .kind = (uint8_t)kind, .flags = flags};
}

static void add_key(struct listing *l, size_t arg, uint8_t flags)
{
    add(l, arg, COMMAND_ARG_KEY, flags);
}

/* Every argument in [from, to) that there is. */
static void add_keys(struct listing *l, size_t from, size_t to, uint8_t flags)
{
    for (size_t i = from; i < to && i < l->argc && l->status == COMMAND_KEYS_OK; i++)
        add_key(l, i, flags);
}

/* The server will refuse these arguments; should one that we don't know take them for keys after
 * all, then they are keys of ours. */
static void add_rest(struct listing *l, size_t from)
{
    add_keys(l, from, l->argc, ACCESS_UPDATE);
}

/* Is argv[i] the word, whatever the case of either? The server's strcasecmp ends at a NUL byte, and
 * so "STORE\0x" is STORE. */
static bool is_word(const struct listing *l, size_t i, const char *word)
{
    struct resp_slice arg = l->argv[i];
    size_t n = 0;
    while (word[n] && n < arg.len && fold(arg.data[n]) == fold(word[n]))
        n++;
    return !word[n] && (n == arg.len || arg.data[n] == '\0');
}

/* Options that take a fixed number of operands, none of them a key. */
struct option {
    const char *word;
    size_t operands;
};

/* The number of arguments the option at argv[i] takes, itself included; 0: none of these, or some
 * are missing. */
static size_t skip_option(const struct listing *l, size_t i, const struct option *options, size_t n)
{
    for (size_t k = 0; k < n; k++)
        if (l->argc - i > options[k].operands && is_word(l, i, options[k].word))
            return 1 + options[k].operands;
    return 0;
}

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC|DESC] [ALPHA] [STORE key], in
 * any order and as often as one likes (sortCommandGeneric). SORT_RO refuses STORE. */
static void walk_sort(struct listing *l)
{
    static const struct option plain[] = {{"asc", 0}, {"desc", 0}, {"alpha", 0}, {"limit", 2}};
    add_keys(l, 1, 2, ACCESS_READ);
    for (size_t i = 2, n; i < l->argc; i += n) {
        n = skip_option(l, i, plain, COUNT_OF(plain));
        if (n)
            continue;
        bool operand = i + 1 < l->argc;
        struct resp_slice name = l->argv[operand ? i + 1 : i];
        n = 2;
        if (operand && is_word(l, i, "store")) {
            add_key(l, i + 1, ACCESS_WRITE);
        } else if (operand && is_word(l, i, "by")) {
            if (name.len && memchr(name.data, '*', name.len)) /* without it: don't sort */
                add(l, i + 1, COMMAND_ARG_PATTERN, ACCESS_READ);
        } else if (operand && is_word(l, i, "get")) {
            if (!is_word(l, i + 1, "#")) /* the element itself */
                add(l, i + 1, COMMAND_ARG_PATTERN, ACCESS_READ);
        } else {
            add_rest(l, i);
            return;
        }
    }
}

/* GEORADIUS key longitude latitude radius unit, GEORADIUSBYMEMBER key member radius unit, then
 * options (georadiusGeneric). The last STORE wins, but all are listed. */
static void walk_georadius(struct listing *l, size_t options)
{
    static const struct option plain[] = {{"withdist", 0}, {"withhash", 0}, {"withcoord", 0},
                                          {"any", 0},      {"asc", 0},      {"desc", 0},
                                          {"count", 1}};
    add_keys(l, 1, 2, ACCESS_READ);
    for (size_t i = options, n; i < l->argc; i += n) {
        n = skip_option(l, i, plain, COUNT_OF(plain));
        if (n)
            continue;
        bool store = is_word(l, i, "store") || is_word(l, i, "storedist");
        if (!store || i + 1 == l->argc) {
            add_rest(l, i);
            return;
        }
        add_key(l, i + 1, ACCESS_WRITE);
        n = 2;
    }
}

/* Options, then STREAMS key ... id ... (xreadCommand). CLAIM is of a newer XREADGROUP; where the
 * server doesn't know it, it refuses it. */
static void walk_xread(struct listing *l)
{
    static const struct option plain[] = {
        {"block", 1}, {"count", 1}, {"group", 2}, {"noack", 0}, {"claim", 1}};
    size_t i = 1, n;
    while (i < l->argc && (n = skip_option(l, i, plain, COUNT_OF(plain))) > 0)
        i += n;
    if (i >= l->argc)
        return;
    size_t first = i + 1, operands = l->argc - first;
    if (!is_word(l, i, "streams"))
        add_rest(l, i);
    else if (operands % 2)
        add_rest(l, first);
    else
        add_keys(l, first, first + operands / 2, ACCESS_READ);
}

/* MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH password] [AUTH2 user password]
 * [KEYS key ...] (migrateCommand). Without KEYS, "" is a key like any other. */
static void walk_migrate(struct listing *l)
{
    static const struct option plain[] = {{"copy", 0}, {"replace", 0}, {"auth", 1}, {"auth2", 2}};
    if (l->argc < 4)
        return;
    size_t i = 6, n;
    while (i < l->argc && (n = skip_option(l, i, plain, COUNT_OF(plain))) > 0)
        i += n;
    bool keys = i < l->argc && is_word(l, i, "keys");
    if (!keys || l->argv[3].len > 0)
        add_key(l, 3, ACCESS_UPDATE);
    add_rest(l, keys ? i + 1 : i);
}

/* Where a spec's keys begin: an index, or 0 for nowhere. */
static size_t spec_begin(struct listing *l, const struct command_key_spec *s)
{
    if (s->begin == COMMAND_BEGIN_INDEX)
        return (size_t)s->index;
    int64_t argc = (int64_t)l->argc;
    /* The server looks at [index, argc - 1), or from argc + index down to 2. */
    int64_t from = s->index > 0 ? s->index : 2;
    int64_t to = s->index > 0 ? argc - 1 : argc + s->index + 1;
    size_t found = 0;
    for (int64_t i = from; i < to && i < argc; i++) {
        if (!is_word(l, (size_t)i, s->keyword))
            continue;
        if (found) /* one of them is the operand of something, and who knows which */
            l->status = COMMAND_KEYS_REFUSE;
        found = (size_t)i + 1;
    }
    return found;
}

static void walk_range(struct listing *l, const struct command_key_spec *s, size_t begin)
{
    int64_t argc = (int64_t)l->argc, first = (int64_t)begin, last;
    if (s->last >= 0)
        last = first + s->last;
    else if (s->limit)
        last = first + (argc - first) / s->limit + s->last;
    else
        last = argc + s->last;
    if (last >= argc) {
        add_rest(l, begin);
        return;
    }
    for (int64_t i = first; i <= last && l->status == COMMAND_KEYS_OK; i += s->step)
        add_key(l, (size_t)i, s->flags);
}

static void walk_keynum(struct listing *l, const struct command_key_spec *s, size_t begin)
{
    size_t count_at = begin + (size_t)s->keynum_index, first = begin + (size_t)s->first;
    if (count_at >= l->argc || first >= l->argc)
        return;
    size_t room = (l->argc - first - 1) / (size_t)s->keystep + 1;
    int64_t n;
    if (!resp_parse_int(l->argv[count_at], &n) || n < 0 || (uint64_t)n > room) {
        add_rest(l, first);
        return;
    }
    for (size_t i = 0; i < (size_t)n && l->status == COMMAND_KEYS_OK; i++)
        add_key(l, first + i * (size_t)s->keystep, s->flags);
}

static void walk_spec(struct listing *l, const struct command_key_spec *s)
{
    if (s->flags & COMMAND_KEY_NOT_KEY) /* the channel of SPUBLISH */
        return;
    if (spec_is_unknown(s)) {
        l->status = COMMAND_KEYS_REFUSE;
        return;
    }
    size_t begin = spec_begin(l, s);
    if (begin == 0 || begin >= l->argc)
        return;
    if (s->find == COMMAND_FIND_RANGE)
        walk_range(l, s, begin);
    else
        walk_keynum(l, s, begin);
}

static void walk_specs(struct listing *l, const struct command *c)
{
    for (size_t i = 0; i < c->n_specs && l->status == COMMAND_KEYS_OK; i++)
        walk_spec(l, &c->specs[i]);
}

static int by_arg(const void *a, const void *b)
{
    uint32_t x = ((const struct command_key *)a)->arg, y = ((const struct command_key *)b)->arg;
    return (x > y) - (x < y);
}

/* Specs may come in any order and overlap. */
static void sort_keys(struct command_keys *keys)
{
    size_t sorted = 1;
    while (sorted < keys->n && keys->v[sorted - 1].arg < keys->v[sorted].arg)
        sorted++;
    if (sorted >= keys->n)
        return;
    qsort(keys->v, keys->n, sizeof *keys->v, by_arg);
    size_t n = 1;
    for (size_t i = 1; i < keys->n; i++) {
        if (keys->v[i].arg == keys->v[n - 1].arg)
            keys->v[n - 1].flags |= keys->v[i].flags;
        else
            keys->v[n++] = keys->v[i];
    }
    keys->n = n;
}

enum command_keys_status command_list_keys(const struct command *c, const struct resp_slice *argv,
                                           size_t argc, struct command_keys *keys)
{
    struct listing l = {.argv = argv, .argc = argc, .keys = keys, .status = COMMAND_KEYS_OK};
    keys->n = 0;
    if (c->learned && c->keys_unknown)
        return COMMAND_KEYS_REFUSE;
    if (c->one_key_at_1 && keys->cap > 0 && argc > 1) { /* most commands */
        keys->v[0] =
            (struct command_key){.arg = 1, .kind = COMMAND_ARG_KEY, .flags = c->specs[0].flags};
        keys->n = 1;
        return COMMAND_KEYS_OK;
    }
    switch ((enum command_walk)c->walk) {
    case COMMAND_WALK_SPECS:
        walk_specs(&l, c);
        break;
    case COMMAND_WALK_SORT:
        walk_sort(&l);
        break;
    case COMMAND_WALK_GEORADIUS:
        walk_georadius(&l, c->id == COMMAND_ID_GEORADIUS ? 6 : 5);
        break;
    case COMMAND_WALK_XREAD:
        walk_xread(&l);
        break;
    case COMMAND_WALK_MIGRATE:
        walk_migrate(&l);
        break;
    }
    sort_keys(keys);
    return l.status;
}

/* --- error texts ----------------------------------------------------------------------------- */

enum { QUOTED_MAX = 128 }; /* bytes of a command's name or arguments that an error quotes */

/* Text that grows in a buffer of COMMAND_ERROR_MAX bytes and is cut there. */
struct text {
    char *buf;
    size_t len;
};

static void put(struct text *t, const char *p, size_t n)
{
    size_t room = COMMAND_ERROR_MAX - sizeof "\r\n" - t->len;
    if (n > room)
        n = room;
    if (n)
        memcpy(t->buf + t->len, p, n);
    t->len += n;
}

static void put_string(struct text *t, const char *s)
{
    put(t, s, strlen(s));
}

/* As printf's "%.*s" does it in the server: up to `max` bytes, up to a NUL. */
static void put_quoted(struct text *t, struct resp_slice s, size_t max)
{
    put(t, s.data, strnlen(s.data, s.len < max ? s.len : max));
}

static struct text begin_line(char *buf)
{
    struct text t = {.len = 0};
    t.buf = buf;
    put_string(&t, "-ERR ");
    return t;
}

/* Line breaks become spaces; the reply's own is added. Returns the length. */
static size_t end_line(struct text *t)
{
    for (size_t i = 0; i < t->len; i++)
        if (t->buf[i] == '\r' || t->buf[i] == '\n')
            t->buf[i] = ' ';
    memcpy(t->buf + t->len, "\r\n", sizeof "\r\n");
    return t->len + 2;
}

static size_t unknown_subcommand(const struct command *container, struct resp_slice name, char *buf)
{
    struct text t = begin_line(buf);
    put_string(&t, "unknown subcommand '");
    put_quoted(&t, name, QUOTED_MAX);
    put_string(&t, "'. Try ");
    for (const char *p = container->name; *p; p++)
        put(&t, &(char){*p >= 'a' && *p <= 'z' ? (char)(*p - 0x20) : *p}, 1);
    put_string(&t, " HELP.");
    return end_line(&t);
}

size_t command_unknown_error(const struct command_table *t, const struct resp_slice *argv,
                             size_t argc, char buf[COMMAND_ERROR_MAX])
{
    assert(argc > 0);
    const struct command *container = find_top(t, argv[0]);
    if (container && container->subcommands && argc > 1)
        return unknown_subcommand(container, argv[1], buf);
    struct text text = begin_line(buf);
    put_string(&text, "unknown command '");
    put_quoted(&text, argv[0], QUOTED_MAX);
    put_string(&text, "', with args beginning with: ");
    size_t start = text.len;
    for (size_t i = 1; i < argc && text.len - start < QUOTED_MAX; i++) {
        size_t max = QUOTED_MAX - (text.len - start);
        put_string(&text, "'");
        put_quoted(&text, argv[i], max);
        put_string(&text, "' ");
    }
    return end_line(&text);
}

size_t command_arity_error(const struct command *c, char buf[COMMAND_ERROR_MAX])
{
    struct text t = begin_line(buf);
    put_string(&t, "wrong number of arguments for '");
    put_string(&t, c->name);
    put_string(&t, "' command");
    return end_line(&t);
}
