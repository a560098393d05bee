"""A block: documents of a conversation as one inverted index, compressed.

It has the words of its documents in order, and for each word in which documents it stands, and at which places there.
A tag stands at no place. So phrases and beginnings are found exactly, and all documents can be made again from it.

Example. `see you` at offset 7 and `you` at offset 9, both with the tag `_a1`: the words are `_a1 see you`, and `you` is
the second word of the first document and the first word of the second one: `[0, 1, 1, 1, 1, 0]`.

Trade-offs. Deleting a word means to write the block anew: it has no place for what is gone. Numbers are differences to
the ones before, so most take one byte before compression.
"""

from __future__ import annotations

import itertools
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from services.persistence.chat.index.analyser import Phrase
from services.persistence.chat.index.ports import Document
from services.persistence.chat.index.query import SCORED_ATOMS, Query


class _Packed(msgspec.Struct, array_like=True):
    """What is compressed; `postings` are decoded where they are wanted."""

    offsets: list[int]
    times: list[int]
    lengths: list[int]  # atoms of each document
    words: list[str]
    postings: list[msgspec.Raw]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
_postings = msgspec.msgpack.Decoder(list[int]).decode


class Match(NamedTuple):
    """A document that a query finds."""

    offset: int
    time_ms: int
    score: float


def packed(documents: Mapping[int, Document]) -> bytes:
    """Return the block of these documents."""
    offsets = sorted(documents)
    places: dict[str, dict[int, list[int]]] = {}
    for number, offset in enumerate(offsets):
        document = documents[offset]
        for place, atom in enumerate(document.atoms):
            places.setdefault(atom, {}).setdefault(number, []).append(place)
        for tag in document.tags:
            places.setdefault(tag, {})[number] = []
    words = sorted(places)
    one = _Packed(
        _differences(offsets),
        _differences([documents[offset].time_ms for offset in offsets]),
        [len(documents[offset].atoms) for offset in offsets],
        words,
        [msgspec.Raw(_encode(_flat(places[word]))) for word in words],
    )
    return zlib.compress(_encode(one))


def unpacked(data: bytes) -> dict[int, Document]:
    """Return the documents of a block; the order of tags is lost."""
    one = _decode(zlib.decompress(data))
    atoms = [[""] * length for length in one.lengths]
    tags: list[list[str]] = [[] for _ in one.lengths]
    for word, raw in zip(one.words, one.postings, strict=True):
        for number, places in _read(raw):
            for place in places:
                atoms[number][place] = word
            if not places:
                tags[number].append(word)
    parts = zip(_sums(one.offsets), _sums(one.times), atoms, tags, strict=True)
    return {offset: Document(time_ms, words, marks) for offset, time_ms, words, marks in parts}


def matches(data: bytes, query: Query, *, by_score: bool) -> list[Match]:
    """Return what a query finds in a block, by offset; scores are 0 unless wanted."""
    one = _decode(zlib.decompress(data))
    starts = [_starts(one, phrase) for phrase in query.phrases]
    found = set(range(len(one.offsets)))
    for there in starts:
        found &= there.keys()
    for tags in query.tags:
        found &= {number for tag in tags for number in _places(one, [tag])}
    for phrase in query.without if found else ():
        found -= _starts(one, phrase).keys()
    offsets, times = list(_sums(one.offsets)), list(_sums(one.times))

    def score(number: int) -> float:
        counts = (_count(there[number], len(phrase.atoms)) for phrase, there in zip(query.phrases, starts, strict=True))
        return query.score_of(counts, one.lengths[number])

    return [Match(offsets[number], times[number], score(number) if by_score else 0.0) for number in sorted(found)]


def offsets_with(data: bytes, tag: str) -> list[int]:
    """Return the offsets of documents with a tag, ascending."""
    one = _decode(zlib.decompress(data))
    offsets = list(_sums(one.offsets))
    return [offsets[number] for number in sorted(_places(one, [tag]))]


def _differences(values: Iterable[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise([0, *values])]


def _sums(values: Iterable[int]) -> Iterator[int]:
    return itertools.accumulate(values)


def _flat(places: Mapping[int, Sequence[int]]) -> list[int]:
    """Return where a word stands as one list: document, count, places; and so on."""
    flat: list[int] = []
    before = 0
    for number, some in places.items():
        flat += (number - before, len(some), *_differences(some))
        before = number
    return flat


def _read(raw: msgspec.Raw) -> Iterator[tuple[int, list[int]]]:
    """Yield in which documents a word stands, and at which places."""
    flat = _postings(raw)
    at = number = 0
    while at < len(flat):
        number += flat[at]
        end = at + 2 + flat[at + 1]
        yield number, list(_sums(flat[at + 2 : end]))
        at = end


def _places(one: _Packed, words: Iterable[str]) -> dict[int, list[int]]:
    """Return where any of these words stands: document → places, ascending."""
    found: dict[int, list[int]] = {}
    is_mixed = False
    for word in words:
        at = bisect_left(one.words, word)
        if at < len(one.words) and one.words[at] == word:
            for number, places in _read(one.postings[at]):
                if number in found:
                    is_mixed = True
                    found[number] += places
                else:
                    found[number] = places
    for places in found.values() if is_mixed else ():
        places.sort()
    return found


def _starts(one: _Packed, phrase: Phrase) -> dict[int, list[int]]:
    """Return where a phrase begins: document → places, ascending."""
    *first, last = phrase.atoms
    parts = [_places(one, [atom]) for atom in first]
    parts.append(_places(one, _beginning_with(one.words, last) if phrase.is_prefix else [last]))
    if len(parts) == 1:
        return parts[0]
    found: dict[int, list[int]] = {}
    for number, places in parts[0].items():
        rest = [set(part.get(number, ())) for part in parts[1:]]
        starts = [place for place in places if all(place + 1 + by in there for by, there in enumerate(rest))]
        if starts:
            found[number] = starts
    return found


def _beginning_with(words: Sequence[str], beginning: str) -> Iterator[str]:
    for at in range(bisect_left(words, beginning), len(words)):
        if not words[at].startswith(beginning):
            return
        yield words[at]


def _count(starts: Iterable[int], length: int) -> int:
    """Return how often a phrase is there for a score: see `Query.score`."""
    count, free = 0, 0
    for start in starts:
        if start >= free and start + length <= SCORED_ATOMS:
            count, free = count + 1, start + length
    return count
