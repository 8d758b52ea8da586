"""Every read that the near cache may answer: a view of its key, byte for byte what Redis says, gone
with whatever changes the key; and the reads that it must never answer."""
import os
import random
import re

import pytest

from conftest import encode, wait_until
from harness import TOP, Wire

MAKE = {
    "string": [["SET", "hello, world"]],
    "hash": [["HSET", "f", "one", "g", "", "n", "7"]],
    "list": [["RPUSH", "a", "b", "", "b"]],
    "set": [["SADD", "a", "7", "b"]],
    "zset": [["ZADD", "0", "a", "0", "b", "0", "c", "1.5", "d"]],
    "geo": [["GEOADD", "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania"]],
    "stream": [["XADD", "1-1", "f", "v"], ["XADD", "2-1", "g", "w"]],
}
CHANGE = {
    "string": ["APPEND", "!"], "hash": ["HSET", "f", "two"], "list": ["RPUSH", "c"],
    "set": ["SADD", "c"], "zset": ["ZADD", "2", "e"],
    "geo": ["GEOADD", "13.583333", "37.316667", "Agrigento"], "stream": ["XADD", "3-1", "h", "x"],
}
# What the near cache answers, without the key, which comes second.
READS = {
    "string": ["GET", "STRLEN", "GETRANGE 1 3", "GETRANGE 90 99", "SUBSTR 0 1", "GETBIT 1", "BITCOUNT",
               "BITCOUNT 0 1", "BITPOS 1", "BITPOS 0 2", "BITFIELD_RO GET u8 0 GET i4 4", "EXISTS",
               "TYPE"],
    "hash": ["HGET f", "HGET g", "HGET none", "HMGET f none g", "HGETALL", "HKEYS", "HVALS", "HLEN",
             "HEXISTS f", "HEXISTS none", "HSTRLEN f", "EXISTS", "TYPE"],
    "list": ["LINDEX 0", "LINDEX 2", "LINDEX 99", "LLEN", "LRANGE 0 -1", "LRANGE 2 2", "LRANGE 9 10",
             "LPOS b", "LPOS a", "LPOS none", "LPOS b COUNT 0", "TYPE"],
    "set": ["SCARD", "SISMEMBER a", "SISMEMBER none", "SMISMEMBER a none", "SMEMBERS", "TYPE"],
    "zset": ["ZCARD", "ZCOUNT 0 1", "ZLEXCOUNT - +", "ZMSCORE a none", "ZRANGE 0 -1",
             "ZRANGE 0 -1 WITHSCORES", "ZRANGE 1 2 BYSCORE LIMIT 0 1", "ZRANGE 5 6",
             "ZRANGEBYLEX [a [b", "ZRANGEBYSCORE 0 1 WITHSCORES", "ZRANK a", "ZRANK none",
             "ZREVRANGE 0 0", "ZREVRANGEBYLEX [b [a", "ZREVRANGEBYSCORE 2 1", "ZREVRANK a", "ZSCORE d",
             "ZSCORE a", "ZSCORE none", "TYPE"],
    "geo": ["GEODIST Palermo Catania km", "GEODIST Palermo none", "GEOHASH Palermo none",
            "GEOPOS Palermo none", "GEORADIUS_RO 15 37 200 km WITHDIST ASC",
            "GEORADIUSBYMEMBER_RO Palermo 50 km",
            "GEOSEARCH FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD"],
    "stream": ["XLEN", "XRANGE - +", "XRANGE - + COUNT 1", "XREVRANGE + -", "XRANGE 9 10"],
}
# Of an absent key they read as of one that is there, which may have expired since: not kept.
READ_AS_OTHERS = ["BITPOS 1", "BITPOS 0 2"]
NAMES = {read.split()[0] for reads in READS.values() for read in reads}


def on(key, words):
    """The words of a command, or its text, with the key as its first argument."""
    words = words.split() if isinstance(words, str) else words
    return [words[0], key, *words[1:]]


class Side:
    """One proxy, in one protocol, beside the bare server in the same one."""

    def __init__(self, server, near, resp):
        self.near, self.bare = near.wire(), server.wire()
        self.server, self.direct, self.resp = server, server.client(), resp
        if resp == 3:
            self.near.call("HELLO", 3), self.bare.call("HELLO", 3)

    def stats(self):
        reply = self.near.call("NEARCACHE", "STATS")
        reply = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2]))
        return {name.decode(): int(value) for name, value in reply.items()
                if re.fullmatch(rb"-?\d+", value)}

    def make(self, kind, key):
        for words in MAKE[kind]:
            self.bare.call(*on("demo:" + key, words))

    def change(self, kind, key):
        """By somebody else."""
        self.bare.call(*on("demo:" + key, CHANGE[kind]))

    def outcome(self, key, read):
        """The reply through the proxy and how many hits, misses it was."""
        before = self.stats()
        raw = self.near.call_raw(*on(key, read))
        after = self.stats()
        return raw, (after["hits"] - before["hits"], after["misses"] - before["misses"])

    def true(self, key, read):
        return self.bare.call_raw(*on("demo:" + key, read))

    def misses(self, key, read):
        raw, figures = self.outcome(key, read)
        assert raw == self.true(key, read), read
        return figures == (0, 1)

    def hits(self, key, read):
        raw, figures = self.outcome(key, read)
        assert raw == self.true(key, read), read
        return figures == (1, 0)


@pytest.fixture(scope="module", params=[2, 3])
def side(request, module_redis_server, module_nearcache):
    server = module_redis_server()
    made = Side(server, module_nearcache(upstream=server), request.param)
    wait_until(lambda: made.stats()["serving"] == 1, what="a live link")
    return made


def test_the_list_above_is_all_of_it():
    with open(os.path.join(TOP, "protocol", "commands.def"), encoding="utf-8") as f:
        cacheable = set(re.findall(r'^COMMAND\(\w+, "(\w+)", .*?, READ, (?:YES|FIELDS), ', f.read(),
                                   re.M))
    assert cacheable == {name.lower() for name in NAMES | {"MGET"}}


# --- hits, and what ends them ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKE)
def test_the_second_call_is_a_hit(side, kind):
    key = f"hit:{kind}"
    side.make(kind, key)
    for read in READS[kind]:
        wait_until(lambda r=read: side.misses(key, r) or side.hits(key, r))
        assert side.hits(key, read), read
        assert side.hits(key, read), read


@pytest.mark.parametrize("kind", MAKE)
def test_a_foreign_write_kills_every_view(side, kind):
    key = f"foreign:{kind}"
    side.make(kind, key)
    for read in READS[kind]:
        side.near.call_raw(*on(key, read))
    for read in READS[kind]:
        wait_until(lambda r=read: side.outcome(key, r)[1] == (1, 0), what=f"{read} to be kept")
    side.change(kind, key)
    for read in READS[kind]:
        # The first of them may have to wait for the message; the others were killed with it.
        wait_until(lambda r=read: side.outcome(key, r) == (side.true(key, r), (0, 1)) or
                   side.hits(key, r))
        assert side.hits(key, read), read


@pytest.mark.parametrize("kind", MAKE)
def test_an_own_write_kills_every_view(side, kind):
    key = f"own:{kind}"
    side.make(kind, key)
    for read in READS[kind]:
        side.near.call_raw(*on(key, read))
    side.near.call(*on(key, CHANGE[kind]))
    for read in READS[kind]:
        assert side.misses(key, read), read


@pytest.mark.parametrize("kind", MAKE)
def test_a_pipeline_sees_its_own_write(side, kind):
    for i, read in enumerate(READS[kind]):
        key = f"pipelined:{kind}:{i}"
        side.make(kind, key)
        old = side.near.call_raw(*on(key, read))
        side.near.send(encode(*on(key, read)) + encode(*on(key, CHANGE[kind])) +
                       encode(*on(key, read)) + encode("DEL", key) + encode(*on(key, read)))
        assert side.near.raw() == old
        assert not side.near.raw().startswith(b"-")
        changed = side.near.raw()
        assert side.near.reply() == 1
        absent = side.near.raw()
        assert absent == side.true(key, read), read
        for words in MAKE[kind] + [CHANGE[kind]]:
            side.bare.call(*on("demo:" + key, words))
        assert changed == side.true(key, read), read


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("change", ["EXPIRE 100", "PERSIST", "RENAME {}:b", "DEL", "UNLINK", "COPY {}:b",
                                    "PEXPIREAT 1", "RESTORE", "MOVE 3", "SORT-STORE"])
def test_what_else_changes_a_key(side, kind, change):
    key = f"else:{kind}:{change.split()[0]}"
    other = key + ":b"
    side.make(kind, key)
    side.bare.call("EXPIRE", "demo:" + key, 1000)
    seen = READS[kind][:4] + ["EXISTS"]
    for read in seen:
        side.near.call_raw(*on(key, read)), side.near.call_raw(*on(other, read))
    if change == "RESTORE":
        side.near.call("RESTORE", other, 0, side.bare.call("DUMP", "demo:" + key), "REPLACE")
    elif change == "SORT-STORE":
        side.near.call("RPUSH", key + ":list", 2, 1)
        side.near.call("SORT", key + ":list", "STORE", other)
    else:
        side.near.call(*on(key, change.format(key)))
    for read in seen:
        raw, _ = side.outcome(other, read)
        assert raw == side.true(other, read), read
        raw, _ = side.outcome(key, read)
        assert raw == side.true(key, read), read
    if change.split()[0] in ("EXPIRE", "PERSIST"):
        side.near.call(*on(key, change))
        assert side.misses(key, "EXISTS")


@pytest.mark.parametrize("kind", MAKE)
def test_errors_are_never_kept(side, kind):
    """A command for another type: an error each time, from the server."""
    key = f"wrong:{kind}"
    side.bare.call(*(["SET", "demo:" + key, 1] if kind != "string" else ["RPUSH", "demo:" + key, 1]))
    wrong = [read for read in READS[kind] if read not in ("EXISTS", "TYPE")]
    for read in wrong:
        for _ in range(2):
            raw, figures = side.outcome(key, read)
            assert raw.startswith(b"-WRONGTYPE") and figures == (0, 1), read
    side.near.call("DEL", key)
    side.make(kind, key)
    for read in wrong:
        wait_until(lambda r=read: side.misses(key, r) or side.hits(key, r))


def test_other_errors_are_never_kept(side):
    side.make("string", "errors")
    for read in ["GETRANGE a b", "BITCOUNT 1", "BITPOS 7", "GETBIT -1", "BITFIELD_RO SET u8 0 1"]:
        for _ in range(2):
            raw, figures = side.outcome("errors", read)
            assert raw == side.true("errors", read) and raw.startswith(b"-") and figures[0] == 0, read


# --- which view ------------------------------------------------------------------------------------


def test_other_arguments_are_another_view(side):
    side.bare.call("HSET", "demo:args", "a", 1, "bc", 2, "ab", 3, "c", 4, "", 5, "\0", 6)
    reads = [["HMGET", "args", *fields] for fields in
             [["a", "bc"], ["ab", "c"], ["abc"], ["a", "b", "c"], ["", "abc"], ["abc", ""], ["\0"],
              ["", ""], [""], ["\1a"], ["a"]]] + [["HGET", "args", "a"], ["HEXISTS", "args", "a"]]
    for _ in range(3):
        for words in reads:
            assert side.near.call_raw(*words) == \
                side.bare.call_raw(words[0], "demo:" + words[1], *words[2:]), words
    before = side.stats()
    for words in reads:
        side.near.call_raw(*words)
    after = side.stats()
    assert (after["hits"] - before["hits"], after["misses"] - before["misses"]) == (len(reads), 0)


@pytest.mark.parametrize("arguments", [["x" * 247], ["x" * 248], ["x" * 249], ["x" * 255], ["x" * 256],
                                       ["x" * 300], ["x" * 70000], ["m"] * 124, ["m"] * 125,
                                       ["m"] * 2000, [""] * 248, [""] * 249])
def test_long_arguments_are_as_right_as_short_ones(side, arguments):
    key = f"long:{len(arguments)}:{len(arguments[0])}"
    side.bare.call("SADD", "demo:" + key, arguments[0])
    words = ["SMISMEMBER", *arguments]
    first, second = side.outcome(key, words), side.outcome(key, words)
    assert first[0] == second[0] == side.true(key, words)
    kept = 7 + sum(len(argument) + 1 for argument in arguments) <= 255
    assert first[1][0] == 0 and second[1] == ((1, 0) if kept else (0, second[1][1]))
    side.near.call("SREM", key, arguments[0])
    assert side.near.call(*on(key, words)) == [0] * len(arguments)


def test_the_two_protocols_do_not_mix(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    sides = {resp: Side(server, near, resp) for resp in (2, 3)}
    wait_until(lambda: sides[2].stats()["serving"] == 1)
    for kind in MAKE:
        sides[2].make(kind, kind)
    for _ in range(3):
        for resp in (2, 3, 3, 2):
            for kind, reads in READS.items():
                for read in reads:
                    for key in (kind, "absent"):
                        raw = sides[resp].near.call_raw(*on(key, read))
                        assert raw == sides[resp].true(key, read), (resp, key, read)
    assert sides[2].stats()["hits"] > 100
    assert sides[2].near.call("GET", "absent") is None and sides[3].near.call_raw("GET", "absent") == b"_\r\n"
    assert sides[2].near.call_raw("MGET", "absent", "string") == b"*2\r\n$-1\r\n$12\r\nhello, world\r\n"
    assert sides[3].near.call_raw("MGET", "absent", "string") == b"*2\r\n_\r\n$12\r\nhello, world\r\n"


def test_databases_have_views_of_their_own(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    zero, one = near.wire(), near.wire()
    one.call("SELECT", 1)
    zero.call("HSET", "h", "f", "zero"), one.call("HSET", "h", "f", "one")
    for _ in range(3):
        assert zero.call("HGET", "h", "f") == b"zero" and one.call("HGET", "h", "f") == b"one"
        assert zero.call("GET", "none") is None and one.call("EXISTS", "none") == 0
    one.call("SET", "none", 1)
    assert zero.call("GET", "none") is None and one.call("EXISTS", "none") == 1


def test_more_than_one_key_is_forwarded(side):
    side.make("string", "exists:1")
    for _ in range(2):
        before = side.stats()
        assert side.near.call("EXISTS", "exists:1", "exists:1", "exists:none") == 2
        assert side.stats()["hits"] == before["hits"]


# --- absent keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKE)
def test_absent_keys_are_kept(side, kind):
    key = f"absent:{kind}"
    for read in READS[kind]:
        assert side.misses(key, read), read
        assert (side.misses if read in READ_AS_OTHERS else side.hits)(key, read), read
    side.make(kind, key)
    for read in READS[kind]:
        wait_until(lambda r=read: side.outcome(key, r)[0] == side.true(key, r), what=read)
        assert side.hits(key, read) or side.hits(key, read), read


@pytest.mark.parametrize("kind", MAKE)
def test_an_absent_key_that_we_create(side, kind):
    key = f"created:{kind}"
    for read in READS[kind]:
        side.near.call_raw(*on(key, read))
    for words in MAKE[kind]:
        side.near.call(*on(key, words))
    for read in READS[kind]:
        assert side.misses(key, read), read


def test_absent_and_present_keys_of_an_mget(side):
    side.bare.call("SET", "demo:mget:1", 1)
    for _ in range(2):
        assert side.near.call("MGET", "mget:none", "mget:1", "mget:none", "mget:none2") == \
            [None, b"1", None, None]
    before = side.stats()
    assert side.near.call("MGET", "mget:none", "mget:1", "mget:none2") == [None, b"1", None]
    assert side.near.call("GET", "mget:none") is None
    assert side.stats()["hits"] == before["hits"] + 4
    side.bare.call("SET", "demo:mget:none", "x")
    wait_until(lambda: side.near.call("MGET", "mget:none", "mget:1") == [b"x", b"1"])


def test_a_list_is_nil_to_mget_only(side):
    side.bare.call("RPUSH", "demo:nil:list", 1)
    for _ in range(2):
        assert side.near.call("MGET", "nil:list") == [None]
        assert side.near.call_raw("GET", "nil:list").startswith(b"-WRONGTYPE")
        assert side.near.call("EXISTS", "nil:list") == 1


@pytest.fixture
def small(redis_server, nearcache):
    def start(*settings):
        server = redis_server()
        process = nearcache(*[x for s in settings for x in ("--set", s)], upstream=server)
        made = Side(server, process, 2)
        wait_until(lambda: made.stats()["serving"] == 1, what="a live link")
        return made
    return start


def test_negative_ttl_of_0(small):
    side = small("l1.negative_ttl=0")
    for read in ["GET", "HGETALL", "EXISTS", "LRANGE 0 -1"]:
        assert side.misses("none", read) and side.misses("none", read), read
    side.make("hash", "h")
    wait_until(lambda: side.outcome("h", "HGET none")[1] == (1, 0))  # the key is there


def test_negative_ttl_ends(small):
    """Nobody tells of foreign writes here: an absent key is believed for so long, others for l1.ttl."""
    side = small("l1.negative_ttl=100ms", "invalidation.tracking=off")
    assert side.misses("k", "GET") and side.hits("k", "GET")
    side.bare.call("SET", "demo:v", "old"), side.near.call("GET", "v")
    side.bare.call("SET", "demo:k", "new"), side.bare.call("SET", "demo:v", "new")
    wait_until(lambda: side.near.call("GET", "k") == b"new")
    assert side.near.call("GET", "v") == b"old"
    reply = side.near.call("NEARCACHE", "KEY", "none")
    assert dict(zip(reply[::2], reply[1::2]))[b"cached"] == b"no"
    side.near.call("GET", "none")
    said = side.near.call("NEARCACHE", "KEY", "none")
    said = dict(zip(said[::2], said[1::2]))
    assert said[b"cached"] == b"yes" and 0 < said[b"time_left_ms"] <= 100
    assert said[b"reply_bytes"] == len(b"$-1\r\n")


def test_absent_keys_stay_within_the_memory(small):
    side = small("l1.max_memory=256kb", "l1.negative_ttl=1h")
    rng = random.Random(1)
    for _ in range(40):
        side.near.send(b"".join(encode("GET", f"scan:{rng.getrandbits(64):016x}")
                                for _ in range(500)))
        for _ in range(500):
            assert side.near.reply() is None
        figures = side.stats()
        assert figures["bytes"] + figures["holes"] <= figures["mapped"] <= figures["limit"] == 256 * 1024
    assert figures["misses"] == 20000 and figures["evictions"] > 10000
    assert 1000 < figures["entries"] < 256 * 1024 // 40


def test_a_scan_of_absent_keys_does_not_push_out_what_is_used(small):
    side = small("l1.max_memory=256kb", "l1.negative_ttl=1h")
    side.make("hash", "hot")
    for i in range(100):
        side.near.call("HGETALL", "hot")
        side.near.send(b"".join(encode("GET", f"scan:{i}:{j}") for j in range(100)))
        for _ in range(100):
            assert side.near.reply() is None
    assert side.hits("hot", "HGETALL")


# --- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKE)
def test_no_view_outlives_its_key(side, kind):
    key = f"expires:{kind}"
    side.make(kind, key)
    side.near.call("PEXPIRE", key, 80)
    for read in READS[kind]:
        side.near.call_raw(*on(key, read))
    wait_until(lambda: side.bare.call("PTTL", "demo:" + key) == -2)
    for read in READS[kind]:
        assert side.near.call_raw(*on(key, read)) == side.true(key, read), read


# --- never -----------------------------------------------------------------------------------------

NEVER = [
    ["TTL", "s"], ["PTTL", "s"], ["EXPIRETIME", "s"], ["PEXPIRETIME", "s"], ["OBJECT", "ENCODING", "s"],
    ["OBJECT", "IDLETIME", "s"], ["OBJECT", "REFCOUNT", "s"], ["MEMORY", "USAGE", "s"], ["DUMP", "s"],
    ["RANDOMKEY"], ["SCAN", "0"], ["HSCAN", "h", "0"], ["SSCAN", "set", "0"], ["ZSCAN", "z", "0"],
    ["SRANDMEMBER", "set"], ["SRANDMEMBER", "set", "2"], ["HRANDFIELD", "h"], ["ZRANDMEMBER", "z"],
    ["SORT", "l", "ALPHA"], ["SORT_RO", "l", "ALPHA"], ["SORT", "l", "BY", "w_*", "GET", "o_*"],
    ["XREAD", "STREAMS", "x", "0"], ["XINFO", "STREAM", "x"], ["XINFO", "GROUPS", "x"],
    ["XPENDING", "x", "g"], ["GETEX", "s"], ["TOUCH", "s"], ["LCS", "s", "s"], ["PFCOUNT", "none"],
    ["SINTER", "set"], ["SUNION", "set"], ["SDIFF", "set"], ["SINTERCARD", "1", "set"],
    ["ZUNION", "1", "z"], ["ZINTER", "1", "z"], ["ZDIFF", "1", "z"], ["ZINTERCARD", "1", "z"],
    ["BITFIELD", "s", "GET", "u8", "0"], ["GEORADIUS", "geo", "15", "37", "200", "km"], ["KEYS", "*"],
    ["DBSIZE"], ["TIME"], ["EVAL_RO", "return redis.call('get', KEYS[1])", "1", "s"],
    ["EXISTS", "s", "h"], ["LOLWUT"], ["LASTSAVE"],
]


def test_what_is_never_kept(redis_server, nearcache):
    server = redis_server()
    side = Side(server, nearcache(upstream=server), 2)
    wait_until(lambda: side.stats()["serving"] == 1)
    for kind, key in [("string", "s"), ("hash", "h"), ("list", "l"), ("set", "set"), ("zset", "z"),
                      ("geo", "geo"), ("stream", "x")]:
        side.make(kind, key)
    side.bare.call("XGROUP", "CREATE", "demo:x", "g", "0")
    for words in NEVER:
        before = side.stats()
        for _ in range(3):
            raw = side.near.call_raw(*words)
            assert not raw.startswith(b"-"), (words, raw)
        after = side.stats()
        for name in ("hits", "fills", "entries"):
            assert before[name] == after[name], (words, name)


def test_chance_is_left_to_the_server(side):
    side.bare.call("SADD", "demo:chance", *range(50))
    assert len({side.near.call("SRANDMEMBER", "chance") for _ in range(200)}) > 20


def test_within_a_transaction_nothing_comes_from_here(side):
    side.make("hash", "multi")
    side.near.call("HGETALL", "multi"), side.near.call("HGETALL", "multi")
    before = side.stats()["hits"]
    side.near.call("WATCH", "multi")
    watched = side.near.call_raw("HGETALL", "multi")
    side.near.call("MULTI")
    assert side.near.call("HGETALL", "multi") == "QUEUED"
    side.near.call("HSET", "multi", "f", "changed")
    side.near.call("HGET", "multi", "f")
    reply = side.near.call("EXEC")
    assert reply[2] == b"changed" and side.stats()["hits"] == before
    assert watched != side.near.call_raw("HGETALL", "multi")
    assert side.near.call_raw("HGETALL", "multi") == side.true("multi", "HGETALL")


@pytest.mark.one_worker
def test_a_read_by_many_at_once_is_asked_for_once(small):
    side = small()
    side.make("hash", "h")
    before = side.direct.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]
    wires = [Wire(side.near.socket.getpeername()) for _ in range(10)]
    side.server.pause()
    for wire in wires:
        wire.command("HGETALL", "h")
    wait_until(lambda: side.stats()["misses"] >= 10)
    side.server.resume()
    replies = {wire.raw() for wire in wires}
    assert len(replies) == 1
    after = side.direct.info("commandstats")["cmdstat_hgetall"]["calls"]
    assert after == before + 1 and side.stats()["coalesced"] == 9
    for wire in wires:
        wire.close()


def test_clients_that_want_no_replies_get_none(side):
    side.make("hash", "quiet")
    reads = [["HGETALL", "quiet"], ["GET", "quiet:none"], ["MGET", "quiet:none", "quiet:none2"],
             ["EXISTS", "quiet:none"], ["TYPE", "quiet"]]
    for words in reads + reads:  # hits, later on
        side.near.call_raw(*words)
    wire = Wire(side.near.socket.getpeername())
    for words in reads:
        wire.command("CLIENT", "REPLY", "SKIP"), wire.command(*words), wire.command("ECHO", "x")
        assert wire.reply() == b"x", words
    wire.command("CLIENT", "REPLY", "OFF")
    for words in reads + [["HGET", "quiet", "unread"], ["GET", "quiet:unread"]]:
        wire.command(*words)
    wire.command("CLIENT", "REPLY", "ON")
    assert wire.reply() == "OK" and wire.call("GET", "quiet:none") is None
    wire.close()
