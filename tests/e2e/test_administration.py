"""What administers the shared server: refused, filtered, or forwarded with admin_commands=allow."""
import pytest

from conftest import RespError, connect, wait_until

SECRETS = {"requirepass": "s3cret", "masterauth": "m4ster", "masteruser": "m3"}


@pytest.fixture(scope="module")
def server(module_redis_server):
    """With passwords of every kind that CONFIG GET would show."""
    return module_redis_server(*(word for name, value in SECRETS.items()
                                 for word in ("--" + name, value)))


@pytest.fixture(scope="module")
def near(server, module_nearcache):
    return module_nearcache(upstream=f"redis://:s3cret@127.0.0.1:{server.port}/0")


@pytest.fixture(scope="module")
def allowed(server, module_nearcache):
    return module_nearcache("--set", "admin_commands=allow",
                            upstream=f"redis://:s3cret@127.0.0.1:{server.port}/0")


@pytest.fixture(scope="module")
def bare(server):
    client = server.wire()
    client.call("AUTH", "s3cret")
    return client


@pytest.mark.parametrize("command", [
    ["CONFIG", "SET", "maxmemory", 1], ["CONFIG", "REWRITE"], ["CONFIG", "RESETSTAT"], ["SHUTDOWN"],
    ["DEBUG", "SLEEP", 9], ["ACL", "SETUSER", "x"], ["ACL", "GETUSER", "default"], ["ACL", "LIST"],
    ["ACL", "LOG"], ["ACL", "DRYRUN", "default", "GET", "k"], ["MODULE", "LOAD", "x"],
    ["REPLICAOF", "NO", "ONE"], ["SAVE"], ["BGSAVE"], ["BGREWRITEAOF"], ["FAILOVER"],
    ["CLIENT", "PAUSE", 1], ["CLIENT", "UNPAUSE"], ["SLOWLOG", "RESET"], ["LATENCY", "RESET"],
    ["SWAPDB", 0, 1], ["SCRIPT", "FLUSH"], ["MEMORY", "PURGE"],
    ["CLUSTER", "GETKEYSINSLOT", 1, 1],
])
def test_refused_by_default(near, command):
    text = str(near.wire().call(*command))
    assert text.startswith("NOPERM ") and "admin_commands" in text


def test_forwarded_where_it_is_allowed(allowed, bare):
    wire = allowed.wire()
    assert wire.call("CONFIG", "SET", "maxmemory", "100mb") == "OK"
    assert bare.call("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"104857600"]
    assert wire.call("CLIENT", "PAUSE", 0) == "OK"
    assert wire.call("CONFIG", "SET", "maxmemory", "0") == "OK"


def test_what_tools_send_when_they_connect(near, bare):
    wire = near.wire()
    for command in (["ACL", "WHOAMI"], ["ACL", "CAT"], ["LATENCY", "HELP"], ["LOLWUT", "VERSION", 5, 1],
                    ["COMMAND", "COUNT"], ["COMMAND", "INFO", "get"], ["ROLE"],
                    ["CONFIG", "GET", "maxmemory-policy"], ["CONFIG", "GET", "databases"]):
        assert wire.call(*command) == bare.call(*command), command
    for command in (["LATENCY", "LATEST"], ["LATENCY", "DOCTOR"], ["LATENCY", "HISTOGRAM"],
                    ["SLOWLOG", "LEN"], ["SLOWLOG", "GET"], ["MEMORY", "DOCTOR"], ["MEMORY", "STATS"],
                    ["LOLWUT"], ["ACL", "GENPASS"], ["COMMAND", "DOCS", "get"], ["MODULE", "LIST"]):
        assert not isinstance(wire.call(*command), RespError), command


# --- CONFIG GET ------------------------------------------------------------------------------------


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("patterns", [["maxmemory*"], ["save"], ["no such"], ["SAVE", "tls-p*"],
                                      ["databases", "databases"], ["hash-max-[lz]*"]])
def test_config_get_as_redis(near, bare, patterns, resp):
    wire = near.wire()
    wire.call("HELLO", resp)
    bare.call("HELLO", resp)
    assert sorted(wire.call_raw("CONFIG", "GET", *patterns).split(b"\r\n")) == \
        sorted(bare.call_raw("CONFIG", "GET", *patterns).split(b"\r\n"))
    bare.call("HELLO", 2)


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("patterns", [["*"], ["requirepass", "masterauth", "masteruser"],
                                      ["*PASS*", "MASTER*"],
                                      ["RequirePass", "[m]asterauth", "masteruse?"]])
def test_passwords_are_not_shown(near, patterns, resp):
    wire = near.wire()
    wire.call("HELLO", resp)
    raw = wire.call_raw("CONFIG", "GET", *patterns)
    assert not [value for value in SECRETS.values() if b"\r\n%s\r\n" % value.encode() in raw]
    reply = wire.call("CONFIG", "GET", *patterns)
    pairs = reply if resp == 3 else dict(zip(reply[::2], reply[1::2]))
    lower = {name.lower(): value for name, value in pairs.items()}
    assert [lower[name.encode()] for name in SECRETS] == [b""] * 3


def test_passwords_are_shown_to_administrators(allowed):
    wire = allowed.wire()
    assert wire.call("CONFIG", "GET", "requirepass") == [b"requirepass", b"s3cret"]
    wire.call("HELLO", 3)
    assert wire.call("CONFIG", "GET", "masterauth") == {b"masterauth": b"m4ster"}


def test_not_in_a_transaction_either(near):
    wire = near.wire()
    for resp in (2, 3):
        wire.call("HELLO", resp)
        wire.call("MULTI")
        wire.call("CONFIG", "GET", "requirepass")
        wire.call("SLOWLOG", "GET")
        assert b"s3cret" not in wire.call_raw("EXEC")


# --- SLOWLOG GET -----------------------------------------------------------------------------------


@pytest.fixture
def slow(redis_server):
    """A server that logs everything, from now on."""
    server = redis_server("--slowlog-max-len", "1000")
    return server


def log_all(server, on):
    server.client().config_set("slowlog-log-slower-than", 0 if on else -1)


def entries(wire, *count):
    """(id, argv) of each."""
    return [(entry[0], entry[3]) for entry in wire.call("SLOWLOG", "GET", *count)]


@pytest.mark.parametrize("resp", [2, 3])
def test_slowlog_shows_own_commands_only(slow, nearcache, resp):
    near, other = nearcache(upstream=slow), nearcache(upstream=slow, service="other")
    wire, stranger = near.wire(), other.wire()
    wire.call("HELLO", resp)
    wire.call("PING"), stranger.call("PING")
    log_all(slow, True)
    wire.call("MSET", "a", 1, "b", "x" * 200)
    wire.call("KEYS", "a*")
    wire.call("DEL", *(f"key{i}" for i in range(100)))
    stranger.call("MSET", "theirs", 1)
    stranger.call("KEYS", "theirs*")
    stranger.call("EVAL", "return 'theirs'", 0)
    for client in (stranger, slow.wire()):
        client.call("PUBLISH", "theirs", "theirs")
        client.call("SCRIPT", "LOAD", "return 'theirs'")
    wire.call("PUBLISH", "news", "ours")
    connect(slow.address).mset({"theirs": 1, "demo:a": 2})
    log_all(slow, False)
    shown = entries(wire, -1)
    names = [argv for _, argv in shown if argv[0] in (b"MSET", b"KEYS", b"DEL", b"EVAL")]
    assert names == [[b"DEL", *(b"key%d" % i for i in range(30)), b"... (70 more arguments)"],
                     [b"KEYS", b"a*"],
                     [b"MSET", b"a", b"1", b"b", b"x" * 128 + b"... (72 more bytes)"]]
    assert b"theirs" not in repr(wire.call("SLOWLOG", "GET", 100)).encode()
    assert [b"PUBLISH", b"news", b"ours"] in [argv for _, argv in shown]
    assert entries(wire, 2) == shown[:2] and entries(wire) == shown[:10]
    assert entries(wire, 0) == [] and entries(wire, len(shown) + 5) == shown


def test_slowlog_without_a_namespace_is_the_servers(slow, nearcache):
    near = nearcache("--namespace", "", upstream=slow)
    wire = near.wire()
    log_all(slow, True)
    connect(slow.address).set("k", "v")
    log_all(slow, False)
    bare = slow.wire()
    assert wire.call_raw("SLOWLOG", "GET", -1) == bare.call_raw("SLOWLOG", "GET", -1)
    assert [b"SET", b"k", b"v"] in [argv for _, argv in entries(wire, -1)]


@pytest.mark.parametrize("args", [["x"], [-2], [1, 2], ["9223372036854775808"], [1.5], [""]])
def test_slowlog_refuses_as_redis(near, bare, args):
    assert near.wire().call_raw("SLOWLOG", "GET", *args) == bare.call_raw("SLOWLOG", "GET", *args)


# --- when the server is away -----------------------------------------------------------------------


def test_errors_instead_of_answers(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    wire = near.wire()
    assert wire.call("PING") == "PONG"
    server.kill()
    wait_until(lambda: isinstance(wire.call("GET", "k"), RespError))
    for command in (["CONFIG", "GET", "save"], ["SLOWLOG", "GET"], ["INFO", "server"]):
        assert isinstance(wire.call(*command), RespError), command
    assert b"# Nearcache" in wire.call("INFO")
    wire.call("HELLO", 3)
    assert wire.call_raw("INFO").split(b"\r\n")[1].startswith(b"txt:# Nearcache")
