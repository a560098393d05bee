// What the scripts for the console share: a browser, tabs whose errors count, and what a user does again and again.
import { chromium } from 'playwright-core';

const LIMIT = 40_000; // a busy machine is no failure

// `switches`: more of the command line; `without`: those that the driver would add.
export async function open(profile, executablePath, { switches = [], without: left = [] } = {}) {
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    viewport: { width: 1280, height: 800 },
    ignoreDefaultArgs: left,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
    ].filter((one) => !left.includes(one)).concat(switches),
  });
  browser.setDefaultTimeout(LIMIT);
  return browser;
}

// Errors of the page and of its console go to `problems`; refused requests are none.
export async function tab(browser, problems, options = {}) {
  const page = await browser.newPage();
  if (options.viewport) await page.setViewportSize(options.viewport);
  if (options.dark) await page.emulateMedia({ colorScheme: 'dark' });
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' && !/ERR_|status of 4/.test(message.text())) problems.push(message.text());
  });
  return page;
}

export const connected = (page) => page.waitForSelector('#state[data-state="connected"]');

export const says = async (page, text) => {
  await page.fill('#composer-text', text);
  await page.press('#composer-text', 'Enter');
};

export const shows = (page, text) => page.locator('.message:not(.pending, .failed)', { hasText: text }).waitFor();

export async function enter(page, base, name, how = 'register') {
  await page.goto(base);
  await page.fill('#username', name);
  await page.fill('#password', 'correct horse battery');
  await page.click(how === 'register' ? '#register' : '#log-in');
  await connected(page);
}

export async function join(page, room) {
  await page.keyboard.press('Control+j');
  await page.fill('#join-name', room);
  await page.press('#join-name', 'Enter');
  await page.locator('#room-name', { hasText: room }).waitFor();
}

// From now on no new socket of the page opens; each ends with 1006 and this reason. Returns what ends that.
export async function without(page, reason = '') {
  await page.evaluate((why) => {
    window.realWebSocket ??= window.WebSocket;
    window.WebSocket = class extends EventTarget {
      constructor() {
        super();
        setTimeout(() => {
          const event = new CloseEvent('close', { code: 1006, reason: why });
          this.dispatchEvent(event);
          this.onclose?.(event);
        }, 50);
      }
      send() {}
      close() {}
    };
  }, reason);
  return () => page.evaluate(() => { window.WebSocket = window.realWebSocket; });
}
