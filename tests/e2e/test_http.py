"""HTTP sent to the Redis port, as by a web page that uses its visitor's browser: closed as by Redis,
without a reply, whatever stands around it; and requests that grow without end."""
import pytest

from certificates import Authority
from conftest import encode, wait_until
from test_tls import listen_options, trust

FORM = (b"POST /cmd HTTP/1.1\r\nHost: localhost:6379\r\nContent-Type: text/plain\r\n\r\n"
        b"SET form sent\r\n")
REQUESTS = [
    FORM, b"post\r\n", b"PoSt x y z\r\n", b"Host: x\r\n", b"host:\r\n", b"HOST: localhost a b\r\n",
    b'"POST" /\r\n', encode("POST"), encode("post", "x"), encode("Host:", "x"), encode("post\0x"),
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PUT / HTTP/1.1\r\nUser-Agent: x\r\nHost: x\r\n\r\n",
]
# What is no HTTP, or nothing that Redis knows as such.
HARMLESS = [b"POSTX\r\n", b"Host\r\n", b"Host:x a\r\n", b"OPTIONS / HTTP/1.1\r\n", b"xpost\r\n",
            b"PRI * HTTP/2.0\r\n\r\n", encode("ECHO", "POST / HTTP/1.1"), encode("SET", "Host:", "x")]


class Files:
    """As test_tls.py's, as far as it is needed here."""

    def __init__(self, directory):
        self.ca = Authority(directory)
        self.server = self.ca.issue("server")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def near(module_redis_server, module_nearcache, files, tmp_path_factory):
    path = tmp_path_factory.mktemp("unix") / "near.sock"
    return module_nearcache(*listen_options(files), upstream=module_redis_server(),
                            listen=("127.0.0.1:0", f"unix:{path}", "tls:127.0.0.1:0"))


@pytest.fixture(scope="module")
def bare(module_redis_server):
    return module_redis_server()


def wires(near, files):
    """A connection to each of its listeners."""
    return [type(wire)(address, tls=tls) for wire in [near.wire()]
            for address, tls in zip(near.addresses, (None, None, trust(files)))]


def rest(wire):
    try:
        return wire.file.read()
    except ConnectionResetError: # closed with some of it unread
        return b""


@pytest.mark.parametrize("data", REQUESTS, ids=range(len(REQUESTS)))
def test_closed_without_a_reply(near, bare, files, data):
    for wire in [bare.wire(), *wires(near, files)]:
        wire.send(data + encode("SET", "behind", "run"))
        assert rest(wire) == b""
        wire.close()
    for side in (bare, near):
        assert side.wire().call("EXISTS", "form", "behind") == 0
    assert near.wire().call("PING") == "PONG"


@pytest.mark.parametrize("data", HARMLESS, ids=range(len(HARMLESS)))
def test_anything_else_is_answered(near, bare, data):
    replies = []
    for side in (bare, near):
        wire = side.wire()
        wire.send(data)
        replies.append(wire.raw())
        assert wire.call("ECHO", "on") == b"on"
    assert replies[0] == replies[1]


def test_at_any_point_of_a_pipeline(near, bare, files):
    """What stands before it is run, and as little answered as by Redis, if it came with it."""
    for wire in [bare.wire(), *wires(near, files)]:
        wire.send(encode("SET", "before", "x") + encode("GET", "before") + FORM)
        assert rest(wire) == b""
        wire.close()
    for side in (bare, near):
        wait_until(lambda side=side: side.wire().call("GET", "before") == b"x")
        assert side.wire().call("DEL", "before") == 1


@pytest.mark.parametrize("prelude", [
    [["MULTI"], ["SET", "multi", "x"]], [["SUBSCRIBE", "c"]], [["HELLO", 3]], [["MONITOR"]],
    [["CLIENT", "TRACKING", "ON"]], [["WATCH", "k"]],
], ids=lambda p: p[0][0])
def test_in_any_state(near, bare, prelude):
    for side in (bare, near):
        wire = side.wire()
        for command in prelude:
            wire.call(*command)
        wire.send(FORM)
        while wire.file.readline(): # messages that MONITOR has sent
            pass
        assert side.wire().call("EXISTS", "multi", "form") == 0


def test_who_has_not_authenticated(redis_server, nearcache):
    bare = redis_server("--requirepass", "x")
    near = nearcache("--auth.password=x", upstream=redis_server())
    for side in (bare, near):
        wire = side.wire()
        wire.send(FORM)
        assert rest(wire) == b""


@pytest.mark.one_worker
def test_the_log_says_so_but_not_each_time(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    for _ in range(5):
        wire = near.wire()
        port = wire.socket.getsockname()[1]
        wire.send(FORM)
        assert rest(wire) == b""
        lines = [line for line in near.output("stderr").split("\n") if "possible_attack" in line]
        assert len(lines) == 1 and "SET form" not in lines[0]
    assert f"client=127.0.0.1:{port}" not in lines[0] and "client=127.0.0.1:" in lines[0]
    assert b"protocol_errors:5" in near.wire().call("INFO", "nearcache")


# --- requests that grow without end -------------------------------------------------------------------


@pytest.mark.parametrize("data, sides", [
    (b"*2\r\n$3\r\nGET\r\n$10000000\r\n", ("bare", "near")),
    (b"*3000000\r\n", ("near",)),  # of which Redis does not count what it has parsed
], ids=["one argument", "many arguments"])
def test_a_request_larger_than_the_limit(redis_server, nearcache, data, sides):
    """Closed without a reply, though what was owed is answered; the log says why."""
    near = nearcache("--client.max_query=1mb", upstream=redis_server())
    for name in sides:
        side = near if name == "near" else redis_server("--client-query-buffer-limit", "1mb",
                                                        "--loglevel", "notice")
        wire = side.wire()
        assert wire.call("ECHO", "first") == b"first"
        wire.send(data)
        try:
            for _ in range(200):
                wire.send(b"$1\r\nx\r\n" * 10000)
        except ConnectionError:
            pass
        assert rest(wire) == b""
        if name == "bare":
            wait_until(lambda: "max query buffer length" in side.output("stdout"))
    wait_until(lambda: "client.max_query" in near.output("stderr"))
    assert b"clients_dropped:1" in near.wire().call("INFO", "nearcache")
