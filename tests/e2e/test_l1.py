"""The near cache: what is answered from it, and when it must not be."""
import json
import threading

import pytest

from conftest import wait_until


def stats(client):
    return client.info("nearcache")


def await_link(client, mode=None):
    wait_until(lambda: stats(client)["serving"] == 1 and
               (mode is None or stats(client)["link_mode"] == mode), what="a live link")
    return client


def cached(client, key):
    reply = client.execute_command("NEARCACHE", "KEY", key)
    return dict(zip(reply[::2], reply[1::2]))[b"cached"] == b"yes"


@pytest.fixture(params=["tracking", "events"])
def setup(request, redis_server, nearcache):
    server = redis_server()
    tracking = "auto" if request.param == "tracking" else "off"
    near = nearcache("--set", f"invalidation.tracking={tracking}", upstream=server)
    near.server = server
    return server.client(), await_link(near.client(), request.param), near


def test_the_second_get_is_a_hit(setup):
    direct, near, _ = setup
    direct.set("demo:k", "v")
    before = stats(near)
    assert near.get("k") == b"v"
    assert near.get("k") == b"v"
    after = stats(near)
    assert (after["hits"] - before["hits"], after["misses"] - before["misses"]) == (1, 1)
    assert cached(near, "k") and not cached(near, "other")


def test_a_write_through_the_proxy_is_seen_at_once(setup):
    _, near, _ = setup
    for i in range(50):
        near.set("k", i)
        assert near.get("k") == b"%d" % i
        assert near.get("k") == b"%d" % i
    near.rename("k", "k2")
    assert near.get("k") is None and near.get("k2") == b"49"
    near.eval("redis.call('set', KEYS[1], 'lua')", 1, "k2")
    assert near.get("k2") == b"lua"
    assert near.get("k2") == b"lua"
    near.mset({"k2": 1, "k3": 2})
    assert near.mget("k2", "k3") == [b"1", b"2"]
    near.getdel("k2")
    assert near.get("k2") is None


def test_a_pipeline_reads_its_own_writes(setup):
    _, near, process = setup
    near.set("k", 0)
    near.get("k")
    wire = process.wire()
    for i in range(1, 200):
        wire.command("SET", "k", i)
        wire.command("GET", "k")
        wire.command("MGET", "k", "k")
    for i in range(1, 200):
        assert wire.reply() == "OK"
        assert wire.reply() == b"%d" % i
        assert wire.reply() == [b"%d" % i] * 2


def test_mget_asks_for_the_missing_keys_only(setup):
    direct, near, _ = setup
    direct.mset({f"demo:{k}": k for k in "abcdef"})
    for key in "bd":  # the message of the write above may come behind the first read
        wait_until(lambda key=key: near.get(key) and cached(near, key))
    before = direct.info("commandstats")
    assert near.mget("a", "b", "c", "d", "none", "a") == [b"a", b"b", b"c", b"d", None, b"a"]
    assert near.mget("a", "b", "c", "d") == [b"a", b"b", b"c", b"d"]
    after = direct.info("commandstats")
    assert after["cmdstat_mget"]["calls"] == before.get("cmdstat_mget", {"calls": 0})["calls"] + 1
    assert stats(near)["hits"] >= 2 + 4


def test_mget_of_another_type_is_nil_and_get_still_an_error(setup):
    _, near, process = setup
    near.rpush("list", 1)
    near.set("s", "x")
    wire = process.wire()
    for _ in range(2):
        assert wire.call("MGET", "list", "s") == [None, b"x"]
        assert "WRONGTYPE" in str(wire.call("GET", "list"))


def test_an_event_evicts(setup):
    direct, near, _ = setup
    for channel, payload in [
            ("cache:invalidate", json.dumps({"service": "demo", "key": "k", "timestamp": 1})),
            ("cache:invalidate:l1", "k"), ("cache:invalidate:l1", "demo:k")]:
        near.set("k", 1)
        near.get("k")
        assert cached(near, "k")
        direct.publish(channel, payload)
        wait_until(lambda: not cached(near, "k"))


@pytest.mark.one_worker
def test_other_services_events_and_malformed_ones_are_ignored(setup):
    direct, near, process = setup
    near.set("k", 1)
    near.get("k")
    for payload in ['{"service":"other","key":"k"}', "{", "[]", "", "null", '{"key":"k"}',
                    '{"service":"demo","key":7}', '{"service":"demo","key":"k"} x', "\x00\xff"]:
        direct.publish("cache:invalidate", payload)
    direct.publish("__redis__:invalidate", "demo:k")
    direct.publish("cache:invalidate:l1", "last")
    wait_until(lambda: stats(near)["invalidations"] > 0)
    assert cached(near, "k") and near.get("k") == b"1"
    assert stats(near)["events_malformed"] >= 8 and stats(near)["events_foreign"] == 1
    assert process.output("stderr").count("event_malformed") == 1


def test_a_published_event_evicts_before_it_is_acknowledged(setup):
    direct, near, _ = setup
    near.set("k", 1)
    for i in range(20):
        near.get("k")
        near.publish("cache:invalidate", json.dumps({"service": "demo", "key": "k"}))
        assert not cached(near, "k")


@pytest.mark.one_worker
def test_single_flight(setup):
    direct, near, process = setup
    direct.set("demo:hot", "x" * 100)
    before = direct.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
    wires = [process.wire() for _ in range(20)]
    process.server.pause()
    for wire in wires:
        wire.command("GET", "hot")
    near_wire = process.wire()
    wait_until(lambda: near_wire.call("NEARCACHE", "STATS") and
               int(dict(zip(*[iter(near_wire.call("NEARCACHE", "STATS"))] * 2))[b"misses"]) >= 20)
    process.server.resume()
    assert [wire.reply() for wire in wires] == [b"x" * 100] * 20
    assert direct.info("commandstats")["cmdstat_get"]["calls"] == before + 1
    assert stats(near)["coalesced"] == 19


def test_an_expired_key_is_never_served(setup):
    _, near, _ = setup
    for i in range(5):
        near.set("k", "v", px=60)
        assert near.get("k") == b"v"
        wait_until(lambda: near.pttl("k") == -2)
        assert near.get("k") is None


def test_l1_ttl_bounds_an_entry(redis_server, nearcache):
    server = redis_server()
    near = await_link(nearcache("--set", "l1.ttl=100ms", "--set", "invalidation.tracking=off",
                                upstream=server).client())
    direct = server.client()
    direct.set("demo:k", "old")
    assert near.get("k") == b"old"
    direct.set("demo:k", "new")
    wait_until(lambda: near.get("k") == b"new", timeout=5)


def test_a_foreign_write_is_seen_with_tracking(redis_server, nearcache):
    server = redis_server()
    near, direct = await_link(nearcache(upstream=server).client(), "tracking"), server.client()
    for i in range(20):
        direct.set("demo:k", i)
        wait_until(lambda: near.get("k") == b"%d" % i)
        assert near.get("k") == b"%d" % i
    near.get("k")
    direct.flushall()
    wait_until(lambda: near.get("k") is None)


def test_a_lost_link_empties_the_l1_and_comes_back(setup):
    direct, near, _ = setup
    near.set("k", 1)
    near.get("k")
    epochs = stats(near)["epochs"]
    for client in direct.client_list():
        if client["name"].endswith(":link"):
            direct.client_kill_filter(_id=client["id"])
    direct.set("demo:k", 2)
    wait_until(lambda: stats(near)["epochs"] > epochs)
    await_link(near)
    assert near.get("k") == b"2"


def test_no_hit_without_the_lease(setup, redis_server):
    direct, near, process = setup
    near.set("k", 1)
    near.get("k")
    process.server.pause()
    wire = process.wire()
    wait_until(lambda: dict(zip(*[iter(wire.call("NEARCACHE", "STATS"))] * 2))[b"serving"] == b"0")
    assert b"lease" in wire.call("NEARCACHE", "KEY", "k")[5]
    process.server.resume()


def test_nearcache_commands(setup):
    _, near, process = setup
    near.mset({"a:1": 1, "a:2": 2, "b:1": 3})
    near.get("a:1"), near.get("a:2"), near.get("b:1")
    wire = process.wire()
    reply = wire.call("NEARCACHE", "KEY", "a:1")
    said = dict(zip(reply[::2], reply[1::2]))
    assert said[b"key"] == b"demo:a:1" and said[b"cached"] == b"yes"
    assert 0 < said[b"time_left_ms"] <= 60000 and said[b"reply_bytes"] == len(b"$1\r\n1\r\n")
    assert wire.call("NEARCACHE", "FLUSH", "a:") == 2
    assert not cached(near, "a:1") and cached(near, "b:1")
    wire.call("NEARCACHE", "FLUSH")
    assert not cached(near, "b:1") and near.get("b:1") == b"3"
    assert "FLUSH" in " ".join(wire.call("NEARCACHE", "HELP"))


def test_databases_do_not_mix(setup):
    direct, near, process = setup
    a, b = process.wire(), process.wire()
    assert b.call("SELECT", 5) == "OK"
    for _ in range(2):
        a.call("SET", "k", "zero"), b.call("SET", "k", "five")
        for _ in range(2):
            assert a.call("GET", "k") == b"zero" and b.call("GET", "k") == b"five"


def test_without_an_l1_everything_still_works(redis_server, nearcache):
    near = nearcache("--set", "l1.max_memory=0", upstream=redis_server()).client()
    near.set("k", 1)
    assert near.get("k") == b"1" and near.get("k") == b"1" and near.mget("k", "x") == [b"1", None]
    assert (stats(near)["hits"], stats(near)["misses"]) == (0, 0)  # it is not asked


@pytest.mark.parametrize("memory, prefixes", [("0", 0), ("1mb", 1)])
def test_the_server_tells_of_changes_only_where_there_is_an_l1(redis_server, nearcache, memory, prefixes):
    """It tells of each write, whoever makes it, and each is work for both sides."""
    server = redis_server()
    near = nearcache("--set", f"l1.max_memory={memory}", upstream=server).client()
    wait_until(lambda: stats(near)["link_mode"] == "tracking", what="a live link")
    assert server.client().info("stats")["tracking_total_prefixes"] == prefixes
    monitor = near.pubsub()
    monitor.subscribe("cache:invalidate")
    assert monitor.get_message(timeout=10)["type"] == "subscribe"
    near.set("k", 1)
    near.publish("cache:invalidate", "{}")
    assert monitor.get_message(timeout=10)["data"] == b"{}"  # the write has not been announced


def test_no_read_goes_back_in_time_under_load(setup):
    """A counter written through one connection while others read it: nobody sees it decrease."""
    direct, near, process = setup
    stop, bad = threading.Event(), []

    def read():
        wire, last = process.wire(), -1
        while not stop.is_set():
            value = int(wire.call("GET", "n") or 0)
            if value < last:
                bad.append((last, value))
            last = value

    near.set("n", 0)
    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    wire = process.wire()
    for i in range(1, 3000):
        wire.call("INCR", "n")
        assert wire.call("GET", "n") == b"%d" % i
    stop.set()
    for reader in readers:
        reader.join()
    assert not bad
