"""The view of one log gives every offset once, in order, or says what it needs."""

from __future__ import annotations

import random

from services.edge.domain.channels.channel_log import ERASES, ChannelLog, Need
from services.edge.domain.model import Publication, StreamPosition


def log_at(offset: int, *, ring_size: int = 8, buffer_size: int = 16) -> ChannelLog:
    return ChannelLog(StreamPosition(offset, "e"), ring_size=ring_size, ring_max_bytes=1_000, buffer_size=buffer_size)


def pub(offset: int) -> Publication:
    return Publication(data=str(offset).encode(), offset=offset)


def offsets(publications: list[Publication]) -> list[int]:
    return [one.offset for one in publications]


def test_the_next_offset_is_handed_out() -> None:
    log = log_at(4)
    ready, need = log.message("e", pub(5))
    assert (offsets(ready), need) == ([5], Need.NOTHING)
    assert log.position == StreamPosition(5, "e")


def test_an_older_offset_is_dropped() -> None:
    log = log_at(4)
    assert log.message("e", pub(4)) == ([], Need.NOTHING)


def test_a_jump_waits_for_repair_and_is_then_handed_out_behind_what_was_missing() -> None:
    log = log_at(4)
    assert log.message("e", pub(7)) == ([], Need.REPAIR)
    ready, need = log.repaired("e", [pub(5), pub(6)])
    assert (offsets(ready), need) == ([5, 6, 7], Need.NOTHING)


def test_a_hole_that_fills_by_itself_needs_nothing() -> None:
    log = log_at(4)
    log.message("e", pub(6))
    ready, need = log.message("e", pub(5))
    assert (offsets(ready), need) == ([5, 6], Need.NOTHING)


def test_a_read_with_a_hole_is_not_handed_out_behind_it() -> None:
    log = log_at(4)
    ready, need = log.repaired("e", [pub(5), pub(7)])
    assert (offsets(ready), need) == ([5], Need.REPAIR)


def test_another_epoch_asks_for_a_resync() -> None:
    log = log_at(4)
    assert log.message("other", pub(5)) == ([], Need.RESYNC)
    assert log.repaired("other", [pub(5)]) == ([], Need.RESYNC)


def test_the_ring_answers_only_for_what_it_has_whole() -> None:
    log = log_at(0, ring_size=3)
    for offset in range(1, 6):
        log.message("e", pub(offset))
    assert offsets(log.since(2) or []) == [3, 4, 5]
    assert log.since(1) is None
    assert log.since(5) == []
    assert offsets(log.since(4) or []) == [5]


def test_the_ring_is_bounded_in_bytes_too() -> None:
    log = ChannelLog(StreamPosition(0, "e"), ring_size=100, ring_max_bytes=10, buffer_size=4)
    for offset in range(1, 8):
        log.message("e", Publication(data=b"12345", offset=offset))
    assert offsets(log.since(5) or []) == [6, 7]
    assert log.since(4) is None


def test_what_is_too_old_leaves_the_ring_and_what_is_not_stays() -> None:
    log = ChannelLog(StreamPosition(0, "e"), ring_size=8, ring_max_bytes=1_000, buffer_size=4, max_age_s=60)
    for offset in range(1, 6):
        log.message("e", Publication(data=b"1", offset=offset, time_ms=offset * 10_000))
    assert offsets(log.since(0, 69) or []) == [1, 2, 3, 4, 5]
    assert log.since(0, 71) is None
    assert offsets(log.since(1, 81) or []) == []
    assert offsets(log.since(2, 81) or []) == [3, 4, 5]
    log.refill([Publication(data=b"1", offset=2, time_ms=20_000)])
    assert log.since(1, 81) is None


def test_a_forgotten_ring_answers_for_nothing_before_now() -> None:
    log = log_at(0)
    log.message("e", pub(1))
    log.forget()
    assert log.since(0) is None
    assert log.since(1) == []


def test_what_a_read_found_stands_before_what_the_ring_has() -> None:
    log = log_at(4)
    log.message("e", pub(5))
    log.refill([pub(offset) for offset in range(2, 8)])  # the read was further on than what was delivered here
    assert offsets(log.since(1) or []) == [2, 3, 4, 5]
    log.refill([pub(2), pub(3)])
    assert offsets(log.since(1) or []) == [2, 3, 4, 5]
    log.message("e", pub(6))
    assert offsets(log.since(1) or []) == [2, 3, 4, 5, 6]


def test_a_read_that_does_not_reach_the_ring_is_not_put_before_it() -> None:
    log = log_at(4)
    log.refill([pub(1), pub(2), pub(3)])
    assert log.since(3) is None
    log.refill([pub(1), pub(2), pub(4)])
    assert offsets(log.since(3) or []) == [4]
    assert log.since(2) is None


def test_a_ring_takes_of_a_read_what_it_has_room_for() -> None:
    log = log_at(9, ring_size=3)
    log.refill([pub(offset) for offset in range(1, 10)])
    assert offsets(log.since(6) or []) == [7, 8, 9]
    assert log.since(5) is None
    log = ChannelLog(StreamPosition(9, "e"), ring_size=100, ring_max_bytes=10, buffer_size=4)
    log.refill([Publication(data=b"12345", offset=offset) for offset in range(1, 10)])
    assert offsets(log.since(7) or []) == [8, 9]
    assert log.since(6) is None


def test_any_loss_and_disorder_ends_in_every_offset_once_and_in_order() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        top = rng.randint(1, 60)
        feed = [offset for offset in range(1, top + 1) if rng.random() > 0.3]
        feed += rng.choices(range(1, top + 1), k=rng.randint(0, 10))
        for _ in range(rng.randint(0, 20)):
            i, j = rng.randrange(max(len(feed), 1)), rng.randrange(max(len(feed), 1))
            if feed:
                feed[i], feed[j] = feed[j], feed[i]
        log, got = log_at(0, buffer_size=rng.randint(1, 8)), []
        for offset in feed:
            ready, need = log.message("e", pub(offset))
            got += offsets(ready)
            if need is Need.REPAIR and rng.random() < 0.5:
                known = rng.randint(log.delivered, top)  # what a reader saw, perhaps some time ago
                ready, _ = log.repaired("e", [pub(one) for one in range(log.delivered + 1, known + 1)])
                got += offsets(ready)
        ready, need = log.repaired("e", [pub(one) for one in range(log.delivered + 1, top + 1)])
        got += offsets(ready)
        assert got == list(range(1, top + 1)), f"seed {seed}"
        assert need is Need.NOTHING, f"seed {seed}"


def test_a_ring_that_is_older_than_the_log_may_be_answers_for_nothing() -> None:
    log = ChannelLog(StreamPosition(0, "e"), ring_size=8, ring_max_bytes=1_000, buffer_size=4, ttl_s=10)
    log.message("e", Publication(data=b"1", offset=1, time_ms=100_000))
    log.message("e", Publication(data=b"2", offset=2, time_ms=105_000))
    assert offsets(log.since(0, 114.9) or []) == [1, 2]
    assert log.since(2, 115.0) == []
    assert log.since(0, 115.0) is None
    log.message("e", Publication(data=b"3", offset=3, time_ms=116_000))
    assert log.since(0, 116.0) is None
    assert offsets(log.since(2, 116.0) or []) == [3]


def test_what_is_before_something_that_erases_leaves_the_ring_and_comes_back_by_no_earlier_read() -> None:
    log = log_at(0)
    log.repaired("e", [pub(offset) for offset in range(1, 7)])
    begun = log.forgotten
    log.forget_before(5)
    assert log.forgotten != begun, "who reads puts nothing back"
    assert log.since(3) is None
    assert offsets(log.since(4) or []) == [5, 6]
    log.message("e", pub(7))
    assert offsets(log.since(4) or []) == [5, 6, 7]
    log.forget_before(9)
    assert log.since(6) is None
    log.repaired("e", [pub(offset) for offset in range(8, 40)])
    assert offsets(log.since(31) or []) == list(range(32, 40)), "its bytes are counted down"


def test_what_is_before_something_that_erases_is_not_put_back_by_a_later_read_either() -> None:
    """Its erasing may still go on when it is read: a purge takes a while."""
    log = log_at(0)
    log.repaired("e", [pub(offset) for offset in range(1, 5)])
    purge = Publication(data=b"p", offset=5, flags=ERASES)
    log.message("e", purge)
    log.forget_before(5)
    log.refill([pub(offset) for offset in range(1, 5)])
    assert log.since(3) is None
    assert offsets(log.since(4) or []) == [5]


def test_a_read_puts_nothing_back_that_is_before_something_that_erases() -> None:
    """The view was opened after it."""
    log = log_at(6)
    log.refill([pub(3), pub(4), Publication(data=b"p", offset=5, flags=ERASES), pub(6)])
    assert log.since(3) is None
    assert offsets(log.since(4) or []) == [5, 6]


def test_what_raced_with_something_that_erases_leaves_the_ring_once_it_is_erased_too() -> None:
    """An edit behind the delete of its message is erased without a publication."""
    log = log_at(4)
    log.message("e", Publication(data=b"d", offset=5, flags=ERASES, time_ms=100_000))
    log.forget_before(5)
    log.message("e", Publication(data=b"late", offset=6, time_ms=100_100))
    assert offsets(log.since(4, 109.9) or []) == [5, 6]
    begun = log.forgotten
    assert log.since(4, 110.0) is None
    assert log.forgotten != begun, "who reads puts nothing back"
    assert log.since(6, 110.0) == []
    log.message("e", Publication(data=b"7", offset=7, time_ms=110_500))
    assert offsets(log.since(6, 200.0) or []) == [7], "once"
    assert log.since(5, 200.0) is None
