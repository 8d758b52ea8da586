/* test_transaction.c - EXEC's reply, element by element, cut in every possible way. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transaction.h"

/* What one queued command is, by a letter. */
enum {
    PLAIN = 'p',    /* passes as it is */
    FIRST = 'f',    /* its first element is a key */
    STREAMS = 's',  /* as XREAD's */
    SELECT = 'd',   /* changes to database 7 */
    LOCAL = 'l',    /* answered here, with what it was called with, .. */
    FAILING = 'x',  /* .. for which there is no memory */
    GATHERED = 'g', /* seen whole, then shown in brackets */
    PUSH = 'u',     /* the same of a SUBSCRIBE */
    SETTING = 'o',  /* its +OK is noted */
};

/* --- a client whose EXEC is not the first that it is owed, so that its reply is at hand ---------
 */

static struct loop loop = {.pool.budget = &loop.budget};
static struct proxy proxy;
static struct caller caller;
static struct request *blocker, *exec;
static unsigned n_set;
static int lane; /* stands for a connection of the client's own */

static void on_progress(struct caller *c)
{
    (void)c;
}

static void run_here(struct proxy *p, struct caller *c, const struct request_plan *plan,
                     bool refused)
{
    (void)refused;
    ck_assert_ptr_eq(p, &proxy);
    ck_assert_uint_eq(plan->argc, 2);
    caller_reply(c)->failed = plan->argv[0].len == 0;
    caller_answer_bulk(c, plan->argv[1].data, plan->argv[1].len);
}

static void note_setting(struct proxy *p, struct caller *c, const struct request_plan *plan)
{
    (void)p;
    (void)c;
    ck_assert(resp_slice_is(plan->argv[0], "client"));
    n_set++;
}

static void show_gathered(struct proxy *p, struct caller *c, const struct command *command,
                          struct resp_slice reply, struct chain *out)
{
    (void)p;
    (void)c;
    (void)command;
    chain_append(out, "<", 1);
    chain_append(out, reply.data, reply.len);
    chain_append(out, ">", 1);
}

static void show_message(struct caller *c, struct resp_slice message, struct chain *out)
{
    (void)c;
    chain_append(out, "{", 1);
    chain_append(out, message.data, message.len);
    chain_append(out, "}", 1);
}

static const struct transaction_hooks hooks = {
    .run = run_here, .set = note_setting, .gathered = show_gathered, .message = show_message};

static void add(struct transaction *t, char what)
{
    /* A copy that is gone afterwards: the arguments are to be copied. */
    char *argument = strdup("argument");
    struct resp_slice argv[] = {{"client", what == FAILING ? 0 : 6}, {argument, 8}};
    struct request_plan plan = {.argv = argv, .argc = 2};
    struct resp_slice prefix = {"svc:", 4};
    bool ok = what == PLAIN     ? transaction_add(t, NULL)
              : what == FIRST   ? transaction_add(t, resp_rewriter_new(RESP_KEYS_FIRST, prefix))
              : what == STREAMS ? transaction_add(t, resp_rewriter_new(RESP_KEYS_STREAMS, prefix))
              : what == SELECT  ? transaction_add_select(t, 7)
              : what == LOCAL || what == FAILING ? transaction_add_local(t, &plan)
              : what == SETTING                  ? transaction_add_setting(t, &plan)
                                                 : transaction_add_gathered(t, NULL, what == PUSH);
    ck_assert(ok);
    free(argument);
}

static void begin(const char *queue)
{
    loop = (struct loop){.pool.budget = &loop.budget};
    caller_init(&caller, &loop);
    caller.progress = on_progress;
    caller.lane = (struct upstream_conn *)&lane;
    blocker = request_new(&caller);
    exec = request_new(&caller);
    ck_assert(blocker && exec);
    exec->transaction = transaction_new(&loop.budget);
    ck_assert_ptr_nonnull(exec->transaction);
    for (; *queue; queue++)
        add(exec->transaction, *queue);
    n_set = 0;
}

static void feed(const char *bytes, size_t n)
{
    char *block = malloc(n); /* so that a read behind it is seen */
    memcpy(block, bytes, n);
    transaction_reply(&proxy, exec, &hooks, block, n);
    free(block);
}

static void end(void)
{
    transaction_free(exec->transaction);
    exec->transaction = NULL;
    request_done(exec);
    caller_leave(&caller);
    request_done(blocker);
    ck_assert_uint_eq(loop.budget.used, 0);
    chunk_pool_drain(&loop.pool);
    spares_drain(&loop.requests);
}

static void ck_answered(const char *reply, const char *expected)
{
    struct iovec piece = {.iov_base = (char[]){""}};
    ck_assert_msg(exec->body.len == strlen(expected), "%s: %zu bytes", reply, exec->body.len);
    ck_assert_int_eq(chain_iov(&exec->body, &piece, 1), exec->body.len > 0);
    ck_assert_msg(memcmp(piece.iov_base, expected, exec->body.len) == 0, "%s: %.*s", reply,
                  (int)exec->body.len, (char *)piece.iov_base);
}

static void check_pieces(const char *queue, const char *reply, size_t cut, size_t piece,
                         const char *expected)
{
    size_t n = strlen(reply);
    begin(queue);
    for (size_t at = 0, stop = cut; at < n; at = stop, stop += piece) {
        if (stop > n)
            stop = n;
        if (stop > at)
            feed(reply + at, stop - at);
    }
    ck_answered(reply, expected);
    end();
}

static void check(const char *queue, const char *reply, const char *expected)
{
    size_t n = strlen(reply);
    for (size_t cut = 0; cut < n; cut++)
        check_pieces(queue, reply, cut, n, expected);
    check_pieces(queue, reply, 1, 1, expected);
    check_pieces(queue, reply, 2, 3, expected);
}

/* --- tests ------------------------------------------------------------------------------------ */

START_TEST(plain_elements_pass)
{
    static const char reply[] = "*4\r\n+OK\r\n$5\r\nsvc:x\r\n*2\r\n:1\r\n*-1\r\n-ERR 'svc:x'\r\n";
    check("pppp", reply, reply);
    check("", "*0\r\n", "*0\r\n");
    check("ppp", "*3\r\n%1\r\n+a\r\n,1.5\r\n_\r\n~1\r\n#t\r\n",
          "*3\r\n%1\r\n+a\r\n,1.5\r\n_\r\n~1\r\n#t\r\n");
}
END_TEST

START_TEST(keys_are_stripped_where_they_are)
{
    check("pfp", "*3\r\n$5\r\nsvc:a\r\n*2\r\n$5\r\nsvc:k\r\n$5\r\nsvc:v\r\n*1\r\n$5\r\nsvc:b\r\n",
          "*3\r\n$5\r\nsvc:a\r\n*2\r\n$1\r\nk\r\n$5\r\nsvc:v\r\n*1\r\n$5\r\nsvc:b\r\n");
    check("ff", "*2\r\n*-1\r\n*1\r\n$4\r\nsvc:\r\n", "*2\r\n*-1\r\n*1\r\n$0\r\n\r\n");
    check("fp", "*2\r\n-WRONGTYPE 'svc:k'\r\n-ERR 'svc:k'\r\n",
          "*2\r\n-WRONGTYPE 'k'\r\n-ERR 'svc:k'\r\n");
    check("sf", "*2\r\n%1\r\n$5\r\nsvc:s\r\n*0\r\n*1\r\n$5\r\nsvc:k\r\n",
          "*2\r\n%1\r\n$1\r\ns\r\n*0\r\n*1\r\n$1\r\nk\r\n");
    check("s", "*1\r\n*1\r\n*2\r\n$5\r\nsvc:s\r\n*0\r\n", "*1\r\n*1\r\n*2\r\n$1\r\ns\r\n*0\r\n");
}
END_TEST

START_TEST(local_answers_take_the_place_of_stand_ins)
{
    check("plp", "*3\r\n:1\r\n+PONG\r\n:2\r\n", "*3\r\n:1\r\n$8\r\nargument\r\n:2\r\n");
    check("ll", "*2\r\n+PONG\r\n%1\r\n$5\r\nproto\r\n:3\r\n",
          "*2\r\n$8\r\nargument\r\n$8\r\nargument\r\n");
    check("lf", "*2\r\n-LOADING\r\n*1\r\n$5\r\nsvc:k\r\n",
          "*2\r\n$8\r\nargument\r\n*1\r\n$1\r\nk\r\n");
}
END_TEST

/* All later ones would take the place of the one before. */
START_TEST(a_lost_answer_is_noticed)
{
    begin("lxp");
    feed("*3\r\n+PONG\r\n", 11);
    ck_assert(!exec->body.failed);
    feed("+PONG\r\n:1\r\n", 11);
    ck_assert(exec->body.failed);
    end();
}
END_TEST

START_TEST(gathered_ones_come_whole)
{
    check("gpg", "*3\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n:1\r\n-ERR\r\n",
          "*3\r\n<*2\r\n$1\r\na\r\n$1\r\nb\r\n>:1\r\n<-ERR\r\n>");
}
END_TEST

/* Nor is their array complete when it seems to be. */
START_TEST(messages_between_elements_are_none)
{
    check("pp", "*2\r\n>2\r\n+m\r\n+x\r\n:1\r\n:2\r\n", "*2\r\n{>2\r\n+m\r\n+x\r\n}:1\r\n:2\r\n");
    check("flg",
          "*3\r\n>1\r\n+a\r\n*1\r\n$5\r\nsvc:k\r\n>1\r\n+b\r\n>1\r\n+c\r\n+PONG\r\n>1\r\n+d\r\n:"
          "1\r\n",
          "*3\r\n{>1\r\n+a\r\n}*1\r\n$1\r\nk\r\n{>1\r\n+b\r\n}{>1\r\n+c\r\n}$8\r\nargument\r\n{>"
          "1\r\n+d\r\n}"
          "<:1\r\n>");
    check("up", "*2\r\n>1\r\n+s\r\n>1\r\n+t\r\n:1\r\n", "*2\r\n<>1\r\n+s\r\n>{>1\r\n+t\r\n}:1\r\n");
    check("p", "*1\r\n*1\r\n>1\r\n+a\r\n", "*1\r\n*1\r\n>1\r\n+a\r\n"); /* within one */
    begin("pup");
    ck_assert_uint_eq(transaction_missing(exec->transaction), 0);
    feed("*3\r\n>1\r\n+m\r\n:1\r\n>1\r\n+s\r\n", 24);
    ck_assert_uint_eq(transaction_missing(exec->transaction), 1);
    feed(":2\r\n", 4);
    ck_assert_uint_eq(transaction_missing(exec->transaction), 0);
    end();
}
END_TEST

START_TEST(select_changes_the_database_when_it_is_run)
{
    check("dp", "*2\r\n+OK\r\n:1\r\n", "*2\r\n+OK\r\n:1\r\n");
    begin("dp");
    feed("*2\r\n+OK\r\n", 9);
    ck_assert_uint_eq(caller.db, 7);
    end();
    begin("pd");
    feed("*2\r\n:1\r\n+O", 10);
    ck_assert_uint_eq(caller.db, 0);
    end();
    begin("d");
    feed("*1\r\n-ERR DB index is out of range\r\n", 35);
    ck_assert_uint_eq(caller.db, 0);
    end();
}
END_TEST

START_TEST(settings_count_when_they_are_answered)
{
    static const char *const replies[] = {"*1\r\n+OK\r\n", "*1\r\n-ERR\r\n", "-EXECABORT\r\n",
                                          "*-1\r\n"};
    for (unsigned i = 0; i < sizeof replies / sizeof *replies; i++) {
        begin("o");
        feed(replies[i], strlen(replies[i]));
        ck_answered(replies[i], replies[i]);
        ck_assert_uint_eq(n_set, i == 0);
        end();
    }
}
END_TEST

START_TEST(nothing_was_done)
{
    static const char *const replies[] = {
        "*-1\r\n", "_\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n",
        "-ERR EXEC without MULTI 'svc:k'\r\n"};
    for (size_t i = 0; i < sizeof replies / sizeof *replies; i++)
        check("flpg", replies[i], replies[i]);
}
END_TEST

/* What does not fit is handed on as it is, rather than guessed at. */
START_TEST(a_count_that_is_not_ours)
{
    check("f", "*2\r\n*1\r\n$5\r\nsvc:k\r\n:1\r\n", "*2\r\n*1\r\n$5\r\nsvc:k\r\n:1\r\n");
    check("fl", "*1\r\n*1\r\n$5\r\nsvc:k\r\n", "*1\r\n*1\r\n$5\r\nsvc:k\r\n");
    check("", "*1\r\n:1\r\n", "*1\r\n:1\r\n");
    check("p", "%1\r\n:1\r\n:2\r\n", "%1\r\n:1\r\n:2\r\n");
}
END_TEST

START_TEST(the_client_has_left_in_the_middle)
{
    static const char reply[] = "*5\r\n:1\r\n*1\r\n$5\r\nsvc:k\r\n+PONG\r\n+OK\r\n+OK\r\n";
    for (size_t cut = 1; cut < sizeof reply - 1; cut++) {
        begin("pfldg");
        feed(reply, cut);
        caller_leave(&caller);
        caller.db = 0;
        feed(reply + cut, sizeof reply - 1 - cut);
        ck_assert_uint_eq(caller.db, 0);
        transaction_free(exec->transaction);
        exec->transaction = NULL;
        request_done(exec);
        request_done(blocker);
        chunk_pool_drain(&loop.pool);
        spares_drain(&loop.requests);
    }
}
END_TEST

START_TEST(a_transaction_that_is_never_run)
{
    begin("pfsldgo");
    transaction_writes(exec->transaction)->n = 3;
    transaction_writes(exec->transaction)->many = calloc(4, sizeof(uint64_t));
    end();
    transaction_free(NULL);
}
END_TEST

START_TEST(many_elements)
{
    enum { N = 5000 };
    static char queue[N + 1], reply[N * 20], expected[N * 20];
    size_t in = (size_t)sprintf(reply, "*%d\r\n", N), out = (size_t)sprintf(expected, "*%d\r\n", N);
    for (size_t i = 0; i < N; i++) {
        queue[i] = "pfl"[i % 3];
        in += (size_t)sprintf(reply + in, i % 3 == 1 ? "*1\r\n$5\r\nsvc:k\r\n" : ":1\r\n");
        out += (size_t)sprintf(expected + out, i % 3 == 0   ? ":1\r\n"
                                               : i % 3 == 1 ? "*1\r\n$1\r\nk\r\n"
                                                            : "$8\r\nargument\r\n");
    }
    begin(queue);
    for (size_t at = 0; at < in; at += 7)
        feed(reply + at, in - at < 7 ? in - at : 7);
    ck_assert_uint_eq(exec->body.len, out);
    size_t at = 0;
    struct iovec piece;
    while (chain_iov(&exec->body, &piece, 1) == 1) {
        ck_assert(memcmp(piece.iov_base, expected + at, piece.iov_len) == 0);
        at += piece.iov_len;
        chain_consume(&exec->body, piece.iov_len);
    }
    end();
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        plain_elements_pass,
        keys_are_stripped_where_they_are,
        local_answers_take_the_place_of_stand_ins,
        a_lost_answer_is_noticed,
        gathered_ones_come_whole,
        messages_between_elements_are_none,
        select_changes_the_database_when_it_is_run,
        settings_count_when_they_are_answered,
        nothing_was_done,
        a_count_that_is_not_ours,
        the_client_has_left_in_the_middle,
        a_transaction_that_is_never_run,
        many_elements,
    };
    Suite *s = suite_create("transaction");
    TCase *t = tcase_create("transaction");
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
