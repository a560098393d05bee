"""Keys, accounts and certificates for ways out of notifications, and a browser."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import ssl
from pathlib import Path
from typing import Any

import http_ece
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from services.persistence.chat.devices.device import Device


def ec_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Write a private key of P-256 in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half of a key, as browsers want it."""
    return _text(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def account(path: Path, token_uri: str) -> rsa.RSAPrivateKey:
    """Write the file of a service account."""
    key = rsa.generate_private_key(65_537, 2_048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    content = {
        "type": "service_account",
        "project_id": "the-project",
        "private_key_id": "k1",
        "private_key": pem,
        "client_email": "notifier@the-project.example.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(content))
    return key


def server_tls(folder: Path, *, http2: bool = False) -> tuple[ssl.SSLContext, Path]:
    """A server's context for `localhost`, and the file of its authority."""
    key = ec_key(folder / "server.key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    if http2:
        context.set_alpn_protocols(["h2"])
    return context, folder / "server.pem"


class Browser:
    """A browser with a subscription: it decrypts as RFC 8291 says."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._key, self._auth = ec.generate_private_key(ec.SECP256R1()), os.urandom(16)

    @property
    def keys(self) -> dict[str, str]:
        return {"p256dh": public_text(self._key), "auth": _text(self._auth)}

    def device(self) -> Device:
        return Device(id="browser", platform="webpush", set_ms=1, endpoint=self.endpoint, **self.keys)

    def read(self, body: bytes) -> dict[str, Any]:
        """Decrypt what a push service would hand on."""
        text = http_ece.decrypt(body, private_key=self._key, auth_secret=self._auth, version="aes128gcm")
        found: dict[str, Any] = json.loads(text)
        return found


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
