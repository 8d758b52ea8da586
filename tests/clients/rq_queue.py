"""rq: a queue, a worker, results, retries, dependencies, scheduled jobs, a failing one."""
import datetime
import logging
import os
import sys

import redis
import rq
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry
from rq.scheduler import RQScheduler

from checks import URL, run, until

logging.disable(logging.WARNING)
connection = redis.Redis.from_url(URL)


# --- what the jobs do: the worker imports this file by its name -------------------------------


def add(a, b):
    return a + b


def fail():
    raise ValueError("as told")


def fail_once(key):
    """Fails at the first call."""
    if redis.Redis.from_url(URL).incr(key) == 1:
        raise ValueError("the first time")
    return "the second time"


# --- checks -----------------------------------------------------------------------------------


def queue(name):
    return rq.Queue(name, connection=connection)


def work(*queues):
    """Empties the queues in a worker within this process, which writes no pid to anywhere."""
    logging.getLogger("rq.worker").setLevel(logging.CRITICAL)
    rq.SimpleWorker(list(queues), connection=connection).work(burst=True)


def job(name):
    """The function as the worker finds it."""
    return f"rq_queue.{name}"


def jobs():
    q = queue("plain")
    made = [q.enqueue(job("add"), i, i) for i in range(20)]
    assert q.count == 20 and [j.id for j in made] == q.job_ids
    work(q)
    assert [connection_job(j).result for j in made] == [2 * i for i in range(20)]
    assert q.is_empty() and len(FinishedJobRegistry(queue=q)) == 20


def connection_job(made):
    """The job as it stands in Redis."""
    return Job.fetch(made.id, connection=connection)


def failing():
    q = queue("failing")
    failed = q.enqueue(job("fail"))
    work(q)
    assert connection_job(failed).get_status() == "failed"
    assert FailedJobRegistry(queue=q).get_job_ids() == [failed.id]
    FailedJobRegistry(queue=q).requeue(failed.id)
    assert q.job_ids == [failed.id]
    q.empty()


def retried():
    q = queue("retried")
    made = q.enqueue(job("fail_once"), "tries", retry=rq.Retry(max=2))
    work(q)
    assert connection_job(made).result == "the second time"


def dependent():
    first_queue, second_queue = queue("first"), queue("second")
    first = first_queue.enqueue(job("add"), 1, 2)
    second = second_queue.enqueue(job("add"), 3, 4, depends_on=first)
    assert second_queue.is_empty() and connection_job(second).get_status() == "deferred"
    work(first_queue)
    assert second_queue.job_ids == [second.id]
    work(second_queue)
    assert connection_job(second).result == 7


def scheduled():
    q = queue("scheduled")
    made = q.enqueue_in(datetime.timedelta(seconds=1), job("add"), 1, 1)
    assert ScheduledJobRegistry(queue=q).get_job_ids() == [made.id]
    scheduler = RQScheduler([q], connection=connection)
    assert scheduler.acquire_locks() == {"scheduled"}

    def due():
        scheduler.enqueue_scheduled_jobs()
        return q.job_ids == [made.id]
    until(due, "the scheduled job")
    scheduler.release_locks()
    work(q)
    assert connection_job(made).result == 2


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    run(rq.VERSION, jobs, failing, retried, dependent, scheduled)
