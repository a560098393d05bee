"""One connection of the Centrifugal protocol, in any of its encodings.

Wire protocol, 1 to 4.
"""

from __future__ import annotations

from services.edge.domain.commands import Command
from services.edge.domain.connections import Connection, Identity, Pings
from services.edge.domain.ends import End, EndReason
from services.edge.domain.replies import ConnectResult, Result
from services.edge.domain.session.session import Session
from services.edge.protocols.base import ClientProtocol, Host
from services.edge.protocols.centrifugal.close_codes import close_code
from services.edge.protocols.centrifugal.codec import PONG, Codec, Pong

_NO_PINGS = Pings(0, 0)


class CentrifugalConnection(ClientProtocol):
    """A client that speaks the Centrifugal protocol.

    Args:
        websocket_ping: The client wants WebSocket pings instead of those of the protocol.
        identity: Who the client is, by its handshake.
    """

    __slots__ = ("_codec", "_websocket_ping")

    def __init__(
        self,
        host: Host,
        connection: Connection,
        codec: Codec,
        *,
        websocket_ping: bool = False,
        identity: Identity | None = None,
    ) -> None:
        settings = host.node.settings
        super().__init__(host, connection, codec, Pings(settings.ping_interval_s, settings.pong_timeout_s), identity)
        self._codec = codec
        self._websocket_ping = websocket_ping

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Take one message: pongs at once, and the commands in their order."""
        session = self.session
        if session is None or session.is_over:
            return
        found = self._codec.decode(payload, binary=binary)
        if PONG in found:
            self._submit_with_pongs(session, found)
        else:
            session.submit(found)  # type: ignore[arg-type]  # a cast costs a call for every message

    def _submit_with_pongs(self, session: Session, found: list[Command | Pong]) -> None:
        """Take the pongs, which do not wait behind slow commands, then the commands."""
        commands = [one for one in found if isinstance(one, Command)]
        for _ in range(len(found) - len(commands)):
            if not session.pong():
                session.disconnect(EndReason.BAD_REQUEST)
                return
        session.submit(commands)

    def control(self, *, pong: bool) -> None:
        """Take a WebSocket pong; unsolicited ones are allowed (RFC 6455, 5.5.3)."""
        if pong and self._websocket_ping and self.session is not None:
            self.session.pong()

    def close_code(self, end: End) -> tuple[int, str]:
        """Return code and text of the close frame. Wire protocol, 8.2."""
        return close_code(end)

    def encode_reply(self, command_id: int, result: Result) -> bytes:
        """Return the reply to a command as a frame; that to connect announces the pings."""
        if type(result) is ConnectResult:
            return self._codec.connected(command_id, result, _NO_PINGS if self._websocket_ping else self.pings)
        return self._codec.reply(command_id, result)

    def ping(self) -> None:
        """Send a ping, as a WebSocket ping frame if the client asked for those."""
        if self._websocket_ping:
            self.connection.send_websocket_ping()
        else:
            self.connection.send(self._codec.ping_frame)
