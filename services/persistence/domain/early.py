"""Acknowledges publications before they are stored (durability `queued`).

Purpose. A publisher should not wait for the store. Redis has the publication when it is acknowledged, as in `hot`
channels, and the store has it soon after (`draining.py`).

Rules.

* The meta in Redis has `stored`, up to where the store has all, and `shown`, up to where entries are readable. Entries
  between them are neither cut off nor do they expire, and too many of them are refused (`Busy`).
* Only entries that were appended as `queued` become readable before they are stored. If another one is among them, as
  a change of membership, the batch is stored first, with all that is in front of it. So what was appended otherwise is
  acknowledged only once it, and everything before it, is stored.
* Before the first one in a generation of Redis the store notes the generation, and Redis notes that it has. If Redis
  loses something, a later generation begins, and the channel gets another epoch when it is compared with the store:
  subscribers are told, and no position is given twice.
* Each early acknowledgement counts a write in Redis (data-loss fence, see `services/shared/incarnation`). This process
  and the edge know the number, and a Redis that has counted fewer went back.

Example. The store has 1 to 7. Two publications get 8 and 9, become readable and are acknowledged: `stored` is 7,
`shown` 9. A reader of the whole log gets 1 to 7 from the store and 8 and 9 from Redis. Redis is lost: the next
publication is 8 of another epoch.

Trade-offs. What Redis loses before it is stored is lost, usually some milliseconds of publications. Every `queued`
channel that was used since the loss before gets another epoch when Redis lost something, also if it lost nothing of
this channel: what is missing can't be known. See docs/decisions/0062.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.persistence.domain.generations import generation_of
from services.persistence.domain.numbered import Numbered
from services.persistence.domain.outcomes import AppendedPosition, Outcome
from services.persistence.domain.ports import HotLog, LogStore
from services.persistence.domain.sizes import HistorySizes
from services.persistence.metrics import QUEUED
from services.shared.errors import Unavailable

_MAX_NOTED = 200_000  # channels


class EarlyAcknowledgement:
    """Acknowledges numbered publications before they are stored."""

    def __init__(self, hot: HotLog, store: LogStore, sizes: HistorySizes) -> None:
        self._hot, self._store, self._sizes = hot, store, sizes
        self._noted: dict[str, tuple[str, int]] = {}  # channel → generation that the store has noted in an epoch

    async def acknowledge(
        self, numbered: Mapping[str, Numbered], outcomes: list[Outcome], incarnation: str
    ) -> set[str]:
        """Set the outcomes of the requests of these channels, by index.

        Returns the channels that are done. The others must be stored first.

        Raises:
            Unavailable: Redis does not answer.
        """
        noted = await asyncio.gather(
            *(self._note(channel, found.epoch, incarnation) for channel, found in numbered.items())
        )
        shown = [
            (channel, found.epoch, max(abs(offset) for _, offset in found.places), self._sizes.of(channel))
            for (channel, found), is_noted in zip(numbered.items(), noted, strict=True)
            if is_noted
        ]
        done: set[str] = set()
        for (channel, epoch, *_), readable in zip(shown, await self._hot.show(shown, incarnation), strict=True):
            if isinstance(readable, int) and readable < 0:
                continue
            done.add(channel)
            for index, offset in numbered[channel].places:
                if isinstance(readable, Exception):
                    outcomes[index] = Unavailable(str(readable))
                else:
                    outcomes[index] = AppendedPosition(abs(offset), epoch, offset < 0)
                    QUEUED.inc()
        return done

    async def _note(self, channel: str, epoch: str, incarnation: str) -> bool:
        """Have the store note the generation, once an epoch; returns whether it has.

        Redis remembers that, so a process that begins needs no store for it. A store that was restored has noted
        another one, or none.
        """
        generation = generation_of(incarnation)
        if self._noted.get(channel) == (epoch, generation):
            return True
        try:
            if not generation or await self._hot.noted(channel, incarnation) != generation:
                await self._store.note_queued(channel, generation)
                await self._hot.noted(channel, incarnation, generation)
        except Unavailable:
            return False
        if len(self._noted) >= _MAX_NOTED:
            self._noted.clear()
        self._noted[channel] = epoch, generation
        return True
