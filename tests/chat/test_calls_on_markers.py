"""Methods on markers and preferences, against real Redis and both stores.

C27 any order of devices, C28 refusals, C2A what survives, and what is forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import Marker
from services.shared.errors import Unavailable
from tests.support.chat_calls import CallRefused, Replica, Site, dynamodb_site, sqlite_site
from tests.support.full import sized
from tests.support.redis import RedisServer
from thalamus.chat.v1 import chat_pb2 as pb

Json = dict[str, Any]
BOTH = pytest.mark.parametrize("site", ["sqlite", "dynamodb"], indirect=True)

# C27: (method, offset, generation that the device knows)
PROPOSALS = [
    ("markers.read", 5, 0),
    ("markers.read", 9, 0),
    ("markers.read", 7, 0),
    ("markers.unread", 4, 0),
    ("markers.read", 12, 0),
    ("markers.read", 6, 1),
]
GREATEST = Marker(1, 6)


@pytest.fixture
async def site(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Two replicas on SQLite, or on what a test says."""
    if getattr(request, "param", "sqlite") == "dynamodb":
        async with dynamodb_site(redis_url, request.getfixturevalue("dynamodb")) as made:
            yield made
    else:
        async with sqlite_site(redis_url, tmp_path / "log.sqlite3") as made:
            yield made


async def group(replica: Replica, *others: str, messages: int = 12) -> str:
    """A group of u1 and these users, and so many messages at the end of its log."""
    channel = str((await replica.call("u1", "conversations.create", users=list(others)))["channel"])
    for number in range(messages):
        await replica.call("u1", "messages.send", channel=channel, text=str(number))
    return channel


async def marker(replica: Replica, user: str, channel: str) -> Marker:
    return (await replica.chat.markers.of_user(user, [channel]))[channel].marker


def notices(response: pb.CallResponse) -> list[tuple[str, Json]]:
    return [(one.user, json.loads(one.data)) for one in response.notices]


async def refusal(replica: Replica, user: str, method: str, /, **params: Any) -> tuple[int, str]:
    with pytest.raises(CallRefused) as refused:
        await replica.call(user, method, **params)
    return refused.value.code, refused.value.why


async def flush(site: Site) -> None:
    await site.replicas[0].chat.flusher.flush()


async def test_a_marker_is_moved_and_the_other_devices_are_told(a: Replica, b: Replica) -> None:
    channel = await group(a, "u2")
    said = await a.call("u2", "markers.read", channel=channel, offset=9)
    as_of = said.pop("as_of")
    assert said == {"channel": channel, "generation": 0, "offset": 9, "delivered": 9, "moved": True}
    assert as_of["offset"] == 14
    again = await b.ask("u2", "markers.read", channel=channel, offset=9)
    assert (json.loads(again.result)["moved"], notices(again)) == (False, [])
    less = await b.ask("u2", "markers.read", channel=channel, offset=3)
    assert (json.loads(less.result)["offset"], notices(less)) == (9, [])
    more = await b.ask("u2", "markers.unread", channel=channel, offset=4, epoch=as_of["epoch"])
    assert notices(more) == [("u2", {"kind": "marker", "channel": channel, "generation": 1, "offset": 3})]
    assert json.loads(more.result)["delivered"] == 9
    assert await marker(a, "u2", channel) == (1, 3)
    got = await a.ask("u2", "markers.delivered", channel=channel, offset=12)
    assert (json.loads(got.result)["offset"], json.loads(got.result)["delivered"], notices(got)) == (3, 12, [])


@pytest.mark.parametrize("seed", range(sized(2, 20)))
async def test_c27_any_order_of_devices_and_repeats_ends_alike(a: Replica, b: Replica, seed: int) -> None:
    """Orders of calls, each twice; a user for each order, so that they run at once."""
    chance = random.Random(seed)
    orders = list(itertools.permutations(PROPOSALS))
    orders = chance.sample(orders, sized(40, len(orders)))
    channel = await group(a, *(f"m{number}" for number in range(len(orders))))
    turns = asyncio.Semaphore(16)

    async def play(user: str, order: list[tuple[str, int, int]]) -> None:
        before = Marker()
        for method, offset, generation in order:
            device = chance.choice([a, b])
            said = await device.call(user, method, channel=channel, offset=offset, generation=generation)
            after = Marker(said["generation"], said["offset"])
            assert after >= before, (seed, user, order)
            assert after.generation > before.generation or after.offset >= before.offset, (seed, user, order)
            before = after

    async def one(number: int) -> None:
        twice = [*orders[number], *orders[number]]
        if number % 3 == 1:
            twice = [proposal for proposal in orders[number] for _ in range(2)]
        elif number % 3 == 2:
            chance.shuffle(twice)
        async with turns:
            await play(f"m{number}", twice)
        assert await marker(a, f"m{number}", channel) == GREATEST, (seed, twice)

    await asyncio.gather(*(one(number) for number in range(len(orders))))


@BOTH
async def test_c27_devices_at_once_end_alike(a: Replica, b: Replica) -> None:
    channel = await group(a, "u2")
    await asyncio.gather(
        *(
            device.call("u2", method, channel=channel, offset=offset, generation=generation)
            for method, offset, generation in PROPOSALS
            for device in (a, b)
        )
    )
    assert await marker(a, "u2", channel) == await marker(b, "u2", channel) == GREATEST


async def test_c28_what_is_refused_moves_nothing(a: Replica, b: Replica) -> None:
    channel = await group(a, "u2")
    foreign = await group(a, "u3")
    await a.call("u2", "markers.read", channel=channel, offset=7)
    before = await marker(a, "u2", channel)
    for method in ("markers.read", "markers.unread", "markers.delivered"):
        for offset in (15, 2**53 - 1, 2**53, 0, -1):
            assert await refusal(b, "u2", method, channel=channel, offset=offset) == (107, "malformed"), offset
        assert (await refusal(b, "u2", method, channel=channel, offset=9, epoch="other"))[0] == 107
        assert (await refusal(b, "u2", method, channel=foreign, offset=9))[0] == 103
        assert (await refusal(b, "", method, channel=channel, offset=9))[0] == 107  # the platform reads nothing
    for generation in (-1, 2**31):
        assert (await refusal(b, "u2", "markers.read", channel=channel, offset=9, generation=generation))[0] == 107
    assert (await refusal(b, "u2", "markers.unread", channel=channel, offset=9, generation=2**31 - 1))[0] == 107
    assert await marker(a, "u2", channel) == await marker(b, "u2", channel) == before
    assert await marker(a, "u2", foreign) == Marker()


async def test_c28_who_may_not_read_any_more_moves_nothing(a: Replica) -> None:
    channel = await group(a, "u2", "u3")
    await a.call("u1", "members.remove", channel=channel, user="u2")
    assert (await refusal(a, "u2", "markers.read", channel=channel, offset=9))[0] == 103
    assert (await refusal(a, "u2", "conversations.preferences", channel=channel, muted=True))[0] == 103
    await a.call("u1", "conversations.delete", channel=channel)
    assert (await refusal(a, "u3", "markers.read", channel=channel, offset=9))[0] == 103


async def test_in_another_epoch_all_is_unread(a: Replica) -> None:
    channel = await group(a, "u2")
    live = await a.conversations.current(channel)
    await a.chat.markers.merge("u2", channel, "before", Marker(3, 9))
    place = (await a.chat.markers.of_user("u2", [channel]))[channel]
    assert place.within(live.epoch).marker == (4, 0)
    assert (await a.call("u2", "markers.read", channel=channel, offset=5))["generation"] == 4
    assert (await a.chat.markers.of_user("u2", [channel]))[channel].within(live.epoch).marker == (4, 5)


@BOTH
async def test_preferences_are_kept_at_once_and_the_other_devices_are_told(site: Site, a: Replica, b: Replica) -> None:
    channel = await group(a, "u2", messages=1)
    none = {"channel": channel, "muted": False, "archived": False, "notify": "all"}
    assert await a.call("u2", "conversations.preferences", channel=channel) == none
    said = await a.ask("u2", "conversations.preferences", channel=channel, muted=True, notify="mentions")
    all_of_it = {"channel": channel, "muted": True, "archived": False, "notify": "mentions"}
    assert json.loads(said.result) == all_of_it
    assert notices(said) == [("u2", {"kind": "preferences", **all_of_it})]
    (record,) = (await site.replicas[0].marker_store.load([Of("u2", channel)])).values()
    assert json.loads(record.settings) == {"muted_until_ms": 2**53 - 1, "notify": "mentions"}
    until = await b.call("u2", "conversations.preferences", channel=channel, muted_until=1_900_000_000_000)
    assert until == {**all_of_it, "muted_until": 1_900_000_000_000}
    place = (await a.chat.markers.of_user("u2", [channel]))[channel]
    assert place.preferences.is_muted(1_899_999_999_999)
    assert not place.preferences.is_muted(1_900_000_000_000)
    over = await b.call("u2", "conversations.preferences", channel=channel, muted_until=None, archived=True)
    assert over == {**none, "archived": True, "notify": "mentions"}
    assert notices(await b.ask("u2", "conversations.preferences", channel=channel, archived=True)) == []
    assert (await a.call("u2", "markers.read", channel=channel, offset=2))["offset"] == 2
    assert (await a.call("u2", "conversations.preferences", channel=channel))["archived"] is True


async def test_what_a_user_wants_everywhere(a: Replica, b: Replica) -> None:
    assert await a.call("u2", "me.preferences") == {"receipts": "members"}
    assert await a.call("u2", "me.preferences", receipts="private") == {"receipts": "private"}
    assert await b.call("u2", "me.preferences") == {"receipts": "private"}
    assert await b.call("u1", "me.preferences") == {"receipts": "members"}
    assert (await refusal(a, "", "me.preferences"))[0] == 107


async def forgets_what_it_had(redis_conn: redis.asyncio.Redis) -> None:
    """Redis comes back empty, but for the logs of channels."""
    names = [name for name in await redis_conn.keys("*") if b":read" in name or b"{markers}" in name]
    assert names
    await redis_conn.delete(*names)


@BOTH
@pytest.mark.parametrize("seed", range(sized(2, 20)))
async def test_c2a_an_empty_redis_costs_what_was_not_flushed(
    site: Site, a: Replica, b: Replica, redis_conn: redis.asyncio.Redis, seed: int
) -> None:
    """Never less than at the last flush, nor more than was acknowledged."""
    chance = random.Random(seed)
    channel = await group(a, "u2", "u3")
    acked: dict[str, list[Marker]] = {user: [Marker()] for user in ("u2", "u3")}
    flushed: dict[str, Marker] = dict.fromkeys(acked, Marker())
    for step in range(sized(60, 1_000)):
        action = chance.random()
        if action < 0.75:
            user, method = chance.choice(list(acked)), chance.choice(["markers.read"] * 4 + ["markers.unread"])
            said = await chance.choice([a, b]).call(user, method, channel=channel, offset=chance.randrange(1, 15))
            acked[user].append(Marker(said["generation"], said["offset"]))
        elif action < 0.9:
            await asyncio.gather(
                *(replica.chat.flusher.flush() for replica in chance.sample([a, b], chance.choice([1, 2])))
            )
            flushed = {user: markers[-1] for user, markers in acked.items()}
        else:
            if any(len(markers) > 1 for markers in acked.values()):
                await forgets_what_it_had(redis_conn)
            for user, markers in acked.items():
                found = await marker(chance.choice([a, b]), user, channel)
                assert flushed[user] <= found <= max(markers), (seed, step)
                assert found in markers, (seed, step)
                acked[user] = [*markers[: markers.index(found)], found]
    for user, markers in acked.items():
        assert await marker(a, user, channel) == markers[-1], (seed, user)


async def test_c2a_a_redis_that_was_killed_has_lost_no_marker(own_redis: RedisServer, tmp_path: Path) -> None:
    """It has an append-only file, and died before anything was flushed."""
    async with sqlite_site(own_redis.url, tmp_path / "log.sqlite3") as site:
        a, b = site.replicas
        channel = await group(a, "u2", "u3")
        await a.call("u2", "markers.read", channel=channel, offset=9)
        await b.call("u2", "markers.unread", channel=channel, offset=6)
        await b.call("u3", "markers.read", channel=channel, offset=12)
        await asyncio.to_thread(own_redis.kill)
        await asyncio.to_thread(own_redis.start)
        a.incarnation = b.incarnation = "second"
        assert await _once_it_answers(b, "u2", channel) == (1, 5)
        assert await marker(b, "u3", channel) == (0, 12)
        assert await a.chat.flusher.sweep(age_s=-1) in (2, 3)  # 3 if a slot of time ended in between
        await asyncio.to_thread(own_redis.kill)
        own_redis.wipe()
        await asyncio.to_thread(own_redis.start)
        a.incarnation = b.incarnation = "third"
        assert await _once_it_answers(a, "u2", channel) == (1, 5)
        assert await marker(b, "u3", channel) == (0, 12)


async def _once_it_answers(replica: Replica, user: str, channel: str) -> Marker:
    async with asyncio.timeout(20):
        while True:
            try:
                return await marker(replica, user, channel)
            except Unavailable:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("step", ["before it reads", "before it writes", "after it wrote"])
async def test_c2a_a_replica_dies_between_the_steps_of_a_flush(
    site: Site, a: Replica, b: Replica, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    channel = await group(a, "u2")
    await a.call("u2", "markers.read", channel=channel, offset=9)

    async def dies(*_: Any) -> None:
        raise ZeroDivisionError

    kept, store = a.chat.flusher._kept, a.chat.flusher._store  # noqa: SLF001
    name, of = {
        "before it reads": ("get", kept),
        "before it writes": ("merge", store),
        "after it wrote": ("remove", kept),
    }[step]
    with monkeypatch.context() as patched:
        patched.setattr(of, name, dies)
        with pytest.raises(ZeroDivisionError):
            await a.chat.flusher.flush()
    assert await b.chat.flusher.sweep(age_s=-1) == 1
    await forgets_what_it_had(redis_conn)
    assert await marker(b, "u2", channel) == (0, 9)


@BOTH
async def test_c2a_a_flush_that_was_slow_does_not_undo_a_newer_one(
    site: Site, a: Replica, b: Replica, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await group(a, "u2")
    store = a.chat.flusher._store  # noqa: SLF001
    merge, read, go_on = store.merge, asyncio.Event(), asyncio.Event()

    async def slow(records: Any) -> None:
        if not read.is_set():
            read.set()
            await go_on.wait()
        await merge(records)

    monkeypatch.setattr(store, "merge", slow)
    await a.call("u2", "markers.unread", channel=channel, offset=13)
    old = asyncio.create_task(a.chat.flusher.flush())
    await read.wait()
    await b.call("u2", "markers.unread", channel=channel, offset=5)
    await b.chat.flusher.flush()
    go_on.set()
    await old
    await forgets_what_it_had(redis_conn)
    assert await marker(b, "u2", channel) == (2, 4)


async def test_a_marker_that_moves_all_the_time_is_written_all_the_same(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its note belongs to a slot of time; later moves renew only their own."""
    monkeypatch.setattr("services.persistence.chat.markers.kept.SLOT_S", 0.02)
    channel = await group(a, "u2", messages=40)
    written = 0
    for offset in range(1, 42):
        await a.call("u2", "markers.read", channel=channel, offset=offset)
        await asyncio.sleep(0.01)
        written += await a.chat.flusher.sweep(age_s=0.03)
    assert written


async def test_a_note_that_was_renewed_meanwhile_stays(
    site: Site, a: Replica, b: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await group(a, "u2")
    await a.call("u2", "markers.read", channel=channel, offset=3)
    store = a.chat.flusher._store  # noqa: SLF001
    merge = store.merge

    async def and_meanwhile(records: Any) -> None:
        await merge(records)
        monkeypatch.setattr(store, "merge", merge)
        await asyncio.sleep(0.002)  # the next millisecond: notes have no other order
        await b.call("u2", "markers.read", channel=channel, offset=9)

    monkeypatch.setattr(store, "merge", and_meanwhile)
    await a.chat.flusher.sweep(age_s=-1)
    await b.chat.flusher.sweep(age_s=-1)
    (record,) = (await store.load([Of("u2", channel)])).values()
    assert record.offset == 9


@BOTH
async def test_who_leaves_is_forgotten(site: Site, a: Replica, b: Replica, redis_conn: redis.asyncio.Redis) -> None:
    channel = await group(a, "u2", "u3")
    for user in ("u1", "u2", "u3"):
        await a.call(user, "markers.read", channel=channel, offset=9)
        await a.call(user, "conversations.preferences", channel=channel, archived=True)
    await flush(site)
    await b.call("u2", "conversations.leave", channel=channel)
    await site.settle(channel)
    assert await marker(a, "u2", channel) == Marker(1, 0)
    await flush(site)
    store = site.replicas[0].marker_store
    assert {of.user for of in await store.load([Of(user, channel) for user in ("u1", "u2", "u3")])} == {"u1", "u3"}
    await a.call("u1", "conversations.delete", channel=channel)
    await site.settle(channel)
    await flush(site)
    assert await store.load([Of(user, channel) for user in ("u1", "u2", "u3")]) == {}


async def test_who_comes_back_begins_anew(site: Site, a: Replica, b: Replica) -> None:
    channel = await group(a, "u2")
    await a.call("u2", "markers.read", channel=channel, offset=9)
    await a.call("u2", "conversations.preferences", channel=channel, archived=True)
    await flush(site)
    await a.call("u1", "members.remove", channel=channel, user="u2")
    await site.settle(channel)
    await a.call("u1", "members.add", channel=channel, user="u2")
    await a.call("u2", "markers.read", channel=channel, offset=2)
    for _ in range(2):
        place = (await b.chat.markers.of_user("u2", [channel]))[channel]
        assert (place.marker.offset, place.preferences.archived) == (2, False)
        await flush(site)
    (record,) = (await site.replicas[0].marker_store.load([Of("u2", channel)])).values()
    assert (record.offset, record.settings) == (2, "")


async def test_who_left_and_came_back_long_ago_keeps_the_marker_while_the_log_is_folded(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the way there are positions at which the user is no member."""
    channel = await group(a, "u2")
    await a.call("u2", "conversations.leave", channel=channel)
    await a.call("u1", "members.add", channel=channel, user="u2")
    await site.settle(channel)
    await a.call("u2", "markers.read", channel=channel, offset=9)
    monkeypatch.setattr("services.persistence.chat.conversations._WRITE_AT", 1)
    await site.store.drop(channel)
    another = site.another()
    live = await another.conversations.current(channel)
    await another.conversations.write(live)
    assert (await marker(another, "u2", channel)).offset == 9
    await another.call("u2", "conversations.leave", channel=channel)
    await site.settle(channel)
    assert (await marker(another, "u2", channel)).offset == 0


@pytest.mark.parametrize("when", ["before", "before it asks who is away", "before it forgets"])
async def test_who_is_back_keeps_the_place_though_a_slow_replica_writes_the_leaving(
    site: Site, a: Replica, b: Replica, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    channel = await group(a, "u2", "u3")
    for user in ("u2", "u3"):
        await a.call(user, "markers.read", channel=channel, offset=5)
    await site.settle(channel)
    await a.rest()
    await b.rest()
    with monkeypatch.context() as patched:
        patched.setattr(a.queries, "settle", nothing)  # it dies before it writes that
        for user in ("u2", "u3"):
            await a.call(user, "conversations.leave", channel=channel)
    slow = await b.conversations.current(channel)

    async def come_back() -> None:
        await a.call("u1", "members.add", channel=channel, user="u2")
        await a.call("u2", "markers.read", channel=channel, offset=9)
        await a.call("u2", "conversations.preferences", channel=channel, archived=True)

    kept = b.chat.markers._kept  # noqa: SLF001
    get = kept.get

    async def get_then_come_back(wanted: Any) -> Any:
        monkeypatch.setattr(kept, "get", get)
        found = await get(wanted)
        await come_back()
        return found

    forget = kept.forget

    async def come_back_then_forget(wanted: Any) -> Any:
        monkeypatch.setattr(kept, "forget", forget)
        await come_back()
        return await forget(wanted)

    if when == "before":
        await come_back()
    elif when == "before it asks who is away":
        monkeypatch.setattr(kept, "get", get_then_come_back)
    else:
        monkeypatch.setattr(kept, "forget", come_back_then_forget)
    await b.conversations.write(slow)
    place = (await a.chat.markers.of_user("u2", [channel]))[channel]
    assert (place.marker.offset, place.preferences.archived) == (9, True)
    assert (await marker(a, "u3", channel)).offset == 0


async def nothing(_: str) -> None:
    """Do nothing."""


async def test_a_late_write_of_what_was_forgotten_is_deleted_again(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, of = await group(a, "u2"), Of("u2", "")
    await a.call("u2", "me.preferences", receipts="private")
    await a.call("u2", "markers.read", channel=channel, offset=9)
    store, kept = site.replicas[0].marker_store, a.chat.flusher._kept  # noqa: SLF001
    before = await kept.get([of])
    await a.chat.markers.forget([of])
    await flush(site)
    assert await store.load([of]) == {}
    await store.merge([(of, before[of].record)])  # a flush of another replica, that was slow
    await flush(site)
    assert await store.load([of]) == {}
    assert (await kept.get([of]))[of].forgotten_ms
    monkeypatch.setattr("services.persistence.chat.markers.flushing._FORGOTTEN_S", -1.0)
    await flush(site)
    assert not (await kept.get([of]))[of].text
    assert await a.chat.flusher.sweep(age_s=-1) == 0
    assert await a.call("u2", "me.preferences") == {"receipts": "members"}


@BOTH
async def test_what_is_kept_of_a_user_is_exported_and_erased(site: Site, a: Replica, b: Replica) -> None:
    flushed, fresh = [await group(a, "u2", messages=2) for _ in range(2)]
    await a.call("u2", "markers.read", channel=flushed, offset=3)
    await a.call("u2", "me.preferences", receipts="private")
    await flush(site)
    await a.call("u2", "markers.unread", channel=fresh, offset=3)
    await a.call("u2", "conversations.preferences", channel=fresh, muted_until=5)
    plain = {"muted": False, "archived": False, "notify": "all"}
    said = await b.call("u2", "me.export")
    assert said["preferences"] == {"receipts": "private"}
    assert sorted(said["places"], key=lambda one: one["generation"]) == [
        {"channel": flushed, "generation": 0, "offset": 3, "delivered": 3, **plain},
        {"channel": fresh, "generation": 1, "offset": 2, "delivered": 0, **plain, "muted": True, "muted_until": 5},
    ]
    said = await b.call("u2", "me.erase", leave=False)
    while not said["done"]:
        said = await b.call("u2", "me.erase", leave=False, cursor=said["cursor"])
    said = await a.call("u2", "me.export")
    assert (said["places"], said["preferences"]) == ([], {"receipts": "private"})
    await flush(site)
    assert await site.replicas[0].marker_store.load([Of("u2", one) for one in (flushed, fresh)]) == {}
    assert await b.call("u2", "me.preferences") == {"receipts": "private"}, "it holds in other namespaces, too"


async def test_many_places_are_exported_page_by_page(a: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.persistence.chat.methods.me._PLACES_AT_ONCE", 3)
    channels = [f"conv:g.{number:026}" for number in range(8)]
    for number, channel in enumerate(channels):
        await a.chat.markers.merge("u9", channel, "epoch", Marker(0, 1))
        if number == 4:
            await a.chat.flusher.flush()
    await a.chat.markers.merge("u9", "other:g.x", "epoch", Marker(0, 1))
    said = await a.call("u9", "me.export")
    found = said["places"]
    while "cursor" in said:
        said = await a.call("u9", "me.export", cursor=said["cursor"])
        found += said.get("places", [])
    assert [one["channel"] for one in found] == channels


async def test_an_orderly_stop_leaves_nothing_in_redis_alone(site: Site, a: Replica) -> None:
    channel = await group(a, "u2", messages=1)
    await a.call("u2", "markers.read", channel=channel, offset=2)
    await a.chat.drain(10)
    assert (await a.marker_store.load([Of("u2", channel)]))[Of("u2", channel)].offset == 2


async def test_markers_of_300_conversations_are_one_round_trip(a: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    channels = [f"conv:g.{number:026}" for number in range(300)]
    for channel in channels:
        await a.chat.markers.merge("u2", channel, "epoch", Marker(0, 1))
    asked: list[int] = []
    client = a.chat.markers._kept._client  # noqa: SLF001
    execute = client.execute

    async def counted(commands: Any, **options: Any) -> Any:
        asked.extend(len(command) for command in commands if command[0] == "HMGET")
        return await execute(commands, **options)

    monkeypatch.setattr(client, "execute", counted)
    found = await a.chat.markers.of_user("u2", channels)
    assert {place.marker for place in found.values()} == {Marker(0, 1)}
    assert asked == [302]


async def test_without_redis_nothing_is_acknowledged(a: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = await group(a, "u2", messages=1)

    async def gone(*_: Any, **__: Any) -> None:
        raise Unavailable("as if Redis had gone")

    kept = a.chat.markers._kept  # noqa: SLF001
    monkeypatch.setattr(kept._client, "run", gone)  # noqa: SLF001
    with pytest.raises(Unavailable):
        await a.chat.markers.merge("u2", channel, "epoch", Marker(0, 2))
    monkeypatch.undo()
    assert await marker(a, "u2", channel) == Marker()
