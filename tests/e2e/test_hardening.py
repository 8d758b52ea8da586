"""How the binary is built, and what it needs of the machine: nothing."""
import os
import re
import shutil
import subprocess
import tempfile

import pytest

import harness
from conftest import wait_until


def readelf(*options):
    return subprocess.run(["readelf", "-W", *options, harness.NEARCACHE_BIN], capture_output=True, text=True,
                          check=True).stdout


def test_the_binary_is_hardened():
    assert re.search(r"Type:\s+DYN \(Position-Independent Executable", readelf("-h"))
    segments = readelf("-l")
    assert "GNU_RELRO" in segments
    stack = next(line for line in segments.splitlines() if "GNU_STACK" in line)
    assert " RW " in stack and "E" not in stack.split()[-2]
    flags = readelf("-d")
    assert "BIND_NOW" in flags or re.search(r"FLAGS.*NOW", flags)
    assert not re.search(r"R(UN)?PATH", flags) or "asan" in harness.BUILD_DIR
    symbols = readelf("--dyn-syms")
    assert "__stack_chk_fail" in symbols
    if "asan" not in harness.BUILD_DIR and "tsan" not in harness.BUILD_DIR:
        assert re.search(r"__(memcpy|snprintf|vsnprintf)_chk", symbols)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_it_runs_as_nobody(redis_server, nearcache):
    """With no capability at all, in a directory that it may not write to."""
    server = redis_server()
    directory = tempfile.mkdtemp(dir="/tmp")  # where anybody may look
    os.chmod(directory, 0o755)
    program = shutil.copy(harness.NEARCACHE_BIN, directory)
    near = nearcache(upstream=server, program=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                                               "--inh-caps=-all", "--no-new-privs", program])
    shutil.rmtree(directory)
    with open(f"/proc/{near.pid}/status", encoding="ascii") as status:
        text = status.read()
    assert re.search(r"^Uid:\s+65534\s+65534", text, re.M) and re.search(r"^CapEff:\s+0+$", text, re.M)
    wire = near.wire()
    assert wire.call("SET", "k", "v") == "OK"
    wait_until(lambda: wire.call("GET", "k") == b"v" and b"yes" in wire.call("NEARCACHE", "KEY", "k"))
