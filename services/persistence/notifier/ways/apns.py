"""Way out to Apple's service, with a key that signs tokens (`aioapns`).

`aioapns` speaks HTTP/2 and renews the token. It waits without an end for an answer that never comes, or that is an
error without a reason, so the time is bounded here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
from pathlib import Path
from typing import Any

import jwt
import msgspec
from aioapns import APNs, NotificationRequest, PushType

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.ports import Note
from services.persistence.webhooks.http import Answer, Outcome
from services.shared.process.config import ConfigError

_COLLAPSE_BYTES = 64  # longest collapse id
_GONE = frozenset({"BadDeviceToken", "Unregistered", "ExpiredToken"})
_AGAIN = frozenset({"408", "429", "500", "502", "503", "504"})
_RENEWED = frozenset({"ExpiredProviderToken", "TooManyProviderTokenUpdates"})
_RETRY_S = 10.0  # after 429 and 503: Apple says no time
_MAX_BYTES = 3_500  # of the text; Apple takes 4,096

logging.getLogger("aioapns").setLevel(logging.CRITICAL)  # it logs tokens of devices


class ApnsWay:
    """`Way` to APNs."""

    platform = "apns"

    def __init__(
        self,
        key_file: Path,
        key_id: str,
        team_id: str,
        topic: str,
        *,
        sandbox: bool = False,
        server: tuple[str, int] | None = None,
        context: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        concurrency: int = 16,
    ) -> None:
        """Read the key.

        Args:
            key_file: The `.p8` file of the key.
            key_id: Its id.
            team_id: Of the developer account.
            topic: Bundle id of the application.
            sandbox: For builds of developers.
            server: Host and port, if it is not Apple's.
            context: Of TLS; None: the usual authorities.
            timeout_s: Seconds until an answer must be complete.
            concurrency: Requests at the same time.

        Raises:
            ConfigError: the file can't be used.
        """
        try:
            key = key_file.read_text(encoding="ascii")
            jwt.encode({}, key, algorithm="ES256")
        except OSError as error:
            raise ConfigError(f"[apns] key_file: can't read {key_file}: {error.strerror}") from error
        except (ValueError, jwt.PyJWTError):
            raise ConfigError(f"[apns] key_file: {key_file} is no private key of P-256") from None
        self._arguments: dict[str, Any] = {
            "key": key,
            "key_id": key_id,
            "team_id": team_id,
            "topic": topic,
            "use_sandbox": sandbox,
            "max_connections": 2,
            "max_connection_attempts": 1,
            "ssl_context": context,
        }
        self._server, self._timeout_s, self.concurrency = server, timeout_s, concurrency
        self._client: APNs | None = None

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        if device is None:
            return Answer(Outcome.INVALID, "no device")
        request = NotificationRequest(
            device_token=device.token,
            message=message(note),
            notification_id=request_id,
            priority=10 if note.is_message else 5,
            collapse_key=collapse_id(note.channel),
            push_type=PushType.ALERT if note.is_message else PushType.BACKGROUND,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._apns().send_notification(request)
        except TimeoutError:
            await self._forget()  # whatever is under way there may hang, too
            return Answer(Outcome.TIMEOUT, f"no answer in {self._timeout_s:g} s")
        except Exception as error:  # whatever it is, it was not taken
            return Answer(Outcome.FAILED, f"{type(error).__name__}: {error}"[:200])
        if result.is_successful:
            return Answer(Outcome.TAKEN)
        reason = f"status {result.status} {result.description or ''}".strip()
        if result.description in _GONE:
            return Answer(Outcome.GONE, reason)
        if result.description in _RENEWED or result.status in _AGAIN:
            return Answer(Outcome.REFUSED, reason, _RETRY_S if result.status in ("429", "503") else 0.0)
        return Answer(Outcome.INVALID, reason)

    async def close(self) -> None:
        await self._forget()

    def _apns(self) -> APNs:
        """Return the client, which needs a running loop."""
        if self._client is None:
            self._client = APNs(**self._arguments)
            if self._server is not None:
                protocol = self._client.pool.protocol_class
                host, port = self._server
                self._client.pool.protocol_class = type(
                    protocol.__name__, (protocol,), {"APNS_SERVER": host, "APNS_PORT": port}
                )
        return self._client

    async def _forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            for connection in list(client.pool.connections):
                with contextlib.suppress(Exception):
                    connection.close()


def message(note: Note) -> dict[str, Any]:
    """Return the message of APNs; what takes back wakes the application, silently."""
    aps: dict[str, Any] = {"content-available": 1}
    if note.is_message:
        alert = {"title": note.title, "body": note.body}
        aps = {"alert": alert, "sound": "default", "thread-id": note.channel, "mutable-content": 1}
    if note.badge is not None:
        aps["badge"] = note.badge
    made = {"aps": aps, "thalamus": msgspec.to_builtins(note)}
    if note.body and len(msgspec.json.encode(made)) > _MAX_BYTES:
        return message(msgspec.structs.replace(note, body=note.body[: len(note.body) // 2]))
    return made


def collapse_id(channel: str) -> str:
    """Return the key under which a device shows one notification."""
    if len(channel.encode()) <= _COLLAPSE_BYTES:
        return channel
    return hashlib.sha256(channel.encode()).hexdigest()
