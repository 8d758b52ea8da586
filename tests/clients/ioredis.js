// ioredis.js - ioredis, the version whose package name is given.
'use strict';
const { assert, Mailbox, binaryKey, blocked, large, openUrl, restart, run, until, url, wrongUrl } =
  require('./checks');
const name = process.argv[2];
const { Redis } = require(name);

const redis = new Redis(url);
const other = new Redis(url);
for (const client of [redis, other]) client.on('error', () => {}); // while nearcache restarts

const fails = { maxRetriesPerRequest: 0, retryStrategy: null };

run(name, {
  async connect() {
    assert.equal(await redis.ping(), 'PONG');
    const open = new Redis(openUrl);
    assert.equal(await open.ping(), 'PONG');
    open.disconnect();
    const wrong = new Redis(wrongUrl, { ...fails, lazyConnect: true });
    const said = new Mailbox();
    wrong.on('error', said.push);
    wrong.connect().catch(said.push);
    assert.match((await said.next()).message, /WRONGPASS/);
    wrong.disconnect();
  },

  async databases() {
    const two = new Redis(url.replace(/0$/, '2'));
    await two.set('k', 'two');
    assert.equal(await redis.get('k'), null, 'database 0 must not show the key of database 2');
    assert.equal(await two.dbsize(), 1);
    assert.equal(await two.flushdb(), 'OK');
    two.disconnect();
  },

  async pipeline() {
    const pipeline = redis.pipeline();
    for (let i = 0; i < 1000; i++) pipeline.set(`key:${i}`, i).get(`key:${i}`);
    pipeline.lpush('key:1', 'x').get('key:2');
    const replies = await pipeline.exec();
    for (let i = 0; i < 1000; i++) assert.equal(replies[2 * i + 1][1], String(i));
    assert.match(replies[2000][0].message, /^WRONGTYPE/);
    assert.equal(replies[2001][1], '2');
  },

  async transaction() {
    await redis.set('counter', 1);
    await redis.watch('counter');
    const increment = () => redis.multi().incr('counter').get('counter').exec();
    assert.deepEqual(await increment(), [[null, 2], [null, '2']]);
    await redis.watch('counter');
    await other.set('counter', 10);
    assert.equal(await increment(), null, 'EXEC after a foreign write');
    assert.equal(await redis.get('counter'), '10');
    const results = await redis.multi().set('a', 1).lpush('a', 'x').get('a').exec();
    assert.match(results[1][0].message, /^WRONGTYPE/, 'an error inside EXEC');
    assert.deepEqual(results[2], [null, '1']);
    await assert.rejects(redis.multi().set('a').exec(), /EXECABORT/);
  },

  async 'blocking pop'() {
    const blocking = redis.duplicate();
    const popped = blocking.blpop('list:a', 'list:b', 10);
    await until(async () => blocked(await other.info('clients')) === 1, 'a blocked client');
    await other.rpush('list:b', 'pushed');
    assert.deepEqual(await popped, ['list:b', 'pushed']);
    assert.equal(await blocking.blpop('list:a', 0.1), null, 'time-out');
    assert.equal(await blocking.get('key:3'), '3', 'a command after it');
    blocking.disconnect();
  },

  async 'pub/sub'() {
    const subscriber = redis.duplicate();
    const heard = new Mailbox();
    subscriber.on('message', heard.push);
    subscriber.on('pmessage', heard.push);
    assert.equal(await subscriber.subscribe('news', 'weather'), 2);
    assert.equal(await subscriber.psubscribe('n*'), 3);
    assert.equal(await redis.publish('news', 'hello'), 2);
    assert.deepEqual(await heard.next(), ['news', 'hello']);
    assert.deepEqual(await heard.next(), ['n*', 'news', 'hello']);
    assert.equal(await subscriber.unsubscribe('news', 'weather'), 1);
    assert.equal(await subscriber.punsubscribe('n*'), 0);
    assert.equal(await redis.publish('news', 'nobody'), 0);
    assert.equal(await subscriber.get('key:4'), '4', 'a command after the last unsubscribe');
    subscriber.disconnect();
  },

  async scan() {
    await redis.flushdb();
    const names = Array.from({ length: 500 }, (_, i) => `key:${i}`);
    await redis.mset(Object.fromEntries(names.map((key) => [key, key])));
    const seen = new Set();
    for await (const keys of redis.scanStream({ count: 50 })) keys.forEach((key) => seen.add(key));
    assert.deepEqual([...seen].sort(), names.sort());
    const matched = new Set();
    for await (const keys of redis.scanStream({ match: 'key:4?' })) keys.forEach((k) => matched.add(k));
    assert.equal(matched.size, 10);
    assert.equal(await redis.dbsize(), 500);
  },

  async script() {
    const lua = 'return redis.call("INCRBY", KEYS[1], ARGV[1]) * 2';
    redis.defineCommand('double', { numberOfKeys: 1, lua });
    await redis.set('n', 20);
    assert.equal(await redis.double('n', 1), 42, 'EVALSHA, NOSCRIPT, EVAL');
    assert.equal(await redis.double('n', 1), 44, 'EVALSHA');
    await assert.rejects(redis.evalsha('f'.repeat(40), 0), /NOSCRIPT/);
    const sha = await redis.script('LOAD', 'return KEYS');
    assert.deepEqual(await redis.script('EXISTS', sha, 'f'.repeat(40)), [1, 0]);
  },

  async 'large and binary'() {
    await redis.set(binaryKey, large);
    assert.ok((await redis.getBuffer(binaryKey)).equals(large), 'the large value, asked of Redis');
    assert.ok((await redis.getBuffer(binaryKey)).equals(large), 'the large value, again');
    const [, keys] = await redis.scanBuffer(0, 'MATCH', Buffer.from([0, 42]), 'COUNT', 10000);
    assert.ok(keys.some((key) => key.equals(binaryKey)));
  },

  async resp3() {
    if (name === 'ioredis5') return; // RESP2 only; version 6 speaks RESP3 in all the other checks
    const three = new Redis(url, { replyMapping: 'resp3' });
    assert.equal((await three.call('HELLO')).proto, 3);
    await three.hset('hash', { a: 1, b: 2 });
    assert.deepEqual(await three.hgetall('hash'), { a: '1', b: '2' });
    await three.zadd('scores', 1.5, 'm');
    assert.equal(await three.zscore('scores', 'm'), 1.5, 'a double');
    assert.deepEqual(await three.multi().zscore('scores', 'm').exec(), [[null, 1.5]], 'also in EXEC');
    const heard = new Mailbox();
    three.on('message', heard.push);
    await three.subscribe('news');
    await redis.publish('news', 'pushed');
    assert.deepEqual(await heard.next(), ['news', 'pushed']);
    assert.equal(await three.get('n'), '22', 'a command while subscribed');
    three.disconnect();
  },

  async reconnect() {
    const subscriber = redis.duplicate();
    subscriber.on('error', () => {});
    const heard = new Mailbox();
    subscriber.on('message', heard.push);
    await subscriber.subscribe('after');
    await restart();
    assert.equal(await redis.set('k', 'again'), 'OK');
    assert.equal(await redis.get('k'), 'again');
    await until(async () => (await redis.publish('after', 'back')) === 1, 'the renewed subscription');
    assert.deepEqual(await heard.next(), ['after', 'back']);
  },
});
