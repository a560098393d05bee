"""Asks a hook in this process: a function of an installed package.

A package offers it as an entry point of the group `thalamus.extensions`:

    async def handle(context, data): ...

`context` has what the question says; `data` is the data of the command as a Python value, or bytes if it is no JSON.
The function returns what a backend over HTTP answers, as a dict, or None, which changes nothing.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from services.edge.domain.hooks.answers import encoded_answer, read_answer
from services.edge.domain.hooks.model import Answer, Failure, HookFailed, HookRequest
from services.edge.domain.hooks.options import HookOptions
from services.shared.process.config import ConfigError

GROUP = "thalamus.extensions"


@dataclass(frozen=True, slots=True)
class ExtensionContext:
    """What an extension is told beside the data of the command.

    Members that do not belong to the event are empty. `info` is the JSON value of the connection's info, or None.
    """

    id: str
    event: str  # connect, refresh, subscribe, publish or rpc
    edge: str
    time_ms: int  # Unix time in milliseconds
    client: str
    user: str  # "": anonymous
    info: Any
    peer: str
    name: str
    headers: dict[str, str]
    has_token: bool
    expires_at: float | None  # Unix seconds
    channel: str
    method: str
    idempotency_key: str


class ExtensionBackend:
    """Implements `Backend` by calling a function."""

    def __init__(self, options: HookOptions) -> None:
        """Load the function.

        Raises:
            ConfigError: no installed package offers it, it can't be imported, or it is no coroutine function.
        """
        where = f"[hooks.{options.name}] extension"
        self._handle: Callable[[ExtensionContext, Any], Awaitable[Any]]
        found = importlib.metadata.entry_points(group=GROUP, name=options.extension)
        if not found:
            raise ConfigError(f"{where}: no installed package has the entry point {options.extension!r} of {GROUP}")
        try:
            self._handle = next(iter(found)).load()
        except Exception as error:  # whatever the package does when it is imported
            raise ConfigError(f"{where}: can't import it: {type(error).__name__}: {error}") from error
        if not inspect.iscoroutinefunction(self._handle):
            raise ConfigError(f"{where}: must be `async def handle(context, data)`")

    async def ask(self, request: HookRequest) -> Answer:
        context = ExtensionContext(
            id=request.id,
            event=request.event.value,
            edge=request.edge,
            time_ms=request.time_ms,
            client=request.client,
            user=request.user,
            info=_value(request.info),
            peer=request.peer,
            name=request.name,
            headers=dict(request.headers),
            has_token=request.has_token,
            expires_at=request.expires_at,
            channel=request.channel,
            method=request.method,
            idempotency_key=request.idempotency_key,
        )
        try:
            answer = await self._handle(context, _value(request.data))
        except (Exception, SystemExit) as error:  # a timeout of its own is no question without an answer
            raise HookFailed(Failure.ERROR, f"{type(error).__name__}: {error}") from error
        return read_answer(request.event, encoded_answer(answer))

    async def probe(self) -> bool:
        await asyncio.sleep(0)  # nothing can be asked: the next question shows whether it goes on
        return True

    async def close(self) -> None:
        pass


def _value(text: bytes) -> Any:
    """Return a payload as a Python value: bytes if it is no JSON, None if empty."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
