"""Way out to a backend of one's own, signed as webhooks are.

There is one for all users: its backend knows how to reach them. Nothing that it answers removes a device.
"""

from __future__ import annotations

import msgspec

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.ports import Note
from services.persistence.webhooks.http import Answer
from services.persistence.webhooks.sender import Sender
from services.shared.webhook_signing import Signer


class WebhookWay:
    """`Way` to a backend."""

    platform = "webhook"

    def __init__(self, url: str, signer: Signer, *, timeout_s: float = 10.0, concurrency: int = 8) -> None:
        """Take the address, and what signs."""
        self.concurrency = concurrency
        self._sender = Sender(url, signer, timeout_s=timeout_s, concurrency=concurrency)

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        return await self._sender.send(request_id, msgspec.json.encode(note).decode())

    async def close(self) -> None:
        await self._sender.aclose()
