"""A toy client protocol, lines of text over WebSocket.

The worked example of how to add one.

client              server
CONNECT token       OK               without a token if the handshake has one
SUB news            OK
PUB news hello      OK               or an error: ERR 103 permission denied
                    MSG news 1 hello
PONG                PING
                    BYE slow         then a close frame
"""

from __future__ import annotations

import itertools
from functools import partial

import msgspec

from services.edge.domain import commands as c
from services.edge.domain import replies as r
from services.edge.domain.connections import Choice, Connection, HandshakeInfo, Identity, Pings
from services.edge.domain.ends import End, EndReason
from services.edge.protocols.base import ClientProtocol, Host

_CODES = {EndReason.SLOW: 4001, EndReason.SHUTDOWN: 4002, EndReason.NO_PONG: 4003}
_OTHER_END = 4000
_PINGS = Pings(10, 5)


class Toy:
    """`ProtocolEntry`: serves the path /toy."""

    close_codes = frozenset({*_CODES.values(), _OTHER_END})

    def __init__(self, host: Host, pings: Pings = _PINGS) -> None:
        self._host = host
        self._pings = pings
        self._pushes = Pushes(host)

    def serves(self, path: str) -> bool:
        return path == "/toy"

    def choose(self, info: HandshakeInfo) -> Choice:
        return Choice(partial(self._open, identity=info.identity), max_message_bytes=1_000)

    def _open(self, connection: Connection, identity: Identity | None) -> ToyConnection:
        return ToyConnection(self._host, connection, self._pushes, self._pings, identity)


class Pushes:
    """`Encoder` with words for publications and ends of subscriptions alone."""

    name = "toy"
    keeps_position = True
    carries_bytes = False  # the data of a publication is a JSON string
    delta = None

    def __init__(self, host: Host) -> None:
        self._frame = host.text_frame

    def encode(self, push: r.Push) -> bytes | None:
        if isinstance(push, r.PublicationPush):
            return self._frame(f"MSG {push.channel} {push.publication.offset} {_text(push.publication.data)}".encode())
        if isinstance(push, r.UnsubscribePush):
            return self._frame(f"GONE {push.channel}".encode())
        return None

    def encode_joins(self, pushes: object) -> None:
        return None


class ToyConnection(ClientProtocol):
    """One client. Commands have no ids on the wire.

    Replies come in the order of the commands.
    """

    def __init__(
        self, host: Host, connection: Connection, pushes: Pushes, pings: Pings, identity: Identity | None
    ) -> None:
        super().__init__(host, connection, pushes, pings, identity)
        self._frame = host.text_frame
        self._ids = itertools.count(1)

    def message(self, payload: bytes, *, binary: bool) -> None:
        if self.session is None:
            return
        commands = []
        for line in payload.decode(errors="replace").splitlines():
            if line == "PONG":
                self.session.pong()
            else:
                commands.append(c.Command(next(self._ids), _request(line)))
        self.session.submit(commands)

    def encode_reply(self, command_id: int, result: r.Result) -> bytes:
        words = f"ERR {result.code} {result.message}" if isinstance(result, r.ErrorResult) else "OK"
        return self._frame(words.encode())

    def ping(self) -> None:
        self.connection.send(self._frame(b"PING"))

    def close_code(self, end: End) -> tuple[int, str]:
        code = end.code or _CODES.get(end.reason, _OTHER_END)
        return code, end.text or end.reason.name.lower().replace("_", " ")

    def end(self, end: End) -> int:
        self.connection.send(self._frame(f"BYE {self.close_code(end)[1]}".encode()))
        return super().end(end)


def _request(line: str) -> c.Request:
    match line.split(" ", 2):
        case ["CONNECT", *token]:
            return c.Connect(token="".join(token))
        case ["SUB", channel]:
            return c.Subscribe(channel=channel, join_leave=True)
        case ["PUB", channel, text]:
            return c.Publish(channel=channel, data=msgspec.json.encode(text))
    return c.Malformed(reason="not a line of this protocol")


def _text(data: bytes) -> str:
    """The text of a publication.

    A JSON string without its quotes, other JSON as it is, on one line.
    """
    value = msgspec.json.decode(data)
    return (value if isinstance(value, str) else data.decode()).replace("\n", " ")
