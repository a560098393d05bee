"""A TCP proxy that delays, stalls, resets and cuts off."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_READ_BYTES = 65_536
_QUEUED = 256  # chunks that may be under way, per direction
_END_S = 3.0


class TcpProxy:
    """Carries bytes both ways, with the faults that are switched on.

    They hold for present and new connections until switched off.

    `delay_s`: each chunk arrives so much later, in either direction, in order. `cut_after`: a connection ends with a
    reset once the server has sent so many bytes over it. With `tls` clients speak TLS, and the server does not.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = (host, port)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self.flow()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END_S)

    def lead_to(self, host: str, port: int) -> None:
        """Carry new connections there; present ones stay where they are."""
        self._target = (host, port)

    def cut(self) -> None:
        """Reset every connection, and every new one until `heal`."""
        self._is_cut = True
        self.reset()

    def heal(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def reset(self) -> None:
        """Reset every connection; new ones are let through."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        """Carry nothing until `flow`; connections stay, new ones are accepted and hang."""
        self._flowing.clear()

    def flow(self) -> None:
        """Go on; what was held back comes in order."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pair = {writer}
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            pair.add(far_writer)
            self._writers.add(far_writer)
            both = [
                asyncio.create_task(self._carry(reader, far_writer, limited=False)),
                asyncio.create_task(self._carry(far_reader, writer, limited=True)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            writer.transport.abort()
        except asyncio.CancelledError:  # only `close` does that; Python 3.11's streams would log it as an error
            pass
        finally:
            for end in pair:
                end.close()
            self._writers -= pair
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limited: bool) -> None:
        """Carry one direction: a reader stamps what comes, a writer waits for its time."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)

        async def take() -> None:
            while data := await reader.read(_READ_BYTES):
                await queue.put((loop.time() + self.delay_s, data))
            await queue.put((loop.time() + self.delay_s, b""))

        taking = asyncio.create_task(take())
        sent = 0
        try:
            with contextlib.suppress(OSError):
                while True:
                    due, data = await queue.get()
                    if (wait := due - loop.time()) > 0:
                        await asyncio.sleep(wait)
                    await self._flowing.wait()
                    if not data:
                        return
                    if limited and self.cut_after is not None and sent + len(data) > self.cut_after:
                        writer.write(data[: self.cut_after - sent])
                        await writer.drain()
                        await asyncio.sleep(0)
                        writer.transport.abort()
                        return
                    sent += len(data)
                    writer.write(data)
                    await writer.drain()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


class BackgroundProxy:
    """A `TcpProxy` on a thread of its own.

    For tests that have no loop, or share it with the clients.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._proxy = TcpProxy(host, port, tls=tls)
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._proxy.__aenter__(), self._loop).result(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(None, None, None), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        return self._proxy.port

    def do(self, what: Callable[[TcpProxy], object]) -> None:
        """Have the proxy do something, such as `TcpProxy.cut`; returns when it is done."""

        async def work() -> None:
            what(self._proxy)

        asyncio.run_coroutine_threadsafe(work(), self._loop).result(5)
