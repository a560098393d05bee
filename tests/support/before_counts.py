"""A persistence of before `n`, `mv` and flags.

Its scripts, its rows, and its statements.

The scripts and statements are those of that version, word for word; only the calls are written anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.domain.ports import ChannelState, KnownKey, Row
from services.shared.hotlog import hotlog, keys
from services.shared.hotlog.entries import Entry
from services.shared.hotlog.hotlog import KEY_TTL_S, Appended, Batch, Unstored
from services.shared.hotlog.scripts import Call, load

_NOW = Path(hotlog.__file__).parent
_BEFORE = Path(__file__).parent / "hotlog_before"
_APPEND = load(_NOW / "stamp.lua", _BEFORE / "append_stored.lua")
_INIT, _ADVANCE, _VERIFY = (load(_BEFORE / f"{name}.lua") for name in ("init", "advance", "verify"))


class HotLogBefore(RedisHotLog):
    """The hot log as that version used it."""

    async def append(self, batches: Sequence[Batch], max_unstored: int) -> list[Appended | Exception | None]:
        calls = [hotlog.mark_call([batch.channel for batch in batches])]
        for channel, _, history_ttl_s, items, _ in batches:
            names = [keys.log(channel), keys.meta(channel)]
            arguments: list[str | bytes | int] = [self.incarnation(), history_ttl_s, KEY_TTL_S, max_unstored]
            for item in items:
                names.append(keys.key(channel, item.key_user, item.key))
                arguments += (item.publication_id, item.publication, keys.pair(item.key_user, item.key))
            calls.append(Call(_APPEND, names, arguments))
        _, *found = await self._run("append", calls)
        return [Appended(one[0].decode(), one[1], one[2], one[3:]) if one else None for one in found]  # type: ignore[index]

    async def verify(self, channel: str, state: ChannelState, *, may_be_ahead: bool = False) -> int:
        arguments: list[str | bytes | int] = [state.epoch, state.top, self.incarnation(), int(may_be_ahead)]
        calls = [Call(_VERIFY, [keys.meta(channel)], arguments), hotlog.rest_call(channel)]
        verified: Any = (await self._run("verify", calls))[0]
        return int(verified)

    async def init(self, channel: str, state: ChannelState, time_ms: int, known: Sequence[KnownKey]) -> None:
        names, positions = _positions(channel, state, known)
        await self._run("init", [Call(_INIT, names, [state.epoch, state.top, self.incarnation(), time_ms, *positions])])

    async def advance(
        self,
        channel: str,
        state: ChannelState,
        time_ms: int,
        known: Sequence[KnownKey],
        forget: Sequence[tuple[str, str]],
        saved: tuple[str, int] = ("", 0),
    ) -> bool:
        names, positions = _positions(channel, state, known)
        names[2:2] = [keys.key(channel, user, key) for user, key in forget]
        arguments = [state.epoch, state.top, self.incarnation(), len(forget), time_ms, *positions]
        await self._run("advance", [Call(_ADVANCE, names, arguments)])
        return True

    async def unstored(self, channels: Sequence[str], limit: int, **options: Any) -> list[Unstored | None]:
        found = await super().unstored(channels, limit, **options)
        return [one and one._replace(entries=[Entry(*entry[:4]) for entry in one.entries]) for one in found]


def _positions(
    channel: str, state: ChannelState, known: Sequence[KnownKey]
) -> tuple[list[str], list[str | bytes | int]]:
    names = [keys.log(channel), keys.meta(channel)]
    positions: list[str | bytes | int] = []
    for user, key, offset, ttl_s in known:
        names.append(keys.key(channel, user, key))
        positions += (f"{state.epoch} {offset}", ttl_s)
    return names, positions


SCHEMA = """
CREATE TABLE IF NOT EXISTS channels (
    channel TEXT PRIMARY KEY,
    epoch TEXT NOT NULL,
    top INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
    channel TEXT NOT NULL,
    offset INTEGER NOT NULL,
    id BLOB NOT NULL,
    key TEXT NOT NULL,
    stored_at REAL NOT NULL,
    publication BLOB NOT NULL,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removals (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    upto INTEGER NOT NULL,
    begun_at REAL NOT NULL
);
"""


def write_before(path: Path, epoch: str, rows: Sequence[Row], now: float) -> None:
    """Open an SQLite file as that version did, begin the channel and store rows."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
        for row in rows:
            connection.execute("INSERT OR IGNORE INTO channels VALUES (?, ?, 0)", (row.channel, epoch))
            connection.execute("UPDATE channels SET top = ? WHERE channel = ?", (row.offset, row.channel))
            values: tuple[Any, ...] = (row.channel, row.offset, row.publication_id, row.key, now, row.publication)
            connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", values)
        connection.execute("COMMIT")
