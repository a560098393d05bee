"""Persistence as processes, with conversations: Redis, one store, replicas.

Tests call `ChatService` as edges do, and say to which replica each call goes. What is read back is the log, which a
test folds by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx

from cli.bundled import ROOT
from services.persistence.chat.domain.fold import Entry
from services.shared.errors import Unavailable
from services.shared.rpc.batch_stream import BatchStream
from services.shared.rpc.replicas import Replicas
from tests.support.dynamodb_tables import environment_on_dynamodb
from tests.support.faults import free_port
from tests.support.redis import RedisServer
from thalamus.chat.v1 import chat_pb2 as chat
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub
from thalamus.common.v1.common_pb2 import ClientInfo, Publication
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

OPTIONS = chat.NamespaceOptions(
    history_size=1_000, history_ttl_s=86_400, feed=False, group_max_members=1_000, max_data_bytes=32_768
)
_STARTS_WITHIN_S = 90.0
_APPEND_S = 2.8
_CALL_S = 5.0
_GIVES_UP_S = 30.0
_PAGE = 10_000
_REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of an event.

    `code` and `why`: it was refused. Otherwise it stands at `offset`; `void` says why it changes nothing.
    """

    offset: int = 0
    epoch: str = ""
    void: str = ""
    code: int = 0
    why: str = ""
    repeated: bool = False

    @property
    def applies(self) -> bool:
        return self.offset > 0 and not self.void


@dataclass(frozen=True)
class Called:
    """What a method returned, or why it was refused."""

    result: dict[str, Any]
    code: int = 0
    why: str = ""


class Patience:
    """When calls give up: 30 s after they began, or after the end of the last trouble.

    While one trouble follows another a call may find no moment to get through; once there is no more, it must.
    """

    def __init__(self) -> None:
        self._disturbed, self._troubles = 0.0, 0

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """Context manager: something is down meanwhile."""
        self._troubles += 1
        try:
            yield
        finally:
            self._troubles -= 1
            self._disturbed = time.monotonic()

    def ends(self, began: float) -> bool:
        """Whether a call that began then gives up; by the monotonic clock."""
        return not self._troubles and time.monotonic() > max(began, self._disturbed) + _GIVES_UP_S


class Replica:
    """One `python -m services.persistence`, and a client of it."""

    def __init__(self, environment: dict[str, str], log: Path, patience: Patience) -> None:
        self._patience = patience
        self.port, self._internal = free_port(), free_port()
        self._log = log
        self._environment = {
            **environment,
            "PERSISTENCE_GRPC_PORT": str(self.port),
            "PERSISTENCE_INTERNAL_PORT": str(self._internal),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._replicas: Replicas
        self._events: BatchStream[chat.EventItem, chat.EventResult]
        self._checks: BatchStream[chat.CheckItem, chat.CheckResult]

    @property
    def internal_url(self) -> str:
        return f"http://127.0.0.1:{self._internal}"

    def logs(self) -> str:
        return self._log.read_text()

    async def start(self) -> None:
        """Return once it is ready and the client is connected."""
        await self.spawn()
        self._replicas = Replicas(f"127.0.0.1:{self.port}", service_token=None, service="edge")
        self._events = BatchStream(
            self._replicas,
            open=lambda channel: ChatServiceStub(channel).Append,
            pack=lambda items: chat.EventBatch(items=items),
            unpack=lambda reply: (reply.taken, [(result.item, result) for result in reply.results]),
            size=lambda item: item.ByteSize(),
            deadline_s=_APPEND_S,
        )
        self._checks = BatchStream(
            self._replicas,
            open=lambda channel: ChatServiceStub(channel).Check,
            pack=lambda items: chat.CheckBatch(items=items),
            unpack=lambda reply: (reply.taken, [(result.item, result) for result in reply.results]),
            size=lambda item: item.ByteSize(),
            deadline_s=_APPEND_S,
        )
        await self._replicas.start()
        await self._events.start()
        await self._checks.start()

    async def spawn(self) -> None:
        """Start the process, and wait until it is ready."""
        process = self._process = self._run()
        deadline = time.monotonic() + _STARTS_WITHIN_S
        async with httpx.AsyncClient(timeout=1) as client:
            while True:
                assert process.poll() is None, self.logs()
                assert time.monotonic() < deadline, self.logs()
                try:
                    if (await client.get(f"{self.internal_url}/readyz")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.03)

    def _run(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "services.persistence"]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def kill9(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def close(self) -> None:
        await self._events.close()
        await self._checks.close()
        await self._replicas.close()
        self.kill9()

    # Calls. `patient`: repeat under the same key until the outcome is known.

    async def append(
        self, channel: str, author: str, event: Any, *, key: str = "", patient: bool = True, client: str = ""
    ) -> Outcome:
        """Append an event (an object, or bytes) of an author; empty: the platform.

        Raises:
            Unavailable: the outcome is unknown.
        """
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        publication = Publication(data=data, id=os.urandom(16))
        if author:
            publication.info.CopyFrom(ClientInfo(user=author, client=client or str(uuid.uuid4())))
        item = chat.EventItem(
            channel=channel,
            publication=publication.SerializeToString(),
            publication_id=publication.id,
            key_user=author,
            key=key,
            options=OPTIONS,
        )
        began = time.monotonic()
        while True:
            try:
                result: chat.EventResult = await self._events.submit(item)
            except Unavailable:
                result = chat.EventResult(refusal=chat.Refusal(code=100))
            if result.refusal.code != 100:
                break
            if not patient or self._patience.ends(began):
                raise Unavailable(f"no outcome of {data[:100]!r}")
            await asyncio.sleep(0.02)
        if result.HasField("refusal"):
            return Outcome(code=result.refusal.code, why=result.refusal.why)
        return Outcome(
            offset=result.position.offset,
            epoch=result.position.epoch,
            void=result.void,
            repeated=result.repeated_key,
        )

    async def check(self, channel: str, user: str) -> chat.CheckResult:
        """What a user may do."""
        began = time.monotonic()
        while True:
            try:
                result: chat.CheckResult = await self._checks.submit(chat.CheckItem(channel=channel, user=user))
                if not result.unavailable:
                    return result
            except Unavailable:
                pass
            if self._patience.ends(began):
                raise Unavailable(f"no answer about {user} in {channel}")
            await asyncio.sleep(0.02)

    async def call(self, method: str, as_user: str, /, *, key: str = "", **params: Any) -> Called:
        """Call a method as a user; empty: the platform. Repeats while it is unavailable."""
        request = chat.CallRequest(
            method=method,
            params=json.dumps(params).encode(),
            key_user=as_user,
            key=key,
            namespace="conv",
            options=OPTIONS,
        )
        if as_user:
            request.info.CopyFrom(ClientInfo(user=as_user, client=str(uuid.uuid4())))

        async def call(replica: grpc.aio.Channel) -> chat.CallResponse:
            return await ChatServiceStub(replica).Call(request, timeout=_CALL_S)

        began = time.monotonic()
        while True:
            replied = await self._repeated(call)
            if replied.refusal.code != 100 or self._patience.ends(began):
                break
            await asyncio.sleep(0.02)
        if replied.HasField("refusal"):
            return Called({}, replied.refusal.code, replied.refusal.why)
        return Called(json.loads(replied.result))

    async def read(self, channel: str, since: int = 0) -> list[tuple[Entry, int]]:
        """All of a log above an offset that is readable, with the flags of each entry."""
        found: list[tuple[Entry, int]] = []

        async def page(replica: grpc.aio.Channel) -> list[pb.StoredPublication]:
            request = pb.ReadRequest(
                channel=channel, since_offset=found[-1][0].offset if found else since, limit=_PAGE, counts=True
            )
            pages = PersistenceServiceStub(replica).Read(request, timeout=_CALL_S)
            return [row async for page in pages for row in page.publications]

        while rows := await self._repeated(page):
            for row in rows:
                publication = Publication.FromString(row.publication)
                entry = Entry(row.offset, publication.info.user, publication.time_ms, publication.data)
                found.append((entry, row.flags))
        return found

    async def log(self, channel: str, since: int = 0) -> list[Entry]:
        """The same without flags."""
        return [entry for entry, _ in await self.read(channel, since)]

    async def _repeated(self, call: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        """Call until the replica answers."""
        began = time.monotonic()
        while True:
            try:
                return await self._replicas.call(call, _CALL_S)
            except (Unavailable, grpc.aio.AioRpcError) as error:
                code = error.code() if isinstance(error, grpc.aio.AioRpcError) else grpc.StatusCode.UNAVAILABLE
                if code not in _REPEATED or self._patience.ends(began):
                    raise
            await asyncio.sleep(0.02)


class ChatSite:
    """A Redis, a store, and replicas of persistence on both."""

    def __init__(self, redis: RedisServer, environment: dict[str, str], folder: Path, count: int) -> None:
        self.redis = redis
        self.patience = Patience()
        logs = [folder / f"persistence-{number + 1}.log" for number in range(count)]
        self.replicas = [Replica(environment, log, self.patience) for log in logs]
        self._numbers = itertools.count(1)

    def any(self, number: int) -> Replica:
        """Replicas in turn."""
        return self.replicas[number % len(self.replicas)]

    async def group(self, *members: str, **settings: Any) -> str:
        """Create a group; the first member owns it."""
        users = list(members[1:])
        made = await self.replicas[0].call(
            "conversations.create", members[0], key=uuid.uuid4().hex, type="group", users=users, settings=settings
        )
        assert not made.code, made
        channel: str = made.result["channel"]
        return channel


@asynccontextmanager
async def chat_site(store: str, replicas: int, *, address: str = "", **environment: str) -> AsyncIterator[ChatSite]:
    """Context manager: persistence on SQLite or DynamoDB, ready.

    `address`: of moto's server.
    """
    with tempfile.TemporaryDirectory(prefix="thalamus-chat-") as name:
        folder = Path(name)
        base = {name: value for name, value in os.environ.items() if name != "SERVICE_TOKEN_FILE"}
        redis = RedisServer()
        redis.start(whole=False)
        base |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")]), "REDIS_URL": redis.url}
        base |= {"CHANNELS_FILE": str(ROOT / "config" / "channels.toml"), "PERSISTENCE_STORE": store}
        if store == "sqlite":
            base["PERSISTENCE_DB"] = str(folder / "persistence.sqlite3")
        else:
            base |= await environment_on_dynamodb(address, "persistence")
        site = ChatSite(redis, base | environment, folder, replicas)
        started: list[Replica] = []
        try:
            for replica in site.replicas:
                started.append(replica)
                await replica.start()
            yield site
        finally:
            for replica in started:
                if "Traceback" in replica.logs():
                    print(replica.logs())
                await replica.close()
            redis.close()
