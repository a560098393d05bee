"""Certificates of services, made as `thalamus certs` does, and wrong ones."""

from __future__ import annotations

import datetime
from pathlib import Path

from cli.secrets.services import ServiceCertificates, cert_name, key_name
from services.shared.process.secrets import TlsFiles
from services.shared.rpc.tls import ServiceIdentity


class Folder:
    """The files of one platform."""

    def __init__(self, path: Path) -> None:
        self.path = path
        ServiceCertificates(path).make()

    def files(self, service: str) -> TlsFiles:
        return TlsFiles(self.path / "service_ca", self.path / cert_name(service), self.path / key_name(service))

    def identity(self, service: str) -> ServiceIdentity:
        return ServiceIdentity(self.files(service))

    def renew(self, *, ago: datetime.timedelta = datetime.timedelta(), days: int = 365) -> None:
        """New certificates for all, made so long ago."""
        now = datetime.datetime.now(datetime.UTC) - ago
        ServiceCertificates(self.path, now=now).make(renew=True, days=days)

    def environment(self, service: str) -> dict[str, str]:
        """The settings of the service."""
        files = self.files(service)
        return {
            "SERVICE_TLS_CA_FILE": str(files.ca),
            "SERVICE_TLS_CERT_FILE": str(files.chain),
            "SERVICE_TLS_KEY_FILE": str(files.key),
        }
