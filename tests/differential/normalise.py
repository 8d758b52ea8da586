"""Where replies may differ: one rule a command, as narrow as possible, each with its reason.

A rule is looked at only where the bytes differ. It never makes an error equal to anything else.
"""
import itertools
import re

# --- RESP as a tree --------------------------------------------------------------------------------


def parse(raw, pos=0):
    """((type, payload or children), where it ends)"""
    end = raw.index(b"\r\n", pos)
    kind, text = raw[pos:pos + 1], raw[pos + 1:end]
    pos = end + 2
    if kind in b"$=!" and text != b"-1":
        return (kind, raw[pos:pos + int(text)]), pos + int(text) + 2
    if kind in b"*~>%" and text != b"-1":
        children = []
        for _ in range(int(text) * (2 if kind == b"%" else 1)):
            child, pos = parse(raw, pos)
            children.append(child)
        return (kind, children), pos
    return (kind, text), pos


def tree(raw):
    return parse(raw)[0]


def is_list(node):
    return isinstance(node[1], list)


def in_order(nodes):
    return sorted(nodes, key=repr)


def pairs(nodes):
    return list(zip(nodes[::2], nodes[1::2]))


def each(node, change):
    """`change` made to every part that is no list."""
    return (node[0], [each(child, change) for child in node[1]]) if is_list(node) else change(node)


# --- rules: what is left to compare ----------------------------------------------------------------


def unordered(node):
    return (node[0], in_order(node[1])) if is_list(node) else node


def unordered_pairs(node):
    return (node[0], in_order(pairs(node[1]))) if is_list(node) else node


def unordered_deep(node):
    """Nested maps and sets have no order either; RESP2 shows them as arrays."""
    if not is_list(node):
        return node
    return (node[0], in_order(unordered_deep(child) for child in node[1]))


def shape(node):
    """Types and numbers of parts only."""
    return each(node, lambda part: part[0])


def kind(node):
    """The type only."""
    return node[0]


def numbers(node):
    """Numbers are all the same."""
    return each(node, lambda part: (part[0], re.sub(rb"-?\d+(\.\d+)?", b"0", part[1])))


def names(node):
    """The names in a flat list of names and values, but for those that time brings and takes away."""
    if not is_list(node):
        return kind(node)
    return {name for name, _ in pairs(node[1]) if not name[1].startswith(b"db.")}


CHANGING = re.compile(rb"db\d|cmdstat_|errorstat_|latency_percentiles|slave\d|current_|"
                      rb"total_active_defrag|mem_overhead_db|# Keyspace|nearcache")


def info(node):
    """The names of INFO's lines."""
    text = node[1].split(b"# Nearcache")[0]
    return {line.split(b":")[0] for line in text.split(b"\r\n")
            if line and not CHANGING.match(line)}


NEW_FIELDS = {b"watch", b"lib-name", b"lib-ver", b"io-thread", b"capa", b"tot-net-in", b"tot-net-out",
              b"tot-cmds"}


def client_lines(node):
    """The names of the fields in CLIENT LIST's first line, those of Redis 7.0."""
    fields = re.findall(rb"([a-z-]+)=", node[1].split(b"\n")[0])
    return (node[0], [field for field in fields if field not in NEW_FIELDS])


def idle_times(node):
    """Milliseconds: those behind names of times, and times since 1970."""
    if not is_list(node):
        return (node[0], b"") if node[0] == b":" and abs(int(node[1])) > 10**12 else node
    out, previous = [], None
    for child in node[1]:
        known = previous and previous[1] in (b"idle", b"inactive", b"seen-time", b"active-time")
        out.append(b"" if known else idle_times(child))
        previous = child
    return (node[0], out)


def idle_column(node):
    """XPENDING's third column is how long ago the entry was delivered."""
    if not is_list(node):
        return node
    return [child[1][:2] + child[1][3:] if is_list(child) and len(child[1]) == 4 else child
            for child in node[1]]


def no_id(node):
    """HELLO's id."""
    if not is_list(node):
        return node
    return [(name, b"" if name[1] == b"id" else value) for name, value in pairs(node[1])]


def close_to(_):
    """Times that count down, or from when the command came: same_trees() compares them."""


def dump(node):
    """The type of a DUMP payload whose order or times are its server's own."""
    if node[0] != b"$" or node[1][:1] not in b"\x02\x04\x0f\x13\x15\x14\x1a\x1b\x1c":
        return node
    return node[1][:1]


def rest_of_command(node):
    """COMMAND's rows in any order, flags and all, without those that only the proxy has."""
    rows = [row for row in node[1] if not (is_list(row) and row[1][0][1].startswith(b"nearcache"))]
    return (node[0], in_order(unordered_deep(row) for row in rows))


def names_of_commands(node):
    return (node[0], in_order(child for child in node[1] if not child[1].startswith(b"nearcache")))


def docs(node):
    own = [(name, value) for name, value in pairs(node[1]) if not name[1].startswith(b"nearcache")]
    return (node[0], in_order((name, unordered_deep(value)) for name, value in own))


def libraries(node):
    """FUNCTION DUMP's libraries; behind them are a version and a checksum."""
    return in_order(node[1][:-10].split(b"\xf5"))


def background(node):
    """Either it starts or one is under way."""
    return bool(re.match(rb"Background|OK|ERR (Background|Another child|An AOF)", node[1]))


def monitor_line(node):
    """Without time and address. Valkey 8.1 does not escape quotes."""
    return re.sub(rb"^[0-9.]+ \[(\d+) [^]]*\]", rb"\1", node[1]).replace(b'\\"', b'"')


def without_link(node):
    """The channels of nearcache's own link."""
    return (node[0], in_order(child for child in node[1] if not re.match(
        rb"cache:(invalidate|change)|__redis__:invalidate", child[1])))


HASH_ORDER = "the order of a hash table is its server's own (random seeds)"
RANDOM = "chosen at random"
TIME = "time passes"
SERVER = "about the server process"

RULES = {
    "smembers": (unordered, HASH_ORDER),
    "sunion": (unordered, HASH_ORDER),
    "sinter": (unordered, HASH_ORDER),
    "sdiff": (unordered, HASH_ORDER),
    "spop": (unordered, HASH_ORDER),
    "hkeys": (unordered, HASH_ORDER),
    "hvals": (unordered, HASH_ORDER),
    "hgetall": (unordered_pairs, HASH_ORDER),
    "keys": (unordered, HASH_ORDER),
    "scan": (unordered_deep, HASH_ORDER),
    "sscan": (unordered_deep, HASH_ORDER),
    "hscan": (unordered_deep, HASH_ORDER),
    "zscan": (unordered_deep, HASH_ORDER),
    "function|list": (unordered_deep, HASH_ORDER),
    "function|dump": (libraries, HASH_ORDER),
    "config|get": (unordered_pairs, HASH_ORDER),
    "pubsub|channels": (without_link, HASH_ORDER + "; the link to the server has channels of its own"),
    "pubsub|shardchannels": (unordered, HASH_ORDER),
    "acl|cat": (unordered, HASH_ORDER),
    "acl|getuser": (unordered_deep, HASH_ORDER),
    "command": (rest_of_command, HASH_ORDER + "; NEARCACHE is the proxy's"),
    "command|list": (names_of_commands, HASH_ORDER + "; NEARCACHE is the proxy's"),
    "command|docs": (docs, HASH_ORDER),
    "command|info": (unordered_deep, HASH_ORDER),
    "dump": (dump, "hash tables have their server's own order, streams the times of deliveries"),
    "srandmember": (shape, RANDOM),
    "hrandfield": (shape, RANDOM),
    "zrandmember": (shape, RANDOM),
    "vrandmember": (shape, RANDOM),
    "vinfo": (numbers, "levels of nodes are random"),
    "vlinks": (kind, "levels of nodes are random"),
    "randomkey": (shape, RANDOM),
    "acl|genpass": (lambda node: len(node[1]), RANDOM),
    "time": (shape, TIME),
    "lastsave": (shape, TIME),
    "ttl": (close_to, TIME),
    "pttl": (close_to, TIME),
    "expiretime": (close_to, "relative times count from when the server reads them"),
    "pexpiretime": (close_to, "relative times count from when the server reads them"),
    "hpttl": (close_to, TIME),
    "httl": (close_to, TIME),
    "hexpiretime": (close_to, "relative times count from when the server reads them"),
    "hpexpiretime": (close_to, "relative times count from when the server reads them"),
    "object|idletime": (close_to, TIME),
    "xadd": (lambda node: re.sub(rb"^\d{13}-\d+$", b"now", node[1]), "an ID made of the time"),
    "xinfo|stream": (idle_times, TIME),
    "xinfo|consumers": (idle_times, TIME),
    "xpending": (idle_column, TIME),
    "client|id": (kind, "every connection has its own"),
    "client|list": (client_lines, "addresses, ages and buffers of connections"),
    "client|info": (client_lines, "addresses, ages and buffers of connections"),
    "hello": (no_id, "every connection has its own id"),
    "info": (info, SERVER),
    "memory|usage": (numbers, "names are longer behind the namespace"),
    "memory|stats": (names, SERVER),
    "memory|doctor": (kind, SERVER),
    "memory|malloc-stats": (kind, SERVER),
    "latency|doctor": (kind, SERVER),
    "lolwut": (kind, "a drawing of random shapes"),
    "acl|log": (kind, "nearcache itself refuses wrong passwords"),
    "bgsave": (background, "whether the one before is over yet"),
    "bgrewriteaof": (background, "whether the one before is over yet"),
    "save": (background, "whether a BGSAVE before is over yet"),
    "monitor": (monitor_line, "times and addresses"),
}
NEIGHBOURS = 5000  # ms; s where it counts in seconds: the tests' own times are far apart


def same(name, bare, near, newer=False):
    """Are these two replies to the command `name` the same, as far as they can be? What nearcache itself
    has to say of a wrong CLIENT command is in the words of Redis 7.0 also where the server is `newer`."""
    if bare == near:
        return True
    if newer and name.startswith("client|") and bare[:1] == b"-" == near[:1]:
        return True
    if isinstance(near, str) or name not in RULES:
        return False
    return same_trees(name, tree(bare), tree(near))


def same_trees(name, bare, near):
    rule = RULES[name][0]
    if bare[0] != near[0] and rule is not background or bare[0] == b"-" and rule is not background:
        return False
    if rule is close_to:
        return numbers(bare) == numbers(near) and all(
            a == b or abs(a - b) <= NEIGHBOURS and min(a, b) >= 0
            for a, b in zip(integers(bare), integers(near)))
    return rule(bare) == rule(near)


def integers(node):
    return [n for child in node[1] for n in integers(child)] if is_list(node) else \
        [int(node[1])] if node[0] == b":" else []


def parts(raw):
    """The raw types of an array's parts; nothing of what is no array."""
    node = tree(raw)
    return [child[0] for child in node[1]] if is_list(node) else []


def same_exec(queued, bare, near):
    """Each reply of a transaction under the rule of its command."""
    if bare == near:
        return True
    if isinstance(near, str) or bare[:1] != b"*" or near[:1] != b"*":
        return False
    bare, near = tree(bare), tree(near)
    if not is_list(bare) or not is_list(near) or not len(bare[1]) == len(near[1]) == len(queued):
        return False
    return all(b == n or name in RULES and same_trees(name, b, n)
               for name, b, n in zip(queued, bare[1], near[1]))


# --- messages --------------------------------------------------------------------------------------

MESSAGES = re.compile(rb"[*>]\d\r\n\$\d+\r\n(message|pmessage|smessage|invalidate)\r\n", re.ASCII)


def is_message(frame):
    """Something that another connection may have caused."""
    return bool(MESSAGES.match(frame))


def same_messages(argv, bare, near):
    """The same messages, and the same replies, each in order - but the servers' own order is that of
    the patterns which one message matches, and of the names where all subscriptions end."""
    if any(isinstance(frame, str) for frame in near) or len(bare) != len(near):
        return False
    if argv[0].upper().endswith(b"UNSUBSCRIBE") and len(argv) == 1:
        return [tree(f)[1][2] for f in bare] == [tree(f)[1][2] for f in near] and \
            sorted(tree(f)[1][1] for f in bare) == sorted(tree(f)[1][1] for f in near)
    return all(patterns_in_order(f for f in bare if is_message(f) == m) ==
               patterns_in_order(f for f in near if is_message(f) == m) for m in (True, False))


def patterns_in_order(frames):
    """Neighbours that are one message, for several patterns, sorted."""
    out = []
    for _, same_message in itertools.groupby(frames, what_was_published):
        out += sorted(same_message)
    return out


def what_was_published(frame):
    return tree(frame)[1][2:] if frame[8:16] == b"pmessage" else frame


def pushes_last(frames):
    """Messages out of band (RESP3) that the client's own commands cause stand before or, in newer
    servers, behind the command's reply; an answer that is nearcache's own may come between."""
    return sorted(frames, key=lambda frame: isinstance(frame, bytes) and frame[:1] == b">" and
                  is_message(frame))


# A part of Redis 8 that it calls a module. Where nearcache can't ask, within a transaction, it tells none.
OWN_MODULE = re.compile(rb"(\$7\r\nmodules\r\n)\*1\r\n(?:\*8|%4)\r\n\$4\r\nname\r\n\$9\r\nvectorset\r\n"
                        rb"\$3\r\nver\r\n:\d+\r\n\$4\r\npath\r\n\$0\r\n\r\n\$4\r\nargs\r\n\*0\r\n")


def without_id(frames):
    """HELLO's replies without the connection's id; any others as they are."""
    return [frame if isinstance(frame, str) else
            OWN_MODULE.sub(rb"\1*0\r\n", re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1", frame))
            for frame in frames]


# --- iterations ------------------------------------------------------------------------------------


def scan_page(raw, argv):
    """(next cursor, the elements of this page; pairs for HSCAN and ZSCAN with values)"""
    cursor, page = tree(raw)[1]
    elements = page[1]
    if argv[0].upper() in (b"HSCAN", b"ZSCAN") and b"NOVALUES" not in argv:
        elements = pairs(elements)
    return cursor[1], {repr(element) for element in elements}
