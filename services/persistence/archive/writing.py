"""Writes a segment to an object, and reads it back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from services.persistence.archive import place, segment
from services.persistence.archive.ports import ArchivedRow, Manifest, ObjectMissing, ObjectStore, SegmentStore
from services.shared.errors import Unavailable


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
        again = await asyncio.to_thread(segment.decode, manifest, await objects.get(name))
        if again != list(rows):
            raise Unavailable("it has other publications")
    except (Unavailable, ObjectMissing) as error:
        with contextlib.suppress(Unavailable):  # it is garbage otherwise
            await objects.delete(name)
        raise Unavailable(f"an object that was just written can't be read back: {error}") from error
    return manifest
