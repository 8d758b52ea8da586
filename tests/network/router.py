"""A router in user space: forwards IP packets between TUN devices, as badly as it is told.

Run as a process of its own (`router.py FD`), so that its pace depends on nobody's interpreter; the other
end of the socket FD is `Router`:

    router = Router()
    router.add("10.99.0.1", fd)                          # a TUN device, and who is behind it
    path = router.path("10.99.0.1", "10.99.0.2")         # one direction
    path.set(loss=0.05, delay=0.03, jitter=0.01)         # in force when this returns
    path.forget("drop")                                  # flows known until now; new ones pass
    path.stats()["syns"]                                 # when new connections were asked for

A path has: `down` (all packets vanish), `reject` (TCP is answered with resets), `loss`, `duplicate`,
`corrupt` and `reorder` (shares of 1), `delay` and `jitter` (s), `rate` (bytes/s, with room for `queue`
bytes, above which packets are lost), `mtu` (larger packets vanish, and nobody is told).
"""
import array
import collections
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

PACKET_MAX = 65536
BATCH = 64
TCP = 6
FIN, SYN, RST, ACK = 1, 2, 4, 16
PERFECT = {"down": False, "reject": False, "loss": 0, "duplicate": 0, "corrupt": 0, "reorder": 0,
           "delay": 0, "jitter": 0, "rate": 0, "queue": 64 * 1024, "mtu": 0}


# --- packets ---------------------------------------------------------------------------------------


def checksum(data):
    """The Internet's, of an even or odd number of bytes."""
    words = array.array("H", data + b"\0" * (len(data) % 2))
    if sys.byteorder == "little":
        words.byteswap()
    total = sum(words)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Segment:
    """The TCP part of an IPv4 packet, as far as faults ask for it."""

    def __init__(self, packet):
        at = (packet[0] & 15) * 4
        self.source, self.target = packet[12:16], packet[16:20]
        self.source_port, self.target_port, self.seq, self.ack = struct.unpack_from("!HHII", packet, at)
        self.flags = packet[at + 13]
        length = struct.unpack_from("!H", packet, 2)[0] - at - (packet[at + 12] >> 4) * 4
        self.end = self.seq + length + bool(self.flags & SYN) + bool(self.flags & FIN)

    @property
    def flow(self):
        """The same for both directions."""
        return frozenset([(self.source, self.source_port), (self.target, self.target_port)])


def reset_packet(source, target, source_port, target_port, seq, ack):
    """An IPv4 packet that ends a connection; without `ack` it needs no acknowledgement."""
    flags = RST | (ACK if ack is not None else 0)
    tcp = struct.pack("!HHIIBBHHH", source_port, target_port, seq % 2**32, (ack or 0) % 2**32, 5 << 4,
                      flags, 0, 0, 0)
    pseudo = source + target + struct.pack("!BBH", 0, TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, TCP, 0, source, target)
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp


def resets(s):
    """(to the sender, to the receiver) of a segment that will not get through."""
    seq, ack = (s.ack, None) if s.flags & ACK else (0, s.end)
    back = reset_packet(s.target, s.source, s.target_port, s.source_port, seq, ack)
    forth = None if s.flags & SYN else \
        reset_packet(s.source, s.target, s.source_port, s.target_port, s.seq, s.ack)
    return back, forth


# --- in the router's process -----------------------------------------------------------------------


class Direction:
    """What happens to packets from one host to another."""

    def __init__(self, switch):
        self.switch = switch
        self.weather = dict(PERFECT)
        self.last_due = self.free_at = 0.0
        self.counts = collections.Counter()
        self.syns = []

    def take(self, packet, now):
        w = self.weather
        segment = Segment(packet) if packet[9] == TCP else None
        fate = self.switch.fate(segment, now) if segment else None
        if segment and segment.flags & (SYN | ACK) == SYN:
            self.syns.append(now)
        if segment and (w["reject"] or fate == "reset") and not w["down"]:
            self.refuse(segment)
        elif w["down"] or fate or (w["mtu"] and len(packet) > w["mtu"]) or random.random() < w["loss"]:
            self.counts["lost"] += 1
        else:
            self.queue(packet, now)
            if random.random() < w["duplicate"]:
                self.queue(packet, now)

    def refuse(self, segment):
        self.counts["reset"] += 1
        if not segment.flags & RST:
            for packet in resets(segment):
                if packet:
                    self.switch.deliver(packet)

    def queue(self, packet, now):
        w = self.weather
        due = now
        if w["rate"]:
            self.free_at = max(self.free_at, now) + len(packet) / w["rate"]
            due = self.free_at
            if (due - now) * w["rate"] > w["queue"]:
                self.free_at -= len(packet) / w["rate"]
                self.counts["lost"] += 1
                return
        due += w["delay"] + random.uniform(0, w["jitter"])
        if random.random() < w["reorder"]:
            due = now
        else:
            self.last_due = due = max(due, self.last_due)
        if random.random() < w["corrupt"]:
            at = random.randrange(20, len(packet))
            packet = packet[:at] + bytes([packet[at] ^ 1 << random.randrange(8)]) + packet[at + 1:]
        self.counts["passed"] += 1
        self.switch.deliver(packet, due)


class Switch:
    """All directions, and the packets that are on their way."""

    def __init__(self, control):
        self.control = control
        self.hosts = {}  # address -> fd
        self.directions = {}
        self.flows = {}  # -> when last seen
        self.doomed = {}  # -> what becomes of their packets
        self.heap, self.n = [], 0
        self.epoll = select.epoll()
        self.epoll.register(control, select.EPOLLIN)

    def direction(self, source, target):
        key = (source, target)
        if key not in self.directions:
            self.directions[key] = Direction(self)
        return self.directions[key]

    def fate(self, segment, now):
        flow = segment.flow
        if segment.flags & (SYN | ACK) == SYN:
            self.doomed.pop(flow, None)  # the same ports once more
        self.flows[flow] = now
        return self.doomed.get(flow)

    def deliver(self, packet, due=0.0):
        if due <= time.monotonic():
            self.put(packet)
        else:
            self.n += 1
            heapq.heappush(self.heap, (due, self.n, packet))

    def put(self, packet):
        try:
            os.write(self.hosts[packet[16:20]], packet)
        except (KeyError, OSError):  # nobody there, or his link is down
            pass

    def run(self):
        while True:
            for fd, _ in self.epoll.poll(self.timeout()):
                if fd == self.control.fileno():
                    if not self.obey():
                        return
                else:
                    self.forward(fd)
            now = time.monotonic()
            while self.heap and self.heap[0][0] <= now:
                self.put(heapq.heappop(self.heap)[2])

    def timeout(self):
        return max(0.0, self.heap[0][0] - time.monotonic()) if self.heap else None

    def forward(self, fd):
        for _ in range(BATCH):
            try:
                packet = os.read(fd, PACKET_MAX)
            except OSError:
                return
            if packet[0] >> 4 == 4 and len(packet) >= 20:
                self.direction(packet[12:16], packet[16:20]).take(packet, time.monotonic())

    # --- what is asked from outside

    def obey(self):
        """False: nobody asks any more."""
        data, fds, _, _ = socket.recv_fds(self.control, PACKET_MAX, 1)
        if not data:
            return False
        order = json.loads(data)
        answer = getattr(self, "do_" + order.pop("do"))(*fds, **order)
        self.control.send(json.dumps(answer).encode())
        return True

    def do_add(self, fd, host):
        self.hosts[socket.inet_aton(host)] = fd
        os.set_blocking(fd, False)
        self.epoll.register(fd, select.EPOLLIN)

    def do_set(self, source, target, weather):
        direction = self.direction(socket.inet_aton(source), socket.inet_aton(target))
        direction.weather.update(weather)
        direction.last_due = 0.0

    def do_stats(self, source, target):
        direction = self.direction(socket.inet_aton(source), socket.inet_aton(target))
        return {**direction.counts, "syns": direction.syns}

    def do_forget(self, source, target, how):
        ends = {socket.inet_aton(source), socket.inet_aton(target)}
        doomed = [flow for flow in self.flows if {address for address, _ in flow} == ends]
        self.doomed.update((flow, how) for flow in doomed)
        return len(doomed)


# --- for tests -------------------------------------------------------------------------------------


class Path:
    """One direction from a host to another."""

    def __init__(self, router, source, target):
        self.router, self.ends = router, {"source": source, "target": target}

    def set(self, **weather):
        assert weather.keys() <= PERFECT.keys(), weather
        self.router.ask("set", weather=weather, **self.ends)

    def heal(self):
        self.set(**PERFECT)

    def stats(self):
        return self.router.ask("stats", **self.ends)

    def forget(self, how):
        """From now on the packets of all flows that are known vanish ("drop") or are answered with
        resets ("reset"), in both directions. Returns how many these are."""
        return self.router.ask("forget", how=how, **self.ends)


class Router:
    """The router's process."""

    def __init__(self):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        with theirs:
            self.popen = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())],
                                          pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def ask(self, what, *fds, **order):
        socket.send_fds(self.socket, [json.dumps({"do": what, **order}).encode()], fds)
        answer = self.socket.recv(1 << 20)
        assert answer, "the router has ended"
        return json.loads(answer)

    def add(self, host, fd):
        self.ask("add", fd, host=host)

    def path(self, source, target):
        return Path(self, source, target)

    def close(self):
        self.socket.close()
        assert self.popen.wait(20) == 0


if __name__ == "__main__":
    Switch(socket.socket(fileno=int(sys.argv[1]))).run()
