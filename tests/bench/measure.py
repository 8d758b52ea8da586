"""Workloads, the load generator, and interleaved rounds: what is measured, and how often."""
import os
import random
import statistics
import subprocess
import time
from dataclasses import dataclass, field

from servers import TOP, Failed, Nearcache, Strangers

LOADGEN = os.path.join(TOP, "build", "tests", "loadgen")
EXIT_WRONG = 2  # loadgen's, for a wrong reply
CALM = 0.05  # part of our cores that others may take

KEY_BYTES = len("$24\r\n") + 24 + 2


@dataclass
class Cell:
    """A workload; but for the first and the last, the fields are settings of loadgen."""
    name: str
    op: str = "get"
    pipeline: int = 1
    connections: int = 50
    value: int = 32
    keys: int = 100000
    count: int = 10
    zipf: float = 0.99
    resp: int = 2
    transport: str = "tcp"

    @property
    def prefix(self):
        """Of its keys: values of one length share them."""
        return f"v{self.value}:"

    @property
    def settings(self):
        names = ("op", "pipeline", "connections", "value", "keys", "count", "zipf", "resp", "prefix")
        return {name: getattr(self, name) for name in names}

    @property
    def value_bytes(self):
        """Of a value as it is sent."""
        return len(f"${self.value}\r\n") + self.value + 2

    @property
    def request_bytes(self):
        """What the floors have to know."""
        if self.op == "mget":
            return len(f"*{self.count + 1}\r\n$4\r\nMGET\r\n") + self.count * KEY_BYTES
        return len("*2\r\n$3\r\nGET\r\n") + KEY_BYTES + (self.value_bytes if self.op == "set" else 0)

    @property
    def reply_bytes(self):
        """The same, of GET and SET."""
        return len("+OK\r\n") if self.op == "set" else self.value_bytes


class Load:
    """Runs loadgen on its core. Processes of `background` have something to do then, too."""

    def __init__(self, cores):
        self.cores = cores
        self.background = set()

    def argv(self, server, address, settings):
        settings = dict(settings, pid=",".join(map(str, server.pids)), constant=int(server.constant))
        return ["taskset", "-c", str(self.cores.load), LOADGEN, address,
                *(f"{name}={value}" for name, value in settings.items())]

    def run(self, server, address, **settings):
        """What it printed, {name: number}, and the part of our cores that others took meanwhile."""
        strangers = Strangers(self.cores, {*server.pids, *self.background})
        done = subprocess.run(self.argv(server, address, settings), capture_output=True, text=True,
                              check=False)
        if done.returncode == EXIT_WRONG and isinstance(server, Nearcache):
            raise SystemExit(f"{server.name}: {done.stderr}")
        if done.returncode:
            raise Failed(done.stderr.strip().split("\n")[-1].removeprefix("loadgen: "))
        return {**parse(done.stdout), "strangers": strangers.part()}

    def hold(self, server, address, **settings):
        """Connections that stay open until the process's stdin is closed: Popen, once they are there."""
        held = subprocess.Popen(self.argv(server, address, dict(settings, hold=1)), text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if not held.stdout.readline():
            raise Failed(held.communicate()[1].strip().removeprefix("loadgen: "))
        return held

    def cell(self, server, cell, **more):
        return self.run(server, server.address(cell.transport), **cell.settings, **more)

    def fill(self, server, cells):
        """Every key of the cells is written once; those that a nearcache is to have in its L1 are read
        twice, for it may take in a key only when it has seen it before."""
        ops = ("load", "warm", "warm") if isinstance(server, Nearcache) else ("load",)
        for cell in {cell.prefix: cell for cell in cells}.values():
            wanted = {"prefix": cell.prefix, "keys": cell.keys, "value": cell.value,
                      "connections": 4, "pipeline": 16 if cell.value < 65536 else 1}
            for op in ops:
                self.run(server, server.any_address, op=op, **wanted)


def parse(line):
    return {name: float(value) for name, value in (word.split("=") for word in line.split())}


def can(server, cell):
    """Whether it is worth trying."""
    if not server.address(cell.transport):
        return False
    return not server.shaped or server.can(cell)


@dataclass
class Results:
    """What each server did in each round of each cell: samples[cell name][server name] is a list of
    {name: number}, one a round."""
    samples: dict = field(default_factory=dict)
    troubles: list = field(default_factory=list)

    def add(self, cell, server, sample):
        self.samples.setdefault(cell.name, {}).setdefault(server.name, []).append(sample)

    def drop(self, cell, server, why):
        self.samples.setdefault(cell.name, {}).pop(server.name, None)
        self.troubles.append(f"{cell.name}, {server.name}: {why}")

    def values(self, cell, server, what):
        return [sample[what] for sample in self.samples.get(cell, {}).get(server, []) if what in sample]

    def median(self, cell, server, what="us_op"):
        values = self.values(cell, server, what)
        return statistics.median(values) if values else None

    def ratio(self, cell, server, base, what="us_op"):
        """The median of each round's ratio to the base in the same round."""
        pairs = zip(self.values(cell, server, what), self.values(cell, base, what))
        ratios = [a / b for a, b in pairs if b]
        return statistics.median(ratios) if ratios else None

    def noise(self, cell, server, what="us_op"):
        """Half of the distance between the quartiles, as a part of the median."""
        values = self.values(cell, server, what)
        if len(values) < 3 or not statistics.median(values):
            return None
        low, _, high = statistics.quantiles(values, n=4)
        return (high - low) / 2 / statistics.median(values)


def one_run(load, server, cell, timing):
    """A sample; of nearcache with the part of its reads that were hits."""
    server.check_alive()
    if server.shaped:
        server.shape(cell)
        server.start(load.cores)
    before = server.reads() if isinstance(server, Nearcache) else None
    try:
        sample = load.cell(server, cell, **timing)
    finally:
        if server.shaped:
            server.stop()
    if before:
        hits, misses = (new - old for new, old in zip(server.reads(), before))
        sample["hit_part"] = hits / max(1, hits + misses)
    return sample


class Patience:
    """Seconds that may be spent on waiting until others leave our cores alone."""

    def __init__(self, load, seconds):
        self.load, self.left = load, seconds

    def wait(self, server):
        """Until it is calm, or patience is at its end."""
        while self.left > 0:
            began = time.monotonic()
            strangers = Strangers(self.load.cores, {*server.pids, *self.load.background})
            time.sleep(0.3)
            calm = strangers.part() <= CALM
            self.left -= time.monotonic() - began
            if calm:
                return

    def calmest(self, server, run):
        """A sample of `run`, taken again a few times if it was disturbed; the calmest counts."""
        samples = [run()]
        while samples[-1]["strangers"] > CALM and self.left > 0 and len(samples) < 6:
            self.wait(server)
            samples.append(run())
        return min(samples, key=lambda sample: sample["strangers"])


def interleaved(load, servers, cells, options, patience, say):
    """Every cell, every round, every server in another order each time."""
    results = Results()
    dice = random.Random(options.seed)
    timing = {"seconds": options.seconds, "warmup": min(0.2, options.seconds / 2)}
    for cell in cells:
        able = [server for server in servers if can(server, cell)]
        for number in range(options.rounds):
            for server in dice.sample(able, len(able)):
                try:
                    timing["seed"] = number + 1
                    results.add(cell, server, patience.calmest(
                        server, lambda s=server: one_run(load, s, cell, timing)))
                except Failed as why:
                    results.drop(cell, server, why)
                    able.remove(server)
        say(f"  {cell.name}: " + ", ".join(
            f"{s.name} {results.median(cell.name, s.name):.4g}" for s in able))
    return results
