/* identity.h - who a client is: AUTH, HELLO, ACL WHOAMI, and what RESET takes away.
 *
 * Clients are checked against auth.user and auth.password (or its file's) where these are set; else
 * nobody has to authenticate, but who does is checked against the credentials that the proxy itself
 * has at the upstream. Either way there is one user, as if it were Redis' only one.
 */
#ifndef NEARCACHE_IDENTITY_H
#define NEARCACHE_IDENTITY_H

#include "proxy.h"

/* Takes the password that clients must give from now on, or NULL: none. Those that have given
 * another stay; where none is wanted any more all may do what they like. True: it is another than
 * before. While the other workers stand still. */
bool identity_set_password(struct crew *crew, char *password);
/* Frees a password, and leaves nothing of it in memory. */
void identity_forget(char *password);

/* Whether a client has to authenticate before anything else. */
bool identity_auth_required(const struct proxy *p);
/* The name of the one user: "default" unless the configuration has another. */
const char *identity_user(const struct proxy *p);

/* AUTH [user] password */
void identity_auth(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc);
/* HELLO [protover [AUTH user password] [SETNAME name]]: sets caller.resp. */
void identity_hello(struct proxy *p, struct caller *c, const struct resp_slice *argv, size_t argc);
/* HELLO's answer once it has been agreed to: the server's own, which `uc` is asked for in the
 * client's version of the protocol. If that is the client's own connection and the server refuses,
 * both stay with the version that the connection speaks. */
void identity_say_hello(struct proxy *p, struct caller *c, struct upstream_conn *uc);
/* ACL WHOAMI */
void identity_whoami(struct proxy *p, struct caller *c);

/* Gives the client a name, or none when it is empty. False: it has been answered with an error. */
__attribute__((warn_unused_result)) bool identity_set_name(struct caller *c,
                                                           struct resp_slice name);
/* As Redis' validateClientName: no spaces, no control characters. */
bool identity_is_name(struct resp_slice name);

/* RESET: the client is as it was when it connected, but for its session. Answers nothing. */
void identity_reset(struct proxy *p, struct caller *c);

#endif
