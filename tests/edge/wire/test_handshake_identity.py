"""The connect command of a client whose handshake has said who it is.

And `Authorization` among its headers.
"""

from __future__ import annotations

import pytest

from services.edge.domain.access.revocations import Revocation, RevokedKind
from services.edge.domain.connections import Identity
from tests.support.edge import Client, Cluster

TOKEN_KINDS = [kind for kind in RevokedKind if kind is not RevokedKind.GRANTS]  # kinds that concern tokens


def identity(cluster: Cluster, user: str, *, is_explicit: bool = True, ttl_s: float | None = 300) -> Identity:
    token = cluster.token(user, ttl_s=ttl_s)
    claims = cluster.edge().verifier.connection(token, cluster.clock.wall())
    return Identity(claims, token, is_explicit=is_explicit)


async def test_connect_needs_no_token_and_tells_of_no_expiry() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), identity=identity(cluster, "alice"))
    result = await client.call(connect={})
    assert "expires" not in result
    assert "ttl" not in result
    assert client.session.user == "alice"


async def test_the_connection_closes_3005_when_the_token_expires_and_not_before() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(ping_interval_s=0), identity=identity(cluster, "alice", ttl_s=60))
    await client.call(connect={})
    await cluster.advance(59)
    assert client.closed is None
    await cluster.advance(2)
    assert client.closed == (3005, "connection expired")


async def test_a_token_that_expires_between_handshake_and_connect_is_109() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), identity=identity(cluster, "alice", ttl_s=3))
    await cluster.advance(4)
    assert (await client.reply(connect={}))["error"]["code"] in (109, 110)


@pytest.mark.parametrize("kind", TOKEN_KINDS, ids=lambda kind: kind.value)
async def test_a_token_that_is_revoked_between_handshake_and_connect_closes_3500(kind: RevokedKind) -> None:
    cluster = Cluster()
    edge = cluster.edge()
    token = cluster.token("alice", sid="alice", jti="alice", iat=cluster.clock.wall() - 1)
    claims = edge.verifier.connection(token, cluster.clock.wall())
    client = Client(cluster, edge, identity=Identity(claims, token))
    now = cluster.clock.wall()
    edge.revocations.add(Revocation(kind=kind, id="alice", at=now, until=now + 60))
    await client.post(connect={})
    assert client.closed == (3500, "invalid token")


async def test_a_cookie_that_is_revoked_between_handshake_and_connect_counts_as_none() -> None:
    cluster = Cluster()
    edge = cluster.edge()
    client = Client(cluster, edge, identity=identity(cluster, "alice", is_explicit=False))
    now = cluster.clock.wall()
    edge.revocations.add(Revocation(kind=RevokedKind.USER, id="alice", at=now, until=now + 60))
    await client.post(connect={})
    assert client.closed == (3501, "bad request")


async def test_a_token_of_the_command_must_be_of_the_user_of_an_explicit_credential() -> None:
    cluster = Cluster()
    same = Client(cluster, cluster.edge(), identity=identity(cluster, "alice"))
    result = await same.call(connect={"token": cluster.token("alice", ttl_s=100)})
    assert result["expires"] is True
    other = Client(cluster, cluster.edge(), identity=identity(cluster, "alice"))
    await other.post(connect={"token": cluster.token("bob")})
    assert other.closed == (3501, "bad request")


async def test_a_token_of_the_command_beats_the_cookie() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), identity=identity(cluster, "alice", is_explicit=False))
    await client.call(connect={"token": cluster.token("bob")})
    assert client.session.user == "bob"
    bad = Client(cluster, cluster.edge(), identity=identity(cluster, "alice", is_explicit=False))
    await bad.post(connect={"token": "garbage"})
    assert bad.closed == (3500, "invalid token")


async def test_authorization_among_the_headers_is_a_token() -> None:
    cluster = Cluster()
    for name in ("Authorization", "authorization"):
        client = Client(cluster, cluster.edge())
        result = await client.call(connect={"headers": {name: f"Bearer {cluster.token('alice')}", "x": "y"}})
        assert result["expires"] is True
        assert client.session.user == "alice"
    bad = Client(cluster, cluster.edge())
    await bad.post(connect={"headers": {"Authorization": "Bearer garbage"}})
    assert bad.closed == (3500, "invalid token")


async def test_two_tokens_of_the_command_that_differ_close_3501() -> None:
    cluster = Cluster()
    token = cluster.token("alice")
    same = Client(cluster, cluster.edge())
    await same.call(connect={"token": token, "headers": {"Authorization": f"Bearer {token}"}})
    for headers in (
        {"Authorization": f"Bearer {cluster.token('alice', ttl_s=7)}"},
        {"Authorization": f"Bearer {token}", "authorization": "Bearer x"},
    ):
        client = Client(cluster, cluster.edge())
        await client.post(connect={"token": token, "headers": headers})
        assert client.closed == (3501, "bad request")


async def test_other_schemes_among_the_headers_are_no_token() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await client.post(connect={"headers": {"Authorization": "Basic YTpi"}})
    assert client.closed == (3501, "bad request")
