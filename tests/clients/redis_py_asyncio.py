"""redis-py, asyncio; RESP3 where the version has it."""
import asyncio

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from checks import BINARY_KEY, LARGE, OPEN_URL, URL, WRONG_URL, restart, run

HAS_RESP3 = int(redis.__version__.split(".", maxsplit=1)[0]) >= 5


def client(url=URL, **options):
    return redis.asyncio.Redis.from_url(url, **{"decode_responses": True, **options})


async def raises(error, awaitable):
    try:
        result = await awaitable
    except error:
        return
    raise AssertionError(f"no {error.__name__} but {result!r}")


async def until(predicate, what):
    async def poll():
        while not await predicate():
            await asyncio.sleep(0.01)
    try:
        await asyncio.wait_for(poll(), 20)
    except asyncio.TimeoutError:
        raise AssertionError(f"not within 20 s: {what}") from None


async def connect():
    async with client() as r, client(OPEN_URL) as open_, client(WRONG_URL) as wrong:
        assert await r.ping() and await open_.ping()
        await raises(redis.RedisError, wrong.ping())


async def pipeline():
    async with client() as r, r.pipeline(transaction=False) as p:
        for i in range(1000):
            p.set(f"key:{i}", i).get(f"key:{i}")
        replies = await p.execute()
        assert replies[1::2] == [str(i) for i in range(1000)]


async def at_once():
    """Many tasks over one client, each on a connection of the pool."""
    async with client() as r:
        await asyncio.gather(*(r.set(f"key:{i}", i) for i in range(100)))
        assert await asyncio.gather(*(r.get(f"key:{i}") for i in range(100))) == [
            str(i) for i in range(100)]


async def transaction():
    async with client() as r, client() as other:
        await r.set("counter", 1)
        async with r.pipeline() as p:
            await p.watch("counter")
            p.multi()
            p.incr("counter").get("counter")
            assert await p.execute() == [2, "2"]
            await p.watch("counter")
            await other.set("counter", 10)
            p.multi()
            p.incr("counter")
            await raises(redis.WatchError, p.execute())
        assert await r.get("counter") == "10"


async def blocking_pop():
    async with client() as r, client() as other:
        popped = asyncio.ensure_future(r.blpop(["list:a", "list:b"], 10))

        async def is_blocked():
            return (await other.info("clients"))["blocked_clients"] == 1
        await until(is_blocked, "a blocked client")
        await other.rpush("list:b", "pushed")
        assert tuple(await popped) == ("list:b", "pushed")
        assert await r.blpop("list:a", 1) is None


async def cancelled_pop():
    """A client that gives up waiting closes its connection: nothing may be lost to it."""
    async with client() as r, client() as other:
        async def nobody_blocked():
            return (await other.info("clients"))["blocked_clients"] == 0
        await raises(asyncio.TimeoutError, asyncio.wait_for(r.blpop("list:c", 0), 0.2))
        await r.connection_pool.disconnect()
        await until(nobody_blocked, "the end of the blocking call")
        await other.rpush("list:c", "kept")
        assert await other.lrange("list:c", 0, -1) == ["kept"]


async def pubsub():
    async with client() as r, r.pubsub() as p:
        async def message():
            async for m in p.listen():
                return m["type"], m["channel"], m["data"]
        await p.subscribe("news")
        await p.psubscribe("n*")
        assert [await message(), await message()] == [("subscribe", "news", 1),
                                                      ("psubscribe", "n*", 2)]
        assert await r.publish("news", "hello") == 2
        assert [await message(), await message()] == [("message", "news", "hello"),
                                                      ("pmessage", "news", "hello")]
        await p.unsubscribe()
        await p.punsubscribe()
        assert [(await message())[0], (await message())[0]] == ["unsubscribe", "punsubscribe"]
        assert await r.publish("news", "nobody") == 0


async def scan():
    async with client() as r:
        await r.flushdb()
        names = {f"key:{i}" for i in range(500)}
        await r.mset(dict.fromkeys(names, "x"))
        assert {key async for key in r.scan_iter(count=50)} == names


async def script():
    async with client() as r:
        add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1]) + 1")
        await r.set("n", 20)
        assert await add(keys=["n"], args=[1]) == 22
        assert await add(keys=["n"], args=[1]) == 23


async def large_and_binary():
    async with client(decode_responses=False) as r:
        await r.set(BINARY_KEY, LARGE)
        assert await r.get(BINARY_KEY) == LARGE and await r.get(BINARY_KEY) == LARGE


async def resp3():
    if not HAS_RESP3:
        return
    async with client(protocol=3) as r, r.pubsub() as p:
        await r.hset("hash", mapping={"a": "1"})
        assert await r.hgetall("hash") == {"a": "1"}
        await p.subscribe("pushes")
        await p.get_message(timeout=5)
        await r.publish("pushes", "hello")
        assert (await p.get_message(timeout=5))["data"] == "hello"


async def reconnect():
    async with client(retry=Retry(ConstantBackoff(0.1), 50),
                      retry_on_error=[redis.ConnectionError]) as r:
        await r.set("k", "before")
        restart()
        assert await r.set("k", "again") and await r.get("k") == "again"


def with_deadline(check):
    def f():
        asyncio.run(asyncio.wait_for(check(), 40))
    f.__name__ = check.__name__
    return f


run(redis.__version__, *map(with_deadline, (
    connect, pipeline, at_once, transaction, blocking_pop, cancelled_pop, pubsub, scan, script,
    large_and_binary, resp3, reconnect)))
