"""What stands in the log table: keys of items, and rows packed into them. `docs/storage.md` draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from services.persistence.domain.ports import Row
from services.shared.dynamodb.client import item_of, values_of
from services.shared.dynamodb.tables import EXPIRY
from services.shared.namespaces import Durability, Namespaces
from services.shared.process.config import ConfigError
from thalamus.persistence.v1.storage_pb2 import StoredKeys, StoredRow, StoredRows

BUCKET_OFFSETS = 10_000  # offsets of one partition key
ITEM_ROWS = 100
ITEM_BYTES = 300_000  # of rows together; one row alone may be larger
MAX_ROW_BYTES = 400 * 1024 - 4_096  # an item's most, without its key, names and numbers
MAX_APPEND_BYTES = MAX_ROW_BYTES - 64  # of a publication with its key: a row has an id and some framing more
MAX_DATA_BYTES = 390_000  # of a publication: the rest is for what stands beside it: who, where, tags, key
_FRAME_BYTES = 8  # of a row within its item, at most

BEACON_KEY = {"p": {"S": "beacon"}, "s": {"N": "0"}}
REMOVALS = "removals"  # partition key of those that are not finished


def check_sizes(namespaces: Namespaces, path: Path) -> None:
    """Refuse what would be accepted from publishers and could not be stored.

    Raises:
        ConfigError: names file, table and option.
    """
    for namespace in filter(None, [namespaces.default, *namespaces.named.values()]):
        if namespace.durability is Durability.STORED and namespace.max_data_bytes > MAX_DATA_BYTES:
            table = f"[namespaces.{namespace.name}]" if namespace.name else "[default]"
            raise ConfigError(
                f"{path}: {table} max_data_bytes: DynamoDB can store at most {MAX_DATA_BYTES:,} of a publication,"
                f" not {namespace.max_data_bytes:,}"
            )


def channel_key(channel: str) -> dict[str, Any]:
    """Key of the channel's own item."""
    return {"p": {"S": f"c#{channel}"}, "s": {"N": "0"}}


def partition(channel: str, bucket: int) -> str:
    """Partition key of a bucket; nothing else ends in `#` and these digits, whatever the channel is called."""
    return f"l#{channel}#{bucket}"


@dataclass(frozen=True, slots=True)
class BatchItem:
    """Publications `first` … `last`. `dropped`: removed; only their ids are left."""

    first: int
    rows: Sequence[StoredRow]
    keys: Sequence[str]  # of the rows; none where they are dropped
    at: float  # unix seconds of the write
    dropped: bool = False

    @property
    def last(self) -> int:
        """Offset of its last publication: the next item begins above it."""
        return self.first + len(self.rows) - 1


def take(rows: Sequence[Row], bucket_offsets: int) -> Sequence[Row]:
    """As many of the first rows as one item holds: none has two buckets, and each at least one row."""
    left = bucket_offsets - (rows[0].offset - 1) % bucket_offsets
    size = 0
    for count, row in enumerate(rows[: min(ITEM_ROWS, left)]):
        size += row_bytes(row) + _FRAME_BYTES
        if count and size > ITEM_BYTES:
            return rows[:count]
    return rows[: min(ITEM_ROWS, left)]


def row_bytes(row: Row) -> int:
    """What a row takes in an item; at most `MAX_ROW_BYTES`."""
    return len(row.publication_id) + len(row.publication) + len(row.key.encode()) + 3 * _FRAME_BYTES


def packed(rows: Sequence[Row], at: float) -> BatchItem:
    """The item of these consecutive rows."""
    stored = [StoredRow(id=row.publication_id, publication=row.publication) for row in rows]
    return BatchItem(rows[0].offset, stored, [row.key for row in rows], at)


def without_content(item: BatchItem) -> BatchItem:
    """What is left of a removed item: its place and the ids."""
    return BatchItem(item.first, [StoredRow(id=row.id) for row in item.rows], [], item.at, dropped=True)


def to_attributes(p: str, item: BatchItem, *, expires_at: int | None = None) -> dict[str, Any]:
    """As DynamoDB has it; `expires_at`: unix seconds after which it may go."""
    values: dict[str, Any] = {
        "p": p,
        "s": item.first,
        "n": len(item.rows),
        "at": Decimal(f"{item.at:.3f}"),
        "rows": StoredRows(rows=item.rows).SerializeToString(),
    }
    if item.dropped:
        values["dropped"] = True
    else:
        values["keys"] = StoredKeys(keys=item.keys).SerializeToString()
    if expires_at is not None:
        values[EXPIRY] = expires_at
    return item_of(values)


def from_attributes(attributes: Mapping[str, Any]) -> BatchItem:
    """The reverse."""
    values = values_of(attributes)
    rows = StoredRows.FromString(values["rows"]).rows
    return BatchItem(int(values["s"]), rows, keys_of(values), float(values["at"]), values.get("dropped", False))


def keys_of(values: Mapping[str, Any]) -> Sequence[str]:
    """Those of an item's rows, of its attributes as Python values."""
    return StoredKeys.FromString(values.get("keys", b"")).keys
