"""Follows a conversation as an SDK does, and keeps what it was given.

It recovers after every cut. It speaks the protocol by hand, so that a test sees every frame of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.chat_client import ChatClient
from tests.support.wire_client import JsonObject, WireError

NO_LONGER_A_MEMBER = 2100
INSUFFICIENT_STATE = 2500
_AGAIN_S = 0.1


@dataclass
class Heard:
    """What a follower was given, over all its connections."""

    publications: list[JsonObject] = field(default_factory=list)
    unsubscribed: tuple[int, str] | None = None  # code and reason of the end of the membership
    refused: int | None = None  # code with which it may not come back
    not_recovered: int = 0
    behind_the_end: list[JsonObject] = field(default_factory=list)  # what came after `unsubscribed`

    @property
    def offsets(self) -> list[int]:
        return [publication["offset"] for publication in self.publications]


class Follower:
    """One subscription of a user that lives as long as it may; a context manager.

    Args:
        url: Of the edge.
        token: A connection token.
        channel: The conversation.
        since: Where to recover from at first; None: begin at the present.
    """

    def __init__(
        self, url: str, token: Callable[[], str], channel: str, *, since: tuple[int, str] | None = None
    ) -> None:
        self._url, self._token, self.channel = url, token, channel
        self._position = since
        self.heard = Heard()
        self.is_live = asyncio.Event()
        self.failure: BaseException | None = None
        self._client: ChatClient | None = None
        self._taken = 0
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def cut(self) -> None:
        """Reset the connection; it comes back by itself."""
        if self._client is not None:
            self._client.abort()

    async def until(self, condition: Callable[[Heard], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait until it is so."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not condition(self.heard):
            if self._task.done():
                self._task.result()
            assert asyncio.get_running_loop().time() < deadline, (
                f"not {what} in time: {self.heard.offsets[-5:]}, {self.heard.unsubscribed}, {self.heard.refused}"
            )
            await asyncio.sleep(0.01)

    async def until_offset(self, offset: int) -> None:
        """Wait until everything up to an offset was heard."""
        await self.until(lambda heard: bool(heard.offsets) and heard.offsets[-1] >= offset, f"at {offset}")

    async def _run(self) -> None:
        while self.heard.refused is None and self.heard.unsubscribed is None:
            with contextlib.suppress(WireError, OSError, TimeoutError, EOFError):
                async with ChatClient(self._url, deadline_s=20) as client:
                    self._client, self._taken = client, 0
                    await client.connect(self._token())
                    while await self._subscribed(client):
                        await asyncio.sleep(0)
            self.is_live.clear()
            await asyncio.sleep(_AGAIN_S)

    async def _subscribed(self, client: ChatClient) -> bool:
        """Subscribe, and follow until it ends; return whether to subscribe again."""
        members: JsonObject = {}
        if self._position is not None:
            members = {"recover": True, "offset": self._position[0], "epoch": self._position[1]}
        reply = await client.try_subscribe(self.channel, **members)
        if "error" in reply:
            if reply["error"]["code"] == 100:
                return True
            self.heard.refused = reply["error"]["code"]
            return False
        result = reply["subscribe"]
        if members and not result.get("recovered"):
            self.heard.not_recovered += 1
        for publication in result.get("publications", ()):
            self._take(publication, result["epoch"])
        if not members or not result.get("publications"):
            self._position = (result.get("offset", 0), result["epoch"])
        self.is_live.set()
        while True:
            push = await client.push(self.channel, deadline_s=3_600)
            if "pub" in push:
                self._take(push["pub"], result["epoch"])
            if "unsubscribe" in push:
                self.is_live.clear()
                code = push["unsubscribe"]["code"]
                if code == INSUFFICIENT_STATE:
                    return True
                self.heard.unsubscribed = (code, push["unsubscribe"]["reason"])
                await asyncio.sleep(1)
                self.heard.behind_the_end += client.pushes(self.channel)[self._pushes_taken(client) :]
                return False

    def _pushes_taken(self, client: ChatClient) -> int:
        """How many pushes there were up to the unsubscribe."""
        pushes = client.pushes(self.channel)
        return next(at for at, push in enumerate(pushes) if "unsubscribe" in push) + 1

    def _take(self, publication: JsonObject, epoch: str) -> None:
        self.heard.publications.append(publication)
        self._position = (publication["offset"], epoch)
