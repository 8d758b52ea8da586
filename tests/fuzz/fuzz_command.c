/* fuzz_command.c - throws commands and learned key specs at the command table: whatever the
 * arguments, the keys listed are arguments, ascending and none twice, and an error is one line. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

enum { ARGS_MAX = 64 };

/* Arguments that mean something; the first byte of an argument picks one of them, or else tells the
 * length of what follows. */
static const char *const WORDS[] = {
    "0",     "1",        "2",     "3",      "-1",      "99999999999999999999",
    "get",   "by",       "*",     "w_*->f", "#",       "nosort",
    "asc",   "desc",     "alpha", "limit",  "store",   "STOREDIST",
    "any",   "withdist", "count", "block",  "group",   "noack",
    "claim", "streams",  "keys",  "copy",   "replace", "auth",
    "auth2", "key",      "",      "m.x",    "m",       "client",
};
enum { N_WORDS = sizeof WORDS / sizeof *WORDS };

struct input {
    const uint8_t *p, *end;
};

static uint8_t byte(struct input *in)
{
    return (uint8_t)(in->p < in->end ? *in->p++ : 0);
}

/* A block of its own, so that a read beyond the argument is seen. */
static struct resp_slice copy(const void *p, size_t n)
{
    char *data = malloc(n ? n : 1);
    assert(data);
    if (n)
        memcpy(data, p, n);
    return (struct resp_slice){data, n};
}

static struct resp_slice argument(struct input *in)
{
    uint8_t what = byte(in);
    if (what < N_WORDS)
        return copy(WORDS[what], strlen(WORDS[what]));
    size_t n = what % 160, left = (size_t)(in->end - in->p);
    struct resp_slice s = copy(in->p, n < left ? n : left);
    in->p += s.len;
    return s;
}

struct row_wanted {
    unsigned n;
    const struct command *command;
};

static void find_row(void *ctx, const struct command *c)
{
    struct row_wanted *w = ctx;
    if (w->n-- == 0)
        w->command = c;
}

/* The name of some row, in one argument or two. */
static size_t some_row(const struct command_table *t, struct input *in, struct resp_slice *argv)
{
    unsigned any = (unsigned)byte(in) << 8 | byte(in);
    struct row_wanted w = {.n = any % (unsigned)command_table_count(t)};
    command_table_each(t, find_row, &w);
    if (!w.command)
        return 0;
    const char *name = w.command->name, *bar = strchr(name, '|');
    argv[0] = copy(name, bar ? (size_t)(bar - name) : strlen(name));
    if (bar)
        argv[1] = copy(bar + 1, strlen(bar + 1));
    return bar ? 2 : 1;
}

static int number(struct input *in)
{
    uint8_t b = byte(in);
    return b < 16 ? (int)((unsigned)byte(in) << 24 | (unsigned)byte(in) << 16 | byte(in))
                  : (int)(int8_t)b / 16;
}

static struct command_key_spec some_spec(struct input *in)
{
    struct command_key_spec s = {
        .begin = byte(in) % 4, .find = byte(in) % 4, .flags = byte(in) % 8};
    s.index = number(in);
    s.keyword = byte(in) % 8 ? WORDS[byte(in) % N_WORDS] : NULL;
    s.last = number(in);
    s.step = number(in);
    s.limit = number(in);
    s.keynum_index = number(in);
    s.first = number(in);
    s.keystep = number(in);
    return s;
}

static void learn_something(struct command_table *t, struct input *in)
{
    static const char *const names[] = {"m.x",   "M.X",         "m",    "m|a",  "client|new", "get",
                                        "get|x", "zunionstore", "sort", "ping", "m|",         "|"};
    struct command c = {.name = names[byte(in) % (sizeof names / sizeof *names)]};
    c.arity = number(in);
    c.flags = (uint32_t)byte(in) << 8 | byte(in);
    c.n_specs = byte(in) % (COMMAND_SPECS_MAX + 2);
    for (size_t i = 0; i < c.n_specs && i < COMMAND_SPECS_MAX; i++)
        c.specs[i] = some_spec(in);
    if (!command_table_learn(t, &c))
        assert(c.name); /* refused: as good */
}

static void check_line(const char *buf, size_t n)
{
    assert(n >= 7 && n < COMMAND_ERROR_MAX);
    assert(memcmp(buf, "-ERR ", 5) == 0 && memcmp(buf + n - 2, "\r\n", 2) == 0);
    assert(!memchr(buf, '\r', n - 2) && !memchr(buf, '\n', n - 2) && !memchr(buf, '\0', n));
}

static void check_keys(const struct command *c, const struct resp_slice *argv, size_t argc)
{
    struct command_keys keys = {0};
    enum command_keys_status status = command_list_keys(c, argv, argc, &keys);
    assert(status != COMMAND_KEYS_NO_MEMORY);
    for (size_t i = 0; i < keys.n; i++) {
        assert(keys.v[i].arg >= 1 && keys.v[i].arg < argc);
        assert(i == 0 || keys.v[i - 1].arg < keys.v[i].arg);
        assert(!(keys.v[i].flags & COMMAND_KEY_NOT_KEY));
    }
    if (c->one_key_at_1 && command_arity_ok(c, argc))
        assert(status == COMMAND_KEYS_OK && keys.n == 1 && keys.v[0].arg == 1);
    command_keys_free(&keys);
}

static void check_command(const struct command_table *t, const struct resp_slice *argv, size_t argc)
{
    char buf[COMMAND_ERROR_MAX];
    const struct command *c = command_find(t, argv, argc);
    if (c) {
        check_keys(c, argv, argc);
        check_line(buf, command_arity_error(c, buf));
    } else if (argc > 0) {
        check_line(buf, command_unknown_error(t, argv, argc, buf));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct resp_slice argv[ARGS_MAX];
    struct command_table *t = command_table_new();
    assert(t);
    uint8_t how = byte(&in);
    for (unsigned i = 0; i < how % 4u; i++)
        learn_something(t, &in);
    if (how & 8) {
        command_table_forget(t);
        learn_something(t, &in);
    }
    size_t argc = how & 4 ? some_row(t, &in, argv) : 0;
    while (in.p < in.end && argc < ARGS_MAX)
        argv[argc++] = argument(&in);
    check_command(t, argv, argc);
    for (size_t i = 0; i < argc; i++)
        free((void *)(uintptr_t)argv[i].data);
    command_table_free(t);
    return 0;
}
