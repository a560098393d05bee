"""What the notifier keeps in Redis: what is due, and what devices show.

**Purpose.** Several processes share the work, and any of them may die. So nothing that is still to be done is in the
memory of one.

**Rules.**

* A conversation with new events has a range of its log, and a time when it is due: `notify_delay_s` after the first
  event. Later events widen the range. Whoever looks at it holds a lease; one that ran out makes it due for any process.
  Afterwards the range ends where it was looked at (`settle`), or begins there, if more came meanwhile.
* What a device shows is noted after the notification was stored as a letter, and before the range ends. So whoever dies
  in between leaves work that is done again, and ends with the same letters. Before the letter is stored it is noted
  what the device is about to show, with the `rev` of what it shows as yet (0: nothing), and that message's offset.
* Shown notifications are looked at again: at once when the marker of the user moved (persistence renews the time, see
  `services/persistence/chat/shown_marks.py`) or something in the conversation was deleted; else after 2 s, a minute,
  ten minutes, an hour, and each day of a week. The latter finds what a process that died could not tell.

| key, with the prefix `t`   | content |
|---|---|
| `t:push:{push}:due`        | sorted set: channel → Unix ms |
| `t:push:{push}:ranges`     | hash: channel → epoch, first and last offset |
| `t:push:{push}:watch`      | sorted set: channel and user → Unix ms |
| `t:push:{push}:shown:{…}`  | hash of a channel: user → rev, looks so far, offset, epoch, offset before |
| `t:push:{<way>}:…`         | letters of a way out, as webhooks have them (`webhooks/letters.py`) |

**Example.** Messages 5, 6 and 7 arrive within 3 s. The range is 5 to 7, due 10 s after 5. Process A leases it, stores
the letters of two users and is killed. 30 s later B leases it, stores the same letters, which are there already or were
sent, and notes that both users see 7.

Times are those of Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 2.0  # longest wait for one round trip, seconds
_LUA = Path(__file__).parent / "lua"
_NOTE, _CLAIM, _SETTLE, _SHOWN, _HIDDEN = (
    load(_LUA / f"push_{name}.lua") for name in ("note", "claim", "settle", "shown", "hidden")
)
LOOKS_S = (2.0, 60.0, 600.0, 3_600.0, *(86_400.0,) * 7)  # pauses before each look at what is shown
_FORGOTTEN_S = 9 * 86_400  # a conversation's hash, after the last notification
_AT_ONCE = 500  # users of one call


class Grown(NamedTuple):
    """An event of a conversation. `delay_s` 0: it is to be looked at at once."""

    channel: str
    epoch: str
    offset: int
    delay_s: float


class Range(NamedTuple):
    """What is due of a conversation."""

    channel: str
    epoch: str
    first: int


class OnDevice(NamedTuple):
    """What a user sees: the message at `offset`, because of the event `rev`.

    `looks`: how often it was looked at. `text`: as Redis has it. `before`: what the user may still see instead; 0:
    nothing.
    """

    rev: int
    looks: int
    offset: int
    epoch: str
    text: bytes = b""
    before: int = 0

    def record(self, looks: int) -> str:
        """Return what is kept behind `rev`, after so many looks."""
        return f"{looks} {self.offset} {self.epoch} {self.before}"


class Due(NamedTuple):
    """Names that the caller leased, how many wait, and how long the first was due."""

    names: list[str]
    waiting: int
    late_s: float


class Timers:
    """Timers and what is shown. All methods raise `Unavailable`."""

    def __init__(self, redis: RedisPipeline) -> None:
        """Take the connection; makes no request."""
        self._redis = redis
        self._due, self._ranges, self._watch = keys.push("due"), keys.push("ranges"), keys.push("watch")

    async def note(self, grown: Sequence[Grown]) -> None:
        """Note new events of conversations."""
        arguments: list[str | bytes | int] = []
        for one in grown:
            arguments += [one.channel, one.epoch, one.offset, _ms(one.delay_s)]
        if arguments:
            await self._run(Call(_NOTE, [self._due, self._ranges], arguments))

    async def claim(self, most: int, lease_s: float) -> tuple[list[Range], Due]:
        """Lease conversations that are due."""
        due = await self._claim(self._due, most, lease_s)
        if not due.names:
            return [], due
        (kept,) = await self._redis.execute([("HMGET", self._ranges, *due.names)], timeout_s=_TIMEOUT_S)
        found: list[Range] = []
        for channel, text in zip(due.names, raise_for_error(kept), strict=True):
            epoch, first, _last = (text or b"- 1 0").decode().split(" ")  # "-": gone meanwhile, and then settled
            found.append(Range(channel, epoch, int(first)))
        return found, due

    async def settle(self, channel: str, epoch: str, upto: int, delay_s: float) -> None:
        """Note up to where a conversation was looked at; what came behind is due later."""
        await self._run(Call(_SETTLE, [self._due, self._ranges], [channel, epoch, upto, _ms(delay_s)]))

    async def shown(self, channel: str, users: Sequence[str]) -> dict[str, OnDevice]:
        """Return what these users see of a conversation."""
        found: dict[str, OnDevice] = {}
        for start in range(0, len(users), _AT_ONCE):
            some = users[start : start + _AT_ONCE]
            (texts,) = await self._redis.execute([("HMGET", _shown(channel), *some)], timeout_s=_TIMEOUT_S)
            found |= {
                user: _on_device(text)
                for user, text in zip(some, raise_for_error(texts), strict=True)
                if text is not None
            }
        return found

    async def all_shown(self, channel: str) -> dict[str, OnDevice]:
        """Return what all users see of a conversation."""
        (found,) = await self._redis.execute([("HGETALL", _shown(channel))], timeout_s=_TIMEOUT_S)
        pairs = raise_for_error(found)
        return {user.decode(): _on_device(text) for user, text in zip(pairs[::2], pairs[1::2], strict=True)}

    async def show(self, channel: str, shown: Mapping[str, OnDevice]) -> None:
        """Note what users see from now on."""
        users = list(shown)
        for start in range(0, len(users), _AT_ONCE):
            arguments: list[str | bytes | int] = [channel, _ms(LOOKS_S[0]), _FORGOTTEN_S * 1000]
            for user in users[start : start + _AT_ONCE]:
                one = shown[user]
                arguments += [user, one.rev, one.record(one.looks)]
            await self._run(Call(_SHOWN, [self._watch, _shown(channel)], arguments))

    async def look_at(self, channel: str, users: Sequence[str]) -> None:
        """Have what these users see looked at at once."""
        for start in range(0, len(users), _AT_ONCE):
            command: list[str | bytes | int] = ["ZADD", self._watch, "XX", "LT"]
            for user in users[start : start + _AT_ONCE]:
                command += [0, f"{channel} {user}"]
            raise_for_error((await self._redis.execute([tuple(command)], timeout_s=_TIMEOUT_S))[0])

    async def claim_shown(self, most: int, lease_s: float) -> list[tuple[str, str]]:
        """Lease (channel, user) whose notifications are to be looked at."""
        due = await self._claim(self._watch, most, lease_s)
        return [(channel, user) for channel, _, user in (name.partition(" ") for name in due.names)]

    async def looked(self, channel: str, user: str, kept: OnDevice | None) -> None:
        """Look again later at what stays; after the last look it is forgotten."""
        if kept is None or kept.looks + 1 >= len(LOOKS_S):
            await self.hide(channel, user, kept)
            return
        text = f"{kept.rev} {kept.record(kept.looks + 1)}"
        await self._hidden(channel, user, kept.text, LOOKS_S[kept.looks + 1], text)

    async def hide(self, channel: str, user: str, kept: OnDevice | None) -> None:
        """Forget what a user does not see any more."""
        await self._hidden(channel, user, kept.text if kept else b"", -0.001)

    async def _hidden(self, channel: str, user: str, text: bytes, pause_s: float, now: str = "") -> None:
        arguments: list[str | bytes | int] = [channel, user, text, _ms(pause_s), now]
        await self._run(Call(_HIDDEN, [self._watch, _shown(channel)], arguments))

    async def _claim(self, name: str, most: int, lease_s: float) -> Due:
        waiting, late_ms, *names = await self._run(Call(_CLAIM, [name], [most, _ms(lease_s)]))
        return Due([one.decode() for one in names], waiting, max(0.0, late_ms / 1000))

    async def _run(self, call: Call) -> Any:
        (result,) = await self._redis.run([call], timeout_s=_TIMEOUT_S)
        return raise_for_error(result)


def _shown(channel: str) -> str:
    return keys.push(f"shown:{channel}")


def _on_device(text: bytes) -> OnDevice:
    rev, looks, offset, epoch, before = text.decode().split(" ")
    return OnDevice(int(rev), int(looks), int(offset), epoch, text, int(before))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
