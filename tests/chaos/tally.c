/* tally.c - what is counted. */
#include "tally.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void count(struct tally_name names[TALLY_NAMES], const char *text)
{
    unsigned i = 0;
    while (i < TALLY_NAMES - 1 && names[i].n && strcmp(names[i].text, text) != 0)
        i++;
    if (!names[i].n)
        snprintf(names[i].text, TALLY_TEXT, "%s", i < TALLY_NAMES - 1 ? text : "others");
    names[i].n++;
}

void tally_reply(struct tally *t, const char *command)
{
    t->replies++;
    count(t->commands, command);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

void tally_error(struct tally *t, struct span text)
{
    char out[TALLY_TEXT];
    size_t n = 0;
    for (size_t i = 0; i < text.n && n < sizeof out - 1; i++)
        if (!is_digit(text.p[i]))
            out[n++] = text.p[i];
        else if (n == 0 || out[n - 1] != '#')
            out[n++] = '#';
    out[n] = '\0';
    t->errors++;
    count(t->accepted, out);
}

static void print_names(const char *title, const struct tally_name names[TALLY_NAMES], bool in_rows)
{
    printf("%s:", title);
    for (unsigned i = 0; i < TALLY_NAMES && names[i].n; i++)
        printf("%s%" PRIu64 " %s", in_rows ? "\n    " : i ? ", " : " ", names[i].n, names[i].text);
    putchar('\n');
}

void tally_print(const struct tally *t)
{
    static const char *const endings[ENDINGS] = {"reset by the test",
                                                 "half-closed by the test",
                                                 "QUIT",
                                                 "cut while they were ending",
                                                 "cut within a reply",
                                                 "cut in a session",
                                                 "cut while replies were owed",
                                                 "cut after an error",
                                                 "given up after a violation",
                                                 "closed at the end"};
    print_names("checked", t->commands, false);
    print_names("errors accepted", t->accepted, true);
    printf("connections: %" PRIu64, t->connections);
    for (unsigned i = 0; i < ENDINGS; i++)
        if (t->endings[i])
            printf(", %" PRIu64 " %s", t->endings[i], endings[i]);
    printf("\nreplies %" PRIu64 ", messages %" PRIu64 ", MB %" PRIu64 ", errors accepted %" PRIu64
           ", read back %" PRIu64 "\n",
           t->replies, t->messages, t->bytes / 1000000, t->errors, t->read_back);
    printf("violations %" PRIu64 "\n", t->violations);
}

void tally_escape(char *out, size_t room, const char *p, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n && at + 8 < room; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c >= ' ' && c < 127 && c != '\\')
            out[at++] = (char)c;
        else if (c == '\r' || c == '\n')
            at += (size_t)snprintf(out + at, room - at, c == '\r' ? "\\r" : "\\n");
        else
            at += (size_t)snprintf(out + at, room - at, "\\x%02x", c);
    }
    out[at] = '\0';
    if (at + 8 >= room && n > 0)
        snprintf(out + at, room - at, "...");
}
