/* keys.c - prints which arguments command_list_keys() lists, for tests/e2e/test_command_table.py.
 *
 * Reads one command a line, its arguments in hex and separated by blanks ("-" is the empty one):
 *     474554 6b6579
 * and answers with a line each: the error of an unknown command or a wrong arity, "refused", or the
 * class and then the arguments listed, a pattern with a 'p':
 *     read 1
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static const char *const CLASSES[] = {
    [COMMAND_READ] = "read",   [COMMAND_WRITE] = "write",   [COMMAND_SESSION] = "session",
    [COMMAND_LOCAL] = "local", [COMMAND_SCOPED] = "scoped", [COMMAND_ADMIN] = "admin",
};

static char nibble(char c)
{
    return (char)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* Decodes the line in place; returns the number of arguments. argv has room for all of them. */
static size_t decode(char *line, struct resp_slice *argv)
{
    size_t argc = 0;
    for (char *save, *word = strtok_r(line, " \n", &save); word;
         word = strtok_r(NULL, " \n", &save)) {
        size_t len = strcmp(word, "-") == 0 ? 0 : strlen(word) / 2;
        for (size_t i = 0; i < len; i++)
            word[i] = (char)(nibble(word[2 * i]) << 4 | nibble(word[2 * i + 1]));
        argv[argc++] = (struct resp_slice){word, len};
    }
    return argc;
}

static void answer(const struct command_table *t, const struct resp_slice *argv, size_t argc,
                   struct command_keys *keys)
{
    const struct command *c = command_find(t, argv, argc);
    if (!c || !command_arity_ok(c, argc)) {
        char error[COMMAND_ERROR_MAX];
        size_t len =
            c ? command_arity_error(c, error) : command_unknown_error(t, argv, argc, error);
        printf("%.*s\n", (int)len - 2, error);
        return;
    }
    if (command_list_keys(c, argv, argc, keys) != COMMAND_KEYS_OK) {
        puts("refused");
        return;
    }
    fputs(CLASSES[c->class_], stdout);
    for (size_t i = 0; i < keys->n; i++)
        printf(" %s%u", keys->v[i].kind == COMMAND_ARG_PATTERN ? "p" : "", keys->v[i].arg);
    puts("");
}

int main(void)
{
    struct command_table *t = command_table_new();
    struct command_keys keys = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    while (t && (len = getline(&line, &cap, stdin)) > 0) {
        struct resp_slice *argv = malloc(((size_t)len + 1) * sizeof *argv);
        if (!argv)
            return EXIT_FAILURE;
        answer(t, argv, decode(line, argv), &keys);
        free(argv);
    }
    free(line);
    command_keys_free(&keys);
    command_table_free(t);
    return t ? EXIT_SUCCESS : EXIT_FAILURE;
}
