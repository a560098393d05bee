"""Heads in Redis, with what the log says beside them: many at once.

Of each conversation its meta and its head are read, in one pipeline, and not in one script: they may be of different
moments. A head that is newer than the meta holds as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from services.persistence.chat.inbox.heads import Head, TailRow, decode, encode
from services.shared.hotlog import keys
from services.shared.hotlog.entries import decode_entry
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

PUT_HEAD = load(Path(__file__).with_name("put_head.lua"))
KEPT_S = 7 * 86_400
_TIMEOUT_S = 2.0  # longest round trip, seconds
_META = ("epoch", "stored", "life", "top", "time", "fed", "hinted", "told", "removed")
_DECODED = 50_000  # heads that are remembered as they were decoded


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


class KeptHeads:
    """Heads in Redis; every method raises `Unavailable` if it does not answer."""

    def __init__(self, client: RedisPipeline, incarnation: Callable[[], str]) -> None:
        """Take a connection, and what returns the token of the present incarnation."""
        self._client, self._incarnation = client, incarnation
        self._decoded: dict[str, tuple[bytes, Head]] = {}

    async def read(self, channels: Sequence[str]) -> dict[str, Seen | None]:
        """Return what Redis says; None: the conversation must be compared first."""
        commands: list[Command] = []
        for channel in channels:
            commands += (("HMGET", keys.meta(channel), *_META), ("GET", keys.inbox_head(channel)))
        replies = await self._client.execute(commands, timeout_s=_TIMEOUT_S) if commands else []
        token = self._incarnation().encode()
        return {
            channel: self._seen(channel, raise_for_error(meta), raise_for_error(head), token)
            for channel, meta, head in zip(channels, replies[::2], replies[1::2], strict=True)
        }

    async def tails(self, wanted: Mapping[str, tuple[int, int]]) -> dict[str, list[TailRow]]:
        """Return rows of logs in Redis: channel → first and last offset, both included."""
        commands: list[Command] = [
            ("XRANGE", keys.log(channel), f"{first}-0", f"{last}-0") for channel, (first, last) in wanted.items()
        ]
        replies = await self._client.execute(commands, timeout_s=_TIMEOUT_S) if commands else []
        return {
            channel: [_row(entry_id, fields) for entry_id, fields in raise_for_error(reply)]
            for channel, reply in zip(wanted, replies, strict=True)
        }

    async def put(self, heads: Collection[tuple[str, Head]]) -> None:
        """Keep heads that hold for the newest position."""
        calls = []
        for channel, head in heads:
            ttl_s = int(KEPT_S * random.uniform(0.75, 1.0))
            arguments: list[str | bytes | int] = [head.epoch, head.position, encode(head), ttl_s]
            calls.append(Call(PUT_HEAD, [keys.inbox_head(channel), keys.meta(channel)], arguments))
        for reply in await self._client.run(calls, timeout_s=_TIMEOUT_S) if calls else ():
            raise_for_error(reply)

    def _seen(self, channel: str, meta: Sequence[bytes | None], text: bytes | None, token: bytes) -> Seen | None:
        epoch, stored, life, top, time_ms, fed, hinted, told, removed = meta
        if epoch is None or stored is None or life != token:
            return None
        head = None if text is None else self._head(channel, text)
        if head is not None and head.epoch.encode() != epoch:
            head = None
        position = int(stored)
        fed_at, _, fed_id = (fed or b"").partition(b" ")
        is_known = fed_at == stored and stored in (hinted, told)
        if not is_known and head is not None and head.fed and head.position == position:
            fed_id, is_known = head.fed.encode(), True
        return Seen(
            epoch.decode(),
            position,
            top != stored,
            int(time_ms or 0),
            fed_id.decode() if is_known else "",
            int(removed or 0),
            head,
        )

    def _head(self, channel: str, text: bytes) -> Head:
        """Decode a head, unless that was done before: most do not change."""
        known = self._decoded.get(channel)
        if known is not None and known[0] == text:
            return known[1]
        if len(self._decoded) >= _DECODED:
            self._decoded.clear()
        head = decode(text)
        self._decoded[channel] = (text, head)
        return head


def _row(entry_id: bytes, fields: Sequence[bytes]) -> TailRow:
    entry = decode_entry(int(entry_id.split(b"-")[0]), fields)
    return TailRow(entry.offset, entry.publication, entry.flags, entry.n, entry.mv)
