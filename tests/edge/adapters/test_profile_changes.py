"""An edge follows the changes that auth tells; the servers are real.

They tell what the test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from services.auth.domain.profile_changes import ProfileChanges as Kept
from services.auth.domain.user_ports import ProfileVersion
from services.auth.user_service import UserServicer
from services.edge.adapters import profile_changes
from services.edge.adapters.profile_changes import ProfileChanges
from services.shared.checks import MAX_USER_BYTES
from services.shared.process.cancellation import end_task
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import GrpcServer, start_grpc_server
from tests.support.faults import free_port
from tests.support.waiting import until
from thalamus.auth.v1 import users_pb2 as pb
from thalamus.auth.v1.users_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server

OF_BEFORE = object()


class Nothing:
    """Accounts that are not asked."""

    users = own = None


class Silent(UserServiceServicer):
    """Says one thing on each stream, and then nothing; or ends it."""

    def __init__(self, *, ends: bool = False) -> None:
        self.opened, self._ends = 0, ends

    async def WatchProfiles(self, request, context):  # type: ignore[no-untyped-def]
        self.opened += 1
        yield pb.ChangedProfiles(profiles=[pb.ChangedProfile(id="ann", version=self.opened)])
        if not self._ends:
            await asyncio.Event().wait()


class Site:
    """An address at which an auth runs, or not, and an edge that follows it."""

    def __init__(self, exits: AsyncExitStack) -> None:
        self._exits, self.port = exits, free_port()
        self.heard: list[tuple[str, int]] = []
        self._server: GrpcServer | None = None

    async def start(self, servicer: Any) -> None:
        def add(made: Any) -> None:
            if servicer is not OF_BEFORE:
                add_UserServiceServicer_to_server(servicer, made)

        self._server = await start_grpc_server(
            add, host="127.0.0.1", port=self.port, service_token=None, service="auth"
        )

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(0.0)

    async def follow(self) -> None:
        replicas = Replicas(f"127.0.0.1:{self.port}", service_token=None, service="test")
        await replicas.start()
        self._exits.push_async_callback(replicas.close)
        follower = ProfileChanges(replicas, lambda user, version: self.heard.append((user, version)))
        self._exits.push_async_callback(end_task, asyncio.create_task(follower.run()))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with _site() as made:
        yield made


@asynccontextmanager
async def _site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as exits:
        made = Site(exits)
        yield made
        if made._server is not None:  # noqa: SLF001
            await made.stop()


def auth(*changes: tuple[str, int]) -> tuple[Kept, UserServicer]:
    kept = Kept(None)  # type: ignore[arg-type]  # no store is asked
    kept.add([ProfileVersion(*change) for change in changes])
    return kept, UserServicer(Nothing(), kept)  # type: ignore[arg-type]  # nor are accounts


def heard(site: Site, *changes: tuple[str, int]) -> Callable[[], bool]:
    return lambda: set(changes) <= set(site.heard)


async def test_what_changed_while_no_auth_ran_is_heard_once_one_runs_again(site: Site) -> None:
    kept, servicer = auth(("ann", 3))
    await site.start(servicer)
    await site.follow()
    await until(heard(site, ("ann", 3)))
    kept.add([ProfileVersion("bob", 1)])
    await until(heard(site, ("bob", 1)))
    await site.stop()
    _, servicer = auth(("ann", 3), ("cid", 5))
    await site.start(servicer)
    await until(heard(site, ("cid", 5)))


async def test_the_longest_ids_that_there_may_be_fit_into_the_messages(site: Site) -> None:
    changes = [(f"{number:04}".ljust(MAX_USER_BYTES, "x"), 1) for number in range(1_100)]
    _, servicer = auth(*changes)
    await site.start(servicer)
    await site.follow()
    await until(lambda: len(site.heard) >= len(changes), 20)
    assert site.heard == changes


async def test_an_auth_of_before_is_asked_again_and_one_that_is_silent_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_changes, "_BEFORE_S", 0.05)
    monkeypatch.setattr(profile_changes, "SILENCE_S", 0.2)
    await site.start(OF_BEFORE)
    await site.follow()
    await asyncio.sleep(0.3)
    assert site.heard == []
    await site.stop()
    await site.start(Silent())  # type: ignore[abstract]
    await until(heard(site, ("ann", 1), ("ann", 2)), 20)


async def test_a_stream_that_ends_is_opened_again(site: Site) -> None:
    await site.start(Silent(ends=True))  # type: ignore[abstract]
    await site.follow()
    await until(heard(site, ("ann", 1), ("ann", 3)), 20)
