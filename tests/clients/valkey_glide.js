// valkey_glide.js - Valkey GLIDE, whose core is Rust: RESP3 and RESP2, batches, scripts, pub/sub.
'use strict';
const { assert, binaryKey, blocked, large, restart, run, until } = require('./checks');
const { Batch, Decoder, GlideClient, GlideClientConfiguration, ProtocolVersion, RequestError, Script } =
  require('@valkey/valkey-glide');

const { REDIS_HOST: host, REDIS_PORT: port, REDIS_PASSWORD: password } = process.env;
const open = (options) => GlideClient.createClient({
  addresses: [{ host, port: Number(port) }], credentials: { password }, requestTimeout: 30_000, ...options,
});

/** The checks that are the same in both protocols, on two clients. */
const common = (redis, other, protocol) => ({
  async connect() {
    assert.equal(await redis.ping(), 'PONG');
    const wrong = open({ protocol, credentials: { password: 'wrong' } });
    await assert.rejects(wrong, /WrongPass|AuthenticationFailed/i);
  },

  async pipeline() {
    const batch = new Batch(false);
    for (let i = 0; i < 1000; i++) batch.set(`key:${i}`, String(i)).get(`key:${i}`);
    batch.lpush('key:1', ['x']).get('key:2');
    const replies = await redis.exec(batch, false);
    for (let i = 0; i < 1000; i++) assert.equal(replies[2 * i + 1], String(i));
    assert.ok(replies[2000] instanceof RequestError);
    assert.equal(replies[2001], '2');
  },

  async transaction() {
    await redis.set('counter', '1');
    await redis.watch(['counter']);
    const increment = new Batch(true).incr('counter').get('counter');
    assert.deepEqual(await redis.exec(increment, true), [2, '2']);
    await redis.watch(['counter']);
    await other.set('counter', '10');
    assert.equal(await redis.exec(increment, true), null, 'EXEC after a foreign write');
    assert.equal(await redis.get('counter'), '10');
  },

  async 'blocking pop'() {
    const blocking = await open({ protocol });
    const popped = blocking.blpop(['list:a', 'list:b'], 20);
    await until(async () => blocked(await other.info(['clients'])) === 1, 'a blocked client');
    await other.rpush('list:b', ['pushed']);
    assert.deepEqual(await popped, ['list:b', 'pushed']);
    assert.equal(await blocking.blpop(['list:a'], 0.1), null, 'time-out');
    blocking.close();
  },

  async scan() {
    await redis.flushdb();
    const names = Array.from({ length: 500 }, (_, i) => `key:${i}`);
    await redis.mset(Object.fromEntries(names.map((key) => [key, key])));
    const seen = new Set();
    let cursor = '0';
    do {
      const [next, keys] = await redis.scan(cursor, { count: 50 });
      keys.forEach((key) => seen.add(key));
      cursor = next;
    } while (cursor !== '0');
    assert.deepEqual([...seen].sort(), names.sort());
  },

  async script() {
    const double = new Script('return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2');
    await redis.set('n', '20');
    assert.equal(await redis.invokeScript(double, { keys: ['n'], args: ['1'] }), 42);
    assert.equal(await redis.invokeScript(double, { keys: ['n'], args: ['1'] }), 44);
  },

  async 'values of every type'() {
    await redis.hset('hash', { a: '1', b: '2' });
    const pairs = (await redis.hgetall('hash')).map(({ field, value }) => [field, value]);
    assert.deepEqual(Object.fromEntries(pairs), { a: '1', b: '2' });
    await redis.zadd('scores', { m: 1.5 });
    assert.equal(await redis.zscore('scores', 'm'), 1.5);
    await redis.sadd('set', ['x', 'y']);
    assert.deepEqual([...(await redis.smembers('set'))].sort(), ['x', 'y']);
    const id = await redis.xadd('stream', [['field', 'value']]);
    const [{ key }] = await redis.xread({ stream: '0' });
    assert.equal(key, 'stream');
    assert.equal((await redis.xrange('stream', { value: id }, { value: id }))[id][0][1], 'value');
  },

  async 'large and binary'() {
    await redis.set(binaryKey, large);
    for (const time of ['asked of Redis', 'again']) {
      assert.ok((await redis.get(binaryKey, { decoder: Decoder.Bytes })).equals(large), time);
    }
  },
});

async function pubsub() {
  const { PubSubChannelModes: modes } = GlideClientConfiguration;
  const redis = await open();
  const subscriber = await open({
    pubsubSubscriptions: {
      channelsAndPatterns: { [modes.Exact]: new Set(['news']), [modes.Pattern]: new Set(['n*']) },
    },
  });
  await until(async () => (await redis.publish('hello', 'news')) === 2, 'both subscriptions');
  const { message, channel } = await subscriber.getPubSubMessage();
  assert.deepEqual([message, channel], ['hello', 'news']);
  assert.equal(await subscriber.ping(), 'PONG', 'a command while subscribed');
  subscriber.close();
}

(async () => {
  const checks = { 'pub/sub': pubsub };
  for (const name of ['RESP3', 'RESP2']) {
    const protocol = ProtocolVersion[name];
    const checksOf = common(await open({ protocol }), await open({ protocol }), protocol);
    for (const [check, f] of Object.entries(checksOf)) checks[`${name} ${check}`] = f;
  }
  const lasting = await open();
  checks.reconnect = async () => {
    await restart();
    await until(() => lasting.set('k', 'again').catch(() => null), 'a command after the restart');
    assert.equal(await lasting.get('k'), 'again');
  };
  await run('@valkey/valkey-glide', checks);
})();
