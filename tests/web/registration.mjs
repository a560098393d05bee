// What the sign-in form offers, in headless Chromium. argv: base URL, who may register (invite or closed), a code that is good
// or an empty text, folder for the profile, path of the browser. Exit 0: it held.
import assert from 'node:assert/strict';
import { connected, enter, open, tab } from './browser.mjs';

const [base, who, code, profile, executablePath] = process.argv.slice(2);
const name = `user-${Date.now().toString(36)}`;
const browser = await open(profile, executablePath);
const problems = [];

try {
  const page = await tab(browser, problems);
  await page.goto(base);
  const register = page.locator('#register');
  const invite = page.locator('#invite');
  if (who === 'closed') {
    await register.waitFor({ state: 'hidden' });
    assert.ok(await page.locator('#log-in').isVisible());
    assert.ok(!(await invite.isVisible()));
  } else {
    await invite.waitFor();
    await page.fill('#username', name);
    await page.fill('#password', 'correct horse battery');
    for (const wrong of ['', 'thi_wrong']) {
      await page.fill('#invite', wrong);
      await register.click();
      await page.locator('#sign-in-error', { hasText: 'invite that is good' }).waitFor();
    }
    await page.fill('#invite', ` ${code} `);
    await register.click();
    await connected(page);
    await Promise.all([page.waitForEvent('load'), page.click('#log-out')]); // it loads the page again
    await enter(page, base, name, 'login'); // no code is needed any more
  }
  assert.deepEqual(problems, []);
} finally {
  await browser.close();
}
