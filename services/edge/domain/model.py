"""What the edge's rules speak of: publications, positions, members. Values only, no I/O.

Structs of msgspec are made in a fifth of a dataclass's time; the collector need not look at what is in no cycle.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

_SMALL_BYTES = 512


class StreamPosition(NamedTuple):
    """Place in the log of a channel: offset from 1 (0: before the first) and the epoch that counts it."""

    offset: int
    epoch: str


class ClientInfo(msgspec.Struct, frozen=True, gc=False):
    """One client as others see it; `conn_info` and `chan_info` are JSON texts, empty for none."""

    user: str
    client: str
    conn_info: bytes = b""
    chan_info: bytes = b""

    @property
    def is_small(self) -> bool:
        """What is made of it may be kept."""
        return len(self.conn_info) + len(self.chan_info) <= _SMALL_BYTES


class Publication(msgspec.Struct, gc=False):
    """One message. `offset` is 0 while, or where, the log has not numbered it."""

    data: bytes
    info: ClientInfo | None = None
    tags: dict[str, str] = {}
    id: bytes = b""
    exclude_client: str = ""
    time_ms: int = 0
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes of what others see of it: data, tags, and who published it."""
        size, info = len(self.data), self.info
        if info is not None:
            size += len(info.user) + len(info.client) + len(info.conn_info) + len(info.chan_info)
        if self.tags:
            size += sum(map(len, self.tags)) + sum(map(len, self.tags.values()))
        return size


class AppendResult(NamedTuple):
    """Outcome of an append: its position, and whether an earlier publish with that key already had it."""

    position: StreamPosition
    repeated_key: bool


class HistoryPage(NamedTuple):
    """Publications in the order asked for, and the position of the readable top."""

    publications: list[Publication]
    top: StreamPosition


ControlCommandId = tuple[int, int]  # Unix milliseconds by the clock of Redis, and a number within them


class ControlCommand(NamedTuple):
    """What every edge must do. `previous` is the order before it; (0, 0): there was none."""

    id: ControlCommandId
    previous: ControlCommandId
    payload: bytes


class ControlLogPage(NamedTuple):
    """Orders, oldest first, and the newest that is kept; `is_last`: no more follow."""

    orders: list[ControlCommand]
    newest: ControlCommandId
    is_last: bool


class PresenceStats(NamedTuple):
    """Counts of a channel; all anonymous clients are one user."""

    num_clients: int
    num_users: int
