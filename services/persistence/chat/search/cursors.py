"""Cursors of searches: behind which place a page begins."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec

from services.persistence.chat.index.ports import Place


class Cursor(msgspec.Struct, forbid_unknown_fields=True):
    """The last place of a page, and what the first page was asked.

    `best`: by score. `upto`: nothing newer is shown, Unix ms.
    """

    score: float
    time: Annotated[int, msgspec.Meta(ge=0)]
    channel: Annotated[str, msgspec.Meta(max_length=1_024)]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    best: bool
    upto: int

    @property
    def place(self) -> Place:
        """The last place of the page."""
        return Place(-self.score, -self.time, self.channel, -self.offset)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Cursor).decode


def encoded(place: Place, *, best: bool, upto: int) -> str:
    """Return the cursor behind a place as a text."""
    cursor = Cursor(abs(place.goodness), place.time_ms, place.channel, place.offset, best, upto)
    return base64.urlsafe_b64encode(_encode(cursor)).rstrip(b"=").decode()


def decoded(text: str) -> Cursor:
    """Decode a cursor.

    Raises:
        ValueError: it is none.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not a cursor") from error
    return _decode(data)
