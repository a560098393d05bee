"""Who a client is by its handshake.

Which credentials count, and which one of several.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest

from services.edge.domain.connections import HandshakeInfo, HandshakeRejected, Identity
from services.edge.domain.handshake import HandshakeAuthenticator
from services.edge.transport.origins import OriginRules
from tests.support.edge import Cluster
from tests.support.memory import MemoryTickets

HOST = "rt.example.com"
LISTED = "https://app.example.com"
EVERY_OTHER = "https://elsewhere.example"
ROUNDS = 400


def authenticator(
    cluster: Cluster, tickets: MemoryTickets | None = None, *, takes_query_tokens: bool = False
) -> HandshakeAuthenticator:
    node = cluster.edge()
    return HandshakeAuthenticator(
        node.verifier,
        tickets or MemoryTickets(),
        node.resume,
        cluster.clock.wall,
        takes_query_tokens=takes_query_tokens,
        is_own_page=OriginRules([LISTED, "*", "null"]).names,
    )


@dataclass
class Made:
    """The parts of a handshake that may hold a credential."""

    query: dict[str, str] = field(default_factory=dict)
    ambiguous: frozenset[str] = frozenset()
    offers: list[str] = field(default_factory=list)
    authorization: list[str] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)
    origin: str | None = None

    def info(self) -> HandshakeInfo:
        return HandshakeInfo(
            peer="192.0.2.1",
            path="/connection/websocket",
            query=self.query,
            ambiguous=self.ambiguous,
            offers=self.offers,
            origin=self.origin,
            host=HOST,
            authorization=self.authorization,
            cookies=self.cookies,
        )


async def identify(checked: HandshakeAuthenticator, made: Made) -> Identity | None:
    found = checked.identify(made.info())
    return await found if isinstance(found, Awaitable) else found


async def outcome(checked: HandshakeAuthenticator, made: Made) -> str:
    """The user; `nobody`, `401` or `400`."""
    try:
        identity = await identify(checked, made)
    except HandshakeRejected as error:
        return "400" if error.conflict else "401"
    return identity.claims.user if identity is not None else "nobody"


EXPLICIT = {
    "bearer header": lambda made, token: made.authorization.append(f"Bearer {token}"),
    "bearer header in lower case": lambda made, token: made.authorization.append(f"bearer  {token}"),
    "subprotocol bearer": lambda made, token: made.offers.extend([f"bearer.{token}", "centrifuge-json"]),
    "subprotocol jwt": lambda made, token: made.offers.extend(["centrifuge-json", token]),
    "query": lambda made, token: made.query.update(token=token),
}


@pytest.mark.parametrize("way", EXPLICIT)
async def test_an_explicit_token_says_who_the_client_is(way: str) -> None:
    cluster = Cluster()
    checked = authenticator(cluster, takes_query_tokens=True)
    made = Made()
    EXPLICIT[way](made, cluster.token("alice"))
    identity = await identify(checked, made)
    assert identity is not None
    assert identity.claims.user == "alice"
    assert identity.is_explicit


@pytest.mark.parametrize("way", EXPLICIT)
async def test_an_explicit_token_that_is_bad_or_expired_is_refused(way: str) -> None:
    cluster = Cluster()
    checked = authenticator(cluster, takes_query_tokens=True)
    good = cluster.token("alice")
    for bad in (cluster.token("alice", ttl_s=-1), good[:-4] + "AAAA"):
        made = Made()
        EXPLICIT[way](made, bad)
        assert await outcome(checked, made) == "401"


async def test_a_token_in_the_query_is_refused_unless_a_setting_allows_it() -> None:
    cluster = Cluster()
    made = Made(query={"token": cluster.token("alice")})
    assert await outcome(authenticator(cluster), made) == "401"
    assert await outcome(authenticator(cluster, takes_query_tokens=True), made) == "alice"


@pytest.mark.parametrize("name", ["token", "ticket", "session"])
async def test_two_values_of_one_name_in_the_query_conflict(name: str) -> None:
    cluster = Cluster()
    checked = authenticator(cluster, takes_query_tokens=True)
    made = Made(query={name: cluster.token("alice")}, ambiguous=frozenset({name}))
    assert await outcome(checked, made) == "400"


async def test_other_schemes_of_authorization_are_no_credential_of_ours() -> None:
    cluster = Cluster()
    checked = authenticator(cluster)
    for value in ("Basic YTpi", "apikey k", "Digest x", "", "Bearer-ish x"):
        assert await outcome(checked, Made(authorization=[value])) == "nobody"
    assert await outcome(checked, Made(authorization=["Bearer"])) == "401"


@pytest.mark.parametrize(
    ("origin", "user"),
    [
        pytest.param(LISTED, "alice", id="listed"),
        pytest.param(f"https://{HOST}", "alice", id="own-host"),
        pytest.param(f"http://{HOST}", "nobody", id="own-host-without-tls"),  # anybody on the way may have written it
        pytest.param(EVERY_OTHER, "nobody", id="allowed-by-star-only"),
        pytest.param("null", "nobody", id="null"),
        pytest.param("https://app.example.com.evil.example", "nobody", id="suffix-twin"),
        pytest.param("https://evil-app.example.com", "nobody", id="prefix-twin"),
        pytest.param(None, "nobody", id="no-origin"),
    ],
)
async def test_B01_a_cookie_counts_only_for_pages_that_are_named(origin: str | None, user: str) -> None:
    cluster = Cluster()
    made = Made(cookies=[f"other=1; thalamus_session={cluster.token('alice')}"], origin=origin)
    assert await outcome(authenticator(cluster), made) == user


async def test_a_bad_or_expired_cookie_counts_as_none() -> None:
    cluster = Cluster()
    checked = authenticator(cluster)
    for value in (cluster.token("alice", ttl_s=-1), "garbage", "", cluster.token("alice")[:-4] + "AAAA"):
        assert await outcome(checked, Made(cookies=[f"thalamus_session={value}"], origin=LISTED)) == "nobody"


async def test_a_ticket_is_good_once_and_whatever_its_token_is_good_for() -> None:
    cluster, tickets = Cluster(), MemoryTickets()
    checked = authenticator(cluster, tickets)
    for name in ("ticket", "session"):
        tickets.kept |= {"good": cluster.token("alice"), "late": cluster.token("alice", ttl_s=-1)}
        assert await outcome(checked, Made(query={name: "good"})) == "alice"
        assert await outcome(checked, Made(query={name: "good"})) == "401"
        assert await outcome(checked, Made(query={name: "late"})) == "401"
        for never in ("", "x" * 129, "unknown"):
            assert await outcome(checked, Made(query={name: never})) == "401"
    tickets.kept |= {"a": cluster.token("alice"), "b": cluster.token("alice")}
    assert await outcome(checked, Made(query={"ticket": "a", "session": "b"})) == "400"
    assert set(tickets.kept) >= {"a", "b"}  # nothing is used up for a request that is refused anyway


async def test_of_any_mix_of_credentials_the_rules_choose_one() -> None:
    """Random mixes against rules written a second time.

    Conflict, then bad, then explicit, then cookie, then nobody.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    cluster, tickets = Cluster(), MemoryTickets()
    checked = authenticator(cluster, tickets, takes_query_tokens=True)
    tokens = {
        "alice": cluster.token("alice"),
        "bob": cluster.token("bob"),
        "bad": cluster.token("eve")[:-4] + "AAAA",
        "late": cluster.token("old", ttl_s=-5),
    }
    seen: dict[str, int] = {}
    for number in range(ROUNDS):
        made = Made(origin=rng.choice([LISTED, EVERY_OTHER, None]))
        shown = []
        for way in rng.sample(list(EXPLICIT), rng.choice([0, 0, 1, 1, 2])):
            shown.append(rng.choice(list(tokens)))
            EXPLICIT[way](made, tokens[shown[-1]])
        if rng.random() < 0.3:
            shown.append(rng.choice(list(tokens)))
            tickets.kept[f"t{number}"] = tokens[shown[-1]]
            made.query["ticket"] = f"t{number}"
        cookie = rng.choice([None, *tokens])
        if cookie is not None:
            made.cookies.append(f"thalamus_session={tokens[cookie]}")
        if len(set(shown)) > 1:
            wanted = "400"
        elif shown:
            wanted = shown[0] if shown[0] in ("alice", "bob") else "401"
        else:
            wanted = cookie if cookie in ("alice", "bob") and made.origin == LISTED else "nobody"
        found = await outcome(checked, made)
        assert found == wanted, (number, made, shown, cookie)
        seen[found] = seen.get(found, 0) + 1
    assert set(seen) == {"400", "401", "alice", "bob", "nobody"}


async def test_what_may_hold_a_token_is_in_no_text_of_the_objects() -> None:
    cluster = Cluster()
    token = cluster.token("alice")
    made = Made(
        query={"token": token},
        offers=[token],
        authorization=[f"Bearer {token}"],
        cookies=[f"thalamus_session={token}"],
    )
    identity = await identify(authenticator(cluster, takes_query_tokens=True), made)
    assert token not in repr(made.info())
    assert token not in repr(identity)
