"""Memory runs out, at the start and later: a clear error or a closed connection, and nothing worse.

A library that is preloaded refuses allocations: those of nearcache, and those that libevent, OpenSSL,
hiredis and the C library make for it.
"""
import contextlib
import re
import signal
import ssl
import time

import pytest
import redis

from certificates import Authority
from failing import FOREVER
from harness import RespError, free_port, wait_until
from traffic import Traffic

# What a client may be told: ours; the parser's, before it disconnects; the server's own, and what it
# says of an EXEC whose MULTI was refused.
REFUSALS = ("NEARCACHE ", "ERR out of memory", "OOM ", "ERR EXEC without MULTI")


OPENSSL_FORGETS = ssl.OPENSSL_VERSION_INFO >= (3, 5)  # seen of 3.5, never of 3.0
PACE = 0.01  # seconds between two attempts
PATIENCE = 300  # attempts

# --- starting --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="files")
def make_files(tmp_path_factory):
    """An authority, and its certificate for localhost."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return authority, authority.issue("server")


def speak_tls(make, files, redis_server, *args):
    """A nearcache, not started yet, that speaks it to its clients and to its upstream."""
    authority, certificate = files
    server = redis_server("--tls-cert-file", certificate.cert, "--tls-key-file", certificate.key,
                          "--tls-ca-cert-file", authority.cert, "--tls-auth-clients", "no")
    with server.client() as client:
        for _ in range(20):
            port = free_port()
            with contextlib.suppress(redis.RedisError):
                client.config_set("tls-port", port)
                break
    near = make(f"--tls.cert_file={certificate.cert}", f"--tls.key_file={certificate.key}",
                f"--upstream.tls.ca_file={authority.cert}", *args,
                upstream=f"rediss://localhost:{port}", listen=("tls:127.0.0.1:0",))
    near.tls = ssl.create_default_context(cafile=authority.cert)
    return near, server


def has_begun(near):
    return near.popen.poll() is not None or "ready" in near.lines()


def serves(near):
    """A write and a read, by a client that comes again if it is refused or disconnected."""
    try:
        with near.new_wire() as wire:
            replies = [wire.call("SET", "k", "v"), wire.call("GET", "k")]
    except (EOFError, OSError):
        return False
    finally:
        time.sleep(PACE)
    for reply in replies:
        assert reply in ("OK", b"v") or isinstance(reply, RespError) and str(reply).startswith(REFUSALS)
    return replies == ["OK", b"v"]


def start_with(near, nth, in_a_row):
    """What comes of it when the nth allocation fails: "exited" or "ready", or an exception."""
    near.failures.next(nth, in_a_row)
    near.spawn(near.argv, near.env)
    wait_until(lambda: has_begun(near), 20, f"'ready' or the end, allocation {nth}")
    if near.popen.poll() is not None:
        said = near.output("stderr")
        assert near.popen.returncode in (1, 2), f"allocation {nth}: {near.popen.returncode}, {said}"
        # OpenSSL may say of a file that there is nothing in it.
        assert re.search("memory|malloc|tls.cert_file", said, re.I), f"allocation {nth}: {said!r}"
        return "exited"
    if in_a_row == FOREVER:
        near.failures.stop()
    return await_service(near, nth)


def await_service(near, nth):
    """OpenSSL leaves out of a context what it finds no memory for, and says nothing: the certificates
    are read again then, as an operator would have them read, for whom the log says what is wrong. What
    it leaves out of its own tables (OPENSSL_FORGETS) stays out until the process ends: "stuck"."""
    outcome = "ready"
    for _ in range(PATIENCE):
        if serves(near):
            break
    else:
        assert near.tls, f"no service, allocation {nth}: " + near.output("stderr")
        near.popen.send_signal(signal.SIGHUP)
        outcome = "reloaded"
    try:
        wait_until(lambda: serves(near), 20, f"service, allocation {nth}")
    except AssertionError:
        if not OPENSSL_FORGETS or outcome == "ready" or "why=\"TLS: unsupported\"" not in near.output("stderr"):
            raise
        outcome = "stuck"
    near.stop()
    return outcome


def allocations(near):
    """How many there are until it serves from the L1, about."""
    near.start()
    wait_until(lambda: serves(near) and near.info()["serving"] == "1")
    near.stop()
    return near.failures.get("calls")


def start_often(near, first, step, in_a_row):
    """Once for each of the first allocations, or for every `step`, and for a hundred of all others. It
    ends at the first ones only: after that it would be for a while that nothing can be done."""
    total = allocations(near)
    outcomes = {nth: start_with(near, nth, in_a_row) for nth in
                [*range(1, first, step), *range(first, total, max(1, total // 100))]}
    ends = [nth for nth, outcome in outcomes.items() if outcome == "exited"]
    assert 0 < len(ends) < len(outcomes) and max(ends) < first
    reloads, stuck = (sum(outcome == what for outcome in outcomes.values())
                      for what in ("reloaded", "stuck"))
    assert stuck <= len(outcomes) // 20
    return f"{len(outcomes)} starts: {len(ends)} ended, the last at allocation {max(ends)} of " \
        f"{total}; {reloads} had to be told to reload, {stuck} to be started again"


@pytest.mark.parametrize("in_a_row", [1, 3, FOREVER], ids=["one", "three", "all-after-it"])
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 7], ids=["each", "sample"])
def test_at_the_start(failing_nearcache, redis_server, in_a_row, step, record_property):
    """It says what is wrong and ends with a status, or it serves, sooner or later."""
    near = failing_nearcache(upstream=redis_server())
    record_property("figures", start_often(near, 150, step, in_a_row))


def test_at_the_start_with_tls(failing_nearcache, redis_server, files, record_property):
    """OpenSSL's allocations, too."""
    near, _ = speak_tls(failing_nearcache, files, redis_server)
    record_property("figures", start_often(near, 40_000, 400, 1))


# --- running ---------------------------------------------------------------------------------------

# Share of the allocations that fail, least size, how many are to fail.
WEATHERS = {
    "few": (0.002, 0, 60),
    "some": (0.05, 0, 500),
    "half": (0.5, 0, 500),
    "all": (1, 0, 500),
    "requests-and-replies": (0.3, 1000, 60),
    "chunks": (1, 16000, 20),
    "large-values": (0.5, 90_000, 10),
}
ROUNDS = 6
SETTLED = 3  # rounds after which nothing grows
BLOCKS_MORE = 25  # allocations that may be alive more than then ..
BLOCKS_MORE_TLS = 1000  # .. a connection with TLS has some 180, and private ones are kept for a while
BYTES_MORE = 8 << 20
IDLE_BYTES = 32 * 1024  # of buffers: what connections that are idle keep for the replies to come


def at_rest(near):
    """Nothing is under way, and nothing is held for it."""
    for name, most in {"upstream_pending": 0, "sessions": 0, "buffer_bytes": IDLE_BYTES}.items():
        wait_until(lambda name=name, most=most: int(near.info()[name]) <= most, 30,
                   f"{name} of {near.info()[name]} to be at most {most}")
    wait_until(lambda: near.info()["serving"] == "1", 30, "a live link")


def one_round(near, server, weather, name):
    share, min_size, n = weather
    traffic = Traffic(near, server, 1.0, name, REFUSALS, may_be_disconnected=True)
    try:
        wait_until(lambda: traffic.all_ok(20), 30, "traffic")
        before = near.failures.get("failed")
        near.failures.at_random(share, min_size)
        wait_until(lambda: near.failures.get("failed") - before >= n or near.popen.poll() is not None,
                   60, f"{n} failed allocations")
        near.failures.stop()
        assert near.popen.poll() is None, f"ended with {near.popen.returncode}: {near.output('stderr')}"
        wait_until(lambda: traffic.all_ok(20), 30, "service")
    finally:
        near.failures.stop()
        traffic.finish()
    at_rest(near)
    return near.failures.get("live"), near.rss()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("weather", [
    pytest.param(name, marks=[] if name == "some" else pytest.mark.slow) for name in WEATHERS])
def test_while_it_runs(failing_nearcache, redis_server, files, weather, tls, record_property):
    """Clients that know what they must be told, while allocations fail at random, again and again; then
    all is well, and nothing is left over."""
    settings = ["--set", "l1.max_memory=2mb"]
    if tls:
        near, server = speak_tls(failing_nearcache, files, redis_server, *settings)
    else:
        server = redis_server()
        near = failing_nearcache(*settings, upstream=server)
    near.start()
    seen = [one_round(near, server, WEATHERS[weather], f"{i}-") for i in range(ROUNDS)]
    blocks, rss = (seen[-1][i] - seen[SETTLED - 1][i] for i in (0, 1))
    record_property("figures", f"{near.failures.get('failed')} of {near.failures.get('calls')} "
                    f"allocations failed; since round {SETTLED} {blocks:+} blocks, {rss // 1024:+} KB")
    assert blocks < (BLOCKS_MORE_TLS if tls else BLOCKS_MORE) and rss < BYTES_MORE, seen
    near.stop()
