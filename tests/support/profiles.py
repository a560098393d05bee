"""Profiles for edges of tests: what an edge sees of auth, without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.edge.domain.user_ports import User
from services.shared.errors import Unavailable


def user_of(user: str, version: int = 1, *, display_name: str = "", hidden: bool = False) -> User:
    return User(
        id=user,
        username=f"name-{user}",
        display_name=display_name or f"{user} {version}",
        avatar_url="",
        status="",
        custom=b"",
        hidden=hidden,
        version=version,
        created_at=1,
        is_disabled=False,
    )


class MemoryProfiles:
    """A `ProfileSource` in a dict.

    `away`: auth does not answer. `calls`: the ids of each call. `hold`: calls answer when it is set, with what was
    there when they began.
    """

    def __init__(self, *users: User) -> None:
        self.users = {user.id: user for user in users}
        self.away = False
        self.calls: list[list[str]] = []
        self.hold: asyncio.Event | None = None

    def put(self, user: User) -> None:
        self.users[user.id] = user

    async def profiles(self, users: Sequence[str]) -> list[User]:
        self.calls.append(list(users))
        if self.away:
            raise Unavailable("auth is away")
        found = [self.users[user] for user in users if user in self.users]
        if self.hold is not None:
            await self.hold.wait()
        return found
