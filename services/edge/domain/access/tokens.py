"""Verifies connection and subscription tokens and reads their claims.

PyJWT reads the syntax and checks the signature. The order: syntax, header, signature, audience and issuer, kind, time.
The claim `iss` chooses among the keys of external issuers, so there it is read before the signature is checked; it is
believed only afterwards. Source: wire protocol, 9.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from jwt.exceptions import PyJWTError
from jwt.utils import base64url_decode

from services.edge.domain.access.algorithms import ALGORITHMS, HMAC_BYTES, read_header, read_payload
from services.edge.domain.access.caps import Cap, read_caps
from services.edge.domain.access.claims import ConnectionClaims, Override, ServerSub, SubscriptionClaims
from services.edge.domain.access.grants import Grants
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.revocations import Revocations
from services.edge.domain.access.token_log import refused
from services.shared.errors import Unavailable
from services.shared.json_text import InvalidJson, checked_json

_MAX_TOKEN_BYTES = 8_192
_SYNTAX = "it is not three parts of base64url, or its header is not JSON"
_KEYS_RETRY_S = 2.0  # pause until a token is shown again whose keys may come, seconds
_HEADERS_KEPT = 64  # decoded headers in the cache; tokens of one issuer and key have the same header


class _Refused(Exception):
    """A token is rejected.

    `reason` is for the server's log only and is never sent to the client. It holds no values of the token.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__()


class TokenInvalid(_Refused):
    """The token is malformed, not signed with one of our keys, or of the other kind."""


class TokenExpired(_Refused):
    """The token is valid but for its time: it has expired, or `nbf` is in the future."""


class _Flag(msgspec.Struct):
    value: bool


class _Sub(msgspec.Struct):
    info: msgspec.Raw = msgspec.Raw()
    b64info: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    b64data: str | None = None
    override: dict[str, Any] | None = None


class _Payload(msgspec.Struct):
    sub: str | int | None = None
    sid: Any = None
    jti: Any = None
    iat: Any = None
    exp: float | str | None = None
    expire_at: float | str | None = None
    nbf: float | str | None = None
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
    caps: list[Cap] | None = None
    override: dict[str, Any] | None = None


class _Issuer(msgspec.Struct):
    iss: str | None = None


class _Header(NamedTuple):
    alg: str
    kid: str | None


@dataclass(frozen=True, slots=True)
class _Times:
    """Times of a token, in Unix seconds."""

    exp: float | None
    expire_at: float | None
    nbf: float | None


_DECIMAL = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_ISSUERS = msgspec.json.Decoder(_Issuer)
_PAYLOADS = msgspec.json.Decoder(_Payload)


class TokenVerifier:
    """Verifies tokens with the keys of a key ring; the caller passes the time in."""

    def __init__(
        self,
        keyring: KeyRing,
        *,
        audience: str = "",
        issuer: str = "",
        leeway_s: float = 0.0,
        not_before_leeway_s: float = 0.0,
        revocations: Revocations | None = None,
    ) -> None:
        """Create a verifier.

        Args:
            keyring: Keys that are trusted.
            audience: Required `aud` of tokens; empty: any.
            issuer: Required `iss` of tokens that are not of an external issuer; empty: any.
            leeway_s: Seconds by which `exp` may be past and `nbf` in the future.
            not_before_leeway_s: Seconds by which `nbf` may be in the future, if that is more than `leeway_s`.
            revocations: Tokens that are refused.
        """
        self._keyring = keyring
        self._audience = audience
        self._issuer = issuer
        self.leeway_s = leeway_s
        self._revocations = revocations if revocations is not None else Revocations()
        self._not_before_leeway_s = max(leeway_s, not_before_leeway_s)

    @property
    def key_changes(self) -> int:
        """How often keys were replaced: what was verified before may not be good any more."""
        return self._keyring.changes

    def connection(self, token: str, now: float, *, late_s: float = 0.0) -> ConnectionClaims:
        """Return the claims of a connection token. `now` is in Unix seconds.

        `late_s`: a token that expired at most so long ago is returned too, with `is_late`. Whether it is revoked is not
        checked then: the caller must let `Resume` decide.

        Raises:
            TokenInvalid: the token is wrong in some way; the log has the reason.
            TokenExpired: only its time is wrong.
            Unavailable: the keys of auth, or of its issuer, are not known yet.
        """
        with _logged("connection"):
            payload = self._payload(token)
            if payload.channel is not None:
                raise TokenInvalid("it has `channel`: it is a subscription token")
            times = self._times(payload, now, late_s)
            session, token_id, issued_at = self._revocable(payload, now)
            is_late = times.exp is not None and times.exp + self.leeway_s <= now
            if not is_late:
                self._check_revoked(_user(payload), session, token_id, issued_at)
            subs = payload.subs or {}
            channels = {
                name: ServerSub(_json(sub.info, sub.b64info), _json(sub.data, sub.b64data), _override(sub.override))
                for name, sub in subs.items()
            }
            if not channels:
                channels = {name: ServerSub() for name in payload.channels or ()}
            return ConnectionClaims(
                user=_user(payload),
                info=_json(payload.info, payload.b64info),
                expires_at=self._expiry(times, now),
                channels=channels,
                meta=_json(payload.meta, None),
                session=session,
                token=token_id,
                issued_at=issued_at,
                caps=_caps(payload.caps),
                token_expires_at=times.exp,
                is_late=is_late,
            )

    def is_foreign(self, token: str) -> bool:
        """Whether another than auth made a token that was verified.

        That is who has a secret, or an external issuer.
        """
        header, payload, _ = token.split(".")
        issuers = self._keyring.issuers
        return _header(header).alg in HMAC_BYTES or (bool(issuers) and _claimed_issuer(payload) in issuers)

    def subscription(self, token: str, now: float) -> SubscriptionClaims:
        """Return the claims of a subscription token; raise as `connection` does."""
        with _logged("subscription"):
            payload = self._payload(token)
            if not payload.channel:
                raise TokenInvalid("it has no `channel`: it is a connection token")
            times = self._times(payload, now)
            self._check_revoked(_user(payload), *self._revocable(payload, now))
            return SubscriptionClaims(
                user=_user(payload),
                channel=payload.channel,
                client=payload.client or "",
                info=_json(payload.info, payload.b64info),
                data=_json(payload.data, payload.b64data),
                expires_at=self._expiry(times, now),
                override=_override(payload.override),
            )

    def _payload(self, token: str) -> _Payload:
        """Check syntax, signature, audience and issuer, in this order; return the payload."""
        if len(token) > _MAX_TOKEN_BYTES or not token.isascii():
            raise TokenInvalid("it is over 8 KiB, or not ASCII")
        if "=" in token:  # PyJWT takes padding; RFC 7515, 2, does not
            raise TokenInvalid(_SYNTAX)
        keyring = self._keyring
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenInvalid(_SYNTAX)
        try:
            header = _header(parts[0])
            if header.alg not in keyring.algorithms:
                raise TokenInvalid("its `alg` is not in EDGE_TOKEN_ALGORITHMS")
            issuer = _claimed_issuer(parts[1]) if keyring.issuers else None
            body = read_payload(token, header.alg, keyring.keys(header.alg, header.kid, issuer))
        except (PyJWTError, ValueError, msgspec.MsgspecError, RecursionError):
            raise TokenInvalid(_SYNTAX) from None
        if body is None:
            if keyring.may_still_come(header.alg, issuer):
                raise Unavailable("the keys are not known yet", retry_after_s=_KEYS_RETRY_S)
            raise TokenInvalid("its signature is of none of our keys")
        try:
            payload = _PAYLOADS.decode(body)
        except msgspec.ValidationError as error:  # the message names type and claim, not the value
            raise TokenInvalid(f"a claim has the wrong type: {error}") from None
        except (ValueError, msgspec.MsgspecError, RecursionError):
            raise TokenInvalid("its payload is not JSON") from None
        audience = [payload.aud] if isinstance(payload.aud, str) else payload.aud or []
        if self._audience and self._audience not in audience:
            raise TokenInvalid("`aud` is not EDGE_TOKEN_AUDIENCE")
        if keyring.issuers and payload.iss != issuer:
            raise TokenInvalid("`iss` can be read in two ways")
        if self._issuer and payload.iss != self._issuer and payload.iss not in keyring.issuers:
            raise TokenInvalid("`iss` is neither EDGE_TOKEN_ISSUER nor in EDGE_JWKS_URLS")
        return payload

    def _check_revoked(self, user: str, session: str, token: str, issued_at: float | None) -> None:
        if self._revocations.covers(user=user, session=session, token=token, issued_at=issued_at):
            raise TokenInvalid("it is revoked")

    def _revocable(self, payload: _Payload, now: float) -> tuple[str, str, float | None]:
        """Return session, id and time of issue of a token: by these it may be revoked.

        A claim of a wrong type counts as absent, because nobody else reads it. The clock of who signed the token may be
        ahead, and the token would look as if it were issued after a revocation: so it counts as issued by the leeway
        earlier than it says, and when it is shown at the latest.
        """
        issued_at = payload.iat if isinstance(payload.iat, int | float) and not isinstance(payload.iat, bool) else None
        if issued_at is not None:
            issued_at = min(issued_at - self.leeway_s, now)
        return _id(payload.sid), _id(payload.jti), issued_at

    def _times(self, payload: _Payload, now: float, late_s: float = 0.0) -> _Times:
        times = _Times(
            exp=_seconds("exp", payload.exp),
            expire_at=_seconds("expire_at", payload.expire_at),
            nbf=_seconds("nbf", payload.nbf),
        )
        if times.exp is not None and times.exp + self.leeway_s + late_s <= now:
            raise TokenExpired("`exp` is past")
        if times.nbf is not None and times.nbf - self._not_before_leeway_s > now:
            raise TokenExpired("`nbf` is ahead: do the clocks agree?")
        return times

    def _expiry(self, times: _Times, now: float) -> float | None:
        """Return when the connection or subscription expires.

        A token that is accepted only thanks to the leeway expires at the end of the leeway, not at once.
        """
        if times.expire_at is not None:
            return times.expire_at or None
        if times.exp is not None and times.exp <= now:
            return times.exp + self.leeway_s
        return times.exp


@contextlib.contextmanager
def _logged(kind: str) -> Iterator[None]:
    try:
        yield
    except _Refused as error:
        refused(kind, error.reason)
        raise


def _user(payload: _Payload) -> str:
    """Return the claim `sub`. Some libraries write a number: its digits are the id."""
    return str(payload.sub) if isinstance(payload.sub, int) else payload.sub or ""


def _id(value: object) -> str:
    """Return an id as text: a number is its digits, as for `sub`; else empty."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _seconds(claim: str, value: float | str | None) -> float | None:
    """Return a NumericDate claim, which may also be a string of decimal digits."""
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise TokenInvalid(f"`{claim}` is no number")
        return float(value)
    if value is not None and not math.isfinite(value):
        raise TokenInvalid(f"`{claim}` is no number")
    return value


@functools.lru_cache(maxsize=_HEADERS_KEPT)
def _header(segment: str) -> _Header:
    """Read a header and check that it is allowed. Rejected headers are not cached."""
    header = read_header(segment)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenInvalid("its header has no `alg` of those that EDGE_TOKEN_ALGORITHMS may list")
    if any(header.get(name) is not None for name in ("crit", "jku", "x5u", "jwk")):
        raise TokenInvalid("its header has `crit`, `jku`, `x5u` or `jwk`")
    return _Header(algorithm, header.get("kid"))


def _claimed_issuer(segment: str) -> str | None:
    """Return the claim `iss` of a payload whose signature was not checked yet."""
    return _ISSUERS.decode(base64url_decode(segment)).iss


def _json(raw: msgspec.Raw, encoded: str | None) -> bytes:
    """Return the JSON text of a claim such as `info`; empty if there is none.

    `encoded` is the base64 form of the claim (`b64info`); it wins if both are there. Other clients get to see the text,
    so it is checked.
    """
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
        raise TokenInvalid("`info`, `data` or `meta`, or its base64 twin, is no JSON that clients can read") from None
    return b"" if text == b"null" else text.replace(b"\n", b"")


def _caps(found: list[Cap] | None) -> Grants:
    try:
        return read_caps(found or ())
    except ValueError as error:
        raise TokenInvalid(f"`caps`: {error}") from None


def _override(found: dict[str, Any] | None) -> Override:
    try:
        values = {
            name: msgspec.convert(found[name], _Flag).value
            for name in ("presence", "join_leave", "force_push_join_leave", "force_recovery", "force_positioning")
            if found and found.get(name) is not None
        }
    except msgspec.ValidationError:
        raise TokenInvalid("`override` has something else than true or false") from None
    return Override(**values)
