/* net.h - the network in memory: conn.h without sockets, and the other ends of its connections.
 *
 *     peer.in  -> peer_deliver ->  conn's `bytes`     (what the peer has sent)
 *     peer.out <- peer.room    <-  conn's output      (what the kernel has taken)
 *
 * Every byte moves when the script says so: the kernel takes no more output than `room`, and hands
 * on no more input than it is told to. Time is the script's as well (net_pass_time), for all that
 * asks clock_gettime.
 */
#ifndef FUZZ_NET_H
#define FUZZ_NET_H

#include <sys/queue.h>

#include "buffer.h"
#include "conn.h"

/* What becomes of the proxy's own connects. */
enum net_connects { NET_ACCEPT, NET_SILENT, NET_REFUSE, NET_REFUSE_AT_ONCE };

struct peer {
    TAILQ_ENTRY(peer) entry;
    unsigned id;           /* in order of creation */
    bool is_client;        /* else a server */
    bool eof, gone;        /* has closed its side; has closed both */
    struct conn *conn;     /* NULL: closed by the proxy */
    struct buffer in, out; /* to the proxy, not yet delivered; from it, not yet read */
    size_t room;           /* bytes the kernel takes now */
    uint64_t since;        /* when the oldest of `in` may have been said */
    uint64_t delivered;    /* bytes in all */
    uint64_t turn;         /* in which the proxy has read last */
    struct net *net;
    void *owner; /* whoever plays it */
};
TAILQ_HEAD(peer_list, peer);

struct net {
    struct loop loop; /* first: it is what conn.h is given */
    struct peer_list peers;
    unsigned n_peers;
    uint64_t turn;
    struct loop_job stop_job;
    enum net_connects connects;
    /* A server's end of a new connection, and bytes of a client that were delivered. */
    void (*connected)(struct net *net, struct peer *peer);
    void (*delivered)(struct peer *peer, const char *p, size_t n);
    void *ctx;
};

/* False: no event mechanism. */
__attribute__((warn_unused_result)) bool net_init(struct net *net);
/* All connections of the proxy must be closed; the loop is freed, too. */
void net_free(struct net *net);

/* Ends the loop's turn: output is flushed, what is closed gets freed. True if the proxy wants
 * another one. */
bool net_end_turn(struct net *net);
/* Connects that wait are accepted or refused, or are too late. True if there were any. */
bool net_settle_connects(struct net *net);
/* Moves the clock: milliseconds. */
void net_pass_time(struct net *net, uint64_t ms);
uint64_t net_now(void);

/* The client's end of the connection accepted last; NULL: it was refused. */
struct peer *net_last_client(struct net *net, unsigned since);

void peer_send(struct peer *peer, const void *p, size_t n);
/* At most n bytes arrive, if the proxy reads and has not yet in this turn; or the end, when all is
 * said. True if anything happened. */
bool peer_deliver(struct peer *peer, size_t n);
/* The proxy reads, and there is something for it. */
bool peer_can_deliver(const struct peer *peer);
/* Nothing more will be said; what was is still delivered. */
void peer_shut(struct peer *peer);
/* Closes both ways: what was sent is delivered (`reset`: is lost), what the proxy writes is
 * refused. */
void peer_close(struct peer *peer, bool reset);
/* The kernel takes n more bytes. SIZE_MAX: as many as there are. */
void peer_make_room(struct peer *peer, size_t n);

#endif
