"""Knows the place of a store's objects again, by an object that marks it.

A directory that is not mounted is an empty directory, and a slip in a setting names another bucket. Both can be written
to, and all looks well until somebody reads. So before the first segment the place gets the object `<store>/marker`.
Once there are segments nothing is written or deleted in a place without it.

It does not tell two copies of a store apart: both have the same name. See docs/operations.md#archive.
"""

from __future__ import annotations

from services.persistence.archive.ports import ObjectMissing, ObjectStore, SegmentStore
from services.shared.errors import Unavailable

_MARKER = "marker"
_TEXT = b"An archive of Thalamus. Leave this file where it is.\n"


class WrongPlace(Unavailable):
    """The store has segments, but its marker is not in this place."""


def marker_of(store: str) -> str:
    """Return the name of the marker of a store."""
    return f"{store}/{_MARKER}"


async def check(store: SegmentStore, objects: ObjectStore) -> bool:
    """Return whether the marker is there.

    Raises:
        Unavailable: the store, or the place, does not answer.
        WrongPlace: the marker is not there, and must be.
    """
    marker = marker_of(await store.name())
    try:
        await objects.get(marker)
    except ObjectMissing as error:
        if await store.all_segments(("", 0), 1):
            why = f"PERSISTENCE_ARCHIVE is not the place of the archive, or it is not mounted: {marker} is not there"
            raise WrongPlace(why) from error
        return False
    return True


async def claim(store: SegmentStore, objects: ObjectStore) -> None:
    """Check the place before something is written, and mark it if it is a new one.

    Raises:
        Unavailable: as `check`.
    """
    if not await check(store, objects):
        await objects.put(marker_of(await store.name()), _TEXT)
