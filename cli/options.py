"""Options that several commands share, and how to do without them.

Where an option is not given, the running stack of `thalamus dev` is found by its data directory.
"""

from __future__ import annotations

import os
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.errors import WrongUsage
from cli.realtime.messages import Position
from cli.running import API_KEY_FILE, RunningStack, find_running
from services.shared.checks import MAX_TIME_S
from services.shared.hotlog.keys import use_prefix
from services.shared.process.config import read_env
from services.shared.process.secrets import TlsFiles
from services.shared.startup.config import GrpcServiceConfig, ProcessConfig, ServiceTls

DEFAULT_DATA = Path("data")
_DEFAULT_URL = "http://127.0.0.1:8001"
_DEFAULT_AUTH = "127.0.0.1:9001"
_AUTH_TLS_PORT = 9011
_DEFAULT_PERSISTENCE = "127.0.0.1:9003"
_PERSISTENCE_TLS_PORT = 9013
_WEBSOCKET_PATH = "/connection/websocket"
_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}
_NUMBER = re.compile(r"0*[1-9][0-9]{0,11}")
Command = TypeVar("Command", bound=Callable[..., Any])


class PositionType(click.ParamType[Position]):
    """Click type of `OFFSET:EPOCH`. Without an epoch any epoch matches."""

    name = "offset:epoch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Position:
        if isinstance(value, Position):
            return value
        offset, _, epoch = str(value).partition(":")
        if not (offset.isascii() and offset.isdecimal()) or int(offset) >= 1 << 64:
            self.fail(f"{value!r} is not OFFSET:EPOCH, such as 12:khFzNyMu", param, ctx)
        return Position(int(offset), epoch)


class Duration(click.ParamType[int]):
    """A time such as `90d`, `12h` or `30m`, as seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number, unit = str(value)[:-1], str(value)[-1:]
        if unit not in _UNITS_S or not _NUMBER.fullmatch(number):
            self.fail(f"{value!r} is no time such as 90d, 12h or 30m", param, ctx)
        seconds = int(number) * _UNITS_S[unit]
        if time.time() + seconds >= MAX_TIME_S:
            self.fail(f"{value!r} ends after the year 9999", param, ctx)
        return seconds


data_option = click.option(
    "--data",
    envvar="THALAMUS_DATA",
    show_envvar=True,
    type=click.Path(path_type=Path),
    default=DEFAULT_DATA,
    show_default=True,
    help="Data directory of `thalamus dev`.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
_issuer_option = click.option(
    "--issuer",
    envvar="EDGE_TOKEN_ISSUER",
    show_envvar=True,
    default="",
    help="Claim `iss` of tokens signed with --secret-file.",
)
_audience_option = click.option(
    "--audience",
    envvar="EDGE_TOKEN_AUDIENCE",
    show_envvar=True,
    default="",
    help="Claim `aud` of tokens signed with --secret-file.",
)
_url_option = click.option(
    "--url", envvar="THALAMUS_URL", show_envvar=True, help="An edge [the running stack's first]."
)
_key_option = click.option(
    "--api-key", envvar="THALAMUS_API_KEY", show_envvar=True, help="API key [the running stack's]."
)
_auth_option = click.option(
    "--auth", envvar="THALAMUS_AUTH_ADDR", show_envvar=True, help="HOST:PORT of auth [the running stack's]."
)
_persistence_option = click.option(
    "--persistence",
    envvar="THALAMUS_PERSISTENCE_ADDR",
    show_envvar=True,
    help="HOST:PORT of persistence [the running stack's].",
)
_service_token_option = click.option(
    "--service-token-file",
    envvar="SERVICE_TOKEN_FILE",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="File with the secret by which services know one another [the running stack's].",
)


def url_options(command: Command) -> Command:
    """Add --url and --data."""
    return _url_option(data_option(command))


def api_options(command: Command) -> Command:
    """Add --url, --api-key, --data and --json."""
    return _url_option(_key_option(data_option(json_option(command))))


def signing_options(command: Command) -> Command:
    """Add --issuer and --audience."""
    return _issuer_option(_audience_option(command))


def auth_options(command: Command) -> Command:
    """Add --auth and --service-token-file."""
    return _auth_option(_service_token_option(command))


def persistence_options(command: Command) -> Command:
    """Add --persistence and --service-token-file."""
    return _persistence_option(_service_token_option(command))


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Address of a service, and the files with its token, or with certificates."""

    address: str
    service_token_file: Path | None
    tls: TlsFiles | None = None


def find_auth(data: Path, auth: str | None, service_token_file: Path | None) -> ServiceAddress:
    """Return the address of auth: from the options, the running stack or defaults.

    Over mTLS where the environment says so, as in the container of auth, or where the running stack does.

    Raises:
        ConfigError: the environment says so, and does not name the certificates.
    """
    stack = find_running(data)
    known = (stack.auth, stack.service_tls_files) if stack else (_DEFAULT_AUTH, [])
    return _find_service("AUTH_", _AUTH_TLS_PORT, stack, known, auth, service_token_file)


def find_persistence(data: Path, persistence: str | None, service_token_file: Path | None) -> ServiceAddress:
    """Return the address of persistence, as `find_auth` does.

    Raises:
        ConfigError: the environment says so, and does not name the certificates.
    """
    stack = find_running(data)
    known = (stack.persistence, stack.persistence_tls_files) if stack else (_DEFAULT_PERSISTENCE, [])
    return _find_service("PERSISTENCE_", _PERSISTENCE_TLS_PORT, stack, known, persistence, service_token_file)


def _find_service(
    prefix: str,
    tls_port: int,
    stack: RunningStack | None,
    known: tuple[str, list[str]],
    address: str | None,
    service_token_file: Path | None,
) -> ServiceAddress:
    """Return an address; `known`: address and certificates by default."""
    if service_token_file is None and stack is not None:
        service_token_file = Path(stack.service_token_file)
    config = read_env(GrpcServiceConfig, os.environ, prefix)
    if config.tls in (ServiceTls.USE, ServiceTls.REQUIRE):
        return ServiceAddress(address or f"127.0.0.1:{config.grpc_tls_port or tls_port}", None, config.tls_files())
    files = known[1]
    return ServiceAddress(address or known[0], service_token_file, TlsFiles(*map(Path, files)) if files else None)


def find_redis(data: Path) -> str:
    """Return the address of Redis.

    It is from the environment, the running stack, or the default. From now on names of keys begin with the prefix from
    there.

    Raises:
        ConfigError: a variable is wrong, or a file can't be read.
    """
    config = read_env(ProcessConfig, os.environ, "")
    stack = None if "REDIS_URL" in os.environ else find_running(data)
    use_prefix(stack.redis_prefix if stack else config.redis_prefix)
    return stack.redis if stack else config.redis_address()


def find_url(data: Path, url: str | None) -> str:
    """Return the HTTP address of an edge, without a slash at the end.

    Raises:
        WrongUsage: it is not an http address.
    """
    if url is None:
        stack = find_running(data)
        url = stack.edges[0].http if stack else _DEFAULT_URL
    parts = _split(url, ("http", "https"))
    return f"{parts.scheme}://{parts.netloc}"


def find_websocket(data: Path, url: str | None) -> str:
    """Return the WebSocket address of an edge.

    `url` may be an http address, and its path may be left out.

    Raises:
        WrongUsage: it is not an http or ws address.
    """
    if url is None:
        stack: RunningStack | None = find_running(data)
        url = stack.edges[0].websocket if stack else _DEFAULT_URL
    parts = _split(url, tuple(_WEBSOCKET_SCHEMES))
    path = parts.path if parts.path not in ("", "/") else _WEBSOCKET_PATH
    query = f"?{parts.query}" if parts.query else ""
    return f"{_WEBSOCKET_SCHEMES[parts.scheme]}://{parts.netloc}{path}{query}"


def _split(url: str, schemes: tuple[str, ...]) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0  # `.port` raises if it is no port
    except ValueError:
        good = False
    if not good:
        raise WrongUsage(f"--url {url!r} is no address such as {_DEFAULT_URL}")
    return parts


def find_api_key(data: Path, key: str | None) -> str:
    """Return the API key from the option, or the one that `thalamus dev` keeps.

    Raises:
        WrongUsage: there is none.
    """
    if key is not None:
        return key
    try:
        return (data / API_KEY_FILE).read_text().strip()
    except OSError as error:
        raise WrongUsage(
            f"no API key: give --api-key or THALAMUS_API_KEY, or start `thalamus dev` ({data / API_KEY_FILE}: "
            f"{error.strerror})"
        ) from error
