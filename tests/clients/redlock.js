// redlock.js - redlock: locks by script, their extension and their end.
'use strict';
const { assert, run, url } = require('./checks');
const Redlock = require('redlock');
const { Redis } = require('ioredis5');

const [client, other] = [new Redis(url), new Redis(url)];
const patient = new Redlock([client], { retryCount: 200, retryDelay: 20, retryJitter: 10 });
const impatient = new Redlock([other], { retryCount: 0 });

run('redlock', {
  async 'mutual exclusion'() {
    let [inside, most, entered] = [0, 0, 0];
    await Promise.all(Array.from({ length: 10 }, async () => {
      const lock = await patient.lock('lock:door', 5000);
      most = Math.max(most, ++inside);
      entered += 1;
      await client.ping();
      inside -= 1;
      await lock.unlock();
    }));
    assert.deepEqual([most, entered, await client.exists('lock:door')], [1, 10, 0]);
  },

  async 'several resources'() {
    const lock = await patient.lock(['lock:a', 'lock:b'], 5000);
    await assert.rejects(impatient.lock('lock:b', 5000), /Exceeded 0 attempts/);
    await lock.unlock();
    await (await impatient.lock('lock:b', 5000)).unlock();
  },

  async 'extension and expiry'() {
    const lock = await patient.lock('lock:c', 10_000);
    await lock.extend(60_000);
    assert.ok(await client.pttl('lock:c') > 50_000);
    await lock.unlock();
    await patient.lock('lock:d', 100);
    const next = await patient.lock('lock:d', 10_000); // waits for the end of the first one's life
    await next.unlock();
  },
});
