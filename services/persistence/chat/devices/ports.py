"""What devices need of a store."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """The devices of a user, as the store has them.

    `version`: random, of the write that made it.
    """

    version: str
    document: bytes


class DeviceStore(Protocol):
    """Keeps a document for each user, and which user an address belongs to.

    An address is any text of at most 128 ASCII characters. Several processes may share the store. Every method raises
    `Unavailable` if the store can't do it; repeating is safe.
    """

    async def devices(self, users: Collection[str]) -> dict[str, Kept]:
        """Return what is kept of those users of whom there is anything."""

    async def set_devices(self, user: str, expected: str, kept: Kept | None) -> bool:
        """Replace what is kept if it has the version `expected` ("": nothing is kept).

        Returns whether it had. None deletes it.
        """

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        """Return the user of each address that has one."""

    async def own(self, address: str, user: str) -> str | None:
        """Give an address to a user; return whose it was until now."""

    async def disown(self, address: str, user: str) -> None:
        """Let an address be nobody's, if it is this user's."""
