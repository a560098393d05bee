"""The stack that is attacked, its bystanders, and what must hold of its logs."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import redis.asyncio

from tests.support.stack import Stack
from tests.support.wire_client import WireClient

SERVICES = ("auth", "presence", "persistence", "edge-1", "edge-2")
ATTACKED = {"stored": "chat:bad", "hot": "bad"}
NEW = {"stored": "chat:", "hot": ""}  # what a new channel's name begins with
PAGE = 300  # publications of a history page
MAX_DATA = 32_768
LOT = 30_000
MARKER = f"BAD{secrets.token_hex(4)}"  # in names that must not come to exist
BAD_REQUEST = (3501, "bad request")


class Api:
    """The server API of one edge."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}, timeout=10)

    async def raw(self, method: str, body: str | bytes) -> httpx.Response:
        return await self.http.post(f"/api/{method}", content=body)

    async def call(self, method: str, **body: Any) -> Any:
        response = await self.http.post(f"/api/{method}", json=body)
        assert response.status_code == 200, response.text
        assert set(response.json()) == {"result"}, response.text
        return response.json()["result"]

    async def error(self, method: str, **body: Any) -> int:
        response = await self.http.post(f"/api/{method}", json=body)
        assert response.status_code == 200, response.text
        code: int = response.json()["error"]["code"]
        return code

    async def history(self, channel: str, limit: int = PAGE) -> list[Any]:
        page = await self.call("history", channel=channel, limit=limit)
        return [entry["data"] for entry in page["publications"]]


class Site:
    """The stack, an API client per edge, and the bystanders."""

    def __init__(self, stack: Stack, apis: list[Api], bystanders: list[WireClient]) -> None:
        self.stack = stack
        self.apis = apis
        self.bystanders = bystanders
        self.redis = redis.asyncio.Redis.from_url(stack.redis_url)
        self._tops = dict.fromkeys(ATTACKED.values(), 0)
        self._checks = 0

    async def check(self) -> None:
        """The bystanders are served, and have heard nothing since the last time."""
        self._checks += 1
        for channel in ATTACKED.values():
            speaker = self.bystanders[self._checks % 2]
            expected = self._tops[channel] + 1
            result = await speaker.publish(channel, {"unharmed": self._checks})
            assert result["offset"] == expected, f"{channel} holds something new"
            for bystander in self.bystanders:
                publication = (await bystander.push(channel))["pub"]
                assert (publication["data"], publication["offset"]) == ({"unharmed": self._checks}, expected)
            self._tops[channel] = expected

    @contextlib.asynccontextmanager
    async def client(self, edge: int = 0, user: str = "mallory", *channels: str, **claims: Any) -> AsyncIterator[Any]:
        async with WireClient(self.stack.ws_urls[edge]) as client:
            await client.connect(self.stack.token(user, **claims))
            for channel in channels:
                await client.subscribe(channel)
            yield client


def check_logs(stack: Stack) -> None:
    """Only whole JSON lines, no fault, nothing secret, and nobody died."""
    for name in SERVICES:
        records = []
        for text in stack.lines(name):
            if text.startswith("---"):
                assert text.startswith("--- INFO "), text
                continue
            record = json.loads(text)
            assert isinstance(record, dict), text
            records.append(record)
            assert {"ts", "level", "service", "logger", "msg"} <= set(record), text
            assert record["service"] == name.partition("-")[0], text
            assert record["level"] in ("DEBUG", "INFO", "WARNING"), text
            assert "exc" not in record, text
            assert "Traceback" not in text, text
            assert "exc_info" not in text, text
            assert "never retrieved" not in text, text
        assert records, f"{name} logged nothing: this test sees nothing"
        everything = "\n".join(stack.lines(name))
        assert stack.secret not in everything
        assert "thk_" not in everything
        assert "eyJ" not in everything  # how every token begins
    for text in stack.lines("redis"):
        assert not any(sign in text.lower() for sign in ("crash", "assert", "bug report", "script")), text


def command(name: str, body: str, number: str = "1000") -> str:
    return f'{{"id":{number},"{name}":{body}}}'


async def is_closed(site: Site, frame: str | bytes, *, text: bool = False, connect: bool = True, edge: int = 0) -> None:
    """A frame that is answered by 3501 and by nothing else.

    From a member of the attacked channels.
    """
    async with WireClient(site.stack.ws_urls[edge]) as client:
        if connect:
            await client.connect(site.stack.token("mallory"))
            for name in ATTACKED.values():
                await client.subscribe(name)
        seen = len(client.lines)
        if text:
            await client.socket.send(frame, text=True)
        else:
            await client.send_frame(frame)
        assert await client.expect_close() == BAD_REQUEST, frame[:200]
        assert client.lines[seen:] == []


def is_refused(response: httpx.Response) -> None:
    """The server API's word for what a WebSocket is closed for."""
    assert response.status_code in (200, 400), response.text
    assert response.json()["error"]["code"] == 107, response.text


def publish_of(name: str, data: bytes) -> bytes:
    return b'{"id":1000,"publish":{"channel":"%b","data":%b}}' % (name.encode(), data)


def carries(frames: list[str | bytes], data: bytes) -> bool:
    return any(b'{"data":' + data + b',"' in frame.encode() for frame in frames if isinstance(frame, str))
