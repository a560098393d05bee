"""Which tokens the list of revocations covers."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from services.edge.domain.access import revocations
from services.edge.domain.access.revocations import OLDER_S, Revocation, Revocations, RevokedKind
from services.edge.domain.access.tokens import TokenInvalid, TokenVerifier
from services.edge.domain.control.operations import Revoke, SetUser, execute, take_disabled
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.session.session import Session
from services.shared.user_digest import digest_of
from tests.support.edge import Client, Cluster, connected

NOW = 1_800_000_000.0
NAMES = ("a", "b", "")
OF_TOKENS = [RevokedKind.USER, RevokedKind.SESSION, RevokedKind.TOKEN]


def entry(kind: RevokedKind, name: str, *, at: float = NOW, until: float = NOW + 60) -> Revocation:
    return Revocation(kind=kind, id=name, at=at, until=until)


def test_random_lists_cover_what_the_rules_say() -> None:
    """The rules written a second time.

    Any entry that names the session or the token, or the user and a later time.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    outcomes = set()
    for _ in range(500):
        entries = [
            entry(rng.choice(OF_TOKENS), rng.choice(NAMES[:2]), at=NOW + rng.randrange(5))
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


@pytest.mark.parametrize("kind", OF_TOKENS)
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
    """Some issuers write numbers.

    Otherwise a revocation would be accepted, and change nothing.
    """
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
    assert verifier.connection(cluster.token("alice", iat=NOW + 1), NOW + 1).user == "alice"


def test_an_issuer_whose_clock_is_ahead_is_bounded_by_the_leeway() -> None:
    """Tokens say that they are of 2 s, 8 s and 12 s after the revocation."""
    cluster = Cluster()
    revocations = Revocations()
    verifier = TokenVerifier(cluster.keyring, revocations=revocations, leeway_s=10)
    revocations.add(entry(RevokedKind.USER, "alice"))
    for ahead in (2, 8):
        with pytest.raises(TokenInvalid):
            verifier.connection(cluster.token("alice", iat=NOW + ahead), NOW + 60)
    assert verifier.connection(cluster.token("alice", iat=NOW + 12), NOW + 60).user == "alice"


async def test_no_connection_outlives_the_revocation_of_its_user_whatever_the_clock_of_the_issuer_says() -> None:
    cluster = Cluster()
    node = cluster.edge()
    at = cluster.clock.unix
    client = await connected(cluster, node, "alice", claims={"iat": at + 3_600})
    refreshed = await connected(cluster, node, "alice", claims={"iat": at - 3_600})
    await refreshed.call(refresh={"token": cluster.token("alice", iat=at + 3_600)})
    await cluster.advance(1)
    newer = await connected(cluster, node, "alice", claims={"iat": cluster.clock.unix})
    await execute(node, Revoke(user="alice", session="", kind="user", id="alice", at=at + 0.5, until=at + 600))
    assert [one.closed and one.closed[0] for one in (client, refreshed, newer)] == [3503, 3503, None]


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
    """They close the connections of `user` whose token has the `sid` `session`.

    Most anonymous ones have neither.
    """
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
    """Each look takes milliseconds with many clients.

    An edge that was cut off reads thousands of entries.
    """
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
    many = [entry(kind, f"x{number}", at=now, until=now + 60) for number in range(100) for kind in OF_TOKENS]
    some = ((RevokedKind.USER, "by-user"), (RevokedKind.SESSION, "s-by-session"), (RevokedKind.TOKEN, "j-by-token"))
    revoker.take([*many, *(entry(kind, name, at=now, until=now + 60) for kind, name in some)])
    assert clients.times == 1
    assert [user for user, client in made.items() if client.closed is None] == ["stays", "out"]
    await revoker.revoke(RevokedKind.SESSION, "s-out", 600, user="out")
    await execute(node, recorded.commands[0])
    assert [user for user, client in made.items() if client.closed is None] == ["stays"]
    assert clients.times == 1


def test_who_is_disabled_is_what_auth_says_whatever_arrives_first() -> None:
    """Lists of auth and commands of edges in any order, some lost, some twice."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(500):
        now: set[str] = set()
        lists: list[tuple[set[str], int]] = [(set(), 1)]
        commands: list[tuple[str, int]] = []
        for version in range(2, rng.randrange(3, 9)):
            user = rng.choice("ab")
            if user not in now:
                now.add(user)
                commands.append((user, version + rng.randrange(2)))  # auth reads the version a little later
            else:
                now.discard(user)
            lists.append((set(now), version))
        known = Revocations()
        arriving: list[tuple[Any, int]] = [*rng.sample(lists, rng.randrange(len(lists))), *commands, *commands[:2]]
        rng.shuffle(arriving)
        for what, version in arriving:
            if isinstance(what, str):
                known.add_disabled(what, version)
            else:
                known.set_disabled(map(digest_of, what), version)
        known.set_disabled(map(digest_of, now), lists[-1][1])
        for late, version in commands:  # of the log, by an edge that was cut off
            if version <= lists[-1][1]:
                known.add_disabled(late, version)
        known.set_disabled(None, lists[-1][1] + 1)  # as before: something else has changed
        assert {user for user in "ab" if known.is_disabled(user)} == now


def test_a_user_who_was_just_disabled_is_refused_until_a_list_of_that_version_arrives() -> None:
    known = Revocations()
    known.set_disabled([digest_of("old")], 4)
    known.add_disabled("ann", 6)
    for version in (5, 4):  # of a replica that is behind
        known.set_disabled([], version, now=1.0)
        assert known.is_disabled("ann")
    known.set_disabled([], 6, now=1.0)
    assert not known.is_disabled("ann"), "somebody has enabled the user since"
    known.add_disabled("ann", 6)
    assert not known.is_disabled("ann")


def test_an_older_list_is_ignored_until_nothing_newer_was_heard_for_long() -> None:
    known = Revocations()
    known.set_disabled([digest_of("ann")], 9, now=5.0)
    known.set_disabled([], 3, now=5.0 + OLDER_S / 2)
    known.set_disabled(None, 3, now=4.0 + OLDER_S)
    assert known.is_disabled("ann")
    known.set_disabled(None, 3, now=6.0 + OLDER_S)  # the store was restored
    assert not known.is_disabled("ann")


def test_a_ban_holds_at_once_where_the_store_was_restored() -> None:
    """Its versions are lower than those that the edge has heard."""
    known = Revocations()
    known.set_disabled([digest_of("old")], 100, now=1.0)
    known.set_disabled([], 5, now=2.0)
    known.add_disabled("ann", 6)
    assert known.is_disabled("ann"), "by the command"
    assert known.set_disabled([digest_of("bob")], 7, now=3.0)
    assert known.is_disabled("bob"), "by the list"
    assert all(map(known.is_disabled, ("ann", "old"))), "an older list ends nothing"
    known.add_disabled("eve", 101)  # by an edge that still waits for the store of before
    known.set_disabled(None, 7, now=1.0 + OLDER_S)
    assert [user for user in ("old", "ann", "bob", "eve") if known.is_disabled(user)] == ["bob"]
    known.add_disabled("ann", 8)
    assert known.is_disabled("ann")


async def test_connections_of_whoever_a_list_of_a_restored_store_names_are_closed() -> None:
    cluster = Cluster()
    node = cluster.edge()
    take_disabled(node, [], 100)
    ann, bob = Client(cluster, node, client_id="1"), Client(cluster, node, client_id="2")
    await ann.call(connect={"token": cluster.token("ann")})
    await bob.call(connect={"token": cluster.token("bob")})
    take_disabled(node, None, 5)
    take_disabled(node, [digest_of("ann")], 6)
    assert (ann.closed is not None, bob.closed) == (True, None)


async def test_who_is_connected_is_hashed_once_however_often_users_are_disabled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    node = cluster.edge()
    clients = [await connected(cluster, node, f"user-{number}") for number in range(50)]
    anonymous = await connected(cluster, node, "")
    hashed: list[str] = []

    def counted(user: str) -> bytes:
        hashed.append(user)
        return digest_of(user)

    monkeypatch.setattr(revocations, "digest_of", counted)
    refused = [digest_of(f"other-{number}") for number in range(10)]
    for number in range(10):
        take_disabled(node, refused[: number + 1], number + 1)
    assert sorted(hashed) == sorted(f"user-{number}" for number in range(50))
    for number in range(10):
        await execute(node, SetUser(user=f"another-{number}", disabled=True, version=100 + number))
    assert len(hashed) <= 50 + 2 * 10, "a command looks at the one user that it names"
    take_disabled(node, [*refused, digest_of("user-7"), digest_of("")], 200)
    assert [number for number, client in enumerate(clients) if client.closed] == [7]
    assert anonymous.closed is None
    assert (await execute(node, SetUser(user="user-8", disabled=True, version=201)))["clients"] == 1
    assert [number for number, client in enumerate(clients) if client.closed] == [7, 8]
    take_disabled(node, [*refused, digest_of("user-7"), digest_of("late")], 202)
    assert len(node.revocations._digests) == 48, "of those who left none is kept"  # noqa: SLF001


def test_an_auth_of_before_says_no_version() -> None:
    known = Revocations()
    known.add_disabled("ann", 0)
    known.set_disabled(None, 0)
    assert known.is_disabled("ann")
    known.set_disabled([digest_of("bob")], 0)
    assert (known.is_disabled("ann"), known.is_disabled("bob")) == (False, True)
