/* store.c - the keys of the scripted Redis, and what each of them has been. */
#include "store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

enum { RECORDS_MAX = 256, MEDIUM = 3 * 1000, BIG = 20 * 1000, HUGE_ = 150 * 1000 };

static void record_free(struct record *r)
{
    free(r->name);
    free(r->states);
}

void store_free(struct store *s)
{
    for (size_t i = 0; i < s->n; i++)
        record_free(&s->records[i]);
    record_free(&s->dummy);
    free(s->records);
    *s = (struct store){0};
}

static bool is_of(const struct record *r, uint32_t db, struct resp_slice name)
{
    return r->db == db && slice_equal((struct resp_slice){r->name, r->name_len}, name);
}

static struct record *add_record(struct store *s, uint32_t db, struct resp_slice name)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 16;
        s->records = memory_resize(s->records, s->cap * sizeof *s->records);
    }
    struct record *r = &s->records[s->n++];
    *r = (struct record){.db = db, .name = memory_new(name.len + 1), .name_len = name.len};
    if (name.len)
        memcpy(r->name, name.data, name.len);
    return r;
}

struct record *store_record(struct store *s, uint32_t db, struct resp_slice name)
{
    for (size_t i = 0; i < s->n; i++)
        if (is_of(&s->records[i], db, name))
            return &s->records[i];
    return s->n < RECORDS_MAX ? add_record(s, db, name) : &s->dummy;
}

size_t store_index(const struct store *s, const struct record *r)
{
    return r == &s->dummy ? SIZE_MAX : (size_t)(r - s->records);
}

void store_change(struct store *s, struct record *r, struct state state)
{
    if (r == &s->dummy)
        return;
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 4;
        r->states = memory_resize(r->states, r->cap * sizeof *r->states);
    }
    state.version = ++s->version;
    r->states[r->n++] = state;
}

struct state store_look(struct store *s, struct record *r, uint64_t now)
{
    if (r->n == 0)
        return (struct state){.absent = true};
    struct state last = r->states[r->n - 1];
    if (last.expires && now > last.expires) {
        store_change(s, r, (struct state){.absent = true, .time = last.expires});
        last = r->states[r->n - 1];
    }
    return last;
}

void store_change_all(struct store *s, uint64_t now)
{
    for (size_t i = 0; i < s->n; i++) {
        struct state state = store_look(s, &s->records[i], now);
        state.time = now;
        state.nonce = 0;
        store_change(s, &s->records[i], state);
    }
}

void store_remove_all(struct store *s, uint64_t now)
{
    for (size_t i = 0; i < s->n; i++)
        store_change(s, &s->records[i], (struct state){.absent = true, .time = now});
}

/* --- values -------------------------------------------------------------------------------------
 */

size_t store_padding(struct resp_slice name)
{
    if (name.len < 2)
        return 0;
    const char *last = name.data + name.len - 1;
    return *last == 'M' ? MEDIUM : *last == 'B' ? BIG : *last == 'H' ? HUGE_ : 0;
}

void store_value(struct buffer *out, char kind, uint64_t what, uint32_t db, struct state state,
                 size_t padding)
{
    char head[128];
    int n = snprintf(head, sizeof head, "%c:%llx:%u:%llu:%llu:", kind, (unsigned long long)what,
                     (unsigned)db, (unsigned long long)state.version,
                     (unsigned long long)state.expires);
    assert(n > 0 && (size_t)n < sizeof head);
    buffer_print(out, "$%zu\r\n", (size_t)n + padding);
    buffer_add(out, head, (size_t)n);
    for (size_t left = padding, some; left > 0; left -= some) {
        some = left < (size_t)n ? left : (size_t)n;
        buffer_add(out, head, some);
    }
    buffer_text(out, "\r\n");
}

/* The padding is the head, again and again. */
static bool is_padded(struct resp_slice text, size_t head)
{
    for (size_t at = head; at < text.len; at++)
        if (text.data[at] != text.data[at - head])
            return false;
    return true;
}

bool store_read_value(struct resp_slice text, char kind, struct seen *seen)
{
    char head[128];
    unsigned long long what, version, expires;
    int n = 0;
    size_t len = text.len < sizeof head - 1 ? text.len : sizeof head - 1;
    memcpy(head, text.data, len);
    head[len] = '\0';
    if (head[0] != kind ||
        sscanf(head + 1, ":%llx:%u:%llu:%llu:%n", &what, &seen->db, &version, &expires, &n) != 4)
        return false;
    seen->what = what;
    seen->version = version;
    seen->expires = expires;
    return n > 0 && is_padded(text, (size_t)n + 1);
}

/* --- what may be seen ---------------------------------------------------------------------------
 */

uint64_t store_floor(const struct record *r, uint64_t time)
{
    uint64_t floor = r->floor;
    for (size_t i = r->n; i > 0; i--)
        if (r->states[i - 1].time < time) {
            if (r->states[i - 1].version > floor)
                floor = r->states[i - 1].version;
            break;
        }
    return floor;
}

uint64_t store_acknowledge(struct record *r, uint64_t until)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < r->n && r->states[i].version <= until; i++)
        newest = r->states[i].version;
    if (r->floor < newest)
        r->floor = newest;
    return newest;
}

uint64_t store_find_nonce(const struct record *r, uint64_t nonce)
{
    for (size_t i = r->n; i > 0; i--)
        if (r->states[i - 1].nonce == nonce)
            return r->states[i - 1].version;
    return 0;
}

bool store_was_absent(const struct record *r, uint64_t version, uint64_t now)
{
    if (r->n == 0 || r->states[0].version > version)
        return true; /* before anything was written */
    for (size_t i = r->n; i > 0; i--) {
        const struct state *s = &r->states[i - 1];
        if (s->absent || (s->expires && s->expires <= now))
            return true;
        if (s->version <= version)
            return false; /* this is what it was then */
    }
    return true;
}
