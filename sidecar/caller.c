/* caller.c - the FIFO of replies owed to a client. */
#include "caller.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

void caller_init(struct caller *c, struct loop *loop)
{
    *c = (struct caller){.magic = CALLER_MAGIC, .resp = 2, .loop = loop};
    chain_init(&c->discard, &loop->pool);
}

static void request_free(struct request *r)
{
    assert(r->writes.n == 0 && !r->writes.all && !r->rewriter && !r->mget && !r->transaction);
    chain_clear(&r->body);
    chain_clear(&r->after);
    budget_give(&r->loop->budget, sizeof *r);
    r->magic = 0;
    spares_give(&r->loop->requests, r);
}

/* What waits for an earlier reply, or behind this one, is the client's doing too: with the chunks
 * that it takes up, of which a short answer has one to itself. */
static void count_parked(struct request *r)
{
    size_t parked = r->body.footprint + r->after.footprint;
    r->caller->parked += parked - r->parked;
    r->parked = parked;
}

static struct request *pop(struct caller *c)
{
    struct request *r = c->head;
    c->head = r->next;
    if (!c->head)
        c->tail = NULL;
    c->owed--;
    c->owed_bytes -= r->cost;
    c->parked -= r->parked;
    r->parked = 0;
    r->caller = NULL;
    r->next = NULL;
    return r;
}

void caller_leave(struct caller *c)
{
    while (c->head) {
        struct request *r = pop(c);
        chain_clear(&r->body);
        chain_clear(&r->after);
        if (r->state == REQUEST_DONE)
            request_free(r);
    }
    free(c->name);
    free(c->lib_name);
    free(c->lib_version);
    c->name = c->lib_name = c->lib_version = NULL;
    c->conn = NULL;
}

/* The head's bytes go out; finished requests leave, and the next one is the head. */
static void advance(struct caller *c)
{
    while (c->head) {
        if (c->head->body.len || c->head->body.failed) {
            chain_move(conn_out(c->conn), &c->head->body);
            count_parked(c->head);
        }
        if (c->head->state != REQUEST_DONE)
            break;
        struct request *r = pop(c);
        if (r->after.len || r->after.failed)
            chain_move(conn_out(c->conn), &r->after);
        if (r->exclusive)
            c->exclusive = false;
        request_free(r);
    }
    if (!c->head)
        c->asked = 0;
    conn_send(c->conn);
    c->progress(c);
}

/* --- immediate answers --------------------------------------------------------------------------
 */

static bool is_muted(const struct caller *c)
{
    return c->reply_off || c->reply_skip;
}

void caller_next_command(struct caller *c)
{
    c->reply_skip = c->reply_skip_next;
    c->reply_skip_next = false;
}

struct chain *caller_reply(struct caller *c)
{
    if (c->capture)
        return c->capture;
    if (is_muted(c))
        return &c->discard;
    if (!c->head)
        return conn_out(c->conn);
    if (c->tail->state == REQUEST_DONE && !c->tail->after.len && !c->tail->after.failed)
        return &c->tail->body; /* both leave when it is their turn */
    struct request *r = request_new(c);
    if (!r) {
        conn_out(c->conn)->failed = true; /* a missing reply would shift all later ones */
        return conn_out(c->conn);
    }
    r->state = REQUEST_DONE;
    return &r->body;
}

void caller_replied(struct caller *c)
{
    if (c->discard.len)
        chain_clear(&c->discard);
    if (c->capture)
        return;
    if (c->tail)
        count_parked(c->tail);
    conn_send(c->conn);
}

void caller_answer(struct caller *c, const char *reply, size_t len)
{
    chain_append(caller_reply(c), reply, len);
    caller_replied(c);
}

void caller_answer_text(struct caller *c, const char *reply)
{
    caller_answer(c, reply, strlen(reply));
}

void caller_answer_error(struct caller *c, const char *text)
{
    struct chain *out = caller_reply(c);
    chain_append(out, "-", 1);
    for (const char *p = text; *p; p++)
        chain_append(out, *p == '\r' || *p == '\n' ? " " : p, 1);
    chain_append(out, "\r\n", 2);
    caller_replied(c);
}

void caller_answer_bulk(struct caller *c, const char *p, size_t n)
{
    wire_bulk(caller_reply(c), (struct resp_slice){p, n});
    caller_replied(c);
}

void caller_answer_integer(struct caller *c, int64_t n)
{
    wire_integer(caller_reply(c), n);
    caller_replied(c);
}

void caller_answer_null(struct caller *c)
{
    caller_answer_text(c, c->resp == 3 ? "_\r\n" : "$-1\r\n");
}

void caller_answer_verbatim(struct caller *c, const char *p, size_t n)
{
    struct chain *out = caller_reply(c);
    if (c->resp == 3) {
        wire_header(out, '=', n + 4);
        chain_append(out, "txt:", 4);
        chain_append(out, p, n);
        chain_append(out, "\r\n", 2);
    } else {
        wire_bulk(out, (struct resp_slice){p, n});
    }
    caller_replied(c);
}

void caller_map_header(const struct caller *c, struct chain *out, uint64_t n)
{
    wire_header(out, c->resp == 3 ? '%' : '*', c->resp == 3 ? n : 2 * n);
}

/* --- messages -----------------------------------------------------------------------------------
 */

struct chain *caller_push(struct caller *c)
{
    return c->head && c->head->begun ? &c->head->after : conn_out(c->conn);
}

void caller_pushed(struct caller *c)
{
    if (c->head)
        count_parked(c->head);
    conn_send(c->conn);
}

/* --- later ones ---------------------------------------------------------------------------------
 */

/* Not in the FIFO yet. */
static struct request *request_make(struct caller *c)
{
    struct request *r = spares_take(&c->loop->requests, sizeof *r);
    if (!r)
        return NULL;
    budget_take(&c->loop->budget, sizeof *r);
    *r = (struct request){
        .magic = REQUEST_MAGIC, .loop = c->loop, .caller = c, .muted = is_muted(c)};
    chain_init(&r->body, &c->loop->pool);
    chain_init(&r->after, &c->loop->pool);
    return r;
}

void caller_not_sent(struct caller *c)
{
    if (!c->lane)
        return;
    c->unsent = c->quitting = true;
}

struct request *request_new(struct caller *c)
{
    struct request *r = request_make(c);
    if (!r)
        return NULL;
    if (c->tail)
        c->tail->next = r;
    else
        c->head = r;
    c->tail = r;
    c->owed++;
    return r;
}

/* Where more of its reply goes; NULL: to nobody. */
static struct chain *more_of(struct request *r)
{
    assert(r->magic == REQUEST_MAGIC && r->state == REQUEST_WAITING);
    struct caller *c = r->caller;
    if (!c || r->muted)
        return NULL;
    r->begun = true;
    return c->head == r ? conn_out(c->conn) : &r->body;
}

static void more_came(struct request *r)
{
    if (r->caller->head == r)
        conn_send(r->caller->conn);
    else
        count_parked(r);
}

void request_bytes(struct request *r, const char *p, size_t n)
{
    struct chain *to = more_of(r);
    if (!to)
        return;
    chain_append(to, p, n);
    more_came(r);
}

void request_chain(struct request *r, struct chain *bytes)
{
    struct chain *to = more_of(r);
    if (!to) {
        chain_clear(bytes);
        return;
    }
    chain_move(to, bytes);
    more_came(r);
}

void request_done(struct request *r)
{
    assert(r->magic == REQUEST_MAGIC && r->state == REQUEST_WAITING);
    struct caller *c = r->caller;
    r->state = REQUEST_DONE;
    if (!c)
        request_free(r);
    else if (c->head == r)
        advance(c);
}

void request_fail(struct request *r, const char *line)
{
    if (r->caller && r->begun) {
        /* Half a reply can't be taken back: what followed it would be read as its rest. */
        r->caller->kill = true;
        r->caller->progress(r->caller);
    } else if (r->caller) {
        request_bytes(r, line, strlen(line));
    }
    request_done(r);
}

/* Takes the place of r in the FIFO. */
static void put_in_place(struct request *r, struct request *stand_in)
{
    struct caller *c = r->caller;
    struct request **at = &c->head;
    while (*at != r)
        at = &(*at)->next;
    *at = stand_in;
    stand_in->next = r->next;
    if (c->tail == r)
        c->tail = stand_in;
    c->parked -= r->parked;
    r->parked = 0;
    r->caller = NULL;
    r->next = NULL;
}

void request_abandon(struct request *r, const char *line)
{
    struct caller *c = r->caller;
    if (!c)
        return;
    assert(!r->begun);
    struct request *stand_in = request_make(c);
    if (!stand_in) {
        c->kill = true; /* a missing reply would shift all later ones */
        c->progress(c);
        return;
    }
    stand_in->muted = r->muted;
    stand_in->exclusive = r->exclusive;
    stand_in->cost = r->cost;
    chain_move(&stand_in->after, &r->after);
    r->exclusive = false;
    put_in_place(r, stand_in);
    request_bytes(stand_in, line, strlen(line));
    request_done(stand_in);
}

size_t caller_unread(const struct caller *c)
{
    return conn_out(c->conn)->len + c->parked;
}

size_t caller_footprint(const struct caller *c)
{
    return conn_input_capacity(c->conn) + conn_out(c->conn)->footprint + c->parked + c->owed_bytes +
           c->queued_bytes + c->owed * sizeof(struct request);
}

bool caller_set_text(char **at, struct resp_slice text)
{
    char *copy = NULL;
    if (text.len && !(copy = malloc(text.len + 1)))
        return false;
    if (copy) {
        memcpy(copy, text.data, text.len);
        copy[text.len] = '\0';
    }
    free(*at);
    *at = copy;
    return true;
}
