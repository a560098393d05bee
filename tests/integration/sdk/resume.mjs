// Away while the token expires, with centrifuge-js on Node.js; run by test_resume.py. The contract is that of scenarios.mjs.
// argv: `back` (the client is back in time) or `late`.
import assert from 'node:assert/strict';
import readline from 'node:readline';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const MISSED = 50;
const LIMIT_MS = 30_000;
const back = process.argv[2] === 'back';
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const nextLine = async () => JSON.parse((await lines.next()).value);
const ask = (what) => {
  process.stdout.write(JSON.stringify(what) + '\n');
  return nextLine();
};
const until = async (found, what) => {
  const limit = Date.now() + LIMIT_MS;
  while (!found()) {
    if (Date.now() >= limit) assert.fail(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};

const config = await nextLine();
const token = await ask({ do: 'token', user: 'alice', ttl_s: 0, claims: {} }); // of auth; it has its own lifetime
let asked = 0;
let maySignIn = false;
const getToken = async () => {
  asked += 1;
  if (!maySignIn) throw new Error('the login server is down');
  return ask({ do: 'token', user: 'alice', ttl_s: 300, claims: {} });
};
const client = new Centrifuge(config.proxied1, { websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 300, token, getToken });
const numbers = [];
let recovered = 0;
let cut = 0;
let askedBefore = -1;
client.on('connecting', (ctx) => { if (ctx.code !== 0) cut += 1; });
const sub = client.newSubscription(config.channel);
sub.on('publication', (ctx) => numbers.push(ctx.data.n));
sub.on('subscribed', (ctx) => {
  recovered += ctx.wasRecovering && ctx.recovered;
  if (ctx.wasRecovering) askedBefore = asked;
});
sub.subscribe();
client.connect();
await sub.ready(LIMIT_MS);
await ask({ do: 'cut' });
await until(() => cut > 0, 'the connection is cut');
asked = 0;
maySignIn = !back;
await ask({ do: 'fill', channel: config.channel, count: MISSED }); // returns when the client has been away long enough
await ask({ do: 'heal' });
await until(() => numbers.length >= MISSED, 'the missed publications');
assert.deepEqual(numbers, Array.from({ length: MISSED }, (_, index) => index + 1));
assert.equal(recovered, 1);
assert.equal(askedBefore, back ? 0 : 1);
if (back) { // a fresh token is asked for soon, and again while there is none
  maySignIn = true;
  await until(() => asked > 0, 'a fresh token is asked for');
}
client.disconnect();
process.exit(0);
