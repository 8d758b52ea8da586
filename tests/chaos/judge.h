/* judge.h - the verdict on each reply. */
#ifndef CHAOS_JUDGE_H
#define CHAOS_JUDGE_H

#include "load.h"

/* A whole frame; false: it was a violation, and the client is to be given up. */
bool judge_frame(struct load *l, struct client *c, const char *p, size_t n);
/* One reply, whose command it settles. */
enum verdict judge_reply(const struct answer *a);
/* A command has come to its end. */
void judge_settle(const struct answer *a, enum outcome outcome);
/* Nothing more will come. */
void judge_lost(struct load *l, struct client *c);

#endif
