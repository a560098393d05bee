// Page and service worker of docs/push.md in headless Chromium. argv: base URL of the page, folder for the profile, path of
// the browser, JSON of switches that name the push service. Prints the subscription, a line of JSON; then, for each line on
// stdin, what the worker has `handled`, or what is `shown`. Ends with stdin.
import { createInterface } from 'node:readline';
import { open } from './browser.mjs';

const [base, profile, executablePath, switches] = process.argv.slice(2);
const browser = await open(profile, executablePath, {
  // The driver turns the part of the browser off that talks to a push service. Names are resolved for nobody: all that
  // the browser may reach is on this machine.
  without: ['--disable-background-networking'],
  switches: [
    '--ignore-certificate-errors', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1', ...JSON.parse(switches),
  ],
});
try {
  await browser.grantPermissions(['notifications'], { origin: base });
  const page = await browser.newPage();
  await page.goto(base);
  console.log(JSON.stringify(await page.evaluate(() => window.subscribed())));
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await page.evaluate(async (what) => {
      if (what === 'handled') return window.handled;
      const shown = await (await navigator.serviceWorker.ready).getNotifications();
      return shown.map(({ title, body, tag, data }) => ({ title, body, tag, data }));
    }, line)));
  }
} finally {
  await browser.close();
}
