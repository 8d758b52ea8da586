"""Fixtures: a world of a real Redis and nearcaches, with a proxy of faults between them.

    def test_x(world):
        w = world()                    # w.server <- w.fault <- w.near; w.direct: a client of the server
        other = w.nearcache()          # another instance, which has a fault proxy of its own
"""
import contextlib
import importlib.util
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
E2E = os.path.join(os.path.dirname(HERE), "e2e")
sys.path[:0] = [HERE, E2E]

import harness  # noqa: E402
from fault import Fault  # noqa: E402
from harness import wait_until  # noqa: E402

spec = importlib.util.spec_from_file_location("e2e_fixtures", os.path.join(E2E, "conftest.py"))
e2e = importlib.util.module_from_spec(spec)
spec.loader.exec_module(e2e)
pytest_configure = e2e.pytest_configure


class Instance:
    """A nearcache behind its own fault proxy."""

    def __init__(self, near, fault):
        self.near, self.fault = near, fault
        self.admin = near.wire()

    def wire(self):
        return self.near.wire()

    def stat(self, name):
        reply = self.admin.call("NEARCACHE", "STATS")
        value = dict(zip(reply[::2], reply[1::2]))[name.encode()]
        return int(value) if isinstance(value, int) or value.isdigit() else value.decode()

    def info(self, name):
        text = self.admin.call("INFO", "nearcache").decode()
        fields = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
        return fields[name]

    def serves(self):
        return self.info("serving") == "1"

    def await_serving(self, mode=None):
        wait_until(lambda: self.serves() and mode in (None, self.info("link_mode")), what="a live link")
        return self

    def cached(self, key):
        reply = self.admin.call("NEARCACHE", "KEY", key)
        return dict(zip(reply[::2], reply[1::2]))[b"cached"] == b"yes"

    def cache(self, *command):
        """Reads until the reply comes from the L1; returns it."""
        wire = self.wire()

        def hit():
            before = self.stat("hits")
            reply.append(wire.call(*command))
            return self.stat("hits") > before
        reply = []
        wait_until(hit, what=f"a hit of {command}")
        return reply[-1]

    def await_invalidations(self, n, before=0):
        wait_until(lambda: self.stat("invalidations") - before >= n, what=f"{n} invalidations")


class World(Instance):
    def __init__(self, make_nearcache, stack, server, args):
        self.make_nearcache, self.stack, self.server = make_nearcache, stack, server
        self.direct = server.client()
        stack.callback(self.direct.close)
        first = self.nearcache(*args)
        super().__init__(first.near, first.fault)

    def nearcache(self, *args, service="demo", mode=None):
        fault = Fault(self.server.address)
        self.stack.callback(fault.close)
        near = self.make_nearcache(*args, upstream=fault, service=service)
        return Instance(near, fault).await_serving(mode)


@pytest.fixture
def world(tmp_path):
    """Makes a World; options: arguments of nearcache, and `server`, arguments of redis-server. The lease is
    long, so that a link that is held does not end all hits; tests of the lease say how long it is."""
    with contextlib.ExitStack() as stack:
        # Proxies of faults outlive the nearcaches, which outlive nothing.
        servers = stack.enter_context(e2e.factory(harness.RedisServer, tmp_path))
        faults = stack.enter_context(contextlib.ExitStack())
        nears = stack.enter_context(e2e.factory(harness.Nearcache, tmp_path))

        def make(*args, lease="30s", server=()):
            return World(nears, faults, servers(*server), ("--set", f"invalidation.lease={lease}", *args))
        make.redis_server = servers
        yield make


def pytest_collection_modifyitems(items):
    """Where fields of a hash expire one by one, hashes are not kept."""
    e2e.skip_one_worker(items)
    for item in items:
        if harness.FIELDS_EXPIRE and "HGETALL" in item.name:
            item.add_marker(pytest.mark.skip(reason="this server's hashes are not kept"))
