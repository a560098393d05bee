"""Markers of users: Redis in front, the store behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from services.persistence.chat.markers.kept import Kept, KeptMarkers
from services.persistence.chat.markers.ports import MarkerStore, Of
from services.persistence.chat.markers.record import Marker, Place, Record
from services.shared.errors import Unavailable

_TRIES = 10  # of a change, while other devices of the user change the same

OnMoved = Callable[[str, str, Marker], None]


class Markers:
    """The markers, as this process reads and moves them.

    Every method raises `Unavailable` if Redis or the store does not answer. What a change returned is in Redis, and in
    the store at most 30 s later.

    Attributes:
        on_moved: called with user, channel and the new marker when this process has moved one.
    """

    def __init__(self, kept: KeptMarkers, store: MarkerStore) -> None:
        self._kept, self._store = kept, store
        self.on_moved: list[OnMoved] = []

    async def of_user(self, user: str, channels: Sequence[str]) -> dict[str, Place]:
        """Return a user's places in conversations; one round trip if Redis has them.

        The offsets are those of `Place.epoch`: use `Place.within`.
        """
        found = await self._records([Of(user, channel) for channel in dict.fromkeys(channels)])
        return {of.channel: kept.record.place for of, kept in found.items()}

    async def of_channel(self, channel: str, users: Sequence[str]) -> dict[str, Place]:
        """Return the places of users in a conversation, as `of_user` does."""
        found = await self._records([Of(user, channel) for user in dict.fromkeys(users)])
        return {of.user: kept.record.place for of, kept in found.items()}

    async def merge(self, user: str, channel: str, epoch: str, marker: Marker) -> tuple[Marker, Marker]:
        """Merge a marker of this epoch of the log; return old and new marker.

        The caller has checked the offset.
        """

        def change(record: Record) -> Record:
            return record.merged(Record(*marker, delivered=marker.offset, epoch=epoch))

        old, new = await self.change(user, channel, epoch, change)
        return old.marker, new.marker

    async def change(
        self, user: str, channel: str, epoch: str, change: Callable[[Record], Record]
    ) -> tuple[Record, Record]:
        """Change a record; return old and new one, as they are in this epoch of the log.

        `change` may be called several times, with what is there within the epoch.
        """
        of = Of(user, channel)
        for _ in range(_TRIES):
            kept = (await self._records([of]))[of]
            old = kept.record.within(epoch)
            new = change(old)
            if new == old:
                return old, new
            if (await self._kept.swap([(of, kept.text, new)], note=True))[0]:
                if new.marker != old.marker:
                    for told in self.on_moved:
                        told(user, channel, new.marker)
                return old, new
        raise Unavailable("other devices of the user change the same all the time")

    async def _records(self, wanted: Collection[Of]) -> dict[Of, Kept]:
        """Return what is kept, compared with the store."""
        found = await self._kept.get(wanted)
        missing = [of for of, kept in found.items() if not kept.is_new]
        for _ in range(_TRIES):
            if not missing:
                return found
            stored = await self._store.load(missing)
            records = {of: found[of].record.merged(stored.get(of, Record())) for of in missing}
            await self._kept.swap([(of, found[of].text, records[of]) for of in missing], note=False)
            again = await self._kept.get(missing)
            found |= again
            missing = [of for of in missing if not again[of].is_new]
        raise Unavailable("markers change all the time")
