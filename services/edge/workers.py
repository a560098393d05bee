"""EDGE_WORKERS: several edges on one public port, and the parent that keeps them running.

A worker is an edge like any other: a process of its own (started anew, as gRPC does not survive a fork) with an id, a
lease and an internal port. All listen on the same port (SO_REUSEPORT): the kernel gives each connection to one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping

from services.edge.config import EdgeConfig
from services.shared.process.children import Backoff, Guard, describe_exit
from services.shared.process.config import ConfigError
from services.shared.process.lifecycle import EXIT_CONFIG
from services.shared.process.logs import setup_logging

logger = logging.getLogger(__name__)

_GOOD_ENDS = (0, -signal.SIGTERM)  # the latter: told to stop before it had anything to drain


class WorkersFailed(Exception):
    """Not every worker drained to its end."""


class Worker:
    """One edge process, started again whenever it dies."""

    def __init__(self, number: int, environment: Mapping[str, str], guard: Guard, stopping: asyncio.Event) -> None:
        self.number = number
        self.ended_well = True
        self._environment = environment
        self._guard = guard
        self._stopping = stopping
        self._backoff = Backoff()
        self._process: Process | None = None

    async def run(self) -> None:
        """Keep it running until it is stopped; being cancelled kills it.

        Raises:
            ConfigError: it refused a setting in its first life. Later that is a death like others: its siblings live.
        """
        first = True
        while not self._stopping.is_set():
            started = time.monotonic()
            code, complaint = await self._live()
            fields = {"worker": self.number, "reason": describe_exit(code), "complaint": complaint}
            if self._stopping.is_set():
                self.ended_well = code in _GOOD_ENDS
                if not self.ended_well:
                    logger.error("a worker did not drain to its end", extra=fields)
            elif first and code == EXIT_CONFIG:
                raise ConfigError(complaint)
            else:
                delay_s = self._backoff.delay_s(time.monotonic() - started)
                logger.error("a worker died and is started again", extra={**fields, "in_s": delay_s})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay_s)
            first = False

    def terminate(self) -> None:
        """SIGTERM: drain, and end."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def _live(self) -> tuple[int, str]:
        """One life: its exit code, and which setting it refused."""
        safe = ("-P",) if sys.flags.safe_path else ()
        command = (sys.executable, *safe, "-m", "services.edge", "--worker", str(self.number))
        process = await asyncio.create_subprocess_exec(
            *self._guard.command(command),
            stdin=DEVNULL,
            stdout=PIPE,
            env=dict(self._environment),
            pass_fds=self._guard.passed_files(),
        )
        self._process = process
        try:
            if self._stopping.is_set():  # asked while it started
                self.terminate()
            said, _ = await process.communicate()
            return await process.wait(), said.decode("utf-8", "replace").strip()
        finally:
            self._process = None
            if process.returncode is None:
                process.kill()
                await process.wait()


async def run_workers(config: EdgeConfig, stopping: asyncio.Event) -> None:
    """Run the workers until asked to stop, and until all of them have drained.

    Raises:
        ConfigError: the port can't be had, or a worker refused a setting; none is left.
        WorkersFailed: one ended otherwise than by its drain.
    """
    setup_logging("edge", level=config.log_level)
    if sys.platform != "linux":
        raise ConfigError("EDGE_WORKERS: only Linux spreads connections over processes that share a port")
    with contextlib.closing(Guard()) as guard, held_port(config.host, config.port) as port:
        workers = [
            Worker(number, _environment(config, number, port), guard, stopping)
            for number in range(1, config.worker_count() + 1)
        ]
        logger.info("starting workers", extra={"workers": len(workers), "port": port})
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run())
            await stopping.wait()
            for worker in workers:
                worker.terminate()
    if failed := [worker.number for worker in workers if not worker.ended_well]:
        raise WorkersFailed(f"did not drain to their end: {failed}")


def _environment(config: EdgeConfig, number: int, port: int) -> dict[str, str]:
    """Ours, with what each worker has for itself."""
    own = {"EDGE_WORKERS": "1", "EDGE_PORT": str(port)}
    if config.internal_port:
        own["EDGE_INTERNAL_PORT"] = str(config.internal_port + number - 1)
    if config.name:
        own["EDGE_NAME"] = f"{config.name}-{number}"
    return {**os.environ, **own}


@contextlib.contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """The public port, ours also while no worker runs: bound, but without listening; for 0 any free one.

    Raises:
        ConfigError: it can't be had. Workers would not notice that somebody else of this user shares it.
    """
    with contextlib.ExitStack() as held:
        try:
            addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in addresses):
                if port:
                    _bound(family, (address[0], port), shared=False).close()
                keeper = held.enter_context(_bound(family, (address[0], port), shared=True))
                port = keeper.getsockname()[1]
        except OSError as error:
            raise ConfigError(f"public port {port} on {host} can't be used: {error.strerror}") from error
        yield port


def _bound(family: int, address: tuple[str | int, int], *, shared: bool) -> socket.socket:
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier life may linger
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio listens
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
