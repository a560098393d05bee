"""Grants that backends give to users.

A grant is an operation in a channel, or in a pattern of channels. The store is the source of truth. Edges read the
grants of a user when they are needed, and the edge that changes them tells the others;
`services/edge/domain/control/granter.py` has how.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from services.auth.domain.ports import GrantRow, GrantStore
from services.auth.domain.refusals import Invalid
from services.shared.checks import MAX_GRANT_USER_BYTES, MAX_PATTERN_BYTES, MAX_TIME_S

MAX_GRANTS = 1_000  # of a user: each may be a pattern that is tried for a command
AT_ONCE = 100  # grants that one call gives: as many as a transaction of DynamoDB has
OPERATIONS = ("subscribe", "publish", "history", "presence", "enter", "manage")


class UserGrants:
    """The rules of stored grants. All state is in the store."""

    def __init__(self, store: GrantStore, now: Callable[[], float] = time.time) -> None:
        self._store, self._now = store, now

    async def give(self, user: str, channels: Sequence[str], operations: Sequence[str], expires_at: float) -> None:
        """Give each operation in each channel, until `expires_at`.

        That is in Unix seconds; 0: for ever.

        Raises:
            Invalid: a value is not allowed, or the user would have too many.
        """
        _check(user, channels, operations)
        if not channels or not operations:
            raise Invalid("a grant needs a channel and an operation")
        if expires_at and not self._now() < expires_at <= MAX_TIME_S:
            raise Invalid("the expiry is past, or after the year 9999")
        given = [GrantRow(*key, expires_at) for key in _keys(channels, operations)]
        if len(given) > AT_ONCE:
            raise Invalid(f"channels times operations: {AT_ONCE} at most")
        there = await self._store.of(user)
        over = [row for row in there if _has_expired(row, self._now())]
        if len({row[:2] for row in (*there, *given)} - {row[:2] for row in over}) > MAX_GRANTS:
            raise Invalid(f"a user may have {MAX_GRANTS:,} grants")
        await self._take(user, over)
        await self._store.give(user, given)

    async def take(self, user: str, channels: Sequence[str], operations: Sequence[str]) -> None:
        """Take grants away: of these channels (empty: all) these operations (empty: all).

        Raises:
            Invalid: a value is not allowed.
        """
        _check(user, channels, operations)
        named = set(_keys(channels, operations or OPERATIONS))
        await self._take(
            user,
            [
                row
                for row in await self._store.of(user)
                if (row[:2] in named if channels else not operations or row.operation in operations)
            ],
        )

    async def of(self, user: str) -> list[GrantRow]:
        """Return the grants of the user that have not expired, by channel and operation.

        Raises:
            Invalid: the user id is empty or too long.
        """
        _check(user, (), ())
        return [row for row in await self._store.of(user) if not _has_expired(row, self._now())]

    async def _take(self, user: str, rows: Sequence[GrantRow]) -> None:
        for start in range(0, len(rows), AT_ONCE):
            await self._store.take(user, rows[start : start + AT_ONCE])


def _keys(channels: Sequence[str], operations: Sequence[str]) -> list[tuple[str, str]]:
    return [(channel, operation) for channel in dict.fromkeys(channels) for operation in dict.fromkeys(operations)]


def _has_expired(row: GrantRow, now: float) -> bool:
    return bool(row.expires_at) and row.expires_at <= now


def _check(user: str, channels: Sequence[str], operations: Sequence[str]) -> None:
    if not 1 <= len(user.encode()) <= MAX_GRANT_USER_BYTES:
        raise Invalid(f"user: 1 to {MAX_GRANT_USER_BYTES} bytes")
    for channel in channels:
        if not 1 <= len(channel) <= MAX_PATTERN_BYTES or not channel.isascii() or not channel.isprintable():
            raise Invalid(f"a channel has 1 to {MAX_PATTERN_BYTES} visible ASCII characters")
    for operation in operations:
        if operation not in OPERATIONS:
            raise Invalid(f"operation: one of {', '.join(OPERATIONS)}")
