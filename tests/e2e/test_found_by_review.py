"""What reviews of the data path have found: each was another client's reply, a lost write, or no bound."""
import socket
import threading
import time

import pytest

from conftest import encode, wait_until

MB = 1024 * 1024


def stats(near):
    return near.client().info("nearcache")


class Sender(threading.Thread):
    """Sends what may be taken only in part, until the connection ends or all is sent."""

    def __init__(self, wire, data):
        super().__init__(daemon=True)
        self.wire, self.data = wire, data
        self.start()

    def run(self):
        try:
            self.wire.send(self.data)
        except OSError:
            pass


def wait_until_at_rest(near):
    """What is kept for clients is much, and no longer changes."""
    seen = []

    def rests():
        seen.append(stats(near)["buffer_bytes"])
        return seen[-1] > MB and len(seen) > 10 and len(set(seen[-10:])) == 1
    wait_until(rests)


# --- bounds ----------------------------------------------------------------------------------------


@pytest.fixture
def held(redis_server, nearcache):
    """A nearcache whose server stands still, with the key `hit` in its L1."""
    server = redis_server()
    near = nearcache("--set", "upstream.timeout=60s", "--set", "breaker.timeouts=1000", upstream=server)
    near.server = server
    wire = near.wire()
    assert wire.call("SET", "hit", "here") == "OK"
    wait_until(lambda: wire.call("GET", "hit") == b"here" and stats(near)["hits"] > 0)
    server.pause()
    yield near
    server.resume()


@pytest.mark.one_worker
def test_short_answers_behind_a_slow_one_share_their_memory(held):
    wire = held.wire(timeout=60)
    before = stats(held)["hits"]
    wire.send(encode("GET", "miss") + encode("GET", "hit") * 10000)
    wait_until(lambda: stats(held)["hits"] == before + 10000)
    assert stats(held)["buffer_bytes_peak"] < 2 * MB
    held.server.resume()
    assert wire.reply() is None
    assert all(wire.reply() == b"here" for _ in range(10000))


@pytest.mark.one_worker
def test_what_answers_take_up_between_slow_ones_is_bounded(held):
    wire = held.wire(timeout=60)
    n = 4000
    Sender(wire, b"".join(encode("GET", f"miss{i}") + encode("NOSUCH") for i in range(n)))
    wait_until_at_rest(held)
    assert stats(held)["buffer_bytes_peak"] < 16 * MB
    held.server.resume()
    replies = [wire.reply() for _ in range(2 * n)]
    assert replies[::2] == [None] * n and all("unknown command" in str(reply) for reply in replies[1::2])


@pytest.mark.one_worker
@pytest.mark.parametrize("command", [["SCAN", 0, "MATCH"], ["CONFIG", "GET"], ["PUBSUB", "NUMSUB"], ["INFO"], ["SET", "k"]],
                         ids=lambda command: command[0])
def test_large_arguments_count_whatever_the_command(held, command):
    wire = held.wire(timeout=60)
    n = 60
    Sender(wire, encode(*command, b"x" * (MB // 2)) * n)
    wait_until_at_rest(held)
    assert stats(held)["buffer_bytes_peak"] < 16 * MB
    held.server.resume()
    for _ in range(n):
        wire.reply()
    assert wire.call("PING") == "PONG"


@pytest.mark.one_worker
def test_messages_of_monitor_count_behind_a_reply_that_is_not_read(redis_server, nearcache):
    near = nearcache("--set", "client.max_output=16mb", upstream=redis_server())
    monitor, other = near.wire(), near.wire()
    other.call("SET", "big", b"x" * (8 * MB))
    assert monitor.call("MONITOR") == "OK"
    monitor.send(encode("WATCH", "k") + encode("GET", "big"))  # on a connection of its own: held back, no time-out

    def is_dropped():
        assert other.call("ECHO", b"y" * 500000) == b"y" * 500000
        return stats(near)["clients_dropped"] == 1
    wait_until(is_dropped)


@pytest.mark.one_worker
def test_what_multi_copies_counts(redis_server, nearcache):
    near = nearcache("--set", "memory.max_buffers=16mb", upstream=redis_server())
    wire = near.wire()
    assert wire.call("MULTI") == "OK"
    Sender(wire, encode("NEARCACHE", "KEY", b"x" * 500000) * 100)
    wait_until(lambda: stats(near)["clients_evicted"] == 1)
    assert stats(near)["buffer_bytes_peak"] < 32 * MB
    wait_until(lambda: stats(near)["buffer_bytes"] < MB)


# --- order -----------------------------------------------------------------------------------------


def test_a_question_of_the_proxys_own_does_not_change_a_clients_order(redis_server, nearcache):
    """INFO is asked in RESP2 on another connection than the one that a client in RESP3 uses."""
    server = redis_server()
    near = nearcache(upstream=server)
    for i in range(5):
        wire = near.wire()
        wire.call("HELLO", 3)
        wire.send(encode("SET", "k", b"x" * 7900000) + encode("INFO", "server") + encode("STRLEN", "k") +
                  encode("SET", "k", f"last{i}"))
        assert wire.reply() == "OK" and b"redis_version" in wire.reply()
        assert wire.reply() == 7900000 and wire.reply() == "OK"
        assert server.client().get("demo:k") == b"last%d" % i


def test_a_client_in_resp3_is_shown_its_own_settings(redis_server, nearcache):
    near = nearcache("--set", "admin_commands=allow", "--set", "channels.namespace=true", upstream=redis_server())
    wire = near.wire()
    wire.call("HELLO", 3)
    wire.send(b"".join(encode("CONFIG", "SET", "maxmemory", i) + encode("INFO", "memory") +
                       encode("CONFIG", "SET", "maxmemory", 0) for i in range(10 * MB, 10 * MB + 20)))
    for i in range(10 * MB, 10 * MB + 20):
        assert wire.reply() == "OK"
        assert b"\r\nmaxmemory:%d\r\n" % i in wire.reply()
        assert wire.reply() == "OK"


def test_commands_of_the_proxys_own_come_in_their_turn(redis_server, nearcache):
    server = redis_server()
    sides = [server, nearcache(upstream=server)]
    answers = []
    for side in sides:
        one, other = side.wire(), side.wire()
        one.send(encode("MULTI") + encode("CLIENT", "SETNAME", "abc") + encode("EXEC") + encode("CLIENT", "GETNAME") +
                 encode("MULTI") + encode("CLIENT", "REPLY", "OFF") + encode("EXEC") + encode("CLIENT", "REPLY", "ON") +
                 encode("PING") + encode("MULTI") + encode("HELLO", 3) + encode("EXEC") + encode("CLIENT", "SETNAME", "") +
                 encode("CLIENT", "GETNAME") + encode("ECHO", "end"))
        got = []
        while not got or got[-1] != b"end":
            got.append(one.reply())
        hello = got[-4][0]
        got[-4] = hello[b"proto"] if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2]))[b"proto"]
        ident = other.call("CLIENT", "ID")
        one.send(encode("BLPOP", "nothing", 0) + encode("CLIENT", "KILL", "ID", ident))
        assert other.call("PING") == "PONG"
        server.client().rpush("nothing" if side is server else "demo:nothing", 1)
        assert one.reply() == [b"nothing", b"1"] and one.reply() == 1 and other.at_eof()
        answers.append(got)
    assert answers[0] == answers[1]


def test_monitor_begins_in_its_turn(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    monitor, other = near.wire(), near.wire()
    monitor.send(encode("BLPOP", "q", 0) + encode("MONITOR"))
    wait_until(lambda: server.client().info("clients")["blocked_clients"] == 1)
    assert other.call("GET", "seen too early") is None
    assert other.call("RPUSH", "q", 1) == 1
    assert monitor.reply() == [b"q", b"1"] and monitor.reply() == "OK"
    assert other.call("GET", "seen") is None
    assert monitor.reply().endswith('"GET" "seen"')


# --- states of connections -------------------------------------------------------------------------


def test_a_refused_end_of_a_transaction_stays_its_own_clients(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    server.client().acl_setuser("default", enabled=True, commands=["-discard", "-unwatch"])
    one, two = near.wire(), near.wire()
    assert [one.call("MULTI"), one.call("SET", "k", 1)] == ["OK", "QUEUED"]
    assert str(one.call("DISCARD")).startswith("NOPERM")
    assert two.call("WATCH", "w") == "OK" and str(two.call("UNWATCH")).startswith("NOPERM")
    assert near.wire().call("SET", "w", 1) == "OK"
    for _ in range(3):
        other = near.wire()
        assert other.call("EVAL", "return 42", 0) == 42
        assert [other.call("MULTI"), other.call("INCR", "n"), other.call("DISCARD").args[0][:6]] == ["OK", "QUEUED", "NOPERM"]
    server.client().acl_setuser("default", enabled=True, commands=["+discard", "+unwatch"])
    other = near.wire()
    assert [other.call("MULTI"), other.call("PING"), other.call("EXEC")] == ["OK", "QUEUED", ["PONG"]]


def test_a_redirect_while_the_breaker_is_open_leaves_the_other_client_alone(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--set", "upstream.session_wait=200ms", upstream=server)
    one, other = near.wire(), near.wire()
    ident = other.call("CLIENT", "ID")
    assert other.call("SET", "k", 1) == "OK"
    server.stop()
    wait_until(lambda: "circuit open" in str(one.call("SET", "z", 1)))
    assert str(one.call("CLIENT", "TRACKING", "ON", "REDIRECT", ident)).startswith("NEARCACHE")
    server.start()
    wait_until(lambda: one.call("SET", "k", 2) == "OK")
    assert other.call("SET", "k", 3) == "OK" and other.call("GET", "k") == b"3"


@pytest.mark.one_worker
def test_who_got_a_connection_waits_anew(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--set", "upstream.sessions=1", "--set", "upstream.session_wait=500ms", upstream=server)
    holder, one, other, direct = near.wire(), near.wire(), near.wire(), server.client()
    assert holder.call("MULTI") == "OK"
    begun = time.monotonic()
    one.send(encode("BLPOP", "r", 0) + encode("DBSIZE") + encode("EVAL", "return 7", 0))
    assert near.wire().call("PING") == "PONG"  # it waits
    assert holder.call("EXEC") == []
    wait_until(lambda: direct.info("clients")["blocked_clients"] == 1)
    wait_until(lambda: time.monotonic() - begun > 0.6)  # longer than session_wait since it arrived
    other.send(encode("BLPOP", "s", 0))
    assert near.wire().call("PING") == "PONG"
    direct.rpush("demo:r", 1)
    assert one.reply() == [b"r", b"1"]
    one.reply()
    wait_until(lambda: direct.info("clients")["blocked_clients"] == 1)
    direct.rpush("demo:s", 1)
    assert other.reply() == [b"s", b"1"]
    assert one.reply() == 7


def test_a_reply_that_is_on_its_way_is_delivered_to_who_has_half_closed(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    direct = server.client()
    for i in range(50):
        direct.rpush("demo:q", i)
        wire = near.wire()
        wire.command("BLPOP", "q", 0)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.reply() == [b"q", b"%d" % i] and wire.at_eof()


def test_who_half_closes_while_it_blocks_is_ended_and_takes_nothing(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    direct = server.client()
    wire = near.wire()
    wire.command("BLPOP", "q", 0)
    wait_until(lambda: direct.info("clients")["blocked_clients"] == 1)
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.at_eof()
    wait_until(lambda: direct.info("clients")["blocked_clients"] == 0)
    assert direct.rpush("demo:q", 1) == 1 and direct.llen("demo:q") == 1
    wait_until(lambda: stats(near)["sessions"] == 0)


def test_what_a_replica_says_is_refused(redis_server, nearcache):
    """REPLCONF ACK and GETACK have no reply: all later ones on the shared connection would be shifted."""
    near = nearcache("--set", "admin_commands=allow", upstream=redis_server())
    wire = near.wire()
    for command in (["REPLCONF", "ACK", 0], ["REPLCONF", "GETACK", "*"], ["SYNC"], ["PSYNC", "?", -1]):
        assert str(wire.call(*command)).startswith("NOPERM")
    assert wire.call("ECHO", "x") == b"x"


def test_functions_of_all_are_not_flushed_by_another_name(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    library = "#!lua name=other\nredis.register_function('f', function() return 1 end)"
    server.client().function_load(library)
    dump = server.client().function_dump()
    wire = near.wire()
    assert str(wire.call("FUNCTION", "RESTORE", dump, "FLUSH")).startswith("NOPERM")
    assert wire.call("FUNCTION", "RESTORE", dump, "REPLACE") == "OK"
