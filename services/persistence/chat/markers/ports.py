"""What markers need of a store: one record per user and conversation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from services.persistence.chat.markers.record import Record


class Of(NamedTuple):
    """A user in a conversation. `channel` "": the user's own settings."""

    user: str
    channel: str


class MarkerStore(Protocol):
    """Records of users, behind Redis. Several processes may share it.

    Every method raises `Unavailable` if the store can't do it; repeating is safe.
    """

    async def load(self, wanted: Collection[Of]) -> dict[Of, Record]:
        """Return those records that there are, in any order."""

    async def merge(self, records: Sequence[tuple[Of, Record]]) -> None:
        """Merge records into those that are kept (`Record.merged`).

        So a late write of something old changes nothing. Each record is written whole or not at all.
        """

    async def of_user(self, user: str, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        """Return at most `limit` (channel, record) of a user, by channel.

        They come after the channel `after`. Order is that of code points. The user's own settings
        (channel "") are not among them.
        """

    async def forget(self, wanted: Collection[Of]) -> None:
        """Delete records."""
