"""Events of the feed: their kinds, and decoding of the entries of its streams.

An entry of a stream has these fields:

| stream        | fields |
| `feed:{…}`    | `c` channel, `e` epoch, `o` offset, `a` author (user id, or nothing); if the channel counts |
|               | `l` `<flags> <n> <mv>`, as the log has it (services/shared/hotlog) |
| `events:{…}`  | `k` kind, `n` number, `c` channel or nothing (connect, update, disconnect of a user), |
|               | `m` member: serialized `thalamus.common.v1.ClientInfo`, or nothing (occupied, vacated) |
|               | `u` JSON array of users whose membership it may change, or nothing |
| `…gaps:…`     | `r` reason, `s` stream or nothing (all), `n` entries missed or nothing (unknown) |

A hidden entry of a publication has `h` in place of `o`, a hidden gap `g` in place of `r`. It is for readers that ask
for hidden entries; all others, also those of earlier versions, pass it over. Conversations are told this way where
their namespace does not ask for events: see docs/decisions/0059.

The time is part of the entry's id: Unix ms by the clock of Redis. Unknown fields are ignored: later versions may add
some.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from services.shared.json_text import InvalidJson, well_formed_json
from thalamus.common.v1 import common_pb2


class EventType(enum.StrEnum):
    """What an event tells of."""

    PUBLICATION = "publication"  # a publication was committed
    CONNECT = "connect"  # a connection of a user began
    DISCONNECT = "disconnect"  # it ended
    JOIN = "join"  # a client came into a channel's roster
    UPDATE = "update"  # its presence data changed, or the state of a user's connection
    LEAVE = "leave"  # it left the roster
    OCCUPIED = "occupied"  # the roster has its first client
    VACATED = "vacated"  # the last one left
    GAP = "gap"  # events may be missing: look at what the backend follows again


class GapReason(enum.StrEnum):
    """Why events may be missing."""

    NEW = "new"  # the group reads these streams for the first time: nothing from before is told
    TRIMMED = "trimmed"  # the group was too slow: the stream no longer had them
    LOST = "lost"  # Redis may have lost data, or was replaced by an older copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event.

    `id` is unique and stays when the event is told again. `number` grows per channel, or per user if there is no
    channel; that of a publication is its offset, in `epoch`. `time_ms` is Unix ms.

    Of a publication: `flags`, `n` and `mv` are what the log says of it; 0 if the channel does not count. `users`:
    those whose membership of a conversation it may change. `hidden`: its namespace does not ask for events.
    Of a gap: `reason`, `stream` ("": any), and `missed`, the number of entries (None: unknown). It has no number.
    """

    id: str
    type: EventType
    time_ms: int
    number: int = 0
    channel: str = ""
    user: str = ""
    client: str = ""
    epoch: str = ""
    conn_info: bytes = b""
    chan_info: bytes = b""
    reason: str = ""
    stream: str = ""
    missed: int | None = None
    flags: int = 0
    n: int = 0
    mv: int = 0
    users: tuple[str, ...] = ()
    hidden: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `thalamus events` and webhooks tell."""
        if self.type is EventType.GAP:
            found: dict[str, Any] = {"id": self.id, "type": self.type.value, "reason": self.reason}
            found |= {"stream": self.stream} if self.stream else {}
            return found | ({} if self.missed is None else {"missed": self.missed}) | {"time": self.time_ms}
        found = {"id": self.id, "type": self.type.value, "number": self.number}
        for name in ("channel", "epoch", "user", "client"):
            if value := getattr(self, name):
                found[name] = value
        for name in ("conn_info", "chan_info"):
            if (value := _json(getattr(self, name))) is not None:
                found[name] = value
        return found | {"time": self.time_ms}


_users = msgspec.json.Decoder(list[str]).decode


def _json(text: bytes) -> msgspec.Raw | None:
    """The text as it is; None if there is none, or it is not JSON."""
    try:
        return msgspec.Raw(well_formed_json(text)) if text else None
    except InvalidJson:
        return None


def decode(stream: str, entry_id: str, fields: Mapping[bytes, bytes], *, hidden: bool = False) -> Event | None:
    """Decode an entry of a stream.

    Args:
        stream: The stream's name in ids of events: `feed3`, `events3` or `gaps.<group>`.
        entry_id: The entry's id in Redis.
        fields: Its fields.
        hidden: Whether hidden entries are decoded, too.

    Returns:
        The event; None if this version does not know its kind, or can't read it.
    """
    name = f"{stream}-{entry_id}"
    try:
        if b"r" in fields or (hidden and b"g" in fields):
            return _gap(name, fields)
        is_publication = b"o" in fields or (hidden and b"h" in fields)
        return _publication(name, fields) if is_publication else _lifecycle(name, fields)
    except (KeyError, ValueError, DecodeError):
        return None


def _time_ms(name: str) -> int:
    return int(name.rsplit("-", 2)[1])


def _gap(name: str, fields: Mapping[bytes, bytes]) -> Event:
    missed = fields.get(b"n", b"")
    return Event(
        id=name,
        type=EventType.GAP,
        time_ms=_time_ms(name),
        reason=(fields.get(b"r") or fields[b"g"]).decode(),
        hidden=b"g" in fields,
        stream=fields.get(b"s", b"").decode(),
        missed=int(missed) if missed else None,
    )


def _publication(name: str, fields: Mapping[bytes, bytes]) -> Event:
    flags, n, mv = map(int, fields.get(b"l", b"0 0 0").split())
    hidden = b"h" in fields
    return Event(
        id=name,
        type=EventType.PUBLICATION,
        time_ms=_time_ms(name),
        number=int(fields[b"h" if hidden else b"o"]),
        channel=fields[b"c"].decode(),
        user=fields.get(b"a", b"").decode(),
        epoch=fields[b"e"].decode(),
        flags=flags,
        n=n,
        mv=mv,
        users=tuple(_users(fields[b"u"])) if b"u" in fields else (),
        hidden=hidden,
    )


def _lifecycle(name: str, fields: Mapping[bytes, bytes]) -> Event:
    member = common_pb2.ClientInfo.FromString(fields.get(b"m", b""))
    return Event(
        id=name,
        type=EventType(fields[b"k"].decode()),
        time_ms=_time_ms(name),
        number=int(fields[b"n"]),
        channel=fields.get(b"c", b"").decode(),
        user=member.user,
        client=member.client,
        conn_info=member.conn_info,
        chan_info=member.chan_info,
    )
