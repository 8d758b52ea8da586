/* fuzz_transaction.c - EXEC's reply for any queue, whole and in pieces: the same comes out, and it
 * is one frame; a queue that is not answered as queued is handed on as it is.
 *
 * The input: a byte for how the reply is cut, letters for the queued commands up to a blank, the
 * reply. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "transaction.h"

enum { QUEUE_MAX = 64 };

struct input {
    uint8_t seed;
    const char *queue;
    size_t n_queue;
    const char *bytes;
    size_t n;
};

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

/* --- what is queued ------------------------------------------------------------------------------
 */

static void run_here(struct proxy *p, struct caller *c, const struct request_plan *plan,
                     bool refused)
{
    (void)refused;
    (void)p;
    caller_answer_bulk(c, plan->argv[0].data, plan->argv[0].len);
}

static void note_setting(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    (void)p;
    (void)plan;
    c->state.queued++;
}

/* An array of one around it. */
static void show_gathered(struct proxy *p, struct caller *c, const struct command *command,
                          struct resp_slice reply, struct chain *out)
{
    (void)p;
    (void)c;
    (void)command;
    chain_append(out, "*1\r\n", 4);
    chain_append(out, reply.data, reply.len);
}

static void show_message(struct caller *c, struct resp_slice message, struct chain *out)
{
    (void)c;
    chain_append(out, message.data, message.len);
}

static const struct transaction_hooks hooks = {
    .run = run_here, .set = note_setting, .gathered = show_gathered, .message = show_message};

static bool add(struct transaction *t, char letter)
{
    struct resp_slice argv = {"local", 5}, prefix = {"s:", 2};
    struct request_plan plan = {.argv = &argv, .argc = 1};
    unsigned what = (unsigned char)letter;
    switch (what % 8) {
    case 0:
        return transaction_add(t, NULL);
    case 1:
        return transaction_add_select(t, what);
    case 2:
        return transaction_add_local(t, &plan);
    case 3:
        return transaction_add_gathered(t, NULL, what & 8);
    case 4:
        return transaction_add_setting(t, &plan);
    case 5:
        return transaction_add(t, resp_rewriter_new(RESP_KEYS_FIRST, prefix));
    case 6:
        return transaction_add(t, resp_rewriter_new(RESP_KEYS_STREAMS, prefix));
    default:
        return transaction_add(t, resp_rewriter_new(RESP_KEYS_ALL, prefix));
    }
}

/* --- a client that is owed something before
 * -------------------------------------------------------
 */

static void on_progress(struct caller *c)
{
    (void)c;
}

struct outcome {
    char *text;
    size_t n;
    uint32_t db, set;
};

static void feed(struct proxy *p, struct request *exec, const struct input *in,
                 struct pieces *pieces)
{
    for (size_t at = 0, n; at < in->n; at += n) {
        n = pieces ? next_piece(pieces) : in->n;
        if (n > in->n - at)
            n = in->n - at;
        char *block = malloc(n);
        assert(block);
        memcpy(block, in->bytes + at, n);
        transaction_reply(p, exec, &hooks, block, n);
        free(block);
    }
}

static void take_body(struct request *r, struct outcome *o)
{
    struct iovec piece;
    o->text = malloc(r->body.len + 1);
    assert(o->text);
    while (chain_iov(&r->body, &piece, 1) == 1) {
        memcpy(o->text + o->n, piece.iov_base, piece.iov_len);
        o->n += piece.iov_len;
        chain_consume(&r->body, piece.iov_len);
    }
}

static struct outcome answered(const struct input *in, struct pieces *pieces)
{
    static int lane; /* stands for a connection of the client's own */
    struct loop loop = {.pool.budget = &loop.budget};
    struct proxy proxy = {0};
    struct caller caller;
    struct outcome o = {0};
    caller_init(&caller, &loop);
    caller.progress = on_progress;
    caller.lane = (struct upstream_conn *)&lane;
    struct request *blocker = request_new(&caller), *exec = request_new(&caller);
    assert(blocker && exec);
    exec->transaction = transaction_new(&loop.budget);
    assert(exec->transaction);
    for (size_t i = 0; i < in->n_queue; i++) {
        bool ok = add(exec->transaction, in->queue[i]);
        assert(ok);
    }
    feed(&proxy, exec, in, pieces);
    o.db = caller.db;
    o.set = caller.state.queued;
    take_body(exec, &o);
    transaction_free(exec->transaction);
    exec->transaction = NULL;
    request_done(exec);
    caller_leave(&caller);
    request_done(blocker);
    assert(loop.budget.used == 0);
    chunk_pool_drain(&loop.pool);
    spares_drain(&loop.requests);
    return o;
}

/* --- one input
 * ------------------------------------------------------------------------------------
 */

static bool read_input(struct input *in, const uint8_t *data, size_t n)
{
    const uint8_t *blank = n ? memchr(data + 1, ' ', n - 1) : NULL;
    if (!blank || blank - data > QUEUE_MAX)
        return false;
    in->seed = data[0];
    in->queue = (const char *)data + 1;
    in->n_queue = (size_t)(blank - data) - 1;
    in->bytes = (const char *)blank + 1;
    struct resp_framer framer = {0};
    size_t left = n - (size_t)(blank + 1 - data);
    return resp_frame(&framer, in->bytes, left, &in->n) == RESP_DONE;
}

/* Is it an array of as many elements as were queued? */
static bool fits(const struct input *in)
{
    const char *lf = memchr(in->bytes, '\n', in->n);
    int64_t count;
    return *in->bytes == '*' && lf &&
           resp_parse_int((struct resp_slice){in->bytes + 1, (size_t)(lf - in->bytes) - 2},
                          &count) &&
           count == (int64_t)in->n_queue;
}

static void check_frame(const struct input *in, const struct outcome *o)
{
    struct resp_framer before = {0}, after = {0};
    size_t used;
    enum resp_status status = resp_frame(&before, in->bytes, in->n, &used);
    assert(status == RESP_DONE);
    status = resp_frame(&after, o->text, o->n, &used);
    assert(status == RESP_DONE && used == o->n && before.type == after.type);
    if (!fits(in)) {
        assert(o->n == in->n && memcmp(o->text, in->bytes, in->n) == 0);
        assert(o->db == 0 && o->set == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct input in;
    if (!read_input(&in, data, n))
        return 0;
    struct pieces pieces = {.random = in.seed * 2654435761u + 1,
                            .most = in.seed % 4 == 0 ? 1 : in.seed};
    struct outcome whole = answered(&in, NULL);
    struct outcome cut = answered(&in, &pieces);
    assert(whole.n == cut.n && memcmp(whole.text, cut.text, whole.n) == 0);
    assert(whole.db == cut.db && whole.set == cut.set);
    check_frame(&in, &whole);
    free(whole.text);
    free(cut.text);
    return 0;
}
