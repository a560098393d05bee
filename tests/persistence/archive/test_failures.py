"""One object that fails does not keep the others; work ends when all fail."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from services.persistence.adapters import sqlite_segments
from services.persistence.adapters.sqlite_archive import SqliteSegmentStore
from services.persistence.archive.directory import Directory
from services.persistence.archive.metrics import RUN_AT
from services.persistence.archive.ports import Limits, Manifest, ObjectMissing
from services.shared.errors import Unavailable
from tests.persistence.archive.test_model import Failing, put
from tests.support.archive import DAY, Clock, Model, archiver_of, objects_of, store_at

CHANNEL = "old:a"
TWOS = Limits(rows=2, bytes=1 << 20, least_rows=2, least_bytes=1 << 20)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many segments or objects one call returns."""
    monkeypatch.setattr(sqlite_segments, "_AT_ONCE", 3)
    return 3


async def test_segments_that_cannot_be_read_do_not_keep_others_from_being_erased(
    tmp_path: Path, clock: Clock, few: int
) -> None:
    store, model = store_at(tmp_path, clock), Model(CHANNEL, 1)
    await put(store, model, 21)
    clock.now += 2 * DAY
    await put(store, model, 1)
    assert await archiver_of(store, clock, TWOS).archive()
    segments = await store.segments.all_segments(("", 0), 100)
    assert len(segments) == 10
    for broken in segments[: few + 4]:
        (tmp_path / "archive" / broken.object).unlink()
    await store.erase(CHANNEL, {offset: model.erase(offset) for offset in range(1, 21)})
    with pytest.raises(Unavailable, match="missing"):
        await archiver_of(store, clock).erase()
    left = [manifest for manifest, _ in await _all_erased(store.segments)]
    assert left == segments[: few + 4]
    await store.close()


async def _all_erased(store: SqliteSegmentStore) -> list[tuple[Manifest, dict[int, bytes]]]:
    found: list[tuple[Manifest, dict[int, bytes]]] = []
    while some := await store.erased((CHANNEL, found[-1][0].first) if found else ("", 0)):
        found += some
    return found


async def test_objects_that_cannot_be_deleted_do_not_keep_others(tmp_path: Path, clock: Clock, few: int) -> None:
    objects = Failing(Directory(tmp_path / "archive"), random.Random(1))
    store, model = store_at(tmp_path, clock, objects), Model(CHANNEL, 1)
    await put(store, model, 21)
    clock.now += 2 * DAY
    await put(store, model, 1)
    assert await archiver_of(store, clock, TWOS).archive()
    segments = await store.segments.all_segments(("", 0), 100)
    for one in segments:
        assert await store.segments.restore(one, await store.loaded.rows(one), clock.now)
    stuck = sorted(path for path in objects_of(tmp_path))[: few + 1]
    for path in stuck:
        path.unlink()
        path.mkdir()  # a directory can't be deleted as a file
    with pytest.raises(Unavailable):
        await store.erasing.delete_dropped(clock.now)
    assert objects_of(tmp_path) == []
    for path in stuck:
        path.rmdir()
    await store.erasing.delete_dropped(clock.now)
    assert await store.segments.dropped(clock.now, "") == []
    await store.close()


async def test_a_place_that_is_away_is_not_asked_for_each_object(tmp_path: Path, clock: Clock) -> None:
    objects = Failing(Directory(tmp_path / "archive"), random.Random(1))
    store, model = store_at(tmp_path, clock, objects), Model(CHANNEL, 1)
    await put(store, model, 61)
    clock.now += 2 * DAY
    await put(store, model, 1)
    assert await archiver_of(store, clock, TWOS).archive()
    await store.erase(CHANNEL, {offset: model.erase(offset) for offset in range(1, 61)})
    objects.rate, objects.calls = 1.0, 0
    with pytest.raises(Unavailable):
        await archiver_of(store, clock).erase()
    assert objects.calls < 10
    objects.rate = 0.0
    await archiver_of(store, clock).erase()
    assert await store.segments.erased_since() is None
    await model.check_all(store)
    await store.close()


async def test_a_run_counts_only_if_nothing_failed_and_ends_when_all_fails(tmp_path: Path, clock: Clock) -> None:
    objects = Failing(Directory(tmp_path / "archive"), random.Random(1))
    store, models = store_at(tmp_path, clock, objects), [Model(f"old:{number}", number) for number in range(12)]
    for model in models:
        await put(store, model, 3)
    clock.now += 2 * DAY
    archiver = archiver_of(store, clock, TWOS)
    RUN_AT.set(0)
    objects.rate = 1.0
    done = await archiver.archive()
    assert done is not None
    assert 0 < done.failed < len(models)
    objects.rate, objects.fails_at = 0.0, objects.calls + 1
    done = await archiver.archive()
    assert done is not None
    assert (done.segments, done.failed) == (len(models) - 1, 1)
    assert RUN_AT._value.get() == 0  # noqa: SLF001
    assert await archiver.archive() == (1, 2, 0)
    assert RUN_AT._value.get() > 0  # noqa: SLF001
    await store.close()


@pytest.mark.parametrize("damage", [b"", b"other bytes", None])
async def test_an_object_that_cannot_be_read_back_is_deleted(
    tmp_path: Path, clock: Clock, damage: bytes | None
) -> None:
    class Damaging(Directory):
        async def put(self, name: str, body: bytes) -> None:
            await super().put(name, body if name.endswith("marker") else damage or b"")
            if damage is None and not name.endswith("marker"):
                await super().delete(name)

    store, model = store_at(tmp_path, clock, Damaging(tmp_path / "archive")), Model(CHANNEL, 1)
    await put(store, model, 9)
    clock.now += 2 * DAY
    done = await archiver_of(store, clock).archive()
    assert done is not None
    assert (done.segments, done.failed) == (0, 1)
    assert objects_of(tmp_path) == []
    await model.check_all(store)
    await store.close()


async def test_a_directory_that_fails_is_unavailable_and_keeps_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Directory(tmp_path / "new" / "archive")
    await objects.put("a/b/c", b"body")
    folders = [tmp_path / "new", *(path for path in (tmp_path / "new").rglob("*") if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert (tmp_path / "new/archive/a/b/c").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ObjectMissing):
        await objects.get("a/b/d")

    def fails(*_: object) -> None:
        raise FileNotFoundError(2, "the directory has gone")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(Unavailable):
        await objects.put("a/b/d", b"body")
    assert [path.name for path in objects_of(tmp_path / "new")] == ["c"]
