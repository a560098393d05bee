"""Events of a history, one JSON object per line. The judge reads nothing else.

`at` is seconds of one monotonic clock. `id` names a publication: it is part of its data and never used twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec


class _Event(msgspec.Struct, frozen=True, tag_field="event", tag=str.lower, kw_only=True):
    """One event: one line of the history."""

    at: float


class Started(_Event, frozen=True):
    """The first event. The publications of `stored` channels must be in the store."""

    seed: int
    what: str
    stored: list[str]


class Publishing(_Event, frozen=True):
    """First attempt of a publication. Further attempts use the same idempotency key."""

    id: str
    channel: str
    publisher: str


class Acked(_Event, frozen=True):
    """A publication was acknowledged at this position.

    `attempts` counts all attempts; the last one took `took_s`.
    """

    id: str
    channel: str
    offset: int
    epoch: str
    attempts: int = 1
    took_s: float = 0.0


class Failed(_Event, frozen=True):
    """An attempt without a known outcome, which is repeated.

    `code` of the error reply; 0: no response at all.
    """

    id: str
    code: int
    took_s: float


class Refused(_Event, frozen=True):
    """The server refused a publication, so nothing was done."""

    id: str
    code: int


class Unknown(_Event, frozen=True):
    """The outcome stays unknown: the publication may appear, but then for everyone."""

    id: str


class Subscribed(_Event, frozen=True):
    """A subscribe was answered by `edge`, with this `offset` and `epoch`.

    `since`: the position from which recovery was asked for. `took_s`: seconds since the client began to connect, or to
    subscribe on a connection that it had.
    """

    client: str
    channel: str
    offset: int
    epoch: str
    edge: str = ""
    took_s: float = 0.0
    recovered: bool = False
    since: tuple[int, str] | None = None


class Delivered(_Event, frozen=True):
    """A client's application got this publication.

    `live`: as a push, not in the reply of a recovery.
    """

    client: str
    channel: str
    offset: int
    id: str
    live: bool = True


class Handshake(_Event, frozen=True):
    """A client asked for a WebSocket.

    `status` is 0 if there was no response. `retry_after`: the response said when to come again.
    """

    client: str
    status: int
    retry_after: bool = False


class Told(_Event, frozen=True):
    """A gap notification: the server said that continuity is lost.

    By unsubscribe push 2500 or close 3010.
    """

    client: str
    channel: str
    code: int


class Offline(_Event, frozen=True):
    """A connection ended. `code` as the client saw it; `planned`: by the plan."""

    client: str
    code: int
    planned: bool


class Fault(_Event, frozen=True):
    """A fault was switched on or off."""

    name: str
    on: bool


class Marker(_Event, frozen=True):
    """The last publication of a channel. Every subscriber must reach it."""

    id: str
    channel: str


class Kept(_Event, frozen=True):
    """The history of a channel at the end: (offset, id) pairs, ascending.

    `whole`: it begins at offset 1.
    """

    channel: str
    epoch: str
    entries: list[tuple[int, str]]
    whole: bool


class Present(_Event, frozen=True):
    """Client ids in a channel at the end: as an edge says (`roster`), and in fact."""

    channel: str
    asked: str
    roster: list[str]
    expected: list[str]


class Finished(_Event, frozen=True):
    """The last event, with the (client, channel) pairs subscribed at the end."""

    subscribers: list[tuple[str, str]]


Event = (
    Started
    | Publishing
    | Acked
    | Failed
    | Refused
    | Unknown
    | Handshake
    | Subscribed
    | Delivered
    | Told
    | Offline
    | Fault
    | Marker
    | Kept
    | Present
    | Finished
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class Recorder:
    """Writes events to a history file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._buffer = bytearray()
        self.counts: Counter[str] = Counter()  # events by name of their class

    def note(self, event: Event) -> None:
        """Append an event."""
        _encoder.encode_into(event, self._buffer, len(self._buffer))
        self._buffer += b"\n"
        self.counts[type(event).__name__] += 1
        if len(self._buffer) > 1 << 20:
            self.flush()

    def flush(self) -> None:
        """Write the buffered events to the file."""
        self._file.write(self._buffer)
        self._buffer.clear()


def read_history(path: Path) -> Iterator[Event]:
    """Iterate over the events of a history file.

    Raises:
        msgspec.MsgspecError: a line is not an event.
    """
    with path.open("rb") as file:
        for line in file:
            yield _decoder.decode(line)
