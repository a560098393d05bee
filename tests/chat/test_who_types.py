"""Who types: who may say it, who is told, and how often."""

# ruff: noqa: SLF001  # mutants change what is inside

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from services.persistence.chat.who_types import EVERY_MS, KEPT_MS, Typing
from services.shared.redis.pipeline import RedisPipeline
from tests.support.chat_calls import NAMESPACE, OPTIONS, CallRefused, Replica
from tests.support.full import sized
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.common.v1.common_pb2 import ClientInfo

STEPS = sized(400, 20_000)


async def group(a: Replica, *users: str) -> str:
    return str((await a.call("u1", "conversations.create", users=list(users)))["channel"])


async def said(replica: Replica, user: str, method: str, channel: str) -> tuple[Any, list[Any]]:
    """The answer without the channel, and the events."""
    response = await replica.ask(user, method, channel=channel)
    assert not response.HasField("refusal"), response
    assert {one.channel for one in response.ephemerals} <= {channel}
    assert not response.notices
    answer = json.loads(response.result)
    assert answer.pop("channel") == channel
    return answer, [json.loads(one.data) for one in response.ephemerals]


async def test_all_are_told_once_whichever_replica_is_asked(a: Replica, b: Replica) -> None:
    channel = await group(a, "u2")
    on, off = ({"kind": "typing", "user": "u2", "on": on} for on in (True, False))
    assert await said(a, "u2", "typing.start", channel) == ({"told": True}, [on])
    for replica in (a, b):
        assert await said(replica, "u2", "typing.start", channel) == ({"told": False, "why": "too_soon"}, [])
    assert await said(b, "u2", "typing.stop", channel) == ({"told": True}, [off])
    assert await said(a, "u2", "typing.stop", channel) == ({"told": False, "why": "unchanged"}, [])
    assert await said(a, "u1", "typing.start", channel) == ({"told": True}, [{**on, "user": "u1"}])
    listed = await a.call("u1", "messages.list", channel=channel)
    assert (listed["messages"], listed["as_of"]["offset"]) == ([], 2), "nothing is in the log"


@pytest.mark.parametrize("method", ["typing.start", "typing.stop"])
async def test_who_may_not_write_may_not_say_it_either(a: Replica, method: str) -> None:
    channel = await group(a, "u2")
    await a.call("u1", "members.add", channel=channel, user="reader", role="reader")
    await a.call("u1", "members.silence", channel=channel, user="u2", until=4_000_000_000_000)
    refusals = {}
    for user in ("reader", "u2", "stranger"):
        with pytest.raises(CallRefused) as refused:
            await a.call(user, method, channel=channel)
        refusals[user] = (refused.value.code, refused.value.why)
    assert refusals == {"reader": (103, "not_allowed"), "u2": (103, "silenced"), "stranger": (103, "not_allowed")}
    await a.call("u1", "conversations.close", channel=channel)
    with pytest.raises(CallRefused, match="103 closed"):
        await a.call("u1", method, channel=channel)
    with pytest.raises(CallRefused, match="107 malformed"):
        await a.call("", method, channel=channel)


async def test_nobody_is_told_where_too_many_would_be(a: Replica) -> None:
    """The bound here is 5; the log does not say how many follow an open one."""
    told: tuple[Any, list[Any]] = ({"told": False, "why": "too_many_members"}, [])
    full = await group(a, *(f"m{number}" for number in range(4)))
    assert (await said(a, "u1", "typing.start", full))[0] == {"told": True}
    await a.call("u1", "members.add", channel=full, user="m5")
    assert await said(a, "u1", "typing.start", full) == told
    lobby = str((await a.call("", "conversations.create", type="open", id="lobby"))["channel"])
    assert await said(a, "u1", "typing.stop", lobby) == told


async def test_an_edge_of_before_names_no_bound_so_nobody_is_told(a: Replica) -> None:
    channel = await group(a, "u2")
    options = pb.NamespaceOptions()
    options.CopyFrom(OPTIONS)
    options.ClearField("typing_max_members")
    request = pb.CallRequest(
        method="typing.start",
        info=ClientInfo(user="u1"),
        params=json.dumps({"channel": channel}).encode(),
        namespace=NAMESPACE,
        options=options,
    )
    response = await a.methods.call(request)
    assert (json.loads(response.result)["why"], list(response.ephemerals)) == ("too_many_members", [])


# How often: a model beside the script, by a clock that the test sets.


class Told(NamedTuple):
    """What others were told of one user, and when."""

    at: int
    on: bool


async def play(pipeline: RedisPipeline, seed: int, steps: int) -> dict[tuple[str, str], list[Told]]:
    """Random calls of two replicas; checks each outcome against what was told before."""
    rng, now = random.Random(seed), 1_800_000_000_000
    replicas = [Typing(pipeline, lambda: now) for _ in range(2)]
    told: dict[tuple[str, str], list[Told]] = {}
    for step in range(steps):
        now += rng.choice((0, 1, 500, EVERY_MS - 1, EVERY_MS, KEPT_MS - 1, KEPT_MS))
        where = (rng.choice(("conv:g.a", "conv:g.b")), rng.choice(("ann", "bob 😀")))
        begins, replica = rng.random() < 0.6, rng.choice(replicas)
        goes_out = await (replica.began if begins else replica.stopped)(*where)
        known = told.setdefault(where, [])
        last = max((one.at for one in known if one.on), default=0)
        is_on = bool(known) and known[-1].on and now - last < KEPT_MS
        expected = now - last >= EVERY_MS if begins else is_on
        assert goes_out == expected, (seed, step, where, begins)
        if goes_out:
            known.append(Told(now, begins))
    return told


async def test_others_are_told_at_most_once_in_three_seconds(redis_pipeline: RedisPipeline) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    told = await play(redis_pipeline, seed, STEPS)
    everything = [one.on for events in told.values() for one in events]
    assert min(everything.count(True), everything.count(False)) > 5
    for events in told.values():
        begins = [one.at for one in events if one.on]
        assert all(later - earlier >= EVERY_MS for earlier, later in itertools.pairwise(begins))
        assert all(before.on for before, one in itertools.pairwise(events) if not one.on)


def stops_are_always_told(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: Typing, channel: str, user: str) -> bool:
        await self._note(channel, user, "0")
        return True

    patch.setattr(Typing, "stopped", mutant)


def each_replica_counts_alone(patch: pytest.MonkeyPatch) -> None:
    original = Typing._note

    async def mutant(self: Typing, channel: str, user: str, what: str) -> bool:
        return await original(self, channel, f"{user} {id(self)}", what)

    patch.setattr(Typing, "_note", mutant)


def a_user_counts_for_all_conversations(patch: pytest.MonkeyPatch) -> None:
    original = Typing._note

    async def mutant(self: Typing, channel: str, user: str, what: str) -> bool:
        return await original(self, "conv:g.all", user, what)

    patch.setattr(Typing, "_note", mutant)


@pytest.mark.parametrize(
    "mutant", [stops_are_always_told, each_replica_counts_alone, a_user_counts_for_all_conversations]
)
async def test_each_mutant_is_found(
    redis_pipeline: RedisPipeline, mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        await play(redis_pipeline, random.randrange(1 << 32), 400)
