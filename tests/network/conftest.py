"""Fixtures: a world of hosts, with a Redis on one and a nearcache on another.

    def test_x(world):
        w = world()                       # w.near on w.near_host, w.server on w.redis_host
        w.both(loss=0.3)                  # the weather of the two paths between them
        w.heal()

Needs root, or user namespaces, and /dev/net/tun; skipped where there is none of it. What was measured
stands at the end of pytest's output.
"""
import contextlib
import importlib.util
import os
import sys
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
E2E = os.path.join(TESTS, "e2e")
sys.path[:0] = [HERE, E2E]

import harness  # noqa: E402
import hosts  # noqa: E402
from harness import wait_until  # noqa: E402
from traffic import Traffic  # noqa: E402


def load(name, folder):
    """Another folder's conftest.py, as a module."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(TESTS, folder, "conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


e2e = load("e2e_fixtures", "e2e")
coherence = load("coherence_fixtures", "coherence")
pytest_configure, pytest_terminal_summary = e2e.pytest_configure, e2e.pytest_terminal_summary

RECOVERY = 60  # seconds: a bound for what takes some two
STALE_BOUND = 1.0  # seconds: the lease


def refused(reply):
    return isinstance(reply, harness.RespError) and str(reply).startswith("NEARCACHE ")


class Hosted:
    """A process on a host of its own; tests reach it by a unix socket, which no fault of the network
    concerns."""

    host = None

    def spawn(self, argv, env=None):
        super().spawn([*self.host.enter(), *argv], env)


class HostedRedis(Hosted, harness.RedisServer):
    def __init__(self, directory, host, *args):
        super().__init__(directory, "--bind", "0.0.0.0", "--protected-mode", "no", *args)
        self.host = host
        self.name = host.address

    @property
    def address(self):
        return self.socket

    @property
    def url(self):
        return f"redis://{self.name}:{self.port}/0"


class HostedNearcache(Hosted, harness.Nearcache):
    def __init__(self, directory, host, *args, **options):
        super().__init__(directory, *args, listen=(f"unix:{directory}/near.sock",), **options)
        self.host = host

    def new_wire(self, **options):
        """A raw connection that the caller closes."""
        return harness.Wire(self.address, **options)


class World(coherence.Instance):
    def __init__(self, net, stack, directory, args, name, hosts_file):
        self.net, self.stack, self.directory = net, stack, directory
        self.near_host, self.redis_host = net.host("10.99.0.1"), net.host("10.99.0.2")
        self.server = self.redis("redis", self.redis_host)
        if name:
            self.server.name = name
        if name and hosts_file:
            net.set_hosts({name: self.redis_host.address})
        elif name:
            net.dns.names[name] = [self.redis_host.address]
        self.direct = self.server.client()
        near = HostedNearcache(directory / "near", self.near_host, *args, upstream=self.server)
        stack.callback(near.close)
        super().__init__(near.start(), None)
        self.there, self.back = net.path(self.near_host, self.redis_host), \
            net.path(self.redis_host, self.near_host)
        self.traffic = None
        stack.callback(self.heal)

    def redis(self, name, host, *args):
        """One more Redis."""
        server = HostedRedis(self.directory / name, host, *args)
        self.stack.callback(server.close)
        return server.start()

    def both(self, **weather):
        self.there.set(**weather)
        self.back.set(**weather)

    def heal(self):
        self.there.heal()
        self.back.heal()

    def start_traffic(self, stale_bound=STALE_BOUND):
        self.traffic = Traffic(self.near, self.server, stale_bound)
        self.stack.callback(self.traffic.finish)
        wait_until(lambda: self.traffic.all_ok(50) and self.hits(), 30, "traffic")

    def hits(self):
        """Does a key that is asked for twice come from the L1?"""
        if not self.serves():
            return False
        before = self.stat("hits")
        with self.near.new_wire() as wire:
            for _ in range(2):
                wire.call("GET", "probe")
        return self.stat("hits") > before

    def answers(self):
        with self.near.new_wire() as wire:
            return wire.call("SET", "probe", 1) == "OK"

    def recovery(self):
        """Waits until a write is answered, then until a read is from the L1 again; says how long that
        was."""
        begun = time.monotonic()
        wait_until(self.answers, RECOVERY, "an answer")
        answered = time.monotonic() - begun
        wait_until(self.hits, RECOVERY, "a hit")
        return f"answers after {answered:5.2f} s, hits after {time.monotonic() - begun:5.2f} s"

    def await_new(self, key, new, old, gone):
        """Until a GET answers `new`; `old`, of a server that is `gone` since then, is for the lease."""
        wire = self.near.wire(timeout=60)

        def is_new():
            begun = time.monotonic()
            reply = wire.call("GET", key)
            assert reply == new or reply == old and begun < gone + STALE_BOUND or refused(reply)
            return reply == new
        wait_until(is_new, RECOVERY, "the new value")

    def await_no_leftovers(self):
        """Nearcache's host has its shared connection and its link, and no other."""
        wait_until(lambda: set(self.near_host.sockets(self.redis_host)) <= {"ESTAB", "TIME-WAIT"}, 30,
                   "the others to be closed")
        wait_until(lambda: self.near_host.sockets(self.redis_host).get("ESTAB") ==
                   int(self.info("upstream_connections")) + 1, 30, "no unknown connection")

    def syns_per_second(self, since):
        """The most new connections asked of the Redis within one second, after `since`."""
        times = [t for t in self.there.stats()["syns"] if t >= since]
        return max((sum(t <= other < t + 1 for other in times) for t in times), default=0)


@pytest.fixture
def world(tmp_path):
    """Makes a World; arguments are nearcache's. `name`: of the Redis, for the name server to answer, or
    with `hosts_file` for the hosts file to tell."""
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(hosts.Network(tmp_path))

        def make(*args, name=None, hosts_file=False):
            return World(net, stack, tmp_path, args, name, hosts_file)
        yield make


IMPOSSIBLE = hosts.impossible()


def pytest_collection_modifyitems(items):
    if IMPOSSIBLE:
        why = "no network namespaces with TUN devices here (root is needed, or user namespaces): " + \
            IMPOSSIBLE
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))
