"""The roster on a real Redis.

Each join and leave once, whoever changes, crashes or sweeps at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio

from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import Change, Enter, Lease, Leave, Lost
from services.presence.domain.sweeper import sweep
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.incarnation.gate import RunTracker
from services.shared.redis.pipeline import RedisPipeline
from tests.support.redis import RedisServer
from tests.support.waiting import until
from thalamus.common.v1 import common_pb2

CHANNEL = "chat:room"
EDGE = Lease("edge-a", 1)


def entering(
    client: str,
    user: str,
    *,
    channel: str = CHANNEL,
    grace_s: float = 0.0,
    announce: bool = True,
    data: bytes = b"",
    **options: Any,
) -> Enter:
    info = common_pb2.ClientInfo(user=user, client=client, chan_info=data).SerializeToString()
    return Enter(channel, client, user, info, announce, grace_s, **options)


def leaving(client: str, *, clean: bool = True, channel: str = CHANNEL, at_most_s: float = 0.0) -> Leave:
    return Leave(channel, client, clean, at_most_s=at_most_s)


class Ear:
    """Joins, updates and leaves of the channel as pub/sub brings them.

    They look like this: ["+c1", "~c1=new info", "-c1"].
    """

    def __init__(self, pubsub: redis.asyncio.client.PubSub) -> None:
        self._pubsub = pubsub
        self.received: list[str] = []
        self.messages = 0

    async def listen(self, wait_s: float = 0.05) -> list[str]:
        while (message := await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=wait_s)) is not None:
            payload: bytes = message["data"]
            self.messages += 1
            if payload[:1] == keys.JOINS:
                joined = common_pb2.ClientInfos.FromString(payload[1:]).infos
                self.received += ["+" + info.client for info in joined]
            elif payload[:1] == keys.UPDATES:
                updated = common_pb2.ClientInfos.FromString(payload[1:]).infos
                self.received += [f"~{info.client}={info.chan_info.decode()}" for info in updated]
            else:
                self.received.append("-" + common_pb2.ClientInfo.FromString(payload[1:]).client)
        return self.received


@pytest.fixture
async def ear(redis_conn: redis.asyncio.Redis) -> AsyncIterator[Ear]:
    async with redis_conn.pubsub() as pubsub:
        await pubsub.subscribe(keys.pub(CHANNEL))
        await pubsub.get_message(timeout=60)  # the confirmation
        yield Ear(pubsub)


@pytest.fixture
async def roster(redis_pipeline: RedisPipeline) -> RedisRoster:
    made = RedisRoster(redis_pipeline)
    assert await made.renew(EDGE, 60.0, held=False)
    return made


async def members(roster: RedisRoster, channel: str = CHANNEL) -> dict[str, str]:
    found = [common_pb2.ClientInfo.FromString(info) async for page in roster.members(channel) for info in page]
    return {info.client: info.user for info in found}


async def run_out(roster: RedisRoster, lease: Lease) -> None:
    """Let a lease end: it is renewed for a moment."""
    assert (await roster.renew(lease, 0.01, held=True)).granted
    await asyncio.sleep(0.05)  # Redis' own clock


async def test_a_join_and_a_clean_leave_are_told_once(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "ann"), entering("c1", "ann")])
    assert await members(roster) == {"c1": "ann"}
    await roster.change(EDGE, [leaving("c1"), leaving("c1"), leaving("unknown")])
    assert await members(roster) == {}
    assert await ear.listen() == ["+c1", "-c1"]


async def test_those_who_come_together_are_told_in_one_message(roster: RedisRoster, ear: Ear) -> None:
    long = "u" * 20_000  # its length takes three bytes
    changes = [
        entering("c1", "ann"),
        entering("c2", long),
        entering("c3", "cid", announce=False),
        entering("c4", "dan"),
    ]
    await roster.change(EDGE, changes)
    assert await members(roster) == {"c1": "ann", "c2": long, "c3": "cid", "c4": "dan"}
    assert await ear.listen() == ["+c1", "+c2", "+c4"]
    assert ear.messages == 1


async def test_a_message_tells_of_no_more_than_64(roster: RedisRoster, ear: Ear) -> None:
    names = [f"c{number}" for number in range(130)]
    await roster.change(EDGE, [entering(name, name) for name in names])
    assert await ear.listen() == [f"+{name}" for name in names]
    assert ear.messages == 3
    assert await roster.stats([CHANNEL]) == [(130, 130)]


async def test_changes_of_a_channel_stay_in_order_though_some_are_made_together(roster: RedisRoster, ear: Ear) -> None:
    """Who goes leaves a place to the one behind, not to the one before."""
    await roster.change(EDGE, [entering("c1", "ann", grace_s=60.0)])
    changes: list[Change] = [entering("c2", "ann"), leaving("c1", clean=False)]
    changes += [entering("c3", "ann"), entering("c4", "ann")]
    await roster.change(EDGE, [entering("other", "bob", channel="chat:other"), *changes])
    assert await members(roster) == dict.fromkeys(("c2", "c3", "c4"), "ann")
    assert await ear.listen() == ["+c1", "+c2", "+c4"]


async def test_what_is_not_announced_is_on_the_roster_and_not_told(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "ann", announce=False)])
    assert await members(roster) == {"c1": "ann"}
    await roster.change(EDGE, [leaving("c1")])
    assert await ear.listen() == []


async def test_whoever_hears_a_join_finds_the_newcomer(roster: RedisRoster, ear: Ear) -> None:
    for number in range(20):
        change = asyncio.create_task(roster.change(EDGE, [entering(f"c{number}", "ann")]))
        while len(await ear.listen(0.01)) <= number:
            pass
        assert f"c{number}" in await members(roster)
        await change


async def test_after_a_broken_connection_the_entry_stays_for_its_grace_and_leaves_once(
    roster: RedisRoster, ear: Ear
) -> None:
    await roster.change(EDGE, [entering("c1", "ann", grace_s=1.0)])
    await roster.change(EDGE, [leaving("c1", clean=False)])
    await sweep(roster)
    assert await members(roster) == {"c1": "ann"}
    await asyncio.sleep(1.05)  # Redis' own clock
    await asyncio.gather(*(sweep(roster) for _ in range(4)))
    assert await members(roster) == {}
    assert await ear.listen() == ["+c1", "-c1"]
    assert await roster.stats([CHANNEL]) == [(0, 0)]


@pytest.mark.parametrize("seed", range(5))
async def test_a_grace_ends_when_the_shorter_of_both_has_passed(
    seed: int, redis_conn: redis.asyncio.Redis, roster: RedisRoster, ear: Ear
) -> None:
    """The namespace's and the edge's; the repeat of a leave begins no other one."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(40):
        name = f"c{number}"
        grace_s, at_most_s = rng.choice((0.0, 1.0, rng.uniform(1, 3_600))), rng.choice((0.0, 2.0, rng.uniform(1, 9)))
        await roster.change(EDGE, [entering(name, name, grace_s=grace_s)])
        before = await redis_conn.time()
        for _ in range(rng.randint(1, 3)):
            await roster.change(EDGE, [leaving(name, clean=False, at_most_s=at_most_s)])
        after = await redis_conn.time()
        expected_ms = int(1_000 * grace_s) if not at_most_s else min(int(1_000 * grace_s), int(1_000 * at_most_s))
        due = await redis_conn.zscore("t:presence:due", f"{CHANNEL}\n{name}")
        if expected_ms == 0:
            assert due is None
            assert name not in await members(roster)
        else:
            assert due is not None
            assert before[0] * 1_000 + before[1] // 1_000 - 1 <= due - expected_ms
            assert due - expected_ms <= after[0] * 1_000 + after[1] // 1_000 + 1


async def test_the_users_next_client_takes_the_place_unseen(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "ann", grace_s=5.0), entering("c2", "bob")])
    await roster.change(EDGE, [leaving("c1", clean=False), entering("c3", "ann")])
    assert await members(roster) == {"c2": "bob", "c3": "ann"}
    assert await roster.stats([CHANNEL]) == [(2, 2)]
    assert await ear.listen() == ["+c1", "+c2"]
    await roster.change(EDGE, [leaving("c3")])
    assert await ear.listen() == ["+c1", "+c2", "-c1", "-c3"]  # who knows c1 from its join keeps nobody


async def test_whoever_says_something_is_told_behind_the_leaves_of_those_before(roster: RedisRoster, ear: Ear) -> None:
    async def comes_back(number: int, **options: Any) -> None:
        came = entering(f"c{number}", "ann", grace_s=5.0, **options)
        await roster.change(EDGE, [leaving(f"c{number - 1}", clean=False), came])

    await roster.change(EDGE, [entering("c1", "ann", grace_s=5.0)])
    await comes_back(2)
    await comes_back(3)
    assert await ear.listen() == ["+c1"]
    await roster.change(EDGE, [entering("c3", "ann", grace_s=5.0, data=b"1", updated=True)])
    assert await ear.listen() == ["+c1", "-c1", "-c2", "~c3=1"]
    ear.received.clear()
    await comes_back(4, data=b"2")
    assert await ear.listen() == ["-c3", "+c4"]
    ear.received.clear()
    for number in range(5, 14):  # the ninth time in a row it is told
        await comes_back(number, data=b"2", updated=True)
    assert await ear.listen() == [*(f"-c{number}" for number in range(4, 13)), "+c13"]
    await roster.change(EDGE, [leaving("c13")])
    assert (await ear.listen())[-2:] == ["+c13", "-c13"]


async def test_nothing_is_kept_of_a_roster_that_is_empty(roster: RedisRoster, redis_conn: redis.asyncio.Redis) -> None:
    await roster.change(EDGE, [entering("c1", "ann", grace_s=5.0), leaving("c1", clean=False), entering("c2", "ann")])
    assert await redis_conn.hlen(f"t:presence:{{{CHANNEL}}}:unseen") == 1
    await roster.change(EDGE, [leaving("c2")])
    assert await redis_conn.exists(f"t:presence:{{{CHANNEL}}}:unseen") == 0


async def test_changes_stay_in_order_behind_a_loss_of_all_scripts(
    roster: RedisRoster, ear: Ear, redis_conn: redis.asyncio.Redis
) -> None:
    """The script of leaves has not run since, that of enters has."""
    await redis_conn.script_flush()
    await roster.change(EDGE, [entering("c1", "ann", grace_s=5.0)])
    await roster.change(EDGE, [leaving("c1", clean=False), entering("c2", "ann", grace_s=5.0)])
    assert await members(roster) == {"c2": "ann"}
    assert await ear.listen() == ["+c1"]


async def test_the_anonymous_take_nobodys_place_and_count_as_one_user(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "", grace_s=5.0)])
    await roster.change(EDGE, [leaving("c1", clean=False), entering("c2", ""), entering("c3", "")])
    assert await roster.stats([CHANNEL]) == [(3, 1)]
    assert await ear.listen() == ["+c1", "+c2", "+c3"]


async def test_a_dead_edges_members_leave_once_though_many_sweep(roster: RedisRoster, ear: Ear) -> None:
    dead = Lease("edge-dead", 1)
    assert (await roster.renew(dead, 60.0, held=False)).granted
    await roster.change(dead, [entering(f"c{number}", f"u{number}") for number in range(200)])
    await roster.change(EDGE, [entering("other", "other")])
    await run_out(roster, dead)
    await asyncio.gather(*(sweep(roster) for _ in range(4)))
    await sweep(roster)
    assert await members(roster) == {"other": "other"}
    received = await ear.listen()
    assert sorted(entry for entry in received if entry[0] == "-") == sorted(f"-c{number}" for number in range(200))


async def test_a_lease_that_ran_out_is_never_renewed_and_the_next_generation_keeps_who_is_still_there(
    roster: RedisRoster, ear: Ear
) -> None:
    old, new = Lease("edge-b", 1), Lease("edge-b", 2)
    assert (await roster.renew(old, 60.0, held=False)).granted
    await roster.change(old, [entering("stays", "ann"), entering("goes", "bob")])
    await run_out(roster, old)
    assert not (await roster.renew(old, 60.0, held=True)).granted
    assert (await roster.renew(new, 60.0, held=False)).granted
    assert not (await roster.renew(old, 60.0, held=True)).granted
    await roster.change(new, [entering("stays", "ann")])
    for _ in range(2):
        await sweep(roster)
    assert await members(roster) == {"stays": "ann"}
    assert await ear.listen() == ["+stays", "+goes", "-goes"]


async def test_what_comes_late_under_an_older_generation_replaces_and_removes_nothing(
    roster: RedisRoster, ear: Ear
) -> None:
    newer = Lease(EDGE.edge, EDGE.generation + 1)
    await roster.change(EDGE, [entering("c1", "ann")])
    assert (await roster.renew(newer, 60.0, held=False)).granted
    await roster.change(newer, [entering("c1", "new")])
    await roster.change(EDGE, [entering("c1", "old"), leaving("c1")])
    assert await members(roster) == {"c1": "new"}
    await roster.reap(EDGE, 100)
    assert await members(roster) == {"c1": "new"}
    assert await ear.listen() == ["+c1"]


@pytest.mark.parametrize("seed", range(10))
async def test_random_schedules_agree_with_a_model(
    seed: int, redis_conn: redis.asyncio.Redis, roster: RedisRoster, ear: Ear
) -> None:
    """Two edges and users with several clients: roster, counts and events.

    Clean and unclean ends, with sweeps between.
    """
    print(f"seed {seed}")
    rng = random.Random(seed)
    edges = [EDGE, Lease("edge-c", 1)]
    await roster.renew(edges[1], 60.0, held=False)
    model: dict[str, tuple[str, Lease]] = {}
    gone: set[str] = set()
    unseen: dict[str, list[str]] = {}  # whose places a client took
    events: list[str] = []
    for step in range(120):
        action = rng.random()
        if action < 0.5:
            user, client, edge = f"u{rng.randint(0, 4)}", f"c{step}", rng.choice(edges)
            await roster.change(edge, [entering(client, user, grace_s=30.0)])
            waiting = [one for one in model if one in gone and model[one][0] == user]
            if waiting:
                replaced = set(await members(roster))
                (place,) = set(waiting) - replaced
                gone.discard(place)
                del model[place]
                unseen[client] = [*unseen.pop(place, []), place]
                if len(unseen[client]) > 8:
                    events += [*(f"-{one}" for one in unseen.pop(client)), f"+{client}"]
            else:
                events.append(f"+{client}")
            model[client] = (user, edge)
        elif model and action < 0.9:
            client = rng.choice(sorted(model))
            if client in gone:
                continue
            clean, at_most_s = rng.random() < 0.5, rng.choice((0.0, 20.0))
            await roster.change(model[client][1], [leaving(client, clean=clean, at_most_s=at_most_s)])
            if clean:
                del model[client]
                events += [f"-{one}" for one in (*unseen.pop(client, []), client)]
            else:
                gone.add(client)
        else:
            await sweep(roster)
        assert await members(roster) == {client: user for client, (user, _) in model.items()}
        assert await roster.stats([CHANNEL]) == [(len(model), len({user for user, _ in model.values()}))]
    assert await ear.listen() == events


async def test_what_comes_late_keeps_no_ghost_of_who_was_not_entered_again(roster: RedisRoster, ear: Ear) -> None:
    """The sweep finds members by an index: a refused change leaves it as it is."""
    newer = Lease(EDGE.edge, EDGE.generation + 1)
    await roster.change(EDGE, [entering("c1", "ann"), entering("c2", "bob")])
    assert (await roster.renew(newer, 60.0, held=False)).granted
    assert not await roster.change(EDGE, [entering("c1", "ann", data=b"1"), entering("c3", "cid")])
    await roster.reap(EDGE, 100)
    assert await members(roster) == {}
    assert sorted(await ear.listen()) == ["+c1", "+c2", "-c1", "-c2"]


async def test_who_leaves_and_enters_again_in_one_batch_is_found_by_the_sweep(roster: RedisRoster) -> None:
    await roster.change(EDGE, [entering("c1", "ann"), leaving("c1"), entering("c1", "ann")])
    await roster.change(EDGE, [entering("c2", "bob", grace_s=5.0), leaving("c2", clean=False)])
    await roster.change(EDGE, [entering("c3", "bob"), entering("c2", "bob")])  # c3 takes the place of c2
    assert await members(roster) == {"c1": "ann", "c2": "bob", "c3": "bob"}
    await roster.reap(EDGE, 100)
    assert await members(roster) == {}


async def test_a_repeated_leave_whose_grace_is_over_takes_the_member_away(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis, ear: Ear
) -> None:
    """The note of when the grace ends was lost with the process that wrote it."""
    await roster.change(EDGE, [entering("c1", "ann", grace_s=0.05)])
    await roster.change(EDGE, [leaving("c1", clean=False)])
    await redis_conn.delete("t:presence:due")
    await asyncio.sleep(0.06)
    await roster.change(EDGE, [leaving("c1", clean=False)])
    assert await roster.stats([CHANNEL]) == [(0, 0)]
    assert await ear.listen() == ["+c1", "-c1"]


async def test_reconnects_within_the_grace_leave_nothing_behind_in_the_index(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    for number in range(20):
        await roster.change(EDGE, [entering(f"c{number}", "ann", grace_s=10.0)])
        await roster.change(EDGE, [leaving(f"c{number}", clean=False)])
    await roster.change(EDGE, [entering("last", "ann")])
    assert await roster.stats([CHANNEL]) == [(1, 1)]
    assert await redis_conn.smembers(f"t:presence:index:{EDGE.edge}:{EDGE.generation}") == {f"{CHANNEL}\nlast".encode()}


async def step_clock(client: redis.asyncio.Redis, by_s: float) -> None:
    """As if the clock of Redis' host had been set by so much.

    All that is kept is as much older, or younger.
    """
    assert await client.eval(
        """
        for _, key in ipairs(redis.call('KEYS', '*presence*')) do
          if redis.call('TYPE', key).ok == 'zset' then
            for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
              redis.call('ZINCRBY', key, -ARGV[1], member)
            end
          end
        end
        local at = redis.call('HGET', 't:presence:clock', 'at')
        if at then
          local wall, ms, most = string.match(at, '^(%d+) (%d+) (%d+)$')
          at = string.format('%d %d %s', wall - ARGV[1], ms - ARGV[1], most)
          redis.call('HSET', 't:presence:clock', 'at', at)
        end
        return 1
        """,
        0,
        int(by_s * 1000),
    )


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
async def test_a_clock_that_is_set_keeps_no_ghost_and_ends_no_lease(
    step_s: float, redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, ear: Ear
) -> None:
    """Members whose time is over go, though the clock of Redis was set by an hour.

    Of a dead edge, and one whose grace had begun.
    """
    roster = RedisRoster(redis_pipeline, sweep_s=0.05)
    dead, alive = Lease("edge-dead", 1), Lease("edge-alive", 1)
    for lease in (dead, alive):
        assert (await roster.renew(lease, 60.0, held=False)).granted
    await roster.change(dead, [entering("c1", "ann")])
    await roster.change(alive, [entering("c2", "bob"), entering("c3", "cid", grace_s=1.0)])
    assert (await roster.renew(dead, 1.0, held=True)).granted
    await roster.change(alive, [leaving("c3", clean=False)])
    await sweep(roster)
    await step_clock(redis_conn, step_s)
    assert (await roster.renew(alive, 5.0, held=True)).granted  # before anybody looked
    await sweep(roster)
    assert await ear.listen() == ["+c1", "+c2", "+c3"]

    async def nobody_else_is_left() -> bool:
        await sweep(roster)
        assert (await roster.renew(alive, 5.0, held=True)).granted
        return await members(roster) == {"c2": "bob"}

    await until(nobody_else_is_left)
    assert sorted(await ear.listen()) == ["+c1", "+c2", "+c3", "-c1", "-c3"]


async def test_the_clock_of_presence_goes_as_redis_does_and_comes_back_to_it(
    redis_conn: redis.asyncio.Redis, roster: RedisRoster
) -> None:
    async def clock() -> tuple[int, int]:
        at = await redis_conn.hget("t:presence:clock", "at")
        assert at is not None
        wall, ms, _ = at.split()
        return int(wall), int(ms)

    await sweep(roster)
    wall, ms = await clock()
    assert wall == ms
    await redis_conn.hset("t:presence:clock", "at", f"{wall} {ms + 60_000} 3000")  # it was set back by a minute
    before = (wall, ms + 60_000)
    for _ in range(5):
        await asyncio.sleep(0.05)
        await sweep(roster)
        now = await clock()
        passed = now[0] - before[0]
        assert 0.85 * passed - 1 <= now[1] - before[1] <= passed  # a tenth of it goes to come nearer
        before = now


async def test_time_in_which_nobody_could_look_ends_no_lease(
    redis_conn: redis.asyncio.Redis, roster: RedisRoster
) -> None:
    """Presence, or Redis, was away for a minute: no edge could have renewed."""
    edge = Lease("edge-b", 1)
    assert (await roster.renew(edge, 12.0, held=False)).granted
    await roster.change(edge, [entering("c1", "ann")])
    await sweep(roster)
    await step_clock(redis_conn, 60.0)
    await sweep(roster)
    assert await members(roster) == {"c1": "ann"}
    assert (await roster.renew(edge, 12.0, held=True)).granted


async def test_who_was_on_a_roster_that_redis_lost_does_not_join_twice(
    redis_conn: redis.asyncio.Redis, roster: RedisRoster, ear: Ear
) -> None:
    roster_name = (await roster.renew(EDGE, 60.0, held=True)).roster
    await roster.change(EDGE, [entering("c1", "ann"), entering("c2", "bob")])
    await redis_conn.flushall()
    lost = await roster.renew(EDGE, 60.0, held=False, roster=roster_name)
    assert not lost.granted
    assert lost.roster != roster_name
    newer = Lease(EDGE.edge, 2)
    assert (await roster.renew(newer, 60.0, held=False, roster=lost.roster)) == (True, lost.roster)
    again, gone = replace(entering("c1", "ann"), known=True), leaving("c2")
    info = common_pb2.ClientInfo(user="bob", client="c2").SerializeToString()
    await roster.change(newer, [again, replace(gone, lost=Lost(info, "bob", True, 0, False)), entering("c3", "cid")])
    assert await members(roster) == {"c1": "ann", "c3": "cid"}
    assert await roster.stats([CHANNEL]) == [(2, 2)]
    assert await ear.listen() == ["+c1", "+c2", "-c2", "+c3"]


async def test_a_redis_that_was_started_anew_is_asked_for_nothing_it_may_have_lost(
    redis_pipeline: RedisPipeline, ear: Ear
) -> None:
    """It lost the enter of c2 and the leave of c3, and nobody can tell.

    The edge enters its members anew, unseen.
    """
    run = "first"
    roster = RedisRoster(redis_pipeline, lambda: run)
    lease = Lease("edge-b", 1)
    assert (await roster.renew(lease, 60.0, held=False)).granted
    await roster.change(lease, [entering("c1", "ann"), entering("c3", "carol")])
    assert (await roster.renew(lease, 60.0, held=True)).granted
    run = "second"
    assert not (await roster.renew(lease, 60.0, held=True)).granted
    newer = Lease("edge-b", 2)
    assert (await roster.renew(newer, 1.0, held=False)).granted  # so long it has for entering its members
    assert (await roster.renew(newer, 60.0, held=True)).granted
    await roster.change(newer, [entering("c1", "ann"), entering("c2", "bob")])
    await sweep(roster)
    assert await ear.listen() == ["+c1", "+c3", "+c2"]  # nobody was seen leaving
    assert await roster.stats([CHANNEL]) == [(3, 3)]
    await asyncio.sleep(1.05)  # Redis' own clock
    await sweep(roster)
    assert await ear.listen() == ["+c1", "+c3", "+c2", "-c3"]
    assert await roster.stats([CHANNEL]) == [(2, 2)]


async def test_a_lease_is_not_renewed_by_the_first_that_reaches_a_redis_started_anew(own_redis: RedisServer) -> None:
    watch = RunTracker()
    pipeline = RedisPipeline(own_redis.url, gate=watch)
    roster = RedisRoster(pipeline, lambda: watch.run_id)
    assert (await roster.renew(EDGE, 60.0, held=False)).granted
    assert (await roster.renew(EDGE, 60.0, held=True)).granted
    own_redis.kill()
    own_redis.start()
    renewed = None
    while renewed is None:
        with contextlib.suppress(Unavailable):  # the connection is found to be lost
            renewed = (await roster.renew(EDGE, 60.0, held=True)).granted
    assert not renewed
    await pipeline.aclose()
