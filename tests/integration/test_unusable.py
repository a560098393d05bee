"""What a platform stands on is busy, of a kind that is not supported, or gone.

It waits, says so, or refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import redis.asyncio
from redis import exceptions

from cli.bundled import ROOT
from tests.support.faults import free_port
from tests.support.redis import RedisServer
from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import WireClient, WireError

SERVICES = ("auth", "presence", "persistence", "edge")
ENDLESS = "while true do end"


class Service:
    """One process, with a Redis of the test's choice."""

    def __init__(self, name: str, redis_url: str, data: Path) -> None:
        self.name, self._redis_url, self._data = name, redis_url, data
        self._port = free_port()
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        environment = {
            **clean_environment(),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")]),
            "REDIS_URL": self._redis_url,
            f"{self.name.upper()}_INTERNAL_PORT": str(self._port),
            "AUTH_DB": str(self._data / "auth.sqlite3"),
            "PERSISTENCE_DB": str(self._data / "persistence.sqlite3"),
            "CHANNELS_FILE": str(ROOT / "config" / "channels.toml"),
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"services.{self.name}", env=environment, stderr=asyncio.subprocess.PIPE
        )

    async def status(self) -> int:
        """Of /readyz; 0: nobody answers."""
        async with httpx.AsyncClient(trust_env=False) as http:
            try:
                return (await http.get(f"http://127.0.0.1:{self._port}/readyz")).status_code
            except httpx.HTTPError:
                return 0

    async def close(self) -> str:
        if self.process.returncode is None:
            self.process.kill()
        _, said = await self.process.communicate()
        return said.decode()


async def is_busy(admin: redis.asyncio.Redis) -> bool:
    try:
        await admin.get("t:x")
    except exceptions.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@contextlib.asynccontextmanager
async def busy(port: int) -> AsyncIterator[None]:
    """Somebody's script that never ends; ended at last."""
    async with (
        redis.asyncio.Redis(port=port) as somebody,
        redis.asyncio.Redis(port=port) as admin,
    ):
        await admin.config_set("busy-reply-threshold", 50)
        script = asyncio.ensure_future(somebody.execute_command("EVAL", ENDLESS, 0))  # type: ignore[no-untyped-call]
        async with asyncio.timeout(30):
            while not await is_busy(admin):
                await asyncio.sleep(0.02)
        try:
            yield
        finally:
            await admin.script_kill()
            await asyncio.gather(script, return_exceptions=True)


async def test_a_start_waits_for_a_redis_that_is_busy(own_redis: RedisServer, tmp_path: Path) -> None:
    services = [Service(name, own_redis.url, tmp_path) for name in ("presence", "persistence")]
    async with busy(own_redis.port):
        for service in services:
            await service.start()
        async with asyncio.timeout(60):
            while not all([await service.status() == 503 for service in services]):
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert [await service.status() for service in services] == [503, 503]
        assert [service.process.returncode for service in services] == [None, None]
    async with asyncio.timeout(60):
        while not all([await service.status() == 200 for service in services]):
            await asyncio.sleep(0.05)
    for service in services:
        assert "Traceback" not in await service.close()


async def test_redis_in_cluster_mode_is_refused_by_name(tmp_path: Path) -> None:
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    try:
        server.start(whole=False)
        services = [Service(name, server.url, tmp_path) for name in SERVICES]
        for service in services:
            await service.start()
        for service in services:
            async with asyncio.timeout(60):
                await service.process.wait()
            said = await service.close()
            assert service.process.returncode == 2, said
            assert (
                said.strip()
                .splitlines()[-1]
                .startswith(f"thalamus {service.name}: REDIS_URL: this Redis runs in cluster")
            )
    finally:
        server.close()


async def test_while_it_runs() -> None:
    """Redis busy for longer than every deadline.

    Then the files of both stores are deleted.
    """
    with Stack(edges=1) as stack:
        pids = {name: stack.pid(name) for name in ("auth", "presence", "persistence", "edge-1")}
        async with (
            WireClient(stack.ws_urls[0], deadline_s=10) as ann,
            httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10, trust_env=False) as http,
        ):
            await ann.connect(stack.token("ann"))
            await ann.subscribe("chat:busy")
            await ann.publish("chat:busy", 1)
            async with busy(stack.plan.ports["redis", "REDIS_PORT"]):
                with pytest.raises(WireError):
                    await ann.call(publish={"channel": "chat:busy", "data": 2})
                await asyncio.sleep(1)
            async with asyncio.timeout(60):
                while True:
                    try:
                        await ann.call(publish={"channel": "chat:busy", "data": 3})
                        break
                    except WireError:
                        await asyncio.sleep(0.1)
            for name in ("auth", "persistence"):
                for file in stack.data.glob(f"{name}.sqlite3*"):
                    file.unlink()
            with pytest.raises(WireError):
                await ann.call(publish={"channel": "chat:busy", "data": 4})
            account = {"username": "user", "password": "correct horse battery"}
            assert (await http.post("/auth/register", json=account)).status_code in (500, 503)
            async with asyncio.timeout(30):
                for name in ("auth", "persistence"):
                    while (await http.get(f"{stack.internal_urls[name]}/readyz")).status_code != 503:
                        await asyncio.sleep(0.1)
            assert not list(stack.data.glob("*.sqlite3"))
        for name, pid in pids.items():
            assert "Traceback" not in "\n".join(stack.lines(name)), name
            assert stack.pid(name) == pid, "it did not end"
