"""Rows of the log as events.

Of the rows that are to be folded most are plain messages, which need not be parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry
from services.persistence.chat.domain.names import type_of
from services.persistence.chat.domain.state import PLATFORM, Conversation, Phase, Type
from services.persistence.chat.live import Event, names
from services.persistence.domain.ports import CountedRow, Rows
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, ERASES
from thalamus.common.v1 import common_pb2

Row = tuple[Event | None, Entry]

_NEAR = 16  # rows of the log this close to one another are read at once
_LONGEST_RUN = 256  # rows
_READS_AT_ONCE = 8
_DELETION = CHANGES_MEMBERSHIP | ERASES  # flags of the event that deletes a conversation
_parse = common_pb2.Publication.FromString


def parsed_rows(rows: Sequence[CountedRow]) -> dict[int, Row]:
    """Return the rows that must be folded, by offset; the others only count."""
    parsed = {row.offset: parsed_row(row.offset, row.publication) for row in rows if row.flags != COUNTS}
    named = {offset for event, _ in parsed.values() for offset in names(event)}
    if named:
        parsed |= {row.offset: parsed_row(row.offset, row.publication) for row in rows if row.offset in named}
    return parsed


def parsed_row(offset: int, publication: bytes) -> Row:
    one = _parse(publication)
    entry = Entry(offset, one.info.user, one.time_ms, one.data)
    return events.read(entry.data), entry


def named_by(channel: str, publication: bytes) -> set[int]:
    """Return the offsets that a publication of a conversation names."""
    if type_of(channel) is None:
        return set()
    event, _ = parsed_row(0, publication)
    reply_to = event.reply_to if isinstance(event, events.Message) else None
    return {*names(event), *([] if reply_to is None else [reply_to])}


def entry_behind_removed(state: Conversation, channel: str, row: CountedRow, entry: Entry) -> Entry:
    """Return how an entry is folded if rows in front of it are missing.

    Only the deletion of a conversation removes rows. It was decided with what they said, and was numbered, so it
    applies: the state is brought to where it can, and the platform is taken for its author.
    """
    event = events.read(entry.data)
    is_deletion = isinstance(event, events.Lifecycle) and event.op == "delete"
    if not is_deletion or row.flags & _DELETION != _DELETION or state.phase is Phase.DELETED:
        return entry
    state.phase, state.type, state.n = Phase.ACTIVE, type_of(channel) or Type.GROUP, row.n
    return replace(entry, author=PLATFORM)


async def read_single(store: Rows, channel: str, offsets: Iterable[int]) -> dict[int, Row]:
    """Read single rows of the log, parsed; as `read_publications`."""
    found = await read_publications(store, channel, offsets)
    return {offset: parsed_row(offset, publication) for offset, publication in found.items()}


async def read_publications(store: Rows, channel: str, offsets: Iterable[int]) -> dict[int, bytes]:
    """Read single rows of the log, those that are near to one another at once.

    Raises:
        Unavailable: the store does not answer.
    """
    runs: list[list[int]] = []
    for offset in sorted(offsets):
        if runs and offset - runs[-1][-1] <= _NEAR and offset - runs[-1][0] < _LONGEST_RUN:
            runs[-1].append(offset)
        else:
            runs.append([offset])
    found: dict[int, bytes] = {}
    for start in range(0, len(runs), _READS_AT_ONCE):
        some = runs[start : start + _READS_AT_ONCE]
        pages = await asyncio.gather(*(_read_run(store, channel, run[0], run[-1]) for run in some))
        for run, page in zip(some, pages, strict=True):
            wanted = set(run)
            found |= {offset: publication for offset, publication in page if offset in wanted}
    return found


async def _read_run(store: Rows, channel: str, first: int, last: int) -> list[tuple[int, bytes]]:
    return await store.read(channel, since_offset=first - 1, upto=last, limit=last - first + 1, reverse=False)
