"""A proxy of faults between nearcache and a real Redis.

It tells the invalidation link from the data connections by the name they give themselves in their first
bytes, and holds, delays, drops, cuts or truncates what passes, for each kind and direction separately:

    fault = Fault(server.address)                 # nearcache's upstream is fault.url
    held = fault.link.replies.hold()              # all, or those that a predicate picks
    direct.set("demo:k", 2)
    held.wait(b"demo:k")                          # the invalidation has come, and waits
    held.release()

    fault.data.replies.hold(reply_to("PTTL"))     fault.data.requests.delay = 0.02
    fault.link.swallow()                          fault.data.cut()
    fault.data.replies.truncate(reply_to("GET"))  fault.link.refuse = True

Everything is awaited, nothing slept for. One thread moves all bytes; what is called from outside takes
its lock.
"""
import collections
import os
import selectors
import socket
import struct
import threading
import time

CHUNK = 256 * 1024
TIMEOUT = 10  # seconds for every wait

Frame = collections.namedtuple("Frame", "bytes command due kind",
                               defaults=[None, 0.0, None])
Frame.__doc__ = """One request or reply; `command` is the argv of a request, or of the request that a
reply answers (None: a message)."""


# --- predicates ------------------------------------------------------------------------------------


def request(*words):
    """Frames of a command that begins with these words; a word of '*' is any."""
    wanted = [word if isinstance(word, bytes) else str(word).encode() for word in words]

    def matches(frame):
        argv = frame.command
        return argv is not None and len(argv) >= len(wanted) and \
            argv[0].upper() == wanted[0].upper() and \
            all(w in (b"*", a) for w, a in zip(wanted[1:], argv[1:]))
    return matches


reply_to = request


def containing(text):
    return lambda frame: text in frame.bytes


def nth(n, predicate):
    """The n-th (from 1) of those that match, and only that."""
    left = [n]

    def matches(frame):
        left[0] -= predicate(frame)
        return left[0] == 0 and predicate(frame)
    return matches


# --- frames ----------------------------------------------------------------------------------------


class Framer:
    """Cuts a stream of RESP into whole requests or replies, as it comes."""

    def __init__(self):
        self.buffer = bytearray()
        self.at = 0  # parsed up to here
        self.owed = 1  # elements of the frame at hand

    def feed(self, data):
        self.buffer += data
        frames = []
        while self._element():
            if self.owed == 0:
                frames.append(bytes(self.buffer[:self.at]))
                del self.buffer[:self.at]
                self.at, self.owed = 0, 1
        return frames

    def _element(self):
        end = self.buffer.find(b"\r\n", self.at)
        if end < 0:
            return False
        kind, next_ = self.buffer[self.at:self.at + 1], end + 2
        if kind in b"$=!*%~>|":
            n = int(self.buffer[self.at + 1:end])
            if kind in b"$=!" and n >= 0:
                next_ += n + 2
                if next_ > len(self.buffer):
                    return False
            elif n > 0:
                self.owed += 2 * n if kind in b"%|" else n
            self.owed += kind == b"|"  # the value that the attributes are of
        self.at = next_
        self.owed -= 1
        return True


def argv_of(frame):
    """The words of a request."""
    if frame[:1] != b"*":
        return frame.split()
    words, at = [], frame.index(b"\r\n") + 2
    while at < len(frame):
        end = frame.index(b"\r\n", at)
        n = int(frame[at + 1:end])
        words.append(frame[end + 2:end + 2 + n])
        at = end + 2 + n + 2
    return words


# --- one direction of one kind of connections ------------------------------------------------------


class Hold:
    """Frames that match wait here, and all behind them on the same connection."""

    def __init__(self, gate, predicate):
        self.gate, self.predicate = gate, predicate
        self.frames = []  # all that have come, the released ones too
        self.open = False

    def wait(self, text=b"", n=1):
        """Until n frames with this text have come."""
        self.gate.fault.wait(lambda: sum(text in f.bytes for f in self.frames) >= n,
                             f"{n} held with {text!r}; held: {self.frames[-5:]!r}")
        return self

    def release(self):
        with self.gate.fault.lock:
            self.open = True
            self.gate.holds.remove(self)
        self.gate.fault.wake()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.open:
            self.release()


class Watch:
    """Counts frames that match as they are passed on."""

    def __init__(self, gate, predicate):
        self.gate, self.predicate, self.n = gate, predicate, 0

    def wait(self, n=1):
        self.gate.fault.wait(lambda: self.n >= n, f"{n} passed; so far {self.n}")


class Gate:
    """What may pass in one direction on one kind of connections."""

    def __init__(self, fault):
        self.fault = fault
        self.delay = 0  # seconds, or a function that returns them
        self.swallowing = self.stalled = False
        self.holds, self.watches, self.truncations = [], [], []
        self.passed = 0  # bytes

    def hold(self, predicate=lambda frame: True):
        """Frames that come from now on and match."""
        hold = Hold(self, predicate)
        with self.fault.lock:
            self.holds.append(hold)
        return hold

    def watch(self, predicate):
        watch = Watch(self, predicate)
        with self.fault.lock:
            self.watches.append(watch)
        return watch

    def truncate(self, predicate, after=2):
        """The first frame that matches ends after so many bytes, and its connection with it."""
        with self.fault.lock:
            self.truncations.append((predicate, after))

    def due(self):
        delay = self.delay() if callable(self.delay) else self.delay
        return time.monotonic() + delay if delay else 0.0


class Kind:
    """All connections of a kind: `data` or `link`."""

    def __init__(self, fault, name):
        self.fault, self.name = fault, name
        self.requests, self.replies = Gate(fault), Gate(fault)
        self.refuse = False  # new ones are closed at once
        self.opened = 0

    @property
    def connections(self):
        return [c for c in self.fault.connections if c.kind is self]

    def cut(self, reset=False):
        """Ends all that are open, in order or with a reset."""
        with self.fault.lock:
            for connection in self.connections:
                connection.end(reset)
        self.fault.wake()

    def swallow(self, on=True):
        """A black hole: accepted, never delivered, in both directions."""
        self.requests.swallowing = self.replies.swallowing = on

    def stall(self, on=True):
        """Nothing is delivered in either direction until it goes on; nothing is lost."""
        self.requests.stalled = self.replies.stalled = on
        self.fault.wake()

    def wait_connections(self, n):
        self.fault.wait(lambda: len(self.connections) == n, f"{n} connections of {self.name}")


# --- connections -----------------------------------------------------------------------------------


class Pipe:
    """Bytes from one socket to the other."""

    def __init__(self, connection, source, target, is_request):
        self.connection, self.source, self.target = connection, source, target
        self.is_request = is_request
        self.framer = Framer()
        self.queue = collections.deque()
        self.out = bytearray()
        self.ended = False

    @property
    def gate(self):
        kind = self.connection.kind
        return kind.requests if self.is_request else kind.replies

    def receive(self):
        """False: there will be no more."""
        try:
            data = self.source.recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        connection = self.connection
        if self.is_request and connection.kind is None:
            connection.recognise(data)
        if connection.kind is None or self.gate.swallowing:
            return True
        due = self.gate.due()
        if connection.fault.raw:
            self.queue.append((Frame(data, None, due), []))
            return True
        for frame in self.framer.feed(data):
            self.enqueue(Frame(frame, self.command_of(frame), due, connection.kind.name))
        return True

    def command_of(self, frame):
        owed = self.connection.owed
        if self.is_request:
            owed.append(argv_of(frame))
            return owed[-1]
        if self.connection.kind is self.connection.fault.link and frame.startswith(b"*3\r\n$7\r\nmessage"):
            return None
        return owed.popleft() if owed else None

    def enqueue(self, frame):
        holds = [hold for hold in self.gate.holds if hold.predicate(frame)]
        for hold in holds:
            hold.frames.append(frame)
        self.queue.append((frame, holds))

    def pump(self, now):
        """Moves what may go; returns when the next may, or None."""
        while self.queue and not self.connection.dead and not self.gate.stalled:
            frame, holds = self.queue[0]
            if any(not hold.open for hold in holds):
                break
            if frame.due > now:
                self.flush()
                return frame.due
            self.queue.popleft()
            self.pass_on(frame)
        self.flush()
        return None

    def pass_on(self, frame):
        gate = self.gate
        for truncation in gate.truncations:
            predicate, after = truncation
            if predicate(frame):
                gate.truncations.remove(truncation)
                self.out += frame.bytes[:after]
                self.flush()
                self.connection.end(False)
                return
        self.out += frame.bytes
        gate.passed += len(frame.bytes)
        for watch in gate.watches:
            watch.n += watch.predicate(frame)

    def flush(self):
        if self.out and not self.connection.dead:
            try:
                del self.out[:self.target.send(self.out)]
            except BlockingIOError:
                pass
            except OSError:
                self.connection.end(False)


class Connection:
    def __init__(self, fault, near, far):
        self.fault, self.near, self.far = fault, near, far
        self.kind = None
        self.owed = collections.deque()  # commands whose reply has not come
        self.dead = False
        self.pipes = [Pipe(self, near, far, True), Pipe(self, far, near, False)]

    def recognise(self, data):
        self.kind = self.fault.link if b":link\r\n" in data else self.fault.data
        self.kind.opened += 1
        if self.kind.refuse:
            self.end(False)

    def end(self, reset):
        if self.dead:
            return
        self.dead = True
        for s in (self.near, self.far):
            self.fault.forget(s)
            if reset:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        self.fault.connections.remove(self)


# --- the proxy -------------------------------------------------------------------------------------


class Fault:
    """Listens on a free port and relays to `upstream`, (host, port). `raw`: bytes as they come, without
    frames: cheaper, but only delays, stalls, swallowing and cuts work."""

    def __init__(self, upstream, raw=False):
        self.upstream, self.raw = upstream, raw
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.connections = []
        self.link, self.data = Kind(self, "link"), Kind(self, "data")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.listener.setblocking(False)
        self.woken, self.waker = os.pipe2(os.O_NONBLOCK)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(self.woken, selectors.EVENT_READ, self.awake)
        self.ended = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"

    def wait(self, predicate, what, timeout=TIMEOUT):
        """Until the predicate is true; it is asked whenever bytes have moved."""
        with self.lock:
            assert self.changed.wait_for(predicate, timeout), f"not within {timeout} s: {what}"

    def close(self):
        self.ended = True
        self.wake()
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()
        for connection in list(self.connections):
            connection.end(False)
        self.selector.close()
        self.listener.close()
        os.close(self.woken), os.close(self.waker)

    def wake(self):
        try:
            os.write(self.waker, b"!")
        except BlockingIOError:
            pass

    # --- its thread

    def awake(self, _):
        os.read(self.woken, 4096)

    def accept(self, _):
        near, _ = self.listener.accept()
        near.setblocking(False)
        far = socket.socket()
        try:
            far.connect(self.upstream)
        except OSError:
            near.close()
            return
        far.setblocking(False)
        connection = Connection(self, near, far)
        self.connections.append(connection)
        for pipe in connection.pipes:
            pipe.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(pipe.source, selectors.EVENT_READ, pipe)

    def forget(self, s):
        try:
            self.selector.unregister(s)
        except (KeyError, ValueError):
            pass

    def serve(self, key):
        if not isinstance(key.data, Pipe):
            key.data(key.fileobj)
        elif not key.data.connection.dead and not key.data.receive():
            pipe = key.data
            self.forget(pipe.source)
            pipe.ended = not pipe.connection.kind or not pipe.gate.swallowing  # nor does its end get through

    def run(self):
        timeout = None
        while not self.ended:
            events = self.selector.select(timeout)
            with self.lock:
                for key, _ in events:
                    self.serve(key)
                timeout = self.move()
                self.changed.notify_all()

    def move(self):
        """Passes on what may go; returns for how long there is nothing more to do."""
        now, wake_at = time.monotonic(), []
        for connection in list(self.connections):
            for pipe in connection.pipes:
                due = pipe.pump(now)
                if due:
                    wake_at.append(due)
                if pipe.out:
                    wake_at.append(now + 0.001)
                if pipe.ended and not pipe.queue and not pipe.out:
                    connection.end(False)
        return max(0.0, min(wake_at) - now) if wake_at else None
