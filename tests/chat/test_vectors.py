"""The fold makes of every vector what the vector says (C01, C04, C15)."""

from __future__ import annotations

from collections import Counter

import pytest

from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import apply
from services.persistence.chat.domain.names import direct_channel
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import PLATFORM, Conversation, view
from tests.chat.naive_fold import NaiveFold
from tests.chat.vector_files import Name, Vector, differences, files, load

FILES = files()
ALL = [(f"{name}: {vector.it}", vector) for name, file in FILES.items() for vector in file.vectors]
VECTORS = [pytest.param(vector, id=name) for name, vector in ALL]
SHORT = [pytest.param(vector, id=name) for name, vector in ALL if sum(step.times for step in vector.log) < 1_000]


@pytest.mark.parametrize("vector", VECTORS)
def test_the_fold_of_a_vector_is_as_it_says(vector: Vector) -> None:
    state = Conversation()
    for step, entry in vector.entries():
        before = view(state)
        why = apply(state, entry)
        assert why is step.void, f"offset {entry.offset}: {why} instead of {step.void}"
        if why is not None:
            assert view(state) == before, f"offset {entry.offset} is void and changes something"
    assert differences(vector.then, view(state)) == []


# The naive fold reads all facts for every entry. What it says of thousands of reactions is tested with a smaller bound,
# in test_fold_properties.py.
@pytest.mark.parametrize("vector", SHORT)
def test_the_naive_fold_of_a_vector_is_as_it_says(vector: Vector) -> None:
    naive = NaiveFold()
    for step, entry in vector.entries():
        why = naive.apply(entry.offset, entry.author, entry.time_ms, entry.data)
        assert why == step.void, f"offset {entry.offset}: {why} instead of {step.void}"
    assert differences(vector.then, naive.view()) == []


@pytest.mark.parametrize("vector", VECTORS)
def test_what_a_vector_publishes_is_accepted_or_marked(vector: Vector) -> None:
    for step, entry in vector.entries():
        if step.by == PLATFORM or isinstance(step.raw, str):
            continue
        if step.not_accepted:
            with pytest.raises(events.Malformed):
                events.parse(entry.data)
        else:
            assert isinstance(events.parse(entry.data), type(events.read(entry.data)))


def test_there_are_enough_vectors_and_every_reason_is_met_in_several() -> None:
    met = Counter(
        why for file in FILES.values() for vector in file.vectors for why in {step.void for step in vector.log} if why
    )
    assert sum(len(file.vectors) for file in FILES.values()) >= 120
    assert {why: count for why, count in met.items() if count < 2} == {}
    assert set(met) == set(Why)


@pytest.mark.parametrize("name", FILES["names"].names, ids=str)
def test_the_channel_of_a_direct_conversation_is_the_same_for_all(name: Name) -> None:
    assert direct_channel("conv", name.users) == name.channel


def _file(*vectors: str) -> bytes:
    return ('{"about": "a", "vectors": [' + ", ".join(vectors) + "]}").encode()


def _steps(step: str) -> str:
    return '{"it": "b", "log": [' + step + '], "then": {}}'


def _then(then: str) -> str:
    return '{"it": "b", "log": [], "then": ' + then + "}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"about": "a", "vektors": []}', "vektors"),
        (_file(_steps('{"by": "u1", "do": {}, "vod": "deleted"}')), "vod"),
        (_file(_steps('{"by": "u1", "do": {}, "void": "delted"}')), "delted"),
        (_file(_steps('{"by": "u1"}')), "either"),
        (_file('{"it": "b", "given": "grup", "log": [], "then": {}}'), "grup"),
        (_file(_then('{"nn": 1}')), "nn"),
        (_file(_then('{"messages": {"4": {"txt": null}}}')), "txt"),
        (_file(_then('{"members": {"u1": {"rolle": null}}}')), "rolle"),
        (_file(_then("{}"), _then("{}")), "one name"),
    ],
)
def test_a_misspelled_vector_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(text)
