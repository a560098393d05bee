"""What a row of the log says about who wrote a message, and whom it mentions.

Of most messages neither matters more than the author, and then their JSON is not read: it would take longer than all
else. It is read where a name in it may stand for mentions, or for something erased, also if that is written with
escapes.
"""

from __future__ import annotations

from typing import NamedTuple

from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import Content
from thalamus.common.v1 import common_pb2

_parse = common_pb2.Publication.FromString
_NAMES = b'"mention', b'"erased"', b"\\u"


class Mentions(NamedTuple):
    """Whom a message mentions: some users, and perhaps everybody."""

    users: frozenset[str] = frozenset()
    everybody: bool = False


NOBODY = Mentions()


class Said(NamedTuple):
    """What a message that counts says.

    `unclear_until`: the event at this offset has erased its author or its mentions; 0: all is there.
    """

    author: str
    mentions: Mentions = NOBODY
    is_erased: bool = False
    unclear_until: int = 0


def said_by(publication: bytes) -> Said:
    """Return what the row of a message that counts says."""
    one = _parse(publication)
    author, data = one.info.user, one.data
    if author and not any(name in data for name in _NAMES):
        return Said(author)
    event = events.read(data)
    if isinstance(event, events.Erased):
        return Said("", is_erased=True, unclear_until=event.by)
    if not isinstance(event, events.Message):
        return Said(author)
    return Said(author, mentions_in(event), unclear_until=event.next or 0 if event.erased else 0)


def mentions_in(content: events.Message | events.Edit | Content) -> Mentions:
    """Return whom a content mentions."""
    if not content.mentions and not content.mention_all:
        return NOBODY
    return Mentions(frozenset(content.mentions), content.mention_all)


def is_loud(*, counts: bool, thread: int | None) -> bool:
    """Whether a message may mention anybody: it is not silent."""
    return counts or thread is not None
