"""One fault of the network at a time, under traffic that checks every reply: it is answered or refused
within the deadlines, no value is older than promised, and service returns by itself when the fault ends.
"""
import time

import pytest

from conftest import RECOVERY
from harness import wait_until

OUTAGE, POOR = "outage", "poor"
SOCKETS_MAX = 24  # of nearcache's, at any moment: a shared one, the link, and sessions that come and go
SYNS_MAX = 100  # new connections asked for within a second: requests that need one of their own ask


def weather(**how):
    """A fault of both directions."""
    return (lambda w: w.both(**how)), (lambda w: w.heal())


def one_way(direction):
    return (lambda w: getattr(w, direction).set(down=True)), (lambda w: w.heal())


def route(kind):
    words = [kind, "10.99.0.2/32"]
    return (lambda w: w.near_host.ip("route", "add", *words)), \
        (lambda w: w.near_host.ip("route", "del", *words))


def device(side):
    def host(w):
        return getattr(w, side)
    return (lambda w: host(w).ip("link", "set", "eth0", "down")), \
        (lambda w: host(w).ip("link", "set", "eth0", "up"))


def address_taken_away():
    """The server's address is gone, with no word to its peers; then it is there again."""
    return (lambda w: w.redis_host.ip("addr", "del", "10.99.0.2/24", "dev", "eth0")), \
        (lambda w: w.redis_host.ip("addr", "add", "10.99.0.2/24", "dev", "eth0"))


FAULTS = {
    # Nothing gets through: all are refused.
    "partition": (OUTAGE, weather(down=True)),
    "requests-lost": (OUTAGE, one_way("there")),
    "replies-lost": (OUTAGE, one_way("back")),
    "rejected-by-a-firewall": (OUTAGE, weather(reject=True)),
    "route-blackhole": (OUTAGE, route("blackhole")),
    "route-unreachable": (OUTAGE, route("unreachable")),
    "link-down-here": (OUTAGE, device("near_host")),
    "link-down-there": (OUTAGE, device("redis_host")),
    "address-taken-away": (OUTAGE, address_taken_away()),
    # It goes on, somehow.
    "loss-5%": (POOR, weather(loss=0.05)),
    "loss-30%": (POOR, weather(loss=0.3)),
    "delay-1ms": (POOR, weather(delay=0.001)),
    "delay-30ms": (POOR, weather(delay=0.03)),
    "delay-300ms": (POOR, weather(delay=0.3)),
    "jitter": (POOR, weather(delay=0.005, jitter=0.1)),
    "reordering": (POOR, weather(delay=0.01, reorder=0.25)),
    "duplicates": (POOR, weather(duplicate=0.5)),
    "corruption": (POOR, weather(corrupt=0.05)),
    "bandwidth": (POOR, weather(rate=60_000)),
    "mtu-black-hole": (POOR, weather(mtu=600)),
    "everything": (POOR, weather(delay=0.005, jitter=0.02, loss=0.03, duplicate=0.03, reorder=0.1,
                                 corrupt=0.01)),
}


def settle(w, begun):
    """Back to normal: all are served, nothing is left over, the herd was tame."""
    wait_until(lambda: w.traffic.all_ok(50), RECOVERY, "all clients to be served")
    syns = w.syns_per_second(begun)
    w.traffic.finish()
    wait_until(w.hits, 10, "hits")
    wait_until(lambda: w.info("upstream_pending") == "0" and w.info("sessions") == "0", 10,
               "nothing to be pending")
    w.await_no_leftovers()
    assert syns <= SYNS_MAX
    return f"{w.traffic.figures()}; {syns} SYN/s"


def each():
    """All faults; a sample of them is for quick runs."""
    quick = {"rejected-by-a-firewall", "loss-5%", "everything"}
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in FAULTS]


@pytest.mark.parametrize("name", each())
def test_fault(world, name, record_property):
    """Of an outage there is enough when each client has been refused twice and hits have ended; of poor
    conditions after three seconds in which each was told something twenty times."""
    kind, (apply, heal) = FAULTS[name]
    w = world()
    w.start_traffic()
    begun = time.monotonic()
    before = w.traffic.counts()
    told0 = [sum(n) for n in zip(before, w.traffic.answered())]
    apply(w)
    most = 0

    def long_enough():
        nonlocal most
        most = max(most, sum(w.near_host.sockets(w.redis_host).values()))
        if kind == OUTAGE:
            return w.traffic.all_refused(2, before) and not w.serves()
        w.traffic.check()
        told = [sum(n) for n in zip(w.traffic.counts(), w.traffic.answered())]
        return time.monotonic() - begun > 3 and all(n - n0 >= 20 for n, n0 in zip(told, told0))
    wait_until(long_enough, 90, "enough of it")
    heal(w)
    recovery = w.recovery()
    record_property("figures", f"{recovery}; {settle(w, begun)}")
    assert most <= SOCKETS_MAX
