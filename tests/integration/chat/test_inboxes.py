"""Watched inboxes on a whole stack: three edges, two replicas of persistence."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from tests.support.chat_client import Backend, some_key
from tests.support.chat_stack import EDGES, ChatStack
from tests.support.waiting import until


def changes(client: Any, channel: str) -> list[dict[str, Any]]:
    """Changes of inboxes that a client was pushed."""
    return [change for push in client.heard(channel) for change in push["data"]["changes"]]


async def test_members_on_all_edges_are_told_and_others_are_not(
    chat_stack: ChatStack, exits: AsyncExitStack, backend: Backend
) -> None:
    run = some_key()[:8]
    ann, bob, eve = (f"{run}-{name}" for name in ("ann", "bob", "eve"))
    channel = await backend.group(ann, bob)
    watched = f"inbox:#{bob}"
    clients = [await chat_stack.join(exits, bob, edge) for edge in range(EDGES)]
    for client in clients:
        assert "error" not in await client.try_subscribe(watched)
    other = await chat_stack.join(exits, eve, 0)
    assert (await other.try_subscribe(watched))["error"]["code"] == 103
    assert "error" not in await other.try_subscribe(f"inbox:#{eve}")
    listed = await clients[0].do("inbox.list")
    assert [one["channel"] for one in listed["conversations"]] == [channel]
    sent = await backend.do("messages.send", ann, channel=channel, text="hi")
    for client in clients:
        await until(lambda client=client: changes(client, watched))  # type: ignore[misc]
        (change,) = changes(client, watched)
        assert (change["channel"], change["offset"], change["n"]) == (channel, sent["offset"], 1)
        assert (change["author"], change["flags"]) == (ann, 1)
    added = await backend.do("members.add", ann, channel=channel, user=eve)
    await until(lambda: changes(other, f"inbox:#{eve}"))
    assert changes(other, f"inbox:#{eve}")[0]["offset"] >= added["offset"]
    await backend.do("members.remove", ann, channel=channel, user=eve)
    await until(lambda: changes(other, f"inbox:#{eve}")[-1].get("removed"))
