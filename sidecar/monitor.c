/* monitor.c - MONITOR: what all clients of this proxy ask for, shown as Redis shows it. */
#include "monitor.h"

#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "pressure.h"

void monitor_start(struct proxy *p, struct caller *c)
{
    if (c->capture) { /* from within EXEC */
        caller_answer_error(c, "ERR MONITOR isn't allowed for DENY BLOCKING client");
        return;
    }
    if (c->monitors)
        return;
    c->monitors = true;
    p->n_monitors++;
    p->crew->n_monitors++;
    caller_answer_text(c, "+OK\r\n");
}

void monitor_stop(struct proxy *p, struct caller *c)
{
    if (!c->monitors)
        return;
    c->monitors = false;
    p->n_monitors--;
    p->crew->n_monitors--;
}

/* --- one line -----------------------------------------------------------------------------------
 */

static void quote_byte(struct text *t, char byte)
{
    static const char plain[] = "\n\r\t\a\b\\\"", escaped[] = "nrtab\\\"";
    const char *at = byte ? strchr(plain, byte) : NULL;
    if (at)
        text_say(t, "\\%c", escaped[at - plain]);
    else if (byte >= ' ' && byte <= '~')
        text_append(t, &byte, 1);
    else
        text_say(t, "\\x%02x", (unsigned char)byte);
}

void monitor_quote(struct text *t, struct resp_slice s)
{
    text_append(t, "\"", 1);
    for (size_t i = 0; i < s.len; i++)
        quote_byte(t, s.data[i]);
    text_append(t, "\"", 1);
}

/* How many arguments behind the i-th are secret. */
static size_t secrets_behind(const struct command *command, const struct resp_slice *argv, size_t i)
{
    switch (command->id) {
    case COMMAND_ID_AUTH:
        return i == 0 ? 2 : 0;
    case COMMAND_ID_HELLO:
        return i >= 2 && resp_word_is(argv[i], "auth") ? 2 : 0;
    case COMMAND_ID_MIGRATE:
        return i < 6 ? 0 : resp_word_is(argv[i], "auth2") ? 2 : resp_word_is(argv[i], "auth");
    default:
        return 0;
    }
}

void monitor_quote_command(struct text *t, const struct command *command,
                           const struct resp_slice *argv, size_t argc)
{
    size_t secrets = 0;
    for (size_t i = 0; i < argc; i++) {
        if (i > 0)
            text_append(t, " ", 1);
        if (secrets > 0) {
            text_say(t, "\"(redacted)\"");
            secrets--;
        } else {
            monitor_quote(t, argv[i]);
            secrets = secrets_behind(command, argv, i);
        }
    }
}

/* Redis writes the line when the command has run: SELECT's has the new database. */
static uint32_t database(const struct proxy *p, const struct caller *c,
                         const struct command *command, const struct resp_slice *argv, size_t argc)
{
    int64_t db;
    if (command->id == COMMAND_ID_RESET)
        return p->address->db;
    bool selects = command->id == COMMAND_ID_SELECT && argc == 2 && resp_parse_int(argv[1], &db) &&
                   db >= 0 && db <= INT32_MAX;
    return selects ? (uint32_t)db : c->db;
}

/* "127.0.0.1:60866", or "unix:/path" for what CLIENT LIST calls "/path:0". */
static void say_address(struct text *t, const struct caller *c)
{
    char address[CONN_ADDRESS_MAX];
    conn_peer_address(c->conn, address);
    size_t len = strlen(address);
    if (len > 2 && strcmp(address + len - 2, ":0") == 0)
        text_say(t, "unix:%.*s", (int)(len - 2), address);
    else
        text_say(t, "%s", address);
}

static void show(struct proxy *p, struct caller *monitor, const char *line, size_t len, bool itself)
{
    struct chain *out = caller_push(monitor);
    chain_append(out, line, len);
    caller_pushed(monitor);
    if (!itself)
        (void)pressure_check(p, monitor, 0);
}

static void show_all(struct proxy *p, const char *line, size_t len, const struct caller *itself)
{
    struct caller *m, *next;
    for (m = TAILQ_FIRST(&p->callers); m && p->n_monitors; m = next) {
        next = TAILQ_NEXT(m, entry);
        if (m->monitors && !m->kill)
            show(p, m, line, len, m == itself);
    }
}

/* --- to those who watch at other workers --------------------------------------------------------
 */

struct line_letter {
    struct workers_letter letter; /* first */
    bool some_missing;
    size_t len;
    char line[];
};

static void kick_all(struct proxy *p)
{
    struct caller *m, *next;
    for (m = TAILQ_FIRST(&p->callers); m; m = next) {
        next = TAILQ_NEXT(m, entry);
        if (m->monitors && !m->kill)
            pressure_kick(p, m, "MONITOR has not kept up with the other workers' clients");
    }
}

static void deliver(struct workers_letter *letter, void *ctx)
{
    struct line_letter *l = (struct line_letter *)letter;
    struct proxy *p = ctx;
    if (p && l->some_missing)
        kick_all(p);
    else if (p)
        show_all(p, l->line, l->len, NULL);
    free(l);
}

/* What can't be taken any more is noticed with the next line that is. */
static bool post(struct proxy *p, size_t to, const struct text *line)
{
    struct line_letter *l = malloc(sizeof *l + line->len);
    if (!l)
        return false;
    l->letter.run = deliver;
    l->some_missing = p->monitors_miss_some;
    l->len = line->len;
    memcpy(l->line, line->p, line->len);
    if (workers_post(p->crew->workers, to, &l->letter))
        return true;
    free(l);
    return false;
}

static void tell_others(struct proxy *p, const struct text *line)
{
    bool all = true;
    for (size_t i = 0; i < p->crew->n; i++)
        if (i != p->number)
            all &= post(p, i, line);
    p->monitors_miss_some = !all;
}

void monitor_feed(struct proxy *p, struct caller *c, const struct command *command,
                  const struct resp_slice *argv, size_t argc)
{
    if (command->flags & COMMAND_FLAG_ADMIN)
        return;
    struct timeval now;
    struct text line = {0};
    gettimeofday(&now, NULL);
    text_say(&line, "+%ld.%06ld [%u ", (long)now.tv_sec, (long)now.tv_usec,
             (unsigned)database(p, c, command, argv, argc));
    say_address(&line, c);
    text_append(&line, "] ", 2);
    monitor_quote_command(&line, command, argv, argc);
    text_append(&line, "\r\n", 2);
    if (!line.failed)
        show_all(p, line.p, line.len, c);
    if (!line.failed && p->crew->n_monitors > p->n_monitors)
        tell_others(p, &line);
    free(line.p);
}
