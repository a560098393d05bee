"""`thalamus chat` checks and rebuilds conversations that are in use."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.bundled import ROOT
from cli.running import RunningStack, write_running
from services.persistence.chat.ports import Changes
from services.shared.rpc.server import GrpcServer, start_grpc_server
from tests.support.chat_calls import Site, sqlite_site
from thalamus.chat.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server

_PATHS = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto" / "gen")))}
TOKEN = b"a service token of tests"


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", replicas=1) as made:
        yield made


@pytest.fixture
async def data(site: Site, tmp_path: Path) -> AsyncIterator[Path]:
    """Data directory of a stack whose persistence serves the site."""
    server: GrpcServer = await start_grpc_server(
        lambda grpc: add_ChatServiceServicer_to_server(site.replicas[0].chat.servicer, grpc),
        host="127.0.0.1",
        port=0,
        service_token=TOKEN,
        service="persistence",
    )
    (tmp_path / "token").write_bytes(TOKEN)
    stack = RunningStack(
        pid=os.getpid(),
        edges=[],
        auth="",
        redis="",
        service_token_file=str(tmp_path / "token"),
        internal={},
        pids={},
        persistence=f"127.0.0.1:{server.port}",
    )
    write_running(tmp_path, stack)
    yield tmp_path
    await server.stop(0)


async def thalamus(*arguments: str) -> tuple[int, str, str]:
    """Run `thalamus chat`; return exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "chat", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **_PATHS},
    )
    said, wrong = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), wrong.decode()


async def groups(site: Site) -> list[str]:
    """Channels of three groups with a message each, in order."""
    replica, made = site.replicas[0], list[str]()
    for name in ("Lunch", "Dinner", "Tea"):
        channel = (await replica.call("u1", "conversations.create", name=name, users=["u2"]))["channel"]
        await replica.call("u2", "messages.send", channel=channel, text="Hi")
        made.append(channel)
    return sorted(made)


async def corrupt(site: Site, channel: str) -> None:
    """Write another name into the read model."""
    await site.settle(channel)
    loaded = await site.store.load(channel)
    head = json.dumps({**json.loads(loaded.head), "name": "wrong"}).encode()
    assert await site.store.apply(channel, loaded.position, Changes(loaded.position, head, {}, {}, {}))


async def test_what_differs_is_told_and_made_again(site: Site, data: Path) -> None:
    some = await groups(site)
    where = ("--data", str(data))
    code, said, wrong = await thalamus("check", "--all", *where)
    assert (code, said.splitlines(), wrong) == (0, [f"{channel}  right at 3" for channel in some], "0 differ\n")
    await corrupt(site, some[1])
    code, said, wrong = await thalamus("check", some[0], some[1], *where)
    assert (code, wrong) == (1, "1 differ\n")
    assert said.splitlines()[:2] == [f"{some[0]}  right at 3", f"{some[1]}  differs at 3"]
    assert "  name: 'wrong', in the log " in said.splitlines()[2]
    code, said, wrong = await thalamus("rebuild", some[1], *where)
    assert (code, said, wrong) == (0, f"{some[1]}  made again at 3\n", "")
    code, said, _ = await thalamus("check", "--all", "--json", *where)
    assert code == 0
    assert [json.loads(line) for line in said.splitlines()] == [
        {"channel": channel, "offset": 3, "differences": []} for channel in some
    ]


async def test_all_that_was_lost_is_made_again(site: Site, data: Path) -> None:
    some = await groups(site)
    await site.rows.open("chat:g.aaaaaaaaaaaaaaaaaaaaaaaaaa")  # no conversation, whatever it is called
    await site.rows.open("conv:g.aaaaaaaaaaaaaaaaaaaaaaaaaa")  # nothing was created there
    for channel in some:
        await site.store.drop(channel)
    fresh = site.another()
    assert (await fresh.call("u2", "conversations.list"))["conversations"] == []
    code, said, _ = await thalamus("rebuild", "--all", "--data", str(data))
    assert (code, said.splitlines()) == (0, [f"{channel}  made again at 3" for channel in some])
    assert [one["channel"] for one in (await fresh.call("u2", "conversations.list"))["conversations"]] == some


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["check"], 2, "name conversations, or give --all"),
        (["check", "conv:o.a", "--all"], 2, "name conversations, or give --all"),
        (["rebuild", "conv:o.nobody"], 1, "conv:o.nobody: there is no such conversation"),
        (["check", "news"], 1, "news: there is no such conversation"),
        (["check", "conv:o.a", "--persistence", "127.0.0.1:1"], 3, "persistence at 127.0.0.1:1 does not answer"),
    ],
)
async def test_what_can_not_be_done_is_one_line(data: Path, arguments: list[str], code: int, complaint: str) -> None:
    found, _, wrong = await thalamus(*arguments, "--data", str(data))
    assert (found, wrong.count("\n")) == (code, 1), wrong
    assert complaint in wrong


async def test_another_service_token_is_not_accepted(data: Path) -> None:
    (data / "other").write_text("another one")
    code, _, wrong = await thalamus("check", "--all", "--data", str(data), "--service-token-file", str(data / "other"))
    assert (code, "does not accept the service token" in wrong) == (1, True)


async def test_no_client_calls_the_methods_of_operators(site: Site) -> None:
    replica = site.replicas[0]
    for user in ("u1", ""):
        for method in ("upkeep.check", "upkeep.rebuild", "upkeep.channels"):
            assert (await replica.ask(user, method)).refusal.code == 104
