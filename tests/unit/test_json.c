/* test_json.c - JSON documents: values with their lines, what is refused and how it is said. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

struct trace {
    char text[2048];
    unsigned left; /* values to take before stopping */
};

static bool trace_value(void *ctx, const struct json_value *v)
{
    static const char types[] = "snb0ao"; /* in the order of enum json_type */
    struct trace *t = ctx;
    size_t n = strlen(t->text);
    if (t->left-- == 0)
        return false;
    snprintf(t->text + n, sizeof t->text - n, "%u:%s", v->line, v->path);
    n = strlen(t->text);
    if (v->index >= 0)
        snprintf(t->text + n, sizeof t->text - n, "[%d]", v->index);
    n = strlen(t->text);
    snprintf(t->text + n, sizeof t->text - n, "=%c%s;", types[v->type], v->text);
    return true;
}

static const struct {
    const char *document, *values;
} walks[] = {
    {"{}", ""},
    {" \r\n{ } \n", ""},
    {"\xef\xbb\xbf{\"a\":1}", "1:a=n1;"},
    {"{\"a\":1,\"b\":-2.50e3}", "1:a=n1;1:b=n-2.50e3;"},
    {"{\n\"a\":true,\n\n\"b\":false,\"c\":\nnull}", "2:a=btrue;4:b=bfalse;5:c=0null;"},
    {"{\r\n\"a\" : \"x\" ,\r\n\"b\"\r\n:\r\n\"y\"\r\n}", "2:a=sx;5:b=sy;"},
    {"{\"l1\":{\"ttl\":\n\"5s\",\"x\":{\"y\":1}},\n\"a.b\":2}",
     "2:l1.ttl=s5s;2:l1.x.y=n1;3:a.b=n2;"},
    {"{\"a\":[1,\n\"2\",\ntrue],\n\"b\":3}", "1:a[0]=n1;2:a[1]=s2;3:a[2]=btrue;4:b=n3;"},
    {"{\"a\":[],\n\"b\":{},\"c\":[{\"d\":1},{}]}", "1:a=a;2:b=o;2:c.d=n1;2:c[1]=o;"},
    {"{\"a\":\"\\\"},\\n:[\\\\\",\n\"b\":\"\\\\\\\\\"}", "1:a=s\"},\n:[\\;2:b=s\\\\;"},
    {"{\"a\":\"\\\\u0000 \\u00e9\\ud83d\\ude00\",\n\"\\u0062\":1}",
     "1:a=s\\u0000 \xc3\xa9\xf0\x9f\x98\x80;2:b=n1;"},
    {"{\"a\":1,\n\"a\":2}", "1:a=n1;2:a=n2;"},
    {"{\"\":1,\"x\":{\"\":2}}", "1:=n1;1:x.=n2;"},
};

START_TEST(test_walk)
{
    struct trace t = {.left = 100};
    char error[JSON_ERROR_MAX];
    unsigned line;
    const char *document = walks[_i].document;
    ck_assert_msg(json_walk(document, strlen(document), trace_value, &t, error, &line), "%s",
                  error);
    ck_assert_str_eq(t.text, walks[_i].values);
    ck_assert_str_eq(error, "");
}
END_TEST

static const struct {
    const char *document;
    unsigned line;
    const char *error;
} refusals[] = {
    {"", 1, "expected '{', but the text ends"},
    {"\n\n[1]", 3, "expected '{', not ["},
    {"7", 1, "expected '{', not a word without double quotes"},
    {"{\n", 2, "expected a name in double quotes or '}', but the text ends"},
    {"{\"a\":1,\n}", 2, "expected a name in double quotes, not }"},
    {"{'a':1}", 1, "expected a name in double quotes or '}', not a word without double quotes"},
    {"{\"a\"\n1}", 2, "expected ':', not a word without double quotes"},
    {"{\"password\" \"secret\"}", 1, "expected ':', not a string"},
    {"{\"a\":}", 1, "expected a value, not }"},
    {"{\"a\":[1,]}", 1, "expected a value, not ]"},
    {"{\"a\":[,]}", 1, "expected a value or ']', not ,"},
    {"{\"a\":1\n\"b\":2}", 2, "expected ',' or '}', not a string"},
    {"{\"a\":[1 2]}", 1, "expected ',' or ']', not a word without double quotes"},
    {"{\"a\":[1}", 1, "expected ',' or ']', not }"},
    {"{\"a\":1}\n}", 2, "expected nothing more, not }"},
    {"{\"a\":1} {}", 1, "expected nothing more, not {"},
    {"{\n\"a\":1,\n\"b\":fasle,\n\"c\":2}", 3,
     "expected a value, not a word without double quotes"},
    {"{\"a\":1x}", 1, "expected a value, not a word without double quotes"},
    {"{\"a\":0123456789012345678901234567890123456789012345678}", 1,
     "expected a value, not a word without double quotes"},
    {"{\"a\":\"x\n\"}", 1, "a line break or control character in a string; is a quote missing?"},
    {"{\"a\":\"x", 1, "a string without its closing quote"},
    {"{\"a\":\"x\\\"", 1, "a string without its closing quote"},
    {"{\n\"a\":\"\\q\",\n\"b\":1}", 2, "a wrong escape in a string"},
    {"{\"a\":\"\\ud83d\"}", 1, "a wrong escape in a string"},
    {"{\"a\":\"x\\u0000y\"}", 1, "a NUL character"},
    {"{\"a\":\x01"
     "1}",
     1, "expected a value, not a word without double quotes"},
    {"{\"password\": secret}", 1, "expected a value, not a word without double quotes"},
    {"{\"password\": \"se\"cret\"}", 1, "expected ',' or '}', not a word without double quotes"},
    {"{\"password\": \"se\" \"cret\"}", 1, "expected ',' or '}', not a string"},
    {"{\"a\":[[1]]}", 1, "an array inside of an array has no meaning here"},
};

START_TEST(test_refused)
{
    struct trace t = {.left = 100};
    char error[JSON_ERROR_MAX];
    unsigned line;
    const char *document = refusals[_i].document;
    ck_assert(!json_walk(document, strlen(document), trace_value, &t, error, &line));
    ck_assert_str_eq(error, refusals[_i].error);
    ck_assert_uint_eq(line, refusals[_i].line);
    ck_assert_str_eq(t.text, ""); /* nothing was taken from a document that is wrong */
}
END_TEST

static char *nested(unsigned depth)
{
    char *text = calloc(1, 6 * (size_t)depth + 2);
    for (unsigned i = 0; i < depth; i++)
        memcpy(text + 5 * i, "{\"a\":", 5);
    text[5 * depth] = '1';
    memset(text + 5 * depth + 1, '}', depth);
    return text;
}

START_TEST(test_depth)
{
    struct trace t = {.left = 100};
    char error[JSON_ERROR_MAX];
    unsigned line;
    char *text = nested(32), *deeper = nested(33);
    ck_assert(json_walk(text, strlen(text), trace_value, &t, error, &line));
    ck_assert(!json_walk(deeper, strlen(deeper), trace_value, &t, error, &line));
    ck_assert_str_eq(error, "nested too deep");
    struct json_object *o = json_object_parse(text, strlen(text));
    ck_assert_ptr_nonnull(o);
    json_object_free(o);
    ck_assert_ptr_null(json_object_parse(deeper, strlen(deeper)));
    free(text);
    free(deeper);
}
END_TEST

START_TEST(test_stopped)
{
    struct trace t = {.left = 1};
    const char *document = "{\"a\":1,\n\"b\":{\"c\":2},\"d\":3}";
    char error[JSON_ERROR_MAX];
    unsigned line;
    ck_assert(!json_walk(document, strlen(document), trace_value, &t, error, &line));
    ck_assert_str_eq(error, "");
    ck_assert_str_eq(t.text, "1:a=n1;");
}
END_TEST

START_TEST(test_long_names)
{
    struct trace t = {.left = 100};
    char text[600], error[JSON_ERROR_MAX];
    unsigned line;
    for (int n = 250; n < 260; n++) {
        t.text[0] = '\0';
        int len = snprintf(text, sizeof text, "{\n\"%0*d\":1}", n, 0);
        bool ok = json_walk(text, (size_t)len, trace_value, &t, error, &line);
        ck_assert_int_eq(ok, n < 256);
        ck_assert_str_eq(error, ok ? "" : "a name that is too long");
    }
}
END_TEST

/* The text need not end with a NUL, and a NUL ends nothing. */
START_TEST(test_length_counts)
{
    struct trace t = {.left = 100};
    char error[JSON_ERROR_MAX];
    unsigned line;
    ck_assert(json_walk("{\"a\":1}garbage", 7, trace_value, &t, error, &line));
    ck_assert(!json_walk("{\"a\":1}\0", 8, trace_value, &t, error, &line));
    struct json_object *o = json_object_parse("{\"a\":1}garbage", 7);
    ck_assert_ptr_nonnull(o);
    json_object_free(o);
    ck_assert_ptr_null(json_object_parse("{\"a\":1}\0", 8));
}
END_TEST

START_TEST(test_object)
{
    const char *text =
        " {\"key\":\"user:1\\n\",\"timestamp\":1760000000000,\"n\":null,\"Key\":\"x\"}\n";
    double number = 0;
    struct json_object *o = json_object_parse(text, strlen(text));
    ck_assert_ptr_nonnull(o);
    ck_assert_str_eq(json_object_string(o, "key"), "user:1\n");
    ck_assert_ptr_null(json_object_string(o, "KEY"));
    ck_assert_ptr_null(json_object_string(o, "timestamp"));
    ck_assert_ptr_null(json_object_string(o, "absent"));
    ck_assert(json_object_number(o, "timestamp", &number));
    ck_assert(number == 1760000000000.0);
    ck_assert(!json_object_number(o, "key", &number));
    ck_assert(!json_object_number(o, "n", &number));
    json_object_free(o);
}
END_TEST

static const char *const not_objects[] = {
    "",     "[]",      "1",        "null",        "{\"a\":1,",           "{\"a\":1",
    "{}{}", "{\"a\":", "{} trash", "{\"a\":nul}", "{\"a\":\"\\u0000\"}", "{\"\\u0000\":1}",
};

START_TEST(test_not_an_object)
{
    ck_assert_ptr_null(json_object_parse(not_objects[_i], strlen(not_objects[_i])));
}
END_TEST

START_TEST(test_print)
{
    const char *const pairs[] = {"service", "a\"b", "key", "x\n\x01\xc3\xa9", NULL};
    char *text = json_print_strings(pairs);
    ck_assert_str_eq(text, "{\"service\":\"a\\\"b\",\"key\":\"x\\n\\u0001\xc3\xa9\"}");
    free(text);
    const char *const none[] = {NULL};
    text = json_print_strings(none);
    ck_assert_str_eq(text, "{}");
    free(text);
    text = json_print_string("\\ \"");
    ck_assert_str_eq(text, "\"\\\\ \\\"\"");
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json");
    TCase *tc = tcase_create("json");
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, test_walk, 0, sizeof walks / sizeof *walks);
    tcase_add_loop_test(tc, test_refused, 0, sizeof refusals / sizeof *refusals);
    tcase_add_test(tc, test_depth);
    tcase_add_test(tc, test_stopped);
    tcase_add_test(tc, test_long_names);
    tcase_add_test(tc, test_length_counts);
    tcase_add_test(tc, test_object);
    tcase_add_loop_test(tc, test_not_an_object, 0, sizeof not_objects / sizeof *not_objects);
    tcase_add_test(tc, test_print);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failures = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failures != 0;
}
