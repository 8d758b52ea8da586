"""redis-py, synchronous; RESP3 and the client's own cache where the version has them."""
import threading

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from checks import BINARY_KEY, LARGE, OPEN_URL, URL, WRONG_URL, rejected, restart, run, until

OPTIONS = {"socket_timeout": 15}
HAS_RESP3 = int(redis.__version__.split(".", maxsplit=1)[0]) >= 5

r = redis.Redis.from_url(URL, decode_responses=True, **OPTIONS)
other = redis.Redis.from_url(URL, decode_responses=True, **OPTIONS)


def connect():
    assert r.ping()
    assert redis.Redis.from_url(OPEN_URL, **OPTIONS).ping()
    wrong = redis.Redis.from_url(WRONG_URL, **OPTIONS)
    assert "username-password pair" in rejected(redis.RedisError, wrong.ping)
    nobody = redis.Redis.from_url(OPEN_URL.replace(OPEN_URL.split("/")[2], URL.split("@")[1][:-2]))
    assert "Authentication required" in rejected(redis.AuthenticationError, nobody.ping)


def pipeline():
    with r.pipeline(transaction=False) as p:
        for i in range(1000):
            p.set(f"key:{i}", i).get(f"key:{i}")
        p.lpush("key:1", "x").get("key:2")
        replies = p.execute(raise_on_error=False)
    assert replies[1:2000:2] == [str(i) for i in range(1000)]
    assert "WRONGTYPE" in str(replies[2000]) and replies[2001] == "2"


def transaction():
    r.set("counter", 1)
    with r.pipeline() as p:
        p.watch("counter")
        value = int(p.get("counter"))
        p.multi()
        p.set("counter", value + 1).get("counter")
        assert p.execute() == [True, "2"]
        p.watch("counter")
        other.set("counter", 10)
        p.multi()
        p.incr("counter")
        rejected(redis.WatchError, p.execute)
    assert r.get("counter") == "10"
    with r.pipeline() as p:
        replies = p.set("a", 1).lpush("a", "x").get("a").execute(raise_on_error=False)
    assert replies[0] is True and "WRONGTYPE" in str(replies[1]) and replies[2] == "1"
    assert r.transaction(lambda p: (p.multi(), p.incr("counter")), "counter") == [11]


def blocking_pop():
    popped = []
    thread = threading.Thread(target=lambda: popped.append(r.blpop(["list:a", "list:b"], 10)))
    thread.start()
    until(lambda: other.info("clients")["blocked_clients"] == 1, "a blocked client")
    other.rpush("list:b", "pushed")
    thread.join(10)
    assert popped == [("list:b", "pushed")], popped
    assert r.blpop("list:a", 1) is None
    assert r.blmove("list:a", "list:b", 1) is None


def pubsub():
    with r.pubsub() as p:
        def message():
            return until(lambda: p.get_message(timeout=0.1), "a message")
        p.subscribe("news", "weather")
        p.psubscribe("n*")
        acks = [message() for _ in range(3)]
        assert [(m["type"], m["channel"], m["data"]) for m in acks] == [
            ("subscribe", "news", 1), ("subscribe", "weather", 2), ("psubscribe", "n*", 3)]
        assert r.publish("news", "hello") == 2
        news = {"channel": "news", "data": "hello"}
        assert message() == {"type": "message", "pattern": None, **news}
        assert message() == {"type": "pmessage", "pattern": "n*", **news}
        p.unsubscribe()
        p.punsubscribe()
        kinds = [message()["type"] for _ in range(3)]
        assert kinds == ["unsubscribe", "unsubscribe", "punsubscribe"]
        assert r.publish("news", "nobody") == 0


def scan():
    r.flushdb()
    names = {f"key:{i}" for i in range(500)}
    r.mset(dict.fromkeys(names, "x"))
    assert set(r.scan_iter(count=50)) == names
    assert len(set(r.scan_iter(match="key:4?"))) == 10
    assert set(r.keys()) == names and r.dbsize() == 500
    assert r.randomkey() in names


def script():
    double = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1]) * 2")
    r.set("n", 20)
    assert double(keys=["n"], args=[1]) == 42, "EVALSHA, NOSCRIPT, SCRIPT LOAD"
    with r.pipeline() as p:
        double(keys=["n"], args=[1], client=p)
        assert p.execute() == [44]
    rejected(redis.exceptions.NoScriptError, r.evalsha, "f" * 40, 0)


def large_and_binary():
    raw = redis.Redis.from_url(URL, **OPTIONS)
    raw.set(BINARY_KEY, LARGE)
    assert raw.get(BINARY_KEY) == LARGE, "the large value, asked of Redis"
    assert raw.get(BINARY_KEY) == LARGE, "the large value, again"
    assert BINARY_KEY in raw.scan_iter(match=b"\x00*")
    assert raw.mget(BINARY_KEY, b"missing") == [LARGE, None]


def resp3():
    if not HAS_RESP3:
        return
    three = redis.Redis.from_url(URL, protocol=3, decode_responses=True, **OPTIONS)
    assert three.execute_command("HELLO")["proto"] == 3
    three.hset("hash", mapping={"a": "1"})
    assert three.hgetall("hash") == {"a": "1"}
    three.zadd("scores", {"m": 1.5})
    assert three.zscore("scores", "m") == 1.5
    three.sadd("set", "x")
    assert three.smembers("set") == {"x"}
    with three.pipeline() as p:
        assert p.hgetall("hash").zscore("scores", "m").execute() == [{"a": "1"}, 1.5]
    if tuple(map(int, r.info("server")["redis_version"].split(".")[:2])) >= (7, 4):
        own_cache()  # refused by redis-py on an older server


def own_cache():
    """Client-side caching, by CLIENT TRACKING of the client's own."""
    from redis.cache import CacheConfig  # pylint: disable=import-outside-toplevel
    cached = redis.Redis.from_url(URL, protocol=3, cache_config=CacheConfig(),
                                  decode_responses=True)
    other.set("shared", "old")
    assert cached.get("shared") == cached.get("shared") == "old"
    other.set("shared", "new")
    until(lambda: cached.get("shared") == "new", "the invalidation")


def reconnect():
    patient = redis.Redis.from_url(URL, retry=Retry(ConstantBackoff(0.1), 50),
                                   retry_on_error=[redis.ConnectionError])
    assert patient.set("k", "before")
    restart()
    assert patient.set("k", "again")
    assert patient.get("k") == b"again"


run(redis.__version__, connect, pipeline, transaction, blocking_pop, pubsub, scan, script,
    large_and_binary, resp3, reconnect)
