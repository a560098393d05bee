"""Stored grants for edges of tests: the rules of auth, without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.auth.domain.grants import UserGrants
from services.auth.domain.ports import GrantRow
from services.edge.domain.access.channel_patterns import WILDCARD
from services.edge.domain.access.grants import NEVER, Grant, Operation
from services.shared.errors import Unavailable


class MemoryGrants:
    """A `GrantStore` of auth in a dict."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], float] = {}

    async def give(self, user: str, rows: Sequence[GrantRow]) -> None:
        self.rows |= {(user, row.channel, row.operation): row.expires_at for row in rows}

    async def take(self, user: str, rows: Sequence[GrantRow]) -> None:
        for row in rows:
            self.rows.pop((user, row.channel, row.operation), None)

    async def of(self, user: str) -> list[GrantRow]:
        return sorted(GrantRow(*key[1:], until) for key, until in self.rows.items() if key[0] == user)


class AuthGrants:
    """What an edge sees of auth.

    `away`: auth does not answer. `is_of_before`: it keeps no grants. `asked`: users whose grants were read, in order.
    `hold`: reads wait until it is set.
    """

    def __init__(self, rules: UserGrants) -> None:
        self.rules = rules
        self.away = self.is_of_before = False
        self.asked: list[str] = []
        self.hold: asyncio.Event | None = None

    async def grants_of(self, user: str) -> Sequence[Grant] | None:
        self.asked.append(user)
        self._check()
        if self.is_of_before:
            return None
        found = [
            Grant(row.channel, Operation(row.operation), row.expires_at or NEVER, WILDCARD in row.channel)
            for row in await self.rules.of(user)
        ]
        if self.hold is not None:
            await self.hold.wait()
        self._check()
        return found

    async def give_grants(
        self, user: str, channels: Sequence[str], operations: Sequence[Operation], until: float
    ) -> None:
        self._check()
        await self.rules.give(user, channels, operations, 0.0 if until == NEVER else until)

    async def take_grants(self, user: str, channels: Sequence[str], operations: Sequence[Operation]) -> None:
        self._check()
        await self.rules.take(user, channels, operations)

    def _check(self) -> None:
        if self.away:
            raise Unavailable("auth is away")
