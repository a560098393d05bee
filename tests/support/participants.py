"""Users of a conversation with the official SDKs, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from services.persistence.chat.domain.fold import Entry
from tests.support.chat_client import entry_of
from tests.support.wire_client import JsonObject

_HERE = Path(__file__).parents[1] / "integration" / "sdk"
_LIMIT_S = 30.0


def commands(javascript: list[str]) -> dict[str, list[str]]:
    """How to start each SDK; `javascript` is the fixture, which installs its packages."""
    return {
        "js": [javascript[0], str(_HERE / "participant.mjs")],
        "python": [sys.executable, str(_HERE / "participant.py")],
    }


class Participant:
    """Somebody with an SDK; a context manager. What the SDK tells is kept in `told`."""

    def __init__(self, command: list[str], url: str, token: str, channel: str, *, encoding: str = "json") -> None:
        self._command, self._encoding = command, encoding
        self._config = {"url": url, "token": token, "channel": channel}
        self.told: list[JsonObject] = []
        self._answers: asyncio.Queue[JsonObject] = asyncio.Queue()
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None]
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        environment = {**os.environ, "SDK_ENCODING": self._encoding}
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, env=environment, limit=1 << 24
        )
        self._reading = asyncio.create_task(self._read())
        await self._say(self._config)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(30):
                await self._say({"do": "end"})
                await self._process.wait()
        except (TimeoutError, ConnectionError):
            pass
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            await self._reading

    @property
    def publications(self) -> list[JsonObject]:
        """In the order in which the SDK told them."""
        return [event["pub"] for event in self.told if event["event"] == "publication"]

    @property
    def entries(self) -> list[Entry]:
        """The same as entries of the log."""
        return [entry_of(publication) for publication in self.publications]

    def events(self, name: str) -> list[JsonObject]:
        return [event for event in self.told if event["event"] == name]

    async def wait(self, name: str, count: int = 1) -> JsonObject:
        """Wait until so many events of this name were told; the last of them."""
        async with asyncio.timeout(_LIMIT_S):
            while len(self.events(name)) < count:
                await self._next()
        return self.events(name)[count - 1]

    async def until_offset(self, offset: int) -> None:
        """Wait until the SDK has told what stands at an offset."""
        async with asyncio.timeout(_LIMIT_S):
            while not (found := self.publications) or found[-1]["offset"] < offset:
                await self._next()

    async def publish(self, data: JsonObject) -> int:
        """Publish; the code of the error, 0 without one."""
        code: int = (await self._ask({"do": "publish", "data": data})).get("code", 0)
        return code

    async def do(self, method: str, **params: Any) -> JsonObject:
        """Call a method; an error fails."""
        answer = await self._ask({"do": "rpc", "method": method, "data": params})
        assert "result" in answer, (method, answer)
        result: JsonObject = answer["result"]
        return result

    async def _ask(self, command: JsonObject) -> JsonObject:
        await self._say(command)
        async with asyncio.timeout(_LIMIT_S):
            return await self._answers.get()

    async def _say(self, line: JsonObject) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()

    async def _next(self) -> None:
        assert self._process.returncode is None, "the SDK's process ended"
        self._news.clear()
        await self._news.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            event = json.loads(line)
            if event["event"] == "answer":
                self._answers.put_nowait(event)
            else:
                self.told.append(event)
            self._news.set()
