import assert from 'node:assert/strict';
import test from 'node:test';
import { SubscriptionState, backoff, isTerminal, parseFrame } from '../../../web/static/client.js';

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
