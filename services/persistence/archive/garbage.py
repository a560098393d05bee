"""Deletes objects that no manifest names, some weeks after they were written.

A process that died between writing an object and putting its manifest leaves one. So does a store that was restored
from a backup, and which knows nothing of what was archived since. Somebody may still put the newer store back, or need
an object for an older one: hence the weeks.
"""

from __future__ import annotations

from services.persistence.archive.place import marker_of
from services.persistence.archive.ports import ObjectStore, SegmentStore

_AT_ONCE = 200  # objects that the store is asked about


async def collect(store: SegmentStore, objects: ObjectStore, before: float) -> int:
    """Delete objects without a manifest that were written before a time.

    Returns how many. Only objects of this store are looked at. `before`: Unix seconds.

    Raises:
        Unavailable: the store, or the place of the objects, does not answer.
    """
    deleted = 0
    old: list[str] = []
    name = await store.name()
    marker = marker_of(name)
    async for one in objects.list(name):
        if one.modified < before and one.name != marker:
            old.append(one.name)
        if len(old) >= _AT_ONCE:
            deleted += await _delete(store, objects, old)
            old = []
    return deleted + await _delete(store, objects, old)


async def _delete(store: SegmentStore, objects: ObjectStore, names: list[str]) -> int:
    unknown = set(names) - await store.known(names) if names else set()
    for name in sorted(unknown):
        await objects.delete(name)
    return len(unknown)
