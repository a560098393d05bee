// Takes part in one conversation with centrifuge-js; run by tests/support/participants.py. Same contract as
// participant.py.
import readline from 'node:readline';
import { Centrifuge as Json } from 'centrifuge';
import { Centrifuge as Protobuf } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

const PROTOBUF = process.env.SDK_ENCODING === 'protobuf';
const Centrifuge = PROTOBUF ? Protobuf : Json;
const payload = (value) => (PROTOBUF ? new TextEncoder().encode(JSON.stringify(value)) : value);
const valueOf = (data) => (PROTOBUF ? JSON.parse(new TextDecoder().decode(data)) : data);
const say = (event, more = {}) => process.stdout.write(JSON.stringify({ event, ...more }) + '\n');

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => JSON.parse((await lines.next()).value);

const { url, token, channel } = await next();
const client = new Centrifuge(url, {
  token,
  websocket: WebSocket,
  minReconnectDelay: 20,
  maxReconnectDelay: 200,
});
const subscription = client.newSubscription(channel, { minResubscribeDelay: 20, maxResubscribeDelay: 200 });
subscription.on('publication', ({ offset, data, info, tags }) =>
  say('publication', { pub: { offset, data: valueOf(data), info: { user: info?.user ?? '' }, tags } }),
);
subscription.on('subscribed', ({ wasRecovering, recovered, streamPosition }) =>
  say('subscribed', { was_recovering: wasRecovering, recovered, position: streamPosition }),
);
subscription.on('unsubscribed', ({ code, reason }) => say('unsubscribed', { code, reason }));
subscription.on('error', ({ error }) => say('error', { code: error.code }));
client.connect();
subscription.subscribe();

for (;;) {
  const { do: what, data, method } = await next();
  if (what === 'end') break;
  try {
    if (what === 'publish') {
      await subscription.publish(payload(data));
      say('answer', { result: {} });
    } else {
      const { data: result } = await client.rpc(method, payload(data));
      say('answer', { result: valueOf(result) });
    }
  } catch (error) {
    say('answer', { code: error.code });
  }
}
client.disconnect();
process.exit(0);
