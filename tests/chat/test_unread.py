"""What is unread: each rule by itself, for whichever replica is asked."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import weakref
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.persistence.chat import live as live_module
from services.persistence.chat.markers.record import Marker, Place, Preferences, Record, settings_of
from services.persistence.chat.unread.counts import Counts, Unread
from services.shared.errors import Unavailable
from tests.support.chat import new_event
from tests.support.chat_calls import Replica, Site, dynamodb_site, sqlite_site
from tests.support.full import sized

MANY = sized(12, 500)


@pytest.fixture(params=["sqlite", pytest.param("dynamodb", marks=pytest.mark.full)])
async def both(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Two replicas, on each of the stores."""
    if request.param == "sqlite":
        async with sqlite_site(redis_url, tmp_path / "log.sqlite3") as made:
            yield made
    else:
        async with dynamodb_site(redis_url, request.getfixturevalue("dynamodb")) as made:
            yield made


async def group(site: Site, *users: str, **settings: Any) -> str:
    """A group of an owner and users."""
    made = await site.replicas[0].call("owner", "conversations.create", users=list(users), settings=settings)
    return str(made["channel"])


async def say(replica: Replica, user: str, channel: str, text: str = "x", **more: Any) -> int:
    return int((await replica.call(user, "messages.send", channel=channel, text=text, **more))["offset"])


async def unread(replica: Replica, user: str, channel: str, marker: int = 0) -> Unread:
    found: Unread = (await replica.chat.counts.of(user, {channel: Place(Marker(0, marker))}))[channel]
    assert not found.at_least, found
    assert not found.pending, found
    return found


async def everywhere(site: Site, user: str, channel: str, marker: int = 0) -> tuple[int, int]:
    """Unread messages and mentions, as all replicas say.

    One of them has nothing in memory.
    """
    said = [await unread(replica, user, channel, marker) for replica in (*site.replicas[:2], site.another())]
    assert len({(one.unread, one.mentions) for one in said}) == 1, said
    return said[0].unread, said[0].mentions


async def test_own_messages_never_count_and_mark_nothing_as_read(both: Site) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "bot")
    first = await say(a, "owner", channel)
    for number in range(3):  # two devices and a backend write for ann, and a bot answers
        await say(a, "ann", channel)
        await b.call("ann", "messages.send", channel=channel, text="from the other one")
        await say(a if number % 2 else b, "bot", channel)
    assert await everywhere(both, "ann", channel) == (4, 0)
    assert await everywhere(both, "ann", channel, first) == (3, 0)
    assert await everywhere(both, "bot", channel) == (7, 0)
    assert await everywhere(both, "owner", channel) == (9, 0)


@pytest.mark.parametrize("by", ["author", "moderator", "purge"])
async def test_deleted_messages_do_not_count(both: Site, by: str) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "ben")
    offsets = [await say(a, "ann", channel) for _ in range(5)]
    marker = offsets[0] - 1
    assert await everywhere(both, "ben", channel, marker) == (5, 0)
    if by == "purge":
        await b.call("owner", "messages.purge", channel=channel, user="ann", upto=offsets[1])
        assert await everywhere(both, "ben", channel, marker) == (3, 0)
        await a.call("ann", "messages.purge", channel=channel, user="ann")
    else:
        who = "ann" if by == "author" else "owner"
        await b.call(who, "messages.delete", channel=channel, of=offsets[-1])
        assert await everywhere(both, "ben", channel, marker) == (4, 0)
        assert await everywhere(both, "ben", channel, offsets[-2]) == (0, 0)
        await a.call(who, "messages.delete", channel=channel, of=offsets[2])
        assert await everywhere(both, "ben", channel, marker) == (3, 0)
        for of in (offsets[0], offsets[1], offsets[3]):
            await b.call(who, "messages.delete", channel=channel, of=of)
    assert await everywhere(both, "ben", channel, marker) == (0, 0)
    await both.settle(channel)
    assert await everywhere(both, "ben", channel, marker) == (0, 0)


async def test_a_purge_counts_at_once_however_long_erasing_takes(both: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "ben")
    offsets = [await say(a, "ann", channel, mentions=["ben"]) for _ in range(5)]
    await say(a, "owner", channel)

    async def refuse(*_: Any) -> Any:
        raise Unavailable("the store is slow")

    with monkeypatch.context() as patched:
        patched.setattr(a.log, "erase", refuse)
        await a.call("ann", "messages.purge", channel=channel, user="ann", upto=offsets[3])
        assert await everywhere(both, "ben", channel) == (2, 1)
        await both.settle(channel)
        assert await everywhere(both, "ben", channel) == (2, 1)
    assert await b.chat.eraser.sweep(0.0) == 1
    assert await everywhere(both, "ben", channel) == (2, 1)


async def test_nothing_but_messages_counts(site: Site) -> None:
    a, b = site.replicas
    channel = await group(site, "ann", "ben", join="anyone")
    of = await say(a, "ann", channel)
    await say(b, "ann", channel)
    for number in range(MANY):
        await a.call("ann", "messages.edit", channel=channel, of=of, text=str(number))
        await b.call("ben", "reactions.add" if number % 2 else "reactions.remove", channel=channel, of=of, name="x")
        await a.call("owner", "pins.remove" if number % 2 else "pins.add", channel=channel, of=of)
        await b.call("cid", "conversations.leave" if number % 2 else "conversations.join", channel=channel)
        await a.call("owner", "conversations.update", channel=channel, name=str(number))
        await say(b, "ann", channel, silent=True)
        await say(b, "ann", channel, thread=of)
    assert await everywhere(site, "ben", channel) == (2, 0)


async def test_each_message_mentions_a_user_once(both: Site) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "ben")
    first = await say(a, "ann", channel)
    assert await everywhere(both, "ben", channel) == (1, 0)
    await b.call("ann", "messages.edit", channel=channel, of=first, text="y", mentions=["ben", "ann"])
    assert await everywhere(both, "ben", channel) == (1, 1)
    assert await everywhere(both, "ann", channel) == (0, 0)
    await a.call("ann", "messages.edit", channel=channel, of=first, text="z")
    assert await everywhere(both, "ben", channel) == (1, 0)
    both_ways = await say(b, "ann", channel, mentions=["ben"], mention_all=True)
    assert await everywhere(both, "ben", channel) == (2, 1)
    assert await everywhere(both, "owner", channel) == (2, 1)
    in_thread = await say(a, "ann", channel, thread=first, mentions=["ben"])
    await say(a, "ann", channel, silent=True, mentions=["ben"], mention_all=True)
    assert await everywhere(both, "ben", channel) == (2, 2)
    assert await everywhere(both, "ben", channel, both_ways) == (0, 1)
    await both.settle(channel)
    await b.call("owner", "messages.delete", channel=channel, of=both_ways)
    await b.call("ann", "messages.delete", channel=channel, of=in_thread)
    assert await everywhere(both, "ben", channel) == (1, 0)


async def test_a_mention_may_be_written_with_escapes(both: Site) -> None:
    a, _b = both.replicas
    channel = await group(both, "ben")
    data = b'{"kind":"message","text":"x","\\u006dentions":["ben"]}'
    await a.appender.append(new_event("owner", data, channel))
    assert await everywhere(both, "ben", channel) == (1, 1)


async def test_older_versions_that_were_erased_mention_nobody(both: Site) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "ben", versions="erase")
    of = await say(a, "ann", channel, mentions=["ben"])
    await b.call("ann", "messages.edit", channel=channel, of=of, text="y", mentions=["owner"])
    assert await everywhere(both, "ben", channel) == (1, 0)
    assert await everywhere(both, "owner", channel) == (1, 1)
    await both.settle(channel)
    await a.call("ann", "messages.edit", channel=channel, of=of, text="z", mention_all=True)
    assert await everywhere(both, "ben", channel) == (1, 1)


async def test_removed_history_does_not_count(both: Site) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "ben")
    offsets = [await say(a, "ann", channel, mentions=["ben"]) for _ in range(6)]
    await both.settle(channel)
    assert await everywhere(both, "ben", channel, offsets[1]) == (4, 4)
    await a.log.remove_history(channel, offsets[0])  # below the marker
    assert await everywhere(both, "ben", channel, offsets[1]) == (4, 4)
    await b.log.remove_history(channel, offsets[3])  # and above it
    assert await everywhere(both, "ben", channel, offsets[1]) == (2, 2)
    assert await everywhere(both, "ben", channel) == (2, 2)


async def test_a_redis_that_lost_everything_is_told_what_was_removed(both: Site, redis_conn: Any) -> None:
    a, _b = both.replicas
    channel = await group(both, "ann", "ben")
    offsets = [await say(a, "ann", channel) for _ in range(4)]
    await both.settle(channel)
    await a.log.remove_history(channel, offsets[1])
    assert await everywhere(both, "ben", channel) == (2, 0)
    await redis_conn.flushdb()
    assert (await unread(both.another(), "ben", channel)).unread == 2


async def test_who_joins_has_unread_what_comes_behind(both: Site) -> None:
    a, b = both.replicas
    rng = random.Random(1)
    for _ in range(sized(4, 30)):
        channel = await group(both, "ann", join="anyone")
        await say(a, "ann", channel)
        work = [say(a, "ann", channel), b.call("cid", "conversations.join", channel=channel), say(b, "owner", channel)]
        rng.shuffle(work)
        await asyncio.gather(*work)
        log = await both.log(channel)
        joined = next(entry.offset for entry in log if b'"op":"join"' in entry.data)
        behind = sum(b'"message"' in entry.data and entry.offset > joined for entry in log)
        assert await everywhere(both, "cid", channel) == (behind, 0)


async def test_who_may_not_read_has_nothing_unread(site: Site) -> None:
    a, b = site.replicas
    channel = await group(site, "ann")
    await say(a, "ann", channel, mention_all=True)
    assert await everywhere(site, "stranger", channel) == (0, 0)
    assert await everywhere(site, "owner", channel) == (1, 1)
    await b.call("owner", "conversations.delete", channel=channel)
    assert await everywhere(site, "owner", channel) == (0, 0)
    assert (await unread(a, "owner", "conv:g.aaaaaaaaaaaaaaaaaaaaaaaaaa")) == Unread(0, 0, False, False, 0)


async def test_in_an_open_conversation_everybody_has_a_marker(site: Site) -> None:
    a, b = site.replicas
    channel = str((await a.call("owner", "conversations.create", type="open", id="lobby"))["channel"])
    offsets = [await say(a, "ann", channel) for _ in range(4)]
    assert await everywhere(site, "ben", channel, offsets[1]) == (2, 0)
    await b.call("owner", "members.role", channel=channel, user="ben", role="moderator")  # is no joining
    await say(b, "ann", channel)
    assert await everywhere(site, "ben", channel, offsets[1]) == (3, 0)
    await b.call("owner", "members.ban", channel=channel, user="cid")
    assert await everywhere(site, "cid", channel) == (0, 0)


async def test_the_badge_leaves_out_what_is_muted_or_archived(both: Site) -> None:
    a, b = both.replicas
    channels = [await group(both, "ann", "ben") for _ in range(5)]
    for number, channel in enumerate(channels):
        await asyncio.gather(*(say(a, "ann", channel) for _ in range(max(1, 10 * number))))
    assert await b.chat.badges.of("ben") == 1 + 10 + 20 + 30 + 40
    now_ms = int(time.time() * 1_000)
    wanted = [
        Preferences(),
        Preferences(muted_until_ms=now_ms - 1),
        Preferences(muted_until_ms=now_ms + 60_000),
        Preferences(archived=True),
    ]
    for channel, preferences in zip(channels, wanted, strict=False):
        epoch = (await a.conversations.current(channel)).epoch
        change = partial(Record._replace, settings=settings_of(preferences), version=1)
        await a.chat.markers.change("ben", channel, epoch, change)
    assert await b.chat.badges.of("ben") == 1 + 10 + 40
    await b.call("ben", "conversations.leave", channel=channels[0])
    assert await a.chat.badges.of("ben") == 10 + 40


async def test_methods_tell_how_far_one_has_read_and_what_is_unread(
    both: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "ben")
    offsets = [await say(a, "ann", channel, mention_all=number == 2) for number in range(3)]
    live = await a.conversations.current(channel)
    await a.chat.markers.merge("ben", channel, live.epoch, Marker(0, offsets[0]))
    as_of = {"epoch": live.epoch, "offset": offsets[-1]}
    read = {"generation": 0, "offset": offsets[0]}
    rest = {"channel": channel, "delivered": offsets[0], "unread": 2, "mentions": 1, "as_of": as_of}
    assert await b.call("ben", "markers.get", channel=channel) == {"marker": read, **rest}
    shown = await b.call("ben", "conversations.get", channel=channel)
    assert (shown["unread"], shown["mentions"], shown["as_of"]) == (2, 1, as_of)
    assert "unread" not in await b.call("", "conversations.get", channel=channel)
    assert (await b.ask("", "markers.get", channel=channel)).refusal.code == 107
    assert (await b.ask("stranger", "markers.get", channel=channel)).refusal.code == 103
    another = both.another()
    monkeypatch.setattr(another.chat.counts, "_max_rows", 1)
    for method in ("markers.get", "conversations.get"):
        assert (await another.call("ben", method, channel=channel))["at_least"] is True


# What can't be said exactly, and what is kept in memory.


def counts_of(replica: Replica, **bounds: int) -> Counts:
    return Counts(replica.conversations, replica.rows, replica.store, replica.chat.markers, lambda: 0, **bounds)


async def test_a_marker_far_back_gets_at_least_what_is_above_the_bound(site: Site) -> None:
    a, _ = site.replicas
    channel = await group(site, "ann", "ben")
    offsets = [await say(a, "ann", channel, mentions=["ben"]) for _ in range(30)]
    counts = counts_of(site.another(), max_rows=10)

    async def asked(marker: int) -> Unread:
        return (await counts.of("ben", {channel: Place(Marker(0, marker))}))[channel]

    assert await asked(0) == Unread(10, 10, True, False, offsets[-1])
    assert await asked(offsets[-11]) == Unread(10, 10, False, False, offsets[-1])
    assert await asked(offsets[-4]) == Unread(3, 3, False, False, offsets[-1])


async def test_memory_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = site.replicas
    channels = [await group(site, "ann", "ben") for _ in range(3)]
    for channel in channels:
        for _ in range(20):
            await say(a, "ann", channel)
    counts = counts_of(b, max_kept=45)
    places = {channel: Place() for channel in channels}
    for _ in range(3):
        assert [one.unread for one in (await counts.of("ben", places)).values()] == [20, 20, 20]
        kept = [live.recent for live in map(b.conversations.cached, channels) if live is not None]
        assert sum(len(recent) for recent in kept if recent is not None) <= 45
    monkeypatch.setattr(live_module, "_UNASKED", 5)
    live = await b.conversations.current(channels[-1])
    for number in range(8):
        await say(b, "ann", channels[-1])
        assert (live.recent is not None) == (number < 5), "it is kept while somebody asks"
    assert (await counts.of("ben", places))[channels[-1]].unread == 28


async def test_a_message_that_an_unreadable_event_has_erased_is_pending(
    both: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = both.replicas
    channel = await group(both, "ann", "ben")
    offsets = [await say(a, "ann", channel) for _ in range(3)]

    async def refuse(*_: Any) -> Any:
        raise Unavailable("it died before the commit")

    with monkeypatch.context() as patched:
        patched.setattr(a.hot, "commit", refuse)
        response = await a.ask("ann", "messages.delete", channel=channel, of=offsets[0])
        assert response.refusal.code == 100
    place = {channel: Place()}
    assert (await both.another().chat.counts.of("ben", place))[channel] == Unread(2, 0, False, True, offsets[-1])
    await b.log.sweep(0.0, 100)
    assert await everywhere(both, "ben", channel) == (2, 0)


async def test_who_asked_what_is_unread_keeps_no_conversation_in_memory(site: Site) -> None:
    a, b = site.replicas
    counts = counts_of(b, max_asked=3)
    gone = []
    for _ in range(8):
        channel = await group(site, "ann", "ben")
        await say(a, "ann", channel)
        assert (await counts.of("ben", {channel: Place()}))[channel].unread == 1
        live = b.conversations.cached(channel)
        assert live is not None
        assert live.recent is not None
        gone.append(weakref.ref(live))
        del live
        b.conversations.forget(channel)
    await b.chat.projection.flush()
    for _ in range(100):
        gc.collect()
        if not any(one() for one in gone):
            break
        await asyncio.sleep(0.05)
    assert not any(one() for one in gone), "they went, and counting held them"
    assert len(counts._asked) <= 3  # noqa: SLF001
