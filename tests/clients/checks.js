// checks.js - what the Node.js scripts share: named checks with a deadline, waiting, the restart.
'use strict';
const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const readline = require('node:readline');

const CHECK_TIMEOUT = 40_000; // ms; a reply that never comes fails its own check only

const url = process.env.REDIS_URL;
const openUrl = process.env.REDIS_OPEN_URL;
const wrongUrl = url.replace(process.env.REDIS_PASSWORD, 'wrong');

/** The version of an installed package. */
const versionOf = (name) =>
  JSON.parse(readFileSync(`${process.env.NODE_PATH}/${name}/package.json`)).version;

/** Rejects after CHECK_TIMEOUT. */
function deadline() {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`not within ${CHECK_TIMEOUT} ms`)), CHECK_TIMEOUT).unref();
  });
}

/** Runs the checks of a package, an object of async functions, in order, and ends the process. */
async function run(name, checks) {
  console.log(`version ${versionOf(name)}`);
  let failed = 0;
  for (const [title, check] of Object.entries(checks)) {
    try {
      await Promise.race([check(), deadline()]);
    } catch (error) {
      failed++;
      console.error(`${title}: ${error?.stack ?? error}`);
    }
  }
  process.exit(failed ? 1 : 0);
}

/** Waits until the function (it may be async) returns something true, which is returned. */
async function until(predicate, what) {
  const end = Date.now() + 20_000;
  for (;;) {
    const result = await predicate();
    if (result) return result;
    assert.ok(Date.now() < end, `not within 20 s: ${what ?? predicate}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

let answers;

/** Has the server ended and started again; returns when it is back. */
async function restart() {
  answers ??= readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  console.log('restart');
  assert.equal((await answers.next()).value, 'restarted');
}

/** A list that can be awaited: every push is kept until next() takes it. */
class Mailbox {
  items = [];
  push = (...item) => this.items.push(item.length === 1 ? item[0] : item);
  next = async (what) => {
    await until(() => this.items.length > 0, what ?? 'a message');
    return this.items.shift();
  };
}

/** The number in `blocked_clients:` of INFO's text. */
const blocked = (info) => Number(/blocked_clients:(\d+)/.exec(info)[1]);

/** Every byte there is, 5 MB of them in no simple order. */
const large = Buffer.alloc(5_000_000, Buffer.from(Array.from({ length: 256 }, (_, i) => i * 7)));
const binaryKey = Buffer.from([0, 1, 13, 10, 36, 42, 0xff, 0xfe, 0x80, 0]);

module.exports = {
  assert, Mailbox, binaryKey, blocked, large, openUrl, restart, run, until, url, versionOf, wrongUrl,
};
