"""The upstream gone, slow, stalled or back; clients that leave; replies that stream."""
import os
import re

import pytest

from conftest import encode, wait_until

UNAVAILABLE = re.compile(r"^NEARCACHE upstream 127\.0\.0\.1:\d+ unavailable: .+")


def test_no_redis_at_start_then_one(redis_server, nearcache):
    server = redis_server()
    server.kill()
    near = nearcache(upstream=server)
    wire = near.wire()
    wait_until(lambda: "start a Redis there" in near.output("stdout"))
    assert wire.call("PING") == "PONG"
    assert UNAVAILABLE.match(str(wire.call("GET", "k")))
    assert b"upstream_state:down" in wire.call("INFO")
    server.start()
    wait_until(lambda: wire.call("SET", "k", "v") == "OK")
    assert wire.call("GET", "k") == b"v"


def test_redis_restarts(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    server.kill()
    wait_until(lambda: UNAVAILABLE.match(str(wire.call("GET", "other"))))
    server.start()
    wait_until(lambda: wire.call("SET", "k", 2) == "OK")
    assert wire.call("GET", "k") == b"2"


def test_requests_in_flight_when_redis_dies_get_errors_in_order(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    server.pause()
    wire.send(encode("INCR", "k") + encode("PING") + encode("GET", "k") + encode("MGET", "k", "l") +
              encode("ECHO", "x"))
    server.kill()
    assert UNAVAILABLE.match(str(wire.reply()))
    assert wire.reply() == "PONG"
    assert UNAVAILABLE.match(str(wire.reply()))
    assert UNAVAILABLE.match(str(wire.reply()))
    assert wire.reply() == b"x"


def test_a_silent_redis_is_a_deadline_not_a_hang(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--set", "upstream.timeout=200ms", "--set", "upstream.connect_timeout=200ms",
                     upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    server.pause()
    assert "no reply within 200 ms" in str(wire.call("GET", "nothing"))
    assert str(wire.call("SET", "k", 2)).startswith("NEARCACHE ")
    server.resume()
    wait_until(lambda: wire.call("SET", "k", 3) == "OK")
    assert wire.call("GET", "k") == b"3"


def test_a_client_that_leaves_costs_nobody_a_byte(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    stays = near.wire()
    for i in range(100):
        stays.call("SET", f"k{i}", f"v{i}" * 50)
    server.client().execute_command("CLIENT", "PAUSE", 300, "ALL")
    for round_ in range(20):
        leaves = near.wire()
        leaves.send(b"".join(encode("GETRANGE", f"k{i}", 0, -1) for i in range(100)))
        stays.send(b"".join(encode("GETRANGE", f"k{i}", 0, -1) for i in range(round_, 100)))
        leaves.close()
    for round_ in range(20):
        for i in range(round_, 100):
            assert stays.reply() == f"v{i}".encode() * 50


def test_a_half_closed_client_gets_what_it_is_owed(redis_server, nearcache):
    import socket
    near = nearcache(upstream=redis_server())
    wire = near.wire()
    wire.send(encode("SET", "k", "v") + encode("GET", "k") + encode("PING"))
    wire.socket.shutdown(socket.SHUT_WR)
    assert [wire.reply() for _ in range(3)] == ["OK", b"v", "PONG"]
    assert wire.at_eof()


def rss_kb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])


@pytest.mark.slow
def test_a_huge_reply_streams(redis_server, nearcache):
    """256 MB pass through without sitting in memory when the client reads."""
    if "asan" in os.environ.get("NEARCACHE_BUILD_DIR", ""):
        pytest.skip("the sanitizer's own memory hides ours")
    server = redis_server()
    size = 256 * 1024 * 1024
    server.client(socket_timeout=60).execute_command("SETRANGE", "demo:huge", size - 1, "x")
    near = nearcache(upstream=server)
    before = rss_kb(near.pid)
    wire = near.wire()
    wire.command("GET", "huge")
    header = wire.file.readline()
    assert header == b"$%d\r\n" % size
    left = size + 2
    while left:
        left -= len(wire.file.read(min(left, 1 << 20)))
    assert wire.call("PING") == "PONG"
    assert rss_kb(near.pid) - before < 48 * 1024


def test_a_slow_reader_does_not_stop_the_others(redis_server, nearcache):
    server = redis_server()
    server.client().execute_command("SETRANGE", "demo:large", 20 * 1024 * 1024, "x")
    near = nearcache(upstream=server)
    slow, quick = near.wire(), near.wire()
    slow.command("GET", "large")  # and reads nothing
    for i in range(100):
        assert quick.call("SET", "k", i) == "OK"
        assert quick.call("GETRANGE", "k", 0, -1) == b"%d" % i
    assert len(slow.reply()) == 20 * 1024 * 1024 + 1


def test_a_reader_that_never_reads_is_disconnected_at_the_limit(redis_server, nearcache):
    server = redis_server()
    server.client().execute_command("SETRANGE", "demo:large", 8 * 1024 * 1024, "x")
    near = nearcache("--set", "client.max_output=16mb", upstream=server)
    stuck, other = near.wire(), near.wire()
    stuck.send(encode("GET", "large") * 30)
    wait_until(lambda: near.client().info("nearcache")["clients_dropped"] == 1, timeout=20)
    assert other.call("PING") == "PONG"


def test_replies_that_wait_for_an_earlier_one_are_bounded(redis_server, nearcache):
    """Hits behind a miss: thousands of large ones in a few bytes of requests."""
    server = redis_server()
    near = nearcache("--set", "client.max_output=16mb", upstream=server)
    wire = near.wire()
    wire.call("SET", "big", "x" * 900000)
    wait_until(lambda: b"serving:1" in wire.call("INFO", "nearcache"))
    wait_until(lambda: wire.call("GET", "big") and
               b"yes" in wire.call("NEARCACHE", "KEY", "big"), timeout=5)
    before = rss_kb(near.pid)
    wire.send(encode("GET", "missing") + encode("GET", "big") * 1000)
    wait_until(lambda: near.client().info("nearcache")["clients_dropped"] == 1)
    if "asan" not in os.environ.get("NEARCACHE_BUILD_DIR", ""):
        assert rss_kb(near.pid) - before < 64 * 1024


def test_one_that_never_reads_does_not_hold_the_others_up(redis_server, nearcache):
    server = redis_server()
    server.client().execute_command("SETRANGE", "demo:large", 1500000, "x")
    near = nearcache(upstream=server)
    stuck, other = near.wire(), near.wire()
    stuck.send(encode("GETRANGE", "large", 0, -1) + encode("GETRANGE", "large", 0, 69999) * 300)
    for i in range(20):
        assert other.call("SET", "k", i) == "OK"


def test_long_and_odd_error_lines_stay_one_line(redis_server, nearcache):
    """A server that refuses with a long text (protected mode's is 900 bytes), and with a lone CR."""
    import socket
    import threading
    listener = socket.create_server(("127.0.0.1", 0))
    answer = b"-DENIED " + b"x" * 600 + b"\rodd\r\n"

    def refuse():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.sendall(answer)
            connection.close()

    threading.Thread(target=refuse, daemon=True).start()
    near = nearcache(upstream="redis://127.0.0.1:%d" % listener.getsockname()[1])
    wire = near.wire()
    for _ in range(5):
        assert str(wire.call("GET", "k")).startswith("NEARCACHE upstream")
        assert wire.call("PING") == "PONG"
        assert b"link_mode" in wire.call("NEARCACHE", "STATS")
    listener.close()


def test_flush_is_refused_in_the_servers_own_words(redis_server, nearcache):
    server = redis_server()
    direct = server.client()
    near = nearcache(upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    direct.execute_command("ACL", "SETUSER", "default", "-info", "-unlink")
    assert "NOPERM" in str(wire.call("FLUSHALL")) and "NOPERM" in str(wire.call("FLUSHDB"))
    assert wire.call("GET", "k") == b"1" and wire.call("PING") == "PONG"


def test_selecting_many_databases_leaves_nothing_behind(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    wire = near.wire()
    for i in range(300):
        assert "out of range" in str(wire.call("SELECT", 1000 + i))
    assert wire.call("SET", "k", "v") == "OK"
    wait_until(lambda: len(os.listdir(f"/proc/{near.pid}/fd")) < 40)


def test_a_request_larger_than_the_limit_is_cut(redis_server, nearcache):
    near = nearcache("--set", "client.max_query=1mb", upstream=redis_server())
    wire = near.wire()
    with pytest.raises((ConnectionError, BrokenPipeError, EOFError)):
        for _ in range(64):
            wire.send(b"*2\r\n$3\r\nGET\r\n$100000000\r\n" if _ == 0 else b"x" * 1000000)
        wire.reply()
    assert near.wire().call("PING") == "PONG"


def test_credentials_belong_to_the_proxy(redis_server, nearcache, tmp_path):
    server = redis_server("--requirepass", "s3cret pass")
    secret = tmp_path / "password"
    secret.write_text("s3cret pass\n")
    near = nearcache("--set", f"upstream.password_file={secret}", upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", "v") == "OK"
    assert wire.call("AUTH", "s3cret pass") == "OK"
    assert "WRONGPASS" in str(wire.call("AUTH", "wrong"))
    assert "s3cret" not in near.output("stderr") + near.output("stdout")


def test_a_wrong_password_is_said(redis_server, nearcache):
    server = redis_server("--requirepass", "right")
    near = nearcache(upstream=f"redis://:wrong@127.0.0.1:{server.port}/0")
    assert "WRONGPASS" in str(wait_until(lambda: near.wire().call("GET", "k")))


def test_clients_must_authenticate_where_it_is_set(redis_server, nearcache):
    near = nearcache("--set", "auth.password=letmein", upstream=redis_server())
    wire = near.wire()
    assert str(wire.call("GET", "k")) == "NOAUTH Authentication required."
    assert str(wire.call("AUTH", "no")) == \
        "WRONGPASS invalid username-password pair or user is disabled."
    assert wire.call("AUTH", "letmein") == "OK"
    assert wire.call("GET", "k") is None
    wire = near.wire()
    assert wire.call("HELLO", "2", "AUTH", "default", "letmein")[4] == b"proto"
    wire = near.wire()
    wire.send(b"*11\r\n")
    assert str(wire.reply()) == "ERR Protocol error: unauthenticated multibulk length"


def test_databases(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    wire = near.wire()
    wire.send(encode("SET", "k", 0) + encode("SELECT", 3) + encode("SET", "k", 3) +
              encode("SELECT", 0) + encode("GET", "k") + encode("SELECT", 99) + encode("GET", "k"))
    replies = [wire.reply() for _ in range(7)]
    assert replies[:5] == ["OK", "OK", "OK", "OK", b"0"]
    assert str(replies[5]) == "ERR DB index is out of range" and replies[6] == b"0"
    assert server.client(db=3).get("demo:k") == b"3"


def test_many_shared_connections_keep_each_clients_order(redis_server, nearcache):
    near = nearcache("--set", "upstream.connections=4", upstream=redis_server())
    wires = [near.wire() for _ in range(12)]
    for i in range(100):
        for wire in wires:
            wire.send(encode("SET", "shared", i) + encode("GET", "shared") + encode("INCR", "n"))
        for wire in wires:
            assert wire.reply() == "OK" and wire.reply() == b"%d" % i and wire.reply() > 0
