"""Items of the log table: their keys, and rows packed into them.

docs/storage.md describes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from services.persistence.domain.ports import Row
from services.shared.dynamodb.client import item_of, values_of
from services.shared.dynamodb.tables import EXPIRY
from services.shared.namespaces import Namespaces
from services.shared.process.config import ConfigError
from thalamus.persistence.v1.storage_pb2 import StoredKeys, StoredRow, StoredRows

BUCKET_OFFSETS = 10_000  # offsets of one partition key
ITEM_ROWS = 100  # most rows of an item
ITEM_BYTES = 300_000  # most bytes of the rows of an item; a single row may be larger
MAX_ROW_BYTES = 400 * 1024 - 4_096  # DynamoDB's limit for an item, less its key, names and numbers
MAX_APPEND_BYTES = MAX_ROW_BYTES - 64  # most bytes of a publication with its key; the rest is id and framing
MAX_DATA_BYTES = 390_000  # most bytes of data; the rest is for publisher, channel, tags and key
_FRAME_BYTES = 8  # most bytes that the encoding adds to a row
_COUNTS_BYTES = 22  # most bytes of flags, `n` and `mv` in a row: so the 64 above are enough

HEARTBEAT_KEY = {"p": {"S": "beacon"}, "s": {"N": "0"}}
REMOVALS = "removals"  # partition key of the notes of unfinished removals


def check_sizes(namespaces: Namespaces, path: Path) -> None:
    """Refuse namespaces that accept publications which DynamoDB can't store.

    Raises:
        ConfigError: names file, table and option.
    """
    for namespace in filter(None, [namespaces.default, *namespaces.named.values()]):
        if namespace.durability.keeps and namespace.max_data_bytes > MAX_DATA_BYTES:
            table = f"[namespaces.{namespace.name}]" if namespace.name else "[default]"
            raise ConfigError(
                f"{path}: {table} max_data_bytes: DynamoDB can store at most {MAX_DATA_BYTES:,} of a publication,"
                f" not {namespace.max_data_bytes:,}"
            )


def channel_key(channel: str) -> dict[str, Any]:
    """Key of the channel's own item."""
    return {"p": {"S": f"c#{channel}"}, "s": {"N": "0"}}


def partition(channel: str, bucket: int) -> str:
    """Partition key of a bucket of a channel's log.

    It is unique whatever the channel is called, since it ends in `#` and the number of the bucket.
    """
    return f"l#{channel}#{bucket}"


@dataclass(frozen=True, slots=True)
class BatchItem:
    """Item with publications `first` … `last`.

    `dropped`: they were removed, and only their ids and what they count are left.
    `counts`: `n` and `mv` of its last row that has them; None: no row has.
    `erased`: how often publications in it were replaced.
    """

    first: int
    rows: Sequence[StoredRow]
    keys: Sequence[str]  # one per row; none if the rows are dropped
    at: float  # Unix seconds of the write
    dropped: bool = False
    counts: tuple[int, int] | None = None
    erased: int = 0

    @property
    def last(self) -> int:
        """Offset of the last publication; the next item begins above it."""
        return self.first + len(self.rows) - 1


def first_item(rows: Sequence[Row], bucket_offsets: int) -> Sequence[Row]:
    """Return as many of the first rows as one item can hold, at least one.

    An item has offsets of one bucket only, at most 100 rows, and at most 300 KB unless a single row is larger.
    """
    left = bucket_offsets - (rows[0].offset - 1) % bucket_offsets
    size = 0
    for count, row in enumerate(rows[: min(ITEM_ROWS, left)]):
        size += row_bytes(row) + _FRAME_BYTES
        if count and size > ITEM_BYTES:
            return rows[:count]
    return rows[: min(ITEM_ROWS, left)]


def row_bytes(row: Row) -> int:
    """Bytes that a row takes in an item; at most `MAX_ROW_BYTES` can be stored."""
    counts = _COUNTS_BYTES if has_counts(row) else 0
    return len(row.publication_id) + len(row.publication) + len(row.key.encode()) + 3 * _FRAME_BYTES + counts


def has_counts(row: Row | StoredRow) -> bool:
    """Whether a row says what the log has counted.

    If not, that of the row before holds.
    """
    return bool(row.n or row.mv or row.flags)


def packed(rows: Sequence[Row], at: float) -> BatchItem:
    """Pack consecutive rows into an item; `at`: Unix seconds of the write."""
    stored = [StoredRow(id=row.publication_id, publication=row.publication) for row in rows]
    counts = None
    for made, row in zip(stored, rows, strict=True):
        if has_counts(row):
            made.n, made.mv, made.flags = counts = row.n, row.mv, row.flags
    return BatchItem(rows[0].offset, stored, [row.key for row in rows], at, counts=counts and counts[:2])


def without_content(item: BatchItem) -> BatchItem:
    """Return what a removal leaves of an item: its place, ids, and counts."""
    rows = [StoredRow(id=row.id, n=row.n, mv=row.mv, flags=row.flags) for row in item.rows]
    return BatchItem(item.first, rows, [], item.at, dropped=True, counts=item.counts)


def to_attributes(p: str, item: BatchItem, *, expires_at: int | None = None) -> dict[str, Any]:
    """Convert an item to attributes of DynamoDB.

    `expires_at`: Unix seconds after which DynamoDB may delete it; None: never.
    """
    values: dict[str, Any] = {
        "p": p,
        "s": item.first,
        "n": len(item.rows),
        "at": Decimal(f"{item.at:.3f}"),
        "rows": rows_attribute(item.rows),
    }
    if item.dropped:
        values["dropped"] = True
    else:
        values["keys"] = StoredKeys(keys=item.keys).SerializeToString()
    if item.counts is not None:
        values["counted"], values["mv"] = item.counts
    if expires_at is not None:
        values[EXPIRY] = expires_at
    return item_of(values)


def rows_attribute(rows: Sequence[StoredRow]) -> bytes:
    """Pack rows into the attribute `rows`."""
    return StoredRows(rows=rows).SerializeToString()


def from_attributes(attributes: Mapping[str, Any]) -> BatchItem:
    """Convert attributes of DynamoDB to an item."""
    values = values_of(attributes)
    rows = StoredRows.FromString(values["rows"]).rows
    return BatchItem(
        int(values["s"]),
        rows,
        keys_of(values),
        float(values["at"]),
        values.get("dropped", False),
        counts_of(values),
        int(values.get("erased", 0)),
    )


def counts_of(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """`n` and `mv` of an item, from its attributes as Python values."""
    return (int(values["counted"]), int(values["mv"])) if "counted" in values else None


def keys_of(values: Mapping[str, Any]) -> Sequence[str]:
    """Idempotency keys of an item's rows, from its attributes as Python values."""
    return StoredKeys.FromString(values.get("keys", b"")).keys
