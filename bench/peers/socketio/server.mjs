// What both Socket.IO peers do: a token at the connection, rooms, and a publish that is acknowledged once it is sent on.
import jwt from "jsonwebtoken";
import { Server } from "socket.io";

export function serve(http, options) {
  const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, serveClient: false, ...options });
  io.engine.on("connection", (raw) => {
    raw.request = null;
  });
  io.use((socket, next) => {
    try {
      socket.data.user = jwt.verify(socket.handshake.auth.token, process.env.JWT_SECRET, { algorithms: ["HS256"] }).sub;
      next();
    } catch (error) {
      next(error);
    }
  });
  io.on("connection", (socket) => {
    socket.on("sub", async (channel, acknowledge) => {
      await socket.join(channel);
      acknowledge("ok");
    });
    socket.on("pub", (channel, data, acknowledge) => {
      io.to(channel).emit("m", data);
      acknowledge();
    });
  });
  http.listen(Number(process.env.PORT), "127.0.0.1");
}
