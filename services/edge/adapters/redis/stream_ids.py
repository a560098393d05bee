"""Ids of entries of a Redis stream: Unix milliseconds, and a counter in them."""

from __future__ import annotations

StreamId = tuple[int, int]


def parse_stream_id(text: bytes) -> StreamId:
    """Parse an id; raises ValueError."""
    ms, _, number = text.partition(b"-")
    return int(ms), int(number)


def stream_id_text(stream_id: StreamId) -> str:
    """Return an id as Redis takes it."""
    return f"{stream_id[0]}-{stream_id[1]}"
