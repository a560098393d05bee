"""Profiles in memory, those used last; the module `reader` has the design."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import NamedTuple

from services.edge.domain.user_ports import User

FRESH_S = 60.0  # how long a profile is good without being read again, seconds
ABSENT_S = 5.0  # how long a user counts as absent, seconds: who is new is seen soon
HELD_S = 300.0  # how long either is good while auth does not answer, seconds
_MAX_BYTES = 16_777_216  # of all profiles
_MAX_ABSENT_BYTES = 2_097_152  # of all ids without a profile
_OVERHEAD_BYTES = 400  # memory of an entry beside its texts, estimated


class Entry(NamedTuple):
    """What is known of a user. `profile` None: others see none.

    `read_at`: when the read began, monotonic seconds.
    """

    profile: User | None
    read_at: float
    size: int

    def is_fresh(self, now: float) -> bool:
        """Whether it is good though nobody asks auth again."""
        return now - self.read_at <= (ABSENT_S if self.profile is None else FRESH_S)

    def is_held(self, now: float) -> bool:
        """Whether it is good while auth does not answer."""
        return now - self.read_at <= HELD_S


class ProfileCache:
    """Least-recently-used cache, bounded in bytes.

    Ids without a profile have a bound of their own: whoever asks for many of them removes no profile.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES, max_absent_bytes: int = _MAX_ABSENT_BYTES) -> None:
        self._present = _Bounded(max_bytes)
        self._absent = _Bounded(max_absent_bytes)

    def __len__(self) -> int:
        """How many profiles are held."""
        return len(self._present.entries)

    def find(self, user: str) -> Entry | None:
        """Return what is known of a user, however old."""
        return self._present.find(user) or self._absent.find(user)

    def put(self, user: str, profile: User | None, read_at: float) -> None:
        """Keep what a read has found; `read_at`: when it began."""
        self.drop(user)
        texts = () if profile is None else _texts(profile)
        size = sum(map(sys.getsizeof, (user, *texts))) + _OVERHEAD_BYTES
        (self._absent if profile is None else self._present).put(user, Entry(profile, read_at, size))

    def drop(self, user: str) -> None:
        """Forget a user."""
        self._present.drop(user)
        self._absent.drop(user)

    def clear(self) -> None:
        """Forget everybody."""
        self._present.clear()
        self._absent.clear()


class _Bounded:
    def __init__(self, max_bytes: int) -> None:
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self._max_bytes, self._bytes = max_bytes, 0

    def find(self, user: str) -> Entry | None:
        entry = self.entries.get(user)
        if entry is not None:
            self.entries.move_to_end(user)
        return entry

    def put(self, user: str, entry: Entry) -> None:
        self.entries[user] = entry
        self._bytes += entry.size
        while self._bytes > self._max_bytes:
            _, oldest = self.entries.popitem(last=False)
            self._bytes -= oldest.size

    def drop(self, user: str) -> None:
        if (entry := self.entries.pop(user, None)) is not None:
            self._bytes -= entry.size

    def clear(self) -> None:
        self.entries.clear()
        self._bytes = 0


def _texts(profile: User) -> tuple[str | bytes, ...]:
    return (
        *(profile.id, profile.username, profile.display_name),
        *(profile.avatar_url, profile.status, profile.custom),
    )
