"""What a run says where nobody gets in, and when its clients stop publishing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tests.support.stack import Stack
from verify import drive
from verify.check import conclude
from verify.context import Run
from verify.events import Publishing, read_history
from verify.plan import Load, make_plan
from verify.target import Target


async def refusing(connection: ServerConnection) -> None:
    """Lets everybody connect, and subscribe to nothing."""
    async for message in connection:
        command = json.loads(message)
        found = (
            {"connect": {"client": "c"}} if "connect" in command else {"error": {"code": 107, "message": "bad request"}}
        )
        await connection.send(json.dumps({"id": command["id"], **found}))


async def closing(connection: ServerConnection) -> None:
    await connection.close(3500, "invalid token")


async def full(connection: ServerConnection, request: Request) -> Response:
    return Response(429, "Too Many Requests", Headers({"Content-Length": "0"}))


@pytest.mark.parametrize(
    ("handler", "process_request", "why"),
    [
        (refusing, None, "subscribe to chat:verify-1: bad request (107)"),
        (closing, None, "connect: closed 3500"),
        (refusing, full, "WebSocket handshake: HTTP status 429"),
    ],
)
async def test_where_nobody_gets_in_the_reason_is_told(
    handler: object, process_request: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "SETTLE_S", 0.5)
    plan = make_plan(Load(clients=2, channels=("chat:verify-1",)))
    async with serve(handler, "127.0.0.1", 0, process_request=process_request) as server:  # type: ignore[arg-type]
        port = next(iter(server.sockets)).getsockname()[1]
        target = Target((f"ws://127.0.0.1:{port}/",), (f"http://127.0.0.1:{port}",), "key", lambda user: user)
        with pytest.raises(drive.Unreachable) as caught:
            await drive.drive(plan, target, tmp_path / "history", what="test", stored=())
    assert str(caught.value) == f"no client could connect and subscribe within 0.5 s; {why}"


async def test_where_nobody_answers_that_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "SETTLE_S", 0.5)
    plan = make_plan(Load(clients=1, channels=("chat:verify-1",)))
    target = Target(("ws://127.0.0.1:1/",), ("http://127.0.0.1:1",), "key", lambda user: user)
    with pytest.raises(drive.Unreachable, match=r"; WebSocket handshake: no response$"):
        await drive.drive(plan, target, tmp_path / "history", what="test", stored=())


async def test_clients_publish_as_long_after_the_trouble_as_is_said_and_all_of_it_is_judged(
    stack: Stack, tmp_path: Path
) -> None:
    over: list[float] = []

    async def trouble(run: Run) -> None:
        await asyncio.sleep(1)
        over.append(run.now())

    target = Target(tuple(stack.ws_urls), tuple(stack.http_urls), stack.api_key, stack.token)
    plan = make_plan(Load(clients=4, channels=("chat:after-1", "live:after-2"), duration_s=120, rate_per_s=40))
    path = tmp_path / "history"
    await drive.drive(plan, target, path, what="test", stored=["chat:after-1"], trouble=trouble, after_s=1.0)
    published = [one.at for one in read_history(path) if isinstance(one, Publishing)]
    assert over[0] + 0.5 < max(published) < over[0] + 20
    outcome = conclude(path, where="test")
    assert outcome.verdict.passed, outcome.page
    assert outcome.verdict.acked == len(published)
