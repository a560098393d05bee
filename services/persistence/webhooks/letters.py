"""Letters: batches of events, kept in Redis until their endpoint took them.

**Purpose.** A batch is sent at least once, under one id, whichever process dies meanwhile.

**Rules.** A letter is stored before its events are acknowledged to the feed, and removed when the endpoint answered
2xx. Whoever sends it holds a lease, a little longer than a request may take. A lease that ran out makes the letter due
for any process. A failed letter is due again after a pause; one that failed too often is dead. It then waits for
`thalamus webhooks replay`, and the next ones go on. Dead letters are bounded, and the oldest go first. A letter may
have an owner, such as the user that it is for. Then an owner has 20 dead ones at most, and of more the owner's oldest
go: so nobody takes the places of all others.

| key, with the prefix `t`    | content |
|---|---|
| `t:webhooks:endpoints`      | set: names of endpoints that ever had letters |
| `t:webhooks:{name}:letters` | hash: id → letter (JSON) |
| `t:webhooks:{name}:due`     | sorted set: id → Unix ms when it may be sent; a lease is a time to come |
| `t:webhooks:{name}:dead`    | sorted set: id → Unix ms of its last try |
| `t:webhooks:{name}:owners`  | hash: owner → ids of dead letters, the oldest first |

**Example.** Process A leases letter 7 for 15 s and is killed. After 15 s process B finds 7 due and sends it: same id,
same events. If A had sent it, the receiver knows the id.

Times are those of Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

WEBHOOKS = "webhooks"  # family: where names of keys begin; the notifier has one of its own
_TIMEOUT_S = 2.0  # longest wait for one round trip, seconds
_LUA = Path(__file__).parent / "lua"
_STORE, _CLAIM = load(_LUA / "store.lua"), load(_LUA / "claim.lua")
_SETTLE, _REVIVE = (load(_LUA / "owners.lua", _LUA / f"{name}.lua") for name in ("settle", "revive"))
_DEAD_OF_OWNER = 20  # dead letters of one owner
_ID_CHARACTERS = 32
_AT_ONCE = 50  # letters that are read with one command


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One request to make.

    `id` and `body` never change. `events` is their number, `tries` how often it was sent since it was stored or
    revived, `error` what the last try brought. `owner`: whose it is, where letters of many share a place; "": of all.
    """

    id: str
    body: str
    events: int
    tries: int = 0
    error: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Letters that the caller now sends, and what else is known of the endpoint.

    `waiting` counts all that are not dead, also those under way. `next_s`: seconds until one is due; None: none waits.
    """

    letters: list[Letter]
    waiting: int
    dead: int
    next_s: float | None


def letter_id(endpoint: str, event_ids: Sequence[str]) -> str:
    """Return the id of the letter with these events: the same for the same events."""
    digest = hashlib.sha256("\n".join((endpoint, *event_ids)).encode()).hexdigest()
    return f"msg_{digest[:_ID_CHARACTERS]}"


async def known_endpoints(redis: RedisPipeline, family: str = WEBHOOKS) -> list[str]:
    """Return the names of the endpoints that ever had letters, sorted.

    Raises:
        Unavailable: Redis does not answer.
    """
    (names,) = await redis.execute([("SMEMBERS", _endpoints(family))], timeout_s=_TIMEOUT_S)
    return sorted(name.decode() for name in raise_for_error(names))


def feed_group(endpoint: str) -> str:
    """Return the name of the group in which an endpoint reads the feed."""
    return f"webhooks.{endpoint}"


def _endpoints(family: str) -> str:
    return keys.name(f"{family}:endpoints")


class Letters:
    """Letters of one endpoint.

    All methods raise `Unavailable` if Redis does not answer, or refuses.
    """

    def __init__(self, redis: RedisPipeline, endpoint: str, family: str = WEBHOOKS) -> None:
        """Take the connection; makes no request."""
        self._redis, self._endpoint, self._names = redis, endpoint, _endpoints(family)
        self._letters, self._due, self._dead, self._owners = (
            keys.name(f"{family}:{{{endpoint}}}:{part}") for part in ("letters", "due", "dead", "owners")
        )

    async def store(self, letter: Letter) -> bool:
        """Keep a new letter, due at once; False if it was there already."""
        arguments = (letter.id, msgspec.json.encode(letter), self._endpoint)
        return bool(await self._run(Call(_STORE, [self._letters, self._due, self._names], arguments)))

    async def claim(self, most: int, lease_s: float) -> Claimed:
        """Lease at most so many letters that are due."""
        call = Call(_CLAIM, [self._letters, self._due, self._dead], (most, _ms(lease_s)))
        waiting, dead, next_ms, leased = await self._run(call)
        letters = [msgspec.json.decode(one, type=Letter) for one in leased]
        return Claimed(letters, waiting, dead, None if next_ms < 0 else next_ms / 1000)

    async def has(self, letter_id: str) -> bool:
        """Whether a letter waits, or is under way; a dead one does not."""
        (score,) = await self._redis.execute([("ZSCORE", self._due, letter_id)], timeout_s=_TIMEOUT_S)
        return raise_for_error(score) is not None

    async def done(self, letter: Letter) -> None:
        """Remove a letter that the endpoint took."""
        await self._settle(letter, "done", 0, 0)

    async def again(self, letter: Letter, pause_s: float) -> None:
        """Let a letter be sent again after the pause."""
        await self._settle(letter, "again", pause_s, 0)

    async def dead(self, letter: Letter, most: int) -> int:
        """Put a letter among the dead ones; return how many old ones went to make room."""
        return await self._settle(letter, "dead", 0, most)

    async def dead_ones(self) -> list[tuple[Letter, int]]:
        """Return the dead letters with the Unix ms of their last try, oldest first."""
        (found,) = await self._redis.execute([("ZRANGE", self._dead, 0, -1, "WITHSCORES")], timeout_s=_TIMEOUT_S)
        ids, times = raise_for_error(found)[::2], found[1::2]
        letters: list[tuple[Letter, int]] = []
        for start in range(0, len(ids), _AT_ONCE):
            command = ("HMGET", self._letters, *ids[start : start + _AT_ONCE])
            (texts,) = await self._redis.execute([command], timeout_s=_TIMEOUT_S)
            for text, ms in zip(raise_for_error(texts), times[start : start + _AT_ONCE], strict=True):
                if text is not None:
                    letters.append((msgspec.json.decode(text, type=Letter), int(float(ms))))
        return letters

    async def counts(self) -> tuple[int, int]:
        """Return how many letters wait or are under way, and how many are dead."""
        found = await self._redis.execute([("ZCARD", self._due), ("ZCARD", self._dead)], timeout_s=_TIMEOUT_S)
        waiting, dead = map(raise_for_error, found)
        return waiting, dead

    async def forget(self) -> tuple[int, int]:
        """Remove all letters of the endpoint, and its name; return what `counts` said.

        What is under way just now is sent, and what comes of it changes nothing.
        """
        counts = await self.counts()
        commands = [("DEL", self._letters, self._due, self._dead, self._owners), ("SREM", self._names, self._endpoint)]
        for reply in await self._redis.execute(commands, timeout_s=_TIMEOUT_S):
            raise_for_error(reply)
        return counts

    async def revive(self, letter: Letter) -> bool:
        """Make a dead letter due, with its id and events; False if it is not dead."""
        fresh = msgspec.structs.replace(letter, tries=0, error="")
        return await self._take_from_dead(letter, msgspec.json.encode(fresh))

    async def drop(self, letter: Letter) -> bool:
        """Remove a dead letter; False if it is not dead."""
        return await self._take_from_dead(letter, b"")

    async def _take_from_dead(self, letter: Letter, then: bytes) -> bool:
        call = Call(_REVIVE, [self._letters, self._due, self._dead, self._owners], (letter.id, then, letter.owner))
        return bool(await self._run(call))

    async def _settle(self, letter: Letter, outcome: str, pause_s: float, most: int) -> int:
        text = msgspec.json.encode(letter)
        arguments = (letter.id, outcome, text, _ms(pause_s), most, letter.owner, _DEAD_OF_OWNER)
        call = Call(_SETTLE, [self._letters, self._due, self._dead, self._owners], arguments)
        dropped: int = await self._run(call)
        return dropped

    async def _run(self, call: Call) -> Any:
        (result,) = await self._redis.run([call], timeout_s=_TIMEOUT_S)
        return raise_for_error(result)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
