"""What a round of the test does: functions that give a list of Steps, for one or several connections.

Each takes a Maker (random commands, the protocol), and yields nothing that depends on replies.
"""
from generate import FUNCTION_SEED, LIBRARY, SCRIPT_SEED, SCRIPTS, SEED, SHAS, Key
from sides import OwnId, Step

CONNECTIONS = 3

# They change the connection itself, or have no single reply: not for a transaction's inside.
NOT_QUEUED = {"quit", "reset", "hello", "multi", "exec", "discard", "unwatch", "unsubscribe",
              "punsubscribe", "sunsubscribe", "client|reply", "auth", "select", "swapdb",
              "client|pause", "migrate", "bgsave", "bgrewriteaof", "save", "acl|log"}
# Not in a burst: the step that they need. In RESP3 the reply of UNSUBSCRIBE is a push; in a pipeline
# Redis 8.0 and Valkey 8.1 forget to answer a wrong password.
ALONE = {"quit": "last", "unsubscribe": "marked", "punsubscribe": "marked", "sunsubscribe": "marked",
         "auth": "burst", "hello": "burst"}


def K(name):
    return Key(name.encode())


def words(*args):
    """A command; str becomes bytes."""
    return [arg.encode() if isinstance(arg, str) else b"%d" % arg if isinstance(arg, int) else arg
            for arg in args]


class Maker:
    """Makes commands for one round. `resp` is the protocol of its connections."""

    def __init__(self, generator, resp, namespace):
        self.namespace = namespace
        self.generator = generator
        self.rng = generator.rng
        self.resp = resp

    def command(self, name=None):
        return self.generator.command(name)

    def queueable(self):
        while True:
            argv = self.command()
            if self.name(argv) not in NOT_QUEUED:
                return argv

    def name(self, argv):
        return self.generator.context.table.name(argv)

    def hello(self):
        return words("HELLO", self.resp)

    def prelude(self, connections=CONNECTIONS):
        """Every connection's protocol, and data to work on."""
        steps = [Step("burst", conn, [self.hello()]) for conn in range(connections)]
        seed = SEED + SCRIPT_SEED + FUNCTION_SEED
        if "vadd" in self.generator.grammar:
            seed = [*seed, words("VADD", K("v1"), "VALUES", 2, "1", "0", "a")]
        return [*steps, Step("burst", 0, seed)]

    def with_care(self, argv):
        """A command with what its effects ask for, that others after it may succeed."""
        name = self.name(argv)
        if name == "reset":
            return [argv, self.hello(), words("SELECT", 0)]
        if name == "select":
            return [argv, self.queueable(), words("SELECT", 0)]
        if name == "xadd" and b"*" in argv:
            return [argv, words("DEL", K("lone"))]
        return [argv, *self.generator.care(argv)]


def cut(maker, commands):
    """In bursts of random size."""
    while commands:
        n = maker.rng.choice([1, 1, 2, 3, 5, 8, 13, 30])
        yield commands[:n]
        commands = commands[n:]


# --- rounds ----------------------------------------------------------------------------------------


def plain(maker, calls=150):
    """Commands of all kinds, in bursts, over several connections."""
    steps = maker.prelude()
    while calls > 0:
        conn = maker.rng.randrange(CONNECTIONS)
        commands = []
        for _ in range(maker.rng.choice([1, 2, 5, 10, 20])):
            argv = maker.command()
            name = maker.name(argv)
            if name in ALONE:
                steps += [Step("burst", conn, part) for part in cut(maker, commands)]
                calls -= len(commands)
                commands = []
                steps.append(Step(ALONE[name], conn, [argv]))
                if name in ("quit", "hello"):
                    steps.append(Step("burst", conn, [maker.hello(), words("SELECT", 0)]))
            else:
                commands += maker.with_care(argv)
        steps += [Step("burst", conn, part) for part in cut(maker, commands)]
        calls -= len(commands)
    return steps


def transaction(maker):
    """MULTI with anything in it; WATCH with and without a conflict."""
    rng = maker.rng
    steps = maker.prelude()
    for _ in range(8):
        conn, other = rng.sample(range(CONNECTIONS), 2)
        key = rng.choice(["s1", "l1", "h1", "none", "s2"])
        if rng.random() < 0.6:
            steps.append(Step("burst", conn, [words("WATCH", *[K(k) for k in {key, "n1"}])]))
            if rng.random() < 0.5:
                steps.append(Step("burst", conn, [words("GET", K(key)), maker.queueable()]))
            disturbance = rng.randrange(6)
            if disturbance == 0:
                steps.append(Step("burst", other, [words("APPEND", K("s1"), "x"),
                                                   words("SET", K("none"), "now")]))
            elif disturbance == 1:
                steps.append(Step("outside", None, [words("SET", K(key), "outside")]))
            elif disturbance == 2:
                steps.append(Step("burst", conn, [words("UNWATCH")]))
            elif disturbance == 3:
                steps.append(Step("burst", other, [words("FLUSHALL"), *SEED]))
            elif disturbance == 4:
                steps.append(Step("foreign", None, [words("SET", "s1", "FOREIGN"),
                                                    words("SET", "*", "FOREIGN")]))
        block = [words("MULTI")]
        block += [maker.queueable() for _ in range(rng.choice([0, 1, 3, 8, 20]))]
        dice = rng.random()
        if dice < 0.1:
            block.insert(rng.randrange(1, len(block) + 1), words("MULTI"))
        elif dice < 0.2:
            block.insert(rng.randrange(1, len(block) + 1), words("WATCH", K("s1")))
        elif dice < 0.3:
            block.insert(rng.randrange(1, len(block) + 1), words("NOSUCH", "command"))
        elif dice < 0.35:
            block.insert(rng.randrange(1, len(block) + 1), words("UNWATCH"))
        block.append(words(rng.choice(["EXEC", "EXEC", "EXEC", "EXEC", "DISCARD"])))
        if rng.random() < 0.1:
            block.append(words(rng.choice(["EXEC", "DISCARD", "UNWATCH", "WATCH", "MULTI x",
                                           "EXEC x"]).split()[0], *["x"] * rng.randrange(2)))
            if block[-1] == words("MULTI"):
                block.append(words("DISCARD"))
        steps += [Step("burst", conn, part) for part in cut(maker, block)]
        steps.append(Step("burst", other, [words("UNWATCH")]))
        steps.append(Step("burst", conn, [words("UNWATCH"), *SEED]))
    steps.append(Step("burst", 0, [words("MULTI"), words("SET", K("s1"), "never")]))
    steps.append(Step("close", 0))
    steps.append(Step("burst", 1, [words("GET", K("s1"))]))
    return steps


def easy_transaction(maker):
    """MULTI with commands that mostly succeed, and the errors that a running one may give."""
    steps = maker.prelude()
    for _ in range(6):
        block = [maker.generator.form(maker.rng.choice(EASY)) for _ in range(8)]
        steps.append(Step("burst", 0, [words("MULTI"), *block, words("EXEC")]))
        steps += [Step("burst", 1, [argv]) for argv in [words("MULTI"), *block[:3], words("EXEC")]]
    return steps


EASY = ["get", "set", "mget", "lrange", "hgetall", "smembers", "zrange", "lmpop", "zmpop", "blpop",
        "bzpopmin", "blmpop", "xread", "xreadgroup", "keys", "scan", "incr", "incrbyfloat", "geopos",
        "hset", "sort", "exists", "object|encoding", "eval", "fcall", "command|getkeys", "dbsize",
        "bzmpop", "randomkey", "xinfo|stream", "zscore", "getdel", "publish", "client|getname"]


def blocking(maker):
    """Every blocking command: woken by another connection, by nobody, by CLIENT UNBLOCK, or ended."""
    rng = maker.rng
    calls = [
        (words("BLPOP", K("q1"), K("q2"), 0), words("RPUSH", K("q2"), "a", "b")),
        (words("BRPOP", K("q1"), K("q2"), 5), words("RPUSH", K("q1"), "a", "b")),
        (words("BLMOVE", K("q1"), K("q3"), "LEFT", "RIGHT", 5), words("LPUSH", K("q1"), "a")),
        (words("BRPOPLPUSH", K("q1"), K("q3"), 5), words("LPUSH", K("q1"), "a")),
        (words("BLMPOP", 5, 2, K("q1"), K("q2"), "LEFT", "COUNT", 2), words("RPUSH", K("q2"), "a")),
        (words("BZPOPMIN", K("q1"), K("q2"), 5), words("ZADD", K("q2"), "1.5", "a")),
        (words("BZPOPMAX", K("q1"), 0), words("ZADD", K("q1"), "1.5", "a", "7", "b")),
        (words("BZMPOP", 5, 1, K("q1"), "MAX"), words("ZADD", K("q1"), "inf", "a")),
        (words("XREAD", "BLOCK", 0, "STREAMS", K("x1"), K("x2"), "$", "$"),
         words("XADD", K("x1"), "500-1", "f", "v")),
        (words("XREADGROUP", "GROUP", "g1", "c1", "BLOCK", 5000, "STREAMS", K("x3"), ">"),
         words("XADD", K("x3"), "600-1", "f", "v")),
    ]
    steps = maker.prelude()
    steps.append(Step("burst", 1, [words("XGROUP", "CREATE", K("x3"), "g1", "$", "MKSTREAM")]))
    for call, wake in rng.sample(calls, len(calls)):
        steps.append(Step("block", 0, [call]))
        how = rng.randrange(8)
        if how < 4:
            steps.append(Step("burst", 1, [wake]))
        elif how == 4:
            steps.append(Step("outside", None, [wake]))
        elif how == 5:
            steps.append(Step("burst", 1, [words("CLIENT", "UNBLOCK", OwnId(0), "ERROR")]))
        elif how == 6:
            steps.append(Step("burst", 1, [words("CLIENT", "UNBLOCK", OwnId(0))]))
        else:
            steps.append(Step("foreign", None, [words("DEL", "q1", "q2"), words("RPUSH", "q1", "x"),
                                                words("DEL", "q1")]))
            steps.append(Step("burst", 1, [words("MULTI"), wake, wake, words("EXEC")]))
        steps.append(Step("read", 0, [call]))
        steps.append(Step("burst", 0, [words("PING", "still here"),
                                       words("DEL", K("q1"), K("q2"), K("q3"))]))
    call, wake = rng.choice(calls[:8])
    steps.append(Step("block", 0, [call]))
    steps.append(Step("hang_up", 0))
    steps.append(Step("burst", 1, [wake]))
    steps.append(Step("burst", 2, [words("TYPE", K("q1")), words("TYPE", K("q2"))]))
    steps.append(Step("burst", 1, [words("DEL", K("q1"), K("q2"), K("q3"))]))
    empty = ["BLPOP q1 0.01", "BRPOP q1 q2 0.01", "BLMOVE q1 q2 LEFT LEFT 0.01", "BZPOPMIN q1 0.01",
             "BRPOPLPUSH q1 q2 0.01", "BZPOPMAX q1 0.01", "BLMPOP 0.01 1 q1 LEFT",
             "BZMPOP 0.01 1 q1 MIN", "XREAD BLOCK 10 STREAMS q1 $", "WAIT 1 10"]
    steps.append(Step("burst", 1, [[K(w.decode()) if w[:1] == b"q" else w for w in
                                    words(*call.split())] for call in rng.sample(empty, len(empty))]))
    return steps


def pubsub(maker):
    """Subscriptions of every kind, messages from other connections and from outside."""
    rng = maker.rng
    steps = maker.prelude()
    subscriber, publisher = 0, 1
    channels = ["ch1", "ch2", "news.a", "a\r\nb", "svc:x", "*"]
    for _ in range(10):
        dice = rng.randrange(10)
        some = rng.sample(channels, rng.randrange(1, 4))
        if dice < 3:
            command = words(rng.choice(["SUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE"]), *some)
        elif dice < 5:
            command = words("PSUBSCRIBE", *rng.sample(["ch*", "n?ws.[a-c]", "*", "a*"], 2))
        elif dice < 7:
            command = words(rng.choice(["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"]),
                            *some[:rng.randrange(3)])
        elif dice == 7:
            command = words(rng.choice(["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"])) # too few
        elif dice == 8:
            command = words("GET", K("s1"))
        else:
            command = words("PING", *some[:rng.randrange(2)])
        steps.append(Step("marked", subscriber, [command]))
        publish = [words(rng.choice(["PUBLISH", "PUBLISH", "SPUBLISH"]), rng.choice(channels),
                         f"message {len(steps)} {n}") for n in range(rng.randrange(4))]
        if publish:
            steps.append(Step("burst", publisher, [
                *publish, words("PUBSUB", "NUMPAT"), words("PUBSUB", "NUMSUB", *channels),
                words("PUBSUB", "CHANNELS"), words("PUBSUB", "SHARDCHANNELS"),
                words("PUBSUB", "SHARDNUMSUB", *channels)]))
        if rng.random() < 0.3:
            steps.append(Step("outside", None, [words("PUBLISH", rng.choice(channels), "outside")]))
        steps.append(Step("marked", subscriber, [words("PING")]))
    steps.append(Step("marked", subscriber, [words(name) for name in
                                             ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE")])) # too few
    if rng.random() < 0.5:
        steps.append(Step("marked", subscriber, [words("PUBLISH", "ch1", "own")]))
    steps += [Step("marked", subscriber, [words(name)])
              for name in ("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE")]
    steps.append(Step("burst", subscriber, [words("GET", K("s1")), words("RESET"), maker.hello()]))
    return steps


def unsubscribed_by_reset(maker):
    """RESET, QUIT and a lost connection in the middle of subscriptions."""
    steps = maker.prelude()
    steps.append(Step("marked", 0, [words("SUBSCRIBE", "ch1", "ch2"), words("PSUBSCRIBE", "c*")]))
    steps.append(Step("burst", 1, [words("PUBLISH", "ch1", "x"), words("PUBSUB", "NUMSUB", "ch1")]))
    steps.append(Step("marked", 0, [words("PING"), words("GET", "x"), words("RPUSH", K("x"), "y"),
                                     words("BLPOP", K("x"), 0)] if maker.resp == 3 else
                      [words("PING"), words("GET", "x"), words("MULTI"), words("BLPOP", "x", 0)]))
    steps.append(Step("marked", 0, [words("RESET")]))
    steps.append(Step("burst", 1, [words("PUBLISH", "ch1", "x"), words("PUBSUB", "NUMSUB", "ch1")]))
    steps.append(Step("marked", 0, [words("GET", K("s1")), words("SUBSCRIBE", "ch1")]))
    steps.append(Step("last", 0, [words("QUIT")]))
    return steps


def keyspace_events(maker):
    """Notifications speak of keys: this namespace's, by the names that clients know."""
    steps = maker.prelude()
    steps.append(Step("outside", None, [words("CONFIG", "SET", "notify-keyspace-events", "KEA")]))
    how = maker.rng.randrange(4)
    subscribe = [words("SUBSCRIBE", "__keyspace@0__:s1", "__keyevent@0__:set"),
                 words("PSUBSCRIBE", "__keyspace@0__:*"),
                 words("PSUBSCRIBE", "__key*__:*"),
                 words("PSUBSCRIBE", "__keyevent@*__:*")][how]
    steps.append(Step("marked", 0, [subscribe]))
    steps.append(Step("foreign", None, [words("SET", "s1", "FOREIGN")]))
    for command in (words("SET", K("s1"), "x"), words("DEL", K("s1")), words("RPUSH", K("l1"), "x"),
                    words("RENAME", K("s2"), K("s1")), words("EXPIRE", K("s1"), 1000),
                    words("SETEX", K("n1"), 1000, "x"), words("LPOP", K("l1"))):
        steps.append(Step("burst", 1, [command]))
        steps.append(Step("marked", 0, [words("PING")]))
    steps.append(Step("outside", None, [words("SET", K("s1"), "outside")]))
    steps.append(Step("marked", 0, [words("PING"), words("PUNSUBSCRIBE"), words("UNSUBSCRIBE")]))
    return steps


def hello(maker):
    """The protocol changes in the middle of a connection, also of a pipeline."""
    rng = maker.rng
    steps = maker.prelude()
    for _ in range(12):
        conn = rng.randrange(CONNECTIONS)
        commands = []
        for _ in range(rng.choice([1, 3, 6])):
            commands += rng.choice([
                [words("HELLO", 2)], [words("HELLO", 3)], [words("HELLO")], [words("HELLO", 4)],
                [words("HELLO", 3, "SETNAME", "me")], [words("HELLO", 3, "SETNAME")],
                [words("HELLO", 2, "NOSUCH")],
                [words("HELLO", 3, "SETNAME", "a b")], [words("CLIENT", "GETNAME")],
                [words("HELLO", "x")], [words("RESET")]])
            commands += [maker.generator.form(rng.choice(READS)) for _ in range(3)]
        steps += [Step("burst", conn, part) for part in cut(maker, commands)]
        if rng.random() < 0.2:
            steps.append(Step("burst", conn, [words("HELLO", rng.choice([2, 3]), "AUTH", "default", "x",
                                                    "SETNAME", "never")]))
    return steps


READS = ["hgetall", "smembers", "zscore", "zrange", "get", "mget", "config|get", "geopos", "exists",
         "xread", "hrandfield", "zrandmember", "incrbyfloat", "lolwut", "info", "command|docs",
         "memory|stats", "client|list", "eval", "zpopmin", "xinfo|stream", "zinter", "smismember",
         "sinter", "geodist", "lpos", "lmpop", "hget", "function|list", "acl|getuser", "zmscore",
         "command|info", "client|trackinginfo", "object|help", "zadd", "set", "zrank", "lcs"]


def silence(maker):
    """CLIENT REPLY. Not from within MULTI: Redis leaves out elements of EXEC's own reply then."""
    steps = maker.prelude()
    for _ in range(4):
        some = [maker.generator.form(maker.rng.choice(PLAIN)) for _ in range(3)]
        steps += [
            Step("whole", 0, [words("CLIENT", "REPLY", "SKIP"), some[0], words("GET", K("s1"))]),
            Step("whole", 1, [words("CLIENT", "REPLY", "OFF"), *some, words("SET", K("s1"), "x"),
                              words("CLIENT", "REPLY", "ON"), words("GET", K("s1"))]),
            Step("whole", 2, [words("CLIENT", "REPLY", "OFF"), some[1],
                              words("CLIENT", "REPLY", "SKIP"), words("GET", K("s1")),
                              words("CLIENT", "REPLY", "ON")]),
            Step("whole", 0, [words("CLIENT", "REPLY", "SKIP"), words("MULTI"), some[2],
                              words("EXEC"), words("ECHO", "y")]),
            Step("whole", 1, [words("CLIENT", "REPLY", "OFF"), words("RESET")]),
            Step("burst", 1, [maker.hello()]),
            Step("burst", 0, [words("DISCARD"), *SEED]),
        ]
    steps.append(Step("burst", 2, [words("CLIENT", "REPLY"), words("CLIENT", "REPLY", "x"),
                                   words("CLIENT", "REPLY", "ON", "x")]))
    return steps


PLAIN = ["get", "set", "mget", "lrange", "zrange", "incr", "hset", "lmpop", "xread", "dbsize", "echo"]


def reset(maker):
    """RESET out of every state."""
    rng = maker.rng
    steps = maker.prelude()
    for state in rng.sample([
            [words("MULTI"), words("SET", K("s1"), "never")], [words("WATCH", K("s1"))],
            [words("SELECT", 3), words("SET", K("s1"), "in 3")], [words("CLIENT", "SETNAME", "me")],
            [words("HELLO", 3)], [words("CLIENT", "NO-EVICT", "ON")],
            [words("CLIENT", "TRACKING", "ON")], [words("READONLY")],
            [words("MULTI"), words("NOSUCH")]], 6):
        steps.append(Step("burst", 0, state))
        steps.append(Step("burst", 0, [words("RESET"), words("GET", K("s1")), words("EXEC"),
                                       words("CLIENT", "GETNAME"), words("CLIENT", "TRACKINGINFO"),
                                       words("HGETALL", K("one"))]))
    steps.append(Step("burst", 0, [words("RESET", "x"), words("SELECT", 3), words("DEL", K("s1"))]))
    return steps


def databases(maker):
    """SELECT, MOVE, COPY .. DB, SWAPDB; also in transactions."""
    rng = maker.rng
    steps = maker.prelude()
    for _ in range(25):
        conn = rng.randrange(CONNECTIONS)
        commands = [rng.choice([
            words("SELECT", rng.choice([0, 1, 2, 9])), words("SELECT", rng.choice([16, -1, "x", ""])),
            words("MOVE", K("s1"), rng.choice([0, 1, 2, 2, 16])),
            words("COPY", K("s1"), K("s1"), "DB", rng.choice([0, 1, 2, 9]), "REPLACE"),
            words("SWAPDB", rng.choice([8, 9]), rng.choice([8, 9])),
            words("SET", K("s1"), "in %d" % rng.randrange(9)), words("GET", K("s1")),
            words("MGET", K("s1"), K("n1")), words("DBSIZE"), words("KEYS", "*"),
            words("FLUSHDB"), words("RANDOMKEY"), words("INCR", K("n1"))])
            for _ in range(rng.choice([1, 2, 5]))]
        if rng.random() < 0.25:
            commands = [words("MULTI"), *commands, words("EXEC")]
        steps.append(Step("burst", conn, commands))
    return steps


def tracking(maker):
    """CLIENT TRACKING by the client itself, in all its modes. In a namespace FLUSHALL deletes keys, and
    each is told by its name; without one everybody is told of everything."""
    rng = maker.rng
    steps = maker.prelude()
    tracker, redirect = 0, []
    if maker.resp == 2:
        steps.append(Step("marked", 2, [words("SUBSCRIBE", "__redis__:invalidate")]))
        redirect = ["REDIRECT", OwnId(2)]
    listener = 2 if maker.resp == 2 else tracker
    mode = rng.choice([[], ["OPTIN"], ["OPTOUT"], ["BCAST"], ["BCAST", "PREFIX", "s"],
                       ["BCAST", "PREFIX", "l", "PREFIX", "h"], ["NOLOOP"], ["BCAST", "NOLOOP"],
                       ["BCAST", "PREFIX", ""]])
    steps.append(Step("burst", tracker, [
        words("CLIENT", "TRACKING", "ON", "OPTIN"), words("CLIENT", "CACHING", "YES"),
        words("GET", K("n1")), words("CLIENT", "CACHING", "NO"), words("CLIENT", "TRACKING", "OFF")]))
    steps.append(Step("marked", tracker, [words("CLIENT", "TRACKING", "ON", *redirect, *mode)]))
    steps.append(Step("marked", tracker, [words("CLIENT", "GETREDIR"), words("CLIENT", "TRACKINGINFO")]
                      if maker.resp == 3 else [words("CLIENT", "CACHING", "x")]))
    for _ in range(6):
        read = [words("GET", K("s1")), words("MGET", K("s2"), K("n1")), words("LRANGE", K("l1"), 0, 1),
                words("HGETALL", K("one")), words("GET", K("none"))]
        rng.shuffle(read)
        caching = [words("CLIENT", "CACHING", "YES" if "OPTIN" in mode else "NO")]
        steps.append(Step("marked", tracker, caching[:rng.randrange(2)] + read[:3]))
        steps.append(Step(*rng.choice([("marked", tracker), ("burst", 1)]), [rng.choice([
            words("SET", K("s1"), "x"), words("RPUSH", K("l1"), "x"), words("DEL", K("none"), K("s2")),
            words("SET", K("none"), "x"), words("INCR", K("n1")), words("HSET", K("one"), "a", "b"),
            words("DEL", K("l1")) if maker.namespace else words("FLUSHALL")])]))
        steps.append(Step("foreign", None, [words("SET", "s1", "FOREIGN")]))
        steps.append(Step("marked", listener, [words("PING")]))
    steps.append(Step("marked", tracker, [words("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "s",
                                                "PREFIX", "s1"), words("CLIENT", "TRACKING", "OFF"),
                                          words("CLIENT", "GETREDIR"), words("GET", K("s1"))]))
    steps.append(Step("burst", 1, [words("SET", K("s1"), "not told")]))
    steps.append(Step("marked", listener, [words("PING")]))
    return steps


def scans(maker):
    """Whole iterations, over more than one page."""
    rng = maker.rng
    steps = maker.prelude()
    many = [b"k%d" % n for n in range(rng.choice([30, 300]))]
    steps.append(Step("burst", 0, [
        [b"MSET", *[x for name in many for x in (Key(name), b"v")]], [b"SADD", K("set3"), *many],
        [b"HSET", K("h:3"), *[x for name in many for x in (name, b"v")]],
        [b"ZADD", K("z3"), *[x for n, name in enumerate(many) for x in (b"%d" % n, name)]]]))
    for options in ([], ["MATCH", "k1*"], ["COUNT", 7], ["COUNT", 1, "MATCH", "s*"], ["TYPE", "list"],
                    ["TYPE", "string", "COUNT", 50], ["MATCH", "[s-z]*"], ["MATCH", "none"]):
        steps.append(Step("scan", rng.randrange(CONNECTIONS), [words("SCAN", *options)]))
    for options in ([], ["MATCH", "k1*"], ["COUNT", 7]):
        for command, key in (("SSCAN", "set3"), ("HSCAN", "h:3"), ("ZSCAN", "z3")):
            steps.append(Step("scan", 1, [words(command, K(key), *options)]))
    steps.append(Step("burst", 2, [words("DBSIZE"), words("KEYS", "*"), words("KEYS", "k2?")]))
    return steps


def scripts(maker):
    """Scripts by SHA, functions, and what they are told."""
    rng = maker.rng
    steps = maker.prelude()
    choices = [
        words("SCRIPT", "LOAD", SCRIPTS[1]), words("SCRIPT", "EXISTS", *SHAS), words("SCRIPT", "FLUSH"),
        words("EVALSHA", SHAS[0], 1, K("s1"), "value"), words("EVALSHA", SHAS[1], 0, "a"),
        words("EVALSHA", SHAS[2].upper(), 0), words("EVALSHA_RO", SHAS[0], 1, K("s1"), "value"),
        words("EVALSHA", "short", 0), words("EVALSHA", SHAS[0], 5, K("s1")),
        words("EVALSHA", SHAS[0], -1, K("s1")), words("EVAL", SCRIPTS[0], 1, K("s2"), "value"),
        words("EVAL", "return redis.call('get', KEYS[2])", 2, K("s1"), K("s2")),
        words("EVAL", "return redis.call('incr', KEYS[1])", 1, K("l1")),
        words("EVAL", "return KEYS", 2, K("s1"), K("none")), words("EVAL", "return KEYS[1]", 1, K("")),
        words("EVAL", "return redis.call('nosuch')", 0), words("EVAL", "error('own')", 0),
        words("EVAL", "return redis.sha1hex(ARGV[1])", 0, "x"),
        words("EVAL", "return cjson.encode({a=1})", 0), words("EVAL", "return", "x"),
        words("FUNCTION", "LOAD", "REPLACE", LIBRARY), words("FUNCTION", "LOAD", LIBRARY),
        words("FUNCTION", "DELETE", "mylib"), words("FUNCTION", "LIST", "WITHCODE"),
        words("FUNCTION", "FLUSH"), words("FCALL", "put", 1, K("s1"), "by function"),
        words("FCALL", "size", 1, K("s1")), words("FCALL_RO", "size", 1, K("s1")),
        words("FCALL_RO", "put", 1, K("s1"), "x"), words("FCALL", "fail", 0), words("FCALL", "put", 9),
        words("GET", K("s1")), words("MGET", K("s1"), K("s2")), words("FUNCTION", "STATS")]
    for _ in range(10):
        commands = [rng.choice(choices) for _ in range(rng.choice([1, 4, 10]))]
        if rng.random() < 0.2:
            commands = [words("MULTI"), *commands, words("EXEC")]
        steps.append(Step("burst", rng.randrange(CONNECTIONS), commands))
    return steps


def flushes(maker):
    """FLUSHDB and FLUSHALL take this namespace's keys in the right databases, and only those."""
    steps = maker.prelude()
    for _ in range(4):
        steps.append(Step("burst", 1, [words("SELECT", maker.rng.choice([1, 2])), *SEED[:6]]))
        steps.append(Step("burst", maker.rng.randrange(CONNECTIONS), [
            words("GET", K("s1")), words("FLUSHDB" if maker.rng.random() < 0.6 else "FLUSHALL"),
            words("GET", K("s1")), words("DBSIZE"), words("RANDOMKEY"), words("FLUSHDB", "x")]))
        steps.append(Step("burst", 0, [words("DBSIZE"), words("KEYS", "*"), *SEED[:8]]))
    return steps


INLINE = [b"PING\r\n", b"  get  s1 \r\n", b"set 'a b' \"x\\x41\\n\"\r\n", b"\r\n", b"get 's1'x\r\n",
          b"get \"s1\r\n", b"echo ''\n", b"DEL 'a b'\r\n"]
BROKEN = [b"*1\r\n$-5\r\n", b"*x\r\n", b"*3000000000\r\n", b"*1\r\n:5\r\n", b"*1\r\n$x\r\n",
          b"*1\r\n$999999999999\r\n", b"*-1\r\nPING\r\nQUIT\r\n",
          b"*0\r\n*1\r\n$4\r\nQUIT\r\n", b"get \"s1\r\n", b"*1\r\n$4\r\nPINGxxQUIT\r\nquit\r\n"]


def raw_bytes(maker):
    """Inline commands, and what is no RESP: the error, then the end of the connection."""
    rng = maker.rng
    steps = maker.prelude()
    for _ in range(4):
        some = [part for part in rng.sample(INLINE, 4) if not part.startswith(b'get "s1\r')
                and b"'x" not in part]
        steps.append(Step("whole", 1, [*some, words("ECHO", "end")]))
    for n, bad in enumerate(rng.sample(BROKEN, 4)):
        steps.append(Step("burst", 10 + n, [words("HELLO", maker.resp), words("GET", K("s1"))]))
        steps.append(Step("last", 10 + n, [words("SET", K("s1"), "x"), bad]))
    steps.append(Step("last", 2, [words("INCR", K("n1")), words("QUIT"), words("INCR", K("n1"))]))
    steps.append(Step("burst", 0, [words("GET", K("n1")), words("", ""), words("GET\x00"), words("")]))
    return steps


def monitor(maker):
    """MONITOR shows what the proxy's own clients send, as they sent it; not what a script in the server
    calls, which no proxy can tell from the scripts of others."""
    steps = maker.prelude()
    steps.append(Step("burst", 0, [words("MONITOR", "x"), words("MONITOR")]))
    for _ in range(5):
        command, lines = maker.rng.choice([
            (words("GET", K("s1")), 1), (words("SET", K("s1"), "a\r\n\x00\"x"), 1),
            (words("MGET", K("s1"), K("n1")), 1), (words("EVAL", "return 1", 0), 1),
            (words("EVAL", "return {KEYS[1], ARGV[1]}", 0, "x"), 1), (words("PING", "x"), 1),
            (words("SELECT", 2), 1),
            (words("DBSIZE"), 1), (words("GET", "too", "many"), 0), (words("nosuch"), 0),
            (words("CLIENT", "SETNAME", "x"), 1), (words("BLPOP", K("l1"), 1), 1),
            (words("keys", "*"), 1), (words("auth", "default", "secret"), 1)])
        steps.append(Step("burst", 1, [command]))
        steps.append(Step("monitor", 0, [command] * lines))
    transaction = [words("MULTI"), words("SET", K("s1"), "x"), words("GET", K("s1")), words("EXEC")]
    steps.append(Step("burst", 1, transaction))
    steps.append(Step("monitor", 0, transaction))
    steps.append(Step("close", 0))
    return steps


def kills(maker):
    """CLIENT KILL and CLIENT LIST of connections that there are."""
    steps = maker.prelude(4)
    steps += [
        Step("burst", 0, [words("CLIENT", "LIST", "ID", OwnId(1), OwnId(2)),
                          words("CLIENT", "KILL", "ID", OwnId(1))]),
        Step("last", 1, []),
        Step("burst", 0, [words("CLIENT", "KILL", "ID", OwnId(2), "SKIPME", "yes"),
                          words("CLIENT", "KILL", "ID", OwnId(2)),
                          words("CLIENT", "KILL", "ID", OwnId(0), "SKIPME", "yes"),
                          words("CLIENT", "UNBLOCK", OwnId(0)), words("CLIENT", "UNBLOCK", OwnId(3))]),
        Step("last", 2, []),
        Step("last", 0, [words("CLIENT", "KILL", "ID", OwnId(0), "SKIPME", "no")]),
    ]
    return steps


def anything(maker):
    """States upon states: what a client may do that nobody would."""
    rng = maker.rng
    steps = maker.prelude(2)
    for _ in range(40):
        command = rng.choice([
            words("WATCH", K("s1")), words("UNWATCH"), words("CLIENT", "TRACKINGINFO"),
            words("BLPOP", K("q1"), "0.01"), words("BLPOP", K("l1"), K("q1"), "0.01"),
            words("SELECT", rng.choice([0, 1])), words("GET", K("s1")), words("SET", K("s1"), "x"),
            words("WAIT", 0, 0), words("XREAD", "BLOCK", 10, "STREAMS", K("x1"), "$"),
            words("CLIENT", "SETNAME", "n"), words("CLIENT", "GETNAME"), words("CLIENT", "GETREDIR"),
            words("MULTI"), words("EXEC"), words("DISCARD"), words("EXEC"), words("MULTI"),
            words("MGET", K("s1"), K("none")), words("DBSIZE"),
            words("EVAL", SCRIPTS[0], 1, K("s1"), "v")])
        steps.append(Step("burst", 0, [command]))
        if rng.random() < 0.2:
            steps.append(Step("burst", 1, [words("APPEND", K("s1"), "y"), words("RPUSH", K("l1"), "y")]))
    steps.append(Step("burst", 0, [words("RESET"), maker.hello()]))
    return steps


def mixture(maker):
    """All states in one pipeline: transactions, subscriptions, blocking, protocol, what they print."""
    rng = maker.rng
    steps = maker.prelude(2)
    for n in range(8):
        commands, queueing = [], False
        for _ in range(rng.choice([3, 8, 20])):
            some = rng.choice([
                [words("GET", K("s1"))], [words("SET", K("s1"), "v%d" % n)], [words("INCR", K("n1"))],
                [words("MULTI")], [words("EXEC")], [words("DISCARD")], [words("WATCH", K("s1"), K("s2"))],
                [words("MULTI"), words("LRANGE", K("l1"), 0, 1), words("EXEC")],
                [words("SUBSCRIBE", "ch1")], [words("SUBSCRIBE", "ch1", "ch2")],
                [words("UNSUBSCRIBE", "ch1")], [words("PSUBSCRIBE", "c*")], [words("PING", "x")],
                [words("SUBSCRIBE", "ch1"), words("PUBLISH", "ch1", "own"), words("UNSUBSCRIBE", "ch1")],
                [words("PUBLISH", "ch1", "message %d" % n)], [words("RESET"), maker.hello(), words("RESET")],
                [words("BLPOP", K("q1"), "0.001")], [words("RPUSH", K("l1"), "x")],
                [words("BLPOP", K("l1"), 1)], [words("SELECT", rng.choice([0, 1]))],
                [words("HELLO", 3)], [words("HELLO", 2)], [words("CLIENT", "GETNAME")],
                [words("CLIENT", "TRACKING", rng.choice(["ON", "OFF"]))], [words("NOSUCH")],
                [words("ZSCORE", K("z1"), "a")], [words("HGETALL", K("one"))], [words("MGET", K("s1"))],
                [words("XREAD", "BLOCK", 1, "STREAMS", K("x1"), "$")], [words("UNWATCH")],
                [words("EVAL", SCRIPTS[0], 1, K("s1"), "by script")], [words("EXEC", "x")]])
            # Redis 7.0 puts messages that a transaction causes into the middle of EXEC's reply.
            # Its tracking table outlives a RESET: keys read before are told of when tracking is on again.
            if words("CLIENT", "TRACKING", "ON") in some and some[0] in commands:
                continue
            if not queueing or not any(b"ch1" in argv or b"c*" in argv for argv in some):
                commands += some
                queueing = some[-1][0] == b"MULTI" or queueing and some[-1][0] not in (
                    b"EXEC", b"DISCARD", b"RESET")
        # The PING that ends a step must neither be queued nor be skipped.
        commands += [words("DISCARD"), words("UNSUBSCRIBE", "ch1", "ch2"), words("PUNSUBSCRIBE", "c*"),
                     words("RESET")]
        steps.append(Step("whole", 20 + n, [maker.hello(), *commands]))
        # Another client, which may be lent what that one was lent, sees nothing of it.
        steps.append(Step("burst", 1, [
            words("UNWATCH"), words("BLPOP", K("q1"), "0.001"), words("EXEC"), words("GET", K("s1")),
            words("LRANGE", K("l1"), 0, -1), words("CLIENT", "TRACKINGINFO")]))
    return steps


def large(maker):
    """Replies that don't fit any buffer, before and behind small ones, also in transactions."""
    rng = maker.rng
    steps = maker.prelude()
    many = [b"%d" % n for n in range(3000)]
    steps.append(Step("burst", 0, [
        words("SET", K("s1"), b"s" * 3000000), words("SET", K("s2"), b"t" * 700000),
        words("RPUSH", K("l1"), *many), words("RPUSH", K("l2"), *many, b"x" * 200000),
        words("ZADD", K("z1"), *[x for name in many for x in (name, name)])]))
    for _ in range(4):
        commands = [rng.choice([
            words("GET", K("s1")), words("GET", K("s2")), words("MGET", K("s2"), K("n1"), K("s2")),
            words("LRANGE", K("l1"), 0, -1), words("LRANGE", K("l2"), 0, -1), words("GET", K("n1")),
            words("ZRANGE", K("z1"), 0, -1, "WITHSCORES"), words("ECHO", b"e" * 300000),
            words("GETRANGE", K("s1"), 5, 100000), words("EVAL", "return redis.call('get', KEYS[1])", 1,
                                                         K("s2")),
            words("LPOP", K("l1"), 500), words("SETRANGE", K("s1"), 1000000, "changed")])
            for _ in range(rng.choice([1, 3, 6]))]
        if rng.random() < 0.4:
            commands = [words("MULTI"), *commands, words("EXEC")]
        steps.append(Step("burst", rng.randrange(2), commands))
    return steps


def expiry(maker):
    """A key whose time is over is served by nobody."""
    steps = maker.prelude()
    steps.append(Step("burst", 0, [words("SET", K("s1"), "x", "PX", 20), words("GET", K("s2")),
                                   words("PEXPIRE", K("s2"), 20), words("PEXPIRE", K("l1"), 20)]))
    steps.append(Step("gone", 1, [words("GET", K("s1"))]))
    steps.append(Step("gone", 0, [words("GET", K("s2"))]))
    steps.append(Step("gone", 0, [words("LLEN", K("l1"))]))
    steps.append(Step("burst", 0, [words("MGET", K("s1"), K("s2")), words("EXISTS", K("s1")),
                                   words("SET", K("s1"), "again"), words("GET", K("s1"))]))
    return steps


# Each with how often it comes, beside the others.
ROUNDS = {
    plain: 20, transaction: 4, easy_transaction: 2, blocking: 2, pubsub: 3, unsubscribed_by_reset: 1,
    keyspace_events: 1, hello: 2, silence: 1, reset: 1, databases: 2, tracking: 2, scans: 1, scripts: 2,
    flushes: 1, raw_bytes: 1, monitor: 1, kills: 1, anything: 2,
    mixture: 4, large: 1, expiry: 1,
}
