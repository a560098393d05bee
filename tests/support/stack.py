"""A whole stack: processes on free ports, run by the supervisor of `thalamus dev`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Coroutine, Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jwt
import pytest

from cli.bundled import ROOT
from cli.stack import ports
from cli.stack.child import Child
from cli.stack.plan import StackPlan
from cli.stack.run import StackSettings, api_key, running_stack
from cli.stack.supervisor import Supervisor

_OURS = ("AUTH_", "PRESENCE_", "PERSISTENCE_", "EDGE_", "REDIS_", "THALAMUS_", "WEBHOOKS_", "NOTIFIER_")
_OURS_WHOLE = (
    "CHANNELS_FILE",
    "HOOKS_FILE",
    "PUSH_FILE",
    "WEB_PUSH_HOSTS",
    "SERVICE_TOKEN_FILE",
    "SERVICE_TLS",
    "LOG_LEVEL",
    "EDGES",
)
_SERVICES = ("AUTH", "PRESENCE", "PERSISTENCE")
_ANY_TLS_PORT = dict.fromkeys([f"{service}_GRPC_TLS_PORT" for service in _SERVICES], "0")
_ANY_PORT = dict.fromkeys(
    [f"{service}_{kind}_PORT" for service in _SERVICES for kind in ("GRPC", "INTERNAL")]
    + ["EDGE_PORT", "EDGE_INTERNAL_PORT", "REDIS_PORT", "WEBHOOKS_INTERNAL_PORT", "NOTIFIER_INTERNAL_PORT"],
    "0",
)
_START_S = 60.0
_DIES_WITHIN_S = 30.0
_PROBE_EVERY_S = 0.05
_SHOWN_LINES = 40
T = TypeVar("T")


def share_of_ports(whole: tuple[int, int], environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the part of a range of ports that only this pytest-xdist process uses.

    A stack looks for free ports first and listens on them later. Another one could take them in between.
    """
    worker = int(environment.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (whole[1] - whole[0]) // int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return whole[0] + worker * size, whole[0] + (worker + 1) * size


ports.FREE_RANGE = share_of_ports(ports.FREE_RANGE, os.environ)


def clean_environment() -> dict[str, str]:
    """Return an environment without a developer's settings, with any free ports."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_OURS) and name not in _OURS_WHOLE
    }
    return inherited | _ANY_PORT


class Stack:
    """Redis, all services and edges, by name: `redis`, `auth`, …, `edge-1`, `edge-2`.

    A context manager; leaving it ends every process. `restart`: what dies is started again, as in `thalamus dev`.
    `environment` overrides any variable of any service, `environment_of` one of one process.
    """

    plan: StackPlan
    supervisor: Supervisor

    def __init__(
        self,
        *,
        edges: int = 2,
        environment: Mapping[str, str] | None = None,
        environment_of: Mapping[str, Mapping[str, str]] | None = None,
        channels_file: Path | None = None,
        webhooks_file: Path | None = None,
        push_file: Path | None = None,
        restart: bool = True,
    ) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="thalamus-stack-"))
        self.secret = secrets.token_urlsafe(32)
        secret_file = self.data / "hs256.secret"
        secret_file.write_text(self.secret)
        self._settings = StackSettings(
            data=self.data,
            channels_file=channels_file or ROOT / "config" / "channels.toml",
            webhooks_file=webhooks_file,
            push_file=push_file,
            environment={
                **clean_environment(),
                **(_ANY_TLS_PORT if "SERVICE_TLS" in (environment or {}) else {}),
                "AUTH_HS256_SECRET_FILE": str(secret_file),
                **(environment or {}),
            },
            environment_of=environment_of or {},
            edges=edges,
            start_timeout_s=_START_S,
        )
        self._restart = restart
        self._wanted: dict[str, asyncio.Event] = {}  # of each process: set to start it now
        self._lines: dict[str, list[str]] = {}
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="stack")

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            print(self.logs())
            shutil.rmtree(self.data, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        shutil.rmtree(self.data, ignore_errors=True)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                raise

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with running_stack(self._settings, on_line=self._line, on_event=self._event, pause=self._pause) as (
            supervisor,
            plan,
        ):
            self.supervisor, self.plan = supervisor, plan
            self._started.set_result(None)
            await self._stop.wait()

    def _line(self, name: str, line: bytes) -> None:
        self._lines.setdefault(name, []).append(line.decode("utf-8", "replace"))

    def _event(self, level: str, name: str, text: str) -> None:
        self._lines.setdefault(name, []).append(f"--- {level} {name} {text} ---")

    # Where everything is.

    @property
    def ws_urls(self) -> list[str]:
        return [edge.websocket for edge in self.plan.edge_addresses()]

    @property
    def http_urls(self) -> list[str]:
        return [edge.http for edge in self.plan.edge_addresses()]

    @property
    def internal_urls(self) -> dict[str, str]:
        """Name → URL that has /metrics, /healthz and /readyz."""
        return self.plan.internal_urls()

    @property
    def redis_url(self) -> str:
        return self.plan.redis_url()

    @property
    def api_key(self) -> str:
        """A key that the edges accept."""
        return self._call(api_key(self.plan), _START_S)

    def token(self, user: str, *, ttl_s: float | None = 3600, **claims: object) -> str:
        """Return an HS256 token; `ttl_s` may be negative, None: no `exp`."""
        body: dict[str, object] = {"sub": user, **claims}
        if ttl_s is not None:
            body.setdefault("exp", time.time() + ttl_s)
        return jwt.encode(body, self.secret, algorithm="HS256")

    # Faults. All of these block until it is so.

    def pid(self, name: str) -> int:
        pid = self.supervisor.children[name].pid
        assert pid is not None, f"{name} does not run"
        return pid

    def kill9(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        self._signal_and_wait(name, signal.SIGKILL)

    def terminate(self, name: str) -> None:
        """SIGTERM, and wait for its end (an edge drains first)."""
        self._signal_and_wait(name, signal.SIGTERM)

    def stop(self, name: str) -> None:
        """SIGSTOP: it hangs until `cont`."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def cont(self, name: str) -> None:
        """SIGCONT."""
        os.kill(self.pid(name), signal.SIGCONT)

    def start(self, name: str, timeout_s: float = 60.0) -> None:
        """Start what died, if nobody did yet, and wait until it is ready."""
        self._loop.call_soon_threadsafe(self._start_now, name)
        self.wait_ready(name, timeout_s)

    def restart(self, name: str, timeout_s: float = 60.0) -> None:
        """SIGTERM, start again, and wait until it is ready."""
        self.terminate(name)
        self.start(name, timeout_s)

    def wait_ready(self, name: str, timeout_s: float = 60.0) -> None:
        """Wait until /readyz says so (Redis: PING)."""
        self._call(self._ready(name, timeout_s), timeout_s + 5)

    async def _pause(self, name: str, seconds: float) -> None:
        """Wait before a restart: until `start`, or for `seconds` with `restart`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if self._restart else None):
                await self._wanted.setdefault(name, asyncio.Event()).wait()
        self._wanted.pop(name, None)

    def _start_now(self, name: str) -> None:
        if self.supervisor.children[name].ended.is_set():
            self._wanted.setdefault(name, asyncio.Event()).set()

    async def _ready(self, name: str, timeout_s: float) -> None:
        child, waits_for = self.supervisor.children[name], "its process"
        try:
            async with asyncio.timeout(timeout_s):
                while (waits_for := await child.spec.probe()) or child.pid is None:
                    await asyncio.sleep(_PROBE_EVERY_S)
        except TimeoutError:
            raise AssertionError(f"{name} is not ready after {timeout_s:g} s: {waits_for}") from None

    def _signal_and_wait(self, name: str, number: signal.Signals) -> None:
        child: Child = self.supervisor.children[name]
        deaths = child.deaths
        os.kill(self.pid(name), number)
        deadline = time.monotonic() + _DIES_WITHIN_S
        while child.deaths == deaths:
            assert time.monotonic() < deadline, f"{name} survived {number.name}"
            time.sleep(0.005)

    # What was said.

    def lines(self, name: str) -> list[str]:
        """Return all that a process logged; `---` lines are the supervisor's."""
        return list(self._lines.get(name, ()))

    def logs(self, last: int = _SHOWN_LINES) -> str:
        """The last lines of each process."""
        return "\n".join(
            line for name in list(self._lines) for line in (f"===== {name} =====", *self.lines(name)[-last:])
        )

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Two edges for the session; leave them healthy. For faults make your own `Stack`."""
    with Stack() as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the services said when a test that used a stack fails."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Stack):
                report.sections.append((f"logs of {name}", value.logs()))
    return report
