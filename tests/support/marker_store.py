"""`MarkerStore` in memory: the model that the real ones are compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import Record


class MemoryMarkerStore:
    """Keeps everything in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[Of, Record] = {}

    async def load(self, wanted: Collection[Of]) -> dict[Of, Record]:
        return {of: self.kept[of] for of in wanted if of in self.kept}

    async def merge(self, records: Sequence[tuple[Of, Record]]) -> None:
        for of, record in records:
            self.kept[of] = self.kept[of].merged(record) if of in self.kept else record

    async def of_user(self, user: str, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        found = sorted((of.channel, record) for of, record in self.kept.items() if of.user == user)
        return [one for one in found if one[0] > after][:limit]

    async def forget(self, wanted: Collection[Of]) -> None:
        for of in wanted:
            self.kept.pop(of, None)
