"""All HTTP connections of an edge: the application that answers, and their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate

from starlette.types import ASGIApp

from services.edge.transport.http.connection import Caller, HttpConnection
from services.edge.transport.http.exchange import Exchange
from services.edge.transport.http.head import Head
from services.edge.transport.options import TransportOptions
from services.edge.transport.proxies import TrustedProxies

_DATE_EVERY_S = 1.0  # how often the Date header is renewed, seconds: its resolution


class HttpHandover:
    """Serves an ASGI application on connections whose first head was read and checked.

    Args:
        app: The application.
        options: Settings of the public port.
        is_websocket: Returns whether a path is a WebSocket endpoint, which must be the first request of a connection.
    """

    def __init__(self, app: ASGIApp, options: TransportOptions, is_websocket: Callable[[str], bool]) -> None:
        self._app = app
        self.is_websocket = is_websocket
        self.options = options
        self.proxies = TrustedProxies(options.trusted_proxies)
        self.headers: list[tuple[bytes, bytes]] = []  # added to every response
        self.connections: set[HttpConnection] = set()
        self.is_draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._date_timer: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Renew the Date header every second, until `close`."""
        self.loop = asyncio.get_running_loop()
        self.headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        self._date_timer = self.loop.call_later(_DATE_EVERY_S, self.start)

    def adopt(self, transport: asyncio.Transport, head: Head, rest: bytes, caller: Caller) -> None:
        """Serve a connection, of which one head and the bytes behind it were read."""
        connection = HttpConnection(self, transport, caller)
        self.connections.add(connection)
        transport.set_protocol(connection)
        connection.begin(head, rest)

    def run(self, exchange: Exchange) -> None:
        """Run the application for one request, in a task."""
        task = self.loop.create_task(exchange.run(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def shut_down(self) -> None:
        """Close idle connections now, and the others once their response is written."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.shut_down()

    async def close(self, grace_s: float) -> None:
        """Close all connections; requests that still run after `grace_s` are cancelled."""
        self.shut_down()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self.connections):
            connection.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        if self._date_timer is not None:
            self._date_timer.cancel()
            self._date_timer = None
