"""The platform as `thalamus dev` runs it, with the log of Redis on disk."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.load.commands import Where
from bench.servers.target import Target
from cli.bundled import ROOT
from cli.stack.run import StackSettings, running_stack

NAME = "thalamus"
_OURS = ("AUTH_", "PRESENCE_", "PERSISTENCE_", "EDGE_", "REDIS_", "THALAMUS_")
_SERVICES = ("AUTH", "PRESENCE", "PERSISTENCE")
_PORTS = [
    *(f"{service}_{kind}_PORT" for service in _SERVICES for kind in ("GRPC", "INTERNAL")),
    "EDGE_PORT",
    "EDGE_INTERNAL_PORT",
    "REDIS_PORT",
]
_START_S = 60.0


async def _never_ending(name: str, seconds: float) -> None:
    """The pause before a restart: what died stays dead, and the round fails."""
    await asyncio.Event().wait()


@asynccontextmanager
async def platform(
    *,
    edges: int = 2,
    environment: Mapping[str, str] | None = None,
    channels: str = "",
    prepare: Callable[[Path], Awaitable[None]] | None = None,
) -> AsyncIterator[Target]:
    """Run the platform as it is shipped, on free ports, with data of its own.

    `channels`: more namespaces, in TOML. `prepare` may put files into the folder of the data, before it starts.
    """
    data = Path(tempfile.mkdtemp(prefix="thalamus-bench-"))
    secret = secrets.token_urlsafe(32)
    secret_file = data / "hs256.secret"
    secret_file.write_text(secret)
    channels_file = data / "channels.toml"
    channels_file.write_text((ROOT / "config" / "channels.toml").read_text() + channels)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    settings = StackSettings(
        data=data,
        channels_file=channels_file,
        environment={
            **inherited,
            **dict.fromkeys(_PORTS, "0"),
            "AUTH_HS256_SECRET_FILE": str(secret_file),
            **(environment or {}),
        },
        edges=edges,
        start_timeout_s=_START_S,
    )
    try:
        if prepare is not None:
            await prepare(data)
        async with running_stack(settings, on_line=_ignore_line, on_event=_ignore_event, pause=_never_ending) as (
            supervisor,
            plan,
        ):
            yield Target(
                name=NAME,
                where=Where(
                    dialect="centrifugal", secret=secret, urls=[edge.websocket for edge in plan.edge_addresses()]
                ),
                pids=supervisor.pids,
                internal=plan.internal_urls(),
                redis_url=plan.redis_url(),
            )
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _ignore_line(name: str, line: bytes) -> None:
    pass


def _ignore_event(level: str, name: str, text: str) -> None:
    pass
