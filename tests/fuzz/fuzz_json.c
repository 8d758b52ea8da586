/* fuzz_json.c - any bytes as a JSON document: no crash, lines in order, one verdict. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

struct seen {
    unsigned line, lines;
};

static bool see(void *ctx, const struct json_value *v)
{
    struct seen *seen = ctx;
    assert(v->line >= seen->line && v->line <= seen->lines);
    assert(v->index >= -1 && strlen(v->path) < 256 && v->text);
    seen->line = v->line;
    return true;
}

static unsigned count_lines(const char *text, size_t len)
{
    unsigned lines = 1;
    for (size_t i = 0; i < len; i++)
        lines += text[i] == '\n';
    return lines;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[JSON_ERROR_MAX];
    unsigned line;
    char *text = malloc(size ? size : 1); /* exactly as long: a byte too far is seen */
    if (!text)
        return 0;
    memcpy(text, data, size);
    struct seen seen = {.lines = count_lines(text, size)};
    bool ok = json_walk(text, size, see, &seen, error, &line);
    assert(line >= 1 && line <= seen.lines);
    assert(ok == (*error == '\0') && strlen(error) < JSON_ERROR_MAX);
    struct json_object *o = json_object_parse(text, size);
    assert(o || !ok); /* json_walk is the stricter one */
    if (o) {
        double number;
        const char *key = json_object_string(o, "key");
        assert(!key || strlen(key) <= size);
        (void)json_object_number(o, "timestamp", &number);
    }
    json_object_free(o);
    free(text);
    return 0;
}
