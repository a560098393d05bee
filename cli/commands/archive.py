"""`thalamus archive`: what of a log is archived."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from cli.errors import Refused, WrongUsage
from cli.options import json_option
from cli.output import printable, say, say_json, when
from services.persistence.adapters.sqlite_archive import ArchivedSqliteLogStore
from services.persistence.archive.failures import Failed
from services.persistence.archive.ports import Manifest
from services.persistence.archive.settings import open_objects
from services.persistence.config import PersistenceConfig
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.process.variables import read_checked_env

_AT_ONCE = 500  # manifests that are read at once
_DAY_S = 86_400
_LAST = 1 << 62
T = TypeVar("T")

_channel = click.argument("channel", required=False)


@click.group("archive")
def command() -> None:
    """Show and check what is archived, or bring it back into the store.

    Reads PERSISTENCE_DB, PERSISTENCE_ARCHIVE and PERSISTENCE_ARCHIVE_KEEP_DAYS. Persistence may run meanwhile.
    """


@command.command("status")
@_channel
@json_option
def status(channel: str | None, as_json: bool) -> None:
    """Show how much is archived, or which segments of a channel."""

    async def tell(store: ArchivedSqliteLogStore) -> None:
        if channel is not None:
            async for one in _manifests(store, channel):
                _tell(one, as_json)
            return
        segments, rows, size = await store.segments.totals()
        since = await store.segments.erased_since()
        if as_json:
            say_json({"segments": segments, "rows": rows, "bytes": size, "erasing_since": since})
        else:
            say(f"{segments} segments  {rows} publications  {size:,} bytes")
            if since is not None:
                say(f"publications are being erased since {when(int(since))}")

    _with_store(tell)


@command.command("verify")
@_channel
@json_option
def verify(channel: str | None, as_json: bool) -> None:
    """Read each segment, and compare it with what the store says.

    Ends with exit code 1 if one is missing or damaged.
    """

    async def check(store: ArchivedSqliteLogStore) -> tuple[int, int]:
        sound = broken = 0
        async for one in _manifests(store, channel):
            try:
                await store.loaded.rows(one)
                sound += 1
            except Unavailable as error:
                if one not in await store.segments.segments(one.channel, one.first, one.last):
                    continue  # it was replaced meanwhile
                broken += 1
                _tell(one, as_json, error=str(error))
        return sound, broken

    sound, broken = _with_store(check)
    if not as_json:
        say(f"{sound} segments can be read")
    if broken:
        raise Refused(f"{broken} segments can't be read")


@command.command("restore")
@_channel
@click.option("--all", "everything", is_flag=True, help="All channels.")
@click.option("--from", "low", type=click.IntRange(1), default=1, help="First offset  [default: 1]")
@click.option("--to", "high", type=click.IntRange(1), default=_LAST, help="Last offset  [default: all]")
@json_option
def restore(channel: str | None, everything: bool, low: int, high: int, as_json: bool) -> None:
    """Bring segments of a channel, or of all, back into the store.

    Whole segments: those that have any of the offsets. Take archive_after_days out of the namespace before, or they are
    archived again. Once nothing is archived, versions of before can use the file. The objects stay for
    PERSISTENCE_ARCHIVE_KEEP_DAYS, for stores that are restored from a backup.

    Goes on past segments that can't be read, lists them with the reason, and ends with exit code 1.
    """
    if (channel is None) != everything:
        raise WrongUsage("give a channel, or --all")
    if low > high:
        raise WrongUsage("--from must not be greater than --to")
    keep_s = _config().archive_keep_days * _DAY_S

    async def bring(store: ArchivedSqliteLogStore) -> tuple[int, int]:
        rows, left, failed = 0, 0, Failed()
        async for one in _manifests(store, channel):
            if one.last < low or one.first > high:
                continue
            try:
                if not await store.segments.restore(one, await store.loaded.rows(one), time.time() + keep_s):
                    raise Unavailable("the segment was replaced meanwhile: try again")
            except Unavailable as error:
                left += 1
                _tell(one, as_json, error=str(error))
                failed.note(error)
                if failed.is_away:
                    raise
                continue
            failed.note_success()
            store.loaded.forget(one.object)
            rows += one.rows
            _tell(one, as_json)
        return rows, left

    rows, left = _with_store(bring)
    if not as_json:
        say(f"{rows} publications are in the store again")
    if left:
        raise Refused(f"{left} segments can't be brought back")


async def _manifests(store: ArchivedSqliteLogStore, channel: str | None) -> AsyncIterator[Manifest]:
    """Yield the segments of a channel, or of all.

    Raises:
        Refused: the store has no such channel.
    """
    if channel is not None and not await store.has_begun(channel):
        raise Refused(f"{printable(channel)}: there is no such channel in the store")
    after = ("", 0) if channel is None else (channel, 0)
    while found := await store.segments.all_segments(after, _AT_ONCE):
        for one in found:
            if channel is not None and one.channel != channel:
                return
            yield one
        after = (found[-1].channel, found[-1].first)


def _tell(one: Manifest, as_json: bool, **more: str) -> None:
    if as_json:
        about = {"channel": one.channel, "first": one.first, "last": one.last, "object": one.object}
        say_json({**about, "bytes": one.size, **more})
    else:
        where = f"{printable(one.channel)}  {one.first} to {one.last}  {one.size:,} bytes  {one.object}"
        say("  ".join([where, *more.values()]))


def _config() -> PersistenceConfig:
    config = read_checked_env(PersistenceConfig, os.environ, "PERSISTENCE_")
    if not config.archive:
        raise WrongUsage("PERSISTENCE_ARCHIVE must say where the archive is")
    return config


def _with_store(work: Callable[[ArchivedSqliteLogStore], Awaitable[T]]) -> T:
    """Run something with the store of the settings."""
    config = _config()
    logging.getLogger("services").addHandler(logging.NullHandler())  # a failure is told once, in one line
    if not config.db.exists():
        raise Refused(f"{config.db}: there is no such file")

    async def run() -> T:
        try:
            store = ArchivedSqliteLogStore(Path(config.db), open_objects(config.archive))
        except ConfigError as error:
            raise Refused(str(error)) from error
        try:
            return await work(store)
        except Unavailable as error:
            raise Refused(str(error)) from error
        finally:
            await store.close()

    return asyncio.run(run())
