"""What is accepted, refused and repeated, on one replica."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.persistence.chat.append import Appended, Options, Refused
from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import Conversation
from services.persistence.chat.flags import flags_of
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, ERASES, GRANTS
from tests.support.chat import GROUP, ChatSite, Replica, code, new_event
from thalamus.common.v1 import common_pb2

MESSAGE: dict[str, Any] = {"kind": "message", "text": "a"}
OPEN = "conv:o.lobby"


@pytest.fixture
async def one(chat: ChatSite) -> Replica:
    made = chat.replica()
    await made.create("ann", "bob")
    return made


# Idempotency keys.


async def test_a_key_has_its_first_position_also_when_it_would_be_refused_now(chat: ChatSite, one: Replica) -> None:
    two = chat.replica()
    first = await one.append("bob", MESSAGE, key="k")
    edited = await one.append("bob", {"kind": "edit", "of": 3, "text": "b"}, key="e")
    assert isinstance(first, Appended)
    assert isinstance(edited, Appended)
    await one.did("ann", {"kind": "member", "op": "remove", "user": "bob"})
    for replica in (one, two, chat.replica()):
        assert await replica.append("bob", MESSAGE, key="k") == first._replace(repeated_key=True)
        assert await replica.append("bob", {"kind": "edit", "of": 3, "text": "b"}, key="e") == edited._replace(
            repeated_key=True
        )
        assert code(await replica.append("bob", MESSAGE, key="l")) == 103
    assert len(await chat.log()) == 5


async def test_a_repeated_publication_without_a_key_is_known(one: Replica) -> None:
    event = new_event("bob", MESSAGE)
    first = await one.appender.append(event)
    await one.did("ann", {"kind": "member", "op": "remove", "user": "bob"})
    again = await one.appender.append(event)
    assert isinstance(first, Appended)
    assert again == first._replace(repeated_key=True)


async def test_a_cid_is_a_key_of_its_user(one: Replica) -> None:
    event = {**MESSAGE, "cid": "c1"}
    assert await one.say("ann") == 3
    first = await one.append("bob", event)
    assert await one.append("bob", {**event, "text": "another"}) == Appended(4, first.epoch, repeated_key=True)  # type: ignore[union-attr]
    assert code(await one.append("ann", event)) == "ok"
    assert (await one.append("ann", event, key="k")).offset == 6  # type: ignore[union-attr]
    long = {**MESSAGE, "cid": "😀" * 64}
    assert {(await one.append("bob", long)).offset for _ in range(2)} == {7}  # type: ignore[union-attr]


async def test_a_repeated_void_event_is_told_to_be_void_again(chat: ChatSite, one: Replica) -> None:
    """Also by a replica that finds it in the read model, and folds nothing."""
    said = await one.say("bob")
    two = chat.replica()
    reaction = {"kind": "reaction", "of": said, "name": "x", "op": "add"}
    await two.conversations.prepare(await two.conversations.current(GROUP), events.Delete(of=said))
    await one.did("bob", reaction)
    first = await two.append("bob", reaction, key="r")  # it has not heard of the other one yet
    assert code(first) == "unchanged"
    assert code(await chat.replica().append("bob", reaction, key="r")) == "unchanged"
    await one.conversations.write(await one.conversations.current(GROUP))
    last = chat.replica()
    assert code(await last.append("bob", reaction, key="r")) == "unchanged"
    live = await last.conversations.current(GROUP)
    assert live.projected == live.position == said + 2
    assert code(await last.append("bob", {"kind": "reaction", "of": said, "name": "x", "op": "remove"})) == "ok"
    assert code(await last.append("bob", reaction, key="r")) == "unchanged"


async def test_a_key_of_another_event_at_the_next_position_is_not_taken_for_a_message(
    chat: ChatSite, one: Replica
) -> None:
    said = await one.say("bob")
    await one.view()
    two = chat.replica()
    assert await two.did("bob", {"kind": "reaction", "of": said, "name": "x", "op": "add"}, key="k") == said + 1
    again = await one.append("bob", MESSAGE, key="k")
    assert isinstance(again, Appended)
    assert (again.offset, again.repeated_key) == (said + 1, True)
    assert await one.view() == (await chat.naive()).view()


async def test_a_key_that_redis_has_forgotten_is_found_in_the_store(chat: ChatSite, one: Replica) -> None:
    first = await one.append("bob", MESSAGE, key="k")
    await one.did("ann", {"kind": "member", "op": "remove", "user": "bob"})
    await chat.site.client.flushdb()
    assert isinstance(first, Appended)
    assert await one.append("bob", MESSAGE, key="k") == first._replace(repeated_key=True)


# What may be published.


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (MESSAGE, "ok"),
        ({"kind": "edit", "of": 3, "text": "b"}, "ok"),
        ({"kind": "reaction", "of": 3, "name": "x", "op": "add"}, "ok"),
        ({"kind": "pin", "of": 3, "op": "add"}, "ok"),
        ({"kind": "delete", "of": 3}, "ok"),
        ({"kind": "x.poll", "a": 1}, "ok"),
        ({"kind": "member", "op": "leave"}, 103),
        ({"kind": "member", "op": "add", "user": "eve"}, 103),
        ({"kind": "conversation", "op": "update", "name": "a"}, 103),
        ({"kind": "conversation", "op": "delete"}, 103),
        ({"kind": "purge", "user": "ann", "upto": 9}, 103),
        ({"kind": "erased", "was": "message", "by": 3}, 103),
        ({"kind": "typing"}, 107),
        ({"kind": "message"}, 107),
        ({"kind": "message", "text": "x" * 70_000}, 106),
    ],
)
async def test_what_clients_may_publish(one: Replica, event: dict[str, Any], expected: int | str) -> None:
    await one.say("ann")
    assert code(await one.append("ann", event, by_publish=True)) == expected


async def test_nobody_appends_what_the_platform_writes_itself(one: Replica) -> None:
    assert code(await one.append("", {"kind": "erased", "was": "message", "by": 3})) == 103


async def test_events_of_the_application_need_the_right_to_post(chat: ChatSite, one: Replica) -> None:
    assert code(await one.append("eve", {"kind": "x.poll"})) == 103
    await one.did("ann", {"kind": "member", "op": "add", "user": "eve", "role": "reader"})
    assert code(await one.append("eve", {"kind": "x.poll"})) == 103
    assert code(await one.append("bob", {"kind": "x.poll"})) == "ok"
    await one.did(
        "ann", {"kind": "member", "op": "silence", "user": "bob", "until": int(chat.clock() * 1_000) + 60_000}
    )
    assert (await one.append("bob", {"kind": "x.poll"})) == Refused(103, "silenced", "you are silenced")


async def test_groups_have_no_more_members_than_the_namespace_allows(one: Replica) -> None:
    options = Options(100, 60, group_max_members=5)
    create: dict[str, Any] = {"kind": "conversation", "op": "create", "settings": {"max_members": 6}}
    other = GROUP[:-1] + "b"
    assert code(await one.append("ann", create, channel=other, options=options)) == 106
    create["settings"]["max_members"] = 5
    assert code(await one.append("ann", create, channel=other, options=options)) == "ok"


async def test_a_full_group_refuses_whom_it_has_invited_with_the_reason(one: Replica) -> None:
    await one.did("ann", {"kind": "member", "op": "invite", "user": "eve"})
    await one.did("ann", {"kind": "conversation", "op": "update", "settings": {"max_members": 2}})
    found = await one.append("eve", {"kind": "member", "op": "join"})
    assert (code(found), found.why) == (106, "full")  # type: ignore[union-attr]
    assert code(await one.append("dan", {"kind": "member", "op": "join"})) == 103


async def test_what_was_said_before_a_member_may_look_is_not_there(one: Replica) -> None:
    """Mutant: whoever answers in a thread is not asked whether they may see its root."""
    said = await one.say("ann")
    await one.did("ann", {"kind": "member", "op": "add", "user": "eve", "from": said})
    reaction = {"kind": "reaction", "of": said, "name": "x", "op": "add"}
    for event in ({**MESSAGE, "thread": said}, reaction):
        refused = await one.append("eve", event)
        assert isinstance(refused, Refused)
        assert refused.why == "no_message"
        assert code(await one.append("bob", event)) == "ok"
    assert code(await one.append("eve", MESSAGE)) == "ok"


# Times.


async def test_silence_ends_a_little_later_and_windows_a_little_earlier(chat: ChatSite, one: Replica) -> None:
    """What is accepted here must apply with the time that it gets later."""
    until = int(chat.clock() * 1_000) + 60_000
    await one.did("ann", {"kind": "member", "op": "silence", "user": "bob", "until": until})
    chat.later_s = 60.05
    assert code(await one.append("bob", MESSAGE)) == 103
    chat.later_s = 0.0
    await one.did("ann", {"kind": "member", "op": "silence", "user": "bob"})
    await one.did(
        "ann", {"kind": "conversation", "op": "update", "settings": {"edit_window_s": 60, "delete_window_s": 60}}
    )
    said = await one.say("bob")
    chat.later_s = 58.0
    assert (await one.append("bob", {"kind": "edit", "of": said, "text": "b"})).why == "too_late"  # type: ignore[union-attr]
    assert (await one.append("bob", {"kind": "delete", "of": said})).why == "too_late"  # type: ignore[union-attr]
    chat.later_s = 50.0
    assert code(await one.append("bob", {"kind": "edit", "of": said, "text": "b"})) == "ok"
    assert code(await one.append("bob", {"kind": "delete", "of": said})) == "ok"


async def test_slow_mode_lets_members_post_so_often_and_moderators_always(chat: ChatSite, one: Replica) -> None:
    await one.did("ann", {"kind": "conversation", "op": "update", "settings": {"slow_mode_s": 30}})
    two = chat.replica()
    event = new_event("bob", MESSAGE)
    first = await one.appender.append(event)
    assert isinstance(first, Appended)
    for replica in (one, two):
        refused = await replica.append("bob", MESSAGE)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.why) == (111, "slow_mode")
        assert 25_000 < refused.retry_after_ms <= 30_000
    assert await two.appender.append(event) == first._replace(repeated_key=True)
    assert code(await one.append("bob", {"kind": "reaction", "of": first.offset, "name": "x", "op": "add"})) == "ok"
    assert [code(await one.append("ann", MESSAGE)) for _ in range(3)] == ["ok"] * 3
    assert [code(await one.append("", MESSAGE)) for _ in range(3)] == ["ok"] * 3
    await chat.site.client.delete(keys.slow_mode(GROUP, "bob"))
    assert code(await two.append("bob", MESSAGE)) == "ok"


async def test_without_slow_mode_nothing_is_kept_of_who_posts(chat: ChatSite, one: Replica) -> None:
    await one.say("bob")
    assert await chat.site.client.exists(keys.slow_mode(GROUP, "bob")) == 0


# Flags.

_FLAGS: list[tuple[dict[str, Any], int, bool]] = [
    (MESSAGE, COUNTS, True),
    ({**MESSAGE, "silent": True}, 0, True),
    ({**MESSAGE, "thread": 3}, 0, True),
    ({"kind": "edit", "of": 3, "text": "a"}, 0, True),
    ({"kind": "reaction", "of": 3, "name": "x", "op": "add"}, 0, True),
    ({"kind": "pin", "of": 3, "op": "add"}, 0, True),
    ({"kind": "x.poll"}, 0, True),
    ({"kind": "delete", "of": 3}, ERASES, True),
    ({"kind": "purge", "user": "u", "upto": 3}, ERASES, True),
    ({"kind": "member", "op": "add", "user": "u"}, GRANTS, False),
    ({"kind": "member", "op": "add", "user": "u", "role": "reader"}, GRANTS, False),
    ({"kind": "member", "op": "add", "user": "u", "role": "moderator"}, CHANGES_MEMBERSHIP, False),
    ({"kind": "member", "op": "invite", "user": "u"}, GRANTS, False),
    ({"kind": "member", "op": "join"}, GRANTS, False),
    ({"kind": "member", "op": "decline"}, GRANTS, False),
    ({"kind": "member", "op": "unban", "user": "u"}, GRANTS, False),
    ({"kind": "member", "op": "leave"}, CHANGES_MEMBERSHIP, False),
    ({"kind": "member", "op": "remove", "user": "u"}, CHANGES_MEMBERSHIP, True),
    ({"kind": "member", "op": "ban", "user": "u"}, CHANGES_MEMBERSHIP, True),
    ({"kind": "member", "op": "silence", "user": "u"}, CHANGES_MEMBERSHIP, True),
    ({"kind": "member", "op": "role", "user": "u", "role": "member"}, CHANGES_MEMBERSHIP, True),
    ({"kind": "conversation", "op": "create"}, GRANTS, False),
    ({"kind": "conversation", "op": "update", "name": "a"}, CHANGES_MEMBERSHIP, True),
    ({"kind": "conversation", "op": "close"}, CHANGES_MEMBERSHIP, True),
    ({"kind": "conversation", "op": "reopen"}, CHANGES_MEMBERSHIP, True),
    ({"kind": "conversation", "op": "delete"}, CHANGES_MEMBERSHIP | ERASES, True),
]


@pytest.mark.parametrize(("event", "flags", "guarded"), _FLAGS, ids=lambda value: str(value)[:60])
def test_flags_and_guards(event: dict[str, Any], flags: int, guarded: bool) -> None:
    assert flags_of(Conversation(), events.parse(json.dumps(event).encode()), "u") == (flags, guarded)


async def test_edges_find_the_flags_in_the_publication(chat: ChatSite, one: Replica) -> None:
    await one.say("bob")
    await one.did("ann", {"kind": "member", "op": "invite", "user": "eve", "role": "moderator"})
    await one.did("eve", {"kind": "member", "op": "join"})
    await one.did("ann", {"kind": "delete", "of": 3})
    await one.did("bob", {"kind": "member", "op": "leave"})
    rows = await chat.site.store.read_counted(GROUP, since_offset=0, upto=99, limit=99, reverse=False)
    expected = [8, 8, 1, 2, 2, 4, 2]
    assert [row.flags for row in rows] == expected
    assert [common_pb2.Publication.FromString(row.publication).flags for row in rows] == expected
    assert [row.n for row in rows] == [0, 0, 1, 1, 1, 1, 1]
    assert rows[-1].mv == 7


# What does not work.


async def test_a_store_that_is_away_is_unavailable_and_a_retry_finds_the_event(chat: ChatSite, one: Replica) -> None:
    said = await one.say("bob")
    two = chat.replica()
    await two.view()
    real = two.process.store.real.read

    async def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("as if it had gone")

    event = new_event("bob", {"kind": "edit", "of": said, "text": "b"})
    two.process.store.real.read = away  # type: ignore[method-assign]
    try:
        assert code(await two.appender.append(event)) == 100
    finally:
        two.process.store.real.read = real  # type: ignore[method-assign]
    assert code(await two.appender.append(event)) == "ok"


async def test_a_bug_answers_unavailable_and_blocks_nothing(
    chat: ChatSite, one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    said = await one.say("bob")
    with monkeypatch.context() as patch:
        patch.setattr(one.conversations, "upto", broken)
        assert code(await one.append("bob", {"kind": "reaction", "of": said, "name": "x", "op": "add"})) == 100
        patch.setattr(one.conversations, "current", broken)
        assert code(await one.append("eve", MESSAGE)) == 100
    assert code(await one.append("bob", {"kind": "reaction", "of": said, "name": "x", "op": "remove"})) == "ok"


async def test_a_message_has_a_bounded_number_of_edits(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are kept with it, and what the store takes of a document is bounded."""
    monkeypatch.setattr("services.persistence.chat.admission.MAX_EDITS", 2)
    said, edit = await one.say("bob"), {"kind": "edit", "text": "b"}
    assert [code(await one.append("bob", {**edit, "of": said})) for _ in range(3)] == ["ok", "ok", 106]
    await one.did("bob", {**edit, "of": await one.say("bob")})
    await one.did("bob", {"kind": "delete", "of": said})


@pytest.mark.parametrize("kind", ["delete", "edit"])
async def test_what_is_numbered_later_than_it_may_be_is_refused_and_erases_nothing(chat: ChatSite, kind: str) -> None:
    one = chat.replica()
    await one.create("ann", "bob", settings={f"{kind}_window_s": 0})
    message = await one.say("bob", "before")
    hot: Any = one.process.hot
    append = hot.append

    async def late(*arguments: Any) -> Any:
        chat.later_s = 0  # the process stood still after it had decided
        return await append(*arguments)

    hot.append, chat.later_s = late, -60
    found = await one.append("bob", {"kind": kind, "of": message, **({"text": "x"} if kind == "edit" else {})})
    assert isinstance(found, Refused)
    assert (found.code, found.why) == (103, "too_late")
    assert [events.read(entry.data) for entry in await chat.log()][-1] == events.Message(text="before")
    for replica in (one, chat.replica()):
        assert (await replica.view())["messages"][str(message)]["text"] == "before"
    if kind == "delete":
        await one.did("ann", {"kind": kind, "of": message})  # who moderates may always
