/* wire.c - RESP written into a chain. */
#include "wire.h"

#include <string.h>

void wire_header(struct chain *out, char type, uint64_t n)
{
    char *at = chain_reserve(out, RESP_HEADER_MAX);
    chain_commit(out, (size_t)(resp_put_header(at, type, n) - at));
}

void wire_integer(struct chain *out, int64_t n)
{
    char *at = chain_reserve(out, RESP_HEADER_MAX);
    chain_commit(out, (size_t)(resp_put_integer(at, n) - at));
}

void wire_bulk(struct chain *out, struct resp_slice s)
{
    if (s.len + RESP_HEADER_MAX + 2 <= CHAIN_RESERVE_MAX) {
        char *at = chain_reserve(out, s.len + RESP_HEADER_MAX + 2);
        chain_commit(out, (size_t)(resp_put_bulk(at, s) - at));
        return;
    }
    wire_header(out, '$', s.len);
    chain_append(out, s.data, s.len);
    chain_append(out, "\r\n", 2);
}

void wire_bulk3(struct chain *out, struct resp_slice first, struct resp_slice second,
                struct resp_slice third)
{
    wire_header(out, '$', first.len + second.len + third.len);
    chain_append(out, first.data, first.len);
    chain_append(out, second.data, second.len);
    chain_append(out, third.data, third.len);
    chain_append(out, "\r\n", 2);
}

void wire_bulk2(struct chain *out, struct resp_slice first, struct resp_slice second)
{
    wire_bulk3(out, first, second, (struct resp_slice){"", 0});
}

void wire_command(struct chain *out, const struct resp_slice *argv, size_t argc)
{
    wire_header(out, '*', argc);
    for (size_t i = 0; i < argc; i++)
        wire_bulk(out, argv[i]);
}

struct resp_slice wire_text(const char *text)
{
    return (struct resp_slice){text, strlen(text)};
}
