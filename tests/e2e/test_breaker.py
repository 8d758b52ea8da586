"""Deadlines and the circuit breaker: an upstream that is slow, silent, gone, back, or not what it was."""
import re
import signal
import socket
import time

import pytest

from conftest import encode, wait_until

TIMEOUT = re.compile(r"^NEARCACHE timeout: upstream 127\.0\.0\.1:\d+: no reply within \d+ ms$")
OPEN = re.compile(r"^NEARCACHE upstream .+ unavailable: .+ \(circuit (open, next probe in \d+ ms|"
                  r"half-open, it is being probed)\)$")


def stats(near):
    return near.client().info("nearcache")


def state(near):
    return stats(near)["breaker_state"]


def text(reply):
    return str(reply)


@pytest.fixture
def quick(redis_server, nearcache):
    """A nearcache with short deadlines; its server is at .server."""
    def make(*options):
        server = redis_server("--enable-debug-command", "yes")
        near = nearcache("--set", "upstream.timeout=200ms", "--set", "upstream.connect_timeout=200ms",
                         "--set", "upstream.handshake_timeout=200ms", *options, upstream=server)
        near.server = server
        wait_until(lambda: stats(near)["serving"] == 1)
        return near
    return make


# --- deadlines -------------------------------------------------------------------------------------


class Scripted:
    """A server that says what the test says, on the first data connection; others are closed."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "redis://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.socket, self.heard = None, b""

    def accept(self):
        while not self.socket:
            connection, _ = self.listener.accept()
            connection.settimeout(10)
            if b"HELLO" in connection.recv(4096):
                connection.sendall(b"*2\r\n$2\r\nid\r\n:1\r\n")
                self.socket = connection
            else:
                connection.close()

    def expect(self, words):
        while words not in self.heard:
            more = self.socket.recv(65536)
            assert more, f"closed; heard {self.heard!r}"
            self.heard += more
        self.heard = self.heard[self.heard.index(words) + len(words):]

    def say(self, data):
        self.socket.sendall(data)


@pytest.fixture
def scripted():
    server = Scripted()
    yield server
    server.listener.close()
    if server.socket:
        server.socket.close()


@pytest.mark.one_worker
@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
def test_a_late_reply_is_nobodys(nearcache, scripted, leaves):
    """Behind a reply that comes slowly others are late: they are told so in time. What comes for them yet
    is not taken for what was asked after, by them or by others."""
    near = nearcache("--set", "upstream.timeout=300ms", "--set", "breaker.timeouts=0",
                     "--set", "breaker.error_rate=0", "--set", "invalidation.publish=off",
                     upstream=scripted.url)
    scripted.accept()
    slow, late = near.wire(), near.wire()
    slow.command("GETRANGE", "big", 0, -1)
    scripted.expect(b"demo:big")
    scripted.say(b"$1000\r\n")
    late.send(encode("INCR", "n") + encode("ECHO", "here") + encode("GETRANGE", "x", 0, -1) + encode("GET", "y"))
    scripted.expect(b"demo:y")
    sent = [0]

    def told():
        scripted.say(b"b")
        sent[0] += 1
        return stats(near)["upstream_timeouts"] == 4
    wait_until(told)
    assert TIMEOUT.match(text(late.reply())) and late.reply() == b"here"  # ECHO is answered here then
    assert TIMEOUT.match(text(late.reply())) and TIMEOUT.match(text(late.reply()))
    if leaves:
        late.close()
        late = near.wire()
    scripted.say(b"b" * (1000 - sent[0]) + b"\r\n")
    assert slow.reply() == b"b" * 1000
    late.command("GETRANGE", "z", 0, -1)
    scripted.expect(b"demo:z")
    scripted.say(b":1\r\n$5\r\nthere\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\nz\r\n")
    assert late.reply() == b"z"
    assert stats(near)["upstream_pending"] == 0


def test_each_request_has_its_own_deadline(quick):
    near = quick("--set", "breaker.timeouts=0", "--set", "breaker.error_rate=0")
    wire, other = near.wire(), near.wire()
    near.server.pause()
    wire.command("INCR", "n")
    assert TIMEOUT.match(text(wire.reply()))
    other.command("INCR", "n")
    assert text(other.reply()).startswith("NEARCACHE ")
    near.server.resume()
    wait_until(lambda: wire.call("SET", "k", "v") == "OK")
    assert wire.call("GET", "k") == b"v"
    assert stats(near)["upstream_timeouts"] >= 1


def test_a_write_that_was_late_is_not_forgotten(quick):
    """It may have been done yet: what the L1 holds of its key is not what was before."""
    near = quick("--set", "breaker.timeouts=0", "--set", "breaker.error_rate=0",
                 "--set", "invalidation.tracking=off", "--set", "invalidation.publish=off")
    wire = near.wire()
    assert wire.call("SET", "k", "old") == "OK"
    wait_until(lambda: wire.call("GET", "k") == b"old" and b"yes" in wire.call("NEARCACHE", "KEY", "k"))
    near.server.pause()
    wire.command("SET", "k", "new")
    assert TIMEOUT.match(text(wire.reply()))
    near.server.resume()
    wait_until(lambda: wire.call("GET", "k") == b"new")


def test_blocked_clients_have_no_deadline(quick):
    near = quick()
    wire, other = near.wire(), near.wire()
    wire.command("BLPOP", "k", 0)
    begin = time.monotonic()
    while time.monotonic() < begin + 0.5:
        assert other.call("INCR", "n") > 0
    assert other.call("RPUSH", "k", "x") == 1 and wire.reply() == [b"k", b"x"]


def test_nor_for_ever_if_the_server_is_frozen(quick):
    """It neither closes its connections nor says anything on any of them."""
    near = quick("--set", "upstream.scan_timeout=500ms")
    blocked, script = near.wire(), near.wire()
    blocked.command("BLPOP", "k", 0)
    assert script.call("EVAL", "return 1", 0) == 1
    wait_until(lambda: near.server.client().info("clients")["blocked_clients"] == 1)
    near.server.pause()
    script.command("EVAL", "return 2", 0)
    assert "no sign of life within 500 ms" in text(blocked.reply())
    assert text(script.reply()).startswith("NEARCACHE ")
    near.server.resume()


# --- the breaker -----------------------------------------------------------------------------------


@pytest.mark.one_worker
def test_timeouts_in_a_row_open_it(quick):
    near = quick("--set", "breaker.timeouts=3")
    wires = [near.wire() for _ in range(4)]
    near.server.pause()
    for wire in wires:
        wire.command("INCR", "n")
    assert all(text(wire.reply()).startswith("NEARCACHE ") for wire in wires)
    wait_until(lambda: state(near) in ("open", "half-open"))
    said = stats(near)
    assert said["breaker_opened"] == 1 and "no reply within 200 ms" in said["breaker_last_reason"]
    assert OPEN.match(text(wires[0].call("INCR", "n")))
    assert OPEN.match(text(wires[0].call("BLPOP", "n", 0)))
    assert OPEN.match(text(wires[0].call("EVAL", "return 1", 0)))
    assert wires[0].call("PING") == "PONG"  # asks how we are, if there is no other
    assert OPEN.match(text(wires[1].call("MULTI"))) and wires[1].at_eof()
    near.server.resume()
    wait_until(lambda: state(near) == "closed")
    assert wires[0].call("SET", "k", 1) == "OK"
    assert wires[0].call("BLPOP", "nothing", 0.01) is None
    log = near.output("stderr")
    assert log.count("event=breaker_opened") == 1 and log.count("event=breaker_closed") == 1


def test_one_slow_request_does_not_open_it(quick):
    near = quick()
    wire, sleeper = near.wire(), near.server.wire()
    assert wire.call("SET", "n", 1) == "OK"
    sleeper.command("DEBUG", "SLEEP", 0.3)
    wait_until(lambda: text(wire.call("INCR", "n")).startswith("NEARCACHE timeout: "))
    wait_until(lambda: wire.call("SET", "k", 1) == "OK")
    assert stats(near)["breaker_opened"] == 0


def test_a_server_that_is_not_there(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--set", "breaker.open_max=200ms", upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    server.kill()
    wait_until(lambda: OPEN.match(text(wire.call("SET", "k", 2))))
    wait_until(lambda: "Connection refused" in stats(near)["breaker_last_reason"])
    server.start()
    wait_until(lambda: wire.call("SET", "k", 3) == "OK")
    assert state(near) == "closed"


def test_hits_go_on_while_the_lease_holds(quick):
    near = quick("--set", "invalidation.lease=60s", "--set", "breaker.timeouts=1")
    wire = near.wire()
    assert wire.call("SET", "k", "v") == "OK"
    wait_until(lambda: wire.call("GET", "k") == b"v" and b"yes" in wire.call("NEARCACHE", "KEY", "k"))
    near.server.pause()
    assert text(wire.call("INCR", "n")).startswith("NEARCACHE ")
    wait_until(lambda: state(near) != "closed")
    assert wire.call("GET", "k") == b"v"
    near.server.resume()


# --- stale replies ---------------------------------------------------------------------------------


def kept(near, wire, *keys):
    wait_until(lambda: [wire.call("GET", key) for key in keys] and
               all(b"yes" in wire.call("NEARCACHE", "KEY", key) for key in keys))


def test_stale_if_error(quick):
    """Only these keys, only while the breaker is open, only for so long; and counted apart."""
    near = quick("--set", "breaker.timeouts=1", "--set", "l1.stale_if_error=user:*", "--set", "l1.max_stale=60s")
    wire, three = near.wire(), near.wire()
    three.call("HELLO", 3)
    wire.call("MSET", "user:1", "a", "user:2", "b", "other", "c")
    wire.call("SET", "user:gone", "x", "PX", 400)
    kept(near, wire, "user:1", "user:2", "other", "user:nil")
    wire.call("GET", "user:gone")
    near.server.kill()
    wait_until(lambda: state(near) == "open" and stats(near)["serving"] == 0)
    assert wire.call("GET", "user:1") == b"a" and three.call("GET", "user:nil") is None
    assert wire.call("MGET", "user:1", "user:nil", "user:2") == [b"a", None, b"b"]
    assert OPEN.match(text(wire.call("MGET", "user:1", "other")))
    assert OPEN.match(text(wire.call("GET", "other"))) and OPEN.match(text(wire.call("GET", "user:9")))
    assert OPEN.match(text(wire.call("STRLEN", "user:1")))  # a read that was not asked for before
    wait_until(lambda: OPEN.match(text(wire.call("GET", "user:gone"))), timeout=2)  # its own end
    said = stats(near)
    assert said["stale_hits"] >= 5
    near.server.start()
    wait_until(lambda: wire.call("SET", "user:1", "new") == "OK")
    assert wire.call("GET", "user:1") == b"new" and wire.call("GET", "user:2") is None
    before = stats(near)["stale_hits"]
    assert wire.call("GET", "user:1") == b"new" and stats(near)["stale_hits"] == before


def test_what_is_older_than_its_ttl_is_stale_too(quick):
    near = quick("--set", "breaker.timeouts=1", "--set", "l1.stale_if_error=*", "--set", "l1.ttl=300ms",
                 "--set", "l1.max_stale=60s")
    wire = near.wire()
    wire.call("SET", "k", "v")
    kept(near, wire, "k")
    wait_until(lambda: b"older than l1.ttl" in wire.call_raw("NEARCACHE", "KEY", "k"))
    near.server.kill()
    wait_until(lambda: state(near) == "open")
    assert wire.call("GET", "k") == b"v"


def test_stale_has_an_end(quick):
    near = quick("--set", "breaker.timeouts=1", "--set", "l1.stale_if_error=*", "--set", "l1.max_stale=700ms")
    wire = near.wire()
    wire.call("SET", "k", "v")
    kept(near, wire, "k")
    near.server.kill()
    wait_until(lambda: state(near) == "open")
    assert wire.call("GET", "k") == b"v"
    wait_until(lambda: OPEN.match(text(wire.call("GET", "k"))), timeout=3)


def test_nothing_is_stale_unless_told_so(quick):
    near = quick("--set", "breaker.timeouts=1")
    wire = near.wire()
    wire.call("SET", "k", "v")
    kept(near, wire, "k")
    near.server.kill()
    wait_until(lambda: state(near) == "open" and stats(near)["serving"] == 0)
    assert OPEN.match(text(wire.call("GET", "k"))) and stats(near)["stale_hits"] == 0


# --- another server, another role ------------------------------------------------------------------


def test_readonly_has_it_connect_anew(redis_server, nearcache):
    """The address leads to a replica; then it is promoted."""
    server = redis_server()
    near = nearcache(upstream=server)
    wire, direct = near.wire(), server.client()
    assert wire.call("SET", "k", 1) == "OK"
    direct.execute_command("REPLICAOF", "127.0.0.1", 1)
    before = stats(near)["upstream_connects"]
    assert text(wire.call("SET", "k", 2)).startswith("READONLY ")
    wait_until(lambda: stats(near)["upstream_connects"] > before)
    assert near.output("stderr").count("event=upstream_readonly") == 1
    for _ in range(20):  # it may be meant so: no storm
        assert text(wire.call("SET", "k", 2)).startswith("READONLY ")
    assert near.output("stderr").count("event=upstream_readonly") == 1
    direct.execute_command("REPLICAOF", "NO", "ONE")
    assert wire.call("SET", "k", 3) == "OK"
    wait_until(lambda: wire.call("GET", "k") == b"3")


def test_the_servers_own_clients_limit(redis_server, nearcache):
    server = redis_server("--maxclients", "6")
    near = nearcache(upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    blocked = [near.wire() for _ in range(8)]
    for other in blocked:
        other.command("BLPOP", "list", 0)
    said = [text(other.reply()) for other in blocked[6:]]
    assert all("max number of clients reached" in reply for reply in said[-1:])
    assert wire.call("GET", "k") == b"1" and wire.call("SET", "k", 2) == "OK"
    assert state(near) == "closed"


def test_a_server_that_is_loading_says_so_itself(redis_server, nearcache, tmp_path):
    server = redis_server("--enable-debug-command", "yes", "--key-load-delay", "200",
                          "--loading-process-events-interval-bytes", "1024")
    direct = server.client()
    direct.execute_command("DEBUG", "POPULATE", 5000, "demo:x", 10)
    direct.execute_command("SAVE")
    near = nearcache(upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    loader = server.wire(timeout=30)
    loader.command("DEBUG", "RELOAD", "NOSAVE")
    wait_until(lambda: text(wire.call("SET", "k", 2)).startswith("LOADING "))
    assert loader.reply() == "OK"
    wait_until(lambda: wire.call("SET", "k", 3) == "OK")
    assert stats(near)["breaker_opened"] == 0


def test_moved_by_a_reload(redis_server, nearcache, tmp_path):
    """Another address and another password, without a restart; what was kept is of another server."""
    import json
    one, two = redis_server(), redis_server("--requirepass", "secret")
    config = tmp_path / "config.json"

    def say(**upstream):
        config.write_text(json.dumps({"upstream": upstream}))
    say(url=one.url)
    near = nearcache("--config", str(config))
    wire = near.wire()
    assert wire.call("SET", "k", "one") == "OK"
    kept(near, wire, "k")
    say(url=two.url, password="secret")
    near.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: wire.call("GET", "k") is None)
    assert wire.call("SET", "k", "two") == "OK"
    assert two.client(password="secret").get("demo:k") == b"two" and one.client().get("demo:k") == b"one"
    wait_until(lambda: one.client().info("clients")["connected_clients"] == 1)
    say(url=two.url.replace("/0", "/3"), password="secret")
    near.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: "another database" in near.output("stderr"))
    assert wire.call("GET", "k") == b"two"
    assert "secret" not in near.output("stderr")
