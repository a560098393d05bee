"""Which dialect a connection speaks. Wire protocol, 1."""

from __future__ import annotations

import pytest

from services.edge.protocols.registry import PROTOBUF, Dialects, NotServed
from services.edge.transport.options import TransportOptions
from services.edge.transport.server import EdgeServer
from services.edge.transport.websocket.frames import text_frame
from tests.support.wire_client import WireClient


@pytest.mark.parametrize(
    ("offers", "selected"),
    [
        ([], None),
        ([""], None),
        (["centrifuge-json"], "centrifuge-json"),
        (["centrifuge-protobuf", "centrifuge-json"], "centrifuge-json"),
        (["graphql-ws", "CENTRIFUGE-JSON"], None),
    ],
)
def test_1_json_is_spoken_whatever_is_offered_and_selected_only_by_its_own_name(
    offers: list[str], selected: str | None
) -> None:
    assert Dialects(bytes).select(offers, {}) == (selected, "json")


@pytest.mark.parametrize(
    "query", [{"cf_protocol": "json"}, {"format": "json"}, {"cf_protocol_version": "v2"}, {"other": ""}]
)
def test_1_a_query_that_does_not_ask_for_protobuf_is_ignored(query: dict[str, str]) -> None:
    assert Dialects(bytes).select([], query) == (None, "json")


@pytest.mark.parametrize(
    ("offers", "query", "selected"),
    [
        (["centrifuge-protobuf"], {}, "centrifuge-protobuf"),
        (["x", "centrifuge-protobuf"], {"cf_protocol": "protobuf"}, "centrifuge-protobuf"),
        ([], {"format": "protobuf"}, None),
        ([], {"cf_protocol": "protobuf"}, None),
    ],
)
def test_1_who_asks_for_protobuf_gets_it_selected(
    offers: list[str], query: dict[str, str], selected: str | None
) -> None:
    assert Dialects(bytes).select(offers, query) == (selected, PROTOBUF)


@pytest.mark.parametrize("speaks", [True, False])
@pytest.mark.parametrize("subprotocols", [["centrifuge-protobuf"], []])
async def test_1_who_speaks_protobuf_only_is_closed_for_good_with_a_reason_that_names_it(
    subprotocols: list[str], speaks: bool
) -> None:
    options = TransportOptions(select_dialect=Dialects(text_frame).select)
    server = EdgeServer(options, lambda connection, info: NotServed(connection))
    await server.start("127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.port}/connection/websocket"
    query = "" if subprotocols else "?format=protobuf"
    async with WireClient(url + query, subprotocols=subprotocols) as client:
        assert client.subprotocol == (subprotocols[0] if subprotocols else None)
        if speaks:
            await client.socket.send(b"\x02\x08\x01")
        code, reason = await client.expect_close()
        assert code == 3506  # of those after which SDKs stay disconnected
        assert "Protobuf" in reason
    await server.close()


def test_every_name_that_can_be_selected_is_a_dialect_and_always_the_same_object() -> None:
    dialects = Dialects(bytes)
    _, name = dialects.select([], {})
    assert dialects[name].name == name
    assert dialects[name] is dialects[name]  # a channel encodes once per dialect object
