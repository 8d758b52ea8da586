"""celery: Redis as broker and as result backend; a worker, results, groups, chords, retries."""
import sys

import celery
from celery.contrib.testing import worker as testing

from checks import OPEN_URL, URL, run, until

app = celery.Celery("clients", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, result_extended=True,
                broker_transport_options={"visibility_timeout": 30, "polling_interval": 0.1},
                worker_hijack_root_logger=False, worker_send_task_events=True,
                task_send_sent_event=True)
TIMEOUT = 15  # seconds


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def fail_twice(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def fail():
    raise ValueError("as told")


def result():
    assert add.delay(2, 3).get(timeout=TIMEOUT) == 5


def error():
    try:
        fail.delay().get(timeout=TIMEOUT)
    except ValueError as e:
        assert "as told" in str(e)
    else:
        raise AssertionError("no error")


def many():
    results = celery.group(add.s(i, i) for i in range(50)).apply_async()
    assert results.get(timeout=TIMEOUT) == [2 * i for i in range(50)]


def chord():
    done = celery.chord((add.s(i, i) for i in range(10)), total.s()).apply_async()
    assert done.get(timeout=TIMEOUT) == 90


def chain():
    assert celery.chain(add.s(1, 2), add.s(3), add.s(4)).apply_async().get(timeout=TIMEOUT) == 10


def retried():
    assert fail_twice.delay().get(timeout=TIMEOUT) == 2


def later():
    assert add.apply_async((1, 1), countdown=0.5).get(timeout=TIMEOUT) == 2


def priorities():
    for priority in (9, 0, 5):
        assert add.apply_async((priority, 0), priority=priority).get(timeout=TIMEOUT) == priority


def remote_control():
    """Broadcast over pub/sub, replies over a list of its own."""
    replies = until(lambda: app.control.ping(timeout=0.5), "the worker's pong")
    assert list(replies[0].values()) == [{"ok": "pong"}], replies


def forgotten():
    done = add.delay(1, 1)
    assert done.get(timeout=TIMEOUT) == 2
    done.forget()
    assert app.backend.client.get(f"celery-task-meta-{done.id}") is None


def other_url():
    """The broker by the address without a password."""
    with celery.Celery("open", broker=OPEN_URL).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        with connection.SimpleQueue("simple") as queue:
            queue.put({"hello": "world"})
            message = queue.get(timeout=5)
            assert message.payload == {"hello": "world"}
            message.ack()


if __name__ == "__main__":
    sys.argv[:] = ["celery"]  # the worker would read ours
    with testing.start_worker(app, perform_ping_check=False, concurrency=2, pool="threads"):
        run(celery.__version__, result, error, many, chord, chain, retried, later, priorities,
            remote_control, forgotten, other_url)
