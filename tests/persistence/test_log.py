"""The commit protocol, rule by rule: number, store, make readable, acknowledge.

Real Redis, real SQLite.

Reading, sweeps, removals and the end are in `test_log_upkeep.py`; what two processes and random crashes do to it is in
`test_crashes.py` and in `tests/properties/test_stored_log.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import pytest

from services.persistence.domain.outcomes import AppendedPosition, TooLarge
from services.persistence.domain.ports import ChannelState, Row, Written
from services.shared.errors import Busy, ErrorCode, Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import STAMP_BYTES
from services.shared.hotlog.keys import pair
from tests.support.log import append, begin
from tests.support.persistence import CHANNEL, Process, Site, both, request
from tests.support.waiting import until

# Offsets.


async def test_offsets_count_from_one_and_an_offset_is_given_once(site: Site, process: Process) -> None:
    first = [await process.append(f"{number}") for number in range(3)]
    at_once = await append(process.log, [request(f"{number}") for number in range(3, 10)])
    positions = [one for one in [*first, *at_once] if isinstance(one, AppendedPosition)]
    assert [one.offset for one in positions] == list(range(1, 11))
    assert len({one.epoch for one in positions}) == 1
    assert not any(one.repeated_key for one in positions)
    assert await site.stored() == await site.readable() == [(number + 1, f"{number}") for number in range(10)]


async def test_channels_have_offsets_and_epochs_of_their_own(site: Site, process: Process) -> None:
    requests = [request(f"{number}", channel=f"chat:{number % 3}") for number in range(6)]
    positions = [one for one in await append(process.log, requests) if isinstance(one, AppendedPosition)]
    assert [one.offset for one in positions] == [1, 1, 1, 2, 2, 2]
    assert len({one.epoch for one in positions}) == 3
    assert await site.readable("chat:1") == [(1, "1"), (2, "4")]


async def test_a_repeated_key_has_the_first_position_and_publishes_nothing(site: Site, process: Process) -> None:
    first = await process.append("first", key="k")
    again = await process.append("again", key="k")
    assert again == AppendedPosition(first.offset, first.epoch, True)
    of_another = await process.append("of another", key="k", user="bob")
    assert (of_another.offset, of_another.repeated_key) == (2, False)
    assert await site.stored() == [(1, "first"), (2, "of another")]


async def test_a_key_that_comes_twice_in_one_batch_has_one_position(site: Site, process: Process) -> None:
    outcomes = await append(process.log, [request("first", key="k"), request("again", key="k"), request("next")])
    assert [(one.offset, one.repeated_key) for one in outcomes if isinstance(one, AppendedPosition)] == [
        (1, False),
        (1, True),
        (2, False),
    ]
    assert await site.stored() == [(1, "first"), (2, "next")]


async def test_a_batch_of_repeated_keys_alone_stores_nothing(site: Site, process: Process) -> None:
    await process.append("first", key="k")
    writes = len(process.store.writes)
    assert (await process.append("again", key="k")).repeated_key
    assert len(process.store.writes) == writes


# Stored before readable, readable before acknowledged.


async def test_nobody_reads_what_is_not_stored_and_it_is_acknowledged_once_it_is_readable(
    site: Site, process: Process
) -> None:
    await process.append("first")
    may_write = process.store.hold_writes()
    (second,) = begin(process.log, [request("second")])
    await until(lambda: len(process.store.writes) == 2)
    assert await site.readable() == [(1, "first")]
    assert not second.done()
    may_write.set()
    assert isinstance(await second, AppendedPosition)
    assert await site.readable() == [(1, "first"), (2, "second")]


async def test_what_redis_published_is_what_is_stored_byte_by_byte(site: Site, process: Process) -> None:
    async with site.client.pubsub() as listener:
        await listener.subscribe(keys.pub(CHANNEL))
        await listener.get_message(timeout=60)
        position = await process.append("first")
        message = await listener.get_message(timeout=60)
    assert message is not None
    ((_, stored),) = await site.store.read(CHANNEL, since_offset=0, upto=9, limit=9, reverse=False)
    assert message["data"] == b"p%b 1 %b" % (position.epoch.encode(), stored)
    assert len(stored) == len("first") + STAMP_BYTES


@pytest.mark.parametrize("when", ["before it is stored", "after it is stored"])
async def test_what_was_not_finished_is_unknown_and_a_repeat_with_its_key_finds_its_position(
    site: Site, process: Process, when: str
) -> None:
    await process.append("first")
    await process.crash(when, "second", key="k")
    assert await site.readable() == [(1, "first")]
    assert await process.append("repeated", key="k") == AppendedPosition(
        2, (await process.log.open(CHANNEL)).epoch, True
    )
    assert await site.stored() == await site.readable() == [(1, "first"), (2, "second")]


async def test_one_write_takes_what_another_process_numbered_too(site: Site, process: Process) -> None:
    await process.append("first")
    await process.crash("before it is stored", "second")
    other = site.process()
    assert (await other.append("third")).offset == 3
    assert other.store.writes[-1] == [(CHANNEL, 2), (CHANNEL, 3)]
    assert await site.stored() == await site.readable() == [(1, "first"), (2, "second"), (3, "third")]


async def test_a_store_that_can_not_write_one_channel_keeps_no_other_from_it(site: Site, process: Process) -> None:
    for channel in ("chat:a", "chat:b"):
        await process.append("first", channel=channel)
    process.store.answers["chat:a"] = failure = Unavailable("no room for this one")
    outcomes = await append(process.log, [request("second", channel=one) for one in ("chat:a", "chat:b")])
    assert outcomes[0] is failure
    assert isinstance(outcomes[1], AppendedPosition)
    assert await site.readable("chat:a") == [(1, "first")]
    assert await site.readable("chat:b") == [(1, "first"), (2, "second")]


async def test_a_commit_that_redis_refuses_is_unknown_for_this_channel_alone(site: Site, process: Process) -> None:
    for channel in ("chat:a", "chat:b"):
        await process.append("first", channel=channel)
    process.hot.silent = frozenset({"chat:a"})
    outcomes = await append(process.log, [request("second", channel=one, key="k") for one in ("chat:a", "chat:b")])
    assert isinstance(outcomes[0], Unavailable)
    assert isinstance(outcomes[1], AppendedPosition)
    process.hot.silent = frozenset()
    assert (await process.append("again", channel="chat:a", key="k")).offset == 2


async def test_a_channel_that_redis_can_not_append_to_fails_alone(site: Site, process: Process) -> None:
    for channel in ("chat:a", "chat:b"):
        await process.append("first", channel=channel)
    await site.client.delete(keys.log("chat:a"))
    await site.client.set(keys.log("chat:a"), "not a stream")
    outcomes = await append(process.log, [request("second", channel=one) for one in ("chat:a", "chat:b")])
    assert isinstance(outcomes[0], Unavailable)
    assert isinstance(outcomes[1], AppendedPosition)


async def test_an_error_nobody_expected_is_told_without_its_text_and_stands_in_the_log(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: Sequence[Row]) -> None:
        raise ZeroDivisionError("a detail")

    process.store.before_write = fail
    with pytest.raises(Unavailable) as caught:
        await process.append("first")
    assert "a detail" not in str(caught.value)
    assert "a detail" in caplog.text
    process.store.before_write = None
    assert (await process.append("next")).offset == 2


async def test_a_store_that_is_away_is_told_to_the_whole_batch(process: Process) -> None:
    async def fail(_: Sequence[Row]) -> None:
        raise Unavailable("away")

    process.store.before_write = fail
    outcomes = await append(process.log, [request(channel=f"chat:{number}") for number in range(3)])
    assert [str(one) for one in outcomes] == ["away"] * 3


# Batches.


async def test_what_arrives_during_a_write_is_the_next_batch(process: Process) -> None:
    for channel in ("chat:a", "chat:b"):
        await process.append("first", channel=channel)
    may_write = process.store.hold_writes()
    outcomes = begin(process.log, [request("second")])
    await until(lambda: len(process.store.writes) == 3)
    for number in range(5):
        outcomes += begin(process.log, [request(f"{number}", channel=f"chat:{'ab'[number % 2]}")])
    may_write.set()
    await asyncio.gather(*outcomes)
    assert len(process.store.writes) == 4
    offsets = [offset for _, offset in sorted(process.store.writes[3])]
    assert offsets == [3, 4, 5, 2, 3]


@both
async def test_a_slow_channel_holds_up_others_only_where_one_write_is_for_all(site: Site, apart: bool) -> None:
    process = site.process(apart=apart)
    for channel in ("chat:slow", "chat:quick"):
        await process.append("first", channel=channel)
    may_write = asyncio.Event()

    async def wait(rows: Sequence[Row]) -> None:
        if rows[0].channel == "chat:slow":
            await may_write.wait()

    process.store.before_write = wait
    (slow,) = begin(process.log, [request(channel="chat:slow")])
    await until(lambda: len(process.store.writes) == 3)
    (quick,) = begin(process.log, [request(channel="chat:quick")])
    if apart:
        assert isinstance(await quick, AppendedPosition)
        assert not slow.done()
    else:
        await asyncio.sleep(0.05)
        assert not quick.done()
    may_write.set()
    assert isinstance(await slow, AppendedPosition)
    assert isinstance(await quick, AppendedPosition)


# What is refused.


async def test_a_publication_that_can_not_be_stored_gets_no_offset_and_107(site: Site) -> None:
    process = site.process(max_item_bytes=100)
    room = 100 - STAMP_BYTES - len("ann") - len("k")
    outcomes = await append(process.log, [request("x" * (room + 1), key="k"), request("x" * room, key="k")])
    assert isinstance(outcomes[0], TooLarge)
    assert outcomes[0].code == ErrorCode.BAD_REQUEST
    assert isinstance(outcomes[1], AppendedPosition)
    assert outcomes[1].offset == 1
    (of_bytes,) = await append(process.log, [request("x" * room, key="é")])  # two bytes
    assert isinstance(of_bytes, TooLarge)
    assert (await process.append("next")).offset == 2


async def test_more_than_may_wait_is_refused_as_busy_and_nothing_is_done(site: Site) -> None:
    process = site.process(max_waiting=3)
    outcomes = begin(process.log, [request(f"{number}") for number in range(5)])
    assert [one.done() for one in outcomes] == [False, False, False, True, True]
    assert [type(await one) for one in outcomes[3:]] == [Busy, Busy]
    assert [type(await one) for one in outcomes[:3]] == [AppendedPosition] * 3
    assert len(await site.stored()) == 3
    await process.append("again")


async def test_one_channel_may_take_half_of_what_may_wait_where_channels_are_apart(site: Site) -> None:
    process = site.process(apart=True, max_waiting=4)
    outcomes = begin(process.log, [request(channel=one) for one in ("chat:a", "chat:a", "chat:a", "chat:b", "chat:b")])
    assert [type(one) for one in await asyncio.gather(*outcomes)] == [
        AppendedPosition,
        AppendedPosition,
        Busy,
        AppendedPosition,
        AppendedPosition,
    ]


async def test_a_channel_with_too_much_that_is_not_stored_is_busy_until_it_is(site: Site) -> None:
    process = site.process(max_unstored=2)
    await process.append("first")
    for number in range(2):
        await process.crash("before it is stored", f"{number}")
    outcomes = await append(process.log, [request("late"), request("late", channel="chat:b")])
    assert isinstance(outcomes[0], Busy)
    assert isinstance(outcomes[1], AppendedPosition)
    await process.log.sweep(0.0, 10)
    assert (await process.append("next")).offset == 4


async def test_of_a_batch_the_first_get_the_room_that_is_left(site: Site) -> None:
    process = site.process(max_unstored=2)
    await process.append("first")
    outcomes = await append(process.log, [request(f"{number}") for number in range(4)])
    assert [type(one) for one in outcomes] == [AppendedPosition, AppendedPosition, Busy, Busy]
    assert [offset for offset, _ in await site.stored()] == [1, 2, 3]


# Incarnations of Redis, and conflicts.


async def test_an_empty_redis_goes_on_where_the_store_is(site: Site, process: Process) -> None:
    first = await process.append("first", key="k")
    await site.client.flushall()
    process.incarnation = "second"
    assert (await process.append("second")) == AppendedPosition(2, first.epoch, False)
    assert (await process.append("again", key="k")) == AppendedPosition(1, first.epoch, True)


async def test_a_channel_is_compared_once_in_every_incarnation_before_it_is_used(site: Site, process: Process) -> None:
    first = await process.append("first")
    opened: list[str] = []
    real = site.store.open

    async def open_(channel: str) -> ChannelState:
        opened.append(channel)
        return await real(channel)

    site.store.open = open_  # type: ignore[method-assign]
    await process.append("second")
    assert opened == []
    process.incarnation = "second"
    assert await site.readable(incarnation="second") == []
    third = await process.append("third")
    await process.append("fourth")
    assert (third.offset, third.epoch) == (3, first.epoch)
    assert opened == [CHANNEL]


async def test_a_channel_that_can_not_be_compared_is_refused_alone(site: Site, process: Process) -> None:
    await process.append("first", channel="chat:known")
    real = site.store.open

    async def fail(channel: str) -> ChannelState:
        if channel == "chat:new":
            raise Unavailable("away")
        return await real(channel)

    site.store.open = fail  # type: ignore[method-assign]
    outcomes = await append(process.log, [request(channel=one) for one in ("chat:new", "chat:known", "chat:other")])
    assert [type(one) for one in outcomes] == [Unavailable, AppendedPosition, AppendedPosition]


async def test_what_was_numbered_in_another_incarnation_is_not_made_readable(site: Site, process: Process) -> None:
    await process.append("first")

    async def another(_: Sequence[Row]) -> None:
        process.incarnation = "second"
        process.store.before_write = None
        other = site.process()
        other.incarnation = "second"
        await other.append("of another")  # it compares the channel: Redis notes the incarnation

    process.store.before_write = another
    (outcome,) = await append(process.log, [request("second", key="k")])
    assert isinstance(outcome, Unavailable)
    again = await process.append("again", key="k")
    stored = await site.stored()
    assert dict(stored)[again.offset] in ("second", "again")
    assert [offset for offset, _ in stored] == list(range(1, len(stored) + 1))


async def test_an_offset_that_the_store_has_already_is_given_to_nobody_else(site: Site, process: Process) -> None:
    await process.append("first")
    foreign = Row(CHANNEL, 2, os.urandom(16), b"foreign" + bytes(STAMP_BYTES), pair("bob", "foreign"))
    await site.store.write([foreign])  # Redis is behind
    outcomes = await append(process.log, [request("second"), request("third")])
    assert [one.offset for one in outcomes if isinstance(one, AppendedPosition)] == [3, 4]
    assert await site.stored() == [(1, "first"), (2, "foreign"), (3, "second"), (4, "third")]
    assert (await process.append("again", key="foreign", user="bob")).offset == 2


async def test_a_key_whose_offset_is_taken_is_forgotten_though_its_entry_is_gone_from_redis(
    site: Site, process: Process
) -> None:
    """Otherwise the repeat after the conflict would find the key.

    It would be acknowledged with what somebody else wrote.
    """
    await process.append("first")

    async def taken_and_deleted(rows: Sequence[Row]) -> None:
        process.store.before_write = None
        taken = Row(CHANNEL, rows[0].offset, os.urandom(16), b"foreign" + bytes(STAMP_BYTES), pair("bob", "foreign"))
        await site.store.write([taken])
        await site.client.delete(keys.log(CHANNEL))

    process.store.before_write = taken_and_deleted
    outcome = await process.append("second", key="k")
    assert (outcome.offset, outcome.repeated_key) == (3, False)
    assert await site.stored() == [(1, "first"), (2, "foreign"), (3, "second")]
    assert (await process.append("again", key="k")).offset == 3


async def test_a_conflict_that_can_not_be_resolved_is_unknown(site: Site, process: Process) -> None:
    await process.append("first")
    process.store.answers[CHANNEL] = Written(1, True)
    real = site.store.heartbeat

    async def fail() -> Any:
        raise Unavailable("away")

    site.store.heartbeat = fail  # type: ignore[method-assign]
    (outcome,) = await append(process.log, [request("second", key="k")])
    assert isinstance(outcome, Unavailable)
    site.store.heartbeat = real  # type: ignore[method-assign]
    del process.store.answers[CHANNEL]
    assert (await process.append("again", key="k")).offset == 2


async def test_conflicts_without_an_end_are_given_up_as_unknown_and_no_offset_is_given_twice(
    site: Site, process: Process
) -> None:
    await process.append("first")

    async def somebody_was_there(rows: Sequence[Row]) -> None:
        foreign = Row(CHANNEL, rows[0].offset, os.urandom(16), b"foreign" + bytes(7), pair("bob", os.urandom(8).hex()))
        await site.store.write([foreign])

    process.store.before_write = somebody_was_there
    (outcome,) = await append(process.log, [request("second", key="k")])
    assert isinstance(outcome, Unavailable)
    process.store.before_write = None
    foreign = await site.stored()
    assert 2 < len(foreign) < 10
    again = await process.append("again", key="k")
    assert (again.offset, again.repeated_key) == (len(foreign) + 1, False)
    assert await site.stored() == [*foreign, (again.offset, "again")]
