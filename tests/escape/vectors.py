"""Argument vectors of clients that try to reach keys and channels which are not theirs.

Bases are the examples of tests/e2e/test_command_table.py, the escapes of test_namespace.py and the
grammar of the differential test; what is made of them depends on the random.Random given alone.
"""
import re
import shlex

import generate
import test_command_table as table_test
import test_namespace
from sides import foreign_names

LONG = b"n" * 100000
NUMBERS = [b"-1", b"0", b"1", b"2", b"3", b"+1", b"01", b" 1", b"1 ", b"0x1", b"1\0", b"1\0x", b"1.0",
           b"1e0", b"", b"2147483647", b"2147483648", b"4294967297", b"9223372036854775807",
           b"9223372036854775808", b"-9223372036854775808", b"18446744073709551617"]
ODD = [b"", b"\0", b"\r\n", b"*", b"?*", b"[", b"[^x]*", b"\\", b"\\*", b"*->*", b"#", b"$", b">", b"-",
       b"+", b"=", b"~", b"'", b'"', b"a b", b"k\0x", b"\xff"]

# Options that have a name as their operand, somewhere: put behind and into everything.
OPERANDS = [[b"STORE"], [b"STOREDIST"], [b"GET"], [b"BY"], [b"KEYS"], [b"STREAMS"], [b"MATCH"],
            [b"PREFIX"], [b"DB"], [b"REDIRECT"], [b"store\0x"], [b"Match\0x"], [b"STREAMS", b"a"],
            [b"COUNT"], [b"TYPE"], [b"2", b"a"], [b"1"], [b"AUTH", b"p", b"KEYS"], [b"COUNT", b"STORE"]]

# What none of the bases has, or not thus.
MORE = r"""
client kill addr 127.0.0.1:1 | client kill type normal skipme no | client kill id 1
client kill id 2 | client kill id 3 | client kill id 4 | client kill id 5 | client kill id 6
client kill id 7 | client kill user default | client kill type pubsub
client kill laddr 127.0.0.1:1 skipme no | client unblock 3 | client unblock 4 error
client unblock 5 | client unblock 6 timeout | client unblock 7 | client list type pubsub
client list id 1 2 3 4 5 6 7 8 9 | client no-evict on | client pause 1000 all
client tracking on bcast prefix '' | client tracking on bcast prefix other: prefix ''
client tracking on redirect 3 bcast prefix other: | client tracking on bcast noloop
client tracking on optin | client tracking on bcast 'prefix\0x' other: | client caching yes
client trackinginfo | client getredir | config get * | config get requirepass masterauth
config get 'requirepass\0x' | acl log | acl list | acl whoami | acl getuser default | acl users
acl dryrun default get other:secret | slowlog get | slowlog get -1 | slowlog get 1000 | slowlog len
latency latest | latency history command | info | info all | info everything | info keyspace clients
module list | pubsub channels | pubsub channels * | pubsub channels other:*
pubsub numsub other:secret | pubsub shardchannels | pubsub shardchannels *
pubsub shardnumsub other:secret | pubsub numpat | publish other:secret x
publish __keyspace@0__:secret set | publish __keyspace@0_:secret set | publish __keyspace@secret set
spublish other:secret x | spublish __keyspace@0__:secret set
publish cache:invalidate '{"service":"other","key":"secret","timestamp":1}'
publish cache:invalidate:l1 other:secret | publish cache:change x | publish cache:other x
publish __keyevent@0__:set other:secret | publish __keysecret x | publish __redis__:secret x
swapdb 0 1 | flushall | flushdb | flushall async | flushdb sync | 'flushall\0x' | randomkey | dbsize
debug object other:secret | debug reload | debug flushall | cluster getkeysinslot 0 10 | keys *
keys ** | keys [a-z]* | keys [^x]* | keys '\*' | keys \\* | keys ?* | keys '' | keys ']*'
keys '[*' | keys 'other:*' | keys '../*' | keys '?[a-]*' | keys '*\' | keys '[[]*' | keys '[\]*]*'
keys '^*' | scan 0 | scan 0 match * | scan 0 match other:* | scan 0 match [^x]* count 1000
scan 0 count 1000 | scan 0 type string | scan 0 type string match * type list match other:*
scan 1 count 1000 | scan 17 | scan 9223372036854775808 count 1000 | scan 4294967296 match *
scan 0 match | scan 0 count match match other:* | scan 0 type match match other:*
scan 0 match match match | scan 0 match * match | scan 00 match \\* | scan 0 'match\0x' other:*
scan 0 novalues match other:* | migrate 127.0.0.1 1 other:secret 0 10
migrate 127.0.0.1 1 '' 0 10 copy keys other:secret | copy other:secret mine db 1
copy mine other:secret db 1 replace | move other:secret 1 | object freq other:secret | object help
memory usage other:secret samples 0 | memory doctor | memory stats
eval 'return {KEYS[1],ARGV[1]}' 1 other:secret secret | eval 'return redis.call("get",KEYS[1])' 1 s1
eval 'return redis.call("dump",KEYS[1])' 1 secret
eval 'return redis.call("set",KEYS[1],1)' 1 secret
eval_ro 'return redis.call("type",KEYS[1])' 1 secret | fcall put 1 secret x | fcall size 1 secret
script load 'return 1' | script exists x | function list | function stats | function dump | monitor
psync ? -1 | sync | replconf listening-port 1 | replicaof no one | failover | shutdown nosave
wait 0 1 | wait 1 1 | readonly | asking | lolwut | role | time | lastsave | command count
command getkeys get other:secret | command getkeysandflags sort k by other:* store other:secret
restore secret 0 x | restore-asking secret 0 x | pfdebug getreg secret | lcs s1 secret
sort nl by other:* get other:* get # | sort nl by nosort get secret | sort nl by *secret get *
sort nl get w_*->f get *->f1 | sort_ro nl by h1->* get h1->* | sort nl by '*\0' get '*\0x'
hello 3 setname other | select 1 | select 9 | reset | auth default x | nearcache key other:secret
multi | subscribe other:secret | psubscribe other:* | ssubscribe other:secret | pfselftest
nearcache flush other: | nearcache stats | nearcache key '' | nearcache flush ''
nosuch other:secret
"""


def split(text):
    """shlex, with \\0 for a NUL byte."""
    return [[arg.encode().replace(b"\\0", b"\0") for arg in shlex.split(line)]
            for line in " | ".join(text.strip().splitlines()).split(" | ")]


# These end their connection, or what they do to it lasts: they come last in a batch.
LAST = {b"quit", b"post", b"host:", b"multi", b"subscribe", b"psubscribe", b"ssubscribe"}


def is_last(argv):
    return argv[0].lower() in LAST or [arg.lower() for arg in argv[:2]] == [b"client", b"kill"]


def kills_redis(argv):
    """Redis 8.0 aborts where a vector is said to have some 2^63 elements, whoever says it."""
    numbers = [int(arg) for arg in argv if re.fullmatch(rb"-?\d+", arg)]
    return argv[0].lower() in (b"vadd", b"vsim") and any(abs(n) >> 31 for n in numbers)


class Vectors:
    """The makers of vectors. `prefix`: the namespace; names of others are made of it."""

    def __init__(self, rng, context, prefix):
        self.rng = rng
        self.prefix = prefix
        self.generator = generate.Generator(rng, context)
        self.names = [b"secret", b"other:secret", b"s1", prefix, prefix[:-1] + b"x:1",
                      *foreign_names(prefix or b"x")]
        self.words = [word.encode() for word in table_test.WORDS]
        self.written = [argv for argv in table_test.split(table_test.EXAMPLES) +
                        table_test.split(table_test.SUPERSETS) + table_test.fooled() + split(MORE) +
                        [[arg.encode() for arg in argv] for argv in test_namespace.ESCAPES] if argv]
        self.written += [self.far(argv) for argv in self.written if argv[0].lower() == b"scan"]
        self.bases = self.written + [self.plain(form) for name in self.generator.names
                                     for form in context.grammar[name]]

    def plain(self, form):
        return [bytes(arg) for arg in self.generator.expand(form)]

    # --- every place ---------------------------------------------------------------------------

    @staticmethod
    def far(argv):
        """SCAN with a step as long as the whole way: or else it has little to show."""
        return argv + [b"COUNT", b"100000"] if argv[:1] in ([b"scan"], [b"SCAN"]) else argv

    def systematic(self):
        """Every base with others' names in every place, and with more options."""
        return map(self.far, self.changed())

    def changed(self):
        hostile = [b"secret", b"other:secret", self.prefix, b"*", b""]
        for argv in self.bases:
            for i in range(1, len(argv)):
                for word in hostile:
                    yield argv[:i] + [word] + argv[i + 1:]
                if argv[i].lstrip(b"-").isdigit():
                    for number in NUMBERS:
                        yield argv[:i] + [number] + argv[i + 1:]
                yield argv[:i] + [b"secret"] + argv[i:]
                yield argv[:i] + argv[i + 1:]
            for operand in OPERANDS:
                yield argv + operand + [b"secret"]
                at = self.rng.randrange(1, len(argv) + 1)
                yield argv[:at] + operand + [b"other:*"] + argv[at:]

    # --- chance --------------------------------------------------------------------------------

    def name(self):
        dice = self.rng.random()
        if dice < 0.002:
            return LONG
        if dice < 0.1:
            return self.rng.choice(ODD)
        return self.rng.choice(self.names)

    def word(self):
        dice = self.rng.random()
        if dice < 0.4:
            return self.name()
        if dice < 0.6:
            return self.rng.choice(NUMBERS)
        word = self.rng.choice(self.words)
        if dice < 0.65:
            word += self.rng.choice([b"\0", b"\0x", b" ", b"\r\n"])
        return word.upper() if self.rng.random() < 0.5 else word

    def base(self):
        if self.rng.random() < 0.5:
            return list(self.rng.choice(self.written))
        return [bytes(arg) for arg in self.generator.command()]

    def random(self):
        argv = self.far(self.base())
        for _ in range(self.rng.randrange(5)):
            at = self.rng.randrange(1, len(argv) + 1)
            how = self.rng.randrange(6)
            if how < 2:
                argv[at:at + 1] = [self.word()]
            elif how == 2:
                argv[at:at] = [self.word()]
            elif how == 3:
                argv[at:at] = [*self.rng.choice(OPERANDS), self.word()]
            elif how == 4:
                del argv[at:at + 1]
            else: # an option once more
                argv += argv[at:at + 2]
        if self.rng.random() < 0.2:
            at = self.rng.randrange(len(argv))
            argv[at] = self.rng.choice([argv[at].swapcase(), argv[at].title()])
        return argv

    # --- listeners -----------------------------------------------------------------------------

    PATTERNS = [b"*", b"**", b"?*", b"[^x]*", b"__key*", b"__keyspace@0__:*", b"__keyspace@*__:*",
                b"__keyspace@?__:s*", b"__keyspace@*", b"__keyspace@[0__:]__:*", b"__keyspace@0__*",
                b"__keyspace@0__:[^x]*", b"__keyspace@0__:\\*", b"__keyevent@0__:*", b"__keyevent@*:set",
                b"__keyevent@*", b"[_]_key*", b"?_key*", b"\\_\\_keyspace*", b"*keyspace*", b"__*",
                b"__redis__:*", b"cache:*", b"*secret*", b"other:*", b"__keyspace@0__:other:*", b""]
    CHANNELS = [b"secret", b"other:secret", b"__keyspace@0__:secret", b"__keyspace@0__:other:secret",
                b"__keyspace@secret", b"__keyevent@0__:set", b"__keyevent@0__:", b"__redis__:invalidate",
                b"__keysecret", b"cache:invalidate", b"cache:invalidate:l1", b"cache:change",
                b"cache:secret", b"", b"*", b"news"]

    def listeners(self):
        """Lists of commands behind which a client listens."""
        for pattern in self.PATTERNS:
            yield [[b"PSUBSCRIBE", pattern]]
            yield [[b"PSUBSCRIBE", b"x", pattern, self.prefix + pattern]]
            yield [[b"MULTI"], [b"PSUBSCRIBE", pattern], [b"EXEC"]]
        for channel in self.CHANNELS:
            yield [[b"SUBSCRIBE", channel], [b"SSUBSCRIBE", channel]]
            yield [[b"MULTI"], [b"SUBSCRIBE", channel], [b"SSUBSCRIBE", channel], [b"EXEC"]]
        for _ in range(60):
            yield [[self.rng.choice([b"PSUBSCRIBE", b"SUBSCRIBE"]), self.pattern(), self.pattern()]]
        yield [[b"MONITOR"]]
        for options in ([], [b"BCAST"], [b"BCAST", b"PREFIX", b""], [b"BCAST", b"PREFIX", b"other:"],
                        [b"BCAST", b"PREFIX", b"o", b"PREFIX", b"s"], [b"BCAST", b"prefix\0x", b""],
                        [b"NOLOOP", b"BCAST"], [b"OPTIN"], [b"OPTOUT"],
                        [b"BCAST", b"PREFIX", b"PREFIX", b"PREFIX", b"other:"]):
            reads = [[b"CLIENT", b"CACHING", b"YES"], [b"GET", b"secret"], [b"GET", b"other:secret"],
                     [b"MGET", *self.names]]
            yield [[b"CLIENT", b"TRACKING", b"ON", *options], *reads, [b"CLIENT", b"TRACKINGINFO"]]
            yield [[b"MULTI"], [b"CLIENT", b"TRACKING", b"ON", *options], [b"EXEC"], *reads]

    def pattern(self):
        pattern = bytearray(self.rng.choice(self.PATTERNS + self.CHANNELS))
        for _ in range(self.rng.randrange(3)):
            at = self.rng.randrange(len(pattern) + 1)
            pattern[at:at + self.rng.randrange(2)] = self.rng.choice(
                [b"*", b"?", b"[", b"]", b"\\", b"^", b"_", b":", b"@", b"", b"\0"])
        return bytes(pattern)
