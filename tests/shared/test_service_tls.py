"""mTLS between services: who may call, who is called, changed certificates.

All of it is real.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from services.auth.config import AuthConfig
from services.edge.config import EdgeConfig
from services.edge.edge import services_called
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError, read_env
from services.shared.process.secrets import TlsFiles
from services.shared.rpc.interceptor import NO_SERVICE
from services.shared.rpc.tls import ServiceIdentity, channel_credentials
from services.shared.startup.config import ServiceTls
from services.shared.startup.grpc_server import serve_grpc
from tests.support.certificates import Folder
from tests.support.grpc import Rig, ScriptedLog, ScriptedServer, Status, Stub, pages
from tests.support.waiting import until
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import add_PersistenceServiceServicer_to_server

Ready = grpc.ChannelConnectivity.READY
EXPIRES = "thalamus_service_certificate_expires_timestamp_seconds"
CALL_S = 2.0
CLOSED_S = 3.5  # a connection that is replaced has 3 s for what runs on it


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "ours")


@pytest.fixture
async def server(folder: Folder) -> AsyncIterator[ScriptedServer]:
    running = ScriptedServer(identity=folder.identity("persistence"))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def calling() -> AsyncIterator[Callable[..., Any]]:
    """Makes the client side of a server; it ends with the test."""
    made: list[Rig] = []

    async def rig(server: ScriptedServer, identity: ServiceIdentity | None, **options: Any) -> Rig:
        made.append(Rig(identity=identity, **options))
        made[-1].addresses = {server.address}
        await made[-1].replicas.start()
        return made[-1]

    yield rig
    for one in made:
        await one.close()


async def call(rig: Rig) -> int:
    reply = await rig.replicas.call(lambda channel: Stub(channel).Open(pb.OpenRequest(channel="chat:1")), CALL_S)
    return reply.top.offset


async def is_unreachable(rig: Rig) -> None:
    with pytest.raises(Unavailable):
        await call(rig)


def raw_channel(server: ScriptedServer, files: TlsFiles, name: str = "persistence") -> grpc.aio.Channel:
    """A client that checks nothing of its own certificate."""
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.chain.read_bytes())
    return grpc.aio.secure_channel(server.address, credentials, options=[("grpc.ssl_target_name_override", name)])


async def status_of(channel: grpc.aio.Channel) -> tuple[grpc.StatusCode, str]:
    try:
        await Stub(channel).Open(pb.OpenRequest(channel="chat:1"), timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    finally:
        await channel.close()
    return Status.OK, ""


# Who is let in.


@pytest.mark.parametrize("caller", ["edge", "persistence"])
async def test_an_edge_and_the_service_itself_may_call_without_a_token(
    folder: Folder, server: ScriptedServer, calling: Callable[..., Any], caller: str
) -> None:
    assert server.port == 0, "no port without TLS"
    assert await call(await calling(server, folder.identity(caller))) == 7


@pytest.mark.parametrize("caller", ["auth", "presence"])
async def test_b33_another_service_of_the_platform_is_unauthenticated(
    folder: Folder, server: ScriptedServer, caller: str
) -> None:
    channel = raw_channel(server, folder.files(caller))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pages(Stub(channel).Read(pb.ReadRequest(limit=1), timeout=CALL_S))
    assert refused.value.code() is Status.UNAUTHENTICATED
    stream = Stub(channel).Append()
    with contextlib.suppress(grpc.aio.AioRpcError):  # where the refusal comes before this is written
        await stream.write(pb.AppendBatch(items=[pb.AppendItem(key="x")]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    assert refused.value.code() is Status.UNAUTHENTICATED
    assert await status_of(channel) == (Status.UNAUTHENTICATED, NO_SERVICE)
    assert server.log.batches == []


async def test_b33_no_certificate_no_handshake(folder: Folder, server: ScriptedServer) -> None:
    credentials = grpc.ssl_channel_credentials((folder.path / "service_ca").read_bytes())
    options = [("grpc.ssl_target_name_override", "persistence")]
    assert (await status_of(grpc.aio.secure_channel(server.address, credentials, options=options)))[0] in (
        Status.UNAVAILABLE,
        Status.DEADLINE_EXCEEDED,
    )
    assert (await status_of(grpc.aio.insecure_channel(server.address)))[0] is Status.UNAVAILABLE


async def test_b33_a_certificate_of_another_ca_is_none(tmp_path: Path, folder: Folder, server: ScriptedServer) -> None:
    foreign = Folder(tmp_path / "foreign").files("edge")
    mixed = TlsFiles(folder.files("edge").ca, foreign.chain, foreign.key)
    assert (await status_of(raw_channel(server, mixed)))[0] is Status.UNAVAILABLE


async def test_b33_an_expired_certificate_is_none(folder: Folder, server: ScriptedServer) -> None:
    folder.renew(ago=datetime.timedelta(days=2), days=1)
    with pytest.raises(ConfigError, match="service_cert_edge expired at"):
        folder.identity("edge")
    assert (await status_of(raw_channel(server, folder.files("edge"))))[0] is Status.UNAVAILABLE


async def test_b33_the_other_limits_hold_over_tls(folder: Folder, server: ScriptedServer) -> None:
    options = [("grpc.max_send_message_length", -1), ("grpc.ssl_target_name_override", "persistence")]
    credentials = channel_credentials(folder.identity("edge").current())
    async with grpc.aio.secure_channel(server.address, credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).Open(pb.OpenRequest(channel="x" * (4 * 1024 * 1024 + 1)), timeout=CALL_S)
        assert refused.value.code() is Status.RESOURCE_EXHAUSTED
        reflect: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in reflect(iter([b""]), timeout=CALL_S):
                pass
        assert refused.value.code() is Status.UNIMPLEMENTED
        check = health_pb2_grpc.HealthStub(channel).Check
        response = await check(health_pb2.HealthCheckRequest(service="thalamus.persistence"), timeout=CALL_S)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


# Who is called.


async def test_a_server_with_the_name_of_another_service_is_not_called(
    folder: Folder, calling: Callable[..., Any]
) -> None:
    impostor = ScriptedServer(identity=folder.identity("presence"))
    await impostor.start()
    await is_unreachable(await calling(impostor, folder.identity("edge")))
    await impostor.stop()


async def test_a_server_of_another_ca_or_without_tls_is_not_called(
    tmp_path: Path, folder: Folder, calling: Callable[..., Any]
) -> None:
    foreign = ScriptedServer(identity=Folder(tmp_path / "foreign").identity("persistence"))
    plain = ScriptedServer(b"token")
    for impostor in (foreign, plain):
        await impostor.start()
        await is_unreachable(await calling(impostor, folder.identity("edge")))
        await impostor.stop()


# Both ways beside one another.


async def test_on_two_ports_a_token_counts_on_the_one_and_a_certificate_on_the_other(
    folder: Folder, calling: Callable[..., Any]
) -> None:
    server = ScriptedServer(b"token", identity=folder.identity("persistence"), alone=False)
    await server.start()
    assert await call(await calling(server, folder.identity("edge"))) == 7
    tls_port, server.tls_port = server.tls_port, 0  # from now on its address is the other one
    assert await call(await calling(server, None, service_token=b"token")) == 7
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(await calling(server, None, service_token=b"another"))
    assert refused.value.code() is Status.UNAUTHENTICATED
    server.tls_port = tls_port
    await server.stop()


EDGES_CALL_OVER_TLS = {"off": False, "accept": False, "use": True, "require": True}


@pytest.mark.parametrize("of_edge", list(ServiceTls))
@pytest.mark.parametrize("of_server", list(ServiceTls))
async def test_settings_that_are_neighbours_understand_one_another_in_any_order_of_an_update(
    folder: Folder, tmp_path: Path, of_server: ServiceTls, of_edge: ServiceTls
) -> None:
    """By the settings of the services themselves.

    An edge and a service that were updated at different times.
    """
    token = tmp_path / "token"
    token.write_text("the token")
    common = {"SERVICE_TOKEN_FILE": str(token)}
    ports = {"AUTH_GRPC_PORT": "0", "AUTH_GRPC_TLS_PORT": "0", "SERVICE_TLS": of_server}
    config = read_env(AuthConfig, {**common, **ports, **folder.environment("auth")}, "AUTH_")
    log = ScriptedLog()
    server = await serve_grpc(
        "auth", config, config.service_tokens(), lambda made: add_PersistenceServiceServicer_to_server(log, made)
    )
    assert bool(server.port) == (of_server != "require")
    assert bool(server.tls_port) == (of_server != "off")
    plain, tls = f"127.0.0.1:{server.port or 1}", f"127.0.0.1:{server.tls_port or 1}"
    addresses = {"EDGE_AUTH_ADDR": plain, "EDGE_AUTH_TLS_ADDR": tls, "SERVICE_TLS": of_edge}
    edge = read_env(EdgeConfig, {**common, **addresses, **folder.environment("edge")}, "EDGE_")
    assert edge.calls_over_tls == EDGES_CALL_OVER_TLS[of_edge]
    replicas = services_called(edge)["auth"]
    await replicas.start()
    try:
        steps = list(ServiceTls)
        if abs(steps.index(of_server) - steps.index(of_edge)) <= 1:
            reply = await replicas.call(lambda made: Stub(made).Open(pb.OpenRequest(channel="chat:1")), CALL_S)
            assert reply.top.offset == 7
        elif not (server.tls_port if edge.calls_over_tls else server.port):
            with pytest.raises(Unavailable):
                await replicas.call(lambda made: Stub(made).Open(pb.OpenRequest(channel="chat:1")), CALL_S)
    finally:
        await replicas.close()
        await server.stop(0.0)


class Platform:
    """Two replicas and two edges, replaced one at a time as in a rolling update."""

    def __init__(self, folder: Folder, mode: ServiceTls) -> None:
        self._folder = folder
        self.modes = dict.fromkeys(("server-0", "server-1", "edge-0", "edge-1"), mode)
        self._servers: list[ScriptedServer] = []
        self._edges: dict[str, Rig] = {}
        self.done = dict.fromkeys(("edge-0", "edge-1"), 0)
        self.repeated = 0
        self._loads: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        for _ in range(2):  # the ports stay, also those that are not listened on
            server = ScriptedServer(b"token", identity=self._folder.identity("persistence"), alone=False)
            await server.start()
            self._servers.append(server)
        self._addresses = [(f"127.0.0.1:{one.port}", f"127.0.0.1:{one.tls_port}") for one in self._servers]
        self._ports = [(one.port, one.tls_port) for one in self._servers]
        for number in range(2):
            await self._replace_server(number)
            await self._replace_edge(f"edge-{number}")

    async def to(self, name: str, mode: ServiceTls) -> None:
        self.modes[name] = mode
        kind, number = name.split("-")
        if kind == "server":
            await self._replace_server(int(number))
        else:
            await self._replace_edge(name)

    async def _replace_server(self, number: int) -> None:
        """As a service does: what runs ends, what comes goes to the other one."""
        await self._servers[number].stop(3.0)
        mode = self.modes[f"server-{number}"]
        identity = None if mode is ServiceTls.OFF else self._folder.identity("persistence")
        new = ScriptedServer(b"token", identity=identity, alone=mode is ServiceTls.REQUIRE)
        new.port, new.tls_port = self._ports[number]
        await new.start()
        self._servers[number] = new
        for edge in self._edges.values():
            states = edge.replicas.channels
            await until(lambda states=states: any(one.get_state(True) is Ready for one in states.values()))  # type: ignore[misc]
        await asyncio.sleep(1.0)  # the pause of a rolling update, in which edges connect to the new one

    async def _replace_edge(self, name: str) -> None:
        await self._end(name)
        over_tls = self.modes[name] in (ServiceTls.USE, ServiceTls.REQUIRE)
        identity = self._folder.identity("edge") if over_tls else None
        edge = Rig(identity=identity, service_token=b"token")
        edge.addresses = {pair[over_tls] for pair in self._addresses}
        stream = await edge.open_stream()
        await until(lambda: stream.connected)
        self._edges[name] = edge
        self._loads[name] = asyncio.create_task(self._load(name, edge, stream))

    async def _load(self, name: str, edge: Rig, stream: Any) -> None:
        while True:
            key = f"{name} {self.done[name]}"
            assert (await stream.submit(pb.AppendItem(key=key))).position.epoch == key
            try:
                assert await call(edge) == 7
            except Unavailable:  # it was on its way to a replica that ended; that costs a single call without TLS, too
                self.repeated += 1
                assert await call(edge) == 7
            self.done[name] += 1
            await asyncio.sleep(0.005)

    async def _end(self, name: str) -> None:
        if name in self._loads:
            load = self._loads.pop(name)
            if load.done():
                load.result()  # raises what a call of this edge got
            load.cancel()
            await asyncio.wait([load])
            await self._edges.pop(name).close()

    async def moves_on(self) -> None:
        """Both edges are served, and no call of theirs has failed."""
        before = dict(self.done)
        async with asyncio.timeout(30):
            while any(self.done[name] < count + 5 for name, count in before.items()):
                for load in self._loads.values():
                    if load.done():
                        load.result()
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for name in list(self._loads):
            await self._end(name)
        for server in self._servers:
            await server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_from_the_token_to_mtls_and_back_every_edge_is_served_in_whatever_order_replicas_are_replaced(
    folder: Folder, seed: int
) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    platform = Platform(folder, ServiceTls.OFF)
    await platform.start()
    steps = list(ServiceTls)
    for mode in steps[1:] + steps[-2::-1]:
        names = list(platform.modes)
        rng.shuffle(names)
        for name in names:
            await platform.to(name, mode)
            await platform.moves_on()
    assert platform.repeated <= 2 * 2 * 6, "one call of each edge for each replica that ended, at most"
    await platform.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"SERVICE_TLS": "yes"}, "SERVICE_TLS must be off, accept, use, require, not 'yes'"),
        ({"SERVICE_TLS": "use"}, "SERVICE_TLS_CA_FILE must be set, because SERVICE_TLS is use"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_env(EdgeConfig, settings, "EDGE_").identity()


# Certificates that change.


def presented(server: ScriptedServer, folder: Folder) -> int:
    """Serial number of the certificate that the server shows in a new handshake."""
    context = ssl.create_default_context(cafile=str(folder.files("edge").ca))
    context.load_cert_chain(folder.files("edge").chain, folder.files("edge").key)
    with (
        socket.create_connection(("127.0.0.1", server.tls_port)) as plain,
        context.wrap_socket(plain, server_hostname="persistence") as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def serial(files: TlsFiles) -> int:
    return x509.load_pem_x509_certificate(files.chain.read_bytes()).serial_number


async def test_renewed_under_load_no_call_fails_and_both_sides_show_the_new_one(
    folder: Folder, server: ScriptedServer, calling: Callable[..., Any]
) -> None:
    rig = await calling(server, folder.identity("edge"))
    stream = await rig.open_stream()
    done = 0
    stopping = False

    async def load() -> None:
        nonlocal done
        while not stopping:
            result, offset = await asyncio.gather(stream.submit(pb.AppendItem(key=f"k{done}")), call(rig))
            assert (result.position.epoch, offset) == (f"k{done}", 7)
            done += 1

    working = asyncio.create_task(load())
    await until(lambda: done > 10)
    for _ in range(3):
        before, channels = done, dict(rig.replicas.channels)
        folder.renew()
        await rig.replicas.refresh()
        assert dict(rig.replicas.channels) != channels
        await until(lambda before=before: done > before + 20)  # type: ignore[misc]
        assert await asyncio.to_thread(presented, server, folder) == serial(folder.files("persistence"))
    await asyncio.sleep(CLOSED_S)  # the old connections have ended: nothing may still use them
    before = done
    await until(lambda: done > before + 20)
    stopping = True
    await asyncio.wait_for(working, 30)
    assert len(server.log.keys) >= done
    assert set(server.log.keys) == {f"k{number}" for number in range(len(set(server.log.keys)))}


async def test_what_does_not_fit_together_is_not_used_and_what_fits_later_is(
    folder: Folder, server: ScriptedServer, calling: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    rig = await calling(server, folder.identity("edge"))
    before = {service: folder.files(service).key.read_bytes() for service in ("edge", "persistence")}
    shown = serial(folder.files("persistence"))
    channels = dict(rig.replicas.channels)
    folder.renew()
    renewed = {service: folder.files(service).key.read_bytes() for service in before}
    for service, key in before.items():
        folder.files(service).key.write_bytes(key)  # as between the writes of two files
    with caplog.at_level(logging.WARNING):
        await rig.replicas.refresh()
    assert "is not the key of" in caplog.text or "can't be used" in caplog.text
    assert dict(rig.replicas.channels) == channels
    assert await call(rig) == 7
    for service, key in renewed.items():
        folder.files(service).key.write_bytes(key)
    await rig.replicas.refresh()
    assert dict(rig.replicas.channels) != channels
    assert await call(rig) == 7
    assert await asyncio.to_thread(presented, server, folder) == serial(folder.files("persistence")) != shown


async def test_the_ca_is_replaced_in_three_steps_without_a_call_that_fails(
    tmp_path: Path, folder: Folder, server: ScriptedServer, calling: Callable[..., Any]
) -> None:
    """Both are believed; then new certificates; then the new one alone."""
    rig = await calling(server, folder.identity("edge"))
    new = Folder(tmp_path / "new")
    ca, new_ca = folder.files("edge").ca, new.files("edge").ca.read_bytes()

    def certificates_of_the_new() -> None:
        for service in ("edge", "persistence"):
            for old, other in zip(
                (folder.files(service).key, folder.files(service).chain),
                (new.files(service).key, new.files(service).chain),
                strict=True,
            ):
                old.write_bytes(other.read_bytes())

    for step in (
        lambda: ca.write_bytes(ca.read_bytes() + new_ca),
        certificates_of_the_new,
        lambda: ca.write_bytes(new_ca),
    ):
        step()
        await rig.replicas.refresh()
        for _ in range(5):
            assert await call(rig) == 7


def test_when_the_certificate_expires_is_a_metric_and_near_the_end_a_warning(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    for days, warns in ((30, False), (13, True)):
        folder.renew(days=days)
        caplog.clear()
        folder.identity("edge")
        expires = x509.load_pem_x509_certificate(folder.files("edge").chain.read_bytes()).not_valid_after_utc
        assert REGISTRY.get_sample_value(EXPIRES) == expires.timestamp()
        assert ("expires soon" in caplog.text) == warns


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("service_ca", b"", "SERVICE_TLS_CA_FILE: .*holds no certificates"),
        ("service_cert_edge", b"nothing", "SERVICE_TLS_CERT_FILE: .*holds no certificate"),
        ("service_key_edge", b"nothing", "SERVICE_TLS_KEY_FILE: .*holds no key"),
        ("service_key_edge", None, "SERVICE_TLS_KEY_FILE: can't read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folder: Folder, name: str, content: bytes | None, says: str) -> None:
    if content is None:
        (folder.path / name).unlink()
    else:
        (folder.path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        folder.identity("edge")
