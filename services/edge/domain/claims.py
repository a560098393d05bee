"""Connection and subscription tokens: which are believed, and what they say. Wire protocol, 9."""

from __future__ import annotations

import base64
import binascii
import functools
import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.edge.domain.keyring import ALGORITHMS, KeyRing
from services.shared.json_text import InvalidJson, checked_json

_MAX_TOKEN_BYTES = 8_192
_HEADERS_KEPT = 64  # of one issuer all are alike


class TokenInvalid(Exception):
    """Not a token of ours, or not of this kind."""


class TokenExpired(Exception):
    """A token of ours whose time is over, or has not come (`nbf`)."""


@dataclass(frozen=True, slots=True)
class Override:
    """Options of the namespace that a token replaces for its subscription; None: as the namespace says."""

    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_recovery: bool | None = None
    force_positioning: bool | None = None


@dataclass(frozen=True, slots=True)
class ServerSub:
    """A server-side subscription of a connection token; `info` and `data` are JSON texts, empty for none."""

    info: bytes = b""
    data: bytes = b""
    override: Override = field(default_factory=Override)


@dataclass(frozen=True, slots=True)
class ConnectionClaims:
    """`expires_at` in Unix seconds: when the connection expires; None: never. `session`: the `sid`, empty for none."""

    user: str
    info: bytes = b""
    expires_at: float | None = None
    channels: dict[str, ServerSub] = field(default_factory=dict)
    meta: bytes = b""
    session: str = ""


@dataclass(frozen=True, slots=True)
class SubscriptionClaims:
    """`client` is empty unless the token is for one connection."""

    user: str
    channel: str
    client: str = ""
    info: bytes = b""
    data: bytes = b""
    expires_at: float | None = None
    override: Override = field(default_factory=Override)


class _Flag(msgspec.Struct):
    value: bool


class _Sub(msgspec.Struct):
    info: msgspec.Raw = msgspec.Raw()
    b64info: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    override: dict[str, Any] | None = None


class _Payload(msgspec.Struct):
    sub: str | None = None
    sid: Any = None
    exp: float | None = None
    expire_at: float | None = None
    nbf: float | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    channel: str | None = None
    client: str | None = None
    channels: list[str] | None = None
    subs: dict[str, _Sub] | None = None
    info: msgspec.Raw = msgspec.Raw()
    b64info: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    meta: msgspec.Raw = msgspec.Raw()
    override: dict[str, Any] | None = None


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: Any = None
    crit: Any = None
    jku: Any = None
    x5u: Any = None
    jwk: Any = None


_HEADERS = msgspec.json.Decoder(_Header)
_PAYLOADS = msgspec.json.Decoder(_Payload)


class TokenVerifier:
    """Verifies with the keys of the ring; the time is passed in."""

    def __init__(self, keyring: KeyRing, *, audience: str = "", issuer: str = "", leeway_s: float = 0.0) -> None:
        self._keyring = keyring
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s

    def connection(self, token: str, now: float) -> ConnectionClaims:
        """Claims of a connection token.

        Raises:
            TokenInvalid: whatever is wrong with it, without saying what.
            TokenExpired: nothing is wrong with it but the time.
        """
        payload = self._payload(token)
        if payload.channel is not None:
            raise TokenInvalid
        self._check_time(payload, now)
        subs = payload.subs or {}
        channels = {
            name: ServerSub(_json(sub.info, sub.b64info), _json(sub.data, sub.b64data), _override(sub.override))
            for name, sub in subs.items()
        }
        if not channels:
            channels = {name: ServerSub() for name in payload.channels or ()}
        return ConnectionClaims(
            user=payload.sub or "",
            info=_json(payload.info, payload.b64info),
            expires_at=_expiry(payload),
            channels=channels,
            meta=_json(payload.meta, None),
            session=payload.sid if isinstance(payload.sid, str) else "",
        )

    def subscription(self, token: str, now: float) -> SubscriptionClaims:
        """Claims of a subscription token; raises as `connection`."""
        payload = self._payload(token)
        if not payload.channel:
            raise TokenInvalid
        self._check_time(payload, now)
        return SubscriptionClaims(
            user=payload.sub or "",
            channel=payload.channel,
            client=payload.client or "",
            info=_json(payload.info, payload.b64info),
            data=_json(payload.data, payload.b64data),
            expires_at=_expiry(payload),
            override=_override(payload.override),
        )

    def _payload(self, token: str) -> _Payload:
        """Syntax, signature, audience and issuer, in this order."""
        if len(token) > _MAX_TOKEN_BYTES or not token.isascii():
            raise TokenInvalid
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenInvalid
        try:
            header = _header(parts[0])
            signature = _base64(parts[2])
            body = _base64(parts[1])
        except (ValueError, msgspec.MsgspecError, RecursionError):
            raise TokenInvalid from None
        if not self._keyring.verifies(header.alg, header.kid, token[: -len(parts[2]) - 1].encode(), signature):
            raise TokenInvalid
        try:
            payload = _PAYLOADS.decode(body)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            raise TokenInvalid from None
        audience = [payload.aud] if isinstance(payload.aud, str) else payload.aud or []
        if (self._audience and self._audience not in audience) or (self._issuer and payload.iss != self._issuer):
            raise TokenInvalid
        for number in (payload.exp, payload.nbf, payload.expire_at):
            if number is not None and not math.isfinite(number):
                raise TokenInvalid
        return payload

    def _check_time(self, payload: _Payload, now: float) -> None:
        if payload.exp is not None and payload.exp + self._leeway_s <= now:
            raise TokenExpired
        if payload.nbf is not None and payload.nbf - self._leeway_s > now:
            raise TokenExpired


@functools.lru_cache(maxsize=_HEADERS_KEPT)
def _header(text: str) -> _Header:
    """The header, if nothing in it forbids to look further; one that is refused is not kept."""
    header = _HEADERS.decode(_base64(text))
    if header.alg not in ALGORITHMS or any(
        value is not None for value in (header.crit, header.jku, header.x5u, header.jwk)
    ):
        raise TokenInvalid
    return header


def _base64(text: str) -> bytes:
    if "=" in text or "+" in text or "/" in text:
        raise ValueError("not base64url")
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


def _expiry(payload: _Payload) -> float | None:
    if payload.expire_at is not None:
        return payload.expire_at or None
    return payload.exp


def _json(raw: msgspec.Raw, encoded: str | None) -> bytes:
    """The JSON text of `info` or `data`; the base64 twin wins. Others get to see it, so it must be sound."""
    text = bytes(raw)
    if not text and not encoded:
        return b""
    try:
        if encoded:
            text = base64.b64decode(encoded, validate=True)
        if not text:
            return b""
        text = checked_json(text)
    except (binascii.Error, ValueError, InvalidJson):
        raise TokenInvalid from None
    return b"" if text == b"null" else text.replace(b"\n", b"")


def _override(found: dict[str, Any] | None) -> Override:
    try:
        values = {
            name: msgspec.convert(found[name], _Flag).value
            for name in ("presence", "join_leave", "force_push_join_leave", "force_recovery", "force_positioning")
            if found and found.get(name) is not None
        }
    except msgspec.ValidationError:
        raise TokenInvalid from None
    return Override(**values)
