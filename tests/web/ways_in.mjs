// Sign-in by cookie, and tokens in the handshake, in headless Chromium; run by tests/integration/test_ways_in.py. The contract
// with the test is that of tests/integration/sdk/scenarios.mjs. Pages of three origins of one site: the edge's own, one that
// is allowed, one that is not.
import assert from 'node:assert/strict';
import readline from 'node:readline';
import { open } from './browser.mjs';

const MISSED = 20;
const COOKIE = 'thalamus_session';
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const nextLine = async () => JSON.parse((await lines.next()).value);
const ask = (what) => {
  process.stdout.write(JSON.stringify(what) + '\n');
  return nextLine();
};
const config = await nextLine();
const browser = await open(config.profile, config.chromium);
const socketUrl = `${config.edge.replace('http', 'ws')}/connection/websocket`;

// Every request that carries the cookie, handshakes left out: Playwright does not show those.
const withCookie = [];
browser.on('request', async (request) => {
  const headers = await request.allHeaders().catch(() => ({}));
  if (headers.cookie?.includes(COOKIE)) withCookie.push(request.url());
});

const page = async (origin) => {
  const made = await browser.newPage();
  await made.goto(`${origin}/page`);
  await made.evaluate(async ([sdk, url, channel]) => {
    const { Centrifuge } = await import(sdk);
    const seen = { numbers: [], recovered: 0, cut: 0, state: 'new', asked: 0, tries: 0, codes: [] };
    window.seen = seen;
    window.client = null;
    window.start = (options, protocols) => {
      class Counted extends WebSocket {
        constructor(address) {
          super(address, protocols ?? []);
          seen.tries += 1;
          this.addEventListener('close', (event) => seen.codes.push(event.code));
        }
      }
      const more = options.lateToken ? { getToken: async () => { seen.asked += 1; return options.lateToken; } } : {};
      const client = new Centrifuge(url, { websocket: Counted, minReconnectDelay: 50, maxReconnectDelay: 300, ...options.client, ...more });
      client.on('connecting', (ctx) => { seen.state = 'connecting'; if (ctx.code !== 0) seen.cut += 1; });
      client.on('connected', () => { seen.state = 'connected'; });
      client.on('disconnected', (ctx) => { seen.state = `disconnected ${ctx.code}`; });
      const sub = client.newSubscription(channel);
      sub.on('publication', (ctx) => seen.numbers.push(ctx.data.n));
      sub.on('subscribed', (ctx) => { seen.subscribed = true; seen.recovered += ctx.wasRecovering && ctx.recovered; });
      sub.subscribe();
      client.connect();
      window.client = client;
    };
    window.post = async (address, body) => {
      const response = await fetch(address, {
        method: 'POST', credentials: 'include', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' },
      });
      return [response.status, await response.json()];
    };
  }, [config.sdk, socketUrl, config.channel]);
  return made;
};
const post = (made, path, body) => made.evaluate(([url, what]) => window.post(url, what), [`${config.edge}${path}`, body]);
const start = (made, options = {}, protocols = undefined) => made.evaluate(([o, p]) => window.start(o, p), [options, protocols]);
const seenOf = (made) => made.evaluate(() => window.seen);
const until = (made, found, arg) => made.waitForFunction(found, arg, { polling: 20 });
const stored = async () => (await browser.cookies()).filter((one) => one.name === COOKIE);
const stop = (made) => made.evaluate(() => window.client.disconnect());

try {
  // Sign in on the page of an allowed origin. The cookie has its attributes, and scripts can't read it.
  const allowed = await page(config.allowed);
  const account = { username: `user-${config.run}`, password: config.password };
  const [status, { result }] = await post(allowed, '/auth/register', { ...account, cookie: true });
  assert.equal(status, 200);
  const [cookie, ...others] = await stored();
  assert.deepEqual(others, []);
  const { value, path, httpOnly, sameSite, secure, domain, expires } = cookie;
  assert.deepEqual([value, path, httpOnly, sameSite, secure, domain],
    [result.access_token, '/connection', true, 'Strict', false, new URL(config.edge).hostname]);
  assert.ok(Math.abs(expires - Date.now() / 1000 - result.expires_in_s) < 30, `${expires}`);
  const own = await page(config.own);
  assert.equal(await own.evaluate(() => document.cookie), '');
  assert.equal(await allowed.evaluate(() => document.cookie), '');

  // It connects without a token from the edge's own origin and from an allowed one, and from no other of the same site.
  const forbidden = await page(config.forbidden);
  await start(own);
  await start(allowed);
  await start(forbidden);
  for (const made of [own, allowed]) await until(made, () => window.seen.subscribed);
  await until(forbidden, () => window.seen.codes.length >= 3); // 403: the browser tells 1006, and the SDK tries again
  const refused = await seenOf(forbidden);
  assert.deepEqual([refused.state, [...new Set(refused.codes)]], ['connecting', [1006]]);
  await stop(forbidden);

  // The other ways that a browser has.
  const token = await ask({ do: 'token', user: 'alice', ttl_s: 300, claims: {} });
  const others_ = [];
  for (const [options, protocols] of [
    [{ client: { token } }, undefined],
    [{ client: { headers: { Authorization: `Bearer ${token}` } } }, undefined],
    [{}, ['centrifuge-json', `bearer.${token}`]],
    [{}, ['centrifuge-json', token]],
  ]) {
    const made = await page(config.own);
    await start(made, options, protocols);
    await until(made, () => window.seen.subscribed);
    others_.push(made);
  }

  // All come back after a drop, in the same way, and have what they missed.
  await ask({ do: 'cut' });
  for (const made of [own, allowed, ...others_]) await until(made, () => window.seen.cut > 0);
  await ask({ do: 'fill', channel: config.channel, count: MISSED });
  await ask({ do: 'heal' });
  const expected = Array.from({ length: MISSED }, (_, index) => index + 1);
  for (const made of [own, allowed, ...others_]) {
    await until(made, (count) => window.seen.numbers.length >= count, MISSED);
    const { numbers, recovered } = await seenOf(made);
    assert.deepEqual([numbers, recovered], [expected, 1]);
    await stop(made);
  }

  // Neither /auth nor /api get the cookie, and no page of a forbidden origin gives one.
  const [ticketStatus] = await post(own, '/auth/ticket', {});
  const [apiStatus] = await post(own, '/api/info', {});
  assert.deepEqual([ticketStatus, apiStatus], [401, 401]);
  const foreign = await browser.newPage();
  await foreign.goto(`${config.forbidden}/page`);
  const before = await stored();
  await foreign.setContent(`<form method=post enctype=text/plain action="${config.edge}/auth/login"><input name='${
    JSON.stringify({ username: account.username, cookie: true }).slice(0, -1)},"password":"a' value='b"}'><button>x</button></form>`);
  const [answered] = await Promise.all([foreign.waitForResponse(`${config.edge}/auth/login`), foreign.click('button')]);
  assert.equal(answered.status(), 403);
  assert.deepEqual(await stored(), before);

  // An expired cookie counts as none: the SDK asks getToken, and connects.
  await browser.addCookies([{ ...cookie, value: config.expired }]);
  const late = await page(config.allowed);
  await start(late, { lateToken: token });
  await until(late, () => window.seen.subscribed);
  assert.deepEqual([(await seenOf(late)).asked, (await seenOf(late)).tries], [1, 1]);
  await stop(late);

  // Refreshing extends it; logging out clears it, and ends the connections that it opened.
  const [, refreshed] = await post(allowed, '/auth/refresh', { refresh_token: result.refresh_token, cookie: true });
  const [renewed] = await stored();
  assert.equal(renewed.value, refreshed.result.access_token);
  assert.ok(renewed.expires >= expires);
  const last = await page(config.own);
  await start(last);
  await until(last, () => window.seen.subscribed);
  assert.equal((await post(own, '/auth/logout', { refresh_token: refreshed.result.refresh_token }))[0], 200);
  assert.deepEqual(await stored(), []);
  await until(last, () => window.seen.state === 'disconnected 3503');
  assert.deepEqual(withCookie, []);
} finally {
  await browser.close();
}
process.exit(0);
