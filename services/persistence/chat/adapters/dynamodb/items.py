"""Items of the chat table: their keys, and documents packed into them.

docs/storage.md describes them.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.persistence.chat.domain.names import namespace_of
from services.persistence.chat.ports import TooLarge

BUCKET_OFFSETS = 10_000  # offsets of one partition of overlays
COMPRESS_BYTES = 1_024  # documents above this size are compressed
MAX_DOCUMENT_BYTES = 350_000  # of a packed document; an item may have 400 KB, with its key and numbers
NAME_BYTES = 512  # of a name in the key of the directory; events have names of 128 characters
_MAX_SORT_BYTES = 1_024  # longest sort key of DynamoDB
_MAX_USER_BYTES = 1_000  # longest user id that stands in a key; of longer ones there is the digest

Key = tuple[str, str]

HEAD = "-"  # sort key of a conversation's head
PEOPLE = "m#", "M#"  # first part of the sort key of a user: with the id, or with its digest
JOURNAL = "j#"
DEVICE = "device#"  # first part of the partition of a device's address
AHEAD = "o#"  # first part of the sort key of a mark: overlays of that bucket may be newer than the head


def head_key(channel: str) -> Key:
    """Key of the head of a conversation."""
    return f"c#{channel}", HEAD


def person_key(channel: str, user: str) -> Key:
    """Key of what a conversation has of a user."""
    return f"c#{channel}", _of_user(user, *PEOPLE)


def journal_key(channel: str, number: int) -> Key:
    """Key of a part of the journal."""
    return f"c#{channel}", f"{JOURNAL}{number:03}"


def ahead_key(channel: str, bucket: int) -> Key:
    """Key of the mark that overlays of a bucket were written ahead of the head."""
    return f"c#{channel}", f"{AHEAD}{bucket}"


def listed_key(user: str, channel: str) -> Key:
    """Key of a conversation in a user's list.

    Raises:
        TooLarge: the channel's name is too long.
    """
    return list_of(user), _checked(f"c#{channel}")


def list_of(user: str) -> str:
    """Partition of a user's list."""
    return _of_user(user, "u#", "U#")


def marker_key(user: str, channel: str) -> Key:
    """Key of the marker of a user in a conversation.

    Raises:
        TooLarge: the channel's name is too long.
    """
    return markers_of(user), _checked(f"c#{channel}")


def markers_of(user: str) -> str:
    """Partition of a user's markers."""
    return _of_user(user, "r#", "R#")


def devices_key(user: str) -> Key:
    """Key of the devices of a user."""
    return _of_user(user, "devices#", "Devices#"), HEAD


def owner_key(address: str) -> Key:
    """Key of who has the device with an address."""
    return f"{DEVICE}{address}", HEAD


def overlay_key(channel: str, offset: int) -> Key:
    """Key of an overlay.

    The partition ends in `#` and a number, so it is unique whatever the channel is called.
    """
    return overlays_of(channel, bucket_of(offset)), sort_of(offset)


def overlays_of(channel: str, bucket: int) -> str:
    """Partition of a bucket of overlays."""
    return f"o#{channel}#{bucket}"


def sort_of(offset: int) -> str:
    """Sort key of an overlay: as many digits as the largest offset has."""
    return f"{offset:016}"


def bucket_of(offset: int) -> int:
    """Bucket of an offset: 0 has 1 … 10,000."""
    return (offset - 1) // BUCKET_OFFSETS


def directory_key(name: str, channel: str) -> Key:
    """Key of an open conversation in the directory of its namespace.

    It sorts as (name, channel) do.

    Raises:
        TooLarge: the channel's name is too long.
    """
    return directory_of(namespace_of(channel)), _checked(f"{directory_sort(name)}\0\1{channel}")


def directory_of(namespace: str) -> str:
    """Partition of the directory of a namespace."""
    return f"open#{namespace}"


def directory_sort(name: str) -> str:
    """First part of a sort key in the directory.

    What follows it, NUL and 1, sorts before all that can follow in a longer name: NUL stands there as NUL and 2.
    """
    return name.replace("\0", "\0\2").encode()[:NAME_BYTES].decode(errors="ignore")


def packed(document: bytes) -> dict[str, bytes]:
    """Attributes that hold a document: `doc` as it is, or `zip` compressed.

    Raises:
        TooLarge: no item can hold it.
    """
    if len(document) > COMPRESS_BYTES:
        compressed = zlib.compress(document)
        if len(compressed) < len(document):
            return {"zip": _fitting(compressed)}
    return {"doc": _fitting(document)}


def unpacked(values: Mapping[str, Any]) -> bytes | None:
    """Document of an item; None: it has none."""
    if "zip" in values:
        return zlib.decompress(values["zip"])
    document: bytes | None = values.get("doc")
    return document


def user_of(values: Mapping[str, Any]) -> str:
    """User of an item with `person_key`."""
    user: str = values.get("user") or values["s"].removeprefix(PEOPLE[0])
    return user


def is_short(user: str) -> bool:
    """Whether a user id stands in keys as it is."""
    return len(user.encode()) <= _MAX_USER_BYTES


def portions(data: bytes) -> Sequence[bytes]:
    """Cut bytes into pieces that fit into an item."""
    return [data[start : start + MAX_DOCUMENT_BYTES] for start in range(0, len(data), MAX_DOCUMENT_BYTES)]


def chunks(writes: Sequence[Mapping[str, Any]], most: int, most_bytes: int) -> Iterator[list[Mapping[str, Any]]]:
    """Cut writes into portions of at most so many writes and bytes.

    One write may be larger.
    """
    part: list[Mapping[str, Any]] = []
    size = 0
    for write in writes:
        mine = size_of(write)
        if part and (len(part) == most or size + mine > most_bytes):
            yield part
            part, size = [], 0
        part.append(write)
        size += mine
    if part:
        yield part


def size_of(value: Any) -> int:
    """Bytes that a write takes in a request, about: its texts and bytes."""
    if isinstance(value, Mapping):
        return sum(len(name) + size_of(one) for name, one in value.items())
    if isinstance(value, str):
        return len(value.encode())
    return len(value) if isinstance(value, bytes) else 8


def _of_user(user: str, short: str, long: str) -> str:
    return f"{short}{user}" if is_short(user) else f"{long}{hashlib.sha256(user.encode()).hexdigest()}"


def _checked(sort: str) -> str:
    if len(sort.encode()) > _MAX_SORT_BYTES:
        raise TooLarge(f"a key of {len(sort.encode()):,} bytes: DynamoDB takes {_MAX_SORT_BYTES:,}")
    return sort


def _fitting(document: bytes) -> bytes:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise TooLarge(
            f"a document of {len(document):,} bytes after compression: DynamoDB takes {MAX_DOCUMENT_BYTES:,}"
        )
    return document
