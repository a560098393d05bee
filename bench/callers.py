"""Connections that call methods, beside those of the load generator."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from bench.load.frames import sign_token
from bench.servers.target import Target

MESSAGE = '{"kind":"message","text":"' + "x" * 73 + '","meta":{"t":"@%d"}}'  # as long as the others': 128 bytes
NO_LIMITS = {
    "EDGE_COMMANDS_PER_S": "0",
    "EDGE_CHANGES_PER_USER_PER_S": "0",
    "EDGE_CONVERSATIONS_PER_USER_PER_H": "0",
    "EDGE_INVITES_PER_USER_PER_H": "0",
    "EDGE_MARKERS_PER_USER_PER_S": "0",
    "EDGE_MESSAGES_PER_USER_PER_S": "0",
    "EDGE_REACTIONS_PER_USER_PER_S": "0",
}
ADDED_AT_ONCE = 100  # users that one call may add


class Caller:
    """One connection that calls methods.

    Whatever its owner does, it reads: pings are answered, and what the server sends besides is dropped.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}

    async def run(self) -> None:
        """Read until the connection ends; then whoever waits for a reply is told."""
        try:
            while True:
                for line in str(await self._socket.recv()).split("\n"):
                    reply = json.loads(line)
                    if not reply:
                        await self._socket.send("{}")
                    elif (asked := self._asked.pop(reply.get("id", 0), None)) is not None and not asked.done():
                        asked.set_result(reply)
        except ConnectionClosed as error:
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(error)

    async def ask(self, **request: Any) -> Any:
        """The result of a command.

        Raises:
            click.ClickException: it was refused.
        """
        number = next(self._ids)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, **request}))
        reply = await asked
        if "error" in reply:
            raise click.ClickException(f"{request} was answered with {reply['error']}")
        return next(value for name, value in reply.items() if name != "id")

    async def call(self, method: str, **params: Any) -> Any:
        """The result of a method on conversations."""
        return (await self.ask(rpc={"method": method, "data": params}))["data"]


@asynccontextmanager
async def caller(target: Target, user: str, number: int = 0) -> AsyncIterator[Caller]:
    """Context manager: a user's connection to the edge `number`, counted round."""
    urls = target.where.urls
    async with open_websocket(urls[number % len(urls)], max_size=None, ping_interval=None, proxy=None) as socket:
        made = Caller(socket)
        reading = asyncio.create_task(made.run())
        try:
            await made.ask(connect={"token": sign_token(target.where.secret, user)})
            yield made
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def new_groups(target: Target, clients: int, count: int) -> list[str]:
    """Channels of new groups.

    Client i of the load is a member of number i mod `count`, as it is in channels.
    """
    made = []
    for number in range(count):
        members = [f"user-{at}" for at in range(number, clients, count)]
        async with caller(target, members[0]) as owner:
            made.append((await owner.call("conversations.create", type="group", users=members[1:]))["channel"])
    return made
