/* test_cgroup.c - memory limits of control groups, of both versions, in a made-up /sys/fs/cgroup.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"

static char root[64], membership[96];

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

/* A file below root; its directories are made. */
static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    write_file(path, text);
}

static void setup(void)
{
    snprintf(root, sizeof root, "/tmp/cgroup.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(membership, sizeof membership, "%s/membership", root);
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    ck_assert_int_eq(system(command), 0);
}

static uint64_t limit_of(const char *lines)
{
    write_file(membership, lines);
    return cgroup_memory_limit(membership, root);
}

START_TEST(version_2)
{
    put("memory.max", "max\n");
    ck_assert_uint_eq(limit_of("0::/\n"), 0);
    put("memory.max", "104857600\n");
    ck_assert_uint_eq(limit_of("0::/\n"), 104857600);
}
END_TEST

START_TEST(the_tightest_of_those_above_counts)
{
    put("kube/pod/memory.max", "300000000\n");
    put("kube/pod/container/memory.max", "max\n");
    put("kube/memory.max", "500000000\n");
    ck_assert_uint_eq(limit_of("0::/kube/pod/container\n"), 300000000);
    put("kube/pod/container/memory.max", "100000000\n");
    ck_assert_uint_eq(limit_of("0::/kube/pod/container\n"), 100000000);
}
END_TEST

START_TEST(a_name_from_outside_the_container)
{
    put("memory.max", "77000000\n");
    ck_assert_uint_eq(limit_of("0::/../../docker/0123\n"), 77000000);
    ck_assert_uint_eq(limit_of("0::/not/to/be/seen\n"), 77000000);
}
END_TEST

START_TEST(version_1)
{
    const char *lines = "12:cpuset:/\n9:cpu,memory:/docker/x\n1:name=systemd:/docker/x\n";
    put("memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n");
    ck_assert_uint_eq(limit_of(lines), 0);
    put("memory/docker/x/memory.limit_in_bytes", "64000000\n");
    ck_assert_uint_eq(limit_of(lines), 64000000);
    ck_assert_uint_eq(limit_of("9:cpu,memoryx,xmemory:/docker/x\n"), 0);
}
END_TEST

START_TEST(nothing_to_be_read)
{
    ck_assert_uint_eq(cgroup_memory_limit("/nonexistent", root), 0);
    ck_assert_uint_eq(limit_of(""), 0);
    ck_assert_uint_eq(limit_of("garbage\n:\n::\n0:\n"), 0);
    put("memory.max", "");
    ck_assert_uint_eq(limit_of("0::/\n"), 0);
    put("memory.max", "lots\n");
    ck_assert_uint_eq(limit_of("0::/\n"), 0);
}
END_TEST

START_TEST(the_machine_has_some)
{
    ck_assert_uint_gt(cgroup_physical_memory(), 1 << 20);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        version_2,
        the_tightest_of_those_above_counts,
        a_name_from_outside_the_container,
        version_1,
        nothing_to_be_read,
        the_machine_has_some,
    };
    Suite *s = suite_create("cgroup");
    TCase *t = tcase_create("cgroup");
    tcase_add_checked_fixture(t, setup, teardown);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
