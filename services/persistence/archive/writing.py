"""Writes a segment to an object, and reads it back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.persistence.archive import place, segment
from services.persistence.archive.ports import (
    ArchivedRow,
    Manifest,
    ObjectMissing,
    ObjectStore,
    SegmentStore,
    SegmentUnreadable,
)


async def write(objects: ObjectStore, store: SegmentStore, channel: str, rows: Sequence[ArchivedRow]) -> Manifest:
    """Write rows to a new object; return its manifest once it was read back.

    Raises:
        Unavailable: it was not written, or is not what was written.
        WrongPlace: it may not be written there.
    """
    await place.claim(store, objects)
    name = segment.new_name(await store.name())
    manifest, body = await asyncio.to_thread(segment.encode, channel, rows, name)
    await objects.put(manifest.object, body)
    try:
        again = await asyncio.to_thread(segment.decode, manifest, await objects.get(manifest.object))
    except ObjectMissing as error:
        raise SegmentUnreadable("an object that was just written is missing") from error
    if again != list(rows):
        raise SegmentUnreadable("an object that was just written has other publications")
    return manifest
