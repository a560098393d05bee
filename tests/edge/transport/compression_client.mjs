// A client of `ws` that sends messages of many sizes to an echo server, compressed, and compares what comes back.
// argv: the address. It prints the extensions that were agreed on.
import { createRequire } from 'node:module';
const require = createRequire(new URL('../../integration/sdk/package.json', import.meta.url));
const WebSocket = require('ws');

const sizes = [0, 1, 20, 255, 256, 300, 5000, 40000];
const line = JSON.stringify({ text: 'größe €', price: 12.5 });
const messages = [];
for (const size of sizes) {
  messages.push(line.repeat(Math.ceil(size / line.length)).slice(0, size));
  messages.push(Buffer.from(Array.from({ length: size }, (_, at) => (at * 7919) % 251)));
}

const client = new WebSocket(process.argv[2], { perMessageDeflate: { threshold: 100 } });
let at = 0;
const fail = (text) => { console.error(text); process.exit(1); };

function send() {
  const message = messages[at];
  if (message.length < 300) return client.send(message);
  const third = Math.floor(message.length / 3);
  const part = (from, to) => (typeof message === 'string' ? message.slice(from, to) : message.subarray(from, to));
  client.send(part(0, third), { fin: false, binary: typeof message !== 'string' });
  client.ping('between');
  client.send(part(third, 2 * third), { fin: false });
  client.send(part(2 * third, message.length), { fin: true });
}

client.on('open', () => { console.log(client.extensions); send(); });
client.on('message', (data, binary) => {
  const sent = messages[at];
  if (binary !== (typeof sent !== 'string') || !Buffer.from(sent).equals(data)) fail(`message ${at} came back changed`);
  at += 1;
  if (at < messages.length) send();
  else client.close(1000);
});
client.on('error', (error) => fail(String(error)));
client.on('close', (code) => { if (code !== 1000) fail(`closed ${code}`); });
