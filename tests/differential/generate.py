"""Commands from grammar.txt: a random one of a given name, right or wrong on purpose.

Everything is drawn from the random.Random that a generator is given: same seed, same commands.
"""
import ast
import hashlib
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))


class Key(bytes):
    """A key's name, which stands behind the namespace in nearcache's server."""


class Word(bytes):
    """A word of the command's syntax."""


class Text(bytes):
    """A word that is none of the syntax."""


class Number(bytes):
    """An argument that the server reads as a number."""


class Timeout(Number):
    """How long to block, which must not become 0, for ever."""


# --- what is in the data sets ----------------------------------------------------------------------

KEYS = {
    "str": [b"s1", b"s2", b"s {3}\x00\r\n\xff", b""],
    "num": [b"n1", b"n2"],
    "flt": [b"f1"],
    "bits": [b"b1", b"b2"],
    "hll": [b"p1", b"p2", b"p3"],
    "list": [b"l1", b"l2", b"l[3]*?\\"],
    "numlist": [b"nl"],
    "set": [b"set1", b"set2", b"set3"],
    "ints": [b"i1", b"i2"],
    "hash": [b"h1", b"h2", b"h:3"],
    "one": [b"one"],
    "zset": [b"z1", b"z2", b"z3"],
    "lexset": [b"lex"],
    "geo": [b"g1", b"g2"],
    "vset": [b"v1", b"v2"],
    "stream": [b"x1", b"x2"],
    "lone": [b"lone"],
    "missing": [b"none", b"svc:none", b"n*ne"],
    "gone": [b"gone1", b"gone2"],
}
ANY = sorted({name for kind, names in KEYS.items() if kind != "lone" for name in names})
MEMBERS = [b"a", b"b", b"c", b"d", b"m5", b"m 6", b"\x00\r\n\xfe", b"", b"1", b"2", b"30"]
FIELDS = [b"f1", b"f2", b"f3", b"f 4", b"\r\n", b""]
PLACES = [b"Palermo", b"Catania", b"edge", b"nowhere"]
# No value is a key's real name ("svc:s1"): where a script answers with that of a key it was given,
# nearcache takes it for the key.
VALUES = [b"", b"hello", b"world ", b"10", b"-3.5", b"a\r\nb\x00\xff", b"ohmytext", b"mynewtext",
          b"+OK\r\n", b"svc:value", b"x" * 70, bytes(range(256))]
BIG = [b"y" * 5000, b"z" * 40000]
EXTREMES = [2**63 - 1, -2**63, 2**31, 10**15]
BAD = [b"", b"x", b"1.5.2", b"99999999999999999999", b"-1", b"nan", b"0", b" 1", b"1e400"]
BAD_TIMEOUTS = [b"", b"x", b"-1", b"99999999999999999999"]
FAR = 4102444800  # seconds since 1970: the year 2100

SCRIPTS = [b'redis.call("set", KEYS[1], ARGV[1]) return redis.call("get", KEYS[1])',
           b"return {KEYS and 1, #ARGV}",
           b"return redis.status_reply('from a script')"]
SHAS = [hashlib.sha1(script).hexdigest().encode() for script in SCRIPTS]
LIBRARY = (b"#!lua name=mylib\n"
           b"redis.register_function('put', function(keys, args)\n"
           b"  return redis.call('set', keys[1], args[1]) end)\n"
           b"redis.register_function{function_name='size', flags={'no-writes'},\n"
           b"  callback=function(keys) return redis.call('strlen', keys[1]) end}\n"
           b"redis.register_function('fail', function() return redis.error_reply('MY failure') end)")
LIBRARIES = [LIBRARY, LIBRARY, b"#!lua name=other\nredis.register_function('other', function() "
             b"return 1 end)", b"no library", b"#!lua name=bad\nreturn ("]

# What every round's data start from.
SEED = [
    [b"MSET", Key(b"s1"), b"hello", Key(b"s2"), b"ohmytext", Key(b"s {3}\x00\r\n\xff"),
     b"mynewtext", Key(b""), b"of the empty name"],
    [b"MSET", Key(b"n1"), b"10", Key(b"n2"), b"-3", Key(b"f1"), b"1.5"],
    [b"MSET", Key(b"b1"), b"\x01\xf0\xff", Key(b"b2"), b"\x80abc"],
    [b"PFADD", Key(b"p1"), b"a", b"b"],
    [b"PFADD", Key(b"p2"), b"b", b"c"],
    [b"RPUSH", Key(b"l1"), b"a", b"b", b"c", b"a", b"", b"\x00\r\n\xfe"],
    [b"RPUSH", Key(b"l2"), b"1", b"2", b"30"],
    [b"RPUSH", Key(b"nl"), b"3", b"1", b"2"],
    [b"SADD", Key(b"set1"), b"a", b"b", b"c"],
    [b"SADD", Key(b"set2"), b"b", b"c", b"\x00\r\n\xfe"],
    [b"SADD", Key(b"i1"), b"5", b"1", b"3"],
    [b"HSET", Key(b"h1"), b"f1", b"v1", b"f2", b"v2", b"n", b"5", b"x", b"1.5"],
    [b"HSET", Key(b"h2"), b"f1", b"a\r\nb", b"", b"of the empty field"],
    [b"HSET", Key(b"one"), b"field", b"value"],
    [b"ZADD", Key(b"z1"), b"1", b"a", b"2", b"b", b"2.5", b"c", b"-inf", b"d"],
    [b"ZADD", Key(b"z2"), b"1", b"b", b"3", b"c", b"5", b"\x00\r\n\xfe"],
    [b"ZADD", Key(b"lex"), *[x for name in b"abcdqz" for x in (b"0", bytes([name]))]],
    [b"GEOADD", Key(b"g1"), b"13.361389", b"38.115556", b"Palermo", b"15.087269", b"37.502669",
     b"Catania"],
    [b"XADD", Key(b"x1"), b"1-1", b"f1", b"v1"],
    [b"XADD", Key(b"x1"), b"2-1", b"f1", b"v2", b"", b""],
    [b"XADD", Key(b"x2"), b"1-1", b"a", b"b"],
    [b"XGROUP", b"CREATE", Key(b"x1"), b"g1", b"0"],
    [b"MSET", *[x for n, name in enumerate([b"1", b"2", b"3", b"30", b"a", b"b"])
                for x in (Key(b"w_" + name), b"%d" % (n * 7 % 5))]],
    [b"HSET", Key(b"o_1"), b"name", b"first"],
    [b"HSET", Key(b"o_3"), b"name", b"third"],
]
SCRIPT_SEED = [[b"SCRIPT", b"LOAD", SCRIPTS[0]], [b"SCRIPT", b"LOAD", SCRIPTS[2]]]
FUNCTION_SEED = [[b"FUNCTION", b"LOAD", b"REPLACE", LIBRARY]]

# After some commands the data, the scripts or the connection need care, or nothing would succeed.
CARE = {
    b"FLUSHALL": SEED, b"FLUSHDB": SEED,
    b"SCRIPT": SCRIPT_SEED, b"FUNCTION": FUNCTION_SEED,
    b"SELECT": [[b"SELECT", b"0"]],
    b"CLIENT": [[b"CLIENT", b"UNPAUSE"]],
}
CARE_WORDS = {b"SCRIPT": {b"FLUSH"}, b"FUNCTION": {b"FLUSH", b"DELETE", b"RESTORE"},
              b"CLIENT": {b"PAUSE"}}

# Only as written in the grammar: a changed one could end the server, turn it into a replica, hang the
# connection, or leave the result to chance.
FIXED = {"shutdown", "replicaof", "slaveof", "failover", "psync", "debug", "spop",
         "client|pause", "client|kill", "client|reply", "client|tracking", "config|set", "lolwut",
         "script|debug", "sort", "sort_ro", "quit", "acl|setuser", "bgsave", "bgrewriteaof",
         "swapdb", "save", "scan", "sscan", "hscan", "zscan", "migrate", "config|get",
         "client|unblock"}


# --- the grammar -----------------------------------------------------------------------------------

TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|[#=]?\{|[][(){}|]|[^\s\[\](){}|']+")
CLOSING = {"[": "]", "(": ")", "{": "}", "#{": "}", "={": "}"}


def parse(tokens, closing=None):
    """Alternatives, each a list of items: bytes, a kind's name, or (bracket, alternatives)."""
    alternatives = [[]]
    while tokens:
        token = tokens.pop(0)
        if token == closing:
            return alternatives
        if token == "|":
            alternatives.append([])
        elif token in CLOSING:
            alternatives[-1].append((token, parse(tokens, CLOSING[token])))
        elif token[0] == "'":
            alternatives[-1].append(Text(ast.literal_eval("b" + token)))
        elif token.islower():
            if not hasattr(Kinds, token) and token not in KEYS:
                raise ValueError(f"grammar.txt: no kind {token}")
            alternatives[-1].append(token)
        else:
            alternatives[-1].append(token.encode())
    if closing:
        raise ValueError(f"grammar.txt: no {closing}")
    return alternatives


def forms():
    """Every line of the grammar, as a list of items."""
    with open(os.path.join(HERE, "grammar.txt"), encoding="utf-8") as f:
        lines = [line.strip() for line in f]
    return [parse(TOKEN.findall(line))[0] for line in lines if line and not line.startswith("#")]


class Kinds:
    """One method for each kind of value in the grammar that is not a key; all give bytes, or a list
    of arguments."""

    def __init__(self, rng, context):
        self.rng = rng
        self.context = context
        self.stream_id = 100

    def number(self, low, high):
        return Number(b"%d" % self.rng.randint(low, high))

    def one_of(self, *values):
        return self.rng.choice(values)

    def any(self):
        return Key(self.rng.choice(ANY))

    def val(self):
        if self.rng.random() < 0.03:
            return self.rng.choice(BIG)
        return self.rng.choice(VALUES)

    def int(self):
        if self.rng.random() < 0.1:
            return Number(b"%d" % self.rng.choice(EXTREMES))
        return self.number(-20, 20)

    def few(self):
        return self.number(-5, 5)

    def idx(self):
        return self.number(-4, 4)

    def small(self):
        return self.number(0, 3)

    def count(self):
        return self.number(1, 5)

    def rank(self):
        return Number(self.one_of(b"1", b"2", b"-1", b"-2"))

    def bit(self):
        return self.number(0, 1)

    def digit(self):
        return self.number(0, 9)

    def float(self):
        return Number(self.one_of(b"1.5", b"-2", b"3e2", b"0.1", b"0", b"1", b"-0.25"))

    def score(self):
        return Number(self.one_of(b"1", b"2", b"2.5", b"-3", b"1e10", b"0.1", b"inf", b"-inf", b"+5"))

    def smin(self):
        return self.one_of(b"-inf", b"1", b"(1", b"0.5")

    def smax(self):
        return self.one_of(b"+inf", b"3", b"(3", b"inf")

    def lmin(self):
        return self.one_of(b"-", b"[a", b"(a", b"[b")

    def lmax(self):
        return self.one_of(b"+", b"[c", b"(z", b"[zz")

    def secs(self):
        return self.number(100000, 900000)

    def msecs(self):
        return self.number(100000000, 900000000)

    def at(self):
        return self.number(FAR, FAR + 9)

    def msat(self):
        return self.number(FAR * 1000, FAR * 1000 + 9)

    def timeout(self):
        return Timeout(self.one_of(b"0.001", b"0.0015"))

    def blockms(self):
        return Timeout(b"1")

    def member(self):
        return self.rng.choice(MEMBERS)

    def field(self):
        return self.rng.choice(FIELDS)

    def glob(self):
        return self.one_of(b"*", b"?1", b"[sn]1", b"s*", b"*\\**", b"none", b"[^s]*", b"svc:*", b"[",
                           b"f?", b"a", b"\\s1", b"[a-m]1", b"")

    def bittype(self):
        return self.one_of(b"u8", b"i5", b"u1", b"i64")

    def bitoff(self):
        return self.one_of(b"0", b"3", b"#1", b"17")

    def bits8(self):
        return self.number(1, 64)

    def lon(self):
        return Number(self.one_of(b"13.361389", b"15", b"-0.5", b"179.9"))

    def lat(self):
        return Number(self.one_of(b"38.115556", b"37.5", b"-10", b"85"))

    def radius(self):
        return Number(self.one_of(b"100", b"200", b"500000", b"0"))

    def unit(self):
        return self.one_of(b"m", b"km", b"mi", b"ft")

    def place(self):
        return self.rng.choice(PLACES)

    def group(self):
        return self.one_of(b"g1", b"g1", b"g2", b"STREAMS")

    def consumer(self):
        return self.one_of(b"c1", b"c2", b"STREAMS")

    def id(self):
        return self.one_of(b"0", b"1-1", b"2-1", b"100", b"101-1", b"5-5")

    def newid(self):
        self.stream_id += 1
        return b"%d-%d" % (self.stream_id, self.rng.randint(0, 3))

    def db(self):
        return Number(self.one_of(b"1", b"3", b"9", b"0", b"16"))

    def channel(self):
        return self.one_of(b"ch1", b"ch2", b"x\r\ny")

    def nosort(self):
        return b"nosort"

    def weights(self):
        if not self.context.patterns:
            return b"nosort"
        return self.one_of(b"w_*", b"o_*->name", b"none_*")

    def getter(self):
        if not self.context.patterns:
            return b"#"
        return self.one_of(b"#", b"w_*", b"o_*->name", b"none_*", b"w_1")

    def script(self):
        return self.rng.choice(SCRIPTS)

    def sha(self):
        return self.one_of(*SHAS, b"f" * 40)

    def library(self):
        return self.rng.choice(LIBRARIES)

    def section(self):
        return self.one_of(b"server", b"clients", b"memory", b"stats", b"replication", b"cpu",
                           b"keyspace", b"nosuch", b"persistence", b"modules", b"errorstats",
                           b"commandstats", b"cluster", b"everything", b"default", b"all")

    def name(self):
        return self.rng.choice(self.context.names + [b"nosuch", b"object|nosuch"])

    def dump(self):
        return self.rng.choice(self.context.dumps)

    def functions(self):
        return self.context.functions

    def targetport(self):
        return Number(b"%d" % self.context.target_port)

    def example(self):
        """A whole command."""
        generator = self.context.generator
        return list(map(Text, generator.form(self.rng.choice(generator.names))))


class Context:
    """What commands need to know of the servers: names of commands, payloads, a port to MIGRATE to."""

    def __init__(self, table, dumps, functions, target_port, patterns=True):
        self.table = table
        self.names = [name.encode() for name in sorted(table.leaves)]
        self.dumps = dumps
        self.functions = functions
        self.target_port = target_port
        self.patterns = patterns # SORT's BY and GET know one '*', which a namespace must not have
        self.generator = None
        self.grammar = {}
        for form in forms():
            words = [item for item in form[:2] if isinstance(item, bytes)]
            if b"NOSUCH" in words or table.name(words) in table.leaves: # older servers have fewer
                self.grammar.setdefault(table.name(words), []).append(form)


class Generator:
    """Random commands."""

    def __init__(self, rng, context):
        self.rng = rng
        self.context = context
        self.kinds = Kinds(rng, context)
        self.grammar = context.grammar
        self.names = sorted(self.grammar)
        self.deck = []
        context.generator = self

    def next_name(self):
        """Every command comes once before any comes again."""
        if not self.deck:
            self.deck = list(self.names)
            self.rng.shuffle(self.deck)
        return self.deck.pop()

    def command(self, name=None):
        """One of that name, or of the next in turn, a third of them wrong on purpose."""
        name = name or self.next_name()
        argv = self.form(name)
        dice = self.rng.random()
        if dice < 0.1:
            return self.of_wrong_length(argv, self.context.table.arity.get(name, -1))
        if dice < 0.4 and name not in FIXED and b"*" not in argv[2:3]:
            return self.spoilt(argv, 2 if "|" in name else 1)
        return argv

    @staticmethod
    def of_wrong_length(argv, arity):
        """Which every command refuses before it looks at it, unless any length is right."""
        if arity > 0:
            return [*argv, b"x"]
        return argv[:-arity - 1] if arity < -1 else argv

    def care(self, argv):
        """What has to follow that command."""
        words = CARE_WORDS.get(argv[0].upper())
        if words and (len(argv) < 2 or argv[1].upper() not in words):
            return []
        return CARE.get(argv[0].upper(), [])

    def form(self, name):
        return self.expand(self.rng.choice(self.grammar[name]))

    def expand(self, items):
        out = []
        for item in items:
            if isinstance(item, bytes):
                out.append(item if isinstance(item, Text) else Word(item))
            elif isinstance(item, str):
                value = self.value(item)
                out.extend(value if isinstance(value, list) else [value])
            else:
                out.extend(self.bracket(*item))
        return out

    def bracket(self, bracket, alternatives):
        def one():
            return self.expand(self.rng.choice(alternatives))

        if bracket == "[":
            return one() if self.rng.random() < 0.5 else []
        if bracket == "(":
            return one()
        if bracket != "={":
            self.repeated = self.rng.choice([1, 1, 2, 2, 3])
        n = self.repeated
        out = [arg for _ in range(n) for arg in one()]
        return [Number(b"%d" % n), *out] if bracket == "#{" else out

    def value(self, kind):
        if kind not in KEYS:
            return getattr(self.kinds, kind)()
        dice = self.rng.random()
        if dice < 0.05 and kind not in ("gone", "lone", "numlist", "ints"):
            return Key(self.rng.choice(KEYS["missing"]))
        return Key(self.rng.choice(KEYS[kind]))

    def spoilt(self, argv, first):
        """The same with one thing changed, behind the `first` words of its name."""
        argv = list(argv)
        where = [i for i in range(first, len(argv))]
        how = self.rng.randrange(6)
        if how == 0 or not where:
            return argv + [self.rng.choice([b"x", b"", b"-1"])]
        i = self.rng.choice(where)
        if how == 1:
            return argv[:i] + argv[i + 1:]
        if how == 2:
            return argv[:-1]
        return argv[:i] + [self.worse(argv[i])] + argv[i + 1:]

    def worse(self, arg):
        if isinstance(arg, Timeout):
            return Timeout(self.rng.choice(BAD_TIMEOUTS))
        if isinstance(arg, Number):
            return Number(self.rng.choice(BAD))
        if isinstance(arg, Key):
            return Key(self.rng.choice(ANY))
        if isinstance(arg, Word):
            return Word(self.rng.choice([arg + b"X", arg[:-1], arg.lower(), b"", arg + b"\x00"]))
        return self.rng.choice([b"", b"*x", b"\xff\x00", b"-"])
