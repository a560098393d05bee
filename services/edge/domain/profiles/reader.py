"""Profiles of users as others see them, read from auth and kept by this edge.

**Purpose.** Applications show names and pictures beside what users write. An edge is asked for the same profiles again
and again, and must neither ask auth each time nor show an old profile for long.

**Rules.**

1. A profile that was read in the last 60 s is good; that a user has none is good for 5 s.
2. Everything else is read from auth: ids that are asked for at about the same time leave in one call, of 100 ids at
   most, and an id is in one call only. So of each user one read follows the other, and auth's stores read what was
   written: what is read later is never older.
3. `changed` says that a profile has a new version. An older one is dropped. A read that began before does not count
   unless it has brought that version, and is repeated.
4. If auth does not answer, what is known holds for 300 s since it was read. For the rest the error is `Unavailable`.
   Then auth is not asked for a second: whoever asks meanwhile does not wait.
5. A disabled user has no profile, as soon as this edge knows that the user is disabled.
6. `clear` forgets everything: changes may have been missed.

**Example.** Version 3 of a profile is known, and a read of it is under way after 60 s. Another edge changes it to
version 4, and `changed` arrives here before the read ends. The read brings version 3: it is repeated, and brings 4.

**Trade-offs.** An edge that is cut off from Redis, and so hears of no change, shows an old profile for 60 s at most, or
300 s if it is cut off from auth too. In return no change has to wait for it. A profile that is asked for all the time
costs a read a minute on each edge.

Decision: docs/decisions/0044-profiles-are-cached-by-edges.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.edge.domain.ports import AccountRefused
from services.edge.domain.profiles.cache import ProfileCache
from services.edge.domain.user_ports import User
from services.shared.batching.batcher import Batcher
from services.shared.batching.linger import Linger
from services.shared.errors import ThalamusError, Unavailable

logger = logging.getLogger(__name__)

MAX_PROFILES = 100  # users of one call
_LINGER_S = 0.005  # longest wait of a busy edge for more ids, seconds
_MAX_WAITING = 5_000  # ids
_IN_FLIGHT = 2  # calls at the same time
_DEADLINE_S = 2.9  # of an id, seconds: a call and what it waited for
_PAUSE_S = 1.0  # without calls after one that failed, seconds
HIT, MISS, STALE, FAILED = "hit", "miss", "stale", "failed"


class ProfileSource(Protocol):
    """Where profiles are read: a part of `Users` (`domain/user_ports.py`)."""

    async def profiles(self, users: Sequence[str]) -> Collection[User]:
        """Return those that others may see, of 100 users at most.

        Raises:
            Unavailable: auth does not answer.
            Busy: auth has too much to do.
        """


@dataclass(slots=True, eq=False)
class _Reading:
    """An id that is read, or waits for it."""

    user: str
    future: asyncio.Future[User | None]
    at_least: float = 0.0  # version that the read must bring to count; infinite: it does not

    def counts(self, profile: User | None) -> bool:
        return not self.at_least or (profile is not None and profile.version >= self.at_least)


class ProfileReader:
    """The profiles that this edge has read. One per edge."""

    def __init__(
        self,
        source: ProfileSource | None,
        now: Callable[[], float],
        is_disabled: Callable[[str], bool],
        cache: ProfileCache | None = None,
    ) -> None:
        """Take the source, a monotonic clock, and what tells disabled users.

        Without a source nobody has a profile.
        """
        self._source, self._now, self._is_disabled = source, now, is_disabled
        self._cache = ProfileCache() if cache is None else cache
        self._reading: dict[str, _Reading] = {}
        self._queue: Batcher[_Reading] | None = None  # made with the first read: it needs the event loop
        self._calls: set[asyncio.Task[None]] = set()
        self._again_at = -math.inf  # when auth is asked again, monotonic seconds
        self.on_changed: Callable[[str, int], None] = _nobody  # called with user and version of each change
        self.outcomes = dict.fromkeys((HIT, MISS, STALE, FAILED), 0)  # ids by where they were found

    def __len__(self) -> int:
        return len(self._cache)

    async def get(self, users: Iterable[str]) -> list[User]:
        """Return the profiles of those users that have one, in their order.

        Raises:
            Unavailable: auth does not answer, and of one of the users nothing is known that is new enough.
            Busy: auth, or this edge, has too much to do.
        """
        now = self._now()
        found: dict[str, User | None] = {}
        reads: dict[str, _Reading] = {}
        for user in dict.fromkeys(users):
            entry = None if self._is_disabled(user) else self._cache.find(user)
            if self._source is None or self._is_disabled(user):
                found[user] = None
            elif entry is not None and entry.is_fresh(now):
                self.outcomes[HIT] += 1
                found[user] = entry.profile
            elif now < self._again_at:
                found[user] = self._held(user, Unavailable("auth did not answer"))
            else:
                self.outcomes[MISS] += 1
                reads[user] = self._read(user)
                found[user] = None  # has its place in the order
        if reads:
            await asyncio.wait([reading.future for reading in reads.values()])
        for user, reading in reads.items():
            error = reading.future.exception()
            found[user] = reading.future.result() if error is None else self._held(user, error)
        return [profile for profile in found.values() if profile is not None]

    def changed(self, user: str, version: int = 0) -> None:
        """Drop what is older than this version of a profile; 0: whatever is known."""
        at_least = version or math.inf
        entry = self._cache.find(user)
        if entry is not None and (entry.profile is None or entry.profile.version < at_least):
            self._cache.drop(user)
        reading = self._reading.get(user)
        if reading is not None:
            reading.at_least = max(reading.at_least, at_least)
        self.on_changed(user, version)

    def clear(self) -> None:
        """Forget everybody: changes may have been missed."""
        self._cache.clear()
        for reading in self._reading.values():
            reading.at_least = math.inf

    def _held(self, user: str, error: BaseException) -> User | None:
        """Return what is known of a user while auth does not answer; else raise."""
        entry = self._cache.find(user)
        if entry is None or not entry.is_held(self._now()) or not isinstance(error, ThalamusError):
            self.outcomes[FAILED] += 1
            raise error
        self.outcomes[STALE] += 1
        return entry.profile

    def _read(self, user: str) -> _Reading:
        reading = self._reading.get(user)
        if reading is not None and not reading.future.done():
            return reading
        if self._queue is None:
            self._queue = Batcher[_Reading](
                self._flush,
                max_items=MAX_PROFILES,
                max_waiting=_MAX_WAITING,
                deadline_s=_DEADLINE_S,
                late=lambda: Unavailable("auth did not answer in time"),
                linger=Linger(_LINGER_S),
            )
        reading = _Reading(user, asyncio.get_running_loop().create_future())
        self._queue.put(reading)
        self._reading[user] = reading
        reading.future.add_done_callback(lambda _: self._ended(reading))
        return reading

    def _ended(self, reading: _Reading) -> None:
        if not reading.future.cancelled():
            reading.future.exception()  # asyncio logs one that nobody fetched, as when all who asked gave up
        if self._reading.get(reading.user) is reading:
            del self._reading[reading.user]

    def _flush(self) -> None:
        while self._queue is not None and len(self._calls) < _IN_FLIGHT and (batch := self._queue.take()):
            task = asyncio.get_running_loop().create_task(self._call(batch))
            self._calls.add(task)
            task.add_done_callback(self._called)

    def _called(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if self._queue is not None:
            self._queue.wake()

    async def _call(self, batch: list[_Reading]) -> None:
        if self._source is None or self._queue is None:
            return
        began = self._now()
        for reading in batch:
            reading.at_least = 0.0  # the read begins now, after all changes that are known
        try:
            users = await self._source.profiles([reading.user for reading in batch])
        except ThalamusError as error:
            if isinstance(error, Unavailable):
                self._again_at = self._now() + _PAUSE_S
            self._fail(batch, error)
            return
        except AccountRefused as error:
            self._fail(batch, ThalamusError(str(error), error.code, retry_after_s=error.retry_after_s))
            return
        except Exception:
            logger.exception("profiles can't be read")
            self._fail(batch, Unavailable("profiles can't be read"))
            return
        found = {user.id: user for user in users}
        again = []
        for reading in batch:
            if reading.future.done():
                continue  # too late: another read may have begun
            profile = found.get(reading.user)
            if reading.counts(profile):
                self._cache.put(reading.user, profile, began)
                reading.future.set_result(profile)
            else:
                again.append(reading)
        self._queue.put_back(again)

    def _fail(self, batch: list[_Reading], error: ThalamusError) -> None:
        for reading in batch:
            if not reading.future.done():
                reading.future.set_exception(error)


def _nobody(_user: str, _version: int) -> None:
    """Take a change of which nobody wants to know."""
