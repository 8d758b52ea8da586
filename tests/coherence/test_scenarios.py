"""The adversarial scenarios: each is an order of events in which a near cache could serve what is no
longer so. Most hold the invalidation link, so that only the rule under test can help."""
import itertools
import threading
import time

import pytest

from conftest import harness, wait_until
from fault import containing, nth, reply_to, request
from harness import RespError

MODES = {"bcast": (), "optin": ("--set", "invalidation.tracking_mode=optin"),
         "events": ("--set", "invalidation.tracking=off")}
SLACK = 0.2  # seconds beyond a bound that a machine with other work may need


def after(moment):
    """Waits until this time (monotonic, s): for what is defined by the clock."""
    wait_until(lambda: time.monotonic() > moment, timeout=20)


def read(instance, *command):
    with instance.wire() as wire:
        return wire.call(*command)


# --- flights ---------------------------------------------------------------------------------------


def test_get_in_flight_while_a_foreign_sets_invalidation_passes(world):
    w = world()
    w.direct.set("demo:k", "old")
    held = w.fault.data.replies.hold(reply_to("GET"))
    wire, n = w.wire(), w.stat("invalidations")
    wire.command("GET", "k")
    held.wait(b"old")
    w.direct.set("demo:k", "new")
    w.await_invalidations(1, n)
    held.release()
    assert wire.reply() == b"old"
    assert read(w, "GET", "k") == b"new"


def test_get_in_flight_on_a_set_acked_on_b_new_get(world):
    """What the invalidation has detached is not joined."""
    w = world()
    b = w.nearcache()
    w.direct.set("demo:k", "old")
    held = w.fault.data.replies.hold(nth(1, reply_to("GET")))
    first, second, n = w.wire(), w.wire(), w.stat("invalidations")
    first.command("GET", "k")
    held.wait(b"old")
    assert read(b, "SET", "k", "new") == "OK"
    w.await_invalidations(1, n)
    misses = w.stat("misses")
    second.command("GET", "k")
    wait_until(lambda: w.stat("misses") > misses)
    held.release()
    assert (first.reply(), second.reply()) == (b"old", b"new")
    assert read(w, "GET", "k") == b"new"


def test_two_flights_replies_reversed(world):
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    held = w.fault.data.replies.hold(nth(1, reply_to("GET")))
    wires, n = [w.wire() for _ in range(2)], w.stat("invalidations")
    wires[0].command("GET", "k")
    held.wait(b"old")
    w.direct.set("demo:k", "new")
    w.await_invalidations(1, n)
    w.fault.link.replies.hold()
    assert wires[1].call("GET", "k") == b"new"  # on the other connection
    held.release()
    assert wires[0].reply() == b"old"
    assert [wire.call("GET", "k") for wire in wires] == [b"new", b"new"]


def test_a_read_of_a_key_with_a_flight_never_runs_ahead_of_it(world):
    """A GET that can't join an MGET's flight reads for itself; what it has seen must not be undone by
    the flight's older value."""
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    w.fault.link.replies.hold()
    held = w.fault.data.replies.hold(nth(1, reply_to("MGET")))
    wires = [w.wire() for _ in range(2)]
    wires[0].command("MGET", "k", "l")
    held.wait(b"old")
    w.direct.set("demo:k", "new")
    assert wires[1].call("GET", "k") == b"new"
    held.release()
    wires[0].reply()
    assert wires[1].call("GET", "k") == b"new"


def test_a_client_in_resp3_never_goes_back_in_time(world):
    """It can't join the flight of a client in RESP2."""
    w = world()
    w.direct.set("demo:k", "old")
    w.fault.link.replies.hold()
    held = w.fault.data.replies.hold(nth(1, reply_to("GET")))
    old, new = w.wire(), w.wire()
    new.call("HELLO", 3)
    old.command("GET", "k")
    held.wait(b"old")
    w.direct.set("demo:k", "new")
    assert new.call("GET", "k") == b"new"
    held.release()
    assert old.reply() == b"old"
    assert new.call("GET", "k") == b"new"


def test_a_superseded_flight_on_a_slower_connection(world):
    """It was begun first and is answered last: what its reader saw must not be undone."""
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    slow = w.fault.data.requests.hold(nth(1, request("GET")))
    first, second = w.wire(), w.wire()
    first.command("GET", "k")
    slow.wait()
    assert second.call("MGET", "k") == [b"old"]
    w.fault.link.replies.hold()
    w.direct.set("demo:k", "new")
    slow.release()
    assert first.reply() == b"new"
    assert first.call("GET", "k") == b"new"


def test_a_read_that_began_no_flight_on_a_slower_connection(world):
    """Because of a write of the key, which ends before the read does."""
    w = world("--set", "upstream.connections=2")
    slow_write = w.fault.data.requests.hold(request("SET"))
    slow_read = w.fault.data.requests.hold(nth(1, request("GET")))
    first, second = w.wire(), w.wire()
    second.command("SET", "k", "old")
    slow_write.wait()
    first.command("GET", "k")
    slow_read.wait()
    slow_write.release()
    assert second.reply() == "OK"
    assert second.call("GET", "k") == b"old"
    w.fault.link.replies.hold()
    w.direct.set("demo:k", "new")
    slow_read.release()
    assert first.reply() == b"new"
    assert first.call("GET", "k") == b"new"


@pytest.mark.one_worker
def test_two_superseded_flights_on_a_slower_connection(world):
    """The second takes care of the key for the first, unless it is itself superseded from elsewhere."""
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    slow = w.fault.data.requests.hold(nth(1, request("GET")))
    first, other, second = w.wire(), w.wire(), w.wire()  # the second on the first's connection
    first.command("GET", "k")
    slow.wait()
    misses = w.stat("misses")
    second.command("MGET", "k")
    wait_until(lambda: w.stat("misses") > misses)
    assert other.call("MGET", "k") == [b"old"]
    w.fault.link.replies.hold()
    w.direct.set("demo:k", "new")
    late = w.fault.data.replies.hold(reply_to("MGET"))
    slow.release()
    assert first.reply() == b"new"
    late.wait()
    misses, hits = w.stat("misses"), w.stat("hits")
    first.command("GET", "k")
    wait_until(lambda: w.stat("misses") + w.stat("hits") > misses + hits)
    late.release()
    assert (first.reply(), second.reply()) == (b"new", [b"new"])


def test_a_superseded_flight_whose_pttl_is_late(world):
    """Its value has been shown; that counts at once."""
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    slow = w.fault.data.requests.hold(nth(1, request("GET")))
    first, second = w.wire(), w.wire()
    first.command("GET", "k")
    slow.wait()
    assert second.call("MGET", "k") == [b"old"]
    wait_until(lambda: w.stat("fills") == 1)
    w.fault.link.replies.hold()
    w.direct.set("demo:k", "new")
    late = w.fault.data.replies.hold(nth(1, reply_to("PTTL")))
    slow.release()
    assert first.reply() == b"new"
    late.wait()
    misses, hits = w.stat("misses"), w.stat("hits")
    first.command("GET", "k")
    wait_until(lambda: w.stat("misses") + w.stat("hits") > misses + hits)
    late.release()
    assert first.reply() == b"new"


def test_pipelined_reads_keep_their_order(world):
    """The first is still under way, on a slow connection, when the L1 could answer the second."""
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    slow = w.fault.data.requests.hold(nth(1, request("GET")))
    first, second = w.wire(), w.wire()
    first.command("GET", "k")
    slow.wait()
    assert second.call("MGET", "k") == [b"old"]
    w.fault.link.replies.hold()
    misses, hits = w.stat("misses"), w.stat("hits")
    first.command("GET", "k")
    wait_until(lambda: w.stat("misses") + w.stat("hits") > misses + hits)
    w.direct.set("demo:k", "new")
    slow.release()
    assert [first.reply(), first.reply()] == [b"new", b"new"]


def test_a_read_from_before_the_link_was_live_on_a_slower_connection(world):
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    w.fault.link.refuse = True
    w.fault.link.cut()
    wait_until(lambda: not w.serves())
    slow = w.fault.data.requests.hold(nth(1, request("GET")))
    first, second = w.wire(), w.wire()
    first.command("GET", "k")
    slow.wait()
    w.fault.link.refuse = False
    w.await_serving("tracking")
    assert second.call("GET", "k") == b"old"
    w.fault.link.replies.hold()
    w.direct.set("demo:k", "new")
    slow.release()
    assert first.reply() == b"new"
    assert first.call("GET", "k") == b"new"


@pytest.mark.parametrize("how", ["MULTI", "EVAL_RO", "WATCH"])
def test_what_a_session_has_shown_is_not_undone(world, how):
    """A client's private connection reads from Redis; afterwards the L1 must not be behind it."""
    w = world()
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    w.direct.set("demo:k", "new")
    wire = w.wire()
    if how == "MULTI":
        wire.call("MULTI"), wire.call("GET", "k")
        assert wire.call("EXEC") == [b"new"]
    elif how == "WATCH":
        wire.call("WATCH", "k")
        assert wire.call("GET", "k") == b"new"
        wire.call("UNWATCH")
    else:
        assert wire.call("EVAL_RO", "return redis.call('get', KEYS[1])", 1, "k") == b"new"
    assert wire.call("GET", "k") == b"new"


@pytest.mark.parametrize("command", [("MGET", "k"), ("GET", "k")])
def test_what_was_read_without_a_lease_is_not_undone_by_a_late_proof(world, command):
    """The proof is older than the foreign SET, whose message is still under way."""
    w = world(lease="300ms")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    wire = w.wire()
    proof = w.fault.link.replies.hold(containing(b"pong"))
    w.fault.link.replies.hold(containing(b"demo:k"))
    proof.wait()
    wait_until(lambda: not w.serves())
    w.direct.set("demo:k", "new")
    assert wire.call(*command) in (b"new", [b"new"])
    proof.release()
    for _ in range(10):
        assert wire.call("GET", "k") == b"new"


# --- writes of this proxy --------------------------------------------------------------------------


def test_local_set_acked_while_invalidations_are_delayed(world):
    w = world()
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    for i in range(20):
        assert read(w, "SET", "k", i) == "OK"
        assert read(w, "GET", "k") == b"%d" % i
        assert read(w, "GET", "k") == b"%d" % i


def test_a_fill_begun_between_a_writes_send_and_its_reply(world):
    """On another connection, before the write has reached Redis."""
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    w.fault.link.replies.hold()
    writer, reader = w.wire(), w.wire()
    held = w.fault.data.requests.hold(request("SET"))
    writer.command("SET", "k", "new")
    held.wait(b"new")
    assert reader.call("GET", "k") == b"old"  # not yet acknowledged
    assert not w.cached("k")
    held.release()
    assert writer.reply() == "OK"
    assert reader.call("GET", "k") == b"new"


def test_a_flight_that_ends_after_a_writes_reply(world):
    """It read the old value on another connection, and its reply is late."""
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    w.fault.link.replies.hold()
    writer, reader = w.wire(), w.wire()
    slow_write = w.fault.data.requests.hold(request("SET"))
    slow_read = w.fault.data.replies.hold(reply_to("GET"))
    writer.command("SET", "k", "new")
    slow_write.wait(b"new")
    reader.command("GET", "k")
    slow_read.wait(b"old")
    slow_write.release()
    assert writer.reply() == "OK"
    slow_read.release()
    assert reader.reply() == b"old"
    assert reader.call("GET", "k") == b"new"


@pytest.mark.parametrize("mode", ["bcast", "optin", "events"])
def test_pipelined_set_get(world, mode):
    w = world(*MODES[mode])
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    wire = w.wire()
    wire.send(b"".join(harness.encode(*words) for i in range(100)
                       for words in (("SET", "k", i), ("GET", "k"), ("MGET", "k"), ("STRLEN", "k"))))
    for i in range(100):
        value = b"%d" % i
        assert [wire.reply() for _ in range(4)] == ["OK", value, [value], len(value)]


@pytest.mark.parametrize("reached", [True, False], ids=["reached", "held"])
def test_client_gone_after_sending_set_upstream_dies(world, reached):
    w = world()
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    gate = w.fault.data.replies if reached else w.fault.data.requests
    held = gate.hold(request("SET"))
    wire = w.wire()
    wire.command("SET", "k", "new")
    held.wait()
    wire.close()
    w.fault.data.cut(reset=True)
    held.release()
    expected = b"new" if reached else b"old"
    wait_until(lambda: not isinstance(read(w, "GET", "k"), RespError))
    assert read(w, "GET", "k") == expected == w.direct.get("demo:k")


def test_a_write_that_times_out_is_seen_when_it_arrives_late(world):
    w = world("--set", "upstream.timeout=200ms")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    held = w.fault.data.requests.hold(request("SET"))
    assert isinstance(read(w, "SET", "k", "new"), RespError)
    wait_until(lambda: read(w, "GET", "k") == b"old")
    w.cache("GET", "k")
    n = w.stat("invalidations")
    held.release()
    w.await_invalidations(1, n)
    assert read(w, "GET", "k") == b"new"


@pytest.mark.parametrize("get_begins", ["before", "between"])
def test_eval_without_keys(world, get_begins):
    """It may have written anything."""
    w = world("--set", "upstream.connections=2")
    script = ("EVAL", "redis.call('SET', 'demo:k', 'new')", "0")
    unknown_keys(w, script, get_begins)


@pytest.mark.parametrize("get_begins", ["before", "between"])
def test_swapdb_through_the_proxy(world, get_begins):
    w = world("--set", "upstream.connections=2", "--set", "admin_commands=allow")
    other = w.server.client(db=1)
    other.set("demo:k", "new")
    other.close()
    unknown_keys(w, ("SWAPDB", "0", "1"), get_begins)


def unknown_keys(w, command, get_begins):
    w.direct.set("demo:k", "old")
    writer, reader = w.wire(), w.wire()
    if get_begins == "before":
        w.cache("GET", "k")
        w.fault.link.replies.hold()
        writer.command(*command)
        reader_saw = []
    else:
        w.fault.link.replies.hold()
        slow = w.fault.data.requests.hold(request(command[0]))
        late = w.fault.data.replies.hold(reply_to("GET"))
        writer.command(*command)
        slow.wait()
        reader.command("GET", "k")
        late.wait(b"old")
        slow.release()
        reader_saw = [b"old"]
    assert not isinstance(writer.reply(), RespError)
    if reader_saw:
        late.release()
        assert reader.reply() == b"old"
    assert writer.call("GET", "k") == b"new"
    assert reader.call("GET", "k") == b"new"


def test_pipelined_read_behind_a_write_of_unknown_keys(world):
    w = world()
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    wire = w.wire()
    wire.send(harness.encode("EVAL", "return redis.call('SET', 'demo:k', 'new')", 0) + harness.encode("GET", "k"))
    assert [wire.reply(), wire.reply()] == ["OK", b"new"]


def test_pipelined_read_behind_swapdb(world):
    w = world("--set", "admin_commands=allow")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    wire = w.wire()
    wire.send(harness.encode("SWAPDB", 0, 1) + harness.encode("GET", "k"))
    assert [wire.reply(), wire.reply()] == ["OK", None]


def test_a_read_between_queueing_and_exec(world):
    """What it has cached is of before EXEC."""
    w = world()
    w.direct.set("demo:a", "old")
    w.fault.link.replies.hold()
    wire = w.wire()
    assert [wire.call("MULTI"), wire.call("SET", "a", "new")] == ["OK", "QUEUED"]
    assert w.cache("GET", "a") == b"old"
    assert wire.call("EXEC") == ["OK"]
    assert wire.call("GET", "a") == b"new"


def test_multi_set_a_b_exec(world):
    w = world()
    for key in "ab":
        w.direct.set(f"demo:{key}", "old")
        w.cache("GET", key)
    w.fault.link.replies.hold()
    wire = w.wire()
    wire.send(b"".join(map(lambda words: harness.encode(*words.split()),
                           ["MULTI", "SET a new", "SET b new", "EXEC", "GET a", "GET b"])))
    assert [wire.reply() for _ in range(6)] == ["OK", "QUEUED", "QUEUED", ["OK", "OK"], b"new", b"new"]
    assert read(w, "MGET", "a", "b") == [b"new", b"new"]


def test_a_flight_across_exec(world):
    """Begun while EXEC is on its way; its reply comes after EXEC's."""
    w = world()
    w.direct.set("demo:a", "old")
    w.fault.link.replies.hold()
    slow = w.fault.data.requests.hold(request("EXEC"))
    late = w.fault.data.replies.hold(reply_to("GET"))
    writer, reader = w.wire(), w.wire()
    for words in (["MULTI"], ["SET", "a", "new"]):
        writer.call(*words)
    writer.command("EXEC")
    slow.wait()
    reader.command("GET", "a")
    late.wait(b"old")
    slow.release()
    assert writer.reply() == ["OK"]
    late.release()
    assert reader.reply() == b"old"
    assert writer.call("GET", "a") == b"new" and reader.call("GET", "a") == b"new"


def test_reads_inside_multi(world):
    """They are Redis' own."""
    w = world()
    w.direct.set("demo:a", "old")
    w.cache("GET", "a")
    w.fault.link.replies.hold()
    w.direct.set("demo:a", "new")
    wire = w.wire()
    assert (wire.call("MULTI"), wire.call("GET", "a"), wire.call("EXEC")) == ("OK", "QUEUED", [b"new"])


SECOND_KEY = [
    (["SET", "s", "new"], ["RENAME", "s", "d"], ["GET", "d"], b"new"),
    (["SET", "s", "new"], ["RENAME", "s", "d"], ["GET", "s"], None),
    (["SET", "s", "new"], ["COPY", "s", "d", "REPLACE"], ["GET", "d"], b"new"),
    (["SADD", "s", "x"], ["SMOVE", "s", "d", "x"], ["SCARD", "d"], 1),
    (["SADD", "s", "x"], ["SMOVE", "s", "d", "x"], ["SMEMBERS", "d"], [b"x"]),
    (["RPUSH", "s", "x"], ["LMOVE", "s", "d", "LEFT", "LEFT"], ["LLEN", "d"], 1),
    (["RPUSH", "s", "x"], ["RPOPLPUSH", "s", "d"], ["LRANGE", "d", "0", "-1"], [b"x"]),
    (["RPUSH", "s", "x"], ["BLMOVE", "s", "d", "LEFT", "LEFT", "1"], ["LLEN", "d"], 1),
    (["SADD", "s", "x"], ["SUNIONSTORE", "d", "s"], ["SCARD", "d"], 1),
    (["ZADD", "s", "1", "x"], ["ZRANGESTORE", "d", "s", "0", "-1"], ["ZSCORE", "d", "x"], b"1"),
    (["RPUSH", "s", "2", "1"], ["SORT", "s", "STORE", "d"], ["LRANGE", "d", "0", "-1"], [b"1", b"2"]),
    (["SET", "s", "abc"], ["BITOP", "NOT", "d", "s"], ["STRLEN", "d"], 3),
    (["SET", "s", "v"], ["MSET", "x", "1", "d", "new"], ["GET", "d"], b"new"),
    (["SET", "s", "v"], ["EVAL", "return redis.call('SET',KEYS[2],'new')", "2", "s", "d"], ["GET", "d"], b"new"),
    (["HSET", "s", "f", "v"], ["COPY", "s", "d"], ["HGETALL", "d"], [b"f", b"v"]),
    (["SET", "d", "v"], ["GETDEL", "d"], ["GET", "d"], None),
    (["SET", "d", "v"], ["UNLINK", "x", "d"], ["EXISTS", "d"], 0),
    (["SET", "d", "v"], ["EXPIRE", "d", "-1"], ["GET", "d"], None),
]


@pytest.mark.parametrize("prepare, write, look, expected", SECOND_KEY,
                         ids=lambda words: "-".join(words) if isinstance(words, list) and len(words[0]) > 1
                         and isinstance(words[0], str) else "")
def test_rename_copy_smove_second_key(world, prepare, write, look, expected):
    w = world()
    wire = w.wire()
    wire.call(*prepare)
    w.cache(*look)
    w.fault.link.replies.hold()
    assert not isinstance(wire.call(*write), RespError)
    assert wire.call(*look) == expected
    assert read(w, *look) == expected


def test_blpop_then_llen(world):
    w = world()
    w.direct.rpush("demo:l", "a", "b")
    assert w.cache("LLEN", "l") == 2
    w.fault.link.replies.hold()
    wire = w.wire()
    assert wire.call("BLPOP", "l", 1) == [b"l", b"a"]
    assert wire.call("LLEN", "l") == 1


def test_llen_while_blpop_waits(world):
    """The pop comes when somebody else pushes, perhaps long after it was sent."""
    w = world()
    w.fault.link.replies.hold()
    popper, reader = w.wire(), w.wire()
    sent = w.fault.data.requests.watch(request("BLPOP"))
    popper.command("BLPOP", "l", 5)
    sent.wait()
    assert reader.call("LLEN", "l") == 0
    late = w.fault.data.replies.hold(nth(1, reply_to("LLEN")))
    reader.command("LLEN", "l")
    late.wait()
    w.direct.rpush("demo:l", "a", "b")
    assert popper.reply() == [b"l", b"a"]
    late.release()
    assert reader.reply() in (0, 1)
    assert popper.call("LLEN", "l") == 1 and reader.call("LLEN", "l") == 1


@pytest.mark.parametrize("payload", ['{"service":"demo","key":"k","timestamp":1}', "k", "demo:k"])
def test_own_publish_evicts_before_its_ack(world, payload):
    w = world("--set", "invalidation.tracking=off")
    channel = "cache:invalidate" if "{" in payload else "cache:invalidate:l1"
    w.direct.set("demo:k", 0)
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    wire = w.wire()
    for i in range(1, 10):
        w.direct.set("demo:k", i)
        wire.call("PUBLISH", channel, payload)
        assert wire.call("GET", "k") == b"%d" % i


# --- everybody's writes ----------------------------------------------------------------------------


def test_incr_stress_with_20_and_30_ms_delays(world):
    """No client sees a decrease, and nobody less than what it knows was acknowledged at its proxy."""
    w = world()
    b = w.nearcache()
    for instance in (w, b):
        instance.fault.data.replies.delay = instance.fault.data.requests.delay = 0.02
        instance.fault.link.replies.delay = 0.03
    acked = {id(w): 0, id(b): 0}
    done, wrong = threading.Event(), []

    def write(instance):
        with instance.wire() as wire:
            for _ in range(25):
                acked[id(instance)] = max(acked[id(instance)], wire.call("INCR", "n"))

    def watch(instance):
        with instance.wire() as wire:
            last = 0
            while not done.is_set():
                floor = max(last, acked[id(instance)])
                last = int(wire.call("GET", "n") or 0)
                if last < floor:
                    wrong.append((last, floor))

    readers = [threading.Thread(target=watch, args=[i]) for i in (w, b) for _ in range(3)]
    writers = [threading.Thread(target=write, args=[i]) for i in (w, b)]
    for thread in readers + writers:
        thread.start()
    for _ in range(50):
        w.direct.incr("demo:n")
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not wrong
    assert int(w.direct.get("demo:n")) == 100


def test_absent_key_foreign_set(world):
    w = world("--set", "l1.negative_ttl=60s")
    assert w.cache("GET", "k") is None and w.cache("EXISTS", "k") == 0
    n = w.stat("invalidations")
    w.direct.set("demo:k", "new")
    w.await_invalidations(1, n)
    assert read(w, "GET", "k") == b"new" and read(w, "EXISTS", "k") == 1


def test_absence_is_bounded_by_negative_ttl(world):
    w = world("--set", "l1.negative_ttl=100ms", "--set", "invalidation.tracking=off")
    assert w.cache("GET", "k") is None
    w.direct.set("demo:k", "new")
    wait_until(lambda: read(w, "GET", "k") == b"new", timeout=2)


def test_flushall_with_flights_open(world):
    w = world()
    w.direct.mset({"demo:k": "old", "demo:cached": "old"})
    w.cache("GET", "cached")
    held = w.fault.data.replies.hold(reply_to("GET", "demo:k"))
    wire, epochs = w.wire(), w.stat("epochs")
    wire.command("GET", "k")
    held.wait(b"old")
    w.direct.flushall()
    wait_until(lambda: w.stat("epochs") > epochs)
    held.release()
    assert wire.reply() == b"old"
    assert read(w, "MGET", "k", "cached") == [None, None]
    assert read(w, "GET", "k") is None


def test_swapdb_by_somebody_else_is_bounded_by_the_ttl(world):
    """The server announces it to nobody."""
    w = world("--set", "l1.ttl=300ms")
    other = w.server.client(db=1)
    other.set("demo:k", "new")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    other.swapdb(0, 1)
    swapped = time.monotonic()
    other.close()
    while time.monotonic() < swapped + 2:
        sent = time.monotonic()
        if read(w, "GET", "k") == b"new":
            break
        assert sent - swapped < 0.3 + SLACK


# --- time ------------------------------------------------------------------------------------------


def test_px_300_among_300_000_volatile_keys_hit_at_400_ms(world):
    """Nobody is told of an expiry before the server happens upon it."""
    w = world()
    w.direct.eval("for i = 1, 300000 do redis.call('SET', 'volatile:' .. i, '', 'PX', 300 + i % 1000) end", 0)
    w.await_serving()
    w.fault.link.replies.hold()
    w.direct.set("demo:k", "v", px=300)
    set_at = time.monotonic()
    wire = w.wire()
    assert wire.call("GET", "k") == b"v"
    hits = w.stat("hits")
    wire.call("GET", "k")
    assert w.stat("hits") == hits + 1 or time.monotonic() > set_at + 0.3
    after(set_at + 0.4)
    assert wire.call("GET", "k") is None


def test_pttl_reply_delayed_past_the_expiry(world):
    w = world()
    w.fault.link.replies.hold()
    held = w.fault.data.replies.hold(nth(1, reply_to("PTTL")))
    w.direct.set("demo:k", "v", px=200)
    set_at = time.monotonic()
    wire = w.wire()
    assert wire.call("GET", "k") == b"v"
    held.wait()
    after(set_at + 0.25)
    held.release()
    read(w, "GET", "other")  # whose reply comes behind the PTTL's
    assert wire.call("GET", "k") is None


def test_replies_delayed_count_as_age(world):
    """The deadline counts from the time of sending: here 150 ms pass before the reply is read."""
    w = world()
    w.fault.link.replies.hold()
    held = w.fault.data.replies.hold(nth(1, reply_to("GET")))
    w.direct.set("demo:k", "v", px=300)
    set_at = time.monotonic()
    wire = w.wire()
    wire.command("GET", "k")
    held.wait(b"v")
    after(set_at + 0.15)
    held.release()
    assert wire.reply() == b"v"
    after(set_at + 0.31)
    assert wire.call("GET", "k") is None


@pytest.mark.parametrize("old", ["old", None])
def test_foreign_set_between_get_and_pttl(world, old):
    w = world()
    if old:
        w.direct.set("demo:k", old, px=60000)
    held = w.fault.data.requests.hold(nth(1, request("PTTL")))
    wire, n = w.wire(), w.stat("invalidations")
    wire.command("GET", "k")
    held.wait()
    w.direct.set("demo:k", "new")
    w.await_invalidations(1, n)
    held.release()
    assert wire.reply() == (old.encode() if old else None)
    assert read(w, "GET", "k") == b"new"


def test_persist_and_expire_are_seen(world):
    w = world()
    w.direct.set("demo:k", "v", px=60000)
    w.cache("GET", "k")
    n = w.stat("invalidations")
    w.direct.pexpire("demo:k", 200)
    w.await_invalidations(1, n)
    set_at = time.monotonic()
    w.fault.link.replies.hold()
    assert read(w, "GET", "k") == b"v"
    after(set_at + 0.25)
    assert read(w, "GET", "k") is None


def test_a_local_expire_is_seen_at_once(world):
    w = world()
    w.direct.set("demo:k", "v")
    w.cache("GET", "k")
    w.fault.link.replies.hold()
    wire = w.wire()
    wire.call("PEXPIRE", "k", 150)
    set_at = time.monotonic()
    assert wire.call("GET", "k") == b"v"
    after(set_at + 0.2)
    assert wire.call("GET", "k") is None


def test_several_views_share_the_keys_deadline(world):
    w = world()
    w.fault.link.replies.hold()
    w.direct.hset("demo:h", "f", "v")
    w.direct.pexpire("demo:h", 300)
    set_at = time.monotonic()
    wire = w.wire()
    views = [("HGET", "h", "f"), ("HGETALL", "h"), ("HLEN", "h"), ("EXISTS", "h"), ("TYPE", "h")]
    assert [wire.call(*view) for view in views * 2] == [b"v", [b"f", b"v"], 1, 1, "hash"] * 2
    after(set_at + 0.35)
    assert [wire.call(*view) for view in views] == [None, [], 0, 0, "none"]


# --- the link --------------------------------------------------------------------------------------


def staleness(w, key, new, limit=8):
    """How long (s) after now, when `new` has been written, a read that was sent still got the old value;
    errors are not stale."""
    written, worst = time.monotonic(), 0
    wire = w.wire()
    while True:
        sent = time.monotonic()
        assert sent < written + limit
        reply = wire.call("GET", key)
        if reply == new:
            return worst
        if not isinstance(reply, RespError):
            worst = sent - written


@pytest.mark.parametrize("mode, lease", [("bcast", 300), ("bcast", 1000), ("optin", 300), ("events", 300)])
def test_invalidation_link_black_holed(world, mode, lease):
    """No hit is older than the lease."""
    w = world(*MODES[mode], lease=f"{lease}ms")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.swallow()
    w.direct.set("demo:k", "new")
    assert staleness(w, "k", b"new") < lease / 1000 + SLACK
    assert not w.serves()
    w.direct.set("demo:k", "newer")
    assert read(w, "GET", "k") == b"newer"


def test_a_link_that_is_mute_is_replaced(world):
    w = world(lease="300ms")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.link.swallow()
    wait_until(lambda: not w.serves())
    w.direct.set("demo:k", "new")
    opened = w.fault.link.opened
    w.fault.wait(lambda: w.fault.link.opened > opened, "another link")
    w.fault.link.swallow(False)
    w.await_serving("tracking")
    assert read(w, "GET", "k") == b"new"


def test_a_slow_link_delays_no_more_than_it_must(world):
    """200 ms each way: still serving, and stale by no more than the delay and a proof."""
    w = world(lease="1s")
    w.fault.link.replies.delay = w.fault.link.requests.delay = 0.2
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.direct.set("demo:k", "new")
    assert staleness(w, "k", b"new") < 1.0 + SLACK


def test_an_old_proof_renews_nothing(world):
    """PONGs that were held back for longer than the lease."""
    w = world(lease="300ms")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    pongs = w.fault.link.replies.hold(containing(b"pong"))
    pongs.wait()
    came = time.monotonic()
    wait_until(lambda: not w.serves())
    after(came + 0.35)
    younger = w.fault.link.requests.hold()
    pongs.release()
    younger.wait(b"PING")  # it asks again, so it has read the answer
    assert not w.serves()
    younger.release()
    wait_until(w.serves)


def test_sigstop_of_redis_3_s(world):
    w = world("--set", "upstream.timeout=500ms", lease="1s")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    late = w.server.wire()
    w.server.pause()
    stopped = time.monotonic()
    late.command("SET", "demo:k", "new")
    seen = set()
    while time.monotonic() < stopped + 3:
        sent = time.monotonic()
        reply = read(w, "GET", "k")
        seen.add(type(reply))
        if not isinstance(reply, RespError):
            assert sent - stopped < 1.0 + SLACK
    assert RespError in seen and bytes in seen
    w.server.resume()
    assert late.reply() == "OK"
    assert staleness(w, "k", b"new") < 1.0 + SLACK
    w.await_serving("tracking")
    assert w.cache("GET", "k") == b"new"


@pytest.mark.parametrize("how", ["kill", "cut", "reset"])
def test_client_kill_of_the_link_with_writes_while_it_is_down(world, how):
    w = world()
    w.direct.mset({"demo:k": "old", "demo:same": "same", "demo:gone": "old"})
    for key in ("k", "same", "gone"):
        w.cache("GET", key)
    absent = w.cache("GET", "absent")
    w.fault.link.refuse = True
    if how == "kill":
        link = [c["id"] for c in w.direct.client_list() if c["name"] == "nearcache:demo:link"]
        assert len(link) == 1
        w.direct.execute_command("CLIENT", "KILL", "ID", link[0])
    else:
        w.fault.link.cut(reset=how == "reset")
    wait_until(lambda: not w.serves())
    w.direct.set("demo:k", "new"), w.direct.delete("demo:gone"), w.direct.set("demo:absent", "new")
    reads = [("GET", key) for key in ("k", "same", "gone", "absent")]
    expected = [b"new", b"same", None, b"new"]
    assert absent is None and [read(w, *words) for words in reads] == expected
    w.fault.link.refuse = False
    w.await_serving("tracking")
    assert [read(w, *words) for words in reads * 2] == expected * 2


@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("mode", list(MODES))
def test_a_message_lost_with_its_link(world, mode, how):
    """It had been sent, but not delivered."""
    w = world(*MODES[mode], lease="1s")
    b = w.nearcache(*MODES[mode])
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    lost = w.fault.link.replies.hold(lambda frame: b"pong" not in frame.bytes)
    assert read(b, "SET", "k", "new") == "OK"
    lost.wait()
    w.fault.link.refuse = True
    w.fault.link.cut(reset=how == "reset")
    assert staleness(w, "k", b"new") < 1.0 + SLACK
    lost.release()
    w.fault.link.refuse = False
    w.await_serving()
    assert read(w, "GET", "k") == b"new"


def test_nothing_that_was_read_while_the_link_was_down_is_kept(world):
    """A flight from before the link's return tells nothing of what changed meanwhile."""
    w = world()
    w.direct.set("demo:k", "old")
    w.fault.link.refuse = True
    w.fault.link.cut()
    wait_until(lambda: not w.serves())
    held = w.fault.data.replies.hold(reply_to("GET"))
    wire = w.wire()
    wire.command("GET", "k")
    held.wait(b"old")
    w.direct.set("demo:k", "new")  # nobody is told
    w.fault.link.refuse = False
    w.await_serving("tracking")
    w.fault.link.replies.hold()
    held.release()
    assert wire.reply() == b"old"
    assert read(w, "GET", "k") == b"new"


def test_a_flight_across_the_links_loss(world):
    """Its reply comes when a new link is up, and its invalidation was lost with the old one."""
    w = world()
    w.direct.set("demo:k", "old")
    held = w.fault.data.replies.hold(reply_to("GET"))
    wire = w.wire()
    wire.command("GET", "k")
    held.wait(b"old")
    w.fault.link.refuse = True
    w.fault.link.cut()
    wait_until(lambda: not w.serves())
    w.direct.set("demo:k", "new")
    w.fault.link.refuse = False
    w.await_serving("tracking")
    held.release()
    assert wire.reply() == b"old"
    assert read(w, "GET", "k") == b"new"


@pytest.mark.parametrize("where", ["TRACKING", "subscribe", "pong"])
def test_a_link_that_breaks_while_it_is_set_up(world, where):
    w = world()
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    predicate = reply_to("CLIENT", "TRACKING") if where == "TRACKING" else containing(where.encode())
    for _ in range(3):
        w.fault.link.replies.truncate(predicate)
    w.fault.link.cut()
    w.direct.set("demo:k", "new")
    wait_until(lambda: read(w, "GET", "k") == b"new", timeout=2)
    wait_until(lambda: not w.fault.link.replies.truncations and w.serves(), timeout=20)
    assert w.cache("GET", "k") == b"new"


def test_a_long_script_in_the_cycle_of_a_set(world):
    """The message waits for the script's end, the SET's reply does not; -BUSY renews nothing."""
    w = world(lease="600ms", server=("--busy-reply-threshold", "50"))
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    busy = "local t = redis.call('TIME'); local e = t[1] * 1000 + t[2] / 1000 + 1800; " \
           "repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > e"
    wire, other = w.server.wire(), w.server.wire()
    wire.send(harness.encode("SET", "demo:k", "new") + harness.encode("EVAL", busy, 0))  # in one cycle
    wait_until(lambda: isinstance(other.call("PING"), RespError))
    assert staleness(w, "k", b"new") < 0.6 + SLACK
    assert [wire.reply(), wire.reply()] == ["OK", None]
    wait_until(w.serves)
    assert w.cache("GET", "k") == b"new"


@pytest.mark.parametrize("mode", ["bcast", "optin"])
def test_master_demoted_by_replicaof(world, mode):
    w = world(*MODES[mode], lease="1s")
    new_master = world.redis_server()
    client = new_master.client()
    client.set("demo:k", "new")
    w.direct.set("demo:k", "old"), w.direct.set("demo:only_old", "old")
    w.cache("GET", "k"), w.cache("GET", "only_old")
    w.direct.replicaof("127.0.0.1", new_master.port)
    wait_until(lambda: w.direct.info("replication")["master_link_status"] == "up", timeout=15)
    wait_until(lambda: read(w, "GET", "k") == b"new" and read(w, "GET", "only_old") is None)
    w.cache("GET", "k")
    client.set("demo:k", "newer")
    wait_until(lambda: w.direct.get("demo:k") == b"newer")
    assert staleness(w, "k", b"newer") < 1.0 + SLACK
    client.close()


def test_master_demoted_by_replicaof_without_tracking(world):
    """Nobody tells of it: the bound is the TTL."""
    w = world("--set", "l1.ttl=500ms", *MODES["events"])
    new_master = world.redis_server()
    with new_master.client() as client:
        client.set("demo:k", "new")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.direct.replicaof("127.0.0.1", new_master.port)
    wait_until(lambda: w.direct.get("demo:k") == b"new", timeout=15)
    assert staleness(w, "k", b"new") < 0.5 + SLACK


@pytest.mark.one_worker
@pytest.mark.parametrize("mode", list(MODES))
def test_another_server_in_the_masters_place(world, mode):
    """A new one answers at the address, with other data: what the old one said is not served."""
    w = world(*MODES[mode])
    w.direct.set("demo:k", "old"), w.direct.set("demo:gone", "old")
    w.cache("GET", "k"), w.cache("GET", "gone")
    w.server.kill()
    wait_until(lambda: not w.serves())
    w.server.start()
    with w.server.client() as client:
        client.set("demo:k", "new")
    w.await_serving()
    wait_until(lambda: not isinstance(read(w, "GET", "k"), RespError))
    assert read(w, "GET", "k") == b"new" and read(w, "GET", "gone") is None


# --- messages --------------------------------------------------------------------------------------


def test_forged_publish_to_redis_invalidate(world):
    w = world()
    w.direct.set("demo:k", "v")
    w.cache("GET", "k")
    malformed, epochs = w.stat("events_malformed"), w.stat("epochs")
    for forged in ("demo:k", "", "k", "*1\r\n$6\r\ndemo:k\r\n"):
        w.direct.publish("__redis__:invalidate", forged)
    wait_until(lambda: w.stat("events_malformed") == malformed + 4)
    assert w.cached("k") and w.stat("epochs") == epochs


@pytest.mark.parametrize("payload", ["{", "", "[]", '{"service":"demo"}', '{"service":"demo","key":1}',
                                     '{"service":"demo","key":"k"}}', b"\xff\x00"], ids=repr)
def test_malformed_json(world, payload):
    w = world()
    w.direct.set("demo:k", "v")
    w.cache("GET", "k")
    malformed = w.stat("events_malformed")
    w.direct.publish("cache:invalidate", payload)
    wait_until(lambda: w.stat("events_malformed") == malformed + 1)
    assert w.cached("k")


def test_foreign_service(world):
    w = world()
    w.direct.mset({"demo:k": "v", "demolition:k": "v"})
    w.cache("GET", "k")
    foreign = w.stat("events_foreign")
    w.direct.publish("cache:invalidate", '{"service":"demolition","key":"k"}')
    wait_until(lambda: w.stat("events_foreign") == foreign + 1)
    n = w.stat("invalidations")
    w.direct.set("demolition:k", "new"), w.direct.set("dem", "new"), w.direct.set("k", "new")
    w.direct.set("demo:other", "new")
    w.await_invalidations(1, n)
    assert w.cached("k") and w.stat("invalidations") == n + 1


@pytest.mark.parametrize("key", [b"", b"\x00", b"\r\n", b"\xff\xfe*1\r\n", b"a b", b"demo:", b"k" * 1000, "ö".encode()],
                         ids=lambda key: repr(key)[:20])
def test_key_equal_to_the_bare_prefix_and_binary_keys(world, key):
    w = world()
    w.direct.set(b"demo:" + key, "old")
    assert w.cache("GET", key) == b"old"
    n = w.stat("invalidations")
    w.direct.set(b"demo:" + key, "new")
    w.await_invalidations(1, n)
    assert read(w, "GET", key) == b"new"
    w.cache("GET", key)
    w.fault.link.replies.hold()
    read(w, "SET", key, "newer")
    assert read(w, "GET", key) == b"newer"


def test_without_a_namespace(world):
    """Every key of the server is ours, and one of no letters is a key."""
    w = world("--namespace", "")
    for key in ("k", ""):
        w.direct.set(key, "old")
        w.cache("GET", key)
        n = w.stat("invalidations")
        w.direct.set(key, "new")
        w.await_invalidations(1, n)
        assert read(w, "GET", key) == b"new"


def test_a_message_counts_in_every_database(world):
    """It does not say in which one the key has changed."""
    w = world()
    wire = w.wire()
    wire.call("SELECT", 3)
    wire.call("SET", "k", "old")
    wait_until(lambda: wire.call("GET", "k") == b"old" and w.stat("fills") > 0)
    n = w.stat("invalidations")
    other = w.server.client(db=3)
    other.set("demo:k", "new")
    other.close()
    w.await_invalidations(1, n)
    assert wire.call("GET", "k") == b"new"


# --- data connections ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["GET", "PTTL"])
def test_a_reply_cut_short_is_not_kept(world, command):
    w = world()
    w.direct.set("demo:k", "v" * 100)
    w.fault.data.replies.truncate(reply_to(command))
    wire = w.wire()
    wire.command("GET", "k")
    if command == "PTTL":
        assert wire.reply() == b"v" * 100
    else:
        with pytest.raises(EOFError):  # what has begun can't be taken back
            wire.reply()
    wait_until(lambda: read(w, "GET", "k") == b"v" * 100)
    assert w.cache("GET", "k") == b"v" * 100


@pytest.mark.one_worker
def test_data_black_holed_link_alive(world):
    """Hits go on, for the link proves them; misses end with an error; then all is well again."""
    w = world("--set", "upstream.timeout=200ms")
    w.direct.set("demo:k", "old"), w.direct.set("demo:miss", "v")
    w.cache("GET", "k")
    w.fault.data.swallow()
    assert isinstance(read(w, "GET", "miss"), RespError)
    assert read(w, "GET", "k") == b"old"
    n = w.stat("invalidations")
    w.direct.set("demo:k", "new")
    w.await_invalidations(1, n)
    assert isinstance(read(w, "GET", "k"), RespError)
    w.fault.data.swallow(False)
    wait_until(lambda: read(w, "GET", "k") == b"new")
    assert read(w, "GET", "miss") == b"v"


# --- tracking by key: invalidation.tracking_mode=optin ---------------------------------------------

OPTIN = MODES["optin"]


def test_optin_foreign_writes(world):
    w = world(*OPTIN, lease="1s")
    w.direct.mset({"demo:a": "old", "demo:b": "old"})
    w.cache("GET", "a"), w.cache("MGET", "b", "c"), w.cache("EXISTS", "c")
    for key in "abc":
        w.direct.set(f"demo:{key}", "new")
        assert staleness(w, key, b"new") < 1.0 + SLACK
    n = w.stat("invalidations")
    w.direct.set("demo:never_read", 1)
    w.direct.set("demo:a", "newer")
    w.await_invalidations(1, n)
    assert w.stat("invalidations") == n + 1  # we are told of what we have asked for only


def test_optin_get_in_flight(world):
    w = world(*OPTIN)
    w.direct.set("demo:k", "old")
    w.cache("GET", "other")  # the connection tracks
    held = w.fault.data.replies.hold(reply_to("GET"))
    wire, n = w.wire(), w.stat("invalidations")
    wire.command("GET", "k")
    held.wait(b"old")
    w.direct.set("demo:k", "new")
    w.await_invalidations(1, n)
    held.release()
    assert wire.reply() == b"old"
    assert read(w, "GET", "k") == b"new"


def kill_data_connections(w):
    data = [c["id"] for c in w.direct.client_list() if c["name"] not in ("", "nearcache:demo:link")]
    assert data
    for ident in data:
        w.direct.execute_command("CLIENT", "KILL", "ID", ident)


@pytest.mark.parametrize("how", ["kill", "cut", "reset"])
def test_a_data_connection_killed_in_optin_mode(world, how):
    """The server forgets what it was to tell of; so do we."""
    w = world(*OPTIN)
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    epochs = w.stat("epochs")
    if how == "kill":
        kill_data_connections(w)
    else:
        w.fault.data.cut(reset=how == "reset")
    wait_until(lambda: w.stat("epochs") > epochs)
    w.direct.set("demo:k", "new")
    wait_until(lambda: not isinstance(read(w, "GET", "k"), RespError))
    assert read(w, "GET", "k") == b"new"


def test_a_data_connection_dead_in_silence_in_optin_mode(world):
    """The server has dropped it, and we were not told: the link's proofs say nothing of it."""
    w = world(*OPTIN, lease="1s")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    w.fault.data.swallow()
    kill_data_connections(w)
    w.direct.set("demo:k", "new")
    written, wire = time.monotonic(), w.wire()
    while time.monotonic() < written + 2.5:
        sent = time.monotonic()
        if wire.call("GET", "k") == b"old":
            assert sent - written < 1.0 + SLACK


def test_optin_link_replaced(world):
    """Keys are tracked for a link that is gone: the new one hears of what is filled from then on."""
    w = world(*OPTIN, lease="1s")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    opened = w.fault.link.opened
    w.fault.link.cut()
    w.fault.wait(lambda: w.fault.link.opened > opened, "another link")
    w.await_serving("tracking")
    w.cache("GET", "k")
    w.direct.set("demo:k", "new")
    assert staleness(w, "k", b"new") < 1.0 + SLACK


# --- events ----------------------------------------------------------------------------------------

EVENTS = MODES["events"]


@pytest.mark.parametrize("publish", ["auto", "on"])
@pytest.mark.parametrize("write", [
    ["SET k new"], ["MSET x 1 k new"], ["MULTI", "SET k new", "EXEC"], ["SET s new", "RENAME s k"],
    ["EVAL return(redis.call('SET',KEYS[1],'new')) 1 k"],
    ["EVAL return(redis.call('SET','demo:k','new')) 0"],
], ids=lambda write: write[-1].split()[0] + write[-1][-1])
def test_a_write_is_published_to_other_instances(world, publish, write):
    w = world(*EVENTS)
    b = w.nearcache(*EVENTS, "--set", f"invalidation.publish={publish}")
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    wire = b.wire()
    for command in write:
        assert not isinstance(wire.call(*command.split(" ")), RespError)
    wait_until(lambda: read(w, "GET", "k") == b"new", timeout=2)


def test_flushdb_is_published_to_other_instances(world):
    w = world(*EVENTS)
    b = w.nearcache(*EVENTS)
    w.direct.set("demo:k", "old")
    w.cache("GET", "k")
    read(b, "FLUSHDB")
    wait_until(lambda: read(w, "GET", "k") is None, timeout=2)


def test_nothing_is_published_while_tracking_does_it(world):
    w = world()
    wire = w.server.wire()
    wire.call("SUBSCRIBE", "cache:invalidate")
    read(w, "SET", "k", 1), read(w, "DEL", "k")
    w.direct.publish("cache:invalidate", "end")
    assert wire.reply()[2] == b"end"


def test_own_events_do_not_evict_what_a_newer_read_has_filled(world):
    w = world(*EVENTS)
    held = w.fault.link.replies.hold(containing(b"origin"))
    read(w, "SET", "k", "v")
    w.cache("GET", "k")
    held.wait()
    held.release()
    w.direct.publish("cache:invalidate:l1", "other")
    w.await_invalidations(1)
    assert w.cached("k")


def test_prefix_events_evict_by_prefix(world):
    w = world(*EVENTS)
    for key in ("user:1", "user:2", "item:1"):
        w.direct.set(f"demo:{key}", "old")
        w.cache("GET", key)
    held = w.fault.data.replies.hold(reply_to("GET", "demo:user:3"))
    wire = w.wire()
    w.direct.set("demo:user:3", "old")
    wire.command("GET", "user:3")
    held.wait(b"old")
    w.direct.set("demo:user:3", "new")
    w.direct.publish("cache:invalidate", '{"service":"demo","prefix":"user:"}')
    wait_until(lambda: not w.cached("user:1"))
    held.release()
    assert wire.reply() == b"old"
    assert not w.cached("user:2") and w.cached("item:1")
    assert read(w, "GET", "user:3") == b"new"


@pytest.mark.parametrize("order", ["event first", "reply first"])
def test_get_in_flight_while_an_event_passes(world, order):
    w = world(*EVENTS)
    b = w.nearcache(*EVENTS)
    w.direct.set("demo:k", "old")
    held = w.fault.data.replies.hold(nth(1, reply_to("GET")))
    event = w.fault.link.replies.hold(containing(b"cache:invalidate"))
    wire, n = w.wire(), w.stat("invalidations")
    wire.command("GET", "k")
    held.wait(b"old")
    read(b, "SET", "k", "new")
    event.wait()
    first, second = (event, held) if order == "event first" else (held, event)
    first.release()
    if first is event:
        w.await_invalidations(1, n)
    second.release()
    w.await_invalidations(1, n)
    assert wire.reply() == b"old"
    assert read(w, "GET", "k") == b"new"


# --- suspect, not lost -----------------------------------------------------------------------------


@pytest.mark.one_worker
def test_no_herd_when_the_link_is_back(world):
    """What was cached is asked for again when it is read, once, and nothing else is."""
    w = world()
    keys = [f"k{i}" for i in range(200)]
    w.direct.mset({f"demo:{key}": key for key in keys})
    wait_until(lambda: w.stat("invalidations") >= 200)  # or they overtake the reads
    read(w, "MGET", *keys)
    wait_until(lambda: w.stat("fills") >= 200)
    opened = w.fault.link.opened
    w.fault.link.cut()
    w.fault.wait(lambda: w.fault.link.opened > opened, "another link")
    w.await_serving("tracking")
    calls = w.direct.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
    held = w.fault.data.replies.hold(reply_to("GET"))
    wires, misses = [w.wire() for _ in range(20)], w.stat("misses")
    for wire in wires:
        wire.command("GET", "k7")
    wait_until(lambda: w.stat("misses") == misses + 20)
    held.release()
    assert [wire.reply() for wire in wires] == [b"k7"] * 20
    assert w.direct.info("commandstats")["cmdstat_get"]["calls"] == calls + 1
