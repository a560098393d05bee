"""What rows of a log name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.persistence.chat.rows import named_by
from tests.support.chat import GROUP
from thalamus.common.v1.common_pb2 import Publication


@pytest.mark.parametrize(
    ("event", "offsets"),
    [
        ({"kind": "message", "text": "x"}, set()),
        ({"kind": "message", "text": "x", "reply_to": 3}, {3}),
        ({"kind": "message", "text": "x", "reply_to": 3, "thread": 2}, {2, 3}),
        ({"kind": "edit", "of": 4, "text": "x"}, {4}),
        ({"kind": "reaction", "of": 4, "name": "+1", "op": "add"}, {4}),
        ({"kind": "delete", "of": 4}, {4}),
        ({"kind": "mine", "of": 4}, set()),
    ],
)
def test_which_offsets_a_publication_of_a_conversation_names(event: dict[str, Any], offsets: set[int]) -> None:
    publication = Publication(data=json.dumps(event).encode()).SerializeToString()
    assert named_by(GROUP, publication) == offsets
    assert named_by("chat:a", publication) == set()
