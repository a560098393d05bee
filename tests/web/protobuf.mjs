// The Protobuf build of centrifuge-js in headless Chromium, two tabs. argv: base URL, folder for the profile, path of the
// browser, the SDK's file, tokens of alice and bob. Exit 0: it held.
import assert from 'node:assert/strict';
import { open, tab as newTab, without } from './browser.mjs';

const [base, profile, executablePath, sdk, ...tokens] = process.argv.slice(2);
const run = Date.now().toString(36);
const address = `${base.replace('http', 'ws')}/connection/websocket`;

const browser = await open(profile, executablePath);
const problems = [];

// A tab with one client; all that happens to it is kept in `window.seen`.
async function client(token) {
  const page = await newTab(browser, problems);
  await page.goto(`${base}/openapi.json`); // some page of the edge, without scripts of its own
  await page.evaluate(() => {
    window.sockets = [];
    const Real = window.WebSocket;
    window.WebSocket = class extends Real {
      constructor(...what) {
        super(...what);
        window.sockets.push(this);
      }
    };
  });
  await page.addScriptTag({ path: sdk });
  await page.evaluate(async ([url, jwt]) => {
    window.seen = [];
    window.client = new Centrifuge(url, { token: jwt, minReconnectDelay: 50 });
    window.subs = {};
    window.hex = (data) => Array.from(data, (byte) => byte.toString(16).padStart(2, '0')).join('');
    window.unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (byte) => parseInt(byte, 16));
    window.enter = async (channel, options) => {
      const sub = window.client.newSubscription(channel, options);
      window.subs[channel] = sub;
      for (const event of ['subscribing', 'subscribed', 'publication', 'join', 'leave', 'unsubscribed']) {
        sub.on(event, (ctx) => window.seen.push({
          event,
          channel,
          ...(event === 'publication' && { data: window.hex(ctx.data), offset: ctx.offset, by: ctx.info?.user }),
          ...(event === 'subscribed' && { recovered: ctx.recovered }),
          ...(event === 'unsubscribed' && { code: ctx.code }),
          ...(ctx.info && event !== 'publication' && { user: ctx.info.user }),
        }));
      }
      sub.subscribe();
      await sub.ready(15_000);
    };
    window.client.connect();
    await window.client.ready(15_000).catch((error) => { throw new Error(JSON.stringify(error)); });
  }, [address, token]);
  return page;
}

const enter = (page, channel, options = {}) => page.evaluate(([name, what]) => window.enter(name, what), [channel, options]);
const publish = (page, channel, data) =>
  page.evaluate(([name, hex]) => window.subs[name].publish(window.unhex(hex)), [channel, data.toString('hex')]);
const seen = (page, channel, event) =>
  page.evaluate(([name, kind]) => window.seen.filter((one) => one.channel === name && one.event === kind), [channel, event]);
const until = (page, channel, event, count) =>
  page.waitForFunction(
    ([name, kind, least]) => window.seen.filter((one) => one.channel === name && one.event === kind).length >= least,
    [channel, event, count],
  );

try {
  const alice = await client(tokens[0]);
  const bob = await client(tokens[1]);
  const spoken = await bob.evaluate(() => [window.sockets[0].protocol, window.sockets[0].binaryType]);
  assert.deepEqual(spoken, ['centrifuge-protobuf', 'arraybuffer']);

  for (const [channel, sent] of [
    [`bytes:${run}`, [Buffer.from(Array.from({ length: 256 }, (_, n) => n)), Buffer.of(0), Buffer.of(0xff, 0xfe), Buffer.from('{')]],
    [`chat:${run}`, [{ n: 1, text: 'größe 😀' }, null, 1.5, 'x'].map((value) => Buffer.from(JSON.stringify(value)))],
  ]) {
    const expected = sent.map((data) => data.toString('hex'));
    await enter(bob, channel, { joinLeave: true, recoverable: true });
    await enter(alice, channel);
    await until(bob, channel, 'join', 2);
    assert.deepEqual((await seen(bob, channel, 'join')).map((one) => one.user), ['bob', 'alice']);
    const who = await bob.evaluate(async (name) => {
      const sub = window.subs[name];
      const { clients } = await sub.presence();
      return [Object.values(clients).map((info) => info.user).sort(), await sub.presenceStats()];
    }, channel);
    assert.deepEqual(who, [['alice', 'bob'], { numClients: 2, numUsers: 2 }]);

    // The first comes live, the others are missed and recovered over a reconnect.
    await publish(alice, channel, sent[0]);
    await until(bob, channel, 'publication', 1);
    const heal = await without(bob);
    await bob.evaluate(() => window.sockets.at(-1).close());
    await until(bob, channel, 'subscribing', 2);
    for (const data of sent.slice(1)) await publish(alice, channel, data);
    await heal();
    await until(bob, channel, 'publication', sent.length);
    const got = await seen(bob, channel, 'publication');
    assert.deepEqual(got.map((one) => one.data), expected);
    assert.deepEqual(got.map((one) => one.offset), sent.map((_, index) => index + 1));
    assert(got.every((one) => one.by === 'alice'));
    assert.deepEqual((await seen(bob, channel, 'subscribed')).map((one) => one.recovered), [false, true]);

    const page = await bob.evaluate(async (name) => {
      const found = await window.subs[name].history({ limit: 10 });
      return found.publications.map((one) => window.hex(one.data));
    }, channel);
    assert.deepEqual(page, expected);
    await alice.evaluate((name) => window.subs[name].unsubscribe(), channel);
    await until(bob, channel, 'leave', 1);
  }

  const refused = await bob.evaluate(() => window.client.rpc('none', new Uint8Array()).catch((error) => error.code));
  assert.equal(refused, 104);
  assert.deepEqual(problems, []);
} catch (error) {
  console.error(error, problems);
  process.exitCode = 1;
} finally {
  await browser.close();
}
