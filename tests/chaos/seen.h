/* seen.h - what a reply shows of a key, and which states of it look like that. */
#ifndef CHAOS_SEEN_H
#define CHAOS_SEEN_H

#include "model.h"
#include "reply.h"

struct seen {
    bool is_null;
    struct span s;
    uint64_t from, to; /* of the whole value, `to` excluded */
    int64_t n;
    const struct span *parts;
};

/* A bulk or null that shows a string. */
bool seen_take(struct reader *r, struct seen *seen);
/* Is there a state like that among those that may be shown, or that were there before the write? Of
 * a key that is lost anything is right. */
bool seen_shows(const struct ref *r, state_fits fits, const struct seen *seen);
bool seen_showed(const struct ref *r, state_fits fits, const struct seen *seen);
/* All that is known of a lost one: which elements a list may have. */
bool seen_is_element(const struct key *k, struct span s);

/* state_fits, whose argument is what was seen: */
bool fits_bytes(const struct key *k, const struct state *s, const void *arg);
bool fits_string(const struct key *k, const struct state *s, const void *arg);
bool fits_length(const struct key *k, const struct state *s, const void *arg);
bool fits_parts(const struct key *k, const struct state *s, const void *arg);
bool fits_there(const struct key *k, const struct state *s, const void *arg);
bool fits_absent(const struct key *k, const struct state *s, const void *arg);
bool fits_count(const struct key *k, const struct state *s, const void *arg);
bool fits_list(const struct key *k, const struct state *s, const void *arg);
bool fits_first(const struct key *k, const struct state *s, const void *arg);
bool fits_field(const struct key *k, const struct state *s, const void *arg);
bool fits_hash(const struct key *k, const struct state *s, const void *arg);

#endif
