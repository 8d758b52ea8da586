"""A mixed load: clients that check what they are told, benchmarks, clients that misbehave, and an
upstream that is restarted, frozen and whose connections are cut.
"""
import contextlib
import random
import subprocess
import threading

import harness
from harness import RespError, encode
from traffic import Traffic

MB = 1 << 20
BENCHMARK = ["redis-benchmark", "-q", "-c", "20", "-P", "8", "-n", "200000", "-r", "50000", "-d", "100",
             "-t", "set,get,incr,lpush,lpop,sadd,hset,spop,mset"]
REFUSALS = ("NEARCACHE ", "ERR EXEC without MULTI", "EXECABORT ", "LOADING ")


class Repeated(threading.Thread):
    """Does something again and again until finish()."""

    def __init__(self, what, pause=0.0):
        super().__init__(daemon=True)
        self.what, self.pause = what, pause
        self.end = threading.Event()
        self.n = 0
        self.failure = None

    def run(self):
        try:
            while not self.end.wait(self.pause):
                self.what(self.end)
                self.n += 1
        except Exception as e:  # pylint: disable=broad-except
            self.failure = e

    def finish(self):
        self.end.set()
        self.join(120)
        assert not self.is_alive(), self.what
        if self.failure:
            raise self.failure


# --- clients that misbehave ------------------------------------------------------------------------


def comes_and_goes(wire, end):
    for i in range(10):
        wire.call("SET", f"short:{i}", i)
        wire.call("GET", f"short:{i}")


def leaves_in_the_middle(wire, end):
    """With replies on their way to it, and a reset for them."""
    wire.send(b"".join(encode("GET", f"key:{i:012}") + encode("INCR", "left") for i in range(50)))
    wire.reset_when_closed()


def leaves_half_a_request(wire, end):
    wire.send(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1000000\r\n" + b"x" * 100_000)


def breaks_the_protocol(wire, end):
    wire.send(b"*1\r\n$-5\r\n")
    assert isinstance(wire.reply(), RespError) and wire.at_eof()


def reads_slowly(wire, end):
    """And not to its end."""
    if wire.call("SETRANGE", "large", 5 * MB, "x") == 5 * MB + 1:
        wire.send(encode("GET", "large") * 3)
        for _ in range(20):
            wire.file.read(64 * 1024)
            end.wait(0.05)


def writes_a_large_value(wire, end):
    n = random.randrange(MB, 8 * MB)
    if wire.call("SET", "huge", b"h" * n) == "OK":
        reply = wire.call("STRLEN", "huge")
        assert isinstance(reply, (int, RespError)), reply


def subscribes(wire, end):
    for i in range(20):
        wire.call("SUBSCRIBE", f"news:{i}")
    wire.call("PSUBSCRIBE", "new*")
    end.wait(0.3)


def leaves_a_transaction(wire, end):
    for command in (["WATCH", "short:1"], ["MULTI"], ["SET", "short:1", "x"], ["GET", "short:2"]):
        wire.call(*command)


def leaves_while_it_waits(wire, end):
    wire.command(*random.choice([["BLPOP", "nothing", 0], ["XREAD", "BLOCK", 0, "STREAMS", "none", "$"],
                                 ["BZPOPMIN", "nobody", 0]]))
    end.wait(0.2)


def looks_around(wire, end):
    for command in (["INFO"], ["CLIENT", "LIST"], ["SCAN", 0], ["DBSIZE"], ["NEARCACHE", "STATS"],
                    ["HELLO", 3], ["CONFIG", "GET", "save"], ["SELECT", 1], ["GET", "short:1"]):
        wire.call(*command)


def calls_scripts(wire, end):
    for i in range(20):
        wire.call("EVAL", "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])", 1,
                  f"scripted:{i}", i)


BEHAVIOURS = [comes_and_goes, leaves_in_the_middle, leaves_half_a_request, breaks_the_protocol,
              reads_slowly, writes_a_large_value, subscribes, leaves_a_transaction,
              leaves_while_it_waits, looks_around, calls_scripts]


# --- all of it -------------------------------------------------------------------------------------


class Load:
    """From its making until finish()."""

    def __init__(self, near, server, name):
        self.near, self.server = near, server
        self.restarts = 0
        server.client().flushall()
        self.traffic = Traffic(near, server, 1.0, name, REFUSALS, may_be_disconnected=True)
        self.threads = [Repeated(self.benchmark, 0.2), Repeated(self.upset, 1.0),
                        *[Repeated(self.misbehave, 0.01) for _ in range(3)]]
        for thread in self.threads:
            thread.start()

    def benchmark(self, end):
        """Which ends by itself at the first error."""
        host, port = self.near.address
        with subprocess.Popen([*BENCHMARK, "-h", host, "-p", str(port)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not end.wait(0.1):
                pass
            process.kill()

    def misbehave(self, end):
        with contextlib.suppress(OSError, EOFError), self.near.new_wire(timeout=60) as wire:
            random.choice(BEHAVIOURS)(wire, end)

    def upset(self, end):
        """The upstream, now and then. Its data survive a restart."""
        if end.wait(random.uniform(0, 8)):
            return
        what = random.choice(["restart", "freeze", "cut", "cut"])
        if what == "restart":
            self.restart()
        elif what == "freeze":
            self.server.pause()
            end.wait(random.uniform(0.1, 2.5))
            self.server.resume()
        else:
            with self.server.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", random.choice(["normal", "pubsub"]))

    def restart(self):
        self.server.stop()
        self.server.start()
        self.restarts += 1

    def check(self):
        self.traffic.check()

    def finish(self):
        for thread in self.threads:
            thread.end.set()
        for thread in self.threads:
            thread.finish()
        self.traffic.finish()


class LastingRedis(harness.RedisServer):
    """Its data survive stop() and start()."""

    def __init__(self, directory):
        super().__init__(directory, "--save", "86400 1000000000", "--rdbcompression", "no")
