"""What a change does to users: their items in a conversation, and their lists.

The item of a user in a conversation also says whether the conversation is in the user's list: a drop finds it by that.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.persistence.chat.adapters.dynamodb.items import is_short, listed_key, packed, person_key, portions
from services.persistence.chat.adapters.dynamodb.table import ChatTable, Write
from services.persistence.chat.ports import TooLarge

Documents = Mapping[str, bytes | None]

MAX_JOURNAL_BYTES = 3_000_000  # of a transaction's 4 MB; the rest is for the head
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[dict[str, bytes | None], dict[str, bytes | None]]).decode


def user_writes(table: ChatTable, channel: str, people: Documents, listed: Documents) -> list[Write]:
    """Return the writes that change people and lists; at most two for each user.

    Raises:
        TooLarge: a document or a key is.
    """
    writes: list[Write] = []
    for user in {**people, **listed}:
        writes.append(_person(table, channel, user, people, listed))
        if user in listed:
            key, document = listed_key(user, channel), listed[user]
            writes.append(table.delete(key) if document is None else table.put(key, packed(document)))
    return writes


def as_journal(people: Documents, listed: Documents) -> Sequence[bytes]:
    """Pack changes of users into parts of a journal.

    Raises:
        TooLarge: one transaction could not hold them.
    """
    journal = zlib.compress(_encode((dict(people), dict(listed))))
    if len(journal) > MAX_JOURNAL_BYTES:
        raise TooLarge(f"{len(people):,} people of one change: {len(journal):,} bytes after compression")
    return portions(journal)


def from_journal(parts: Sequence[bytes]) -> tuple[Documents, Documents]:
    """Return people and listed of a journal."""
    return _decode(zlib.decompress(b"".join(parts)))


def _person(table: ChatTable, channel: str, user: str, people: Documents, listed: Documents) -> Write:
    """Write to the item of a user; what the change does not name stays."""
    key = person_key(channel, user)
    values: dict[str, Any] = {}
    gone: set[str] = set()
    if user in people:
        document = people[user]
        values |= packed(document) if document is not None else {}
        gone |= {"doc", "zip"}
    if user in listed:
        values |= {"listed": True} if listed[user] is not None else {}
        gone |= {"listed"}
    gone -= values.keys()
    if not values and gone == {"doc", "zip", "listed"}:
        return table.delete(key)
    if values and not is_short(user):
        values["user"] = user
    change = " SET " + ", ".join(f"#{name} = :{name}" for name in values) if values else ""
    change += " REMOVE " + ", ".join(f"#{name}" for name in sorted(gone)) if gone else ""
    return table.update(key, change.strip(), **values)
