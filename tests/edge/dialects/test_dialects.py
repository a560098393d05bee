"""Which dialect a connection speaks. Wire protocol, 1."""

from __future__ import annotations

import pytest

from services.edge.dialects import Dialects


@pytest.mark.parametrize(
    ("offers", "selected"),
    [
        ([], None),
        ([""], None),
        (["centrifuge-json"], "centrifuge-json"),
        (["centrifuge-protobuf"], None),
        (["centrifuge-protobuf", "centrifuge-json"], "centrifuge-json"),
        (["graphql-ws", "CENTRIFUGE-JSON"], None),
    ],
)
def test_1_json_is_spoken_whatever_is_offered_and_selected_only_by_its_own_name(
    offers: list[str], selected: str | None
) -> None:
    assert Dialects(bytes).select(offers, {}) == (selected, "json")


@pytest.mark.parametrize(
    "query", [{"cf_protocol": "protobuf"}, {"format": "protobuf"}, {"cf_protocol_version": "v2"}, {"other": ""}]
)
def test_1_no_query_is_refused_and_json_is_spoken(query: dict[str, str]) -> None:
    assert Dialects(bytes).select([], query) == (None, "json")


def test_every_name_that_can_be_selected_is_a_dialect_and_always_the_same_object() -> None:
    dialects = Dialects(bytes)
    _, name = dialects.select([], {})
    assert dialects[name].name == name
    assert dialects[name] is dialects[name]  # a channel encodes once per dialect object
