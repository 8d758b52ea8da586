/* judge.c - the verdict on each reply. */
#include "judge.h"

#include <stdio.h>
#include <string.h>

#include "sessions.h"

void judge_settle(const struct answer *a, enum outcome outcome)
{
    const struct operation *op = a->owed->op;
    (op->settle ? op->settle : load_settle)(a, outcome);
}

static bool begins(struct span s, const char *text)
{
    size_t n = strlen(text);
    return s.n >= n && memcmp(s.p, text, n) == 0;
}

/* An error that a fault explains; what it says of the command. LOADING and BUSY are said instead of
 * doing it. */
static bool is_accepted(const struct answer *a, enum outcome *outcome)
{
    struct load *l = a->load;
    struct reader at = *a->reader;
    struct span error;
    if (l->strict || !reader_error(&at, &error))
        return false;
    if (begins(error, "NEARCACHE "))
        *outcome = DOUBT;
    else if (begins(error, "LOADING ") || begins(error, "BUSY "))
        *outcome = UNDONE;
    else
        return false;
    *a->reader = at;
    a->client->troubled |= *outcome == DOUBT;
    a->client->paused_until = l->now + 5000 + dice_below(&l->dice, 150000);
    tally_error(&l->tally, error);
    return true;
}

enum verdict judge_reply(const struct answer *a)
{
    enum outcome outcome;
    if (is_accepted(a, &outcome)) {
        judge_settle(a, outcome);
        return AS_ASKED;
    }
    enum verdict verdict = a->owed->op->check(a);
    if (verdict == WRONG)
        return WRONG;
    tally_reply(&a->load->tally, a->owed->op->name);
    if (verdict != MORE)
        judge_settle(a, verdict == AS_ASKED ? DONE : UNDONE);
    return verdict;
}

/* A command of a transaction is queued now, and answered by EXEC. */
static enum verdict judge_queued(const struct answer *a)
{
    struct client *c = a->client;
    enum outcome outcome;
    if (a->owed->op->is_refused) {
        c->spoiled = true;
        return judge_reply(a);
    }
    if (is_accepted(a, &outcome)) {
        c->spoiled = true;
        judge_settle(a, outcome);
        return AS_ASKED;
    }
    if (!reader_text(a->reader, "+QUEUED\r\n") || c->n_queued == QUEUED_MAX)
        return WRONG;
    tally_reply(&a->load->tally, "QUEUED");
    c->queued[c->n_queued++] = *a->owed;
    return AS_ASKED;
}

static void remember(struct client *c, const struct owed *o, struct span seen)
{
    struct memory *m = &c->memories[c->n_memories++ % MEMORIES];
    m->command = o->op->name;
    snprintf(m->key, sizeof m->key, "%s", o->n && o->refs[0].key ? o->refs[0].key->name : "");
    tally_escape(m->reply, sizeof m->reply, seen.p, seen.n);
}

bool judge_frame(struct load *l, struct client *c, const char *p, size_t n)
{
    struct reader r = {p, p + n, c->resp};
    struct owed *o = client_head(c);
    struct span seen = {p, n};
    if (sessions_is_message(c, &r)) {
        if (sessions_check_message(l, c, &r) && r.at == r.end)
            return true;
        load_violation(l, c, NULL, "wrong message", seen);
        return false;
    }
    if (!o) {
        load_violation(l, c, NULL, "a reply that nobody asked for", seen);
        return false;
    }
    remember(c, o, seen);
    const struct answer a = {l, c, o, &r};
    bool queued = o->queued && c->multi == MULTI_OPEN;
    enum verdict verdict = queued ? judge_queued(&a) : judge_reply(&a);
    if (verdict == WRONG || r.at != r.end) {
        load_violation(l, c, o, "wrong reply", seen);
        return false;
    }
    if (verdict != MORE)
        client_pop(c);
    return true;
}

void judge_lost(struct load *l, struct client *c)
{
    struct owed *o;
    while ((o = client_head(c))) {
        judge_settle(&(struct answer){l, c, o, NULL}, DOUBT);
        client_pop(c);
    }
    sessions_lost(l, c);
}
