"""How much of a channel Redis keeps, as edges say it."""

from __future__ import annotations

_DEFAULT_SIZE = 1_000  # `history_size` of channels for which no edge has named one
_MAX_REMEMBERED = 200_000  # channels


class HistorySizes:
    """Last `history_size` that an edge named for each channel.

    Sweeps and comparisons commit without a request of an edge, and need the size too.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def remember(self, channel: str, history_size: int) -> None:
        """Note the size; at 200,000 channels all that was noted is forgotten."""
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[channel] = history_size

    def of(self, channel: str) -> int:
        """Number of publications that Redis keeps of the channel; 1,000 if unknown."""
        return self._known.get(channel, _DEFAULT_SIZE)
