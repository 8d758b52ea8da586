"""The upstream is a host name: its address changes; the name server is silent, or answers odd things."""
import time

import pytest

from conftest import RECOVERY, refused, wait_until
from hosts import AAAA, DNS_ADDRESS

NAME = "redis.test"


def test_another_address_after_a_failure(world, record_property):
    """The host vanishes; its name then leads to another one. Nothing of the old is served for longer
    than the lease."""
    w = world(name=NAME)
    w.direct.set("demo:k", "old")
    assert w.cache("GET", "k") == b"old"
    other_host = w.net.host("10.99.0.3")
    other = w.redis("other", other_host, "--port", str(w.server.port))
    other.client().set("demo:k", "new")
    w.both(down=True)
    gone = time.monotonic()
    w.net.dns.names[NAME] = [other_host.address]
    record_property("figures", w.recovery())
    w.await_new("k", b"new", b"old", gone)
    assert w.near_host.sockets(other_host)["ESTAB"] == 2
    wait_until(lambda: not w.near_host.sockets(w.redis_host), 60, "no socket to the old address")


def test_another_address_in_the_hosts_file(world, record_property):
    """Nobody asks a name server; the file is read again when it has changed."""
    w = world(name="localhost.test", hosts_file=True)
    other_host = w.net.host("10.99.0.3")
    other = w.redis("other", other_host, "--port", str(w.server.port))
    other.client().set("demo:k", "new")
    assert w.near.wire().call("GET", "k") is None
    w.both(down=True)
    w.net.set_hosts({"localhost.test": other_host.address})
    record_property("figures", w.recovery())
    w.await_new("k", b"new", None, time.monotonic())
    assert w.net.dns.queries == 0


def test_the_new_address_is_asked_for_only_when_needed(world):
    """As long as the old address serves, nobody changes over, and the name server is left alone."""
    w = world(name=NAME)
    assert w.answers()
    asked = w.net.dns.queries
    w.net.dns.names[NAME] = ["10.99.0.77"]
    for i in range(100):
        assert w.near.wire().call("SET", "k", i) == "OK"
    assert w.net.dns.queries == asked


def break_connections(w, wire):
    """Ends those that are open; returns when a request has been refused."""
    wire.call("SET", "k", 0)  # none is about to be opened
    w.there.forget("reset")
    wait_until(lambda: refused(wire.call("SET", "k", 1)), RECOVERY, "a refusal")


def down_until(w, repair):
    """The shared connection breaks; in vain a new one is tried, until the name server is repaired."""
    wire = w.near.wire(timeout=60)
    begun = time.monotonic()
    break_connections(w, wire)
    waited = time.monotonic() - begun
    for _ in range(3):
        reply = wire.call("SET", "k", 1)
        assert reply == "OK" or refused(reply)
    failures = int(w.info("upstream_failures"))
    wait_until(lambda: int(w.info("upstream_failures")) >= failures + 3, 60, "three attempts in vain")
    repair()
    return f"{w.recovery()}; refused after {waited:.2f} s"


def test_a_silent_name_server(world, record_property):
    w = world(name=NAME)
    path = w.net.router.path(w.near_host.address, DNS_ADDRESS)
    path.set(down=True)
    record_property("figures", down_until(w, path.heal))


@pytest.mark.slow
def test_a_name_server_that_is_away_for_long(world, record_property):
    """Longer than it takes the resolver to think that it is gone for good."""
    w = world(name=NAME)
    path = w.net.router.path(w.near_host.address, DNS_ADDRESS)
    assert w.answers()
    path.set(down=True)
    break_connections(w, w.near.wire(timeout=60))
    failures = int(w.info("upstream_failures"))
    wait_until(lambda: int(w.info("upstream_failures")) >= failures + 12, 90, "many attempts in vain")
    path.heal()
    record_property("figures", w.recovery())


def test_a_name_that_does_not_exist_for_a_while(world, record_property):
    w = world(name=NAME)
    del w.net.dns.names[NAME]

    def repair():
        w.net.dns.names[NAME] = [w.redis_host.address]
    record_property("figures", down_until(w, repair))


def test_a_name_without_addresses_for_a_while(world, record_property):
    w = world(name=NAME)
    w.net.dns.names[NAME] = []

    def repair():
        w.net.dns.names[NAME] = [w.redis_host.address]
    record_property("figures", down_until(w, repair))


def test_a_name_server_that_fails(world, record_property):
    w = world(name=NAME)
    w.net.dns.refuse = True

    def repair():
        w.net.dns.refuse = False
    record_property("figures", down_until(w, repair))


def test_a_name_server_that_never_answers_for_ipv6(world, record_property):
    """As some home and cluster name servers do: the address of the other family is enough."""
    w = world(name=NAME)
    w.net.dns.mute = {AAAA}
    break_connections(w, w.near.wire(timeout=60))
    record_property("figures", w.recovery())


def test_the_first_of_two_addresses_is_dead(world, record_property):
    """The name server has not noticed; it always gives the dead one first."""
    w = world(name=NAME)
    w.net.dns.names[NAME] = ["10.99.0.77", w.redis_host.address]
    break_connections(w, w.near.wire(timeout=60))
    record_property("figures", w.recovery())
