"""Which tokens the list of revocations covers."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from services.edge.domain.access.revocations import Revocation, Revocations, RevokedKind
from services.edge.domain.access.tokens import TokenInvalid, TokenVerifier
from services.edge.domain.control.operations import Revoke, execute
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.session.session import Session
from tests.support.edge import Client, Cluster

NOW = 1_800_000_000.0
NAMES = ("a", "b", "")


def entry(kind: RevokedKind, name: str, *, at: float = NOW, until: float = NOW + 60) -> Revocation:
    return Revocation(kind=kind, id=name, at=at, until=until)


def test_random_lists_cover_what_the_rules_say() -> None:
    """The rules written a second time: any entry that names the session or the token, or the user and a later time."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    outcomes = set()
    for _ in range(500):
        entries = [
            entry(rng.choice(list(RevokedKind)), rng.choice(NAMES[:2]), at=NOW + rng.randrange(5))
            for _ in range(rng.randrange(4))
        ]
        revocations = Revocations()
        for one in entries:
            revocations.add(one)
        user, session, token = (rng.choice(NAMES) for _ in range(3))
        issued_at = rng.choice([None, NOW + rng.randrange(6)])
        wanted = any(
            (one.kind is RevokedKind.SESSION and one.id == session)
            or (one.kind is RevokedKind.TOKEN and one.id == token)
            or (one.kind is RevokedKind.USER and one.id == user and (issued_at is None or issued_at <= one.at))
            for one in entries
        )
        assert revocations.covers(user=user, session=session, token=token, issued_at=issued_at) is wanted
        outcomes.add(wanted)
    assert outcomes == {True, False}


def test_of_two_entries_for_one_thing_the_later_times_hold() -> None:
    revocations = Revocations()
    assert revocations.add(entry(RevokedKind.USER, "a", at=NOW, until=NOW + 100))
    assert not revocations.add(entry(RevokedKind.USER, "a", at=NOW - 5, until=NOW + 50))
    assert revocations.add(entry(RevokedKind.USER, "a", at=NOW + 9, until=NOW + 10))
    assert list(revocations) == [entry(RevokedKind.USER, "a", at=NOW + 9, until=NOW + 100)]


def test_an_entry_is_kept_until_its_time_is_over() -> None:
    revocations = Revocations()
    revocations.add(entry(RevokedKind.TOKEN, "a", until=NOW + 10))
    revocations.add(entry(RevokedKind.SESSION, "b", until=NOW + 20))
    revocations.forget_expired(NOW + 9.9)
    assert len(revocations) == 2
    revocations.forget_expired(NOW + 10)
    assert [one.id for one in revocations] == ["b"]


@pytest.mark.parametrize("kind", RevokedKind)
def test_revoked_tokens_of_both_kinds_are_invalid(kind: RevokedKind) -> None:
    cluster = Cluster()
    revocations = Revocations()
    verifier = TokenVerifier(cluster.keyring, revocations=revocations)
    claims: dict[str, Any] = {"sid": "s1", "jti": "t1", "iat": NOW}
    connection = cluster.token("alice", **claims)
    subscription = cluster.token("alice", channel="room", **claims)
    verifier.connection(connection, NOW)
    revocations.add(entry(kind, {"user": "alice", "session": "s1", "token": "t1"}[kind.value]))
    for verify, token in ((verifier.connection, connection), (verifier.subscription, subscription)):
        with pytest.raises(TokenInvalid):
            verify(token, NOW)
    other = cluster.token("bob", sid="s2", jti="t2", iat=NOW)
    assert verifier.connection(other, NOW).user == "bob"


@pytest.mark.parametrize(("claim", "kind"), [("sid", RevokedKind.SESSION), ("jti", RevokedKind.TOKEN)])
def test_an_id_that_is_a_number_is_revoked_by_its_digits(claim: str, kind: RevokedKind) -> None:
    """Some issuers write numbers. Otherwise a revocation would be accepted, and change nothing."""
    cluster = Cluster()
    revocations = Revocations()
    verifier = TokenVerifier(cluster.keyring, revocations=revocations)
    ids: dict[str, Any] = {claim: 5}
    revocations.add(entry(kind, "5"))
    with pytest.raises(TokenInvalid):
        verifier.connection(cluster.token("alice", **ids), NOW)
    for other in (6, True, 5.5, [5]):
        ids[claim] = other
        verifier.connection(cluster.token("alice", **ids), NOW)


def test_a_user_who_is_revoked_may_sign_in_again() -> None:
    cluster = Cluster()
    revocations = Revocations()
    verifier = TokenVerifier(cluster.keyring, revocations=revocations)
    revocations.add(entry(RevokedKind.USER, "alice"))
    for claims in ({}, {"iat": NOW}, {"iat": NOW - 100}, {"iat": "soon"}):
        with pytest.raises(TokenInvalid):
            verifier.connection(cluster.token("alice", **claims), NOW)
    assert verifier.connection(cluster.token("alice", iat=NOW + 1), NOW).user == "alice"


async def test_a_revoked_token_is_refused_like_a_stranger_s() -> None:
    cluster = Cluster()
    node = cluster.edge()
    node.verifier = TokenVerifier(cluster.keyring, revocations=node.revocations)
    node.revocations.add(entry(RevokedKind.TOKEN, "t1"))
    ends = set()
    for token in (cluster.token("alice", jti="t1"), "garbage"):
        client = Client(cluster, node)
        await client.post(connect={"token": token})
        ends.add(client.closed)
    assert ends == {(3500, "invalid token")}


class Recorded:
    """Stands for the list and for the cluster: keeps the commands."""

    def __init__(self) -> None:
        self.commands: list[Revoke] = []

    async def append(self, entry: Revocation) -> None:
        return None

    async def everywhere(self, operation: Revoke) -> None:
        self.commands.append(operation)


@pytest.mark.parametrize("kind", [RevokedKind.SESSION, RevokedKind.TOKEN])
async def test_edges_of_before_close_no_anonymous_connections(kind: RevokedKind) -> None:
    """They close the connections of `user` whose token has the `sid` `session`; most anonymous ones have neither."""
    cluster, recorded = Cluster(), Recorded()
    node = cluster.edge(allow_anonymous=True)
    anonymous = Client(cluster, node)
    await anonymous.call(connect={})
    await Revoker(node, cast(Any, recorded), cast(Any, recorded)).revoke(kind, "x", 600)
    (command,) = recorded.commands
    of_user = node.users.get(command.user, {}).values()
    assert anonymous.session in of_user
    assert [session for session in of_user if session.token_session == command.session] == []


class Counted(dict[str, Session]):
    """Counts how often all connections are looked through."""

    times = 0

    def values(self) -> Any:
        self.times += 1
        return super().values()


async def test_many_revocations_are_one_look_at_the_connections_and_a_sign_out_is_none() -> None:
    """Each look takes milliseconds with many clients, and an edge that was cut off reads thousands of entries."""
    cluster, recorded = Cluster(), Recorded()
    node = cluster.edge()
    node.clients = clients = Counted()
    revoker = Revoker(node, cast(Any, recorded), cast(Any, recorded))
    made = {}
    for user in ("by-user", "by-session", "by-token", "stays", "out"):
        made[user] = Client(cluster, node, client_id=user)
        claims: dict[str, Any] = {"sid": f"s-{user}", "jti": f"j-{user}", "iat": 1}
        await made[user].call(connect={"token": cluster.token(user, **claims)})
    now = node.clock.wall()
    many = [entry(kind, f"x{number}", at=now, until=now + 60) for number in range(100) for kind in RevokedKind]
    some = ((RevokedKind.USER, "by-user"), (RevokedKind.SESSION, "s-by-session"), (RevokedKind.TOKEN, "j-by-token"))
    revoker.take([*many, *(entry(kind, name, at=now, until=now + 60) for kind, name in some)])
    assert clients.times == 1
    assert [user for user, client in made.items() if client.closed is None] == ["stays", "out"]
    await revoker.revoke(RevokedKind.SESSION, "s-out", 600, user="out")
    await execute(node, recorded.commands[0])
    assert [user for user, client in made.items() if client.closed is None] == ["stays"]
    assert clients.times == 1
