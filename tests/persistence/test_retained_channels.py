"""The list of channels with retention in DynamoDB, and scans for those of before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.persistence.adapters.dynamodb.retained import RETAINED, SCANNED_AGAIN_S
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.shared.dynamodb.client import DynamoDb, item_of
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.namespaces import Namespaces
from tests.support.dynamodb_faults import DynamoDbFaults
from tests.support.retention import with_retention

KEPT = with_retention(kept=(1, 0))


class Place:
    """A store whose clock a test sets."""

    def __init__(self, settings: DynamoDbSettings) -> None:
        self.now, self.settings, self.db = 1_700_000_000.0, settings, DynamoDb(settings)
        self.store = DynamoDbLogStore(self.db, settings.log_table, clock=lambda: self.now, deadline_s=60)

    async def found(self, namespaces: Namespaces = KEPT) -> list[str]:
        found, cursor = await self.store.retained("", namespaces)
        while cursor:
            some, cursor = await self.store.retained(cursor, namespaces)
            found += some
        return sorted(found)


@pytest.fixture
async def place(settings: DynamoDbSettings) -> AsyncIterator[Place]:
    made = Place(settings)
    yield made
    await made.db.close()


def scans(faults: DynamoDbFaults) -> int:
    """How often the table was scanned since this was asked last."""
    count = faults.requests["Scan"]
    faults.requests.clear()
    return count


async def test_the_table_is_scanned_twice_and_what_began_in_between_is_found(
    place: Place, faults: DynamoDbFaults
) -> None:
    await place.store.open("kept:before")
    assert await place.found() == ["kept:before"]
    await place.store.open("kept:by a replica with the file of before")
    place.now += SCANNED_AGAIN_S - 1
    assert len(await place.found()) == 2
    assert scans(faults) == 2, "that was too early to count"
    await place.store.open("kept:late")
    place.now += 2
    assert len(await place.found()) == 3
    assert scans(faults) == 1
    await place.store.retain("kept:new")
    assert len(await place.found()) == 4
    assert scans(faults) == 0


async def test_another_namespace_is_scanned_for_and_one_less_is_not(place: Place, faults: DynamoDbFaults) -> None:
    await place.store.open("more:1")
    both = with_retention(kept=(1, 0), more=(0, 5))
    for _ in range(2):
        await place.found()
        place.now += SCANNED_AGAIN_S
    assert await place.found() == []
    scans(faults)
    for _ in range(2):
        assert await place.found(both) == ["more:1"]
        assert scans(faults) == 1
        place.now += SCANNED_AGAIN_S
    for namespaces in (both, KEPT):
        assert await place.found(namespaces) == ["more:1"]
    assert scans(faults) == 0


async def listed(place: Place) -> None:
    """Have the namespace `kept` count as listed."""
    for _ in range(2):
        await place.found()
        place.now += SCANNED_AGAIN_S


@pytest.mark.parametrize("others", [Namespaces(), with_retention(more=(0, 5))])
async def test_what_began_while_retention_was_off_is_found_once_it_is_on_again(
    place: Place, faults: DynamoDbFaults, others: Namespaces
) -> None:
    await listed(place)
    await place.store.note_retention(others)
    await place.store.open("kept:while it was off")
    await place.store.note_retention(KEPT)
    scans(faults)
    assert await place.found() == ["kept:while it was off"]
    await place.store.open("kept:by a replica that still has it off")
    place.now += SCANNED_AGAIN_S
    assert len(await place.found()) == 2
    assert scans(faults) == 2
    assert len(await place.found()) == 2
    assert scans(faults) == 0


async def test_a_scan_from_before_it_was_off_does_not_count(place: Place, faults: DynamoDbFaults) -> None:
    await place.found()
    await place.store.note_retention(Namespaces())
    await place.store.note_retention(KEPT)
    place.now += SCANNED_AGAIN_S
    await place.found()
    await place.store.open("kept:by a replica that still has it off")
    place.now += SCANNED_AGAIN_S
    assert await place.found() == ["kept:by a replica that still has it off"]
    await place.found()
    assert scans(faults) == 3


async def test_a_scan_that_ends_after_it_was_off_does_not_count(place: Place, faults: DynamoDbFaults) -> None:
    await place.found()
    place.now += SCANNED_AGAIN_S
    some = _chains_that_wait(place)
    scanning = asyncio.create_task(place.found())
    await some.begun.wait()
    await place.store.note_retention(Namespaces())
    some.may_go_on.set()
    await scanning
    scans(faults)
    await place.found()
    assert scans(faults) == 1, "it is not listed"


async def test_a_start_while_a_scan_is_noted_counts(
    place: Place, faults: DynamoDbFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the read and the write of the note of what would be the last scan."""
    await place.found()
    place.now += SCANNED_AGAIN_S
    retained = place.store._retained  # noqa: SLF001
    real, reads = retained._state, 0  # noqa: SLF001

    async def state() -> dict[str, Any]:
        nonlocal reads
        found, reads = await real(), reads + 1
        if reads == 2:  # the first one is where the sweep begins
            await place.store.note_retention(Namespaces())
        return found

    monkeypatch.setattr(retained, "_state", state)
    await place.found()
    scans(faults)
    await place.found()
    assert scans(faults) == 1, "it is not listed"


async def test_a_start_with_what_there_was_costs_a_read_and_no_scan(place: Place, faults: DynamoDbFaults) -> None:
    both = with_retention(kept=(1, 0), more=(0, 5))
    for _ in range(2):
        await place.found(both)
        place.now += SCANNED_AGAIN_S
    faults.requests.clear()
    await place.store.note_retention(both)
    assert faults.requests == {"GetItem": 1}
    await place.store.note_retention(KEPT)
    for namespaces, count in ((KEPT, 0), (both, 1)):
        scans(faults)
        await place.found(namespaces)
        assert scans(faults) == count


class _Waiting:
    def __init__(self) -> None:
        self.begun, self.may_go_on = asyncio.Event(), asyncio.Event()


def _chains_that_wait(place: Place) -> _Waiting:
    """Let scans of the store wait for the test."""
    waiting, chains = _Waiting(), place.store._chains  # noqa: SLF001
    real = chains.channels

    async def channels(cursor: str) -> tuple[list[str], str]:
        waiting.begun.set()
        await waiting.may_go_on.wait()
        return await real(cursor)

    chains.channels = channels  # type: ignore[method-assign]
    return waiting


async def test_channels_with_the_same_hash_are_both_in_the_list(place: Place) -> None:
    number = int.from_bytes(hashlib.sha256(b"kept:a").digest()[:6], "big")
    taken: dict[str, Any] = {"p": RETAINED, "s": number, "channel": "kept:b"}
    await place.db.call("put_item", TableName=place.settings.log_table, Item=item_of(taken))
    for _ in range(2):
        await place.store.retain("kept:a")
    for _ in range(2):
        await place.found()
        place.now += SCANNED_AGAIN_S
    assert await place.found() == ["kept:a", "kept:b"]
