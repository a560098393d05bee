"""Two replicas of a service behind one name, as a deployed stack has them.

The name is known to the edges alone: they read a file at their start that answers for it. The second replica listens
on the same port of another address.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from cli.bundled import ROOT
from cli.stack.ports import edge_names
from tests.support.faults import free_port
from tests.support.stack import Stack

_HOST = "replicas.test"
_SECOND = "127.0.0.2"
_STARTS_WITHIN_S = 90.0
_RESOLVER = f'''
import asyncio

import uvloop


def knowing(before):
    async def getaddrinfo(self, host, port, **options):
        if host == "{_HOST}":
            return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "{_SECOND}")]
        return await before(self, host, port, **options)

    return getaddrinfo


for loop in (uvloop.Loop, asyncio.BaseEventLoop):
    loop.getaddrinfo = knowing(loop.getaddrinfo)
'''


def _edge(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of an edge that knows the name."""
    return {**environment, "PYTHONPATH": os.pathsep.join([str(folder), environment["PYTHONPATH"]])}


class TwoReplicas:
    """A stack whose edges know two replicas of a service; a context manager.

    `service`: presence or persistence. `names`: those of its replicas. `environment` is everybody's. `options` are
    those of `Stack`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        service: str = "presence",
        edges: int,
        environment: dict[str, str],
        environment_of: Mapping[str, Mapping[str, str]] | None = None,
        environment_of_second: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        (folder / "sitecustomize.py").write_text(_RESOLVER)
        self._service, self._variable = service, service.upper()
        self.names = (service, f"{service}-2")
        self.environment_of_second = environment_of_second or {}  # counts from its next start
        self._port, self._internal = free_port(), free_port()
        self._environment = {**environment, f"{self._variable}_GRPC_PORT": str(self._port)}
        of_edge = {
            f"EDGE_{self._variable}_ADDR": f"{_HOST}:{self._port}",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "proto" / "gen"))),
        }
        self.stack = Stack(
            edges=edges,
            environment=self._environment,
            environment_of={
                **(environment_of or {}),
                **{
                    name: _edge(folder, {**of_edge, **(environment_of or {}).get(name, {})})
                    for name in edge_names(edges)
                },
            },
            restart=False,
            **options,
        )
        self._log = folder / f"{self.names[1]}.log"
        self._second: subprocess.Popen[bytes] | None = None
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        self._exits.enter_context(self.stack)
        self._exits.callback(self._end_second)
        try:
            self.start(self.names[1])
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def _end_second(self) -> None:
        if self._second is not None:
            self._second.kill()
            self._second.wait()
            self._second = None

    def logs(self) -> str:
        """What the second replica said."""
        return self._log.read_text()

    # Faults. All of these block until it is so; `name` is one of `names`.

    def kill9(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        if name == self.names[0]:
            self.stack.kill9(name)
        else:
            self._end_second()

    def stop(self, name: str) -> None:
        """SIGSTOP."""
        os.kill(self._pid(name), signal.SIGSTOP)

    def cont(self, name: str) -> None:
        """SIGCONT."""
        os.kill(self._pid(name), signal.SIGCONT)

    def start(self, name: str) -> None:
        """Start what was killed, and wait until it is ready."""
        if name == self.names[0]:
            self.stack.start(name)
            return
        environment = {
            **self.stack.supervisor.children[self.names[0]].spec.environment,
            f"{self._variable}_HOST": _SECOND,
            f"{self._variable}_INTERNAL_PORT": str(self._internal),
            **self.environment_of_second,
        }
        command = [sys.executable, "-P", "-m", f"services.{self._service}"]
        with self._log.open("ab") as log:
            self._second = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._is_ready():
            assert self._second.poll() is None, self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def _pid(self, name: str) -> int:
        if name == self.names[0]:
            return self.stack.pid(name)
        assert self._second is not None, f"{name} does not run"
        return self._second.pid

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._internal}/readyz", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False
