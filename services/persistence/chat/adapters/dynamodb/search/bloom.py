"""Bloom filters: which words a block may have, so that a search reads few blocks.

A filter has about ten bits for each token (`analyser.py`) and tag of its block. It never says no to one that is there,
and yes to one in a hundred that is not. It knows nothing of beginnings of words: those ask for every block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from services.persistence.chat.index.analyser import tokens_of
from services.persistence.chat.index.ports import Document
from services.persistence.chat.index.query import Query

_BITS_OF_A_KEY = 10
_HASHES = 7
_LEAST_BYTES = 8


def filter_of(documents: Iterable[Document]) -> bytes:
    """Return the filter of a block with these documents."""
    keys: set[str] = set()
    for document in documents:
        keys.update(tokens_of(document.atoms), document.tags)
    bits = bytearray(max(_LEAST_BYTES, (_BITS_OF_A_KEY * len(keys) + 7) // 8))
    for key in keys:
        for bit in _bits(_hash(key), 8 * len(bits)):
            bits[bit >> 3] |= 1 << (bit & 7)
    return bytes(bits)


class Wanted:
    """What the filter of a block must have: of each group one token or tag."""

    def __init__(self, groups: Iterable[Iterable[str]]) -> None:
        self._groups = [[_hash(key) for key in keys] for keys in groups]

    @classmethod
    def by(cls, query: Query) -> Wanted:
        """Return what a query wants."""
        groups: list[list[str]] = query.tags
        for phrase in query.phrases:
            for tokens, is_prefix in phrase.conditions():
                groups += [[token] for token in (tokens[:-1] if is_prefix else tokens)]
        return cls(groups)

    def may_be_in(self, bits: bytes) -> bool:
        """Whether a block with this filter may have what the query asks for."""
        count = 8 * len(bits)
        return all(
            any(all(bits[bit >> 3] >> (bit & 7) & 1 for bit in _bits(key, count)) for key in keys)
            for keys in self._groups
        )


def _hash(key: str) -> tuple[int, int]:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1


def _bits(key: tuple[int, int], count: int) -> Iterable[int]:
    first, step = key
    return [(first + step * number) % count for number in range(_HASHES)]
