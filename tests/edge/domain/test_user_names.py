"""User ids in channel names: every id has one, and no two have the same.

Wire protocol, 10.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.edge.domain.access.channel_names import find_namespace, listed_users
from services.edge.domain.access.user_names import in_channel_name, personal_channel
from services.shared.namespaces import Namespace, Namespaces
from tests.support.edge import OPEN, Client, Cluster, connected

NAMESPACES = Namespaces(Namespace(name=""), {"personal": Namespace(name="personal")})
IDS = st.text(max_size=12) | st.text("ab:,#% %2fF{}*&/é", max_size=9)


def user_of(name: str) -> str:
    """The id that a name is of, by the words of the protocol's page alone."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), name.encode())
    return raw.decode()


@settings(max_examples=500, deadline=None, derandomize=True)
@given(IDS.filter(bool), st.sampled_from(["", "personal"]))
@example("zoë", "")
@example("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "")
@example("a%20b", "")
@example("% a", "personal")
@example("%2é", "")
def test_every_id_has_a_channel_from_which_it_can_be_had_again(user: str, namespace: str) -> None:
    channel = personal_channel(user, namespace)
    assert find_namespace(NAMESPACES, channel, 1_024).name == namespace
    listed = listed_users(channel)
    assert listed is not None
    (name,) = listed  # one user: no comma and no `#` of the id is read as the protocol's
    assert user_of(name) == user


@pytest.mark.parametrize(
    "user", ["alice", "a.b-c_d", "a@example.org", "100%", "%", "50%off", "x+y=z", "!$'()?;[]^`|~<>"]
)
def test_ids_of_plain_characters_are_their_own_names(user: str) -> None:
    assert in_channel_name(user, namespaced=True) == in_channel_name(user, namespaced=False) == user


def test_a_colon_stays_where_a_namespace_stands_before_it() -> None:
    assert personal_channel("urn:uuid:1", "personal") == "personal:#urn:uuid:1"
    assert personal_channel("urn:uuid:1", "") == "#urn%3Auuid%3A1"


USERS = ["a b", "a%20b", "a", "b", "a,b", "x#b", "zoë", "zo%C3%AB", "urn:uuid:1", "urn%3Auuid%3A1", "{x}", "/", "*&"]


@pytest.mark.parametrize("namespace", ["", "personal"])
async def test_everyone_connects_and_nobody_reaches_the_channel_of_another(namespace: str) -> None:
    cluster = Cluster(personal=OPEN)
    node = cluster.edge(personal_channel=True, personal_channel_namespace=namespace)
    channels: dict[str, str] = {}
    clients: dict[str, Client] = {}
    for user in USERS:
        clients[user] = Client(cluster, node)
        ((channels[user]),) = (await clients[user].call(connect={"token": cluster.token(user)}))["subs"]
    assert len(set(channels.values())) == len(USERS)
    for user in USERS:
        for other in USERS:
            expected = 105 if user == other else 103  # one's own is subscribed already
            assert await clients[user].error(subscribe={"channel": channels[other]}) == expected, (user, other)


async def test_whoever_is_listed_may_subscribe_to_a_limited_channel() -> None:
    cluster = Cluster()
    node = cluster.edge()
    for user, name in (("a b", "a%20b"), ("x,y", "x%2Cy"), ("bob", "bob")):
        client = await connected(cluster, node, user)
        await client.call(subscribe={"channel": f"room#carol,{name}"})
    assert await (await connected(cluster, node, "x")).error(subscribe={"channel": "room#x%2Cy"}) == 103
