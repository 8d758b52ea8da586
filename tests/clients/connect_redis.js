// connect_redis.js - connect-redis: the sessions of an Express application in Redis.
'use strict';
const { assert, restart, run, until, url } = require('./checks');
const express = require('express');
const session = require('express-session');
const { RedisStore } = require('connect-redis');
const { createClient } = require('redis5');

/** The application, and a visitor that keeps its cookie. */
async function open(store) {
  const app = express();
  app.use(session({ store, secret: 'x', resave: false, saveUninitialized: false }));
  app.get('/count', (request, response) => {
    request.session.count = (request.session.count ?? 0) + 1;
    response.send(String(request.session.count));
  });
  app.get('/leave', (request, response) => request.session.destroy(() => response.send('left')));
  const server = await new Promise((resolve) => {
    const listening = app.listen(0, '127.0.0.1', () => resolve(listening));
  });
  const visitor = () => {
    let cookie = '';
    return async (path) => {
      const page = `http://127.0.0.1:${server.address().port}${path}`;
      const response = await fetch(page, { headers: { cookie } });
      cookie = response.headers.get('set-cookie')?.split(';')[0] ?? cookie;
      return response.text();
    };
  };
  return { visitor, close: () => server.close() };
}

(async () => {
  const client = createClient({ url, RESP: 3 });
  client.on('error', () => {}); // while nearcache restarts
  await client.connect();
  const store = new RedisStore({ client, prefix: 'session:', ttl: 60 });
  const promised = (method, ...args) => new Promise((resolve, reject) => {
    store[method](...args, (error, result) => (error ? reject(error) : resolve(result)));
  });
  const app = await open(store);

  run('connect-redis', {
    async sessions() {
      const [ada, bob] = [app.visitor(), app.visitor()];
      assert.deepEqual([await ada('/count'), await ada('/count'), await bob('/count')], ['1', '2', '1']);
      await ada('/leave');
      assert.equal(await ada('/count'), '1');
      assert.ok(await client.ttl((await client.keys('session:*'))[0]) > 0);
    },

    async store() {
      const visitors = Array.from({ length: 30 }, app.visitor);
      await Promise.all(visitors.map((visitor) => visitor('/count')));
      assert.equal(await promised('length'), 32);
      assert.equal((await promised('ids')).length, 32);
      assert.equal((await promised('all')).length, 32, 'SCAN and MGET');
      await promised('clear');
      assert.equal(await promised('length'), 0);
    },

    async reconnect() {
      await restart();
      const visitor = app.visitor();
      await until(() => visitor('/count').then((count) => count === '1'), 'a page after the restart');
    },
  });
})();
