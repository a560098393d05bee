"""What this edge acknowledged or delivered of `hot` logs in the last seconds: proof against a Redis that went back."""

from __future__ import annotations

import msgspec

KEPT_S = 10.0
MAX_CHANNELS = 50_000  # per half; beyond, new channels are not noted


class AcknowledgedPosition(msgspec.Struct, frozen=True, gc=False):
    """This publication has this place."""

    epoch: str
    offset: int
    publication_id: bytes


class AcknowledgedPositions:
    """The last receipt per channel, kept for 10 to 20 s. Two maps that take turns: no clock per entry."""

    def __init__(self) -> None:
        self._young: dict[str, AcknowledgedPosition] = {}
        self._old: dict[str, AcknowledgedPosition] = {}
        self._turned_at = 0.0

    def note(self, channel: str, epoch: str, offset: int, publication_id: bytes) -> None:
        """Remember it, unless a later one is known. `stored` logs have their own truth: their epochs have no dot."""
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
        """Forget what is too old; call at least every 10 s."""
        if now - self._turned_at >= KEPT_S:
            self._turned_at = now
            self._old, self._young = self._young, {}

    def of_generation(self, generation: int) -> list[tuple[str, AcknowledgedPosition]]:
        """Those that a log of this generation must still hold."""
        prefix = f"{generation}."
        latest = {**self._old, **self._young}
        return [(channel, position) for channel, position in latest.items() if position.epoch.startswith(prefix)]
