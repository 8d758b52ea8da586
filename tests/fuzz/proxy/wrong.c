/* wrong.c - the end of a run that has shown something wrong, and the trace. */
#include "wrong.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHOWN_MAX = 160 };

void wrong(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("WRONG: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

bool tracing(void)
{
    static int on = -1;
    if (on < 0)
        on = getenv("FUZZ_TRACE") != NULL;
    return on;
}

void trace(const char *format, ...)
{
    if (!tracing())
        return;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

static void show(const char *p, size_t n)
{
    for (size_t i = 0; i < n && i < SHOWN_MAX; i++)
        if (p[i] == '\r' || p[i] == '\n')
            fputs(p[i] == '\r' ? "\\r" : "\\n", stderr);
        else if (p[i] < ' ' || p[i] > '~')
            fprintf(stderr, "\\x%02x", (unsigned char)p[i]);
        else
            fputc(p[i], stderr);
    if (n > SHOWN_MAX)
        fprintf(stderr, "... (%zu bytes)", n);
}

void trace_command(const char *who, uint64_t id, const struct resp_slice *argv, size_t argc)
{
    if (!tracing())
        return;
    fprintf(stderr, "%s %llu:", who, (unsigned long long)id);
    for (size_t i = 0; i < argc; i++) {
        fputc(' ', stderr);
        show(argv[i].data, argv[i].len);
    }
    fputc('\n', stderr);
}

void trace_bytes(const char *who, uint64_t id, const char *p, size_t n)
{
    if (!tracing())
        return;
    fprintf(stderr, "%s %llu: ", who, (unsigned long long)id);
    show(p, n);
    fputc('\n', stderr);
}
