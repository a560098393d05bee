"""A read model is made again, in the place of the one that is kept.

What is kept is never missing meanwhile: other replicas have only a part of a conversation in memory, and take a message
without a document to be as it was written. So it is made apart, and then replaced by one change. Lists of users are
marked meanwhile: what they say may be another thing than before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from services.persistence.chat.documents import nothing_of
from services.persistence.chat.domain.state import PLATFORM
from services.persistence.chat.list_watcher import ListWatcher
from services.persistence.chat.ports import Changes, ChatStore, Loaded


async def replace(
    store: ChatStore,
    watcher: ListWatcher | None,
    channel: str,
    loaded: Loaded,
    upto: int,
    fold: Callable[[MadeModel], Awaitable[None]],
) -> bool:
    """Replace what is kept of a conversation by what its log says; return whether.

    Not if somebody else has written meanwhile. `watcher` is told of the lists. `loaded`: what is kept. `fold` writes
    the conversation at `upto` or beyond into the model that it is given.

    Raises:
        Unavailable: the store does not answer, or lists must not be written now.
    """
    made = MadeModel()
    await fold(made)
    changes = made.changes
    if changes.position != upto:
        return False
    documents = await store.overlays_between(channel, 1, upto)
    people, listed = dict.fromkeys(loaded.people), dict.fromkeys(loaded.people)
    nothing = dict.fromkeys(documents, nothing_of(changes.position))
    replaced = changes._replace(
        people={**people, **changes.people},
        listed={**listed, **changes.listed},
        overlays={**nothing, **changes.overlays},
    )
    if watcher is None:
        return await store.apply(channel, loaded.position, replaced)
    gone = {user for user, document in replaced.listed.items() if document is None} - {PLATFORM}
    mark = await watcher.changing(channel, replaced.listed.keys(), gone)
    is_replaced = await store.apply(channel, loaded.position, replaced)
    await watcher.changed(mark, replaced.listed.keys())
    return is_replaced


class MadeModel:
    """A `ChatStore` of one conversation in memory; `changes` has all that was written."""

    def __init__(self) -> None:
        self.changes = Changes(0, b"", {}, {}, {})
        self._is_there = False

    async def load(self, _channel: str) -> Loaded | None:
        if not self._is_there:
            return None
        people = {user: document for user, document in self.changes.people.items() if document is not None}
        return Loaded(self.changes.position, self.changes.head, people)

    async def overlays(self, _channel: str, offsets: Collection[int]) -> dict[int, bytes]:
        overlays = self.changes.overlays
        return {offset: overlays[offset] for offset in offsets if offset in overlays}

    async def overlays_between(self, _channel: str, first: int, last: int) -> dict[int, bytes]:
        return {offset: one for offset, one in self.changes.overlays.items() if first <= offset <= last}

    async def apply(self, _channel: str, _expected: int | None, changes: Changes) -> bool:
        before, self._is_there = self.changes, True
        self.changes = changes._replace(
            people={**before.people, **changes.people},
            listed={**before.listed, **changes.listed},
            overlays={**before.overlays, **changes.overlays},
        )
        return True

    async def conversations_of(self, _user: str, _after: str, _limit: int) -> Sequence[tuple[str, bytes]]:
        return []

    async def directory(self, _namespace: str, _prefix: str, _after: str, _limit: int) -> Sequence[tuple[str, str]]:
        return []

    async def drop(self, _channel: str, _seen: Loaded | None = None) -> None:
        self.changes, self._is_there = Changes(0, b"", {}, {}, {}), False
