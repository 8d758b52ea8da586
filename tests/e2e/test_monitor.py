"""MONITOR: the lines that a bare Redis shows of the same commands, for this proxy's clients."""
import os
import re
import time

import pytest

from conftest import encode, wait_until

LINE = re.compile(r"(\d{10}\.\d{6}) \[(\d+) (127\.0\.0\.1:\d+|unix:/\S+)\] (.*)")


@pytest.fixture(scope="module")
def sides(module_redis_server, module_nearcache):
    """A bare Redis and a nearcache in front of another."""
    return module_redis_server(), module_nearcache(upstream=module_redis_server())


def monitoring(side):
    wire = side.wire()
    assert wire.call("MONITOR") == "OK"
    return wire


def lines_until(monitor, last):
    """(database, command) of what is shown, up to the PING with this argument."""
    shown = []
    while not shown or shown[-1][1] != f'"PING" "{last}"':
        shown.append(LINE.fullmatch(monitor.reply()).group(2, 4))
    return shown[:-1]


def shown_of(side, commands, resp=2):
    """What a monitor is shown of a client's commands; nothing of the proxy's own."""
    with monitoring(side) as monitor, side.wire() as wire:
        wire.call("HELLO", resp)
        for command in commands:
            wire.call(*command)
        wire.call("PING", "end of it")
        return lines_until(monitor, "end of it")


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("commands", [
    [["SET", "k", "v"], ["get", "k"], ["GET", "k"], ["MGET", "k", "l"], ["DEL", "k"]],
    [["ECHO", bytes(range(256))], ["SET", "", "\r\n\t\a\b\"\\é"], ["INCRBY", "n", 10]],
    [["SELECT", 3], ["GET", "k"], ["SELECT", "x"], ["SELECT", 0], ["PING"]],
    [["NOSUCH", "x"], ["GET"], ["CLIENT", "NOSUCH"], ["PING"]],
    [["AUTH", "pw"], ["AUTH", "me", "pw"], ["HELLO", 2, "AUTH", "me", "pw"],
     ["HELLO", 2, "SETNAME", "x", "AUTH", "default", "pw"], ["HELLO", "x"]],
    [["MIGRATE", "127.0.0.1", 1, "", 0, 10, "AUTH2", "me", "pw", "KEYS", "nosuch"],
     ["MIGRATE", "127.0.0.1", 1, "nosuch", 0, 10, "COPY", "AUTH", "pw"]],
    [["CLIENT", "SETNAME", "x"], ["CLIENT", "ID"], ["CLIENT", "LIST"], ["CLIENT", "KILL", "x"],
     ["CONFIG", "GET", "save"], ["SLOWLOG", "GET"], ["INFO", "server"], ["ACL", "WHOAMI"]],
    [["MULTI"], ["SET", "k", "v"], ["GET", "k"], ["EXEC"], ["MULTI"], ["NOSUCH"], ["EXEC"]],
    [["WATCH", "k"], ["UNWATCH"], ["EVAL", "return 1", 1, "k"], ["SCAN", 0], ["KEYS", "*"],
     ["DBSIZE"], ["RANDOMKEY"], ["FLUSHDB"], ["TIME"], ["COMMAND", "COUNT"], ["RESET"]],
])
def test_the_same_lines_as_redis(sides, commands, resp):
    shown = [shown_of(side, commands, resp) for side in sides]
    assert shown[0] == shown[1]


def test_keys_are_those_of_the_client_and_no_fills_are_shown(sides):
    near = sides[1]
    assert shown_of(near, [["GET", "user:1"], ["GET", "user:1"], ["MGET", "user:1", "user:2"]]) == \
        [("0", '"HELLO" "2"'), ("0", '"GET" "user:1"'), ("0", '"GET" "user:1"'),
         ("0", '"MGET" "user:1" "user:2"')]


def test_blocking_commands_are_shown_once(sides):
    for side in sides:
        monitor, wire, helper = monitoring(side), side.wire(), side.wire()
        wire.command("BLPOP", "l", 0)
        assert LINE.fullmatch(monitor.reply())[4] == '"BLPOP" "l" "0"'
        helper.call("RPUSH", "l", "v")
        assert wire.reply() == [b"l", b"v"]
        helper.call("PING", "x")
        assert [text for _, text in lines_until(monitor, "x")] == ['"RPUSH" "l" "v"']


def test_address_time_and_own_commands(sides):
    for side in sides:
        wire = side.wire()
        address = wire.call("CLIENT", "INFO").split(b" ")[1][len("addr="):].decode()
        monitor = monitoring(side)
        wire.call("PING", "x")
        line = LINE.fullmatch(monitor.reply())
        assert line[3] == address
        assert line[4] == '"PING" "x"' and abs(float(line[1]) - time.time()) < 60
        assert monitor.call("CLIENT", "SETNAME", "me") == "OK"
        assert LINE.fullmatch(monitor.reply())[4] == '"CLIENT" "SETNAME" "me"'


def test_a_client_of_a_unix_socket(redis_server, nearcache, tmp_path):
    path = str(tmp_path / "near.sock")
    near = nearcache(upstream=redis_server(), listen=(f"unix:{path}",))
    monitor = monitoring(near)
    near.wire().call("PING")
    assert LINE.fullmatch(monitor.reply())[3] == f"unix:{path}"


def test_a_second_monitor_gets_no_answer(sides):
    for side in sides:
        monitor = monitoring(side)
        monitor.send(encode("MONITOR") + encode("RESET"))
        assert monitor.reply() == "RESET"
        assert monitor.call("PING") == "PONG"  # and is shown nothing any more
        assert monitor.call("PING") == "PONG"


def test_not_in_a_transaction(sides):
    for side in sides:
        wire = side.wire()
        wire.call("MULTI")
        assert wire.call("MONITOR") == "QUEUED"
        assert [str(reply) for reply in wire.call("EXEC")] == \
            ["ERR MONITOR isn't allowed for DENY BLOCKING client"]


@pytest.mark.one_worker
def test_monitors_are_counted_and_forgotten(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    wire, monitors = near.wire(), [monitoring(near) for _ in range(3)]
    assert b"\r\nmonitors:3\r\n" in wire.call("INFO", "nearcache")
    monitors[0].call("RESET")
    monitors[1].close()
    wait_until(lambda: b"\r\nmonitors:1\r\n" in wire.call("INFO", "nearcache"))
    assert wire.call("CLIENT", "KILL", "ID", 4) == 1
    wait_until(lambda: b"\r\nmonitors:0\r\n" in wire.call("INFO", "nearcache"))
    assert wire.call("PING") == "PONG"


def test_a_monitor_that_does_not_read_has_to_go(redis_server, nearcache):
    near = nearcache("--set", "client.max_output=1mb", upstream=redis_server())
    monitor, wire = monitoring(near), near.wire()
    line = encode("ECHO", os.urandom(8).hex() * 4096)

    def is_gone():
        wire.send(line * 16)
        for _ in range(16):
            wire.reply()
        return b"\r\nmonitors:0\r\n" in wire.call("INFO", "nearcache")
    wait_until(is_gone, timeout=20)
    assert "client_dropped" in near.output("stderr")
    monitor.close()
