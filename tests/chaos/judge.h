/* judge.h - the verdict on each reply. */
#ifndef CHAOS_JUDGE_H
#define CHAOS_JUDGE_H

#include "load.h"

/* A whole frame; false: it was a violation, and the client is to be given up. */
bool judge_frame(struct load *l, struct client *c, const char *p, size_t n);
/* The next reply of a reader, to `o`, which it settles. */
enum verdict judge_reply(struct load *l, struct client *c, struct owed *o, struct reader *r);
/* Nothing more will come. */
void judge_lost(struct load *l, struct client *c);

#endif
