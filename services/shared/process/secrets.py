"""Secrets that services read from files: Redis password, service token, keys."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from services.shared.process.config import ConfigError, read_secret_file

_BOTH = "REDIS_URL and REDIS_PASSWORD_FILE both give a password: leave it out of REDIS_URL"


class ServiceTokens(NamedTuple):
    """Tokens by which services recognise one another.

    A service sends `current` with its calls. A server accepts `previous` too, while the token is rotated.
    """

    current: bytes | None
    previous: bytes | None


class TlsFiles(NamedTuple):
    """Paths of the PEM files by which services recognise one another over mTLS.

    `chain` is the certificate of this service, `key` its private key, `ca` who may have signed those of the others.
    """

    ca: Path
    chain: Path
    key: Path


def read_service_tokens(current_file: Path | None, previous_file: Path | None = None) -> ServiceTokens:
    """Read the tokens from these files; a token without a file is None.

    Raises:
        ConfigError: a file can't be read or is empty, or there is a previous token and no current one.
    """
    if current_file is None and previous_file is not None:
        raise ConfigError("SERVICE_TOKEN_PREVIOUS_FILE needs SERVICE_TOKEN_FILE: without it every caller is believed")
    return ServiceTokens(
        read_secret_file(current_file, "SERVICE_TOKEN_FILE") if current_file else None,
        read_secret_file(previous_file, "SERVICE_TOKEN_PREVIOUS_FILE") if previous_file else None,
    )


def redis_address(url: str, password_file: Path | None) -> str:
    """Return `url` with the password from the file.

    The password may have any characters. A user name, if any, is in the URL.

    Raises:
        ConfigError: the file can't be read, is empty or not UTF-8, or the URL has a password as well.
    """
    if password_file is None:
        return url
    password = read_secret_file(password_file, "REDIS_PASSWORD_FILE")
    try:
        password.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"REDIS_PASSWORD_FILE: {password_file} is not UTF-8") from None
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"REDIS_URL: {error}") from None
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise ConfigError(_BOTH)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{place}"))
