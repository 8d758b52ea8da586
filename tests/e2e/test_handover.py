"""A new process beside the old one at the same address, and the end of the old one."""
import os
import signal
import socket
import threading

import pytest

import harness
from conftest import connect, encode, wait_until


class Knocker(threading.Thread):
    """Connects, asks one thing and leaves, again and again; notes whatever goes wrong."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.served, self.wrong, self.ended = address, 0, [], False

    def run(self):
        while not self.ended:
            try:
                with harness.Wire(self.address) as wire:
                    assert wire.call("PING") == "PONG"
                    self.served += 1
            except (OSError, AssertionError, EOFError) as error:
                self.wrong.append(repr(error))

    def stop(self):
        self.ended = True
        self.join(20)
        assert not self.is_alive()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_replaced_without_a_refused_connection(redis_server, nearcache, tmp_path, kind):
    server = redis_server()
    listen = f"unix:{tmp_path}/s" if kind == "unix" else f"127.0.0.1:{harness.free_port()}"
    old = nearcache("--set", "reuse_port=yes", upstream=server, listen=(listen,))
    knockers = [Knocker(old.address) for _ in range(4)]
    for knocker in knockers:
        knocker.start()
    for _ in range(5):
        new = nearcache("--set", "reuse_port=yes", upstream=server, listen=(listen,))
        before = [knocker.served for knocker in knockers]
        old.popen.send_signal(signal.SIGTERM)
        assert old.popen.wait(20) == 0
        wait_until(lambda b=before: all(k.served > n for k, n in zip(knockers, b)))
        old = new
    for knocker in knockers:
        knocker.stop()
    assert [knocker.wrong for knocker in knockers] == [[]] * 4
    assert connect(old.address).ping()


def test_a_path_that_was_taken_over_is_not_removed(redis_server, nearcache, tmp_path):
    server, path = redis_server(), f"{tmp_path}/s"
    old = nearcache("--set", "reuse_port=yes", upstream=server, listen=(f"unix:{path}",))
    new = nearcache("--set", "reuse_port=yes", upstream=server, listen=(f"unix:{path}",))
    assert sorted(os.listdir(tmp_path)) == sorted({*os.listdir(tmp_path), "s"})
    old.stop()
    assert new.wire().call("PING") == "PONG"
    new.stop()
    assert not os.path.exists(path)


def test_a_busy_client_is_served_until_it_rests(redis_server, nearcache):
    """What it asks while the process is on its way out is answered."""
    near = nearcache(upstream=redis_server())
    busy, idle = near.wire(), near.wire()
    assert busy.call("SET", "k", 1) == "OK" and idle.call("PING") == "PONG"
    near.popen.send_signal(signal.SIGTERM)
    n = 0
    while not gone(idle):
        assert busy.call("INCR", "n") == n + 1
        n += 1
    assert n > 0 and busy.at_eof()
    assert near.popen.wait(10) == 0


def gone(wire):
    wire.socket.setblocking(False)
    try:
        return wire.socket.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_drain_ends_in_time(redis_server, nearcache):
    server = redis_server()
    near = nearcache("--set", "drain_timeout=300ms", upstream=server)
    wire = near.wire()
    assert wire.call("SET", "k", 1) == "OK"
    server.client().execute_command("CLIENT", "PAUSE", 3000, "ALL")
    wire.send(encode("INCR", "n"))
    near.popen.send_signal(signal.SIGTERM)
    assert near.popen.wait(2.5) == 0


def test_connections_in_the_backlog_are_served(redis_server, nearcache):
    """They were accepted by the kernel before the end: they are not reset."""
    near = nearcache(upstream=redis_server())
    assert near.wire().call("PING") == "PONG"
    near.pause()
    waiting = [socket.create_connection(near.address) for _ in range(20)]
    for s in waiting:
        s.sendall(encode("PING"))
    near.popen.send_signal(signal.SIGTERM)
    near.resume()
    assert [s.recv(7) for s in waiting] == [b"+PONG\r\n"] * 20
    assert near.popen.wait(10) == 0
