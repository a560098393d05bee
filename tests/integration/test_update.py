"""An update of everything from the last commit that users have, and back.

All processes of a stack run the code of before, which writes publications, accounts, an API key and Redis. Then all run
this code on the same data, and write what the code before has no notion of. Then all go back, and forth again.
`tests/faults/update.py` updates under load, one process at a time.

Nothing of either is lost on the way, with SQLite and with DynamoDB. With DynamoDB persistence needs `store init`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from cli.bundled import ROOT
from tests.support.before import checkout_of_before, environment_of, import_paths
from tests.support.chat_client import Backend, some_key
from tests.support.dynamodb import CREDENTIALS, dynamodb_server
from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import JsonObject, WireClient

PROCESSES = ("auth", "presence", "persistence", "edge-1")
PASSWORD = "correct horse battery"
CHANNEL = "chat:update"
ROOM = "room"


class Updated:
    """A stack whose processes are replaced by those of another version.

    `versions`: variables of their processes.
    """

    def __init__(self, stack: Stack, versions: Mapping[str, Mapping[str, str]]) -> None:
        self.stack, self._versions = stack, versions

    def run(self, version: str) -> None:
        """Stop all processes, edges first, and start them all."""
        for name in reversed(PROCESSES):
            self.stack.terminate(name)
            child = self.stack.supervisor.children[name]
            child.spec = replace(child.spec, environment={**child.spec.environment, **self._versions[version]})
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self.stack.start(name, 40), PROCESSES))
        until_open(self.stack.http_urls[0])

    def thalamus(self, *arguments: str) -> str:
        """Run a command of this version, which must succeed; its output."""
        return thalamus(*arguments, "--data", str(self.stack.data))


def until_open(url: str) -> None:
    """Wait for the public port: an edge of before may be ready a little earlier."""
    deadline = time.monotonic() + 20
    while True:
        try:
            httpx.get(url)
        except httpx.ConnectError:
            assert time.monotonic() < deadline, f"{url} takes no connections"
            time.sleep(0.05)
        else:
            return


def thalamus(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", *arguments],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout_of_before(tmp_path_factory.mktemp("before"))


@pytest.fixture(params=["sqlite", pytest.param("dynamodb", marks=pytest.mark.full)])
def updated(request: pytest.FixtureRequest, checkout: Path) -> Iterator[Updated]:
    old = environment_of(checkout)
    new = {"PYTHONPATH": import_paths(ROOT), "CHANNELS_FILE": str(ROOT / "config" / "channels.toml")}
    with ExitStack() as exits:
        environment = {"AUTH_ATTEMPTS_PER_ADDRESS": "0"}
        if request.param == "dynamodb":
            environment |= {
                "PERSISTENCE_STORE": "dynamodb",
                "AUTH_STORE": "dynamodb",
                "DYNAMODB_ENDPOINT": exits.enter_context(dynamodb_server()),
                "DYNAMODB_TABLE_PREFIX": f"{uuid.uuid4().hex}-",
                **CREDENTIALS,
            }
            thalamus("store", "init", **environment, **old)
        stack = exits.enter_context(
            Stack(edges=1, environment=environment, environment_of=dict.fromkeys(PROCESSES, old), restart=False)
        )
        if request.param == "dynamodb":
            made = thalamus("store", "init", **environment, PYTHONPATH=new["PYTHONPATH"])
            assert made.count("was there") == 2, made
        until_open(stack.http_urls[0])
        yield Updated(stack, {"before": old, "now": new})


def test_users_of_redis_may_all_that_they_could(checkout: Path) -> None:
    """So they can be changed first, while services of before run."""
    template = Path("deploy", "redis", "users.acl.template")
    before, now = ((root / template).read_text().splitlines() for root in (checkout, ROOT))
    rights = {name: words for _, name, *words in map(str.split, now)}
    for _, name, *words in map(str.split, before):
        assert set(words) <= set(rights[name]), name


@pytest.mark.slow
async def test_nothing_is_lost_by_an_update_a_rollback_and_another_update(updated: Updated) -> None:
    stack, acked, rooms = updated.stack, list[str](), list[str]()

    async def publish(count: int) -> None:
        async with WireClient(stack.ws_urls[0], deadline_s=20) as client:
            await client.connect(stack.token("ann"))
            for channel, said in ((CHANNEL, acked), (ROOM, rooms)):
                await client.subscribe(channel)
                for _ in range(count):
                    said.append(some_key())
                    await client.publish(channel, {"key": said[-1]})

    async def check_logs(backend: Backend) -> None:
        for channel, said in ((CHANNEL, acked), (ROOM, rooms)):
            found = (await backend.raw("history", channel=channel, limit=1000))["result"]
            assert [one["data"]["key"] for one in found["publications"]] == said
            assert [one["offset"] for one in found["publications"]] == list(range(1, len(said) + 1))
            assert found["epoch"] == epochs.setdefault(channel, found["epoch"])

    async def account(backend: Backend, path: str, **body: str) -> JsonObject:
        response = await backend.http.post(f"/auth/{path}", json=body)
        return {"status": response.status_code, **response.json().get("result", {})}

    epochs: dict[str, str] = {}
    password = {"username": "zoe", "password": PASSWORD}
    await publish(3)
    async with Backend(stack) as backend:  # with an API key of before
        await check_logs(backend)
        pair = await account(backend, "register", **password)
        assert pair["status"] == 200

    await asyncio.to_thread(updated.run, "now")
    await publish(3)
    async with Backend(stack) as backend:
        await check_logs(backend)
        assert (await account(backend, "login", **password))["status"] == 200
        pair = await account(backend, "refresh", refresh_token=pair["refresh_token"])
        assert pair["status"] == 200
        channel = await backend.group("ann", "bob", "cem")
        sent = [
            (await backend.do("messages.send", "ann", channel=channel, text=text, mentions=["bob"]))["offset"]
            for text in ("one", "two", "three", "four")
        ]
        await backend.do("messages.edit", "ann", channel=channel, of=sent[1], text="two!")
        await backend.do("messages.delete", "ann", channel=channel, of=sent[2])
        await backend.do("markers.read", "bob", channel=channel, offset=sent[0])
        assert await backend.raw("users_disable", user="eve") == {"result": {}}
        grants = {"user": "dan", "channels": ["private:x"], "operations": ["publish"]}
        assert await backend.raw("grants_give", **grants) == {"result": {}}
        limited = json.loads(updated.thalamus("api-key", "create", "limited", "--scope", "history", "--json"))["key"]

        async def answers() -> list[JsonObject]:
            return [
                await backend.do("conversations.get", "bob", channel=channel),
                await backend.do("messages.list", "bob", channel=channel, limit=50),
                await backend.do("members.list", "bob", channel=channel),
                await backend.do("markers.get", "bob", channel=channel),
                await backend.do("inbox.list", "bob", limit=10),
                await backend.raw("grants_list", user="dan"),
                {"log": await backend.log(channel)},
            ]

        kept = await answers()

    await asyncio.to_thread(updated.run, "before")
    await publish(3)
    async with Backend(stack) as backend:
        await check_logs(backend)
        assert (await account(backend, "login", **password))["status"] == 200
        pair = await account(backend, "refresh", refresh_token=pair["refresh_token"])
        assert pair["status"] == 200
        backend.http.headers["X-API-Key"] = limited
        refused = await backend.http.post("/api/history", json={"channel": CHANNEL})
        assert refused.status_code == 401, "what may do little must not be taken for what may do everything"

    await asyncio.to_thread(updated.run, "now")
    await publish(3)
    async with Backend(stack) as backend:
        await check_logs(backend)
        assert (await account(backend, "refresh", refresh_token=pair["refresh_token"]))["status"] == 200
        for now, then in zip(await answers(), kept, strict=True):
            assert now | {"since": ""} == then | {"since": ""}  # where the next call goes on
        assert (await backend.do("messages.send", "ann", channel=channel, text="five"))["offset"] > sent[-1]
        assert (await backend.do("markers.get", "bob", channel=channel))["unread"] == 3
        updated.thalamus("chat", "check", channel)
        disabled = {"user": "eve"}
        assert (await backend.raw("users_get", **disabled))["result"]["disabled"]
        response = await backend.http.post("/api/history", json={"channel": CHANNEL}, headers={"X-API-Key": limited})
        assert response.status_code == 200
    for name in PROCESSES:
        wrong = [line for line in stack.lines(name) if "Traceback" in line or '"level": "ERROR"' in line]
        # An edge of before passes over entries about grants.
        assert not [line for line in wrong if "unreadable revocation" not in line], name
