"""The deployed stack, on a Swarm of this machine alone, for tests.

It is what `make up` deploys.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import jwt

from tests.swarm.docker import DockerError, docker, rows, until

ROOT = Path(__file__).parents[2]
_START_S = 120.0
_STOP_S = 90.0
NAME = "thalamus-test"
SERVICES = ("balancer", "edge", "auth", "presence", "persistence", "redis", "dynamodb", "prometheus", "grafana")

# What a client of the stack needs to subscribe to chat.
IN_CHAT = {"channels": ["chat:*"], "match": "wildcard", "allow": ["sub"]}


class SwarmStack:
    """`docker stack deploy` of dev-stack.yml under its own name and ports."""

    def __init__(self, environment: Mapping[str, str], secrets: Path) -> None:
        """`environment`: what the stack file reads; `secrets`: the folder of its own."""
        self.secrets = secrets
        self.environment = {
            "STACK": NAME,
            "SECRETS": str(secrets),
            "PUBLIC_PORT": "18000",
            "PUBLIC_TLS_PORT": "18443",
            "PROMETHEUS_PORT": "19090",
            "FRONT_SUBNET": "10.203.0.0/22",
            **environment,
        }
        self.http = f"http://127.0.0.1:{self.environment['PUBLIC_PORT']}"
        self.websocket = f"ws://127.0.0.1:{self.environment['PUBLIC_PORT']}/connection/websocket"
        self._api_key = ""

    def up(self, **changes: str) -> None:
        """`make up`, with these variables changed from now on; returns at once."""
        self.environment |= changes
        done = subprocess.run(
            [str(ROOT / "deploy" / "up.sh")],
            env={"UP_WAIT_S": "0", **os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise DockerError(f"up: {done.stdout}{done.stderr}")

    def down(self) -> None:
        """Remove it with its volumes, and wait until nothing of it is left.

        What is not there is no error.
        """
        docker("stack", "rm", NAME)
        label = f"label=com.docker.stack.namespace={NAME}"
        until(lambda: not docker("ps", "-aq", "--filter", label).strip(), _STOP_S, "containers are left")
        until(lambda: not docker("network", "ls", "-q", "--filter", label).strip(), _STOP_S, "networks are left")
        for volume in docker("volume", "ls", "-q", "--filter", label).split():
            docker("volume", "rm", volume)
        for kind in ("secret", "config"):
            for name in docker(kind, "ls", "-q", "--filter", label).split():
                docker(kind, "rm", name)

    def wait_healthy(self, limit_s: float = _START_S) -> None:
        """Wait until every service has its replicas and an edge answers.

        Through the balancer.
        """
        until(self._is_whole, limit_s, lambda: f"replicas: {self.replicas()}")
        until(lambda: self.status("/") == 200, 30.0, "no edge answers through the balancer")

    def replicas(self) -> dict[str, str]:
        """Service → "running/wanted"."""
        found = rows("service", "ls", "--filter", f"label=com.docker.stack.namespace={NAME}")
        return {row["Name"].removeprefix(f"{NAME}_"): row["Replicas"].split(" ")[0] for row in found}

    def _is_whole(self) -> bool:
        found = self.replicas()
        return len(found) >= len(SERVICES) and all(len(set(each.split("/"))) == 1 for each in found.values())

    def tasks(self) -> str:
        """Every task of the stack, also of those that ended, and why."""
        return docker("stack", "ps", "--no-trunc", NAME)

    def status(self, path: str) -> int:
        """HTTP status of a GET through the balancer; 0: no answer."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=3) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except (urllib.error.URLError, OSError):
            return 0

    # Containers.

    def containers(self, service: str) -> list[str]:
        """Ids of the running ones."""
        label = f"label=com.docker.swarm.service.name={NAME}_{service}"
        return docker("ps", "-q", "--no-trunc", "--filter", label, "--filter", "status=running").split()

    def execute(self, service: str, *command: str) -> str:
        """In the first container of a service."""
        return docker("exec", self.containers(service)[0], *command)

    def scale(self, service: str, replicas: int) -> None:
        """`docker service scale`, at once."""
        docker("service", "scale", "--detach", f"{NAME}_{service}={replicas}")

    def update(self, service: str, *options: str) -> None:
        """`docker service update --force`.

        Every task is replaced, by the stack's own rules. Returns at once.
        """
        docker("service", "update", "--detach", "--force", *options, f"{NAME}_{service}")

    def wait_updated(self, service: str, limit_s: float = 240.0) -> str:
        """Until the update is over; returns its state.

        "completed", "rollback_completed", …
        """
        template = "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}"

        def state() -> str:
            return docker("service", "inspect", "--format", template, f"{NAME}_{service}").strip()

        until(lambda: state() not in ("updating", "rollback_started"), limit_s, lambda: f"{service} is {state()}")
        return state()

    def wait_changed(self, service: str) -> None:
        """After `up`: wait until the update of this service went well, and all is healthy."""
        time.sleep(2)
        state = self.wait_updated(service)
        if state not in ("", "completed"):
            raise DockerError(f"{service}: {state}")
        self.wait_healthy()

    def logs(self, service: str, lines: int = 200) -> str:
        """Of the containers of its tasks, also of those that ended.

        (`docker service logs` may hang on these.)
        """
        label = f"label=com.docker.swarm.service.name={NAME}_{service}"
        found = []
        for container in docker("ps", "-aq", "--filter", label).split():
            try:
                found.append(docker("logs", "--tail", str(lines), container, timeout_s=20.0, with_errors=True))
            except (DockerError, subprocess.TimeoutExpired) as error:
                found.append(str(error))
        return "\n".join(found)

    def all_logs(self, lines: int) -> str:
        """The same of every service."""
        return "\n".join(f"--- {service}\n{self.logs(service, lines)}" for service in SERVICES)

    # Who may.

    @property
    def api_key(self) -> str:
        """Made once, as the documentation says: by `thalamus api-key` beside auth."""
        if not self._api_key:
            said = self.execute("auth", "thalamus", "api-key", "create", "tests")
            self._api_key = said.strip().splitlines()[-1]
        return self._api_key

    def token(self, user: str, ttl_s: int = 3_600) -> str:
        """Signed with the deployment's own secret."""
        secret = (self.secrets / "token_secret").read_bytes()
        claims = {"sub": user, "exp": int(time.time()) + ttl_s, "caps": [IN_CHAT]}
        return jwt.encode(claims, secret, algorithm="HS256")
