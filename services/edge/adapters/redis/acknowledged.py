"""Acknowledged positions: what this edge acknowledged or delivered of `hot` logs.

They cover the last 10 to 20 seconds. A Redis without one of them has lost data (see `incarnation.py`).
"""

from __future__ import annotations

import msgspec

KEPT_S = 10.0  # shortest time that a position is kept, seconds; the longest is twice that
MAX_CHANNELS = 50_000  # positions per map; beyond, other channels are not noted


class AcknowledgedPosition(msgspec.Struct, frozen=True, gc=False):
    """One publication and its position in the log."""

    epoch: str
    offset: int
    publication_id: bytes


class AcknowledgedPositions:
    """The last acknowledged position of each channel, kept for 10 to 20 s.

    There are two maps. Every 10 s the older one is discarded, so that no entry needs a time of its own.
    """

    def __init__(self) -> None:
        self._young: dict[str, AcknowledgedPosition] = {}
        self._old: dict[str, AcknowledgedPosition] = {}
        self._turned_at = 0.0

    def note(self, channel: str, epoch: str, offset: int, publication_id: bytes) -> None:
        """Remember a position, unless a later one of the channel is known.

        Positions of `stored` logs are ignored: the store proves those. Only epochs of `hot` logs contain a dot.
        """
        if "." not in epoch:
            return
        known = self._young.get(channel)
        if known is not None:
            if known.epoch == epoch and known.offset >= offset:
                return
        elif len(self._young) >= MAX_CHANNELS:
            return
        self._young[channel] = AcknowledgedPosition(epoch, offset, publication_id)

    def turn(self, now: float) -> None:
        """Discard the older map if it is due; call this at least every 10 s."""
        if now - self._turned_at >= KEPT_S:
            self._turned_at = now
            self._old, self._young = self._young, {}

    def of_generation(self, generation: int) -> list[tuple[str, AcknowledgedPosition]]:
        """Return (channel, position) of all that logs of this generation must hold."""
        prefix = f"{generation}."
        latest = {**self._old, **self._young}
        return [(channel, position) for channel, position in latest.items() if position.epoch.startswith(prefix)]
