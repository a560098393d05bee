// Searching messages on the console page in headless Chromium. argv: base URL, "on" or "off", folder for screenshots, folder for
// the profile, path of the browser. Exit 0: it held.
import assert from 'node:assert/strict';
import { enter, open, says, shows, tab as newTab } from './browser.mjs';

const [base, is, shots, profile, executablePath] = process.argv.slice(2);
const run = Date.now().toString(36);

const browser = await open(profile, executablePath);
const problems = [];
const tab = () => newTab(browser, problems);
const answered = (page) => page.locator('#frames-list', { hasText: is === 'on' ? '"code":107' : '"code":108' });
const search = async (page, query) => {
  await page.fill('#search-text', query);
  await page.press('#search-text', 'Enter');
};
const found = (page, text) => page.locator('#search-list button', { hasText: text });

try {
  const ann = await tab();
  await enter(ann, base, `ann-${run}`);
  await answered(ann).waitFor({ state: 'attached' });
  if (is === 'off') {
    assert.equal(await ann.locator('#search-form').isVisible(), false);
  } else {
    await ann.locator('#search-form').waitFor();
    const bob = await tab();
    await enter(bob, base, `bob-${run}`);
    await ann.click('#begin');
    await ann.fill('#begin-users', `bob-${run}`);
    await ann.fill('#begin-name', `Lunch ${run}`);
    await ann.click('#begin-submit');
    await ann.locator('#room-name', { hasText: `Lunch ${run}` }).waitFor();
    for (let number = 0; number < 23; number += 1) await says(ann, `Pancakes <b>${number}</b>`);
    await shows(ann, 'Pancakes <b>22</b>');

    // Another user finds them, newest first and page by page, and text stays text.
    await bob.locator('#inbox-list button', { hasText: `Lunch ${run}` }).waitFor();
    await search(bob, 'pancak*');
    await found(bob, 'Pancakes <b>22</b>').waitFor();
    assert.equal(await bob.locator('#search-list button').count(), 20);
    assert.match(await bob.locator('#search-list button').first().textContent(), new RegExp(`<b>22</b>ann-${run} · Lunch ${run} · `));
    await bob.screenshot({ path: `${shots}/search.png` });
    await bob.click('#search-more');
    await found(bob, 'Pancakes <b>0</b>').waitFor();
    assert.equal(await bob.locator('#search-list button').count(), 23);
    assert.equal(await bob.locator('#search-more').isVisible(), false);

    // One that is chosen opens its conversation.
    await found(bob, 'Pancakes <b>22</b>').click();
    await bob.locator('#room-name', { hasText: `Lunch ${run}` }).waitFor();
    await shows(bob, 'Pancakes <b>22</b>');
    assert.equal(await bob.locator('#search-dialog').isVisible(), false);

    // Nothing, what the server refuses, and somebody who is in no conversation.
    await search(bob, 'nobodysaidthis');
    await bob.locator('#search-state', { hasText: 'Nothing was found' }).waitFor();
    await bob.click('#search-close');
    await search(bob, '-pancakes');
    await bob.locator('#search-state.bad').waitFor();
    const eve = await tab();
    await enter(eve, base, `eve-${run}`);
    await search(eve, 'pancakes');
    await eve.locator('#search-state', { hasText: 'Nothing was found' }).waitFor();
    assert.equal(await eve.locator('#search-list button').count(), 0);
  }
  assert.deepEqual(problems, []);
} catch (error) {
  console.error(error);
  console.error('problems of the pages:', problems);
  for (const [index, page] of browser.pages().entries()) await page.screenshot({ path: `${shots}/search-failure-${index}.png` }).catch(() => undefined);
  process.exitCode = 1;
} finally {
  await browser.close();
}
