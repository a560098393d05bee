"""Which protocol and encoding a connection gets. Wire protocol, 1."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from centrifuge.protocol import client_pb2 as official
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from services.edge.domain.connections import Choice, HandshakeInfo
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from services.edge.protocols.registry import Registry
from tests.edge.transport.support import PATH
from tests.support.edge import Cluster, TestConnection
from tests.support.served_edge import ServedEdge, connect_command, protocols_of

JSON, PROTOBUF = "json", "protobuf"


def chosen(offers: list[str], query: dict[str, str]) -> tuple[str | None, str]:
    """The subprotocol that is selected, and what the connection speaks."""
    choice = protocols_of(Cluster().edge()).choose(HandshakeInfo(peer="", path=PATH, query=query, offers=offers))
    assert choice is not None
    return choice.subprotocol, PROTOBUF if isinstance(encoder_of(choice), CentrifugalProtobuf) else JSON


def encoder_of(choice: Choice) -> object:
    return choice.open(TestConnection()).encoder  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("offers", "selected"),
    [
        ([], None),
        ([""], None),
        (["centrifuge-json"], "centrifuge-json"),
        (["centrifuge-json", "centrifuge-protobuf"], "centrifuge-json"),
        (["graphql-ws", "CENTRIFUGE-JSON"], None),
    ],
)
def test_1_json_is_spoken_whatever_is_offered_and_selected_only_by_its_own_name(
    offers: list[str], selected: str | None
) -> None:
    assert chosen(offers, {}) == (selected, JSON)


@pytest.mark.parametrize(
    "query", [{"cf_protocol": "json"}, {"format": "json"}, {"cf_protocol_version": "v2"}, {"other": ""}]
)
def test_1_a_query_that_does_not_ask_for_protobuf_is_ignored(query: dict[str, str]) -> None:
    assert chosen([], query) == (None, JSON)


@pytest.mark.parametrize(
    ("offers", "query", "selected"),
    [
        (["centrifuge-protobuf"], {}, "centrifuge-protobuf"),
        (["x", "centrifuge-protobuf"], {"cf_protocol": "protobuf"}, "centrifuge-protobuf"),
        (["centrifuge-protobuf", "centrifuge-json"], {}, "centrifuge-protobuf"),
        ([], {"format": "protobuf"}, None),
        ([], {"cf_protocol": "protobuf"}, None),
    ],
)
def test_1_who_asks_for_protobuf_gets_it_selected(
    offers: list[str], query: dict[str, str], selected: str | None
) -> None:
    assert chosen(offers, query) == (selected, PROTOBUF)


@pytest.mark.parametrize("subprotocols", [["centrifuge-protobuf"], []])
async def test_1_protobuf_is_spoken_in_binary_frames(subprotocols: list[str]) -> None:
    query = "" if subprotocols else "?format=protobuf"
    async with ServedEdge(Cluster()) as edge:
        url = f"ws://127.0.0.1:{edge.port}{PATH}{query}"
        async with connect(url, subprotocols=list(map(Subprotocol, subprotocols)) or None, proxy=None) as socket:
            assert socket.subprotocol == (subprotocols[0] if subprotocols else None)
            command = official.Command(id=1, connect=official.ConnectRequest(**connect_command("alice")["connect"]))
            body = command.SerializeToString()
            await socket.send(bytes((len(body) & 0x7F | 0x80, len(body) >> 7)) + body)
            message = await asyncio.wait_for(socket.recv(), 30)
            assert isinstance(message, bytes)
            assert message[0] == len(message) - 1
            reply = official.Reply.FromString(message[1:])
            assert (reply.id, len(reply.connect.client) > 0) == (1, True)


def test_all_connections_of_an_encoding_share_its_encoder() -> None:
    protocols = protocols_of(Cluster().edge())
    encoders = set()
    for offers in ([], ["centrifuge-json"], ["centrifuge-protobuf"], ["centrifuge-protobuf"]):
        choice = protocols.choose(HandshakeInfo(peer="", path=PATH, query={}, offers=offers))
        assert choice is not None
        encoders.add(encoder_of(choice))
    assert len(encoders) == 2  # a channel encodes once per encoder


class Entry:
    """Takes connections to its paths that offer its name."""

    def __init__(self, name: str, *paths: str, close_codes: tuple[int, ...] = ()) -> None:
        self.name = name
        self.paths = paths
        self.close_codes = frozenset(close_codes)

    def serves(self, path: str) -> bool:
        return path in self.paths

    def choose(self, info: HandshakeInfo) -> Choice | None:
        return Choice(partial(int), self.name) if self.name in info.offers else None  # type: ignore[arg-type]


def test_the_registry_asks_the_protocols_of_a_path_in_their_order() -> None:
    registry = Registry(Cluster().edge())
    registry.add(Entry("a", "/one", close_codes=(4000,)))
    registry.add(Entry("b", "/one", "/two", close_codes=(4000, 4001)))
    assert registry.close_codes == {4000, 4001}
    assert [path for path in ("/one", "/two", "/three", "/one/") if registry.serves(path)] == ["/one", "/two"]
    for path, offers, selected in (
        ("/one", ["b", "a"], "a"),
        ("/one", ["b"], "b"),
        ("/two", ["b", "a"], "b"),
        ("/two", ["a"], None),
        ("/three", ["a", "b"], None),
    ):
        choice = registry.choose(HandshakeInfo(peer="", path=path, query={}, offers=offers))
        assert (choice.subprotocol if choice else None) == selected, (path, offers)
