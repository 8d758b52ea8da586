/* monitor.h - MONITOR: what all clients of this proxy ask for, shown as Redis shows it.
 *
 *     +1339518083.107412 [0 127.0.0.1:60866] "keys" "*"
 *
 * Keys are those that the client named. What a script does inside the server is not seen here.
 * Where Redis' call() shows nothing (administration), or "(redacted)", so does this.
 */
#ifndef NEARCACHE_MONITOR_H
#define NEARCACHE_MONITOR_H

#include <stdatomic.h>

#include "proxy.h"
#include "text.h"

/* Answers +OK and shows from now on; a client that is shown them already gets no answer, as with
 * Redis. */
void monitor_start(struct proxy *p, struct caller *c);
/* RESET, or the client leaves. */
void monitor_stop(struct proxy *p, struct caller *c);

/* Somebody does, perhaps at another worker. */
static inline bool monitor_watches(const struct proxy *p)
{
    return atomic_load_explicit(&p->crew->n_monitors, memory_order_relaxed) > 0;
}

/* A command that is about to run, to be called while monitor_watches. It may disconnect clients
 * that don't read what they are shown, never `c` itself. */
void monitor_feed(struct proxy *p, struct caller *c, const struct command *command,
                  const struct resp_slice *argv, size_t argc);

/* One argument in quotes, as Redis' sdscatrepr writes it. */
void monitor_quote(struct text *t, struct resp_slice s);
/* All of them, secrets hidden. */
void monitor_quote_command(struct text *t, const struct command *command,
                           const struct resp_slice *argv, size_t argc);

#endif
