"""B25, B28: names of channels, limits of data, idempotency keys."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

import pytest

from tests.integration.bad_inputs.site import (
    ATTACKED,
    MARKER,
    MAX_DATA,
    NEW,
    Site,
    carries,
    command,
    is_closed,
)
from tests.support.wire_client import WireClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

# B25: channel names.

WITH_CHANNEL = ("subscribe", "publish", "presence", "presence_stats", "history")
HTTP_WITH_CHANNEL = ("publish", "subscribe", "history", "history_remove", "presence", "presence_stats")
MEMBERS: dict[str, dict[str, Any]] = {  # what else a method wants to have
    "publish": {"data": 1},
    "subscribe": {"user": "bystander"},
    "history": {"limit": 1},
}
NAMES: dict[str, str] = {
    "over-255-bytes": MARKER + "x" * (251 - len(MARKER)),  # with `chat:` before it 256
    "64-KiB-nearly": MARKER + "x" * 60_000,
    "control": f"{MARKER}\u0001",
    "nul": f"{MARKER}\0",
    "newline": f"{MARKER}\n{{}}",
    "delete": f"{MARKER}\x7f",
    "blank": f"{MARKER} b",
    "blank-at-the-end": f"{MARKER} ",
    "non-ascii": f"{MARKER}é",
    "non-ascii-that-looks-ascii": f"{MARKER}\uff41",
    "emoji": f"{MARKER}🐛",
    "bidi": f"{MARKER}\u202e",
    "tag": f"{{{MARKER}}}",
    "tag-closed-early": f"{MARKER}}}:log",
    "tag-opened": f"{MARKER}{{",
    "star": f"{MARKER}*",
    "ampersand": f"{MARKER}&b",
    "slash": f"../{MARKER}",
}


async def nothing_of(site: Site, marker: str) -> None:
    """No key, no member of one, no pub/sub channel."""
    assert [key async for key in site.redis.scan_iter(match=f"*{marker}*", count=1_000)] == []
    assert await site.redis.pubsub_channels(f"*{marker}*") == []
    for api in site.apis:
        assert await api.call("channels", pattern=f"*{marker}*") == {"channels": {}}


@pytest.mark.parametrize("name", NAMES, ids=[f"B25-{name}" for name in NAMES])
async def test_a_channel_name_that_is_not_allowed_is_107_and_leaves_nothing(site: Site, name: str) -> None:
    for edge, prefix in enumerate(("chat:", "live:")):
        bad = prefix + NAMES[name]
        assert len(bad.encode()) != 255
        async with site.client(edge, "mallory", "chat:bad") as client:
            for what in WITH_CHANNEL:
                assert (await client.error(**{what: {"channel": bad, "data": 1, "limit": 1}}))["code"] == 107, what
            assert await client.call(unsubscribe={"channel": bad}) == {}  # wire, 5.3: what is not subscribed
            await client.call(presence_stats={"channel": "chat:bad"})
    bad = "chat:" + NAMES[name]
    for method in HTTP_WITH_CHANNEL:
        assert await site.apis[0].error(method, channel=bad, **MEMBERS.get(method, {})) == 107, method
    result = await site.apis[1].call("broadcast", channels=[bad, bad], data=1)
    assert [response["error"]["code"] for response in result["responses"]] == [107, 107]
    await nothing_of(site, MARKER)


@pytest.mark.parametrize("name", [*WITH_CHANNEL, "unsubscribe"], ids=lambda name: f"B25-{name}")
async def test_a_channel_that_is_absent_or_empty_closes_3501(site: Site, name: str) -> None:
    for edge, body in enumerate(('{"data":1,"limit":1}', '{"channel":"","data":1,"limit":1}', '{"channel":null}')):
        await is_closed(site, command(name, body), edge=edge % 2)


@pytest.mark.parametrize("method", HTTP_WITH_CHANNEL, ids=lambda name: f"B25-http-{name}")
async def test_a_channel_that_is_absent_or_empty_is_refused(site: Site, method: str) -> None:
    members = MEMBERS.get(method, {})
    response = await site.apis[0].raw(method, json.dumps(members))
    assert (response.status_code, response.json()["error"]["code"]) == (400, 107)
    assert "channel" in response.json()["error"]["message"]
    assert await site.apis[1].error(method, channel="", **members) == 107


@pytest.mark.parametrize(
    "name", ["nope:x", ":x", "chat", "CHAT:x", "é:x", "$nope:x", "chat%3Ax:y"], ids=lambda name: f"B25-{name}"
)
async def test_no_name_leaves_the_namespaces_there_are(site: Site, name: str) -> None:
    expected = {"chat": 103}.get(name, 102)  # `chat` is a channel of [default], which nobody has joined
    async with site.client() as client:
        for what in ("publish", "history", "presence"):
            assert (await client.error(**{what: {"channel": name, "data": 1}}))["code"] == expected
        if expected == 102:
            assert (await client.error(subscribe={"channel": name}))["code"] == 102
            assert await site.apis[0].error("publish", channel=name, data=1) == 102


async def test_B25_a_name_of_255_bytes_is_served_and_one_more_is_not(site: Site, durability: str) -> None:
    longest = NEW[durability] + secrets.token_hex(4)
    longest += "x" * (255 - len(longest))
    async with site.client(0, "ann", longest) as ann, site.client(1, "bob", longest) as bob:
        await ann.publish(longest, 1)
        assert (await bob.publication(longest))["data"] == 1
        assert (await bob.error(subscribe={"channel": longest + "x"}))["code"] == 107
    assert await site.apis[0].history(longest) == [1]


async def test_B25_bad_names_in_the_positions_of_a_connect_make_nothing(site: Site) -> None:
    subs = {prefix + name: {"recover": True, "offset": 1} for name in NAMES.values() for prefix in ("chat:", "")}
    subs.pop("chat:" + NAMES["64-KiB-nearly"])
    subs.pop(NAMES["64-KiB-nearly"])
    async with WireClient(site.stack.ws_urls[0]) as client:
        assert "subs" not in await client.connect(site.stack.token("mallory"), subs=subs | {"nope:x": {}, "": {}})
        assert (await client.error(rpc={}))["code"] == 104
    await nothing_of(site, MARKER)


# B28: size of data, and idempotency keys.


async def test_B28_data_over_the_limit_is_106_and_nothing_is_stored(site: Site, durability: str) -> None:
    attacked = ATTACKED[durability]
    for edge, data in enumerate(
        ('"' + "x" * (MAX_DATA - 1) + '"', '"' + "é" * (MAX_DATA // 2) + '"', "[" + "1," * (MAX_DATA // 2) + "1]")
    ):
        assert len(data.encode()) > MAX_DATA
        async with site.client(edge % 2, "mallory", attacked) as client:
            await client.send(command("publish", f'{{"channel":"{attacked}","data":{data}}}'))
            assert (await client.reply(1000))["error"]["code"] == 106
            await client.call(history={"channel": attacked, "limit": 1})
        response = await site.apis[edge % 2].raw("publish", f'{{"channel":"{attacked}","data":{data}}}')
        assert (response.status_code, response.json()["error"]["code"]) == (200, 106)
        response = await site.apis[edge % 2].raw(
            "broadcast", f'{{"channels":["{attacked}","{attacked}"],"data":{data}}}'
        )
        assert [one["error"]["code"] for one in response.json()["result"]["responses"]] == [106, 106]


async def test_B28_data_of_exactly_the_limit_is_carried(site: Site, channel: str) -> None:
    for number, data in enumerate(('"' + "x" * (MAX_DATA - 2) + '"', '"' + "é" * (MAX_DATA // 2 - 1) + '"')):
        async with site.client(0, "ann", channel) as ann, site.client(1, "bob", channel) as bob:
            await ann.send(command("publish", f'{{"channel":"{channel}","data":{data}}}'))
            assert (await ann.reply(1000))["publish"]["offset"] == number + 1
            await bob.publication(channel)
            assert carries(bob.frames, data.encode())


async def test_B28_data_over_a_limit_with_a_key_does_not_use_up_the_key(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as ann, site.client(1, "ann", channel) as again:
        error = await ann.error(publish={"channel": channel, "data": "x" * MAX_DATA, "idempotency_key": "k"})
        assert error["code"] == 106
        assert (await again.publish(channel, "small", idempotency_key="k"))["offset"] == 1
    assert await site.apis[0].history(channel) == ["small"]


async def test_B28_a_repeated_key_returns_the_first_position_whatever_the_data(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as one, site.client(1, "ann", channel) as two:
        first = await one.publish(channel, "first", idempotency_key="k")
        assert first["offset"] == 1
        for client in (two, one):
            assert await client.publish(channel, {"other": [1]}, idempotency_key="k") == first
        assert (await two.publish(channel, "next", idempotency_key="K"))["offset"] == 2
        assert await one.publish(channel, "late", idempotency_key="k") == first
        for client in (one, two):
            assert [entry["data"] for entry in await client.publications(channel, 2)] == ["first", "next"]
    assert await site.apis[1].history(channel) == ["first", "next"]


async def test_B28_repeated_keys_at_the_same_moment_are_stored_once(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as one, site.client(1, "ann", channel) as two:
        body = [{"channel": channel, "data": number, "idempotency_key": "k"} for number in range(20)]
        calls = [client.call(publish=each) for each, client in zip(body, (one, two) * 10, strict=True)]
        results = await asyncio.gather(*calls)
        assert {result["offset"] for result in results} == {1}
    assert len(await site.apis[0].history(channel)) == 1


async def test_B28_another_users_key_is_independent(site: Site, channel: str) -> None:
    async with site.client(0, "ann", channel) as ann, site.client(1, "bob", channel) as bob:
        assert (await ann.publish(channel, "of ann", idempotency_key="k"))["offset"] == 1
        assert (await bob.publish(channel, "of bob", idempotency_key="k"))["offset"] == 2
        assert (await site.apis[0].call("publish", channel=channel, data="of api", idempotency_key="k"))["offset"] == 3
        assert (await site.apis[1].call("publish", channel=channel, data="again", idempotency_key="k"))["offset"] == 3
        assert (await bob.publish(channel, "again", idempotency_key="k"))["offset"] == 2
        async with site.client(0, "api", channel) as api:
            assert (await api.publish(channel, "of a user named api", idempotency_key="k"))["offset"] == 4
    assert await site.apis[0].history(channel) == ["of ann", "of bob", "of api", "of a user named api"]


SEPARATORS = [":", "\0", "|", "/", ",", ".", " ", "\n", "\x1f", "}:", "\\0", "%00"]
FORGED = {
    **{f"{separator!r}": (f"p{separator}q", "r", "p", f"q{separator}r") for separator in SEPARATORS},
    "user-u": ("u:p", "k", "p", "k"),
    "user-api": ("api", "k", "u:api", "k"),
    "length": ("p", "1:q", "p1", ":q"),
}


@pytest.mark.parametrize(("user", "key", "other", "other_key"), FORGED.values(), ids=[f"B28-{one}" for one in FORGED])
async def test_no_key_can_be_written_so_that_it_is_another_users(
    site: Site, channel: str, user: str, key: str, other: str, other_key: str
) -> None:
    async with site.client(0, user, channel) as one, site.client(1, other, channel) as two:
        assert (await one.publish(channel, "one", idempotency_key=key))["offset"] == 1
        assert (await two.publish(channel, "two", idempotency_key=other_key))["offset"] == 2
        assert (await one.publish(channel, "again", idempotency_key=key))["offset"] == 1
        assert (await two.publish(channel, "again", idempotency_key=other_key))["offset"] == 2


@pytest.mark.parametrize(
    ("user", "key", "other", "other_key"),
    [
        pytest.param("p:q", "r", "p", "q:r", id="B28-colon"),
        pytest.param("p", "q\0r", "o", "q\0r", id="B28-nul-in-the-key"),
        pytest.param("p\0q", "r", "p", "q\0r", id="B28-nul-in-the-user"),
    ],
)
async def test_keys_that_the_store_brings_back_are_those_of_their_users(
    site: Site, user: str, key: str, other: str, other_key: str
) -> None:
    """A Redis that lost the channel learns the keys from the store."""
    name = f"chat:lost-{secrets.token_hex(4)}"
    async with site.client(0, user, name) as one, site.client(1, other, name) as two:
        assert (await one.publish(name, "one", idempotency_key=key))["offset"] == 1
        lost = [each async for each in site.redis.scan_iter(match=f"t:{{{name}}}:*", count=1_000)]
        assert len(lost) == 3  # log, meta and the key
        await site.redis.delete(*lost)
        assert (await two.publish(name, "two", idempotency_key=other_key))["offset"] == 2
        assert (await one.publish(name, "again", idempotency_key=key))["offset"] == 1
    assert await site.apis[0].history(name) == ["one", "two"]
