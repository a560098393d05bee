"""Way out to a backend of one's own, signed as webhooks are.

There is one for all users: its backend knows how to reach them. Nothing that it answers removes a device.
"""

from __future__ import annotations

import time

import msgspec

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.ports import Answer, Note, Outcome
from services.persistence.notifier.ways import http
from services.shared.webhook_signing import Signer


class WebhookWay:
    """`Way` to a backend."""

    platform = "webhook"

    def __init__(self, url: str, signer: Signer, *, timeout_s: float = 10.0, concurrency: int = 8) -> None:
        """Take the address, and what signs."""
        self._url, self._signer, self._timeout_s = url, signer, timeout_s
        self.concurrency = concurrency
        self._http = http.client(timeout_s=timeout_s, connections=concurrency)

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        body = msgspec.json.encode(note)
        headers = self._signer.headers(request_id, int(time.time()), body.decode())
        headers |= {"Content-Type": "application/json"}
        answer, _, _ = await http.post(self._http, self._url, body, headers, self._timeout_s)
        if answer.outcome in (Outcome.GONE, Outcome.INVALID):  # a backend that is being replaced answers anything
            return Answer(Outcome.REFUSED, answer.error)
        return answer

    async def close(self) -> None:
        await self._http.aclose()
