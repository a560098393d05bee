// The console's client around centrifuge-js, with sockets whose other end the test is.
import assert from 'node:assert/strict';
import test, { mock } from 'node:test';
import { Client, TOO_BIG } from '../../../web/static/client.js';

class Socket extends EventTarget {
  static all = [];
  sent = [];
  closed = 0;
  constructor() {
    super();
    Socket.all.push(this);
  }
  send(text) {
    for (const line of text.split('\n')) this.sent.push(JSON.parse(line));
  }
  close(code = 1000) {
    this.closed ||= code;
  }
  #happens(name, detail) {
    this.dispatchEvent(Object.assign(new Event(name), detail));
    this[`on${name}`]?.(detail);
    return settled();
  }
  opens() {
    return this.#happens('open', {});
  }
  says(...messages) {
    return this.#happens('message', { data: messages.map((message) => JSON.stringify(message)).join('\n') });
  }
  ends(code, reason = '') {
    return this.#happens('close', { code, reason });
  }
  last(method) {
    return this.sent.findLast((command) => command[method]);
  }
}

async function settled() {
  for (let i = 0; i < 100; i += 1) await Promise.resolve();
}

// A client, all that it told, and the newest of its sockets.
function scene(getToken = async () => 'token') {
  Socket.all = [];
  const client = new Client('ws://x', getToken);
  const told = [];
  const names = ['state', 'frame', 'subscribed', 'publication', 'join', 'leave', 'unsubscribed', 'failed'];
  for (const name of names) client.on(name, (detail) => told.push([name, detail]));
  const of = (name) => told.filter(([one]) => one === name).map(([, detail]) => detail);
  return { client, of, socket: () => Socket.all.at(-1) };
}

async function accepted(socket, id = 'c') {
  await socket.opens();
  await socket.says({ id: socket.last('connect').id, connect: { client: id } });
}

async function connected(getToken) {
  const all = scene(getToken);
  all.client.connect();
  await settled();
  await accepted(all.socket());
  return all;
}

function scenario(name, run) {
  test(name, async () => {
    globalThis.WebSocket = Socket;
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      await run();
    } finally {
      mock.timers.reset();
      delete globalThis.WebSocket;
    }
  });
}

scenario('frames of both directions are told, and who one is', async () => {
  const { client, of } = await connected();
  assert.deepEqual(of('frame').map(({ out }) => out), [true, false]);
  assert.deepEqual(of('state').map(({ state }) => state), ['connecting', 'connected']);
  assert.equal(client.id, 'c');
  assert.ok(client.latency >= 0);
});

scenario('a recovery tells how many were missed, with their times, and moves the position', async () => {
  const { client, of, socket } = await connected();
  client.subscribe('a', { offset: 3, epoch: 'e' });
  await settled();
  const asked = socket().last('subscribe');
  assert.deepEqual([asked.subscribe.recover, asked.subscribe.offset, asked.subscribe.epoch], [true, 3, 'e']);
  const missed = [{ offset: 4, data: 1, time: 1_000 }, { offset: 5, data: 2 }];
  await socket().says(
    { id: asked.id, subscribe: { recoverable: true, epoch: 'e', offset: 3, was_recovering: true, recovered: true, publications: missed } },
    { push: { channel: 'a', pub: { offset: 6, data: 3, time: 2_000, info: { user: 'u', client: 'd', conn_info: { name: 'Ann' } } } } },
    { push: { channel: 'a', pub: { offset: 6, data: 3 } } },
  );
  const [{ recovering, recovered, publications }] = of('subscribed');
  assert.deepEqual([recovering, recovered], [true, true]);
  assert.deepEqual(publications.map(({ offset, time }) => [offset, time]), [[4, 1_000], [5, 0]]);
  const [{ publication }, ...more] = of('publication');
  assert.deepEqual([publication.offset, publication.time, publication.info.connInfo.name], [6, 2_000, 'Ann']);
  assert.deepEqual(more, [], 'one that was seen is no news');
  assert.deepEqual(client.position('a'), { offset: 6, epoch: 'e' });
});

scenario('what could not be recovered is said, and the position is the new top', async () => {
  const { client, of, socket } = await connected();
  client.subscribe('a', { offset: 3, epoch: 'old' });
  await settled();
  const reply = { recoverable: true, epoch: 'new', offset: 9, was_recovering: true };
  await socket().says({ id: socket().last('subscribe').id, subscribe: reply });
  const [{ recovering, recovered }] = of('subscribed');
  assert.deepEqual([recovering, recovered], [true, false]);
  assert.deepEqual(client.position('a'), { offset: 9, epoch: 'new' });
});

scenario('a refused subscription and one that the server ends are told apart', async () => {
  const { client, of, socket } = await connected();
  client.subscribe('a');
  client.subscribe('b');
  await settled();
  const [a, b] = socket().sent.filter((command) => command.subscribe);
  await socket().says({ id: a.id, error: { code: 103, message: 'permission denied' } }, { id: b.id, subscribe: {} });
  await socket().says({ push: { channel: 'b', unsubscribe: { code: 2000, reason: 'ended' } } });
  assert.deepEqual(of('failed'), [{ channel: 'a', error: { code: 103, message: 'permission denied' } }]);
  assert.deepEqual(of('unsubscribed'), [{ channel: 'b', code: 2000, reason: 'ended' }]);
  client.subscribe('a');
  await settled();
  assert.equal(socket().last('subscribe').subscribe.channel, 'a', 'it can be tried again');
});

scenario('a publication carries its key, and resolves to where it is kept', async () => {
  const { client, socket } = await connected();
  const published = client.publish('a', { text: 'x' }, 'key');
  await settled();
  const { id, publish } = socket().last('publish');
  assert.deepEqual(publish, { channel: 'a', data: { text: 'x' }, idempotency_key: 'key' });
  await socket().says({ id, publish: { offset: 7, epoch: 'e' } });
  assert.deepEqual(await published, { offset: 7, epoch: 'e' });
});

scenario('a publication fails with the code of the server, or without one if its outcome is not known', async () => {
  const { client, socket } = await connected();
  const refused = client.publish('a', 1, 'k');
  await settled();
  await socket().says({ id: socket().last('publish').id, error: { code: 103, message: 'permission denied' } });
  await assert.rejects(refused, { code: 103 });
  const lost = client.publish('a', 1, 'k');
  const failed = assert.rejects(lost, (error) => error.code === undefined && error.closed === 1006);
  await socket().ends(1006);
  await failed;
  await assert.rejects(client.publish('a', 1, 'k'), (error) => error.code === undefined);
});

scenario('too large a text is refused before it is sent; what the server finds too large ends one connection only', async () => {
  const { client, of, socket } = await connected();
  const before = socket().sent.length;
  await assert.rejects(client.publish('a', 'x'.repeat(70_000), 'k'), { code: TOO_BIG, message: /70,\d+ bytes/ });
  assert.equal(socket().sent.length, before);
  const failed = assert.rejects(client.publish('a', 'x'.repeat(10_000), 'k'), (error) => error.closed === TOO_BIG);
  await socket().ends(TOO_BIG, 'message too big');
  await failed;
  await accepted(socket());
  assert.deepEqual([Socket.all.length, client.state, of('state').at(-1).state], [2, 'connected', 'connected']);
});

scenario('a lost connection tells why and how long until the next attempt, each time', async () => {
  const { of, socket } = await connected();
  await socket().ends(1006, 'the network is away');
  const first = of('state').at(-1);
  assert.deepEqual([first.state, first.reason], ['connecting', 'the network is away']);
  assert.ok(first.in_s > 0 && first.in_s <= 10);
  mock.timers.tick(10_000);
  await settled();
  assert.equal(Socket.all.length, 2);
  await socket().ends(1006);
  const second = of('state').at(-1);
  assert.equal(second.reason, 'closed (1006)');
  assert.ok(second.in_s > 0 && second.in_s <= 10);
});

scenario('dropping cuts at once, and comes back', async () => {
  const { client, of, socket } = await connected();
  const dropped = socket();
  client.drop();
  await settled();
  assert.equal(dropped.closed, 4001);
  assert.equal(of('state').at(-1).reason, 'dropped by you');
  await dropped.ends(4001, 'late');
  mock.timers.tick(10_000);
  await settled();
  await accepted(socket(), 'd');
  assert.deepEqual([Socket.all.length, client.id, of('state').at(-1).state], [2, 'd', 'connected']);
});

scenario('a subscribe without an answer in time begins anew from the same position, so nothing is passed over', async () => {
  const { client, socket } = await connected();
  client.subscribe('a', { offset: 3, epoch: 'e' });
  await settled();
  const first = socket();
  const asked = first.last('subscribe');
  mock.timers.tick(5_000);
  await settled();
  assert.ok(first.closed);
  await first.says({ id: asked.id, subscribe: { recoverable: true, epoch: 'e', offset: 3, recovered: true, publications: [{ offset: 4, data: 1 }] } });
  await first.says({ push: { channel: 'a', pub: { offset: 5, data: 1 } } });
  assert.deepEqual(client.position('a'), { offset: 3, epoch: 'e' });
  await first.ends(1000);
  mock.timers.tick(10_000);
  await settled();
  assert.notEqual(socket(), first);
  await accepted(socket());
  assert.equal(socket().last('subscribe').subscribe.offset, 3);
});

scenario('a token is asked for once, and a new one when the server says that it has expired', async () => {
  const asked = [];
  const { client, socket } = scene(async (renew) => `token ${asked.push(renew)}`);
  client.connect();
  await settled();
  await socket().opens();
  const { id, connect } = socket().last('connect');
  assert.equal(connect.token, 'token 1');
  await socket().says({ id, error: { code: 109, message: 'token expired', temporary: true } });
  await socket().ends(1000);
  mock.timers.tick(10_000);
  await settled();
  await socket().opens();
  assert.equal(socket().last('connect').connect.token, 'token 2');
  assert.deepEqual(asked, [false, true]);
});

scenario('where there is no token any more one has to sign in; where it can not be had now, it is tried again', async () => {
  const failure = Object.assign(new Error('The server cannot be reached.'), { terminal: false });
  const { client, of } = scene(async () => { throw failure; });
  client.connect();
  await settled();
  assert.deepEqual([of('state').at(-1).state, of('state').at(-1).reason], ['connecting', 'The server cannot be reached.']);
  failure.message = 'You were signed out.';
  failure.terminal = true;
  mock.timers.tick(10_000);
  await settled();
  assert.deepEqual(of('state').at(-1), { state: 'disconnected', reason: 'You were signed out.', signIn: true });
});

scenario('a token that the server does not take leads back to where one signs in, other ends do not', async () => {
  for (const [code, signIn] of [[3500, true], [3503, false]]) {
    const { of, socket } = await connected();
    await socket().ends(code, 'why');
    assert.deepEqual(of('state').at(-1), { state: 'disconnected', reason: `why (${code})`, signIn });
  }
});
