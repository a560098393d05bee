"""One process that is kept running: started, its output read line by line, started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_GUARD = Path(__file__).with_name("guard.py")
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


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start: doubles with every quick death, forgets after a long life."""

    first_s: float = 0.25
    most_s: float = 10.0
    healthy_after_s: float = 30.0
    _next_s: float = field(default=0.0)

    def delay_s(self, ran_s: float) -> float:
        """The wait after a life of `ran_s`."""
        if ran_s >= self.healthy_after_s or self._next_s == 0.0:
            self._next_s = self.first_s
        delay = self._next_s
        self._next_s = min(self._next_s * 2, self.most_s)
        return delay


class Guard:
    """Makes sure that children die with this process; see guard.py. One per supervisor."""

    def __init__(self, mode: str = "signal" if sys.platform == "linux" else "pipe") -> None:
        self._mode = mode
        self._pipe, self._held = os.pipe()

    def command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """`command`, guarded."""
        return (sys.executable, "-I", "-S", str(_GUARD), self._mode, str(os.getpid()), str(self._pipe), *command)

    def passed_files(self) -> tuple[int, ...]:
        """File descriptors that the guarded command needs."""
        return (self._pipe,) if self._mode == "pipe" else ()

    def close(self) -> None:
        """Only once all children have ended."""
        os.close(self._pipe)
        os.close(self._held)


def describe_exit(code: int) -> str:
    """An exit code of asyncio's, in words."""
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


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
