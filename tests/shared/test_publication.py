"""The bytes of a publication."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.errors import ThalamusError
from services.shared.publication import encode, parse
from thalamus.common.v1.common_pb2 import ClientInfo


@given(
    data=st.binary(),
    tags=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    id=st.binary(min_size=16, max_size=16),
    exclude=st.text(max_size=36),
    time_ms=st.integers(0, 2**62),
)
def test_what_was_encoded_is_parsed(data: bytes, tags: dict[str, str], id: bytes, exclude: str, time_ms: int) -> None:
    info = ClientInfo(user="u1", client="c1", conn_info=b'{"a":1}')
    publication = parse(encode(data, info, tags, id, exclude, time_ms))
    assert (publication.data, dict(publication.tags), publication.id) == (data, tags, id)
    assert (publication.exclude_client, publication.time_ms) == (exclude, time_ms)
    assert publication.info == info


def test_no_publisher_is_not_an_anonymous_one() -> None:
    assert not parse(encode(b"1")).HasField("info")
    assert parse(encode(b"1", ClientInfo())).HasField("info")


def test_other_bytes_are_refused() -> None:
    with pytest.raises(ThalamusError, match="can't be read"):
        parse(b"\xff\xff\xff")
