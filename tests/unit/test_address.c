/* test_address.c - addresses: each form that is taken, each that is not and what is said. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"

static const char *or_dash(const char *text)
{
    return text ? text : "-";
}

static const struct {
    const char *text, *parsed; /* host port path label, or what is wrong */
} listens[] = {
    {"127.0.0.1:6380", "127.0.0.1 6380 - 127.0.0.1:6380"},
    {"localhost:0", "localhost 0 - localhost:0"},
    {"[::1]:65535", "::1 65535 - [::1]:65535"},
    {"[fe80::1%eth0]:1", "fe80::1%eth0 1 - [fe80::1%eth0]:1"},
    {":6380", "0.0.0.0 6380 - 0.0.0.0:6380"},
    {"*:6380", "0.0.0.0 6380 - 0.0.0.0:6380"},
    {"tls:localhost:1", "localhost 1 - tls:localhost:1"},
    {"tls:[::1]:1", "::1 1 - tls:[::1]:1"},
    {"tls::1", "0.0.0.0 1 - tls:0.0.0.0:1"},
    {"tls:1", "not an address (like 127.0.0.1:6380, [::1]:6380, :6380 or unix:/path)"},
    {"tls:unix:/s", "the port is not a number from 0 to 65535"},
    {"unix:/run/n.sock", "- 0 /run/n.sock unix:/run/n.sock"},
    {"unix:///run/n.sock", "- 0 /run/n.sock unix:/run/n.sock"},
    {"", "not an address (like 127.0.0.1:6380, [::1]:6380, :6380 or unix:/path)"},
    {"6380", "not an address (like 127.0.0.1:6380, [::1]:6380, :6380 or unix:/path)"},
    {"[::1]", "not an address (like 127.0.0.1:6380, [::1]:6380, :6380 or unix:/path)"},
    {"h:65536", "the port is not a number from 0 to 65535"},
    {"h:", "the port is not a number from 0 to 65535"},
    {"h:-1", "the port is not a number from 0 to 65535"},
    {"h:4294967297", "the port is not a number from 0 to 65535"},
    {"::1:6380", "an IPv6 address needs brackets, as in [::1]:6379"},
    {"[::1:6380", "the ']' of the IPv6 address is missing"},
    {"[::1]6380", "expected ':' and a port behind the ']'"},
    {"[host]:1", "not an IPv6 address between the brackets"},
    {"a b:1", "not a host name"},
    {"*.example:1", "not a host name"},
    {"unix:", "the socket's path does not start with '/'"},
    {"unix:n.sock", "the socket's path does not start with '/'"},
    {"unix:/a\nb", "a control character in the socket's path"},
};

START_TEST(test_listen)
{
    struct listen_address a;
    char parsed[256];
    const char *wrong = listen_address_parse(listens[_i].text, &a);
    snprintf(parsed, sizeof parsed, "%s %u %s %s", or_dash(a.host), a.port, or_dash(a.path),
             or_dash(a.label));
    ck_assert_str_eq(wrong ? wrong : parsed, listens[_i].parsed);
    ck_assert_int_eq(a.tls, !wrong && strncmp(listens[_i].text, "tls:", 4) == 0);
    if (wrong)
        ck_assert_str_eq(parsed, "- 0 - -");
    listen_address_free(&a);
}
END_TEST

#define NOT_A_URL "not a URL like redis://host:6379/0 or unix:/path"

static const struct {
    const char *text, *parsed; /* host port path db user password label, or what is wrong */
} upstreams[] = {
    {"redis://h", "h 6379 - 0 - - h:6379"},
    {"redis://h/", "h 6379 - 0 - - h:6379"},
    {"redis://h:7000/15", "h 7000 - 15 - - h:7000"},
    {"valkey://h?db=2", "h 6379 - 2 - - h:6379"},
    {"redis://[2001:db8::1]:7/3", "2001:db8::1 7 - 3 - - [2001:db8::1]:7"},
    {"redis://[::1]", "::1 6379 - 0 - - [::1]:6379"},
    {"redis://u:p@h:1", "h 1 - 0 u p h:1"},
    {"redis://:p@h", "h 6379 - 0 - p h:6379"},
    {"redis://u@h", "h 6379 - 0 u - h:6379"},
    {"redis://u:p:q@r@h", "h 6379 - 0 u p:q@r h:6379"},
    {"redis://a%40b:%2Fx%25%c3%a9@h", "h 6379 - 0 a@b /x%\xc3\xa9 h:6379"},
    {"unix:/run/r.sock", "- 0 /run/r.sock 0 - - unix:/run/r.sock"},
    {"unix:///run/r.sock?db=4", "- 0 /run/r.sock 4 - - unix:/run/r.sock"},
    {"redis+unix:///r%20s", "- 0 /r s 0 - - unix:/r s"},
    {"unix://u:p@/r?db=1", "- 0 /r 1 u p unix:/r"},
    {"", NOT_A_URL},
    {"h:6379", NOT_A_URL},
    {"http://h", NOT_A_URL},
    {"rediss://h", "h 6379 - 0 - - rediss://h:6379"},
    {"valkeys://u:p@[::1]:7/3", "::1 7 - 3 u p rediss://[::1]:7"},
    {"rediss+unix:///s", NOT_A_URL},
    {"redis://", "the URL names no host"},
    {"redis://u:p@", "the URL names no host"},
    {"redis://*:1", "the URL names no host"},
    {"redis://h:0", "the port is not a number from 1 to 65535"},
    {"redis://h:x", "the port is not a number from 1 to 65535"},
    {"redis://h/x", "the database is not a number"},
    {"redis://h/0/1", "the database is not a number"},
    {"redis://h/2147483648", "the database is not a number"},
    {"redis://h?tls=1", "only ?db=NUMBER may follow the '?' in the URL"},
    {"redis://h?", "only ?db=NUMBER may follow the '?' in the URL"},
    {"redis://u:%@h", "a '%' in the URL without two hexadecimal digits (write %25 for '%')"},
    {"redis://u:%4@h", "a '%' in the URL without two hexadecimal digits (write %25 for '%')"},
    {"redis://u:%00@h", "a '%' in the URL without two hexadecimal digits (write %25 for '%')"},
    {"unix:r.sock", "the socket's path does not start with '/'"},
    {"unix://host/r", "the socket's path does not start with '/'"},
    {"unix:/a%0ab", "a control character in the socket's path"},
};

START_TEST(test_upstream)
{
    struct upstream_address a;
    char parsed[256];
    const char *wrong = upstream_address_parse(upstreams[_i].text, &a);
    snprintf(parsed, sizeof parsed, "%s %u %s %u %s %s %s", or_dash(a.host), a.port,
             or_dash(a.path), a.db, or_dash(a.user), or_dash(a.password), or_dash(a.label));
    ck_assert_str_eq(wrong ? wrong : parsed, upstreams[_i].parsed);
    ck_assert_int_eq(a.tls, !wrong && strstr(a.label, "rediss://"));
    if (wrong)
        ck_assert_str_eq(parsed, "- 0 - 0 - - -");
    upstream_address_free(&a);
}
END_TEST

START_TEST(test_lengths)
{
    struct listen_address a;
    char text[400];
    for (int n = 100; n < 115; n++) {
        snprintf(text, sizeof text, "unix:/%0*d", n - 1, 0);
        const char *wrong = listen_address_parse(text, &a);
        ck_assert_str_eq(wrong ? wrong : "",
                         n > 107 ? "the socket's path is longer than 107 bytes" : "");
        listen_address_free(&a);
    }
    snprintf(text, sizeof text, "%0254d:1", 0);
    ck_assert_str_eq(listen_address_parse(text, &a), "the host name is too long");
    ck_assert_ptr_null(listen_address_parse(text + 1, &a));
    listen_address_free(&a);
}
END_TEST

static const struct {
    const char *text;
    bool local;
} reaches[] = {
    {"127.0.0.1:1", true},
    {"127.8.0.1:1", true},
    {"localhost:1", true},
    {"[::1]:1", true},
    {"tls:localhost:1", true},
    {"unix:/s", true},
    {":1", false},
    {"*:1", false},
    {"0.0.0.0:1", false},
    {"10.127.0.1:1", false},
    {"127.0.0.1.example:1", false},
    {"[::]:1", false},
    {"[::2]:1", false},
    {"localhost.example:1", false},
    {"tls:1.2.3.4:1", false},
};

START_TEST(test_is_local)
{
    struct listen_address a;
    ck_assert_ptr_null(listen_address_parse(reaches[_i].text, &a));
    ck_assert_int_eq(listen_address_is_local(&a), reaches[_i].local);
    listen_address_free(&a);
}
END_TEST

static const struct {
    const char *url, *shown;
} redactions[] = {
    {"redis://h:1/2", "redis://h:1/2"},
    {"redis://u@h", "redis://u@h"},
    {"redis://u:secret@h:1/2", "redis://u:***@h:1/2"},
    {"redis://:sec@ret@h", "redis://:***@h"},
    {"unix://u:secret@/path?db=1", "unix://u:***@/path?db=1"},
};

START_TEST(test_redacted)
{
    char *shown = upstream_url_redacted(redactions[_i].url);
    ck_assert_str_eq(shown, redactions[_i].shown);
    free(shown);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("address");
    TCase *tc = tcase_create("address");
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, test_listen, 0, sizeof listens / sizeof *listens);
    tcase_add_loop_test(tc, test_upstream, 0, sizeof upstreams / sizeof *upstreams);
    tcase_add_test(tc, test_lengths);
    tcase_add_loop_test(tc, test_is_local, 0, sizeof reaches / sizeof *reaches);
    tcase_add_loop_test(tc, test_redacted, 0, sizeof redactions / sizeof *redactions);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
