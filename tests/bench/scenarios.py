"""What is measured: a function for each scenario, which returns a Section of the report."""
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

import report
from measure import Cell, Load, Patience, interleaved
from servers import (Cores, Failed, Floor, FloorProxy, Given, Nearcache, Other, Own, Redis, answers,
                     known_servers)

# All of what is measured fits in, and stays as long as it takes. Metrics, namespace, tracking and
# the lease are on by default.
ROOMY = ("l1.max_memory=1gb", "l1.max_value=2mb", "l1.ttl=1h")
KEY_BYTES, VALUE_BYTES = 24, 100  # of the scenario `memory`
MILLION = 1000 * 1000


@dataclass
class Section:
    """A part of the report: text in Markdown, charts as {file name: SVG}."""
    text: str
    charts: dict = field(default_factory=dict)
    samples: dict = field(default_factory=dict)


class Bench:
    """What all scenarios share: options, cores, a directory, and the servers that they start."""

    def __init__(self, options, most_clients, say):
        self.options, self.most_clients, self.say = options, most_clients, say
        self.cores = Cores()
        self.load = Load(self.cores)
        self.running = []
        self.redis = None
        self.scratch = tempfile.mkdtemp(prefix="nb.")  # short, because unix sockets lie below it

    def start(self, server):
        server.start(self.cores)
        self.running.append(server)
        return server

    def stop_all(self):
        for server in reversed(self.running):
            server.stop()
        self.running = []

    def close(self):
        self.stop_all()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def backing(self):
        """The Redis behind nearcache and the proxies."""
        redis = self.redis = self.start(Redis("backing", self.scratch, backing=True))
        self.load.background = set(redis.pids)
        return redis

    def others(self, redis):
        """Beside nearcache: those that are installed, that are given, and that we are to start."""
        given = {}
        for name, text in self.options.target:
            if name in given:
                given[name].add(text)
            else:
                given[name] = Given(name, text)
        asked = [Other(name, self.scratch, redis, text) for name, text in self.options.start]
        for server in asked:
            server.proxy = server.name in self.options.proxy
        return [server for server in [*known_servers(self.scratch, redis), *asked, *given.values()]
                if self.wanted(server.name)]

    def wanted(self, name):
        return (not self.options.only or name in self.options.only) and name not in self.options.without

    def start_each(self, servers):
        """Those that do start."""
        started = []
        for server in servers:
            try:
                started.append(self.start(server))
            except Failed as why:
                self.say(f"  without {server.name}: {why}")
        return started

    def interleaved(self, servers, cells):
        chosen = [cell for cell in cells if re.search(self.options.cell, cell.name)]
        self.say("  filling")
        for server in [self.redis, *servers]:
            behind_us = server.proxy and isinstance(server, Own)  # it has what self.redis has
            if not server.constant and not behind_us:
                self.load.fill(server, chosen)
        return interleaved(self.load, servers, chosen, self.options, self.patience(), self.say)

    def patience(self):
        return Patience(self.load, self.options.patience)


COMPARED = """\
CPU of the server for a request in microseconds, and in brackets its ratio to {base}'s (the median of the
rounds' ratios):

{summary}
All of it. `+- %`: half the distance of the quartiles; `busy`: of the server's core; `load`: of the
generator's core, which bounds op/s where it is near 100; `others`: of both cores, by other processes.

{details}"""


def compared(bench, title, results, servers, file_name):
    """A section of two tables and a chart; proxies have no hits to be drawn."""
    names = [server.name for server in servers]
    base = bench.options.base if bench.options.base in names else names[0]
    text = COMPARED.format(base=base, summary=report.summary(results, names, base),
                           details=report.details(results, names, base))
    if results.troubles:
        text += "\nNot measured:\n\n" + "".join(f"- {trouble}\n" for trouble in results.troubles)
    drawn = [server.name for server in servers if not (server.proxy and file_name == "hits.svg")]
    return Section(text, {file_name: report.chart(title, results, drawn)}, results.samples)


# --- hits -------------------------------------------------------------------------------------------


def hit_cells(quick):
    small = {"keys": 20000 if quick else MILLION}
    cells = [Cell(f"GET 32 B, P={p}", pipeline=p, **small) for p in (1, 16, 64, 256)]
    cells += [Cell("GET 1 KiB, P=64", pipeline=64, value=1024, keys=small["keys"] // 10)]
    cells += [Cell(f"MGET {n} of 32 B", op="mget", count=n, **small) for n in (10, 100)]
    if quick:
        return [*cells[:3], *cells[5:6], Cell("GET 32 B, unix, P=1", transport="unix", **small)]
    large = {"value": 1 << 20, "keys": 64, "connections": 8}
    cells += [Cell("GET 16 KiB", value=16384, keys=10000), Cell("GET 1 MiB, 8 connections", **large)]
    cells += [Cell(f"GET 32 B, unix, P={p}", transport="unix", pipeline=p, **small) for p in (1, 16, 64)]
    cells += [Cell("GET 1 KiB, unix, P=64", transport="unix", pipeline=64, value=1024, keys=100000)]
    cells += [Cell(f"MGET {n} of 32 B, unix", transport="unix", op="mget", count=n, **small)
              for n in (10, 100)]
    cells += [Cell("GET 1 MiB, unix, 8 connections", transport="unix", **large)]
    cells += [Cell(f"GET 32 B, P=1, {n} connections", connections=n, **small) for n in (1, 8, 500)]
    cells += [Cell(f"GET 32 B, P={p}, RESP3", pipeline=p, resp=3, **small) for p in (1, 64)]
    return cells


def hits(bench):
    """Reads that the L1 answers, beside servers that have the data, and what system calls alone take."""
    redis = bench.backing()
    near = Nearcache("nearcache", bench.scratch, redis, *ROOMY)
    servers = bench.start_each([near, *bench.others(redis)])
    if bench.wanted("floor"):
        servers.append(Floor("floor", bench.scratch))
    results = bench.interleaved(servers, hit_cells(bench.options.quick))
    parts = [part for cell in results.samples for part in results.values(cell, near.name, "hit_part")]
    if min(parts, default=1) < 0.999:
        results.troubles.append(f"in a run only {100 * min(parts):.2f} % of nearcache's reads were hits")
    return compared(bench, "Reads answered from the L1", results, servers, "hits.svg")


# --- misses -----------------------------------------------------------------------------------------


def miss_cells(quick):
    keys = 50000 if quick else MILLION
    return [Cell(f"{op.upper()} 32 B, P={p}", op=op, pipeline=p, keys=keys, zipf=0)
            for op in ("get", "set") for p in ((1, 64) if quick else (1, 16, 64))]


def system_calls(bench, server, cell):
    """{name: number for a request}, as strace counts them while a load runs."""
    counts = os.path.join(bench.scratch, "strace")
    tracer = subprocess.Popen(["strace", "-f", "-c", "-U", "name,calls", "-o", counts, "-p",
                               ",".join(map(str, server.pids))], stderr=subprocess.PIPE, text=True)
    tracer.stderr.readline()  # it is attached, or says why not
    got = bench.load.cell(server, cell, seconds=1, warmup=0)
    tracer.send_signal(signal.SIGINT)
    tracer.communicate()
    with open(counts, encoding="ascii") as f:
        words = [line.split() for line in f]
    calls = {w[0]: int(w[1]) for w in words if len(w) == 2 and w[1].isdigit() and w[0] != "total"}
    return {name: n / got["ops"] for name, n in calls.items() if got["ops"] and n / got["ops"] >= 0.01}


def system_call_table(bench, servers, cells):
    rows = []
    for cell in cells:
        for server in servers:
            try:
                calls = system_calls(bench, server, cell)
            except (Failed, OSError):
                continue
            calls = sorted(calls.items(), key=lambda pair: -pair[1])
            rows.append([f"{cell.name}: {server.name}", report.number(sum(n for _, n in calls)),
                         ", ".join(f"{name} {report.number(n, 2)}" for name, n in calls)])
    return ("\nSystem calls for a request, on both sides, counted by strace, which slows the server "
            "down: more requests travel together than in the rows above.\n\n" +
            report.table(["", "calls", "of them"], rows)) if rows else ""


def misses(bench):
    """Reads and writes that go upstream, beside proxies without a cache."""
    redis = bench.backing()
    # Not one namespace: each write of one would be told to the other, on the core that is measured.
    near = [Nearcache("nearcache", bench.scratch, redis, "l1.max_memory=1mb"),
            Nearcache("nearcache, L1 off", bench.scratch, redis, "l1.max_memory=0", service="quiet")]
    others = [server for server in bench.others(redis) if server.proxy or isinstance(server, Redis)]
    servers = bench.start_each([*near, *others])
    if bench.wanted("floor"):
        servers.append(FloorProxy("floor", bench.scratch, redis))
    cells = miss_cells(bench.options.quick)
    results = bench.interleaved(servers, cells)
    section = compared(bench, "Requests that go upstream", results, servers, "misses.svg")
    keys = f"{cells[0].keys:,}"
    section.text = (f"`nearcache` has an L1 of 1 MB, so that of {keys} keys, all read alike, hardly any "
                    f"is in it: misses are looked up and stored. The CPU of the Redis behind is not "
                    f"counted; keys that are longer by nearcache's namespace take it some 15 % more of "
                    f"it, on the generator's core. `floor` passes requests of one length on and looks at "
                    f"nothing.\n\n"
                    f"{section.text}")
    if shutil.which("strace") and not bench.options.quick:
        section.text += system_call_table(bench, [s for s in servers if not s.shaped], cells)
    return section


# --- memory -----------------------------------------------------------------------------------------


def settle(server):
    """The memory of a server, once it has not changed for two seconds: {field: bytes}."""
    seen, same = None, 0
    for _ in range(60):
        now = server.memory()
        same = same + 1 if seen and now["Rss"] == seen["Rss"] else 0
        if same == 8:
            break
        seen = now
        time.sleep(0.25)
    return now


def remembered(server, keys):
    """Whether all keys are in the L1."""
    return not isinstance(server, Nearcache) or server.info()["entries"] >= keys


def memory_of_clients(bench, server):
    """Of a process that has just started, and with clients."""
    clients = min(server.most_clients, bench.most_clients, 500 if bench.options.quick else 20000)
    idle = settle(server)
    held = bench.load.hold(server, server.tcp, connections=clients, op="ping")
    crowded = settle(server)
    held.communicate()
    return {"idle": idle["Rss"], "private": idle["Private_Clean"] + idle["Private_Dirty"],
            "clients": clients, "crowded": crowded["Rss"],
            "client": (crowded["Rss"] - idle["Rss"]) / clients, "left": settle(server)["Rss"]}


def memory_of_entries(bench, server):
    """Bytes for an entry, and what is left of a load beside the entries."""
    keys = 50000 if bench.options.quick else MILLION
    cell = Cell("memory", value=VALUE_BYTES, keys=keys, connections=100, pipeline=64)
    began = settle(server)
    bench.load.fill(server, [cell])
    growth = settle(server)["Rss"] - began["Rss"] if not server.proxy and remembered(server, keys) else 0
    bench.load.cell(server, cell, seconds=1, warmup=0)
    for op in ("set", "get"):
        bench.load.run(server, server.tcp, op=op, prefix="big:", keys=1, value=1 << 20, pipeline=4,
                       connections=20, seconds=1)
    return {"entry": growth / keys or None, "after": settle(server)["Rss"] - growth}


def started_again(bench, server, measure):
    bench.start(server)
    try:
        return measure(bench, server)
    finally:
        server.stop()


MEMORY = f"""\
MB are 1,000,000 bytes of resident memory. Clients sent a PING each and then nothing. An entry is a key
of {KEY_BYTES} bytes and a value of {VALUE_BYTES}. `after load`: without the entries, when 100 clients
with pipelines of 64 and 20 clients with 4 values of 1 MiB each under way have come and gone.

"""


def memory(bench):
    """What a server takes from the machine."""
    redis = bench.backing()
    samples, rows = {}, []
    # The large values are longer than the longest that is kept: what is left of them are no entries.
    near = Nearcache("nearcache", bench.scratch, redis, "l1.max_memory=1gb", "l1.ttl=1h")
    for server in [near, *(s for s in bench.others(redis) if isinstance(s, Own))]:
        try:
            row = {**started_again(bench, server, memory_of_clients),
                   **started_again(bench, server, memory_of_entries)}
        except Failed as why:
            bench.say(f"  without {server.name}: {why}")
            continue
        samples[server.name] = row
        bench.say(f"  {server.name}: " + ", ".join(f"{k} {report.number(v)}" for k, v in row.items()))
        mb = {name: f"{size / MILLION:.2f}" for name, size in row.items() if size is not None}
        rows.append([server.name, mb["idle"], mb["private"], mb["crowded"], f"{row['clients']:,}",
                     f"{row['client']:,.0f}", mb["left"], report.number(row["entry"]), mb["after"]])
    head = ["", "idle MB", "of it private", "with clients", "clients", "bytes/client", "clients gone",
            "bytes/entry", "after load"]
    return Section(MEMORY + report.table(head, rows), {}, {"memory": samples})


# --- start ------------------------------------------------------------------------------------------


def first_answer(bench, server):
    """Seconds from exec to the first PONG."""
    server.choose_addresses()
    began = time.perf_counter()
    server.spawn(bench.cores)
    while not answers(server.tcp):
        if server.popen.poll() is not None or time.perf_counter() > began + 10:
            raise Failed("it did not start")
        time.sleep(0.0002)
    return time.perf_counter() - began


def start_time(bench, server, patience):
    """The median, in milliseconds."""
    times = []
    for _ in range(3 if bench.options.quick else 11):
        patience.wait(server)
        times.append(first_answer(bench, server))
        server.stop()
    return statistics.median(times) * 1000


def arrivals(bench, server, patience):
    """Visitors, alone and while others are served."""
    seconds = bench.options.seconds
    served = {"connections": 8, "rate": 2000, "seconds": max(seconds, 1), "op": "ping"}

    def run(**settings):
        return patience.calmest(server, lambda: bench.load.run(server, server.tcp, **settings))

    rounds = []
    for _ in range(1 if bench.options.quick else bench.options.rounds):
        alone = run(connections=0, churn=16, seconds=seconds)
        calm, busy = run(**served), run(churn=16, **served)
        rounds.append({"alone_s": alone["visits_s"], "us_visit": alone["us_visit"],
                       "calm_p99": calm["p99"], "busy_p99": busy["p99"], "busy_s": busy["visits_s"],
                       "strangers": busy["strangers"]})
    return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


START = """\
From exec to the first PONG; visitors, 16 at a time, that connect, send a PING, read the reply and
close, alone and beside 8 connections that send 2,000 PINGs a second together; the p99 of those (the
visitors' load comes from the same core as theirs, so part of it is waiting for that).

"""


def start(bench):
    """How long until it serves, and what newcomers cost."""
    redis = bench.backing()
    patience = bench.patience()
    samples, rows = {}, []
    near = Nearcache("nearcache", bench.scratch, redis)
    for server in [near, *(s for s in bench.others(redis) if isinstance(s, Own))]:
        try:
            row = {"ms": start_time(bench, server, patience)}
            bench.start(server)
            row.update(arrivals(bench, server, patience))
        except Failed as why:
            bench.say(f"  without {server.name}: {why}")
            continue
        finally:
            server.stop()
        samples[server.name] = row
        bench.say(f"  {server.name}: " + ", ".join(f"{k} {report.number(v)}" for k, v in row.items()))
        rows.append([server.name, f"{row['ms']:.1f}", f"{row['alone_s']:,.0f}", f"{row['us_visit']:.1f}",
                     f"{row['busy_s']:,.0f}", f"{row['calm_p99']:,.0f}", f"{row['busy_p99']:,.0f}",
                     report.percent(row["strangers"])])
    head = ["", "start ms", "visits/s", "us/visit", "visits/s beside others", "their p99 us, calm",
            "with visitors", "others %"]
    return Section(START + report.table(head, rows), {}, {"start": samples})


ALL = {"hits": hits, "misses": misses, "memory": memory, "start": start}
