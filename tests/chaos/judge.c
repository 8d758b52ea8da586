/* judge.c - the verdict on each reply. */
#include "judge.h"

#include <stdio.h>
#include <string.h>

#include "operations.h"
#include "sessions.h"

static void settle(struct load *l, struct client *c, struct owed *o, enum outcome outcome)
{
    (o->op->settle ? o->op->settle : operations_settle)(l, c, o, outcome);
}

static bool begins(struct span s, const char *text)
{
    size_t n = strlen(text);
    return s.n >= n && memcmp(s.p, text, n) == 0;
}

/* An error that a fault explains; what it says of the command. LOADING and BUSY are said instead of
 * doing it. */
static bool is_accepted(struct load *l, struct client *c, struct reader *r, enum outcome *outcome)
{
    struct reader at = *r;
    struct span error;
    if (l->strict || !reader_error(&at, &error))
        return false;
    if (begins(error, "NEARCACHE "))
        *outcome = DOUBT;
    else if (begins(error, "LOADING ") || begins(error, "BUSY "))
        *outcome = UNDONE;
    else
        return false;
    *r = at;
    c->troubled |= *outcome == DOUBT;
    c->paused_until = l->now + 5000 + dice_below(&l->dice, 150000);
    tally_error(&l->tally, error);
    return true;
}

enum verdict judge_reply(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    enum outcome outcome;
    if (is_accepted(l, c, r, &outcome)) {
        settle(l, c, o, outcome);
        return AS_ASKED;
    }
    enum verdict verdict = o->op->check(l, c, o, r);
    if (verdict == WRONG)
        return WRONG;
    tally_reply(&l->tally, o->op->name);
    if (verdict != MORE)
        settle(l, c, o, verdict == AS_ASKED ? DONE : UNDONE);
    return verdict;
}

/* A command of a transaction is queued now, and answered by EXEC. */
static enum verdict judge_queued(struct load *l, struct client *c, struct owed *o, struct reader *r)
{
    enum outcome outcome;
    if (o->op->is_refused) {
        c->spoiled = true;
        return judge_reply(l, c, o, r);
    }
    if (is_accepted(l, c, r, &outcome)) {
        c->spoiled = true;
        settle(l, c, o, outcome);
        return AS_ASKED;
    }
    if (!reader_text(r, "+QUEUED\r\n") || c->n_queued == QUEUED_MAX)
        return WRONG;
    tally_reply(&l->tally, "QUEUED");
    c->queued[c->n_queued++] = *o;
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
    enum verdict verdict =
        o->queued && c->multi == MULTI_OPEN ? judge_queued(l, c, o, &r) : judge_reply(l, c, o, &r);
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
        settle(l, c, o, DOUBT);
        client_pop(c);
    }
    sessions_lost(l, c);
}
