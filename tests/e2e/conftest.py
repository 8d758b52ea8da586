"""Fixtures of the end-to-end tests: factories of redis-servers and nearcaches that end with the test.

    def test_ping(redis_server, nearcache):
        near = nearcache(upstream=redis_server())
        assert near.wire().call("PING") == "PONG"

The module_ ones live as long as the tests of one file. Needs a build: NEARCACHE_BUILD_DIR (default
build) or NEARCACHE_BIN.
"""
import contextlib
import os

import pytest

import harness
from harness import Push, RespError, Wire, connect, encode, wait_until  # for `from conftest import`

__all__ = ["Push", "RespError", "Wire", "connect", "encode", "wait_until"]

os.environ.setdefault("NEARCACHE_BUILD_DIR", harness.BUILD_DIR)


def pytest_configure(config):
    config.addinivalue_line("markers", "one_worker: counts on it that all clients have the same worker")
    config.addinivalue_line("markers", "slow: takes seconds; left out by tests/run --quick")


def pytest_terminal_summary(terminalreporter):
    """What tests have recorded with record_property("figures", text)."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    lines = sorted(f"{report.nodeid.rpartition('::')[2]:48} {value}" for report in reports
                   for name, value in report.user_properties
                   if name == "figures" and report.when == "call")
    if lines:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(lines))


@contextlib.contextmanager
def factory(kind, directory):
    """Makes processes of a kind, each in a directory of its own, and closes them in reverse."""
    with contextlib.ExitStack() as stack:
        def make(*args, **options):
            make.n += 1
            process = kind(directory / f"{kind.__name__.lower()}{make.n}", *args, **options)
            stack.callback(process.close)
            return process.start()
        make.n = 0
        yield make


@pytest.fixture
def redis_server(tmp_path):
    with factory(harness.RedisServer, tmp_path) as make:
        yield make


@pytest.fixture
def nearcache(tmp_path, redis_server):  # so that nearcache ends before its upstream does
    with factory(harness.Nearcache, tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def module_redis_server(tmp_path_factory):
    with factory(harness.RedisServer, tmp_path_factory.mktemp("redis")) as make:
        yield make


@pytest.fixture(scope="module")
def module_nearcache(tmp_path_factory, module_redis_server):
    with factory(harness.Nearcache, tmp_path_factory.mktemp("nearcache")) as make:
        yield make


NEED_KEPT_HASHES = {
    "test_other_arguments_are_another_view", "test_negative_ttl_of_0",
    "test_a_scan_of_absent_keys_does_not_push_out_what_is_used",
    "test_a_read_by_many_at_once_is_asked_for_once",
    "test_a_prefix_event_of_our_own_client_counts_at_once",
}


def skip_one_worker(items):
    for item in items:
        if harness.WORKERS and item.get_closest_marker("one_worker"):
            item.add_marker(pytest.mark.skip(reason="clients have different workers"))


def pytest_collection_modifyitems(items):
    """Tests of kept hashes say nothing about a server whose hashes are not kept."""
    skip_one_worker(items)
    why = pytest.mark.skip(reason="fields of a hash expire one by one on this server")
    for item in items:
        kind = getattr(item, "callspec", None) and item.callspec.params.get("kind")
        if harness.FIELDS_EXPIRE and (kind == "hash" or item.originalname in NEED_KEPT_HASHES):
            item.add_marker(why)
