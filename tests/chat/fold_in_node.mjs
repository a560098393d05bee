// Folds logs for tests: one log as a line of JSON in, its state and what was void as a line out.
//
// A log is [[offset, author, time in ms, data in base64 or as an object], …].

import { createInterface } from "node:readline";
import { Conversation, apply, view } from "../../clients/js/fold.mjs";

for await (const line of createInterface({ input: process.stdin })) {
  const conversation = new Conversation();
  const voids = JSON.parse(line).map(([offset, author, timeMs, data]) =>
    apply(conversation, { offset, author, timeMs, data: typeof data === "string" ? Buffer.from(data, "base64") : data }),
  );
  process.stdout.write(`${JSON.stringify({ voids, view: view(conversation) })}\n`);
}
