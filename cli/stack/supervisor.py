"""Starts the processes of a stack in order, restarts them, and stops them.

**Purpose.** `thalamus dev` and the tests run the whole platform on one machine: Redis, the services and the edges, each
a child process. Whatever happens, no process may be left over.

**Rules.**

* Start: Redis first. Once it is ready, all services and edges start at the same time; each waits by itself for what it
  needs.
* A child is ready when its probe says so while its process runs. A probe that succeeds for a process that is gone would
  come from another program on that port.
* The start fails if a child exits with code 2 (wrong setting), dies three times, or is not ready in time. The last
  lines of its output go into the error.
* Afterwards a child that dies is restarted after a delay that doubles with every quick death (`Backoff`), and an event
  says so.
* Stop: edges, then services, then Redis, each stage by SIGTERM. What has not ended in its stage's time is killed; with
  `hurry` set, at once.
* If the supervisor itself is killed, the guard kills the children (services/shared/process/guard.py).

**Example.** Presence is killed. The events are "was killed by SIGKILL and is started again in 0.25 s" and, once its
probe succeeds, "is ready again". Ctrl-C stops all; it takes 9 s at most until the last one is killed.

**Trade-offs.** All processes are on one machine, with one Redis: this is for development and tests. A deployment uses
the stack files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from cli.stack.child import Child, ChildSpec, Pause, Stage, sleep
from services.shared.process.children import Guard, describe_exit

_PROBE_EVERY_S = 0.05  # pause between two probes, seconds
_EXIT_CONFIG = 2  # exit code for a wrong setting; a restart would not help
_MOST_DEATHS_AT_START = 3
STOP_TIMES_S: Mapping[Stage, float] = {Stage.EDGE: 4.0, Stage.SERVICE: 2.5, Stage.REDIS: 2.5}  # 9 s in all


class StartFailed(Exception):
    """A process did not become ready. `tail` has the last lines of `name`'s output."""

    def __init__(self, reason: str, name: str, tail: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.name = name
        self.tail = tuple(tail)


class Supervisor:
    """The processes of one stack, used as a context manager. See the module.

    Leaving the context stops everything, whatever happened inside.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        on_line: Callable[[str, bytes], None],
        on_event: Callable[[str, str, str], None],
        on_change: Callable[[], None] = lambda: None,
        guard: Guard | None = None,
        stop_times_s: Mapping[Stage, float] = STOP_TIMES_S,
        pause: Pause = sleep,
    ) -> None:
        """Take the processes; starts nothing yet.

        `on_event` is called with a level (INFO, WARNING, ERROR), a child's name and a text; `on_change` when pids
        change.
        """
        self.hurry = asyncio.Event()  # set it while stopping: what still runs is killed at once
        self._on_event = on_event
        self._on_change = on_change
        self._stop_times_s = stop_times_s
        self._guard = guard or Guard()
        self._group = asyncio.TaskGroup()
        self._started = False  # whether all have been ready
        self._stopping = False
        self.children = {
            spec.name: Child(
                spec,
                guard=self._guard,
                on_line=on_line,
                on_start=self._child_started,
                on_death=self._child_died,
                pause=pause,
            )
            for spec in specs
        }

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            try:
                # The children have ended. An error of the body is raised as it is, not in a group.
                await self._group.__aexit__(None, None, None)
            finally:
                self._guard.close()

    def pids(self) -> dict[str, int]:
        """Return the process ids of all running processes, by name."""
        return {name: child.pid for name, child in self.children.items() if child.pid is not None}

    async def start(self, timeout_s: float) -> None:
        """Start Redis, then everything else; return when all are ready.

        Raises:
            StartFailed: a process was not ready in time, refused its settings, or died repeatedly.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        first = [child for child in self.children.values() if child.spec.stage is Stage.REDIS]
        rest = [child for child in self.children.values() if child.spec.stage is not Stage.REDIS]
        for children in filter(None, (first, rest)):
            for child in children:
                self._group.create_task(child.run(), name=child.name)
            await self._all_ready(children, deadline, timeout_s)
        self._started = True

    async def _all_ready(self, children: Sequence[Child], deadline: float, timeout_s: float) -> None:
        waits = [asyncio.ensure_future(self._ready(child, deadline, timeout_s)) for child in children]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_EXCEPTION)
            for wait in waits:  # in the order of the stages: a later one may only wait for an earlier one
                if wait.done():
                    wait.result()
        finally:
            for wait in waits:
                wait.cancel()

    async def _ready(self, child: Child, deadline: float, timeout_s: float) -> None:
        reason = "it never answered"
        while True:
            if not self._started:
                self._give_up_if_hopeless(child)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    # Without a process of ours, another program answered the probe.
                    if not (reason := await child.spec.probe()) and child.pid is not None:
                        return
                    await asyncio.sleep(_PROBE_EVERY_S)
                    continue
            raise StartFailed(f"{child.name} is not ready after {timeout_s:g} s: {reason}", child.name, child.tail)

    def _give_up_if_hopeless(self, child: Child) -> None:
        if child.deaths and child.last_code == _EXIT_CONFIG:
            said = [line for line in child.last_words if line.strip()]
            reason = said[-1].removeprefix("thalamus ") if said else f"{child.name} refused its settings"
            raise StartFailed(reason, child.name)
        if child.deaths >= _MOST_DEATHS_AT_START:
            reason = f"{child.name} {describe_exit(child.last_code or 0)}, again and again"
            raise StartFailed(reason, child.name, child.last_words)

    def _child_started(self, child: Child) -> None:
        self._on_change()
        if self._started:
            self._group.create_task(self._tell_ready(child))

    async def _tell_ready(self, child: Child) -> None:
        deaths = child.deaths
        while child.deaths == deaths and not self._stopping:
            if not await child.spec.probe():
                self._on_event("INFO", child.name, "is ready again")
                return
            await asyncio.sleep(_PROBE_EVERY_S)

    def _child_died(self, child: Child, code: int, delay_s: float) -> None:
        self._on_event("ERROR", child.name, f"{describe_exit(code)} and is started again in {delay_s:g} s")
        self._on_change()

    async def stop(self) -> None:
        """Stop edges, then services, then Redis.

        Kills what takes too long, or everything once `hurry` is set.
        """
        self._stopping = True
        for stage in sorted(Stage, reverse=True):
            children = [child for child in self.children.values() if child.spec.stage is stage]
            for child in children:
                child.stop()
            await self._wait_ended(children, self._stop_times_s[stage])
            for child in children:
                if not child.ended.is_set():
                    if not self.hurry.is_set():
                        self._on_event("WARNING", child.name, "did not stop in time and is killed")
                    child.kill()
            await asyncio.gather(*(child.ended.wait() for child in children))

    async def _wait_ended(self, children: Sequence[Child], timeout_s: float) -> None:
        if not children:
            return
        ended = asyncio.gather(*(child.ended.wait() for child in children))
        hurry = asyncio.ensure_future(self.hurry.wait())
        try:
            await asyncio.wait((ended, hurry), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            hurry.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ended
