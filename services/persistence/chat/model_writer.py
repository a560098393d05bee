"""Writes what changed of a conversation to the read model.

It also tells those who must know.

Rules.

* The read model is written on condition that it is as it was when it was read.
* The store has the log up to there first (`have_stored`), also what was acknowledged before it was stored. Otherwise
  the read model could say what a loss of Redis has taken from the log.
* Lists of users are marked before anything of them changes in the store, and the marks are taken back behind it.
* A deleted conversation is dropped from the store, which forgets who was in it. Its log says that no more either. So
  before the drop all are told who were in it by the conversation in memory or by the read model: a process that was
  behind knows of fewer people.

Example. Bob is added, the read model has it, and the conversation is deleted. A replica that was behind finds a log
without rows, and folds the deletion of a conversation without Bob. The read model knows Bob still.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.persistence.chat.documents import changes_of, live_of
from services.persistence.chat.domain.state import PLATFORM, Phase
from services.persistence.chat.list_watcher import ListWatcher, left
from services.persistence.chat.live import Live
from services.persistence.chat.ports import ChatStore, TooLarge
from services.persistence.chat.unwritten import Changed
from services.persistence.domain.log import Log
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)


class ModelWriter:
    """Writes conversations to the read model; for who holds their locks.

    Every method raises `Unavailable` if the store does not answer.
    """

    def __init__(self, log: Log, store: ChatStore, clock: Callable[[], float]) -> None:
        """Create it; `clock` returns the time of Redis, Unix seconds."""
        self._log, self._store, self._clock = log, store, clock
        self.list_watcher: ListWatcher | None = None

    async def write(self, live: Live) -> bool:
        """Write what changed; return whether the read model was as expected."""
        if live.position == (live.projected or 0) and not live.unwritten:
            return True
        if not await self.learn_gone(live):
            return False
        live.left |= left(live)
        changed = live.unwritten.take(live.state.messages)
        try:
            is_written = await self._write(live, changed)
        except TooLarge:  # readers fold it from the log, however long that takes
            logger.exception("a conversation can't be written", extra={"channel": live.channel})
            live.unwritten.give_back(changed)
            return True
        except BaseException:
            live.unwritten.give_back(changed)
            raise
        return is_written

    async def have_stored(self, channel: str, epoch: str, position: int) -> None:
        """Have the store take the log up to a position.

        Raises:
            Unavailable: it can't now, or the position is lost.
        """
        state = await self._log.have_stored(channel, position)
        if state.epoch != epoch or state.top < position:
            raise Unavailable("the log has another epoch")

    async def learn_gone(self, live: Live) -> bool:
        """If it was deleted, learn who was in it by the read model.

        Return False if the read model has the deletion already.
        """
        if not live.ended_at:
            return True
        loaded = await self._store.load(live.channel)
        if loaded is None:
            return True
        kept = live_of(live.channel, loaded)
        if kept.state.phase is Phase.DELETED and kept.epoch == live.epoch:
            return False
        live.unwritten.gone |= kept.state.members.keys() | kept.state.invited.keys()
        return True

    async def _write(self, live: Live, changed: Changed) -> bool:
        changes = changes_of(live, changed, int(self._clock() * 1_000))
        await self.have_stored(live.channel, live.epoch, changes.position)
        watcher, users, mark = self.list_watcher, changed.people | changed.gone, ""
        if watcher:
            mark = await watcher.changing(live.channel, users, _without_place(live, changed))
        if live.ended_at:  # documents of its messages hold content
            await self._log.remove_history(live.channel, live.ended_at - 1)  # before: readers look at that
            await self._store.drop(live.channel)
            live.projected = None
        is_written = await self._store.apply(live.channel, live.projected, changes)
        if watcher:
            await watcher.changed(mark, users)
        if is_written:
            live.projected, live.ended_at = changes.position, 0
        return is_written


def _without_place(live: Live, changed: Changed) -> set[str]:
    there = live.state.members.keys() | live.state.invited.keys()
    return ((changed.people - there) | changed.gone) - {PLATFORM}
