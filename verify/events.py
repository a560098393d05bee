"""What happened, one JSON object a line: the only thing that the judge reads.

`at` is in seconds of one monotonic clock. `id` names a publication: it is its data, made by the plan, never used twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec


class _Event(msgspec.Struct, frozen=True, tag_field="event", tag=str.lower, kw_only=True):
    """One line."""

    at: float


class Started(_Event, frozen=True):
    """The first line. `stored`: these channels must be in the store."""

    seed: int
    what: str
    stored: list[str]


class Publishing(_Event, frozen=True):
    """First attempt of a publication; attempts under its key may follow."""

    id: str
    channel: str
    publisher: str


class Acked(_Event, frozen=True):
    """It is kept, at this place, after so many attempts; the last of them took `took_s`."""

    id: str
    channel: str
    offset: int
    epoch: str
    attempts: int = 1
    took_s: float = 0.0


class Failed(_Event, frozen=True):
    """An attempt that gave no outcome; it is repeated. `code` of the error reply; 0: no answer at all."""

    id: str
    code: int
    took_s: float


class Refused(_Event, frozen=True):
    """The server said no, and that nothing was done."""

    id: str
    code: int


class Unknown(_Event, frozen=True):
    """Nobody knows: it may appear, then for everyone."""

    id: str


class Subscribed(_Event, frozen=True):
    """A subscribe was answered, by `edge`. `since`: asked to recover from there; `offset` and `epoch`: as answered.

    `took_s`: since the client began to connect, or to subscribe on a connection that it had.
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
    """The application of a client saw this. `live`: as a push, not in the reply of a recovery."""

    client: str
    channel: str
    offset: int
    id: str
    live: bool = True


class Handshake(_Event, frozen=True):
    """A client asked for a WebSocket. `status`: 0 without an answer. `retry_after`: it said when to come."""

    client: str
    status: int
    retry_after: bool = False


class Told(_Event, frozen=True):
    """The server said that continuity is lost: unsubscribe push 2500 or close 3010."""

    client: str
    channel: str
    code: int


class Offline(_Event, frozen=True):
    """A connection ended. `code` as the client saw it; `planned`: the plan did it."""

    client: str
    code: int
    planned: bool


class Fault(_Event, frozen=True):
    """A fault was switched on or off."""

    name: str
    on: bool


class Marker(_Event, frozen=True):
    """The last publication of a channel; every subscriber must reach it."""

    id: str
    channel: str


class Kept(_Event, frozen=True):
    """What history holds of a channel at the end: (offset, id), ascending; `whole`: from offset 1 on."""

    channel: str
    epoch: str
    entries: list[tuple[int, str]]
    whole: bool


class Present(_Event, frozen=True):
    """Who is in a channel at the end: as an edge answers, and who really is (client ids)."""

    channel: str
    asked: str
    roster: list[str]
    expected: list[str]


class Finished(_Event, frozen=True):
    """The last line. `subscribers`: (client, channel) that were subscribed when it ended."""

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
    """Writes a history."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._buffer = bytearray()
        self.counts: Counter[str] = Counter()  # by name of the event

    def note(self, event: Event) -> None:
        """Add a line."""
        _encoder.encode_into(event, self._buffer, len(self._buffer))
        self._buffer += b"\n"
        self.counts[type(event).__name__] += 1
        if len(self._buffer) > 1 << 20:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        self._file.write(self._buffer)
        self._buffer.clear()


def read_history(path: Path) -> Iterator[Event]:
    """The events of a file.

    Raises:
        msgspec.MsgspecError: a line is none.
    """
    with path.open("rb") as file:
        for line in file:
            yield _decoder.decode(line)
