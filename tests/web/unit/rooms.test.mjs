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

test('what is written in a conversation is an event, also before anything of it has come', () => {
  const room = new Room('conv:g.a');
  assert.deepEqual(room.written('hello'), { kind: 'message', text: 'hello' });
  room.add({ offset: 1, data: { kind: 'conversation', op: 'create' } });
  assert.deepEqual(room.written('hello'), { kind: 'message', text: 'hello' });
  room.add({ offset: 2, data: { kind: 'x.mine' } });
  assert.deepEqual(room.written('hello'), { kind: 'message', text: 'hello' });
  for (const data of [{ kind: 'news', text: 'a' }, { kind: 7 }, { text: 'a' }, 'a', 7, null, undefined]) {
    const other = new Room('conv:g.is-none');
    other.add({ offset: 1, data });
    assert.deepEqual(other.written('hello'), { text: 'hello' });
  }
  assert.deepEqual(new Room('chat:lobby').written('hello'), { text: 'hello' });
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

const ann = (client, user = 'ann') => ({ client, user });

test('who comes back unseen and leaves has left once', () => {
  const room = new Room('a');
  assert.equal(room.told(ann('old'), true), true);
  assert.equal(room.told(ann('old'), false), true);
  assert.equal(room.told(ann('new'), false), false);
  assert.deepEqual([room.members.size, room.doubts.size], [0, 0]);
  // And where the list has the new client, its leave is the news.
  room.listed(room.listing(), { new: ann('new') });
  assert.equal(room.told(ann('old'), false), false);
  assert.equal(room.told(ann('new'), false), true);
});

test('only the first client of a user joins, only the last one leaves, and an update is no news', () => {
  const room = new Room('a');
  const news = [['1', true], ['1', true], ['2', true], ['1', false], ['2', false]].map(([client, joined]) => room.told(ann(client), joined));
  assert.deepEqual(news, [true, false, false, false, true]);
  for (const client of ['3', '4']) assert.equal(room.told(ann(client, ''), true), true); // each anonymous client by itself
  assert.equal(room.told(ann('3', ''), true), false);
  assert.equal(room.told(ann('3', ''), false), true);
});

test('who leaves with one client is looked for in the list, and has left if not there', () => {
  const room = new Room('a');
  room.told(ann('1'), true);
  assert.equal(room.told(ann('2'), false), false); // by user: the last client
  const doubted = [...room.doubts.values()];
  assert.deepEqual(doubted, [ann('2')]);
  assert.deepEqual(room.listed(room.listing(), null, doubted), []); // presence did not answer
  assert.deepEqual(room.listed(room.listing(), { 1: ann('1') }, doubted), []);
  assert.deepEqual(room.listed(room.listing(), {}, doubted), doubted);
  assert.deepEqual(room.listed(room.listing(), {}, doubted), []); // that is known
  assert.equal(room.members.size, 0);
});

test('a list does not undo what was told since it was asked for', () => {
  const room = new Room('a');
  room.told(ann('gone', 'u1'), true);
  room.told(ann('stale', 'u2'), true);
  const first = room.listing();
  room.told(ann('gone', 'u1'), false);
  const second = room.listing();
  room.told(ann('come', 'u3'), true);
  room.listed(second, { here: ann('here', 'u4') });
  room.listed(first, { gone: ann('gone', 'u1'), here: ann('here', 'u4') });
  assert.deepEqual([...room.members.keys()].sort(), ['come', 'here']);
  assert.equal(room.lists.size, 0);
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
