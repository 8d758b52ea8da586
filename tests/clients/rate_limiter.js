// rate_limiter.js - rate-limiter-flexible: counters by script, blocks, penalties, a queue, bursts.
'use strict';
const { assert, run, url } = require('./checks');
const { BurstyRateLimiter, RateLimiterQueue, RateLimiterRedis } = require('rate-limiter-flexible');
const { Redis } = require('ioredis5');
const { createClient } = require('redis5');

/** The checks over one driver; `limiterOf` makes a limiter. */
const checks = (driver, limiterOf) => Object.fromEntries(Object.entries({
  async limits() {
    const limiter = limiterOf({ keyPrefix: 'a', points: 3, duration: 60 });
    for (const remaining of [2, 1, 0]) {
      assert.equal((await limiter.consume('user')).remainingPoints, remaining);
    }
    const refused = await limiter.consume('user').then(() => null, (result) => result);
    assert.ok(refused.msBeforeNext > 50_000 && refused.consumedPoints === 4);
    assert.equal((await limiter.consume('other')).remainingPoints, 2);
    assert.equal((await limiter.reward('other', 1)).consumedPoints, 0);
    assert.equal((await limiter.get('user')).consumedPoints, 4);
    assert.equal(await limiter.delete('user'), true);
    assert.equal(await limiter.get('user'), null);
  },

  async blocks() {
    const limiter = limiterOf({ keyPrefix: 'b', points: 1, duration: 60, blockDuration: 120 });
    await limiter.consume('user');
    await assert.rejects(limiter.consume('user'), ({ msBeforeNext }) => msBeforeNext > 100_000);
  },

  async 'many at once'() {
    const limiter = limiterOf({ keyPrefix: 'c', points: 50, duration: 60 });
    const results = await Promise.allSettled(Array.from({ length: 80 }, () => limiter.consume('user')));
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 50);
  },

  async 'queue and burst'() {
    const limiter = limiterOf({ keyPrefix: 'd', points: 5, duration: 1 });
    const queue = new RateLimiterQueue(limiter);
    await Promise.all(Array.from({ length: 8 }, () => queue.removeTokens(1)));
    const bursty = new BurstyRateLimiter(
      limiterOf({ keyPrefix: 'e', points: 1, duration: 60 }),
      limiterOf({ keyPrefix: 'f', points: 1, duration: 60 }));
    await bursty.consume('user');
    await bursty.consume('user');
    await assert.rejects(bursty.consume('user'));
  },
}).map(([name, check]) => [`${driver} ${name}`, check]));

(async () => {
  const ioredis = new Redis(url);
  const client = await createClient({ url }).connect();
  const over = (options) => ({ keyPrefix, ...limits }) => new RateLimiterRedis({
    keyPrefix: `${options.useRedisPackage}:${keyPrefix}`, ...limits, ...options,
  });
  run('rate-limiter-flexible', {
    ...checks('ioredis', over({ storeClient: ioredis, useRedisPackage: false })),
    ...checks('node-redis', over({ storeClient: client, useRedisPackage: true })),
  });
})();
