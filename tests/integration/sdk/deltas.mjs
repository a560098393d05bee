// Applies patches with the decoders of centrifuge-js; run by test_deltas.py.
// stdin: a case per line, [is it text, base, patch] in base 64. stdout: the results in base 64.
import readline from 'node:readline';
import { Centrifuge as Json } from 'centrifuge';
import { Centrifuge as Protobuf } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

const codecOf = (Centrifuge) => new Centrifuge('ws://127.0.0.1:1', { websocket: WebSocket })._codec;
const [json, protobuf] = [codecOf(Json), codecOf(Protobuf)];

for await (const line of readline.createInterface({ input: process.stdin })) {
  const [isText, base, patch] = JSON.parse(line);
  const [before, bytes] = [Buffer.from(base, 'base64'), Buffer.from(patch, 'base64')];
  const pub = { delta: true, data: isText ? bytes.toString() : bytes };
  const { newPrevValue } = (isText ? json : protobuf).applyDeltaIfNeeded(pub, before);
  console.log(Buffer.from(newPrevValue).toString('base64'));
}
