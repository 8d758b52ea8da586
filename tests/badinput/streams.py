"""Byte streams that are nearly RESP: valid pipelines, and what is made of them by a random hand.

Everything is drawn from the random.Random that is given: same seed, same streams.
"""
import re

from harness import encode

LINE_MAX = 64 * 1024  # PROTO_INLINE_MAX_SIZE: inline commands and length lines

COMMANDS = [encode(*line.split()) for line in """
PING | PING x | ECHO hello | SET a 1 | GET a | SET b 22 | GET b | GET none | MGET a b none | DEL c
INCR n | APPEND a z | STRLEN a | EXISTS a b | RPUSH l x y | LRANGE l 0 -1 | LLEN l | HSET h f v
HGETALL h | HGET h f | SADD s m | SCARD s | TYPE l | SELECT 1 | SELECT 0 | NOSUCH a b | GET | GET a b
SET a | OBJECT NOSUCH a | OBJECT | CLIENT GETNAME | SELECT x | MULTI | EXEC | DISCARD | INCR l
""".replace("\n", " | ").split(" | ") if line.strip()] + [
    encode("ECHO", ""), encode("ECHO", b"\r\n\0\xff"), encode("SET", "", "empty"), encode("GET", ""),
    encode("SET", "big", b"x" * 20000), encode("GET", "big"), encode("ECHO", b"$3\r\nfoo\r\n*1\r\n"),
    encode("MSET", *"a 1 b 2 d 3 e 4 f 5 g 6".split()), encode("ECHO", b"y" * 40000)]

INLINE = [b"PING\r\n", b"PING\n", b"ECHO hi\r\n", b"  echo \t x  \r\n", b'ECHO "a b"\r\n', b"\r\n",
          b"\n", b"ECHO 'it\\'s'\r\n", b'ECHO "\\x41\\n\\x00"\r\n', b"GET a\r\n", b"set a 'x'\n",
          b" \r\n", b"ECHO a\vb\fc\r\n", b"MGET a b\r\n", b"nosuch 'a' \"b\"\r\n", b"\t\n"]

AUTH = [encode("AUTH", "right"), encode("AUTH", "default", "right"), encode("AUTH", "wrong"),
        b"AUTH right\r\n", encode("AUTH", "x" * 20000), encode("HELLO", 2, "AUTH", "default", "wrong"),
        encode(*["ECHO"] * 11), encode("ECHO", b"x" * 16384), encode("ECHO", b"x" * 16385),
        encode(*["MGET"] * 10)]

NUMBERS = [b"-1", b"-2", b"0", b"-0", b"", b"1", b"2", b"3", b"10", b"11", b"+3", b"03", b" 3", b"3 ",
           b"0x3", b"1e1", b"3\0", b"\0", b"abc", b"3abc", b"16384", b"16385", b"1024", b"1048576",
           b"1048577", b"2147483647", b"2147483648", b"536870912", b"536870913", b"4294967297",
           b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808",
           b"18446744073709551616", b"1" * 40, b"-", b"--1", b"1.0", b"1" * 1000]

TLS = b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03" + bytes(range(200))

SNIPPETS = [
    # counts and lengths
    b"*0\r\n", b"*-1\r\n", b"*-5\r\n", b"*\r\n", b"*1\r\n", b"*2\r\n$4\r\nECHO\r\n", b"$-1\r\n",
    b"$0\r\n\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$0\r\n\r\n", b"*2\r\n$4\r\nECHO\r\n$-1\r\n",
    b"*1\r\n$4\r\nPINGxx", b"*1\r\n$4\nPING\r\n", b"*1\n$4\r\nPING\r\n", b"*1\r$4\r\nPING\r\n",
    b"*1\r\n$4\r\nPING\n", b"*01\r\n$4\r\nPING\r\n",
    # what a server sends, and nested arrays
    b"+OK\r\n", b"-ERR x\r\n", b":1\r\n", b"$5\r\nhello\r\n", b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n:1\r\n", b"*1\r\n+PING\r\n", b"*2\r\n$4\r\nECHO\r\n+x\r\n", b"*1\r\n-x\r\n",
    b"*3\r\n$3\r\nSET\r\n*1\r\n",
    # RESP3
    b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(123\r\n", b"!5\r\nERR x\r\n", b"=7\r\ntxt:abc\r\n",
    b"%1\r\n$1\r\na\r\n:1\r\n", b"~1\r\n:1\r\n", b"|1\r\n+a\r\n+b\r\n", b">1\r\n+x\r\n",
    b"*1\r\n%1\r\n", b"*1\r\n=8\r\ntxt:PING\r\n", b"$?\r\n;4\r\nPING\r\n;0\r\n",
    b"*?\r\n$4\r\nPING\r\n.\r\n",
    # quotes
    b'ECHO "a\r\n', b"ECHO 'a\r\n", b'ECHO "a"b\r\n', b"ECHO 'a'b\r\n", b'"\r\n', b"'\r\n",
    b'ECHO a"b"\r\n', b'ECHO "a\\"\r\n', b"ECHO 'a\\'\r\n", b'ECHO "\\xzz\\x4"\r\n', b'ECHO ""\r\n',
    b"''\r\n", b'"PING"\r\n', b'"" ""\r\n', b'ECHO "a"\0\r\n', b'ECHO "\\\r\n',
    # other protocols
    b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"Host: x\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", TLS, b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x80\x0f\x01", b"EHLO x\r\n",
    # NULs
    b"\0", b"\0\r\n", b"PI\0NG\r\n", b"PING\0\r\n", b"\0PING\r\n", b"*1\0\r\n", b"*\0001\r\n",
    b"*1\r\n$4\0\r\nPING\r\n", b"\xff\xfe\r\n", b"\r", b"\n\n", b"\r\r\n",
]

KINDS = [b"*", b"$", b"+", b"-", b":", b"%", b"~", b"_", b"", b"\0", b"\r", b"\n", b" ", b"a", b"=",
         b"\xff", b"'", b'"']
LINE_ENDS = [b"\r", b"\n", b"", b"\n\r", b"\r\r\n", b"xx", b"\rx", b"x\n", b"\0\n", b" \r\n", b"\r\0",
             b"\r\n\r\n"]
HEADER = re.compile(rb"[*$][^\r\n]*\r\n")


class Streams:
    """`secret`: there is a password to be given, 'right'."""

    def __init__(self, rng, secret):
        self.rng = rng
        self.secret = secret

    def valid(self):
        rng = self.rng
        parts = [rng.choice(INLINE if rng.random() < 0.2 else COMMANDS)
                 for _ in range(rng.choice([1, 1, 2, 3, 5, 8]))]
        if self.secret:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(AUTH))
        return b"".join(parts)

    def stream(self):
        data = self.valid()
        for _ in range(self.rng.choice([0, 1, 1, 1, 2, 2, 3, 5])):
            data = self.rng.choice(self.HANDS)(self, data)
        return data[:400000]

    def position(self, data):
        return self.rng.randrange(len(data) + 1)

    # --- what hands do ---------------------------------------------------------------------------

    def header(self, data):
        """Another number in one of the headers."""
        found = list(HEADER.finditer(data))
        if not found:
            return data
        at = self.rng.choice(found)
        return data[:at.start() + 1] + self.rng.choice(NUMBERS) + data[at.end() - 2:]

    def kind(self, data):
        """Another type byte."""
        found = list(HEADER.finditer(data))
        if not found:
            return data
        at = self.rng.choice(found).start()
        return data[:at] + self.rng.choice(KINDS) + data[at + 1:]

    def line_end(self, data):
        """One of the line ends is another."""
        found = [match.start() for match in re.finditer(rb"\r\n", data)]
        if not found:
            return data
        at = self.rng.choice(found)
        return data[:at] + self.rng.choice(LINE_ENDS) + data[at + 2:]

    def insert(self, data):
        at = self.position(data)
        return data[:at] + self.rng.choice(SNIPPETS) + data[at:]

    def append(self, data):
        return data + self.rng.choice(SNIPPETS)

    def between(self, data):
        """A snippet where a command ends, as far as one can see."""
        ends = [match.end() for match in re.finditer(rb"\r\n(?=\*|$)", data)] or [0]
        at = self.rng.choice(ends)
        return data[:at] + self.rng.choice(SNIPPETS) + data[at:]

    def flip(self, data):
        if not data:
            return data
        at = self.rng.randrange(len(data))
        byte = self.rng.choice([0, 10, 13, 32, 34, 36, 39, 42, 92, 255, self.rng.randrange(256)])
        return data[:at] + bytes([byte]) + data[at + 1:]

    def cut(self, data):
        return data[:self.position(data)]

    def drop(self, data):
        at = self.position(data)
        return data[:at] + data[at + self.rng.choice([1, 1, 2, 4, 20]):]

    def again(self, data):
        at, size = self.position(data), self.rng.choice([1, 4, 10, 40])
        return data[:at] + data[at:at + size] + data[at:]

    def noise(self, data):
        at = self.position(data)
        return data[:at] + self.rng.randbytes(self.rng.choice([1, 3, 20])) + data[at:]

    def long_line(self, data):
        """A line about as long as one may be."""
        rng = self.rng
        size = LINE_MAX + rng.choice([-20000, -10, -3, -2, -1, 0, 1, 2, 3, 10, 20000])
        line = rng.choice([b"ECHO ", b"", b"*", b"$", b"*1\r\n$", b"'", b'ECHO "',
                           b"*2\r\n$4\r\nECHO\r\n$"])
        filler = rng.choice([b"x", b"1", b" ", b"\0"])
        line += filler * (size - len(line)) + rng.choice([b"\r\n", b"\n", b"", b"'\r\n", b'"\r\n'])
        return data + line if rng.random() < 0.5 else line + data

    HANDS = [header] * 5 + [kind] * 2 + [line_end] * 3 + [insert] * 2 + [append] * 2 + [between] * 4 + \
        [flip, flip, cut, cut, drop, drop, again, noise, long_line]


def cuts(rng, data):
    """Where the stream is cut into pieces that are read one by one."""
    how = rng.random()
    if how < 0.6 or len(data) < 2:
        return []
    if how < 0.75 and len(data) < 300:
        return list(range(1, len(data)))
    return sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.choice([1, 2, 3, 6]))))


def long_ends(data, end):
    """Where lines end, with `end`, that are perhaps longer than a line may be."""
    return [match.end() - 1 for match in re.finditer(rb"[^%s]{%d,}%s" % (end, LINE_MAX + 1, end), data)]


def has_http(data):
    return re.search(rb"post|host:", data, re.IGNORECASE)


def has_tls(data):
    return b"\x16\x03" in data
