// socket_io.js - two Socket.IO servers joined by @socket.io/redis-adapter: pub/sub both ways.
'use strict';
const { assert, Mailbox, run, until, url } = require('./checks');
const { Server } = require('socket.io');
const { io } = require('socket.io-client');
const { createAdapter } = require('@socket.io/redis-adapter');
const { Redis } = require('ioredis5');
const { createClient } = require('redis5');

/** A connection of each driver; a server needs two, one to publish and one to subscribe. */
const connected = {
  ioredis: async () => new Redis(url),
  'node-redis': async () => createClient({ url }).connect(),
};

/** Two servers with one client each, joined over Redis. */
async function open(driver) {
  const joined = [];
  for (const _ of [1, 2]) {
    const pair = [await connected[driver](), await connected[driver]()];
    const server = new Server({ adapter: createAdapter(...pair, { key: driver }) });
    server.on('connection', (socket) => socket.join('room'));
    server.listen(0);
    const address = `http://127.0.0.1:${server.httpServer.address().port}`;
    const client = io(address, { transports: ['websocket'] });
    const heard = new Mailbox();
    client.on('news', heard.push);
    await until(() => client.connected, 'a client');
    joined.push({ server, client, heard });
  }
  const [{ server }] = joined;
  await until(async () => (await server.sockets.adapter.serverCount()) === 2, 'the other server');
  await until(async () => (await server.in('room').fetchSockets()).length === 2, 'both in the room');
  return joined;
}

const checks = (driver) => ({
  async [`${driver}: both ways`]() {
    const [one, two] = await open(driver);
    one.server.emit('news', 'to all');
    assert.deepEqual([await one.heard.next(), await two.heard.next()], ['to all', 'to all']);
    two.server.to('room').emit('news', 'to the room', Buffer.from([0, 255]));
    const [, [text, bytes]] = [await two.heard.next(), await one.heard.next()];
    assert.deepEqual([text, bytes], ['to the room', Buffer.from([0, 255])]);
    two.client.on('ask', (answer) => answer('here'));
    one.client.on('ask', (answer) => answer('here'));
    const answers = await one.server.timeout(5000).emitWithAck('ask');
    assert.deepEqual(answers, ['here', 'here'], 'replies over a channel of their own');
    const seen = new Mailbox();
    two.server.on('hello', seen.push);
    one.server.serverSideEmit('hello', 'server');
    assert.equal(await seen.next(), 'server');
    for (const { client, server } of [one, two]) {
      client.disconnect();
      server.disconnectSockets();
    }
  },
});

run('@socket.io/redis-adapter', { ...checks('ioredis'), ...checks('node-redis') });
