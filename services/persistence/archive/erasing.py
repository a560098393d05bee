"""Takes publications out of segments: what was erased, and what was removed.

A segment is written again without them, under a new key. Its manifest changes in one step, if it is still the one that
was read; then the old object is deleted. Its key is gone with the manifest: copies of the object can't be read. If the
process dies before it has deleted the object, the store says that it is to be deleted.

Any replica does it. If two do it at once, the manifest of one of them stays, and the other one's object is garbage,
which it deletes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from services.persistence.archive import place
from services.persistence.archive.failures import Failed
from services.persistence.archive.pages import Segments
from services.persistence.archive.ports import Manifest, ObjectStore, SegmentStore
from services.persistence.archive.writing import write
from services.shared.errors import Unavailable


class Erasing:
    """Rewrites segments; methods raise `Unavailable`, and repeating is safe."""

    def __init__(self, store: SegmentStore, objects: ObjectStore, segments: Segments) -> None:
        self._store, self._objects, self._segments = store, objects, segments

    async def erase(self, now: float) -> int:
        """Write segments again that have something erased, and delete dropped objects.

        Returns how many segments were written.

        Raises:
            Unavailable: not all was done. One that can't be read does not keep the others.
        """
        done, failed, after = 0, Failed(), ("", 0)
        while found := await self._store.erased(after):
            for manifest, publications in found:
                with failed.noted():
                    done += await self._replace(manifest, manifest.first, publications)
            after = found[-1][0].channel, found[-1][0].first
        with failed.noted():
            await self.delete_dropped(now)
        failed.end()
        return done

    async def trim(self, channel: str, upto: int) -> None:
        """Take out of segments what a removal removes, up to an offset."""
        for manifest in await self._store.segments(channel, 0, upto):
            if manifest.last <= upto:
                is_done = await self._store.swap(manifest, None, None, {})
                self._segments.forget(manifest.object)
            else:
                is_done = await self._replace(manifest, upto + 1, {})
            if not is_done:
                raise Unavailable("a segment was replaced meanwhile")

    async def delete_dropped(self, now: float) -> None:
        """Delete the objects that no segment has any more, if it is time.

        Raises:
            Unavailable: not all was done. One that can't be deleted does not keep the others.
        """
        failed, after = Failed(), ""
        while names := await self._store.dropped(now, after):
            await place.check(self._store, self._objects)
            for name in names:
                with failed.noted():
                    await self._objects.delete(name)
                    await self._store.forget([name])
            after = names[-1]
        failed.end()

    async def _replace(self, manifest: Manifest, first: int, publications: Mapping[int, bytes]) -> bool:
        """Write a segment again, from an offset on and with other publications."""
        rows = [
            row if (other := publications.get(row.offset)) is None else row._replace(publication=other)
            for row in await self._segments.rows(manifest)
            if row.offset >= first
        ]
        new = await write(self._objects, self._store, manifest.channel, rows)
        if await self._store.swap(manifest, new, rows[0], publications):
            self._segments.forget(manifest.object)
            return True
        with contextlib.suppress(Unavailable):
            await self._objects.delete(new.object)
        return False
