// Where the console meets its limits, in headless Chromium, on a stack that takes messages of 8 KiB. argv: base URL, folder
// for screenshots, folder for the profile, path of the browser, API key. Exit 0: it held.
import assert from 'node:assert/strict';
import { connected, enter, join, open, says, shows, tab as newTab, without } from './browser.mjs';

const [base, shots, profile, executablePath, apiKey] = process.argv.slice(2);
const run = Date.now().toString(36);
const room = `chat:limits-${run}`;
const browser = await open(profile, executablePath);
const problems = [];
const tab = (options) => newTab(browser, problems, options);
const shot = (page, name) => page.screenshot({ path: `${shots}/${name}.png` });

async function publish(count) {
  for (let n = 0; n < count; n += 100) {
    const commands = Array.from({ length: Math.min(100, count - n) }, (_, i) => ({ publish: { channel: room, data: { text: `many ${n + i + 1}` } } }));
    const response = await fetch(`${base}/api/batch`, {
      method: 'POST', headers: { 'X-API-Key': apiKey, 'Content-Type': 'application/json' }, body: JSON.stringify({ commands }),
    });
    assert.equal(response.status, 200, await response.text());
  }
}

try {
  const ann = await tab();
  await enter(ann, base, `ann-${run}`);
  await join(ann, room);
  let sockets = 0;
  ann.on('websocket', () => { sockets += 1; });

  // A long text is refused by its size, before it is sent; what the server takes no more of is given up after one try.
  await says(ann, 'x'.repeat(70_000));
  await ann.locator('.message.failed .note', { hasText: /not sent: too long: 70,\d+ bytes, and 65,536 are possible/ }).waitFor();
  assert.equal(sockets, 0);
  await says(ann, 'y'.repeat(20_000));
  await ann.locator('.message.failed .note', { hasText: 'too long for this server' }).waitFor();
  await connected(ann);
  await says(ann, 'still here');
  await shows(ann, 'still here');
  await ann.waitForTimeout(1_500);
  assert.equal(sockets, 1, 'one new connection after 1009, and no more');
  assert.equal(await ann.locator('.message.failed').count(), 2);

  // Why a room was refused stays to be read.
  await join(ann, 'nowhere:x');
  const reason = ann.locator('.marker.bad', { hasText: 'There is no such namespace.' });
  await reason.waitFor();
  await ann.locator('#channel-list button', { hasText: room }).click();
  await reason.waitFor({ state: 'detached' });
  await ann.locator('#channel-list button', { hasText: 'nowhere:x' }).click();
  await reason.waitFor();
  await ann.click('#leave-room');
  await ann.locator('#channel-list button', { hasText: room }).click();

  // Coming and going: of others, and not of another tab of one's own.
  const bob = await tab();
  await enter(bob, base, `bob-${run}`);
  await join(bob, room);
  await ann.locator('.marker', { hasText: `bob-${run} joined` }).waitFor();
  const second = await tab();
  await enter(second, base, `ann-${run}`, 'login');
  await join(second, room);
  await ann.locator('#people-list li', { hasText: '2 tabs' }).waitFor();
  await second.click('#leave-room');
  await ann.locator('#people-list li', { hasText: '2 tabs' }).waitFor({ state: 'detached' });
  await second.close();
  await bob.click('#leave-room');
  await ann.locator('.marker', { hasText: `bob-${run} left` }).waitFor();
  assert.equal(await ann.locator('.marker', { hasText: `ann-${run}` }).count(), 0);

  // New messages while reading further up: a hint, which leads to them. And however many come, the page keeps a bound.
  await publish(100);
  await shows(ann, 'many 100');
  await ann.locator('#messages').evaluate(async (box) => {
    box.scrollTop = box.scrollHeight / 2;
    await new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve, 100)); }); // told of a frame later
  });
  await publish(3);
  await ann.locator('#unseen', { hasText: '↓ 3 new messages' }).waitFor();
  await shot(ann, 'new-messages');
  await ann.click('#unseen');
  await ann.locator('#unseen').waitFor({ state: 'hidden' });
  assert.ok(await ann.locator('#messages').evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight < 2));
  await publish(1_300);
  await ann.locator('.message:not(.pending, .failed)', { hasText: 'many 1300' }).waitFor({ timeout: 60_000 });
  const rows = await ann.locator('#messages').evaluate((box) => box.children.length);
  assert.ok(rows <= 1_200, `${rows} rows`);

  // A phone of 375 px: the whole status, and nothing too small for a finger.
  const phone = await tab({ viewport: { width: 375, height: 700 } });
  await enter(phone, base, `carol-${run}`);
  await without(phone, 'the network of the train is away again');
  await phone.click('#drop');
  await phone.locator('#state-text', { hasText: 'the network of the train is away again' }).waitFor();
  assert.ok(await phone.locator('#state-text').evaluate((text) => text.scrollWidth <= text.clientWidth), 'the status is cut');
  for (const step of ['', '#toggle-frames', '#toggle-people', '#toggle-channels', '#help']) {
    if (step) await phone.click(step);
    await phone.waitForTimeout(250);
    const small = await phone.evaluate(() => [...document.querySelectorAll('button, input, textarea, summary')]
      .filter((one) => one.checkVisibility({ visibilityProperty: true }))
      .map((one) => [one.id || one.textContent, one.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0 && (box.width < 43.9 || box.height < 43.9))
      .map(([name, box]) => `${name}: ${box.width} × ${box.height}`));
    assert.deepEqual(small, [], `too small after ${step || 'the start'}`);
    assert.ok(await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'sticks out');
    await shot(phone, `phone-375${step.replace('#', '-')}`);
    if (step) await phone.keyboard.press('Escape');
    if (step === '#toggle-frames') await phone.click('#frames-close');
  }

  // A token that is none leads back to where one signs in, now and after a reload.
  const dan = await tab();
  await dan.goto(base);
  await dan.click('summary');
  await dan.fill('#token', 'garbage');
  await dan.click('#use-token');
  await dan.locator('#sign-in-error', { hasText: 'The server does not take this token.' }).waitFor();
  assert.equal(await dan.locator('#console').isHidden(), true);
  await dan.reload();
  await dan.locator('#sign-in').waitFor();
  await enter(dan, base, `dan-${run}`);

  assert.deepEqual(problems, []);
} catch (error) {
  console.error(error);
  console.error('problems of the pages:', problems);
  for (const [index, page] of browser.pages().entries()) await shot(page, `limits-failure-${index}`).catch(() => undefined);
  process.exitCode = 1;
} finally {
  await browser.close();
}
