"""Starts the gRPC server of a service with the settings that all of them have."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from services.shared.process.secrets import ServiceTokens
from services.shared.rpc.server import GrpcServer, TlsPort, start_grpc_server
from services.shared.startup.config import GrpcServiceConfig, ServiceTls

GRACE_S = 3.0  # seconds for calls that run when a service stops; an edge waits no longer for a response


async def serve_grpc(
    name: str, config: GrpcServiceConfig, tokens: ServiceTokens, add: Callable[[grpc.aio.Server], None]
) -> GrpcServer:
    """Start the server of the service `name` with the servicers that `add` registers.

    Raises:
        ConfigError: a port is taken or not allowed, or the certificates can't be used.
    """
    identity = config.identity()
    return await start_grpc_server(
        add,
        host=config.host,
        port=config.grpc_port,
        service_token=tokens.current,
        previous_service_token=tokens.previous,
        service=name,
        tls=None if identity is None else TlsPort(identity, config.grpc_tls_port, config.tls is ServiceTls.REQUIRE),
    )
