/* wire.h - RESP written into a chain. */
#ifndef NEARCACHE_WIRE_H
#define NEARCACHE_WIRE_H

#include "chain.h"
#include "resp.h"

void wire_header(struct chain *out, char type, uint64_t n);
void wire_integer(struct chain *out, int64_t n);
void wire_bulk(struct chain *out, struct resp_slice s);
/* One bulk string of two parts: a name with its namespace. */
void wire_bulk2(struct chain *out, struct resp_slice first, struct resp_slice second);
/* .. of three. */
void wire_bulk3(struct chain *out, struct resp_slice first, struct resp_slice second,
                struct resp_slice third);
/* "*argc ...": a whole command. */
void wire_command(struct chain *out, const struct resp_slice *argv, size_t argc);
/* A literal as a slice. */
struct resp_slice wire_text(const char *text);

#endif
