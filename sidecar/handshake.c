/* handshake.c - what is said on a new connection to the upstream before it is ready. */
#include "handshake.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

enum step { STEP_HELLO, STEP_SELECT, STEP_AUTH, STEP_SETNAME };

static void say(struct handshake *h, enum step what, const struct resp_slice *argv, size_t argc,
                struct chain *out)
{
    assert(h->n_steps < sizeof h->steps);
    h->steps[h->n_steps++] = (uint8_t)what;
    wire_command(out, argv, argc);
}

void handshake_begin(struct handshake *h, const struct handshake_terms *terms, struct chain *out)
{
    struct resp_slice argv[7] = {wire_text("HELLO"), wire_text(terms->resp == 3 ? "3" : "2")};
    size_t n = 2;
    *h = (struct handshake){0};
    if (terms->password) {
        argv[n++] = wire_text("AUTH");
        argv[n++] = wire_text(terms->user ? terms->user : "default");
        argv[n++] = wire_text(terms->password);
    }
    argv[n++] = wire_text("SETNAME");
    argv[n++] = wire_text(terms->client_name);
    say(h, STEP_HELLO, argv, n, out);
}

static void do_without_hello(struct handshake *h, const struct handshake_terms *terms,
                             struct chain *out)
{
    struct resp_slice user = wire_text(terms->user ? terms->user : "");
    struct resp_slice password = wire_text(terms->password ? terms->password : "");
    h->step = h->n_steps = 0;
    if (terms->password && terms->user)
        say(h, STEP_AUTH, (struct resp_slice[]){wire_text("AUTH"), user, password}, 3, out);
    else if (terms->password)
        say(h, STEP_AUTH, (struct resp_slice[]){wire_text("AUTH"), password}, 2, out);
    say(h, STEP_SETNAME,
        (struct resp_slice[]){wire_text("CLIENT"), wire_text("SETNAME"),
                              wire_text(terms->client_name)},
        3, out);
}

static void select_database(struct handshake *h, const struct handshake_terms *terms,
                            struct chain *out)
{
    char db[16];
    snprintf(db, sizeof db, "%u", (unsigned)terms->db);
    if (terms->db)
        say(h, STEP_SELECT, (struct resp_slice[]){wire_text("SELECT"), wire_text(db)}, 2, out);
}

void handshake_bytes(struct handshake *h, const char *p, size_t n)
{
    size_t room = sizeof h->line - 1 - h->line_len;
    size_t part = n < room ? n : room;
    memcpy(h->line + h->line_len, p, part);
    h->line_len = (uint16_t)(h->line_len + part);
    h->line[h->line_len] = '\0';
}

/* "... $2\r\nid\r\n:123\r\n ..." */
static uint64_t id_in(const char *reply)
{
    static const char mark[] = "$2\r\nid\r\n:";
    const char *at = strstr(reply, mark);
    return at ? strtoull(at + sizeof mark - 1, NULL, 10) : 0;
}

static bool begins(const char *line, const char *with)
{
    return strncmp(line, with, strlen(with)) == 0;
}

/* A server that refuses SETNAME but nothing else (an ACL) can be lived with; NOAUTH and LOADING
 * meet every command. */
static bool is_fatal(const struct handshake *h, enum step step)
{
    return !(step == STEP_SETNAME && begins(h->line, "-NOPERM"));
}

static void refuse(struct handshake *h, enum step step)
{
    h->no_such_db = step == STEP_SELECT && begins(h->line, "-ERR");
    h->wrong_password = begins(h->line, "-WRONGPASS") || begins(h->line, "-NOAUTH") ||
                        begins(h->line, "-ERR AUTH") || begins(h->line, "-ERR invalid password") ||
                        begins(h->line, "-ERR Client sent AUTH");
    snprintf(h->refusal, sizeof h->refusal, "%.*s", (int)strcspn(h->line, "\r\n"), h->line);
}

enum handshake_status handshake_reply(struct handshake *h, const struct handshake_terms *terms,
                                      char type, struct chain *out)
{
    enum step step = h->steps[h->step++];
    bool knows_no_hello = step == STEP_HELLO && terms->resp == 2 &&
                          (begins(h->line, "-ERR unknown command") || begins(h->line, "-NOPERM"));
    if (type == '-' && !knows_no_hello && is_fatal(h, step)) {
        refuse(h, step);
        return HANDSHAKE_REFUSED;
    }
    if (knows_no_hello)
        do_without_hello(h, terms, out);
    else if (step == STEP_HELLO)
        h->id = id_in(h->line);
    if (step == STEP_HELLO)
        select_database(h, terms, out);
    h->line_len = 0;
    return h->step == h->n_steps ? HANDSHAKE_READY : HANDSHAKE_MORE;
}

bool handshake_is_mute(const struct handshake *h)
{
    return h->step == 0 && h->line_len == 0;
}
