"""No password is ever shown: not in logs, replies or errors, whatever is asked and whatever is wrong.

Every password here has WORD in it. What a client sends itself may be quoted back to it, as by Redis.
"""
import json
import signal
import subprocess

import pytest

import harness
from certificates import Authority
from conftest import RespError, wait_until

WORD = "hunter"
UPSTREAM, CLIENTS, THEIRS = f"{WORD}-upstream", f"{WORD}-clients", f"{WORD}-theirs"


@pytest.fixture
def secrets(redis_server, nearcache, tmp_path):
    """A nearcache that says all it can, with passwords everywhere."""
    authority = Authority(tmp_path)
    pair = authority.issue("pair", password=f"{WORD}-key")
    (tmp_path / "key-password").write_text(f"{WORD}-key\n")
    server = redis_server("--requirepass", UPSTREAM, "--masterauth", UPSTREAM,
                          "--slowlog-log-slower-than", "0", "--slowlog-max-len", "1000",
                          "--user", "app", "on", f">{UPSTREAM}", "~*", "&*", "+@all")
    near = nearcache(
        "--log.level=debug", f"--auth.password={CLIENTS}", f"--tls.cert_file={pair.cert}",
        f"--tls.key_file={pair.key}", f"--tls.key_password_file={tmp_path / 'key-password'}",
        upstream=f"redis://app:{UPSTREAM}@127.0.0.1:{server.port}/0",
        listen=("127.0.0.1:0", "tls:127.0.0.1:0"))
    near.server = server
    return near


def authenticated(near, resp=2):
    wire = near.wire()
    wire.call("HELLO", resp, "AUTH", "default", CLIENTS)
    return wire


# What a client with a password does with it, right and wrong.
ATTEMPTS = [
    ["AUTH", THEIRS], ["AUTH", "default", THEIRS], ["AUTH", "x", THEIRS, "y"], ["AUTH", CLIENTS],
    ["HELLO", 3, "AUTH", "default", THEIRS], ["HELLO", 3, "AUTH", THEIRS],
    ["HELLO", 2, "AUTH", "default", CLIENTS], ["HELLO", "x", "AUTH", "default", THEIRS],
    ["HELLO", 9, "AUTH", "default", THEIRS], ["AUTH"],
    ["MIGRATE", "127.0.0.1", 1, "k", 0, 100, "AUTH", THEIRS],
    ["MIGRATE", "127.0.0.1", 1, "k", 0, 100, "AUTH2", "user", THEIRS],
    ["CONFIG", "SET", "requirepass", THEIRS], ["ACL", "SETUSER", "x", ">" + THEIRS],
]
QUESTIONS = [
    ["INFO"], ["INFO", "everything"], ["INFO", "nearcache"], ["NEARCACHE", "STATS"],
    ["NEARCACHE", "HELP"],
    ["CLIENT", "LIST"], ["CLIENT", "INFO"], ["SLOWLOG", "GET", -1], ["CONFIG", "GET", "*"],
    ["CONFIG", "GET", "requirepass", "masterauth"], ["ACL", "WHOAMI"], ["ACL", "LIST"],
    ["ACL", "GETUSER", "app"], ["ACL", "LOG"], ["LATENCY", "LATEST"], ["MEMORY", "DOCTOR"],
    ["COMMAND", "GETKEYS", "GET", "k"], ["NEARCACHE", "KEY", "k"], ["CLIENT", "GETNAME"],
]


@pytest.mark.parametrize("resp", [2, 3])
def test_nothing_shows_a_password(secrets, resp):
    near = secrets
    watch = authenticated(near, resp)
    assert watch.call("MONITOR") == "OK"
    for command in ATTEMPTS:
        stranger, client, trying = near.wire(), authenticated(near, resp), authenticated(near, resp)
        client.call("SET", "k", "v")
        assert WORD.encode() not in stranger.call_raw(*command), command
        assert WORD.encode() not in client.call_raw(*command), command
        trying.call("MULTI")
        assert WORD.encode() not in trying.call_raw(*command), command
        assert WORD.encode() not in trying.call_raw("EXEC"), command
    asking = authenticated(near, resp)
    for command in QUESTIONS:
        assert WORD.encode() not in asking.call_raw(*command), command
    asking.call("MULTI")
    for command in QUESTIONS:
        asking.call(*command)
    assert WORD.encode() not in asking.call_raw("EXEC")
    asking.call("ECHO", "the end")
    lines = []
    while not lines or b"the end" not in lines[-1]:
        lines.append(watch.raw())
    shown = b"".join(lines)
    assert WORD.encode() not in shown and shown.count(b"(redacted)") > 4
    near.popen.send_signal(signal.SIGHUP)
    near.server.kill()
    wait_until(lambda: isinstance(asking.call("INCR", "k"), RespError))
    for command in [["INCR", "k"], *QUESTIONS]:
        assert WORD.encode() not in asking.call_raw(*command), command
    near.stop()
    assert WORD not in near.output("stdout") + near.output("stderr")


def test_an_upstream_that_quotes_what_it_does_not_know(redis_server, nearcache):
    """A server without AUTH and HELLO tells what these were given."""
    server = redis_server("--rename-command", "AUTH", "", "--rename-command", "HELLO", "")
    assert UPSTREAM in str(server.wire().call("AUTH", UPSTREAM))
    near = nearcache("--log.level=debug", "--set", f"upstream.password={UPSTREAM}", upstream=server)
    for resp in (2, 3):
        wire = near.wire()
        wire.call("HELLO", resp)
        reply = wait_until(lambda wire=wire: wire.call_raw("INCR", "k"))
        assert b"unknown command" in reply and WORD.encode() not in reply
        for command in QUESTIONS:
            assert WORD.encode() not in wire.call_raw(*command), command
    assert b"unknown command" in wire.call("INFO", "nearcache")
    wait_until(lambda: "link_lost" in near.output("stderr"))
    near.stop()
    assert WORD not in near.output("stdout") + near.output("stderr")


@pytest.mark.parametrize("upstream", ["redis://u:hunter-x@127.0.0.1:1", "redis://:hunter-x@127.0.0.1:1"])
def test_an_upstream_that_is_not_there(nearcache, upstream):
    near = nearcache("--log.level=debug", upstream=upstream)
    wire = near.wire()
    for command in [["INCR", "k"], *QUESTIONS]:
        assert WORD.encode() not in wire.call_raw(*command), command
    near.stop()
    assert WORD not in near.output("stdout") + near.output("stderr")


# --- errors at the start -----------------------------------------------------------------------------

TYPING_ERRORS = [
    ["--auth.pasword=hunter2"], ["--auth.pasword", "hunter2"], ["--auth.password:hunter2"],
    ["--set", "auth.password:hunter2"], ["--set", "auth.password", "hunter2"],
    ["--set", "auth.pasword=hunter2"], ["--set", "auth.password hunter2"],
    ["--auth.password=a\nhunter2", "--l1.ttl=x"], ["--auth.user=x", "--upstream.password=hunter2"],
    ["--upstream=redis://u:hunter2@h:port/0"], ["--upstream=redis://u:hunter/2@h/0"],
    ["--upstream=redis://:hunter%2@h"], ["--upstream=redis://h?password=hunter2"],
    ["--upstream=http://u:hunter2@h"], ["--upstream=redis://u:hunter?2@h"],
    ["--upstream=redis://u:hunter2@h/x"], ["--upstream", "redis://u:hunter2@h/x", "--check"],
    ["--upstream=redis://hunter2@h"], ["--upstream=rediss://u:hunter2@h", "--upstream.tls.ca_file=/no"],
    ["--upstream=redis://u:hunter2@h", "--upstream.tls.ca_file=/etc/passwd"],
    ["--auth.password=hunter2", "--auth.password_file=/etc/passwd"],
    ["--upstream.password=hunter2", "--upstream.password_file=/etc/passwd"],
]
FILES = [
    '{"auth": {"password": hunter2}}', '{"auth": {"password": "hun"hunter2}}',
    '{"auth": {"password" "hunter2"}}', '{"auth": {"password": "a" "hunter2"}}',
    "{'auth': {'password': 'hunter2'}}", '{"auth": {"pasword": "hunter2"}}',
    '{"auth": {"password": ["hunter2"]}}', '{"auth": {"password": {"x": "hunter2"}}}',
    '{"auth": {"password": "hunter2\n"}}', '{"auth": {"password": "hunter2}}',
    '{"auth": {"password": "\\qhunter2"}}',
    '{"auth": {"password": "hunter2"}, "auth.password": "hunter3"}',
    '{"upstream": {"url": "redis://u:hunter2@h:x"}}', '{"upstream": "redis://u:hunter2@h"}',
    '{"auth": {"password": "hunter2", "user": 5}}', 'hunter2',
    '{"auth": {"password": "hunter2"}} hunter2',
]
VARIABLES = [
    {"NEARCACHE_AUTH_PASWORD": "hunter2"}, {"NEARCACHE_AUTH_PASSWORD": "hunter2\x01"},
    {"NEARCACHE_UPSTREAM_URL": "redis://u:hunter2@h:x"}, {"NEARCACHE_UPSTREAM": "redis://u:hunter2@h"},
    {"NEARCACHE_UPSTREAM_PASSWORD": "hunter2", "NEARCACHE_UPSTREAM_PASSWORD_FILE": "/etc/passwd"},
]


def refused(*args, **environment):
    """All that is said by a nearcache that does not start."""
    done = subprocess.run([harness.NEARCACHE_BIN, "--service=s", "--listen=127.0.0.1:0", *args],
                          env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode in (1, 2), done
    return done.stdout + done.stderr


@pytest.mark.parametrize("args", TYPING_ERRORS, ids=range(len(TYPING_ERRORS)))
def test_typing_errors(args):
    assert WORD not in refused(*args)
    assert WORD not in refused("--print-config", *args)


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_errors_in_the_file(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert WORD not in refused(f"--config={tmp_path / 'config.json'}")


@pytest.mark.parametrize("variables", VARIABLES, ids=range(len(VARIABLES)))
def test_errors_in_the_environment(variables):
    assert WORD not in refused(**variables)


def test_what_is_printed_of_a_right_one(tmp_path):
    (tmp_path / "password").write_text(f"{WORD}\n")
    for args in (["--auth.password=hunter2", "--upstream=redis://u:hunter3@h/1"],
                 [f"--auth.password_file={tmp_path / 'password'}", "--upstream.password=hunter4"]):
        for what in ("--print-config", "--check"):
            done = subprocess.run([harness.NEARCACHE_BIN, "--service=s", what, *args], env={},
                                  capture_output=True, text=True, timeout=20, check=True)
            assert WORD not in done.stdout + done.stderr
            assert what == "--check" or "***" in done.stdout and json.loads(done.stdout)
