"""EDGE_WORKERS: several edge processes on one public port, and their parent.

A worker is an edge like any other, with its own id, lease and internal port. It is a new process, not a fork, because
gRPC does not survive a fork. All listen on the same port (SO_REUSEPORT), and the kernel distributes the connections.
The parent starts a worker again when it dies.
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
from services.shared.process.children import Guard, describe_exit, restart_backoff
from services.shared.process.config import ConfigError
from services.shared.process.lifecycle import EXIT_CONFIG

logger = logging.getLogger(__name__)

_GOOD_ENDS = (0, -signal.SIGTERM)  # exit codes; SIGTERM: it was stopped before it could handle the signal


class WorkersFailed(Exception):
    """Raised at the end if a worker did not drain completely."""


class Worker:
    """One edge process, which is started again whenever it dies."""

    def __init__(self, number: int, environment: Mapping[str, str], guard: Guard, stopping: asyncio.Event) -> None:
        self.number = number
        self.ended_well = True
        self._environment = environment
        self._guard = guard
        self._stopping = stopping
        self._backoff = restart_backoff()
        self._process: Process | None = None

    async def run(self) -> None:
        """Keep the process running until it is asked to stop; cancelling kills it.

        Raises:
            ConfigError: the first process refused a setting. In a later one this counts as any other death, because
                other workers are running.
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
                delay_s = self._backoff.next_s(time.monotonic() - started)
                logger.error("a worker died and is started again", extra={**fields, "in_s": delay_s})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay_s)
            first = False

    def terminate(self) -> None:
        """Send SIGTERM, so that the process drains and ends."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def _live(self) -> tuple[int, str]:
        """Run one process to its end; return its exit code and what it wrote to stdout.

        A process that refuses a setting writes the reason there.
        """
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
            if self._stopping.is_set():  # it was asked to stop while it started
                self.terminate()
            said, _ = await process.communicate()
            return await process.wait(), said.decode("utf-8", "replace").strip()
        finally:
            self._process = None
            if process.returncode is None:
                process.kill()
                await process.wait()


async def run_workers(config: EdgeConfig, stopping: asyncio.Event) -> None:
    """Run the workers until `stopping` is set and all of them have drained.

    Raises:
        ConfigError: the port can't be used, or a worker refused a setting. No worker is left.
        WorkersFailed: a worker did not drain completely.
    """
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
    """Return the environment of a worker: the parent's, with its own ports and name."""
    own = {"EDGE_WORKERS": "1", "EDGE_PORT": str(port)}
    if config.internal_port:
        own["EDGE_INTERNAL_PORT"] = str(config.internal_port + number - 1)
    if config.name:
        own["EDGE_NAME"] = f"{config.name}-{number}"
    return {**os.environ, **own}


@contextlib.contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """Hold the public port while the context is open, and return its number.

    The port is bound without listening, so it stays ours while no worker runs. 0 takes any free one.

    Raises:
        ConfigError: the port can't be used. Checked here because workers would not notice another process of the same
            user on the port.
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
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # in case connections of an earlier worker remain
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the same as asyncio does
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
