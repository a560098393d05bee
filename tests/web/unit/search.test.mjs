import assert from 'node:assert/strict';
import test from 'node:test';
import { Search, canSearch } from '../../../web/static/search.js';

const refusing = (code) => async () => { throw Object.assign(new Error('refused'), { code }); };

test('the box is there where the server reads the query, and is not where it has no search', async () => {
  assert.equal(await canSearch(refusing(107)), true);
  assert.equal(await canSearch(async () => ({ messages: [] })), true);
  for (const code of [103, 104, 108]) assert.equal(await canSearch(refusing(code)), false);
  for (const code of [1, 100, 111]) await assert.rejects(canSearch(refusing(code)));
});

test('pages go on from their cursor, and another search begins at the first', async () => {
  const asked = [];
  const search = new Search(async (method, params) => {
    asked.push(params);
    return { messages: [], ...(params.cursor ? {} : { cursor: 'next' }) };
  });
  await search.begin('one');
  assert.equal(search.hasMore, true);
  await search.more();
  assert.equal(search.hasMore, false);
  await search.begin('two');
  assert.deepEqual(asked, [{ query: 'one', limit: 20 }, { query: 'one', limit: 20, cursor: 'next' }, { query: 'two', limit: 20 }]);
});

test('an answer or an error that comes behind the next search counts no more', async () => {
  const waiting = [];
  const search = new Search(() => new Promise((resolve, reject) => { waiting.push({ resolve, reject }); }));
  const [first, second, third] = [search.begin('one'), search.begin('two'), search.begin('three')];
  waiting[2].resolve({ messages: [3] });
  waiting[0].resolve({ messages: [1], cursor: 'next' });
  waiting[1].reject(new Error('late'));
  assert.deepEqual([await first, await second, await third], [null, null, { messages: [3] }]);
  assert.equal(search.hasMore, false);
});
