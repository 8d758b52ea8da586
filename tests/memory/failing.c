/* failing.c - preloaded into a process, makes its allocations fail as a file shared with a test
 * says.
 *
 * FAILING_CONTROL names a file of sizeof(struct control) bytes. Without it nothing fails. The C
 * library's own allocations, and those of all other libraries, go the same way.
 */
#undef _FILE_OFFSET_BITS /* with it "mmap" is another name of mmap64; both are to be made here */

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Only allocations of at least min_size bytes count. tests/memory/failing.py knows this layout. */
struct control {
    _Atomic uint64_t calls;       /* allocations asked for */
    _Atomic uint64_t failed;      /* those refused */
    _Atomic uint64_t min_size;    /* bytes */
    _Atomic uint64_t nth;         /* 1: the next one fails; 2: the one after; 0: none */
    _Atomic uint64_t in_a_row;    /* so many fail, from the nth on */
    _Atomic uint64_t per_million; /* of the others fail at random */
    _Atomic int64_t live;         /* blocks that have been given out and not freed, .. */
    _Atomic int64_t live_bytes;   /* .. and their size */
};

/* A preloaded library has nobody who could hand it its state. */
static struct control *control;

static void *map(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset); // NOLINT
}

__attribute__((constructor)) static void find_control(void)
{
    const char *path = getenv("FAILING_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = map(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED)
        control = p;
}

static bool is_nth(void)
{
    uint64_t nth = control->nth;
    if (nth == 0)
        return false;
    if (nth > 1) { /* the test may end it at the same moment */
        (void)atomic_compare_exchange_strong(&control->nth, &nth, nth - 1);
        return false;
    }
    if (control->in_a_row > 1)
        control->in_a_row--;
    else
        control->nth = 0;
    return true;
}

static bool is_unlucky(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x % 1000000 < control->per_million;
}

/* Sets errno if so. */
static bool fails(size_t n)
{
    if (!control || n < control->min_size)
        return false;
    control->calls++;
    if (!is_nth() && !is_unlucky())
        return false;
    control->failed++;
    errno = ENOMEM;
    return true;
}

static void count(void *p, int sign)
{
    if (p && control)
        control->live_bytes += sign * (int64_t)malloc_usable_size(p);
}

static void *given(void *p)
{
    if (p && control)
        control->live++;
    count(p, 1);
    return p;
}

/* --- what takes the place of the C library's ----------------------------------------------------
 */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);
void __libc_free(void *p);

void *malloc(size_t n)
{
    return fails(n) ? NULL : given(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return fails(size && n > SIZE_MAX / size ? SIZE_MAX : n * size) ? NULL
                                                                    : given(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (!p)
        return malloc(n);
    if (n == 0) {
        free(p);
        return NULL;
    }
    if (fails(n))
        return NULL;
    count(p, -1);
    void *moved = __libc_realloc(p, n);
    count(moved ? moved : p, 1);
    return moved;
}

void *reallocarray(void *p, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, n * size);
}

void *memalign(size_t alignment, size_t n)
{
    return fails(n) ? NULL : given(__libc_memalign(alignment, n));
}

void free(void *p)
{
    if (p && control)
        control->live--;
    count(p, -1);
    __libc_free(p);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    return memalign(alignment, n);
}

int posix_memalign(void **p, size_t alignment, size_t n)
{
    int before = errno;
    void *made = memalign(alignment, n);
    errno = before;
    if (!made)
        return ENOMEM;
    *p = made;
    return 0;
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    return fails(n) ? MAP_FAILED : map(at, n, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t n, int protection, int flags, int fd, off64_t offset)
{
    return mmap(at, n, protection, flags, fd, offset);
}

void *mremap(void *at, size_t before, size_t n, int flags, ...)
{
    return fails(n) ? MAP_FAILED
                    : (void *)syscall(SYS_mremap, at, before, n, flags, NULL); // NOLINT
}
