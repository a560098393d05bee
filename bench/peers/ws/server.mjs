// The plain design: `ws` holds the sockets, a map of channels the members, and Redis carries messages between nodes.
import { Redis } from "ioredis";
import jwt from "jsonwebtoken";
import { WebSocketServer } from "ws";

const PING_EVERY_MS = 25_000;
const publisher = new Redis(process.env.REDIS_URL, { enableAutoPipelining: true });
const subscriber = new Redis(process.env.REDIS_URL);
const channels = new Map();

async function subscribe(socket, channel) {
  let members = channels.get(channel);
  if (!members) {
    members = { sockets: new Set(), heard: subscriber.subscribe(channel) };
    channels.set(channel, members);
  }
  members.sockets.add(socket);
  await members.heard;
  socket.send(`{"subscribed":${JSON.stringify(channel)}}`);
}

async function publish(socket, { id, pub, data }) {
  await publisher.publish(pub, JSON.stringify({ channel: pub, data }));
  socket.send(`{"ack":${id}}`);
}

subscriber.on("message", (channel, text) => {
  for (const socket of channels.get(channel).sockets) socket.send(text);
});

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.env.PORT),
  perMessageDeflate: false,
  clientTracking: true,
});

server.on("connection", (socket, request) => {
  try {
    const token = new URL(request.url, "ws://localhost").searchParams.get("token");
    socket.user = jwt.verify(token, process.env.JWT_SECRET, { algorithms: ["HS256"] }).sub;
  } catch {
    socket.close(1008);
    return;
  }
  socket.alive = true;
  socket.on("pong", () => {
    socket.alive = true;
  });
  socket.on("message", (text) => {
    const message = JSON.parse(text);
    if (message.sub) subscribe(socket, message.sub);
    else publish(socket, message);
  });
  socket.on("close", () => {
    for (const { sockets } of channels.values()) sockets.delete(socket);
  });
});

setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.alive) socket.terminate();
    socket.alive = false;
    socket.ping();
  }
}, PING_EVERY_MS);
