"""`ChatStore` in memory: the model that the real ones are compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from services.persistence.chat.devices.ports import Kept
from services.persistence.chat.domain.names import namespace_of
from services.persistence.chat.index.ports import SearchIndex
from services.persistence.chat.ports import Changes, Loaded


@dataclass
class _Kept:
    position: int
    head: bytes
    directory: str | None
    people: dict[str, bytes] = field(default_factory=dict)
    listed: dict[str, bytes] = field(default_factory=dict)
    overlays: dict[int, bytes] = field(default_factory=dict)


class MemoryDeviceStore:
    """`DeviceStore` in dictionaries."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.users: dict[str, str] = {}

    async def devices(self, users: Collection[str]) -> dict[str, Kept]:
        return {user: self.kept[user] for user in users if user in self.kept}

    async def set_devices(self, user: str, expected: str, kept: Kept | None) -> bool:
        if (self.kept[user].version if user in self.kept else "") != expected:
            return False
        if kept is None:
            self.kept.pop(user, None)
        else:
            self.kept[user] = kept
        return True

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        return {address: self.users[address] for address in addresses if address in self.users}

    async def own(self, address: str, user: str) -> str | None:
        before, self.users[address] = self.users.get(address), user
        return before

    async def disown(self, address: str, user: str) -> None:
        if self.users.get(address) == user:
            del self.users[address]


class MemoryChatStore:
    """Keeps everything in dictionaries.

    `failing` is raised by every method while it is set.
    """

    def __init__(self) -> None:
        self.kept: dict[str, _Kept] = {}
        self.devices = MemoryDeviceStore()
        self.search: SearchIndex | None = None
        self.failing: Exception | None = None

    async def load(self, channel: str) -> Loaded | None:
        self._may_fail()
        kept = self.kept.get(channel)
        return Loaded(kept.position, kept.head, dict(kept.people)) if kept else None

    async def overlays(self, channel: str, offsets: Collection[int]) -> dict[int, bytes]:
        self._may_fail()
        kept = self.kept.get(channel)
        return {offset: kept.overlays[offset] for offset in offsets if offset in kept.overlays} if kept else {}

    async def overlays_between(self, channel: str, first: int, last: int) -> dict[int, bytes]:
        self._may_fail()
        kept = self.kept.get(channel)
        return (
            {offset: kept.overlays[offset] for offset in sorted(kept.overlays) if first <= offset <= last}
            if kept
            else {}
        )

    async def apply(self, channel: str, expected: int | None, changes: Changes) -> bool:
        self._may_fail()
        kept = self.kept.get(channel)
        if (kept.position if kept else None) != expected:
            return False
        kept = self.kept.setdefault(channel, _Kept(0, b"", None))
        kept.position, kept.head, kept.directory = changes.position, changes.head, changes.directory
        for mine, changed in ((kept.people, changes.people), (kept.listed, changes.listed)):
            for user, document in changed.items():
                if document is None:
                    mine.pop(user, None)
                else:
                    mine[user] = document
        kept.overlays.update(changes.overlays)
        return True

    async def conversations_of(self, user: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        self._may_fail()
        found = [(channel, kept.listed[user]) for channel, kept in sorted(self.kept.items()) if user in kept.listed]
        return [one for one in found if one[0] > after][:limit]

    async def directory(self, namespace: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, str]]:
        self._may_fail()
        name, _, last = after.rpartition(" ")
        found = sorted(
            (kept.directory, channel)
            for channel, kept in self.kept.items()
            if kept.directory is not None and namespace_of(channel) == namespace
        )
        return [one for one in found if one[0].startswith(prefix) and one > (name, last)][:limit]

    async def drop(self, channel: str, seen: Loaded | None = None) -> None:
        self._may_fail()
        kept = self.kept.get(channel)
        if seen is None or (kept is not None and (kept.position, kept.head) == (seen.position, seen.head)):
            self.kept.pop(channel, None)

    def _may_fail(self) -> None:
        if self.failing is not None:
            raise self.failing
