"""CLIENT TRACKING by the client itself: its own near cache, on top of ours."""
import pytest

from conftest import Push, encode, wait_until


@pytest.fixture(scope="module")
def pair(module_redis_server, module_nearcache):
    """A bare Redis, and a nearcache in front of another one."""
    bare = module_redis_server()
    server = module_redis_server()
    near = module_nearcache(upstream=server)
    near.server = server
    return bare, near


@pytest.fixture
def wires(pair):
    """Connections to both, in RESP3; whatever else is opened ends with the test."""
    bare, near = pair
    bare.client().flushall()
    near.server.client().flushall()
    both = bare.wire(), near.wire()
    for wire in both:
        wire.call("HELLO", 3)
    yield both
    for process in (bare, near, near.server):
        while process.wires:
            process.wires.pop().close()
    wait_until(lambda: near.client().info("nearcache")["sessions"] == 0, what="all sessions given back")


def same(wires, *commands):
    for command in commands:
        expected, got = [wire.call_raw(*command) for wire in wires]
        assert got == expected, command
    return got


def both_receive(wires, *messages):
    for message in messages:
        for wire in wires:
            got = wire.reply()
            assert isinstance(got, Push) and got == message


def write(pair, *command):
    """Another client of each writes."""
    for process in pair:
        process.wire().call(*command)


def flags_of(wire):
    info = wire.call("CLIENT", "TRACKINGINFO")
    return info if isinstance(info, dict) else dict(zip(info[::2], info[1::2]))


def nothing_more(wires):
    """No message is on its way: they would come before the reply."""
    same(wires, ["ECHO", "end"])


# --- default mode ----------------------------------------------------------------------------------


def test_default_mode(pair, wires):
    same(wires, ["SET", "k", 1], ["CLIENT", "TRACKING", "ON"], ["CLIENT", "TRACKINGINFO"],
         ["CLIENT", "GETREDIR"], ["GET", "k"], ["MGET", "l", "m"])
    write(pair, "SET", "k", 2)
    both_receive(wires, [b"invalidate", [b"k"]])
    write(pair, "SET", "k", 3)  # it has not been read since
    write(pair, "MSET", "m", 1, "l", 1)
    both_receive(wires, [b"invalidate", [b"m"]], [b"invalidate", [b"l"]])
    nothing_more(wires)
    same(wires, ["GET", "k"])
    pair[1].server.client().set("demo:k", "direct")
    assert wires[1].reply() == [b"invalidate", [b"k"]]
    pair[0].client().set("k", "direct")
    assert wires[0].reply() == [b"invalidate", [b"k"]]
    same(wires, ["GET", "k"], ["CLIENT", "TRACKING", "OFF"], ["CLIENT", "TRACKINGINFO"])
    write(pair, "SET", "k", 4)
    nothing_more(wires)


def test_a_tracking_client_does_not_read_from_the_l1(pair, wires):
    """What it reads must be read where it is tracked, however often others have read it."""
    near = pair[1]
    other = near.wire()
    other.call("SET", "k", 1)
    wait_until(lambda: near.client().info("nearcache")["serving"] == 1)
    for _ in range(3):
        other.call("GET", "k")
    same(wires, ["CLIENT", "TRACKING", "ON"])
    assert wires[1].call("GET", "k") == b"1"
    assert wires[1].call("MGET", "k") == [b"1"]
    other.call("SET", "k", 2)
    assert wires[1].reply() == [b"invalidate", [b"k"]]


def test_own_writes_invalidate_unless_noloop(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON"], ["SET", "k", 1], ["GET", "k"])
    for wire in wires:
        wire.command("SET", "k", 2)
    for wire in wires:
        got = [wire.reply(), wire.reply()]
        assert [b"invalidate", [b"k"]] in got and "OK" in got
    same(wires, ["CLIENT", "TRACKING", "OFF"], ["CLIENT", "TRACKING", "ON", "NOLOOP"],
         ["CLIENT", "TRACKINGINFO"], ["GET", "k"], ["SET", "k", 3], ["GET", "k"])
    write(pair, "SET", "k", 4)
    both_receive(wires, [b"invalidate", [b"k"]])


def test_optin_and_optout(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON", "OPTIN"], ["CLIENT", "TRACKINGINFO"], ["GET", "a"],
         ["CLIENT", "CACHING", "YES"], ["CLIENT", "TRACKINGINFO"], ["GET", "b"], ["GET", "c"],
         ["CLIENT", "CACHING", "NO"])
    write(pair, "MSET", "a", 1, "b", 1, "c", 1)
    both_receive(wires, [b"invalidate", [b"b"]])
    nothing_more(wires)
    same(wires, ["CLIENT", "TRACKING", "OFF"], ["CLIENT", "TRACKING", "ON", "OPTOUT"], ["GET", "a"],
         ["CLIENT", "CACHING", "NO"], ["GET", "b"], ["CLIENT", "TRACKINGINFO"])
    write(pair, "MSET", "b", 2, "a", 2)
    both_receive(wires, [b"invalidate", [b"a"]])
    nothing_more(wires)


def test_caching_within_a_pipeline_and_a_transaction(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON", "OPTIN"])
    for wire in wires:
        wire.send(encode("CLIENT", "CACHING", "YES") + encode("MULTI") + encode("GET", "a") +
                  encode("GET", "b") + encode("EXEC") + encode("GET", "c"))
    for _ in range(6):
        assert wires[0].raw() == wires[1].raw()
    write(pair, "MSET", "c", 1, "a", 1, "b", 1)
    both_receive(wires, [b"invalidate", [b"a"]], [b"invalidate", [b"b"]])
    nothing_more(wires)


@pytest.mark.parametrize("commands", [
    [["CLIENT", "TRACKING", "ON", "OPTIN", "OPTOUT"]],
    [["CLIENT", "TRACKING", "ON", "PREFIX", "a"]],
    [["CLIENT", "TRACKING", "ON", "BCAST", "OPTIN"]],
    [["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a", "PREFIX", "ab"]],
    [["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a"], ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "ab"],
     ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "b"], ["CLIENT", "TRACKINGINFO"]],
    [["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a"], ["CLIENT", "TRACKING", "ON"]],
    [["CLIENT", "TRACKING", "ON", "OPTIN"], ["CLIENT", "TRACKING", "ON", "OPTOUT"]],
    [["CLIENT", "TRACKING", "ON", "REDIRECT", "99999"]],
    [["CLIENT", "TRACKING", "ON", "REDIRECT", "abc"]],
    [["CLIENT", "TRACKING", "ON", "REDIRECT"]],
    [["CLIENT", "TRACKING", "MAYBE"], ["CLIENT", "TRACKING", "ON", "NOSUCH"], ["CLIENT", "TRACKING"]],
    [["CLIENT", "CACHING", "YES"], ["CLIENT", "CACHING", "MAYBE"], ["CLIENT", "GETREDIR"],
     ["CLIENT", "TRACKINGINFO"], ["CLIENT", "TRACKING", "OFF"]],
    [["CLIENT", "TRACKING", "ON"], ["CLIENT", "TRACKING", "ON"], ["CLIENT", "TRACKINGINFO"]],
    [["CLIENT", "TRACKING", "ON", "BCAST"], ["CLIENT", "TRACKING", "OFF"],
     ["CLIENT", "TRACKING", "ON", "BCAST"], ["CLIENT", "TRACKING", "OFF"], ["CLIENT", "TRACKING", "ON"],
     ["CLIENT", "TRACKINGINFO"]],
], ids=lambda commands: " ".join(word for command in commands for word in command)[:70])
@pytest.mark.parametrize("resp", [2, 3])
def test_options_are_taken_and_refused_as_redis_does(wires, commands, resp):
    for wire in wires:
        wire.call("HELLO", resp)
    same(wires, *commands)


# --- BCAST -----------------------------------------------------------------------------------------


def test_bcast_with_prefixes(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "user:", "PREFIX", "item:"])
    infos = [flags_of(wire) for wire in wires]
    for info in infos:
        info[b"prefixes"] = sorted(info[b"prefixes"])
    assert infos[0] == infos[1] and infos[1][b"prefixes"] == [b"item:", b"user:"]
    write(pair, "SET", "user:1", 1)
    both_receive(wires, [b"invalidate", [b"user:1"]])
    write(pair, "SET", "other:1", 1)
    write(pair, "SET", "item:7", 1)
    both_receive(wires, [b"invalidate", [b"item:7"]])
    pair[1].server.client().set("user:2", 1)  # another service's
    nothing_more(wires)


def test_bcast_of_all_our_keys(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON", "BCAST"])
    assert flags_of(wires[1])[b"flags"] == flags_of(wires[0])[b"flags"]
    direct = pair[1].server.client()
    direct.set("other:1", 1), direct.set("demo", 1)
    write(pair, "SET", "k", 1)
    both_receive(wires, [b"invalidate", [b"k"]])
    write(pair, "SET", "demo:k", 1)
    both_receive(wires, [b"invalidate", [b"demo:k"]])
    same(wires, ["CLIENT", "TRACKING", "ON", "BCAST"])
    nothing_more(wires)


def test_flushes_are_told(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON"], ["SET", "k", 1], ["GET", "k"])
    pair[0].client().flushall()
    pair[1].server.client().flushall()
    both_receive(wires, [b"invalidate", None])
    same(wires, ["SET", "l", 1], ["GET", "l"])
    pair[1].wire().call("FLUSHDB")  # only ours: key by key
    assert wires[1].reply() == [b"invalidate", [b"l"]]


def test_invalidations_of_a_transaction(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON"], ["GET", "a"], ["GET", "b"])
    for process in pair:
        wire = process.wire()
        wire.send(encode("MULTI") + encode("SET", "a", 1) + encode("SET", "b", 1) + encode("EXEC"))
        for _ in range(4):
            wire.reply()
    both_receive(wires, [b"invalidate", [b"a"]], [b"invalidate", [b"b"]])


# --- REDIRECT --------------------------------------------------------------------------------------


def test_redirect(pair, wires):
    """As RESP2 clients do it: one connection subscribes, the other ones redirect to it."""
    subs = [process.wire() for process in pair]
    ids = [sub.call("CLIENT", "ID") for sub in subs]
    for sub in subs:
        assert sub.call("SUBSCRIBE", "__redis__:invalidate") == [b"subscribe", b"__redis__:invalidate", 1]
    readers = [process.wire() for process in pair]
    for reader, ident in zip(readers, ids):
        assert reader.call("CLIENT", "TRACKING", "ON", "REDIRECT", ident) == "OK"
        assert reader.call("CLIENT", "GETREDIR") == ident
        assert flags_of(reader)[b"redirect"] == ident
        reader.call("GET", "k")
    write(pair, "SET", "k", 1)
    for sub in subs:
        assert sub.reply() == [b"message", b"__redis__:invalidate", [b"k"]]
    for reader in readers:
        reader.call("GET", "k")
    pair[0].client().flushall()
    pair[1].server.client().flushall()
    for sub in subs:
        assert sub.reply() == [b"message", b"__redis__:invalidate", None]


def test_redirect_to_a_resp3_client_that_has_no_session_yet(pair, wires):
    target = pair[1].wire()
    target.call("HELLO", 3)
    reader = pair[1].wire()
    assert reader.call("CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", target.call("CLIENT", "ID")) == "OK"
    write(pair, "SET", "k", 1)
    assert target.reply() == [b"invalidate", [b"k"]]
    assert target.call("GET", "k") == b"1"


def test_redirect_to_oneself(pair):
    wire = pair[1].wire()
    ident = wire.call("CLIENT", "ID")
    assert wire.call("CLIENT", "TRACKING", "ON", "REDIRECT", ident) == "OK"
    wire.call("GET", "k")
    assert wire.call("SUBSCRIBE", "__redis__:invalidate")[2] == 1
    write([pair[1]], "SET", "k", 1)
    assert wire.reply() == [b"message", b"__redis__:invalidate", [b"k"]]
    wire.close()


def test_redirect_broken(pair, wires):
    targets = [process.wire() for process in pair]
    ids = [target.call("CLIENT", "ID") for target in targets]
    for target in targets:
        target.call("SUBSCRIBE", "__redis__:invalidate")
    for wire, ident in zip(wires, ids):
        assert wire.call("CLIENT", "TRACKING", "ON", "REDIRECT", ident) == "OK"
        wire.call("GET", "k")
    for target in targets:
        target.close()
    wait_until(lambda: pair[1].wire().call("PUBSUB", "NUMSUB", "__redis__:invalidate")[1] == 1)  # our own link
    write(pair, "SET", "k", 1)
    for wire, ident in zip(wires, ids):
        assert wire.reply() == [b"tracking-redir-broken", ident]
        assert b"broken_redirect" in flags_of(wire)[b"flags"]
        assert wire.call("CLIENT", "GETREDIR") == ident


# --- with the rest ---------------------------------------------------------------------------------


def test_a_dead_tracker_frees_its_session(pair, wires):
    near = pair[1]
    for _ in range(5):
        wire = near.wire()
        wire.call("HELLO", 3)
        assert wire.call("CLIENT", "TRACKING", "ON", "BCAST") == "OK"
        wire.close()
    wait_until(lambda: near.client().info("nearcache")["sessions"] == 0)
    wait_until(lambda: near.server.client().info("clients")["tracking_clients"] == 1)  # our own link


def test_tracking_and_subscriptions_together(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON"], ["SUBSCRIBE", "c"], ["GET", "k"])
    write(pair, "SET", "k", 1)
    both_receive(wires, [b"invalidate", [b"k"]])
    write(pair, "PUBLISH", "c", "m")
    both_receive(wires, [b"message", b"c", b"m"])
    same(wires, ["CLIENT", "TRACKING", "OFF"], ["UNSUBSCRIBE"], ["GET", "k"])


@pytest.mark.parametrize("options", [[], ["BCAST"], ["BCAST", "PREFIX", "k"], ["NOLOOP"]], ids=" ".join)
def test_begun_within_a_transaction(pair, wires, options):
    same(wires, ["MULTI"], ["CLIENT", "TRACKING", "ON", *options], ["GET", "k"], ["CLIENT", "TRACKINGINFO"],
         ["EXEC"])
    write(pair, "SET", "k", 1)
    both_receive(wires, [b"invalidate", [b"k"]])
    same(wires, ["MULTI"], ["CLIENT", "TRACKING", "OFF"], ["EXEC"], ["GET", "k"], ["CLIENT", "TRACKINGINFO"])
    write(pair, "SET", "k", 2)
    nothing_more(wires)


def test_discarded_tracking_never_was(pair, wires):
    same(wires, ["MULTI"], ["CLIENT", "TRACKING", "ON"], ["DISCARD"], ["CLIENT", "TRACKINGINFO"], ["GET", "k"],
         ["MULTI"], ["CLIENT", "TRACKING", "ON", "OPTIN", "OPTOUT"], ["EXEC"], ["CLIENT", "TRACKINGINFO"])


def test_in_another_database(pair, wires):
    same(wires, ["SELECT", 3], ["CLIENT", "TRACKING", "ON"], ["GET", "k"])
    for process in pair:
        wire = process.wire()
        wire.call("SELECT", 3)
        wire.call("SET", "k", 1)
    both_receive(wires, [b"invalidate", [b"k"]])


def test_client_list_tells(pair, wires):
    same(wires, ["CLIENT", "TRACKING", "ON", "BCAST"])
    lines = [wire.call("CLIENT", "INFO").decode() for wire in wires]
    flags = [[word for word in line.split() if word.startswith("flags=")] for line in lines]
    assert flags == [["flags=tB"]] * 2
