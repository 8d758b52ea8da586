"""Clients that know what they must be told: each a thread with one connection to nearcache, which asks
on and on and notes every reply that it must not see.

A request may be answered, or refused with `-NEARCACHE ...`; then it is unknown whether a write has been,
or will be, carried out. Only who holds a private connection, or is in the middle of a long reply, may be
disconnected.
"""
import random
import socket
import threading
import time

import redis

from harness import Push, RespError, connect, encode

HANG = 60  # seconds without an answer: far more than any deadline
PACE = 0.002  # seconds between two batches


class Client(threading.Thread):
    """Until finish(); `n_ok`, `n_failed` and `n_lost` count answers, refusals and disconnections."""

    may_be_disconnected = False
    refusals = ("NEARCACHE ",)

    def __init__(self, near, name):
        """`near` has a method new_wire(timeout=SECONDS)."""
        super().__init__(daemon=True, name=name)
        self.near = near
        self.random = random.Random(name)
        self.wire = None
        self.pushes = []  # since they were looked at last
        self.end = threading.Event()
        self.n_ok = self.n_failed = self.n_lost = self.run_of_ok = 0
        self.slowest = 0.0
        self.last_error = None
        self.violations = []

    def violation(self, text):
        self.violations.append(f"{self.name}: {text}")

    def ask(self, *commands):
        """Replies to pipelined commands, in order; None for those that were refused or lost, which are
        counted. Whatever else is an error is a violation."""
        replies = []
        begun = time.monotonic()
        try:
            if not self.wire:
                self.open()
            self.wire.send(b"".join(encode(*command) for command in commands))
            for _ in commands:
                replies.append(self.reply())
        except socket.timeout:
            self.violation(f"no answer to {commands[len(replies)][:2]} within {HANG} s")
            self.disconnect()
        except (EOFError, OSError) as e:
            self.disconnected(e, commands)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        replies += [None] * (len(commands) - len(replies))
        return [self.sort(reply) for reply in replies]

    def open(self):
        self.wire = self.near.new_wire(timeout=HANG)

    def reply(self):
        """The next one that isn't out of band."""
        while isinstance(reply := self.wire.reply(), Push):
            self.pushes.append(reply)
        return reply

    def sort(self, reply):
        if reply is None or not isinstance(reply, RespError):
            self.n_ok += reply is not None
            self.run_of_ok += 1
            return reply
        self.n_failed += 1
        self.run_of_ok = 0
        self.last_error = str(reply)
        if not self.last_error.startswith(self.refusals):
            self.violation(f"error {self.last_error!r}")
        return None

    def disconnected(self, why, commands):
        self.n_lost += 1
        self.run_of_ok = 0
        if not self.may_be_disconnected:
            self.violation(f"disconnected ({why!r}) at {[c[0] for c in commands]}")
        self.disconnect()

    def disconnect(self):
        if self.wire:
            self.wire.close()
        self.wire = None

    def run(self):
        try:
            while not self.end.wait(PACE):
                self.batch()
        except Exception as e:  # pylint: disable=broad-except
            self.violation(f"{type(e).__name__}: {e} at line {e.__traceback__.tb_next.tb_lineno}")
        self.disconnect()

    def batch(self):
        raise NotImplementedError


class Owner(Client):
    """Writes and reads keys that are nobody else's, pipelined: it reads what it has written."""

    n_keys, size, most = 10, 20, 6

    def __init__(self, near, name):
        super().__init__(near, name)
        self.version = 0
        self.known = [0] * self.n_keys  # the version acknowledged last
        self.unknown = [set() for _ in self.known]  # versions whose fate is not known
        self.n_late = 0

    def key(self, i):
        return f"{self.name}:{i}"

    def value(self, i, version):
        head = b"%s=%d;" % (self.key(i).encode(), version)
        return head + b"x" * max(0, self.size - len(head))

    def batch(self):
        plan, commands = [], []
        for _ in range(self.random.randint(1, self.most)):
            i = self.random.randrange(self.n_keys)
            if self.random.random() < 0.3:
                self.version += 1
                plan.append((i, self.version))
                commands.append(["SET", self.key(i), self.value(i, self.version)])
            elif self.random.random() < 0.8:
                plan.append((i, None))
                commands.append(["GET", self.key(i)])
            else:
                plan.append((None, None))
                commands.append(["MGET", *map(self.key, range(self.n_keys))])
        for (i, version), reply, command in zip(plan, self.ask(*commands), commands):
            if i is None:
                for i, part in enumerate(reply or []):
                    self.check(i, part, command)
            elif version is None:
                self.check(i, reply, command)
            elif reply == "OK":
                self.known[i] = version
            else:
                self.unknown[i].add(version)

    def check(self, i, reply, command):
        if reply is None:
            return
        version = int(reply.partition(b"=")[2].partition(b";")[0] or b"-1")
        if reply != self.value(i, version):
            self.violation(f"{command[:2]} answered {reply[:60]!r}, {len(reply)} bytes")
        elif version != self.known[i]:
            self.n_late += version < self.known[i]
            if version not in self.unknown[i]:
                self.violation(f"{command[:2]} shows version {version} of {self.key(i)}, "
                               f"{self.known[i]} is acknowledged")


class LargeOwner(Owner):
    """The same with values of many packets. What ends a reply that has begun is a disconnection."""

    may_be_disconnected = True
    n_keys, size, most = 3, 100_000, 2


class Reader(Client):
    """Reads what a writer beside nearcache writes: never an older version than before, and none that
    was overwritten too long ago."""

    def __init__(self, near, name, writer):
        super().__init__(near, name)
        self.writer = writer
        self.seen = [0] * writer.n_keys
        self.stalest = 0.0

    def batch(self):
        keys = self.random.sample(range(self.writer.n_keys), 4)
        begun = time.monotonic()
        for i, reply in zip(keys, self.ask(*[["GET", self.writer.key(i)] for i in keys])):
            if reply is not None:
                self.check(i, int(reply), begun)

    def check(self, i, version, begun):
        if version < self.seen[i]:
            self.violation(f"{self.writer.key(i)} is {version} after {self.seen[i]}")
        self.seen[i] = version
        overwritten = self.writer.when(i, version + 1)
        if overwritten and begun - overwritten > self.stalest:
            self.stalest = begun - overwritten
            if self.stalest > self.writer.bound:
                self.violation(f"{self.writer.key(i)} is {version}, overwritten {self.stalest:.3f} s "
                               "before it was asked for")


class Writer(threading.Thread):
    """Writes into the Redis on a way of its own, and knows since when each version is there."""

    n_keys = 8

    def __init__(self, server, bound, name):
        super().__init__(daemon=True)
        self.client, self.bound, self.prefix = connect(server.socket), bound, f"{name}foreign"
        self.times = [[] for _ in range(self.n_keys)]
        self.end = threading.Event()

    def key(self, i):
        return f"{self.prefix}:{i}"

    def when(self, i, version):
        """Its SET had been acknowledged by then; None: it has not."""
        times = self.times[i]
        return times[version - 1] if version <= len(times) else None

    def write(self, i):
        """Once more, if the server has gone meanwhile."""
        while True:
            try:
                self.client.set(f"demo:{self.key(i)}", len(self.times[i]) + 1)
                self.times[i].append(time.monotonic())
                return
            except redis.ConnectionError:  # or it is loading its data
                if self.end.wait(10 * PACE):
                    return

    def run(self):
        for i in range(self.n_keys):
            self.write(i)
        while not self.end.wait(25 * PACE):
            self.write(random.randrange(self.n_keys))
        self.client.close()


class Session(Client):
    """Needs a private connection: transactions and blocking pops, on keys of its own."""

    may_be_disconnected = True
    n_in = 0

    def batch(self):
        if self.random.random() < 0.5:
            self.transaction()
        else:
            self.pop()

    def transaction(self):
        replies = self.ask(["MULTI"], ["INCR", self.name], ["GET", self.name], ["EXEC"])
        pair = replies[3]
        if pair is not None and (pair[0] != int(pair[1]) or replies[:3] != ["OK", "QUEUED", "QUEUED"]):
            self.violation(f"EXEC answered {replies}")
        if pair is None and self.wire:  # leave a MULTI that was half refused
            self.ask(["RESET"])

    def pop(self):
        self.n_in += 1
        key = f"{self.name}:list"
        pushed, popped = self.ask(["RPUSH", key, self.n_in], ["BLPOP", key, 1])
        if pushed and popped and popped[0] != key.encode():
            self.violation(f"BLPOP answered {popped}")


class Caller(Client):
    """Calls scripts and uses types of RESP3, on keys of its own; it subscribes to a channel to which it
    publishes."""

    may_be_disconnected = True
    n_published = n_added = 0

    def open(self):
        super().open()
        for command in (["HELLO", 3], ["SUBSCRIBE", self.name]):
            reply = self.wire.call(*command)
            if isinstance(reply, RespError):
                self.sort(reply)
                raise EOFError("refused at the start")
        self.heard = 0

    def batch(self):
        self.n_published += 1
        self.n_added += 1
        key, member = f"{self.name}:key", str(self.n_added).encode()
        script = "return {KEYS[1], ARGV[1], redis.call('HSET', KEYS[1], 'f', ARGV[1])}"
        replies = self.ask(["EVAL", script, 1, key, member], ["HGETALL", key],
                           ["SADD", f"{key}:set", member], ["SMISMEMBER", f"{key}:set", member, "-"],
                           ["PUBLISH", self.name, self.n_published])
        if all(reply is not None for reply in replies):
            wanted = [[key.encode(), member], {b"f": member}, 1, [1, 0]]
            if [replies[0][:2], *replies[1:4]] != wanted or replies[4] < 1:
                self.violation(f"{replies} instead of {wanted}")
        self.listen()

    def listen(self):
        for push in self.pushes:
            if push[:2] != [b"message", self.name.encode()]:
                self.violation(f"told {push}")
            elif int(push[2]) <= self.heard:
                self.violation(f"told {push} after {self.heard}")
            else:
                self.heard = int(push[2])
        self.pushes = []


class Traffic:
    """All of them at once, until finish(), which fails if one has seen what it must not."""

    def __init__(self, near, server, stale_bound, name="", refusals=Client.refusals,
                 may_be_disconnected=False):
        """`near` is as for Client; `server`, a RedisServer, is written to directly. All keys begin with
        `name`. `refusals`: how errors begin that are none; `may_be_disconnected`: all of them."""
        self.writer = Writer(server, stale_bound, name)
        self.readers = [Reader(near, f"{name}reader{i}", self.writer) for i in range(2)]
        self.owners = [Owner(near, f"{name}owner{i}") for i in range(2)]
        self.owners += [LargeOwner(near, f"{name}large")]
        self.sessions = [Session(near, f"{name}session{i}") for i in range(2)]
        self.sessions += [Caller(near, f"{name}caller")]
        self.clients = [*self.readers, *self.owners, *self.sessions]
        self.writer.start()
        for client in self.clients:
            client.refusals = refusals
            client.may_be_disconnected |= may_be_disconnected
            client.start()

    def check(self):
        violations = [v for client in self.clients for v in client.violations]
        assert not violations, f"{len(violations)} violations, such as:\n" + "\n".join(violations[:10])

    def all_ok(self, n):
        """Has each client had the last n replies without an error?"""
        self.check()
        return all(client.run_of_ok >= n for client in self.clients)

    def all_refused(self, n, since):
        """Has each been refused or disconnected n times more than in `since`, an earlier counts()?"""
        self.check()
        return all(now - then >= n for now, then in zip(self.counts(), since))

    def counts(self):
        """Of refusals and disconnections, by client."""
        return [client.n_failed + client.n_lost for client in self.clients]

    def answered(self):
        """Requests answered, by client."""
        return [client.n_ok for client in self.clients]

    def figures(self):
        """In words; `late` are reads that showed a write of unknown fate after a later one."""
        def most(name, clients):
            return max(getattr(client, name) for client in clients)

        def total(name, clients=self.clients):
            return sum(getattr(client, name) for client in clients)
        return f"slowest {most('slowest', [*self.readers, *self.owners]):5.2f} s, " \
            f"session {most('slowest', self.sessions):5.2f} s, " \
            f"stalest {most('stalest', self.readers):5.3f} s; " \
            f"{total('n_ok')} ok, {total('n_failed')} refused, {total('n_lost')} disconnected, " \
            f"{total('n_late', self.owners)} late"

    def finish(self):
        for thread in [self.writer, *self.clients]:
            thread.end.set()
        for thread in [self.writer, *self.clients]:
            thread.join(HANG + 10)
            assert not thread.is_alive(), thread
        self.check()
