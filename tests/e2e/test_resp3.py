"""RESP3: every type of reply as a bare Redis gives it, per client, and from the L1 in both versions."""
import pytest

from conftest import RespError, encode, wait_until

FILL = [
    ["SET", "s", "text"], ["HSET", "h", "f", "v", "g", "w"], ["SADD", "set", "x"], ["RPUSH", "l", 1, 2],
    ["ZADD", "z", 1.5, "a", 2, "b", "inf", "c"], ["XADD", "x", "1-1", "f", "v"],
    ["XGROUP", "CREATE", "x", "g", 0], ["GEOADD", "geo", 13.361389, 38.115556, "Palermo"],
    ["PFADD", "hll", 1, 2, 3], ["SET", "n", 5],
]

# At least one command of each kind of reply, and those that differ between the versions.
COMMANDS = [
    # null, of every kind
    ["GET", "no"], ["HGET", "h", "no"], ["LPOP", "no"], ["LPOP", "no", 2], ["ZSCORE", "z", "no"],
    ["RANDOMKEY"], ["BLPOP", "no", 0.01], ["BLMOVE", "no", "l", "LEFT", "LEFT", 0.01], ["XREAD", "STREAMS", "no", 0],
    ["XREAD", "BLOCK", 10, "STREAMS", "x", "$"], ["LMPOP", 1, "no", "LEFT"], ["ZMPOP", 1, "no", "MIN"],
    ["BZPOPMIN", "no", 0.01], ["GEOPOS", "geo", "no"], ["GEODIST", "geo", "Palermo", "no"], ["ZRANK", "z", "no"],
    ["MGET", "s", "no", "h"], ["HMGET", "h", "f", "no"], ["SPOP", "no"], ["OBJECT", "ENCODING", "no"],
    ["HRANDFIELD", "no"], ["SRANDMEMBER", "no"], ["GETDEL", "no"], ["GETEX", "no"], ["DUMP", "no"],
    ["CLIENT", "GETNAME"], ["ZMSCORE", "z", "a", "no"], ["SET", "n", 6, "XX", "GET"], ["SET", "nn", 6, "XX"],
    ["COMMAND", "INFO", "nosuch"], ["FUNCTION", "LIST"], ["MEMORY", "USAGE", "no"], ["LPOS", "l", "no"],
    # map
    ["HGETALL", "h"], ["HGETALL", "no"], ["CONFIG", "GET", "maxmemory"], ["XINFO", "STREAM", "x"],
    ["XINFO", "GROUPS", "x"], ["XREAD", "STREAMS", "x", 0], ["PUBSUB", "NUMSUB", "c"],
    ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", ">"],
    ["COMMAND", "DOCS", "get"], ["COMMAND", "INFO", "get"], ["FUNCTION", "STATS"], ["LCS", "s", "s", "IDX"],
    ["CLIENT", "TRACKINGINFO"], ["HRANDFIELD", "h", 5, "WITHVALUES"],
    # set
    ["SMEMBERS", "set"], ["SUNION", "set", "no"], ["SINTER", "set"], ["SDIFF", "set", "no"], ["SPOP", "set", 0],
    ["ACL", "CAT", "nosuch"], ["COMMAND", "GETKEYSANDFLAGS", "SET", "k", "v"], ["COMMAND", "GETKEYS", "MGET", "a", "b"],
    # double
    ["ZSCORE", "z", "a"], ["ZSCORE", "z", "c"], ["ZINCRBY", "z", 0.25, "a"], ["ZADD", "z", "INCR", 1, "b"],
    ["ZRANGE", "z", 0, -1, "WITHSCORES"], ["ZPOPMIN", "z"], ["ZPOPMIN", "z", 1], ["ZRANDMEMBER", "z", 1, "WITHSCORES"],
    ["ZMSCORE", "z", "b", "c"], ["ZMPOP", 1, "z", "MAX"], ["BZPOPMAX", "z", 0.01], ["GEOPOS", "geo", "Palermo"],
    ["GEODIST", "geo", "Palermo", "Palermo"], ["INCRBYFLOAT", "n", 1.5], ["HINCRBYFLOAT", "h", "d", 1.5],
    ["GEOSEARCH", "geo", "FROMMEMBER", "Palermo", "BYRADIUS", 1, "km", "WITHCOORD", "WITHDIST", "WITHHASH"],
    # boolean, big number, verbatim, through scripts
    ["EVAL", "redis.setresp(3) return true", 0], ["EVAL", "redis.setresp(3) return false", 0],
    ["EVAL", "return true", 0], ["EVAL", "return false", 0], ["EVAL", "return {double=3.5}", 0],
    ["EVAL", "return {map={a=1}}", 0], ["EVAL", "return {set={a=true}}", 0],
    ["EVAL", "return {big_number='1234567890123456789012345'}", 0],
    ["EVAL", "return {verbatim_string={format='txt', string='hello'}}", 0],
    ["EVAL", "redis.setresp(3) return redis.call('hgetall', KEYS[1])", 1, "h"],
    ["EVAL", "return {1, 'a', {2, false, {ok='FINE'}}, {err='BAD x'}}", 0], ["EVAL", "return {err='MY error'}", 0],
    ["LOLWUT", "VERSION", 1], ["MEMORY", "DOCTOR"], ["LATENCY", "DOCTOR"],
    # the rest
    ["PING"], ["PING", "x"], ["ECHO", ""], ["TYPE", "s"], ["STRLEN", "s"], ["SORT", "l"], ["SCAN", 0, "MATCH", "s"],
    ["HSCAN", "h", 0], ["ZSCAN", "z", 0], ["SSCAN", "set", 0], ["LRANGE", "l", 0, -1], ["KEYS", "s"], ["DBSIZE"],
    ["OBJECT", "HELP"], ["INCR", "s"], ["NOSUCH"], ["GET"], ["EXISTS", "s", "h"], ["PFCOUNT", "hll"],
    ["XRANGE", "x", "-", "+"], ["XPENDING", "x", "g"], ["XCLAIM", "x", "g", "d", 0, "1-1"],
    ["XAUTOCLAIM", "x", "g", "d", 0, 0], ["BITFIELD", "s", "GET", "u8", 0, "OVERFLOW", "FAIL", "INCRBY", "u8", 0, 250],
    ["WAIT", 0, 0], ["SLOWLOG", "LEN"], ["SUBSTR", "s", 0, 1], ["LATENCY", "HISTORY", "x"], ["COMMAND", "COUNT"],
    ["CLIENT", "LIST", "ID", 99999],
]


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
    """Connections to both, with the same data."""
    bare, near = pair
    bare.client().flushall()
    near.server.client().flushall()
    both = bare.wire(), near.wire()
    for command in FILL:
        assert both[0].call_raw(*command) == both[1].call_raw(*command)
    yield both
    for process in (bare, near, near.server):
        while process.wires:
            process.wires.pop().close()


@pytest.mark.parametrize("resp", [2, 3])
def test_every_type_of_reply(wires, resp):
    bare, near = wires
    for wire in wires:
        wire.call("HELLO", resp)
    for command in COMMANDS:
        expected = bare.call_raw(*command)
        got = near.call_raw(*command)
        if command[0] in ("RANDOMKEY", "COMMAND", "MEMORY", "XINFO") and got != expected:
            assert sorted(got) == sorted(expected) or command == ["RANDOMKEY"], command
        else:
            assert got == expected, command


def test_the_same_within_a_transaction(wires):
    bare, near = wires
    skipped = ("RANDOMKEY", "XINFO", "MEMORY", "SCAN", "CONFIG", "CLIENT", "COMMAND")
    commands = [command for command in COMMANDS if command[0] not in skipped]
    for wire in wires:
        wire.call("HELLO", 3)
        wire.send(encode("MULTI") + b"".join(encode(*command) for command in commands))
        assert wire.reply() == "OK"
    spoilt = False
    for command in commands:
        replies = bare.raw(), near.raw()
        assert replies[0] == replies[1], command
        spoilt |= replies[0][:1] == b"-"
    assert spoilt
    assert [str(wire.call("EXEC"))[:9] for wire in wires] == ["EXECABORT"] * 2
    for wire in wires:
        wire.send(encode("MULTI") + b"".join(encode(*command) for command in commands
                                             if command not in (["NOSUCH"], ["GET"])) + encode("EXEC"))
    while True:
        replies = bare.raw(), near.raw()
        assert replies[0] == replies[1]
        if replies[0][:1] == b"*":
            break


def test_hello(wires):
    for command in (["HELLO"], ["HELLO", 3], ["HELLO"], ["HELLO", 3, "SETNAME", "me"], ["CLIENT", "GETNAME"],
                    ["HELLO", 2], ["HELLO", 4], ["HELLO", 1], ["HELLO", "abc"], ["HELLO", 3, "NOSUCH"],
                    ["HELLO", 3, "SETNAME"], ["HELLO", 3, "SETNAME", "a b"], ["HGETALL", "h"],
                    ["HELLO", 3, "AUTH", "default"], ["HELLO", 3, "AUTH", "default", "any"], ["HGETALL", "h"],
                    ["HELLO", 2, "AUTH", "nobody", "x"], ["HGETALL", "h"], ["HELLO", 2], ["HGETALL", "h"]):
        replies = [wire.call(*command) for wire in wires]
        for reply in replies:
            if isinstance(reply, dict) and b"id" in reply:
                assert reply.pop(b"id") > 0
            elif isinstance(reply, list) and b"id" in reply:
                del reply[reply.index(b"id") + 1]
        assert replies[0] == replies[1], command


def test_every_client_has_its_own_version(pair, wires):
    near = pair[1]
    two, three = near.wire(), near.wire()
    assert three.call("HELLO", 3)[b"proto"] == 3
    for _ in range(20):
        two.command("HGETALL", "h"), three.command("HGETALL", "h")
        two.command("GET", "no"), three.command("GET", "no")
        assert two.reply() == [b"f", b"v", b"g", b"w"] and three.reply() == {b"f": b"v", b"g": b"w"}
        assert two.raw() == b"$-1\r\n" and three.raw() == b"_\r\n"


def test_a_pipeline_switches_in_the_middle(wires):
    for wire in wires:
        wire.send(encode("HGETALL", "h") + encode("GET", "no") + encode("SELECT", 1) + encode("SELECT", 0) +
                  encode("SMEMBERS", "set") + encode("CLIENT", "SETNAME", "x"))
        wire.send(b"".join(encode("HELLO", version) + encode("HGETALL", "h") + encode("GET", "no") +
                           encode("MGET", "s", "no") for version in (3, 2, 3, 3, 2)))
    for i in range(6 + 5 * 4):
        replies = [wire.raw() for wire in wires]
        if b"$6\r\nserver" not in replies[0]:
            assert replies[0] == replies[1], i


def stats(near):
    return near.client().info("nearcache")


def test_hits_in_both_versions(pair, wires):
    """One entry of the L1 serves both; a nil, which differs, is never taken from the other."""
    near = pair[1]
    wait_until(lambda: stats(near)["serving"] == 1)
    two, three = near.wire(), near.wire()
    three.call("HELLO", 3)
    two.call("SET", "k", "v")
    assert two.call_raw("GET", "k") == b"$1\r\nv\r\n"
    before = stats(near)["hits"]
    for wire in (two, three) * 3:
        assert wire.call_raw("GET", "k") == b"$1\r\nv\r\n"
    assert stats(near)["hits"] == before + 6
    assert two.call_raw("MGET", "k", "no") == b"*2\r\n$1\r\nv\r\n$-1\r\n"
    assert three.call_raw("MGET", "k", "no") == b"*2\r\n$1\r\nv\r\n_\r\n"
    assert three.call_raw("MGET", "k", "k") == b"*2\r\n$1\r\nv\r\n$1\r\nv\r\n"
    for _ in range(2):
        assert two.call_raw("GET", "no") == b"$-1\r\n" and three.call_raw("GET", "no") == b"_\r\n"
        assert "WRONGTYPE" in str(two.call("GET", "h")) and "WRONGTYPE" in str(three.call("GET", "h"))


def test_a_flight_is_shared_within_a_version_only(pair, wires):
    near = pair[1]
    wait_until(lambda: stats(near)["serving"] == 1)
    twos, threes = [near.wire() for _ in range(5)], [near.wire() for _ in range(5)]
    for wire in threes:
        wire.call("HELLO", 3)
    threes[0].call("GET", "warm")  # its connection is there
    for _ in range(10):
        for wire in [wire for both in zip(twos, threes) for wire in both]:
            wire.command("GET", "no")
        assert [wire.raw() for wire in twos] == [b"$-1\r\n"] * 5
        assert [wire.raw() for wire in threes] == [b"_\r\n"] * 5


def test_scoped_commands(pair, wires):
    """Those that nearcache puts together itself."""
    for wire in wires:
        wire.call("HELLO", 3)
        wire.call("FLUSHALL")
    for command in (["RANDOMKEY"], ["DBSIZE"], ["KEYS", "*"], ["SCAN", 0], ["SET", "a", 1], ["RANDOMKEY"],
                    ["KEYS", "*"], ["SCAN", 0], ["DBSIZE"], ["FLUSHDB"], ["RANDOMKEY"]):
        assert wires[0].call_raw(*command) == wires[1].call_raw(*command), command


def test_verbatim_answers_of_our_own(pair, wires):
    near = pair[1].wire()
    near.call("HELLO", 3)
    for command in (["INFO"], ["INFO", "server"], ["INFO", "nearcache"], ["CLIENT", "LIST"], ["CLIENT", "INFO"]):
        assert near.call_raw(*command).startswith(b"="), command
    assert isinstance(near.call("NEARCACHE", "STATS"), dict)
    assert isinstance(near.call("NEARCACHE", "KEY", "k"), dict)
    assert isinstance(near.call("CONFIG", "GET", "maxmemory*"), dict)
    assert isinstance(near.call("SLOWLOG", "GET"), list)


def test_auth_and_setname_in_hello(redis_server, nearcache):
    near = nearcache("--set", "auth.password=sesame", upstream=redis_server())
    wire = near.wire()
    assert str(wire.call("HELLO", 3)).startswith("NOAUTH HELLO must be called")
    assert str(wire.call("GET", "k")).startswith("NOAUTH")
    assert str(wire.call("HELLO", 3, "AUTH", "default", "wrong")).startswith("WRONGPASS")
    assert wire.call("HELLO", 3, "AUTH", "default", "sesame", "SETNAME", "me")[b"proto"] == 3
    assert wire.call("CLIENT", "GETNAME") == b"me" and wire.call_raw("GET", "k") == b"_\r\n"
    assert wire.call("MULTI") == "OK" and wire.call("GET", "k") == "QUEUED" and wire.call("EXEC") == [None]
    assert wire.call("RESET") == "RESET"
    assert str(wire.call("MULTI")).startswith("NOAUTH") and isinstance(wire.call("GET", "k"), RespError)


def test_an_upstream_with_a_password(redis_server, nearcache):
    server = redis_server("--requirepass", "sesame")
    near = nearcache(upstream=f"redis://:sesame@127.0.0.1:{server.port}/0")
    for version in (2, 3):
        wire = near.wire()
        wire.call("HELLO", version)
        assert wire.call("SET", "k", 1) == "OK" and wire.call("MULTI") == "OK"
        assert wire.call("GET", "k") == "QUEUED" and wire.call("EXEC") == [b"1"]
        assert wire.call("EVAL", "return redis.call('get', KEYS[1])", 1, "k") == b"1"
    names = {client["name"] for client in server.client(password="sesame").client_list()}
    assert any(name.startswith("nearcache:demo") for name in names)


def test_a_server_that_knows_no_hello(redis_server, nearcache):
    """RESP2 goes on, with AUTH and SETNAME; HELLO 3 gets a clear answer."""
    server = redis_server("--requirepass", "sesame", "--rename-command", "HELLO", "")
    near = nearcache(upstream=f"redis://:sesame@127.0.0.1:{server.port}/0")
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK" and wire.call("GET", "k") == b"1"
    assert wire.call("MULTI") == "OK" and wire.call("GET", "k") == "QUEUED" and wire.call("EXEC") == [b"1"]
    assert wire.call("SUBSCRIBE", "c") == [b"subscribe", b"c", 1]
    three = near.wire()
    said = three.call("HELLO", 3)
    assert isinstance(said, RespError) or isinstance(three.call("GET", "k2"), RespError)
    own = near.wire()  # who has a connection of its own stays with what that speaks
    assert own.call("WATCH", "k") == "OK"
    assert str(own.call("HELLO", 3, "SETNAME", "me")).startswith("ERR unknown command")
    assert own.call_raw("GET", "k2") == b"$-1\r\n" and own.call("SUBSCRIBE", "c") == [b"subscribe", b"c", 1]
