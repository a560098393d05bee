// Two users chat on the console page in headless Chromium. argv: base URL, folder for screenshots, folder for the profile,
// path of the browser. Exit 0: it held.
import assert from 'node:assert/strict';
import { connected, enter, open, says, shows, tab as newTab, without } from './browser.mjs';

const [base, shots, profile, executablePath] = process.argv.slice(2);
const run = Date.now().toString(36);

const browser = await open(profile, executablePath);
const problems = [];
const tab = (options) => newTab(browser, problems, options);

const shot = (page, name) => page.screenshot({ path: `${shots}/${name}.png` });
const texts = (page) => page.locator('.message .text').allTextContents();

const register = (page, name) => enter(page, base, name);

try {
  const ann = await tab();
  await ann.goto(base);
  await shot(ann, 'sign-in');
  await ann.fill('#username', `nobody-${run}`);
  await ann.fill('#password', 'wrong password');
  await ann.click('#log-in');
  await ann.locator('#sign-in-error', { hasText: 'wrong' }).waitFor();
  await register(ann, `ann-${run}`);

  const room = `chat:room-${run}`;
  const join = async (page) => {
    await page.keyboard.press('Control+j');
    await page.keyboard.type(room);
    await page.keyboard.press('Enter');
    await page.locator('#room-name', { hasText: room }).waitFor();
  };
  await join(ann);
  const bob = await tab({ dark: true });
  await register(bob, `bob-${run}`);
  await join(bob);

  // They see one another, live.
  await ann.locator('#people-list li', { hasText: `bob-${run}` }).waitFor();
  await bob.locator('#people-list li', { hasText: `ann-${run}` }).waitFor();

  // They chat, in one order, each message once; markup is text.
  await says(ann, 'hello <b>bob</b>');
  await shows(bob, 'hello <b>bob</b>');
  await says(bob, 'hello ann');
  await shows(ann, 'hello ann');
  for (let n = 1; n <= 5; n += 1) await says(ann, `line ${n}`);
  await shows(bob, 'line 5');
  await ann.waitForFunction(() => !document.querySelector('.pending'));
  assert.deepEqual(await texts(ann), await texts(bob));
  await shot(ann, 'chat-light');
  await shot(bob, 'chat-dark');

  // A dropped connection recovers what was missed.
  await bob.click('#toggle-frames');
  const heal = await without(bob);
  await bob.click('#drop');
  await bob.locator('#state-text', { hasText: 'reconnecting' }).waitFor();
  await says(ann, 'while bob was away');
  await ann.locator('.message:not(.pending, .failed)', { hasText: 'while bob was away' }).waitFor();
  await heal();
  await bob.locator('.marker', { hasText: 'recovered 1 missed message' }).waitFor();
  await shows(bob, 'while bob was away');
  assert.ok(await bob.locator('#frames-list li').count() > 3);
  await bob.locator('#frames-list summary').last().click();
  await bob.locator('#frames-list pre').first().waitFor();
  await shot(bob, 'recovered-and-frames');

  // A reload recovers too, and shows what was there.
  const before = await texts(bob);
  const reloaded = bob.reload();
  await says(ann, 'during the reload');
  await reloaded;
  await connected(bob);
  await shows(bob, 'during the reload');
  assert.deepEqual(await texts(bob), [...before, 'during the reload']);

  // History is loaded when scrolled up.
  await ann.evaluate(async ([channel]) => {
    const field = document.getElementById('composer-text');
    for (let n = 1; n <= 90; n += 1) {
      field.value = `old ${n} in ${channel}`;
      document.getElementById('composer').requestSubmit();
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }, [room]);
  await shows(bob, 'old 90 in');
  const carol = await tab({ viewport: { width: 360, height: 740 } });
  await register(carol, `carol-${run}`);
  await carol.click('#toggle-channels');
  await carol.fill('#join-name', room);
  await carol.press('#join-name', 'Enter');
  await shows(carol, 'old 90 in');
  assert.ok(await carol.locator('.message').count() <= 60);
  for (let round = 0; round < 10 && !(await carol.locator('.message', { hasText: 'hello <b>bob</b>' }).count()); round += 1) {
    await carol.locator('#messages').evaluate((box) => { box.scrollTop = box.scrollHeight / 2; box.scrollTop = 0; });
    await carol.waitForTimeout(300);
  }
  const all = await texts(carol);
  assert.equal(all[0], 'hello <b>bob</b>');
  assert.equal(new Set(all).size, all.length);

  // A phone's width: nothing sticks out.
  for (const open of ['', '#toggle-people', '#toggle-channels']) {
    if (open) await carol.click(open);
    await carol.waitForTimeout(250);
    const overflow = await carol.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `horizontal overflow of ${overflow} px`);
    await shot(carol, `phone${open.replace('#toggle-', '-')}`);
    if (open) await carol.keyboard.press('Escape');
  }

  // Who leaves is seen leaving.
  await carol.close();
  await ann.locator('#people-list li', { hasText: `carol-${run}` }).waitFor({ state: 'detached' });

  // By keyboard alone.
  await ann.locator('body').press('Escape');
  await ann.focus('#leave-room');
  await ann.keyboard.press('?');
  await ann.locator('#help-dialog[open]').waitFor();
  await shot(ann, 'help');
  await ann.keyboard.press('Escape');
  await ann.keyboard.press('Alt+ArrowUp');
  await ann.locator('#room-name', { hasText: 'chat:lobby' }).waitFor();

  assert.deepEqual(problems, []);
} catch (error) {
  console.error(error);
  console.error('problems of the pages:', problems);
  for (const [index, page] of browser.pages().entries()) await shot(page, `failure-${index}`).catch(() => undefined);
  process.exitCode = 1;
} finally {
  await browser.close();
}
