"""`thalamus push` lists, replays and drops dead letters of a notifier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from click.testing import CliRunner

from cli.commands import push
from cli.errors import CommandError
from tests.support.chat_calls import Site, sqlite_site
from tests.support.push import Backend, Run, WhoIsThere, do, make_due
from tests.support.push_server import PushServer, Reply

_TRIES = 10  # of a letter until it is dead, as docs/push.md says


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3") as running:
        yield running


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with PushServer() as server:
        yield Backend(server)


@pytest.fixture
async def run(redis_url: str, redis_conn: redis.asyncio.Redis, site: Site, backend: Backend) -> AsyncIterator[Run]:
    made = Run(redis_url, redis_conn, site, [backend.way()], WhoIsThere())
    await made.begin()
    yield made
    await made.close()


async def thalamus(redis_url: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `thalamus push` beside this Redis; return exit code, output and errors."""
    command = [*arguments, "--data", str(folder)]
    settings = {"REDIS_URL": redis_url, "REDIS_PREFIX": "t", "REDIS_PASSWORD_FILE": None}
    result = await asyncio.to_thread(CliRunner().invoke, push.command, command, env=settings)
    if isinstance(result.exception, CommandError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


async def given_up(run: Run, site: Site, backend: Backend, users: list[str]) -> dict[str, int]:
    """Send each user a message that the backend refuses; return the offsets."""
    backend.server.answer = lambda _: Reply(503)
    offsets = {}
    for user in users:
        sent = await do(site.replicas[0], "ann", "messages.send", to=user, text="hi")
        offsets[user] = sent["offset"]
    await run.read()
    await run.pass_time()
    await run.decide()
    for _ in range(_TRIES):
        await make_due(run.conn, "t:push:{webhook}:due", 0)
        await run.send()
    assert await run.conn.zcard("t:push:{webhook}:dead") == len(users)
    backend.take()
    return offsets


async def test_dead_letters_are_listed_replayed_and_dropped(
    run: Run, site: Site, backend: Backend, redis_url: str, tmp_path: Path
) -> None:
    offsets = await given_up(run, site, backend, ["bob", "cid", "dan"])
    code, said, wrong = await thalamus(redis_url, tmp_path, "list", "--json")
    assert (code, wrong) == (0, "3 dead letters\n")
    found = {one["user"]: one for one in map(json.loads, said.splitlines())}
    assert {user: one["offset"] for user, one in found.items()} == offsets
    assert {(one["way"], one["tries"], one["error"]) for one in found.values()} == {("webhook", _TRIES, "status 503")}
    bob, cid = found["bob"]["id"], found["cid"]["id"]
    code, said, wrong = await thalamus(redis_url, tmp_path, "list")
    place = f"{found['bob']['channel']}/{offsets['bob']}"
    (line,) = [one for one in said.splitlines() if bob in one]
    assert (code, line.startswith(f"webhook  {bob}  bob  {place}  20"), line.endswith("  status 503")) == (
        0,
        True,
        True,
    )

    backend.server.answer = lambda _: Reply()
    assert await thalamus(redis_url, tmp_path, "replay", "webhook", bob) == (0, f"replayed: {bob}\n", "")
    await run.send()
    (note,) = backend.take()
    assert (note["user"], note["body"], note["request"]) == ("bob", "hi", bob)

    assert await thalamus(redis_url, tmp_path, "drop", "webhook", cid) == (0, f"dropped: {cid}\n", "")
    channel = found["dan"]["channel"]
    await do(site.replicas[0], "dan", "markers.read", channel=channel, offset=offsets["dan"])
    code, said, wrong = await thalamus(redis_url, tmp_path, "replay", "webhook", "--all", "--json")
    dan = found["dan"]["id"]
    assert (code, json.loads(said)) == (0, {"way": "webhook", "id": dan, "done": "replayed"}), wrong
    await run.send()
    assert backend.take() == []  # dan has read it meanwhile
    assert await thalamus(redis_url, tmp_path, "list") == (0, "", "0 dead letters\n")
    assert await run.conn.hlen("t:push:{webhook}:letters") == 0


async def test_ids_and_ways_of_no_dead_letter_are_named_and_the_others_are_done(
    run: Run, site: Site, backend: Backend, redis_url: str, tmp_path: Path
) -> None:
    await given_up(run, site, backend, ["bob"])
    _, said, _ = await thalamus(redis_url, tmp_path, "list", "--json")
    bob = json.loads(said)["id"]
    for refused in (["drop", "webhook"], ["drop", "webhook", "--all", bob]):
        code, said, wrong = await thalamus(redis_url, tmp_path, *refused)
        assert (code, said) == (2, "")
        assert "give ids of dead letters, or --all" in wrong
    code, said, wrong = await thalamus(redis_url, tmp_path, "drop", "webpush", bob)
    assert (code, said) == (1, "")
    assert f"no dead letter of webpush: {bob}" in wrong
    code, said, wrong = await thalamus(redis_url, tmp_path, "drop", "webhook", "unknown", bob)
    assert (code, said) == (1, f"dropped: {bob}\n")
    assert "no dead letter of webhook: unknown" in wrong
    assert await thalamus(redis_url, tmp_path, "drop", "webhook", "--all") == (0, "", "0 dropped\n")
