"""Items of the index in the chat table; docs/storage.md describes them.

All items of a conversation's index are in one partition: the head, a filter for each block, and the blocks.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from services.persistence.chat.adapters.dynamodb.items import HEAD, Key

FILTER, BLOCK = "f#", "b#"  # first parts of sort keys


class Open(NamedTuple):
    """A block that will be merged with others: its first offset, and how much it is."""

    first: int
    documents: int
    size: int


class Head(NamedTuple):
    """What is known of the index of a conversation.

    Args:
        indexed: Documents are there up to this offset.
        base: Blocks are there from above this offset; there are no documents up to it.
        documents: Of all blocks; how many.
        newest: Time of the newest one, Unix ms; it may be gone.
        token: Of the transaction that wrote the head.
        wrote: First offsets of the blocks which that transaction wrote: those have the same token.
        open: The last blocks, which are to be merged.
    """

    indexed: int = 0
    base: int = 0
    documents: int = 0
    newest: int = 0
    token: str = ""
    wrote: tuple[int, ...] = ()
    open: tuple[Open, ...] = ()


class Entry(NamedTuple):
    """A block as its filter's item tells it; it has the messages of `first` … `last`."""

    first: int
    last: int
    documents: int  # 0: there is no block
    oldest: int  # times of the documents, Unix ms
    newest: int
    parts: int  # items of the block
    token: str
    bits: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, int, tuple[int, ...], tuple[Open, ...]]).decode


def new_token() -> str:
    """Return a token of a transaction."""
    return uuid.uuid4().hex


def partition_of(channel: str) -> str:
    """Partition of a conversation's index."""
    return f"x#{channel}"


def head_key(channel: str) -> Key:
    """Key of the head."""
    return partition_of(channel), HEAD


def filter_key(channel: str, first: int) -> Key:
    """Key of the filter of a block."""
    return partition_of(channel), f"{FILTER}{first:016}"


def block_key(channel: str, first: int, part: int) -> Key:
    """Key of a part of a block."""
    return partition_of(channel), f"{BLOCK}{first:016}#{part:03}"


def head_values(head: Head) -> dict[str, Any]:
    """Attributes of a head."""
    rest = _encode((head.base, head.documents, head.newest, head.wrote, head.open))
    return {"indexed": head.indexed, "token": head.token, "rest": rest}


def head_of(values: Mapping[str, Any]) -> Head:
    """Head of attributes."""
    base, documents, newest, wrote, open_blocks = _decode(values["rest"])
    return Head(int(values["indexed"]), base, documents, newest, values["token"], wrote, open_blocks)


def filter_values(entry: Entry) -> dict[str, Any]:
    """Attributes of a filter's item."""
    return {
        "last": entry.last,
        "documents": entry.documents,
        "oldest": entry.oldest,
        "newest": entry.newest,
        "parts": entry.parts,
        "token": entry.token,
        "bits": entry.bits,
    }


def entry_of(values: Mapping[str, Any]) -> Entry:
    """Entry of attributes."""
    first = int(values["s"].removeprefix(FILTER))
    last, documents, oldest, newest, parts = (
        int(values[name]) for name in ("last", "documents", "oldest", "newest", "parts")
    )
    return Entry(first, last, documents, oldest, newest, parts, values["token"], values["bits"])
