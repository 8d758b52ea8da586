"""Sessions: transactions, blocking commands, scripts; what happens to them when somebody leaves."""
import os
import random
import re
import signal
import socket
import time

import pytest

from conftest import encode, wait_until

UNAVAILABLE = re.compile(r"^NEARCACHE upstream .+ unavailable: ")


@pytest.fixture(scope="module")
def pair(module_redis_server, module_nearcache):
    """A bare Redis, and a nearcache in front of another one."""
    bare = module_redis_server()
    server = module_redis_server()
    near = module_nearcache(upstream=server)
    near.server = server
    return bare, near


@pytest.fixture
def wires(pair):
    """Connections to both, with nothing in them; whatever else is opened ends with the test."""
    bare, near = pair
    bare.client().flushall()
    near.server.client().flushall()
    yield bare.wire(), near.wire()
    for process in (bare, near, near.server):
        while process.wires:
            process.wires.pop().close()


@pytest.fixture
def stack(redis_server, nearcache):
    """A server and a nearcache of its own; `make` takes nearcache's arguments."""
    server = redis_server()

    def make(*args):
        near = nearcache(*args, upstream=server)
        near.server = server
        return near
    return make


def same(wires, *commands):
    """Both answer with the same bytes; returns the parsed replies."""
    bare, near = wires
    replies = []
    for command in commands:
        expected = bare.call_raw(*command)
        near.command(*command)
        raw, reply = near._read()
        assert raw == expected, command
        replies.append(reply)
    return replies


def blocked(server):
    return server.client().info("clients")["blocked_clients"]


def stats(near):
    return near.client().info("nearcache")


def await_l1(near):
    wait_until(lambda: stats(near)["serving"] == 1, what="a live link")


def is_cached(near, key):
    reply = near.client().execute_command("NEARCACHE", "KEY", key)
    return dict(zip(reply[::2], reply[1::2]))[b"cached"] == b"yes"


# --- transactions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("commands", [
    [["MULTI"], ["SET", "k", 1], ["INCR", "k"], ["GET", "k"], ["EXEC"], ["GET", "k"]],
    [["MULTI"], ["EXEC"]],
    [["MULTI"], ["SET", "k", 1], ["DISCARD"], ["GET", "k"]],
    [["EXEC"], ["DISCARD"], ["UNWATCH"], ["GET", "k"]],
    [["MULTI"], ["MULTI"], ["SET", "k", 1], ["EXEC"], ["GET", "k"]],
    [["MULTI"], ["WATCH", "k"], ["SET", "k", 1], ["EXEC"], ["GET", "k"]],
    [["WATCH", "k"], ["SET", "k", 1], ["MULTI"], ["INCR", "k"], ["EXEC"], ["GET", "k"]],
    [["WATCH", "k"], ["SET", "k", 1], ["UNWATCH"], ["MULTI"], ["INCR", "k"], ["EXEC"]],
    [["WATCH", "k", "l"], ["MULTI"], ["UNWATCH"], ["GET", "k"], ["EXEC"]],
    [["WATCH", "k"], ["EXEC"], ["SET", "k", 1], ["MULTI"], ["PING"], ["EXEC"]],
    [["MULTI"], ["NOSUCH", "a", "b"], ["SET", "k", 1], ["EXEC"], ["GET", "k"]],
    [["MULTI"], ["GET"], ["SET", "k", 1], ["EXEC"], ["GET", "k"]],
    [["MULTI"], ["OBJECT", "NOSUCH"], ["EXEC"]],
    [["MULTI"], ["CLIENT", "NOSUCH"], ["EXEC"]],
    [["SET", "k", "x"], ["MULTI"], ["INCR", "k"], ["LPUSH", "k", 1], ["SET", "k", 2], ["EXEC"],
     ["GET", "k"]],
    [["MULTI"], ["BLPOP", "k", 0], ["BLMOVE", "k", "l", "LEFT", "LEFT", 0], ["BZPOPMIN", "z", 0],
     ["XREAD", "BLOCK", 0, "STREAMS", "s", "$"], ["BLMPOP", 0, 1, "k", "LEFT"],
     ["BRPOPLPUSH", "k", "l", 0], ["WAIT", 1, 0], ["EXEC"]],
    [["RPUSH", "k", 1, 2], ["MULTI"], ["BLPOP", "k", 0], ["LMPOP", 1, "k", "LEFT"], ["EXEC"]],
    [["MULTI"], ["PING"], ["ECHO", "x"], ["CLIENT", "SETNAME", "me"], ["CLIENT", "GETNAME"],
     ["SET", "k", 1], ["CLIENT", "GETREDIR"], ["EXEC"], ["CLIENT", "GETNAME"]],
    [["MULTI"], ["SELECT", 1], ["SET", "k", "one"], ["EXEC"], ["GET", "k"], ["SELECT", 0],
     ["GET", "k"]],
    [["MULTI"], ["SELECT", 99], ["SET", "k", "zero"], ["EXEC"], ["GET", "k"]],
    [["MULTI"], ["SELECT", 1], ["DISCARD"], ["SET", "k", "zero"], ["SELECT", 1], ["GET", "k"],
     ["SELECT", 0]],
    [["SELECT", 3], ["MULTI"], ["SET", "k", "three"], ["EXEC"], ["SELECT", 0], ["GET", "k"]],
    [["MSET", "a", 1, "b", 2], ["MULTI"], ["KEYS", "a"], ["DBSIZE"], ["SCAN", 0, "MATCH", "b"],
     ["FLUSHDB"], ["DBSIZE"], ["RANDOMKEY"], ["SET", "c", 1], ["RANDOMKEY"], ["FLUSHALL"],
     ["KEYS", "*"], ["EXEC"], ["DBSIZE"]],
    [["MULTI"], ["FLUSHDB", "nosuch"], ["SCAN", "abc"], ["EXEC"]],
    [["MULTI"], ["MONITOR"], ["EXEC"]],
    [["MULTI"], ["EVAL", "return redis.call('incr', KEYS[1])", 1, "k"],
     ["EVALSHA", "0" * 40, 0], ["SCRIPT", "LOAD", "return 1"], ["SCRIPT", "EXISTS", "0" * 40],
     ["EXEC"]],
    [["XADD", "s", "1-1", "f", "v"], ["MULTI"], ["XREAD", "STREAMS", "s", 0],
     ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"], ["ZADD", "z", 1, "m"],
     ["ZMPOP", 1, "z", "MIN"], ["COMMAND", "GETKEYS", "MGET", "a", "b"], ["EXEC"]],
    [["MULTI"], ["AUTH", "x"], ["HELLO", 4], ["HELLO", "x"], ["EXEC"]],
    [["MULTI"], ["QUIT"]],
], ids=lambda commands: " ".join(str(word) for command in commands for word in command)[:60])
@pytest.mark.parametrize("resp", [2, 3])
def test_a_transaction_is_answered_as_redis_answers_it(wires, commands, resp):
    for wire in wires:
        wire.call("HELLO", resp)
    same(wires, *commands)


def test_a_transaction_with_keys_in_its_replies_is_in_the_namespace(pair, wires):
    _, near = wires
    direct = pair[1].server.client()
    direct.set("other:k", 1)
    near.send(b"".join(encode(*command) for command in [
        ["MULTI"], ["SET", "a", 1], ["KEYS", "*"], ["SCAN", 0], ["DBSIZE"], ["RANDOMKEY"], ["FLUSHALL"],
        ["DBSIZE"], ["EXEC"]]))
    assert [near.reply() for _ in range(8)] == ["OK"] + ["QUEUED"] * 7
    assert near.reply() == ["OK", [b"a"], [b"0", [b"a"]], 1, b"a", "OK", 0]
    assert direct.keys("*") == [b"other:k"]


def test_watch_sees_writers_of_every_kind(pair, wires):
    _, near = wires
    other = pair[1].wire()
    direct = pair[1].server.client()
    for write in [lambda: other.call("SET", "k", "other"), lambda: direct.set("demo:k", "direct"),
                  lambda: near.call("SET", "k", "own"), lambda: other.call("FLUSHDB"),
                  lambda: direct.flushall()]:
        near.call("SET", "k", "old")
        assert near.call("WATCH", "k") == "OK"
        write()
        assert near.call("MULTI") == "OK" and near.call("SET", "k", "new") == "QUEUED"
        assert near.call("EXEC") is None
        assert near.call("GET", "k") != b"new"
    assert near.call("WATCH", "k") == "OK"
    direct.set("other:k", 1)  # another service's key of that name
    assert near.call("MULTI") == "OK" and near.call("SET", "k", "new") == "QUEUED"
    assert near.call("EXEC") == ["OK"]


def test_watch_expiry(wires):
    for wire in wires:
        wire.call("SET", "k", 1, "PX", 30)
        wire.call("WATCH", "k")
        wait_until(lambda: wire.call("EXISTS", "k") == 0)
    same(wires, ["MULTI"], ["SET", "k", 2], ["EXEC"])


def test_many_pipelined_transactions(wires):
    _, near = wires
    n = 1000
    for i in range(n):
        near.send(encode("MULTI") + encode("INCR", "n") + encode("SET", f"k{i}", i) +
                  encode("GET", f"k{i}") + encode("EXEC") + encode("GET", f"k{i}"))
    for i in range(n):
        assert [near.reply() for _ in range(4)] == ["OK"] + ["QUEUED"] * 3
        assert near.reply() == [i + 1, "OK", b"%d" % i]
        assert near.reply() == b"%d" % i


def test_transactions_cut_anywhere(wires):
    _, near = wires
    data = (encode("WATCH", "a") + encode("MULTI") + encode("SET", "a", "x" * 50) +
            encode("CLIENT", "GETNAME") + encode("BLPOP", "l", 0) + encode("EXEC"))
    rng = random.Random(1)
    for _ in range(200):
        cut = rng.randrange(len(data))
        near.send(data[:cut])
        near.send(data[cut:])
        assert [near.reply() for _ in range(5)] == ["OK"] * 2 + ["QUEUED"] * 3
        assert near.reply() == ["OK", None, None]


def test_a_large_reply_of_exec(wires):
    _, near = wires
    value = os.urandom(3000000)
    near.call("SET", "big", value)
    near.send(encode("MULTI") + encode("GET", "big") * 5 + encode("EXEC"))
    assert [near.reply() for _ in range(6)] == ["OK"] + ["QUEUED"] * 5
    assert near.reply() == [value] * 5


def test_what_can_not_be_queued_spoils_the_transaction(wires):
    _, near = wires
    for command in (["CONFIG", "SET", "maxmemory", 1], ["SHUTDOWN"], ["SAVE"], ["ACL", "LIST"]):
        assert near.call("MULTI") == "OK"
        assert str(near.call(*command)).startswith("NOPERM")
        assert near.call("SET", "k", 1) == "QUEUED"
        assert str(near.call("EXEC")).startswith("EXECABORT")
        assert near.call("GET", "k") is None


def test_filtered_commands_stay_filtered_in_a_transaction(stack):
    near = stack()
    near.server.client().config_set("masterauth", "s3cr3t")
    near.server.client().config_set("slowlog-log-slower-than", 0)
    near.server.client().set("other:secret", "x")
    blocker = near.server.wire()
    blocker.command("BLPOP", "other:list", 0)
    wait_until(lambda: blocked(near.server) == 1)
    server_id = [c["id"] for c in near.server.client().client_list() if "b" in c["flags"]][0]
    wire = near.wire()
    wire.call("MULTI")
    for command in (["CONFIG", "GET", "*"], ["SLOWLOG", "GET", -1], ["CLIENT", "UNBLOCK", server_id],
                    ["CLIENT", "LIST"]):
        wire.call(*command)
    said = repr(wire.call("EXEC"))
    assert "s3cr3t" not in said and "other:secret" not in said
    assert blocked(near.server) == 1


def test_hello_in_a_transaction_leaves_no_odd_connection(wires, pair):
    _, near = wires
    for version in (3, 2):
        near.call("HSET", "h", "f", "v")
        assert near.call("MULTI") == "OK"
        assert near.call("HELLO", version) == "QUEUED"
        assert near.call("HGETALL", "h") == "QUEUED"
        hello, hash_ = near.call("EXEC")
        assert isinstance(hello, dict) == (version == 3)
        assert hash_ == ({b"f": b"v"} if version == 3 else [b"f", b"v"])
        assert near.call("HGETALL", "h") == hash_
        assert near.call("MULTI") == "OK" and near.call("HGETALL", "h") == "QUEUED"
        assert near.call("EXEC") == [hash_]
        for resp, expected in ((2, [b"f", b"v"]), (3, {b"f": b"v"})):
            others = [pair[1].wire() for _ in range(3)]
            for other in others:
                other.call("HELLO", resp)
                assert other.call("MULTI") == "OK" and other.call("HGETALL", "h") == "QUEUED"
            for other in others:
                assert other.call("EXEC") == [expected]
                other.close()


def test_a_client_that_dies_in_multi_has_done_nothing(pair, wires):
    _, near = wires
    direct = pair[1].server.client()
    before = stats(pair[1])["sessions"]
    for _ in range(5):
        wire = pair[1].wire()
        wire.send(encode("MULTI") + encode("SET", "k", "x"))
        assert [wire.reply(), wire.reply()] == ["OK", "QUEUED"]
        wire.close()
    wait_until(lambda: stats(pair[1])["sessions"] == before)
    assert direct.get("demo:k") is None
    for _ in range(10):
        assert near.call("MULTI") == "OK" and near.call("PING") == "QUEUED"
        assert near.call("EXEC") == ["PONG"]


# --- blocking commands -----------------------------------------------------------------------------

# The command, what makes it return, on which key.
BLOCKING = [
    (["BLPOP", "k", 0], ["RPUSH", "k", "x"]),
    (["BLPOP", "nokey", "k", 0], ["RPUSH", "k", "x"]),
    (["BRPOP", "k", 0], ["RPUSH", "k", "x"]),
    (["BLMOVE", "k", "l", "LEFT", "RIGHT", 0], ["RPUSH", "k", "x"]),
    (["BRPOPLPUSH", "k", "l", 0], ["RPUSH", "k", "x"]),
    (["BLMPOP", 0, 2, "nokey", "k", "LEFT", "COUNT", 5], ["RPUSH", "k", "x", "y"]),
    (["BZPOPMIN", "k", 0], ["ZADD", "k", 1.5, "x"]),
    (["BZPOPMAX", "nokey", "k", 0], ["ZADD", "k", 1.5, "x"]),
    (["BZMPOP", 0, 1, "k", "MIN", "COUNT", 5], ["ZADD", "k", 1.5, "x", 2, "y"]),
    (["XREAD", "BLOCK", 0, "STREAMS", "k", "$"], ["XADD", "k", "1-1", "f", "v"]),
    (["XREAD", "COUNT", 1, "BLOCK", 0, "STREAMS", "nokey", "k", "0", "0"],
     ["XADD", "k", "1-1", "f", "v"]),
    (["XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "k", ">"],
     ["XADD", "k", "1-1", "f", "v"]),
]


def timed_out(command):
    """The same with a short time-out instead of none."""
    if command[0] in ("BLMPOP", "BZMPOP"):
        return [command[0], 0.05, *command[2:]]
    if command[0] in ("XREAD", "XREADGROUP"):
        at = command.index("BLOCK")
        return [*command[:at + 1], 50, *command[at + 2:]]
    return [*command[:-1], 0.05]


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("command, push", BLOCKING, ids=lambda words: " ".join(map(str, words)))
def test_blocking(pair, wires, command, push, resp):
    for wire in wires:
        wire.call("HELLO", resp)
        if command[0] == "XREADGROUP":
            wire.call("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM")
    # Nothing comes.
    same(wires, timed_out(command))
    # It comes later, from another client.
    for wire in wires:
        wire.command(*command)
    wait_until(lambda: blocked(pair[0]) == 1 and blocked(pair[1].server) == 1)
    pushers = [process.wire() for process in pair]
    same(pushers, push)
    assert wires[0].raw() == wires[1].raw()
    # It is there already.
    same(pushers, [word if word != "1-1" else "2-1" for word in push])
    if command[0] != "XREAD":
        same(wires, command)
    same(wires, ["DBSIZE"], ["PING"])


def test_blocking_errors(wires):
    same(wires, ["SET", "s", 1], ["BLPOP", "s", 0], ["BLPOP", "k", "x"], ["BLPOP", "k", -1],
         ["BLMPOP", 0, 0, "k", "LEFT"], ["BLMPOP", 0, 5, "k", "LEFT"], ["BLPOP", "k"],
         ["XREAD", "BLOCK", -1, "STREAMS", "k", "$"], ["XREAD", "BLOCK"], ["BLMOVE", "s", "k", "LEFT", "UP", 0],
         ["XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "k", ">"])


def test_a_blocked_client_keeps_its_order(pair, wires):
    """What it sends while it is blocked is done afterwards."""
    for wire in wires:
        wire.send(encode("SET", "a", 1) + encode("BLPOP", "k", 0) + encode("INCR", "a") +
                  encode("GET", "a") + encode("CLIENT", "GETNAME") + encode("ECHO", "x"))
    wait_until(lambda: blocked(pair[0]) == 1 and blocked(pair[1].server) == 1)
    for process in pair:
        wire = process.wire()
        assert wire.call("GET", "a") == b"1"
        wire.call("RPUSH", "k", "v")
    assert [wires[0].raw() for _ in range(6)] == [wires[1].raw() for _ in range(6)]


def test_blocked_longer_than_the_upstream_timeout(stack):
    near = stack("--set", "upstream.timeout=300ms")
    wire, other = near.wire(), near.wire()
    wire.command("BLPOP", "k", 0)
    wait_until(lambda: blocked(near.server) == 1)
    begin = time.monotonic()
    while time.monotonic() < begin + 0.6:
        assert other.call("INCR", "n") > 0
    other.call("RPUSH", "k", "x")
    assert wire.reply() == [b"k", b"x"]
    # And what does not block has a deadline again.
    wire.call("WATCH", "k")
    near.server.pause()
    assert str(wire.call("GET", "k")).startswith("NEARCACHE timeout: upstream ")
    near.server.resume()


def test_client_unblock(pair, wires):
    bare, near = pair
    for reason, raw in (("TIMEOUT", b"*-1\r\n"), (None, b"*-1\r\n"),
                        ("ERROR", b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")):
        said = []
        for process, wire in zip(pair, wires):
            ident = wire.call("CLIENT", "ID")
            wire.command("BLPOP", "k", 0)
            server = getattr(process, "server", process)
            wait_until(lambda: blocked(server) == 1)
            said.append(process.wire().call_raw("CLIENT", "UNBLOCK", ident, *filter(None, [reason])))
            assert wire.raw() == raw
        assert said == [b":1\r\n"] * 2
    ident = wires[1].call("CLIENT", "ID")
    other = near.wire()
    assert other.call("CLIENT", "UNBLOCK", ident) == 0  # not blocked
    assert other.call("CLIENT", "UNBLOCK", 123456) == 0
    assert wires[1].call("CLIENT", "UNBLOCK", ident) == 0


def test_a_client_that_dies_while_blocked_takes_nothing_with_it(pair, wires):
    near = pair[1]
    _, stays = wires
    for command, push in BLOCKING[:1] + BLOCKING[3:4] + BLOCKING[6:7]:
        dying = [near.wire() for _ in range(5)]
        for wire in dying:
            wire.command(*command)
        wait_until(lambda: blocked(near.server) == len(dying))
        for wire in dying:
            wire.close()
        wait_until(lambda: blocked(near.server) == 0, what="no blocked client")
        stays.call(*push)
        assert stays.call("TYPE", "k") != "none"
        stays.call("DEL", "k")


@pytest.mark.parametrize("commands", [
    [["GET", "k"]], [["SELECT", 0]], [["HELLO", 3]], [["RESET"]], [["KEYS", "*"]], [["DBSIZE"]], [["QUIT"]],
    [["CLIENT", "TRACKINGINFO"]], [["SUBSCRIBE", "c"], ["CLIENT", "ID"]],
], ids=lambda commands: " ".join(str(word) for command in commands for word in command))
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_blocked_client_dies_with_more_to_say(stack, commands, reset):
    """Also where what follows has to wait, so that no more is read from it."""
    near = stack("--set", "drain_timeout=100ms")
    wire, stays = near.wire(), near.wire()
    wire.send(encode("BLPOP", "k", 0) + b"".join(encode(*command) for command in commands))
    wait_until(lambda: blocked(near.server) == 1)
    if reset:
        wire.reset_when_closed()
    wire.close()
    wait_until(lambda: blocked(near.server) == 0, what="no blocked client")
    assert stays.call("RPUSH", "k", "x") == 1
    assert stays.call("LPOP", "k") == b"x"


@pytest.mark.one_worker
def test_a_client_that_resets_with_its_blocking_command_takes_nothing_with_it(stack):
    """The command and the reset come in the same moment. What is pushed when the command has been sent
    may still meet it at the server, but hardly ever does."""
    near = stack()
    taken = 0
    for _ in range(10):
        wire, asked = near.wire(), stats(near)["upstream_requests"]
        near.pause()
        wire.command("BLPOP", "k", 0)
        wire.reset_when_closed()
        wire.close()
        near.resume()
        wait_until(lambda: stats(near)["upstream_requests"] > asked)
        near.server.client().rpush("demo:k", "x")
        wait_until(lambda: blocked(near.server) == 0, what="no blocked client")
        taken += 1 - near.server.client().delete("demo:k")
    assert taken <= 5


def test_a_killed_client_is_not_blocked_any_more(pair, wires):
    near = pair[1]
    wire, other = wires[1], near.wire()
    ident = wire.call("CLIENT", "ID")
    wire.command("BLPOP", "k", 0)
    wait_until(lambda: blocked(near.server) == 1)
    assert other.call("CLIENT", "KILL", "ID", ident) == 1
    assert wire.at_eof()
    wait_until(lambda: blocked(near.server) == 0)


def test_wait_counts_earlier_writes(redis_server, nearcache):
    server = redis_server()
    replica = redis_server("--replicaof", f"127.0.0.1 {server.port}", "--repl-diskless-sync-delay", "0")
    near = nearcache(upstream=server)
    wait_until(lambda: replica.client().info("replication")["master_link_status"] == "up", timeout=20)
    wire = near.wire()
    for i in range(20):
        assert wire.call("SET", "k", i) == "OK"
        assert wire.call("WAIT", 1, 5000) == 1
        assert replica.client().get("demo:k") == b"%d" % i
    replica.pause()
    wire.call("SET", "k", "late")
    assert wire.call("WAIT", 1, 50) == 0
    wire.command("WAIT", 1, 0)
    other = near.wire()
    assert other.call("GET", "k") == b"late"
    replica.resume()
    assert wire.reply() == 1


# --- the pool --------------------------------------------------------------------------------------


@pytest.mark.one_worker
def test_the_pool_is_bounded_and_fair(stack):
    near = stack("--set", "upstream.sessions=2", "--set", "upstream.session_wait=10s")
    holders = [near.wire() for _ in range(2)]
    for wire in holders:
        assert wire.call("MULTI") == "OK"
    assert stats(near)["sessions"] == 2 and stats(near)["sessions_limit"] == 2
    waiters = []
    for i in range(5):
        waiters.append(near.wire())
        waiters[i].send(encode("EVAL", "return redis.call('rpush', KEYS[1], ARGV[1])", 1, "order", i))
        assert near.wire().call("PING") == "PONG"  # all waits but those
    assert near.wire().call("LLEN", "order") == 0
    assert holders[0].call("EXEC") == []
    assert [wire.reply() for wire in waiters] == [1, 2, 3, 4, 5]
    assert near.wire().call("LRANGE", "order", 0, -1) == [b"%d" % i for i in range(5)]
    assert holders[1].call("EXEC") == []
    wait_until(lambda: stats(near)["sessions"] == 0)


@pytest.mark.one_worker
def test_waiting_for_a_session_ends_with_a_clear_error(stack):
    near = stack("--set", "upstream.sessions=1", "--set", "upstream.session_wait=200ms")
    holder, waiter, gone = near.wire(), near.wire(), near.wire()
    assert holder.call("MULTI") == "OK"
    gone.send(encode("BLPOP", "k", 0))
    waiter.send(encode("SET", "a", 1) + encode("MULTI") + encode("GET", "a"))
    gone.close()
    assert waiter.reply() == "OK"
    begin = time.monotonic()
    assert re.match(r"NEARCACHE no private connection within 200 ms: all 1 are lent", str(waiter.reply()))
    assert time.monotonic() - begin < 2
    assert waiter.at_eof()  # what follows was meant to be part of it
    waiter = near.wire()
    assert waiter.call("GET", "a") == b"1"
    assert holder.call("EXEC") == []
    assert waiter.call("MULTI") == "OK" and waiter.call("EXEC") == []


@pytest.mark.one_worker
def test_what_waits_together_is_refused_together(stack):
    """Not one command in each session_wait; what comes later has its own."""
    near = stack("--set", "upstream.sessions=1", "--set", "upstream.session_wait=500ms")
    holder, many, late = near.wire(), near.wire(), near.wire()
    assert holder.call("MULTI") == "OK"
    many.send(encode("BLPOP", "k", 0) * 100)
    assert near.wire().call("PING") == "PONG"  # they have arrived
    assert "no private connection" in str(late.call("BLPOP", "k", 0))
    assert near.wire().call("PING") == "PONG"
    answers = many.socket.recv(1 << 16, socket.MSG_DONTWAIT)
    assert answers.count(b"-NEARCACHE no private connection") == 100
    many.command("EVAL", "return 7", 0)
    assert near.wire().call("PING") == "PONG"
    assert holder.call("EXEC") == []
    assert many.reply() == 7


@pytest.mark.parametrize("commands", [
    [["WATCH"]], [["MULTI", "x"]], [["BLPOP", "k", "x"]], [["EVAL", "return 1", "abc"]], [["XREAD", "BLOCK"]],
    [["WAIT", "x", "y"]], [["UNWATCH"]], [["DISCARD"]], [["CLIENT", "CACHING", "YES"]], [["PUNSUBSCRIBE"]],
    [["CLIENT", "TRACKING", "ON", "NOSUCH"]], [["MULTI"], ["WATCH", "k"], ["EXEC"]],
    [["SUBSCRIBE", "c"], ["WATCH", "k"], ["UNSUBSCRIBE"]], [["SUBSCRIBE", "c"], ["MULTI"], ["UNSUBSCRIBE"]],
    [["SUBSCRIBE", "c"], ["CLIENT", "TRACKING", "ON"], ["UNSUBSCRIBE"]],
], ids=lambda commands: " ".join(str(word) for command in commands for word in command))
def test_what_was_refused_keeps_no_session(pair, wires, commands):
    same(wires, *commands)
    wait_until(lambda: stats(pair[1])["sessions"] == 0)


def test_idle_connections_of_another_kind_make_room(stack):
    near = stack("--set", "upstream.sessions=2")
    for db, resp in [(0, 2), (1, 2), (2, 3), (0, 3), (1, 2), (0, 2)] * 3:
        wire = near.wire()
        wire.call("HELLO", resp)
        wire.call("SELECT", db)
        assert wire.call("MULTI") == "OK" and wire.call("INCR", "n") == "QUEUED"
        assert len(wire.call("EXEC")) == 1
        wire.close()


@pytest.mark.one_worker
def test_connections_are_reused(stack):
    near = stack()
    direct = near.server.client()
    wire = near.wire()
    near.client().ping()
    assert wire.call("MULTI") == "OK" and wire.call("EXEC") == []
    wait_until(lambda: stats(near)["sessions"] == 0)
    before = direct.info("stats")["total_connections_received"]
    for i in range(1000):
        assert wire.call("EVAL", "return 1", 0) == 1
        if i % 100 == 0:
            wire.close()
            wire = near.wire()
    assert direct.info("stats")["total_connections_received"] == before
    assert direct.info("clients")["connected_clients"] < 8


def test_a_connection_is_clean_for_the_next_client(pair, wires):
    """Whatever state the one before left, or was about to leave."""
    near = pair[1]
    for leave in ([["WATCH", "k"]], [["MULTI"]], [["MULTI"], ["NOSUCH"]], [["SUBSCRIBE", "c"]],
                  [["SELECT", 5], ["MULTI"]], [["HELLO", 3], ["MULTI"]], [["WATCH", "k"], ["SELECT", 4]],
                  [["CLIENT", "TRACKING", "ON", "BCAST"], ["HELLO", 3]], [["HELLO", 3], ["CLIENT", "TRACKING", "ON"]],
                  [["WATCH", "k"], ["HELLO", 3], ["UNWATCH"]], [["WATCH", "k"], ["SELECT", 4], ["UNWATCH"]],
                  [["MULTI"], ["SELECT", 3], ["EXEC"]], [["CLIENT", "REPLY", "OFF"], ["MULTI"]]):
        wire = near.wire()
        wire.send(b"".join(encode(*command) for command in leave))
        if leave[0] != ["CLIENT", "REPLY", "OFF"]:
            for _ in leave:
                wire.reply()
        wire.close()
        for _ in range(3):
            fresh = near.wire()
            assert fresh.call("MULTI") == "OK", leave
            assert fresh.call("SET", "k", 1) == "QUEUED", leave
            assert fresh.call("HGETALL", "nohash") == "QUEUED", leave
            assert fresh.call_raw("EXEC") == b"*2\r\n+OK\r\n*0\r\n", leave
            assert near.server.client(db=0).get("demo:k") == b"1", leave
            fresh.call("DEL", "k")
            fresh.close()


# --- the L1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracking", ["auto", "off"])
def test_the_l1_forgets_what_a_session_writes(stack, tracking):
    near = stack("--set", f"invalidation.tracking={tracking}")
    await_l1(near)
    writer, reader = near.wire(), near.wire()

    def transaction(value):
        writer.call("MULTI")
        writer.call("SET", "k", value)
        writer.call("INCR", "n")
        assert len(writer.call("EXEC")) == 2

    def script(value):
        writer.call("EVAL", "return redis.call('set', KEYS[1], ARGV[1])", 1, "k", value)

    def script_without_keys(value):
        writer.call("EVAL", "return redis.call('set', ARGV[1], ARGV[2])", 0, "demo:k", value)

    def flush_in_transaction(value):
        writer.send(encode("MULTI") + encode("FLUSHDB") + encode("SET", "k", value) + encode("EXEC"))
        assert [writer.reply() for _ in range(3)] == ["OK", "QUEUED", "QUEUED"]
        assert writer.reply() == ["OK", "OK"]

    def in_watch(value):
        writer.call("WATCH", "zzz")
        writer.call("SET", "k", value)
        writer.call("UNWATCH")

    reader.call("SET", "k", "old")
    for i in range(10):
        for write in (transaction, script, script_without_keys, flush_in_transaction, in_watch):
            for _ in range(2):
                reader.call("GET", "k"), reader.call("MGET", "k", "other")
            wait_until(lambda: reader.call("GET", "k") and is_cached(near, "k"))
            value = f"{write.__name__}{i}".encode()
            write(value)
            assert reader.call("GET", "k") == value
            assert reader.call("MGET", "k", "k") == [value] * 2
            assert writer.call("GET", "k") == value


def test_the_l1_forgets_a_list_that_was_popped(stack):
    """BLMOVE and BLPOP delete keys, BRPOPLPUSH may create one: EXISTS-like answers must follow."""
    near = stack()
    await_l1(near)
    blocker, other = near.wire(), near.wire()
    assert other.call("SET", "l", "text") == "OK" and other.call("GET", "l") == b"text"
    wait_until(lambda: other.call("GET", "l") and is_cached(near, "l"))
    blocker.command("BLMOVE", "k", "l", "LEFT", "LEFT", 0)
    wait_until(lambda: blocked(near.server) == 1)
    assert other.call("DEL", "l") == 1
    assert other.call("RPUSH", "k", "x") == 1
    assert blocker.reply() == b"x"
    assert "WRONGTYPE" in str(other.call("GET", "l"))


def test_reads_of_a_watching_client_bypass_the_l1(stack):
    near = stack()
    await_l1(near)
    wire, direct = near.wire(), near.server.client()
    direct.set("demo:k", "v")
    wait_until(lambda: wire.call("GET", "k") and is_cached(near, "k"))
    calls = lambda: direct.info("commandstats")["cmdstat_get"]["calls"]
    before = calls()
    assert wire.call("GET", "k") == b"v" and calls() == before
    assert wire.call("WATCH", "k") == "OK"
    assert wire.call("GET", "k") == b"v" and calls() == before + 1
    assert wire.call("UNWATCH") == "OK"
    wait_until(lambda: stats(near)["sessions"] == 0)
    wait_until(lambda: wire.call("GET", "k") and is_cached(near, "k"))
    before = calls()
    assert wire.call("GET", "k") == b"v" and calls() == before


# --- scripts ---------------------------------------------------------------------------------------


def test_scripts(wires):
    sha = wires[0].call("SCRIPT", "LOAD", "return {KEYS[1], ARGV[1]}")
    assert wires[1].call("SCRIPT", "LOAD", "return {KEYS[1], ARGV[1]}") == sha
    same(wires, ["EVALSHA", "f" * 40, 1, "k"], ["SCRIPT", "EXISTS", sha, "f" * 40],
         ["EVAL", "return redis.call('set', KEYS[1], ARGV[1])", 1, "k", "v"], ["GET", "k"],
         ["EVALSHA_RO", sha, "x"], ["EVAL", "return redis.call('get')", 0], ["EVAL", "syntax", 0],
         ["EVAL_RO", "return redis.call('get', KEYS[1])", 1, "k"],
         ["EVAL_RO", "return redis.call('set', KEYS[1], 1)", 1, "k"],
         ["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function(keys, args) "
          "return redis.call('get', keys[1]) end)"], ["FCALL", "f", 1, "k"], ["FUNCTION", "LIST"],
         ["FCALL", "nosuch", 0], ["FUNCTION", "DELETE", "lib"])


def test_a_script_that_runs_for_long(stack):
    near = stack("--set", "admin_commands=allow", "--set", "upstream.timeout=300ms")
    wire, other = near.wire(), near.wire()
    other.call("CONFIG", "SET", "busy-reply-threshold", 20)
    other.call("SET", "k", "v")
    wire.command("EVAL", "while true do end", 0)
    wait_until(lambda: str(other.call("STRLEN", "k")).startswith("BUSY "), timeout=10)
    begin = time.monotonic()
    while time.monotonic() < begin + 0.7:  # longer than upstream.timeout: neither is cut off
        assert str(other.call("STRLEN", "k")).startswith("BUSY ")
        assert other.call("CLIENT", "ID") > 0
    assert other.call("SCRIPT", "KILL") == "OK"
    assert "Script killed by user" in str(wire.reply())
    wait_until(lambda: other.call("STRLEN", "k") == 1)
    assert wire.call("STRLEN", "k") == 1


def test_script_kill_needs_administration(pair):
    assert str(pair[1].wire().call("SCRIPT", "KILL")).startswith("NOPERM")


# --- the upstream leaves ---------------------------------------------------------------------------


def test_the_upstream_dies_in_a_session(stack):
    near = stack()
    multi, watch, sub, blocker, plain = (near.wire() for _ in range(5))
    assert plain.call("SET", "k", 1) == "OK"
    assert multi.call("MULTI") == "OK" and multi.call("SET", "k", 2) == "QUEUED"
    assert watch.call("WATCH", "k") == "OK"
    assert sub.call("SUBSCRIBE", "c")[2] == 1
    blocker.command("BLPOP", "l", 0)
    wait_until(lambda: blocked(near.server) == 1)
    near.server.kill()
    assert multi.at_eof() and watch.at_eof() and sub.at_eof()
    assert UNAVAILABLE.match(str(blocker.reply()))
    assert UNAVAILABLE.match(str(plain.call("GET", "nothing")))
    assert plain.call("CLIENT", "ID") and plain.call("ECHO", "x")
    near.server.start()
    wait_until(lambda: plain.call("SET", "k", 3) == "OK")
    for wire in (plain, blocker):
        assert wire.call("MULTI") == "OK" and wire.call("GET", "k") == "QUEUED"
        assert wire.call("EXEC") == [b"3"]


def test_one_connection_killed_at_the_server(stack):
    near = stack()
    multi, other = near.wire(), near.wire()
    assert other.call("MULTI") == "OK"
    assert multi.call("MULTI") == "OK"
    direct = near.server.client()
    newest = max(int(c["id"]) for c in direct.client_list() if c["multi"] != "-1")
    direct.client_kill_filter(_id=newest)
    assert multi.at_eof()
    assert other.call("SET", "k", 1) == "QUEUED" and other.call("EXEC") == ["OK"]


def test_no_upstream_when_a_session_begins(redis_server, nearcache):
    server = redis_server()
    server.kill()
    near = nearcache(upstream=server)
    for command in (["MULTI"], ["BLPOP", "k", 0], ["EVAL", "return 1", 0], ["SUBSCRIBE", "c"],
                    ["WATCH", "k"], ["CLIENT", "TRACKING", "OFF"]):
        assert UNAVAILABLE.match(str(near.wire().call(*command))), command
    server.start()
    near.wire().call("PING")
    wire = near.wire()
    wait_until(lambda: wire.call("SET", "k", 1) == "OK")
    assert wire.call("MULTI") == "OK" and wire.call("EXEC") == []


# --- the proxy leaves ------------------------------------------------------------------------------


def test_shutdown_with_open_sessions(stack):
    near = stack("--set", "drain_timeout=300ms")
    wires = [near.wire() for _ in range(7)]
    for wire, commands in zip(wires, ([["MULTI"], ["SET", "k", 1]], [["SUBSCRIBE", "a", "b"]], [["WATCH", "k"]],
                                      [["HELLO", 3], ["CLIENT", "TRACKING", "ON"]], [["BLPOP", "k", 0]],
                                      [["EVAL", "return 1", 0]], [["MONITOR"]])):
        wire.send(b"".join(encode(*command) for command in commands))
    wait_until(lambda: blocked(near.server) == 1)
    near.wire().call("PING")
    near.stop()
    for wire in wires:
        while not wire.at_eof():
            pass
    wait_until(lambda: blocked(near.server) == 0)
    assert near.server.client().get("demo:k") is None
    assert near.popen.returncode == 0


def test_sigterm_waits_for_exec(stack):
    near = stack()
    wire, idle = near.wire(), near.wire()
    assert idle.call("PING") == "PONG"
    assert wire.call("MULTI") == "OK" and wire.call("SET", "k", 1) == "QUEUED"
    near.server.client().execute_command("CLIENT", "PAUSE", 300, "ALL")
    wire.command("EXEC")
    wait_until(lambda: near.client().info("clients") or True)
    near.popen.send_signal(signal.SIGTERM)
    assert idle.at_eof()
    assert wire.reply() == ["OK"] and wire.at_eof()
    assert near.popen.wait(10) == 0


# --- RESET and QUIT --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [
    [], [["MULTI"], ["SET", "k", 1]], [["WATCH", "k"]], [["SUBSCRIBE", "c"]], [["HELLO", 3], ["SUBSCRIBE", "c"]],
    [["HELLO", 3], ["CLIENT", "TRACKING", "ON"]], [["SELECT", 5]], [["MONITOR"]],
    [["CLIENT", "SETNAME", "me"]], [["WATCH", "k"], ["SELECT", 3], ["MULTI"], ["NOSUCH"]],
    [["CLIENT", "REPLY", "ON"]],
], ids=lambda state: " ".join(word for command in state for word in map(str, command)) or "none")
def test_reset_in_every_state(pair, wires, state):
    for wire in wires:
        wire.call("SET", "k", 0)
        for command in state:
            wire.call(*command)
        while True:
            said = wire.call("RESET")
            if said == "RESET":
                break
            assert state == [["MONITOR"]]
    same(wires, ["GET", "k"], ["CLIENT", "GETNAME"], ["EXEC"], ["HGETALL", "h"], ["CLIENT", "TRACKINGINFO"])
    assert b" db=0 sub=0 psub=0 ssub=0 multi=-1 " in wires[1].call("CLIENT", "INFO")
    wait_until(lambda: stats(pair[1])["sessions"] == 0)


@pytest.mark.parametrize("state", [[["MULTI"]], [["SUBSCRIBE", "c"]], [["WATCH", "k"]]],
                         ids=lambda state: state[0][0])
def test_quit_in_every_state(pair, wires, state):
    for wire in wires:
        for command in state:
            wire.call(*command)
    assert [wire.call_raw("QUIT") for wire in wires] == [b"+OK\r\n"] * 2
    assert all(wire.at_eof() for wire in wires)
    wait_until(lambda: stats(pair[1])["sessions"] == 0)


def test_large_replies_parked_behind_one_of_another_connection(pair, wires):
    """They all go out at once, while the next one is only half there: it may not be held back for a
    reader that takes everything."""
    _, near = pair
    rng = random.Random(1)
    wires[1].call("MSET", "big", "x" * 60000, "bigger", "x" * 150000)
    for _ in range(200):
        wire = near.wire()
        wire.call("WATCH", "k")
        commands = [["INFO", "everything"], *[["GET", rng.choice(["big", "bigger"])]
                                              for _ in range(rng.randrange(1, 8))]] * rng.randrange(1, 5)
        wire.send(b"".join(encode(*command) for command in commands))
        for _ in commands:
            wire.raw()
        wire.close()


@pytest.mark.one_worker
@pytest.mark.parametrize("first", [["MULTI"], ["WATCH", "k"]], ids=["MULTI", "WATCH"])
def test_what_follows_a_refused_multi_is_not_done_one_by_one(redis_server, nearcache, first):
    """The client is told, and leaves."""
    near = nearcache("--set", "upstream.sessions=1", "--set", "upstream.session_wait=100ms",
                     upstream=redis_server())
    holder, wire = near.wire(), near.wire()
    assert holder.call("WATCH", "x") == "OK"
    wire.send(encode(*first) + encode("INCR", "n") + encode("EXEC"))
    assert str(wire.reply()).startswith("NEARCACHE no private connection") and wire.at_eof()
    assert near.wire().call("GET", "n") is None
