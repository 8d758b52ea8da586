"""TLS to the upstream and from clients, with certificates of our own making; who may connect."""
import os
import signal
import socket
import ssl
import stat
import subprocess

import pytest

import harness
from certificates import YEAR, Authority
from conftest import RespError, encode, wait_until

MB = 1024 * 1024
PASSWORD = "key-password"


class Files:
    """All certificates that the tests use."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = Authority(directory)
        self.other_ca = Authority(directory, "other-authority")
        self.server = self.ca.issue("server")
        self.renewed = self.ca.issue("renewed")
        self.elsewhere = self.ca.issue("elsewhere", alternatives="DNS:redis.example,IP:10.1.2.3")
        self.expired = self.ca.issue("expired", age=YEAR, life=YEAR / 2)
        self.client = self.ca.issue("client")
        self.locked = self.ca.issue("locked", password=PASSWORD)
        self.foreign = self.other_ca.issue("foreign")
        self.password = directory / "password"
        self.password.write_text(PASSWORD + "\n")


@pytest.fixture(scope="module", name="files")
def make_files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("tls"))


def tls_redis(factory, files, certificate=None, *args):
    """A redis-server that speaks TLS at `tls_port`, and plain text at its usual address."""
    certificate = certificate or files.server
    for attempt in range(20):
        port = harness.free_port()
        try:
            server = factory("--tls-port", str(port), "--tls-cert-file", certificate.cert,
                             "--tls-key-file", certificate.key, "--tls-ca-cert-file", files.ca.cert,
                             "--tls-auth-clients", "no", *args)
        except AssertionError:
            if attempt == 19:
                raise
            continue
        server.tls_port = port
        server.tls_url = f"rediss://localhost:{port}"
        return server
    raise AssertionError("no free port")


def options(prefix="", **settings):
    return [f"--{prefix}{name}={value}" for name, value in settings.items()]


def upstream_options(files, **more):
    return options("upstream.tls.", **{"ca_file": files.ca.cert, **more})


def listen_options(files, certificate=None, **more):
    certificate = certificate or files.server
    return options("tls.", **{"cert_file": certificate.cert, "key_file": certificate.key, **more})


TLS_LISTEN = ("tls:127.0.0.1:0",)


def trust(files, certificate=None):
    context = ssl.create_default_context(cafile=files.ca.cert)
    if certificate:
        context.load_cert_chain(certificate.cert, certificate.key)
    return context


def client_of(near, files, **more):
    """redis-py over TLS."""
    return near.client(ssl=True, ssl_ca_certs=files.ca.cert, **more)


def logged(near, text):
    return wait_until(lambda: text in near.output("stderr"), what=f"{text} in the log")


@pytest.fixture(scope="module", name="server")
def make_server(module_redis_server, files):
    return tls_redis(module_redis_server, files)


@pytest.fixture(scope="module", name="near")
def make_near(module_nearcache, server, files):
    """TLS on both sides."""
    return module_nearcache(*upstream_options(files), *listen_options(files), listen=TLS_LISTEN,
                            upstream=server.tls_url)


# --- the upstream ----------------------------------------------------------------------------------


def test_everything_to_the_upstream_goes_over_tls(redis_server, nearcache, files):
    server = tls_redis(redis_server, files)
    near = nearcache(*upstream_options(files), upstream=server.tls_url)
    logged(near, "mode=tracking")
    with near.client() as client, near.client() as other, server.client() as plain:
        client.set("k", "1")
        assert client.get("k") == b"1" and plain.get("demo:k") == b"1"
        plain.set("demo:k", "2")  # the link tells
        wait_until(lambda: client.get("k") == b"2")
        with client.pipeline(transaction=True) as block:
            assert block.set("t", "x").get("t").execute() == [True, b"x"]
        with other.pubsub() as subscriber:
            subscriber.subscribe("c")
            assert subscriber.get_message(timeout=5)["type"] == "subscribe"
            client.publish("c", "hello")
            assert subscriber.get_message(timeout=5)["data"] == b"hello"
        client.rpush("l", "a")
        assert client.blpop("l", 5) == (b"l", b"a")
        ours = [c for c in plain.client_list() if c["name"].startswith("nearcache:")]
        assert len(ours) >= 3
        assert {c["laddr"].rpartition(":")[2] for c in ours} == {str(server.tls_port)}


def test_lost_connections_come_back(redis_server, nearcache, files):
    server = tls_redis(redis_server, files)
    near = nearcache(*upstream_options(files), upstream=server.tls_url)
    with near.client() as client, server.client() as plain:
        client.set("k", "1")
        for _ in range(5):  # which resumes the session
            plain.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            wait_until(lambda: answers(client, "1"))


def answers(client, value):
    try:
        client.set("k", value)
        return client.get("k") == value.encode()
    except harness.redis.RedisError:
        return False


@pytest.mark.parametrize("make", [
    lambda f: {"cert_file": f.client.cert, "key_file": f.client.key},
    lambda f: {"cert_file": f.locked.cert, "key_file": f.locked.key,
               "key_password_file": f.password},
], ids=["plain key", "encrypted key"])
def test_a_certificate_of_our_own(redis_server, nearcache, files, make):
    server = tls_redis(redis_server, files, None, "--tls-auth-clients", "yes")
    near = nearcache(*upstream_options(files, **make(files)), upstream=server.tls_url)
    with near.client() as client:
        assert client.set("k", "v") and client.get("k") == b"v"


def failure(near):
    """What a client is told of the upstream."""
    def told():
        reply = near.wire().call("GET", "k")
        assert isinstance(reply, RespError)
        text = str(reply)
        return text if text.startswith("-NEARCACHE") or "unavailable: " in text else None
    return wait_until(told)


def test_the_upstream_wants_a_certificate(redis_server, nearcache, files):
    server = tls_redis(redis_server, files, None, "--tls-auth-clients", "yes")
    near = nearcache(*upstream_options(files), upstream=server.tls_url)
    said = failure(near)
    assert "the server wants a certificate of ours; give upstream.tls.cert_file" in said or \
        "it may want a certificate of ours (upstream.tls.cert_file)" in said  # depends on timing
    logged(near, "a certificate of ours")


@pytest.mark.parametrize("which, said", [
    ("expired", "the server's certificate has expired"),
    ("elsewhere", "the server's certificate is not for localhost; give a name that it is for as "
                  "upstream.tls.server_name"),
    ("foreign", "the server's certificate is by an unknown authority (/CN=other-authority); give "
                "that one's as upstream.tls.ca_file"),
])
def test_a_certificate_that_is_not_good(redis_server, nearcache, files, which, said):
    server = tls_redis(redis_server, files, getattr(files, which))
    near = nearcache(*upstream_options(files), upstream=server.tls_url)
    assert said in failure(near)
    logged(near, said)
    unverified = nearcache(*upstream_options(files, verify="no"), upstream=server.tls_url)
    assert unverified.wire().call("SET", "k", "v") == "OK"
    logged(unverified, "event=upstream_tls_unverified")


def test_the_name_can_be_given(redis_server, nearcache, files):
    server = tls_redis(redis_server, files, files.elsewhere)
    for name in ("redis.example", "10.1.2.3"):
        near = nearcache(*upstream_options(files, server_name=name), upstream=server.tls_url)
        assert near.wire().call("SET", "k", "v") == "OK"
    near = nearcache(*upstream_options(files, server_name="10.1.2.4"), upstream=server.tls_url)
    assert "not for 10.1.2.4" in failure(near)


def test_an_address_is_verified_too(redis_server, nearcache, files):
    server = tls_redis(redis_server, files)
    near = nearcache(*upstream_options(files), upstream=f"rediss://127.0.0.1:{server.tls_port}")
    assert near.wire().call("SET", "k", "v") == "OK"


def test_tls_and_plain_text_mixed_up(redis_server, nearcache, files):
    server = tls_redis(redis_server, files)
    near = nearcache(*upstream_options(files), upstream=f"rediss://localhost:{server.port}")
    said = failure(near)  # Redis 7.0 says nothing to what is no command, Redis 8 an error
    assert ("no TLS connection (is that a TLS port?) within 1000 ms" in said
            or "the server does not speak TLS at this port" in said)
    near = nearcache(upstream=f"redis://localhost:{server.tls_port}")
    assert "use rediss:// instead of redis://" in failure(near)
    logged(near, "use rediss:// instead of redis://")


def test_an_upstream_that_stalls_in_the_handshake(nearcache, files):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        near = nearcache(*upstream_options(files), "--upstream.connect_timeout=200ms",
                         upstream=f"rediss://localhost:{port}")
        assert "no TLS connection (is that a TLS port?) within 200 ms" in failure(near)


def test_an_upstream_that_answers_in_plain_text(nearcache, files):
    with socket.create_server(("127.0.0.1", 0)) as other:
        near = nearcache(*upstream_options(files),
                         upstream=f"rediss://localhost:{other.getsockname()[1]}")
        with other.accept()[0] as peer:
            peer.sendall(b"-ERR what?\r\n")
            logged(near, "the server does not speak TLS at this port")


# --- clients ---------------------------------------------------------------------------------------


def test_redis_cli(near, files):
    done = subprocess.run(["redis-cli", "--tls", "--cacert", files.ca.cert, "-p", str(near.port),
                           "SET", "cli", "1"], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "OK\n" and done.stderr == ""


def test_many_clients(near, files):
    wires = [near.wire(tls=trust(files)) for _ in range(50)]
    for i, wire in enumerate(wires):
        assert wire.call("HELLO", 2 + i % 2)
        wire.command("SET", f"many:{i}", i)
        wire.command("GET", f"many:{i}")
    for i, wire in enumerate(wires):
        assert (wire.reply(), wire.reply()) == ("OK", str(i).encode())


@pytest.mark.slow
@pytest.mark.skipif(harness.CRAWLS, reason="50 MB take longer than the deadlines")
def test_large_values(near, files):
    value = os.urandom(MB) * 50
    with client_of(near, files, socket_timeout=60) as client:
        assert client.set("large", value)
        assert client.get("large") == value  # too long for the L1: both connections carry it
        assert client.get("large") == value
        client.delete("large")


def test_values_of_all_sizes(near, files):
    sizes = [0, 1, 100, 8191, 8192, 16000, 16383, 16384, 16385, 32768, 100_000, 262_144, MB + 1]
    values = {f"size:{n}": os.urandom(n) for n in sizes}
    with client_of(near, files) as client:
        assert client.mset(values)
        for _ in range(2):
            assert client.mget(list(values)) == list(values.values())
            assert [client.get(key) for key in values] == list(values.values())


@pytest.mark.slow
def test_a_long_pipeline(near, files):
    n = 100_000
    with client_of(near, files, socket_timeout=60) as client:
        with client.pipeline(transaction=False) as block:
            for i in range(n):
                block.incr("counter")
                block.echo(str(i))
            assert block.execute() == [x for i in range(n) for x in (i + 1, str(i).encode())]
        client.delete("counter")


@pytest.mark.slow
def test_a_client_that_reads_late(near, files):
    value = os.urandom(MB)
    with client_of(near, files) as client:
        client.set("late", value)
        late = near.wire(tls=trust(files))
        for _ in range(40):
            late.command("GET", "late")
        for i in range(200):  # the others go on
            assert client.set("early", i) and client.get("early") == str(i).encode()
        for _ in range(40):
            assert late.reply() == value


class ByHand:
    """The client's end of TLS over a socket, record by record."""

    def __init__(self, address, context):
        self.socket = socket.create_connection(address, 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received, self.sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.received, self.sent, server_hostname="localhost")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send_by_byte(self):
        for byte in self.sent.read():
            self.socket.sendall(bytes([byte]))

    def until(self, function, send=None):
        """Calls it until it needs nothing more from the server."""
        while True:
            try:
                result = function()
                wants = False
            except ssl.SSLWantReadError:
                wants = True
            if send:
                send()
            elif self.sent.pending:
                self.socket.sendall(self.sent.read())
            if not wants:
                return result
            data = self.socket.recv(65536)
            if data:
                self.received.write(data)
            else:
                self.received.write_eof()

    def read(self, n):
        text = b""
        while len(text) < n:
            part = self.until(lambda: self.tls.read(n - len(text)))
            assert part, text
            text += part
        return text

    def at_end(self):
        try:
            return self.until(lambda: self.tls.read(1)) == b""
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError):
            return True


def test_byte_at_a_time(near, files):
    with ByHand(near.address, trust(files)) as peer:
        peer.until(peer.tls.do_handshake, peer.send_by_byte)
        for byte in encode("SET", "slow", "x" * 20) + encode("GET", "slow"):
            peer.tls.write(bytes([byte]))  # a record of its own
            peer.send_by_byte()
        assert peer.read(32) == b"+OK\r\n$20\r\n" + b"x" * 20 + b"\r\n"


@pytest.mark.parametrize("politely", [True, False])
def test_half_close(near, files, politely):
    """Whoever has said all it wants to still gets what it is owed."""
    with client_of(near, files) as client, ByHand(near.address, trust(files)) as peer:
        client.delete("half")
        peer.until(peer.tls.do_handshake)
        peer.tls.write(encode("SET", "half", "x" * 100_000) + encode("GET", "half"))
        if politely:
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.unwrap()
        peer.socket.sendall(peer.sent.read())
        if not politely:
            peer.socket.shutdown(socket.SHUT_WR)
        want = b"+OK\r\n$100000\r\n" + b"x" * 100_000 + b"\r\n"
        if politely:  # Python reads nothing more: look whether all of it has come
            got = b""
            while part := peer.socket.recv(65536):
                got += part
            assert len(got) > len(want)
        else:
            assert peer.read(len(want)) == want
            assert peer.at_end()


def test_clients_that_vanish(near, files):
    """With replies unread, replies still to come, or half a record sent."""
    wire = near.wire(tls=trust(files))
    before = wire.call("CLIENT", "LIST").count(b"\n")
    for end in (lambda s: s.shutdown(socket.SHUT_WR), lambda s: None,
                lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")):
        for cut in (None, -10):
            with ByHand(near.address, trust(files)) as peer:
                peer.until(peer.tls.do_handshake)
                peer.tls.write(encode("SET", "half", "x" * 100_000) + encode("GET", "half") * 3)
                peer.socket.sendall(peer.sent.read()[:cut])
                end(peer.socket)
    wait_until(lambda: wire.call("CLIENT", "LIST").count(b"\n") == before)


def counter(wire, name):
    info = wire.call("INFO", "nearcache").decode()
    return int(info.split(f"\n{name}:")[1].split()[0])


def test_a_handshake_that_stalls(nearcache, server, files):
    near = nearcache(*listen_options(files, handshake_timeout="200ms"), upstream=server,
                     listen=TLS_LISTEN)
    peer = ByHand(near.address, trust(files))
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    hello = peer.sent.read()
    silent, stalled = (socket.create_connection(near.address, 10) for _ in range(2))
    with silent, stalled, peer:
        stalled.sendall(hello[:-10])
        peer.socket.sendall(hello)  # its last word
        wire = near.wire(tls=trust(files))
        assert wire.call("PING") == "PONG"
        assert silent.recv(1) == b"" and stalled.recv(1) == b""
        while peer.socket.recv(65536):
            pass
        assert wire.call("PING") == "PONG"
        assert counter(wire, "tls_handshakes_failed") == 3
    logged(near, "the handshake took longer than tls.handshake_timeout")


@pytest.mark.parametrize("words", [encode("PING"), b"PING\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                   b"\x00\xff" * 5000])
def test_plain_text_at_a_tls_port(near, files, words):
    with socket.create_connection(near.address, 10) as peer:
        peer.sendall(words)
        assert peer.makefile("rb").read() == \
            b"-ERR this port speaks TLS: connect with TLS (redis-cli --tls, rediss://)\r\n"
    logged(near, "the client does not speak TLS")
    assert near.wire(tls=trust(files)).call("PING") == "PONG"


def test_tls_at_a_plain_port(nearcache, server, files):
    near = nearcache(upstream=server)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        near.wire(tls=trust(files))
    logged(near, "tls:host:port")
    assert near.wire().call("PING") == "PONG"


def test_rubbish_in_the_middle_of_a_stream(near, files):
    for words in (b"\x17\x03\x03\x00\x20" + b"x" * 32, b"\x17\x03\x03\xff\xff", b"PING\r\n" * 9,
                  b"\x15\x03\x03\x00\x02\x02\x28"):
        with ByHand(near.address, trust(files)) as peer:
            peer.until(peer.tls.do_handshake)
            peer.tls.write(encode("PING"))
            peer.socket.sendall(peer.sent.read())
            assert peer.read(7) == b"+PONG\r\n"
            peer.socket.sendall(words)
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.socket.recv(65536):
                pass
    assert near.wire(tls=trust(files)).call("PING") == "PONG"


# --- client certificates ---------------------------------------------------------------------------


def test_client_certificates_are_required(nearcache, server, files):
    near = nearcache(*listen_options(files, ca_file=files.ca.cert), upstream=server,
                     listen=TLS_LISTEN)
    assert near.wire(tls=trust(files, files.client)).call("PING") == "PONG"
    for certificate in (None, files.foreign, files.expired):
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            near.wire(tls=trust(files, certificate)).call("PING")
    logged(near, "the client has shown no certificate")
    assert near.wire(tls=trust(files, files.client)).call("PING") == "PONG"


def test_client_certificates_are_optional(nearcache, server, files):
    near = nearcache(*listen_options(files, ca_file=files.ca.cert, auth_clients="optional"),
                     upstream=server, listen=TLS_LISTEN)
    for certificate in (None, files.client):
        assert near.wire(tls=trust(files, certificate)).call("PING") == "PONG"
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        near.wire(tls=trust(files, files.foreign)).call("PING")


# --- reloading -------------------------------------------------------------------------------------


def subject(wire):
    return dict(pair[0] for pair in wire.socket.getpeercert()["subject"])["commonName"]


def test_certificates_change_on_sighup(nearcache, server, files, tmp_path):
    config = tmp_path / "n.json"

    def configure(certificate, key=None):
        config.write_text('{"tls": {"cert_file": "%s", "key_file": "%s"}}'
                          % (certificate.cert, (key or certificate).key))

    configure(files.server)
    near = nearcache(f"--config={config}", upstream=server, listen=TLS_LISTEN)
    old = near.wire(tls=trust(files))
    assert subject(old) == "server"
    configure(files.renewed, key=files.server)  # not its key
    near.popen.send_signal(signal.SIGHUP)
    logged(near, "event=reload_refused")
    assert "not the key of that certificate" in near.output("stderr")
    assert subject(near.wire(tls=trust(files))) == "server"
    configure(files.renewed)
    near.popen.send_signal(signal.SIGHUP)
    logged(near, "setting=tls.cert_file")
    assert subject(near.wire(tls=trust(files))) == "renewed"
    assert old.call("PING") == "PONG"


def test_the_same_files_are_read_again(nearcache, server, files, tmp_path):
    pair = tmp_path / "pair.pem"

    def install(certificate):
        with open(certificate.cert, encoding="ascii") as c, open(certificate.key, encoding="ascii") as k:
            pair.write_text(c.read() + k.read())

    install(files.server)
    near = nearcache(f"--tls.cert_file={pair}", upstream=server, listen=TLS_LISTEN)
    assert subject(near.wire(tls=trust(files))) == "server"
    install(files.renewed)
    near.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: subject(near.wire(tls=trust(files))) == "renewed")


# --- starting --------------------------------------------------------------------------------------


def refusal(tmp_path, *args):
    """What is said by a nearcache that does not start."""
    near = harness.Nearcache(tmp_path / "refused", *args, upstream="redis://127.0.0.1:1", listen=())
    near.spawn(near.argv)
    assert near.popen.wait(10) == 1
    return near.output("stderr")


def test_files_that_are_not_right(tmp_path, files):
    listen = "--listen=tls:127.0.0.1:0"
    ca, server = files.ca, files.server
    for args, said in [
            ({"cert_file": ca.key}, f"tls.cert_file={ca.key}: no start line (no certificate in PEM)"),
            ({"cert_file": server.cert}, "no private key in PEM"),
            ({"cert_file": server.cert, "key_file": ca.key}, "not the key of that certificate"),
            ({"cert_file": files.locked.cert, "key_file": files.locked.key}, "no private key"),
            ({"cert_file": server.cert, "key_file": server.key, "ca_file": server.key},
             "no certificates in PEM"),
    ]:
        assert said in refusal(tmp_path, listen, *options("tls.", **args))
    wrong = tmp_path / "wrong"
    wrong.write_text("not-it\n")
    said = refusal(tmp_path, listen, *options("tls.", cert_file=files.locked.cert,
                                              key_file=files.locked.key, key_password_file=wrong))
    assert "tls.key_file=" in said and "not-it" not in said


def test_nobody_listens_in_the_open_without_being_told(tmp_path, nearcache, server, files):
    said = refusal(tmp_path, "--listen=0.0.0.0:0")
    assert "protected_mode=no allows it" in said and "auth.password" in said
    nearcache("--protected_mode=no", upstream=server, listen=("0.0.0.0:0",))
    nearcache("--auth.password=x", upstream=server, listen=("0.0.0.0:0",))
    said = refusal(tmp_path, "--listen=tls:0.0.0.0:0", *listen_options(files))
    assert "protected_mode=no allows it" in said
    nearcache(*listen_options(files, ca_file=files.ca.cert), upstream=server,
              listen=("tls:0.0.0.0:0",))


@pytest.mark.parametrize("mode", ["0600", "770", "0777"])
def test_mode_of_a_unix_socket(nearcache, server, tmp_path, mode):
    path = tmp_path / "n.sock"
    near = nearcache(f"--unix.mode={mode}", upstream=server, listen=(f"unix:{path}",))
    assert stat.S_IMODE(os.stat(path).st_mode) == int(mode, 8)
    assert near.wire().call("PING") == "PONG"
