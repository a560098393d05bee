"""Credentials of a handshake on the wire.

What is refused before the upgrade, and what waits for a lookup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.connections import HandshakeInfo, HandshakeRejected, Identity
from services.shared.errors import Unavailable
from tests.edge.transport.support import TEXT, Raw, Serve, frame, head


class ByHeader:
    """An `Authenticator` that a test commands.

    By the header at once, by the query after `release` is set.
    """

    def __init__(self, later: Identity | Exception | None = None) -> None:
        self.later = later
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()

    def identify(self, info: HandshakeInfo) -> Identity | Coroutine[Any, Any, Identity | None] | None:
        if "ticket" in info.query:
            return self._later()
        if not info.authorization:
            return None
        if info.authorization[0] == "bad":
            raise HandshakeRejected("the token is not valid")
        if info.authorization[0] == "two":
            raise HandshakeRejected("there are two", conflict=True)
        return Identity(ConnectionClaims(user=info.authorization[0]), "t")

    async def _later(self) -> Identity | None:
        self.waiting.set()
        await self.release.wait()
        if isinstance(self.later, Exception):
            raise self.later
        return self.later


def with_ticket(*headers: str) -> bytes:
    path, _, rest = head(*headers).partition(b" HTTP/1.1")
    return path + b"?ticket=abc HTTP/1.1" + rest


async def test_a_good_credential_reaches_the_handler_and_none_is_none(serve: Serve) -> None:
    served = await serve(authenticator=ByHeader())
    for headers, user in ((["Authorization: alice"], "alice"), ([], None)):
        async with Raw(served.port) as client:
            client.write(head(*headers))
            assert (await client.head()).startswith(b"HTTP/1.1 101")
        identity = served.handlers[-1].info.identity
        assert (identity.claims.user if identity else None) == user


@pytest.mark.parametrize(
    ("value", "status", "challenge"),
    [("bad", b"401", b'Bearer realm="connection", error="invalid_token"'), ("two", b"400", b"")],
)
async def test_a_bad_credential_is_refused_before_the_upgrade(
    serve: Serve, value: str, status: bytes, challenge: bytes
) -> None:
    served = await serve(authenticator=ByHeader())
    async with Raw(served.port) as client:
        client.write(head(f"Authorization: {value}"))
        response = await client.head()
    assert response.startswith(b"HTTP/1.1 " + status)
    assert challenge in response
    assert (b"WWW-Authenticate" in response) == bool(challenge)
    assert served.refused == {"credentials": 1}
    assert not served.handlers


async def test_while_a_ticket_is_looked_up_nothing_is_read_and_then_all_of_it(serve: Serve) -> None:
    authenticator = ByHeader(Identity(ConnectionClaims(user="alice"), "t"))
    served = await serve(authenticator=authenticator)
    async with Raw(served.port) as client:
        client.write(with_ticket())
        await authenticator.waiting.wait()
        client.write(frame(TEXT, b"hello"))  # some clients do not wait for the answer
        await asyncio.sleep(0.02)
        assert not served.handlers
        authenticator.release.set()
        assert (await client.head()).startswith(b"HTTP/1.1 101")
        await served.handlers[0].has_received.wait()
    assert served.handlers[0].messages == [(b"hello", False)]
    assert served.handlers[0].info.identity == authenticator.later


@pytest.mark.parametrize(
    ("later", "status"),
    [
        pytest.param(HandshakeRejected("no"), b"401", id="rejected"),
        pytest.param(Unavailable("Redis"), b"503", id="unavailable"),
        pytest.param(RuntimeError("x"), b"500", id="fault"),
    ],
)
async def test_a_ticket_that_can_not_be_used_is_refused(
    serve: Serve, later: Exception, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    authenticator = ByHeader(later)
    authenticator.release.set()
    served = await serve(authenticator=authenticator)
    async with Raw(served.port) as client:
        client.write(with_ticket())
        response = await client.head()
        assert response.startswith(b"HTTP/1.1 " + status)
        assert (b"Retry-After: 1" in response) == (status == b"503")
    assert not served.handlers
    assert ("a credential could not be looked up" in caplog.text) == (status == b"500")


async def test_an_edge_that_begins_to_drain_during_the_lookup_answers_503_and_not_101(serve: Serve) -> None:
    authenticator = ByHeader(Identity(ConnectionClaims(user="alice"), "t"))
    served = await serve(authenticator=authenticator)
    async with Raw(served.port) as client:
        client.write(with_ticket())
        await authenticator.waiting.wait()
        served.server.stop_accepting()
        authenticator.release.set()
        response = await client.head()
        assert response.startswith(b"HTTP/1.1 503")
        assert b"\r\nRetry-After: " in response
    assert not served.handlers
    assert served.refused == {"draining": 1}


async def test_a_lookup_has_the_time_of_the_handshake(serve: Serve) -> None:
    served = await serve(authenticator=ByHeader(), handshake_timeout_s=0.1)
    async with Raw(served.port) as client:
        client.write(with_ticket())
        assert await client.rest() == b""
    assert served.refused == {"timeout": 1}
    assert not served.handlers


async def test_a_client_that_leaves_during_the_lookup_leaves_nothing_behind(serve: Serve) -> None:
    authenticator = ByHeader(Identity(ConnectionClaims(user="alice"), "t"))
    served = await serve(authenticator=authenticator)
    async with Raw(served.port) as client:
        client.write(with_ticket())
        await authenticator.waiting.wait()
    authenticator.release.set()
    async with asyncio.timeout(30):
        while served.listener.websockets or served.listener.heads or served.counted_addresses:
            await asyncio.sleep(0.01)
