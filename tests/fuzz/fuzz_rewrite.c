/* fuzz_rewrite.c - replies that carry keys, whole and in pieces: the same comes out, it is one
 * reply, and it is what a simple recursive rewriter makes of the whole.
 *
 * The input: a digit for the kind (KINDS), a byte for how the reply is cut, the prefix up to a
 * blank, the reply. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp.h"

/* Of a length line, which ends in CR LF and not in a NUL. */
static int64_t number_at(const char *p)
{
    bool negative = *p == '-';
    int64_t n = 0;
    for (p += negative; *p >= '0' && *p <= '9'; p++)
        n = 10 * n + (*p - '0');
    return negative ? -n : n;
}

static const enum resp_keys KINDS[] = {
    RESP_KEYS_NONE,    RESP_KEYS_ALL,   RESP_KEYS_FIRST,           RESP_KEYS_SCAN,
    RESP_KEYS_STREAMS, RESP_KEYS_ERROR, RESP_KEYS_GETKEYSANDFLAGS, RESP_KEYS_NAMED,
};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

/* Those of RESP_KEYS_NAMED. */
static const struct resp_slice NAMES[] = {{"a", 1}, {"user:1", 6}, {"", 0}, {"a\r\n", 3}};
enum { N_NAMES = sizeof NAMES / sizeof *NAMES };

struct input {
    enum resp_keys kind;
    uint8_t seed;
    struct resp_slice prefix;
    const char *bytes;
    size_t n;
};

/* --- the rewriter under test ----------------------------------------------------------------- */

struct pieces {
    uint32_t random;
    size_t most; /* bytes of a piece */
};

static size_t next_piece(struct pieces *pieces)
{
    pieces->random ^= pieces->random << 13;
    pieces->random ^= pieces->random >> 17;
    pieces->random ^= pieces->random << 5;
    return 1 + pieces->random % pieces->most;
}

static void collect(void *ctx, const char *p, size_t n)
{
    assert(n > 0);
    fwrite(p, 1, n, ctx);
}

struct outcome {
    enum resp_status status;
    size_t used;
    char *text;
    size_t size;
};

static struct outcome rewritten(const struct input *in, struct pieces *pieces)
{
    struct outcome o = {.status = RESP_MORE};
    FILE *out = open_memstream(&o.text, &o.size);
    struct resp_rewriter *rw = in->kind == RESP_KEYS_NAMED
                                   ? resp_rewriter_new_named(in->prefix, NAMES, N_NAMES)
                                   : resp_rewriter_new(in->kind, in->prefix);
    assert(out && rw);
    while (o.used < in->n && o.status == RESP_MORE) {
        size_t used, len = pieces ? next_piece(pieces) : in->n;
        if (len > in->n - o.used)
            len = in->n - o.used;
        char *block = malloc(len);
        assert(block);
        memcpy(block, in->bytes + o.used, len);
        o.status = resp_rewrite(rw, block, len, &used, collect, out);
        assert(o.status != RESP_MORE || used == len);
        o.used += used;
        free(block);
    }
    resp_rewriter_free(rw);
    fclose(out);
    return o;
}

/* --- the reference: recursive, on the whole -------------------------------------------------- */

struct reference {
    const struct input *in;
    const char *p; /* of a reply that is known to be well-formed */
    FILE *out;
};

/* Where an element is: how deep, its index in the inner and the outer aggregate, in a map or not.
 */
struct place {
    int depth;
    int64_t index, parent_index;
    bool in_attribute;
};

static bool is_key(enum resp_keys kind, struct place at, char top_type)
{
    if (kind == RESP_KEYS_NAMED)
        return true;
    if (at.in_attribute)
        return false;
    switch (kind) {
    case RESP_KEYS_ALL:
        return at.depth <= 1;
    case RESP_KEYS_FIRST:
        return at.depth == 1 && at.index == 0;
    case RESP_KEYS_SCAN:
        return at.depth == 2 && at.parent_index == 1;
    case RESP_KEYS_STREAMS:
        if (top_type == '%')
            return at.depth == 1 && at.index % 2 == 0;
        return at.depth == 2 && at.index == 0;
    case RESP_KEYS_GETKEYSANDFLAGS:
        return at.depth == 2 && at.index == 0;
    default:
        return false;
    }
}

static void copy(struct reference *r, const char *end)
{
    fwrite(r->p, 1, (size_t)(end - r->p), r->out);
    r->p = end;
}

static const char *line_end(const char *p)
{
    while (p[0] != '\r' || p[1] != '\n')
        p++;
    return p + 2;
}

/* Any name will do, unless names were given. */
static bool is_name(enum resp_keys kind, const char *data, size_t n)
{
    for (size_t i = 0; kind == RESP_KEYS_NAMED && i < N_NAMES; i++)
        if (NAMES[i].len == n && memcmp(NAMES[i].data, data, n) == 0)
            return true;
    return kind != RESP_KEYS_NAMED;
}

static void write_bulk(struct reference *r, bool key)
{
    const struct resp_slice *prefix = &r->in->prefix;
    const char *data = line_end(r->p);
    long long n = number_at(r->p + 1);
    if (n < 0) {
        copy(r, data);
        return;
    }
    size_t skip = 0;
    if (key && (size_t)n >= prefix->len && memcmp(data, prefix->data, prefix->len) == 0 &&
        is_name(r->in->kind, data + prefix->len, (size_t)n - prefix->len))
        skip = prefix->len;
    fprintf(r->out, "%c%lld\r\n", *r->p, n - (long long)skip);
    r->p = data + skip;
    copy(r, data + n + 2);
}

static bool starts_with(const char *p, const char *end, struct resp_slice s)
{
    return (size_t)(end - p) >= s.len && memcmp(p, s.data, s.len) == 0;
}

static void write_error(struct reference *r)
{
    struct resp_slice prefix = r->in->prefix;
    bool plain = memchr(prefix.data, '\r', prefix.len) || memchr(prefix.data, '\n', prefix.len);
    const char *end = line_end(r->p);
    if (plain) {
        copy(r, end);
        return;
    }
    while (r->p < end) {
        bool match = *r->p == '\'' && starts_with(r->p + 1, end, prefix);
        fputc(*r->p, r->out);
        r->p += match ? 1 + prefix.len : 1;
    }
}

static void write_element(struct reference *r, struct place at, char top_type);

static void write_aggregate(struct reference *r, struct place at, char top_type)
{
    char type = *r->p;
    bool pairs = type == '%' || type == '|';
    long long n = number_at(r->p + 1) * (pairs ? 2 : 1);
    copy(r, line_end(r->p));
    struct place in = {.depth = at.depth + 1,
                       .parent_index = at.index,
                       .in_attribute = at.in_attribute || type == '|'};
    for (in.index = 0; in.index < n; in.index++)
        write_element(r, in, top_type);
}

static void write_element(struct reference *r, struct place at, char top_type)
{
    /* Where names are looked for at any depth, what is behind an attribute counts as inside. */
    bool inside = at.depth > 0 || (*r->p == '|' && r->in->kind == RESP_KEYS_NAMED);
    while (*r->p == '|')
        write_aggregate(r, at, top_type);
    char type = *r->p;
    if (at.depth == 0)
        top_type = type;
    if (strchr("*%~>", type))
        write_aggregate(r, at, top_type);
    else if (type == '$')
        write_bulk(r, is_key(r->in->kind, at, top_type));
    else if (strchr("!=", type))
        write_bulk(r, false);
    else if (type == '-' && !inside && r->in->kind != RESP_KEYS_NONE)
        write_error(r);
    else
        copy(r, line_end(r->p));
}

static void check_against_reference(const struct input *in, const struct outcome *o)
{
    char *text;
    size_t size;
    struct reference r = {.in = in, .p = in->bytes, .out = open_memstream(&text, &size)};
    assert(r.out);
    write_element(&r, (struct place){0}, '\0');
    fclose(r.out);
    assert(r.p == in->bytes + o->used);
    assert(size == o->size && memcmp(text, o->text, size) == 0);
    free(text);
}

/* --- one input ------------------------------------------------------------------------------- */

static bool read_input(struct input *in, const uint8_t *data, size_t n)
{
    if (n < 3)
        return false;
    const uint8_t *blank = memchr(data + 2, ' ', n - 2);
    if (!blank)
        return false;
    in->kind = KINDS[(unsigned char)(data[0] - '0') % N_KINDS];
    in->seed = data[1];
    in->prefix = (struct resp_slice){(const char *)data + 2, (size_t)(blank - data) - 2};
    in->bytes = (const char *)blank + 1;
    in->n = n - (size_t)(blank + 1 - data);
    return true;
}

/* It is one reply, of the same type, and nothing more. */
static void check_framing(const struct input *in, const struct outcome *o)
{
    struct resp_framer before = {0}, after = {0};
    size_t used;
    enum resp_status status = resp_frame(&before, in->bytes, in->n, &used);
    assert(status == RESP_DONE && used == o->used);
    status = resp_frame(&after, o->text, o->size, &used);
    assert(status == RESP_DONE && used == o->size && before.type == after.type);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct input in;
    if (!read_input(&in, data, n))
        return 0;
    struct pieces pieces = {.random = in.seed * 2654435761u + 1,
                            .most = in.seed % 4 == 0 ? 1 : in.seed};
    struct outcome whole = rewritten(&in, NULL);
    struct outcome cut = rewritten(&in, &pieces);
    assert(whole.status == cut.status);
    if (whole.status != RESP_BAD) {
        assert(whole.used == cut.used && whole.size == cut.size);
        assert(memcmp(whole.text, cut.text, whole.size) == 0);
    }
    if (whole.status == RESP_DONE) {
        check_framing(&in, &whole);
        check_against_reference(&in, &whole);
    }
    free(whole.text);
    free(cut.text);
    return 0;
}
