"""Heads in Redis, with what the log says beside them: many at once.

Of each conversation its meta and its head are read, in one pipeline, and not in one script: they may be of different
moments. A head that is newer than the meta holds as well.

A head is remembered with the meta that it was read with. While the meta is the same, nothing became readable, and the
head holds. If it has moved on, rows of the log are taken in behind the head that is remembered. So a conversation that
rests costs each user who asks one short command, and nothing is decoded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from services.persistence.chat.inbox.heads import Head, TailRow, decode, encode
from services.shared.hotlog import keys
from services.shared.hotlog.entries import decode_entry
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

PUT_HEAD = load(Path(__file__).with_name("put_head.lua"))
KEPT_S = 7 * 86_400
_TIMEOUT_S = 2.0  # longest round trip, seconds
_META = ("epoch", "stored", "life", "top", "time", "fed", "hinted", "told", "removed", "shown")
LONGEST_TAIL = 64  # rows behind a head that are taken in
_REMEMBERED = 50_000  # heads; about a kilobyte each


class Seen(NamedTuple):
    """What Redis says of a conversation.

    `stored`: the newest readable position. `is_pending`: more is numbered, and not readable yet. `time_ms`: of the
    newest publication. `fed`: id of the entry of the feed that told of `stored`; "": not known. `removed`: up to where
    history was removed. `head`: None if there is none of this epoch.
    """

    epoch: str
    stored: int
    is_pending: bool
    time_ms: int
    fed: str
    removed: int
    head: Head | None


class _Known(NamedTuple):
    """What Redis said of a conversation.

    `meta`: the reply from which `seen` was made. `token`: of the incarnation. `holds`: `seen` has a head that holds.
    """

    meta: Sequence[bytes | None]
    token: bytes
    seen: Seen
    holds: bool


class KeptHeads:
    """Heads in Redis; every method raises `Unavailable` if it does not answer."""

    def __init__(self, client: RedisPipeline, incarnation: Callable[[], str]) -> None:
        """Take a connection, and what returns the token of the present incarnation."""
        self._client, self._incarnation = client, incarnation
        self._known: dict[str, _Known] = {}

    async def read(self, channels: Sequence[str]) -> dict[str, Seen | None]:
        """Return what Redis says; None: the conversation must be compared first."""
        commands: list[Command] = [("HMGET", keys.meta(channel), *_META) for channel in channels]
        new = [channel for channel in channels if channel not in self._known]
        replies = await self._execute(commands + [("GET", keys.inbox_head(channel)) for channel in new])
        texts = dict(zip(new, replies[len(channels) :], strict=True))
        token = self._incarnation().encode()
        found: dict[str, Seen | None] = {}
        missing: dict[str, Sequence[bytes | None]] = {}
        for channel, meta in zip(channels, replies, strict=False):
            known = self._known.get(channel)
            if known is not None and known.holds and known.meta == meta and known.token == token:
                found[channel] = known.seen
            elif channel in texts:
                found[channel] = self._seen(channel, raise_for_error(meta), _head(texts[channel]), token)
            else:
                head = known.seen.head if known is not None and known.token == token else None
                one = found[channel] = self._seen(channel, raise_for_error(meta), head, token)
                if one is not None and (one.head is None or one.stored - one.head.position > LONGEST_TAIL):
                    missing[channel] = meta
        others = await self._execute([("GET", keys.inbox_head(channel)) for channel in missing])
        for (channel, meta), text in zip(missing.items(), others, strict=True):
            found[channel] = self._seen(channel, meta, _head(text), token)
        return found

    async def tails(self, wanted: Mapping[str, tuple[int, int]]) -> dict[str, list[TailRow]]:
        """Return rows of logs in Redis: channel → first and last offset, both included."""
        commands: list[Command] = [
            ("XRANGE", keys.log(channel), f"{first}-0", f"{last}-0") for channel, (first, last) in wanted.items()
        ]
        replies = await self._execute(commands)
        return {
            channel: [_row(entry_id, fields) for entry_id, fields in raise_for_error(reply)]
            for channel, reply in zip(wanted, replies, strict=True)
        }

    def learn(self, heads: Collection[tuple[str, Head]]) -> None:
        """Remember heads that were made here."""
        for channel, head in heads:
            known = self._known.get(channel)
            if known is not None and (known.seen.epoch, known.seen.stored) == (head.epoch, head.position):
                self._known[channel] = known._replace(seen=known.seen._replace(head=head), holds=True)

    async def put(self, heads: Collection[tuple[str, Head]]) -> None:
        """Keep heads that hold for the newest position."""
        calls = []
        for channel, head in heads:
            ttl_s = int(KEPT_S * random.uniform(0.75, 1.0))
            arguments: list[str | bytes | int] = [head.epoch, head.position, encode(head), ttl_s]
            calls.append(Call(PUT_HEAD, [keys.inbox_head(channel), keys.meta(channel)], arguments))
        for reply in await self._client.run(calls, timeout_s=_TIMEOUT_S) if calls else ():
            raise_for_error(reply)

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        return await self._client.execute(commands, timeout_s=_TIMEOUT_S) if commands else []

    def _seen(self, channel: str, meta: Sequence[bytes | None], head: Head | None, token: bytes) -> Seen | None:
        """Return what Redis says, with this head if it is of the same epoch; remember it."""
        self._known.pop(channel, None)
        epoch, stored, life, top, time_ms, fed, hinted, told, removed, shown = meta
        if epoch is None or stored is None or life != token:
            return None
        if shown is not None and int(shown) > int(stored):
            stored = shown  # readable before it is stored
        if head is not None and head.epoch.encode() != epoch:
            head = None
        position = int(stored)
        fed_at, _, fed_id = (fed or b"").partition(b" ")
        is_known = fed_at == stored and stored in (hinted, told)
        if not is_known and head is not None and head.fed and head.position == position:
            fed_id, is_known = head.fed.encode(), True
        seen = Seen(
            epoch.decode(),
            position,
            top != stored,
            int(time_ms or 0),
            fed_id.decode() if is_known else "",
            int(removed or 0),
            head,
        )
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[channel] = _Known(meta, token, seen, head is not None and head.position >= position)
        return seen


def _head(text: Any) -> Head | None:
    """Decode the reply of Redis; None: it has none."""
    return None if raise_for_error(text) is None else decode(text)


def _row(entry_id: bytes, fields: Sequence[bytes]) -> TailRow:
    entry = decode_entry(int(entry_id.split(b"-")[0]), fields)
    return TailRow(entry.offset, entry.publication, entry.flags, entry.n, entry.mv)
