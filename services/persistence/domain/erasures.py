"""Erasing in the log: other publications take the place of stored ones.

Purpose. After a delete nobody may get from the platform what was deleted. The log knows nothing of deletes: it is given
offsets and the publications that take their places.

Rules.

* Offset, id, key, flags and counts of a publication stay. There is never a hole, and a repeated write of the former
  publication is a success that brings nothing back.
* Only readable publications are erased. The store is first: Redis is filled from the store, never the other way round,
  except for publications that are not readable yet.
* What is in front of an item with the flag `ERASES` becomes readable before that erases (`in_front`). So it is erased
  in Redis, too, also what was readable before it was stored (durability `queued`).
* An item with the flag `ERASES` becomes readable after that was done which the resolver says, whatever process makes
  it readable. So whoever reads the item can't read what it erases, also if the process that numbered it has died.
* A Redis that lost an erasure in a crash is known by the number of erasures, which the store counts too, and drops its
  readable entries.
* Where very much is not stored yet, bytes may be left in Redis' memory though nobody can read them; `clean` repeats
  that.

Example. 5 is a message, and 9, which erases 5, is numbered. Once the store has 9, row 5 is replaced, then entry 5. Then
9 becomes readable. If the process dies before, the sweep of another one asks the resolver what 9 erases, and goes on.

Trade-offs. Between the write of the item and its commit there are two more steps, for such items only. It is not a
part of commit.lua: that would make every channel's commit know of replacements, and the store is to be first anyway.
See docs/decisions/0053.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from services.persistence.domain.ports import HotLog, LogStore, Row, Written
from services.persistence.metrics import ERASED
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import ERASES

logger = logging.getLogger(__name__)

# Says what a row with the flag `ERASES` erases, from the store alone: the row is not readable yet.
Resolver = Callable[[Row], Awaitable[Mapping[int, bytes]]]


def in_front(rows: Iterable[Row]) -> dict[str, int]:
    """Return up to which offset rows stand in front of the first one that erases.

    By channel, where there is such a row and anything in front of it. Rows of a channel are ascending.
    """
    firsts: dict[str, int] = {}
    found: dict[str, int] = {}
    for row in rows:
        first = firsts.setdefault(row.channel, row.offset)
        if row.flags & ERASES and row.offset > first and row.channel not in found:
            found[row.channel] = row.offset - 1
        elif row.flags & ERASES:
            found.setdefault(row.channel, 0)
    return {channel: upto for channel, upto in found.items() if upto}


class Erasures:
    """Erases publications in the store and in Redis.

    Methods raise `Unavailable` if Redis or the store does not answer; repeating is safe.
    """

    def __init__(self, hot: HotLog, store: LogStore, size_of: Callable[[str], int]) -> None:
        """Create it; `size_of` returns how many publications Redis keeps of a channel."""
        self._hot, self._store, self._size_of = hot, store, size_of
        self.resolve: Resolver | None = None
        self._unclean: dict[str, int] = {}  # channels with bytes left in Redis → their number of erasures

    async def erase(self, channel: str, publications: Mapping[int, bytes]) -> None:
        """Put other publications in the place of readable ones, by offset."""
        if not publications:
            return
        number = await self._store.erase(channel, publications)
        if not await self._hot.erase(channel, publications, number):
            self._unclean[channel] = number
        ERASED.inc(len(publications))

    async def before_commit(
        self,
        rows: Sequence[Row],
        written: Mapping[str, Written | Unavailable],
        epochs: Mapping[str, str],
        incarnation: str,
    ) -> dict[str, Unavailable]:
        """Erase what rows of a batch erase, as far as the store has taken them.

        `epochs`: by channel. `incarnation`: in which they were numbered. Returns the channels of which nothing more may
        be made readable, with the reason.
        """
        taken = {channel for channel, one in written.items() if isinstance(one, Written) and not one.conflict}
        await self._show_in_front([row for row in rows if row.channel in taken], epochs, incarnation)
        erased: dict[str, dict[int, bytes]] = {}
        failed: dict[str, Unavailable] = {}
        for row in rows:
            if not row.flags & ERASES:
                continue
            if row.channel not in taken:
                continue
            try:
                found = await self._resolved(row)
            except Unavailable as error:
                failed[row.channel] = error
                continue
            erased.setdefault(row.channel, {}).update(found)
        for channel, publications in erased.items():
            try:
                await self.erase(channel, publications)
            except Unavailable as error:
                failed[channel] = error
        return failed

    async def before_readable(self, channel: str, epoch: str, rows: Sequence[Row], incarnation: str) -> None:
        """Erase what stored rows of other processes erase, before they are made readable."""
        await self._show_in_front(rows, {channel: epoch}, incarnation)
        publications: dict[int, bytes] = {}
        for row in rows:
            if row.flags & ERASES:
                publications |= await self._resolved(row)
        await self.erase(channel, publications)

    async def clean(self) -> None:
        """Delete the bytes that are left in Redis."""
        for channel, number in list(self._unclean.items()):
            if await self._hot.erase(channel, {}, number) and self._unclean.get(channel) == number:
                del self._unclean[channel]

    async def _show_in_front(self, rows: Iterable[Row], epochs: Mapping[str, str], incarnation: str) -> None:
        """Make readable what is in front of rows that erase.

        If it fails, so does the commit of the rows.
        """
        commits = [(channel, epochs[channel], upto, self._size_of(channel)) for channel, upto in in_front(rows).items()]
        if commits:
            await self._hot.commit(commits, incarnation)

    async def _resolved(self, row: Row) -> Mapping[int, bytes]:
        if self.resolve is None:
            return {}
        try:
            return await self.resolve(row)
        except Unavailable:
            raise
        except Exception:  # it must not keep the channel unreadable for ever
            logger.exception("it is not known what a publication erases", extra={"offset": row.offset})
            return {}
