"""Settings of the edge, read once from environment variables before it starts.

The public port (`TransportOptions`) and the domain (`Settings`) declare their own settings, with defaults and ranges.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from services.edge.domain.access.algorithms import ALGORITHMS, DEFAULT_ALGORITHMS
from services.edge.domain.settings import Settings
from services.edge.transport.options import TransportOptions
from services.shared.addresses import why_not_called
from services.shared.hotlog.hotlog import META_TTL_S
from services.shared.process.config import HIGHEST_PORT, ConfigError, field_env, group, number, shown
from services.shared.startup.config import FeedConfig, ServiceConfig, ServiceTls

_AUTO = "auto"
_ISSUER_AND_URL = re.compile(r"(.+?)=(https?://.+)")  # the first `=` before an address: addresses may have more
_MOST_WORKERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig(ServiceConfig):
    """All settings of an edge; `docs/configuration.md` explains each."""

    name: str = ""  # shown by /api/info; empty: made from the edge's id
    port: int = number(8001, 0, HIGHEST_PORT)
    workers: str = "1"  # processes on the public port, see `workers.py`; `auto`: see `worker_count`
    channels_file: Path = field_env("CHANNELS_FILE", Path("config/channels.toml"))
    hooks_file: Path | None = field_env("HOOKS_FILE", None)  # None: see `make_hooks`
    auth_addr: str = "127.0.0.1:9001"
    presence_addr: str = "127.0.0.1:9002"
    persistence_addr: str = "127.0.0.1:9003"
    auth_tls_addr: str = "127.0.0.1:9011"  # these three are used instead where edges call over mTLS
    presence_tls_addr: str = "127.0.0.1:9012"
    persistence_tls_addr: str = "127.0.0.1:9013"
    web_dir: Path = Path("web")
    websocket_path: str = "/connection/websocket"  # of the Centrifugal protocol
    drain_grace_s: float = number(25.0, 0)

    hs256_secret_file: Path | None = field_env("AUTH_HS256_SECRET_FILE", None)
    hs256_previous_secret_file: Path | None = field_env("AUTH_HS256_PREVIOUS_SECRET_FILE", None)
    token_algorithms: tuple[str, ...] = tuple(sorted(DEFAULT_ALGORITHMS))
    jwks_urls: tuple[str, ...] = ()  # as `issuers` reads them
    token_audience: str = ""
    token_issuer: str = ""
    token_leeway_s: float = number(0.0, 0)
    token_in_query: bool = False  # whether a handshake may bring its token as `?token=`

    history_meta_ttl_s: int = number(META_TTL_S, 1)
    max_batch_delay_s: float = number(0.015, 0)

    feed: FeedConfig = group(FeedConfig)
    transport: TransportOptions = group(TransportOptions)
    domain: Settings = group(Settings)

    def __post_init__(self) -> None:
        if unknown := set(self.token_algorithms) - ALGORITHMS:
            raise ConfigError(
                f"EDGE_TOKEN_ALGORITHMS: {shown(', '.join(sorted(unknown)))} is none of {', '.join(sorted(ALGORITHMS))}"
            )
        if not self.token_algorithms:
            raise ConfigError("EDGE_TOKEN_ALGORITHMS must name at least one algorithm")
        self.issuers()
        if 0 < self.domain.ping_interval_s <= self.domain.pong_timeout_s:
            raise ConfigError("EDGE_PONG_TIMEOUT_S must be shorter than EDGE_PING_INTERVAL_S")
        if self.workers != _AUTO and self.workers not in map(str, range(1, _MOST_WORKERS + 1)):
            raise ConfigError(f"EDGE_WORKERS must be auto, or a number from 1 to {_MOST_WORKERS}, not {self.workers!r}")
        if self.internal_port + self.worker_count() - 1 > HIGHEST_PORT:
            raise ConfigError(
                f"EDGE_INTERNAL_PORT={self.internal_port} leaves no port for {self.worker_count()} workers"
            )

    def issuers(self) -> dict[str, str]:
        """Return the addresses of the key sets of external issuers, by issuer.

        Raises:
            ConfigError: an entry is not `issuer=url`, has an address that must not be used, or an issuer that another
                entry has.
        """
        found: dict[str, str] = {}
        for place, entry in enumerate(self.jwks_urls, 1):
            pair = _ISSUER_AND_URL.fullmatch(entry)
            if pair is None:  # it may hold a password, so it is not shown
                raise ConfigError(f"EDGE_JWKS_URLS: entry {place} is not issuer=https://…")
            issuer, url = pair.groups()
            if issuer in found:
                raise ConfigError(f"EDGE_JWKS_URLS has two addresses for the issuer {shown(issuer)}")
            if why := why_not_called(url):
                raise ConfigError(f"EDGE_JWKS_URLS: the address of {shown(issuer)} {why}")
            found[issuer] = url
        return found

    def addresses(self) -> dict[str, str]:
        """Return host:port of the services by name; their mTLS ports if edges use mTLS."""
        if self.calls_over_tls:
            addresses = (self.auth_tls_addr, self.presence_tls_addr, self.persistence_tls_addr)
        else:
            addresses = (self.auth_addr, self.presence_addr, self.persistence_addr)
        return dict(zip(("auth", "presence", "persistence"), addresses, strict=True))

    @property
    def calls_over_tls(self) -> bool:
        """Whether the edge calls other services over mTLS.

        Raises:
            ConfigError: as for `tls`.
        """
        return self.tls in (ServiceTls.USE, ServiceTls.REQUIRE)

    def worker_count(self) -> int:
        """Return the number of edge processes.

        `auto` is one per core, less one core for Redis and the other services, and at least one.
        """
        return max(_cores() - 1, 1) if self.workers == _AUTO else int(self.workers)


def _cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
