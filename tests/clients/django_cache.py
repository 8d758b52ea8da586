"""django-redis: Django's cache in Redis, with its locks, patterns, versions and sessions."""
import threading

import django_redis
from django.conf import settings

from checks import URL, run, until

settings.configure(
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL,
                        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"}}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache", USE_TZ=True)
from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402
from django.core.cache import cache  # noqa: E402


def values():
    cache.set("user", {"name": "Ada", "tags": ["a", "b"]}, timeout=60)
    assert cache.get("user") == {"name": "Ada", "tags": ["a", "b"]}
    assert cache.get("missing", "default") == "default"
    assert 50 < cache.ttl("user") <= 60
    assert cache.add("user", 1) is False and cache.touch("user", 5)
    assert cache.ttl("user") <= 5
    assert cache.delete("user") and cache.get("user") is None


def many():
    cache.set_many({f"n:{i}": i for i in range(200)})
    assert cache.get_many(f"n:{i}" for i in range(200)) == {f"n:{i}": i for i in range(200)}
    assert sorted(cache.keys("n:1?")) == [f"n:{i}" for i in range(10, 20)]
    assert len(list(cache.iter_keys("n:*", itersize=20))) == 200
    assert cache.delete_pattern("n:*") == 200


def counters():
    cache.set("counter", 1)
    assert cache.incr("counter", 2) == 3 and cache.decr("counter") == 2
    assert cache.incr_version("counter") == 2 and cache.get("counter", version=2) == 2


def expiry():
    cache.set("short", 1, timeout=1)
    assert cache.get("short") == 1
    until(lambda: cache.get("short") is None, "the end of its life")


def locks():
    order = []
    with cache.lock("door", timeout=10):
        thread = threading.Thread(target=lambda: wait_at_the_door(order))
        thread.start()
        assert not cache.lock("door").acquire(blocking=False)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def wait_at_the_door(order):
    with cache.lock("door", timeout=10):
        order.append("second")


def sessions():
    session = SessionStore()
    session["cart"] = [1, 2, 3]
    session.save()
    assert SessionStore(session.session_key)["cart"] == [1, 2, 3]
    session.flush()
    assert not SessionStore().exists(session.session_key or "gone")


def clear():
    cache.set("a", 1)
    cache.clear()
    assert cache.get("a") is None


version = getattr(django_redis, "__version__", None) or ".".join(map(str, django_redis.VERSION))
run(version, values, many, counters, expiry, locks, sessions, clear)
