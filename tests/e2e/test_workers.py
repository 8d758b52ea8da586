"""Several workers: threads with clients of their own, one L1, and what one says about all."""
import re
import signal
import threading

import pytest

import harness
from conftest import Push, RespError, encode, wait_until

WORKERS = 4
CLIENTS = 40  # the kernel spreads them by chance


@pytest.fixture
def crew(redis_server, nearcache):
    server = redis_server()

    def make(*args, **options):
        near = nearcache("--set", f"workers={WORKERS}", *args, upstream=server, **options)
        near.server = server
        return near
    return make


def stats(near):
    with near.wire() as wire:
        lines = wire.call("INFO", "nearcache").decode().split("\r\n")
    return {name: value for name, _, value in (line.partition(":") for line in lines if ":" in line)}


def test_they_share_one_cache(crew):
    near = crew()
    assert stats(near)["workers"] == str(WORKERS)
    wires = [near.wire() for _ in range(CLIENTS)]
    for i in range(50):
        assert wires[i % CLIENTS].call("SET", f"k{i}", i) == "OK"
        assert wires[0].call("GET", f"k{i}") == b"%d" % i

    def all_hit():
        before = int(stats(near)["hits"])
        for wire in wires:
            wire.send(b"".join(encode("GET", f"k{i}") for i in range(50)))
        for wire in wires:
            assert [wire.reply() for _ in range(50)] == [b"%d" % i for i in range(50)]
        return int(stats(near)["hits"]) - before == 50 * CLIENTS
    wait_until(all_hit)
    assert int(stats(near)["entries"]) == 50


def test_what_one_has_written_all_read(crew):
    """Not only after a while: the cache is one."""
    near = crew()
    wires = [near.wire() for _ in range(CLIENTS)]
    for i in range(300):
        writer, value = wires[i % CLIENTS], b"%d" % i
        assert writer.call("SET", "k", value) == "OK"
        readers = wires[i % 7::7]
        for wire in readers:
            wire.command("GET", "k")
        assert {wire.reply() for wire in readers} == {value}


def test_what_others_write_evicts_for_all(crew):
    near = crew()
    wires, direct = [near.wire() for _ in range(CLIENTS)], near.server.client()
    for i in range(20):
        direct.set("demo:k", i)
        wait_until(lambda: {wire.call("GET", "k") for wire in wires} == {b"%d" % i})


def test_clients_of_all_are_listed_and_killed(crew):
    near = crew()
    wires = [near.wire() for _ in range(CLIENTS)]
    ids = [wire.call("CLIENT", "ID") for wire in wires]
    assert len(set(ids)) == CLIENTS
    listed = wires[3].call("CLIENT", "LIST").decode()
    assert sorted(map(int, re.findall(r"^id=(\d+)", listed, re.M))) == sorted(ids)
    assert stats(near)["clients"] == str(CLIENTS + 1)
    wait_until(lambda: wires[3].call("CLIENT", "LIST").count(b"\n") == CLIENTS)
    assert wires[0].call("CLIENT", "KILL", "TYPE", "normal") == CLIENTS - 1
    assert wires[0].call("PING") == "PONG"
    for wire in wires[1:]:
        assert wire.at_eof()
    wait_until(lambda: stats(near)["clients"] == "2")


def test_a_monitor_sees_what_all_do(crew):
    near = crew()
    monitor, wires = near.wire(), [near.wire() for _ in range(CLIENTS)]
    assert monitor.call("MONITOR") == "OK"
    for i, wire in enumerate(wires):
        wire.call("GET", f"from {i}")
    seen = {monitor.reply().rpartition('"GET" ')[2] for _ in wires}
    assert seen == {f'"from {i}"' for i in range(CLIENTS)}
    for wire in wires:
        wire.send(encode("ECHO", "x" * 1000) * 100)
    for wire in wires:
        assert {wire.reply() for _ in range(100)} == {b"x" * 1000}
    assert all("ECHO" in monitor.reply() for _ in range(100 * CLIENTS))


def test_tracking_is_redirected_to_a_client_elsewhere(crew):
    near = crew()
    direct, target = near.server.client(), near.wire()
    target_id = target.call("CLIENT", "ID")
    target.send(encode("SUBSCRIBE", "__redis__:invalidate"))
    assert target.reply()[0] == b"subscribe"
    for i in range(12):
        with near.wire() as wire:
            assert wire.call("CLIENT", "TRACKING", "ON", "REDIRECT", target_id) == "OK"
            assert wire.call("GET", f"k{i}") is None
            direct.set(f"demo:k{i}", 1)
            assert target.reply() == [b"message", b"__redis__:invalidate", [f"k{i}".encode()]]


def test_a_client_is_unblocked_by_one_elsewhere(crew):
    near = crew()
    for _ in range(8):
        with near.wire() as blocked, near.wire() as other:
            number = blocked.call("CLIENT", "ID")
            blocked.command("BLPOP", "list", 0)
            wait_until(lambda: other.call("CLIENT", "UNBLOCK", number) == 1)
            assert blocked.reply() is None


def test_a_pause_holds_for_all(crew):
    near = crew("--set", "admin_commands=allow")
    wires = [near.wire() for _ in range(CLIENTS)]
    assert wires[0].call("CLIENT", "PAUSE", 60000, "WRITE") == "OK"
    for wire in wires:
        wire.command("SET", "k", 1)
    assert near.server.client().get("demo:k") is None
    assert near.wire().call("CLIENT", "UNPAUSE") == "OK"
    assert {wire.reply() for wire in wires} == {"OK"}


def test_maxclients_counts_all(crew):
    near = crew("--set", "maxclients=10")
    wires = [near.wire() for _ in range(10)]
    assert all(wire.call("PING") == "PONG" for wire in wires)
    extra = [near.wire() for _ in range(5)]
    assert all(isinstance(wire.reply(), RespError) for wire in extra)
    wires[0].close()
    wait_until(lambda: near.wire().call("PING") == "PONG")


def test_unix_sockets(crew, tmp_path):
    near = crew(listen=(f"unix:{tmp_path}/s", "127.0.0.1:0"))
    wires = [near.wire() for _ in range(CLIENTS)]
    assert all(wire.call("PING") == "PONG" for wire in wires)


def test_a_port_that_another_process_has_is_refused(crew, nearcache):
    near = crew()
    with pytest.raises(AssertionError, match="Address already in use"):
        nearcache("--set", "workers=2", upstream=near.server, listen=(f"127.0.0.1:{near.port}",))


def spared(near):
    """The same beside somebody who kills."""
    try:
        return stats(near)
    except (OSError, EOFError):
        return {}


class Busy(threading.Thread):
    """Calls one command after the other until told to stop, or disconnected."""

    def __init__(self, near, *commands):
        super().__init__(daemon=True)
        self.near, self.commands, self.ended, self.n = near, commands, False, 0

    def run(self):
        while not self.ended:
            try:
                with self.near.wire() as wire:
                    for _ in range(20):
                        for command in self.commands:
                            assert not isinstance(wire.call(*command), RespError)
                            self.n += 1
            except (OSError, EOFError, ValueError):
                pass  # killed


def test_everybody_asks_about_everybody(crew):
    """All that has others stand still, at once, beside reads and writes, a reload and a lost link."""
    near = crew()
    busy = [Busy(near, ("CLIENT", "LIST"), ("GET", "k")), Busy(near, ("INFO", "nearcache"), ("SET", "k", 1)),
            Busy(near, ("CLIENT", "KILL", "TYPE", "normal"), ("PING",)), Busy(near, ("MGET", "k", "l"), ("PING",)),
            Busy(near, ("CLIENT", "LIST"), ("NEARCACHE", "FLUSH"), ("MULTI",), ("GET", "k"), ("EXEC",))]
    for one in busy:
        one.start()
    direct = near.server.client()
    for i in range(10):
        near.popen.send_signal(signal.SIGHUP)
        before = [one.n for one in busy]
        direct.client_kill_filter(_type="pubsub")
        wait_until(lambda: all(one.n > n + 50 for one, n in zip(busy, before)))
        wait_until(lambda: spared(near).get("serving") == "1")
    for one in busy:
        one.ended = True
    for one in busy:
        one.join(20)
        assert not one.is_alive()
    wire = near.wire()
    assert wire.call("SET", "k", "end") == "OK" and wire.call("GET", "k") == b"end"


@pytest.mark.parametrize("mode", ["bcast", "optin"])
def test_the_upstream_comes_back(crew, mode):
    """What was kept is not served, by nobody; all are served again."""
    near = crew("--set", f"invalidation.tracking_mode={mode}")
    wires = [near.wire() for _ in range(CLIENTS)]
    for round_ in range(3):
        near.server.client().set("demo:k", round_)
        wait_until(lambda: {wire.call("GET", "k") for wire in wires} == {b"%d" % round_})
        near.server.kill()
        wait_until(lambda: stats(near)["link_mode"] != "tracking")
        near.server.start()
        wait_until(lambda: stats(near)["serving"] == "1")
        wait_until(lambda: not any(isinstance(wire.call("GET", "k"), RespError) for wire in wires))
        assert {wire.call("GET", "k") for wire in wires} == {None}


def test_a_drain_waits_for_all(crew):
    near = crew()
    wires = [near.wire() for _ in range(CLIENTS)]
    for wire in wires:
        wire.send(encode("BLPOP", "none", 0.3) if wire is wires[0] else encode("GETRANGE", "none", 0, -1))
    assert [wire.reply() for wire in wires[1:]] == [b""] * (CLIENTS - 1)
    near.popen.terminate()
    for wire in wires:
        while not wire.at_eof():
            pass
    assert near.popen.wait(10) == 0


def test_a_push_is_not_lost(crew):
    """RESP3 tracking of a client's own, on whatever worker it is."""
    near = crew()
    direct = near.server.client()
    for i in range(8):
        with near.wire() as wire:
            wire.call("HELLO", 3)
            assert wire.call("CLIENT", "TRACKING", "ON") == "OK"
            wire.call("GET", f"p{i}")
            direct.set(f"demo:p{i}", 1)
            assert wire.reply() == Push([b"invalidate", [f"p{i}".encode()]])
