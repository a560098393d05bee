import assert from 'node:assert/strict';
import test from 'node:test';
import { Chat, isConversation, personalChannel } from '../../../web/static/chat.js';

const CHANNEL = 'conv:g.a';

// A chat with a clock that is set, and what was asked of the server.
function made(answers = {}) {
  const asked = [];
  const shown = [];
  const clock = { now: 1_000_000 };
  const call = async (method, params) => {
    asked.push([method, params]);
    const answer = answers[method] ?? {};
    if (answer instanceof Error) throw answer;
    return answer;
  };
  return { chat: new Chat(call, (channel) => shown.push(channel), () => clock.now), asked, shown, clock };
}

test('names of conversations, and the personal channel with escapes', () => {
  assert.deepEqual(['conv:g.a', 'conv:d.x', 'conv:o.lobby', 'chat:lobby', 'g.a', 'conv:x.a'].map(isConversation), [true, true, true, false, false, false]);
  assert.equal(personalChannel('alice'), 'user:#alice');
  assert.equal(personalChannel('u 2,é'), 'user:#u%202%2C%C3%A9');
  assert.equal(personalChannel('urn:x:bob'), 'user:#urn:x:bob');
  assert.equal(personalChannel('50%25'), 'user:#50%2525');
});

test('ephemeral events are told from publications of the log, and from those of other channels', () => {
  const { chat } = made();
  const event = { data: { kind: 'typing', user: 'bob', on: true } };
  assert.equal(chat.take(CHANNEL, event), true);
  assert.equal(chat.take('tick:prices', event), false);
  assert.equal(chat.take(CHANNEL, { data: { kind: 'other' } }), false);
  assert.equal(chat.take(CHANNEL, { ...event, offset: 3 }), false);
});

test('who types is shown for 6 s, until it is over, or until a message; oneself never', () => {
  const { chat, clock } = made();
  const typing = (user, on) => chat.take(CHANNEL, { data: { kind: 'typing', user, on } });
  typing('bob', true);
  typing('me', true);
  assert.deepEqual(chat.typing(CHANNEL, 'me'), ['bob']);
  clock.now += 5_999;
  assert.deepEqual(chat.typing(CHANNEL, 'me'), ['bob']);
  clock.now += 1;
  assert.deepEqual(chat.typing(CHANNEL, 'me'), []);
  typing('bob', true);
  typing('bob', false);
  assert.deepEqual(chat.typing(CHANNEL, 'me'), []);
  typing('bob', true);
  chat.take(CHANNEL, { offset: 4, data: { kind: 'message', text: 'x' }, info: { user: 'bob' } });
  assert.deepEqual(chat.typing(CHANNEL, 'me'), []);
});

test('others are told of typing once in 3 s, and of its end once', () => {
  const { chat, asked, clock } = made();
  for (const [on, later] of [[true, 0], [true, 2_999], [true, 1], [false, 0], [false, 0], [true, 0]]) {
    clock.now += later;
    chat.types(CHANNEL, on);
  }
  chat.types('chat:lobby', true);
  assert.deepEqual(asked.map(([method]) => method), ['typing.start', 'typing.start', 'typing.stop', 'typing.start']);
});

test('receipts: the furthest counts, and one is no reader of oneself', () => {
  const { chat } = made();
  for (const [user, read] of [['bob', 7], ['bob', 5], ['me', 9], ['cem', 6]]) chat.take(CHANNEL, { data: { kind: 'receipt', user, read } });
  assert.deepEqual([6, 7, 8].map((offset) => chat.readers(CHANNEL, offset, 'me')), [['bob', 'cem'], ['bob'], []]);
});

test('what is in view is told as read once, the newest of it', async () => {
  const { chat, asked } = made();
  for (const offset of [3, 5, 4, 5]) chat.shown(CHANNEL, offset);
  chat.shown('chat:lobby', 9);
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.deepEqual(asked, [['markers.read', { channel: CHANNEL, offset: 5 }]]);
});

test('a server of before, which has no inbox, is asked once and shows none', async () => {
  const { chat, asked } = made({ 'inbox.list': Object.assign(new Error('no'), { code: 104 }) });
  await chat.load();
  await chat.load();
  assert.equal(asked.length, 1);
  assert.equal(chat.conversations.size, 0);
});

const SOON = 150; // ms
const later = () => new Promise((resolve) => setTimeout(resolve, SOON));
const listed = (channel, time, more = {}) => ({ channel, role: 'member', name: channel, time, unread: 0, marker: { generation: 0, offset: 0 }, as_of: { epoch: 'e', offset: 5 }, ...more });

test('a push asks for what changed, and puts it in its place', async () => {
  const answers = { 'inbox.list': { conversations: [listed('conv:g.a', 3), listed('conv:g.b', 2), listed('conv:g.c', 1)], since: 's1', all: true } };
  const { chat, asked } = made(answers);
  await chat.load();
  answers['inbox.list'] = { conversations: [listed('conv:g.c', 9, { unread: 2, as_of: { epoch: 'e', offset: 7 } }), { channel: 'conv:g.a', removed: true }], since: 's2', all: false };
  for (const offset of [6, 7]) chat.notice({ kind: 'inbox', changes: [{ channel: 'conv:g.c', offset }] });
  await later();
  assert.deepEqual(asked.slice(1), [['inbox.list', { limit: 50, since: 's1' }]]);
  assert.deepEqual([...chat.conversations.values()].map((one) => [one.channel, one.unread]), [['conv:g.c', 2], ['conv:g.b', 0]]);
  chat.notice({ kind: 'inbox', changes: [] });
  await later();
  assert.equal(asked.at(-1)[1].since, 's2');
});

test('an answer from before a mark or a message does not count', async () => {
  const old = listed('conv:g.a', 3, { unread: 2, as_of: { epoch: 'e', offset: 7 } });
  const answers = { 'inbox.list': { conversations: [old], since: 's', all: true }, 'markers.get': { marker: { generation: 0, offset: 7 }, as_of: { epoch: 'e', offset: 7 }, unread: 0, mentions: 0 } };
  const { chat } = made(answers);
  const unread = () => chat.conversations.get('conv:g.a').unread;
  await chat.load();
  assert.equal(unread(), 2);
  chat.notice({ kind: 'marker', channel: 'conv:g.a' });
  await later();
  assert.equal(unread(), 0);
  await chat.load(); // asked before the mark, answered behind it
  assert.equal(unread(), 0);
  old.marker = { generation: 1, offset: 3 };
  await chat.load(); // marked as unread
  assert.equal(unread(), 2);
});

test('one user and no name is a direct conversation, others are groups', async () => {
  const { chat, asked } = made({ 'conversations.create': { channel: 'conv:g.x', not_added: { eve: 'banned' } } });
  assert.deepEqual(await chat.begin(['bob'], '', 'k'), { channel: 'conv:g.x', left: ['eve'] });
  await chat.begin(['bob'], 'Lunch', 'k');
  assert.deepEqual(asked.map(([, { type, name }]) => [type, name]), [['direct', undefined], ['group', 'Lunch']]);
});
