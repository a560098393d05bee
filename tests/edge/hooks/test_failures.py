"""A backend that is down, slow or wrong: a clear code each, and others unharmed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.edge.domain.ends import EndReason
from tests.edge.hooks.conftest import Serve, calls, calls_under_way, token
from tests.support.faults import free_port
from tests.support.hook_backend import HookBackend, Question, response, table
from tests.support.lateness import Lateness
from tests.support.waiting import until
from tests.support.wire_client import WireClient

MIB_10 = 10 << 20
SLOW_S = 30.0


async def closes(question: Question) -> Any:
    return None


async def is_slow(question: Question) -> Any:
    await asyncio.sleep(SLOW_S)


def says(answer: Any) -> Any:
    async def decide(question: Question) -> Any:
        return answer

    return decide


WRONG = {
    "garbage": (says(response(b"<html>moved</html>")), 114, "bad_answer"),
    "json but no object": (says([1]), 114, "bad_answer"),
    "a misspelt member": (says({"refuze": {}}), 114, "bad_answer"),
    "a wrong type": (says({"skip": "yes"}), 114, "bad_answer"),
    "a code of close frames": (says({"refuse": {"code": 3000}}), 114, "bad_answer"),
    "a number that clients can't read": (says(response(b'{"data":1e999}')), 114, "bad_answer"),
    "compressed": (says(response(b"x", "200 OK", "Content-Encoding: gzip")), 114, "bad_answer"),
    "10 MB": (says(response(b"[" + b" " * MIB_10 + b"]")), 114, "too_large"),
    "redirect": (says(response(b"", "302 Found", "Location: http://127.0.0.1:1/")), 114, "redirect"),
    "error": (says(response(b"{}", "500 Internal Server Error")), 114, "status"),
    "forbidden": (says(response(b"{}", "403 Forbidden")), 114, "status"),
    "behind a proxy": (says(response(b"{}", "503 Service Unavailable")), 113, "unreachable"),
    "closes": (closes, 113, "unreachable"),
    "slow": (is_slow, 113, "timeout"),
    "no http": (says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), 113, "unreachable"),
}


def moderation(url: str, **options: Any) -> str:
    return table("moderation", ["publish"], url, namespaces=["chat"], timeout_s=1, **options)


@pytest.mark.parametrize("how", WRONG)
async def test_each_fault_of_a_backend_has_its_code_and_others_go_on(serve: Serve, how: str) -> None:
    decide, code, outcome = WRONG[how]
    before = calls("moderation", outcome)
    async with (
        HookBackend(decide) as backend,
        serve(moderation(backend.url)) as (_, url),
        WireClient(url) as client,
        WireClient(url) as other,
    ):
        await client.connect(token("ann"))
        await other.connect(token("bob"))
        await other.subscribe("plain:a")
        sent = await client.post(publish={"channel": "chat:a", "data": 1})
        await other.publish("plain:a", 2)
        assert (await other.publication("plain:a"))["data"] == 2
        error = (await client.reply(sent))["error"]
        assert (error["code"], error["message"]) == (code, f"hook: {outcome}")
        assert error.get("temporary", False) is (code == 113)
        assert calls("moderation", outcome) == before + 1
        await client.publish("plain:a", 3)  # its connection goes on


@pytest.mark.parametrize("how", WRONG)
async def test_a_hook_that_fails_open_lets_the_message_pass(serve: Serve, how: str) -> None:
    async with (
        HookBackend(WRONG[how][0]) as backend,
        serve(moderation(backend.url, fail="open")) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        assert (await client.publish("chat:a", 1))["offset"] == 1


async def test_a_backend_that_is_down_is_not_asked_until_it_answers_a_ping(serve: Serve) -> None:
    port = free_port()
    async with (
        serve(moderation(f"http://127.0.0.1:{port}/hooks", waiting=0)) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        first = await client.error(publish={"channel": "chat:a", "data": 1})
        assert first == {"code": 113, "message": "hook: unreachable", "temporary": True}
        async with Lateness() as late:
            for _ in range(20):
                error = await client.error(publish={"channel": "chat:a", "data": 1})
                assert error["message"] == "hook: silent"
        assert late.took_s < 1 * 20 / 2  # at once, not after a deadline each
        async with HookBackend(port=port) as backend:
            async with asyncio.timeout(30):
                while "publish" not in await client.reply(await client.post(publish={"channel": "chat:a", "data": 2})):
                    await asyncio.sleep(0.05)
            assert backend.pings >= 1


async def test_questions_beyond_concurrency_and_waiting_are_refused_at_once(serve: Serve) -> None:
    free = asyncio.Event()

    async def decide(question: Question) -> Any:
        await free.wait()
        return {}

    toml = table("moderation", ["publish"], "{url}", namespaces=["chat"], timeout_s=3, concurrency=2, waiting=3)
    async with HookBackend(decide) as backend, serve(toml.replace("{url}", backend.url)) as (_, url):
        clients = [await WireClient(url).__aenter__() for _ in range(9)]
        for client in clients:
            await client.connect(token("ann"))
        before = calls("moderation", "overload")
        sent = [await client.post(publish={"channel": "chat:a", "data": 1}) for client in clients]
        async with asyncio.timeout(30):
            while calls("moderation", "overload") < before + 4 or len(backend.questions) < 2:
                await asyncio.sleep(0.01)
        assert len(backend.questions) == 2
        free.set()
        replies = [await client.reply(command) for client, command in zip(clients, sent, strict=True)]
        errors = [reply["error"] for reply in replies if "error" in reply]
        assert len(errors) == 4
        assert {(error["code"], error["message"]) for error in errors} == {(111, "hook: overload")}
        for client in clients:
            await client.__aexit__(None, None, None)


async def test_a_busy_backend_is_not_taken_for_a_silent_one(serve: Serve) -> None:
    """Questions that got no turn in time say nothing about it."""

    async def decide(question: Question) -> Any:
        await asyncio.sleep(0.2)
        return {}

    toml = table("moderation", ["publish"], "{url}", namespaces=["chat"], timeout_s=0.3, concurrency=1)
    async with HookBackend(decide) as backend, serve(toml.replace("{url}", backend.url)) as (_, url):
        clients = [await WireClient(url).__aenter__() for _ in range(4)]
        for client in clients:
            await client.connect(token("ann"))
        sent = [await client.post(publish={"channel": "chat:a", "data": 1}) for client in clients]
        replies = [await client.reply(command) for client, command in zip(clients, sent, strict=True)]
        assert "publish" in replies[0]
        assert replies[-1]["error"]["message"] in ("hook: overload", "hook: silent")
        assert "hook: overload" in {reply.get("error", {}).get("message") for reply in replies}
        for client in clients:
            await client.__aexit__(None, None, None)


async def test_a_client_that_goes_away_while_its_hook_is_asked_leaves_nothing_behind(serve: Serve) -> None:
    asked, free = asyncio.Event(), asyncio.Event()

    async def decide(question: Question) -> Any:
        asked.set()
        await free.wait()
        return {}

    async with HookBackend(decide) as backend, serve(moderation(backend.url)) as (edge, url):
        async with WireClient(url) as client:
            await client.connect(token("ann"))
            await client.post(publish={"channel": "chat:a", "data": 1})
            await asked.wait()
            client.abort()
        async with asyncio.timeout(30):
            while edge.node.sessions:
                await asyncio.sleep(0.01)
        free.set()
        async with WireClient(url) as other:
            await other.connect(token("ann"))
            await other.publish("plain:a", 1)


@pytest.mark.parametrize("how", ["sent away", "went away"])
async def test_a_message_of_who_is_sent_away_while_the_hook_decides_is_not_published(serve: Serve, how: str) -> None:
    """That of a client that only went away is, as without a hook."""
    asked, free = asyncio.Event(), asyncio.Event()

    async def decide(question: Question) -> Any:
        if question["data"] != "last":
            asked.set()
            await free.wait()
        return {}

    async with (
        HookBackend(decide) as backend,
        serve(table("moderation", ["publish"], backend.url, namespaces=["chat"], timeout_s=4)) as (edge, url),
        WireClient(url) as other,
        WireClient(url) as client,
    ):
        await other.connect(token("bob"))
        await other.subscribe("chat:a")
        await client.connect(token("ann"))
        await client.post(publish={"channel": "chat:a", "data": "of ann"})
        await asked.wait()
        if how == "sent away":
            edge.node.clients[client.client_id].disconnect(EndReason.DISCONNECTED)
        else:
            client.abort()
        await until(lambda: "ann" not in edge.node.users)
        assert calls_under_way("moderation") == 1, "it was over before the hook decided"
        free.set()
        if how == "went away":
            assert (await other.publication("chat:a"))["data"] == "of ann"
        else:
            async with asyncio.timeout(30):
                while calls_under_way("moderation"):
                    await asyncio.sleep(0.01)
        await other.publish("chat:a", "last")
        assert (await other.publication("chat:a"))["data"] == "last"


async def test_a_client_whose_questions_hang_does_not_cut_off_others(serve: Serve) -> None:
    async def decide(question: Question) -> Any:
        if question["data"] == "hang":
            await is_slow(question)
        return {}

    async with (
        HookBackend(decide) as backend,
        serve(moderation(backend.url)) as (_, url),
        WireClient(url) as client,
        WireClient(url) as other,
    ):
        await client.connect(token("ann"))
        await other.connect(token("bob"))
        for _ in range(4):
            hangs = await client.post(publish={"channel": "chat:a", "data": "hang"})
            replied = asyncio.create_task(client.reply(hangs))
            while not replied.done():
                await other.publish("chat:a", "quick")
                await asyncio.sleep(0.03)  # a client may send 50 commands a second
            assert (await replied)["error"]["message"] == "hook: timeout"
            await other.publish("chat:a", "quick")
        assert backend.pings == 0


async def test_floods_that_wait_for_a_slow_hook_do_not_have_others_refused(serve: Serve) -> None:
    """What waits for a hook does not count as waiting for a log."""
    free = asyncio.Event()

    async def decide(question: Question) -> Any:
        await free.wait()
        return {}

    toml = table("moderation", ["publish"], "{url}", namespaces=["chat"], timeout_s=4)
    async with (
        HookBackend(decide) as backend,
        serve(toml.replace("{url}", backend.url), max_pending_publish_bytes=200_000) as (edge, url),
        WireClient(url) as flood,
        WireClient(url) as other,
    ):
        await flood.connect(token("ann"))
        await other.connect(token("bob"))
        await flood.batch(*({"publish": {"channel": "chat:a", "data": "x" * 1_000}} for _ in range(60)))
        async with asyncio.timeout(30):
            while not backend.questions:  # then the others of the same frame wait in the queue
                await asyncio.sleep(0.01)
        admission = edge.node.publisher.admission
        assert (admission.bytes, admission.redis.waiting) == (0, 0)
        for _ in range(10):
            await other.publish("plain:a", "y" * 20_000)
        free.set()
