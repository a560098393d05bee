"""Turns settings into the list of processes to run.

Nothing here touches a socket, a process or the content of a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.bundled import ROOT, bundled
from cli.running import EdgeAddress
from cli.stack.child import ChildSpec, Stage
from cli.stack.ports import edge_names
from cli.stack.probes import http_ready, redis_ready
from services.shared.addresses import with_port, without_brackets

_SERVICES = ("auth", "presence", "persistence")
_DRAIN_GRACE_S = "2"
_LOOPBACK = "127.0.0.1"
_LOOPBACK_ORIGINS = tuple(
    f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "[::1]")
)
_EVERYWHERE = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """Everything about a stack that is known before it starts."""

    data: Path
    environment: Mapping[str, str]  # base environment of all processes
    channels_file: Path
    service_token_file: Path
    redis_server: Path
    edges: int
    ports: Mapping[tuple[str, str], int]  # (owner, variable) → port
    environment_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # additional variables by process
    webhooks_file: Path | None = None  # None: no endpoint is configured, and the dispatcher does not run
    push_file: Path | None = None  # None: nobody is notified, and the notifier does not run
    certificates: Path | None = None  # folder with those of `thalamus certs --services`; None: services use no TLS

    def redis_url(self) -> str:
        return f"redis://{_LOOPBACK}:{self.ports['redis', 'REDIS_PORT']}/0"

    def service_address(self, service: str) -> str:
        """Return where the command line calls a service: over TLS where edges do."""
        return self._grpc_address(service, "GRPC_TLS_PORT" if self._calls_over_tls() else "GRPC_PORT")

    def service_tls_files(self, service: str) -> list[str]:
        """Return the files with which it may be called over TLS; empty: without."""
        return list(self._tls_files(service).values()) if self._calls_over_tls() else []

    def _calls_over_tls(self) -> bool:
        return self.environment.get("SERVICE_TLS") in ("use", "require")

    def _tls_files(self, service: str) -> dict[str, str]:
        """Return the settings that name the certificates of a service."""
        if self.certificates is None:
            return {}
        names = {"CA": "service_ca", "CERT": f"service_cert_{service}", "KEY": f"service_key_{service}"}
        return {f"SERVICE_TLS_{kind}_FILE": str(self.certificates / name) for kind, name in names.items()}

    def _grpc_address(self, service: str, port: str = "GRPC_PORT") -> str:
        return self._reached(f"{service.upper()}_HOST", self.ports[service, f"{service.upper()}_{port}"])

    def _reached(self, host_variable: str, port: int) -> str:
        """Return where this machine reaches a server that listens on that variable's host."""
        host = without_brackets(self.environment.get(host_variable, _LOOPBACK))
        return with_port(_LOOPBACK if host in _EVERYWHERE else host, port)

    def edge_addresses(self) -> list[EdgeAddress]:
        """Return where clients on this machine find the edges."""
        path = self.environment.get("EDGE_WEBSOCKET_PATH", "/connection/websocket")
        return [
            EdgeAddress(name=name, http=f"http://{place}", websocket=f"ws://{place}{path}")
            for name in edge_names(self.edges)
            for place in (self._reached("EDGE_HOST", self.ports[name, "EDGE_PORT"]),)
        ]

    def internal_urls(self) -> dict[str, str]:
        """Return the URL of each service's internal port, by service."""
        return {
            owner: f"http://{self._reached(variable.replace('PORT', 'HOST'), port)}"
            for (owner, variable), port in self.ports.items()
            if variable.endswith("INTERNAL_PORT")
        }

    def specs(self) -> list[ChildSpec]:
        """Return all processes, in the order of their stages."""
        services = [self._service(name) for name in _SERVICES]
        if self.webhooks_file is not None:
            services.append(self._webhooks(self.webhooks_file))
        if self.push_file is not None:
            services.append(self._notifier(self.push_file))
        return [self._redis(), *services, *(self._edge(name) for name in edge_names(self.edges))]

    def _redis(self) -> ChildSpec:
        port = self.ports["redis", "REDIS_PORT"]
        options = {
            "port": str(port),
            "bind": _LOOPBACK,
            "dir": str((self.data / "redis").resolve()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "hz": "5",  # less often than by default, 10 a second, which brings nothing here
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return ChildSpec(
            name="redis",
            command=(str(self.redis_server), *arguments),
            environment=self.environment,
            stage=Stage.REDIS,
            probe=redis_ready(port),
        )

    def _service(self, name: str) -> ChildSpec:
        own = {variable: str(port) for (owner, variable), port in self.ports.items() if owner == name}
        if name in ("auth", "persistence"):
            variable = f"{name.upper()}_DB"
            own[variable] = self.environment.get(variable) or str(self.data / f"{name}.sqlite3")
        if name == "auth":
            own["AUTH_REGISTRATION"] = self.environment.get("AUTH_REGISTRATION") or "open"
        return self._python(name, name, Stage.SERVICE, own)

    def _webhooks(self, file: Path) -> ChildSpec:
        own = {
            "WEBHOOKS_INTERNAL_PORT": str(self.ports["webhooks", "WEBHOOKS_INTERNAL_PORT"]),
            "WEBHOOKS_FILE": str(file),
        }
        return self._python("webhooks", "persistence", Stage.SERVICE, own, "webhooks")

    def _notifier(self, file: Path) -> ChildSpec:
        own = {
            "NOTIFIER_INTERNAL_PORT": str(self.ports["notifier", "NOTIFIER_INTERNAL_PORT"]),
            "PUSH_FILE": str(file),
            **self._addresses("NOTIFIER", ("presence", "persistence")),
            **self._tls_files("notifier"),
        }
        return self._python("notifier", "persistence", Stage.SERVICE, own, "notifier")

    def _addresses(self, caller: str, services: Iterable[str]) -> dict[str, str]:
        """Where a process finds the services that it calls."""
        found = {f"{caller}_{one.upper()}_ADDR": self._grpc_address(one) for one in services}
        if self.certificates is not None:
            found |= {f"{caller}_{one.upper()}_TLS_ADDR": self._grpc_address(one, "GRPC_TLS_PORT") for one in services}
        return found

    def _edge(self, name: str) -> ChildSpec:
        own = {variable: str(self.ports[name, variable]) for variable in ("EDGE_PORT", "EDGE_INTERNAL_PORT")}
        own |= self._addresses("EDGE", _SERVICES)
        # Pages under development are served from other ports of this machine.
        listed = self.environment.get("EDGE_ALLOWED_ORIGINS", "").strip().strip(",")
        own["EDGE_ALLOWED_ORIGINS"] = ",".join((*([listed] if listed else []), *_LOOPBACK_ORIGINS))
        own["EDGE_DRAIN_GRACE_S"] = self.environment.get("EDGE_DRAIN_GRACE_S") or _DRAIN_GRACE_S
        own["EDGE_WEB_DIR"] = self.environment.get("EDGE_WEB_DIR") or str(bundled("web"))
        return self._python(name, "edge", Stage.EDGE, own)

    def _python(self, name: str, package: str, stage: Stage, own: Mapping[str, str], *arguments: str) -> ChildSpec:
        environment = {
            **self.environment,
            "REDIS_URL": self.redis_url(),
            "SERVICE_TOKEN_FILE": str(self.service_token_file),
            "CHANNELS_FILE": str(self.channels_file),
            **self._tls_files(package),
            "PYTHONPATH": os.pathsep.join(_import_paths(self.environment.get("PYTHONPATH"))),
            **own,
            **self.environment_of.get(name, {}),
        }
        return ChildSpec(
            name=name,
            # -P: not from the current directory
            command=(sys.executable, "-P", "-m", f"services.{package}", *arguments),
            environment=environment,
            stage=stage,
            probe=http_ready(f"{self.internal_urls()[name]}/readyz"),
        )


def _import_paths(inherited: str | None) -> list[str]:
    """Return import paths by which children run the same code as this process.

    A checkout is added, since another one may be installed. An installed wheel is found without.
    """
    stubs = ROOT / "proto" / "gen"
    checkout = [str(ROOT), str(stubs)] if stubs.is_dir() else []
    return checkout + ([inherited] if inherited else [])
