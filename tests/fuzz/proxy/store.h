/* store.h - the keys of the scripted Redis, and what each of them has been: what a reply may say.
 *
 * Every change of a key gets a number, its version; a value tells its key, database, version and
 * when it expires, so that whoever sees one can say whether it may be seen.
 */
#ifndef FUZZ_STORE_H
#define FUZZ_STORE_H

#include "buffer.h"

/* One state of a key: from `version` on, which was at `time` (ms). */
struct state {
    uint64_t version, time, expires; /* 0: never */
    uint64_t nonce;                  /* hash of what was written; 0: nothing in particular */
    bool absent;
};

struct record {
    uint32_t db;
    char *name; /* full; owned */
    size_t name_len;
    struct state *states; /* oldest first; before the first one the key was absent */
    size_t n, cap;
    uint64_t floor; /* nothing older may be shown to those who ask from now on */
};

struct store {
    uint64_t version;
    struct record *records;
    size_t n, cap;
    struct record dummy; /* there are too many: nothing is known of this one */
};

void store_free(struct store *s);

/* Made when first asked for. The pointer is good until the next call. */
struct record *store_record(struct store *s, uint32_t db, struct resp_slice name);
size_t store_index(const struct store *s, const struct record *r);
/* The present state; an expired one has become absent. */
struct state store_look(struct store *s, struct record *r, uint64_t now);
void store_change(struct store *s, struct record *r, struct state state);
/* All of them change without anything else about them. */
void store_change_all(struct store *s, uint64_t now);
void store_remove_all(struct store *s, uint64_t now);

/* "v:<hash>:<db>:<version>:<expires>:" and as many bytes as the name asks for. `what`: the hash of
 * what is asked for. */
void store_value(struct buffer *out, char kind, uint64_t what, uint32_t db, struct state state,
                 size_t padding);
/* Bytes that the values of keys with this name have more than others. */
size_t store_padding(struct resp_slice name);

/* --- what may be seen ---------------------------------------------------------------------------
 */

/* The oldest version that may be shown to whom asks now, if all that was written before `time` must
 * be. */
uint64_t store_floor(const struct record *r, uint64_t time);
/* All that was written until then is acknowledged; returns the newest version of that. */
uint64_t store_acknowledge(struct record *r, uint64_t until);
/* The version in which this was written; 0: there is none. */
uint64_t store_find_nonce(const struct record *r, uint64_t nonce);
/* The key was absent at some time since the version. */
bool store_was_absent(const struct record *r, uint64_t version, uint64_t now);

/* What a value says of itself. */
struct seen {
    uint64_t what, version, expires;
    uint32_t db;
};
/* False: it is none of this kind. */
bool store_read_value(struct resp_slice text, char kind, struct seen *seen);

#endif
