"""RESP2 on the wire: the same bytes in, the same bytes out as a bare Redis."""
import random

import pytest

from conftest import encode

# What a client may send wrong; {bare, near} must answer with the same bytes and both close.
BROKEN = [
    b"*1\r\n+PING\r\n",
    b"*abc\r\n",
    b"*2147483648\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$abc\r\n",
    b"*1\r\n$536870913\r\n",
    b'SET k "unbalanced\r\n',
    b'SET k "a"b\r\n',
    b"*" + b"1" * 300000,
    b"*1\r\n$" + b"1" * 300000,
    b"x" * 300000,
]

# Legal, if unusual.
ODD = [
    b"PING\r\n",
    b"PING\n",
    b"\r\n\r\nPING\r\n",
    b"*0\r\n*-1\r\nPING\r\n",
    b'SET "a b" \'c\\\'d\'\r\nGET "a b"\r\n',
    b'ECHO "\\x41\\n\\"\\x00"\r\n',
    b"  echo   hi  \r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nEcHo\r\n$4\r\n\r\n\x00\xff\r\n",
    b"get\r\n",
    b"get a b\r\n",
    b"nosuch a b c\r\n",
    b"nosuch " + b"y" * 300 + b" " + b"z" * 200 + b"\r\n",
    b"object nosuch k\r\n",
    b"object\r\n",
    b"select abc\r\nselect -1\r\nselect 99\r\nselect 0\r\n",
    b"client setname a\x01b\r\nclient getname\r\nclient setname x\r\nclient getname\r\n",
    b"auth x\r\nauth default x\r\n",
    b"auth other x\r\n",  # alone: behind another AUTH of its pipeline Redis 8.0.2 leaves it unanswered
    b"hello 4\r\nhello abc\r\nhello 2 nosuch\r\n",
    b"ping a b\r\n",
    b"eval 'return 1' abc\r\neval 'return 1' -1\r\neval 'return 1' 5\r\n",
    b"zunionstore d 0 k\r\nzunionstore d x k\r\n",
    b"set k v ex 0\r\nset k v nx xx\r\nincr k\r\nlpush k x\r\n",
    b"flushdb nosuch\r\n",
    b"QUIT\r\n*abc\r\n",
    b"*1\r\n$4\r\nQUIT\r\n*1\r\n+PING\r\n",
    b"scan abc\r\nscan 0 match\r\nscan 0 count 0\r\nscan 0 nosuch x\r\n",
]


@pytest.fixture(scope="module")
def pair(module_redis_server, module_nearcache):
    """A bare Redis, and a nearcache in front of another one."""
    bare = module_redis_server()
    return bare, module_nearcache(upstream=module_redis_server())


def replies_to(process, data, marker):
    """All bytes that come back for `data`, up to the reply to an ECHO behind it or the end."""
    with process.wire() as wire:
        wire.send(data + encode("ECHO", marker))
        got = b""
        end = encode(marker)[4:]
        while not got.endswith(end):
            try:
                chunk = wire.socket.recv(65536)
            except ConnectionResetError:
                break
            if not chunk:
                break
            got += chunk
        return got


@pytest.mark.parametrize("data", ODD, ids=lambda d: repr(d[:30]))
def test_odd_requests_are_answered_as_redis_answers_them(pair, data):
    bare, near = pair
    assert replies_to(near, data, "end-of-test") == replies_to(bare, data, "end-of-test")


@pytest.mark.parametrize("data", BROKEN, ids=lambda d: repr(d[:30]))
def test_broken_requests_are_refused_as_redis_refuses_them(pair, data):
    bare, near = pair
    expected = replies_to(bare, data, "end-of-test")
    assert expected.startswith(b"-ERR Protocol error")
    assert replies_to(near, data, "end-of-test") == expected


def test_every_command_without_arguments_is_refused_with_redis_own_text(pair):
    bare, near = pair
    client = bare.client()
    with bare.wire() as a, near.wire() as b:
        for name, info in client.command().items():
            if info["arity"] in (1, -1):
                continue
            expected = a.call_raw(name)
            got = b.call_raw(name)
            assert got == expected or b"NOPERM" in got or b"does not support" in got, name


def test_one_byte_at_a_time(pair):
    _, near = pair
    wire = near.wire()
    for byte in encode("SET", "slow", "v\r\n\0") + encode("GET", "slow") + b"PING\r\n":
        wire.send(bytes([byte]))
    assert [wire.reply() for _ in range(3)] == ["OK", b"v\r\n\0", "PONG"]


def test_split_anywhere(pair):
    _, near = pair
    data = encode("SET", "split", "x" * 30) + encode("GET", "split") + encode("MGET", "split", "no")
    rng = random.Random(1)
    wire = near.wire()
    for _ in range(200):
        cut = rng.randrange(len(data))
        wire.send(data[:cut])
        wire.send(data[cut:])
        assert [wire.reply() for _ in range(3)] == ["OK", b"x" * 30, [b"x" * 30, None]]


def test_a_pipeline_keeps_its_order(pair):
    _, near = pair
    wire = near.wire()
    n = 20000
    for i in range(100):
        wire.call("SET", f"order{i}", i)
    wire.send(b"".join(encode("GET", f"order{i % 100}") + encode("ECHO", i) + encode("INCR", "count")
                       for i in range(n)))
    for i in range(n):
        assert wire.reply() == b"%d" % (i % 100)
        assert wire.reply() == b"%d" % i
        assert wire.reply() == i + 1


def test_big_values_and_many_arguments(pair):
    _, near = pair
    wire = near.wire()
    value = bytes(range(256)) * 40000  # 10 MB
    assert wire.call("SET", "big", value) == "OK"
    assert wire.call("GET", "big") == value
    names = [f"many{i}" for i in range(20000)]
    assert wire.call("MSET", *[x for name in names for x in (name, name)]) == "OK"
    assert wire.call("MGET", *names) == [name.encode() for name in names]
    assert wire.call("MGET", *names) == [name.encode() for name in names]
