/* fuzz_request.c - requests, whole and in pieces: the same arguments, statuses and errors come
 * out, and arguments that are encoded again are parsed as themselves.
 *
 * The first byte of the input chooses the limits, the second how the rest is cut. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resp.h"

struct pieces {
    uint32_t random;
    size_t most; /* bytes of a piece */
};

static struct pieces pieces_of(uint8_t seed)
{
    return (struct pieces){.random = seed * 2654435761u + 1, .most = seed % 4 == 0 ? 1 : seed};
}

static size_t next_piece(struct pieces *pieces)
{
    pieces->random ^= pieces->random << 13;
    pieces->random ^= pieces->random >> 17;
    pieces->random ^= pieces->random << 5;
    return 1 + pieces->random % pieces->most;
}

struct client {
    struct resp_limits limits;
    struct resp_request request;
    struct resp_args args;
    size_t done; /* bytes of requests that are complete */
    FILE *log;
};

static void log_args(FILE *log, const struct resp_args *args)
{
    fprintf(log, "%zu\n", args->n);
    for (size_t i = 0; i < args->n; i++) {
        fprintf(log, "%zu:", args->v[i].len);
        fwrite(args->v[i].data, 1, args->v[i].len, log);
    }
}

/* What is parsed, encoded as an array, is parsed to the same again. */
static void check_round_trip(const struct resp_args *args)
{
    size_t size = RESP_HEADER_MAX, used;
    for (size_t i = 0; i < args->n; i++)
        size += RESP_HEADER_MAX + resp_bulk_size(args->v[i].len);
    char *bytes = malloc(size);
    assert(bytes);
    char *end = resp_put_header(bytes, '*', args->n);
    for (size_t i = 0; i < args->n; i++) {
        char *start = end;
        end = resp_put_bulk(end, args->v[i]);
        assert((size_t)(end - start) == resp_bulk_size(args->v[i].len));
    }

    const struct resp_limits any = {.max_bulk = INT64_MAX, .authenticated = true};
    struct resp_request request = {0};
    struct resp_args again = {0};
    char error[RESP_ERROR_MAX];
    size_t len = (size_t)(end - bytes);
    enum resp_status status = resp_request_parse(&request, &any, bytes, len, &again, &used, error);
    assert(status == RESP_DONE && used == len && again.n == args->n);
    for (size_t i = 0; i < args->n; i++) {
        assert(again.v[i].len == args->v[i].len);
        assert(memcmp(again.v[i].data, args->v[i].data, again.v[i].len) == 0);
    }
    resp_args_free(&again);
    free(bytes);
}

/* Parses one request of the bytes that have arrived, from a block of their own. */
static enum resp_status parse_one(struct client *c, const uint8_t *bytes, size_t arrived)
{
    size_t n = arrived - c->done, used = 1;
    char error[RESP_ERROR_MAX] = "";
    char *block = malloc(n ? n : 1);
    assert(block);
    memcpy(block, bytes + c->done, n);
    resp_args_reset(&c->args);
    enum resp_status status =
        resp_request_parse(&c->request, &c->limits, block, n, &c->args, &used, error);
    assert(status == RESP_DONE ? used > 0 && used <= n : used == 0 && c->args.n == 0);
    if (status == RESP_DONE) {
        log_args(c->log, &c->args);
        check_round_trip(&c->args);
    } else if (status == RESP_BAD) {
        assert(strlen(error) > 0 && !strpbrk(error, "\r\n"));
        fputs(error, c->log);
    } else {
        assert(resp_request_wanted(&c->request, n) > n);
    }
    c->done += used;
    free(block);
    return status;
}

/* Everything that comes out of a stream, as text. */
static char *outcome(struct resp_limits limits, const uint8_t *bytes, size_t n,
                     struct pieces *pieces, size_t *size)
{
    char *text;
    struct client c = {.limits = limits, .log = open_memstream(&text, size)};
    assert(c.log);
    enum resp_status status = RESP_MORE;
    for (size_t arrived = 0; arrived < n && status != RESP_BAD;) {
        size_t piece = pieces ? next_piece(pieces) : n;
        arrived = piece < n - arrived ? arrived + piece : n;
        do
            status = parse_one(&c, bytes, arrived);
        while (status == RESP_DONE);
    }
    fprintf(c.log, "status %d, %zu bytes", status, c.done);
    fclose(c.log);
    resp_args_free(&c.args);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    struct resp_limits limits = {.max_bulk = data[0] & 2 ? 100 : 512 << 20,
                                 .authenticated = data[0] & 1};
    struct pieces pieces = pieces_of(data[1]);
    size_t size, size_cut;
    char *whole = outcome(limits, data + 2, n - 2, NULL, &size);
    char *cut = outcome(limits, data + 2, n - 2, &pieces, &size_cut);
    assert(size == size_cut && memcmp(whole, cut, size) == 0);
    free(whole);
    free(cut);
    return 0;
}
