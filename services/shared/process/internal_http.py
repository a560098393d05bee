"""HTTP server of the internal port of every service: /metrics, /healthz, /readyz."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from services.shared.addresses import listening
from services.shared.process.config import ConfigError

_TIMEOUT_S = 5.0  # longest time for one request, seconds
_MAX_HEAD_BYTES = 8_192
_MAX_CONNECTIONS = 64
Checks = Callable[[], Mapping[str, bool]]


class _Readiness(Collector):
    """The results of /readyz as Prometheus gauges."""

    def __init__(self, ready: Checks, reachable: Checks) -> None:
        self._ready, self._reachable = ready, reachable

    def collect(self) -> Iterable[Metric]:
        checks = GaugeMetricFamily("thalamus_ready", "Checks of readiness: 1 holds, 0 fails.", labels=["check"])
        for name, holds in self._ready().items():
            checks.add_metric([name], float(holds))
        yield checks
        services = GaugeMetricFamily(
            "thalamus_service_reachable", "Whether another service can be reached.", labels=["service"]
        )
        for name, holds in self._reachable().items():
            services.add_metric([name], float(holds))
        yield services
        yield GaugeMetricFamily("thalamus_asyncio_tasks", "Tasks of the event loop.", value=len(asyncio.all_tasks()))


class InternalHttp:
    """The running server. It serves one request per connection."""

    def __init__(self, ready: Checks, reachable: Checks = dict) -> None:
        self._ready, self._reachable = ready, reachable
        self._readiness = CollectorRegistry()
        self._readiness.register(_Readiness(ready, reachable))
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen on this address; port 0 takes any free one. See `start_internal_http`."""
        try:
            self._server = await asyncio.start_server(self._serve, limit=_MAX_HEAD_BYTES, **listening(host, port))
        except OSError as error:
            raise ConfigError(f"internal port {port} on {host} can't be used: {error.strerror}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and cancel the requests that are being served."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._respond(head.split(b"\r\n", 1)[0]))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the peer does not speak HTTP or is gone: no answer is due
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _respond(self, request_line: bytes) -> bytes:
        method, _, rest = request_line.partition(b" ")
        status, kind, body = self._answer(method, rest.partition(b" ")[0].partition(b"?")[0])
        allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n{allow}"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if method == b"HEAD" else body)

    def _answer(self, method: bytes, path: bytes) -> tuple[HTTPStatus, str, bytes]:
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET or HEAD\n"
        match path:
            case b"/metrics":
                body = generate_latest(REGISTRY) + generate_latest(self._readiness)
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, body
            case b"/healthz":
                return HTTPStatus.OK, "text/plain", b"ok\n"
            case b"/readyz":
                failing = sorted(name for name, holds in self._ready().items() if not holds)
                status = HTTPStatus.SERVICE_UNAVAILABLE if failing else HTTPStatus.OK
                degraded = sorted(name for name, holds in self._reachable().items() if not holds)
                said = {"ready": not failing, "failing": failing, "degraded": degraded}
                return status, "application/json", json.dumps(said).encode()
            case _:
                return HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /healthz /readyz\n"


async def start_internal_http(host: str, port: int, *, ready: Checks, reachable: Checks = dict) -> InternalHttp:
    """Start the internal server.

    `ready` returns the named readiness checks; /readyz answers 503 and names those that fail. `reachable` returns other
    services by name: without one of them this service is degraded but ready.

    Raises:
        ConfigError: the port is taken or not allowed.
    """
    server = InternalHttp(ready, reachable)
    await server.start(host, port)
    return server
