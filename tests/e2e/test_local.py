"""Commands that nearcache answers itself, its life from start to stop, and real clients."""
import os
import re
import signal
import subprocess

import pytest
from conftest import encode, wait_until
from harness import NEARCACHE_BIN, clean_environment


@pytest.mark.one_worker
def test_client_commands(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    a, b = near.wire(), near.wire()
    assert a.call("CLIENT", "ID") + 1 == b.call("CLIENT", "ID")
    assert a.call("CLIENT", "SETNAME", "alice") == "OK"
    assert a.call("CLIENT", "SETINFO", "LIB-NAME", "test") == "OK"
    assert b"name=alice" in a.call("CLIENT", "INFO") and b"lib-name=test" in a.call("CLIENT", "INFO")
    assert b.call("CLIENT", "LIST").count(b"\n") == 2
    assert b.call("CLIENT", "KILL", "ID", a.call("CLIENT", "ID")) == 1
    assert a.at_eof()
    assert str(b.call("CLIENT", "KILL", "1.2.3.4:5")) == "ERR No such client"
    assert b.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no") == 1
    assert b.at_eof()


def test_quit_and_hello(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    wire = near.wire()
    reply = wire.call("HELLO", "2", "SETNAME", "me")
    assert reply[:2] == [b"server", b"redis"] and reply[5] == 2
    assert wire.call("CLIENT", "GETNAME") == b"me"
    assert wire.call("HELLO", "3")[b"proto"] == 3
    assert str(wire.call("HELLO", "4")).startswith("NOPROTO")
    wire.send(encode("GET", "k") + encode("QUIT") + encode("PING"))
    assert wire.reply() is None and wire.reply() == "OK" and wire.at_eof()


def test_info_has_our_section(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    wire = near.wire()
    whole = wire.call("INFO")
    assert b"redis_version:" in whole and b"\r\n# Nearcache\r\n" in whole
    ours = wire.call("INFO", "nearcache")
    assert ours.startswith(b"# Nearcache\r\n") and b"redis_version" not in ours
    for name in ("hits", "misses", "hit_ratio", "coalesced", "entries", "bytes", "limit", "evictions",
                 "invalidations", "link_mode", "link_lease_age_ms", "upstream_state", "clients",
                 "upstream_pending", "nearcache_version"):
        assert b"\r\n%s:" % name.encode() in ours, name
    server = wire.call("INFO", "server")
    assert server.startswith(b"# Server") and b"Nearcache" not in server


def test_info_of_a_link_that_never_was(nearcache, tmp_path):
    info = nearcache(upstream=f"unix:{tmp_path}/nobody").client().info("nearcache")
    assert (info["link_lease_age_ms"], info["serving"], info["upstream_version"]) == (-1, 0, "unknown")


def test_what_blocks_has_a_connection_of_its_own(redis_server, nearcache):
    """Also where the option's word ends at a NUL, as the server reads it; and not where BLOCK is a name."""
    server = redis_server()
    near = nearcache(upstream=server)
    others = near.client()
    wires = [near.wire() for _ in range(3)]
    for wire, command in zip(wires, (["XREAD", "BLOCK", 0, "STREAMS", "k", "$"],
                                     ["XREAD", "BLOCK\0x", 0, "STREAMS", "k", "$"],
                                     ["BLPOP", "l", 0])):
        wire.command(*command)
    wait_until(lambda: server.client().info("clients")["blocked_clients"] == 3)
    assert others.get("k2") is None
    others.xadd("k", {"f": "v"}, id="1-1")
    others.rpush("l", "v")
    assert wires[0].reply() == wires[1].reply() == [[b"k", [[b"1-1", [b"f", b"v"]]]]]
    assert wires[2].reply() == [b"l", b"v"]
    wire = wires[0]
    assert wire.call("XGROUP", "CREATE", "k", "block", "$", "MKSTREAM") == "OK"
    assert wire.call("XREADGROUP", "GROUP", "block", "c", "STREAMS", "k", ">") is None


def test_administration_is_refused_clearly(redis_server, nearcache):
    wire = nearcache(upstream=redis_server()).wire()
    for command in (["CONFIG", "SET", "maxmemory", 1], ["SHUTDOWN"], ["DEBUG", "SLEEP", 9]):
        assert str(wire.call(*command)).startswith("NOPERM"), command
    allowed = nearcache("--set", "admin_commands=allow", upstream=redis_server()).wire()
    assert allowed.call("CONFIG", "SET", "maxmemory", "100mb") == "OK"


def test_too_many_clients(redis_server, nearcache):
    near = nearcache("--set", "maxclients=3", upstream=redis_server())
    wires = [near.wire() for _ in range(3)]
    assert [wire.call("PING") for wire in wires] == ["PONG"] * 3
    one_more = near.wire()
    assert str(one_more.reply()) == "ERR max number of clients reached" and one_more.at_eof()
    wires[0].close()
    wait_until(lambda: wires[1].call("CLIENT", "LIST").count(b"\n") == 2)
    assert near.wire().call("PING") == "PONG"


def test_sigterm_finishes_what_is_owed(redis_server, nearcache):
    server = redis_server()
    near = nearcache(upstream=server)
    wire, idle = near.wire(), near.wire()
    assert idle.call("PING") == "PONG" and wire.call("SET", "k", "v") == "OK"
    server.client().execute_command("CLIENT", "PAUSE", 300, "ALL")
    wire.send(encode("DUMP", "k"))
    other = near.wire()
    wait_until(lambda: b"upstream_pending:1" in other.call("INFO", "nearcache"))
    near.popen.send_signal(signal.SIGTERM)
    assert idle.at_eof()
    assert wire.reply().startswith(b"\0") and wire.at_eof()
    assert near.popen.wait(10) == 0


def test_a_unix_socket_listener(redis_server, nearcache, tmp_path):
    path = str(tmp_path / "near.sock")
    near = nearcache(upstream=redis_server(), listen=(f"unix:{path}", "127.0.0.1:0"))
    client = near.client()
    assert near.address == path and client.set("k", 1) and client.get("k") == b"1"
    near.stop()
    assert not os.path.exists(path)


def test_a_port_in_use_is_said(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    done = subprocess.run([NEARCACHE_BIN, "--service", "x", "--listen", f"127.0.0.1:{near.port}"],
                          capture_output=True, text=True, timeout=10, check=False,
                          env=clean_environment())
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{near.port}: Address already in use" in done.stderr


def test_dev_brings_its_own_redis_and_takes_it_away(nearcache):
    near = nearcache("--dev")
    client = near.client()
    assert client.set("user:1", "Ada") and client.get("user:1") == b"Ada"
    wait_until(lambda: "try        redis-cli -p" in near.output("stdout"))
    said = near.output("stdout")
    assert "upstream   unix:" in said and "namespace  'demo:'" in said and "L1         64mb, entries live up to 1m\n" in said
    redis_pid = client.info("server")["process_id"]
    near.stop()
    assert not os.path.exists(f"/proc/{redis_pid}")
    directory = re.search(r"upstream   unix:(\S+)/redis.sock", said)[1]
    assert not os.path.exists(directory)


@pytest.mark.parametrize("memory, ttl, line", [
    ("256kb", "1500ms", "L1         256kb, entries live up to 1500ms\n"),
    ("0", "60s", "L1         off (l1.max_memory=0)\n")])
def test_the_first_lines_tell_the_l1(redis_server, nearcache, memory, ttl, line):
    near = nearcache("--set", f"l1.max_memory={memory}", "--set", f"l1.ttl={ttl}", upstream=redis_server())
    wait_until(lambda: "try  " in near.output("stdout"))
    assert line in near.output("stdout")


def test_sighup_reloads_what_can_change(redis_server, nearcache, tmp_path):
    config = tmp_path / "near.json"
    config.write_text('{"l1": {"ttl": "60s"}, "maxclients": 100}')
    near = nearcache("--config", str(config), upstream=redis_server())
    config.write_text('{"l1": {"ttl": "1s", "max_memory": "1mb"}, "maxclients": 100}')
    near.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: "setting_changed" in near.output("stderr"))
    assert "l1.ttl" in near.output("stderr")
    wait_until(lambda: "setting_needs_restart setting=l1.max_memory" in near.output("stderr"))
    config.write_text('{"l1": {"tttl": 1}}')
    near.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload_refused" in near.output("stderr"))
    assert near.wire().call("PING") == "PONG"


def redis_cli(near, *args, stdin=None):
    done = subprocess.run(["redis-cli", "-p", str(near.port), *args], input=stdin, text=True,
                          capture_output=True, timeout=30, check=False)
    return done.stdout


def test_redis_cli(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    assert redis_cli(near, "SET", "user:1", "Ada") == "OK\n"
    assert redis_cli(near, "GET", "user:1") == "Ada\n"
    assert redis_cli(near, "--scan") == "user:1\n"
    assert redis_cli(near, "-n", "2", "DBSIZE") == "0\n"
    assert "user:1" in redis_cli(near, "--bigkeys")
    assert redis_cli(near, stdin="SET a 1\nGET a\n") == "OK\n1\n"
    load = "".join(encode("SET", f"p{i}", i).decode() for i in range(5000))
    assert "errors: 0, replies: 5000" in redis_cli(near, "--pipe", stdin=load)
    assert redis_cli(near, "--eval", "/dev/stdin", "k", ",", "x",
                     stdin="return {KEYS[1], ARGV[1]}") == "k\nx\n"
    assert "summary" in redis_cli(near, "COMMAND", "DOCS", "get")


def test_redis_benchmark(redis_server, nearcache):
    near = nearcache(upstream=redis_server())
    done = subprocess.run(["redis-benchmark", "-p", str(near.port), "-n", "5000", "-P", "16", "-q",
                           "-t", "set,get,incr,lpush,lrange,mset"],
                          text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and "requests per second" in done.stdout
