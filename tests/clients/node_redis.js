// node_redis.js - node-redis, the version whose package name is given: RESP2, RESP3, its own cache.
'use strict';
const {
  assert, Mailbox, binaryKey, blocked, large, openUrl, restart, run, until, url, versionOf, wrongUrl,
} = require('./checks');
const name = process.argv[2];
const { createClient, commandOptions, defineScript, RESP_TYPES } = require(name);
const major = Number(versionOf(name).split('.')[0]);

const DOUBLE = 'return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2';
const script = (parse) =>
  defineScript({ SCRIPT: DOUBLE, NUMBER_OF_KEYS: 1, transformReply: (reply) => reply, ...parse });
const double = major === 4 ? script({ transformArguments: (key, by) => [key, String(by)] })
  : script({ parseCommand: (parser, key, by) => { parser.pushKey(key); parser.push(String(by)); } });

/** A connected client. */
async function connected(options) {
  const client = createClient({ url, scripts: { double }, ...options });
  client.on('error', () => {}); // while nearcache restarts
  return client.connect();
}

async function* scanned(client, options) {
  for await (const keys of client.scanIterator(options)) yield* [keys].flat(); // version 4: single ones
}

/** The checks that are the same in both protocols, on two clients. */
const common = (redis, other, open) => ({
  async connect() {
    assert.equal(await redis.ping(), 'PONG');
    const client = await open({ url: openUrl });
    assert.equal(await client.ping(), 'PONG');
    await client.disconnect();
    await assert.rejects(open({ url: wrongUrl, socket: { reconnectStrategy: false } }), /WRONGPASS/);
  },

  async pipeline() {
    const sets = Array.from({ length: 1000 }, (_, i) => redis.set(`key:${i}`, String(i)));
    const gets = sets.map((_, i) => redis.get(`key:${i}`));
    const wrong = assert.rejects(redis.lPush('key:1', 'x'), /WRONGTYPE/);
    assert.ok((await Promise.all(sets)).every((reply) => reply === 'OK'));
    (await Promise.all(gets)).forEach((value, i) => assert.equal(value, String(i)));
    await wrong;
  },

  async transaction() {
    const alone = await open();
    await alone.set('counter', '1');
    await alone.watch('counter');
    assert.deepEqual(await alone.multi().incr('counter').get('counter').exec(), [2, '2']);
    await alone.watch('counter');
    await other.set('counter', '10');
    await assert.rejects(alone.multi().incr('counter').exec(), /watched/i, 'EXEC after a foreign write');
    assert.equal(await alone.get('counter'), '10');
    await assert.rejects(alone.multi().addCommand(['SET', 'a']).exec(), /EXECABORT|wrong number/);
    assert.deepEqual(await alone.multi().set('a', '1').get('a').exec(), ['OK', '1'], 'after EXECABORT');
    await alone.disconnect();
  },

  async 'blocking pop'() {
    const blocking = await open();
    const popped = blocking.blPop(['list:a', 'list:b'], 10);
    await until(async () => blocked(await other.info('clients')) === 1, 'a blocked client');
    await other.rPush('list:b', 'pushed');
    assert.deepEqual({ ...(await popped) }, { key: 'list:b', element: 'pushed' });
    assert.equal(await blocking.blPop('list:a', 0.1), null, 'time-out');
    await other.zAdd('zset', { score: 1.5, value: 'm' });
    const least = await blocking.bzPopMin('zset', 1);
    assert.deepEqual({ ...least }, { key: 'zset', value: 'm', score: 1.5 });
    await blocking.disconnect();
  },

  async 'pub/sub'() {
    const subscriber = await open();
    const heard = new Mailbox();
    const listener = (message, channel) => heard.push(message, channel);
    await subscriber.subscribe('news', listener);
    await subscriber.pSubscribe('n*', listener);
    assert.equal(await redis.publish('news', 'hello'), 2);
    assert.deepEqual(await heard.next(), ['hello', 'news']);
    assert.deepEqual(await heard.next(), ['hello', 'news']);
    await subscriber.unsubscribe('news');
    await subscriber.pUnsubscribe('n*');
    assert.equal(await redis.publish('news', 'nobody'), 0);
    assert.equal(String(await subscriber.get('key:4')), '4', 'a command after the last unsubscribe');
    await subscriber.disconnect();
  },

  async scan() {
    await redis.flushDb();
    const names = Array.from({ length: 500 }, (_, i) => `key:${i}`);
    await redis.mSet(names.map((key) => [key, key]));
    const seen = new Set();
    for await (const key of scanned(redis, { COUNT: 50 })) seen.add(key);
    assert.deepEqual([...seen].sort(), names.sort());
    const matched = new Set();
    for await (const key of scanned(redis, { MATCH: 'key:4?' })) matched.add(key);
    assert.equal(matched.size, 10);
  },

  async script() {
    await redis.set('n', '20');
    assert.equal(await redis.double('n', 1), 42, 'EVALSHA, NOSCRIPT, EVAL');
    assert.equal(await redis.double('n', 1), 44, 'EVALSHA');
    await assert.rejects(redis.evalSha('f'.repeat(40)), /NOSCRIPT/);
  },

  async 'values of every type'() {
    await redis.hSet('hash', { a: '1', b: '2' });
    assert.deepEqual({ ...(await redis.hGetAll('hash')) }, { a: '1', b: '2' });
    await redis.zAdd('scores', [{ score: 1.5, value: 'm' }, { score: 1e300, value: 'top' }]);
    assert.deepEqual((await redis.zRangeWithScores('scores', 0, -1)).map((item) => ({ ...item })),
      [{ value: 'm', score: 1.5 }, { value: 'top', score: 1e300 }]);
    await redis.sAdd('set', ['x', 'y']);
    assert.deepEqual([...(await redis.sMembers('set'))].sort(), ['x', 'y']);
    const id = await redis.xAdd('stream', '*', { field: 'value' });
    const read = JSON.stringify(await redis.xRead({ key: 'stream', id: '0' }));
    assert.match(read, new RegExp(`"stream".*${id}.*field.*value`), 'XREAD, in each version\'s form');
    assert.equal(await redis.get('missing'), null);
  },

  async 'large and binary'() {
    const buffers = major === 4 ? null : redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    const get = (key) =>
      buffers ? buffers.get(key) : redis.get(commandOptions({ returnBuffers: true }), key);
    await redis.set(binaryKey, large);
    assert.ok((await get(binaryKey)).equals(large), 'the large value, asked of Redis');
    assert.ok((await get(binaryKey)).equals(large), 'the large value, again');
    assert.equal(await redis.exists(binaryKey), 1);
  },
});

/** A cache within the client: its entries go when another client writes. */
async function clientSideCache() {
  const cached = await connected({ RESP: 3, clientSideCache: { ttl: 0, maxEntries: 100 } });
  const other = await connected({ RESP: 3 });
  await other.set('shared', 'old');
  assert.equal(await cached.get('shared'), 'old');
  assert.equal(await cached.get('shared'), 'old');
  await other.set('shared', 'new');
  await until(async () => (await cached.get('shared')) === 'new', 'the invalidation');
  await other.flushDb();
  await until(async () => (await cached.get('shared')) === null, 'the invalidation of everything');
  await Promise.all([cached, other].map((client) => client.disconnect()));
}

async function reconnect(redis) {
  const subscriber = await connected();
  const heard = new Mailbox();
  await subscriber.subscribe('after', heard.push);
  await restart();
  await until(() => redis.set('k', 'again').catch(() => null), 'a command after the restart');
  assert.equal(await redis.get('k'), 'again');
  await until(async () => (await redis.publish('after', 'back')) === 1, 'the renewed subscription');
  assert.deepEqual(await heard.next(), ['back', 'after']);
}

(async () => {
  const checks = {};
  const protocols = major === 4 ? [2] : [2, 3];
  for (const RESP of protocols) {
    const open = (options) => connected({ ...(major > 4 && { RESP, unstableResp3: true }), ...options });
    const checksOf = common(await open(), await open(), open);
    for (const [check, f] of Object.entries(checksOf)) checks[`RESP${RESP} ${check}`] = f;
  }
  if (major > 4) checks['client-side cache'] = clientSideCache;
  const redis = await connected();
  checks.reconnect = () => reconnect(redis);
  await run(name, checks);
})();
