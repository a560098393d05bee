// The SDK scenarios with centrifuge-js; run by test_sdk.py. Same contract as scenarios.py:
// argv: the scenario. stdin: first line the addresses as JSON, then answers to what is asked on stdout.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import readline from 'node:readline';
import WebSocket from 'ws';

// SDK_ENCODING=protobuf: the clients speak Protobuf, in which data is bytes, here a JSON text.
const PROTOBUF = process.env.SDK_ENCODING === 'protobuf';
const { Centrifuge } = await import((process.env.SDK_PACKAGE ?? 'centrifuge') + (PROTOBUF ? '/build/protobuf' : ''));
const payload = (value) => (PROTOBUF ? new TextEncoder().encode(JSON.stringify(value)) : value);
const valueOf = (data) => (PROTOBUF ? JSON.parse(new TextDecoder().decode(data)) : data);
const told = (pub) => valueOf(pub.data);

const LIMIT_MS = 15_000;
const BACK_WITHIN_MS = 60_000; // after a long time away: an SDK waits up to 20 s between two attempts
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const nextLine = async () => JSON.parse((await lines.next()).value);

let questions = Promise.resolve();
const ask = (what) => {
  const answer = questions.then(() => {
    process.stdout.write(JSON.stringify(what) + '\n');
    return nextLine();
  });
  questions = answer.catch(() => undefined);
  return answer;
};
const token = (user, ttl_s = 300, claims = {}) => ask({ do: 'token', user, ttl_s, claims });

const clients = [];
let config;

// A channel of this run alone.
const ch = (name) => `${name}-${config.run}`;

class Events {
  constructor(emitter, names) {
    this.seen = [];
    this.read = 0;
    this.wake = () => undefined;
    for (const name of names) {
      emitter.on(name, (ctx) => {
        this.seen.push([name, ctx]);
        this.wake();
      });
    }
  }

  // The next `count` events of this name; the last one's context.
  async wait(name, count = 1, limitMs = LIMIT_MS) {
    const limit = Date.now() + limitMs;
    let ctx;
    while (count > 0) {
      if (this.read < this.seen.length) {
        const [found, value] = this.seen[this.read++];
        if (found === name) {
          ctx = value;
          count -= 1;
        }
        continue;
      }
      if (Date.now() >= limit) assert.fail(`no ${name}; seen ${JSON.stringify(this.seen.slice(-50).map(([n]) => n))}`);
      await Promise.race([
        new Promise((resolve) => { this.wake = resolve; }),
        new Promise((resolve) => setTimeout(resolve, 200)),
      ]);
    }
    return ctx;
  }

  publications() {
    return this.seen.filter(([name]) => name === 'publication').map(([, ctx]) => ctx);
  }
}

const CLIENT_EVENTS = ['connecting', 'connected', 'disconnected', 'subscribed', 'publication', 'join', 'leave', 'error'];
const SUB_EVENTS = ['subscribing', 'subscribed', 'unsubscribed', 'publication', 'join', 'leave', 'error'];

const client = (edge, options) => {
  const made = new Centrifuge(config[edge], { websocket: WebSocket, minReconnectDelay: 50, ...options });
  clients.push(made);
  return [made, new Events(made, CLIENT_EVENTS)];
};

const user = async (edge, name) => {
  const [made, events] = client(edge, { token: await token(name) });
  made.connect();
  await made.ready(LIMIT_MS);
  return [made, events];
};

const subscribe = async (of, channel, options = {}) => {
  const sub = of.newSubscription(channel, options);
  const events = new Events(sub, SUB_EVENTS);
  sub.subscribe();
  await sub.ready(LIMIT_MS);
  return [sub, events];
};

const range = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);

// Asks until it is so.
const until = async (found, expected) => {
  const limit = Date.now() + LIMIT_MS;
  for (;;) {
    const now = await found();
    if (JSON.stringify(now) === JSON.stringify(expected)) return;
    if (Date.now() >= limit) assert.deepEqual(now, expected);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

// Error 100 does not say whether the publication is in the log: it is repeated, and readers may get it as often.
let repeats = 0;
async function publishSurely(sub, data) {
  for (;;) {
    try {
      return await sub.publish(data);
    } catch (error) {
      if (error.code !== 100) throw error;
      repeats += 1;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

const scenarios = {
  async chat() {
    for (const channel of [ch('chat:sdk'), ch('live:sdk'), ch('tick:sdk'), ch('plain-sdk')]) {
      const [alice] = await user('edge1', 'alice');
      const [bob] = await user('edge2', 'bob');
      const [sub] = await subscribe(alice, channel);
      const [, events] = await subscribe(bob, channel);
      for (const n of range(0, 50)) await sub.publish(payload({ n, text: 'größe \u2028 😀' }));
      await events.wait('publication', 50);
      const got = events.publications();
      assert.deepEqual(got.map((pub) => told(pub).n), range(0, 50));
      assert.equal(told(got[0]).text, 'größe \u2028 😀');
      assert.equal(got[0].info.user, 'alice');
      if (!channel.startsWith('tick:')) {
        assert.deepEqual(got.map((pub) => pub.offset), range(got[0].offset, got[0].offset + 50));
      }
      alice.disconnect();
      bob.disconnect();
    }
  },

  async presence_data() {
    const [first, second] = [ch('chat:data-1'), ch('chat:data-2')];
    const [bob] = await user('edge2', `bob-${first}`);
    const [, events] = await subscribe(bob, first, { joinLeave: true });
    const [alice] = await user('edge1', `alice-${first}`);
    for (const channel of [first, second]) await subscribe(alice, channel);
    const call = async (client, method, data) => valueOf((await client.rpc(`presence.${method}`, payload(data))).data);
    // What comes next of Alice, as Bob sees it.
    const seen = async (kind) => {
      for (;;) {
        const { info } = await events.wait(kind);
        if (info.user === `alice-${first}`) return info.chanInfo?.length === 0 || info.chanInfo === undefined ? null : valueOf(info.chanInfo);
      }
    };
    assert.equal(await seen('join'), null);
    assert.deepEqual(await call(alice, 'leave', { channel: first }), {});
    assert.equal(await seen('leave'), null);
    assert.deepEqual(await call(alice, 'enter', { channel: first, data: { mood: 'good' } }), {});
    assert.deepEqual(await seen('join'), { mood: 'good' });
    await call(alice, 'update', { channel: first, data: { mood: null, at: 'sea' } });
    assert.deepEqual(await seen('join'), { at: 'sea' }, 'an update is a second join of the same client');
    const { members } = await call(bob, 'members', { channel: first });
    assert.deepEqual(Object.fromEntries(members.map((one) => [one.user, one.chan_info ?? null])), {
      [`alice-${first}`]: { at: 'sea' },
      [`bob-${first}`]: null,
    });
    const { channels } = await call(bob, 'counts', { channels: [first] });
    assert.deepEqual(channels, { [first]: { num_clients: 2, num_users: 2 } });
    assert.deepEqual(await call(alice, 'channels', {}), { channels: [first, second] });
    const online = (await call(bob, 'online', { users: [`alice-${first}`] })).users[`alice-${first}`];
    assert.deepEqual([online.online, online.state], [true, 'active']);
    await call(alice, 'leave', {});
    assert.deepEqual(await seen('leave'), { at: 'sea' });
    assert.deepEqual(await call(alice, 'channels', {}), { channels: [] });
  },

  async presence() {
    const [bob] = await user('edge2', 'bob');
    const [sub, events] = await subscribe(bob, ch('chat:presence'), { joinLeave: true });
    assert.equal((await events.wait('join')).info.user, 'bob');
    const [alice] = await user('edge1', 'alice');
    await subscribe(alice, ch('chat:presence'));
    const joined = await events.wait('join');
    assert.equal(joined.info.user, 'alice');
    const there = (await sub.presence()).clients;
    assert.deepEqual(Object.values(there).map((info) => info.user).sort(), ['alice', 'bob']);
    const stats = await sub.presenceStats();
    assert.deepEqual([stats.numClients, stats.numUsers], [2, 2]);
    alice.disconnect();
    const left = await events.wait('leave');
    assert.deepEqual(left.info, joined.info);
    assert.deepEqual(Object.values((await sub.presence()).clients).map((info) => info.user), ['bob']);
  },

  async history() {
    for (const channel of [ch('chat:history'), ch('live:history')]) {
      const [alice] = await user('edge1', 'alice');
      const [bob] = await user('edge2', 'bob');
      const [sub] = await subscribe(alice, channel);
      const [reader] = await subscribe(bob, channel);
      for (const n of range(0, 25)) await sub.publish(payload({ n }));
      for (const reverse of [false, true]) {
        const found = [];
        let since;
        for (;;) {
          const page = await reader.history({ limit: 10, since, reverse });
          found.push(...page.publications.map((pub) => told(pub).n));
          if (page.publications.length < 10) break;
          since = { offset: page.publications.at(-1).offset, epoch: page.epoch };
        }
        assert.deepEqual(found, reverse ? range(0, 25).reverse() : range(0, 25));
      }
      alice.disconnect();
      bob.disconnect();
    }
  },

  async recovery() {
    for (const channel of [ch('chat:recovery'), ch('live:recovery')]) {
      const [alice] = await user('edge1', 'alice');
      const [bob] = await user('proxied2', 'bob');
      const [sub] = await subscribe(alice, channel);
      const [, events] = await subscribe(bob, channel, { recoverable: true });
      await sub.publish(payload({ n: 0 }));
      await events.wait('publication');
      await ask({ do: 'cut' });
      await events.wait('subscribing');
      for (const n of range(1, 51)) await publishSurely(sub, payload({ n }));
      await ask({ do: 'heal' });
      const subscribed = await events.wait('subscribed');
      assert.equal(subscribed.wasRecovering, true);
      assert.equal(subscribed.recovered, true);
      await publishSurely(sub, payload({ n: 51 }));
      const numbers = () => [...new Set(events.publications().map((pub) => told(pub).n))];
      while (numbers().length < 52) await events.wait('publication');
      assert.deepEqual(numbers(), range(0, 52));
      assert.ok(events.publications().length <= 52 + repeats, 'nothing comes twice that was published once');
      alice.disconnect();
      bob.disconnect();
    }
  },

  async resubscribed() {
    for (const channel of [ch('chat:resubscribed'), ch('live:resubscribed')]) {
      const [alice] = await user('edge1', 'alice');
      const [bob] = await user('edge2', 'bob');
      const [sub] = await subscribe(alice, channel);
      const [own, events] = await subscribe(bob, channel);
      await sub.publish(payload({ n: 0 }));
      await events.wait('publication');
      own.unsubscribe();
      for (const n of range(1, 4)) await sub.publish(payload({ n }));
      own.subscribe();
      assert.equal((await events.wait('subscribed')).recovered, true);
      await sub.publish(payload({ n: 4 }));
      await events.wait('publication', 4);
      assert.deepEqual(events.publications().map((pub) => told(pub).n), range(0, 5));
      alice.disconnect();
      bob.disconnect();
    }
  },

  async too_old() {
    const channel = ch('live:too-old');
    const [alice] = await user('edge1', 'alice');
    const [bob] = await user('edge2', 'bob');
    const [sub] = await subscribe(alice, channel);
    const [own, events] = await subscribe(bob, channel);
    await sub.publish(payload({ n: 0 }));
    await events.wait('publication');
    own.unsubscribe();
    await ask({ do: 'fill', channel, count: 1200 });
    own.subscribe();
    const subscribed = await events.wait('subscribed');
    assert.deepEqual([subscribed.wasRecovering, subscribed.recovered], [true, false]);
    await sub.publish(payload({ n: 1201 }));
    await events.wait('publication');
    assert.deepEqual(events.publications().map((pub) => told(pub).n), [0, 1201]);
  },

  async comes_and_goes() {
    const channel = ch('chat:comes-and-goes');
    const [watcher] = await user('edge1', 'watcher');
    const [roster] = await subscribe(watcher, channel);
    const users = async () => Object.values((await roster.presence()).clients).map((info) => info.user).sort();
    const [bob] = await user('edge2', 'bob');
    const sub = bob.newSubscription(channel);
    for (const last of [...Array(10).fill(false), true]) {
      sub.subscribe();
      if (!last) sub.unsubscribe();
    }
    await sub.ready(LIMIT_MS);
    await until(users, ['bob', 'watcher']);
    sub.unsubscribe();
    await until(users, ['watcher']);
    for (const _ of range(0, 10)) {
      bob.connect();
      bob.disconnect();
    }
    bob.connect();
    await bob.ready(LIMIT_MS);
    sub.subscribe();
    await sub.ready(LIMIT_MS);
    await until(users, ['bob', 'watcher']);
  },

  async not_served() {
    const [alice] = await user('edge1', 'alice');
    await assert.rejects(alice.rpc('method', payload({ my: 'data' })), (error) => error.code === 104);
    await subscribe(alice, ch('chat:after'));
  },

  async binary() {
    const channel = ch('bytes:sdk');
    const sent = [Uint8Array.from(range(0, 256)), Uint8Array.of(0), Uint8Array.of(255, 254), randomBytes(20_000)];
    const [alice] = await user('edge1', 'alice');
    if (!PROTOBUF) {
      const refused = alice.newSubscription(channel);
      const told108 = new Events(refused, SUB_EVENTS);
      refused.subscribe();
      assert.equal((await told108.wait('unsubscribed')).code, 108);
      return;
    }
    const [bob] = await user('proxied2', 'bob');
    const [sub] = await subscribe(alice, channel);
    const [reader, events] = await subscribe(bob, channel, { recoverable: true });
    await sub.publish(sent[0]);
    await events.wait('publication');
    await ask({ do: 'cut' });
    await events.wait('subscribing');
    for (const data of sent.slice(1)) await sub.publish(data);
    await ask({ do: 'heal' });
    assert.equal((await events.wait('subscribed')).recovered, true);
    while (events.publications().length < sent.length) await events.wait('publication');
    const bytes = (pubs) => pubs.map((pub) => Buffer.from(pub.data).toString('hex'));
    const expected = bytes(sent.map((data) => ({ data })));
    assert.deepEqual(bytes(events.publications()), expected);
    assert.deepEqual(bytes((await reader.history({ limit: 10 })).publications), expected);
    await assert.rejects(sub.publish(new Uint8Array()), (error) => error.code === 107);
  },

  async deltas() {
    const channel = ch('states:sdk');
    const value = (n) => ({ n, text: 'größe 漢字 😀 ', filler: 'a'.repeat(500) });
    const [alice] = await user('edge1', 'alice');
    const [bob] = await user('proxied2', 'bob');
    const [sub, plain] = await subscribe(alice, channel);
    const [own, events] = await subscribe(bob, channel, { delta: 'fossil' });
    const publish = async (...numbers) => { for (const n of numbers) await sub.publish(payload(value(n))); };
    const check = async (count, full) => {
      while (events.publications().length < count) await events.wait('publication');
      assert.deepEqual(events.publications().map(told), range(0, count).map(value));
      const stats = own.deltaStats();
      assert.deepEqual([stats.numFullPayloads, stats.numDeltaPayloads], [full, count - full]);
      assert(stats.bytesReceived < stats.bytesDecoded);
      events.read = events.seen.length; // what came until now is no answer to what is asked next
    };
    await publish(...range(0, 10));
    await check(10, 1);
    await ask({ do: 'cut' });
    await events.wait('subscribing');
    await publish(...range(10, 15));
    await ask({ do: 'heal' });
    assert.equal((await events.wait('subscribed')).recovered, true);
    await publish(15, 16);
    await check(17, 3);
    own.unsubscribe();
    await publish(17, 18);
    own.subscribe();
    assert.equal((await events.wait('subscribed')).recovered, true);
    await publish(19);
    await check(20, 5);
    while (plain.publications().length < 20) await plain.wait('publication');
    assert.deepEqual(plain.publications().map(told), range(0, 20).map(value));
    const { publications } = await own.history({ limit: 20 });
    assert.deepEqual(publications.map(told), range(0, 20).map(value));
  },

  async many_missed() {
    const count = Number(config.missed);
    const channel = ch('chat:many');
    const [alice] = await user('edge1', 'alice');
    const [bob] = await user('proxied2', 'bob');
    const [sub] = await subscribe(alice, channel);
    const [, events] = await subscribe(bob, channel, { recoverable: true });
    await sub.publish(payload({ n: 0 }));
    await events.wait('publication');
    await ask({ do: 'cut' });
    await events.wait('subscribing');
    await ask({ do: 'fill', channel, count });
    await ask({ do: 'heal' });
    await events.wait('subscribed', 1, BACK_WITHIN_MS);
    await sub.publish(payload({ n: count + 1 }));
    await events.wait('publication', count + 1, 60_000 + 5 * count);
    assert.deepEqual(events.publications().map((pub) => told(pub).n), range(0, count + 2));
    const subscribed = events.seen.filter(([name]) => name === 'subscribed').map(([, ctx]) => ctx);
    assert(subscribed.slice(1).every((ctx) => ctx.recovered));
    assert(config.cuts ? subscribed.length > 2 : subscribed.length === 2);
    alice.disconnect();
    bob.disconnect();
  },

  async ephemeral() {
    const channel = ch('chat:ephemeral');
    const onServer = config.kind === 'server';
    const [alice] = await user('edge1', 'alice');
    const [sub] = await subscribe(alice, channel);
    const claims = onServer ? { channels: [channel] } : {};
    const [bob, own] = client('proxied2', { token: await token('bob', 300, claims) });
    bob.connect();
    await bob.ready(LIMIT_MS);
    const events = onServer ? own : (await subscribe(bob, channel, { recoverable: true }))[1];
    if (onServer) await events.wait('subscribed');
    const publish = async (from, to) => {
      for (const n of range(from, to)) await sub.publish(payload({ n }));
    };
    await publish(1, 4);
    await events.wait('publication', 3);
    await ask({ do: 'ephemeral', channel, count: 1000 });
    await events.wait('publication', 1000);
    await ask({ do: 'cut' });
    await own.wait('connecting', onServer ? 1 : 2);
    await publish(4, 7);
    await ask({ do: 'ephemeral', channel, count: 3 });
    await ask({ do: 'heal' });
    const again = await events.wait('subscribed', 1, BACK_WITHIN_MS);
    assert.deepEqual([again.wasRecovering, again.recovered], [true, true]);
    await events.wait('publication', 3);
    await ask({ do: 'ephemeral', channel, count: 1 });
    await events.wait('publication');
    await publish(7, 8);
    await events.wait('publication');
    const got = events.publications();
    const seen = got.map((pub) => [told(pub).n ?? told(pub).kind, Number(pub.offset ?? 0)]);
    assert.deepEqual(seen.filter(([what]) => what !== 'typing'), range(1, 8).map((n) => [n, n]));
    const position = (n) => (PROTOBUF ? n : 0);
    const typing = [...range(0, 1000).map(() => position(3)), position(6)].map((offset) => ['typing', offset]);
    assert.deepEqual(seen.filter(([what]) => what === 'typing'), typing);
  },

  async refresh() {
    let asked = 0;
    const [alice, events] = client('edge1', {
      token: await token('alice', -60),
      getToken: () => { asked += 1; return token('alice', asked === 1 ? 2 : 300); },
    });
    alice.connect();
    await events.wait('connected');
    assert.equal(asked, 1);
    const limit = Date.now() + LIMIT_MS;
    while (asked < 2) {
      assert(Date.now() < limit, 'the token was never refreshed');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
    assert.equal(events.seen.filter(([name]) => name === 'connected').length, 1);
    assert.equal(events.seen.filter(([name]) => name === 'disconnected').length, 0);
  },

  async subscription_token() {
    let asked = 0;
    const getToken = () => {
      asked += 1;
      return token('alice', asked === 1 ? 2 : 300, { channel: ch('$secret'), info: { role: 'x' } });
    };
    const [alice] = await user('edge1', 'alice');
    const [sub, events] = await subscribe(alice, ch('$secret'), { getToken });
    const [bob] = await user('edge2', 'bob');
    const [other, others] = await subscribe(bob, ch('$secret'), { token: await token('bob', 300, { channel: ch('$secret') }) });
    await sub.publish(payload({ n: 1 }));
    assert.deepEqual(valueOf((await others.wait('publication')).info.chanInfo), { role: 'x' });
    const limit = Date.now() + LIMIT_MS;
    while (asked < 2) {
      assert(Date.now() < limit, 'the token was never refreshed');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await other.publish(payload({ n: 2 }));
    while (events.publications().length < 2) await events.wait('publication');
    assert.deepEqual(events.publications().map((pub) => told(pub).n), [1, 2]);
    assert.equal(events.seen.filter(([name]) => name === 'unsubscribed').length, 0);
  },

  async server_side() {
    const [bob, events] = client('edge2', { token: await token('bob', 300, { channels: [ch('chat:server')] }) });
    bob.connect();
    assert.equal((await events.wait('subscribed')).channel, ch('chat:server'));
    const [alice] = await user('edge1', 'alice');
    const [sub] = await subscribe(alice, ch('chat:server'));
    await sub.publish(payload({ n: 1 }));
    const got = await events.wait('publication');
    assert.deepEqual([got.channel, told(got)], [ch('chat:server'), { n: 1 }]);
  },

  async removed() {
    const [alice] = await user('edge1', 'alice');
    const [bob] = await user('edge2', 'bob');
    const call = async (method, data) => valueOf((await alice.rpc(method, payload(data))).data);
    const { channel } = await call('conversations.create', { type: 'group', users: ['bob'], settings: { history: 'joined' } });
    const [own, events] = await subscribe(bob, channel);
    await own.publish(payload({ kind: 'message', text: 'one' }));
    assert.equal(told(await events.wait('publication')).text, 'one');
    await call('members.remove', { channel, user: 'bob' });
    const ended = await events.wait('unsubscribed');
    assert.deepEqual([ended.code, ended.reason], [2100, 'no longer a member']);
    assert.equal(told(events.publications().at(-1)).op, 'remove');
    await call('messages.send', { channel, text: 'secret' });
    await assert.rejects(own.publish(payload({ kind: 'message', text: 'two' })));
    await assert.rejects(bob.publish(channel, payload({ kind: 'message', text: 'two' })), (error) => error.code === 103);
    own.subscribe();
    assert.equal((await events.wait('unsubscribed')).code, 103);
    await call('members.add', { channel, user: 'bob' });
    const seen = events.publications().length;
    await call('messages.send', { channel, text: 'three' });
    own.subscribe();
    assert.equal((await events.wait('subscribed')).recovered, true);
    await events.wait('publication');
    assert.deepEqual(events.publications().slice(seen).map((pub) => told(pub).text), ['three']);
    assert.equal(events.seen.filter(([name]) => name === 'unsubscribed').length, 2); // it did not come back by itself
  },

  async wrong_token() {
    const [alice, events] = client('edge1', { token: (await token('alice')).slice(0, -6) + 'AAAAAA' });
    alice.connect();
    assert.equal((await events.wait('disconnected')).code, 3500);
  },

  async wrong_subscription_token() {
    const [alice] = await user('edge1', 'alice');
    const wrong = (await token('alice', 300, { channel: '$x' })).slice(0, -6) + 'AAAAAA';
    const sub = alice.newSubscription('$x', { token: wrong });
    const events = new Events(sub, SUB_EVENTS);
    sub.subscribe();
    assert.equal((await events.wait('unsubscribed')).code, 103);
  },
};

config = await nextLine();
const timer = setTimeout(
  () => { console.error('the scenario took too long'); process.exit(1); },
  150_000 + 5 * Number(config.missed ?? 0),
);
try {
  await scenarios[process.argv[2]]();
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  for (const one of clients) one.disconnect();
  clearTimeout(timer);
  process.stdin.destroy();
}
