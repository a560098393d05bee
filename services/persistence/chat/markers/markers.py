"""Markers of users: Redis in front, the store behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from services.persistence.chat.markers.kept import Kept, KeptMarkers
from services.persistence.chat.markers.ports import MarkerStore, Of
from services.persistence.chat.markers.record import Marker, Place, Record, UserPreferences, user_preferences_of
from services.shared.errors import Unavailable

_TRIES = 10  # of a change, while other devices of the user change the same


class Page(NamedTuple):
    """Places by channel; `after`: with which to ask for more. None: there are no more."""

    places: list[tuple[str, Place]]
    after: str | None


Away = Callable[[], Awaitable[Collection[str]]]
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

    async def texts(self, user: str, channels: Sequence[str]) -> dict[str, bytes | None]:
        """Return what Redis has of a user, for `read`; one round trip.

        For who needs but some of them, and knows later which.
        """
        return await self._kept.texts(user, channels)

    async def read(self, user: str, texts: Mapping[str, bytes | None]) -> dict[str, Place]:
        """Return the places that `texts` are, as `of_user` does."""
        found = await compared(self._kept, self._store, self._kept.read(user, texts))
        return {of.channel: kept.record.place for of, kept in found.items()}

    async def of_channel(self, channel: str, users: Sequence[str]) -> dict[str, Place]:
        """Return the places of users in a conversation, as `of_user` does."""
        found = await self._records([Of(user, channel) for user in dict.fromkeys(users)])
        return {of.user: kept.record.place for of, kept in found.items()}

    async def merge(self, user: str, channel: str, epoch: str, marker: Marker) -> tuple[Marker, Marker]:
        """Merge a marker of this epoch of the log; return old and new marker.

        The caller has checked the offset.
        """

        old, new = await self.change(user, channel, epoch, lambda record: record.read(marker.offset, marker.generation))
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

    async def user_preferences(self, user: str) -> UserPreferences:
        """Return what a user wants everywhere."""
        return (await self.preferences_of([user]))[user]

    async def preferences_of(self, users: Sequence[str]) -> dict[str, UserPreferences]:
        """Return what users want everywhere."""
        found = await self._records([Of(user, "") for user in dict.fromkeys(users)])
        return {of.user: user_preferences_of(kept.record.settings) for of, kept in found.items()}

    async def keep(self, of: Of) -> None:
        """Have the store keep what Redis has now, as for what nobody would say again."""
        kept = (await self._records([of]))[of]
        await self._store.merge([(of, kept.record)])

    async def page(self, user: str, namespace: str, after: str, limit: int) -> Page:
        """Return places of a user in a namespace, by channel, after the channel `after`.

        At most `limit` are looked at.
        """
        first = f"{namespace}:"
        after = max(after, first)
        stored = [channel for channel, _ in await self._store.of_user(user, after, limit)]
        fields = [one for one in await self._kept.fields(user) if one > after]
        if len(stored) == limit:  # what the store has behind the last one is not known
            fields = [one for one in fields if one <= stored[-1]]
        channels = sorted(one for one in {*stored, *fields} if one.startswith(first))[:limit]
        records = await self._records([Of(user, channel) for channel in channels])
        found = [(of.channel, kept.record) for of, kept in records.items()]
        places = [(channel, one.place) for channel, one in found if one.offset or one.delivered or one.settings]
        return Page(places, channels[-1] if len(channels) == limit else None)

    async def forget(self, wanted: Sequence[Of], away: Away | None = None) -> None:
        """Forget places of users; what Redis has of them, in the store a little later.

        `away`: asks which of these users have left. Whoever has not keeps the place; and what somebody who comes back
        meanwhile writes there stays, as it is not what was read before `away` was asked.
        """
        left = list(dict.fromkeys(wanted))
        for _ in range(_TRIES):
            found = await self._kept.get(left)
            if away is not None:
                users = await away()
                left = [of for of in left if of.user in users]
            if not left:
                return
            await self._store.forget([of for of in left if not found[of].text])
            todo = [(of, found[of]) for of in left if found[of].text and not found[of].forgotten_ms]
            done = await self._kept.forget(todo)
            left = [of for (of, _), is_done in zip(todo, done, strict=True) if not is_done]
        raise Unavailable("markers change all the time")

    async def _records(self, wanted: Collection[Of]) -> dict[Of, Kept]:
        """Return what is kept, compared with the store."""
        return await compared(self._kept, self._store, await self._kept.get(wanted))


async def compared(kept: KeptMarkers, store: MarkerStore, found: dict[Of, Kept]) -> dict[Of, Kept]:
    """Return what Redis has, compared with the store.

    `found`: what was read from Redis.

    Raises:
        Unavailable: Redis or the store does not answer.
    """
    missing = [of for of, one in found.items() if not one.is_new]
    for _ in range(_TRIES):
        if not missing:
            return found
        stored = await store.load(missing)
        await kept.compared([(of, found[of], found[of].record.merged(stored.get(of, Record()))) for of in missing])
        again = await kept.get(missing)
        found |= again
        missing = [of for of in missing if not again[of].is_new]
    raise Unavailable("markers change all the time")
