"""The command table against a real server: is commands.def what the server says, do we list the
keys that the server lists, and can any arguments at all reach a key that is not ours?"""
import os
import random
import runpy
import shlex
import subprocess
import sys
from collections import Counter

import pytest
import redis

HERE = os.path.dirname(os.path.abspath(__file__))
GENERATE = os.path.join(HERE, "..", "commands", "generate")
COMMANDS_DEF = os.path.join(HERE, "..", "..", "protocol", "commands.def")
OURS = b"ours:"
SECRET = b"SECRET"

# One line an invocation, every command with keys at least once. Arguments that stand for keys have
# names of their own.
EXAMPLES = r"""
append k v | bitcount k 0 -1 | bitfield k get u8 0 set u8 0 1 | bitfield_ro k get u8 0 | bitpos k 1
bitop and d a b | bitop not d a | blmove a b left right 1 | blmpop 1 2 a b left count 3
blpop a 1 | blpop a b c 1 | brpop a b 1 | brpoplpush a b 1 | bzmpop 1 2 a b min | bzpopmax a b 1
bzpopmin a 1 | copy a b | copy a b db 0 replace | decr k | decrby k 2 | del a | del a b c
dump k | eval 'return 1' 0 | eval 'return 1' 2 a b c | eval_ro 'return 1' 1 a b | evalsha sha 1 a b
evalsha_ro sha 2 a b | exists a b | expire k 10 nx | expireat k 10 | expiretime k | fcall f 1 a b
fcall_ro f 0 x | geoadd k nx 1 2 m | geodist k m n km | geohash k m n | geopos k m n
georadius k 1 2 3 km | georadius k 1 2 3 km asc count 5 any withdist | georadius k 1 2 3 km store d
georadius k 1 2 3 km count 1 storedist d | georadius_ro k 1 2 3 km desc
georadiusbymember k m 3 km | georadiusbymember k m 3 km store d
georadiusbymember k store 3 km storedist d | georadiusbymember_ro k m 3 km
geosearch k frommember m byradius 3 km | geosearchstore d s fromlonlat 1 2 bybox 1 2 km storedist
get k | getbit k 1 | getdel k | getex k ex 10 | getrange k 0 1 | getset k v | hdel k f g
hexists k f | hget k f | hgetall k | hincrby k f 1 | hincrbyfloat k f 1 | hkeys k | hlen k
hmget k f g | hmset k f v | hrandfield k 2 withvalues | hscan k 0 match x* count 5 | hset k f v
hsetnx k f v | hstrlen k f | hvals k | incr k | incrby k 2 | incrbyfloat k 2 | lcs a b len
lindex k 0 | linsert k before p v | llen k | lmove a b left right | lmpop 2 a b left count 2
lpop k 2 | lpos k v rank 1 | lpush k v w | lpushx k v | lrange k 0 1 | lrem k 0 v | lset k 0 v
ltrim k 0 1 | memory usage k samples 5 | mget a | mget a b c
migrate h 1 k 0 9 | migrate h 1 '' 0 9 keys a b | migrate h 1 '' 0 9 copy auth2 keys p keys a
migrate h 1 k 0 9 copy replace auth keys | move k 1 | mset a 1 b 2 | msetnx a 1
object encoding k | object freq k | object idletime k | object refcount k | persist k
pexpire k 1 gt | pexpireat k 1 | pexpiretime k | pfadd k e | pfcount a b | pfdebug encoding k
pfmerge d a b | psetex k 1 v | pttl k | rename a b | renamenx a b | restore k 0 payload replace
restore-asking k 0 payload | rpop k | rpoplpush a b | rpush k v | rpushx k v | sadd k m n | scard k
sdiff a b | sdiffstore d a b | set k v | set k v ex 10 get | setbit k 1 1 | setex k 1 v
setnx k v | setrange k 0 v | sinter a b | sintercard 2 a b limit 3 | sinterstore d a b
sismember k m | smembers k | smismember k m n | smove a b m | sort k | sort k limit 0 5 desc alpha
sort k store d | sort k limit store limit store d | sort k by nosort get # store d | sort_ro k desc
spop k 2 | srandmember k | srem k m | sscan k 0 | strlen k | substr k 0 1 | sunion a b
sunionstore d a b | touch a b | ttl k | type k | unlink a b | watch a b
xack k g 1-1 | xadd k nomkstream maxlen 5 * f v | xautoclaim k g c 0 0 | xclaim k g c 0 1-1
xdel k 1-1 | xgroup create k g $ mkstream | xgroup createconsumer k g c | xgroup delconsumer k g c
xgroup destroy k g | xgroup setid k g $ | xinfo consumers k g | xinfo groups k
xinfo stream k full count 2 | xreadgroup group streams c streams k >
xlen k | xpending k g - + 5 | xrange k - + | xread streams a b 0 0
xread count 2 block 5 streams a $
xreadgroup group g c count 1 block 5 noack streams a b > > | xrevrange k + - | xsetid k 1-1
xtrim k maxlen 5 | zadd k nx gt ch 1 m | zcard k | zcount k 0 1 | zdiff 2 a b withscores
zdiffstore d 2 a b | zincrby k 1 m | zinter 2 a b weights 1 2 | zintercard 2 a b limit 1
zinterstore d 2 a b aggregate max | zlexcount k - + | zmpop 2 a b min count 2 | zmscore k m n
zpopmax k 2 | zpopmin k | zrandmember k 2 withscores | zrange k 0 1 rev
zrangebylex k - + limit 0 1 | zrangebyscore k 0 1 | zrangestore d s 0 1 | zrank k m | zrem k m
zremrangebylex k - + | zremrangebyrank k 0 1 | zremrangebyscore k 0 1 | zrevrange k 0 1
zrevrangebylex k + - | zrevrangebyscore k 1 0 | zrevrank k m | zscan k 0 | zscore k m
zunion 1 a | zunionstore d 2 a b weights 1 2
"""

# Where we list more than COMMAND GETKEYS: it tells the last STORE only, and no patterns.
SUPERSETS = r"""
sort k by w_* get v_* get # | sort_ro k by w_*->f get v_* | sort k store a store b
sort k by store store d get store | georadius k 1 2 3 km store a store b
migrate h 1 k 0 9 keys a | xread streams a b 0 | eval s 5 a b | zunionstore d x a b
migrate h 1 '' 0 9 nonsense keys a
"""

# COMMAND GETKEYS takes an operand for an option; the command itself doesn't (t_stream.c, geo.c,
# sort.c). After the colon: the keys.
FOOLED = r"""
xread count streams streams a 0: a | xreadgroup noack group g streams streams k >: k
georadius k 1 2 3 km count store store d: k d
sort k store store get v_*: k store v_*
"""
CAN_BE_FOOLED = (b"sort", b"xread", b"xreadgroup", b"georadius", b"georadiusbymember", b"migrate")

WORDS = """
store storedist STORE by get # * w_* *->f nosort limit count streams keys copy replace auth auth2
group block noack claim asc desc alpha any withdist withcoord km m 0 1 2 3 -1 1.5 + - $ > 0-1 k a
b d s g left right min max weights aggregate sum match ex nx xx db and byscore bylex rev k\0x
store\0x \0 '
""".split() + [""]


def lines_of(text):
    return " | ".join(text.strip().splitlines()).split(" | ")


def split(text):
    return [[arg.encode() for arg in shlex.split(line)] for line in lines_of(text)]


def fooled():
    return [line.split(": ")[0].encode().split() for line in lines_of(FOOLED)]


class Upstream:
    """A private redis-server and one raw connection to it."""

    def __init__(self, path):
        self.path = path
        self.connection = redis.UnixDomainSocketConnection(path=path)
        self.version = self(b"info", b"server").split(b"redis_version:")[1].split(b"\r\n")[0]

    def __call__(self, *args):
        return self.all([args])[0]

    def all(self, commands):
        """Pipelines the commands; an error is a reply like any other."""
        self.connection.send_packed_command(self.connection.pack_commands(commands))
        return [self.read() for _ in commands]

    def read(self):
        try:
            return self.connection.read_response()
        except redis.ResponseError as error:
            return error


@pytest.fixture(scope="module")
def upstream():
    with runpy.run_path(GENERATE)["PrivateServer"]() as server:
        yield Upstream(server.path)


def ask_helper(commands):
    """What the table says of each command: a list of words."""
    helper = os.path.join(os.environ["NEARCACHE_BUILD_DIR"], "tests", "commands-keys")
    lines = (" ".join(arg.hex() or "-" for arg in args) for args in commands)
    done = subprocess.run([helper], input="".join(line + "\n" for line in lines).encode(),
                          stdout=subprocess.PIPE, check=True)
    answers = done.stdout.decode("latin-1").split("\n")[:-1]
    assert len(answers) == len(commands)
    return answers


def our_keys(args, answer):
    """The arguments listed, as a multiset."""
    return Counter(args[int(word.lstrip("p"))] for word in answer.split()[1:])


def getkeys(upstream, commands):
    replies = upstream.all([[b"command", b"getkeys"] + args for args in commands])
    return [Counter() if isinstance(reply, Exception) else Counter(reply) for reply in replies]


def rows():
    with open(COMMANDS_DEF, encoding="utf-8") as f:
        for line in f:
            if line.startswith("COMMAND("):
                yield line.split('"')[1], line


def ours():
    generate = runpy.run_path(GENERATE)
    return set(generate["Columns"](generate["COLUMNS"]).ours)


def test_checked_in_table_is_what_the_server_says(upstream, tmp_path):
    if upstream.version.startswith(b"7.0."):
        made = tmp_path / "commands.def"
        subprocess.run([sys.executable, GENERATE, "--socket", upstream.path, "--output", str(made)],
                       check=True)
        with open(COMMANDS_DEF, "rb") as f:
            assert made.read_bytes() == f.read()
        return
    names = [name for name, _ in rows() if name not in ours()]
    infos = upstream(b"command", b"info", *names)
    gone = [name for name, info in zip(names, infos) if not info]
    if gone:
        pytest.skip("Redis %s has no %s" % (upstream.version.decode(), ", ".join(gone)))


def test_every_command_with_keys_has_an_example():
    examples = {b"|".join(args[:n]).decode() for args in split(EXAMPLES) for n in (1, 2)}
    with_keys = {name for name, line in rows() if "NO_KEYS" not in line and "NOT_KEY" not in line}
    assert with_keys - examples == set()


def known(upstream, commands):
    """The examples that this server has."""
    infos = upstream.all([[b"command", b"info", args[0]] for args in commands])
    return [args for args, info in zip(commands, infos) if info[0]]


def test_examples_list_the_servers_keys(upstream):
    commands = known(upstream, split(EXAMPLES))
    for args, answer, keys in zip(commands, ask_helper(commands), getkeys(upstream, commands)):
        assert our_keys(args, answer) == keys, (args, answer)


def test_supersets_list_at_least_the_servers_keys(upstream):
    commands = known(upstream, split(SUPERSETS))
    for args, answer, keys in zip(commands, ask_helper(commands), getkeys(upstream, commands)):
        assert our_keys(args, answer) > keys, (args, answer)


def test_options_and_operands_are_told_apart(upstream):
    commands = fooled()
    keys = [line.split(": ")[1].encode() for line in lines_of(FOOLED)]
    for args, answer, wanted in zip(commands, ask_helper(commands), keys):
        assert our_keys(args, answer) == Counter(wanted.split()), (args, answer)
    for args, seen, wanted in zip(commands, getkeys(upstream, commands), keys):
        assert not upstream.version.startswith(b"7.0.") or seen != Counter(wanted.split()), args  # or else there is no need for this test


def test_commands_without_keys(upstream):
    commands = split("""
ping k | publish c m | spublish c m | ssubscribe c | config get k | script load s | client id
command getkeys get k | pubsub channels k | multi | xinfo help
""")
    for args, answer, keys in zip(commands, ask_helper(commands), getkeys(upstream, commands)):
        assert our_keys(args, answer) == keys == Counter(), args


def test_error_texts(upstream):
    x = b"x" * 200
    commands = split("""
foo | Foo a '' | get | GET a b | object nope a | Client nope | client | config | client setname
xgroup create | 'client|id' | lmpop | memory Usage
""") + [[b"foo\r\nbar", b"a\nb"], [b"f\0o", b"a\0b", b"c"], [x], [b"foo", x], [b"config", x],
        [b"foo", x[:124], b"b", b"c"], [b"foo", x[:100], x[:100], b"z"], [b"object", b"\r\n"],
        [b"object", b"\0"], [b"", b""]]
    for args, answer in zip(commands, ask_helper(commands)):
        error = upstream(*args)
        code = "" if isinstance(error, redis.exceptions.NoPermissionError) else "ERR "
        assert answer == "-" + code + str(error), args


# --- any arguments at all ---------------------------------------------------------------------


def mutated(rng, args):
    """Near an example, so that many are legal, and then with words where they don't belong."""
    args = list(args)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(1, len(args) + 1)
        word = rng.choice(WORDS).encode()
        if rng.random() < 0.5:
            args[at:at] = [word]
        elif rng.random() < 0.8:
            args[at:at + 1] = [word]
        else:
            del args[at:at + 1]
    return args


def random_commands(upstream, seed, n):
    """Half of them with options that must be walked."""
    rng = random.Random(seed)
    examples = known(upstream, split(EXAMPLES) + split(SUPERSETS) + fooled())
    walked = [args for args in examples if args[0] in CAN_BE_FOOLED]
    commands = [mutated(rng, rng.choice(rng.choice((examples, walked)))) for _ in range(n)]
    answers = ask_helper(commands)
    return [(args, answer) for args, answer in zip(commands, answers)
            if answer.split()[0] in ("read", "write", "session")]


def test_random_arguments_list_at_least_the_servers_keys(upstream):
    tried = random_commands(upstream, 1, 20000)
    assert len(tried) > 10000
    tried = [(args, answer) for args, answer in tried if args[0].lower() not in CAN_BE_FOOLED]
    listed = [args for args, _ in tried]
    for (args, answer), keys in zip(tried, getkeys(upstream, listed)):
        assert not keys - our_keys(args, answer), (args, answer)


# One of each type, all of it secret, and such that the examples find something.
MAKERS = [
    [[b"set", b"K", SECRET]],
    [[b"rpush", b"K", SECRET, b"1"]],
    [[b"sadd", b"K", SECRET, b"m"]],
    [[b"zadd", b"K", b"1", SECRET, b"2", b"m"]],
    [[b"hset", b"K", b"f", SECRET, SECRET, b"1"]],
    [[b"geoadd", b"K", b"1", b"2", b"m", b"1", b"2", SECRET]],
    [[b"xadd", b"K", b"1-1", SECRET, b"1"], [b"xgroup", b"create", b"K", b"g", b"0"],
     [b"xgroup", b"create", b"K", b"streams", b"0"]],
]


def make_data(upstream, maker, names, public):
    """`public`: the same without secrets."""
    for name in names:
        for args in maker:
            reply = upstream(*(name if arg == b"K" else b"1" if public and arg == SECRET else arg
                               for arg in args))
            assert not isinstance(reply, Exception), (name, reply)


def start_with(upstream, maker):
    """Every word is a key of another service, and one of ours."""
    upstream(b"flushall")
    names = {word.encode() for word in WORDS} | {b"w_1", b"w_m", b"v_1", b"v_m"} | {
        arg for args in split(EXAMPLES) + split(SUPERSETS) for arg in args[1:]}
    make_data(upstream, maker, names, False)
    make_data(upstream, maker, {OURS + name for name in names}, True)


def snapshot(upstream):
    names = sorted(name for name in upstream(b"keys", b"*") if not name.startswith(OURS))
    return list(zip(names, upstream.all([[b"dump", name] for name in names])))


def rewritten(args, answer):
    """What the proxy would send."""
    args = list(args)
    for word in answer.split()[1:]:
        i = int(word.lstrip("p"))
        args[i] = OURS + args[i]
    return args


NOT_SENT = set(b"""watch blpop brpop blmove brpoplpush blmpop bzmpop bzpopmin bzpopmax migrate move
eval eval_ro evalsha evalsha_ro fcall fcall_ro""".split())


def sendable(args):
    """Nothing that blocks, changes the connection or the database, or asks a script or a host."""
    options = {arg.split(b"\0")[0].lower() for arg in args}
    return args[0].lower() not in NOT_SENT and not options & {b"block", b"db"}


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker[0][0].decode())
def test_no_arguments_reach_another_services_keys(upstream, maker):
    commands = [rewritten(args, answer)
                for args, answer in random_commands(upstream, repr(maker), 12000) if sendable(args)]
    start_with(upstream, maker)
    before = snapshot(upstream)
    assert len(before) > 50
    succeeded = 0
    for at in range(0, len(commands), 500):
        batch = commands[at:at + 500]
        for args, reply in zip(batch, upstream.all(batch)):
            succeeded += not isinstance(reply, Exception)
            assert SECRET not in repr(reply).encode(), args
    assert succeeded > len(commands) // 10
    assert snapshot(upstream) == before


def test_migrate_finds_no_key_of_another_service(upstream):
    upstream(b"flushall")
    make_data(upstream, MAKERS[0], {word.encode() for word in WORDS}, False)
    rng = random.Random(3)
    examples = [args for args in split(EXAMPLES) + split(SUPERSETS) if args[0] == b"migrate"]
    commands = [[b"migrate", b"127.0.0.1", b"1"] + mutated(rng, args)[3:]
                for args in rng.choices(examples, k=3000)]
    tried = [(args, answer) for args, answer in zip(commands, ask_helper(commands))
             if answer.startswith("write")]
    replies = upstream.all([rewritten(args, answer) for args, answer in tried])
    assert replies.count(b"NOKEY") > 300
    for (args, _), reply in zip(tried, replies):
        assert "IOERR" not in str(reply), args # it would have had something to send
