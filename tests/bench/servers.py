"""The servers that are compared: each private, pinned to a core, known by its processes."""
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import time

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
START_TIMEOUT = STOP_TIMEOUT = 20  # seconds
PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if not name.startswith("NEARCACHE_")}


class Failed(Exception):
    """What was asked for can't be had; the text says why."""


class Cores:
    """Which core the measured servers have, and which one everything else has."""

    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        self.all = set(allowed)
        self.server, self.load = allowed[-2:] if len(allowed) > 1 else allowed * 2

    @property
    def shared(self):
        return self.server == self.load


def raise_limits():
    """As many open files as we may have; returns how many clients a server can hold then: nearcache keeps
    some for private upstream connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (65536, max(hard, 65536)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 2048


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def dial(address, timeout=5):
    """A socket connected to host:port or unix:/path."""
    path = address.removeprefix("unix:")
    s = socket.socket(socket.AF_UNIX if path != address else socket.AF_INET)
    s.settimeout(timeout)
    try:
        host, _, port = address.rpartition(":")
        s.connect(path if path != address else (host, int(port)))
    except OSError:
        s.close()
        raise
    return s


def command(address, *args):
    """The reply to a command, of a server that has nothing else to say; only for short ones."""
    with dial(address) as s:
        s.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a)
                                                     for a in (arg.encode() for arg in args)))
        data = s.recv(65536)
        if data.startswith(b"$"):
            head, _, body = data.partition(b"\r\n")
            while len(body) < int(head[1:]) + 2:
                more = s.recv(65536)
                if not more:
                    break
                body += more
            return body[:-2].decode(errors="replace")
        return data.decode(errors="replace").strip()


def answers(address):
    try:
        with dial(address) as s:
            s.sendall(PING)
            return s.recv(len(PONG)) == PONG
    except OSError:
        return False


def pin(pid, core):
    """Every thread of a process; without permission, nothing."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(thread), {core})
        except (PermissionError, ProcessLookupError):
            pass


def memory(pid):
    """{field: bytes} of a process: Rss, Pss, Private_Clean, Private_Dirty."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        lines = [line.split() for line in f][1:]
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def first_line(*argv):
    """Of what a program says of itself."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False, env=ENVIRONMENT)
    except OSError:
        return ""
    return done.stdout.strip().split("\n")[0]


# --- who uses the processors? -----------------------------------------------------------------------

TICKS = os.sysconf("SC_CLK_TCK")


def processors(cores):
    """Seconds that these cores have been busy."""
    with open("/proc/stat", encoding="ascii") as f:
        lines = [line.split() for line in f]
    times = {name: [int(number) for number in numbers[:8]] for name, *numbers in lines
             if name.startswith("cpu")}
    return sum(sum(t) - t[3] - t[4] for t in (times[f"cpu{core}"] for core in cores)) / TICKS


def processor_time(pid):
    """Seconds that a process has been on a core."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        words = f.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


class Strangers:
    """What other processes take of the cores while ours are measured."""

    def __init__(self, cores, pids):
        self.cores, self.pids = {cores.server, cores.load}, pids
        self.began, self.busy, self.ours = time.monotonic(), processors(self.cores), self.own()

    def own(self):
        return sum(map(processor_time, self.pids)) + sum(os.times()[:4])

    def part(self):
        """Since then, of these cores' time."""
        theirs = processors(self.cores) - self.busy - (self.own() - self.ours)
        return max(0, theirs) / len(self.cores) / (time.monotonic() - self.began)


# --- whose is a listening socket? -------------------------------------------------------------------


def listening_inodes(address):
    path = address.removeprefix("unix:")
    if path != address:
        with open("/proc/net/unix", encoding="ascii", errors="replace") as f:
            return {line.split()[6] for line in f if line.split()[7:] == [path]}
    port = int(address.rpartition(":")[2])
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if os.path.exists(table):
            with open(table, encoding="ascii") as f:
                words = [line.split() for line in f][1:]
            inodes |= {w[9] for w in words
                       if w[3] == "0A" and int(w[1].rpartition(":")[2], 16) == port}
    return inodes


def has_socket(pid, inodes):
    try:
        files = os.listdir(f"/proc/{pid}/fd")
        return any(os.readlink(f"/proc/{pid}/fd/{file}") in inodes for file in files)
    except OSError:
        return False


def owners(address):
    """Processes that listen there, as far as we may see."""
    inodes = {f"socket:[{inode}]" for inode in listening_inodes(address)}
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and has_socket(pid, inodes)]


# --- servers ----------------------------------------------------------------------------------------


class Server:
    """Something that speaks RESP at `tcp` (host:port), `unix` (unix:/path) or both, in processes
    `pids`. A proxy keeps nothing itself; a constant server answers all keys with the same value; a
    shaped one is started anew for each workload, which it has to know."""
    proxy = constant = shaped = False
    most_clients = 1 << 20
    tcp = unix = None
    core = None

    def __init__(self, name):
        self.name = name
        self.pids = []

    def address(self, transport):
        return self.unix if transport == "unix" else self.tcp

    @property
    def any_address(self):
        return self.tcp or self.unix

    def start(self, cores):
        raise NotImplementedError

    def stop(self):
        """Of its own processes only."""

    def check_alive(self):
        """Ends the program if the server has ended by itself: nothing can be compared then."""

    def memory(self):
        sums = {}
        for pid in self.pids:
            for field, size in memory(pid).items():
                sums[field] = sums.get(field, 0) + size
        return sums


class Given(Server):
    """A server that runs already: `--target NAME=ADDRESS[,pid=N][,proxy]`, once or twice."""

    def __init__(self, name, text):
        super().__init__(name)
        self.add(text)

    def add(self, text):
        """Another address of the same server."""
        address, *words = text.split(",")
        if address.startswith("unix:"):
            self.unix = address
        else:
            self.tcp = address
        for word in words:
            if word == "proxy":
                self.proxy = True
            elif word.startswith("pid="):
                self.pids.append(int(word[len("pid="):]))
            else:
                raise Failed(f"--target {self.name}: {word}: not pid=N or proxy")

    def start(self, cores):
        if not answers(self.any_address):
            raise Failed(f"{self.name}: no PONG from {self.any_address}")
        self.pids = self.pids or owners(self.any_address)
        if not self.pids:
            raise Failed(f"{self.name}: whose is {self.any_address}? Say so with pid=N")
        for pid in self.pids:
            pin(pid, cores.server)


class Own(Server):
    """A server that we start. Subclasses know the command line."""
    on_load_core = False

    def __init__(self, name, directory):
        super().__init__(name)
        self.directory = os.path.join(directory, re.sub(r"\W+", "-", name))
        os.makedirs(self.directory, exist_ok=True)
        self.popen = None
        self.port = None

    def path(self, name):
        return os.path.join(self.directory, name)

    @property
    def socket(self):
        return self.path("s")

    def argv(self):
        """Listening on self.port and self.socket; may write configuration files."""
        raise NotImplementedError

    def choose_addresses(self):
        self.port = free_port()
        self.tcp = f"127.0.0.1:{self.port}"
        self.unix = f"unix:{self.socket}"
        if os.path.exists(self.socket):
            os.unlink(self.socket)

    def spawn(self, cores):
        """The child inherits our core, which for that moment is its own."""
        core = cores.load if self.on_load_core else cores.server
        argv = self.argv()
        with open(self.path("output"), "wb") as out:
            os.sched_setaffinity(0, {core})
            try:
                self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out,
                                              stderr=out, env=ENVIRONMENT, cwd=self.directory)
            except OSError as error:
                raise Failed(f"{self.name}: {argv[0]}: {error.strerror}") from None
            finally:
                os.sched_setaffinity(0, cores.all)
        self.pids = [self.popen.pid]

    def start(self, cores):
        for _ in range(5):  # somebody else may have taken the port
            self.choose_addresses()
            self.spawn(cores)
            deadline = time.monotonic() + START_TIMEOUT
            while self.popen.poll() is None and time.monotonic() < deadline:
                if answers(self.any_address):
                    return
                time.sleep(0.01)
            self.stop()
        raise Failed(f"{self.name} did not start: {self.output()}")

    def check_alive(self):
        if self.popen and self.popen.poll() is not None:
            raise SystemExit(f"{self.name} has ended with {self.popen.returncode}: {self.output()}")

    def output(self):
        with open(self.path("output"), encoding="utf-8", errors="replace") as f:
            return f.read()[-2000:]

    def stop(self):
        if not self.popen:
            return
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.popen, self.pids = None, []


class Redis(Own):
    """A redis-server without persistence. As the backing store it has a unix socket only, and is on
    the load generator's core."""

    def __init__(self, name, directory, backing=False):
        super().__init__(name, directory)
        self.on_load_core = backing

    def choose_addresses(self):
        super().choose_addresses()
        if self.on_load_core:
            self.port, self.tcp = 0, None

    def argv(self):
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket",
                self.socket, "--dir", self.directory, "--save", "", "--appendonly", "no",
                "--protected-mode", "no", "--maxclients", "50000", "--tcp-backlog", "4096"]

    @staticmethod
    def program():
        return first_line("redis-server", "--version").split(" sha=")[0]


class Nearcache(Own):
    """nearcache in front of `redis`: as it is by default, but for sizes and the L1's TTL."""
    binary = os.path.join(TOP, "build", "nearcache")

    def __init__(self, name, directory, redis, *settings, service="bench"):
        super().__init__(name, directory)
        self.redis, self.settings, self.service = redis, settings, service

    def argv(self):
        words = [word for setting in ("maxclients=50000", *self.settings) for word in ("--set", setting)]
        return [self.binary, "--service", self.service, "--listen", self.tcp, "--listen", self.unix,
                "--upstream", self.redis.unix, *words]

    @classmethod
    def program(cls):
        return first_line(cls.binary, "--version")

    def info(self):
        """The numbers of its own section of INFO."""
        text = command(self.any_address, "INFO", "nearcache")
        pairs = (line.partition(":") for line in text.split("\r\n"))
        return {name: int(value) for name, _, value in pairs if value.isdigit()}

    def reads(self):
        """(hits, misses) so far."""
        info = self.info()
        return info["hits"], info["misses"]


class Twemproxy(Own):
    """Debian's nutcracker."""
    proxy = True

    def __init__(self, name, directory, redis):
        super().__init__(name, directory)
        self.redis = redis

    def argv(self):
        pool = ("{name}:\n  listen: {listen}\n  redis: true\n  hash: fnv1a_64\n  distribution: modula\n"
                "  backlog: 4096\n  servers:\n   - {upstream}:1 r\n")
        upstream = self.redis.unix.removeprefix("unix:")
        with open(self.path("conf.yml"), "w", encoding="utf-8") as f:
            f.write(pool.format(name="tcp", listen=self.tcp, upstream=upstream))
            f.write(pool.format(name="local", listen=f"{self.socket} 0600", upstream=upstream))
        return ["nutcracker", "-c", self.path("conf.yml"), "-a", "127.0.0.1", "-s", str(free_port())]

    @staticmethod
    def program():
        return first_line("nutcracker", "--version").removeprefix("This is ")


class Haproxy(Own):
    """HAProxy in TCP mode with one thread: it copies bytes and looks at none."""
    proxy = True
    most_clients = 9000  # two files each

    def __init__(self, name, directory, redis):
        super().__init__(name, directory)
        self.redis = redis

    def argv(self):
        with open(self.path("conf"), "w", encoding="utf-8") as f:
            f.write(f"""
global
    nbthread 1
    maxconn {self.most_clients}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen redis
    bind {self.tcp}
    bind unix@{self.socket}
    server r unix@{self.redis.unix.removeprefix("unix:")}
""")
        return ["haproxy", "-db", "-f", self.path("conf")]

    @staticmethod
    def program():
        return first_line("haproxy", "-v").split(" - ")[0]


class Other(Own):
    """`--start NAME[,proxy]=COMMAND`, with {port}, {socket}, {redis} (a unix socket of a redis-server)
    and {directory} (an empty one) in the command."""

    def __init__(self, name, directory, redis, template):
        super().__init__(name, directory)
        self.redis, self.template = redis, template

    def argv(self):
        return [word.format(port=self.port, socket=self.socket, directory=self.directory,
                            redis=self.redis.unix.removeprefix("unix:"))
                for word in shlex.split(self.template)]

    def start(self, cores):
        super().start(cores)
        if "{socket}" not in self.template:
            self.unix = None


class Floor(Own):
    """tests/bench/floor.c: system calls alone."""
    constant = shaped = True
    binary = os.path.join(TOP, "build", "tests", "floor")

    def __init__(self, name, directory):
        super().__init__(name, directory)
        self.numbers = []
        self.choose_addresses()

    def can(self, cell):
        return cell.op in ("get", "mget") and cell.resp == 2

    def shape(self, cell):
        """Bytes of a request; bytes of each of so many values of its reply."""
        self.numbers = [cell.request_bytes, cell.value, cell.count if cell.op == "mget" else 1]

    def argv(self):
        return [self.binary, str(self.port), self.socket, *map(str, self.numbers)]

    def start(self, cores):
        self.choose_addresses()
        self.spawn(cores)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            try:
                dial(self.tcp).close()
                return
            except OSError:
                time.sleep(0.01)
        raise Failed(f"{self.name} did not start: {self.output()}")


class FloorProxy(Floor):
    """tests/bench/floor_proxy.c: the same of a proxy."""
    constant, proxy = False, True
    binary = os.path.join(TOP, "build", "tests", "floor_proxy")

    def __init__(self, name, directory, redis):
        super().__init__(name, directory)
        self.redis = redis

    def can(self, cell):
        return cell.op in ("get", "set")

    def shape(self, cell):
        self.numbers = [cell.request_bytes, cell.reply_bytes]

    def argv(self):
        return [self.binary, str(self.port), self.redis.unix.removeprefix("unix:"),
                *map(str, self.numbers)]


def known_servers(directory, redis):
    """Those beside nearcache that are installed."""
    servers = [Redis("redis", directory)]
    if shutil.which("nutcracker"):
        servers.append(Twemproxy("twemproxy", directory, redis))
    if shutil.which("haproxy"):
        servers.append(Haproxy("haproxy", directory, redis))
    return servers
