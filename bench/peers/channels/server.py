"""Django Channels on channels_redis, run by uvicorn on uvloop.

The pub/sub layer is the faster of the two of channels_redis.
"""

from __future__ import annotations

import json
import os
from urllib.parse import parse_qs

import jwt
from django.conf import settings

settings.configure(
    SECRET_KEY=os.environ["JWT_SECRET"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    },
)

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402  (needs the settings)
from channels.routing import ProtocolTypeRouter  # noqa: E402


class Chat(AsyncWebsocketConsumer):
    """One client."""

    async def connect(self) -> None:
        """Only with a token."""
        self.rooms: list[str] = []
        try:
            token = parse_qs(self.scope["query_string"].decode())["token"][0]
            jwt.decode(token, os.environ["JWT_SECRET"], algorithms=["HS256"])
        except (KeyError, jwt.PyJWTError):
            await self.close()
            return
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave what was entered."""
        for room in self.rooms:
            await self.channel_layer.group_discard(room, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Subscribe or publish; a publish is acknowledged once Redis has it."""
        message = json.loads(text_data or "{}")
        if "sub" in message:
            room = _room(message["sub"])
            await self.channel_layer.group_add(room, self.channel_name)
            self.rooms.append(room)
            await self.send(text_data=json.dumps({"subscribed": message["sub"]}))
            return
        text = json.dumps({"channel": message["pub"], "data": message["data"]}, separators=(",", ":"))
        await self.channel_layer.group_send(_room(message["pub"]), {"type": "publication", "text": text})
        await self.send(text_data=json.dumps({"ack": message["id"]}))

    async def publication(self, event: dict[str, str]) -> None:
        """Sent to the room."""
        await self.send(text_data=event["text"])


def _room(channel: str) -> str:
    """Groups have no colons in their names."""
    return channel.replace(":", ".")


app = ProtocolTypeRouter({"websocket": Chat.as_asgi()})
