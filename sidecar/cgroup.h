/* cgroup.h - how much memory the machine or the container leaves this process. */
#ifndef NEARCACHE_CGROUP_H
#define NEARCACHE_CGROUP_H

#include <stdint.h>

/* The tightest limit of the process' control group and those above it, bytes; 0: none. `membership`
 * is /proc/self/cgroup, `root` where the hierarchies are mounted, /sys/fs/cgroup; version 2
 * (memory.max) and version 1 (memory/memory.limit_in_bytes) are known, see cgroups(7). */
uint64_t cgroup_memory_limit(const char *membership, const char *root);

/* Bytes of the machine's memory; 0: not known. */
uint64_t cgroup_physical_memory(void);

#endif
