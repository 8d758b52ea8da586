/* log.c - logfmt lines: escaping, time stamps, and one write per line. */
#include "log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    LINE_BYTES = 4096, /* PIPE_BUF: up to here a pipe takes a line whole, whoever else writes */
    LINE_TAIL = 8,     /* kept for what ends a line that is cut: ..." and the newline */
};

struct log {
    FILE *stream;
    enum log_level least;
};

struct line {
    size_t len;
    bool cut; /* it is full; what follows is left out */
    char text[LINE_BYTES];
};

struct log *log_new(FILE *stream, enum log_level least)
{
    struct log *log = malloc(sizeof *log);
    if (log)
        *log = (struct log){.stream = stream, .least = least};
    return log;
}

void log_free(struct log *log)
{
    free(log);
}

void log_set_level(struct log *log, enum log_level least)
{
    log->least = least;
}

bool log_enabled(const struct log *log, enum log_level level)
{
    return level >= log->least;
}

static void put(struct line *line, const char *text)
{
    size_t n = strlen(text);
    if (line->cut || n > LINE_BYTES - LINE_TAIL - line->len) {
        line->cut = true;
        return;
    }
    memcpy(line->text + line->len, text, n);
    line->len += n;
}

/* May use the reserve. */
static void put_tail(struct line *line, const char *text)
{
    size_t n = strlen(text);
    memcpy(line->text + line->len, text, n);
    line->len += n;
}

static bool is_plain(char c)
{
    return c > ' ' && c <= '~' && c != '"' && c != '=' && c != '\\';
}

static bool needs_quotes(const char *value)
{
    const char *p = value;
    while (is_plain(*p))
        p++;
    return *p || p == value;
}

static void put_escaped(struct line *line, char c)
{
    char text[5] = {c};
    if (c == '\n')
        put(line, "\\n");
    else if (c == '"' || c == '\\')
        put(line, (char[]){'\\', c, '\0'});
    else if (c < ' ' || c > '~') {
        snprintf(text, sizeof text, "\\x%02x", (unsigned char)c);
        put(line, text);
    } else
        put(line, text);
}

static void put_value(struct line *line, const char *value)
{
    if (line->cut)
        return;
    bool quoted = needs_quotes(value);
    if (quoted)
        put(line, "\"");
    bool opened = quoted && !line->cut;
    for (; *value && !line->cut; value++)
        put_escaped(line, *value);
    if (line->cut)
        put_tail(line, "...");
    if (opened)
        put_tail(line, "\"");
}

static void put_time(struct line *line)
{
    struct timespec now;
    struct tm tm;
    char seconds[32], text[48];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof text, "ts=%s.%03dZ", seconds, (int)(now.tv_nsec / 1000000));
    put(line, text);
}

static void put_pair(struct line *line, const char *name, const char *value)
{
    put(line, " ");
    put(line, name);
    put(line, "=");
    put_value(line, value);
}

void log_write(struct log *log, enum log_level level, const char *event, ...)
{
    static const char *const level_names[] = {
        [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};
    if (!log_enabled(log, level))
        return;
    struct line line;
    line.len = 0;
    line.cut = false;
    put_time(&line);
    put_pair(&line, "level", level_names[level]);
    put_pair(&line, "event", event);

    va_list pairs;
    va_start(pairs, event);
    for (const char *name; (name = va_arg(pairs, const char *));) {
        const char *value = va_arg(pairs, const char *);
        if (value)
            put_pair(&line, name, value);
    }
    va_end(pairs);

    put_tail(&line, "\n");
    fwrite(line.text, 1, line.len, log->stream); /* nobody is left to tell if this fails */
    fflush(log->stream);
}

bool log_limit_pass(struct log_limit *limit, uint64_t now, uint64_t interval_ms)
{
    if (now < limit->next) {
        limit->held++;
        return false;
    }
    limit->next = now + interval_ms;
    limit->suppressed = limit->held;
    limit->held = 0;
    return true;
}

const char *log_number(char buf[24], uint64_t n)
{
    snprintf(buf, 24, "%" PRIu64, n);
    return buf;
}
