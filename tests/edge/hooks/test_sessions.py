"""The hooks of connect, refresh and subscribe."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from services.edge.domain.access.revocations import Revocation, RevokedKind
from services.shared.namespaces import Permission
from tests.edge.hooks.conftest import CHAT, Serve, token
from tests.support.edge import Cluster, replace_namespace
from tests.support.hook_backend import HookBackend, Question, table
from tests.support.wire_client import WireClient

HOUR_S = 3_600


def front(backend: HookBackend, *events: str, **options: Any) -> str:
    return table("front", events or ("connect",), backend.url, **options)


def says(answer: Any) -> Any:
    async def decide(question: Question) -> Any:
        return answer

    return decide


# Connect.


async def test_connect_is_told_who_comes_and_adds_data_info_and_subscriptions(serve: Serve) -> None:
    answer = {
        "data": {"motd": "hello"},
        "info": {"name": "Ann", "badge": 1},
        "channels": {"chat:news": {"data": {"from": "hook"}}},
    }
    async with (
        HookBackend(says(answer)) as backend,
        serve(front(backend)) as (_, url),
        WireClient(url) as client,
    ):
        result = await client.connect(
            token("ann", info={"name": "Ann"}),
            data={"lang": "en"},
            headers={"X-Trace": "1", "Authorization": f"Bearer {token('ann', info={'name': 'Ann'})}"},
            name="page",
        )
        assert result["data"] == {"motd": "hello"}
        assert result["subs"]["chat:news"]["data"] == {"from": "hook"}
        await client.publish("chat:news", 1)
        assert (await client.publication("chat:news"))["info"]["conn_info"] == {"name": "Ann", "badge": 1}
        (question,) = backend.questions
        assert question["headers"] == {"X-Trace": "1"}  # bearer tokens are for the edge alone
        expected = {"event": "connect", "user": "ann", "info": {"name": "Ann"}, "has_token": True, "name": "page"}
        assert question.items() >= (expected | {"data": {"lang": "en"}, "peer": "127.0.0.1"}).items()


async def test_connect_refused_ends_with_the_error_of_the_hook(serve: Serve) -> None:
    async with (
        HookBackend(says({"refuse": {"code": 403, "message": "banned"}})) as backend,
        serve(front(backend)) as (_, url),
        WireClient(url) as client,
    ):
        error = await client.error(connect={"token": token("ann")})
        assert error == {"code": 403, "message": "banned"}


async def test_a_hook_signs_in_who_shows_what_it_knows(serve: Serve) -> None:
    async def decide(question: Question) -> Any:
        if question.get("data") == {"session": "s3"}:
            return {"user": "ann", "info": {"name": "Ann"}, "expires_at": time.time() + HOUR_S}
        return {} if question.get("data") is None else {"refuse": {"code": 101}}

    async with HookBackend(decide) as backend, serve(front(backend, sign_in=True)) as (edge, url):
        async with WireClient(url) as client:
            result = await client.connect(data={"session": "s3"})
            assert "expires" not in result  # the client has nothing to refresh with
            await client.publish("chat:a", 1)
            (session,) = edge.node.sessions
            assert (session.user, session.deadlines.expires_at is not None) == ("ann", True)
        async with WireClient(url) as client:
            assert (await client.error(connect={"data": {"session": "guess"}}))["code"] == 101
        async with WireClient(url) as client:  # neither a token nor a user
            await client.post(connect={})
            assert (await client.expect_close())[0] == 3501
        async with WireClient(url) as client:
            await client.post(connect={"token": "not.a.token"})  # a bad token is not left to the hook
            assert (await client.expect_close())[0] == 3500
        assert len(backend.questions) == 3


@pytest.mark.parametrize("how", ["down", "no sign_in", "another user", "expired"])
async def test_nobody_is_signed_in_by_a_hook_that_may_not_or_fails(serve: Serve, how: str) -> None:
    answer: dict[str, Any] = {"user": "admin"}
    if how == "expired":
        answer["expires_at"] = time.time() - 1
    async with (
        HookBackend(says(None if how == "down" else answer)) as backend,
        serve(front(backend, sign_in=how != "no sign_in"), allow_anonymous=True) as (edge, url),
        WireClient(url) as client,
    ):
        shown = {"token": token("ann")} if how == "another user" else {}
        error = await client.error(connect=shown)
        assert error["code"] == (113 if how == "down" else 114)
        assert not edge.node.users


async def test_a_disabled_or_revoked_user_is_not_signed_in(serve: Serve) -> None:
    asked, free = asyncio.Event(), asyncio.Event()

    async def decide(question: Question) -> Any:
        asked.set()
        await free.wait()
        return {"user": "ann"}

    async with (
        HookBackend(decide) as backend,
        serve(front(backend, sign_in=True)) as (edge, url),
        WireClient(url) as client,
    ):
        await client.post(connect={})
        await asked.wait()
        now = edge.node.clock.wall()  # revoked while the hook decides
        edge.node.revocations.add(Revocation(kind=RevokedKind.USER, id="ann", at=now, until=now + 60))
        free.set()
        assert (await client.expect_close())[0] == 3500


async def test_an_open_hook_of_connect_that_fails_lets_clients_with_tokens_in(serve: Serve) -> None:
    async with (
        HookBackend(says(None)) as backend,
        serve(front(backend, fail="open")) as (_, url),
        WireClient(url) as client,
    ):
        assert (await client.connect(token("ann")))["client"]


async def test_a_hook_lets_a_token_expire_sooner_and_never_later(serve: Serve) -> None:
    ends = time.time() + HOUR_S
    for given_s, expected_s in ((60, 60), (2 * HOUR_S, HOUR_S)):
        async with (
            HookBackend(says({"expires_at": ends - HOUR_S + given_s})) as backend,
            serve(front(backend)) as (edge, url),
            WireClient(url) as client,
        ):
            await client.connect(token("ann", exp=ends))
            (session,) = edge.node.sessions
            assert session.deadlines.expires_at == pytest.approx(ends - HOUR_S + expected_s)


# Refresh.


async def test_refresh_may_be_refused_and_shortened(serve: Serve) -> None:
    answers: list[Any] = [{"refuse": {"code": 103}}, {"expires_at": time.time() + 60, "info": {"n": 2}}]

    async def decide(question: Question) -> Any:
        return answers.pop(0)

    async with (
        HookBackend(decide) as backend,
        serve(front(backend, "refresh")) as (edge, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann", exp=time.time() + HOUR_S))
        new = token("ann", exp=time.time() + 2 * HOUR_S)
        assert (await client.error(refresh={"token": new}))["code"] == 103
        result = await client.call(refresh={"token": new})
        assert result["ttl"] < 60
        (session,) = edge.node.sessions
        assert session.conn_info == b'{"n": 2}'
        assert backend.questions[0]["has_token"] is True


async def test_a_connection_that_a_hook_signed_in_is_renewed_until_the_hook_refuses(serve: Serve) -> None:
    renewals = 0

    async def decide(question: Question) -> Any:
        nonlocal renewals
        renewals += question["event"] == "refresh"
        if renewals == 3:
            return {"refuse": {}}
        return {"expires_at": time.time() + 2} | ({"user": "ann"} if question["event"] == "connect" else {})

    async with HookBackend(decide) as backend:
        toml = front(backend, "connect", "refresh", sign_in=True)
        async with serve(toml, expired_close_delay_s=0) as (_, url), WireClient(url) as client:
            await client.connect()
            code, _ = await client.expect_close(deadline_s=15)
            assert code == 3005
            assert renewals == 3


async def test_members_that_are_null_change_nothing_of_who_the_client_is(serve: Serve) -> None:
    answer = dict.fromkeys(("refuse", "data", "user", "info", "expires_at", "channels"))
    async with HookBackend(says(answer)) as backend, serve(front(backend)) as (edge, url), WireClient(url) as client:
        assert "data" not in await client.connect(token("ann", info={"name": "Ann"}))
        (session,) = edge.node.sessions
        assert (session.user, session.conn_info) == ("ann", b'{"name":"Ann"}')


async def test_an_expiry_that_a_backend_sets_while_the_hook_is_asked_is_renewed_too(serve: Serve) -> None:
    asked, free = asyncio.Event(), asyncio.Event()
    renewals = 0

    async def decide(question: Question) -> Any:
        nonlocal renewals
        if question["event"] == "connect":
            return {"user": "ann", "expires_at": time.time() + 2}
        renewals += 1
        asked.set()
        await free.wait()
        return {"expires_at": time.time() + HOUR_S}

    async with HookBackend(decide) as backend:
        toml = front(backend, "connect", "refresh", sign_in=True)
        async with serve(toml) as (edge, url), WireClient(url) as client:
            await client.connect()
            async with asyncio.timeout(30):
                await asked.wait()
            (session,) = edge.node.sessions
            session.deadlines.set_expiry(time.time() + 3)  # as `/api/refresh` does
            free.set()
            async with asyncio.timeout(30):
                while renewals < 2:
                    await asyncio.sleep(0.05)


async def test_a_renewal_that_fails_is_asked_again_and_ends_nothing_early(serve: Serve) -> None:
    async def decide(question: Question) -> Any:
        return {"user": "ann", "expires_at": time.time() + 2} if question["event"] == "connect" else None

    async with HookBackend(decide) as backend:
        toml = front(backend, "connect", "refresh", sign_in=True)
        async with serve(toml, expired_close_delay_s=3) as (_, url), WireClient(url) as client:
            await client.connect()
            began = time.monotonic()
            code, _ = await client.expect_close(deadline_s=15)
            assert code == 3005
            assert time.monotonic() - began > 4  # expiry and delay, less the rounding of the wheel


# Subscribe.


def gate(backend: HookBackend, **options: Any) -> str:
    return front(backend, "subscribe", namespaces=["chat"], **options)


async def test_subscribe_is_refused_or_gets_info_data_and_options(serve: Serve) -> None:
    async def decide(question: Question) -> Any:
        if question["channel"] == "chat:secret":
            return {"refuse": {"code": 404, "message": "no such room"}}
        return {"info": {"role": "guest"}, "data": {"topic": "tea"}, "override": {"force_recovery": True}}

    async with HookBackend(decide) as backend, serve(gate(backend)) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        assert await client.error(subscribe={"channel": "chat:secret"}) == {"code": 404, "message": "no such room"}
        result = await client.subscribe("chat:a")
        assert result["data"] == {"topic": "tea"}
        assert result["recoverable"] is True
        await client.publish("chat:a", 1)
        assert (await client.publication("chat:a"))["info"]["chan_info"] == {"role": "guest"}
        await client.subscribe("plain:a")
        assert [one["channel"] for one in backend.questions] == ["chat:secret", "chat:a"]


async def test_a_hook_permits_only_where_grants_is_set(serve: Serve) -> None:
    closed = Cluster(chat=replace_namespace(CHAT, subscribe=frozenset({Permission.GRANT})), plain=CHAT)
    async with HookBackend() as backend, serve(gate(backend), closed) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        assert (await client.error(subscribe={"channel": "chat:a"}))["code"] == 103
        assert not backend.questions
    async with (
        HookBackend() as backend,
        serve(gate(backend, grants=True), closed) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        await client.subscribe("chat:a")
        assert len(backend.questions) == 1


@pytest.mark.parametrize("grants", [False, True])
async def test_no_subscription_is_made_while_the_hook_can_not_be_asked(serve: Serve, grants: bool) -> None:
    async with (
        HookBackend(says(None)) as backend,
        serve(gate(backend, grants=grants)) as (edge, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        error = await client.error(subscribe={"channel": "chat:a"})
        assert (error["code"], error["temporary"]) == (113, True)
        (session,) = edge.node.sessions
        assert not session.subscriptions
