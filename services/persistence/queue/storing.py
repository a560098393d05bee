"""Stores the rows of messages; which messages failed is the result.

A worker calls it, and so does a function in AWS. It needs nothing but the store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from services.persistence.domain.ports import LogStore
from services.persistence.queue.messages import QueuedRows, UnreadableMessage, decode
from services.persistence.queue.metrics import MESSAGES
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)


async def store_messages(store: LogStore, bodies: Mapping[str, str]) -> set[str]:
    """Store the rows of messages, by id; return the ids of those that must come again.

    These are messages whose rows the store can't take now, whose predecessors are missing, or which nobody can decode.
    All others may be deleted. Messages may be in any order, repeated, and of an epoch that is over.
    """
    failed: set[str] = set()
    by_channel: dict[tuple[str, str], list[tuple[str, QueuedRows]]] = {}
    for name, body in bodies.items():
        try:
            message = decode(body)
        except UnreadableMessage as error:
            logger.error("a message can't be read", extra={"id": name, "error": str(error)})
            MESSAGES.labels("unreadable").inc()
            failed.add(name)
        else:
            by_channel.setdefault((message.channel, message.epoch), []).append((name, message))
    for (channel, epoch), messages in by_channel.items():
        try:
            failed |= await _store(store, channel, epoch, messages)
        except Unavailable as error:
            logger.warning("rows can't be stored now", extra={"channel": channel, "error": str(error)})
            MESSAGES.labels("unavailable").inc(len(messages))
            failed.update(name for name, _ in messages)
        except Exception:  # must not keep the other channels from being stored
            logger.exception("rows could not be stored", extra={"channel": channel})
            MESSAGES.labels("failed").inc(len(messages))
            failed.update(name for name, _ in messages)
    return failed


async def _store(store: LogStore, channel: str, epoch: str, messages: list[tuple[str, QueuedRows]]) -> set[str]:
    """Store the messages of one channel in the order of offsets.

    Returns the ids of those that must come again.
    """
    state = await store.open(channel)
    if state.epoch != epoch:
        await store.heartbeat()  # reads the mark of the last restore, with which all epochs end
        state = await store.open(channel)
    if state.epoch != epoch:
        logger.warning("rows of an epoch that is over are dropped", extra={"channel": channel})
        MESSAGES.labels("stale").inc(len(messages))
        return set()
    failed: set[str] = set()
    top = state.top
    for name, message in sorted(messages, key=lambda one: one[1].rows[0].offset):
        rows = [row._replace(epoch=epoch) for row in message.rows]
        if rows[0].offset > top + 1:
            MESSAGES.labels("early").inc()
            failed.add(name)
            continue
        written = (await store.write(rows))[channel]
        if isinstance(written, Unavailable):
            raise written
        if written.is_stale:
            logger.warning("rows of an epoch that is over are dropped", extra={"channel": channel})
            MESSAGES.labels("stale").inc()
            continue
        if written.conflict:  # persistence sees it too, and gives the channel another epoch
            logger.error("the store has another publication", extra={"channel": channel, "offset": rows[0].offset})
            MESSAGES.labels("conflict").inc()
            continue
        top = max(top, written.top)
        MESSAGES.labels("stored").inc()
    return failed
