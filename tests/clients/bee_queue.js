// bee_queue.js - bee-queue (over node-redis 3): jobs, results, retries, delays, failures, stalls.
'use strict';
const { assert, Mailbox, run, until, url } = require('./checks');
const Queue = require('bee-queue');

const queue = (name, options) => new Queue(name, {
  redis: { url }, removeOnSuccess: false, activateDelayedJobs: true, ...options,
});

/** The result that the job's events tell, or its error. */
const finished = (job) => new Promise((resolve, reject) => {
  job.on('succeeded', resolve);
  job.on('failed', reject);
});

run('bee-queue', {
  async jobs() {
    const jobs = queue('jobs');
    jobs.process(5, async (job) => job.data.n * 2);
    const made = Array.from({ length: 50 }, (_, n) => jobs.createJob({ n }));
    const results = Promise.all(made.map(finished));
    await Promise.all(made.map((job) => job.save()));
    assert.deepEqual(await results, made.map((_, n) => n * 2));
    assert.equal((await jobs.checkHealth()).succeeded, 50);
    await jobs.close();
  },

  async 'saved at once'() {
    const jobs = queue('bulk', { isWorker: false });
    const made = Array.from({ length: 20 }, (_, n) => jobs.createJob({ n }));
    assert.equal((await jobs.saveAll(made)).size, 0);
    assert.equal((await jobs.checkHealth()).waiting, 20);
    assert.equal((await jobs.getJobs('waiting', { start: 0, end: 100 })).length, 20);
    await jobs.destroy();
    await jobs.close();
  },

  async 'retries and failures'() {
    const jobs = queue('retries');
    let calls = 0;
    jobs.process(async () => {
      if (++calls < 3) throw new Error('not yet');
      return calls;
    });
    assert.equal(await finished(await jobs.createJob({}).retries(2).save()), 3);
    calls = -10;
    await assert.rejects(finished(await jobs.createJob({}).save()), /not yet/);
    assert.equal((await jobs.checkHealth()).failed, 1);
    await jobs.close();
  },

  async 'delays and progress'() {
    const jobs = queue('delays');
    const start = Date.now();
    jobs.process(async (job) => {
      job.reportProgress(50);
      return Date.now() - start;
    });
    const job = jobs.createJob({}).delayUntil(start + 300);
    const progress = new Mailbox();
    job.on('progress', progress.push);
    const done = finished(job);
    await job.save();
    assert.ok(await done >= 290, 'not before its time');
    assert.equal(await progress.next(), 50);
    await jobs.close();
  },

  async 'stalled jobs'() {
    const jobs = queue('stalls', { stallInterval: 100 });
    jobs.process(async (job) => job.id);
    const job = await jobs.createJob({}).save();
    await until(async () => (await jobs.checkHealth()).succeeded === 1, 'the job');
    assert.equal(await jobs.checkStalledJobs(), 0);
    assert.equal((await jobs.getJob(job.id)).status, 'succeeded');
    await jobs.close();
  },
});
