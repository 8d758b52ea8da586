/* script.c - an input as a row of steps, and how inputs are made of one another. */
#include "script.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b,
                                 uint8_t *out, size_t max, unsigned seed);

static bool has_raw(uint8_t what)
{
    return what == STEP_RAW || what == STEP_SERVER_RAW;
}

bool script_next(struct script *s, struct step *step)
{
    if (s->at == s->end)
        return false;
    uint8_t head[SCRIPT_STEP] = {0};
    size_t left = (size_t)(s->end - s->at), n = left < SCRIPT_STEP ? left : SCRIPT_STEP;
    memcpy(head, s->at, n);
    s->at += n;
    left -= n;
    *step = (struct step){
        .what = head[0] % STEP_WHATS, .who = head[1], .a = head[2], .b = head[3], .raw = s->at};
    if (has_raw(step->what))
        step->n_raw = step->b < left ? step->b : left;
    s->at += step->n_raw;
    return true;
}

const char *script_name(uint8_t what)
{
    static const char *const names[] = {
        "command", "queue",  "any",    "raw",   "deliver", "connect", "shut",     "close",
        "deaf",    "read",   "answer", "held",  "flow",    "refuse",  "lie",      "garbage",
        "raw",     "push",   "break",  "deaf",  "read",    "write",   "connects", "mode",
        "time",    "settle", "turn",   "drain", "options", "memory"};
    return names[what % STEP_WHATS];
}

/* --- mutation -----------------------------------------------------------------------------------
 */

struct random {
    uint64_t state;
};

static unsigned below(struct random *r, unsigned n)
{
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(r->state >> 33) % n;
}

/* Where each step begins; one more for the end. */
struct row {
    size_t at[SCRIPT_STEPS_MAX + 1];
    size_t n;
};

static void find_steps(struct row *row, const uint8_t *data, size_t size)
{
    struct script s = {data + SCRIPT_HEADER, data + size};
    struct step step;
    row->n = 0;
    row->at[0] = SCRIPT_HEADER;
    while (row->n < SCRIPT_STEPS_MAX && script_next(&s, &step))
        row->at[++row->n] = (size_t)(s.at - data);
}

/* What is done often: commands, and answers to them. */
static const uint8_t likely[] = {
    STEP_COMMAND, STEP_COMMAND, STEP_COMMAND, STEP_COMMAND, STEP_COMMAND, STEP_QUEUE,
    STEP_QUEUE,   STEP_DELIVER, STEP_ANSWER,  STEP_ANSWER,  STEP_ANSWER,  STEP_HELD,
    STEP_FLOW,    STEP_SETTLE,  STEP_SETTLE,  STEP_TIME,    STEP_WRITE,   STEP_CLOSE,
    STEP_DEAF,    STEP_READ,    STEP_REFUSE,  STEP_BREAK,   STEP_PUSH,    STEP_TURN};

static size_t make_step(struct random *r, uint8_t out[SCRIPT_STEP + 64])
{
    bool usual = below(r, 4) > 0;
    out[0] = usual ? likely[below(r, sizeof likely)] : (uint8_t)below(r, STEP_WHATS);
    out[1] = (uint8_t)below(r, 4);
    out[2] = (uint8_t)(below(r, 3) ? below(r, 160) : below(r, 8));
    out[3] = (uint8_t)(below(r, 2) ? 0 : below(r, 256));
    if (!has_raw(out[0]))
        return SCRIPT_STEP;
    out[3] = (uint8_t)below(r, 60);
    for (unsigned i = 0; i < out[3]; i++)
        out[SCRIPT_STEP + i] = (uint8_t) "*$123+-:_%>~\r\n\r\nabcGETks 0"[below(r, 26)];
    return SCRIPT_STEP + (size_t)out[3];
}

/* Puts n bytes in place of data[from..to). */
static size_t replace(uint8_t *data, size_t size, size_t max, size_t from, size_t to,
                      const uint8_t *with, size_t n)
{
    if (size - (to - from) + n > max)
        return size;
    memmove(data + from + n, data + to, size - to);
    if (n)
        memcpy(data + from, with, n);
    return size - (to - from) + n;
}

static size_t insert_steps(struct random *r, uint8_t *data, size_t size, size_t max, size_t at)
{
    uint8_t step[SCRIPT_STEP + 64];
    for (unsigned n = 1 + below(r, 3); n > 0; n--) {
        size_t len = make_step(r, step);
        size = replace(data, size, max, at, at, step, len);
    }
    return size;
}

/* What only makes sense together: so many commands of one client, the first and the last of which
 * are given, answered. */
static size_t insert_story(struct random *r, uint8_t *data, size_t size, size_t max, size_t at)
{
    static const struct {
        uint8_t first, last;
    } stories[] = {{COMMAND_MULTI, COMMAND_EXEC},
                   {COMMAND_MULTI, COMMAND_EXEC},
                   {COMMAND_SET, COMMAND_GET},
                   {COMMAND_GET, COMMAND_GET},
                   {COMMAND_SUBSCRIBE, COMMAND_PUBLISH}};
    uint8_t steps[8 * SCRIPT_STEP], who = (uint8_t)below(r, 4), key = (uint8_t)below(r, 256);
    size_t which = below(r, sizeof stories / sizeof *stories), n = 2 + below(r, 5);
    uint8_t what = below(r, 3) ? STEP_COMMAND : STEP_QUEUE;
    for (size_t i = 0; i < n; i++) {
        uint8_t command = i == 0       ? stories[which].first
                          : i == n - 1 ? stories[which].last
                                       : (uint8_t)below(r, 180);
        memcpy(steps + i * SCRIPT_STEP, (uint8_t[]){what, who, command, key}, SCRIPT_STEP);
    }
    memcpy(steps + n * SCRIPT_STEP, (uint8_t[]){STEP_SETTLE, 0, 0, 0}, SCRIPT_STEP);
    return replace(data, size, max, at, at, steps, (n + below(r, 2)) * SCRIPT_STEP);
}

static size_t repeat_steps(struct random *r, uint8_t *data, size_t size, size_t max,
                           const struct row *row, size_t i)
{
    size_t k = i + 1 + below(r, 4);
    if (k > row->n)
        k = row->n;
    size_t len = row->at[k] - row->at[i];
    uint8_t *copy = memory_new(len + 1);
    memcpy(copy, data + row->at[i], len);
    size_t at = row->at[below(r, (unsigned)row->n + 1)];
    size = replace(data, size, max, at, at, copy, len);
    free(copy);
    return size;
}

/* One byte of a step; of its kind seldom. */
static void change_step(struct random *r, uint8_t *data, const struct row *row, size_t i)
{
    size_t len = row->at[i + 1] - row->at[i];
    size_t which = below(r, 8) ? 1 + below(r, 3) : 0;
    if (which >= len || (which == 3 && has_raw(data[row->at[i]])))
        return;
    uint8_t *byte = &data[row->at[i] + which];
    *byte = (uint8_t)(below(r, 3) == 0 ? *byte + 1 : below(r, 2) ? below(r, 8) : below(r, 256));
}

/* The bytes that follow a step. */
static size_t change_raw(struct random *r, uint8_t *data, size_t size, size_t max,
                         const struct row *row, size_t i)
{
    size_t at = row->at[i] + SCRIPT_STEP, end = row->at[i + 1];
    uint8_t raw[256];
    if (end <= at || !has_raw(data[row->at[i]]))
        return insert_steps(r, data, size, max, row->at[i]);
    memcpy(raw, data + at, end - at);
    size_t n = LLVMFuzzerMutate(raw, end - at, 255);
    size_t now = replace(data, size, max, at, end, raw, n);
    if (now == size - (end - at) + n)
        data[at - 1] = (uint8_t)n;
    return now;
}

static size_t mutate_once(struct random *r, uint8_t *data, size_t size, size_t max)
{
    struct row row;
    find_steps(&row, data, size);
    size_t i = row.n ? below(r, (unsigned)row.n) : 0;
    unsigned choice = row.n ? below(r, 20) : 0;
    if (choice < 2)
        return insert_story(r, data, size, max, row.at[below(r, (unsigned)row.n + 1)]);
    if (choice < 7)
        return insert_steps(r, data, size, max, row.at[below(r, (unsigned)row.n + 1)]);
    if (choice < 10) {
        size_t k = i + 1 + below(r, 3);
        return replace(data, size, max, row.at[i], row.at[k < row.n ? k : row.n], NULL, 0);
    }
    if (choice < 15) {
        change_step(r, data, &row, i);
        return size;
    }
    if (choice < 17)
        return repeat_steps(r, data, size, max, &row, i);
    if (choice < 19)
        return change_raw(r, data, size, max, &row, i);
    data[below(r, SCRIPT_HEADER)] = (uint8_t)below(r, 256);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct random r = {seed};
    (void)below(&r, 2);
    if (max < SCRIPT_HEADER + SCRIPT_STEP)
        return LLVMFuzzerMutate(data, size, max);
    for (; size < SCRIPT_HEADER; size++)
        data[size] = 0;
    if (below(&r, 50) == 0)
        size = LLVMFuzzerMutate(data, size, max);
    for (unsigned n = 1 + below(&r, 4); n > 0 && size >= SCRIPT_HEADER; n--)
        size = mutate_once(&r, data, size, max);
    return size;
}

/* The beginning of one, some steps of the other, the end of the first or nothing. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b,
                                 uint8_t *out, size_t max, unsigned seed)
{
    struct random r = {seed};
    struct row first, second;
    (void)below(&r, 2);
    if (n_a < SCRIPT_HEADER || n_b < SCRIPT_HEADER || n_a > max)
        return 0;
    find_steps(&first, a, n_a);
    find_steps(&second, b, n_b);
    size_t cut = first.at[below(&r, (unsigned)first.n + 1)];
    size_t from = below(&r, (unsigned)second.n + 1);
    size_t to = from + below(&r, (unsigned)(second.n - from) + 1);
    size_t size = below(&r, 2) ? cut : n_a;
    memcpy(out, a, size);
    return replace(out, size, max, cut, cut, b + second.at[from], second.at[to] - second.at[from]);
}
