"""Signing keys rotate under a load of logins and connects.

Two replicas of auth, and an edge on each of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from cli.bundled import ROOT
from tests.support.faults import free_port
from tests.support.lateness import Lateness
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

PASSWORD = "correct horse battery"
OVERLAP_S = 8  # both edges hear of a key within 2 s; the rest is for a busy machine
REFUSED_WITHIN_S = 5.0  # after a key was retired, as docs/operations.md says


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """`edge-1` asks the stack's auth, `edge-2` a second replica on the same store."""
    port = free_port()
    settings = {
        "AUTH_KEY_OVERLAP_S": str(OVERLAP_S),
        "AUTH_ATTEMPTS_PER_ADDRESS": "0",
        "AUTH_ACCESS_TTL_S": "600",
        "AUTH_SESSIONS_PER_USER": "0",  # a fast machine signs in oftener than a user has sessions by default
        "AUTH_REGISTRATION": "open",
    }
    with Stack(
        edges=2, environment=settings, environment_of={"edge-2": {"EDGE_AUTH_ADDR": f"127.0.0.1:{port}"}}
    ) as running:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AUTH_", "EDGE_"))},
            **settings,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")]),
            "AUTH_DB": str(running.data / "auth.sqlite3"),
            "AUTH_GRPC_PORT": str(port),
            "AUTH_INTERNAL_PORT": "0",
            "REDIS_URL": running.redis_url,
            "SERVICE_TOKEN_FILE": str(running.plan.service_token_file),
        }
        with (running.data / "auth-2.log").open("wb") as log:
            second = subprocess.Popen([sys.executable, "-m", "services.auth"], env=environment, stdout=log, stderr=log)
        try:
            yield running
        finally:
            second.kill()
            second.wait()
            print((running.data / "auth-2.log").read_text())


async def thalamus(stack: Stack, *words: str) -> list[dict[str, Any]]:
    """What `thalamus keys …` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli.main", "keys", *words, "--data", str(stack.data), "--json"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return [json.loads(line) for line in said.splitlines()]


async def log_in(stack: Stack, edge: int, name: str, call: str = "login") -> str:
    async with httpx.AsyncClient(base_url=stack.http_urls[edge], timeout=20) as http:
        response = await http.post(f"/auth/{call}", json={"username": name, "password": PASSWORD})
    assert response.status_code == 200, response.text
    token: str = response.json()["result"]["access_token"]
    return token


async def connects(stack: Stack, edge: int, token: str) -> bool:
    async with WireClient(stack.ws_urls[edge], deadline_s=20) as client:
        command = await client.post(connect={"token": token})
        try:
            return "connect" in await client.reply(command)
        except AssertionError:  # closed
            assert await client.expect_close() == (3500, "invalid token")
            return False


def kid_of(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


async def test_no_login_and_no_connect_is_refused_while_keys_rotate_and_retired_ones_are_refused(stack: Stack) -> None:
    name = f"user-{secrets.token_hex(4)}"
    deadline = time.monotonic() + 60
    while True:  # the second replica may not be there yet
        try:
            first = await log_in(stack, 1, name, "register")
            break
        except AssertionError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    for edge in (0, 1):
        while not await connects(stack, edge, first):  # nor may the edge have heard of its keys
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    (before,) = await thalamus(stack, "list")
    assert before["state"] == "signing"
    tokens: list[str] = []
    stop = asyncio.Event()

    async def load(edge: int) -> None:
        """Sign in at one edge, connect to the other; here with an older token."""
        while not stop.is_set():
            token = await log_in(stack, edge, name)
            tokens.append(token)
            assert await connects(stack, 1 - edge, token)
            assert await connects(stack, edge, tokens[len(tokens) // 2])

    async with asyncio.TaskGroup() as group:
        for edge in (0, 1):
            group.create_task(load(edge))
        (made,) = await thalamus(stack, "rotate")
        assert (made["state"], made["signs_from"] - made["created_at"]) == ("waiting", pytest.approx(OVERLAP_S, abs=1))
        deadline = time.monotonic() + 60
        while {kid_of(token) for token in tokens[-4:]} != {made["kid"]}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        stop.set()
    old = next(token for token in tokens if kid_of(token) == before["kid"])
    new = tokens[-1]
    states = {key["kid"]: key["state"] for key in await thalamus(stack, "list")}
    assert states == {before["kid"]: "verifying", made["kid"]: "signing"}
    assert await connects(stack, 0, old)
    assert await connects(stack, 1, old)

    await thalamus(stack, "retire", before["kid"])
    async with Lateness() as late:
        for edge in (0, 1):
            while await connects(stack, edge, old):
                assert late.took_s < REFUSED_WITHIN_S
            assert await connects(stack, edge, new)
    print(f"refused on both edges {late.took_s:.2f} s after `retire` had answered")
    async with httpx.AsyncClient(timeout=20) as http:
        published = [(await http.get(f"{url}/auth/.well-known/jwks.json")).json()["keys"] for url in stack.http_urls]
    assert [[key["kid"] for key in keys] for keys in published] == [[made["kid"]]] * 2


async def test_the_key_that_signs_is_not_retired_without_force(stack: Stack) -> None:
    signing = next(key for key in await thalamus(stack, "list") if key["state"] == "signing")
    with pytest.raises(AssertionError, match="signs at present"):
        await thalamus(stack, "retire", signing["kid"])
    with pytest.raises(AssertionError, match="no such key"):
        await thalamus(stack, "retire", "unknown")
    assert signing in await thalamus(stack, "list")


def test_the_data_of_the_stack_is_where_the_second_replica_looks(stack: Stack) -> None:
    assert Path(stack.data / "auth.sqlite3").exists()
