"""Methods on messages, reactions and pins: what they answer, repeat and refuse."""

from __future__ import annotations

from typing import Any

import pytest

from services.persistence.chat import pages, views
from tests.support.chat_calls import CallRefused, Replica, Site
from thalamus.common.v1.common_pb2 import Publication

Json = dict[str, Any]


@pytest.fixture
async def channel(a: Replica) -> str:
    """A group of u1, who owns it, u2 and u3: offsets 1 to 3."""
    return str((await a.call("u1", "conversations.create", users=["u2", "u3"]))["channel"])


async def refusal(replica: Replica, user: str, method: str, /, **params: Any) -> tuple[int, str]:
    with pytest.raises(CallRefused) as refused:
        await replica.call(user, method, **params)
    return refused.value.code, refused.value.why


async def send(replica: Replica, channel: str, *texts: str, user: str = "u2", **params: Any) -> list[int]:
    return [
        (await replica.call(user, "messages.send", channel=channel, text=text, **params))["offset"] for text in texts
    ]


def texts(page: Json) -> list[str]:
    return [one.get("text", "gone") for one in page["messages"]]


async def test_a_message_is_shown_with_everything_that_was_sent(a: Replica, b: Replica, channel: str) -> None:
    sent: Json = {
        "text": "See you",
        "format": "markdown",
        "attachments": [{"id": "f1", "name": "map.png", "type": "image/png", "bytes": 7, "url": "https://a/b"}],
        "mentions": ["u3"],
        "mention_all": True,
        "meta": {"a": [1, {"b": None}]},
        "reply_to": 2,
    }
    done = await a.call("u2", "messages.send", channel=channel, cid="c1", **sent)
    assert done == {"channel": channel, "offset": 4, "epoch": done["epoch"], "applied": True, "id": f"{channel}/4"}
    got = await b.call("u3", "messages.get", channel=channel, offset=4)
    as_of = got.pop("as_of")
    assert as_of == {"epoch": done["epoch"], "offset": 4}
    assert got["time"] > 1_700_000_000_000
    wanted = {**sent, "channel": channel, "offset": 4, "id": f"{channel}/4", "author": "u2", "thread": None, "rev": 4}
    wanted |= {"edited": False, "reactions": {}, "replies": 0, "pinned": False, "time": got["time"]}
    assert got == wanted
    page = await b.call("u3", "messages.list", channel=channel)
    assert page == {"messages": [wanted], "more": False, "as_of": as_of}
    assert await b.call("", "messages.list", channel=channel) == page


async def test_pages_go_back_forth_and_around(a: Replica, b: Replica, channel: str) -> None:
    offsets = await send(a, channel, *"abcdefgh")

    async def page(**params: int) -> Json:
        found = await b.call("u3", "messages.list", channel=channel, **params)
        return {
            "texts": "".join(texts(found)),
            **{key: found[key] for key in ("more", "before", "after") if key in found},
        }

    e = offsets[4]
    assert await page(limit=3) == {"texts": "fgh", "more": True, "before": offsets[5]}
    assert await page(limit=3, before=offsets[5]) == {"texts": "cde", "more": True, "before": offsets[2]}
    assert await page(limit=3, before=offsets[2]) == {"texts": "ab", "more": False}
    assert await page(limit=3, after=0) == {"texts": "abc", "more": True, "after": offsets[2]}
    assert await page(limit=6, after=offsets[2]) == {"texts": "defgh", "more": False}
    assert await page(limit=4, around=e) == {"texts": "cdef", "more": True, "before": offsets[2], "after": offsets[5]}
    assert await page(limit=1, around=e) == {"texts": "e", "more": True, "before": e, "after": e}
    assert await page(limit=8) == {"texts": "abcdefgh", "more": False}
    assert await page(limit=8, after=0) == {"texts": "abcdefgh", "more": False}
    assert await page(limit=100, around=e) == {"texts": "abcdefgh", "more": False}
    assert await page(before=1) == {"texts": "", "more": False}
    assert await page(after=10_000) == {"texts": "", "more": False}


async def test_a_page_of_many_other_events_ends_and_says_where_to_go_on(
    a: Replica, b: Replica, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_ROWS", 40)
    (first,) = await send(a, channel, "first")
    for _ in range(50):
        await a.call("u1", "reactions.add", channel=channel, of=first, name="x")
        await a.call("u1", "reactions.remove", channel=channel, of=first, name="x")
    await send(a, channel, "last")
    found, calls = list[str](), 0
    params: Json = {}
    while True:
        page = await b.call("u3", "messages.list", channel=channel, **params)
        found, calls = texts(page) + found, calls + 1
        if not page["more"]:
            break
        params = {"before": page["before"]}
    assert (found, calls) == (["first", "last"], 3)
    found, params = [], {"after": 0}
    while True:
        page = await b.call("u3", "messages.list", channel=channel, **params)
        found += texts(page)
        if not page["more"]:
            break
        params = {"after": page["after"]}
    assert found == ["first", "last"]


async def test_a_page_of_large_messages_is_cut(
    a: Replica, b: Replica, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MAX_BYTES", 10_000)
    offsets = await send(a, channel, *(letter * 4_000 for letter in "abcdef"))

    async def page(**params: int) -> Json:
        found = await b.call("u3", "messages.list", channel=channel, **params)
        shown: Json = {key: found[key] for key in ("more", "before", "after") if key in found}
        return {"texts": "".join(text[0] for text in texts(found)), **shown}

    assert await page() == {"texts": "ef", "more": True, "before": offsets[4]}
    assert await page(before=offsets[2]) == {"texts": "ab", "more": False}
    assert await page(after=0) == {"texts": "ab", "more": True, "after": offsets[1]}
    wanted = {"texts": "bcde", "more": True, "before": offsets[1], "after": offsets[4]}
    assert await page(around=offsets[3]) == wanted
    await a.call("u2", "messages.edit", channel=channel, of=offsets[5], text="F" * 20_000)
    assert await page() == {"texts": "F", "more": True, "before": offsets[5]}
    monkeypatch.setattr(pages, "_MAX_BYTES", 5_000)  # of rows
    assert await page(after=0, limit=100) == {"texts": "ab", "more": True, "after": offsets[1]}
    for of in offsets:
        await a.call("u1", "pins.add", channel=channel, of=of)
    assert texts(await b.call("u3", "pins.list", channel=channel)) == ["F" * 20_000]
    found = await b.call("u2", "messages.versions", channel=channel, offset=offsets[5])
    assert [one["text"][0] for one in found["versions"]] == ["F"]


async def test_what_is_no_message_is_404_and_what_was_deleted_410(a: Replica, b: Replica, channel: str) -> None:
    one, two = await send(a, channel, "one", "two")
    assert (await a.call("u2", "messages.delete", channel=channel, of=two))["applied"]
    top = 6
    for method in ("messages.get", "messages.versions", "reactions.list"):
        for offset in (1, 3, top, top + 1, 2**53 - 1):
            assert await refusal(b, "u2", method, channel=channel, offset=offset) == (404, "no_message")
        assert await refusal(b, "u2", method, channel=channel, offset=two) == (410, "deleted")
    for method, params in (
        ("messages.edit", {"text": "x"}), ("messages.delete", {}), ("reactions.add", {"name": "x"}),
    ):  # fmt: skip
        assert await refusal(b, "u2", method, channel=channel, of=2, **params) == (404, "no_message")
        assert await refusal(b, "u2", method, channel=channel, of=two, **params) == (410, "deleted")
    page = await b.call("u3", "messages.list", channel=channel)
    assert page["messages"][1] == {"offset": two, "deleted": True, "by": 6, "time": page["messages"][1]["time"]}
    assert await refusal(b, "u2", "messages.edit", channel=channel, of=one, text="x", if_rev=3) == (409, "other_rev")


async def test_who_may_not_change_a_message_is_103(a: Replica, b: Replica, channel: str) -> None:
    (one,) = await send(a, channel, "one")
    for method, params in (("messages.edit", {"text": "x"}), ("messages.delete", {}), ("pins.add", {})):
        assert await refusal(b, "u3", method, channel=channel, of=one, **params) == (103, "not_allowed")
    await a.call("u1", "members.silence", channel=channel, user="u2", until=9_000_000_000_000)
    assert await refusal(b, "u2", "messages.send", channel=channel, text="x") == (103, "silenced")
    await a.call("u1", "conversations.update", channel=channel, settings={"edit_window_s": 0})
    assert await refusal(b, "u1", "messages.edit", channel=channel, of=one, text="x") == (103, "too_late")


async def test_a_repeated_send_is_one_message(site: Site, a: Replica, b: Replica, channel: str) -> None:
    first = await a.call("u2", "messages.send", "k", channel=channel, text="Hi")
    assert await b.call("u2", "messages.send", "k", channel=channel, text="Hi") == first
    assert (await b.call("u3", "messages.send", "k", channel=channel, text="Hi"))["offset"] == first["offset"] + 1
    local = await a.call("u2", "messages.send", channel=channel, text="Ho", cid="local")
    assert await b.call("u2", "messages.send", channel=channel, text="Ho", cid="local") == local
    assert len(await site.log(channel)) == local["offset"]


async def test_versions_are_for_the_author_and_moderators(a: Replica, b: Replica, channel: str) -> None:
    (one,) = await send(a, channel, "one")
    for text in ("two", "three"):
        await a.call("u2", "messages.edit", channel=channel, of=one, text=text)
    for user in ("u2", "u1", ""):
        found = await b.call(user, "messages.versions", channel=channel, offset=one)
        assert [(version["rev"], version["text"]) for version in found["versions"]] == [
            (4, "one"),
            (5, "two"),
            (6, "three"),
        ]
    assert await refusal(b, "u3", "messages.versions", channel=channel, offset=one) == (103, "not_allowed")
    got = await b.call("u3", "messages.get", channel=channel, offset=one)
    assert (got["text"], got["rev"], got["edited"]) == ("three", 6, True)


async def test_reactions_say_who_and_pages_how_many(a: Replica, b: Replica, channel: str) -> None:
    (one,) = await send(a, channel, "one")
    for user, name in (("u3", "👍"), ("u1", "👍"), ("u2", "x")):
        await a.call(user, "reactions.add", channel=channel, of=one, name=name)
    await a.call("u2", "reactions.remove", channel=channel, of=one, name="x")
    await a.call("u2", "reactions.add", channel=channel, of=one, name="y")
    found = await b.call("u3", "reactions.list", channel=channel, offset=one)
    assert found["reactions"] == {"👍": ["u3", "u1"], "y": ["u2"]}
    assert (await b.call("u3", "reactions.list", channel=channel, offset=one, name="y"))["reactions"] == {"y": ["u2"]}
    assert (await b.call("u3", "reactions.list", channel=channel, offset=one, name="z"))["reactions"] == {}
    page = await b.call("u1", "messages.list", channel=channel)
    assert page["messages"][0]["reactions"] == {"👍": {"count": 2, "me": True}, "y": {"count": 1, "me": False}}


async def test_pins_are_listed_in_the_order_in_which_they_were_pinned(a: Replica, b: Replica, channel: str) -> None:
    one, two, three = await send(a, channel, "one", "two", "three")
    for of in (three, one, two):
        await a.call("u1", "pins.add", channel=channel, of=of)
    await a.call("u1", "pins.remove", channel=channel, of=one)
    assert texts(await b.call("u3", "pins.list", channel=channel)) == ["three", "two"]
    await a.call("u1", "messages.purge", channel=channel, user="u2")
    assert texts(await b.call("u3", "pins.list", channel=channel)) == []


async def test_a_purge_without_bound_takes_what_there_is(a: Replica, b: Replica, channel: str) -> None:
    await send(a, channel, "one", "two")
    await send(a, channel, "mine", user="u3")
    await a.call("u1", "messages.purge", channel=channel, user="u2")
    await send(a, channel, "later")
    assert texts(await b.call("u3", "messages.list", channel=channel)) == ["gone", "gone", "mine", "later"]
    assert await refusal(b, "u3", "messages.purge", channel=channel, user="u2") == (103, "not_allowed")


async def test_messages_between_two_users_are_for_these_two_and_backends(a: Replica, b: Replica) -> None:
    await a.call("u1", "messages.send", to="u2", text="Hi")
    await b.call("u2", "messages.send", to="u1", text="Ho")
    asked: list[tuple[str, Json]] = [
        ("u1", {"with": "u2"}),
        ("u2", {"with": "u1"}),
        ("u2", {"from": "u1", "to": "u2"}),
        ("", {"from": "u2", "to": "u1"}),
    ]
    for user, params in asked:
        assert texts(await b.call(user, "messages.between", **params)) == ["Hi", "Ho"]
    assert texts(await b.call("u1", "messages.between", with_="u2", limit=1)) == ["Ho"]
    assert await refusal(b, "u3", "messages.between", from_="u1", to="u2") == (103, "not_allowed")
    assert await refusal(b, "u1", "messages.between", with_="u3") == (103, "not_allowed")


async def test_what_a_hook_made_is_appended_as_a_client_publishes_it(a: Replica, b: Replica, channel: str) -> None:
    async def append(user: str, key: str = "", /, **event: Any) -> Json:
        return await a.call(user, "events.append", key, channel=channel, event=event, tags={"by": "hook"})

    done = await append("u2", "k1", kind="message", text="***")
    assert done == {"channel": channel, "offset": 4, "epoch": done["epoch"], "applied": True, "id": f"{channel}/4"}
    assert await b.call("u2", "events.append", "k1", channel=channel, event={"kind": "message", "text": "x"}) == done
    assert (await a.call("u2", "messages.send", "k1", channel=channel, text="***"))["offset"] == 4  # the same keys
    assert (await b.call("u3", "messages.get", channel=channel, offset=4))["text"] == "***"
    assert "id" not in await append("u3", kind="reaction", of=4, name="x", op="add")
    assert (await append("u3", kind="reaction", of=4, name="x", op="add"))["why"] == "unchanged"
    ((_, appended),) = await a.rows.read(channel, since_offset=3, upto=4, limit=1, reverse=False)
    assert dict(Publication.FromString(appended).tags) == {"by": "hook"}
    for event, code in (
        ({"kind": "member", "op": "remove", "user": "u3"}, 103),  # as by publishing
        ({"kind": "purge", "user": "u2", "upto": 9}, 103),
        ({"kind": "message"}, 107),
        ({"kind": "delete", "of": 4}, 103),
    ):
        user = "u1" if event["kind"] in ("member", "purge") else "u3"
        with pytest.raises(CallRefused) as refused:
            await append(user, **event)
        assert refused.value.code == code, event


async def test_a_thread_is_read_as_far_as_its_answers_reach(
    a: Replica, b: Replica, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = await send(a, channel, "root", "other")
    near = await send(a, channel, "a", "b", thread=root)
    await send(a, channel, "aside", thread=other)
    await send(a, channel, *map(str, range(60)))
    read, rows = a.rows.read_counted, list[int]()

    async def counted(channel: str, **asked: Any) -> Any:
        rows.append(asked["limit"])
        return await read(channel, **asked)

    async def page(**params: Any) -> Json:
        found = await b.call("u3", "messages.thread", channel=channel, thread=root, **params)
        return {"texts": texts(found), **{name: found[name] for name in ("more", "before", "after") if name in found}}

    monkeypatch.setattr(pages, "_ROWS_OF_A_THREAD", 10)
    await page()
    for replica in (a, b):
        monkeypatch.setattr(replica.rows, "read_counted", counted)
    assert await page() == {"texts": ["a", "b"], "more": False}
    assert rows == [1, 10]  # the root, and what follows it; nothing behind the last answer
    assert await page(limit=1) == {"texts": ["a"], "more": True, "after": near[0]}
    assert await page(limit=1, after=near[0]) == {"texts": ["b"], "more": False}
    (far,) = await send(a, channel, "far", thread=root)
    assert await page(limit=2) == {"texts": ["a", "b"], "more": True, "after": near[1]}
    assert await page(limit=2, before=10_000) == {"texts": ["b", "far"], "more": True, "before": near[1]}
    assert await page(limit=2, before=near[1]) == {"texts": ["a"], "more": False}
    monkeypatch.setattr(pages, "MAX_ROWS", 20)
    rows.clear()
    found, calls = list[str](), 0
    params: Json = {}
    while True:  # some pages are empty, and say where to go on
        one = await page(**params)
        found, calls = found + one["texts"], calls + 1
        if not one["more"]:
            break
        params = {"after": one["after"]}
    assert (found, calls) == (["a", "b", "far"], 4)
    await a.call("u2", "messages.delete", channel=channel, of=near[1])
    await a.call("u2", "messages.delete", channel=channel, of=root)
    monkeypatch.setattr(pages, "MAX_ROWS", 2_000)
    assert await page() == {"texts": ["a", "far"], "more": False}
    nobodys = (await send(a, channel, "late"))[0]
    late = str((await a.call("u1", "conversations.create", users=["u2"], settings={"history": "joined"}))["channel"])
    (hidden,) = await send(a, late, "hidden")
    await a.call("u1", "members.add", channel=late, user="u3")
    for where, offset, code in ((channel, 1, 404), (channel, nobodys + 1, 404), (late, hidden, 404)):
        refused = await refusal(b, "u3", "messages.thread", channel=where, thread=offset)
        assert refused == (code, "no_message")
    assert (await refusal(b, "eve", "messages.thread", channel=channel, thread=root))[0] == 103
    assert far
