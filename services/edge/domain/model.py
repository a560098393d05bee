"""Values of the edge's domain: publications, positions, clients, control commands.

The values are structs of msgspec, because making one takes a fifth of the time that a dataclass takes. `gc=False` keeps
them out of the garbage collector's scans; it is safe because they are never part of a reference cycle.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

_SMALL_BYTES = 512  # largest `conn_info` and `chan_info` together whose encoded form may be cached


class StreamPosition(NamedTuple):
    """Position in the log of a channel: an offset, and the epoch it belongs to.

    Offsets begin at 1; 0 is the position before the first publication. Offsets of different epochs can't be compared.
    """

    offset: int
    epoch: str


class ClientInfo(msgspec.Struct, frozen=True, gc=False):
    """One client as other clients see it.

    `conn_info` and `chan_info` are payloads from tokens and the server API, so JSON texts. Empty: there is none.
    """

    user: str
    client: str
    conn_info: bytes = b""
    chan_info: bytes = b""

    @property
    def is_small(self) -> bool:
        """Whether the encoded form may be cached: at most 512 bytes of infos."""
        return len(self.conn_info) + len(self.chan_info) <= _SMALL_BYTES


class Publication(msgspec.Struct, gc=False):
    """One message of a channel.

    `offset` is 0 until the log has numbered the message, and stays 0 if it is not kept in a log. `exclude_client` is
    the id of a client that the message is not pushed to. `time_ms` is Unix time in milliseconds. `patch` is what
    encoders with deltas keep here: a base, and the patch that makes `data` of it; neither is part of the message.
    `flags` is set by persistence in conversations: see `Publication` in common.proto.
    """

    data: bytes
    info: ClientInfo | None = None
    tags: dict[str, str] = {}
    id: bytes = b""
    exclude_client: str = ""
    time_ms: int = 0
    offset: int = 0
    patch: tuple[bytes, bytes] | None = None
    flags: int = 0

    @property
    def size(self) -> int:
        """Bytes of the data, the tags and the publisher's client info together."""
        size, info = len(self.data), self.info
        if info is not None:
            size += len(info.user) + len(info.client) + len(info.conn_info) + len(info.chan_info)
        if self.tags:
            size += sum(map(len, self.tags)) + sum(map(len, self.tags.values()))
        return size


class AppendResult(NamedTuple):
    """Outcome of an append: the position of the publication.

    `repeated_key`: an earlier publish used the same idempotency key; the position is that publish's.
    """

    position: StreamPosition
    repeated_key: bool


class HistoryPage(NamedTuple):
    """Publications in the requested order, and the newest readable position."""

    publications: list[Publication]
    top: StreamPosition


ControlCommandId = tuple[int, int]  # Unix milliseconds by the clock of Redis, and a counter within that millisecond


class ControlCommand(NamedTuple):
    """Control command: something that every edge must execute.

    `previous` is the id of the control command before it; (0, 0): there was none.
    """

    id: ControlCommandId
    previous: ControlCommandId
    payload: bytes


class ControlLogPage(NamedTuple):
    """Part of the control log: control commands, oldest first.

    `newest` is the id of the newest command in the whole log. `is_last`: no more commands follow this page.
    """

    commands: list[ControlCommand]
    newest: ControlCommandId
    is_last: bool


class PresenceStats(NamedTuple):
    """Numbers of clients and users in a channel.

    All anonymous clients count as one user.
    """

    num_clients: int
    num_users: int
