/* load.c - what all commands of a run need. */
#include "load.h"

#include <inttypes.h>
#include <stdio.h>

/* --- values -------------------------------------------------------------------------------------
 */

uint32_t load_length(struct load *l, const struct client *c, uint32_t limit)
{
    static const uint32_t sizes[] = {100, 200, 2000, 4000, 40000, 300000, 4000000};
    uint64_t how = dice_below(&l->dice, 10000);
    unsigned i = how < 5000   ? 0
                 : how < 8000 ? 1
                 : how < 9200 ? 2
                 : how < 9700 ? 3
                 : how < 9985 ? 4
                              : 5;
    if (c->character.big && dice_chance(&l->dice, 30))
        i = 6;
    uint32_t n = (uint32_t)dice_below(&l->dice, sizes[i]);
    return n < limit ? n : limit;
}

struct value load_nonce(struct load *l, struct client *c, const char *name)
{
    return (struct value){.name = name,
                          .version = ++c->number,
                          .len = 48 + load_length(l, c, SMALL_MAX),
                          .nonce = c->nonce};
}

struct value load_overwrite(struct load *l, struct client *c, struct key *k, uint32_t limit)
{
    uint32_t version = key_add_piece(k, c->nonce, load_length(l, c, limit));
    struct state *s = key_write(k, false);
    s->n = 1;
    s->part[0] = version;
    return key_value(k, version, 0);
}

/* --- settling -----------------------------------------------------------------------------------
 */

enum verdict load_check_ok(const struct answer *a)
{
    return verdict(reader_text(a->reader, "+OK\r\n"));
}

static void note_watched(struct client *c, const struct ref *r, enum outcome outcome)
{
    if (c->watch == WATCH_NONE || c->watched != r->key || c->multi == MULTI_OPEN)
        return;
    if (outcome == DOUBT)
        c->watch = WATCH_UNKNOWN;
    else if (outcome == DONE && c->watch == WATCH_CLEAN)
        c->watch = WATCH_DIRTY;
}

void load_settle(const struct answer *a, enum outcome outcome)
{
    for (unsigned i = 0; i < a->owed->n; i++) {
        if (a->owed->refs[i].writes)
            note_watched(a->client, &a->owed->refs[i], outcome);
        model_settle(a->load->model, &a->owed->refs[i], outcome);
    }
}

/* --- violations ---------------------------------------------------------------------------------
 */

static void print_state(const struct key *k, uint32_t i)
{
    const struct state *s = &k->states[i];
    printf(" %" PRIu32 "%s:[", i, s->undone ? "(undone)" : "");
    for (unsigned j = 0; j < s->n; j++)
        printf("%s%" PRIu32, j ? " " : "", s->part[j]);
    printf("]");
    if (k->type == KEY_STRING)
        printf(" of %" PRIu64, key_length(k, s));
}

static void print_key(const struct ref *r)
{
    const struct key *k = r->key;
    uint32_t hi = r->exact ? r->hi : k->n_states - 1;
    printf("    %s in db %u of client %u%s%s, %" PRIu32 " states, may show", k->name, k->db,
           k->owner, k->doubtful ? ", in doubt" : "", k->lost ? ", lost" : "", k->n_states);
    for (uint32_t i = r->lo; i <= hi && i < r->lo + 8; i++)
        print_state(k, i);
    putchar('\n');
}

static void print_memories(const struct client *c)
{
    uint64_t first = c->n_memories > MEMORIES ? c->n_memories - MEMORIES : 0;
    for (uint64_t i = first; i < c->n_memories; i++) {
        const struct memory *m = &c->memories[i % MEMORIES];
        printf("    %s %s: %s\n", m->command, m->key, m->reply);
    }
}

void load_violation(struct load *l, const struct client *c, const struct owed *o, const char *what,
                    struct span seen)
{
    char text[300];
    l->tally.violations++;
    if (l->tally.violations > TALLY_SHOWN)
        return;
    tally_escape(text, sizeof text, seen.p, seen.n);
    printf("VIOLATION %s: seed %" PRIu64 ", client %u, connection %016" PRIx64
           ", db %u, RESP%u, %u owed%s, command %s, number %" PRIu64 ", %" PRIu32 " .. %" PRIu32
           "\n    seen %zu bytes: %s\n",
           what, l->seed, c->id, c->nonce, c->db, c->resp, c->n_owed,
           c->multi == MULTI_OPEN ? ", in MULTI" : "", o ? o->op->name : "none", o ? o->number : 0,
           o ? o->from : 0, o ? o->to : 0, seen.n, text);
    if (c->multi == MULTI_OPEN) {
        printf("    %u of the transaction not answered yet%s, watch %d:", c->n_queued,
               c->spoiled ? ", one was refused" : "", (int)c->watch);
        for (unsigned i = 0; i < c->n_queued; i++)
            printf(" %s", c->queued[i].op->name);
        putchar('\n');
    }
    for (unsigned i = 0; o && i < o->n; i++)
        if (o->refs[i].key)
            print_key(&o->refs[i]);
    print_memories(c);
    fflush(stdout);
}
