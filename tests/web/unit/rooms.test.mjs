import assert from 'node:assert/strict';
import test from 'node:test';
import { Room, nameOf, placeOf } from '../../../web/static/rooms.js';

test('messages stand in the order of the log, each once, however they come', () => {
  for (let seed = 1; seed <= 50; seed += 1) {
    let state = seed;
    const random = () => { state = (state * 1103515245 + 12345) % 2147483648; return state / 2147483648; };
    const room = new Room('a');
    for (let n = 0; n < 200; n += 1) room.add({ offset: 1 + Math.floor(random() * 60), data: n });
    const offsets = room.messages.map((message) => message.offset);
    assert.deepEqual(offsets, [...new Set(offsets)].sort((a, b) => a - b), `seed ${seed}`);
  }
});

test('a known offset is not added again', () => {
  const room = new Room('a');
  assert.equal(room.add({ offset: 2, data: 1 }), 0);
  assert.equal(room.add({ offset: 2, data: 1 }), -1);
  assert.equal(room.add({ offset: 1, data: 0 }), 0);
  assert.equal(placeOf(room.messages, 3), 2);
});

test('a room keeps a bounded number of messages', () => {
  const room = new Room('a');
  for (let offset = 1; offset <= 2000; offset += 1) room.add({ offset, data: offset });
  assert.equal(room.messages.length, 500);
  assert.equal(room.messages.at(-1).offset, 2000);
});

test('people are users, with their tabs counted', () => {
  const room = new Room('a');
  room.members.set('c1', { client: 'c1', user: 'u1', connInfo: { name: 'Ann' } });
  room.members.set('c2', { client: 'c2', user: 'u1', connInfo: { name: 'Ann' } });
  room.members.set('c3', { client: 'c3', user: 'u2' });
  assert.deepEqual(room.people('c2'), [
    { user: 'u1', name: 'Ann', tabs: 2, me: true },
    { user: 'u2', name: 'u2', tabs: 1, me: false },
  ]);
});

test('a publication of a backend has a name too', () => {
  assert.equal(nameOf(null), 'backend');
  assert.equal(nameOf({ user: 'u' }), 'u');
});

test('the time of a message is that of the server, also of one that was acknowledged before it was pushed', () => {
  const room = new Room('a');
  room.add({ offset: 1, data: 'theirs', time: 1_000 });
  room.add({ offset: 2, data: 'mine' });
  assert.deepEqual(room.messages.map((message) => message.at), [1_000, 0]);
  assert.equal(room.add({ offset: 2, data: 'mine', time: 2_000 }), -1);
  assert.equal(room.messages[1].at, 2_000);
});
