"""Every key that a client names lies in its service's namespace, whatever the command."""
import socket
import socketserver
import threading

import pytest
import redis as redis_py

from conftest import encode, wait_until

# Commands that read or write `other:secret` if it gets through, in every position that a key can have.
SECRET = "other:secret"
ESCAPES = [
    ["GET", SECRET], ["GET", "../" + SECRET], ["GETEX", SECRET], ["SET", SECRET, "x"],
    ["MGET", "a", SECRET], ["MSET", "a", "1", SECRET, "x"], ["MSETNX", "a", "1", SECRET, "x"],
    ["DEL", "a", SECRET], ["UNLINK", SECRET], ["RENAME", SECRET, "mine"], ["RENAME", "a", SECRET],
    ["RENAMENX", SECRET, "mine"], ["COPY", SECRET, "mine"], ["COPY", "mine", SECRET, "REPLACE"],
    ["COPY", SECRET, "mine", "DB", "0", "REPLACE"], ["MOVE", SECRET, "1"], ["DUMP", SECRET],
    ["EXPIRE", SECRET, "1"], ["PERSIST", SECRET], ["TYPE", SECRET], ["TTL", SECRET],
    ["OBJECT", "ENCODING", SECRET], ["OBJECT", "FREQ", SECRET], ["MEMORY", "USAGE", SECRET],
    ["MEMORY", "USAGE", SECRET, "SAMPLES", "5"], ["STRLEN", SECRET], ["APPEND", SECRET, "x"],
    ["SETRANGE", SECRET, "0", "x"], ["BITOP", "OR", SECRET, "a"], ["BITOP", "OR", "mine", SECRET],
    ["PFADD", SECRET, "x"], ["PFMERGE", SECRET, "a"], ["PFCOUNT", SECRET, "a"],
    ["LPUSH", SECRET, "x"], ["LMOVE", SECRET, "mine", "LEFT", "LEFT"], ["RPOPLPUSH", "a", SECRET],
    ["LMPOP", "2", "a", SECRET, "LEFT"], ["ZMPOP", "2", "a", SECRET, "MIN"],
    ["SINTERCARD", "2", "a", SECRET], ["SINTERSTORE", SECRET, "a"], ["SUNIONSTORE", SECRET, "set"],
    ["SDIFFSTORE", "mine", SECRET], ["SMOVE", SECRET, "mine", "x"], ["SUNION", "a", SECRET],
    ["ZUNIONSTORE", SECRET, "1", "zset"], ["ZUNIONSTORE", "mine", "2", "a", SECRET],
    ["ZUNION", "2", "a", SECRET, "WEIGHTS", "1", "1"], ["ZDIFFSTORE", SECRET, "1", "zset"],
    ["ZINTERSTORE", SECRET, "1", "zset", "AGGREGATE", "MAX"], ["ZRANGESTORE", SECRET, "zset", "0", "-1"],
    ["ZUNIONSTORE", "mine", "99", SECRET], ["ZUNIONSTORE", "mine", "-1", SECRET],
    ["SORT", SECRET], ["SORT", "list", "STORE", SECRET], ["SORT", "list", "STORE", "a", "STORE", SECRET],
    ["SORT", "list", "BY", "other:*", "GET", "other:*"], ["SORT", "list", "GET", "other:secret*"],
    ["SORT", "list", "LIMIT", "0", "STORE", "STORE", SECRET], ["SORT_RO", SECRET],
    ["SORT", "list", "BY", "nosort", "GET", "#", "GET", "other:*"],
    ["GEORADIUS", "geo", "15", "37", "200", "km", "STORE", SECRET],
    ["GEORADIUS", "geo", "15", "37", "200", "km", "STORE", "a", "STORE", SECRET],
    ["GEORADIUS", "geo", "15", "37", "200", "km", "STOREDIST", SECRET, "STORE", "a"],
    ["GEORADIUS", "geo", "15", "37", "200", "km", "COUNT", "1", "ANY", "STORE", SECRET],
    ["GEORADIUSBYMEMBER", "geo", "Palermo", "200", "km", "STOREDIST", SECRET],
    ["GEOSEARCHSTORE", SECRET, "geo", "FROMMEMBER", "Palermo", "BYRADIUS", "200", "km"],
    ["XADD", SECRET, "*", "f", "v"], ["XREAD", "STREAMS", SECRET, "0"],
    ["XREAD", "COUNT", "1", "STREAMS", "a", SECRET, "0", "0"],
    ["XGROUP", "CREATE", SECRET, "g", "$", "MKSTREAM"], ["XINFO", "STREAM", SECRET],
    ["XREADGROUP", "GROUP", "g", "c", "STREAMS", SECRET, ">"],
    ["XREADGROUP", "COUNT", "1", "GROUP", "STREAMS", "c", "STREAMS", SECRET, ">"],
    ["XREADGROUP", "GROUP", "STREAMS", "c", "NOACK", "STREAMS", SECRET, ">"],
    ["EVAL", "return redis.call('get', KEYS[1])", "1", SECRET],
    ["EVAL", "return redis.call('set', KEYS[2], 'x')", "2", "a", SECRET],
    ["EVAL_RO", "return redis.call('get', KEYS[1])", "1", SECRET],
    ["LCS", "a", SECRET], ["TOUCH", SECRET], ["EXISTS", SECRET], ["RESTORE", SECRET, "0", "x"],
    ["MIGRATE", "127.0.0.1", "1", SECRET, "0", "10"],
    ["MIGRATE", "127.0.0.1", "1", "", "0", "10", "KEYS", "a", SECRET],
    ["MIGRATE", "127.0.0.1", "1", "", "0", "10", "AUTH", "KEYS", "KEYS", SECRET],
    ["SCAN", "0", "MATCH", "other:*"], ["SCAN", "0", "MATCH", "*", "MATCH", "other:*"],
    ["SCAN", "0", "MATCH\0x", "other:*"], ["SCAN", "0", "MATCH", "a", "MATCH\0x", "other:*"],
    ["SCAN", "0", "COUNT", "match", "MATCH", "other:*"], ["SORT", "list", "STORE\0x", SECRET],
    ["KEYS", "other:*"], ["KEYS", "*"], ["KEYS", "../*"], ["SCAN", "0"], ["RANDOMKEY"],
    ["FLUSHDB"], ["FLUSHALL"], ["SWAPDB", "0", "1"], ["DEBUG", "OBJECT", SECRET],
    ["CLUSTER", "GETKEYSINSLOT", "0", "10"], ["SLOWLOG", "GET"], ["CONFIG", "SET", "maxmemory", "1"],
]


@pytest.fixture
def other(redis_server, nearcache):
    """A Redis with another service's data, and a client of ours through nearcache."""
    server = redis_server()
    direct = server.client()
    direct.set(SECRET, "s3cr3t")
    process = nearcache(upstream=server, service="user-service")
    near = process.client()
    near.rpush("list", 1, 2)
    near.sadd("set", "x")
    near.zadd("zset", {"x": 1})
    near.geoadd("geo", (13.361389, 38.115556, "Palermo"))
    near.set("a", "1")
    near.delete("a")
    return direct, process.wire()


def test_no_argument_reaches_another_services_keys(other):
    direct, near = other
    for command in ESCAPES:
        assert "s3cr3t" not in repr(near.call(*command)), command
        foreign = [key for key in direct.keys("*") if not key.startswith(b"user-service:")]
        assert foreign == [SECRET.encode()], command
        assert direct.get(SECRET) == b"s3cr3t", command
        assert direct.ttl(SECRET) == -1, command


@pytest.mark.parametrize("command", [
    ["SCAN", 0], ["SCAN", 0, "MATCH", "other:*"], ["SCAN", 0, "MATCH", "*", "MATCH", "other:*"],
    ["SCAN", 0, "MATCH\0x", "other:*"], ["SCAN", 0, "MATCH", "a", "MATCH\0x", "other:*"],
    ["SCAN", 0, "COUNT", 10, "MATCH", "other:*"], ["SCAN", 0, "TYPE", "string"], ["KEYS", "*"],
    ["KEYS", "other:*"], ["KEYS", "[^x]*"], ["RANDOMKEY"]])
def test_no_listing_names_another_services_keys(redis_server, nearcache, command):
    server = redis_server()
    server.client().set(SECRET, 1)
    near = nearcache(upstream=server).wire()
    assert "secret" not in repr(near.call(*command))


@pytest.fixture
def both(redis_server, nearcache):
    server = redis_server()
    return server.client(), nearcache(upstream=server, service="user-service").client()


def test_a_key_gets_the_prefix(both):
    direct, near = both
    near.set("user:123", "x")
    assert direct.keys("*") == [b"user-service:user:123"]
    assert near.get("user:123") == b"x"


def test_names_in_replies_lose_the_prefix(both):
    direct, near = both
    near.xadd("stream", {"f": "v"}, id="1-1")
    near.rpush("list", "x")
    near.zadd("zset", {"m": 1})
    assert near.xread({"stream": "0"}) == [[b"stream", [(b"1-1", {b"f": b"v"})]]]
    assert near.execute_command("LMPOP", 2, "none", "list", "LEFT") == [b"list", [b"x"]]
    assert near.execute_command("ZMPOP", 1, "zset", "MIN")[0] == b"zset"
    assert near.randomkey() == b"stream"
    with pytest.raises(redis_py.ResponseError, match="No such key 'nokey'"):
        near.xreadgroup("g", "c", {"nokey": ">"})
    assert direct.keys("*") == [b"user-service:stream"]


def test_sort_by_and_get_stay_inside(both):
    direct, near = both
    near.rpush("list", 1, 2)
    near.mset({"w:1": 9, "w:2": 3, "o:1": "one", "o:2": "two"})
    assert near.sort("list", by="w:*", get=["o:*", "#"]) == [b"two", b"2", b"one", b"1"]
    assert near.sort("list", store="sorted", desc=True) == 2
    assert direct.lrange("user-service:sorted", 0, -1) == [b"2", b"1"]


class Repeats(socketserver.StreamRequestHandler):
    """A server whose SCAN tells a key twice, as Redis' does while its table shrinks."""
    steps = {b"0": (b"7", [b"demo:a", b"demo:b"]), b"7": (b"0", [b"demo:b", b"demo:c"])}

    def bulk(self):
        return self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2]

    def handle(self):
        while line := self.rfile.readline():
            argv = [self.bulk() for _ in range(int(line[1:]))]
            if argv[0] != b"SCAN":
                self.wfile.write(b"+OK\r\n")
                continue
            cursor, keys = self.steps[argv[1]]
            self.wfile.write(encode(cursor).replace(b"*1", b"*2", 1) + encode(*keys))


def test_dbsize_counts_a_key_once(nearcache):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Repeats) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        near = nearcache(upstream=f"redis://127.0.0.1:{server.server_address[1]}")
        assert near.wire().call("DBSIZE") == 3
        near.stop()
        server.shutdown()


def test_keys_and_scan_see_this_namespace_only(both):
    direct, near = both
    direct.mset({f"other:{i}": i for i in range(500)})
    mine = {f"k{i}".encode() for i in range(300)}
    near.mset({key: 1 for key in mine})
    assert set(near.keys("*")) == mine
    assert set(near.keys("k1?")) == {f"k1{i}".encode() for i in range(10)}
    assert set(near.scan_iter()) == mine
    assert set(near.scan_iter(match="k2*", count=7)) == {k for k in mine if k.startswith(b"k2")}
    assert near.dbsize() == 300
    assert near.randomkey() in mine


def test_flush_takes_this_namespace_only_in_every_database(both):
    direct, near = both
    direct.mset({f"other:{i}": i for i in range(2500)})
    near.mset({f"k{i}": i for i in range(2500)})
    near.execute_command("SELECT", 0)
    assert near.get("k1") == b"1"
    assert near.flushdb() is True
    assert near.get("k1") is None
    assert direct.dbsize() == 2500
    near.set("again", 1)
    assert near.flushall() is True
    assert direct.dbsize() == 2500 and near.dbsize() == 0 and near.randomkey() is None


def test_flushall_reaches_the_other_databases(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    wire = near.wire()
    for db in (0, 3):
        assert wire.call("SELECT", db) == "OK"
        assert wire.call("SET", "k", db) == "OK"
    assert wire.call("FLUSHALL", "ASYNC") == "OK"
    assert server.client().info("keyspace") == {}


@pytest.mark.parametrize("prefix", ["a*b:", "[x]:", "q?:", "back\\slash:"])
def test_glob_characters_in_the_prefix_mean_themselves(redis_server, nearcache, prefix):
    server = redis_server()
    direct = server.client()
    near = nearcache("--namespace", prefix, upstream=server).client()
    direct.mset({"aXb:1": 1, "x:1": 1, "qq:1": 1, "backslash:1": 1})
    near.set("1", "mine")
    assert direct.get(prefix + "1") == b"mine"
    assert near.keys("*") == [b"1"] and list(near.scan_iter()) == [b"1"] and near.dbsize() == 1
    near.flushdb()
    assert direct.dbsize() == 4


def test_an_empty_namespace_passes_names_through(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--namespace", "", upstream=server).client()
    near.set("k", "v")
    assert server.client().get("k") == b"v"
    assert near.keys("*") == [b"k"] and near.dbsize() == 1 and near.randomkey() == b"k"
    assert near.flushall() and near.dbsize() == 0


class NewerServer(threading.Thread):
    """A real Redis with one command more, MY.GET, which is GET: COMMAND lists it."""
    ENTRY = (b"*10\r\n$6\r\nmy.get\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n"
             b"*1\r\n*6\r\n$5\r\nflags\r\n*1\r\n+RO\r\n$12\r\nbegin_search\r\n*4\r\n$4\r\ntype\r\n"
             b"$5\r\nindex\r\n$4\r\nspec\r\n*2\r\n$5\r\nindex\r\n:1\r\n$9\r\nfind_keys\r\n*4\r\n"
             b"$4\r\ntype\r\n$5\r\nrange\r\n$4\r\nspec\r\n*6\r\n$7\r\nlastkey\r\n:0\r\n$7\r\nkeystep"
             b"\r\n:1\r\n$5\r\nlimit\r\n:0\r\n*0\r\n")

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "redis://127.0.0.1:%d" % self.listener.getsockname()[1]

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(self.server.address)
            threading.Thread(target=self.requests, args=(connection, upstream), daemon=True).start()
            threading.Thread(target=self.replies, args=(upstream, connection), daemon=True).start()

    @staticmethod
    def requests(source, target):
        while data := source.recv(65536):
            target.sendall(data.replace(b"$6\r\nMY.GET", b"$3\r\nGET"))

    def replies(self, source, target):
        count = len(self.server.client().command())
        header = b"*%d\r\n*10\r\n" % count
        while data := source.recv(1 << 20):
            target.sendall(data.replace(header, b"*%d\r\n" % (count + 1) + self.ENTRY + b"*10\r\n"))


def test_a_command_nobody_here_has_heard_of_is_asked_of_the_server(redis_server, nearcache):
    server = redis_server()
    newer = NewerServer(server)
    newer.start()
    near = nearcache(upstream=newer)
    wire = near.wire()
    wait_until(lambda: b"serving:1" in wire.call("INFO", "nearcache"))
    server.client().set("demo:k", "mine")
    server.client().set("k", "another's")
    assert wire.call("MY.GET", "k") == b"mine"
    assert "wrong number of arguments for 'my.get'" in str(wire.call("MY.GET"))
    assert "unknown command 'MY.SET'" in str(wire.call("MY.SET", "k"))
    newer.listener.close()
