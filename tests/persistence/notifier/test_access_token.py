"""Access tokens of FCM are renewed ahead, by one request for all."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.courier import _LEASE_S
from services.persistence.notifier.ports import Note
from services.persistence.notifier.upstream import _PERSISTENCE_S
from services.persistence.notifier.ways import access_token
from services.persistence.notifier.ways.fcm import FcmWay
from services.persistence.webhooks.http import Outcome
from tests.support.google import Google
from tests.support.push_keys import account
from tests.support.push_server import PushServer, Reply
from tests.support.waiting import until

NOTE = Note(id="n1", kind="message", user="bob", channel="conv:g.x", offset=7, title="Lunch", body="hi")
PHONE = Device(id="phone", platform="fcm", set_ms=1, token="the:token")
AT_ONCE = 16
IN_S = {"fresh": 3_000.0, "stale": 60.0, "run out": -1.0}  # when the token runs out


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with PushServer() as server:
        yield Google(server)


@pytest.fixture
async def way(tmp_path: Path, google: Google) -> AsyncIterator[FcmWay]:
    account(tmp_path / "account.json", f"{google.server.url}/token")
    made = FcmWay(tmp_path / "account.json", url=google.server.url, timeout_s=20.0, concurrency=AT_ONCE)
    yield made
    await made.close()


async def send(way: FcmWay) -> list[Outcome]:
    return [one.outcome for one in await asyncio.gather(*(way.send("id", NOTE, PHONE) for _ in range(AT_ONCE)))]


def shown(google: Google) -> set[str]:
    """The tokens that FCM saw since the last call."""
    found = {one.headers["authorization"].removeprefix("Bearer ") for one in google.sent}
    google.server.asked.clear()
    return found


def let_time_pass(way: FcmWay, token: str) -> None:
    """Have the token run out soon, or have it run out."""
    credentials: Any = way._token._credentials  # noqa: SLF001
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)
    credentials.expiry = now + datetime.timedelta(seconds=IN_S[token])


@pytest.mark.parametrize("instead", [Reply(hangs=True), Reply(loses=True), Reply(400), Reply(200, body=b"[]")])
async def test_all_who_need_a_token_ask_once_and_hear_the_same(way: FcmWay, google: Google, instead: Reply) -> None:
    """One after the other would wait longer than the leases of letters."""
    google.instead = instead
    way._token._timeout_s = 0.5 if instead.hangs else 20.0  # noqa: SLF001
    assert await send(way) == [Outcome.REFUSED] * AT_ONCE
    await until(lambda: google.assertions)
    assert len(google.assertions) == 1
    assert google.sent == []


async def test_a_token_is_asked_for_once_however_many_need_it(way: FcmWay, google: Google) -> None:
    for number in range(3):
        assert await send(way) == [Outcome.TAKEN] * AT_ONCE
        assert shown(google) == {f"token-{number}"}
        let_time_pass(way, "run out")
    assert len(google.tokens) == 3


async def test_a_token_is_renewed_ahead_while_the_present_one_is_used(way: FcmWay, google: Google) -> None:
    assert await send(way) == [Outcome.TAKEN] * AT_ONCE
    google.instead = Reply(hangs=True)
    shown(google)
    for token in ("fresh", "stale"):
        let_time_pass(way, token)
        assert await send(way) == [Outcome.TAKEN] * AT_ONCE
        assert shown(google) == {"token-0"}
    await until(lambda: len(google.assertions) == 2)
    assert await send(way) == [Outcome.TAKEN] * AT_ONCE
    assert (shown(google), len(google.assertions)) == ({"token-0"}, 2)


async def test_a_renewal_ahead_that_fails_is_repeated_only_after_a_while(
    way: FcmWay, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(way)
    let_time_pass(way, "stale")
    google.instead = Reply(400)
    for _ in range(3):
        await send(way)
        await until(lambda: len(google.assertions) == 2)
    assert len(google.assertions) == 2
    monkeypatch.setattr(access_token, "_AGAIN_S", 0.0)
    assert way._token._ahead is not None  # noqa: SLF001
    way._token._ahead.cancel()  # noqa: SLF001
    google.instead = None
    await asyncio.wait([way._token._ahead])  # noqa: SLF001
    await send(way)
    await until(lambda: len(google.tokens) == 2)
    await until(lambda: way._token._credentials.token == "token-1")  # noqa: SLF001
    shown(google)
    await send(way)
    assert shown(google) == {"token-1"}


async def test_a_token_that_fcm_refused_is_replaced_and_one_that_came_meanwhile_stays(
    way: FcmWay, google: Google
) -> None:
    await send(way)
    google.reply = Reply(401)
    assert await send(way) == [Outcome.REFUSED] * AT_ONCE
    google.reply = Reply(200)
    assert await send(way) == [Outcome.TAKEN] * AT_ONCE
    way._token.refused("token-0")  # noqa: SLF001
    assert await send(way) == [Outcome.TAKEN] * AT_ONCE
    assert len(google.tokens) == 2


def test_waiting_for_a_token_and_sending_takes_less_than_a_lease(tmp_path: Path) -> None:
    account(tmp_path / "account.json", "http://127.0.0.1:1/token")
    way = FcmWay(tmp_path / "account.json")
    longest_s = _PERSISTENCE_S + way._token._timeout_s + way._timeout_s  # noqa: SLF001
    assert longest_s < _LEASE_S
