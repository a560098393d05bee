"""Secrets from files: the password of Redis, and the token between services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import redis.asyncio
from redis import exceptions

from services.edge.adapters.redis.subscriber import RedisSubscriber
from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.domain.ports import Heartbeat
from services.shared.process.config import ConfigError
from services.shared.process.secrets import read_service_tokens, redis_address
from services.shared.redis.client import check_server, redis_client
from tests.support.grpc import Rig, ScriptedServer, Status, Stub
from tests.support.redis import RedisServer
from thalamus.persistence.v1 import persistence_pb2 as pb

PASSWORD = "p/a:s@s%40 wör?d#&=+\"'\\"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "redis_password"
    path.write_text(PASSWORD + "\n", encoding="utf-8")
    return path


@pytest.fixture
async def guarded(own_redis: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    """The client of a server that wants a password.

    Of everyone, and of the user `edge` the same one.
    """
    admin = redis_client(own_redis.url)
    await admin.acl_setuser(
        "edge", enabled=True, passwords=["+" + PASSWORD], keys="*", channels="*", commands=["+@all"]
    )
    await admin.config_set("requirepass", PASSWORD)
    yield admin
    await admin.aclose()


@pytest.mark.parametrize("user", ["", "edge@"])
@pytest.mark.usefixtures("guarded")
async def test_the_password_of_the_file_opens_redis_whatever_its_characters(
    own_redis: RedisServer, password_file: Path, user: str
) -> None:
    address = redis_address(own_redis.url.replace("redis://", f"redis://{user}"), password_file)
    client = redis_client(address)
    await check_server(client)
    assert await client.acl_whoami() == (user.rstrip("@") or "default")
    await client.aclose()


@pytest.mark.usefixtures("guarded")
async def test_without_the_password_redis_says_noauth(own_redis: RedisServer) -> None:
    client = redis_client(own_redis.url)
    with pytest.raises(exceptions.AuthenticationError):
        await client.ping()
    await client.aclose()


async def test_the_pub_sub_connection_and_the_heartbeat_log_in_with_it(
    own_redis: RedisServer, guarded: redis.asyncio.Redis, password_file: Path
) -> None:
    address = redis_address(own_redis.url.replace("redis://", "redis://edge@"), password_file)
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    subscriber = RedisSubscriber(
        address, on_message=lambda channel, payload: received.set_result(payload), on_connected=lambda again: None
    )
    await subscriber.start()
    await subscriber.subscribe("t:control")
    await guarded.publish("t:control", b"hello")
    assert await asyncio.wait_for(received, 30) == b"hello"
    await subscriber.close()
    heartbeat = RedisHeartbeat(address)
    counted = (await heartbeat.count_and_compare(Heartbeat(0, 0))).counted
    assert counted.counter == 1
    await heartbeat.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis", "redis://:x%2Fy@redis"),
        ("redis://redis:6379/0", "redis://:x%2Fy@redis:6379/0"),
        ("redis://edge@redis:6379/1?a=b", "redis://edge:x%2Fy@redis:6379/1?a=b"),
        ("redis://e%40dge@redis", "redis://e%40dge:x%2Fy@redis"),
        ("rediss://edge@[::1]:6380/0", "rediss://edge:x%2Fy@[::1]:6380/0"),
        ("unix://edge@/run/redis.sock?db=0", "unix://edge:x%2Fy@/run/redis.sock?db=0"),
    ],
)
def test_the_password_stands_where_the_url_has_none(tmp_path: Path, url: str, address: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"x/y\n")
    assert redis_address(url, path) == address
    assert redis_address(url, None) == url


@pytest.mark.parametrize(
    "url", ["redis://:a@redis", "redis://edge:a@redis", "redis://edge:@redis", "redis://r?password=a"]
)
def test_two_passwords_are_a_wrong_setting_that_names_both_and_tells_neither(password_file: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL and REDIS_PASSWORD_FILE") as wrong:
        redis_address(url, password_file)
    assert PASSWORD not in str(wrong.value)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_file_that_can_not_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"REDIS_PASSWORD_FILE: .*{path}"):
        redis_address("redis://redis", path)


# The token between services.


async def call(server: ScriptedServer, token: bytes | None) -> pb.OpenResponse:
    rig = Rig(service_token=token)
    rig.addresses = {server.address}
    await rig.replicas.start()
    try:
        return await rig.replicas.call(lambda channel: Stub(channel).Open(pb.OpenRequest(channel="chat:1")), 2.0)
    finally:
        await rig.close()


def tokens_in(folder: Path, current: bytes | None, previous: bytes | None) -> tuple[Path | None, Path | None]:
    paths: list[Path | None] = []
    for name, token in (("current", current), ("previous", previous)):
        paths.append(None if token is None else folder / name)
        if token is not None:
            (folder / name).write_bytes(token + b"\n")
    return paths[0], paths[1]


async def test_while_a_token_is_rotated_servers_take_both_and_no_third(tmp_path: Path) -> None:
    tokens = read_service_tokens(*tokens_in(tmp_path, b"new", b"old"))
    server = ScriptedServer(tokens.current, tokens.previous)
    await server.start()
    for token in (b"new", b"old", tokens.current):
        assert (await call(server, token)).top.offset == 7
    for wrong in (b"older", b"ne", b"", None):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(server, wrong)
        assert refused.value.code() is Status.UNAUTHENTICATED
    await server.stop()


async def test_after_the_rotation_the_older_token_is_refused(tmp_path: Path) -> None:
    tokens = read_service_tokens(*tokens_in(tmp_path, b"new", None))
    server = ScriptedServer(tokens.current, tokens.previous)
    await server.start()
    assert (await call(server, b"new")).top.offset == 7
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(server, b"old")
    assert refused.value.code() is Status.UNAUTHENTICATED
    await server.stop()


def test_without_files_there_are_no_tokens() -> None:
    assert read_service_tokens(None) == (None, None)


@pytest.mark.parametrize(
    ("current", "previous", "named"),
    [
        (None, b"old", "SERVICE_TOKEN_PREVIOUS_FILE needs SERVICE_TOKEN_FILE"),
        (b"", None, "SERVICE_TOKEN_FILE: .*empty"),
        (b"new", b"", "SERVICE_TOKEN_PREVIOUS_FILE: .*empty"),
    ],
)
def test_tokens_that_can_not_be_used_are_named(
    tmp_path: Path, current: bytes | None, previous: bytes | None, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        read_service_tokens(*tokens_in(tmp_path, current, previous))
