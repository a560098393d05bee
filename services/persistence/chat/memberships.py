"""In which conversations users are members, for edges that tell of a user.

Many edges ask for the same users at about the same time. So a list is read once for all who ask meanwhile, and an
answer is good for a second. It comes from the read model, which may be a second behind; whoever needs more looks again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from services.persistence.chat.documents import is_member
from services.persistence.chat.ports import ChatStore
from services.shared.process.single_flight import SingleFlight

MAX_USERS = 10  # of one question
MAX_CONVERSATIONS = 1_000  # of one user: the first by name
_GOOD_S = 1.0  # seconds since the read began
_MAX_KEPT = 200  # users: at most 200,000 names


class Memberships:
    """The lists that were read in the last second. One per process."""

    def __init__(self, store: ChatStore, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._now = store, now
        self._reads = SingleFlight[list[str]]()
        self._kept: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()  # the oldest first

    async def channels_of(self, users: Sequence[str]) -> list[list[str]]:
        """Return the conversations of each user.

        Raises:
            Unavailable: the store does not answer.
        """
        return await asyncio.gather(*map(self._of, users))

    async def _of(self, user: str) -> list[str]:
        kept = self._kept.get(user)
        if kept is not None and self._now() - kept[0] <= _GOOD_S:
            return kept[1]
        return await self._reads.do(user, lambda: self._read(user))

    async def _read(self, user: str) -> list[str]:
        began = self._now()
        listed = await self._store.conversations_of(user, "", MAX_CONVERSATIONS)
        channels = [channel for channel, document in listed if is_member(document)]
        self._kept[user] = (began, channels)
        self._kept.move_to_end(user)
        while len(self._kept) > _MAX_KEPT or began - next(iter(self._kept.values()))[0] > _GOOD_S:
            self._kept.popitem(last=False)
        return channels
