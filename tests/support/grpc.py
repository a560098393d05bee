"""A real gRPC server whose responses, and addresses, are what a test wants."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable

import grpc

from services.shared.batching.linger import Linger
from services.shared.errors import Busy
from services.shared.rpc.batch_stream import BatchStream
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import GrpcServer, TlsPort, start_grpc_server
from services.shared.rpc.tls import ServiceIdentity
from thalamus.common.v1.common_pb2 import ItemStatus, Position
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import (
    PersistenceServiceServicer,
    PersistenceServiceStub,
    add_PersistenceServiceServicer_to_server,
)


class ScriptedLog(PersistenceServiceServicer):
    """A log whose result of each item has the item's key as the epoch.

    While `go` is cleared, results are held back.

    Those of the items `held` come with the answer of the item "release"; meanwhile they are said to be in hand.
    """

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.held: set[str] = set()
        self.delay_s = 0.0
        self.failure: Exception | None = None
        self.answers_wrongly = False
        self.cancelled = 0

    @property
    def keys(self) -> list[str]:
        return [key for batch in self.batches for key in batch]

    async def Append(self, request_iterator, context):  # type: ignore[no-untyped-def]
        try:
            numbers = itertools.count()
            late: list[pb.AppendResult] = []
            async for batch in request_iterator:
                self.batches.append([item.key for item in batch.items])
                if self.failure is not None:
                    raise self.failure
                await self.go.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                results = [
                    pb.AppendResult(
                        status=ItemStatus.ITEM_STATUS_OK,
                        position=Position(offset=1, epoch=item.key),
                        item=next(numbers) + 1_000 * self.answers_wrongly,
                    )
                    for item in batch.items
                ]
                late += [result for result in results if result.position.epoch in self.held]
                results = [result for result in results if result not in late]
                if "release" in self.batches[-1]:
                    results, late = results + late, []
                taken = sum(map(len, self.batches)) if late else 0
                yield pb.AppendResults(results=results, taken=taken)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def AppendQueued(self, request_iterator, context):  # type: ignore[no-untyped-def]
        async for results in self.Append(request_iterator, context):  # type: ignore[no-untyped-call]
            yield results

    async def Read(self, request, context):  # type: ignore[no-untyped-def]
        if self.failure is not None:
            raise self.failure
        for offset in range(1, request.limit + 1):
            yield pb.ReadPage(publications=[pb.StoredPublication(offset=offset)])

    async def Open(self, request, context):  # type: ignore[no-untyped-def]
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return pb.OpenResponse(top=Position(offset=7, epoch=request.channel))

    async def RemoveHistory(self, request, context):  # type: ignore[no-untyped-def]
        return pb.RemoveHistoryResponse()

    async def Kept(self, request, context):  # type: ignore[no-untyped-def]
        return pb.KeptResponse()


class ScriptedServer:
    """One replica, on a port of its own that it keeps over `stop` and `start`."""

    def __init__(
        self,
        service_token: bytes | None = None,
        previous_token: bytes | None = None,
        host: str = "127.0.0.1",
        *,
        identity: ServiceIdentity | None = None,
        alone: bool = True,
    ) -> None:
        self._host = host
        self.log = ScriptedLog()
        self._token, self._previous_token = service_token, previous_token
        self._identity, self._alone = identity, alone
        self._server: GrpcServer | None = None
        self.port = 0
        self.tls_port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.tls_port or self.port}"

    async def start(self) -> None:
        self._server = await start_grpc_server(
            lambda server: add_PersistenceServiceServicer_to_server(self.log, server),
            host=self._host,
            port=self.port,
            service_token=self._token,
            previous_service_token=self._previous_token,
            service="persistence",
            tls=None if self._identity is None else TlsPort(self._identity, self.tls_port, self._alone),
        )
        self.port, self.tls_port = self._server.port, self._server.tls_port

    async def stop(self, grace_s: float = 0.0) -> None:
        """With no grace all calls break at once, as when the process is killed."""
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None


class Rig:
    """Servers, and the client side of them under test."""

    def __init__(
        self, *servers: ScriptedServer, service_token: bytes | None = None, identity: ServiceIdentity | None = None
    ) -> None:
        self.servers = list(servers)
        self.addresses: set[str] = {server.address for server in servers}
        self.replicas = Replicas(
            "log:9003",
            service_token=service_token,
            service="test",
            resolve=self._resolve,
            identity=identity,
            server_name="persistence",
        )
        self.stream: BatchStream[pb.AppendItem, pb.AppendResult] | None = None

    async def _resolve(self, host: str, port: int) -> set[str]:
        return set(self.addresses)

    async def open_stream(
        self,
        *,
        deadline_s: float = 20.0,
        max_waiting: int = 10_000,
        max_items: int = 256,
        max_bytes: int = 1 << 20,
        linger: Linger | None = None,
    ) -> BatchStream[pb.AppendItem, pb.AppendResult]:
        """A stream, once it is connected to every server."""
        await self.replicas.start()
        self.stream = BatchStream(
            self.replicas,
            open=lambda channel: PersistenceServiceStub(channel).Append,
            pack=lambda items: pb.AppendBatch(items=items),
            unpack=lambda reply: (reply.taken, [(result.item, _outcome(result)) for result in reply.results]),
            size=lambda item: item.ByteSize(),
            deadline_s=deadline_s,
            max_waiting=max_waiting,
            max_items=max_items,
            max_bytes=max_bytes,
            linger=linger,
        )
        await self.stream.start()
        return self.stream

    async def close(self) -> None:
        if self.stream is not None:
            await self.stream.close()
        await self.replicas.close()
        for server in self.servers:
            server.log.go.set()
            await server.stop()


def _outcome(result: pb.AppendResult) -> pb.AppendResult | Busy:
    return Busy("as the test wants") if result.position.epoch == "refused" else result


async def pages(iterator: AsyncIterable[pb.ReadPage]) -> list[pb.ReadPage]:
    return [page async for page in iterator]


Stub = PersistenceServiceStub
Status = grpc.StatusCode
