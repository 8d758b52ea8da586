"""redis-cli in every mode, through nearcache and to a bare Redis: what it shows is the same."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

import harness
from conftest import connect, wait_until

KEYS = ("counter", "hash", "list", "set", "stream", "string", "zset")
FOREIGN = dict.fromkeys(("string", "other", *(f"foreign:{i}" for i in range(100))), "foreign")
SCRIPT = "return {KEYS[1], ARGV[1], redis.call('GET', KEYS[1])}"


# --- running it ----------------------------------------------------------------------------------


def environment(directory):
    return {**harness.clean_environment(), "HOME": str(directory), "TERM": "xterm",
            "REDISCLI_HISTFILE": "/dev/null"}


def arguments(process, args):
    """redis-cli's command line; an address among the arguments wins."""
    where = () if "-u" in args or "-s" in args else ("-p", str(process.port))
    return ["redis-cli", *where, *args]


class Cli:
    """redis-cli for the nearcache and for the bare Redis, with the same data behind both."""

    def __init__(self, near, bare, directory):
        self.near, self.bare, self.directory = near, bare, directory

    def run(self, process, *args, stdin=b"", env=None):
        """Its exit status, standard output and standard error, in which ports are all the same."""
        done = subprocess.run(arguments(process, args), input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, check=False,
                              env={**environment(self.directory), **(env or {})})
        port = str(process.port).encode()
        shown = [output.replace(port, b"PORT") for output in (done.stdout, done.stderr)]
        return done.returncode, *shown

    def through(self, *args, **options):
        return self.run(self.near, *args, **options)

    def direct(self, *args, **options):
        return self.run(self.bare, *args, **options)

    def same(self, *args, arrange=lambda shown: shown, **options):
        """Both show the same, after `arrange`; what they show is returned."""
        near, bare = self.through(*args, **options), self.direct(*args, **options)
        assert near[0] == bare[0], near
        assert (arrange(near[1]), near[2]) == (arrange(bare[1]), bare[2])
        return near[1]

    def file(self, name, content):
        path = self.directory / name
        path.write_text(content)
        return str(path)


def fill(client):
    client.set("string", "value \"quoted\"\nbeyond \xe4")
    client.set("counter", 10)
    client.rpush("list", "a", "b", "c")
    client.hset("hash", mapping={"field": "value"})
    client.zadd("zset", {"m": 1.5})
    client.sadd("set", "x")
    client.xadd("stream", {"f": "v"}, id="1-1")


@pytest.fixture(name="cli")
def make_cli(redis_server, nearcache, tmp_path):
    upstream, bare = redis_server(), redis_server()
    upstream.client().mset(FOREIGN)
    near = nearcache(upstream=upstream, listen=["127.0.0.1:0", f"unix:{tmp_path}/near.sock"])
    fill(near.client())
    fill(bare.client())
    yield Cli(near, bare, tmp_path)
    assert upstream.client().mget(FOREIGN) == [b"foreign"] * len(FOREIGN)


def sorted_lines(shown):
    return sorted(shown.split(b"\n"))


# --- one command, every way to write it and to show its reply ------------------------------------

FORMATS = ((), ("-2",), ("-3",), ("--no-raw",), ("--csv",), ("--json",), ("--quoted-json",),
           ("-3", "--no-raw"), ("-2", "--json"), ("-d", ";"), ("-D", "|", "--raw"))
COMMANDS = ("get string", "get missing", "incr counter", "lrange list 0 -1", "hgetall hash",
            "zrange zset 0 -1 withscores", "zscore zset m", "smembers set", "xrange stream - +",
            "xread streams stream 0", "lpush string x", "no such command", "exists string list x",
            "object encoding list", "blpop list 1", "blpop missing 0.1",
            "lmpop 2 missing list left", "eval 'return' 0", "command getkeys mset a 1 b 2", "multi",
            "dbsize", "config get nothing")


@pytest.mark.parametrize("form", FORMATS, ids=" ".join)
def test_formats(cli, form):
    for command in COMMANDS:
        cli.same(*form, *command.split())


@pytest.mark.parametrize("args, stdin", [
    (("-x", "set", "new"), b"from\x00stdin\n"),
    (("-X", "TAG", "set", "new", "TAG", "ex", "100"), b"from stdin"),
    (("-r", "3", "incr", "counter"), b""),
    (("-r", "3", "-i", "0.01", "incr", "counter"), b""),
    (("--quoted-input", "set", '"null-\\x00-key"', '"\\n\\xff"'), b""),
    (("-e", "lpush", "string", "x"), b""),
    (("-n", "2", "set", "two", "2"), b""),
    (("-c", "get", "string"), b""),
    (("--no-raw",), b"multi\nincr counter\nget string\nexec\nget counter\n"),
    (("--no-raw",), b"watch counter\nmulti\nset\nexec\nunwatch\n"),
    (("--no-raw",), b"select 2\nset k v\ndbsize\nselect 0\nget k\n"),
    (("--no-raw", "-3"), b"hgetall hash\nmulti\nzscore zset m\nsmembers set\nexec\n"),
    (("--no-raw",), b"3 incr counter\nget 'unbalanced\nget string\n\n\nquit\nget counter\n"),
    (("--no-raw",), b"multi\nset a 1\ndiscard\nget a\nreset\nget string\n"),
    (("help", "set"), b""),
    (("help", "@list"), b""),
    (("help",), b""),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_invocations(cli, args, stdin):
    cli.same(*args, stdin=stdin)
    assert cli.same("--no-raw", "mget", "new", "counter", "a")
    cli.same("-n", "2", "get", "two")
    cli.same("--quoted-input", "get", '"null-\\x00-key"')


def test_pushes(cli):
    """CLIENT TRACKING of redis-cli's own; the key in the message is the client's."""
    stdin = b"client tracking on\nget counter\nset counter 11\nget counter\n"
    shown = cli.same("-3", "--no-raw", "--show-pushes", "yes", stdin=stdin, arrange=sorted_lines)
    assert b'-> invalidate: "counter"' in shown or b"invalidate" in shown
    cli.same("-3", "--no-raw", "--show-pushes", "no", stdin=stdin)


# --- how to connect ------------------------------------------------------------------------------


def test_passwords(redis_server, nearcache, tmp_path):
    bare = redis_server(*"--user app on >secret ~* &* +@all --user default off".split())
    near = nearcache("--set", "auth.user=app", "--set", "auth.password=secret",
                     upstream=redis_server())
    cli = Cli(near, bare, tmp_path)
    for user, password in (("app", "secret"), ("app", "wrong"), ("other", "secret")):
        shown = [cli.run(process, "-u", f"redis://{user}:{password}@127.0.0.1:{process.port}/1",
                         "--no-auth-warning", "incr", "counter") for process in (near, bare)]
        assert shown[0] == shown[1]
        cli.same("--user", user, "--pass", password, "--no-auth-warning", "incr", "counter")
        cli.same("--user", user, "-a", password, "incr", "counter")
        cli.same("-3", "--user", user, "-a", password, "incr", "counter")
    cli.same("incr", "counter")  # NOAUTH
    cli.same("--no-raw", stdin=b"ping\nauth app wrong\nauth app secret\nping\n")


def test_password_alone(redis_server, nearcache, tmp_path):
    bare = redis_server("--requirepass", "secret")
    near = nearcache("--set", "auth.password=secret", upstream=redis_server())
    cli = Cli(near, bare, tmp_path)
    for password in ("secret", "wrong"):
        cli.same("-a", password, "incr", "counter")
        cli.same("incr", "counter", env={"REDISCLI_AUTH": password})
        cli.same("-n", "3", "-a", password, "incr", "counter")


def test_unix_socket(cli):
    near = cli.through("-s", cli.near.addresses[1], "--no-raw", "get", "counter")
    assert near == cli.direct("-s", cli.bare.socket, "--no-raw", "get", "counter")
    assert near[1] == b'"10"\n'


# --- modes that look at the whole key space ------------------------------------------------------


def test_scan(cli):
    for pattern in ("*", "s*", "[^s]*", "none"):
        shown = cli.same("--scan", "--pattern", pattern, arrange=sorted_lines)
    shown = cli.same("--scan", arrange=sorted_lines)
    assert sorted(shown.decode().split()) == sorted(KEYS)
    cli.same("--scan", "--quoted-pattern", '"\\x73*"', arrange=sorted_lines)


def summary(shown):
    """What is below the line of --bigkeys and --memkeys, in an order of its own."""
    return sorted(line for line in shown.decode().split("-------")[-1].splitlines() if line)


def test_bigkeys(cli):
    cli.same("--bigkeys", arrange=summary)
    cli.same("--bigkeys", "-i", "0.01", arrange=summary)


def test_memkeys(cli):
    """As --bigkeys; but a key whose name is longer in Redis takes more memory."""
    def without_sizes(shown):
        return [re.sub(r"\d+ bytes|size [\d.]+", "N", line) for line in summary(shown)]
    cli.same("--memkeys", arrange=without_sizes)
    cli.same("--memkeys", "--memkeys-samples", "3", arrange=without_sizes)


def test_hotkeys(cli, redis_server, nearcache):
    assert b"LFU maxmemory policy is not selected" in cli.through("--hotkeys")[2]
    cli.same("--hotkeys")
    lfu = redis_server("--maxmemory-policy", "allkeys-lfu", "--maxmemory", "100mb")
    lfu.client().mset(FOREIGN)
    near = nearcache("--set", "l1.max_memory=0", upstream=lfu)
    for _ in range(200):
        near.client().incr("hot")
    status, shown, _ = cli.run(near, "--hotkeys")
    hot = [line.split()[-1] for line in shown.decode().splitlines() if line.startswith("hot key")]
    assert status == 0 and hot[0] == '"hot"' and not {'"other"', '"foreign:1"'} & set(hot)


def test_pipe(cli):
    """Mass insertion: 20,000 commands, some of them wrong, and values of all bytes."""
    commands = [harness.encode("set", f"piped:{i}", bytes(range(256))) for i in range(20000)]
    commands[500:500] = [harness.encode("lpush", "string", "x"), b"SET inline 1\r\n"]
    shown = cli.same("--pipe", stdin=b"".join(commands))
    assert b"errors: 1, replies: 20002" in shown
    cli.same("dbsize")


def test_lru_test(cli):
    """It begins with FLUSHALL, of this namespace only, as the fixture makes sure."""
    for process in (cli.near, cli.bare):
        with Terminal(process, cli.directory, "--lru-test", "100") as terminal:
            terminal.expect(r"\d+ Gets/sec \| Hits: \d+")


# --- modes that sample the server ----------------------------------------------------------------


def test_stat(cli):
    line = r"\d+ +[\d.]+[BKM] +\d+ +\d+ +\d+ \(\+\d+\) +\d+ *\r\n"
    headings = []
    for process in (cli.near, cli.bare):
        with Terminal(process, cli.directory, "--stat", "-i", "0.05") as terminal:
            headings.append(terminal.expect(r"keys .*connections *\r\n"))
            terminal.expect(line * 3)
    assert headings[0] == headings[1]


def test_latency(cli):
    for process in (cli.near, cli.bare):
        for args in (("--latency", "--raw"), ("--latency", "--csv")):
            status, shown, _ = cli.run(process, *args, "-i", "0.1")
            assert status == 0 and re.fullmatch(rb"\d+[ ,]\d+[ ,][\d.]+[ ,]\d+\n", shown)
        with Terminal(process, cli.directory, "--latency-history", "-i", "0.1") as terminal:
            terminal.expect(r"min: \d+, max: \d+, avg: [\d.]+ \(\d+ samples\) -- 0\.\d+ seconds")
        with Terminal(process, cli.directory, "--latency-dist", "-i", "0.1") as terminal:
            terminal.expect("From 0 to 100%")
            terminal.expect("From 0 to 100%|---")


# --- scripts, and what is refused ----------------------------------------------------------------


def test_eval(cli):
    path = cli.file("script.lua", SCRIPT)
    assert cli.same("--eval", path, "counter", ",", "a1") == b"counter\na1\n10\n"
    cli.same("--no-raw", "-3", "--eval", path, "missing", ",", "a1")
    cli.same("--eval", cli.file("wrong.lua", "return redis.call('no')"))


def test_debugger_is_refused(cli):
    refused = cli.through("script", "debug", "yes")[1]
    assert refused.startswith(b"NOPERM") and b"script|debug" in refused


@pytest.mark.parametrize("mode", ["--ldb", "--ldb-sync-mode"])
def test_no_script_runs_undebugged(cli, mode):
    """Who asked for the debugger did not ask for the script's effects to stay."""
    path = cli.file("script.lua", "return redis.call('INCR', KEYS[1])")
    assert b"NOPERM" in cli.through(mode, "--eval", path, "counter")[1]
    assert cli.through("get", "counter")[1] == b"10\n"


@pytest.mark.parametrize("mode", ["--rdb", "--functions-rdb", "--replica"])
def test_replication_is_refused(cli, mode):
    args = (mode,) if mode == "--replica" else (mode, str(cli.directory / "dump.rdb"))
    status, _, said = cli.through(*args)
    assert status == 1 and b"NOPERM 'replconf' administers the shared server" in said


# --- at a terminal -------------------------------------------------------------------------------


class Terminal:
    """redis-cli at a pseudo-terminal of 200 columns."""

    def __init__(self, process, directory, *args):
        self.port = str(process.port)
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which pytest-xdist ignores
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
            os.execvpe("redis-cli", arguments(process, args), environment(directory))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def ended(self):
        """True once the process is gone (and was waited for)."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = None
        return not self.pid

    def type(self, text):
        os.write(self.fd, text.encode())

    def read(self):
        try:
            return os.read(self.fd, 65536).decode(errors="replace")
        except OSError:  # the other end has closed
            return ""

    def expect(self, pattern, timeout=20):
        """Waits for the pattern, and returns all that was shown up to its end, without colours and
        with PORT in the place of the port."""
        deadline = time.monotonic() + timeout
        while True:
            plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.seen).replace(self.port, "PORT")
            match = re.search(pattern, plain)
            if match:
                self.seen = plain[match.end():]
                return plain[:match.end()]
            assert time.monotonic() < deadline, f"no {pattern!r} in {plain!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += self.read()

    def enter(self, line, prompt):
        """Types a line; what it shows until the next prompt, less the echo of what is typed."""
        self.type(line)
        self.expect(re.escape(line))
        self.type("\r")
        self.expect("\n")
        return self.expect(prompt)


PROMPT = r"127\.0\.0\.1:PORT> "
DIALOGUE = (
    ("get counter", PROMPT), ("hgetall hash", PROMPT), ("get missing", PROMPT),
    ("multi", r"PORT\(TX\)> "), ("incr counter", r"PORT\(TX\)> "),
    ("select 2", r"PORT(\[2\])?\(TX\)> "), ("exec", r"PORT\[2\]> "), ("set k v", r"PORT\[2\]> "), ("select 0", PROMPT), ("get k", PROMPT),
    ("watch counter", PROMPT), ("multi", r"\(TX\)> "), ("discard", PROMPT),
    ("lpush counter x", PROMPT), ("3 incr counter", PROMPT), ("hello 3", PROMPT), ("hgetall hash", PROMPT),
    ("blpop missing 0.1", PROMPT), ("help get", PROMPT),
)


def converse(process, directory):
    with Terminal(process, directory) as terminal:
        terminal.expect(PROMPT)
        shown = [re.sub(r"\(\d+\.\d+s\)|id.*\(integer\) \d+", "", terminal.enter(*turn))
                 for turn in DIALOGUE]
        terminal.type("quit\r")
        wait_until(terminal.ended, 20, "the end after quit")
        return shown


def test_dialogue(cli):
    near, bare = (converse(process, cli.directory) for process in (cli.near, cli.bare))
    for turn, ours, theirs in zip(DIALOGUE, near, bare):
        if turn[0] != "hello 3":  # tells the number of the connection
            assert ours == theirs, turn


def test_hints(cli):
    """From COMMAND DOCS, also of a subcommand."""
    for typed, hint in (("set", r"key value \["), ("client kill", r"ip:port|\["),
                        ("lmpop", "numkeys key"), ("acl setuser", "username")):
        for process in (cli.bare, cli.near):
            with Terminal(process, cli.directory) as terminal:
                terminal.expect(PROMPT)
                terminal.type(typed + " ")
                terminal.expect(hint)


def interrupt(terminal):
    """Ctrl-C, after which it takes commands again: its prompt, and what it says next."""
    terminal.type("\x03")
    return [terminal.expect(r"PORT.*> "), terminal.enter("dbsize", r"PORT.*> ")]


def test_subscribed_until_interrupted(cli):
    shown = []
    for process in (cli.bare, cli.near):
        with Terminal(process, cli.directory, "-n", "3") as terminal:
            terminal.expect(r"PORT\[3\]> ")
            terminal.type("subscribe news\r")
            terminal.expect(r'1\) "subscribe"\r?\n2\) "news"\r?\n3\) \(integer\) 1')
            assert process.client().publish("news", "hello") == 1
            terminal.expect(r'1\) "message"\r?\n2\) "news"\r?\n3\) "hello"')
            shown.append(interrupt(terminal))
            assert process.client().publish("news", "nobody") == 0
    assert shown[0] == shown[1]


def test_monitor(cli):
    shown = []
    for process in (cli.bare, cli.near):
        with Terminal(process, cli.directory) as terminal:
            terminal.expect(PROMPT)
            terminal.type("monitor\r")
            terminal.expect("OK\r?\n")
            connect(process.address).set("watched", "x y")
            terminal.expect(r'\d+\.\d{6} \[0 127\.0\.0\.1:\d+\] "SET" "watched" "x y"\r?\n')
            shown.append(interrupt(terminal))
    assert shown[0] == shown[1]


def test_server_restarted(cli, nearcache, redis_server):
    """redis-cli connects again by itself at the second command."""
    near, bare = nearcache(upstream=redis_server()), redis_server()
    shown = []
    for process in (near, bare):
        with Terminal(process, cli.directory, "-n", "2") as terminal:
            terminal.expect(r"PORT\[2\]> ")
            port = process.port
            process.stop()
            shown.append([terminal.enter("ping", "not connected> ")])
            if process is near:
                near.argv[near.argv.index("127.0.0.1:0")] = f"127.0.0.1:{port}"
            process.start()
            for line in ("set k v", "select 3", "get k"):
                shown[-1].append(terminal.enter(line, "PORT.*> "))
    assert shown[0] == shown[1]
