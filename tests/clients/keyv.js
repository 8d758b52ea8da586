// keyv.js - Keyv with @keyv/redis, and cache-manager on top: the caches of many Node.js applications.
'use strict';
const { assert, restart, run, until, url } = require('./checks');
const { Keyv } = require('keyv');
const { default: KeyvRedis } = require('@keyv/redis');
const { createCache } = require('cache-manager');

const store = new KeyvRedis(url, { throwOnConnectError: false });
const keyv = new Keyv({ store, namespace: 'app' });
keyv.on('error', () => {}); // while nearcache restarts

run('@keyv/redis', {
  async values() {
    assert.equal(await keyv.set('user', { name: 'Ada' }, 60_000), true);
    assert.deepEqual(await keyv.get('user'), { name: 'Ada' });
    assert.equal(await keyv.has('user'), true);
    assert.equal(await keyv.delete('user'), true);
    assert.equal(await keyv.get('user'), undefined);
  },

  async many() {
    const names = Array.from({ length: 300 }, (_, i) => `n:${i}`);
    await keyv.setMany(names.map((key) => ({ key, value: key })));
    assert.deepEqual(await keyv.getMany(names), names);
    const seen = [];
    for await (const [key] of keyv.iterator()) seen.push(key);
    assert.equal(seen.length, 300, 'SCAN and MGET');
    await keyv.clear();
    assert.deepEqual(await keyv.getMany(['n:1', 'n:2']), [undefined, undefined]);
  },

  async expiry() {
    await keyv.set('short', 1, 1000);
    assert.equal(await keyv.get('short'), 1);
    await until(async () => (await keyv.get('short')) === undefined, 'the end of its life');
  },

  async 'cache-manager'() {
    const managed = new Keyv({ store: new KeyvRedis(url), namespace: 'managed' });
    const cache = createCache({ stores: [managed] });
    let calls = 0;
    const compute = async () => { calls++; return { answer: 42 }; };
    for (let i = 0; i < 3; i++) assert.deepEqual(await cache.wrap('k', compute, 60_000), { answer: 42 });
    assert.equal(calls, 1);
    await cache.mset([{ key: 'a', value: 1 }, { key: 'b', value: 2 }]);
    assert.deepEqual(await cache.mget(['a', 'b']), [1, 2]);
    assert.ok(await cache.ttl('k') > Date.now());
    await cache.clear();
    assert.equal(await cache.get('a'), undefined);
  },

  async reconnect() {
    await restart();
    await until(async () => {
      await keyv.set('k', 'again').catch(() => {});
      return (await keyv.get('k').catch(() => null)) === 'again';
    }, 'a value after the restart');
  },
});
