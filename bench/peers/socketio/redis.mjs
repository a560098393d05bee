// Socket.IO 4 with its Redis adapter, as its pages on performance have it: WebSocket only, bufferutil, no request kept.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { serve } from "./server.mjs";

const publisher = createClient({ url: process.env.REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);
serve(createServer(), { adapter: createAdapter(publisher, subscriber) });
