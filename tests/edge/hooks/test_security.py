"""Hooks over TLS, keys that are replaced, and proxies of the environment."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.shared.process.config import ConfigError
from tests.edge.hooks.conftest import CHAT, Serve, token
from tests.edge.hooks.test_ways import decide, over_grpc, serving
from tests.support.certificates import Folder
from tests.support.edge import Cluster
from tests.support.faults import free_port
from tests.support.hook_backend import SECRET, HookBackend, Question, hooks_of, response, table
from tests.support.wire_client import WireClient

NEW = "whsec_" + base64.b64encode(b"a newer key of at least 24 bytes").decode()


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_backend_over_https_needs_a_certificate_of_the_authority(
    serve: Serve, tmp_path: Path, trusted: bool
) -> None:
    mine, others = Folder(tmp_path / "mine"), Folder(tmp_path / "others")
    files = mine.files("auth")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.chain, files.key)
    authority = (mine if trusted else others).files("auth").ca
    async with HookBackend(tls=tls) as backend:
        toml = table("tls", ["publish"], backend.url, namespaces=["chat"], ca_file=str(authority))
        async with serve(toml) as (_, url), WireClient(url) as client:
            await client.connect(token("ann"))
            if trusted:
                await client.publish("chat:a", 1)
                await client.publish("chat:a", 2)
                assert backend.connections == 1
            else:
                error = await client.error(publish={"channel": "chat:a", "data": 1})
                assert error == {"code": 113, "message": "hook: unreachable", "temporary": True}
            assert len(backend.questions) == 2 * trusted


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_backend_over_grpc_with_tls_needs_a_certificate_of_the_authority(
    serve: Serve, tmp_path: Path, trusted: bool
) -> None:
    mine, others = Folder(tmp_path / "mine"), Folder(tmp_path / "others")
    files = mine.files("auth")
    tls = grpc.ssl_server_credentials([(files.key.read_bytes(), files.chain.read_bytes())])
    authority = (mine if trusted else others).files("auth").ca
    async with serving(decide, tls=tls) as (service, port):
        toml = over_grpc(port, tls="true", ca_file=f'"{authority}"')
        async with serve(toml) as (_, url), WireClient(url) as client:
            await client.connect(token("ann"))
            reply = await client.reply(await client.post(publish={"channel": "chat:a", "data": "good"}))
            if trusted:
                assert reply["publish"]["offset"] == 1
            else:
                assert reply["error"]["code"] == 113
            assert len(service.questions) == trusted


@pytest.mark.parametrize("known", [SECRET, NEW])
async def test_while_a_key_is_replaced_a_backend_with_either_one_is_asked(
    serve: Serve, tmp_path: Path, known: str
) -> None:
    new = tmp_path / "new.secret"
    new.write_text(NEW)
    async with HookBackend(secret=known) as backend:
        toml = table("keys", ["publish"], backend.url, namespaces=["chat"], secret_files=[str(new), "{secret}"])
        async with serve(toml) as (_, url), WireClient(url) as client:
            await client.connect(token("ann"))
            await client.publish("chat:a", 1)
            assert len(backend.questions) == 1


@pytest.mark.parametrize(
    "first",
    [response(b"{}") + response(b'{"data":"of another"}'), response(b"{}", "204 No Content")],
    ids=["two answers", "a body that may not be"],
)
async def test_what_follows_an_answer_is_never_the_answer_to_the_next_question(serve: Serve, first: bytes) -> None:
    async def answer(question: Question) -> Any:
        return first if question["data"] == "a" else {}

    async with (
        HookBackend(answer) as backend,
        serve(table("twice", ["publish"], backend.url, namespaces=["chat"])) as (_, url),
        WireClient(url) as client,
    ):
        await client.connect(token("ann"))
        await client.subscribe("chat:a")
        for text in ("a", "b"):
            await client.publish("chat:a", text)
        assert [one["data"] for one in await client.publications("chat:a", 2)] == ["a", "b"]
        assert len(backend.questions) == 2


@pytest.mark.parametrize("way", ["http", "grpc"])
async def test_proxies_of_the_environment_are_not_used(serve: Serve, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for variable in (name, name.lower()):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    async with HookBackend() as backend, serving(decide) as (_, port):
        over_http = table("remote", ["publish"], backend.url, namespaces=["chat"])
        async with serve(over_http if way == "http" else over_grpc(port)) as (_, url), WireClient(url) as client:
            await client.connect(token("ann"))
            await client.publish("chat:a", "good")


@pytest.mark.parametrize("text", ["two\nlines", "b\u00e9"])
def test_a_token_that_no_header_can_carry_stops_the_start(tmp_path: Path, text: str) -> None:
    secret = tmp_path / "token"
    secret.write_text(text)
    toml = over_grpc(1).replace("{secret}", str(secret))
    with pytest.raises(ConfigError, match="must be printable ASCII") as error:
        hooks_of(tmp_path, Cluster(chat=CHAT).namespaces, toml)
    assert "lines" not in str(error.value)
