"""Pipelines of one client, as tests/chaos has found them broken: order, and replies that nobody wants."""
import pytest

from conftest import wait_until
from fault import request
from harness import RespError, encode


@pytest.mark.one_worker
def test_a_read_does_not_show_what_its_own_client_wrote_behind_it(world):
    w = world("--set", "upstream.connections=2")
    w.direct.set("demo:k", "old")
    first, second, misses = w.wire(), w.wire(), w.stat("misses")  # neighbours have different connections
    held = w.fault.data.requests.hold(request("GET"))
    first.command("GET", "k")
    held.wait()
    second.send(encode("GET", "k") + encode("SET", "k", "new"))
    wait_until(lambda: w.stat("misses") == misses + 2)
    try:  # as long as the write goes the same way as the read it waits, too
        wait_until(lambda: w.direct.get("demo:k") == b"new", timeout=1)
    except AssertionError:
        pass
    held.release()
    assert first.reply() in (b"old", b"new")
    assert (second.reply(), second.reply()) == (b"old", "OK")


@pytest.mark.parametrize("command", [("PING", "x"), ("ECHO", "x")], ids=" ".join)
def test_a_ping_without_a_wish_for_replies_is_mute_when_the_upstream_is_lost(world, command):
    w = world()
    held = w.fault.data.requests.hold(request(command[0]))
    wire = w.wire()
    wire.send(encode("CLIENT", "REPLY", "SKIP") + encode(*command) + encode("INCR", "k"))
    held.wait()
    w.fault.data.cut()
    reply = wire.reply()
    assert isinstance(reply, RespError) and reply.args[0].startswith("NEARCACHE ")
