/* test_notice.c - what invalidation messages say, and what malformed ones don't. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "notice.h"

struct told {
    int n;
    char keys[4][64];
};

static void stale(void *ctx, struct resp_slice key)
{
    struct told *t = ctx;
    snprintf(t->keys[t->n++], 64, "%.*s", (int)key.len, key.data);
}

static enum notice_result read_message(const char *channel, const char *payload, struct told *told)
{
    struct namespace ns;
    *told = (struct told){0};
    ck_assert(namespace_init(&ns, "user-service:"));
    enum notice_result result =
        notice_read(&ns, "user-service", (struct resp_slice){channel, strlen(channel)},
                    (struct resp_slice){payload, strlen(payload)}, stale, told);
    namespace_free(&ns);
    return result;
}

START_TEST(test_event)
{
    struct told t;
    ck_assert_int_eq(read_message("cache:invalidate",
                                  "{\"service\":\"user-service\",\"key\":\"user:123\","
                                  "\"timestamp\":1760000000000,\"origin\":\"x\"}",
                                  &t),
                     NOTICE_KEYS);
    ck_assert_int_eq(t.n, 1);
    ck_assert_str_eq(t.keys[0], "user:123");
}
END_TEST

START_TEST(test_foreign_and_malformed)
{
    static const struct {
        const char *payload;
        enum notice_result result;
    } table[] = {{"{\"service\":\"other\",\"key\":\"k\"}", NOTICE_FOREIGN},
                 {"{\"key\":\"k\"}", NOTICE_MALFORMED},
                 {"{\"service\":\"user-service\"}", NOTICE_MALFORMED},
                 {"{\"service\":\"user-service\",\"key\":1}", NOTICE_MALFORMED},
                 {"[1]", NOTICE_MALFORMED},
                 {"{", NOTICE_MALFORMED},
                 {"", NOTICE_MALFORMED},
                 {"{\"service\":\"user-service\",\"key\":\"a\\u0000b\"}", NOTICE_MALFORMED}};
    struct told t;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        ck_assert_int_eq(read_message("cache:invalidate", table[i].payload, &t), table[i].result);
        ck_assert_int_eq(t.n, 0);
    }
}
END_TEST

START_TEST(test_raw)
{
    struct told t;
    ck_assert_int_eq(read_message("cache:invalidate:l1", "user:123", &t), NOTICE_KEYS);
    ck_assert_int_eq(t.n, 1);
    ck_assert_int_eq(read_message("cache:invalidate:l1", "user-service:user:123", &t), NOTICE_KEYS);
    ck_assert_int_eq(t.n, 2);
    ck_assert_str_eq(t.keys[0], "user-service:user:123");
    ck_assert_str_eq(t.keys[1], "user:123");
    ck_assert_int_eq(read_message("cache:invalidate:l1", "", &t), NOTICE_MALFORMED);
    ck_assert_int_eq(read_message("cache:invalidate:l2", "k", &t), NOTICE_OTHER_CHANNEL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("notice");
    TCase *t = tcase_create("notice");
    tcase_add_test(t, test_event);
    tcase_add_test(t, test_foreign_and_malformed);
    tcase_add_test(t, test_raw);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
