"""Which marked channels a sweep finishes now.

A mark says that a channel may have entries which the store lacks. If nobody finishes them soon, the process that
numbered them is gone.

With a queue, rows that were acknowledged early are on their way for some seconds, so their channels have more time.
Nothing else is: what must be stored before it is acknowledged persistence writes itself.
"""

from __future__ import annotations

from services.persistence.domain.ports import HotLog

Mark = tuple[str, bytes]  # channel, mark


async def due_marks(hot: HotLog, age_s: float, early_age_s: float, limit: int) -> list[Mark]:
    """Return at most `limit` marks that are older than `age_s`.

    `early_age_s`: least age where something acknowledged early is to be stored.

    Raises:
        Unavailable: Redis does not answer.
    """
    marks = await hot.settled(age_s, limit)
    if early_age_s <= age_s or not marks:
        return marks
    old = {*await hot.settled(early_age_s, limit)}
    young = [mark for mark in marks if mark not in old]
    found = await hot.unstored([channel for channel, _ in young], 1) if young else []
    waits = {mark for mark, one in zip(young, found, strict=True) if one is not None and one.readable > one.stored}
    return [mark for mark in marks if mark not in waits]
