// bullmq.js - BullMQ, the version whose package name is given, over ioredis or node-redis: workers,
// delays, retries, priorities, flows, schedulers, rate limits, events.
'use strict';
const { assert, restart, run, until, url } = require('./checks');
const [name, driver] = process.argv.slice(2);
const { FlowProducer, Queue, QueueEvents, Worker } = require(name);
const { Redis } = require('ioredis5');
const { createClient } = require('redis');

const ignore = () => {};
const closing = [];

/** A connection, as the application would make it. */
async function connection() {
  if (driver === 'redis') {
    const client = createClient({ url });
    client.on('error', ignore);
    await client.connect();
    return client;
  }
  const client = new Redis(url, { maxRetriesPerRequest: null });
  client.on('error', ignore);
  return client;
}

/** A Queue, Worker or other part of BullMQ that is closed at the end of its check. */
function part(made) {
  made.on('error', ignore); // while nearcache restarts
  closing.push(made);
  return made;
}

const queue = async (queueName) => part(new Queue(queueName, { connection: await connection() }));
const events = async (queueName) => part(new QueueEvents(queueName, {
  connection: await connection(), lastEventId: '0-0', // else it may miss the first ones
}));
const worker = async (queueName, work, options) =>
  part(new Worker(queueName, work, { connection: await connection(), ...options }));

/** A check that closes what it has opened. */
const closed = (check) => async () => {
  try {
    await check();
  } finally {
    await Promise.all(closing.splice(0).reverse().map((made) => made.close()));
  }
};

const checks = {
  async jobs() {
    const jobs = await queue('jobs');
    const done = await events('jobs');
    await worker('jobs', async (job) => job.data.n * 2, { concurrency: 10 });
    const data = Array.from({ length: 100 }, (_, n) => ({ n }));
    const added = await jobs.addBulk(data.map((n) => ({ name: 'double', data: n })));
    const results = await Promise.all(added.map((job) => job.waitUntilFinished(done, 20_000)));
    assert.deepEqual(results, added.map((_, n) => n * 2));
    const counts = await jobs.getJobCounts();
    assert.equal(counts.completed, 100);
    assert.equal(counts.waiting + counts.active + counts.failed, 0);
  },

  async 'a worker that already waits'() {
    const jobs = await queue('idle');
    const done = await events('idle');
    const waiting = await worker('idle', async () => 'woken');
    await waiting.waitUntilReady();
    for (let i = 0; i < 3; i++) { // BZPOPMIN is woken, and blocks again
      const job = await jobs.add('later', {});
      assert.equal(await job.waitUntilFinished(done, 20_000), 'woken');
    }
  },

  async retries() {
    const jobs = await queue('retries');
    const done = await events('retries');
    await worker('retries', async (job) => {
      if (job.attemptsMade < 2) throw new Error('not yet');
      return job.attemptsMade;
    });
    const backoff = { type: 'exponential', delay: 20 };
    const job = await jobs.add('thrice', {}, { attempts: 3, backoff });
    assert.equal(await job.waitUntilFinished(done, 20_000), 2);
    const never = await jobs.add('never', {}, { attempts: 1 });
    await assert.rejects(never.waitUntilFinished(done, 20_000), /not yet/);
    assert.equal(await never.getState(), 'failed');
    assert.equal((await jobs.getFailed())[0].failedReason, 'not yet');
  },

  async 'delays and priorities'() {
    const jobs = await queue('order');
    const done = await events('order');
    await jobs.add('low', {}, { priority: 10 });
    await jobs.add('high', {}, { priority: 1 });
    await jobs.add('first', {});
    const late = await jobs.add('late', {}, { delay: 2000 });
    assert.equal(await late.getState(), 'delayed');
    const order = [];
    await worker('order', async (job) => { order.push(job.name); });
    await late.waitUntilFinished(done, 20_000);
    assert.deepEqual(order, ['first', 'high', 'low', 'late']);
  },

  async scheduler() {
    const jobs = await queue('cron');
    await jobs.upsertJobScheduler('tick', { every: 100, limit: 3 }, { name: 'tick' });
    assert.equal((await jobs.getJobSchedulers()).length, 1);
    let ticks = 0;
    await worker('cron', async () => { ticks++; });
    await until(() => ticks >= 3, 'three ticks');
    await jobs.removeJobScheduler('tick');
  },

  async flow() {
    const done = await events('parents');
    const flows = part(new FlowProducer({ connection: await connection() }));
    await worker('children', async (job) => job.data.n);
    await worker('parents', async (job) =>
      Object.values(await job.getChildrenValues()).reduce((sum, n) => sum + n, 0));
    const { job } = await flows.add({
      name: 'sum',
      queueName: 'parents',
      children: [1, 2, 3].map((n) => ({ name: 'part', queueName: 'children', data: { n } })),
    });
    assert.equal(await job.waitUntilFinished(done, 20_000), 6);
  },

  async 'rate limit'() {
    const jobs = await queue('limited');
    const done = await events('limited');
    const start = Date.now();
    await worker('limited', async () => {}, { limiter: { max: 2, duration: 300 } });
    const added = await jobs.addBulk(Array.from({ length: 5 }, () => ({ name: 'x', data: {} })));
    await Promise.all(added.map((job) => job.waitUntilFinished(done, 20_000)));
    assert.ok(Date.now() - start >= 500, 'five jobs at two in 300 ms');
  },

  async 'progress, pause, drain, obliterate'() {
    const jobs = await queue('admin');
    const done = await events('admin');
    const progress = new Promise((resolve) => { done.on('progress', ({ data }) => resolve(data)); });
    await jobs.pause();
    const job = await jobs.add('x', {}, { jobId: 'chosen' });
    assert.equal((await jobs.add('x', {}, { jobId: 'chosen' })).id, 'chosen');
    assert.equal(await jobs.isPaused(), true);
    await worker('admin', async (active) => {
      await active.updateProgress(50);
      await active.log('half');
    });
    await jobs.resume();
    await job.waitUntilFinished(done, 20_000);
    assert.equal(await progress, 50);
    assert.deepEqual((await jobs.getJobLogs('chosen')).logs, ['half']);
    await jobs.add('y', {}, { delay: 60_000 });
    await jobs.drain(true);
    assert.equal(await jobs.getDelayedCount(), 0);
    await jobs.obliterate({ force: true });
    assert.deepEqual(await jobs.getJobs(), []);
  },

  async reconnect() {
    const jobs = await queue('lasting');
    const seen = new Set();
    const working = await worker('lasting', async (job) => { seen.add(job.name); });
    await working.waitUntilReady();
    await jobs.add('before', {});
    await until(() => seen.has('before'), 'the job before the restart');
    await restart();
    await jobs.add('after', {});
    await until(() => seen.has('after'), 'the job after the restart');
  },
};

if (driver === 'redis') delete checks.reconnect; // BullMQ lets the lost connection's error escape

run(name, Object.fromEntries(Object.entries(checks).map(([check, f]) => [check, closed(f)])));
