"""The WebSocket handshake: a request in, the answer and a core that reads frames out. RFC 6455, 4.2."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import parse_qsl

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from services.edge.transport.http_head import Head
from services.edge.transport.options import HandshakeInfo, TransportOptions
from services.edge.transport.origins import OriginRules
from services.edge.transport.refusal import Refused

# The core would log heads and payloads, so tokens, at debug level.
_core_logger = logging.getLogger("services.edge.transport.core")
_core_logger.setLevel(logging.WARNING)

_MAX_QUERY_FIELDS = 64
_CONTROL_FRAME_BYTES = 125
# Subprotocols are ours to choose, and the core refuses an empty offer; extensions there are none.
_NOT_FOR_CORE = ("sec-websocket-protocol", "sec-websocket-extensions", "origin")


@dataclass(frozen=True, slots=True)
class Handshake:
    """A connection that may open once the response is written."""

    response: bytes
    core: ServerProtocol
    info: HandshakeInfo


def open_handshake(head: Head, peer: str, options: TransportOptions, origins: OriginRules) -> Handshake:
    """Check a request for the WebSocket endpoint and choose subprotocol and dialect.

    Raises:
        Refused: 405, 505, 426, 400 or 403; see reliability, B01 to B04.
    """
    _check_upgrade(head)
    origin = _check_origin(head, origins)
    query = _parse_query(head.query)
    subprotocol, dialect = options.select_dialect(head.tokens("sec-websocket-protocol"), query)
    # A control frame may come between the fragments of a message that is nearly as long as allowed.
    limits = (options.max_message_bytes + _CONTROL_FRAME_BYTES, options.max_message_bytes)
    core = ServerProtocol(state=OPEN, max_size=limits, logger=_core_logger)
    headers = Headers([(name, value) for name, value in head.headers if name not in _NOT_FOR_CORE])
    response = core.accept(Request(head.target, headers, head.method, "HTTP/1.1"))
    if response.status_code != 101:
        raise Refused(response.status_code, "handshake", "the WebSocket handshake is malformed")
    if subprotocol is not None:
        response.headers["Sec-WebSocket-Protocol"] = subprotocol
    info = HandshakeInfo(peer=peer, query=query, subprotocol=subprotocol, dialect=dialect, origin=origin)
    return Handshake(response.serialize(), core, info)


def _check_upgrade(head: Head) -> None:
    if head.method != "GET":
        raise Refused(405, "method", headers=("Allow: GET",))
    if head.version != (1, 1):
        raise Refused(505, "http_version")
    wanted = [token.lower() for token in head.tokens("upgrade")]
    if wanted != ["websocket"] or "upgrade" not in [token.lower() for token in head.tokens("connection")]:
        raise Refused(426, "no_upgrade", "this is a WebSocket endpoint", ("Upgrade: websocket",))
    if head.all("content-length") or head.all("transfer-encoding"):
        raise Refused(400, "handshake_body", "a WebSocket handshake has no body")
    versions = head.all("sec-websocket-version")
    if len(versions) > 1:
        raise Refused(400, "handshake", "the WebSocket handshake is malformed")
    if versions != ["13"]:
        raise Refused(426, "websocket_version", headers=("Upgrade: websocket", "Sec-WebSocket-Version: 13"))


def _check_origin(head: Head, rules: OriginRules) -> str | None:
    origins = head.all("origin")
    if len(origins) > 1:
        raise Refused(400, "origin", "there is more than one Origin header")
    origin = origins[0] if origins else None
    if not rules.allows(origin, head.all("host")[0]):
        raise Refused(403, "origin", "this origin is not allowed")
    return origin


def _parse_query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError as error:
        raise Refused(400, "query", "the query has too many fields") from error
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found
