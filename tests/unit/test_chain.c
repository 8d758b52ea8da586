/* test_chain.c - the byte queue: whatever is appended comes out again, and memory goes back. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "chain.h"
#include "wire.h"

static struct budget budget;
static struct chunk_pool pool;
static struct chain chain;

static void setup(void)
{
    budget = (struct budget){0};
    pool = (struct chunk_pool){.budget = &budget};
    chain_init(&chain, &pool);
}

static void teardown(void)
{
    chain_clear(&chain);
    ck_assert_uint_eq(budget.used, 0);
    chunk_pool_drain(&pool);
}

static void take(struct chain *c, char *to, size_t n)
{
    while (n) {
        struct iovec iov[4];
        int pieces = chain_iov(c, iov, 4);
        ck_assert_int_gt(pieces, 0);
        size_t part = iov[0].iov_len < n ? iov[0].iov_len : n;
        memcpy(to, iov[0].iov_base, part);
        chain_consume(c, part);
        to += part;
        n -= part;
    }
}

START_TEST(test_in_and_out)
{
    static char in[3000000], out[sizeof in];
    unsigned seed = (unsigned)_i + 1;
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (char)rand_r(&seed);
    size_t put = 0, got = 0;
    while (got < sizeof in) {
        size_t n = (size_t)rand_r(&seed) % (rand_r(&seed) % 20 ? 500 : 400000);
        n = n < sizeof in - put ? n : sizeof in - put;
        if (n && n <= CHAIN_RESERVE_MAX && rand_r(&seed) % 2) {
            memcpy(chain_reserve(&chain, n), in + put, n);
            chain_commit(&chain, n);
        } else if (rand_r(&seed) % 8 == 0) {
            chain_append_borrowed(&chain, in + put, n);
            if (rand_r(&seed) % 2)
                chain_own(&chain);
        } else {
            chain_append(&chain, in + put, n);
        }
        put += n;
        ck_assert_uint_eq(chain.len, put - got);
        n = chain.len ? (size_t)rand_r(&seed) % (chain.len + 1) : 0;
        if (put == sizeof in)
            n = chain.len;
        take(&chain, out + got, n);
        got += n;
    }
    ck_assert(memcmp(in, out, sizeof in) == 0);
    ck_assert_uint_eq(budget.used, 0);
}
END_TEST

START_TEST(test_move)
{
    struct chain other;
    char out[64] = {0};
    static char big[50000];
    chain_init(&other, &pool);
    chain_append(&chain, "one ", 4);
    chain_append(&other, "two ", 4);
    chain_move(&chain, &other);
    ck_assert_uint_eq(other.len, 0);
    memset(big, 'x', sizeof big);
    chain_append(&other, big, sizeof big);
    chain_move(&chain, &other);
    chain_move(&chain, &other);
    ck_assert_uint_eq(chain.len, 8 + sizeof big);
    take(&chain, out, 9);
    ck_assert_str_eq(out, "one two x");
}
END_TEST

START_TEST(test_owning_outlives_the_lender)
{
    char lent[] = "lent", out[16] = {0};
    chain_append(&chain, "<", 1);
    chain_append_borrowed(&chain, lent, 4);
    chain_append(&chain, ">", 1);
    chain_own(&chain);
    memset(lent, '!', 4);
    take(&chain, out, 6);
    ck_assert_str_eq(out, "<lent>");
}
END_TEST

START_TEST(test_failure_is_sticky_and_moves_on)
{
    struct chain other;
    chain_init(&other, &pool);
    other.failed = true;
    chain_append(&other, "lost", 4);
    chain_append_borrowed(&other, "lost", 4);
    memcpy(chain_reserve(&other, 4), "lost", 4);
    chain_commit(&other, 4);
    ck_assert_uint_eq(other.len, 0);
    chain_move(&chain, &other);
    ck_assert(chain.failed);
    chain_clear(&chain);
    ck_assert(!chain.failed);
}
END_TEST

START_TEST(test_wire)
{
    char out[128] = {0};
    wire_command(&chain, (struct resp_slice[]){wire_text("SET"), wire_text(""), {"\r\n", 2}}, 3);
    wire_bulk2(&chain, wire_text("svc:"), wire_text("k"));
    wire_integer(&chain, -5);
    take(&chain, out, chain.len);
    ck_assert_str_eq(out, "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n$5\r\nsvc:k\r\n:-5\r\n");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chain");
    TCase *t = tcase_create("chain");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, test_in_and_out, 0, 8);
    tcase_add_test(t, test_move);
    tcase_add_test(t, test_owning_outlives_the_lender);
    tcase_add_test(t, test_failure_is_sticky_and_moves_on);
    tcase_add_test(t, test_wire);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
