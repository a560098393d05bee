"""Messages of the dead-letter queue: look through, send again, drop them.

There may be very many, of 180 KB each, so they are handled as they are received, ten at a time. Of those that stay only
what is needed to show them to others again is kept, some hundred bytes each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

from services.persistence.queue.sqs import Message, SqsQueue
from services.shared.errors import Unavailable

_HELD_S = 600  # how long messages are hidden from others while they are looked through, seconds
_AT_ONCE = 10


class Seen(NamedTuple):
    """Which of some messages were deleted, and whether to go on with the next ones."""

    deleted: Collection[str] = ()
    goes_on: bool = True


See = Callable[[Sequence[Message]], Awaitable[Seen]]


async def look_through(queue: SqsQueue, see: See) -> int:
    """Have `see` look at all messages that nobody else looks at; return how many.

    They are hidden from others meanwhile.

    Raises:
        Unavailable: the queue does not answer. What was hidden is seen again after ten minutes at the latest.
    """
    kept: dict[str, Message] = {}
    count = 0
    try:
        while True:
            some = await queue.receive(dead=True, wait_s=1, held_s=_HELD_S)
            new = [one for one in some if one.name not in kept]
            kept |= {one.name: one._replace(body="") for one in some}
            if not new:
                return count
            count += len(new)
            deleted, goes_on = await see(new)
            for name in deleted:
                del kept[name]
            if not goes_on:
                return count
    finally:
        await _release(queue, [*kept.values()])


async def _release(queue: SqsQueue, messages: Sequence[Message]) -> None:
    """Let others see messages again."""
    for start in range(0, len(messages), _AT_ONCE):
        await queue.put_back(messages[start : start + _AT_ONCE], 0, dead=True)


async def change(
    queue: SqsQueue, ids: Collection[str] | None, *, replay: bool, done: Callable[[str], None]
) -> set[str]:
    """Drop messages of the dead-letter queue, or send them again.

    Returns the ids that were not found. `ids`: None for all. `done` is called with each id. What was sent again and
    could not be dropped is there twice, which does no harm.

    Raises:
        Unavailable: the queue does not answer or did not take a message; some may be done.
    """
    missing = {*(ids or ())}

    async def see(some: Sequence[Message]) -> Seen:
        mine = [one for one in some if ids is None or one.name in missing]
        if mine:
            if replay and not all(await queue.send([one.body for one in mine])):
                raise Unavailable("the queue did not take all of them")
            await queue.delete(mine, dead=True)
        for one in mine:
            done(one.name)
            missing.discard(one.name)
        return Seen([one.name for one in mine], ids is None or bool(missing))

    await look_through(queue, see)
    return missing
