"""HTTP server of the internal port of every service: /metrics, /healthz, /readyz.

Starlette routes and uvicorn serves, in the event loop of the service. Of uvicorn only the protocol is used: `Server`
would handle signals and end the process if the port is taken. The public port has no uvicorn: docs/decisions/0013.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, make_asgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from services.shared.addresses import listening
from services.shared.process.config import ConfigError

_TIMEOUT_S = 5.0  # longest time for one request, seconds
_MAX_HEAD_BYTES = 8_192
_MAX_CONNECTIONS = 64
Checks = Callable[[], Mapping[str, bool]]


class _Exported(Collector):
    """The metrics of the process, and the results of /readyz as gauges."""

    def __init__(self, ready: Checks, reachable: Checks) -> None:
        self._ready, self._reachable = ready, reachable

    def collect(self) -> Iterable[Metric]:
        yield from REGISTRY.collect()
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


class _Metrics:
    """GET /metrics, always in the text format and never compressed.

    OpenMetrics and gzip, which the library would offer, take more time in which the event loop does nothing else.
    """

    def __init__(self, ready: Checks, reachable: Checks) -> None:
        registry = CollectorRegistry()
        registry.register(_Exported(ready, reachable))
        self._app = make_asgi_app(registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "query_string": b"", "headers": []}, receive, send)


class _Connection(H11Protocol):
    """A connection for one request, which ends after `_TIMEOUT_S` at the latest.

    uvicorn alone would wait for a request, or for a client that does not read, without end.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        else:
            self._deadline = self.loop.call_later(_TIMEOUT_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)


class InternalHttp:
    """The running server. It serves one request per connection."""

    def __init__(self, ready: Checks, reachable: Checks = dict) -> None:
        self._ready, self._reachable = ready, reachable
        routes = [
            Route("/metrics", _Metrics(ready, reachable), methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
        ]
        self._config = Config(
            Router(routes, redirect_slashes=False),
            http=_Connection,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            headers=[("Connection", "close")],
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # less would let a client that speaks no HTTP fill the log
            access_log=False,
            proxy_headers=False,
            server_header=False,
            workers=1,  # or WEB_CONCURRENCY of the environment is read
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = self._config.encoded_headers
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen on this address; port 0 takes any free one. See `start_internal_http`."""
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Connection(self._config, self._state, app_state={}), **listening(host, port)
            )
        except OSError as error:
            raise ConfigError(f"internal port {port} on {host} can't be used: {error.strerror}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and cut the connections, with what is being served."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        await asyncio.gather(*self._state.tasks)

    async def _healthz(self, _: Request) -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    async def _readyz(self, _: Request) -> JSONResponse:
        failing = sorted(name for name, holds in self._ready().items() if not holds)
        degraded = sorted(name for name, holds in self._reachable().items() if not holds)
        said = {"ready": not failing, "failing": failing, "degraded": degraded}
        return JSONResponse(said, status_code=503 if failing else 200)


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
