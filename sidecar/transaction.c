/* transaction.c - the commands that a client has queued with MULTI, and the reply to its EXEC. */
#include "transaction.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"
#include "wire.h"

/* What becomes of one element of EXEC's reply. */
struct queued {
    enum { ELEMENT, ELEMENT_SELECT, ELEMENT_LOCAL, ELEMENT_GATHERED, ELEMENT_SETTING } what;
    struct resp_rewriter *rewriter; /* owned; or NULL */
    uint32_t db;
    bool pushes;                   /* ELEMENT_GATHERED: it is a push, in RESP3 */
    const struct command *command; /* not of ELEMENT, ELEMENT_SELECT */
    struct resp_slice *argv;       /* owned, as one piece of memory */
    size_t argc;
};

struct transaction {
    struct queued *v;
    size_t n, cap;
    struct writes writes;
    struct budget *budget;
    size_t bytes; /* of arguments, counted there */

    /* The reply. */
    enum { IN_HEADER, IN_ELEMENTS, PASSING } phase;
    char header[RESP_HEADER_MAX];
    size_t header_len;
    size_t at;       /* the element at hand, .. */
    bool begun;      /* .. which has begun */
    bool in_message; /* a push comes before it */
    struct resp_framer framer;
    struct text held; /* of a message or an ELEMENT_GATHERED, as far as it has come */
};

struct transaction *transaction_new(struct budget *budget)
{
    struct transaction *t = calloc(1, sizeof *t);
    if (t)
        t->budget = budget;
    return t;
}

void transaction_free(struct transaction *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n; i++) {
        resp_rewriter_free(t->v[i].rewriter);
        free(t->v[i].argv);
    }
    free(t->v);
    writes_free(&t->writes);
    free(t->held.p);
    budget_give(t->budget, t->bytes);
    free(t);
}

size_t transaction_bytes(const struct transaction *t)
{
    return t->bytes;
}

struct writes *transaction_writes(struct transaction *t)
{
    return &t->writes;
}

/* --- queueing -----------------------------------------------------------------------------------
 */

static bool add(struct transaction *t, struct queued q)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        struct queued *more = realloc(t->v, cap * sizeof *more);
        if (!more)
            return false;
        t->v = more;
        t->cap = cap;
    }
    t->v[t->n++] = q;
    return true;
}

bool transaction_add(struct transaction *t, struct resp_rewriter *rewriter)
{
    if (add(t, (struct queued){.what = ELEMENT, .rewriter = rewriter}))
        return true;
    resp_rewriter_free(rewriter);
    return false;
}

bool transaction_add_select(struct transaction *t, uint32_t db)
{
    return add(t, (struct queued){.what = ELEMENT_SELECT, .db = db});
}

bool transaction_add_gathered(struct transaction *t, const struct command *command, bool pushes)
{
    return add(t, (struct queued){.what = ELEMENT_GATHERED, .command = command, .pushes = pushes});
}

static size_t bytes_of_argv(const struct request_plan *plan)
{
    size_t bytes = plan->argc * sizeof *plan->argv;
    for (size_t i = 0; i < plan->argc; i++)
        bytes += plan->argv[i].len;
    return bytes;
}

static struct resp_slice *copy_argv(const struct request_plan *plan, size_t bytes)
{
    assert(plan->argc > 0);
    struct resp_slice *argv = malloc(bytes);
    char *text = argv ? (char *)(argv + plan->argc) : NULL;
    for (size_t i = 0; argv && i < plan->argc; i++) {
        argv[i] = (struct resp_slice){text, plan->argv[i].len};
        if (argv[i].len)
            memcpy(text, plan->argv[i].data, argv[i].len);
        text += argv[i].len;
    }
    return argv;
}

static bool add_whole(struct transaction *t, struct queued q, const struct request_plan *plan)
{
    size_t bytes = bytes_of_argv(plan);
    q.command = plan->command;
    q.argv = copy_argv(plan, bytes);
    q.argc = plan->argc;
    if (!q.argv || !add(t, q)) {
        free(q.argv);
        return false;
    }
    t->bytes += bytes;
    budget_take(t->budget, bytes);
    return true;
}

bool transaction_add_local(struct transaction *t, const struct request_plan *plan)
{
    return add_whole(t, (struct queued){.what = ELEMENT_LOCAL}, plan);
}

bool transaction_add_setting(struct transaction *t, const struct request_plan *plan)
{
    return add_whole(t, (struct queued){.what = ELEMENT_SETTING}, plan);
}

/* --- EXEC's reply -------------------------------------------------------------------------------
 */

struct reply {
    struct proxy *proxy;
    struct request *request;
    struct transaction *t;
    const struct transaction_hooks *hooks;
};

static void emit(void *ctx, const char *p, size_t n)
{
    request_bytes(ctx, p, n);
}

static struct request_plan plan_of(const struct queued *q)
{
    return (struct request_plan){.argv = q->argv, .argc = q->argc, .command = q->command};
}

/* Its answer is caught and put where the stand-in's was. */
static void answer_here(const struct reply *re, const struct queued *q, char type)
{
    struct caller *c = re->request->caller;
    struct request_plan plan = plan_of(q);
    struct chain answer;
    if (!c)
        return;
    chain_init(&answer, &c->loop->pool);
    c->capture = &answer;
    re->hooks->run(re->proxy, c, &plan, type == '-');
    c->capture = NULL;
    request_chain(re->request, &answer);
}

/* q NULL: a message. */
static void hand_on_held(const struct reply *re, const struct queued *q)
{
    struct transaction *t = re->t;
    struct caller *c = re->request->caller;
    struct resp_slice held = {t->held.p, t->held.len};
    struct chain out;
    if (c) {
        chain_init(&out, &c->loop->pool);
        if (t->held.failed && q)
            chain_append(&out, UPSTREAM_NO_MEMORY, sizeof UPSTREAM_NO_MEMORY - 1);
        else if (t->held.failed) /* messages are not lost without notice */
            out.failed = true;
        else if (q)
            re->hooks->gathered(re->proxy, c, q->command, held, &out);
        else
            re->hooks->message(c, held, &out);
        request_chain(re->request, &out);
    }
    t->held.len = 0;
    t->held.failed = false;
}

static void apply_setting(const struct reply *re, const struct queued *q)
{
    struct request_plan plan = plan_of(q);
    re->hooks->set(re->proxy, re->request->caller, &plan);
}

static void end_element(const struct reply *re, const struct queued *q, char type)
{
    struct caller *c = re->request->caller;
    re->t->at++;
    re->t->begun = false;
    if (q->what == ELEMENT_LOCAL)
        answer_here(re, q, type);
    else if (q->what == ELEMENT_GATHERED)
        hand_on_held(re, q);
    else if (q->what == ELEMENT_SELECT && type == '+' && c)
        forward_select_db(re->request->source, c, q->db);
    else if (q->what == ELEMENT_SETTING && type == '+' && c)
        apply_setting(re, q);
}

/* Takes bytes of a push between two elements. */
static size_t take_message(const struct reply *re, const char *p, size_t n)
{
    struct transaction *t = re->t;
    size_t used = 0;
    enum resp_status status = resp_frame(&t->framer, p, n, &used);
    text_append(&t->held, p, used);
    t->in_message = status == RESP_MORE;
    if (!t->in_message)
        hand_on_held(re, NULL);
    return used;
}

/* Takes bytes of the element at hand. */
static size_t take_element(const struct reply *re, const struct queued *q, const char *p, size_t n)
{
    struct transaction *t = re->t;
    size_t used = 0;
    enum resp_status status;
    t->begun = true;
    if (q->rewriter) {
        status = resp_rewrite(q->rewriter, p, n, &used, emit, re->request);
    } else {
        status = resp_frame(&t->framer, p, n, &used);
        if (q->what == ELEMENT_GATHERED)
            text_append(&t->held, p, used);
        else if (q->what != ELEMENT_LOCAL)
            request_bytes(re->request, p, used);
    }
    assert(status != RESP_BAD); /* it is part of what was framed before */
    if (status == RESP_DONE)
        end_element(re, q, t->framer.type);
    return used;
}

/* "*3\r\n": elements follow, if they are as many as were queued. Anything else passes. */
static void end_header(struct reply *re)
{
    struct transaction *t = re->t;
    int64_t n = -1;
    bool counted = t->header[0] == '*' && t->header_len > 3 &&
                   resp_parse_int((struct resp_slice){t->header + 1, t->header_len - 3}, &n);
    t->phase = counted && n == (int64_t)t->n ? IN_ELEMENTS : PASSING;
    request_bytes(re->request, t->header, t->header_len);
}

static size_t take_header(struct reply *re, const char *p, size_t n)
{
    struct transaction *t = re->t;
    size_t used = 0;
    while (used < n && t->phase == IN_HEADER) {
        t->header[t->header_len++] = p[used++];
        if (t->header[0] != '*' || t->header[t->header_len - 1] == '\n' ||
            t->header_len == sizeof t->header)
            end_header(re);
    }
    return used;
}

void transaction_reply(struct proxy *p, struct request *r, const struct transaction_hooks *hooks,
                       const char *bytes, size_t n)
{
    struct reply re = {p, r, r->transaction, hooks};
    struct transaction *t = re.t;
    size_t at = take_header(&re, bytes, n);
    while (at < n && t->phase == IN_ELEMENTS && t->at < t->n) {
        const struct queued *q = &t->v[t->at];
        t->in_message |= !t->begun && bytes[at] == '>' && !q->pushes;
        at += t->in_message ? take_message(&re, bytes + at, n - at)
                            : take_element(&re, q, bytes + at, n - at);
    }
    if (at < n)
        request_bytes(r, bytes + at, n - at);
}

size_t transaction_missing(const struct transaction *t)
{
    return t->phase == IN_ELEMENTS ? t->n - t->at : 0;
}
