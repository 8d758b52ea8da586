"""CLIENT: about the clients of this proxy, in Redis' words."""
import re

import pytest

from conftest import RespError, encode, wait_until


@pytest.fixture(scope="module")
def sides(module_redis_server, module_nearcache):
    """A bare Redis and a nearcache in front of another."""
    return module_redis_server(), module_nearcache(upstream=module_redis_server())


@pytest.mark.parametrize("command", [
    ["UNBLOCK", "x"], ["UNBLOCK", 1, "no"], ["UNBLOCK", "x", "no"], ["UNBLOCK", 1, "timeout", "x"],
    ["unblock", 999], ["UNBLOCK"], ["UNBLOCK", -1],
    ["KILL", "a", "b", "c"], ["KILL", "ID", 0, "x"], ["KILL", "ID", 0], ["KILL", "id", "x"],
    ["KILL", "TYPE", "x"], ["KILL", "USER", "nobody"], ["KILL", "SKIPME", "x"], ["KILL", "x"],
    ["KILL", "a", "b"], ["KILL"], ["KILL", "TYPE", "master"], ["KILL", "LADDR", "1.2.3.4:5"],
    ["KILL", "ID", 99999, "ADDR", "1.2.3.4:5", "TYPE", "normal", "USER", "default", "SKIPME", "no"],
    ["KILL", "1.2.3.4:5"], ["KILL", "TYPE", "pubsub"], ["KILL", "TYPE", "replica", "ID"],
    ["LIST", "x"], ["LIST", "TYPE"], ["LIST", "TYPE", "x" * 200], ["LIST", "TYPE", "replica"],
    ["LIST", "ID"], ["LIST", "ID", "x"], ["LIST", "ID", -5], ["LIST", "ID", 99999, 99998],
    ["LIST", "TYPE", "pubsub"], ["LIST", "TYPE", "pub\r\nsub"],
    ["REPLY", "x"], ["REPLY"], ["REPLY", "ON"], ["REPLY", "ON", "x"],
    ["NO-EVICT", "x"], ["NO-EVICT", "ON"], ["NO-EVICT", "off"], ["NO-EVICT"],
    ["SETNAME", "a b"], ["SETNAME", "a\nb"], ["SETNAME", ""], ["SETNAME", "x" * 1000], ["SETNAME"],
    ["GETNAME"], ["GETNAME", "x"], ["ID", "x"], ["INFO", "x"], ["FOO"], [], ["HELP"], ["HELP", "x"],
])
@pytest.mark.parametrize("resp", [2, 3])
def test_same_words_as_redis(sides, command, resp):
    replies = []
    for side in sides:
        with side.wire() as wire:
            wire.call("HELLO", resp)
            replies.append(wire.call_raw("CLIENT", *command))
    assert replies[0] == replies[1]


def fields(line):
    return dict(pair.split("=", 1) for pair in line.split(" "))


def info(wire):
    return fields(wire.call("CLIENT", "INFO").decode().rstrip("\n"))


def other(wire, client_id):
    """What CLIENT LIST says of another client."""
    return fields(wire.call("CLIENT", "LIST", "ID", client_id).decode().rstrip("\n"))


def test_the_line_has_redis_shape(sides):
    lines = []
    for side in sides:
        wire = side.wire()
        wire.call("CLIENT", "SETNAME", "me")
        line = wire.call_raw("CLIENT", "LIST", "ID", wire.call("CLIENT", "ID")).split(b"\r\n")[1]
        assert line.endswith(b"\n")
        known = fields(line.decode().rstrip("\n"))
        assert re.fullmatch(r"127\.0\.0\.1:\d+", known["addr"])
        assert known["laddr"] == f"127.0.0.1:{side.port}"
        for name in ("id", "addr", "laddr", "fd", "age", "idle", "qbuf-free", "rbs", "rbp", "tot-mem"):
            known[name] = ""
        known["qbuf"], known["argv-mem"] = int(known["qbuf"]) > 30, int(known["argv-mem"]) > 10
        lines.append(list(known.items()))
    ours = {name for name, _ in lines[1]}  # newer servers tell more
    assert [field for field in lines[0] if field[0] in ours] == lines[1]


def test_resp3_says_it_verbatim(sides):
    for side in sides:
        wire = side.wire()
        wire.call("HELLO", 3)
        assert wire.call_raw("CLIENT", "INFO")[:1] == b"="
        assert wire.call_raw("CLIENT", "LIST").split(b"\r\n")[1].startswith(b"txt:id=")
        assert info(wire)["resp"] == "3"


def test_flags_and_figures(sides):
    for side in sides:
        wire, watcher = side.wire(), side.wire()
        me = wire.call("CLIENT", "ID")
        assert info(wire)["flags"] == "N" and info(wire)["redir"] == "-1"
        wire.call("SELECT", 3)
        assert info(wire)["db"] == "3"
        wire.call("MULTI")
        wire.call("SET", "k", "v")
        wire.call("SET", "k", "v")
        seen = other(watcher, me)
        assert seen["flags"] == "x" and seen["multi"] == "2" and seen["cmd"] == "set"
        wire.call("DISCARD")
        assert info(wire)["multi"] == "-1"
        for n, channel in enumerate(("a", "b"), 1):
            wire.call("SUBSCRIBE", channel)
            assert other(watcher, me)["sub"] == str(n)
        wire.call("PSUBSCRIBE", "a*")
        seen = other(watcher, me)
        assert seen["flags"] == "P" and (seen["sub"], seen["psub"], seen["ssub"]) == ("2", "1", "0")
        listed = watcher.call("CLIENT", "LIST", "TYPE", "pubsub")
        assert b"id=%d " % me in listed
        assert b"id=%d " % me not in watcher.call("CLIENT", "LIST", "TYPE", "normal")
        wire.call("RESET")
        assert other(watcher, me)["flags"] == "N"


def test_flag_of_a_blocked_client(sides):
    for side in sides:
        wire, watcher = side.wire(), side.wire()
        me = wire.call("CLIENT", "ID")
        wire.command("BLPOP", "no such list", 0)
        wait_until(lambda: other(watcher, me)["flags"] == "b")
        assert other(watcher, me)["cmd"] == "blpop"
        wait_until(lambda: watcher.call("CLIENT", "UNBLOCK", me) == 1)
        assert wire.reply() is None and info(wire)["flags"] == "N"


def test_flags_of_tracking_and_monitor(sides):
    for side in sides:
        wire, watcher = side.wire(), side.wire()
        target = watcher.call("CLIENT", "ID")
        wire.call("CLIENT", "TRACKING", "ON", "REDIRECT", target)
        assert info(wire)["flags"] == "t" and info(wire)["redir"] == str(target)
        wire.call("CLIENT", "TRACKING", "OFF")
        assert info(wire)["flags"] == "N" and info(wire)["redir"] == "-1"
        wire.call("HELLO", 3)
        wire.call("CLIENT", "TRACKING", "ON", "BCAST")
        assert info(wire)["flags"] == "tB" and info(wire)["redir"] == "0"
        monitor = side.wire()
        me = monitor.call("CLIENT", "ID")
        monitor.call("MONITOR")
        assert other(watcher, me)["flags"] == "O"
        assert b"id=%d " % me in watcher.call("CLIENT", "LIST", "TYPE", "normal")


def test_a_unix_socket(redis_server, nearcache, tmp_path):
    path = str(tmp_path / "near.sock")
    near = nearcache(upstream=redis_server(), listen=(f"unix:{path}",))
    known = info(near.wire())
    assert known["flags"] == "U" and known["addr"] == known["laddr"] == f"{path}:0"


# --- UNBLOCK ---------------------------------------------------------------------------------------


def blocked(side, *command):
    """A client that blocks, and its id."""
    wire, watcher = side.wire(), side.wire()
    me = wire.call("CLIENT", "ID")
    wire.command(*command)
    wait_until(lambda: other(watcher, me)["flags"] == "b")
    return wire, me


@pytest.mark.parametrize("resp", [2, 3])
def test_unblock(sides, resp):
    for side in sides:
        helper = side.wire()
        helper.call("HELLO", resp)
        wire, me = blocked(side, "BLPOP", "no such list", 0)
        assert wait_until(lambda: helper.call("CLIENT", "UNBLOCK", me)) == 1
        assert wire.reply() is None
        assert helper.call("CLIENT", "UNBLOCK", me) == 0
        wire, me = blocked(side, "XREAD", "BLOCK", 0, "STREAMS", "no such stream", "$")
        assert wait_until(lambda: helper.call("CLIENT", "UNBLOCK", me, "ERROR")) == 1
        assert wire.reply() == RespError("UNBLOCKED client unblocked via CLIENT UNBLOCK")
        assert wire.call("PING") == "PONG"


def test_unblock_by_a_client_that_has_a_session_of_its_own(sides):
    for side in sides:
        helper = side.wire()
        helper.call("WATCH", "k")
        wire, me = blocked(side, "BLPOP", "no such list", 0)
        assert wait_until(lambda: helper.call("CLIENT", "UNBLOCK", me, "TIMEOUT")) == 1
        assert wire.reply() is None


# --- KILL ------------------------------------------------------------------------------------------


def test_kill_by_every_filter(sides):
    for side in sides:
        helper = side.wire()
        for make in (lambda k: ["ID", k["id"]], lambda k: ["ADDR", k["addr"]],
                     lambda k: ["ID", k["id"], "LADDR", k["laddr"], "USER", "default"],
                     lambda k: ["ID", k["id"], "TYPE", "NORMAL", "SKIPME", "yes"]):
            victim = side.wire()
            assert helper.call("CLIENT", "KILL", *make(info(victim))) == 1
            assert victim.at_eof()
        victim = side.wire()
        known = info(victim)
        for wrong in (["ID", 99999], ["ADDR", known["laddr"]], ["LADDR", known["addr"]],
                      ["TYPE", "pubsub"], ["ID", info(helper)["id"]]):
            assert helper.call("CLIENT", "KILL", "ID", known["id"], *wrong) == 0, wrong
            assert helper.call("CLIENT", "KILL", *wrong, "USER", "default") == 0, wrong
        assert victim.call("PING") == "PONG"
        assert helper.call("CLIENT", "KILL", known["addr"]) == "OK"
        assert victim.at_eof()
        victim = side.wire()
        me = victim.call("CLIENT", "ID")
        victim.call("SUBSCRIBE", "c")
        assert helper.call("CLIENT", "KILL", "ID", me, "TYPE", "normal") == 0
        assert helper.call("CLIENT", "KILL", "ID", me, "TYPE", "pubsub") == 1
        assert victim.at_eof()


def test_kill_oneself(sides):
    for side in sides:
        wire = side.wire()
        me = wire.call("CLIENT", "ID")
        assert wire.call("CLIENT", "KILL", "ID", me) == 0
        wire.send(encode("CLIENT", "KILL", "ID", me, "SKIPME", "no") + encode("PING"))
        assert wire.reply() == 1 and wire.at_eof()
        wire = side.wire()
        assert wire.call("CLIENT", "KILL", info(wire)["addr"]) == "OK" and wire.at_eof()


def test_kill_a_client_that_blocks_watches_or_monitors(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    helper = near.wire()
    for state in (["BLPOP", "l", 0], ["WATCH", "k"], ["MULTI"], ["SUBSCRIBE", "c"], ["MONITOR"]):
        victim = near.wire()
        me = victim.call("CLIENT", "ID")
        victim.command(*state)
        wait_until(lambda: other(helper, me)["cmd"] == state[0].lower())
        assert helper.call("CLIENT", "KILL", "ID", me) == 1
        wait_until(lambda: helper.call("CLIENT", "LIST", "ID", me) == b"")
    wait_until(lambda: b"\r\nsessions:0\r\n" in helper.call("INFO", "nearcache"))
    assert b"\r\nmonitors:0\r\n" in helper.call("INFO", "nearcache")


def test_kill_by_age(redis_server, nearcache):
    """Of Redis 7.4."""
    near = nearcache(upstream=redis_server())
    helper = near.wire()
    victim = near.wire()
    victim.call("PING")
    assert helper.call("CLIENT", "KILL", "MAXAGE", 1000000) == 0
    assert victim.call("PING") == "PONG"
    assert wait_until(lambda: helper.call("CLIENT", "KILL", "MAXAGE", 1)) == 1 and victim.at_eof()
    assert helper.call("CLIENT", "KILL", "MAXAGE", 0) == \
        RespError("ERR maxage should be greater than 0")
    assert helper.call("CLIENT", "KILL", "MAXAGE", "x") == \
        RespError("ERR maxage is not an integer or out of range")


# --- REPLY -----------------------------------------------------------------------------------------


def test_reply(sides):
    for side in sides:
        wire = side.wire()
        wire.send(encode("CLIENT", "REPLY", "SKIP") + encode("PING", "skipped") + encode("PING", "a"))
        assert wire.reply() == b"a"
        wire.send(encode("CLIENT", "REPLY", "OFF") + encode("PING", 1) + encode("GET", "k") +
                  encode("CLIENT", "REPLY", "SKIP") + encode("NOSUCH") + encode("CLIENT", "ID") +
                  encode("INFO") + encode("CLIENT", "REPLY", "ON"))
        assert wire.reply() == "OK"
        assert wire.call("PING", "b") == b"b"
        wire.send(encode("CLIENT", "REPLY", "SKIP") + encode("CLIENT", "REPLY", "ON"))
        assert wire.reply() == "OK"
        wire.send(encode("CLIENT", "REPLY", "SKIP") + encode("SET", "k", 1) + encode("GET", "k"))
        assert wire.reply() == b"1"


# --- what only newer servers know ------------------------------------------------------------------


def test_settings_of_newer_servers(redis_server, nearcache):
    wire = nearcache(upstream=redis_server()).wire()
    assert wire.call("CLIENT", "SETINFO", "lib-name", "test") == "OK"
    assert wire.call("CLIENT", "SETINFO", "LIB-VER", "1.2") == "OK"
    assert wire.call("CLIENT", "INFO").endswith(b" lib-name=test lib-ver=1.2\n")
    assert wire.call("CLIENT", "SETINFO", "x", "1") == RespError("ERR Unrecognized option 'x'")
    assert wire.call("CLIENT", "SETINFO", "lib-name", "a b") == \
        RespError("ERR lib-name cannot contain spaces, newlines or special characters.")
    assert wire.call("CLIENT", "NO-TOUCH", "ON") == "OK"
    assert wire.call("CLIENT", "NO-TOUCH", "x") == RespError("ERR syntax error")
