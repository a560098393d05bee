"""Makes the CA of a platform, and a certificate for each of its services."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.errors import WrongUsage
from cli.secrets.certificate import alternative

SERVICES = ("edge", "auth", "presence", "persistence", "notifier")
DAYS = 365  # days that a certificate of a service is valid, unless told otherwise
_CA_DAYS = 3_650
_CA, _CA_KEY = "service_ca", "service_ca_key"
_HOSTS = ("localhost", "127.0.0.1", "::1")
_EARLY = datetime.timedelta(minutes=5)  # clocks of machines differ


def cert_name(service: str) -> str:
    """Return the name of the file with the certificate of a service."""
    return f"service_cert_{service}"


def key_name(service: str) -> str:
    """Return the name of the file with its key."""
    return f"service_key_{service}"


class ServiceCertificates:
    """The files of a folder: `service_ca`, its key, and two for each service."""

    def __init__(self, folder: Path, *, now: datetime.datetime | None = None) -> None:
        """Take the folder; reads and writes nothing yet."""
        self._folder = folder
        self._now = now or datetime.datetime.now(datetime.UTC)

    def make(self, *, days: int = DAYS, hosts: tuple[str, ...] = (), renew: bool = False) -> list[str]:
        """Make the certificates and keys that are missing, or all of them with `renew`.

        The CA stays in any case. Returns the names of the files made.

        Args:
            days: How long the certificates are valid. They don't outlive the CA.
            hosts: Names and addresses that they have, beside their own and those of this machine.
            renew: Replace the certificates and keys of all services.

        Raises:
            WrongUsage: the folder can't be written, or its CA can't be used.
        """
        try:
            for host in hosts:
                alternative(host)
        except ValueError as error:
            raise WrongUsage(f"--host {host}: {error}") from error
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = []
            if not (self._folder / _CA).exists():
                self._make_ca()
                made += [_CA, _CA_KEY]
            ca, ca_key = self._read_ca()
            for service in SERVICES:
                cert, key = cert_name(service), key_name(service)
                if renew or not ((self._folder / cert).exists() and (self._folder / key).exists()):
                    self._make(service, ca, ca_key, days, hosts)
                    made += [cert, key]
        except OSError as error:
            raise WrongUsage(f"{error.filename or self._folder}: {error.strerror}") from error
        return made

    def expiry(self, service: str) -> datetime.datetime:
        """Return when the certificate of a service expires."""
        return x509.load_pem_x509_certificate((self._folder / cert_name(service)).read_bytes()).not_valid_after_utc

    def _make_ca(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Thalamus services")])
        certificate = (
            self._builder(name, name, key.public_key(), self._now + datetime.timedelta(days=_CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self._write(_CA_KEY, _pem_of_key(key))
        self._write(_CA, certificate.public_bytes(serialization.Encoding.PEM))

    def _read_ca(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if not (self._folder / _CA_KEY).exists():
            raise WrongUsage(f"{self._folder / _CA_KEY} is not there: bring it back to make certificates")
        try:
            ca = x509.load_pem_x509_certificate((self._folder / _CA).read_bytes())
            key = serialization.load_pem_private_key((self._folder / _CA_KEY).read_bytes(), None)
        except ValueError as error:
            raise WrongUsage(f"{self._folder / _CA} or its key can't be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
            raise WrongUsage(f"{self._folder / _CA_KEY} is not the key of {_CA}")
        if ca.not_valid_after_utc <= self._now:
            raise WrongUsage(f"{self._folder / _CA} has expired: docs/operations.md says how to replace it")
        return ca, key

    def _make(
        self, service: str, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, days: int, hosts: tuple[str, ...]
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        names = dict.fromkeys((service, f"tasks.{service}", *_HOSTS, *hosts))
        ends = min(self._now + datetime.timedelta(days=days), ca.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, ca.subject, key.public_key(), ends)
            .add_extension(x509.SubjectAlternativeName([alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        self._write(key_name(service), _pem_of_key(key))
        self._write(cert_name(service), certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _EARLY)
            .not_valid_after(ends)
        )

    def _write(self, name: str, content: bytes) -> None:
        """Write a file as a whole or not at all, readable by its owner only."""
        temporary = self._folder / f".{name}.new"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(self._folder / name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
