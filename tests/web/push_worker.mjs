// The service worker of docs/push.md in headless Chromium. argv: base URL of its page, folder for the profile, path of the
// browser, the payloads that the platform sent: a message and what takes it back. Exit 0: it showed the one, and took it
// back with the other.
//
// No push service takes part: headless Chromium has none to subscribe at. The browser is given what a push service
// would hand on after decryption, over its own protocol for developers.
import assert from 'node:assert/strict';
import { open } from './browser.mjs';

const [base, profile, executablePath, shown, back] = process.argv.slice(2);
const browser = await open(profile, executablePath);
try {
  await browser.grantPermissions(['notifications'], { origin: base });
  const page = await browser.newPage();
  await page.goto(base);
  const session = await browser.newCDPSession(page);
  const registered = new Promise((resolve) => {
    session.on('ServiceWorker.workerRegistrationUpdated', ({ registrations }) => {
      if (registrations.length) resolve(registrations[0].registrationId);
    });
  });
  await session.send('ServiceWorker.enable');
  await page.evaluate(async () => {
    await navigator.serviceWorker.register('/worker.js');
    await navigator.serviceWorker.ready;
  });
  const registrationId = await registered;
  const deliver = (data) => session.send('ServiceWorker.deliverPushMessage', { origin: base, registrationId, data });
  const notes = () => page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    return (await registration.getNotifications()).map(({ title, body, tag, data }) => ({ title, body, tag, data }));
  });
  const until = async (holds) => {
    for (let n = 0; n < 200; n += 1) {
      const found = await notes();
      if (holds(found)) return found;
      await new Promise((resolve) => { setTimeout(resolve, 100); });
    }
    throw new Error(`notifications: ${JSON.stringify(await notes())}`);
  };

  const note = JSON.parse(shown);
  let tries = 0; // a new worker may lose what comes before the browser has stored it, and no event says when it has
  const [first] = await until((found) => {
    if (found.length === 0 && tries++ % 10 === 0) deliver(shown);
    return found.length === 1;
  });
  assert.deepEqual([first.title, first.body, first.tag], [note.title, note.body, note.channel]);
  await deliver(shown); // a repeat replaces itself
  await deliver(JSON.stringify({ ...JSON.parse(back), id: 'another' })); // not this one
  await until((found) => found.length === 1);
  await deliver(back);
  await until((found) => found.length === 0);
} finally {
  await browser.close();
}
