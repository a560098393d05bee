"""Certificates by which services know one another (mTLS), read again on a change.

**Purpose.** With a service token whoever reads one packet, or one file, is every service. With certificates nobody
reads along, each service has a secret of its own, and the name in its certificate says what it may call.

**Rules.**

* A service is who its certificate says: a DNS name of it (SAN) is the name of the service, `edge` or `auth`. Clients
  verify the name of the service that they call, whatever address they found it at.
* Both sides must show a certificate that the CA in `SERVICE_TLS_CA_FILE` has signed and that has not expired. The CA
  signs for this platform alone. The file may hold several, while one replaces another.
* Who may call: an edge calls every service. A service may call itself: that is the command line beside it.
* The files are looked at for each handshake of a server, and every 2 s by clients. New ones are used for what is
  connected from then on. What does not fit together (a new certificate with the old key, while both are written) or has
  expired is refused with a log line, and what was read before goes on.

**Example.** `thalamus certs --services --renew` writes new files. The server takes them with its next handshake. Each
edge makes new connections within 2 s; calls that run end on the old ones.

**Trade-offs.** A certificate can't be revoked: it is good until it expires, or until the CA is replaced.

Decision: docs/decisions/0033-certificates-between-services.md.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from prometheus_client import Gauge

from services.shared.process.config import ConfigError
from services.shared.process.secrets import TlsFiles

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger(__name__)

_WARN_BEFORE = timedelta(days=14)
_EXPIRES = Gauge(
    "thalamus_service_certificate_expires_timestamp_seconds",
    "When the certificate of this service expires, in Unix seconds; 0: services use no mTLS.",
)


class Certificates(NamedTuple):
    """What was read from the files, as PEM."""

    ca: bytes
    chain: bytes
    key: bytes


class ServiceIdentity:
    """The certificates of this process. Threads may share it."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            ConfigError: they can't be read or don't fit together, or the certificate has expired.
        """
        self._files = files
        self._lock = threading.Lock()
        self._stamp = self._stamp_now()
        self._current = _read(files)

    def current(self) -> Certificates:
        """Return the certificates, from files that have changed if those can be used.

        Always the same object, until it changes.
        """
        with self._lock:
            stamp = self._stamp_now()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    found = _read(self._files)
                except ConfigError as error:
                    logger.warning("new certificates can't be used; the old ones go on", extra={"error": str(error)})
                else:
                    if found != self._current:
                        self._current = found
                        logger.info("certificates were read again", extra={"file": str(self._files.chain)})
            return self._current

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials of a server, which follow the files; clients need their own."""
        used = self._current

        def changed() -> Any:
            nonlocal used
            current = self.current()
            if current is used:
                return None
            used = current
            return _configuration(current)

        return grpc.dynamic_ssl_server_credentials(_configuration(used), changed, require_client_authentication=True)

    def _stamp_now(self) -> tuple[Any, ...]:
        """Return what differs once a file was written: a new file, or another time."""
        stamps: list[tuple[int, int, int] | None] = []
        for path in (self._files.ca, self._files.chain, self._files.key):
            try:
                found = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(stamps)


def channel_credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    """Return credentials of a client."""
    return grpc.ssl_channel_credentials(certificates.ca, certificates.key, certificates.chain)


def names_of_caller(auth_context: Any) -> set[str]:
    """Return the names in the certificate of a caller; none without a certificate."""
    return {name.decode("ascii", "replace") for name in auth_context.get("x509_subject_alternative_name", ())}


def _configuration(certificates: Certificates) -> Any:
    pair = (certificates.key, certificates.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=certificates.ca)


def _read(files: TlsFiles) -> Certificates:
    """Read and check the files.

    Raises:
        ConfigError: as for `ServiceIdentity`.
    """
    found = Certificates(
        _bytes(files.ca, "SERVICE_TLS_CA_FILE"),
        _bytes(files.chain, "SERVICE_TLS_CERT_FILE"),
        _bytes(files.key, "SERVICE_TLS_KEY_FILE"),
    )
    _check(files, found)
    return found


def _bytes(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{variable}: can't read {path}: {error.strerror}") from error


def _check(files: TlsFiles, found: Certificates) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # only where TLS is on: it takes time
    from cryptography.x509 import load_pem_x509_certificates

    try:
        load_pem_x509_certificates(found.ca)
    except ValueError as error:
        raise ConfigError(f"SERVICE_TLS_CA_FILE: {files.ca} holds no certificates in PEM") from error
    try:
        own: x509.Certificate = load_pem_x509_certificates(found.chain)[0]
    except ValueError as error:
        raise ConfigError(f"SERVICE_TLS_CERT_FILE: {files.chain} holds no certificate in PEM") from error
    try:
        key = load_pem_private_key(found.key, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"SERVICE_TLS_KEY_FILE: {files.key} holds no key in PEM without a password") from error
    if key.public_key() != own.public_key():
        raise ConfigError(f"SERVICE_TLS_KEY_FILE: {files.key} is not the key of {files.chain}")
    left = own.not_valid_after_utc - datetime.now(UTC)
    if left <= timedelta(0):
        raise ConfigError(f"SERVICE_TLS_CERT_FILE: {files.chain} expired at {own.not_valid_after_utc:%Y-%m-%d %H:%M}Z")
    _EXPIRES.set(own.not_valid_after_utc.timestamp())
    if left <= _WARN_BEFORE:
        logger.warning("the certificate of this service expires soon", extra={"expires": str(own.not_valid_after_utc)})
