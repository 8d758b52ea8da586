/* log.h - one logfmt line per event on a stream (stderr), rate-limited where the caller asks.
 *
 *   ts=2026-01-31T12:00:00.123Z level=warn event=link_lost upstream=127.0.0.1:6379 why="..."
 *
 * Values are quoted and escaped where needed. Never a cached value; keys only at debug level.
 */
#ifndef NEARCACHE_LOG_H
#define NEARCACHE_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "config.h"

struct log; /* opaque; not thread-safe */

/* NULL: out of memory. The stream is borrowed. */
struct log *log_new(FILE *stream, enum log_level least);
void log_free(struct log *log);
void log_set_level(struct log *log, enum log_level least);
bool log_enabled(const struct log *log, enum log_level level);

/* log_write(log, LOG_WARN, "link_lost", "upstream", label, "why", text, NULL): event and a
 * NULL-ended list of names and string values (a NULL value is skipped). */
void log_write(struct log *log, enum log_level level, const char *event, ...)
    __attribute__((sentinel));

/* At most one line per interval_ms. On true `suppressed` is how many were held back since the line
 * before, for the caller to add under that name. Starts zeroed. `now`: monotonic milliseconds. */
struct log_limit {
    uint64_t next;
    uint64_t suppressed;
    uint64_t held; /* since the last line; private */
};
bool log_limit_pass(struct log_limit *limit, uint64_t now, uint64_t interval_ms);

/* For numbers: writes into a buffer of at least 24 bytes and returns it. */
const char *log_number(char buf[24], uint64_t n);

#endif
