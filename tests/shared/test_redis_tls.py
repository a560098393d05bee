"""Redis behind TLS that wants a certificate of clients.

Every kind of connection obeys the parameters of the URL.
"""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.secrets.certificate import make_certificate
from services.edge.adapters.redis import subscriber as redis_subscriber
from services.edge.adapters.redis.subscriber import RedisSubscriber
from services.shared.errors import Unavailable
from services.shared.redis.client import check_server, redis_client
from services.shared.redis.pipeline import RedisPipeline
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy


async def by_client(url: str) -> None:
    async with redis_client(url) as client:
        await check_server(client)


async def by_pipeline(url: str) -> None:
    pipeline = RedisPipeline(url)
    try:
        assert await pipeline.execute([("PING",)], timeout_s=2) == [b"PONG"]
    finally:
        await pipeline.aclose()


async def by_subscriber(url: str) -> None:
    subscriber = RedisSubscriber(url, on_message=lambda *_: None, on_connected=lambda _: None)
    await subscriber.start()
    try:
        await subscriber.subscribe("t:{x}:pub")
    finally:
        await subscriber.close()


KINDS: list[Callable[[str], Awaitable[None]]] = [by_client, by_pipeline, by_subscriber]


class Certificates:
    """Of the server, which is its own authority, and of a client."""

    def __init__(self, folder: Path, hosts: list[str]) -> None:
        self.server, self.client, self.key = folder / "server.pem", folder / "client.pem", folder / "client.key"
        self.server.write_bytes(make_certificate(hosts))
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.client.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        context.load_verify_locations(self.client)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def url(self, port: int, **parameters: str) -> str:
        ours = {"ssl_certfile": str(self.client), "ssl_keyfile": str(self.key), **parameters}
        return f"rediss://127.0.0.1:{port}/0?{urlencode(ours)}"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path, ["127.0.0.1"])


@pytest.fixture
async def proxy(redis_server: RedisServer, certificates: Certificates) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", redis_server.port, tls=certificates.context) as running:
        yield running


@pytest.mark.parametrize("kind", KINDS)
async def test_certificates_of_both_sides(
    kind: Callable[[str], Awaitable[None]],
    proxy: TcpProxy,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await kind(certificates.url(proxy.port, ssl_ca_certs=str(certificates.server)))
    await kind(certificates.url(proxy.port, ssl_cert_reqs="none"))
    monkeypatch.setattr(redis_subscriber, "CONFIRM_S", 1.0)
    with pytest.raises(Unavailable):  # an authority that the system does not trust
        await kind(certificates.url(proxy.port))
    without = f"rediss://127.0.0.1:{proxy.port}/0?{urlencode({'ssl_ca_certs': certificates.server})}"
    with pytest.raises(Unavailable):  # the server wants a certificate of ours
        await kind(without)


@pytest.mark.parametrize("kind", KINDS)
async def test_names_of_hosts(
    kind: Callable[[str], Awaitable[None]], redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Certificates(tmp_path, ["elsewhere.example"])
    async with TcpProxy("127.0.0.1", redis_server.port, tls=other.context) as proxy:
        await kind(other.url(proxy.port, ssl_ca_certs=str(other.server), ssl_check_hostname="false"))
        monkeypatch.setattr(redis_subscriber, "CONFIRM_S", 1.0)
        with pytest.raises(Unavailable):
            await kind(other.url(proxy.port, ssl_ca_certs=str(other.server)))
