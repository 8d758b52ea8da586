/* test_notice.c - what invalidation messages say, and what malformed ones don't. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "notice.h"

#define OWN "00112233445566ff"

/* What the sink was told, in order: "k:user:1 p:user: ". */
struct told {
    size_t n;
    char text[256];
};

static void tell(struct told *t, char what, struct resp_slice name)
{
    t->n += (size_t)snprintf(t->text + t->n, sizeof t->text - t->n, "%c:%.*s ", what, (int)name.len,
                             name.data);
    ck_assert_uint_lt(t->n, sizeof t->text);
}

static void stale_key(void *ctx, struct resp_slice key)
{
    tell(ctx, 'k', key);
}

static void stale_prefix(void *ctx, struct resp_slice prefix)
{
    tell(ctx, 'p', prefix);
}

static enum notice_result read_in(const char *prefix, const char *origin, const char *channel,
                                  struct resp_slice payload, struct told *told)
{
    struct namespace ns;
    const struct notice_sink sink = {stale_key, stale_prefix, told};
    *told = (struct told){0};
    ck_assert(namespace_init(&ns, prefix));
    enum notice_result result = notice_read(
        &ns, "user-service", origin, (struct resp_slice){channel, strlen(channel)}, payload, &sink);
    namespace_free(&ns);
    return result;
}

static enum notice_result read_message(const char *channel, const char *payload, struct told *told)
{
    return read_in("user-service:", OWN, channel, (struct resp_slice){payload, strlen(payload)},
                   told);
}

/* Members of an event of our service. */
static void ck_event(const char *members, enum notice_result result, const char *told)
{
    char payload[512];
    struct told t;
    snprintf(payload, sizeof payload, "{\"service\":\"user-service\"%s}", members);
    ck_assert_msg(read_message("cache:invalidate", payload, &t) == result, "%s", payload);
    ck_assert_msg(strcmp(t.text, told) == 0, "%s: %s", payload, t.text);
}

START_TEST(test_event)
{
    ck_event(",\"key\":\"user:123\",\"timestamp\":1760000000000,\"origin\":\"x\"", NOTICE_KEYS,
             "k:user:123 ");
    ck_event(",\"key\":\"\"", NOTICE_KEYS, "k: ");
    ck_event(",\"key\":\"a\\u00e9\\n\"", NOTICE_KEYS, "k:a\xc3\xa9\n ");
    ck_event(",\"key\":\"a\",\"timestamp\":\"never\",\"more\":[{}]", NOTICE_KEYS, "k:a ");
}
END_TEST

START_TEST(test_prefix)
{
    ck_event(",\"prefix\":\"user:\"", NOTICE_KEYS, "p:user: ");
    ck_event(",\"prefix\":\"\"", NOTICE_KEYS, "p: "); /* all keys */
    ck_event(",\"prefix\":\"user:\",\"key\":\"k\"", NOTICE_KEYS, "k:k p:user: ");
    ck_event(",\"prefix\":\"user:\",\"key\":7", NOTICE_KEYS, "p:user: ");
    ck_event(",\"prefix\":7", NOTICE_MALFORMED, "");
    ck_event(",\"prefix\":\"a\\u0000\"", NOTICE_MALFORMED, "");
}
END_TEST

START_TEST(test_origin)
{
    struct told t;
    static const char own[] = "{\"service\":\"user-service\",\"key\":\"k\",\"origin\":\"" OWN "\"}";
    const struct resp_slice payload = {own, sizeof own - 1};
    ck_event(",\"key\":\"k\",\"origin\":\"" OWN "\"", NOTICE_OWN, "");
    ck_event(",\"prefix\":\"\",\"origin\":\"" OWN "\"", NOTICE_OWN, "");
    ck_event(",\"key\":\"k\",\"origin\":\"" OWN "0\"", NOTICE_KEYS, "k:k ");
    ck_event(",\"key\":\"k\",\"origin\":\"\"", NOTICE_KEYS, "k:k ");
    ck_event(",\"key\":\"k\",\"origin\":7", NOTICE_KEYS, "k:k ");
    ck_event(",\"origin\":\"" OWN "\"", NOTICE_MALFORMED, "");
    /* Without an origin of our own there is no echo. */
    ck_assert_int_eq(read_in("user-service:", NULL, "cache:invalidate", payload, &t), NOTICE_KEYS);
    ck_assert_str_eq(t.text, "k:k ");
    ck_assert_int_eq(read_message("cache:invalidate",
                                  "{\"service\":\"other\",\"key\":\"k\",\"origin\":\"" OWN "\"}",
                                  &t),
                     NOTICE_FOREIGN);
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
                 {"{\"service\":\"other\",\"prefix\":\"\"}", NOTICE_FOREIGN},
                 {"{\"service\":\"USER-SERVICE\",\"key\":\"k\"}", NOTICE_FOREIGN},
                 {"{\"service\":\"other\"}", NOTICE_MALFORMED},
                 {"{\"service\":7,\"key\":\"k\"}", NOTICE_MALFORMED},
                 {"{\"service\":\"user-service\",\"key\":1}", NOTICE_MALFORMED},
                 {"{\"service\":\"user-service\",\"key\":null}", NOTICE_MALFORMED},
                 {"{\"service\":\"user-service\",\"key\":\"k\"} x", NOTICE_MALFORMED},
                 {"\"user-service\"", NOTICE_MALFORMED},
                 {"[1]", NOTICE_MALFORMED},
                 {"{", NOTICE_MALFORMED},
                 {"", NOTICE_MALFORMED},
                 {"{\"service\":\"user-service\",\"key\":\"a\\u0000b\"}", NOTICE_MALFORMED}};
    struct told t;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        ck_assert_msg(read_message("cache:invalidate", table[i].payload, &t) == table[i].result,
                      "%s", table[i].payload);
        ck_assert_uint_eq(t.n, 0);
    }
}
END_TEST

START_TEST(test_raw)
{
    struct told t;
    ck_assert_int_eq(read_message("cache:invalidate:l1", "user:123", &t), NOTICE_KEYS);
    ck_assert_str_eq(t.text, "k:user:123 ");
    ck_assert_int_eq(read_message("cache:invalidate:l1", "user-service:user:123", &t), NOTICE_KEYS);
    ck_assert_str_eq(t.text, "k:user-service:user:123 k:user:123 ");
    ck_assert_int_eq(read_message("cache:invalidate:l1", "user-service:", &t), NOTICE_KEYS);
    ck_assert_str_eq(t.text, "k:user-service: k: ");
    ck_assert_int_eq(read_message("cache:invalidate:l1", "{\"service\":1}", &t), NOTICE_KEYS);
    ck_assert_int_eq(read_message("cache:invalidate:l1", "", &t), NOTICE_MALFORMED);
    ck_assert_int_eq(
        read_in("", NULL, "cache:invalidate:l1", (struct resp_slice){"user:123", 8}, &t),
        NOTICE_KEYS);
    ck_assert_str_eq(t.text, "k:user:123 "); /* once */
}
END_TEST

START_TEST(test_other_channels)
{
    static const char *const channels[] = {
        "cache:invalidate:l2", "cache:invalidat",  "",
        "cache:invalidate:",   "CACHE:INVALIDATE", "__redis__:invalidate"};
    struct told t;
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++) {
        ck_assert_int_eq(
            read_message(channels[i], "{\"service\":\"user-service\",\"key\":\"k\"}", &t),
            NOTICE_OTHER_CHANNEL);
        ck_assert_uint_eq(t.n, 0);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("notice");
    TCase *t = tcase_create("notice");
    tcase_add_test(t, test_event);
    tcase_add_test(t, test_prefix);
    tcase_add_test(t, test_origin);
    tcase_add_test(t, test_foreign_and_malformed);
    tcase_add_test(t, test_raw);
    tcase_add_test(t, test_other_channels);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
