/* fuzz_proxy.c - the whole proxy, with its real modules, between clients and a server that do as a
 * script says: every client gets its own replies, in order and none too old, whatever anybody
 * does, and nothing is left behind.
 *
 * Only the sockets and the clock are not real: tests/fuzz/proxy/net.c takes the place of conn.c. An
 * input is a script (script.h), model.h is what is held against what clients are shown, world.h
 * puts it together. FUZZ_TRACE=1 prints what happens.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/memory.h"
#include "proxy/world.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A run has tens of thousands of features; to keep count of how rare each is (-entropic) takes four
 * times as long as the run. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static char flag[] = "-entropic=0";
    char **more = memory_new(((size_t)*argc + 2) * sizeof *more);
    more[0] = (*argv)[0];
    more[1] = flag;
    memcpy(more + 2, *argv + 1, (size_t)(*argc - 1) * sizeof *more);
    *argv = more;
    ++*argc;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct script script = {data + SCRIPT_HEADER, data + n};
    struct world *w = memory_new(sizeof *w);
    struct step step;
    if (n >= SCRIPT_HEADER) {
        world_build(w, data);
        for (int i = 0; i < SCRIPT_STEPS_MAX && script_next(&script, &step); i++)
            world_step(w, &step);
        world_end(w);
    }
    free(w);
    return 0;
}
