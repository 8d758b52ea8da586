"""Who a client is: AUTH, HELLO, ACL WHOAMI, RESET; texts compared with a bare Redis."""
import signal

import pytest

from conftest import RespError, encode, wait_until
from harness import server_version

WRONGPASS = RespError("WRONGPASS invalid username-password pair or user is disabled.")


@pytest.fixture(scope="module")
def sides(module_redis_server, module_nearcache):
    """A bare Redis and a nearcache in front of another, neither with a password."""
    return module_redis_server(), module_nearcache(upstream=module_redis_server())


@pytest.mark.parametrize("command", [
    ["AUTH", "x"], ["AUTH", "a", "b"], ["AUTH", "default", "x"], ["AUTH", "a", "b", "c"],
    ["AUTH"], ["AUTH", "default\0", "x"],
    ["HELLO", "x"], ["HELLO", "1"], ["HELLO", "4"], ["HELLO", "03"], ["HELLO", "-3"],
    ["HELLO", "2", "x"], ["HELLO", "2", "AUTH"], ["HELLO", "2", "AUTH", "x"],
    ["HELLO", "2", "AUTH", "a", "b"], ["HELLO", "2", "SETNAME"], ["HELLO", "2", "SETNAME", "a b"],
    ["HELLO", "3", "bad\r\noption"], ["HELLO", "3", "x" * 300],
    ["ACL", "WHOAMI"], ["ACL", "WHOAMI", "x"], ["RESET"], ["RESET", "x"],
    ["QUIT"], ["QUIT", "x", "y"],
])
@pytest.mark.parametrize("resp", [2, 3])
def test_same_words_as_redis(sides, command, resp):
    replies = []
    for side in sides:
        with side.wire() as wire:
            wire.call("HELLO", resp)
            replies.append(wire.call_raw(*command))
    assert replies[0] == replies[1]


def hello(wire, *args):
    reply = wire.call("HELLO", *args)
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2]))


@pytest.mark.parametrize("resp", [2, 3])
def test_hello_answers_as_redis(sides, resp):
    bare, near = (hello(side.wire(), resp) for side in sides)
    assert bare.pop(b"id") and near.pop(b"id")
    assert list(bare.items()) == list(near.items())


def test_hello_without_a_version_keeps_it(sides):
    for side in sides:
        wire = side.wire()
        assert hello(wire)[b"proto"] == 2
        assert hello(wire, 3)[b"proto"] == 3
        assert hello(wire)[b"proto"] == 3
        assert wire.call_raw("GET", "no such key") == b"_\r\n"
        assert hello(wire, 2)[b"proto"] == 2
        assert wire.call_raw("GET", "no such key") == b"$-1\r\n"


def test_options_of_hello_count_one_by_one(sides):
    """A name given before the option that is refused stays, in Redis up to 7.0."""
    for side in sides if server_version() < (7, 2) else sides[1:]:
        wire = side.wire()
        assert isinstance(wire.call("HELLO", 3, "SETNAME", "me", "AUTH", "a", "b"), RespError)
        assert wire.call("CLIENT", "GETNAME") == b"me"
        assert wire.call_raw("GET", "no such key") == b"$-1\r\n"
        assert wire.call_raw("HELLO", 3, "SETNAME", "").startswith(b"%7")
        assert wire.call_raw("CLIENT", "GETNAME") == b"_\r\n"


def test_a_password_for_clients(redis_server, nearcache):
    near = nearcache("--set", "auth.password=letmein", upstream=redis_server())
    bare = redis_server("--requirepass", "letmein")
    for command in (["GET", "k"], ["HELLO", 3], ["HELLO", 2, "SETNAME", "x"], ["CLIENT", "ID"],
                    ["NOSUCH"], ["GET"], ["ACL", "WHOAMI"], ["AUTH", "no"], ["AUTH", "a", "letmein"],
                    ["AUTH", "default", "no"], ["AUTH", "letmein2"], ["AUTH", ""],
                    ["HELLO", 3, "AUTH", "default", "no"]):
        replies = [side.wire().call_raw(*command) for side in (bare, near)]
        if server_version() >= (7, 2):  # which has other words for HELLO's NOAUTH
            replies = [reply.split(b" ")[0] for reply in replies]
        assert replies[0] == replies[1], command
    wire = near.wire()
    assert wire.call("AUTH", "default", "letmein") == "OK"
    assert wire.call("ACL", "WHOAMI") == b"default"
    assert wire.call("AUTH", "wrong") == WRONGPASS
    assert wire.call("GET", "k") is None  # a failed AUTH takes nothing away
    assert wire.call("RESET") == "RESET"
    assert wire.call("GET", "k") == RespError("NOAUTH Authentication required.")
    assert hello(wire, 3, "AUTH", "default", "letmein")[b"proto"] == 3


@pytest.mark.parametrize("auth", [["AUTH", "letmein"], ["HELLO", 2, "AUTH", "default", "letmein"]],
                         ids=lambda a: a[0])
@pytest.mark.parametrize("command", [["MSET", *"a 1 b 2 c 3 d 4 e 5 f 6".split()],
                                     ["SET", "k", "x" * 20000]], ids=lambda c: c[0])
def test_limits_end_with_the_auth_of_the_same_pipeline(redis_server, nearcache, auth, command):
    """Who has not authenticated may send 10 arguments of 16 KB; what was sent with AUTH may be more."""
    near = nearcache("--auth.password=letmein", upstream=redis_server())
    wire = near.wire()
    wire.send(encode(*auth) + encode(*command) * 3)
    assert not isinstance(wire.reply(), RespError)
    assert [wire.reply() for _ in range(3)] == ["OK"] * 3
    assert "Protocol error: unauthenticated" in str(near.wire().call(*command))


def test_exec_before_auth(redis_server, nearcache):
    near = nearcache("--auth.password=letmein", upstream=redis_server())
    bare = redis_server("--requirepass", "letmein")
    assert near.wire().call("EXEC") == bare.wire().call("EXEC")


def test_a_user_for_clients(redis_server, nearcache):
    near = nearcache("--set", "auth.user=me", "--set", "auth.password=letmein",
                     upstream=redis_server())
    wire = near.wire()
    assert wire.call("AUTH", "letmein") == WRONGPASS  # that is the user 'default', as with Redis
    assert wire.call("AUTH", "default", "letmein") == WRONGPASS
    assert wire.call("AUTH", "me", "letmein") == "OK"
    assert wire.call("ACL", "WHOAMI") == b"me"
    assert b" user=me " in wire.call("CLIENT", "INFO")
    assert wire.call("CLIENT", "KILL", "USER", "default") == 0
    assert wire.call("CLIENT", "KILL", "USER", "other") == RespError("ERR No such user 'other'")


def reload(near, text):
    """SIGHUP, until the log says so once more."""
    before = near.output("stderr").count(text)
    near.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: near.output("stderr").count(text) > before, what=f"{text} in the log")


def test_a_password_of_a_file_that_is_replaced(redis_server, nearcache, tmp_path):
    """Clients that have given the old one stay; new ones must give the new one."""
    path = tmp_path / "password"
    path.write_text("letmein\nnot this\n")
    near = nearcache(f"--auth.password_file={path}", upstream=redis_server())
    old, late = near.wire(), near.wire()
    assert old.call("GET", "k") == RespError("NOAUTH Authentication required.")
    assert old.call("AUTH", "letmein\nnot this") == WRONGPASS
    assert old.call("AUTH", "letmein") == "OK"
    path.write_text("another\n")
    assert near.wire().call("AUTH", "letmein") == "OK"
    reload(near, "event=client_password_changed")
    assert old.call("GET", "k") is None
    assert late.call("GET", "k") == RespError("NOAUTH Authentication required.")
    assert late.call("AUTH", "letmein") == WRONGPASS
    assert late.call("AUTH", "another") == "OK" and late.call("GET", "k") is None
    assert old.call("AUTH", "letmein") == WRONGPASS
    assert old.call("RESET") == "RESET"
    assert old.call("GET", "k") == RespError("NOAUTH Authentication required.")
    path.write_text("\n")
    reload(near, "event=reload_refused")
    assert near.wire().call("AUTH", "another") == "OK"


def test_user_and_password_change_while_running(redis_server, nearcache, tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    near = nearcache(f"--config={path}", upstream=redis_server())
    first = near.wire()
    assert first.call("GET", "k") is None
    path.write_text('{"auth": {"user": "me", "password": "letmein"}}')
    reload(near, "setting=auth.password")
    second = near.wire()
    assert first.call("GET", "k") is None and first.call("ACL", "WHOAMI") == b"me"
    assert second.call("GET", "k") == RespError("NOAUTH Authentication required.")
    assert second.call("AUTH", "letmein") == WRONGPASS
    assert second.call("AUTH", "me", "letmein") == "OK"
    third = near.wire()
    path.write_text("{}")
    reload(near, "setting=auth.password")
    assert third.call("GET", "k") is None and near.wire().call("GET", "k") is None


def test_the_upstreams_credentials(redis_server, nearcache):
    """Clients need none; who brings some must bring the right ones."""
    server = redis_server("--requirepass", "s3cret")
    near = nearcache(upstream=f"redis://:s3cret@127.0.0.1:{server.port}/0")
    wire = near.wire()
    assert wire.call("SET", "k", "v") == "OK"
    assert wire.call("AUTH", "s3cret") == "OK"
    assert wire.call("AUTH", "default", "s3cret") == "OK"
    assert wire.call("AUTH", "wrong") == WRONGPASS
    assert hello(wire, 3, "AUTH", "default", "s3cret")[b"proto"] == 3


def test_the_upstreams_user(redis_server, nearcache):
    server = redis_server("--user", "app", "on", ">s3cret", "~*", "&*", "+@all")
    near = nearcache(upstream=f"redis://app:s3cret@127.0.0.1:{server.port}/0")
    wire = near.wire()
    assert wire.call("ACL", "WHOAMI") == b"app" and wire.call("SET", "k", "v") == "OK"
    assert wire.call("AUTH", "s3cret") == WRONGPASS
    assert wire.call("AUTH", "app", "s3cret") == "OK"


def test_reset_makes_a_new_client(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    wire = near.wire()
    hello(wire, 3, "SETNAME", "me")
    assert wire.call("SELECT", 3) == "OK" and wire.call("SET", "k", "three") == "OK"
    assert wire.call("MULTI") == "OK" and wire.call("SET", "k", "not done") == "QUEUED"
    assert wire.call("RESET") == "RESET"
    assert wire.call_raw("CLIENT", "GETNAME") == b"$-1\r\n"
    assert wire.call("GET", "k") is None
    assert wire.call("SELECT", 3) == "OK" and wire.call("GET", "k") == b"three"


def test_reset_ends_the_silence(sides):
    for side in sides:
        wire = side.wire()
        wire.command("CLIENT", "REPLY", "OFF")
        wire.command("PING")
        assert wire.call("RESET") == "RESET"
        assert wire.call("PING") == "PONG"


def test_reset_goes_back_to_the_database_of_the_url(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=f"redis://127.0.0.1:{server.port}/2")
    wire = near.wire()
    assert wire.call("SET", "k", "two") == "OK" and wire.call("SELECT", 0) == "OK"
    assert wire.call("GET", "k") is None
    assert wire.call("RESET") == "RESET" and wire.call("GET", "k") == b"two"
