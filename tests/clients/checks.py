"""What the Python scripts share: named checks, waiting, the restart."""
import os
import sys
import time
import traceback

URL = os.environ["REDIS_URL"]
OPEN_URL = os.environ["REDIS_OPEN_URL"]
WRONG_URL = URL.replace(os.environ["REDIS_PASSWORD"], "wrong")

BINARY_KEY = b"\x00\x01\r\n$*\xff\xfe\x80\x00"
LARGE = bytes(i * 7 % 256 for i in range(250)) * 20_000  # 5 MB


def until(predicate, what):
    """Waits until `predicate` returns something true, which is returned."""
    deadline = time.monotonic() + 20
    while True:
        result = predicate()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within 20 s: {what}"
        time.sleep(0.01)


def restart():
    """Has the server ended and started again; returns when it is back."""
    print("restart", flush=True)
    assert sys.stdin.readline() == "restarted\n"


def rejected(error, call, *args, **options):
    """The text of the error that the call must raise."""
    try:
        result = call(*args, **options)
    except error as e:
        return str(e)
    raise AssertionError(f"no {error.__name__} but {result!r}")


def run(version, *checks):
    """Runs the checks, functions, one after the other, and ends the process."""
    print(f"version {version}", flush=True)
    failed = 0
    for check in checks:
        try:
            check()
        except Exception:  # pylint: disable=broad-except  # every check may say what is wrong
            failed += 1
            print(f"{check.__name__}: {traceback.format_exc()}", file=sys.stderr)
    sys.exit(failed > 0)
