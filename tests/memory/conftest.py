"""Fixtures: a nearcache whose allocations fail when a test says so (failing.py), and what e2e has."""
import importlib.util
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
E2E = os.path.join(os.path.dirname(HERE), "e2e")
sys.path[:0] = [HERE, E2E]

import failing  # noqa: E402

spec = importlib.util.spec_from_file_location("e2e_fixtures", os.path.join(E2E, "conftest.py"))
e2e = importlib.util.module_from_spec(spec)
spec.loader.exec_module(e2e)
pytest_configure, pytest_terminal_summary = e2e.pytest_configure, e2e.pytest_terminal_summary
redis_server, module_redis_server = e2e.redis_server, e2e.module_redis_server


@pytest.fixture
def failing_nearcache(tmp_path, redis_server):  # so that it ends before its upstream does
    """Makes one, not started yet."""
    made = []

    def make(*args, **options):
        near = failing.FailingNearcache(tmp_path / f"near{len(made)}", *args, **options)
        made.append(near)
        return near
    yield make
    for near in made:
        near.failures.stop()
        near.close()


def pytest_collection_modifyitems(items):
    if failing.harness.INSTRUMENTED:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the allocator is not the C library's"))
