"""Tracking by key: invalidation.tracking_mode=optin. The server tells the link of the keys that were
read through connections that track, and of no others."""
import threading

import pytest

from conftest import wait_until
from test_views import CHANGE, MAKE, READS, Side, on

OPTIN = ["--set", "invalidation.tracking_mode=optin", "--set", "l1.ttl=1h", "--set",
         "l1.negative_ttl=1h"]


def said(side, key):
    reply = side.near.call("NEARCACHE", "KEY", key)
    reply = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2]))
    return {name.decode(): value for name, value in reply.items()}


def info(side):
    text = side.near.call("INFO", "nearcache").decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def data_connections(side):
    """The server's client ids of the connections that track by key."""
    return [c["id"] for c in side.direct.client_list() if c["name"] == "nearcache:demo" and "t" in c["flags"]]


def kill(side, ids):
    for ident in ids:
        side.direct.execute_command("CLIENT", "KILL", "ID", ident)


def await_hit(side, key, read="GET"):
    """Served from here, once the connection that carries its fill tracks."""
    wait_until(lambda: side.hits(key, read), what=f"a hit of {read} {key}")


@pytest.fixture
def start(redis_server, nearcache):
    def begin(*settings, resp=2, upstream=None, server=None):
        server = server or redis_server()
        process = nearcache(*OPTIN, *settings, upstream=upstream(server) if upstream else server)
        side = Side(server, process, resp)
        side.process = process
        return side
    return begin


@pytest.fixture(params=[2, 3])
def side(request, start):
    made = start(resp=request.param)
    wait_until(lambda: made.stats()["serving"] == 1, what="a live link")
    return made


# --- hits and kills --------------------------------------------------------------------------------


def test_hits_and_foreign_writes(side):
    assert info(side)["link_mode"] == "tracking"
    for i in range(20):
        side.bare.call("SET", "demo:k", i)
        wait_until(lambda n=i: side.near.call("GET", "k") == b"%d" % n)
        await_hit(side, "k")
    side.bare.call("DEL", "demo:k")
    wait_until(lambda: side.near.call("GET", "k") is None)
    await_hit(side, "k")
    side.bare.call("SET", "demo:k", "created")
    wait_until(lambda: side.near.call("GET", "k") == b"created")


@pytest.mark.parametrize("kind", MAKE)
def test_every_view_is_tracked(side, kind):
    side.make(kind, "k")
    for read in READS[kind]:
        await_hit(side, "k", read)
        side.change(kind, "k")
        wait_until(lambda r=read: side.near.call_raw(*on("k", r)) == side.true("k", r), what=read)
        side.bare.call("DEL", "demo:k"), side.make(kind, "k")
        wait_until(lambda r=read: side.near.call_raw(*on("k", r)) == side.true("k", r), what=read)


def test_mget_is_tracked(side):
    keys = [f"k{i}" for i in range(50)]
    side.bare.call("MSET", *[x for k in keys for x in ("demo:" + k, "old")])
    wait_until(lambda: side.near.call("MGET", *keys) and
               side.outcome(keys[0], ["MGET", *keys[1:]])[1] == (50, 0), what="50 hits")
    side.bare.call("SET", "demo:k7", "new"), side.bare.call("DEL", "demo:k8")
    wait_until(lambda: side.near.call("MGET", "k7", "k8", "k9") == [b"new", None, b"old"])
    side.bare.call("SET", "demo:k8", "again")
    wait_until(lambda: side.near.call("MGET", "k7", "k8", "k9") == [b"new", b"again", b"old"])


def test_only_what_was_read_is_told(side):
    for i in range(100):
        side.bare.call("SET", f"demo:unread:{i}", 1)
    side.bare.call("SET", "demo:read", 1)
    await_hit(side, "read")
    before = side.stats()["invalidations"]
    for i in range(100):
        side.bare.call("SET", f"demo:unread:{i}", 2)
    side.bare.call("SET", "demo:read", 2)
    wait_until(lambda: side.near.call("GET", "read") == b"2")
    assert side.stats()["invalidations"] - before == 1
    for c in side.direct.client_list():
        assert "B" not in c["flags"], c  # nobody is told of everything


def test_the_own_writes_are_seen_at_once(side):
    for i in range(50):
        side.near.call("SET", "k", i)
        assert side.near.call("GET", "k") == b"%d" % i
        assert side.near.call("GET", "k") == b"%d" % i
    for i in range(200):
        side.near.command("SET", "k", i), side.near.command("GET", "k"), side.near.command("MGET", "k", "k")
    for i in range(200):
        assert (side.near.reply(), side.near.reply(), side.near.reply()) == ("OK", b"%d" % i, [b"%d" % i] * 2)


def test_flushes_and_what_is_not_a_write(side):
    for flush in (["FLUSHALL"], ["FLUSHDB"], ["SWAPDB", "0", "1"]):
        side.bare.call("SET", "demo:k", "v")
        wait_until(lambda: side.near.call("GET", "k") == b"v")
        await_hit(side, "k")
        if flush[0] == "SWAPDB":  # never announced: only ours is seen
            continue
        side.bare.call(*flush)
        wait_until(lambda: side.near.call("GET", "k") is None)


def test_an_expired_key_is_never_served(side):
    for _ in range(3):
        side.bare.call("SET", "demo:k", "v", "PX", 60)
        side.near.call("GET", "k")
        wait_until(lambda: side.bare.call("PTTL", "demo:k") == -2)
        assert side.near.call("GET", "k") is None
        side.bare.call("SET", "demo:k", "w")
        wait_until(lambda: side.near.call("GET", "k") == b"w")


def test_databases(side):
    side.near.call("SELECT", 5), side.bare.call("SELECT", 5)
    side.bare.call("SET", "demo:k", "old")
    wait_until(lambda: side.near.call("GET", "k") == b"old")
    await_hit(side, "k")
    side.bare.call("SET", "demo:k", "new")
    wait_until(lambda: side.near.call("GET", "k") == b"new")


def test_several_connections(start):
    side = start("--set", "upstream.connections=3")
    wait_until(lambda: side.stats()["serving"] == 1)
    wires = [side.process.wire() for _ in range(9)]
    for i, wire in enumerate(wires):
        side.bare.call("SET", f"demo:k{i}", "old")
        wait_until(lambda w=wire, k=f"k{i}": w.call("GET", k) == b"old" and
                   said(side, k)["cached"] == b"yes")
    assert len(data_connections(side)) >= 2
    for i in range(9):
        side.bare.call("SET", f"demo:k{i}", "new")
    for i, wire in enumerate(wires):
        wait_until(lambda w=wire, k=f"k{i}": w.call("GET", k) == b"new")


# --- connections that are lost ---------------------------------------------------------------------


def test_a_data_connection_killed(side):
    """The server forgets what it has told of: nothing that came through it may be served on."""
    for i in range(10):
        side.bare.call("SET", "demo:k", "old")
        wait_until(lambda: side.near.call("GET", "k") == b"old")
        await_hit(side, "k")
        side.near.call("GET", "absent"), await_hit(side, "absent")
        epochs = side.stats()["epochs"]
        lost = data_connections(side)
        assert lost
        kill(side, lost)
        side.bare.call("SET", "demo:k", "new %d" % i), side.bare.call("SET", "demo:absent", i)
        wait_until(lambda: side.stats()["epochs"] > epochs, what="the loss to be noticed")

        def settled():  # an error of the lost connection is no stale reply
            k, absent = side.near.call("GET", "k"), side.near.call("GET", "absent")
            assert k == b"new %d" % i or "NEARCACHE" in str(k), k
            assert absent == b"%d" % i or "NEARCACHE" in str(absent), absent
            return k == b"new %d" % i and absent == b"%d" % i
        wait_until(settled)
        await_hit(side, "k")
        side.bare.call("DEL", "demo:absent")
        wait_until(lambda: side.near.call("GET", "absent") is None)


def test_a_killed_connection_does_not_empty_the_l1(side):
    """What it has filled is suspect, and asked for again when it is needed."""
    for i in range(20):
        side.bare.call("SET", f"demo:k{i}", i)
        await_hit(side, f"k{i}")
    entries = side.stats()["entries"]
    epochs = side.stats()["epochs"]
    kill(side, data_connections(side))
    wait_until(lambda: side.stats()["epochs"] > epochs)
    wait_until(lambda: side.near.call("DUMP", "none") is None)  # it has connected again
    assert side.stats()["entries"] == entries >= 20
    assert said(side, "k0")["cached"] == b"no"
    await_hit(side, "k0")
    assert side.stats()["entries"] == entries


def test_the_link_killed(side):
    for i in range(5):
        side.bare.call("SET", "demo:k", "old")
        wait_until(lambda: side.near.call("GET", "k") == b"old")
        await_hit(side, "k")
        epochs = side.stats()["epochs"]
        kill(side, [c["id"] for c in side.direct.client_list() if c["name"] == "nearcache:demo:link"])
        side.bare.call("SET", "demo:k", "new")  # RESP3 connections are told that the link is gone
        wait_until(lambda: side.stats()["epochs"] > epochs)
        assert side.near.call("GET", "k") == b"new", i
        wait_until(lambda: side.stats()["serving"] == 1)
        await_hit(side, "k")
        side.bare.call("SET", "demo:k", "newer")
        wait_until(lambda: side.near.call("GET", "k") == b"newer")


def test_replies_stay_in_order_when_the_link_is_killed(side):
    """RESP3 connections get a push for each key whose redirection is broken, amid the replies."""
    stop, wrong = threading.Event(), []

    def ask(n):
        wire = side.process.wire()
        if n % 2:
            wire.call("HELLO", 3)
        while not stop.is_set():
            for i in range(50):
                wire.command("GET", f"k{i}"), wire.command("ECHO", f"{n}:{i}")
            for i in range(50):
                value, echo = wire.reply(), wire.reply()
                if not value.startswith(b"%d:" % i) or echo != b"%d:%d" % (n, i):
                    wrong.append((value, echo))

    for i in range(50):
        side.bare.call("SET", f"demo:k{i}", f"{i}:0")
    threads = [threading.Thread(target=ask, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for round_ in range(5):
        epochs = side.stats()["epochs"]
        kill(side, [c["id"] for c in side.direct.client_list() if c["name"] == "nearcache:demo:link"])
        for i in range(50):
            side.bare.call("SET", f"demo:k{i}", f"{i}:{round_}")
        wait_until(lambda: side.stats()["epochs"] > epochs + 1 and side.stats()["serving"] == 1)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    for i in range(50):
        wait_until(lambda n=i: side.near.call("GET", f"k{n}") == b"%d:4" % n)


def test_the_server_restarted(side):
    side.bare.call("SET", "demo:k", "old")
    await_hit(side, "k")
    server = side.server
    server.kill()
    server.start()
    side.bare, side.direct = server.wire(), server.client()
    side.bare.call("HELLO", side.resp)
    wait_until(lambda: side.stats()["serving"] == 1, timeout=10)
    wait_until(lambda: side.near.call("GET", "k") is None)
    await_hit(side, "k")
    side.bare.call("SET", "demo:k", "new")
    wait_until(lambda: side.near.call("GET", "k") == b"new")


# --- refused ---------------------------------------------------------------------------------------


def without(*rights):
    def upstream(server):
        server.client().execute_command("ACL", "SETUSER", "nc", "on", ">pw", "~*", "&*", "+@all", *rights)
        return f"redis://nc:pw@127.0.0.1:{server.port}/0"
    return upstream


@pytest.mark.parametrize("resp", [2, 3])
def test_refused_with_auto_it_is_events(start, resp):
    side = start(upstream=without("-client|tracking"), resp=resp)
    side.near.call("GET", "k")  # the first to ask finds out
    wait_until(lambda: info(side)["link_mode"] == "events" and side.stats()["serving"] == 1)
    await_hit(side, "k")
    side.direct.publish("cache:invalidate:l1", "k")
    wait_until(lambda: side.misses("k", "GET"))
    published = side.stats()["events_published"]
    side.near.call("SET", "k", 1)
    wait_until(lambda: side.stats()["events_published"] == published + 1)
    assert side.process.output("stderr").count("tracking_refused") == 1


@pytest.mark.parametrize("resp", [2, 3])
def test_refused_with_on_there_are_no_hits(start, resp):
    side = start("--set", "invalidation.tracking=on", upstream=without("-client|tracking"), resp=resp)
    side.near.call("SET", "k", 1)
    for _ in range(20):
        assert side.near.call("GET", "k") == b"1"
    wait_until(lambda: info(side)["link_last_error"] != "", what="the refusal to be shown")
    for _ in range(20):
        assert side.near.call("GET", "k") == b"1"
    assert side.stats()["hits"] == 0
    assert "tracking" in info(side)["link_last_error"]
    assert said(side, "k")["cached"] == b"no"


@pytest.mark.parametrize("tracking", ["auto", "on"])
def test_caching_refused(start, tracking):
    """CLIENT TRACKING is allowed and CLIENT CACHING is not: what was read is tracked by nobody."""
    side = start("--set", f"invalidation.tracking={tracking}", upstream=without("-client|caching"))
    wait_until(lambda: info(side)["link_mode"] != "connecting")
    for i in range(5):
        side.bare.call("SET", "demo:k", i)
        wait_until(lambda n=i: side.near.call("GET", "k") == b"%d" % n or
                   info(side)["link_mode"] == "events", what=f"{i} to be seen")


# --- figures ---------------------------------------------------------------------------------------


def test_figures(side):
    side.bare.call("SET", "demo:k", "value")
    await_hit(side, "k")
    shown, figures = info(side), side.stats()
    assert shown["link_mode"] == "tracking" and shown["serving"] == "1"
    assert int(shown["link_lease_age_ms"]) < 10000 and shown["namespace"] == "demo:"
    assert figures["entries"] == 1 and figures["fills"] >= 1 and figures["hits"] >= 1
    assert 0 < figures["bytes"] < 200 and figures["mapped"] <= figures["limit"]
    assert figures["hits"] + figures["misses"] > 1 and figures["evictions"] == 0
    one = said(side, "k")
    assert one["cached"] == b"yes" and one["key"] == b"demo:k" and one["recent_hits"] >= 1
    assert one["reply_bytes"] == len(b"$5\r\nvalue\r\n") and 0 < one["time_left_ms"] <= 3600 * 1000
    assert one["footprint_bytes"] == figures["bytes"]
    side.near.call("GET", "absent"), await_hit(side, "absent")
    assert said(side, "absent")["cached"] == b"yes"
    side.bare.call("SET", "demo:absent", 1)
    wait_until(lambda: said(side, "absent")["cached"] == b"no")
    assert side.stats()["invalidations"] > figures["invalidations"]
    assert not [c for c in side.direct.client_list() if "R" in c["flags"]]  # no broken redirection
