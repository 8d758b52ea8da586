/* workers.c - threads that each turn a loop of their own, and how one has the others stand still.
 */
#include "workers.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { LETTERS_MAX = 16384 }; /* unread */

struct worker {
    struct workers *workers;
    struct loop *loop;
    void *ctx;
    int fd; /* an eventfd: there is a letter, or somebody wants us to stand still */
    struct event *wake;
    STAILQ_HEAD(, workers_letter) letters;
    size_t n_letters;
};

/* All of it under the lock. */
struct workers {
    size_t n;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool held;        /* somebody has the others stand still, or waits until they do .. */
    pthread_t holder; /* .. who .. */
    unsigned depth;   /* .. and how often */
    size_t standing;  /* between two callbacks .. */
    size_t halfway;   /* .. and in the middle of one, waiting to be the holder */
    bool stopped;
    struct worker v[];
};

struct workers *workers_new(size_t n)
{
    struct workers *w = calloc(1, sizeof *w + n * sizeof w->v[0]);
    if (!w)
        return NULL;
    w->n = n;
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->changed, NULL);
    for (size_t i = 0; i < n; i++) {
        w->v[i].workers = w;
        w->v[i].fd = -1;
        STAILQ_INIT(&w->v[i].letters);
    }
    return w;
}

void workers_free(struct workers *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n; i++) {
        struct workers_letter *letter;
        while ((letter = STAILQ_FIRST(&w->v[i].letters))) {
            STAILQ_REMOVE_HEAD(&w->v[i].letters, entry);
            letter->run(letter, NULL);
        }
    }
    (void)pthread_cond_destroy(&w->changed);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}

size_t workers_count(const struct workers *w)
{
    return w->n;
}

/* --- standing still -----------------------------------------------------------------------------
 */

static void lock(struct workers *w)
{
    (void)pthread_mutex_lock(&w->lock);
}

static void unlock(struct workers *w)
{
    (void)pthread_mutex_unlock(&w->lock);
}

static void wait_for_change(struct workers *w)
{
    (void)pthread_cond_wait(&w->changed, &w->lock);
}

static void tell_all(struct workers *w)
{
    (void)pthread_cond_broadcast(&w->changed);
}

static void wake(const struct worker *one)
{
    uint64_t once = 1;
    if (one->fd >= 0)
        (void)!write(one->fd, &once, sizeof once);
}

static bool is_mine(const struct workers *w)
{
    return w->held && pthread_equal(w->holder, pthread_self());
}

/* True: the others stand still for us already, or there are none. Else the lock is taken. */
static bool nest(struct workers *w)
{
    if (w->n == 1)
        return true;
    lock(w);
    if (!is_mine(w))
        return false;
    w->depth++;
    unlock(w);
    return true;
}

/* Becomes the holder: nobody else is. */
static void hold(struct workers *w)
{
    w->held = true;
    w->holder = pthread_self();
    w->depth = 1;
    for (size_t i = 0; i < w->n; i++)
        wake(&w->v[i]);
}

static void let_go(struct workers *w)
{
    w->held = false;
    tell_all(w);
}

/* Those who have left, or not come yet, need not stand. */
static bool all_stand(const struct workers *w)
{
    size_t others = 0;
    for (size_t i = 0; i < w->n; i++)
        others += w->v[i].fd >= 0;
    return w->standing + w->halfway + 1 >= others;
}

void workers_still(struct workers *w)
{
    if (nest(w))
        return;
    w->halfway++;
    tell_all(w);
    while (w->held)
        wait_for_change(w);
    w->halfway--;
    hold(w);
    while (!all_stand(w))
        wait_for_change(w);
    unlock(w);
}

/* Whoever is halfway through a command goes first: only then can it stand between two. */
void workers_still_between(struct workers *w)
{
    if (nest(w))
        return;
    for (;;) {
        w->standing++;
        tell_all(w);
        while (w->held || w->halfway > 0)
            wait_for_change(w);
        w->standing--;
        hold(w);
        while (!all_stand(w) && w->halfway == 0)
            wait_for_change(w);
        if (w->halfway == 0)
            break;
        let_go(w);
    }
    unlock(w);
}

void workers_go(struct workers *w)
{
    if (w->n == 1)
        return;
    lock(w);
    assert(is_mine(w));
    if (--w->depth == 0)
        let_go(w);
    unlock(w);
}

static void stand(struct workers *w)
{
    w->standing++;
    tell_all(w);
    while (w->held)
        wait_for_change(w);
    w->standing--;
}

/* --- letters ------------------------------------------------------------------------------------
 */

static struct workers_letter *take_letter(struct worker *one)
{
    struct workers_letter *letter = STAILQ_FIRST(&one->letters);
    if (!letter)
        return NULL;
    STAILQ_REMOVE_HEAD(&one->letters, entry);
    one->n_letters--;
    return letter;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct worker *one = arg;
    struct workers *w = one->workers;
    struct workers_letter *letter;
    uint64_t count;
    (void)!read(fd, &count, sizeof count);
    lock(w);
    while ((letter = take_letter(one))) {
        unlock(w);
        letter->run(letter, one->ctx);
        lock(w);
    }
    if (w->held)
        stand(w);
    if (w->stopped && one != &w->v[0])
        loop_stop(one->loop);
    unlock(w);
    loop_forget_time(one->loop);
}

bool workers_post(struct workers *w, size_t to, struct workers_letter *letter)
{
    struct worker *one = &w->v[to];
    lock(w);
    bool room = one->n_letters < LETTERS_MAX;
    if (room) {
        STAILQ_INSERT_TAIL(&one->letters, letter, entry);
        if (one->n_letters++ == 0)
            wake(one);
    }
    unlock(w);
    return room;
}

/* --- life ---------------------------------------------------------------------------------------
 */

bool workers_join(struct workers *w, size_t i, struct loop *loop, void *ctx)
{
    struct worker *one = &w->v[i];
    one->loop = loop;
    one->ctx = ctx;
    if (w->n == 1)
        return true;
    one->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    one->wake =
        one->fd < 0 ? NULL : event_new(loop->base, one->fd, EV_READ | EV_PERSIST, on_wake, one);
    return one->wake && event_add(one->wake, NULL) == 0;
}

void workers_leave(struct workers *w, size_t i)
{
    struct worker *one = &w->v[i];
    lock(w);
    int fd = one->fd;
    one->fd = -1;
    tell_all(w);
    unlock(w);
    if (one->wake)
        event_free(one->wake);
    one->wake = NULL;
    if (fd >= 0)
        close(fd);
}

void workers_stop(struct workers *w)
{
    lock(w);
    w->stopped = true;
    for (size_t i = 1; i < w->n; i++)
        wake(&w->v[i]);
    tell_all(w);
    unlock(w);
}
