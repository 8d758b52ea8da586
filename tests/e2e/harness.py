"""The processes that end-to-end tests talk to, a raw RESP connection, and waiting without sleeping.

Everything here is private to one test: own directory, a free port, ended and waited for.

With NEARCACHE_TEST_WORKERS=N nearcache has so many workers, where the test does not say.
With NEARCACHE_WRAPPER="valgrind ..." nearcache is run by that command, and every wait may last ten times
as long.
"""
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD_DIR = os.path.join(TOP, os.environ.get("NEARCACHE_BUILD_DIR", "build"))
NEARCACHE_BIN = os.environ.get("NEARCACHE_BIN", os.path.join(BUILD_DIR, "nearcache"))

WORKERS = os.environ.get("NEARCACHE_TEST_WORKERS")
WRAPPER = shlex.split(os.environ.get("NEARCACHE_WRAPPER", ""))
PATIENCE = 10 if WRAPPER else 1  # factor of all timeouts

# Under valgrind and sanitizers nearcache's memory is not its own, and it is slow; with some very slow.
CRAWLS = bool(WRAPPER) or BUILD_DIR.endswith("tsan")
INSTRUMENTED = CRAWLS or BUILD_DIR.endswith("asan")

START_TIMEOUT = 10  # seconds
STOP_TIMEOUT = 10 * PATIENCE


def server_version():
    """Of the redis-server that the tests start: (7, 0, 15)."""
    text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True,
                          check=False).stdout
    return tuple(map(int, re.search(r"v=(\d+)\.(\d+)\.(\d+)", text).groups()))


# Single fields of a hash can expire, which nobody announces: hashes are not kept in the L1.
FIELDS_EXPIRE = server_version() >= (7, 4)
SANITIZER_REPORT = re.compile(r"ERROR: \w+Sanitizer|WARNING: \w+Sanitizer|runtime error:")


def wait_until(predicate, timeout=5, what=None):
    """Polls `predicate` until it returns something true, which is returned; fails after `timeout`
    seconds, naming `what` was awaited."""
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or predicate}"
        time.sleep(0.005)


def clean_environment():
    """Ours without the variables that nearcache would take for settings, but for the workers'."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("NEARCACHE_")}
    return {**own, "NEARCACHE_WORKERS": WORKERS} if WORKERS else own


def free_port():
    """A TCP port that was free a moment ago; whoever uses it must be ready to ask for another."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connect(address, **options):
    """A redis-py client of (host, port) or of a unix socket's path; it never retries by itself."""
    options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 10 * PATIENCE, **options}
    if isinstance(address, str):
        return redis.Redis(unix_socket_path=address, **options)
    return redis.Redis(host=address[0], port=address[1], **options)


# --- processes -------------------------------------------------------------------------------------


class Process:
    """A child with its output in files: made, then started with start(), at last closed with close().
    Subclasses know how to start it and how to tell that it is ready."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.popen = None
        self.wires = []

    def start(self):
        raise NotImplementedError

    def spawn(self, argv, env=None):
        os.makedirs(self.directory, exist_ok=True)
        with open(self.path("stdout"), "wb") as out, open(self.path("stderr"), "wb") as err:
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          env={**clean_environment(), **(env or {})})

    def path(self, name):
        return os.path.join(self.directory, name)

    def output(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as f:
            return f.read()

    @property
    def pid(self):
        return self.popen.pid

    @property
    def address(self):
        """Where it listens: (host, port) or a unix socket's path."""
        raise NotImplementedError

    def client(self, **options):
        """A redis-py client."""
        return connect(self.address, **options)

    def wire(self, **options):
        """A raw connection, closed when the process is stopped."""
        self.wires.append(Wire(self.address, **options))
        return self.wires[-1]

    def pause(self):
        """It accepts no more work, but its connections stay up."""
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self):
        self.popen.send_signal(signal.SIGCONT)

    def kill(self):
        """Ends it without a chance to say good-bye."""
        self.popen.kill()
        self.popen.wait(STOP_TIMEOUT)

    def terminate(self):
        """Asks it to end; returns the exit status."""
        self.resume()
        self.popen.terminate()
        try:
            return self.popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {STOP_TIMEOUT} s\n" + self.output("stderr")) \
                from None

    def close(self):
        """What every test's end does."""
        for wire in self.wires:
            wire.close()
        if self.popen and self.popen.poll() is None:
            self.terminate()


class RedisServer(Process):
    """A redis-server without persistence, on a free TCP port and a unix socket."""

    def __init__(self, directory, *args):
        super().__init__(directory)
        self.args = args
        self.port = None
        self.socket = self.path("redis.sock")

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        """Also again after stop() or kill(): on the same port, with nothing in it."""
        for _ in range(20):
            port = self.port or free_port()
            self.spawn(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--unixsocket",
                        self.socket, "--dir", self.directory, "--save", "", "--appendonly", "no",
                        *self.args])
            wait_until(lambda: self.popen.poll() is not None or self.answers(), START_TIMEOUT,
                       "redis-server's answer")
            if self.popen.poll() is None:
                self.port = port
                return self
            if "Address already in use" not in self.output("stdout"):
                break
        raise AssertionError("redis-server ended: " + self.output("stdout") + self.output("stderr"))

    def answers(self):
        """Is it ours that listens? The unix socket's path is nobody else's."""
        try:
            with connect(self.socket) as client:
                client.execute_command("PING")
            return True
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def stop(self):
        self.terminate()


class Nearcache(Process):
    """A nearcache for the service `demo`, in front of `upstream` (a RedisServer or a URL)."""

    def __init__(self, directory, *args, upstream=None, service="demo", listen=("127.0.0.1:0",),
                 env=None, program=(*WRAPPER, NEARCACHE_BIN)):
        super().__init__(directory)
        self.env = env
        argv = [*program]
        if service is not None:
            argv += ["--service", service]
        if upstream is not None:
            argv += ["--upstream", getattr(upstream, "url", upstream)]
        for address in listen:
            argv += ["--listen", address]
        self.argv = [*argv, *args]

    def start(self):
        """Also again after stop() or kill()."""
        self.spawn(self.argv, self.env)
        wait_until(lambda: self.popen.poll() is not None or "ready" in self.lines(), START_TIMEOUT,
                   "nearcache's 'ready'")
        if self.popen.poll() is not None:
            raise AssertionError(f"nearcache ended with {self.popen.returncode}: " +
                                 self.output("stderr"))
        return self

    def lines(self):
        return self.output("stdout").split("\n")

    @property
    def addresses(self):
        """Where it says that it listens, in the order of `listen`."""
        said = [line[len("listening on "):] for line in self.lines()
                if line.startswith("listening on ")]
        said = [address.removeprefix("tls:") for address in said]
        hosts = (address.rpartition(":") for address in said)
        return [address[len("unix:"):] if address.startswith("unix:") else (host, int(port))
                for address, (host, _, port) in zip(said, hosts)]

    @property
    def address(self):
        return self.addresses[0]

    @property
    def port(self):
        return self.address[1]

    def stop(self):
        """Ends it in order, and checks that it did."""
        status = self.terminate()
        self.check_sane()
        assert status == 0, f"nearcache ended with {status}\n" + self.output("stderr")

    def check_sane(self):
        errors = self.output("stderr")
        assert not SANITIZER_REPORT.search(errors), errors

    def close(self):
        """A test that ends nearcache itself does so with stop(), kill() or terminate(), and waits;
        one that has ended with an error of its own is a failure."""
        for wire in self.wires:
            wire.close()
        if self.popen and self.popen.returncode is None:
            self.stop()
        elif self.popen:
            self.check_sane()


# --- the wire --------------------------------------------------------------------------------------


class RespError(Exception):
    """An error reply: returned, never raised, and equal to another with the same text."""

    def __eq__(self, other):
        return isinstance(other, RespError) and self.args == other.args

    def __hash__(self):
        return hash(self.args)


class Push(list):
    """An out-of-band message of RESP3."""


def encode(*args):
    """A command as an array of bulk strings; str and numbers are encoded."""
    args = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args)


class Wire:
    """A raw connection that reads exactly one reply at a time, in RESP2 or RESP3."""

    def __init__(self, address, timeout=10, tls=None):
        """`address`: (host, port) or a unix socket's path; `timeout` (s) is for every read; `tls`: an
        ssl.SSLContext, with which the server is called localhost."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(timeout * PATIENCE)
        self.socket.connect(address)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def reset_when_closed(self):
        """The peer is told by a reset, and what it has sent by then is lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def send(self, data):
        """Bytes as they are."""
        self.socket.sendall(data)

    def command(self, *args):
        """Sends a command and reads nothing."""
        self.send(encode(*args))

    def call(self, *args):
        """Sends a command and reads its reply, parsed."""
        self.command(*args)
        return self.reply()

    def call_raw(self, *args):
        """Sends a command and reads its reply, as it came."""
        self.command(*args)
        return self.raw()

    def raw(self):
        """The bytes of the next reply (attributes before it included)."""
        return self._read()[0]

    def reply(self):
        """The next reply: simple strings as str, bulk strings as bytes, errors as RespError, sets as
        list, maps as dict, nulls as None, pushes as Push."""
        return self._read()[1]

    def at_eof(self):
        """Waits for the next byte or the end; True if the peer has closed."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def _read(self):
        line = self._exactly(self.file.readline(), None)
        kind, text = line[:1], line[1:-2]
        if kind in b"$=!" and int(text) >= 0:
            n = int(text) + 2
            body = self._exactly(self.file.read(n), n)
            return line + body, self._bulk(kind, body[:-2])
        if kind in b"*~>%|" and int(text) >= 0:
            return self._aggregate(line, kind, int(text))
        return line, self._scalar(kind, text)

    @staticmethod
    def _exactly(data, n):
        if not data.endswith(b"\r\n") or n not in (None, len(data)):
            raise EOFError(f"the connection ended inside a reply, after {data!r}")
        return data

    @staticmethod
    def _bulk(kind, body):
        if kind == b"!":
            return RespError(body.decode())
        return body[4:] if kind == b"=" else body

    @staticmethod
    def _scalar(kind, text):
        if kind in b"$*_":
            return None
        if kind in b":(":
            return int(text)
        if kind == b"+":
            return text.decode()
        if kind == b"-":
            return RespError(text.decode())
        if kind == b",":
            return float(text)
        if kind == b"#":
            return text == b"t"
        raise ValueError(f"not RESP: {kind + text!r}")

    def _aggregate(self, line, kind, n):
        parts = [self._read() for _ in range(2 * n if kind in b"%|" else n)]
        raw = line + b"".join(part for part, _ in parts)
        values = [value for _, value in parts]
        if kind == b"|":
            rest, value = self._read()
            return raw + rest, value
        if kind == b"%":
            return raw, dict(zip(values[::2], values[1::2]))
        return raw, Push(values) if kind == b">" else values
