/* nearest.c - edit distance, for "did you mean". */
#include "nearest.h"

#include <ctype.h>
#include <string.h>

enum { NAME_MAX_BYTES = 64 };

static char fold(char c)
{
    return c == '.' || c == '-' ? '_' : (char)tolower((unsigned char)c);
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Damerau and Levenshtein's: how many letters to insert, drop, change, or swap with the next one
 * (each place at most once). Both shorter than NAME_MAX_BYTES. */
static unsigned distance(const char *a, const char *b)
{
    unsigned rows[3][NAME_MAX_BYTES]; /* of the letters before the last, the last, and this one */
    unsigned *older = rows[0], *old = rows[1], *row = rows[2];
    size_t n = strlen(b);
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned *reused = older;
        older = old;
        old = row;
        row = reused;
        row[0] = i;
        for (unsigned j = 1; j <= n; j++) {
            char x = fold(a[i - 1]), y = fold(b[j - 1]);
            row[j] = least(least(old[j], row[j - 1]) + 1, old[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == fold(b[j - 2]) && fold(a[i - 2]) == y)
                row[j] = least(row[j], older[j - 2] + 1);
        }
    }
    return row[n];
}

/* The name itself, or a typed last part of it, which counts as one mistake. */
static unsigned farness(const char *typed, const char *name)
{
    const char *dot = strrchr(name, '.');
    unsigned whole = distance(typed, name);
    return dot && distance(typed, dot + 1) == 0 ? least(whole, 1) : whole;
}

const char *nearest_name(const char *typed, const char *const *names, size_t n)
{
    const char *nearest = NULL;
    size_t len = strlen(typed);
    unsigned limit = len < 6 ? 1 : (unsigned)(len / 3); /* of mistakes: one in three letters */
    if (len < 2 || len >= NAME_MAX_BYTES)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        unsigned far = strlen(names[i]) < NAME_MAX_BYTES ? farness(typed, names[i]) : limit + 1;
        if (far > limit || (nearest && far == limit))
            continue;
        limit = far;
        nearest = names[i];
    }
    return nearest;
}
