/* dev.h - the private throw-away redis-server of --dev, on a unix socket in a directory of its own.
 */
#ifndef NEARCACHE_DEV_H
#define NEARCACHE_DEV_H

#include <stdbool.h>
#include <stddef.h>

struct dev;

/* Starts `program` and waits until it answers (blocking; at start-up only). It dies with us. NULL:
 * it can't, and `error` says why and what to do. */
#define DEV_ERROR_MAX 256
struct dev *dev_start(const char *program, char error[DEV_ERROR_MAX]);
/* "unix:/tmp/nearcache-dev.../redis.sock", for upstream.url. Borrowed. */
const char *dev_url(const struct dev *dev);
/* Stops it and removes its directory. */
void dev_stop(struct dev *dev);

#endif
