"""Hooks over gRPC, and as functions in the process of the edge."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.shared.process.config import ConfigError
from tests.edge.hooks.conftest import CHAT, Serve, token
from tests.support.edge import Cluster
from tests.support.faults import free_port
from tests.support.hook_backend import SECRET, hooks_of
from tests.support.wire_client import WireClient
from thalamus.hooks.v1 import hooks_pb2 as pb
from thalamus.hooks.v1.hooks_pb2_grpc import HooksServiceServicer, add_HooksServiceServicer_to_server

Decide = Callable[[pb.HookRequest], pb.HookAnswer]


class Service(HooksServiceServicer):
    """Answers as a test says; keeps questions and metadata."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self.questions: list[pb.HookRequest] = []
        self.metadata: list[dict[str, Any]] = []

    async def Decide(self, request: pb.HookRequest, context: Any) -> pb.HookAnswer:
        self.questions.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return self._decide(request)


@contextlib.asynccontextmanager
async def serving(
    decide: Decide, port: int = 0, tls: grpc.ServerCredentials | None = None
) -> AsyncIterator[tuple[Service, int]]:
    server, service = grpc.aio.server(), Service(decide)
    add_HooksServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{port}"
    port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    await server.start()
    try:
        yield service, port
    finally:
        await server.stop(None)


def over_grpc(port: int, events: str = '["publish", "rpc"]', **options: str) -> str:
    lines = {"events": events, "namespaces": '["chat"]', "methods": '["game.*"]', "grpc": f'"127.0.0.1:{port}"'}
    lines |= {"secret_files": '["{secret}"]', "max_answer_bytes": "2000", "timeout_s": "0.5"} | options
    return "\n".join(["[hooks.remote]", *(f"{key} = {value}" for key, value in lines.items()), ""])


def decide(request: pb.HookRequest) -> pb.HookAnswer:
    if request.event == "rpc":
        return pb.HookAnswer(
            data=b'{"seen":%s}' % request.data,
            publish=[pb.HookPublication(channel="chat:a", data=b'"moved"', tags={"by": request.user})],
        )
    return {
        b'"rude"': pb.HookAnswer(data=b'"r***"'),
        b'"spam"': pb.HookAnswer(skip=True),
        b'"bad"': pb.HookAnswer(refuse=pb.Refusal(code=451, message="not here")),
        b'"badly"': pb.HookAnswer(refuse=pb.Refusal()),
        b'"large"': pb.HookAnswer(data=b"9" * 5_000),
        b'"garbage"': pb.HookAnswer(data=b"{"),
        b'"member"': pb.HookAnswer(user="x"),
    }.get(request.data, pb.HookAnswer())


async def test_a_hook_over_grpc_decides_as_one_over_http(serve: Serve) -> None:
    async with serving(decide) as (service, port):
        options = {"scope": '"cluster"', "channels": '["chat:*"]'}
        async with serve(over_grpc(port, **options)) as (_, url), WireClient(url) as client:
            await client.connect(token("ann", info={"name": "Ann"}))
            await client.subscribe("chat:a")
            offsets = [(await client.publish("chat:a", text)).get("offset") for text in ("good", "rude", "spam")]
            assert offsets == [1, 2, None]
            assert await client.error(publish={"channel": "chat:a", "data": "bad"}) == {
                "code": 451,
                "message": "not here",
            }
            assert (await client.error(publish={"channel": "chat:a", "data": "badly"}))["code"] == 103
            assert await client.call(rpc={"method": "game.move", "data": [1]}) == {"data": {"seen": [1]}}
            assert [one["data"] for one in await client.publications("chat:a", 3)] == ["good", "r***", "moved"]
            first = service.questions[0]
            assert (first.event, first.user, first.info, first.channel) == (
                "publish",
                "ann",
                b'{"name":"Ann"}',
                "chat:a",
            )
            assert service.metadata[0]["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [("large", 114, "too_large"), ("garbage", 114, "bad_answer"), ("member", 114, "bad_answer")],
)
async def test_a_wrong_answer_over_grpc_has_its_code(serve: Serve, data: str, code: int, message: str) -> None:
    async with (
        serving(decide) as (_, port),
        serve(over_grpc(port)) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        error = await client.error(publish={"channel": "chat:a", "data": data})
        assert error == {"code": code, "message": f"hook: {message}"}
        await client.publish("plain:a", 1)


async def test_a_grpc_backend_that_is_down_is_found_again(serve: Serve) -> None:
    port = free_port()
    async with serve(over_grpc(port)) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        error = await client.error(publish={"channel": "chat:a", "data": 1})
        assert (error["code"], error["message"]) == (113, "hook: unreachable")
        async with (
            serving(decide, port),
            asyncio.timeout(30),
        ):
            while "publish" not in await client.reply(await client.post(publish={"channel": "chat:a", "data": 1})):
                await asyncio.sleep(0.1)


async def test_a_grpc_backend_without_the_method_is_a_failure(serve: Serve) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with serve(over_grpc(port)) as (_, url), WireClient(url) as client:
        await client.connect(token("ann"))
        error = await client.error(publish={"channel": "chat:a", "data": 1})
        assert error == {"code": 114, "message": "hook: status"}
    await server.stop(None)


# Extensions.

EXTENSION = """
import asyncio

seen = []

async def handle(context, data):
    seen.append((context, data))
    if data == "raise":
        raise RuntimeError("a bug")
    if data == "cancel":
        raise asyncio.CancelledError
    if data == "timeout":
        raise TimeoutError("of its database")
    if data == "exit":
        raise SystemExit(3)
    if data == "hang":
        await asyncio.sleep(60)
    if data == "object":
        return {"data": object()}
    if data == "text":
        return "yes"
    if data == "rude":
        return {"data": "r***"}
    return None

def plain(context, data):
    return None
"""
ENTRY_POINTS = "[thalamus.extensions]\nwords = h_words:handle\nplain = h_words:plain\nlost = h_words:nothing\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with extensions, installed as pip would."""
    (tmp_path / "h_words.py").write_text(EXTENSION)
    metadata = tmp_path / "h_words-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: h-words\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.setattr(
        sys, "path", [str(tmp_path), *sys.path]
    )  # syspath_prepend wants pkg_resources, if any is loaded
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "h_words", raising=False)
    return tmp_path


def in_process(name: str = "words") -> str:
    return f'[hooks.words]\nevents = ["publish"]\nnamespaces = ["chat"]\nextension = "{name}"\ntimeout_s = 0.3\n'


async def test_an_extension_decides_in_the_process(serve: Serve, installed: Path) -> None:
    async with serve(in_process()) as (_, url), WireClient(url) as client:
        await client.connect(token("ann", info={"name": "Ann"}))
        await client.subscribe("chat:a")
        await client.publish("chat:a", "rude")
        await client.publish("chat:a", "fine")
        assert [one["data"] for one in await client.publications("chat:a", 2)] == ["r***", "fine"]
        context, data = sys.modules["h_words"].seen[0]
        assert (context.event, context.user, context.info, context.channel, data) == (
            "publish",
            "ann",
            {"name": "Ann"},
            "chat:a",
            "rude",
        )


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ("raise", 114, "error"),
        ("cancel", 114, "error"),
        ("timeout", 114, "error"),
        ("exit", 114, "error"),
        ("hang", 113, "timeout"),
        ("object", 114, "bad_answer"),
        ("text", 114, "bad_answer"),
    ],
)
async def test_whatever_an_extension_does_only_its_command_fails(
    serve: Serve, installed: Path, caplog: pytest.LogCaptureFixture, data: str, code: int, message: str
) -> None:
    async with serve(in_process()) as (edge, url), WireClient(url) as client:
        await client.connect(token("ann"))
        error = await client.error(publish={"channel": "chat:a", "data": data})
        assert (error["code"], error["message"]) == (code, f"hook: {message}")
        if message != "timeout":
            assert not edge.node.hooks.publish["chat"].is_silent
        if data == "raise":
            (record,) = [record for record in caplog.records if record.message == "a hook failed"]
            assert record.exc_info
            assert isinstance(record.exc_info[1], RuntimeError)
        async with asyncio.timeout(30):  # after a timeout it is asked again at once
            while "publish" not in await client.reply(await client.post(publish={"channel": "chat:a", "data": "fine"})):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody", "no installed package"), ("plain", "must be `async def"), ("lost", "can't import it")],
)
def test_an_extension_that_can_not_be_used_stops_the_start(installed: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        hooks_of(installed, Cluster(chat=CHAT).namespaces, in_process(name))
    assert "[hooks.words] extension" in str(error.value)
