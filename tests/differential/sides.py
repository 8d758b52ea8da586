"""Two sides that are to give the same replies: a bare server, and nearcache in front of another.

A test is a list of Steps, which Pair.play() runs on both sides and compares; a step is plain data, so
that any part of a test can be played again.
"""
import collections
import socket

import harness
import normalise
from generate import Key

REPLY_TIMEOUT = 5  # seconds, for a reply that both servers give at once
LATE = 1  # seconds, for messages that other connections caused

FOREIGN = b"FOREIGN"  # in every value of the keys that aren't nearcache's
DATABASES = range(10)

# What a step does with the connection number `conn` and its commands:
#   burst    sends them together; each has one reply
#   marked   the same with a PING after each: any number of messages and replies
#   whole    the same with one PING at the end, also where some have no reply; in strict order
#   last     the same; then the server closes the connection. Commands may be raw bytes
#   block    sends one command and waits until the server says that a client is blocked
#   monitor  reads as many lines as there are commands
#   read     reads what a blocked command, sent before, is answered
#   scan     a SCAN command's whole iteration, from cursor 0
#   close    closes the connection
#   hang_up  the same of a blocked one, and waits until the server says that one less is blocked
#   gone     waits until the key of a command is gone, then sends it
#   outside  sends commands to the servers directly, with the namespace in front of keys
#   foreign  the same to nearcache's server only, without a namespace
Step = collections.namedtuple("Step", "kind conn commands", defaults=[()])

OwnId = collections.namedtuple("OwnId", "conn")  # an argument: the CLIENT ID of that connection


class Invalid(Exception):
    """The sequence makes no sense: the bare server itself did not answer it."""


class Difference(Exception):
    """Where the two sides differ."""

    def __init__(self, what, conn, argv, bare, near):
        super().__init__(what)
        self.what, self.conn, self.argv, self.bare, self.near = what, conn, argv, bare, near


class Server(harness.RedisServer):
    """A server of the given program."""

    def __init__(self, directory, program, *args):
        super().__init__(directory, *args)
        self.program = program

    def spawn(self, argv, env=None):
        super().spawn([self.program, *argv[1:]], env)


# Nothing in these replies may depend on chance or time where a setting can prevent it.
SETTINGS = ["--enable-debug-command", "yes", "--latency-tracking", "no", "--slowlog-log-slower-than",
            "-1", "--hz", "500", "--dynamic-hz", "no", "--stop-writes-on-bgsave-error", "no",
            "--loglevel", "warning"]


class Wire(harness.Wire):
    """A raw connection on which replies are bytes only."""

    def raw(self):
        out = []
        missing = 1
        while missing:
            line = self.file.readline()
            kind, text = line[:1], line[1:-2]
            if not line.endswith(b"\r\n") or kind not in b"+-:_,#($=!*~>%|":
                raise EOFError(f"after {b''.join(out)!r}: {line!r}")
            out.append(line)
            missing -= 1
            if kind in b"$=!" and text != b"-1":
                out.append(self.file.read(int(text) + 2))
                if len(out[-1]) != int(text) + 2:
                    raise EOFError(f"after {b''.join(out)!r}")
            elif kind in b"*~>%|" and text != b"-1":
                missing += int(text) * (2 if kind in b"%|" else 1) + (kind == b"|")
        return b"".join(out)


class Side:
    """One of the two: where clients connect, and the server behind."""

    def __init__(self, server, front, prefix):
        self.server = server
        self.front = front
        self.prefix = prefix
        self.direct = harness.Wire(server.socket)
        self.wires = {}
        self.ids = {}

    def wire(self, conn):
        if conn not in self.wires:
            wire = Wire(self.front.address, timeout=REPLY_TIMEOUT)
            wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ids[conn] = wire.call("CLIENT", "ID")
            self.wires[conn] = wire
        return self.wires[conn]

    def encode(self, argv):
        """As a client sends it; bytes are sent as they are."""
        if isinstance(argv, bytes):
            return argv
        return harness.encode(*[self.ids[arg.conn] if isinstance(arg, OwnId) else arg
                                for arg in argv])

    def send(self, conn, commands, marks=()):
        """The commands, with a PING of each of `marks` (by position) behind it."""
        wire = self.wire(conn)
        for arg in (arg for argv in commands if not isinstance(argv, bytes) for arg in argv):
            if isinstance(arg, OwnId):
                self.wire(arg.conn)
        out = []
        for i, argv in enumerate(commands):
            out.append(self.encode(argv))
            if i in marks:
                out.append(harness.encode(b"PING", marks[i]))
        try:
            wire.send(b"".join(out))
        except OSError as error:
            return f"cannot send: {error}"
        return None

    def frame(self, conn):
        """The next reply or message; a str says what came instead."""
        if conn not in self.wires:
            return "not connected"
        try:
            return self.wires[conn].raw()
        except socket.timeout:
            return f"nothing more within {self.wires[conn].socket.gettimeout()} s"
        except (EOFError, OSError, ValueError) as error:
            return f"no reply: {error}"

    def reply(self, conn):
        """The next that is no message out of band."""
        while True:
            frame = self.frame(conn)
            if isinstance(frame, str) or frame[:1] != b">":
                return frame

    def until(self, conn, mark):
        """All before the PING of `mark` is answered."""
        pongs = (b"$%d\r\n%s\r\n" % (len(mark), mark),
                 b"*2\r\n$4\r\npong\r\n$%d\r\n%s\r\n" % (len(mark), mark))
        frames = []
        while True:
            frame = self.frame(conn)
            if frame in pongs:
                return frames
            frames.append(frame)
            if isinstance(frame, str):
                return frames

    def rest(self, conn):
        """All until the end."""
        if conn not in self.wires:
            return "not connected"
        wire = self.wires.pop(conn)
        try:
            return wire.file.read()
        except OSError as error:
            return f"not closed: {error}"
        finally:
            wire.close()

    def close(self, conn):
        if conn in self.wires:
            self.wires.pop(conn).close()

    def outside(self, argv):
        """A command to the server itself, in which keys have their real names."""
        return self.direct.call(*[self.prefix + arg if isinstance(arg, Key) else arg
                                  for arg in argv])

    def info(self, section, field):
        text = self.direct.call("INFO", section).decode()
        return int(dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)[field])

    def data(self):
        """{(database, name as clients see it): digest of the value}, and the same of foreign keys."""
        own, foreign = {}, {}
        for db in DATABASES:
            self.direct.call("SELECT", db)
            names = self.direct.call("KEYS", "*")
            digests = self.direct.call("DEBUG", "DIGEST-VALUE", *names) if names else []
            for name, digest in zip(names, digests):
                if name.endswith(b"lone"):  # XADD lone *: made of the time
                    continue
                if name.startswith(self.prefix):
                    own[db, name[len(self.prefix):]] = digest
                else:
                    foreign[db, name] = digest
        self.direct.call("SELECT", 0)
        return own, foreign


class Pair:
    """Both sides. `compared` counts calls; `seen` is {command: [successes, failures]}."""

    def __init__(self, bare, near, table, restart=lambda: None):
        self.bare, self.near = bare, near
        self.table = table
        self.restart = restart
        self.compared = 0
        self.seen = {}
        self.last_mark = 0
        self.others = {}
        self.queued = {}

    # --- a round's beginning and end -------------------------------------------------------------

    def reset(self):
        """Both as they were in the beginning; foreign keys stand behind nearcache."""
        for side in (self.bare, self.near):
            for conn in list(side.wires):
                side.close(conn)
            harness.wait_until(lambda s=side: s.info("clients", "blocked_clients") == 0,
                               what="blocked clients' end")
        self.queued = {}
        for side in (self.bare, self.near):
            side.wire("reset").call("FLUSHALL") # through nearcache, so that its L1 knows at once
            side.close("reset")
            for command in (["FLUSHALL"], ["FUNCTION", "FLUSH"], ["SCRIPT", "FLUSH"],
                            ["ACL", "DELUSER", "alice", "bob"], ["ACL", "LOG", "RESET"],
                            ["CLIENT", "UNPAUSE"], ["CONFIG", "SET", "notify-keyspace-events", ""]):
                side.direct.call(*command)
        if self.near.prefix:
            for name in foreign_names(self.near.prefix):
                self.near.direct.call("SET", name, FOREIGN)
        self.others = self.near.data()[1]

    def check_data(self):
        """The same keys with the same values on both; foreign ones untouched."""
        bare, _ = self.bare.data()
        near, foreign = self.near.data()
        for key in sorted(set(bare) | set(near)):
            if bare.get(key) != near.get(key):
                raise Difference("data differ at the end: bare server, behind nearcache", None,
                                 [b"db %d" % key[0], key[1]], bare.get(key), near.get(key))
        if foreign != self.others:
            raise Difference("keys outside the namespace were touched", None, [],
                             repr(self.others), repr(foreign))

    # --- steps -----------------------------------------------------------------------------------

    def play(self, step):
        """Raises Difference or Invalid."""
        getattr(self, step.kind)(step.conn, step.commands)

    def send(self, conn, commands, marks=()):
        problem = self.bare.send(conn, commands, marks)
        if problem:
            raise Invalid(problem)
        problem = self.near.send(conn, commands, marks)
        if problem:
            raise Difference(problem, conn, commands[0], b"", b"")

    def count(self, name, reply):
        self.seen.setdefault(name, [0, 0])[reply[:1] == b"-"] += 1

    def compare(self, conn, argv, bare, near, name=None):
        if isinstance(bare, str):
            raise Invalid(f"{argv}: bare server: {bare}")
        self.compared += 1
        name = name or self.table.name(argv)
        queued = self.queued.setdefault(conn, [])
        if name == "exec":
            same = normalise.same_exec(queued, bare, near)
            for queued_name, reply in zip(queued, normalise.parts(bare)):
                self.count(queued_name, reply)
        else:
            same = normalise.same(name, bare, near, self.table.newer)
        if bare == b"+QUEUED\r\n":
            queued.append(name)
        else:
            self.count(name, bare)
            if name in ("exec", "discard", "reset") or name == "multi" and bare == b"+OK\r\n":
                queued.clear()
        if not same or (isinstance(near, bytes) and FOREIGN in near):
            raise Difference("replies differ", conn, argv, bare, near)

    def burst(self, conn, commands):
        self.send(conn, commands)
        for argv in commands:
            bare = self.bare.reply(conn)
            self.compare(conn, argv, bare, self.near.reply(conn))

    def mark(self):
        self.last_mark += 1
        return b"~%d~" % self.last_mark

    def marked(self, conn, commands):
        marks = {i: self.mark() for i in range(len(commands))}
        self.send(conn, commands, marks)
        for i, argv in enumerate(commands):
            self.compare_frames(conn, argv, self.bare.until(conn, marks[i]),
                                self.near.until(conn, marks[i]))

    def whole(self, conn, commands):
        mark = self.mark()
        self.send(conn, commands, {len(commands) - 1: mark})
        bare = self.bare.until(conn, mark)
        near = self.near.until(conn, mark)
        self.compared += len(commands)
        if any(isinstance(frame, str) for frame in bare):
            raise Invalid(f"{commands}: bare server: {bare[-1]}")
        bare, near = normalise.pushes_last(bare), normalise.pushes_last(near)
        for n in range(max(len(bare), len(near))):
            if normalise.without_id(bare[n:n + 1]) != normalise.without_id(near[n:n + 1]):
                raise Difference(f"replies differ from the {n}th on", conn, commands[-1], bare[n:],
                                 near[n:])

    def compare_frames(self, conn, argv, bare, near):
        """All that came for one command. Messages that another connection has caused may come to
        nearcache's client behind a later reply: Redis orders nothing between connections."""
        if any(isinstance(frame, str) for frame in bare):
            raise Invalid(f"{argv}: bare server: {bare[-1]}")
        while len(near) < len(bare) and normalise.is_message(bare[len(near)]) and \
                not any(isinstance(frame, str) for frame in near):
            self.near.wires[conn].socket.settimeout(LATE)
            near.append(self.near.frame(conn))
            if not isinstance(near[-1], str):
                self.near.wires[conn].socket.settimeout(REPLY_TIMEOUT)
        if len(bare) == len(near) == 1:
            self.compare(conn, argv, bare[0], near[0])
            return
        self.compared += 1
        self.count(self.table.name(argv), bare[-1] if bare else b"")
        if bare != near and not normalise.same_messages(argv, bare, near):
            raise Difference("replies and messages differ", conn, argv, bare, near)

    def last(self, conn, commands):
        self.send(conn, commands)
        bare, near = self.bare.rest(conn), self.near.rest(conn)
        for argv in commands:
            if not isinstance(argv, bytes):
                self.count(self.table.name(argv), b"")
        self.compared += len(commands)
        if isinstance(bare, str):
            raise Invalid(bare)
        if bare != near:
            raise Difference("last replies differ", conn, commands[-1], bare, near)

    def block(self, conn, commands):
        """`commands` is one; it must not find what it waits for."""
        before = [side.info("clients", "blocked_clients") for side in (self.bare, self.near)]
        self.send(conn, commands)
        for side, n in zip((self.bare, self.near), before):
            try:
                harness.wait_until(lambda s=side, n=n: s.info("clients", "blocked_clients") > n, 2)
            except AssertionError:
                if side is self.bare:
                    raise Invalid("does not block") from None
                self.read(conn, commands) # says more than this
                raise Difference("does not block", conn, commands[0], b"", b"") from None

    def read(self, conn, commands):
        bare = self.bare.reply(conn)
        self.compare(conn, commands[0], bare, self.near.reply(conn))

    def monitor(self, conn, commands):
        for argv in commands:
            bare = self.bare.reply(conn)
            self.compare(conn, argv, bare, self.near.reply(conn), "monitor")

    def scan(self, conn, commands):
        argv = commands[0]
        at = {"SCAN": 1}.get(argv[0].decode().upper(), 2)
        found = []
        for side in (self.bare, self.near):
            elements, cursor = set(), b"0"
            for _ in range(1000):
                side.send(conn, [[*argv[:at], cursor, *argv[at:]]])
                raw = side.reply(conn)
                if isinstance(raw, str) or raw[:1] != b"*":
                    elements.add(repr(raw))
                    break
                cursor, page = normalise.scan_page(raw, argv)
                elements |= page
                if cursor == b"0":
                    break
            else:
                elements.add("no end of it")
            found.append(elements)
        self.compared += 1
        self.count(self.table.name(argv), b"")
        bare, near = found
        if bare != near:
            raise Difference("elements of an iteration differ: bare only, nearcache only", conn, argv,
                             repr(sorted(bare - near)), repr(sorted(near - bare)))

    def close(self, conn, _):
        self.bare.close(conn)
        self.near.close(conn)
        self.queued.pop(conn, None)

    def hang_up(self, conn, _):
        before = [side.info("clients", "blocked_clients") for side in (self.bare, self.near)]
        self.close(conn, ())
        for side, n in zip((self.bare, self.near), before):
            try:
                harness.wait_until(lambda s=side, n=n: s.info("clients", "blocked_clients") < n, 2)
            except AssertionError:
                raise Difference("a client gone stays blocked", conn, [], b"", b"") from None

    def gone(self, conn, commands):
        key = commands[0][1]
        for side in (self.bare, self.near):
            harness.wait_until(lambda s=side: s.outside([b"EXISTS", key]) == 0, what=f"{key}'s end")
        self.burst(conn, commands)

    def outside(self, _, commands):
        """What is not in nearcache's L1 any more when it is over: an event tells it, because the
        server's own message may take its time."""
        for argv in commands:
            self.bare.outside(argv)
            self.near.outside(argv)
            for key in (arg for arg in argv if isinstance(arg, Key)):
                self.near.wire("event").call("PUBLISH", "cache:invalidate:l1", self.near.prefix + key)

    def foreign(self, _, commands):
        if self.near.prefix:
            for argv in commands:
                self.near.direct.call(*argv)


def foreign_names(prefix):
    """Keys of others, among them such as a careless pattern or comparison would take for ours."""
    return [FOREIGN, b"other:s1", b"s1", b"*", prefix[:-1], prefix[:-1] + b"x", b"x" + prefix + b"s1",
            prefix[:1] + b"bX:s1", prefix[:1] + b"bX\\:s1",
            prefix.upper() + b"s1" if prefix.upper() != prefix else b"S1"]


class Table:
    """The commands of a server: `leaves` are those without sub-commands, and all sub-commands; `arity`
    is the server's, of each; `newer` than Redis 7.0."""

    def __init__(self, wire):
        self.children = {}
        self.arity = {}
        self.leaves = set()
        self.newer = wire.call("INFO", "server").split(b"redis_version:")[1][:4] != b"7.0."
        for row in wire.call("COMMAND"):
            name = row[0].decode().lower()
            subs = {sub[0].decode(): sub[1] for sub in row[9]} if len(row) > 9 else {}
            self.children[name] = set(subs)
            self.arity.update({name: row[1]}, **subs)
            if not subs or name == "command":
                self.leaves.add(name)
            self.leaves.update(subs)

    def name(self, argv):
        """The command that argv calls, as in "get" or "client|id"."""
        if isinstance(argv, bytes):
            return "(raw)"
        words = [arg.decode("latin-1").lower() for arg in argv[:2] if isinstance(arg, bytes)]
        if not words:
            return ""
        whole = "|".join(words[:2])
        return whole if whole in self.children.get(words[0], ()) else words[0]
