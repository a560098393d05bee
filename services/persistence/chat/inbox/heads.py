"""What inboxes show of a conversation, at one position of its log.

A head is kept as JSON. Fields are only added. `next_head` takes in rows of the log without the conversation itself, as
far as that can be exact: None says that it can't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import Content, Message, Phase, Type
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, GRANTS
from thalamus.common.v1 import common_pb2

PREVIEW = 140  # characters of a text
ACTIVE = COUNTS | CHANGES_MEMBERSHIP | GRANTS  # flags of events by which inboxes are ordered
_parse = common_pb2.Publication.FromString


class Last(msgspec.Struct, omit_defaults=True):
    """The newest message that is not deleted and in no thread.

    `attachments`: how many. `rev`: the offset of its last edit, or its own.
    """

    offset: int
    author: str
    time: int  # Unix ms
    text: str = ""
    attachments: int = 0
    rev: int = 0


class Head(msgspec.Struct, omit_defaults=True):
    """A conversation, as inboxes show it.

    `active`: time of the newest message that counts, or event about members or the conversation, Unix ms. `counted`:
    offset of the newest message that counts, or is in a thread: such a one may mention somebody. `users`: of a direct
    conversation. `fed`: id of the entry of the feed that told of `position`; "": not known.
    """

    epoch: str
    position: int
    phase: Phase
    type: Type
    name: str = ""
    n: int = 0
    mv: int = 0
    active: int = 0
    counted: int = 0
    last: Last | None = None
    users: list[str] = []
    fed: str = ""


class TailRow(NamedTuple):
    """A row of the log behind a head; `n` and `mv` as of this row."""

    offset: int
    publication: bytes
    flags: int
    n: int
    mv: int


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Head).decode


def next_head(head: Head, rows: Iterable[TailRow]) -> Head | None:
    """Return the head behind these rows, which follow it without a hole.

    None: they have something that the conversation itself must be asked about.
    """
    position, n, mv, active, counted, last = head.position, head.n, head.mv, head.active, head.counted, head.last
    for row in rows:
        if row.offset != position + 1:
            return None
        one = _parse(row.publication)
        event = events.read(one.data)
        match event:
            case events.Message():
                if event.erased:  # what it says now stands elsewhere
                    return None
                if event.thread is not None:
                    counted = row.offset
                else:
                    last = last_of(row.offset, one.info.user, one.time_ms, event)
            case events.Edit() if last is None or event.of != last.offset:
                pass
            case events.Reaction() | events.Pin() | events.Custom() | None:
                pass
            case _:  # also a message that was erased already
                return None
        position, n, mv = row.offset, row.n, row.mv
        if row.flags & COUNTS:
            counted = row.offset
        if row.flags & ACTIVE:
            active = max(active, one.time_ms)
    return replace(head, position=position, n=n, mv=mv, active=active, counted=counted, last=last, fed="")


def last_of(offset: int, author: str, time_ms: int, message: Message | events.Message) -> Last:
    """Return what is shown of a message."""
    content: Content | events.Message = message.content if isinstance(message, Message) else message
    rev = message.rev if isinstance(message, Message) else offset
    return Last(offset, author, time_ms, content.text[:PREVIEW], len(content.attachments), rev)
