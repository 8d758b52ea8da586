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
    caller_answer_text(c, "+OK\r\n");
}

void monitor_stop(struct proxy *p, struct caller *c)
{
    if (!c->monitors)
        return;
    c->monitors = false;
    p->n_monitors--;
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

static void show(struct proxy *p, struct caller *monitor, const struct text *line, bool itself)
{
    struct chain *out = caller_push(monitor);
    chain_append(out, line->p, line->len);
    caller_pushed(monitor);
    if (!itself)
        (void)pressure_check(p, monitor, 0);
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
    struct caller *m, *next;
    for (m = TAILQ_FIRST(&p->callers); m && !line.failed; m = next) {
        next = TAILQ_NEXT(m, entry);
        if (m->monitors && !m->kill)
            show(p, m, &line, m == c);
    }
    free(line.p);
}
