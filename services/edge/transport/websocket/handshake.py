"""The WebSocket handshake: reads a request, makes the response. RFC 6455, 4.2."""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from services.edge.domain.connections import Choice, ClientProtocols, HandshakeInfo, HandshakeRejected
from services.edge.transport.http.head import TOKEN, Head
from services.edge.transport.http.refusal import Refused
from services.edge.transport.origins import OriginRules
from services.edge.transport.websocket.deflate import FrameCompressor
from services.edge.transport.websocket.extensions import Compression
from services.shared.process.log_limit import RateLimitedLog

_MAX_QUERY_FIELDS = 64
_MAX_LOGGED = 200  # longest header value in the log, characters
_refused = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)
_KEY = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes in base64
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_TOKENS = re.compile(rf"(?:,[ \t]*+)*+{TOKEN}[ \t]*+(?:,[ \t]*+(?:{TOKEN}[ \t]*+)?)*+")  # a list, RFC 9110, 5.6.1
_RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n"
    b"%b\r\n"
)


@dataclass(frozen=True, slots=True)
class Handshake:
    """An accepted handshake; the connection is open once `response` is written."""

    response: bytes
    choice: Choice
    compressor: FrameCompressor | None = None  # None: no compression was agreed on


def read_handshake(head: Head, peer: str, origins: OriginRules) -> HandshakeInfo:
    """Check a request for a WebSocket endpoint, and return what it says.

    Raises:
        Refused: 405 for another method than GET, 505 for HTTP/1.0, 426 if it asks for no WebSocket or another version
            of it, 400 if it is malformed, 403 if its origin is not allowed.
    """
    _check_upgrade(head)
    origin = _check_origin(head, origins)
    query, ambiguous = _parse_query(head.query)
    return HandshakeInfo(
        peer=peer,
        path=head.path,
        query=query,
        ambiguous=ambiguous,
        offers=head.tokens("sec-websocket-protocol"),
        origin=origin,
        host=head.host,
        authorization=head.all("authorization"),
        cookies=head.all("cookie"),
    )


def accept_handshake(
    head: Head, info: HandshakeInfo, protocols: ClientProtocols, compression: Compression | None
) -> Handshake:
    """Choose the client protocol and, if allowed, compression; make the response.

    Raises:
        Refused: 400 if no client protocol takes the request.
    """
    choice = protocols.choose(info)
    if choice is None:
        raise Refused(400, "protocol", "no client protocol of this server takes the request")
    chosen = b"" if choice.subprotocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % choice.subprotocol.encode()
    compressor = None
    if compression is not None and (agreed := compression.choose(head.all("sec-websocket-extensions"))) is not None:
        chosen += b"Sec-WebSocket-Extensions: %b\r\n" % agreed[0].encode()
        compressor = agreed[1]
    return Handshake(_RESPONSE % (_accept(head.all("sec-websocket-key")[0]), chosen), choice, compressor)


def refusal_of(error: HandshakeRejected) -> Refused:
    """Return the response to a bad credential: 400 for two that differ, else 401.

    RFC 6750, 3.
    """
    if error.conflict:
        return Refused(400, "credentials", str(error))
    challenge = f'WWW-Authenticate: Bearer realm="connection", error="invalid_token", error_description="{error}"'
    return Refused(401, "credentials", str(error), (challenge,))


def _check_upgrade(head: Head) -> None:
    if head.method != "GET":
        raise Refused(405, "method", headers=("Allow: GET",))
    if head.version != (1, 1):
        raise Refused(505, "http_version")
    wanted = [token.lower() for token in head.tokens("upgrade")]
    if wanted != ["websocket"] or "upgrade" not in [token.lower() for token in head.tokens("connection")]:
        raise Refused(426, "no_upgrade", "this is a WebSocket endpoint", ("Upgrade: websocket",))
    if head.has_body:
        raise Refused(400, "handshake_body", "a WebSocket handshake has no body")
    versions = head.all("sec-websocket-version")
    if len(versions) > 1:
        raise _malformed()
    if "13" not in versions:
        raise Refused(426, "websocket_version", headers=("Upgrade: websocket", "Sec-WebSocket-Version: 13"))
    if not all(map(_TOKENS.fullmatch, (*head.all("upgrade"), *head.all("connection")))):
        raise _malformed()
    _check_key(head.all("sec-websocket-key"))


def _check_key(keys: Sequence[str]) -> None:
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise _malformed()


def _accept(key: str) -> bytes:
    """Return the value of Sec-WebSocket-Accept for the key. RFC 6455, 4.2.2."""
    return b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())


def _malformed() -> Refused:
    return Refused(400, "handshake", "the WebSocket handshake is malformed")


def _check_origin(head: Head, rules: OriginRules) -> str | None:
    origins = head.all("origin")
    if len(origins) > 1:
        raise Refused(400, "origin", "there is more than one Origin header")
    origin = origins[0] if origins else None
    if not rules.allows(origin, head.host):
        _log_refused(origin, head.host)
        raise Refused(403, "origin", "this origin is not allowed")
    return origin


def _log_refused(origin: str | None, host: str) -> None:
    if origin is None:
        _refused("a connection without Origin was refused: EDGE_ALLOW_NO_ORIGIN is false")
    else:
        text = "a page of another origin was refused: EDGE_ALLOWED_ORIGINS lists those that may connect"
        _refused(text, origin=origin[:_MAX_LOGGED], host=host[:_MAX_LOGGED])


def _parse_query(query: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the first value of each name, and the names with values that differ."""
    if not query:
        return {}, frozenset()
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError as error:
        raise Refused(400, "query", "the query has too many fields") from error
    found: dict[str, str] = {}
    ambiguous = frozenset(name for name, value in pairs if found.setdefault(name, value) != value)
    return found, ambiguous
