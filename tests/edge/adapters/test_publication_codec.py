"""The bytes of a publication, as the log, the store and pub/sub carry them."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from services.edge.adapters import publication_codec as codec
from services.edge.domain.model import ClientInfo, Publication
from thalamus.common.v1 import common_pb2 as pb

INFOS = st.builds(ClientInfo, st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5), st.binary(max_size=5))


@given(
    st.builds(
        Publication,
        st.binary(),
        st.none() | INFOS,
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        st.binary(min_size=16, max_size=16),
        st.text(max_size=36),
        st.integers(0, 2**62),
        st.integers(1, 2**63),
    )
)
def test_a_publication_is_decoded_as_it_was_encoded(publication: Publication) -> None:
    assert codec.decode(codec.encode(publication), publication.offset) == publication


def test_without_its_time_everything_else_is_kept() -> None:
    publication = Publication(b"1", tags={"a": "b"}, id=bytes(16), time_ms=1_800_000_000_000)
    found = codec.decode(codec.encode(publication, timed=False), 7)
    assert (found.data, found.tags, found.id, found.time_ms, found.offset) == (b"1", {"a": "b"}, bytes(16), 0, 7)


def test_flags_are_those_that_persistence_has_put_behind() -> None:
    plain = codec.encode(Publication(b"1", id=bytes(16)))
    assert codec.decode(plain, 1).flags == 0
    assert codec.decode(plain + pb.Publication(flags=6).SerializeToString(), 1).flags == 6


def test_no_publisher_is_not_an_anonymous_one() -> None:
    assert codec.decode(codec.encode(Publication(b"1")), 0).info is None
    assert codec.decode(codec.encode(Publication(b"1", ClientInfo("", ""))), 0).info == ClientInfo("", "")


def test_other_bytes_are_refused() -> None:
    with pytest.raises(DecodeError):
        codec.decode(b"\xff\xff\xff", 0)
