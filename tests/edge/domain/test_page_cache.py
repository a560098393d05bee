"""The cache of pages: what it must never answer, and what it holds at most."""

from __future__ import annotations

import pytest

from services.edge.domain.channels.page_cache import PageCache
from services.edge.domain.model import Publication

OVERHEAD = 200


def page(size: int) -> list[Publication]:
    return [Publication(b"x" * size)]


def key(offset: int) -> tuple[str, str, int]:
    return "room", "epoch", offset


SIZE = page(1_000)[0].size + OVERHEAD


def test_a_page_is_found_under_its_channel_epoch_and_offset_alone() -> None:
    cache, kept = PageCache(), page(1)
    cache.put(key(1), kept, cache.edition("room"), 0.0)
    assert cache.get(key(1)) is kept
    assert [cache.get(other) for other in (("hall", "epoch", 1), ("room", "other", 1), key(2))] == [None] * 3


def test_a_page_read_before_the_time_asked_for_is_not_given() -> None:
    cache, kept = PageCache(), page(1)
    cache.put(key(1), kept, cache.edition("room"), 10.0)
    assert cache.get(key(1), not_before=10.0) is kept
    assert cache.get(key(1), not_before=10.1) is None


def test_what_was_being_read_when_a_history_was_removed_is_not_kept() -> None:
    cache = PageCache()
    cache.put(key(1), page(1), cache.edition("room"), 0.0)
    begun = cache.edition("room")
    cache.clear()
    assert cache.get(key(1)) is None
    cache.put(key(1), page(1), begun, 0.0)
    assert cache.get(key(1)) is None
    cache.put(key(1), page(1), cache.edition("room"), 0.0)
    assert cache.get(key(1)) is not None


def test_over_its_bound_the_page_goes_that_was_unused_for_longest() -> None:
    cache = PageCache(max_bytes=2 * SIZE)
    for offset in (1, 2):
        cache.put(key(offset), page(1_000), cache.edition("room"), 0.0)
    assert cache.get(key(1)) is not None
    cache.put(key(3), page(1_000), cache.edition("room"), 0.0)
    assert [cache.get(key(offset)) is not None for offset in (1, 2, 3)] == [True, False, True]


def test_a_page_that_is_put_again_counts_once() -> None:
    cache = PageCache(max_bytes=2 * SIZE)
    for _ in range(5):
        cache.put(key(1), page(1_000), cache.edition("room"), 0.0)
    cache.put(key(2), page(1_000), cache.edition("room"), 0.0)
    assert cache.get(key(1)) is not None
    assert cache.get(key(2)) is not None


def test_a_page_larger_than_the_bound_is_not_kept_and_leaves_room_for_others() -> None:
    cache = PageCache(max_bytes=SIZE)
    cache.put(key(1), page(2_000), cache.edition("room"), 0.0)
    assert cache.get(key(1)) is None
    cache.put(key(2), page(1_000), cache.edition("room"), 0.0)
    assert cache.get(key(2)) is not None


def test_after_a_clear_all_of_the_room_is_there() -> None:
    cache = PageCache(max_bytes=SIZE)
    cache.put(key(1), page(1_000), cache.edition("room"), 0.0)
    cache.clear()
    cache.put(key(2), page(1_000), cache.edition("room"), 0.0)
    assert cache.get(key(2)) is not None


def test_pages_of_a_channel_go_when_something_is_erased_from_it_and_no_others() -> None:
    cache = PageCache()
    hall = ("hall", "epoch", 1)
    for one in (key(1), key(2), hall):
        cache.put(one, page(1), cache.edition(one[0]), 0.0)
    begun = {name: cache.edition(name) for name in ("room", "hall")}
    cache.drop("room")
    assert [cache.get(one) is not None for one in (key(1), key(2), hall)] == [False, False, True]
    cache.put(key(1), page(1), begun["room"], 0.0)
    assert cache.get(key(1)) is None, "its read began before"
    cache.put(("hall", "epoch", 2), page(1), begun["hall"], 0.0)
    assert cache.get(("hall", "epoch", 2)) is not None
    cache.put(key(1), page(1), cache.edition("room"), 0.0)
    assert cache.get(key(1)) is not None


def test_what_is_dropped_leaves_its_room_to_others() -> None:
    cache = PageCache(2 * SIZE)
    for _ in range(5):
        for offset in (1, 2):
            cache.put(key(offset), page(1_000), cache.edition("room"), 0.0)
        assert cache.get(key(1)) is not None
        cache.drop("room")
    cache.put(key(1), page(1_000), cache.edition("room"), 0.0)
    cache.put(key(2), page(1_000), cache.edition("room"), 0.0)
    assert None not in (cache.get(key(1)), cache.get(key(2)))


def test_how_often_pages_were_dropped_is_kept_of_so_many_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.edge.domain.channels.page_cache._MAX_DROPPED", 3)
    cache = PageCache()
    begun = cache.edition("room")
    cache.drop("room")
    for number in range(5):
        cache.drop(f"hall {number}")
    cache.put(key(1), page(1), begun, 0.0)
    assert cache.get(key(1)) is None
