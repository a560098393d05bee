"""An archive is written to, and deleted from, only where it was before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.persistence.__main__ import _check_place
from services.persistence.adapters.sqlite_archive import ArchivedSqliteLogStore
from services.persistence.archive import place
from services.persistence.archive.directory import Directory
from services.persistence.archive.settings import open_objects
from services.persistence.config import PersistenceConfig
from services.shared.process.config import ConfigError
from tests.persistence.archive.test_model import put
from tests.support.archive import DAY, Clock, Model, archiver_of, objects_of, store_at

CHANNEL = "old:a"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[ArchivedSqliteLogStore]:
    """A store with an archive of 25 rows, and 12 rows that are old enough by now."""
    made, model = store_at(tmp_path, clock), Model(CHANNEL, 1)
    await put(made, model, 25)
    clock.now += 2 * DAY
    await put(made, model, 1)
    assert await archiver_of(made, clock).archive()
    await put(made, model, 12)
    clock.now += 2 * DAY
    yield made
    await made.close()


def test_there_is_no_archive_with_dynamodb() -> None:
    with pytest.raises(ConfigError, match="PERSISTENCE_ARCHIVE needs PERSISTENCE_STORE=sqlite"):
        PersistenceConfig(store="dynamodb", archive="/srv/archive")


def test_other_addresses_are_no_directories() -> None:
    for wrong in ("S3://b/x", "gs://b/x", "file:///srv/archive", "s3://"):
        with pytest.raises(ConfigError, match="s3://bucket/prefix"):
            open_objects(wrong)


async def test_nothing_is_written_to_a_place_that_is_empty_by_now(
    store: ArchivedSqliteLogStore, clock: Clock, tmp_path: Path
) -> None:
    archive, away = tmp_path / "archive", tmp_path / "away"
    before = await store.segments.all_segments(("", 0), 100)
    assert await store.loaded.rows(before[0])  # in memory: it could be written again anywhere
    archive.rename(away)
    archive.mkdir()  # what is there while nothing is mounted
    with pytest.raises(place.WrongPlace, match="not mounted"):
        await place.check(store.segments, store.objects)
    done = await archiver_of(store, clock).archive()
    assert done is not None
    assert (done.segments, done.failed) == (0, 1)
    await store.erase(CHANNEL, {3: b"tomb"})
    with pytest.raises(place.WrongPlace):
        await archiver_of(store, clock).erase()
    assert objects_of(tmp_path) == []
    assert await store.segments.all_segments(("", 0), 100) == before
    archive.rmdir()
    away.rename(archive)
    done = await archiver_of(store, clock).archive()
    assert done is not None
    assert done.segments > 0
    await archiver_of(store, clock).erase()


async def test_what_is_to_be_deleted_is_not_forgotten_in_another_place(
    store: ArchivedSqliteLogStore, clock: Clock, tmp_path: Path
) -> None:
    manifest, *_ = await store.segments.all_segments(("", 0), 1)
    rows = await store.loaded.rows(manifest)
    assert await store.segments.restore(manifest, rows, clock.now)
    store.erasing._objects = Directory(tmp_path / "another")  # noqa: SLF001
    with pytest.raises(place.WrongPlace):
        await store.erasing.delete_dropped(clock.now)
    assert await store.segments.dropped(clock.now, "") == [manifest.object]
    store.erasing._objects = store.objects  # noqa: SLF001
    await store.erasing.delete_dropped(clock.now)
    assert not (tmp_path / "archive" / manifest.object).exists()


async def test_the_mark_of_the_place_is_no_garbage(store: ArchivedSqliteLogStore, clock: Clock) -> None:
    clock.now += 10_000 * DAY  # files of this test have the time of this host
    assert await archiver_of(store, clock).archive()
    assert await place.check(store.segments, store.objects)


async def test_a_process_does_not_start_with_another_place(store: ArchivedSqliteLogStore, tmp_path: Path) -> None:
    await _check_place(store)
    (tmp_path / "archive").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="PERSISTENCE_ARCHIVE"):
        await _check_place(store)
    (tmp_path / "archive").write_bytes(b"")  # it can't be used now: the process starts, and checks again later
    await _check_place(store)
