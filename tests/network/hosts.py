"""Hosts: each a network namespace with one TUN device, all joined by a router in user space.

    with Network() as net:
        near, redis = net.host("10.99.0.1"), net.host("10.99.0.2")
        near.popen(["ping", "10.99.0.2"])
        near.ip("link", "set", "eth0", "down")
        net.path(near, redis).set(delay=0.1)
        net.dns.names["redis.test"] = ["10.99.0.2"]

A namespace lives as long as the process in it that `hosts.py` is run as; nothing is named, and nothing
is left behind. Who isn't root gets a user namespace besides.
"""
import contextlib
import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
import threading

from router import Router

TUNSETIFF = 0x400454ca
IFF_TUN, IFF_NO_PI = 1, 0x1000
DNS_ADDRESS = "10.99.0.53"
NAMESPACES = ["--net", "--mount"]
A, AAAA = 1, 28  # types of DNS records


def unshare():
    """The beginning of a command in new namespaces."""
    more = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *more, *NAMESPACES]


def impossible():
    """Why there can be no hosts here, or None."""
    try:
        done = subprocess.run([*unshare(), sys.executable, __file__, "--check"], capture_output=True,
                              text=True, check=False)
    except FileNotFoundError as e:
        return str(e)
    return None if done.returncode == 0 else (done.stderr.strip() or "?").splitlines()[-1]


# --- in the namespace ------------------------------------------------------------------------------


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def make_tun(name="eth0"):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def main(control, address, *files):
    """Sets up a host, hands out its TUN device and a UDP socket of its, and holds the namespaces until
    the other side closes. `files`: pairs, the second takes the place of the first."""
    fd = make_tun()
    ip("link", "set", "lo", "up")
    ip("addr", "add", f"{address}/24", "dev", "eth0")
    ip("link", "set", "eth0", "up", "mtu", "1500")
    for place, file in zip(files[::2], files[1::2]):
        subprocess.run(["mount", "--bind", file, place], check=True)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, 53))
    with socket.socket(fileno=int(control)) as s:
        socket.send_fds(s, [b"ready"], [fd, udp.fileno()])
        os.close(fd)
        udp.close()
        s.recv(1)


# --- for tests -------------------------------------------------------------------------------------


class Host:
    """A machine with one address."""

    def __init__(self, address, *files):
        self.address = address
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.holder = subprocess.Popen(
                [*unshare(), sys.executable, __file__, str(theirs.fileno()), address, *files],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self.socket.settimeout(20)
        data, fds, _, _ = socket.recv_fds(self.socket, 16, 2)
        assert data == b"ready", f"no host {address}"
        self.tun, udp = fds
        self.udp = socket.socket(fileno=udp)

    def enter(self):
        """The beginning of a command that runs on this host."""
        more = [] if os.getuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.holder.pid), *more, *NAMESPACES, "--"]

    def run(self, *argv):
        """Runs a command to its end; returns what it printed."""
        done = subprocess.run([*self.enter(), *argv], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def ip(self, *words):
        self.run("ip", *words)

    def sockets(self, peer=None):
        """TCP connections by state, to `peer` (a Host) or all: {"ESTAB": 3}."""
        found = {}
        for line in self.run("ss", "-Htan").splitlines():
            state, _, _, _, other = line.split()[:5]
            if state != "LISTEN" and (not peer or other.rpartition(":")[0] == peer.address):
                found[state] = found.get(state, 0) + 1
        return found

    def close(self):
        self.udp.close()
        os.close(self.tun)
        self.socket.close()
        self.holder.wait(20)


class NameServer(threading.Thread):
    """A DNS server on a host's UDP socket. `names`: a list of addresses each, in the order in which they
    are answered; what is not in there does not exist. `mute`: record types that are never answered."""

    def __init__(self, udp):
        super().__init__(daemon=True)
        self.udp = udp
        self.names, self.mute, self.queries = {}, set(), 0
        self.refuse = False  # answer SERVFAIL

    def run(self):
        while True:
            try:
                query, peer = self.udp.recvfrom(4096)
            except OSError:
                return
            if not query:
                return
            self.queries += 1
            answer = self.answer(query)
            if answer:
                with contextlib.suppress(OSError):
                    self.udp.sendto(answer, peer)

    def answer(self, query):
        """None: nothing is said. Every name lives for 0 s."""
        end = query.index(b"\0", 12) + 5
        name = b".".join(re.findall(rb"[\x01-\x3f]([\w-]+)", query[12:end - 5])).decode().lower()
        kind, = struct.unpack_from("!H", query, end - 4)
        if kind in self.mute:
            return None
        known = self.names.get(name)
        addresses = [socket.inet_aton(a) for a in known or () if kind == A]
        code = 2 if self.refuse else 3 if known is None else 0
        addresses = [] if code else addresses
        header = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(addresses), 0, 0)
        records = b"".join(struct.pack("!HHHIH4s", 0xc00c, A, 1, 0, 4, a) for a in addresses)
        return header + query[12:end] + records

    def close(self):
        with contextlib.suppress(OSError):
            self.udp.shutdown(socket.SHUT_RDWR)
        self.join(20)


class Network:
    """Hosts, the router between them, and a name server that they all ask."""

    def __init__(self, directory):
        """`directory`: for the files that take the place of those in /etc."""
        self.stack = contextlib.ExitStack()
        self.directory = directory
        with contextlib.ExitStack() as building:
            self.stack = building
            self.router = Router()
            building.callback(self.router.close)
            self.files = ["/etc/resolv.conf", self.file("resolv.conf", f"nameserver {DNS_ADDRESS}\n"),
                          "/etc/hosts", self.file("hosts", "")]
            self.set_hosts({})
            self.dns_host = self.host(DNS_ADDRESS)
            self.dns = NameServer(self.dns_host.udp)
            self.dns.start()
            building.callback(self.dns.close)
            self.stack = building.pop_all()

    def file(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        return path

    def set_hosts(self, names):
        """What /etc/hosts of all hosts says."""
        self.file("hosts", "127.0.0.1 localhost\n" +
                  "".join(f"{address} {name}\n" for name, address in names.items()))

    def host(self, address):
        host = Host(address, *self.files)
        self.stack.callback(host.close)
        self.router.add(address, host.tun)
        return host

    def path(self, source, target):
        return self.router.path(source.address, target.address)

    def close(self):
        self.stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        make_tun()
        ip("link", "set", "eth0", "up")
        subprocess.run(["ss", "-Htan"], check=True)
    else:
        main(*sys.argv[1:])
