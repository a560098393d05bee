"""Markers in Redis: a hash per user, and notes of what the store lacks.

Purpose. Reading is the most frequent thing that users do, and a write to the store for each would be too much. So
Redis has the newest markers, and the store gets them seconds later.

Rules.

* A value names the incarnation of Redis in which it was compared with the store. In another one Redis may have gone
  back: the value is merged with that of the store before it is used.
* A value is replaced only if it is as it was read (`swap`). The note goes first, in the same round trip. So whatever
  is acknowledged has a note, or is in the store.
* A note is (slot of time, user, conversation), with the time of its last renewal. It is removed only if it was not
  renewed since; and within a slot it can't be renewed for ever.
* What is forgotten has a value that says so, until no write of before can be under way any more. Meanwhile it is
  deleted from the store several times. In another incarnation it is compared with the store first, too: the user may
  have come back since, and read on.
* A hash expires a week after it was last written. The store has all of it then.

Example. At 12:00:03 a user reads: `HSET t:{…}:read conv:g.x "0 17 17 epoch 0 1f3a"`, noted in the slot of 12:00:00. At
12:00:15 or a little later the store has it, and the note is gone.

Trade-offs. Two round trips instead of one script that knows the rules: the rules are in one place (`record.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import Record
from services.persistence.chat.oldest import oldest_s
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import SETTLED, UNMARK, Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

SLOT_S = 10.0
KEPT_S = 7 * 86_400
_TIMEOUT_S = 2.0  # longest round trip, seconds
_FIELDS_AT_ONCE = 1_000  # of one script; Lua can't take more than 8,000 arguments
_FORGOTTEN = "x"  # first word of a value that says so
_FOLDER = Path(__file__).parent
SWAP = load(_FOLDER / "swap.lua")
NOTE = load(_FOLDER / "note.lua")


class Kept(NamedTuple):
    """A value in Redis.

    `text`: as it is there; b"": there is none. `is_new`: it was compared with the store in this incarnation.
    `forgotten_ms`: when it was forgotten, Unix ms; 0: it is not. `record` is then what comes after it.
    """

    text: bytes
    record: Record
    is_new: bool
    forgotten_ms: int = 0


class Note(NamedTuple):
    """Something that the store does not have yet.

    `name` and `mark`: member and score of the sorted set.
    """

    of: Of
    name: bytes
    mark: bytes


class KeptMarkers:
    """The markers in Redis.

    Every method raises `Unavailable` if Redis does not answer.
    """

    def __init__(self, client: RedisPipeline, clock: Callable[[], float], incarnation: Callable[[], str]) -> None:
        """Create it.

        Args:
            client: Connection to Redis.
            clock: Returns the time of Redis, Unix seconds.
            incarnation: Returns the token of the present incarnation of Redis.
        """
        self._client, self._clock, self._incarnation = client, clock, incarnation

    async def get(self, wanted: Collection[Of]) -> dict[Of, Kept]:
        """Return what Redis has of each; one round trip."""
        by_user: dict[str, list[str]] = {}
        for user, channel in wanted:
            by_user.setdefault(user, []).append(channel)
        if not by_user:
            return {}
        commands = [("HMGET", keys.markers(user), *channels) for user, channels in by_user.items()]
        answers = await self._client.execute(commands, timeout_s=_TIMEOUT_S)
        token = self._token()
        return {
            Of(user, channel): _kept(text, token)
            for (user, channels), answer in zip(by_user.items(), answers, strict=True)
            for channel, text in zip(channels, raise_for_error(answer), strict=True)
        }

    async def texts(self, user: str, channels: Sequence[str]) -> dict[str, bytes | None]:
        """Return what Redis has of a user, for `read`; one round trip."""
        if not channels:
            return {}
        (answer,) = await self._client.execute([("HMGET", keys.markers(user), *channels)], timeout_s=_TIMEOUT_S)
        return dict(zip(channels, raise_for_error(answer), strict=True))

    def read(self, user: str, texts: Mapping[str, bytes | None]) -> dict[Of, Kept]:
        """Decode what `texts` returned."""
        token = self._token()
        return {Of(user, channel): _kept(text, token) for channel, text in texts.items()}

    async def swap(self, changes: Sequence[tuple[Of, bytes, Record]], *, note: bool) -> list[bool]:
        """Replace values that are as they were read; return for each whether it was.

        Args:
            changes: What is changed, its text until now, and the new record, which was compared with the store.
            note: Whether the store does not have it.
        """
        token = self._token()
        return await self._swap([(of, before, _text(record, token)) for of, before, record in changes], note=note)

    async def forget(self, wanted: Sequence[tuple[Of, Kept]]) -> list[bool]:
        """Replace values by ones that say they are forgotten, as `swap` does."""
        now_ms, token = int(self._clock() * 1_000), self._token()
        changes = [(of, kept.text, _forgotten(kept.record.forgotten(), now_ms, token)) for of, kept in wanted]
        return await self._swap(changes, note=True)

    async def compared(self, wanted: Sequence[tuple[Of, Kept, Record]]) -> None:
        """Replace values that are as they were read by what they are now.

        Args:
            wanted: What was read, and the same merged with what the store has.

        What is forgotten stays so, unless the store has more.
        """
        token = self._token()
        changes = [
            (
                of,
                kept.text,
                _forgotten(merged, kept.forgotten_ms, token)
                if kept.forgotten_ms and merged == kept.record
                else _text(merged, token),
            )
            for of, kept, merged in wanted
        ]
        await self._swap(changes, note=False)

    async def drop(self, wanted: Sequence[tuple[Of, Kept]]) -> None:
        """Remove values that are as they were read."""
        await self._swap([(of, kept.text, "") for of, kept in wanted], note=False)

    async def note(self, wanted: Sequence[Of]) -> None:
        """Note that something is to be written."""
        raise_for_error((await self._client.run([_note_call(wanted)], timeout_s=_TIMEOUT_S))[0])

    async def fields(self, user: str) -> list[str]:
        """Return the conversations of which Redis has something of a user."""
        answer = await self._client.execute([("HGETALL", keys.markers(user))], timeout_s=_TIMEOUT_S)
        found = raise_for_error(answer[0])
        names = found if isinstance(found, dict) else found[::2]
        return [name.decode() for name in names]

    def age_s(self, kept: Kept) -> float:
        """Seconds since it was forgotten."""
        return max(0.0, self._clock() - kept.forgotten_ms / 1_000)

    async def _swap(self, changes: Sequence[tuple[Of, bytes, str]], *, note: bool) -> list[bool]:
        by_user: dict[str, list[int]] = {}
        for index, (of, _, _) in enumerate(changes):
            by_user.setdefault(of.user, []).append(index)
        groups = [
            (user, indexes[start : start + _FIELDS_AT_ONCE])
            for user, indexes in by_user.items()
            for start in range(0, len(indexes), _FIELDS_AT_ONCE)
        ]
        calls = [_note_call([of for of, _, _ in changes])] if note else []
        for user, indexes in groups:
            parts: list[str | bytes | int] = [KEPT_S]
            for index in indexes:
                of, before, after = changes[index]
                parts += (of.channel, before, after)
            calls.append(Call(SWAP, [keys.markers(user)], parts))
        answers = [raise_for_error(answer) for answer in await self._client.run(calls, timeout_s=_TIMEOUT_S)]
        done = [False] * len(changes)
        for (_, indexes), answer in zip(groups, answers[1:] if note else answers, strict=True):
            for index, replaced in zip(indexes, answer, strict=True):
                done[index] = replaced == 1
        return done

    async def noted(self, age_s: float, limit: int, skip: int = 0) -> list[Note]:
        """Return notes that were last renewed more than `age_s` ago.

        The oldest come first; `skip` of them are left out.
        """
        call = Call(SETTLED, [keys.markers_unwritten()], [int(age_s * 1_000), limit, skip])
        found = raise_for_error((await self._client.run([call], timeout_s=_TIMEOUT_S))[0])
        return [Note(_of(name), name, mark) for name, mark in zip(found[::2], found[1::2], strict=True)]

    async def remove(self, notes: Sequence[Note]) -> None:
        """Remove notes that were not renewed."""
        call = Call(UNMARK, [keys.markers_unwritten()], [part for one in notes for part in (one.name, one.mark)])
        raise_for_error((await self._client.run([call], timeout_s=_TIMEOUT_S))[0])

    async def oldest_s(self) -> float:
        """Age of the oldest note, seconds; 0: there is none."""
        return await oldest_s(self._client, keys.markers_unwritten(), self._clock, _TIMEOUT_S)

    def _token(self) -> str:
        return hashlib.sha256(self._incarnation().encode()).hexdigest()[:8]


def _note_call(wanted: Sequence[Of]) -> Call:
    names = [keys.pair(of.user, of.channel) for of in wanted]
    return Call(NOTE, [keys.markers_unwritten()], [int(SLOT_S * 1_000), *names])


def _of(name: bytes) -> Of:
    return Of(*keys.unpair(name.decode().partition(" ")[2]))


def _forgotten(record: Record, at_ms: int, token: str) -> str:
    return f"{_FORGOTTEN} {record.generation} {record.version} {at_ms} {token}"


def _text(record: Record, token: str) -> str:
    generation, offset, delivered, epoch, version, settings = record
    return f"{generation} {offset} {delivered} {epoch or '-'} {version} {token} {settings}".rstrip()


def _kept(text: bytes | None, token: str) -> Kept:
    if not text:
        return Kept(b"", Record(), is_new=False)
    words = text.decode().split(" ", 6)
    if words[0] == _FORGOTTEN:
        record = Record(int(words[1]), version=int(words[2]))
        return Kept(text, record, words[4] == token, forgotten_ms=int(words[3]))
    generation, offset, delivered, epoch, version, of_token, *settings = words
    record = Record(
        int(generation),
        int(offset),
        int(delivered),
        "" if epoch == "-" else epoch,
        int(version),
        settings[0] if settings else "",
    )
    return Kept(text, record, of_token == token)
