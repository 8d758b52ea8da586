"""Events that go with writes: who publishes what and when, in the order of the writes; and who
believes them."""
import json
import re
import signal
import time

import pytest

from conftest import encode, wait_until
from test_views import Side

LONG = ["--set", "l1.ttl=1h", "--set", "l1.negative_ttl=1h"]
LINE = re.compile(r"^[\d.]+ \[(\d+) (\S+)\] (.*)$")
WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


def unescape(text):
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


class Monitor:
    """What the real server is asked, in order: (client's address, [words])."""

    def __init__(self, server):
        self.wire, self.direct, self.marks = server.wire(), server.client(), 0
        assert self.wire.call("MONITOR") == "OK"

    def seen(self):
        """Everything since the last time."""
        self.marks += 1
        mark = b"mark %d" % self.marks
        self.direct.echo(mark)
        lines = []
        while True:
            _, who, words = LINE.match(self.wire.reply()).groups()
            words = [unescape(word) for word in WORD.findall(words)]
            if words == [b"ECHO", mark]:
                return lines
            if words[0] not in (b"PING", b"PTTL", b"ECHO"):
                lines.append((who, words))

    def events(self, n):
        """What was published, (channel, payload or its members), once these are `n`: behind a private
        connection's reply they go out on another one."""
        lines = []

        def enough():
            lines.extend(self.seen())
            return sum(words[0] == b"PUBLISH" for _, words in lines) >= n
        wait_until(enough, what=f"{n} events")
        return [event(words) for _, words in lines if words[0] == b"PUBLISH"]


def event(words):
    channel, payload = words[1].decode(), words[2]
    return channel, json.loads(payload) if channel == "cache:invalidate" else payload


def names(events):
    """('key', 'k'), ('prefix', ''), ('raw', b'...') without the rest."""
    found = []
    for channel, said in events:
        if channel == "cache:invalidate:l1":
            found.append(("raw", said))
        else:
            found += [(what, said[what]) for what in ("key", "prefix") if what in said]
    return found


def settings(tracking, publish):
    return ["--set", f"invalidation.tracking={tracking}", "--set", f"invalidation.publish={publish}"]


class Setup:
    def __init__(self, redis_server, nearcache):
        self.server = redis_server()
        self.start, self.monitor = nearcache, None

    def near(self, tracking="off", publish="auto", namespace=None, more=()):
        prefix = ["--namespace", namespace] if namespace is not None else []
        process = self.start(*settings(tracking, publish), *LONG, *prefix, *more, upstream=self.server)
        side = Side(self.server, process, 2)
        side.process = process
        wait_until(lambda: side.stats()["serving"] == 1, what="a live link")
        return side

    def watch(self):
        self.monitor = Monitor(self.server)
        return self.monitor


@pytest.fixture
def setup(redis_server, nearcache):
    return Setup(redis_server, nearcache)


def call(side, *words):
    """A command whose reply is no error."""
    raw = side.near.call_raw(*words)
    assert not raw.startswith(b"-"), (words, raw)
    return raw


# --- whether ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracking,publish,told", [
    ("off", "off", False), ("off", "auto", True), ("off", "on", True),
    ("auto", "off", False), ("auto", "auto", False), ("auto", "on", True), ("on", "on", True)])
def test_when_events_are_published(setup, tracking, publish, told):
    side = setup.near(tracking, publish)
    monitor = setup.watch()
    call(side, "SET", "k", 1), call(side, "GET", "k"), call(side, "EVAL", "return 1", 0)
    call(side, "MULTI"), call(side, "SET", "m", 1), call(side, "EXEC"), call(side, "FLUSHDB")
    if told:
        published = names(monitor.events(4))
        assert sorted(published) == [("key", "k"), ("key", "m"), ("prefix", ""), ("prefix", "")]
    else:
        for _ in range(3):
            side.near.call("GET", "k"), side.near.call("PING")
        assert monitor.events(0) == []
    assert side.stats()["events_published"] == 4 * told


def test_auto_publishes_where_tracking_is_refused(redis_server, nearcache):
    server = redis_server()
    server.client().execute_command("ACL", "SETUSER", "nc", "on", ">pw", "~*", "&*", "+@all",
                                    "-client|tracking")
    near = nearcache(upstream=f"redis://nc:pw@127.0.0.1:{server.port}/0")
    side = Side(server, near, 2)
    wait_until(lambda: side.stats()["serving"] == 1)
    monitor = Monitor(server)
    call(side, "SET", "k", 1)
    assert names(monitor.events(1)) == [("key", "k")]


def test_what_an_event_says(setup):
    side, other = setup.near(), setup.near()
    monitor = setup.watch()
    call(side, "SET", 'k"\n\u00e9', 1)
    call(other, "SET", "k", 1)
    (_, first), (_, second) = monitor.events(2)
    assert set(first) == {"service", "key", "timestamp", "origin"}
    assert first["service"] == "demo" and first["key"] == 'k"\n\u00e9'
    assert abs(first["timestamp"] - time.time() * 1000) < 60000
    assert re.fullmatch("[0-9a-f]{16}", first["origin"]) and first["origin"] != second["origin"]


# --- which keys ------------------------------------------------------------------------------------

SETUP = [["RPUSH", "l", "1", "2"], ["SADD", "s", "a", "b"], ["ZADD", "z", "1", "a"], ["SET", "str", "x"],
         ["HSET", "h", "f", "1"], ["XADD", "x", "1-1", "f", "v"]]
WRITES = [
    (["SET", "k", "1"], {"k"}), (["MSET", "a", "1", "b", "2"], {"a", "b"}), (["DEL", "a", "b", "c"], {"a", "b", "c"}),
    (["INCR", "n"], {"n"}), (["HSET", "h", "f", "1"], {"h"}), (["LPUSH", "l", "1"], {"l"}),
    (["RENAME", "str", "to"], {"str", "to"}), (["COPY", "str", "to"], {"to"}), (["SMOVE", "s", "t", "a"], {"s", "t"}),
    (["LMOVE", "l", "m", "LEFT", "RIGHT"], {"l", "m"}), (["SUNIONSTORE", "d", "s", "t"], {"d"}),
    (["ZUNIONSTORE", "d", "2", "z", "y"], {"d"}), (["SORT", "l", "STORE", "d"], {"d"}),
    (["BITOP", "NOT", "d", "str"], {"d"}), (["PFADD", "p", "1"], {"p"}), (["EXPIRE", "str", "100"], {"str"}),
    (["PERSIST", "str"], {"str"}), (["GETDEL", "str"], {"str"}), (["GETEX", "str", "EX", "9"], {"str"}),
    (["XADD", "x", "*", "f", "v"], {"x"}), (["XTRIM", "x", "MAXLEN", "0"], {"x"}),
    (["LMPOP", "2", "none", "l", "LEFT"], {"none", "l"}), (["ZPOPMIN", "z"], {"z"}),
    (["SETRANGE", "str", "0", "y"], {"str"}), (["UNLINK", "str"], {"str"}), (["GETSET", "str", "2"], {"str"}),
    (["EVAL", "return redis.call('set', KEYS[1], 1)", "1", "e"], {"e"}),
    (["EVAL", "return 1", "2", "e", "f"], {"e", "f"}),
    (["BLPOP", "none", "l", "1"], {"none", "l"}), (["BZPOPMIN", "z", "1"], {"z"}),
    (["BLMOVE", "l", "m", "LEFT", "LEFT", "1"], {"l", "m"}),
    (["GEORADIUS", "g", "1", "1", "1", "km", "STORE", "d"], {"d"}), (["MOVE", "str", "3"], {"str"}),
]


def test_the_keys_of_each_write(setup):
    side = setup.near()
    monitor = setup.watch()
    for words, keys in WRITES:
        for made in SETUP:
            side.bare.call(made[0], "demo:" + made[1], *made[2:])
        monitor.seen()
        call(side, *words)
        published = names(monitor.events(len(keys)))
        assert sorted(published) == sorted(("key", key) for key in keys), words
        side.bare.call("FLUSHALL")


@pytest.mark.parametrize("words", [
    ["FLUSHDB"], ["FLUSHALL"], ["EVAL", "return 1", "0"], ["FLUSHDB", "ASYNC"]])
def test_all_keys(setup, words):
    side = setup.near()
    side.bare.call("SET", "demo:k", 1)
    monitor = setup.watch()
    call(side, *words)
    assert names(monitor.events(1)) == [("prefix", "")]


def test_functions_may_write_anything(setup):
    side = setup.near()
    side.direct.execute_command("FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', "
                                "function(keys) return redis.call('set', keys[1], 1) end)")
    monitor = setup.watch()
    call(side, "FCALL", "f", 1, "k")
    assert ("prefix", "") in names(monitor.events(1))


def test_reads_and_publishes_are_not_announced(setup):
    side = setup.near()
    monitor = setup.watch()
    for words in (["GET", "k"], ["EXISTS", "k"], ["TTL", "k"], ["KEYS", "*"], ["SCAN", "0"], ["PING"],
                  ["EVAL_RO", "return 1", "1", "k"], ["PUBLISH", "news", "x"], ["DBSIZE"],
                  ["PUBLISH", "cache:invalidate", '{"service":"demo","key":"k"}'], ["SORT_RO", "l"]):
        call(side, *words)
    published = [words for _, words in monitor.seen() if words[0] == b"PUBLISH"]
    assert published == [[b"PUBLISH", b"news", b"x"],
                         [b"PUBLISH", b"cache:invalidate", b'{"service":"demo","key":"k"}']]


@pytest.mark.parametrize("key", [b"\xff\xfe", b"a\0b", b"\xed\xa0\x80", b"\xc0\x80", b"cut\xe2\x82"])
def test_binary_keys_go_to_the_raw_channel(setup, key):
    side, other = setup.near(), setup.near()
    side.near.call("SET", key, "old")
    assert other.near.call("GET", key) == b"old"
    monitor = setup.watch()
    side.near.call("SET", key, "new")
    assert names(monitor.events(1)) == [("raw", b"demo:" + key)]
    wait_until(lambda: other.near.call("GET", key) == b"new")


# --- when ------------------------------------------------------------------------------------------


def test_events_follow_the_writes_of_a_pipeline(setup):
    side = setup.near()
    monitor = setup.watch()
    keys = [b"k%d" % i for i in range(20)]
    side.near.send(b"".join(encode("SET", key, 1) + encode("INCR", key) + encode("GET", key)
                            for key in keys))
    for _ in keys:
        assert (side.near.reply(), side.near.reply(), side.near.reply()) == ("OK", 2, b"2")
    lines = [line for line in monitor.seen()  # without those of the link, which may just connect
             if line[1][0] in (b"SET", b"INCR", b"GET", b"PUBLISH")]
    assert len({who for who, _ in lines}) == 1  # one connection, whose order is the server's
    words = [words for _, words in lines]
    published = [i for i, w in enumerate(words) if w[0] == b"PUBLISH"]
    assert [json.loads(words[i][2])["key"].encode() for i in published] == keys  # each of them once
    assert published == list(range(published[0], published[0] + len(keys)))  # together
    assert published[0] == len(words) - len(keys)  # and last


def test_each_client_sees_its_own_write_before_the_event(setup):
    """On one connection the event never goes before its write, however many clients there are."""
    side = setup.near()
    monitor = setup.watch()
    wires = [side.process.wire() for _ in range(10)]
    for i in range(20):
        for n, wire in enumerate(wires):
            wire.command("SET", f"k{n}", i)
        for wire in wires:
            assert wire.reply() == "OK"
    written, told = {}, {}
    for _, words in monitor.seen():
        if words[0] == b"SET":
            key = words[1].decode()[len("demo:"):]
            written[key] = written.get(key, 0) + 1
            told.setdefault(key, 0)
        elif words[0] == b"PUBLISH":
            key = json.loads(words[2])["key"]
            told[key] = written[key]
    assert told == written == {f"k{n}": 20 for n in range(10)}


def test_a_transactions_keys_after_exec(setup):
    side = setup.near()
    monitor = setup.watch()
    for words in (["MULTI"], ["SET", "a", 1], ["RENAME", "a", "b"], ["GET", "c"], ["EXEC"]):
        call(side, *words)
    lines = []

    def both():
        lines.extend(words for _, words in monitor.seen())
        return sum(words[0] == b"PUBLISH" for words in lines) == 2
    wait_until(both)
    executed = [words[0].upper() for words in lines].index(b"EXEC")
    assert all(words[0] != b"PUBLISH" for words in lines[:executed])
    published = names(event(words) for words in lines if words[0] == b"PUBLISH")
    assert sorted(published) == [("key", "a"), ("key", "b")]


def test_a_blocking_pop_tells_when_it_has_popped(setup):
    side, other = setup.near(), setup.near()
    assert other.near.call("LLEN", "l") == 0
    side.near.command("BLPOP", "l", 10)
    wait_until(lambda: side.direct.info("clients")["blocked_clients"] == 1)
    monitor = setup.watch()
    side.direct.rpush("demo:l", "x", "y")
    assert side.near.reply() == [b"l", b"x"]
    wait_until(lambda: other.near.call("LLEN", "l") == 1)
    assert names(monitor.events(1)) == [("key", "l")]


def test_the_client_that_left(setup):
    side, other = setup.near(), setup.near()
    side.near.call("SET", "k", "old")
    assert other.near.call("GET", "k") == b"old"
    gone = side.process.wire()
    gone.command("SET", "k", "new")
    gone.close()
    wait_until(lambda: other.near.call("GET", "k") == b"new")


def test_in_another_database(setup):
    side, other = setup.near(), setup.near()
    for each in (side, other):
        assert each.near.call("SELECT", 3) == "OK"
    side.near.call("SET", "k", "old")
    assert other.near.call("GET", "k") == b"old"
    side.near.call("SET", "k", "new")
    wait_until(lambda: other.near.call("GET", "k") == b"new")


# --- who believes them -----------------------------------------------------------------------------


def after_all_events(side):
    """Everything published until now has been heard: events come in order."""
    side.near.call("GET", "after")
    assert side.hits("after", "GET")
    side.direct.publish("cache:invalidate:l1", "after")
    wait_until(lambda: side.misses("after", "GET"))


def test_the_own_echo_does_not_evict(setup):
    side = setup.near()
    for i in range(20):
        side.near.call("SET", "k", i)
        assert side.near.call("GET", "k") == b"%d" % i
        after_all_events(side)
        assert side.hits("k", "GET")
    assert side.stats()["events_published"] >= 20


@pytest.mark.one_worker
def test_anothers_event_does_evict(setup):
    side, other = setup.near(), setup.near()
    for i in range(20):
        side.near.call("SET", "k", i)
        wait_until(lambda n=i: other.near.call("GET", "k") == b"%d" % n)
        wait_until(lambda: other.hits("k", "GET"))  # the server tells of it, too, perhaps only now


@pytest.mark.parametrize("write", [
    [["SET", "k", "new"]], [["MULTI"], ["SET", "k", "new"], ["EXEC"]],
    [["EVAL", "return redis.call('set', KEYS[1], 'new')", "1", "k"]],
    [["EVAL", "return redis.call('set', 'demo:k', 'new')", "0"]], [["FLUSHDB"]], [["FLUSHALL"]],
    [["WATCH", "x"], ["SET", "k", "new"]], [["SET", "k2", "new"], ["RENAME", "k2", "k"]],
    [["EXPIRE", "k", "0"]], [["SORT", "list", "STORE", "k"]], [["DEL", "k"]], [["GETDEL", "k"]],
    [["PEXPIRE", "k", "1"]]])
@pytest.mark.parametrize("resp", [2, 3])
def test_every_kind_of_write_reaches_the_other(setup, write, resp):
    side, other = setup.near(), setup.near()
    if resp == 3:
        side.near.call("HELLO", 3)
    side.bare.call("SET", "demo:k", "old")
    assert other.near.call("GET", "k") == b"old" and other.hits("k", "GET")
    for words in write:
        call(side, *words)
    wait_until(lambda: other.near.call_raw("GET", "k") == other.true("k", "GET") and
               other.near.call("GET", "k") != b"old")


def test_a_mode_with_tracking_believes_events_too(setup):
    """Which is harmless, and right while its own tracking is being set up."""
    side, tracks = setup.near(), setup.near("on", "off")
    side.near.call("SET", "k", 1)
    wait_until(lambda: tracks.near.call("GET", "k") == b"1")
    before = tracks.stats()["invalidations"]
    side.direct.publish("cache:invalidate", '{"service":"demo","key":"k"}')
    wait_until(lambda: tracks.stats()["invalidations"] > before)


@pytest.mark.parametrize("tracking", ["off", "on"])
def test_a_prefix_event_evicts_by_prefix(setup, tracking):
    side = setup.near(tracking)
    keys = ["user:1", "user:2", "user:", "users", "other", "demo:user:3"]
    for key in keys:
        side.bare.call("SET", "demo:" + key, 1)
    for key in keys:
        wait_until(lambda k=key: side.near.call("GET", k) == b"1" and side.hits(k, "GET"))
    side.near.call("GET", "user:none")
    side.direct.publish("cache:invalidate", '{"service":"other","prefix":""}')
    side.direct.publish("cache:invalidate", '{"service":"demo","prefix":"user:"}')
    wait_until(lambda: side.misses("user:1", "GET"))
    for key in ["user:2", "user:", "user:none"]:
        assert side.misses(key, "GET"), key
    for key in ["users", "other", "demo:user:3"]:
        assert side.hits(key, "GET"), key
    side.direct.publish("cache:invalidate", '{"service":"demo","prefix":""}')
    wait_until(lambda: side.misses("other", "GET"))


def test_a_prefix_event_of_our_own_client_counts_at_once(setup):
    side = setup.near()
    for i in range(20):
        side.near.call("GET", "user:1"), side.near.call("HGET", "user:2", "f")
        side.near.call("PUBLISH", "cache:invalidate", '{"service":"demo","prefix":"user:"}')
        assert side.misses("user:1", "GET") and side.misses("user:2", "HGET f"), i


def test_forged_and_malformed_events(setup):
    side = setup.near()
    side.bare.call("SET", "demo:k", 1)
    side.near.call("GET", "k")
    before = side.stats()
    for payload in ['{"service":"demo","prefix":7}', '{"service":"demo"}', '{"service":"demo","key":["k"]}',
                    '{"prefix":""}', '{"service":"demo","prefix":"a\\u0000"}', "\xff"]:
        side.direct.publish("cache:invalidate", payload)
    side.direct.publish("cache:invalidate", '{"service":"other","prefix":"","key":"k"}')
    after_all_events(side)
    after = side.stats()
    assert side.hits("k", "GET")
    assert after["events_malformed"] - before["events_malformed"] == 6
    assert after["events_foreign"] - before["events_foreign"] == 1


def test_a_stolen_origin_means_nothing_to_others(setup):
    """An event with our own origin is our echo; with another's it counts."""
    side, other = setup.near(), setup.near()
    monitor = setup.watch()
    side.near.call("SET", "k", 1)
    origin = monitor.events(1)[0][1]["origin"]
    for each in (side, other):
        wait_until(lambda e=each: e.near.call("GET", "k") and e.hits("k", "GET"))
    side.direct.publish("cache:invalidate", json.dumps({"service": "demo", "key": "k", "origin": origin}))
    wait_until(lambda: other.misses("k", "GET"))
    after_all_events(side)
    assert side.hits("k", "GET")


def test_writes_go_on_without_the_link(redis_server, nearcache):
    """Subscribing is refused: events can still be published."""
    server = redis_server()
    server.client().execute_command("ACL", "SETUSER", "nc", "on", ">pw", "~*", "&*", "+@all", "-subscribe")
    near = nearcache(*settings("off", "auto"), upstream=f"redis://nc:pw@127.0.0.1:{server.port}/0")
    wire, monitor = near.wire(), Monitor(server)
    assert wire.call("SET", "k", 1) == "OK" and wire.call("GET", "k") == b"1"
    assert names(monitor.events(1)) == [("key", "k")]


def test_publishing_may_be_refused(redis_server, nearcache):
    """No right to publish: every write's own reply is right all the same."""
    server = redis_server()
    server.client().execute_command("ACL", "SETUSER", "nc", "on", ">pw", "~*", "&*", "+@all", "-publish")
    near = nearcache(*settings("off", "on"), upstream=f"redis://nc:pw@127.0.0.1:{server.port}/0")
    wire = near.wire()
    wire.send(b"".join(encode("SET", "k", i) + encode("INCR", "n") + encode("GET", "k") for i in range(50)))
    for i in range(50):
        assert (wire.reply(), wire.reply(), wire.reply()) == ("OK", i + 1, b"%d" % i)


# --- settings ----------------------------------------------------------------------------------------


def test_without_a_namespace(setup):
    """The name in Redis is the name that clients use, told once."""
    side, other = setup.near(namespace=""), setup.near(namespace="")
    for key, kind in [("k", "key"), ("", "key"), (b"\xff", "raw")]:
        side.near.call("SET", key, "old")
        wait_until(lambda k=key: other.near.call("GET", k) == b"old")
        monitor = Monitor(setup.server)
        side.near.call("SET", key, "new")
        assert names(monitor.events(1)) == [(kind, key)]
        wait_until(lambda k=key: other.near.call("GET", k) == b"new")
    side.near.call("FLUSHDB")
    wait_until(lambda: other.near.call("GET", "k") is None)


def test_these_channels_have_no_namespace(setup):
    side = setup.near(more=["--set", "channels.namespace=true"])
    monitor = setup.watch()
    side.near.call("PUBLISH", "cache:invalidate", '{"service":"demo","key":"k"}')
    side.near.call("PUBLISH", "cache:invalidate:l1", "k")
    side.near.call("PUBLISH", "news", "x")
    side.near.call("SET", "k", 1)
    published = [words[1] for _, words in monitor.seen() if words[0] == b"PUBLISH"]
    assert published == [b"cache:invalidate", b"cache:invalidate:l1", b"demo:news", b"cache:invalidate"]


def test_others_are_told_by_one_without_an_l1(setup):
    """However many keys a command writes."""
    side = setup.near(more=["--set", "l1.max_memory=0"])
    monitor = setup.watch()
    side.near.call("MSET", *[x for i in range(5000) for x in (f"k{i}", i)])
    assert names(monitor.events(5000)) == [("key", f"k{i}") for i in range(5000)]


def test_publishing_is_switched_while_running(setup, tmp_path):
    config = tmp_path / "config.json"

    def say(publish):
        config.write_text(json.dumps({"invalidation": {"publish": publish}}))
    say("off")
    process = setup.start("--config", str(config), upstream=setup.server)
    wire, monitor = process.wire(), setup.watch()
    for publish in ("on", "off"):
        say(publish)
        process.popen.send_signal(signal.SIGHUP)

        def published():
            assert wire.call("SET", "k", 1) == "OK"
            return bool(monitor.events(0))
        wait_until(lambda p=publish: published() == (p == "on"), what=f"publish={publish}")
