"""Pub/sub: channels, patterns and keyspace notifications, in both protocols, with and without
channels.namespace."""
import os
import time

import pytest

from conftest import Push, RespError, encode, wait_until
from harness import PATIENCE


@pytest.fixture(scope="module")
def pair(module_redis_server, module_nearcache):
    """A bare Redis, and a nearcache in front of another one."""
    bare = module_redis_server("--notify-keyspace-events", "KEA")
    server = module_redis_server("--notify-keyspace-events", "KEA")
    near = module_nearcache(upstream=server)
    near.server = server
    return bare, near


@pytest.fixture
def wires(pair):
    """Connections to both; whatever else is opened ends with the test."""
    bare, near = pair
    bare.client().flushall()
    near.server.client().flushall()
    yield bare.wire(), near.wire()
    for process in (bare, near, near.server):
        while process.wires:
            process.wires.pop().close()
    wait_until(lambda: stats(near)["sessions"] == 0, what="all sessions given back")


@pytest.fixture
def stack(redis_server, nearcache):
    """A server and a nearcache of its own; `make` takes nearcache's arguments."""
    server = redis_server("--notify-keyspace-events", "KEA")

    def make(*args):
        near = nearcache(*args, upstream=server)
        near.server = server
        return near
    return make


def stats(near):
    return near.client().info("nearcache")


def everything(wire, *commands):
    """All bytes that come back for the commands, sent at once, up to the answer to a PING."""
    marker = b"end-of-test"
    wire.send(b"".join(encode(*command) for command in commands) + encode("PING", marker))
    got = b""
    while not got.endswith(encode(marker)[4:]):
        chunk = wire.socket.recv(65536)
        assert chunk, got
        got += chunk
    return got


def same(wires, *commands):
    bare, near = wires
    expected = everything(bare, *commands)
    assert everything(near, *commands) == expected
    return expected


def publish_to(pair, channel, message):
    """The same message to the subscribers of both; returns how many there were."""
    receivers = [process.wire().call("PUBLISH", channel, message) for process in pair]
    assert receivers[0] == receivers[1]
    return receivers[1]


# --- as Redis does ---------------------------------------------------------------------------------


# Never all of several at once, which come in the order of a hash table.
@pytest.mark.parametrize("commands", [
    [["SUBSCRIBE", "a"]],
    [["SUBSCRIBE", "a", "b", "a"], ["SUBSCRIBE", "c"], ["UNSUBSCRIBE", "a", "c"], ["UNSUBSCRIBE"]],
    [["UNSUBSCRIBE"], ["PUNSUBSCRIBE"], ["SUNSUBSCRIBE"], ["UNSUBSCRIBE", "x", "y"]],
    [["PSUBSCRIBE", "a*", "b?"], ["SUBSCRIBE", "a"], ["PUNSUBSCRIBE", "a*"], ["UNSUBSCRIBE", "a"],
     ["PUNSUBSCRIBE"], ["GET", "k"]],
    [["SSUBSCRIBE", "s", "t"], ["SUBSCRIBE", "a"], ["SUNSUBSCRIBE", "s"], ["SUNSUBSCRIBE"], ["UNSUBSCRIBE"]],
    [["SET", "k", 1], ["SUBSCRIBE", "a"], ["UNSUBSCRIBE", "a"], ["GET", "k"], ["SUBSCRIBE", "a"],
     ["UNSUBSCRIBE"], ["LRANGE", "nolist", 0, -1], ["KEYS", "*"], ["RPUSH", "l", 1, 2, 3],
     ["LRANGE", "l", 0, -1]],
    [["SUBSCRIBE", "a"], ["GET", "k"], ["SET", "k", 1], ["SELECT", 1], ["CLIENT", "ID"], ["INFO"],
     ["MULTI"], ["EXEC"], ["WATCH", "k"], ["EVAL", "return 1", 0], ["BLPOP", "l", 0], ["KEYS", "*"],
     ["FLUSHDB"], ["PUBLISH", "a", "x"], ["CONFIG", "GET", "x"], ["HELLO"], ["AUTH", "x"], ["NOSUCH"],
     ["GET"], ["SUBSCRIBE"], ["PING"], ["PING", "x"], ["PING", "x", "y"], ["SCAN", 0],
     ["CLIENT", "TRACKING", "ON"]],
    [["SUBSCRIBE", "a"], ["PING"], ["UNSUBSCRIBE", "a"], ["PING"]],
    [["MULTI"], ["SUBSCRIBE", "a", "b"], ["PUBLISH", "a", "x"], ["PSUBSCRIBE", "p*"], ["EXEC"],
     ["UNSUBSCRIBE", "a"], ["UNSUBSCRIBE"], ["PUNSUBSCRIBE"], ["GET", "k"]],
    [["MULTI"], ["UNSUBSCRIBE"], ["GET", "k"], ["EXEC"], ["GET", "k"]],
    [["WATCH", "k"], ["SUBSCRIBE", "a"], ["UNSUBSCRIBE"], ["MULTI"], ["SET", "k", 1], ["EXEC"]],
    [["SUBSCRIBE"], ["PSUBSCRIBE"], ["SSUBSCRIBE"], ["PUBLISH", "a"], ["PUBSUB"], ["PUBSUB", "NOSUCH"]],
], ids=lambda commands: " ".join(str(word) for command in commands for word in command)[:60])
@pytest.mark.parametrize("resp", [2, 3])
def test_subscriptions_are_answered_as_redis_answers_them(wires, commands, resp):
    if resp == 3:
        if ["WATCH", "k"] in commands and ["INFO"] in commands:
            commands = [["SUBSCRIBE", "a"], ["GET", "k"], ["SET", "k", 1], ["SELECT", 1], ["GET", "k"],
                        ["SELECT", 0], ["MULTI"], ["INCR", "k"], ["EXEC"], ["WATCH", "k"], ["UNWATCH"],
                        ["EVAL", "return 1", 0], ["KEYS", "*"], ["PUBLISH", "a", "x"], ["PING"],
                        ["MGET", "k", "l"], ["FLUSHDB"], ["UNSUBSCRIBE"]]
        for wire in wires:
            wire.call("HELLO", 3)
    same(wires, *commands)


@pytest.mark.parametrize("resp", [2, 3])
def test_messages_come_as_from_redis(pair, wires, resp):
    for wire in wires:
        wire.call("HELLO", resp)
    same(wires, ["SUBSCRIBE", "chat", "news"], ["PSUBSCRIBE", "ch*", "o?her"], ["SSUBSCRIBE", "shard"])
    assert publish_to(pair, "chat", "hello\r\n\0") == 2
    assert publish_to(pair, "other", "") == 1
    assert publish_to(pair, "news", "x" * 100000) == 1
    assert [process.wire().call("SPUBLISH", "shard", "s") for process in pair] == [1, 1]
    for _ in range(5):
        assert wires[0].raw() == wires[1].raw()
    same(wires, ["PING"])


def test_messages_to_oneself_in_resp3(wires):
    """Redis sends the message before the reply to PUBLISH; both must come, whole."""
    for wire in wires:
        wire.call("HELLO", 3)
        wire.call("SUBSCRIBE", "c")
    for wire in wires:
        wire.command("PUBLISH", "c", "x")
    for wire in wires:
        assert sorted([str(wire.reply()), str(wire.reply())]) == \
            sorted([str(Push([b"message", b"c", b"x"])), "1"])


@pytest.mark.parametrize("commands", [
    [["SUBSCRIBE", "a"], ["MULTI"], ["PUBLISH", "a", "x"], ["GET", "k"], ["PUBLISH", "a", "y"],
     ["INFO", "nosuch"], ["LPUSH", "l", 1], ["LMPOP", 1, "l", "LEFT"], ["EXEC"], ["GET", "k"], ["UNSUBSCRIBE"],
     ["DBSIZE"]],
    [["MULTI"], ["SUBSCRIBE", "a", "b"], ["PUBLISH", "a", "x"], ["GET", "k"], ["UNSUBSCRIBE", "a", "b"], ["GET", "k"],
     ["EXEC"], ["PING"], ["GET", "k"]],
    [["PSUBSCRIBE", "*"], ["MULTI"], ["PUBLISH", "a", "x"], ["DISCARD"], ["MULTI"], ["PUBLISH", "b", "x"],
     ["PUNSUBSCRIBE"], ["PUBLISH", "a", "x"], ["EXEC"], ["PING"]],
], ids=["subscribed", "within", "pattern"])
def test_messages_to_oneself_in_a_transaction(pair, commands):
    """Redis before 7.2 has them between the elements of EXEC's reply, which does not count them. Nobody
    else is given what is left of it."""
    def all_of(process):
        wire = process.wire()
        wire.call("SET", "k", "v")
        wire.call("HELLO", 3)
        wire.send(b"".join(encode(*command) for command in commands) + encode("ECHO", "the end"))
        replies = [wire.raw()]
        while replies[-1] != b"$7\r\nthe end\r\n":
            replies.append(wire.raw())
        return b"".join(replies)
    assert all_of(pair[1]) == all_of(pair[0])
    wire = pair[1].wire()
    for _ in range(3):
        assert [wire.call("WATCH", "k"), wire.call("GET", "k"), wire.call("UNWATCH")] == ["OK", b"v", "OK"]


def test_many_messages_keep_their_order_among_replies(pair, wires):
    _, near = wires
    near.call("HELLO", 3)
    near.call("SUBSCRIBE", "c")
    near.call("SET", "big", "v" * 20000)
    publisher = pair[1].wire()
    n = 3000
    for i in range(n):
        publisher.command("PUBLISH", "c", i)
        if i % 10 == 0:
            near.send(encode("GET", "big") + encode("ECHO", i))
    seen, echoed = [], []
    while len(seen) < n or len(echoed) < n // 10:
        said = near.reply()
        if isinstance(said, Push):
            seen.append(int(said[2]))
        elif said != b"v" * 20000:
            echoed.append(int(said))
    assert seen == list(range(n)) and echoed == list(range(0, n, 10))
    for i in range(n):
        assert publisher.reply() == 1


def test_numsub_drops_when_a_subscriber_dies(pair, wires):
    near = pair[1]
    direct = near.server.client()
    dying = [near.wire() for _ in range(5)]
    for wire in dying:
        wire.send(encode("SUBSCRIBE", "c", "d") + encode("PSUBSCRIBE", "p*"))
        for _ in range(3):
            wire.reply()
    assert near.wire().call("PUBSUB", "NUMSUB", "c", "d", "e") == [b"c", 5, b"d", 5, b"e", 0]
    assert near.wire().call("PUBSUB", "NUMPAT") == 1
    for wire in dying:
        wire.close()
    wait_until(lambda: direct.pubsub_numsub("c") == [(b"c", 0)] and direct.pubsub_numpat() == 0)
    assert near.wire().call("PUBSUB", "CHANNELS", "[cd]") == []


def test_a_subscriber_that_does_not_read_has_to_go(stack):
    near = stack("--set", "client.max_output=1mb")
    stuck, other = near.wire(), near.wire()
    stuck.call("SUBSCRIBE", "c")
    message = "x" * 100000
    deadline = time.monotonic() + 20
    while other.call("PUBLISH", "c", message) == 1:
        assert time.monotonic() < deadline
    assert stats(near)["clients_dropped"] == 1
    other.call("PUBLISH", "c", message)
    big = near.wire()
    big.call("SUBSCRIBE", "c")
    other.call("PUBLISH", "c", "x" * 2000000)  # more than it may have unread
    assert big.at_eof() or True
    wait_until(lambda: other.call("PUBSUB", "NUMSUB", "c") == [b"c", 0])


def test_no_deadline_while_subscribed(stack):
    ms = 300 * PATIENCE
    near = stack("--set", f"upstream.timeout={ms}ms")
    wire = near.wire()
    assert wire.call("SUBSCRIBE", "c") == [b"subscribe", b"c", 1]
    begin = time.monotonic()
    while time.monotonic() < begin + 1.5 * ms / 1000:
        assert near.wire().call("PING") == "PONG"
    assert near.wire().call("PUBLISH", "c", "late") == 1
    assert wire.reply() == [b"message", b"c", b"late"]


def test_reply_off_and_skip_do_not_hold_messages_back(wires, pair):
    for resp in (2, 3):
        for commands in ([["CLIENT", "REPLY", "OFF"], ["SUBSCRIBE", "c"]],
                         [["SUBSCRIBE", "c"], ["CLIENT", "REPLY", "OFF"]],
                         [["CLIENT", "REPLY", "SKIP"], ["SUBSCRIBE", "c"]]):
            if resp == 2 and commands[0][0] == "SUBSCRIBE":
                continue  # not allowed there
            fresh = [process.wire() for process in pair]
            for wire in fresh:
                wire.call("HELLO", resp)
                wire.send(b"".join(encode(*command) for command in commands))
            wait_until(lambda: all(p.client().pubsub_numsub("c") == [(b"c", 1)] for p in pair))
            publish_to(pair, "c", "m")
            said = []
            for wire in fresh:
                got = b""
                while not got.endswith(b"$1\r\nm\r\n"):
                    got += wire.socket.recv(4096)
                said.append(got)
                wire.close()
            assert said[0] == said[1], (resp, commands)
            wait_until(lambda: all(p.client().pubsub_numsub("c") == [(b"c", 0)] for p in pair))


def test_hello_switches_in_the_middle(pair, wires):
    for wire in wires:
        wire.call("HELLO", 3)
    same(wires, ["SUBSCRIBE", "c"])
    for wire in wires:
        assert wire.call("HELLO", 2)[4:6] == [b"proto", 2]
    publish_to(pair, "c", "two")
    assert wires[0].raw() == wires[1].raw() == b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\ntwo\r\n"
    for wire in wires:
        assert isinstance(wire.call("HELLO", 3), RespError)  # not while subscribed in RESP2
    same(wires, ["UNSUBSCRIBE"])
    for wire in wires:
        assert isinstance(wire.call("HELLO", 3), dict)
    same(wires, ["SUBSCRIBE", "c"], ["HGETALL", "h"])
    publish_to(pair, "c", "three")
    assert wires[0].raw() == wires[1].raw() == b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nthree\r\n"


def test_redis_py_subscriber(pair, wires):
    client = pair[1].client()
    pubsub = client.pubsub()
    pubsub.subscribe("c")
    pubsub.psubscribe("p*")
    assert [pubsub.get_message(timeout=5)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
    assert client.publish("c", "1") == 1 and client.publish("px", "2") == 1
    assert pubsub.get_message(timeout=5)["data"] == b"1"
    assert pubsub.get_message(timeout=5)["data"] == b"2"
    pubsub.unsubscribe()
    pubsub.punsubscribe()
    assert [pubsub.get_message(timeout=5)["type"] for _ in range(2)] == ["unsubscribe", "punsubscribe"]
    pubsub.close()


# --- channels.namespace ----------------------------------------------------------------------------


def test_services_can_talk_by_default(pair, wires):
    _, near = wires
    direct = pair[1].server.client()
    near.call("SUBSCRIBE", "chat")
    near.call("PSUBSCRIBE", "demo:*")
    assert direct.pubsub_channels("chat") == [b"chat"]
    direct.publish("chat", "from outside")
    assert near.reply() == [b"message", b"chat", b"from outside"]
    direct.publish("demo:x", "as it is")
    assert near.reply() == [b"pmessage", b"demo:*", b"demo:x", b"as it is"]
    other = pair[1].wire()
    assert other.call("PUBSUB", "CHANNELS", "ch*") == [b"chat"]
    assert b"cache:invalidate" in other.call("PUBSUB", "CHANNELS")  # nearcache's own


@pytest.mark.parametrize("resp", [2, 3])
def test_channels_in_the_namespace(stack, resp):
    near = stack("--set", "channels.namespace=on")
    direct = near.server.client()
    wire, other = near.wire(), near.wire()
    wire.call("HELLO", resp)
    wire.send(encode("SUBSCRIBE", "chat", "x") + encode("PSUBSCRIBE", "c?at", "*") +
              encode("SSUBSCRIBE", "shard"))
    assert [wire.reply() for _ in range(5)] == [
        [b"subscribe", b"chat", 1], [b"subscribe", b"x", 2], [b"psubscribe", b"c?at", 3],
        [b"psubscribe", b"*", 4], [b"ssubscribe", b"shard", 1]]
    assert sorted(direct.pubsub_channels("demo:*")) == [b"demo:chat", b"demo:x"]
    assert direct.publish("chat", "somebody else's") == 0
    assert other.call("PUBLISH", "chat", "ours") == 3
    assert other.call("SPUBLISH", "shard", "s") == 1
    assert direct.publish("demo:chat", "from outside") == 3
    messages = [[b"message", b"chat"], [b"pmessage", b"c?at", b"chat"], [b"pmessage", b"*", b"chat"]]
    got = [wire.reply() for _ in range(7)]
    assert sorted(got[:3]) == sorted(m + [b"ours"] for m in messages)
    assert got[3] == [b"smessage", b"shard", b"s"]
    assert sorted(got[4:]) == sorted(m + [b"from outside"] for m in messages)
    direct_sub = direct.pubsub()
    direct_sub.subscribe("foreign")
    direct_sub.get_message(timeout=5)
    assert sorted(other.call("PUBSUB", "CHANNELS")) == [b"chat", b"x"]
    assert other.call("PUBSUB", "CHANNELS", "c*") == [b"chat"]
    assert other.call("PUBSUB", "NUMSUB", "chat", "foreign") == [b"chat", 1, b"foreign", 0]
    assert other.call("PUBSUB", "SHARDCHANNELS") == [b"shard"]
    assert other.call("PUBSUB", "SHARDNUMSUB", "shard") == [b"shard", 1]
    assert wire.call("UNSUBSCRIBE", "chat") == [b"unsubscribe", b"chat", 3]
    wire.command("UNSUBSCRIBE")
    assert wire.reply() == [b"unsubscribe", b"x", 2]
    wire.command("PUNSUBSCRIBE")
    assert sorted(wire.reply()[1] for _ in range(2)) == [b"*", b"c?at"]
    assert wire.call("SUNSUBSCRIBE") == [b"sunsubscribe", b"shard", 0]
    assert wire.call("UNSUBSCRIBE") == [b"unsubscribe", None, 0]
    direct_sub.close()


def test_channels_in_the_namespace_inside_a_transaction(stack):
    near = stack("--set", "channels.namespace=on")
    wire, sub = near.wire(), near.wire()
    sub.call("SUBSCRIBE", "c")
    wire.send(encode("MULTI") + encode("PUBLISH", "c", "m") + encode("PUBSUB", "CHANNELS", "*") +
              encode("PUBSUB", "NUMSUB", "c") + encode("EXEC"))
    assert [wire.reply() for _ in range(4)] == ["OK"] + ["QUEUED"] * 3
    assert wire.reply() == [1, [b"c"], [b"c", 1]]
    assert sub.reply() == [b"message", b"c", b"m"]


def test_the_invalidation_channels_are_everybodys(stack):
    near = stack("--set", "channels.namespace=on")
    direct = near.server.client()
    wire, other = near.wire(), near.wire()
    for channel in ("cache:invalidate", "cache:invalidate:l1", "cache:change"):
        assert wire.call("SUBSCRIBE", channel)[1] == channel.encode()
        direct.publish(channel, "{}")
        assert wire.reply() == [b"message", channel.encode(), b"{}"]
        assert other.call("PUBLISH", channel, "{}") >= 1
        assert wire.reply() == [b"message", channel.encode(), b"{}"]


# --- keyspace notifications ------------------------------------------------------------------------


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("namespaced", ["on", "off"])
def test_keyspace_notifications_are_our_own(stack, namespaced, resp):
    near = stack("--set", f"channels.namespace={namespaced}")
    direct = near.server.client()
    wire, other = near.wire(), near.wire()
    wire.call("HELLO", resp)
    subscriptions = [["SUBSCRIBE", "__keyspace@0__:k"], ["PSUBSCRIBE", "__keyspace@*__:u:*"],
                     ["SUBSCRIBE", "__keyevent@0__:set"], ["PSUBSCRIBE", "__keyevent@*__:del"]]
    for i, command in enumerate(subscriptions):
        assert wire.call(*command) == [command[0].lower().encode(), command[1].encode(), i + 1]
    direct.set("other:k", 1), direct.set("k", 1), direct.delete("other:k"), direct.set("demo", 1)
    other.call("SET", "k", 1)
    got = [wire.reply() for _ in range(2)]
    assert [b"message", b"__keyspace@0__:k", b"set"] in got
    assert [b"message", b"__keyevent@0__:set", b"k"] in got
    direct.set("demo:u:1", 1)
    got = [wire.reply() for _ in range(2)]
    assert [b"pmessage", b"__keyspace@*__:u:*", b"__keyspace@0__:u:1", b"set"] in got
    assert [b"message", b"__keyevent@0__:set", b"u:1"] in got
    other.call("DEL", "k")
    got = [wire.reply() for _ in range(2)]
    assert [b"message", b"__keyspace@0__:k", b"del"] in got
    assert [b"pmessage", b"__keyevent@*__:del", b"__keyevent@0__:del", b"k"] in got
    other.call("SELECT", 3)
    other.call("SET", "u:2", 1)
    assert wire.reply() == [b"pmessage", b"__keyspace@*__:u:*", b"__keyspace@3__:u:2", b"set"]
    assert wire.call("UNSUBSCRIBE", "__keyspace@0__:k") == [b"unsubscribe", b"__keyspace@0__:k", 3]


def test_a_pattern_for_everything_shows_only_our_keyspace(pair, wires):
    _, near = wires
    direct = pair[1].server.client()
    near.call("PSUBSCRIBE", "*")
    direct.set("other:k", 1)
    direct.set("demo:k", 1)
    direct.publish("chat", "m")
    seen = []
    while not seen or seen[-1][2] != b"chat":
        seen.append(near.reply())
    seen = [message for message in seen if message[2].startswith((b"__key", b"chat"))]
    assert seen == [[b"pmessage", b"*", b"__keyspace@0__:k", b"set"],
                    [b"pmessage", b"*", b"__keyevent@0__:set", b"k"], [b"pmessage", b"*", b"chat", b"m"]]


def test_expired_events(pair, wires):
    _, near = wires
    near.call("SUBSCRIBE", "__keyevent@0__:expired")
    other = pair[1].wire()
    pair[1].server.client().set("other:k", 1, px=20)
    other.call("SET", "k", 1, "PX", 30)
    assert near.reply() == [b"message", b"__keyevent@0__:expired", b"k"]


def test_keyspace_channels_are_listed_as_ours(pair, wires):
    """PUBSUB takes and shows them without the prefix, whatever channels.namespace is."""
    _, near = wires
    near.call("SUBSCRIBE", "__keyspace@0__:k")
    other = pair[1].wire()
    assert other.call("PUBSUB", "NUMSUB", "__keyspace@0__:k") == [b"__keyspace@0__:k", 1]
    assert other.call("PUBSUB", "CHANNELS", "__keyspace@0__:*") == [b"__keyspace@0__:k"]


def test_asan_or_not_nothing_is_left(stack):
    """Subscribers that come and go in every way, then an orderly end."""
    near = stack()
    wires = [near.wire() for _ in range(30)]
    for i, wire in enumerate(wires):
        wire.send(encode("HELLO", 2 + i % 2) + encode("SUBSCRIBE", "c", f"c{i}"))
        for _ in range(3):
            wire.reply()
    publisher = near.wire()
    for i in range(50):
        publisher.command("PUBLISH", "c", os.urandom(2000))
        if i % 3 == 0:
            wires.pop().close()
        elif i % 3 == 1:
            wires[-1].command("UNSUBSCRIBE")
    near.stop()
