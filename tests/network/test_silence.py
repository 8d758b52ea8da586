"""Connections that die without a word, some or all of them; and what goes on meanwhile."""
import socket
import time

import pytest

from conftest import RECOVERY, refused, wait_until
from harness import encode


def test_hits_go_on_for_the_lease_and_no_longer(world, record_property):
    w = world("--set", "invalidation.lease=4s")
    wire = w.near.wire(timeout=60)
    w.direct.set("demo:k", "v")
    wait_until(w.hits, what="a hit")
    assert w.cache("GET", "k") == b"v"
    hits = w.stat("hits")
    w.both(down=True)
    cut = time.monotonic()
    served = 0
    while w.serves():
        reply = wire.call("GET", "k")
        assert reply == b"v" or refused(reply)
        served += reply == b"v"
    lasted = time.monotonic() - cut
    assert served > 0 and w.stat("hits") >= hits + served
    hits = w.stat("hits")
    for _ in range(20):
        assert refused(wire.call("GET", "k"))
    assert w.stat("hits") == hits
    record_property("figures", f"{served} hits within {lasted:.2f} s, lease 4 s")
    w.heal()
    w.recovery()


@pytest.mark.parametrize("how", [pytest.param("drop", marks=pytest.mark.slow), "reset"])
def test_flows_that_a_firewall_forgets_under_load(world, how, record_property):
    """Segments of the connections that are open vanish from now on; new connections pass."""
    w = world()
    w.start_traffic()
    before = w.near_host.sockets(w.redis_host)["ESTAB"]
    assert w.there.forget(how) >= before
    recovery = w.recovery()
    wait_until(lambda: w.traffic.all_ok(50), RECOVERY, "all clients to be served")
    w.traffic.finish()
    wait_until(lambda: w.info("upstream_pending") == "0", 30, "nothing to be pending")
    wait_until(lambda: w.near_host.sockets(w.redis_host).get("ESTAB", 0) <= before, 30,
               "no more connections than before")
    record_property("figures", f"{recovery}; {w.traffic.figures()}")


def test_flows_that_a_firewall_forgets_while_nobody_asks(world, record_property):
    """The next request is answered or refused within the deadlines; so are those of lent connections."""
    w = world()
    wire, session = w.near.wire(timeout=60), w.near.wire(timeout=60)
    assert wire.call("SET", "k", 1) == "OK"
    assert session.call("WATCH", "k") == "OK"
    w.both(down=True)  # for a while ..
    w.there.forget("drop")
    w.heal()  # .. and for ever
    begun = time.monotonic()
    reply = wire.call("SET", "k", 2)
    waited = time.monotonic() - begun
    assert reply == "OK" or refused(reply)
    try:
        reply = session.call("GET", "k")
        assert reply in (b"1", b"2") or refused(reply)
    except (EOFError, OSError) as e:
        assert not isinstance(e, socket.timeout)
    record_property("figures", f"{w.recovery()}; the next request waited {waited:.2f} s")


@pytest.mark.slow
def test_a_subscriber_on_a_dead_connection_is_told(world, record_property):
    """Nothing is asked and nothing is owed: only keep-alives can notice. Its client is disconnected, and
    may subscribe again."""
    w = world()
    wire = w.near.wire(timeout=90)
    assert wire.call("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
    w.there.forget("drop")
    begun = time.monotonic()
    assert wire.at_eof()
    record_property("figures", f"disconnected after {time.monotonic() - begun:.1f} s")
    wire = w.near.wire()
    assert wire.call("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
    w.direct.publish("news", "x")
    assert wire.reply() == [b"message", b"news", b"x"]


@pytest.mark.slow
def test_a_blocked_client_on_a_dead_connection_is_told(world, record_property):
    """A pop that may wait for ever, too."""
    w = world()
    wire = w.near.wire(timeout=90)
    wire.command("BLPOP", "l", 0)
    wait_until(lambda: w.direct.info("clients")["blocked_clients"] == 1)
    w.there.forget("drop")
    begun = time.monotonic()
    try:
        assert refused(wire.reply())
    except EOFError:
        pass
    record_property("figures", f"told after {time.monotonic() - begun:.1f} s")


def test_a_server_that_vanishes_and_comes_back_empty(world, record_property):
    """Half open: the server's address goes without a FIN, the server is started anew, then the address
    is there again. What was cached from the old one is not served for longer than the lease."""
    w = world()
    w.direct.set("demo:k", "old")
    assert w.cache("GET", "k") == b"old"
    w.redis_host.ip("addr", "del", f"{w.redis_host.address}/24", "dev", "eth0")
    gone = time.monotonic()
    w.server.kill()
    w.server.start()
    w.redis_host.ip("addr", "add", f"{w.redis_host.address}/24", "dev", "eth0")
    record_property("figures", w.recovery())
    w.await_new("k", None, b"old", gone)
    w.direct = w.server.client()
    wait_until(lambda: len(w.direct.client_list()) == 1 + int(w.info("upstream_connections")) + 1, 30,
               "no connection but the shared one, the link and ours")


@pytest.mark.slow
def test_a_link_that_flaps(world, record_property):
    """Up and down, again and again: it ends well, and there is no herd of connections."""
    w = world()
    w.start_traffic()
    begun = time.monotonic()
    for _ in range(10):
        before = w.traffic.counts()
        w.both(down=True)
        wait_until(lambda: sum(w.traffic.counts()) > sum(before), 60, "somebody to be refused")
        w.heal()
        wait_until(w.answers, RECOVERY, "an answer")
    recovery = w.recovery()
    wait_until(lambda: w.traffic.all_ok(50), RECOVERY, "all clients to be served")
    w.traffic.finish()
    syns = w.syns_per_second(begun)
    record_property("figures", f"{recovery}, after ten outages; {syns} SYN/s")
    assert syns <= 40
    w.await_no_leftovers()


def test_a_hundred_sessions_do_not_storm(world, record_property):
    """Clients that hold private connections lose them all at once, and come back at once."""
    w = world()
    assert w.admin.call("SET", "k", 1) == "OK"
    wires = [w.near.wire(timeout=90) for _ in range(100)]
    for wire in wires:
        assert wire.call("WATCH", "k") == "OK"
    assert w.near_host.sockets(w.redis_host)["ESTAB"] == 102
    begun = time.monotonic()
    w.both(down=True)
    for wire in wires:
        wire.command("GET", "k")
    for wire in wires:
        try:
            assert refused(wire.reply())
        except (EOFError, ConnectionResetError):
            pass
    wires = [w.near.wire(timeout=90) for _ in range(100)]  # and ask again, in vain
    for wire in wires:
        wire.command("WATCH", "k")
    for wire in wires:
        assert refused(wire.reply())
    w.heal()
    recovery = w.recovery()
    syns = w.syns_per_second(begun)
    for wire in wires:
        wire.close()
    wires = [w.near.wire(timeout=90) for _ in range(100)]
    for wire in wires:
        assert wire.call("WATCH", "k") == "OK"
    record_property("figures", f"{recovery}; {syns} SYN/s")
    assert syns <= 3 * 100 + 40  # each asks twice
    for wire in wires:
        wire.close()
    wait_until(lambda: w.info("sessions") == "0", 30, "no sessions")
    w.await_no_leftovers()


def test_started_while_nothing_gets_through(world, record_property):
    w = world()
    w.both(down=True)
    w.near.stop()
    w.near.start()
    w.admin = w.near.wire(timeout=60)
    wire = w.near.wire(timeout=60)
    begun = time.monotonic()
    assert refused(wire.call("GET", "k"))
    waited = time.monotonic() - begun
    w.heal()
    record_property("figures", f"{w.recovery()}; refused after {waited:.2f} s")


def test_ends_in_order_while_nothing_gets_through(world):
    """SIGTERM: what is owed is refused, and the process ends."""
    w = world("--set", "upstream.timeout=3s")
    wire = w.near.wire(timeout=60)
    assert wire.call("SET", "k", 1) == "OK"
    wait_until(lambda: w.info("upstream_pending") == "0")
    w.both(down=True)
    wire.command("SET", "k", 2)
    wait_until(lambda: w.info("upstream_pending") == "1")
    w.near.popen.terminate()
    assert refused(wire.reply()) and wire.at_eof()
    assert w.near.popen.wait(30) == 0


def test_a_write_that_was_refused_is_not_carried_out_after_a_later_one(world):
    """It waits in the system's buffer of a connection that is given up; the route is repaired; the same
    client's next write is acknowledged. It must be the last."""
    w = world()
    wire = w.near.wire(timeout=60)
    assert wire.call("SET", "k", "before") == "OK"
    w.both(mtu=600)
    wire.send(encode("SET", "large", "x" * 4000) + encode("SET", "k", "refused"))
    assert refused(wire.reply()) and refused(wire.reply())
    w.heal()
    wait_until(lambda: wire.call("SET", "k", "acknowledged") == "OK", RECOVERY)
    wait_until(lambda: set(w.near_host.sockets(w.redis_host)) <= {"ESTAB", "TIME-WAIT"}, 60,
               "the old connection to end")
    assert w.direct.get("demo:k") == b"acknowledged"
