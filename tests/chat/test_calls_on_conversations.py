"""Methods on conversations and members: answers, repeats, refusals, notices."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.persistence.chat.domain.names import direct_channel
from services.shared.chat_methods import METHODS
from tests.support.chat_calls import NAMESPACE, OPTIONS, CallRefused, Replica, Site
from thalamus.chat.v1 import chat_pb2 as pb


async def group(replica: Replica, *users: str, **params: Any) -> str:
    """A group of u1 and these users."""
    made = await replica.call("u1", "conversations.create", users=list(users), **params)
    return str(made["channel"])


async def refusal(replica: Replica, user: str, method: str, /, **params: Any) -> tuple[int, str]:
    with pytest.raises(CallRefused) as refused:
        await replica.call(user, method, **params)
    return refused.value.code, refused.value.why


def notices(response: pb.CallResponse) -> dict[str, dict[str, Any]]:
    return {notice.user: json.loads(notice.data) for notice in response.notices}


async def people(replica: Replica, channel: str) -> dict[str, str]:
    found = await replica.call("", "members.list", channel=channel)
    return {one["user"]: one["role"] for one in found["members"]}


def test_every_method_has_a_handler() -> None:
    from services.persistence.chat.methods.registry import _HANDLERS

    assert _HANDLERS.keys() == METHODS.keys()


async def test_a_group_has_its_creator_as_owner_and_its_users_as_members(a: Replica, b: Replica) -> None:
    made = await a.call("u1", "conversations.create", name="Lunch", users=["u2", "u1", "u3", "u2"])
    assert made.keys() == {"channel", "offset", "epoch", "applied"}
    assert await people(b, made["channel"]) == {"u1": "owner", "u2": "member", "u3": "member"}
    got = await b.call("u2", "conversations.get", channel=made["channel"])
    assert got["me"] == {"role": "member", "since": 2, "from": 0}
    assert (got["name"], got["type"], got["phase"], got["owner"]) == ("Lunch", "group", "active", "u1")
    assert (got["members_n"], got["n"], got["as_of"]["offset"]) == (3, 0, 3)


async def test_the_first_user_of_a_group_of_the_platform_owns_it(a: Replica) -> None:
    made = await a.call("", "conversations.create", users=["u5", *(f"v{number}" for number in range(20))])
    assert (await people(a, made["channel"]))["u5"] == "owner"


async def test_the_namespace_limits_members(a: Replica, b: Replica) -> None:
    made = await a.ask("u1", "conversations.create")
    channel = json.loads(made.result)["channel"]
    assert (await b.call("u1", "conversations.get", channel=channel))["settings"]["max_members"] == 1_000
    more, most = {"max_members": 1_001}, {"max_members": 1_000}
    assert await refusal(a, "u1", "conversations.create", settings=more) == (106, "too_large")
    assert await refusal(a, "u1", "conversations.update", channel=channel, settings=more) == (106, "too_large")
    channel = await group(a, settings=most)
    assert (await b.call("u1", "conversations.get", channel=channel))["settings"]["max_members"] == 1_000


async def test_who_can_not_be_added_is_told(a: Replica) -> None:
    made = await a.call("u1", "conversations.create", users=["u2", "u3", "u4"], settings={"max_members": 3})
    assert list(made["not_added"].values()) == ["full"]
    assert len(await people(a, made["channel"])) == 3


async def test_a_repeated_create_creates_and_adds_nothing(site: Site, a: Replica, b: Replica) -> None:
    params: dict[str, Any] = {"name": "Lunch", "users": ["u2", "u3"]}
    first = await a.call("u1", "conversations.create", "k1", **params)
    again = await b.call("u1", "conversations.create", "k1", **params)
    assert again == first
    assert len(await site.log(first["channel"])) == 3
    assert (await b.call("u1", "conversations.create", "k2", **params))["channel"] != first["channel"]
    assert (await b.call("u9", "conversations.create", "k1", **params))["channel"] != first["channel"]


async def test_a_repeat_goes_on_where_the_first_call_ended(site: Site, a: Replica) -> None:
    first = await a.call("u1", "conversations.create", "k", users=["u2"])
    again = await a.call("u1", "conversations.create", "k", users=["u2", "u3"])
    assert again == first
    assert await people(a, first["channel"]) == {"u1": "owner", "u2": "member", "u3": "member"}
    assert len(await site.log(first["channel"])) == 3


async def test_the_key_may_be_among_the_parameters(a: Replica, b: Replica) -> None:
    made = await a.call("u1", "conversations.create", key="k")
    assert await b.call("u1", "conversations.create", "k") == made


async def test_an_open_conversation_has_a_name_that_only_one_may_take(a: Replica, b: Replica) -> None:
    made = await a.call("u1", "conversations.create", type="open", id="lounge", name="The lounge")
    assert made["channel"] == "conv:o.lounge"
    assert await refusal(b, "u2", "conversations.create", type="open", id="lounge") == (409, "exists")
    assert (await refusal(b, "u2", "conversations.create", type="open", users=["u3"]))[0] == 107
    got = await b.call("u2", "conversations.get", channel="conv:o.lounge")
    assert got["me"] == {"role": "member"}


async def test_the_directory_lists_open_conversations_by_name(site: Site, a: Replica, b: Replica) -> None:
    for name in ("beta", "alpha", "alps"):
        await a.call("u1", "conversations.create", type="open", id=name)
    await group(a, "u2", name="alone")
    first = await b.call("u9", "conversations.directory", limit=2)
    assert [one["name"] for one in first["conversations"]] == ["alpha", "alps"]
    rest = await b.call("u9", "conversations.directory", limit=2, cursor=first["cursor"])
    assert (rest["conversations"], "cursor" in rest) == ([{"channel": "conv:o.beta", "name": "beta"}], False)
    found = await b.call("u9", "conversations.directory", prefix="alp")
    assert [one["channel"] for one in found["conversations"]] == ["conv:o.alpha", "conv:o.alps"]


async def test_a_direct_conversation_is_one_whoever_creates_it(site: Site, a: Replica, b: Replica) -> None:
    first = await a.call("u1", "conversations.create", type="direct", users=["u2"])
    again = await b.call("u2", "conversations.create", type="direct", users=["u1"])
    assert (first["channel"], first["offset"]) == (again["channel"], again["offset"])
    assert first["channel"] == direct_channel(NAMESPACE, ["u1", "u2"])
    assert len(await site.log(first["channel"])) == 1
    assert await people(b, first["channel"]) == {"u1": "member", "u2": "member"}
    by_backend = await b.call("", "conversations.create", type="direct", users=["u2", "u1"])
    assert by_backend == again
    for users in (["u2", "u3"], ["u1", "u2", "u3"]):
        assert (await refusal(a, "u1", "conversations.create", type="direct", users=users))[0] == 107


async def test_a_conversation_with_oneself_has_one_member(a: Replica) -> None:
    sent = await a.call("u1", "messages.send", to="u1", text="buy milk")
    assert await people(a, sent["channel"]) == {"u1": "member"}


async def test_who_joins_leaves_and_declines_sees_it_in_the_own_list(a: Replica, b: Replica) -> None:
    channel = await group(a, "u2", settings={"join": "anyone"}, name="Lunch")

    async def mine(user: str) -> list[dict[str, Any]]:
        found = (await b.call(user, "conversations.list"))["conversations"]
        for one in found:
            del one["as_of"]
        return list(found)

    entry = {"channel": channel, "type": "group", "name": "Lunch", "phase": "active"}
    assert await mine("u2") == [{**entry, "role": "member", "since": 2, "n": 0}]
    assert await mine("u3") == []
    assert (await a.call("u3", "conversations.join", channel=channel))["applied"]
    assert await mine("u3") == [{**entry, "role": "member", "since": 3, "n": 0}]
    await a.call("u3", "conversations.leave", channel=channel)
    assert await mine("u3") == []
    await a.call("u2", "members.invite", channel=channel, user="u4")
    assert await mine("u4") == [{**entry, "invited": "member"}]
    await a.call("u4", "conversations.decline", channel=channel)
    assert await mine("u4") == []
    await a.call("u1", "conversations.delete", channel=channel)
    assert await mine("u2") == []


async def test_a_list_of_conversations_has_pages_and_a_namespace(a: Replica, b: Replica) -> None:
    channels = sorted([await group(a, "u2") for _ in range(5)])
    first = await b.call("u2", "conversations.list", limit=3)
    rest = await b.call("u2", "conversations.list", limit=3, cursor=first["cursor"])
    assert [one["channel"] for one in first["conversations"] + rest["conversations"]] == channels
    assert "cursor" not in rest
    assert len((await b.call("u2", "conversations.list", namespace="conv"))["conversations"]) == 5
    assert (await b.call("u2", "conversations.list", namespace="con"))["conversations"] == []
    assert (await b.call("u2", "conversations.list", namespace="zzz"))["conversations"] == []


async def test_a_direct_entry_says_with_whom(a: Replica, b: Replica) -> None:
    await a.call("u1", "messages.send", to="u2", text="Hi")
    (one,) = (await b.call("u2", "conversations.list"))["conversations"]
    assert (one["type"], one["with"], one["n"]) == ("direct", "u1", 1)


async def test_who_is_invited_sees_what_it_is_and_nothing_in_it(a: Replica, b: Replica) -> None:
    channel = await group(a, name="Lunch")
    await a.call("u1", "messages.send", channel=channel, text="secret")
    await a.call("u1", "members.invite", channel=channel, user="u2", role="moderator")
    got = await b.call("u2", "conversations.get", channel=channel)
    assert got.keys() == {"channel", "type", "name", "phase", "me", "as_of"}
    assert got["me"] == {"invited": "moderator"}
    assert await refusal(b, "u2", "messages.list", channel=channel) == (103, "not_allowed")
    assert await refusal(b, "u2", "members.list", channel=channel) == (103, "not_allowed")
    await b.call("u2", "conversations.join", channel=channel)
    assert (await people(a, channel))["u2"] == "moderator"


async def test_members_have_pages_and_only_admins_see_bans(a: Replica, b: Replica) -> None:
    channel = await group(a, *(f"u{number}" for number in range(2, 9)))
    await a.call("u1", "members.ban", channel=channel, user="u8", until=9_000_000_000_000)
    await a.call("u1", "members.invite", channel=channel, user="u9")
    first = await b.call("u2", "members.list", channel=channel, limit=4)
    rest = await b.call("u2", "members.list", channel=channel, limit=4, cursor=first["cursor"])
    assert [one["user"] for one in first["members"] + rest["members"]] == [f"u{number}" for number in range(1, 8)]
    assert first["invited"] == [{"user": "u9", "role": "member"}]
    assert ("banned" in first, "invited" in rest, "cursor" in rest) == (False, False, False)
    seen = await b.call("u1", "members.list", channel=channel)
    assert seen["banned"] == [{"user": "u8", "until": 9_000_000_000_000}]


async def test_personal_channels_are_told_also_when_a_call_is_repeated(a: Replica, b: Replica) -> None:
    params = {"name": "Lunch", "users": ["u2"]}
    for replica in (a, b):
        made = await replica.ask("u1", "conversations.create", "k", **params)
        channel = json.loads(made.result)["channel"]
        about = {"channel": channel, "type": "group", "name": "Lunch", "by": "u1"}
        assert notices(made) == {
            "u1": {"kind": "added", **about, "offset": 1},
            "u2": {"kind": "added", **about, "offset": 2},
        }
    told: list[tuple[str, str, dict[str, tuple[str, int]]]] = [
        ("add", "u3", {"u3": ("added", 3)}),
        ("add", "u3", {}),
        ("invite", "u4", {"u4": ("invited", 4)}),
        ("remove", "u3", {"u3": ("removed", 5)}),
        ("ban", "u2", {"u2": ("removed", 6)}),
        ("unban", "u2", {}),
    ]
    for op, user, wanted in told:
        found = notices(await a.ask("u1", f"members.{op}", channel=channel, user=user))
        assert {who: (one["kind"], one["offset"]) for who, one in found.items()} == wanted


async def test_both_are_told_of_the_first_direct_message(a: Replica, b: Replica) -> None:
    sends = [
        await one.ask("u1", "messages.send", key, to="u2", text="Hi") for one, key in ((a, "1"), (b, "1"), (b, "2"))
    ]
    assert [list(notices(one)) for one in sends] == [["u1", "u2"], ["u1", "u2"], []]
    assert [json.loads(one.result)["offset"] for one in sends] == [2, 2, 3]


async def test_the_creator_is_told_and_the_platform_has_nobody_to_tell(a: Replica) -> None:
    made = await a.ask("u1", "conversations.create", type="open", id="talk", name="Talk")
    about = {"channel": "conv:o.talk", "type": "open", "name": "Talk", "by": "u1", "offset": 1}
    assert notices(made) == {"u1": {"kind": "added", **about}}
    direct = await a.ask("u1", "conversations.create", type="direct", users=["u2"])
    assert sorted(notices(direct)) == ["u1", "u2"]
    group = await a.ask("", "conversations.create", users=["u1", "u2"])
    assert {user: one["offset"] for user, one in notices(group).items()} == {"u1": 2, "u2": 3}


async def test_of_50_pairs_who_begin_at_once_each_has_one_conversation(site: Site, a: Replica, b: Replica) -> None:
    async def both(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        one, other = f"x{number}", f"y{number}"
        return await asyncio.gather(
            a.call(one, "messages.send", to=other, text="1"), b.call(other, "messages.send", to=one, text="2")
        )

    pairs = await asyncio.gather(*map(both, range(50)))
    for first, second in pairs:
        assert first["channel"] == second["channel"]
        assert {first["offset"], second["offset"]} == {2, 3}
        log = [json.loads(entry.data) for entry in await site.log(first["channel"])]
        assert [event["kind"] for event in log] == ["conversation", "message", "message"]
    assert len({first["channel"] for first, _ in pairs}) == 50


async def test_a_change_that_is_there_already_is_no_refusal(a: Replica, b: Replica) -> None:
    channel = await group(a, "u2", name="Lunch")
    same = {"channel": channel, "applied": False, "why": "unchanged"}
    assert await b.call("u1", "members.add", channel=channel, user="u2") == same
    assert await b.call("u1", "conversations.update", channel=channel, name="Lunch") == same
    assert await b.call("u1", "conversations.reopen", channel=channel) == same
    assert (await b.call("u1", "conversations.close", channel=channel))["applied"]
    assert await refusal(a, "u2", "messages.send", channel=channel, text="Hi") == (103, "closed")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("conversations.create", b"[]"),
        ("conversations.create", b"{"),
        ("conversations.create", b"\xff"),
        ("conversations.create", b'{"colour":1}'),
        ("conversations.create", b'{"type":"circle"}'),
        ("conversations.create", b'{"settings":{"rights":{"own":"member"}}}'),
        ("messages.send", b'{"text":"a"}'),
        ("messages.send", b'{"to":"u2","channel":"conv:o.a","text":"a"}'),
        ("messages.send", b'{"to":"u2"}'),
        ("messages.send", b'{"to":"u2","text":"a","meta":' + b"[" * 40 + b"]" * 40 + b"}"),
        ("messages.send", b'{"to":"u2","text":"a","meta":' + b'{"a":' * 40 + b"1" + b"}" * 41),
        ("messages.list", b'{"channel":"conv:o.a","limit":101}'),
        ("messages.list", b'{"channel":"conv:o.a","limit":0}'),
        ("messages.list", b'{"channel":"conv:o.a","before":1,"after":1}'),
        ("messages.between", b'{"with":"u2","from":"u1","to":"u2"}'),
    ],
)
async def test_what_is_malformed_is_refused_in_words(site: Site, method: str, params: bytes) -> None:
    request = pb.CallRequest(method=method, params=params, namespace=NAMESPACE, options=OPTIONS)
    request.info.user = "u1"
    response = await site.replicas[0].methods.call(request)
    assert (response.refusal.code, response.refusal.why) == (107, "malformed")
    assert response.refusal.text
    assert await site.log(direct_channel(NAMESPACE, ["u1", "u2"])) == []


async def test_an_unknown_method_is_104(a: Replica) -> None:
    assert (await refusal(a, "u1", "messages.sing"))[0] == 104


async def test_a_backend_needs_a_user_where_one_is_meant(a: Replica) -> None:
    assert (await refusal(a, "", "conversations.list"))[0] == 107
    assert (await refusal(a, "", "messages.send", to="u2", text="Hi"))[0] == 107
    assert (await refusal(a, "", "messages.between", with_="u2"))[0] == 107


async def test_who_asks_to_be_asked_begins_no_direct_conversation(a: Replica, b: Replica) -> None:
    """The answer is the question, until there is one; then nobody is asked."""
    send = {"to": "u2", "text": "psst"}
    for key in ("", "k1"):
        response = await a.ask("u1", "messages.send", key, asks_to_begin=True, **send)
        assert response.begins
        assert not response.result
        assert not response.notices
    channel = direct_channel(NAMESPACE, ["u1", "u2"])
    with pytest.raises(CallRefused):
        await b.call("u1", "conversations.get", channel=channel)
    done = await b.call("u1", "messages.send", **send)
    assert done["channel"] == channel
    for replica, user, to in ((a, "u1", "u2"), (b, "u2", "u1")):
        response = await replica.ask(user, "messages.send", asks_to_begin=True, to=to, text="again")
        assert not response.begins
        assert json.loads(response.result)["applied"]
    refused = await a.ask("u1", "messages.send", asks_to_begin=True, to="u3", text="")
    assert refused.refusal.code == 107
