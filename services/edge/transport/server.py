"""The public server of an edge: start and end of its port for WebSocket and HTTP."""

from __future__ import annotations

import asyncio
import logging
import resource

from services.edge.domain.connections import Authenticator, ClientProtocols
from services.edge.domain.ends import EndReason
from services.edge.transport.http.handover import HttpHandover
from services.edge.transport.listener import Listener
from services.edge.transport.metrics import TransportCollector, TransportCounters
from services.edge.transport.options import TransportOptions
from services.shared.addresses import listening
from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

_BACKLOG = 4_096  # connections that the kernel queues before they are accepted
_OTHER_FILES = 256  # file descriptors kept for sockets to other services, log files and so on
_STEP_S = 0.02  # how often `close` checks whether all connections have ended, seconds


def build_websocket_server(
    options: TransportOptions,
    protocols: ClientProtocols,
    http: HttpHandover | None = None,
    authenticator: Authenticator | None = None,
) -> Listener:
    """Return the protocol factory of the public port, for the running event loop.

    Without `http` all paths except those of WebSocket are answered with 404. Without `authenticator` credentials of
    handshakes are not read.

    Raises:
        ConfigError: an option is wrong.
    """
    return Listener(options, protocols, http, asyncio.get_running_loop(), authenticator)


class EdgeServer:
    """Listens on the public port, and closes its connections in order."""

    def __init__(
        self,
        options: TransportOptions,
        protocols: ClientProtocols,
        http: HttpHandover | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._options = options
        self._http = http
        self._entrance = build_websocket_server(options, protocols, http, authenticator)
        self._listener: asyncio.Server | None = None
        self.port = 0

    @property
    def counters(self) -> TransportCounters:
        """Counters of the public port."""
        return self._entrance.counters

    @property
    def collector(self) -> TransportCollector:
        """The counters as a collector for the metrics registry."""
        return TransportCollector(self.counters, lambda: self.outbox_bytes)

    @property
    def outbox_bytes(self) -> int:
        """Bytes that wait for clients that read slowly."""
        return self._entrance.flusher.held_bytes

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> None:
        """Listen on the port; 0 takes any free one.

        Args:
            reuse_port: Share the port with other processes (SO_REUSEPORT); the kernel distributes the connections.

        Raises:
            ConfigError: the port can't be used, or too few files may be open for any connection.
        """
        self._fit_to_open_files()
        if self._http is not None:
            self._http.start()
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._entrance, **listening(host, port, backlog=_BACKLOG, reuse_port=reuse_port)
            )
        except OSError as error:
            raise ConfigError(f"public port {port} on {host} can't be used: {error.strerror}") from error
        self.port = self._listener.sockets[0].getsockname()[1]

    def _fit_to_open_files(self) -> None:
        """Lower the limit of connections to what the limit of open files allows.

        Raises:
            ConfigError: it allows no connection.
        """
        admission, files = self._entrance.admission, _available_files()
        possible = (files - _OTHER_FILES) * 15 // 16  # `Admission` holds up to a sixteenth more than its limit
        if possible < 1:
            raise ConfigError(f"{files} open files are too few to hold any connection (ulimit -n)")
        if possible < admission.max_connections:
            logger.warning("fewer connections than configured", extra={"connections": possible, "open_files": files})
            admission.set_cap(possible)

    def stop_accepting(self) -> None:
        """Answer new connections with 503 from now on; open ones stay.

        The port stays open, so that load balancers get a response.
        """
        self._entrance.admission.draining = True
        if self._http is not None:
            self._http.shut_down()

    def stop_listening(self) -> None:
        """Close the port; open connections stay.

        The kernel resets connections that are not accepted yet.
        """
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Close the port and all connections.

        Returns when all have ended, or shortly after the close timeout.
        """
        entrance = self._entrance
        self.stop_accepting()
        self.stop_listening()
        for head in list(entrance.heads):
            head.abort()
        for connection in list(entrance.websockets):
            connection.end(EndReason.SHUTDOWN)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.close_timeout_s
        if self._http is not None:
            await self._http.close(self._options.close_timeout_s)
        while entrance.admission.open and loop.time() < deadline + 2 * _STEP_S:  # each connection has its own timer
            await asyncio.sleep(_STEP_S)


def _available_files() -> int:
    """Raise the soft limit of open files to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):  # some systems allow less than their hard limit says
            logger.warning("limit of open files stays", extra={"soft": soft, "hard": hard})
    return soft if soft != resource.RLIM_INFINITY else 2**31
