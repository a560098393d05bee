"""B29, B30, B32: positions, floods, hostile texts; and what holds for every row."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any

import httpx
import pytest

from tests.integration.bad_inputs.site import (
    MAX_DATA,
    PAGE,
    Site,
    check_logs,
    command,
)
from tests.support.lateness import Lateness
from tests.support.wire_client import WireClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

# B29: positions.

TOP = 5
OTHER_EPOCHS = [
    *("another", "0", "x" * 10_000, "é", "\0", "a\nb", "1.", "999999.zzzzzzzz", "%s", "*"),
    *("redis.call('FLUSHALL')", "'; --", "<b>"),
]


async def filled(site: Site, channel: str, count: int = TOP) -> str:
    """A channel with so many publications 0, 1, 2 …; returns its epoch."""
    commands = [{"publish": {"channel": channel, "data": number}} for number in range(count)]
    replies = (await site.apis[0].call("batch", commands=commands))["replies"]
    assert replies[-1]["publish"]["offset"] == count
    epoch: str = replies[-1]["publish"]["epoch"]
    return epoch


async def recover(site: Site, edge: int, channel: str, **position: Any) -> dict[str, Any]:
    async with site.client(edge, "late") as client:
        reply: dict[str, Any] = await client.reply(
            await client.post(subscribe={"channel": channel, "recover": True, **position})
        )
        stats = await client.reply(await client.post(presence_stats={"channel": channel}))
        assert ("error" in stats) == ("error" in reply)  # subscribed, or not at all
        return reply


async def test_B29_recovery_from_an_unknown_epoch_is_not_recovered(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    for number, other in enumerate([*OTHER_EPOCHS, epoch[:-1], epoch + "x", epoch.swapcase() + "_"]):
        for offset in (0, TOP - 1, TOP):
            result = (await recover(site, number % 2, channel, offset=offset, epoch=other))["subscribe"]
            assert result == {
                "recoverable": True,
                "positioned": True,
                "was_recovering": True,
                "epoch": epoch,
                "offset": TOP,
            }
        reply = await recover(site, number % 2, channel, offset=TOP - 1, epoch=other, flag=2)
        assert reply["error"]["code"] == 112
    result = (await recover(site, 1, channel, offset=TOP - 1, epoch=epoch, flag=2))["subscribe"]
    assert (result["recovered"], [one["data"] for one in result["publications"]]) == (True, [TOP - 1])


async def test_B29_recovery_beyond_the_top_is_not_recovered(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    cases = [
        (edge, offset, given, flag)
        for edge, given in ((0, epoch), (1, ""))
        for offset in (TOP + 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
        for flag in (0, 2)
    ]
    replies = await asyncio.gather(
        *(recover(site, edge, channel, offset=offset, epoch=given, flag=flag) for edge, offset, given, flag in cases)
    )
    for (_, offset, _, flag), reply in zip(cases, replies, strict=True):
        if flag:
            assert reply["error"]["code"] == 112, offset
        else:
            assert "recovered" not in reply["subscribe"]
            assert "publications" not in reply["subscribe"]
            assert (reply["subscribe"]["offset"], reply["subscribe"]["epoch"]) == (TOP, epoch)


async def test_B29_history_since_another_epoch_is_112(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    for edge in (0, 1):
        async with site.client(edge, "ann", channel) as client:
            for other in OTHER_EPOCHS:
                for body in (
                    {"limit": 1, "since": {"offset": 1, "epoch": other}},
                    {"limit": 1, "since": {"offset": 2, "epoch": other}, "reverse": True},
                    {"limit": 0, "since": {"epoch": other}},
                ):
                    assert (await client.error(history={"channel": channel, **body}))["code"] == 112
                    assert await site.apis[edge].error("history", channel=channel, **body) == 112
            for right in (epoch, ""):
                body = {"channel": channel, "limit": 1, "since": {"offset": 1, "epoch": right}}
                assert (await client.call(history=body))["publications"][0]["offset"] == 2
                assert (await site.apis[edge].call("history", **body))["publications"][0]["offset"] == 2


async def test_B29_limits_that_are_zero_negative_or_large_are_none_and_cut(site: Site, channel: str) -> None:
    epoch = await filled(site, channel, PAGE + 5)
    top = {"epoch": epoch, "offset": PAGE + 5}
    first, last = list(range(PAGE)), list(range(PAGE + 4, 4, -1))
    for edge in (0, 1):
        async with site.client(edge, "ann", channel) as client:
            for body in ({}, {"limit": 0}, {"limit": None}, {"limit": 0, "reverse": True}):
                result = await client.call(history={"channel": channel, **body})
                assert result == {"publications": [], **top}
            for limit in (-1, -(2**31), PAGE + 1, 2**31 - 1):
                for reverse, expected in ((False, first), (True, last)):
                    result = await client.call(history={"channel": channel, "limit": limit, "reverse": reverse})
                    assert [one["data"] for one in result["publications"]] == expected
                    assert {name: result[name] for name in top} == top
        api = site.apis[edge]
        assert await api.call("history", channel=channel) == {"publications": [], **top}
        assert await api.history(channel, 0) == []
        for limit in (-1, -(2**31), PAGE + 1, 2**31, 2**64, -(2**64), 10**100):
            response = await api.raw("history", f'{{"channel":"{channel}","limit":{limit}}}')
            assert [one["data"] for one in response.json()["result"]["publications"]] == first, limit


async def test_B29_positions_at_both_ends_of_history(site: Site, channel: str) -> None:
    epoch = await filled(site, channel)
    for edge in (0, 1):
        async with site.client(edge, "ann", channel) as client:
            for since in ({"offset": 0}, {}, {"offset": 0, "epoch": epoch}, {"epoch": "another"}, {"offset": None}):
                for limit in (0, 1, -1):
                    body = {"channel": channel, "limit": limit, "since": since, "reverse": True}
                    assert (await client.error(history=body))["code"] == 107
                    if since != {"offset": None}:
                        assert await site.apis[edge].error("history", **body) == 107
            for offset in (TOP, TOP + 1, 2**53 + 1, 2**63, 2**64 - 1):
                body = {"channel": channel, "limit": 9, "since": {"offset": offset, "epoch": epoch}}
                empty = {"publications": [], "epoch": epoch, "offset": TOP}
                assert await client.call(history=body) == empty
                assert await site.apis[edge].call("history", **body) == empty
                newest_first = await client.call(history={**body, "reverse": True})
                kept = list(range(TOP))[::-1] if offset > TOP else list(range(TOP - 1))[::-1]
                assert [one["data"] for one in newest_first["publications"]] == kept, offset


# B30: floods, with the limits of production: 50 commands/s, burst 300, 3 s.

RATE, BURST, KEPT_UP_S = 50, 300, 3.0
ON_ARRIVAL_MS = 1_000
AT_ONCE = 50


def publications(name: str, ids: range) -> list[str]:
    return [command("publish", f'{{"channel":"{name}","data":{number}}}', str(number)) for number in ids]


async def test_B30_over_the_burst_is_111_and_not_done_and_ends_by_itself(site: Site) -> None:
    name = f"flood-{secrets.token_hex(4)}"
    async with site.client(0, "mallory", name) as client:
        started = time.monotonic()
        replies = []
        for first in range(2_000, 2_000 + 2 * BURST, AT_ONCE):
            ids = range(first, first + AT_ONCE)
            await client.send(*publications(name, ids))
            replies += [await client.reply(number) for number in ids]
            assert [line["id"] for line in client.lines if "id" in line][-AT_ONCE:] == list(ids)
        refilled = (time.monotonic() - started) * RATE + 1
        refused = [reply["error"] for reply in replies if "error" in reply]
        done = len(replies) - len(refused)
        assert BURST - 1 <= done <= BURST + refilled
        for error in refused:
            assert (error["code"], error["temporary"], error["message"]) == (111, True, "too many requests")
            assert 0 < error["retry_after_ms"] <= 1_000 / RATE
        deadline = time.monotonic() + 30
        while "error" in (reply := await client.reply(await client.post(presence_stats={"channel": name}))):
            assert reply["error"]["code"] == 111
            assert time.monotonic() < deadline
            await asyncio.sleep(reply["error"]["retry_after_ms"] / 1_000)
    assert (await site.apis[1].call("history", channel=name))["offset"] == done


async def test_B30_what_is_turned_away_on_arrival_takes_no_credit_of_what_was_accepted_before(site: Site) -> None:
    """Behind too many of its own, a publication is refused at once (decision 18).

    Too many: it would wait too long.
    """
    name = f"flood-{secrets.token_hex(4)}"
    async with site.client(0, "mallory", name) as client:
        started = time.monotonic()
        ids = range(2_000, 2_000 + 2 * BURST)
        await client.send(*publications(name, ids))
        replies = [await client.reply(number) for number in ids]
        refilled = (time.monotonic() - started) * RATE + 1
        refused = [reply["error"] for reply in replies if "error" in reply]
        done = len(replies) - len(refused)
        assert 16 <= done <= BURST + refilled
        assert {error["code"] for error in refused} == {111}
        if done < BURST - 1:
            assert {error["retry_after_ms"] for error in refused} == {ON_ARRIVAL_MS}
    assert (await site.apis[1].call("history", channel=name))["offset"] == done


async def test_B30_connect_and_unsubscribe_are_not_counted(site: Site) -> None:
    async with site.client() as client:
        replies = await client.batch(*[{"unsubscribe": {"channel": "chat:bad"}}] * (2 * BURST))
        for number in replies:
            assert await client.reply(number) == {"id": number, "unsubscribe": {}}
        replies = await client.batch(*[{"rpc": {}}] * BURST)
        assert {(await client.reply(number))["error"]["code"] for number in replies} == {104}


async def test_B30_a_flood_that_is_kept_up_closes_3013(site: Site) -> None:
    async with Lateness() as late, site.client(0, "mallory", "chat:bad") as client:
        refused_at = refused_late_s = slowest_s = 0.0
        deadline = time.monotonic() + 60
        closing = asyncio.create_task(client.expect_close(60))
        number = 5_000
        while not closing.done():
            assert time.monotonic() < deadline
            with contextlib.suppress(Exception):  # it may be closed before or while we send
                await client.send(*(command("rpc", "{}", str(number + one)) for one in range(100)))
            number += 100
            async with Lateness() as checking:
                await site.check()  # the others go on
            slowest_s = max(slowest_s, checking.took_s)
            if not refused_at and any(line.get("error", {}).get("code") == 111 for line in client.lines):
                refused_at, refused_late_s = time.monotonic(), late.total_s
            await asyncio.wait([closing], timeout=0.1)
        lasted_s = time.monotonic() - refused_at
        assert await closing == (3013, "too many requests")
        assert refused_at
        assert lasted_s > KEPT_UP_S - 0.5
        assert lasted_s - (late.total_s - refused_late_s) < KEPT_UP_S + 2
        assert slowest_s < 1
        assert {line["error"]["code"] for line in client.lines if "error" in line} == {104, 111}
    async with site.client(0, "mallory", "chat:elsewhere") as again:
        await again.call(presence_stats={"channel": "chat:elsewhere"})


# B32: names.

HOSTILE_NAMES: dict[str, str] = {
    "html": "<b onclick=alert(1)>x</b>",
    "sql": "'; DROP TABLE log; --",
    "lua": "]] redis.call('FLUSHALL') --",
    "format": "%s%n%(msg)s{0}{0.__class__}${x}",
    "newlines": 'a\nb\r\n{"level":"ERROR","msg":"forged"}',
    "separators-of-lines": "a\u2028b\u2029c\u0085d\x0be",
    "nul": "a\0b",
    "blank": " ",
    "glob": "*",
    "set": "[a-z]?",
    "path": "../../etc/passwd",
    "comma": "a,b",
    "utf-8": "жук 🐛 \U0010ffff",
    "bidi": "\u202eresu\u202c",
    "long": "x" * 1_500,
    "number": "0",
    "json": '{"a":1}',
    "brace": "}:users",
}


@pytest.mark.parametrize("user", HOSTILE_NAMES.values(), ids=[f"B32-{name}" for name in HOSTILE_NAMES])
async def test_names_of_users_are_carried_unchanged_and_mean_nothing(site: Site, channel: str, user: str) -> None:
    """Through publications, history, presence, joins, and the other edge."""
    info = {"name": user, user: 1}
    async with site.client(1, "watcher") as watcher:
        await watcher.subscribe(channel, join_leave=True)
        async with site.client(0, user, info=info) as client:
            await client.subscribe(channel)
            join = (await watcher.push(channel, "join"))["join"]["info"]
            while join["client"] != client.client_id:
                join = (await watcher.push(channel, "join"))["join"]["info"]
            assert join == {"user": user, "client": client.client_id, "conn_info": info}
            await client.publish(channel, {user: user}, idempotency_key=user[:20])
            publication = await watcher.publication(channel)
            assert (publication["data"], publication["info"]) == ({user: user}, join)
            entry = (await watcher.call(history={"channel": channel, "limit": 1}))["publications"][0]
            assert (entry["data"], entry["info"]) == ({user: user}, join)
            there = (await watcher.call(presence={"channel": channel}))["presence"]
            assert there[client.client_id] == join
            assert (await site.apis[1].call("presence", channel=channel))["presence"][client.client_id] == join
            assert await site.apis[0].call("presence_stats", channel=channel) == {"num_clients": 2, "num_users": 2}
            await client.call(unsubscribe={"channel": channel})
            assert (await watcher.push(channel, "leave"))["leave"]["info"] == join
            await site.apis[1].call("disconnect", user=user, disconnect={"code": 4501, "reason": "moved out"})
            assert await client.expect_close() == (4501, "moved out")
        await watcher.call(presence_stats={"channel": channel})


CHANNELS: dict[str, str] = {
    "html": "<script>alert(1)<\\script>",
    "sql": "';DROP(TABLE)log;--",
    "lua": "redis.call('flushall')",
    "format": "%s%n%d%(msg)s$x",
    "percent": "%0d%0a%00",
    "glob": "[a-z]?",
    "quotes": "\"'`",
    "backslash": "\\",
    "colons": ":::",
    "keys": "x:log",
    "dots": "..",
    "caret": "^|~!@=+",
}
TWINS = {"[a-z]?": "ax", "x:log": "x", "..": ".", "\\": "\\\\", ":::": "::", "%0d%0a%00": "%0D%0A%00"}


@pytest.mark.parametrize("rest", CHANNELS.values(), ids=[f"B32-{name}" for name in CHANNELS])
async def test_names_of_channels_are_carried_unchanged_and_mean_nothing(site: Site, durability: str, rest: str) -> None:
    prefix = "chat:" if durability == "stored" else "live:"
    unique = secrets.token_hex(4)
    name, twin = f"{prefix}{unique}{rest}", f"{prefix}{unique}{TWINS.get(rest, rest.swapcase() + '_')}"
    async with site.client(0, "ann", name) as ann, site.client(1, "bob", name, twin) as bob:
        await ann.publish(name, "of the name")
        assert (await bob.publication(name))["data"] == "of the name"
        await site.apis[0].call("publish", channel=twin, data="of the twin")
        assert (await bob.publication(twin))["data"] == "of the twin"
        for api in site.apis:
            assert await api.history(name) == ["of the name"]
            assert await api.history(twin) == ["of the twin"]
            assert (await api.call("channels"))["channels"][name] == {"num_clients": 2}
        assert bob.pushes(name) + bob.pushes(twin) == [line["push"] for line in bob.lines if "push" in line]
        await ann.call(unsubscribe={"channel": name})
        assert (await ann.error(publish={"channel": name, "data": 1}))["code"] == 103


@pytest.mark.parametrize("text", HOSTILE_NAMES.values(), ids=[f"B32-{name}" for name in HOSTILE_NAMES])
async def test_other_names_are_taken_as_they_are(site: Site, channel: str, text: str) -> None:
    """Tags, idempotency keys, epochs, methods, names of clients, reasons, patterns."""
    async with WireClient(site.stack.ws_urls[0], headers={"User-Agent": "x\t%s{0}<b>'; --"}) as client:
        await client.connect(site.stack.token("ann"), name=text, version=text, headers={text: text}, profile=text)
        await client.subscribe(channel, recover=True, epoch=text)
        assert (await client.error(rpc={"method": text, "data": text}))["code"] == 104
        tags = {text: text, "plain": "1"}
        await site.apis[1].call("publish", channel=channel, data=1, tags=tags, idempotency_key=text[:20])
        assert (await client.publication(channel))["tags"] == tags
        page = await site.apis[0].call("history", channel=channel, limit=1)
        assert page["publications"][0]["tags"] == tags
        since = {"offset": 1, "epoch": text}
        assert (await client.error(history={"channel": channel, "limit": 1, "since": since}))["code"] == 112
        if text != "*":
            assert channel not in (await site.apis[1].call("channels", pattern=text))["channels"]
        assert await site.apis[0].call("disconnect", user=text) == {}  # nobody of that name is here
        assert await site.apis[0].call("unsubscribe", user=text, channel=text) == {}
        assert (await client.call(presence_stats={"channel": channel}))["num_clients"] == 1


@pytest.mark.parametrize("text", HOSTILE_NAMES.values(), ids=[f"B32-http-{name}" for name in HOSTILE_NAMES])
async def test_hostile_texts_for_accounts_and_in_addresses_are_only_texts(site: Site, text: str) -> None:
    for edge, url in enumerate(site.stack.http_urls):
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            response = await http.post("/auth/register", json={"username": text, "password": "a good password"})
            assert response.status_code == 400, response.text
            response = await http.post("/auth/login", json={"username": text, "password": "a good password"})
            assert response.status_code in (400, 401, 429), response.text
            response = await http.get("/nope", params={"q": text}, headers={"User-Agent": "%s\t{0}"})
            assert response.status_code == 404
            response = await http.post("/auth/refresh", json={"refresh_token": text})
            assert response.status_code in (400, 401), response.text
        assert await site.apis[edge].error("disconnect", user="x", disconnect={"code": 4000, "reason": "1"}) == 107


# What holds for every row.


async def figure(site: Site, line: str) -> float:
    """A counter of edge 1."""
    async with httpx.AsyncClient() as http:
        response = await http.get(f"{site.stack.internal_urls['edge-1']}/metrics")
    values = [text.rsplit(" ", 1)[1] for text in response.text.splitlines() if text.startswith(f"{line} ")]
    return float(values[0]) if values else 0.0


COUNTED = {
    "B23": (command("publish", '{"channel":"bad","data":NaN}'), 'thalamus_edge_closes_total{code="3501"}'),
    "B24": (command("rpc", "{}", "-1"), 'thalamus_edge_closes_total{code="3501"}'),
    "B25": (command("subscribe", '{"channel":"é"}'), 'thalamus_edge_errors_total{code="bad_request"}'),
    "B28": (
        command("publish", '{"channel":"bad","data":"' + "x" * MAX_DATA + '"}'),
        'thalamus_edge_errors_total{code="limit_exceeded"}',
    ),
    "B29": (
        command("history", '{"channel":"bad","since":{"epoch":"x"}}'),
        'thalamus_edge_errors_total{code="unrecoverable_position"}',
    ),
    "B30": ("\n".join([command("rpc", "{}")] * 400), 'thalamus_edge_errors_total{code="too_many_requests"}'),
}


@pytest.mark.parametrize(("frame", "counter"), COUNTED.values(), ids=COUNTED)
async def test_each_kind_raises_its_counter(site: Site, frame: str, counter: str) -> None:
    before = await figure(site, counter)
    async with site.client(0, "mallory", "bad") as client:
        seen = len(client.lines)
        await client.send(frame)
        await client.wait_for(lambda: client.lines[seen:] or client.socket.close_code, "answer")
        deadline = time.monotonic() + 30
        while await figure(site, counter) <= before:
            assert time.monotonic() < deadline


async def test_B32_after_all_that_nobody_logged_a_fault_and_every_line_is_one_object(site: Site) -> None:
    check_logs(site.stack)
    for bystander in site.bystanders:
        assert bystander.socket.close_code is None
        there = (await bystander.call(presence={"channel": "bad"}))["presence"]
        assert {one.client_id for one in site.bystanders} <= set(there)
        assert not [line for line in bystander.lines if "error" in line]
