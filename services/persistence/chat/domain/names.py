"""Names of conversations' channels, such as `conv:d.…` for two users.

A direct conversation has one name, whoever begins it: 26 characters of base32 (RFC 4648, lower case) of the SHA-256 of
its user ids. The ids are sorted by their UTF-8 bytes, and each is preceded by its length in bytes (4 bytes,
big-endian): without the lengths `ab` + `c` and `a` + `bc` would share a conversation. 26 characters are 130 bits.

A group has 26 random characters, so that nobody finds it by guessing. An open conversation may have a readable name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection

from services.persistence.chat.domain.state import Type

_LETTERS = {"d": Type.DIRECT, "g": Type.GROUP, "o": Type.OPEN}
_LENGTH = 26  # characters of base32: 130 bits
RANDOM_BYTES = 17  # 26 characters need 16.25
_DERIVED = re.compile(rf"[a-z2-7]{{{_LENGTH}}}")
_READABLE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def direct_channel(namespace: str, users: Collection[str]) -> str:
    """Return the channel of the direct conversation of one or two users.

    Raises:
        ValueError: there are not one or two user ids, or one is empty.
    """
    ids = sorted({user.encode() for user in users})
    if len(ids) not in (1, 2) or not ids[0]:
        raise ValueError("a direct conversation has one or two users")
    digest = hashlib.sha256(b"".join(len(user).to_bytes(4, "big") + user for user in ids)).digest()
    return f"{namespace}:d.{_base32(digest)}"


def group_channel(namespace: str, random: bytes) -> str:
    """Return the channel of a new group; `random` has at least 17 random bytes."""
    return f"{namespace}:g.{_random_name(random)}"


def open_channel(namespace: str, name: str | None, random: bytes = b"") -> str:
    """Return the channel of an open conversation.

    It has a readable name, or else 17 random bytes.

    Raises:
        ValueError: the name is not 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, beginning with a letter or digit.
    """
    if name is None:
        return f"{namespace}:o.{_random_name(random)}"
    if not _READABLE.fullmatch(name):
        raise ValueError("the name of an open conversation has 1 to 64 of a-z 0-9 . _ - and begins with a-z or 0-9")
    return f"{namespace}:o.{name}"


def namespace_of(channel: str) -> str:
    """Return the part of a channel's name before its first colon; "" if it has none."""
    namespace, colon, _ = channel.partition(":")
    return namespace if colon else ""


def type_of(channel: str) -> Type | None:
    """Return the type that a channel's name says; None if it is no conversation."""
    name = channel.partition(":")[2]
    kind = _LETTERS.get(name[:1])
    if kind is None or name[1:2] != ".":
        return None
    pattern = _READABLE if kind is Type.OPEN else _DERIVED
    return kind if pattern.fullmatch(name[2:]) else None


def _random_name(random: bytes) -> str:
    """Base32 of random bytes, cut to 26 characters."""
    if len(random) < RANDOM_BYTES:
        raise ValueError(f"a random name needs {RANDOM_BYTES} bytes")
    return _base32(random)


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().lower()[:_LENGTH]
