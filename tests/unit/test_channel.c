/* test_channel.c - names of channels, there and back, with channels.namespace and without. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"

static struct namespace ns;

static void setup(void)
{
    ck_assert(namespace_init(&ns, "s*c:"));
}

static void teardown(void)
{
    namespace_free(&ns);
}

static struct resp_slice text(const char *s)
{
    return (struct resp_slice){s, strlen(s)};
}

static void join(char buf[256], const struct channel_name *name)
{
    snprintf(buf, 256, "%.*s%.*s%.*s", (int)name->head.len, name->head.data, (int)name->prefix.len,
             name->prefix.data, (int)name->tail.len, name->tail.data);
}

static void check_out(const char *name, bool namespaced, bool pattern, const char *expected)
{
    char full[256];
    struct channel_name out = channel_out(&ns, namespaced, text(name), pattern);
    join(full, &out);
    ck_assert_str_eq(full, expected);
}

/* NULL: not for this client. */
static void check_in(const char *full, bool namespaced, bool pattern, const char *expected)
{
    char name[256];
    struct channel_name in;
    bool ours = channel_in(&ns, namespaced, text(full), pattern, &in);
    ck_assert_msg(ours == (expected != NULL), "%s", full);
    if (!expected)
        return;
    join(name, &in);
    ck_assert_str_eq(name, expected);
}

static void both_ways(const char *name, bool namespaced, bool pattern, const char *full)
{
    check_out(name, namespaced, pattern, full);
    check_in(full, namespaced, pattern, name);
}

START_TEST(plain_channels)
{
    both_ways("chat", false, false, "chat");
    both_ways("chat", true, false, "s*c:chat");
    both_ways("", true, false, "s*c:");
    both_ways("ch?t*", false, true, "ch?t*");
    both_ways("ch?t*", true, true, "s\\*c:ch?t*");
    check_in("s*c:chat", false, false, "s*c:chat");
    check_in("chat", true, false, NULL); /* another service's, caught by a pattern */
}
END_TEST

START_TEST(keyspace_channels)
{
    for (int namespaced = 0; namespaced < 2; namespaced++) {
        both_ways("__keyspace@0__:k", namespaced, false, "__keyspace@0__:s*c:k");
        both_ways("__keyspace@12__:", namespaced, false, "__keyspace@12__:s*c:");
        both_ways("__keyspace@*__:u:*", namespaced, true, "__keyspace@*__:s\\*c:u:*");
        both_ways("__keyspace@0__:a__:b", namespaced, false, "__keyspace@0__:s*c:a__:b");
        check_in("__keyspace@0__:other:k", namespaced, false, NULL);
        check_in("__keyspace@0__:s*c", namespaced, false, NULL);
        check_in("__keyspace@0__:", namespaced, false, NULL);
        check_in("__keyspace@0__:s\\*c:k", namespaced, false, NULL); /* that is the pattern's */
        check_in("__keyspace@0__:s*c:k", namespaced, true, NULL);
    }
}
END_TEST

START_TEST(names_that_are_the_same_for_all)
{
    static const char *const names[] = {"__keyevent@0__:set",   "__keyevent@",
                                        "__redis__:invalidate", "cache:invalidate",
                                        "cache:invalidate:l1",  "cache:change"};
    static const char *const patterns[] = {"__keyevent@*__:*", "__key*",      "__key*:user:*",
                                           "__keyspace@*",     "__keys[p]*",  "__keyspace@?__*",
                                           "__redis__:*",      "__keyevent?", "__key\\s*"};
    static const char *const others[] = {"cache:invalidate:l2", "cache:",         "_",
                                         "__keyspace@",         "__keyspace@0__", "__keysecret",
                                         "__redis__:secret"};
    static const char *const other_patterns[] = {
        "*", "__*", "__keysecret*", "__keyspace@0__", "__redis__:s*", "\\_\\_key*", "cache:*"};
    char full[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int bits = 0; bits < 4; bits++)
            both_ways(names[i], bits & 1, bits & 2, names[i]);
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        both_ways(patterns[i], true, true, patterns[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(full, sizeof full, "s*c:%s", others[i]);
        both_ways(others[i], true, false, full);
        check_in(others[i], true, false, NULL);
    }
    for (size_t i = 0; i < sizeof other_patterns / sizeof *other_patterns; i++) {
        snprintf(full, sizeof full, "s\\*c:%s", other_patterns[i]);
        both_ways(other_patterns[i], true, true, full);
    }
}
END_TEST

START_TEST(without_a_namespace)
{
    static const char *const names[] = {"chat", "__keyspace@0__:k", "__keyevent@0__:set", "", "*"};
    struct namespace none;
    ck_assert(namespace_init(&none, ""));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int bits = 0; bits < 4; bits++) {
            char full[256], back[256];
            struct channel_name out = channel_out(&none, bits & 1, text(names[i]), bits & 2), in;
            join(full, &out);
            ck_assert_str_eq(full, names[i]);
            ck_assert(channel_in(&none, bits & 1, text(full), bits & 2, &in));
            join(back, &in);
            ck_assert_str_eq(back, names[i]);
        }
    namespace_free(&none);
}
END_TEST

START_TEST(channels_whose_messages_are_keys)
{
    ck_assert(channel_is_keyevent(text("__keyevent@0__:set")));
    ck_assert(!channel_is_keyevent(text("__keyspace@0__:set")));
    ck_assert(!channel_is_keyevent(text("__keyevent")));
    ck_assert(!channel_is_keyevent(text("")));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("channel");
    TCase *t = tcase_create("channel");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, plain_channels);
    tcase_add_test(t, keyspace_channels);
    tcase_add_test(t, names_that_are_the_same_for_all);
    tcase_add_test(t, without_a_namespace);
    tcase_add_test(t, channels_whose_messages_are_keys);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
