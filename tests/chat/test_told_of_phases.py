"""Members are told on their personal channels that a conversation is gone.

The same of one that is closed or opened again.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.methods import conversations as module
from services.shared.hotlog import keys
from tests.support.chat_calls import CallRefused, Replica
from thalamus.chat.v1 import chat_pb2 as pb

Told = dict[str, tuple[dict[str, Any], bool]]


async def group(replica: Replica, *users: str, invited: str = "") -> str:
    made = await replica.call("u1", "conversations.create", name="Lunch", users=list(users))
    if invited:
        await replica.call("u1", "members.invite", channel=made["channel"], user=invited)
    return str(made["channel"])


def told(response: pb.CallResponse) -> Told:
    """What each user is told, and whether only who is connected is."""
    found = {one.user: (json.loads(one.data), one.ephemeral) for one in response.notices}
    assert len(found) == len(response.notices), "nobody is told twice"
    return found


@pytest.mark.parametrize("by", ["u1", ""])
async def test_all_members_and_who_is_invited_are_told_of_a_deletion(a: Replica, b: Replica, by: str) -> None:
    channel = await group(a, "u2", "u3", invited="u4")
    await a.call("u3", "conversations.leave", channel=channel)
    response = await b.ask(by, "conversations.delete", key="k", channel=channel)
    offset = json.loads(response.result)["offset"]
    said = {"kind": "deleted", "channel": channel, "type": "group", "name": "Lunch", "by": by, "offset": offset}
    assert told(response) == dict.fromkeys(["u1", "u2", "u4"], (said, False))


async def test_who_repeats_a_deletion_has_all_told_again_also_by_another_replica(
    a: Replica, b: Replica, redis_conn: redis.asyncio.Redis
) -> None:
    """Mutant: whom to tell is looked up in the conversation alone."""
    channel = await group(a, "u2", invited="u4")
    assert told(await a.ask("u2", "conversations.delete", "k", channel=channel)) == {}, "refused"
    first = await b.ask("u1", "conversations.delete", "k", channel=channel)
    assert told(first).keys() == {"u1", "u2", "u4"}
    for replica in (a, b):
        again = await replica.ask("u1", "conversations.delete", "k", channel=channel)
        assert (told(again), again.result) == (told(first), first.result)
    response = await a.ask("u2", "conversations.delete", "other", channel=channel)
    assert (response.refusal.code, told(response)) == (103, {})
    assert 0 < await redis_conn.ttl(keys.farewell(channel)) <= 300
    await redis_conn.delete(keys.farewell(channel))
    assert told(await a.ask("u1", "conversations.delete", "k", channel=channel)) == {}, "it is too long ago"


async def test_members_who_are_connected_are_told_that_it_is_closed_and_opened_again(a: Replica, b: Replica) -> None:
    channel = await group(a, "u2", invited="u4")
    for method, kind in (("close", "closed"), ("reopen", "reopened")):
        response = await b.ask("u1", f"conversations.{method}", key=method, channel=channel)
        offset = json.loads(response.result)["offset"]
        said = {"kind": kind, "channel": channel, "type": "group", "name": "Lunch", "by": "u1", "offset": offset}
        assert told(response) == dict.fromkeys(["u1", "u2"], (said, True))
        assert told(await a.ask("u1", f"conversations.{method}", key=method, channel=channel)) == told(response)
        assert told(await a.ask("u1", f"conversations.{method}", channel=channel)) == {}, "it is so already"


async def test_nobody_is_told_of_what_was_refused(a: Replica) -> None:
    channel = await group(a, "u2")
    for method in ("close", "reopen", "delete"):
        response = await a.ask("u2", f"conversations.{method}", channel=channel)
        assert (response.refusal.code, told(response)) == (103, {})
    for stranger in (f"conv:g.{'z' * 26}", "conv:nothing"):
        with pytest.raises(CallRefused, match="103"):
            await a.call("u2", "conversations.delete", channel=stranger)


async def test_of_more_members_than_are_told_none_is(a: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._MAX_TOLD == 1_000  # noqa: SLF001
    monkeypatch.setattr(module, "_MAX_TOLD", 3)
    for users, count in ((["u2", "u3"], 3), (["u2", "u3", "u4"], 0)):
        channel = await group(a, *users)
        assert len(told(await a.ask("u1", "conversations.close", channel=channel))) == count
        assert len(told(await a.ask("u1", "conversations.delete", channel=channel))) == count
