"""Way out to Firebase Cloud Messaging: HTTP v1, with the account of a service.

Requests show an access token, which `access_token.py` renews.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google.auth.exceptions
import msgspec
from google.oauth2 import service_account

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.ports import Note
from services.persistence.notifier.ways.access_token import AccessToken, NoToken
from services.persistence.webhooks import http
from services.persistence.webhooks.http import Answer, Outcome
from services.shared.process.config import ConfigError

URL = "https://fcm.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_UNAUTHORIZED = 401
_NOT_FOUND = (404, 410)


class FcmWay:
    """`Way` to FCM."""

    platform = "fcm"

    def __init__(self, account_file: Path, *, url: str = URL, timeout_s: float = 10.0, concurrency: int = 16) -> None:
        """Read the account.

        Args:
            account_file: JSON of the service account.
            url: Address of FCM.
            timeout_s: Seconds until an answer must be complete.
            concurrency: Requests at the same time.

        Raises:
            ConfigError: the file can't be used.
        """
        try:
            made = service_account.Credentials.from_service_account_file  # it has no types
            credentials: Any = made(str(account_file), scopes=[_SCOPE])  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ConfigError(f"[fcm] account_file: can't read {account_file}: {error.strerror}") from error
        except (ValueError, google.auth.exceptions.GoogleAuthError):
            raise ConfigError(f"[fcm] account_file: {account_file} is no service account") from None
        if not credentials.project_id:
            raise ConfigError(f"[fcm] account_file: {account_file} names no project")
        self._url = f"{url}/v1/projects/{credentials.project_id}/messages:send"
        self._timeout_s, self.concurrency = timeout_s, concurrency
        self._http = http.client(timeout_s=timeout_s, connections=concurrency + 1)  # one for access tokens
        self._token = AccessToken(credentials, self._http, timeout_s)

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        if device is None:
            return Answer(Outcome.INVALID, "no device")
        try:
            token = await self._token.get()
        except NoToken as error:
            return Answer(Outcome.REFUSED, str(error)[:200])
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = msgspec.json.encode({"message": message(note, device.token)})
        answer, status, found = await http.post(self._http, self._url, body, headers, self._timeout_s)
        code = _error_code(found) if answer.outcome is not Outcome.TAKEN else ""
        if status == _UNAUTHORIZED:  # the token was revoked: the next try has another one
            self._token.refused(token)
            return Answer(Outcome.REFUSED, "status 401")
        if code == "UNREGISTERED":
            return Answer(Outcome.GONE, code)
        if status in _NOT_FOUND:  # the project, not the device
            return Answer(Outcome.INVALID, f"status {status} {code}".strip())
        return Answer(answer.outcome, f"{answer.error} {code}".strip(), answer.retry_after_s)

    async def close(self) -> None:
        await self._token.close()
        await self._http.aclose()


def message(note: Note, token: str) -> dict[str, Any]:
    """Return the message of FCM; what takes back has no notification to show."""
    data = {name: _text(value) for name, value in msgspec.to_builtins(note).items() if value is not None}
    android: dict[str, Any] = {"collapse_key": note.channel, "priority": "HIGH" if note.is_message else "NORMAL"}
    made: dict[str, Any] = {"token": token, "data": data, "android": android}
    if note.is_message:
        made["notification"] = {"title": note.title, "body": note.body}
        android["notification"] = {"tag": note.channel}
        if note.badge is not None:
            android["notification"]["notification_count"] = note.badge
    return made


def _text(value: object) -> str:
    """A value of `data`, which has texts alone."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class _Detail(msgspec.Struct, rename="camel"):
    error_code: str = ""


class _Error(msgspec.Struct):
    details: list[_Detail] = []
    status: str = ""


class _Refusal(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


def _error_code(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Refusal).error
    except msgspec.MsgspecError:
        return ""
    return next((one.error_code for one in error.details if one.error_code), error.status)
