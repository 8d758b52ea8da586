"""Bounds: whatever clients do, what is kept for them has a limit, and others are served meanwhile."""
import re
import resource
import socket

import pytest

from conftest import encode, wait_until
from harness import INSTRUMENTED

MB = 1024 * 1024


def stats(near):
    return near.client().info("nearcache")


def requests(near):
    return stats(near)["upstream_requests"]


def memory(near, what):
    """VmRSS or VmHWM, kB."""
    with open(f"/proc/{near.pid}/status", encoding="ascii") as status:
        return int(re.search(what + r":\s+(\d+)", status.read())[1])


def value(n, seed=1):
    """Bytes that tell their place."""
    block = b"".join(b"%07x\n" % (i * seed & 0xfffffff) for i in range(8192))
    return (block * (n // len(block) + 1))[:n]


# --- unread replies --------------------------------------------------------------------------------


def test_a_client_over_its_soft_limit_is_not_read_from_then_dropped(redis_server, nearcache):
    near = nearcache("--set", "client.soft_output=1mb", "--set", "client.soft_time=300ms", upstream=redis_server())
    stuck, other = near.wire(), near.wire()
    other.call("SET", "k", value(500000))
    for _ in range(40):
        stuck.command("GET", "k")  # and reads nothing
    wait_until(lambda: stats(near)["clients_paused"] == 1)
    assert other.call("GET", "k") == value(500000)
    wait_until(lambda: stats(near)["clients_dropped"] == 1)
    assert "client.soft_output" in near.output("stderr")
    wait_until(lambda: stats(near)["buffer_bytes"] < MB)


def test_a_client_that_catches_up_goes_on(redis_server, nearcache):
    near = nearcache("--set", "client.soft_output=1mb", "--set", "client.soft_time=60s", upstream=redis_server())
    wire = near.wire()
    wire.call("SET", "k", value(500000))
    wire.send(encode("GET", "k") * 40 + encode("PING"))
    wait_until(lambda: stats(near)["clients_paused"] == 1)
    assert [wire.reply() for _ in range(41)] == [value(500000)] * 40 + ["PONG"]
    assert stats(near)["clients_dropped"] == 0


def test_a_pipeline_is_read_before_the_first_reply_is(redis_server, nearcache):
    """A client may send all it has to say before it reads: 200,000 commands are not too many."""
    near = nearcache(upstream=redis_server())
    wire = near.wire(timeout=60)
    n = 20000 if INSTRUMENTED else 200000
    wire.send(b"".join(encode("SET", f"k{i}", i) for i in range(n)))
    wire.send(b"".join(encode("GET", f"k{i}") for i in range(n)))
    assert all(wire.reply() == "OK" for _ in range(n))
    assert all(wire.reply() == b"%d" % i for i in range(n))


@pytest.mark.one_worker
def test_others_do_not_wait_for_all_of_a_deep_pipeline(redis_server, nearcache):
    """They share its connection, but only some of its commands are under way there at a time."""
    redis = redis_server()
    near = nearcache("--set", "l1.max_memory=0", "--set", "upstream.timeout=60s", upstream=redis)
    deep, other = near.wire(timeout=60), near.wire(timeout=60)
    assert other.call("SET", "n", 0) == "OK"
    redis.pause()
    deep.send(encode("INCR", "n") * 20000)
    wait_until(lambda: 1000 < requests(near) == requests(near))
    under_way = requests(near)
    other.send(encode("GET", "n"))
    wait_until(lambda: requests(near) > under_way)
    redis.resume()
    assert int(other.reply()) <= 4096
    assert [deep.reply() for _ in range(20000)] == list(range(1, 20001))


# --- all buffers together --------------------------------------------------------------------------


@pytest.mark.one_worker
def test_the_largest_go_when_buffers_are_exceeded(redis_server, nearcache):
    """Readers that don't read, together more than the budget; the one who holds little is served all
    along."""
    near = nearcache("--set", "memory.max_buffers=16mb", upstream=redis_server())
    good, stuck = near.wire(), [near.wire() for _ in range(12)]
    good.call("SET", "k", value(900000))
    for wire in stuck:
        wire.send(encode("GETRANGE", "k", 0, -1) * 12)
    served = 0
    while stats(near)["clients_evicted"] == 0:
        assert good.call("SET", "small", served) == "OK" and good.call("GET", "small") == b"%d" % served
        served += 1
    wait_until(lambda: stats(near)["buffer_bytes"] < 14 * MB)
    assert good.call("GET", "k") == value(900000)
    assert stats(near)["buffer_bytes_peak"] < 24 * MB
    assert "memory.max_buffers" in near.output("stderr")


@pytest.mark.one_worker
def test_requests_that_are_too_large_together_do_not_block_each_other(redis_server, nearcache):
    """Each of them would fit; none of them is ever finished, and nobody waits for that."""
    near = nearcache("--set", "memory.max_buffers=16mb", upstream=redis_server())
    wires = [near.wire() for _ in range(6)]
    big = value(4 * MB)
    for wire in wires:
        wire.socket.settimeout(0.2)
        try:
            wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % len(big) + big[:-1])
        except (TimeoutError, socket.timeout, ConnectionError):
            pass
    good = near.wire()
    assert good.call("SET", "small", 1) == "OK"
    wait_until(lambda: stats(near)["clients_evicted"] >= 1, timeout=10)
    assert good.call("GET", "small") == b"1"
    for wire in wires:
        wire.close()
    wait_until(lambda: stats(near)["buffer_bytes"] < MB)
    wire = near.wire()
    assert wire.call("SET", "k", big) == "OK" and wire.call("GET", "k") == big


def test_the_limit_is_derived_and_shown(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    assert 16 * MB <= stats(near)["buffer_bytes_limit"] <= 1024 * MB
    near = nearcache("--set", "memory.max_buffers=100mb", upstream=server)
    assert stats(near)["buffer_bytes_limit"] == 100 * MB


# --- large things ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [65535, 65536, 100000, 3 * MB, pytest.param(512 * MB, marks=pytest.mark.slow)])
def test_a_large_value_is_stored_and_read(redis_server, nearcache, size):
    """Without being copied on its way in; what it took comes back."""
    if INSTRUMENTED and size > 100 * MB:
        pytest.skip("the sanitizer's own memory hides ours")
    server = redis_server("--proto-max-bulk-len", "600mb", "--client-query-buffer-limit", "2gb")
    near = nearcache("--set", "upstream.timeout=20s", upstream=server)
    wire, other = near.wire(timeout=60), near.wire()
    data = value(size)
    before = memory(near, "VmRSS")
    wire.send(b"*5\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n" % size)
    for at in range(0, size, 16 * MB):
        wire.send(data[at:at + 16 * MB])
        assert other.call("SET", "small", at) == "OK"
    wire.send(b"\r\n$2\r\nPX\r\n$8\r\n10000000\r\n")
    assert wire.reply() == "OK"
    assert other.call("STRLEN", "big") == size
    if size > 100 * MB:
        assert memory(near, "VmHWM") - before < (size + 96 * MB) // 1024
    assert wire.call("GET", "big") == data
    assert wire.call("GETRANGE", "big", 0, -1) == data
    wait_until(lambda: stats(near)["buffer_bytes"] < MB)
    if not INSTRUMENTED:
        wait_until(lambda: memory(near, "VmRSS") - before < 24 * 1024, timeout=10)


def test_a_large_value_among_small_ones(redis_server, nearcache):
    """Commands before and behind it in the same bytes, and cut anywhere."""
    near = nearcache(upstream=redis_server())
    wire = near.wire()
    data = value(300000)
    text = b"".join(encode("SET", "a", i) + encode("SET", "big", data) + encode("GET", "a") for i in range(5))
    for step in (len(text), 100000, 65536, 65537, 9999):
        for at in range(0, len(text), step):
            wire.send(text[at:at + step])
        for i in range(5):
            assert [wire.reply() for _ in range(3)] == ["OK", "OK", b"%d" % i]
        assert wire.call("GET", "big") == data


@pytest.mark.parametrize("n", [4095, 4096, 5000, pytest.param(1000000, marks=pytest.mark.slow)])
def test_commands_of_very_many_arguments(redis_server, nearcache, n):
    """Those are written bit by bit; what comes behind them waits, what others do does not."""
    if INSTRUMENTED and n > 100000:
        n = 100000
    server = redis_server()
    near = nearcache("--set", "upstream.timeout=20s", upstream=server)
    wire, other = near.wire(timeout=60), near.wire()
    keys = [f"key:{i}" for i in range(n)]
    assert other.call("SET", "key:7", "old") == "OK" and other.call("GET", "key:7") == b"old"
    wire.send(encode("MSET", *[x for key in keys for x in (key, key)]) + encode("GET", "key:7"))
    assert other.call("SET", "small", 1) == "OK"
    assert wire.reply() == "OK" and wire.reply() == b"key:7"
    assert other.call("GET", "key:7") == b"key:7"
    wire.send(encode("MGET", *keys, "none") + encode("PING"))
    assert wire.reply() == [key.encode() for key in keys] + [None] and wire.reply() == "PONG"
    assert server.client().dbsize() == n + 1
    wire.send(encode("DEL", *keys) + encode("GET", "key:7") + encode("DBSIZE"))
    assert [wire.reply() for _ in range(3)] == [n, None, 1]
    assert other.call("GET", "key:7") is None
    wire.send(encode("SADD", "set", *keys) + encode("SCARD", "set"))
    assert wire.reply() == n and wire.reply() == n


def test_a_client_leaves_in_the_middle_of_a_long_command(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    other = near.wire()
    assert other.call("SET", "k", 1) == "OK"
    for _ in range(20):
        wire = near.wire()
        wire.send(encode("MSET", *["x"] * 50000))
        wire.close()
    for i in range(100):
        assert other.call("SET", "k", i) == "OK" and other.call("GET", "k") == b"%d" % i
    wait_until(lambda: stats(near)["buffer_bytes"] < MB)
    wait_until(lambda: b"yes" in other.call("NEARCACHE", "KEY", "k") or other.call("GET", "k") is None)
    near.wire().send(encode("MSET", *["x"] * 50000))  # under way at the end


# --- connections -----------------------------------------------------------------------------------


def test_idle_clients_are_disconnected(redis_server, nearcache):
    near = nearcache("--set", "client.idle_timeout=300ms", upstream=redis_server())
    idle, subscriber, blocked, busy = [near.wire() for _ in range(4)]
    assert idle.call("PING") == "PONG"
    subscriber.call("SUBSCRIBE", "c")
    blocked.command("BLPOP", "k", 0)
    while not stats(near)["clients_idle"]:
        assert busy.call("PING") == "PONG"
    assert idle.at_eof()
    assert busy.call("PUBLISH", "c", "x") == 1 and subscriber.reply()[0] == b"message"
    assert busy.call("RPUSH", "k", "x") == 1 and blocked.reply() == [b"k", b"x"]


def test_out_of_descriptors(redis_server, nearcache):
    """Clients wait in the backlog until there is one again; those who are connected are served."""
    near = nearcache(upstream=redis_server())
    first = near.wire()
    assert first.call("SET", "k", 0) == "OK"
    resource.prlimit(near.pid, resource.RLIMIT_NOFILE, (40, 40))
    wires = [near.wire() for _ in range(60)]
    wait_until(lambda: "accept_failed" in near.output("stderr"))
    wires[-1].command("PING")
    assert first.call("SET", "k", 1) == "OK"
    for wire in wires[:-1]:
        wire.close()
    assert wires[-1].reply() == "PONG"


def test_fewer_clients_where_there_are_fewer_descriptors(redis_server, nearcache):
    server = redis_server()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    near = nearcache("--set", "upstream.sessions=100", upstream=server)
    assert near.wire().call("PING") == "PONG"
    assert soft <= hard and "maxclients_reduced" not in near.output("stderr") or hard < 10164
