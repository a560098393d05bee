"""What the chat needs of a store: the read model of conversations.

Everything in it can be made again from the log. `position` below is the offset up to which the log was taken in.
Documents are JSON texts: the store keeps them and does not look into them. User ids and names are any text of Unicode,
as long as a publication may have them; channels have no space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from services.persistence.chat.devices.ports import DeviceStore
from services.persistence.chat.index.ports import SearchIndex


class Loaded(NamedTuple):
    """What the store has of a conversation, at one position."""

    position: int
    head: bytes  # document: phase, type, name, settings, counts
    people: Mapping[str, bytes]  # user → document: role, invitation, ban, silence, purges


class Changes(NamedTuple):
    """What is to be written, all of it or nothing.

    `position`, `head`, `directory`: as they are now, also where they did not change. `position` is not below the one
    that is kept.
    `people`, `listed`: those that change; who is not in them stays as kept. Users whose document is None have none any
    more.
    `listed`: user → a document for that user's list of conversations; None: it leaves the list.
    `directory`: name under which an open conversation can be found by everybody; None: it can't.
    """

    position: int
    head: bytes
    people: Mapping[str, bytes | None]
    listed: Mapping[str, bytes | None]
    overlays: Mapping[int, bytes]  # offset of a message → document: what became of it
    directory: str | None = None


class TooLarge(ValueError):
    """Something is larger than the store can take; a repetition would not help."""


class ChatStore(Protocol):
    """Read model of conversations. Several processes may share it.

    Every method raises `Unavailable` if the store can't do it; repeating is safe. After an `apply` or a `drop` that
    failed this way, all of it may be written, or nothing that `load` shows.
    """

    async def load(self, channel: str) -> Loaded | None:
        """Return what is kept of a conversation; None if there is nothing.

        All of it is as of one position.
        """

    async def overlays(self, channel: str, offsets: Collection[int]) -> dict[int, bytes]:
        """Return the documents of those messages that have one, in any order."""

    async def overlays_between(self, channel: str, first: int, last: int) -> dict[int, bytes]:
        """Return the documents of all messages from `first` to `last`.

        Both are included. Offsets ascend.
        """

    async def apply(self, channel: str, expected: int | None, changes: Changes) -> bool:
        """Write changes if the kept position is `expected`; return whether.

        `expected` None: nothing is kept yet. Of several processes that expect the same position, one gets True, unless
        the change leaves the position as it was.

        More changes than one transaction of the store takes (100 in DynamoDB) are written so that a reader who loads
        meanwhile gets the state before or after, or an overlay that is newer than the position, and never a loss.
        Overlays of a large change that was refused may stay: they are true as of the position of that change. Lists of
        users and the directory may follow a little later.

        Raises:
            TooLarge: in DynamoDB, a document of more than 350 KB after compression, or people and listed of one call
                with more than 3 MB.
        """

    async def conversations_of(self, user: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        """Return at most `limit` (channel, document) of a user's list, by channel.

        After the channel `after`; "": from the first. Order is that of code points.
        """

    async def directory(self, namespace: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return at most `limit` (name, channel) of open conversations.

        They are ordered by name and channel. Their names begin with `prefix`, letter by letter. `after` is a name and a
        channel, as one line with a space; "": from the first. Order is that of code points; in DynamoDB the first
        512 bytes of a name count for it.
        """

    async def drop(self, channel: str, seen: Loaded | None = None) -> None:
        """Forget all of a conversation.

        `seen`: only if position and head are still those. Its overlays are missing from then on. So nobody may read
        messages of it with a state loaded before.
        """


class ChatStores(ChatStore, Protocol):
    """A read model, with what lies beside it in the same place."""

    @property
    def devices(self) -> DeviceStore:
        """The store of devices."""

    @property
    def search(self) -> SearchIndex | None:
        """The index of messages; None: there is none."""
