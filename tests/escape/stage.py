"""A server with other services' data, nearcaches in front of it, and eyes on all that may get out.

What tells of an escape:
  - the server's own ACL: the user that nearcache is may use the namespace's keys and channels only,
    so that ACL LOG has an entry of every name that was let out
  - canaries: they are in all names, values, channels and passwords of others, and in no vector
  - the data of others, which are to be the same afterwards, and their connections
"""
import os
import select
import socket
import time

import generate
import harness
import test_command_table as table_test
from sides import Server, Wire, foreign_names

NAME, VALUE, PASSWORD, CHANNEL = b"qZnAmE9", b"qZvAlUe9", b"qZpAsS9", b"qZcHaN9"
DATABASES = [0, 1]  # that others have data in
IDLE = 0.05  # seconds without a byte, after which blocked clients are looked for
PATIENCE = 30  # seconds without any progress: it hangs
NEARCACHES = {"strict": True, "free": False, "learned": True}  # and channels.namespace

SETTINGS = ["--enable-debug-command", "yes", "--slowlog-log-slower-than", "0", "--slowlog-max-len",
            "200", "--rdbcompression", "no", "--notify-keyspace-events", "KEA", "--acllog-max-len",
            "1000", "--loglevel", "warning", "--stop-writes-on-bgsave-error", "no"]


# One number for all keys that do not begin with ARGV[1], in all databases: names, values, expiry.
DIGEST = """
local all = {}
for db = 0, 15 do
  redis.call('SELECT', db)
  local names = redis.call('KEYS', '*')
  table.sort(names)
  for _, k in ipairs(names) do
    if string.sub(k, 1, #ARGV[1]) ~= ARGV[1] then
      all[#all + 1] = db .. ' ' .. k .. redis.call('PEXPIRETIME', k) .. redis.call('DUMP', k)
    end
  end
end
return redis.sha1hex(table.concat(all))"""


class Escape(Exception):
    """Something got out, or the proxy itself is gone."""


def escaped(prefix):
    """The prefix as a glob pattern that means itself."""
    return b"".join(b"\\" + bytes([c]) if bytes([c]) in b"*?[]\\^-" else bytes([c]) for c in prefix)


def administration(table):
    """Commands of the server that nobody is let through with."""
    rows = {name for name, row in table_test.rows() if ", ADMIN, " in row}
    return sorted(rows & table.leaves)


def users(prefix, table):
    """{user: what it may}. The proxy itself needs the channels of events and of invalidations, and
    one for WAIT; a pattern is allowed only as it is written here, so that PSUBSCRIBE is judged by what
    ACL LOG has of it."""
    commands = [f"-{name}" for name in administration(table)]
    glob = escaped(prefix)
    channels = [glob + b"*", b"cache:invalidate", b"cache:invalidate:l1", b"cache:change",
                b"__redis__:invalidate", b"__keyevent@*", b"__keyspace@*__:" + glob + b"*",
                b"nearcache:wait"]
    free = ["+@all", *commands, b"~*", b"&*"]
    if not prefix:
        return {"strict": free, "free": free}
    others = ["-flushall", "-flushdb", "-randomkey", "-dbsize"] # which are done by other means
    return {"strict": ["+@all", *commands, *others, b"~" + glob + b"*", b"resetchannels",
                       *[b"&" + name for name in channels]],
            "free": [*free, *others]}


class Stage:
    """One namespace's server and nearcaches. Closing it ends them, and raises AssertionError where a
    sanitizer had something to say."""

    def __init__(self, directory, program, prefix, table):
        self.prefix = prefix
        self.table = table
        self.server = Server(os.path.join(directory, "server"), program, *SETTINGS, "--requirepass",
                             PASSWORD.decode(), "--masterauth", PASSWORD.decode())
        self.server.start()
        self.direct = self.admin()
        self.nearcaches = {}
        self.newer = None
        self.seen = set()
        self.marks = 0
        self.tried = self.cut_short = self.fooled = 0
        for user, rules in users(prefix, table).items():
            reply = self.direct.call("ACL", "SETUSER", user, "on", b">" + PASSWORD, *rules)
            assert reply == "OK", reply
        self.direct.call("FUNCTION", "LOAD", generate.LIBRARY)
        self.others = [self.admin() for _ in range(4)]
        self.other_ids = [str(wire.call("CLIENT", "ID")) for wire in self.others]
        self.greet_others()
        for user in ("strict", "free"):
            self.add_nearcache(directory, user, user, self.server.port)
        self.guessed = [b"secret", b"other:secret", *foreign_names(prefix or b"x"),
                        *[word.encode() for word in table_test.WORDS],
                        *[arg for argv in table_test.split(table_test.EXAMPLES) for arg in argv[1:]]]
        self.maker = table_test.MAKERS[0]
        self.before = None

    def admin(self):
        wire = Wire(self.server.socket)
        assert wire.call("AUTH", PASSWORD) == "OK"
        return wire

    def greet_others(self):
        """Other clients of the server: one that works, one that waits, two that listen."""
        worker, waiter, listener, watcher = self.others
        for wire in self.others:
            wire.call("CLIENT", "SETNAME", b"other-" + NAME)
        waiter.command("BLPOP", b"other:queue-" + NAME, 0)
        listener.call("SUBSCRIBE", b"other:news-" + CHANNEL, b"__keysecret" + CHANNEL)
        watcher.call("SSUBSCRIBE", b"other:*-" + CHANNEL)
        self.worker = worker

    def add_nearcache(self, directory, name, user, port):
        near = harness.Nearcache(
            os.path.join(directory, name), "--namespace", self.prefix.decode(), "--set",
            f"channels.namespace={str(NEARCACHES[name]).lower()}", "--set", "upstream.timeout=10s",
            "--set", "drain_timeout=2s",
            upstream=f"redis://{user}:{PASSWORD.decode()}@127.0.0.1:{port}/0", service="demo")
        self.nearcaches[name] = near
        near.start()
        with harness.Wire(near.address) as wire:
            harness.wait_until(lambda: b"link_mode:tracking" in wire.call("INFO", "nearcache"),
                               what="nearcache's link")

    def close(self):
        for wire in (self.direct, *self.others):
            wire.close()
        try:
            for near in self.nearcaches.values():
                near.close()
        finally:
            if self.newer:
                self.newer.stop()
            self.server.close()

    # --- data -----------------------------------------------------------------------------------

    def pipeline(self, commands):
        self.direct.send(b"".join(harness.encode(*argv) for argv in commands))
        return [self.direct.reply() for _ in commands]

    def typed(self):
        """(name, maker of its type) of other services' keys that have the names of ours."""
        types = {"list": 1, "numlist": 1, "set": 2, "ints": 2, "zset": 3, "lexset": 3, "hash": 4,
                 "one": 4, "geo": 5, "stream": 6, "lone": 6}
        for kind, names in generate.KEYS.items():
            for name in names:
                yield name, table_test.MAKERS[types.get(kind, 0)]
        for name in (b"w_1", b"w_2", b"w_3", b"o_1"):
            yield name, table_test.MAKERS[0]

    def foreign(self, maker):
        """Commands that make the data of others; names that a vector may guess are of `maker`'s type."""
        keys = {}
        for name, own in self.typed():
            keys.update({name: own, b"other:" + name: own, self.prefix[:-1] + name: own})
        keys.update(dict.fromkeys(self.guessed, maker))
        keys.update({word + NAME: maker for word in (b"", b"other:", b"a", self.prefix[:-1])})
        for db in DATABASES:
            yield [b"SELECT", b"%d" % db]
            for name, make in keys.items():
                if self.prefix and not name.startswith(self.prefix):
                    for argv in make:
                        yield [name if arg == b"K" else VALUE if arg == table_test.SECRET else arg
                               for arg in argv]
        yield [b"SELECT", b"0"]

    def set_foreign(self, maker):
        self.maker = maker
        self.pipeline([[b"FLUSHALL"], *self.foreign(maker)])
        self.before = self.digest()

    def seed(self):
        """Our own data, as in the beginning."""
        self.pipeline([[self.prefix + arg if isinstance(arg, generate.Key) else arg for arg in argv]
                       for argv in generate.SEED])

    def digest(self):
        return self.direct.call("EVAL", DIGEST, 0, self.prefix)

    def snapshot(self):
        """{(database, name): digest} of all keys that are not ours."""
        found = {}
        for db in range(16):
            self.direct.call("SELECT", db)
            names = [name for name in self.direct.call("KEYS", "*")
                     if not name.startswith(self.prefix)]
            digests = self.direct.call("DEBUG", "DIGEST-VALUE", *names) if names else []
            found.update({(db, name): digest for name, digest in zip(names, digests)})
        self.direct.call("SELECT", 0)
        return found

    # --- attempts -------------------------------------------------------------------------------

    def connect(self, near):
        try:
            sock = socket.create_connection(self.nearcaches[near].address)
        except OSError as why:
            raise Escape(f"nearcache does not accept: {why}") from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        return sock

    def mark(self):
        self.marks += 1
        return b"~mark%d~" % self.marks

    def unblock(self):
        """Lets clients of nearcache's go on that wait for what will not come."""
        for line in self.direct.call("CLIENT", "LIST").split(b"\n"):
            fields = dict(field.split(b"=", 1) for field in line.split())
            if b"b" in fields.get(b"flags", b"") and fields[b"user"] != b"default":
                self.direct.call("CLIENT", "UNBLOCK", fields[b"id"])

    def exchange(self, sock, data, mark):
        """Sends and reads until the mark or the end; what came."""
        got, at, last = bytearray(), 0, time.monotonic()
        while True:
            reads, writes, _ = select.select([sock], [sock] if at < len(data) else [], [], IDLE)
            if writes:
                try:
                    at += sock.send(data[at:at + 65536])
                except ConnectionError: # what came before can still be read
                    at = len(data)
            if reads:
                try:
                    chunk = sock.recv(1 << 20)
                except ConnectionError:
                    chunk = b""
                got += chunk
                if not chunk or mark in got[-len(chunk) - len(mark):]:
                    return bytes(got)
            if reads or writes:
                last = time.monotonic()
            else:
                self.unblock()
                if time.monotonic() > last + PATIENCE:
                    raise Escape("no reply, and no end of the connection")

    def attempt(self, near, encoded, resp=2):
        """Sends commands, encoded already, through a new connection; returns the replies' bytes. It
        is RESET before the mark, whatever has become of it."""
        mark = self.mark()
        data = (harness.encode("HELLO", resp) if resp == 3 else b"") + b"".join(encoded) + \
            harness.encode("RESET") + harness.encode("PING", mark)
        with self.connect(near) as sock:
            got = self.exchange(sock, data, mark)
        self.cut_short += mark not in got
        return got

    # --- what got out ---------------------------------------------------------------------------

    def refusals(self):
        """(reason, name) of ACL LOG: names that are not ours, commands that are nobody's; the log is
        empty afterwards."""
        out = []
        for row in self.direct.call("ACL", "LOG", 1000):
            entry = dict(zip(row[::2], row[1::2]))
            reason, name = entry[b"reason"], entry[b"object"]
            if reason == b"command" or reason in (b"key", b"channel") and \
                    not (reason == b"channel" and self.is_pattern_of_ours(name)):
                out.append((reason.decode(), name))
        self.direct.call("ACL", "LOG", "RESET")
        return out

    def is_pattern_of_ours(self, name):
        """Patterns of PSUBSCRIBE, which the ACL never allows. Those that may match both keyspace
        notifications, which are looked through, and other channels go out as they are."""
        head, sep, rest = name.partition(b"__:")
        keyspace = head.startswith(b"__keyspace@") and sep
        glob = b"".join(b"\\" + bytes([c]) if bytes([c]) in b"*?[\\" else bytes([c])
                        for c in self.prefix)
        return (rest if keyspace else name).startswith(glob) or \
            name.startswith(b"__keyevent@") or name.startswith((b"__key", b"__redi")) and \
            not keyspace and any(c in name for c in b"*?[\\")

    def check_others(self):
        """Of the data and the connections of others nothing is missing, and nothing was changed."""
        if self.prefix and self.digest() != self.before:
            after = self.snapshot()
            self.set_foreign(self.maker)
            changed = dict(set(after.items()) ^ set(self.snapshot().items()))
            raise Escape(f"data of others changed: {sorted(changed)[:5]}")
        there = self.direct.call("CLIENT", "LIST", "ID", *self.other_ids)
        if there.count(b"\n") != len(self.others) or b" flags=b" not in there:
            raise Escape("a connection of others was closed or unblocked")

    def canaries(self, near):
        """Without a namespace, or without one for channels, more is everybody's."""
        if not self.prefix:
            return [PASSWORD]
        return [PASSWORD, NAME, VALUE, CHANNEL] if NEARCACHES[near] else [PASSWORD, NAME, VALUE]

    def check(self, near, got):
        """Raises Escape, except for what only the ACL has refused: that is returned."""
        popen = self.nearcaches[near].popen
        if popen.poll() is not None:
            raise Escape(f"nearcache ended with {popen.returncode}")
        for canary in self.canaries(near):
            if canary in got:
                at = got.index(canary)
                raise Escape(f"a reply shows what is others': {got[max(at - 100, 0):at + 50]!r}")
        self.check_others()
        # By another name, only the server's own flags tell what administers it.
        return [(reason, name) for reason, name in self.refusals()
                if near != "learned" or reason != "command"]

    def work_of_others(self, with_channels):
        """What the other services do meanwhile; in their names and values are canaries."""
        name, bare = b"other:work" + NAME, b"work" + NAME
        commands = [["SET", name, VALUE], ["SET", bare, VALUE], ["GET", name], ["APPEND", name, VALUE],
                    ["DEL", name, bare], ["SELECT", 1], ["HSET", bare, VALUE, VALUE],
                    ["DEL", bare], ["SELECT", 0], ["KEYS", NAME], ["SCAN", 0, "MATCH", NAME],
                    ["EVAL", b"return '" + VALUE + b"'", 0], ["PING", VALUE], ["ECHO", VALUE],
                    ["CLIENT", "SETNAME", b"other-" + NAME], ["PUBSUB", "NUMSUB", CHANNEL],
                    ["SCRIPT", "LOAD", b"return '" + VALUE + b"'"], ["OBJECT", "FREQ", name],
                    ["CONFIG", "SET", "masterauth", PASSWORD], ["PUBSUB", "CHANNELS", CHANNEL]]
        if with_channels: # without a namespace for them they are everybody's
            for channel in (b"other:", b"news", b"__keysecret", b"__keyspace@", b"other:secret",
                            b"secret", CHANNEL):
                for command in ("PUBLISH", "SPUBLISH"):
                    commands += [[command, channel + CHANNEL, VALUE], [command, channel, VALUE]]
        self.worker.send(b"".join(harness.encode(*argv) for argv in commands))
        for _ in commands:
            self.worker.reply()
