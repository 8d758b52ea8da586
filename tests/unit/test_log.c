/* test_log.c - log lines: escaping, cutting, levels, one write each, the rate limit. */
#include <check.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* What one event with the pair v=value becomes, behind the time stamp. Freed by the caller. */
static char *line_of(const char *value)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    struct log *log = log_new(f, LOG_INFO);
    log_write(log, LOG_INFO, "e", "v", value, NULL);
    log_free(log);
    fclose(f);
    char *behind = strdup(strstr(text, " level=") + 1);
    free(text);
    return behind;
}

static const struct {
    const char *value, *line;
} escapes[] = {
    {"plain/1:2", "level=info event=e v=plain/1:2\n"},
    {"", "level=info event=e v=\"\"\n"},
    {"two words", "level=info event=e v=\"two words\"\n"},
    {"a=b", "level=info event=e v=\"a=b\"\n"},
    {"say \"x\"", "level=info event=e v=\"say \\\"x\\\"\"\n"},
    {"back\\slash", "level=info event=e v=\"back\\\\slash\"\n"},
    {"a\nlevel=error", "level=info event=e v=\"a\\nlevel=error\"\n"},
    {"\r\t\x01\x7f", "level=info event=e v=\"\\x0d\\x09\\x01\\x7f\"\n"},
    {"\xc3\xa9", "level=info event=e v=\"\\xc3\\xa9\"\n"},
    {NULL, "level=info event=e\n"},
};

START_TEST(test_escaping)
{
    char *line = line_of(escapes[_i].value);
    ck_assert_str_eq(line, escapes[_i].line);
    free(line);
}
END_TEST

START_TEST(test_time_stamp)
{
    char *text = NULL;
    size_t len = 0;
    int year, month, day, hour, minute, second, ms, end = 0;
    FILE *f = open_memstream(&text, &len);
    struct log *log = log_new(f, LOG_DEBUG);
    log_write(log, LOG_DEBUG, "start", NULL);
    log_free(log);
    fclose(f);
    sscanf(text, "ts=%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &year, &month, &day, &hour, &minute, &second,
           &ms, &end);
    ck_assert_int_eq(end, (int)strlen("ts=2026-01-31T12:00:00.123Z"));
    ck_assert_str_eq(text + end, " level=debug event=start\n");
    free(text);
}
END_TEST

START_TEST(test_levels)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    struct log *log = log_new(f, LOG_WARN);
    ck_assert(!log_enabled(log, LOG_INFO));
    ck_assert(log_enabled(log, LOG_WARN));
    log_write(log, LOG_INFO, "no", NULL);
    ck_assert_uint_eq(len, 0);
    log_write(log, LOG_ERROR, "yes", NULL);
    ck_assert(strstr(text, "level=error event=yes\n"));
    log_set_level(log, LOG_DEBUG);
    ck_assert(log_enabled(log, LOG_DEBUG));
    log_free(log);
    fclose(f);
    free(text);
}
END_TEST

/* A line stays below what a pipe takes whole, closed and ended, wherever it is cut. */
START_TEST(test_long_line_is_cut)
{
    char value[6000];
    for (size_t n = 3900; n < 4200; n++) {
        memset(value, _i ? '\n' : 'x', n);
        value[n] = '\0';
        char *line = line_of(value);
        size_t len = strlen(line);
        ck_assert_uint_lt(len, 4096);
        ck_assert_int_eq(line[len - 1], '\n');
        ck_assert_ptr_eq(strchr(line, '\n'), line + len - 1);
        if (_i)
            ck_assert_str_eq(line + len - 5, "...\"\n");
        else if (n > 4100)
            ck_assert_str_eq(line + len - 4, "...\n");
        free(line);
    }
}
END_TEST

/* A pipe in packet mode shows each write on its own. */
START_TEST(test_one_write_per_line)
{
    int fds[2];
    char buf[4096];
    ck_assert_int_eq(pipe2(fds, O_DIRECT | O_NONBLOCK), 0);
    FILE *f = fdopen(fds[1], "w");
    if (_i)
        setvbuf(f, NULL, _IONBF, 0); /* as stderr */
    struct log *log = log_new(f, LOG_INFO);
    log_write(log, LOG_INFO, "one", "why", "some text", "n", "1", NULL);
    log_write(log, LOG_INFO, "two", NULL);
    ssize_t n = read(fds[0], buf, sizeof buf);
    ck_assert_int_gt((int)n, 0);
    ck_assert(memmem(buf, (size_t)n, "event=one why=\"some text\" n=1\n", 30));
    ck_assert(!memmem(buf, (size_t)n, "two", 3));
    log_free(log);
    fclose(f);
    close(fds[0]);
}
END_TEST

START_TEST(test_limit)
{
    struct log_limit limit = {0};
    ck_assert(log_limit_pass(&limit, 0, 1000)); /* the first one always */
    ck_assert_uint_eq(limit.suppressed, 0);
    ck_assert(!log_limit_pass(&limit, 0, 1000));
    ck_assert(!log_limit_pass(&limit, 999, 1000));
    ck_assert(log_limit_pass(&limit, 1000, 1000));
    ck_assert_uint_eq(limit.suppressed, 2);
    ck_assert(log_limit_pass(&limit, 5000, 1000));
    ck_assert_uint_eq(limit.suppressed, 0);
}
END_TEST

START_TEST(test_number)
{
    char buf[24];
    ck_assert_str_eq(log_number(buf, 0), "0");
    ck_assert_str_eq(log_number(buf, UINT64_MAX), "18446744073709551615");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tc = tcase_create("log");
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, test_escaping, 0, sizeof escapes / sizeof *escapes);
    tcase_add_test(tc, test_time_stamp);
    tcase_add_test(tc, test_levels);
    tcase_add_loop_test(tc, test_long_line_is_cut, 0, 2);
    tcase_add_loop_test(tc, test_one_write_per_line, 0, 2);
    tcase_add_test(tc, test_limit);
    tcase_add_test(tc, test_number);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
