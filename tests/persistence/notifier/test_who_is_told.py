"""Who is told of what, and what is taken back: C60, C61, C64."""

from __future__ import annotations

from typing import Any

import pytest

from services.persistence.chat.markers.record import Marker, Preferences, settings_of
from services.persistence.notifier.planner import Rules
from services.persistence.notifier.timers import Grown, Timers
from services.shared.hotlog import keys
from tests.support.chat_calls import NAMESPACE, Site
from tests.support.push import Backend, Run, WhoIsThere, do, make_due


async def group(site: Site, *users: str) -> str:
    made = await do(site.replicas[0], "ann", "conversations.create", users=list(users), name="Lunch")
    channel: str = made["channel"]
    return channel


async def say(site: Site, channel: str, user: str = "ann", /, **params: Any) -> int:
    offset: int = (await do(site.replicas[1], user, "messages.send", channel=channel, **params))["offset"]
    return offset


async def read(site: Site, channel: str, user: str, offset: int) -> None:
    live = await site.replicas[1].conversations.current(channel)
    await site.replicas[1].chat.markers.merge(user, channel, live.epoch, Marker(0, offset))


async def prefer(site: Site, channel: str, user: str, preferences: Preferences) -> None:
    live = await site.replicas[0].conversations.current(channel)
    await site.replicas[0].chat.markers.change(
        user, channel, live.epoch, lambda record: record._replace(version=1, settings=settings_of(preferences))
    )


def told(notes: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return sorted((note["kind"], note["user"], note["offset"]) for note in notes)


async def test_c60_who_read_it_in_time_is_not_told(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob")
    offset = await say(site, channel, text="hi")
    await run.read()
    await run.decide()
    await run.send()
    assert backend.take() == [], "the delay has not passed"
    await read(site, channel, "bob", offset)
    await run.all()
    assert backend.take() == []


async def test_c60_whoever_is_active_is_not_told_and_whoever_is_away_is(
    site: Site, run: Run, backend: Backend, presence: WhoIsThere
) -> None:
    channel = await group(site, "bob", "cid")
    presence.users = {"cid"}
    offset = await say(site, channel, text="hi there")
    await run.all()
    (note,) = backend.take()
    assert note == note | {
        "kind": "message",
        "user": "bob",
        "channel": channel,
        "offset": offset,
        "title": "Lunch",
        "body": "ann: hi there",
        "type": "group",
        "author": "ann",
    }
    await run.all()
    assert backend.take() == []


async def test_c60_three_messages_are_one_notification(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob")
    muted, other = await group(site, "bob"), await group(site, "bob")
    await prefer(site, muted, "bob", Preferences(muted_until_ms=4_102_444_800_000))
    for where in (muted, other):
        await say(site, where, text="elsewhere", silent=where == other)
        await say(site, where, text="elsewhere")
        await site.settle(where)
    await read(site, channel, "bob", await say(site, channel, text="read"))
    offsets = [await say(site, channel, text=f"m{number}") for number in range(3)]
    await site.settle(channel)
    await run.all()
    notes = {note["channel"]: note for note in backend.take()}
    assert notes.keys() == {channel, other}
    assert (notes[channel]["offset"], notes[channel]["badge"]) == (offsets[-1], 4), "3 here, 1 there, none muted"
    later = await say(site, channel, text="m3")
    await run.all()
    (note,) = backend.take()
    assert (told([note]), note["badge"]) == ([("message", "bob", later)], 5)
    await read(site, channel, "bob", later)
    await run.look_again()
    await run.send()
    (back,) = backend.take()
    assert (back["kind"], back["badge"]) == ("dismiss", 1)


async def test_without_a_badge_the_notification_goes_out_all_the_same(site: Site, run: Run, backend: Backend) -> None:
    """The user has more conversations than are counted."""
    site.replicas[0].chat.badges._most = 0  # noqa: SLF001
    channel = await group(site, "bob")
    offset = await say(site, channel, text="hi")
    await run.all()
    (note,) = backend.take()
    assert (told([note]), "badge" in note) == ([("message", "bob", offset)], False)
    await read(site, channel, "bob", offset)
    await run.look_again()
    await run.send()
    (back,) = backend.take()
    assert (back["kind"], "badge" in back) == ("dismiss", False)


async def test_c60_what_is_read_later_is_taken_back(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob", "cid")
    offset = await say(site, channel, text="hi")
    await run.all()
    shown = backend.take()
    assert told(shown) == [("message", "bob", offset), ("message", "cid", offset)]
    await run.look_again()
    await run.send()
    assert backend.take() == [], "nobody has read it"
    await read(site, channel, "bob", offset)
    await run.look_again()
    await run.send()
    (back,) = backend.take()
    assert told([back]) == [("dismiss", "bob", offset)]
    assert back["id"] == next(note["id"] for note in shown if note["user"] == "bob")
    await run.all()
    assert backend.take() == []


async def test_c60_what_was_deleted_is_taken_back(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob", "cid")
    first, second = [await say(site, channel, text="secret") for _ in range(2)]
    await run.all()
    assert told(backend.take()) == [("message", "bob", second), ("message", "cid", second)]
    await do(site.replicas[0], "ann", "messages.delete", channel=channel, of=first)
    await run.read()
    await run.decide()
    await run.look_again()
    await run.send()
    assert backend.take() == [], "another message is shown"
    await do(site.replicas[0], "ann", "messages.delete", channel=channel, of=second)
    await run.read()
    await run.decide()  # at once, without the delay
    await run.look_again()
    await run.send()
    assert told(backend.take()) == [("dismiss", "bob", second), ("dismiss", "cid", second)]


async def test_who_is_removed_sees_it_no_longer(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob")
    offset = await say(site, channel, text="hi")
    await run.all()
    backend.take()
    await do(site.replicas[0], "ann", "members.remove", channel=channel, user="bob")
    await say(site, channel, text="without bob")
    await run.all()
    assert told(backend.take()) == [("dismiss", "bob", offset)]


async def test_what_is_deleted_before_it_is_sent_is_not_sent(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob")
    offset = await say(site, channel, text="secret")
    await run.read()
    await run.pass_time()
    await run.decide()
    await do(site.replicas[0], "ann", "messages.delete", channel=channel, of=offset)
    await run.send()
    assert backend.take() == []


async def test_what_is_read_before_it_is_sent_is_not_sent(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob", "cid")
    offset = await say(site, channel, text="hi")
    await run.read()
    await run.pass_time()
    await run.decide()
    await read(site, channel, "bob", offset)
    await run.send()
    assert told(backend.take()) == [("message", "cid", offset)]


async def test_what_the_feed_tells_again_is_told_once(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob")
    offset = await say(site, channel, text="hi")
    await run.all()
    assert told(backend.take()) == [("message", "bob", offset)]
    epoch = (await site.replicas[0].conversations.current(channel)).epoch
    await Timers(run.redis).note([Grown(channel, epoch, offset, 0.0)])
    await run.all()
    assert backend.take() == []


async def test_c61_an_edit_tells_nobody_but_whom_it_mentions_first(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob", "cid")
    for user in ("bob", "cid"):
        await prefer(site, channel, user, Preferences(notify="mentions"))
    offset = await say(site, channel, text="hi bob", mentions=["bob"])
    await run.all()
    assert told(backend.take()) == [("message", "bob", offset)]
    await do(site.replicas[0], "ann", "messages.edit", channel=channel, of=offset, text="Hi bob!", mentions=["bob"])
    await run.all()
    assert backend.take() == []
    edit: dict[str, Any] = {"text": "Hi both!", "mentions": ["bob", "cid"]}
    await do(site.replicas[0], "ann", "messages.edit", channel=channel, of=offset, **edit)
    await run.all()
    (note,) = backend.take()
    assert (told([note]), note["body"]) == ([("message", "cid", offset)], "ann: Hi both!")


async def test_c61_an_edit_tells_nobody_who_has_read_it(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob")
    offset = await say(site, channel, text="hi")
    await read(site, channel, "bob", offset)
    edit: dict[str, Any] = {"text": "hi bob", "mentions": ["bob"]}
    await do(site.replicas[0], "ann", "messages.edit", channel=channel, of=offset, **edit)
    await run.all()
    assert backend.take() == []


@pytest.mark.parametrize(
    ("preferences", "plain", "mention"),
    [
        (Preferences(), True, True),
        (Preferences(notify="mentions"), False, True),
        (Preferences(notify="none"), False, False),
        (Preferences(muted_until_ms=4_102_444_800_000), False, False),
        (Preferences(muted_until_ms=1), True, True),
    ],
)
async def test_preferences_decide(
    site: Site, run: Run, backend: Backend, preferences: Preferences, plain: bool, mention: bool
) -> None:
    channel = await group(site, "bob")
    await prefer(site, channel, "bob", preferences)
    offset = await say(site, channel, text="hi")
    await run.all()
    assert told(backend.take()) == ([("message", "bob", offset)] if plain else [])
    for params in ({"mentions": ["bob"]}, {"mention_all": True}):
        offset = await say(site, channel, text="hi", **params)
        await run.all()
        assert told(backend.take()) == ([("message", "bob", offset)] if mention else [])
    own = await say(site, channel, "bob", text="mine", silent=True)
    offset = await say(site, channel, text="yes", reply_to=own)
    await run.all()
    assert told(backend.take()) == ([("message", "bob", offset)] if mention else [])
    await say(site, channel, text="psst", silent=True, mentions=["bob"])
    await run.all()
    assert backend.take() == []


async def test_direct_and_open_conversations(site: Site, run: Run, backend: Backend) -> None:
    a = site.replicas[0]
    a.names = {"ann": '{"name":"Ann B."}'}
    direct = (await do(a, "ann", "messages.send", to="bob", text="psst"))["channel"]
    await run.all()
    (note,) = backend.take()
    assert (note["channel"], note["title"], note["body"]) == (direct, "Ann B.", "psst")
    lobby = (await do(a, "ann", "conversations.create", type="open", id="lobby", name="Lobby"))["channel"]
    await say(site, lobby, text="anybody here?", mention_all=True)
    offset = await say(site, lobby, text="hi bob", mentions=["bob"])
    await run.all()
    assert told(backend.take()) == [("message", "bob", offset)]


@pytest.mark.parametrize(
    ("preview", "title", "body"),
    [("text", "Lunch", "ann: hi"), ("sender", "Lunch", "ann: New message"), ("none", "New message", "")],
)
async def test_the_preview_says_no_more_than_it_may(
    site: Site, run: Run, backend: Backend, preview: str, title: str, body: str
) -> None:
    run.notifier.planner._rules = rules = {NAMESPACE: Rules(preview=preview)}  # noqa: SLF001
    for courier in run.notifier.couriers:
        courier._preview_of = lambda _: rules[NAMESPACE].preview  # noqa: SLF001
    channel = await group(site, "bob")
    await say(site, channel, text="hi")
    await run.all()
    (note,) = backend.take()
    assert (note["title"], note.get("body", "")) == (title, body)
    assert ("author" in note) == (preview != "none")


async def test_with_always_whoever_is_active_is_told(
    site: Site, run: Run, backend: Backend, presence: WhoIsThere
) -> None:
    run.notifier.planner._rules = {NAMESPACE: Rules(when="always")}  # noqa: SLF001
    channel = await group(site, "bob")
    presence.users = {"bob"}
    offset = await say(site, channel, text="hi")
    await run.all()
    assert told(backend.take()) == [("message", "bob", offset)]
    assert presence.asked == []


async def test_while_presence_is_away_it_waits_and_then_tells(
    site: Site, run: Run, backend: Backend, presence: WhoIsThere
) -> None:
    channel = await group(site, "bob")
    presence.away = True
    offset = await say(site, channel, text="hi")
    await run.read()
    now = (await run.conn.time())[0]
    await make_due(run.conn, keys.push("due"), (now - 30) * 1000)
    await run.decide()
    await run.send()
    assert backend.take() == []
    assert await run.conn.zcard(keys.push("due")) == 1, "it is looked at again"
    await make_due(run.conn, keys.push("due"), (now - 61) * 1000)
    await run.decide()
    await run.send()
    assert told(backend.take()) == [("message", "bob", offset)]
    assert await run.conn.zcard(keys.push("due")) == 0


async def test_c64_in_a_large_group_those_mentioned_are_told_alone(
    site: Site, run: Run, backend: Backend, presence: WhoIsThere
) -> None:
    live_members = 10_000
    channel = await group(site, "bob", "cid")
    state = (await site.replicas[0].conversations.current(channel)).state
    for number in range(live_members):
        state.members[f"u{number}"] = state.members["bob"]
    answered = await say(site, channel, "cid", text="a question")
    for number in range(30):
        await say(site, channel, text=f"m{number}")
    to_cid = await say(site, channel, text="an answer", reply_to=answered)
    to_bob = await say(site, channel, text="hi bob", mentions=["bob"])
    await say(site, channel, text="everybody!", mention_all=True)
    await run.all()
    assert told(backend.take()) == [("message", "bob", to_bob), ("message", "cid", to_cid)]
    assert len(presence.asked) <= 20
    assert sum(map(len, presence.asked)) == 2
