"""Tells the notifier whose markers moved, so that it takes notifications back.

The notifier looks by itself at what devices show, but rarely. A marker that moved makes the look due now. It is one
command for many markers, which changes nothing where no notification is shown. If it is lost, the notifier finds out
later (`services/persistence/notifier/timers.py`).
"""

from __future__ import annotations

import asyncio

from services.persistence.chat.markers.record import Marker
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 2.0  # longest round trip, seconds
_PAUSE_S = 0.2  # in which markers are gathered
_AT_ONCE = 500  # markers of one command
_MOST = 10_000  # that wait; beyond, they are left out


class ShownMarks:
    """Gathers markers that moved, and tells of them."""

    def __init__(self, redis: RedisPipeline) -> None:
        """Take the connection; `run` uses it."""
        self._redis = redis
        self._moved: dict[str, None] = {}
        self._wake = asyncio.Event()

    def moved(self, user: str, channel: str, _marker: Marker) -> None:
        """Note that a marker moved."""
        if len(self._moved) < _MOST:
            self._moved[f"{channel} {user}"] = None
            self._wake.set()

    async def run(self) -> None:
        """Tell the notifier, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_PAUSE_S)
            self._wake.clear()
            await self.tell()

    async def tell(self) -> None:
        """Tell what was noted; what Redis does not take is left out."""
        names, self._moved = list(self._moved), {}
        for start in range(0, len(names), _AT_ONCE):
            command: list[str | bytes | int] = ["ZADD", keys.push("watch"), "XX", "LT"]
            for name in names[start : start + _AT_ONCE]:
                command += [0, name]
            try:
                await self._redis.execute([tuple(command)], timeout_s=_TIMEOUT_S)
            except Unavailable:
                return
