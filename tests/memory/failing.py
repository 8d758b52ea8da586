"""A nearcache whose allocations fail when the test says so."""
import mmap
import os
import struct

import harness

MODULE = os.path.join(harness.BUILD_DIR, "tests", "failing.so")
FOREVER = 2**63


class Failures:
    """The file that failing.c looks into; the names are those of its struct control."""

    NAMES = ["calls", "failed", "min_size", "nth", "in_a_row", "per_million", "live",
             "live_bytes"]
    SIZE = 8 * len(NAMES)

    def __init__(self, path):
        self.path = path
        with open(path, "w+b") as f:
            f.truncate(self.SIZE)
            self.memory = mmap.mmap(f.fileno(), self.SIZE)

    def _slot(self, name):
        return 8 * self.NAMES.index(name)

    def get(self, name):
        return struct.unpack_from("=Q", self.memory, self._slot(name))[0]

    def _set(self, **values):
        for name, value in values.items():
            struct.pack_into("=Q", self.memory, self._slot(name), value)

    def next(self, nth=1, in_a_row=1, min_size=0):
        """The nth allocation of at least so many bytes from now fails, and perhaps those after it."""
        self._set(nth=0, min_size=min_size, in_a_row=in_a_row)
        self._set(nth=nth)

    def at_random(self, share, min_size=0):
        self._set(min_size=min_size, per_million=round(share * 1e6))

    def stop(self):
        """No more, from now on."""
        self._set(nth=0, per_million=0, min_size=0)


class FailingNearcache(harness.Nearcache):
    """The failures begin when `failures` is told to, before or after start()."""

    def __init__(self, directory, *args, env=None, **options):
        os.makedirs(directory, exist_ok=True)
        self.failures = Failures(os.path.join(directory, "failing"))
        env = {**(env or {}), "LD_PRELOAD": MODULE, "FAILING_CONTROL": self.failures.path}
        super().__init__(directory, *args, env=env, **options)
        self.tls = None  # an ssl.SSLContext, for what new_wire() makes

    def new_wire(self, **options):
        """A raw connection that the caller closes."""
        return harness.Wire(self.address, tls=self.tls, **options)

    def info(self):
        with self.new_wire() as wire:
            text = wire.call("INFO", "nearcache").decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def rss(self):
        """Bytes of memory that it has in use."""
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
