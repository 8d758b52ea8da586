/* json.c - JSON documents by way of cJSON, with the lines that cJSON does not keep.
 *
 * A small scanner cuts the text into tokens. It runs over the text once before cJSON does, to
 * refuse what cJSON takes too lightly and to say what was expected where, and once more beside
 * cJSON's tree, to know the line of each value.
 */
#include "json.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

enum {
    DEPTH_MAX = 32,
    JSON_PATH_MAX = 256, /* with the final NUL */
    WORD_MAX = 48,       /* the same, of a number, true, false or null */
};

struct scan {
    const char *p, *end;
    const char *token; /* [token, p) */
    unsigned line;     /* of the token */
    bool unclosed;     /* the token is a string that lacks its closing quote */
};

static struct scan scan_start(const char *text, size_t len)
{
    bool bom = len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0; /* cJSON skips it too */
    return (struct scan){.p = text + (bom ? 3 : 0), .end = text + len, .line = 1};
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_punctuation(char c)
{
    return c && strchr("{}[]:,", c);
}

static void skip_string(struct scan *s)
{
    for (s->p++; s->p < s->end && *s->p != '"'; s->p++)
        if (*s->p == '\\' && s->p + 1 < s->end)
            s->p++;
    s->unclosed = s->p == s->end;
    if (!s->unclosed)
        s->p++;
}

/* False: no more tokens. Whatever the text, each call moves on. */
static bool scan_next(struct scan *s)
{
    for (; s->p < s->end && is_space(*s->p); s->p++)
        s->line += *s->p == '\n';
    s->token = s->p;
    if (s->p == s->end)
        return false;
    if (is_punctuation(*s->p))
        s->p++;
    else if (*s->p == '"')
        skip_string(s);
    else
        while (s->p < s->end && !is_space(*s->p) && !is_punctuation(*s->p) && *s->p != '"')
            s->p++;
    return true;
}

static size_t token_len(const struct scan *s)
{
    return (size_t)(s->p - s->token);
}

/* What may come next, so that an error can say so. */
enum due {
    DUE_OBJECT,
    DUE_FIRST_NAME,
    DUE_NAME,
    DUE_COLON,
    DUE_FIRST,
    DUE_VALUE,
    DUE_MORE,
    DUE_END
};

struct grammar {
    enum due due;
    unsigned depth;
    bool in_array[DEPTH_MAX];
};

static bool innermost_is_array(const struct grammar *g)
{
    return g->in_array[g->depth - 1];
}

/* The caller has seen to the depth. */
static void open_container(struct grammar *g, char c)
{
    assert(g->depth < DEPTH_MAX);
    g->in_array[g->depth++] = c == '[';
    g->due = c == '[' ? DUE_FIRST : DUE_FIRST_NAME;
}

static bool close_container(struct grammar *g, char c)
{
    if (c != (innermost_is_array(g) ? ']' : '}'))
        return false;
    g->due = --g->depth ? DUE_MORE : DUE_END;
    return true;
}

static bool take_value(struct grammar *g, char c)
{
    if (c == '{' || c == '[')
        open_container(g, c);
    else
        g->due = DUE_MORE;
    return c == '{' || c == '[' || !is_punctuation(c);
}

static bool take_more(struct grammar *g, char c)
{
    if (c != ',')
        return close_container(g, c);
    g->due = innermost_is_array(g) ? DUE_VALUE : DUE_NAME;
    return true;
}

/* Takes the token that starts with c; false: it may not stand here. */
static bool take(struct grammar *g, char c)
{
    enum due due = g->due;
    switch (due) {
    case DUE_OBJECT:
        return c == '{' && take_value(g, c);
    case DUE_FIRST_NAME:
    case DUE_NAME:
        if (due == DUE_FIRST_NAME && c == '}')
            return close_container(g, c);
        g->due = DUE_COLON;
        return c == '"';
    case DUE_COLON:
        g->due = DUE_VALUE;
        return c == ':';
    case DUE_FIRST:
    case DUE_VALUE:
        if (due == DUE_FIRST && c == ']')
            return close_container(g, c);
        return take_value(g, c);
    case DUE_MORE:
        return take_more(g, c);
    case DUE_END:
        return false;
    }
    return false;
}

static const char *expected(const struct grammar *g, enum due due)
{
    static const char *const texts[] = {
        [DUE_OBJECT] = "'{'",
        [DUE_FIRST_NAME] = "a name in double quotes or '}'",
        [DUE_NAME] = "a name in double quotes",
        [DUE_COLON] = "':'",
        [DUE_FIRST] = "a value or ']'",
        [DUE_VALUE] = "a value",
        [DUE_END] = "nothing more",
    };
    if (due == DUE_MORE)
        return innermost_is_array(g) ? "',' or ']'" : "',' or '}'";
    return texts[due];
}

/* A string or word in the wrong place may be a password, or the rest of one behind a quote in it.
 */
static bool say_expected(const struct grammar *g, enum due due, const struct scan *s,
                         char error[JSON_ERROR_MAX])
{
    const char *what = expected(g, due);
    size_t n = token_len(s);
    if (n == 0)
        snprintf(error, JSON_ERROR_MAX, "expected %s, but the text ends", what);
    else if (is_punctuation(*s->token))
        snprintf(error, JSON_ERROR_MAX, "expected %s, not %c", what, *s->token);
    else
        snprintf(error, JSON_ERROR_MAX, "expected %s, not a %s", what,
                 *s->token == '"' ? "string" : "word without double quotes");
    return false;
}

static bool say(char error[JSON_ERROR_MAX], const char *text)
{
    snprintf(error, JSON_ERROR_MAX, "%s", text);
    return false;
}

static bool has_control(const struct scan *s)
{
    for (const char *p = s->token; p < s->p; p++)
        if ((unsigned char)*p < ' ')
            return true;
    return false;
}

/* C strings cannot hold it, and cJSON would cut there. */
static bool has_nul(const char *p, size_t len)
{
    const char *end = p + len;
    if (memchr(p, '\0', len))
        return true;
    for (; p + 6 <= end; p++) {
        if (*p != '\\')
            continue;
        if (memcmp(p, "\\u0000", 6) == 0)
            return true;
        p++;
    }
    return false;
}

static bool check_token(const struct scan *s, const struct grammar *g, char error[JSON_ERROR_MAX])
{
    size_t n = token_len(s);
    char first = s->token[0];
    if ((first == '{' || first == '[') && g->depth == DEPTH_MAX)
        return say(error, "nested too deep");
    if (first == '[' && g->depth && innermost_is_array(g))
        return say(error, "an array inside of an array has no meaning here");
    if (first == '"' && has_control(s))
        return say(error, "a line break or control character in a string; is a quote missing?");
    if (first == '"' && s->unclosed)
        return say(error, "a string without its closing quote");
    if (has_nul(s->token, n))
        return say(error, "a NUL character");
    if (!is_punctuation(first) && first != '"' && (n >= WORD_MAX || has_control(s)))
        return say_expected(g, g->due, s, error);
    return true;
}

/* Whether the tokens are those of one object, in the right order; words and escapes are left to
 * cJSON. */
static bool check(const char *text, size_t len, char error[JSON_ERROR_MAX], unsigned *line)
{
    struct scan s = scan_start(text, len);
    struct grammar g = {.due = DUE_OBJECT};
    while (scan_next(&s)) {
        *line = s.line;
        enum due due = g.due;
        if (!check_token(&s, &g, error))
            return false;
        if (!take(&g, s.token[0]))
            return say_expected(&g, due, &s, error);
    }
    *line = s.line;
    return g.due == DUE_END || say_expected(&g, g.due, &s, error);
}

/* The token in which cJSON stopped: a word it does not know or a bad escape. */
static void say_where(const char *text, size_t len, size_t at, char error[JSON_ERROR_MAX],
                      unsigned *line)
{
    struct scan s = scan_start(text, len);
    while (scan_next(&s) && (size_t)(s.p - text) <= at)
        ;
    *line = s.line;
    if (s.token < s.end && *s.token == '"')
        say(error, "a wrong escape in a string");
    else
        say_expected(&(struct grammar){0}, DUE_VALUE, &s, error);
}

/* The caller's text gets a NUL behind it first: cJSON before 1.7.18 reads one byte too far in a
 * text such as {"a":1, that has none. *end, if given, is how far it came. */
static cJSON *parse(const char *text, size_t len, size_t *end)
{
    const char *stopped = NULL;
    char *copy = malloc(len + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    cJSON *tree = cJSON_ParseWithLengthOpts(copy, len + 1, &stopped, false);
    *end = stopped ? (size_t)(stopped - copy) : len;
    free(copy);
    return tree;
}

struct walk {
    struct scan scan; /* in step with the tree */
    bool (*each)(void *ctx, const struct json_value *v);
    void *ctx;
    char *error;
    size_t path_len;
    char path[JSON_PATH_MAX];
};

/* cJSON took the text, so there is a token for each of its nodes. */
static void walk_next(struct walk *w)
{
    bool more = true;
    do
        more = scan_next(&w->scan);
    while (more && (*w->scan.token == ',' || *w->scan.token == ':'));
    assert(more);
}

static enum json_type type_of(const cJSON *node)
{
    if (cJSON_IsString(node))
        return JSON_STRING;
    if (cJSON_IsNumber(node))
        return JSON_NUMBER;
    if (cJSON_IsBool(node))
        return JSON_BOOL;
    if (cJSON_IsArray(node))
        return JSON_ARRAY;
    return cJSON_IsObject(node) ? JSON_OBJECT : JSON_NULL;
}

static bool walk_emit(struct walk *w, const cJSON *node, int index)
{
    char word[WORD_MAX] = "";
    struct json_value v = {
        .path = w->path, .type = type_of(node), .text = word, .line = w->scan.line, .index = index};
    if (v.type == JSON_STRING)
        v.text = node->valuestring;
    else if (v.type != JSON_ARRAY && v.type != JSON_OBJECT)
        snprintf(word, sizeof word, "%.*s", (int)token_len(&w->scan), w->scan.token);
    return w->each(w->ctx, &v);
}

/* Appends ".name" to the path; false: too long. */
static bool path_push(struct walk *w, const char *name)
{
    size_t n = strlen(name), dot = w->path_len > 0;
    if (n + dot >= JSON_PATH_MAX - w->path_len)
        return say(w->error, "a name that is too long");
    if (dot)
        w->path[w->path_len] = '.';
    memcpy(w->path + w->path_len + dot, name, n + 1);
    w->path_len += n + dot;
    return true;
}

static void path_cut(struct walk *w, size_t len)
{
    w->path_len = len;
    w->path[len] = '\0';
}

static bool walk_container(struct walk *w, const cJSON *node);

/* The scan stands at the node's first token, and is left at its last. */
static bool walk_value(struct walk *w, const cJSON *node, int index)
{
    if (!node->child && !walk_emit(w, node, index))
        return false;
    return (!cJSON_IsArray(node) && !cJSON_IsObject(node)) || walk_container(w, node);
}

static bool walk_container(struct walk *w, const cJSON *node)
{
    int index = 0;
    size_t outer = w->path_len;
    for (const cJSON *child = node->child; child; child = child->next) {
        walk_next(w);
        if (cJSON_IsObject(node)) { /* that was the name */
            if (!path_push(w, child->string))
                return false;
            walk_next(w);
        }
        if (!walk_value(w, child, cJSON_IsArray(node) ? index++ : -1))
            return false;
        path_cut(w, outer);
    }
    walk_next(w); /* the closing bracket */
    return true;
}

bool json_walk(const char *text, size_t len, bool (*each)(void *ctx, const struct json_value *v),
               void *ctx, char error[JSON_ERROR_MAX], unsigned *line)
{
    size_t stopped = 0;
    error[0] = '\0';
    *line = 1;
    if (!check(text, len, error, line))
        return false;
    cJSON *tree = parse(text, len, &stopped);
    if (!tree) {
        say_where(text, len, stopped, error, line);
        return false;
    }
    struct walk w = {.scan = scan_start(text, len), .each = each, .ctx = ctx, .error = error};
    walk_next(&w);
    bool ok = !tree->child || walk_value(&w, tree, -1);
    *line = w.scan.line;
    cJSON_Delete(tree);
    return ok;
}

/* Depth only; the rest is cJSON's business. */
static bool too_deep(const char *text, size_t len)
{
    struct scan s = scan_start(text, len);
    unsigned depth = 0;
    while (scan_next(&s)) {
        if (*s.token == '{' || *s.token == '[')
            depth++;
        else if ((*s.token == '}' || *s.token == ']') && depth)
            depth--;
        if (depth > DEPTH_MAX)
            return true;
    }
    return false;
}

static bool only_space(const char *p, const char *end)
{
    while (p < end && is_space(*p))
        p++;
    return p == end;
}

/* A struct json_object is cJSON's tree under another name. */
static const cJSON *member(const struct json_object *o, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive((const cJSON *)o, name);
}

struct json_object *json_object_parse(const char *text, size_t len)
{
    size_t end = 0;
    if (has_nul(text, len) || too_deep(text, len))
        return NULL;
    cJSON *tree = parse(text, len, &end);
    if (tree && (!cJSON_IsObject(tree) || !only_space(text + end, text + len))) {
        cJSON_Delete(tree);
        tree = NULL;
    }
    return (struct json_object *)tree;
}

void json_object_free(struct json_object *o)
{
    cJSON_Delete((cJSON *)o);
}

const char *json_object_string(const struct json_object *o, const char *name)
{
    return cJSON_GetStringValue(member(o, name));
}

bool json_object_number(const struct json_object *o, const char *name, double *out)
{
    const cJSON *found = member(o, name);
    if (!cJSON_IsNumber(found))
        return false;
    *out = found->valuedouble;
    return true;
}

char *json_print_strings(const char *const *names_and_values)
{
    cJSON *tree = cJSON_CreateObject();
    bool ok = tree;
    for (; ok && *names_and_values; names_and_values += 2)
        ok = cJSON_AddStringToObject(tree, names_and_values[0], names_and_values[1]);
    char *text = ok ? cJSON_PrintUnformatted(tree) : NULL;
    cJSON_Delete(tree);
    return text;
}

char *json_print_string(const char *value)
{
    cJSON *tree = cJSON_CreateString(value);
    char *text = tree ? cJSON_PrintUnformatted(tree) : NULL;
    cJSON_Delete(tree);
    return text;
}
