"""deploy/images/healthcheck.py as a container runs it, here.

On this machine's port and folder.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from services.shared.process.internal_http import InternalHttp, start_internal_http
from tests.deploy.tools import ROOT

SCRIPT = ROOT / "deploy" / "images" / "healthcheck.py"


class Container:
    """The script with another port and another place for its mark."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "healthcheck.py"
        self.was_ready = folder / "was-ready"
        self.checks = {"redis": False}
        self.service: InternalHttp | None = None
        self.listens_on(1)

    def listens_on(self, port: int) -> None:
        text = SCRIPT.read_text(encoding="utf-8")
        assert text.count("PORT = 9100") == text.count('"/tmp/was-ready"') == 1
        text = text.replace("PORT = 9100", f"PORT = {port}").replace("/tmp/was-ready", str(self.was_ready))
        self._script.write_text(text, encoding="utf-8")

    async def start(self) -> None:
        self.service = await start_internal_http("127.0.0.1", 0, ready=lambda: self.checks)
        self.listens_on(self.service.port)

    async def stop(self) -> None:
        if self.service is not None:
            await self.service.close()

    async def is_healthy(self) -> bool:
        """With the options of the image's HEALTHCHECK."""
        process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", self._script)
        return await asyncio.wait_for(process.wait(), 30) == 0


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


async def test_a_container_is_healthy_once_it_was_ready_and_for_as_long_as_it_lives(container: Container) -> None:
    assert not await container.is_healthy()  # it does not listen yet
    await container.start()
    try:
        assert not await container.is_healthy()  # alive, and never ready: an update goes back
        assert not container.was_ready.exists()
        container.checks["redis"] = True
        assert await container.is_healthy()
        container.checks["redis"] = False
        assert await container.is_healthy()  # it waits for Redis: killing it would not help
    finally:
        await container.stop()
    assert not await container.is_healthy()


@pytest.mark.parametrize("response", [b"", b"nonsense", b"HTTP/1.1 500 \r\n\r\n", b"\xff\r\n"])
async def test_whatever_else_answers_is_not_healthy(container: Container, response: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        container.listens_on(server.sockets[0].getsockname()[1])
        assert not await container.is_healthy()
        container.was_ready.touch()
        assert not await container.is_healthy()


def test_the_image_runs_it_as_here_and_services_listen_where_it_asks() -> None:
    dockerfile = (ROOT / "deploy" / "images" / "Dockerfile").read_text(encoding="utf-8")
    assert 'CMD ["python", "-I", "-S", "/opt/thalamus/healthcheck.py"]' in dockerfile
    assert "COPY deploy/images/healthcheck.py /opt/thalamus/healthcheck.py" in dockerfile
