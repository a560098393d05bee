"""redis-py clients with deadlines and without retries; check of the server.

Most calls go over `pipeline.RedisPipeline` instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.redis.address import Tls, parse_redis_url

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 1.0  # longest wait for a connection, seconds
CALL_TIMEOUT_S = 2.5  # longest wait for a reply, or for a free connection of the pool, seconds
MAX_CONNECTIONS = 64  # of one pool
_OLDEST = (7, 0)  # version of Redis


class MayNotAsk(ConfigError):
    """Our user of Redis has no right to use INFO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server says of itself; `run_id` changes with every start of it."""

    name: str
    version: str
    run_id: str
    maxmemory_policy: str


def redis_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """Create a client for a `redis://`, `rediss://` or `unix://` address.

    `options` are those of the connection pool. The library retries nothing: only callers know whether a command may be
    repeated. Connecting takes 1 s at most, a reply 2.5 s, and waiting for one of 64 connections 2.5 s.

    Raises:
        ConfigError: `url` is not such an address.
    """
    settings: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": CALL_TIMEOUT_S,
        "max_connections": MAX_CONNECTIONS,
        "timeout": CALL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        "decode_responses": False,
        "driver_info": None,  # it would be sent with CLIENT SETINFO, which Redis 7.0 does not know
        **options,
    }
    return redis.asyncio.Redis.from_pool(redis.asyncio.BlockingConnectionPool(**{**_place(url), **settings}))


def _place(url: str) -> dict[str, Any]:
    """Options of a pool for the address and the login."""
    address = parse_redis_url(url)
    options: dict[str, Any] = {"db": address.db, "username": address.username or None}
    options["password"] = address.password or None
    if address.path:
        return options | {"connection_class": UnixDomainSocketConnection, "path": address.path}
    options |= {"host": address.host, "port": address.port}
    return options if address.tls is None else options | {"connection_class": _TlsConnection, "tls": address.tls}


class _TlsConnection(SSLConnection):
    """TLS connection with the same context as all other connections."""

    def __init__(self, *, tls: Tls, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context = tls  # type: ignore[assignment]  # redis-py calls its `get` for every connection


async def check_server(client: redis.asyncio.Redis) -> ServerInfo:
    """Ask the server what it is; log a warning if it may evict keys.

    Raises:
        MayNotAsk: our user may not use INFO.
        ConfigError: it is older than Redis 7.0 (any Valkey is new enough), in cluster mode, or refuses the password.
        Unavailable: it does not answer, or is busy or loading.
    """
    try:
        said: dict[str, Any] = {**await client.info("server"), **await client.info("memory")}
    except exceptions.NoPermissionError as error:
        raise MayNotAsk(f"REDIS_URL: its user may not use INFO: {error}") from error
    except (exceptions.AuthenticationError, exceptions.AuthorizationError) as error:
        raise ConfigError(f"REDIS_URL: refused by the server: {error}") from error
    except (exceptions.RedisError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    info = _server_info(said)
    if info.maxmemory_policy != "noeviction":
        logger.warning(
            "Redis may evict what must be kept: set maxmemory-policy noeviction",
            extra={"maxmemory_policy": info.maxmemory_policy},
        )
    return info


def _server_info(said: dict[str, Any]) -> ServerInfo:
    """Pick what we need from a reply to INFO.

    Valkey has a `redis_version` for compatibility, 7.2 or later, beside its own name and version.

    Raises:
        ConfigError: the server is too old, or in cluster mode.
    """
    compatible = str(said.get("redis_version", ""))
    name = str(said.get("server_name", "redis"))
    if "cluster" in (said.get("redis_mode"), said.get("server_mode")):
        raise ConfigError("REDIS_URL: this Redis runs in cluster mode, which is not supported: use one without it")
    info = ServerInfo(
        name=name,
        version=str(said.get(f"{name}_version", compatible)),
        run_id=str(said.get("run_id", "")),
        maxmemory_policy=str(said.get("maxmemory_policy", "")),
    )
    try:
        numbers = tuple(int(part) for part in compatible.split(".")[:2])
    except ValueError:
        numbers = ()
    if numbers < _OLDEST:
        raise ConfigError(f"REDIS_URL: needs Redis 7.0 or later, or Valkey; this is {info.name} {info.version or '?'}")
    return info
