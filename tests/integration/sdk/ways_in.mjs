// Each way to bring a token with centrifuge-js on Node.js, drop and reconnect included; run by test_ways_in.py. The contract
// with the test is that of scenarios.mjs.
import assert from 'node:assert/strict';
import readline from 'node:readline';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const LIMIT_MS = 20_000;
const MISSED = 20;
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const nextLine = async () => JSON.parse((await lines.next()).value);
const ask = (what) => {
  process.stdout.write(JSON.stringify(what) + '\n');
  return nextLine();
};
const config = await nextLine();
const token = await ask({ do: 'token', user: 'alice', ttl_s: 300, claims: {} });

// A WebSocket class with more subprotocols or options, as an application would wrap it.
const socket = (protocols, options = {}) => class extends WebSocket {
  constructor(url) {
    super(url, protocols, options);
  }
};
const bearer = { Authorization: `Bearer ${token}` };
const cookie = { Cookie: `thalamus_session=${token}` };
const origin = config.own;

const ways = {
  token: { token },
  getToken: { getToken: async () => token },
  headers: { headers: bearer },
  'Authorization header': { websocket: socket([], { headers: bearer }) },
  'subprotocol bearer': { websocket: socket(['centrifuge-json', `bearer.${token}`]) },
  'subprotocol JWT': { websocket: socket(['centrifuge-json', token]) },
  cookie: { websocket: socket([], { headers: cookie, origin }) },
  'expired cookie, getToken': {
    websocket: socket([], { headers: { Cookie: `thalamus_session=${config.expired}` }, origin }),
    getToken: async () => token,
  },
  'token in the query': { query: `?token=${token}` },
};

const until = async (found, what) => {
  const limit = Date.now() + LIMIT_MS;
  while (!found()) {
    if (Date.now() >= limit) assert.fail(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

const open = (name, { query = '', ...options }) => {
  const client = new Centrifuge(config.proxied2 + query, { websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 300, ...options });
  const seen = { name, client, numbers: [], cut: 0, recovered: 0, ended: '' };
  client.on('connecting', (ctx) => { if (ctx.code !== 0) seen.cut += 1; });
  client.on('disconnected', (ctx) => { seen.ended = `${ctx.code} ${ctx.reason}`; });
  const sub = client.newSubscription(config.channel);
  sub.on('publication', (ctx) => seen.numbers.push(ctx.data.n));
  sub.on('subscribed', (ctx) => { seen.recovered += ctx.wasRecovering && ctx.recovered; });
  sub.subscribe();
  client.connect();
  return { ...seen, sub, seen };
};

const clients = Object.entries(ways).map(([name, options]) => open(name, options));
for (const { name, sub, seen } of clients) {
  await Promise.race([
    sub.ready(LIMIT_MS).catch((error) => assert.fail(`${name}: ${error.message} ${seen.ended}`)),
    until(() => seen.ended, `${name} neither subscribed nor ended`).then(() => assert.fail(`${name}: ${seen.ended}`)),
  ]);
}

// A ticket is in the address, which the SDK keeps: it connects once, and never again.
const statuses = [];
class Watched extends WebSocket {
  constructor(url) {
    super(url);
    this.on('unexpected-response', (_, response) => {
      statuses.push(response.statusCode);
      this.emit('error', new Error('refused'));
      this.terminate();
    });
  }
}
const ticket = await ask({ do: 'ticket', token });
const withTicket = open('ticket', { query: `?ticket=${ticket}`, websocket: Watched });
await withTicket.sub.ready(LIMIT_MS);

await ask({ do: 'cut' });
for (const { name, seen } of [...clients, withTicket]) await until(() => seen.cut > 0, `${name} is cut`);
await ask({ do: 'fill', channel: config.channel, count: MISSED });
await ask({ do: 'heal' });
const expected = Array.from({ length: MISSED }, (_, index) => index + 1);
for (const { name, seen } of clients) {
  await until(() => seen.numbers.length >= MISSED || seen.ended, `${name} has recovered`);
  assert.deepEqual([name, seen.numbers, seen.recovered, seen.ended], [name, expected, 1, '']);
}
await until(() => statuses.length >= 2, 'the ticket is tried again');
assert.ok(statuses.every((status) => status === 401), String(statuses));
assert.equal(withTicket.client.state, 'connecting');
for (const { client } of [...clients, withTicket]) client.disconnect();
process.exit(0);
