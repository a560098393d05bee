"""Calls that race on two replicas have one outcome for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import pytest

from services.shared.errors import Unavailable
from tests.chat.traffic import Traffic, Truth
from tests.support.chat_calls import Replica, Site
from thalamus.chat.v1 import chat_pb2 as pb

Json = dict[str, Any]


async def twice(replica: Replica, user: str, method: str, key: str, /, **params: Any) -> tuple[int, Json]:
    """Code and answer of a call that is repeated, as after a lost reply."""
    first = await replica.ask(user, method, key, **params)
    second = await replica.ask(user, method, key, **params)
    if first.result and json.loads(first.result).get("offset"):
        assert second == first
    return first.refusal.code, json.loads(first.result or b"{}")


async def answers(site: Site, channel: str, user: str) -> bytes:
    """All that a user gets; the same from every replica, also from a new one."""
    found = set()
    for replica in [*site.replicas, site.another()]:
        said: list[pb.CallResponse] = []
        for method, params in (
            ("conversations.get", {}), ("members.list", {}), ("pins.list", {}), ("messages.list", {"limit": 100}),
        ):  # fmt: skip
            said.append(await replica.ask(user, method, channel=channel, **params))
        while said[-1].result and json.loads(said[-1].result)["more"]:
            before = json.loads(said[-1].result)["before"]
            said.append(await replica.ask(user, "messages.list", channel=channel, limit=100, before=before))
        found.add(b"\n".join(one.SerializeToString(deterministic=True) for one in said))
    assert len(found) == 1, "replicas answer differently"
    return found.pop()


async def test_a_deleted_message_has_no_content_again_whatever_raced_with_the_delete(
    site: Site, a: Replica, b: Replica
) -> None:
    channel = str((await a.call("u1", "conversations.create", users=["u2"]))["channel"])
    count = 60
    sent = [(await a.call("u2", "messages.send", channel=channel, text=f"old {one}"))["offset"] for one in range(count)]
    rng, outcomes = random.Random(3), list[str]()

    async def race(of: int) -> None:
        one, other = rng.sample(site.replicas, 2)
        (edited, edit), (deleted, delete) = await asyncio.gather(
            twice(one, "u2", "messages.edit", f"e{of}", channel=channel, of=of, text="new"),
            twice(other, "u1", "messages.delete", f"d{of}", channel=channel, of=of),
        )
        assert (deleted, delete["applied"]) == (0, True)
        if edited:
            assert edited == 410
            outcomes.append("refused")
        elif edit["applied"]:
            assert edit["offset"] < delete["offset"]
            outcomes.append("before")
        else:
            assert (edit["why"], edit["offset"] > delete["offset"]) == ("deleted", True)
            outcomes.append("void")

    for start in range(0, count, 10):
        await asyncio.gather(*map(race, sent[start : start + 10]))
    print({outcome: outcomes.count(outcome) for outcome in outcomes})
    assert len({*outcomes}) > 1, "nothing raced"
    for replica in [*site.replicas, site.another()]:
        page = await replica.call("u2", "messages.list", channel=channel, limit=100)
        assert [(one["offset"], one.get("deleted")) for one in page["messages"]] == [(of, True) for of in sent]
    before = await answers(site, channel, "u2")
    assert (await a.chat.upkeep.check(channel)).differences == []
    await b.chat.upkeep.rebuild(channel)
    assert await answers(site, channel, "u2") == before


async def test_a_moderator_who_is_removed_edits_nothing_behind_the_removal(site: Site, a: Replica, b: Replica) -> None:
    channel = str((await a.call("u1", "conversations.create", users=["u2"]))["channel"])
    of = (await a.call("u2", "messages.send", channel=channel, text="mine"))["offset"]
    outcomes, rng = set(), random.Random(5)

    async def edit(text: str) -> pb.CallResponse:
        await asyncio.sleep(rng.uniform(0, 0.01))
        return await b.ask("u3", "messages.edit", channel=channel, of=of, text=text)

    async def remove() -> Json:
        await asyncio.sleep(rng.uniform(0, 0.01))
        return await a.call("u1", "members.remove", channel=channel, user="u3")

    for number in range(25):
        await a.call("u1", "members.add", channel=channel, user="u3", role="moderator")
        edits, removal = await asyncio.gather(asyncio.gather(*(edit(f"{number}") for _ in range(4))), remove())
        for edited in edits:
            outcomes.add(edited.refusal.code)
            if edited.refusal.code:
                assert edited.refusal == pb.Refusal(code=103, why="not_allowed", text="not allowed")
            else:
                answer = json.loads(edited.result)
                assert (answer["applied"], answer["offset"] < removal["offset"]) == (True, True)
    assert outcomes == {0, 103}
    truth = Truth(channel, await site.log(channel))
    assert truth.void == {}


@pytest.mark.parametrize("seed", range(8))
async def test_a_call_that_is_repeated_until_it_succeeds_is_done_once(site: Site, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    first = ["after" if seed % 2 else "before"]
    site.next_fault = lambda: first.pop() if first else rng.choices(["", "before", "after"], [6, 1, 1])[0]
    refused = 0

    async def done(user: str, method: str, /, **params: Any) -> Json:
        nonlocal refused
        for _ in range(100):
            response = await rng.choice(site.replicas).ask(user, method, f"key {method}", **params)
            if response.refusal.code == 0:
                answer: Json = json.loads(response.result)
                return answer
            assert response.refusal.code == 100, response
            refused += 1
        raise AssertionError("it never succeeds")

    users = [f"v{number}" for number in range(6)]
    channel = (await done("u1", "conversations.create", users=users))["channel"]
    sent = await done("u1", "messages.send", channel=channel, text="Hi")
    await done("u1", "members.remove", channel=channel, user="v1")
    await done("v2", "reactions.add", channel=channel, of=sent["offset"], name="x")
    direct = (await done("u1", "messages.send", to="u2", text="Hi"))["channel"]
    assert len(await site.log(direct)) == 2
    events = [json.loads(entry.data) for entry in await site.log(channel)]
    assert sorted(event["user"] for event in events if event.get("op") == "add" and "user" in event) == users
    kinds = [event["kind"] for event in events]
    assert kinds == ["conversation", *["member"] * 6, "message", "member", "reaction"]
    assert refused > 0


@pytest.mark.parametrize("seed", range(3))
async def test_a_read_model_that_is_made_again_under_traffic_is_the_same(site: Site, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    made = [await site.replicas[0].call("u0", "conversations.create", users=["u1", "u2"]) for _ in range(4)]
    some = [Traffic(rng, site, one["channel"]) for one in made]
    is_over = False

    async def rebuild() -> None:
        while not is_over:
            replica, traffic = rng.choice(site.replicas), rng.choice(some)
            with contextlib.suppress(Unavailable):  # the others were faster, five times
                await replica.chat.upkeep.rebuild(traffic.channel)
            await asyncio.sleep(0.005)

    rebuilding = asyncio.create_task(rebuild())
    await asyncio.gather(*(traffic.run(60, 30) for traffic in some))
    is_over = True
    await rebuilding
    for traffic in some:
        truth = Truth(traffic.channel, await site.log(traffic.channel))
        for answer in traffic.pages:
            truth.check(answer)
        before = await answers(site, traffic.channel, "")
        await site.replicas[1].chat.upkeep.rebuild(traffic.channel)
        assert await answers(site, traffic.channel, "") == before
        assert await site.replicas[0].chat.upkeep.check(traffic.channel) == (len(truth.log), [])
