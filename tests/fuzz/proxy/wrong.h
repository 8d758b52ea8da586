/* wrong.h - the end of a run that has shown something wrong, and the trace of one that is looked
 * into: with FUZZ_TRACE in the environment every step and what it led to is printed. */
#ifndef FUZZ_WRONG_H
#define FUZZ_WRONG_H

#include "resp.h"

__attribute__((noreturn, format(printf, 1, 2))) void wrong(const char *format, ...);

bool tracing(void);
__attribute__((format(printf, 1, 2))) void trace(const char *format, ...);
void trace_command(const char *who, uint64_t id, const struct resp_slice *argv, size_t argc);
void trace_bytes(const char *who, uint64_t id, const char *p, size_t n);

#endif
