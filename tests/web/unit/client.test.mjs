import assert from 'node:assert/strict';
import test, { mock } from 'node:test';
import { Client, SubscriptionState, backoff, isTerminal, parseFrame } from '../../../web/static/client.js';

test('the wait doubles, is jittered and bounded', () => {
  assert.deepEqual([0, 1, 2, 9].map((n) => backoff(n, () => 1)), [250, 500, 1000, 10_000]);
  assert.equal(backoff(0, () => 0), 125);
});

test('terminal close codes are those of the protocol', () => {
  for (const code of [3500, 3999, 4500, 4999]) assert.equal(isTerminal(code), true, code);
  for (const code of [1000, 1006, 3000, 3499, 4000, 4499, 5000]) assert.equal(isTerminal(code), false, code);
});

test('a frame holds one object per line', () => {
  assert.deepEqual(parseFrame('{}\n{"id":1}'), [{}, { id: 1 }]);
});

test('the first subscribe asks for no recovery, the next one from where it was', () => {
  const state = new SubscriptionState('a');
  assert.equal(state.request().recover, undefined);
  state.subscribed({ epoch: 'e', offset: 3 });
  assert.deepEqual(state.position, { offset: 3, epoch: 'e' });
  assert.deepEqual(state.request(), { channel: 'a', recoverable: true, join_leave: true, recover: true, offset: 3, epoch: 'e' });
});

test('after a recovery the position is that of the last publication', () => {
  const state = new SubscriptionState('a', { offset: 3, epoch: 'e' });
  const outcome = state.subscribed({ epoch: 'e', offset: 3, was_recovering: true, recovered: true, publications: [{ offset: 4 }, { offset: 5 }] });
  assert.equal(outcome.recovering && outcome.recovered, true);
  assert.deepEqual(state.position, { offset: 5, epoch: 'e' });
});

test('what could not be recovered is said, and the position is the new top', () => {
  const state = new SubscriptionState('a', { offset: 3, epoch: 'old' });
  const outcome = state.subscribed({ epoch: 'new', offset: 9, was_recovering: true });
  assert.deepEqual([outcome.recovering, outcome.recovered], [true, false]);
  assert.deepEqual(state.position, { offset: 9, epoch: 'new' });
});

test('a publication that was seen is no news', () => {
  const state = new SubscriptionState('a');
  state.subscribed({ epoch: 'e' });
  assert.equal(state.published({ offset: 1, epoch: 'e' }), true);
  assert.equal(state.published({ offset: 1 }), false);
  assert.equal(state.published({ offset: 2 }), true);
  assert.equal(state.published({ data: 1 }), true);
  assert.deepEqual(state.position, { offset: 2, epoch: 'e' });
});

class Socket {
  static OPEN = 1;
  static all = [];
  readyState = Socket.OPEN;
  sent = [];
  closed = false;
  constructor() { Socket.all.push(this); }
  send(text) { this.sent.push(JSON.parse(text)); }
  close() { this.closed = true; }
  // The server says this.
  async says(message) {
    this.onmessage({ data: JSON.stringify(message) });
    await settled();
  }
}

async function settled() {
  for (let i = 0; i < 20; i += 1) await Promise.resolve();
}

async function opened() {
  await settled();
  const socket = Socket.all.at(-1);
  socket.onopen();
  await socket.says({ id: socket.sent.at(-1).id, connect: { client: 'c' } });
  return socket;
}

test('a subscribe without an answer in time begins anew from the same position, so nothing is passed over', async () => {
  globalThis.WebSocket = Socket;
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    const client = new Client('ws://x', async () => 'token');
    client.subscribe('a', { offset: 3, epoch: 'e' });
    client.connect();
    const first = await opened();
    const asked = first.sent.at(-1);
    assert.equal(asked.subscribe.offset, 3);
    mock.timers.tick(5_000);
    await settled();
    assert.equal(first.closed, true);
    await first.says({ id: asked.id, subscribe: { epoch: 'e', offset: 3, recovered: true, publications: [{ offset: 4, data: 1 }] } });
    await first.says({ push: { channel: 'a', pub: { offset: 5, data: 1 } } });
    assert.deepEqual(client.position('a'), { offset: 3, epoch: 'e' });
    mock.timers.tick(1_000);
    const second = await opened();
    assert.notEqual(second, first);
    assert.equal(second.sent.at(-1).subscribe.offset, 3);
  } finally {
    mock.timers.reset();
    delete globalThis.WebSocket;
  }
});
