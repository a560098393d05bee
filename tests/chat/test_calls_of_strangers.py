"""Strangers learn nothing, and who came later sees nothing of before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.persistence.chat.domain.names import direct_channel
from services.shared.chat_methods import METHODS
from tests.support.chat import new_event
from tests.support.chat_calls import NAMESPACE, CallRefused, Replica, Site, sqlite_site

Json = dict[str, Any]
NOT_EXISTING = "conv:g.aaaaaaaaaaaaaaaaaaaaaaaaaa"
OTHER_NAMES = [
    "conv:g.short",
    "conv:x.aaaaaaaaaaaaaaaaaaaaaaaaaa",
    "conv:",
    "chat:g.aaaaaaaaaaaaaaaaaaaaaaaaaa",
    "news",
]
READS = ("readable", "has_begun", "open", "read", "read_counted", "load", "overlays", "overlays_between")
PARAMS: dict[str, Json] = {
    "conversations.update": {"name": "x"},
    "members.role": {"user": "u1", "role": "admin"},
    "messages.send": {"text": "x"},
    "messages.edit": {"of": 4, "text": "x"},
    "messages.get": {"offset": 4},
    "messages.versions": {"offset": 4},
    "messages.thread": {"thread": 4},
    "messages.search": {"query": "secret"},
    "reactions.list": {"offset": 4},
    "markers.read": {"offset": 4},
    "markers.unread": {"offset": 4},
    "markers.delivered": {"offset": 4},
    "receipts.list": {"offset": 4},
    "reactions.add": {"of": 4, "name": "x"},
    "reactions.remove": {"of": 4, "name": "x"},
}
OF_A_CHANNEL = [
    name for name, method in METHODS.items() if "channel" in method.request.__struct_fields__ or name == "messages.send"
]
READING = [name for name in OF_A_CHANNEL if METHODS[name].act == "read"]
OF_ANYBODY = [name for name in READING if name != "markers.get"]  # the platform has no marker: 107


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Two replicas that serve methods, searches among them."""
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", has_search=True) as made:
        yield made


def params(method: str) -> Json:
    fields = METHODS[method].request.__struct_fields__
    needed = {name: value for name, value in (("user", "u1"), ("of", 4)) if name in fields}
    return {**needed, **PARAMS.get(method, {})}


@pytest.fixture
async def channel(a: Replica) -> str:
    """A group of u1 and u2, with messages at 3 and 4, which is pinned."""
    made = await a.call("u1", "conversations.create", users=["u2"], name="secret name")
    channel = str(made["channel"])
    await a.call("u1", "messages.send", channel=channel, text="secret 3")
    await a.call("u1", "messages.send", channel=channel, text="secret 4", reply_to=3)
    await a.call("u1", "pins.add", channel=channel, of=4)
    return channel


@pytest.mark.parametrize("method", OF_A_CHANNEL)
async def test_strangers_get_the_same_bytes_whether_or_not_it_exists(
    site: Site, a: Replica, b: Replica, channel: str, method: str
) -> None:
    top = len(await site.log(channel))
    there = await b.ask("u9", method, channel=channel, **params(method))
    not_there = await b.ask("u9", method, channel=NOT_EXISTING, **params(method))
    assert there.refusal.code == 103
    assert there.SerializeToString() == not_there.SerializeToString()
    for name in OTHER_NAMES:
        assert (await b.ask("u9", method, channel=name, **params(method))) == there
    assert len(await site.log(channel)) == top
    assert not await site.rows.has_begun(NOT_EXISTING)
    deleted = str((await a.call("u1", "conversations.create"))["channel"])
    await a.call("u1", "conversations.delete", channel=deleted)
    for user in ("u9", "u1"):
        assert (await b.ask(user, method, channel=deleted, **params(method))) == there


async def test_what_lies_in_another_namespace_is_no_conversation(site: Site, b: Replica) -> None:
    elsewhere = "chat:g.aaaaaaaaaaaaaaaaaaaaaaaaaa"
    for event in ({"kind": "conversation", "op": "create"}, {"kind": "message", "text": "secret"}):
        await b.appender.append(new_event("u1", event, elsewhere))
    for user in ("u1", ""):
        for method in OF_A_CHANNEL:
            refused = await b.ask(user, method, channel=elsewhere, **params(method))
            assert (refused.refusal.code, refused.result) == (103, b""), method
    assert len(await site.log(elsewhere)) == 2


async def test_of_a_deleted_conversation_nothing_can_be_read(a: Replica, b: Replica, channel: str) -> None:
    await a.call("u1", "conversations.delete", channel=channel)
    for user, refusal in (("u1", "103 not_allowed"), ("u2", "103 not_allowed"), ("", "410 conversation_deleted")):
        for method in READING if user else OF_ANYBODY:
            with pytest.raises(CallRefused, match=refusal):
                await b.call(user, method, channel=channel, **params(method))


async def test_a_backend_is_told_that_there_is_no_conversation(b: Replica) -> None:
    for method in OF_ANYBODY:
        with pytest.raises(CallRefused, match="404 no_conversation"):
            await b.call("", method, channel=NOT_EXISTING, **params(method))


async def test_what_two_others_write_is_refused_alike_whether_or_not_they_do(
    site: Site, a: Replica, b: Replica
) -> None:
    await a.call("u1", "messages.send", to="u2", text="secret")
    there = await b.ask("u9", "messages.between", from_="u1", to="u2")
    assert there.refusal.code == 103
    assert await b.ask("u9", "messages.between", from_="u1", to="u3") == there
    direct = direct_channel(NAMESPACE, ["u1", "u2"])
    for method in ("messages.list", "messages.send", "conversations.get"):
        assert await b.ask("u9", method, channel=direct, **params(method)) == there
    own = {"channel": direct, "user": "u9", "upto": 9}
    assert await b.ask("u9", "messages.purge", **own) == there  # who left a group may purge
    assert len(await site.log(direct)) == 2


@pytest.mark.parametrize("upto", [{}, {"upto": 9}])
async def test_who_never_was_there_can_not_purge_what_oneself_wrote(
    site: Site, a: Replica, b: Replica, channel: str, upto: Json
) -> None:
    there = await b.ask("u9", "messages.purge", channel=channel, user="u9", **upto)
    assert there.refusal.code == 103
    for other in (NOT_EXISTING, direct_channel(NAMESPACE, ["u1", "u2"]), *OTHER_NAMES):
        assert await b.ask("u9", "messages.purge", channel=other, user="u9", **upto) == there
    await a.call("u1", "conversations.close", channel=channel)
    assert await b.ask("u9", "messages.purge", channel=channel, user="u9", **upto) == there
    await a.call("u1", "conversations.delete", channel=channel)
    assert await b.ask("u9", "messages.purge", channel=channel, user="u9", **upto) == there
    assert not any(b"purge" in entry.data for entry in await site.log(channel))


@pytest.mark.parametrize("upto", [{}, {"upto": 99}])
@pytest.mark.parametrize("how", ["left", "removed", "banned", "invited again", "not written yet"])
async def test_who_was_there_can_purge_what_oneself_wrote(
    a: Replica, b: Replica, channel: str, how: str, upto: Json
) -> None:
    sent = await a.call("u2", "messages.send", channel=channel, text="mine")
    if how == "left":
        await a.call("u2", "conversations.leave", channel=channel)
    elif how == "not written yet":
        await a.call("u1", "members.add", channel=channel, user="u3")
        b.conversations.forget(channel)
        await b.appender.append(new_event("u2", {"kind": "member", "op": "leave"}, channel))
    else:
        await a.call("u1", f"members.{'ban' if how == 'banned' else 'remove'}", channel=channel, user="u2")
    if how == "invited again":
        await a.call("u1", "members.invite", channel=channel, user="u2")
    assert (await b.call("u2", "messages.purge", channel=channel, user="u2", **upto))["applied"]
    page = await b.call("u1", "messages.list", channel=channel)
    assert [one["offset"] for one in page["messages"] if one.get("deleted")] == [sent["offset"]]
    refused = await b.ask("u2", "messages.purge", channel=channel, user="u1", **upto)
    assert refused == await b.ask("u9", "messages.purge", channel=NOT_EXISTING, user="u1", **upto)


async def test_who_is_banned_from_an_open_conversation_can_purge_what_oneself_wrote(a: Replica, b: Replica) -> None:
    channel = str((await a.call("u1", "conversations.create", type="open"))["channel"])
    await a.call("u2", "messages.send", channel=channel, text="mine")
    await a.call("u1", "members.ban", channel=channel, user="u2")
    assert (await b.call("u2", "messages.purge", channel=channel, user="u2"))["applied"]


async def test_who_came_and_left_a_moment_ago_was_there(a: Replica, b: Replica, channel: str) -> None:
    await a.appender.append(new_event("u1", {"kind": "member", "op": "add", "user": "u3"}, channel))
    await a.appender.append(new_event("u3", {"kind": "member", "op": "leave"}, channel))
    assert (await b.call("u3", "conversations.list"))["conversations"] == [], "nothing is written"
    assert (await b.call("u3", "messages.purge", channel=channel, user="u3", upto=9))["applied"]


async def test_a_change_that_is_being_written_counts(site: Site, a: Replica, channel: str) -> None:
    """The user is in no list yet, and no more among what is to be written."""
    await a.appender.append(new_event("u1", {"kind": "member", "op": "add", "user": "u3"}, channel))
    await a.appender.append(new_event("u3", {"kind": "member", "op": "leave"}, channel))
    live = a.conversations.cached(channel)
    assert live is not None
    store: Any = site.store
    apply, is_writing, may_write = store.apply, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        is_writing.set()
        await may_write.wait()
        return await apply(*arguments)

    store.apply = slow
    writing = asyncio.create_task(a.conversations.write(live))
    await is_writing.wait()
    purging = asyncio.create_task(a.call("u3", "messages.purge", channel=channel, user="u3", upto=9))
    await asyncio.sleep(0)
    may_write.set()
    store.apply = apply
    assert (await purging)["applied"]
    await writing


async def test_strangers_cost_the_same_requests_whether_or_not_it_exists(
    site: Site, b: Replica, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for part in (b.hot, site.rows, site.store):
        for name in (*READS, "conversations_of"):
            if hasattr(part, name):
                monkeypatch.setattr(part, name, _counting(asked, name, getattr(part, name)))
    purge = {"user": "u9", "upto": 9}
    for method, more, wanted in (
        ("messages.list", {}, ["has_begun", "readable"]),
        ("messages.purge", purge, ["conversations_of", "has_begun", "readable"]),
    ):
        costs: list[list[str]] = []
        for one in (channel, channel, NOT_EXISTING, channel, NOT_EXISTING):
            asked.clear()
            await b.ask("u9", method, channel=one, **more)
            costs.append(sorted(asked))
        assert costs[1] == costs[2] == costs[3] == costs[4] == wanted


def _counting(asked: list[str], name: str, real: Any) -> Any:
    async def call(*args: Any, **options: Any) -> Any:
        asked.append(name)
        return await real(*args, **options)

    return call


async def test_who_was_removed_reads_nothing_any_more(a: Replica, b: Replica, channel: str) -> None:
    await a.call("u1", "members.remove", channel=channel, user="u2")
    for method in READING:
        with pytest.raises(CallRefused, match="103 not_allowed"):
            await b.call("u2", method, channel=channel, **params(method))
    assert (await b.call("u2", "conversations.list"))["conversations"] == []


@pytest.mark.parametrize("by", ["history", "from"])
async def test_who_came_later_sees_nothing_of_before(a: Replica, b: Replica, channel: str, by: str) -> None:
    if by == "history":
        await a.call("u1", "conversations.update", channel=channel, settings={"history": "joined"})
        await a.call("u1", "members.remove", channel=channel, user="u2")
        await a.call("u1", "members.add", channel=channel, user="u2")
    else:
        await a.call("u1", "members.remove", channel=channel, user="u2")
        await a.call("u1", "members.add", channel=channel, user="u2", from_=6)
    joined = (await b.call("u2", "conversations.get", channel=channel))["me"]["from"]
    assert joined >= 6
    sent = await a.call("u1", "messages.send", channel=channel, text="new", reply_to=4)
    await a.call("u1", "reactions.add", channel=channel, of=4, name="x")
    await a.call("u1", "messages.edit", channel=channel, of=3, text="secret edit")
    for ask in (
        {},
        {"before": 5},
        {"after": 0},
        {"around": 4},
        {"around": 4, "limit": 1},
        {"limit": 100},
        {"before": 9},
    ):
        response = await b.ask("u2", "messages.list", channel=channel, **ask)
        assert b"secret" not in response.result
        page = await b.call("u2", "messages.list", channel=channel, **ask)
        assert {one["offset"] for one in page["messages"]} <= {sent["offset"]}
        assert page["more"] is False or ask.get("limit") == 1
    for method in ("messages.get", "messages.versions", "reactions.list"):
        for offset in (3, 4):
            with pytest.raises(CallRefused, match="404 no_message"):
                await b.call("u2", method, channel=channel, offset=offset)
    assert (await b.call("u2", "pins.list", channel=channel))["messages"] == []
    assert len((await b.call("u1", "messages.list", channel=channel))["messages"]) == 3


async def test_who_came_later_can_not_find_out_by_writing_what_was_said_before(a: Replica, b: Replica) -> None:
    channel = str((await a.call("u1", "conversations.create", users=["u2", "u3"]))["channel"])
    for user in ("u1", "u1", "u3"):
        await a.call(user, "messages.send", channel=channel, text="secret")  # 4, 5, 6
    await a.call("u1", "messages.delete", channel=channel, of=5)
    await a.call("u3", "conversations.leave", channel=channel)
    await a.call("u1", "members.add", channel=channel, user="u3", role="moderator", from_=8)
    for of in (1, 4, 5):
        for method, more in (
            ("reactions.add", {"name": "x"}),
            ("reactions.remove", {"name": "x"}),
            ("messages.edit", {"text": "x", "if_rev": 1}),
            ("messages.delete", {}),
            ("pins.add", {}),
            ("pins.remove", {}),
        ):
            with pytest.raises(CallRefused, match="404 no_message: there is no such message"):
                await b.call("u3", method, channel=channel, of=of, **more)
        with pytest.raises(CallRefused, match="404 no_message: there is no such message"):
            await b.call("u3", "messages.send", channel=channel, text="x", thread=of)
    await b.call("u3", "messages.delete", channel=channel, of=6)  # one's own
