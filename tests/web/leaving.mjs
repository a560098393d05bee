// What others see of a tab that is loaded again, and of one that is closed, in headless Chromium. argv: base URL, folder for
// the profile, path of the browser. Exit 0: it held.
import assert from 'node:assert/strict';
import { connected, enter, join, open, tab as newTab } from './browser.mjs';

const [base, profile, executablePath] = process.argv.slice(2);
const run = Date.now().toString(36);
const room = `chat:leaving-${run}`;
const browser = await open(profile, executablePath);
const problems = [];
const marker = (page, text) => page.locator('.marker', { hasText: text });

try {
  const ann = await newTab(browser, problems);
  await enter(ann, base, `ann-${run}`);
  await join(ann, room);
  const bob = await newTab(browser, problems);
  await enter(bob, base, `bob-${run}`);
  await join(bob, room);
  await marker(ann, `bob-${run} joined`).waitFor();

  await bob.reload();
  await connected(bob);
  await bob.locator('#room-name', { hasText: room }).waitFor();
  await ann.waitForTimeout(3_500);
  assert.equal(await marker(ann, `bob-${run} left`).count(), 0, 'a reload was seen as a leave');
  assert.equal(await marker(ann, `bob-${run} joined`).count(), 1, 'a reload was seen as a join');

  const began = Date.now();
  await bob.close();
  await marker(ann, `bob-${run} left`).first().waitFor({ timeout: 5_000 });
  assert.ok(Date.now() - began <= 3_500, `a closed tab left after ${Date.now() - began} ms`);
  // Both of his clients are told of: the one that ann knows, and the one since the reload.
  await ann.waitForTimeout(1_000);
  assert.equal(await marker(ann, `bob-${run} left`).count(), 1, 'who left was shown to leave twice');
  assert.equal(await ann.textContent('#people-count'), '1');
  assert.deepEqual(problems, []);
} finally {
  await browser.close();
}
