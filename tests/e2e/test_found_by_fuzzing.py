"""What the fuzzer of the whole proxy (tests/fuzz/fuzz_proxy.c) has found, with real servers."""
import contextlib

import pytest

from conftest import RespError, encode, wait_until


def stats(wire):
    pairs = wire.call("NEARCACHE", "STATS")
    return dict(zip(pairs[::2], pairs[1::2]))


def reset(near, wire, ident):
    """The client is gone at once, whatever it is owed, and the proxy knows."""
    wire.reset_when_closed()
    wire.close()
    with near.wire() as other:
        wait_until(lambda: other.call("CLIENT", "LIST", "ID", ident) == b"")


def put_by_script(near, key):
    """A write down a private connection."""
    script = "return redis.call('SET', KEYS[1], 1)"
    assert near.wire().call("EVAL", script, 1, key) == "OK"


# --- what is answered before what ------------------------------------------------------------------


@pytest.mark.parametrize("question", [
    ["PUBSUB", "NUMSUB"] + [f"c{i}" for i in range(2000)],
    ["CONFIG", "GET", "*"],
    ["INFO"],
], ids=lambda question: question[0])
def test_what_is_asked_elsewhere_is_answered_before_a_later_confirmation(redis_server, nearcache,
                                                                         question):
    """These are asked down a shared connection, UNSUBSCRIBE is confirmed by a private one."""
    wire = nearcache(upstream=redis_server()).wire()
    assert wire.call("WATCH", "k") == "OK"
    for _ in range(20):
        wire.send(encode(*question) + encode("UNSUBSCRIBE"))
        assert wire.reply() != [b"unsubscribe", None, 0]
        assert wire.reply() == [b"unsubscribe", None, 0]


# --- connections that are lent on ------------------------------------------------------------------


def test_a_client_that_leaves_before_exec_is_answered_takes_its_database_along(redis_server, nearcache):
    """The connection is in database 3 when the reply comes: it must not be anybody else's."""
    server = redis_server()
    near = nearcache(upstream=server)
    wire = near.wire()
    ident = wire.call("CLIENT", "ID")
    assert wire.call("MULTI") == "OK"
    server.pause()
    wire.send(encode("SELECT", 3) + encode("EXEC"))
    with near.wire() as other:
        wait_until(lambda: int(stats(other)[b"upstream_pending"]) == 2)
    reset(near, wire, ident)
    server.resume()
    put_by_script(near, "k")
    assert server.client(db=0).exists("demo:k") == 1
    assert server.client(db=3).exists("demo:k") == 0


def test_what_is_sent_behind_a_refused_multi_is_run_at_once_and_by_nobody_else(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    server.client().acl_setuser("default", enabled=True, commands=["-multi"])
    wire = near.wire()
    ident = wire.call("CLIENT", "ID")
    wire.send(encode("MULTI") + encode("SELECT", 3) + encode("PING"))
    assert str(wire.reply()).startswith("NOPERM")
    assert wire.reply() == "OK"
    assert wire.reply() == "PONG"
    assert wire.call("SET", "mine", 1) == "OK"  # where a client of Redis would have put it
    put_by_script(near, "k")
    reset(near, wire, ident)
    put_by_script(near, "k2")
    assert sorted(server.client(db=0).keys()) == [b"demo:k", b"demo:k2"]
    assert server.client(db=3).keys() == [b"demo:mine"]


def test_what_is_altered_on_its_way_is_not_shown_behind_a_refused_multi(redis_server, nearcache):
    server = redis_server("--maxmemory-policy", "allkeys-lru", "--masterauth", "hush")
    near = nearcache(upstream=server)
    server.client().acl_setuser("default", enabled=True, commands=["-multi"])
    server.client().set("demo:k", 1)
    wire = near.wire()
    wire.send(encode("MULTI") + encode("CONFIG", "GET", "masterauth") + encode("GET", "k") +
              encode("KEYS", "*") + encode("CLIENT", "ID") + encode("RANDOMKEY"))
    replies = [wire.reply() for _ in range(6)]
    assert replies.pop(2) == b"1" and str(replies.pop(0)).startswith("NOPERM")
    assert {str(reply) for reply in replies} == {"NEARCACHE not queued, because MULTI was refused"}
    assert wire.call("PING") == "PONG"


def test_the_next_transaction_is_none_of_the_refused_ones(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--set", "admin_commands=allow", upstream=server)
    server.client().acl_setuser("default", enabled=True, commands=["-multi"])
    server.client().set("demo:k", 1)
    wire = near.wire()
    wire.send(encode("MULTI") + encode("KEYS", "*") + encode("EXEC") +
              encode("ACL", "SETUSER", "default", "+multi") +
              encode("MULTI") + encode("KEYS", "*") + encode("CLIENT", "ID") + encode("EXEC"))
    replies = [wire.reply() for _ in range(8)]
    assert str(replies[0]).startswith("NOPERM")
    assert str(replies[1]) == "NEARCACHE not queued, because MULTI was refused"
    assert str(replies[2]) == "ERR EXEC without MULTI"
    assert replies[3:7] == ["OK", "OK", "QUEUED", "QUEUED"]
    assert replies[7] == [[b"k"], wire.call("CLIENT", "ID")]
    assert wire.call("PING") == "PONG"


def test_a_multi_behind_a_refused_one_ends_its_client(redis_server, nearcache):
    """It might begin a transaction after all."""
    near = nearcache(upstream=redis_server())
    wire = near.wire()
    wire.send(encode("MULTI") + encode("MULTI") + encode("SET", "k", 1) + encode("EXEC"))
    assert wire.reply() == "OK" and str(wire.reply()).startswith("ERR MULTI calls can not be nested")
    assert wire.reply() == "QUEUED" and wire.reply() == ["OK"]  # as with Redis
    near.close()
    server = redis_server()
    near = nearcache(upstream=server)
    server.client().acl_setuser("default", enabled=True, commands=["-multi"])
    wire = near.wire()
    wire.send(encode("MULTI") + encode("MULTI") + encode("CONFIG", "GET", "*") + encode("EXEC"))
    assert wire.at_eof()
    assert near.wire().call("PING") == "PONG"


# --- CLIENT TRACKING ON REDIRECT --------------------------------------------------------------------


@pytest.mark.one_worker
def test_a_redirect_that_can_not_be_had_is_refused(redis_server, nearcache):
    """There is one private connection, and two are needed: the client must not wait for ever."""
    near = nearcache("--set", "upstream.sessions=1", "--set", "upstream.session_wait=200ms",
                     upstream=redis_server())
    target, wire = near.wire(), near.wire()
    ident = target.call("CLIENT", "ID")
    assert wire.call("CLIENT", "TRACKING", "ON", "REDIRECT", ident) == \
        RespError("NEARCACHE the connection to redirect to is not ready")
    assert wire.call("EVAL", "return 1", 0) == 1
    assert target.call("PING") == "PONG"


# --- CLIENT REPLY OFF ------------------------------------------------------------------------------


def test_reply_off_is_for_what_the_proxy_puts_together_too(redis_server, nearcache):
    server = redis_server()
    for process in (server, nearcache(upstream=server)):
        wire = process.wire()
        wire.send(encode("CLIENT", "REPLY", "OFF") + encode("CLIENT", "TRACKINGINFO") +
                  encode("HELLO", 2) + encode("CLIENT", "REPLY", "ON"))
        assert wire.reply() == "OK"


def test_reply_off_is_for_a_late_ping_too(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--set", "upstream.timeout=100ms", upstream=server)
    wire = near.wire()
    assert wire.call("PING") == "PONG"
    server.pause()
    wire.send(encode("CLIENT", "REPLY", "OFF") + encode("PING", "late"))
    assert isinstance(near.wire().call("GET", "k"), RespError)
    server.resume()
    wire.send(encode("CLIENT", "REPLY", "ON"))
    assert wire.reply() == "OK"


def test_bytes_that_are_no_command_behind_one_that_ended_the_client(redis_server, nearcache):
    near = nearcache("--set", "client.max_output=1mb", "--set", "client.soft_output=1mb", "--set", "l1.max_value=32mb",
                     upstream=redis_server())
    wire = near.wire()
    big = b"x" * (16 << 20)
    assert wire.call("SET", "k", big) == "OK"
    while int(stats(wire)[b"hits"]) == 0:
        reader = near.wire()
        reader.command("GET", "k")
        with contextlib.suppress(EOFError, ConnectionError):
            reader.reply()
        reader.close()
    leaving = near.wire()
    leaving.send(encode("GET", "k") + b"*no number\r\n")
    with contextlib.suppress(EOFError, ConnectionError):
        leaving.reply()
    assert wire.call("PING") == "PONG"
