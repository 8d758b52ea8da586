/* metrics.h - the counters of a process, one table: metrics.def. */
#ifndef NEARCACHE_METRICS_H
#define NEARCACHE_METRICS_H

#include <stdint.h>

struct metrics {
#define METRIC(field, unit, help) uint64_t field;
#include "metrics.def"
#undef METRIC
};

/* Calls `each` for every counter in the table's order. */
void metrics_each(const struct metrics *m,
                  void (*each)(void *ctx, const char *name, const char *unit, const char *help,
                               uint64_t value),
                  void *ctx);

/* Adds all counters of `some`. */
void metrics_add(struct metrics *sum, const struct metrics *some);

/* hits / (hits + misses), 0 before the first read. */
double metrics_hit_ratio(const struct metrics *m);

#endif
