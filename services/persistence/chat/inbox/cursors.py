"""Places in pages of an inbox, and positions of the feed, as texts.

A cursor is base64url of JSON. Nothing in it is a secret, and nothing is trusted: a wrong one is refused, or gives
another page of the same user's inbox.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec
from msgspec import Meta

from services.shared.hotlog import keys

_MAX_PENDING = 10  # conversations; if there are more, all count
_ALL = "*"
_ID = Annotated[str, Meta(pattern=r"^[0-9]{1,20}-[0-9]{1,20}$", max_length=41)]
_SHARDS = Meta(min_length=keys.FEED_SHARDS, max_length=keys.FEED_SHARDS)


class Since(msgspec.Struct, forbid_unknown_fields=True):
    """Where the feed was.

    `life`: generation of Redis. `time`: Unix ms. `pending`: conversations in which something was numbered then and
    could not be read; with `*` there were too many.
    `listed`: since when changes of the user's list may not have been seen, Unix ms.
    """

    life: Annotated[str, Meta(max_length=128)]
    time: Annotated[int, Meta(ge=0)]
    listed: Annotated[int, Meta(ge=0)]
    ids: Annotated[list[_ID], _SHARDS]
    pending: Annotated[list[str], Meta(max_length=_MAX_PENDING)] = []

    def has_pending(self, channel: str) -> bool:
        """Whether something may have become readable without a later entry."""
        return channel in self.pending or _ALL in self.pending

    def with_pending(self, channels: list[str]) -> Since:
        """Return it with these conversations."""
        pending = sorted(channels) if len(channels) <= _MAX_PENDING else [_ALL]
        return Since(self.life, self.time, self.listed, self.ids, pending)

    def is_behind(self, channel: str, entry: str) -> bool:
        """Whether an entry of the feed, of this conversation, came later."""
        return _id(entry) > _id(self.ids[keys.feed_shard(channel)])


class Page(msgspec.Struct, forbid_unknown_fields=True):
    """Where a page begins: behind (`active`, `channel`).

    `now`: where the feed was at the first page. `since`: what the first page was asked for.
    """

    active: int
    channel: str
    now: Since
    since: Since | None = None


_encode = msgspec.json.Encoder().encode
_since = msgspec.json.Decoder(Since).decode
_page = msgspec.json.Decoder(Page).decode


def encoded(cursor: Since | Page) -> str:
    """Return a cursor as a text."""
    return base64.urlsafe_b64encode(_encode(cursor)).rstrip(b"=").decode()


def since_of(text: str) -> Since:
    """Decode what `since` says.

    Raises:
        ValueError: it is none.
    """
    return _since(_bytes(text))


def page_of(text: str) -> Page:
    """Decode what `cursor` says.

    Raises:
        ValueError: it is none.
    """
    return _page(_bytes(text))


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not a cursor") from error


def _id(text: str) -> tuple[int, int]:
    first, _, second = text.partition("-")
    return int(first), int(second)
