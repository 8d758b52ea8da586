/* metrics.c - the counters of a process. */
#include "metrics.h"

void metrics_each(const struct metrics *m,
                  void (*each)(void *ctx, const char *name, const char *unit, const char *help,
                               uint64_t value),
                  void *ctx)
{
#define METRIC(field, unit, help) each(ctx, #field, unit, help, m->field);
#include "metrics.def"
#undef METRIC
}

void metrics_add(struct metrics *sum, const struct metrics *some)
{
#define METRIC(field, unit, help) sum->field += some->field;
#include "metrics.def"
#undef METRIC
}

double metrics_hit_ratio(const struct metrics *m)
{
    uint64_t reads = m->hits + m->misses;
    return reads ? (double)m->hits / (double)reads : 0;
}
