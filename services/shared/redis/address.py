"""Address of Redis: parses `REDIS_URL` strictly, for every kind of connection."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from services.shared.process.config import ConfigError

DEFAULT_PORT = 6379
_CertReqs = Literal["required", "optional", "none"]
_VERIFY = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_TLS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_CUT = "a part of the password, it seems, was taken for something else: write / as %2F, ? as %3F, # as %23, @ as %40"
_PARAMETERS = ("db", "username", "password", *_TLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS options of a `rediss://` URL.

    Without `ca_certs` the authorities of the system are trusted.
    """

    ca_certs: str = ""
    cert_reqs: _CertReqs = "required"
    certfile: str = ""
    keyfile: str = ""
    check_hostname: bool = True

    def get(self) -> ssl.SSLContext:
        """Return the context for the next connection; replaced files are read again.

        Raises:
            OSError: a file can't be read, or is no certificate or key.
        """
        files = (self.ca_certs, self.certfile, self.keyfile)
        return _context(self, tuple(os.stat(path).st_mtime_ns for path in files if path))


@lru_cache(maxsize=4)
def _context(tls: Tls, _changed: tuple[int, ...]) -> ssl.SSLContext:
    """Build a context; `_changed`, the times of the files, is part of the cache key."""
    context = ssl.create_default_context(cafile=tls.ca_certs or None)
    context.check_hostname = tls.check_hostname
    context.verify_mode = _VERIFY[tls.cert_reqs]
    if tls.certfile:
        context.load_cert_chain(tls.certfile, tls.keyfile or None, _no_passphrase)
    return context


def _no_passphrase() -> str:
    """Refuse a key with a passphrase; OpenSSL would ask for it at the terminal."""
    raise ssl.SSLError("the key has a passphrase, which can't be given")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Server, database and login.

    `path`: of a Unix socket, instead of host and port.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: Tls | None = None

    @property
    def auth(self) -> tuple[str, ...]:
        """The command that logs in; empty if none is needed."""
        if not (self.username or self.password):
            return ()
        return ("AUTH", *((self.username,) if self.username else ()), self.password)


def parse_redis_url(url: str) -> RedisAddress:
    """Parse a `redis://`, `rediss://` or `unix://` URL.

    Raises:
        ConfigError: it is not one, or has a parameter that is unknown, given twice or without effect. The text shows no
            password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may show a part of the password
        raise ConfigError(
            "REDIS_URL: host or port can't be read; in a password write / as %2F, ? as %3F, # as %23, @ as %40"
        ) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("REDIS_URL must begin with redis://, rediss:// or unix://")
    given = _parameters(parts.query)
    if parts.fragment:
        raise ConfigError("REDIS_URL: what follows # has no meaning; in a password write %23")
    if parts.scheme == "unix":
        if not parts.path or parts.hostname:
            raise ConfigError("REDIS_URL: unix:// needs the path of a socket, from the root on: unix:///run/redis.sock")
        place = RedisAddress(path=unquote(parts.path))
    else:
        place = RedisAddress(host=unquote(parts.hostname or "localhost"), port=DEFAULT_PORT if port is None else port)
    return RedisAddress(
        host=place.host,
        port=place.port,
        path=place.path,
        db=_database("" if place.path else unquote(parts.path).strip("/"), given.get("db")),
        username=unquote(parts.username or "") or given.get("username", ""),
        password=unquote(parts.password or "") or given.get("password", ""),
        tls=_tls(given, secure=parts.scheme == "rediss"),
    )


def _parameters(query: str) -> dict[str, str]:
    """Parameters of the query; each may be given once."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS and "@" in query:
            raise ConfigError(f"REDIS_URL: {_CUT}")
        if name not in _PARAMETERS:
            raise ConfigError(f"REDIS_URL: unknown parameter {name!r}; known are {', '.join(_PARAMETERS)}")
        if name in given:
            raise ConfigError(f"REDIS_URL: {name} is given twice")
        given[name] = value
    return given


def _database(in_path: str, in_query: str | None) -> int:
    """Number of the database, from the path or the query."""
    if in_path and in_query is not None:
        raise ConfigError("REDIS_URL: the database is given twice, as path and as db")
    text = in_path or in_query or "0"
    if "@" in in_path:
        raise ConfigError(f"REDIS_URL: {_CUT}")
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"REDIS_URL: the database must be a number, not {text!r}")
    return int(text)


def _tls(given: dict[str, str], *, secure: bool) -> Tls | None:
    """TLS options from the query; None if the URL is not `rediss://`."""
    if not secure:
        for name in _TLS:
            if name in given:
                raise ConfigError(f"REDIS_URL: {name} needs rediss://")
        return None
    reqs = given.get("ssl_cert_reqs", "required").lower()
    check = given.get("ssl_check_hostname", "false" if reqs == "none" else "true").lower()
    if reqs not in get_args(_CertReqs):
        raise ConfigError(f"REDIS_URL: ssl_cert_reqs must be required, optional or none, not {reqs!r}")
    if check not in _BOOLEANS:
        raise ConfigError(f"REDIS_URL: ssl_check_hostname must be true or false, not {check!r}")
    if reqs == "none" and _BOOLEANS[check]:
        raise ConfigError("REDIS_URL: ssl_check_hostname has no effect with ssl_cert_reqs=none")
    tls = Tls(
        ca_certs=given.get("ssl_ca_certs", ""),
        cert_reqs=reqs,  # type: ignore[arg-type]  # it is one of them, as was checked
        certfile=given.get("ssl_certfile", ""),
        keyfile=given.get("ssl_keyfile", ""),
        check_hostname=_BOOLEANS[check],
    )
    if tls.keyfile and not tls.certfile:
        raise ConfigError("REDIS_URL: ssl_keyfile needs ssl_certfile")
    for name, path in (("ssl_ca_certs", tls.ca_certs), ("ssl_certfile", tls.certfile), ("ssl_keyfile", tls.keyfile)):
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"REDIS_URL: {name}: can't read {path}")
    try:
        tls.get()
    except OSError as error:
        raise ConfigError(f"REDIS_URL: its certificates can't be used: {error}") from None
    return tls
