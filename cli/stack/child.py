"""One process that is kept running: started, its output read line by line, started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from services.shared.process.children import Backoff, Guard

_MAX_LINE_BYTES = 64 * 1024
_TAIL_LINES = 20


class Stage(enum.IntEnum):
    """Started from the first to the last, stopped from the last to the first."""

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
    probe: Callable[[], Awaitable[str]]  # empty: ready; else what it still waits for


class Child:
    """A process and its restarts. `run` is its life; the other methods are called while that runs."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        guard: Guard,
        on_line: Callable[[str, bytes], None],
        on_start: Callable[[Child], None],
        on_death: Callable[[Child, int, float | None], None],
        restart: bool = True,
        backoff: Backoff | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        """`on_death` is told the exit code and the seconds until the next start (None: there will be none)."""
        self.spec = spec
        self.restart = restart
        self.deaths = 0
        self.last_code: int | None = None
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)  # of this life
        self.last_words: tuple[str, ...] = ()  # of the last life
        self.ended = asyncio.Event()  # no process now
        self.ended.set()
        self._guard = guard
        self._on_line = on_line
        self._on_start = on_start
        self._on_death = on_death
        self._backoff = backoff or Backoff()
        self._clock = clock or asyncio.get_running_loop().time
        self._sleep = sleep
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._stopping = asyncio.Event()
        self._partial = b""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Keep the process running until `stop`."""
        while not self._stopping.is_set():
            self._wanted.clear()
            started = self._clock()
            code = await self._live()
            self.deaths += 1
            self.last_code = code
            self.last_words = tuple(self.tail)
            if self._stopping.is_set():
                return
            delay_s = self._backoff.delay_s(self._clock() - started) if self.restart else None
            self._on_death(self, code, delay_s)
            await self._pause(delay_s)

    def start_again(self) -> None:
        """Start now a process that died and is not restarted, or not yet."""
        self._wanted.set()

    def stop(self) -> None:
        """SIGTERM, and no restart. Wait for `ended`."""
        self._stopping.set()
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a suspended process takes no other signal

    def kill(self) -> None:
        """SIGKILL for the process and all of its own children."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the latter for zombies
                os.killpg(self.pid, signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """A signal to the process, if there is one."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _live(self) -> int:
        """One life of the process; its exit code."""
        # Our own pipe rather than asyncio's: its `wait` would wait for grandchildren that hold the other end.
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
                start_new_session=True,  # Ctrl-C in a terminal is for us alone: we know the order
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
            if self._stopping.is_set():  # asked while it started
                self.send(signal.SIGTERM)
            else:
                self._on_start(self)
            return await process.wait()
        finally:
            self.kill()  # what it left behind; itself as well where we are being cancelled
            loop.remove_reader(reading)
            while self._read(reading):
                pass
            os.close(reading)
            self._feed(b"\n" if self._partial else b"")
            self._process = None
            self.ended.set()

    def _read(self, reading: int) -> bool:
        """Take what has arrived; whether there was anything."""
        try:
            chunk = os.read(reading, _MAX_LINE_BYTES)
        except BlockingIOError:
            return False
        if not chunk:  # closed by the process, which may live on
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

    async def _pause(self, delay_s: float | None) -> None:
        """Wait for the time of the next start, for `start_again` or for `stop`."""
        waits: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._wanted.wait()),
            asyncio.ensure_future(self._stopping.wait()),
        ]
        if delay_s is not None:
            waits.append(asyncio.ensure_future(self._sleep(delay_s)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
