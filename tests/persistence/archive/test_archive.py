"""What the archive does: which rows go, and what is left where a step fails."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.main import run
from services.persistence.adapters.sqlite_archive import ArchivedSqliteLogStore
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.archive import segment
from services.persistence.archive.ports import ArchivedRow, Limits, SegmentUnreadable
from services.persistence.domain.ports import StoredAt
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import KEY_TTL_S
from tests.persistence.archive.test_model import Replica, finish, put, remove
from tests.support.archive import DAY, Clock, Model, archiver_of, bytes_of, objects_of, store_at

CHANNEL = "old:a"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def model() -> Model:
    return Model(CHANNEL, 1)


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[ArchivedSqliteLogStore]:
    made = store_at(tmp_path, clock)
    yield made
    await made.close()


async def archived(store: ArchivedSqliteLogStore, clock: Clock, model: Model, count: int = 25) -> None:
    """Store rows that are archived, and one row that is not."""
    await put(store, model, count)
    clock.now += 2 * DAY
    await put(store, model, 1)
    assert await archiver_of(store, clock).archive()


def rows_in(folder: Path) -> list[int]:
    """Offsets of the rows that the table has with their contents."""
    with closing(sqlite3.connect(folder / "log.sqlite3")) as file:
        query = "SELECT offset FROM log WHERE typeof(publication) = 'blob' ORDER BY offset"
        return [offset for (offset,) in file.execute(query)]


async def test_what_is_old_enough_goes_in_segments(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model, tmp_path: Path
) -> None:
    await put(store, model, 20)
    clock.now += DAY - 10
    await put(store, model, 5)
    assert await archiver_of(store, clock).archive() == (0, 0, 0)
    assert objects_of(tmp_path) == []
    clock.now += 20
    limits = Limits(rows=8, bytes=1 << 20, least_rows=3, least_bytes=1 << 20)
    assert await archiver_of(store, clock, limits).archive() == (3, 20, 0)
    found = await store.segments.segments(CHANNEL, 1, 25)
    assert [(one.first, one.last) for one in found] == [(1, 8), (9, 16), (17, 20)]
    assert rows_in(tmp_path) == [*range(21, 26)]
    await model.check_all(store)
    clock.now += DAY
    assert await archiver_of(store, clock, limits).archive() == (1, 4, 0)  # not the newest one
    assert rows_in(tmp_path) == [25]
    await model.check_all(store)
    assert await store.stored_at(CHANNEL, 3) == StoredAt(3, 3, 1_700_000_000.0)
    assert await store.first_since(CHANNEL, 3, 25, 1_700_000_001.0) == 21
    assert await store.first_since(CHANNEL, 3, 20, 1_700_000_001.0) is None


async def test_a_few_old_rows_wait_for_more(store: ArchivedSqliteLogStore, clock: Clock, model: Model) -> None:
    await put(store, model, 10)
    clock.now += 2 * DAY
    few = Limits(rows=100, bytes=1 << 20, least_rows=10, least_bytes=1 << 19)
    assert await archiver_of(store, clock, few).archive() == (0, 0, 0)  # nine, as the newest one stays
    assert await archiver_of(store, clock, few._replace(least_rows=9)).archive() == (1, 9, 0)


async def test_a_segment_ends_before_it_is_too_large_and_a_large_row_is_one_alone(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model
) -> None:
    await put(store, model, 30)
    model.new(1)
    model.rows[-1] = model.rows[-1]._replace(publication=os.urandom(3_000))
    await store.write(model.rows[-1:])
    await put(store, model, 9)
    clock.now += 2 * DAY
    assert await archiver_of(store, clock, Limits(1_000, 1_000, 1, 1)).archive()
    found = await store.segments.segments(CHANNEL, 1, 40)
    assert (found[0].first, found[-1].last) == (1, 39)
    sizes = [[len(row.publication) for row in await store.loaded.rows(one)] for one in found]
    assert all(sum(size) <= 1_000 or len(size) == 1 for size in sizes)
    assert [3_000] in sizes
    await model.check_all(store)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["objects", "segments"])
async def test_a_crash_at_any_step_loses_nothing_and_leaves_nothing_for_ever(
    tmp_path: Path, clock: Clock, model: Model, what: str, when: str
) -> None:
    for step in range(1, 40):
        folder = tmp_path / str(step)
        folder.mkdir()
        replica, model = Replica(folder, clock, model.chance), Model(CHANNEL, step)
        store = replica.store
        await put(store, model, 12)
        clock.now += 2 * DAY
        await put(store, model, 1)
        fails = replica.objects if what == "objects" else replica.segments
        fails.calls, fails.fails_at, fails.when = 0, step, when
        failed = None
        try:
            await replica.archiver.archive()
        except Unavailable:
            failed = True
        was_reached, fails.fails_at = fails.calls >= step, 0
        await store.close()
        replica = Replica(folder, clock, model.chance)  # the process begins anew
        await model.check_all(replica.store)
        assert await replica.archiver.archive() is not None
        assert await replica.segments.uncleared() == []
        assert rows_in(folder) == [13]
        await model.check_all(replica.store)
        clock.now += 40 * DAY
        assert await replica.archiver.archive()
        known = {one.object for one in await replica.segments.segments(CHANNEL, 1, 13)}
        clock.now += 3_650 * DAY  # files of this test have the time of this host
        assert await replica.archiver.archive()
        assert {path.relative_to(folder / "archive").as_posix() for path in objects_of(folder)} == known
        await replica.store.close()
        if not was_reached:
            assert not failed
            assert step > 4
            return
    pytest.fail("there were always more steps")


async def test_an_object_is_garbage_only_after_its_time(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model, tmp_path: Path
) -> None:
    await archived(store, clock, model)
    name = segment.new_name(await store.segments.name())
    await store.objects.put(name, b"of a process that died")
    other = tmp_path / "archive" / "of-another-store" / "ab"
    other.mkdir(parents=True)
    (other / "cd").write_bytes(b"not ours")
    many = len(objects_of(tmp_path))
    for days, left in ((34, many), (36, many - 1), (4_000, many - 1)):
        for path in objects_of(tmp_path):
            os.utime(path, (clock.now - days * DAY,) * 2)
        assert await archiver_of(store, clock).archive()
        assert len(objects_of(tmp_path)) == left
    assert (other / "cd").exists()
    await model.check_all(store)


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "exchanged"])
async def test_a_page_with_an_unreadable_segment_fails_and_is_never_shorter(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model, tmp_path: Path, damage: str
) -> None:
    await archived(store, clock, model)
    found = await store.segments.segments(CHANNEL, 1, 25)
    second, third = found[1], found[2]
    path = tmp_path / "archive" / second.object
    body = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(body[:-20])
    elif damage == "changed":
        path.write_bytes(body[:50] + bytes([body[50] ^ 1]) + body[51:])
    else:
        path.write_bytes((tmp_path / "archive" / third.object).read_bytes())
    for since, limit, reverse in (
        (0, 100, False),
        (second.first - 2, 5, False),
        (second.first, 1, False),
        (0, 100, True),
        (second.last + 2, 5, True),
        (second.last, 1, True),
    ):
        with pytest.raises(SegmentUnreadable):
            await store.read(CHANNEL, since_offset=since, upto=26, limit=limit, reverse=reverse)
    assert [row[0] for row in await store.read(CHANNEL, since_offset=second.last, upto=26, limit=9, reverse=False)]
    first = await store.read(CHANNEL, since_offset=0, upto=26, limit=second.first - 1, reverse=False)
    assert len(first) == second.first - 1
    path.write_bytes(body)
    await model.check_all(store)


def test_an_object_can_be_read_with_its_own_key_and_name_alone() -> None:
    model = Model(CHANNEL, 3)
    rows = [
        ArchivedRow(one.offset, one.publication_id, one.key, 1.5, one.publication, one.flags, one.n, one.mv)
        for one in model.new(9)
    ]
    manifest, body = segment.encode(CHANNEL, rows, "a/b/c")
    other, _ = segment.encode(CHANNEL, rows, "a/b/d")
    assert segment.decode(manifest, body) == rows
    assert manifest.key != other.key
    for wrong in (
        manifest._replace(key=other.key),
        manifest._replace(object="a/b/d"),
        manifest._replace(first=2),
        manifest._replace(last=10),
    ):
        with pytest.raises(SegmentUnreadable):
            segment.decode(wrong, body)


async def test_what_is_erased_leaves_every_byte_of_the_archive(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model, tmp_path: Path
) -> None:
    await put(store, model, 24)
    secret = b"a secret that nobody may ever read again " + os.urandom(8).hex().encode()
    model.rows.append(model.new(1)[0]._replace(publication=secret))
    del model.rows[-2]
    await store.write(model.rows[-1:])
    await archived(store, clock, model)
    manifest = next(one for one in await store.segments.segments(CHANNEL, 25, 25))
    before = (tmp_path / "archive" / manifest.object).read_bytes()
    await store.scrub()
    assert secret not in bytes_of(tmp_path)
    assert any(row.publication == secret for row in segment.decode(manifest, before))

    tomb = model.erase(25)
    await store.erase(CHANNEL, {25: tomb})
    assert await store.segments.erased_since() == clock.now
    await model.check_all(store)  # at once, before the object is another one
    await archiver_of(store, clock).erase()
    assert await store.segments.erased_since() is None
    await model.check_all(store)
    now = next(one for one in await store.segments.segments(CHANNEL, 25, 25))
    assert (now.object, now.key) != (manifest.object, manifest.key)
    assert not (tmp_path / "archive" / manifest.object).exists()
    for one in await store.segments.segments(CHANNEL, 1, 100):
        rows = segment.decode(one, (tmp_path / "archive" / one.object).read_bytes())
        assert secret not in [row.publication for row in rows]
    clock.now += 20
    assert await store.scrub()
    everything = bytes_of(tmp_path)
    assert secret not in everything
    assert manifest.key not in everything  # who has kept the old object can't read it
    assert before not in everything


async def test_what_is_removed_leaves_the_archive(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model, tmp_path: Path
) -> None:
    await archived(store, clock, model)
    second = (await store.segments.segments(CHANNEL, 1, 25))[1]
    names = {path.name for path in objects_of(tmp_path)}
    await remove(store, clock, model, second.first + 1)
    await model.check_all(store)
    clock.now += KEY_TTL_S + 1
    await finish(store, clock)
    await model.check_all(store)
    left = await store.segments.segments(CHANNEL, 1, 25)
    assert (left[0].first, left[0].last) == (second.first + 2, second.last)
    assert len(objects_of(tmp_path)) == len(left) == len(names) - 1
    assert (await store.open(CHANNEL)).removed == second.first + 1
    await remove(store, clock, model, 26)
    await finish(store, clock)
    await model.check_all(store)
    assert objects_of(tmp_path) == []
    assert await store.segments.totals() == (0, 0, 0)
    assert (await store.extent(CHANNEL)) == (26, 26)


async def test_what_is_erased_while_it_is_archived_does_not_come_back(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model
) -> None:
    await put(store, model, 10)
    clock.now += 2 * DAY
    part = await store.segments.next_part(CHANNEL, clock.now, Limits(5, 1 << 20, 1, 1))
    assert part is not None
    manifest, body = segment.encode(CHANNEL, part.rows, segment.new_name("x"))
    await store.objects.put(manifest.object, body)
    await store.erase(CHANNEL, {3: model.erase(3)})
    assert not await store.segments.put(manifest, part, clock.now)
    again = await store.segments.next_part(CHANNEL, clock.now, Limits(5, 1 << 20, 1, 1))
    assert again is not None
    await remove(store, clock, model, 2)
    assert not await store.segments.put(manifest, again, clock.now)
    await model.check_all(store)


async def test_a_store_without_its_archive_fails_and_does_not_shorten_pages(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model, tmp_path: Path
) -> None:
    await archived(store, clock, model)
    alone = SqliteLogStore(tmp_path / "log.sqlite3")
    assert alone.has_segments
    for since, reverse in ((0, False), (2, False), (0, True), (5, True)):
        with pytest.raises(Unavailable, match="archived"):
            await alone.read(CHANNEL, since_offset=since, upto=26, limit=100, reverse=reverse)
    await alone.erase(CHANNEL, {4: model.erase(4)})  # it notes what the archive is to do
    await model.check_all(store)
    await alone.close()


@pytest.fixture
def thalamus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Awaitable[tuple[int, str, str]]]:
    """Run `thalamus archive`; returns exit code, output and errors."""
    monkeypatch.setenv("PERSISTENCE_DB", str(tmp_path / "log.sqlite3"))
    monkeypatch.setenv("PERSISTENCE_ARCHIVE", str(tmp_path / "archive"))

    async def call(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, ["archive", *arguments])
        return code, *capsys.readouterr()

    return call


async def test_the_command_shows_checks_and_brings_back(
    store: ArchivedSqliteLogStore,
    clock: Clock,
    model: Model,
    tmp_path: Path,
    thalamus: Callable[..., Awaitable[tuple[int, str, str]]],
) -> None:
    await archived(store, clock, model)
    found = await store.segments.segments(CHANNEL, 1, 25)
    code, said, _ = await thalamus("status", "--json")
    assert (code, json.loads(said)["rows"], json.loads(said)["segments"]) == (0, 25, len(found))
    code, said, _ = await thalamus("status", CHANNEL, "--json")
    assert [json.loads(line)["first"] for line in said.splitlines()] == [one.first for one in found]
    code, said, _ = await thalamus("verify")
    assert (code, said) == (0, f"{len(found)} segments can be read\n")
    path = tmp_path / "archive" / found[0].object
    body = path.read_bytes()
    path.write_bytes(body[:-1])
    code, said, wrong = await thalamus("verify")
    assert (code, "1 segments can't be read" in wrong, found[0].object in said) == (1, True, True)
    for wrong_usage in (("restore", CHANNEL, "--from", "9", "--to", "8"), ("restore",)):
        assert (await thalamus(*wrong_usage))[0] == 2
    for command in ("status", "verify", "restore"):
        code, said, wrong = await thalamus(command, "old:unknown")
        assert (code, said, "no such channel" in wrong) == (1, "", True)
    path.write_bytes(body)
    code, said, _ = await thalamus("restore", CHANNEL, "--from", "9", "--to", "9")
    second = found[1]
    assert code == 0
    assert rows_in(tmp_path) == [*range(second.first, second.last + 1), 26]
    await model.check_all(store)
    code, _, _ = await thalamus("restore", "--all")
    assert code == 0
    assert rows_in(tmp_path) == [*range(1, 27)]
    assert len(objects_of(tmp_path)) == len(found)  # kept for a store from a backup
    await model.check_all(store)
    with closing(sqlite3.connect(tmp_path / "log.sqlite3")) as file:
        assert file.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetchone() == (0,)
    assert (await thalamus("restore"))[0] == 2


@pytest.mark.parametrize("what", ["--all", CHANNEL])
async def test_the_command_brings_back_all_that_can_be_read(
    store: ArchivedSqliteLogStore,
    clock: Clock,
    model: Model,
    tmp_path: Path,
    thalamus: Callable[..., Awaitable[tuple[int, str, str]]],
    what: str,
) -> None:
    await archived(store, clock, model)
    first, *others = await store.segments.segments(CHANNEL, 1, 25)
    assert others
    path = tmp_path / "archive" / first.object
    body = path.read_bytes()
    path.write_bytes(body[:-1])
    code, said, wrong = await thalamus("restore", what, "--json")
    lines = [json.loads(line) for line in said.splitlines()]
    assert (code, "1 segments can't be brought back" in wrong) == (1, True)
    assert [(one["first"], one.get("error", "")) for one in lines] == [
        (first.first, "an archived object is not as it was written"),
        *((one.first, "") for one in others),
    ]
    assert await store.segments.segments(CHANNEL, 1, 25) == [first]
    path.write_bytes(body)
    assert (await thalamus("restore", what))[0] == 0
    assert rows_in(tmp_path) == [*range(1, 27)]
    await model.check_all(store)


async def test_of_two_that_write_a_segment_again_one_changes_nothing(
    store: ArchivedSqliteLogStore, clock: Clock, model: Model
) -> None:
    await archived(store, clock, model)
    (old, *_) = await store.segments.segments(CHANNEL, 1, 25)
    rows = await store.loaded.rows(old)
    await store.erase(CHANNEL, {2: (tomb := model.erase(2))})
    await archiver_of(store, clock).erase()
    await store.erase(CHANNEL, {3: model.erase(3)})
    late, body = segment.encode(CHANNEL, rows, segment.new_name("x"))
    await store.objects.put(late.object, body)
    assert not await store.segments.swap(old, late, rows[0], {2: tomb, 3: model.rows[2].publication})
    assert not await store.segments.restore(old, rows, clock.now)
    assert not await store.segments.clear(old)
    assert await store.segments.erased_since() is not None
    assert await store.segments.dropped(clock.now, "") == []
    await model.check_all(store)
