/* test_monitor.c - how MONITOR writes a command. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "monitor.h"

/* `argv` ends with NULL. */
static void expect(const char *const *argv, const char *line)
{
    struct command_table *table = command_table_new();
    struct resp_slice slices[16];
    struct text t = {0};
    size_t argc = 0;
    for (; argv[argc]; argc++)
        slices[argc] = (struct resp_slice){argv[argc], strlen(argv[argc])};
    const struct command *command = command_find(table, slices, argc);
    ck_assert_ptr_nonnull(command);
    monitor_quote_command(&t, command, slices, argc);
    ck_assert_str_eq(t.p, line);
    free(t.p);
    command_table_free(table);
}

#define EXPECT(line, ...) expect((const char *const[]){__VA_ARGS__, NULL}, line)

START_TEST(test_every_byte)
{
    /* What Redis 7.0.15 shows of ECHO with all 256 bytes. */
    static const char expected[] =
        "\"\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\a\\b\\t\\n\\x0b\\x0c\\r\\x0e\\x0f"
        "\\x10\\x11\\x12\\x13\\x14\\x15\\x16\\x17\\x18\\x19\\x1a\\x1b\\x1c\\x1d\\x1e\\x1f"
        " !\\\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\\\]^_`"
        "abcdefghijklmnopqrstuvwxyz{|}~\\x7f";
    char bytes[256];
    struct text t = {0};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)i;
    monitor_quote(&t, (struct resp_slice){bytes, 128});
    ck_assert_uint_eq(t.len, sizeof expected); /* and the closing quote */
    ck_assert(memcmp(t.p, expected, sizeof expected - 1) == 0);
    t.len = 0;
    monitor_quote(&t, (struct resp_slice){bytes + 128, 128});
    ck_assert_uint_eq(t.len, 128 * 4 + 2);
    ck_assert(memcmp(t.p, "\"\\x80\\x81", 9) == 0);
    ck_assert_str_eq(t.p + t.len - 5, "\\xff\"");
    free(t.p);
}
END_TEST

START_TEST(test_plain)
{
    EXPECT("\"keys\" \"*\"", "keys", "*");
    EXPECT("\"SET\" \"k\" \"\"", "SET", "k", "");
    EXPECT("\"client\" \"setname\" \"auth\"", "client", "setname", "auth");
}
END_TEST

START_TEST(test_auth_is_redacted)
{
    EXPECT("\"auth\" \"(redacted)\"", "auth", "s3cret");
    EXPECT("\"AUTH\" \"(redacted)\" \"(redacted)\"", "AUTH", "me", "s3cret");
}
END_TEST

START_TEST(test_hello_is_redacted)
{
    EXPECT("\"hello\" \"3\"", "hello", "3");
    EXPECT("\"hello\" \"3\" \"AUTH\" \"(redacted)\" \"(redacted)\" \"setname\" \"x\"", "hello", "3",
           "AUTH", "auth", "s3cret", "setname", "x");
    EXPECT("\"hello\" \"3\" \"SETNAME\" \"x\" \"Auth\" \"(redacted)\" \"(redacted)\"", "hello", "3",
           "SETNAME", "x", "Auth", "me", "s3cret");
    EXPECT("\"hello\" \"3\" \"auth\" \"(redacted)\"", "hello", "3", "auth", "s3cret");
}
END_TEST

START_TEST(test_migrate_is_redacted)
{
    EXPECT("\"migrate\" \"h\" \"1\" \"k\" \"0\" \"10\" \"COPY\" \"AUTH\" \"(redacted)\"", "migrate",
           "h", "1", "k", "0", "10", "COPY", "AUTH", "s3cret");
    EXPECT("\"migrate\" \"h\" \"1\" \"\" \"0\" \"10\" \"auth2\" \"(redacted)\" \"(redacted)\" "
           "\"KEYS\" \"k\"",
           "migrate", "h", "1", "", "0", "10", "auth2", "me", "s3cret", "KEYS", "k");
    EXPECT("\"migrate\" \"auth\" \"1\" \"k\" \"0\" \"10\"", "migrate", "auth", "1", "k", "0", "10");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("monitor");
    TCase *t = tcase_create("monitor");
    tcase_add_test(t, test_every_byte);
    tcase_add_test(t, test_plain);
    tcase_add_test(t, test_auth_is_redacted);
    tcase_add_test(t, test_hello_is_redacted);
    tcase_add_test(t, test_migrate_is_redacted);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
