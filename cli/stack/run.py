"""Runs a whole stack: checks, start, description for other commands, stop.

`thalamus dev` and the tests both use this.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import CommandError, Refused
from cli.http import NoResponse, request
from cli.running import API_KEY_FILE, RunningStack, forget_running, write_running
from cli.stack import aof
from cli.stack.child import Pause, sleep
from cli.stack.last_ports import LastPorts
from cli.stack.plan import StackPlan
from cli.stack.ports import choose_ports, wanted_ports
from cli.stack.preflight import (
    check_namespaces,
    only_one,
    prepare_data,
    service_token,
    used_push,
    used_webhooks,
    write_secret,
)
from cli.stack.supervisor import StartFailed, Supervisor
from services.shared.hotlog.keys import DEFAULT_PREFIX
from services.shared.process.secrets import TlsFiles
from services.shared.redis.binary import find_redis_server

if TYPE_CHECKING:
    from cli.auth_rpc import AuthRpc

_API_TIMEOUT_S = 3.0
_KEY_VALID_WITHIN_S = 5.0  # longest wait until edges accept a new API key, seconds
_KEY_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """What the user who starts a stack decides."""

    data: Path
    channels_file: Path
    webhooks_file: Path | None = None  # None: no webhooks
    push_file: Path | None = None  # None: no notifications
    environment: Mapping[str, str]
    environment_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # additional variables by process
    edges: int = 1
    any_free_port: bool = False  # for ports that no variable names
    repair: bool = False  # repair Redis' append-only file before it starts
    start_timeout_s: float = 30.0


@asynccontextmanager
async def running_stack(
    settings: StackSettings,
    *,
    on_line: Callable[[str, bytes], None],
    on_event: Callable[[str, str, str], None],
    on_supervisor: Callable[[Supervisor], None] = lambda _: None,
    pause: Pause = sleep,
) -> AsyncIterator[tuple[Supervisor, StackPlan]]:
    """Context manager that runs a stack: inside, all of it is ready.

    Afterwards no process is left.

    Raises:
        ConfigError: data directory, a file of settings or ports are wrong; nothing was started.
        StartFailed: a process did not become ready.
    """
    prepare_data(settings.data)
    data = settings.data.resolve()
    check_namespaces(settings.channels_file)
    webhooks_file, push_file = used_webhooks(settings.webhooks_file), used_push(settings.push_file)
    with only_one(data):
        redis_server = find_redis_server()
        if settings.repair:
            on_event("INFO", "redis", await asyncio.to_thread(aof.repair, redis_server, data))
        aof.refuse_zeros(data)
        wanted = wanted_ports(
            settings.environment,
            settings.edges,
            any_free=settings.any_free_port,
            webhooks=webhooks_file is not None,
            notifier=push_file is not None,
        )
        last = LastPorts(data)
        ports = choose_ports(wanted, last=last.ports)
        for line in last.keep(wanted, ports):
            on_event("INFO", "ports", line)
        plan = StackPlan(
            data=data,
            environment=settings.environment,
            channels_file=settings.channels_file.resolve(),
            webhooks_file=webhooks_file,
            push_file=push_file,
            service_token_file=service_token(settings.environment.get("SERVICE_TOKEN_FILE"), data),
            redis_server=redis_server,
            edges=settings.edges,
            environment_of=settings.environment_of,
            ports=ports,
            certificates=_certificates(settings.environment, data),
        )
        try:
            async with Supervisor(
                plan.specs(),
                on_line=on_line,
                on_event=on_event,
                on_change=lambda: _write_running(data, describe(plan, supervisor), on_event),
                pause=pause,
            ) as supervisor:
                on_supervisor(supervisor)
                try:
                    await supervisor.start(settings.start_timeout_s)
                except StartFailed as failed:
                    raise StartFailed(
                        aof.explained(str(failed), failed.tail, data), failed.name, failed.tail
                    ) from failed
                yield supervisor, plan
        finally:
            forget_running(data)


def _certificates(environment: Mapping[str, str], data: Path) -> Path | None:
    """Return the folder with the certificates of services; None if SERVICE_TLS is off.

    Makes the certificates that are missing.
    """
    if environment.get("SERVICE_TLS", "off") == "off":
        return None
    from cli.secrets.services import ServiceCertificates

    folder = data / "certificates"
    ServiceCertificates(folder).make()
    return folder


def _auth(plan: StackPlan) -> AuthRpc:
    """Return the client of auth.

    It is imported here, because gRPC is slow to import and this runs while the services start.
    """
    from cli.auth_rpc import AuthRpc

    files = plan.service_tls_files("auth")
    return AuthRpc(
        plan.service_address("auth"), plan.service_token_file, TlsFiles(*map(Path, files)) if files else None
    )


def _write_running(data: Path, stack: RunningStack, on_event: Callable[[str, str, str], None]) -> None:
    try:
        write_running(data, stack)
    except OSError as error:  # a full disk prevents the file, not the stack
        text = f"other commands may not find this stack, {error.filename} can't be written: {error.strerror}"
        on_event("WARNING", "dev", text)


def describe(plan: StackPlan, supervisor: Supervisor) -> RunningStack:
    """Return the description of the stack for other commands."""
    return RunningStack(
        pid=os.getpid(),
        edges=plan.edge_addresses(),
        auth=plan.service_address("auth"),
        persistence=plan.service_address("persistence"),
        redis=plan.redis_url(),
        redis_prefix=plan.environment.get("REDIS_PREFIX", DEFAULT_PREFIX),
        service_token_file=str(plan.service_token_file),
        service_tls_files=plan.service_tls_files("auth"),
        persistence_tls_files=plan.service_tls_files("persistence"),
        internal=plan.internal_urls(),
        pids=supervisor.pids(),
    )


def mint(plan: StackPlan, user: str, ttl_s: int) -> str:
    """Return a connection token of the running stack. Blocks."""
    with _auth(plan) as auth:
        return auth.mint(user, ttl_s=ttl_s)


async def api_key(plan: StackPlan) -> str:
    """Return the API key of the first start, or a new one if auth does not know it.

    Raises:
        CommandError: auth makes none, or the edge does not accept it.
    """
    path = plan.data / API_KEY_FILE
    url = f"{plan.edge_addresses()[0].http}/api/info"
    if path.is_file():
        kept = path.read_text().strip()
        if await asyncio.to_thread(_accepted, url, kept):
            return kept

    def create() -> str:
        with _auth(plan) as auth:
            return auth.create_key("dev").key

    key = await asyncio.to_thread(create)
    write_secret(path, key)
    try:
        async with asyncio.timeout(_KEY_VALID_WITHIN_S):  # edges learn of it from auth
            while not await asyncio.to_thread(_accepted, url, key):
                await asyncio.sleep(_KEY_POLL_S)
    except TimeoutError as error:
        raise Refused(f"{url} does not accept the API key that auth has just made") from error
    return key


def _accepted(url: str, key: str) -> bool:
    try:
        status, body = request(
            "POST",
            url,
            body=b"{}",
            headers={"X-API-Key": key, "Content-Type": "application/json"},
            timeout_s=_API_TIMEOUT_S,
        )
    except NoResponse as error:
        raise CommandError(f"{url}: {error}") from error
    if status not in (200, 401):
        raise Refused(f"{url} answers {status}: {body[:200].decode('utf-8', 'replace')}")
    return status == 200
