/* test_filtered.c - what is left of the server's replies to CONFIG GET and SLOWLOG GET. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "filtered.h"

static struct resp_slice text(const char *s)
{
    return (struct resp_slice){s, strlen(s)};
}

/* --- CONFIG GET ---------------------------------------------------------------------------------
 */

static void expect_config(const char *reply, unsigned resp, const char *altered)
{
    struct text out = {0};
    bool ok = filtered_config(text(reply), resp, &out);
    ck_assert(ok == (altered != NULL));
    if (altered)
        ck_assert_str_eq(out.p, altered);
    free(out.p);
}

START_TEST(test_passwords_are_blanked)
{
    expect_config("*8\r\n$11\r\nrequirepass\r\n$2\r\npw\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n"
                  "$10\r\nmasterauth\r\n$2\r\npw\r\n$10\r\nmasteruser\r\n$2\r\nme\r\n",
                  2,
                  "*8\r\n$11\r\nrequirepass\r\n$0\r\n\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n"
                  "$10\r\nmasterauth\r\n$0\r\n\r\n$10\r\nmasteruser\r\n$0\r\n\r\n");
    expect_config("*4\r\n$17\r\ntls-key-file-pass\r\n$2\r\npw\r\n"
                  "$24\r\nTLS-client-key-file-pass\r\n$2\r\npw\r\n",
                  2,
                  "*4\r\n$17\r\ntls-key-file-pass\r\n$0\r\n\r\n"
                  "$24\r\nTLS-client-key-file-pass\r\n$0\r\n\r\n");
}
END_TEST

START_TEST(test_config_in_either_protocol)
{
    static const char array[] = "*2\r\n$4\r\nsave\r\n$0\r\n\r\n";
    static const char map[] = "%1\r\n$4\r\nsave\r\n$0\r\n\r\n";
    expect_config(array, 2, array);
    expect_config(array, 3, map);
    expect_config(map, 3, map);
    expect_config(map, 2, array);
    expect_config("*0\r\n", 3, "%0\r\n");
    expect_config("*0\r\n", 2, "*0\r\n");
}
END_TEST

START_TEST(test_config_of_another_shape)
{
    expect_config("-ERR no\r\n", 2, NULL);
    expect_config("", 2, NULL);
    expect_config("%", 2, NULL);
    expect_config("%1", 2, NULL);
    expect_config("%1\r\n", 2, NULL);
    expect_config("*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", 2, NULL);
    expect_config("*2\r\n$4\r\nsave\r\n$0\r\n", 2, NULL);
    expect_config("*2\r\n$4\r\nsave\r\n:1\r\n", 2, NULL);
    expect_config("*2\r\n$4\r\nsave\r\n$0\r\n\r\n:1\r\n", 2, NULL);
}
END_TEST

/* --- SLOWLOG GET --------------------------------------------------------------------------------
 */

#define ENTRY_OF(client, argv)                                                                     \
    "*6\r\n:7\r\n:1760000000\r\n:12345\r\n" argv "$11\r\n127.0.0.1:5\r\n" client "\r\n"
#define ENTRY(argv) ENTRY_OF("$13\r\nnearcache:svc", argv)
#define GET_OURS    ENTRY("*2\r\n$3\r\nGET\r\n$5\r\nsvc:a\r\n")
#define GET_A       ENTRY("*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
#define GET_THEIRS  ENTRY("*2\r\n$3\r\nget\r\n$7\r\nother:a\r\n")
#define PING        ENTRY("*1\r\n$4\r\nPING\r\n")

static void expect_slowlog(const char *reply, int64_t count, const char *altered)
{
    struct namespace ns;
    struct command_table *table = command_table_new();
    struct command_keys keys = {0};
    struct text out = {0};
    ck_assert(namespace_init(&ns, "svc:"));
    const struct slowlog_terms terms = {
        .service = "svc", .ns = &ns, .commands = table, .keys = &keys};
    bool ok = filtered_slowlog(&terms, text(reply), count, &out);
    ck_assert(ok == (altered != NULL));
    if (altered)
        ck_assert_str_eq(out.p, altered);
    free(out.p);
    command_keys_free(&keys);
    command_table_free(table);
    namespace_free(&ns);
}

START_TEST(test_own_entries_are_stripped)
{
    expect_slowlog("*3\r\n" GET_OURS GET_THEIRS PING, -1, "*2\r\n" GET_A PING);
    expect_slowlog("*0\r\n", -1, "*0\r\n");
}
END_TEST

START_TEST(test_count)
{
    expect_slowlog("*4\r\n" GET_THEIRS GET_OURS PING GET_OURS, 2, "*2\r\n" GET_A PING);
    expect_slowlog("*2\r\n" GET_THEIRS GET_OURS, 10, "*1\r\n" GET_A);
    expect_slowlog("*1\r\n" GET_OURS, 0, "*0\r\n");
}
END_TEST

START_TEST(test_some_keys_are_others)
{
    expect_slowlog("*1\r\n" ENTRY("*3\r\n$4\r\nMGET\r\n$5\r\nsvc:a\r\n$7\r\nother:b\r\n"), -1,
                   "*0\r\n");
    expect_slowlog("*1\r\n" ENTRY("*3\r\n$4\r\nMGET\r\n$5\r\nsvc:a\r\n$4\r\nsvc:\r\n"), -1,
                   "*1\r\n" ENTRY("*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$0\r\n\r\n"));
}
END_TEST

START_TEST(test_patterns)
{
    expect_slowlog("*3\r\n" ENTRY("*2\r\n$4\r\nKEYS\r\n$5\r\nsvc:*\r\n")
                       ENTRY("*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n")
                           ENTRY("*4\r\n$4\r\nSCAN\r\n$1\r\n0\r\n$5\r\nmatch\r\n$7\r\nother:*\r\n"),
                   -1, "*1\r\n" ENTRY("*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n"));
    expect_slowlog(
        "*1\r\n" ENTRY("*6\r\n$4\r\nSCAN\r\n$1\r\n0\r\n$5\r\nCOUNT\r\n$2\r\n10\r\n$5\r\nMATCH\r\n"
                       "$6\r\nsvc:a*\r\n"),
        -1,
        "*1\r\n" ENTRY("*6\r\n$4\r\nSCAN\r\n$1\r\n0\r\n$5\r\nCOUNT\r\n$2\r\n10\r\n$5\r\nMATCH\r\n"
                       "$2\r\na*\r\n"));
}
END_TEST

/* Names of channels, say, and what is published there. */
START_TEST(test_without_keys_only_the_services_own)
{
    static const char *const others[] = {"$15\r\nnearcache:other", "$14\r\nnearcache:svc2",
                                         "$12\r\nnearcache:sv",    "$0\r\n",
                                         "$13\r\nNearcache:svc",   "$18\r\nnearcache:svc:link"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct text reply = {0};
        text_say(&reply, "*2\r\n" ENTRY_OF("%s", "*3\r\n$7\r\nPUBLISH\r\n$1\r\nx\r\n$1\r\ny\r\n"),
                 others[i]);
        text_say(&reply, ENTRY_OF("%s", "*2\r\n$3\r\nGET\r\n$5\r\nsvc:a\r\n"), others[i]);
        struct text expected = {0};
        text_say(&expected, "*1\r\n" ENTRY_OF("%s", "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), others[i]);
        expect_slowlog(reply.p, -1, expected.p);
        free(reply.p);
        free(expected.p);
    }
    expect_slowlog("*1\r\n*4\r\n:1\r\n:2\r\n:3\r\n*1\r\n$4\r\nPING\r\n", -1, "*0\r\n");
}
END_TEST

START_TEST(test_what_cannot_be_told_is_left_out)
{
    expect_slowlog("*1\r\n" ENTRY("*2\r\n$7\r\nNOSUCH.\r\n$1\r\nx\r\n"), -1, "*0\r\n");
    expect_slowlog("*1\r\n" ENTRY("*3\r\n$4\r\nEVAL\r\n$1\r\nx\r\n$1\r\n0\r\n"), -1, "*0\r\n");
    expect_slowlog("*1\r\n" ENTRY("*1\r\n$3\r\nGET\r\n"), -1, "*0\r\n");
}
END_TEST

/* Redis logs 32 arguments; the last stands for the rest. */
START_TEST(test_a_long_command)
{
    struct text reply = {0}, expected = {0};
    text_say(&reply, "*1\r\n*4\r\n:0\r\n:1\r\n:2\r\n*32\r\n$3\r\nDEL\r\n");
    text_say(&expected, "*1\r\n*4\r\n:0\r\n:1\r\n:2\r\n*32\r\n$3\r\nDEL\r\n");
    for (int i = 1; i < 31; i++) {
        text_say(&reply, "$5\r\nsvc:k\r\n");
        text_say(&expected, "$1\r\nk\r\n");
    }
    text_say(&reply, "$22\r\n... (9 more arguments)\r\n");
    text_say(&expected, "$22\r\n... (9 more arguments)\r\n");
    expect_slowlog(reply.p, -1, expected.p);
    free(reply.p);
    free(expected.p);
}
END_TEST

START_TEST(test_slowlog_of_another_shape)
{
    static const char whole[] = "*2\r\n" GET_OURS PING;
    expect_slowlog("-ERR no\r\n", -1, NULL);
    expect_slowlog("", -1, NULL);
    for (size_t n = 0; n < strlen(whole); n++) {
        char *cut = strndup(whole, n);
        expect_slowlog(cut, -1, NULL);
        free(cut);
    }
    expect_slowlog("*1\r\n*3\r\n:1\r\n:2\r\n:3\r\n", -1, NULL);
    expect_slowlog("*1\r\n*4\r\n:1\r\n:2\r\n:3\r\n*0\r\n", -1, NULL);
    expect_slowlog("*1\r\n*4\r\n:1\r\n:2\r\n:3\r\n*33\r\n", -1, NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("filtered");
    TCase *t = tcase_create("filtered");
    tcase_add_test(t, test_passwords_are_blanked);
    tcase_add_test(t, test_config_in_either_protocol);
    tcase_add_test(t, test_config_of_another_shape);
    tcase_add_test(t, test_own_entries_are_stripped);
    tcase_add_test(t, test_count);
    tcase_add_test(t, test_some_keys_are_others);
    tcase_add_test(t, test_patterns);
    tcase_add_test(t, test_without_keys_only_the_services_own);
    tcase_add_test(t, test_what_cannot_be_told_is_left_out);
    tcase_add_test(t, test_a_long_command);
    tcase_add_test(t, test_slowlog_of_another_shape);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
