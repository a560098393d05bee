"""Messages of the dead-letter queue: list them, send them again, drop them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.persistence.queue.sqs import Message, SqsQueue
from services.shared.errors import Unavailable

_HELD_S = 60  # how long messages are hidden from others while they are looked through, seconds
_AT_ONCE = 10


async def dead_messages(queue: SqsQueue) -> list[Message]:
    """Return all messages of the dead-letter queue that nobody else looks at.

    They are hidden from others until `release`, 60 s at most. Raises `Unavailable`.
    """
    found: dict[str, Message] = {}
    while True:
        some = await queue.receive(dead=True, wait_s=1, held_s=_HELD_S)
        new = [one for one in some if one.name not in found]
        found |= {one.name: one for one in some}
        if not new:
            return list(found.values())


async def release(queue: SqsQueue, messages: Sequence[Message]) -> None:
    """Let others see messages again. Raises `Unavailable`."""
    for start in range(0, len(messages), _AT_ONCE):
        await queue.put_back(messages[start : start + _AT_ONCE], 0, dead=True)


async def change(queue: SqsQueue, ids: Collection[str] | None, *, replay: bool) -> list[str]:
    """Drop messages of the dead-letter queue, or send them again.

    Returns their ids.

    `ids`: None for all. What was sent again and could not be dropped is there twice, which does no harm.

    Raises:
        Unavailable: the queue does not answer or did not take a message; some may be done.
    """
    messages = await dead_messages(queue)
    mine = [one for one in messages if ids is None or one.name in ids]
    kept = [one for one in messages if one not in mine]
    try:
        for start in range(0, len(mine), _AT_ONCE):
            some = mine[start : start + _AT_ONCE]
            if replay and not all(await queue.send([one.body for one in some])):
                kept += mine[start:]
                raise Unavailable("the queue did not take all of them")
            await queue.delete(some, dead=True)
    finally:
        await release(queue, kept)
    return [one.name for one in mine]
