"""Way out to browsers: Web Push, encrypted and signed.

RFC 8030, RFC 8291 (encryption) and RFC 8292 (VAPID).

`pywebpush` encrypts and `py_vapid` signs. The request is our own: the endpoint comes from a user, so redirects are not
followed, private addresses are not called, answers are bounded (`http.py`), and the address is looked at again
(`WEB_PUSH_HOSTS` may have changed since the device was set).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from py_vapid import Vapid02, VapidException
from pywebpush import WebPusher

from services.persistence.chat.devices.device import Device, why_no_endpoint
from services.persistence.notifier.ports import Note
from services.persistence.webhooks import http
from services.persistence.webhooks.http import Answer, Outcome
from services.shared.process.config import ConfigError

_ORIGINS = 1_000  # of which a signature is kept
_VAPID_S = 12 * 3_600  # a signature is good for that time; 24 h at most
_TOPIC_BYTES = 24  # 32 characters of base64url, as many as a topic may have
_MAX_BYTES = 3_000  # of the text; push services take 4,096 of the encrypted one


class WebPushWay:
    """`Way` to browsers."""

    platform = "webpush"

    def __init__(
        self,
        key_file: Path,
        subject: str,
        hosts: Sequence[str],
        *,
        ttl_s: int = 86_400,
        ca_file: Path | None = None,
        timeout_s: float = 10.0,
        concurrency: int = 16,
    ) -> None:
        """Read the key.

        Args:
            key_file: The private key of VAPID, PEM.
            subject: `mailto:` or `https:`, where push services complain.
            hosts: `WEB_PUSH_HOSTS`.
            ttl_s: How long a push service keeps what it can't deliver.
            ca_file: Authority of the push services; None: the usual ones.
            timeout_s: Seconds until an answer must be complete.
            concurrency: Requests at the same time.

        Raises:
            ConfigError: a file can't be used.
        """
        try:
            self._vapid = Vapid02.from_pem(key_file.read_bytes())
            context: Any = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        except OSError as error:
            raise ConfigError(f"[webpush]: can't read a file: {error}") from error
        except (ValueError, VapidException) as error:
            raise ConfigError(f"[webpush] key_file: {key_file} is no private key in PEM") from error
        self._subject, self._hosts, self._ttl_s, self._timeout_s = subject, hosts, ttl_s, timeout_s
        self._servers = [host for host in hosts if ":" in host]
        self.concurrency = concurrency
        self._http = http.client(timeout_s=timeout_s, connections=concurrency, verify=context)
        self._signed: dict[str, tuple[float, str]] = {}  # origin → until when, header

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        if device is None:
            return Answer(Outcome.INVALID, "no device")
        if why := why_no_endpoint(device.endpoint, self._hosts):
            return Answer(Outcome.GONE, f"its address {why}")
        try:
            body, headers = await asyncio.to_thread(self._prepared, note, device)
        except Exception as error:  # keys that were checked when the device was set
            return Answer(Outcome.INVALID, f"can't be encrypted: {type(error).__name__}")
        answer, _, _ = await http.post(
            self._http, device.endpoint, body, headers, self._timeout_s, public_but=self._servers
        )
        return answer

    async def close(self) -> None:
        await self._http.aclose()

    def _prepared(self, note: Note, device: Device) -> tuple[bytes, dict[str, str]]:
        """Return the encrypted body and the headers."""
        subscription = {"endpoint": device.endpoint, "keys": {"p256dh": device.p256dh, "auth": device.auth}}
        encoded = WebPusher(subscription).encode(payload(note), "aes128gcm")
        headers = {
            "Authorization": self._authorization(device.endpoint),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(self._ttl_s),
            "Topic": topic(note.channel),
            "Urgency": "high" if note.is_message else "normal",
        }
        return bytes(encoded["body"]), headers

    def _authorization(self, endpoint: str) -> str:
        """Return the header that says who sends, which holds for an origin."""
        parts = urlsplit(endpoint)
        origin, now = f"{parts.scheme}://{parts.netloc}", time.time()
        until, header = self._signed.get(origin, (0.0, ""))
        if until < now:
            claims = {"aud": origin, "sub": self._subject, "exp": int(now + _VAPID_S)}
            header = str(self._vapid.sign(claims)["Authorization"])
            if len(self._signed) >= _ORIGINS:  # users choose the names
                self._signed.clear()
            self._signed[origin] = (now + _VAPID_S / 2, header)
        return header


def topic(channel: str) -> str:
    """Return the key under which a push service keeps only the newest."""
    digest = hashlib.sha256(channel.encode()).digest()[:_TOPIC_BYTES]
    return base64.urlsafe_b64encode(digest).decode()


def payload(note: Note) -> bytes:
    """Return the text for a service worker, shortened to what push services take."""
    text = msgspec.json.encode(note)
    while len(text) > _MAX_BYTES and note.body:
        note = msgspec.structs.replace(note, body=note.body[: len(note.body) // 2])
        text = msgspec.json.encode(note)
    return text
