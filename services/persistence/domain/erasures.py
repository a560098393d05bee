"""Erasing in the log: other publications take the place of stored ones.

Purpose. After a delete nobody may get from the platform what was deleted. The log knows nothing of deletes: it is given
offsets and the publications that take their places.

Rules.

* Offset, id, key, flags and counts of a publication stay. There is never a hole, and a repeated write of the former
  publication is a success that brings nothing back.
* The store is first: Redis is filled from the store, never the other way round, except for publications that are not
  readable yet. So if Redis is lost at any step, nobody is brought an item with the flag `ERASES` and what it erases.
* Redis erases readable publications only. So what is in front of such an item becomes readable after the store has
  erased, and before Redis does (`steps`), also what was readable before it was stored (durability `queued`).
* An item with the flag `ERASES` becomes readable after that was done which the resolver says, whatever process makes
  it readable. So whoever reads the item can't read what it erases, also if the process that numbered it has died.
* A Redis that lost an erasure in a crash is known by the number of erasures, which the store counts too, and drops its
  readable entries.
* Where very much is not stored yet, bytes may be left in Redis' memory though nobody can read them; `clean` repeats
  that.

Example. 5 is a message, and 9, which erases 5, is numbered. Once the store has 9, row 5 is replaced, 6 to 8 become
readable if they are not, and entry 5 is replaced. Then 9 becomes readable. If the process dies before, the sweep of
another one asks the resolver what 9 erases, and goes on.

Trade-offs. Between the write of the item and its commit there are two more steps, for such items only. It is not a
part of commit.lua: that would make every channel's commit know of replacements, and the store is to be first anyway.
See docs/decisions/0053.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from services.persistence.domain.ports import HotLog, LogStore, Row, Written
from services.persistence.metrics import ERASED
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import ERASES

logger = logging.getLogger(__name__)

# Says what a row with the flag `ERASES` erases, from the store alone: the row is not readable yet.
Resolver = Callable[[Row], Awaitable[Mapping[int, bytes]]]


class Step(NamedTuple):
    """Up to where rows become readable, and what is erased in Redis then, by offset."""

    upto: int
    publications: dict[int, bytes]


def steps(found: Iterable[tuple[int, Mapping[int, bytes]]]) -> list[Step]:
    """Return the steps by which Redis erases what rows of a channel erase.

    `found`: the offset of each row that erases, ascending, and what it erases. No such row becomes readable before what
    it erases is replaced.
    """
    made: list[Step] = []
    for offset, publications in found:
        if not made or max(publications, default=0) > made[-1].upto:
            made.append(Step(offset - 1, {}))
        made[-1].publications.update(publications)
    return made


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
        if publications:
            await self._erase_in_redis(channel, publications, await self._store.erase(channel, publications))

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
        taken: dict[str, list[Row]] = {}
        for row in rows:
            result = written[row.channel]
            if isinstance(result, Written) and not result.conflict:
                taken.setdefault(row.channel, []).append(row)
        failed: dict[str, Unavailable] = {}
        for channel, some in taken.items():
            try:
                await self.before_readable(channel, epochs[channel], some, incarnation)
            except Unavailable as error:
                failed[channel] = error
        return failed

    async def before_readable(self, channel: str, epoch: str, rows: Sequence[Row], incarnation: str) -> None:
        """Erase what stored rows of a channel erase, before they are made readable.

        Raises:
            Unavailable: nothing more may be made readable now.
        """
        found = [(row.offset, await self._resolved(row)) for row in rows if row.flags & ERASES]
        publications = {offset: one for _, some in found for offset, one in some.items()}
        if not publications:
            return
        number = await self._store.erase(channel, publications)
        for upto, some in steps(found):
            if upto >= rows[0].offset:
                await self._show(channel, epoch, upto, incarnation)
            await self._erase_in_redis(channel, some, number)

    async def clean(self) -> None:
        """Delete the bytes that are left in Redis."""
        for channel, number in list(self._unclean.items()):
            if await self._hot.erase(channel, {}, number) and self._unclean.get(channel) == number:
                del self._unclean[channel]

    async def _erase_in_redis(self, channel: str, publications: Mapping[int, bytes], number: int) -> None:
        """Erase what the store has erased; `number` is what it returned then."""
        if not await self._hot.erase(channel, publications, number):
            self._unclean[channel] = number
        ERASED.inc(len(publications))

    async def _show(self, channel: str, epoch: str, upto: int, incarnation: str) -> None:
        """Make stored rows readable that stand in front of one that erases."""
        (readable,) = await self._hot.commit([(channel, epoch, upto, self._size_of(channel))], incarnation)
        if isinstance(readable, Exception):
            raise Unavailable(str(readable))
        if readable < upto:
            raise Unavailable("the channel changed meanwhile")

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
