// Socket.IO 4 with its Redis streams adapter and connection state recovery: the one that can bring what was missed.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { serve } from "./server.mjs";

const client = createClient({ url: process.env.REDIS_URL });
await client.connect();
serve(createServer(), {
  adapter: createAdapter(client),
  connectionStateRecovery: { maxDisconnectionDuration: 2 * 60 * 1000, skipMiddlewares: true },
});
