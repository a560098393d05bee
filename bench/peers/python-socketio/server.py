"""python-socketio with its Redis manager, WebSocket only, on uvicorn and uvloop."""

from __future__ import annotations

import os

import jwt
import socketio

server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(os.environ["REDIS_URL"]),
    transports=["websocket"],
    http_compression=False,
)
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict[str, object], auth: dict[str, str]) -> bool:
    """Only with a token."""
    try:
        jwt.decode(auth["token"], os.environ["JWT_SECRET"], algorithms=["HS256"])
    except jwt.PyJWTError:
        return False
    return True


@server.on("sub")
async def subscribe(sid: str, channel: str) -> str:
    """Enter a room."""
    await server.enter_room(sid, channel)
    return "ok"


@server.on("pub")
async def publish(sid: str, channel: str, data: object) -> None:
    """Acknowledged once Redis has it."""
    await server.emit("m", data, room=channel)
