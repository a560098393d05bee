"""A deployment whose secrets are files.

The token between services is rotated, and what is wrong ends a start.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.bundled import ROOT
from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import WireClient

SERVICES = ("auth", "presence", "persistence", "edge")
EXIT_CONFIG = 2


@pytest.fixture(scope="module")
def rotating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers know the new token and the old one.

    `edge-1` still shows the old one, `edge-2` the new one already.
    """
    folder = tmp_path_factory.mktemp("secrets")
    for name in ("old", "new", "foreign"):
        (folder / name).write_text(f"{name}-{secrets.token_hex(16)}\n")
    both = {"SERVICE_TOKEN_FILE": str(folder / "new"), "SERVICE_TOKEN_PREVIOUS_FILE": str(folder / "old")}
    environment_of = dict.fromkeys(("auth", "presence", "persistence"), both) | {
        f"edge-{number}": {"SERVICE_TOKEN_FILE": str(folder / name)}
        for number, name in enumerate(("old", "new", "foreign"), start=1)
    }
    with Stack(edges=3, environment_of=environment_of) as running:
        yield running


@pytest.mark.parametrize("edge", [0, 1], ids=["old", "new"])
async def test_while_the_token_is_rotated_edges_with_either_reach_all_services(rotating: Stack, edge: int) -> None:
    body = {"username": f"user-{secrets.token_hex(4)}", "password": "correct horse battery"}
    async with httpx.AsyncClient(base_url=rotating.http_urls[edge], timeout=10) as http:
        assert (await http.post("/auth/register", json=body)).status_code == 200  # auth
    async with WireClient(rotating.ws_urls[edge]) as client:
        await client.connect(rotating.token("ann"))
        channel = f"chat:{secrets.token_hex(4)}"
        await client.subscribe(channel)
        await client.publish(channel, 1)  # persistence
        assert len((await client.call(presence={"channel": channel}))["presence"]) == 1  # presence


async def test_an_edge_with_another_token_reaches_none(rotating: Stack) -> None:
    body = {"username": f"user-{secrets.token_hex(4)}", "password": "correct horse battery"}
    async with httpx.AsyncClient(base_url=rotating.http_urls[2], timeout=10) as http:
        assert (await http.post("/auth/register", json=body)).status_code >= 400
    async with WireClient(rotating.ws_urls[2]) as client:
        await client.connect(rotating.token("ann"))
        assert "code" in await client.error(subscribe={"channel": f"chat:{secrets.token_hex(4)}"})


def start(service: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a service that ought to end by itself."""
    own = {"AUTH_DB": str(folder / "auth.sqlite3"), "PERSISTENCE_DB": str(folder / "log.sqlite3")}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "proto" / "gen")))
    return subprocess.run(
        [sys.executable, "-P", "-m", f"services.{service}"],
        env={**clean_environment(), "PYTHONPATH": paths, **own, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", SERVICES)
async def test_a_password_in_two_places_ends_the_start_with_one_line_that_names_both(
    tmp_path: Path, service: str
) -> None:
    path = tmp_path / "redis_password"
    path.write_text("from-the-file")
    environment = {"REDIS_URL": "redis://edge:from-the-url@127.0.0.1:1/0", "REDIS_PASSWORD_FILE": str(path)}
    ended = await asyncio.to_thread(start, service, tmp_path, **environment)
    assert ended.returncode == EXIT_CONFIG
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"thalamus {service}: REDIS_URL and REDIS_PASSWORD_FILE both give a password")
    assert "from-the" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("service", ["auth", "presence", "persistence"])
async def test_an_older_token_without_a_present_one_ends_the_start(tmp_path: Path, service: str) -> None:
    path = tmp_path / "older"
    path.write_text("older")
    ended = await asyncio.to_thread(start, service, tmp_path, SERVICE_TOKEN_PREVIOUS_FILE=str(path))
    assert ended.returncode == EXIT_CONFIG
    assert ended.stderr.splitlines()[-1].startswith(f"thalamus {service}: SERVICE_TOKEN_PREVIOUS_FILE needs ")


async def test_proxies_that_are_none_end_the_start_of_an_edge(tmp_path: Path) -> None:
    for environment in ({"EDGE_TRUSTED_PROXIES": "balancer"}, {"EDGE_PROXY_PROTOCOL": "true"}):
        ended = await asyncio.to_thread(start, "edge", tmp_path, **environment)
        assert ended.returncode == EXIT_CONFIG
        assert f"thalamus edge: {next(iter(environment))}" in ended.stderr
