"""Runs one child process: starts it, reads its output by lines, restarts it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from services.shared.process.children import Guard, restart_backoff

# Waits before a restart; called with the name of the process and the pause, seconds.
Pause: TypeAlias = Callable[[str, float], Coroutine[Any, Any, None]]

_MAX_LINE_BYTES = 64 * 1024
_TAIL_LINES = 20  # last lines kept for error messages


class Stage(enum.IntEnum):
    """Stages of a stack: started in this order, stopped in the opposite order."""

    REDIS = 0
    SERVICE = 1
    EDGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A process to run, and how to learn that it is ready."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    stage: Stage
    probe: Callable[[], Awaitable[str]]  # returns "" when ready, else what it waits for


async def sleep(name: str, seconds: float) -> None:
    """Wait for so many seconds."""
    await asyncio.sleep(seconds)


class Child:
    """A process and its restarts.

    Call the other methods only while `run` runs.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        guard: Guard,
        on_line: Callable[[str, bytes], None],
        on_start: Callable[[Child], None],
        on_death: Callable[[Child, int, float], None],
        pause: Pause = sleep,
    ) -> None:
        """Take the parts; starts nothing yet.

        `on_death` is called with the exit code and the seconds until the restart.
        """
        self.spec = spec
        self.deaths = 0
        self.last_code: int | None = None
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)  # last lines of the process that runs now
        self.last_words: tuple[str, ...] = ()  # last lines of the process before
        self.ended = asyncio.Event()  # set while no process runs
        self.ended.set()
        self._guard = guard
        self._on_line = on_line
        self._on_start = on_start
        self._on_death = on_death
        self._backoff = restart_backoff()
        self._pause = pause
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._partial = b""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int | None:
        """Process id; None while no process runs."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Keep the process running until `stop`."""
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            code = await self._live()
            self.deaths += 1
            self.last_code = code
            self.last_words = tuple(self.tail)
            if self._stopping.is_set():
                return
            delay_s = self._backoff.next_s(clock() - started)
            self._on_death(self, code, delay_s)
            await self._wait(delay_s)

    def stop(self) -> None:
        """Send SIGTERM and do not restart the process. Wait for `ended` afterwards."""
        self._stopping.set()
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a suspended process takes no other signal

    def kill(self) -> None:
        """Send SIGKILL to the process and all of its own children."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, for zombies
                os.killpg(self.pid, signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _live(self) -> int:
        """Run the process once; return its exit code."""
        # A pipe of our own: with asyncio's, `wait` would wait for grandchildren that hold the other end.
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        loop = asyncio.get_running_loop()
        self.ended.clear()
        self.tail.clear()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._guard.command(self.spec.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=dict(self.spec.environment),
                pass_fds=self._guard.passed_files(),
                start_new_session=True,  # Ctrl-C in a terminal reaches only us, who stop children in order
            )
        except BaseException:
            os.close(reading)
            self.ended.set()
            raise
        finally:
            os.close(writing)
        self._process = process
        loop.add_reader(reading, self._read, reading)
        try:
            if self._stopping.is_set():  # `stop` was called while it started
                self.send(signal.SIGTERM)
            else:
                self._on_start(self)
            return await process.wait()
        finally:
            self.kill()  # processes that it left; and itself, if we are being cancelled
            loop.remove_reader(reading)
            while self._read(reading):
                pass
            os.close(reading)
            self._feed(b"\n" if self._partial else b"")
            self._process = None
            self.ended.set()

    def _read(self, reading: int) -> bool:
        """Read what has arrived; return whether there was anything."""
        try:
            chunk = os.read(reading, _MAX_LINE_BYTES)
        except BlockingIOError:
            return False
        if not chunk:  # the process closed its output; it may still run
            asyncio.get_running_loop().remove_reader(reading)
        self._feed(chunk)
        return bool(chunk)

    def _feed(self, chunk: bytes) -> None:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        if len(self._partial) > _MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self.tail.append(line.decode("utf-8", "replace"))
            self._on_line(self.name, line)

    async def _wait(self, delay_s: float) -> None:
        """Wait for the end of the pause, or for `stop`."""
        waits: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._pause(self.name, delay_s)),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
