"""Messages of the queue: consecutive rows of one channel, as JSON.

    {"v": 1, "channel": "post:a", "epoch": "…", "rows": [[offset, id, publication, key, flags, n, mv], …]}

Bytes are Base64. A message has at most 180,000 bytes: SQS takes 262,144 in one message and in one call.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from services.persistence.domain.ports import Row

MAX_BYTES = 180_000  # of one message
_VERSION = 1
_LAST_OFFSET = (1 << 53) - 1  # a larger one is no exact number in scripts of Redis
_OVERHEAD = 100  # assumed bytes of a row besides id, publication and key
_HEAD = 2_500  # the same of a message, with the longest name of a channel


class UnreadableMessage(Exception):
    """Nobody of this version can decode the message."""


class QueuedRows(NamedTuple):
    """Consecutive rows of one channel, in an epoch."""

    channel: str
    epoch: str
    rows: Sequence[Row]


def size_of(row: Row) -> int:
    """Most bytes that a row takes in a message."""
    return len(row.publication) * 4 // 3 + 6 * len(row.key) + _OVERHEAD


def portions(rows: Iterable[Row]) -> list[list[Row]]:
    """Return rows in portions of one message each.

    A row that is larger than a message has a portion to itself.
    """
    made: list[list[Row]] = []
    left = 0
    for row in rows:
        size = size_of(row)
        if size > left:
            made.append([])
            left = MAX_BYTES - _HEAD
        made[-1].append(row)
        left -= size
    return made


def fits(rows: Sequence[Row]) -> bool:
    """Whether a portion fits into a message."""
    return sum(map(size_of, rows)) <= MAX_BYTES - _HEAD


def encode(epoch: str, rows: Sequence[Row]) -> str:
    """Return the message of consecutive rows of one channel."""
    packed = [
        [row.offset, row.publication_id.hex(), _text(row.publication), row.key, row.flags, row.n, row.mv]
        for row in rows
    ]
    return json.dumps(
        {"v": _VERSION, "channel": rows[0].channel, "epoch": epoch, "rows": packed}, separators=(",", ":")
    )


def decode(body: str) -> QueuedRows:
    """Return the rows of a message.

    Raises:
        UnreadableMessage: it is not one, or of a later version.
    """
    try:
        found: Any = json.loads(body)
        if found["v"] != _VERSION:
            raise UnreadableMessage(f"version {found['v']}")
        channel, epoch = found["channel"], found["epoch"]
        rows = [
            Row(channel, int(offset), bytes.fromhex(id_), base64.b64decode(publication, validate=True), key, *counts)
            for offset, id_, publication, key, *counts in found["rows"]
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise UnreadableMessage(f"{type(error).__name__}: {error}") from error
    offsets = [row.offset for row in rows]
    texts = [channel, epoch, *(row.key for row in rows)]
    numbers = [number for row in rows for number in (row.flags, row.n, row.mv)]
    if (
        not rows
        or offsets != list(range(offsets[0], offsets[0] + len(rows)))
        or not 1 <= offsets[0] <= offsets[-1] <= _LAST_OFFSET
    ):
        raise UnreadableMessage("the rows are not consecutive")
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise UnreadableMessage("a field has another type")
    return QueuedRows(channel, epoch, rows)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
