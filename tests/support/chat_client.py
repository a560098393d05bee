"""Who takes part in conversations: a client by hand, and a backend."""

from __future__ import annotations

import asyncio
import json
import uuid
from types import TracebackType
from typing import Any, Self

import httpx

from services.persistence.chat.domain.fold import Entry
from tests.support.stack import Stack
from tests.support.wire_client import JsonObject, WireClient, WireError

_TRIES_FOR_S = 30.0
UNAVAILABLE = 100


class Refused(AssertionError):
    """A call was refused; `code` says how."""

    def __init__(self, method: str, error: JsonObject) -> None:
        super().__init__(f"{method}: {error}")
        self.code: int = error["code"]
        self.error = error


class ChatClient(WireClient):
    """A client of an edge that knows the methods on conversations."""

    async def do(self, method: str, **params: Any) -> JsonObject:
        """Call a method; repeats while it is unavailable.

        Raises:
            Refused: the reply was an error.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TRIES_FOR_S
        while True:
            reply = await self.reply(await self.post(rpc={"method": method, "data": params}))
            if "rpc" in reply:
                result: JsonObject = reply["rpc"]["data"]
                return result
            if reply["error"]["code"] != UNAVAILABLE or loop.time() > deadline:
                raise Refused(method, reply["error"])
            await asyncio.sleep(0.05)

    async def refused(self, method: str, **params: Any) -> int:
        """The code with which a method is refused."""
        try:
            result = await self.do(method, **params)
        except Refused as refused:
            return refused.code
        raise WireError(f"{method} was answered with {result}")

    async def try_subscribe(self, channel: str, **members: Any) -> JsonObject:
        """The reply to a subscribe, a result or an error; repeats while it is unavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TRIES_FOR_S
        while True:
            reply = await self.reply(await self.post(subscribe={"channel": channel, **members}))
            if reply.get("error", {}).get("code") != UNAVAILABLE or loop.time() > deadline:
                return reply
            await asyncio.sleep(0.05)

    def heard(self, channel: str) -> list[JsonObject]:
        """Publications of a channel so far, in order of their arrival."""
        return [push["pub"] for push in self.pushes(channel, "pub")]


def entry_of(publication: JsonObject) -> Entry:
    """The entry of a log that a publication of the wire is."""
    return Entry(
        publication["offset"],
        publication.get("info", {}).get("user", ""),
        int(publication.get("time") or publication.get("tags", {}).get("time", 0)),
        json.dumps(publication["data"]).encode(),
    )


class Backend:
    """Calls of the server API on one edge; a context manager."""

    def __init__(self, stack: Stack, edge: int = 0) -> None:
        headers = {"X-API-Key": stack.api_key}
        self.http = httpx.AsyncClient(base_url=stack.http_urls[edge], headers=headers, timeout=10)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def raw(self, method: str, user: str = "", /, **params: Any) -> JsonObject:
        """The answer to a call, as a user or the platform: `result` or `error`."""
        body = {**params, **({"as": user} if user else {})}
        response = await self.http.post(f"/api/{method.replace('.', '_')}", json=body)
        assert response.status_code == 200, response.text
        answer: JsonObject = response.json()
        return answer

    async def do(self, method: str, user: str = "", /, **params: Any) -> JsonObject:
        """Call a method as a user, or as the platform; repeats while it is unavailable.

        Raises:
            Refused: the answer was an error.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TRIES_FOR_S
        while True:
            try:
                answer = await self.raw(method, user, **params)
            except httpx.TransportError:
                answer = {"error": {"code": UNAVAILABLE}}
            if "result" in answer:
                result: JsonObject = answer["result"]
                return result
            if answer["error"]["code"] != UNAVAILABLE or loop.time() > deadline:
                raise Refused(method, answer["error"])
            await asyncio.sleep(0.05)

    async def refused(self, method: str, user: str = "", /, **params: Any) -> int:
        """The code with which a method is refused."""
        try:
            result = await self.do(method, user, **params)
        except Refused as refused:
            return refused.code
        raise AssertionError(f"{method} was answered with {result}")

    async def group(self, *members: str, **settings: Any) -> str:
        """Create a group; the first member owns it."""
        made = await self.do(
            "conversations.create", members[0], type="group", users=list(members[1:]), settings=settings
        )
        channel: str = made["channel"]
        return channel

    async def log(self, channel: str) -> list[JsonObject]:
        """All publications of a log, by pages of the history."""
        found: list[JsonObject] = []
        since: JsonObject = {}
        while True:
            answer = await self.raw("history", channel=channel, limit=1_000, **since)
            page = answer["result"]["publications"]
            found += page
            if not page:
                return found
            since = {"since": {"offset": found[-1]["offset"], "epoch": answer["result"]["epoch"]}}


def some_key() -> str:
    """An idempotency key that nobody else has."""
    return uuid.uuid4().hex
