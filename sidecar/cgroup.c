/* cgroup.c - how much memory the machine or the container leaves this process. */
#include "cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Version 1 has a number where there is no limit: the most that pages can count. */
static const uint64_t NO_LIMIT = UINT64_C(1) << 60;

/* The number in a file; 0: there is none ("max", or no file). */
static uint64_t read_limit(const char *directory, const char *name)
{
    char path[PATH_MAX], text[32] = "";
    int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    if (!f)
        return 0;
    bool read = fgets(text, sizeof text, f);
    fclose(f);
    uint64_t limit = read ? strtoull(text, NULL, 10) : 0;
    return limit < NO_LIMIT ? limit : 0;
}

static uint64_t tighter(uint64_t a, uint64_t b)
{
    return b && (!a || b < a) ? b : a;
}

/* From root/group upwards to root. Within a container the group's name may be one that is not to be
 * seen there; its own limits are at the root then. */
static uint64_t walk_up(const char *root, const char *group, const char *name)
{
    char directory[PATH_MAX];
    uint64_t limit = 0;
    int n = snprintf(directory, sizeof directory, "%s%s", root, group);
    if (n <= 0 || (size_t)n >= sizeof directory)
        return read_limit(root, name);
    size_t stop = strlen(root);
    while (strlen(directory) > stop) {
        limit = tighter(limit, read_limit(directory, name));
        *strrchr(directory, '/') = '\0';
    }
    return tighter(limit, read_limit(root, name));
}

/* "0::/group" of version 2; "9:cpu,memory:/group" of version 1 names its controllers. */
static uint64_t limit_of_line(const char *line, const char *root)
{
    char sub[PATH_MAX];
    const char *controllers = strchr(line, ':');
    const char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return 0;
    controllers++;
    size_t len = (size_t)(group - controllers);
    group++;
    if (len == 0)
        return walk_up(root, strcmp(group, "/") == 0 ? "" : group, "memory.max");
    for (const char *at = controllers; at < controllers + len; at += strcspn(at, ",:") + 1)
        if (strncmp(at, "memory", strcspn(at, ",:")) == 0 && strcspn(at, ",:") == 6) {
            snprintf(sub, sizeof sub, "%s/memory", root);
            return walk_up(sub, strcmp(group, "/") == 0 ? "" : group, "memory.limit_in_bytes");
        }
    return 0;
}

uint64_t cgroup_memory_limit(const char *membership, const char *root)
{
    char line[PATH_MAX];
    uint64_t limit = 0;
    FILE *f = fopen(membership, "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        limit = tighter(limit, limit_of_line(line, root));
    }
    fclose(f);
    return limit;
}

uint64_t cgroup_physical_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}
