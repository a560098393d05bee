"""The read model is compared with the log, and made again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.persistence.chat.domain.state import Phase, Type
from services.persistence.chat.ports import Changes
from tests.support.chat_calls import Site


@pytest.fixture
async def channel(site: Site) -> str:
    """A group with messages that were edited, deleted, pinned, replied to."""
    a = site.replicas[0]
    channel = str((await a.call("u1", "conversations.create", users=["u2"], name="Lunch"))["channel"])
    for text in "3456":
        await a.call("u2", "messages.send", channel=channel, text=text)
    await a.call("u2", "messages.edit", channel=channel, of=3, text="new")
    await a.call("u2", "messages.delete", channel=channel, of=4)
    await a.call("u1", "pins.add", channel=channel, of=5)
    await a.call("u1", "messages.send", channel=channel, text="reply", thread=6)
    await a.call("u1", "members.invite", channel=channel, user="u3")
    await a.call("u1", "messages.send", channel=channel, text="nothing happens to 12")
    await site.settle(channel)
    return channel


async def corrupt(site: Site, channel: str, **changes: Any) -> None:
    """Write something else into the read model, at its position."""
    loaded = await site.store.load(channel)
    written = Changes(loaded.position, loaded.head, {}, {}, {})
    assert await site.store.apply(channel, loaded.position, written._replace(**changes))


async def head(site: Site, channel: str, **members: Any) -> bytes:
    return json.dumps({**json.loads((await site.store.load(channel)).head), **members}).encode()


async def differences(site: Site, channel: str) -> str:
    return "\n".join((await site.another().chat.upkeep.check(channel)).differences)


async def test_what_follows_from_the_log_is_right(site: Site, channel: str) -> None:
    checked = await site.replicas[1].chat.upkeep.check(channel)
    assert checked == (len(await site.log(channel)), [])
    assert await site.replicas[1].chat.upkeep.check("conv:g.aaaaaaaaaaaaaaaaaaaaaaaaaa") == (0, [])


async def test_whatever_is_wrong_is_told_and_made_right(site: Site, channel: str) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("name: 'Dinner', in the log 'Lunch'", {"head": await head(site, channel, name="Dinner")}),
        ("n: 7, in the log 5", {"head": await head(site, channel, n=7)}),
        ("pinned, and not among the pins: [5]", {"head": await head(site, channel, pins=[])}),
        ("members: ", {"people": {"u2": None}}),
        ("invited: ", {"people": {"u3": b"{}"}}),
        ("banned: ", {"people": {"u9": b'{"banned":true}'}}),
        ("u2: not in the list of conversations", {"listed": {"u2": None}}),
        ("message 3: ", {"overlays": {3: b'{"at":1}'}}),
        ("message 4: ", {"overlays": {4: b'{"at":1,"deleted":5}'}}),
        ("message 5: ", {"overlays": {5: b'{"at":1,"void":"not_allowed"}'}}),
        ("message 6: ", {"overlays": {6: b'{"at":1,"replies":2}'}}),
        ("message 12: ", {"overlays": {12: b'{"at":1,"pinned":true}'}}),
    ]
    for told, changes in wrong:
        await corrupt(site, channel, **changes)
        assert told in await differences(site, channel), changes
        await site.another().chat.upkeep.rebuild(channel)
        assert await differences(site, channel) == "", changes


async def test_that_nothing_is_kept_is_told(site: Site, channel: str) -> None:
    await site.store.drop(channel)
    found = await site.replicas[0].chat.upkeep.check(channel)
    assert found == (len(await site.log(channel)), ["nothing is kept of it"])
    await site.replicas[0].chat.upkeep.rebuild(channel)
    assert (await site.replicas[0].chat.upkeep.check(channel)).differences == []


async def test_an_open_conversation_that_nobody_finds_is_told(site: Site) -> None:
    a = site.replicas[0]
    await a.call("u1", "conversations.create", type="open", id="lounge")
    await corrupt(site, "conv:o.lounge", directory=None)
    assert await differences(site, "conv:o.lounge") == "not in the directory"
    await a.chat.upkeep.rebuild("conv:o.lounge")
    assert await differences(site, "conv:o.lounge") == ""


async def test_who_rebuilds_forgets_what_was_in_memory(site: Site, channel: str) -> None:
    a = site.replicas[0]
    live = await a.conversations.current(channel)
    live.state.name = "wrong"
    await a.chat.upkeep.rebuild(channel)
    assert (await a.call("u2", "conversations.get", channel=channel))["name"] == "Lunch"


async def test_a_deleted_conversation_stays_deleted_though_its_read_model_is_made_again(site: Site) -> None:
    """The deletion removed the log that says it was ever created."""
    a, b = site.replicas
    await a.call("u1", "conversations.create", type="open", id="lounge")
    await a.call("u1", "messages.send", channel="conv:o.lounge", text="x")
    await a.call("u1", "conversations.delete", channel="conv:o.lounge")
    assert await differences(site, "conv:o.lounge") == ""
    await b.chat.upkeep.rebuild("conv:o.lounge")
    live = await site.another().conversations.current("conv:o.lounge")
    assert (live.state.phase, live.state.type, live.state.n) == (Phase.DELETED, Type.OPEN, 1)
    assert await differences(site, "conv:o.lounge") == ""
    refused = await site.another().ask("u9", "conversations.create", type="open", id="lounge")
    assert refused.refusal.code == 103
