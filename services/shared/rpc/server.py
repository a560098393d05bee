"""gRPC server as all services run it.

It adds health checks, keepalive, authentication of callers, errors as statuses, metrics and a graceful end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.shared.addresses import with_port
from services.shared.process.config import ConfigError
from services.shared.rpc.interceptor import Refused, ServiceInterceptor
from services.shared.rpc.tls import ServiceIdentity

__all__ = ["GrpcServer", "Refused", "TlsPort", "start_grpc_server"]

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_MAX_CALLS = 2_000  # calls and streams at the same time; beyond them RESOURCE_EXHAUSTED
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Our clients ping every 3 s, also on idle connections. By default the second such ping ends the connection.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # A second process on this port must fail, not share it.
    ("grpc.so_reuseport", 0),
)


class TlsPort(NamedTuple):
    """A port for callers with a certificate. `alone`: there is no port for others."""

    identity: ServiceIdentity
    port: int
    alone: bool


class GrpcServer:
    """A running gRPC server, with a port for tokens, a port for certificates, or both."""

    def __init__(self, health_servicer: health.aio.HealthServicer) -> None:
        self._health = health_servicer
        self._servers: list[tuple[grpc.aio.Server, ServiceInterceptor]] = []
        self.port = 0  # 0: none
        self.tls_port = 0

    async def start(
        self,
        add: Callable[[grpc.aio.Server], None],
        interceptor: ServiceInterceptor,
        address: str,
        variable: str,
        credentials: grpc.ServerCredentials | None = None,
    ) -> int:
        """Serve on one more address; return the port.

        Raises:
            ConfigError: the port, which `variable` names, is taken or not allowed.
        """
        server = grpc.aio.server(interceptors=[interceptor], options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        add(server)
        try:
            port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"{variable}: {address} can't be used; is it taken?") from error
        await server.start()
        self._servers.append((server, interceptor))
        return port

    async def stop(self, grace_s: float) -> None:
        """Stop gracefully: finish calls and streams, then cancel what remains.

        Health checks report NOT_SERVING and new calls are refused from now on. Streams end once all their batches are
        answered. What still runs after `grace_s` seconds is cancelled.
        """
        await self._health.enter_graceful_shutdown()
        stopped = [asyncio.ensure_future(server.stop(grace_s)) for server, _ in self._servers]
        for _, interceptor in self._servers:
            interceptor.end_streams()
        await asyncio.gather(*stopped)


async def start_grpc_server(
    add: Callable[[grpc.aio.Server], None],
    *,
    host: str,
    port: int,
    service_token: bytes | None,
    service: str,
    previous_service_token: bytes | None = None,
    tls: TlsPort | None = None,
) -> GrpcServer:
    """Start a server with the servicers that `add` registers; port 0 takes any free.

    With a `service_token` every call but health checks must carry it (`authorization: Bearer …`), or the previous one.
    With `tls` there is another port, or that one alone: there the name in the certificate of the caller counts, and no
    token. It is the name of the service itself, `edge` or `notifier`.

    Raises:
        ConfigError: a port is taken or not allowed.
    """
    health_servicer = health.aio.HealthServicer()
    await health_servicer.set(f"thalamus.{service}", health_pb2.HealthCheckResponse.SERVING)
    running = GrpcServer(health_servicer)
    try:
        if tls is None or not tls.alone:
            if service_token is None:
                logger.warning("SERVICE_TOKEN_FILE is not set: whoever reaches the gRPC port is trusted")
            interceptor = ServiceInterceptor(service, service_token, previous_service_token)
            running.port = await running.start(add, interceptor, with_port(host, port), f"{service.upper()}_GRPC_PORT")
        if tls is not None:
            interceptor = ServiceInterceptor(service, None, callers=("edge", "notifier", service))
            running.tls_port = await running.start(
                add,
                interceptor,
                with_port(host, tls.port),
                f"{service.upper()}_GRPC_TLS_PORT",
                tls.identity.server_credentials(),
            )
    except BaseException:
        await running.stop(0.0)
        raise
    return running
