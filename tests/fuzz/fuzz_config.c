/* fuzz_config.c - any bytes as the configuration file, as a variable and as an option's value.
 *
 * What is accepted must print as a file that is accepted and prints the same.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config.h"

enum { SIZE_MAX_TRIED = 4096 };

/* The output of config_load, malloc'ed; *exit_code is its. */
static char *load(char **args, char **env, int *exit_code)
{
    char *out = NULL, *err = NULL;
    size_t out_len, err_len;
    struct config config;
    int argc = 0;
    while (args[argc])
        argc++;
    FILE *out_file = open_memstream(&out, &out_len), *err_file = open_memstream(&err, &err_len);
    if (!out_file || !err_file)
        abort();
    enum config_action action =
        config_load(&config, argc, args, env, out_file, err_file, exit_code);
    fclose(out_file);
    fclose(err_file);
    assert(action == CONFIG_EXIT); /* --print-config or an error */
    assert((*exit_code == 0) == (err_len == 0));
    free(err);
    return out;
}

static char *load_file(const char *text, size_t len, int *exit_code)
{
    char name[32];
    char *args[] = {"nearcache", "--print-config", "--config", name, NULL}, *env[] = {NULL};
    int fd = memfd_create("config", 0);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len)
        abort();
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    char *out = load(args, env, exit_code);
    close(fd);
    return out;
}

static void try_file(const char *text, size_t len)
{
    int exit_code, exit_code_again;
    char *out = load_file(text, len, &exit_code);
    if (exit_code == 0 && !strstr(out, "***")) {
        char *again = load_file(out, strlen(out), &exit_code_again);
        char *end = strstr(out, "\n  \"_from\": "), *end_again = strstr(again, "\n  \"_from\": ");
        assert(exit_code_again == 0);
        assert(end - out == end_again - again && memcmp(out, again, (size_t)(end - out)) == 0);
        free(again);
    }
    free(out);
}

/* "path=value": the harness splits nothing itself. */
static void try_text(const char *text)
{
    char option[SIZE_MAX_TRIED + 16], variable[SIZE_MAX_TRIED + 16];
    char *args[] = {"nearcache", "--print-config",        "--service=s",
                    "--set",     (char *)(uintptr_t)text, option,
                    NULL};
    char *env[] = {variable, NULL};
    char *none[] = {NULL};
    int exit_code;
    snprintf(option, sizeof option, "--%s", text);
    snprintf(variable, sizeof variable, "NEARCACHE_%s", text);
    free(load(args, none, &exit_code));
    args[3] = NULL;
    free(load(args, env, &exit_code));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[SIZE_MAX_TRIED + 1];
    if (size > SIZE_MAX_TRIED)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    /* These would read files that the input names; an escape could hide such a word. */
    if (strstr(text, "password_file") || strstr(text, "PASSWORD_FILE") || strstr(text, "onfig") ||
        strstr(text, "CONFIG") || strstr(text, "\\u"))
        return 0;
    try_file(text, size);
    try_text(text);
    return 0;
}
